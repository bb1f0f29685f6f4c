/* Stacks: what people type and what files hold, read, checked, written and read again. */
#include "engine/attention/stack.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MANIFEST ATTNSCOPE_SOURCE_DIR "/tests/golden/maskers/manifest.json"

static struct stack parsed(const char *text)
{
    struct stack s;
    struct error err = {0};
    if (!stack_parse(&s, text, &err))
        fail_msg("%s: refused: %s", text, err.text);
    return s;
}

static char *short_form(const struct stack *s)
{
    struct buf b = {0};
    stack_write_short(s, &b);
    return buf_take(&b);
}

static void expect_short(const char *text, const char *want)
{
    struct stack s = parsed(text);
    char *got = short_form(&s);
    if (strcmp(got, want) != 0)
        fail_msg("%s: got %s, want %s", text, got, want);
    free(got);
}

static void expect_refused(const char *text, const char *said)
{
    struct stack s = {.n = 7};
    struct error err = {0};
    if (stack_parse(&s, text, &err))
        fail_msg("accepted: %s", text);
    if (!strstr(err.text, said))
        fail_msg("%s: got \"%s\", want \"%s\"", text, err.text, said);
    assert_int_equal(err.code, EXIT_CODE_USAGE);
    assert_int_equal(s.n, 7); /* untouched */
}

/* --- The short form ----------------------------------------------------------------------- */

static void test_short_form_reads_counts_and_fractions(void **state)
{
    (void)state;
    expect_short("sink:4,local:64,oracle-topk:5%", "sink:4,local:64,oracle-topk:5%");
    expect_short("sink:4,local:64,oracle-topk:5%:share=group",
                 "sink:4,local:64,oracle-topk:5%:share=group");
    expect_short(" sink : 4 , local : window_size = 64 ", "sink:4,local:64");
    expect_short("oracle_topk:0.05", "oracle-topk:5%");
    expect_short("oracle-topk:1/32", "oracle-topk:3.125%");
    expect_short("oracle-topk:0.5%", "oracle-topk:0.5%");
    expect_short("oracle-topk:4k", "oracle-topk:4096");
    expect_short("oracle-topk:1.5k", "oracle-topk:1536");
    expect_short("oracle-topk:1.0", "oracle-topk:100%");
    expect_short("oracle-topk:1", "oracle-topk:1");
    expect_short("oracle-topk:1.5", "oracle-topk:150%");
    expect_short("oracle-topk:1e-3", "oracle-topk:0.1%");
    expect_short("oracle-topk:share=head:heavy_size=7", "oracle-topk:7");
    expect_short("oracle-topp:1", "oracle-topp:1");
    expect_short("oracle-topp:90%:mass=total", "oracle-topp:0.9:mass=total");
    expect_short("random:10%", "random:0.1");
    expect_short("random", "random:0.1");
    expect_short("causal", "causal");
    expect_short("dense", "dense");
    expect_short("[]", "dense");
}

static void test_percent_is_read_without_rounding(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double want;
    } cases[] = {{"0.1%", 0.001}, {"0.7%", 0.007}, {"2.3%", 0.023}, {"28.7%", 0.287}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct budget got;
        struct error err = {0};
        assert_true(param_parse(&masker_find("sink")->params[0], cases[i].text, &got, &err));
        assert_true(got.is_fraction);
        if (got.value != cases[i].want)
            fail_msg("%s: got %.17g, want %.17g", cases[i].text, got.value, cases[i].want);
    }
}

/* Every bound that the parameters' table names. */
static void test_values_out_of_range_are_refused_with_the_range(void **state)
{
    (void)state;
    static const char *const with_size[] = {"sink", "local", "oracle-topk",
                                            "hash", "quest", "double-sparsity"};
    for (size_t i = 0; i < sizeof with_size / sizeof *with_size; i++)
        for (int zero = 0; zero < 3; zero++) {
            static const char *const values[] = {"0", "0.0", "-3"};
            char text[64];
            snprintf(text, sizeof text, "%s:%s", with_size[i], values[zero]);
            expect_refused(text, "size must be > 0, got ");
        }
    expect_refused("oracle-topp:1.01", "top_p must be in range [0, 1], got 1.01");
    expect_refused("oracle-topp:-0.1", "top_p must be in range [0, 1], got -0.1");
    expect_refused("random:0", "sampling_rate must be in range (0, 1], got 0");
    expect_refused("random:1.5", "sampling_rate must be in range (0, 1], got 1.5");
    expect_refused("quest:label_bits=0", "label_bits must be in range [1, 16], got 0");
    expect_refused("quest:label_bits=17", "label_bits must be in range [1, 16], got 17");
    expect_refused("quest:page_size=0", "page_size must be in range [1, 1024], got 0");
    expect_refused("quest:page_size=2.5", "page_size: \"2.5\" is not a whole number");
    expect_refused("double-sparsity:label_bits=17", "label_bits must be in range [1, 16], got 17");
    expect_refused("double-sparsity:group_factor=0", "group_factor must be in range [1, 1024]");
    expect_refused("double-sparsity:selection=v_proj",
                   "selection must be one of qk_proj, q_proj, k_proj, got \"v_proj\"");
    expect_refused("hash:activation=swish",
                   "activation must be one of file, silu, relu, gelu, tanh, got \"swish\"");
    expect_refused("hash:5%:top_p=1", "hash: top_p must be in range [0, 1), got 1");
    expect_refused("quest:5%:top_p=-0.5", "quest: top_p must be in range [0, 1), got -0.5");
    expect_refused("double-sparsity:top_p=2", "top_p must be in range [0, 1), got 2");
    expect_refused("random:0.1,sink:4,random:0.2",
                   "random: at most one sampling masker is allowed in a stack, and random is one "
                   "already; remove one or turn it off");
}

