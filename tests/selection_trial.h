/* One selection under test: a case, the device that runs it, and a plain model of what each masker
 * operation must select, written from the definitions. */
#ifndef ATTNSCOPE_TESTS_SELECTION_TRIAL_H
#define ATTNSCOPE_TESTS_SELECTION_TRIAL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/cpu/attention.h"
#include "tests/attention_case.h"

enum { N_LEVELS = 4, N_THREADS = 3 };

static const enum device_isa isas[N_LEVELS] = {DEVICE_ISA_REFERENCE, DEVICE_ISA_AVX2,
                                               DEVICE_ISA_AVX512, DEVICE_ISA_AUTO};
static struct device *devices[N_LEVELS];

static inline int open_devices(void **state)
{
    (void)state;
    for (int i = 0; i < N_LEVELS; i++) {
        char why[256] = "";
        struct device_options options = {.n_threads = N_THREADS, .exact = true, .isa = isas[i]};
        devices[i] = backend_cpu.open(&options, why, sizeof why);
        if (!devices[i])
            return -1;
    }
    return 0;
}

static inline int close_devices(void **state)
{
    (void)state;
    for (int i = 0; i < N_LEVELS; i++)
        backend_cpu.close(devices[i]);
    return 0;
}

/* --- The definition ------------------------------------------------------------------------- */

/* p [n_rows, n_heads, n_keys]: 0 not selected. */
struct model {
    const struct attention_case *c;
    int n_rows, n_heads, n_kv_heads, n_keys;
    bool full;
    float *p, *score;
};

static inline size_t at(const struct model *m, int row, int head, int key)
{
    return ((size_t)row * (size_t)m->n_heads + (size_t)head) * (size_t)m->n_keys + (size_t)key;
}

static inline int position(const struct model *m, int row)
{
    return m->n_keys - m->n_rows + row;
}

static inline bool is_visible(const struct model *m, int row, int key)
{
    int pos = position(m, row), window = m->c->att.window;
    return key >= m->c->att.first_key && key <= pos && (window <= 0 || pos - key < window);
}

static inline void model_open(struct model *m, const struct attention_case *c)
{
    *m = (struct model){.c = c,
                        .n_rows = c->att.n_rows,
                        .n_heads = c->att.n_heads,
                        .n_kv_heads = c->att.kv.n_kv_heads,
                        .n_keys = c->step.n_context + c->step.n_tail + c->att.n_rows};
    size_t n = at(m, m->n_rows, 0, 0);
    m->p = calloc(n, sizeof *m->p);
    m->score = calloc(n, sizeof *m->score);
}

static inline void model_close(struct model *m)
{
    free(m->p);
    free(m->score);
}

static inline int resolve(struct budget size, int n_keys)
{
    return (int)(size.is_fraction ? trunc(size.value * n_keys) : size.value);
}

static inline void model_sink(struct model *m, struct budget size)
{
    int e = resolve(size, m->n_keys);
    m->full = m->full || m->n_keys <= e;
    for (int row = 0; row < m->n_rows; row++)
        for (int head = 0; head < m->n_heads; head++)
            for (int key = 0; key < e && key < m->n_keys; key++)
                if (is_visible(m, row, key))
                    m->p[at(m, row, head, key)] = 1.0f;
}

static inline void model_local(struct model *m, struct budget size)
{
    int e = resolve(size, m->n_keys);
    if (e == 0)
        return;
    m->full = m->full || m->n_keys <= e + m->n_rows;
    for (int row = 0; row < m->n_rows; row++)
        for (int head = 0; head < m->n_heads; head++)
            for (int key = 0; key < m->n_keys; key++)
                if (is_visible(m, row, key) && key > position(m, row) - e)
                    m->p[at(m, row, head, key)] = 1.0f;
}

struct scored {
    int key;
    double score;
};

static inline int by_score(const void *a, const void *b)
{
    const struct scored *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->key - y->key;
}

/* Candidates of heads [head, head + n): visible, selected by none of them; scores summed in f32 as
 * the operation says.  Returns how many. */
