/* Records: plain structs are written and read through tables of their fields, so that the two
 * directions cannot part. */
#include "sessions/session_record.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/base/utf8.h"
#include "sessions/base64.h"

enum field_kind {
    FIELD_INT,
    FIELD_INT64,
    FIELD_UINT64,
    FIELD_DOUBLE,
    FIELD_FLOAT,
    FIELD_BOOL,
    FIELD_STRING,
    FIELD_CHARS
};

struct field {
    const char *key;
    enum field_kind kind;
    size_t offset;
    size_t size; /* FIELD_CHARS: of the array */
};

#define FIELD(type, kind, member)                                                                  \
    {                                                                                              \
#member, kind, offsetof(type, member), 0                                                   \
    }
#define CHARS(type, member)                                                                        \
    {                                                                                              \
#member, FIELD_CHARS, offsetof(type, member), sizeof((type *)0)->member                    \
    }

static const struct field model_fields[] = {
    FIELD(struct model_info, FIELD_STRING, path),
    FIELD(struct model_info, FIELD_STRING, name),
    CHARS(struct model_info, family),
    CHARS(struct model_info, dtype),
    CHARS(struct model_info, kv_dtype),
    CHARS(struct model_info, backend),
    FIELD(struct model_info, FIELD_STRING, device),
    FIELD(struct model_info, FIELD_STRING, no_gpu),
    FIELD(struct model_info, FIELD_STRING, template_source),
    FIELD(struct model_info, FIELD_STRING, warnings),
    FIELD(struct model_info, FIELD_INT, n_layers),
    FIELD(struct model_info, FIELD_INT, n_heads),
    FIELD(struct model_info, FIELD_INT, n_kv_heads),
    FIELD(struct model_info, FIELD_INT, head_dim),
    FIELD(struct model_info, FIELD_INT, dim),
    FIELD(struct model_info, FIELD_INT, vocab_size),
    FIELD(struct model_info, FIELD_INT, max_seq_len),
    FIELD(struct model_info, FIELD_UINT64, n_params),
    FIELD(struct model_info, FIELD_UINT64, weight_bytes),
    FIELD(struct model_info, FIELD_UINT64, kv_bytes_per_token),
    FIELD(struct model_info, FIELD_DOUBLE, load_ms),
};

static const struct field context_fields[] = {
    FIELD(struct context_info, FIELD_INT, n_tokens),
    FIELD(struct context_info, FIELD_INT, n_cut),
    FIELD(struct context_info, FIELD_BOOL, reused),
    FIELD(struct context_info, FIELD_DOUBLE, prefill_ms),
    FIELD(struct context_info, FIELD_UINT64, kv_bytes),
    FIELD(struct context_info, FIELD_STRING, notice),
};

static const struct field token_fields[] = {
    FIELD(struct token_event, FIELD_INT, question),
    FIELD(struct token_event, FIELD_INT, lane),
    FIELD(struct token_event, FIELD_INT, index),
    FIELD(struct token_event, FIELD_INT, id),
    FIELD(struct token_event, FIELD_FLOAT, logprob),
    FIELD(struct token_event, FIELD_INT64, step_us),
    FIELD(struct token_event, FIELD_INT64, attention_us),
    FIELD(struct token_event, FIELD_INT64, at_us),
    FIELD(struct token_event, FIELD_BOOL, probed),
    FIELD(struct token_event, FIELD_BOOL, cached),
};

