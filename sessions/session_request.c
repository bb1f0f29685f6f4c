/* Requests as records: what was asked, without the context, which has a record of its own. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "sessions/session_record.h"

static const char *const keep_names[] = {
    [KEEP_HEAD] = "head", [KEEP_TAIL] = "tail", [KEEP_MIDDLE_CUT] = "middle"};

struct json *record_from_request(const struct request *request)
{
    struct json *record = json_new_object();
    json_set_string(record, "ev", "run");
    struct json *questions = json_new_array();
    for (int i = 0; i < request->n_questions; i++)
        json_add_string(questions, request->questions[i]);
    json_set(record, "questions", questions);
    struct json *lanes = json_new_array();
    for (int i = 0; i < request->n_lanes; i++) {
        struct json *lane = json_new_object();
        json_set_string(lane, "name", request->lanes[i].name);
        json_set(lane, "stack", stack_items_to_json(&request->lanes[i].stack));
        json_add(lanes, lane);
    }
    json_set(record, "lanes", lanes);
    char seed[24];
    snprintf(seed, sizeof seed, "%" PRIu64, request->seed);
    json_set_string(record, "seed", seed);
    if (request->answer_prefix)
        json_set_string(record, "answer_prefix", request->answer_prefix);
    json_set_int(record, "max_tokens", request->max_tokens);
    json_set_int(record, "max_context", request->max_context);
    if (request->keep_given)
        json_set_string(record, "keep", keep_names[request->keep]);
    json_set_string(record, "setup", request->setup == SETUP_A ? "A" : "B");
    json_set_bool(record, "forced", request->forced);
    json_set_bool(record, "probe", request->probe);
    json_set_number(record, "temperature", (double)request->sampling.temperature);
    json_set_number(record, "top_p", (double)request->sampling.top_p);
    json_set_number(record, "min_p", (double)request->sampling.min_p);
    json_set_int(record, "top_k", request->sampling.top_k);
    return record;
}

static bool lanes_read(struct request *r, const struct json *lanes)
{
    r->n_lanes = 0;
    for (const struct json *lane = json_first(lanes); lane; lane = json_next(lane)) {
        const char *name = json_string(json_get(lane, "name"));
        struct stack stack;
        if (!stack_from_json(&stack, json_get(lane, "stack"), "session", NULL) ||
            !request_add_lane(r, name ? name : "", &stack, NULL))
            return false;
    }
    return r->n_lanes > 0;
}

static int int_of(const struct json *record, const char *key, int fallback)
{
    int64_t value = fallback;
    json_int(json_get(record, key), INT32_MIN, INT32_MAX, &value);
    return (int)value;
}

struct request *record_to_request(const struct json *record, const char *context, size_t n_context)
{
    struct request *r = xcalloc(1, sizeof *r);
    request_init(r);
    bool ok = lanes_read(r, json_get(record, "lanes"));
    const struct json *questions = json_get(record, "questions");
    for (const struct json *q = json_first(questions); ok && q; q = json_next(q))
        ok = json_string(q) && request_add_question(r, json_string(q), NULL);
    if (!ok) {
        request_free(r);
        free(r);
        return NULL;
    }
    r->context = xmemdup0(context, n_context);
    r->n_context = n_context;
    const char *seed = json_string(json_get(record, "seed"));
    r->seed = seed ? strtoull(seed, NULL, 10) : 0;
    const char *prefix = json_string(json_get(record, "answer_prefix"));
    r->answer_prefix = prefix ? xstrdup(prefix) : NULL;
    r->max_tokens = int_of(record, "max_tokens", 0);
    r->max_context = int_of(record, "max_context", 0);
    const char *keep = json_string(json_get(record, "keep"));
    for (int k = KEEP_HEAD; keep && k <= KEEP_MIDDLE_CUT; k++) {
        if (strcmp(keep, keep_names[k]) == 0) {
            r->keep = (enum keep)k;
            r->keep_given = true;
        }
    }
    const char *setup = json_string(json_get(record, "setup"));
    r->setup = setup && strcmp(setup, "A") == 0 ? SETUP_A : SETUP_B;
    r->forced = json_bool(json_get(record, "forced"), false);
    r->probe = json_bool(json_get(record, "probe"), true);
    r->sampling.temperature = (float)json_number(json_get(record, "temperature"), 0);
    r->sampling.top_p = (float)json_number(json_get(record, "top_p"), 1);
    r->sampling.min_p = (float)json_number(json_get(record, "min_p"), 0);
    r->sampling.top_k = int_of(record, "top_k", 0);
    return r;
}
