/* Opening and closing the device, its clock, its latched failure.  Does not know the table of
 * operations, so that a test can open a device and link only what it calls. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/linear_kernels.h"
#include "kernels/cpu/pool.h"

enum { MAX_ROWS = 512 };

/* 20 to 130 ms on two processors, by what they can do. */
static const double CHUNK_FLOPS = 8e9;

static void choose_kernels(struct device *dev)
{
    dev->linear = &linear_kernels_reference;
#if defined(__x86_64__)
    if (dev->isa >= CPU_ISA_AVX2)
        dev->linear = &linear_kernels_avx2;
    if (dev->isa >= CPU_ISA_AVX512)
        dev->linear = &linear_kernels_avx512;
    if (dev->isa >= CPU_ISA_AVX512_BF16 && !dev->exact)
        dev->bf16 = &linear_products_avx512bf16;
#endif
}

struct device *cpu_device_open(const struct device_options *options, char *why, size_t n_why)
{
    static const struct device_options defaults;
    if (!options)
        options = &defaults;
    int n_threads = options->n_threads ? options->n_threads : cpu_pool_available_threads();
    if (n_threads < 1 || n_threads > CPU_MAX_THREADS) {
        snprintf(why, n_why, "%d threads were asked for; give 1 to %d, or 0 for one per processor",
                 options->n_threads, CPU_MAX_THREADS);
        return NULL;
    }
    struct device *dev = calloc(1, sizeof *dev);
    if (!dev) {
        snprintf(why, n_why, "out of memory");
        return NULL;
    }
    atomic_init(&dev->failed, false);
    dev->n_threads = n_threads;
    dev->exact = options->exact;
    dev->isa = cpu_isa_detect(options->isa);
    choose_kernels(dev);
    dev->pool = cpu_pool_start(n_threads);
    if (!dev->pool) {
        snprintf(why, n_why, "%d threads could not be started; try fewer", n_threads);
        free(dev);
        return NULL;
    }
    return dev;
}

void cpu_device_close(struct device *dev)
{
    if (!dev)
        return;
    cpu_pool_stop(dev->pool);
    for (int i = 0; i < CPU_WORKSPACES; i++)
        free(dev->workspace[i].data);
    for (int i = 0; i < CPU_MAX_THREADS; i++)
        free(dev->scratch[i].data);
    free(dev);
}

/* What the system could still give without swapping. */
static uint64_t available_bytes(void)
{
    uint64_t kib = 0;
    char line[128];
    FILE *file = fopen("/proc/meminfo", "r");
    if (file) {
        while (fgets(line, sizeof line, file))
            if (strncmp(line, "MemAvailable:", 13) == 0)
                kib = strtoull(line + 13, NULL, 10);
        fclose(file);
    }
    if (kib)
        return kib * 1024;
#ifdef _SC_AVPHYS_PAGES
    return (uint64_t)sysconf(_SC_AVPHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
#else
    return 0;
#endif
}

void cpu_device_describe(struct device *dev, struct device_info *out)
{
    char processor[64];
    cpu_processor_name(processor, sizeof processor);
    memset(out, 0, sizeof *out);
    snprintf(out->name, sizeof out->name, "%s, %d thread%s, %s", processor, dev->n_threads,
             dev->n_threads == 1 ? "" : "s", cpu_isa_name(dev->isa));
    out->n_threads = dev->n_threads;
    out->total_bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    out->free_bytes = available_bytes();
    out->max_rows = MAX_ROWS;
    out->chunk_flops = CHUNK_FLOPS;
}

void cpu_fail(struct device *dev, const char *sentence)
{
    bool expected = false;
    if (atomic_compare_exchange_strong(&dev->failed, &expected, true))
        snprintf(dev->failure, sizeof dev->failure, "%s", sentence);
}

bool cpu_device_sync(struct device *dev, char *why, size_t n_why)
{
    if (!cpu_failed(dev))
        return true;
    snprintf(why, n_why, "%s", dev->failure);
    atomic_store(&dev->failed, false);
    return false;
}

void cpu_time_mark(struct device *dev, int slot)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    dev->time_us[slot] = (double)now.tv_sec * 1e6 + (double)now.tv_nsec * 1e-3;
}

double cpu_time_between_us(struct device *dev, int from_slot, int to_slot)
{
    return dev->time_us[to_slot] - dev->time_us[from_slot];
}

void cpu_parallel(struct device *dev, int n_tasks,
                  void (*task)(void *user, int task_index, int thread_index), void *user)
{
    cpu_pool_run(dev->pool, n_tasks, task, user);
}
