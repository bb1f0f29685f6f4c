/* The monotonic clock that events and host-side timings share. */
#ifndef ATTNSCOPE_ENGINE_RUN_CLOCK_H
#define ATTNSCOPE_ENGINE_RUN_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline int64_t clock_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

#endif
