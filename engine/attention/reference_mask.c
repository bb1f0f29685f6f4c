#include "engine/attention/reference_mask.h"

#include <stdlib.h>
#include <string.h>

#include "engine/attention/maskers/maskers.h"
#include "engine/base/memory.h"

/* Sink marks keys [0, e) for every row.  Local marks the window, padding or not, and clears the
 * future, whoever marked it.  Quest and SOCKET clear all that is hidden. */
static void mark_hidden(const struct stack *s, const struct reference_row *row, bool *hidden)
{
    for (int i = 0; i < s->n; i++) {
        const struct stack_item *item = &s->items[i];
        if (item->off)
            continue;
        int size = budget_keys(item->values.param[0], row->n_keys);
        if (item->masker == &masker_sink) {
            for (int j = 0; j < size && j < row->n_keys; j++)
                hidden[j] = true;
        } else if (item->masker == &masker_local) {
            int from = row->position - size + 1;
            for (int j = from > 0 ? from : 0; j <= row->position; j++)
                hidden[j] = true;
            for (int j = row->position + 1; j < row->n_keys; j++)
                hidden[j] = false;
        } else if (item->masker->overlaps) {
            memset(hidden, 0, (size_t)row->n_keys * sizeof *hidden);
        }
    }
    for (int j = row->first_key; j <= row->position; j++)
        hidden[j] = false; /* visible: the selection's own say */
}

int reference_mask_extend(const struct stack *s, const struct reference_row *row, int32_t *keys,
                          float *prob, int n)
{
    bool *hidden = xcalloc((size_t)row->n_keys, sizeof *hidden);
    mark_hidden(s, row, hidden);
    int before = 0, after = 0;
    for (int j = 0; j < row->n_keys; j++) {
        before += hidden[j] && j < row->first_key;
        after += hidden[j] && j > row->position;
    }
    for (int i = n - 1; i >= 0; i--) {
        keys[i + before] = keys[i];
        prob[i + before] = prob[i];
    }
    int at[2] = {0, before + n}; /* where padding goes, and the future */
    for (int j = 0; j < row->n_keys; j++)
        if (hidden[j]) {
            int *to = &at[j > row->position];
            keys[*to] = j;
            prob[(*to)++] = 1;
        }
    free(hidden);
    return before + n + after;
}

float reference_mask_prob(float p)
{
    return (float)(((double)p + 1e-6) / (1 + 1e-6));
}