static const struct field metrics_fields[] = {
    FIELD(struct lane_metrics, FIELD_INT, question),
    FIELD(struct lane_metrics, FIELD_INT, lane),
    FIELD(struct lane_metrics, FIELD_INT, n_tokens),
    FIELD(struct lane_metrics, FIELD_DOUBLE, density),
    FIELD(struct lane_metrics, FIELD_DOUBLE, read_density),
    FIELD(struct lane_metrics, FIELD_DOUBLE, attention_us_per_token),
    FIELD(struct lane_metrics, FIELD_DOUBLE, step_ms_per_token),
    FIELD(struct lane_metrics, FIELD_DOUBLE, index_build_ms),
    FIELD(struct lane_metrics, FIELD_DOUBLE, question_ms),
    FIELD(struct lane_metrics, FIELD_DOUBLE, answer_ms),
    FIELD(struct lane_metrics, FIELD_DOUBLE, ttft_ms),
    FIELD(struct lane_metrics, FIELD_DOUBLE, itl_ms),
    FIELD(struct lane_metrics, FIELD_DOUBLE, speedup_attention),
    FIELD(struct lane_metrics, FIELD_DOUBLE, speedup_step),
    FIELD(struct lane_metrics, FIELD_DOUBLE, speedup_answer),
    FIELD(struct lane_metrics, FIELD_BOOL, reads_all_keys),
    FIELD(struct lane_metrics, FIELD_DOUBLE, jaccard),
    FIELD(struct lane_metrics, FIELD_DOUBLE, agreement),
    FIELD(struct lane_metrics, FIELD_DOUBLE, mean_kl),
    FIELD(struct lane_metrics, FIELD_DOUBLE, recall_mean),
    FIELD(struct lane_metrics, FIELD_DOUBLE, recall_worst),
    FIELD(struct lane_metrics, FIELD_INT, recall_worst_layer),
    FIELD(struct lane_metrics, FIELD_INT, recall_worst_head),
    FIELD(struct lane_metrics, FIELD_UINT64, kv_bytes_per_step),
    FIELD(struct lane_metrics, FIELD_UINT64, kv_bytes_per_step_dense),
    FIELD(struct lane_metrics, FIELD_UINT64, rescued),
};

static const struct field divergence_fields[] = {
    FIELD(struct divergence, FIELD_INT, index),
    FIELD(struct divergence, FIELD_INT, base_id),
    FIELD(struct divergence, FIELD_INT, lane_id),
    FIELD(struct divergence, FIELD_STRING, base_text),
    FIELD(struct divergence, FIELD_STRING, lane_text),
    FIELD(struct divergence, FIELD_FLOAT, base_prob),
    FIELD(struct divergence, FIELD_FLOAT, lane_prob),
    FIELD(struct divergence, FIELD_FLOAT, margin),
    FIELD(struct divergence, FIELD_BOOL, margin_is_bound),
    FIELD(struct divergence, FIELD_BOOL, near_tie),
};

static const struct field layer_fields[] = {
    FIELD(struct layer_probe, FIELD_INT, layer),
    FIELD(struct layer_probe, FIELD_DOUBLE, recall_mean),
    FIELD(struct layer_probe, FIELD_DOUBLE, recall_worst),
    FIELD(struct layer_probe, FIELD_INT, worst_head),
    FIELD(struct layer_probe, FIELD_DOUBLE, output_error),
    FIELD(struct layer_probe, FIELD_INT, n_rows),
};

#define N_FIELDS(fields) (sizeof(fields) / sizeof(fields)[0])

void record_set_bytes(struct json *record, const char *key, const char *bytes, size_t n)
{
    if (utf8_valid(bytes, n, NULL) && !memchr(bytes, '\0', n)) {
        json_set_string_n(record, key, bytes, n);
        return;
    }
    char key_b64[64];
    snprintf(key_b64, sizeof key_b64, "%s_b64", key);
    struct buf text = {0};
    base64_encode(&text, bytes, n);
    json_set_string_n(record, key_b64, text.data, text.len);
    buf_free(&text);
}

bool record_get_bytes(const struct json *record, const char *key, struct buf *out)
{
    const char *text = json_string(json_get(record, key));
    if (text) {
        buf_append_str(out, text);
        return true;
    }
    char key_b64[64];
    snprintf(key_b64, sizeof key_b64, "%s_b64", key);
    text = json_string(json_get(record, key_b64));
    return text && base64_decode(out, text);
}

static void write_field(struct json *to, const struct field *f, const void *from)
{
    const char *at = (const char *)from + f->offset;
    switch (f->kind) {
    case FIELD_INT:
        json_set_int(to, f->key, *(const int32_t *)at);
        break;
    case FIELD_INT64:
    case FIELD_UINT64:
        json_set_int(to, f->key, *(const int64_t *)at);
        break;
    case FIELD_DOUBLE:
        json_set_number(to, f->key, *(const double *)at);
        break;
    case FIELD_FLOAT:
        json_set_number(to, f->key, (double)*(const float *)at);
        break;
    case FIELD_BOOL:
        json_set_bool(to, f->key, *(const bool *)at);
        break;
    case FIELD_STRING:
        if (*(char *const *)at)
            record_set_bytes(to, f->key, *(char *const *)at, strlen(*(char *const *)at));
        break;
    case FIELD_CHARS:
        record_set_bytes(to, f->key, at, strnlen(at, f->size));
        break;
    }
}