static void test_bad_short_forms_are_refused_with_the_rule(void **state)
{
    (void)state;
    expect_refused("", "the stack is empty");
    expect_refused("snik:4", "there is no masker \"snik\"; did you mean sink?");
    expect_refused("oracle-topq:4", "did you mean oracle-top");
    expect_refused("zzzzzzzz", "there are: sink, local");
    expect_refused("sink:4,", "name is missing");
    expect_refused(",sink:4", "name is missing");
    expect_refused("oracle-topk:5%:shar=group", "did you mean share?");
    expect_refused("oracle-topk:5%:share=groups",
                   "share must be one of head, group, got \"groups\"");
    expect_refused("sink:4:5", "only the first value, sink_size, goes without");
    expect_refused("sink:4:sink_size=5", "sink_size is given twice");
    expect_refused("sink:", "is not a size");
    expect_refused("sink:abc", "sink: sink_size: \"abc\" is not a size; write a count of keys");
    expect_refused("sink:nan", "is not a size");
    expect_refused("sink:0x10", "is not a size");
    expect_refused("sink:1/0", "is not a size");
    expect_refused("sink:99999999999", "whole number in range [1, 1073741824]");
    expect_refused("sink:1e999", "must be > 0, got inf");
    expect_refused("causal:3", "causal: it takes no value");
    expect_refused("causal:a=3", "causal: it has no parameters");
    expect_refused("random:1.5", "sampling_rate must be in range (0, 1], got 1.5");
    expect_refused("oracle-topp:-0.1", "top_p must be in range [0, 1], got -0.1");
    expect_refused("random:0.1,random:0.2", "at most one sampling masker");
    expect_refused("sink,sink,sink,sink,sink,sink,sink,sink,sink,sink,sink,sink,sink,sink,sink,"
                   "sink,sink,sink,sink,sink,sink,sink,sink; layers 0: sink,sink",
                   "layers 0: sink: a stack holds at most 24 maskers");
    expect_refused("{\"stack\":[{\"masker\":\"snik\"}]}", "masker 1: there is no masker \"snik\"");
    expect_refused("{\"stack\":[{\"masker\":\"sink\",\"sink_size\":true}]}",
                   "sink_size must be a number");
    expect_refused("{\"stack\":[{\"masker\":\"sink\",\"sinks\":1}]}", "did you mean sink_size?");
    expect_refused("{\"stack\":3}", "a stack is an array of maskers");
    expect_refused("[3]", "masker 1: it must be an object");
    expect_refused("[{\"masker\":\"sink\"", "line 1");
    expect_refused("{\"masker_configs\":[{\"type\":\"SinkMaskerConfg\"}]}",
                   "did you mean SinkMaskerConfig?");
}

/* --- Groups of layers --------------------------------------------------------------------- */

static void test_short_form_reads_groups_of_layers(void **state)
{
    (void)state;
    expect_short("sink:128,local:128,hash:5%; layers 0-1: dense; layers 16,20-23: sink:4,local:64",
                 "sink:128,local:128,hash:5%; layers 0-1: dense; layers 16,20-23: sink:4,local:64");
    expect_short("dense;layers 3 , 1-2 , 0:sink:4", "dense; layers 0-3: sink:4");
    expect_short("dense; layers 5: causal", "dense; layers 5: causal");
    expect_short("hash:5%:weights=a\\;b; layers 1023: hash:5%:weights=c\\;layers 1\\: d",
                 "hash:5%:weights=a\\;b; layers 1023: hash:5%:weights=c\\;layers 1\\: d");
    expect_short("dense; layers 4: sink:4; layers 5-6: reuse:4",
                 "dense; layers 4: sink:4; layers 5-6: reuse:4");
    expect_short("reuse:4; layers 0-4: sink:4", "reuse:4; layers 0-4: sink:4");
    expect_short("random:0.1; layers 3: random:0.2", "random:0.1; layers 3: random:0.2");
}

static void test_every_layer_has_one_list(void **state)
{
    (void)state;
    struct stack s = parsed("sink:1,local:2; layers 0-1: dense; layers 4: sink:3,sink:4,sink:5");
    static const struct {
        int layer, list, first, n;
        bool dense;
    } want[] = {{0, 1, 2, 0, true},  {1, 1, 2, 0, true},  {2, 0, 0, 2, false},
                {4, 2, 2, 3, false}, {5, 0, 0, 2, false}, {2000, 0, 0, 2, false}};
    assert_int_equal(stack_n_items(&s), 5);
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        int which = stack_list_of_layer(&s, want[i].layer);
        struct stack_list list = stack_list_at(&s, which);
        assert_int_equal(which, want[i].list);
        assert_int_equal(list.first, want[i].first);
        assert_int_equal(list.n, want[i].n);
        assert_int_equal(stack_layer_is_dense(&s, want[i].layer), want[i].dense);
        if (want[i].layer < LAYER_SET_MAX) {
            struct layer_set layers = stack_list_layers(&s, which);
            assert_true(layer_set_has(&layers, want[i].layer));
        }
    }
    assert_int_equal(stack_list_of_item(&s, 1), 0);
    assert_int_equal(stack_list_of_item(&s, 2), 2);
    struct stack of_group = stack_of_list(&s, 2), as_parsed = parsed("sink:3,sink:4,sink:5");
    assert_true(stack_equal(&of_group, &as_parsed));
    assert_false(stack_is_dense(&s));
    s = parsed("dense; layers 3: sink:4");
    assert_false(stack_is_dense(&s));
    s = parsed("dense; layers 3: causal");
    assert_true(stack_is_dense(&s));
    s = parsed("sink:4; layers 3: oracle-topk:5%");
    assert_true(stack_reads_all_keys(&s));
}

