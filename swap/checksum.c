/* SPDX-License-Identifier: Apache-2.0 */
#include "swap/checksum.h"

#include <string.h>

/* The state on the stack, and its seeded reset, are in the header's static part only. */
#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>
#ifdef SWAP_HAVE_XXH_DISPATCH
#define XXH_DISPATCH_DISABLE_REPLACE
#include <xxh_x86dispatch.h>
#endif

/* Half of a usual second-level cache's way to spare: a piece is copied and then hashed while it is still there. */
#define PIECE_BYTES ((size_t)64 << 10)

/* The library's plain functions are built for the oldest processor of the distribution (6 times slower than AVX-512);
 * its dispatched ones choose at run time. */
static uint64_t whole(const void *bytes, size_t n, uint64_t seed)
{
#ifdef SWAP_HAVE_XXH_DISPATCH
    return XXH3_64bits_withSeed_dispatch(bytes, n, seed);
#else
    return XXH3_64bits_withSeed(bytes, n, seed);
#endif
}

static void update(XXH3_state_t *state, const void *bytes, size_t n)
{
#ifdef SWAP_HAVE_XXH_DISPATCH
    XXH3_64bits_update_dispatch(state, bytes, n);
#else
    XXH3_64bits_update(state, bytes, n);
#endif
}

/* The finaliser of splitmix64 (Steele, Lea, Flood 2014): every input bit reaches every output bit. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

uint64_t swap_checksum_seed(uint64_t store_seed, uint64_t key, uint32_t generation)
{
    uint64_t seed = mix(store_seed + 0x9e3779b97f4a7c15u);
    seed = mix(seed ^ key);
    return mix(seed + 0x9e3779b97f4a7c15u * ((uint64_t)generation + 1));
}

uint64_t swap_checksum(uint64_t seed, const void *bytes, size_t n)
{
    return whole(bytes, n, seed);
}

uint64_t swap_checksum_copy(uint64_t seed, void *to, const void *from, size_t n)
{
    XXH3_state_t state;
    XXH3_64bits_reset_withSeed(&state, seed);
    for (size_t at = 0; at < n; at += PIECE_BYTES) {
        size_t piece = n - at < PIECE_BYTES ? n - at : PIECE_BYTES;
        memcpy((char *)to + at, (const char *)from + at, piece);
        /* What was delivered is what is hashed: a copy that went wrong doesn't pass. */
        update(&state, (const char *)to + at, piece);
    }
    return XXH3_64bits_digest(&state);
}
