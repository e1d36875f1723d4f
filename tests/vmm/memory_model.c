/* SPDX-License-Identifier: Apache-2.0 */
#include "memory_model.h"

#include <string.h>

#include "on_device.h"

/* The row of head_dim elements is filled with 8-byte words that name sequence, token, version, layer, K or V and head. */
static uint64_t word_of(const struct model_seq *m, uint32_t token, uint32_t version, uint32_t row, size_t i)
{
    uint64_t state = m->salt ^ ((uint64_t)token << 32 | version) ^ ((uint64_t)row << 16) ^ i;
    return model_random(&state) | 1; /* never zero */
}

static char *row_at(const struct kvmm_layout *l, uint32_t token, uint32_t layer, uint32_t kv, uint32_t head)
{
    return cpu_at((char *)kvmm_layout_at(l, layer, kv) + (size_t)(token / l->page_tokens) * l->page_stride +
                  (size_t)(token % l->page_tokens) * l->token_stride + (size_t)head * l->head_stride);
}

typedef bool row_visit(char *row, size_t words, const struct model_seq *m, uint32_t token, uint32_t number);

static bool each_row(const struct kvmm_geometry *g, const struct kvmm_layout *l, const struct model_seq *m,
                     uint32_t token, row_visit *visit)
{
    size_t words = g->head_dim * l->elem_bytes / 8;
    uint32_t number = 0;
    for (uint32_t layer = 0; layer < g->n_layers; layer++) {
        for (uint32_t kv = 0; kv < 2; kv++) {
            for (uint32_t head = 0; head < g->n_kv_heads; head++, number++) {
                if (!visit(row_at(l, token, layer, kv, head), words, m, token, number))
                    return false;
            }
        }
    }
    return true;
}

static bool write_row(char *row, size_t words, const struct model_seq *m, uint32_t token, uint32_t number)
{
    for (size_t i = 0; i < words; i++) {
        uint64_t word = word_of(m, token, m->version[token], number, i);
        memcpy(row + i * 8, &word, 8);
    }
    return true;
}

static bool row_is(const char *row, size_t words, const struct model_seq *m, uint32_t token, uint32_t version,
                   uint32_t number)
{
    for (size_t i = 0; i < words; i++) {
        uint64_t want = word_of(m, token, version, number, i), is;
        memcpy(&is, row + i * 8, 8);
        if (is != want)
            return false;
    }
    return true;
}

static bool check_row(char *row, size_t words, const struct model_seq *m, uint32_t token, uint32_t number)
{
    return row_is(row, words, m, token, m->version[token], number);
}

/* Word by word: a row that lies across the end of a frame can be old in one part and zero in the other. */
static bool own_or_zero_row(char *row, size_t words, const struct model_seq *m, uint32_t token, uint32_t number)
{
    for (size_t i = 0; i < words; i++) {
        uint64_t is;
        memcpy(&is, row + i * 8, 8);
        bool known = is == 0;
        for (uint32_t version = m->version[token]; !known && version > 0; version--)
            known = is == word_of(m, token, version, number, i);
        if (!known)
            return false;
    }
    return true;
}

void model_write(const struct kvmm_geometry *g, const struct kvmm_layout *l, const struct model_seq *m, uint32_t token)
{
    each_row(g, l, m, token, write_row);
}

bool model_check(const struct kvmm_geometry *g, const struct kvmm_layout *l, const struct model_seq *m, uint32_t token)
{
    return each_row(g, l, m, token, check_row);
}

bool model_is_own_or_zero(const struct kvmm_geometry *g, const struct kvmm_layout *l, const struct model_seq *m,
                          uint32_t token)
{
    return each_row(g, l, m, token, own_or_zero_row);
}
