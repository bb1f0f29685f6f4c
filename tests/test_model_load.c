/* Loading checkpoints that differ from the golden ones in how they are stored, or are broken.  Each
 * is the golden checkpoint of a family, rewritten tensor by tensor. */
#include "engine/model/model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "engine/base/buf.h"
#include "engine/model/kv_cache.h"
#include "engine/model/safetensors.h"
#include "engine/model/tensor_convert.h"
#include "tests/temp_folder.h"

static const struct backend *backend;
static struct device *dev;
static struct temp_folder folder;

enum { N_TOKENS = 12, MAX_TENSORS = 256 };

/* What a test does to one tensor before it is written. */
struct change {
    const char *suffix; /* of the names it is about */
    const char *dtype;  /* stored so; NULL: as it was */
    bool drop;
    bool poison;       /* its first value becomes NaN */
    const char *strip; /* a beginning of the name that goes */
};

static bool ends_with(const char *name, const char *suffix)
{
    size_t len = strlen(name), n = strlen(suffix);
    return len >= n && strcmp(name + len - n, suffix) == 0;
}

/* values [n] stored as dtype; freed by the caller. */
static void *store_as(const float *values, size_t n, const char *dtype)
{
    char *bytes = calloc(n ? n : 1, 8);
    for (size_t i = 0; i < n; i++) {
        double wide = values[i];
        uint16_t half = strcmp(dtype, "F16") == 0 ? f32_to_f16(values[i]) : f32_to_bf16(values[i]);
        if (strcmp(dtype, "F64") == 0)
            memcpy(bytes + 8 * i, &wide, 8);
        else if (strcmp(dtype, "F32") == 0)
            memcpy(bytes + 4 * i, &values[i], 4);
        else
            memcpy(bytes + 2 * i, &half, 2);
    }
    return bytes;
}

/* Applies the change to t; false if the tensor is dropped. */
static bool rewrite(struct safetensors_out *out, const struct safetensors *s,
                    const struct safetensor *t, const struct change *change)
{
    struct error err = {0};
    bool is_meant = ends_with(t->name, change->suffix);
    if (is_meant && change->drop)
        return false;
    float *values = calloc(t->n_elements, sizeof *values);
    if (!safetensors_read_f32(s, t, values, &err))
        fail_msg("%s", err.text);
    if (is_meant && change->poison)
        values[0] = NAN;
    *out = (struct safetensors_out){.name = t->name, .n_dims = t->n_dims};
    size_t n_strip = change->strip ? strlen(change->strip) : 0;
    if (n_strip && strncmp(t->name, change->strip, n_strip) == 0)
        out->name += n_strip;
    out->dtype = is_meant && change->dtype ? change->dtype : t->dtype;
    memcpy(out->shape, t->shape, sizeof out->shape);
    out->data = store_as(values, t->n_elements, out->dtype);
    free(values);
    return true;
}

/* Writes the golden checkpoint with one change into the temp folder. */
static void write_changed(const char *golden, const struct change *change)
{
    static const char *const texts[] = {"config.json", "generation_config.json"};
    struct error err = {0};
    char path[512];
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/tests/golden/models/%s/%s", ATTNSCOPE_SOURCE_DIR, golden,
                 texts[i]);
        unlink(temp_path(&folder, texts[i]));
        assert_int_equal(symlink(path, temp_path(&folder, texts[i])), 0);
    }
    snprintf(path, sizeof path, "%s/tests/golden/models/%s/model.safetensors", ATTNSCOPE_SOURCE_DIR,
             golden);
    struct safetensors *s = safetensors_open(path, &err);
    if (!s)
        fail_msg("%s", err.text);
    struct safetensors_out out[MAX_TENSORS];
    size_t n = 0;
    for (size_t i = 0; i < safetensors_count(s); i++)
        n += rewrite(&out[n], s, safetensors_at(s, i), change);
    if (!safetensors_write(temp_path(&folder, "model.safetensors"), out, n, &err))
        fail_msg("%s", err.text);
    for (size_t i = 0; i < n; i++)
        free((void *)out[i].data);
    safetensors_close(s);
}

static struct model *load(const char *path)
{
    struct error err = {0};
    struct model *m = model_load(path, backend, dev, NULL, &err);
    if (!m)
        fail_msg("%s", err.text);
    return m;
}

static void expect_refused(const char *said, enum exit_code code)
{
    struct error err = {0};
    struct model *m = model_load(folder.path, backend, dev, NULL, &err);
    if (m)
        fail_msg("loaded, want \"%s\"", said);
    if (!strstr(err.text, said) || err.code != code)
        fail_msg("got %d \"%s\", want %d \"%s\"", err.code, err.text, code, said);
}

