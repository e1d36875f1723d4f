/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/shim_info.h"

#include <stdio.h>
#include <string.h>

#include "tools/command.h"
#include "tools/printable.h"
#include "tools/shim_client.h"

/* What a name's value goes to: a number at that offset, or a text of so many bytes. */
static const struct field {
    const char *name;
    size_t offset;
    size_t text_bytes; /* 0: a number */
} fields[] = {
#define NUMBER(name, member)                                                                                           \
    {                                                                                                                  \
        name, offsetof(struct shim_info, member), 0                                                                    \
    }
#define TEXT(name, member)                                                                                             \
    {                                                                                                                  \
        name, offsetof(struct shim_info, member), sizeof((struct shim_info *)0)->member                                \
    }
    TEXT("device", device),
    TEXT("state", state),
    TEXT("rule", rule),
    NUMBER("caches", caches),
    NUMBER("bytes", bytes),
    NUMBER("memory", memory),
    NUMBER("memory_limit", memory_limit),
    NUMBER("host", host),
    NUMBER("host_limit", host_limit),
    NUMBER("swapped", swapped),
    NUMBER("swap_limit", swap_limit),
    NUMBER("seen", seen),
    NUMBER("selected", selected),
    NUMBER("started", started),
#undef NUMBER
#undef TEXT
};

static int hexadecimal(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* %XX to bytes, and those to something printable. A '%' without two digits stays. */
static void unescape(char *to, size_t size, const char *from)
{
    char bytes[SHIM_CLIENT_TEXT];
    size_t n = 0;
    for (; *from && n < sizeof bytes; from++) {
        int high = *from == '%' ? hexadecimal(from[1]) : -1;
        int low = high >= 0 ? hexadecimal(from[2]) : -1;
        bytes[n++] = (char)(low >= 0 ? high * 16 + low : *from);
        from += low >= 0 ? 2 : 0;
    }
    for (size_t i = 0; i < n; i++)
        bytes[i] = (char)(bytes[i] ? bytes[i] : 1); /* an end in the middle is a control character as others are */
    printable_copy(to, size, bytes, n);
}

static bool take(struct shim_info *info, const char *name, const char *value)
{
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        char *member = (char *)info + fields[i].offset;
        if (strcmp(fields[i].name, name) != 0)
            continue;
        if (fields[i].text_bytes) {
            unescape(member, fields[i].text_bytes, value);
            return true;
        }
        uint64_t number;
        if (!command_number(value, 0, UINT64_MAX, &number))
            return false;
        memcpy(member, &number, sizeof number);
        info->counted = info->counted || strcmp(name, "selected") == 0;
        return true;
    }
    return true;
}

bool shim_info_parse(const char *pairs, struct shim_info *out, char *reason, size_t size)
{
    char text[SHIM_CLIENT_TEXT];
    struct shim_info info = {0};
    snprintf(text, sizeof text, "%s", pairs);
    char *save;
    for (char *pair = strtok_r(text, " ", &save); pair; pair = strtok_r(NULL, " ", &save)) {
        char *equals = strchr(pair, '=');
        if (equals)
            *equals = '\0';
        if (!equals || equals == pair || !take(&info, pair, equals + 1)) {
            snprintf(reason, size, "it says '%.40s%s%.40s' of itself, which is not understood", pair, equals ? "=" : "",
                     equals ? equals + 1 : "");
            return false;
        }
    }
    *out = info;
    return true;
}

void shim_info_name(pid_t pid, char *name, size_t size)
{
    char path[64];
    char comm[64];
    snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
    FILE *file = fopen(path, "re");
    size_t n = file ? fread(comm, 1, sizeof comm, file) : 0;
    if (file)
        fclose(file);
    while (n > 0 && comm[n - 1] == '\n')
        n--;
    printable_copy(name, size, n > 0 ? comm : "?", n > 0 ? n : 1);
}

static json_t *number(uint64_t value)
{
    return json_integer(value > INT64_MAX ? INT64_MAX : (json_int_t)value);
}

static json_t *tier(uint64_t used, uint64_t capacity)
{
    return json_pack("{s:o, s:o}", "used_bytes", number(used), "capacity_bytes", number(capacity));
}

json_t *shim_info_json(pid_t pid, const char *name, const struct shim_info *info, uint64_t now_ns)
{
    if (!info)
        return json_pack("{s:i, s:s, s:b, s:b}", "pid", (int)pid, "name", name, "shim", 1, "answers", 0);
    uint64_t up_ns = info->started && now_ns > info->started ? now_ns - info->started : 0;
    return json_pack("{s:i, s:s, s:b, s:b, s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "pid",
                     (int)pid, "name", name, "shim", 1, "answers", 1, "device", info->device, "state", info->state,
                     "rule", info->rule, "allocations_seen", number(info->seen), "allocations_selected",
                     number(info->selected), "caches_total", number(info->caches), "caches_bytes", number(info->bytes),
                     "opened_realtime_ns", number(info->started), "up_ns", number(up_ns), "device_memory",
                     tier(info->memory, info->memory_limit), "host_memory", tier(info->host, info->host_limit), "nvme",
                     tier(info->swapped, info->swap_limit));
}
