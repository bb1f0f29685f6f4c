/* A selection on the device (backend.h says what it means).
 *
 * Sinks and local windows are never stored: they are parts of a plan, which every kernel gets by
 * value and resolves against the step's lengths, so that a recorded step stays right as the context
 * grows and a stack of ranges costs no kernel of its own.  What maskers choose beyond the ranges
 * are bitmaps per row and query head: `taken` (p = 1) and `drawn` (by chance).  While every masker
 * shares per group, only the bitmaps of each group's first head are used.  selection_end compacts
 * them into one ascending union list per row and head union: key | head bits << 24. */
#ifndef ATTNSCOPE_KERNELS_CUDA_SELECTION_CUH
#define ATTNSCOPE_KERNELS_CUDA_SELECTION_CUH

#include "kernels/cuda/attention.cuh"

enum {
    UNION_MAX_HEADS = 8, /* head bits of a list entry */
    KEY_BITS = 24,       /* key numbers of a list entry: up to 16,777,216 keys */
    PLAN_MAX_PARTS = 24, /* of up to 16 maskers; one may ask for two */
    MAX_RANGES = 2       /* all sinks make one range, all local windows another */
};

enum select_kind {
    SELECT_SINK,
    SELECT_LOCAL,
    SELECT_TOP_K,
    SELECT_TOP_P,   /* value = top_p */
    SELECT_LIMITED, /* by mass, at most so many: never full */
    SELECT_RANDOM,
    SELECT_PAGES,
    SELECT_IF_SHORT, /* full or nothing */
    SELECT_MATCHES,
    SELECT_WINDOW,     /* keys from e on, but as many of the latest as the next part says */
    SELECT_WINDOW_END, /* the next part */
    SELECT_AGAIN,      /* full if none of the `more` parts that follow, of the selection taken over,
                          counts */
    SELECT_PUT
};

/* A budget and its masker, small: every kernel gets the plan by value. */
struct select_part {
    double value;
    int more; /* keys beyond the budget, SELECT_IF_SHORT; parts, SELECT_AGAIN */
    bool is_fraction;
    uint8_t kind; /* enum select_kind */
};

static __host__ __device__ __forceinline__ struct budget part_size(const struct select_part *part)
{
    return {part->is_fraction, part->value};
}

/* The parts of a stack in order, as far as they have been asked for. */
struct select_plan {
    int n;
    struct select_part part[PLAN_MAX_PARTS];
};

/* A plan resolved for one row. */
struct row_plan {
    bool full; /* every visible key */
    struct key_range visible;
    int n_ranges;
    struct key_range range[MAX_RANGES]; /* ascending, disjoint, not touching */
};

struct selection;

/* Scores in few levels that an index can tell: of a key by a head the bits of its words that equal
 * the query's, less those that do not.  They are written to the score buffer only for a masker that
 * cannot do with the words. */
struct level_scores {
    /* Writes them; NULL: there is nothing to write. */
    void (*write)(struct device *dev, struct selection *sel, const struct level_scores *levels);
    struct attention att;
    const uint32_t *words;   /* (device) [n_heads, n_words, stride] of the layer */
    const uint32_t *queries; /* (device) [n_rows, n_heads, n_words] */
    const int32_t *n_known;  /* (device) keys that have their words */
    size_t stride;
    int n_words, n_bits;
};

/* Which keys a choice by the score buffer is made among: visible keys that are not selected. */
struct choice_scope {
    int first_key; /* and not before it */
    bool again;    /* or all visible keys, whatever is selected */
};

/* A masker that has been asked for and not been launched: only when the next operation comes does
 * it show whether it is the last, which may make the lists itself. */
struct put_off {
    /* Launches it.  last: no other masker follows; true if it has made the lists of the selection,
     * as selection_unite would. */
    bool (*run)(struct device *dev, struct selection *sel, const struct put_off *what, bool last);
    enum share share;
    int slot;                   /* of a sampler */
    bool first;                 /* the bitmaps hold nothing yet */
    bool first_drawn;           /* `drawn` holds nothing yet, for a sampler */
    struct level_scores levels; /* what top-k chooses by, unless the score buffer holds it */
    struct choice_scope scope;
};

/* What has been asked for and not been launched; on the host, since kernels get the selection by
 * value. */
