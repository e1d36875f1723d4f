/* SPDX-License-Identifier: Apache-2.0
 *
 * The tokenizer: the ids of a real model, the definition of merging on random vocabularies, any bytes in = the same
 * bytes out, and vocabularies that lie. */
#include "tokenizer.h"

#include <math.h>

#include "format_support.h"
#include "gguf_write.h"

/* -------------------------------------------------------------------------------------------------- small vocabularies */

#define MAX_VOCAB 600
#define SPACE     "\xe2\x96\x81"

struct vocabulary {
    char texts[MAX_VOCAB][16];
    float scores[MAX_VOCAB];
    int32_t types[MAX_VOCAB];
    uint32_t n;
};

static void add_token(struct vocabulary *v, const char *text, float score, int32_t type)
{
    FORMAT_ASSERT(v->n < MAX_VOCAB, "the vocabulary is full");
    snprintf(v->texts[v->n], sizeof(v->texts[0]), "%s", text);
    v->scores[v->n] = score;
    v->types[v->n++] = type;
}

/* <unk>, <s>, </s> and the bytes. */
static void base_vocabulary(struct vocabulary *v)
{
    char text[16];
    v->n = 0;
    add_token(v, "<unk>", 0, 2);
    add_token(v, "<s>", 0, 3);
    add_token(v, "</s>", 0, 3);
    for (int byte = 0; byte < 256; byte++) {
        snprintf(text, sizeof(text), "<0x%02X>", (unsigned)byte);
        add_token(v, text, 0, 6);
    }
}

/* The keys of a model file; also() adds or spoils some. */
static struct gguf *vocabulary_file(const struct vocabulary *v, void (*also)(struct gguf_writer *))
{
    struct gguf_writer *writer;
    struct gguf *file;
    struct engine_error err;
    const char *texts[MAX_VOCAB];
    for (uint32_t i = 0; i < v->n; i++)
        texts[i] = v->texts[i];
    ck_assert_int_eq(gguf_writer_open(&writer, &err), 0);
    gguf_add_string(writer, "tokenizer.ggml.model", "llama");
    gguf_add_strings(writer, "tokenizer.ggml.tokens", texts, v->n);
    gguf_add_f32s(writer, "tokenizer.ggml.scores", v->scores, v->n);
    gguf_add_i32s(writer, "tokenizer.ggml.token_type", v->types, v->n);
    if (also != NULL)
        also(writer);
    ck_assert_msg(gguf_writer_save(writer, format_path("vocabulary"), &err) == 0, "%s", err.text);
    gguf_writer_close(&writer);
    ck_assert_msg(gguf_open(format_path("vocabulary"), &file, &err) == 0, "%s", err.text);
    return file;
}

static struct tokenizer *make_tokenizer(const struct vocabulary *v, void (*also)(struct gguf_writer *))
{
    struct tokenizer *tok;
    struct engine_error err;
    struct gguf *file = vocabulary_file(v, also);
    ck_assert_msg(tokenizer_open(file, &tok, &err) == 0, "%s", err.text);
    gguf_close(&file); /* the tokenizer does not need it any more */
    return tok;
}

static void no_prefix(struct gguf_writer *writer)
{
    gguf_add_bool(writer, "tokenizer.ggml.add_space_prefix", false);
}

static void assert_ids(const struct tokenizer *tok, const char *text, bool start, bool bos, const engine_token *want,
                       size_t n_want)
{
    engine_token *ids;
    size_t n;
    struct engine_error err;
    ck_assert_int_eq(tokenizer_encode(tok, text, strlen(text), start, bos, &ids, &n, &err), 0);
    FORMAT_ASSERT(n == n_want, "\"%s\": %zu tokens, not %zu", text, n, n_want);
    for (size_t i = 0; i < n; i++)
        FORMAT_ASSERT(ids[i] == want[i], "\"%s\": token %zu is %d, not %d", text, i, ids[i], want[i]);
    free(ids);
}

