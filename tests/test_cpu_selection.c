/* Selections of the cpu backend: what each masker selects against its definition on a plain
 * probability matrix, attention over it against the formula, and the counts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/select_permutation.h"
#include "tests/attention_case.h"

enum { N_LEVELS = 4, N_THREADS = 3 };

static const enum device_isa isas[N_LEVELS] = {DEVICE_ISA_REFERENCE, DEVICE_ISA_AVX2,
                                               DEVICE_ISA_AVX512, DEVICE_ISA_AUTO};
static struct device *devices[N_LEVELS];

static int open_devices(void **state)
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

static int close_devices(void **state)
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

static size_t at(const struct model *m, int row, int head, int key)
{
    return ((size_t)row * (size_t)m->n_heads + (size_t)head) * (size_t)m->n_keys + (size_t)key;
}

static int position(const struct model *m, int row)
{
    return m->n_keys - m->n_rows + row;
}

static bool is_visible(const struct model *m, int row, int key)
{
    int pos = position(m, row), window = m->c->att.window;
    return key >= m->c->att.first_key && key <= pos && (window <= 0 || pos - key < window);
}

static void model_open(struct model *m, const struct attention_case *c)
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

static void model_close(struct model *m)
{
    free(m->p);
    free(m->score);
}

static int resolve(struct budget size, int n_keys)
{
    return (int)(size.is_fraction ? trunc(size.value * n_keys) : size.value);
}

static void model_sink(struct model *m, struct budget size)
{
    int e = resolve(size, m->n_keys);
    m->full = m->full || m->n_keys <= e;
    for (int row = 0; row < m->n_rows; row++)
        for (int head = 0; head < m->n_heads; head++)
            for (int key = 0; key < e && key < m->n_keys; key++)
                if (is_visible(m, row, key))
                    m->p[at(m, row, head, key)] = 1.0f;
}

static void model_local(struct model *m, struct budget size)
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

static int by_score(const void *a, const void *b)
{
    const struct scored *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->key - y->key;
}

/* Candidates of heads [head, head + n): visible, selected by none of them; scores summed in f32 as
 * the operation says.  Returns how many. */
static int candidates(const struct model *m, int row, int head, int n, struct scored *out)
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

static void model_top_k(struct model *m, struct budget size, enum share share)
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

