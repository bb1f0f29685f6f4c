/* The tile way (attention.h), written once for f32 and bf16 products and both vector widths.
 *
 * Queries lie in the lanes: a panel is TILE_WIDTH queries (row by row, the heads of one KV group
 * side by side), and S^T [keys, queries] = K Q^T, O^T [dims, queries] = V^T P^T.  So K is used as
 * it lies in memory, the softmax runs down the columns without sums across lanes, and every product
 * is "broadcast one element of a tile, multiply with three vectors of queries".
 *
 * A unit is 4 bytes along the summed dimension: one f32, or two bf16 (TILE_BF16), which VDPBF16PS
 * multiplies and adds pairwise.
 *
 * The including file defines TILE_FUNCTION, the function's name, and perhaps TILE_BF16. */
#include <math.h>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/attention_simd.h"

#ifdef TILE_BF16
enum { UNIT = 2 };
typedef __m512i units;
#define units_load(p) _mm512_loadu_si512(p)
#define units_all(x) _mm512_set1_epi32((int)(x))
#define units_multiply_add(sum, a, b) _mm512_dpbf16_ps(sum, (__m512bh)(a), (__m512bh)(b))
#else
enum { UNIT = 1 };
typedef vec units;
#define units_load(p) vec_load((const float *)(p))
#define units_all(x) vec_all(float_from_bits(x))
#define units_multiply_add(sum, a, b) vec_fma(a, b, sum)
#endif

enum {
    TILE_VECTORS = 3,
    TILE_WIDTH = TILE_VECTORS * LANES,
    TILE_ROWS = LANES == 16 ? 8 : 4 /* TILE_ROWS x TILE_VECTORS sums stay in registers */
};

/* A task's memory, all in the thread's scratch. */
struct tile {
    const struct tile_job *job;
    int n_queries, n_panels;
    int padded_dim, depth; /* units per key */
    uint32_t *q;           /* [n_panels, depth, TILE_WIDTH] units, scaled */
    float *acc;            /* [n_panels, padded_dim, TILE_WIDTH] */
    float *max, *sum;      /* [n_panels, TILE_WIDTH] */
    int32_t *begin, *end;  /* [n_panels, TILE_WIDTH] keys that a query sees */
    uint32_t *k;           /* [TILE_KEYS, depth] units */
    uint32_t *v;           /* [TILE_KEYS / UNIT, padded_dim] units */
    float *s;              /* [TILE_KEYS, TILE_WIDTH] */
    uint32_t *p;           /* [TILE_KEYS / UNIT, TILE_WIDTH] units */
};

static void *carve(char **scratch, size_t n)
{
    void *at = *scratch;
    *scratch += (n * 4 + CPU_ALIGN - 1) / CPU_ALIGN * CPU_ALIGN;
    return at;
}

static void tile_carve(struct tile *tile, const struct tile_job *job, char *scratch)
{
    tile->job = job;
    tile->n_queries = job->n_rows * job->shape->group;
    tile->n_panels = (tile->n_queries + TILE_WIDTH - 1) / TILE_WIDTH;
    tile->padded_dim = job->shape->padded_dim;
    tile->depth = (job->shape->head_dim + UNIT - 1) / UNIT;
    size_t depth = (size_t)tile->depth, dim = (size_t)tile->padded_dim;
    size_t width = (size_t)tile->n_panels * TILE_WIDTH;
    tile->q = carve(&scratch, width * depth);
    tile->acc = carve(&scratch, width * dim);
    tile->max = carve(&scratch, width);
    tile->sum = carve(&scratch, width);
    tile->begin = carve(&scratch, width);
    tile->end = carve(&scratch, width);
    tile->k = carve(&scratch, TILE_KEYS * depth);
    tile->v = carve(&scratch, TILE_KEYS / UNIT * dim);
    tile->s = carve(&scratch, TILE_KEYS * TILE_WIDTH);
    tile->p = carve(&scratch, TILE_KEYS / UNIT * TILE_WIDTH);
}

