/* The cuda backend's table of operations, and the module's one exported symbol. */
#include "kernels/cuda/cuda.cuh"

static const struct backend backend_cuda = {
    .name = "cuda",
    .open = cuda_device_open,
    .close = cuda_device_close,
    .describe = cuda_device_describe,
    .alloc = cuda_alloc,
    .release = cuda_release,
    .upload = cuda_upload,
    .download = cuda_download,
    .copy = cuda_copy,
    .sync = cuda_device_sync,
    .lost = cuda_device_lost,
    .reserve = cuda_reserve,
    .time_mark = cuda_time_mark,
    .time_between_us = cuda_time_between_us,
    .record_begin = cuda_record_begin,
    .record_end = cuda_record_end,
    .replay = cuda_replay,
    .recording_close = cuda_recording_close,
    .embed = cuda_embed,
    .norm_linear = cuda_norm_linear,
    .linear_add = cuda_linear_add,
    .rotate_append = cuda_rotate_append,
    .pick = cuda_pick,
    .advance = cuda_advance,
    .kl_divergence = cuda_kl_divergence,
    .attend_dense = cuda_attend_dense,
    .selection_open = cuda_selection_open,
    .selection_close = cuda_selection_close,
    .selection_begin = cuda_selection_begin,
    .selection_end = cuda_selection_end,
    .select_sink = cuda_select_sink,
    .select_local = cuda_select_local,
    .score_exact = cuda_score_exact,
    .select_top_k = cuda_select_top_k,
    .select_top_p = cuda_select_top_p,
    .select_random = cuda_select_random,
    .selection_put = cuda_selection_put,
    .selection_get = cuda_selection_get,
    .attend_selected = cuda_attend_selected,
    .probe = cuda_probe,
    .fill_random = cuda_fill_random,
    .measure_read_bandwidth = cuda_measure_read_bandwidth,
    .measure_read_of = cuda_measure_read_of,
    .measure_peak_flops = cuda_measure_peak_flops,
};

extern "C" __attribute__((visibility("default"))) const struct backend *
attnscope_backend(int interface)
{
    return interface == BACKEND_INTERFACE ? &backend_cuda : NULL;
}
