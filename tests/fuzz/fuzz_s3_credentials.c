/*
 * The file of credentials, as any bytes. A refusal has a message, and nothing is
 * left behind; what is taken has both parts.
 */
#include <stdint.h>

#include "base/ensure.h"
#include "store/s3_credentials.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct s3_credentials credentials;
    struct repl_error err = {0};
    if (repl_ok(s3_credentials_parse((const char *)data, size, "file", "default", &credentials,
                                     &err))) {
        ensure(credentials.key_id != NULL && credentials.secret != NULL);
        s3_credentials_wipe(&credentials);
    } else {
        ensure(err.text[0] != '\0');
    }
    ensure(credentials.key_id == NULL && credentials.secret == NULL && credentials.token == NULL);
    return 0;
}
