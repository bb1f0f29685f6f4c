/* One call of a linear layer, as linear.c and linear_gemm.c share it. */
#ifndef ATTNSCOPE_KERNELS_CPU_LINEAR_H
#define ATTNSCOPE_KERNELS_CPU_LINEAR_H

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/linear_kernels.h"

struct linear_call {
    float *y;       /* [n_rows, n_y] */
    const float *x; /* [n_rows, n_in] */
    const struct linear *w;
    int n_y; /* outputs of a row: n_out, or half of it for SwiGLU */
    int n_rows;
    struct linear_finish finish;
    const struct linear_kernels *kernels;
};

/* Writes outputs [first, first + n) of one row from their dot products; up is used by SwiGLU. */
static inline void linear_finish_row(const struct linear_call *call, int row, int first, int n,
                                     const float *dots, const float *up)
{
    const float *bias = call->w->bias ? call->w->bias + first : NULL;
    call->kernels->finish(call->y + (size_t)row * (size_t)call->n_y + first, dots, up, bias,
                          bias ? bias + call->n_y : NULL, n, &call->finish);
}

/* Many rows; norm may be NULL. */
void linear_run_gemm(struct device *dev, const struct linear_call *call,
                     const struct gemm_kernel *kernel, const struct norm *norm);

/* Bytes of its workspace. */
size_t linear_gemm_bytes(const struct gemm_kernel *kernel, int n_rows, int n_in);

/* Bytes of CPU_WORKSPACE_LINEAR that calls of at most this size need. */
size_t linear_workspace_bytes(const struct device *dev, int n_rows, int n_in);

#endif
