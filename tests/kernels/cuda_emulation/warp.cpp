/* SPDX-License-Identifier: Apache-2.0
 *
 * What a warp does together, with the layouts of the PTX ISA 8.7: ldmatrix 9.7.14.5.15, mma.m16n8k16 9.7.14.5.8. */
#include "tests/kernels/cuda_emulation/emulation.hpp"

#include <cstring>
#include <vector>

#include "kernels/convert.h"

namespace emulation
{

float f16_value(uint16_t x)
{
    static std::vector<float> values;

    if (values.empty())
        for (uint32_t i = 0; i < 65536; i++)
            values.push_back(kern_f32_of_f16(static_cast<uint16_t>(i)));
    return values[x];
}
uint16_t f16_bits(float x)
{
    return kern_f16_of_f32(x);
}
float bf16_value(uint16_t x)
{
    return kern_f32_of_bf16(x);
}
uint16_t bf16_bits(float x)
{
    return kern_bf16_of_f32(x);
}

static const char *shuffle(void *const (&words)[32])
{
    for (uint32_t lane = 0; lane < 32; lane++) {
        auto *to = static_cast<shuffle_words *>(words[lane]);
        if (to->lanes >= 32)
            return "shuffle: lanes out of the warp";
        to->result = static_cast<const shuffle_words *>(words[lane ^ to->lanes])->value;
    }
    return nullptr;
}

static const char *any(void *const (&words)[32])
{
    bool result = false;
    for (void *word : words)
        result |= static_cast<const any_words *>(word)->value;
    for (void *word : words)
        static_cast<any_words *>(word)->result = result;
    return nullptr;
}

static const char *load_matrix(void *const (&words)[32], bool transposed)
{
    uint16_t element[4][8][8];

    for (uint32_t lane = 0; lane < 32; lane++) {
        const uint32_t address = static_cast<const matrix_words *>(words[lane])->address;
        const char *fault = shared_fault(address);
        if (fault)
            return fault;
        memcpy(element[lane / 8][lane % 8], shared_memory(address - SHARED_ADDRESS), 16);
    }
    for (uint32_t lane = 0; lane < 32; lane++) {
        auto *to = static_cast<matrix_words *>(words[lane]);
        const uint32_t row = lane / 4;
        const uint32_t pair = lane % 4 * 2;
        for (int m = 0; m < 4; m++) {
            const uint32_t low = transposed ? element[m][pair][row] : element[m][row][pair];
            const uint32_t high = transposed ? element[m][pair + 1][row] : element[m][row][pair + 1];
            to->rows[m] = low | high << 16;
        }
    }
    return nullptr;
}

template <float (*value)(uint16_t)> static const char *mma(void *const (&words)[32])
{
    double a[16][16];
    double b[16][8];

    for (uint32_t lane = 0; lane < 32; lane++) {
        const auto *from = static_cast<const mma_words *>(words[lane]);
        const uint32_t row = lane / 4;
        const uint32_t pair = lane % 4 * 2;
        for (uint32_t i = 0; i < 4; i++)
            for (uint32_t j = 0; j < 2; j++)
                a[row + i % 2 * 8][pair + i / 2 * 8 + j] = value(static_cast<uint16_t>(from->a[i] >> 16 * j));
        for (uint32_t i = 0; i < 2; i++)
            for (uint32_t j = 0; j < 2; j++)
                b[pair + i * 8 + j][row] = value(static_cast<uint16_t>(from->b[i] >> 16 * j));
    }
    for (uint32_t lane = 0; lane < 32; lane++) {
        float *c = static_cast<const mma_words *>(words[lane])->c;
        for (uint32_t i = 0; i < 4; i++) {
            const double *row = a[lane / 4 + i / 2 * 8];
            const uint32_t column = lane % 4 * 2 + i % 2;
            double sum = c[i];
            for (uint32_t k = 0; k < 16; k++)
                sum += row[k] * b[k][column];
            c[i] = static_cast<float>(sum);
        }
    }
    return nullptr;
}

const char *warp_collective(collective what, void *const (&words)[32])
{
    switch (what) {
    case collective::SHUFFLE:
        return shuffle(words);
    case collective::ANY:
        return any(words);
    case collective::LOAD_MATRIX:
        return load_matrix(words, false);
    case collective::LOAD_MATRIX_TRANSPOSED:
        return load_matrix(words, true);
    case collective::MMA_F16:
        return mma<f16_value>(words);
    case collective::MMA_BF16:
        return mma<bf16_value>(words);
    default:
        return nullptr;
    }
}

} // namespace emulation
