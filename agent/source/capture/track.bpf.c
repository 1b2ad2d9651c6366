// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * The tracking programs. They set a bit for every page that a write or discard
 * of the followed disk touches, and count what they marked.
 *
 * block_rq_complete   before the kernel accounts the same bytes and tells the
 *                     writer: marks `landed`.
 * block_bio_queue     before the bio becomes (part of) a request: marks the
 *                     active one of the two `touched`.
 * block_bio_complete  fires only for bios that end without a request (refused
 *                     with EAGAIN, say): takes their bytes out of what was
 *                     submitted. It marks nothing.
 *
 * Whether a write changes data depends on its operation alone, and which those
 * are on the kernel's own rule: odd numbers write, and from REQ_OP_DRV_IN on the
 * driver's passthrough begins, which the kernel does not account by default.
 * That rule also covers operations this file has never heard of.
 *
 * What a program counts is what block/blk-mq.c is about to account: the bytes
 * of each completion step (a request may have several) of a request that still
 * has bios. See common/capture/audit.h for what that is good for.
 *
 * The mark of a completion must be visible before the count that includes it; the
 * count of a submission before it is looked up which bitmap is the active one. BPF's
 * atomic operations are ordered only where they return the old value, so all here do.
 */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "track_layout.h"

#define SECTOR_SHIFT       9
#define SECTORS_PAGE_SHIFT 3
#define OP_MASK            0xffu
#define OP_FLUSH           2u
#define OP_DISCARD         3u
#define OP_PASSTHROUGH     34u
/* One request's length is a __u32, so 4 GiB is the most there can be. */
#define MAX_RANGE_WORDS ((1u << 20) / 64u + 1u)
/* Ranges in a merged discard; nvme and virtio allow 256. */
#define MAX_DISCARD_RANGES 1024u

#define KERNEL_TYPE __attribute__((preserve_access_index))

struct gendisk {
    int major;
    int first_minor;
} KERNEL_TYPE;

struct block_device {
    struct gendisk *bd_disk;
} KERNEL_TYPE;

struct bvec_iter {
    __u64 bi_sector;
    unsigned int bi_size;
} KERNEL_TYPE;

struct bio {
    struct bio *bi_next;
    struct block_device *bi_bdev;
    unsigned int bi_opf;
    struct bvec_iter bi_iter;
} KERNEL_TYPE;

struct request_queue {
    struct gendisk *disk;
} KERNEL_TYPE;

struct request {
    struct request_queue *q;
    unsigned int cmd_flags;
    __u64 __sector;
    struct bio *bio;
} KERNEL_TYPE;

enum req_flag_bits {
    __REQ_FUA = 17,
};

/* Only the size of this one is set by the agent, before it loads. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} bits SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct repl_track_config);
} config SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct repl_track_counts);
} counts SEC(".maps");

static __always_inline const volatile struct repl_track_config *config_of(void)
{
    __u32 zero = 0;
    return bpf_map_lookup_elem(&config, &zero);
}

static __always_inline struct repl_track_counts *counts_of(void)
{
    __u32 zero = 0;
    return bpf_map_lookup_elem(&counts, &zero);
}

/* Ordered, see above: the empty asm keeps the compiler from dropping the old value, and with it
 * the order. */
static __always_inline void ordered_add(__u64 *at, __u64 value)
{
    __u64 old = __sync_fetch_and_add(at, value);
    asm volatile("" : : "r"(old));
}

static __always_inline void ordered_or(__u64 *at, __u64 value)
{
    __u64 old = __sync_fetch_and_or(at, value);
    asm volatile("" : : "r"(old));
}

/* --- faults, in the test build --------------------------------------------------------------- */

#ifdef REPL_TRACK_FAULTS
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct repl_track_faults);
} faults SEC(".maps");

static __always_inline struct repl_track_faults *faults_of(void)
{
    __u32 zero = 0;
    return bpf_map_lookup_elem(&faults, &zero);
}

static __always_inline int overlook(__u64 fault, __u64 choice)
{
    struct repl_track_faults *f = faults_of();
    if (!f || !(f->mask & fault) || f->every == 0)
        return 0;
    if ((choice * 0x9e3779b97f4a7c15ull >> 32) % f->every != 0)
        return 0;
    if (f->limit != 0 && f->dropped >= f->limit)
        return 0;
    ordered_add(&f->dropped, 1);
    return 1;
}

static __always_inline __u64 flush_serial(void)
{
    struct repl_track_faults *f = faults_of();
    return f ? __sync_fetch_and_add(&f->flush_serial, 1) : 0;
}

