/* An injected failure at CUDA calls all through load, prefill and decode: the engine tells it in
 * words, goes on working, and leaks nothing.
 *
 * Each trial is a fresh engine whose n-th call fails.  By default about N_TRIALS values of n are
 * tried, spread over all calls; ATTNSCOPE_FAULTS=all tries every one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "tests/engine_run.h"
#include "tests/test_backend.h"

#include <cmocka.h>

enum { N_TRIALS = 90, MAX_TOKENS = 6 };

static const char model[] = ATTNSCOPE_SOURCE_DIR "/presets/model";
static const char context[] = "The capital of France is Paris. The capital of Italy is Rome.";

/* What became of a trial. */
struct outcome {
    bool started, loaded, answered; /* without any error */
    bool lost;                      /* told as beyond repair */
};

static void add_lane(struct request *r, const char *text)
{
    struct error err = {0};
    struct stack stack;
    if (!stack_parse(&stack, text, &err) || !request_add_lane(r, NULL, &stack, &err))
        fail_msg("%s: %s", text, err.text);
}

static struct request make_request(void)
{
    struct error err = {0};
    struct request r;
    request_init(&r);
    r.max_tokens = MAX_TOKENS;
    r.context = xstrdup(context);
    r.n_context = strlen(context);
    assert_true(request_add_question(&r, "What is the capital of France?", &err));
    add_lane(&r, "sink:2,local:8");
    add_lane(&r, "sink:2,oracle-topk:20%");
    return r;
}

/* True if every lane answered; every lane or ask that did not must say why. */
static bool ask(struct engine *e, bool *lost)
{
    struct request r = make_request();
    struct ask_result *a = ask_run(e, &r, NULL);
    assert_int_equal(a->n_finished + a->n_failed, 1);
    assert_true(a->in_order);
    bool ok = a->n_failed == 0;
    if (!ok)
        assert_true(strlen(a->report->error.text) > 10);
    for (int lane = 0; ok && lane < r.n_lanes; lane++) {
        const struct report_lane *l = report_lane(a->report, 0, lane);
        if (l->finish != FINISH_ERROR)
            continue;
        assert_non_null(l->error);
        assert_true(strlen(l->error) > 10);
        ok = false;
    }
    *lost = a->device_lost;
    ask_free(a);
    request_free(&r);
    return ok;
}

/* Runs load and ask with the fault; then, unless the device is lost, once more without one. */
static struct outcome trial(const char *fault, bool again)
{
    struct outcome o = {0};
    struct error err = {0};
    struct engine_options options = {.backend = "cuda", .kv_dtype = DTYPE_BF16};
    setenv("ATTNSCOPE_CUDA_FAULT", fault, 1);
    struct engine *e = engine_start(&options, &err);
    unsetenv("ATTNSCOPE_CUDA_FAULT");
    o.started = e != NULL;
    if (!e) {
        assert_true(strlen(err.text) > 10);
        return o;
    }
    o.loaded = load_run(e, model, &err);
    if (!o.loaded)
        assert_true(strlen(err.text) > 10);
    else
        o.answered = ask(e, &o.lost);
    if (again && !o.answered && !o.lost) {
        bool lost;
        err = (struct error){0};
        if (!o.loaded && !load_run(e, model, &err))
            fail_msg("fault %s: loading again fails: %s", fault, err.text);
        if (!ask(e, &lost))
            fail_msg("fault %s: asking again fails", fault);
    }
    engine_stop(e);
    return o;
}

/* The number of the first call that is never reached. */
static int count_calls(void)
{
    int low = 1, high = 1 << 20;
    while (low < high) {
        int middle = low + (high - low) / 2;
        char fault[16];
        snprintf(fault, sizeof fault, "%d+", middle);
        if (trial(fault, false).answered)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static uint64_t free_bytes(void)
{
    const struct backend *backend;
    char why[256];
    struct device *dev =
        backend_open("cuda", &(struct device_options){0}, &backend, why, sizeof why);
    assert_non_null(dev);
    struct device_info info;
    backend->describe(dev, &info);
    backend->close(dev);
    return info.free_bytes;
}

static void test_a_failing_call_anywhere_is_told_and_survived(void **state)
{
    (void)state;
    const char *all = getenv("ATTNSCOPE_FAULTS");
    int n_calls = count_calls(), stride = all ? 1 : n_calls / N_TRIALS + 1, n_failed = 0;
    trial("0", false);
    uint64_t before = free_bytes();
    for (int n = 1; n < n_calls; n += stride) {
        char fault[16];
        snprintf(fault, sizeof fault, "%d", n);
        n_failed += !trial(fault, true).answered;
    }
    printf("%d CUDA calls from start to answer; %d trials failed as told\n", n_calls, n_failed);
    assert_true(n_calls > 100 && n_failed > N_TRIALS / 2);
    uint64_t after = free_bytes();
    if (after + (16 << 20) < before)
        fail_msg("%d failures leaked %llu bytes of device memory", n_failed,
                 (unsigned long long)(before - after));
}

static void test_a_device_that_is_lost_is_told_as_lost(void **state)
{
    (void)state;
    char fault[16];
    snprintf(fault, sizeof fault, "%d!", count_calls() - 40);
    struct outcome o = trial(fault, false);
    assert_true(o.started && o.loaded);
    assert_false(o.answered);
    assert_true(o.lost);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_failing_call_anywhere_is_told_and_survived),
        cmocka_unit_test(test_a_device_that_is_lost_is_told_as_lost),
    };
    setenv("ATTNSCOPE_TEST_BACKEND", "cuda", 1);
    if (!test_backend_opens())
        return TEST_SKIPPED;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
