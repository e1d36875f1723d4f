/* SPDX-License-Identifier: Apache-2.0
 *
 * 2^f on [-½, ½] as 1 + C1 f + … + C6 f⁶: the minimax of the relative error with the constant term held at 1, so that
 * 2^0 = 1 exactly; found by Remez' exchange in double precision, then rounded to f32. The polynomial errs by 2.6e-9, its
 * evaluation in f32 by one unit in the last place or so. */
#ifndef KERN_EXP2_POLY_H
#define KERN_EXP2_POLY_H

#define EXP2_C1 6.931472421e-01f
#define EXP2_C2 2.402265221e-01f
#define EXP2_C3 5.550310388e-02f
#define EXP2_C4 9.617692791e-03f
#define EXP2_C5 1.340664341e-03f
#define EXP2_C6 1.559467782e-04f

#endif
