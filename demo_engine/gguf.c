/* SPDX-License-Identifier: Apache-2.0
 *
 * The GGUF reader. Everything in the file is a claim until it is checked: each count is held against the bytes that
 * are left before anything is allocated for it, so memory use stays within a small multiple of the file's size.
 *
 * The file is mapped, not copied. Cutting it short while it is open is the caller's doing and ends in SIGBUS, as with
 * any mapped file. */
#include "gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Numbers are read as they lie in the file. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF files are little-endian");

enum value_type { /* by the format's numbers */
                  VALUE_U8 = 0,
                  VALUE_I8,
                  VALUE_U16,
                  VALUE_I16,
                  VALUE_U32,
                  VALUE_I32,
                  VALUE_F32,
                  VALUE_BOOL,
                  VALUE_STRING,
                  VALUE_ARRAY,
                  VALUE_U64,
                  VALUE_I64,
                  VALUE_F64,
                  VALUE_TYPES
};

/* Bytes of one value; 0 where the length is in the value. */
static const uint8_t value_bytes[VALUE_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

#define MAX_KEY           65535 /* bytes, from the format's text */
#define MAX_NAME          63    /* bytes of a tensor's name: ggml's GGML_MAX_NAME with its terminator */
#define MIN_KV_BYTES      (8 + 1 + 4 + 1)
#define MIN_TENSOR_BYTES  (8 + 1 + 4 + 8 + 4 + 8)
#define MIN_ALIGNMENT     8
#define DEFAULT_ALIGNMENT 32

struct kv {
    struct gguf_string key;
    enum value_type type;
    enum value_type element;     /* arrays: the type of an element */
    uint64_t n;                  /* arrays: elements */
    const uint8_t *data;         /* scalars and arrays of scalars */
    struct gguf_string string;   /* strings */
    struct gguf_string *strings; /* arrays of strings: the place of each, owned */
};

struct named {
    struct gguf_tensor *tensor;
};

struct gguf {
    char *path;
    const uint8_t *map;
    size_t size;
    struct kv *kvs; /* sorted by key */
    uint64_t n_kvs;
    struct gguf_tensor *tensors; /* in the file's order */
    struct named *by_name;
    uint64_t n_tensors;
};

/* Where reading stands. */
struct cursor {
    const struct gguf *file;
    uint64_t at;
    struct engine_error *err;
};

void engine_set_error(struct engine_error *err, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(err->text, sizeof(err->text), format, args);
    va_end(args);
}

/* ------------------------------------------------------------------------------------------------ names in messages */

struct shown {
    char text[72];
};

/* A string of the file in a form that keeps a message on one line. */
static struct shown show(struct gguf_string string)
{
    struct shown shown;
    size_t max = sizeof(shown.text) - 4;
    size_t n = string.len < max ? string.len : max;
    for (size_t i = 0; i < n; i++) {
        char c = string.text[i];
        shown.text[i] = c >= ' ' && c <= '~' ? c : '?';
    }
    memcpy(shown.text + n, "...", 4);
    if (n == string.len)
        shown.text[n] = '\0';
    return shown;
}

static int compare_strings(struct gguf_string a, struct gguf_string b)
{
    size_t n = a.len < b.len ? a.len : b.len;
    int order = n == 0 ? 0 : memcmp(a.text, b.text, n);
    return order != 0 ? order : (a.len > b.len) - (a.len < b.len);
}

static struct gguf_string from_c(const char *text)
{
    return (struct gguf_string){.text = text, .len = strlen(text)};
}

/* ---------------------------------------------------------------------------------------------------- reading parts */

static int fail_truncated(const struct cursor *c, const char *what)
{
    return engine_fail(c->err, "%s: truncated: %s at byte %llu runs past the end of the file (%zu bytes)",
                       c->file->path, what, (unsigned long long)c->at, c->file->size);
}

static uint64_t left(const struct cursor *c)
{
    return c->file->size - c->at;
}

static int read_bytes(struct cursor *c, void *out, size_t n, const char *what)
{
    if (left(c) < n)
        return fail_truncated(c, what);
    memcpy(out, c->file->map + c->at, n);
    c->at += n;
    return 0;
}

static int read_string(struct cursor *c, struct gguf_string *out, const char *what)
{
    uint64_t len;
    if (read_bytes(c, &len, sizeof(len), what) != 0)
        return -1;
    if (len > left(c))
        return fail_truncated(c, what);
    *out = (struct gguf_string){.text = (const char *)c->file->map + c->at, .len = (size_t)len};
    c->at += len;
    return 0;
}

static int read_strings(struct cursor *c, struct kv *kv)
{
    if (kv->n > left(c) / sizeof(uint64_t))
        return fail_truncated(c, "an array of strings");
    kv->strings = calloc(kv->n ? kv->n : 1, sizeof(*kv->strings));
    if (kv->strings == NULL)
        return engine_fail(c->err, "%s: no memory for %llu strings", c->file->path, (unsigned long long)kv->n);
    for (uint64_t i = 0; i < kv->n; i++)
        if (read_string(c, &kv->strings[i], "a string of an array") != 0)
            return -1;
    return 0;
}

static int check_value_type(const struct cursor *c, const struct kv *kv, uint32_t type)
{
    if (type < VALUE_TYPES)
        return 0;
    return engine_fail(c->err, "%s: key %s has the unknown value type %u", c->file->path, show(kv->key).text, type);
}

static int read_array(struct cursor *c, struct kv *kv)
{
    uint32_t element;
    if (read_bytes(c, &element, sizeof(element), "an array's type") != 0 || check_value_type(c, kv, element) != 0 ||
        read_bytes(c, &kv->n, sizeof(kv->n), "an array's length") != 0)
        return -1;
    kv->element = (enum value_type)element;
    if (kv->element == VALUE_ARRAY)
        return engine_fail(c->err, "%s: key %s is an array of arrays, which is not supported", c->file->path,
                           show(kv->key).text);
    if (kv->element == VALUE_STRING)
        return read_strings(c, kv);
    if (kv->n > left(c) / value_bytes[kv->element])
        return fail_truncated(c, "an array");
    kv->data = c->file->map + c->at;
    c->at += kv->n * value_bytes[kv->element];
    return 0;
}

static int read_kv(struct cursor *c, struct kv *kv)
{
    uint32_t type;
    if (read_string(c, &kv->key, "a key") != 0)
        return -1;
    if (kv->key.len == 0 || kv->key.len > MAX_KEY || memchr(kv->key.text, '\0', kv->key.len) != NULL)
        return engine_fail(c->err, "%s: a key of %zu bytes is empty, too long or has a NUL in it", c->file->path,
                           kv->key.len);
    if (read_bytes(c, &type, sizeof(type), "a value's type") != 0 || check_value_type(c, kv, type) != 0)
        return -1;
    kv->type = (enum value_type)type;
    if (kv->type == VALUE_ARRAY)
        return read_array(c, kv);
    if (kv->type == VALUE_STRING)
        return read_string(c, &kv->string, "a string");
    if (left(c) < value_bytes[kv->type])
        return fail_truncated(c, "a value");
    kv->data = c->file->map + c->at;
    c->at += value_bytes[kv->type];
    if (kv->type == VALUE_BOOL && *kv->data > 1)
        return engine_fail(c->err, "%s: key %s is a bool with the value %u", c->file->path, show(kv->key).text,
                           *kv->data);
    return 0;
}

static int read_tensor(struct cursor *c, struct gguf_tensor *tensor, uint64_t *offset)
{
    if (read_string(c, &tensor->name, "a tensor's name") != 0)
        return -1;
    if (tensor->name.len == 0 || tensor->name.len > MAX_NAME ||
        memchr(tensor->name.text, '\0', tensor->name.len) != NULL)
        return engine_fail(c->err, "%s: a tensor's name of %zu bytes is empty, too long or has a NUL in it",
                           c->file->path, tensor->name.len);
    struct shown name = show(tensor->name);
    if (read_bytes(c, &tensor->n_dims, sizeof(tensor->n_dims), "a tensor's number of dimensions") != 0)
        return -1;
    if (tensor->n_dims < 1 || tensor->n_dims > 4)
        return engine_fail(c->err, "%s: tensor %s has %u dimensions, not 1 to 4", c->file->path, name.text,
                           tensor->n_dims);
    uint64_t n = 1;
    for (uint32_t i = 0; i < 4; i++) {
        tensor->dims[i] = 1;
        if (i < tensor->n_dims && read_bytes(c, &tensor->dims[i], sizeof(uint64_t), "a tensor's dimensions") != 0)
            return -1;
        if (tensor->dims[i] == 0 || __builtin_mul_overflow(n, tensor->dims[i], &n))
            return engine_fail(c->err, "%s: tensor %s has an impossible dimension (%llu)", c->file->path, name.text,
                               (unsigned long long)tensor->dims[i]);
    }
    uint32_t type;
    if (read_bytes(c, &type, sizeof(type), "a tensor's type") != 0 ||
        read_bytes(c, offset, sizeof(*offset), "a tensor's offset") != 0)
        return -1;
    tensor->type = (enum gguf_type)type;
    const char *type_name = gguf_type_name(tensor->type);
    if (type_name == NULL)
        return engine_fail(c->err, "%s: tensor %s has type %u; only F32, F16, BF16 and Q8_0 are supported",
                           c->file->path, name.text, type);
    if (gguf_type_bytes(tensor->type, tensor->dims[0]) == 0 || (tensor->bytes = gguf_type_bytes(tensor->type, n)) == 0)
        return engine_fail(c->err, "%s: tensor %s: rows of %llu elements do not fit type %s", c->file->path, name.text,
                           (unsigned long long)tensor->dims[0], type_name);
    return 0;
}

/* --------------------------------------------------------------------------------------------------- the whole file */

static int read_header(struct cursor *c, uint64_t *n_tensors, uint64_t *n_kvs)
{
    char magic[4];
    uint32_t version;
    const char *path = c->file->path;
    if (read_bytes(c, magic, sizeof(magic), "the header") != 0)
        return -1;
    if (memcmp(magic, "GGUF", 4) != 0)
        return engine_fail(c->err, "%s: not a GGUF file%s", path,
                           memcmp(magic, "FUGG", 4) == 0 ? " of this byte order (it is big-endian)" : "");
    if (read_bytes(c, &version, sizeof(version), "the header") != 0)
        return -1;
    if (version != 0 && (version & 0xffff) == 0)
        return engine_fail(c->err, "%s: a big-endian GGUF file (version %u), which is not supported", path,
                           __builtin_bswap32(version));
    if (version != 2 && version != 3)
        return engine_fail(c->err, "%s: GGUF version %u is not supported (2 and 3 are)", path, version);
    if (read_bytes(c, n_tensors, sizeof(*n_tensors), "the header") != 0 ||
        read_bytes(c, n_kvs, sizeof(*n_kvs), "the header") != 0)
        return -1;
    if (*n_kvs > left(c) / MIN_KV_BYTES)
        return engine_fail(c->err, "%s: truncated: %llu keys cannot stand in %llu bytes", path,
                           (unsigned long long)*n_kvs, (unsigned long long)left(c));
    return 0;
}

static int compare_kvs(const void *a, const void *b)
{
    return compare_strings(((const struct kv *)a)->key, ((const struct kv *)b)->key);
}

static int read_kvs(struct cursor *c, struct gguf *file, uint64_t n)
{
    file->kvs = calloc(n ? n : 1, sizeof(*file->kvs));
    if (file->kvs == NULL)
        return engine_fail(c->err, "%s: no memory for %llu keys", file->path, (unsigned long long)n);
    for (file->n_kvs = 0; file->n_kvs < n;) {
        struct kv *kv = &file->kvs[file->n_kvs++]; /* counted first: close frees what a failed read left */
        if (read_kv(c, kv) != 0)
            return -1;
    }
    qsort(file->kvs, n, sizeof(*file->kvs), compare_kvs);
    for (uint64_t i = 1; i < n; i++)
        if (compare_kvs(&file->kvs[i - 1], &file->kvs[i]) == 0)
            return engine_fail(c->err, "%s: key %s comes twice", file->path, show(file->kvs[i].key).text);
    return 0;
}

static int compare_names(const void *a, const void *b)
{
    return compare_strings(((const struct named *)a)->tensor->name, ((const struct named *)b)->tensor->name);
}

static int compare_places(const void *a, const void *b)
{
    const uint8_t *x = ((const struct named *)a)->tensor->data, *y = ((const struct named *)b)->tensor->data;
    return (x > y) - (x < y);
}

static int check_alignment(const struct cursor *c, uint32_t *alignment)
{
    *alignment = DEFAULT_ALIGNMENT;
    if (gguf_has(c->file, "general.alignment") && !gguf_u32(c->file, "general.alignment", alignment))
        return engine_fail(c->err, "%s: general.alignment is no integer", c->file->path);
    if (*alignment < MIN_ALIGNMENT || (*alignment & (*alignment - 1)) != 0)
        return engine_fail(c->err, "%s: general.alignment is %u, not a power of two of at least %d", c->file->path,
                           *alignment, MIN_ALIGNMENT);
    return 0;
}

/* Turns offsets in the data section into pointers. */
static int place_tensors(const struct cursor *c, struct gguf *file, const uint64_t *offsets)
{
    uint32_t alignment;
    if (check_alignment(c, &alignment) != 0)
        return -1;
    uint64_t start = (c->at + alignment - 1) / alignment * alignment;
    for (uint64_t i = 0; i < file->n_tensors; i++) {
        struct gguf_tensor *tensor = &file->tensors[i];
        uint64_t first, end;
        if (offsets[i] % alignment != 0)
            return engine_fail(c->err, "%s: tensor %s: its offset %llu is no multiple of the alignment %u", file->path,
                               show(tensor->name).text, (unsigned long long)offsets[i], alignment);
        if (__builtin_add_overflow(start, offsets[i], &first) || __builtin_add_overflow(first, tensor->bytes, &end))
            end = UINT64_MAX;
        if (end > file->size)
            return engine_fail(c->err, "%s: truncated: tensor %s ends at byte %llu of %zu", file->path,
                               show(tensor->name).text, (unsigned long long)end, file->size);
        tensor->data = file->map + first;
    }
    return 0;
}

static int check_tensors(const struct cursor *c, struct gguf *file)
{
    struct named *sorted = file->by_name;
    uint64_t n = file->n_tensors;
    qsort(sorted, n, sizeof(*sorted), compare_places);
    for (uint64_t i = 1; i < n; i++) {
        const struct gguf_tensor *a = sorted[i - 1].tensor, *b = sorted[i].tensor;
        if ((const uint8_t *)a->data + a->bytes > (const uint8_t *)b->data)
            return engine_fail(c->err, "%s: tensors %s and %s overlap", file->path, show(a->name).text,
                               show(b->name).text);
    }
    qsort(sorted, n, sizeof(*sorted), compare_names);
    for (uint64_t i = 1; i < n; i++)
        if (compare_names(&sorted[i - 1], &sorted[i]) == 0)
            return engine_fail(c->err, "%s: tensor %s comes twice", file->path, show(sorted[i].tensor->name).text);
    return 0;
}

static int read_tensors(struct cursor *c, struct gguf *file, uint64_t n)
{
    int rc = -1;
    if (n > left(c) / MIN_TENSOR_BYTES)
        return engine_fail(c->err, "%s: truncated: %llu tensors cannot stand in %llu bytes", file->path,
                           (unsigned long long)n, (unsigned long long)left(c));
    uint64_t *offsets = calloc(n ? n : 1, sizeof(*offsets));
    file->tensors = calloc(n ? n : 1, sizeof(*file->tensors));
    file->by_name = calloc(n ? n : 1, sizeof(*file->by_name));
    if (offsets == NULL || file->tensors == NULL || file->by_name == NULL) {
        engine_set_error(c->err, "%s: no memory for %llu tensors", file->path, (unsigned long long)n);
        goto free_offsets;
    }
    file->n_tensors = n;
    for (uint64_t i = 0; i < n; i++) {
        file->by_name[i].tensor = &file->tensors[i];
        if (read_tensor(c, &file->tensors[i], &offsets[i]) != 0)
            goto free_offsets;
    }
    if (place_tensors(c, file, offsets) == 0)
        rc = check_tensors(c, file);
free_offsets:
    free(offsets);
    return rc;
}

static int map_file(struct gguf *file, const char *path, struct engine_error *err)
{
    struct stat st;
    int rc = -1;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not block here */
    if (fd < 0)
        return engine_fail(err, "%s: cannot open: %s", path, strerror(errno));
    if (fstat(fd, &st) != 0) {
        engine_set_error(err, "%s: cannot stat: %s", path, strerror(errno));
        goto close_fd;
    }
    if (!S_ISREG(st.st_mode)) {
        engine_set_error(err, "%s: not a regular file", path);
        goto close_fd;
    }
    if (st.st_size == 0) {
        engine_set_error(err, "%s: the file is empty", path);
        goto close_fd;
    }
    void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED) {
        engine_set_error(err, "%s: cannot map: %s", path, strerror(errno));
        goto close_fd;
    }
    file->map = map;
    file->size = (size_t)st.st_size;
    rc = 0;
close_fd:
    close(fd);
    return rc;
}

