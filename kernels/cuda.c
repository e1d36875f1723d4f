/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/attention.h"
#include "kernels/cuda/functions.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/tiles.h"

#define THREADS      256u   /* of a block, but for attention */
#define MAX_GRID_Y   65535u /* and z (CUDA C++ Programming Guide, compute capabilities) */
#define MAX_GRID_X   0x7fffffffu
#define MAX_SPLITS   128u
#define WARP_SCRATCH (THREADS / 32 * 8) /* shared bytes of a block's reduction: two words a warp */

enum function {
#define X(name, parameters, form) FN_##name,
    KERN_CU_FUNCTIONS(X)
#undef X
        N_FUNCTIONS
};

struct kern_cuda {
    const struct cuda_driver *driver;
    CUmodule module;
    CUfunction functions[N_FUNCTIONS];
    uint32_t n_multiprocessors;
};

#ifdef KERN_CUDA_BUILT
extern const unsigned char kern_cuda_image[];
#endif

bool kern_cuda_built(void)
{
#ifdef KERN_CUDA_BUILT
    return true;
#else
    return false;
#endif
}

CUresult kern_cuda_open(const struct cuda_driver *driver, CUdevice device, struct kern_cuda **kernels)
{
#ifdef KERN_CUDA_BUILT
    return kern_cuda_open_image(driver, device, kern_cuda_image, kernels);
#else
    (void)driver, (void)device, (void)kernels;
    return CUDA_ERROR_NOT_SUPPORTED;
#endif
}

/* The padded head dims that attention is compiled for: X(tile, dims). */
#define TILES(X)   X(0, 32) X(1, 64) X(2, 128) X(3, 256)
#define N_TILES    4
#define PAGED_TILE 2 /* the one tile of kernels with a block table */

_Static_assert(FN_prefill_bf16_32 == FN_prefill_f16_32 + N_TILES && FN_decode_bf16_32 == FN_decode_f16_32 + N_TILES,
               "variants are ordered by dtype, then by tile");

struct tile {
    uint32_t dims, prefill_rows, prefill_shared, decode_shared;
};

static const struct tile tiles[N_TILES] = {
#define X(tile, d) [tile] = {d, KERN_CU_PREFILL_ROWS(d), KERN_CU_PREFILL_SHARED(d), KERN_CU_DECODE_SHARED(d)},
    TILES(X)
#undef X
};

/* More than 48 KiB of shared memory is to be asked for. */
static CUresult allow_shared(const struct kern_cuda *k)
{
    const CUfunction_attribute limit = CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;

    for (int i = 0; i < 2 * N_TILES; i++) {
        const struct tile *t = &tiles[i % N_TILES];
        CUresult rc = k->driver->FuncSetAttribute(k->functions[FN_prefill_f16_32 + i], limit, (int)t->prefill_shared);
        if (rc == CUDA_SUCCESS)
            rc = k->driver->FuncSetAttribute(k->functions[FN_decode_f16_32 + i], limit, (int)t->decode_shared);
        if (rc != CUDA_SUCCESS)
            return rc;
    }
    for (int f = FN_prefill_paged_f16_128; f <= FN_decode_paged_bf16_128; f++) {
        const struct tile *t = &tiles[PAGED_TILE];
        const uint32_t shared = f < FN_decode_paged_f16_128 ? t->prefill_shared : t->decode_shared;
        CUresult rc = k->driver->FuncSetAttribute(k->functions[f], limit, (int)shared);
        if (rc != CUDA_SUCCESS)
            return rc;
    }
    return CUDA_SUCCESS;
}

static CUresult find_functions(struct kern_cuda *k)
{
    static const char *const names[N_FUNCTIONS] = {
#define X(name, parameters, form) "kern_cu_" #name,
        KERN_CU_FUNCTIONS(X)
#undef X
    };
    for (int i = 0; i < N_FUNCTIONS; i++) {
        CUresult rc = k->driver->ModuleGetFunction(&k->functions[i], k->module, names[i]);
        if (rc != CUDA_SUCCESS)
            return rc;
    }
    return allow_shared(k);
}

