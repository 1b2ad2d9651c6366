/*
 * Making the programs and maps, pinning them, and finding them again.
 *
 * What is pinned is used again only if all of it is there, made by this version
 * of the programs, for this device at this place, and finished. Everything else
 * is taken away and begun anew, with the cause: a gap in the tracking is never
 * papered over.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "base/hash.h"
#include "source/capture/tracker_internal.h"

#define BPFFS          "/sys/fs/bpf"
#define PINS           BPFFS "/repl"
#define PATH_SIZE      128
#define PAGES(sectors) (((sectors) + 7) / 8)

static const char *const map_names[] = {"bits", "config", "counts"};
#define MAPS (sizeof map_names / sizeof map_names[0])

/* Submissions are attached before completions, so that what is completed was submitted. */
static const struct {
    const char *program, *pin;
} programs[] = {
    {"repl_submitted", "submitted"},
    {"repl_withdrawn", "withdrawn"},
    {"repl_completed", "completed"},
};
#define PROGRAMS (sizeof programs / sizeof programs[0])
_Static_assert(PROGRAMS == REPL_TRACK_PROGRAMS, "each link of private maps has a place");

/* --- paths ----------------------------------------------------------------------------------- */

static void directory_name(const struct repl_uuid *volume, char out[PATH_SIZE])
{
    char text[REPL_UUID_TEXT_SIZE];
    repl_uuid_format(volume, text);
    snprintf(out, PATH_SIZE, PINS "/%s", text);
}

static void pin_name(const char *directory, const char *name, char out[PATH_SIZE])
{
    snprintf(out, PATH_SIZE, "%.100s/%.20s", directory, name);
}

/* On most hosts systemd has mounted it. */
static repl_result bpffs_ensure(struct repl_error *err)
{
    struct statfs fs;
    if (statfs(BPFFS, &fs) == 0 && fs.f_type == BPF_FS_MAGIC)
        return REPL_SUCCESS;
    if (mount("bpf", BPFFS, "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700") == 0)
        return REPL_SUCCESS;
    if (errno == EPERM)
        return repl_fail_errno(err, REPL_E_REFUSED, errno,
                               "tracking needs root and the BPF filesystem: "
                               "mount -t bpf bpf " BPFFS);
    return repl_fail_errno(err, REPL_E_IO, errno,
                           "the BPF filesystem is not at " BPFFS " and cannot be mounted there; "
                           "does the kernel have CONFIG_BPF_SYSCALL?");
}

static repl_result directories_make(const char *directory, struct repl_error *err)
{
    if (mkdir(PINS, 0700) != 0 && errno != EEXIST)
        return repl_fail_errno(err, REPL_E_IO, errno, "mkdir " PINS);
    if (mkdir(directory, 0700) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "mkdir %s", directory);
    return REPL_SUCCESS;
}

static repl_result directory_remove(const char *path, struct repl_error *err)
{
    DIR *dir = opendir(path);
    if (dir == NULL)
        return errno == ENOENT ? REPL_SUCCESS : repl_fail_errno(err, REPL_E_IO, errno, "%s", path);
    int failed = 0;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        if (entry->d_name[0] != '.' && unlinkat(dirfd(dir), entry->d_name, 0) != 0)
            failed = errno;
    closedir(dir);
    if (failed == 0 && rmdir(path) != 0)
        failed = errno;
    return failed == 0 ? REPL_SUCCESS
                       : repl_fail_errno(err, REPL_E_IO, failed, "removing %s", path);
}

/* --- mapping --------------------------------------------------------------------------------- */

static void *map_map(int fd, size_t size)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return at != MAP_FAILED ? at : NULL;
}

/* Maps what the descriptors stand for; config comes first, for it says how large bits is. */
static repl_result maps_map(const int fds[MAPS], struct repl_track_maps *out,
                            struct repl_error *err)
{
    struct bpf_map_info info = {0};
    uint32_t info_size = sizeof info;
    if (bpf_obj_get_info_by_fd(fds[0], &info, &info_size) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "the tracking map's size");
    out->bits_size = (size_t)info.max_entries * sizeof *out->bits;
    out->bits = map_map(fds[0], out->bits_size);
    out->config = map_map(fds[1], sizeof *out->config);
    out->counts = map_map(fds[2], sizeof *out->counts);
    if (out->bits == NULL || out->config == NULL || out->counts == NULL)
        return repl_fail_errno(err, REPL_E_NOMEM, errno, "mapping the tracking maps");
    return REPL_SUCCESS;
}

