/*
 * Key pairs and fingerprints.
 *
 * A host, a site and a recovery operator each have one Ed25519 key pair, kept in
 * one PEM file (mode 0600) as the private key followed by a self-signed
 * certificate that serves only to carry the public key through TLS. Nobody
 * checks its names or dates: each side is configured with the other's
 * fingerprint, the SHA-256 of the DER SubjectPublicKeyInfo, and accepts that
 * key alone.
 */
#ifndef REPL_AGENT_KEYS_H
#define REPL_AGENT_KEYS_H

#include "repl/error.h"
#include "repl/format.h"

/* "SHA256:" and 64 lower-case hex digits, and the NUL. */
#define REPL_FINGERPRINT_TEXT_SIZE 72

/* Makes a new key file; refuses to overwrite one. name goes into the certificate for people. */
REPL_RESULT repl_key_generate(const char *path, const char *name, struct repl_digest *fingerprint,
                              struct repl_error *err);
/* Reads a key file; refuses one that others may read. *pem is NUL-terminated, freed by the caller
 * with free() after repl_key_wipe; both the key and the certificate are in it. */
REPL_RESULT repl_key_load(const char *path, char **pem, struct repl_digest *fingerprint,
                          struct repl_error *err);
void repl_key_wipe(char *pem);

void repl_fingerprint_format(const struct repl_digest *fingerprint,
                             char text[REPL_FINGERPRINT_TEXT_SIZE]);
REPL_RESULT repl_fingerprint_parse(const char *text, struct repl_digest *out,
                                   struct repl_error *err);

#endif
