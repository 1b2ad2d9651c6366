/*
 * A visit: what there is of a volume, when each of it was read last, and the
 * reading of what is due.
 *
 * Nothing is kept from one visit to the next but the record. A segment without one
 * was verified when it was committed, a piece of a merge when it was read back.
 */
#include <inttypes.h>
#include <linux/ioprio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <syslog.h>
#include <unistd.h>

#include "control/control.h"
#include "site/scrub/scrub_internal.h"
#include "site/site_chain.h"
#include "store/segment_name.h"

/* What was found damaged is looked at again, as somebody may have put it right. */
#define LOOK_AGAIN_NS (INT64_C(3600) * 1000000000)

/* So many records at once into the file, and as few as it takes. */
#define RECORDS_MAX 64u

/* Of what does not open, so many chunks are looked for: 32 MiB. */
#define LOST_NAMES_MAX (UINT32_C(1) << 20)

/* The file is written anew when it has more than twice the records that it needs, and these. */
#define RECORDS_SPARE 256u

struct scrub_stored {
    struct repl_segment_id id;
    uint64_t size;
    size_t entry; /* of the chain; SIZE_MAX: a supply */
    int64_t verified_ns;
    bool gone;    /* a supply that should be there */
    bool damaged; /* when it was looked at last */
    bool looked;  /* by this visit */
    bool opens;   /* as in struct scrub_damage */
    uint64_t healed_seq;
    uint64_t refer_first, refer_last; /* points of the volume that refer to its chunks; 0: none */
    char *mates;                      /* heap, as in struct scrub_damage; NULL: none */
};

struct batch {
    struct scrub_visit *visit;
    struct scrub_reader reader;
    struct repl_verified records[RECORDS_MAX];
    size_t record_count;
    int64_t until_ns; /* monotonic */
};

static struct repl_verified key_of(const struct repl_segment_id *id)
{
    return (struct repl_verified){
        .to_seq = id->to_seq, .part = id->part, .supply = id->supply, .merge = id->merge};
}

/* --- what there is --------------------------------------------------------------------------- */

static repl_result stored_add(struct repl_buffer *to, const struct scrub_stored *stored,
                              struct repl_error *err)
{
    return repl_buffer_append(to, stored, sizeof *stored, err);
}

static repl_result supply_add(void *context, const struct repl_segment_id *id, uint64_t size,
                              struct repl_error *err)
{
    if (id->supply == 0)
        return REPL_SUCCESS;
    return stored_add(context, &(struct scrub_stored){.id = *id, .size = size, .entry = SIZE_MAX},
                      err);
}

static repl_result stored_list(struct scrub_visit *visit, struct repl_buffer *out,
                               struct repl_error *err)
{
    REPL_TRY(site_chain_read(visit->index, visit->volume, &visit->chain, err));
    for (size_t i = 0; i < visit->chain.count; i++) {
        const struct repl_log_piece *piece = &visit->chain.entries[i];
        const struct scrub_stored stored = {.id = {.to_seq = piece->commit.to_seq,
                                                   .part = piece->commit.part,
                                                   .merge = piece->merge},
                                            .size = piece->commit.file_size,
                                            .entry = i};
        REPL_TRY(stored_add(out, &stored, err));
    }
    return visit->store->ops->segments(visit->store, visit->volume, supply_add, out, err);
}

/* When a merge that was logged lately has made it; 0: none has. */
static int64_t merged_ns(const struct scrub_visit *visit, const struct repl_segment_id *id)
{
    for (size_t i = 0; id->merge != 0 && i < visit->merged_count; i++) {
        if (visit->merged[i].merge == id->merge)
            return visit->merged[i].time_ns;
    }
    return 0;
}

static void mates_put(struct scrub_stored *stored, const char *mates)
{
    free(stored->mates);
    stored->mates = mates[0] != '\0' ? strdup(mates) : NULL;
}