static inline int candidates(const struct model *m, int row, int head, int n, struct scored *out)
{
    int n_out = 0;
    for (int key = 0; key < m->n_keys; key++) {
        bool taken = !is_visible(m, row, key);
        float sum = 0.0f;
        for (int h = head; h < head + n; h++) {
            taken = taken || m->p[at(m, row, h, key)] > 0.0f;
            sum += m->score[at(m, row, h, key)];
        }
        if (!taken)
            out[n_out++] = (struct scored){key, (double)sum};
    }
    return n_out;
}

static inline void model_top_k(struct model *m, struct budget size, enum share share)
{
    int e = resolve(size, m->n_keys), n = share == SHARE_GROUP ? m->n_heads / m->n_kv_heads : 1;
    if (e > 0 && m->n_keys <= e)
        m->full = true;
    struct scored *list = calloc((size_t)m->n_keys, sizeof *list);
    for (int row = 0; row < m->n_rows; row++)
        for (int head = 0; head < m->n_heads; head += n) {
            int n_list = candidates(m, row, head, n, list);
            qsort(list, (size_t)n_list, sizeof *list, by_score);
            for (int i = 0; i < e && i < n_list; i++)
                for (int h = head; h < head + n; h++)
                    m->p[at(m, row, h, list[i].key)] = 1.0f;
        }
    free(list);
}

/* Of scores whose logits do not leave the range of exp. */
static inline void model_top_p(struct model *m, double top_p, bool of_total, struct budget most,
                               double scale, enum share share)
{
    bool limited = most.is_fraction || most.value > 0;
    int e = limited ? resolve(most, m->n_keys) : m->n_keys;
    int n = share == SHARE_GROUP ? m->n_heads / m->n_kv_heads : 1;
    m->full = m->full || (top_p >= 1.0 && !limited);
    struct scored *list = calloc((size_t)m->n_keys, sizeof *list);
    for (int row = 0; row < m->n_rows; row++)
        for (int head = 0; head < m->n_heads; head += n) {
            int n_list = candidates(m, row, head, n, list);
            if (n_list == 0)
                continue;
            double held = 0.0, left = 0.0;
            for (int i = 0; i < n_list; i++)
                list[i].score = 0.0;
            for (int h = head; h < head + n; h++) {
                double total = 0.0, rest = 0.0;
                for (int key = 0; key < m->n_keys; key++)
                    if (is_visible(m, row, key))
                        total += exp(scale * (double)m->score[at(m, row, h, key)]);
                for (int i = 0; i < n_list; i++)
                    rest += exp(scale * (double)m->score[at(m, row, h, list[i].key)]);
                double whole = of_total ? total : rest;
                held += (whole - rest) / whole / n;
                for (int i = 0; i < n_list; i++) {
                    double z = scale * (double)m->score[at(m, row, h, list[i].key)];
                    double w = exp(z) / whole / n;
                    list[i].score += w;
                    left += w;
                }
            }
            qsort(list, (size_t)n_list, sizeof *list, by_score);
            double target = top_p * (held + left) - held, sum = 0.0;
            for (int i = 0; i < n_list && i < e && target >= 0.0; i++) {
                if (sum > target && list[i].score != list[i - 1].score)
                    break;
                sum += list[i].score;
                for (int h = head; h < head + n; h++)
                    m->p[at(m, row, h, list[i].key)] = 1.0f;
            }
        }
    free(list);
}

/* --- One case under test ---------------------------------------------------------------------- */

struct trial {
    struct device *dev;
    struct attention_case c;
    struct model m;
    struct selection *sel;
    int32_t *keys;
    float *prob;
};

static inline void trial_open(struct trial *t, int level, const struct case_shape *shape,
                              uint64_t seed)
{
    t->dev = devices[level];
    case_open(&t->c, shape, seed);
    model_open(&t->m, &t->c);
    t->sel = backend_cpu.selection_open(t->dev, shape->n_rows, shape->n_heads, shape->n_kv_heads,
                                        shape->n_keys);
    assert_non_null(t->sel);
    t->keys = calloc((size_t)shape->n_keys, sizeof *t->keys);
    t->prob = calloc((size_t)shape->n_keys, sizeof *t->prob);
    backend_cpu.selection_begin(t->dev, t->sel, &t->c.att);
}

static inline void trial_close(struct trial *t)
{
    backend_cpu.selection_close(t->dev, t->sel);
    model_close(&t->m);
    case_close(&t->c);
    free(t->keys);
    free(t->prob);
}