struct selection_late {
    struct put_off masker;      /* run NULL: none.  Its part is the plan's last */
    struct level_scores levels; /* that the score buffer is to hold: write NULL if it does */
    struct choice_scope scope;  /* by what filled it */
};

struct selection {
    int max_rows, n_heads, n_kv_heads, max_keys;
    int group;       /* query heads per KV head */
    int union_heads; /* query heads per union: the group, or its largest divisor up to 8 */
    int n_unions;    /* n_heads / union_heads */
    int n_words;     /* of a bitmap: max_keys / 32, rounded up to a multiple of 32 */
    size_t stride;   /* entries from one score row or list to the next: n_words * 32 */

    /* Of the call between begin and end (host). */
    struct attention att; /* for explicit lists */
    struct select_plan plan;
    int n_rows;
    bool listed;  /* some masker wrote bitmaps: all of them that are in use are valid */
    bool sampled; /* `drawn` is in use */
    bool shared;  /* only the bitmaps of each group's first head are in use */
    bool mixed;   /* drawn keys have their own probabilities, in key_prob */
    struct selection_late *late;

    /* (device) Of a row's bitmaps the words up to its own key are valid: see row_words. */
    uint32_t *taken;     /* [max_rows, n_heads, n_words] */
    uint32_t *drawn;     /* [max_rows, n_heads, n_words] none of them taken */
    float *prob;         /* [max_rows, n_heads] of drawn keys, unless mixed */
    float *key_prob;     /* [max_rows, n_heads, stride] by key, each head's own even if shared */
    float *scores;       /* [max_rows, n_heads, stride] by key */
    uint32_t *list;      /* [max_rows, n_unions, stride] key | bits of heads << KEY_BITS */
    uint8_t *list_drawn; /* [max_rows, n_unions, stride] bits of heads that drew it, if sampled */
    int32_t *n_list;     /* [max_rows, n_unions] */
    int32_t *n_selected; /* [max_rows, n_unions] head keys in the list: sum of head bits */
    uint32_t *rescued;   /* [max_rows, n_unions] bits of heads that got their own key */
    struct row_plan *resolved; /* [max_rows] as selection_unite found it */
    uint32_t *select_work;     /* of teams of blocks, see select_team.cuh */
    size_t n_select_work;      /* words */
};

/* --- On the host ---------------------------------------------------------------------------- */

/* Resolves the plan of the call on the device and makes the union lists from the bitmaps.
 * selection_union.cu */
void selection_unite(struct device *dev, const struct selection *sel);
/* Launches what has been put off, before anything that comes after it.  selection.cu */
void selection_catch_up(struct device *dev, struct selection *sel);
/* The score buffer from now on holds what was last asked for.  selection.cu */
void selection_write_scores(struct device *dev, struct selection *sel);
/* Adds what a masker asks for to the plan.  selection.cu */
void selection_plan(struct device *dev, struct selection *sel, enum select_kind kind,
                    struct budget size);
void selection_plan_part(struct device *dev, struct selection *sel, const struct select_part *part);
/* From now on drawn keys have probabilities of their own.  selection.cu */
void selection_mix(struct device *dev, struct selection *sel);
/* Prepares for a masker that chooses keys per `share`.  True if the bitmaps hold nothing yet: the
 * masker is to write every word of those that it is responsible for.  selection.cu */
bool selection_choose(struct device *dev, struct selection *sel, const struct attention *att,
                      enum share share);

/* --- On the device ------------------------------------------------------------------------- */

static __device__ __forceinline__ int budget_resolve(struct budget size, int n_keys)
{
    double e = size.is_fraction ? size.value * (double)n_keys : size.value;
    if (!(e >= 1.0))
        return 0;
    return e < 2147483647.0 ? (int)e : 2147483647;
}

