/* As many random keys as the softmax denominator needs to be known well enough.
 *
 * A base sample of what is left is read, which says by its spread how large a second sample of the
 * rest must be.  The base sample is kept as it is: a weight that depended on the size of the second
 * one, and so on what the first one held, would bias the sums. */
#include <math.h>

#include "kernels/adaptive_budget.h"
#include "kernels/cpu/draw_weighted.h"
#include "kernels/normal_quantile.h"

struct adaptive_job {
    struct device *dev;
    struct selection *sel;
    const struct attention *att;
    struct attention_shape shape;
    const struct selection_kernels *kernels;
    const struct adaptive_sampling *sampling;
    enum share share;
    int slot;
    struct key_range window;
    double quantile;
};

/* One choice. */
struct adaptive_choice {
    struct random_draw draw;
    struct select_scratch scratch;
    int which, first_head, n_heads;
    int n_base, n_rest; /* keys of the base sample, and others */
};

/* --- Scores ----------------------------------------------------------------------------------- */

/* z [end - begin] of a head with keys [begin, end). */
static void score_range(const struct adaptive_job *job, int row, int head, int begin, int end,
                        float *z)
{
    const struct attention *att = job->att;
    const float *q = attention_query(att, &job->shape, row, head);
    for (int segment = 0; segment < KV_SEGMENTS; segment++) {
        struct key_run run =
            attention_run(att, &job->shape, head / job->shape.group, segment, begin, end);
        struct row_list k = {.base = run.k,
                             .dtype = att->kv.dtype,
                             .head_dim = job->shape.head_dim,
                             .n = run.end - run.begin};
        if (k.n > 0)
            attention_kernels(job->dev->isa)
                ->ordered_scores(z + run.begin - begin, q, att->scale, &k);
    }
}

/* z [n] of a head with ascending keys [n]. */
static void score_keys(const struct adaptive_job *job, int row, int head, const uint32_t *keys,
                       int n, float *z)
{
    const struct attention *att = job->att;
    const float *q = attention_query(att, &job->shape, row, head);
    int n_context = 0;
    while (n_context < n && (int)keys[n_context] < job->shape.n_context)
        n_context++;
    for (int segment = 0; segment < KV_SEGMENTS; segment++) {
        int at = segment == KV_CONTEXT ? 0 : n_context;
        struct key_run run =
            attention_run(att, &job->shape, head / job->shape.group, segment, 0, job->shape.n_keys);
        struct row_list k = {.base = run.k,
                             .index = keys + at,
                             .first = (uint32_t)run.begin,
                             .dtype = att->kv.dtype,
                             .head_dim = job->shape.head_dim,
                             .n = segment == KV_CONTEXT ? n_context : n - n_context};
        if (k.n > 0)
            attention_kernels(job->dev->isa)->ordered_scores(z + at, q, att->scale, &k);
    }
}

/* --- The estimate ----------------------------------------------------------------------------- */

static double weight_of(float z, float max)
{
    return exp((double)z - (double)max);
}

/* Sum of u / p over what a head holds, whose scores are z: the row's ranges, then its list. */
static double held_mass(const struct selection *sel, int row, int list_head, const float *z,
                        float max)
{
    const struct key_list *list = selection_list(sel, row, list_head);
    const float *probs = selection_probs(sel, row, list_head);
    int n_ranges = selection_ranges_length(&sel->ranges[row]);
    double sum = 0.0;
    for (int i = 0; i < n_ranges; i++)
        sum += weight_of(z[i], max);
    for (int i = 0; i < list->n; i++)
        sum += weight_of(z[n_ranges + i], max) / (double)(list->mixed ? probs[i] : list->prob);
    return sum;
}

/* z of what a head holds; returns how many. */
static int score_held(const struct adaptive_job *job, int row, int head, int list_head, float *z)
{
    const struct selection *sel = job->sel;
    const struct row_ranges *ranges = &sel->ranges[row];
    int n = 0;
    for (int i = 0; i < ranges->n; i++) {
        struct key_range range = ranges->range[i];
        score_range(job, row, head, range.begin, range.end, z + n);
        n += range.end - range.begin;
    }
    int n_listed = selection_list(sel, row, list_head)->n;
    score_keys(job, row, head, selection_keys(sel, row, list_head), n_listed, z + n);
    return n + n_listed;
}

/* Keys that a head needs of those beside the base sample, which lies in scratch.keys. */
static int keys_needed(const struct adaptive_job *job, const struct adaptive_choice *choice,
                       int head)
{
    const struct selection *sel = job->sel;
    const struct select_scratch *scratch = &choice->scratch;
    int row = choice->draw.row, list_head = selection_list_head(sel, head);
    uint32_t *fresh = (uint32_t *)scratch->scores;
    float *z = scratch->buffer[1].weights;
    double *u = scratch->wide;
    int n_held = score_held(job, row, head, list_head, z);
    int n_fresh =
        random_draw_lacking(&choice->draw, sel, list_head, scratch->keys, choice->n_base, fresh);
    score_keys(job, row, head, fresh, n_fresh, z + n_held);
    float max = -INFINITY;
    for (int i = 0; i < n_held + n_fresh; i++)
        max = z[i] > max ? z[i] : max;
    for (int i = 0; i < n_fresh; i++)
        u[i] = weight_of(z[n_held + i], max);
    double drawn = adaptive_sum(u, n_fresh);
    double deviation = adaptive_deviation(u, n_fresh, drawn, choice->n_base);
    double denominator = adaptive_denominator(held_mass(sel, row, list_head, z, max), drawn,
                                              choice->n_base, choice->draw.n_left);
    double sample = adaptive_sample(job->quantile, deviation, choice->n_rest,
                                    job->sampling->epsilon, denominator);
    return adaptive_keys(sample, choice->n_base, choice->n_rest);
}

