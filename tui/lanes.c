#include "tui/lanes.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"

void lanes_name(const struct stack *stack, char out[STACK_NAME_MAX])
{
    if (stack->name[0]) {
        memcpy(out, stack->name, STACK_NAME_MAX);
        out[STACK_NAME_MAX - 1] = '\0';
        return;
    }
    struct buf text = {0};
    stack_write_short(stack, &text);
    snprintf(out, STACK_NAME_MAX, "%s", text.data ? text.data : "dense");
    buf_free(&text);
}

char lanes_letter(int lane)
{
    return lane == 0 ? 'D' : (char)('A' + lane - 1);
}

static struct request_lane make_lane(const struct stack *stack)
{
    struct request_lane lane = {.stack = *stack};
    lanes_name(stack, lane.name);
    return lane;
}

void lanes_init(struct lanes *l)
{
    *l = (struct lanes){.n = 1};
    snprintf(l->lane[0].name, sizeof l->lane[0].name, "dense");
}

void lanes_free(struct lanes *l)
{
    free(l->edits);
    *l = (struct lanes){0};
}

void lanes_load(struct lanes *l, const struct request_lane *from, int n)
{
    assert(n >= 1 && n <= REQUEST_MAX_LANES);
    lanes_free(l);
    l->n = n;
    memcpy(l->lane, from, (size_t)n * sizeof *from);
    l->current = n > 1 ? 1 : 0;
}

static void insert_lane(struct lanes *l, int at, const struct request_lane *lane)
{
    memmove(l->lane + at + 1, l->lane + at, (size_t)(l->n - at) * sizeof *l->lane);
    l->lane[at] = *lane;
    l->n++;
}

static void delete_lane(struct lanes *l, int at)
{
    memmove(l->lane + at, l->lane + at + 1, (size_t)(l->n - at - 1) * sizeof *l->lane);
    l->n--;
    if (l->current >= l->n)
        l->current = l->n - 1;
}

static void apply(struct lanes *l, const struct edit *e, bool undo)
{
    if (e->kind == EDIT_STACK) {
        l->lane[e->lane] = undo ? e->before : e->after;
        l->current = e->lane;
    } else if ((e->kind == EDIT_ADD_LANE) != undo) {
        insert_lane(l, e->lane, e->kind == EDIT_ADD_LANE ? &e->after : &e->before);
        l->current = e->lane;
    } else {
        delete_lane(l, e->lane);
    }
}

/* A new edit forgets what could have been redone. */
static void record(struct lanes *l, const struct edit *e)
{
    l->edits = array_grow(l->edits, &l->capacity, l->n_done + 1, sizeof *l->edits);
    l->edits[l->n_done++] = *e;
    l->n_edits = l->n_done;
    apply(l, e, false);
}

void lanes_set_stack(struct lanes *l, int lane, const struct stack *stack)
{
    assert(lane >= 0 && lane < l->n);
    struct edit e = {
        .kind = EDIT_STACK, .lane = lane, .before = l->lane[lane], .after = make_lane(stack)};
    if (stack_equal(&e.before.stack, stack) && !strcmp(e.before.stack.name, stack->name))
        return;
    record(l, &e);
}

bool lanes_add(struct lanes *l, const struct stack *stack, struct error *err)
{
    if (l->n >= REQUEST_MAX_LANES)
        return fail(err, "there are %d columns, the most at once: remove one first",
                    REQUEST_MAX_LANES);
    struct edit e = {.kind = EDIT_ADD_LANE, .lane = l->n, .after = make_lane(stack)};
    record(l, &e);
    return true;
}

bool lanes_remove(struct lanes *l, int lane, struct error *err)
{
    if (lane == 0)
        return fail(err, "column D is the dense baseline and stays");
    struct edit e = {.kind = EDIT_REMOVE_LANE, .lane = lane, .before = l->lane[lane]};
    record(l, &e);
    return true;
}

bool lanes_undo(struct lanes *l, int *lane)
{
    if (l->n_done == 0)
        return false;
    const struct edit *e = &l->edits[--l->n_done];
    apply(l, e, true);
    if (lane)
        *lane = e->lane;
    return true;
}

bool lanes_redo(struct lanes *l, int *lane)
{
    if (l->n_done == l->n_edits)
        return false;
    const struct edit *e = &l->edits[l->n_done++];
    apply(l, e, false);
    if (lane)
        *lane = e->lane;
    return true;
}
