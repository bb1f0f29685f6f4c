/* Finding models in a HuggingFace cache that the tests lay out themselves. */
#include "engine/model/hub.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <time.h>

#include <cmocka.h>

#include "engine/base/buf.h"
#include "engine/model/config.h"
#include "engine/model/hub_names.h"
#include "tests/temp_folder.h"

static struct temp_folder folder;

static int set_up(void **state)
{
    (void)state;
    folder = temp_folder_make();
    static const char *const unset[] = {"HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"};
    for (int i = 0; i < 3; i++)
        unsetenv(unset[i]);
    setenv("HOME", temp_path(&folder, "home"), 1);
    setenv("HF_HUB_CACHE", folder.path, 1);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    temp_folder_remove(&folder);
    return 0;
}

static void make_repo(const char *repo)
{
    char path[256];
    static const char *const below[] = {"", "/refs", "/snapshots", "/blobs"};
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s%s", repo, below[i]);
        temp_make_folder(&folder, path);
    }
}

static const char *commit_of(char c)
{
    static char commit[41];
    memset(commit, c, 40);
    return commit;
}

/* A snapshot whose files are links to the golden model of that name; NULL: an empty snapshot. */
static void make_snapshot(const char *repo, char commit, const char *golden)
{
    static const char *const files[] = {"config.json", "model.safetensors"};
    char path[256], target[512];
    snprintf(path, sizeof path, "%s/snapshots/%s", repo, commit_of(commit));
    temp_make_folder(&folder, path);
    for (int i = 0; golden && i < 2; i++) {
        snprintf(target, sizeof target, "%s/tests/golden/models/%s/%s", ATTNSCOPE_SOURCE_DIR,
                 golden, files[i]);
        snprintf(path, sizeof path, "%s/snapshots/%s/%s", repo, commit_of(commit), files[i]);
        assert_int_equal(symlink(target, temp_path(&folder, path)), 0);
    }
}

static void write_ref(const char *repo, const char *ref, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/refs/%s", repo, ref);
    temp_write_text(&folder, path, text);
}

static void expect_resolved(const char *name, char commit)
{
    struct error err = {0};
    char *found = hub_resolve(name, &err);
    if (!found)
        fail_msg("%s: %s", name, err.text);
    if (!strstr(found, commit_of(commit)))
        fail_msg("%s: got %s, want the commit %c...", name, found, commit);
    free(found);
}

static void expect_unresolved(const char *name, const char *said)
{
    struct error err = {0};
    char *found = hub_resolve(name, &err);
    if (found)
        fail_msg("%s: got %s, want \"%s\"", name, found, said);
    if (!strstr(err.text, said))
        fail_msg("%s: got \"%s\", want \"%s\"", name, err.text, said);
}

static void test_names_resolve_through_refs_and_commits(void **state)
{
    (void)state;
    make_repo("models--org--name");
    make_snapshot("models--org--name", 'a', "llama");
    make_snapshot("models--org--name", 'b', "llama");
    char main_ref[64];
    snprintf(main_ref, sizeof main_ref, "%s\n", commit_of('a'));
    write_ref("models--org--name", "main", main_ref);
    temp_make_folder(&folder, "models--org--name/refs/pr");
    write_ref("models--org--name", "pr/3", commit_of('b'));
    expect_resolved("org/name", 'a');
    expect_resolved("org/name@main", 'a');
    expect_resolved("org/name@pr/3", 'b');
    expect_resolved("org/name@bbbb", 'b');
    expect_unresolved("org/name@bbb", "not its revision \"bbb\"");
    expect_unresolved("org/name@cccc", "hf download org/name --revision cccc");
    expect_unresolved("org/name@../refs/main", "not its revision");
    expect_unresolved("org/other", "neither a folder nor cached");
}

