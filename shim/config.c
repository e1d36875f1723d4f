/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/config.h"

#include <stdio.h>
#include <string.h>

#define LEAST_CHUNK ((size_t)4 << 10)
#define MOST_CHUNK  ((size_t)2 << 20)

bool shim_config_bytes(const char *text, uint64_t *bytes)
{
    static const char units[] = "KMGT";
    uint64_t value = 0;
    const char *at = text;
    for (; *at >= '0' && *at <= '9'; at++) {
        if (__builtin_mul_overflow(value, 10u, &value) || __builtin_add_overflow(value, (uint64_t)(*at - '0'), &value))
            return false;
    }
    if (at == text)
        return false;
    if (*at) {
        const char *unit = strchr(units, *at);
        if (!unit || (at[1] && strcmp(at + 1, "iB") != 0))
            return false;
        if (__builtin_mul_overflow(value, (uint64_t)1 << (10 * (unit - units + 1)), &value))
            return false;
    }
    *bytes = value;
    return true;
}

struct reader {
    const char *(*get)(const char *name);
    char *reason;
    size_t size;
    bool bad;
};

/* NULL for a variable that is unset or empty. */
static const char *value_of(const struct reader *reader, const char *name)
{
    const char *value = reader->get(name);
    return value && *value ? value : NULL;
}

static void refuse(struct reader *reader, const char *name, const char *value, const char *wrong)
{
    if (!reader->bad)
        snprintf(reader->reason, reader->size, "%s=%s: %s", name, value, wrong);
    reader->bad = true;
}

static uint64_t read_bytes(struct reader *reader, const char *name, uint64_t otherwise)
{
    const char *value = value_of(reader, name);
    uint64_t bytes = otherwise;
    if (value && !shim_config_bytes(value, &bytes))
        refuse(reader, name, value, "not a number of bytes such as 4096, 64MiB or 2G");
    return bytes;
}

static bool read_switch(struct reader *reader, const char *name)
{
    const char *value = value_of(reader, name);
    if (!value || strcmp(value, "0") == 0)
        return false;
    if (strcmp(value, "1") != 0)
        refuse(reader, name, value, "neither 0 nor 1");
    return true;
}

static size_t read_chunk(struct reader *reader)
{
    uint64_t bytes = read_bytes(reader, "KVMM_CHUNK", 0);
    if (!reader->bad && bytes != 0 && (bytes < LEAST_CHUNK || bytes > MOST_CHUNK || (bytes & (bytes - 1)) != 0))
        refuse(reader, "KVMM_CHUNK", value_of(reader, "KVMM_CHUNK"), "not a power of two from 4KiB to 2MiB");
    return (size_t)bytes;
}

static bool read_suspended(struct reader *reader)
{
    const char *value = value_of(reader, "KVMM_SUSPENDED");
    if (!value || strcmp(value, "wait") == 0)
        return false;
    if (strcmp(value, "fail") != 0)
        refuse(reader, "KVMM_SUSPENDED", value, "neither wait nor fail");
    return true;
}

bool shim_config_read(const char *(*get)(const char *name), struct shim_config *config, char *reason, size_t size)
{
    struct reader reader = {.get = get, .size = size};
    reader.reason = reason;
    struct shim_config read = {
        .device_memory = read_bytes(&reader, "KVMM_DEVICE_MEMORY", 0),
        .host_memory = read_bytes(&reader, "KVMM_HOST_MEMORY", 0),
        .swap_dir = value_of(&reader, "KVMM_SWAP_DIR"),
        .swap_bytes = read_bytes(&reader, "KVMM_SWAP_SIZE", 0),
        .select = value_of(&reader, "KVMM_SELECT"),
        .chunk_bytes = read_chunk(&reader),
        .user_faults = read_switch(&reader, "KVMM_USER_FAULTS"),
        .fail_while_suspended = read_suspended(&reader),
        .verbose = read_switch(&reader, "KVMM_VERBOSE"),
    };
    read.select_given = read.select != NULL;
    if (!read.select_given)
        read.select = "auto";
    if (reader.bad)
        return false;
    *config = read;
    return true;
}