CUresult kern_cuda_open_image(const struct cuda_driver *driver, CUdevice device, const void *image,
                              struct kern_cuda **kernels)
{
    int major = 0;
    int n_multiprocessors = 0;
    CUresult rc = driver->DeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device);
    if (rc == CUDA_SUCCESS)
        rc = driver->DeviceGetAttribute(&n_multiprocessors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device);
    if (rc != CUDA_SUCCESS)
        return rc;
    if (major < 8)
        return CUDA_ERROR_NO_BINARY_FOR_GPU;

    struct kern_cuda *k = calloc(1, sizeof(*k));
    if (!k)
        return CUDA_ERROR_OUT_OF_MEMORY;
    k->driver = driver;
    k->n_multiprocessors = n_multiprocessors > 0 ? (uint32_t)n_multiprocessors : 1;
    if ((rc = driver->ModuleLoadData(&k->module, image)) != CUDA_SUCCESS)
        goto err_free;
    if ((rc = find_functions(k)) != CUDA_SUCCESS)
        goto err_unload;
    *kernels = k;
    return CUDA_SUCCESS;

err_unload:
    driver->ModuleUnload(k->module);
err_free:
    free(k);
    return rc;
}

void kern_cuda_close(struct kern_cuda **kernels)
{
    struct kern_cuda *k = *kernels;
    if (!k)
        return;
    *kernels = NULL;
    k->driver->ModuleUnload(k->module);
    free(k);
}

struct grid {
    uint64_t x, y, z;
};

/* Nothing to do is no launch: a grid has at least one block. */
static CUresult launch(const struct kern_cuda *k, enum function f, CUstream stream, struct grid grid, uint32_t threads,
                       uint32_t shared, const void *params)
{
    void *args[1];
    memcpy(args, &params, sizeof(params)); /* the driver's type is not const, but it only reads */
    if (grid.x == 0 || grid.y == 0 || grid.z == 0)
        return CUDA_SUCCESS;
    if (grid.x > MAX_GRID_X || grid.y > MAX_GRID_Y || grid.z > MAX_GRID_Y)
        return CUDA_ERROR_INVALID_VALUE;
    return k->driver->LaunchKernel(k->functions[f], (unsigned)grid.x, (unsigned)grid.y, (unsigned)grid.z, threads, 1, 1,
                                   shared, stream, args, NULL);
}

static bool is_type(uint32_t type)
{
    return type <= KERN_F32;
}

static uint32_t type_bytes(uint32_t type)
{
    return type == KERN_F32 ? 4 : 2;
}

static uint64_t blocks_of(uint64_t n, uint64_t each)
{
    return (n + each - 1) / each;
}

CUresult kern_cuda_embed(struct kern_cuda *k, CUstream stream, const struct kern_cu_embed *p)
{
    if (!p->tokens || !p->table || !p->x || !is_type(p->table_type) || p->width == 0)
        return CUDA_ERROR_INVALID_VALUE;
    return launch(k, FN_embed, stream, (struct grid){p->n_rows, 1, 1}, THREADS, 0, p);
}

CUresult kern_cuda_turn(struct kern_cuda *k, CUstream stream, const struct kern_cu_turn *p)
{
    if (!p->seqs || !p->row_seq || p->rope_dims % 2 != 0 || (p->rope_dims > 0 && (!p->theta || !p->turn)))
        return CUDA_ERROR_INVALID_VALUE;
    const uint64_t n = (uint64_t)p->n_rows * (p->rope_dims / 2);
    return launch(k, FN_turn, stream, (struct grid){blocks_of(n, THREADS), 1, 1}, THREADS, 0, p);
}

CUresult kern_cuda_norm(struct kern_cuda *k, CUstream stream, const struct kern_cu_norm *p)
{
    if (!p->x || p->width == 0 || !is_type(p->out_type) || (p->out && !p->weight))
        return CUDA_ERROR_INVALID_VALUE;
    return launch(k, FN_norm, stream, (struct grid){p->n_rows, 1, 1}, THREADS, WARP_SCRATCH, p);
}

CUresult kern_cuda_swiglu(struct kern_cuda *k, CUstream stream, const struct kern_cu_swiglu *p)
{
    if (!p->gate || !p->up || !p->out || p->width == 0 || !is_type(p->out_type))
        return CUDA_ERROR_INVALID_VALUE;
    const uint64_t blocks = blocks_of((uint64_t)p->n_rows * p->width, (uint64_t)THREADS * 4);
    const uint64_t most = (uint64_t)k->n_multiprocessors * 16;
    return launch(k, FN_swiglu, stream, (struct grid){blocks < most ? blocks : most, 1, 1}, THREADS, 0, p);
}

