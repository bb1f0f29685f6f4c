#include "engine/run/figures.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/attention/metrics.h"
#include "engine/base/memory.h"

/* --- Times -------------------------------------------------------------------------------- */

struct step_means {
    double attention_us, step_us, wall_us; /* 0 if no step is timed */
};

/* A probed step holds the probe's work.  The first decode step warms caches up, and is made by
 * itself where the others are replayed: it counts only if it is alone. */
static bool is_timed(const struct lane *l, int step)
{
    return !l->steps[step].probed && (step > 1 || l->n_steps <= 2);
}

/* Over the timed decode steps. */
static struct step_means mean_steps(const struct lane *l)
{
    struct step_means sum = {0};
    int n = 0;
    for (int i = 1; i < l->n_steps; i++) {
        const struct answer_step *s = &l->steps[i];
        if (!is_timed(l, i))
            continue;
        sum.attention_us += (double)s->attention_us;
        sum.step_us += (double)s->step_us;
        sum.wall_us += (double)s->wall_us;
        n++;
    }
    if (n) {
        sum.attention_us /= n;
        sum.step_us /= n;
        sum.wall_us /= n;
    }
    return sum;
}

/* Index build, question pass and all decode steps, those not timed at the mean of the timed. */
static double answer_ms(const struct lane *l, double mean_step_us)
{
    double us = 0;
    for (int i = 0; i < l->n_steps; i++) {
        bool use_mean = i > 0 && !is_timed(l, i) && mean_step_us > 0;
        us += use_mean ? mean_step_us : (double)l->steps[i].step_us;
    }
    return l->index_build_ms + us * 1e-3;
}

static void fill_times(const struct lane *l, struct lane_metrics *out)
{
    struct step_means mean = mean_steps(l);
    out->attention_us_per_token = mean.attention_us;
    out->step_ms_per_token = mean.step_us * 1e-3;
    out->itl_ms = mean.wall_us * 1e-3;
    out->index_build_ms = l->index_build_ms;
    out->question_ms = l->n_steps ? (double)l->steps[0].step_us * 1e-3 : 0;
    out->ttft_ms = l->n_steps ? l->index_build_ms + out->question_ms : 0;
    out->answer_ms = answer_ms(l, mean.step_us);
}

static void fill_speedups(const struct lane *l, const struct lane *base, struct lane_metrics *out)
{
    struct lane_metrics b = {0};
    fill_times(base, &b);
    out->speedup_attention = metric_speedup(b.attention_us_per_token, out->attention_us_per_token);
    out->speedup_step = metric_speedup(b.step_ms_per_token, out->step_ms_per_token);
    /* Of whole answers only: two halves say nothing. */
    if (l->ended && base->ended)
        out->speedup_answer = metric_speedup(b.answer_ms, out->answer_ms);
}

/* --- What was read ------------------------------------------------------------------------ */

/* K and V bytes that dense attention reads in decode step i, all layers. */
static double dense_step_bytes(const struct lane *l, int i, double row_bytes)
{
    const struct model_config *c = &l->w->loaded->model->config;
    int n_keys = l->n_context + (int)l->question->n + i;
    double rows = 0;
    for (int layer = 0; layer < c->n_layers; layer++) {
        int window = model_config_window(c, layer);
        rows += (double)c->n_kv_heads * (window > 0 && window < n_keys ? window : n_keys);
    }
    return 2 * rows * row_bytes;
}

static void fill_reads(const struct lane *l, struct lane_metrics *out)
{
    const struct model_config *c = &l->w->loaded->model->config;
    double row_bytes = (double)c->head_dim * (double)dtype_bytes(l->w->kv_dtype);
    int n_decode = l->n_steps > 1 ? l->n_steps - 1 : 0;
    double dense_bytes = 0;
    for (int i = 1; i <= n_decode; i++)
        dense_bytes += dense_step_bytes(l, i, row_bytes) / n_decode;
    out->kv_bytes_per_step_dense = (uint64_t)dense_bytes;

    struct attention_counts all = l->counted;
    bool known = l->dense || l->n_steps > 0;
    out->density = known ? metric_density(&all) : -1;
    out->read_density = known ? metric_read_density(&all) : -1;
    out->rescued = all.rescued;
    out->reads_all_keys = stack_reads_all_keys(&l->request->lanes[l->index].stack);
    if (!l->counts) {
        out->kv_bytes_per_step = out->kv_bytes_per_step_dense;
    } else if (n_decode) {
        uint64_t pairs = all.rows_read - l->question_counts.rows_read;
        uint64_t halves = all.score_rows - l->question_counts.score_rows;
        out->kv_bytes_per_step =
            (uint64_t)((2 * (double)pairs + (double)halves) * row_bytes / n_decode);
    }
}

