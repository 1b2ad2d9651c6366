#include "sim.h"

#include <stdlib.h>
#include <string.h>

/*
 * The shell around the pipeline, as the agent has one: it keeps the spool, makes
 * state and table durable and talks to the site (sim_capture.c reads pages).
 * What it must keep to beyond the words of pipeline.h:
 *
 *   - a state read at start is made durable before the next one is written, or
 *     a power cut during that write would find both slots torn;
 *   - a write of the state that failed is done again into the same slot;
 *   - after a failed sync of the table all of it is written again.
 */

#define STATE_NAME "state"
#define ANSWER_NS  (8 * SIM_SECOND) /* within which an answer has to come */
#define TICK_NS    SIM_SECOND
#define STEPS_MAX  10000 /* actions in a row: more is a loop */
#define PIECE_MAX  (UINT64_C(64) << 10)
#define HELD_BACK  REPL_SEGMENT_FOOTER_SIZE

int64_t sim_source_now(const struct sim_source *source)
{
    return source->sim->now_ns + source->clock_ns;
}

/* --- the state ------------------------------------------------------------------------------- */

struct state_write {
    uint64_t generation;
    uint8_t slot[REPL_SLOT_SIZE];
};

/* The file as it is made at setup, when nothing fails. */
static void state_create(struct sim_source *source, uint64_t size)
{
    struct repl_source_state state = {
        .lineage = 1, .volume_size = size, .next_seq = 1, .identity = "sim:0"};
    memset(state.volume.bytes, 7, sizeof state.volume.bytes);
    struct sim *sim = source->sim;
    bool calm = sim->calm;
    sim->calm = true;
    uint8_t file[REPL_SLOT_FILE] = {0};
    repl_source_state_encode(&state, 1, file + repl_slot_offset(1));
    struct sim_inode *inode = sim_disk_create(&source->disk, STATE_NAME);
    ensure(repl_ok(sim_disk_write(&source->disk, inode, 0, file, sizeof file, NULL)));
    ensure(repl_ok(sim_disk_sync(&source->disk, inode, NULL)));
    ensure(repl_ok(sim_disk_sync_directory(&source->disk, NULL)));
    sim->calm = calm;
}

static void state_read(struct sim_source *source, struct repl_source_state *state)
{
    struct repl_error err;
    struct sim_inode *inode = sim_disk_open(&source->disk, STATE_NAME);
    uint8_t file[REPL_SLOT_FILE];
    ensure(inode != NULL && inode->cached.size >= sizeof file);
    memcpy(file, inode->cached.data, sizeof file);
    if (!repl_ok(repl_source_state_decode(file, state, &source->generation, &err)))
        sim_fail(source->sim, "source-state", "%s", err.text);
    uint64_t offset = repl_slot_offset(source->generation);
    do {
        repl_ignore(sim_disk_write(&source->disk, inode, offset, file + offset, REPL_SLOT_SIZE,
                                   NULL)); /* the sync says whether it is there */
    } while (memcmp(inode->cached.data + offset, file + offset, REPL_SLOT_SIZE) != 0 ||
             !repl_ok(sim_disk_sync(&source->disk, inode, NULL)));
}

static void state_synced(void *actor, uint64_t argument, void *payload);

static void state_written(void *actor, uint64_t argument, void *payload)
{
    struct sim_source *source = actor;
    struct state_write *write = payload;
    (void)argument;
    struct sim_inode *inode = sim_disk_open(&source->disk, STATE_NAME);
    if (repl_ok(sim_disk_write(&source->disk, inode, repl_slot_offset(write->generation),
                               write->slot, sizeof write->slot, NULL)))
        sim_after(source->sim, sim_span(source->sim, SIM_MS / 10, 400 * SIM_MS), &source->life,
                  state_synced, source, 0, write, free);
    else
        sim_after(source->sim, 200 * SIM_MS, &source->life, state_written, source, 0, write, free);
}