static void test_bad_groups_are_refused_with_the_rule(void **state)
{
    (void)state;
    expect_refused("sink:4; layers 0-3: dense; layers 5,2: local:4",
                   "layers 5,2: layer 2 is in an earlier group already");
    expect_refused("sink:4; layers 5-3: dense", "the range 5-3 runs backwards; write 3-5");
    expect_refused("sink:4; layers 3,1-4: dense", "layers 3,1-4: layer 3 is named twice");
    expect_refused("sink:4; layers : dense", "layers: no layer is named");
    expect_refused("sink:4; layers: dense", "layers: no layer is named");
    expect_refused("sink:4; layers 1,,2: dense", "\"\" is no layer and no range of layers");
    expect_refused("sink:4; layers 1,: dense", "\"\" is no layer and no range of layers");
    expect_refused("sink:4; layers 1-: dense", "\"1-\" is no layer and no range of layers");
    expect_refused("sink:4; layers -1: dense", "\"-1\" is no layer and no range of layers");
    expect_refused("sink:4; layers a: dense", "\"a\" is no layer and no range of layers");
    expect_refused("sink:4; layers 0.5: dense", "\"0.5\" is no layer and no range of layers");
    expect_refused("sink:4; layers 0-1024: dense",
                   "a model has at most 1024 layers, there is no layer 1024");
    expect_refused("sink:4; layers 99999999999999999999: dense", "at most 1024 layers");
    expect_refused("sink:4; layers 0-1", "a group of layers, as in layers 0-1: dense, got");
    expect_refused("sink:4; layer 0: dense", "a group of layers, as in layers 0-1: dense, got");
    expect_refused("sink:4; layers0: dense", "a group of layers, as in layers 0-1: dense, got");
    expect_refused("sink:4;", "after a semicolon comes a group of layers");
    expect_refused("sink:4; local:4", "after a semicolon comes a group of layers");
    expect_refused("; layers 0-1: dense", "no masker is named; write dense");
    expect_refused("sink:4; layers 0-1:", "layers 0-1: no masker is named; write dense");
    expect_refused("sink:4; layers 0-1: dense,sink:4", "layers 0-1: there is no masker \"dense\"");
    expect_refused("sink:4; layers 0: snik:4", "layers 0: there is no masker \"snik\"");
    expect_refused("sink:4; layers 0: sink:0", "layers 0: sink: sink_size must be > 0");
    expect_refused("sink:4; layers 0: random,random", "layers 0: random: at most one sampling");
    expect_refused("sink; layers 0: dense; layers 1: dense; layers 2: dense; layers 3: dense; "
                   "layers 4: dense; layers 5: dense; layers 6: dense; layers 7: dense; "
                   "layers 8: dense",
                   "layers 8: a stack has at most 8 groups of layers");
    expect_refused("{\"maskers\":[],\"layers\":3}", "\"layers\" must be an array of");
    expect_refused("{\"maskers\":[],\"layers\":[{\"layers\":3,\"maskers\":[]}]}",
                   "a group of layers is {\"layers\":\"0-1\",\"maskers\":[...]}");
    expect_refused("{\"maskers\":[],\"layers\":[{\"layers\":\"0\"}]}", "a group of layers is");
    expect_refused("{\"maskers\":[],\"layers\":[3]}", "a group of layers is");
    expect_refused("{\"maskers\":[],\"layers\":[{\"layers\":\"0\",\"maskers\":[],\"off\":true}]}",
                   "a group of layers has no \"off\"");
    expect_refused("{\"maskers\":[],\"layers\":[{\"layers\":\"1-0\",\"maskers\":[]}]}",
                   "stack: layers 1-0: the range 1-0 runs backwards");
    expect_refused("{\"maskers\":[],\"layers\":[{\"layers\":\"0\",\"maskers\":[{}]}]}",
                   "stack: layers 0: masker 1: \"masker\" with a masker's name is missing");
    expect_refused("{\"layers\":[]}", "a stack is an array of maskers");
}

static void test_a_layer_takes_over_only_what_an_earlier_one_has_chosen(void **state)
{
    (void)state;
    expect_refused("reuse:3", "reuse: layer 3 does not come before layer 0");
    expect_refused("reuse", "reuse: layer 0 does not come before layer 0");
    expect_refused("sink:4; layers 5: reuse:5",
                   "layers 5: reuse: layer 5 does not come before layer 5");
    expect_refused("sink:4; layers 5,9: reuse:7", "layer 7 does not come before layer 5");
    expect_refused("reuse:4; layers 1-4: sink:4",
                   "reuse: layer 4 does not come before layer 0, which is to take its selection "
                   "over; name an earlier layer, or give layer 0 a group of its own");
    expect_refused("dense; layers 5: reuse:4",
                   "layers 5: reuse: layer 4 is dense and has no selection to take over");
    expect_refused("dense; layers 5: reuse:1024", "layer must be in range [0, 1023]");
    expect_refused("dense; layers 4: random:0.1; layers 5: reuse:4,random:0.1",
                   "layers 5: random: at most one sampling masker is allowed in a stack, and reuse "
                   "draws keys already");
    expect_refused(
        "dense; layers 3: random:0.1; layers 4: sink:4,reuse:3; layers 5: random,reuse:4",
        "layers 5: reuse: at most one sampling masker is allowed in a stack, and random "
        "is one already");
    struct stack s =
        parsed("[{\"masker\":\"reuse\",\"layer\":3,\"off\":true},{\"masker\":\"sink\"}]");
    assert_int_equal(s.n, 2);
}

