#include "source/freeze/guard_protocol.h"

#include <string.h>

#include "config/config.h"

_Static_assert(REPL_GUARD_VOLUME_SIZE > REPL_VOLUME_NAME_MAX, "a name and its end");

size_t repl_guard_packet_size(enum repl_guard_kind kind)
{
    switch (kind) {
    case REPL_GUARD_REQUEST:
        return sizeof(struct repl_guard_request);
    case REPL_GUARD_END:
        return sizeof(struct repl_guard_end);
    case REPL_GUARD_PREPARED:
        return sizeof(struct repl_guard_prepared);
    case REPL_GUARD_HELD:
        return sizeof(struct repl_guard_held);
    case REPL_GUARD_RELEASED:
    case REPL_GUARD_FAILED:
        return sizeof(struct repl_guard_outcome);
    case REPL_GUARD_DONE:
        return sizeof(struct repl_guard_done);
    }
    return 0;
}

void repl_guard_packet_init(union repl_guard_packet *packet, enum repl_guard_kind kind)
{
    memset(packet, 0, sizeof *packet);
    packet->header = (struct repl_guard_header){
        .magic = REPL_GUARD_MAGIC, .version = REPL_GUARD_VERSION, .kind = (uint16_t)kind};
}

bool repl_guard_text_set(char *field, size_t size, const char *text)
{
    size_t length = strlen(text);
    memset(field, 0, size);
    if (length >= size)
        return false;
    memcpy(field, text, length);
    return true;
}

static bool text_valid(const char *field, size_t size)
{
    for (size_t i = strnlen(field, size); i < size; i++) {
        if (field[i] != '\0')
            return false;
    }
    return field[size - 1] == '\0';
}

static repl_result malformed(const char *what, struct repl_error *err)
{
    return repl_fail(err, REPL_E_CORRUPT, "a message to or from the freeze guard has a bad %s",
                     what);
}

static bool others_valid(const struct repl_guard_request *request)
{
    if (request->other_count > (request->group ? REPL_GUARD_OTHERS_MAX : 0))
        return false;
    for (uint32_t i = 0; i < REPL_GUARD_OTHERS_MAX; i++) {
        if ((request->others[i] != 0) != (i < request->other_count))
            return false;
    }
    return true;
}

static repl_result request_check(const struct repl_guard_request *request, struct repl_error *err)
{
    uint32_t budget_max = request->freeze ? REPL_GUARD_BUDGET_MAX_MS : REPL_GUARD_LONGEST_MS;
    if (request->device == 0 || !others_valid(request))
        return malformed("device", err);
    if (request->freeze > 1 || request->group > request->freeze || request->reserved != 0)
        return malformed("flag", err);
    if (request->budget_ms < REPL_GUARD_BUDGET_MIN_MS || request->budget_ms > budget_max)
        return malformed("budget", err);
    if (request->command_timeout_ms < REPL_GUARD_COMMAND_MIN_MS ||
        request->command_timeout_ms > REPL_GUARD_LONGEST_MS)
        return malformed("time limit", err);
    if (!text_valid(request->volume, sizeof request->volume) ||
        !repl_volume_name_valid(request->volume))
        return malformed("volume name", err);
    if (!text_valid(request->pre_command, sizeof request->pre_command) ||
        !text_valid(request->post_command, sizeof request->post_command))
        return malformed("command", err);
    if (request->group && (request->pre_command[0] != '\0' || request->post_command[0] != '\0'))
        return malformed("command", err);
    return REPL_SUCCESS;
}

static repl_result outcome_check(const struct repl_guard_outcome *outcome, struct repl_error *err)
{
    bool released = outcome->header.kind == REPL_GUARD_RELEASED;
    if (outcome->stall_ns < 0)
        return malformed("time", err);
    if (outcome->intact > (released ? 1u : 0u))
        return malformed("flag", err);
    if (outcome->code >= REPL_CODE_COUNT || (outcome->code == REPL_OK) != (outcome->intact == 1))
        return malformed("code", err);
    if (!text_valid(outcome->text, sizeof outcome->text))
        return malformed("text", err);
    return REPL_SUCCESS;
}

static repl_result body_check(const union repl_guard_packet *packet, struct repl_error *err)
{
    switch ((enum repl_guard_kind)packet->header.kind) {
    case REPL_GUARD_REQUEST:
        return request_check(&packet->request, err);
    case REPL_GUARD_END:
        return REPL_SUCCESS;
    case REPL_GUARD_PREPARED:
        if (packet->prepared.hold == 0 || packet->prepared.mount_count == 0 ||
            packet->prepared.mount_count > REPL_GUARD_MOUNTS_MAX)
            return malformed("count", err);
        return REPL_SUCCESS;
    case REPL_GUARD_HELD:
        if (packet->held.begin_ns <= 0 || packet->held.took_ns < 0)
            return malformed("time", err);
        return REPL_SUCCESS;
    case REPL_GUARD_RELEASED:
    case REPL_GUARD_FAILED:
        return outcome_check(&packet->outcome, err);
    case REPL_GUARD_DONE:
        if (packet->done.code >= REPL_CODE_COUNT || packet->done.reserved != 0)
            return malformed("code", err);
        return text_valid(packet->done.text, sizeof packet->done.text) ? REPL_SUCCESS
                                                                       : malformed("text", err);
    }
    return malformed("kind", err);
}

repl_result repl_guard_packet_check(const union repl_guard_packet *packet, size_t size,
                                    bool from_agent, struct repl_error *err)
{
    const struct repl_guard_header *header = &packet->header;
    if (size < sizeof *header || header->magic != REPL_GUARD_MAGIC)
        return malformed("header", err);
    if (header->version != REPL_GUARD_VERSION)
        return repl_fail(err, REPL_E_VERSION,
                         "the agent and the freeze guard are of different versions (protocols %u "
                         "and %u): systemctl restart repl-guard repl-agent",
                         header->version, REPL_GUARD_VERSION);
    bool agents = header->kind == REPL_GUARD_REQUEST || header->kind == REPL_GUARD_END;
    if (agents != from_agent)
        return malformed("kind", err);
    if (size != repl_guard_packet_size((enum repl_guard_kind)header->kind))
        return malformed("size", err);
    return body_check(packet, err);
}
