/*
 * The configuration file: what it gives, and what it says when it refuses. The
 * messages are compared whole, for they are what somebody has at three in the
 * morning.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "config/config.h"

#define HEX_A  "00000000000000000000000000000000000000000000000000000000000000aa"
#define HEX_B  "00000000000000000000000000000000000000000000000000000000000000bb"
#define REMOTE "[remote]\naddress = site.example.org:7420\nfingerprint = SHA256:" HEX_A "\n"

static struct repl_config *parse_good(const char *text, enum repl_role role)
{
    struct repl_config *config = NULL;
    struct repl_error err = {0};
    if (!repl_ok(repl_config_parse(text, strlen(text), "f.conf", role, &config, &err)))
        fail_msg("refused: %s", err.text);
    return config;
}

static void expect_error_bytes(const char *text, size_t size, enum repl_role role,
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

static void expect_error(const char *text, enum repl_role role, const char *message)
{
    expect_error_bytes(text, strlen(text), role, message);
}

/* --- good files ------------------------------------------------------------------------------ */

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
#define NAME_63 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
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

/* --- sections -------------------------------------------------------------------------------- */

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

/* --- options --------------------------------------------------------------------------------- */

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

/* --- lines ----------------------------------------------------------------------------------- */

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

/* --- files ----------------------------------------------------------------------------------- */

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

/* --- values ---------------------------------------------------------------------------------- */

static void test_sizes(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {
        {"0", 0},
        {"4096", 4096},
        {"4096B", 4096},
        {"64M", 64 << 20},
        {"64m", 64 << 20},
        {"10 GiB", UINT64_C(10) << 30},
        {"3TiB", UINT64_C(3) << 40},
        {"1P", UINT64_C(1) << 50},
        {"1k", 1024},
        {"18446744073709551615", UINT64_MAX},
        {"16383P", UINT64_C(16383) << 50},
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        uint64_t bytes = 1;
        assert_true(repl_ok(repl_parse_size(good[i].text, &bytes, NULL)));
        assert_int_equal(bytes, good[i].bytes);
    }
    static const char *const bad[] = {"",      " 1",   "-1",     "1.5G",
                                      "10 MB", "M",    "1 X",    "1MiBs",
                                      "1M ",   "0x10", "16384P", "18446744073709551616"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        uint64_t bytes;
        assert_int_equal(repl_parse_size(bad[i], &bytes, NULL).code, REPL_E_USAGE);
    }
    uint64_t bytes;
    struct repl_error err;
    assert_false(repl_ok(repl_parse_size("10 MB", &bytes, &err)));
    assert_string_equal(err.text,
                        "\"10 MB\" is not a size: write a whole number of bytes, or one with K, M, "
                        "G, T or P behind it, such as 64M or 10 GiB");
}

static void test_durations(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t ms;
    } good[] = {
        {"0s", 0},       {"250ms", 250},  {"4s", 4000},     {"10 min", 600000},
        {"10m", 600000}, {"1h", 3600000}, {"1d", 86400000}, {"9223372036854775807ms", INT64_MAX},
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        int64_t ms = 1;
        assert_true(repl_ok(repl_parse_duration(good[i].text, &ms, NULL)));
        assert_int_equal(ms, good[i].ms);
    }
    static const char *const bad[] = {"",
                                      "4",
                                      "s",
                                      "-4s",
                                      "4 S",
                                      "1.5s",
                                      "4s ",
                                      "1y",
                                      "9223372036854775808ms",
                                      "9223372036854775807s"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        int64_t ms;
        assert_int_equal(repl_parse_duration(bad[i], &ms, NULL).code, REPL_E_USAGE);
    }
}