static void state_synced(void *actor, uint64_t argument, void *payload)
{
    struct sim_source *source = actor;
    struct state_write *write = payload;
    (void)argument;
    if (!repl_ok(sim_disk_sync(&source->disk, sim_disk_open(&source->disk, STATE_NAME), NULL))) {
        sim_after(source->sim, 200 * SIM_MS, &source->life, state_written, source, 0, write, free);
        return;
    }
    source->generation = write->generation;
    free(write);
    repl_pipeline_state_written(&source->pipeline);
    sim_source_run(source);
}

static void state_begin(struct sim_source *source, const struct repl_source_state *state)
{
    struct state_write *write = sim_alloc(sizeof *write);
    write->generation = source->generation + 1;
    repl_source_state_encode(state, write->generation, write->slot);
    sim_after(source->sim, sim_span(source->sim, SIM_MS / 10, 20 * SIM_MS), &source->life,
              state_written, source, 0, write, free);
}

/* --- the table ------------------------------------------------------------------------------- */

static void table_persist(struct sim_source *source, unsigned permille)
{
    for (uint32_t i = 0; i < SIM_PAGES_MAX; i++) {
        if (permille == 1000 || sim_chance(source->sim, permille))
            source->durable_digests[i] = source->digests[i];
    }
}

static void checkpoint_done(void *actor, uint64_t argument, void *payload)
{
    struct sim_source *source = actor;
    struct sim *sim = source->sim;
    (void)argument;
    (void)payload;
    if (!sim->calm && sim_chance(sim, sim->faults.disk_sync)) {
        sim->counts->sync_failures++;
        table_persist(source, 500);
        sim_after(sim, 500 * SIM_MS, &source->life, checkpoint_done, source, 0, NULL, NULL);
        return;
    }
    if (sim->options.bug != SIM_BUG_CHECKPOINT_EARLY)
        table_persist(source, 1000);
    sim->counts->checkpoints++;
    repl_pipeline_checkpointed(&source->pipeline);
    sim_source_run(source);
}

static void segment_drop(struct sim_source *source, uint64_t number)
{
    if (source->request.active && source->request.type == SIM_PUT &&
        source->request.number == number)
        source->request.active = false;
    if (source->ahead.active && source->ahead.number == number)
        source->ahead.active = false;
    sim_spool_drop(source, number);
}

/* --- requests -------------------------------------------------------------------------------- */

static struct sim_request request_new(struct sim *sim, enum sim_message_type type)
{
    return (struct sim_request){.active = true,
                                .id = ++sim->next_request,
                                .type = type,
                                .cut_at = UINT64_MAX,
                                .deadline_ns = sim->now_ns + ANSWER_NS};
}

static struct sim_message *request_begin(struct sim_source *source, enum sim_message_type type)
{
    source->request = request_new(source->sim, type);
    return sim_message_new(type, source, source->request.id);
}

static void request_send(struct sim_source *source, struct sim_message *message)
{
    sim_net_request(source->sim, message, &source->request.arrival_ns);
}

static void hello_send(struct sim_source *source)
{
    struct sim_message *message = request_begin(source, SIM_HELLO);
    repl_pipeline_hello(&source->pipeline, 5000, sim_source_now(source), &message->hello);
    request_send(source, message);
}

static void list_send(struct sim_source *source, const struct repl_pipeline_action *action)
{
    struct sim_message *message = request_begin(source, SIM_LIST);
    message->list.from = action->from;
    message->list.head = action->head;
    request_send(source, message);
}

/* One bit of a whole segment flips, for good. */
static void spool_rot(struct sim_source *source, struct sim_spooled *spooled)
{
    struct sim *sim = source->sim;
    const struct repl_ship_segment *s = repl_ship_find(&source->pipeline.ship, spooled->number);
    if (sim->calm || !s->complete || spooled->rotten || !sim_chance(sim, sim->net.flip))
        return;
    spooled->bytes.data[sim_random(sim, spooled->bytes.size)] ^=
        (uint8_t)(1u << sim_random(sim, 8));
    spooled->rotten = true;
    sim->counts->spool_rotten++;
}