static void model_top_p(struct model *m, double top_p, bool of_total, enum share share)
{
    int n = share == SHARE_GROUP ? m->n_heads / m->n_kv_heads : 1;
    m->full = m->full || top_p >= 1.0;
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
                        total += exp((double)m->score[at(m, row, h, key)]);
                for (int i = 0; i < n_list; i++)
                    rest += exp((double)m->score[at(m, row, h, list[i].key)]);
                double whole = of_total ? total : rest;
                held += (whole - rest) / whole / n;
                for (int i = 0; i < n_list; i++) {
                    double w = exp((double)m->score[at(m, row, h, list[i].key)]) / whole / n;
                    list[i].score += w;
                    left += w;
                }
            }
            qsort(list, (size_t)n_list, sizeof *list, by_score);
            double target = top_p * (held + left) - held, sum = 0.0;
            for (int i = 0; i < n_list && target >= 0.0; i++) {
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

static void trial_open(struct trial *t, int level, const struct case_shape *shape, uint64_t seed)
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

static void trial_close(struct trial *t)
{
    backend_cpu.selection_close(t->dev, t->sel);
    model_close(&t->m);
    case_close(&t->c);
    free(t->keys);
    free(t->prob);
}

/* Replaces queries and keys by small integers: every product and sum is exact in any order, many
 * scores tie (fewer with a larger spread), and the model's scores are the operation's own. */
static void exact_scores(struct trial *t, int spread)
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

static void check_selected(struct trial *t, const char *what)
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
static void check_attended(struct trial *t, const char *what)
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

static struct budget count(int n)
{
    return (struct budget){false, n};
}

static struct budget fraction(double f)
{
    return (struct budget){true, f};
}

/* --- Ranges ----------------------------------------------------------------------------------- */

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

static void test_sink_and_local_select_visible_keys(void **state)
{
    (void)state;
    struct trial t;
    FOR_EACH_TRIAL(t)
    {
        backend_cpu.select_sink(t.dev, t.sel, &t.c.att, count(6));
        model_sink(&t.m, count(6));
        backend_cpu.select_local(t.dev, t.sel, &t.c.att, fraction(0.1));
        model_local(&t.m, fraction(0.1));
        check_selected(&t, "sink, local");
        check_attended(&t, "sink, local");
    }
    FOR_EACH_TRIAL(t)
    {
        backend_cpu.select_local(t.dev, t.sel, &t.c.att, count(50));
        model_local(&t.m, count(50));
        backend_cpu.select_sink(t.dev, t.sel, &t.c.att, count(45));
        model_sink(&t.m, count(45));
        backend_cpu.select_local(t.dev, t.sel, &t.c.att, count(3));
        model_local(&t.m, count(3));
        check_selected(&t, "local, sink, local");
        check_attended(&t, "local, sink, local");
    }
}

/* The table of spec/maskers.md section 3, at the bound and one beyond. */
static void test_early_exits_at_their_bounds(void **state)
{
    (void)state;
    enum { SINK, LOCAL, TOP_K, TOP_P };
    static const struct {
        int masker, size;
        bool full;
    } cases[] = {{SINK, 40, true},  {SINK, 39, false},  {LOCAL, 37, true}, {LOCAL, 36, false},
                 {TOP_K, 40, true}, {TOP_K, 39, false}, {TOP_P, 1, true},  {TOP_P, 0, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct case_shape shape = {3, 40, 2, 1, 16, DTYPE_F32, .n_tail = 5};
        struct trial t;
        trial_open(&t, N_LEVELS - 1, &shape, 3);
        backend_cpu.score_exact(t.dev, t.sel, &t.c.att);
        if (cases[i].masker == SINK)
            backend_cpu.select_sink(t.dev, t.sel, &t.c.att, count(cases[i].size));
        else if (cases[i].masker == LOCAL)
            backend_cpu.select_local(t.dev, t.sel, &t.c.att, count(cases[i].size));
        else if (cases[i].masker == TOP_K)
            backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, count(cases[i].size), SHARE_HEAD);
        else
            backend_cpu.select_top_p(t.dev, t.sel, &t.c.att, cases[i].size ? 1.0 : 0.9999, false,
                                     SHARE_HEAD);
        backend_cpu.selection_end(t.dev, t.sel, &t.c.att);
        bool full = backend_cpu.selection_get(t.dev, t.sel, 0, 0, t.keys, t.prob) < 0;
        if (full != cases[i].full)
            fail_msg("case %zu: masker %d size %d: full %d, want %d", i, cases[i].masker,
                     cases[i].size, full, cases[i].full);
        trial_close(&t);
    }
}

static void test_a_full_selection_stays_full_and_equals_dense(void **state)
{
    (void)state;
    struct trial t;
    FOR_EACH_TRIAL(t)
    {
        backend_cpu.select_sink(t.dev, t.sel, &t.c.att, fraction(1.0));
        backend_cpu.score_exact(t.dev, t.sel, &t.c.att);
        backend_cpu.select_random(t.dev, t.sel, &t.c.att, 0.5, 0, SHARE_HEAD);
        backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, count(2), SHARE_HEAD);
        t.m.full = true;
        check_selected(&t, "full");
        assert_int_equal(t.c.counts.score_rows, 0);
        check_attended(&t, "full");
    }
}

static void test_no_ops_leave_an_empty_stack_which_is_dense(void **state)
{
    (void)state;
    struct trial t;
    FOR_EACH_TRIAL(t)
    {
        backend_cpu.select_sink(t.dev, t.sel, &t.c.att, fraction(1e-6));
        backend_cpu.select_local(t.dev, t.sel, &t.c.att, count(0));
        backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, fraction(1e-6), SHARE_GROUP);
        backend_cpu.select_random(t.dev, t.sel, &t.c.att, 1e-6, 0, SHARE_HEAD);
        t.m.full = true;
        check_selected(&t, "no-ops");
        check_attended(&t, "no-ops");
    }
}

/* --- By score ----------------------------------------------------------------------------------
 */

static void test_top_k_takes_the_best_and_the_lower_index_of_ties(void **state)
{
    (void)state;
    struct trial t;
    for (int spread = 1; spread <= 100; spread *= 100)
        for (int share = 0; share < 2; share++)
            FOR_EACH_TRIAL(t)
            {
                exact_scores(&t, spread);
                backend_cpu.score_exact(t.dev, t.sel, &t.c.att);
                backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, fraction(0.15), share);
                model_top_k(&t.m, fraction(0.15), share);
                check_selected(&t, "top-k");
                check_attended(&t, "top-k");
            }
}

static void test_top_k_skips_keys_already_selected(void **state)
{
    (void)state;
    struct trial t;
    for (int share = 0; share < 2; share++)
        FOR_EACH_TRIAL(t)
        {
            exact_scores(&t, 2);
            backend_cpu.select_sink(t.dev, t.sel, &t.c.att, count(9));
            backend_cpu.select_local(t.dev, t.sel, &t.c.att, count(11));
            backend_cpu.score_exact(t.dev, t.sel, &t.c.att);
            backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, count(5), SHARE_GROUP);
            backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, count(7), share);
            backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, count(4), SHARE_GROUP);
            model_sink(&t.m, count(9));
            model_local(&t.m, count(11));
            model_top_k(&t.m, count(5), SHARE_GROUP);
            model_top_k(&t.m, count(7), share);
            model_top_k(&t.m, count(4), SHARE_GROUP);
            check_selected(&t, "sink, local, top-k three times");
            check_attended(&t, "sink, local, top-k three times");
        }
}

