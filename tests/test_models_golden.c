/* Every family against the reference's own numbers: tiny checkpoints whose logits and greedy
 * continuation were computed by transformers in float32 (tests/golden/README.md). */
#include "engine/model/model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/kv_cache.h"
#include "engine/model/safetensors.h"
#include "tests/test_backend.h"

#include <cmocka.h>

enum { N_INPUT = 96, N_POSITIONS = 6, N_GREEDY = 24, CHUNK = 7 };
#ifdef __SANITIZE_ADDRESS__
enum { MAX_PROMPT = 1024 };
#else
enum { MAX_PROMPT = 4096 };
#endif

/* Of the logits' standard deviation.  Both sides compute in f32, in another order of sums; the cuda
 * backend also takes sines and exponentials from another library. */
static const double CPU_TOLERANCE = 1e-4, CUDA_TOLERANCE = 1e-3;

static double tolerance(void)
{
    return test_backend_is_cpu() ? CPU_TOLERANCE : CUDA_TOLERANCE;
}

static const char *const names[] = {
    "llama", "llama-bias", "llama-linear-rope", "llama3-rope", "mistral", "qwen2", "qwen3", "gpt2"};
enum { N_NAMES = sizeof names / sizeof *names };

static const struct backend *backend;
static struct device *dev;

struct reference {
    int64_t input_ids[N_INPUT], positions[N_POSITIONS], greedy[N_GREEDY];
    float *logits; /* [N_POSITIONS, vocab_size] */
};

/* One sequence being computed: a context, a tail, and what a call needs. */
struct run {
    struct model *m;
    struct kv_cache context;
    struct kv_tail tail;
    struct forward_buffers *buffers;
    int32_t *tokens;         /* [N_INPUT] (device) */
    struct step_state *step; /* (device) */
    float *logits;           /* [N_INPUT, vocab_size] (device) */
    struct step_state now;
};

static void model_path(char *out, size_t n, const char *name, const char *file)
{
    snprintf(out, n, "%s/tests/golden/models/%s%s", ATTNSCOPE_SOURCE_DIR, name, file);
}

static void read_reference(struct reference *out, const char *name, int vocab_size)
{
    char path[512];
    struct error err = {0};
    model_path(path, sizeof path, name, "/reference.safetensors");
    struct safetensors *s = safetensors_open(path, &err);
    if (!s)
        fail_msg("%s", err.text);
    out->logits = calloc((size_t)N_POSITIONS * (size_t)vocab_size, sizeof *out->logits);
    if (!safetensors_read_i64(s, safetensors_find(s, "input_ids"), out->input_ids, &err) ||
        !safetensors_read_i64(s, safetensors_find(s, "logits_positions"), out->positions, &err) ||
        !safetensors_read_i64(s, safetensors_find(s, "greedy"), out->greedy, &err) ||
        !safetensors_read_f32(s, safetensors_find(s, "logits"), out->logits, &err))
        fail_msg("%s", err.text);
    safetensors_close(s);
}

/* m is taken. */
static struct run start_model(struct model *m, int n_context, int n_tail, enum dtype kv_dtype)
{
    struct error err = {0};
    struct run r = {.m = m};
    if (!kv_cache_open(&r.context, backend, dev, &m->config, kv_dtype, n_context, &err) ||
        !kv_cache_open(&r.tail.cache, backend, dev, &m->config, kv_dtype, n_tail, &err))
        fail_msg("%s", err.text);
    r.buffers = forward_buffers_open(m, N_INPUT, n_context + n_tail, &err);
    if (!r.buffers)
        fail_msg("%s", err.text);
    r.tokens = backend->alloc(dev, N_INPUT * sizeof *r.tokens);
    r.step = backend->alloc(dev, sizeof *r.step);
    r.logits =
        backend->alloc(dev, (size_t)N_INPUT * (size_t)m->config.vocab_size * sizeof *r.logits);
    return r;
}

