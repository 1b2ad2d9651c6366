#include "store/s3_credentials.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/read_full.h"

static void text_wipe(char **text)
{
    if (*text == NULL)
        return;
    explicit_bzero(*text, strlen(*text));
    free(*text);
    *text = NULL;
}

void s3_credentials_wipe(struct s3_credentials *credentials)
{
    text_wipe(&credentials->key_id);
    text_wipe(&credentials->secret);
    text_wipe(&credentials->token);
}

/* --- lines ----------------------------------------------------------------------------------- */

struct span {
    const char *begin;
    size_t size;
};

struct parser {
    const char *path;
    unsigned line;
    const char *profile;
    bool inside; /* the section that is looked for */
    bool found;  /* there was one */
    struct s3_credentials *out;
};

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static struct span trim(const char *begin, const char *end)
{
    while (begin < end && is_blank(*begin))
        begin++;
    while (end > begin && is_blank(end[-1]))
        end--;
    return (struct span){begin, (size_t)(end - begin)};
}

static bool span_is(struct span span, const char *text)
{
    return strlen(text) == span.size && memcmp(span.begin, text, span.size) == 0;
}

static repl_result section_take(struct parser *p, struct span line, struct repl_error *err)
{
    if (line.begin[line.size - 1] != ']')
        return repl_fail(err, REPL_E_USAGE, "%s, line %u: a section ends with ]", p->path, p->line);
    struct span name = trim(line.begin + 1, line.begin + line.size - 1);
    p->inside = span_is(name, p->profile);
    p->found = p->found || p->inside;
    return REPL_SUCCESS;
}

static repl_result value_take(struct parser *p, const char *key, struct span value, char **field,
                              struct repl_error *err)
{
    if (value.size == 0 || value.size > S3_CREDENTIALS_VALUE_MAX)
        return repl_fail(err, REPL_E_USAGE, "%s, line %u: %s has 1 to %u bytes", p->path, p->line,
                         key, S3_CREDENTIALS_VALUE_MAX);
    for (size_t i = 0; i < value.size; i++) {
        if (value.begin[i] <= ' ' || value.begin[i] > '~')
            return repl_fail(err, REPL_E_USAGE,
                             "%s, line %u: %s has a blank or an unprintable byte in it", p->path,
                             p->line, key);
    }
    if (*field != NULL)
        return repl_fail(err, REPL_E_USAGE,
                         "%s, line %u: %s of section [%s] is there twice: remove one", p->path,
                         p->line, key, p->profile);
    *field = strndup(value.begin, value.size);
    if (*field == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for %s", p->path);
    return REPL_SUCCESS;
}

static repl_result key_take(struct parser *p, struct span line, struct repl_error *err)
{
    const char *equals = memchr(line.begin, '=', line.size);
    if (equals == NULL)
        return repl_fail(err, REPL_E_USAGE,
                         "%s, line %u: write [PROFILE], KEY = VALUE or a comment (#)", p->path,
                         p->line);
    struct span key = trim(line.begin, equals);
    struct span value = trim(equals + 1, line.begin + line.size);
    const struct {
        const char *name;
        char **field;
    } keys[] = {{"aws_access_key_id", &p->out->key_id},
                {"aws_secret_access_key", &p->out->secret},
                {"aws_session_token", &p->out->token}};
    for (size_t i = 0; p->inside && i < sizeof keys / sizeof keys[0]; i++) {
        if (span_is(key, keys[i].name))
            return value_take(p, keys[i].name, value, keys[i].field, err);
    }
    return REPL_SUCCESS;
}

static repl_result line_take(struct parser *p, const char *begin, const char *end,
                             struct repl_error *err)
{
    struct span line = trim(begin, end);
    p->line++;
    /* What is indented belongs to the line before: other tools nest settings so. */
    if (line.size == 0 || line.begin[0] == '#' || line.begin[0] == ';' || is_blank(begin[0]))
        return REPL_SUCCESS;
    return line.begin[0] == '[' ? section_take(p, line, err) : key_take(p, line, err);
}

static repl_result lines_take(struct parser *p, const char *text, size_t size,
                              struct repl_error *err)
{
    for (const char *at = text, *end = text + size; at < end;) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        const char *stop = newline != NULL ? newline : end;
        REPL_TRY(line_take(p, at, stop, err));
        at = newline != NULL ? newline + 1 : end;
    }
    if (!p->found)
        return repl_fail(err, REPL_E_USAGE, "%s has no section [%s]: add it, or name another",
                         p->path, p->profile);
    if (p->out->key_id == NULL || p->out->secret == NULL)
        return repl_fail(err, REPL_E_USAGE, "%s, section [%s], has no %s: add the line", p->path,
                         p->profile,
                         p->out->key_id == NULL ? "aws_access_key_id" : "aws_secret_access_key");
    return REPL_SUCCESS;
}