static void test_top_k_takes_what_is_left_when_the_budget_is_larger(void **state)
{
    (void)state;
    struct trial t;
    FOR_EACH_TRIAL(t)
    {
        exact_scores(&t, 3);
        struct budget most = count(t.m.n_keys - 1);
        backend_cpu.score_exact(t.dev, t.sel, &t.c.att);
        backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, most, SHARE_HEAD);
        backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, most, SHARE_HEAD);
        model_top_k(&t.m, most, SHARE_HEAD);
        model_top_k(&t.m, most, SHARE_HEAD);
        check_selected(&t, "top-k of all");
        check_attended(&t, "top-k of all");
    }
}

static void test_a_range_swallows_list_keys(void **state)
{
    (void)state;
    struct trial t;
    FOR_EACH_TRIAL(t)
    {
        exact_scores(&t, 2);
        backend_cpu.score_exact(t.dev, t.sel, &t.c.att);
        backend_cpu.select_random(t.dev, t.sel, &t.c.att, 0.3, 1, SHARE_HEAD);
        for (int row = 0; row < t.m.n_rows; row++)
            for (int head = 0; head < t.m.n_heads; head++) {
                int n = backend_cpu.selection_get(t.dev, t.sel, row, head, t.keys, t.prob);
                for (int i = 0; i < n; i++)
                    t.m.p[at(&t.m, row, head, t.keys[i])] = t.prob[i];
            }
        backend_cpu.select_local(t.dev, t.sel, &t.c.att, count(20));
        model_local(&t.m, count(20));
        backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, count(5), SHARE_HEAD);
        model_top_k(&t.m, count(5), SHARE_HEAD);
        check_selected(&t, "random, local, top-k");
        check_attended(&t, "random, local, top-k");
    }
}

static void test_top_p_takes_the_fewest_that_exceed_the_share(void **state)
{
    (void)state;
    struct trial t;
    static const double shares_of_mass[] = {0.0, 0.3, 0.85, 0.999};
    for (size_t i = 0; i < 4; i++)
        for (int variant = 0; variant < 4; variant++)
            FOR_EACH_TRIAL(t)
            {
                enum share share = variant & 1;
                bool of_total = variant >> 1;
                /* Per head ties are exact.  A group's probabilities are sums, whose rounding may
                 * break a tie: let there be none. */
                exact_scores(&t, share ? 100 : 4);
                for (size_t j = 0; share && j < at(&t.m, t.m.n_rows, 0, 0); j++)
                    t.m.score[j] *= 1.0f / 64;
                t.c.att.scale *= share ? 1.0f / 64 : 1.0f;
                backend_cpu.score_exact(t.dev, t.sel, &t.c.att);
                backend_cpu.select_sink(t.dev, t.sel, &t.c.att, count(12));
                model_sink(&t.m, count(12));
                backend_cpu.select_top_p(t.dev, t.sel, &t.c.att, shares_of_mass[i], of_total,
                                         share);
                model_top_p(&t.m, shares_of_mass[i], of_total, share);
                check_selected(&t, share ? "top-p of the group" : "top-p");
                check_attended(&t, "top-p");
            }
}

static void test_scores_are_those_of_the_queries_and_keys(void **state)
{
    (void)state;
    /* The best key of a row by the definition is the one that top-1 takes, on random values. */
    struct trial t;
    FOR_EACH_TRIAL(t)
    {
        backend_cpu.score_exact(t.dev, t.sel, &t.c.att);
        backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, count(1), SHARE_HEAD);
        backend_cpu.selection_end(t.dev, t.sel, &t.c.att);
        uint64_t n_visible = 0;
        const struct attention *att = &t.c.att;
        int group = t.m.n_heads / t.m.n_kv_heads, n_context = att->kv.capacity[KV_CONTEXT];
        for (int row = 0; row < t.m.n_rows; row++) {
            for (int key = 0; key < t.m.n_keys; key++)
                n_visible += is_visible(&t.m, row, key);
            for (int head = 0; head < t.m.n_heads; head++) {
                int best = -1;
                double best_z = -INFINITY;
                for (int key = 0; key < t.m.n_keys; key++) {
                    if (!is_visible(&t.m, row, key))
                        continue;
                    int s = key < n_context ? KV_CONTEXT : KV_TAIL;
                    size_t k = ((size_t)(head / group) * (size_t)att->kv.capacity[s] +
                                (size_t)(key - (s == KV_TAIL ? n_context : 0))) *
                               (size_t)att->kv.head_dim;
                    double z = 0.0;
                    for (int d = 0; d < att->kv.head_dim; d++)
                        z += (double)t.c.q[row * att->q_stride + head * att->kv.head_dim + d] *
                             (double)load_as_f32(att->kv.k[s], att->kv.dtype, k + (size_t)d);
                    if (z > best_z) {
                        best_z = z;
                        best = key;
                    }
                }
                int n = backend_cpu.selection_get(t.dev, t.sel, row, head, t.keys, t.prob);
                if (n != 1 || t.keys[0] != best)
                    fail_msg("row %d head %d: got %d keys, first %d, want %d", row, head, n,
                             t.keys[0], best);
            }
        }
        assert_int_equal(t.c.counts.score_rows, n_visible * (uint64_t)t.m.n_kv_heads);
    }
}