static struct run start(const char *name)
{
    char path[512];
    struct error err = {0};
    model_path(path, sizeof path, name, "");
    struct model *m = model_load(path, backend, dev, NULL, &err);
    if (!m)
        fail_msg("%s", err.text);
    /* The recorded runs cast whole models to bf16 and back, and with them the rotary frequencies;
     * the embedded model below is held to its reference without. */
    model_round_frequencies(m);
    return start_model(m, N_INPUT, N_GREEDY, DTYPE_F32);
}

static void finish(struct run *r)
{
    backend->release(dev, r->tokens);
    backend->release(dev, r->step);
    backend->release(dev, r->logits);
    forward_buffers_close(r->buffers);
    kv_cache_close(&r->context);
    kv_cache_close(&r->tail.cache);
    model_close(r->m);
}

/* Runs ids [n] after what was run before; logits [n, vocab_size] (host). */
static void forward(struct run *r, const int64_t *ids, int n, bool to_tail, float *logits)
{
    int32_t tokens[N_INPUT];
    for (int i = 0; i < n; i++)
        tokens[i] = (int32_t)ids[i];
    r->now.append_tail = to_tail;
    backend->upload(dev, r->tokens, tokens, (size_t)n * sizeof *tokens);
    backend->upload(dev, r->step, &r->now, sizeof r->now);
    const struct forward_call call = {.buffers = r->buffers,
                                      .tokens = r->tokens,
                                      .n_rows = n,
                                      .context = &r->context,
                                      .tail = to_tail ? &r->tail : NULL,
                                      .step = r->step,
                                      .max_keys = r->now.n_context + r->now.n_tail + n};
    model_forward(r->m, &call, r->logits, n);
    char why[256];
    if (!backend->sync(dev, why, sizeof why))
        fail_msg("%s", why);
    backend->download(dev, logits, r->logits,
                      (size_t)n * (size_t)r->m->config.vocab_size * sizeof *logits);
    *(to_tail ? &r->now.n_tail : &r->now.n_context) += n;
    r->now.step++;
}

static double deviation(const float *x, size_t n)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) {
        sum += x[i];
        squares += (double)x[i] * x[i];
    }
    return sqrt(squares / (double)n - sum / (double)n * (sum / (double)n));
}

static void expect_close(const char *name, const char *how, const float *got, const float *want,
                         size_t n, double limit)
{
    double worst = 0;
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - want[i]) <= worst))
            worst = fabs((double)got[i] - want[i]);
    if (!(worst <= limit))
        fail_msg("%s, %s: worst difference %g, want at most %g", name, how, worst, limit);
}

static int argmax(const float *x, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return best;
}

/* Prefill in pieces of chunk tokens, held against the reference; then greedy decoding. */
static void check_model(const char *name, int chunk, bool decode_to_tail)
{
    char how[64];
    snprintf(how, sizeof how, "chunks of %d", chunk);
    struct run r = start(name);
    int vocab_size = r.m->config.vocab_size;
    size_t width = (size_t)vocab_size;
    struct reference want;
    read_reference(&want, name, vocab_size);
    float *logits = calloc(N_INPUT * width, sizeof *logits);
    for (int at = 0; at < N_INPUT; at += chunk)
        forward(&r, want.input_ids + at, N_INPUT - at < chunk ? N_INPUT - at : chunk, false,
                logits + (size_t)at * width);
    double limit = tolerance() * deviation(want.logits, N_POSITIONS * width);
    for (int i = 0; i < N_POSITIONS; i++)
        expect_close(name, how, logits + (size_t)want.positions[i] * width,
                     want.logits + (size_t)i * width, width, limit);

    int64_t token = argmax(logits + (N_INPUT - 1) * width, vocab_size);
    for (int i = 0; i < N_GREEDY; i++) {
        if (token != want.greedy[i])
            fail_msg("%s, %s: greedy token %d: got %d, want %d", name, how, i, (int)token,
                     (int)want.greedy[i]);
        if (i + 1 == N_GREEDY)
            break;
        forward(&r, &token, 1, decode_to_tail, logits);
        token = argmax(logits, vocab_size);
    }
    free(logits);
    free(want.logits);
    finish(&r);
}

