/* RMS norm and layer norm of one row. */
#ifndef ATTNSCOPE_KERNELS_CPU_NORM_H
#define ATTNSCOPE_KERNELS_CPU_NORM_H

#include "kernels/backend.h"

/* y, x [dim]; y may be x.  Sources: Zhang and Sennrich 2019, eq. 4; Ba et al. 2016. */
void cpu_norm_row(float *y, const float *x, const struct norm *norm, int dim);

#endif
