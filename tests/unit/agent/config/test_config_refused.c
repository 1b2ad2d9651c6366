/*
 * The configuration file: what it says when it refuses, of sections, options, values and lines.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "unit/agent/config/config_expect.h"

static void test_sections_refused(void **state)
{
    (void)state;
    expect_error("\n[agnt]\n", REPL_ROLE_AGENT,
                 "f.conf:2: there is no section [agnt]: the file of the agent has [agent], "
                 "[remote], [volume NAME]");
    expect_error("[]\n", REPL_ROLE_SITE,
                 "f.conf:1: there is no section []: the file of the site has [site], "
                 "[volume NAME], [peer NAME]");
    expect_error("[site]\n", REPL_ROLE_AGENT,
                 "f.conf:1: [site] belongs in the file of the site, and this one is read for the "
                 "agent: remove it, or name another file");
    expect_error("[agent]\n", REPL_ROLE_SITE,
                 "f.conf:1: [agent] belongs in the file of the agent, and this one is read for the "
                 "site: remove it, or name another file");
    expect_error("[site]\n\n[site]\n", REPL_ROLE_SITE,
                 "f.conf:3: [site] is there already, at line 1: make them one section");
    expect_error("[volume a]\n[volume b]\n[volume a]\n", REPL_ROLE_SITE,
                 "f.conf:3: [volume a] is there already, at line 1: make them one section");
    expect_error("[peer a]\nvolumes = *\nfingerprint = SHA256:" HEX_A "\n[peer a]\n",
                 REPL_ROLE_SITE,
                 "f.conf:4: [peer a] is there already, at line 1: make them one section");
    expect_error("[site x]\n", REPL_ROLE_SITE, "f.conf:1: [site] takes no name: remove \"x\"");
    expect_error("[volume]\n", REPL_ROLE_SITE,
                 "f.conf:1: [volume NAME] needs a name, and \"\" is none: write up to 64 letters, "
                 "digits, dots, underscores and dashes, the first of them no dot or dash");
    expect_error("[volume a b]\n", REPL_ROLE_SITE,
                 "f.conf:1: [volume NAME] needs a name, and \"a b\" is none: write up to 64 "
                 "letters, digits, dots, underscores and dashes, the first of them no dot or dash");
    expect_error("[site\n", REPL_ROLE_SITE,
                 "f.conf:1: a section stands alone between [ and ] on its line");
    expect_error("[site] key = /k\n", REPL_ROLE_SITE,
                 "f.conf:1: a section stands alone between [ and ] on its line");
}

static void test_required_missing(void **state)
{
    (void)state;
    expect_error("", REPL_ROLE_AGENT,
                 "f.conf: there is no [remote] section: add one with address, fingerprint; "
                 "\"repl help config\" tells what they mean");
    expect_error(REMOTE "[volume a]\nrpo = 5s\n[volume b]\ndevice = /dev/vdb\n", REPL_ROLE_AGENT,
                 "f.conf:4: [volume a] has no device, which is required: add a line \"device = "
                 "...\"; \"repl help config\" tells what it means");
    expect_error(REMOTE "[volume a]\nkind = tree\n", REPL_ROLE_AGENT,
                 "f.conf:4: [volume a] has no path, which is required: add a line \"path = "
                 "...\"; \"repl help config\" tells what it means");
    expect_error("[remote]\naddress = a:1\n", REPL_ROLE_AGENT,
                 "f.conf:1: [remote] has no fingerprint, which is required: add a line "
                 "\"fingerprint = ...\"; \"repl help config\" tells what it means");
    expect_error("[peer p]\nfingerprint = SHA256:" HEX_A "\n", REPL_ROLE_SITE,
                 "f.conf:1: [peer p] has no volumes, which is required: add a line \"volumes = "
                 "...\"; \"repl help config\" tells what it means");
}

static void test_peers_with_one_key(void **state)
{
    (void)state;
    expect_error("[peer a]\nfingerprint = SHA256:" HEX_A "\nvolumes = *\n"
                 "[peer b]\nvolumes = *\nfingerprint = SHA256:" HEX_A "\n",
                 REPL_ROLE_SITE,
                 "f.conf:4: [peer b] has the fingerprint of [peer a] at line 1: give each peer a "
                 "key of its own, or make them one section");
}

#define PEER_A "[peer a]\nfingerprint = SHA256:" HEX_A "\n"
#define PEER_B "[peer b]\nfingerprint = SHA256:" HEX_B "\n"

static void test_peers_of_different_tenants(void **state)
{
    static const char *const good[] = {
        PEER_A "volumes = one two\ntenant = x\n" PEER_B "volumes = three\ntenant = y\n",
        PEER_A "volumes = one two\ntenant = x\n" PEER_B "volumes = two one\ntenant = x\n",
        PEER_A "volumes = *\ntenant = x\n" PEER_B "volumes = two\ntenant = x\n",
        PEER_A "volumes = *\ntenant = x\n" PEER_B "volumes = *\nrole = recovery\n",
        PEER_A "volumes = one\ntenant = x\n" PEER_B "volumes = one\ntenant = y\nrevoked = yes\n",
    };
    struct repl_config *config;
    struct repl_error err;
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        repl_result result =
            repl_config_parse(good[i], strlen(good[i]), "f.conf", REPL_ROLE_SITE, &config, &err);
        if (!repl_ok(result))
            fail_msg("%s", err.text);
        assert_string_equal(config->peers[0].tenant, "x");
        repl_config_free(config);
    }
    expect_error(PEER_A "volumes = one two\ntenant = x\n" PEER_B "volumes = two\ntenant = y\n",
                 REPL_ROLE_SITE,
                 "f.conf: [peer a] and [peer b] may both write volume two, and are not of one "
                 "tenant: give both the same, or no volume in common");
    expect_error(PEER_A "volumes = one\ntenant = x\n" PEER_B "volumes = one\n", REPL_ROLE_SITE,
                 "f.conf: [peer a] and [peer b] may both write volume one, and are not of one "
                 "tenant: give both the same, or no volume in common");
    expect_error(PEER_A "volumes = one\ntenant = x\n" PEER_B "volumes = *\n", REPL_ROLE_SITE,
                 "f.conf: [peer b] and [peer a] may both write volume one, and are not of one "
                 "tenant: give both the same, or no volume in common");
    expect_error(PEER_A "volumes = *\ntenant = x\n" PEER_B "volumes = *\n", REPL_ROLE_SITE,
                 "f.conf: [peer a] and [peer b] may both write all volumes, and are not of one "
                 "tenant: give both the same, or no volume in common");
    expect_error(
        PEER_A "volumes = one\ntenant = -x\n", REPL_ROLE_SITE,
        "f.conf:4: [peer a] tenant: \"-x\" is not a name: write up to 64 letters, digits, dots, "
        "underscores and dashes, the first of them no dot or dash");
}

static void test_options_refused(void **state)
{
    (void)state;
    expect_error("[agent]\nspol_limit = 1G\n", REPL_ROLE_AGENT,
                 "f.conf:2: [agent] has no option \"spol_limit\": it has key, state, control, "
                 "guard, spool_limit, bandwidth, compression, workers, nice");
    expect_error("[volume a]\ndevice = /dev/vdb\n", REPL_ROLE_SITE,
                 "f.conf:2: [volume a] device belongs in the file of the agent, and this one is "
                 "read for the site: remove the line");
    expect_error("[volume a]\nreplica = image\n", REPL_ROLE_AGENT,
                 "f.conf:2: [volume a] replica belongs in the file of the site, and this one is "
                 "read for the agent: remove the line");
    expect_error("[site]\nconnections = 15\n", REPL_ROLE_SITE,
                 "f.conf:2: [site] connections: \"15\" is out of range: write a number from 16 to "
                 "65536");
    expect_error("[site]\nspace_limit = 1K\n", REPL_ROLE_SITE,
                 "f.conf:2: [site] space_limit: \"1K\" is out of range: write a size from 1 MiB to "
                 "1024 PiB");
    expect_error("[site]\nspace_reserve = 2P\n", REPL_ROLE_SITE,
                 "f.conf:2: [site] space_reserve: \"2P\" is out of range: write auto or a size "
                 "from 0 bytes to 1 PiB");
    expect_error("[site]\nstrangers_per_address = 0\n", REPL_ROLE_SITE,
                 "f.conf:2: [site] strangers_per_address: \"0\" is out of range: write a number "
                 "from 1 to 4096");
    expect_error("[site]\nnice = 1\nworkers = 2\nnice = 1\n", REPL_ROLE_SITE,
                 "f.conf:4: [site] nice is there already, at line 2: remove one");
    expect_error("[peer a]\nvolumes = a\nvolumes = b\n", REPL_ROLE_SITE,
                 "f.conf:3: [peer a] volumes is there already, at line 2: remove one");
    expect_error("key = /k\n", REPL_ROLE_SITE,
                 "f.conf:1: \"key\" stands before the first section: put [site] above it");
    expect_error("[site]\nkey =\n", REPL_ROLE_SITE,
                 "f.conf:2: [site] key has no value: write one, or remove the line for the "
                 "default");
    expect_error("[site]\nkey = ; none\n", REPL_ROLE_SITE,
                 "f.conf:2: [site] key has no value: write one, or remove the line for the "
                 "default");
    expect_error("[site]\nkey = /k # mine\n", REPL_ROLE_SITE,
                 "f.conf:2: [site] key: a comment after a value begins with ; and not with #");
}

static void test_values_refused(void **state)
{
    (void)state;
    expect_error("[site]\nkey = site.key\n", REPL_ROLE_SITE,
                 "f.conf:2: [site] key: \"site.key\" is not an absolute path: begin it with /");
    expect_error("[agent]\nspool_limit = 1M\n", REPL_ROLE_AGENT,
                 "f.conf:2: [agent] spool_limit: \"1M\" is out of range: write a size from 64 MiB "
                 "to 1 PiB");
    expect_error("[agent]\nspool_limit = 2P\n", REPL_ROLE_AGENT,
                 "f.conf:2: [agent] spool_limit: \"2P\" is out of range: write a size from 64 MiB "
                 "to 1 PiB");
    expect_error("[volume a]\nrpo = 1s\n", REPL_ROLE_AGENT,
                 "f.conf:2: [volume a] rpo: \"1s\" is out of range: write a time from 2s to 1d");
    expect_error("[volume a]\nrpo = 25h\n", REPL_ROLE_AGENT,
                 "f.conf:2: [volume a] rpo: \"25h\" is out of range: write a time from 2s to 1d");
    expect_error("[volume a]\nrpo = 4\n", REPL_ROLE_AGENT,
                 "f.conf:2: [volume a] rpo: \"4\" is not a time: write a whole number and its "
                 "unit, ms, s, min, h or d, such as 250ms or 10 min");
    expect_error("[site]\nnice = 20\n", REPL_ROLE_SITE,
                 "f.conf:2: [site] nice: \"20\" is out of range: write a number from 0 to 19");
    expect_error("[volume a]\nsync = true\n", REPL_ROLE_AGENT,
                 "f.conf:2: [volume a] sync: \"true\" is neither: write yes or no");
    expect_error("[peer a]\nrole = admin\n", REPL_ROLE_SITE,
                 "f.conf:2: [peer a] role: \"admin\" is neither: write recovery or source");
    expect_error("[volume a]\nreplica = vdb\n", REPL_ROLE_SITE,
                 "f.conf:2: [volume a] replica: \"vdb\" is no replica: write image, none, or the "
                 "absolute path of a device, file or directory");
    expect_error("[remote]\naddress = host\n", REPL_ROLE_AGENT,
                 "f.conf:2: [remote] address: \"host\" is not an address: write host:port, such as "
                 "site.example.org:7420 or [2001:db8::7]:7420, with a port from 1 to 65535");
    expect_error("[remote]\nfingerprint = SHA256:00\n", REPL_ROLE_AGENT,
                 "f.conf:2: [remote] fingerprint: \"SHA256:00\" is not a fingerprint: write "
                 "SHA256: and 64 hex digits, as \"repl keygen --show\" prints it beside the key");
    expect_error("[agent]\ncontrol = /"
                 "cccccccccccccccccccccccccccccccccccccccccccccccccccccc"
                 "cccccccccccccccccccccccccccccccccccccccccccccccccccc1\n",
                 REPL_ROLE_AGENT,
                 "f.conf:2: [agent] control: \"/"
                 "cccccccccccccccccccccccccccccccccccccccccccccccccccccc"
                 "cccccccccccccccccccccccccccccccccccccccccccccccccccc1\" is out of range: write "
                 "an absolute path of at most 107 bytes");
}

static void test_quiesce_refused(void **state)
{
    (void)state;
    expect_error("[volume a]\nquiesce = thaw\n", REPL_ROLE_AGENT,
                 "f.conf:2: [volume a] quiesce: \"thaw\" is no way to quiesce: write window, "
                 "window-else-freeze, freeze, command, window-else-snapshot, snapshot or "
                 "window-else-files");
    expect_error("[volume a]\nfreeze_budget = 49ms\n", REPL_ROLE_AGENT,
                 "f.conf:2: [volume a] freeze_budget: \"49ms\" is out of range: write a time from "
                 "50ms to 10s");
    expect_error("[volume a]\ncommand_timeout = 2h\n", REPL_ROLE_AGENT,
                 "f.conf:2: [volume a] command_timeout: \"2h\" is out of range: write a time from "
                 "100ms to 1h");
    expect_error("[volume a]\ngroup = a b\n", REPL_ROLE_AGENT,
                 "f.conf:2: [volume a] group: \"a b\" is not a name: write up to 64 letters, "
                 "digits, dots, underscores and dashes, the first of them no dot or dash");
    expect_error("[volume a]\npre_command = sync ; true\n", REPL_ROLE_AGENT,
                 "f.conf:2: [volume a] pre_command: a ; behind a space begins a comment, so half "
                 "of the command could be lost: join commands with &&, or put them into a script");
    expect_error("[volume a]\ndevice = /d\nquiesce = command\n", REPL_ROLE_AGENT,
                 "f.conf:1: [volume a] has quiesce = command and no pre_command: add one");
    expect_error("[volume a]\ndevice = /d\npost_command = true\n", REPL_ROLE_AGENT,
                 "f.conf:1: [volume a] has a command that quiesce = window never runs: write "
                 "quiesce = command, or freeze, or remove it");
}

static void test_lists_refused(void **state)
{
    (void)state;
    expect_error("[peer a]\nvolumes = a, b a\n", REPL_ROLE_SITE,
                 "f.conf:2: [peer a] volumes: volume a is in the list twice: remove one");
    expect_error("[peer a]\nvolumes = a\n b\n a\n", REPL_ROLE_SITE,
                 "f.conf:4: [peer a] volumes: volume a is in the list twice: remove one");
    expect_error("[peer a]\nvolumes = a *\n", REPL_ROLE_SITE,
                 "f.conf:2: [peer a] volumes: * means all volumes, so names beside it are a "
                 "mistake: write one or the other");
    expect_error(
        "[peer a]\nvolumes = ,\n", REPL_ROLE_SITE,
        "f.conf:2: [peer a] volumes: the list is empty: name a volume, or write * for all");
    expect_error("[peer a]\nvolumes = a/b\n", REPL_ROLE_SITE,
                 "f.conf:2: [peer a] volumes: \"a/b\" is not a volume name: write up to 64 "
                 "letters, digits, dots, underscores and dashes, the first of them no dot or dash");
}

static void test_lines_refused(void **state)
{
    (void)state;
    static const char neither[] = "f.conf:2: neither a [section] nor \"key = value\" nor a comment";
    expect_error("[site]\nkey\nnonsense = 1\n", REPL_ROLE_SITE, neither);
    expect_error("[site]\nkey: /k\n", REPL_ROLE_SITE, neither);
    expect_error("[site]\n= /k\n", REPL_ROLE_SITE, neither);
    expect_error("[site]\nkey ; = /k\n", REPL_ROLE_SITE, neither);
    static const char indented[] = "f.conf:3: the line is indented, which would make it more of "
                                   "the value above: begin it in the first column";
    expect_error("[site]\nkey = /k\n  store = /s\n", REPL_ROLE_SITE, indented);
    expect_error("[site]\nkey = /k\n [volume a]\n", REPL_ROLE_SITE, indented);
    expect_error("[peer a]\n\n\tvolumes = a\n", REPL_ROLE_SITE, indented);
    static const char control[] =
        "f.conf:2: byte 5 of the line is the control character 0x00: is this a text file?";
    expect_error_bytes("[site]\nkey \0= /k\n", 17, REPL_ROLE_SITE, control);
    expect_error(
        "[site]\nkey = /\x1b[2J\n", REPL_ROLE_SITE,
        "f.conf:2: byte 8 of the line is the control character 0x1b: is this a text file?");
}

static void test_line_length(void **state)
{
    (void)state;
    char text[256];
    memset(text, 'k', sizeof text);
    memcpy(text, "[site]\nkey = /", 14);
    /* 197 bytes in the second line, which begins at 7 */
    struct repl_config *config = NULL;
    assert_true(repl_ok(repl_config_parse(text, 7 + 197, "f.conf", REPL_ROLE_SITE, &config, NULL)));
    assert_int_equal(strlen(config->key), 197 - 6);
    repl_config_free(config);
    expect_error_bytes(text, 7 + 198, REPL_ROLE_SITE,
                       "f.conf:2: the line is longer than 197 bytes: make it shorter (a list of "
                       "volumes may go on in indented lines)");
    memset(text, '#', 220);
    expect_error_bytes(text, 220, REPL_ROLE_SITE,
                       "f.conf:1: the line is longer than 197 bytes: make it shorter (a list of "
                       "volumes may go on in indented lines)");
}

