/*
 * What the agent's code asks of the rest of a site when it works on the index: a store on the
 * simulated disk, and a few calls of its neighbours.
 */
#include <stdlib.h>
#include <string.h>

#include "lmdb_file.h"
#include "merge_kills.h"
#include "site/index/index_internal.h"
#include "site/site_volume.h"

struct kills_volume *kills_volume_of(struct kills_world *w, const char *name)
{
    for (size_t i = 0; i < w->volume_count; i++) {
        if (strcmp(w->volumes[i].site->name, name) == 0)
            return &w->volumes[i];
    }
    return NULL;
}

/* --- what the agent's sources want of the rest of it ----------------------------------------- */

void repl_log(int level, const char *format, ...)
{
    (void)level, (void)format;
}

/* LMDB's pages, of which there are none. */
repl_result repl_index_examine(const char *path, struct repl_error *err)
{
    (void)path, (void)err;
    return REPL_SUCCESS;
}

int repl_lmdb_error(const char *path, int error)
{
    (void)path;
    return error;
}

int repl_lmdb_length_check(MDB_env *env)
{
    (void)env;
    return 0;
}

struct site_volume *site_find_volume(const struct repl_site *site, const char *name)
{
    struct site_volume *v = site->volumes;
    while (v != NULL && strcmp(v->name, name) != 0)
        v = v->next;
    return v;
}

static repl_result stored_read_at(void *segment, uint64_t offset, void *out, size_t size,
                                  struct repl_error *err)
{
    struct repl_stored_segment *stored = segment;
    return stored->read_at(stored, offset, out, size, err);
}

repl_result repl_store_open_segment(struct repl_store *of, const char *volume,
                                    const struct repl_segment_id *id, uint64_t size,
                                    struct repl_stored_segment **file,
                                    struct repl_segment **segment, struct repl_error *err)
{
    REPL_TRY(of->ops->segment_open(of, volume, id, size, file, err));
    repl_result result = repl_segment_open(stored_read_at, *file, (*file)->size, segment, err);
    if (!repl_ok(result))
        (*file)->close(*file);
    return result;
}

/* --- the store ------------------------------------------------------------------------------- */

struct open_file {
    struct repl_stored_segment segment;
    const struct sim_inode *inode;
};

static struct {
    struct repl_store store;
    struct kills_world *w;
} store;

void kills_id_name(const struct repl_segment_id *id, char name[SIM_NAME_SIZE])
{
    if (id->supply == 0)
        kills_name(id->to_seq, id->part, id->merge, name);
    else
        snprintf(name, SIM_NAME_SIZE, "%llu.%u.s%u", (unsigned long long)id->to_seq, id->part,
                 id->supply);
}

bool kills_id_parse(const char *name, struct repl_segment_id *id)
{
    unsigned long long to_seq, merge;
    unsigned part, supply;
    *id = (struct repl_segment_id){0};
    if (sscanf(name, "%llu.%u.s%u", &to_seq, &part, &supply) == 3)
        id->supply = supply;
    else if (sscanf(name, "%llu.%u.%llu", &to_seq, &part, &merge) == 3)
        id->merge = merge;
    else
        return false;
    id->to_seq = to_seq;
    id->part = part;
    return true;
}

static repl_result file_read_at(struct repl_stored_segment *segment, uint64_t offset, void *out,
                                size_t size, struct repl_error *err)
{
    const struct repl_buffer *bytes = &((struct open_file *)segment)->inode->cached;
    if (offset > bytes->size || size > bytes->size - offset)
        return repl_fail(err, REPL_E_CORRUPT, "the file ends before that");
    if (size > 0)
        memcpy(out, bytes->data + offset, size);
    return REPL_SUCCESS;
}

static void file_close(struct repl_stored_segment *segment)
{
    free(segment);
}

static repl_result segment_open(struct repl_store *s, const char *volume,
                                const struct repl_segment_id *id, uint64_t size,
                                struct repl_stored_segment **out, struct repl_error *err)
{
    struct kills_volume *v = kills_volume_of(store.w, volume);
    char name[SIM_NAME_SIZE];
    (void)s, (void)size;
    kills_id_name(id, name);
    const struct sim_inode *inode = sim_disk_open(&v->disk, name);
    if (inode == NULL)
        return repl_fail(err, REPL_E_MISSING, "segment %s is not there", name);
    if (v->refilling)
        v->w->meanwhile(v->w);
    struct open_file *file = sim_alloc(sizeof *file);
    *file = (struct open_file){.segment = {.size = inode->cached.size,
                                           .fd = -1,
                                           .read_at = file_read_at,
                                           .close = file_close},
                               .inode = inode};
    *out = &file->segment;
    return REPL_SUCCESS;
}

static repl_result segments(struct repl_store *s, const char *volume, repl_segment_visit_fn *visit,
                            void *context, struct repl_error *err)
{
    const struct sim_directory *names = &kills_volume_of(store.w, volume)->disk.cached;
    (void)s;
    for (size_t i = 0; i < names->count; i++) {
        struct repl_segment_id id;
        if (kills_id_parse(names->names[i].text, &id))
            REPL_TRY(visit(context, &id, names->names[i].inode->cached.size, err));
    }
    return REPL_SUCCESS;
}

static repl_result log_read(struct repl_store *s, const char *volume, struct repl_buffer *out,
                            uint64_t *begin, struct repl_error *err)
{
    const struct sim_inode *log = sim_disk_open(&kills_volume_of(store.w, volume)->disk, "log");
    (void)s;
    *begin = 0;
    out->size = 0;
    return log == NULL ? REPL_SUCCESS
                       : repl_buffer_append(out, log->cached.data, log->cached.size, err);
}

static const struct repl_store_ops store_ops = {
    .name = "sim", .segments = segments, .segment_open = segment_open, .log_read = log_read};

struct repl_store *kills_store(struct kills_world *w)
{
    store.w = w;
    store.store.ops = &store_ops;
    return &store.store;
}
