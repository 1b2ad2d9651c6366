/*
 * The files of segments that were published last, still open although they have
 * no name any more: the replica reads each segment a moment after it came, and
 * need not fetch it back. They go as others come, and with the process.
 */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "store/store_s3_internal.h"

/* With the mutex held. */
static void entry_drop(struct s3_recent *recent, struct s3_recent_entry *entry)
{
    if (entry->fd < 0)
        return;
    close(entry->fd);
    recent->size -= entry->size;
    entry->fd = -1;
}

/* NULL: it is not among them. */
static struct s3_recent_entry *entry_find(struct s3_recent *recent, const char *key)
{
    for (size_t i = 0; i < S3_RECENT_MAX; i++) {
        if (recent->entries[i].fd >= 0 && strcmp(recent->entries[i].key, key) == 0)
            return &recent->entries[i];
    }
    return NULL;
}

void s3_recent_init(struct s3_recent *recent)
{
    *recent = (struct s3_recent){0};
    pthread_mutex_init(&recent->mutex, NULL);
    for (size_t i = 0; i < S3_RECENT_MAX; i++)
        recent->entries[i].fd = -1;
}

void s3_recent_fini(struct s3_recent *recent)
{
    for (size_t i = 0; i < S3_RECENT_MAX; i++)
        entry_drop(recent, &recent->entries[i]);
    pthread_mutex_destroy(&recent->mutex);
}

void s3_recent_remove(struct s3_recent *recent, const char *key)
{
    pthread_mutex_lock(&recent->mutex);
    struct s3_recent_entry *entry = entry_find(recent, key);
    if (entry != NULL)
        entry_drop(recent, entry);
    pthread_mutex_unlock(&recent->mutex);
}

void s3_recent_add(struct s3_recent *recent, const char *key, int fd, uint64_t size)
{
    int own = size <= S3_RECENT_SIZE_MAX ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;
    if (own < 0)
        return; /* it is fetched back */
    pthread_mutex_lock(&recent->mutex);
    /* In a circle, so the one that comes next is the oldest. */
    for (size_t i = 0; i < S3_RECENT_MAX; i++) {
        struct s3_recent_entry *oldest = &recent->entries[(recent->next + i) % S3_RECENT_MAX];
        if (i == 0 || recent->size + size > S3_RECENT_SIZE_MAX)
            entry_drop(recent, oldest);
    }
    struct s3_recent_entry *entry = &recent->entries[recent->next];
    recent->next = (recent->next + 1) % S3_RECENT_MAX;
    *entry = (struct s3_recent_entry){.fd = own, .size = size};
    memccpy(entry->key, key, '\0', sizeof entry->key);
    recent->size += size;
    pthread_mutex_unlock(&recent->mutex);
}

int s3_recent_open(struct s3_recent *recent, const char *key, uint64_t *size)
{
    int fd = -1;
    pthread_mutex_lock(&recent->mutex);
    struct s3_recent_entry *entry = entry_find(recent, key);
    if (entry != NULL) {
        fd = fcntl(entry->fd, F_DUPFD_CLOEXEC, 0);
        *size = entry->size;
    }
    pthread_mutex_unlock(&recent->mutex);
    return fd;
}
