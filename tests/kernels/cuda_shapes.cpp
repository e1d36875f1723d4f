/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/kernels/cuda_shapes.hpp"

#include <sys/mman.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

extern "C" {
#include "kernels/convert.h"
}

static constexpr size_t MEMORY_PAGE = 4096;
static constexpr uint32_t N_LAYERS = 3, LAYER = 1;

static size_t up(size_t n, size_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static uint32_t type_bytes(uint32_t type)
{
    return type == KERN_F32 ? 4 : 2;
}

void store_element(void *to, uint32_t type, float x)
{
    const uint16_t half = type == KERN_F16 ? kern_f16_of_f32(x) : kern_bf16_of_f32(x);
    memcpy(to, type == KERN_F32 ? static_cast<const void *>(&x) : &half, type_bytes(type));
}

float load_element(const void *from, uint32_t type)
{
    float x;
    uint16_t half;
    if (type == KERN_F32) {
        memcpy(&x, from, sizeof(x));
        return x;
    }
    memcpy(&half, from, sizeof(half));
    return type == KERN_F16 ? kern_f32_of_f16(half) : kern_f32_of_bf16(half);
}

uint64_t random_numbers::next()
{
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint32_t random_numbers::below(uint32_t n)
{
    return static_cast<uint32_t>(((next() >> 32) * n) >> 32);
}

uint32_t random_numbers::between(uint32_t least, uint32_t most)
{
    return least + below(most - least + 1);
}

float random_numbers::normal()
{
    const uint64_t bits = next();
    int32_t sum = 0; /* of four 16-bit uniforms: deviation 65536 / √3 */
    for (int i = 0; i < 4; i++)
        sum += static_cast<int32_t>(bits >> (16 * i) & 0xffff) - 32768;
    return static_cast<float>(sum) * (1.7320508f / 65536);
}

std::string shape::text() const
{
    std::string text = "layout " + std::to_string(static_cast<int>(layout)) + " dtype " + std::to_string(dtype) +
                       " to " + std::to_string(out_type) + " dims " + std::to_string(head_dim) + " kv heads " +
                       std::to_string(n_kv_heads) + " x " + std::to_string(group) + " page " +
                       std::to_string(page_tokens) + " sharpness " + std::to_string(sharpness) + " sequences";
    for (const sequence_shape &s : seqs)
        text += " " + std::to_string(s.first_pos) + "+" + std::to_string(s.n_queries);
    return text;
}

struct kern_cu_cache cache_of(const shape &s)
{
    const uint64_t odd = s.layout == layout::ODD ? type_bytes(s.dtype) : 0;
    const uint64_t row = s.head_dim * type_bytes(s.dtype) + odd;
    struct kern_cu_cache c = {};
    uint64_t layer;

    c.page_tokens = s.page_tokens;
    c.n_kv_heads = s.n_kv_heads;
    c.head_dim = s.head_dim;
    c.dtype = s.dtype;
    if (s.layout == layout::TOKEN_MAJOR) {
        c.head_stride = row;
        c.kv_stride = row * s.n_kv_heads;
        layer = 2 * c.kv_stride;
        c.token_stride = layer * N_LAYERS;
        c.page_stride = c.token_stride * s.page_tokens;
    } else {
        c.token_stride = row;
        c.head_stride = row * s.page_tokens + odd;
        c.kv_stride = c.head_stride * s.n_kv_heads + odd;
        layer = 2 * c.kv_stride;
        c.page_stride = s.layout == layout::LAYER_MAJOR ? layer : layer * N_LAYERS;
    }
    c.layer_offset = s.layout == layout::LAYER_MAJOR ? 0 : layer * LAYER;
    c.group = s.layout == layout::LAYER_MAJOR ? LAYER : 0;
    return c;
}

uint64_t row_offset(const struct kern_cu_cache &c, uint32_t kv, uint32_t token, uint32_t head)
{
    return c.layer_offset + kv * c.kv_stride + token / c.page_tokens * c.page_stride +
           token % c.page_tokens * c.token_stride + head * c.head_stride;
}

cache_memory::cache_memory(const shape &s, const struct kern_cu_cache &c, uint32_t n_tokens, random_numbers &random)
{
    const size_t row_bytes = s.head_dim * type_bytes(s.dtype);
    const size_t group_bytes = up((n_tokens + c.page_tokens - 1) / c.page_tokens * c.page_stride, MEMORY_PAGE);
    size_t end = 0;

    group_stride = group_bytes;
    memory_bytes = group_bytes * N_LAYERS + 2 * MEMORY_PAGE;
    memory = static_cast<unsigned char *>(mmap(nullptr, memory_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (memory == MAP_FAILED)
        abort();
    rows.resize(memory_bytes);
    for (uint32_t head = 0; head < s.n_kv_heads; head++)
        for (uint32_t token = 0; token < n_tokens; token++)
            end = std::max(end, row_offset(c, 1, token, head) + row_bytes);
    /* the last row ends where a memory page ends, but for alignment */
    base = reinterpret_cast<uint64_t>(memory) + (MEMORY_PAGE - end % MEMORY_PAGE) / 16 * 16;
    for (uint32_t kv = 0; kv < 2; kv++)
        for (uint32_t token = 0; token < n_tokens; token++)
            for (uint32_t head = 0; head < s.n_kv_heads; head++) {
                const uint64_t row = base + c.group * group_stride + row_offset(c, kv, token, head);
                open_row(row, row_bytes);
                for (uint32_t d = 0; d < s.head_dim; d++)
                    store_element(reinterpret_cast<void *>(row + d * type_bytes(s.dtype)), s.dtype, random.normal());
            }
}

void cache_memory::open_row(uint64_t row, size_t bytes)
{
    const size_t at = row - reinterpret_cast<uint64_t>(memory);
    for (size_t page = at / MEMORY_PAGE; page <= (at + bytes - 1) / MEMORY_PAGE; page++) {
        bool open = false;
        for (size_t i = page * MEMORY_PAGE; i < (page + 1) * MEMORY_PAGE && !open; i++)
            open = rows[i];
        if (open)
            continue;
        if (mprotect(memory + page * MEMORY_PAGE, MEMORY_PAGE, PROT_READ | PROT_WRITE) != 0)
            abort();
        memset(memory + page * MEMORY_PAGE, 0xff, MEMORY_PAGE);
    }
    for (size_t i = 0; i < bytes; i++)
        rows[at + i] = true;
}

cache_memory::~cache_memory()
{
    munmap(memory, memory_bytes);
}

bool cache_memory::is_row(uintptr_t address) const
{
    const uintptr_t start = reinterpret_cast<uintptr_t>(memory);
    if (address < start || address - start + 16 > memory_bytes)
        return false;
    for (size_t i = 0; i < 16; i++)
        if (!rows[address - start + i])
            return false;
    return true;
}

struct kern_tensor cache_memory::tensor(const struct kern_cu_cache &c, uint32_t kv) const
{
    return {reinterpret_cast<const void *>(base + c.group * group_stride + c.layer_offset + kv * c.kv_stride),
            c.page_stride, c.token_stride, c.head_stride, c.page_tokens};
}

problem::problem(const shape &s, random_numbers &random, uint32_t n_splits) : params(), max_queries(0), of(s)
{
    const uint32_t n_heads = s.n_kv_heads * s.group;
    const size_t row = static_cast<size_t>(n_heads) * s.head_dim;
    uint32_t n_rows = 0;

    params.cache = cache_of(s);
    for (const sequence_shape &seq : s.seqs)
        n_rows += seq.n_queries;
    std::vector<float> q(n_rows * row);
    queries.resize(q.size() * type_bytes(s.dtype));
    for (size_t i = 0; i < q.size(); i++) {
        unsigned char *to = &queries[i * type_bytes(s.dtype)];
        store_element(to, s.dtype, random.normal());
        q[i] = load_element(to, s.dtype);
    }
    want.resize(q.size());
    output.resize(q.size() * type_bytes(s.out_type));
    partial.assign(kern_cuda_decode_scratch(static_cast<uint32_t>(s.seqs.size()), n_heads, s.head_dim, n_splits) /
                       sizeof(float),
                   NAN);
    params.n_heads = n_heads;
    params.scale = s.sharpness / sqrtf(static_cast<float>(s.head_dim));
    n_rows = 0;
    for (const sequence_shape &seq : s.seqs) {
        caches.push_back(new cache_memory(s, params.cache, seq.first_pos + seq.n_queries, random));
        seqs.push_back({caches.back()->base, caches.back()->group_stride, seq.first_pos, seq.n_queries, n_rows, 0});
        answer(static_cast<uint32_t>(seqs.size()) - 1, n_rows, q);
        n_rows += seq.n_queries;
        max_queries = std::max(max_queries, seq.n_queries);
    }
    params.seqs = reinterpret_cast<uint64_t>(seqs.data());
    params.q = reinterpret_cast<uint64_t>(queries.data());
    params.out = reinterpret_cast<uint64_t>(output.data());
    params.partial = reinterpret_cast<uint64_t>(partial.data());
    params.n_seqs = static_cast<uint32_t>(seqs.size());
    params.out_type = s.out_type;
    params.n_splits = n_splits;
    poison_output();
}

problem::~problem()
{
    for (cache_memory *cache : caches)
        delete cache;
}

void problem::answer(uint32_t seq, uint32_t first_row, const std::vector<float> &q)
{
    const size_t row = static_cast<size_t>(params.n_heads) * of.head_dim;
    struct kern_attention_params p = {};
    struct kern_attention_item item = {};

    p.n_heads = params.n_heads;
    p.n_kv_heads = of.n_kv_heads;
    p.head_dim = of.head_dim;
    p.dtype = static_cast<enum kern_dtype>(of.dtype);
    p.scale = params.scale;
    item.k = caches[seq]->tensor(params.cache, 0);
    item.v = caches[seq]->tensor(params.cache, 1);
    item.first_pos = of.seqs[seq].first_pos;
    item.n_queries = of.seqs[seq].n_queries;
    item.q = &q[first_row * row];
    item.q_stride = item.out_stride = row;
    kern_attention_reference(&p, &item, &want[first_row * row]);
}

void problem::poison_output()
{
    memset(output.data(), 0xff, output.size());
}

double problem::worst_error() const
{
    double worst = 0;

    for (size_t row = 0; row < want.size(); row += of.head_dim) {
        double greatest = 0;
        double off = 0;
        for (size_t i = row; i < row + of.head_dim; i++) {
            const double distance = fabs(load_element(&output[i * type_bytes(of.out_type)], of.out_type) - want[i]);
            greatest = std::max(greatest, fabs(want[i]));
            if (!(distance <= off))
                off = std::isnan(distance) ? INFINITY : distance;
        }
        worst = std::max(worst, off / greatest);
    }
    return worst;
}

bool problem::may_read(uintptr_t address) const
{
    const uintptr_t q = params.q;
    if (address >= q && address + 16 <= q + queries.size())
        return true;
    for (const cache_memory *cache : caches)
        if (cache->is_row(address))
            return true;
    return false;
}

double tolerance(const shape &s)
{
    if (s.dtype == KERN_BF16 || s.out_type == KERN_BF16)
        return 1e-2;
    return s.dtype == KERN_F16 || s.out_type == KERN_F16 ? 2e-3 : 2e-5;
}
