/*
 * The names and metadata of a tree come out of a plan (tree_plan.h), which has
 * been resolved: what no name leads to, and a second name of a directory, is
 * left out here as it is of a restore. Contents come out of the view of the
 * space.
 */
#include <string.h>

#include "recover/point_internal.h"
#include "recover/restore_progress.h"
#include "recover/tree_plan_fill.h"

/* --- opening --------------------------------------------------------------------------------- */

static void fault_tell(void *context, struct repl_tree_reader *reader,
                       const struct repl_tree_place *place, const struct repl_error *err)
{
    const struct repl_point_options *options = context;
    char path[REPL_TREE_PATH_SIZE];
    if (options->fault == NULL)
        return;
    repl_tree_path(reader, place, path);
    options->fault(options->context, path, err);
}

repl_result repl_point_tree_open(struct repl_point_reader *reader,
                                 const struct repl_point_options *options, struct repl_error *err)
{
    struct repl_tree_totals totals;
    struct repl_point_options told = *options;
    REPL_TRY(repl_restore_state_make(options->state, err));
    REPL_TRY(repl_tree_plan_new(options->state, &reader->plan, err));
    const char *path = options->path != NULL ? options->path : "";
    REPL_TRY(repl_tree_plan_fill(options->history, options->point, reader->view, path, reader->plan,
                                 err));
    return repl_tree_plan_resolve(reader->plan, path, fault_tell, &told, &totals, err);
}

/* --- names ----------------------------------------------------------------------------------- */

/* What the name leads to, if that is something: of a directory only its first name does. */
static repl_result name_judge(struct repl_tree_reader *tree, uint64_t directory, const char *name,
                              size_t name_size, uint64_t child, struct repl_node *node, bool *is,
                              struct repl_error *err)
{
    struct repl_tree_place place;
    *is = false;
    if (child == REPL_OBJECT_ROOT)
        return REPL_SUCCESS;
    REPL_TRY(repl_tree_where(tree, child, &place, is, err));
    if (*is)
        REPL_TRY(repl_tree_node(tree, child, node, is, err));
    if (*is && node->kind == REPL_NODE_DIRECTORY)
        *is = place.parent == directory && place.name_size == name_size &&
              memcmp(place.name, name, name_size) == 0;
    return REPL_SUCCESS;
}

static repl_result lookup(struct repl_tree_reader *tree, uint64_t directory, const char *name,
                          size_t name_size, uint64_t *object, struct repl_error *err)
{
    struct repl_node node;
    bool is = false;
    uint64_t child = 0;
    if (name_size <= REPL_NAME_MAX)
        REPL_TRY(repl_tree_child(tree, directory, name, name_size, &child, err));
    if (child != 0)
        REPL_TRY(name_judge(tree, directory, name, name_size, child, &node, &is, err));
    *object = is ? child : 0;
    return REPL_SUCCESS;
}

repl_result repl_point_lookup(struct repl_point_reader *reader, uint64_t directory,
                              const char *name, size_t name_size, uint64_t *object,
                              struct repl_error *err)
{
    struct repl_point_seat *seat;
    REPL_TRY(repl_point_seat_take(reader, REPL_POINT_ANYWHERE, &seat, err));
    repl_result result = lookup(seat->tree, directory, name, name_size, object, err);
    repl_point_seat_give(reader, seat, seat->at);
    return result;
}

repl_result repl_point_find(struct repl_point_reader *reader, const char *path, uint64_t *object,
                            struct repl_error *err)
{
    *object = REPL_OBJECT_ROOT;
    for (const char *at = path;;) {
        at += strspn(at, "/");
        size_t size = strcspn(at, "/");
        if (size == 0)
            return REPL_SUCCESS;
        if (size != 1 || *at != '.')
            REPL_TRY(repl_point_lookup(reader, *object, at, size, object, err));
        if (*object == 0)
            return repl_fail(err, REPL_E_MISSING, "the point has no %s", path);
        at += size;
    }
}

static repl_result list(struct repl_tree_reader *tree, uint64_t directory,
                        struct repl_point_walk *walk, struct repl_point_name *out, bool *found,
                        struct repl_error *err)
{
    struct repl_tree_key key = {.object = directory,
                                .type = REPL_RECORD_NAME,
                                .offset = walk->offset,
                                .index = walk->index};
    for (;;) {
        struct repl_record record;
        struct repl_node node;
        bool is;
        REPL_TRY(repl_tree_next(tree, &key, &record, found, err));
        if (!*found)
            return REPL_SUCCESS;
        REPL_TRY(name_judge(tree, directory, record.name, record.name_size, record.child, &node,
                            &is, err));
        walk->offset = key.offset;
        walk->index = key.index;
        if (!is)
            continue;
        *out = (struct repl_point_name){record.name, record.name_size, record.child, node.kind};
        return REPL_SUCCESS;
    }
}

