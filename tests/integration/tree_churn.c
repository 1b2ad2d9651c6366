/*
 * Random operations of every kind on a directory tree, from a seed, until told
 * to end.
 *
 *   tree_churn DIRECTORY [--seed N] [--writers N] [--objects N] [--without OPERATION]...
 *
 * DIRECTORY has the directories root and outside. On its standard input:
 *
 *   hold   every writer stops between two operations; then the counts are
 *          printed, and "held"
 *   go     they go on
 *   end    as hold, and then the end; the end of the input is one too
 *
 * It begins held. Counts are "count OPERATION DONE FAILED"; of what the
 * filesystem has never been able to do there is a line "cannot OPERATION: WHY".
 */
#include "tree_churn.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define OPERATIONS_MAX 128u /* as struct world has room for */
#define DEPTH_MAX      400u
#define OBJECTS        2500

static struct {
    struct operation operations[OPERATIONS_MAX];
    size_t count;
    unsigned weights;
    long objects; /* to be about as many */
    pthread_mutex_t lock;
    pthread_cond_t change;
    bool hold, end;
    unsigned held;
} churn = {.objects = OBJECTS,
           .lock = PTHREAD_MUTEX_INITIALIZER,
           .change = PTHREAD_COND_INITIALIZER,
           .hold = true};

static _Noreturn void give_up(const char *what)
{
    fprintf(stderr, "tree_churn: %s: %s\n", what, strerror(errno));
    exit(2);
}

int error_of(int result)
{
    return result < 0 ? errno : 0;
}

/* --- choosing -------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

uint64_t any(struct writer *w, uint64_t below)
{
    w->random += UINT64_C(0x9e3779b97f4a7c15);
    return below == 0 ? 0 : mix(w->random) % below;
}

void content(struct writer *w, size_t size)
{
    memcpy(w->buffer, w->world->pool + any(w, POOL_SIZE - size), size);
    if (any(w, 8) == 0)
        memset(w->buffer + any(w, size / 2), 0, any(w, size / 2));
    if (size >= sizeof w->random) /* no two are the same */
        memcpy(w->buffer + any(w, size - sizeof w->random), &w->random, sizeof w->random);
}

/* One entry of each sort, each as likely as any other. */
struct entries {
    char directory[NAME_MAX + 1], found[NAME_MAX + 1];
    unsigned directories, founds;
};

static unsigned sort_of(unsigned char type)
{
    return type == DT_REG ? WANT_FILE : type == DT_DIR ? WANT_DIRECTORY : WANT_OTHER;
}

static int entries_read(struct writer *w, int fd, unsigned wanted, struct entries *out)
{
    *out = (struct entries){0};
    int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = copy < 0 ? NULL : fdopendir(copy);
    if (stream == NULL) {
        int error = errno;
        if (copy >= 0)
            close(copy);
        return error;
    }
    for (const struct dirent *e = readdir(stream); e != NULL; e = readdir(stream)) {
        unsigned sort = sort_of(e->d_type);
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (sort == WANT_DIRECTORY && any(w, ++out->directories) == 0)
            strcpy(out->directory, e->d_name);
        if ((sort & wanted) != 0 && any(w, ++out->founds) == 0)
            strcpy(out->found, e->d_name);
    }
    closedir(stream);
    return 0;
}