static void test_bounds(void **state)
{
    (void)state;
    char *text = calloc(1, REPL_CONFIG_FILE_SIZE_MAX + 2);
    assert_non_null(text);
    memset(text, '\n', REPL_CONFIG_FILE_SIZE_MAX + 1);
    expect_error_bytes(text, REPL_CONFIG_FILE_SIZE_MAX + 1, REPL_ROLE_SITE,
                       "f.conf: larger than 1048576 bytes: is this the right file?");
    size_t used = 0;
    for (unsigned i = 0; i <= REPL_CONFIG_VOLUMES_MAX; i++)
        used += (size_t)sprintf(text + used, "[volume v%u]\n", i);
    expect_error_bytes(text, used, REPL_ROLE_SITE,
                       "f.conf:1025: more than 1024 volumes: spread them over several files and "
                       "programs");
    used = 0;
    for (unsigned i = 0; i <= REPL_CONFIG_PEERS_MAX; i++)
        used += (size_t)sprintf(text + used,
                                "[peer p%u]\nvolumes = *\nfingerprint = SHA256:%064x\n", i, i);
    expect_error_bytes(text, used, REPL_ROLE_SITE,
                       "f.conf:3073: more than 1024 peers: spread them over several files and "
                       "programs");
    used = (size_t)sprintf(text, "[peer p]\nvolumes = x\n");
    for (unsigned i = 0; i < REPL_CONFIG_NAMES_MAX; i++)
        used += (size_t)sprintf(text + used, " v%u\n", i);
    expect_error_bytes(text, used, REPL_ROLE_SITE,
                       "f.conf:1026: [peer p] volumes: more than 1024 volumes: write * for all");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quiesce_refused),
        cmocka_unit_test(test_sections_refused),
        cmocka_unit_test(test_required_missing),
        cmocka_unit_test(test_peers_with_one_key),
        cmocka_unit_test(test_peers_of_different_tenants),
        cmocka_unit_test(test_options_refused),
        cmocka_unit_test(test_values_refused),
        cmocka_unit_test(test_lists_refused),
        cmocka_unit_test(test_lines_refused),
        cmocka_unit_test(test_line_length),
        cmocka_unit_test(test_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
