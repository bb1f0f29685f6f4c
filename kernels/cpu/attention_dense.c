/* Dense attention: cuts a call into tasks (block of rows, KV head, part of the keys), runs them and
 * merges the parts.  Few queries go the row way, many the tile way. */
#include <assert.h>

#include "kernels/cpu/attention.h"

enum {
    ROW_WAY_QUERIES = 8,   /* up to here reading the keys is what costs */
    TASKS_PER_THREAD = 4,  /* so that an uneven load evens out */
    MIN_SPLIT_KEYS = 256,  /* a part should outweigh its merging */
    SERIAL_WORK = 1 << 15, /* query x key pairs x 64 dimensions not worth a second thread */
    SERIAL_MERGE = 1 << 16 /* floats */
};

struct dense_plan {
    struct device *dev;
    const struct attention *att;
    struct attention_shape shape;
    attention_tile *tile; /* NULL: the row way */
    int block_rows, n_blocks, n_splits;
    size_t part_floats; /* of one task */
    float *parts;       /* [n_blocks, n_kv_heads, n_splits, block_rows * group, padded_dim + 2] */
};

/* Rows of a block, and its keys: those that any of its rows sees. */
struct dense_block {
    int row, n_rows, begin, end;
};

static struct dense_block block_at(const struct dense_plan *plan, int block)
{
    struct dense_block at = {.row = block * plan->block_rows};
    at.n_rows = min_int(plan->block_rows, plan->att->n_rows - at.row);
    at.begin = attention_visible(plan->att, &plan->shape, at.row).begin;
    at.end = attention_visible(plan->att, &plan->shape, at.row + at.n_rows - 1).end;
    at.end = max_int(at.end, at.begin);
    return at;
}

static float *part_at(const struct dense_plan *plan, int block, int kv_head, int split)
{
    size_t task = ((size_t)block * (size_t)plan->att->kv.n_kv_heads + (size_t)kv_head) *
                      (size_t)plan->n_splits +
                  (size_t)split;
    return plan->parts + task * plan->part_floats;
}

static void row_way(const struct dense_plan *plan, const struct dense_block *at, int kv_head,
                    int begin, int end, float *part, void *scratch)
{
    const struct attention *att = plan->att;
    const struct attention_shape *shape = &plan->shape;
    struct row_state *state =
        row_state_start(scratch, attention_kernels(plan->dev->isa), shape->padded_dim);
    for (int i = 0; i < at->n_rows * shape->group; i++)
        row_state_add_query(state, att, shape, at->row + i / shape->group,
                            kv_head * shape->group + i % shape->group);
    row_state_attend_run(state, att, shape, kv_head, begin, end);
    for (int i = 0; i < at->n_rows * shape->group; i++) {
        int row = at->row + i / shape->group, head = kv_head * shape->group + i % shape->group;
        if (part)
            row_state_store(state, i, part + (size_t)i * (size_t)(shape->padded_dim + 2));
        else
            row_state_finish(state, i, att, shape, row, head);
    }
}

static void dense_task(void *user, int task_index, int thread_index)
{
    const struct dense_plan *plan = user;
    const struct attention_shape *shape = &plan->shape;
    int n_kv_heads = plan->att->kv.n_kv_heads;
    int split = task_index % plan->n_splits;
    int kv_head = task_index / plan->n_splits % n_kv_heads;
    /* The last rows see the most keys: first come the longest tasks. */
    int block = plan->n_blocks - 1 - task_index / plan->n_splits / n_kv_heads;
    struct dense_block at = block_at(plan, block);
    int split_keys = round_up((at.end - at.begin + plan->n_splits - 1) / plan->n_splits, TILE_KEYS);
    int begin = min_int(at.begin + split * split_keys, at.end);
    int end = min_int(begin + split_keys, at.end);
    float *part = plan->n_splits > 1 ? part_at(plan, block, kv_head, split) : NULL;
    size_t n_bytes = plan->tile
                         ? attention_tile_scratch_bytes(at.n_rows * shape->group, shape->padded_dim)
                         : row_state_bytes(shape->padded_dim);
    void *scratch = cpu_scratch(plan->dev, thread_index, n_bytes);
    if (!scratch)
        return;
    if (!plan->tile) {
        row_way(plan, &at, kv_head, begin, end, part, scratch);
        return;
    }
    struct tile_job job = {.att = plan->att,
                           .shape = shape,
                           .kv_head = kv_head,
                           .row = at.row,
                           .n_rows = at.n_rows,
                           .begin = begin,
                           .end = end,
                           .part = part};
    plan->tile(&job, scratch);
}

/* One query row, all heads. */
static void merge_task(void *user, int row, int thread_index)
{
    (void)thread_index;
    const struct dense_plan *plan = user;
    const struct attention_shape *shape = &plan->shape;
    size_t query_floats = (size_t)(shape->padded_dim + 2);
    int block = row / plan->block_rows;
    for (int head = 0; head < plan->att->n_heads; head++) {
        int query = row % plan->block_rows * shape->group + head % shape->group;
        const float *parts =
            part_at(plan, block, head / shape->group, 0) + (size_t)query * query_floats;
        attention_merge(plan->att, attention_out(plan->att, shape, row, head), head, parts,
                        plan->n_splits, plan->part_floats, shape->padded_dim);
    }
}