static void expect_warning(const struct model *m, const char *said)
{
    if (!m->warnings || !strstr(m->warnings, said))
        fail_msg("warnings: got \"%s\", want \"%s\"", m->warnings ? m->warnings : "", said);
}

/* The last logits of a fixed text; freed by the caller. */
static float *run(struct model *m)
{
    struct error err = {0};
    struct kv_cache kv;
    int32_t tokens[N_TOKENS];
    for (int i = 0; i < N_TOKENS; i++)
        tokens[i] = (7 * i + 3) % m->config.vocab_size;
    size_t n_bytes = (size_t)m->config.vocab_size * sizeof(float);
    if (!kv_cache_open(&kv, backend, dev, &m->config, DTYPE_F32, N_TOKENS, &err))
        fail_msg("%s", err.text);
    struct forward_call call = {.buffers = forward_buffers_open(m, N_TOKENS, N_TOKENS, &err),
                                .n_rows = N_TOKENS,
                                .context = &kv,
                                .max_keys = N_TOKENS};
    int32_t *device_tokens = backend->alloc(dev, sizeof tokens);
    struct step_state *step = backend->alloc(dev, sizeof *step);
    float *device_logits = backend->alloc(dev, n_bytes), *logits = calloc(1, n_bytes);
    backend->upload(dev, device_tokens, tokens, sizeof tokens);
    call.tokens = device_tokens;
    call.step = step;
    model_forward(m, &call, device_logits, 1);
    backend->download(dev, logits, device_logits, n_bytes);
    backend->release(dev, device_tokens);
    backend->release(dev, step);
    backend->release(dev, device_logits);
    forward_buffers_close(call.buffers);
    kv_cache_close(&kv);
    return logits;
}

/* The changed checkpoint holds the same values, so that it must compute the same. */
static struct model *expect_same_logits(const char *golden, const struct change *change)
{
    char path[512];
    snprintf(path, sizeof path, "%s/tests/golden/models/%s", ATTNSCOPE_SOURCE_DIR, golden);
    write_changed(golden, change);
    struct model *plain = load(path), *changed = load(folder.path);
    float *want = run(plain), *got = run(changed);
    for (int i = 0; i < plain->config.vocab_size; i++)
        if (!(fabsf(got[i] - want[i]) <= 1e-5f))
            fail_msg("%s, %s as %s: logit %d: got %g, want %g", golden, change->suffix,
                     change->dtype ? change->dtype : "stored", i, (double)got[i], (double)want[i]);
    free(want);
    free(got);
    assert_int_equal(plain->n_params, changed->n_params);
    model_close(plain);
    return changed;
}

static int set_up(void **state)
{
    (void)state;
    folder = temp_folder_make();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    temp_folder_remove(&folder);
    return 0;
}

static void test_matrices_keep_the_dtype_they_are_stored_in(void **state)
{
    (void)state;
    static const char *const dtypes[] = {"F32", "BF16"};
    static const enum dtype want[] = {DTYPE_F32, DTYPE_BF16};
    for (int i = 0; i < 2; i++) {
        struct model *m = expect_same_logits("llama", &(struct change){"", .dtype = dtypes[i]});
        assert_int_equal(m->layers[0].qkv.dtype, want[i]);
        assert_int_equal(m->embedding.dtype, want[i]);
        assert_int_equal(m->weight_bytes,
                         (m->n_params - 7 * 64) * dtype_bytes(want[i]) + 7 * 64 * 4);
        model_close(m);
    }
    write_changed("llama", &(struct change){"", .dtype = "F16"});
    struct model *m = load(folder.path);
    assert_int_equal(m->layers[2].ffn_up.dtype, DTYPE_F16);
    float *logits = run(m);
    assert_true(isfinite(logits[0]));
    free(logits);
    model_close(m);
}

static void test_a_matrix_of_mixed_parts_becomes_f32(void **state)
{
    (void)state;
    struct model *m =
        expect_same_logits("llama", &(struct change){"k_proj.weight", .dtype = "F32"});
    assert_int_equal(m->layers[0].qkv.dtype, DTYPE_F32);
    assert_int_equal(m->layers[0].ffn_up.dtype, DTYPE_BF16);
    model_close(m);
    m = expect_same_logits("gpt2", &(struct change){"c_fc.weight", .dtype = "F32"});
    assert_int_equal(m->layers[0].ffn_up.dtype, DTYPE_F32);
    assert_null(m->warnings);
    model_close(m);
}

