/* The lanes that a person edits: their stacks, and an unlimited history of edits.
 *
 * Every change goes through a function here, so that undo always gives back what was.  Lane 0 is
 * the dense baseline and is not edited. */
#ifndef ATTNSCOPE_TUI_LANES_H
#define ATTNSCOPE_TUI_LANES_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/attention/stack.h"
#include "engine/base/error.h"
#include "engine/run/request.h"

enum edit_kind { EDIT_STACK, EDIT_ADD_LANE, EDIT_REMOVE_LANE };

struct edit {
    enum edit_kind kind;
    int lane;
    struct request_lane before, after; /* before: EDIT_STACK, REMOVE; after: EDIT_STACK, ADD */
};

struct lanes {
    struct request_lane lane[REQUEST_MAX_LANES];
    int n;
    int current;        /* whose stack the panel shows */
    struct edit *edits; /* [n_edits] owned; [0, n_done) are in force, the rest can be redone */
    size_t n_edits, n_done, capacity;
};

/* Lane 0 dense, nothing else, no history. */
void lanes_init(struct lanes *l);
void lanes_free(struct lanes *l);
/* Sets the lanes without history: at the start, or from a session. */
void lanes_load(struct lanes *l, const struct request_lane *from, int n);

/* Replaces a lane's stack; its name becomes the stack's or its short form.  Nothing happens if it
 * is equal and has the same name. */
void lanes_set_stack(struct lanes *l, int lane, const struct stack *stack);
bool lanes_add(struct lanes *l, const struct stack *stack, struct error *err);
bool lanes_remove(struct lanes *l, int lane, struct error *err);
/* False when there is nothing to undo or redo.  *lane (may be NULL): what it touched. */
bool lanes_undo(struct lanes *l, int *lane);
bool lanes_redo(struct lanes *l, int *lane);
/* "D", "A", "B", ... */
char lanes_letter(int lane);
/* The name of a lane with this stack: the stack's name, else its short form, cut. */
void lanes_name(const struct stack *stack, char out[STACK_NAME_MAX]);

#endif
