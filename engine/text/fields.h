/* Reading the fields of tokenizer files: absent takes the default, the wrong kind is an error. */
#ifndef ATTNSCOPE_ENGINE_TEXT_FIELDS_H
#define ATTNSCOPE_ENGINE_TEXT_FIELDS_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/base/json.h"

/* v[key] as true or false; absent and null take fallback. */
bool field_bool(bool *out, const struct json *v, const char *key, bool fallback, struct error *err);
/* v[key] as a string borrowed from v; absent and null take fallback, which may be NULL. */
bool field_string(const char **out, const struct json *v, const char *key, const char *fallback,
                  struct error *err);
/* v[key] as an integer in [min, max]; absent and null take fallback. */
bool field_int(int64_t *out, const struct json *v, const char *key, int64_t min, int64_t max,
               int64_t fallback, struct error *err);
/* v["type"], which must be there; NULL on failure.  what names the part, e.g. "decoder". */
const char *field_type(const struct json *v, const char *what, struct error *err);

#endif
