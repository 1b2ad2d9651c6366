#include "sim.h"

#include <stdlib.h>
#include <string.h>

/*
 * The volume, and a writer that does what makes replication hard: rewrites a
 * page with what it holds, returns to what it once held, copies whole chunks,
 * zeroes, and has several writes on their way at once.
 *
 * A write is seen by the tracker, lands page by page, is seen by the tracker
 * again, is accounted by the kernel, and only then does its writer learn that it
 * is complete. In a seed with atomic writes all that is one.
 *
 * The disk has a volatile cache or it has none. With one, a flush makes durable
 * what was complete when it was issued, and an FUA write itself; a power cut
 * leaves of each page that version or any later one.
 */

#define WRITES_OUT_MAX 12

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

void sim_device_init(struct sim_device *device, struct sim *sim, uint64_t size)
{
    memset(device, 0, sizeof *device);
    device->sim = sim;
    device->size = size;
    device->page_count = (uint32_t)((size + REPL_PAGE_SIZE - 1) / REPL_PAGE_SIZE);
    ensure(device->page_count <= SIM_PAGES_MAX);
    for (uint32_t i = 0; i < device->page_count; i++) {
        uint64_t kind = sim_random(sim, 4);
        device->older[i] = device->landed[i].tag = kind == 0 ? 0
                                                   : kind == 1 && i >= 16
                                                       ? device->landed[i - 16].tag
                                                       : ++sim->next_tag;
    }
    memcpy(device->stable, device->landed, sizeof device->stable);
    memcpy(device->durable, device->landed, sizeof device->durable);
}

void sim_device_fini(struct sim_device *device)
{
    device->life.number++;
    free(device->landings);
    device->landings = NULL;
    device->landing_count = device->landing_capacity = 0;
}

void sim_device_copy(struct sim_device *device, const struct sim_device *from)
{
    struct sim_life life = device->life;
    *device = *from;
    device->life = life;
    device->writes_out = 0; /* what was on its way there never lands here */
    device->blocked = false;
    device->landings = NULL;
    device->landing_count = device->landing_capacity = 0;
    device->kernel = (struct repl_audit_kernel){0};
    device->tracker = NULL;
    memcpy(device->stable, device->landed, sizeof device->stable);
    memcpy(device->durable, device->landed, sizeof device->durable);
    memset(device->busy, 0, sizeof device->busy);
}

/* --- what becomes of a write ----------------------------------------------------------------- */

static void landing_add(struct sim_device *device, uint32_t page)
{
    if (device->landing_count == device->landing_capacity) {
        device->landing_capacity = device->landing_capacity ? 2 * device->landing_capacity : 64;
        device->landings =
            realloc(device->landings, device->landing_capacity * sizeof *device->landings);
        ensure(device->landings != NULL);
    }
    device->landings[device->landing_count++] =
        (struct sim_landing){.page = page, .version = device->landed[page]};
}

static void page_land(struct sim_device *device, struct sim_write *write)
{
    uint32_t i = write->landed++, page = write->page + i;
    write->numbers[i] = ++device->versions;
    device->older[page] = device->landed[page].tag;
    device->landed[page] = (struct sim_version){write->numbers[i], write->tags[i]};
    landing_add(device, page);
}

static void write_account(struct sim_device *device, const struct sim_write *write)
{
    device->kernel.done[write->discard ? REPL_AUDIT_DISCARDED : REPL_AUDIT_WRITTEN] +=
        (uint64_t)write->count * REPL_PAGE_SIZE;
}

static void write_notify(struct sim_device *device, const struct sim_write *write)
{
    for (uint32_t i = 0; i < write->count; i++) {
        uint32_t page = write->page + i;
        device->stable[page] = (struct sim_version){write->numbers[i], write->tags[i]};
        if (!device->write_back || write->fua)
            device->durable[page] = device->stable[page];
        device->busy[page] = false;
    }
    device->writes_out--;
    if (!device->sim->calm && sim_chance(device->sim, device->sim->chain))
        sim_device_write(device); /* what waited for it */
}

/* Some take longer than a write should: in the program that submits, in a queue, or in flight. The
 * end of those is the likelier to be overlooked. Where both ends of another one may be, a proof
 * outlasts what is not in flight yet, or it could not be one (audit.h). */
