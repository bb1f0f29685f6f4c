/* The thread pool of the cpu backend: one caller, n - 1 workers, dynamic tasks.
 *
 * Workers spin for about 50 us after the last job, because in decode the next one is microseconds
 * away, and then sleep, so that an idle program uses no processor time. */
#ifndef ATTNSCOPE_KERNELS_CPU_POOL_H
#define ATTNSCOPE_KERNELS_CPU_POOL_H

#include <stdbool.h>

struct cpu_pool;

typedef void cpu_task(void *user, int task_index, int thread_index);

/* Threads that this process may run on. */
int cpu_pool_available_threads(void);

/* Starts n_threads - 1 workers, each kept to one of the available processors where the system
 * allows it.  NULL if they cannot be started. */
struct cpu_pool *cpu_pool_start(int n_threads);
/* Waits for the workers to end.  NULL is allowed. */
void cpu_pool_stop(struct cpu_pool *pool);

/* Runs task(user, i, thread) for i in [0, n_tasks); returns when all are done.  The caller works
 * as thread 0.  One caller at a time; not from inside a task. */
void cpu_pool_run(struct cpu_pool *pool, int n_tasks, cpu_task *task, void *user);

#endif
