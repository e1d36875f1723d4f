/* SPDX-License-Identifier: Apache-2.0
 *
 * Virtual memory management: reservations, handles, mappings and rights, by the letter of the driver's reference: sizes,
 * offsets and addresses in whole granules, whole mappings, nothing mapped twice.
 * Source: CUDA Driver API reference, "Virtual Memory Management". */
#include <stdlib.h>

#include "tests/simcuda/sim.h"

static bool whole(uint64_t n)
{
    return n % sim.settings.granularity == 0;
}

static CUresult check_properties(const CUmemAllocationProp *prop)
{
    if (!sim.settings.vmm)
        return CUDA_ERROR_NOT_SUPPORTED;
    if (!prop || prop->type != CU_MEM_ALLOCATION_TYPE_PINNED || prop->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
        return CUDA_ERROR_INVALID_VALUE;
    if (prop->location.id < 0 || prop->location.id >= (int)sim.settings.n_devices)
        return CUDA_ERROR_INVALID_DEVICE;
    return prop->requestedHandleTypes == CU_MEM_HANDLE_TYPE_NONE ? CUDA_SUCCESS : CUDA_ERROR_NOT_SUPPORTED;
}

CUresult cuMemGetAllocationGranularity(size_t *granularity, const CUmemAllocationProp *prop,
                                       CUmemAllocationGranularity_flags option)
{
    CUresult rc = sim_enter(SIM_MemGetAllocationGranularity);
    if (rc)
        return rc;
    rc = check_properties(prop);
    if (rc == CUDA_SUCCESS && (!granularity || (unsigned)option > CU_MEM_ALLOC_GRANULARITY_RECOMMENDED))
        rc = CUDA_ERROR_INVALID_VALUE;
    if (rc == CUDA_SUCCESS)
        *granularity = sim.settings.granularity;
    return sim_leave(rc);
}

static CUresult reserve(size_t bytes, size_t alignment, CUdeviceptr hint, CUdeviceptr *ptr)
{
    if (alignment < sim.settings.granularity)
        alignment = sim.settings.granularity;
    struct sim_region *region = calloc(1, sizeof *region);
    /* A granule more, which stays empty: what runs past the range does not run into the next. */
    uint64_t at = region ? sim_addresses_take(bytes + SIM_GRANULARITY, alignment, hint) : 0;
    if (!at) {
        free(region);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *region = (struct sim_region){.start = at, .bytes = bytes, .taken = at, .reservation = true};
    sim_region_add(region);
    sim.usage.reservations++;
    *ptr = at;
    return CUDA_SUCCESS;
}

CUresult cuMemAddressReserve(CUdeviceptr *ptr, size_t bytes, size_t alignment, CUdeviceptr hint,
                             unsigned long long flags)
{
    CUresult rc = sim_enter(SIM_MemAddressReserve);
    if (rc)
        return rc;
    if (!sim.settings.vmm)
        return sim_leave(CUDA_ERROR_NOT_SUPPORTED);
    if (!ptr || bytes == 0 || !whole(bytes) || alignment & (alignment - 1) || flags)
        return sim_leave(CUDA_ERROR_INVALID_VALUE);
    return sim_leave(bytes > (SIZE_MAX >> 1) ? CUDA_ERROR_OUT_OF_MEMORY : reserve(bytes, alignment, hint, ptr));
}

CUresult cuMemAddressFree(CUdeviceptr ptr, size_t bytes)
{
    CUresult rc = sim_enter(SIM_MemAddressFree);
    if (rc)
        return rc;
    struct sim_region *region = sim_region_at(ptr);
    if (!region || !region->reservation || region->start != ptr || region->bytes != bytes)
        return sim_leave(CUDA_ERROR_INVALID_VALUE);
    if (region->mapped) {
        sim_violation("cuMemAddressFree of %#llx, in which memory is still mapped", ptr);
        return sim_leave(CUDA_ERROR_INVALID_VALUE);
    }
    sim_addresses_give(region->taken);
    sim_region_remove(region);
    free(region);
    sim.usage.reservations--;
    return sim_leave(CUDA_SUCCESS);
}

static CUresult create(size_t bytes, int device, CUmemGenericAllocationHandle *handle)
{
    struct sim_memory *memory = calloc(1, sizeof *memory);
    if (!memory || !sim_memory_charge(device, bytes))
        goto err_free;
    if (!sim_physical_take(bytes, &memory->offset))
        goto err_refund;
    memory->bytes = bytes;
    memory->device = device;
    sim_object_add(&memory->object, SIM_MEMORY, 0);
    sim.usage.handles++;
    sim.usage.memories++;
    *handle = memory->object.id;
    return CUDA_SUCCESS;

err_refund:
    sim_memory_refund(device, bytes);
err_free:
    free(memory);
    return CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t bytes, const CUmemAllocationProp *prop,
                     unsigned long long flags)
{
    CUresult rc = sim_enter(SIM_MemCreate);
    if (rc)
        return rc;
    rc = check_properties(prop);
    if (rc == CUDA_SUCCESS && (!handle || bytes == 0 || !whole(bytes) || flags))
        rc = CUDA_ERROR_INVALID_VALUE;
    if (rc == CUDA_SUCCESS)
        rc = create(bytes, prop->location.id, handle);
    return sim_leave(rc);
}

static void free_if_unused(struct sim_memory *memory)
{
    if (!memory->released || memory->n_mappings)
        return;
    sim_physical_give(memory->offset, memory->bytes);
    sim_memory_refund(memory->device, memory->bytes);
    sim.usage.memories--;
    free(memory);
}

CUresult cuMemRelease(CUmemGenericAllocationHandle handle)
{
    CUresult rc = sim_enter(SIM_MemRelease);
    if (rc)
        return rc;
    struct sim_object *object;
    if (sim_object_find(SIM_MEMORY, handle, &object))
        return sim_leave(CUDA_ERROR_INVALID_VALUE);
    struct sim_memory *memory = (struct sim_memory *)object;
    sim_object_remove(object);
    memory->released = true;
    sim.usage.handles--;
    free_if_unused(memory);
    return sim_leave(CUDA_SUCCESS);
}

/* Where a mapping of the span belongs; NULL: the span is not free and within the reservation. */
static struct sim_mapping **place(struct sim_region *region, uint64_t start, uint64_t bytes)
{
    if (!region || !region->reservation || bytes > region->start + region->bytes - start)
        return NULL;
    struct sim_mapping **link = &region->mapped;
    while (*link && (*link)->start + (*link)->bytes <= start)
        link = &(*link)->next;
    return *link && (*link)->start < start + bytes ? NULL : link;
}

CUresult cuMemMap(CUdeviceptr ptr, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle,
                  unsigned long long flags)
{
    CUresult rc = sim_enter(SIM_MemMap);
    if (rc)
        return rc;
    struct sim_object *object;
    if (sim_object_find(SIM_MEMORY, handle, &object))
        return sim_leave(CUDA_ERROR_INVALID_VALUE);
    struct sim_memory *memory = (struct sim_memory *)object;
    struct sim_mapping **link = place(sim_region_at(ptr), ptr, bytes);
    if (bytes == 0 || !whole(ptr) || !whole(bytes) || offset != 0 || flags || bytes > memory->bytes || !link)
        return sim_leave(CUDA_ERROR_INVALID_VALUE);
    struct sim_mapping *mapping = calloc(1, sizeof *mapping);
    if (!mapping || !sim_arena_map(ptr, bytes, memory->offset, false)) {
        free(mapping);
        return sim_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    *mapping = (struct sim_mapping){*link, ptr, bytes, memory, CU_MEM_ACCESS_FLAGS_PROT_NONE};
    *link = mapping;
    memory->n_mappings++;
    sim.usage.mappings++;
    return sim_leave(CUDA_SUCCESS);
}

/* The first of the mappings that the span consists of, whole and without a gap; NULL: it does not. */
static struct sim_mapping **whole_mappings(uint64_t start, uint64_t bytes)
{
    struct sim_region *region = sim_region_at(start);
    if (bytes == 0 || !region || !region->reservation || bytes > region->start + region->bytes - start)
        return NULL;
    struct sim_mapping **first = &region->mapped;
    while (*first && (*first)->start < start)
        first = &(*first)->next;
    uint64_t at = start;
    for (struct sim_mapping *m = *first; at < start + bytes; m = m->next) {
        if (!m || m->start != at)
            return NULL;
        at += m->bytes;
    }
    return at == start + bytes ? first : NULL;
}

CUresult cuMemUnmap(CUdeviceptr ptr, size_t bytes)
{
    CUresult rc = sim_enter(SIM_MemUnmap);
    if (rc)
        return rc;
    struct sim_mapping **first = whole_mappings(ptr, bytes);
    if (!first)
        return sim_leave(CUDA_ERROR_INVALID_VALUE);
    const char *user = sim_streams_any(sim_op_uses, ptr, bytes);
    if (user) {
        sim_violation("cuMemUnmap of %#llx, which the queued %s still uses", ptr, user);
        return sim_leave(CUDA_ERROR_INVALID_VALUE);
    }
    sim_arena_unmap(ptr, bytes);
    while (*first && (*first)->start < ptr + bytes) {
        struct sim_mapping *gone = *first;
        *first = gone->next;
        gone->memory->n_mappings--;
        free_if_unused(gone->memory);
        free(gone);
        sim.usage.mappings--;
    }
    return sim_leave(CUDA_SUCCESS);
}

static CUresult check_access(const CUmemAccessDesc *desc, size_t count)
{
    if (!desc || count != 1 || desc->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
        return CUDA_ERROR_INVALID_VALUE;
    if (desc->location.id < 0 || desc->location.id >= (int)sim.settings.n_devices)
        return CUDA_ERROR_INVALID_DEVICE;
    bool known = desc->flags == CU_MEM_ACCESS_FLAGS_PROT_NONE || desc->flags == CU_MEM_ACCESS_FLAGS_PROT_READ ||
                 desc->flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    return known ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemSetAccess(CUdeviceptr ptr, size_t bytes, const CUmemAccessDesc *desc, size_t count)
{
    CUresult rc = sim_enter(SIM_MemSetAccess);
    if (rc)
        return rc;
    rc = check_access(desc, count);
    struct sim_mapping **first = rc == CUDA_SUCCESS ? whole_mappings(ptr, bytes) : NULL;
    if (!first)
        return sim_leave(rc ? rc : CUDA_ERROR_INVALID_VALUE);
    for (struct sim_mapping *m = *first; m && m->start < ptr + bytes; m = m->next)
        if (m->memory->device != desc->location.id)
            return sim_leave(CUDA_ERROR_NOT_SUPPORTED); /* these devices are no peers */
    if (!sim_arena_protect(ptr, bytes, desc->flags))
        return sim_leave(CUDA_ERROR_OUT_OF_MEMORY);
    for (struct sim_mapping *m = *first; m && m->start < ptr + bytes; m = m->next)
        m->access = desc->flags;
    return sim_leave(CUDA_SUCCESS);
}
