/* SPDX-License-Identifier: Apache-2.0
 *
 * GGUF files: what the writer wrote is read back; what is malformed in any way is refused with one line that names the
 * file, and never read outside its bounds. */
#include "gguf.h"

#include <float.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "format_support.h"
#include "gguf_write.h"
#include "tokenizer.h"

/* ---------------------------------------------------------------------------------------------------- a valid file */

static const float sample_floats[64] = {1.5F, -2, 3};
static const uint16_t sample_halves[4 * 3 * 2] = {0x3c00, 0x4000};
static uint8_t sample_blocks[2 * 34];

/* Every type of value and of tensor; a vocabulary that a tokenizer accepts. */
static void make_sample(struct gguf_writer **writer)
{
    struct engine_error err;
    static const char *const texts[] = {"<unk>", "<s>", "</s>", "a", "b", "ab"};
    static const int32_t types[] = {2, 3, 3, 1, 1, 1};
    static const float scores[] = {0, 0, 0, -1, -2, -0.5F};
    memset(sample_blocks, 7, sizeof(sample_blocks));
    ck_assert_int_eq(gguf_writer_open(writer, &err), 0);
    gguf_add_string(*writer, "general.architecture", "llama");
    gguf_add_u32(*writer, "llama.block_count", 5);
    gguf_add_f32(*writer, "llama.rope.freq_base", 10000);
    gguf_add_bool(*writer, "tokenizer.ggml.add_bos_token", true);
    gguf_add_bool(*writer, "no", false);
    gguf_add_string(*writer, "empty", "");
    gguf_add_string(*writer, "tokenizer.ggml.model", "llama");
    gguf_add_strings(*writer, "tokenizer.ggml.tokens", texts, 6);
    gguf_add_i32s(*writer, "tokenizer.ggml.token_type", types, 6);
    gguf_add_f32s(*writer, "tokenizer.ggml.scores", scores, 6);
    gguf_add_tensor(*writer, "floats", GGUF_F32, 1, (uint64_t[]){63}, sample_floats);
    gguf_add_tensor(*writer, "halves", GGUF_F16, 4, (uint64_t[]){4, 3, 2, 1}, sample_halves);
    gguf_add_tensor(*writer, "blocks", GGUF_Q8_0, 2, (uint64_t[]){32, 2}, sample_blocks);
    gguf_add_tensor(*writer, "brains", GGUF_BF16, 3, (uint64_t[]){2, 3, 4}, sample_halves);
}

static void sample_image(uint8_t **image, size_t *size)
{
    struct gguf_writer *writer;
    struct engine_error err;
    make_sample(&writer);
    ck_assert_int_eq(gguf_writer_image(writer, image, size, &err), 0);
    gguf_writer_close(&writer);
    ck_assert_ptr_null(writer);
}

static bool equals(struct gguf_string string, const char *text)
{
    return string.len == strlen(text) && memcmp(string.text, text, string.len) == 0;
}

