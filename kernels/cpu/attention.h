/* Attention on the cpu from the inside: what a call sees, and the inner loops by instruction set.
 *
 * Two ways through the keys.  The row way serves a few query rows (decode): a block of keys is
 * scored, exponentiated and its values added, each K/V row read once for all query heads of its KV
 * head; it takes contiguous keys or a list of them.  The tile way serves many rows (prefill): a
 * block of keys is copied once and multiplied with many query rows at a time, as a matrix product.
 * Both keep a running maximum and sum per query (online softmax), so that keys may be split over
 * tasks and the parts merged.
 * Source: Milakov and Gimelshein 2018; Dao et al. 2022 (FlashAttention). */
#ifndef ATTNSCOPE_KERNELS_CPU_ATTENTION_H
#define ATTNSCOPE_KERNELS_CPU_ATTENTION_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/backend.h"
#include "kernels/cpu/cpu.h"

enum {
    ROW_KEYS = 64,     /* keys of one block of the row way */
    ROW_QUERIES = 32,  /* most queries (row, head) that share a block */
    TILE_KEYS = 64,    /* keys of one tile */
    TILE_QUERIES = 192 /* queries of one tile task, unless one row has more heads */
};

/* --- What a call sees ---------------------------------------------------------------------- */

/* The keys that segment `segment` has for one KV head: rows [n, head_dim], the first being key
 * number `begin`. */
struct key_run {
    const void *k, *v;
    int begin, end; /* keys [begin, end) */
};

/* Numbers that every task of a call needs. */
struct attention_shape {
    int head_dim, padded_dim; /* padded to 16 */
    int group;                /* query heads per KV head */
    int first_position;       /* of row 0 */
    int n_context;            /* keys in the context segment, this call's rows included */
    int n_rows_total;         /* Q: rows of the whole call, of which this may be a piece */
    int n_keys;               /* K */
};

static inline int round_up(int n, int to)
{
    return (n + to - 1) / to * to;
}

static inline int min_int(int a, int b)
{
    return a < b ? a : b;
}

static inline int max_int(int a, int b)
{
    return a > b ? a : b;
}

static inline struct attention_shape attention_shape(const struct attention *att)
{
    const struct step_state *step = att->step;
    int n_rows_total = att->n_rows_total ? att->n_rows_total : att->n_rows;
    struct attention_shape shape = {
        .head_dim = att->kv.head_dim,
        .padded_dim = round_up(att->kv.head_dim, 16),
        .group = att->n_heads / att->kv.n_kv_heads,
        .first_position = cpu_first_position(step) + att->row_offset,
        .n_rows_total = n_rows_total,
        .n_context = step->n_context + (step->append_tail ? 0 : n_rows_total),
        .n_keys = cpu_first_position(step) + n_rows_total,
    };
    return shape;
}

/* Keys that a row sees: [begin, end), empty if the row is padding itself. */
struct key_range {
    int32_t begin, end;
};

static inline struct key_range attention_visible(const struct attention *att,
                                                 const struct attention_shape *shape, int row)
{
    int position = shape->first_position + row;
    int begin = att->first_key;
    if (att->window > 0)
        begin = max_int(begin, position - att->window + 1);
    begin = max_int(begin, 0);
    return (struct key_range){begin, max_int(begin, position + 1)};
}

/* The part of keys [begin, end) that lies in one segment. */
static inline struct key_run attention_run(const struct attention *att,
                                           const struct attention_shape *shape, int kv_head,
                                           enum kv_segment segment, int begin, int end)
{
    int first = segment == KV_CONTEXT ? 0 : shape->n_context;
    struct key_run run = {.begin = max_int(begin, first), .end = end};
    if (segment == KV_CONTEXT)
        run.end = min_int(end, shape->n_context);
    if (run.begin >= run.end || !att->kv.k[segment]) {
        run.end = run.begin;
        return run;
    }
    size_t row = (size_t)kv_head * (size_t)att->kv.capacity[segment] + (size_t)(run.begin - first);
    size_t offset = row * (size_t)shape->head_dim * dtype_bytes(att->kv.dtype);
    run.k = (const char *)att->kv.k[segment] + offset;
    run.v = (const char *)att->kv.v[segment] + offset;
    return run;
}

static inline const float *attention_query(const struct attention *att,
                                           const struct attention_shape *shape, int row, int head)
{
    return att->q + (size_t)row * (size_t)att->q_stride + (size_t)head * (size_t)shape->head_dim;
}

static inline float *attention_out(const struct attention *att, const struct attention_shape *shape,
                                   int row, int head)
{
    return att->out + ((size_t)row * (size_t)att->n_heads + (size_t)head) * (size_t)shape->head_dim;
}

/* --- The row way: inner loops by instruction set ------------------------------------------- */

/* n rows [head_dim] of k or v: row i is at base + (index ? index[i] - first : i) rows. */
struct row_list {
    const void *base;
    const uint32_t *index; /* ascending key numbers, or NULL: contiguous */
    uint32_t first;        /* number of the key at base, used with index */
    enum dtype dtype;
    int head_dim;
    int n; /* 1 .. ROW_KEYS */
};