static void test_without_a_good_ref_the_newest_whole_snapshot_is_taken(void **state)
{
    (void)state;
    make_repo("models--solo");
    make_snapshot("models--solo", 'a', "llama");
    make_snapshot("models--solo", 'b', "llama");
    make_snapshot("models--solo", 'c', NULL);
    char path[128];
    const struct timespec times[2][2] = {{{1000, 0}, {1000, 0}}, {{2000, 0}, {2000, 0}}};
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "models--solo/snapshots/%s", commit_of(i ? 'a' : 'b'));
        assert_int_equal(utimensat(AT_FDCWD, temp_path(&folder, path), times[i], 0), 0);
    }
    expect_resolved("solo", 'a');
    write_ref("models--solo", "main", commit_of('f')); /* its snapshot is gone */
    expect_resolved("solo", 'a');
    write_ref("models--solo", "main", "../../../../etc");
    expect_resolved("solo", 'a');
}

static void test_folders_win_and_files_are_told(void **state)
{
    (void)state;
    char golden[512];
    struct error err;
    snprintf(golden, sizeof golden, "%s/tests/golden/models/llama", ATTNSCOPE_SOURCE_DIR);
    char *found = hub_resolve(golden, &err);
    assert_string_equal(found, golden);
    free(found);
    strcat(golden, "/config.json");
    expect_unresolved(golden, "is a file");
    expect_unresolved("/no/such/folder", "no such folder");
    expect_unresolved(folder.path, "no config.json in this folder");
    make_repo("models--org--name");
    make_snapshot("models--org--name", 'd', "llama");
    expect_resolved(temp_path(&folder, "models--org--name"), 'd');
}

static void test_names_with_tricks_are_refused(void **state)
{
    (void)state;
    static const char *const names[] = {"a/b/c",  "a--b/c", "a/..b", "/",      "a/",    "",
                                        "a\nb/c", "a/b@",   "a b/c", "a\\b/c", "\x7F/c"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct error err = {0};
        char *found = hub_resolve(names[i], &err);
        if (found && strcmp(names[i], "/") != 0)
            fail_msg("\"%s\" resolved to %s", names[i], found);
        if (!err.text[0])
            fail_msg("\"%s\": no message", names[i]);
        free(found);
    }
    assert_false(hub_is_repo_name("a/../b"));
    assert_null(hub_repo_of_folder("models--a--b--c"));
    assert_null(hub_repo_of_folder("datasets--a--b"));
}

static const struct hub_model *find(const struct hub_list *list, const char *name)
{
    for (size_t i = 0; i < list->n; i++)
        if (strcmp(list->models[i].name, name) == 0)
            return &list->models[i];
    fail_msg("%s is not in the list of %zu", name, list->n);
    return NULL;
}

