/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/stack.h"

#include <stdbool.h>
#include <stdint.h>
#include <unwind.h>

#include "shim/elf_objects.h"

struct frames {
    const void **callers;
    size_t n;
    uintptr_t shim_start, shim_end;
};

static _Unwind_Reason_Code take_frame(struct _Unwind_Context *context, void *user)
{
    struct frames *frames = user;
    int before_instruction = 0;
    uintptr_t address = _Unwind_GetIPInfo(context, &before_instruction);
    if (address == 0)
        return _URC_END_OF_STACK;
    if (!before_instruction)
        address--; /* a return address may be the first of the next function */
    if (address >= frames->shim_start && address < frames->shim_end)
        return _URC_NO_REASON;
    frames->callers[frames->n++] = (const void *)address;
    return frames->n < SHIM_STACK_MAX ? _URC_NO_REASON : _URC_END_OF_STACK;
}

size_t shim_stack_callers(const void *callers[SHIM_STACK_MAX])
{
    struct frames frames = {.callers = callers};
    struct shim_object here;
    if (shim_elf_at((const void *)take_frame, &here) && here.is_shim) {
        frames.shim_start = here.start;
        frames.shim_end = here.end;
    }
    _Unwind_Backtrace(take_frame, &frames);
    return frames.n;
}