static long idle(__u32 index, void *context)
{
    (void)index;
    (void)context;
    return 0;
}

static __always_inline void linger(void)
{
    struct repl_track_faults *f = faults_of();
    if (f && f->delay_loops > 0 && f->delay_loops <= 1u << 20)
        bpf_loop((__u32)f->delay_loops, idle, 0, 0);
}
#else
#define overlook(fault, choice) 0
#define flush_serial()          0
#define linger()                ((void)0)
#endif

/* --- marking --------------------------------------------------------------------------------- */

struct run {
    __u32 first_word; /* in the map */
    __u32 last_word;
    __u64 first_mask;
    __u64 last_mask;
    __u64 failed;
};

static long or_word(__u32 index, struct run *run)
{
    __u32 word = run->first_word + index;
    __u64 mask = ~0ull;
    if (word == run->first_word)
        mask &= run->first_mask;
    if (word == run->last_word)
        mask &= run->last_mask;
    __u64 *at = bpf_map_lookup_elem(&bits, &word);
    if (!at) {
        run->failed = 1;
        return 1;
    }
    ordered_or(at, mask);
    return 0;
}

/* Sets bits first to last (inclusive) of the bitmap that begins at word base. */
static __always_inline int or_bits(__u64 base, __u64 first, __u64 last)
{
    struct run run = {
        .first_word = (__u32)(base + (first >> 6)),
        .last_word = (__u32)(base + (last >> 6)),
        .first_mask = ~0ull << (first & 63),
        .last_mask = ~0ull >> (63 - (last & 63)),
    };
    __u32 words = run.last_word - run.first_word + 1;
    if (words > MAX_RANGE_WORDS)
        return -1;
    if (words <= 2) { /* up to 256 KiB, and so nearly all there is */
        or_word(0, &run);
        if (words == 2)
            or_word(1, &run);
    } else {
        bpf_loop(words, or_word, &run, 0);
    }
    return run.failed ? -1 : 0;
}

/* Marks what of a range of the disk lies on the protected device. The leaf before the summary:
 * see the argument in track_bits.h. */
static __always_inline void mark(const volatile struct repl_track_config *c,
                                 struct repl_track_counts *n, __u32 area, __u32 side, __u32 class,
                                 __u64 sector, __u32 bytes)
{
    __u64 end = sector + ((bytes + 511) >> SECTOR_SHIFT);
    __u64 from = c->start_sector, to = from + c->sector_count;
    if (sector < from)
        sector = from;
    if (end > to)
        end = to;
    if (sector >= end)
        return;
    __u64 first = (sector - from) >> SECTORS_PAGE_SHIFT;
    __u64 last = (end - 1 - from) >> SECTORS_PAGE_SHIFT;
    __u64 base = (__u64)area * c->area_words;
    if (last >= c->capacity_pages || or_bits(base, first, last) != 0 ||
        or_bits(base + c->leaf_words, first / REPL_TRACK_LINE_PAGES,
                last / REPL_TRACK_LINE_PAGES) != 0)
        ordered_add(&n->lost[side & 1], 1);
    else
        ordered_add(&n->tallies[side & 1][class & 1].pages, last - first + 1);
}

static __always_inline void count(struct repl_track_counts *n, __u32 side, __u32 class, __u32 bytes)
{
    struct repl_track_tally *tally = &n->tallies[side][class & 1];
    ordered_add(&tally->events, 1);
    ordered_add(&tally->bytes, bytes & ~511u);
}

/* --- events ---------------------------------------------------------------------------------- */

static __always_inline int changes_data(__u32 op)
{
    return (op & 1) && op < OP_PASSTHROUGH;
}

static __always_inline int is_followed(const volatile struct repl_track_config *c,
                                       struct gendisk *disk)
{
    return disk && (__u64)disk->major == c->disk_major && (__u64)disk->first_minor == c->disk_minor;
}

/* A discard may be a merger of many ranges far apart, a bio each. */
struct discard {
    __u64 bio; /* address of a struct bio */
    __u64 left;
};

static long mark_discarded_bio(__u32 index, struct discard *d)
{
    (void)index;
    struct bio *bio = (struct bio *)d->bio;
    struct repl_track_counts *n = counts_of();
    const volatile struct repl_track_config *c = config_of();
    if (!bio || d->left == 0 || !n || !c)
        return 1;
    __u64 sector = BPF_CORE_READ(bio, bi_iter.bi_sector);
    __u64 bytes = BPF_CORE_READ(bio, bi_iter.bi_size);
    if (bytes > d->left)
        bytes = d->left;
    mark(c, n, REPL_TRACK_LANDED, REPL_TRACK_COMPLETION, REPL_TRACK_DISCARD, sector, (__u32)bytes);
    d->left -= bytes;
    d->bio = (__u64)BPF_CORE_READ(bio, bi_next);
    return 0;
}