CUresult kern_cuda_argmax(struct kern_cuda *k, CUstream stream, const struct kern_cu_argmax *p)
{
    if (!p->logits || !p->out || p->width == 0)
        return CUDA_ERROR_INVALID_VALUE;
    return launch(k, FN_argmax, stream, (struct grid){p->n_rows, 1, 1}, THREADS, WARP_SCRATCH, p);
}

CUresult kern_cuda_gather(struct kern_cuda *k, CUstream stream, const struct kern_cu_gather *p)
{
    if (!p->copies || p->bytes % 16 != 0)
        return CUDA_ERROR_INVALID_VALUE;
    /* A block moves 16 KiB a round; as many in x as keep the device busy with the copies at hand. */
    const uint64_t rows = p->n < MAX_GRID_Y ? p->n : MAX_GRID_Y;
    const uint64_t most = rows > 0 ? blocks_of((uint64_t)k->n_multiprocessors * 16, rows) : 0;
    const uint64_t parts = blocks_of(p->bytes, (uint64_t)THREADS * 64);
    return launch(k, FN_gather, stream, (struct grid){parts < most ? parts : most, rows, 1}, THREADS, 0, p);
}

static bool is_cache(const struct kern_cu_cache *c)
{
    const uint32_t element = is_type(c->dtype) ? type_bytes(c->dtype) : 0;

    return element > 0 && c->page_tokens >= 1 && c->page_tokens <= 1u << 30 && c->n_kv_heads >= 1 && c->head_dim >= 1 &&
           c->head_dim <= KERN_MAX_HEAD_DIM && c->layer_offset % element == 0 && c->kv_stride % element == 0 &&
           c->page_stride % element == 0 && c->token_stride % element == 0 && c->head_stride % element == 0;
}

CUresult kern_cuda_append(struct kern_cuda *k, CUstream stream, const struct kern_cu_append *p)
{
    if (!is_cache(&p->cache) || !p->seqs || !p->row_seq || !p->q || !p->k || !p->v || !p->q_out ||
        !is_type(p->q_type) || p->n_heads == 0 || p->rope_dims % 2 != 0 || p->rope_dims > p->cache.head_dim ||
        (p->rope_dims > 0 && !p->turn))
        return CUDA_ERROR_INVALID_VALUE;
    return launch(k, FN_append, stream, (struct grid){p->n_rows, 1, 1}, THREADS, 0, p);
}

static bool is_attention(const struct kern_cu_attention *p)
{
    return is_cache(&p->cache) && p->seqs && p->q && p->out && is_type(p->out_type) && p->n_heads > 0 &&
           p->n_heads % p->cache.n_kv_heads == 0 && p->scale > 0;
}

/* The tile for this head dim; N_TILES: only the generic kernel does. */
static int tile_of(const struct kern_cu_attention *p)
{
    const struct kern_cu_cache *c = &p->cache;
    const uint64_t strides = c->layer_offset | c->kv_stride | c->page_stride | c->token_stride | c->head_stride;
    const uint64_t pair = 2 * (uint64_t)type_bytes(p->out_type);
    int tile = 0;

    if (c->dtype == KERN_F32 || c->head_dim % 8 != 0 || strides % 16 != 0 || p->q % 16 != 0 || p->out % pair != 0)
        return N_TILES;
    while (tiles[tile].dims < c->head_dim)
        tile++;
    return tile;
}

static CUresult launch_generic(const struct kern_cuda *k, CUstream stream, const struct kern_cu_attention *p,
                               uint32_t max_queries)
{
    return launch(k, FN_generic, stream, (struct grid){max_queries, p->n_heads, p->n_seqs},
                  KERN_CU_ATTENTION_WARPS * 32, KERN_CU_GENERIC_SHARED(p->cache.head_dim), p);
}

/* `params` is what function f takes; `p` the attention in it. */
static CUresult launch_prefill(const struct kern_cuda *k, int f, CUstream stream, const struct kern_cu_attention *p,
                               const void *params, uint32_t max_queries)
{
    const struct tile *t = &tiles[tile_of(p)];
    const uint64_t rows = (uint64_t)max_queries * (p->n_heads / p->cache.n_kv_heads);
    const struct grid grid = {blocks_of(rows, t->prefill_rows), p->cache.n_kv_heads, p->n_seqs};
    return launch(k, (enum function)f, stream, grid, KERN_CU_ATTENTION_WARPS * 32, t->prefill_shared, params);
}

