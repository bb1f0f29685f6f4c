#include "kernels/cpu/draw_weighted.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "kernels/philox.h"

/* Uniform in (0, 1), 53 bits. */
static double unit(const struct weighted_draw *draw, uint32_t i)
{
    uint32_t where = (uint32_t)draw->att->layer | (uint32_t)draw->which << 16;
    uint32_t position = (uint32_t)selection_position(draw->sel, draw->from->row);
    struct philox random = philox_4x32(draw->att->step->seed, where, position, i / 2,
                                       PHILOX_DRAW + (uint32_t)draw->slot);
    uint64_t high = random.word[2 * (i % 2)], low = random.word[2 * (i % 2) + 1];
    return ((double)((high << 32 | low) >> 12) + 0.5) * 0x1p-52;
}

/* weights [n_places] = exp((z - max) / temperature) of what a head lacks, else 0; returns their
 * sum.  all.ranks is used. */
static double weigh_head(const struct weighted_draw *draw, int head, float *weights,
                         const struct select_scratch *scratch)
{
    const struct candidates *candidates = &draw->from->candidates;
    int row = draw->from->row, list = selection_list_head(draw->sel, head);
    int32_t *ranks = scratch->all.ranks;
    select_gather(candidates, scratch->scores, selection_scores(draw->sel, row, head));
    draw->kernels->rank(ranks, scratch->scores, candidates->n_places);
    select_strike_out(draw->sel, row, list, list + 1, candidates, (struct ranked){ranks, NULL});
    int32_t highest = draw->kernels->highest(ranks, candidates->n_places);
    if (highest == NO_RANK)
        return 0.0;
    draw->kernels->weigh(weights, scratch->scores, rank_score(highest),
                         (float)(1.0 / draw->temperature), candidates->n_places);
    select_strike_out(draw->sel, row, list, list + 1, candidates, (struct ranked){ranks, weights});
    return draw->kernels->total(weights, candidates->n_places);
}

/* all.weights [n_places]: P times a constant. */
static void weigh(const struct weighted_draw *draw, const struct select_scratch *scratch)
{
    int n_places = draw->from->candidates.n_places;
    float *mean = scratch->all.weights, *one = scratch->buffer[0].weights;
    if (draw->n_heads == 1) {
        weigh_head(draw, draw->first_head, mean, scratch);
        return;
    }
    memset(mean, 0, (size_t)n_places * sizeof *mean);
    for (int i = 0; i < draw->n_heads; i++) {
        double sum = weigh_head(draw, draw->first_head + i, one, scratch);
        if (sum > 0.0)
            draw->kernels->add(mean, one, (float)(1.0 / sum), n_places);
    }
}

static float legal(double p)
{
    return p >= (double)FLT_MIN ? (float)p : FLT_MIN;
}

/* --- Multinomial ------------------------------------------------------------------------------ */

/* The first place whose sum exceeds target. */
static int first_above(const double *sums, int n, double target)
{
    int begin = 0;
    while (n > 1) {
        int half = n / 2;
        if (sums[begin + half - 1] > target) {
            n = half;
        } else {
            begin += half;
            n -= half;
        }
    }
    return begin;
}

static int draw_multinomial(const struct weighted_draw *draw, const struct select_scratch *scratch)
{
    const struct candidates *candidates = &draw->from->candidates;
    const float *weights = scratch->all.weights;
    double *sums = scratch->wide, sum = 0.0;
    uint64_t *drawn = draw->from->taken;
    int n_places = candidates->n_places, n = 0;
    for (int i = 0; i < n_places; i++)
        sums[i] = sum += (double)weights[i];
    memset(drawn, 0, ((size_t)n_places / 64 + 1) * sizeof *drawn);
    for (int i = 0; i < draw->n; i++) {
        int place = first_above(sums, n_places, unit(draw, (uint32_t)i) * sum);
        drawn[place / 64] |= (uint64_t)1 << (place & 63);
    }
    for (int s = 0; s < candidates->n; s++)
        for (int place = candidates->place[s]; place < candidates->place[s + 1]; place++) {
            if (!(drawn[place / 64] >> (place & 63) & 1))
                continue;
            double p = -expm1(draw->n * log1p(-(double)weights[place] / sum));
            scratch->keys[n] =
                (uint32_t)(candidates->range[s].begin + place - candidates->place[s]);
            scratch->buffer[1].weights[n++] = legal(p);
        }
    return n;
}

/* --- Gumbel ----------------------------------------------------------------------------------- */

static int draw_gumbel(const struct weighted_draw *draw, const struct select_scratch *scratch)
{
    const struct candidates *candidates = &draw->from->candidates;
    const float *weights = scratch->all.weights;
    int32_t *ranks = scratch->all.ranks;
    for (int s = 0; s < candidates->n; s++)
        for (int place = candidates->place[s]; place < candidates->place[s + 1]; place++) {
            uint32_t key = (uint32_t)(candidates->range[s].begin + place - candidates->place[s]);
            double noisy = (double)weights[place] / -log(unit(draw, key));
            ranks[place] = weights[place] > 0.0f ? rank_of((float)noisy) : NO_RANK;
        }
    double above;
    int32_t next = select_threshold(draw->kernels, scratch, candidates->n_places, false,
                                    draw->n + 0.5, &above);
    double limit = next == NO_RANK ? 0.0 : (double)rank_score(next);
    int64_t n_ties = next == NO_RANK ? 0 : draw->n - (int64_t)above;
    int n = 0;
    for (int s = 0; s < candidates->n; s++) {
        struct key_range range = candidates->range[s];
        int place = candidates->place[s];
        int n_more =
            draw->kernels->collect(scratch->keys + n, ranks + place, range.end - range.begin,
                                   (uint32_t)range.begin, next, &n_ties);
        for (int i = n; i < n + n_more; i++) {
            double weight = (double)weights[place + (int)scratch->keys[i] - range.begin];
            scratch->buffer[1].weights[i] = legal(-expm1(-weight / limit));
        }
        n += n_more;
    }
    return n;
}

int draw_weighted(const struct weighted_draw *draw, const struct select_scratch *scratch)
{
    weigh(draw, scratch);
    return draw->mode == DRAW_MULTINOMIAL ? draw_multinomial(draw, scratch)
                                          : draw_gumbel(draw, scratch);
}
