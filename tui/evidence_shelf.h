/* Evidence that was gathered, kept for the next look: the screens ask the engine only for what is
 * not here. */
#ifndef ATTNSCOPE_TUI_EVIDENCE_SHELF_H
#define ATTNSCOPE_TUI_EVIDENCE_SHELF_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/attention/evidence.h"

/* Which step it is of, and whose keys it holds. */
struct evidence_id {
    uint64_t run; /* struct question's; 0: no run */
    int lane;     /* of the run's report */
    int step, layer, head;
};
bool evidence_id_equal(const struct evidence_id *a, const struct evidence_id *b);
bool evidence_id_same_step(const struct evidence_id *a, const struct evidence_id *b);

enum { EVIDENCE_SHELF_SIZE = 6 };

/* Zeroed: empty. */
struct evidence_shelf {
    struct evidence_id ids[EVIDENCE_SHELF_SIZE]; /* latest first */
    struct evidence *evidence[EVIDENCE_SHELF_SIZE];
    int n;
};

/* Takes e; the oldest goes where there is no room. */
void evidence_shelf_put(struct evidence_shelf *s, const struct evidence_id *id, struct evidence *e);
/* That very evidence, or with any_head also the same step's of another head.  NULL: none. */
const struct evidence *evidence_shelf_find(const struct evidence_shelf *s,
                                           const struct evidence_id *id, bool any_head);
void evidence_shelf_clear(struct evidence_shelf *s);

#endif
