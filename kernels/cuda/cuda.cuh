/* The cuda backend from the inside: the device, its latched failure, workspaces and launches.
 *
 * Two rules hold everything together.  Every CUDA call goes through CUDA_CALL, the one shim that
 * checks it, latches the first failure and lets a test make the n-th call fail.  Every kernel is
 * started by cuda_launch, which lets it begin while its predecessor still runs (programmatic
 * dependent launch); so every kernel calls dependency_wait before it touches what an earlier
 * operation reads or writes.  Before that it may fetch constants (weights, norms, frequencies) and
 * rows of K and V that are older than the step, by a guess from the step that it checks afterwards.
 * Those are there: a step changes by copies, which let nothing overlap, or by cuda_advance, which
 * releases its successor only after its own wait, so that all before it are complete. */
#ifndef ATTNSCOPE_KERNELS_CUDA_CUDA_CUH
#define ATTNSCOPE_KERNELS_CUDA_CUDA_CUH

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "kernels/backend.h"

enum { TIME_SLOTS = 64, WARP = 32 };

/* Memory that operations work in, sized by reserve. */
enum cuda_workspace {
    WORKSPACE_LINEAR,    /* activations of prefill in the weights' dtype, and cuBLASLt's own */
    WORKSPACE_ATTENTION, /* partial results of split attention */
    WORKSPACE_TICKETS,   /* counters, zero between operations: the last to count resets them */
    WORKSPACE_PICK,
    WORKSPACE_INDEX, /* queries as an index compares them */
    N_WORKSPACES
};

/* Tickets are shared by operations, which run one after the other. */
enum { N_TICKETS = 65536 };

struct cuda_block {
    void *data; /* (device) */
    size_t n_bytes;
};

/* Pinned memory through which uploads stream: a ring of pieces, each with the event after which it
 * may be written again. */
enum { STAGING_PIECES = 4, STAGING_BYTES = 8 << 20 };

struct staging {
    char *memory; /* [STAGING_PIECES, STAGING_BYTES] pinned */
    cudaEvent_t free[STAGING_PIECES];
    int next;
    size_t used; /* of piece next, by small uploads */
};

struct device {
    struct device_options options;
    int ordinal;
    struct cudaDeviceProp properties;
    int n_sms;
    int arch;   /* 80, 90, ... */
    bool early; /* programmatic dependent launch is there (sm_90 and up) */
    cudaStream_t stream;
    cudaEvent_t marks[TIME_SLOTS];
    struct cuda_block workspace[N_WORKSPACES];
    struct workspace_need need; /* the largest reserved */
    struct staging staging;
    cublasLtHandle_t cublas;
    void *linear_plans; /* cuBLASLt's plans by shape, gemm.cu; NULL until the first */
    bool recording;     /* between record_begin and record_end */
    bool failed;        /* a call failed since the last sync: operations are no-ops */
    bool lost;          /* the context is poisoned: only a new process helps */
    char why[256];
    long fault_at;      /* number of the call to fail, counted from 1; 0: none */
    bool fault_stays;   /* that one and all that follow */
    bool fault_poisons; /* as a poisoned context would */
    long n_calls;
};

/* --- Failures -------------------------------------------------------------------------------- */