int gguf_open(const char *path, struct gguf **out, struct engine_error *err)
{
    uint64_t n_tensors, n_kvs;
    struct gguf *file = calloc(1, sizeof(*file));
    if (file == NULL || (file->path = strdup(path)) == NULL) {
        free(file);
        return engine_fail(err, "%s: no memory", path);
    }
    struct cursor c = {.file = file, .err = err};
    if (map_file(file, path, err) != 0 || read_header(&c, &n_tensors, &n_kvs) != 0 || read_kvs(&c, file, n_kvs) != 0 ||
        read_tensors(&c, file, n_tensors) != 0) {
        gguf_close(&file);
        return -1;
    }
    *out = file;
    return 0;
}

void gguf_close(struct gguf **out)
{
    struct gguf *file = *out;
    if (file == NULL)
        return;
    for (uint64_t i = 0; i < file->n_kvs; i++)
        free(file->kvs[i].strings);
    free(file->kvs);
    free(file->by_name);
    free(file->tensors);
    if (file->map != NULL)
        munmap((void *)file->map, file->size);
    free(file->path);
    free(file);
    *out = NULL;
}

/* -------------------------------------------------------------------------------------------------- tensors by name */

const char *gguf_path(const struct gguf *file)
{
    return file->path;
}

const struct gguf_tensor *gguf_tensor(const struct gguf *file, const char *name)
{
    struct gguf_tensor wanted = {.name = from_c(name)};
    struct named key = {&wanted};
    const struct named *found = bsearch(&key, file->by_name, file->n_tensors, sizeof(key), compare_names);
    return found != NULL ? found->tensor : NULL;
}