CUresult kern_cuda_prefill(struct kern_cuda *k, CUstream stream, const struct kern_cu_attention *p,
                           uint32_t max_queries)
{
    if (!is_attention(p))
        return CUDA_ERROR_INVALID_VALUE;
    const int tile = tile_of(p);
    if (tile == N_TILES)
        return launch_generic(k, stream, p, max_queries);
    return launch_prefill(k, FN_prefill_f16_32 + (int)p->cache.dtype * N_TILES + tile, stream, p, p, max_queries);
}

static bool is_paged(const struct kern_cu_paged *p)
{
    return is_attention(&p->attention) && p->block_table && tile_of(&p->attention) == PAGED_TILE;
}

CUresult kern_cuda_prefill_paged(struct kern_cuda *k, CUstream stream, const struct kern_cu_paged *p,
                                 uint32_t max_queries)
{
    if (!is_paged(p))
        return CUDA_ERROR_INVALID_VALUE;
    return launch_prefill(k, FN_prefill_paged_f16_128 + (int)p->attention.cache.dtype, stream, &p->attention, p,
                          max_queries);
}

/* Of so many blocks a split, what part of the multiprocessors' slots works on average until the last is done, in 1/1024. */
static uint64_t occupied(uint64_t blocks, uint64_t slots)
{
    return blocks * 1024 / (blocks_of(blocks, slots) * slots);
}

/* As few splits as keep nearly as many multiprocessors busy as any number would: each costs a write and a read of its
 * sums. (The rule of FlashAttention's num_splits_heuristic.) */
uint32_t kern_cuda_decode_splits(const struct kern_cuda *k, uint32_t n_seqs, uint32_t n_kv_heads)
{
    const uint64_t slots = (uint64_t)k->n_multiprocessors * 3; /* blocks that are resident at once, at head_dim 128 */
    const uint64_t blocks = (uint64_t)n_seqs * n_kv_heads;
    uint64_t best = 0;

    if (blocks == 0)
        return 1;
    for (uint32_t n = 1; n <= MAX_SPLITS; n++)
        if (occupied(blocks * n, slots) > best)
            best = occupied(blocks * n, slots);
    for (uint32_t n = 1; n < MAX_SPLITS; n++)
        if (occupied(blocks * n, slots) * 100 >= best * 85)
            return n;
    return MAX_SPLITS;
}

size_t kern_cuda_decode_scratch(uint32_t n_seqs, uint32_t n_heads, uint32_t head_dim, uint32_t n_splits)
{
    return (size_t)n_seqs * n_heads * n_splits * (head_dim + 2) * sizeof(float);
}

static bool is_decode(const struct kern_cu_attention *p)
{
    return is_attention(p) && p->n_splits > 0 && p->partial && p->partial % 8 == 0 && p->n_heads <= MAX_GRID_X &&
           p->n_seqs <= MAX_GRID_Y;
}

static CUresult launch_decode(const struct kern_cuda *k, int f, CUstream stream, const struct kern_cu_attention *p,
                              const void *params)
{
    const uint64_t parts = blocks_of(p->n_heads / p->cache.n_kv_heads, KERN_CU_DECODE_ROWS);
    const struct grid grid = {p->n_splits, p->cache.n_kv_heads * parts, p->n_seqs};
    const uint32_t shared = tiles[tile_of(p)].decode_shared;
    CUresult rc = launch(k, (enum function)f, stream, grid, KERN_CU_ATTENTION_WARPS * 32, shared, params);
    if (rc != CUDA_SUCCESS)
        return rc;
    const uint32_t threads = (p->cache.head_dim + 31) / 32 * 32;
    return launch(k, FN_combine, stream, (struct grid){p->n_heads, p->n_seqs, 1}, threads, 0, p);
}

CUresult kern_cuda_decode(struct kern_cuda *k, CUstream stream, const struct kern_cu_attention *p)
{
    if (!is_decode(p))
        return CUDA_ERROR_INVALID_VALUE;
    const int tile = tile_of(p);
    if (tile == N_TILES)
        return launch_generic(k, stream, p, 1);
    return launch_decode(k, FN_decode_f16_32 + (int)p->cache.dtype * N_TILES + tile, stream, p, p);
}

CUresult kern_cuda_decode_paged(struct kern_cuda *k, CUstream stream, const struct kern_cu_paged *p)
{
    if (!is_paged(p) || !is_decode(&p->attention))
        return CUDA_ERROR_INVALID_VALUE;
    return launch_decode(k, FN_decode_paged_f16_128 + (int)p->attention.cache.dtype, stream, &p->attention, p);
}
