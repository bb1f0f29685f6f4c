/* A struct json is a cJSON node under another name.  cJSON keeps numbers as doubles only, so a
 * number's node also holds how it was written: WRITTEN_AS_INT in its type, and the digits in
 * valuestring (free in a number) where a double cannot hold them. */
#include "engine/base/json.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/file.h"
#include "engine/base/json_scan.h"
#include "engine/base/memory.h"
#include "engine/base/utf8.h"

enum { WRITTEN_AS_INT = 1 << 20 }; /* cJSON uses the bits below 1 << 10 */

static const double LARGEST_EXACT_INT = 9007199254740992.0; /* 2^53 */

static const cJSON *node(const struct json *v)
{
    return (const cJSON *)v;
}

/* cJSON's tree is built by small allocations: NULL means that memory is gone. */
static cJSON *must(cJSON *item)
{
    if (!item)
        fatal("out of memory");
    return item;
}

/* --- Parsing ------------------------------------------------------------------------------ */

/* The next number in text that json_scan has passed; text moves past it. */
static const char *next_number(const char **text, const char *end, size_t *len)
{
    const char *at = *text;
    while (at < end && *at != '-' && (*at < '0' || *at > '9')) {
        if (*at++ != '"')
            continue;
        while (at < end && *at != '"')
            at += *at == '\\' ? 2 : 1;
        at++;
    }
    const char *begin = at;
    while (at < end && *at && strchr("+-.0123456789eE", *at))
        at++;
    *len = (size_t)(at - begin);
    *text = at;
    return begin;
}

static void note_number(cJSON *number, const char *literal, size_t len)
{
    if (memchr(literal, '.', len) || memchr(literal, 'e', len) || memchr(literal, 'E', len))
        return;
    number->type |= WRITTEN_AS_INT;
    if (fabs(number->valuedouble) >= LARGEST_EXACT_INT)
        number->valuestring = xstrndup(literal, len);
}

/* Meets the numbers of the tree in the order of the text, so the two are walked together. */
static void note_numbers(cJSON *first, const char **text, const char *end)
{
    for (cJSON *item = first; item; item = item->next) {
        if (cJSON_IsNumber(item)) {
            size_t len;
            const char *literal = next_number(text, end, &len);
            note_number(item, literal, len);
        } else {
            note_numbers(item->child, text, end);
        }
    }
}

bool json_check(const char *text, size_t n, const char *name, struct error *err)
{
    return json_scan(text, n, name, err);
}

struct json *json_parse(const char *text, size_t n, const char *name, struct error *err)
{
    if (!json_scan(text, n, name, err))
        return NULL;
    cJSON *root = cJSON_ParseWithLengthOpts(text, n, NULL, 0);
    if (!root) {
        fail_code(err, EXIT_CODE_NO_DEVICE, "%s: out of memory for %zu bytes of JSON", name, n);
        return NULL;
    }
    note_numbers(root, &text, text + n);
    return (struct json *)root;
}

struct json *json_parse_file(const char *path, uint64_t max_bytes, struct error *err)
{
    struct buf text = {0};
    struct json *root = NULL;
    if (file_read(&text, path, max_bytes, err))
        root = json_parse(text.data ? text.data : "", text.len, path, err);
    buf_free(&text);
    return root;
}

void json_free(struct json *root)
{
    cJSON_Delete((cJSON *)root);
}

/* --- Reading ------------------------------------------------------------------------------ */

bool json_is_object(const struct json *v)
{
    return cJSON_IsObject(node(v));
}

bool json_is_array(const struct json *v)
{
    return cJSON_IsArray(node(v));
}

bool json_is_string(const struct json *v)
{
    return cJSON_IsString(node(v));
}

bool json_is_number(const struct json *v)
{
    return cJSON_IsNumber(node(v));
}

bool json_is_bool(const struct json *v)
{
    return cJSON_IsBool(node(v));
}

bool json_is_null(const struct json *v)
{
    return !v || cJSON_IsNull(node(v));
}

const struct json *json_get(const struct json *v, const char *key)
{
    if (!json_is_object(v))
        return NULL;
    return (const struct json *)cJSON_GetObjectItemCaseSensitive(node(v), key);
}

