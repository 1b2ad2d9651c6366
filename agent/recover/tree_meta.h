/*
 * One object of a tree in a directory that it is written to: where it is, and
 * its metadata. Whoever writes a tree, a restore or a replica, brings what it
 * knows of it as calls.
 */
#ifndef REPL_AGENT_TREE_META_H
#define REPL_AGENT_TREE_META_H

#include <sys/stat.h>

#include "recover/tree_plan.h"
#include "recover/tree_restore.h"

#define REPL_TREE_BUFFER_SIZE (1u << 20)

/* One object, and where it lies in the target. */
struct repl_tree_item {
    uint64_t object;
    uint64_t number; /* in the order of a restore's work */
    struct repl_node node;
    struct repl_tree_place place;
    char name[REPL_NAME_MAX + 1];
    int directory; /* of the target; -1: not there */
    bool exists;   /* something of that name is there: */
    struct stat status;
};

struct repl_tree_meta_by {
    void *context; /* of the calls */
    /* The next attribute of key->object; key begins with the object and REPL_RECORD_XATTR. Its
     * texts stay until the metadata is applied. */
    repl_result (*attribute)(void *context, struct repl_tree_key *key, struct repl_record *out,
                             bool *found, struct repl_error *err);
    /* Bytes of the space. */
    repl_result (*read)(void *context, uint64_t place, void *out, size_t size,
                        struct repl_error *err);
    /* What the target cannot hold. */
    void (*lacks)(void *context, const struct repl_tree_item *item, enum repl_tree_lack lack,
                  const char *what, int os_errno);
    enum repl_tree_owner owner;
    uid_t uid; /* if given */
    gid_t gid;
    bool dry_run;
    uint8_t *wanted, *present; /* REPL_TREE_BUFFER_SIZE each */
    char *list;                /* XATTR_LIST_MAX: names of attributes */
};

/* Makes the metadata what the node says; what is equal is not touched. name: what it has in the
 * item's directory now. fd: it is open, which a file or directory has to be; else -1. lock: the
 * flags that keep it from being changed are set as well. *changed: it was, or in a dry run would
 * have been; changed NULL: it has just been made. */
REPL_RESULT repl_tree_meta_apply(const struct repl_tree_meta_by *by,
                                 const struct repl_tree_item *item, const char *name, int fd,
                                 bool lock, bool *changed, struct repl_error *err);
/* Flags that a file has to have before it has contents. */
void repl_tree_meta_early(const struct repl_tree_item *item, int fd);

mode_t repl_tree_type(enum repl_node_kind kind); /* S_IFREG, ... */
/* Makes a symbolic link, device, FIFO or socket, without its metadata. 0 or errno. */
int repl_tree_special_make(int directory, const char *name, const struct repl_node *node);
/* All of it. */
REPL_RESULT repl_tree_write_at(int fd, uint64_t offset, const void *data, size_t size,
                               struct repl_error *err);

#endif