START_TEST(what_was_written_is_read_back)
{
    struct gguf_writer *writer;
    struct gguf *file;
    struct engine_error err;
    make_sample(&writer);
    ck_assert_int_eq(gguf_writer_save(writer, format_path("sample"), &err), 0);
    gguf_writer_close(&writer);
    ck_assert_msg(gguf_open(format_path("sample"), &file, &err) == 0, "%s", err.text);
    ck_assert_str_eq(gguf_path(file), format_path("sample"));

    uint32_t u32;
    float f32;
    bool flag;
    struct gguf_string string;
    const void *data;
    uint64_t n;
    ck_assert(gguf_u32(file, "llama.block_count", &u32) && u32 == 5);
    ck_assert(gguf_f32(file, "llama.rope.freq_base", &f32) && f32 == 10000);
    ck_assert(gguf_bool(file, "tokenizer.ggml.add_bos_token", &flag) && flag);
    ck_assert(gguf_bool(file, "no", &flag) && !flag);
    ck_assert(gguf_string(file, "general.architecture", &string) && equals(string, "llama"));
    ck_assert(gguf_string(file, "empty", &string) && equals(string, ""));
    ck_assert(gguf_strings(file, "tokenizer.ggml.tokens", &n) && n == 6);
    ck_assert(equals(gguf_strings_at(file, "tokenizer.ggml.tokens", 5), "ab"));
    ck_assert(gguf_f32s(file, "tokenizer.ggml.scores", &data, &n) && n == 6);
    memcpy(&f32, (const char *)data + 16, 4);
    ck_assert(f32 == -2);
    ck_assert(gguf_i32s(file, "tokenizer.ggml.token_type", &data, &n) && n == 6);

    /* the wrong type or no such key: false, and the value untouched */
    u32 = 77;
    ck_assert(!gguf_u32(file, "llama.rope.freq_base", &u32) && !gguf_u32(file, "llama.block", &u32) && u32 == 77);
    ck_assert(!gguf_f32(file, "llama.block_count", &f32) && !gguf_bool(file, "llama.block_count", &flag));
    ck_assert(!gguf_string(file, "no", &string) && !gguf_strings(file, "tokenizer.ggml.scores", &n));
    ck_assert(!gguf_f32s(file, "tokenizer.ggml.token_type", &data, &n));
    ck_assert(!gguf_i32s(file, "tokenizer.ggml.scores", &data, &n));
    ck_assert(gguf_has(file, "no") && !gguf_has(file, "nothing"));

    ck_assert_uint_eq(gguf_n_tensors(file), 4);
    const struct gguf_tensor *halves = gguf_tensor(file, "halves");
    ck_assert_ptr_eq(halves, gguf_tensor_at(file, 1));
    ck_assert(halves->type == GGUF_F16 && halves->n_dims == 4 && halves->bytes == 48);
    ck_assert(halves->dims[0] == 4 && halves->dims[1] == 3 && halves->dims[2] == 2 && halves->dims[3] == 1);
    ck_assert_mem_eq(halves->data, sample_halves, 48);
    const struct gguf_tensor *floats = gguf_tensor(file, "floats");
    ck_assert(floats->dims[0] == 63 && floats->dims[1] == 1 && floats->bytes == 252);
    ck_assert_mem_eq(floats->data, sample_floats, 252);
    ck_assert_mem_eq(gguf_tensor(file, "blocks")->data, sample_blocks, sizeof(sample_blocks));
    ck_assert(gguf_tensor(file, "brains")->type == GGUF_BF16);
    ck_assert_ptr_null(gguf_tensor(file, "halve"));
    ck_assert_ptr_null(gguf_tensor(file, ""));
    for (uint64_t i = 0; i < 4; i++)
        ck_assert_uint_eq((uintptr_t)gguf_tensor_at(file, i)->data % 32, 0);
    gguf_close(&file);
    ck_assert_ptr_null(file);
    gguf_close(&file);
}
END_TEST

START_TEST(bytes_of_types)
{
    ck_assert_uint_eq(gguf_type_bytes(GGUF_F32, 3), 12);
    ck_assert_uint_eq(gguf_type_bytes(GGUF_F16, 3), 6);
    ck_assert_uint_eq(gguf_type_bytes(GGUF_BF16, 3), 6);
    ck_assert_uint_eq(gguf_type_bytes(GGUF_Q8_0, 64), 68);
    ck_assert_uint_eq(gguf_type_bytes(GGUF_Q8_0, 33), 0);
    ck_assert_uint_eq(gguf_type_bytes(GGUF_F32, UINT64_MAX / 2), 0);
    ck_assert_uint_eq(gguf_type_bytes((enum gguf_type)2, 32), 0);
    ck_assert_str_eq(gguf_type_name(GGUF_Q8_0), "Q8_0");
    ck_assert_ptr_null(gguf_type_name((enum gguf_type)2));
    ck_assert_ptr_null(gguf_type_name((enum gguf_type)31));
}
END_TEST

/* ------------------------------------------------------------------------------------------------ files by their bytes */

struct raw {
    uint8_t data[4096];
    size_t size;
};