/* --- At random -------------------------------------------------------------------------------- */

static void test_random_draws_the_right_number_with_the_right_weight(void **state)
{
    (void)state;
    struct trial t;
    for (int share = 0; share < 2; share++)
        FOR_EACH_TRIAL(t)
        {
            backend_cpu.select_sink(t.dev, t.sel, &t.c.att, count(5));
            model_sink(&t.m, count(5));
            backend_cpu.select_random(t.dev, t.sel, &t.c.att, 0.2, 0, share);
            backend_cpu.selection_end(t.dev, t.sel, &t.c.att);
            for (int row = 0; row < t.m.n_rows; row++)
                for (int head = 0; head < t.m.n_heads; head++) {
                    int n_left = 0, n_drawn = 0, n_wanted = (int)(0.2 * t.m.n_keys);
                    for (int key = 0; key < t.m.n_keys; key++)
                        n_left +=
                            is_visible(&t.m, row, key) && t.m.p[at(&t.m, row, head, key)] == 0.0f;
                    int want = n_wanted < n_left ? n_wanted : n_left;
                    int n = backend_cpu.selection_get(t.dev, t.sel, row, head, t.keys, t.prob);
                    for (int i = 0; i < n; i++) {
                        float *p = &t.m.p[at(&t.m, row, head, t.keys[i])];
                        assert_true(is_visible(&t.m, row, t.keys[i]));
                        if (*p > 0.0f)
                            continue;
                        *p = t.prob[i];
                        n_drawn++;
                        assert_float_equal(*p, (float)want / (float)n_left, 1e-6);
                    }
                    if (n_drawn != want)
                        fail_msg("row %d head %d: drew %d of %d, want %d", row, head, n_drawn,
                                 n_left, want);
                }
            check_selected(&t, "sink, random");
            check_attended(&t, "sink, random");
        }
}

static void test_every_instruction_set_draws_the_same_keys(void **state)
{
    (void)state;
    struct case_shape shape = {2, 3000, 4, 2, 16, DTYPE_F32, .n_tail = 10};
    int32_t first[3000];
    int n_first = 0;
    for (int level = 0; level < N_LEVELS; level++) {
        struct trial t;
        trial_open(&t, level, &shape, 5);
        backend_cpu.select_random(t.dev, t.sel, &t.c.att, 0.1, 2, SHARE_HEAD);
        backend_cpu.selection_end(t.dev, t.sel, &t.c.att);
        int n = backend_cpu.selection_get(t.dev, t.sel, 1, 3, t.keys, t.prob);
        if (level == 0) {
            n_first = n;
            memcpy(first, t.keys, (size_t)n * sizeof *first);
        }
        assert_int_equal(n, n_first);
        assert_memory_equal(first, t.keys, (size_t)n * sizeof *first);
        trial_close(&t);
    }
}

static void test_permutations_hit_every_number_once(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {1, 2, 3, 10, 100, 1023, 1024, 1025, 5000, 65537};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct permutation p = permutation_make(sizes[i], 1, 2, 3, 4, (uint32_t)i);
        uint8_t *hit = calloc(sizes[i], 1);
        for (uint32_t x = 0; x < sizes[i]; x++) {
            uint32_t y = permutation_image(&p, x);
            if (y >= sizes[i] || hit[y])
                fail_msg("size %u: %u -> %u, outside or twice", sizes[i], x, y);
            hit[y] = 1;
        }
        free(hit);
    }
}