static void test_layers_beyond_the_models_are_refused_by_number(void **state)
{
    (void)state;
    struct error err = {0};
    struct stack s = parsed("sink:4; layers 0-1: dense; layers 20,31: local:4");
    assert_true(stack_check_layers(&s, 32, &err));
    assert_false(stack_check_layers(&s, 31, &err));
    assert_string_equal(err.text, "the stack names layer 31, but this model has 31 layers, 0 to "
                                  "30; name only those");
}

/* --- JSON --------------------------------------------------------------------------------- */

static void expect_json(struct json *v, const char *want)
{
    struct buf got = {0};
    json_write(&got, v, false);
    if (strcmp(got.data, want) != 0)
        fail_msg("got %s, want %s", got.data, want);
    buf_free(&got);
    json_free(v);
}

static void test_json_keeps_counts_apart_from_fractions(void **state)
{
    (void)state;
    struct stack s = parsed("{\"name\":\"mine\",\"stack\":[{\"masker\":\"sink\",\"sink_size\":1},"
                            "{\"masker\":\"local\",\"window_size\":1.0,\"off\":true},"
                            "{\"masker\":\"oracle-topk\",\"heavy_size\":\"5%\"}]}");
    assert_string_equal(s.name, "mine");
    assert_false(s.items[0].values.param[0].is_fraction);
    assert_true(s.items[1].values.param[0].is_fraction);
    assert_true(s.items[1].off);
    expect_json(stack_to_json(&s),
                "{\"name\":\"mine\",\"stack\":[{\"masker\":\"sink\",\"sink_size\":1},"
                "{\"masker\":\"local\",\"window_size\":1.0,\"off\":true},"
                "{\"masker\":\"oracle-topk\",\"heavy_size\":0.05,\"share\":\"head\"}]}");
    expect_json(stack_to_reference_json(&s),
                "{\"masker_configs\":[{\"type\":\"SinkMaskerConfig\",\"params\":{\"sink_size\":1}},"
                "{\"type\":\"OracleTopKConfig\",\"params\":{\"heavy_size\":0.05}}]}");
}

static void test_json_writes_groups_beside_the_maskers(void **state)
{
    (void)state;
    struct stack s = parsed("sink:4; layers 0-1: dense; layers 3: local:5");
    static const char items[] =
        "{\"maskers\":[{\"masker\":\"sink\",\"sink_size\":4}],\"layers\":[{\"layers\":\"0-1\","
        "\"maskers\":[]},{\"layers\":\"3\",\"maskers\":[{\"masker\":\"local\",\"window_size\":5}]}"
        "]}";
    expect_json(stack_items_to_json(&s), items);
    strcpy(s.name, "mine");
    struct buf whole = {0};
    buf_printf(&whole, "{\"name\":\"mine\",\"stack\":%s}", items);
    expect_json(stack_to_json(&s), whole.data);
    struct stack back = parsed(whole.data);
    assert_string_equal(back.name, "mine");
    assert_true(stack_equal(&s, &back));
    buf_free(&whole);
    struct error err = {0};
    assert_false(stack_has_reference_form(&s, &err));
    assert_string_equal(err.text, "the reference project's form has one list of maskers for all "
                                  "layers; a stack with groups of layers cannot be written in it");
    s = parsed("sink:4");
    assert_true(stack_has_reference_form(&s, &err));
}

static void test_reference_json_is_read_as_the_reference_writes_it(void **state)
{
    (void)state;
    expect_short(
        "{\"masker_configs\":[{\"type\":\"SinkMaskerConfig\",\"params\":{\"sink_size\":128}},"
        "{\"type\":\"RandomSamplingMaskerConfig\",\"params\":{\"sampling_rate\":0.5}}]}",
        "sink:128,random:0.5");
    expect_short("{\"model\":\"m\",\"sparse_config\":{\"masker_configs\":[{\"type\":"
                 "\"OracleTopPMaskerConfig\",\"params\":{\"top_p\":0.8,\"search_space\":{}}}]}}",
                 "oracle-topp:0.8");
    expect_short("[{\"type\":\"LocalMaskerConfig\",\"window_size\":0.1}]", "local:10%");
    expect_short("[{\"type\":\"FixedMaskerConfig\"}]", "causal");
    expect_short("[{\"type\":\"sink\",\"sink_size\":3}]", "sink:3");
}

/* --- Round trips -------------------------------------------------------------------------- */

static unsigned random_state;

static unsigned draw(unsigned n)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % n;
}

static struct budget random_value(const struct masker_param *p)
{
    struct budget v = {0};
    if (p->kind == PARAM_CHOICE) {
        unsigned n = 0;
        while (p->choices[n])
            n++;
        v.value = draw(n);
    } else if (p->kind == PARAM_COUNT) {
        v.value = p->min + draw((unsigned)(p->max - p->min) + 1);
    } else if (p->kind == PARAM_REAL) {
        double high = p->max < 1000 ? p->max : 1000;
        v.value = p->min + (high - p->min) * (draw((1 << 20) - 1) + 1) / (1 << 20);
    } else if (draw(2)) {
        v = (struct budget){true, draw(2) ? (draw(1000) + 1) / 1000.0 : (draw(1 << 23) + 1) / 7e6};
        v.value = v.value < p->max_fraction ? v.value : p->max_fraction;
    } else {
        v.value = p->min + draw(100000);
    }
    return v;
}