/* Turns queries on their side; lanes without a query see no key. */
static void load_queries(struct tile *tile)
{
    const struct tile_job *job = tile->job;
    const struct attention_shape *shape = job->shape;
    float scale = job->att->scale;
    for (int i = 0; i < tile->n_panels * TILE_WIDTH; i++) {
        uint32_t *to =
            tile->q + (size_t)(i / TILE_WIDTH) * (size_t)tile->depth * TILE_WIDTH + i % TILE_WIDTH;
        tile->max[i] = -INFINITY;
        tile->sum[i] = 0.0f;
        if (i >= tile->n_queries) {
            tile->begin[i] = tile->end[i] = 0;
            for (int d = 0; d < tile->depth; d++)
                to[(size_t)d * TILE_WIDTH] = 0;
            continue;
        }
        int row = job->row + i / shape->group;
        int head = job->kv_head * shape->group + i % shape->group;
        struct key_range visible = attention_visible(job->att, shape, row);
        tile->begin[i] = visible.begin;
        tile->end[i] = visible.end;
        const float *from = attention_query(job->att, shape, row, head);
        for (int d = 0; d < tile->depth; d++) {
#ifdef TILE_BF16
            float second = 2 * d + 1 < shape->head_dim ? from[2 * d + 1] * scale : 0.0f;
            to[(size_t)d * TILE_WIDTH] =
                f32_to_bf16(from[2 * d] * scale) | (uint32_t)f32_to_bf16(second) << 16;
#else
            to[(size_t)d * TILE_WIDTH] = float_bits(from[d] * scale);
#endif
        }
    }
    memset(tile->acc, 0,
           (size_t)tile->n_panels * (size_t)tile->padded_dim * TILE_WIDTH * sizeof(float));
}

#ifdef TILE_BF16

static void copy_keys(struct tile *tile, const void *k, int n)
{
    const uint16_t *from = k;
    int head_dim = tile->job->shape->head_dim;
    for (int j = 0; j < n; j++) {
        uint16_t *to = (uint16_t *)(tile->k + (size_t)j * (size_t)tile->depth);
        to[2 * tile->depth - 1] = 0;
        memcpy(to, from + (size_t)j * (size_t)head_dim, (size_t)head_dim * sizeof *to);
    }
}

