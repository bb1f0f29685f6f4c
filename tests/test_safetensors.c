/* safetensors: every rule broken one at a time, mutated headers, conversions. */
#include "engine/model/safetensors.h"

#include <math.h>
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

static void expect_refused_file(const char *name, const char *said)
{
    struct error err = {0};
    struct safetensors *s = safetensors_open(temp_path(&folder, name), &err);
    if (s)
        fail_msg("%s was accepted, want \"%s\"", name, said);
    if (!strstr(err.text, said) || !strstr(err.text, name))
        fail_msg("got \"%s\", want \"%s\" of %s", err.text, said, name);
    assert_int_equal(err.code, EXIT_CODE_INVALID);
}

static void expect_refused(const char *header, size_t n_data, const char *said)
{
    temp_write_safetensors(&folder, "t.safetensors", header, n_data);
    expect_refused_file("t.safetensors", said);
}

static struct safetensors *expect_accepted(const char *header, size_t n_data)
{
    struct error err = {0};
    temp_write_safetensors(&folder, "t.safetensors", header, n_data);
    struct safetensors *s = safetensors_open(temp_path(&folder, "t.safetensors"), &err);
    if (!s)
        fail_msg("%s: refused: %s", header, err.text);
    return s;
}

static void test_files_below_eight_bytes_are_refused(void **state)
{
    (void)state;
    for (size_t n = 0; n < 8; n++) {
        temp_write(&folder, "t.safetensors", "\0\0\0\0\0\0\0", n);
        expect_refused_file("t.safetensors", "header too small");
    }
}

