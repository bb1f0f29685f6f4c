/* config.json and generation_config.json: what is read, what is refused and how it is said. */
#include "engine/model/config.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "engine/model/config_rope.h"
#include "engine/model/families/family.h"
#include "engine/model/model.h"
#include "tests/temp_folder.h"

static struct temp_folder folder;

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

/* A good llama config with more fields; a later one of a doubled key would be refused. */
#define LLAMA(more)                                                                                \
    "{\"model_type\":\"llama\",\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":64,"       \
    "\"intermediate_size\":160,\"num_hidden_layers\":3,\"num_attention_heads\":4,"                 \
    "\"vocab_size\":512" more "}"
#define MAX ",\"max_position_embeddings\":4096"
#define QWEN2(more)                                                                                \
    "{\"model_type\":\"qwen2\",\"hidden_size\":64,\"intermediate_size\":160,"                      \
    "\"num_hidden_layers\":3,\"num_attention_heads\":4,\"vocab_size\":512" MAX more "}"
#define GPT2(more)                                                                                 \
    "{\"model_type\":\"gpt2\",\"n_embd\":64,\"n_layer\":3,\"n_head\":4,\"vocab_size\":512" more "}"

static struct model_config load(const char *text)
{
    struct model_config config;
    struct error err = {0};
    temp_write_text(&folder, "config.json", text);
    if (!model_config_load(&config, folder.path, &err))
        fail_msg("%s: %s", text, err.text);
    return config;
}

static void expect_refused(const char *text, const char *said)
{
    struct model_config config;
    struct error err = {0};
    temp_write_text(&folder, "config.json", text);
    if (model_config_load(&config, folder.path, &err))
        fail_msg("accepted: %s", text);
    if (!strstr(err.text, said) || !strstr(err.text, "config.json: "))
        fail_msg("%s: got \"%s\", want \"%s\"", text, err.text, said);
    assert_int_equal(err.code, EXIT_CODE_INVALID);
}

static void test_llama_defaults_are_those_of_transformers(void **state)
{
    (void)state;
    struct model_config c = load(LLAMA(MAX));
    assert_ptr_equal(c.family, &family_llama);
    assert_int_equal(c.n_kv_heads, 4);
    assert_int_equal(c.head_dim, 16);
    assert_int_equal(c.max_seq_len, 4096);
    assert_true(c.norm_eps == 1e-6f && c.norm_kind == NORM_RMS);
    assert_int_equal(c.activation, ACTIVATION_SWIGLU);
    assert_false(c.attention_bias || c.output_bias || c.mlp_bias || c.qk_norm || c.hard_limit);
    assert_false(c.tie_embeddings);
    assert_int_equal(c.rope_kind, ROPE_DEFAULT);
    assert_true(c.rope_theta == 10000);
    assert_int_equal(c.rope_dim, 16);
    assert_string_equal(c.stored_dtype, "float32");
    assert_int_equal(c.bos_id, -1);
    assert_int_equal(c.n_eos, 0);
    assert_false(c.do_sample);
    assert_true(c.temperature == 1 && c.top_p == 1 && c.min_p == 0 && c.repetition_penalty == 1);
    assert_true(model_config_scale(&c, 2) == 0.25f);
    assert_int_equal(model_kv_bytes_per_token(&c, DTYPE_BF16), 2 * 3 * 4 * 16 * 2);
}

static void test_numbers_may_be_written_in_any_way_and_null_is_absent(void **state)
{
    (void)state;
    struct model_config c =
        load(LLAMA(",\"max_position_embeddings\":4.096e3,\"rms_norm_eps\":1e-05,"
                   "\"rope_theta\":500000,\"head_dim\":null,\"num_key_value_heads\":2.0,"
                   "\"sliding_window\":7,\"rope_scaling\":null,\"unknown\":{\"a\":[1]},"
                   "\"torch_dtype\":\"torch.bfloat16\",\"attention_bias\":true,"
                   "\"mlp_bias\":true,\"eos_token_id\":[2,5],\"bos_token_id\":1"));
    assert_int_equal(c.max_seq_len, 4096);
    assert_true(c.norm_eps == 1e-5f);
    assert_true(c.rope_theta == 500000);
    assert_int_equal(c.n_kv_heads, 2);
    assert_int_equal(c.window, 0); /* llama has none, whatever the file says */
    assert_string_equal(c.stored_dtype, "bfloat16");
    assert_true(c.attention_bias && c.output_bias && c.mlp_bias);
    assert_int_equal(c.n_eos, 2);
    assert_int_equal(c.eos_ids[1], 5);
    assert_int_equal(c.bos_id, 1);
}

