/* What one step's attention kept and missed: figures of every layer and head, and of one head every
 * key.  Filled by a gatherer that watches a step of one row; see sparse_attention_observe. */
#ifndef ATTNSCOPE_ENGINE_ATTENTION_EVIDENCE_H
#define ATTNSCOPE_ENGINE_ATTENTION_EVIDENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/attention/sparse_attention.h"

enum evidence_figure {
    EVIDENCE_RECALL,    /* mass recall: dense softmax mass of the keys kept */
    EVIDENCE_DENSITY,   /* keys kept over keys visible */
    EVIDENCE_ERROR,     /* |o_sparse - o_dense| / |o_dense| */
    EVIDENCE_AGREEMENT, /* of the n heaviest keys the share that is kept; n is the layer's mean
                         * count of kept keys */
    EVIDENCE_N_FIGURES
};
/* "recall", ...; and what it is, one sentence. */
const char *evidence_figure_name(enum evidence_figure figure);
const char *evidence_figure_definition(enum evidence_figure figure);

/* One head's keys. */
struct head_evidence {
    int layer, head;   /* layer -1: of no head, all 0 */
    float *weight;     /* [n_keys] dense softmax weights; 0 where a key is not visible */
    uint8_t *kept_by;  /* [n_keys] 1 + the place in the layer's list of the masker that first kept
                        * it; 0: not kept.  Where the layer is dense: EVIDENCE_KEPT_DENSELY */
    uint16_t *n_heads; /* [n_keys] heads of the layer that kept the key */
    float *prob;       /* [n_keys] with which a kept key was kept */
    int n_kept;
};
enum { EVIDENCE_KEPT_DENSELY = 255 };

struct evidence {
    int n_layers, n_heads, n_keys;
    float *figures[EVIDENCE_N_FIGURES]; /* [n_layers, n_heads] */
    struct head_evidence head;
    /* The keys' tokens: text of key j is [text_end[j - 1], text_end[j]), whole characters that it
     * completed; raw, to be filtered. */
    char *text;
    uint32_t *text_end; /* [n_keys] */
};

struct evidence *evidence_new(int n_layers, int n_heads, int n_keys);
void evidence_free(struct evidence *e);

/* The place of a key among the heaviest, 0 first; ties to the lower key. */
int evidence_rank(const struct evidence *e, int key);
/* The n heaviest keys, heaviest first (fewer if there are fewer); returns how many. */
int evidence_heaviest(const struct evidence *e, int n, int *keys);

/* --- Gathering: engine thread only --------------------------------------------------------- */

struct evidence_gatherer;

/* For steps whose call sees up to max_keys keys.  NULL: out of memory. */
struct evidence_gatherer *evidence_gatherer_open(struct sparse_attention *attention,
                                                 const struct backend *backend, struct device *dev,
                                                 const struct model_config *config, int max_keys,
                                                 struct error *err);
void evidence_gatherer_close(struct evidence_gatherer *g);
/* From here on attention shows its calls: out's figures, and its head's keys, are those of the
 * next step, one of a row after n_context keys of the context and n_tail of the tail.  out has
 * n_context + n_tail + 1 keys and is borrowed until evidence_gather_end. */
void evidence_gather_begin(struct evidence_gatherer *g, int n_context, int n_tail,
                           struct evidence *out);
void evidence_gather_end(struct evidence_gatherer *g);

#endif