/* With what separates in the short form; no blanks at the ends, which are trimmed. */
static void random_path(char *path)
{
    static const char letters[] = "a/b.:,\\=\"x";
    unsigned n = draw(12);
    for (unsigned i = 0; i < n; i++)
        path[i] = letters[draw(sizeof letters - 1)];
    path[n] = '\0';
}

static void add_random_masker(struct stack *s, int list, const struct masker *m)
{
    if (!stack_add_to(s, list, m, NULL))
        return;
    struct stack_list to = stack_list_at(s, list);
    struct stack_item *item = &s->items[to.first + to.n - 1];
    for (int i = 0; i < m->n_params; i++)
        if (m->params[i].kind == PARAM_PATH)
            random_path(item->values.path);
        else
            item->values.param[i] = random_value(&m->params[i]);
}

static void add_random_list(struct stack *s, int list)
{
    int n_maskers = 0, n = (int)draw(list ? 4 : STACK_MAX_MASKERS + 1);
    bool sampler = false;
    while (maskers[n_maskers])
        n_maskers++;
    for (int i = 0; i < n; i++) {
        const struct masker *m = maskers[draw((unsigned)n_maskers)];
        if (m->source_layer || (m->kind == MASKER_SAMPLER && sampler))
            continue;
        sampler |= m->kind == MASKER_SAMPLER;
        add_random_masker(s, list, m);
    }
}

/* Half of them with groups of layers, the last of which may take over what an earlier one chose. */
static struct stack random_stack(void)
{
    struct stack s = {0};
    add_random_list(&s, 0);
    int n_groups = draw(2) ? (int)draw(STACK_MAX_GROUPS + 1) : 0;
    for (int i = 0; i < n_groups; i++) {
        struct layer_set layers = {0};
        for (unsigned n = draw(5) + 1; n; n--)
            layer_set_add(&layers, i * 60 + (int)draw(60));
        assert_true(stack_add_group(&s, &layers, NULL));
        add_random_list(&s, 1 + i);
        int source = layer_set_first(&s.groups[0].layers);
        if (i == n_groups - 1 && i > 0 && !stack_layer_is_dense(&s, source) &&
            stack_n_items(&s) < STACK_MAX_MASKERS) {
            add_random_masker(&s, 1 + i, masker_find("reuse"));
            s.items[stack_n_items(&s) - 1].values.param[0] = (struct budget){.value = source};
            if (!stack_check(&s, NULL)) /* two samplers */
                stack_remove(&s, stack_n_items(&s) - 1);
        }
    }
    return s;
}

static void expect_survives(const struct stack *s, const char *text)
{
    struct stack back = parsed(text);
    if (!stack_equal(s, &back)) {
        char *a = short_form(s), *b = short_form(&back);
        fail_msg("%s: became %s, was %s", text, b, a);
    }
}

static void test_random_stacks_survive_every_form(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 2000; seed++) {
        random_state = seed;
        struct stack s = random_stack();
        struct error err = {0};
        if (!stack_check(&s, &err))
            fail_msg("seed %u: %s", seed, err.text);
        char *text = short_form(&s);
        expect_survives(&s, text);
        free(text);
        bool both = stack_has_reference_form(&s, NULL);
        struct json *forms[] = {stack_to_json(&s), stack_items_to_json(&s),
                                both ? stack_to_reference_json(&s) : NULL};
        for (int i = 0; i < 2 + both; i++) {
            struct buf b = {0};
            json_write(&b, forms[i], i == 0);
            expect_survives(&s, b.data);
            buf_free(&b);
            json_free(forms[i]);
        }
    }
}

static void test_broken_text_never_crashes_the_parser(void **state)
{
    (void)state;
    static const char seedling[] =
        "sink:4,oracle-topk:5%:share=group; layers 0-1: sink:1k; layers 4,6: reuse:1";
    random_state = 11;
    int n_read = 0;
    for (int i = 0; i < 20000; i++) {
        char text[sizeof seedling];
        memcpy(text, seedling, sizeof seedling);
        for (unsigned k = draw(4) + 1; k; k--)
            text[draw(sizeof seedling - 1)] = ":,;=%/.-k{[\" e0\xff"[draw(16)];
        struct stack s;
        struct error err = {0};
        if (stack_parse(&s, text, &err)) {
            n_read++;
            assert_true(stack_check(&s, &err));
        } else if (!err.text[0]) {
            fail_msg("%s: refused without a sentence", text);
        }
    }
    assert_true(n_read > 0);
}

/* --- Against the reference ---------------------------------------------------------------- */

static struct json *manifest_section(struct json **root)
{
    struct error err = {0};
    *root = json_parse_file(MANIFEST, 16 << 20, &err);
    if (!*root)
        fail_msg("%s", err.text);
    return (struct json *)json_get(json_get(*root, "sections"), "mask_ops");
}

static void test_effective_sizes_equal_the_reference(void **state)
{
    (void)state;
    struct json *root;
    const struct json *table = json_get(manifest_section(&root), "effective_size");
    int n = 0;
    for (const struct json *row = json_first(table); row; row = json_next(row), n++) {
        const struct json *size = json_first(row), *keys = json_next(size);
        struct budget b = {!json_written_as_int(size), json_number(size, 0)};
        int got = budget_keys(b, (int)json_number(keys, 0));
        int want = (int)json_number(json_next(keys), -1);
        if (got != want)
            fail_msg("%g%s of %g keys: got %d, want %d", b.value,
                     b.is_fraction ? " (fraction)" : "", json_number(keys, 0), got, want);
    }
    assert_int_equal(n, 96);
    json_free(root);
}