static void test_logits_and_greedy_text_equal_the_reference(void **state)
{
    (void)state;
    for (int i = 0; i < N_NAMES; i++)
        check_model(names[i], N_INPUT, true);
}

static void test_prefill_in_chunks_equals_the_reference(void **state)
{
    (void)state;
    for (int i = 0; i < N_NAMES; i++)
        check_model(names[i], CHUNK, true);
}

static void test_the_last_rows_logits_are_the_same_when_asked_for_alone(void **state)
{
    (void)state;
    for (int i = 0; i < N_NAMES; i++) {
        struct run r = start(names[i]);
        struct reference want;
        size_t width = (size_t)r.m->config.vocab_size;
        read_reference(&want, names[i], (int)width);
        float *all = calloc(N_INPUT * width, sizeof *all), *last = calloc(width, sizeof *last);
        forward(&r, want.input_ids, N_INPUT, false, all);
        r.now.n_context = 0;
        backend->upload(dev, r.step, &r.now, sizeof r.now);
        const struct forward_call call = {.buffers = r.buffers,
                                          .tokens = r.tokens,
                                          .n_rows = N_INPUT,
                                          .context = &r.context,
                                          .step = r.step,
                                          .max_keys = N_INPUT};
        model_forward(r.m, &call, r.logits, 1);
        backend->download(dev, last, r.logits, width * sizeof *last);
        expect_close(names[i], "one row", last, all + (N_INPUT - 1) * width, width, 1e-4);
        free(all);
        free(last);
        free(want.logits);
        finish(&r);
    }
}

/* The recorded logits [8][id, logit] are rounded to four decimals. */
static void expect_top_logits(const float *logits, const struct json *top, int i_case)
{
    for (const struct json *pair = json_first(top); pair; pair = json_next(pair)) {
        int64_t id = 0;
        assert_true(json_int(json_first(pair), 0, 8191, &id));
        double want = json_number(json_next(json_first(pair)), NAN);
        if (!(fabs((double)logits[id] - want) <= 1e-3))
            fail_msg("case %d, token %d: got %.5f, want %.4f", i_case, (int)id, (double)logits[id],
                     want);
    }
}

static void check_embedded_case(const struct json *c, int i_case)
{
    char path[512];
    struct error err = {0};
    static int64_t ids[MAX_PROMPT];
    int64_t answer[64];
    int n_ids = 0, n_answer = 0;
    for (const struct json *v = json_first(json_get(c, "prompt_token_ids")); v; v = json_next(v))
        assert_true(n_ids < MAX_PROMPT && json_int(v, 0, 8191, &ids[n_ids++]));
    for (const struct json *v = json_first(json_get(c, "answer_token_ids")); v; v = json_next(v))
        assert_true(n_answer < 64 && json_int(v, 0, 8191, &answer[n_answer++]));
    snprintf(path, sizeof path, "%s/presets/model", ATTNSCOPE_SOURCE_DIR);
    struct model *m = model_load(path, backend, dev, NULL, &err);
    if (!m)
        fail_msg("%s", err.text);
    size_t width = (size_t)m->config.vocab_size;
    struct run r = start_model(m, n_ids, n_answer, DTYPE_F32);
    float *logits = calloc(N_INPUT * width, sizeof *logits);
    int n = 0;
    for (int at = 0; at < n_ids; at += n) {
        n = n_ids - at < N_INPUT ? n_ids - at : N_INPUT;
        forward(&r, ids + at, n, false, logits);
    }
    const float *last = logits + (size_t)(n - 1) * width;
    expect_top_logits(last, json_get(c, "top_logits"), i_case);
    for (int i = 0; i < n_answer; i++) {
        int64_t token = argmax(last, (int)width);
        if (token != answer[i])
            fail_msg("case %d, answer token %d: got %d, want %d", i_case, i, (int)token,
                     (int)answer[i]);
        forward(&r, &token, 1, true, logits);
        last = logits;
    }
    free(logits);
    finish(&r);
}

