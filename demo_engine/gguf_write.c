/* SPDX-License-Identifier: Apache-2.0
 *
 * The GGUF writer. Metadata and tensor descriptions are serialised as they are added, into two buffers; the image puts
 * the header in front of them and the tensors' bytes, each at a multiple of 32, behind. */
#include "gguf_write.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ALIGNMENT 32 /* the format's default, so that no key has to say it */

enum { VALUE_U32 = 4, VALUE_I32 = 5, VALUE_F32 = 6, VALUE_BOOL = 7, VALUE_STRING = 8, VALUE_ARRAY = 9 };

struct buffer {
    uint8_t *data;
    size_t size, capacity;
};

struct borrowed {
    const void *data;
    uint64_t bytes, offset;
};

struct gguf_writer {
    struct buffer kvs, infos;
    struct borrowed *tensors;
    uint64_t n_kvs, n_tensors;
    uint64_t data_bytes; /* of the data section so far, padded */
    bool failed;
    struct engine_error why; /* the first failure */
};

static uint64_t pad(uint64_t n)
{
    return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static void fail_writer(struct gguf_writer *writer, const char *what, const char *name)
{
    if (!writer->failed)
        engine_set_error(&writer->why, "%s: %s", what, name);
    writer->failed = true;
}

static void put(struct gguf_writer *writer, struct buffer *buffer, const void *data, size_t n)
{
    if (writer->failed || n == 0)
        return;
    if (buffer->capacity - buffer->size < n) {
        size_t capacity = (buffer->size + n) * 2;
        uint8_t *grown = realloc(buffer->data, capacity);
        if (grown == NULL) {
            fail_writer(writer, "no memory", "metadata");
            return;
        }
        buffer->data = grown;
        buffer->capacity = capacity;
    }
    memcpy(buffer->data + buffer->size, data, n);
    buffer->size += n;
}

static void put_u32(struct gguf_writer *writer, struct buffer *buffer, uint32_t value)
{
    put(writer, buffer, &value, sizeof(value));
}

static void put_u64(struct gguf_writer *writer, struct buffer *buffer, uint64_t value)
{
    put(writer, buffer, &value, sizeof(value));
}

static void put_string(struct gguf_writer *writer, struct buffer *buffer, const char *text)
{
    put_u64(writer, buffer, strlen(text));
    put(writer, buffer, text, strlen(text));
}

static void put_key(struct gguf_writer *writer, const char *key, uint32_t type)
{
    if (key[0] == '\0' || strlen(key) > 65535)
        fail_writer(writer, "not a GGUF key", key);
    put_string(writer, &writer->kvs, key);
    put_u32(writer, &writer->kvs, type);
    writer->n_kvs++;
}

static void put_array_key(struct gguf_writer *writer, const char *key, uint32_t element, uint64_t n)
{
    put_key(writer, key, VALUE_ARRAY);
    put_u32(writer, &writer->kvs, element);
    put_u64(writer, &writer->kvs, n);
}

int gguf_writer_open(struct gguf_writer **out, struct engine_error *err)
{
    struct gguf_writer *writer = calloc(1, sizeof(*writer));
    if (writer == NULL)
        return engine_fail(err, "no memory for a GGUF writer");
    *out = writer;
    return 0;
}

void gguf_writer_close(struct gguf_writer **out)
{
    struct gguf_writer *writer = *out;
    if (writer == NULL)
        return;
    free(writer->kvs.data);
    free(writer->infos.data);
    free(writer->tensors);
    free(writer);
    *out = NULL;
}

void gguf_add_u32(struct gguf_writer *writer, const char *key, uint32_t value)
{
    put_key(writer, key, VALUE_U32);
    put_u32(writer, &writer->kvs, value);
}

void gguf_add_f32(struct gguf_writer *writer, const char *key, float value)
{
    put_key(writer, key, VALUE_F32);
    put(writer, &writer->kvs, &value, sizeof(value));
}

void gguf_add_bool(struct gguf_writer *writer, const char *key, bool value)
{
    uint8_t byte = value;
    put_key(writer, key, VALUE_BOOL);
    put(writer, &writer->kvs, &byte, sizeof(byte));
}

void gguf_add_string(struct gguf_writer *writer, const char *key, const char *value)
{
    put_key(writer, key, VALUE_STRING);
    put_string(writer, &writer->kvs, value);
}

void gguf_add_strings(struct gguf_writer *writer, const char *key, const char *const *values, uint64_t n)
{
    put_array_key(writer, key, VALUE_STRING, n);
    for (uint64_t i = 0; i < n; i++)
        put_string(writer, &writer->kvs, values[i]);
}

void gguf_add_f32s(struct gguf_writer *writer, const char *key, const float *values, uint64_t n)
{
    put_array_key(writer, key, VALUE_F32, n);
    put(writer, &writer->kvs, values, n * sizeof(*values));
}

void gguf_add_i32s(struct gguf_writer *writer, const char *key, const int32_t *values, uint64_t n)
{
    put_array_key(writer, key, VALUE_I32, n);
    put(writer, &writer->kvs, values, n * sizeof(*values));
}

void gguf_add_tensor(struct gguf_writer *writer, const char *name, enum gguf_type type, uint32_t n_dims,
                     const uint64_t *dims, const void *data)
{
    uint64_t n = 1;
    bool fits = name[0] != '\0' && strlen(name) < 64 && n_dims >= 1 && n_dims <= 4;
    for (uint32_t i = 0; fits && i < n_dims; i++)
        fits = dims[i] > 0 && !__builtin_mul_overflow(n, dims[i], &n);
    if (!fits || gguf_type_bytes(type, dims[0]) == 0 || gguf_type_bytes(type, n) == 0) {
        fail_writer(writer, "tensor with a name, shape or type that GGUF cannot hold", name);
        return;
    }
    struct borrowed *grown = realloc(writer->tensors, (writer->n_tensors + 1) * sizeof(*grown));
    if (grown == NULL) {
        fail_writer(writer, "no memory for tensor", name);
        return;
    }
    writer->tensors = grown;
    grown[writer->n_tensors++] =
        (struct borrowed){.data = data, .bytes = gguf_type_bytes(type, n), .offset = writer->data_bytes};
    put_string(writer, &writer->infos, name);
    put_u32(writer, &writer->infos, n_dims);
    put(writer, &writer->infos, dims, n_dims * sizeof(*dims));
    put_u32(writer, &writer->infos, (uint32_t)type);
    put_u64(writer, &writer->infos, writer->data_bytes);
    writer->data_bytes += pad(gguf_type_bytes(type, n));
}

int gguf_writer_image(const struct gguf_writer *writer, uint8_t **image, size_t *size, struct engine_error *err)
{
    struct {
        char magic[4];
        uint32_t version;
        uint64_t n_tensors, n_kvs;
    } header = {"GGUF", 3, writer->n_tensors, writer->n_kvs};
    if (writer->failed) {
        *err = writer->why;
        return -1;
    }
    uint64_t data = pad(sizeof(header) + writer->kvs.size + writer->infos.size);
    uint64_t total = data + writer->data_bytes;
    uint8_t *out = calloc(1, total);
    if (out == NULL)
        return engine_fail(err, "no memory for a GGUF file of %llu bytes", (unsigned long long)total);
    uint8_t *at = out;
    memcpy(at, &header, sizeof(header));
    at += sizeof(header);
    if (writer->kvs.size > 0)
        memcpy(at, writer->kvs.data, writer->kvs.size);
    at += writer->kvs.size;
    if (writer->infos.size > 0)
        memcpy(at, writer->infos.data, writer->infos.size);
    for (uint64_t i = 0; i < writer->n_tensors; i++)
        memcpy(out + data + writer->tensors[i].offset, writer->tensors[i].data, writer->tensors[i].bytes);
    *image = out;
    *size = total;
    return 0;
}

/* A new file beside path, with the modes that the caller's umask leaves. -1: errno says why. */
static int open_beside(const char *path, char *temp, size_t temp_size)
{
    for (unsigned i = 0; i < 100; i++) {
        int n = snprintf(temp, temp_size, "%s.%ld-%u.tmp", path, (long)getpid(), i);
        if (n < 0 || (size_t)n >= temp_size) {
            errno = ENAMETOOLONG;
            return -1;
        }
        int fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0 || errno != EEXIST)
            return fd;
    }
    return -1;
}

