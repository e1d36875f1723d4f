/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/printable.h"

#include <stdbool.h>
#include <string.h>

/* Bytes of the printable UTF-8 character at `at`, 0 if there is none (RFC 3629: no overlong forms, no surrogates). */
static size_t character_bytes(const unsigned char *at, size_t room)
{
    if (at[0] < 0x80)
        return at[0] >= 0x20 && at[0] != 0x7f ? 1 : 0;
    size_t bytes = at[0] >= 0xf0 ? 4 : at[0] >= 0xe0 ? 3 : 2;
    if (at[0] < 0xc2 || at[0] > 0xf4 || bytes > room)
        return 0;
    unsigned long code = at[0] & (0xffu >> (bytes + 1));
    for (size_t i = 1; i < bytes; i++) {
        if ((at[i] & 0xc0) != 0x80)
            return 0;
        code = code << 6 | (at[i] & 0x3f);
    }
    static const unsigned long least[] = {[2] = 0x80, [3] = 0x800, [4] = 0x10000};
    bool surrogate = code >= 0xd800 && code <= 0xdfff;
    bool control = code >= 0x80 && code < 0xa0;
    bool direction = (code >= 0x202a && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069);
    if (code < least[bytes] || code > 0x10ffff || surrogate || control || direction)
        return 0;
    return bytes;
}

void printable_copy(char *to, size_t to_bytes, const char *from, size_t from_bytes)
{
    size_t length = strnlen(from, from_bytes);
    size_t out = 0;
    for (size_t in = 0; in < length;) {
        size_t bytes = character_bytes((const unsigned char *)from + in, length - in);
        size_t take = bytes ? bytes : 1;
        if (out + take >= to_bytes)
            break;
        if (bytes)
            memcpy(to + out, from + in, bytes);
        else
            to[out] = '?';
        out += take;
        in += take;
    }
    to[out] = '\0';
}