static void fill_probes(const struct lane *l, struct lane_metrics *out)
{
    out->recall_mean = out->recall_worst = -1;
    out->n_layers = l->w->loaded->model->config.n_layers;
    if (l->dense || !l->attention)
        return;
    struct layer_probe *layers = xcalloc((size_t)out->n_layers, sizeof *layers);
    sparse_attention_probe_result(l->attention, layers);
    double sum = 0;
    int n = 0;
    for (int i = 0; i < out->n_layers; i++) {
        if (layers[i].n_rows == 0)
            continue;
        sum += layers[i].recall_mean;
        if (n++ == 0 || layers[i].recall_worst < out->recall_worst) {
            out->recall_worst = layers[i].recall_worst;
            out->recall_worst_layer = layers[i].layer;
            out->recall_worst_head = layers[i].worst_head;
        }
    }
    if (n == 0) {
        free(layers);
        return;
    }
    out->recall_mean = sum / n;
    out->layers = layers;
}

/* --- Against the baseline ----------------------------------------------------------------- */

static char *decoded(const struct lane *l, int32_t id)
{
    struct buf text = {0};
    tokenizer_decode(l->w->loaded->tokenizer, &id, 1, false, &text);
    return buf_take(&text);
}

static int first_difference(const struct lane *l, const struct lane *base)
{
    int n = l->n_steps < base->n_steps ? l->n_steps : base->n_steps;
    for (int i = 0; i < n; i++)
        if (l->steps[i].pick.token != base->steps[i].pick.token)
            return i;
    bool base_short = base->ended && base->n_steps < l->n_steps;
    bool lane_short = l->ended && l->n_steps < base->n_steps;
    return base_short || lane_short ? n : -1;
}

/* How far base's distribution sets its own token above lane_id. */
static void fill_margin(const struct pick *base, int32_t lane_id, struct divergence *d)
{
    d->margin_is_bound = true;
    float best = base->logit;
    for (int i = 0; i < base->n_top && i < PICK_TOP; i++) {
        d->margin = best - base->top_logits[i];
        if (base->top_ids[i] == lane_id) {
            d->margin_is_bound = false;
            break;
        }
    }
    d->near_tie = !d->margin_is_bound && fabsf(d->margin) < (float)METRIC_NEAR_TIE;
}

static void fill_divergence(const struct lane *l, const struct lane *base, struct divergence *d)
{
    d->base_id = d->lane_id = -1;
    d->index = first_difference(l, base);
    if (d->index < 0)
        return;
    if (d->index < base->n_steps) {
        const struct answer_step *s = &base->steps[d->index];
        d->base_id = s->pick.token;
        d->base_prob = expf(answer_logprob(s));
        d->base_text = decoded(base, d->base_id);
    }
    if (d->index < l->n_steps) {
        const struct answer_step *s = &l->steps[d->index];
        d->lane_id = s->pick.token;
        d->lane_prob = expf(answer_logprob(s));
        d->lane_text = decoded(l, d->lane_id);
    }
    if (d->base_id >= 0 && d->lane_id >= 0)
        fill_margin(&base->steps[d->index].pick, d->lane_id, d);
}

static void fill_agreement(const struct lane *l, const struct lane *base, struct lane_metrics *out)
{
    out->agreement = out->mean_kl = -1;
    int n = l->n_steps < base->n_steps ? l->n_steps : base->n_steps;
    if (!l->request->forced || n == 0)
        return;
    int n_equal = 0;
    double kl = 0;
    for (int i = 0; i < n; i++) {
        n_equal += l->steps[i].pick.token == base->steps[i].pick.token;
        kl += l->steps[i].kl;
    }
    out->agreement = (double)n_equal / n;
    out->mean_kl = kl / n;
}

void figures_of_lane(const struct lane *l, const struct lane *base, struct lane_metrics *out)
{
    memset(out, 0, sizeof *out);
    out->question = l->question_index;
    out->lane = l->index;
    out->n_tokens = l->n_steps;
    fill_times(l, out);
    fill_speedups(l, base, out);
    fill_reads(l, out);
    fill_probes(l, out);
    fill_divergence(l, base, &out->divergence);
    fill_agreement(l, base, out);
    out->jaccard = metric_jaccard(base->text.data ? base->text.data : "", base->text.len,
                                  l->text.data ? l->text.data : "", l->text.len);
}