static void raw_bytes(struct raw *raw, const void *data, size_t n)
{
    ck_assert_uint_le(raw->size + n, sizeof(raw->data));
    memcpy(raw->data + raw->size, data, n);
    raw->size += n;
}

static void raw_u32(struct raw *raw, uint32_t value)
{
    raw_bytes(raw, &value, sizeof(value));
}

static void raw_u64(struct raw *raw, uint64_t value)
{
    raw_bytes(raw, &value, sizeof(value));
}

static void raw_string(struct raw *raw, const char *text)
{
    raw_u64(raw, strlen(text));
    raw_bytes(raw, text, strlen(text));
}

static void raw_header(struct raw *raw, uint32_t version, uint64_t n_tensors, uint64_t n_kvs)
{
    raw->size = 0;
    raw_bytes(raw, "GGUF", 4);
    raw_u32(raw, version);
    raw_u64(raw, n_tensors);
    raw_u64(raw, n_kvs);
}

/* A key and a scalar of `n` bytes. */
static void raw_kv(struct raw *raw, const char *key, uint32_t type, const void *value, size_t n)
{
    raw_string(raw, key);
    raw_u32(raw, type);
    raw_bytes(raw, value, n);
}

static void raw_tensor(struct raw *raw, const char *name, uint32_t n_dims, uint64_t dim, uint32_t type, uint64_t offset)
{
    raw_string(raw, name);
    raw_u32(raw, n_dims);
    for (uint32_t i = 0; i < n_dims; i++)
        raw_u64(raw, dim);
    raw_u32(raw, type);
    raw_u64(raw, offset);
}

/* Zeros up to a multiple of 32, then n of them. */
static void raw_data(struct raw *raw, size_t n)
{
    static const uint8_t zeros[1024];
    raw_bytes(raw, zeros, (32 - raw->size % 32) % 32 + n);
}

static int open_raw(const struct raw *raw, struct gguf **file, struct engine_error *err)
{
    const char *path = format_path("raw");
    format_write_file(path, raw->data, raw->size);
    return gguf_open(path, file, err);
}

static void assert_refused(const struct raw *raw, const char *reason)
{
    struct gguf *file = (struct gguf *)8; /* must stay */
    struct engine_error err = {{0}};
    ck_assert_msg(open_raw(raw, &file, &err) == -1, "accepted, though: %s", reason);
    ck_assert_ptr_eq(file, (struct gguf *)8);
    format_assert_error(&err, format_path("raw"));
    ck_assert_msg(strstr(err.text, reason) != NULL, "\"%s\" does not say \"%s\"", err.text, reason);
}

START_TEST(version_2_and_all_number_types_are_read)
{
    struct raw raw;
    struct gguf *file;
    struct engine_error err;
    uint32_t u32;
    float f32;
    raw_header(&raw, 2, 0, 15);
    raw_kv(&raw, "u8", 0, (uint8_t[]){200}, 1);
    raw_kv(&raw, "i8", 1, (int8_t[]){100}, 1);
    raw_kv(&raw, "i8-", 1, (int8_t[]){-1}, 1);
    raw_kv(&raw, "u16", 2, (uint16_t[]){60000}, 2);
    raw_kv(&raw, "i16", 3, (int16_t[]){30000}, 2);
    raw_kv(&raw, "i16-", 3, (int16_t[]){-30000}, 2);
    raw_kv(&raw, "u32", 4, (uint32_t[]){UINT32_MAX}, 4);
    raw_kv(&raw, "i32-", 5, (int32_t[]){-5}, 4);
    raw_kv(&raw, "u64", 10, (uint64_t[]){70000}, 8);
    raw_kv(&raw, "u64+", 10, (uint64_t[]){UINT32_MAX + 1ULL}, 8);
    raw_kv(&raw, "i64", 11, (int64_t[]){80000}, 8);
    raw_kv(&raw, "i64-", 11, (int64_t[]){-1}, 8);
    raw_kv(&raw, "f64", 12, (double[]){0.25}, 8);
    raw_kv(&raw, "f64+", 12, (double[]){DBL_MAX}, 8);
    raw_kv(&raw, "bool", 7, (uint8_t[]){1}, 1);
    ck_assert_msg(open_raw(&raw, &file, &err) == 0, "%s", err.text);
    ck_assert(gguf_u32(file, "u8", &u32) && u32 == 200);
    ck_assert(gguf_u32(file, "i8", &u32) && u32 == 100);
    ck_assert(gguf_u32(file, "u16", &u32) && u32 == 60000);
    ck_assert(gguf_u32(file, "i16", &u32) && u32 == 30000);
    ck_assert(gguf_u32(file, "u32", &u32) && u32 == UINT32_MAX);
    ck_assert(gguf_u32(file, "u64", &u32) && u32 == 70000);
    ck_assert(gguf_u32(file, "i64", &u32) && u32 == 80000);
    ck_assert(!gguf_u32(file, "i8-", &u32) && !gguf_u32(file, "i16-", &u32) && !gguf_u32(file, "i32-", &u32));
    ck_assert(!gguf_u32(file, "i64-", &u32) && !gguf_u32(file, "u64+", &u32) && !gguf_u32(file, "bool", &u32));
    ck_assert(gguf_f32(file, "f64", &f32) && f32 == 0.25F);
    ck_assert(!gguf_f32(file, "f64+", &f32));
    gguf_close(&file);
}
END_TEST

