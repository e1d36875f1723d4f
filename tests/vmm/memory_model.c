/* SPDX-License-Identifier: Apache-2.0 */
#include "memory_model.h"

#include <stdlib.h>
#include <string.h>

#include "on_device.h"

bool model_open(struct model_seq *m, uint64_t salt, uint32_t max_tokens)
{
    *m = (struct model_seq){.salt = salt,
                            .max_tokens = max_tokens,
                            .ids = calloc(MODEL_MAX_TOKENS, sizeof *m->ids),
                            .stamp = calloc(MODEL_MAX_TOKENS, sizeof *m->stamp)};
    return max_tokens <= MODEL_MAX_TOKENS && m->ids && m->stamp;
}

void model_close(struct model_seq *m)
{
    free(m->ids);
    free(m->stamp);
    *m = (struct model_seq){0};
}

void model_restart(struct model_seq *m, uint64_t salt)
{
    m->salt = salt;
    m->length = 0;
    memset(m->ids, 0, MODEL_MAX_TOKENS * sizeof *m->ids);
    memset(m->stamp, 0, MODEL_MAX_TOKENS * sizeof *m->stamp);
}

void model_fork(struct model_seq *child, const struct model_seq *parent)
{
    child->salt = parent->salt;
    child->length = parent->length;
    memcpy(child->ids, parent->ids, MODEL_MAX_TOKENS * sizeof *child->ids);
    memcpy(child->stamp, parent->stamp, MODEL_MAX_TOKENS * sizeof *child->stamp);
}

void model_set(struct model_seq *m, uint32_t token, uint32_t id)
{
    uint64_t state = (token ? m->stamp[token - 1] : m->salt) ^ id;
    m->ids[token] = id;
    m->stamp[token] = model_random(&state) | 1;
}

/* The row of head_dim elements is filled with 8-byte words that name the stamp, layer, K or V and head. */
static uint64_t word_of(uint64_t stamp, uint32_t row, size_t i)
{
    uint64_t state = stamp ^ ((uint64_t)row << 16) ^ i;
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
        uint64_t word = word_of(m->stamp[token], number, i);
        memcpy(row + i * 8, &word, 8);
    }
    return true;
}

static bool check_row(char *row, size_t words, const struct model_seq *m, uint32_t token, uint32_t number)
{
    for (size_t i = 0; i < words; i++) {
        uint64_t want = word_of(m->stamp[token], number, i), is;
        memcpy(&is, row + i * 8, 8);
        if (is != want)
            return false;
    }
    return true;
}

/* Word by word: a row that lies across the end of a frame can be old in one part and zero in the other. */
static bool own_or_zero_row(char *row, size_t words, const struct model_seq *m, uint32_t token, uint32_t number)
{
    for (size_t i = 0; i < words; i++) {
        uint64_t is;
        memcpy(&is, row + i * 8, 8);
        if (is != 0 && (m->stamp[token] == 0 || is != word_of(m->stamp[token], number, i)))
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
