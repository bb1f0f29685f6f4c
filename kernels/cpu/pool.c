/* A job is published in one 64-bit word: how many tasks it has and which is next.  A thread claims
 * a task by advancing that word, and reads what to run only after its claim: the job cannot change
 * while a claimed task is not done.  A worker that comes late finds nothing to claim, so nobody
 * waits for it. */
#include "kernels/cpu/pool.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels/cpu/cpu.h"

#define SPIN_NS 50000  /* how long an idle worker waits before it sleeps */
#define YIELD_NS 20000 /* how long the caller waits for the last tasks before it yields */

struct worker {
    struct cpu_pool *pool;
    pthread_t thread;
    int index; /* as given to tasks; the caller is 0 */
};

struct cpu_pool {
    _Alignas(CPU_ALIGN) atomic_uint_fast64_t ticket; /* n_tasks << 32 | next task */
    _Alignas(CPU_ALIGN) atomic_int n_done;
    _Alignas(CPU_ALIGN) cpu_task *task; /* of the current job; published by ticket */
    void *user;
    atomic_int n_asleep;
    atomic_bool stopping;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    int n_workers;
    struct worker workers[];
};

static inline void pause_briefly(void)
{
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline bool has_task(uint64_t ticket)
{
    return (uint32_t)ticket < ticket >> 32;
}

/* Claims tasks and runs them until there is none left. */
static void work(struct cpu_pool *pool, int thread_index)
{
    uint64_t ticket = atomic_load_explicit(&pool->ticket, memory_order_acquire);
    while (has_task(ticket)) {
        if (!atomic_compare_exchange_weak_explicit(&pool->ticket, &ticket, ticket + 1,
                                                   memory_order_acq_rel, memory_order_acquire))
            continue;
        pool->task(pool->user, (int)(uint32_t)ticket, thread_index);
        atomic_fetch_add_explicit(&pool->n_done, 1, memory_order_release);
        ticket = atomic_load_explicit(&pool->ticket, memory_order_acquire);
    }
}

static bool wait_spinning(struct cpu_pool *pool)
{
    int64_t end = now_ns() + SPIN_NS;
    do {
        for (int i = 0; i < 32; i++) {
            if (has_task(atomic_load_explicit(&pool->ticket, memory_order_relaxed)))
                return true;
            pause_briefly();
        }
        if (atomic_load_explicit(&pool->stopping, memory_order_relaxed))
            return false;
    } while (now_ns() < end);
    return false;
}

/* The count goes up before the ticket is looked at, and the caller publishes the ticket before it
 * looks at the count: one of the two sees the other. */
static void wait_asleep(struct cpu_pool *pool)
{
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->n_asleep, 1);
    while (!has_task(atomic_load(&pool->ticket)) && !atomic_load(&pool->stopping))
        pthread_cond_wait(&pool->wake, &pool->mutex);
    atomic_fetch_sub(&pool->n_asleep, 1);
    pthread_mutex_unlock(&pool->mutex);
}

static void *worker_main(void *argument)
{
    struct worker *worker = argument;
    struct cpu_pool *pool = worker->pool;
    while (!atomic_load_explicit(&pool->stopping, memory_order_relaxed)) {
        work(pool, worker->index);
        if (!wait_spinning(pool))
            wait_asleep(pool);
    }
    return NULL;
}

int cpu_pool_available_threads(void)
{
    int n = 0;
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        n = CPU_COUNT(&set);
#endif
    if (n <= 0)
        n = (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (n < 1)
        n = 1;
    return n < CPU_MAX_THREADS ? n : CPU_MAX_THREADS;
}

/* Keeps a worker to the index-th processor of those available; without success it floats. */
static void pin(struct worker *worker)
{
#ifdef __linux__
    cpu_set_t available, one;
    if (sched_getaffinity(0, sizeof available, &available) != 0)
        return;
    if (worker->index >= CPU_COUNT(&available))
        return;
    int seen = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &available) || seen++ != worker->index)
            continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        pthread_setaffinity_np(worker->thread, sizeof one, &one);
        return;
    }
#else
    (void)worker;
#endif
}

struct cpu_pool *cpu_pool_start(int n_threads)
{
    assert(n_threads >= 1 && n_threads <= CPU_MAX_THREADS);
    size_t n_bytes =
        sizeof(struct cpu_pool) + (size_t)(n_threads - 1) * sizeof(struct worker) + CPU_ALIGN;
    struct cpu_pool *pool = aligned_alloc(CPU_ALIGN, n_bytes / CPU_ALIGN * CPU_ALIGN);
    if (!pool)
        return NULL;
    atomic_init(&pool->ticket, 0);
    atomic_init(&pool->n_done, 0);
    atomic_init(&pool->n_asleep, 0);
    atomic_init(&pool->stopping, false);
    pool->task = NULL;
    pool->user = NULL;
    pool->n_workers = 0;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    for (int i = 1; i < n_threads; i++) {
        struct worker *worker = &pool->workers[pool->n_workers];
        worker->pool = pool;
        worker->index = i;
        if (pthread_create(&worker->thread, NULL, worker_main, worker) != 0) {
            cpu_pool_stop(pool);
            return NULL;
        }
        pool->n_workers++;
        pin(worker);
    }
    return pool;
}

void cpu_pool_stop(struct cpu_pool *pool)
{
    if (!pool)
        return;
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->stopping, true);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    for (int i = 0; i < pool->n_workers; i++)
        pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->mutex);
    free(pool);
}

static void wait_for_others(struct cpu_pool *pool, int n_tasks)
{
    int64_t yield_from = 0;
    while (atomic_load_explicit(&pool->n_done, memory_order_acquire) != n_tasks) {
        for (int i = 0; i < 32; i++)
            pause_briefly();
        int64_t now = now_ns();
        if (!yield_from)
            yield_from = now + YIELD_NS;
        else if (now > yield_from)
            sched_yield();
    }
}

void cpu_pool_run(struct cpu_pool *pool, int n_tasks, cpu_task *task, void *user)
{
    if (n_tasks <= 1 || pool->n_workers == 0) {
        for (int i = 0; i < n_tasks; i++)
            task(user, i, 0);
        return;
    }
    pool->task = task;
    pool->user = user;
    atomic_store_explicit(&pool->n_done, 0, memory_order_relaxed);
    atomic_store(&pool->ticket, (uint64_t)n_tasks << 32);
    if (atomic_load(&pool->n_asleep) > 0) {
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->mutex);
    }
    work(pool, 0);
    wait_for_others(pool, n_tasks);
}