static void hang_choose(struct sim *sim, struct sim_write *write)
{
    write->hangs_after = SIM_WRITE_END;
    if (sim->calm || !sim_chance(sim, sim->faults.hang))
        return;
    bool overlooked =
        sim->faults.completion > 0 && !write->overlooked[SIM_COMPLETION] && sim_chance(sim, 300);
    write->overlooked[SIM_COMPLETION] |= overlooked;
    sim->counts->completions_overlooked += overlooked;
    sim->counts->hangs++;
    write->hangs_after = sim_chance(sim, 500)
                             ? SIM_WRITE_START
                             : (enum sim_write_step)sim_random(sim, SIM_WRITE_START);
    write->hang_ns = sim_span(sim, sim->io_timeout_ns, 20 * sim->io_timeout_ns);
    if (write->hangs_after < SIM_WRITE_START && sim->faults.both > 0)
        write->hang_ns = sim_span(sim, 1000, sim->audit.proof_ns - sim->audit.spacing_ns / 2);
}

/* Takes one step, and returns how long it is to the next. */
static int64_t write_step(struct sim_device *device, struct sim_write *write)
{
    struct sim *sim = device->sim;
    bool count_late = sim->options.bug == SIM_BUG_COUNT_LATE, hangs;
    switch (write->step) {
    case SIM_WRITE_SUBMIT:
        if (device->tracker != NULL && !count_late)
            sim_tracker_count(device->tracker, write, SIM_SUBMISSION);
        break;
    case SIM_WRITE_LOOK:
        if (device->tracker != NULL)
            write->touched = device->tracker->active;
        break;
    case SIM_WRITE_TOUCH:
        if (device->tracker != NULL)
            sim_tracker_mark(device->tracker, write, SIM_SUBMISSION);
        break;
    case SIM_WRITE_QUEUE:
        if (device->tracker != NULL && count_late)
            sim_tracker_count(device->tracker, write, SIM_SUBMISSION);
        break;
    case SIM_WRITE_START:
        device->kernel.in_flight++;
        break;
    case SIM_WRITE_LAND:
        page_land(device, write);
        if (write->landed == write->count)
            write->step++;
        return sim->atomic_writes ? 0 : sim_span(sim, SIM_MS / 100, 20 * SIM_MS);
    case SIM_WRITE_MARK:
        if (device->tracker != NULL)
            sim_tracker_mark(device->tracker, write, SIM_COMPLETION);
        break;
    case SIM_WRITE_COUNT:
        if (device->tracker != NULL)
            sim_tracker_count(device->tracker, write, SIM_COMPLETION);
        break;
    case SIM_WRITE_ACCOUNT:
        write_account(device, write);
        break;
    case SIM_WRITE_NOTIFY:
        write_notify(device, write);
        break;
    case SIM_WRITE_END:
        device->kernel.in_flight--;
        break;
    }
    hangs = write->step == write->hangs_after && device->tracker != NULL && !sim->calm;
    write->step++;
    if (hangs)
        return write->hang_ns;
    return device->tracker == NULL || sim->atomic_writes ? 0 : sim_span(sim, 1000, sim->gap_ns);
}

static void write_progress(void *actor, uint64_t argument, void *payload)
{
    struct sim_device *device = actor;
    struct sim_write *write = payload;
    (void)argument;
    while (write->step <= SIM_WRITE_END) {
        int64_t delay_ns = write_step(device, write);
        if (delay_ns == 0 || write->step > SIM_WRITE_END)
            continue;
        sim_after(device->sim, delay_ns, &device->life, write_progress, device, 0, write, free);
        return;
    }
    free(write);
}

/* What of it the tracker does not see. */
static void write_overlook(struct sim *sim, struct sim_write *write)
{
    if (!sim->tracked || sim->calm)
        return;
    bool both = sim_chance(sim, sim->faults.both);
    write->overlooked[SIM_COMPLETION] = both || sim_chance(sim, sim->faults.completion);
    write->overlooked[SIM_SUBMISSION] = both || sim_chance(sim, sim->faults.submission);
    sim->counts->both_overlooked +=
        write->overlooked[SIM_COMPLETION] && write->overlooked[SIM_SUBMISSION];
    sim->counts->completions_overlooked += write->overlooked[SIM_COMPLETION];
    sim->counts->submissions_overlooked += write->overlooked[SIM_SUBMISSION];
    if (!sim_chance(sim, sim->faults.range))
        return;
    sim->counts->ranges_lost++;
    write->lost[sim_random(sim, 2)] = true;
}

