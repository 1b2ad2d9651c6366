// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Notices which pages of the files of one filesystem are written to, through a
 * mapping too, where fanotify says nothing; and what else changes a file's
 * content.
 *
 * writeback_dirty_folio   fires when a clean folio turns dirty: behind the copy of
 *                         a write, ahead of the first store through a mapping.
 *                         The agent takes a mark, then has the file written out,
 *                         which makes its pages clean and its mappings read-only,
 *                         then reads it: what is stored later turns a folio dirty
 *                         again.
 * iomap_dio_rw_begin,     a direct write: its pages are marked ahead of it and
 * iomap_dio_complete      behind it, so that what was read in between is read
 *                         again.
 * iomap_iter              the same for kernels before 6.6, which do not have these two:
 *                         ahead of each step of a direct write.
 * ext4_*, xfs_*           whatever gives a range of a file other blocks than those
 *                         of its own writes (fallocate's modes, reflinks, exchanged
 *                         extents): the whole file is marked, ahead of it. Behind
 *                         it the file's mapping is another one, which the agent
 *                         looks at too (tree_mapping.h). Those that a kernel does
 *                         not have are left out by the agent.
 *
 * The first is in folio_account_dirtied, which then adds the folio's pages to
 * nr_dirtied of /proc/vmstat if its device takes part in writeback. They are
 * counted here under the same condition, for all filesystems, so that the agent
 * can tell whether a call was skipped.
 */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "tree_dirty_layout.h"

#define KERNEL_TYPE __attribute__((preserve_access_index))

struct backing_dev_info {
    unsigned int capabilities;
} KERNEL_TYPE;

struct super_block {
    __u32 s_dev;
    struct backing_dev_info *s_bdi;
} KERNEL_TYPE;

struct inode {
    unsigned short i_mode;
    struct super_block *i_sb;
    unsigned long i_ino;
} KERNEL_TYPE;

struct xfs_inode {
    struct inode i_vnode;
} KERNEL_TYPE;

struct address_space {
    struct inode *host;
} KERNEL_TYPE;

struct file {
    struct inode *f_inode;
} KERNEL_TYPE;

struct kiocb {
    struct file *ki_filp;
    long long ki_pos;
} KERNEL_TYPE;

struct iomap_iter {
    struct inode *inode;
    long long pos;
    __u64 len;
    unsigned int flags;
} KERNEL_TYPE;

struct iov_iter {
    _Bool data_source; /* of a write */
    unsigned long count;
} KERNEL_TYPE;

struct folio {
    unsigned long index;
} KERNEL_TYPE;

/* Its size has had several places. */
struct folio___pages { /* since 6.15 */
    unsigned int _nr_pages;
} KERNEL_TYPE;
struct folio___older {
    unsigned int _folio_nr_pages;
} KERNEL_TYPE;
enum pageflags___head {
    PG_head___head,
};

#define ITER_WRITE         (1 << 0) /* IOMAP_WRITE */
#define ITER_DIRECT        (1 << 4) /* IOMAP_DIRECT */
#define CAPABLE_WRITEBACK  1        /* BDI_CAP_WRITEBACK, since 5.10 */
#define FILE_KIND          0170000
#define FILE_KIND_BLOCK    0060000
#define PAGE_SHIFT         12
#define DIRECT_BLOCKS_MOST 32 /* of one write; more is the whole file */

struct blocks {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, REPL_TREE_DIRTY_BLOCKS);
    __type(key, struct repl_tree_dirty_key);
    __type(value, struct repl_tree_dirty_bits);
};

struct blocks dirty SEC(".maps"), other SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
    __uint(max_entries, 1);
    __type(key, __u32);
    __array(values, struct blocks);
} active SEC(".maps") = {.values = {&dirty}};

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, REPL_TREE_DIRECT_MOST);
    __type(key, __u64);
    __type(value, struct repl_tree_direct);
} direct SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct repl_tree_dirty_state);
} state SEC(".maps");

static __always_inline struct repl_tree_dirty_state *state_of(void)
{
    __u32 zero = 0;
    return bpf_map_lookup_elem(&state, &zero);
}

/* Ordered: without the old value it would not be. */
static __always_inline void ordered_add(__u64 *at, __u64 value)
{
    __u64 old = __sync_fetch_and_add(at, value);
    asm volatile("" : : "r"(old));
}

/* --- marks ----------------------------------------------------------------------------------- */

static __always_inline int entry_mark(void *blocks, const struct repl_tree_dirty_key *key,
                                      const struct repl_tree_dirty_bits *bits)
{
    struct repl_tree_dirty_bits *entry = bpf_map_lookup_elem(blocks, key);
    if (!entry) {
        if (bpf_map_update_elem(blocks, key, bits, BPF_NOEXIST) == 0)
            return 1;
        entry = bpf_map_lookup_elem(blocks, key); /* another processor was quicker */
    }
    if (!entry)
        return 0;
    for (__u32 i = 0; i < REPL_TREE_BLOCK_WORDS; i++)
        if (bits->words[i] & ~entry->words[i])
            __sync_fetch_and_or(&entry->words[i], bits->words[i]);
    return 1;
}

