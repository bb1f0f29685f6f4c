/* What another selection holds, added to this one: see backend.h. */
#include "kernels/cpu/selection.h"

struct again_job {
    struct device *dev;
    struct selection *sel;
    const struct selection *from;
};

/* Ranges of `from` that the row sees.  A row has at most MAX_RANGES: sinks and windows of this
 * layer share their ends with those taken over, unless the two layers' own windows differ, and then
 * one more lies between. */
static void add_ranges(struct selection *sel, const struct selection *from, int row)
{
    struct key_range visible = sel->visible[row];
    for (int i = 0; i < from->ranges[row].n; i++) {
        struct key_range range = from->ranges[row].range[i];
        selection_add_range(sel, row, max_int(range.begin, visible.begin),
                            min_int(range.end, visible.end));
    }
}

/* The keys of a head's list in `from` that the row sees and that are not selected yet. */
static void add_list(const struct again_job *job, int row, int head, struct select_scratch *scratch)
{
    struct selection *sel = job->sel;
    int from_head = selection_list_head(job->from, head);
    const struct key_list *list = selection_list(job->from, row, from_head);
    const uint32_t *keys = selection_keys(job->from, row, from_head);
    const float *probs = selection_probs(job->from, row, from_head);
    const uint32_t *own = selection_keys(sel, row, head);
    int n_own = selection_list(sel, row, head)->n, n_new = 0;
    struct key_range visible = sel->visible[row];
    for (int i = 0, j = 0; i < list->n; i++) {
        int key = (int)keys[i];
        while (j < n_own && own[j] < keys[i])
            j++;
        if ((j < n_own && own[j] == keys[i]) || key < visible.begin || key >= visible.end ||
            selection_in_ranges(&sel->ranges[row], key))
            continue;
        scratch->scores[n_new] = list->mixed ? probs[i] : list->prob;
        scratch->keys[n_new++] = keys[i];
    }
    selection_add_keys(sel, row, head, scratch->keys, list->mixed ? scratch->scores : NULL,
                       list->prob, n_new);
}

static void again_task(void *user, int task_index, int thread_index)
{
    const struct again_job *job = user;
    int n_lists = job->sel->shared ? job->sel->n_kv_heads : job->sel->n_heads;
    int row = task_index / n_lists, which = task_index % n_lists;
    struct select_scratch scratch;
    if (!select_scratch_get(job->dev, thread_index, job->sel, &scratch))
        return;
    add_list(job, row, job->sel->shared ? which * job->sel->group : which, &scratch);
}

void cpu_select_again(struct device *dev, struct selection *sel, const struct attention *att,
                      const struct selection *from)
{
    if (selection_skips(dev, sel, att))
        return;
    assert(from != sel && from->n_rows == sel->n_rows && from->n_keys == sel->n_keys);
    assert(from->n_heads == sel->n_heads && from->n_kv_heads == sel->n_kv_heads);
    if (from->full) {
        sel->full = true;
        return;
    }
    sel->chosen = true;
    for (int row = 0; row < sel->n_rows; row++)
        add_ranges(sel, from, row);
    if (!from->listed)
        return;
    selection_prepare_lists(sel, from->shared ? SHARE_GROUP : SHARE_HEAD);
    struct again_job job = {dev, sel, from};
    int n_lists = sel->shared ? sel->n_kv_heads : sel->n_heads;
    cpu_parallel(dev, sel->n_rows * n_lists, again_task, &job);
}
