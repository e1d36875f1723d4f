/* SPDX-License-Identifier: Apache-2.0 */
#include "vec_avx512.h"

#define ONE_DTYPE     KERN_BF16
#define SCORE_VECTORS 4
#define VALUE_VECTORS 4
#include "products_bf16.h"
#include "tile_body.h"

const struct kern_tile_ops kern_tile_avx512_bf16 = TILE_OPS(true);