static void test_a_scan_tells_shapes_sizes_and_problems(void **state)
{
    (void)state;
    make_repo("models--b--good");
    make_snapshot("models--b--good", '7', "llama");
    make_repo("models--a--tied");
    make_snapshot("models--a--tied", '8', "qwen2");
    make_repo("models--c--empty");
    make_repo("models--d--foreign");
    make_snapshot("models--d--foreign", '9', NULL);
    char path[256];
    snprintf(path, sizeof path, "models--d--foreign/snapshots/%s/config.json", commit_of('9'));
    temp_write_text(&folder, path, "{\"model_type\":\"mamba\",\"architectures\":[\"MambaLM\"]}");
    make_repo("models--e--dangling");
    make_snapshot("models--e--dangling", '5', "llama");
    snprintf(path, sizeof path, "models--e--dangling/snapshots/%s/model.safetensors",
             commit_of('5'));
    unlink(temp_path(&folder, path));
    assert_int_equal(symlink("../../blobs/none", temp_path(&folder, path)), 0);
    temp_make_folder(&folder, "datasets--x--y");
    temp_make_folder(&folder, ".locks");

    struct hub_list list;
    hub_scan(&list);
    assert_int_equal(list.n, 5);
    assert_string_equal(list.models[0].name, "a/tied");
    const struct hub_model *good = find(&list, "b/good");
    if (good->problem)
        fail_msg("%s", good->problem);
    assert_string_equal(good->revision, "7777777");
    assert_string_equal(good->architecture, "LlamaForCausalLM");
    assert_string_equal(good->dtype, "bfloat16");
    assert_int_equal(good->n_layers, 3);
    assert_int_equal(good->n_kv_heads, 2);
    assert_int_equal(good->max_seq_len, 512);
    assert_int_equal(good->kv_bytes_per_token, 2 * 3 * 2 * 16 * 2);
    assert_int_equal(good->n_params,
                     2 * 512 * 64 + 64 + 3 * (2 * 64 + 64 * 64 * 2 + 32 * 64 * 2 + 3 * 160 * 64));
    assert_int_equal(good->n_bytes, 393120);
    assert_non_null(strstr(find(&list, "c/empty")->problem, "no snapshot with a config.json"));
    assert_non_null(strstr(find(&list, "d/foreign")->problem, "\"mamba\" is not supported"));
    assert_string_equal(find(&list, "d/foreign")->architecture, "MambaLM");
    const char *problem = find(&list, "e/dangling")->problem;
    if (!problem || !strstr(problem, "model.safetensors is a link to a file that is missing"))
        fail_msg("got \"%s\"", problem ? problem : "no problem");
    hub_list_free(&list);
}

static void test_a_config_that_does_not_fit_its_tensors_is_a_problem(void **state)
{
    (void)state;
    make_repo("models--a--b");
    make_snapshot("models--a--b", '1', "llama");
    char path[256], target[512];
    snprintf(path, sizeof path, "models--a--b/snapshots/%s/config.json", commit_of('1'));
    snprintf(target, sizeof target, "%s/tests/golden/models/qwen3/config.json",
             ATTNSCOPE_SOURCE_DIR);
    unlink(temp_path(&folder, path));
    assert_int_equal(symlink(target, temp_path(&folder, path)), 0);
    struct hub_list list;
    hub_scan(&list);
    assert_int_equal(list.n, 1);
    const char *problem = list.models[0].problem;
    static const char *const said[] = {
        "18 tensors do not fit config.json", "q_norm.weight (missing)",
        "self_attn.q_proj.weight (expected [128, 64], found [64, 64])", " and 8 more"};
    for (int i = 0; i < 4; i++)
        if (!problem || !strstr(problem, said[i]))
            fail_msg("got \"%s\", want \"%s\"", problem ? problem : "no problem", said[i]);
    hub_list_free(&list);
}

static void test_roots_are_used_in_order_and_once(void **state)
{
    (void)state;
    temp_make_folder(&folder, "home");
    temp_make_folder(&folder, "hf");
    temp_make_folder(&folder, "hf/hub");
    setenv("HUGGINGFACE_HUB_CACHE", folder.path, 1);
    setenv("HF_HOME", temp_path(&folder, "hf"), 1);
    struct hub_roots roots = hub_roots_find();
    assert_int_equal(roots.n, 2);
    char *first = realpath(folder.path, NULL);
    assert_string_equal(roots.paths[0], first);
    assert_non_null(strstr(roots.paths[1], "hf/hub"));
    free(first);
    hub_roots_free(&roots);
    unsetenv("HUGGINGFACE_HUB_CACHE");
    unsetenv("HF_HOME");
}

static void test_without_a_cache_the_list_is_empty(void **state)
{
    (void)state;
    setenv("HF_HUB_CACHE", "/no/such/cache", 1);
    struct hub_list list;
    hub_scan(&list);
    assert_int_equal(list.n, 0);
    hub_list_free(&list);
    expect_unresolved("org/name", "there is no HuggingFace cache");
}

