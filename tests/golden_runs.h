/* Whole runs of stacks held against the reference project's masks and outputs, as
 * tests/golden/README.md says how: exact columns, but for ties and for rows whose candidates ran
 * out (there the reference marks keys that the row cannot see, or that it has marked before). */
#ifndef ATTNSCOPE_TESTS_GOLDEN_RUNS_H
#define ATTNSCOPE_TESTS_GOLDEN_RUNS_H

#include "engine/attention/attention_case.h"
#include "tests/golden_checker.h"

#define TIE_TOLERANCE 1e-6 /* of the scores' size: the reference's f32 products round */

/* --- Rows of a mask ------------------------------------------------------------------------- */

static inline void spread(uint8_t *marks, const struct golden_mask *m, size_t row, int n_keys)
{
    memset(marks, 0, (size_t)n_keys);
    for (int64_t at = m->ptr[row]; at < m->ptr[row + 1]; at++) {
        assert_in_range(m->col[at], 0, n_keys - 1);
        marks[m->col[at]] = 1;
    }
}

static inline size_t row_index(const struct compared_row *r)
{
    size_t head = (size_t)r->b * (size_t)r->in->n_heads + (size_t)r->head;
    return head * (size_t)r->in->n_rows + (size_t)r->i;
}

/* True if ours and theirs differ only in visible keys of one score, and in as many. */
static inline bool differ_by_ties(const struct checker *c, const struct compared_row *r,
                                  const uint8_t *ours, const uint8_t *theirs)
{
    double low = INFINITY, high = -INFINITY, size = 1;
    int more = 0;
    for (int key = 0; key < r->in->n_keys; key++) {
        if (!is_visible(r, key))
            continue;
        double score = c->scores ? c->scores[row_index(r) * (size_t)r->in->n_keys + (size_t)key]
                                 : golden_score(r->in, r->b, r->head, r->i, key);
        size = fmax(size, fabs(score));
        if (ours[key] == theirs[key])
            continue;
        more += ours[key] - theirs[key];
        low = fmin(low, score);
        high = fmax(high, score);
    }
    return more == 0 && high - low <= TIE_TOLERANCE * size;
}

static inline void compare_row(struct checker *c, const struct compared_row *r, const uint8_t *ours,
                               const uint8_t *theirs, bool compat)
{
    int n_keys = r->in->n_keys, n_visible_left = 0, differs = -1, hidden_differs = -1;
    for (int key = 0; key < n_keys; key++) {
        bool visible = is_visible(r, key);
        n_visible_left += visible && !ours[key];
        if (!visible && !compat && ours[key])
            fail_msg("%s row %d,%d,%d: key %d cannot be seen", r->key, r->b, r->head, r->i, key);
        if (ours[key] == theirs[key])
            continue;
        if (visible)
            differs = key;
        else if (compat)
            hidden_differs = key;
    }
    c->n_rows++;
    if (differs >= 0) {
        if (!differ_by_ties(c, r, ours, theirs))
            fail_msg("%s row %d,%d,%d: key %d: got %d, want %d, and it is no tie", r->key, r->b,
                     r->head, r->i, differs, ours[differs], theirs[differs]);
        c->tied[row_index(r)] = 1;
        c->n_ties++;
    }
    if (hidden_differs >= 0) {
        if (n_visible_left || ours[hidden_differs])
            fail_msg("%s row %d,%d,%d: hidden key %d: got %d, want %d", r->key, r->b, r->head, r->i,
                     hidden_differs, ours[hidden_differs], theirs[hidden_differs]);
        c->n_exhausted++;
    }
}

static inline void compare_masks(struct checker *c, const char *key,
                                 const struct attention_input *in, const struct golden_mask *ours,
                                 const struct golden_mask *theirs, bool compat)
{
    uint8_t *a = xcalloc((size_t)in->n_keys, 1), *b = xcalloc((size_t)in->n_keys, 1);
    size_t row = 0;
    for (int batch = 0; batch < in->n_batch; batch++)
        for (int head = 0; head < in->n_heads; head++)
            for (int i = 0; i < in->n_rows; i++, row++) {
                struct compared_row r = {key, batch, head, i, in};
                spread(a, ours, row, in->n_keys);
                spread(b, theirs, row, in->n_keys);
                compare_row(c, &r, a, b, compat);
            }
    free(a);
    free(b);
}

