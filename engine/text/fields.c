/* Reading the fields of tokenizer files. */
#include "engine/text/fields.h"

#include <inttypes.h>

bool field_bool(bool *out, const struct json *v, const char *key, bool fallback, struct error *err)
{
    const struct json *field = json_get(v, key);
    if (!json_is_null(field) && !json_is_bool(field))
        return fail(err, "\"%s\" is not true or false", key);
    *out = json_bool(field, fallback);
    return true;
}

bool field_string(const char **out, const struct json *v, const char *key, const char *fallback,
                  struct error *err)
{
    const struct json *field = json_get(v, key);
    if (!json_is_null(field) && !json_is_string(field))
        return fail(err, "\"%s\" is not a string", key);
    *out = json_is_null(field) ? fallback : json_string(field);
    return true;
}

bool field_int(int64_t *out, const struct json *v, const char *key, int64_t min, int64_t max,
               int64_t fallback, struct error *err)
{
    const struct json *field = json_get(v, key);
    *out = fallback;
    if (json_is_null(field))
        return true;
    if (!json_int(field, min, max, out))
        return fail(err, "\"%s\" is not an integer from %" PRId64 " to %" PRId64, key, min, max);
    return true;
}

const char *field_type(const struct json *v, const char *what, struct error *err)
{
    const char *type = json_string(json_get(v, "type"));
    if (!type)
        fail(err, "a %s is not an object with a \"type\"", what);
    return type;
}
