/* The end of a selection: per row and head group one list of all keys that some head selected, with
 * bits that say which, so that attention reads each key once. */
#include "kernels/cpu/selection.h"

#include <math.h>
#include <string.h>

struct union_job {
    struct device *dev;
    struct selection *sel;
};

/* Heads of a union that selected nothing in this row, as bits. */
static uint32_t heads_without_keys(const struct selection *sel, int row, int first_head)
{
    uint32_t bits = 0;
    if (sel->ranges[row].n > 0)
        return 0;
    for (int i = 0; i < sel->union_heads; i++)
        if (selection_list(sel, row, selection_list_head(sel, first_head + i))->n == 0)
            bits |= 1u << i;
    return bits;
}

/* bias [n] = -ln p.  Most lists have two probabilities, 1 and that of a draw, in no order: the last
 * logarithm is kept, and the choice between the two is no branch. */
static void biases_of(float *bias, const float *probs, int n)
{
    float last = 1.0f, last_bias = 0.0f;
    for (int i = 0; i < n; i++) {
        bool certain = probs[i] == 1.0f;
        if (!certain & (probs[i] != last)) {
            last = probs[i];
            last_bias = -logf(last);
        }
        bias[i] = certain ? 0.0f : last_bias;
    }
}

/* A list that is the union as it stands: shared by the group, or the only one. */
static void adopt_list(struct selection *sel, int row, int head, struct key_union *to)
{
    const struct key_list *list = selection_list(sel, row, head);
    to->n = list->n;
    to->keys = selection_keys(sel, row, head);
    if (!list->mixed) {
        to->bits.constant = list->prob == 1.0f ? 0.0f : -logf(list->prob);
        return;
    }
    const float *probs = selection_probs(sel, row, head);
    float *bias = sel->union_bias + selection_slot(sel, row, head) * sel->stride;
    biases_of(bias, probs, list->n);
    to->bits.bias = bias; /* stride 0: all heads of the union */
}

/* True if all keys of all the union's lists have one probability, which goes to *prob. */
static bool one_prob(const struct selection *sel, int row, int first_head, uint32_t rescued,
                     float *prob)
{
    bool any = rescued != 0;
    *prob = 1.0f;
    for (int i = 0; i < sel->union_heads; i++) {
        const struct key_list *list = selection_list(sel, row, first_head + i);
        if (list->n == 0)
            continue;
        if (list->mixed || (any && list->prob != *prob))
            return false;
        *prob = list->prob;
        any = true;
    }
    return true;
}

/* bias of one head, aligned with the union; any number where the head has no key.  own [n + 1] of
 * the list is scratch. */
static void write_bias(const struct selection *sel, int row, int head, int bit,
                       const struct key_union *all, float *own)
{
    const struct key_list *list = selection_list(sel, row, head);
    float *bias = sel->union_bias + selection_slot(sel, row, head) * sel->stride;
    float constant = -logf(list->prob);
    for (int i = 0; i < list->n; i++)
        own[i] = constant;
    if (list->mixed)
        biases_of(own, selection_probs(sel, row, head), list->n);
    own[list->n] = 0.0f;
    int at = 0;
    for (int i = 0; i < all->n; i++) {
        bias[i] = own[at];
        at += list->n > 0 ? (int)(all->bits.bits[i] >> bit & 1) : 0;
    }
}

static void union_task(void *user, int task_index, int thread_index)
{
    const struct union_job *job = user;
    struct selection *sel = job->sel;
    int n_unions = selection_n_unions(sel);
    int row = task_index / n_unions, which = task_index % n_unions;
    int first_head = which * sel->union_heads, own_key = selection_position(sel, row);
    struct key_union *to = selection_union(sel, row, which);
    size_t at = ((size_t)row * (size_t)n_unions + (size_t)which) * sel->stride;
    uint32_t *keys = sel->union_keys + at, *bits = sel->union_bits + at;
    *to = (struct key_union){.keys = keys, .rescued = heads_without_keys(sel, row, first_head)};
    if (sel->union_heads == 1 || sel->shared) {
        adopt_list(sel, row, selection_list_head(sel, first_head), to);
        if (to->rescued) {
            keys[0] = (uint32_t)own_key;
            *to = (struct key_union){.n = 1, .keys = keys, .rescued = to->rescued};
        }
        return;
    }
    struct select_scratch scratch;
    if (!select_scratch_get(job->dev, thread_index, sel, &scratch))
        return;
    struct key_range seen = sel->visible[row];
    uint32_t *marks = (uint32_t *)scratch.all.ranks;
    if (to->rescued) { /* the own key is read even where it is padding */
        seen.begin = min_int(seen.begin, own_key);
        seen.end = max_int(seen.end, own_key + 1);
    }
    memset(marks, 0, (size_t)(seen.end - seen.begin) * sizeof *marks);
    for (int i = 0; i < sel->union_heads; i++) {
        const uint32_t *listed = selection_keys(sel, row, first_head + i);
        int n = selection_list(sel, row, first_head + i)->n;
        for (int j = 0; j < n; j++)
            marks[(int)listed[j] - seen.begin] |= 1u << i;
    }
    if (to->rescued)
        marks[own_key - seen.begin] |= to->rescued;
    to->n = selection_kernels(job->dev->isa)
                ->unite(keys, bits, marks, seen.end - seen.begin, (uint32_t)seen.begin);
    to->bits.bits = bits;
    float prob;
    if (one_prob(sel, row, first_head, to->rescued, &prob)) {
        to->bits.constant = -logf(prob);
        return;
    }
    for (int i = 0; i < sel->union_heads; i++)
        write_bias(sel, row, first_head + i, i, to, scratch.scores);
    to->bits.bias = sel->union_bias + selection_slot(sel, row, first_head) * sel->stride;
    to->bits.bias_stride = sel->stride;
}

void cpu_selection_end(struct device *dev, struct selection *sel, const struct attention *att)
{
    if (selection_skips(dev, sel, att))
        return;
    if (!sel->chosen) { /* an empty stack, or one of no-ops */
        sel->full = true;
        return;
    }
    struct union_job job = {dev, sel};
    int n_tasks = sel->n_rows * selection_n_unions(sel);
    if (!sel->listed)
        for (int i = 0; i < n_tasks; i++)
            union_task(&job, i, 0);
    else
        cpu_parallel(dev, n_tasks, union_task, &job);
}