/* out [D] = softmax(q k / sqrt(D)) v over the keys that are marked, in double. */
static inline void attend_marked(const struct compared_row *r, const uint8_t *marks, float *out)
{
    const struct attention_input *in = r->in;
    size_t dim = (size_t)in->head_dim, kv = (size_t)(r->head / (in->n_heads / in->n_kv_heads));
    const float *v =
        in->v + ((size_t)r->b * (size_t)in->n_kv_heads + kv) * (size_t)in->n_keys * dim;
    double sum = 0, *weights = xcalloc((size_t)in->n_keys, sizeof *weights);
    for (int key = 0; key < in->n_keys; key++) {
        if (marks[key] && is_visible(r, key))
            weights[key] = exp(golden_score(in, r->b, r->head, r->i, key) / sqrt((double)dim));
        sum += weights[key];
    }
    for (size_t d = 0; d < dim; d++) {
        double x = 0;
        for (int key = 0; key < in->n_keys; key++)
            x += weights[key] * v[(size_t)key * dim + d];
        out[d] = (float)(x / sum);
    }
    free(weights);
}

/* Where keys tie, the output is that of the keys that we chose: want [B, Q, H, D] becomes it. */
static inline void expect_tied_rows(const struct checker *c, const struct attention_input *in,
                                    const struct golden_mask *ours, float *want)
{
    uint8_t *marks = xcalloc((size_t)in->n_keys, 1);
    for (int b = 0; b < in->n_batch; b++)
        for (int head = 0; head < in->n_heads; head++)
            for (int i = 0; i < in->n_rows; i++) {
                struct compared_row r = {"", b, head, i, in};
                size_t at = ((size_t)b * (size_t)in->n_rows + (size_t)i) * (size_t)in->n_heads +
                            (size_t)head;
                if (!c->tied[row_index(&r)])
                    continue;
                spread(marks, ours, row_index(&r), in->n_keys);
                attend_marked(&r, marks, want + at * (size_t)in->head_dim);
            }
    free(marks);
}

/* --- Whole runs through attention_case_run -------------------------------------------------- */

struct run_result {
    struct golden_mask mask;
    float *out;
    bool full, empty;
};

static inline struct run_result run_case(struct checker *c, const struct stack *stack,
                                         const char *name, bool compat)
{
    char path[512];
    snprintf(path, sizeof path, "%s", temp_path(&c->folder, "out.safetensors"));
    struct attention_case_options options = {.tensors = GOLDEN "inputs.safetensors",
                                             .name = name,
                                             .out = path,
                                             .stack = stack,
                                             .compat = compat,
                                             .backend = test_backend(),
                                             .n_threads = 1};
    struct error err = {0};
    if (!attention_case_run(&options, &err))
        fail_msg("%s: %s", name, err.text);
    struct safetensors *file = golden_open(path);
    struct run_result r = {golden_mask_read(file, ""), golden_f32(file, "", "out"), false, false};
    int64_t *full = golden_ints(file, "", "full"), *empty = golden_ints(file, "", "empty");
    r.full = full[0] != 0;
    r.empty = empty[0] != 0;
    free(full);
    free(empty);
    safetensors_close(file);
    return r;
}

static inline void run_result_free(struct run_result *r)
{
    golden_mask_free(&r->mask);
    free(r->out);
}

static inline bool parse_config(struct stack *out, const struct json *run, struct error *err)
{
    return stack_from_json(out, json_get(run, "config"), "config", err);
}

/* A budget of no keys: the reference's mask is all zeros, ours a no-op and so dense (deviation D5
 * of the specification). */
static inline bool selects_nothing(const struct json *run)
{
    const struct json *mask = json_get(run, "mask"), *nnz = json_get(mask, "nnz");
    return nnz && json_number(nnz, -1) == 0;
}

/* Writes a run's networks as our weights files have them, layer 0. */
static inline void write_networks(const struct safetensors *file, const char *tag, const char *path)
{
    static const char *const sides[] = {"query", "key"};
    static const char *const parts[] = {"matrix", "bias"};
    struct safetensors_out out[4 * HASH_MAX_LINEARS];
    char names[4 * HASH_MAX_LINEARS][32], part[64];
    struct error err = {0};
    size_t n = 0;
    for (int i = 0; i < 4 * HASH_MAX_LINEARS; i++) {
        int linear = i / 4, side = i / 2 % 2, bias = i % 2;
        snprintf(part, sizeof part, "w/%s_%s%d", sides[side], parts[bias], linear);
        const struct safetensor *t = golden_find(file, tag, part);
        if (!t)
            continue;
        snprintf(names[n], sizeof names[n], "layer.0.%c.%c%d", sides[side][0], "Wb"[bias], linear);
        out[n] =
            (struct safetensors_out){names[n], "F32", t->n_dims, {0}, golden_f32(file, tag, part)};
        memcpy(out[n].shape, t->shape, sizeof out[n].shape);
        n++;
    }
    if (!safetensors_write(path, out, n, &err))
        fail_msg("%s", err.text);
    for (size_t i = 0; i < n; i++)
        free((void *)out[i].data);
}

