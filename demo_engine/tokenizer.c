/* SPDX-License-Identifier: Apache-2.0
 *
 * SentencePiece BPE as llama.cpp does it (llm_tokenizer_spm): the text is a list of symbols, at first its UTF-8
 * characters; neighbours that together are a token wait in a heap, best score first, then leftmost; the top one is
 * merged until none is left. Each merge takes one candidate away and adds two at most, so there are never more than
 * 2n and the whole takes O(n log n). A candidate whose symbols have changed since is known by its length. */
#include "tokenizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TEXT ((size_t)512 << 20) /* three bytes for each space, and symbol numbers fit int32_t */
#define NO_TOKEN UINT32_MAX

static const char space[] = "\xe2\x96\x81"; /* U+2581 stands for it in token texts */
#define SPACE_BYTES (sizeof(space) - 1)

enum piece_type { /* tokenizer.ggml.token_type */
                  PIECE_UNDEFINED = 0,
                  PIECE_NORMAL,
                  PIECE_UNKNOWN,
                  PIECE_CONTROL,
                  PIECE_USER,
                  PIECE_UNUSED,
                  PIECE_BYTE,
                  PIECE_TYPES
};

struct piece {
    size_t text; /* offset in texts */
    uint32_t len;
    float score;
    enum piece_type type;
    uint8_t byte; /* of a byte token */
};

struct tokenizer {
    struct piece *pieces;
    uint32_t n_vocab;
    uint32_t longest; /* bytes of the longest text; no candidate longer than that is looked up */
    char *texts;
    uint32_t *by_text; /* open addressing, linear probing; NO_TOKEN: empty */
    uint32_t by_text_mask;
    engine_token byte_tokens[256];
    engine_token bos, eos, unknown; /* -1: none */
    bool add_bos, add_space_prefix;
};

/* ------------------------------------------------------------------------------------------------------- vocabulary */

/* FNV-1a. */
static uint32_t hash(const char *text, size_t len)
{
    uint32_t h = 2166136261U;
    for (size_t i = 0; i < len; i++)
        h = (h ^ (uint8_t)text[i]) * 16777619U;
    return h;
}

/* Where the text is, or where it would be put. */
static uint32_t *slot_of(const struct tokenizer *tok, const char *text, size_t len)
{
    for (uint32_t i = hash(text, len) & tok->by_text_mask;; i = (i + 1) & tok->by_text_mask) {
        uint32_t id = tok->by_text[i];
        if (id == NO_TOKEN)
            return &tok->by_text[i];
        if (tok->pieces[id].len == len && memcmp(tok->texts + tok->pieces[id].text, text, len) == 0)
            return &tok->by_text[i];
    }
}

static bool made_from_text(const struct piece *piece)
{
    return piece->len > 0 && piece->type != PIECE_CONTROL && piece->type != PIECE_UNKNOWN && piece->type != PIECE_BYTE;
}