void repl_track_maps_close(struct repl_track_maps *maps)
{
    if (maps->bits != NULL)
        munmap(maps->bits, maps->bits_size);
    if (maps->config != NULL)
        munmap(maps->config, sizeof *maps->config);
    if (maps->counts != NULL)
        munmap(maps->counts, sizeof *maps->counts);
    if (maps->faults != NULL)
        munmap(maps->faults, sizeof *maps->faults);
    for (size_t i = 0; i < PROGRAMS; i++)
        bpf_link__destroy(maps->links[i]); /* NULL is fine */
    bpf_object__close(maps->object);
    *maps = (struct repl_track_maps){0};
}

static void descriptors_close(const int *fds, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

/* --- what is pinned -------------------------------------------------------------------------- */

/* Whether the pinned link runs a program that uses the pinned counts, as all of them do. */
static bool link_is_ours(const char *path, int counts_fd)
{
    struct bpf_link_info link = {0};
    struct bpf_prog_info program = {0};
    struct bpf_map_info map = {0};
    uint32_t map_ids[8], link_size = sizeof link, program_size = sizeof program,
                         map_size = sizeof map;
    bool ours = false;
    int link_fd = bpf_obj_get(path);
    if (link_fd < 0)
        return false;
    program.nr_map_ids = sizeof map_ids / sizeof map_ids[0];
    program.map_ids = (uint64_t)(uintptr_t)map_ids;
    if (bpf_obj_get_info_by_fd(link_fd, &link, &link_size) == 0 &&
        bpf_obj_get_info_by_fd(counts_fd, &map, &map_size) == 0) {
        int program_fd = bpf_prog_get_fd_by_id(link.prog_id);
        if (program_fd >= 0 && bpf_obj_get_info_by_fd(program_fd, &program, &program_size) == 0)
            for (uint32_t i = 0; i < program.nr_map_ids && i < 8; i++)
                ours |= map_ids[i] == map.id;
        descriptors_close(&program_fd, 1);
    }
    close(link_fd);
    return ours;
}

/* The map must be of this size before its fields may be looked at. */
static bool map_is_of(int fd, size_t value_size)
{
    struct bpf_map_info info = {0};
    uint32_t size = sizeof info;
    return bpf_obj_get_info_by_fd(fd, &info, &size) == 0 && info.value_size == value_size;
}

static bool config_is_ours(const struct repl_track_maps *maps,
                           const struct repl_track_target *target, char *cause)
{
    const struct repl_track_config *config = maps->config;
    if (config->magic != REPL_TRACK_MAGIC || config->version != REPL_TRACK_VERSION) {
        snprintf(cause, REPL_TRACK_CAUSE_SIZE, "it was made by another version of this program");
        return false;
    }
    if (config->complete != 1 ||
        maps->bits_size / sizeof *maps->bits != config->area_words * REPL_TRACK_AREAS) {
        snprintf(cause, REPL_TRACK_CAUSE_SIZE, "it was never finished");
        return false;
    }
    struct repl_track_target then = *target;
    then.disk_major = config->disk_major;
    then.disk_minor = config->disk_minor;
    then.diskseq = config->diskseq;
    then.start_sector = config->start_sector;
    then.sector_count = config->sector_count;
    snprintf(then.identity, sizeof then.identity, "%.255s", config->identity);
    return repl_track_target_same(&then, target, cause, REPL_TRACK_CAUSE_SIZE);
}

/* Only a test build has it. */
static void faults_map(const char *directory, struct repl_track_maps *out)
{
    char path[PATH_SIZE];
    pin_name(directory, "faults", path);
    int fd = bpf_obj_get(path);
    if (fd >= 0)
        out->faults = map_map(fd, sizeof *out->faults);
    descriptors_close(&fd, 1);
}

/* True: all that is pinned can be used, and is mapped. */
static bool pinned_open(const char *directory, const struct repl_track_target *target,
                        struct repl_track_maps *out, char *cause)
{
    char path[PATH_SIZE];
    int fds[MAPS] = {-1, -1, -1};
    bool usable = true;
    for (size_t i = 0; usable && i < MAPS; i++) {
        pin_name(directory, map_names[i], path);
        fds[i] = bpf_obj_get(path);
        usable = fds[i] >= 0;
    }
    for (size_t i = 0; usable && i < PROGRAMS; i++) {
        pin_name(directory, programs[i].pin, path);
        usable = link_is_ours(path, fds[2]);
    }
    if (!usable)
        snprintf(cause, REPL_TRACK_CAUSE_SIZE, "a part of it is missing (%.120s)", path);
    else if (!map_is_of(fds[0], sizeof(uint64_t)) ||
             !map_is_of(fds[1], sizeof(struct repl_track_config)) ||
             !map_is_of(fds[2], sizeof(struct repl_track_counts)) ||
             !repl_ok(maps_map(fds, out, NULL)))
        snprintf(cause, REPL_TRACK_CAUSE_SIZE, "it was made by another version of this program");
    else if (config_is_ours(out, target, cause)) {
        descriptors_close(fds, MAPS);
        faults_map(directory, out);
        return true;
    }
    descriptors_close(fds, MAPS);
    repl_track_maps_close(out);
    return false;
}

/* What an agent that died may have left half done. */
static void pinned_mend(struct repl_track_maps *maps)
{
    for (unsigned area = 0; area < REPL_TRACK_AREAS; area++) {
        struct repl_track_bits bits =
            repl_track_bits_at(maps->bits, maps->config->capacity_pages, area);
        repl_track_bits_rebuild(&bits);
    }
    if (maps->config->swapped_ns == UINT64_MAX)
        maps->config->swapped_ns = (uint64_t)repl_tracker_now_ns();
}

/* --- making it ------------------------------------------------------------------------------- */

/* The last thing libbpf complained about. */
static _Thread_local char complaint[256];

static int complaint_keep(enum libbpf_print_level level, const char *format, va_list args)
    __attribute__((format(printf, 2, 0)));

static int complaint_keep(enum libbpf_print_level level, const char *format, va_list args)
{
    if (level == LIBBPF_WARN && complaint[0] == '\0') {
        vsnprintf(complaint, sizeof complaint, format, args);
        complaint[strcspn(complaint, "\n")] = '\0';
    }
    return 0;
}

/* A quarter more than there is, and at least one unit more: devices grow. */
static uint64_t capacity_for(const struct repl_track_target *target)
{
    uint64_t pages = PAGES(target->sector_count);
    pages += pages / 4 > REPL_TRACK_UNIT_PAGES ? pages / 4 : REPL_TRACK_UNIT_PAGES;
    return (pages + REPL_TRACK_UNIT_PAGES - 1) / REPL_TRACK_UNIT_PAGES * REPL_TRACK_UNIT_PAGES;
}

static void config_fill(struct repl_track_config *config, const struct repl_track_target *target)
{
    uint64_t capacity = capacity_for(target);
    _Static_assert(sizeof config->identity >= sizeof target->identity, "an identity fits");
    config->magic = REPL_TRACK_MAGIC;
    config->version = REPL_TRACK_VERSION;
    config->disk_major = target->disk_major;
    config->disk_minor = target->disk_minor;
    config->diskseq = target->diskseq;
    config->start_sector = target->start_sector;
    config->sector_count = target->sector_count;
    config->capacity_pages = capacity;
    config->leaf_words = capacity / 64;
    config->area_words = capacity / 64 + capacity / 64 / REPL_TRACK_LINE_PAGES;
    config->swapped_ns = (uint64_t)repl_tracker_now_ns();
    snprintf(config->identity, sizeof config->identity, "%.255s", target->identity);
}

static repl_result object_load(const struct repl_track_target *target, struct bpf_object **out,
                               struct repl_error *err)
{
    static const struct bpf_object_open_opts options = {.sz = sizeof options,
                                                        .object_name = "repl_track"};
    uint64_t capacity = capacity_for(target);
    uint64_t words = (capacity / 64 + capacity / 64 / REPL_TRACK_LINE_PAGES) * REPL_TRACK_AREAS;
    if (words > UINT32_MAX)
        return repl_fail(err, REPL_E_REFUSED, "%s is too large to be tracked", target->disk);
    libbpf_set_print(complaint_keep);
    complaint[0] = '\0';
    struct bpf_object *object = bpf_object__open_mem(
        repl_track_object, (size_t)(repl_track_object_end - repl_track_object), &options);
    if (object == NULL)
        return repl_fail_errno(err, REPL_E_INTERNAL, errno, "the tracking programs: %s", complaint);
    int failed =
        bpf_map__set_max_entries(bpf_object__find_map_by_name(object, "bits"), (uint32_t)words);
    if (failed == 0)
        failed = bpf_object__load(object);
    if (failed != 0) {
        bpf_object__close(object);
        return repl_fail_errno(err, failed == -EPERM ? REPL_E_REFUSED : REPL_E_IO, -failed,
                               "loading the tracking programs; root and a kernel of 5.17 or newer "
                               "with BTF (/sys/kernel/btf/vmlinux) are needed (%s)",
                               complaint);
    }
    *out = object;
    return REPL_SUCCESS;
}

static repl_result link_attach(struct bpf_object *object, size_t index, struct bpf_link **out,
                               struct repl_error *err)
{
    const char *name = programs[index].program;
    *out = bpf_program__attach(bpf_object__find_program_by_name(object, name));
    if (*out == NULL)
        return repl_fail_errno(err, REPL_E_IO, errno, "attaching %s to its tracepoint (%s)", name,
                               complaint);
    return REPL_SUCCESS;
}

static repl_result links_pin(struct bpf_object *object, const char *directory,
                             struct repl_error *err)
{
    for (size_t i = 0; i < PROGRAMS; i++) {
        char path[PATH_SIZE];
        struct bpf_link *link = NULL;
        pin_name(directory, programs[i].pin, path);
        REPL_TRY(link_attach(object, i, &link, err));
        int failed = bpf_link__pin(link, path);
        bpf_link__destroy(link); /* the pin holds it */
        if (failed != 0)
            return repl_fail_errno(err, REPL_E_IO, -failed, "pinning %s", path);
    }
    return REPL_SUCCESS;
}

static repl_result object_pin(struct bpf_object *object, const char *directory,
                              const struct repl_track_target *target, struct repl_track_maps *out,
                              struct repl_error *err)
{
    int fds[MAPS];
    for (size_t i = 0; i < MAPS; i++) {
        char path[PATH_SIZE];
        pin_name(directory, map_names[i], path);
        fds[i] = bpf_object__find_map_fd_by_name(object, map_names[i]);
        if (fds[i] < 0 || bpf_obj_pin(fds[i], path) != 0)
            return repl_fail_errno(err, REPL_E_IO, errno, "pinning %s", path);
    }
    REPL_TRY(maps_map(fds, out, err));
    int faults = bpf_object__find_map_fd_by_name(object, "faults");
    if (faults >= 0) {
        char path[PATH_SIZE];
        pin_name(directory, "faults", path);
        if (bpf_obj_pin(faults, path) != 0)
            return repl_fail_errno(err, REPL_E_IO, errno, "pinning %s", path);
        faults_map(directory, out);
    }
    config_fill(out->config, target);
    REPL_TRY(links_pin(object, directory, err));
    __atomic_store_n(&out->config->complete, 1, __ATOMIC_SEQ_CST);
    return REPL_SUCCESS;
}

static repl_result maps_make(const struct repl_track_target *target, const char *directory,
                             struct repl_track_maps *out, struct repl_error *err)
{
    struct bpf_object *object = NULL;
    REPL_TRY(directories_make(directory, err));
    repl_result result = object_load(target, &object, err);
    if (repl_ok(result))
        result = object_pin(object, directory, target, out, err);
    bpf_object__close(object); /* NULL is fine; what is pinned stays */
    if (!repl_ok(result)) {
        repl_track_maps_close(out);
        repl_ignore(directory_remove(directory, NULL)); /* the failure above is the news */
    }
    return result;
}

static repl_result private_attach(const struct repl_track_target *target,
                                  struct repl_track_maps *out, struct repl_error *err)
{
    int fds[MAPS];
    for (size_t i = 0; i < MAPS; i++)
        fds[i] = bpf_object__find_map_fd_by_name(out->object, map_names[i]);
    REPL_TRY(maps_map(fds, out, err));
    config_fill(out->config, target);
    for (size_t i = 0; i < PROGRAMS; i++)
        REPL_TRY(link_attach(out->object, i, &out->links[i], err));
    out->config->complete = 1;
    return REPL_SUCCESS;
}

repl_result repl_track_maps_private(const struct repl_track_target *target,
                                    struct repl_track_maps *out, struct repl_error *err)
{
    *out = (struct repl_track_maps){0};
    REPL_TRY(object_load(target, &out->object, err));
    repl_result result = private_attach(target, out, err);
    if (!repl_ok(result))
        repl_track_maps_close(out);
    return result;
}

/* --- open and forget ------------------------------------------------------------------------- */

repl_result repl_track_maps_open(const struct repl_track_target *target,
                                 const struct repl_uuid *volume, struct repl_track_maps *out,
                                 enum repl_track_origin *origin, char cause[REPL_TRACK_CAUSE_SIZE],
                                 struct repl_error *err)
{
    char directory[PATH_SIZE];
    *out = (struct repl_track_maps){0};
    *origin = REPL_TRACK_NEW;
    cause[0] = '\0';
    REPL_TRY(bpffs_ensure(err));
    directory_name(volume, directory);
    if (access(directory, F_OK) == 0) {
        if (pinned_open(directory, target, out, cause)) {
            pinned_mend(out);
            *origin = REPL_TRACK_CONTINUED;
            return REPL_SUCCESS;
        }
        *origin = REPL_TRACK_LOST;
        REPL_TRY(directory_remove(directory, err));
    }
    return maps_make(target, directory, out, err);
}

repl_result repl_tracker_forget(const struct repl_uuid *volume, struct repl_error *err)
{
    char directory[PATH_SIZE];
    directory_name(volume, directory);
    return directory_remove(directory, err);
}

repl_result repl_tracker_try(struct repl_error *err)
{
    static const struct repl_track_target smallest = {.disk = "a disk", .sector_count = 8};
    struct bpf_object *object = NULL;
    REPL_TRY(object_load(&smallest, &object, err));
    bpf_object__close(object);
    return REPL_SUCCESS;
}
