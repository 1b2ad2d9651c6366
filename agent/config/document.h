/*
 * Writing documentation out of tables: filled text for a terminal, troff for
 * the man pages. The options of the configuration file and of every verb go
 * through here, so that both look alike.
 *
 * In a text, a blank line parts paragraphs, a line that starts with a space is
 * kept as it stands (an example), and any other line end is a space.
 */
#ifndef REPL_AGENT_DOCUMENT_H
#define REPL_AGENT_DOCUMENT_H

#include <stdio.h>

/* The text, filled to 79 columns behind indent spaces, ended by a line feed. */
void repl_document_fill(FILE *out, unsigned indent, const char *text);

/* The same text as troff input: escaped, so that nothing in it is a request. */
void repl_document_troff(FILE *out, const char *text);
/* A few words within a line or as the argument of a macro: escaped, no line feed added. */
void repl_document_troff_words(FILE *out, const char *words);

#endif
