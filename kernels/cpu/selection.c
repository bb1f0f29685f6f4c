/* Memory of a selection, and the keeping of its ranges and lists. */
#include "kernels/cpu/selection.h"

#include <stdlib.h>
#include <string.h>

/* Zeroed by the system when first touched, so that an array costs what is used of it. */
static void *reserve(size_t n, size_t stride, size_t size, bool *ok)
{
    size_t n_all;
    void *p = NULL;
    if (!__builtin_mul_overflow(n, stride, &n_all))
        p = calloc(n_all, size);
    *ok = *ok && p;
    return p;
}

struct selection *cpu_selection_open(struct device *dev, int max_rows, int n_heads, int n_kv_heads,
                                     int max_keys)
{
    assert(max_rows > 0 && max_keys > 0 && n_kv_heads > 0 && n_heads % n_kv_heads == 0);
    struct selection *sel = calloc(1, sizeof *sel);
    if (!sel)
        return NULL;
    sel->max_rows = max_rows;
    sel->n_heads = n_heads;
    sel->n_kv_heads = n_kv_heads;
    sel->max_keys = max_keys;
    sel->group = n_heads / n_kv_heads;
    sel->union_heads = sel->group <= ROW_QUERIES ? sel->group : 1;
    sel->stride = (size_t)round_up(max_keys, 16) + LIST_SLACK;
    size_t n_rows = (size_t)max_rows, n_lists = n_rows * (size_t)n_heads;
    size_t n_unions = n_rows * (size_t)selection_n_unions(sel);
    bool ok = true;
    sel->visible = reserve(n_rows, 1, sizeof *sel->visible, &ok);
    sel->ranges = reserve(n_rows, 1, sizeof *sel->ranges, &ok);
    sel->lists = reserve(n_lists, 1, sizeof *sel->lists, &ok);
    sel->unions = reserve(n_unions, 1, sizeof *sel->unions, &ok);
    sel->keys = reserve(n_lists, sel->stride, sizeof *sel->keys, &ok);
    sel->probs = reserve(n_lists, sel->stride, sizeof *sel->probs, &ok);
    sel->scores = reserve(n_lists, sel->stride, sizeof *sel->scores, &ok);
    sel->union_keys = reserve(n_unions, sel->stride, sizeof *sel->union_keys, &ok);
    sel->union_bits = reserve(n_unions, sel->stride, sizeof *sel->union_bits, &ok);
    sel->union_bias = reserve(n_lists, sel->stride, sizeof *sel->union_bias, &ok);
    struct select_scratch scratch;
    for (int i = 0; ok && i < dev->n_threads; i++)
        ok = select_scratch_get(dev, i, sel, &scratch);
    if (!ok) {
        cpu_selection_close(dev, sel);
        return NULL;
    }
    return sel;
}

void cpu_selection_close(struct device *dev, struct selection *sel)
{
    (void)dev;
    if (!sel)
        return;
    free(sel->visible);
    free(sel->ranges);
    free(sel->lists);
    free(sel->unions);
    free(sel->keys);
    free(sel->probs);
    free(sel->scores);
    free(sel->union_keys);
    free(sel->union_bits);
    free(sel->union_bias);
    free(sel);
}

void cpu_selection_begin(struct device *dev, struct selection *sel, const struct attention *att)
{
    if (cpu_failed(dev))
        return;
    struct attention_shape shape = attention_shape(att);
    assert(att->n_rows <= sel->max_rows && att->n_heads == sel->n_heads);
    assert(att->kv.n_kv_heads == sel->n_kv_heads && shape.n_keys <= sel->max_keys);
    sel->n_rows = att->n_rows;
    sel->n_keys = shape.n_keys;
    sel->n_rows_total = shape.n_rows_total;
    sel->first_position = shape.first_position;
    sel->full = sel->chosen = sel->listed = false;
    sel->scope = (struct choice_scope){0};
    sel->shared = true;
    for (int row = 0; row < att->n_rows; row++) {
        sel->visible[row] = attention_visible(att, &shape, row);
        sel->ranges[row].n = 0;
        for (int head = 0; head < sel->n_heads; head++)
            *selection_list(sel, row, head) = (struct key_list){.n = 0, .prob = 1.0f};
    }
}

