/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_upload.h"

#include <string.h>

#include "dequant.h"
#include "kernels/convert.h"

#define STAGING_BYTES (16u << 20) /* at 50 GB/s a third of a millisecond: the launch of the copy does not show */
#define PART          16384u      /* elements that a thread converts at a time; a multiple of Q8_0's block */
#define BLOCK         256u        /* elements on their way from Q8_0 to f16 by f32 */

struct uploader {
    const struct cuda_gpu *gpu;
    struct kern_pool *pool;
    char *staging[2];
    CUevent left[2]; /* the copy out of it is done */
    bool used[2];
    uint32_t turn;
    uint64_t done, total; /* bytes */
    engine_progress progress;
    void *user;
};

/* ---- a piece into staging memory ----------------------------------------------------------------------------- */

struct piece {
    const struct cuda_tensor *tensor;
    uint64_t first, n;
    char *to;
};

static void q8_0_to_f16(const char *from, uint64_t n, uint16_t *to)
{
    float block[BLOCK];
    for (uint64_t i = 0; i < n; i += BLOCK) {
        const uint32_t now = n - i < BLOCK ? (uint32_t)(n - i) : BLOCK;
        engine_dequant(GGUF_Q8_0, from + gguf_type_bytes(GGUF_Q8_0, i), now, block);
        for (uint32_t k = 0; k < now; k++)
            to[i + k] = kern_f16_of_f32(block[k]);
    }
}

static void convert_part(void *ctx, uint32_t part, uint32_t thread)
{
    (void)thread;
    const struct piece *p = ctx;
    const struct cuda_tensor *t = p->tensor;
    const uint64_t at = (uint64_t)part * PART, n = p->n - at < PART ? p->n - at : PART;
    const char *from = (const char *)t->data + gguf_type_bytes(t->from, p->first + at);
    char *to = p->to + at * cuda_type_bytes(t->to);
    if (t->from == GGUF_Q8_0 && t->to == KERN_F16)
        q8_0_to_f16(from, n, (uint16_t *)(void *)to);
    else if (t->to == KERN_F32)
        engine_dequant(t->from, from, n, (float *)(void *)to);
    else
        memcpy(to, from, n * cuda_type_bytes(t->to));
}

static int send_piece(struct uploader *u, const struct cuda_tensor *t, uint64_t first, uint64_t n,
                      struct engine_error *err)
{
    const struct cuda_driver *cu = u->gpu->cu;
    const uint32_t turn = u->turn;
    CUresult rc = u->used[turn] ? cu->EventSynchronize(u->left[turn]) : CUDA_SUCCESS;
    if (rc != CUDA_SUCCESS)
        return cuda_gpu_failure(u->gpu, rc, "cuEventSynchronize", "the upload of the weights", err);
    struct piece piece = {.tensor = t, .first = first, .n = n, .to = u->staging[turn]};
    kern_pool_run(u->pool, (uint32_t)((n + PART - 1) / PART), convert_part, &piece);
    const size_t size = cuda_type_bytes(t->to);
    rc = cu->MemcpyHtoDAsync(*t->place + first * size, piece.to, n * size, u->gpu->stream);
    if (rc != CUDA_SUCCESS)
        return cuda_gpu_failure(u->gpu, rc, "cuMemcpyHtoDAsync", "the weights", err);
    rc = cu->EventRecord(u->left[turn], u->gpu->stream);
    if (rc != CUDA_SUCCESS)
        return cuda_gpu_failure(u->gpu, rc, "cuEventRecord", "the upload of the weights", err);
    u->used[turn] = true;
    u->turn = !turn;
    u->done += n * size;
    if (u->progress)
        u->progress(u->user, u->done >> 20, u->total >> 20);
    return 0;
}

/* ---- all of them --------------------------------------------------------------------------------------------- */

static int open_staging(struct uploader *u, struct engine_error *err)
{
    for (int i = 0; i < 2; i++) {
        void *at;
        int status = cuda_gpu_alloc_pinned(u->gpu, STAGING_BYTES, "the upload of the weights", &at, err);
        if (status != 0)
            return status;
        u->staging[i] = at;
        CUresult rc = u->gpu->cu->EventCreate(&u->left[i], CU_EVENT_DISABLE_TIMING);
        if (rc != CUDA_SUCCESS) {
            u->left[i] = NULL;
            return cuda_gpu_failure(u->gpu, rc, "cuEventCreate", "the upload of the weights", err);
        }
    }
    return 0;
}

static void close_staging(struct uploader *u)
{
    for (int i = 0; i < 2; i++) {
        void *at = u->staging[i];
        cuda_gpu_free_pinned(u->gpu, &at);
        if (u->left[i])
            (void)u->gpu->cu->EventDestroy(u->left[i]);
    }
}

int cuda_upload(const struct cuda_gpu *gpu, struct kern_pool *pool, const struct cuda_tensor *tensors, uint32_t n,
                engine_progress progress, void *user, struct engine_error *err)
{
    struct uploader u = {.gpu = gpu, .pool = pool, .progress = progress, .user = user};
    for (uint32_t i = 0; i < n; i++)
        u.total += tensors[i].n * cuda_type_bytes(tensors[i].to);
    int rc = open_staging(&u, err);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        const uint64_t most = STAGING_BYTES / cuda_type_bytes(tensors[i].to);
        for (uint64_t at = 0; rc == 0 && at < tensors[i].n; at += most)
            rc = send_piece(&u, &tensors[i], at, tensors[i].n - at < most ? tensors[i].n - at : most, err);
    }
    if (rc == 0)
        rc = cuda_gpu_mark(gpu, err);
    if (rc == 0)
        rc = cuda_gpu_wait(gpu, "the upload of the weights", err);
    if (rc != 0)
        cuda_gpu_drain(gpu);
    close_staging(&u);
    return rc;
}
