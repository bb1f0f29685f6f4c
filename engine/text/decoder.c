/* The chain of a decoder: loading it and passing text along it. */
#include "engine/text/decoder.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/text/decoder_parts.h"
#include "engine/text/fields.h"

struct decoder {
    struct decoder_step steps[MAX_DECODER_STEPS];
    int n_steps;
};

static struct decoder_step *add_step(struct decoder *d, const struct decoder_kind *kind)
{
    struct decoder_step *step = &d->steps[d->n_steps++];
    step->kind = kind;
    return step;
}

static bool add_steps(struct decoder *d, const struct json *v, struct error *err);

static bool add_sequence(struct decoder *d, const struct json *v, struct error *err)
{
    const struct json *list = json_get(v, "decoders");
    if (!json_is_array(list))
        return fail(err, "Sequence: \"decoders\" is not a list");
    for (const struct json *item = json_first(list); item; item = json_next(item))
        if (!add_steps(d, item, err))
            return false;
    return true;
}

static bool add_steps(struct decoder *d, const struct json *v, struct error *err)
{
    const char *type = field_type(v, "decoder", err);
    if (!type)
        return false;
    if (strcmp(type, "Sequence") == 0)
        return add_sequence(d, v, err);
    for (int i = 0; i < decoder_kinds_n; i++) {
        const struct decoder_kind *kind = &decoder_kinds[i];
        if (strcmp(type, kind->type) != 0)
            continue;
        if (d->n_steps == MAX_DECODER_STEPS)
            return fail(err, "more than %d steps", MAX_DECODER_STEPS);
        struct decoder_step *step = add_step(d, kind);
        return !kind->load || kind->load(step, v, err) || fail_prefix(err, "%s", type);
    }
    return fail(err, "unknown type \"%.60s\"", type);
}

struct decoder *decoder_load(const struct json *v, struct error *err)
{
    struct decoder *d = xcalloc(1, sizeof *d);
    if (json_is_null(v)) {
        add_step(d, &decoder_join);
        return d;
    }
    if (add_steps(d, v, err))
        return d;
    fail_prefix(err, "decoder");
    decoder_free(d);
    return NULL;
}

struct decoder *decoder_byte_level(void)
{
    struct decoder *d = xcalloc(1, sizeof *d);
    for (int i = 0; i < decoder_kinds_n; i++)
        if (strcmp(decoder_kinds[i].type, "ByteLevel") == 0)
            add_step(d, &decoder_kinds[i]);
    return d;
}

void decoder_free(struct decoder *d)
{
    if (!d)
        return;
    for (int i = 0; i < d->n_steps; i++) {
        pattern_free(d->steps[i].pattern);
        free(d->steps[i].content);
    }
    free(d);
}

struct decoder_run *decoder_run_new(const struct decoder *d)
{
    struct decoder_run *run = xcalloc(1, sizeof *run);
    run->decoder = d;
    run->states = xcalloc((size_t)d->n_steps, sizeof *run->states);
    return run;
}

static void clear_states(struct decoder_run *run)
{
    for (int i = 0; i < run->decoder->n_steps; i++) {
        buf_free(&run->states[i].held);
        buf_free(&run->states[i].bytes);
        run->states[i] = (struct decoder_state){0};
    }
}

void decoder_run_free(struct decoder_run *run)
{
    if (!run)
        return;
    clear_states(run);
    free(run->states);
    free(run);
}

const struct decoder_step *decoder_step_at(const struct decoder_run *run, int i)
{
    return &run->decoder->steps[i];
}

void decoder_text(struct decoder_run *run, int i, const char *s, size_t n)
{
    if (!n)
        return;
    if (i == run->decoder->n_steps)
        buf_append(run->out, s, n);
    else
        run->decoder->steps[i].kind->text(run, i, s, n);
}

void decoder_end(struct decoder_run *run, int i)
{
    if (i < run->decoder->n_steps)
        run->decoder->steps[i].kind->end(run, i);
}

void decoder_run_token(struct decoder_run *run, const char *text, size_t n, struct buf *out)
{
    run->out = out;
    decoder_text(run, 0, text, n);
    decoder_end(run, 0);
}

void decoder_run_finish(struct decoder_run *run, struct buf *out)
{
    run->out = out;
    for (int i = 0; i < run->decoder->n_steps; i++)
        run->decoder->steps[i].kind->finish(run, i);
    clear_states(run);
}
