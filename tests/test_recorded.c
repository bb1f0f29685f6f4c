/* Answers from recorded steps: to the last bit what steps made one by one give, and whole when
 * something goes wrong.  The device is the cpu backend, made to record by recording_backend.h. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/memory.h"
#include "tests/engine_run.h"
#include "tests/recording_backend.h"

#include <cmocka.h>

static const char model_folder[] = ATTNSCOPE_SOURCE_DIR "/presets/model";
static const char paris[] = "The capital of France is Paris. It is known for the Eiffel Tower.";

static const char *const stacks[] = {
    "sink:4,local:8",
    "sink:1,local:2,oracle-topk:10%",
    "local:4,oracle-topk:20%:share=group",
    "local:4,oracle-topp:0.7",
    "sink:2,local:2,random:0.3",
    "dense",
};

static struct engine *cpu, *recording;

static struct engine *start_engine(const char *backend)
{
    struct error err = {0};
    struct engine_options options = {.backend = backend, .kv_dtype = DTYPE_BF16, .n_threads = 2};
    struct engine *e = engine_start(&options, &err);
    if (!e || !load_run(e, model_folder, &err))
        fail_msg("%s: %s", backend, err.text);
    return e;
}

static int start(void **state)
{
    (void)state;
    cpu = start_engine("cpu");
    recording = start_engine("recording");
    return 0;
}

static int stop(void **state)
{
    (void)state;
    engine_stop(cpu);
    engine_stop(recording);
    return 0;
}

static void add_lane(struct request *r, const char *text)
{
    struct error err = {0};
    struct stack stack;
    if (!stack_parse(&stack, text, &err) || !request_add_lane(r, text, &stack, &err))
        fail_msg("%s: %s", text, err.text);
}

/* Two questions about Paris, answered by a dense lane and by one of each stack. */
static void make_request(struct request *r, uint64_t seed)
{
    request_init(r);
    r->context = xstrdup(paris);
    r->n_context = strlen(paris);
    assert_true(request_add_question(r, "What is Paris known for?", NULL));
    assert_true(request_add_question(r, "Tell me a story about a river.", NULL));
    for (size_t i = 0; i < sizeof stacks / sizeof stacks[0]; i++)
        add_lane(r, stacks[i]);
    r->max_tokens = 40;
    r->seed = seed;
}

static void expect_whole(const struct ask_result *a)
{
    const struct request *r = a->report->request;
    if (a->n_failed)
        fail_msg("the ask failed: %s", a->report->error.text);
    assert_true(a->in_order && a->n_finished == 1);
    for (int q = 0; q < r->n_questions; q++)
        for (int i = 0; i < r->n_lanes; i++)
            assert_int_equal(a->n_done[q][i], 1);
}

static void expect_equal(const char *what, double got, double want, int question, int lane)
{
    if (got != want)
        fail_msg("question %d, lane %d: %s is %.17g, want %.17g", question, lane, what, got, want);
}

static void expect_same_lane(const struct ask_result *got_all, const struct ask_result *want_all,
                             int q, int lane)
{
    const struct report_lane *got = report_lane(got_all->report, q, lane);
    const struct report_lane *want = report_lane(want_all->report, q, lane);
    const struct lane_metrics *g = &got->metrics, *w = &want->metrics;
    expect_equal("the number of tokens", (double)got->n_tokens, (double)want->n_tokens, q, lane);
    for (size_t i = 0; i < want->n_tokens; i++) {
        expect_equal("a token", got->tokens[i].id, want->tokens[i].id, q, lane);
        expect_equal("a logprob", got->tokens[i].logprob, want->tokens[i].logprob, q, lane);
    }
    expect_equal("finish", got->finish, want->finish, q, lane);
    expect_equal("density", g->density, w->density, q, lane);
    expect_equal("read density", g->read_density, w->read_density, q, lane);
    expect_equal("bytes read", (double)g->kv_bytes_per_step, (double)w->kv_bytes_per_step, q, lane);
    expect_equal("rescued", (double)g->rescued, (double)w->rescued, q, lane);
    expect_equal("agreement", g->agreement, w->agreement, q, lane);
    expect_equal("mean KL", g->mean_kl, w->mean_kl, q, lane);
    expect_equal("recall", g->recall_mean, w->recall_mean, q, lane);
}