static void append_tensor(struct buf *header, uint64_t *at, const char *name, int rows, int cols)
{
    uint64_t n_bytes = 2 * (uint64_t)rows * (uint64_t)(cols ? cols : 1);
    buf_printf(header, "%s\"%s.weight\":{\"dtype\":\"BF16\",\"shape\":[%d", *at ? "," : "{", name,
               rows);
    if (cols)
        buf_printf(header, ",%d", cols);
    buf_printf(header, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)*at,
               (unsigned long long)(*at + n_bytes));
    *at += n_bytes;
}

/* A folder "large" of the size of a real model of 1B parameters: 146 tensors, 2.3 GiB of holes. */
static void make_large_model(void)
{
    static const struct {
        const char *name;
        int rows, cols;
    } parts[] = {{"input_layernorm", 2048, 0},     {"post_attention_layernorm", 2048, 0},
                 {"self_attn.q_proj", 2048, 2048}, {"self_attn.k_proj", 512, 2048},
                 {"self_attn.v_proj", 512, 2048},  {"self_attn.o_proj", 2048, 2048},
                 {"mlp.gate_proj", 8192, 2048},    {"mlp.up_proj", 8192, 2048},
                 {"mlp.down_proj", 2048, 8192}};
    struct buf header = {0};
    uint64_t at = 0;
    append_tensor(&header, &at, "model.embed_tokens", 128256, 2048);
    append_tensor(&header, &at, "model.norm", 2048, 0);
    for (int i = 0; i < 16 * 9; i++) {
        char name[64];
        snprintf(name, sizeof name, "model.layers.%d.%s", i / 9, parts[i % 9].name);
        append_tensor(&header, &at, name, parts[i % 9].rows, parts[i % 9].cols);
    }
    buf_append_str(&header, "}");
    temp_make_folder(&folder, "large");
    temp_write_safetensors(&folder, "large/model.safetensors", header.data, 0);
    off_t n_bytes = (off_t)(8 + header.len + at);
    assert_int_equal(truncate(temp_path(&folder, "large/model.safetensors"), n_bytes), 0);
    temp_write_text(&folder, "large/config.json",
                    "{\"model_type\":\"llama\",\"hidden_size\":2048,\"intermediate_size\":8192,"
                    "\"num_hidden_layers\":16,\"num_attention_heads\":32,"
                    "\"num_key_value_heads\":8,\"vocab_size\":128256,"
                    "\"max_position_embeddings\":131072,\"tie_word_embeddings\":true}");
    buf_free(&header);
}

static void test_a_thousand_models_are_listed(void **state)
{
    (void)state;
    enum { N = 1000 };
    make_large_model();
    for (int i = 0; i < N; i++) {
        char path[64];
        snprintf(path, sizeof path, "models--org--m%d", i);
        temp_make_folder(&folder, path);
        strcat(path, "/snapshots");
        temp_make_folder(&folder, path);
        strcat(path, "/c0ffee");
        assert_int_equal(symlink("../../large", temp_path(&folder, path)), 0);
    }
    struct timespec begin, end;
    struct hub_list list;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    hub_scan(&list);
    clock_gettime(CLOCK_MONOTONIC, &end);
    double s = (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
    assert_int_equal(list.n, N);
    for (size_t i = 0; i < list.n; i++)
        if (list.models[i].problem)
            fail_msg("%s", list.models[i].problem);
    assert_int_equal(list.models[0].n_params, 1235814400);
    hub_list_free(&list);
    print_message("%d models in %.3f s\n", N, s);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_names_resolve_through_refs_and_commits),
        TEST(test_without_a_good_ref_the_newest_whole_snapshot_is_taken),
        TEST(test_folders_win_and_files_are_told),
        TEST(test_names_with_tricks_are_refused),
        TEST(test_a_scan_tells_shapes_sizes_and_problems),
        TEST(test_a_config_that_does_not_fit_its_tensors_is_a_problem),
        TEST(test_roots_are_used_in_order_and_once),
        TEST(test_without_a_cache_the_list_is_empty),
        TEST(test_a_thousand_models_are_listed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
