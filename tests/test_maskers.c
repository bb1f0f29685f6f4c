/* What holds for every masker in the table, whichever it is, and for those that sample. */
#include "engine/attention/masker.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/attention_scene.h"

#include <cmocka.h>

/* --- Every masker --------------------------------------------------------------------------- */

/* Those that choose by themselves, and so can be run on one call alone. */
#define FOR_EACH_MASKER(m)                                                                         \
    for (const struct masker *const *m = maskers; *m; m++)                                         \
        if (!(*m)->source_layer)

static void expect_visible(const struct masker *m, const struct scene *s, const struct outcome *o)
{
    for (int i = 0; i < s->in.n_rows; i++)
        for (int h = 0; h < N_HEADS; h++) {
            int position = s->in.n_keys - s->in.n_rows + i;
            for (int j = 0; j < o->n[i][h]; j++) {
                int key = o->keys[i][h][j];
                float p = o->prob[i][h][j];
                bool visible = key >= s->att.first_key && key <= position &&
                               (s->att.window == 0 || position - key < s->att.window);
                if (!visible || (j > 0 && key <= o->keys[i][h][j - 1]) || !(p > 0 && p <= 1))
                    fail_msg("%s: row %d, head %d: key %d with p %g after key %d", m->name, i, h,
                             key, p, j ? o->keys[i][h][j - 1] : -1);
            }
        }
}

static void test_every_masker_keeps_to_visible_keys_with_legal_probabilities(void **state)
{
    (void)state;
    FOR_EACH_MASKER(m)
    for (int window = 0; window <= 100; window += 50) {
        struct scene *s = scene_open(5, 300, 7);
        s->att.first_key = 9;
        s->att.window = window;
        struct stack stack = alone(*m);
        struct outcome *o = run(s, &stack);
        expect_visible(*m, s, o);
        outcome_free(o);
        scene_close(s);
    }
}

static void test_every_masker_repeats_itself_under_one_seed(void **state)
{
    (void)state;
    FOR_EACH_MASKER(m)
    {
        struct scene *s = scene_open(3, 300, 7);
        struct stack stack = alone(*m);
        struct outcome *a = run(s, &stack), *b = run(s, &stack);
        set_seed(s, 8);
        struct outcome *c = run(s, &stack);
        if (!same_selection(a, b, 3))
            fail_msg("%s: two selections under one seed", (*m)->name);
        /* What draws by an index has its chance from the index. */
        bool draws = (*m)->kind == MASKER_SAMPLER && !(*m)->index;
        if (same_selection(a, c, 3) != !draws)
            fail_msg("%s: another seed must matter to samplers and to nothing else", (*m)->name);
        outcome_free(a);
        outcome_free(b);
        outcome_free(c);
        scene_close(s);
    }
}

static void test_every_masker_with_a_full_budget_equals_dense(void **state)
{
    (void)state;
    FOR_EACH_MASKER(m)
    {
        if ((*m)->n_params && (*m)->params[0].kind == PARAM_COUNT)
            continue; /* it is no budget */
        struct scene *s = scene_open(5, 300, 7);
        struct stack stack = alone(*m);
        if ((*m)->n_params) {
            const struct masker_param *p = &(*m)->params[0];
            bool is_budget = p->kind == PARAM_BUDGET;
            stack.items[0].values.param[0] = (struct budget){is_budget, is_budget ? 1 : p->max};
        }
        struct outcome *o = run(s, &stack);
        float *want = dense_out(s);
        expect_same_out((*m)->name, o->out, want, 5);
        free(want);
        outcome_free(o);
        scene_close(s);
    }
}

static void test_stacks_without_maskers_equal_dense(void **state)
{
    (void)state;
    struct scene *s = scene_open(5, 300, 7);
    struct stack stack = parsed("dense");
    struct outcome *o = run(s, &stack);
    float *want = dense_out(s);
    expect_same_out("dense", o->out, want, 5);
    assert_int_equal(o->n[0][0], -1);
    free(want);
    outcome_free(o);
    scene_close(s);
}

/* The last n_tail keys (and the row's own) moved to a tail segment. */
static void move_to_tail(struct scene *s, int n_tail)
{
    size_t dim = HEAD_DIM, n_keys = (size_t)s->in.n_keys, n = (size_t)n_tail + 1;
    struct kv_layer *kv = &s->att.kv;
    void **buffers[] = {kv->k, kv->v};
    for (int which = 0; which < 2; which++) {
        const float *from = buffers[which][KV_CONTEXT];
        float *tail = backend->alloc(dev, N_KV_HEADS * (n + 3) * dim * sizeof *tail);
        for (size_t head = 0; head < N_KV_HEADS; head++)
            backend->upload(dev, tail + head * (n + 3) * dim,
                            from + (head * n_keys + n_keys - n) * dim, n * dim * sizeof *tail);
        buffers[which][KV_TAIL] = tail;
    }
    kv->capacity[KV_TAIL] = n_tail + 4;
    struct step_state step = {
        .n_context = s->in.n_keys - n_tail - 1, .n_tail = n_tail, .append_tail = 1, .seed = 7};
    backend->upload(dev, s->stage.step, &step, sizeof step);
}

