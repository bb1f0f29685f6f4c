/* Sets of a model's layers, as people write them: "0-1,16,20-23". */
#ifndef ATTNSCOPE_ENGINE_ATTENTION_LAYER_SET_H
#define ATTNSCOPE_ENGINE_ATTENTION_LAYER_SET_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/buf.h"
#include "engine/base/error.h"

enum { LAYER_SET_MAX = 1024 }; /* layers of a model, at most */

/* A value; {0} is empty. */
struct layer_set {
    uint64_t bits[LAYER_SET_MAX / 64]; /* layer l at 1 << l % 64 of word l / 64 */
};

/* Reads layers and ranges between commas.  At least one, each named once, ranges forwards. */
bool layer_set_parse(struct layer_set *out, const char *text, struct error *err);
/* The same in ascending order, in as few ranges as there are: "0-1,16". */
void layer_set_write(const struct layer_set *s, struct buf *out);

bool layer_set_has(const struct layer_set *s, int layer); /* false beyond LAYER_SET_MAX */
void layer_set_add(struct layer_set *s, int layer);
bool layer_set_equal(const struct layer_set *a, const struct layer_set *b);
/* The lowest and highest layer, and the lowest that both or that none of two sets has; -1: there is
 * none. */
int layer_set_first(const struct layer_set *s);
int layer_set_last(const struct layer_set *s);
int layer_set_common(const struct layer_set *a, const struct layer_set *b);
struct layer_set layer_set_union(const struct layer_set *a, const struct layer_set *b);
struct layer_set layer_set_others(const struct layer_set *s); /* all layers but these */

#endif