static void test_values_out_of_bounds_are_refused_with_the_bounds(void **state)
{
    (void)state;
    static const struct {
        const char *text, *said;
    } cases[] = {
        {"[]", "not a JSON object"},
        {"{", "line 1, column 2"},
        {"{}", "model_type is missing"},
        {LLAMA(""), "max_position_embeddings is missing"},
        {LLAMA(MAX ",\"hidden_size\":64"), "\"hidden_size\" comes twice"},
        {LLAMA(",\"max_position_embeddings\":0"), "expected 1 to 268435456, found 0"},
        {LLAMA(",\"max_position_embeddings\":\"4096\""), "max_position_embeddings is not a number"},
        {LLAMA(",\"max_position_embeddings\":1.5"), "found 1.5"},
        {LLAMA(MAX ",\"num_key_value_heads\":3"), "3 does not divide num_attention_heads 4"},
        {LLAMA(MAX ",\"num_key_value_heads\":0"), "expected 1 to 1024, found 0"},
        {LLAMA(MAX ",\"head_dim\":1025"), "head_dim is out of range (expected 1 to 1024"},
        {LLAMA(MAX ",\"head_dim\":15"), "not an even number"},
        {LLAMA(MAX ",\"rms_norm_eps\":-1"), "rms_norm_eps is out of range"},
        {LLAMA(MAX ",\"hidden_act\":\"gelu\""), "hidden_act \"gelu\" is not supported"},
        {LLAMA(MAX ",\"attention_bias\":1"), "attention_bias is not true or false"},
        {LLAMA(MAX ",\"eos_token_id\":\"x\""), "eos_token_id is not a token id"},
        {LLAMA(MAX ",\"eos_token_id\":[1,-1]"), "eos_token_id is not a token id"},
        {LLAMA(MAX ",\"eos_token_id\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]"),
         "more than 16 ids"},
        {"{\"model_type\":\"llama\",\"hidden_size\":1048577}", "expected 1 to 1048576"},
        {"{\"model_type\":\"llama\",\"hidden_size\":64,\"intermediate_size\":160,"
         "\"num_hidden_layers\":1025}",
         "num_hidden_layers is out of range (expected 1 to 1024, found 1025)"},
        {"{\"model_type\":\"llama\",\"hidden_size\":65,\"intermediate_size\":160,"
         "\"num_hidden_layers\":1,\"vocab_size\":9,\"num_attention_heads\":4}",
         "4 does not divide hidden_size 65"},
        {"{\"model_type\":\"llama\",\"hidden_size\":64,\"intermediate_size\":160,"
         "\"num_hidden_layers\":1,\"vocab_size\":4194305}",
         "vocab_size is out of range"},
        {GPT2(""), "n_ctx is missing"},
        {GPT2(",\"n_positions\":8,\"activation_function\":\"swish\""),
         "\"swish\" is not supported"},
        {"{\"model_type\":\"gpt2\",\"n_embd\":64,\"n_layer\":3,\"n_head\":5}", "does not make 5"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_refused(cases[i].text, cases[i].said);
}

static void test_other_models_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *text, *said;
    } cases[] = {
        {"{\"model_type\":\"gemma2\"}",
         "\"gemma2\" is not supported (expected llama, mistral, qwen2, qwen3 or gpt2)"},
        {"{\"model_type\":\"mine\",\"auto_map\":{}}", "the model's own Python code"},
        {"{\"model_type\":\"mixtral\",\"num_local_experts\":8}", "a mixture-of-experts model"},
        {"{\"model_type\":\"deepseek_v3\",\"kv_lora_rank\":512}", "multi-head latent attention"},
        {"{\"model_type\":\"mamba\",\"state_size\":16}", "a state-space model"},
        {"{\"model_type\":\"t5\",\"is_encoder_decoder\":true}", "an encoder-decoder model"},
        {LLAMA(MAX ",\"num_experts\":4"), "a mixture-of-experts model"},
        {"{\"model_type\":\"llama\",\"architectures\":[\"LlamaForSequenceClassification\"]}",
         "LlamaForSequenceClassification is not supported (expected LlamaForCausalLM)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_refused(cases[i].text, cases[i].said);
    load(LLAMA(MAX ",\"num_experts\":0,\"is_encoder_decoder\":false"));
}

static void test_quantised_models_are_refused_by_method(void **state)
{
    (void)state;
    expect_refused(LLAMA(MAX ",\"quantization_config\":{\"quant_method\":\"gptq\",\"bits\":4,"
                             "\"group_size\":128}"),
                   "quantised with GPTQ (4 bit, group 128). Supported weights: F32, F16, BF16.");
    expect_refused(LLAMA(MAX ",\"quantization_config\":{\"quant_method\":\"awq\",\"bits\":4}"),
                   "quantised with AWQ (4 bit).");
    expect_refused(LLAMA(MAX ",\"quantization_config\":{\"quant_method\":\"bitsandbytes\"}"),
                   "quantised with bitsandbytes.");
    expect_refused(LLAMA(MAX ",\"quantization_config\":{}"), "quantised with an unknown method");
    expect_refused(LLAMA(MAX ",\"quantization\":{\"bits\":8,\"group_size\":64}"),
                   "quantised with MLX (8 bit, group 64)");
    load(LLAMA(MAX ",\"quantization_config\":null"));
}

static void test_rope_settings_are_read_in_both_forms(void **state)
{
    (void)state;
    struct model_config c =
        load(LLAMA(MAX ",\"rope_theta\":5e5,\"rope_scaling\":{\"type\":\"linear\",\"factor\":4}"));
    assert_int_equal(c.rope_kind, ROPE_LINEAR);
    assert_true(c.rope_factor == 4 && c.rope_theta == 5e5);
    c = load(LLAMA(MAX ",\"rope_parameters\":{\"rope_type\":\"llama3\",\"rope_theta\":7e5,"
                       "\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,"
                       "\"original_max_position_embeddings\":128,"
                       "\"partial_rotary_factor\":0.5}"));
    assert_int_equal(c.rope_kind, ROPE_LLAMA3);
    assert_true(c.rope_theta == 7e5 && c.rope_high_freq_factor == 4);
    assert_int_equal(c.rope_original_max, 128);
    assert_int_equal(c.rope_dim, 8);
    c = load(LLAMA(MAX ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,"
                       "\"low_freq_factor\":1,\"high_freq_factor\":4}"));
    assert_int_equal(c.rope_original_max, 4096);
}

static void test_other_rope_settings_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *said;
    } cases[] = {
        {LLAMA(MAX ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4}"),
         "rope_type \"yarn\" is not supported (expected default, linear or llama3)"},
        {LLAMA(MAX ",\"rope_scaling\":{\"rope_type\":\"dynamic\"}"), "\"dynamic\""},
        {LLAMA(MAX ",\"rope_scaling\":{\"rope_type\":\"longrope\"}"), "\"longrope\""},
        {LLAMA(MAX ",\"rope_scaling\":{\"type\":\"linear\"}"), "rope_scaling: factor is missing"},
        {LLAMA(MAX ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":0}"), "factor is out of"},
        {LLAMA(MAX ",\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8}"),
         "low_freq_factor is missing"},
        {LLAMA(MAX ",\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,"
                   "\"high_freq_factor\":4}"),
         "high_freq_factor 4 must be above low_freq_factor 4"},
        {LLAMA(MAX ",\"rope_scaling\":[]"), "rope_scaling is not an object"},
        {LLAMA(MAX ",\"rope_theta\":0"), "rope_theta is out of range"},
        {LLAMA(MAX ",\"rope_parameters\":{\"full_attention\":{},\"sliding_attention\":{}}"),
         "differ by layer type"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_refused(cases[i].text, cases[i].said);
}

static void test_rope_frequencies_follow_their_formulas(void **state)
{
    (void)state;
    struct model_config c = {
        .rope_kind = ROPE_LINEAR, .rope_theta = 1e4, .rope_factor = 4, .rope_dim = 8};
    float got[64];
    config_rope_frequencies(&c, got);
    for (int k = 0; k < 4; k++) {
        double want = pow(1e4, -2.0 * k / 8) / 4;
        if (fabs(got[k] - want) > 1e-6 * want)
            fail_msg("linear, k %d: got %g, want %g", k, (double)got[k], want);
    }
    assert_true(model_config_shape(&c, "llama-3.2-1b", NULL));
    config_rope_frequencies(&c, got);
    int n_kept = 0, n_slowed = 0;
    for (int k = 0; k < 32; k++) {
        double base = pow(5e5, -2.0 * k / 64), wave = 2 * M_PI / base, want = base;
        double smooth = (8192 / wave - 1) / 3;
        if (smooth <= 0)
            want = base / 32;
        else if (smooth < 1)
            want = (1 - smooth) * base / 32 + smooth * base;
        n_kept += smooth >= 1;
        n_slowed += smooth <= 0;
        if (fabs(got[k] - want) > 2e-5 * want)
            fail_msg("llama3, k %d: got %g, want %g", k, (double)got[k], want);
    }
    assert_true(n_kept > 10 && n_slowed > 10 && n_kept + n_slowed < 32);
}

static void test_windows_follow_each_family_s_rule(void **state)
{
    (void)state;
    struct model_config c = load(QWEN2(",\"sliding_window\":100"));
    assert_true(c.attention_bias && !c.output_bias);
    assert_int_equal(model_config_window(&c, 2), 0);
    c = load(QWEN2(",\"use_sliding_window\":true,\"sliding_window\":100,\"max_window_layers\":2"));
    assert_int_equal(model_config_window(&c, 1), 0);
    assert_int_equal(model_config_window(&c, 2), 100);
    c = load(QWEN2(",\"use_sliding_window\":true,\"sliding_window\":100,\"max_window_layers\":2,"
                   "\"layer_types\":[\"full_attention\",\"sliding_attention\","
                   "\"sliding_attention\"]"));
    assert_int_equal(model_config_window(&c, 0), 0);
    assert_int_equal(model_config_window(&c, 1), 100);
    expect_refused(QWEN2(",\"use_sliding_window\":true,\"sliding_window\":100,\"layer_types\":"
                         "[\"full_attention\",\"sliding_attention\",\"full_attention\"]"),
                   "a full layer after a sliding one");
    expect_refused(QWEN2(",\"use_sliding_window\":true,\"sliding_window\":100,\"layer_types\":"
                         "[\"full_attention\"]"),
                   "layer_types is not a list of 3 layers");
    expect_refused(QWEN2(",\"use_sliding_window\":true,\"sliding_window\":100,\"layer_types\":"
                         "[\"full_attention\",7,\"linear_attention\"]"),
                   "layer_types holds");
    c = load("{\"model_type\":\"mistral\",\"hidden_size\":64,\"intermediate_size\":160,"
             "\"num_hidden_layers\":3,\"num_attention_heads\":4,\"vocab_size\":512" MAX
             ",\"sliding_window\":100}");
    assert_int_equal(model_config_window(&c, 0), 100);
}

static void test_qwen3_and_gpt2_have_their_own_defaults(void **state)
{
    (void)state;
    struct model_config c =
        load("{\"model_type\":\"qwen3\",\"hidden_size\":64,\"intermediate_size\":160,"
             "\"num_hidden_layers\":3,\"num_attention_heads\":4,\"vocab_size\":512" MAX "}");
    assert_int_equal(c.head_dim, 128);
    assert_true(c.qk_norm && !c.attention_bias);
    c = load(GPT2(",\"n_ctx\":77,\"scale_attn_by_inverse_layer_idx\":true,"
                  "\"activation_function\":\"gelu\""));
    assert_true(c.tie_embeddings && c.hard_limit && c.mlp_bias && c.attention_bias);
    assert_int_equal(c.norm_kind, NORM_LAYER);
    assert_int_equal(c.max_seq_len, 77);
    assert_int_equal(c.ffn_dim, 256);
    assert_int_equal(c.activation, ACTIVATION_GELU_ERF);
    assert_int_equal(c.rope_kind, ROPE_NONE);
    assert_true(model_config_scale(&c, 1) == 0.125f);
    c = load(GPT2(",\"n_positions\":77,\"scale_attn_weights\":false"));
    assert_int_equal(c.activation, ACTIVATION_GELU_TANH);
    assert_true(model_config_scale(&c, 1) == 1.0f);
}

static void test_generation_config_wins_over_config(void **state)
{
    (void)state;
    temp_write_text(&folder, "generation_config.json",
                    "{\"eos_token_id\":[7,8],\"do_sample\":true,\"temperature\":0.6,"
                    "\"top_k\":null,\"top_p\":0.9,\"min_p\":0.05,\"repetition_penalty\":1.1,"
                    "\"max_new_tokens\":99,\"_from_model_config\":true}");
    struct model_config c = load(LLAMA(MAX ",\"eos_token_id\":2,\"bos_token_id\":1"));
    assert_int_equal(c.n_eos, 2);
    assert_int_equal(c.eos_ids[0], 7);
    assert_int_equal(c.bos_id, 1);
    assert_true(c.do_sample && c.temperature == 0.6 && c.top_p == 0.9 && c.min_p == 0.05);
    assert_true(c.repetition_penalty == 1.1);
    assert_int_equal(c.top_k, 0);
    assert_int_equal(c.max_new_tokens, 99);
}

static void test_generation_values_out_of_range_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *said;
    } cases[] = {
        {"{\"temperature\":101}", "temperature is out of range (expected 0 to 100, found 101)"},
        {"{\"top_p\":0}", "top_p is 0 (expected above 0"},
        {"{\"top_p\":1.5}", "top_p is out of range"},
        {"{\"repetition_penalty\":0}", "repetition_penalty is 0"},
        {"{\"min_p\":2}", "min_p is out of range"},
        {"{\"top_k\":-1}", "top_k is out of range"},
        {"[]", "not a JSON object"},
        {"{\"top_p\":NaN}", "expected a value"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        temp_write_text(&folder, "generation_config.json", cases[i].text);
        expect_refused(LLAMA(MAX), cases[i].said);
    }
}

static void test_known_shapes_have_the_published_sizes(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        uint64_t kv_bytes; /* of one token in bf16 */
    } cases[] = {
        {"embedded", 2 * 8 * 2 * 64 * 2},      {"smollm2-135m", 2 * 30 * 3 * 64 * 2},
        {"llama-3.2-1b", 2 * 16 * 8 * 64 * 2}, {"llama-3.1-8b", 131072},
        {"qwen2.5-7b", 2 * 28 * 4 * 128 * 2},  {"qwen3-0.6b", 2 * 28 * 8 * 128 * 2},
        {"gpt2", 2 * 12 * 12 * 64 * 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model_config c;
        struct error err = {0};
        if (!model_config_shape(&c, cases[i].name, &err))
            fail_msg("%s", err.text);
        uint64_t got = model_kv_bytes_per_token(&c, DTYPE_BF16);
        if (got != cases[i].kv_bytes)
            fail_msg("%s: got %llu bytes, want %llu", cases[i].name, (unsigned long long)got,
                     (unsigned long long)cases[i].kv_bytes);
    }
    struct error err;
    assert_false(model_config_shape(&(struct model_config){0}, "gpt9", &err));
    assert_non_null(strstr(err.text, "embedded, smollm2-135m"));
    assert_int_equal(err.code, EXIT_CODE_USAGE);
}

static void test_the_embedded_shape_is_that_of_the_embedded_model(void **state)
{
    (void)state;
    struct model_config shape, real;
    struct error err = {0};
    assert_true(model_config_shape(&shape, "embedded", &err));
    if (!model_config_load(&real, ATTNSCOPE_SOURCE_DIR "/presets/model", &err))
        fail_msg("%s", err.text);
    assert_int_equal(shape.n_layers, real.n_layers);
    assert_int_equal(shape.n_heads, real.n_heads);
    assert_int_equal(shape.n_kv_heads, real.n_kv_heads);
    assert_int_equal(shape.head_dim, real.head_dim);
    assert_int_equal(shape.dim, real.dim);
    assert_int_equal(shape.ffn_dim, real.ffn_dim);
    assert_int_equal(shape.vocab_size, real.vocab_size);
    assert_int_equal(shape.max_seq_len, real.max_seq_len);
    assert_true(shape.norm_eps == real.norm_eps && shape.rope_theta == real.rope_theta);
    assert_int_equal(shape.tie_embeddings, real.tie_embeddings);
}

static void test_a_missing_config_is_named(void **state)
{
    (void)state;
    struct model_config config;
    struct error err = {0};
    assert_false(model_config_load(&config, folder.path, &err));
    assert_non_null(strstr(err.text, "config.json: No such file"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_llama_defaults_are_those_of_transformers),
        TEST(test_numbers_may_be_written_in_any_way_and_null_is_absent),
        TEST(test_values_out_of_bounds_are_refused_with_the_bounds),
        TEST(test_other_models_are_refused_by_name),
        TEST(test_quantised_models_are_refused_by_method),
        TEST(test_rope_settings_are_read_in_both_forms),
        TEST(test_other_rope_settings_are_refused),
        TEST(test_rope_frequencies_follow_their_formulas),
        TEST(test_windows_follow_each_family_s_rule),
        TEST(test_qwen3_and_gpt2_have_their_own_defaults),
        TEST(test_generation_config_wins_over_config),
        TEST(test_generation_values_out_of_range_are_refused),
        TEST(test_known_shapes_have_the_published_sizes),
        TEST(test_the_embedded_shape_is_that_of_the_embedded_model),
        TEST(test_a_missing_config_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
