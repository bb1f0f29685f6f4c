/* Prefill attention: which calls it takes, how they are cut, and the merge of split keys. */
#include "kernels/cuda/attention_prefill.cuh"
#include "kernels/cuda/attention_prefill_mma.cuh"

enum {
    MIN_ROWS = 2,
    WIDE_QUERIES = 64,    /* up to here blocks of 64 queries, 16 per warp; else of 128 */
    MIN_SPLIT_KEYS = 256, /* a part should outweigh its merging */
    MAX_SPLITS = 512,
    MAX_WAVES = 4, /* of split blocks, which bounds the workspace */
    /* The cost of things in the time that a block takes for one key. */
    START_KEYS = 192, /* a block's start and end */
    MERGE_KEYS = 200, /* a second kernel */
    PART_KEYS = 400,  /* writing and reading a wave of parts */
    /* Floats of a block's parts: 128 x (128 + 2), which is more than 64 x (256 + 2). */
    PART_FLOATS = 16640
};

/* Whether the wgmma way is chosen where it can be. */
static const bool WGMMA_CHOSEN = true;

/* --- Merging ---------------------------------------------------------------------------------- */

/* out = sum of the parts of one query, in their order.  A warp per query, a lane per 4 dimensions.
 */
static __global__ void __launch_bounds__(PREFILL_THREADS)
    prefill_merge_kernel(const __grid_constant__ struct prefill_call call)
{
    int lane = threadIdx.x % WARP;
    int index = (int)blockIdx.x * PREFILL_WARPS + (int)threadIdx.x / WARP;
    int kv_head = index / call.n_queries, query = index % call.n_queries;
    dependency_wait();
    dependency_release();
    if (kv_head >= call.att.kv.n_kv_heads)
        return;
    size_t from = prefill_part(&call, 0, kv_head, query);
    size_t stride = prefill_part(&call, 1, 0, 0);
    const float2 *sums = (const float2 *)call.part_sum;
    float max = PREFILL_NO_MAX, sum = 0.0f;
    for (int split = lane; split < call.n_splits; split += WARP)
        max = fmaxf(max, sums[from + (size_t)split * stride].x);
    max = warp_max(max);
    for (int split = lane; split < call.n_splits; split += WARP) {
        float2 part = sums[from + (size_t)split * stride];
        sum += exp2f(part.x - max) * part.y;
    }
    sum = warp_sum(sum);
    float factor = prefill_factor(&call, prefill_head(&call, kv_head, query), max, sum);
    int head_dim = call.att.kv.head_dim;
    float *out = prefill_out(&call, kv_head, query);
    for (int d = 4 * lane; d < head_dim; d += 4 * WARP) {
        float4 total = {0, 0, 0, 0};
#pragma unroll 4
        for (int split = 0; split < call.n_splits; split++) {
            size_t part = from + (size_t)split * stride;
            float2 held = sums[part];
            if (held.y == 0.0f) /* nothing was written */
                continue;
            float weight = exp2f(held.x - max);
            float4 o = *(const float4 *)(call.part_out + part * (size_t)head_dim + d);
            total.x += weight * o.x;
            total.y += weight * o.y;
            total.z += weight * o.z;
            total.w += weight * o.w;
        }
        *(float4 *)(out + d) =
            make_float4(total.x * factor, total.y * factor, total.z * factor, total.w * factor);
    }
}

/* --- Cutting a call --------------------------------------------------------------------------- */

/* Into how many parts the keys of n_units blocks of queries are cut, with `slots` of them running
 * at once: what makes the last wave end earliest. */
static int choose_splits(int n_units, int slots, int n_keys)
{
    int best = 1;
    double best_cost = (double)ceil_div(n_units, slots) * (n_keys + START_KEYS);
    for (int n = 2; n <= MAX_SPLITS && n <= n_keys / MIN_SPLIT_KEYS &&
                    (long long)n * n_units <= (long long)MAX_WAVES * slots;
         n++) {
        double cost = (double)ceil_div(n * n_units, slots) * (ceil_div(n_keys, n) + START_KEYS) +
                      (double)MERGE_KEYS + (double)PART_KEYS * n * n_units / slots;
        if (cost < best_cost) {
            best = n;
            best_cost = cost;
        }
    }
    return best;
}

