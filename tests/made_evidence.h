/* Evidence made up for tests of screens: the same on every machine. */
#ifndef ATTNSCOPE_TESTS_MADE_EVIDENCE_H
#define ATTNSCOPE_TESTS_MADE_EVIDENCE_H

#include <string.h>

#include "engine/attention/evidence.h"
#include "engine/base/buf.h"

/* A head that keeps the first 4 keys, the last 32 and every 50th; heavy are keys 0, 150 and, not
 * kept, 163 to 165. */
static inline struct evidence *made_evidence(int n_layers, int n_heads, int n_keys, int layer,
                                             int head)
{
    static const char *const words[] = {
        " the", " minutes", " of",   " a",   " company", " record", " that", " on",
        " May", " 3,",      " toll", " was", " paid",    ",\n",     " to",   " Mr Ames"};
    static const float weights[][2] = {
        {0, 0.4f}, {150, 0.1f}, {163, 0.2f}, {164, 0.05f}, {165, 0.04f}};
    struct evidence *e = evidence_new(n_layers, n_heads, n_keys);
    struct buf text = {0};
    e->head.layer = layer;
    e->head.head = head;
    for (int i = 0; i < n_layers * n_heads; i++) {
        float x = (float)(i * 37 % 100) / 100;
        e->figures[EVIDENCE_RECALL][i] = 1 - x * x / 2;
        e->figures[EVIDENCE_DENSITY][i] = 0.05f + x / 20;
        e->figures[EVIDENCE_ERROR][i] = x * x / 2;
        e->figures[EVIDENCE_AGREEMENT][i] = 1 - x / 2;
    }
    for (int j = 0; j < n_keys; j++) {
        e->head.kept_by[j] = j < 4 ? 1 : j >= n_keys - 32 ? 2 : j % 50 == 0 ? 3 : 0;
        e->head.prob[j] = e->head.kept_by[j] == 3 ? 0.5f : 1;
        e->head.n_heads[j] = (uint16_t)(e->head.kept_by[j] ? n_heads : n_heads / 2);
        e->head.n_kept += e->head.kept_by[j] != 0;
        e->head.weight[j] = 0.21f / (float)n_keys;
        buf_append_str(&text, words[j * 7 % 16]);
        e->text_end[j] = (uint32_t)text.len;
    }
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++)
        if ((int)weights[i][0] < n_keys)
            e->head.weight[(int)weights[i][0]] = weights[i][1];
    e->text = buf_take(&text);
    return e;
}

#endif
