/* A selection from the inside (backend.h says what it means).
 *
 * While maskers run, each row has a few ranges and each (row, query head) an ascending list of keys
 * outside of them.  selection_end turns the lists into one union per row and head group, so that
 * attention reads a key once.  Most lists have one probability for all their keys (1, or that of
 * one draw); only a list that mixes several stores one per key.  While every list came from
 * SHARE_GROUP, a group's list is kept once, with its first head, and is its own union.
 *
 * The large arrays are reserved at open and touched only as far as lists reach: a step with ranges
 * alone costs nothing per key. */
#ifndef ATTNSCOPE_KERNELS_CPU_SELECTION_H
#define ATTNSCOPE_KERNELS_CPU_SELECTION_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/backend.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/selection_kernels.h"

enum {
    MAX_RANGES = 4, /* of a row: sinks make one, local windows another */
    LIST_SLACK = 64 /* entries that vector stores may write beyond a list's end */
};

struct row_ranges {
    int n;
    struct key_range range[MAX_RANGES]; /* disjoint, ascending */
};

/* Of one (row, head); the keys are at selection_keys. */
struct key_list {
    int32_t n;
    float prob; /* of every key, unless mixed */
    bool mixed; /* one per key, at selection_probs */
};

/* Of one (row, head group). */
struct key_union {
    int32_t n;
    const uint32_t *keys; /* [n] ascending, outside of the row's ranges */
    struct row_bits bits; /* NULL where every head has every key; biases are -ln p */
    uint32_t rescued;     /* heads that selected nothing and have their own key instead, as bits */
};

/* Which keys a choice by the score buffer is made among: visible keys that are not selected. */
struct choice_scope {
    int first_key; /* and not before it */
    bool again;    /* or all visible keys, whatever is selected */
};

struct selection {
    int max_rows, n_heads, n_kv_heads, max_keys;
    int group;       /* query heads per KV head */
    int union_heads; /* query heads per union: the group, or 1 where it has more than ROW_QUERIES */
    size_t stride;   /* entries from one list to the next */

    /* Of the call between begin and end. */
    int n_rows, n_keys;
    int n_rows_total, first_position; /* of the whole call; of row 0 */
    bool full;                        /* every visible key */
    bool chosen; /* some masker was more than a no-op; without one the call is dense */
    bool shared; /* a group's list is at its first head */
    bool listed; /* some list may have a key */
    struct choice_scope scope; /* by what filled the score buffer */

    struct key_range *visible; /* [max_rows] */
    struct row_ranges *ranges; /* [max_rows] */
    struct key_list *lists;    /* [max_rows, n_heads] */
    struct key_union *unions;  /* [max_rows, n_heads / union_heads] */
    uint32_t *keys;            /* [max_rows, n_heads, stride] */
    float *probs;              /* [max_rows, n_heads, stride], of mixed lists */
    float *scores;             /* [max_rows, n_heads, stride], key j at j */
    uint32_t *union_keys;      /* [max_rows, n_heads / union_heads, stride] */
    uint32_t *union_bits;      /* [max_rows, n_heads / union_heads, stride] */
    float *union_bias;         /* [max_rows, n_heads, stride] */
};

static inline size_t selection_slot(const struct selection *sel, int row, int head)
{
    return (size_t)row * (size_t)sel->n_heads + (size_t)head;
}

static inline uint32_t *selection_keys(const struct selection *sel, int row, int head)
{
    return sel->keys + selection_slot(sel, row, head) * sel->stride;
}

static inline float *selection_probs(const struct selection *sel, int row, int head)
{
    return sel->probs + selection_slot(sel, row, head) * sel->stride;
}

static inline float *selection_scores(const struct selection *sel, int row, int head)
{
    return sel->scores + selection_slot(sel, row, head) * sel->stride;
}

/* What head selected beyond the ranges. */
static inline struct key_list *selection_list(const struct selection *sel, int row, int head)
{
    return &sel->lists[selection_slot(sel, row, head)];
}

/* The head whose list holds what head selected. */
static inline int selection_list_head(const struct selection *sel, int head)
{
    return sel->shared ? head / sel->group * sel->group : head;
}

static inline int selection_position(const struct selection *sel, int row)
{
    return sel->first_position + row;
}

static inline int selection_n_unions(const struct selection *sel)
{
    return sel->n_heads / sel->union_heads;
}

static inline struct key_union *selection_union(const struct selection *sel, int row, int which)
{
    return &sel->unions[(size_t)row * (size_t)selection_n_unions(sel) + (size_t)which];
}

