/* Linear layers: the choice of the way to multiply, and few rows split into tasks. */
#include "kernels/cpu/linear.h"

#include <assert.h>

#include "kernels/cpu/norm.h"

/* Weights of a task where few rows are multiplied: enough tasks that threads end together, none so
 * small that the processor's prefetching has hardly begun. */
#define FEW_TASK_MIN_BYTES ((size_t)64 << 10)
#define FEW_TASK_MAX_BYTES ((size_t)512 << 10)

enum {
    FEW_TASKS_PER_THREAD = 16,
    FEW_BLOCK = 48,     /* outputs whose dot products are held at once */
    BF16_FROM_ROWS = 5, /* below it f32 keeps up with memory, and rounds less */
    ROWS_PER_PREPARE = 8
};

struct few_job {
    const struct linear_call *call;
    const struct dots_kernel *kernel;
    const struct norm *norm;
    struct device *dev;
    char *x;         /* [n_rows, x_stride] prepared */
    size_t x_stride; /* bytes */
    int outputs_per_task;
};

static void prepare_task(void *user, int task_index, int thread_index)
{
    const struct few_job *job = user;
    const struct linear_call *call = job->call;
    int n_in = call->w->n_in, first = task_index * ROWS_PER_PREPARE;
    float *normed = NULL;
    if (job->norm) {
        normed = cpu_scratch(job->dev, thread_index, sizeof(float) * (size_t)n_in);
        if (!normed)
            return;
    }
    for (int row = first; row < first + ROWS_PER_PREPARE && row < call->n_rows; row++) {
        const float *x = call->x + (size_t)row * (size_t)n_in;
        if (job->norm) {
            cpu_norm_row(normed, x, job->norm, n_in);
            x = normed;
        }
        job->kernel->prepare(job->x + (size_t)row * job->x_stride, x, n_in);
    }
}

static void few_block(const struct few_job *job, float *dots, float *up, int first, int n)
{
    const struct linear_call *call = job->call;
    const struct linear *w = call->w;
    size_t row_bytes = (size_t)w->n_in * dtype_bytes(w->dtype);
    const char *from = (const char *)w->w + (size_t)first * row_bytes;
    job->kernel->run(dots, FEW_BLOCK, from, w->dtype, n, w->n_in, job->x, job->x_stride,
                     call->n_rows);
    if (call->finish.activation == ACTIVATION_SWIGLU)
        job->kernel->run(up, FEW_BLOCK, from + (size_t)call->n_y * row_bytes, w->dtype, n, w->n_in,
                         job->x, job->x_stride, call->n_rows);
    for (int r = 0; r < call->n_rows; r++)
        linear_finish_row(call, r, first, n, dots + (size_t)r * FEW_BLOCK,
                          up + (size_t)r * FEW_BLOCK);
}

static void few_task(void *user, int task_index, int thread_index)
{
    const struct few_job *job = user;
    size_t n_dots = (size_t)job->call->n_rows * FEW_BLOCK;
    float *dots = cpu_scratch(job->dev, thread_index, 2 * sizeof(float) * n_dots);
    if (!dots)
        return;
    int first = task_index * job->outputs_per_task;
    int end = first + job->outputs_per_task;
    if (end > job->call->n_y)
        end = job->call->n_y;
    for (; first < end; first += FEW_BLOCK)
        few_block(job, dots, dots + n_dots, first,
                  end - first < FEW_BLOCK ? end - first : FEW_BLOCK);
}

/* Bytes between prepared rows: a cache line more than they need, so that rows whose length is a
 * power of two do not share a set of the first-level cache. */
static size_t prepared_stride(const struct dots_kernel *kernel, int n_in)
{
    size_t n = ((size_t)n_in + PREPARED_STEP - 1) / PREPARED_STEP * PREPARED_STEP;
    return (n * kernel->x_bytes + CPU_ALIGN - 1) / CPU_ALIGN * CPU_ALIGN + CPU_ALIGN;
}

