/* SPDX-License-Identifier: Apache-2.0
 *
 * What is at which device address, each device's budget, and cuMemAlloc. An allocation ends at a page that is not there
 * (but for its length's rounding to 256 bytes), so that a kernel that runs past it faults. */
#include <stdlib.h>

#include "tests/simcuda/sim.h"

#define PAGE         ((uint64_t)4096)
#define ALLOC_ALIGN  ((uint64_t)256)
#define ADDRESS_UNIT ((uint64_t)64 << 10)

static uint64_t round_up(uint64_t n, uint64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

struct sim_region *sim_region_at(uint64_t address)
{
    struct sim_region *region = sim.regions;
    while (region && region->start + region->bytes <= address)
        region = region->next;
    return region && region->start <= address ? region : NULL;
}

void sim_region_add(struct sim_region *region)
{
    struct sim_region **link = &sim.regions;
    while (*link && (*link)->start < region->start)
        link = &(*link)->next;
    region->next = *link;
    *link = region;
}

void sim_region_remove(struct sim_region *region)
{
    struct sim_region **link = &sim.regions;
    while (*link != region)
        link = &(*link)->next;
    *link = region->next;
}

static const char *trouble_in_reservation(const struct sim_region *region, uint64_t start, uint64_t end, bool write)
{
    const struct sim_mapping *m = region->mapped;
    while (m && m->start + m->bytes <= start)
        m = m->next;
    for (uint64_t at = start; at < end; at = m->start + m->bytes, m = m->next) {
        if (!m || m->start > at)
            return "nothing is mapped there";
        if (m->access == CU_MEM_ACCESS_FLAGS_PROT_NONE)
            return "access was not set";
        if (write && m->access != CU_MEM_ACCESS_FLAGS_PROT_READWRITE)
            return "it is read-only";
    }
    return NULL;
}

const char *sim_span_trouble(uint64_t start, uint64_t bytes, bool write)
{
    const struct sim_region *region = sim_region_at(start);
    if (!region)
        return "it is no device memory";
    if (bytes > region->start + region->bytes - start)
        return "it runs past the end of its range";
    if (region->reservation)
        return trouble_in_reservation(region, start, start + bytes, write);
    return region->context && !sim_context_alive(region->context) ? "it went with its context" : NULL;
}

bool sim_memory_charge(int device, uint64_t bytes)
{
    uint64_t *used = &sim.devices[device].used;
    if (*used > sim.settings.memory || bytes > sim.settings.memory - *used)
        return false;
    *used += bytes;
    sim.usage.device_bytes += bytes;
    return true;
}

void sim_memory_refund(int device, uint64_t bytes)
{
    sim.devices[device].used -= bytes;
    sim.usage.device_bytes -= bytes;
}

CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total)
{
    CUresult rc = sim_enter(SIM_MemGetInfo);
    if (rc)
        return rc;
    if (!free_bytes || !total)
        return sim_leave(CUDA_ERROR_INVALID_VALUE);
    uint64_t used = sim_context_device(sim_current_context())->used;
    *total = sim.settings.memory;
    *free_bytes = used < sim.settings.memory ? sim.settings.memory - used : 0;
    return sim_leave(CUDA_SUCCESS);
}