repl_result repl_point_list(struct repl_point_reader *reader, uint64_t directory,
                            struct repl_point_walk *walk, struct repl_point_name *out, bool *found,
                            struct repl_error *err)
{
    struct repl_point_seat *seat;
    REPL_TRY(repl_point_seat_take(reader, REPL_POINT_ANYWHERE, &seat, err));
    repl_result result = list(seat->tree, directory, walk, out, found, err);
    repl_point_seat_give(reader, seat, seat->at);
    return result;
}

/* --- metadata -------------------------------------------------------------------------------- */

static repl_result links_count(struct repl_tree_reader *tree, uint64_t object, uint64_t *links,
                               struct repl_error *err)
{
    struct repl_tree_place place;
    bool found;
    *links = 1;
    for (uint64_t at = object, index = 0;; (*links)++) {
        REPL_TRY(repl_tree_link_next(tree, &at, &index, &place, &found, err));
        if (!found || at != object)
            return REPL_SUCCESS;
    }
}

static repl_result data_count(struct repl_tree_reader *tree, struct repl_point_node *out,
                              struct repl_error *err)
{
    struct repl_tree_key key = {.object = out->object, .type = REPL_RECORD_RUN};
    out->data_bytes = 0;
    for (;;) {
        struct repl_record run;
        bool found;
        REPL_TRY(repl_tree_next(tree, &key, &run, &found, err));
        if (!found)
            return REPL_SUCCESS;
        out->data_bytes += run.length;
    }
}

static repl_result node_get(struct repl_tree_reader *tree, uint64_t object,
                            struct repl_point_node *out, struct repl_error *err)
{
    struct repl_tree_place place = {.parent = REPL_OBJECT_ROOT};
    bool found = true;
    *out = (struct repl_point_node){.object = object, .links = 1};
    if (object != REPL_OBJECT_ROOT)
        REPL_TRY(repl_tree_where(tree, object, &place, &found, err));
    if (found)
        REPL_TRY(repl_tree_node(tree, object, &out->node, &found, err));
    if (!found)
        return repl_fail(err, REPL_E_MISSING, "the point has no object %llu",
                         (unsigned long long)object);
    out->parent = place.parent;
    if (out->node.kind != REPL_NODE_DIRECTORY)
        REPL_TRY(links_count(tree, object, &out->links, err));
    return out->node.kind == REPL_NODE_FILE ? data_count(tree, out, err) : REPL_SUCCESS;
}

repl_result repl_point_node(struct repl_point_reader *reader, uint64_t object,
                            struct repl_point_node *out, struct repl_error *err)
{
    struct repl_point_seat *seat;
    REPL_TRY(repl_point_seat_take(reader, REPL_POINT_ANYWHERE, &seat, err));
    repl_result result = node_get(seat->tree, object, out, err);
    repl_point_seat_give(reader, seat, seat->at);
    return result;
}

repl_result repl_point_attributes(struct repl_point_reader *reader, uint64_t object,
                                  struct repl_point_walk *walk, struct repl_point_attribute *out,
                                  bool *found, struct repl_error *err)
{
    struct repl_tree_key key = {
        .object = object, .type = REPL_RECORD_XATTR, .offset = walk->offset, .index = walk->index};
    struct repl_point_seat *seat;
    struct repl_record record;
    REPL_TRY(repl_point_seat_take(reader, REPL_POINT_ANYWHERE, &seat, err));
    repl_result result = repl_tree_next(seat->tree, &key, &record, found, err);
    repl_point_seat_give(reader, seat, seat->at);
    if (!repl_ok(result) || !*found)
        return result;
    *walk = (struct repl_point_walk){key.offset, key.index};
    *out = (struct repl_point_attribute){record.name, record.name_size, record.value,
                                         record.value_size, record.place};
    return REPL_SUCCESS;
}

repl_result repl_point_attribute_read(struct repl_point_reader *reader,
                                      const struct repl_point_attribute *attribute, void *out,
                                      struct repl_error *err)
{
    if (attribute->value == NULL && attribute->value_size > 0)
        return repl_point_read(reader, attribute->place, out, attribute->value_size, err);
    if (attribute->value_size > 0)
        memcpy(out, attribute->value, attribute->value_size);
    return REPL_SUCCESS;
}

/* --- contents -------------------------------------------------------------------------------- */

/* A stretch of a file that lies in one piece in the space, or is a hole. */
struct stretch {
    uint64_t size;
    uint64_t place;
    bool hole; /* no run, or one that is all zeros by the manifests */
};

