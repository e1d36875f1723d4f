/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/units.h"

#include <inttypes.h>
#include <stdio.h>

static const char *const binary[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};

static unsigned binary_unit(uint64_t bytes)
{
    unsigned unit = 0;
    while (bytes >> (10 * unit) >= 1024 && unit < 6)
        unit++;
    return unit;
}

static int digits_behind(double value)
{
    return value < 10 ? 1 : 0;
}

static double in_unit(uint64_t bytes, unsigned unit)
{
    return (double)bytes / (double)(1ull << (10 * unit));
}

char *units_bytes(char *text, uint64_t bytes)
{
    unsigned unit = binary_unit(bytes);
    double value = in_unit(bytes, unit);
    if (unit == 0 || value == (double)(uint64_t)value)
        snprintf(text, UNITS_TEXT, "%.0f %s", value, binary[unit]);
    else
        snprintf(text, UNITS_TEXT, "%.*f %s", value < 100 ? 1 : 0, value, binary[unit]);
    return text;
}

char *units_bytes_of(char *text, uint64_t bytes, uint64_t of)
{
    unsigned unit = binary_unit(of);
    double most = in_unit(of, unit);
    int digits = unit ? digits_behind(most) : 0;
    snprintf(text, UNITS_TEXT, "%.*f/%.*f %s", digits, in_unit(bytes, unit), digits, most, binary[unit]);
    return text;
}

char *units_elapsed(char *text, uint64_t ns)
{
    uint64_t s = ns / 1000000000u;
    if (s < 60)
        snprintf(text, UNITS_TEXT, "%" PRIu64 "s", s);
    else if (s < 3600)
        snprintf(text, UNITS_TEXT, "%" PRIu64 "m%02" PRIu64 "s", s / 60, s % 60);
    else if (s < 86400)
        snprintf(text, UNITS_TEXT, "%" PRIu64 "h%02" PRIu64 "m", s / 3600, s / 60 % 60);
    else
        snprintf(text, UNITS_TEXT, "%" PRIu64 "d%02" PRIu64 "h", s / 86400, s / 3600 % 24);
    return text;
}

char *units_wait(char *text, uint64_t ns)
{
    if (ns < 1000)
        snprintf(text, UNITS_TEXT, "%" PRIu64 " ns", ns);
    else if (ns < 1000000)
        snprintf(text, UNITS_TEXT, "%.1f us", (double)ns / 1e3);
    else if (ns < 1000000000)
        snprintf(text, UNITS_TEXT, "%.2f ms", (double)ns / 1e6);
    else
        snprintf(text, UNITS_TEXT, "%.2f s", (double)ns / 1e9);
    return text;
}