/* Runs the request on both; returns how many tokens the recording engine told. */
static size_t expect_same_answers(const struct request *r)
{
    struct ask_result *want = ask_run(cpu, r, NULL);
    recording_reset();
    struct ask_result *got = ask_run(recording, r, NULL);
    size_t n_tokens = 0;
    expect_whole(want);
    expect_whole(got);
    for (int q = 0; q < r->n_questions; q++)
        for (int lane = 0; lane < r->n_lanes; lane++) {
            expect_same_lane(got, want, q, lane);
            n_tokens += report_lane(got->report, q, lane)->n_tokens;
        }
    ask_free(want);
    ask_free(got);
    return n_tokens;
}

/* --- Replays equal steps ---------------------------------------------------------------------- */

static void test_replayed_answers_equal_those_made_step_by_step(void **state)
{
    (void)state;
    struct request r;
    make_request(&r, 1000);
    size_t n_tokens = expect_same_answers(&r);
    /* At most two recordings a lane; a step is replayed, and one in a block for its attention. */
    size_t n_lanes = (size_t)(r.n_lanes * r.n_questions);
    assert_in_range(recording_device.n_recordings, n_lanes, 2 * n_lanes);
    assert_in_range(recording_device.n_replays, n_tokens / 2, 4 * n_tokens);
    /* Both of a lane's hold the attention of every layer once. */
    assert_int_equal(recording_device.n_taped_attends, 8 * recording_device.n_recordings);
    r.setup = SETUP_A;
    r.probe = false;
    r.seed++; /* so that the dense answer is computed */
    expect_same_answers(&r);
    request_free(&r);
}

/* Answers of random lengths end anywhere in a block: what lies behind must not be counted. */
static void test_steps_behind_a_stop_leave_no_trace(void **state)
{
    (void)state;
    size_t lengths = 0;
    for (uint64_t seed = 0; seed < 6; seed++) {
        struct request r;
        make_request(&r, seed);
        r.sampling = (struct sampling){.temperature = 1.2f, .top_p = 0.95f};
        r.probe = seed % 2;
        lengths |= (size_t)1 << expect_same_answers(&r) % 8;
        request_free(&r);
    }
    assert_true(lengths & (lengths - 1)); /* not all of one length */
}

static void test_forced_lanes_follow_lane_0_and_are_compared_with_it(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 4; seed++) {
        struct request r;
        make_request(&r, seed);
        r.forced = true;
        r.sampling = (struct sampling){.temperature = seed % 3 ? 1.0f : 0.0f, .top_p = 1};
        r.max_tokens = seed % 2 ? 40 : 11;
        expect_same_answers(&r);
        request_free(&r);
    }
}

static void test_steps_and_their_attention_are_timed(void **state)
{
    (void)state;
    struct request r;
    make_request(&r, 2000);
    r.probe = false;
    struct ask_result *a = ask_run(recording, &r, NULL);
    expect_whole(a);
    for (int lane = 0; lane < r.n_lanes; lane++) {
        const struct report_lane *l = report_lane(a->report, 1, lane);
        assert_true(l->n_tokens > 3);
        for (size_t i = 2; i < l->n_tokens; i++)
            if (l->tokens[i].step_us <= 0 || l->tokens[i].attention_us <= 0)
                fail_msg("lane %d, token %zu: %d us, attention %d us", lane, i,
                         (int)l->tokens[i].step_us, (int)l->tokens[i].attention_us);
        const struct lane_metrics *m = &l->metrics;
        assert_true(m->itl_ms >= 0.5 * m->step_ms_per_token);
    }
    ask_free(a);
    request_free(&r);
}

/* --- Failures --------------------------------------------------------------------------------- */