static repl_result file_size(struct repl_tree_reader *tree, uint64_t object, uint64_t *size,
                             struct repl_error *err)
{
    struct repl_node node;
    bool found;
    REPL_TRY(repl_tree_node(tree, object, &node, &found, err));
    if (!found || node.kind != REPL_NODE_FILE)
        return repl_fail(err, REPL_E_MISSING, "the point has no file %llu",
                         (unsigned long long)object);
    *size = node.size;
    return REPL_SUCCESS;
}

/* From offset on, at most limit bytes. */
static repl_result stretch_at(const struct repl_point_reader *reader, struct repl_tree_reader *tree,
                              uint64_t object, uint64_t offset, uint64_t limit, struct stretch *out,
                              struct repl_error *err)
{
    struct repl_record run;
    bool found;
    REPL_TRY(repl_tree_run_at(tree, object, offset, &run, &found, err));
    *out = (struct stretch){.size = limit, .hole = true};
    if (!found)
        return REPL_SUCCESS;
    if (run.offset > offset) {
        out->size = run.offset - offset < limit ? run.offset - offset : limit;
        return REPL_SUCCESS;
    }
    uint64_t skip = offset - run.offset, left = run.length - skip;
    out->place = run.place + skip;
    out->size =
        repl_view_stretch(reader->view, out->place, left < limit ? left : limit, &out->hole);
    return REPL_SUCCESS;
}

static repl_result file_read(struct repl_point_reader *reader, struct repl_point_seat *seat,
                             uint64_t object, uint64_t offset, uint8_t *out, size_t size,
                             struct repl_error *err)
{
    while (size > 0) {
        struct stretch stretch;
        REPL_TRY(stretch_at(reader, seat->tree, object, offset, size, &stretch, err));
        size_t part = (size_t)stretch.size;
        if (stretch.hole)
            memset(out, 0, part);
        else
            REPL_TRY(repl_view_read(seat->view, stretch.place, out, part, err));
        offset += part;
        out += part;
        size -= part;
    }
    return REPL_SUCCESS;
}

/* Where in the space it begins, so that a seat is found that has been there. */
static repl_result place_guess(struct repl_point_reader *reader, uint64_t object, uint64_t offset,
                               size_t *size, uint64_t *place, struct repl_error *err)
{
    struct repl_point_seat *seat;
    struct stretch stretch = {0};
    uint64_t end = 0;
    REPL_TRY(repl_point_seat_take(reader, REPL_POINT_ANYWHERE, &seat, err));
    repl_result result = file_size(seat->tree, object, &end, err);
    if (repl_ok(result)) {
        uint64_t left = offset < end ? end - offset : 0;
        *size = left < *size ? (size_t)left : *size;
        if (*size > 0)
            result = stretch_at(reader, seat->tree, object, offset, *size, &stretch, err);
    }
    repl_point_seat_give(reader, seat, seat->at);
    *place = stretch.place;
    return result;
}

repl_result repl_point_file_read(struct repl_point_reader *reader, uint64_t object, uint64_t offset,
                                 void *out, size_t size, size_t *got, struct repl_error *err)
{
    struct repl_point_seat *seat;
    uint64_t place;
    *got = 0;
    REPL_TRY(place_guess(reader, object, offset, &size, &place, err));
    if (size == 0)
        return REPL_SUCCESS;
    REPL_TRY(repl_point_seat_take(reader, place, &seat, err));
    repl_result result = file_read(reader, seat, object, offset, out, size, err);
    repl_point_seat_give(reader, seat, place + size);
    if (repl_ok(result))
        *got = size;
    return result;
}

static repl_result file_seek(const struct repl_point_reader *reader, struct repl_tree_reader *tree,
                             uint64_t object, uint64_t offset, bool data, uint64_t *at,
                             struct repl_error *err)
{
    uint64_t end = 0;
    REPL_TRY(file_size(tree, object, &end, err));
    while (offset < end) {
        struct stretch stretch;
        REPL_TRY(stretch_at(reader, tree, object, offset, end - offset, &stretch, err));
        if (stretch.hole != data)
            break;
        offset += stretch.size;
    }
    *at = offset < end ? offset : end;
    return REPL_SUCCESS;
}

repl_result repl_point_file_seek(struct repl_point_reader *reader, uint64_t object, uint64_t offset,
                                 bool data, uint64_t *at, struct repl_error *err)
{
    struct repl_point_seat *seat;
    REPL_TRY(repl_point_seat_take(reader, REPL_POINT_ANYWHERE, &seat, err));
    repl_result result = file_seek(reader, seat->tree, object, offset, data, at, err);
    repl_point_seat_give(reader, seat, seat->at);
    return result;
}
