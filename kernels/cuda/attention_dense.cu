/* Dense attention: the choice of a way, and the counts. */
#include "kernels/cuda/attention_paths.cuh"

enum { COUNT_WARPS = 8, COUNT_THREADS = COUNT_WARPS * WARP };

/* One block; thread i counts rows i, i + COUNT_THREADS, ... */
static __global__ void __launch_bounds__(COUNT_THREADS)
    count_dense_kernel(const __grid_constant__ struct attention att)
{
    extern __shared__ unsigned long long warp_total[]; /* [COUNT_WARPS] */
    dependency_wait();
    dependency_release();
    struct call_shape shape = call_shape(&att);
    unsigned long long n = 0;
    for (int row = (int)threadIdx.x; row < att.n_rows; row += COUNT_THREADS) {
        struct key_range visible = row_visible(&att, &shape, row);
        n += (unsigned long long)(visible.end - visible.begin);
    }
    for (int offset = WARP / 2; offset > 0; offset /= 2)
        n += __shfl_xor_sync(0xffffffffu, n, offset);
    if (threadIdx.x % WARP == 0)
        warp_total[threadIdx.x / WARP] = n;
    __syncthreads();
    if (threadIdx.x > 0)
        return;
    for (int i = 1; i < COUNT_WARPS; i++)
        n += warp_total[i];
    count_dense(&att, n);
}

void cuda_attend_dense(struct device *dev, const struct attention *att)
{
    assert(att->n_rows > 0 && att->n_heads % att->kv.n_kv_heads == 0);
    if (dev->failed)
        return;
    if (attention_decode_takes(att)) {
        attention_decode(dev, att);
        return;
    }
    if (!dev->options.exact && att->n_rows > 1 && attention_prefill_takes(att))
        attention_prefill(dev, att);
    else
        attention_exact(dev, att);
    if (att->counts)
        cuda_launch(dev, count_dense_kernel, dim3(1), dim3(COUNT_THREADS),
                    COUNT_WARPS * sizeof(unsigned long long), *att);
}

size_t cuda_attention_workspace_bytes(const struct device *dev, const struct workspace_need *need)
{
    size_t most = attention_decode_workspace_bytes(dev, need);
    size_t prefill = attention_prefill_workspace_bytes(dev, need);
    size_t exact = attention_exact_workspace_bytes(dev, need);
    most = most > prefill ? most : prefill;
    return most > exact ? most : exact;
}
