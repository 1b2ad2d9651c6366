#include "store/s3_xml.h"

#include <expat.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH_MAX 8u
#define VALUE_MAX (S3_KEY_MAX * 2u)

/* The text of one element, as deep in the document as is of interest. */
struct reader {
    XML_Parser parser;
    unsigned depth;
    char value[VALUE_MAX + 1];
    size_t value_size;
    bool value_cut;
    bool refused; /* a DOCTYPE, or too deep */
    /* ended: an element of this name ended at this depth (1: the root), with this text. */
    void (*began)(void *context, const char *name, unsigned depth);
    void (*ended)(void *context, const char *name, unsigned depth, const char *value, bool cut);
    void *context;
};

/* A namespace is written before the name where there is one. */
static const char *local_name(const char *name)
{
    const char *bar = strrchr(name, '|');
    return bar != NULL ? bar + 1 : name;
}

static void refuse(struct reader *r)
{
    r->refused = true;
    XML_StopParser(r->parser, XML_FALSE);
}

static void XMLCALL on_start(void *user, const XML_Char *name, const XML_Char **attributes)
{
    struct reader *r = user;
    (void)attributes;
    r->value_size = 0;
    r->value_cut = false;
    if (++r->depth > DEPTH_MAX) {
        refuse(r);
        return;
    }
    if (r->began != NULL)
        r->began(r->context, local_name(name), r->depth);
}

static void XMLCALL on_text(void *user, const XML_Char *text, int size)
{
    struct reader *r = user;
    size_t room = VALUE_MAX - r->value_size;
    size_t take = (size_t)size < room ? (size_t)size : room;
    memcpy(r->value + r->value_size, text, take);
    r->value_size += take;
    r->value_cut = r->value_cut || take < (size_t)size;
}

static void XMLCALL on_end(void *user, const XML_Char *name)
{
    struct reader *r = user;
    r->value[r->value_size] = '\0';
    r->ended(r->context, local_name(name), r->depth, r->value, r->value_cut);
    r->depth--;
    r->value_size = 0;
    r->value_cut = false;
}

static void XMLCALL on_doctype(void *user, const XML_Char *name, const XML_Char *system,
                               const XML_Char *public, int subset)
{
    (void)name, (void)system, (void)public, (void)subset;
    refuse(user);
}

/* Whether it was a whole document. */
static bool document_read(struct reader *r, const char *text, size_t size)
{
    r->parser = XML_ParserCreateNS(NULL, '|');
    if (r->parser == NULL || size > INT32_MAX) {
        XML_ParserFree(r->parser);
        return false;
    }
    XML_SetUserData(r->parser, r);
    XML_SetElementHandler(r->parser, on_start, on_end);
    XML_SetCharacterDataHandler(r->parser, on_text);
    XML_SetStartDoctypeDeclHandler(r->parser, on_doctype);
    bool whole = XML_Parse(r->parser, text, (int)size, XML_TRUE) == XML_STATUS_OK && !r->refused;
    XML_ParserFree(r->parser);
    return whole;
}

/* --- a listing ------------------------------------------------------------------------------- */

struct list {
    struct reader reader;
    s3_list_visit_fn *visit;
    void *visit_context;
    struct s3_list_page *page;
    struct repl_error *err;
    repl_result result;
    bool is_list; /* the root is that of a listing */
    bool in_contents, in_prefixes;
    bool has_truncated;
    char key[S3_KEY_MAX + 1]; /* of the entry that is being read; "": not seen yet */
    uint64_t size;
    bool has_size;
    unsigned keys;
};

static void list_fail(struct list *l, const char *what)
{
    if (repl_ok(l->result))
        l->result =
            repl_fail(l->err, REPL_E_CORRUPT, "the bucket's listing makes no sense: %s", what);
    XML_StopParser(l->reader.parser, XML_FALSE);
}

static void list_began(void *context, const char *name, unsigned depth)
{
    struct list *l = context;
    if (depth == 1)
        l->is_list = strcmp(name, "ListBucketResult") == 0;
    if (depth != 2)
        return;
    l->in_contents = strcmp(name, "Contents") == 0;
    l->in_prefixes = strcmp(name, "CommonPrefixes") == 0;
    l->key[0] = '\0';
    l->has_size = false;
}

static void list_entry_end(struct list *l)
{
    if (++l->keys > S3_LIST_KEYS_MAX) {
        list_fail(l, "it has more entries than a page may");
        return;
    }
    if (l->key[0] == '\0' || (l->in_contents && !l->has_size)) {
        list_fail(l, "an entry without a name or a size");
        return;
    }
    l->result =
        l->visit(l->visit_context, l->key, l->in_contents ? l->size : 0, l->in_prefixes, l->err);
    if (!repl_ok(l->result))
        XML_StopParser(l->reader.parser, XML_FALSE);
}