static __always_inline void mark(struct repl_tree_dirty_state *s, __u64 inode, __u64 block,
                                 const struct repl_tree_dirty_bits *bits)
{
    const struct repl_tree_dirty_key key = {.inode = inode, .block = block};
    __u32 zero = 0;
    void *blocks = bpf_map_lookup_elem(&active, &zero);
    if (!blocks || !entry_mark(blocks, &key, bits))
        ordered_add(&s->lost, 1);
    ordered_add(&s->marks, 1);
}

static __always_inline void mark_whole(struct repl_tree_dirty_state *s, __u64 inode, __u64 late)
{
    const struct repl_tree_dirty_bits none = {};
    mark(s, inode, REPL_TREE_WHOLE | late, &none);
}

/* Pages first to last of a block. */
static __always_inline void bits_set(struct repl_tree_dirty_bits *bits, __u32 first, __u32 last)
{
    for (__u32 i = 0; i < REPL_TREE_BLOCK_WORDS; i++) {
        __u32 begin = i * 64, end = begin + 63;
        bits->words[i] = 0;
        if (first > end || last < begin)
            continue;
        __u32 from = first > begin ? first - begin : 0, to = last < end ? last - begin : 63;
        bits->words[i] = (~(__u64)0 << (from & 63)) & (~(__u64)0 >> ((63 - to) & 63));
    }
}

static __always_inline void mark_pages(struct repl_tree_dirty_state *s, __u64 inode, __u64 first,
                                       __u64 last, __u64 late)
{
    struct repl_tree_dirty_bits bits;
    if ((last >> REPL_TREE_BLOCK_SHIFT) - (first >> REPL_TREE_BLOCK_SHIFT) >= DIRECT_BLOCKS_MOST) {
        mark_whole(s, inode, late);
        return;
    }
    for (__u32 i = 0; i < DIRECT_BLOCKS_MOST && first <= last; i++) {
        __u64 end = first | (REPL_TREE_BLOCK_PAGES - 1);
        __u64 to = end < last ? end : last;
        bits_set(&bits, first & (REPL_TREE_BLOCK_PAGES - 1), to & (REPL_TREE_BLOCK_PAGES - 1));
        mark(s, inode, first >> REPL_TREE_BLOCK_SHIFT | late, &bits);
        first = end + 1;
    }
}

/* --- the page cache -------------------------------------------------------------------------- */

/* 0: it cannot be told. */
static __always_inline __u32 folio_pages(struct folio *folio)
{
    unsigned long flags = 0; /* its first member, in every version */
    if (bpf_probe_read_kernel(&flags, sizeof flags, folio) != 0 ||
        !bpf_core_enum_value_exists(enum pageflags___head, PG_head___head))
        return 0;
    if (!(flags >> bpf_core_enum_value(enum pageflags___head, PG_head___head) & 1))
        return 1;
    struct folio___pages *recent = (void *)folio;
    if (bpf_core_field_exists(recent->_nr_pages))
        return BPF_CORE_READ(recent, _nr_pages);
    struct folio___older *older = (void *)folio;
    if (bpf_core_field_exists(older->_folio_nr_pages))
        return BPF_CORE_READ(older, _folio_nr_pages);
    return 0;
}

/* Those of nr_dirtied. */
static __always_inline int is_counted(struct inode *inode)
{
    if ((inode->i_mode & FILE_KIND) == FILE_KIND_BLOCK)
        return 1; /* its device's own, whatever the filesystem of such inodes has */
    return inode->i_sb && inode->i_sb->s_bdi &&
           (inode->i_sb->s_bdi->capabilities & CAPABLE_WRITEBACK);
}

SEC("tp_btf/writeback_dirty_folio")
int BPF_PROG(repl_dirtied, struct folio *folio, struct address_space *mapping)
{
    struct repl_tree_dirty_state *s = state_of();
    struct inode *inode = mapping ? mapping->host : 0;
    if (!s || !inode || !inode->i_sb)
        return 0;
    __u32 pages = folio_pages(folio);
    if (inode->i_sb->s_dev == s->device) {
        __u64 first = folio->index;
        if (pages == 0 || pages > REPL_TREE_BLOCK_PAGES)
            mark_whole(s, inode->i_ino, 0);
        else
            mark_pages(s, inode->i_ino, first, first + pages - 1, 0);
    }
    if (pages == 0)
        ordered_add(&s->unknown, 1);
    if (is_counted(inode)) {
        __u32 lane = bpf_get_smp_processor_id() % REPL_TREE_DIRTY_LANES;
        ordered_add(&s->lanes[lane].pages, pages);
    }
    return 0;
}