int selection_budget(struct budget size, int n_keys)
{
    double e = size.is_fraction ? size.value * (double)n_keys : size.value;
    if (!(e >= 1.0))
        return 0;
    return e < (double)INT32_MAX ? (int)e : INT32_MAX;
}

int selection_top_count(struct device *dev, struct selection *sel, const struct attention *att,
                        struct budget size)
{
    if (selection_skips(dev, sel, att))
        return 0;
    int e = selection_budget(size, sel->n_keys);
    if (e == 0 || sel->n_keys > e)
        return e;
    sel->full = true;
    return 0;
}

static void unshare_list(struct selection *sel, int row, int first_head)
{
    const struct key_list *from = selection_list(sel, row, first_head);
    for (int head = first_head + 1; head < first_head + sel->group; head++) {
        *selection_list(sel, row, head) = *from;
        memcpy(selection_keys(sel, row, head), selection_keys(sel, row, first_head),
               (size_t)from->n * sizeof(uint32_t));
        if (from->mixed)
            memcpy(selection_probs(sel, row, head), selection_probs(sel, row, first_head),
                   (size_t)from->n * sizeof(float));
    }
}

void selection_prepare_lists(struct selection *sel, enum share share)
{
    if (sel->shared && share == SHARE_HEAD) {
        sel->shared = false;
        for (int row = 0; sel->listed && row < sel->n_rows; row++)
            for (int head = 0; head < sel->n_heads; head += sel->group)
                unshare_list(sel, row, head);
    }
    sel->listed = sel->chosen = true;
}

void selection_choice_heads(const struct selection *sel, enum share share, int which, int *begin,
                            int *end)
{
    int n = share == SHARE_GROUP ? sel->group : 1;
    *begin = which * n;
    *end = sel->shared ? *begin + 1 : *begin + n;
}

/* --- Lists ---------------------------------------------------------------------------------- */

/* Gives the list one probability per key. */
static void mix(struct key_list *list, float *probs)
{
    for (int i = 0; !list->mixed && i < list->n; i++)
        probs[i] = list->prob;
    list->mixed = true;
}

static bool all_equal(const float *x, int n)
{
    for (int i = 1; i < n; i++)
        if (x[i] != x[0])
            return false;
    return true;
}

void selection_add_keys(struct selection *sel, int row, int head, const uint32_t *keys,
                        const float *prob, float constant, int n)
{
    struct key_list *list = selection_list(sel, row, head);
    uint32_t *to = selection_keys(sel, row, head);
    float *probs = selection_probs(sel, row, head);
    if (n == 0)
        return;
    assert(list->n + n <= sel->max_keys);
    if (prob && all_equal(prob, n)) {
        constant = prob[0];
        prob = NULL;
    }
    if (list->n == 0) {
        list->prob = constant;
        list->mixed = false;
    }
    if (prob || list->prob != constant)
        mix(list, probs);
    /* Merged from the back, so that nothing is overwritten before it has moved. */
    int i = list->n - 1, j = n - 1;
    for (int at = list->n + n - 1; j >= 0; at--) {
        bool old = i >= 0 && to[i] > keys[j];
        to[at] = old ? to[i] : keys[j];
        if (list->mixed)
            probs[at] = old ? probs[i] : prob ? prob[j] : constant;
        if (old)
            i--;
        else
            j--;
    }
    list->n += n;
}

static void drop_list_keys(struct selection *sel, int row, int head, struct key_range range)
{
    struct key_list *list = selection_list(sel, row, head);
    uint32_t *keys = selection_keys(sel, row, head);
    float *probs = selection_probs(sel, row, head);
    int n = 0;
    for (int i = 0; i < list->n; i++) {
        if ((int)keys[i] >= range.begin && (int)keys[i] < range.end)
            continue;
        keys[n] = keys[i];
        if (list->mixed)
            probs[n] = probs[i];
        n++;
    }
    list->n = n;
}

