/* The strict scanner in front of cJSON: says whether bytes are one JSON value, and builds nothing.
 * Source: RFC 8259, with the limits that json.h lists. */
#ifndef ATTNSCOPE_ENGINE_BASE_JSON_SCAN_H
#define ATTNSCOPE_ENGINE_BASE_JSON_SCAN_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/error.h"

enum {
    JSON_MAX_DEPTH = 64,
    JSON_MAX_NUMBER = 63 /* characters of a number: cJSON copies it into a buffer of 64 */
};

/* True if text [n bytes] passes; otherwise err names the line, the column and the rule. */
bool json_scan(const char *text, size_t n, const char *name, struct error *err);

#endif