#define IDS(...) (const engine_token[]){__VA_ARGS__}, sizeof((engine_token[]){__VA_ARGS__}) / sizeof(engine_token)

/* Decodes to a malloc'd string. */
static char *decode_all(const struct tokenizer *tok, const engine_token *ids, size_t n, size_t *len)
{
    char *text = malloc(n * 16 + 1);
    ck_assert_ptr_nonnull(text);
    *len = 0;
    for (size_t i = 0; i < n; i++)
        *len += tokenizer_decode(tok, ids[i], text + *len, 16);
    return text;
}

/* ------------------------------------------------------------------------------------------------------ a real model */

START_TEST(stories260k_gives_the_known_ids)
{
    struct gguf *file;
    struct tokenizer *tok;
    struct engine_error err;
    const char *path = format_stories();
    if (path == NULL)
        return;
    ck_assert_msg(gguf_open(path, &file, &err) == 0, "%s", err.text);
    ck_assert_msg(tokenizer_open(file, &tok, &err) == 0, "%s", err.text);
    gguf_close(&file);
    ck_assert_uint_eq(tokenizer_n_vocab(tok), 512);
    ck_assert_int_eq(tokenizer_bos(tok), 1);
    ck_assert_int_eq(tokenizer_eos(tok), 2);
    ck_assert(tokenizer_add_bos(tok));
    assert_ids(tok, "I believe the meaning of life is", true, true,
               IDS(1, 359, 329, 421, 417, 411, 360, 265, 284, 411, 303, 299, 373, 397, 431, 411, 410, 293));
    tokenizer_close(&tok);
    ck_assert_ptr_null(tok);
    tokenizer_close(&tok);
}
END_TEST

/* ----------------------------------------------------------------------------------------------------------- merging */

START_TEST(the_best_score_goes_first_then_the_leftmost)
{
    struct vocabulary v;
    base_vocabulary(&v);
    add_token(&v, "a", -10, 1);  /* 259 */
    add_token(&v, "b", -10, 1);  /* 260 */
    add_token(&v, "ab", -2, 1);  /* 261 */
    add_token(&v, "ba", -1, 1);  /* 262 */
    add_token(&v, "aa", -3, 1);  /* 263 */
    add_token(&v, "aba", -9, 1); /* 264 */
    struct tokenizer *tok = make_tokenizer(&v, no_prefix);
    assert_ids(tok, "ab", true, false, IDS(261));
    assert_ids(tok, "aba", true, false, IDS(264)); /* ba, then a + ba */
    assert_ids(tok, "aaa", true, false, IDS(263, 259));
    assert_ids(tok, "abab", true, false, IDS(264, 260));
    assert_ids(tok, "bb", true, false, IDS(260, 260));
    tokenizer_close(&tok);
}
END_TEST

static uint32_t token_of(const struct vocabulary *v, const char *text, size_t len)
{
    for (uint32_t id = 259; id < v->n; id++)
        if (strlen(v->texts[id]) == len && memcmp(v->texts[id], text, len) == 0)
            return id;
    return 0;
}

/* The definition: again and again, of all neighbours that together are a token, the best-scored, leftmost pair. */
static size_t merge_by_definition(const struct vocabulary *v, const char *text, engine_token *ids)
{
    size_t lens[64], n = strlen(text), at = 0;
    ck_assert_uint_le(n, 64);
    for (size_t i = 0; i < n; i++)
        lens[i] = 1;
    for (size_t best = 0; best != n;) {
        float best_score = -INFINITY;
        best = n;
        for (size_t i = 0, start = 0; i + 1 < n; start += lens[i++]) {
            uint32_t id = token_of(v, text + start, lens[i] + lens[i + 1]);
            if (id != 0 && v->scores[id] > best_score) {
                best = i;
                best_score = v->scores[id];
            }
        }
        if (best == n)
            continue;
        lens[best] += lens[best + 1];
        n--;
        for (size_t i = best + 1; i < n; i++)
            lens[i] = lens[i + 1];
    }
    for (size_t i = 0; i < n; at += lens[i++]) {
        uint32_t id = token_of(v, text + at, lens[i]);
        ids[i] = id != 0 ? (engine_token)id : 3 + (uint8_t)text[at];
    }
    return n;
}