repl_result s3_credentials_parse(const char *text, size_t size, const char *path,
                                 const char *profile, struct s3_credentials *out,
                                 struct repl_error *err)
{
    *out = (struct s3_credentials){0};
    struct parser p = {.path = path, .profile = profile, .out = out};
    repl_result result = lines_take(&p, text, size, err);
    if (!repl_ok(result))
        s3_credentials_wipe(out);
    return result;
}

/* --- copies ---------------------------------------------------------------------------------- */

static bool text_copy(const char *text, char **out)
{
    *out = text != NULL ? strdup(text) : NULL;
    return (text == NULL) == (*out == NULL);
}

repl_result s3_credentials_copy(const struct s3_credentials *from, struct s3_credentials *out,
                                struct repl_error *err)
{
    *out = (struct s3_credentials){0};
    if (text_copy(from->key_id, &out->key_id) && text_copy(from->secret, &out->secret) &&
        text_copy(from->token, &out->token))
        return REPL_SUCCESS;
    s3_credentials_wipe(out);
    return repl_fail(err, REPL_E_NOMEM, "out of memory for credentials");
}

static bool texts_equal(const char *a, const char *b)
{
    return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

bool s3_credentials_equal(const struct s3_credentials *a, const struct s3_credentials *b)
{
    return texts_equal(a->key_id, b->key_id) && texts_equal(a->secret, b->secret) &&
           texts_equal(a->token, b->token);
}

/* --- the file -------------------------------------------------------------------------------- */

static repl_result file_check(int fd, const char *path, struct repl_error *err)
{
    struct stat status;
    if (fstat(fd, &status) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot examine %s", path);
    if (!S_ISREG(status.st_mode))
        return repl_fail(err, REPL_E_USAGE, "%s is not a regular file", path);
    if ((status.st_mode & 077) != 0)
        return repl_fail(err, REPL_E_REFUSED,
                         "%s can be read by others than its owner, and has secrets in it: chmod "
                         "600 it",
                         path);
    if (status.st_size > (off_t)S3_CREDENTIALS_FILE_MAX)
        return repl_fail(err, REPL_E_USAGE,
                         "%s has more than %u bytes: is it a file of credentials?", path,
                         S3_CREDENTIALS_FILE_MAX);
    return REPL_SUCCESS;
}

repl_result s3_credentials_load(const char *path, const char *profile, struct s3_credentials *out,
                                struct repl_error *err)
{
    *out = (struct s3_credentials){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return repl_fail_errno(err, errno == ENOENT ? REPL_E_MISSING : REPL_E_IO, errno,
                               "cannot open the credentials in %s", path);
    char *text = malloc(S3_CREDENTIALS_FILE_MAX);
    repl_result result = text != NULL ? file_check(fd, path, err)
                                      : repl_fail(err, REPL_E_NOMEM, "out of memory for %s", path);
    if (repl_ok(result)) {
        ssize_t size = repl_read_full(fd, text, S3_CREDENTIALS_FILE_MAX, 0);
        result = size < 0 ? repl_fail_errno(err, REPL_E_IO, errno, "cannot read %s", path)
                          : s3_credentials_parse(text, (size_t)size, path, profile, out, err);
    }
    if (text != NULL)
        explicit_bzero(text, S3_CREDENTIALS_FILE_MAX);
    free(text);
    close(fd);
    return result;
}
