/* What kinds of index go by: networks of random weights, channels at random. */
#ifndef ATTNSCOPE_TESTS_INDEX_PARAMS_H
#define ATTNSCOPE_TESTS_INDEX_PARAMS_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kernels/backend.h"
#include "tests/attention_case.h"

/* --- Networks --------------------------------------------------------------------------------- */

/* Widths after head_dim, few of them multiples of the vectors; bits take one to three words. */
static const struct {
    int n_linears, width[3];
} depths[] = {{1, {33}}, {2, {20, 32}}, {3, {24, 17, 70}}, {2, {50, 1}}};
enum { N_DEPTHS = sizeof depths / sizeof *depths };

/* Weights of mean 0: -1, 0 and 1, or so small that outputs keep the inputs' size. */
static inline float *random_weights(size_t n, float size, bool whole, uint64_t *random)
{
    float *w = calloc(n, sizeof *w);
    assert_non_null(w);
    for (size_t i = 0; i < n; i++)
        w[i] = whole ? (float)((int)(case_random(random) % 3) - 1) : size * case_normal(random);
    return w;
}

/* widths [n_linears] after head_dim. */
static inline void widths_open(struct key_index_config *config, const int *widths, int n_linears,
                               enum hash_activation activation, bool whole, uint64_t seed)
{
    struct hash_networks *h = &config->hash;
    uint64_t random = seed;
    size_t n = (size_t)(config->n_layers * config->n_heads);
    h->n_linears = n_linears;
    h->activation = activation;
    h->width[0] = config->head_dim;
    for (int i = 0; i < h->n_linears; i++) {
        h->width[i + 1] = widths[i];
        size_t n_in = (size_t)h->width[i], n_out = (size_t)h->width[i + 1];
        for (int side = 0; side < HASH_SIDES; side++) {
            h->w[side][i] =
                random_weights(n * n_in * n_out, 1.0f / sqrtf((float)n_in), whole, &random);
            h->b[side][i] = random_weights(n * n_out, 0.1f, whole, &random);
        }
    }
}

static inline void networks_open(struct key_index_config *config, int depth,
                                 enum hash_activation activation, bool whole)
{
    widths_open(config, depths[depth].width, depths[depth].n_linears, activation, whole,
                7 + (uint64_t)depth);
}

static inline void networks_close(struct key_index_config *config)
{
    for (int side = 0; side < HASH_SIDES; side++)
        for (int i = 0; i < config->hash.n_linears; i++) {
            free((void *)config->hash.w[side][i]);
            free((void *)config->hash.b[side][i]);
        }
}

/* --- Channels --------------------------------------------------------------------------------- */

/* Distinct elements of each head: `first` and on, a step apart that has no divisor in common with
 * head_dim. */
static inline void channels_open(struct key_index_config *config, int n_channels, int n_bits)
{
    size_t n_heads = (size_t)(config->n_layers * config->n_heads), n = (size_t)n_channels;
    int16_t *channels = calloc(n_heads * n, sizeof *channels);
    assert_non_null(channels);
    for (size_t head = 0; head < n_heads; head++)
        for (size_t i = 0; i < n; i++)
            channels[head * n + i] = (int16_t)((5 * head + 7 * i) % (size_t)config->head_dim);
    config->channels = (struct key_channels){n_channels, n_bits, channels};
}

static inline void channels_close(struct key_index_config *config)
{
    free((void *)config->channels.channels);
}

/* --- Buckets ---------------------------------------------------------------------------------- */

/* Planes of one set, or of one per layer. */
static inline void buckets_open(struct key_index_config *config, int n_tables, int n_bits,
                                int n_planes)
{
    uint64_t random = 11;
    size_t n = (size_t)(n_planes * n_tables * n_bits * config->head_dim);
    config->buckets = (struct key_buckets){.n_tables = n_tables,
                                           .n_bits = n_bits,
                                           .tau = 0.3f,
                                           .planes = random_weights(n, 1.0f, false, &random),
                                           .n_planes = n_planes};
}

static inline void buckets_close(struct key_index_config *config)
{
    free((void *)config->buckets.planes);
}

/* --- Tables ----------------------------------------------------------------------------------- */

static inline void tables_open(struct key_index_config *config, int n_tables, int n_bits,
                               int min_hits, enum key_center center)
{
    uint64_t random = 13;
    size_t n = (size_t)(config->n_layers * (config->head_dim + 1) * n_tables * n_bits);
    config->tables = (struct key_tables){.n_tables = n_tables,
                                         .n_bits = n_bits,
                                         .min_hits = min_hits,
                                         .center = center,
                                         .projections = random_weights(n, 1.0f, false, &random)};
}

static inline void tables_close(struct key_index_config *config)
{
    free((void *)config->tables.projections);
}

#endif
