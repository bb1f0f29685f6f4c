/* Strings being written, and the counting of work that goes with them. */
#include <string.h>
#include <time.h>

#include "engine/base/utf8.h"
#include "engine/text/jinja_run.h"

#define BYTES_PER_STEP 256
#define STEPS_PER_CLOCK 4096

void jinja_charge(struct jinja_run *run, size_t n)
{
    run->steps += n;
    if (run->steps > JINJA_MAX_STEPS)
        jinja_raise(&run->trap, "the template runs for more than %u steps, the limit",
                    JINJA_MAX_STEPS);
    if (run->steps < run->next_clock_step)
        return;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (now.tv_sec * 1000000000LL + now.tv_nsec > run->deadline_ns)
        jinja_raise(&run->trap, "the template runs for more than %d s, the limit",
                    JINJA_MAX_SECONDS);
    run->next_clock_step = run->steps + STEPS_PER_CLOCK;
}

void jinja_descend(struct jinja_run *run)
{
    jinja_charge(run, 1);
    if (++run->depth > JINJA_MAX_EVAL_DEPTH)
        jinja_raise(&run->trap, "values or calls are nested more than %d deep, the limit",
                    JINJA_MAX_EVAL_DEPTH);
}

void jinja_ascend(struct jinja_run *run)
{
    run->depth--;
}

struct jinja_builder jinja_builder_new(struct jinja_run *run)
{
    return (struct jinja_builder){.run = run, .limit_bytes = JINJA_MAX_STRING_BYTES};
}

void jinja_put(struct jinja_builder *b, const char *data, size_t n)
{
    jinja_charge(b->run, n / BYTES_PER_STEP);
    if (n > b->limit_bytes - b->len)
        jinja_raise(&b->run->trap, "%s is longer than %zu MiB, the limit",
                    b->limit_bytes == JINJA_MAX_OUTPUT_BYTES ? "the output" : "a string",
                    b->limit_bytes >> 20);
    if (b->len + n > b->capacity) {
        size_t wanted = (b->len + n) * 2 + 16;
        b->data = jinja_grow(&b->run->arena, b->data, b->capacity, wanted);
        b->capacity = wanted;
    }
    if (n)
        memcpy(b->data + b->len, data, n);
    b->len += n;
}

void jinja_put_text(struct jinja_builder *b, const char *terminated)
{
    jinja_put(b, terminated, strlen(terminated));
}

void jinja_put_code_point(struct jinja_builder *b, uint32_t code_point)
{
    char bytes[4];
    jinja_put(b, bytes, utf8_encode(bytes, code_point));
}

struct jinja_value jinja_built(struct jinja_builder *b)
{
    return jinja_text(b->run, b->data, b->len);
}