START_TEST(random_vocabularies_merge_by_the_definition)
{
    static struct vocabulary v;
    uint64_t seed = 7;
    for (uint32_t round = 0, rounds = (uint32_t)scaled(60); round < rounds; round++) {
        base_vocabulary(&v);
        for (int i = 0; i < 60; i++) { /* over a, b, c; few scores, so that many are equal */
            char text[8] = {0};
            size_t len = 1 + format_random(&seed) % 6;
            bool known = false;
            for (size_t k = 0; k < len; k++)
                text[k] = (char)('a' + format_random(&seed) % 3);
            for (uint32_t id = 259; id < v.n; id++)
                known = known || strcmp(v.texts[id], text) == 0;
            if (!known)
                add_token(&v, text, -(float)(format_random(&seed) % 8), 1);
        }
        struct tokenizer *tok = make_tokenizer(&v, no_prefix);
        for (int i = 0; i < 50; i++) {
            char text[64] = {0};
            engine_token want[64];
            size_t len = format_random(&seed) % 60;
            for (size_t k = 0; k < len; k++)
                text[k] = (char)('a' + format_random(&seed) % 3);
            assert_ids(tok, text, true, false, want, merge_by_definition(&v, text, want));
        }
        tokenizer_close(&tok);
    }
}
END_TEST

START_TEST(special_tokens_are_not_made_from_text)
{
    struct vocabulary v;
    base_vocabulary(&v);
    static const char *const parts[] = {"<", "s", ">", "s>", "<0", "x4", "1>", "<0x4", SPACE};
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        add_token(&v, parts[i], -1, 1);
    struct tokenizer *tok = make_tokenizer(&v, no_prefix);
    engine_token *ids;
    size_t n;
    struct engine_error err;
    static const char text[] = "<s></s><unk><0x41>";
    ck_assert_int_eq(tokenizer_encode(tok, text, strlen(text), true, false, &ids, &n, &err), 0);
    for (size_t i = 0; i < n; i++)
        ck_assert_int_gt(ids[i], 2);
    size_t len;
    char *back = decode_all(tok, ids, n, &len);
    ck_assert_uint_eq(len, strlen(text));
    ck_assert_mem_eq(back, text, len);
    free(back);
    free(ids);
    tokenizer_close(&tok);
}
END_TEST

static void usual_start(struct gguf_writer *writer)
{
    gguf_add_bool(writer, "tokenizer.ggml.add_bos_token", false);
}

START_TEST(bos_and_the_dummy_space_come_when_they_should)
{
    struct vocabulary v;
    base_vocabulary(&v);
    add_token(&v, "a", -1, 1);       /* 259 */
    add_token(&v, SPACE, -2, 1);     /* 260 */
    add_token(&v, SPACE "a", -3, 1); /* 261 */
    struct tokenizer *tok = make_tokenizer(&v, usual_start);
    ck_assert(!tokenizer_add_bos(tok));
    assert_ids(tok, "a", true, true, IDS(1, 261));
    assert_ids(tok, "a", true, false, IDS(261));
    assert_ids(tok, "a", false, true, IDS(1, 259));
    assert_ids(tok, "a a", false, false, IDS(259, 261));
    assert_ids(tok, " a", true, false, IDS(260, 261));
    assert_ids(tok, "", true, true, IDS(1));
    engine_token *ids;
    size_t n;
    struct engine_error err;
    ck_assert_int_eq(tokenizer_encode(tok, "", 0, true, false, &ids, &n, &err), 0);
    ck_assert_uint_eq(n, 0);
    free(ids);
    tokenizer_close(&tok);
    tok = make_tokenizer(&v, no_prefix);
    ck_assert(tokenizer_add_bos(tok));
    assert_ids(tok, "a", true, true, IDS(1, 259));
    tokenizer_close(&tok);
}
END_TEST

