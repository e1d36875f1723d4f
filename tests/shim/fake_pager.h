/* SPDX-License-Identifier: Apache-2.0
 *
 * What tests learn from the fake pager in the shim that they run under. */
#ifndef TESTS_SHIM_FAKE_PAGER_H
#define TESTS_SHIM_FAKE_PAGER_H

#include <stdatomic.h>

struct fake_pager_calls {
    atomic_uint n_opens, n_maps, n_unmaps, n_replaces, n_discards, n_will_needs, n_colds;
};

/* Found by dlsym(RTLD_DEFAULT, "fake_pager_calls"). */
struct fake_pager_calls *fake_pager_calls(void);

#endif