/* What the last visit found out about a damaged segment. */
static void seen_take(const struct scrub_visit *visit, struct scrub_stored *stored)
{
    for (size_t i = 0; stored->damaged && i < visit->seen_count; i++) {
        if (repl_segment_id_order(&visit->seen[i].id, &stored->id) != 0)
            continue;
        stored->opens = visit->seen[i].opens;
        stored->healed_seq = visit->seen[i].healed_seq;
        stored->refer_first = visit->seen[i].refer_first;
        stored->refer_last = visit->seen[i].refer_last;
        mates_put(stored, visit->seen[i].mates);
    }
}

static bool is_suspected(const struct scrub_visit *visit, const struct repl_segment_id *id,
                         int64_t record_ns)
{
    const struct scrub_suspicion *suspicion = &visit->suspicion;
    return id->supply == 0 && suspicion->since_ns > record_ns &&
           id->to_seq >= suspicion->first_seq && id->to_seq <= suspicion->last_seq;
}

/* Times by the record, and into the record what merges have read back. */
static repl_result times_find(struct scrub_visit *visit, struct repl_error *err)
{
    struct repl_buffer pieces = {0};
    repl_result result = REPL_SUCCESS;
    for (size_t i = 0; i < visit->stored_count && repl_ok(result); i++) {
        struct scrub_stored *stored = &visit->stored[i];
        struct repl_verified key = key_of(&stored->id);
        const struct repl_verified *found = repl_verified_list_find(&visit->file.list, &key);
        int64_t committed_ns =
            stored->entry != SIZE_MAX ? visit->chain.entries[stored->entry].committed_ns : 0;
        int64_t record_ns = found != NULL ? found->time_ns : 0;
        if (found == NULL && (record_ns = merged_ns(visit, &stored->id)) != 0) {
            key.time_ns = record_ns;
            result = repl_buffer_append(&pieces, &key, sizeof key, err);
        }
        stored->damaged = found != NULL && found->damaged;
        seen_take(visit, stored);
        stored->verified_ns =
            repl_scrub_verified_ns(record_ns, committed_ns, visit->every_ns, visit->now_ns);
        if (is_suspected(visit, &stored->id, record_ns))
            stored->verified_ns = visit->now_ns - visit->every_ns;
        if (stored->gone)
            stored->verified_ns = visit->now_ns - visit->every_ns;
        /* Nobody says when a supply came: it is read once, and then its record does. */
        if (committed_ns == 0 && record_ns == 0)
            stored->verified_ns = visit->now_ns - visit->every_ns;
    }
    if (repl_ok(result))
        result = repl_verified_file_append(&visit->file,
                                           (const struct repl_verified *)(void *)pieces.data,
                                           pieces.size / sizeof(struct repl_verified), err);
    repl_buffer_fini(&pieces);
    return result;
}

static int stored_order(const void *a, const void *b)
{
    return repl_segment_id_order(&((const struct scrub_stored *)a)->id,
                                 &((const struct scrub_stored *)b)->id);
}

bool scrub_visit_is_damaged(const struct scrub_visit *visit, const struct repl_segment_id *id)
{
    const struct scrub_stored key = {.id = *id};
    const struct scrub_stored *found =
        bsearch(&key, visit->stored, visit->stored_count, sizeof key, stored_order);
    return found != NULL && found->damaged;
}

bool scrub_visit_stores(const struct scrub_visit *visit, const struct repl_segment_id *id)
{
    const struct scrub_stored key = {.id = *id};
    return visit->stored_count > 0 &&
           bsearch(&key, visit->stored, visit->stored_count, sizeof key, stored_order) != NULL;
}

static bool is_stored(void *context, const struct repl_verified *verified)
{
    const struct repl_segment_id id = {.to_seq = verified->to_seq,
                                       .part = verified->part,
                                       .supply = verified->supply,
                                       .merge = verified->merge};
    return scrub_visit_stores(context, &id);
}

static void stored_take(struct scrub_visit *visit, struct repl_buffer *stored)
{
    visit->stored = (struct scrub_stored *)(void *)stored->data;
    visit->stored_count = stored->size / sizeof *visit->stored;
    if (visit->stored_count > 0)
        qsort(visit->stored, visit->stored_count, sizeof *visit->stored, stored_order);
}