void selection_drop_keys(struct selection *sel, int row, int head, const uint32_t *keys, int n)
{
    struct key_list *list = selection_list(sel, row, head);
    uint32_t *to = selection_keys(sel, row, head);
    float *probs = selection_probs(sel, row, head);
    int n_left = 0;
    for (int i = 0, j = 0; i < list->n; i++) {
        while (j < n && keys[j] < to[i])
            j++;
        if (j < n && keys[j] == to[i])
            continue;
        to[n_left] = to[i];
        if (list->mixed)
            probs[n_left] = probs[i];
        n_left++;
    }
    list->n = n_left;
}

/* --- Ranges --------------------------------------------------------------------------------- */

void selection_add_range(struct selection *sel, int row, int begin, int end)
{
    struct row_ranges *ranges = &sel->ranges[row], merged = {0};
    struct key_range added = {begin, end};
    if (begin >= end)
        return;
    bool placed = false;
    for (int i = 0; i < ranges->n; i++) {
        struct key_range r = ranges->range[i];
        if (r.end < added.begin) {
            merged.range[merged.n++] = r;
        } else if (r.begin > added.end) {
            if (!placed)
                merged.range[merged.n++] = added;
            placed = true;
            merged.range[merged.n++] = r;
        } else { /* they touch or overlap: one range */
            added.begin = min_int(added.begin, r.begin);
            added.end = max_int(added.end, r.end);
        }
    }
    assert(merged.n < MAX_RANGES);
    if (!placed)
        merged.range[merged.n++] = added;
    *ranges = merged;
    for (int head = 0; sel->listed && head < sel->n_heads; head++)
        drop_list_keys(sel, row, head, added);
}

/* --- Explicit lists -------------------------------------------------------------------------- */

static bool list_has(const struct selection *sel, int row, int head, uint32_t key)
{
    const struct key_list *list = selection_list(sel, row, head);
    const uint32_t *keys = selection_keys(sel, row, head);
    int begin = 0, n = list->n;
    while (n > 0) {
        int half = n / 2;
        if (keys[begin + half] == key)
            return true;
        if (keys[begin + half] < key)
            begin += half + 1, n -= half + 1;
        else
            n = half;
    }
    return false;
}

void cpu_selection_put(struct device *dev, struct selection *sel, int row, int head,
                       const int32_t *keys, const float *prob, int n)
{
    assert(row >= 0 && row < sel->n_rows && head >= 0 && head < sel->n_heads);
    assert(n >= 0 && n <= sel->max_keys);
    if (sel->full || cpu_failed(dev))
        return;
    selection_prepare_lists(sel, SHARE_HEAD);
    struct select_scratch scratch;
    if (!select_scratch_get(dev, 0, sel, &scratch))
        return;
    struct key_range visible = sel->visible[row];
    int n_new = 0;
    for (int i = 0; i < n; i++) {
        int32_t key = keys[i];
        if (key < visible.begin || key >= visible.end ||
            selection_in_ranges(&sel->ranges[row], key) || list_has(sel, row, head, (uint32_t)key))
            continue;
        scratch.keys[n_new] = (uint32_t)key;
        scratch.scores[n_new++] = prob ? prob[i] : 1.0f;
    }
    selection_add_keys(sel, row, head, scratch.keys, scratch.scores, 1.0f, n_new);
}

int cpu_selection_get(struct device *dev, const struct selection *sel, int row, int head,
                      int32_t *keys, float *prob)
{
    assert(row >= 0 && row < sel->n_rows && head >= 0 && head < sel->n_heads);
    (void)dev;
    if (sel->full)
        return -1;
    int list_head = selection_list_head(sel, head), n = 0, i = 0;
    const struct key_list *list = selection_list(sel, row, list_head);
    const uint32_t *listed = selection_keys(sel, row, list_head);
    const float *probs = selection_probs(sel, row, list_head);
    const struct row_ranges *ranges = &sel->ranges[row];
    for (int r = 0; r <= ranges->n; r++) {
        int begin = r < ranges->n ? ranges->range[r].begin : INT32_MAX;
        for (; i < list->n && (int)listed[i] < begin; i++) {
            keys[n] = (int32_t)listed[i];
            prob[n++] = list->mixed ? probs[i] : list->prob;
        }
        for (int key = begin; r < ranges->n && key < ranges->range[r].end; key++) {
            keys[n] = key;
            prob[n++] = 1.0f;
        }
    }
    return n;
}