static void read_field(const struct json *from, const struct field *f, void *to)
{
    char *at = (char *)to + f->offset;
    const struct json *v = json_get(from, f->key);
    const int64_t limit = INT64_C(1) << 53;
    int64_t number = 0;
    struct buf text = {0};
    switch (f->kind) {
    case FIELD_INT:
        json_int(v, INT32_MIN, INT32_MAX, &number);
        *(int32_t *)at = (int32_t)number;
        break;
    case FIELD_INT64:
    case FIELD_UINT64:
        json_int(v, f->kind == FIELD_UINT64 ? 0 : -limit, limit, &number);
        *(int64_t *)at = number;
        break;
    case FIELD_DOUBLE:
        *(double *)at = json_number(v, 0);
        break;
    case FIELD_FLOAT:
        *(float *)at = (float)json_number(v, 0);
        break;
    case FIELD_BOOL:
        *(bool *)at = json_bool(v, false);
        break;
    case FIELD_STRING:
        *(char **)at = record_get_bytes(from, f->key, &text) ? buf_take(&text) : NULL;
        break;
    case FIELD_CHARS:
        if (record_get_bytes(from, f->key, &text))
            snprintf(at, f->size, "%s", text.data ? text.data : "");
        break;
    }
    buf_free(&text);
}

static void write_fields(struct json *to, const struct field *fields, size_t n, const void *from)
{
    for (size_t i = 0; i < n; i++)
        write_field(to, &fields[i], from);
}

static void read_fields(const struct json *from, const struct field *fields, size_t n, void *to)
{
    for (size_t i = 0; i < n; i++)
        read_field(from, &fields[i], to);
}

struct json *record_from_model(const struct model_info *model)
{
    struct json *record = json_new_object();
    json_set_string(record, "ev", "model");
    write_fields(record, model_fields, N_FIELDS(model_fields), model);
    return record;
}

void record_to_model(const struct json *record, struct model_info *out)
{
    *out = (struct model_info){0};
    read_fields(record, model_fields, N_FIELDS(model_fields), out);
}

static void metrics_write(struct json *record, const struct lane_metrics *m)
{
    write_fields(record, metrics_fields, N_FIELDS(metrics_fields), m);
    if (m->divergence.index >= 0) {
        struct json *divergence = json_new_object();
        write_fields(divergence, divergence_fields, N_FIELDS(divergence_fields), &m->divergence);
        json_set(record, "divergence", divergence);
    }
    if (!m->layers)
        return;
    struct json *layers = json_new_array();
    for (int i = 0; i < m->n_layers; i++) {
        struct json *layer = json_new_object();
        write_fields(layer, layer_fields, N_FIELDS(layer_fields), &m->layers[i]);
        json_add(layers, layer);
    }
    json_set(record, "layers", layers);
}

static void metrics_read(const struct json *record, struct lane_metrics *m)
{
    read_fields(record, metrics_fields, N_FIELDS(metrics_fields), m);
    m->divergence.index = -1;
    const struct json *divergence = json_get(record, "divergence");
    if (json_is_object(divergence))
        read_fields(divergence, divergence_fields, N_FIELDS(divergence_fields), &m->divergence);
    const struct json *layers = json_get(record, "layers");
    size_t n = json_count(layers);
    if (!n)
        return;
    m->layers = xcalloc(n, sizeof *m->layers);
    m->n_layers = (int)n;
    int i = 0;
    for (const struct json *layer = json_first(layers); layer; layer = json_next(layer))
        read_fields(layer, layer_fields, N_FIELDS(layer_fields), &m->layers[i++]);
}

static const char *const event_names[] = {
    [EVENT_LOADED] = "model",    [EVENT_CONTEXT] = "prefill", [EVENT_TOKEN] = "tok",
    [EVENT_METRICS] = "metrics", [EVENT_DONE] = "done",       [EVENT_FINISHED] = "end",
    [EVENT_FAILED] = "failed",
};

