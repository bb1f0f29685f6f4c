/* Bounded reading of settings: see the header. */
#include "engine/model/config_reader.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

void config_fail(struct config_reader *r, const char *format, ...)
{
    if (!r->ok)
        return;
    r->ok = false;
    char what[640];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    fail(r->err, "%s: %s", r->path, what);
}

static const struct json *value_of(const struct config_reader *r, const char *key)
{
    const struct json *v = json_get(r->root, key);
    return json_is_null(v) ? NULL : v;
}

bool config_has(const struct config_reader *r, const char *key)
{
    return value_of(r, key) != NULL;
}

int config_int_or(struct config_reader *r, const char *key, int min, int max, int fallback)
{
    const struct json *v = value_of(r, key);
    int64_t value = fallback;
    if (v && !json_int(v, min, max, &value)) {
        if (json_is_number(v))
            config_fail(r, "%s is out of range (expected %d to %d, found %.15g)", key, min, max,
                        json_number(v, NAN));
        else
            config_fail(r, "%s is not a number (expected %d to %d)", key, min, max);
        return min;
    }
    return (int)value;
}

static void require(struct config_reader *r, const char *key)
{
    if (!config_has(r, key))
        config_fail(r, "%s is missing", key);
}

int config_int(struct config_reader *r, const char *key, int min, int max)
{
    require(r, key);
    return config_int_or(r, key, min, max, min);
}

double config_number_or(struct config_reader *r, const char *key, double min, double max,
                        double fallback)
{
    const struct json *v = value_of(r, key);
    if (!v)
        return fallback;
    double value = json_number(v, NAN);
    if (value >= min && value <= max)
        return value;
    if (json_is_number(v))
        config_fail(r, "%s is out of range (expected %g to %g, found %.15g)", key, min, max, value);
    else
        config_fail(r, "%s is not a number (expected %g to %g)", key, min, max);
    return min;
}

double config_number(struct config_reader *r, const char *key, double min, double max)
{
    require(r, key);
    return config_number_or(r, key, min, max, min);
}

bool config_bool_or(struct config_reader *r, const char *key, bool fallback)
{
    const struct json *v = value_of(r, key);
    if (v && !json_is_bool(v))
        config_fail(r, "%s is not true or false", key);
    return json_bool(v, fallback);
}

const char *config_string_or(struct config_reader *r, const char *key, const char *fallback)
{
    const struct json *v = value_of(r, key);
    if (!v)
        return fallback;
    if (!json_is_string(v)) {
        config_fail(r, "%s is not a string", key);
        return fallback;
    }
    return json_string(v);
}