static void spool_check(struct sim_source *source, uint64_t number)
{
    const struct sim_spooled *spooled = sim_spool_find(source, number);
    struct repl_error err = {0};
    uint64_t lost = source->pipeline.lost_points;
    ensure(spooled != NULL);
    repl_pipeline_checked(&source->pipeline, number,
                          spooled->rotten ? repl_fail(&err, REPL_E_CORRUPT, "rotten")
                                          : REPL_SUCCESS,
                          &err, sim_source_now(source));
    source->sim->counts->spool_checks++;
    source->sim->counts->spool_lost += source->pipeline.lost_points - lost;
}

static void put_begin(struct sim_source *source, const struct repl_pipeline_action *action)
{
    struct sim *sim = source->sim;
    bool ahead = action->type == REPL_PIPELINE_SEND_AHEAD;
    struct sim_request *r = ahead ? &source->ahead : &source->request;
    struct sim_spooled *spooled = sim_spool_find(source, action->number);
    if (spooled == NULL)
        sim_fail(sim, "spool", "told to send segment %llu, which is not in the spool",
                 (unsigned long long)action->number);
    spool_rot(source, spooled);
    *r = request_new(sim, SIM_PUT);
    r->ahead = ahead;
    sim->counts->aheads += ahead;
    r->number = action->number;
    r->offset = r->sent = action->offset;
    r->deadline_ns = INT64_MAX;
    if (action->offset > 0)
        sim->counts->resumes++;
    if (sim->calm)
        return;
    if (sim_chance(sim, sim->net.cut_upload)) {
        sim->counts->cut_uploads++;
        r->cut_at = action->offset + sim_random(sim, sim_chance(sim, 500) ? 512 : 20000);
    }
    if (sim_chance(sim, sim->net.duplicate)) {
        sim->counts->duplicate_requests++;
        r->ghost = ++sim->next_request;
        r->ghost_arrival_ns = sim->now_ns + sim_span(sim, SIM_MS, 20 * SIM_SECOND);
    }
}

static void supply_send(struct sim_source *source, uint64_t number)
{
    struct sim *sim = source->sim;
    const struct repl_ship_segment *segment = repl_ship_find(&source->pipeline.ship, number);
    ensure(segment != NULL && source->missing.size > 0);
    struct sim_message *message = request_begin(source, SIM_SUPPLY);
    message->put.to_seq = segment->to_seq;
    message->put.part = segment->part;
    sim_supply_build(source, segment, &message->bytes);
    if (!sim->calm && sim_chance(sim, sim->net.flip)) {
        sim->counts->flipped++;
        message->bytes.data[sim_random(sim, message->bytes.size)] ^= 1;
    }
    request_send(source, message);
}

/* One piece of a segment on its way. */
static void piece_send(struct sim_source *source, const struct sim_request *r,
                       const struct sim_spooled *spooled, size_t size, bool last, uint64_t request,
                       int64_t *arrival_ns)
{
    const struct repl_ship_segment *segment =
        repl_ship_find(&source->pipeline.ship, spooled->number);
    ensure(segment != NULL);
    struct sim_message *message = sim_message_new(SIM_PUT, source, request);
    message->put.to_seq = segment->to_seq;
    message->put.part = segment->part;
    message->put.offset = r->sent;
    message->put.first = !r->first_sent;
    message->put.last = last;
    message->put.ahead = r->ahead;
    ensure(repl_ok(repl_buffer_append(&message->bytes, spooled->bytes.data + r->sent, size, NULL)));
    struct sim *sim = source->sim;
    if (!sim->calm && size > 0 && sim_chance(sim, sim->net.flip)) {
        sim->counts->flipped++;
        message->bytes.data[sim_random(sim, size)] ^= 1;
    }
    sim_net_request(sim, message, arrival_ns);
}

/* Whether the end of what it sends may go. */
static bool is_released(const struct sim_source *source, const struct sim_request *r,
                        const struct sim_spooled *spooled, const struct repl_ship_segment *segment)
{
    enum sim_bug bug = source->sim->options.bug;
    bool early = bug == SIM_BUG_RELEASE_EARLY || (bug == SIM_BUG_AHEAD_EARLY && r->ahead);
    return spooled->released || (early && segment != NULL && segment->complete);
}

