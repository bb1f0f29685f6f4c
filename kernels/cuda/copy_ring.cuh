/* A ring of stages in shared memory that one warp fills while others work: mbarriers, and copies
 * that tell them of their bytes.
 *
 * On sm_90 the copy engine brings whole pieces.  It is asked piece by piece, some 80 cycles each,
 * and is slower by a twentieth where a piece does not begin at a multiple of 128 bytes of shared
 * memory: so a stage is asked for in as few pieces as can be, and rows lie in it without padding.
 * Before sm_90 the lanes copy 16 bytes at a time to the same places. */
#ifndef ATTNSCOPE_KERNELS_CUDA_COPY_RING_CUH
#define ATTNSCOPE_KERNELS_CUDA_COPY_RING_CUH

#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/warp_matrix.cuh"

/* --- Barriers in shared memory ---------------------------------------------------------------- */

static __device__ __forceinline__ void barrier_open(uint32_t barrier, int n_arrivals)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(n_arrivals) : "memory");
}

/* Makes this thread's barrier_open known to the copy engine. */
static __device__ __forceinline__ void barrier_publish(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

static __device__ __forceinline__ void barrier_arrive(uint32_t barrier)
{
    asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}" ::"r"(barrier)
                 : "memory");
}

/* The same after ordinary writes to where the copy engine will write next. */
static __device__ __forceinline__ void barrier_arrive_written(uint32_t barrier)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
    barrier_arrive(barrier);
}

/* Waits for the end of the phase of this parity.  A new barrier is in phase 0; the one before, of
 * parity 1, counts as ended. */
static __device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity)
{
    uint32_t done;
    do {
#if __CUDA_ARCH__ >= 900
        asm volatile("{\n.reg .pred p;\n"
                     "mbarrier.try_wait.parity.shared.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n}"
                     : "=r"(done)
                     : "r"(barrier), "r"(parity)
                     : "memory");
#else
        asm volatile("{\n.reg .pred p;\n"
                     "mbarrier.test_wait.parity.shared.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n}"
                     : "=r"(done)
                     : "r"(barrier), "r"(parity)
                     : "memory");
#endif
    } while (!done);
}

/* --- Copies ----------------------------------------------------------------------------------- */

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

enum { COPY_ARRIVALS = 1 }; /* at a stage's barrier, before its bytes count */

/* Arrives, and lets the phase end only when n_bytes have been copied.  By a whole warp. */
static __device__ __forceinline__ void copy_expect(uint32_t barrier, int n_bytes)
{
    if (threadIdx.x % WARP == 0)
        asm volatile("{\n.reg .b64 state;\n"
                     "mbarrier.arrive.expect_tx.shared.b64 state, [%0], %1;\n}" ::"r"(barrier),
                     "r"(n_bytes)
                     : "memory");
}

/* copy_rows by a cache_policy. */
static __device__ __forceinline__ void copy_rows_by(uint32_t to, const void *from, int n_bytes,
                                                    uint32_t barrier, uint64_t policy)
{
    if (threadIdx.x % WARP == 0)
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
                     ".L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(to),
                     "l"(from), "r"(n_bytes), "r"(barrier), "l"(policy)
                     : "memory");
}

/* Starts copying n_bytes, a multiple of 16 as both addresses are; after copy_expect, by the whole
 * warp. */
static __device__ __forceinline__ void copy_rows(uint32_t to, const void *from, int n_bytes,
                                                 uint32_t barrier)
{
    if (threadIdx.x % WARP == 0)
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                     "[%0], [%1], %2, [%3];" ::"r"(to),
                     "l"(from), "r"(n_bytes), "r"(barrier)
                     : "memory");
}

/* After a stage's last copy_rows. */
static __device__ __forceinline__ void copy_close(uint32_t)
{
}

#else

enum { COPY_ARRIVALS = WARP };

static __device__ __forceinline__ void copy_expect(uint32_t, int)
{
}

static __device__ __forceinline__ void copy_rows(uint32_t to, const void *from, int n_bytes,
                                                 uint32_t)
{
#pragma unroll 8
    for (int at = (int)threadIdx.x % WARP * 16; at < n_bytes; at += WARP * 16)
        copy_async_16(to + (uint32_t)at, (const char *)from + at, true);
}

static __device__ __forceinline__ void copy_rows_by(uint32_t to, const void *from, int n_bytes,
                                                    uint32_t barrier, uint64_t)
{
    copy_rows(to, from, n_bytes, barrier);
}

/* Arrives once this thread's copies are there. */
static __device__ __forceinline__ void copy_close(uint32_t barrier)
{
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
}

#endif

/* --- The ring --------------------------------------------------------------------------------- */

/* A place in the ring: the phase's parity changes each time round. */
struct ring_place {
    int stage;
    uint32_t parity;
};

static __device__ __forceinline__ void ring_advance(struct ring_place *place, int n_stages)
{
    if (++place->stage == n_stages) {
        place->stage = 0;
        place->parity ^= 1;
    }
}

/* --- A lane's share of rows ------------------------------------------------------------------- */

/* Rows of DIM bf16 in shared memory, read as fragments of matrices without a conflict between
 * banks: lane (g, t) of a warp, g = lane / 4 and t = lane % 4, takes of row g the 16 bytes t of
 * each 64, and of a last 32 the 8 bytes t.  The fragment of a product then holds
 *   dims share_dim(w, t) and the next in word w,
 * an order that does not matter as long as all that is multiplied or read keeps to it.  The two
 * rows that are read at once lie in the same banks where a row is a multiple of 128 bytes, so lanes
 * of odd g read the other half of each 128 bytes first. */
template <int DIM> static __device__ __forceinline__ int share_dim(int w, int t)
{
    return w < DIM / 32 * 4 ? w / 4 * 32 + t * 8 + w % 4 * 2
                            : DIM / 32 * 32 + t * 4 + (w - DIM / 32 * 4) * 2;
}

static __device__ __forceinline__ void load_shared(uint32_t x[4], uint32_t at)
{
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(at)
                 : "memory");
}

/* The share of dims [first, first + N) of a row, words [0, N / 8); N divides DIM if it is not DIM.
 * row: where the row's dim `first` is. */
template <int DIM, int N>
static __device__ __forceinline__ void load_share(uint32_t word[N / 8], uint32_t row, int lane)
{
    bool odd = lane / 4 % 2;
    row += (uint32_t)(lane % 4 * 16);
    if constexpr (DIM * 2 % 128 == 0) {
        uint32_t near = row + (odd ? 64 : 0), far = row + (odd ? 0 : 64);
#pragma unroll
        for (int i = 0; i < N / 64; i++) {
            uint32_t a[4], b[4];
            load_shared(a, near + 128 * i);
            load_shared(b, far + 128 * i);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                word[8 * i + j] = odd ? b[j] : a[j];
                word[8 * i + 4 + j] = odd ? a[j] : b[j];
            }
        }
    } else {
#pragma unroll
        for (int i = 0; i < N / 32; i++)
            load_shared(word + 4 * i, row + 64 * i);
        if constexpr (N % 32 != 0)
            asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];"
                         : "=r"(word[N / 8 - 2]), "=r"(word[N / 8 - 1])
                         : "r"(row + 64 * (N / 32) - (uint32_t)(lane % 4 * 8))
                         : "memory");
    }
}

#endif
