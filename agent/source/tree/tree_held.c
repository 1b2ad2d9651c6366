#include "source/tree/tree_held.h"

#include <unistd.h>

#include "base/hash.h"

#define END_SIZE REPL_CHUNK_SIZE

static uint64_t end_from(uint64_t size)
{
    return size > END_SIZE ? (size - END_SIZE) / REPL_PAGE_SIZE * REPL_PAGE_SIZE : 0;
}

/* Of a file that was so large; what is not there is as zeros. */
static uint64_t end_hash(int fd, uint64_t size)
{
    uint8_t bytes[END_SIZE + REPL_PAGE_SIZE] = {0};
    uint64_t from = end_from(size);
    if (pread(fd, bytes, (size_t)(size - from), (off_t)from) < 0)
        return 0;
    return repl_xxh3(bytes, (size_t)(size - from));
}

/* Where in the list; count: it is not there. */
static unsigned find(const struct repl_tree_held *held, uint64_t object)
{
    unsigned i = 0;
    while (i < held->count && held->files[i].object != object)
        i++;
    return i;
}

void repl_tree_hold(struct repl_tree_held *held, const struct repl_tree_object *object, int path_fd)
{
    unsigned i = find(held, object->object);
    if (object->node.kind != REPL_NODE_FILE || object->mount || i == REPL_TREE_HELD_MAX)
        return;
    if (i == held->count) {
        int fd = repl_tree_object_reopen(path_fd);
        if (fd < 0)
            return;
        held->files[held->count].object = object->object;
        held->files[held->count++].fd = fd;
    }
    held->files[i].end = end_hash(held->files[i].fd, object->node.size);
}

int repl_tree_held_fd(const struct repl_tree_held *held, uint64_t object)
{
    unsigned i = find(held, object);
    return i < held->count ? held->files[i].fd : -1;
}

bool repl_tree_held_end_is_same(const struct repl_tree_held *held,
                                const struct repl_tree_object *object, uint64_t *from)
{
    unsigned i = find(held, object->object);
    *from = end_from(object->node.size);
    return i < held->count && held->files[i].end == end_hash(held->files[i].fd, object->node.size);
}

void repl_tree_held_close(struct repl_tree_held *held)
{
    while (held->count > 0)
        close(held->files[--held->count].fd);
}