START_TEST(characters_without_a_token_become_bytes)
{
    struct vocabulary v;
    base_vocabulary(&v);
    add_token(&v, SPACE, -2, 1);      /* 259 */
    add_token(&v, "\xc3\xa9", -1, 1); /* 260: é */
    struct tokenizer *tok = make_tokenizer(&v, no_prefix);
    assert_ids(tok, "\xc3\xa9", true, false, IDS(260));
    assert_ids(tok, "\xc3\xa8", true, false, IDS(3 + 0xc3, 3 + 0xa8)); /* è */
    assert_ids(tok, "\xc3 ", true, false, IDS(3 + 0xc3, 259));         /* begins a character that does not come */
    assert_ids(tok, "\xff\xa9\xc3", true, false, IDS(3 + 0xff, 3 + 0xa9, 3 + 0xc3));
    tokenizer_close(&tok);
}
END_TEST

START_TEST(any_bytes_come_back)
{
    static struct vocabulary v;
    uint64_t seed = 3;
    base_vocabulary(&v);
    add_token(&v, SPACE, -2, 1);
    for (int c = 'a'; c <= 'z'; c++)
        add_token(&v, (char[]){(char)c, 0}, -1, 1);
    add_token(&v, "th", -0.5F, 1);
    add_token(&v, SPACE SPACE, -0.25F, 1);
    struct tokenizer *tok = make_tokenizer(&v, no_prefix);
    for (uint32_t round = 0, rounds = (uint32_t)scaled(3000); round < rounds; round++) {
        char text[200];
        size_t len = format_random(&seed) % sizeof(text), back_len, n;
        for (size_t i = 0; i < len; i++)
            text[i] = format_random(&seed) % 2 ? (char)format_random(&seed) : " thing"[format_random(&seed) % 6];
        if (memmem(text, len, SPACE, 3) != NULL)
            continue; /* U+2581 itself comes back as a space */
        engine_token *ids;
        struct engine_error err;
        ck_assert_int_eq(tokenizer_encode(tok, text, len, true, true, &ids, &n, &err), 0);
        ck_assert_uint_le(n, len + 2);
        char *back = decode_all(tok, ids, n, &back_len);
        ck_assert_uint_eq(back_len, len);
        ck_assert(memcmp(back, text, len) == 0);
        free(back);
        free(ids);
    }
    tokenizer_close(&tok);
}
END_TEST

START_TEST(decoding_never_writes_past_the_buffer)
{
    struct vocabulary v;
    base_vocabulary(&v);
    add_token(&v, SPACE "ab", -1, 1); /* 259 */
    add_token(&v, SPACE "u", -1, 4);  /* 260: user-defined, as it is */
    add_token(&v, "unused", -1, 5);   /* 261 */
    struct tokenizer *tok = make_tokenizer(&v, NULL);
    char buf[8] = "-------";
    ck_assert_uint_eq(tokenizer_decode(tok, 259, buf, 2), 3);
    ck_assert_uint_eq(tokenizer_decode(tok, 260, buf, 3), 4);
    ck_assert_uint_eq(tokenizer_decode(tok, 3 + 'x', buf, 0), 1);
    ck_assert_str_eq(buf, "-------");
    ck_assert_uint_eq(tokenizer_decode(tok, 259, buf, 3), 3);
    ck_assert_str_eq(buf, " ab----");
    ck_assert_uint_eq(tokenizer_decode(tok, 260, buf, 8), 4);
    ck_assert_str_eq(buf, SPACE "u---");
    ck_assert_uint_eq(tokenizer_decode(tok, 3 + 'x', buf, 1), 1);
    ck_assert_int_eq(buf[0], 'x');
    static const engine_token nothing[] = {0, 1, 2, 261, 262, -1, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof(nothing) / sizeof(nothing[0]); i++)
        ck_assert_uint_eq(tokenizer_decode(tok, nothing[i], buf, 8), 0);
    tokenizer_close(&tok);
}
END_TEST