/* The reference's labels of validation cases, as stacks here; NULL: a masker that is not ours. */
static void test_validation_equals_the_reference(void **state)
{
    (void)state;
    static const struct {
        const char *label, *stack;
    } ours[] = {
        {"Local 0", "local:0"},
        {"Sink -1", "sink:-1"},
        {"OracleTopK 0", "oracle-topk:0"},
        {"OracleTopK 1.5", "oracle-topk:1.5"},
        {"OracleTopP 1.1", "oracle-topp:1.1"},
        {"Random rate 0", "random:0.0"},
        {"two samplers", "random,random"},
    };
    struct json *root;
    const struct json *table = json_get(manifest_section(&root), "validation");
    size_t n = 0;
    for (const struct json *row = json_first(table); row; row = json_next(row)) {
        const char *label = json_string(json_first(row));
        const char *said = json_string(json_next(json_first(row)));
        for (size_t i = 0; i < sizeof ours / sizeof ours[0]; i++) {
            if (strcmp(ours[i].label, label) != 0)
                continue;
            n++;
            struct stack s;
            struct error err = {0};
            bool ok = stack_parse(&s, ours[i].stack, &err);
            if (ok != (said == NULL))
                fail_msg("%s: %s, the reference says %s", label, ok ? "accepted" : err.text,
                         said ? said : "nothing");
            /* The reference's sentence, less its exception and number: "window_size must be > 0".
             */
            char rule[128] = "at most one sampling masker";
            if (said && strstr(said, ", got "))
                snprintf(rule, sizeof rule, "%.*s",
                         (int)(strstr(said, ", got ") - strchr(said, ' ') - 1),
                         strchr(said, ' ') + 1);
            if (said && !strstr(err.text, rule))
                fail_msg("%s: got \"%s\", want \"%s\" in it", label, err.text, rule);
        }
    }
    assert_int_equal(n, sizeof ours / sizeof ours[0]);
    json_free(root);
}

/* --- Editing ------------------------------------------------------------------------------ */

static void expect_equal(const struct stack *got, const char *text)
{
    struct stack want = parsed(text);
    char *form = short_form(got);
    if (!stack_equal(got, &want))
        fail_msg("got %s, want %s", form, text);
    free(form);
}

static void test_items_are_added_moved_and_removed(void **state)
{
    (void)state;
    struct stack s = parsed("sink:1,sink:2,sink:3,sink:4");
    stack_move(&s, 0, 2);
    stack_remove(&s, 3);
    struct stack want = parsed("sink:2,sink:3,sink:1");
    assert_true(stack_equal(&s, &want));
    stack_move(&s, 2, 0);
    want = parsed("sink:1,sink:2,sink:3");
    assert_true(stack_equal(&s, &want));
    s.items[0].off = true;
    assert_false(stack_equal(&s, &want));
}

static void test_items_of_groups_are_edited_within_their_list(void **state)
{
    (void)state;
    struct stack s = parsed("sink:1,sink:2; layers 0-1: dense; layers 4: sink:3,sink:4; "
                            "layers 7: sink:5");
    assert_true(stack_add(&s, masker_find("random"), NULL));
    assert_true(stack_add_to(&s, 1, masker_find("local"), NULL));
    stack_move(&s, 4, 5);
    stack_remove(&s, 6);
    stack_remove(&s, 0);
    expect_equal(&s, "sink:2,random; layers 0-1: local; layers 4: sink:4,sink:3; layers 7: dense");
}

static void test_stacks_without_active_maskers_are_dense(void **state)
{
    (void)state;
    struct stack s = parsed("sink:4,oracle-topk:5%");
    assert_false(stack_is_dense(&s));
    assert_true(stack_reads_all_keys(&s));
    s.items[1].off = true;
    assert_false(stack_reads_all_keys(&s));
    s.items[0].off = true;
    assert_true(stack_is_dense(&s));
    s = parsed("causal");
    assert_true(stack_is_dense(&s));
    s = parsed("dense");
    assert_true(stack_is_dense(&s));
}

static void test_an_off_sampler_leaves_room_for_another(void **state)
{
    (void)state;
    struct stack s = parsed("[{\"masker\":\"random\",\"off\":true},{\"masker\":\"random\"}]");
    assert_int_equal(s.n, 2);
}

static void expect_step(const char *masker, int param, const char *from, int direction,
                        const char *want)
{
    const struct masker_param *p = &masker_find(masker)->params[param];
    struct budget value;
    struct error err = {0};
    if (!param_parse(p, from, &value, &err))
        fail_msg("%s", err.text);
    struct buf got = {0};
    param_write(p, param_step(p, value, direction), &got);
    if (strcmp(got.data, want) != 0)
        fail_msg("%s %s %+d: got %s, want %s", p->name, from, direction, got.data, want);
    buf_free(&got);
}

