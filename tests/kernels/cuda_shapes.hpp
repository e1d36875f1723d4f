/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention problems for the CUDA kernels: sequences in a layout of kvmm's, in memory where only rows that a query attends
 * to can be read, and the answer in double precision. */
#ifndef TESTS_KERNELS_CUDA_SHAPES_H
#define TESTS_KERNELS_CUDA_SHAPES_H

#include <cstdint>
#include <string>
#include <vector>

#include "tests/kernels/cuda_emulation/kernels.hpp"

enum class layout { PAGE_MAJOR, TOKEN_MAJOR, LAYER_MAJOR, ODD /* rows at odd multiples of the element */ };

struct sequence_shape {
    uint32_t first_pos, n_queries;
};

struct shape {
    enum layout layout;
    uint32_t dtype, out_type;
    uint32_t head_dim, n_kv_heads, group; /* `group` query heads to a kv head */
    uint32_t page_tokens;
    float sharpness; /* about the deviation of the scores */
    std::vector<sequence_shape> seqs;

    std::string text() const;
};

/* splitmix64 (Steele, Lea and Flood, 2014): the same numbers everywhere. */
class random_numbers
{
  public:
    explicit random_numbers(uint64_t seed) : state(seed)
    {
    }
    uint64_t next();
    uint32_t below(uint32_t n);
    uint32_t between(uint32_t least, uint32_t most);
    float normal();

  private:
    uint64_t state;
};

/* The strides of a shape's cache, and where a row is from the sequence's base on, but for its group. */
struct kern_cu_cache cache_of(const shape &s);
uint64_t row_offset(const struct kern_cu_cache &cache, uint32_t kv, uint32_t token, uint32_t head);

void store_element(void *to, uint32_t type, float x);
float load_element(const void *from, uint32_t type);

/* A sequence's K and V of one layer of three. Behind the last row an unreadable page starts; what is no row is NaN. */
class cache_memory
{
  public:
    cache_memory(const shape &s, const struct kern_cu_cache &cache, uint32_t n_tokens, random_numbers &random);
    ~cache_memory();
    cache_memory(const cache_memory &) = delete;
    cache_memory &operator=(const cache_memory &) = delete;

    struct kern_tensor tensor(const struct kern_cu_cache &cache, uint32_t kv) const;
    bool is_row(uintptr_t address) const; /* all 16 bytes from there on are of a row */

    uint64_t base, group_stride;

  private:
    void open_row(uint64_t row, size_t bytes);

    unsigned char *memory;
    size_t memory_bytes;
    std::vector<bool> rows; /* by byte */
};

/* A shape with random contents: everything a launch points to, and the answer. */
class problem
{
  public:
    problem(const shape &s, random_numbers &random, uint32_t n_splits);
    ~problem();
    problem(const problem &) = delete;
    problem &operator=(const problem &) = delete;

    struct kern_cu_attention params;
    uint32_t max_queries;

    void poison_output();
    /* The worst distance from the answer of an element, over the greatest magnitude in its row; NaN counts as infinite. */
    double worst_error() const;
    std::vector<unsigned char> output; /* params.out points here */
    bool may_read(uintptr_t address) const;

  private:
    void answer(uint32_t seq, uint32_t first_row, const std::vector<float> &q);

    shape of;
    std::vector<cache_memory *> caches;
    std::vector<struct kern_cu_seq> seqs;
    std::vector<unsigned char> queries;
    std::vector<float> partial;
    std::vector<double> want;
};

/* What an element may be off, relative to the greatest of its row. */
double tolerance(const shape &s);

#endif
