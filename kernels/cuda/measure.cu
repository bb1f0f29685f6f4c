/* What the device can do at most, for benchmarks: these allocate and wait, unlike operations. */
#include "kernels/cuda/cuda.cuh"

enum {
    READ_THREADS = 512,
    READ_BLOCKS_PER_SM = 4,
    READ_AHEAD = 8,
    N_REPEATS = 5,
    GEMM_SIZE = 8192,
    GEMMS_PER_RUN = 8 /* so that what the host does before the first does not show */
};

/* Both far larger than caches; the lesser where memory is short. */
static const size_t COPY_BYTES = (size_t)2 << 30, MIN_COPY_BYTES = (size_t)256 << 20;
static const size_t GEMM_WORKSPACE_BYTES = (size_t)32 << 20;

/* Seconds of the fastest of several runs. */
template <typename Run> static double best_seconds(struct device *dev, Run run)
{
    double best = 0;
    for (int i = 0; i <= N_REPEATS; i++) { /* the first warms up */
        cuda_time_mark(dev, TIME_SLOTS - 2);
        run();
        cuda_time_mark(dev, TIME_SLOTS - 1);
        double us = cuda_time_between_us(dev, TIME_SLOTS - 2, TIME_SLOTS - 1);
        if (i > 0 && (best == 0 || us < best))
            best = us;
    }
    return best * 1e-6;
}

static double rate(double amount, double seconds)
{
    return seconds > 0 ? amount / seconds : 0;
}

/* Bytes read and written by a copy within the device: what reading and writing share. */
double cuda_measure_read_bandwidth(struct device *dev)
{
    size_t n_bytes = COPY_BYTES;
    char *memory = (char *)cuda_alloc(dev, 2 * n_bytes);
    while (!memory && n_bytes > MIN_COPY_BYTES) {
        n_bytes /= 2;
        memory = (char *)cuda_alloc(dev, 2 * n_bytes);
    }
    if (!memory)
        return 0;
    cuda_fill_random(dev, memory, n_bytes / sizeof(float), DTYPE_F32, 1.0f, 1);
    double seconds = best_seconds(dev, [&] { cuda_copy(dev, memory + n_bytes, memory, n_bytes); });
    cuda_release(dev, memory);
    return rate(2.0 * (double)n_bytes, seconds);
}

/* Adds up p [n_vectors] so that every byte is read; sums [grid * READ_THREADS]. */
static __global__ void __launch_bounds__(READ_THREADS)
    read_kernel(uint32_t *sums, const uint4 *p, size_t n_vectors)
{
    dependency_wait();
    size_t stride = (size_t)gridDim.x * READ_THREADS;
    size_t i = (size_t)blockIdx.x * READ_THREADS + threadIdx.x;
    uint32_t sum = 0;
    for (; i + (READ_AHEAD - 1) * stride < n_vectors; i += READ_AHEAD * stride) {
        uint4 x[READ_AHEAD];
        for (int j = 0; j < READ_AHEAD; j++)
            x[j] = __ldcs(p + i + j * stride);
        for (int j = 0; j < READ_AHEAD; j++)
            sum += x[j].x ^ x[j].y ^ x[j].z ^ x[j].w;
    }
    for (; i < n_vectors; i += stride) {
        uint4 x = p[i];
        sum += x.x ^ x.y ^ x.z ^ x.w;
    }
    sums[(size_t)blockIdx.x * READ_THREADS + threadIdx.x] = sum;
}

double cuda_measure_read_of(struct device *dev, const void *p, size_t n_bytes)
{
    int n_blocks = dev->n_sms * READ_BLOCKS_PER_SM;
    uint32_t *sums = (uint32_t *)cuda_alloc(dev, (size_t)n_blocks * READ_THREADS * sizeof *sums);
    double seconds = 0;
    if (sums) {
        /* Once over nothing, so that the kernel is loaded. */
        cuda_launch(dev, read_kernel, dim3(n_blocks), dim3(READ_THREADS), 0, sums, (const uint4 *)p,
                    (size_t)0);
        cuda_time_mark(dev, TIME_SLOTS - 2);
        cuda_launch(dev, read_kernel, dim3(n_blocks), dim3(READ_THREADS), 0, sums, (const uint4 *)p,
                    n_bytes / sizeof(uint4));
        cuda_time_mark(dev, TIME_SLOTS - 1);
        seconds = cuda_time_between_us(dev, TIME_SLOTS - 2, TIME_SLOTS - 1) * 1e-6;
    }
    cuda_release(dev, sums);
    return rate((double)n_bytes, seconds);
}

/* y = w^T x, all [GEMM_SIZE, GEMM_SIZE] bf16; false if cuBLASLt refuses. */
static bool multiply(struct device *dev, __nv_bfloat16 *y, const __nv_bfloat16 *w,
                     const __nv_bfloat16 *x, void *workspace, size_t n_workspace)
{
    cublasLtMatmulDescOpaque_t product;
    cublasLtMatrixLayoutOpaque_t square;
    cublasLtMatmulPreferenceOpaque_t preference;
    cublasLtMatmulHeuristicResult_t found = {};
    cublasOperation_t turned = CUBLAS_OP_T;
    float one = 1, zero = 0;
    int n_found = 0;
    bool ok =
        cublasLtMatmulDescInit(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F) == 0 &&
        cublasLtMatmulDescSetAttribute(&product, CUBLASLT_MATMUL_DESC_TRANSA, &turned,
                                       sizeof turned) == 0 &&
        cublasLtMatrixLayoutInit(&square, CUDA_R_16BF, GEMM_SIZE, GEMM_SIZE, GEMM_SIZE) == 0 &&
        cublasLtMatmulPreferenceInit(&preference) == 0 &&
        cublasLtMatmulPreferenceSetAttribute(&preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                             &n_workspace, sizeof n_workspace) == 0 &&
        cublasLtMatmulAlgoGetHeuristic(dev->cublas, &product, &square, &square, &square, &square,
                                       &preference, 1, &found, &n_found) == 0 &&
        n_found > 0;
    return ok &&
           cublasLtMatmul(dev->cublas, &product, &one, w, &square, x, &square, &zero, y, &square, y,
                          &square, &found.algo, workspace, n_workspace, dev->stream) == 0;
}

/* A bf16 product of GEMM_SIZE cubed by cuBLASLt, which prefill uses. */
double cuda_measure_peak_flops(struct device *dev)
{
    size_t n = (size_t)GEMM_SIZE * GEMM_SIZE;
    __nv_bfloat16 *memory = (__nv_bfloat16 *)cuda_alloc(dev, 3 * n * sizeof *memory);
    void *workspace = cuda_alloc(dev, GEMM_WORKSPACE_BYTES);
    double seconds = 0;
    bool ok = memory && workspace;
    if (ok) {
        cuda_fill_random(dev, memory, 2 * n, DTYPE_BF16, 1.0f, 1);
        seconds = best_seconds(dev, [&] {
            for (int i = 0; i < GEMMS_PER_RUN; i++)
                ok = ok && multiply(dev, memory + 2 * n, memory, memory + n, workspace,
                                    GEMM_WORKSPACE_BYTES);
        });
    }
    cuda_release(dev, workspace);
    cuda_release(dev, memory);
    return ok ? rate(2.0 * (double)n * (double)GEMM_SIZE * (double)GEMMS_PER_RUN, seconds) : 0;
}
