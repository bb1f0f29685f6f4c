/* A bounded first-in first-out queue between two threads; items move by value.
 *
 * A push waits while the queue is full, so nothing is ever dropped; queue_stop ends every wait.
 * The queue's descriptor is readable while items wait, so that a consumer can poll() it. */
#ifndef ATTNSCOPE_ENGINE_RUN_QUEUE_H
#define ATTNSCOPE_ENGINE_RUN_QUEUE_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/error.h"

struct queue;

/* Holds capacity items of item_bytes each.  NULL if the system has no descriptor left. */
struct queue *queue_open(size_t capacity, size_t item_bytes, struct error *err);
/* Frees it with the bytes of what still waits; no thread may be inside a call.  NULL is allowed. */
void queue_close(struct queue *q);

/* Waits for room and appends a copy of item.  False, and nothing is appended, once stopped. */
bool queue_push(struct queue *q, const void *item);
/* Takes the oldest item without waiting; false if there is none. */
bool queue_take(struct queue *q, void *out);
/* As queue_take, but waits up to timeout_ms (-1: for ever) for an item.  After queue_stop it gives
 * what is left and then returns false at once. */
bool queue_wait(struct queue *q, void *out, int timeout_ms);
/* Ends all waiting, for good.  Any thread, any number of times. */
void queue_stop(struct queue *q);

/* Readable while items wait; belongs to the queue. */
int queue_fd(const struct queue *q);

#endif
