/* Maskers: each adds keys to the selection of an attention call.
 *
 * A masker is a const descriptor in engine/attention/maskers/NAME.c and one line in the table of
 * maskers.c.  Its params[] schema alone drives the preset check, the short form, both JSON forms,
 * the edit form, the help text and the docs. */
#ifndef ATTNSCOPE_ENGINE_ATTENTION_MASKER_H
#define ATTNSCOPE_ENGINE_ATTENTION_MASKER_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/error.h"
#include "engine/model/config.h"
#include "kernels/backend.h"

enum { MASKER_MAX_PARAMS = 12, MASKER_PATH_BYTES = 512 };

enum param_kind {
    PARAM_BUDGET, /* a count of keys, or a fraction of them: "128", "5%", "0.05" */
    PARAM_REAL,   /* a number: "0.9" */
    PARAM_COUNT,  /* a whole number: "16" */
    PARAM_CHOICE, /* one of a few words */
    PARAM_PATH    /* a file's path; at most one in a masker, "" by default */
};

/* One parameter of a masker. */
struct masker_param {
    const char *name;           /* "sink_size": as in JSON, short form and the screen */
    const char *reference_name; /* the same in the reference's configs; NULL if it has none */
    const char *label;          /* short, for the edit form: "size" */
    const char *help;           /* one sentence */
    const char *unit;           /* of a real or count: "bits", "of the mass"; NULL: none */
    enum param_kind kind;
    double min, max;                   /* bounds of a count or real */
    bool min_exclusive, max_exclusive; /* a real must be > min, < max rather than >=, <= */
    /* Bounds of a fraction, PARAM_BUDGET only; 0 itself is refused where a count of 0 is.  Upstream
     * takes fractions above 1 (all keys), and so do we: stack_warn says what they mean. */
    double min_fraction, max_fraction;
    double step;                /* one key press in the edit form (count or real) */
    const char *const *choices; /* NULL-terminated, PARAM_CHOICE only */
    struct budget fallback;     /* default; a choice's index, a real's value in .value */
    /* [2] The choices that false and true mean, where the reference's configs have these in place
     * of words; NULL elsewhere. */
    const int *reference_bool;
};

/* A parameter's value: budgets use both fields; reals, counts and choices (an index) only value;
 * a path is apart, so that a stack stays a value. */
struct masker_values {
    struct budget param[MASKER_MAX_PARAMS];
    char path[MASKER_PATH_BYTES]; /* of the masker's PARAM_PATH */
};

enum masker_kind {
    MASKER_FIXED,  /* keys by position */
    MASKER_TOP,    /* keys by score */
    MASKER_SAMPLER /* keys by chance; at most one in a stack */
};

/* What a masker is called with: one attention call whose selection is being built. */
struct masker_call {
    const struct backend *backend;
    struct device *dev;
    struct selection *selection;
    const struct attention *att;
    const struct key_index *index; /* up to date; NULL for maskers without one */
    float logit_scale;             /* times which the index's scores are logits */
    int slot;                      /* the masker's index in its list: keys its random numbers */
    /* What the masker's source_layer chose in this step; NULL for maskers without one. */
    const struct selection *again;
};

/* The model whose keys an index is over. */
struct masker_model {
    const struct model_config *config;
    const char *folder;  /* NULL: it has none */
    enum dtype kv_dtype; /* of the cache that an index is over */
};

struct masker {
    const char *name;           /* "oracle-topk": short form, JSON, files */
    const char *reference_type; /* "OracleTopKConfig"; more spellings in reference_aliases */
    const char *const *reference_aliases; /* NULL-terminated or NULL */
    const char *const *reference_ignored; /* its parameters that change no mask; as above */
    const char *title;                    /* "Oracle top-k" */
    const char *summary;                  /* what it keeps, one sentence */
    const char *source;                   /* paper or origin */
    const char *cost;                     /* what it reads, one phrase: "reads all K" */
    enum masker_kind kind;
    bool reads_all_keys; /* scores every key exactly: its speed-up is marked so */
    /* Whether it does with these values, where that depends on them; NULL: reads_all_keys. */
    bool (*reads_all_with)(const struct masker_values *values);
    bool overlaps; /* chooses also among what is kept already, so that budgets may not add up */
    int n_params;
    struct masker_param params[MASKER_MAX_PARAMS]; /* params[0] is the main one */
    /* NULL: adds nothing, so that a stack of such maskers alone is dense. */
    void (*select)(const struct masker_call *call, const struct masker_values *values);
    /* What of the values a backend has not, as NAME=VALUE; NULL: it has all.  NULL: every backend
     * has. */
    const char *(*missing)(const struct masker_values *values, const struct backend *backend);
    /* The index over keys that select asks for; NULL: none.  Fills the kind and its parameters in
     * out, whose shape is filled already.  *held is memory that out points to, freed with free()
     * once the index is open; held NULL: sizes are enough, out may lack weights. */
    bool (*index)(const struct masker_values *values, const struct masker_model *model,
                  struct key_index_config *out, void **held, struct error *err);
    /* masker_call's logit_scale; NULL: 1, the scores are logits as they are. */
    float (*logit_scale)(const struct key_index_config *config);
    /* The earlier layer whose selection select takes over; NULL: it chooses by itself.  Such a
     * masker works in steps of one row; in calls of several rows its layers are dense. */
    int (*source_layer)(const struct masker_values *values);
};

/* NULL-terminated. */
extern const struct masker *const maskers[];

const struct masker *masker_find(const char *name); /* NULL if unknown; '_' reads as '-' */
/* By the reference project's type name or one of its aliases; NULL if unknown. */
const struct masker *masker_find_reference(const char *type);
int masker_param_index(const struct masker *m, const char *name); /* -1 if unknown */
struct masker_values masker_defaults(const struct masker *m);
/* True if the masker with these values scores every key exactly. */
bool masker_reads_all_keys(const struct masker *m, const struct masker_values *values);

/* The number of keys that a budget means for a call of n_keys: trunc(fraction * n_keys) in double,
 * or the count. */
int budget_keys(struct budget size, int n_keys);

#endif
