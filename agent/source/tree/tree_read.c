/* Pages of a tree's space, read from the files they belong to. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "source/tree/tree_content.h"
#include "source/tree/tree_internal.h"

struct file {
    uint64_t object; /* 0: none */
    int fd;          /* -1: it is gone */
    bool held;       /* by the tree */
    uint64_t size;   /* when it was looked at */
};

static void file_close(struct file *file)
{
    if (file->object != 0 && file->fd >= 0 && !file->held)
        close(file->fd);
    file->object = 0;
}

static repl_result file_open(struct repl_tree *tree, struct repl_tree_txn *txn, uint64_t object,
                             struct file *file, struct repl_error *err)
{
    struct repl_tree_object o;
    bool found;
    if (file->object == object)
        return REPL_SUCCESS;
    file_close(file);
    REPL_TRY(repl_tree_object_get(txn, object, &o, &found, err));
    repl_result result = {REPL_E_MISSING};
    file->size = found ? o.node.size : 0;
    file->fd = found ? repl_tree_held_fd(&tree->held, object) : -1;
    file->held = file->fd >= 0;
    if (file->held)
        result = REPL_SUCCESS;
    else if (found)
        result = repl_tree_handle_open(repl_tree_root_now(tree), &o.handle, 0, &file->fd, err);
    if (!repl_ok(result) && result.code != REPL_E_MISSING)
        return result;
    if (!repl_ok(result)) {
        if (tree->in_copy) /* a file that is there, and nowhere to be read, is not zeros */
            REPL_TRY(repl_tree_snapshot_check(&tree->copy, err));
        file->fd = -1;
        atomic_store(&tree->torn, true);
    }
    file->object = object;
    return REPL_SUCCESS;
}

/* All of it; zeros behind the end that the file had when it was looked at, whatever is there by
 * now: the site is told of that end. */
static repl_result file_read(struct repl_tree *tree, const struct file *file, uint64_t offset,
                             uint8_t *to, size_t size, struct repl_error *err)
{
    size_t done = 0, within = 0;
    if (offset < file->size)
        within = file->size - offset < size ? (size_t)(file->size - offset) : size;
    while (file->fd >= 0 && done < within) {
        ssize_t got = pread(file->fd, to + done, within - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return repl_fail_errno(err, REPL_E_IO, errno,
                                   "%s: reading a file in it; look for the disk's errors in the "
                                   "kernel log",
                                   tree->root.path);
        if (got == 0)
            break;
        done += (size_t)got;
    }
    memset(to + done, 0, size - done);
    return REPL_SUCCESS;
}

static repl_result value_read(struct repl_tree_txn *txn, const struct repl_tree_block *block,
                              uint64_t offset, uint8_t *to, size_t size, struct repl_error *err)
{
    struct repl_tree_attribute attribute;
    struct repl_tree_key key = {0};
    MDB_val value;
    bool found;
    memset(to, 0, size);
    repl_tree_key_u64(&key, block->object);
    REPL_TRY(repl_tree_get(txn, REPL_TREE_ATTRIBUTE, &key, &value, &found, err));
    for (size_t at = 0;
         found && repl_tree_attribute_next(value.mv_data, value.mv_size, &at, &attribute);) {
        if (attribute.place != block->place || attribute.value_size <= REPL_XATTR_INLINE_MAX ||
            attribute.value_size <= offset)
            continue;
        size_t left = attribute.value_size - (size_t)offset;
        memcpy(to, attribute.value + offset, left < size ? left : size);
        break;
    }
    return REPL_SUCCESS;
}

/* One piece's part of what is wanted; *done: so many bytes. */
static repl_result piece_read(struct repl_tree *tree, struct repl_tree_txn *txn, uint64_t place,
                              uint8_t *to, size_t size, struct file *file, size_t *done,
                              struct repl_error *err)
{
    struct repl_tree_block block;
    bool found;
    *done = size;
    REPL_TRY(repl_tree_place_find(txn, place, &block, &found, err));
    if (!found || block.place >= place + size) {
        memset(to, 0, size);
        return REPL_SUCCESS;
    }
    if (block.place > place) {
        *done = (size_t)(block.place - place);
        memset(to, 0, *done);
        return REPL_SUCCESS;
    }
    uint64_t within = place - block.place;
    if (block.size - within < size)
        *done = (size_t)(block.size - within);
    if (block.is_value != 0)
        return value_read(txn, &block, within, to, *done, err);
    REPL_TRY(file_open(tree, txn, block.object, file, err));
    return file_read(tree, file, block.offset + within, to, *done, err);
}

repl_result repl_tree_read(struct repl_tree *tree, uint64_t page, uint32_t count, uint8_t *to,
                           struct repl_error *err)
{
    struct repl_tree_txn txn;
    struct file file = {0};
    uint64_t place = page * REPL_PAGE_SIZE;
    size_t size = (size_t)count * REPL_PAGE_SIZE, done;
    REPL_TRY(repl_tree_begin(tree->index, false, &txn, err));
    repl_result result = REPL_SUCCESS;
    for (size_t at = 0; repl_ok(result) && at < size; at += done)
        result = piece_read(tree, &txn, place + at, to + at, size - at, &file, &done, err);
    file_close(&file);
    repl_tree_abort(&txn);
    return result;
}
