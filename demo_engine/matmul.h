/* SPDX-License-Identifier: Apache-2.0
 *
 * Y[token][out] = sum over in of X[token][in] × W[out][in], W as it lies in the model file.
 *
 * A token's output bits do not depend on the number of tokens in the call, on its place among them, or on the number
 * of threads. Every BLAS call has one of two shapes that depend on the matrix alone: tile_rows (or the matrix's
 * remainder) outputs × tile_tokens tokens, padded with zeros. That leaves the column inside the tile: some BLAS kernels
 * sum the last columns of a tile in another order, so matmul_plan_make() asks the kernel in use, and takes tiles of
 * one token where the column shows. */
#ifndef ENGINE_MATMUL_H
#define ENGINE_MATMUL_H

#include "gguf.h"
#include "kernels/pool.h"

#define MATMUL_TILE_TOKENS 4

struct matmul_plan {
    uint32_t in, out;
    uint32_t tile_rows;
    uint32_t tile_tokens; /* MATMUL_TILE_TOKENS or 1 */
};

/* The tiles for a matrix of this shape (in, out ≥ 1) with the BLAS kernels of this CPU. The same answer on each call.
 * -1 if memory is out. */
int matmul_plan_make(uint32_t in, uint32_t out, struct matmul_plan *plan);

struct matmul_job {
    const struct matmul_plan *plan;
    const struct gguf_tensor *w; /* dims {in, out}; data aligned to its words */
    float *y;                    /* [n_tokens][y_stride], y_stride ≥ out; overlaps no input */
    size_t y_stride;
};

struct matmul;

/* Tiles for each thread of the pool, for matrices with at most max_in inputs. -1 if memory is out. BLAS is set to one
 * thread, for the whole process: the pool is what runs in parallel. The pool is used, not owned. */
int matmul_open(struct kern_pool *pool, uint32_t max_in, struct matmul **mm);
void matmul_close(struct matmul **mm); /* sets NULL; NULL is ignored */

/* Runs all jobs on the same X, [n_tokens][x_stride], as one parallel loop. */
void matmul_run(struct matmul *mm, const struct matmul_job *jobs, uint32_t n_jobs, const float *x, size_t x_stride,
                uint32_t n_tokens);

#endif