START_TEST(other_formats_are_named)
{
    struct raw raw;
    raw_header(&raw, 3, 0, 0);
    memcpy(raw.data, "GGML", 4);
    assert_refused(&raw, "not a GGUF file");
    memcpy(raw.data, "FUGG", 4);
    assert_refused(&raw, "big-endian");
    raw_header(&raw, __builtin_bswap32(3), 0, 0);
    assert_refused(&raw, "big-endian");
    raw_header(&raw, 1, 0, 0);
    assert_refused(&raw, "version 1 is not supported");
    raw_header(&raw, 4, 0, 0);
    assert_refused(&raw, "version 4 is not supported");
    raw.size = 0;
    assert_refused(&raw, "empty");
}
END_TEST

static void assert_unopenable(const char *path, const char *reason)
{
    struct gguf *file;
    struct engine_error err;
    ck_assert_int_eq(gguf_open(path, &file, &err), -1);
    format_assert_error(&err, path);
    ck_assert_msg(strstr(err.text, reason) != NULL, "\"%s\" does not say \"%s\"", err.text, reason);
}

START_TEST(what_is_no_file_is_refused)
{
    assert_unopenable(format_path("missing"), "No such file");
    assert_unopenable(format_dir, "not a regular file");
    ck_assert_int_eq(mkfifo(format_path("fifo"), 0600), 0);
    assert_unopenable(format_path("fifo"), "not a regular file"); /* and does not wait for a writer */
}
END_TEST

START_TEST(bad_keys_are_refused)
{
    struct raw raw;
    raw_header(&raw, 3, 0, UINT64_MAX);
    raw_data(&raw, 64);
    assert_refused(&raw, "truncated");
    raw_header(&raw, 3, 0, 2);
    raw_kv(&raw, "twice", 7, "\1", 1);
    raw_kv(&raw, "twice", 7, "\0", 1);
    assert_refused(&raw, "twice comes twice");
    raw_header(&raw, 3, 0, 1);
    raw_kv(&raw, "", 4, "\0\0\0\0\0", 5);
    assert_refused(&raw, "key of 0 bytes");
    raw_header(&raw, 3, 0, 1);
    raw_u64(&raw, 3);
    raw_bytes(&raw, "a\0b", 3);
    raw_u32(&raw, 4);
    raw_u32(&raw, 0);
    assert_refused(&raw, "NUL");
    raw_header(&raw, 3, 0, 1);
    raw_u64(&raw, UINT64_MAX - 8);
    raw_data(&raw, 64);
    assert_refused(&raw, "truncated");
    raw_header(&raw, 3, 0, 1);
    raw_kv(&raw, "line\nbreak", 13, "\0\0\0\0\0\0\0\0", 8);
    assert_refused(&raw, "line?break has the unknown value type 13");
    raw_header(&raw, 3, 0, 1);
    raw_kv(&raw, "truth", 7, "\2", 1);
    assert_refused(&raw, "truth is a bool with the value 2");
}
END_TEST