SEC("tp_btf/block_rq_complete")
int BPF_PROG(repl_completed, struct request *rq, unsigned char error, unsigned int bytes)
{
    (void)error; /* what a failed write has left behind, nobody knows */
    const volatile struct repl_track_config *c = config_of();
    struct repl_track_counts *n = counts_of();
    if (!c || !n || !rq->q || !is_followed(c, rq->q->disk))
        return 0;
    __u32 op = rq->cmd_flags & OP_MASK;
    if (op == OP_FLUSH) {
        if (!overlook(REPL_TRACK_DROP_FLUSH, flush_serial()))
            ordered_add(&n->flushes, 1);
        return 0;
    }
    /* the end of a flush sequence completes no bytes a second time */
    if (!changes_data(op) || bytes == 0)
        return 0;
    __u64 sector = rq->__sector;
    __u32 class = op == OP_DISCARD ? REPL_TRACK_DISCARD : REPL_TRACK_WRITE;
    if (overlook(class == REPL_TRACK_DISCARD ? REPL_TRACK_DROP_DISCARD_COMPLETION
                                             : REPL_TRACK_DROP_WRITE_COMPLETION,
                 sector >> SECTORS_PAGE_SHIFT))
        return 0;
    if (class == REPL_TRACK_DISCARD && rq->bio) {
        struct discard d = {.bio = (__u64)rq->bio, .left = bytes};
        bpf_loop(MAX_DISCARD_RANGES, mark_discarded_bio, &d, 0);
        if (d.left != 0)
            ordered_add(&n->lost[REPL_TRACK_COMPLETION], 1);
    } else {
        mark(c, n, REPL_TRACK_LANDED, REPL_TRACK_COMPLETION, class, sector, bytes);
    }
    linger();
    if (rq->bio) { /* without one the kernel accounts nothing */
        if (class == REPL_TRACK_WRITE &&
            rq->cmd_flags & 1u << bpf_core_enum_value(enum req_flag_bits, __REQ_FUA))
            ordered_add(&n->fua_writes, 1);
        count(n, REPL_TRACK_COMPLETION, class, bytes);
    }
    return 0;
}

SEC("tp_btf/block_bio_queue")
int BPF_PROG(repl_submitted, struct bio *bio)
{
    const volatile struct repl_track_config *c = config_of();
    struct repl_track_counts *n = counts_of();
    if (!c || !n || !bio->bi_bdev || !is_followed(c, bio->bi_bdev->bd_disk))
        return 0;
    __u32 op = bio->bi_opf & OP_MASK, bytes = bio->bi_iter.bi_size;
    if (!changes_data(op) || bytes == 0)
        return 0;
    __u64 sector = bio->bi_iter.bi_sector;
    __u32 class = op == OP_DISCARD ? REPL_TRACK_DISCARD : REPL_TRACK_WRITE;
    if (overlook(class == REPL_TRACK_DISCARD ? REPL_TRACK_DROP_DISCARD_SUBMISSION
                                             : REPL_TRACK_DROP_WRITE_SUBMISSION,
                 sector >> SECTORS_PAGE_SHIFT))
        return 0;
    count(n, REPL_TRACK_SUBMISSION, class, bytes);
    linger();
    __u32 area = c->active ? REPL_TRACK_TOUCHED_B : REPL_TRACK_TOUCHED_A;
    linger();
    mark(c, n, area, REPL_TRACK_SUBMISSION, class, sector, bytes);
    return 0;
}

SEC("tp_btf/block_bio_complete")
int BPF_PROG(repl_withdrawn, struct request_queue *queue, struct bio *bio)
{
    (void)queue;
    const volatile struct repl_track_config *c = config_of();
    struct repl_track_counts *n = counts_of();
    if (!c || !n || !bio->bi_bdev || !is_followed(c, bio->bi_bdev->bd_disk))
        return 0;
    __u32 op = bio->bi_opf & OP_MASK, bytes = bio->bi_iter.bi_size;
    if (changes_data(op) && bytes != 0)
        count(n, REPL_TRACK_WITHDRAWAL, op == OP_DISCARD ? REPL_TRACK_DISCARD : REPL_TRACK_WRITE,
              bytes);
    return 0;
}

/* The kernel lends some helpers only to programs that say so. */
char repl_license[] SEC("license") = "GPL";