uint64_t gguf_n_tensors(const struct gguf *file)
{
    return file->n_tensors;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *file, uint64_t i)
{
    return &file->tensors[i];
}

static const struct {
    const char *name;
    uint8_t block, bytes; /* elements of a block and their bytes */
} tensor_types[] = {[GGUF_F32] = {"F32", 1, 4},
                    [GGUF_F16] = {"F16", 1, 2},
                    [GGUF_Q8_0] = {"Q8_0", 32, 34},
                    [GGUF_BF16] = {"BF16", 1, 2}};

const char *gguf_type_name(enum gguf_type type)
{
    size_t i = (size_t)type;
    return i < sizeof(tensor_types) / sizeof(tensor_types[0]) ? tensor_types[i].name : NULL;
}

uint64_t gguf_type_bytes(enum gguf_type type, uint64_t n)
{
    uint64_t bytes;
    if (gguf_type_name(type) == NULL || n % tensor_types[type].block != 0 ||
        __builtin_mul_overflow(n / tensor_types[type].block, (uint64_t)tensor_types[type].bytes, &bytes))
        return 0;
    return bytes;
}

/* --------------------------------------------------------------------------------------------------------- metadata */

/* The key's entry if it is there with this type (VALUE_TYPES: with any). */
static const struct kv *find(const struct gguf *file, const char *key, enum value_type type)
{
    struct kv wanted = {.key = from_c(key)};
    const struct kv *kv = bsearch(&wanted, file->kvs, file->n_kvs, sizeof(wanted), compare_kvs);
    return kv != NULL && (type == VALUE_TYPES || kv->type == type) ? kv : NULL;
}