static void raw_array(struct raw *raw, uint32_t element, uint64_t n)
{
    raw_header(raw, 3, 0, 1);
    raw_kv(raw, "array", 9, &element, 4);
    raw_u64(raw, n);
    raw_data(raw, 64);
}

START_TEST(bad_arrays_are_refused)
{
    struct raw raw;
    for (uint32_t element = 0; element <= 12; element++) {
        raw_array(&raw, element, UINT64_MAX / 2 + 1); /* times 2, 4 or 8 it is 0 */
        assert_refused(&raw, element == 9 ? "array of arrays" : "truncated");
        raw_array(&raw, element, UINT64_MAX);
        assert_refused(&raw, element == 9 ? "array of arrays" : "truncated");
    }
    raw_array(&raw, 13, 1);
    assert_refused(&raw, "unknown value type 13");
    raw_array(&raw, 8, 12); /* in 64 to 95 bytes: room for 11 empty strings at most */
    assert_refused(&raw, "truncated");
}
END_TEST

/* A file with one tensor and 128 bytes of data. */
static void one_tensor(struct raw *raw, uint32_t n_dims, uint64_t dim, uint32_t type, uint64_t offset)
{
    raw_header(raw, 3, 1, 0);
    raw_tensor(raw, "t", n_dims, dim, type, offset);
    raw_data(raw, 128);
}

START_TEST(bad_tensors_are_refused)
{
    struct raw raw;
    raw_header(&raw, 3, UINT64_MAX, 0);
    raw_data(&raw, 64);
    assert_refused(&raw, "truncated");
    one_tensor(&raw, 0, 0, 0, 0);
    assert_refused(&raw, "0 dimensions");
    one_tensor(&raw, 5, 1, 0, 0);
    assert_refused(&raw, "5 dimensions");
    one_tensor(&raw, 1, 0, 0, 0);
    assert_refused(&raw, "impossible dimension");
    one_tensor(&raw, 2, 1ULL << 32, 0, 0);
    assert_refused(&raw, "impossible dimension");
    one_tensor(&raw, 1, 1ULL << 62, 0, 0); /* × 4 bytes = 2^64 */
    assert_refused(&raw, "do not fit");
    one_tensor(&raw, 1, 32, 2, 0);
    assert_refused(&raw, "type 2; only F32, F16, BF16 and Q8_0");
    one_tensor(&raw, 1, 32, UINT32_MAX, 0);
    assert_refused(&raw, "type 4294967295");
    one_tensor(&raw, 1, 33, GGUF_Q8_0, 0);
    assert_refused(&raw, "do not fit type Q8_0");
    one_tensor(&raw, 2, 16, GGUF_Q8_0, 0); /* 256 elements, but rows of 16 */
    assert_refused(&raw, "do not fit type Q8_0");
    one_tensor(&raw, 1, 33, 0, 0);
    assert_refused(&raw, "truncated");
    one_tensor(&raw, 1, 8, 0, 16);
    assert_refused(&raw, "no multiple of the alignment");
    one_tensor(&raw, 1, 8, 0, 128);
    assert_refused(&raw, "truncated");
    one_tensor(&raw, 1, 8, 0, UINT64_MAX - 31);
    assert_refused(&raw, "truncated");
    one_tensor(&raw, 1, 32, 0, 0);
    raw.data[24 + 8] = '\0';
    assert_refused(&raw, "NUL");
    raw_header(&raw, 3, 1, 0);
    raw_tensor(&raw, "a name of sixty-four bytes is one more than a tensor can have...", 1, 8, 0, 0);
    raw_data(&raw, 128);
    assert_refused(&raw, "name of 64 bytes");
}
END_TEST