static void test_a_step_that_cannot_be_recorded_is_made_by_itself(void **state)
{
    (void)state;
    struct request r;
    make_request(&r, 3000);
    struct ask_result *want = ask_run(cpu, &r, NULL);
    recording_reset();
    recording_device.refuse = true;
    struct ask_result *got = ask_run(recording, &r, NULL);
    expect_whole(got);
    for (int lane = 0; lane < r.n_lanes; lane++)
        expect_same_lane(got, want, 1, lane);
    assert_int_equal(recording_device.n_replays, 0);
    assert_true(recording_device.n_recordings > 0);
    recording_reset();
    ask_free(want);
    ask_free(got);
    request_free(&r);
}

static void test_a_lost_device_ends_every_lane_and_says_so(void **state)
{
    (void)state;
    struct engine *e = start_engine("recording");
    struct request r;
    make_request(&r, 4000);
    recording_device.lose_at_replay = 7;
    struct ask_result *a = ask_run(e, &r, NULL);
    expect_whole(a);
    assert_true(a->n_lost > 0);
    int n_errors = 0;
    for (int q = 0; q < r.n_questions; q++)
        for (int lane = 0; lane < r.n_lanes; lane++) {
            const struct report_lane *l = report_lane(a->report, q, lane);
            n_errors += l->finish == FINISH_ERROR;
            if (l->finish == FINISH_ERROR && !strstr(l->error, "a failure made by a test"))
                fail_msg("lane %d: %s", lane, l->error);
        }
    assert_int_equal(n_errors, a->n_lost);
    assert_true(n_errors >= r.n_lanes); /* of the second question: all */
    ask_free(a);
    a = ask_run(e, &r, NULL); /* told again, not hung */
    assert_true(a->n_lost > 0);
    ask_free(a);
    engine_stop(e);
    recording_reset();
    request_free(&r);
}

/* --- Memory ----------------------------------------------------------------------------------- */

static char *long_text(int n_sentences)
{
    char *text = xcalloc((size_t)n_sentences, 64), *at = text;
    for (int i = 0; i < n_sentences; i++)
        at += sprintf(at, "In town %d the road to hill %d is %d miles long. ", i % 97, i,
                      i * 7 % 100);
    return text;
}

static void test_too_long_a_context_is_refused_with_what_would_fit(void **state)
{
    (void)state;
    struct request r;
    make_request(&r, 5000);
    r.n_questions = 1;
    free(r.questions[1]);
    free(r.context);
    r.context = long_text(500);
    r.n_context = strlen(r.context);
    r.max_tokens = 2;
    r.keep_given = true;
    recording_reset();
    recording_device.free_bytes = 200 << 20;
    struct ask_result *a = ask_run(recording, &r, NULL);
    assert_int_equal(a->n_failed, 1);
    assert_int_equal(a->report->error.code, EXIT_CODE_NO_DEVICE);
    int fits = -1;
    const char *about = strstr(a->report->error.text, "about ");
    if (!about || sscanf(about, "about %d tokens of context fit (--max-context)", &fits) != 1)
        fail_msg("got: %s", a->report->error.text);
    assert_int_equal(recording_device.n_marks, 0); /* nothing was begun */
    ask_free(a);
    r.max_context = fits - 16; /* less what the template adds */
    a = ask_run(recording, &r, NULL);
    expect_whole(a);
    ask_free(a);
    recording_device.free_bytes = 1 << 20;
    r.max_context = 0;
    a = ask_run(recording, &r, NULL);
    assert_int_equal(a->n_failed, 1);
    assert_non_null(strstr(a->report->error.text, "are free"));
    ask_free(a);
    recording_reset();
    r.max_context = 300;
    expect_same_answers(&r);
    request_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_replayed_answers_equal_those_made_step_by_step),
        cmocka_unit_test(test_steps_behind_a_stop_leave_no_trace),
        cmocka_unit_test(test_forced_lanes_follow_lane_0_and_are_compared_with_it),
        cmocka_unit_test(test_steps_and_their_attention_are_timed),
        cmocka_unit_test(test_a_step_that_cannot_be_recorded_is_made_by_itself),
        cmocka_unit_test(test_a_lost_device_ends_every_lane_and_says_so),
        cmocka_unit_test(test_too_long_a_context_is_refused_with_what_would_fit),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
