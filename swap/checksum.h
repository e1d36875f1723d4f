/* SPDX-License-Identifier: Apache-2.0
 *
 * What tells that the bytes read back are those that were put, for the caller's key and generation: XXH3, 64 bits. */
#ifndef SWAP_CHECKSUM_H
#define SWAP_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* The seed of one block's checksum. */
uint64_t swap_checksum_seed(uint64_t store_seed, uint64_t key, uint32_t generation);

uint64_t swap_checksum(uint64_t seed, const void *bytes, size_t n);

/* Copies n bytes and returns the checksum of what was copied; the bytes pass the cache once. The areas don't overlap. */
uint64_t swap_checksum_copy(uint64_t seed, void *to, const void *from, size_t n);

#endif
