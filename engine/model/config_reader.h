/* Reading one JSON object of settings with bounds.  The first failure is kept in err and turns ok
 * to false; later calls go on harmlessly, so that a reader is a straight list of fields. */
#ifndef ATTNSCOPE_ENGINE_MODEL_CONFIG_READER_H
#define ATTNSCOPE_ENGINE_MODEL_CONFIG_READER_H

#include <stdbool.h>

#include "engine/base/error.h"
#include "engine/base/json.h"

struct config_reader {
    const struct json *root;
    const char *path; /* for messages */
    struct error *err;
    bool ok;
};

/* A member that is absent or null has no value. */
bool config_has(const struct config_reader *r, const char *key);
/* A whole number of min..max; without a value: an error, or the fallback. */
int config_int(struct config_reader *r, const char *key, int min, int max);
int config_int_or(struct config_reader *r, const char *key, int min, int max, int fallback);
double config_number(struct config_reader *r, const char *key, double min, double max);
double config_number_or(struct config_reader *r, const char *key, double min, double max,
                        double fallback);
bool config_bool_or(struct config_reader *r, const char *key, bool fallback);
/* Borrowed from the JSON. */
const char *config_string_or(struct config_reader *r, const char *key, const char *fallback);
/* Notes a failure of the reader's own: "PATH: ..." */
void config_fail(struct config_reader *r, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