static void test_steps_stay_within_bounds_and_round(void **state)
{
    (void)state;
    expect_step("local", 0, "64", +1, "80");
    expect_step("local", 0, "70", +1, "80");
    expect_step("local", 0, "70", -1, "64");
    expect_step("local", 0, "64", +2, "128");
    expect_step("local", 0, "65", -2, "32");
    expect_step("local", 0, "1", -1, "1");
    expect_step("local", 0, "1", -2, "1");
    expect_step("local", 0, "1073741824", +2, "1073741824");
    expect_step("oracle-topk", 0, "5%", +1, "6%");
    expect_step("oracle-topk", 0, "5%", -1, "4%");
    expect_step("oracle-topk", 0, "1%", -1, "0.9%");
    expect_step("oracle-topk", 0, "0.9%", +1, "1%");
    expect_step("oracle-topk", 0, "0.1%", -1, "0.1%");
    expect_step("oracle-topk", 0, "60%", +2, "100%");
    expect_step("oracle-topk", 0, "5%", -2, "2.5%");
    expect_step("oracle-topk", 1, "head", +1, "group");
    expect_step("oracle-topk", 1, "head", -1, "group");
    expect_step("oracle-topk", 1, "group", +2, "head");
    expect_step("oracle-topp", 0, "0.9", +1, "0.95");
    expect_step("oracle-topp", 0, "0.3", -1, "0.25");
    expect_step("oracle-topp", 0, "1", +1, "1");
    expect_step("oracle-topp", 0, "0", -1, "0");
    expect_step("random", 0, "0.01", -1, "0.001");
    expect_step("quest", masker_param_index(masker_find("quest"), "top_p"), "0.95", +1, "0.995");
    expect_step("random", 0, "0.001", -1, "0.001");
}

static void test_every_parameter_steps_to_a_legal_value(void **state)
{
    (void)state;
    for (const struct masker *const *m = maskers; *m; m++)
        for (int j = 0; j < (*m)->n_params; j++) {
            const struct masker_param *p = &(*m)->params[j];
            struct error err = {0};
            if (!param_check(p, p->fallback, &err))
                fail_msg("%s: default: %s", (*m)->name, err.text);
            struct budget v = p->fallback;
            for (int i = 0; i < 400; i++) {
                static const int directions[] = {1, 2, -1, -2};
                v = param_step(p, v, directions[i / 100]);
                if (!param_check(p, v, &err))
                    fail_msg("%s: step %d: %s", (*m)->name, i, err.text);
            }
        }
}

static void expect_warning(const char *text, int n_keys, const char *want)
{
    struct stack s = parsed(text);
    struct buf got = {0};
    stack_warn(&s, n_keys, &got);
    bool ok = *want ? got.data && strstr(got.data, want) : got.len == 0;
    if (!ok)
        fail_msg("%s with %d keys: got \"%s\", want \"%s\"", text, n_keys, got.data ? got.data : "",
                 want);
    buf_free(&got);
}

static void expect_warning_less(const char *text, int n_keys, const char *unwanted)
{
    struct stack s = parsed(text);
    struct buf got = {0};
    stack_warn(&s, n_keys, &got);
    if (got.data && strstr(got.data, unwanted))
        fail_msg("%s with %d keys: \"%s\" has \"%s\" in it", text, n_keys, got.data, unwanted);
    buf_free(&got);
}

static void test_warnings_name_keys_that_a_sampler_never_draws(void **state)
{
    (void)state;
    expect_warning("sink:128,local:128,adaptive", 4096, "");
    expect_warning("sink:128,local:128,oracle-topk:90%,adaptive:10%", 4096, "");
    expect_warning("adaptive:init_offset=0:local_offset=0", 4096, "");
    expect_warning("sink:4,local:128,adaptive", 0,
                   "adaptive never chooses the first 128 keys, and sink does not keep them all: "
                   "make init_offset smaller, or sink larger.\n");
    expect_warning("sink:128,local:64,adaptive:local_offset=2%", 4096,
                   "adaptive never chooses the latest 81 keys, and local does not keep them all");
    expect_warning("sink:4,local:4,adaptive:0:init_offset=4:local_offset=4", 4096,
                   "adaptive with base_rate_sampling 0 draws nothing.\n");
    expect_warning("adaptive:init_offset=0:local_offset=0,sink:4", 0, "adaptive is not last");
}

static void test_warnings_name_what_is_likely_not_meant(void **state)
{
    (void)state;
    expect_warning("sink:4,local:64,oracle-topk:5%,random:0.1", 4096, "");
    expect_warning("dense", 4096, "");
    expect_warning("random:0.1,sink:4", 0, "random is not last");
    expect_warning("sink:128,local:128", 240,
                   "sink 128 + local 128 covers all 240 keys: everything will be dense.\n");
    expect_warning("sink:128,local:128", 257, "");
    expect_warning("sink:128,local:128", 0, "");
    expect_warning("oracle-topk:5%", 10, "oracle-topk 5% of 10 keys is none");
    expect_warning("oracle-topk:8,random:0.1:share=group", 4096, "");
    expect_warning("oracle-topk:8,random:0.1", 4096, "");
    expect_warning("sink:4,causal", 100, "causal adds nothing");
    expect_warning("causal", 100, "attention is dense");
    expect_warning("sink:4,sink:8", 100, "sink appears twice");
    expect_warning("sink:4; layers 0-1: dense; layers 3,7: random:0.1,sink:4", 100,
                   "layers 3,7: random is not last");
    expect_warning("sink:4; layers 0-1: dense; layers 3-4: sink:8; layers 5: reuse:4", 4096, "");
}

