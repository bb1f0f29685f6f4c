/* The object that `ask --json` prints.  Scripts rely on its keys: they are added to, never changed.
 * A figure that is not known is null. */
#include <string.h>

#include "engine/run/report.h"

static void set_text(struct json *object, const char *key, const char *text)
{
    if (text)
        json_set_string(object, key, text);
    else
        json_set_null(object, key);
}

/* 0 stands for "not known yet" in speed-ups and times. */
static void set_positive(struct json *object, const char *key, double value)
{
    if (value > 0)
        json_set_number(object, key, value);
    else
        json_set_null(object, key);
}

static void set_ratio(struct json *object, const char *key, double value, bool known)
{
    if (known)
        json_set_number(object, key, value);
    else
        json_set_null(object, key);
}

static struct json *model_to_json(const struct model_info *m)
{
    if (!m->path)
        return NULL;
    struct json *v = json_new_object();
    json_set_string(v, "path", m->path);
    json_set_string(v, "family", m->family);
    json_set_int(v, "params", (int64_t)m->n_params);
    json_set_string(v, "dtype", m->dtype);
    return v;
}

static struct json *side_to_json(int32_t id, const char *text, float prob)
{
    struct json *v = json_new_object();
    json_set_int(v, "id", id);
    json_set_string(v, "text", text ? text : "");
    json_set_number(v, "prob", prob);
    return v;
}

static void set_divergence(struct json *lane, const struct divergence *d)
{
    if (d->index < 0) {
        json_set_null(lane, "divergence");
        return;
    }
    struct json *v = json_new_object();
    json_set_int(v, "index", d->index);
    if (d->base_id >= 0)
        json_set(v, "dense", side_to_json(d->base_id, d->base_text, d->base_prob));
    else
        json_set_null(v, "dense");
    if (d->lane_id >= 0)
        json_set(v, "sparse", side_to_json(d->lane_id, d->lane_text, d->lane_prob));
    else
        json_set_null(v, "sparse");
    if (d->base_id >= 0 && d->lane_id >= 0) {
        json_set_number(v, "margin", d->margin);
        json_set_bool(v, "margin_is_bound", d->margin_is_bound);
    } else {
        json_set_null(v, "margin");
    }
    json_set_bool(v, "near_tie", d->near_tie);
    json_set(lane, "divergence", v);
}

static struct json *layers_to_json(const struct lane_metrics *m)
{
    struct json *layers = json_new_array();
    for (int i = 0; m->layers && i < m->n_layers; i++) {
        const struct layer_probe *p = &m->layers[i];
        if (p->n_rows == 0)
            continue;
        struct json *v = json_new_object();
        json_set_int(v, "layer", p->layer);
        json_set_number(v, "recall", p->recall_mean);
        json_set_number(v, "recall_worst", p->recall_worst);
        json_set_int(v, "worst_head", p->worst_head);
        json_set_number(v, "output_error", p->output_error);
        json_add(layers, v);
    }
    return layers;
}

static struct json *speedup_to_json(const struct lane_metrics *m)
{
    struct json *v = json_new_object();
    set_positive(v, "attention", m->speedup_attention);
    set_positive(v, "step", m->speedup_step);
    set_positive(v, "answer", m->speedup_answer);
    return v;
}

static void set_figures(struct json *v, const struct lane_metrics *m)
{
    set_ratio(v, "density", m->density, m->density >= 0);
    set_ratio(v, "read_density", m->read_density, m->read_density >= 0);
    set_ratio(v, "sparsity", 1 - m->density, m->density >= 0);
    json_set_number(v, "index_build_ms", m->index_build_ms);
    set_positive(v, "attention_us_per_token", m->attention_us_per_token);
    set_positive(v, "step_ms_per_token", m->step_ms_per_token);
    set_positive(v, "answer_ms", m->answer_ms);
    set_positive(v, "ttft_ms", m->ttft_ms);
    json_set(v, "speedup", speedup_to_json(m));
    set_ratio(v, "jaccard", m->jaccard, m->jaccard >= 0);
    set_divergence(v, &m->divergence);
    if (m->agreement >= 0) { /* forced mode only */
        json_set_number(v, "agreement", m->agreement);
        json_set_number(v, "mean_kl", m->mean_kl);
    }
    json_set(v, "layers", layers_to_json(m));
}

static struct json *lane_to_json(const struct request_lane *asked, const struct report_lane *lane)
{
    struct json *v = json_new_object();
    struct json *ids = json_new_array();
    for (size_t i = 0; i < lane->n_tokens; i++)
        json_add_int(ids, lane->tokens[i].id);
    json_set_string(v, "name", asked->name);
    json_set(v, "stack", stack_items_to_json(&asked->stack));
    json_set_string_n(v, "answer", lane->answer.data ? lane->answer.data : "", lane->answer.len);
    json_set(v, "token_ids", ids);
    set_text(v, "finish", lane->done ? finish_name(lane->finish) : NULL);
    if (lane->error)
        json_set_string(v, "error", lane->error);
    set_figures(v, &lane->metrics);
    return v;
}

struct json *report_to_json(const struct report *r)
{
    const struct request *request = r->request;
    struct json *v = json_new_object(), *questions = json_new_array();
    struct json *model = model_to_json(&r->model);
    json_set_string(v, "attnscope", ATTNSCOPE_VERSION);
    if (model)
        json_set(v, "model", model);
    else
        json_set_null(v, "model");
    set_text(v, "backend", r->model.path ? r->model.backend : NULL);
    set_text(v, "device", r->model.device);
    json_set_int(v, "context_tokens", r->context.n_tokens);
    json_set_number(v, "prefill_ms", r->context.prefill_ms);
    for (int q = 0; q < request->n_questions; q++) {
        struct json *question = json_new_object(), *lanes = json_new_array();
        for (int i = 0; i < request->n_lanes; i++)
            json_add(lanes, lane_to_json(&request->lanes[i], &r->lanes[q * request->n_lanes + i]));
        json_set_string(question, "question", request->questions[q]);
        json_set(question, "lanes", lanes);
        json_add(questions, question);
    }
    json_set(v, "questions", questions);
    return v;
}