/* *looked: what is known to be gone is, and need not be in the record any more. */
static repl_result gone_add(struct scrub_visit *visit, struct repl_buffer *stored, bool *looked,
                            struct repl_error *err)
{
    struct repl_buffer gone = {0};
    repl_result result = scrub_gone_find(visit, &gone, looked, err);
    const struct repl_segment_id *ids = (const void *)gone.data;
    for (size_t i = 0; i < gone.size / sizeof *ids && repl_ok(result); i++) {
        const struct scrub_stored supply = {.id = ids[i], .entry = SIZE_MAX, .gone = true};
        result = stored_add(stored, &supply, err);
    }
    repl_buffer_fini(&gone);
    stored_take(visit, stored);
    return result;
}

static repl_result look(struct scrub_visit *visit, struct repl_error *err)
{
    struct repl_buffer stored = {0};
    bool looked = false;
    repl_result result = stored_list(visit, &stored, err);
    stored_take(visit, &stored);
    if (repl_ok(result))
        result = repl_verified_file_read(visit->store, visit->volume, &visit->file, err);
    if (repl_ok(result))
        result = gone_add(visit, &stored, &looked, err);
    if (repl_ok(result) && (looked || visit->file.torn ||
                            visit->file.records > 2 * visit->stored_count + RECORDS_SPARE))
        result = repl_verified_file_rewrite(&visit->file, is_stored, visit, err);
    return repl_ok(result) ? times_find(visit, err) : result;
}

/* --- reading --------------------------------------------------------------------------------- */

static repl_result records_flush(struct batch *batch, struct repl_error *err)
{
    repl_result result =
        repl_verified_file_append(&batch->visit->file, batch->records, batch->record_count, err);
    batch->record_count = 0;
    return result;
}

/* The points that are made of the segment: from its own up to the next full, or before the one that
 * has nothing of what is damaged. */
static void points_of(const struct repl_chain *chain, size_t entry, struct scrub_damage *damage)
{
    for (size_t i = entry; i < chain->count; i++) {
        if (i > entry && chain->entries[i].begins)
            return;
        if (damage->healed_seq != 0 && chain->entries[i].commit.to_seq >= damage->healed_seq)
            return;
        if (!repl_chain_has_point(chain, i))
            continue;
        damage->last_seq = chain->entries[i].commit.to_seq;
        if (damage->first_seq == 0)
            damage->first_seq = damage->last_seq;
    }
}

static struct scrub_damage damage_of(const struct scrub_visit *visit,
                                     const struct scrub_stored *stored)
{
    struct scrub_damage damage = {.id = stored->id,
                                  .healed_seq = stored->healed_seq,
                                  .refer_first = stored->refer_first,
                                  .refer_last = stored->refer_last,
                                  .opens = stored->opens,
                                  .looked = stored->looked};
    if (stored->entry != SIZE_MAX)
        points_of(&visit->chain, stored->entry, &damage);
    if (stored->mates != NULL)
        snprintf(damage.mates, sizeof damage.mates, "%s", stored->mates);
    return damage;
}

static void damage_log(const struct scrub_visit *visit, const struct scrub_stored *stored,
                       const char *why)
{
    struct scrub_damage damage = damage_of(visit, stored);
    char text[REPL_SEGMENT_ID_TEXT_SIZE], points[128];
    repl_segment_id_text(&stored->id, text);
    scrub_damage_points(&damage, points, sizeof points);
    repl_log(LOG_ERR,
             "volume %s: %s %s is damaged: %s. What may not restore exactly: %s%s%s%s. Nothing was "
             "changed: bring the file back from a copy of the store, it is looked at again every "
             "hour; \"repl verify\" says what else is damaged",
             visit->volume, stored->id.supply != 0 ? "supply" : "segment", text, why, points,
             damage.mates[0] != '\0' ? "; of volumes that refer to its chunks: " : "", damage.mates,
             damage.healed_seq != 0 ? "; later points do not need what was damaged" : "");
}

