/*
 * The configuration file: what it gives.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "unit/agent/config/config_expect.h"

static void test_agent_defaults(void **state)
{
    (void)state;
    struct repl_config *config =
        parse_good(REMOTE "[volume data]\ndevice = /dev/vdb\n", REPL_ROLE_AGENT);
    assert_int_equal(config->role, REPL_ROLE_AGENT);
    assert_string_equal(config->path, "f.conf");
    assert_string_equal(config->key, "/etc/repl/agent.key");
    assert_string_equal(config->state, "/var/lib/repl");
    assert_string_equal(config->control, "/run/repl/agent.sock");
    assert_int_equal(config->spool_limit_bytes, UINT64_C(10) << 30);
    assert_int_equal(config->compression, 0);
    assert_int_equal(config->workers, 0);
    assert_int_equal(config->nice, 10);
    assert_string_equal(config->remote_address, "site.example.org:7420");
    assert_int_equal(config->remote_fingerprint.bytes[31], 0xaa);
    assert_int_equal(config->volume_count, 1);
    assert_string_equal(config->volumes[0].device, "/dev/vdb");
    assert_int_equal(config->volumes[0].rpo_ms, 4000);
    assert_true(config->volumes[0].sync);
    assert_string_equal(config->guard, "/run/repl/guard.sock");
    assert_int_equal(config->volumes[0].quiesce, REPL_QUIESCE_WINDOW);
    assert_int_equal(config->volumes[0].freeze_budget_ms, 250);
    assert_null(config->volumes[0].pre_command);
    assert_null(config->volumes[0].post_command);
    assert_int_equal(config->volumes[0].command_timeout_ms, 10000);
    assert_null(config->volumes[0].group);
    assert_null(config->listen);
    assert_null(config->volumes[0].replica);
    assert_ptr_equal(repl_config_find_volume(config, "data"), &config->volumes[0]);
    assert_null(repl_config_find_volume(config, "dat"));
    repl_config_free(config);
}

static void test_agent_all_options(void **state)
{
    (void)state;
    struct repl_config *config =
        parse_good("# comment\n; comment\n   # indented comment\n\n"
                   "[agent] ; comment\r\n"
                   "key=/k ; comment\r\n"
                   "state\t =\t/var/lib/my state\n"
                   "control = /c;d\n"
                   "spool_limit = 64 MiB\nworkers = 2\nnice = 0\n" REMOTE "[ volume  v.1_-X ]\n"
                   "device = /dev/disk/by-id/a#b=c\n"
                   "rpo = 1h\nsync = no",
                   REPL_ROLE_AGENT);
    assert_string_equal(config->key, "/k");
    assert_string_equal(config->state, "/var/lib/my state");
    assert_string_equal(config->control, "/c;d");
    assert_int_equal(config->spool_limit_bytes, 64 << 20);
    assert_int_equal(config->workers, 2);
    assert_int_equal(config->nice, 0);
    assert_string_equal(config->volumes[0].name, "v.1_-X");
    assert_string_equal(config->volumes[0].device, "/dev/disk/by-id/a#b=c");
    assert_int_equal(config->volumes[0].rpo_ms, 3600000);
    assert_false(config->volumes[0].sync);
    repl_config_free(config);
}

static void test_limits_of_space(void **state)
{
    (void)state;
    struct repl_config *config = parse_good("[site]\n", REPL_ROLE_SITE);
    assert_int_equal(config->space_limit_bytes, 0);
    assert_true(config->space_reserve_bytes == REPL_CONFIG_RESERVE_AUTO);
    repl_config_free(config);
    config = parse_good("[site]\nspace_limit = 2T\nspace_reserve = 0\n"
                        "[volume a]\nspace_limit = 5 GiB\n[volume b]\nreplica = none\n",
                        REPL_ROLE_SITE);
    assert_int_equal(config->space_limit_bytes, UINT64_C(2) << 40);
    assert_int_equal(config->space_reserve_bytes, 0);
    assert_int_equal(config->volumes[0].space_limit_bytes, UINT64_C(5) << 30);
    assert_int_equal(config->volumes[1].space_limit_bytes, 0);
    repl_config_free(config);
    config = parse_good("[site]\nspace_reserve = auto\n", REPL_ROLE_SITE);
    assert_true(config->space_reserve_bytes == REPL_CONFIG_RESERVE_AUTO);
    /* a twentieth, and at most 1 GiB */
    assert_int_equal(repl_config_reserve(config, 2000), 100);
    assert_int_equal(repl_config_reserve(config, UINT64_C(1) << 40), UINT64_C(1) << 30);
    repl_config_free(config);
    config = parse_good("[site]\nspace_reserve = 3G\n", REPL_ROLE_SITE);
    assert_int_equal(repl_config_reserve(config, UINT64_C(1) << 40), UINT64_C(3) << 30);
    repl_config_free(config);
}

