/* SPDX-License-Identifier: Apache-2.0 */
#include "size_text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static const char UNITS[] = "KMGT";

static bool parse_unit(const char *text, unsigned *shift)
{
    *shift = 0;
    if (!*text || strcasecmp(text, "b") == 0)
        return true;
    const char *unit = memchr(UNITS, *text & ~0x20, sizeof UNITS - 1);
    if (!unit || (text[1] && strcasecmp(text + 1, "ib") != 0))
        return false;
    *shift = 10 * (unsigned)(unit - UNITS + 1);
    return true;
}

bool size_parse(const char *text, uint64_t *bytes)
{
    const uint64_t max = UINT64_C(1) << 63;
    uint64_t n = 0;
    const char *p = text;
    for (; *p >= '0' && *p <= '9'; p++) {
        uint64_t digit = (uint64_t)(*p - '0');
        if (n > (max - digit) / 10)
            return false;
        n = n * 10 + digit;
    }
    if (p == text)
        return false;
    if (p[0] == ' ' && p[1])
        p++; /* before a unit, not at the end */
    unsigned shift;
    if (!parse_unit(p, &shift) || n > max >> shift)
        return false;
    *bytes = n << shift;
    return true;
}

const char *size_format(uint64_t bytes, char text[static SIZE_TEXT_MAX])
{
    unsigned unit = 0;
    while (unit < sizeof UNITS - 1 && bytes >> (10 * (unit + 1)))
        unit++;
    if (unit == 0) {
        (void)snprintf(text, SIZE_TEXT_MAX, "%" PRIu64 " bytes", bytes);
        return text;
    }
    double value = (double)bytes / (double)(UINT64_C(1) << (10 * unit));
    int decimals = bytes % (UINT64_C(1) << (10 * unit)) ? 1 : 0;
    (void)snprintf(text, SIZE_TEXT_MAX, "%.*f %ciB", decimals, value, UNITS[unit - 1]);
    return text;
}
