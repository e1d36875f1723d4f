/* SPDX-License-Identifier: Apache-2.0
 *
 * The reason of a failure, in words, kept for the thread that made the call. The first function to detect a failure
 * calls vmm_fail(); those above it hand the status on. */
#ifndef VMM_ERROR_H
#define VMM_ERROR_H

/* Formats one line for kvmm_errmsg() and returns status. */
int vmm_fail(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A call that succeeds leaves the message as it was, whatever was tried on the way. */
struct vmm_message {
    char text[512];
};
void vmm_message_save(struct vmm_message *saved);
void vmm_message_restore(const struct vmm_message *saved);

#endif