static CUresult allocate(uint64_t bytes, CUdeviceptr *ptr)
{
    uint64_t context = sim_current_context();
    int device = sim_device_number(sim_context_device(context));
    uint64_t pages = round_up(bytes, PAGE);
    struct sim_region *region = calloc(1, sizeof *region);
    if (!region || !sim_memory_charge(device, pages))
        goto err_free;
    uint64_t offset;
    if (!sim_physical_take(pages, &offset))
        goto err_refund;
    uint64_t taken = sim_addresses_take(round_up(pages + PAGE, ADDRESS_UNIT), ADDRESS_UNIT, 0);
    if (!taken)
        goto err_physical;
    if (!sim_arena_map(taken, pages, offset, true))
        goto err_addresses;
    uint64_t length = round_up(bytes, ALLOC_ALIGN);
    *region = (struct sim_region){.start = taken + pages - length,
                                  .bytes = bytes,
                                  .taken = taken,
                                  .context = context,
                                  .offset = offset,
                                  .physical = pages,
                                  .device = device};
    sim_region_add(region);
    sim.usage.allocations++;
    *ptr = region->start;
    return CUDA_SUCCESS;

err_addresses:
    sim_addresses_give(taken);
err_physical:
    sim_physical_give(offset, pages);
err_refund:
    sim_memory_refund(device, pages);
err_free:
    free(region);
    return CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuMemAlloc_v2(CUdeviceptr *ptr, size_t bytes)
{
    CUresult rc = sim_enter(SIM_MemAlloc);
    if (rc)
        return rc;
    if (!ptr || bytes == 0)
        return sim_leave(CUDA_ERROR_INVALID_VALUE);
    return sim_leave(bytes > sim.settings.memory ? CUDA_ERROR_OUT_OF_MEMORY : allocate(bytes, ptr));
}

CUresult cuMemFree_v2(CUdeviceptr ptr)
{
    CUresult rc = sim_enter(SIM_MemFree);
    if (rc || !ptr)
        return rc ? rc : sim_leave(CUDA_SUCCESS);
    struct sim_region *region = sim_region_at(ptr);
    if (!region || region->reservation || region->start != ptr)
        return sim_leave(CUDA_ERROR_INVALID_VALUE);
    const char *user = sim_streams_any(sim_op_uses, region->start, region->bytes);
    if (user) {
        sim_violation("cuMemFree of %#llx, which the queued %s still uses", ptr, user);
        return sim_leave(CUDA_ERROR_INVALID_VALUE);
    }
    sim_arena_unmap(region->taken, region->physical);
    sim_addresses_give(region->taken);
    sim_physical_give(region->offset, region->physical);
    sim_memory_refund(region->device, region->physical);
    sim_region_remove(region);
    free(region);
    sim.usage.allocations--;
    return sim_leave(CUDA_SUCCESS);
}

enum {
    CONTEXT = 1,
    MEMORY_TYPE = 2,
    DEVICE_POINTER = 3,
    HOST_POINTER = 4,
    ORDINAL = 9,
    RANGE_START = 11,
    RANGE_SIZE = 12
};
enum { TYPE_HOST = 1, TYPE_DEVICE = 2 };

static CUresult get_attribute(void *data, sim_pointer_attribute attribute, CUdeviceptr ptr)
{
    const struct sim_region *region = sim_region_at(ptr);
    uint64_t start = region ? region->start : 0, bytes = region ? region->bytes : 0;
    const void *host = (const void *)(uintptr_t)ptr; /* NOLINT(performance-no-int-to-ptr): the interface's own type */
    if (!data || (!region && !sim_host_range(host, &start, &bytes)))
        return CUDA_ERROR_INVALID_VALUE;
    switch (attribute) {
    case CONTEXT:
        *(uint64_t *)data = region && region->context ? region->context : sim_current_context();
        break;
    case MEMORY_TYPE:
        *(unsigned *)data = region ? TYPE_DEVICE : TYPE_HOST;
        break;
    case DEVICE_POINTER: /* pinned memory is not mapped into simcuda's device */
    case HOST_POINTER:
        if (!region != (attribute == HOST_POINTER))
            return CUDA_ERROR_INVALID_VALUE;
        *(uint64_t *)data = ptr;
        break;
    case ORDINAL:
        *(int *)data = region ? region->device : sim_device_number(sim_context_device(sim_current_context()));
        break;
    case RANGE_START:
        *(uint64_t *)data = start;
        break;
    case RANGE_SIZE:
        *(size_t *)data = bytes;
        break;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

CUresult cuPointerGetAttribute(void *data, sim_pointer_attribute attribute, CUdeviceptr ptr)
{
    CUresult rc = sim_enter(SIM_PointerGetAttribute);
    return rc ? rc : sim_leave(get_attribute(data, attribute, ptr));
}

/* What can't be told is no error here: its data are not written. */
CUresult cuPointerGetAttributes(unsigned n, sim_pointer_attribute *attributes, void **data, CUdeviceptr ptr)
{
    CUresult rc = sim_enter(SIM_PointerGetAttributes);
    if (rc)
        return rc;
    if (!attributes || !data)
        return sim_leave(CUDA_ERROR_INVALID_VALUE);
    for (unsigned i = 0; i < n; i++)
        (void)get_attribute(data[i], attributes[i], ptr);
    return sim_leave(CUDA_SUCCESS);
}

/* Of what is mapped, the mapping; either output may be missing. */
CUresult cuMemGetAddressRange_v2(CUdeviceptr *base, size_t *bytes, CUdeviceptr ptr)
{
    CUresult rc = sim_enter(SIM_MemGetAddressRange);
    if (rc)
        return rc;
    const struct sim_region *region = sim_region_at(ptr);
    const struct sim_mapping *m = region && region->reservation ? region->mapped : NULL;
    while (m && m->start + m->bytes <= ptr)
        m = m->next;
    if (!region || (region->reservation && (!m || m->start > ptr)))
        return sim_leave(CUDA_ERROR_NOT_FOUND);
    if (base)
        *base = m ? m->start : region->start;
    if (bytes)
        *bytes = m ? m->bytes : region->bytes;
    return sim_leave(CUDA_SUCCESS);
}
