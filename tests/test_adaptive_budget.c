/* The arithmetic of adaptive sampling: quantiles, and the reference project's recorded numbers.
 *
 * The reference's draws differ from ours (deviation D26 of the specification: with replacement,
 * also of keys that are kept already or cannot be seen, and thrown away after the estimate; an
 * empty mask counts all keys as kept), so that its draws are given to our formulas. */
#include "kernels/adaptive_budget.h"

#include "kernels/normal_quantile.h"
#include "tests/golden_runs.h"

/* --- Quantiles -------------------------------------------------------------------------------- */

static void test_quantiles_are_those_of_the_tables(void **state)
{
    (void)state;
    static const struct {
        double tail, z;
    } known[] = {{0.5, 0},
                 {0.3, 0.52440051270804066},
                 {0.1, 1.2815515655446004},
                 {0.05, 1.6448536269514729},
                 {0.025, 1.9599639845400545},
                 {0.005, 2.5758293035489004},
                 {1e-9, 5.9978070150076869},
                 {1e-300, 37.047096299361199}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        double got = normal_quantile(known[i].tail);
        if (fabs(got - known[i].z) > 1e-12 * fmax(1, known[i].z))
            fail_msg("tail %g: got %.17g, want %.17g", known[i].tail, got, known[i].z);
        if (known[i].tail > 1e-9 && fabs(normal_quantile(1 - known[i].tail) + got) > 1e-12)
            fail_msg("tail %g: the other side is not its opposite", known[i].tail);
    }
}

static void test_quantiles_undo_the_tail_probability(void **state)
{
    (void)state;
    for (double tail = 1e-200; tail < 0.999; tail = tail < 0.01 ? tail * 3 : tail + 0.007) {
        double z = normal_quantile(tail), back = 0.5 * erfc(z * sqrt(0.5));
        /* An error of z of 1e-12 changes the tail by about z times as much, relatively. */
        if (fabs(back - tail) > 1e-12 * tail * fmax(1, z * z))
            fail_msg("tail %.17g: z %.17g has %.17g", tail, z, back);
    }
}

/* --- Sizes ------------------------------------------------------------------------------------ */