/* True if the next CUDA call is to be failed by a test. */
bool cuda_fault_due(struct device *dev);
/* Latches a failed call; true if it succeeded. */
bool cuda_check(struct device *dev, cudaError_t error, const char *call);
/* Latches a failure that is no CUDA call's. */
void cuda_fail(struct device *dev, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define CUDA_CALL(dev, call) cuda_check(dev, cuda_fault_due(dev) ? cudaErrorUnknown : (call), #call)

/* --- Workspaces ------------------------------------------------------------------------------ */

/* At least n_bytes, grown if reserve asked for less and nothing is being recorded; NULL (latched)
 * if there is no memory. */
void *cuda_workspace(struct device *dev, enum cuda_workspace which, size_t n_bytes);

/* What each part needs for calls of that size. */
size_t cuda_linear_workspace_bytes(const struct device *dev, const struct workspace_need *need);
size_t cuda_attention_workspace_bytes(const struct device *dev, const struct workspace_need *need);
size_t cuda_pick_workspace_bytes(const struct device *dev, const struct workspace_need *need);
size_t cuda_index_workspace_bytes(const struct device *dev, const struct workspace_need *need);

/* --- Launches -------------------------------------------------------------------------------- */

/* Waits until everything enqueued before this kernel is complete and visible. */
static __device__ __forceinline__ void dependency_wait(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* Lets the next kernel's blocks start; they wait in dependency_wait until this one is complete.
 * Best called when this kernel's own blocks are all resident and its loads are under way. */
static __device__ __forceinline__ void dependency_release(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* How the second-level cache treats what a copy reads: what is read once makes room first, what a
 * small model reads again and again stays as it can. */
static __device__ __forceinline__ uint64_t cache_policy(bool read_once)
{
    uint64_t policy;
    if (read_once)
        asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    else
        asm volatile("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

static inline int ceil_div(int n, int by)
{
    return (n + by - 1) / by;
}

/* Starts kernel<<<grid, block, n_shared_bytes>>>(args...) unless the device has failed, as clusters
 * of `cluster` blocks side by side (sm_90 and up; 1: none).  More than 48 KiB of dynamic shared
 * memory must have been allowed by cuda_allow_shared. */
template <typename... Params, typename... Args>
static void cuda_launch_clusters(struct device *dev, void (*kernel)(Params...), dim3 grid,
                                 dim3 block, size_t n_shared_bytes, int cluster, Args... args)
{
    if (dev->failed)
        return;
    /* All kernels divide a multiprocessor's memory alike, with nothing beyond need for the
     * first-level cache: those that want it divided differently never run on one side by side. */
    cudaLaunchAttribute attributes[3] = {};
    int n = 0;
    attributes[n].id = cudaLaunchAttributePreferredSharedMemoryCarveout;
    attributes[n++].val.sharedMemCarveout = cudaSharedmemCarveoutMaxShared;
    if (dev->early) {
        attributes[n].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attributes[n++].val.programmaticStreamSerializationAllowed = 1;
    }
    if (cluster > 1) {
        attributes[n].id = cudaLaunchAttributeClusterDimension;
        attributes[n].val.clusterDim.x = (unsigned)cluster;
        attributes[n].val.clusterDim.y = attributes[n].val.clusterDim.z = 1;
        n++;
    }
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = n_shared_bytes;
    config.stream = dev->stream;
    config.attrs = attributes;
    config.numAttrs = (unsigned)n;
    CUDA_CALL(dev, cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...));
}

template <typename... Params, typename... Args>
static void cuda_launch(struct device *dev, void (*kernel)(Params...), dim3 grid, dim3 block,
                        size_t n_shared_bytes, Args... args)
{
    cuda_launch_clusters(dev, kernel, grid, block, n_shared_bytes, 1, args...);
}

/* Lets a kernel have n_bytes of dynamic shared memory; called before its launch, every time (it is
 * cheap and not recorded). */
template <typename... Params>
static void cuda_allow_shared(struct device *dev, void (*kernel)(Params...), size_t n_bytes)
{
    if (!dev->failed && n_bytes > 0) /* what is static counts towards the limit too */
        CUDA_CALL(dev, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            (int)n_bytes));
}

/* The dynamic shared memory of a kernel with one block per multiprocessor: at least so much that no
 * multiprocessor takes two.  Without it, blocks that start early go in pairs to whichever
 * multiprocessors the previous kernel leaves first, and those work twice as long. */
static inline size_t cuda_one_per_sm(const struct device *dev, size_t n_bytes)
{
    size_t half = dev->properties.sharedMemPerMultiprocessor / 2;
    return n_bytes > half ? n_bytes : half;
}

/* --- Values of any dtype ---------------------------------------------------------------------- */

static __device__ __forceinline__ float to_f32(float x)
{
    return x;
}

static __device__ __forceinline__ float to_f32(__half x)
{
    return __half2float(x);
}

static __device__ __forceinline__ float to_f32(__nv_bfloat16 x)
{
    return __bfloat162float(x);
}

/* --- Sums over a warp --------------------------------------------------------------------------
 */

static __device__ __forceinline__ float warp_sum(float x)
{
    for (int offset = WARP / 2; offset > 0; offset /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}

static __device__ __forceinline__ float warp_max(float x)
{
    for (int offset = WARP / 2; offset > 0; offset /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
    return x;
}

/* --- Tickets ------------------------------------------------------------------------------------
 */

/* Adds 1 to a counter in device memory and returns what it was.  What this thread wrote or saw
 * before is visible to who counts later, and what they wrote to this thread. */
static __device__ __forceinline__ uint32_t ticket_take(uint32_t *ticket)
{
    uint32_t before;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;"
                 : "=r"(before)
                 : "l"(ticket)
                 : "memory");
    return before;
}

/* --- The operations, by file --------------------------------------------------------------------
 */

/* linear.cu (dispatch), gemv*.cu, gemm*.cu */
void cuda_norm_linear(struct device *dev, float *y, const float *x, const struct norm *norm,
                      const struct linear *w, enum activation activation, int n_rows);
void cuda_linear_add(struct device *dev, float *x, const float *y, const struct linear *w,
                     int n_rows);
/* Frees dev->linear_plans. */
void cuda_linear_close(struct device *dev);
/* embed.cu */
void cuda_embed(struct device *dev, float *x, const struct linear *table,
                const struct linear *positions, const int32_t *tokens,
                const struct step_state *step, int n_rows);
/* rotate.cu */
void cuda_rotate_append(struct device *dev, float *qkv, int n_heads, const struct kv_layer *kv,
                        const struct rope *rope, const struct norm *q_norm,
                        const struct norm *k_norm, const struct step_state *step, int n_rows);
/* pick.cu */
void cuda_pick(struct device *dev, struct pick *out, const float *logits, int vocab_size,
               const struct sampling *sampling, const struct step_state *step);
void cuda_advance(struct device *dev, struct step_state *step, struct step_state *before,
                  int32_t *token, const struct pick *chosen, struct pick *log, int n_log);
/* kl.cu */
void cuda_kl_divergence(struct device *dev, float *out, const float *p, const float *q,
                        int vocab_size);
/* attention_dense.cu (dispatch), attention_decode.cu, attention_prefill.cu, attention_exact.cu */
void cuda_attend_dense(struct device *dev, const struct attention *att);
/* selection*.cu, select_*.cu */
struct selection *cuda_selection_open(struct device *dev, int max_rows, int n_heads, int n_kv_heads,
                                      int max_keys);
void cuda_selection_close(struct device *dev, struct selection *sel);
void cuda_selection_begin(struct device *dev, struct selection *sel, const struct attention *att);
void cuda_selection_end(struct device *dev, struct selection *sel, const struct attention *att);
void cuda_select_sink(struct device *dev, struct selection *sel, const struct attention *att,
                      struct budget size);
void cuda_select_local(struct device *dev, struct selection *sel, const struct attention *att,
                       struct budget size);
void cuda_score_exact(struct device *dev, struct selection *sel, const struct attention *att);
void cuda_select_top_k(struct device *dev, struct selection *sel, const struct attention *att,
                       struct budget size, enum share share);
void cuda_select_top_p(struct device *dev, struct selection *sel, const struct attention *att,
                       double top_p, bool of_total, struct budget most, float logit_scale,
                       enum share share);
void cuda_select_random(struct device *dev, struct selection *sel, const struct attention *att,
                        double rate, int slot, enum share share);
void cuda_selection_put(struct device *dev, struct selection *sel, int row, int head,
                        const int32_t *keys, const float *prob, int n);
int cuda_selection_get(struct device *dev, const struct selection *sel, int row, int head,
                       int32_t *keys, float *prob);
void cuda_select_pages(struct device *dev, struct selection *sel, const struct attention *att,
                       struct budget size, int page_size, double top_p, enum share share);
void cuda_select_if_short(struct device *dev, struct selection *sel, const struct attention *att,
                          struct budget size, int more);
void cuda_select_matches(struct device *dev, struct selection *sel, const struct key_index *index,
                         const struct attention *att);
void cuda_select_adaptive(struct device *dev, struct selection *sel, const struct attention *att,
                          const struct adaptive_sampling *sampling, int slot, enum share share);
void cuda_select_again(struct device *dev, struct selection *sel, const struct attention *att,
                       const struct selection *from);
/* index.cu (memory, dispatch), index_*.cu */
struct key_index *cuda_index_open(struct device *dev, const struct key_index_config *config,
                                  char *why, size_t n_why);
void cuda_index_close(struct device *dev, struct key_index *index);
uint64_t cuda_index_bytes(struct device *dev, const struct key_index_config *config);
void cuda_index_update(struct device *dev, struct key_index *index, const struct attention *att);
void cuda_score_index(struct device *dev, struct selection *sel, const struct key_index *index,
                      const struct attention *att);
/* attention_selected.cu */
void cuda_attend_selected(struct device *dev, const struct attention *att,
                          const struct selection *sel);
/* probe.cu */
void cuda_probe(struct device *dev, const struct attention *att, const struct selection *sel,
                const struct attention_probe *out);
/* fill.cu */
void cuda_fill_random(struct device *dev, void *p, size_t n, enum dtype dtype, float scale,
                      uint64_t seed);
/* measure.cu */
double cuda_measure_read_bandwidth(struct device *dev);
double cuda_measure_read_of(struct device *dev, const void *p, size_t n_bytes);
double cuda_measure_peak_flops(struct device *dev);
/* memory.cu */
void *cuda_alloc(struct device *dev, size_t n_bytes);
void cuda_release(struct device *dev, void *p);
void cuda_upload(struct device *dev, void *to, const void *from, size_t n_bytes);
void cuda_download(struct device *dev, void *to, const void *from, size_t n_bytes);
void cuda_copy(struct device *dev, void *to, const void *from, size_t n_bytes);
bool cuda_staging_open(struct device *dev);
void cuda_staging_close(struct device *dev);
/* device.cu */
struct device *cuda_device_open(const struct device_options *options, char *why, size_t n_why);
void cuda_device_close(struct device *dev);
void cuda_device_describe(struct device *dev, struct device_info *out);
bool cuda_device_sync(struct device *dev, char *why, size_t n_why);
bool cuda_device_lost(struct device *dev);
bool cuda_reserve(struct device *dev, const struct workspace_need *need);
void cuda_time_mark(struct device *dev, int slot);
double cuda_time_between_us(struct device *dev, int from_slot, int to_slot);
/* recording.cu */
bool cuda_record_begin(struct device *dev);
struct recording *cuda_record_end(struct device *dev);
void cuda_replay(struct device *dev, struct recording *recording);
void cuda_recording_close(struct device *dev, struct recording *recording);

#endif
