/* One call of a linear layer, as linear.cu, gemv.cu, gemm.cu and gemm_exact.cu share it. */
#ifndef ATTNSCOPE_KERNELS_CUDA_LINEAR_CUH
#define ATTNSCOPE_KERNELS_CUDA_LINEAR_CUH

#include "kernels/cuda/norm.cuh"

/* y = or += activation(norm(x) W^T + bias). */
struct linear_call {
    float *y;       /* [n_rows, n_y] */
    const float *x; /* [n_rows, n_in] */
    struct row_norm norm;
    struct linear w;
    enum activation activation; /* ACTIVATION_NONE with add */
    bool add;
    int n_y; /* outputs of a row: n_out, or half of it for SwiGLU */
    int n_rows;
};

/* Up to GEMV_MAX_ROWS rows, read past the weights once; only if linear_gemv_takes. */
enum { GEMV_MAX_ROWS = 8 };
bool linear_gemv_takes(const struct linear_call *call);
void linear_run_gemv(struct device *dev, const struct linear_call *call);

/* Many rows by cuBLASLt, activations rounded to the weights' dtype; only if linear_gemm_takes.
 * False, with nothing done, if cuBLASLt knows no way for this shape. */
bool linear_gemm_takes(const struct linear_call *call);
bool linear_run_gemm(struct device *dev, const struct linear_call *call);
size_t linear_gemm_bytes(const struct workspace_need *need);

/* Any number of rows, any shape, f32 throughout. */
void linear_run_exact(struct device *dev, const struct linear_call *call);
size_t linear_exact_bytes(const struct workspace_need *need);

static inline bool is_aligned(const void *p, size_t n_bytes)
{
    return (uintptr_t)p % n_bytes == 0;
}

/* --- Activations ------------------------------------------------------------------------------ */

/* Large inputs end in 0 or x, never in NaN: exp may be infinite, as a divisor. */
static __device__ __forceinline__ float silu(float x)
{
    return x / (1.0f + expf(-x));
}

/* 0.5 x (1 + tanh(u)) = x / (1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3).
 * Source: Hendrycks and Gimpel 2016. */
static __device__ __forceinline__ float gelu_tanh(float x)
{
    float u = 0.7978845608f * (x + 0.044715f * x * x * x);
    return x / (1.0f + expf(-2.0f * u));
}

/* Not SwiGLU, which takes two sums. */
static __device__ __forceinline__ float activated(float x, enum activation activation)
{
    switch (activation) {
    case ACTIVATION_GELU_TANH:
        return gelu_tanh(x);
    case ACTIVATION_GELU_ERF:
        return x * normcdff(x);
    case ACTIVATION_RELU:
        return x < 0 ? 0.0f : x;
    default:
        return x;
    }
}

#endif
