/* k-means by Lloyd's rounds: every point to its nearest centroid, every centroid to the mean of its
 * points.  One problem is one thread's, so that sums do not depend on how many there are.
 * Source: Lloyd 1982, "Least squares quantization in PCM". */
#include <math.h>
#include <string.h>

#include "kernels/cpu/index_codes.h"
#include "kernels/permutation.h"

static const double LEAST_SHIFT = 1e-4; /* its square, under which rounds end */

static void set_centroid(const struct kmeans *k, int centroid, int point)
{
    for (int d = 0; d < k->dim; d++)
        k->centroids[(size_t)d * (size_t)k->padded + (size_t)centroid] =
            k->points[(size_t)point * (size_t)k->dim + (size_t)d];
}

/* Distinct points, drawn without replacement. */
static void start(const struct kmeans *k)
{
    struct permutation p =
        permutation_make((uint32_t)k->n, k->seed, k->layer, k->kv_head, k->part, 0);
    for (int d = 0; d < k->dim; d++)
        for (int c = k->n_centroids; c < k->padded; c++)
            k->centroids[(size_t)d * (size_t)k->padded + (size_t)c] = INFINITY;
    for (int c = 0; c < k->n_centroids; c++)
        set_centroid(k, c, (int)permutation_image(&p, (uint32_t)c));
}

static void assign(const struct kmeans *k, const struct index_kernels *kernels)
{
    kernels->nearest(k->nearest, k->points, k->n, k->dim, k->centroids, k->padded);
}

/* Moves the centroids to the means of their points; returns the sum of the shifts. */
static double move(const struct kmeans *k, int round)
{
    size_t dim = (size_t)k->dim;
    double shift = 0.0;
    memset(k->sums, 0, (size_t)k->n_centroids * dim * sizeof *k->sums);
    memset(k->counts, 0, (size_t)k->n_centroids * sizeof *k->counts);
    for (int i = 0; i < k->n; i++) {
        double *sum = k->sums + k->nearest[i] * dim;
        for (size_t d = 0; d < dim; d++)
            sum[d] += (double)k->points[(size_t)i * dim + d];
        k->counts[k->nearest[i]]++;
    }
    for (int c = 0; c < k->n_centroids; c++) {
        double squares = 0.0;
        uint32_t drawn = philox_4x32(k->seed, k->layer, k->kv_head << 16 | k->part,
                                     (uint32_t)round + 1, (uint32_t)c)
                             .word[0];
        const float *other = k->points + (size_t)philox_below(drawn, (uint32_t)k->n) * dim;
        for (size_t d = 0; d < dim; d++) {
            float *at = &k->centroids[d * (size_t)k->padded + (size_t)c];
            float to =
                k->counts[c] ? (float)(k->sums[(size_t)c * dim + d] / k->counts[c]) : other[d];
            squares += (double)(to - *at) * (double)(to - *at);
            *at = to;
        }
        shift += sqrt(squares);
    }
    return shift;
}

void kmeans_run(const struct kmeans *k, const struct index_kernels *kernels)
{
    start(k);
    for (int round = 0; round < k->max_rounds; round++) {
        assign(k, kernels);
        double shift = move(k, round);
        if (shift * shift < LEAST_SHIFT)
            break;
    }
    assign(k, kernels);
}