START_TEST(tensors_that_clash_are_refused)
{
    struct raw raw;
    raw_header(&raw, 3, 2, 0);
    raw_tensor(&raw, "second", 1, 8, 0, 32);
    raw_tensor(&raw, "first", 1, 9, 0, 0);
    raw_data(&raw, 128);
    assert_refused(&raw, "tensors first and second overlap");
    raw_header(&raw, 3, 2, 0);
    raw_tensor(&raw, "same", 1, 8, 0, 32);
    raw_tensor(&raw, "same", 1, 8, 0, 0);
    raw_data(&raw, 128);
    assert_refused(&raw, "same comes twice");
}
END_TEST

static void aligned_tensor(struct raw *raw, uint32_t alignment)
{
    raw_header(raw, 3, 1, 1);
    raw_kv(raw, "general.alignment", 4, &alignment, 4);
    raw_tensor(raw, "t", 1, 8, 0, alignment);
    raw_data(raw, 512);
}

START_TEST(alignment_is_obeyed_and_checked)
{
    static const uint32_t bad[] = {0, 1, 4, 7, 24, 33, UINT32_MAX};
    struct raw raw;
    struct gguf *file;
    struct engine_error err;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        aligned_tensor(&raw, bad[i]);
        assert_refused(&raw, "general.alignment");
    }
    aligned_tensor(&raw, 1U << 31);
    assert_refused(&raw, "truncated");
    raw_header(&raw, 3, 0, 1);
    raw_kv(&raw, "general.alignment", 6, (float[]){32}, 4);
    assert_refused(&raw, "general.alignment is no integer");
    aligned_tensor(&raw, 64);
    size_t start = (size_t)((const uint8_t *)memmem(raw.data, raw.size, "t", 1) - raw.data);
    ck_assert_uint_lt(start, 128); /* so the data section begins at 128, the tensor at 192 */
    memcpy(raw.data + 192, (float[]){42}, 4);
    ck_assert_msg(open_raw(&raw, &file, &err) == 0, "%s", err.text);
    ck_assert(*(const float *)gguf_tensor(file, "t")->data == 42);
    gguf_close(&file);
}
END_TEST

/* ------------------------------------------------------------------------------------------------------ broken files */

/* Reads all that open accepted. Returns something that depends on every byte of it. */
static uint64_t read_everything(const struct gguf *file)
{
    uint64_t sum = 0, n = 0;
    const void *data;
    for (uint64_t i = 0; i < gguf_n_tensors(file); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(file, i);
        for (uint64_t k = 0; k < tensor->bytes; k++)
            sum += ((const uint8_t *)tensor->data)[k];
    }
    if (gguf_strings(file, "tokenizer.ggml.tokens", &n))
        for (uint64_t i = 0; i < n; i++) {
            struct gguf_string text = gguf_strings_at(file, "tokenizer.ggml.tokens", i);
            for (size_t k = 0; k < text.len; k++)
                sum += (uint8_t)text.text[k];
        }
    if (gguf_f32s(file, "tokenizer.ggml.scores", &data, &n))
        for (uint64_t i = 0; i < n * 4; i++)
            sum += ((const uint8_t *)data)[i];
    return sum;
}

/* Opens it as a model and as a vocabulary: works or is refused properly. Returns whether it works as a file. */
static bool survives(const char *path)
{
    struct gguf *file;
    struct tokenizer *tok;
    struct engine_error err;
    if (gguf_open(path, &file, &err) != 0) {
        format_assert_error(&err, path);
        return false;
    }
    static volatile uint64_t sink; /* so that the reads are made */
    sink = read_everything(file);
    (void)sink;
    if (tokenizer_open(file, &tok, &err) == 0) {
        engine_token *tokens;
        size_t n;
        FORMAT_ASSERT(tokenizer_encode(tok, "abba ab", 7, true, true, &tokens, &n, &err) == 0, "%s", err.text);
        FORMAT_ASSERT(n <= 3 * 7 + 3 + 1, "%zu tokens", n);
        for (size_t i = 0; i < n; i++)
            FORMAT_ASSERT((uint32_t)tokens[i] < tokenizer_n_vocab(tok), "token %d", tokens[i]);
        free(tokens);
        tokenizer_close(&tok);
    } else {
        format_assert_error(&err, path);
    }
    gguf_close(&file);
    return true;
}