/* As many as the neediest head asks for. */
static int most_needed(const struct adaptive_job *job, const struct adaptive_choice *choice)
{
    int n = 0;
    for (int i = 0; i < choice->n_heads && n < choice->n_rest; i++)
        n = max_int(n, keys_needed(job, choice, choice->first_head + i));
    return n;
}

/* K rows that most_needed reads; heads that share lists read them together. */
static void count_read(const struct adaptive_job *job, const struct adaptive_choice *choice)
{
    const struct selection *sel = job->sel;
    int row = choice->draw.row;
    int n = selection_ranges_length(&sel->ranges[row]) + choice->n_base;
    for (int head = choice->draw.begin; head < choice->draw.end; head++)
        n += selection_list(sel, row, head)->n;
    if (job->att->counts)
        __atomic_fetch_add(&job->att->counts->score_rows, (uint64_t)n, __ATOMIC_RELAXED);
}

/* --- The draw --------------------------------------------------------------------------------- */

/* n of the keys beside the base sample, which the lists have by now. */
static void draw_more(const struct adaptive_job *job, const struct adaptive_choice *choice, int n)
{
    const struct select_scratch *scratch = &choice->scratch;
    const struct random_draw *draw = &choice->draw;
    if (job->sampling->mode == DRAW_UNIFORM) {
        random_draw_keys(draw, job->kernels, choice->n_base + n, scratch);
        random_draw_add(draw, job->sel, scratch->keys, NULL, (float)((double)n / choice->n_rest),
                        choice->n_base + n, scratch);
        return;
    }
    struct weighted_draw weighted = {.from = draw,
                                     .sel = job->sel,
                                     .kernels = job->kernels,
                                     .att = job->att,
                                     .first_head = choice->first_head,
                                     .n_heads = choice->n_heads,
                                     .which = choice->which,
                                     .slot = job->slot,
                                     .mode = job->sampling->mode,
                                     .temperature = job->sampling->temperature,
                                     .n = n};
    int n_drawn = draw_weighted(&weighted, scratch);
    random_draw_add(draw, job->sel, scratch->keys, scratch->buffer[1].weights, 1.0f, n_drawn,
                    scratch);
}

static void adaptive_task(void *user, int task_index, int thread_index)
{
    const struct adaptive_job *job = user;
    struct selection *sel = job->sel;
    int n_choices = select_choices_per_row(sel, job->share), row = task_index / n_choices;
    struct adaptive_choice choice = {.which = task_index % n_choices};
    choice.n_heads = job->share == SHARE_GROUP ? sel->group : 1;
    choice.first_head = choice.which * choice.n_heads;
    if (!select_scratch_get(job->dev, thread_index, sel, &choice.scratch))
        return;
    struct random_draw *draw = &choice.draw;
    random_draw_start(draw, sel, job->att, job->share, row, choice.which, job->slot, job->window,
                      &choice.scratch);
    if (draw->n_left == 0)
        return;
    choice.n_base = adaptive_base(job->sampling->base, draw->n_left);
    choice.n_rest = draw->n_left - choice.n_base;
    int n_more = 0;
    if (choice.n_rest > 0) {
        random_draw_keys(draw, job->kernels, choice.n_base, &choice.scratch);
        n_more = most_needed(job, &choice);
        count_read(job, &choice);
    }
    int n_sure = choice.n_base;
    if (n_more == choice.n_rest) {
        n_sure = draw->n_left;
        random_draw_keys(draw, job->kernels, n_sure, &choice.scratch);
    }
    random_draw_add(draw, sel, choice.scratch.keys, NULL, 1.0f, n_sure, &choice.scratch);
    if (n_sure < draw->n_left)
        draw_more(job, &choice, n_more);
}

void cpu_select_adaptive(struct device *dev, struct selection *sel, const struct attention *att,
                         const struct adaptive_sampling *sampling, int slot, enum share share)
{
    assert(sampling->epsilon > 0.0 && sampling->delta > 0.0 && sampling->delta < 1.0);
    assert(sampling->mode == DRAW_UNIFORM || (sampling->temperature > 0.0 && !sel->scope.again));
    if (selection_skips(dev, sel, att))
        return;
    struct adaptive_job job = {
        .dev = dev,
        .sel = sel,
        .att = att,
        .shape = attention_shape(att),
        .kernels = selection_kernels(dev->isa),
        .sampling = sampling,
        .share = share,
        .slot = slot,
        .window = {.begin = selection_budget(sampling->init_offset, sel->n_keys),
                   .end = sel->n_keys - selection_budget(sampling->local_offset, sel->n_keys)},
        .quantile = normal_quantile(sampling->delta / (sampling->one_sided ? 1.0 : 2.0)),
    };
    if (job.window.begin >= job.window.end)
        return;
    selection_prepare_lists(sel, share);
    cpu_parallel(dev, sel->n_rows * select_choices_per_row(sel, share), adaptive_task, &job);
}
