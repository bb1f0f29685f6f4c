/* The ways of dense attention, among which attention_dense.cu chooses.  They write att->out;
 * attention_decode also counts, since there a kernel for that alone would show, while for the
 * others attention_dense.cu does. */
#ifndef ATTNSCOPE_KERNELS_CUDA_ATTENTION_PATHS_CUH
#define ATTNSCOPE_KERNELS_CUDA_ATTENTION_PATHS_CUH

#include "kernels/cuda/attention.cuh"

/* attention_decode.cu: bf16 KV, few query rows; f32's rounding where options.exact. */
bool attention_decode_takes(const struct attention *att);
void attention_decode(struct device *dev, const struct attention *att);
/* The same of one row whose selection is ranges alone: dense attention to fewer keys. */
void attention_decode_ranges(struct device *dev, const struct attention *att,
                             const struct selection *sel);
size_t attention_decode_workspace_bytes(const struct device *dev,
                                        const struct workspace_need *need);

/* attention_prefill.cu: bf16 KV, many query rows. */
bool attention_prefill_takes(const struct attention *att);
void attention_prefill(struct device *dev, const struct attention *att);
size_t attention_prefill_workspace_bytes(const struct device *dev,
                                         const struct workspace_need *need);

/* attention_exact.cu: any dtype and shape, f32 arithmetic throughout. */
void attention_exact(struct device *dev, const struct attention *att);
size_t attention_exact_workspace_bytes(const struct device *dev, const struct workspace_need *need);

/* Adds what a dense call counts in which rows see n_visible keys in all.  For one thread. */
static __device__ __forceinline__ void count_dense(const struct attention *att,
                                                   unsigned long long n_visible)
{
    struct attention_counts *counts = att->counts;
    unsigned long long head_keys = n_visible * (unsigned long long)att->n_heads;
    unsigned long long rows = n_visible * (unsigned long long)att->kv.n_kv_heads;
    atomicAdd((unsigned long long *)&counts->selected, head_keys);
    atomicAdd((unsigned long long *)&counts->visible, head_keys);
    atomicAdd((unsigned long long *)&counts->rows_read, rows);
    atomicAdd((unsigned long long *)&counts->rows_visible, rows);
    atomicAdd((unsigned long long *)&counts->calls, 1ull);
}

#endif