const struct json *json_first(const struct json *v)
{
    return v ? (const struct json *)node(v)->child : NULL;
}

const struct json *json_next(const struct json *child)
{
    return child ? (const struct json *)node(child)->next : NULL;
}

size_t json_count(const struct json *v)
{
    size_t n = 0;
    for (const struct json *child = json_first(v); child; child = json_next(child))
        n++;
    return n;
}

const char *json_key(const struct json *child)
{
    return child ? node(child)->string : NULL;
}

const char *json_string(const struct json *v)
{
    return json_is_string(v) ? node(v)->valuestring : NULL;
}

bool json_bool(const struct json *v, bool fallback)
{
    return json_is_bool(v) ? cJSON_IsTrue(node(v)) : fallback;
}

double json_number(const struct json *v, double fallback)
{
    return json_is_number(v) ? node(v)->valuedouble : fallback;
}

bool json_int(const struct json *v, int64_t min, int64_t max, int64_t *out)
{
    if (!json_is_number(v))
        return false;
    int64_t value;
    if (node(v)->valuestring) {
        errno = 0;
        value = strtoll(node(v)->valuestring, NULL, 10);
        if (errno)
            return false;
    } else {
        double d = node(v)->valuedouble;
        if (d != trunc(d) || fabs(d) >= LARGEST_EXACT_INT)
            return false;
        value = (int64_t)d;
    }
    if (value < min || value > max)
        return false;
    *out = value;
    return true;
}

bool json_uint64(const struct json *v, uint64_t *out)
{
    if (!json_written_as_int(v))
        return false;
    const char *literal = node(v)->valuestring;
    if (!literal) {
        if (signbit(node(v)->valuedouble))
            return false;
        *out = (uint64_t)node(v)->valuedouble;
        return true;
    }
    errno = 0;
    uint64_t value = strtoull(literal, NULL, 10);
    if (errno || *literal == '-')
        return false;
    *out = value;
    return true;
}

bool json_written_as_int(const struct json *v)
{
    return json_is_number(v) && node(v)->type & WRITTEN_AS_INT;
}

/* --- Building ----------------------------------------------------------------------------- */

struct json *json_new_object(void)
{
    return (struct json *)must(cJSON_CreateObject());
}

struct json *json_new_array(void)
{
    return (struct json *)must(cJSON_CreateArray());
}

static cJSON *new_number(double value)
{
    return must(isfinite(value) ? cJSON_CreateNumber(value) : cJSON_CreateNull());
}

static cJSON *new_int(int64_t value)
{
    cJSON *item = must(cJSON_CreateNumber((double)value));
    char literal[32];
    int len = snprintf(literal, sizeof literal, "%" PRId64, value);
    note_number(item, literal, (size_t)len);
    return item;
}

/* A node's string ends at a NUL, so that a NUL byte becomes U+FFFD here. */
static cJSON *new_string(const char *value, size_t n)
{
    if (!memchr(value, '\0', n)) {
        char *copy = xstrndup(value, n);
        cJSON *item = must(cJSON_CreateString(copy));
        free(copy);
        return item;
    }
    struct buf b = {0};
    for (size_t i = 0; i < n; i++) {
        if (value[i])
            buf_append_char(&b, value[i]);
        else
            buf_append_utf8(&b, UTF8_REPLACEMENT);
    }
    cJSON *item = must(cJSON_CreateString(b.data));
    buf_free(&b);
    return item;
}

void json_set(struct json *object, const char *key, struct json *value)
{
    cJSON *parent = (cJSON *)object;
    cJSON *old = cJSON_GetObjectItemCaseSensitive(parent, key);
    if (old)
        cJSON_Delete(cJSON_DetachItemViaPointer(parent, old));
    if (!cJSON_AddItemToObject(parent, key, (cJSON *)value))
        fatal("out of memory");
}

void json_set_string_n(struct json *object, const char *key, const char *value, size_t n)
{
    json_set(object, key, (struct json *)new_string(value, n));
}

void json_set_string(struct json *object, const char *key, const char *value)
{
    json_set_string_n(object, key, value, strlen(value));
}