/* How often each key, and each pair of neighbouring numbers, is drawn over many seeds. */
static void test_random_is_uniform_in_keys_and_pairs(void **state)
{
    (void)state;
    enum { N_SEEDS = 10000 };
    static const int sizes[] = {7, 60, 200}, draws[] = {2, 12, 20};
    for (int s = 0; s < 3; s++) {
        int size = sizes[s], n = draws[s];
        int *hits = calloc((size_t)size, sizeof *hits);
        int *pairs = calloc((size_t)size * (size_t)size, sizeof *pairs);
        for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
            struct permutation p = permutation_make((uint32_t)size, seed, 3, 1, 777, 0);
            uint32_t images[32];
            for (int i = 0; i < n; i++) {
                images[i] = permutation_image(&p, (uint32_t)i);
                hits[images[i]]++;
                for (int j = 0; j < i; j++) {
                    pairs[images[i] * (uint32_t)size + images[j]]++;
                    pairs[images[j] * (uint32_t)size + images[i]]++;
                }
            }
        }
        double p1 = (double)n / size, p2 = p1 * (n - 1) / (size - 1), chi = 0.0, chi_pairs = 0.0;
        double sigma1 = sqrt(N_SEEDS * p1 * (1 - p1)), sigma2 = sqrt(N_SEEDS * p2 * (1 - p2));
        int n_pairs = size * (size - 1) / 2;
        for (int i = 0; i < size; i++) {
            double z = (hits[i] - N_SEEDS * p1) / sigma1;
            chi += z * z;
            if (fabs(z) > 4.5)
                fail_msg("%d of %d: number %d drawn %d times, want %.0f", n, size, i, hits[i],
                         N_SEEDS * p1);
            for (int j = 0; j < i; j++) {
                z = (pairs[i * size + j] - N_SEEDS * p2) / sigma2;
                chi_pairs += z * z;
                if (fabs(z) > 6.0)
                    fail_msg("%d of %d: pair %d, %d drawn %d times, want %.0f", n, size, i, j,
                             pairs[i * size + j], N_SEEDS * p2);
            }
        }
        /* Means of many squares of about unit variance: 1 give or take a few sqrt(2 / n). */
        if (chi / size > 1 + 5 * sqrt(2.0 / size) ||
            chi_pairs / n_pairs > 1 + 6 * sqrt(2.0 / n_pairs))
            fail_msg("%d of %d: mean squares %.3f, of pairs %.3f; want about 1", n, size,
                     chi / size, chi_pairs / n_pairs);
        free(hits);
        free(pairs);
    }
}

/* Sum of w exp(z) v and of w exp(z), averaged over seeds, are the dense sums. */
static void test_random_weights_are_unbiased(void **state)
{
    (void)state;
    enum { N_SEEDS = 10000, KEYS = 90 };
    struct case_shape shape = {1, KEYS, 2, 1, 4, DTYPE_F32, .n_tail = 0};
    struct trial t;
    trial_open(&t, N_LEVELS - 1, &shape, 8);
    double z[KEYS], v[KEYS], sum[2] = {0}, square[2] = {0}, want[2] = {0};
    for (int key = 0; key < KEYS; key++) {
        z[key] = 0.0;
        for (int d = 0; d < 4; d++)
            z[key] += (double)t.c.q[4 + d] * (double)((float *)t.c.k[0])[key * 4 + d] * 0.5;
        v[key] = (double)((float *)t.c.v[0])[key * 4];
        want[0] += exp(z[key]) * v[key];
        want[1] += exp(z[key]);
    }
    for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
        t.c.step.seed = seed;
        backend_cpu.selection_begin(t.dev, t.sel, &t.c.att);
        backend_cpu.select_sink(t.dev, t.sel, &t.c.att, count(3));
        backend_cpu.select_random(t.dev, t.sel, &t.c.att, 0.1, 0, SHARE_HEAD);
        backend_cpu.selection_end(t.dev, t.sel, &t.c.att);
        int n = backend_cpu.selection_get(t.dev, t.sel, 0, 1, t.keys, t.prob);
        double part[2] = {0};
        for (int i = 0; i < n; i++) {
            double w = exp(z[t.keys[i]]) / (double)t.prob[i];
            part[0] += w * v[t.keys[i]];
            part[1] += w;
        }
        for (int j = 0; j < 2; j++) {
            sum[j] += part[j];
            square[j] += part[j] * part[j];
        }
    }
    for (int j = 0; j < 2; j++) {
        double mean = sum[j] / N_SEEDS, variance = square[j] / N_SEEDS - mean * mean;
        double standard_error = sqrt(variance / N_SEEDS);
        if (fabs(mean - want[j]) > 3 * standard_error)
            fail_msg("%s: mean %.4f, want %.4f within 3 x %.4f", j ? "denominator" : "numerator",
                     mean, want[j], standard_error);
    }
    trial_close(&t);
}

static void test_draws_differ_by_head_slot_layer_and_position(void **state)
{
    (void)state;
    uint32_t base[4];
    for (int change = 0; change < 6; change++) {
        struct permutation p =
            permutation_make(1u << 20, change == 1, 3 + (change == 2), 5 + (change == 3),
                             100 + (change == 4), 0 + (change == 5));
        int n_same = 0;
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t image = permutation_image(&p, i);
            if (change == 0)
                base[i] = image;
            n_same += image == base[i];
        }
        assert_int_equal(n_same, change == 0 ? 4 : 0);
    }
}