bool gguf_has(const struct gguf *file, const char *key)
{
    return find(file, key, VALUE_TYPES) != NULL;
}

bool gguf_u32(const struct gguf *file, const char *key, uint32_t *value)
{
    const struct kv *kv = find(file, key, VALUE_TYPES);
    if (kv == NULL)
        return false;
    bool is_signed = kv->type == VALUE_I8 || kv->type == VALUE_I16 || kv->type == VALUE_I32 || kv->type == VALUE_I64;
    bool is_unsigned = kv->type == VALUE_U8 || kv->type == VALUE_U16 || kv->type == VALUE_U32 || kv->type == VALUE_U64;
    if (!is_signed && !is_unsigned)
        return false;
    uint64_t wide = 0;
    size_t bytes = value_bytes[kv->type];
    memcpy(&wide, kv->data, bytes);
    if (wide > UINT32_MAX || (is_signed && (wide >> (bytes * 8 - 1)) != 0))
        return false; /* too large, or negative */
    *value = (uint32_t)wide;
    return true;
}

bool gguf_f32(const struct gguf *file, const char *key, float *value)
{
    double wide;
    const struct kv *kv = find(file, key, VALUE_F32);
    if (kv != NULL) {
        memcpy(value, kv->data, sizeof(*value));
        return true;
    }
    kv = find(file, key, VALUE_F64);
    if (kv == NULL)
        return false;
    memcpy(&wide, kv->data, sizeof(wide));
    if (wide > (double)FLT_MAX || wide < -(double)FLT_MAX)
        return false;
    *value = (float)wide;
    return true;
}