static void test_bandwidths(void **state)
{
    (void)state;
    struct repl_pace_plan plan;
    struct repl_error err;
    assert_true(repl_ok(repl_parse_bandwidth("20 MiB", &plan, &err)));
    assert_true(plan.bytes_per_s == 20 << 20 && plan.count == 0);
    assert_true(repl_ok(
        repl_parse_bandwidth("20 MiB , 5M 08:00-18:30,0 22:00-06:00,1M 23:00-24:00", &plan, &err)));
    assert_true(plan.bytes_per_s == 20 << 20 && plan.count == 3);
    const struct repl_pace_window *w = plan.windows;
    assert_true(w[0].bytes_per_s == 5 << 20 && w[0].from_s == 8 * 3600 && w[0].to_s == 66600);
    assert_true(w[1].bytes_per_s == 0 && w[1].from_s == 22 * 3600 && w[1].to_s == 6 * 3600);
    assert_true(w[2].to_s == REPL_PACE_DAY_S);
    assert_true(repl_ok(repl_parse_bandwidth("5M 08:00-18:00", &plan, &err)));
    assert_true(plan.bytes_per_s == 0 && plan.count == 1);
    static const char *const bad[] = {
        "",
        ",",
        "5",
        "16383",
        "65G",
        "5 MB",
        "5M 8:00-18:00",
        "5M 08:00 - 18:00",
        "5M 08:00-18:60",
        "5M 08:00-25:00",
        "5M 24:00-06:00",
        "5M 08:00-08:00",
        "5M 08:00-",
        "5M 08:00-18:00x",
        "5M, 6M",
        "08:00-18:00",
        "5M 08:00-18:00 5M",
        ("1M 01:00-02:00,1M 02:00-03:00,1M 03:00-04:00,1M 04:00-05:00,1M 05:00-06:00,"
         "1M 06:00-07:00,1M 07:00-08:00,1M 08:00-09:00,1M 09:00-10:00"),
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (repl_ok(repl_parse_bandwidth(bad[i], &plan, &err)))
            fail_msg("\"%s\" was taken", bad[i]);
    }
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

static void test_counts(void **state)
{
    (void)state;
    uint64_t count = 1;
    assert_true(repl_ok(repl_parse_count("0012", &count, NULL)));
    assert_int_equal(count, 12);
    static const char *const bad[] = {"", "-1", "+1", "1 ", "1k", "18446744073709551616"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(repl_parse_count(bad[i], &count, NULL).code, REPL_E_USAGE);
}

static void test_addresses(void **state)
{
    (void)state;
    static const char *const good[] = {"a:1",
                                       "site.example.org:7420",
                                       "192.0.2.1:65535",
                                       "[2001:db8::7]:7420",
                                       "[fe80::1%eth0]:1",
                                       "a_b-c:080"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        assert_true(repl_ok(repl_parse_address(good[i], 1, NULL)));
    assert_true(repl_ok(repl_parse_address("0.0.0.0:0", 0, NULL)));
    static const char *const bad[] = {"",        ":1",     "a",     "a:",        "a:0",
                                      "a:65536", "a:1x",   "a:-1",  "::1:1",     "[]:1",
                                      "[::1]",   "[::1:1", "a b:1", "http://a:1"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(repl_parse_address(bad[i], 1, NULL).code, REPL_E_USAGE);
}

static void test_volume_names(void **state)
{
    (void)state;
    assert_true(repl_volume_name_valid("a"));
    assert_true(repl_volume_name_valid("_A.z-9"));
    assert_true(repl_volume_name_valid(NAME_63 "1"));
    static const char *const bad[] = {"",    ".",   "..",       "-a",  ".a",
                                      "a/b", "a b", "\xc3\xa4", "a\n", NAME_63 "12"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(repl_volume_name_valid(bad[i]));
}

/* --- documentation --------------------------------------------------------------------------- */

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
        cmocka_unit_test(test_agent_defaults),
        cmocka_unit_test(test_agent_all_options),
        cmocka_unit_test(test_quiesce),
        cmocka_unit_test(test_quiesce_refused),
        cmocka_unit_test(test_snapshot),
        cmocka_unit_test(test_site_defaults),
        cmocka_unit_test(test_limits_of_space),
        cmocka_unit_test(test_site_store),
        cmocka_unit_test(test_site_peers),
        cmocka_unit_test(test_long_names),
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
        cmocka_unit_test(test_load),
        cmocka_unit_test(test_load_refused),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_durations),
        cmocka_unit_test(test_bandwidths),
        cmocka_unit_test(test_compression),
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_volume_names),
        cmocka_unit_test(test_volume_kinds),
        cmocka_unit_test(test_document),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