/* True: the last byte of a segment has left. */
static bool pump(struct sim_source *source, struct sim_request *r)
{
    struct sim *sim = source->sim;
    while (r->active && r->type == SIM_PUT && !r->last_sent) {
        const struct sim_spooled *spooled = sim_spool_find(source, r->number);
        ensure(spooled != NULL);
        const struct repl_ship_segment *segment = repl_ship_find(&source->pipeline.ship, r->number);
        bool released = is_released(source, r, spooled, segment);
        uint64_t size = spooled->bytes.size;
        uint64_t limit = released ? size : size > HELD_BACK ? size - HELD_BACK : 0;
        bool nothing_left = released && r->sent == size; /* all of it is at the site already */
        if (r->sent >= limit && !nothing_left)
            return false;
        uint64_t piece = limit - r->sent;
        if (piece > 1 && sim_chance(sim, 400))
            piece = 1 + sim_random(sim, piece < PIECE_MAX ? piece : PIECE_MAX);
        if (piece >= r->cut_at - r->sent) {
            piece = r->cut_at - r->sent; /* as far as the link lets it */
            r->deadline_ns = sim->now_ns + sim_span(sim, 10 * SIM_MS, 2 * SIM_SECOND);
        }
        r->last_sent = released && r->sent + piece == size;
        piece_send(source, r, spooled, piece, r->last_sent, r->id, &r->arrival_ns);
        if (r->ghost != 0)
            piece_send(source, r, spooled, piece, r->last_sent, r->ghost, &r->ghost_arrival_ns);
        r->first_sent = true;
        r->sent += piece;
        if (r->last_sent)
            r->deadline_ns = sim->now_ns + ANSWER_NS;
        bool left = r->last_sent;
        if (r->sent == r->cut_at)
            r->last_sent = true;
        if (left) {
            repl_ship_left(&source->pipeline.ship, r->number);
            return true;
        }
    }
    return false;
}

/* What was sent ahead may be in turn by now, or over. */
static void ahead_settle(struct sim_source *source)
{
    const struct repl_ship *ship = &source->pipeline.ship;
    struct sim_request *r = &source->ahead;
    if (!r->active)
        return;
    if (!repl_ship_in_flight(ship, r->number)) {
        r->active = false;
        return;
    }
    if (!repl_ship_in_turn(ship, r->number))
        return;
    ensure(!source->request.active);
    source->request = *r;
    r->active = false;
    if (source->request.last_sent)
        source->request.deadline_ns = source->sim->now_ns + ANSWER_NS;
}

static void ahead_failed(struct sim_source *source, uint64_t number)
{
    source->sim->counts->aheads_failed++;
    repl_ship_ahead_failed(&source->pipeline.ship, number, false);
}

static void timeouts(struct sim_source *source)
{
    struct sim_request *r = &source->ahead;
    if (r->active && source->sim->now_ns >= r->deadline_ns) {
        r->active = false;
        ahead_failed(source, r->number);
    }
    r = &source->request;
    if (!r->active || source->sim->now_ns < r->deadline_ns)
        return;
    r->active = false;
    repl_pipeline_lost(&source->pipeline, "no answer from the site", sim_source_now(source));
}

/* While the link is up, as the agent does. */
static void report_send(struct sim_source *source)
{
    enum repl_ship_state link = source->pipeline.ship.state;
    if (link != REPL_SHIP_READY && link != REPL_SHIP_SENDING)
        return;
    source->report_id = ++source->sim->next_request;
    struct sim_message *message = sim_message_new(SIM_REPORT, source, source->report_id);
    repl_pipeline_report(&source->pipeline, sim_source_now(source), &message->report);
    sim_check_report(source, &message->report);
    int64_t not_before = 0;
    sim_net_request(source->sim, message, &not_before);
}

/* --- answers --------------------------------------------------------------------------------- */

struct forgetting {
    size_t next;
    struct repl_buffer extents;
};

static void forgetting_drop(void *payload)
{
    struct forgetting *forgetting = payload;
    repl_buffer_fini(&forgetting->extents);
    free(forgetting);
}