static void test_quiesce(void **state)
{
    (void)state;
    struct repl_config *config = parse_good(
        "[agent]\nguard = /g.sock\n" REMOTE
        "[volume a]\ndevice = /dev/vdb\nquiesce = window-else-freeze\nfreeze_budget = 50ms\n"
        "pre_command = sync; echo \"a=b\" >/x && true\npost_command = /post --x=1;true\n"
        "command_timeout = 1h\ngroup = db.1\n"
        "[volume b]\ndevice = /dev/vdc\nquiesce = freeze\nfreeze_budget = 10s\n"
        "[volume c]\ndevice = /dev/vdd\nquiesce = command\npre_command = true\n"
        "command_timeout = 100ms\n",
        REPL_ROLE_AGENT);
    const struct repl_config_volume *volume = config->volumes;
    assert_string_equal(config->guard, "/g.sock");
    assert_int_equal(volume[0].quiesce, REPL_QUIESCE_WINDOW_ELSE_FREEZE);
    assert_int_equal(volume[0].freeze_budget_ms, 50);
    assert_string_equal(volume[0].pre_command, "sync; echo \"a=b\" >/x && true");
    assert_string_equal(volume[0].post_command, "/post --x=1;true");
    assert_int_equal(volume[0].command_timeout_ms, 3600000);
    assert_string_equal(volume[0].group, "db.1");
    assert_int_equal(volume[1].quiesce, REPL_QUIESCE_FREEZE);
    assert_int_equal(volume[1].freeze_budget_ms, 10000);
    assert_int_equal(volume[2].quiesce, REPL_QUIESCE_COMMAND);
    assert_int_equal(volume[2].command_timeout_ms, 100);
    assert_null(volume[2].post_command);
    repl_config_free(config);
}

static void test_site_store(void **state)
{
    (void)state;
    struct repl_config *config = parse_good("[site]\nstore = s3://bucket/a\nstate = /s\n"
                                            "s3_endpoint = https://h:8443\ns3_host_style = yes\n",
                                            REPL_ROLE_SITE);
    assert_string_equal(repl_config_site_directory(config), "/s");
    assert_string_equal(repl_config_s3(config).endpoint, "https://h:8443");
    assert_true(repl_config_s3(config).host_style);
    assert_null(repl_config_s3(config).credentials);
    repl_config_free(config);
    config = parse_good("[site]\nstore = /d\nstate = /s\n", REPL_ROLE_SITE);
    assert_string_equal(repl_config_site_directory(config), "/d");
    repl_config_free(config);
    expect_error("[site]\nstore = d\n", REPL_ROLE_SITE,
                 "f.conf:2: [site] store: \"d\" is not an absolute path: begin it with /");
    expect_error("[site]\ns3_region = a b\n", REPL_ROLE_SITE,
                 "f.conf:2: [site] s3_region: \"a b\" has a blank or an unprintable byte in it");
    static const char *const urls[] = {"h",           "ftp://h",    "https://",
                                       "https://h/p", "http://u@h", "http://h?q"};
    for (size_t i = 0; i < sizeof urls / sizeof urls[0]; i++) {
        char text[64], expected[192];
        snprintf(text, sizeof text, "[site]\ns3_endpoint = %s\n", urls[i]);
        snprintf(expected, sizeof expected,
                 "f.conf:2: [site] s3_endpoint: \"%s\" is not the address of a service: write "
                 "https://HOST, with :PORT where it needs one, and nothing behind it",
                 urls[i]);
        expect_error(text, REPL_ROLE_SITE, expected);
    }
}

