#include "kernels/cpu/sample.h"

#include <math.h>

#include "kernels/cpu/logits.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/philox.h"

/* Tells the draws of tokens from those of maskers: "pick". */
#define PHILOX_PICK 0x7069636Bu

struct sample_space {
    struct candidate *candidates; /* [vocab_size] */
    float *weights;               /* [vocab_size] exp((logit - max) / temperature), by id */
};

static struct sample_space carve(void *space, int vocab_size)
{
    struct sample_space result = {.candidates = space};
    result.weights = (float *)(result.candidates + vocab_size);
    return result;
}

size_t sample_bytes(int vocab_size)
{
    size_t n_bytes = (size_t)vocab_size * (sizeof(struct candidate) + sizeof(float));
    return (n_bytes + CPU_ALIGN - 1) / CPU_ALIGN * CPU_ALIGN;
}

struct weights_job {
    const float *logits;
    int vocab_size;
    float max, inverse_temperature;
    float *weights;
};

static void weights_task(void *user, int task_index, int thread_index)
{
    (void)thread_index;
    const struct weights_job *job = user;
    int first = task_index * LOGITS_PER_CHUNK;
    int n = logits_in_chunk(job->vocab_size, task_index);
    for (int i = first; i < first + n; i++) {
        float z = (job->logits[i] - job->max) * job->inverse_temperature;
        job->weights[i] = z == z ? vexp(z) : 0.0f;
    }
}

/* Moves candidates that are better than the middle one to the front; returns how many. */
static int partition(struct candidate *candidates, int n)
{
    struct candidate pivot = candidates[n / 2];
    candidates[n / 2] = candidates[n - 1];
    int n_better = 0;
    for (int i = 0; i < n - 1; i++) {
        if (!candidate_is_better(candidates[i], pivot))
            continue;
        struct candidate moved = candidates[i];
        candidates[i] = candidates[n_better];
        candidates[n_better++] = moved;
    }
    candidates[n - 1] = candidates[n_better];
    candidates[n_better] = pivot;
    return n_better;
}

/* The fewest best candidates whose weights reach `target`: their number, at least 1; they are
 * moved to the front.  weights NULL: each weighs 1.  Quickselect, which follows the part that holds
 * the last of them. */
static int select_best(struct candidate *candidates, int n, const float *weights, double target)
{
    int first = 0, end = n; /* what is before first is in, what is from end on is out */
    double taken = 0;
    while (end - first > 1) {
        int n_better = partition(candidates + first, end - first);
        double better = 0;
        for (int i = first; i < first + n_better; i++)
            better += weights ? (double)weights[candidates[i].id] : 1.0;
        if (n_better && taken + better >= target) {
            end = first + n_better;
            continue;
        }
        /* All better ones are in, and so is the pivot; it may be the last. */
        taken += better;
        first += n_better;
        double pivot = weights ? (double)weights[candidates[first].id] : 1.0;
        if (taken + pivot >= target)
            return first + 1;
        taken += pivot;
        first++;
    }
    return end > 0 ? end : 1;
}

static double sum_weights(const struct candidate *candidates, int n, const float *weights)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += weights[candidates[i].id];
    return sum;
}

/* Leaves weight only to what top_k, top_p and min_p let through. */
static void filter(struct sample_space space, const float *logits, int vocab_size,
                   const struct sampling *sampling)
{
    struct candidate *candidates = space.candidates;
    int n = 0;
    for (int id = 0; id < vocab_size; id++)
        if (space.weights[id] > 0)
            candidates[n++] = (struct candidate){.logit = logits[id], .id = id};
    int kept = n;
    if (sampling->top_k > 0 && sampling->top_k < kept)
        kept = select_best(candidates, kept, NULL, sampling->top_k);
    if (sampling->top_p < 1) {
        double total = sum_weights(candidates, kept, space.weights);
        kept = select_best(candidates, kept, space.weights, sampling->top_p * total);
    }
    for (int i = kept; i < n; i++)
        space.weights[candidates[i].id] = 0;
    /* The best candidate's weight is 1, so that weights are shares of its probability. */
    for (int i = 0; i < kept; i++)
        if (space.weights[candidates[i].id] < sampling->min_p)
            space.weights[candidates[i].id] = 0;
}

int sample_draw(struct device *dev, void *space, const float *logits, int vocab_size, float max,
                const struct sampling *sampling, const struct step_state *step)
{
    struct sample_space carved = carve(space, vocab_size);
    struct weights_job job = {
        .logits = logits,
        .vocab_size = vocab_size,
        .max = max,
        .inverse_temperature = 1.0f / sampling->temperature,
        .weights = carved.weights,
    };
    cpu_parallel(dev, logits_chunks(vocab_size), weights_task, &job);
    if (sampling->top_k > 0 || sampling->top_p < 1 || sampling->min_p > 0)
        filter(carved, logits, vocab_size, sampling);

    double total = 0, passed = 0;
    for (int id = 0; id < vocab_size; id++)
        total += carved.weights[id];
    struct philox random = philox_4x32(step->seed, step->step, 0, 0, PHILOX_PICK);
    double target = (double)philox_unit(random.word[0]) * total;
    int last = 0;
    for (int id = 0; id < vocab_size; id++) {
        if (!(carved.weights[id] > 0))
            continue;
        last = id;
        passed += carved.weights[id];
        if (passed > target)
            break;
    }
    return last;
}