static void event_write(struct json *record, const struct event *e)
{
    switch (e->kind) {
    case EVENT_LOADED:
        write_fields(record, model_fields, N_FIELDS(model_fields), &e->loaded);
        break;
    case EVENT_CONTEXT:
        write_fields(record, context_fields, N_FIELDS(context_fields), &e->context);
        break;
    case EVENT_TOKEN: {
        write_fields(record, token_fields, N_FIELDS(token_fields), &e->token);
        struct buf b64 = {0};
        base64_encode(&b64, e->token.text, e->token.n_text);
        json_set_string_n(record, "b64", b64.data ? b64.data : "", b64.len);
        buf_free(&b64);
        break;
    }
    case EVENT_METRICS:
        metrics_write(record, &e->metrics);
        break;
    case EVENT_DONE:
        json_set_int(record, "question", e->done.question);
        json_set_int(record, "lane", e->done.lane);
        json_set_string(record, "finish", finish_name(e->done.finish));
        if (e->done.error)
            record_set_bytes(record, "error", e->done.error, strlen(e->done.error));
        if (e->done.device_lost)
            json_set_bool(record, "device_lost", true);
        break;
    case EVENT_FINISHED:
        json_set_bool(record, "cancelled", e->finished.cancelled);
        json_set_number(record, "wall_ms", e->finished.wall_ms);
        break;
    case EVENT_FAILED:
        json_set_int(record, "code", e->failed.code);
        record_set_bytes(record, "text", e->failed.text, strlen(e->failed.text));
        if (e->device_lost)
            json_set_bool(record, "device_lost", true);
        break;
    case EVENT_EVIDENCE:
    case EVENT_PROGRESS:
        break;
    }
}

struct json *record_from_event(const struct event *e)
{
    if (e->kind == EVENT_PROGRESS || e->kind == EVENT_EVIDENCE)
        return NULL;
    struct json *record = json_new_object();
    json_set_string(record, "ev", event_names[e->kind]);
    event_write(record, e);
    return record;
}

static enum finish finish_from_name(const char *name)
{
    for (int finish = FINISH_STOP; name && finish <= FINISH_ERROR; finish++)
        if (strcmp(name, finish_name((enum finish)finish)) == 0)
            return (enum finish)finish;
    return FINISH_ERROR;
}

static int int_of(const struct json *record, const char *key)
{
    int64_t value = 0;
    json_int(json_get(record, key), INT32_MIN, INT32_MAX, &value);
    return (int)value;
}

static void event_read(const struct json *record, struct event *e)
{
    struct buf text = {0};
    const char *b64;
    switch (e->kind) {
    case EVENT_LOADED:
        record_to_model(record, &e->loaded);
        break;
    case EVENT_CONTEXT:
        read_fields(record, context_fields, N_FIELDS(context_fields), &e->context);
        break;
    case EVENT_TOKEN:
        read_fields(record, token_fields, N_FIELDS(token_fields), &e->token);
        b64 = json_string(json_get(record, "b64"));
        if (b64)
            base64_decode(&text, b64);
        e->token.n_text = text.len;
        e->token.text = buf_take(&text);
        break;
    case EVENT_METRICS:
        metrics_read(record, &e->metrics);
        break;
    case EVENT_DONE:
        e->done.question = int_of(record, "question");
        e->done.lane = int_of(record, "lane");
        e->done.finish = finish_from_name(json_string(json_get(record, "finish")));
        if (record_get_bytes(record, "error", &text))
            e->done.error = buf_take(&text);
        e->done.device_lost = json_bool(json_get(record, "device_lost"), false);
        break;
    case EVENT_FINISHED:
        e->finished.cancelled = json_bool(json_get(record, "cancelled"), false);
        e->finished.wall_ms = json_number(json_get(record, "wall_ms"), 0);
        break;
    case EVENT_FAILED:
        e->failed.code = (enum exit_code)int_of(record, "code");
        if (record_get_bytes(record, "text", &text) && text.data)
            snprintf(e->failed.text, sizeof e->failed.text, "%s", text.data);
        e->device_lost = json_bool(json_get(record, "device_lost"), false);
        break;
    case EVENT_EVIDENCE:
    case EVENT_PROGRESS:
        break;
    }
    buf_free(&text);
}

bool record_to_event(const struct json *record, struct event *out)
{
    const char *name = json_string(json_get(record, "ev"));
    for (size_t kind = 0; name && kind < N_FIELDS(event_names); kind++) {
        if (!event_names[kind] || strcmp(name, event_names[kind]) != 0)
            continue;
        *out = (struct event){.kind = (enum event_kind)kind};
        out->at_us = (int64_t)(json_number(json_get(record, "t"), 0) * 1e6);
        event_read(record, out);
        return true;
    }
    return false;
}
