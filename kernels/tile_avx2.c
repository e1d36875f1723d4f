/* SPDX-License-Identifier: Apache-2.0 */
#include "vec_avx2.h"

#define SCORE_VECTORS 2
#define VALUE_VECTORS 2
#include "products_f32.h"
#include "tile_body.h"

const struct kern_tile_ops kern_tile_avx2 = TILE_OPS(false);