static inline bool selection_in_ranges(const struct row_ranges *ranges, int key)
{
    for (int i = 0; i < ranges->n; i++)
        if (key >= ranges->range[i].begin && key < ranges->range[i].end)
            return true;
    return false;
}

static inline int selection_ranges_length(const struct row_ranges *ranges)
{
    int n = 0;
    for (int i = 0; i < ranges->n; i++)
        n += ranges->range[i].end - ranges->range[i].begin;
    return n;
}

/* True if a masker has nothing to do: the selection is full, or the device has failed. */
static inline bool selection_skips(struct device *dev, const struct selection *sel,
                                   const struct attention *att)
{
    assert(att->n_rows == sel->n_rows);
    return sel->full || cpu_failed(dev);
}

/* The number of keys that a budget stands for, 0 .. INT32_MAX. */
int selection_budget(struct budget size, int n_keys);

/* How many keys a masker that takes the best is to choose: 0 if it has nothing to do, also where
 * that many are all there are, which makes the selection full. */
int selection_top_count(struct device *dev, struct selection *sel, const struct attention *att,
                        struct budget size);

/* Where a masker that chooses per `share` keeps its lists from now on: once per group as long as
 * every masker shares, else with each head. */
void selection_prepare_lists(struct selection *sel, enum share share);

/* The heads [*begin, *end) that choice `which` of a row is for, and so the lists it goes to. */
void selection_choice_heads(const struct selection *sel, enum share share, int which, int *begin,
                            int *end);

/* Adds keys [begin, end), visible ones, to a row; list entries inside are dropped. */
void selection_add_range(struct selection *sel, int row, int begin, int end);

/* Adds n ascending keys, none of them selected yet, to a list.  prob [n], or NULL: constant. */
void selection_add_keys(struct selection *sel, int row, int head, const uint32_t *keys,
                        const float *prob, float constant, int n);

/* Takes those of n ascending keys that are on a list off it. */
void selection_drop_keys(struct selection *sel, int row, int head, const uint32_t *keys, int n);

/* --- Scratch of a task ---------------------------------------------------------------------- */

/* Arrays of max_keys + LIST_SLACK entries each. */
struct select_scratch {
    struct ranked all, buffer[2];
    double *wide; /* the memory of buffer[0] */
    float *scores;
    uint32_t *keys;
};

/* False if memory is short (latched). */
bool select_scratch_get(struct device *dev, int thread_index, const struct selection *sel,
                        struct select_scratch *out);

/* --- Keys that a choice may take -------------------------------------------------------------- */

/* Visible keys outside of a row's ranges, as stretches laid side by side: place i of stretch s is
 * key range[s].begin + i - place[s]. */
struct candidates {
    int n; /* stretches */
    struct key_range range[MAX_RANGES + 1];
    int place[MAX_RANGES + 2];
    int n_places;
};

void select_candidates(const struct selection *sel, int row, struct candidates *out);
/* Those of a choice by the score buffer: see struct choice_scope. */
void select_scored_candidates(const struct selection *sel, int row, struct candidates *out);
/* The place of a key, or -1. */
int select_place(const struct candidates *candidates, uint32_t key);

/* The pages of page_size keys that have a key that the row sees. */
struct key_range select_visible_pages(const struct selection *sel, int row, int page_size);

/* Choices of a row: one per head, or one per group. */
int select_choices_per_row(const struct selection *sel, enum share share);
/* Lays one head's scores, [n_keys] by key, at the candidates' places. */
void select_gather(const struct candidates *candidates, float *to, const float *scores);
/* Keys that some head of [begin, end) has listed are no candidates, unless the choice is made
 * among all: rank NO_RANK, weight 0.  Returns how many places are left. */
int select_strike_out(const struct selection *sel, int row, int begin, int end,
                      const struct candidates *candidates, struct ranked all);
/* Adds the candidates above threshold, and the first n_ties that equal it, to the lists of heads
 * [begin, end), with p = 1. */
void select_take(struct selection *sel, const struct selection_kernels *kernels, int row, int begin,
                 int end, const struct candidates *candidates, const struct select_scratch *scratch,
                 int32_t threshold, int64_t n_ties);

/* The largest rank such that those at or above it weigh more than target; *above is the weight of
 * those above it.  all [n] is kept. */
int32_t select_threshold(const struct selection_kernels *kernels,
                         const struct select_scratch *scratch, int n, bool weighted, double target,
                         double *above);
/* The same threshold if no more than n_most of all [n] are at or above it, else that of the n_most
 * best; *n_ties then becomes how many of those that equal it are to be taken. */
int32_t select_at_most(const struct selection_kernels *kernels,
                       const struct select_scratch *scratch, int n, int32_t threshold, int n_most,
                       int64_t *n_ties);

#endif