/* Whether the part takes part at all, and whether it declares the call full. */
static __device__ __forceinline__ bool
part_counts(const struct select_part *part, const struct call_shape *shape, int *e, bool *full)
{
    *e = budget_resolve(part_size(part), shape->n_keys);
    switch (part->kind) {
    case SELECT_SINK:
    case SELECT_TOP_K:
    case SELECT_PAGES:
        *full = *e > 0 && shape->n_keys <= *e;
        return *e > 0;
    case SELECT_LOCAL:
    case SELECT_IF_SHORT:
        *full =
            *e > 0 && (long long)shape->n_keys <= (long long)*e + part->more + shape->n_rows_total;
        return part->kind == SELECT_LOCAL ? *e > 0 : *full;
    case SELECT_TOP_P:
        *full = part->value >= 1.0;
        return true;
    case SELECT_RANDOM:
    case SELECT_LIMITED:
        *full = false;
        return *e > 0;
    case SELECT_WINDOW:
        *full = false;
        return (long long)*e + budget_resolve(part_size(part + 1), shape->n_keys) < shape->n_keys;
    case SELECT_WINDOW_END:
        *full = false;
        return false;
    default:
        *full = false;
        return true;
    }
}

/* Whether a selection taken over holds anything: if none of its parts, which follow part i, takes
 * part, it is dense. */
static __device__ __forceinline__ bool again_counts(const struct select_plan *plan,
                                                    const struct call_shape *shape, int i)
{
    bool counts = false, full;
    int e, end = i + 1 + plan->part[i].more;
    for (int j = i + 1; j < end; j++)
        counts = counts || (plan->part[j].kind != SELECT_AGAIN &&
                            part_counts(&plan->part[j], shape, &e, &full));
    return counts;
}

/* The parts that have been asked for so far.  *chosen: some of them takes part. */
static __device__ __forceinline__ struct row_plan resolve_parts(const struct select_plan *plan,
                                                                const struct attention *att,
                                                                const struct call_shape *shape,
                                                                int row, bool *chosen)
{
    struct row_plan out = {};
    out.visible = row_visible(att, shape, row);
    int sink_end = out.visible.begin, local_begin = out.visible.end;
    *chosen = false;
    for (int i = 0; i < plan->n; i++) {
        int e;
        bool full;
        if (plan->part[i].kind == SELECT_AGAIN) {
            full = !again_counts(plan, shape, i);
            out.full = out.full || full;
            *chosen = *chosen || full;
            continue;
        }
        if (!part_counts(&plan->part[i], shape, &e, &full))
            continue;
        *chosen = true;
        out.full = out.full || full;
        if (plan->part[i].kind == SELECT_SINK)
            sink_end = max(sink_end, min(e, out.visible.end));
        if (plan->part[i].kind == SELECT_LOCAL)
            local_begin = min(local_begin, max(out.visible.begin, out.visible.end - e));
    }
    if (out.full || sink_end >= local_begin) { /* all, or they touch: one range */
        sink_end = out.visible.end;
        local_begin = out.visible.end;
    }
    bool sinks = sink_end > out.visible.begin, locals = local_begin < out.visible.end;
    out.n_ranges = sinks + locals;
    out.range[1] = {local_begin, out.visible.end};
    out.range[0] = sinks ? key_range{out.visible.begin, sink_end} : out.range[1];
    return out;
}

/* The whole plan: without a part that takes part it is full. */
static __device__ __forceinline__ struct row_plan resolve_plan(const struct select_plan *plan,
                                                               const struct attention *att,
                                                               const struct call_shape *shape,
                                                               int row)
{
    bool chosen;
    struct row_plan out = resolve_parts(plan, att, shape, row, &chosen);
    if (!chosen) {
        out.full = true;
        out.n_ranges = out.visible.begin < out.visible.end;
        out.range[0] = out.visible;
    }
    return out;
}

/* Words of a row's bitmaps that hold keys up to its own. */
static __device__ __forceinline__ int row_words(const struct call_shape *shape, int row)
{
    return (shape->first_position + row) / 32 + 1;
}

/* The bits of word `word` whose keys lie in [begin, end). */
static __device__ __forceinline__ uint32_t range_bits(int word, int begin, int end)
{
    int from = max(begin - word * 32, 0), to = min(end - word * 32, 32);
    if (from >= to)
        return 0;
    return (to == 32 ? 0xffffffffu : (1u << to) - 1) & ~((1u << from) - 1);
}

/* The bits of a word whose keys are visible and in no range: those that lists may hold. */
static __device__ __forceinline__ uint32_t open_bits(const struct row_plan *plan, int word)
{
    uint32_t bits = range_bits(word, plan->visible.begin, plan->visible.end);
    for (int i = 0; i < plan->n_ranges; i++)
        bits &= ~range_bits(word, plan->range[i].begin, plan->range[i].end);
    return bits;
}

#endif