static void test_every_masker_chooses_alike_from_a_growing_tail_and_from_scratch(void **state)
{
    (void)state;
    FOR_EACH_MASKER(m)
    for (int n_tail = 0; n_tail < 12; n_tail++) {
        struct scene *scratch = scene_open(1, 240 + n_tail + 1, 7);
        struct scene *grown = scene_open(1, 240 + n_tail + 1, 7);
        move_to_tail(grown, n_tail);
        struct stack stack = alone(*m);
        struct outcome *a = run(scratch, &stack), *b = run(grown, &stack);
        if (!same_selection(a, b, 1))
            fail_msg("%s: %d keys in the tail change the selection", (*m)->name, n_tail);
        expect_same_out((*m)->name, b->out, a->out, 1);
        outcome_free(a);
        outcome_free(b);
        backend->release(dev, grown->att.kv.k[KV_TAIL]);
        backend->release(dev, grown->att.kv.v[KV_TAIL]);
        scene_close(scratch);
        scene_close(grown);
    }
}

static void test_heads_that_share_choose_the_same_keys(void **state)
{
    (void)state;
    FOR_EACH_MASKER(m)
    {
        int share = masker_param_index(*m, "share");
        if (share < 0)
            continue;
        struct scene *s = scene_open(3, 300, 7);
        struct stack stack = alone(*m);
        stack.items[0].values.param[share].value = SHARE_GROUP;
        struct outcome *o = run(s, &stack);
        for (int i = 0; i < 3; i++)
            for (int h = 0; h < N_HEADS; h++) {
                int first = h / (N_HEADS / N_KV_HEADS) * (N_HEADS / N_KV_HEADS);
                int n = o->n[i][h];
                if (n <= 0 || n != o->n[i][first] ||
                    memcmp(o->keys[i][h], o->keys[i][first], (size_t)n * sizeof(int32_t)) != 0)
                    fail_msg("%s: row %d: heads %d and %d differ", (*m)->name, i, first, h);
            }
        outcome_free(o);
        scene_close(s);
    }
}

/* --- Top-p within a budget ---------------------------------------------------------------------
 */

/* The masker alone with a budget that top-p limits; false if it has no such parameter. */
static bool with_top_p(struct stack *s, const struct masker *m, double top_p)
{
    int param = masker_param_index(m, "top_p");
    if (param < 0 || m->params[0].kind != PARAM_BUDGET)
        return false;
    *s = alone(m);
    s->items[0].values.param[0] = (struct budget){true, 0.5};
    s->items[0].values.param[param].value = top_p;
    return true;
}

static bool is_subset(const struct outcome *small, const struct outcome *large, int i, int h)
{
    int j = 0;
    for (int n = 0; n < small->n[i][h]; n++) {
        while (j < large->n[i][h] && large->keys[i][h][j] < small->keys[i][h][n])
            j++;
        if (j == large->n[i][h] || large->keys[i][h][j] != small->keys[i][h][n])
            return false;
    }
    return true;
}

static void test_top_p_keeps_a_growing_part_of_what_the_budget_keeps(void **state)
{
    (void)state;
    static const double top_p[] = {1e-9, 0.2, 0.4, 0}; /* 0: the budget alone */
    int n_maskers = 0;
    for (const struct masker *const *m = maskers; *m; m++) {
        struct scene *s = scene_open(5, 300, 7);
        struct outcome *last = NULL;
        int n_grown = 0;
        s->att.first_key = 9;
        for (int p = 0; p < 4; p++) {
            struct stack stack;
            if (!with_top_p(&stack, *m, top_p[p]))
                break;
            struct outcome *o = run(s, &stack);
            expect_visible(*m, s, o);
            for (int i = 0; i < 5; i++)
                for (int h = 0; h < N_HEADS; h++) {
                    if (o->n[i][h] < 1 || (last && !is_subset(last, o, i, h)))
                        fail_msg("%s: row %d, head %d: %d keys at top-p %g", (*m)->name, i, h,
                                 o->n[i][h], top_p[p]);
                    n_grown += last && o->n[i][h] > last->n[i][h];
                }
            if (last)
                outcome_free(last);
            last = o;
        }
        if (last) {
            n_maskers++;
            if (n_grown < 3 * 5 * N_HEADS / 2)
                fail_msg("%s: top-p matters in %d choices only", (*m)->name, n_grown);
            outcome_free(last);
        }
        scene_close(s);
    }
    assert_true(n_maskers >= 3);
}