/* What one page of a write holds. */
static uint64_t tag_choose(struct sim_device *device, uint32_t page, unsigned manner, uint32_t from)
{
    switch (manner) {
    case 0:
        return 0;
    case 1:
        return device->landed[page].tag; /* the same again */
    case 2:
        return device->older[page]; /* back to what it was */
    case 3:
        return device->landed[(from + page) % device->page_count].tag; /* a copy of another */
    default:
        return ++device->sim->next_tag;
    }
}

void sim_device_write(struct sim_device *device)
{
    struct sim *sim = device->sim;
    if (device->blocked || device->writes_out >= WRITES_OUT_MAX)
        return;
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
    write->fua = !write->discard && sim_chance(sim, sim->fua);
    sim->counts->fua_writes += write->fua;
    write_overlook(sim, write);
    hang_choose(sim, write);
    device->writes_out++;
    memset(device->busy + write->page, 1, write->count);
    write_progress(device, 0, write);
    if (sim_chance(sim, sim->flush))
        sim_device_flush(device);
}

/* --- flushes --------------------------------------------------------------------------------- */

enum flush_step { FLUSH_COUNT, FLUSH_ACCOUNT, FLUSH_NOTIFY };

struct flush {
    struct sim_version stable[SIM_PAGES_MAX]; /* when it was issued */
    bool overlooked;
};

static void flush_progress(void *actor, uint64_t step, void *payload)
{
    struct sim_device *device = actor;
    struct sim *sim = device->sim;
    struct flush *flush = payload;
    switch (step) {
    case FLUSH_COUNT:
        if (device->tracker != NULL && device->tracker->pinned && !flush->overlooked)
            device->tracker->counts.completed[REPL_AUDIT_FLUSHES]++;
        break;
    case FLUSH_ACCOUNT:
        device->kernel.done[REPL_AUDIT_FLUSHES]++;
        break;
    default:
        for (uint32_t page = 0; page < SIM_PAGES_MAX; page++) {
            if (flush->stable[page].number > device->durable[page].number)
                device->durable[page] = flush->stable[page];
        }
        free(flush);
        if (!sim->calm && sim_chance(sim, sim->chain))
            sim_device_write(device);
        return;
    }
    sim_after(sim, sim_span(sim, 1000, sim->gap_ns), &device->life, flush_progress, device,
              step + 1, flush, free);
}

void sim_device_flush(struct sim_device *device)
{
    struct sim *sim = device->sim;
    if (!device->write_back)
        return;
    struct flush *flush = sim_alloc(sizeof *flush);
    memcpy(flush->stable, device->stable, sizeof flush->stable);
    flush->overlooked = sim->tracked && !sim->calm && sim_chance(sim, sim->faults.flush);
    sim->counts->flushes++;
    sim->counts->flushes_overlooked += flush->overlooked;
    sim_after(sim, sim_span(sim, SIM_MS / 20, 20 * SIM_MS), &device->life, flush_progress, device,
              FLUSH_COUNT, flush, free);
}

/* --- a power cut ----------------------------------------------------------------------------- */

void sim_device_power_cut(struct sim_device *device)
{
    struct sim *sim = device->sim;
    device->life.number++;
    for (size_t i = device->landing_count; i-- > 0;) { /* each later version had its chance */
        const struct sim_landing *landing = &device->landings[i];
        if (landing->version.number > device->durable[landing->page].number && sim_chance(sim, 400))
            device->durable[landing->page] = landing->version;
    }
    for (uint32_t page = 0; page < SIM_PAGES_MAX; page++) {
        sim->counts->pages_reverted += device->durable[page].number < device->landed[page].number;
        device->durable[page].number = ++device->versions;
        device->landed[page] = device->stable[page] = device->durable[page];
    }
    device->landing_count = 0;
    device->writes_out = 0;
    memset(device->busy, 0, sizeof device->busy);
    device->kernel = (struct repl_audit_kernel){0};
    device->blocked = false;
}
