/* SPDX-License-Identifier: Apache-2.0 */
#include "llama_library.h"

#include <dlfcn.h>
#include <glob.h>
#include <stdio.h>
#include <string.h>

/* "libllama.so" or, since they carry versions, "libllama.v0.5.0.so". */
static bool open_one(const char *folder, const char *pattern, int flags, void **handle, char *reason, size_t size)
{
    char path[4096];
    glob_t found;
    (void)snprintf(path, sizeof(path), "%s/%s", folder, pattern);
    if (glob(path, 0, NULL, &found) != 0) {
        (void)snprintf(reason, size, "there is no %s", path);
        return false;
    }
    *handle = dlopen(found.gl_pathv[0], flags);
    globfree(&found);
    if (*handle == NULL)
        (void)snprintf(reason, size, "%s", dlerror());
    return *handle != NULL;
}

static void log_errors(int level, const char *text, void *user)
{
    enum { ERROR = 4 };
    if (level == ERROR)
        (void)fputs(text, stderr);
}

bool llama_library_open(struct llama_library *library, const char *folder, bool global, char *reason, size_t size)
{
    void *llama, *ggml;
    int flags = RTLD_NOW | (global ? RTLD_GLOBAL : RTLD_LOCAL);
    if (!open_one(folder, "libllama.*so", flags, &llama, reason, size) ||
        !open_one(folder, "libggml.*so", flags, &ggml, reason, size))
        return false;
    const char *missing = NULL;
#define LLAMA_FIND(result, name, parameters)                                                                           \
    *(void **)&library->name = dlsym(llama, #name);                                                                    \
    if (library->name == NULL)                                                                                         \
        missing = #name;
    LLAMA_FUNCTIONS(LLAMA_FIND)
#undef LLAMA_FIND
    void (*load_backends)(const char *folder);
    *(void **)&load_backends = dlsym(ggml, "ggml_backend_load_all_from_path");
    if (load_backends == NULL)
        missing = "ggml_backend_load_all_from_path";
    if (missing != NULL) {
        (void)snprintf(reason, size, "the libraries in %s have no %s", folder, missing);
        return false;
    }
    library->llama_log_set(log_errors, NULL);
    library->llama_backend_init();
    load_backends(folder);
    return true;
}

static uint32_t word_at(const struct llama_any_params *params, size_t offset)
{
    uint32_t word;
    memcpy(&word, params->bytes + offset, sizeof(word));
    return word;
}

static void set_word(struct llama_any_params *params, size_t offset, uint32_t word)
{
    memcpy(params->bytes + offset, &word, sizeof(word));
}

bool llama_library_context_params(const struct llama_library *library, const struct llama_context_wish *wish,
                                  struct llama_any_params *params, char *reason, size_t size)
{
    enum { N_CTX = 0, N_BATCH = 4, N_UBATCH = 8, N_SEQ_MAX = 12, SEARCHED = 160 };
    /* embeddings, offload_kqv, no_perf, op_offload, swa_full, kv_unified */
    static const uint8_t switches[] = {0, 1, 1, 1, 1, 0};
    *params = library->llama_context_default_params();
    bool known = word_at(params, N_CTX) == 512 && word_at(params, N_BATCH) == 2048 &&
                 word_at(params, N_UBATCH) == 512 && word_at(params, N_SEQ_MAX) == 1;
    /* rope_scaling_type, pooling_type, attention_type and flash_attn_type stand together and are all "unspecified", -1. */
    size_t flash = 0, unified = 0;
    for (size_t at = 16; at < SEARCHED && flash == 0; at += 4)
        if (word_at(params, at) == UINT32_MAX && word_at(params, at + 4) == UINT32_MAX &&
            word_at(params, at + 8) == UINT32_MAX && word_at(params, at + 12) == UINT32_MAX)
            flash = at + 12;
    for (size_t at = 64; at < SEARCHED && unified == 0; at++)
        if (memcmp(params->bytes + at, switches, sizeof(switches)) == 0)
            unified = at + sizeof(switches) - 1;
    if (!known || flash == 0 || unified == 0) {
        (void)snprintf(reason, size, "llama_context_params is laid out in an unknown way");
        return false;
    }
    set_word(params, N_CTX, wish->n_ctx);
    set_word(params, N_BATCH, wish->n_batch);
    set_word(params, N_SEQ_MAX, wish->n_seq_max);
    set_word(params, flash, (uint32_t)wish->flash);
    params->bytes[unified] = wish->unified;
    return true;
}
