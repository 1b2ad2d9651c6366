/*
 * What the pool of a volume holds, asked of the site: which pool it is, then, if it
 * is shared with others, the names of its chunks, page by page into the index of
 * chunks, so that what another host has sent goes by name. At the begin of a
 * full copy or a resync, and once a day, once for all volumes of the pool.
 *
 * A copy of a volume that the site does not have yet waits for the names for a
 * moment, before the first page is read; nothing else waits for them. Where they
 * cannot be had, chunks are sent as bytes.
 */
#include <inttypes.h>
#include <stdio.h>
#include <syslog.h>

#include "control/control.h"
#include "source/chunk_index.h"
#include "source/source_volume_internal.h"

#define NAMES_EACH_NS  (24 * 3600 * REPL_SECOND_NS)
#define NAMES_RETRY_NS (600 * REPL_SECOND_NS)
#define NAMES_HOLD_NS  (5 * REPL_SECOND_NS)
/* Another volume of the pool is asking for the same: looked at again so soon. */
#define NAMES_OTHERS_NS (REPL_SECOND_NS / 2)

/* Behind all names: the answer says which pool it is, and no more. */
#define NAMES_NONE UINT64_MAX

static void names_answered(struct repl_request *request, repl_result result,
                           const struct repl_error *err);

void volume_names_start(struct repl_source_volume *v)
{
    v->names_due_ns = 0;
    v->names_more = v->names_comparing = false;
    v->names_hold_ns =
        v->dir.is_new && v->options.chunks != NULL ? repl_now_mono_ns() + NAMES_HOLD_NS : 0;
}

bool volume_names_hold(const struct repl_source_volume *v)
{
    return v->names_hold_ns != 0 && repl_now_mono_ns() < v->names_hold_ns;
}

static void turn_end(struct repl_source_volume *v, bool whole)
{
    if (v->names_mine)
        repl_chunk_index_names_end(v->options.chunks, v->names_pool, whole, repl_now_mono_ns());
    v->names_mine = false;
}

/* Until they are due again. */
static void names_end(struct repl_source_volume *v, int64_t pause_ns)
{
    turn_end(v, pause_ns == NAMES_EACH_NS);
    v->names_more = false;
    v->names_due_ns = repl_now_mono_ns() + pause_ns;
    v->names_hold_ns = 0;
}

static void names_ask(struct repl_source_volume *v, uint64_t after)
{
    struct repl_error err;
    v->names_after = after;
    v->names =
        (struct repl_request){.method = "GET", .offset = -1, .done = names_answered, .context = v};
    snprintf(v->names.path, sizeof v->names.path, "/v1/volumes/%s/pool/%016" PRIx64, volume_name(v),
             after);
    v->names_out = repl_ok(repl_request_start(v->options.client, &v->names, &err));
    if (!v->names_out)
        names_end(v, NAMES_RETRY_NS);
}

/* It is known which pool the volume is of: its names are asked for once for all of its volumes. */
static void names_begin(struct repl_source_volume *v, uint64_t pool)
{
    switch (repl_chunk_index_names_begin(v->options.chunks, pool, repl_now_mono_ns())) {
    case REPL_CHUNK_NAMES_OTHERS:
        v->names_due_ns = repl_now_mono_ns() + NAMES_OTHERS_NS; /* what waits, waits on */
        return;
    case REPL_CHUNK_NAMES_FRESH:
        names_end(v, NAMES_EACH_NS);
        return;
    case REPL_CHUNK_NAMES_MINE:
        break;
    }
    v->names_mine = true;
    v->names_pool = pool;
    v->names_left = repl_dedup_guesses(v->dedup);
    v->names_taken = 0;
    names_ask(v, 0);
}

static void page_take(struct repl_source_volume *v, struct repl_pool_names *page)
{
    uint64_t pool = repl_chunk_pool_of(&page->pool);
    bool shared = pool != repl_chunk_pool_of(&v->pipeline.state.volume);
    repl_dedup_join(v->dedup, pool);
    if (!shared) { /* what it holds, this volume has brought */
        names_end(v, NAMES_EACH_NS);
    } else if (v->names_after == NAMES_NONE) {
        names_begin(v, pool);
    } else if (v->names_after == 0 && page->count == 0) {
        repl_dedup_forget(v->dedup);
        names_end(v, NAMES_EACH_NS);
    } else {
        v->names_left -= page->count < v->names_left ? page->count : v->names_left;
        v->names_taken += page->count;
        v->names_more = page->more && v->names_left > 0;
        v->names_after = page->count > 0 ? page->prefixes[page->count - 1] : NAMES_NONE;
        repl_dedup_learn(v->dedup, page);
    }
}

static void names_answered(struct repl_request *request, repl_result result,
                           const struct repl_error *err)
{
    struct repl_source_volume *v = request->context;
    struct repl_pool_names page;
    struct repl_error ignored;
    (void)err;
    v->names_out = false;
    if (repl_ok(result) && request->status == 200 &&
        repl_ok(
            repl_pool_names_decode(request->response, request->response_size, &page, &ignored))) {
        page_take(v, &page);
        repl_pool_names_fini(&page);
    } else { /* an older site has no such path */
        names_end(v, NAMES_RETRY_NS);
    }
    volume_names_follow(v);
    volume_pump(v);
}

void volume_names_follow(struct repl_source_volume *v)
{
    if (v->names_out || repl_dedup_is_learning(v->dedup) || v->names_taken == 0)
        return;
    if (v->names_more) {
        names_ask(v, v->names_after);
        return;
    }
    repl_log(LOG_INFO, "volume %s: the site has named %" PRIu64 " chunks that its pool holds",
             volume_name(v), v->names_taken);
    v->names_taken = 0;
    names_end(v, NAMES_EACH_NS);
}

void volume_names_look(struct repl_source_volume *v)
{
    bool comparing = v->pipeline.comparing;
    enum repl_ship_state link = v->pipeline.ship.state;
    if (comparing && !v->names_comparing)
        v->names_due_ns = 0;
    v->names_comparing = comparing;
    if (!v->names_out && !v->names_more && !repl_dedup_is_learning(v->dedup) &&
        (link == REPL_SHIP_READY || link == REPL_SHIP_SENDING) &&
        repl_now_mono_ns() >= v->names_due_ns)
        names_ask(v, NAMES_NONE);
}

void volume_names_cancel(struct repl_source_volume *v)
{
    if (v->names_out)
        repl_request_cancel(&v->names);
    v->names_out = false;
    turn_end(v, false);
}
