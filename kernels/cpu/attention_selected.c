/* Attention over a selection: per row and head group the ranges, as runs of keys, and the union
 * list, each K/V row read once for the group.  Long ones are cut into parts that are merged. */
#include "kernels/cpu/selection.h"

enum {
    TASKS_PER_THREAD = 4,
    MIN_PART_KEYS = 256,   /* a part should outweigh its merging */
    SERIAL_WORK = 1 << 15, /* query x key pairs x 64 dimensions not worth a second thread */
};

struct selected_plan {
    struct device *dev;
    const struct attention *att;
    const struct selection *sel;
    struct attention_shape shape;
    int n_parts;
    float *parts; /* [n_rows, n_unions, n_parts, union_heads, padded_dim + 2] */
};

static int keys_of(const struct selection *sel, int row, int which)
{
    return selection_ranges_length(&sel->ranges[row]) + selection_union(sel, row, which)->n;
}

/* Attends to keys [begin, end) of the ranges and the list laid end to end. */
static void attend_part(const struct selected_plan *plan, struct row_state *state, int row,
                        int which, int begin, int end)
{
    const struct selection *sel = plan->sel;
    const struct key_union *list = selection_union(sel, row, which);
    const struct row_ranges *ranges = &sel->ranges[row];
    int kv_head = which * sel->union_heads / sel->group, before = 0;
    for (int i = 0; i < ranges->n; i++) {
        struct key_range range = ranges->range[i];
        int first = range.begin + max_int(begin - before, 0);
        int last = range.begin + min_int(end - before, range.end - range.begin);
        if (first < last)
            row_state_attend_run(state, plan->att, &plan->shape, kv_head, first, last);
        before += range.end - range.begin;
    }
    int first = max_int(begin - before, 0), last = min_int(end - before, list->n);
    if (first >= last)
        return;
    struct row_bits bits = list->bits;
    if (bits.bits)
        bits.bits += first;
    if (bits.bias)
        bits.bias += first;
    row_state_attend_list(state, plan->att, &plan->shape, kv_head, list->keys + first, &bits,
                          last - first);
}

static size_t query_floats(const struct selected_plan *plan)
{
    return (size_t)plan->shape.padded_dim + 2;
}

static void selected_task(void *user, int task_index, int thread_index)
{
    const struct selected_plan *plan = user;
    const struct selection *sel = plan->sel;
    int n_unions = selection_n_unions(sel);
    int part = task_index % plan->n_parts;
    int which = task_index / plan->n_parts % n_unions;
    int row = task_index / plan->n_parts / n_unions;
    int first_head = which * sel->union_heads, n_keys = keys_of(sel, row, which);
    void *scratch = cpu_scratch(plan->dev, thread_index, row_state_bytes(plan->shape.padded_dim));
    if (!scratch)
        return;
    struct row_state *state =
        row_state_start(scratch, attention_kernels(plan->dev->isa), plan->shape.padded_dim);
    for (int i = 0; i < sel->union_heads; i++)
        row_state_add_query(state, plan->att, &plan->shape, row, first_head + i);
    attend_part(plan, state, row, which, (int)((int64_t)n_keys * part / plan->n_parts),
                (int)((int64_t)n_keys * (part + 1) / plan->n_parts));
    float *to = plan->parts + (size_t)task_index * (size_t)sel->union_heads * query_floats(plan);
    for (int i = 0; i < sel->union_heads; i++) {
        if (plan->n_parts > 1)
            row_state_store(state, i, to + (size_t)i * query_floats(plan));
        else
            row_state_finish(state, i, plan->att, &plan->shape, row, first_head + i);
    }
}

static void merge_rows(const struct selected_plan *plan)
{
    const struct selection *sel = plan->sel;
    size_t part_floats = (size_t)sel->union_heads * query_floats(plan);
    for (int row = 0; row < sel->n_rows; row++)
        for (int head = 0; head < sel->n_heads; head++) {
            size_t slot = selection_slot(sel, row, head);
            size_t task = slot / (size_t)sel->union_heads * (size_t)plan->n_parts;
            const float *parts = plan->parts + task * part_floats +
                                 slot % (size_t)sel->union_heads * query_floats(plan);
            attention_merge(plan->att, attention_out(plan->att, &plan->shape, row, head), head,
                            parts, plan->n_parts, part_floats, plan->shape.padded_dim);
        }
}

static void count_selected(const struct attention *att, const struct selection *sel)
{
    struct attention_counts *counts = att->counts;
    for (int row = 0; row < sel->n_rows; row++) {
        uint64_t n_visible = (uint64_t)(sel->visible[row].end - sel->visible[row].begin);
        uint64_t n_ranges = (uint64_t)selection_ranges_length(&sel->ranges[row]);
        counts->visible += n_visible * (uint64_t)sel->n_heads;
        counts->rows_visible += n_visible * (uint64_t)sel->n_kv_heads;
        counts->selected += n_ranges * (uint64_t)sel->n_heads;
        for (int head = 0; head < sel->n_heads; head++)
            counts->selected +=
                (uint64_t)selection_list(sel, row, selection_list_head(sel, head))->n;
        for (int which = 0; which < selection_n_unions(sel); which++) {
            const struct key_union *list = selection_union(sel, row, which);
            uint64_t n_rescued = (uint64_t)__builtin_popcount(list->rescued);
            counts->rescued += n_rescued;
            counts->selected += n_rescued;
            counts->rows_read += n_ranges + (uint64_t)list->n;
        }
    }
    counts->calls++;
}

static void attention_selected(struct device *dev, const struct attention *att,
                               const struct selection *sel)
{
    struct selected_plan plan = {
        .dev = dev, .att = att, .sel = sel, .shape = attention_shape(att), .n_parts = 1};
    int n_base = sel->n_rows * selection_n_unions(sel), longest = 0;
    int64_t n_keys = 0;
    for (int i = 0; i < n_base; i++) {
        int n = keys_of(sel, i / selection_n_unions(sel), i % selection_n_unions(sel));
        longest = max_int(longest, n);
        n_keys += n;
    }
    int64_t work = n_keys * sel->union_heads * plan.shape.head_dim / 64;
    int n_wanted = TASKS_PER_THREAD * dev->n_threads;
    if (dev->n_threads > 1 && n_base < n_wanted)
        plan.n_parts =
            max_int(1, min_int((n_wanted + n_base - 1) / n_base, longest / MIN_PART_KEYS));
    int n_tasks = n_base * plan.n_parts;
    if (plan.n_parts > 1) {
        plan.parts = cpu_workspace(dev, CPU_WORKSPACE_SELECTION,
                                   (size_t)n_tasks * (size_t)sel->union_heads *
                                       query_floats(&plan) * sizeof(float));
        if (!plan.parts)
            return;
    }
    if (work < SERIAL_WORK)
        for (int i = 0; i < n_tasks; i++)
            selected_task(&plan, i, 0);
    else
        cpu_parallel(dev, n_tasks, selected_task, &plan);
    if (plan.n_parts > 1 && !cpu_failed(dev))
        merge_rows(&plan);
}

void cpu_attend_selected(struct device *dev, const struct attention *att,
                         const struct selection *sel)
{
    if (cpu_failed(dev))
        return;
    assert(att->n_rows == sel->n_rows);
    if (sel->full) {
        cpu_attend_dense(dev, att);
        if (att->counts)
            att->counts->full++;
        return;
    }
    if (dev->isa == CPU_ISA_REFERENCE)
        attention_reference_selected(att, sel);
    else
        attention_selected(dev, att, sel);
    if (att->counts && !cpu_failed(dev))
        count_selected(att, sel);
}
