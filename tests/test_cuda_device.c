/* The cuda device itself: memory, recording, clock, and what it does when a call fails. */
#include <stdlib.h>

#include "tests/backend_pair.h"

static const struct backend *cuda;
static struct device *dev;

static int set_up(void **state)
{
    (void)state;
    cuda = pair.backend[PAIR_CUDA];
    dev = pair.dev[PAIR_CUDA];
    return 0;
}

static void assert_sync(void)
{
    char why[256] = "";
    if (!cuda->sync(dev, why, sizeof why))
        fail_msg("%s", why);
}

/* --- Memory ----------------------------------------------------------------------------------- */

static void test_memory_is_zeroed_when_allocated(void **state)
{
    (void)state;
    enum { N = 100001 };
    unsigned char *host = malloc(N);
    memset(host, 1, N);
    void *p = cuda->alloc(dev, N);
    assert_non_null(p);
    cuda->download(dev, host, p, N);
    for (int i = 0; i < N; i++)
        assert_int_equal(host[i], 0);
    cuda->release(dev, p);
    free(host);
}

static void test_what_is_uploaded_comes_back(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 255, 257, (8 << 20) - 1, (8 << 20) + 1, 70 << 20};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        size_t n = sizes[s];
        unsigned char *from = malloc(n), *back = malloc(n);
        for (size_t i = 0; i < n; i++)
            from[i] = (unsigned char)((i * 2654435761u) >> 13);
        void *p = cuda->alloc(dev, n);
        assert_non_null(p);
        cuda->upload(dev, p, from, n);
        cuda->download(dev, back, p, n);
        assert_memory_equal(from, back, n);
        cuda->release(dev, p);
        free(from);
        free(back);
    }
}

static void test_many_small_uploads_keep_their_order(void **state)
{
    (void)state;
    enum { N = 50000 };
    int32_t *p = cuda->alloc(dev, N * sizeof *p), *back = malloc(N * sizeof *back);
    assert_non_null(p);
    for (int32_t round = 0; round < 2; round++)
        for (int32_t i = 0; i < N; i++) {
            int32_t value = i * 3 + round;
            cuda->upload(dev, p + i, &value, sizeof value);
        }
    cuda->download(dev, back, p, N * sizeof *back);
    for (int32_t i = 0; i < N; i++)
        assert_int_equal(back[i], i * 3 + 1);
    cuda->release(dev, p);
    free(back);
}

static void test_too_large_an_allocation_is_refused_and_harms_nothing(void **state)
{
    (void)state;
    assert_null(cuda->alloc(dev, (size_t)1 << 50));
    void *p = cuda->alloc(dev, 1 << 20);
    assert_non_null(p);
    cuda->release(dev, p);
    assert_sync();
}

static void test_describe_names_the_gpu_and_its_free_memory(void **state)
{
    (void)state;
    struct device_info before, after;
    size_t n = (size_t)256 << 20;
    cuda->describe(dev, &before);
    void *p = cuda->alloc(dev, n);
    cuda->describe(dev, &after);
    assert_true(strlen(before.name) > 3 && before.max_rows > 0 && before.chunk_flops > 0);
    assert_true(before.free_bytes <= before.total_bytes);
    assert_true(before.free_bytes - after.free_bytes >= n);
    cuda->release(dev, p);
}

/* --- Recording ---------------------------------------------------------------------------------
 */

static void test_a_recording_replays_with_what_memory_holds_then(void **state)
{
    (void)state;
    struct step_state step = {.n_context = 5, .n_tail = 2, .append_tail = 1, .step = 9, .seed = 3};
    struct pick pick = {.token = 41};
    struct step_state *steps = cuda->alloc(dev, 2 * sizeof *steps);
    struct pick *picks = cuda->alloc(dev, 5 * sizeof *picks);
    int32_t *token = cuda->alloc(dev, sizeof *token), got = 0;
    assert_true(steps && picks && token);
    assert_true(cuda->record_begin(dev));
    cuda->advance(dev, steps, steps + 1, token, picks, picks + 1, 4);
    struct recording *recording = cuda->record_end(dev);
    assert_non_null(recording);
    cuda->upload(dev, steps, &step, sizeof step);
    for (int i = 0; i < 3; i++) {
        pick.token = 41 + i;
        cuda->upload(dev, picks, &pick, sizeof pick);
        cuda->replay(dev, recording);
    }
    struct step_state now[2];
    struct pick log[4];
    cuda->download(dev, now, steps, sizeof now);
    cuda->download(dev, &got, token, sizeof got);
    cuda->download(dev, log, picks + 1, sizeof log);
    assert_sync();
    assert_int_equal(now[0].n_tail, 5);
    assert_int_equal(now[0].step, 12);
    assert_int_equal(now[1].n_tail, 4);
    assert_int_equal(now[1].step, 11);
    assert_int_equal(got, 43);
    assert_int_equal(log[9 % 4].token, 41);
    assert_int_equal(log[10 % 4].token, 42);
    assert_int_equal(log[11 % 4].token, 43);
    cuda->recording_close(dev, recording);
    cuda->release(dev, steps);
    cuda->release(dev, picks);
    cuda->release(dev, token);
}

