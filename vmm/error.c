/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/error.h"

#include <stdarg.h>
#include <stdio.h>

#include "kvmm/kvmm.h"

static _Thread_local struct vmm_message message;

int vmm_fail(int status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(message.text, sizeof message.text, format, args);
    va_end(args);
    return status;
}

const char *kvmm_errmsg(void)
{
    return message.text;
}

void vmm_message_save(struct vmm_message *saved)
{
    *saved = message;
}

void vmm_message_restore(const struct vmm_message *saved)
{
    message = *saved;
}

const char *kvmm_status_name(int status)
{
    switch ((enum kvmm_status)status) {
    case KVMM_OK:
        return "KVMM_OK";
    case KVMM_ERR_INVALID:
        return "KVMM_ERR_INVALID";
    case KVMM_ERR_STATE:
        return "KVMM_ERR_STATE";
    case KVMM_ERR_RANGE_FULL:
        return "KVMM_ERR_RANGE_FULL";
    case KVMM_ERR_UNSUPPORTED:
        return "KVMM_ERR_UNSUPPORTED";
    case KVMM_ERR_NO_DEVICE_MEMORY:
        return "KVMM_ERR_NO_DEVICE_MEMORY";
    case KVMM_ERR_NO_SPILL_SPACE:
        return "KVMM_ERR_NO_SPILL_SPACE";
    case KVMM_ERR_NO_HOST_MEMORY:
        return "KVMM_ERR_NO_HOST_MEMORY";
    case KVMM_ERR_NO_ADDRESS_SPACE:
        return "KVMM_ERR_NO_ADDRESS_SPACE";
    case KVMM_ERR_DATA_LOST:
        return "KVMM_ERR_DATA_LOST";
    case KVMM_ERR_DEVICE:
        return "KVMM_ERR_DEVICE";
    case KVMM_ERR_SWAP:
        return "KVMM_ERR_SWAP";
    }
    return "unknown";
}
