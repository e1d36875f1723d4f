/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads GGUF v2 and v3 files, memory-mapped. The whole structure is checked at open: counts, string lengths, types,
 * dimensions, that each tensor's bytes lie inside the file at the file's alignment and that no two overlap. What open
 * accepted can be read without further checks. Format: ggml's docs/gguf.md.
 *
 * Errors: 0 or -1 with one line in err that names the file and the reason. Immutable after open, so thread-safe. */
#ifndef ENGINE_GGUF_H
#define ENGINE_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ENGINE_ERR_SIZE 512

/* One line for the user: "model.gguf: truncated: tensor blk.0.attn_q.weight ends at byte 4096 of 1024". */
struct engine_error {
    char text[ENGINE_ERR_SIZE];
};

/* Formats into err, cut at its end. */
void engine_set_error(struct engine_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same, and is -1: a macro, so that compilers and checkers see the value. */
#define engine_fail(...) (engine_set_error(__VA_ARGS__), engine_failed())
static inline int engine_failed(void)
{
    return -1;
}

enum gguf_type { /* tensor element types by ggml's numbers; any other number is refused */
                 GGUF_F32 = 0,
                 GGUF_F16 = 1,
                 GGUF_Q8_0 = 8, /* blocks of 32: f16 scale, 32 × int8 */
                 GGUF_BF16 = 30
};

struct gguf_string {
    const char *text; /* in the mapping, not terminated */
    size_t len;
};

struct gguf_tensor {
    struct gguf_string name;
    enum gguf_type type;
    uint32_t n_dims;  /* 1 … 4 */
    uint64_t dims[4]; /* dims[0] is the contiguous one; unused ones are 1 */
    const void *data; /* in the mapping */
    uint64_t bytes;
};

struct gguf;

int gguf_open(const char *path, struct gguf **file, struct engine_error *err);
void gguf_close(struct gguf **file); /* sets NULL; NULL is ignored */

const char *gguf_path(const struct gguf *file);
/* NULL if there is none of that name. */
const struct gguf_tensor *gguf_tensor(const struct gguf *file, const char *name);
uint64_t gguf_n_tensors(const struct gguf *file);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *file, uint64_t i);

/* Whether the key is there, with any type. */
bool gguf_has(const struct gguf *file, const char *key);
/* Metadata. Each returns true and the value if the key is there with a fitting type (any integer type whose value fits
 * for u32; f32 or f64 for f32), else false. */
bool gguf_u32(const struct gguf *file, const char *key, uint32_t *value);
bool gguf_f32(const struct gguf *file, const char *key, float *value);
bool gguf_bool(const struct gguf *file, const char *key, bool *value);
bool gguf_string(const struct gguf *file, const char *key, struct gguf_string *value);
/* Arrays of strings, f32, i32/u32: the number of elements, then one by one (i < n). */
bool gguf_strings(const struct gguf *file, const char *key, uint64_t *n);
struct gguf_string gguf_strings_at(const struct gguf *file, const char *key, uint64_t i);
bool gguf_f32s(const struct gguf *file, const char *key, const void **data, uint64_t *n); /* unaligned floats */
/* Unaligned int32; the bits of an array of uint32 are given as they are. */
bool gguf_i32s(const struct gguf *file, const char *key, const void **data, uint64_t *n);

/* Bytes of n elements of a type; 0 if n is no multiple of its block, for an unknown type, and past 64 bits. */
uint64_t gguf_type_bytes(enum gguf_type type, uint64_t n);
const char *gguf_type_name(enum gguf_type type); /* NULL: unknown */

#endif