static void test_header_lengths_that_lie_are_refused(void **state)
{
    (void)state;
    static const struct {
        uint64_t n;
        const char *said;
    } cases[] = {
        {0, "the text ends where a value is expected"},
        {1, "the text ends"},
        {UINT64_C(1) << 63, "header too large"},
        {UINT64_MAX, "header too large"},
        {100000001, "header too large"},
        {100000000, "invalid header length"},
        {3, "invalid header length"},
        {2, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char bytes[10];
        memcpy(bytes, &cases[i].n, 8);
        memcpy(bytes + 8, "{}", 2);
        temp_write(&folder, "t.safetensors", bytes, sizeof bytes);
        if (cases[i].said) {
            expect_refused_file("t.safetensors", cases[i].said);
            continue;
        }
        struct safetensors *s = safetensors_open(temp_path(&folder, "t.safetensors"), NULL);
        assert_non_null(s);
        assert_int_equal(safetensors_count(s), 0);
        assert_null(safetensors_find(s, "a"));
        safetensors_close(s);
    }
}

#define ENTRY(fields) "{\"a\":{" fields "}}"

static void test_each_rule_has_its_own_message(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t n_data;
        const char *said;
    } cases[] = {
        {"{\"a\xFF\":1}", 0, "not valid UTF-8"},
        {"{\"\xED\xA0\x80\":1}", 0, "not valid UTF-8"},
        {"[]", 0, "not a JSON object"},
        {"{} x", 0, "expected nothing more"},
        {"x {}", 0, "expected a value"},
        {"{\"__metadata__\":[]}", 0, "__metadata__ is not an object"},
        {"{\"__metadata__\":{\"k\":1}}", 0, "not a string: k"},
        {"{\"a\":1}", 0, "entry of tensor a is not an object"},
        {ENTRY("\"shape\":[],\"data_offsets\":[0,4]"), 4, "a has no dtype"},
        {ENTRY("\"dtype\":1,\"shape\":[],\"data_offsets\":[0,4]"), 4, "a has no dtype"},
        {ENTRY("\"dtype\":\"F99\",\"shape\":[],\"data_offsets\":[0,4]"), 4, "dtype \"F99\""},
        {ENTRY("\"dtype\":\"F32\",\"data_offsets\":[0,4]"), 4, "shape of tensor a"},
        {ENTRY("\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]"), 4, "shape of"},
        {ENTRY("\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]"), 4, "shape of"},
        {ENTRY("\"dtype\":\"F32\",\"shape\":[1e0],\"data_offsets\":[0,4]"), 4, "shape of"},
        {ENTRY("\"dtype\":\"F32\",\"shape\":[01],\"data_offsets\":[0,4]"), 4, "needless 0"},
        {ENTRY("\"dtype\":\"F32\",\"shape\":[18446744073709551616],\"data_offsets\":[0,4]"), 4,
         "shape of"},
        {ENTRY("\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]"), 4,
         "at most 8"},
        {ENTRY("\"dtype\":\"F32\",\"shape\":[]"), 4, "data_offsets of tensor a"},
        {ENTRY("\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0]"), 4, "data_offsets"},
        {ENTRY("\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4,8]"), 4, "data_offsets"},
        {ENTRY("\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,\"4\"]"), 4, "data_offsets"},
        {ENTRY("\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]"), 4,
         "\"dtype\" comes twice"},
        {ENTRY("\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,4]"), 4,
         "shape of tensor a overflows"},
        {ENTRY("\"dtype\":\"F32\",\"shape\":[9223372036854775808],\"data_offsets\":[0,4]"), 4,
         "size of tensor a overflows"},
        {ENTRY("\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]"), 2, "whole byte"},
        {ENTRY("\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[4,8]"), 8,
         "hole of 4 bytes before tensor a"},
        {ENTRY("\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,8]"), 8,
         "expected 4 bytes by shape and dtype, found 8"},
        {ENTRY("\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]"), 1, "1 trailing bytes"},
        {ENTRY("\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]"), 5, "1 trailing bytes"},
        {ENTRY("\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]"), 1,
         "truncated: 3 bytes missing"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
         3, "tensor b overlaps"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[2,1]}}",
         3, "tensor b ends before it begins"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]},"
         "\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[1,2]}}",
         2, "\"a\" comes twice"},
        {"{\"\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1, "name of 0 bytes"},
        {"{\"a\\nb\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1,
         "control character, 0x0a"},
        {"{\"a\\u0000\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1, "\\u0000"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_refused(cases[i].header, cases[i].n_data, cases[i].said);
}

static void test_a_name_of_1025_bytes_is_refused(void **state)
{
    (void)state;
    char name[1026] = {0}, header[2048];
    memset(name, 'n', 1025);
    for (int extra = 0; extra < 2; extra++) {
        snprintf(header, sizeof header,
                 "{\"%s\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}",
                 name + 1 - extra);
        if (extra)
            expect_refused(header, 1, "name of 1025 bytes");
        else
            safetensors_close(expect_accepted(header, 1));
    }
}

static void test_legal_oddities_are_accepted(void **state)
{
    (void)state;
    struct safetensors *s = expect_accepted(
        " \r\n\t{\"__metadata__\":null,"
        "\"z\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[4,6],\"more\":[1]},"
        "\"e1\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[4,4]},"
        "\"e2\":{\"dtype\":\"F4\",\"shape\":[0],\"data_offsets\":[4,4]},"
        "\"s\":{\"dtype\":\"I32\",\"shape\":[],\"data_offsets\":[0,4]}}   \n",
        6);
    assert_int_equal(safetensors_count(s), 4);
    assert_string_equal(safetensors_at(s, 0)->name, "s");
    assert_string_equal(safetensors_at(s, 3)->name, "z");
    assert_int_equal(safetensors_find(s, "s")->n_elements, 1);
    assert_int_equal(safetensors_find(s, "e1")->n_elements, 0);
    unsigned char byte;
    struct error err;
    const struct safetensor *z = safetensors_find(s, "z");
    assert_true(safetensors_read(s, z, 1, &byte, 1, &err));
    assert_int_equal(byte, 5);
    assert_false(safetensors_read(s, z, 1, &byte, 2, &err));
    assert_false(safetensors_read(s, z, UINT64_MAX, &byte, 1, &err));
    int64_t value;
    assert_true(safetensors_read_i64(s, safetensors_find(s, "s"), &value, &err));
    assert_int_equal(value, 0x03020100);
    assert_false(safetensors_read_f32(s, safetensors_find(s, "s"), (float[1]){0}, &err));
    assert_non_null(strstr(err.text, "is I32"));
    safetensors_close(s);
}

static const char small_header[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                                   "\"a\":{\"dtype\":\"F32\",\"shape\":[2],"
                                   "\"data_offsets\":[0,8]},"
                                   "\"b\":{\"dtype\":\"BF16\",\"shape\":[1,2],"
                                   "\"data_offsets\":[8,12]}}";

/* The whole small file into bytes [256]; returns its size. */
static size_t small_file(char *bytes)
{
    uint64_t n = sizeof small_header - 1;
    memcpy(bytes, &n, 8);
    memcpy(bytes + 8, small_header, n);
    memset(bytes + 8 + n, 7, 12);
    return 8 + n + 12;
}

static void test_every_prefix_is_refused(void **state)
{
    (void)state;
    char bytes[256];
    size_t n = small_file(bytes);
    for (size_t len = 0; len <= n; len++) {
        temp_write(&folder, "t.safetensors", bytes, len);
        struct safetensors *s = safetensors_open(temp_path(&folder, "t.safetensors"), NULL);
        if ((s != NULL) != (len == n))
            fail_msg("a prefix of %zu of %zu bytes: accepted %d", len, n, s != NULL);
        safetensors_close(s);
    }
}

static void test_every_bit_flip_is_accepted_or_refused_in_order(void **state)
{
    (void)state;
    char bytes[256];
    size_t n = small_file(bytes), n_accepted = 0;
    for (size_t bit = 0; bit < (n - 12) * 8; bit++) {
        bytes[bit / 8] ^= (char)(1 << bit % 8);
        temp_write(&folder, "t.safetensors", bytes, n);
        struct error err = {0};
        struct safetensors *s = safetensors_open(temp_path(&folder, "t.safetensors"), &err);
        if (!s && !err.text[0])
            fail_msg("bit %zu: refused without a message", bit);
        for (size_t i = 0; s && i < safetensors_count(s); i++)
            if (safetensors_at(s, i)->end > n)
                fail_msg("bit %zu: a tensor ends past the file", bit);
        n_accepted += s != NULL;
        safetensors_close(s);
        bytes[bit / 8] ^= (char)(1 << bit % 8);
    }
    assert_true(n_accepted > 0); /* names and metadata may change */
}

static void test_floats_of_every_kind_are_converted(void **state)
{
    (void)state;
    const uint16_t f16[] = {0x3C00, 0x0001, 0x8001, 0x7BFF, 0x7C00, 0xFC00, 0x7E00, 0x0400};
    const float want[] = {1, 0x1p-24f, -0x1p-24f, 65504, INFINITY, -INFINITY, NAN, 0x1p-14f};
    const float f32[] = {1.5f, -2};
    const struct safetensors_out out[] = {
        {"half", "F16", 1, {8}, f16},
        {"single", "F32", 2, {1, 2}, f32},
        {"brain", "BF16", 1, {1}, &(uint16_t){0xC049}},
        {"double", "F64", 0, {0}, &(double){0.1}},
    };
    struct error err = {0};
    const char *path = temp_path(&folder, "w.safetensors");
    if (!safetensors_write(path, out, 4, &err))
        fail_msg("%s", err.text);
    struct safetensors *s = safetensors_open(path, &err);
    if (!s)
        fail_msg("%s", err.text);
    float got[8];
    assert_true(safetensors_read_f32(s, safetensors_find(s, "half"), got, &err));
    for (int i = 0; i < 8; i++)
        if (memcmp(&got[i], &want[i], 4) != 0 && !(isnan(got[i]) && isnan(want[i])))
            fail_msg("0x%04x: got %g, want %g", f16[i], (double)got[i], (double)want[i]);
    assert_true(safetensors_read_f32(s, safetensors_find(s, "single"), got, &err));
    assert_memory_equal(got, f32, sizeof f32);
    assert_true(safetensors_read_f32(s, safetensors_find(s, "brain"), got, &err));
    assert_true(got[0] == -3.140625f);
    assert_true(safetensors_read_f32(s, safetensors_find(s, "double"), got, &err));
    assert_true(got[0] == 0.1f);
    safetensors_close(s);
}

static void test_integers_of_every_kind_are_widened(void **state)
{
    (void)state;
    const struct safetensors_out out[] = {
        {"i8", "I8", 1, {1}, &(int8_t){-2}},
        {"u8", "U8", 1, {1}, &(uint8_t){254}},
        {"i16", "I16", 1, {1}, &(int16_t){-300}},
        {"i32", "I32", 1, {1}, &(int32_t){-70000}},
        {"u32", "U32", 1, {1}, &(uint32_t){4000000000u}},
        {"i64", "I64", 1, {1}, &(int64_t){INT64_MIN}},
        {"bool", "BOOL", 1, {1}, &(uint8_t){1}},
        {"u64", "U64", 1, {1}, &(uint64_t){UINT64_MAX}},
    };
    const int64_t want[] = {-2, 254, -300, -70000, 4000000000, INT64_MIN, 1};
    struct error err = {0};
    const char *path = temp_path(&folder, "w.safetensors");
    assert_true(safetensors_write(path, out, 8, &err));
    struct safetensors *s = safetensors_open(path, &err);
    assert_non_null(s);
    int64_t got;
    for (int i = 0; i < 7; i++) {
        assert_true(safetensors_read_i64(s, safetensors_find(s, out[i].name), &got, &err));
        if (got != want[i])
            fail_msg("%s: got %lld, want %lld", out[i].name, (long long)got, (long long)want[i]);
    }
    assert_false(safetensors_read_i64(s, safetensors_find(s, "u64"), &got, &err));
    safetensors_close(s);
}

static void test_writing_into_a_missing_folder_names_the_path(void **state)
{
    (void)state;
    struct error err = {0};
    assert_false(safetensors_write(temp_path(&folder, "no/w.safetensors"), NULL, 0, &err));
    assert_non_null(strstr(err.text, "no/w.safetensors: could not be written"));
}

static void test_what_is_no_plain_file_is_refused_without_waiting(void **state)
{
    (void)state;
    assert_int_equal(mkfifo(temp_path(&folder, "fifo.safetensors"), 0600), 0);
    expect_refused_file("fifo.safetensors", "not a regular file");
    temp_make_folder(&folder, "dir.safetensors");
    expect_refused_file("dir.safetensors", "not a regular file");
    expect_refused_file("none.safetensors", "No such file");
}

static void test_a_file_that_changes_while_open_is_noticed(void **state)
{
    (void)state;
    struct safetensors *s = expect_accepted("{}  ", 0);
    struct error err = {0};
    assert_true(safetensors_check_unchanged(s, &err));
    FILE *file = fopen(temp_path(&folder, "t.safetensors"), "ab");
    fputc('x', file);
    fclose(file);
    assert_false(safetensors_check_unchanged(s, &err));
    assert_non_null(strstr(err.text, "changed while it was read"));
    safetensors_close(s);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_files_below_eight_bytes_are_refused),
        TEST(test_header_lengths_that_lie_are_refused),
        TEST(test_each_rule_has_its_own_message),
        TEST(test_a_name_of_1025_bytes_is_refused),
        TEST(test_legal_oddities_are_accepted),
        TEST(test_every_prefix_is_refused),
        TEST(test_every_bit_flip_is_accepted_or_refused_in_order),
        TEST(test_floats_of_every_kind_are_converted),
        TEST(test_integers_of_every_kind_are_widened),
        TEST(test_writing_into_a_missing_folder_names_the_path),
        TEST(test_what_is_no_plain_file_is_refused_without_waiting),
        TEST(test_a_file_that_changes_while_open_is_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
