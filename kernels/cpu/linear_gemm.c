/* Many rows times a weight matrix: packing, blocking and tasks, the same for every micro-kernel.
 *
 *   1. All rows of x are normalised and packed once, by k blocks:  a [n_k_blocks, n_rows, a_row].
 *   2. A task owns a block of outputs and of rows.  For each k block it packs the weights of its
 *      outputs (they stay in the second-level cache) and runs the micro-kernel over its tiles,
 *      summing into c [rows, outputs] (scratch).
 *   3. It finishes its outputs: bias, activation, residual. */
#include "kernels/cpu/linear.h"
#include "kernels/cpu/norm.h"

enum {
    ROWS_PER_BLOCK = 512,    /* of c; weights are packed again for each block */
    OUTPUTS_PER_BLOCK = 128, /* dot products, so half as many outputs of SwiGLU */
    ROWS_PER_PACK_TASK = 8
};

struct gemm_job {
    const struct linear_call *call;
    const struct gemm_kernel *kernel;
    const struct norm *norm;
    struct device *dev;
    char *a;
    int n_k_blocks;
    int n_dots;  /* dot products per row in a block: a multiple of nr (2 nr for SwiGLU) */
    int outputs; /* outputs per block: n_dots, or half of it for SwiGLU */
    int n_output_blocks;
    int rows; /* per block */
};

static int min_int(int a, int b)
{
    return a < b ? a : b;
}

static int ceil_div(int a, int b)
{
    return (a + b - 1) / b;
}

static size_t round_up(size_t n, size_t step)
{
    return (n + step - 1) / step * step;
}

static char *packed_row(const struct gemm_job *job, int k_block, int row)
{
    size_t index = (size_t)k_block * (size_t)job->call->n_rows + (size_t)row;
    return job->a + index * job->kernel->a_row_bytes;
}

static void pack_rows_task(void *user, int task_index, int thread_index)
{
    const struct gemm_job *job = user;
    const struct linear_call *call = job->call;
    int n_in = call->w->n_in, kc = job->kernel->kc;
    float *normed = NULL;
    if (job->norm) {
        normed = cpu_scratch(job->dev, thread_index, sizeof(float) * (size_t)n_in);
        if (!normed)
            return;
    }
    int first = task_index * ROWS_PER_PACK_TASK;
    int end = min_int(first + ROWS_PER_PACK_TASK, call->n_rows);
    for (int row = first; row < end; row++) {
        const float *x = call->x + (size_t)row * (size_t)n_in;
        if (job->norm) {
            cpu_norm_row(normed, x, job->norm, n_in);
            x = normed;
        }
        for (int block = 0; block < job->n_k_blocks; block++)
            job->kernel->pack_a(packed_row(job, block, row), x + (size_t)block * (size_t)kc,
                                min_int(kc, n_in - block * kc));
    }
}

/* Packs panel number `panel` of a block whose first output is `first`.  For SwiGLU the first half
 * of the panels are gates, the second half the matching up rows. */
static void pack_panel(const struct gemm_job *job, void *b, int first, int n_outputs, int panel,
                       int k_block)
{
    const struct linear_call *call = job->call;
    const struct linear *w = call->w;
    int nr = job->kernel->nr, kc = job->kernel->kc;
    int offset = panel * nr;
    size_t row = (size_t)first;
    if (offset >= job->outputs) {
        offset -= job->outputs;
        row += (size_t)call->n_y;
    }
    int n = min_int(nr, n_outputs - offset);
    size_t element = (row + (size_t)offset) * (size_t)w->n_in + (size_t)k_block * (size_t)kc;
    if (n <= 0) /* nothing of the matrix is read for a panel beyond its edge */
        n = 0, element = 0;
    job->kernel->pack_b(b, (const char *)w->w + element * dtype_bytes(w->dtype), w->dtype,
                        (size_t)w->n_in, n, min_int(kc, w->n_in - k_block * kc));
}