/* Runs from here on have networks TAG of a file, until masker_file[0] is 0 again. */
static inline void take_networks(struct checker *c, const struct safetensors *file, const char *tag)
{
    snprintf(c->masker_file, sizeof c->masker_file, "%s",
             temp_path(&c->folder, "networks.safetensors"));
    write_networks(file, tag, c->masker_file);
}

/* Runs from here on have the planes of run KEY of a file. */
static inline void take_planes(struct checker *c, const struct safetensors *file, const char *key)
{
    const struct safetensor *t = golden_find(file, key, "planes");
    struct error err = {0};
    assert_non_null(t);
    float *planes = golden_f32(file, key, "planes");
    struct safetensors_out out = {"planes", "F32", t->n_dims, {0}, planes};
    memcpy(out.shape, t->shape, sizeof out.shape);
    snprintf(c->masker_file, sizeof c->masker_file, "%s",
             temp_path(&c->folder, "planes.safetensors"));
    if (!safetensors_write(c->masker_file, &out, 1, &err))
        fail_msg("%s", err.text);
    free(planes);
}

/* TAG of a run's key TAG/NAME. */
static inline void run_tag(char tag[128], const char *key)
{
    snprintf(tag, 128, "%.*s", (int)(strrchr(key, '/') - key), key);
}

static inline void use_masker_file(struct stack *stack, const char *path)
{
    struct error err = {0};
    for (int i = 0; i < stack->n; i++) {
        struct stack_item *item = &stack->items[i];
        for (int j = 0; j < item->masker->n_params; j++)
            if (item->masker->params[j].kind == PARAM_PATH &&
                !masker_value_parse(item->masker, &item->values, j, path, &err))
                fail_msg("%s", err.text);
    }
}

static inline void check_run(struct checker *c, const struct json *run,
                             const struct safetensors *file, bool compat)
{
    const char *key = json_string(json_get(run, "key")), *name = json_string(json_get(run, "case"));
    const struct json *mask = json_get(run, "mask");
    struct error err = {0};
    struct stack stack;
    if (!parse_config(&stack, run, &err))
        fail_msg("%s: %s", key, err.text);
    if (c->masker_file[0])
        use_masker_file(&stack, c->masker_file);
    struct attention_input in = golden_input(name);
    struct run_result ours = run_case(c, &stack, name, compat);
    c->tied = xcalloc(n_outputs(&in), 1);
    bool nothing = selects_nothing(run);
    if (ours.full != (json_bool(json_get(mask, "full"), false) || nothing) ||
        ours.empty != json_bool(json_get(mask, "empty"), false))
        fail_msg("%s: got full %d, empty %d", key, ours.full, ours.empty);
    if (!ours.full && !ours.empty) {
        struct golden_mask theirs = golden_mask_read(file, key);
        assert_non_null(ours.mask.ptr);
        compare_masks(c, key, &in, &ours.mask, &theirs, compat);
        golden_mask_free(&theirs);
    }
    float *want = golden_f32(file, key, "out");
    if (!want || nothing) { /* dense */
        free(want);
        struct safetensors *inputs = golden_open(GOLDEN "inputs.safetensors");
        want = golden_f32(inputs, name, "dense_out");
        safetensors_close(inputs);
    }
    if (ours.mask.ptr)
        expect_tied_rows(c, &in, &ours.mask, want);
    compare_out(key, ours.out, want, n_outputs(&in));
    free(want);
    free(c->tied);
    run_result_free(&ours);
    attention_input_free(&in);
    c->n_runs++;
}

static inline void check_section(struct checker *c, const char *name, int n_runs)
{
    char path[512];
    snprintf(path, sizeof path, GOLDEN "%s.safetensors", name);
    struct safetensors *file = golden_open(path);
    const struct json *runs = json_get(golden_section(c->manifest, name), "runs");
    c->n_runs = c->n_rows = c->n_ties = c->n_exhausted = 0;
    for (const struct json *run = json_first(runs); run; run = json_next(run)) {
        check_run(c, run, file, false);
        check_run(c, run, file, true);
    }
    safetensors_close(file);
    print_message("%s: %d runs, %d rows, %d with ties, %d exhausted\n", name, c->n_runs, c->n_rows,
                  c->n_ties, c->n_exhausted);
    assert_int_equal(c->n_runs, 2 * n_runs);
}

#endif
