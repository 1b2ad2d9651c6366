/*
 * What the kernel says of one file, directory or whatever else a name leads to.
 */
#ifndef REPL_AGENT_TREE_OBJECT_H
#define REPL_AGENT_TREE_OBJECT_H

#include "source/tree/tree_index.h"

/* The filesystem a tree lies on, and its top directory. */
struct repl_tree_root {
    const char *path; /* as configured */
    int fd;           /* the top directory, open for reading */
    uint32_t device_major, device_minor;
    struct repl_tree_handle handle;
    /* Of one in a snapshot (tree_snapshot.h), else 0: handles here are those of the subvolume, and
     * what they are of is looked for in the snapshot. */
    uint64_t subvolume, snapshot;
    int64_t as_of_ns; /* when that was begun to be made (wall clock) */
};

/* The type of a btrfs' handle that names a file, and not where it lies
 * (FILEID_BTRFS_WITHOUT_PARENT); what it is made of. */
#define REPL_TREE_BTRFS_HANDLE 0x4d
struct repl_tree_btrfs_handle {
    uint64_t inode, subvolume;
    uint32_t generation;
} __attribute__((packed));

REPL_RESULT repl_tree_root_open(const char *path, struct repl_tree_root *out,
                                struct repl_error *err);
/* The same of a directory that fd has open, which is not closed. */
REPL_RESULT repl_tree_root_take(int fd, struct repl_tree_root *out, struct repl_error *err);
void repl_tree_root_close(struct repl_tree_root *root);

/* What a stat of a name says, cheaply: enough to tell whether anything has changed. */
struct repl_tree_glance {
    uint64_t inode, size;
    int64_t ctime_ns, mtime_ns;
    uint32_t links;
    uint16_t type; /* S_IFMT */
    bool mount;    /* the root of another mount */
};
/* REPL_E_MISSING: the name is gone. fd may be of the object itself, with name "". */
REPL_RESULT repl_tree_glance(const struct repl_tree_root *root, int fd, const char *name,
                             struct repl_tree_glance *out, struct repl_error *err);

/* Opens what the name leads to without following or waking it (O_PATH). REPL_E_MISSING: gone. */
REPL_RESULT repl_tree_object_open(int directory, const char *name, int *fd, struct repl_error *err);
/* A file or directory that was opened like this, for reading, leaving its atime where that is
 * allowed. -1 and errno: it cannot be. */
int repl_tree_object_reopen(int path_fd);
/* Opens a file or directory for reading by its handle, leaving its atime. REPL_E_MISSING: it is no
 * more. */
REPL_RESULT repl_tree_handle_open(const struct repl_tree_root *root,
                                  const struct repl_tree_handle *handle, int flags, int *fd,
                                  struct repl_error *err);
/* Fills node, ctime, inode, mount, handle and target of *out. A change that falls into the same
 * moment of the kernel's clock as the ctime would not show: with settle, what changed just now is
 * waited for, else it is racy. */
REPL_RESULT repl_tree_object_read(const struct repl_tree_root *root, int fd, bool settle,
                                  struct repl_tree_object *out, struct repl_error *err);
/* The attributes, as they are kept: for each, by name, one byte of length of the name, four of the
 * value's, eight for its place in the space (zeros here), name, value. */
REPL_RESULT repl_tree_attributes_read(int fd, struct repl_buffer *out, struct repl_error *err);

struct repl_tree_attribute {
    const char *name; /* these point into what is decoded */
    const uint8_t *value;
    uint64_t place;
    uint32_t name_size, value_size;
};
/* The one at *at, which moves on; false: there is none left. */
bool repl_tree_attribute_next(const void *attributes, size_t size, size_t *at,
                              struct repl_tree_attribute *out);

/* Where in a file data lies, whole pages, the rest being holes: struct repl_tree_pages each, in
 * pages of the file. Writes out what the page cache has of it first. */
struct repl_tree_pages;
REPL_RESULT repl_tree_data_find(int fd, uint64_t size, struct repl_buffer *out,
                                struct repl_error *err);

#endif