static void test_base_samples_have_two_keys_or_all_there_are(void **state)
{
    (void)state;
    static const struct {
        struct budget base;
        int n_left, want;
    } cases[] = {{{false, 1}, 100, 2},    {{false, 30}, 100, 30},  {{false, 300}, 100, 100},
                 {{false, 30}, 1, 1},     {{true, 0.001}, 100, 2}, {{true, 0.29}, 100, 28},
                 {{true, 1.0}, 100, 100}, {{true, 0.5}, 1, 1},     {{true, 0.5}, 2, 2}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(adaptive_base(cases[i].base, cases[i].n_left), cases[i].want);
}

static void test_sizes_stay_between_the_base_and_all(void **state)
{
    (void)state;
    assert_int_equal(adaptive_keys(0, 10, 100), 10);
    assert_int_equal(adaptive_keys(20, 10, 100), 20);
    assert_int_equal(adaptive_keys(20.01, 10, 100), 21);
    assert_int_equal(adaptive_keys(99.5, 10, 100), 100);
    assert_int_equal(adaptive_keys(1e300, 10, 100), 100);
    assert_int_equal(adaptive_keys(NAN, 10, 100), 100);
    assert_int_equal(adaptive_keys(3, 10, 5), 5);
}

static void test_deviation_counts_values_that_are_zero(void **state)
{
    (void)state;
    static const double u[] = {0.5, 1, 0.25}, all[] = {0.5, 1, 0.25, 0, 0};
    double sum = adaptive_sum(u, 3);
    assert_true(sum == 1.75);
    double got = adaptive_deviation(u, 3, sum, 5), want = adaptive_deviation(all, 5, sum, 5);
    assert_true(fabs(got - want) < 1e-15 && fabs(got - sqrt(0.7 / 4)) < 1e-15);
}

/* --- The reference's numbers ------------------------------------------------------------------ */

struct recorded {
    const char *key;
    struct attention_input in;
    struct golden_mask before; /* of the maskers before; ptr NULL: none */
    double epsilon, quantile;
    struct key_window {
        int begin, n;
    } window;
    int n_base;
    int64_t *draws, *raw; /* [rows, n_base], [rows] */
    float *std, *denominator;
};

/* exp(z - max) of a row, 0 where it cannot be seen. */
static void row_weights(const struct compared_row *r, double *u)
{
    double max = -INFINITY;
    for (int key = 0; key < r->in->n_keys; key++) {
        u[key] = golden_score(r->in, r->b, r->head, r->i, key) / sqrt(r->in->head_dim);
        if (is_visible(r, key))
            max = fmax(max, u[key]);
    }
    for (int key = 0; key < r->in->n_keys; key++)
        u[key] = is_visible(r, key) ? exp(u[key] - max) : 0;
}

/* The reference computes in f32, and weights by 1 / (p + 1e-6) for 1 / p (deviation D2). */
static void expect_near(const struct recorded *g, size_t row, const char *what, double got,
                        double want)
{
    double tolerance = 5e-6 + 1e-6 * g->window.n / g->n_base;
    if (fabs(got - want) > tolerance * fabs(want) + 1e-8)
        fail_msg("%s row %zu: %s: got %.9g, want %.9g", g->key, row, what, got, want);
}

/* Returns how many keys the reference then draws. */
static int check_row(const struct recorded *g, const struct compared_row *r)
{
    int n_keys = r->in->n_keys, n = g->window.n;
    double *u = xcalloc((size_t)n_keys, sizeof *u), *drawn = xcalloc((size_t)g->n_base, sizeof *u);
    uint8_t *once = xcalloc((size_t)n_keys, 1);
    double held = 0, distinct = 0;
    size_t row = row_index(r);
    row_weights(r, u);
    for (int key = 0; !g->before.ptr && key < n_keys; key++)
        held += u[key];
    for (int64_t at = g->before.ptr ? g->before.ptr[row] : 0;
         g->before.ptr && at < g->before.ptr[row + 1]; at++)
        held += u[g->before.col[at]];
    for (int i = 0; i < g->n_base; i++) {
        int64_t key = g->draws[row * (size_t)g->n_base + (size_t)i];
        drawn[i] = u[key];
        distinct += once[key] ? 0 : u[key];
        once[key] = 1;
    }
    double deviation =
        fmax(1e-8, adaptive_deviation(drawn, g->n_base, adaptive_sum(drawn, g->n_base), g->n_base));
    double denominator = adaptive_denominator(held, distinct, g->n_base, n);
    double sample = adaptive_sample(g->quantile, deviation, n, g->epsilon, denominator);
    expect_near(g, row, "deviation", deviation, g->std[row]);
    expect_near(g, row, "denominator", denominator, g->denominator[row]);
    double size = fmin(fmax(sample, 1), n), recorded = (double)g->raw[row];
    if (!(size >= recorded - 1e-4 * size && size < recorded + 1 + 1e-4 * size))
        fail_msg("%s row %zu: %.6f keys, want %.0f", g->key, row, size, recorded);
    free(u);
    free(drawn);
    free(once);
    return (int)fmin(fmax(recorded, g->n_base), n);
}

static int resolve(const struct json *config, const char *name, int n_keys)
{
    const struct json *v = json_get(config, name);
    struct budget b = {!json_written_as_int(v), json_number(v, 0)};
    return budget_keys(b, n_keys);
}

static void check_recorded(struct checker *c, const struct json *run,
                           const struct safetensors *file)
{
    struct recorded g = {.key = json_string(json_get(run, "key"))};
    const char *name = json_string(json_get(run, "case"));
    const struct json *config = NULL;
    struct stack stack;
    struct error err = {0};
    for (const struct json *m = json_first(json_get(run, "config")); m; m = json_next(m))
        config = m;
    g.draws = golden_ints(file, g.key, "base_draws");
    if (!g.draws) /* a base of 0: off */
        return;
    g.in = golden_input(name);
    if (!parse_config(&stack, run, &err))
        fail_msg("%s: %s", g.key, err.text);
    stack_remove(&stack, stack.n - 1);
    struct run_result before = {0};
    if (stack.n) {
        before = run_case(c, &stack, name, true);
        g.before = before.mask;
    }
    g.epsilon = json_number(json_get(config, "epsilon"), 0);
    g.quantile = normal_quantile(json_number(json_get(config, "delta"), 0));
    assert_true(fabs(g.quantile - json_number(json_get(run, "ppf"), 0)) < 1e-12);
    g.window.begin = resolve(config, "init_offset", g.in.n_keys);
    g.window.n = g.in.n_keys - resolve(config, "local_offset", g.in.n_keys) - g.window.begin;
    assert_int_equal(g.window.n, (int)json_number(json_get(run, "sampling_range"), 0));
    const struct json *base = json_get(config, "base_rate_sampling");
    g.n_base = adaptive_base((struct budget){!json_written_as_int(base), json_number(base, 0)},
                             g.window.n);
    g.raw = golden_ints(file, g.key, "raw_budget");
    g.std = golden_f32(file, g.key, "std");
    g.denominator = golden_f32(file, g.key, "denominator");
    int64_t n_rows = (int64_t)g.in.n_batch * g.in.n_heads * g.in.n_rows, n_final = 0;
    assert_int_equal(golden_find(file, g.key, "base_draws")->n_elements, n_rows * g.n_base);
    for (int b = 0; b < g.in.n_batch; b++)
        for (int head = 0; head < g.in.n_heads; head++)
            for (int i = 0; i < g.in.n_rows; i++) {
                struct compared_row r = {g.key, b, head, i, &g.in};
                n_final += check_row(&g, &r);
                c->n_rows++;
            }
    assert_int_equal(golden_find(file, g.key, "final_draws")->n_elements, n_final);
    c->n_runs++;
    run_result_free(&before);
    attention_input_free(&g.in);
    free(g.draws);
    free(g.raw);
    free(g.std);
    free(g.denominator);
}

static void test_budgets_of_recorded_draws_equal_the_reference(void **state)
{
    struct checker *c = *state;
    struct safetensors *file = golden_open(GOLDEN "adaptive.safetensors");
    const struct json *runs = json_get(golden_section(c->manifest, "adaptive"), "runs");
    for (const struct json *run = json_first(runs); run; run = json_next(run))
        check_recorded(c, run, file);
    print_message("adaptive: %d runs, %d rows\n", c->n_runs, c->n_rows);
    assert_int_equal(c->n_runs, 20);
    safetensors_close(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quantiles_are_those_of_the_tables),
        cmocka_unit_test(test_quantiles_undo_the_tail_probability),
        cmocka_unit_test(test_base_samples_have_two_keys_or_all_there_are),
        cmocka_unit_test(test_sizes_stay_between_the_base_and_all),
        cmocka_unit_test(test_deviation_counts_values_that_are_zero),
        cmocka_unit_test(test_budgets_of_recorded_draws_equal_the_reference),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