/* Queries of a task of the tile way: many share the copying of a tile, but every thread should
 * have work. */
static int tile_queries(int n_rows, int group, int n_kv_heads, int n_keys, int n_threads)
{
    int n = TILE_QUERIES;
    while (n > TILE_QUERIES / 4 && n_keys < 8 * MIN_SPLIT_KEYS &&
           n_kv_heads * ((n_rows * group + n - 1) / n) < TASKS_PER_THREAD * n_threads)
        n /= 2;
    return n;
}

static struct dense_plan dense_plan(struct device *dev, const struct attention *att)
{
    struct dense_plan plan = {.dev = dev, .att = att, .shape = attention_shape(att)};
    int group = plan.shape.group, n_kv_heads = att->kv.n_kv_heads;
    int n_keys = plan.shape.n_keys;
    if (att->window > 0)
        n_keys = min_int(n_keys, att->window + att->n_rows);
    if (att->n_rows * group <= ROW_WAY_QUERIES) {
        plan.block_rows = att->n_rows;
    } else {
        plan.tile = attention_tile_function(dev, att->kv.dtype);
        int n = tile_queries(att->n_rows, group, n_kv_heads, n_keys, dev->n_threads);
        plan.block_rows = min_int(max_int(n / group, 1), att->n_rows);
    }
    plan.n_blocks = (att->n_rows + plan.block_rows - 1) / plan.block_rows;
    int n_base = plan.n_blocks * n_kv_heads;
    int n_wanted = TASKS_PER_THREAD * dev->n_threads;
    plan.n_splits = 1;
    if (dev->n_threads > 1 && n_base < n_wanted)
        plan.n_splits =
            max_int(1, min_int((n_wanted + n_base - 1) / n_base, n_keys / MIN_SPLIT_KEYS));
    plan.part_floats = (size_t)(plan.block_rows * group) * (size_t)(plan.shape.padded_dim + 2);
    return plan;
}

void attention_dense(struct device *dev, const struct attention *att)
{
    if (dev->isa == CPU_ISA_REFERENCE) {
        attention_reference_dense(att);
        return;
    }
    struct dense_plan plan = dense_plan(dev, att);
    int n_tasks = plan.n_blocks * att->kv.n_kv_heads * plan.n_splits;
    if (plan.n_splits > 1) {
        plan.parts = cpu_workspace(dev, CPU_WORKSPACE_ATTENTION,
                                   (size_t)n_tasks * plan.part_floats * sizeof(float));
        if (!plan.parts)
            return;
    }
    double work = (double)att->n_rows * att->n_heads * plan.shape.n_keys * plan.shape.head_dim;
    if (work < 64.0 * SERIAL_WORK)
        for (int i = 0; i < n_tasks; i++)
            dense_task(&plan, i, 0);
    else
        cpu_parallel(dev, n_tasks, dense_task, &plan);
    if (plan.n_splits == 1 || cpu_failed(dev))
        return;
    if ((size_t)n_tasks * plan.part_floats < SERIAL_MERGE)
        for (int row = 0; row < att->n_rows; row++)
            merge_task(&plan, row, 0);
    else
        cpu_parallel(dev, att->n_rows, merge_task, &plan);
}

void attention_count_dense(const struct attention *att)
{
    struct attention_shape shape = attention_shape(att);
    uint64_t n_visible = 0;
    for (int row = 0; row < att->n_rows; row++) {
        struct key_range visible = attention_visible(att, &shape, row);
        n_visible += (uint64_t)(visible.end - visible.begin);
    }
    att->counts->selected += n_visible * (uint64_t)att->n_heads;
    att->counts->visible += n_visible * (uint64_t)att->n_heads;
    att->counts->rows_read += n_visible * (uint64_t)att->kv.n_kv_heads;
    att->counts->rows_visible += n_visible * (uint64_t)att->kv.n_kv_heads;
}

void cpu_attend_dense(struct device *dev, const struct attention *att)
{
    assert(att->n_rows > 0 && att->n_heads % att->kv.n_kv_heads == 0);
    if (cpu_failed(dev))
        return;
    attention_dense(dev, att);
    if (att->counts) {
        attention_count_dense(att);
        att->counts->calls++;
    }
}

bool cpu_reserve_attention(struct device *dev, const struct workspace_need *need)
{
    int padded_dim = round_up(need->head_dim, 16);
    int group = need->n_heads / max_int(need->n_kv_heads, 1);
    int n_queries = max_int(TILE_QUERIES, group);
    size_t n_tasks = 2 * TASKS_PER_THREAD * (size_t)dev->n_threads;
    size_t n_part = (size_t)n_queries * (size_t)(padded_dim + 2);
    if (dev->n_threads > 1 &&
        !cpu_workspace(dev, CPU_WORKSPACE_ATTENTION, n_tasks * n_part * sizeof(float)))
        return false;
    size_t n_scratch = attention_tile_scratch_bytes(n_queries, padded_dim);
    if (n_scratch < row_state_bytes(padded_dim))
        n_scratch = row_state_bytes(padded_dim);
    for (int i = 0; i < dev->n_threads; i++)
        if (!cpu_scratch(dev, i, n_scratch))
            return false;
    return true;
}

void cpu_release_attention(struct device *dev)
{
    (void)dev; /* workspaces and scratch are the device's */
}
