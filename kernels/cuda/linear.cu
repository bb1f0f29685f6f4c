/* Linear layers: the choice of the way to multiply.
 *
 * Few rows are bound by memory and read the weights once (gemv.cu); many rows are bound by
 * arithmetic and go through cuBLASLt with rounded activations (gemm.cu).  What neither takes, and
 * whatever must be exact, is multiplied in f32 (gemm_exact.cu). */
#include "kernels/cuda/linear.cuh"

/* Above GEMV_MAX_ROWS the weights are read again for every GEMV_MAX_ROWS rows, which costs more
 * than cuBLASLt's products of few rows do; where f32 is wanted it is done up to this many rows. */
enum { GEMV_EXACT_ROWS = 32 };

static void run_in_chunks(struct device *dev, const struct linear_call *call)
{
    for (int row = 0; row < call->n_rows; row += GEMV_MAX_ROWS) {
        struct linear_call part = *call;
        part.x += (size_t)row * (size_t)call->w.n_in;
        part.y += (size_t)row * (size_t)call->n_y;
        part.n_rows = call->n_rows - row < GEMV_MAX_ROWS ? call->n_rows - row : GEMV_MAX_ROWS;
        linear_run_gemv(dev, &part);
    }
}

static void run_linear(struct device *dev, const struct linear_call *call)
{
    assert(call->w.n_out > 0 && call->w.n_in > 0);
    if (dev->failed || call->n_rows <= 0)
        return;
    bool rounded = !dev->options.exact && linear_gemm_takes(call);
    const int most = rounded ? (int)GEMV_MAX_ROWS : (int)GEMV_EXACT_ROWS;
    if (call->n_rows <= most && linear_gemv_takes(call)) {
        run_in_chunks(dev, call);
        return;
    }
    if (rounded && linear_run_gemm(dev, call))
        return;
    linear_run_exact(dev, call);
}

void cuda_norm_linear(struct device *dev, float *y, const float *x, const struct norm *norm,
                      const struct linear *w, enum activation activation, int n_rows)
{
    assert(activation != ACTIVATION_SWIGLU || w->n_out % 2 == 0);
    struct linear_call call = {};
    call.y = y;
    call.x = x;
    call.norm = row_norm_of(norm);
    call.w = *w;
    call.activation = activation;
    call.n_y = activation == ACTIVATION_SWIGLU ? w->n_out / 2 : w->n_out;
    call.n_rows = n_rows;
    run_linear(dev, &call);
}

void cuda_linear_add(struct device *dev, float *x, const float *y, const struct linear *w,
                     int n_rows)
{
    struct linear_call call = {};
    call.y = x;
    call.x = y;
    call.w = *w;
    call.activation = ACTIVATION_NONE;
    call.add = true;
    call.n_y = w->n_out;
    call.n_rows = n_rows;
    run_linear(dev, &call);
}

size_t cuda_linear_workspace_bytes(const struct device *dev, const struct workspace_need *need)
{
    (void)dev;
    size_t gemm = linear_gemm_bytes(need), exact = linear_exact_bytes(need);
    return gemm > exact ? gemm : exact;
}
