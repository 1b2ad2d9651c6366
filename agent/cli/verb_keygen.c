/*
 * repl keygen: makes a key file, and says what the other side has to write in
 * its configuration to know it. The fingerprint stands alone on the first line
 * of what is printed (with --show it is all of it), for scripts.
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/verbs.h"
#include "config/config.h"
#include "link/keys.h"

static const char *keygen_name;
static bool keygen_show;

static int show_key(const char *path)
{
    struct repl_error err;
    struct repl_digest fingerprint;
    char *pem = NULL;
    if (!repl_ok(repl_key_load(path, &pem, &fingerprint, &err)))
        return repl_verb_fail("keygen", &err);
    repl_key_wipe(pem);
    free(pem);
    char text[REPL_FINGERPRINT_TEXT_SIZE];
    repl_fingerprint_format(&fingerprint, text);
    printf("%s\n", text);
    return REPL_EXIT_OK;
}

/* The host's name if it can name a peer, for it will stand in [peer NAME]. */
static void default_name(char name[REPL_VOLUME_NAME_MAX + 1])
{
    char host[HOST_NAME_MAX + 1] = "";
    if (gethostname(host, sizeof host - 1) != 0 || !repl_volume_name_valid(host))
        strcpy(host, "host");
    snprintf(name, REPL_VOLUME_NAME_MAX + 1, "%s", host);
}

static int make_key(const char *path, const char *name)
{
    struct repl_error err;
    struct repl_digest fingerprint;
    if (!repl_ok(repl_key_generate(path, name, &fingerprint, &err)))
        return repl_verb_fail("keygen", &err);
    char text[REPL_FINGERPRINT_TEXT_SIZE];
    repl_fingerprint_format(&fingerprint, text);
    printf("%s\n"
           "\n"
           "%s holds the new key. The other side has to be told its fingerprint.\n"
           "If this is the key of a host or of a recovery operator, in the site's %s:\n"
           "\n"
           "[peer %s]\n"
           "fingerprint = %s\n"
           "\n"
           "If it is the key of a site, in each host's %s:\n"
           "\n"
           "[remote]\n"
           "fingerprint = %s\n",
           text, path, REPL_SITE_CONFIG_PATH, name, text, REPL_AGENT_CONFIG_PATH, text);
    return REPL_EXIT_OK;
}

static int keygen_run(int argc, char **argv)
{
    (void)argc;
    struct repl_error err;
    char host[REPL_VOLUME_NAME_MAX + 1];
    if (keygen_show && keygen_name != NULL) {
        repl_ignore(
            repl_fail(&err, REPL_E_USAGE,
                      "--name is for a new key and --show for an existing one: remove one"));
        return repl_verb_fail("keygen", &err);
    }
    if (keygen_show)
        return show_key(argv[0]);
    if (keygen_name != NULL && !repl_volume_name_valid(keygen_name)) {
        repl_ignore(repl_fail(&err, REPL_E_USAGE,
                              "--name: \"%s\" cannot name a peer: write up to %d letters, digits, "
                              "dots, underscores and dashes, the first of them no dot or dash",
                              keygen_name, REPL_VOLUME_NAME_MAX));
        return repl_verb_fail("keygen", &err);
    }
    default_name(host);
    return make_key(argv[0], keygen_name != NULL ? keygen_name : host);
}

static const struct repl_option keygen_options[] = {
    {"name", "NAME", REPL_OPTION_TEXT, &keygen_name,
     "The name in the certificate and in the [peer NAME] line that is printed; the host's name if "
     "none is given. Nothing is checked by it."},
    {"show", NULL, REPL_OPTION_FLAG, &keygen_show,
     "Prints the fingerprint of an existing key file and changes nothing."},
    {NULL, NULL, REPL_OPTION_FLAG, NULL, NULL},
};

const struct repl_verb repl_verb_keygen = {
    .name = "keygen",
    .synopsis = "[--name NAME] FILE | --show FILE",
    .summary = "Makes a key pair, or shows the fingerprint of one.",
    .description =
        "A host, a site and a recovery operator each have one key pair, kept in one file that only "
        "its owner may read. Each side is configured with the fingerprint of the other's key, and "
        "accepts that key alone.\n"
        "\n"
        "The fingerprint is printed on the first line, followed by the lines that the other side "
        "needs in its configuration. An existing file is never overwritten.",
    .options = keygen_options,
    .positional_min = 1,
    .positional_max = 1,
    .run = keygen_run,
};