/* What was found of it into record and log. */
static repl_result note(struct batch *batch, struct scrub_stored *stored, bool damaged,
                        const char *why, struct repl_error *err)
{
    struct scrub_visit *visit = batch->visit;
    char text[REPL_SEGMENT_ID_TEXT_SIZE];
    if (damaged && !stored->damaged)
        damage_log(visit, stored, why);
    if (!damaged && stored->damaged) {
        repl_segment_id_text(&stored->id, text);
        repl_log(LOG_INFO, "volume %s: %s %s is whole again", visit->volume,
                 stored->id.supply != 0 ? "supply" : "segment", text);
    }
    stored->damaged = damaged;
    stored->verified_ns = repl_now_wall_ns();
    struct repl_verified record = key_of(&stored->id);
    record.time_ns = stored->verified_ns;
    record.damaged = damaged;
    batch->records[batch->record_count++] = record;
    return batch->record_count == RECORDS_MAX || damaged ? records_flush(batch, err) : REPL_SUCCESS;
}

/* What the source is asked for, where it may have it. */
static void mend_ask(struct scrub_visit *visit, struct scrub_broken *broken)
{
    struct repl_error err;
    if (!broken->current || broken->extents.extent_count == 0)
        return;
    visit->asks = true;
    repl_result added = scrub_resend_add(visit, &broken->extents, &err);
    if (!repl_ok(added))
        repl_log(LOG_ERR, "volume %s: what is damaged cannot be asked for: %s", visit->volume,
                 err.text);
}

/* By what volumes are harmed that refer to chunks of it. */
static void harms_sum(const struct scrub_visit *visit, struct scrub_stored *stored)
{
    char mates[sizeof((struct scrub_damage *)0)->mates] = "";
    size_t used = 0;
    bool full = false;
    stored->refer_first = stored->refer_last = 0;
    for (const struct scrub_harm *harm = visit->harms; harm != NULL; harm = harm->next) {
        if (repl_segment_id_order(&harm->id, &stored->id) != 0)
            continue;
        if (strcmp(harm->volume, visit->volume) == 0) {
            stored->refer_first = harm->runs[0].first_seq;
            stored->refer_last = harm->runs[harm->run_count - 1].last_seq;
        } else if (!full) {
            full = used + strlen(harm->volume) + sizeof ", ..." >= sizeof mates;
            used += (size_t)snprintf(mates + used, sizeof mates - used, "%s%s",
                                     used > 0 ? ", " : "", full ? "..." : harm->volume);
        }
    }
    mates_put(stored, mates);
}

/* Where that cannot be found out, only what lies in the segment itself is said to be harmed. */
static void harms_find(struct scrub_visit *visit, struct scrub_stored *stored,
                       struct scrub_broken *broken)
{
    struct repl_error err;
    repl_result result = REPL_SUCCESS;
    if (!broken->opened)
        result = repl_index_lost(visit->index, visit->volume, &stored->id, &broken->lost,
                                 LOST_NAMES_MAX, &err);
    if (repl_ok(result))
        result = scrub_harm_find(visit, &stored->id, (const void *)broken->lost.data,
                                 broken->lost.size / sizeof(struct repl_digest), &err);
    if (!repl_ok(result))
        repl_log(LOG_ERR, "volume %s: who refers to what is damaged is not known: %s",
                 visit->volume, err.text);
    harms_sum(visit, stored);
}

/* Whether what is behind the segment begins anew somewhere. */
static bool is_followed_by_full(const struct repl_chain *chain, size_t entry)
{
    for (size_t i = entry + 1; i < chain->count; i++) {
        if (chain->entries[i].begins)
            return true;
    }
    return false;
}

/* A segment that cannot be opened spoils all that is behind it but a full. What was so only once
 * may be a disk that comes back: for that the source is not made to read all it has. */
static void full_want(struct scrub_visit *visit, const struct scrub_stored *stored)
{
    if (stored->entry == SIZE_MAX || is_followed_by_full(&visit->chain, stored->entry))
        return;
    visit->full_wanted |= stored->damaged;
    visit->opaque_is_fresh |= !stored->damaged;
    if (stored->id.to_seq > visit->opaque_seq)
        visit->opaque_seq = stored->id.to_seq;
}