static bool cut_call(struct device *dev, const struct attention *att, int block_m, int resident,
                     struct prefill_call *call)
{
    int n_keys = att->max_keys, n_kv_heads = att->kv.n_kv_heads;
    call->att = *att;
    call->group = att->n_heads / n_kv_heads;
    call->n_queries = att->n_rows * call->group;
    call->n_blocks = ceil_div(call->n_queries, block_m);
    if (att->window > 0 && att->window < n_keys - att->n_rows)
        n_keys = att->window + att->n_rows;
    call->n_splits = choose_splits(call->n_blocks * n_kv_heads, dev->n_sms * resident, n_keys);
    if (call->n_splits == 1)
        return true;
    size_t n_parts = (size_t)call->n_splits * (size_t)n_kv_heads * (size_t)call->n_queries;
    size_t n_floats = n_parts * (size_t)att->kv.head_dim;
    call->part_out =
        (float *)cuda_workspace(dev, WORKSPACE_ATTENTION, (n_floats + 2 * n_parts) * sizeof(float));
    call->part_sum = call->part_out + n_floats;
    return call->part_out != NULL;
}

template <int HEAD_DIM, int M_TILES, int BLOCK_N>
static void launch(struct device *dev, const struct attention *att)
{
    typedef prefill_layout<HEAD_DIM, M_TILES, BLOCK_N> layout;
    constexpr int SHARED_BYTES = layout::N_BYTES, RESERVED_BYTES = 1024; /* of each block */
    struct prefill_call call = {};
    int fits = (int)dev->properties.sharedMemPerMultiprocessor / (SHARED_BYTES + RESERVED_BYTES);
    int resident = fits < PREFILL_RESIDENT ? 1 : PREFILL_RESIDENT;
    if (!cut_call(dev, att, layout::BLOCK_M, resident, &call))
        return;
    int n_units = call.n_blocks * att->kv.n_kv_heads;
    cuda_allow_shared(dev, prefill_mma_kernel<HEAD_DIM, M_TILES, BLOCK_N>, SHARED_BYTES);
    cuda_launch(dev, prefill_mma_kernel<HEAD_DIM, M_TILES, BLOCK_N>, n_units * call.n_splits,
                PREFILL_THREADS, SHARED_BYTES, call);
    if (call.n_splits > 1)
        cuda_launch(dev, prefill_merge_kernel,
                    ceil_div(call.n_queries * att->kv.n_kv_heads, PREFILL_WARPS), PREFILL_THREADS,
                    0, call);
}

template <int HEAD_DIM> static void launch_for(struct device *dev, const struct attention *att)
{
    int group = att->n_heads / att->kv.n_kv_heads;
    if ((long long)att->n_rows * group <= WIDE_QUERIES)
        launch<HEAD_DIM, 1, 64>(dev, att);
    else
        launch<HEAD_DIM, 2, 64>(dev, att);
}

void attention_prefill_mma(struct device *dev, const struct attention *att)
{
    assert(attention_prefill_takes(att));
    if (dev->failed)
        return;
    switch (att->kv.head_dim) {
    case 64:
        launch_for<64>(dev, att);
        break;
    case 80:
        launch_for<80>(dev, att);
        break;
    case 96:
        launch_for<96>(dev, att);
        break;
    case 128:
        launch_for<128>(dev, att);
        break;
    default: /* 256: the sums of 32 queries would not fit into registers */
        launch<256, 1, 32>(dev, att);
    }
}

/* --- The path --------------------------------------------------------------------------------- */

static bool aligned_16(const void *p)
{
    return (uintptr_t)p % 16 == 0;
}

bool attention_prefill_takes(const struct attention *att)
{
    const struct kv_layer *kv = &att->kv;
    int d = kv->head_dim;
    bool aligned = aligned_16(att->q) && att->q_stride % 4 == 0 && aligned_16(att->out);
    for (int s = 0; s < KV_SEGMENTS; s++)
        aligned = aligned && aligned_16(kv->k[s]) && aligned_16(kv->v[s]);
    return kv->dtype == DTYPE_BF16 && att->n_rows >= MIN_ROWS && aligned &&
           (d == 64 || d == 80 || d == 96 || d == 128 || d == 256);
}

void attention_prefill(struct device *dev, const struct attention *att)
{
    if (WGMMA_CHOSEN && attention_prefill_wgmma_takes(dev, att))
        attention_prefill_wgmma(dev, att);
    else
        attention_prefill_mma(dev, att);
}

size_t attention_prefill_workspace_bytes(const struct device *dev,
                                         const struct workspace_need *need)
{
    size_t by_waves = (size_t)MAX_WAVES * PREFILL_RESIDENT * (size_t)dev->n_sms * PART_FLOATS;
    int n_splits = need->max_keys / MIN_SPLIT_KEYS;
    n_splits = n_splits < 1 ? 1 : n_splits < MAX_SPLITS ? n_splits : MAX_SPLITS;
    size_t by_rows = (size_t)n_splits * (size_t)need->max_rows * (size_t)need->n_heads *
                     (size_t)(need->head_dim + 2);
    return (by_waves < by_rows ? by_waves : by_rows) * sizeof(float);
}
