/* SPDX-License-Identifier: Apache-2.0
 *
 * What is live, for tests of leaks. */
#include "tests/simcuda/sim.h"

void simcuda_get_usage(struct simcuda_usage *usage)
{
    sim_lock();
    *usage = sim.usage;
    for (const struct sim_stream *stream = sim.streams; stream; stream = stream->next)
        for (const struct sim_op *op = stream->first; op; op = op->next)
            usage->queued++;
    sim_unlock();
}
