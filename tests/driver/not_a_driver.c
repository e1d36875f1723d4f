/* SPDX-License-Identifier: Apache-2.0
 *
 * A library that is no CUDA driver. */
int not_a_driver(void);

__attribute__((visibility("default"))) int not_a_driver(void)
{
    return 0;
}
