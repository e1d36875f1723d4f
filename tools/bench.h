/* SPDX-License-Identifier: Apache-2.0
 *
 * The benches that `kvmm bench NAME` runs. argv[0] is "kvmm bench NAME"; the result is the exit status: 0, 1 when the
 * bench could not run, 2 for bad arguments, which are answered in one line on stderr. */
#ifndef TOOLS_BENCH_H
#define TOOLS_BENCH_H

int bench_attention(int argc, char **argv);
int bench_device(int argc, char **argv);
int bench_shim(int argc, char **argv);
int bench_shim_engine(int argc, char **argv); /* a process that bench_shim starts */
int bench_swap(int argc, char **argv);

#endif
