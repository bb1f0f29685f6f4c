/* Random sampling without replacement: the images of 0 .. n - 1 under a keyed permutation of the
 * candidates, in ascending order. */
#include "kernels/cpu/selection.h"

#include <string.h>

struct random_job {
    struct device *dev;
    struct selection *sel;
    const struct attention *att;
    enum share share;
    int n_wanted, slot;
};

/* Marks in `taken` (bits by place) the keys that every one of the heads has already, and returns
 * how many places are left.  A key that only some heads have stays a candidate, or the others would
 * never see it and their sums would be biased.  `spare` holds the bits of one head at a time. */
static int mark_taken(const struct selection *sel, int row, int begin, int end,
                      const struct candidates *candidates, uint64_t *taken, uint64_t *spare)
{
    size_t n_words = (size_t)candidates->n_places / 64 + 1;
    for (int head = begin; head < end; head++) {
        uint64_t *marks = head == begin ? taken : spare;
        const uint32_t *keys = selection_keys(sel, row, head);
        memset(marks, 0, n_words * sizeof *marks);
        for (int i = 0; i < selection_list(sel, row, head)->n; i++) {
            int place = select_place(candidates, keys[i]);
            if (place >= 0)
                marks[place / 64] |= (uint64_t)1 << (place & 63);
        }
        for (size_t word = 0; marks == spare && word < n_words; word++)
            taken[word] &= spare[word];
    }
    int n_taken = 0;
    for (size_t word = 0; word < n_words; word++)
        n_taken += __builtin_popcountll(taken[word]);
    return candidates->n_places - n_taken;
}

/* Number n among the places that are not taken -> place, for rising n. */
struct place_walk {
    const uint64_t *taken;
    int word, n_before; /* free places before this word of 64 */
};

static int walk_to(struct place_walk *walk, int n)
{
    for (;;) {
        uint64_t left = ~walk->taken[walk->word];
        int n_here = __builtin_popcountll(left);
        if (n - walk->n_before >= n_here) {
            walk->n_before += n_here;
            walk->word++;
            continue;
        }
        for (int skip = n - walk->n_before; skip > 0; skip--)
            left &= left - 1;
        return walk->word * 64 + __builtin_ctzll(left);
    }
}

/* Turns ascending places into keys. */
static void places_to_keys(const struct candidates *candidates, uint32_t *places, int n)
{
    int stretch = 0;
    for (int i = 0; i < n; i++) {
        while ((int)places[i] >= candidates->place[stretch + 1])
            stretch++;
        places[i] += (uint32_t)(candidates->range[stretch].begin - candidates->place[stretch]);
    }
}

/* Adds the drawn keys [n] to a head's list, less those that it has: they keep their p of 1. */
static void add_drawn(struct selection *sel, int row, int head, const uint32_t *drawn, int n,
                      float prob, uint32_t *spare)
{
    const uint32_t *listed = selection_keys(sel, row, head);
    int n_listed = selection_list(sel, row, head)->n, n_new = 0;
    for (int i = 0, j = 0; i < n; i++) {
        while (j < n_listed && listed[j] < drawn[i])
            j++;
        if (j == n_listed || listed[j] != drawn[i])
            spare[n_new++] = drawn[i];
    }
    selection_add_keys(sel, row, head, spare, NULL, prob, n_new);
}

static void random_task(void *user, int task_index, int thread_index)
{
    const struct random_job *job = user;
    struct selection *sel = job->sel;
    int n_choices = select_choices_per_row(sel, job->share);
    int row = task_index / n_choices, which = task_index % n_choices, begin, end;
    struct select_scratch scratch;
    struct candidates candidates;
    if (!select_scratch_get(job->dev, thread_index, sel, &scratch))
        return;
    selection_choice_heads(sel, job->share, which, &begin, &end);
    select_candidates(sel, row, &candidates);
    size_t n_words = (size_t)candidates.n_places / 64 + 1;
    uint64_t *drawn = (uint64_t *)scratch.buffer[0].ranks;
    uint64_t *taken = (uint64_t *)scratch.buffer[1].ranks;
    int n_left = mark_taken(sel, row, begin, end, &candidates, taken, drawn);
    memset(drawn, 0, n_words * sizeof *drawn);
    int n = min_int(job->n_wanted, n_left);
    if (n == 0)
        return;
    uint32_t *images = (uint32_t *)scratch.all.ranks;
    struct permutation permutation = permutation_make(
        (uint32_t)n_left, job->att->step->seed, (uint32_t)job->att->layer, (uint32_t)which,
        (uint32_t)selection_position(sel, row), (uint32_t)job->slot);
    selection_kernels(job->dev->isa)->draw(images, n, &permutation);
    for (int i = 0; i < n; i++)
        drawn[images[i] / 64] |= (uint64_t)1 << (images[i] & 63);
    bool plain = n_left == candidates.n_places;
    struct place_walk walk = {.taken = taken};
    int at = 0;
    for (size_t word = 0; word < n_words; word++)
        for (uint64_t bits = drawn[word]; bits; bits &= bits - 1) {
            int number = (int)word * 64 + __builtin_ctzll(bits);
            scratch.keys[at++] = (uint32_t)(plain ? number : walk_to(&walk, number));
        }
    places_to_keys(&candidates, scratch.keys, n);
    float prob = (float)((double)n / n_left);
    for (int head = begin; head < end; head++)
        add_drawn(sel, row, head, scratch.keys, n, prob, images);
}

void cpu_select_random(struct device *dev, struct selection *sel, const struct attention *att,
                       double rate, int slot, enum share share)
{
    if (selection_skips(dev, sel, att))
        return;
    struct budget budget = {true, rate < 1.0 ? rate : 1.0};
    struct random_job job = {.dev = dev,
                             .sel = sel,
                             .att = att,
                             .share = share,
                             .n_wanted = selection_budget(budget, sel->n_keys),
                             .slot = slot};
    if (job.n_wanted == 0)
        return;
    selection_prepare_lists(sel, share);
    cpu_parallel(dev, sel->n_rows * select_choices_per_row(sel, share), random_task, &job);
}