/* --- Explicit lists, rescue, growth ------------------------------------------------------------
 */

static void test_put_lists_are_attended_with_their_weights(void **state)
{
    (void)state;
    struct trial t;
    FOR_EACH_TRIAL(t)
    {
        uint64_t random = 4;
        for (int row = 0; row < t.m.n_rows; row++)
            for (int head = 0; head < t.m.n_heads; head++) {
                int n = 0;
                for (int key = 0; key < t.m.n_keys; key++) {
                    if (!is_visible(&t.m, row, key) || case_random(&random) % 4)
                        continue;
                    t.keys[n] = key;
                    t.prob[n] = (float)(1 + case_random(&random) % 9) / 9.0f;
                    t.m.p[at(&t.m, row, head, key)] = t.prob[n++];
                }
                backend_cpu.selection_put(t.dev, t.sel, row, head, t.keys, t.prob, n);
            }
        check_selected(&t, "put");
        check_attended(&t, "put");
    }
}

static void test_put_drops_keys_that_are_invisible_or_selected(void **state)
{
    (void)state;
    struct case_shape shape = {1, 20, 2, 1, 16, DTYPE_F32, .first_key = 2};
    struct trial t;
    trial_open(&t, N_LEVELS - 1, &shape, 2);
    backend_cpu.select_sink(t.dev, t.sel, &t.c.att, count(5));
    int32_t keys[] = {-1, 1, 3, 7, 9, 19, 20};
    float prob[] = {0.5f, 0.5f, 0.5f, 0.5f, 0.25f, 0.5f, 0.5f};
    backend_cpu.selection_put(t.dev, t.sel, 0, 0, keys, prob, 7);
    backend_cpu.selection_put(t.dev, t.sel, 0, 0, keys + 3, NULL, 1);
    model_sink(&t.m, count(5));
    t.m.p[7] = t.m.p[19] = 0.5f;
    t.m.p[9] = 0.25f;
    check_selected(&t, "put");
    check_attended(&t, "put");
    trial_close(&t);
}

static void test_heads_with_nothing_attend_to_their_own_key(void **state)
{
    (void)state;
    struct trial t;
    FOR_EACH_TRIAL(t)
    {
        /* Only the first head of the last row has a key. */
        int row = t.m.n_rows - 1;
        int32_t key = position(&t.m, row) - 1;
        backend_cpu.selection_put(t.dev, t.sel, row, 0, &key, NULL, 1);
        t.m.p[at(&t.m, row, 0, key)] = 1.0f;
        check_selected(&t, "nearly nothing");
        check_attended(&t, "nearly nothing");
        assert_int_equal(t.c.counts.rescued, t.m.n_rows * t.m.n_heads - 1);
    }
}

static void test_groups_beyond_32_heads_work(void **state)
{
    (void)state;
    struct case_shape shape = {2, 80, 80, 2, 16, DTYPE_BF16, .n_tail = 9};
    for (int share = 0; share < 2; share++) {
        struct trial t;
        trial_open(&t, N_LEVELS - 1, &shape, 6);
        exact_scores(&t, 3);
        backend_cpu.score_exact(t.dev, t.sel, &t.c.att);
        backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, count(9), share);
        model_top_k(&t.m, count(9), share);
        check_selected(&t, "40 heads per group");
        backend_cpu.attend_selected(t.dev, &t.c.att, t.sel);
        size_t n = case_out_count(&t.c);
        float *got = calloc(n, sizeof *got);
        memcpy(got, t.c.out, n * sizeof *got);
        attention_reference_selected(&t.c.att, t.sel);
        double error = relative_error(got, t.c.out, n);
        if (!(error < 5e-6))
            fail_msg("output error %.2e", error);
        free(got);
        trial_close(&t);
    }
}

/* Long lists are cut into parts and merged. */
static void test_long_selections_equal_the_reference(void **state)
{
    (void)state;
    struct case_shape shape = {1, 5000, 6, 2, 64, DTYPE_BF16, .n_tail = 300, .sink = true};
    for (int level = 1; level < N_LEVELS; level++)
        for (int share = 0; share < 2; share++) {
            struct trial t;
            trial_open(&t, level, &shape, 9);
            backend_cpu.select_sink(t.dev, t.sel, &t.c.att, count(700));
            backend_cpu.select_local(t.dev, t.sel, &t.c.att, count(900));
            backend_cpu.score_exact(t.dev, t.sel, &t.c.att);
            backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, fraction(0.2), share);
            backend_cpu.select_random(t.dev, t.sel, &t.c.att, 0.1, 1, share);
            backend_cpu.selection_end(t.dev, t.sel, &t.c.att);
            backend_cpu.attend_selected(t.dev, &t.c.att, t.sel);
            size_t n = case_out_count(&t.c);
            float *got = calloc(n, sizeof *got);
            memcpy(got, t.c.out, n * sizeof *got);
            attention_reference_selected(&t.c.att, t.sel);
            double error = relative_error(got, t.c.out, n);
            if (!(error < 5e-6))
                fail_msg("level %d share %d: output error %.2e", level, share, error);
            free(got);
            trial_close(&t);
        }
}

