/* What a selection lost: per (row, head) the dense softmax mass on attended keys, and the distance
 * of the output from dense attention.
 *
 * The mass is a share of the keys' mass: a sink logit takes part in both outputs, but not in the
 * recall, so that recall 1 always means that nothing was left out.  A head's own key, where it had
 * to stand in for an empty selection, counts as attended. */
#include "kernels/cuda/gather_exact.cuh"
#include "kernels/cuda/gather_kernel.cuh"

void cuda_probe(struct device *dev, const struct attention *att, const struct selection *sel,
                const struct attention_probe *out)
{
    assert(att->n_rows == sel->n_rows && att->n_heads == sel->n_heads);
    if (dev->failed)
        return;
    struct gather_job job = {};
    job.att = *att;
    job.sel = *sel;
    job.probe = *out;
    job.n_items = att->n_rows * sel->n_unions;
    if (gather_takes(att))
        gather_start<true>(dev, &job);
    else
        exact_start<true>(dev, &job);
}
