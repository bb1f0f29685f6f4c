/* What attention to a selection, and its probe, attend to: found on the device, for every way.
 *
 * An item is one (row, union of heads) of a call.  The keys it attends to are its ranges and then
 * its list, laid end to end; for the probe they are all visible keys.  A (row, head) with nothing
 * selected attends to its own key: selection_end has put it into the list, or, where no masker
 * lists keys, it is made a range here. */
#ifndef ATTNSCOPE_KERNELS_CUDA_ATTENTION_GATHER_CUH
#define ATTNSCOPE_KERNELS_CUDA_ATTENTION_GATHER_CUH

#include "kernels/cuda/selection.cuh"

#define KEY_MASK ((1u << KEY_BITS) - 1)

struct gather_job {
    struct attention att;
    struct selection sel;
    struct attention_probe probe; /* probe only */
    int n_items;                  /* n_rows * n_unions; item row * n_unions + union */
    /* gather_kernel alone */
    float *parts;      /* [n_blocks, TILE_HEADS, head_dim + PART_SUMS] */
    uint32_t *tickets; /* [n_items] parts written; zero between calls */
    int n_stages;
    bool split; /* an item may have several blocks */
};

struct gather_item {
    int index, row;                /* the item's number, its row */
    int first_head, kv_head;       /* the first of its heads; theirs */
    int n_keys, n_ranged, n_first; /* all; those in ranges; those in the first range */
    int begin[MAX_RANGES];         /* first keys of the ranges */
    int position;                  /* of the row */
    bool full;
    struct key_range kept[MAX_RANGES]; /* probe: the selection's ranges */
};

/* What a head's keys, or a part of them, add up to; weights are relative to that of max. */
struct query_sums {
    float max, sum;
    float mass, own; /* probe: the sum over kept keys; the score of the row's own key */
    float n_kept;    /* probe: kept keys, exact to 2^24 */
};

/* The head whose bitmaps and probability are those of `head`. */
static __device__ __forceinline__ int selected_head(const struct selection *sel, int head)
{
    return sel->shared ? head / sel->group * sel->group : head;
}

static __device__ __forceinline__ size_t selected_slot(const struct selection *sel, int row,
                                                       int head)
{
    return (size_t)row * sel->n_heads + selected_head(sel, head);
}

/* Item `index`, whose list has n_list keys; plan: resolved for its row. */
template <bool PROBE>
static __device__ __forceinline__ struct gather_item
gather_find_item(const struct gather_job *job, const struct call_shape *shape,
                 const struct row_plan *plan, int n_list, int index)
{
    const struct key_range none = {0, 0};
    struct key_range first = plan->n_ranges > 0 ? plan->range[0] : none;
    struct key_range second = plan->n_ranges > 1 ? plan->range[1] : none;
    struct gather_item item = {};
    item.index = index;
    item.row = index / job->sel.n_unions;
    item.first_head = (index - item.row * job->sel.n_unions) * job->sel.union_heads;
    item.kv_head = item.first_head / job->sel.group;
    item.position = shape->first_position + item.row;
    item.full = plan->full;
    item.kept[0] = first;
    item.kept[1] = second;
    if (PROBE) {
        first = plan->visible;
        second = none;
    } else if (plan->n_ranges == 0 && !plan->full && !job->sel.listed) {
        first.begin = item.position;
        first.end = item.position + 1;
    }
    item.begin[0] = first.begin;
    item.begin[1] = second.begin;
    item.n_first = first.end - first.begin;
    item.n_ranged = item.n_first + second.end - second.begin;
    item.n_keys = item.n_ranged + (PROBE || plan->full ? 0 : n_list);
    return item;
}

/* Key number i < n_ranged of an item. */
static __device__ __forceinline__ int gather_ranged_key(const struct gather_item *item, int i)
{
    return i < item->n_first ? item->begin[0] + i : item->begin[1] + i - item->n_first;
}

/* --- Counts -------------------------------------------------------------------------------- */

static __device__ __forceinline__ void count_add(uint64_t *to, long long n)
{
    if (n)
        atomicAdd((unsigned long long *)to, (unsigned long long)n);
}

/* Adds an item to the call's counts.  One thread per item calls it. */
static __device__ __forceinline__ void gather_count(const struct gather_job *job,
                                                    const struct row_plan *plan,
                                                    const struct gather_item *item, int n_list)
{
    const struct selection *sel = &job->sel;
    struct attention_counts *counts = job->att.counts;
    long long n_visible = plan->visible.end - plan->visible.begin, n_ranged = 0, n_rescued = 0;
    long long heads = sel->union_heads, selected, rows_read;
    bool first = item->first_head == 0; /* of its row */
    for (int i = 0; i < MAX_RANGES; i++)
        n_ranged += i < plan->n_ranges ? plan->range[i].end - plan->range[i].begin : 0;
    if (plan->full) {
        selected = n_visible * heads;
        rows_read = first ? n_visible * sel->n_kv_heads : 0;
    } else if (sel->listed) {
        n_rescued = __popc(sel->rescued[item->index]);
        selected = n_ranged * heads + sel->n_selected[item->index];
        rows_read = n_ranged + n_list;
    } else {
        n_rescued = plan->n_ranges ? 0 : heads;
        selected = n_ranged * heads + n_rescued;
        rows_read = n_ranged + (n_rescued > 0);
    }
    count_add(&counts->selected, selected);
    count_add(&counts->visible, n_visible * heads);
    count_add(&counts->rows_read, rows_read);
    count_add(&counts->rows_visible, first ? n_visible * sel->n_kv_heads : 0);
    count_add(&counts->rescued, n_rescued);
    count_add(&counts->full, item->index == 0 && plan->full);
    count_add(&counts->calls, item->index == 0);
}

/* --- What a probe writes ------------------------------------------------------------------- */

static __device__ __forceinline__ double warp_sum_f64(double x)
{
    for (int offset = WARP / 2; offset > 0; offset /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}

/* own_mass: the weight of the own key.  difference, norm: a warp's sums, one share per lane. */
static __device__ __forceinline__ void probe_write(const struct gather_job *job,
                                                   const struct gather_item *item, size_t slot,
                                                   const struct query_sums *sums, float own_mass,
                                                   double difference, double norm)
{
    difference = warp_sum_f64(difference);
    norm = warp_sum_f64(norm);
    if (threadIdx.x % WARP)
        return;
    float mass = sums->n_kept > 0 ? sums->mass : own_mass;
    bool all = item->full || !(sums->sum > 0); /* padding sees nothing, and so loses nothing */
    job->probe.recall[slot] = all ? 1.0f : fminf(mass / sums->sum, 1.0f);
    job->probe.error[2 * slot] = (float)difference;
    job->probe.error[2 * slot + 1] = (float)norm;
}

#endif