bool gguf_bool(const struct gguf *file, const char *key, bool *value)
{
    const struct kv *kv = find(file, key, VALUE_BOOL);
    if (kv == NULL)
        return false;
    *value = *kv->data != 0;
    return true;
}

bool gguf_string(const struct gguf *file, const char *key, struct gguf_string *value)
{
    const struct kv *kv = find(file, key, VALUE_STRING);
    if (kv == NULL)
        return false;
    *value = kv->string;
    return true;
}

bool gguf_strings(const struct gguf *file, const char *key, uint64_t *n)
{
    const struct kv *kv = find(file, key, VALUE_ARRAY);
    if (kv == NULL || kv->element != VALUE_STRING)
        return false;
    *n = kv->n;
    return true;
}

struct gguf_string gguf_strings_at(const struct gguf *file, const char *key, uint64_t i)
{
    return find(file, key, VALUE_ARRAY)->strings[i];
}

bool gguf_f32s(const struct gguf *file, const char *key, const void **data, uint64_t *n)
{
    const struct kv *kv = find(file, key, VALUE_ARRAY);
    if (kv == NULL || kv->element != VALUE_F32)
        return false;
    *data = kv->data;
    *n = kv->n;
    return true;
}

bool gguf_i32s(const struct gguf *file, const char *key, const void **data, uint64_t *n)
{
    const struct kv *kv = find(file, key, VALUE_ARRAY);
    if (kv == NULL || (kv->element != VALUE_I32 && kv->element != VALUE_U32))
        return false;
    *data = kv->data;
    *n = kv->n;
    return true;
}