static void forget_step(void *actor, uint64_t argument, void *payload)
{
    struct sim_source *source = actor;
    struct forgetting *f = payload;
    const struct sim_extent *extents = (const void *)f->extents.data;
    size_t count = f->extents.size / sizeof *extents;
    (void)argument;
    size_t step = 1 + sim_random(source->sim, count + 1);
    for (; step > 0 && f->next < count; step--, f->next++) {
        if (source->sim->options.bug != SIM_BUG_FORGET_NOTHING)
            repl_pipeline_forget(&source->pipeline, extents[f->next].offset,
                                 extents[f->next].length);
    }
    if (f->next < count) {
        sim_after(source->sim, sim_span(source->sim, SIM_MS, SIM_SECOND), &source->life,
                  forget_step, source, 0, f, forgetting_drop);
        return;
    }
    forgetting_drop(f);
    source->sim->counts->recoveries++;
    repl_pipeline_recovered(&source->pipeline, sim_source_now(source));
    sim_source_run(source);
}

static void extents_take(struct sim_source *source, struct sim_message *message)
{
    struct forgetting *f = sim_alloc(sizeof *f);
    f->extents = message->bytes;
    message->bytes = (struct repl_buffer){0};
    forget_step(source, 0, f);
}

void sim_source_answer(void *actor, uint64_t argument, void *payload)
{
    struct sim_source *source = actor;
    struct sim_message *message = payload;
    int64_t now_ns = sim_source_now(source);
    (void)argument;
    if (source->request.active && source->request.id == message->request) {
        source->request.active = false;
        switch (message->type) {
        case SIM_WELCOME:
            source->sim->counts->restarts +=
                !message->welcome.known && source->pipeline.ship.head.to_seq != 0;
            repl_pipeline_welcome(&source->pipeline, &message->welcome, now_ns);
            break;
        case SIM_ACK:
            source->sim->counts->acks++;
            if (source->request.type == SIM_SUPPLY)
                repl_pipeline_supplied(&source->pipeline);
            else
                repl_pipeline_ack(&source->pipeline, source->request.number, &message->ack, now_ns);
            break;
        case SIM_MISSING:
            repl_buffer_fini(&source->missing);
            source->missing = message->bytes;
            message->bytes = (struct repl_buffer){0};
            repl_pipeline_missing(&source->pipeline);
            break;
        case SIM_REFUSAL:
            sim_trace(source->sim, "source is refused: %s", message->refusal.text);
            if (source->request.ahead)
                ahead_failed(source, source->request.number);
            else
                repl_pipeline_refused(&source->pipeline, &message->refusal, now_ns);
            break;
        case SIM_EXTENTS:
            extents_take(source, message);
            break;
        default:
            ensure(!"a request came as an answer");
        }
    }
    if (source->ahead.active && source->ahead.id == message->request) {
        source->ahead.active = false;
        if (message->type == SIM_ACK)
            repl_pipeline_ack(&source->pipeline, source->ahead.number, &message->ack, now_ns);
        else
            ahead_failed(source, source->ahead.number);
    }
    /* A report that is refused is how an idle source learns that the site has lost the volume. */
    if (message->type == SIM_REFUSAL && message->request == source->report_id &&
        !source->request.active && source->pipeline.ship.state == REPL_SHIP_READY)
        repl_pipeline_refused(&source->pipeline, &message->refusal, now_ns);
    sim_message_drop(message);
    sim_source_run(source);
}

/* --- the loop -------------------------------------------------------------------------------- */

static void act_trace(const struct sim_source *source, const struct repl_pipeline_action *action)
{
    static const char *const names[] = {"waits",   "syncs",  "quiesces", "opens",   "closes",
                                        "resumes", "audits", "repairs",  "settles", "commits"};
    if (action->type < sizeof names / sizeof *names)
        sim_trace(source->sim, "%s %s, %llu pages are dirty", source->is_clone ? "clone" : "source",
                  names[action->type], (unsigned long long)source->pipeline.round.dirty.set_count);
}