/* *why: also why it is not. */
static bool is_mended(struct scrub_visit *visit, struct scrub_stored *stored,
                      struct repl_error *why)
{
    struct repl_error vain, ignored;
    struct scrub_broken broken;
    const struct site_patch *before = visit->patches;
    scrub_broken_init(&broken);
    visit->search = visit->first || !stored->damaged;
    bool mended = repl_ok(scrub_repair(visit, stored->entry, &stored->id, &broken, &vain));
    /* Where that cannot be found out, the damage is said of too many points, and looked at again.
     */
    if (!mended && broken.known && !broken.healed_known && stored->entry != SIZE_MAX)
        repl_ignore(scrub_heal(visit, stored->entry, &stored->id, &broken, NULL, &ignored));
    stored->opens = broken.known;
    stored->healed_seq = broken.healed_known ? broken.healed_seq : 0;
    if (!mended)
        harms_find(visit, stored, &broken);
    if (!mended && visit->patches == before) /* else it is here, and a merge takes it */
        mend_ask(visit, &broken);
    if (!mended && broken.opaque)
        full_want(visit, stored);
    scrub_broken_fini(&broken);
    visit->repaired_count += mended;
    if (!mended) {
        size_t used = strlen(why->text);
        snprintf(why->text + used, sizeof why->text - used, "; it cannot be mended here%s: %.200s",
                 visit->patches != before ? ", but by a merge, which follows" : "", vain.text);
    }
    return mended;
}

/* One whose chunks nobody refers to is not missed. */
static repl_result gone_note(struct batch *batch, struct scrub_stored *stored,
                             struct repl_error *why, struct repl_error *err)
{
    bool missed = stored->gone && !is_mended(batch->visit, stored, why) &&
                  (stored->refer_first != 0 || stored->mates != NULL);
    stored->verified_ns = batch->visit->now_ns;
    return missed || stored->damaged ? note(batch, stored, missed, why->text, err) : REPL_SUCCESS;
}

static repl_result item_read(struct batch *batch, struct scrub_stored *stored,
                             struct repl_error *err)
{
    struct scrub_visit *visit = batch->visit;
    const struct repl_log_piece *piece =
        stored->entry != SIZE_MAX ? &visit->chain.entries[stored->entry] : NULL;
    struct repl_error why = {.text = ""};
    repl_result found =
        scrub_read(&batch->reader, visit->store, visit->volume, &stored->id, stored->size,
                   piece != NULL ? &piece->commit.digest : NULL, &why);
    bool listed;
    stored->looked = true;
    if (repl_ok(found))
        return note(batch, stored, false, "", err);
    if (!scrub_is_damage(found))
        return repl_fail(err, found.code, "%s", why.text);
    if (stored->id.supply != 0 && found.code == REPL_E_MISSING)
        return gone_note(batch, stored, &why, err);
    /* A merge may have taken it away since the visit began. */
    REPL_TRY(site_chain_lists(visit->index, visit->volume, &stored->id, &listed, err));
    if (listed && is_mended(visit, stored, &why))
        return note(batch, stored, false, "", err);
    return listed ? note(batch, stored, true, why.text, err) : REPL_SUCCESS;
}

static bool may_go_on(const struct batch *batch)
{
    return !atomic_load(batch->visit->stop) && repl_now_mono_ns() < batch->until_ns;
}

/* All that is damaged, if some of it is to be looked at again: what is wanted of the source is
 * known when all of it was. */
static repl_result damaged_read(struct batch *batch, struct repl_error *err)
{
    struct scrub_visit *visit = batch->visit;
    bool due = false;
    for (size_t i = 0; i < visit->stored_count && !due; i++) {
        const struct scrub_stored *stored = &visit->stored[i];
        due = stored->damaged && (visit->first || visit->again ||
                                  visit->now_ns - stored->verified_ns >= LOOK_AGAIN_NS);
    }
    for (size_t i = 0; i < visit->stored_count && due && !atomic_load(visit->stop); i++) {
        if (visit->stored[i].damaged)
            REPL_TRY(item_read(batch, &visit->stored[i], err));
    }
    return REPL_SUCCESS;
}

