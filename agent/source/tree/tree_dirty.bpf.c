// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Notices the files of one filesystem that are written to, through a mapping
 * too, where fanotify says nothing.
 *
 * writeback_dirty_folio   fires when a clean page turns dirty: behind the copy of
 *                         a write, ahead of the first store through a mapping.
 *                         The agent takes a file out of the set, then has it
 *                         written out, which makes its pages clean and its
 *                         mappings read-only, then reads it: what is stored later
 *                         turns a page dirty again.
 * iomap_dio_rw_begin,     a direct write: marked ahead of it and behind it, so
 * iomap_dio_complete      that what was read in between is read again.
 */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "tree_dirty_layout.h"

#define KERNEL_TYPE __attribute__((preserve_access_index))

struct super_block {
    __u32 s_dev;
} KERNEL_TYPE;

struct inode {
    struct super_block *i_sb;
    unsigned long i_ino;
} KERNEL_TYPE;

struct address_space {
    struct inode *host;
} KERNEL_TYPE;

struct file {
    struct inode *f_inode;
} KERNEL_TYPE;

struct kiocb {
    struct file *ki_filp;
    int ki_flags;
} KERNEL_TYPE;

struct folio;
struct iov_iter;

#define KIOCB_WRITE (1 << 18) /* IOCB_WRITE, since 5.10 */

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, REPL_TREE_DIRTY_FILES);
    __type(key, __u64);
    __type(value, __u8);
} dirty SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct repl_tree_dirty_state);
} state SEC(".maps");

static __always_inline void mark(struct inode *inode)
{
    __u32 zero = 0;
    __u8 one = 1;
    struct repl_tree_dirty_state *s = bpf_map_lookup_elem(&state, &zero);
    if (!s || !inode || !inode->i_sb || inode->i_sb->s_dev != s->device)
        return;
    __u64 number = inode->i_ino;
    if (!bpf_map_lookup_elem(&dirty, &number) &&
        bpf_map_update_elem(&dirty, &number, &one, BPF_ANY) != 0)
        __sync_fetch_and_add(&s->lost, 1);
    __sync_fetch_and_add(&s->marks, 1);
}

SEC("tp_btf/writeback_dirty_folio")
int BPF_PROG(repl_dirtied, struct folio *folio, struct address_space *mapping)
{
    (void)folio;
    if (mapping)
        mark(mapping->host);
    return 0;
}

static __always_inline void mark_direct(struct kiocb *iocb)
{
    if (iocb && (iocb->ki_flags & KIOCB_WRITE) && iocb->ki_filp)
        mark(iocb->ki_filp->f_inode);
}

SEC("tp_btf/iomap_dio_rw_begin")
int BPF_PROG(repl_direct_begun, struct kiocb *iocb, struct iov_iter *iter)
{
    (void)iter;
    mark_direct(iocb);
    return 0;
}

SEC("tp_btf/iomap_dio_complete")
int BPF_PROG(repl_direct_ended, struct kiocb *iocb)
{
    mark_direct(iocb);
    return 0;
}

char repl_license[] SEC("license") = "GPL";
