#include "sim.h"

#include <stdlib.h>
#include <string.h>

/*
 * The volume, and a writer that does what makes replication hard: rewrites a
 * page with what it holds, returns to what it once held, copies whole chunks,
 * zeroes, and has several writes on their way at once.
 *
 * A write lands page by page and completes when all of it has landed; only
 * then do the counters move. In a seed with atomic writes the two are one.
 */

void sim_page_fill(uint64_t tag, void *out, size_t size)
{
    uint8_t *bytes = out;
    if (tag == 0) {
        memset(bytes, 0, size);
        return;
    }
    memset(bytes, (int)(tag % 251), size);
    for (size_t at = 0; at + 8 <= size; at += SIM_SECTOR) {
        uint64_t word = (tag ^ at) * UINT64_C(0x9e3779b97f4a7c15);
        memcpy(bytes + at, &word, sizeof word);
    }
}

void sim_round_begin(struct sim_round *round, const struct sim_device *device)
{
    round->size = device->size;
    round->page_count = device->page_count;
    memcpy(round->tags, device->tags, sizeof round->tags);
    round->landed_count = 0;
}

void sim_round_land(struct sim_round *round, uint32_t page, uint64_t tag)
{
    if (round->landed_count == round->landed_capacity) {
        round->landed_capacity = round->landed_capacity ? 2 * round->landed_capacity : 16;
        round->landed = realloc(round->landed, round->landed_capacity * sizeof *round->landed);
        ensure(round->landed != NULL);
    }
    round->landed[round->landed_count++] = (struct sim_landed){.page = page, .tag = tag};
}

void sim_round_fini(struct sim_round *round)
{
    free(round->landed);
    round->landed = NULL;
    round->landed_count = round->landed_capacity = 0;
}

size_t sim_device_page_size(const struct sim_device *device, uint32_t page)
{
    uint64_t left = device->size - (uint64_t)page * REPL_PAGE_SIZE;
    return left < REPL_PAGE_SIZE ? (size_t)left : REPL_PAGE_SIZE;
}

void sim_device_init(struct sim_device *device, struct sim *sim, uint64_t size)
{
    memset(device, 0, sizeof *device);
    device->sim = sim;
    device->size = size;
    device->page_count = (uint32_t)((size + REPL_PAGE_SIZE - 1) / REPL_PAGE_SIZE);
    ensure(device->page_count <= SIM_PAGES_MAX);
    for (uint32_t i = 0; i < device->page_count; i++) {
        uint64_t kind = sim_random(sim, 4);
        device->tags[i] = kind == 0              ? 0
                          : kind == 1 && i >= 16 ? device->tags[i - 16]
                                                 : ++sim->next_tag;
    }
    memcpy(device->stable, device->tags, sizeof device->stable);
    memcpy(device->older, device->tags, sizeof device->older);
}

static void page_land(struct sim_device *device, const struct sim_write *write, uint32_t i)
{
    uint32_t page = write->page + i;
    device->older[page] = device->tags[page];
    device->tags[page] = write->tags[i];
    if (device->round != NULL)
        sim_round_land(device->round, page, write->tags[i]);
}

static void write_complete(struct sim_device *device, const struct sim_write *write)
{
    for (uint32_t i = 0; i < write->count; i++) {
        device->stable[write->page + i] = write->tags[i];
        device->busy[write->page + i] = false;
    }
    device->writes_out--;
    uint64_t sectors = (uint64_t)write->count * (REPL_PAGE_SIZE / SIM_SECTOR);
    if (write->discard) {
        device->counters.sectors_discarded += sectors;
    } else {
        device->counters.sectors_written += sectors;
    }
}

static void write_progress(void *actor, uint64_t argument, void *payload)
{
    struct sim_device *device = actor;
    struct sim_write *write = payload;
    (void)argument;
    if (write->landed < write->count) {
        page_land(device, write, write->landed++);
        sim_after(device->sim, sim_span(device->sim, SIM_MS / 100, 20 * SIM_MS),
                  &device->sim->world, write_progress, device, 0, write, free);
        return;
    }
    write_complete(device, write);
    free(write);
}

/* What one page of a write holds. */
static uint64_t tag_choose(struct sim_device *device, uint32_t page, unsigned manner, uint32_t from)
{
    switch (manner) {
    case 0:
        return 0;
    case 1:
        return device->tags[page]; /* the same again */
    case 2:
        return device->older[page]; /* back to what it was */
    case 3:
        return device->tags[(from + page) % device->page_count]; /* a copy of another */
    default:
        return ++device->sim->next_tag;
    }
}

void sim_device_write(struct sim_device *device)
{
    struct sim *sim = device->sim;
    struct sim_write *write = sim_alloc(sizeof *write);
    bool chunk = sim_chance(sim, 200) && device->page_count >= REPL_CHUNK_PAGES;
    write->count = chunk ? REPL_CHUNK_PAGES : 1 + (uint32_t)sim_random(sim, 8);
    if (write->count > device->page_count)
        write->count = device->page_count;
    write->page = (uint32_t)sim_random(sim, device->page_count - write->count + 1);
    if (chunk)
        write->page -= write->page % REPL_CHUNK_PAGES;
    unsigned manner = (unsigned)sim_random(sim, 7);
    uint32_t from = (uint32_t)sim_random(sim, device->page_count);
    if (chunk)
        from -= from % REPL_CHUNK_PAGES;
    write->discard = manner == 0 && sim_chance(sim, 500);
    bool busy = false;
    for (uint32_t i = 0; i < write->count; i++) {
        busy |= device->busy[write->page + i];
        write->tags[i] = tag_choose(device, write->page + i, manner, from);
    }
    if (busy) {
        free(write);
        return;
    }
    sim->counts->writes++;
    device->writes_out++;
    memset(device->busy + write->page, 1, write->count);
    if (!sim->atomic_writes) {
        write_progress(device, 0, write);
        return;
    }
    for (uint32_t i = 0; i < write->count; i++)
        page_land(device, write, i);
    write_complete(device, write);
    free(write);
}