static void test_site_defaults(void **state)
{
    (void)state;
    struct repl_config *config = parse_good("", REPL_ROLE_SITE);
    assert_string_equal(config->listen, "0.0.0.0:7420");
    assert_string_equal(config->key, "/etc/repl/site.key");
    assert_string_equal(config->store, "/var/lib/repl-site");
    assert_string_equal(config->control, "/run/repl/site.sock");
    assert_int_equal(config->connections, 1024);
    assert_int_equal(config->strangers_per_address, 16);
    assert_int_equal(config->nice, 10);
    assert_string_equal(repl_config_site_directory(config), "/var/lib/repl-site");
    assert_null(config->remote_address);
    assert_int_equal(config->volume_count, 0);
    assert_int_equal(config->peer_count, 0);
    repl_config_free(config);
}

static void test_site_peers(void **state)
{
    (void)state;
    struct repl_config *config =
        parse_good("\xef\xbb\xbf[site]\nlisten = [::]:0\n"
                   "connections = 16\nstrangers_per_address = 4096\n"
                   "[volume a]\n[volume b]\nreplica = /dev/vdc\n[volume c]\nreplica = none\n"
                   "[peer web]\nfingerprint = SHA256:" HEX_A "\nvolumes = a, b ; first\n"
                   "  c,d\n\n# comment\n\te ; more\n"
                   "[peer op]\nrole = recovery\nrevoked = yes\nvolumes = *\n"
                   "fingerprint = SHA256:" HEX_B "\n",
                   REPL_ROLE_SITE);
    assert_string_equal(config->listen, "[::]:0");
    assert_int_equal(config->connections, 16);
    assert_int_equal(config->strangers_per_address, 4096);
    assert_int_equal(config->volume_count, 3);
    assert_string_equal(config->volumes[0].replica, "image");
    assert_string_equal(config->volumes[1].replica, "/dev/vdc");
    assert_string_equal(config->volumes[2].replica, "none");
    assert_int_equal(config->peer_count, 2);
    const struct repl_config_peer *web = &config->peers[0];
    assert_string_equal(web->name, "web");
    static const char *const names[] = {"a", "b", "c", "d", "e"};
    assert_int_equal(web->volume_count, 5);
    for (size_t i = 0; i < 5; i++)
        assert_string_equal(web->volumes[i], names[i]);
    assert_false(web->all_volumes);
    assert_false(web->recovery);
    assert_false(web->revoked);
    const struct repl_config_peer *viewer = &config->peers[1];
    assert_true(viewer->all_volumes);
    assert_int_equal(viewer->volume_count, 0);
    assert_true(viewer->recovery);
    assert_true(viewer->revoked);
    assert_ptr_equal(repl_config_find_peer(config, &viewer->fingerprint), viewer);
    struct repl_digest unknown = {{1}};
    assert_null(repl_config_find_peer(config, &unknown));
    repl_config_free(config);
}

/* libinih would cut it at 49 bytes, and take two volumes for one. */
static void test_long_names(void **state)
{
    (void)state;
    struct repl_config *config =
        parse_good("[volume " NAME_63 "1]\n[volume " NAME_63 "2]\n", REPL_ROLE_SITE);
    assert_string_equal(config->volumes[0].name, NAME_63 "1");
    assert_string_equal(config->volumes[1].name, NAME_63 "2");
    repl_config_free(config);
    expect_error("[volume " NAME_63 "12]\n", REPL_ROLE_SITE,
                 "f.conf:1: [volume NAME] needs a name, and \"" NAME_63 "12\" is none: write up to "
                 "64 letters, digits, dots, underscores and dashes, the first of them no dot or "
                 "dash");
}

