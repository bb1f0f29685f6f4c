/* Many rows by cuBLASLt: the rows are normalised and rounded to the weights' dtype, multiplied with
 * sums in f32, and what is left (bias, activation) is one kernel over the result.
 *
 * y = x W^T row by row is, column by column as cuBLASLt sees it, y^T [n_out, n_rows] = W x^T with W
 * transposed.  Asking cuBLASLt which of its kernels to use takes longer than many a product, so
 * that the answer is kept as a plan. */
#include "kernels/cuda/linear.cuh"

#include <stdlib.h>
#include <string.h>

enum { MAX_PLANS = 128, THREADS = 256, PER_THREAD = 8, PLACE_BYTES = 256 };

static const size_t CUBLAS_BYTES = (size_t)32 << 20; /* as its kernels for Hopper want */

/* --- Plans ------------------------------------------------------------------------------------ */

struct plan_key {
    int n_out, n_in, n_rows;
    int dtype;   /* of the weights and the rounded rows */
    int y_dtype; /* F32 or the same */
    int add;     /* y += */
};

struct plan {
    struct plan_key key;
    bool possible; /* cuBLASLt knows a way */
    cublasLtMatmulDescOpaque_t product;
    cublasLtMatrixLayoutOpaque_t w, x, y;
    cublasLtMatmulAlgo_t algorithm;
};

struct linear_plans {
    struct plan plan[MAX_PLANS];
    int n, next; /* next: the one to be replaced when all are taken */
};

static bool cublas_check(struct device *dev, cublasStatus_t status, const char *call,
                         const struct plan_key *key)
{
    if (status != CUBLAS_STATUS_SUCCESS)
        cuda_fail(dev, "%.*s of [%d, %d] by %d rows: %s", (int)strcspn(call, "("), call, key->n_out,
                  key->n_in, key->n_rows, cublasLtGetStatusString(status));
    return status == CUBLAS_STATUS_SUCCESS;
}

