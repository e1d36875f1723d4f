/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/shim_file.h"

#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool shim_file_find(char *path, size_t size)
{
    static const char *const places[] = {"/../shim/" SHIM_FILE_NAME, "/" TOOLS_LIBDIR_FROM_BINDIR "/" SHIM_FILE_NAME};
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0)
        return false;
    self[n] = '\0';
    const char *folder = dirname(self);
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        char candidate[2 * PATH_MAX], real[PATH_MAX];
        (void)snprintf(candidate, sizeof candidate, "%s%s", folder, places[i]);
        if (realpath(candidate, real) && strlen(real) < size) {
            memcpy(path, real, strlen(real) + 1);
            return true;
        }
    }
    return false;
}
