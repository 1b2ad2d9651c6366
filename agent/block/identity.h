/*
 * What a device is, whatever name or number it has today.
 */
#ifndef REPL_AGENT_IDENTITY_H
#define REPL_AGENT_IDENTITY_H

#include <sys/stat.h>
#include <sys/types.h>

#include "format/slot.h"

/* The best of the partition's UUID, the disk's WWID or serial number and, for a loop device, the
 * file behind it: "partuuid:...", "wwid:...:part1", "loop:254:0:1234". A virtual disk may have none
 * of these: "name:vda:SIZE". */
void repl_identity_find(dev_t device, char out[REPL_IDENTITY_MAX + 1]);
/* Equal, but for the size of one that is but a name: that may be another since. */
bool repl_identity_same(const char *a, const char *b);

/* What the disk says of itself, as it says it, blanks included; kind is "wwid", "serial" or "dm".
 * False: nothing. */
bool repl_identity_serial(dev_t disk, const char **kind, char *out, size_t size);
/* The file behind a loop device. */
bool repl_identity_backing(dev_t disk, struct stat *out);

#endif