static void list_key(struct list *l, const char *value, bool cut)
{
    if (cut || strlen(value) > S3_KEY_MAX)
        list_fail(l, "a key that is too long");
    else
        strcpy(l->key, value);
}

static void list_size(struct list *l, const char *value)
{
    char *end;
    size_t digits = strspn(value, "0123456789");
    l->size = strtoull(value, &end, 10);
    l->has_size = digits > 0 && digits < 19 && *end == '\0';
}

static void list_token(struct list *l, const char *value, bool cut)
{
    if (cut)
        list_fail(l, "a continuation token that is too long");
    else
        strcpy(l->page->token, value);
}

static void list_ended(void *context, const char *name, unsigned depth, const char *value, bool cut)
{
    struct list *l = context;
    if (!l->is_list || !repl_ok(l->result))
        return;
    if (depth == 3 && l->in_contents && strcmp(name, "Key") == 0)
        list_key(l, value, cut);
    else if (depth == 3 && l->in_contents && strcmp(name, "Size") == 0)
        list_size(l, value);
    else if (depth == 3 && l->in_prefixes && strcmp(name, "Prefix") == 0)
        list_key(l, value, cut);
    else if (depth == 2 && (l->in_contents || l->in_prefixes))
        list_entry_end(l);
    else if (depth == 2 && strcmp(name, "IsTruncated") == 0)
        l->page->truncated = strcmp(value, "true") == 0, l->has_truncated = true;
    else if (depth == 2 && strcmp(name, "NextContinuationToken") == 0)
        list_token(l, value, cut);
}

repl_result s3_list_parse(const char *text, size_t size, s3_list_visit_fn *visit, void *context,
                          struct s3_list_page *page, struct repl_error *err)
{
    struct list *l = calloc(1, sizeof *l);
    if (l == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a listing of the bucket");
    *page = (struct s3_list_page){0};
    l->reader = (struct reader){.began = list_began, .ended = list_ended, .context = l};
    l->visit = visit;
    l->visit_context = context;
    l->page = page;
    l->err = err;
    bool whole = document_read(&l->reader, text, size);
    repl_result result = l->result;
    if (repl_ok(result) && (!whole || !l->is_list))
        result = repl_fail(err, REPL_E_CORRUPT,
                           "the bucket was asked for a listing, and the answer is none: is the "
                           "endpoint that of an S3 service?");
    else if (repl_ok(result) && (!l->has_truncated || (page->truncated && page->token[0] == '\0')))
        result = repl_fail(err, REPL_E_CORRUPT,
                           "the bucket's listing does not say how it goes on: the service must "
                           "know ListObjectsV2");
    free(l);
    return result;
}

/* --- an error -------------------------------------------------------------------------------- */

struct failure {
    struct reader reader;
    struct s3_error_text *out;
    bool is_error;
};

static void failure_began(void *context, const char *name, unsigned depth)
{
    struct failure *f = context;
    if (depth == 1)
        f->is_error = strcmp(name, "Error") == 0;
}

/* It may come to a terminal: what is no printable ASCII becomes a question mark. */
static void text_take(char *out, size_t out_size, const char *value)
{
    size_t i = 0;
    for (; value[i] != '\0' && i + 1 < out_size; i++)
        out[i] = value[i] >= ' ' && value[i] <= '~' ? value[i] : '?';
    out[i] = '\0';
}

static void failure_ended(void *context, const char *name, unsigned depth, const char *value,
                          bool cut)
{
    struct failure *f = context;
    struct s3_error_text *out = f->out;
    (void)cut;
    if (!f->is_error || depth != 2)
        return;
    if (strcmp(name, "Code") == 0)
        text_take(out->code, sizeof out->code, value);
    else if (strcmp(name, "Message") == 0)
        text_take(out->message, sizeof out->message, value);
    else if (strcmp(name, "Region") == 0)
        text_take(out->region, sizeof out->region, value);
    else if (strcmp(name, "ServerTime") == 0)
        text_take(out->server_time, sizeof out->server_time, value);
}

void s3_error_parse(const char *text, size_t size, struct s3_error_text *out)
{
    struct failure f = {.out = out};
    *out = (struct s3_error_text){0};
    /* A service that takes its time sends blanks before it says how it went. */
    for (; size > 0 && strchr(" \t\r\n", *text) != NULL && *text != '\0'; size--)
        text++;
    f.reader = (struct reader){.began = failure_began, .ended = failure_ended, .context = &f};
    if (!document_read(&f.reader, text, size))
        *out = (struct s3_error_text){0};
}
