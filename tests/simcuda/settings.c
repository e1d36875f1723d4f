/* SPDX-License-Identifier: Apache-2.0
 *
 * What the environment says about the device that is simulated. simcuda.h lists it. */
#include <stdlib.h>

#include "tests/simcuda/sim.h"

static uint64_t number(const char *name, uint64_t usual)
{
    const char *text = getenv(name);
    return text && *text ? strtoull(text, NULL, 0) : usual;
}

void sim_settings_read(void)
{
    struct sim_settings *settings = &sim.settings;
    uint64_t devices = number("SIMCUDA_DEVICES", 1);
    settings->read = true;
    settings->n_devices = devices < SIM_MAX_DEVICES ? (unsigned)devices : SIM_MAX_DEVICES;
    settings->memory = number("SIMCUDA_MEMORY", (uint64_t)2 << 30);
    settings->granularity = number("SIMCUDA_GRANULARITY", SIM_GRANULARITY);
    settings->version = (int)number("SIMCUDA_VERSION", 12040);
    settings->vmm = number("SIMCUDA_VMM", 1) != 0;
    settings->abort_on_violation = number("SIMCUDA_ABORT", 0) != 0;
    settings->quiet = number("SIMCUDA_QUIET", 0) != 0;
    settings->capability = (int)number("SIMCUDA_CAPABILITY", 90);
    settings->multiprocessors = (int)number("SIMCUDA_SMS", 132);
    settings->seed = number("SIMCUDA_SEED", 1);
    settings->delay_us = (unsigned)number("SIMCUDA_DELAY_US", 200);
    const char *faults = getenv("SIMCUDA_FAIL");
    if (faults)
        sim_faults_from_environment(faults);
}

void simcuda_set_delays(uint64_t seed, unsigned max_us)
{
    sim_lock();
    sim.settings.seed = seed;
    sim.settings.delay_us = max_us;
    for (struct sim_stream *stream = sim.streams; stream; stream = stream->next)
        stream->delay_state = 0; /* seeded anew */
    sim_unlock();
}

void simcuda_set_memory(uint64_t bytes)
{
    sim_lock();
    sim.settings.memory = bytes;
    sim_unlock();
}