/* Keys that arrive one by one in the tail give the selections that one large context gives. */
static void test_growing_the_tail_equals_one_context(void **state)
{
    (void)state;
    enum { CONTEXT = 70, STEPS = 20, DIM = 16, HEADS = 4, ALL = CONTEXT + STEPS };
    struct case_shape whole = {1, ALL, HEADS, 2, DIM, DTYPE_F32, .n_tail = 0};
    struct case_shape split = {1, ALL, HEADS, 2, DIM, DTYPE_F32, .n_tail = STEPS - 1};
    struct attention_case a, b;
    case_open(&a, &whole, 3);
    case_open(&b, &split, 4);
    memcpy(b.q, a.q, (size_t)b.att.q_stride * sizeof *b.q);
    for (int kv = 0; kv < 2; kv++)
        for (int key = 0; key < ALL; key++) {
            int s = key < CONTEXT ? KV_CONTEXT : KV_TAIL;
            int to = kv * b.att.kv.capacity[s] + key - (s == KV_TAIL ? CONTEXT : 0);
            float *from_k = (float *)a.k[0] + (kv * ALL + key) * DIM;
            float *from_v = (float *)a.v[0] + (kv * ALL + key) * DIM;
            memcpy((float *)b.k[s] + to * DIM, from_k, DIM * sizeof(float));
            memcpy((float *)b.v[s] + to * DIM, from_v, DIM * sizeof(float));
        }
    struct device *dev = devices[N_LEVELS - 1];
    struct selection *sel[2] = {backend_cpu.selection_open(dev, 1, HEADS, 2, ALL),
                                backend_cpu.selection_open(dev, 1, HEADS, 2, ALL)};
    struct attention_case *cases[2] = {&a, &b};
    int32_t keys[2][ALL];
    float prob[2][ALL];
    for (int step = 0; step < STEPS; step++) {
        a.step.n_context = CONTEXT + step;
        b.step.n_tail = step;
        a.step.seed = b.step.seed = 1;
        for (int i = 0; i < 2; i++) {
            struct attention *att = &cases[i]->att;
            backend_cpu.selection_begin(dev, sel[i], att);
            backend_cpu.select_sink(dev, sel[i], att, count(2));
            backend_cpu.select_local(dev, sel[i], att, count(5));
            backend_cpu.score_exact(dev, sel[i], att);
            backend_cpu.select_top_k(dev, sel[i], att, fraction(0.1), SHARE_HEAD);
            backend_cpu.select_random(dev, sel[i], att, 0.1, 0, SHARE_HEAD);
            backend_cpu.selection_end(dev, sel[i], att);
            backend_cpu.attend_selected(dev, att, sel[i]);
        }
        for (int head = 0; head < HEADS; head++) {
            int n = backend_cpu.selection_get(dev, sel[0], 0, head, keys[0], prob[0]);
            assert_int_equal(n, backend_cpu.selection_get(dev, sel[1], 0, head, keys[1], prob[1]));
            assert_memory_equal(keys[0], keys[1], (size_t)n * sizeof(int32_t));
            assert_memory_equal(prob[0], prob[1], (size_t)n * sizeof(float));
        }
        double error = relative_error(b.out, a.out, HEADS * DIM);
        if (!(error < 1e-6))
            fail_msg("step %d: output differs by %.2e", step, error);
    }
    for (int i = 0; i < 2; i++) {
        backend_cpu.selection_close(dev, sel[i]);
        case_close(cases[i]);
    }
}

/* --- Probe -------------------------------------------------------------------------------------
 */

