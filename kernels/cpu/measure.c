/* What this machine can do at best, for benchmarks to be compared with. */
#include <time.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/linear_kernels.h"

#define BUFFER_BYTES ((size_t)256 << 20) /* larger than the caches of one socket's share */
#define READ_TASK_BYTES ((size_t)1 << 20)

enum { N_PASSES = 6, BURSTS_PER_THREAD = 8 };

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

struct read_job {
    const struct linear_kernels *kernels;
    const char *buffer;
};

static void read_task(void *user, int task_index, int thread_index)
{
    (void)thread_index;
    const struct read_job *job = user;
    const char *from = job->buffer + (size_t)task_index * READ_TASK_BYTES;
    volatile float keep = job->kernels->read(from, READ_TASK_BYTES);
    (void)keep;
}

double cpu_read_pass(struct device *dev, const void *buffer, size_t n_bytes)
{
    struct read_job job = {.kernels = dev->linear, .buffer = buffer};
    size_t n_tasks = n_bytes / READ_TASK_BYTES; /* what is left over is not read, nor counted */
    double start = now_s();
    cpu_parallel(dev, (int)n_tasks, read_task, &job);
    return (double)n_tasks * (double)READ_TASK_BYTES / (now_s() - start);
}

double cpu_measure_read_bandwidth(struct device *dev)
{
    char *buffer = cpu_alloc(dev, BUFFER_BYTES);
    if (!buffer)
        return 0;
    /* Written once, so that the pages exist and are not all one page of zeros. */
    for (size_t i = 0; i < BUFFER_BYTES; i += 64)
        buffer[i] = (char)(i >> 6);
    double best = 0;
    for (int pass = 0; pass < N_PASSES; pass++) {
        double bandwidth = cpu_read_pass(dev, buffer, BUFFER_BYTES);
        best = bandwidth > best ? bandwidth : best;
    }
    cpu_release(dev, buffer);
    return best;
}

struct burst_job {
    double (*burst)(void);
    double flops[CPU_MAX_THREADS];
};

static void burst_task(void *user, int task_index, int thread_index)
{
    (void)task_index;
    struct burst_job *job = user;
    job->flops[thread_index] += job->burst();
}

double cpu_measure_peak_flops(struct device *dev)
{
    double best = 0;
    double (*burst)(void) = dev->bf16 ? dev->bf16->burst : dev->linear->f32.burst;
    for (int pass = 0; pass < N_PASSES; pass++) {
        struct burst_job job = {.burst = burst};
        double start = now_s();
        cpu_parallel(dev, BURSTS_PER_THREAD * dev->n_threads, burst_task, &job);
        double seconds = now_s() - start, flops = 0;
        for (int i = 0; i < dev->n_threads; i++)
            flops += job.flops[i];
        best = flops / seconds > best ? flops / seconds : best;
    }
    return best;
}