void json_set_number(struct json *object, const char *key, double value)
{
    json_set(object, key, (struct json *)new_number(value));
}

void json_set_int(struct json *object, const char *key, int64_t value)
{
    json_set(object, key, (struct json *)new_int(value));
}

void json_set_bool(struct json *object, const char *key, bool value)
{
    json_set(object, key, (struct json *)must(cJSON_CreateBool(value)));
}

void json_set_null(struct json *object, const char *key)
{
    json_set(object, key, (struct json *)must(cJSON_CreateNull()));
}

void json_add(struct json *array, struct json *value)
{
    cJSON_AddItemToArray((cJSON *)array, (cJSON *)value);
}

void json_add_string(struct json *array, const char *value)
{
    json_add(array, (struct json *)new_string(value, strlen(value)));
}

void json_add_number(struct json *array, double value)
{
    json_add(array, (struct json *)new_number(value));
}

void json_add_int(struct json *array, int64_t value)
{
    json_add(array, (struct json *)new_int(value));
}

/* --- Writing ------------------------------------------------------------------------------ */

static void quote_char(struct buf *out, unsigned char c)
{
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    const char *found = strchr(from, c);
    if (found) {
        buf_append_char(out, '\\');
        buf_append_char(out, to[found - from]);
    } else {
        buf_printf(out, "\\u%04x", c);
    }
}

void json_quote(struct buf *out, const char *s, size_t n)
{
    buf_append_char(out, '"');
    for (size_t i = 0; i < n;) {
        uint32_t code_point;
        int n_bad = 0;
        int len = utf8_decode(s + i, n - i, &code_point, &n_bad);
        if (len <= 0 || code_point == 0) {
            buf_append_utf8(out, UTF8_REPLACEMENT);
            i += len < 0 ? n - i : len == 0 ? (size_t)n_bad : 1;
            continue;
        }
        if (code_point < 0x20 || code_point == '"' || code_point == '\\')
            quote_char(out, (unsigned char)code_point);
        else
            buf_append(out, s + i, (size_t)len);
        i += (size_t)len;
    }
    buf_append_char(out, '"');
}

/* The fewest digits that read back as the same double; never in the shape of an integer. */
static void write_double(struct buf *out, double value)
{
    char text[40];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    buf_append_str(out, text);
    if (!strpbrk(text, ".e"))
        buf_append_str(out, ".0");
}

static void write_number(struct buf *out, const cJSON *item)
{
    if (item->valuestring)
        buf_append_str(out, item->valuestring);
    else if (item->type & WRITTEN_AS_INT)
        buf_printf(out, "%.0f", item->valuedouble);
    else
        write_double(out, item->valuedouble);
}

static void write_line_end(struct buf *out, int level)
{
    buf_append_char(out, '\n');
    for (int i = 0; i < level; i++)
        buf_append_str(out, "  ");
}

/* level < 0: on one line. */
static void write_value(struct buf *out, const cJSON *item, int level)
{
    if (cJSON_IsNumber(item)) {
        write_number(out, item);
    } else if (cJSON_IsString(item)) {
        json_quote(out, item->valuestring, strlen(item->valuestring));
    } else if (cJSON_IsArray(item) || cJSON_IsObject(item)) {
        bool is_object = cJSON_IsObject(item);
        buf_append_char(out, is_object ? '{' : '[');
        for (const cJSON *child = item->child; child; child = child->next) {
            if (level >= 0)
                write_line_end(out, level + 1);
            if (is_object) {
                json_quote(out, child->string, strlen(child->string));
                buf_append_str(out, level >= 0 ? ": " : ":");
            }
            write_value(out, child, level >= 0 ? level + 1 : -1);
            if (child->next)
                buf_append_char(out, ',');
        }
        if (level >= 0 && item->child)
            write_line_end(out, level);
        buf_append_char(out, is_object ? '}' : ']');
    } else {
        buf_append_str(out, cJSON_IsTrue(item) ? "true" : cJSON_IsFalse(item) ? "false" : "null");
    }
}

void json_write(struct buf *out, const struct json *v, bool pretty)
{
    write_value(out, node(v), pretty ? 0 : -1);
}
