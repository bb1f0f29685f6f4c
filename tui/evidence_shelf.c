#include "tui/evidence_shelf.h"

#include <string.h>

bool evidence_id_same_step(const struct evidence_id *a, const struct evidence_id *b)
{
    return a->run == b->run && a->lane == b->lane && a->step == b->step;
}

bool evidence_id_equal(const struct evidence_id *a, const struct evidence_id *b)
{
    return evidence_id_same_step(a, b) && a->layer == b->layer && a->head == b->head;
}

void evidence_shelf_put(struct evidence_shelf *s, const struct evidence_id *id, struct evidence *e)
{
    if (s->n == EVIDENCE_SHELF_SIZE)
        evidence_free(s->evidence[--s->n]);
    memmove(s->ids + 1, s->ids, (size_t)s->n * sizeof *s->ids);
    memmove(s->evidence + 1, s->evidence, (size_t)s->n * sizeof(struct evidence *));
    s->ids[0] = *id;
    s->evidence[0] = e;
    s->n++;
}

const struct evidence *evidence_shelf_find(const struct evidence_shelf *s,
                                           const struct evidence_id *id, bool any_head)
{
    for (int i = 0; i < s->n; i++)
        if (evidence_id_equal(&s->ids[i], id))
            return s->evidence[i];
    for (int i = 0; any_head && i < s->n; i++)
        if (evidence_id_same_step(&s->ids[i], id))
            return s->evidence[i];
    return NULL;
}

void evidence_shelf_clear(struct evidence_shelf *s)
{
    for (int i = 0; i < s->n; i++)
        evidence_free(s->evidence[i]);
    *s = (struct evidence_shelf){0};
}
