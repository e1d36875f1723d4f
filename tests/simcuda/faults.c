/* SPDX-License-Identifier: Apache-2.0
 *
 * Failures on purpose, by function and number of the call, and the record of what programs did that no program may. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/simcuda/sim.h"

/* Under sim.lock. */
static struct rule {
    uint64_t first, last; /* in counts of sim.calls, both included */
    enum sim_function function;
    CUresult result;
} rules[SIM_MAX_RULES];
static size_t n_rules;

static uint64_t n_violations;
static char first_violation[512];

void sim_violation(const char *format, ...)
{
    char text[sizeof first_violation];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (n_violations++ == 0)
        memcpy(first_violation, text, sizeof text);
    if (!sim.settings.quiet)
        fprintf(stderr, "simcuda: violation: %s\n", text);
    if (sim.settings.abort_on_violation)
        abort();
}

uint64_t simcuda_violations(char *text, size_t size)
{
    sim_lock();
    uint64_t n = n_violations;
    if (text && size)
        snprintf(text, size, "%s", first_violation);
    sim_unlock();
    return n;
}

void simcuda_violations_clear(void)
{
    sim_lock();
    n_violations = 0;
    first_violation[0] = '\0';
    sim_unlock();
}

CUresult sim_fault(enum sim_function function)
{
    for (size_t i = 0; i < n_rules; i++) {
        const struct rule *rule = &rules[i];
        if (rule->function == function && sim.calls[function] >= rule->first && sim.calls[function] <= rule->last)
            return rule->result;
    }
    return CUDA_SUCCESS;
}

/* Of all functions of a name, such as the two forms of cuGetProcAddress. */
static CUresult add_rules(const char *name, uint64_t first, uint64_t last, CUresult result)
{
    CUresult rc = CUDA_ERROR_NOT_FOUND;
    for (int i = 0; i < SIM_N_FUNCTIONS; i++) {
        if (strcmp(sim_functions[i].name, name) != 0)
            continue;
        if (n_rules == SIM_MAX_RULES)
            return CUDA_ERROR_INVALID_VALUE;
        uint64_t base = sim.calls[i];
        uint64_t until = first && last < UINT64_MAX - base ? base + last : UINT64_MAX;
        rules[n_rules++] = (struct rule){base + (first ? first : 1), until, (enum sim_function)i, result};
        rc = CUDA_SUCCESS;
    }
    return rc;
}

CUresult simcuda_fail_range(const char *name, uint64_t first, uint64_t last, CUresult result)
{
    sim_lock();
    CUresult rc = add_rules(name, first, last, result);
    sim_unlock();
    return rc;
}

CUresult simcuda_fail(const char *name, uint64_t nth, CUresult result)
{
    return simcuda_fail_range(name, nth, nth, result);
}

void simcuda_fail_clear(void)
{
    sim_lock();
    n_rules = 0;
    sim_unlock();
}

void sim_faults_from_environment(const char *text)
{
    while (*text) {
        char name[64], rest[64];
        int used = 0;
        unsigned long long first = 0, last = 0;
        int result = 0;
        bool good = sscanf(text, "%63[^:]:%63[^,]%n", name, rest, &used) == 2;
        if (good && sscanf(rest, "%llu-%llu:%d", &first, &last, &result) != 3) {
            good = sscanf(rest, "%llu:%d", &first, &result) == 2;
            last = first;
        }
        if (!good || add_rules(name, first, last, (CUresult)result) != CUDA_SUCCESS) {
            fprintf(stderr, "simcuda: SIMCUDA_FAIL: '%s' is not NAME:NTH:RESULT of a known function\n", text);
            abort(); /* a test that means to fail a call must not pass because of a typing error */
        }
        text += used;
        text += *text == ',';
    }
}

uint64_t simcuda_calls(const char *name)
{
    uint64_t n = 0;
    sim_lock();
    for (int i = 0; i < SIM_N_FUNCTIONS; i++)
        if (!name || strcmp(sim_functions[i].name, name) == 0)
            n += sim.calls[i];
    sim_unlock();
    return n;
}

const char *simcuda_function_name(size_t index)
{
    return index < SIM_N_FUNCTIONS ? sim_functions[index].name : NULL;
}

void simcuda_lose_device(CUresult error)
{
    sim_lock();
    sim.lost = error;
    pthread_cond_broadcast(&sim.changed);
    sim_unlock();
}

/* splitmix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Most operations go at once: one of four waits, which is enough to put any two in the wrong order now and then. */
unsigned sim_delay_us(uint64_t *state)
{
    if (!sim.settings.seed || !sim.settings.delay_us)
        return 0;
    uint64_t r = next_random(state);
    return r % 4 ? 0 : (unsigned)((r >> 8) % ((uint64_t)sim.settings.delay_us + 1));
}
