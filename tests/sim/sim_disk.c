#include "sim.h"

#include <stdlib.h>
#include <string.h>

/*
 * A disk behind a page cache. A file is what was written (cached) and what a
 * power cut would leave (durable); sectors of 512 bytes go from one to the
 * other at a sync, or at a power cut each by its own luck, in no order. Names
 * go over at a sync of the directory, or at a power cut up to some point of the
 * order in which they were changed, as a journaling filesystem has it.
 *
 * A sync that fails has written some sectors and forgotten about the others:
 * they count as clean and read as new until the cache is gone.
 *
 * Inodes live as long as the disk: an open file needs its name no more.
 */

void sim_disk_init(struct sim_disk *disk, struct sim *sim)
{
    *disk = (struct sim_disk){.sim = sim};
}

static void inode_free(struct sim_inode *inode)
{
    repl_buffer_fini(&inode->cached);
    repl_buffer_fini(&inode->durable);
    free(inode->dirty);
    free(inode);
}

void sim_disk_fini(struct sim_disk *disk)
{
    for (size_t i = 0; i < disk->inode_count; i++)
        inode_free(disk->inodes[i]);
    free(disk->inodes);
    free(disk->renames);
    free(disk->cached.names);
    free(disk->durable.names);
    *disk = (struct sim_disk){.sim = disk->sim};
}

/* --- names ----------------------------------------------------------------------------------- */

static struct sim_name *name_find(const struct sim_directory *directory, const char *text)
{
    for (size_t i = 0; i < directory->count; i++) {
        if (strcmp(directory->names[i].text, text) == 0)
            return &directory->names[i];
    }
    return NULL;
}

static void name_set(struct sim_directory *directory, const char *text, struct sim_inode *inode)
{
    struct sim_name *name = name_find(directory, text);
    if (name == NULL) {
        if (directory->count == directory->capacity) {
            directory->capacity = directory->capacity ? 2 * directory->capacity : 16;
            directory->names =
                realloc(directory->names, directory->capacity * sizeof *directory->names);
            ensure(directory->names != NULL);
        }
        name = &directory->names[directory->count++];
        snprintf(name->text, sizeof name->text, "%s", text);
    }
    name->inode = inode;
}

static void rename_apply(struct sim_directory *directory, const struct sim_rename *change)
{
    if (change->from[0] != '\0') {
        struct sim_name *name = name_find(directory, change->from);
        if (name != NULL)
            *name = directory->names[--directory->count];
    }
    if (change->to[0] != '\0')
        name_set(directory, change->to, change->inode);
}

static void rename_add(struct sim_disk *disk, const char *from, const char *to,
                       struct sim_inode *inode)
{
    if (disk->rename_count == disk->rename_capacity) {
        disk->rename_capacity = disk->rename_capacity ? 2 * disk->rename_capacity : 16;
        disk->renames = realloc(disk->renames, disk->rename_capacity * sizeof *disk->renames);
        ensure(disk->renames != NULL);
    }
    struct sim_rename *change = &disk->renames[disk->rename_count++];
    *change = (struct sim_rename){.inode = inode};
    snprintf(change->from, sizeof change->from, "%s", from);
    snprintf(change->to, sizeof change->to, "%s", to);
    rename_apply(&disk->cached, change);
}

struct sim_inode *sim_disk_open(const struct sim_disk *disk, const char *name)
{
    const struct sim_name *found = name_find(&disk->cached, name);
    return found != NULL ? found->inode : NULL;
}

struct sim_inode *sim_disk_open_durable(const struct sim_disk *disk, const char *name)
{
    const struct sim_name *found = name_find(&disk->durable, name);
    return found != NULL ? found->inode : NULL;
}

struct sim_inode *sim_disk_create(struct sim_disk *disk, const char *name)
{
    if (disk->inode_count == disk->inode_capacity) {
        disk->inode_capacity = disk->inode_capacity ? 2 * disk->inode_capacity : 64;
        disk->inodes = realloc(disk->inodes, disk->inode_capacity * sizeof *disk->inodes);
        ensure(disk->inodes != NULL);
    }
    struct sim_inode *inode = sim_alloc(sizeof *inode);
    disk->inodes[disk->inode_count++] = inode;
    rename_add(disk, "", name, inode);
    return inode;
}

void sim_disk_rename(struct sim_disk *disk, const char *from, const char *to)
{
    struct sim_inode *inode = sim_disk_open(disk, from);
    ensure(inode != NULL);
    rename_add(disk, from, to, inode);
}

void sim_disk_unlink(struct sim_disk *disk, const char *name)
{
    rename_add(disk, name, "", NULL);
}

/* --- bytes ----------------------------------------------------------------------------------- */

static void buffer_resize(struct repl_buffer *buffer, size_t size)
{
    if (size > buffer->size) {
        size_t more = size - buffer->size;
        uint8_t *room = repl_buffer_extend(buffer, more);
        ensure(room != NULL);
        memset(room, 0, more);
    }
    buffer->size = size;
}

static void mark_dirty(struct sim_inode *inode, uint64_t offset, size_t size)
{
    size_t end = (size_t)((offset + size + SIM_SECTOR - 1) / SIM_SECTOR);
    if (end > inode->dirty_size) {
        size_t grown = 2 * end;
        inode->dirty = realloc(inode->dirty, grown);
        ensure(inode->dirty != NULL);
        memset(inode->dirty + inode->dirty_size, 0, grown - inode->dirty_size);
        inode->dirty_size = grown;
    }
    memset(inode->dirty + offset / SIM_SECTOR, 1, end - offset / SIM_SECTOR);
}

