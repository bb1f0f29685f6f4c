/* JSON: the only module that knows cJSON.
 *
 * Bytes from outside pass one strict scanner first (RFC 8259, and stricter: no duplicate keys, no
 * \u0000, valid UTF-8, depth <= 64, nothing after the value, no byte-order mark), because cJSON
 * 1.7.15 accepts much that is not JSON.  Readers walk with json_first / json_next, which are O(1).
 * Errors name the place: "NAME: line 3, column 14: ...". */
#ifndef ATTNSCOPE_ENGINE_BASE_JSON_H
#define ATTNSCOPE_ENGINE_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"
#include "engine/base/error.h"

struct json; /* one value inside a document; freed with its root by json_free */

/* The scanner alone: true if text [n bytes] is one strict JSON value. */
bool json_check(const char *text, size_t n, const char *name, struct error *err);

/* Parses a whole document; NULL on failure.  The caller frees the root with json_free. */
struct json *json_parse(const char *text, size_t n, const char *name, struct error *err);
struct json *json_parse_file(const char *path, uint64_t max_bytes, struct error *err);
void json_free(struct json *root);

/* Kinds.  All take NULL and answer false. */
bool json_is_object(const struct json *v);
bool json_is_array(const struct json *v);
bool json_is_string(const struct json *v);
bool json_is_number(const struct json *v);
bool json_is_bool(const struct json *v);
bool json_is_null(const struct json *v); /* also true for NULL: absent and null are alike */

/* Reading.  Members are matched exactly; NULL if absent or if v is no object. */
const struct json *json_get(const struct json *v, const char *key);
const struct json *json_first(const struct json *v); /* first child of an array or object */
const struct json *json_next(const struct json *child);
size_t json_count(const struct json *v);        /* children; O(n) */
const char *json_key(const struct json *child); /* a member's name */
const char *json_string(const struct json *v);  /* NULL if not a string */
bool json_bool(const struct json *v, bool fallback);
double json_number(const struct json *v, double fallback);
/* True if v is a number without fraction within [min, max]. */
bool json_int(const struct json *v, int64_t min, int64_t max, int64_t *out);
/* As json_int for the whole range of uint64_t, but v must also be written as an integer. */
bool json_uint64(const struct json *v, uint64_t *out);
/* True if v was written as an integer: no point, no exponent ("1", not "1.0"). */
bool json_written_as_int(const struct json *v);

/* Building.  All values built here belong to their parent once added.  json_set* replaces a member
 * of the same key.  json_set_number writes what reads back as the same double and never as an
 * integer ("1.0"); NaN and infinities become null.  A NUL byte in a string becomes U+FFFD. */
struct json *json_new_object(void);
struct json *json_new_array(void);
void json_set_string(struct json *object, const char *key, const char *value);
void json_set_string_n(struct json *object, const char *key, const char *value, size_t n);
void json_set_number(struct json *object, const char *key, double value);
void json_set_int(struct json *object, const char *key, int64_t value);
void json_set_bool(struct json *object, const char *key, bool value);
void json_set_null(struct json *object, const char *key);
void json_set(struct json *object, const char *key, struct json *value); /* takes value */
void json_add_string(struct json *array, const char *value);
void json_add_number(struct json *array, double value);
void json_add_int(struct json *array, int64_t value);
void json_add(struct json *array, struct json *value); /* takes value */
/* Appends the text, on one line, or indented by 2 when pretty.  Strings that are not valid UTF-8
 * have each bad part replaced by U+FFFD. */
void json_write(struct buf *out, const struct json *v, bool pretty);

/* Appends s [n bytes] as a JSON string with its quotes, bad parts and NUL as U+FFFD. */
void json_quote(struct buf *out, const char *s, size_t n);

#endif
