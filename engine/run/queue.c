/* A mutex, two conditions and a ring; an eventfd mirrors "not empty".  Locking costs well under a
 * microsecond a message, which is nothing beside a decode step. */
#include "engine/run/queue.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/memory.h"

struct queue {
    pthread_mutex_t lock;
    pthread_cond_t filled, drained;
    size_t capacity, item_bytes;
    size_t first, n; /* items [first, first + n) modulo capacity */
    bool stopped;
    int fd;
    unsigned char *items; /* [capacity, item_bytes] */
};

struct queue *queue_open(size_t capacity, size_t item_bytes, struct error *err)
{
    assert(capacity > 0 && item_bytes > 0);
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0) {
        fail_code(err, EXIT_CODE_RUNTIME, "cannot open an event descriptor: %s", strerror(errno));
        return NULL;
    }
    struct queue *q = xcalloc(1, sizeof *q);
    q->capacity = capacity;
    q->item_bytes = item_bytes;
    q->fd = fd;
    q->items = xcalloc(capacity, item_bytes);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->filled, &monotonic);
    pthread_cond_init(&q->drained, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return q;
}

void queue_close(struct queue *q)
{
    if (!q)
        return;
    pthread_cond_destroy(&q->drained);
    pthread_cond_destroy(&q->filled);
    pthread_mutex_destroy(&q->lock);
    close(q->fd);
    free(q->items);
    free(q);
}

/* Locked.  An eventfd of 0 or 1: neither call can block or fail. */
static void fd_raise(struct queue *q)
{
    uint64_t one = 1;
    ssize_t written = write(q->fd, &one, sizeof one);
    (void)written;
}

static void fd_lower(struct queue *q)
{
    uint64_t count;
    ssize_t got = read(q->fd, &count, sizeof count);
    (void)got;
}

bool queue_push(struct queue *q, const void *item)
{
    pthread_mutex_lock(&q->lock);
    while (q->n == q->capacity && !q->stopped)
        pthread_cond_wait(&q->drained, &q->lock);
    bool ok = !q->stopped;
    if (ok) {
        size_t slot = (q->first + q->n) % q->capacity;
        memcpy(q->items + slot * q->item_bytes, item, q->item_bytes);
        if (q->n++ == 0)
            fd_raise(q);
        pthread_cond_signal(&q->filled);
    }
    pthread_mutex_unlock(&q->lock);
    return ok;
}

/* Locked. */
static bool take(struct queue *q, void *out)
{
    if (q->n == 0)
        return false;
    memcpy(out, q->items + q->first * q->item_bytes, q->item_bytes);
    q->first = (q->first + 1) % q->capacity;
    if (--q->n == 0)
        fd_lower(q);
    pthread_cond_signal(&q->drained);
    return true;
}

bool queue_take(struct queue *q, void *out)
{
    pthread_mutex_lock(&q->lock);
    bool ok = take(q, out);
    pthread_mutex_unlock(&q->lock);
    return ok;
}

static struct timespec deadline_after(int timeout_ms)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += timeout_ms / 1000;
    at.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (at.tv_nsec >= 1000000000) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000;
    }
    return at;
}

bool queue_wait(struct queue *q, void *out, int timeout_ms)
{
    struct timespec deadline = deadline_after(timeout_ms > 0 ? timeout_ms : 0);
    int waited = 0;
    pthread_mutex_lock(&q->lock);
    while (q->n == 0 && !q->stopped && waited != ETIMEDOUT)
        waited = timeout_ms < 0 ? pthread_cond_wait(&q->filled, &q->lock)
                                : pthread_cond_timedwait(&q->filled, &q->lock, &deadline);
    bool ok = take(q, out);
    pthread_mutex_unlock(&q->lock);
    return ok;
}

void queue_stop(struct queue *q)
{
    pthread_mutex_lock(&q->lock);
    q->stopped = true;
    pthread_cond_broadcast(&q->filled);
    pthread_cond_broadcast(&q->drained);
    pthread_mutex_unlock(&q->lock);
}

int queue_fd(const struct queue *q)
{
    return q->fd;
}