/* 400 KB where every two neighbours merge: a quadratic tokenizer does not end within the test's time. */
START_TEST(long_texts_take_no_time)
{
    struct vocabulary v;
    base_vocabulary(&v);
    add_token(&v, "a", -1, 1);
    for (int n = 2; n <= 8; n *= 2) {
        char text[16] = {0};
        memset(text, 'a', (size_t)n);
        add_token(&v, text, -(float)n, 1);
    }
    struct tokenizer *tok = make_tokenizer(&v, no_prefix);
    size_t len = 400000, n;
    char *text = malloc(len);
    engine_token *ids;
    struct engine_error err;
    ck_assert_ptr_nonnull(text);
    memset(text, 'a', len);
    ck_assert_int_eq(tokenizer_encode(tok, text, len, true, false, &ids, &n, &err), 0);
    ck_assert_uint_eq(n, len / 8);
    free(ids);
    free(text);
    tokenizer_close(&tok);
}
END_TEST

/* ------------------------------------------------------------------------------------------------- vocabularies that lie */

static void assert_refused(struct gguf *file, const char *reason)
{
    struct tokenizer *tok = (struct tokenizer *)8; /* must stay */
    struct engine_error err = {{0}};
    ck_assert_msg(tokenizer_open(file, &tok, &err) == -1, "accepted, though: %s", reason);
    ck_assert_ptr_eq(tok, (struct tokenizer *)8);
    format_assert_error(&err, gguf_path(file));
    ck_assert_msg(strstr(err.text, reason) != NULL, "\"%s\" does not say \"%s\"", err.text, reason);
    gguf_close(&file);
}

/* A file of the keys whose bits are set: model, tokens, scores, types; n of each. */
static struct gguf *partial_file(unsigned keys, const char *model, uint64_t n_tokens, uint64_t n_scores,
                                 uint64_t n_types)
{
    struct gguf_writer *writer;
    struct gguf *file;
    struct engine_error err;
    static const char *const texts[] = {"<unk>", "<s>", "</s>"};
    ck_assert_int_eq(gguf_writer_open(&writer, &err), 0);
    if (keys & 1)
        gguf_add_string(writer, "tokenizer.ggml.model", model);
    if (keys & 2)
        gguf_add_strings(writer, "tokenizer.ggml.tokens", texts, n_tokens);
    if (keys & 4)
        gguf_add_f32s(writer, "tokenizer.ggml.scores", (float[3]){0}, n_scores);
    if (keys & 8)
        gguf_add_i32s(writer, "tokenizer.ggml.token_type", (int32_t[]){2, 3, 3}, n_types);
    ck_assert_int_eq(gguf_writer_save(writer, format_path("partial"), &err), 0);
    gguf_writer_close(&writer);
    ck_assert_msg(gguf_open(format_path("partial"), &file, &err) == 0, "%s", err.text);
    return file;
}

START_TEST(missing_and_short_arrays_are_refused)
{
    assert_refused(partial_file(14, "", 3, 3, 3), "tokenizer.ggml.model is missing");
    assert_refused(partial_file(15, "gpt2", 3, 3, 3), "not of the kind \"llama\"");
    assert_refused(partial_file(13, "llama", 3, 3, 3), "tokenizer.ggml.tokens is missing");
    assert_refused(partial_file(11, "llama", 3, 3, 3), "tokenizer.ggml.scores is missing");
    assert_refused(partial_file(7, "llama", 3, 3, 3), "tokenizer.ggml.token_type is missing");
    assert_refused(partial_file(15, "llama", 3, 2, 3), "3 tokens, 2 scores and 3 types");
    assert_refused(partial_file(15, "llama", 3, 3, 2), "3 tokens, 3 scores and 2 types");
    assert_refused(partial_file(15, "llama", 2, 3, 3), "2 tokens, 3 scores and 3 types");
    assert_refused(partial_file(15, "llama", 0, 0, 0), "0 tokens");
}
END_TEST

