/* The cpu backend's table of operations. */
#include "kernels/cpu/cpu.h"

static void close_device(struct device *dev)
{
    if (!dev)
        return;
    cpu_release_attention(dev);
    cpu_device_close(dev);
}

static int max_int(int a, int b)
{
    return a > b ? a : b;
}

static bool reserve(struct device *dev, const struct workspace_need *need)
{
    struct workspace_need *largest = &dev->need;
    *largest = (struct workspace_need){
        .max_rows = max_int(largest->max_rows, need->max_rows),
        .max_width = max_int(largest->max_width, need->max_width),
        .n_heads = max_int(largest->n_heads, need->n_heads),
        .n_kv_heads = max_int(largest->n_kv_heads, need->n_kv_heads),
        .head_dim = max_int(largest->head_dim, need->head_dim),
        .max_keys = max_int(largest->max_keys, need->max_keys),
    };
    return cpu_reserve_linear(dev, largest) && cpu_reserve_attention(dev, largest);
}

const struct backend backend_cpu = {
    .name = "cpu",
    .draws_by_score = true,
    .open = cpu_device_open,
    .close = close_device,
    .describe = cpu_device_describe,
    .alloc = cpu_alloc,
    .release = cpu_release,
    .upload = cpu_upload,
    .download = cpu_download,
    .copy = cpu_copy,
    .sync = cpu_device_sync,
    .reserve = reserve,
    .time_mark = cpu_time_mark,
    .time_between_us = cpu_time_between_us,
    .embed = cpu_embed,
    .norm_linear = cpu_norm_linear,
    .linear_add = cpu_linear_add,
    .rotate_append = cpu_rotate_append,
    .pick = cpu_pick,
    .advance = cpu_advance,
    .kl_divergence = cpu_kl_divergence,
    .attend_dense = cpu_attend_dense,
    .selection_open = cpu_selection_open,
    .selection_close = cpu_selection_close,
    .selection_begin = cpu_selection_begin,
    .selection_end = cpu_selection_end,
    .select_sink = cpu_select_sink,
    .select_local = cpu_select_local,
    .score_exact = cpu_score_exact,
    .select_top_k = cpu_select_top_k,
    .select_top_p = cpu_select_top_p,
    .select_random = cpu_select_random,
    .selection_put = cpu_selection_put,
    .selection_get = cpu_selection_get,
    .attend_selected = cpu_attend_selected,
    .probe = cpu_probe,
    .fill_random = cpu_fill_random,
    .measure_read_bandwidth = cpu_measure_read_bandwidth,
    .measure_read_of = cpu_read_pass,
    .measure_peak_flops = cpu_measure_peak_flops,
    .index_open = cpu_index_open,
    .index_close = cpu_index_close,
    .index_bytes = cpu_index_bytes,
    .index_update = cpu_index_update,
    .score_index = cpu_score_index,
    .select_pages = cpu_select_pages,
    .select_if_short = cpu_select_if_short,
    .select_matches = cpu_select_matches,
    .select_again = cpu_select_again,
    .select_adaptive = cpu_select_adaptive,
};
