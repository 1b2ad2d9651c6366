/*
 * A configuration's text, which has to be taken, or refused with exactly this message: it is what
 * somebody has at three in the morning.
 */
#ifndef TESTS_UNIT_CONFIG_EXPECT_H
#define TESTS_UNIT_CONFIG_EXPECT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "config/config.h"

#define HEX_A   "00000000000000000000000000000000000000000000000000000000000000aa"
#define HEX_B   "00000000000000000000000000000000000000000000000000000000000000bb"
#define REMOTE  "[remote]\naddress = site.example.org:7420\nfingerprint = SHA256:" HEX_A "\n"
#define NAME_63 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

static inline struct repl_config *parse_good(const char *text, enum repl_role role)
{
    struct repl_config *config = NULL;
    struct repl_error err = {0};
    if (!repl_ok(repl_config_parse(text, strlen(text), "f.conf", role, &config, &err)))
        fail_msg("refused: %s", err.text);
    return config;
}

static inline void expect_error_bytes(const char *text, size_t size, enum repl_role role,
                                      const char *message)
{
    struct repl_config *config = (struct repl_config *)(uintptr_t)1;
    struct repl_error err = {0};
    assert_int_equal(repl_config_parse(text, size, "f.conf", role, &config, &err).code,
                     REPL_E_USAGE);
    assert_null(config);
    assert_string_equal(err.text, message);
    /* The same without a place for the message. */
    assert_int_equal(repl_config_parse(text, size, "f.conf", role, &config, NULL).code,
                     REPL_E_USAGE);
}

static inline void expect_error(const char *text, enum repl_role role, const char *message)
{
    expect_error_bytes(text, strlen(text), role, message);
}

#endif