static void bos_beyond(struct gguf_writer *writer)
{
    gguf_add_u32(writer, "tokenizer.ggml.bos_token_id", 259);
}

static void eos_no_number(struct gguf_writer *writer)
{
    gguf_add_string(writer, "tokenizer.ggml.eos_token_id", "2");
}

static void flag_no_flag(struct gguf_writer *writer)
{
    gguf_add_u32(writer, "tokenizer.ggml.add_space_prefix", 1);
}

static void wants_bos(struct gguf_writer *writer)
{
    gguf_add_bool(writer, "tokenizer.ggml.add_bos_token", true);
}

START_TEST(wrong_values_are_refused)
{
    struct vocabulary v;
    base_vocabulary(&v);
    assert_refused(vocabulary_file(&v, bos_beyond), "tokenizer.ggml.bos_token_id is no token");
    assert_refused(vocabulary_file(&v, eos_no_number), "tokenizer.ggml.eos_token_id is no token");
    assert_refused(vocabulary_file(&v, flag_no_flag), "tokenizer.ggml.add_space_prefix is no bool");
    v.types[1] = 1; /* <s> is an ordinary token, and no key names a BOS */
    assert_refused(vocabulary_file(&v, wants_bos), "there is no BOS");
    base_vocabulary(&v);
    v.types[5] = 7;
    assert_refused(vocabulary_file(&v, NULL), "token 5 has the unknown type 7");
    base_vocabulary(&v);
    v.types[5] = -1;
    assert_refused(vocabulary_file(&v, NULL), "token 5 has the unknown type -1");
    base_vocabulary(&v);
    v.scores[6] = NAN;
    assert_refused(vocabulary_file(&v, NULL), "token 6 has a score that is not a number");
    static const char *const bad_bytes[] = {"<0x0>", "<0x0G>", "<0xG0>", "0x00>>", "<0x000>", ""};
    for (size_t i = 0; i < sizeof(bad_bytes) / sizeof(bad_bytes[0]); i++) {
        base_vocabulary(&v);
        snprintf(v.texts[7], sizeof(v.texts[7]), "%s", bad_bytes[i]);
        assert_refused(vocabulary_file(&v, NULL), "token 7 is a byte token");
    }
}
END_TEST

START_TEST(bytes_without_a_token_are_unknown)
{
    struct vocabulary v;
    base_vocabulary(&v);
    v.n = 3 + 255; /* none for 0xFF */
    struct tokenizer *tok = make_tokenizer(&v, no_prefix);
    assert_ids(tok, "a\xff", true, false, IDS(3 + 'a', 0));
    tokenizer_close(&tok);
    v.types[0] = 1; /* nor an unknown token */
    assert_refused(vocabulary_file(&v, NULL), "no token for byte 0xFF and no unknown token");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("tokenizer");
    TCase *tc = tcase_create("tokenizer");
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, stories260k_gives_the_known_ids);
    tcase_add_test(tc, the_best_score_goes_first_then_the_leftmost);
    tcase_add_test(tc, random_vocabularies_merge_by_the_definition);
    tcase_add_test(tc, special_tokens_are_not_made_from_text);
    tcase_add_test(tc, bos_and_the_dummy_space_come_when_they_should);
    tcase_add_test(tc, characters_without_a_token_become_bytes);
    tcase_add_test(tc, any_bytes_come_back);
    tcase_add_test(tc, decoding_never_writes_past_the_buffer);
    tcase_add_test(tc, long_texts_take_no_time);
    tcase_add_test(tc, missing_and_short_arrays_are_refused);
    tcase_add_test(tc, wrong_values_are_refused);
    tcase_add_test(tc, bytes_without_a_token_are_unknown);
    suite_add_tcase(suite, tc);
    return format_run(suite);
}
