/* The decode that the reference recorded: five queries over 197 keys, then one over one more each.
 */
#ifndef ATTNSCOPE_TESTS_GOLDEN_DECODE_H
#define ATTNSCOPE_TESTS_GOLDEN_DECODE_H

#include "tests/golden_checker.h"

enum { DECODE_STEPS = 4, FIRST_KEYS = 197 };

struct decode_data {
    struct safetensors *file;
    struct attention_input whole; /* the rows of step 0; the keys of the last step */
    float *new_queries;           /* [DECODE_STEPS - 1, n_heads, head_dim] */
};

static inline struct decode_data decode_data_open(void)
{
    struct decode_data d = {golden_open(GOLDEN "decode_state.safetensors"),
                            golden_input("gqa_q5_k200"), NULL};
    d.new_queries = golden_f32(d.file, "", "new_queries");
    return d;
}

static inline void decode_data_close(struct decode_data *d)
{
    attention_input_free(&d->whole);
    free(d->new_queries);
    safetensors_close(d->file);
}

static inline const struct json *decode_run(const struct checker *c, const char *key)
{
    const struct json *runs = json_get(golden_section(c->manifest, "decode_state"), "runs");
    const struct json *run = json_first(runs);
    while (run && strcmp(json_string(json_get(run, "key")), key) != 0)
        run = json_next(run);
    assert_non_null(run);
    return run;
}

/* Five queries over 197 keys, then one over one more each; the caller frees. */
static inline struct attention_input decode_input(const struct decode_data *d, int step)
{
    const struct attention_input *whole = &d->whole;
    struct attention_input in = *whole;
    size_t row = (size_t)in.n_heads * (size_t)in.head_dim, dim = (size_t)in.head_dim;
    in.n_rows = step ? 1 : whole->n_rows;
    in.n_keys = FIRST_KEYS + step;
    size_t n = (size_t)in.n_keys * dim;
    in.q = xcalloc((size_t)in.n_rows * row, sizeof *in.q);
    in.k = xcalloc((size_t)in.n_kv_heads * n, sizeof *in.k);
    in.v = xcalloc((size_t)in.n_kv_heads * n, sizeof *in.v);
    in.first_key = xcalloc(1, sizeof *in.first_key);
    memcpy(in.q, step ? d->new_queries + (size_t)(step - 1) * row : whole->q,
           (size_t)in.n_rows * row * sizeof *in.q);
    for (size_t head = 0; head < (size_t)in.n_kv_heads; head++) {
        memcpy(in.k + head * n, whole->k + head * (size_t)whole->n_keys * dim, n * sizeof *in.k);
        memcpy(in.v + head * n, whole->v + head * (size_t)whole->n_keys * dim, n * sizeof *in.v);
    }
    return in;
}

#endif