/* What a masker asked of its backend. */
static struct {
    struct key_index_config config;
    double top_p;
    struct budget most;
    float logit_scale;
    bool of_total;
} asked;

static struct key_index *note_index(struct device *device, const struct key_index_config *config,
                                    char *why, size_t n_why)
{
    asked.config = *config;
    return backend->index_open(device, config, why, n_why);
}

static void note_top_p(struct device *device, struct selection *sel, const struct attention *att,
                       double top_p, bool of_total, struct budget most, float logit_scale,
                       enum share share)
{
    asked.top_p = top_p;
    asked.of_total = of_total;
    asked.most = most;
    asked.logit_scale = logit_scale;
    backend->select_top_p(device, sel, att, top_p, of_total, most, logit_scale, share);
}

static void test_top_p_is_of_what_each_masker_estimates_logits_by(void **state)
{
    (void)state;
    struct scene *s = scene_open(2, 100, 7);
    struct backend noting = *backend;
    struct error err = {0};
    noting.index_open = note_index;
    noting.select_top_p = note_top_p;
    struct stack stack = parsed("hash:40%:weights=random:top_p=0.25");
    assert_true(sparse_attention_once(&stack, &noting, dev, s->sel, &s->att, &err));
    int n_bits = asked.config.hash.width[asked.config.hash.n_linears];
    assert_true(n_bits > 1 && !asked.of_total && asked.top_p == 0.25);
    assert_true(asked.most.is_fraction && asked.most.value == 0.4);
    assert_true(fabsf(asked.logit_scale * asked.logit_scale * (float)n_bits - 1) < 1e-6f);
    stack = parsed("double-sparsity:7:group_factor=4:channels=random:top_p=0.5");
    assert_true(sparse_attention_once(&stack, &noting, dev, s->sel, &s->att, &err));
    assert_true(asked.top_p == 0.5 && asked.logit_scale == 1.0f);
    assert_true(!asked.most.is_fraction && asked.most.value == 7);
    scene_close(s);
}

/* --- Sampling ------------------------------------------------------------------------------- */

/* Horvitz-Thompson sums of exp(z) and exp(z) v_0 over many seeds against the dense sums. */
static void expect_unbiased(const char *stack_text)
{
    enum { SEEDS = 10000, KEYS = 80 };
    struct scene *s = scene_open(1, KEYS, 1);
    struct stack stack = parsed(stack_text);
    int32_t keys[KEYS];
    float prob[KEYS];
    double dense[2] = {0}, sum[2] = {0}, squares[2] = {0};
    const int head = 4, kv = head / (N_HEADS / N_KV_HEADS);
    double weight[KEYS], value[KEYS];
    for (int j = 0; j < KEYS; j++) {
        weight[j] = exp(dense_score(s, 0, head, j));
        value[j] = weight[j] * s->in.v[(kv * KEYS + j) * HEAD_DIM];
        dense[0] += weight[j];
        dense[1] += value[j];
    }
    for (int seed = 0; seed < SEEDS; seed++) {
        set_seed(s, (uint64_t)seed);
        once(&stack, s->sel, &s->att);
        int n = backend->selection_get(dev, s->sel, 0, head, keys, prob);
        double estimate[2] = {0};
        for (int i = 0; i < n; i++) {
            estimate[0] += weight[keys[i]] / prob[i];
            estimate[1] += value[keys[i]] / prob[i];
        }
        for (int k = 0; k < 2; k++) {
            sum[k] += estimate[k];
            squares[k] += estimate[k] * estimate[k];
        }
    }
    for (int k = 0; k < 2; k++) {
        double mean = sum[k] / SEEDS;
        double error = sqrt((squares[k] / SEEDS - mean * mean) / SEEDS);
        if (!(error > 0) || fabs(mean - dense[k]) > 3.5 * error)
            fail_msg("%s: %s: mean %.6g, dense %.6g, standard error %.2g", stack_text,
                     k ? "numerator" : "denominator", mean, dense[k], error);
    }
    scene_close(s);
}

static void test_random_sampling_is_unbiased_over_seeds(void **state)
{
    (void)state;
    expect_unbiased("random:0.1");
    expect_unbiased("sink:4,local:8,random:0.2");
    expect_unbiased("oracle-topk:8,random:0.1");
    expect_unbiased("oracle-topk:8:share=group,random:0.1:share=group");
    expect_unbiased("oracle-topk:8,random:0.1:share=group");
}