repl_result sim_disk_write(struct sim_disk *disk, struct sim_inode *inode, uint64_t offset,
                           const void *data, size_t size, struct repl_error *err)
{
    struct sim *sim = disk->sim;
    bool full = disk->full && offset + size > inode->cached.size; /* in place there is room */
    bool fails = !sim->calm && (full || sim_chance(sim, sim->faults.disk_write));
    size_t wanted = size;
    if (fails)
        size = sim_random(sim, size + 1); /* what went before the error is written */
    if (offset + size > inode->cached.size)
        buffer_resize(&inode->cached, offset + size);
    if (size > 0) {
        memcpy(inode->cached.data + offset, data, size);
        mark_dirty(inode, offset, size);
    }
    if (!fails)
        return REPL_SUCCESS;
    if (full) {
        sim->counts->disk_full++;
        return repl_fail(err, REPL_E_NOSPACE, "disk full after %zu of %zu bytes", size, wanted);
    }
    sim->counts->write_failures++;
    return repl_fail(err, REPL_E_IO, "write failed after %zu of %zu bytes", size, wanted);
}

void sim_disk_truncate(struct sim_inode *inode, uint64_t size)
{
    buffer_resize(&inode->cached, size);
}

/* Moves dirty sectors to the durable side, each with a chance. */
static void write_back(struct sim *sim, struct sim_inode *inode, unsigned permille)
{
    for (size_t i = 0; i < inode->dirty_size; i++) {
        size_t offset = i * SIM_SECTOR;
        if (!inode->dirty[i] || offset >= inode->cached.size)
            continue;
        inode->dirty[i] = 0;
        if (permille < 1000 && !sim_chance(sim, permille)) {
            sim->counts->sectors_lost++;
            continue;
        }
        size_t left = inode->cached.size - offset;
        size_t size = left < SIM_SECTOR ? left : SIM_SECTOR;
        if (offset + size > inode->durable.size)
            buffer_resize(&inode->durable, offset + size);
        memcpy(inode->durable.data + offset, inode->cached.data + offset, size);
    }
}

repl_result sim_disk_sync(struct sim_disk *disk, struct sim_inode *inode, struct repl_error *err)
{
    struct sim *sim = disk->sim;
    if (!sim->calm && sim_chance(sim, sim->faults.disk_sync)) {
        sim->counts->sync_failures++;
        write_back(sim, inode, 500);
        return repl_fail(err, REPL_E_IO, "sync failed");
    }
    write_back(sim, inode, 1000);
    buffer_resize(&inode->durable, inode->cached.size);
    return REPL_SUCCESS;
}

repl_result sim_disk_sync_directory(struct sim_disk *disk, struct repl_error *err)
{
    struct sim *sim = disk->sim;
    if (!sim->calm && sim_chance(sim, sim->faults.disk_sync)) {
        sim->counts->sync_failures++;
        return repl_fail(err, REPL_E_IO, "sync of the directory failed");
    }
    for (size_t i = 0; i < disk->rename_count; i++)
        rename_apply(&disk->durable, &disk->renames[i]);
    disk->rename_count = 0;
    return REPL_SUCCESS;
}

/* --- the end of a cache ---------------------------------------------------------------------- */

static void inode_power_cut(struct sim *sim, struct sim_inode *inode, unsigned permille)
{
    size_t before = inode->durable.size, after = inode->cached.size;
    write_back(sim, inode, permille);
    /* A size not synced is any between the two. */
    if (after > inode->durable.size)
        buffer_resize(&inode->durable,
                      inode->durable.size + sim_random(sim, after - inode->durable.size + 1));
    else if (after < before && sim_chance(sim, 500))
        buffer_resize(&inode->durable, after);
    inode->cached.size = 0;
    ensure(repl_ok(
        repl_buffer_append(&inode->cached, inode->durable.data, inode->durable.size, NULL)));
}

void sim_disk_power_cut(struct sim_disk *disk)
{
    struct sim *sim = disk->sim;
    static const unsigned lucks[] = {0, 200, 500, 900};
    unsigned permille = lucks[sim_random(sim, 4)];
    size_t kept = sim_random(sim, disk->rename_count + 1);
    for (size_t i = 0; i < kept; i++)
        rename_apply(&disk->durable, &disk->renames[i]);
    disk->rename_count = 0;
    for (size_t i = 0; i < disk->inode_count; i++)
        inode_power_cut(sim, disk->inodes[i], permille);
    disk->cached.count = 0;
    for (size_t i = 0; i < disk->durable.count; i++)
        name_set(&disk->cached, disk->durable.names[i].text, disk->durable.names[i].inode);
}

void sim_disk_wipe(struct sim_disk *disk)
{
    struct sim *sim = disk->sim;
    sim_disk_fini(disk);
    sim_disk_init(disk, sim);
}

void sim_disk_copy(struct sim_disk *disk, const struct sim_disk *from)
{
    for (size_t i = 0; i < from->durable.count; i++) {
        struct sim_inode *inode = sim_disk_create(disk, from->durable.names[i].text);
        const struct repl_buffer *bytes = &from->durable.names[i].inode->durable;
        ensure(repl_ok(repl_buffer_append(&inode->cached, bytes->data, bytes->size, NULL)));
        ensure(repl_ok(repl_buffer_append(&inode->durable, bytes->data, bytes->size, NULL)));
        name_set(&disk->durable, from->durable.names[i].text, inode);
    }
    disk->rename_count = 0;
}
