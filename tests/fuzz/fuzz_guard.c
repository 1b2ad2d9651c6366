/*
 * The packets of the agent and the freeze guard, on any bytes: from either end, as they are and
 * behind a header that fits. What is accepted must keep its promises: texts that end, numbers
 * within their bounds.
 */
#include <string.h>

#include "base/ensure.h"
#include "source/freeze/guard_protocol.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void texts_check(const union repl_guard_packet *packet)
{
    switch ((enum repl_guard_kind)packet->header.kind) {
    case REPL_GUARD_REQUEST:
        ensure(memchr(packet->request.volume, '\0', sizeof packet->request.volume) != NULL);
        ensure(memchr(packet->request.pre_command, '\0', REPL_GUARD_COMMAND_SIZE) != NULL);
        ensure(memchr(packet->request.post_command, '\0', REPL_GUARD_COMMAND_SIZE) != NULL);
        ensure(packet->request.volume[0] != '\0');
        ensure(packet->request.other_count <= REPL_GUARD_OTHERS_MAX);
        ensure(packet->request.budget_ms <= REPL_GUARD_LONGEST_MS);
        break;
    case REPL_GUARD_PREPARED:
        ensure(packet->prepared.mount_count <= REPL_GUARD_MOUNTS_MAX);
        break;
    case REPL_GUARD_RELEASED:
    case REPL_GUARD_FAILED:
        ensure(memchr(packet->outcome.text, '\0', sizeof packet->outcome.text) != NULL);
        ensure(packet->outcome.code < REPL_CODE_COUNT);
        break;
    case REPL_GUARD_DONE:
        ensure(memchr(packet->done.text, '\0', sizeof packet->done.text) != NULL);
        ensure(packet->done.code < REPL_CODE_COUNT);
        break;
    case REPL_GUARD_END:
    case REPL_GUARD_HELD:
        break;
    }
}

static void try_packet(const union repl_guard_packet *packet, size_t size)
{
    for (int from_agent = 0; from_agent <= 1; from_agent++) {
        struct repl_error err = {.text = ""};
        if (!repl_ok(repl_guard_packet_check(packet, size, from_agent, &err))) {
            ensure(err.text[0] != '\0');
            continue;
        }
        ensure(size == repl_guard_packet_size((enum repl_guard_kind)packet->header.kind));
        texts_check(packet);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    union repl_guard_packet packet, framed;
    memset(&packet, 0, sizeof packet);
    memcpy(&packet, data, size < sizeof packet ? size : sizeof packet);
    try_packet(&packet, size);
    for (int kind = REPL_GUARD_REQUEST; kind <= REPL_GUARD_DONE; kind++) {
        repl_guard_packet_init(&framed, (enum repl_guard_kind)kind);
        packet.header = framed.header;
        try_packet(&packet, repl_guard_packet_size((enum repl_guard_kind)kind));
    }
    return 0;
}
