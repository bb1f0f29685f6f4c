/* Attention over a selection: the choice among the ways. */
#include "kernels/cuda/attention_paths.cuh"
#include "kernels/cuda/gather_exact.cuh"
#include "kernels/cuda/gather_kernel.cuh"

/* Whether the plan is full whatever the lengths are: such calls, of many rows too, are dense. */
static bool always_full(const struct select_plan *plan, const struct attention *att)
{
    for (int i = 0; i < plan->n; i++) {
        const struct select_part *part = &plan->part[i];
        bool by_length = part->kind == SELECT_SINK || part->kind == SELECT_TOP_K;
        double most = part->is_fraction ? 1.0 : (double)att->max_keys;
        if ((by_length && part->value >= most && most >= 1.0) ||
            (part->kind == SELECT_TOP_P && part->value >= 1.0))
            return true;
    }
    return plan->n == 0;
}

static __global__ void count_full_kernel(struct attention_counts *counts)
{
    dependency_wait();
    counts->full++;
}

void cuda_attend_selected(struct device *dev, const struct attention *att,
                          const struct selection *sel)
{
    assert(att->n_rows == sel->n_rows && att->n_heads == sel->n_heads);
    if (dev->failed)
        return;
    if (always_full(&sel->plan, att)) {
        cuda_attend_dense(dev, att);
        if (att->counts)
            cuda_launch(dev, count_full_kernel, dim3(1), dim3(1), 0, att->counts);
        return;
    }
    if (att->n_rows == 1 && !sel->listed && attention_decode_takes(att)) {
        attention_decode_ranges(dev, att, sel);
        return;
    }
    struct gather_job job = {};
    job.att = *att;
    job.sel = *sel;
    job.n_items = att->n_rows * sel->n_unions;
    if (gather_takes(att))
        gather_start<false>(dev, &job);
    else
        exact_start<false>(dev, &job);
}