static void act(struct sim_source *source, const struct repl_pipeline_action *action)
{
    struct sim *sim = source->sim;
    act_trace(source, action);
    switch (action->type) {
    case REPL_PIPELINE_WAIT:
        break;
    case REPL_PIPELINE_SYNC:
        sim_capture_sync(source);
        break;
    case REPL_PIPELINE_QUIESCE:
        sim_guard_quiesce(source);
        break;
    case REPL_PIPELINE_OPEN:
        sim_capture_open(source);
        break;
    case REPL_PIPELINE_CLOSE:
        sim_capture_close(source);
        break;
    case REPL_PIPELINE_RESUME:
        sim_guard_resume(source);
        break;
    case REPL_PIPELINE_AUDIT:
        sim_capture_audit(source, action->delay_ns);
        break;
    case REPL_PIPELINE_REPAIR:
        sim_capture_repair(source);
        break;
    case REPL_PIPELINE_SETTLE:
        sim_capture_settle(source, action->settle);
        break;
    case REPL_PIPELINE_COMMIT:
        sim_capture_commit(source);
        break;
    case REPL_PIPELINE_STATE:
        state_begin(source, action->state);
        break;
    case REPL_PIPELINE_CHECKPOINT:
        if (sim->options.bug != SIM_BUG_CHECKPOINT_EARLY)
            table_persist(source, 500);
        sim_after(sim, sim_span(sim, SIM_MS, SIM_SECOND), &source->life, checkpoint_done, source, 0,
                  NULL, NULL);
        break;
    case REPL_PIPELINE_HELLO:
        hello_send(source);
        break;
    case REPL_PIPELINE_SEND:
    case REPL_PIPELINE_SEND_AHEAD:
        put_begin(source, action);
        break;
    case REPL_PIPELINE_RELEASE:
        sim_spool_release(source, action->number);
        break;
    case REPL_PIPELINE_SUPPLY:
        supply_send(source, action->number);
        break;
    case REPL_PIPELINE_COALESCE:
        sim_spool_coalesce(source, action);
        break;
    case REPL_PIPELINE_DROP:
        segment_drop(source, action->number);
        break;
    case REPL_PIPELINE_CHECK:
        spool_check(source, action->number);
        break;
    case REPL_PIPELINE_RECOVER:
        list_send(source, action);
        break;
    }
}

void sim_source_wake(void *actor, uint64_t argument, void *payload)
{
    struct sim_source *source = actor;
    (void)argument;
    (void)payload;
    sim_source_run(source);
}

static void wake(void *actor, uint64_t argument, void *payload)
{
    struct sim_source *source = actor;
    source->wake_set = false;
    sim_source_wake(actor, argument, payload);
}

void sim_source_run(struct sim_source *source)
{
    struct sim *sim = source->sim;
    struct repl_pipeline_action action;
    unsigned steps = 0;
    if (!source->up)
        return;
    for (;;) {
        ahead_settle(source);
        repl_pipeline_next(&source->pipeline, sim_source_now(source), &action);
        ahead_settle(source);
        if (action.type == REPL_PIPELINE_WAIT) {
            if (!pump(source, &source->request) && !pump(source, &source->ahead))
                break;
            continue;
        }
        if (steps++ == STEPS_MAX)
            sim_fail(sim, "loop", "the pipeline never waits");
        act(source, &action);
        if (source->doomed) {
            sim_source_fall(source);
            return;
        }
    }
    sim_capture_run(source);
    int64_t now_ns = sim_source_now(source);
    if (action.until_ns == INT64_MAX || action.until_ns > now_ns + TICK_NS)
        return; /* the tick comes first */
    int64_t delay = action.until_ns > now_ns ? action.until_ns - now_ns : 0;
    if (source->wake_set && source->wake_ns <= sim->now_ns + delay)
        return;
    source->wake_set = true;
    source->wake_ns = sim->now_ns + delay;
    sim_after(sim, delay, &source->life, wake, source, 0, NULL, NULL);
}