static void test_adaptive_sampling_is_unbiased_over_seeds(void **state)
{
    (void)state;
    expect_unbiased("adaptive:4:epsilon=0.3:delta=0.3:init_offset=0:local_offset=0");
    expect_unbiased("sink:4,local:8,adaptive:5%:epsilon=0.2:init_offset=4:local_offset=8");
    expect_unbiased("oracle-topk:8,adaptive:3:epsilon=0.2:sides=one:init_offset=0:local_offset=0:"
                    "share=group");
    expect_unbiased("oracle-topk:4,adaptive:4:epsilon=0.2:init_offset=0:local_offset=0:"
                    "mode=multinomial:temperature=2");
    expect_unbiased(
        "oracle-topk:4,adaptive:4:epsilon=0.2:init_offset=0:local_offset=0:mode=gumbel");
}

/* What adaptive asked of its backend. */
static struct {
    struct adaptive_sampling sampling;
    int slot, n_calls, n_scored;
    enum share share;
} sampled;

static void note_adaptive(struct device *device, struct selection *sel, const struct attention *att,
                          const struct adaptive_sampling *sampling, int slot, enum share share)
{
    sampled.sampling = *sampling;
    sampled.slot = slot;
    sampled.share = share;
    sampled.n_calls++;
    backend->select_adaptive(device, sel, att, sampling, slot, share);
}

static void note_score(struct device *device, struct selection *sel, const struct attention *att)
{
    sampled.n_scored++;
    backend->score_exact(device, sel, att);
}

static void test_adaptive_asks_for_what_it_is_told(void **state)
{
    (void)state;
    struct scene *s = scene_open(2, 300, 7);
    struct backend noting = *backend;
    struct error err = {0};
    noting.select_adaptive = note_adaptive;
    noting.score_exact = note_score;
    struct stack stack = parsed("sink:2,adaptive:7%:epsilon=0.2:delta=0.3:init_offset=2:"
                                "local_offset=10%:sides=one:mode=gumbel:temperature=0.5:"
                                "share=group");
    assert_true(sparse_attention_once(&stack, &noting, dev, s->sel, &s->att, &err));
    const struct adaptive_sampling *a = &sampled.sampling;
    assert_true(a->base.is_fraction && a->base.value == 0.07);
    assert_true(!a->init_offset.is_fraction && a->init_offset.value == 2);
    assert_true(a->local_offset.is_fraction && a->local_offset.value == 0.1);
    assert_true(a->epsilon == 0.2 && a->delta == 0.3 && a->one_sided);
    assert_true(a->mode == DRAW_GUMBEL && a->temperature == 0.5);
    assert_true(sampled.slot == 1 && sampled.share == SHARE_GROUP && sampled.n_scored == 1);
    assert_true(stack_reads_all_keys(&stack));
    stack = parsed("sink:2,adaptive");
    assert_true(sparse_attention_once(&stack, &noting, dev, s->sel, &s->att, &err));
    assert_true(a->mode == DRAW_UNIFORM && !a->one_sided && sampled.n_scored == 1);
    assert_false(stack_reads_all_keys(&stack));
    stack = parsed("sink:2,adaptive:0");
    assert_true(sparse_attention_once(&stack, &noting, dev, s->sel, &s->att, &err));
    assert_int_equal(sampled.n_calls, 2);
    scene_close(s);
}

static void test_a_mode_that_a_backend_lacks_is_named(void **state)
{
    (void)state;
    struct scene *s = scene_open(2, 100, 7);
    struct backend without = *backend;
    struct error err = {0};
    without.name = "cuda";
    without.draws_by_score = false;
    struct stack stack = parsed("adaptive:5%:mode=gumbel");
    assert_false(sparse_attention_once(&stack, &without, dev, s->sel, &s->att, &err));
    assert_string_equal(err.text, "adaptive: mode=gumbel is not there on the cuda backend; leave "
                                  "it out, or use --backend cpu");
    assert_int_equal(err.code, EXIT_CODE_NO_DEVICE);
    stack = parsed("adaptive:5%");
    assert_true(sparse_attention_once(&stack, &without, dev, s->sel, &s->att, &err));
    scene_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_masker_keeps_to_visible_keys_with_legal_probabilities),
        cmocka_unit_test(test_every_masker_repeats_itself_under_one_seed),
        cmocka_unit_test(test_every_masker_with_a_full_budget_equals_dense),
        cmocka_unit_test(test_stacks_without_maskers_equal_dense),
        cmocka_unit_test(test_every_masker_chooses_alike_from_a_growing_tail_and_from_scratch),
        cmocka_unit_test(test_heads_that_share_choose_the_same_keys),
        cmocka_unit_test(test_top_p_keeps_a_growing_part_of_what_the_budget_keeps),
        cmocka_unit_test(test_top_p_is_of_what_each_masker_estimates_logits_by),
        cmocka_unit_test(test_random_sampling_is_unbiased_over_seeds),
        cmocka_unit_test(test_adaptive_sampling_is_unbiased_over_seeds),
        cmocka_unit_test(test_adaptive_asks_for_what_it_is_told),
        cmocka_unit_test(test_a_mode_that_a_backend_lacks_is_named),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