/* Writes all and closes fd; 0 or the errno of what failed first. */
static int write_and_close(int fd, const uint8_t *data, size_t size)
{
    int why = 0;
    while (size > 0 && why == 0) {
        ssize_t n = write(fd, data, size);
        if (n < 0) {
            why = errno == EINTR ? 0 : errno;
            continue;
        }
        data += n;
        size -= (size_t)n;
    }
    if (why == 0 && fsync(fd) != 0)
        why = errno;
    if (close(fd) != 0 && why == 0)
        why = errno;
    return why;
}

int gguf_writer_save(const struct gguf_writer *writer, const char *path, struct engine_error *err)
{
    uint8_t *image;
    size_t size, temp_size = strlen(path) + 64;
    int rc = -1;
    struct engine_error reason;
    if (gguf_writer_image(writer, &image, &size, &reason) != 0)
        return engine_fail(err, "%s: %s", path, reason.text);
    char *temp = malloc(temp_size);
    if (temp == NULL) {
        engine_set_error(err, "%s: no memory", path);
        goto free_image;
    }
    int fd = open_beside(path, temp, temp_size);
    if (fd < 0) {
        engine_set_error(err, "%s: cannot create: %s", path, strerror(errno));
        goto free_temp;
    }
    int why = write_and_close(fd, image, size);
    if (why != 0) {
        engine_set_error(err, "%s: cannot write: %s", path, strerror(why));
        goto unlink_temp;
    }
    if (rename(temp, path) != 0) {
        engine_set_error(err, "%s: cannot rename %s to it: %s", path, temp, strerror(errno));
        goto unlink_temp;
    }
    rc = 0;
unlink_temp:
    if (rc != 0)
        unlink(temp);
free_temp:
    free(temp);
free_image:
    free(image);
    return rc;
}
