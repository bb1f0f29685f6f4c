#include "kernels/cpu/random_draw.h"

#include <string.h>

static size_t n_words(const struct random_draw *draw)
{
    return (size_t)draw->candidates.n_places / 64 + 1;
}

/* Leaves of the candidates those inside of the window. */
static void clip(struct candidates *candidates, struct key_range window)
{
    int n = 0, n_places = 0;
    for (int i = 0; i < candidates->n; i++) {
        int begin = max_int(candidates->range[i].begin, window.begin);
        int end = min_int(candidates->range[i].end, window.end);
        if (begin >= end)
            continue;
        candidates->range[n] = (struct key_range){begin, end};
        candidates->place[n++] = n_places;
        n_places += end - begin;
    }
    candidates->n = n;
    candidates->place[n] = candidates->n_places = n_places;
}

/* Marks the keys that every one of the lists has.  A key that only some of them have stays a
 * candidate, or the others would never see it and their sums would be biased.  `spare` holds the
 * bits of one list at a time. */
static void mark_taken(struct random_draw *draw, const struct selection *sel, uint64_t *spare)
{
    for (int head = draw->begin; head < draw->end; head++) {
        uint64_t *marks = head == draw->begin ? draw->taken : spare;
        const uint32_t *keys = selection_keys(sel, draw->row, head);
        memset(marks, 0, n_words(draw) * sizeof *marks);
        for (int i = 0; i < selection_list(sel, draw->row, head)->n; i++) {
            int place = select_place(&draw->candidates, keys[i]);
            if (place >= 0)
                marks[place / 64] |= (uint64_t)1 << (place & 63);
        }
        for (size_t word = 0; marks == spare && word < n_words(draw); word++)
            draw->taken[word] &= spare[word];
    }
    draw->n_left = draw->candidates.n_places;
    for (size_t word = 0; word < n_words(draw); word++)
        draw->n_left -= __builtin_popcountll(draw->taken[word]);
}

void random_draw_start(struct random_draw *draw, const struct selection *sel,
                       const struct attention *att, enum share share, int row, int which, int slot,
                       struct key_range window, const struct select_scratch *scratch)
{
    draw->row = row;
    selection_choice_heads(sel, share, which, &draw->begin, &draw->end);
    select_candidates(sel, row, &draw->candidates);
    clip(&draw->candidates, window);
    draw->taken = (uint64_t *)scratch->buffer[1].ranks;
    mark_taken(draw, sel, draw->taken + n_words(draw));
    if (draw->n_left > 0)
        draw->permutation = permutation_make(
            (uint32_t)draw->n_left, att->step->seed, (uint32_t)att->layer, (uint32_t)which,
            (uint32_t)selection_position(sel, row), (uint32_t)slot);
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

void random_draw_keys(const struct random_draw *draw, const struct selection_kernels *kernels,
                      int n, const struct select_scratch *scratch)
{
    uint32_t *images = (uint32_t *)scratch->all.ranks;
    uint64_t *drawn = draw->taken + n_words(draw);
    assert(n <= draw->n_left);
    memset(drawn, 0, n_words(draw) * sizeof *drawn);
    if (n > 0)
        kernels->draw(images, n, &draw->permutation);
    for (int i = 0; i < n; i++)
        drawn[images[i] / 64] |= (uint64_t)1 << (images[i] & 63);
    bool plain = draw->n_left == draw->candidates.n_places;
    struct place_walk walk = {.taken = draw->taken};
    int at = 0;
    for (size_t word = 0; word < n_words(draw); word++)
        for (uint64_t bits = drawn[word]; bits; bits &= bits - 1) {
            int number = (int)word * 64 + __builtin_ctzll(bits);
            scratch->keys[at++] = (uint32_t)(plain ? number : walk_to(&walk, number));
        }
    places_to_keys(&draw->candidates, scratch->keys, n);
}

/* Writes those of the keys [n] that a list [n_listed] lacks, with their probabilities if there are
 * any; returns how many. */
static int lacking(const uint32_t *listed, int n_listed, const uint32_t *keys, const float *prob,
                   int n, uint32_t *to, float *to_prob)
{
    int n_new = 0;
    for (int i = 0, j = 0; i < n; i++) {
        while (j < n_listed && listed[j] < keys[i])
            j++;
        if (j < n_listed && listed[j] == keys[i])
            continue;
        if (prob)
            to_prob[n_new] = prob[i];
        to[n_new++] = keys[i];
    }
    return n_new;
}

int random_draw_lacking(const struct random_draw *draw, const struct selection *sel, int head,
                        const uint32_t *keys, int n, uint32_t *to)
{
    return lacking(selection_keys(sel, draw->row, head), selection_list(sel, draw->row, head)->n,
                   keys, NULL, n, to, NULL);
}

void random_draw_add(const struct random_draw *draw, struct selection *sel, const uint32_t *keys,
                     const float *prob, float constant, int n, const struct select_scratch *scratch)
{
    uint32_t *new_keys = (uint32_t *)scratch->all.ranks;
    float *new_prob = scratch->all.weights;
    for (int head = draw->begin; head < draw->end; head++) {
        int n_new =
            lacking(selection_keys(sel, draw->row, head), selection_list(sel, draw->row, head)->n,
                    keys, prob, n, new_keys, new_prob);
        selection_add_keys(sel, draw->row, head, new_keys, prob ? new_prob : NULL, constant, n_new);
    }
}
