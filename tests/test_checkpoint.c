/* Folders of weights: one file or an index and its shards, and what else a folder may hold. */
#include "engine/model/safetensors.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

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

static const char one_byte[] = "{\"%s\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}";

static void write_shard(const char *file, const char *tensor)
{
    char header[256];
    snprintf(header, sizeof header, one_byte, tensor);
    temp_write_safetensors(&folder, file, header, 1);
}

static void write_index(const char *weight_map)
{
    char text[2048];
    snprintf(text, sizeof text, "{\"metadata\":{\"total_size\":1e3},\"weight_map\":%s}",
             weight_map);
    temp_write_text(&folder, "model.safetensors.index.json", text);
}

static void expect_folder_refused(const char *said)
{
    struct error err = {0};
    struct checkpoint *c = checkpoint_open(folder.path, &err);
    if (c)
        fail_msg("accepted, want \"%s\"", said);
    if (!strstr(err.text, said))
        fail_msg("got \"%s\", want \"%s\"", err.text, said);
}

static void test_shards_are_read_as_one(void **state)
{
    (void)state;
    write_shard("m-1.safetensors", "b");
    write_shard("m-2.safetensors", "a");
    write_index("{\"b\":\"m-1.safetensors\",\"a\":\"m-2.safetensors\"}");
    struct error err = {0};
    struct checkpoint *c = checkpoint_open(folder.path, &err);
    if (!c)
        fail_msg("%s", err.text);
    assert_int_equal(checkpoint_count(c), 2);
    assert_string_equal(checkpoint_at(c, 0)->name, "a");
    const struct safetensors *file = NULL;
    assert_non_null(checkpoint_find(c, "b", &file));
    assert_non_null(strstr(safetensors_path(file), "m-1.safetensors"));
    assert_null(checkpoint_find(c, "c", &file));
    assert_string_equal(checkpoint_warnings(c), "");
    assert_true(checkpoint_check_unchanged(c, &err));
    checkpoint_close(c);
}

static void test_missing_shards_are_listed_at_once(void **state)
{
    (void)state;
    write_shard("m-1.safetensors", "a");
    write_index("{\"a\":\"m-1.safetensors\",\"b\":\"m-2.safetensors\",\"c\":\"m-3.safetensors\"}");
    expect_folder_refused("2 of 3 files are missing: m-2.safetensors, m-3.safetensors");
}

static void test_unsafe_paths_in_an_index_are_refused(void **state)
{
    (void)state;
    static const char *const names[] = {
        "../m.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "..",
        ".",
        "",
        "a\\\\b.safetensors",
        ".safetensors",
        "model.bin",
        "..\\u002fm.safetensors",
        "m\\n.safetensors",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char map[128];
        snprintf(map, sizeof map, "{\"a\":\"%s\"}", names[i]);
        write_index(map);
        expect_folder_refused("index names an unsafe path");
    }
}

static void test_indexes_that_do_not_fit_their_shards_are_refused(void **state)
{
    (void)state;
    write_shard("m-1.safetensors", "a");
    write_index("{\"a\":\"m-1.safetensors\",\"x\":\"m-1.safetensors\"}");
    expect_folder_refused("1 tensors of the index are not in their files: x (m-1.safetensors)");
    write_index("{\"a\":\"m-1.safetensors\",\"a\":\"m-1.safetensors\"}");
    expect_folder_refused("\"a\" comes twice");
    write_index("{\"a\":7}");
    expect_folder_refused("file of tensor a is not a string");
    write_index("{}");
    expect_folder_refused("no weight_map, or an empty one");
    write_index("[]");
    expect_folder_refused("no weight_map");
    temp_write(&folder, "m-1.safetensors", "broken", 6);
    write_index("{\"a\":\"m-1.safetensors\"}");
    expect_folder_refused("header too small");
}

static void test_tensors_outside_the_index_are_ignored_with_a_warning(void **state)
{
    (void)state;
    temp_write_safetensors(&folder, "m.safetensors",
                           "{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]},"
                           "\"b\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[1,2]}}",
                           2);
    write_index("{\"a\":\"m.safetensors\"}");
    struct checkpoint *c = checkpoint_open(folder.path, NULL);
    assert_non_null(c);
    assert_null(checkpoint_find(c, "b", NULL));
    assert_non_null(strstr(checkpoint_warnings(c), "m.safetensors (1)"));
    checkpoint_close(c);
}

static void test_one_file_wins_over_an_index(void **state)
{
    (void)state;
    write_shard("model.safetensors", "single");
    write_index("{\"a\":\"gone.safetensors\"}");
    struct checkpoint *c = checkpoint_open(folder.path, NULL);
    assert_non_null(c);
    assert_non_null(checkpoint_find(c, "single", NULL));
    checkpoint_close(c);
}

static void test_folders_without_safetensors_say_what_they_hold(void **state)
{
    (void)state;
    expect_folder_refused("no weights (expected model.safetensors or");
    temp_write_text(&folder, "zz.gguf", "GGUF");
    expect_folder_refused("holds only zz.gguf: GGUF is not read");
    temp_write_text(&folder, "pytorch_model.bin", "");
    expect_folder_refused("holds only pytorch_model.bin: a pickle");
    temp_write_text(&folder, "consolidated.safetensors", "");
    expect_folder_refused("consolidated.safetensors: not a transformers folder");
}

static void test_links_that_dangle_or_leave_the_folder_are_named(void **state)
{
    (void)state;
    struct temp_folder other = temp_folder_make();
    assert_int_equal(symlink(temp_path(&other, "real"), temp_path(&folder, "model.safetensors")),
                     0);
    expect_folder_refused("incomplete: model.safetensors is a link to a file that is missing");
    temp_write_safetensors(&other, "real", "{}", 0);
    struct checkpoint *c = checkpoint_open(folder.path, NULL);
    assert_non_null(c);
    if (!strstr(checkpoint_warnings(c), "outside the folder"))
        fail_msg("no warning: \"%s\"", checkpoint_warnings(c));
    checkpoint_close(c);
    temp_folder_remove(&other);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_shards_are_read_as_one),
        TEST(test_missing_shards_are_listed_at_once),
        TEST(test_unsafe_paths_in_an_index_are_refused),
        TEST(test_indexes_that_do_not_fit_their_shards_are_refused),
        TEST(test_tensors_outside_the_index_are_ignored_with_a_warning),
        TEST(test_one_file_wins_over_an_index),
        TEST(test_folders_without_safetensors_say_what_they_hold),
        TEST(test_links_that_dangle_or_leave_the_folder_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
