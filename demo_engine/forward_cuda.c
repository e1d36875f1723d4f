/* SPDX-License-Identifier: Apache-2.0 */
#include "forward_cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_graph.h"
#include "cuda_pass.h"

struct forward_cuda {
    struct forward seam;
    struct cuda_gpu gpu;
    struct cuda_weights weights;
    struct cuda_step step;
    struct cuda_pass pass;
    struct cuda_graphs graphs;

    void *logits; /* page-locked, f32 [n_wanted][n_vocab]; grown as needed */
    size_t logits_bytes;

    /* The pass that is queued. */
    const struct forward_item *items;
    uint32_t n_items;
    bool queued;
};

/* ---- a pass -------------------------------------------------------------------------------------------------- */

/* Room for the pass that is filled in; its graphs are void if an address in them changed. */
static int make_room(struct forward_cuda *f, bool other_layout, struct engine_error *err)
{
    bool moved;
    int rc = cuda_pass_grow(&f->pass, &moved, err);
    if (moved || other_layout)
        cuda_graphs_drop(&f->graphs, &f->gpu);
    const size_t bytes = (size_t)f->step.n_wanted * f->pass.m->n_vocab * sizeof(float);
    if (rc != 0 || bytes <= f->logits_bytes)
        return rc;
    cuda_gpu_free_pinned(&f->gpu, &f->logits);
    f->logits_bytes = 0;
    rc = cuda_gpu_alloc_pinned(&f->gpu, bytes, "logits", &f->logits, err);
    if (rc == 0)
        f->logits_bytes = bytes;
    return rc;
}

static int fetch_logits(const struct forward_cuda *f, struct engine_error *err)
{
    const size_t bytes = (size_t)f->step.n_wanted * f->pass.m->n_vocab * sizeof(float);
    if (bytes == 0)
        return 0;
    CUresult rc = f->gpu.cu->MemcpyDtoHAsync(f->logits, f->pass.logits, bytes, f->gpu.stream);
    return rc == CUDA_SUCCESS ? 0 : cuda_gpu_failure(&f->gpu, rc, "cuMemcpyDtoHAsync", "logits", err);
}

static int queue_in_context(struct forward_cuda *f, struct engine_error *err)
{
    if (f->queued)
        cuda_gpu_drain(&f->gpu); /* the wait for it failed */
    f->queued = false;
    cuda_step_fill(&f->step, f->items, f->n_items);
    const bool other_layout = cuda_pass_set_layout(&f->pass, &f->items[0].layout);
    int rc = make_room(f, other_layout, err);
    if (rc != 0)
        return rc;
    rc = cuda_step_upload(&f->gpu, &f->step, err);
    if (rc == 0 && cuda_pass_is_decode(&f->pass)) {
        const struct cuda_shape shape = {.n_seqs = f->step.n_seqs, .n_wanted = f->step.n_wanted};
        rc = cuda_graphs_run(&f->graphs, &f->gpu, shape, cuda_pass_queue, &f->pass, err);
    } else if (rc == 0) {
        rc = cuda_pass_queue(&f->pass, err);
    }
    if (rc == 0)
        rc = fetch_logits(f, err);
    if (rc == 0)
        rc = cuda_gpu_mark(&f->gpu, err);
    f->queued = rc == 0;
    if (rc != 0)
        cuda_gpu_drain(&f->gpu); /* the block may be filled in again */
    f->seam.n_captures = f->graphs.captures;
    f->seam.n_replays = f->graphs.replays;
    return rc;
}

static int queue_pass(struct forward *fwd, const struct forward_item *items, uint32_t n_items, struct engine_error *err)
{
    struct forward_cuda *f = (struct forward_cuda *)fwd;
    int rc = cuda_gpu_enter(&f->gpu, err);
    if (rc != 0)
        return rc;
    f->items = items;
    f->n_items = n_items;
    rc = queue_in_context(f, err);
    cuda_gpu_leave(&f->gpu);
    return rc;
}

static int wait_in_context(struct forward_cuda *f, struct engine_error *err)
{
    char what[64];
    (void)snprintf(what, sizeof what, "a pass of %u tokens", f->step.n_rows);
    int rc = cuda_gpu_wait(&f->gpu, what, err);
    if (rc != 0)
        return rc;
    f->queued = false;
    const size_t n_vocab = f->pass.m->n_vocab;
    const float *row = f->logits;
    for (uint32_t i = 0; i < f->n_items; i++) {
        if (!f->items[i].logits)
            continue;
        memcpy(f->items[i].logits, row, n_vocab * sizeof *row);
        row += n_vocab;
    }
    return 0;
}

static int wait_for_pass(struct forward *fwd, struct engine_error *err)
{
    struct forward_cuda *f = (struct forward_cuda *)fwd;
    int rc = cuda_gpu_enter(&f->gpu, err);
    if (rc != 0)
        return rc;
    rc = wait_in_context(f, err);
    cuda_gpu_leave(&f->gpu);
    return rc;
}

/* ---- open and close ------------------------------------------------------------------------------------------ */

static void close_in_context(struct forward_cuda *f)
{
    cuda_gpu_drain(&f->gpu);
    cuda_graphs_drop(&f->graphs, &f->gpu);
    cuda_gpu_free_pinned(&f->gpu, &f->logits);
    cuda_pass_close(&f->pass);
    cuda_step_close(&f->gpu, &f->step);
    cuda_weights_close(&f->gpu, &f->weights);
}

static void close_pass(struct forward *fwd)
{
    struct forward_cuda *f = (struct forward_cuda *)fwd;
    if (f->gpu.context) {
        const bool entered = cuda_gpu_enter_to_close(&f->gpu);
        close_in_context(f);
        if (entered)
            cuda_gpu_leave(&f->gpu);
    }
    cuda_gpu_close(&f->gpu);
    free(f);
}

static const struct forward_ops CUDA = {.queue = queue_pass, .wait = wait_for_pass, .close = close_pass};

int forward_cuda_open(const struct model *model, struct kern_pool *pool, int ordinal, enum kvmm_dtype kv_type,
                      uint32_t max_tokens, engine_progress progress, void *user, struct forward **fwd,
                      struct engine_error *err)
{
    struct forward_cuda *f = calloc(1, sizeof *f);
    if (!f)
        return engine_broke(err, "out of memory");
    f->seam.ops = &CUDA;
    int rc = cuda_gpu_open(ordinal, &f->gpu, err);
    if (rc == 0)
        rc = cuda_gpu_enter(&f->gpu, err);
    if (rc != 0) {
        close_pass(&f->seam);
        return rc;
    }
    f->seam.stream = f->gpu.stream;
    rc = cuda_step_open(&f->gpu, max_tokens, &f->step, err);
    if (rc == 0)
        rc = cuda_weights_open(&f->gpu, model, pool, progress, user, &f->weights, err);
    if (rc == 0)
        rc = cuda_pass_open(&f->gpu, model, &f->weights, &f->step, kv_type, &f->pass, err);
    cuda_gpu_leave(&f->gpu);
    if (rc != 0) {
        close_pass(&f->seam);
        return rc;
    }
    *fwd = &f->seam;
    return 0;
}
