/* What the device can do at most, for benchmarks: these allocate and wait, unlike operations. */
#include "kernels/cuda/copy_ring.cuh"

enum {
    READ_BYTES = 16 * 1024, /* of a piece */
    READ_STAGES = 6,
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

/* Copies p [n_bytes], a multiple of 16, into shared memory and forgets it: a warp per
 * multiprocessor keeps a ring of copies under way. */
static __global__ void __launch_bounds__(WARP, 1) read_kernel(const char *p, size_t n_bytes)
{
    extern __shared__ __align__(128) char stages[]; /* [READ_STAGES, READ_BYTES] */
    __shared__ uint64_t full[READ_STAGES];
    uint32_t barriers = shared_address(full);
    if (threadIdx.x < READ_STAGES)
        barrier_open(barriers + 8 * threadIdx.x, COPY_ARRIVALS);
    barrier_publish();
    __syncwarp();
    dependency_wait();
    size_t n_tiles = (n_bytes + READ_BYTES - 1) / READ_BYTES;
    size_t tile = n_tiles * blockIdx.x / gridDim.x, end = n_tiles * (blockIdx.x + 1) / gridDim.x;
    struct ring_place place = {0, 0};
    size_t ahead = tile;
    for (; tile < end; tile++) {
        for (; ahead < end && ahead < tile + READ_STAGES; ahead++) {
            size_t at = ahead * READ_BYTES, left = n_bytes - at;
            int n = (int)(left < READ_BYTES ? left : READ_BYTES);
            uint32_t stage = (uint32_t)((ahead - tile + place.stage) % READ_STAGES);
            copy_expect(barriers + 8 * stage, n);
            copy_rows(shared_address(stages + stage * READ_BYTES), p + at, n, barriers + 8 * stage);
            copy_close(barriers + 8 * stage);
        }
        barrier_wait(barriers + 8 * place.stage, place.parity);
        ring_advance(&place, READ_STAGES);
    }
}

double cuda_measure_read_of(struct device *dev, const void *p, size_t n_bytes)
{
    const size_t n_shared = READ_STAGES * READ_BYTES;
    n_bytes -= n_bytes % 16;
    cuda_allow_shared(dev, read_kernel, n_shared);
    /* Once over nothing, so that the kernel is loaded. */
    cuda_launch(dev, read_kernel, dim3(dev->n_sms), dim3(WARP), n_shared, (const char *)p,
                (size_t)0);
    cuda_time_mark(dev, TIME_SLOTS - 2);
    cuda_launch(dev, read_kernel, dim3(dev->n_sms), dim3(WARP), n_shared, (const char *)p, n_bytes);
    cuda_time_mark(dev, TIME_SLOTS - 1);
    return rate((double)n_bytes, cuda_time_between_us(dev, TIME_SLOTS - 2, TIME_SLOTS - 1) * 1e-6);
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