static void test_f64_is_used_as_f32_with_a_note(void **state)
{
    (void)state;
    static const char *const names[][2] = {{"llama", "layers.1.mlp.up_proj.weight"},
                                           {"gpt2", "h.1.mlp.c_proj.weight"}};
    for (int i = 0; i < 2; i++) {
        struct model *m =
            expect_same_logits(names[i][0], &(struct change){names[i][1], .dtype = "F64"});
        expect_warning(m, "F64 is used as F32: ");
        expect_warning(m, names[i][1]);
        model_close(m);
    }
}

static void test_gpt2_names_may_lack_their_prefix(void **state)
{
    (void)state;
    model_close(expect_same_logits("gpt2", &(struct change){"", .strip = "transformer."}));
}

static void test_values_that_are_not_finite_are_counted(void **state)
{
    (void)state;
    static const char *const names[][2] = {{"qwen2", "layers.2.mlp.down_proj.weight"},
                                           {"qwen2", "model.norm.weight"},
                                           {"gpt2", "h.0.attn.c_attn.weight"}};
    for (int i = 0; i < 3; i++) {
        write_changed(names[i][0], &(struct change){names[i][1], .poison = true});
        struct model *m = load(folder.path);
        char want[64];
        snprintf(want, sizeof want, "%s (1)\n", names[i][1]);
        expect_warning(m, "values that are not finite: ");
        expect_warning(m, want);
        model_close(m);
    }
}

/* One in every 37 elements, over blocks of counting and the rest behind them. */
static void test_values_that_are_not_finite_are_counted_wherever_they_lie(void **state)
{
    (void)state;
    enum { N = 5000 };
    static const struct {
        const char *dtype;
        size_t size;
        unsigned char high[2]; /* the last byte of an infinity and the one before it */
    } cases[] = {{"BF16", 2, {0xFF, 0x80}},
                 {"F16", 2, {0x7C, 0x01}},
                 {"F32", 4, {0x7F, 0x80}},
                 {"F64", 8, {0x7F, 0xF0}}};
    static unsigned char bytes[N * 8 + 1];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t size = cases[i].size, n_want = 0;
        unsigned char *at = bytes + 1; /* files hold unaligned tensors */
        memset(bytes, 0x3B, sizeof bytes);
        for (size_t j = 0; j < N; j += 37, n_want++) {
            at[(j + 1) * size - 1] = cases[i].high[0];
            at[(j + 1) * size - 2] = cases[i].high[1];
        }
        assert_int_equal(tensor_count_non_finite(at, cases[i].dtype, N), n_want);
        assert_int_equal(tensor_count_non_finite(at, cases[i].dtype, 75), 3);
    }
    assert_int_equal(tensor_count_non_finite(bytes, "I32", N), 0);
}

static void test_a_missing_lm_head_is_replaced_by_the_embedding(void **state)
{
    (void)state;
    write_changed("llama", &(struct change){"lm_head.weight", .drop = true});
    struct model *m = load(folder.path);
    expect_warning(m, "lm_head.weight is not stored: the embedding is used");
    assert_ptr_equal(m->lm_head.w, m->embedding.w);
    model_close(m);
}

static void test_missing_tensors_are_listed_ten_at_most(void **state)
{
    (void)state;
    write_changed("qwen3", &(struct change){"q_norm.weight", .drop = true});
    expect_refused("3 tensors do not fit config.json: model.layers.0.self_attn.q_norm.weight "
                   "(missing), model.layers.1.",
                   EXIT_CODE_INVALID);
    write_changed("llama", &(struct change){"_proj.weight", .drop = true});
    expect_refused("21 tensors do not fit", EXIT_CODE_INVALID);
    expect_refused(" and 11 more", EXIT_CODE_INVALID);
}

static void test_tensors_without_a_place_are_noted(void **state)
{
    (void)state;
    write_changed("llama-bias", &(struct change){"", .dtype = NULL});
    unlink(temp_path(&folder, "config.json"));
    char path[512];
    snprintf(path, sizeof path, "%s/tests/golden/models/llama/config.json", ATTNSCOPE_SOURCE_DIR);
    assert_int_equal(symlink(path, temp_path(&folder, "config.json")), 0);
    struct model *m = load(folder.path);
    expect_warning(m, "21 tensors are ignored: model.layers.0.mlp.down_proj.bias");
    model_close(m);
}