/* Interleaves the values of keys 2j and 2j + 1. */
static void copy_values(struct tile *tile, const void *v, int n)
{
    static const uint16_t low_half[32] = {0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,
                                          37, 6,  38, 7,  39, 8,  40, 9,  41, 10, 42,
                                          11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    const __m512i low = _mm512_loadu_si512(low_half);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    int head_dim = tile->job->shape->head_dim;
    for (int j = 0; j < n; j += 2) {
        const uint16_t *first = (const uint16_t *)v + (size_t)j * (size_t)head_dim;
        uint32_t *to = tile->v + (size_t)(j / 2) * (size_t)tile->padded_dim;
        for (int d = 0; d < head_dim; d += 32) {
            int n_left = min_int(head_dim - d, 32);
            __mmask32 part = n_left == 32 ? 0xFFFFFFFFu : (1u << n_left) - 1;
            __mmask32 second = j + 1 < n ? part : 0;
            __m512i a = _mm512_maskz_loadu_epi16(part, first + d);
            __m512i b = _mm512_maskz_loadu_epi16(second, first + (second ? head_dim : 0) + d);
            _mm512_storeu_si512(to + d, _mm512_permutex2var_epi16(a, low, b));
            if (d + 16 < tile->padded_dim)
                _mm512_storeu_si512(to + d + 16, _mm512_permutex2var_epi16(a, high, b));
        }
    }
}

/* Two keys' weights, interleaved. */
ALWAYS_INLINE void store_weights(uint32_t *p, vec first, vec second)
{
    static const uint16_t interleave[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                            21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                            11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    __m512i pair = (__m512i)_mm512_cvtne2ps_pbh(second, first);
    _mm512_storeu_si512(p, _mm512_permutexvar_epi16(_mm512_loadu_si512(interleave), pair));
}

#else

static void copy_rows(float *to, int stride, const void *from, int n, const struct tile_job *job)
{
    int head_dim = job->shape->head_dim, n_whole = head_dim / LANES * LANES;
    bool bf16 = job->att->kv.dtype == DTYPE_BF16;
    for (int j = 0; j < n; j++, to += stride) {
        const uint16_t *h = (const uint16_t *)from + (size_t)j * (size_t)head_dim;
        const float *f = (const float *)from + (size_t)j * (size_t)head_dim;
        for (int d = 0; d < n_whole; d += LANES)
            vec_store(to + d, bf16 ? vec_load_bf16(h + d) : vec_load(f + d));
        for (int d = n_whole; d < head_dim; d++)
            to[d] = bf16 ? bf16_to_f32(h[d]) : f[d];
    }
}

static void copy_keys(struct tile *tile, const void *k, int n)
{
    copy_rows((float *)tile->k, tile->depth, k, n, tile->job);
}

static void copy_values(struct tile *tile, const void *v, int n)
{
    copy_rows((float *)tile->v, tile->padded_dim, v, n, tile->job);
}

#endif

/* sum [TILE_ROWS, nv] += a b.  Element (i, k) of a is at i row_step + k depth_step;
 * b [depth, TILE_WIDTH]. */
ALWAYS_INLINE void multiply(vec (*sum)[TILE_VECTORS], const uint32_t *a, size_t row_step,
                            size_t depth_step, const uint32_t *b, int depth, int nv)
{
    for (int k = 0; k < depth; k++, b += TILE_WIDTH, a += depth_step) {
        units right[TILE_VECTORS];
        for (int c = 0; c < nv; c++)
            right[c] = units_load(b + c * LANES);
        for (int i = 0; i < TILE_ROWS; i++) {
            units left = units_all(a[(size_t)i * row_step]);
            for (int c = 0; c < nv; c++)
                sum[i][c] = units_multiply_add(sum[i][c], left, right[c]);
        }
    }
}

/* s [n keys] = K Q^T for one panel. */
ALWAYS_INLINE void score_panel(struct tile *tile, const uint32_t *q, int n, int nv)
{
    size_t depth = (size_t)tile->depth;
    for (int j = 0; j < n; j += TILE_ROWS) {
        vec sum[TILE_ROWS][TILE_VECTORS];
        for (int i = 0; i < TILE_ROWS; i++)
            for (int c = 0; c < nv; c++)
                sum[i][c] = vec_zero();
        multiply(sum, tile->k + (size_t)j * depth, depth, 1, q, tile->depth, nv);
        for (int i = 0; i < TILE_ROWS; i++)
            for (int c = 0; c < nv; c++)
                vec_store(tile->s + (j + i) * TILE_WIDTH + c * LANES, sum[i][c]);
    }
}

/* Scores to weights, for the n keys from `first` on and the queries of one vector; returns what the
 * sums so far must be multiplied by.  A query that has seen no key yet keeps max -inf. */
ALWAYS_INLINE vec soften_column(struct tile *tile, size_t at, int c, int first, int n, bool limited)
{
    float *s = tile->s + c * LANES;
    float *max = tile->max + at, *sum = tile->sum + at;
    vec old = vec_load(max), now = old;
    for (int j = 0; j < n; j++) {
        vec x = vec_load(s + j * TILE_WIDTH);
        if (limited) {
            x = vec_keep_between(x, first + j, tile->begin + at, tile->end + at);
            vec_store(s + j * TILE_WIDTH, x);
        }
        now = vec_max(now, x);
    }
    vec_store(max, now);
    vec shift = vec_max(now, vec_all(-3.0e38f)); /* finite, so that -inf - shift is -inf */
    vec scale = vec_exp(vec_sub(old, shift));
    vec total = vec_mul(vec_load(sum), scale);
    for (int j = 0; j < n; j += UNIT) {
        vec p = vec_exp(vec_sub(vec_load(s + j * TILE_WIDTH), shift));
        total = vec_add(total, p);
#ifdef TILE_BF16
        vec next = vec_zero();
        if (j + 1 < n) {
            next = vec_exp(vec_sub(vec_load(s + (j + 1) * TILE_WIDTH), shift));
            total = vec_add(total, next);
        }
        store_weights(tile->p + j / 2 * TILE_WIDTH + c * LANES, p, next);
#else
        vec_store((float *)tile->p + j * TILE_WIDTH + c * LANES, p);
#endif
    }
    vec_store(sum, total);
    return scale;
}

/* acc = acc scale + V^T P^T for one panel. */
ALWAYS_INLINE void add_values(struct tile *tile, float *acc, const vec *scale, int n, int nv)
{
    for (int d = 0; d < tile->padded_dim; d += TILE_ROWS) {
        vec sum[TILE_ROWS][TILE_VECTORS];
        float *to = acc + d * TILE_WIDTH;
        for (int i = 0; i < TILE_ROWS; i++)
            for (int c = 0; c < nv; c++)
                sum[i][c] = vec_mul(vec_load(to + i * TILE_WIDTH + c * LANES), scale[c]);
        multiply(sum, tile->v + d, 1, (size_t)tile->padded_dim, tile->p, (n + UNIT - 1) / UNIT, nv);
        for (int i = 0; i < TILE_ROWS; i++)
            for (int c = 0; c < nv; c++)
                vec_store(to + i * TILE_WIDTH + c * LANES, sum[i][c]);
    }
}

ALWAYS_INLINE void attend_panel(struct tile *tile, int panel, int first, int n, bool limited,
                                int nv)
{
    size_t at = (size_t)panel * TILE_WIDTH;
    vec scale[TILE_VECTORS];
    score_panel(tile, tile->q + at * (size_t)tile->depth, n, nv);
    for (int c = 0; c < nv; c++)
        scale[c] = limited ? soften_column(tile, at + (size_t)c * LANES, c, first, n, true)
                           : soften_column(tile, at + (size_t)c * LANES, c, first, n, false);
    add_values(tile, tile->acc + at * (size_t)tile->padded_dim, scale, n, nv);
}

/* Keys [first, first + n), already copied, for every panel that sees one of them. */
static void attend_panels(struct tile *tile, int first, int n)
{
    for (int panel = 0; panel < tile->n_panels; panel++) {
        /* Both limits rise from row to row. */
        int at = panel * TILE_WIDTH, n_left = min_int(tile->n_queries - at, TILE_WIDTH);
        int last = at + n_left - 1;
        if (first >= tile->end[last] || first + n <= tile->begin[at])
            continue;
        bool limited = first < tile->begin[last] || first + n > tile->end[at];
        switch ((n_left + LANES - 1) / LANES) {
        case 1:
            attend_panel(tile, panel, first, n, limited, 1);
            break;
        case 2:
            attend_panel(tile, panel, first, n, limited, 2);
            break;
        default:
            attend_panel(tile, panel, first, n, limited, 3);
        }
    }
}

/* The queries' sums: to the parts, or divided and to the call's output. */
static void store_queries(const struct tile *tile)
{
    const struct tile_job *job = tile->job;
    int head_dim = job->shape->head_dim, padded_dim = tile->padded_dim;
    for (int i = 0; i < tile->n_queries; i++) {
        const float *acc =
            tile->acc + (size_t)(i / TILE_WIDTH) * (size_t)padded_dim * TILE_WIDTH + i % TILE_WIDTH;
        if (job->part) {
            float *part = job->part + (size_t)i * (size_t)(padded_dim + 2);
            for (int d = 0; d < padded_dim; d++)
                part[d] = acc[(size_t)d * TILE_WIDTH];
            part[padded_dim] = tile->max[i];
            part[padded_dim + 1] = tile->sum[i];
            continue;
        }
        int row = job->row + i / job->shape->group;
        int head = job->kv_head * job->shape->group + i % job->shape->group;
        float *out = attention_out(job->att, job->shape, row, head);
        float factor = tile->sum[i] > 0.0f
                           ? attention_factor(job->att, head, tile->max[i], tile->sum[i])
                           : 0.0f;
        for (int d = 0; d < head_dim; d++)
            out[d] = acc[(size_t)d * TILE_WIDTH] * factor;
    }
}

/* Rows and dimensions that pad a tile are zero; the copies never write them. */
static void clear_padding(struct tile *tile)
{
    memset(tile->k, 0, (size_t)TILE_KEYS * (size_t)tile->depth * sizeof *tile->k);
    memset(tile->v, 0, (size_t)(TILE_KEYS / UNIT) * (size_t)tile->padded_dim * sizeof *tile->v);
}

void TILE_FUNCTION(const struct tile_job *job, void *scratch)
{
    struct tile tile;
    tile_carve(&tile, job, scratch);
    load_queries(&tile);
    clear_padding(&tile);
    size_t row_bytes = (size_t)job->shape->head_dim * dtype_bytes(job->att->kv.dtype);
    for (int segment = 0; segment < KV_SEGMENTS; segment++) {
        struct key_run run =
            attention_run(job->att, job->shape, job->kv_head, segment, job->begin, job->end);
        for (int first = run.begin; first < run.end; first += TILE_KEYS) {
            int n = min_int(run.end - first, TILE_KEYS);
            size_t offset = (size_t)(first - run.begin) * row_bytes;
            copy_keys(&tile, (const char *)run.k + offset, n);
            copy_values(&tile, (const char *)run.v + offset, n);
            attend_panels(&tile, first, n);
        }
    }
    store_queries(&tile);
}