static void test_marks_measure_the_work_between_them(void **state)
{
    (void)state;
    size_t n = (size_t)256 << 20;
    float *p = cuda->alloc(dev, n);
    assert_non_null(p);
    cuda->fill_random(dev, p, n / 4, DTYPE_F32, 1, 1);
    cuda->time_mark(dev, 0);
    for (int i = 0; i < 8; i++)
        cuda->fill_random(dev, p, n / 4, DTYPE_F32, 1, 1);
    cuda->time_mark(dev, 1);
    double us = cuda->time_between_us(dev, 0, 1);
    /* 2 GiB written: at least 0.2 ms on any memory, under a second on all that we support. */
    if (!(us > 200 && us < 1e6))
        fail_msg("8 x 256 MiB took %g us", us);
    cuda->release(dev, p);
    assert_sync();
}

/* --- Failures ----------------------------------------------------------------------------------
 */

/* Opens a device that fails its call number n, works with it, and closes it.  True if anything
 * failed; every failure must have been told in words. */
static bool work_with_fault(const char *fault, bool *lost)
{
    struct device_options options = {.exact = true};
    char why[256] = "", text[64];
    snprintf(text, sizeof text, "%s", fault);
    setenv("ATTNSCOPE_CUDA_FAULT", text, 1);
    struct device *broken = cuda->open(&options, why, sizeof why);
    unsetenv("ATTNSCOPE_CUDA_FAULT");
    *lost = false;
    if (!broken) {
        assert_true(strlen(why) > 10);
        return true;
    }
    bool failed = false;
    float host[256] = {1};
    void *p = cuda->alloc(broken, sizeof host);
    if (p) {
        cuda->upload(broken, p, host, sizeof host);
        cuda->fill_random(broken, p, 256, DTYPE_F32, 1, 1);
        if (cuda->record_begin(broken)) {
            cuda->fill_random(broken, p, 256, DTYPE_F32, 1, 2);
            struct recording *recording = cuda->record_end(broken);
            if (recording)
                cuda->replay(broken, recording);
            cuda->recording_close(broken, recording);
        }
        cuda->download(broken, host, p, sizeof host);
    }
    if (!p || !cuda->sync(broken, why, sizeof why)) {
        failed = true;
        assert_true(!p || strlen(why) > 10);
    }
    *lost = cuda->lost(broken);
    if (failed && !*lost) { /* it works again, at once or after a failure while it recovered */
        bool works = cuda->sync(broken, why, sizeof why) || cuda->sync(broken, why, sizeof why);
        if (!works)
            fail_msg("fault %s: still failing: %s", fault, why);
    }
    cuda->release(broken, p);
    cuda->close(broken);
    return failed;
}

static void test_each_failing_call_is_told_and_leaks_nothing(void **state)
{
    (void)state;
    struct device_info before, after;
    bool lost;
    work_with_fault("0", &lost); /* what the first open of a process keeps */
    cuda->describe(dev, &before);
    int n_failed = 0, n = 1;
    for (; n < 400; n++) {
        char fault[16];
        snprintf(fault, sizeof fault, "%d", n);
        bool failed = work_with_fault(fault, &lost);
        n_failed += failed;
        assert_false(lost);
        if (!failed && n > 90) /* beyond the last call */
            break;
    }
    assert_true(n_failed > 70 && n < 400);
    cuda->describe(dev, &after);
    if (after.free_bytes + (8 << 20) < before.free_bytes)
        fail_msg("%d faults leaked %llu bytes", n_failed,
                 (unsigned long long)(before.free_bytes - after.free_bytes));
    assert_sync();
}

static void test_a_poisoned_device_is_lost(void **state)
{
    (void)state;
    bool lost;
    assert_true(work_with_fault("80!", &lost));
    assert_true(lost);
    assert_false(cuda->lost(dev));
}

static void test_an_unknown_backend_is_refused_with_the_names_there_are(void **state)
{
    (void)state;
    const struct backend *backend;
    char why[256];
    struct device_options options = {0};
    assert_null(backend_open("metal", &options, &backend, why, sizeof why));
    assert_non_null(strstr(why, "metal"));
    assert_non_null(strstr(why, "cuda"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        pair_test(test_memory_is_zeroed_when_allocated),
        pair_test(test_what_is_uploaded_comes_back),
        pair_test(test_many_small_uploads_keep_their_order),
        pair_test(test_too_large_an_allocation_is_refused_and_harms_nothing),
        pair_test(test_describe_names_the_gpu_and_its_free_memory),
        pair_test(test_a_recording_replays_with_what_memory_holds_then),
        pair_test(test_marks_measure_the_work_between_them),
        pair_test(test_each_failing_call_is_told_and_leaks_nothing),
        pair_test(test_a_poisoned_device_is_lost),
        pair_test(test_an_unknown_backend_is_refused_with_the_names_there_are),
    };
    if (!pair_open(true))
        return PAIR_SKIPPED;
    int n_failed = cmocka_run_group_tests(tests, set_up, NULL);
    pair_close();
    return n_failed;
}