static void test_volume_kinds(void **state)
{
    struct repl_config *config;
    struct repl_error err;
    (void)state;
    static const char tree[] =
        REMOTE "[volume a]\nkind = tree\npath = /srv/a\nexclude = *.tmp /cache\ngroup = g\n"
               "[volume b]\nkind = block\ndevice = /dev/vdb\n";
    assert_true(repl_ok(
        repl_config_parse(tree, sizeof tree - 1, "f.conf", REPL_ROLE_AGENT, &config, &err)));
    assert_int_equal(config->volumes[0].kind, REPL_VOLUME_TREE);
    assert_string_equal(config->volumes[0].path, "/srv/a");
    assert_string_equal(config->volumes[0].exclude, "*.tmp /cache");
    assert_string_equal(config->volumes[0].group, "g");
    assert_int_equal(config->volumes[1].kind, REPL_VOLUME_BLOCK);
    assert_null(config->volumes[1].path);
    repl_config_free(config);
    expect_error(REMOTE "[volume a]\nkind = tree\npath = /srv\ndevice = /dev/vdb\n",
                 REPL_ROLE_AGENT,
                 "f.conf:4: [volume a] has a device, which a volume of kind tree has no use for: "
                 "remove it, or write kind = block");
    expect_error(REMOTE "[volume a]\ndevice = /dev/vdb\nexclude = x\n", REPL_ROLE_AGENT,
                 "f.conf:4: [volume a] has an exclude, which a volume of kind block has no use "
                 "for: remove it, or write kind = tree");
    expect_error(REMOTE
                 "[volume a]\nkind = tree\npath = /d\ngroup = g\nquiesce = window-else-files\n",
                 REPL_ROLE_AGENT,
                 "f.conf:4: [volume a] has quiesce = window-else-files, and is cut together with "
                 "others, which "
                 "is one moment: write window-else-freeze, or remove group");
    expect_error(
        REMOTE "[volume a]\ndevice = /d\nquiesce = window-else-files\n", REPL_ROLE_AGENT,
        "f.conf:4: [volume a] has quiesce = window-else-files, which is for the files of a "
        "volume of kind tree: write window-else-freeze, or another one");
    expect_error(REMOTE "[volume a]\nkind = tree\npath = /d\nquiesce = window-else-files\n"
                        "pre_command = true\n",
                 REPL_ROLE_AGENT,
                 "f.conf:4: [volume a] has a command that quiesce = window-else-files never runs: "
                 "write quiesce = command, or freeze, or remove it");
    expect_error(REMOTE "[volume a]\nkind = files\n", REPL_ROLE_AGENT,
                 "f.conf:5: [volume a] kind: \"files\" is neither: write block or tree");
}

static void test_snapshot(void **state)
{
    struct repl_config *config;
    struct repl_error err;
    (void)state;
    static const char tree[] =
        REMOTE "[volume a]\nkind = tree\npath = /srv/a\nquiesce = snapshot\n";
    assert_true(repl_ok(
        repl_config_parse(tree, sizeof tree - 1, "f.conf", REPL_ROLE_AGENT, &config, &err)));
    assert_int_equal(config->volumes[0].quiesce, REPL_QUIESCE_SNAPSHOT);
    repl_config_free(config);
    expect_error(REMOTE "[volume a]\ndevice = /dev/vdb\nquiesce = window-else-snapshot\n",
                 REPL_ROLE_AGENT,
                 "f.conf:4: [volume a] has a quiesce with snapshots, which are for directory "
                 "trees on btrfs: write another quiesce, or kind = tree");
    expect_error(REMOTE "[volume a]\nkind = tree\npath = /srv\ngroup = g\nquiesce = snapshot\n",
                 REPL_ROLE_AGENT,
                 "f.conf:4: [volume a] has a quiesce with snapshots, which are for directory "
                 "trees on btrfs that are in no group: remove group, or write another quiesce");
    expect_error(
        REMOTE "[volume a]\nkind = tree\npath = /srv\nquiesce = snapshot\n"
               "post_command = true\n",
        REPL_ROLE_AGENT,
        "f.conf:4: [volume a] has a command that a quiesce with snapshots never runs: write "
        "quiesce = command, or freeze, or remove it");
}