START_TEST(every_truncation_is_refused)
{
    uint8_t *image;
    size_t size;
    sample_image(&image, &size);
    const char *path = format_path("cut");
    size_t needed = size - 16; /* the last tensor's 48 bytes are padded to 64 */
    for (size_t cut = 0; cut <= size; cut++) {
        format_write_file(path, image, cut);
        ck_assert_msg(survives(path) == (cut >= needed), "cut to %zu of %zu bytes", cut, size);
    }
    free(image);
}
END_TEST

static const uint64_t extremes[] = {0,          1,          2,         31,         32,         127,       128,
                                    255,        256,        INT32_MAX, 1ULL << 31, UINT32_MAX, INT64_MAX, 1ULL << 63,
                                    UINT64_MAX, 1ULL << 32, 1U << 30,  1ULL << 61, 1ULL << 62, 13};

/* Changes up to three places of the image. */
static void mutate(uint8_t *image, size_t size, uint64_t *seed)
{
    uint64_t n = 1 + format_random(seed) % 3;
    for (uint64_t i = 0; i < n; i++) {
        size_t at = format_random(seed) % size;
        uint64_t extreme = extremes[format_random(seed) % (sizeof(extremes) / sizeof(extremes[0]))];
        size_t width = format_random(seed) % 2 == 0 ? 4 : 8;
        switch (format_random(seed) % 4) {
        case 0:
            image[at] ^= (uint8_t)(1U << format_random(seed) % 8);
            break;
        case 1:
            image[at] = (uint8_t)format_random(seed);
            break;
        default:
            memcpy(image + at, &extreme, size - at < width ? size - at : width);
        }
    }
}