/* Replaces queries and keys by small integers: every product and sum is exact in any order, many
 * scores tie (fewer with a larger spread), and the model's scores are the operation's own. */
static inline void exact_scores(struct trial *t, int spread)
{
    struct attention *att = &t->c.att;
    int head_dim = att->kv.head_dim;
    uint64_t random = 99 + (uint64_t)spread;
    for (int row = 0; row < att->n_rows; row++)
        for (int i = 0; i < att->n_heads * head_dim; i++)
            t->c.q[row * att->q_stride + i] = (float)((int)(case_random(&random) % 3) - 1);
    for (int s = 0; s < KV_SEGMENTS; s++) {
        size_t n = (size_t)att->kv.n_kv_heads * (size_t)att->kv.capacity[s] * (size_t)head_dim;
        for (size_t i = 0; i < n; i++) {
            float x = (float)((int)(case_random(&random) % (2u * (unsigned)spread + 1)) - spread);
            if (att->kv.dtype == DTYPE_BF16)
                ((uint16_t *)t->c.k[s])[i] = f32_to_bf16(x);
            else
                ((float *)t->c.k[s])[i] = x;
        }
    }
    att->scale = 0.125f;
    int n_context = att->kv.capacity[KV_CONTEXT];
    for (int row = 0; row < t->m.n_rows; row++)
        for (int head = 0; head < t->m.n_heads; head++)
            for (int key = 0; key < t->m.n_keys; key++) {
                int s = key < n_context ? KV_CONTEXT : KV_TAIL;
                int kv_head = head / (att->n_heads / att->kv.n_kv_heads);
                size_t k = ((size_t)kv_head * (size_t)att->kv.capacity[s] +
                            (size_t)(key - (s == KV_TAIL ? n_context : 0))) *
                           (size_t)head_dim;
                float z = 0.0f;
                for (int d = 0; d < head_dim; d++)
                    z += t->c.q[row * att->q_stride + head * head_dim + d] *
                         load_as_f32(att->kv.k[s], att->kv.dtype, k + (size_t)d);
                t->m.score[at(&t->m, row, head, key)] = z * att->scale;
            }
}

static inline void check_selected(struct trial *t, const char *what)
{
    backend_cpu.selection_end(t->dev, t->sel, &t->c.att);
    for (int row = 0; row < t->m.n_rows; row++)
        for (int head = 0; head < t->m.n_heads; head++) {
            int n = backend_cpu.selection_get(t->dev, t->sel, row, head, t->keys, t->prob), i = 0;
            if ((n < 0) != t->m.full)
                fail_msg("%s: full is %d, want %d", what, n < 0, t->m.full);
            for (int key = 0; key < t->m.n_keys && n >= 0; key++) {
                float want = t->m.p[at(&t->m, row, head, key)];
                bool has = i < n && t->keys[i] == key;
                float got = has ? t->prob[i] : 0.0f;
                i += has;
                if (fabsf(got - want) > 1e-6f)
                    fail_msg("%s: level %p row %d head %d key %d of %d: got p %g, want %g", what,
                             (void *)t->dev, row, head, key, t->m.n_keys, (double)got,
                             (double)want);
            }
            if (n >= 0 && i != n)
                fail_msg("%s: row %d head %d: %d keys too many or out of order", what, row, head,
                         n - i);
        }
}

