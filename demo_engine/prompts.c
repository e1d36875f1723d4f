/* SPDX-License-Identifier: Apache-2.0 */
#include "prompts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct prompt *add(struct prompts *p, struct engine_error *err)
{
    struct prompt *grown = realloc(p->at, (p->n + 1) * sizeof *grown);
    if (!grown) {
        (void)engine_broke(err, "out of memory for %u prompts", p->n + 1);
        return NULL;
    }
    p->at = grown;
    p->at[p->n] = (struct prompt){.text = ""};
    return &p->at[p->n++];
}

int prompts_add_text(struct prompts *prompts, const char *text, struct engine_error *err)
{
    struct prompt *p = add(prompts, err);
    if (!p)
        return ENGINE_FAILED;
    (void)snprintf(p->name, sizeof p->name, "prompt %u", prompts->n);
    p->text = text;
    p->len = strlen(text);
    return 0;
}

static int read_all(FILE *f, const char *path, struct prompt *p, struct engine_error *err)
{
    size_t room = 0;
    for (;;) {
        if (p->len == room) {
            room = room ? room * 2 : 65536;
            char *grown = realloc(p->owned, room);
            if (!grown)
                return engine_broke(err, "%s: out of memory", path);
            p->owned = grown;
        }
        size_t got = fread(p->owned + p->len, 1, room - p->len, f);
        p->len += got;
        if (got == 0)
            break;
    }
    if (ferror(f))
        return engine_fail(err, "%s: %s", path, strerror(errno));
    p->text = p->owned;
    return 0;
}

int prompts_add_file(struct prompts *prompts, const char *path, struct engine_error *err)
{
    struct prompt *p = add(prompts, err);
    if (!p)
        return ENGINE_FAILED;
    (void)snprintf(p->name, sizeof p->name, "%s", path);
    if (strcmp(path, "-") == 0)
        return read_all(stdin, "standard input", p, err);
    FILE *f = fopen(path, "re");
    if (!f)
        return engine_fail(err, "%s: %s", path, strerror(errno));
    int rc = read_all(f, path, p, err);
    (void)fclose(f);
    return rc;
}

int prompts_encode(struct prompts *prompts, const struct tokenizer *tok, uint32_t context, struct engine_error *err)
{
    for (uint32_t i = 0; i < prompts->n; i++) {
        struct prompt *p = &prompts->at[i];
        if (tokenizer_encode(tok, p->text, p->len, true, tokenizer_add_bos(tok), &p->tokens, &p->n_tokens, err) != 0)
            return ENGINE_FAILED;
        if (p->n_tokens == 0)
            return engine_fail(err, "%s is empty, and the model has no token to begin with", p->name);
        if (p->n_tokens > context)
            return engine_fail(err, "%s is %zu tokens long, the context holds %u", p->name, p->n_tokens, context);
    }
    return 0;
}

void prompts_free(struct prompts *prompts)
{
    for (uint32_t i = 0; i < prompts->n; i++) {
        free(prompts->at[i].owned);
        free(prompts->at[i].tokens);
    }
    free(prompts->at);
    *prompts = (struct prompts){0};
}