static void test_probe_measures_mass_and_error(void **state)
{
    (void)state;
    struct trial t;
    FOR_EACH_TRIAL(t)
    {
        size_t n_slots = (size_t)t.m.n_rows * (size_t)t.m.n_heads, n = case_out_count(&t.c);
        size_t head_dim = (size_t)t.c.att.kv.head_dim;
        exact_scores(&t, 4);
        backend_cpu.select_local(t.dev, t.sel, &t.c.att, count(4));
        model_local(&t.m, count(4));
        backend_cpu.score_exact(t.dev, t.sel, &t.c.att);
        backend_cpu.select_top_k(t.dev, t.sel, &t.c.att, count(6), SHARE_HEAD);
        model_top_k(&t.m, count(6), SHARE_HEAD);
        backend_cpu.selection_end(t.dev, t.sel, &t.c.att);
        float *dense = calloc(n, sizeof *dense), *recall = calloc(n_slots, sizeof *recall);
        float *error = calloc(2 * n_slots, sizeof *error);
        attention_reference_dense(&t.c.att);
        memcpy(dense, t.c.out, n * sizeof *dense);
        backend_cpu.attend_selected(t.dev, &t.c.att, t.sel);
        struct attention_probe probe = {recall, error};
        backend_cpu.probe(t.dev, &t.c.att, t.sel, &probe);
        for (size_t slot = 0; slot < n_slots; slot++) {
            double total = 0.0, held = 0.0, difference = 0.0, norm = 0.0;
            int row = (int)slot / t.m.n_heads, head = (int)slot % t.m.n_heads;
            for (int key = 0; key < t.m.n_keys; key++) {
                double mass = exp((double)t.m.score[at(&t.m, row, head, key)]);
                total += is_visible(&t.m, row, key) ? mass : 0.0;
                held += t.m.p[at(&t.m, row, head, key)] > 0.0f ? mass : 0.0;
            }
            for (size_t d = slot * head_dim; d < (slot + 1) * head_dim; d++) {
                difference += pow((double)t.c.out[d] - (double)dense[d], 2);
                norm += (double)dense[d] * (double)dense[d];
            }
            if (fabs((double)recall[slot] - held / total) > 1e-5)
                fail_msg("row %d head %d: recall %.6f, want %.6f", row, head, (double)recall[slot],
                         held / total);
            if (fabs((double)error[2 * slot] - difference) > 1e-5 * norm ||
                fabs((double)error[2 * slot + 1] - norm) > 1e-5 * norm)
                fail_msg("row %d head %d: error %g / %g, want %g / %g", row, head,
                         (double)error[2 * slot], (double)error[2 * slot + 1], difference, norm);
        }
        free(dense);
        free(recall);
        free(error);
    }
}

static void test_probe_of_a_full_selection_finds_nothing_lost(void **state)
{
    (void)state;
    struct case_shape shape = {3, 100, 4, 2, 32, DTYPE_BF16, .n_tail = 10, .sink = true};
    struct trial t;
    trial_open(&t, N_LEVELS - 1, &shape, 5);
    backend_cpu.select_sink(t.dev, t.sel, &t.c.att, count(100));
    backend_cpu.selection_end(t.dev, t.sel, &t.c.att);
    backend_cpu.attend_selected(t.dev, &t.c.att, t.sel);
    float recall[12], error[24];
    struct attention_probe probe = {recall, error};
    backend_cpu.probe(t.dev, &t.c.att, t.sel, &probe);
    for (int i = 0; i < 12; i++) {
        assert_float_equal(recall[i], 1.0f, 0.0f);
        assert_true(error[2 * i] < 1e-9f * error[2 * i + 1]);
    }
    trial_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sink_and_local_select_visible_keys),
        cmocka_unit_test(test_early_exits_at_their_bounds),
        cmocka_unit_test(test_a_full_selection_stays_full_and_equals_dense),
        cmocka_unit_test(test_no_ops_leave_an_empty_stack_which_is_dense),
        cmocka_unit_test(test_top_k_takes_the_best_and_the_lower_index_of_ties),
        cmocka_unit_test(test_top_k_skips_keys_already_selected),
        cmocka_unit_test(test_top_k_takes_what_is_left_when_the_budget_is_larger),
        cmocka_unit_test(test_a_range_swallows_list_keys),
        cmocka_unit_test(test_top_p_takes_the_fewest_that_exceed_the_share),
        cmocka_unit_test(test_scores_are_those_of_the_queries_and_keys),
        cmocka_unit_test(test_random_draws_the_right_number_with_the_right_weight),
        cmocka_unit_test(test_every_instruction_set_draws_the_same_keys),
        cmocka_unit_test(test_permutations_hit_every_number_once),
        cmocka_unit_test(test_random_is_uniform_in_keys_and_pairs),
        cmocka_unit_test(test_random_weights_are_unbiased),
        cmocka_unit_test(test_draws_differ_by_head_slot_layer_and_position),
        cmocka_unit_test(test_put_lists_are_attended_with_their_weights),
        cmocka_unit_test(test_put_drops_keys_that_are_invisible_or_selected),
        cmocka_unit_test(test_heads_with_nothing_attend_to_their_own_key),
        cmocka_unit_test(test_groups_beyond_32_heads_work),
        cmocka_unit_test(test_long_selections_equal_the_reference),
        cmocka_unit_test(test_growing_the_tail_equals_one_context),
        cmocka_unit_test(test_probe_measures_mass_and_error),
        cmocka_unit_test(test_probe_of_a_full_selection_finds_nothing_lost),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