static int descend(struct place *at, const char *name)
{
    int fd = openat(at->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno;
    close(at->fd);
    at->fd = fd;
    at->depth++;
    return 0;
}

static int area_open(struct writer *w, enum area area, struct place *out)
{
    bool inside = area == ROOT || (area == EITHER && any(w, 8) != 0);
    out->depth = 0;
    out->fd =
        openat(w->world->base_fd, inside ? "root" : "outside", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return error_of(out->fd);
}

int place_find(struct writer *w, enum area area, unsigned wanted, struct place *out)
{
    struct entries entries;
    int error = area_open(w, area, out);
    while (error == 0) {
        error = entries_read(w, out->fd, wanted, &entries);
        bool deeper = entries.directories > 0 && out->depth < DEPTH_MAX &&
                      (entries.founds == 0 || any(w, 3) != 0);
        if (error != 0)
            break;
        if (deeper) {
            error = descend(out, entries.directory);
            continue;
        }
        if (entries.founds == 0)
            error = ENOENT;
        else
            strcpy(out->name, entries.found);
        break;
    }
    if (error != 0)
        place_end(out);
    return error;
}

int place_new(struct writer *w, enum area area, struct place *out)
{
    struct entries entries;
    int error = area_open(w, area, out);
    while (error == 0 && out->depth < DEPTH_MAX && any(w, 4) != 0) {
        error = entries_read(w, out->fd, WANT_DIRECTORY, &entries);
        if (error != 0 || entries.directories == 0)
            break;
        error = descend(out, entries.directory);
    }
    if (error != 0)
        place_end(out);
    else
        snprintf(out->name, sizeof out->name, "%u.%llu", w->number, (unsigned long long)w->made++);
    return error;
}

void place_end(struct place *place)
{
    if (place->fd >= 0)
        close(place->fd);
    place->fd = -1;
}

int file_open(struct writer *w, int flags, int *fd)
{
    struct place place;
    int error = place_find(w, EITHER, WANT_FILE, &place);
    if (error != 0)
        return error;
    struct stat status;
    *fd = openat(place.fd, place.name, flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    error = error_of(*fd);
    place_end(&place);
    if (error == 0 && (fstat(*fd, &status) != 0 || !S_ISREG(status.st_mode))) {
        close(*fd); /* by now it is something else */
        error = EAGAIN;
    }
    return error;
}

/* --- operations ------------------------------------------------------------------------------ */

static void operations_add(const struct operation *list)
{
    for (; list->name != NULL; list++) {
        if (churn.count == OPERATIONS_MAX)
            abort();
        churn.operations[churn.count++] = *list;
        churn.weights += list->weight;
    }
}

static bool operation_leave(const char *name)
{
    for (size_t i = 0; i < churn.count; i++) {
        if (strcmp(churn.operations[i].name, name) == 0) {
            churn.weights -= churn.operations[i].weight;
            churn.operations[i].weight = 0;
            return true;
        }
    }
    return false;
}

static size_t operation_choose(struct writer *w)
{
    uint64_t at = any(w, churn.weights);
    size_t i = 0;
    while (at >= churn.operations[i].weight)
        at -= churn.operations[i++].weight;
    return i;
}

/* Whether there would be too many or too few objects. */
static bool is_unwanted(const struct writer *w, enum effect effect)
{
    long objects = atomic_load(&w->world->objects);
    return (effect == MAKES && objects > churn.objects) ||
           (effect == REMOVES && objects < churn.objects / 2);
}

static bool is_inability(int error)
{
    return error == EOPNOTSUPP || error == ENOTTY || error == ENOSYS || error == EINVAL ||
           error == EPERM;
}

static void operate(struct writer *w)
{
    size_t i = operation_choose(w);
    struct world *world = w->world;
    if (is_unwanted(w, churn.operations[i].effect))
        return;
    int error = churn.operations[i].run(w);
    if (error == 0) {
        atomic_fetch_add(&world->done[i], 1);
        return;
    }
    atomic_fetch_add(&world->failed[i], 1);
    if (is_inability(error))
        atomic_store(&world->error[i], error);
    if (error == ENOSPC && atomic_load(&world->done[i]) == 0)
        atomic_store(&world->error[i], error);
}

static void counts_print(const struct world *world)
{
    for (size_t i = 0; i < churn.count; i++) {
        unsigned long long done = atomic_load(&world->done[i]);
        int error = atomic_load(&world->error[i]);
        if (churn.operations[i].weight == 0)
            continue;
        printf("count %s %llu %llu\n", churn.operations[i].name, done,
               (unsigned long long)atomic_load(&world->failed[i]));
        if (done == 0 && error != 0)
            printf("cannot %s: %s\n", churn.operations[i].name, strerror(error));
    }
}

/* --- writers --------------------------------------------------------------------------------- */

/* False: it is the end. */
static bool wait_while_held(struct writer *w)
{
    pthread_mutex_lock(&churn.lock);
    if (churn.hold) {
        flags_clear(w);
        churn.held++;
        pthread_cond_broadcast(&churn.change);
        while (churn.hold && !churn.end)
            pthread_cond_wait(&churn.change, &churn.lock);
        churn.held--;
    }
    bool end = churn.end;
    pthread_mutex_unlock(&churn.lock);
    return !end;
}

static void *writer_run(void *context)
{
    while (wait_while_held(context))
        operate(context);
    return NULL;
}

static void writer_init(struct writer *w, struct world *world, unsigned number, uint64_t seed)
{
    *w = (struct writer){.world = world,
                         .number = number,
                         .random = mix(seed * WRITERS_MAX + number),
                         .frozen_fd = -1};
    for (size_t i = 0; i < OPEN_FILES; i++)
        w->open_files[i] = -1;
    w->buffer = aligned_alloc(PAGE, WRITE_MAX);
    if (w->buffer == NULL)
        give_up("memory");
}

static void hold(unsigned writers)
{
    pthread_mutex_lock(&churn.lock);
    churn.hold = true;
    while (churn.held < writers)
        pthread_cond_wait(&churn.change, &churn.lock);
    pthread_mutex_unlock(&churn.lock);
}

static void let_go(bool end)
{
    pthread_mutex_lock(&churn.lock);
    churn.hold = false;
    churn.end = end;
    pthread_cond_broadcast(&churn.change);
    pthread_mutex_unlock(&churn.lock);
}

static void commands_follow(const struct world *world, unsigned writers)
{
    char line[64];
    bool end = false;
    while (!end) {
        end = fgets(line, sizeof line, stdin) == NULL || strcmp(line, "end\n") == 0;
        if (!end && strcmp(line, "go\n") == 0) {
            let_go(false);
            continue;
        }
        hold(writers);
        counts_print(world);
        printf("held\n");
        fflush(stdout);
    }
    let_go(true);
}

/* One a level of directories. */
static void descriptors_raise(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        give_up("descriptors");
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        give_up("descriptors");
}

static void operations_init(void)
{
    operations_add(name_operations);
    operations_add(content_operations);
    operations_add(metadata_operations);
    operations_add(slow_operations);
}

static void world_init(struct world *world, const char *directory, uint64_t seed)
{
    world->base_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    world->pool = malloc(POOL_SIZE);
    if (world->base_fd < 0 || world->pool == NULL)
        give_up(directory);
    for (size_t i = 0; i < POOL_SIZE; i += sizeof seed) {
        uint64_t word = mix(seed + i);
        memcpy(world->pool + i, &word, sizeof word);
    }
    descriptors_raise();
    umask(0);
}

int main(int argc, char **argv)
{
    static const struct option names[] = {{"seed", required_argument, NULL, 's'},
                                          {"writers", required_argument, NULL, 'w'},
                                          {"without", required_argument, NULL, 'x'},
                                          {"objects", required_argument, NULL, 'o'},
                                          {0}};
    static struct world world;
    static struct writer writers[WRITERS_MAX];
    pthread_t threads[WRITERS_MAX];
    uint64_t seed = 1;
    unsigned count = 3;
    operations_init();
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        if (c == 's')
            seed = strtoull(optarg, NULL, 0);
        else if (c == 'w')
            count = (unsigned)strtoul(optarg, NULL, 0);
        else if (c == 'o')
            churn.objects = strtol(optarg, NULL, 0);
        else if (c != 'x' || !operation_leave(optarg))
            return 2;
    }
    if (optind + 1 != argc || count < 1 || count > WRITERS_MAX)
        return 2;
    world_init(&world, argv[optind], seed);
    for (unsigned i = 0; i < count; i++) {
        writer_init(&writers[i], &world, i, seed);
        if (pthread_create(&threads[i], NULL, writer_run, &writers[i]) != 0)
            give_up("pthread_create");
    }
    commands_follow(&world, count);
    for (unsigned i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    return 0;
}
