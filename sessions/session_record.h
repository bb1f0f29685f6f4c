/* One line of a session log: engine events and requests as JSON, and back.
 * docs/session-format.md lists the fields. */
#ifndef ATTNSCOPE_SESSIONS_SESSION_RECORD_H
#define ATTNSCOPE_SESSIONS_SESSION_RECORD_H

#include <stdbool.h>

#include "engine/base/json.h"
#include "engine/run/event.h"
#include "engine/run/request.h"

/* An object without "t"; NULL for events that are not logged (progress).  The caller frees. */
struct json *record_from_event(const struct event *event);
/* Fills out (free with event_free); false if the record is no event of the engine's. */
bool record_to_event(const struct json *record, struct event *out);

struct json *record_from_model(const struct model_info *model);
void record_to_model(const struct json *record, struct model_info *out);

/* Requests without their context, which is a record of its own. */
struct json *record_from_request(const struct request *request);
/* NULL if the record is broken.  context [n_context] is copied in. */
struct request *record_to_request(const struct json *record, const char *context, size_t n_context);

/* Sets key to the text where it is valid UTF-8 without NUL, else key_b64 to its bytes. */
void record_set_bytes(struct json *record, const char *key, const char *bytes, size_t n);
/* The bytes that record_set_bytes stored; false if neither is there. */
bool record_get_bytes(const struct json *record, const char *key, struct buf *out);

#endif
