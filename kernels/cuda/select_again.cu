/* What another selection holds, added to this one (backend.h says when).
 *
 * Its ranges are parts of its plan, which this plan goes on with: they resolve as they did there.
 * Its bitmaps are merged word by word; what they hold within ranges, its own or this one's, is
 * masked wherever bitmaps are read. */
#include "kernels/cuda/selection.cuh"

enum { AGAIN_THREADS = 256 };

struct again_job {
    struct attention att;
    struct selection sel, from;
    bool first, first_drawn; /* the bitmaps of sel, and `drawn` among them, hold nothing yet */
};

/* Probabilities of keys that a head of sel had not drawn till now. */
static __device__ __forceinline__ void copy_probs(const struct again_job *job, size_t list,
                                                  int word, uint32_t keys)
{
    const struct selection *sel = &job->sel, *from = &job->from;
    for (; sel->mixed && keys; keys &= keys - 1) {
        size_t key = (size_t)(word * 32 + __ffs((int)keys) - 1);
        sel->key_prob[list * sel->stride + key] =
            from->mixed ? from->key_prob[list * from->stride + key] : from->prob[list];
    }
    if (!sel->mixed && word == 0)
        sel->prob[list] = from->prob[list];
}

/* Block (words, head, row). */
__global__ void __launch_bounds__(AGAIN_THREADS)
    again_kernel(const __grid_constant__ struct again_job job)
{
    const struct selection *sel = &job.sel, *from = &job.from;
    int word = blockIdx.x * AGAIN_THREADS + threadIdx.x, row = blockIdx.z;
    int head = blockIdx.y * (sel->shared ? sel->group : 1);
    int from_head = from->shared ? head / sel->group * sel->group : head;
    dependency_wait();
    dependency_release();
    struct call_shape shape = call_shape(&job.att);
    if (word >= row_words(&shape, row))
        return;
    size_t list = (size_t)row * (size_t)sel->n_heads + (size_t)head;
    size_t from_list = (size_t)row * (size_t)sel->n_heads + (size_t)from_head;
    size_t at = list * (size_t)sel->n_words + (size_t)word;
    size_t from_at = from_list * (size_t)from->n_words + (size_t)word;
    uint32_t taken = job.first ? 0 : sel->taken[at];
    uint32_t drawn = sel->sampled && !job.first_drawn ? sel->drawn[at] : 0;
    uint32_t had = taken | drawn;
    sel->taken[at] = taken | (from->taken[from_at] & ~had);
    if (!sel->sampled)
        return;
    uint32_t added = from->sampled ? from->drawn[from_at] & ~had : 0;
    sel->drawn[at] = drawn | added;
    if (!from->sampled)
        return;
    int n_heads = sel->shared ? sel->group : 1;
    for (int i = 0; i < n_heads; i++)
        copy_probs(&job, list + (size_t)i, word, added);
}

void cuda_select_again(struct device *dev, struct selection *sel, const struct attention *att,
                       const struct selection *from)
{
    assert(from != sel && from->n_rows == sel->n_rows);
    assert(from->n_heads == sel->n_heads && from->n_kv_heads == sel->n_kv_heads);
    selection_catch_up(dev, sel);
    struct select_part mark = {0, from->plan.n, false, SELECT_AGAIN};
    selection_plan_part(dev, sel, &mark);
    for (int i = 0; i < from->plan.n; i++)
        selection_plan_part(dev, sel, &from->plan.part[i]);
    if (!from->listed || dev->failed)
        return;
    struct again_job job = {};
    job.first = selection_choose(dev, sel, att, from->shared ? SHARE_GROUP : SHARE_HEAD);
    job.first_drawn = from->sampled && !sel->sampled;
    if (from->sampled && (from->mixed || sel->sampled))
        selection_mix(dev, sel);
    sel->sampled = sel->sampled || from->sampled;
    job.att = *att;
    job.sel = *sel;
    job.from = *from;
    dim3 grid((unsigned)ceil_div(ceil_div(att->max_keys, 32), AGAIN_THREADS),
              (unsigned)(sel->shared ? sel->n_kv_heads : sel->n_heads), (unsigned)sel->n_rows);
    cuda_launch(dev, again_kernel, grid, AGAIN_THREADS, 0, job);
}
