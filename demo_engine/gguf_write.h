/* SPDX-License-Identifier: Apache-2.0
 *
 * Writes GGUF v3 files: metadata and tensors are added one by one, then the whole file is built at once. For small
 * models; the image stands in memory.
 *
 * The adders return nothing: the first failure (memory, a name that GGUF does not allow, a tensor whose shape does not
 * fit its type) is kept and reported by image or save. Not thread-safe. */
#ifndef ENGINE_GGUF_WRITE_H
#define ENGINE_GGUF_WRITE_H

#include "gguf.h"

struct gguf_writer;

/* -1 if memory is out. */
int gguf_writer_open(struct gguf_writer **writer, struct engine_error *err);
void gguf_writer_close(struct gguf_writer **writer); /* sets NULL; NULL is ignored */

/* Metadata; keys and values are copied. The caller sees to it that no key comes twice. */
void gguf_add_u32(struct gguf_writer *writer, const char *key, uint32_t value);
void gguf_add_f32(struct gguf_writer *writer, const char *key, float value);
void gguf_add_bool(struct gguf_writer *writer, const char *key, bool value);
void gguf_add_string(struct gguf_writer *writer, const char *key, const char *value);
void gguf_add_strings(struct gguf_writer *writer, const char *key, const char *const *values, uint64_t n);
void gguf_add_f32s(struct gguf_writer *writer, const char *key, const float *values, uint64_t n);
void gguf_add_i32s(struct gguf_writer *writer, const char *key, const int32_t *values, uint64_t n);

/* A tensor of n_dims (1 … 4) dimensions, dims[0] the contiguous one. data is borrowed until the file is built. */
void gguf_add_tensor(struct gguf_writer *writer, const char *name, enum gguf_type type, uint32_t n_dims,
                     const uint64_t *dims, const void *data);

/* The file's bytes in a malloc'd block that the caller frees. */
int gguf_writer_image(const struct gguf_writer *writer, uint8_t **image, size_t *size, struct engine_error *err);

/* The file at path, through a temporary file beside it that is renamed at the end: path is either the whole file or
 * what it was before. */
int gguf_writer_save(const struct gguf_writer *writer, const char *path, struct engine_error *err);

#endif