#define CUBLAS_CALL(dev, key, call)                                                                \
    cublas_check(dev, cuda_fault_due(dev) ? CUBLAS_STATUS_INTERNAL_ERROR : (call), #call, key)

static cudaDataType cuda_type(int dtype)
{
    return dtype == DTYPE_F32 ? CUDA_R_32F : dtype == DTYPE_F16 ? CUDA_R_16F : CUDA_R_16BF;
}

static bool describe(struct device *dev, struct plan *plan)
{
    const struct plan_key *key = &plan->key;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    return CUBLAS_CALL(dev, key,
                       cublasLtMatmulDescInit(&plan->product, CUBLAS_COMPUTE_32F, CUDA_R_32F)) &&
           CUBLAS_CALL(dev, key,
                       cublasLtMatmulDescSetAttribute(&plan->product, CUBLASLT_MATMUL_DESC_TRANSA,
                                                      &transposed, sizeof transposed)) &&
           CUBLAS_CALL(dev, key,
                       cublasLtMatrixLayoutInit(&plan->w, cuda_type(key->dtype), key->n_in,
                                                key->n_out, key->n_in)) &&
           CUBLAS_CALL(dev, key,
                       cublasLtMatrixLayoutInit(&plan->x, cuda_type(key->dtype), key->n_in,
                                                key->n_rows, key->n_in)) &&
           CUBLAS_CALL(dev, key,
                       cublasLtMatrixLayoutInit(&plan->y, cuda_type(key->y_dtype), key->n_out,
                                                key->n_rows, key->n_out));
}

/* Asks for the best kernel.  That there is none is no failure. */
static bool choose(struct device *dev, struct plan *plan)
{
    static const cublasLtMatmulPreferenceAttributes_t alignments[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    const struct plan_key *key = &plan->key;
    const uint32_t alignment = 16;
    cublasLtMatmulPreferenceOpaque_t preference;
    if (!CUBLAS_CALL(dev, key, cublasLtMatmulPreferenceInit(&preference)) ||
        !CUBLAS_CALL(dev, key,
                     cublasLtMatmulPreferenceSetAttribute(&preference,
                                                          CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                          &CUBLAS_BYTES, sizeof CUBLAS_BYTES)))
        return false;
    for (int i = 0; i < 4; i++)
        if (!CUBLAS_CALL(dev, key,
                         cublasLtMatmulPreferenceSetAttribute(&preference, alignments[i],
                                                              &alignment, sizeof alignment)))
            return false;
    cublasLtMatmulHeuristicResult_t result = {};
    int n = 0;
    cublasStatus_t status =
        cuda_fault_due(dev)
            ? CUBLAS_STATUS_INTERNAL_ERROR
            : cublasLtMatmulAlgoGetHeuristic(dev->cublas, &plan->product, &plan->w, &plan->x,
                                             &plan->y, &plan->y, &preference, 1, &result, &n);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED)
        return true;
    if (!cublas_check(dev, status, "cublasLtMatmulAlgoGetHeuristic", key))
        return false;
    plan->possible = n > 0 && result.state == CUBLAS_STATUS_SUCCESS;
    plan->algorithm = result.algo;
    return true;
}

/* NULL after a failure. */
static const struct plan *find_plan(struct device *dev, const struct plan_key *key)
{
    struct linear_plans *plans = (struct linear_plans *)dev->linear_plans;
    if (!plans) {
        plans = (struct linear_plans *)calloc(1, sizeof *plans);
        if (!plans) {
            cuda_fail(dev, "no host memory for cuBLASLt's plans");
            return NULL;
        }
        dev->linear_plans = plans;
    }
    for (int i = 0; i < plans->n; i++)
        if (!memcmp(&plans->plan[i].key, key, sizeof *key))
            return &plans->plan[i];
    struct plan *plan = &plans->plan[plans->next];
    memset(plan, 0, sizeof *plan);
    plan->key = *key;
    if (!describe(dev, plan) || !choose(dev, plan)) {
        memset(plan, 0, sizeof *plan); /* matches no key */
        return NULL;
    }
    plans->next = (plans->next + 1) % MAX_PLANS;
    if (plans->n < MAX_PLANS)
        plans->n++;
    return plan;
}

void cuda_linear_close(struct device *dev)
{
    free(dev->linear_plans);
    dev->linear_plans = NULL;
}

/* --- Before the product ----------------------------------------------------------------------- */

template <typename T> static __device__ __forceinline__ T rounded(float x);

template <> __device__ __forceinline__ __nv_bfloat16 rounded(float x)
{
    return __float2bfloat16_rn(x);
}

template <> __device__ __forceinline__ __half rounded(float x)
{
    return __float2half_rn(x);
}

/* N values that are loaded and stored together. */
template <typename T, int N> struct __align__(sizeof(T) * N < 16 ? sizeof(T) * N : 16) vector
{
    T value[N];
};

/* to [n_rows, n_in] = norm(x) rounded; a block owns a row.   n_in is a multiple of 4 */
template <typename T>
static __global__ void __launch_bounds__(THREADS)
    round_rows_kernel(T *to, const float *x, int n_in, struct row_norm norm)
{
    __shared__ float partial[MAX_WARPS];
    dependency_release();
    dependency_wait();
    x += (size_t)blockIdx.x * (size_t)n_in;
    to += (size_t)blockIdx.x * (size_t)n_in;
    struct row_moments moments = block_moments(x, n_in, &norm, partial);
    for (int i = 4 * threadIdx.x; i < n_in; i += 4 * THREADS) {
        struct vector<float, 4> in = *(const struct vector<float, 4> *)(x + i);
        struct vector<T, 4> out;
#pragma unroll
        for (int j = 0; j < 4; j++)
            out.value[j] = rounded<T>(normalised(in.value[j], i + j, moments, &norm));
        *(struct vector<T, 4> *)(to + i) = out;
    }
}

static void round_rows(struct device *dev, const struct linear_call *call, void *to)
{
    int n_in = call->w.n_in;
    if (call->w.dtype == DTYPE_BF16)
        cuda_launch(dev, round_rows_kernel<__nv_bfloat16>, call->n_rows, THREADS, 0,
                    (__nv_bfloat16 *)to, call->x, n_in, call->norm);
    else
        cuda_launch(dev, round_rows_kernel<__half>, call->n_rows, THREADS, 0, (__half *)to, call->x,
                    n_in, call->norm);
}

/* --- After it --------------------------------------------------------------------------------- */

struct finish_job {
    float *y;         /* [n_rows, n_y] */
    const void *dots; /* [n_rows, n_out]; may be y */
    const float *bias;
    int n_y, n_out;
    enum activation activation;
};

/* y = activation(dots + bias).  A thread owns N outputs next to each other; grid (row, piece of the
 * row).   n_y is a multiple of N */
template <typename T, int N>
static __global__ void __launch_bounds__(THREADS) finish_kernel(struct finish_job job)
{
    dependency_release();
    dependency_wait();
    int first = (blockIdx.y * THREADS + threadIdx.x) * N;
    if (first >= job.n_y)
        return;
    const T *dots = (const T *)job.dots + (size_t)blockIdx.x * (size_t)job.n_out + first;
    float *y = job.y + (size_t)blockIdx.x * (size_t)job.n_y + first;
    const bool pairs = job.activation == ACTIVATION_SWIGLU;
    struct vector<T, N> in = *(const struct vector<T, N> *)dots, up = {
    };
    if (pairs)
        up = *(const struct vector<T, N> *)(dots + job.n_y);
    struct vector<float, N> out;
#pragma unroll
    for (int i = 0; i < N; i++) {
        float value = to_f32(in.value[i]) + (job.bias ? job.bias[first + i] : 0.0f);
        if (pairs)
            out.value[i] = silu(value) * (to_f32(up.value[i]) +
                                          (job.bias ? job.bias[first + i + job.n_y] : 0.0f));
        else
            out.value[i] = activated(value, job.activation);
    }
    *(struct vector<float, N> *)y = out;
}

template <typename T>
static void finish_rows(struct device *dev, const struct linear_call *call, const void *dots)
{
    struct finish_job job = {call->y,   dots,          call->w.bias,
                             call->n_y, call->w.n_out, call->activation};
    if (call->n_y % PER_THREAD == 0) {
        dim3 grid(call->n_rows, ceil_div(call->n_y, THREADS * PER_THREAD));
        cuda_launch(dev, finish_kernel<T, PER_THREAD>, grid, THREADS, 0, job);
    } else {
        dim3 grid(call->n_rows, ceil_div(call->n_y, THREADS));
        cuda_launch(dev, finish_kernel<T, 1>, grid, THREADS, 0, job);
    }
}

/* --- The product ------------------------------------------------------------------------------ */

static size_t place(size_t n_bytes)
{
    return (n_bytes + PLACE_BYTES - 1) / PLACE_BYTES * PLACE_BYTES;
}

/* What is kept between the product and the activation: bf16, as transformers keep it, or f32 where
 * f16 might overflow. */
static enum dtype wide_dtype(const struct linear_call *call)
{
    return call->w.dtype == DTYPE_BF16 ? DTYPE_BF16 : DTYPE_F32;
}

bool linear_gemm_takes(const struct linear_call *call)
{
    return call->w.dtype != DTYPE_F32 && call->w.n_in % 8 == 0 && is_aligned(call->w.w, 16) &&
           is_aligned(call->x, 16) && is_aligned(call->y, 16);
}

/* y = (or += for an addition) rows w^T. */
static void multiply(struct device *dev, const struct linear_call *call, const struct plan *plan,
                     void *y, const void *rows, void *workspace)
{
    const float one = 1, beta = call->add ? 1.0f : 0.0f;
    if (!dev->failed)
        CUBLAS_CALL(dev, &plan->key,
                    cublasLtMatmul(dev->cublas, (cublasLtMatmulDesc_t)&plan->product, &one,
                                   call->w.w, (cublasLtMatrixLayout_t)&plan->w, rows,
                                   (cublasLtMatrixLayout_t)&plan->x, &beta, y,
                                   (cublasLtMatrixLayout_t)&plan->y, y,
                                   (cublasLtMatrixLayout_t)&plan->y, &plan->algorithm, workspace,
                                   CUBLAS_BYTES, dev->stream));
}

bool linear_run_gemm(struct device *dev, const struct linear_call *call)
{
    const struct linear *w = &call->w;
    const bool wide = call->activation != ACTIVATION_NONE;
    const enum dtype y_dtype = wide ? wide_dtype(call) : DTYPE_F32;
    struct plan_key key = {};
    key.n_out = w->n_out;
    key.n_in = w->n_in;
    key.n_rows = call->n_rows;
    key.dtype = w->dtype;
    key.y_dtype = y_dtype;
    key.add = call->add;
    const struct plan *plan = find_plan(dev, &key);
    if (plan && !plan->possible)
        return false;

    size_t rows_bytes = place((size_t)call->n_rows * (size_t)w->n_in * dtype_bytes(w->dtype));
    size_t wide_bytes =
        wide ? place((size_t)call->n_rows * (size_t)w->n_out * dtype_bytes(y_dtype)) : 0;
    char *memory =
        (char *)cuda_workspace(dev, WORKSPACE_LINEAR, CUBLAS_BYTES + rows_bytes + wide_bytes);
    if (!plan || !memory)
        return true; /* latched */
    char *rows = memory + CUBLAS_BYTES;
    void *dots = wide ? (void *)(rows + rows_bytes) : call->y;

    round_rows(dev, call, rows);
    multiply(dev, call, plan, dots, rows, memory);
    if (!wide && w->bias)
        finish_rows<float>(dev, call, dots);
    else if (wide && y_dtype == DTYPE_BF16)
        finish_rows<__nv_bfloat16>(dev, call, dots);
    else if (wide)
        finish_rows<float>(dev, call, dots);
    return true;
}

size_t linear_gemm_bytes(const struct workspace_need *need)
{
    size_t n = (size_t)need->max_rows * (size_t)need->max_width;
    return CUBLAS_BYTES + place(n * sizeof(uint16_t)) + place(n * sizeof(float));
}
