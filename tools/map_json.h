/* SPDX-License-Identifier: Apache-2.0
 *
 * Snapshots as JSON. Field names carry their units; counts over 2^63 - 1 are cut to that, JSON having no more. */
#ifndef TOOLS_MAP_JSON_H
#define TOOLS_MAP_JSON_H

#include <jansson.h>

#include "tools/pagemap_reader.h"

/* What `kvmm ls --json` lists of a process. A new reference; NULL: no memory. */
json_t *map_json_summary(pid_t pid, const struct pagemap_snapshot *snap);

/* The summary, the counters and all sequences, or only the one with id *seq if seq is not NULL. A new reference;
 * NULL: no memory. */
json_t *map_json_snapshot(pid_t pid, const struct pagemap_snapshot *snap, const uint64_t *seq);

#endif
