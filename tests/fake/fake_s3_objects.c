/* What the service holds, and until when it is locked; all with the mutex held. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fake/fake_s3_internal.h"

/* --- objects ------------------------------------------------------------------------------------
 */

/* Where it is, or belongs. */
size_t fake_s3_object_place(const struct fake_s3 *fake, const char *key, bool *found)
{
    size_t low = 0, high = fake->object_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (strcmp(fake->objects[middle].key, key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    *found = low < fake->object_count && strcmp(fake->objects[low].key, key) == 0;
    return low;
}

void fake_s3_object_put(struct fake_s3 *fake, const char *key, const void *data, size_t size,
                        const char *sha256)
{
    bool found;
    size_t place = fake_s3_object_place(fake, key, &found);
    struct object *o = &fake->objects[place];
    if (found) {
        free(o->data);
    } else {
        if (fake->object_count == OBJECTS_MAX)
            abort();
        memmove(o + 1, o, (fake->object_count - place) * sizeof *o);
        fake->object_count++;
        o->key = strdup(key);
    }
    o->data = malloc(size + 1);
    memcpy(o->data, size > 0 ? data : "", size);
    o->data[size] = '\0';
    o->size = size;
    snprintf(o->sha256, sizeof o->sha256, "%s", sha256 != NULL ? sha256 : "");
    o->locked_until[0] = '\0';
}

void fake_s3_object_remove(struct fake_s3 *fake, const char *key)
{
    bool found;
    size_t place = fake_s3_object_place(fake, key, &found);
    if (!found)
        return;
    free(fake->objects[place].key);
    free(fake->objects[place].data);
    fake->object_count--;
    memmove(&fake->objects[place], &fake->objects[place + 1],
            (fake->object_count - place) * sizeof fake->objects[0]);
}

uint64_t fake_s3_objects_size(const struct fake_s3 *fake)
{
    uint64_t size = 0;
    for (size_t i = 0; i < fake->object_count; i++)
        size += fake->objects[i].size;
    return size;
}

/* --- locks ----------------------------------------------------------------------------------- */

int64_t fake_s3_seconds_of(const char *text)
{
    struct tm tm = {0};
    const char *end = strptime(text, "%Y-%m-%dT%H:%M:%SZ", &tm);
    return end != NULL && *end == '\0' ? timegm(&tm) : 0;
}

/* NULL: what the request says of a lock is in order. until may be NULL: it says nothing. */
const char *fake_s3_lock_fault(const struct fake_s3 *fake, struct MHD_Connection *connection,
                               const char *mode, const char *until)
{
    if (mode == NULL && until == NULL)
        return NULL;
    if (fake->switches.no_locks)
        return "InvalidRequest";
    bool right = mode != NULL && until != NULL && strcmp(mode, "COMPLIANCE") == 0 &&
                 fake_s3_seconds_of(until) > time(NULL);
    return right && MHD_lookup_connection_value(connection, MHD_HEADER_KIND,
                                                "x-amz-checksum-sha256") != NULL
               ? NULL
               : "InvalidArgument";
}

void fake_s3_lock_note(struct fake_s3 *fake, const char *key, const char *until)
{
    bool found;
    size_t place = fake_s3_object_place(fake, key, &found);
    if (found && until != NULL && !fake->switches.forget_locks)
        snprintf(fake->objects[place].locked_until, sizeof fake->objects[place].locked_until, "%s",
                 until);
}