/* --- direct writes --------------------------------------------------------------------------- */

static __always_inline struct inode *inode_of(struct repl_tree_dirty_state *s, struct kiocb *iocb)
{
    if (!s || !iocb || !iocb->ki_filp)
        return 0;
    struct inode *inode = iocb->ki_filp->f_inode;
    return inode && inode->i_sb && inode->i_sb->s_dev == s->device ? inode : 0;
}

SEC("tp_btf/iomap_dio_rw_begin")
int BPF_PROG(repl_direct_begun, struct kiocb *iocb, struct iov_iter *iter)
{
    struct repl_tree_dirty_state *s = state_of();
    struct inode *inode = inode_of(s, iocb);
    __u64 key = (unsigned long)iocb;
    if (!inode || iter->count == 0)
        return 0;
    const struct repl_tree_direct direct_io = {
        .inode = inode->i_ino,
        .first = (__u64)iocb->ki_pos >> PAGE_SHIFT,
        .last = ((__u64)iocb->ki_pos + iter->count - 1) >> PAGE_SHIFT,
        .since_ns = bpf_ktime_get_ns(),
        .is_write = iter->data_source,
    };
    if (direct_io.is_write)
        mark_pages(s, direct_io.inode, direct_io.first, direct_io.last, 0);
    if (bpf_map_update_elem(&direct, &key, &direct_io, BPF_ANY) != 0)
        bpf_map_delete_elem(&direct, &key);
    return 0;
}

/* What it was, a kiocb does not always say: without its begin it is taken for a write. */
SEC("tp_btf/iomap_dio_complete")
int BPF_PROG(repl_direct_ended, struct kiocb *iocb)
{
    struct repl_tree_dirty_state *s = state_of();
    struct inode *inode = inode_of(s, iocb);
    __u64 key = (unsigned long)iocb;
    if (!inode)
        return 0;
    const struct repl_tree_direct *direct_io = bpf_map_lookup_elem(&direct, &key);
    if (!direct_io || direct_io->inode != inode->i_ino)
        mark_whole(s, inode->i_ino, 0);
    else if (direct_io->is_write)
        mark_pages(s, direct_io->inode, direct_io->first, direct_io->last, 0);
    bpf_map_delete_elem(&direct, &key);
    return 0;
}

SEC("tp_btf/iomap_iter")
int BPF_PROG(repl_direct_step, struct iomap_iter *iter)
{
    struct repl_tree_dirty_state *s = state_of();
    struct inode *inode = iter->inode;
    if (!s || !(iter->flags & ITER_WRITE) || !(iter->flags & ITER_DIRECT) || iter->len == 0)
        return 0;
    if (inode && inode->i_sb && inode->i_sb->s_dev == s->device)
        mark_pages(s, inode->i_ino, (__u64)iter->pos >> PAGE_SHIFT,
                   ((__u64)iter->pos + iter->len - 1) >> PAGE_SHIFT, REPL_TREE_LATE);
    return 0;
}

/* --- other blocks ---------------------------------------------------------------------------- */

static __always_inline void remapped(struct inode *inode)
{
    struct repl_tree_dirty_state *s = state_of();
    if (s && BPF_CORE_READ(inode, i_sb, s_dev) == s->device)
        mark_whole(s, BPF_CORE_READ(inode, i_ino), 0);
}

static __always_inline void remapped_xfs(__u64 ip)
{
    if (bpf_core_type_exists(struct xfs_inode))
        remapped((void *)(ip + bpf_core_field_offset(struct xfs_inode, i_vnode)));
}

#define EXT4(event)                                                                                \
    SEC("raw_tp/ext4_" #event)                                                                     \
    int ext4_##event(struct bpf_raw_tracepoint_args *ctx)                                          \
    {                                                                                              \
        remapped((void *)ctx->args[0]);                                                            \
        return 0;                                                                                  \
    }
#define XFS(event, argument)                                                                       \
    SEC("raw_tp/xfs_" #event)                                                                      \
    int xfs_##event(struct bpf_raw_tracepoint_args *ctx)                                           \
    {                                                                                              \
        remapped_xfs(ctx->args[argument]);                                                         \
        return 0;                                                                                  \
    }

EXT4(punch_hole)
EXT4(zero_range)
EXT4(collapse_range)
EXT4(insert_range)
XFS(free_file_space, 0)
XFS(zero_file_space, 0)
XFS(collapse_file_space, 0)
XFS(insert_file_space, 0)
XFS(reflink_remap_range, 3)
XFS(swap_extent_before, 0)

SEC("raw_tp/xfs_exchrange_prep")
int xfs_exchrange_prep(struct bpf_raw_tracepoint_args *ctx)
{
    remapped_xfs(ctx->args[1]);
    remapped_xfs(ctx->args[2]);
    return 0;
}

char repl_license[] SEC("license") = "GPL";