static void test_budgets_that_add_up_to_all_keys_are_named(void **state)
{
    (void)state;
    expect_warning("sink:16,local:16,oracle-topk:50%", 64,
                   "sink 16 + local 16 + oracle-topk 32 covers all 64 keys: everything will be "
                   "dense.\n");
    expect_warning("sink:16,local:15,oracle-topk:50%", 64, "");
    expect_warning("sink:40,sink:40", 64, "sink appears twice: only the larger one counts.\n");
    expect_warning_less("sink:40,sink:40", 64, "covers");
    expect_warning_less("local:60%,local:50%", 0, "covers");
    expect_warning("local:60%,oracle-topk:50%", 0,
                   "local 60% + oracle-topk 50% covers all keys: everything will be dense.\n");
    expect_warning("local:50%,oracle-topk:50%", 0, "");
    expect_warning("oracle-topk:100%", 0,
                   "oracle-topk 100% covers all keys: everything will be dense.\n");
    expect_warning("[{\"masker\":\"local\",\"window_size\":64,\"off\":true}]", 64,
                   "attention is dense");
    /* What top-p may leave unused, and what may overlap, adds up to nothing certain. */
    expect_warning("sink:16,hash:75%:top_p=0.9", 64, "");
    expect_warning("sink:2,local:12,quest:50", 64, "");
    expect_warning("quest:64", 64, "quest 64 covers all 64 keys: everything will be dense.\n");
    expect_warning("quest:64:top_p=0.5", 64, "");
}

static void test_first_values_that_mean_every_key_are_named(void **state)
{
    (void)state;
    for (int n_keys = 0; n_keys <= 4096; n_keys += 4096)
        expect_warning("sink:4.0,local:64", n_keys,
                       "sink 400% is more than all keys: everything will be dense; a count is "
                       "written without a point or a %.\n");
    expect_warning("hash:150%:top_p=0.5", 0,
                   "hash 150% is more than all keys; a count is written without a point or a %.\n");
    expect_warning("oracle-topp:1", 0, "oracle-topp 1 keeps every key: everything will be dense.");
    expect_warning("random:1", 0, "random 1 keeps every key: everything will be dense.");
    expect_warning("oracle-topp:0.99,random:0.99", 0, "");
}

static void test_budgets_that_may_overlap_are_named(void **state)
{
    (void)state;
    expect_warning("sink:4,local:64,quest:10%", 4096, "");
    expect_warning("sink:128,local:128,quest:10%", 2048,
                   "quest does not skip what sink 128 + local 128 keeps: it may add nothing to it "
                   "with 204.\n");
    expect_warning("sink:128,local:128,quest:10%", 0, "");
    expect_warning("oracle-topk:5%,quest:5%", 0,
                   "quest does not skip what oracle-topk keeps: put it first.\n");
    expect_warning("quest:5%,oracle-topk:5%", 0, "");
    expect_warning("quest:5%,quest:5%:page_size=64", 0,
                   "quest does not skip what quest keeps: keys that both choose count once.\n");
}

static void test_every_masker_describes_itself(void **state)
{
    (void)state;
    for (const struct masker *const *m = maskers; *m; m++) {
        assert_true((*m)->title[0] && (*m)->summary[0] && (*m)->source[0] && (*m)->cost[0]);
        assert_ptr_equal(masker_find((*m)->name), *m);
        if ((*m)->reference_type)
            assert_ptr_equal(masker_find_reference((*m)->reference_type), *m);
        for (int j = 0; j < (*m)->n_params; j++) {
            const struct masker_param *p = &(*m)->params[j];
            assert_true(p->label[0] && p->help[0]);
            assert_int_equal(masker_param_index(*m, p->name), j);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_short_form_reads_counts_and_fractions),
        cmocka_unit_test(test_percent_is_read_without_rounding),
        cmocka_unit_test(test_values_out_of_range_are_refused_with_the_range),
        cmocka_unit_test(test_bad_short_forms_are_refused_with_the_rule),
        cmocka_unit_test(test_short_form_reads_groups_of_layers),
        cmocka_unit_test(test_every_layer_has_one_list),
        cmocka_unit_test(test_bad_groups_are_refused_with_the_rule),
        cmocka_unit_test(test_a_layer_takes_over_only_what_an_earlier_one_has_chosen),
        cmocka_unit_test(test_layers_beyond_the_models_are_refused_by_number),
        cmocka_unit_test(test_json_keeps_counts_apart_from_fractions),
        cmocka_unit_test(test_json_writes_groups_beside_the_maskers),
        cmocka_unit_test(test_reference_json_is_read_as_the_reference_writes_it),
        cmocka_unit_test(test_random_stacks_survive_every_form),
        cmocka_unit_test(test_broken_text_never_crashes_the_parser),
        cmocka_unit_test(test_effective_sizes_equal_the_reference),
        cmocka_unit_test(test_validation_equals_the_reference),
        cmocka_unit_test(test_items_are_added_moved_and_removed),
        cmocka_unit_test(test_items_of_groups_are_edited_within_their_list),
        cmocka_unit_test(test_stacks_without_active_maskers_are_dense),
        cmocka_unit_test(test_an_off_sampler_leaves_room_for_another),
        cmocka_unit_test(test_steps_stay_within_bounds_and_round),
        cmocka_unit_test(test_every_parameter_steps_to_a_legal_value),
        cmocka_unit_test(test_warnings_name_what_is_likely_not_meant),
        cmocka_unit_test(test_warnings_name_keys_that_a_sampler_never_draws),
        cmocka_unit_test(test_budgets_that_add_up_to_all_keys_are_named),
        cmocka_unit_test(test_first_values_that_mean_every_key_are_named),
        cmocka_unit_test(test_budgets_that_may_overlap_are_named),
        cmocka_unit_test(test_every_masker_describes_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
