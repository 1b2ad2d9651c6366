/*
 * Documentation in two forms from one text.
 *
 * Both walk the text line by line. The terminal form keeps one number, the
 * column reached; 0 says that a line has not been begun. The troff form lets
 * troff do the filling: there a line that starts with a space breaks by itself,
 * so an example only has to end with a break of its own.
 */
#include "config/document.h"

#include <stdbool.h>
#include <string.h>

#define DOCUMENT_COLUMNS 79u

static void fill_words(FILE *out, unsigned indent, const char *line, size_t size, size_t *column)
{
    const char *end = line + size;
    while (line < end) {
        size_t length = 0;
        while (line + length < end && line[length] != ' ')
            length++;
        if (length > 0) {
            if (*column > 0 && *column + 1 + length > DOCUMENT_COLUMNS) {
                fputc('\n', out);
                *column = 0;
            }
            if (*column == 0)
                *column = (size_t)fprintf(out, "%*s%.*s", (int)indent, "", (int)length, line);
            else
                *column += (size_t)fprintf(out, " %.*s", (int)length, line);
        }
        line += length < (size_t)(end - line) ? length + 1 : length;
    }
}

void repl_document_fill(FILE *out, unsigned indent, const char *text)
{
    size_t column = 0;
    for (;;) {
        size_t size = strcspn(text, "\n");
        bool filled = size > 0 && text[0] != ' ';
        if (filled) {
            fill_words(out, indent, text, size, &column);
        } else {
            if (column > 0)
                fputc('\n', out);
            column = 0;
            if (size > 0)
                fprintf(out, "%*s%.*s\n", (int)indent, "", (int)size, text);
            else if (text[0] != '\0')
                fputc('\n', out);
        }
        if (text[size] == '\0')
            break;
        text += size + 1;
    }
    if (column > 0)
        fputc('\n', out);
}

static void troff_bytes(FILE *out, const char *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        switch (bytes[i]) {
        case '\\':
            fputs("\\e", out);
            break;
        case '-':
            fputs("\\-", out);
            break;
        case '\'':
            fputs("\\(aq", out);
            break;
        case '"':
            fputs("\\(dq", out);
            break;
        case '`':
            fputs("\\(ga", out);
            break;
        case '^':
            fputs("\\(ha", out);
            break;
        case '~':
            fputs("\\(ti", out);
            break;
        case '.': /* at the start of a line it would be a request */
            fputs(i == 0 ? "\\&." : ".", out);
            break;
        default:
            fputc(bytes[i], out);
        }
    }
}

void repl_document_troff_words(FILE *out, const char *words)
{
    troff_bytes(out, words, strlen(words));
}

void repl_document_troff(FILE *out, const char *text)
{
    for (;;) {
        size_t size = strcspn(text, "\n");
        if (size > 0) {
            troff_bytes(out, text, size);
            fputs(text[0] == ' ' ? "\n.br\n" : "\n", out);
        } else if (text[0] != '\0') {
            fputs(".sp\n", out);
        }
        if (text[size] == '\0')
            break;
        text += size + 1;
    }
}