struct attention_kernels {
    /* s [n_queries, ROW_KEYS] = q k^T; entries from n on, up to a multiple of 16, are -inf.
     * q [n_queries, padded_dim], zero from head_dim on.  `ahead`, if not NULL, are rows
     * that will be read next: they are asked for early. */
    void (*scores)(float *s, const float *q, int padded_dim, int n_queries,
                   const struct row_list *k, const struct row_list *ahead);
    /* s [n] += bias[i] where bit `head` of bits[i] is set, else -inf.  bits NULL: all set; bias
     * NULL: constant. */
    void (*keep_bits)(float *s, const uint32_t *bits, int head, const float *bias, float constant,
                      int n);
    /* Turns scores into exp(s - *max) after raising *max; returns exp(old max - new max), by which
     * what was summed before must be multiplied, and adds to *sum (already multiplied). */
    float (*soften)(float *s, int n, float *max, float *sum);
    /* acc [n_queries, padded_dim] += p [n_queries, ROW_KEYS] v, rows multiplied by scale first. */
    void (*accumulate)(float *acc, const float *scale, const float *p, int padded_dim,
                       int n_queries, const struct row_list *v, const struct row_list *ahead);
    /* s [k->n] = scale * (q k^T) of one query q [head_dim], for any n, in one order of sums and so
     * the same bits on every instruction set: element d goes to partial sum d mod 16, by fused
     * multiply-adds in rising d; then those 2 apart are added, then 1, then 4, then 8. */
    void (*ordered_scores)(float *s, const float *q, float scale, const struct row_list *k);
};

/* The tile way for one task; the other fields come from the call. */
struct tile_job {
    const struct attention *att;
    const struct attention_shape *shape;
    int kv_head, row, n_rows; /* query rows [row, row + n_rows), all heads of kv_head */
    int begin, end;           /* keys of this task */
    float *part;              /* [n_rows * group, padded_dim + 2] if keys are split, else NULL */
};

typedef void attention_tile(const struct tile_job *job, void *scratch);

const struct attention_kernels *attention_kernels(enum cpu_isa isa);
/* The fastest tile function that the device may use for this dtype; NULL: none, use rows. */
attention_tile *attention_tile_function(const struct device *dev, enum dtype dtype);
size_t attention_tile_scratch_bytes(int n_queries, int padded_dim);

extern const struct attention_kernels attention_kernels_reference;
#if defined(__x86_64__)
extern const struct attention_kernels attention_kernels_avx2, attention_kernels_avx512;
attention_tile attention_tile_avx2, attention_tile_avx512, attention_tile_avx512bf16;
#endif

/* --- Queries that share blocks of keys ----------------------------------------------------- */

/* Running softmax of up to ROW_QUERIES queries, in a thread's scratch. */
struct row_state {
    const struct attention_kernels *kernels;
    int n_queries, padded_dim;
    float max[ROW_QUERIES], sum[ROW_QUERIES];
    struct key_range visible[ROW_QUERIES]; /* per query; looked at only if limited */
    bool limited;
    float *q;   /* [n_queries, padded_dim], scaled */
    float *acc; /* [n_queries, padded_dim] */
    float *s;   /* [n_queries, ROW_KEYS] */
};

/* Which listed key belongs to which query, and with what bias -ln p. */
struct row_bits {
    const uint32_t *bits; /* [n], or NULL: all queries */
    const float *bias;    /* [n_queries, bias_stride], or NULL: constant */
    size_t bias_stride;   /* 0: one bias for all queries */
    float constant;
};

size_t row_state_bytes(int padded_dim);
/* Carves the state from scratch (row_state_bytes) and empties it. */
struct row_state *row_state_start(void *scratch, const struct attention_kernels *kernels,
                                  int padded_dim);
/* Adds query (row, head) of the call. */
void row_state_add_query(struct row_state *state, const struct attention *att,
                         const struct attention_shape *shape, int row, int head);
/* Attends to keys [begin, end). */
void row_state_attend_run(struct row_state *state, const struct attention *att,
                          const struct attention_shape *shape, int kv_head, int begin, int end);
/* Attends to the n keys of index, ascending.  bias -ln p is added to the scores. */
void row_state_attend_list(struct row_state *state, const struct attention *att,
                           const struct attention_shape *shape, int kv_head, const uint32_t *index,
                           const struct row_bits *bits, int n);

/* Writes the output of a query that has seen all its keys. */
void row_state_finish(const struct row_state *state, int query, const struct attention *att,
                      const struct attention_shape *shape, int row, int head);

/* Parts: [padded_dim] sums of exp(z - max) v, then max, then the sum of exp(z - max). */
void row_state_store(const struct row_state *state, int query, float *part);
/* out [head_dim] = merged parts, each part_stride floats after the other; the sink logit of the
 * head enters here. */
/* What a query's sum of exp(z - max) v is multiplied by to be its output: 1 over the sum of
 * exp(z - max), to which the head's sink logit adds. */
static inline float attention_factor(const struct attention *att, int head, float max, float sum)
{
    if (!att->sink_logits)
        return 1.0f / sum;
    float sink = att->sink_logits[head], top = sink > max ? sink : max;
    return expf(max - top) / (sum * expf(max - top) + expf(sink - top));
}
void attention_merge(const struct attention *att, float *out, int head, const float *parts,
                     int n_parts, size_t part_stride, int padded_dim);

/* --- Whole calls ---------------------------------------------------------------------------- */

void attention_reference_dense(const struct attention *att);
struct selection;
void attention_reference_selected(const struct attention *att, const struct selection *sel);
/* Dense attention without touching the counts. */
void attention_dense(struct device *dev, const struct attention *att);
/* Adds what a dense call counts, save `calls`. */
void attention_count_dense(const struct attention *att);

#endif