static void tick(void *actor, uint64_t argument, void *payload)
{
    struct sim_source *source = actor;
    (void)argument;
    (void)payload;
    timeouts(source);
    if (source->pipeline.disk_full && (source->sim->calm || sim_chance(source->sim, 300)))
        repl_pipeline_spool_freed(&source->pipeline, sim_source_now(source));
    sim_capture_grow(source);
    sim_source_run(source);
    if (!source->up)
        return;
    report_send(source);
    sim_after(source->sim, TICK_NS, &source->life, tick, source, 0, NULL, NULL);
}

/* --- a life ---------------------------------------------------------------------------------- */

void sim_source_init(struct sim_source *source, struct sim *sim, uint64_t size)
{
    memset(source, 0, sizeof *source);
    source->sim = sim;
    sim_disk_init(&source->disk, sim);
    sim_device_init(&source->device, sim, size);
    for (unsigned i = 0; i < SIM_BATCHES; i++)
        source->readings[i].batch = &sim->batches[i];
    state_create(source, size);
}

void sim_source_start(struct sim_source *source)
{
    struct sim *sim = source->sim;
    struct repl_source_state state;
    ensure(!source->up);
    state_read(source, &state);
    uint64_t known_size = state.volume_size;
    state.volume_size = source->device.size;
    struct repl_pipeline_options options = {.volume_size = source->device.size,
                                            .interval_ns = sim->interval_ns,
                                            .quiesce = sim->quiesce,
                                            .parked_pages = sim->parked_pages,
                                            .audit = sim->audit,
                                            .spool_limit_bytes = sim->spool_limit_bytes,
                                            .digests = source->digests,
                                            .chunk_known =
                                                sim->deduplicate ? sim_chunk_known : NULL,
                                            .keep = sim_supply_keep,
                                            .chunk_context = source,
                                            .sink = sim_spool_sink,
                                            .sink_context = source};
    ensure(repl_ok(repl_pipeline_init(&source->pipeline, &options, &state, NULL)));
    source->up = true;
    source->doomed = false;
    source->verified_until_ns = 0;
    source->sample = (struct repl_audit_sample){0};
    sim_spool_load(source, &state.checkpoint.digest, known_size);
    sim_capture_start(source, known_size);
    source->request = source->ahead = (struct sim_request){0};
    source->wake_set = false;
    sim_after(sim, sim_span(sim, SIM_MS, TICK_NS), &source->life, tick, source, 0, NULL, NULL);
    sim_source_run(source);
}

void sim_source_crash(struct sim_source *source, bool power)
{
    if (source->up) {
        source->life.number++;
        source->up = false;
        repl_pipeline_fini(&source->pipeline);
        repl_buffer_fini(&source->missing);
        sim_capture_crash(source);
        sim_spool_crash(source, power);
    }
    if (!power)
        return;
    sim_device_power_cut(&source->device);
    source->tracker.pinned = source->tracker.has_saved = false;
    sim_disk_power_cut(&source->disk);
    table_persist(source, (unsigned)sim_random(source->sim, 1000));
    memcpy(source->digests, source->durable_digests, sizeof source->digests);
}

void sim_source_fini(struct sim_source *source)
{
    sim_source_crash(source, false);
    sim_spool_fini(source);
    sim_supply_fini(source);
    sim_device_fini(&source->device);
    sim_disk_fini(&source->disk);
}

void sim_source_clone(struct sim_source *source, const struct sim_source *from)
{
    struct sim *sim = from->sim;
    uint64_t lives = source->life.number;
    struct sim_life device_life = source->device.life;
    memset(source, 0, sizeof *source);
    source->sim = sim;
    source->life.number = lives;
    source->is_clone = true;
    source->clock_ns = from->clock_ns;
    source->device.life = device_life;
    sim_device_copy(&source->device, &from->device);
    memcpy(source->read_tags, from->read_tags, sizeof source->read_tags);
    sim_disk_init(&source->disk, sim);
    sim_disk_copy(&source->disk, &from->disk);
    memcpy(source->digests, from->durable_digests, sizeof source->digests);
    memcpy(source->durable_digests, from->durable_digests, sizeof source->digests);
    for (unsigned i = 0; i < SIM_BATCHES; i++)
        source->readings[i].batch = &sim->batches[SIM_BATCHES + i];
}
