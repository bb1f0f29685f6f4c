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

/* Bits of a word's free places, side by side, moved to the places: each taken one pushes those
 * above it up by one, and those without a place out. */
static uint64_t spread(uint64_t bits, uint64_t taken)
{
    for (; taken; taken &= taken - 1) {
        uint64_t below = (taken & -taken) - 1;
        bits = (bits & below) | (bits & ~below) << 1;
    }
    return bits;
}

/* The 64 bits from bit `first` on; beyond the end they are 0. */
static uint64_t bits_from(const uint64_t *bits, size_t n_words, size_t first)
{
    size_t word = first / 64, skip = first % 64;
    uint64_t high = skip && word + 1 < n_words ? bits[word + 1] << (64 - skip) : 0;
    return bits[word] >> skip | high;
}

/* The n free places whose numbers are drawn, ascending. */
static void drawn_places(const uint64_t *taken, const uint64_t *drawn, size_t n_words, int n,
                         uint32_t *places)
{
    int n_found = 0;
    size_t n_free = 0; /* before the word */
    for (size_t word = 0; word < n_words && n_found < n; word++) {
        uint64_t here = spread(bits_from(drawn, n_words, n_free), taken[word]);
        for (; here; here &= here - 1)
            places[n_found++] = (uint32_t)word * 64 + (uint32_t)__builtin_ctzll(here);
        n_free += 64 - (size_t)__builtin_popcountll(taken[word]);
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
    drawn_places(draw->taken, drawn, n_words(draw), n, scratch->keys);
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