/* What is late, and then, oldest first, as far as the credit goes. */
static repl_result due_read(struct batch *batch, const struct repl_scrub_item *items, size_t count,
                            size_t late, struct repl_error *err)
{
    struct scrub_visit *visit = batch->visit;
    for (size_t i = 0; i < count && may_go_on(batch); i++) {
        double size = (double)items[i].size_bytes;
        if (i >= late && visit->credit < size)
            return REPL_SUCCESS;
        visit->credit -= i < late ? 0 : size;
        visit->more =
            i + 1 < late || (i + 1 < count && visit->credit >= (double)items[i + 1].size_bytes);
        REPL_TRY(item_read(batch, &visit->stored[items[i].index], err));
    }
    return REPL_SUCCESS;
}

/* *total: of all items. */
static struct repl_scrub_item *items_list(const struct scrub_visit *visit, double *total)
{
    struct repl_scrub_item *items = calloc(visit->stored_count + 1, sizeof *items);
    *total = 0;
    for (size_t i = 0; items != NULL && i < visit->stored_count; i++) {
        items[i] = (struct repl_scrub_item){.verified_ns = visit->stored[i].verified_ns,
                                            .size_bytes = visit->stored[i].size,
                                            .index = i};
        *total += (double)visit->stored[i].size;
    }
    if (items != NULL)
        repl_scrub_sort(items, visit->stored_count);
    return items;
}

static repl_result batch_read(struct batch *batch, struct repl_error *err)
{
    struct scrub_visit *visit = batch->visit;
    double total;
    struct repl_scrub_item *items = items_list(visit, &total);
    if (items == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for %zu segments", visit->stored_count);
    size_t late;
    uint64_t rate =
        repl_scrub_rate(items, visit->stored_count, visit->every_ns, visit->now_ns, &late);
    visit->credit += (double)rate * ((double)visit->idle_ns / 1e9);
    if (visit->credit > total)
        visit->credit = total;
    visit->pacer = (struct site_pacer){.rate_bytes = visit->rate_limit,
                                       .stop = visit->stop,
                                       .yield = late > 0 ? NULL : visit->merging};
    repl_result result = damaged_read(batch, err);
    if (repl_ok(result))
        result = due_read(batch, items, visit->stored_count, late, err);
    free(items);
    return result;
}

static repl_result visit_read(struct scrub_visit *visit, struct repl_error *err)
{
    struct batch batch = {.visit = visit, .until_ns = repl_now_mono_ns() + visit->batch_ns};
    repl_result result = scrub_reader_init(&batch.reader, &visit->pacer, err);
    if (repl_ok(result))
        result = batch_read(&batch, err);
    struct repl_error flush_err;
    repl_result flushed = records_flush(&batch, &flush_err);
    if (repl_ok(result) && !repl_ok(flushed))
        result = repl_fail(err, flushed.code, "%s", flush_err.text);
    visit->read_bytes = batch.reader.read_bytes;
    scrub_reader_fini(&batch.reader);
    return result;
}

static void sum_up(struct scrub_visit *visit)
{
    visit->oldest_ns = INT64_MAX;
    visit->asked = repl_ok(visit->outcome);
    for (size_t i = 0; i < visit->stored_count; i++) {
        const struct scrub_stored *stored = &visit->stored[i];
        if (stored->verified_ns < visit->oldest_ns)
            visit->oldest_ns = stored->verified_ns;
        if (!stored->damaged)
            continue;
        visit->asked = visit->asked && stored->looked;
        visit->damaged_count++;
        if (visit->damage_count < SCRUB_DAMAGES_MAX)
            visit->damages[visit->damage_count++] = damage_of(visit, stored);
    }
}

/* What reads a disk at the lowest priority where its scheduler knows of any. */
static void priority_lower(void)
{
    syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0));
}

void scrub_visit_work(struct repl_job *job)
{
    struct scrub_visit *visit = job->context;
    priority_lower();
    repl_chain_init(&visit->chain);
    repl_extent_map_init(&visit->wanted);
    visit->outcome = look(visit, &visit->err);
    visit->looked = repl_ok(visit->outcome);
    if (visit->looked) {
        visit->outcome = visit_read(visit, &visit->err);
        sum_up(visit);
    }
    repl_chain_fini(&visit->chain);
    repl_verified_file_fini(&visit->file);
    for (size_t i = 0; i < visit->stored_count; i++)
        free(visit->stored[i].mates);
    free(visit->stored);
    visit->stored = NULL;
}