/* All tiles of a panel: c [n_rows, nr] (+)= a b^T.  Tiles are of nearly equal height. */
static void run_panel(const struct gemm_job *job, float *c, const void *b, int first_row,
                      int n_rows, int k_block)
{
    const struct gemm_kernel *kernel = job->kernel;
    int n_k = min_int(kernel->kc, job->call->w->n_in - k_block * kernel->kc);
    int n_tiles = ceil_div(n_rows, kernel->mr);
    for (int tile = 0; tile < n_tiles; tile++) {
        int from = (int)((int64_t)n_rows * tile / n_tiles);
        int to = (int)((int64_t)n_rows * (tile + 1) / n_tiles);
        kernel->run(c + (size_t)from * (size_t)job->n_dots, (size_t)job->n_dots,
                    packed_row(job, k_block, first_row + from), b, to - from, n_k, k_block > 0);
    }
}

static size_t panel_bytes(const struct gemm_kernel *kernel)
{
    return round_up((size_t)kernel->kc * kernel->b_k_bytes, CPU_ALIGN);
}

static void block_task(void *user, int task_index, int thread_index)
{
    const struct gemm_job *job = user;
    const struct linear_call *call = job->call;
    int first = task_index % job->n_output_blocks * job->outputs;
    int first_row = task_index / job->n_output_blocks * job->rows;
    int n_outputs = min_int(job->outputs, call->n_y - first);
    int n_rows = min_int(job->rows, call->n_rows - first_row);
    size_t c_bytes = sizeof(float) * (size_t)job->n_dots * (size_t)job->rows;
    char *scratch = cpu_scratch(job->dev, thread_index, panel_bytes(job->kernel) + c_bytes);
    if (!scratch)
        return;
    float *c = (float *)(scratch + panel_bytes(job->kernel));

    for (int k_block = 0; k_block < job->n_k_blocks; k_block++)
        for (int panel = 0; panel * job->kernel->nr < job->n_dots; panel++) {
            pack_panel(job, scratch, first, n_outputs, panel, k_block);
            run_panel(job, c + (size_t)panel * (size_t)job->kernel->nr, scratch, first_row, n_rows,
                      k_block);
        }
    for (int row = 0; row < n_rows; row++) {
        const float *dots = c + (size_t)row * (size_t)job->n_dots;
        linear_finish_row(call, first_row + row, first, n_outputs, dots, dots + job->outputs);
    }
}

/* Blocks small enough that every thread gets a few. */
static void choose_blocks(struct gemm_job *job)
{
    const struct linear_call *call = job->call;
    int halves = call->finish.activation == ACTIVATION_SWIGLU ? 2 : 1;
    int nr = job->kernel->nr, wanted = 4 * job->dev->n_threads;
    int panels = OUTPUTS_PER_BLOCK / nr / halves; /* per half */
    job->rows = min_int(call->n_rows, ROWS_PER_BLOCK);
    while (panels > 1 && ceil_div(call->n_y, panels * nr) < wanted)
        panels /= 2;
    job->outputs = panels * nr;
    job->n_dots = job->outputs * halves;
    job->n_output_blocks = ceil_div(call->n_y, job->outputs);
    while (job->rows > 4 * job->kernel->mr &&
           job->n_output_blocks * ceil_div(call->n_rows, job->rows) < wanted)
        job->rows = ceil_div(job->rows, 2);
}

size_t linear_gemm_bytes(const struct gemm_kernel *kernel, int n_rows, int n_in)
{
    return (size_t)ceil_div(n_in, kernel->kc) * (size_t)n_rows * kernel->a_row_bytes;
}

void linear_run_gemm(struct device *dev, const struct linear_call *call,
                     const struct gemm_kernel *kernel, const struct norm *norm)
{
    int n_in = call->w->n_in;
    struct gemm_job job = {.call = call, .kernel = kernel, .norm = norm, .dev = dev};
    job.n_k_blocks = ceil_div(n_in, kernel->kc);
    job.a = cpu_workspace(dev, CPU_WORKSPACE_LINEAR, linear_gemm_bytes(kernel, call->n_rows, n_in));
    if (!job.a)
        return;
    choose_blocks(&job);
    cpu_parallel(dev, ceil_div(call->n_rows, ROWS_PER_PACK_TASK), pack_rows_task, &job);
    cpu_parallel(dev, job.n_output_blocks * ceil_div(call->n_rows, job.rows), block_task, &job);
}
