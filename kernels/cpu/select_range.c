/* Sink and local: ranges, the same for all heads; and calls too short to choose in.
 * Source: Xiao et al. 2023, "Efficient streaming language models with attention sinks". */
#include "kernels/cpu/selection.h"

void cpu_select_sink(struct device *dev, struct selection *sel, const struct attention *att,
                     struct budget size)
{
    if (selection_skips(dev, sel, att))
        return;
    int e = selection_budget(size, sel->n_keys);
    if (e == 0)
        return;
    if (sel->n_keys <= e) {
        sel->full = true;
        return;
    }
    sel->chosen = true;
    for (int row = 0; row < sel->n_rows; row++)
        selection_add_range(sel, row, sel->visible[row].begin, min_int(e, sel->visible[row].end));
}

void cpu_select_local(struct device *dev, struct selection *sel, const struct attention *att,
                      struct budget size)
{
    if (selection_skips(dev, sel, att))
        return;
    int e = selection_budget(size, sel->n_keys);
    if (e == 0)
        return;
    if ((int64_t)sel->n_keys <= (int64_t)e + sel->n_rows_total) {
        sel->full = true;
        return;
    }
    sel->chosen = true;
    for (int row = 0; row < sel->n_rows; row++) {
        struct key_range visible = sel->visible[row];
        selection_add_range(sel, row, max_int(visible.begin, visible.end - e), visible.end);
    }
}

void cpu_select_if_short(struct device *dev, struct selection *sel, const struct attention *att,
                         struct budget size, int more)
{
    if (selection_skips(dev, sel, att))
        return;
    int e = selection_budget(size, sel->n_keys);
    if (e > 0 && (int64_t)sel->n_keys <= (int64_t)e + more + sel->n_rows_total)
        sel->full = true;
}