/* Attention by the formula over the model's p, and its counts. */
static inline void check_attended(struct trial *t, const char *what)
{
    const struct attention *att = &t->c.att;
    struct model *m = &t->m;
    size_t n = case_out_count(&t->c);
    float *want = calloc(n, sizeof *want);
    struct attention_counts counts = {.calls = 1, .full = m->full};
    int head_dim = att->kv.head_dim, group = m->n_heads / m->n_kv_heads;
    int n_context = att->kv.capacity[KV_CONTEXT];
    for (int row = 0; row < m->n_rows; row++)
        for (int key = 0; key < m->n_keys; key++) {
            counts.visible += (uint64_t)(is_visible(m, row, key) * m->n_heads);
            counts.rows_visible += (uint64_t)(is_visible(m, row, key) * m->n_kv_heads);
        }
    for (int row = 0; row < m->n_rows; row++)
        for (int head = 0; head < m->n_heads; head++) {
            bool any = false;
            for (int key = 0; key < m->n_keys; key++) {
                float *p = &m->p[at(m, row, head, key)];
                if (m->full)
                    *p = is_visible(m, row, key) ? 1.0f : 0.0f;
                any = any || *p > 0.0f;
            }
            if (!any) {
                m->p[at(m, row, head, position(m, row))] = 1.0f;
                counts.rescued++;
            }
            double sum = 0.0, out[256] = {0}, max = -INFINITY;
            for (int pass = 0; pass < 2; pass++)
                for (int key = 0; key < m->n_keys; key++) {
                    double p = (double)m->p[at(m, row, head, key)], z = 0.0;
                    if (p == 0.0)
                        continue;
                    counts.selected += pass == 0;
                    int s = key < n_context ? KV_CONTEXT : KV_TAIL;
                    size_t k = ((size_t)(head / group) * (size_t)att->kv.capacity[s] +
                                (size_t)(key - (s == KV_TAIL ? n_context : 0))) *
                               (size_t)head_dim;
                    for (int d = 0; d < head_dim; d++)
                        z += (double)t->c.q[row * att->q_stride + head * head_dim + d] *
                             (double)load_as_f32(att->kv.k[s], att->kv.dtype, k + (size_t)d);
                    z *= (double)att->scale;
                    max = fmax(max, z);
                    if (pass == 0)
                        continue;
                    double w = exp(z - max) / p;
                    sum += w;
                    for (int d = 0; d < head_dim; d++)
                        out[d] +=
                            w * (double)load_as_f32(att->kv.v[s], att->kv.dtype, k + (size_t)d);
                }
            if (att->sink_logits)
                sum += exp((double)att->sink_logits[head] - max);
            for (int d = 0; d < head_dim; d++)
                want[(size_t)(row * m->n_heads + head) * (size_t)head_dim + (size_t)d] =
                    (float)(out[d] / sum);
        }
    for (int row = 0; row < m->n_rows; row++)
        for (int kv = 0; kv < m->n_kv_heads; kv++)
            for (int key = 0; key < m->n_keys; key++) {
                bool any = false;
                for (int head = kv * group; head < (kv + 1) * group; head++)
                    any = any || m->p[at(m, row, head, key)] > 0.0f;
                counts.rows_read += any;
            }
    uint64_t score_rows = t->c.counts.score_rows;
    counts.score_rows = score_rows;
    backend_cpu.attend_selected(t->dev, att, t->sel);
    double error = relative_error(t->c.out, want, n);
    if (!(error < 5e-6))
        fail_msg("%s: output error %.2e", what, error);
    if (memcmp(&counts, &t->c.counts, sizeof counts) != 0)
        fail_msg("%s: counts: selected %lu (want %lu), visible %lu (%lu), read %lu (%lu), rescued "
                 "%lu (%lu), full %lu (%lu), calls %lu",
                 what, t->c.counts.selected, counts.selected, t->c.counts.visible, counts.visible,
                 t->c.counts.rows_read, counts.rows_read, t->c.counts.rescued, counts.rescued,
                 t->c.counts.full, counts.full, t->c.counts.calls);
    free(want);
}

static inline struct budget count(int n)
{
    return (struct budget){false, n};
}

static inline struct budget fraction(double f)
{
    return (struct budget){true, f};
}

static const struct case_shape awkward[] = {
    {1, 60, 6, 2, 16, DTYPE_F32, .n_tail = 0},
    {3, 131, 4, 4, 20, DTYPE_BF16, .n_tail = 40, .sink = true},
    {5, 300, 8, 2, 64, DTYPE_BF16, .n_tail = 100, .window = 90, .first_key = 4},
    {2, 90, 8, 1, 17, DTYPE_F32, .n_tail = 1, .first_key = 30},
    {1, 1000, 3, 1, 80, DTYPE_BF16, .n_tail = 0, .window = 700},
};
enum { N_AWKWARD = sizeof awkward / sizeof *awkward };

#define FOR_EACH_TRIAL(t)                                                                          \
    for (int level = 0; level < N_LEVELS; level++)                                                 \
        for (int shape = 0, open = 1; shape < N_AWKWARD; shape++, open = 1)                        \
            for (trial_open(&(t), level, &awkward[shape], (uint64_t)shape + 1); open;              \
                 trial_close(&(t)), open = 0)

#endif