static void test_the_embedded_model_answers_as_the_reference(void **state)
{
    (void)state;
    char path[512];
    struct error err = {0};
    snprintf(path, sizeof path, "%s/tests/golden/embedded/dense.json", ATTNSCOPE_SOURCE_DIR);
    struct json *root = json_parse_file(path, 1 << 20, &err);
    if (!root)
        fail_msg("%s", err.text);
    int i_case = 0;
    for (const struct json *c = json_first(json_get(root, "cases")); c; c = json_next(c))
        if (json_count(json_get(c, "prompt_token_ids")) <= MAX_PROMPT) /* longer ones take long */
            check_embedded_case(c, i_case++);
    assert_true(i_case >= 8);
    json_free(root);
}

static void count_reports(void *user, uint64_t done, uint64_t total)
{
    uint64_t *seen = user;
    seen[0]++;
    assert_true(done >= seen[1] && done <= total);
    seen[1] = done;
    seen[2] = total;
}

static void test_loading_reports_its_end_and_can_be_cancelled(void **state)
{
    (void)state;
    char path[512];
    struct error err = {0};
    uint64_t seen[3] = {0};
    atomic_bool cancel = false;
    const struct model_progress progress = {count_reports, seen, &cancel};
    model_path(path, sizeof path, "qwen2", "");
    struct model *m = model_load(path, backend, dev, &progress, &err);
    if (!m)
        fail_msg("%s", err.text);
    assert_true(seen[0] > 0 && seen[1] == seen[2] && seen[2] > 100000);
    model_close(m);
    atomic_store(&cancel, true);
    assert_null(model_load(path, backend, dev, &progress, &err));
    assert_non_null(strstr(err.text, "cancelled"));
    assert_int_equal(err.code, EXIT_CODE_RUNTIME);
}

static void test_random_models_give_finite_logits_that_differ(void **state)
{
    (void)state;
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    for (int i = 0; i < 3; i++) {
        struct error err = {0};
        struct model_config config;
        assert_true(model_config_shape(&config, "embedded", &err));
        struct model *m = model_random(&config, dtypes[i], 7, backend, dev, &err);
        if (!m)
            fail_msg("%s", err.text);
        if (m->weight_bytes < m->n_params * dtype_bytes(dtypes[i]))
            fail_msg("%d: %llu bytes for %llu parameters", i, (unsigned long long)m->weight_bytes,
                     (unsigned long long)m->n_params);
        struct run r = start_model(m, 8, 1, DTYPE_BF16);
        float *logits = calloc((size_t)8 * (size_t)config.vocab_size, sizeof *logits);
        forward(&r, (const int64_t[]){1, 2, 3, 5, 8, 13, 21, 34}, 8, false, logits);
        double spread = deviation(logits, (size_t)config.vocab_size);
        if (!(spread > 0.1 && spread < 100))
            fail_msg("dtype %d: logits deviate by %g, want 0.1 to 100", i, spread);
        free(logits);
        finish(&r);
    }
}

static int open_device(void **state)
{
    (void)state;
    char why[256];
    const struct device_options options = {.n_threads = 2, .exact = true};
    dev = backend_open(test_backend(), &options, &backend, why, sizeof why);
    if (!dev)
        fprintf(stderr, "%s\n", why);
    return dev ? 0 : -1;
}

static int close_device(void **state)
{
    (void)state;
    backend->close(dev);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits_and_greedy_text_equal_the_reference),
        cmocka_unit_test(test_prefill_in_chunks_equals_the_reference),
        cmocka_unit_test(test_the_last_rows_logits_are_the_same_when_asked_for_alone),
        cmocka_unit_test(test_the_embedded_model_answers_as_the_reference),
        cmocka_unit_test(test_loading_reports_its_end_and_can_be_cancelled),
        cmocka_unit_test(test_random_models_give_finite_logits_that_differ),
    };
    if (!test_backend_opens())
        return TEST_SKIPPED;
    return cmocka_run_group_tests(tests, open_device, close_device);
}
