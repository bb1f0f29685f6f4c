/* The cpu device itself: its pool of threads, memory, failures, clock and table. */
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tests/cpu_trial.h"

/* --- Pool ---------------------------------------------------------------------------------- */

struct count_job {
    atomic_int *runs; /* [n_tasks] */
    atomic_int threads_inside[8];
    atomic_bool overlap; /* a thread index was used twice at once */
};

static void count_task(void *user, int task_index, int thread_index)
{
    struct count_job *job = user;
    if (atomic_fetch_add(&job->threads_inside[thread_index], 1) != 0)
        atomic_store(&job->overlap, true);
    atomic_fetch_add(&job->runs[task_index], 1);
    atomic_fetch_sub(&job->threads_inside[thread_index], 1);
}

static void test_pool_runs_every_task_once(void **state)
{
    (void)state;
    for (int n_threads = 1; n_threads <= 8; n_threads += n_threads == 1 ? 1 : 3) {
        struct device *dev = open_device(n_threads);
        atomic_int runs[200];
        for (int round = 0; round < 3000; round++) {
            int n_tasks = round % 200;
            struct count_job job = {.runs = runs};
            for (int i = 0; i < n_tasks; i++)
                atomic_init(&runs[i], 0);
            cpu_parallel(dev, n_tasks, count_task, &job);
            for (int i = 0; i < n_tasks; i++)
                assert_int_equal(atomic_load(&runs[i]), 1);
            assert_false(atomic_load(&job.overlap));
            if (round % 500 == 0)
                usleep(300); /* long enough for the workers to fall asleep */
        }
        cpu_device_close(dev);
    }
}

struct add_job {
    int64_t *sums; /* plain memory: the pool must order the accesses */
};

static void add_task(void *user, int task_index, int thread_index)
{
    (void)thread_index;
    struct add_job *job = user;
    job->sums[task_index] += task_index;
}

static void test_pool_orders_memory_between_jobs(void **state)
{
    (void)state;
    enum { N_TASKS = 7, N_ROUNDS = 20000 };
    struct device *dev = open_device(4);
    int64_t sums[N_TASKS] = {0};
    struct add_job job = {.sums = sums};
    for (int round = 0; round < N_ROUNDS; round++)
        cpu_parallel(dev, N_TASKS, add_task, &job);
    for (int i = 0; i < N_TASKS; i++)
        assert_int_equal(sums[i], (int64_t)i * N_ROUNDS);
    cpu_device_close(dev);
}

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static void test_idle_pool_uses_no_processor_time(void **state)
{
    (void)state;
    struct device *dev = open_device(4);
    int64_t sums[7] = {0};
    struct add_job job = {.sums = sums};
    cpu_parallel(dev, 7, add_task, &job);
    usleep(20000);
    double before = cpu_seconds();
    usleep(300000);
    assert_close(cpu_seconds() - before, 0, 0.03, "seconds of processor time in 0.3 s");
    cpu_device_close(dev);
}

static void test_opening_with_too_many_threads_says_so(void **state)
{
    (void)state;
    char why[200] = "";
    struct device_options options = {.n_threads = CPU_MAX_THREADS + 1};
    assert_null(cpu_device_open(&options, why, sizeof why));
    assert_non_null(strstr(why, "257 threads"));
    options.n_threads = -1;
    assert_null(cpu_device_open(&options, why, sizeof why));
}

/* --- Memory and failures ------------------------------------------------------------------- */

static void test_memory_is_zero_aligned_and_writable(void **state)
{
    (void)state;
    struct device *dev = open_device(1);
    static const size_t sizes[] = {
        0, 1, 63, 64, 65, 4096, (4u << 20) - 1, 4u << 20, (9u << 20) + 5};
    for (int i = 0; i < 9; i++) {
        unsigned char *p = cpu_alloc(dev, sizes[i]);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        for (size_t at = 0; at<sizes[i]; at += sizes[i]> 8192 ? 4093 : 1)
            assert_int_equal(p[at], 0);
        memset(p, 0xAB, sizes[i]);
        cpu_release(dev, p);
    }
    cpu_release(dev, NULL);
    assert_null(cpu_alloc(dev, SIZE_MAX - 10));
    cpu_device_close(dev);
}

static void test_first_failure_is_reported_once_and_stops_operations(void **state)
{
    (void)state;
    struct device *dev = open_device(2);
    char why[200] = "";
    assert_true(cpu_device_sync(dev, why, sizeof why));
    cpu_fail(dev, "the first");
    cpu_fail(dev, "the second");
    float p[2] = {1, 2}, kl = -7;
    cpu_kl_divergence(dev, &kl, p, p, 2);
    assert_true(kl == -7);
    assert_false(cpu_device_sync(dev, why, sizeof why));
    assert_string_equal(why, "the first");
    assert_true(cpu_device_sync(dev, why, sizeof why));
    cpu_kl_divergence(dev, &kl, p, p, 2);
    assert_true(kl == 0);
    cpu_device_close(dev);
}

static void test_description_and_clock(void **state)
{
    (void)state;
    struct device *dev = open_device(2);
    struct device_info info;
    cpu_device_describe(dev, &info);
    assert_non_null(strstr(info.name, ", 2 threads, "));
    assert_int_equal(info.n_threads, 2);
    assert_true(info.free_bytes > 0 && info.free_bytes <= info.total_bytes);
    cpu_time_mark(dev, 0);
    usleep(2000);
    cpu_time_mark(dev, 63);
    double us = cpu_time_between_us(dev, 0, 63);
    assert_true(us >= 2000 && us < 1e6);
    cpu_device_close(dev);
}

static void test_table_is_complete_and_opens(void **state)
{
    (void)state;
    const char *const *members = (const char *const *)(const void *)&backend_cpu;
    /* Left out by a device that cannot be lost and gains nothing by recording. */
    static const size_t optional[] = {
        offsetof(struct backend, lost), offsetof(struct backend, record_begin),
        offsetof(struct backend, record_end), offsetof(struct backend, replay),
        offsetof(struct backend, recording_close)};
    for (size_t i = 0; i < sizeof backend_cpu / sizeof *members; i++) {
        bool may_lack = false;
        for (size_t j = 0; j < sizeof optional / sizeof *optional; j++)
            may_lack = may_lack || optional[j] == i * sizeof *members;
        if (!members[i] && !may_lack)
            fail_msg("member %zu of backend_cpu is NULL", i);
    }
    char why[200];
    struct device *dev = backend_cpu.open(NULL, why, sizeof why);
    assert_non_null(dev);
    struct workspace_need need = {.max_rows = 100,
                                  .max_width = 1000,
                                  .n_heads = 8,
                                  .n_kv_heads = 2,
                                  .head_dim = 64,
                                  .max_keys = 5000};
    assert_true(backend_cpu.reserve(dev, &need));
    need.max_rows = 7;
    assert_true(backend_cpu.reserve(dev, &need));
    assert_int_equal(dev->need.max_rows, 100);
    backend_cpu.close(dev);
    backend_cpu.close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pool_runs_every_task_once),
        cmocka_unit_test(test_pool_orders_memory_between_jobs),
        cmocka_unit_test(test_idle_pool_uses_no_processor_time),
        cmocka_unit_test(test_opening_with_too_many_threads_says_so),
        cmocka_unit_test(test_memory_is_zero_aligned_and_writable),
        cmocka_unit_test(test_first_failure_is_reported_once_and_stops_operations),
        cmocka_unit_test(test_description_and_clock),
        cmocka_unit_test(test_table_is_complete_and_opens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