static void test_quantised_tensors_are_known_by_their_names(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        {"a.qweight", "b.g_idx", "quantised with GPTQ"},
        {"a.qweight", "b.scales", "quantised with AWQ"},
        {"a.weight_packed", "a.weight_scale", "quantised with compressed-tensors"},
        {"a.weight.absmax", "a.weight", "quantised with bitsandbytes"},
        {"a.weight_scale_inv", "a.weight", "quantised with FP8"},
    };
    write_changed("llama", &(struct change){"", .dtype = NULL});
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct safetensors_out out[] = {{cases[i][0], "U8", 1, {1}, "x"},
                                              {cases[i][1], "U8", 1, {1}, "x"}};
        assert_true(safetensors_write(temp_path(&folder, "model.safetensors"), out, 2, NULL));
        expect_refused(cases[i][2], EXIT_CODE_INVALID);
    }
}

static void test_weights_of_another_dtype_are_refused_with_theirs(void **state)
{
    (void)state;
    write_changed("llama", &(struct change){"model.norm.weight", .dtype = "BF16"});
    struct buf bytes = {0};
    struct error err;
    FILE *file = fopen(temp_path(&folder, "model.safetensors"), "r+b");
    char text[16384];
    size_t n = fread(text, 1, sizeof text, file);
    buf_append(&bytes, text, n);
    char *at = memmem(bytes.data, n, "\"BF16\"", 6);
    assert_non_null(at);
    memcpy(at, "\"I16\" ", 6);
    rewind(file);
    assert_int_equal(fwrite(bytes.data, 1, n, file), n);
    fclose(file);
    buf_free(&bytes);
    struct safetensors *s = safetensors_open(temp_path(&folder, "model.safetensors"), &err);
    assert_non_null(s);
    safetensors_close(s);
    expect_refused("(expected F32, F16 or BF16, found I16)", EXIT_CODE_INVALID);
}

/* --- Memory ------------------------------------------------------------------------------- */

static struct backend tight; /* the cpu backend, with little memory */
static size_t tight_bytes, tight_used;
static int tight_allocations;

static void tight_describe(struct device *d, struct device_info *out)
{
    backend->describe(d, out);
    out->free_bytes = tight_bytes;
}

static void *tight_alloc(struct device *d, size_t n)
{
    if (tight_used + n > 200000)
        return NULL;
    tight_used += n;
    tight_allocations++;
    return backend->alloc(d, n);
}

static void tight_release(struct device *d, void *p)
{
    tight_allocations -= p != NULL;
    backend->release(d, p);
}

static void test_too_little_memory_is_told_and_all_is_given_back(void **state)
{
    (void)state;
    tight = *backend;
    tight.describe = tight_describe;
    tight.alloc = tight_alloc;
    tight.release = tight_release;
    static const struct {
        size_t free_bytes;
        const char *said;
    } cases[] = {{1000, "MiB, and 0.0 MiB are free on"},
                 {1000, "; a model of about 0.0 million parameters would fit"},
                 {1 << 30, "no memory for"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct error err = {0};
        tight_bytes = cases[i].free_bytes;
        tight_used = 0;
        const char *path = ATTNSCOPE_SOURCE_DIR "/tests/golden/models/llama";
        assert_null(model_load(path, &tight, dev, NULL, &err));
        if (!strstr(err.text, cases[i].said) || err.code != EXIT_CODE_NO_DEVICE)
            fail_msg("got %d \"%s\", want \"%s\"", err.code, err.text, cases[i].said);
        assert_int_equal(tight_allocations, 0);
    }
    struct model_config config;
    struct kv_cache kv;
    struct error err = {0};
    assert_true(model_config_shape(&config, "llama-3.1-8b", &err));
    tight_bytes = 1 << 20;
    assert_false(kv_cache_open(&kv, &tight, dev, &config, DTYPE_BF16, 1000, &err));
    if (!strstr(err.text, "the KV cache: needs 125.0 MiB, and 1.0 MiB are free"))
        fail_msg("got \"%s\"", err.text);
}

static int open_device(void **state)
{
    (void)state;
    char why[256];
    const struct device_options options = {.n_threads = 2, .exact = true};
    dev = backend_open("cpu", &options, &backend, why, sizeof why);
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

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_matrices_keep_the_dtype_they_are_stored_in),
        TEST(test_a_matrix_of_mixed_parts_becomes_f32),
        TEST(test_f64_is_used_as_f32_with_a_note),
        TEST(test_gpt2_names_may_lack_their_prefix),
        TEST(test_values_that_are_not_finite_are_counted),
        TEST(test_values_that_are_not_finite_are_counted_wherever_they_lie),
        TEST(test_a_missing_lm_head_is_replaced_by_the_embedding),
        TEST(test_missing_tensors_are_listed_ten_at_most),
        TEST(test_tensors_without_a_place_are_noted),
        TEST(test_quantised_tensors_are_known_by_their_names),
        TEST(test_weights_of_another_dtype_are_refused_with_theirs),
        TEST(test_too_little_memory_is_told_and_all_is_given_back),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