START_TEST(mutations_never_crash)
{
    uint8_t *image;
    size_t size;
    sample_image(&image, &size);
    uint8_t *mutated = malloc(size);
    ck_assert_ptr_nonnull(mutated);
    int fd = memfd_create("mutated", MFD_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    uint64_t seed = 1;
    uint32_t n = (uint32_t)scaled(40000), accepted = 0;
    size_t metadata = size - 512; /* about what is before the tensors' bytes, where nothing can be wrong */
    for (uint32_t i = 0; i < n; i++) {
        memcpy(mutated, image, size);
        mutate(mutated, metadata, &seed);
        FORMAT_ASSERT(pwrite(fd, mutated, size, 0) == (ssize_t)size, "cannot write");
        accepted += survives(path);
    }
    ck_assert_uint_gt(accepted, n / 100); /* both answers were seen */
    ck_assert_uint_lt(accepted, n * 9 / 10);
    close(fd);
    free(mutated);
    free(image);
}
END_TEST

/* ----------------------------------------------------------------------------------------------------------- writing */

static void assert_not_written(void (*add)(struct gguf_writer *), const char *reason)
{
    struct gguf_writer *writer;
    struct engine_error err;
    uint8_t *image;
    size_t size;
    int files = format_count_files();
    ck_assert_int_eq(gguf_writer_open(&writer, &err), 0);
    add(writer);
    ck_assert_int_eq(gguf_writer_image(writer, &image, &size, &err), -1);
    ck_assert_msg(strstr(err.text, reason) != NULL, "\"%s\" does not say \"%s\"", err.text, reason);
    ck_assert_int_eq(gguf_writer_save(writer, format_path("bad"), &err), -1);
    ck_assert_int_eq(format_count_files(), files);
    gguf_writer_close(&writer);
}

static void add_empty_key(struct gguf_writer *writer)
{
    gguf_add_u32(writer, "", 1);
}

static void add_partial_block(struct gguf_writer *writer)
{
    gguf_add_tensor(writer, "partial", GGUF_Q8_0, 1, (uint64_t[]){31}, sample_blocks);
}

static void add_no_dims(struct gguf_writer *writer)
{
    gguf_add_tensor(writer, "flat", GGUF_F32, 0, NULL, sample_blocks);
}

static void add_huge(struct gguf_writer *writer)
{
    gguf_add_tensor(writer, "huge", GGUF_F32, 2, (uint64_t[]){1ULL << 32, 1ULL << 32}, sample_blocks);
}

START_TEST(what_gguf_cannot_hold_is_not_written)
{
    assert_not_written(add_empty_key, "not a GGUF key");
    assert_not_written(add_partial_block, "partial");
    assert_not_written(add_no_dims, "flat");
    assert_not_written(add_huge, "huge");
}
END_TEST

START_TEST(a_failed_save_leaves_nothing)
{
    struct gguf_writer *writer;
    struct engine_error err;
    make_sample(&writer);
    ck_assert_int_eq(mkdir(format_path("taken"), 0700), 0);
    int files = format_count_files();
    ck_assert_int_eq(gguf_writer_save(writer, format_path("taken"), &err), -1); /* renaming over a directory */
    format_assert_error(&err, format_path("taken"));
    ck_assert_int_eq(gguf_writer_save(writer, format_path("no/such"), &err), -1);
    format_assert_error(&err, format_path("no/such"));
    ck_assert_int_eq(gguf_writer_save(writer, "", &err), -1);
    ck_assert_int_eq(format_count_files(), files);
    ck_assert_int_eq(rmdir(format_path("taken")), 0);
    gguf_writer_close(&writer);
}
END_TEST

START_TEST(a_save_replaces_and_obeys_the_umask)
{
    struct gguf_writer *writer;
    struct engine_error err;
    struct stat st;
    make_sample(&writer);
    format_write_file(format_path("old"), "old", 3);
    int files = format_count_files();
    mode_t mask = umask(027);
    ck_assert_msg(gguf_writer_save(writer, format_path("old"), &err) == 0, "%s", err.text);
    umask(mask);
    ck_assert_int_eq(stat(format_path("old"), &st), 0);
    ck_assert_int_eq(st.st_mode & 0777, 0640);
    ck_assert_int_gt(st.st_size, 3);
    ck_assert_int_eq(format_count_files(), files);
    gguf_writer_close(&writer);
}
END_TEST

START_TEST(the_real_model_opens)
{
    struct gguf *file;
    struct engine_error err;
    uint32_t layers;
    const char *path = format_stories();
    if (path == NULL)
        return;
    ck_assert_msg(gguf_open(path, &file, &err) == 0, "%s", err.text);
    ck_assert(gguf_u32(file, "llama.block_count", &layers) && layers == 5);
    const struct gguf_tensor *embedding = gguf_tensor(file, "token_embd.weight");
    ck_assert_ptr_nonnull(embedding);
    ck_assert(embedding->dims[0] == 64 && embedding->dims[1] == 512);
    gguf_close(&file);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("gguf");
    TCase *tc = tcase_create("gguf");
    tcase_set_timeout(tc, 100);
    tcase_add_test(tc, what_was_written_is_read_back);
    tcase_add_test(tc, bytes_of_types);
    tcase_add_test(tc, version_2_and_all_number_types_are_read);
    tcase_add_test(tc, other_formats_are_named);
    tcase_add_test(tc, what_is_no_file_is_refused);
    tcase_add_test(tc, bad_keys_are_refused);
    tcase_add_test(tc, bad_arrays_are_refused);
    tcase_add_test(tc, bad_tensors_are_refused);
    tcase_add_test(tc, tensors_that_clash_are_refused);
    tcase_add_test(tc, alignment_is_obeyed_and_checked);
    tcase_add_test(tc, every_truncation_is_refused);
    tcase_add_test(tc, mutations_never_crash);
    tcase_add_test(tc, what_gguf_cannot_hold_is_not_written);
    tcase_add_test(tc, a_failed_save_leaves_nothing);
    tcase_add_test(tc, a_save_replaces_and_obeys_the_umask);
    tcase_add_test(tc, the_real_model_opens);
    suite_add_tcase(suite, tc);
    return format_run(suite);
}