/* A multiple of 4, the outputs that kernels take at once, unless there are fewer. */
static int outputs_per_task(const struct device *dev, const struct linear_call *call)
{
    const struct linear *w = call->w;
    size_t n_bytes = (size_t)w->n_out * (size_t)w->n_in * dtype_bytes(w->dtype);
    size_t task_bytes = n_bytes / (size_t)(FEW_TASKS_PER_THREAD * dev->n_threads);
    if (task_bytes < FEW_TASK_MIN_BYTES)
        task_bytes = FEW_TASK_MIN_BYTES;
    if (task_bytes > FEW_TASK_MAX_BYTES)
        task_bytes = FEW_TASK_MAX_BYTES;
    size_t outputs = task_bytes / (n_bytes / (size_t)call->n_y) / 4 * 4 + 4;
    return outputs < (size_t)call->n_y ? (int)outputs : call->n_y;
}

static void run_few(struct device *dev, const struct linear_call *call,
                    const struct dots_kernel *kernel, const struct norm *norm)
{
    const struct linear *w = call->w;
    struct few_job job = {.call = call, .kernel = kernel, .norm = norm, .dev = dev};
    job.x_stride = prepared_stride(kernel, w->n_in);
    job.x = cpu_workspace(dev, CPU_WORKSPACE_LINEAR, job.x_stride * (size_t)call->n_rows);
    if (!job.x)
        return;
    cpu_parallel(dev, (call->n_rows + ROWS_PER_PREPARE - 1) / ROWS_PER_PREPARE, prepare_task, &job);

    job.outputs_per_task = outputs_per_task(dev, call);
    int n_tasks = (call->n_y + job.outputs_per_task - 1) / job.outputs_per_task;
    cpu_parallel(dev, n_tasks, few_task, &job);
}

static const struct linear_products *products_for(const struct device *dev, const struct linear *w,
                                                  int n_rows)
{
    bool rounded = dev->bf16 && w->dtype == DTYPE_BF16 && n_rows >= BF16_FROM_ROWS;
    return rounded ? dev->bf16 : &dev->linear->f32;
}

static void run_linear(struct device *dev, const struct linear_call *call, const struct norm *norm)
{
    const struct linear *w = call->w;
    assert(w->n_out > 0 && w->n_in > 0);
    if (cpu_failed(dev) || call->n_rows <= 0)
        return;
    const struct linear_products *products = products_for(dev, w, call->n_rows);
    if (products->gemm && call->n_rows > products->dots->max_rows) {
        linear_run_gemm(dev, call, products->gemm, norm);
        return;
    }
    for (int row = 0; row < call->n_rows; row += products->dots->max_rows) {
        struct linear_call part = *call;
        part.x += (size_t)row * (size_t)w->n_in;
        part.y += (size_t)row * (size_t)call->n_y;
        part.n_rows = call->n_rows - row;
        if (part.n_rows > products->dots->max_rows)
            part.n_rows = products->dots->max_rows;
        run_few(dev, &part, products->dots, norm);
    }
}

size_t linear_workspace_bytes(const struct device *dev, int n_rows, int n_in)
{
    size_t largest = 0;
    const struct linear_products *const all[] = {&dev->linear->f32, dev->bf16};
    for (int i = 0; i < 2; i++) {
        if (!all[i])
            continue;
        size_t few = prepared_stride(all[i]->dots, n_in) * (size_t)all[i]->dots->max_rows;
        size_t many = all[i]->gemm ? linear_gemm_bytes(all[i]->gemm, n_rows, n_in) : 0;
        largest = few > largest ? few : largest;
        largest = many > largest ? many : largest;
    }
    return largest;
}

void cpu_norm_linear(struct device *dev, float *y, const float *x, const struct norm *norm,
                     const struct linear *w, enum activation activation, int n_rows)
{
    assert(activation != ACTIVATION_SWIGLU || w->n_out % 2 == 0);
    struct linear_call call = {
        .y = y,
        .x = x,
        .w = w,
        .n_y = activation == ACTIVATION_SWIGLU ? w->n_out / 2 : w->n_out,
        .n_rows = n_rows,
        .finish = {.activation = activation},
        .kernels = dev->linear,
    };
    run_linear(dev, &call, norm);
}

void cpu_linear_add(struct device *dev, float *x, const float *y, const struct linear *w,
                    int n_rows)
{
    struct linear_call call = {
        .y = x,
        .x = y,
        .w = w,
        .n_y = w->n_out,
        .n_rows = n_rows,
        .finish = {.add = true},
        .kernels = dev->linear,
    };
    run_linear(dev, &call, NULL);
}