static void test_compression(void **state)
{
    (void)state;
    static const char *const bad[] = {"0", "10", "fast"};
    static const char *const good[] = {"auto", "1", "9"};
    static const unsigned levels[] = {0, 1, 9};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        char text[400];
        snprintf(text, sizeof text, "[agent]\ncompression = %s\n" REMOTE, good[i]);
        struct repl_config *config = parse_good(text, REPL_ROLE_AGENT);
        assert_int_equal(config->compression, levels[i]);
        repl_config_free(config);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char text[80], message[160];
        snprintf(text, sizeof text, "[agent]\ncompression = %s\n", bad[i]);
        snprintf(message, sizeof message,
                 "f.conf:2: [agent] compression: \"%s\" is out of range: write auto or a number "
                 "from 1 to 9",
                 bad[i]);
        expect_error(text, REPL_ROLE_AGENT, message);
    }
}

static void test_load(void **state)
{
    (void)state;
    char path[] = "/tmp/repl-test-config-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    static const char text[] = "[site]\nstore = /srv/repl\n";
    assert_int_equal(write(fd, text, sizeof text - 1), sizeof text - 1);
    close(fd);
    struct repl_config *config = NULL;
    struct repl_error err = {0};
    assert_true(repl_ok(repl_config_load(path, REPL_ROLE_SITE, &config, &err)));
    assert_string_equal(config->store, "/srv/repl");
    assert_string_equal(config->path, path);
    repl_config_free(config);
    unlink(path);
    repl_config_free(NULL);
}

static void test_load_refused(void **state)
{
    (void)state;
    struct repl_config *config = NULL;
    struct repl_error err = {0};
    assert_int_equal(repl_config_load("/nonexistent/f", REPL_ROLE_SITE, &config, &err).code,
                     REPL_E_USAGE);
    assert_string_equal(err.text,
                        "cannot open the configuration /nonexistent/f (\"repl help config\" tells "
                        "what to write in it): No such file or directory");
    assert_int_equal(repl_config_load("/tmp", REPL_ROLE_SITE, &config, &err).code, REPL_E_IO);
    assert_string_equal(err.text, "cannot read /tmp: Is a directory");
}

static void test_document(void **state)
{
    (void)state;
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    repl_config_document(out, false);
    fclose(out);
    assert_non_null(strstr(text, "\n[agent] in /etc/repl/agent.conf\n"));
    assert_non_null(strstr(text, "\n[peer NAME] in /etc/repl/site.conf\n"));
    assert_non_null(strstr(text, "\n    rpo = a time from 2s to 1d; default 4s\n"));
    assert_non_null(strstr(text, "\n    device = an absolute path; default none\n"));
    assert_non_null(strstr(text, "\n    freeze_budget = a time from 50ms to 10s; default 250ms\n"));
    assert_non_null(strstr(text, "\n    group = a name; default none\n"));
    for (const char *line = text; *line != '\0'; line += strcspn(line, "\n") + 1)
        assert_true(strcspn(line, "\n") <= 85);
    free(text);

    out = open_memstream(&text, &size);
    repl_config_document(out, true);
    fclose(out);
    assert_non_null(strstr(text, "\n.SS [volume NAME] in /etc/repl/agent.conf\n"));
    assert_non_null(strstr(text, "\n.TP\n.B rpo\n"));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_agent_defaults), cmocka_unit_test(test_agent_all_options),
        cmocka_unit_test(test_quiesce),        cmocka_unit_test(test_snapshot),
        cmocka_unit_test(test_site_defaults),  cmocka_unit_test(test_limits_of_space),
        cmocka_unit_test(test_site_store),     cmocka_unit_test(test_site_peers),
        cmocka_unit_test(test_long_names),     cmocka_unit_test(test_load),
        cmocka_unit_test(test_load_refused),   cmocka_unit_test(test_compression),
        cmocka_unit_test(test_volume_kinds),   cmocka_unit_test(test_document),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