static int index_texts(struct tokenizer *tok, const struct gguf *file, struct engine_error *err)
{
    uint32_t n_slots = 16;
    while (n_slots / 2 < tok->n_vocab)
        n_slots *= 2;
    tok->by_text = malloc(n_slots * sizeof(*tok->by_text));
    if (tok->by_text == NULL)
        return engine_fail(err, "%s: no memory for a vocabulary of %u", gguf_path(file), tok->n_vocab);
    memset(tok->by_text, 0xff, n_slots * sizeof(*tok->by_text));
    tok->by_text_mask = n_slots - 1;
    for (uint32_t id = 0; id < tok->n_vocab; id++) {
        const struct piece *piece = &tok->pieces[id];
        if (!made_from_text(piece))
            continue;
        *slot_of(tok, tok->texts + piece->text, piece->len) = id; /* of equal texts the last counts, as in llama.cpp */
        if (piece->len > tok->longest)
            tok->longest = piece->len;
    }
    return 0;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

/* "<0x0A>" to 10; -1 if it is no such text. */
static int parse_byte(struct gguf_string text)
{
    if (text.len != 6 || memcmp(text.text, "<0x", 3) != 0 || text.text[5] != '>')
        return -1;
    int high = hex_digit(text.text[3]), low = hex_digit(text.text[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

static const char key_tokens[] = "tokenizer.ggml.tokens";
static const char key_scores[] = "tokenizer.ggml.scores";
static const char key_types[] = "tokenizer.ggml.token_type";

/* The three arrays are there and of one length. */
static int check_arrays(const struct gguf *file, uint64_t *n, const void **scores, const void **types,
                        struct engine_error *err)
{
    uint64_t n_scores, n_types;
    const char *path = gguf_path(file);
    if (!gguf_strings(file, key_tokens, n))
        return engine_fail(err, "%s: %s is missing or no array of strings", path, key_tokens);
    if (!gguf_f32s(file, key_scores, scores, &n_scores))
        return engine_fail(err, "%s: %s is missing or no array of f32", path, key_scores);
    if (!gguf_i32s(file, key_types, types, &n_types))
        return engine_fail(err, "%s: %s is missing or no array of i32", path, key_types);
    if (*n == 0 || *n > INT32_MAX || n_scores != *n || n_types != *n)
        return engine_fail(err, "%s: a vocabulary of %llu tokens, %llu scores and %llu types", path,
                           (unsigned long long)*n, (unsigned long long)n_scores, (unsigned long long)n_types);
    return 0;
}

static int read_piece(struct tokenizer *tok, const struct gguf *file, uint32_t id, struct gguf_string text,
                      int32_t type, struct engine_error *err)
{
    struct piece *piece = &tok->pieces[id];
    if (type < 0 || type >= PIECE_TYPES)
        return engine_fail(err, "%s: token %u has the unknown type %d", gguf_path(file), id, type);
    if (isnan(piece->score))
        return engine_fail(err, "%s: token %u has a score that is not a number", gguf_path(file), id);
    if (text.len > UINT16_MAX)
        return engine_fail(err, "%s: token %u is %zu bytes long", gguf_path(file), id, text.len);
    piece->len = (uint32_t)text.len;
    piece->type = (enum piece_type)type;
    if (piece->type != PIECE_BYTE)
        return 0;
    int byte = parse_byte(text);
    if (byte < 0)
        return engine_fail(err, "%s: token %u is a byte token, but its text is not like <0x0A>", gguf_path(file), id);
    piece->byte = (uint8_t)byte;
    tok->byte_tokens[byte] = (engine_token)id;
    return 0;
}

static int read_vocabulary(struct tokenizer *tok, const struct gguf *file, struct engine_error *err)
{
    uint64_t n;
    const void *scores, *types;
    if (check_arrays(file, &n, &scores, &types, err) != 0)
        return -1;
    size_t bytes = 0, at = 0;
    for (uint64_t i = 0; i < n; i++)
        bytes += gguf_strings_at(file, key_tokens, i).len;
    tok->n_vocab = (uint32_t)n;
    tok->pieces = calloc(n, sizeof(*tok->pieces));
    tok->texts = malloc(bytes + 1);
    if (tok->pieces == NULL || tok->texts == NULL)
        return engine_fail(err, "%s: no memory for a vocabulary of %u", gguf_path(file), tok->n_vocab);
    for (uint32_t id = 0; id < tok->n_vocab; id++) {
        struct gguf_string text = gguf_strings_at(file, key_tokens, id);
        int32_t type;
        memcpy(&type, (const char *)types + id * sizeof(type), sizeof(type));
        memcpy(&tok->pieces[id].score, (const char *)scores + id * sizeof(float), sizeof(float));
        tok->pieces[id].text = at;
        memcpy(tok->texts + at, text.text, text.len);
        at += text.len;
        if (read_piece(tok, file, id, text, type, err) != 0)
            return -1;
    }
    return index_texts(tok, file, err);
}

/* --------------------------------------------------------------------------------------------------- special tokens */

/* Without the key it is usual, if that is a token of the type wanted. */
static int read_special(const struct tokenizer *tok, const struct gguf *file, const char *key, uint32_t usual,
                        enum piece_type type, engine_token *token, struct engine_error *err)
{
    uint32_t id;
    if (!gguf_has(file, key)) {
        *token = usual < tok->n_vocab && tok->pieces[usual].type == type ? (engine_token)usual : -1;
        return 0;
    }
    if (!gguf_u32(file, key, &id) || id >= tok->n_vocab)
        return engine_fail(err, "%s: %s is no token of the vocabulary (of %u)", gguf_path(file), key, tok->n_vocab);
    *token = (engine_token)id;
    return 0;
}

static int read_flag(const struct gguf *file, const char *key, bool *flag, struct engine_error *err)
{
    if (gguf_has(file, key) && !gguf_bool(file, key, flag))
        return engine_fail(err, "%s: %s is no bool", gguf_path(file), key);
    return 0;
}

static int read_specials(struct tokenizer *tok, const struct gguf *file, struct engine_error *err)
{
    if (read_special(tok, file, "tokenizer.ggml.bos_token_id", 1, PIECE_CONTROL, &tok->bos, err) != 0 ||
        read_special(tok, file, "tokenizer.ggml.eos_token_id", 2, PIECE_CONTROL, &tok->eos, err) != 0 ||
        read_special(tok, file, "tokenizer.ggml.unknown_token_id", 0, PIECE_UNKNOWN, &tok->unknown, err) != 0)
        return -1;
    tok->add_bos = tok->bos >= 0;
    tok->add_space_prefix = true;
    if (read_flag(file, "tokenizer.ggml.add_bos_token", &tok->add_bos, err) != 0 ||
        read_flag(file, "tokenizer.ggml.add_space_prefix", &tok->add_space_prefix, err) != 0)
        return -1;
    if (tok->add_bos && tok->bos < 0)
        return engine_fail(err, "%s: tokenizer.ggml.add_bos_token is true, but there is no BOS token", gguf_path(file));
    return 0;
}

/* A byte without a byte token becomes the token of its character, else the unknown token. */
static int complete_bytes(struct tokenizer *tok, const struct gguf *file, struct engine_error *err)
{
    for (int byte = 0; byte < 256; byte++) {
        char text = (char)byte;
        if (tok->byte_tokens[byte] >= 0)
            continue;
        uint32_t id = *slot_of(tok, &text, 1);
        tok->byte_tokens[byte] = id != NO_TOKEN ? (engine_token)id : tok->unknown;
        if (tok->byte_tokens[byte] < 0)
            return engine_fail(err, "%s: the vocabulary has no token for byte 0x%02X and no unknown token",
                               gguf_path(file), byte);
    }
    return 0;
}

int tokenizer_open(const struct gguf *file, struct tokenizer **out, struct engine_error *err)
{
    struct gguf_string model;
    if (!gguf_string(file, "tokenizer.ggml.model", &model))
        return engine_fail(err, "%s: tokenizer.ggml.model is missing or no string", gguf_path(file));
    if (model.len != 5 || memcmp(model.text, "llama", 5) != 0)
        return engine_fail(err,
                           "%s: the tokenizer is not of the kind \"llama\" (SentencePiece), the only one supported",
                           gguf_path(file));
    struct tokenizer *tok = calloc(1, sizeof(*tok));
    if (tok == NULL)
        return engine_fail(err, "%s: no memory for the tokenizer", gguf_path(file));
    for (int byte = 0; byte < 256; byte++)
        tok->byte_tokens[byte] = -1;
    if (read_vocabulary(tok, file, err) != 0 || read_specials(tok, file, err) != 0 ||
        complete_bytes(tok, file, err) != 0) {
        tokenizer_close(&tok);
        return -1;
    }
    *out = tok;
    return 0;
}

void tokenizer_close(struct tokenizer **out)
{
    struct tokenizer *tok = *out;
    if (tok == NULL)
        return;
    free(tok->pieces);
    free(tok->texts);
    free(tok->by_text);
    free(tok);
    *out = NULL;
}

uint32_t tokenizer_n_vocab(const struct tokenizer *tok)
{
    return tok->n_vocab;
}

engine_token tokenizer_bos(const struct tokenizer *tok)
{
    return tok->bos;
}

engine_token tokenizer_eos(const struct tokenizer *tok)
{
    return tok->eos;
}

bool tokenizer_add_bos(const struct tokenizer *tok)
{
    return tok->add_bos;
}

/* ---------------------------------------------------------------------------------------------------------- merging */

struct symbol {
    int32_t prev, next; /* -1: none */
    uint32_t at, n;     /* in the text; n = 0: merged into its left neighbour */
};

struct candidate { /* to merge left with right */
    float score;
    int32_t left, right;
    uint32_t n; /* bytes of both */
};

struct merge {
    const struct tokenizer *tok;
    char *text; /* escaped */
    size_t len;
    struct symbol *symbols;
    int32_t n_symbols;
    struct candidate *heap;
    size_t n_heap;
};

static bool better(const struct candidate *a, const struct candidate *b)
{
    return a->score > b->score || (a->score == b->score && a->left < b->left);
}

static void heap_push(struct merge *merge, struct candidate added)
{
    struct candidate *heap = merge->heap;
    size_t i = merge->n_heap++;
    for (; i > 0 && better(&added, &heap[(i - 1) / 2]); i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = added;
}

static struct candidate heap_pop(struct merge *merge)
{
    struct candidate *heap = merge->heap, top = heap[0], last = heap[--merge->n_heap];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < merge->n_heap; i = child) {
        if (child + 1 < merge->n_heap && better(&heap[child + 1], &heap[child]))
            child++;
        if (!better(&heap[child], &last))
            break;
        heap[i] = heap[child];
    }
    heap[i] = last;
    return top;
}

static void add_candidate(struct merge *merge, int32_t left, int32_t right)
{
    if (left < 0 || right < 0)
        return;
    const struct symbol *a = &merge->symbols[left], *b = &merge->symbols[right];
    if (a->n + b->n > merge->tok->longest)
        return;
    uint32_t id = *slot_of(merge->tok, merge->text + a->at, a->n + b->n);
    if (id == NO_TOKEN)
        return;
    heap_push(merge, (struct candidate){merge->tok->pieces[id].score, left, right, a->n + b->n});
}

/* Bytes of the character at text, len bytes before its end; 1 for a byte that begins none. */
static uint32_t char_bytes(const char *text, size_t len)
{
    static const uint8_t by_high_bits[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 3, 4};
    uint32_t n = by_high_bits[(uint8_t)text[0] >> 4];
    if (n > len)
        return 1;
    for (uint32_t i = 1; i < n; i++)
        if (((uint8_t)text[i] & 0xc0) != 0x80)
            return 1;
    return n;
}

static void split(struct merge *merge)
{
    int32_t n = 0;
    for (size_t at = 0; at < merge->len; n++) {
        uint32_t bytes = char_bytes(merge->text + at, merge->len - at);
        merge->symbols[n] = (struct symbol){.prev = n - 1, .next = n + 1, .at = (uint32_t)at, .n = bytes};
        at += bytes;
    }
    if (n > 0)
        merge->symbols[n - 1].next = -1;
    merge->n_symbols = n;
}

static void merge_all(struct merge *merge)
{
    for (int32_t i = 1; i < merge->n_symbols; i++)
        add_candidate(merge, i - 1, i);
    while (merge->n_heap > 0) {
        struct candidate best = heap_pop(merge);
        struct symbol *left = &merge->symbols[best.left], *right = &merge->symbols[best.right];
        if (left->n == 0 || right->n == 0 || left->n + right->n != best.n)
            continue;
        left->n += right->n;
        right->n = 0;
        left->next = right->next;
        if (right->next >= 0)
            merge->symbols[right->next].prev = best.left;
        add_candidate(merge, left->prev, best.left);
        add_candidate(merge, best.left, left->next);
    }
}

/* Merged symbols are tokens; what is not one is a single character that the vocabulary lacks. */
static size_t emit(const struct merge *merge, engine_token *tokens)
{
    size_t n = 0;
    for (int32_t i = merge->n_symbols > 0 ? 0 : -1; i >= 0; i = merge->symbols[i].next) {
        const struct symbol *symbol = &merge->symbols[i];
        uint32_t id = *slot_of(merge->tok, merge->text + symbol->at, symbol->n);
        if (id != NO_TOKEN) {
            tokens[n++] = (engine_token)id;
            continue;
        }
        for (uint32_t k = 0; k < symbol->n; k++)
            tokens[n++] = merge->tok->byte_tokens[(uint8_t)merge->text[symbol->at + k]];
    }
    return n;
}

/* Spaces to U+2581, with one in front if prefix. out has room for 3 * (len + 1) bytes. */
static size_t escape(char *out, const char *text, size_t len, bool prefix)
{
    size_t n = 0;
    for (size_t i = prefix ? 0 : 1; i <= len; i++) {
        char c = i == 0 ? ' ' : text[i - 1];
        if (c != ' ') {
            out[n++] = c;
            continue;
        }
        memcpy(out + n, space, SPACE_BYTES);
        n += SPACE_BYTES;
    }
    return n;
}

int tokenizer_encode(const struct tokenizer *tok, const char *text, size_t len, bool start, bool add_bos,
                     engine_token **tokens, size_t *n, struct engine_error *err)
{
    if (len >= MAX_TEXT)
        return engine_fail(err, "a text of %zu bytes is too long for the tokenizer", len);
    struct merge merge = {.tok = tok};
    int rc = -1;
    engine_token *out = NULL;
    merge.text = malloc(SPACE_BYTES * (len + 1));
    if (merge.text == NULL)
        goto free_merge;
    merge.len = escape(merge.text, text, len, start && len > 0 && tok->add_space_prefix);
    merge.symbols = malloc((merge.len + 1) * sizeof(*merge.symbols));
    merge.heap = malloc((merge.len + 1) * 2 * sizeof(*merge.heap));
    out = malloc((merge.len + 1) * sizeof(*out));
    if (merge.symbols == NULL || merge.heap == NULL || out == NULL)
        goto free_merge;
    split(&merge);
    merge_all(&merge);
    size_t n_bos = add_bos && tok->bos >= 0 ? 1 : 0;
    if (n_bos > 0)
        out[0] = tok->bos;
    *n = n_bos + emit(&merge, out + n_bos);
    *tokens = out;
    out = NULL;
    rc = 0;
free_merge:
    free(out);
    free(merge.heap);
    free(merge.symbols);
    free(merge.text);
    return rc == 0 ? 0 : engine_fail(err, "no memory to tokenize %zu bytes", len);
}

/* --------------------------------------------------------------------------------------------------------- decoding */

/* Token text with U+2581 as a space; out NULL: only the length. */
static size_t unescape(const char *text, size_t len, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < len; n++) {
        bool is_space = len - i >= SPACE_BYTES && memcmp(text + i, space, SPACE_BYTES) == 0;
        if (out != NULL)
            out[n] = is_space ? ' ' : text[i];
        i += is_space ? SPACE_BYTES : 1;
    }
    return n;
}

size_t tokenizer_decode(const struct tokenizer *tok, engine_token token, char *buf, size_t size)
{
    if (token < 0 || (uint32_t)token >= tok->n_vocab)
        return 0;
    const struct piece *piece = &tok->pieces[token];
    const char *text = tok->texts + piece->text;
    size_t n = 0;
    switch (piece->type) {
    case PIECE_BYTE:
        n = 1;
        if (n <= size)
            buf[0] = (char)piece->byte;
        break;
    case PIECE_USER:
        n = piece->len;
        if (n <= size)
            memcpy(buf, text, n);
        break;
    case PIECE_NORMAL:
        n = unescape(text, piece->len, NULL);
        if (n <= size)
            unescape(text, piece->len, buf);
        break;
    default: /* control, unknown, unused: nothing to show */
        break;
    }
    return n;
}
