/* What happens to q, k and v between the projection and attention: head norms, rotation, and the
 * new rows of the KV cache. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/norm.h"

enum { ROWS_PER_TASK = 8 };

struct append_job {
    struct device *dev;
    float *qkv;
    int n_heads, n_rows;
    const struct kv_layer *kv;
    const struct rope *rope;
    const struct norm *q_norm, *k_norm;
    int first_position;
    enum kv_segment segment;
    int first_row; /* in the segment */
};

/* cosine, sine [n_rot / 2] for one position.  The angle is rounded to f32 before its cosine is
 * taken, as the reference does. */
static void fill_angles(float *cosine, float *sine, const struct rope *rope, int position)
{
    for (int i = 0; i < rope->n_rot / 2; i++) {
        float angle = (float)position * rope->inv_freq[i];
        cosine[i] = cosf(angle);
        sine[i] = sinf(angle);
    }
}

static void rotate(float *head, const float *cosine, const float *sine, int half)
{
    for (int i = 0; i < half; i++) {
        float a = head[i], b = head[i + half];
        head[i] = a * cosine[i] - b * sine[i];
        head[i + half] = b * cosine[i] + a * sine[i];
    }
}

static void append_row(const struct append_job *job, int row, const float *cosine,
                       const float *sine)
{
    const struct kv_layer *kv = job->kv;
    int dim = kv->head_dim, half = cosine ? job->rope->n_rot / 2 : 0;
    size_t n_qk = (size_t)job->n_heads + (size_t)kv->n_kv_heads;
    size_t row_floats = (n_qk + (size_t)kv->n_kv_heads) * (size_t)dim;
    float *q = job->qkv + (size_t)row * row_floats;
    float *k = q + (size_t)job->n_heads * (size_t)dim, *v = q + n_qk * (size_t)dim;

    for (size_t h = 0; h < n_qk; h++) {
        float *head = q + h * (size_t)dim;
        const struct norm *norm = h < (size_t)job->n_heads ? job->q_norm : job->k_norm;
        if (norm)
            cpu_norm_row(head, head, norm, dim);
        rotate(head, cosine, sine, half);
    }
    for (int h = 0; h < kv->n_kv_heads; h++) {
        size_t from = (size_t)h * (size_t)dim;
        size_t at =
            ((size_t)h * (size_t)kv->capacity[job->segment] + (size_t)(job->first_row + row)) *
            (size_t)dim;
        store_f32(kv->k[job->segment], kv->dtype, at, k + from, dim);
        store_f32(kv->v[job->segment], kv->dtype, at, v + from, dim);
    }
}

static void append_task(void *user, int task_index, int thread_index)
{
    const struct append_job *job = user;
    float *cosine = NULL, *sine = NULL;
    if (job->rope && job->rope->inv_freq) {
        size_t half = (size_t)job->rope->n_rot / 2;
        cosine = cpu_scratch(job->dev, thread_index, 2 * half * sizeof(float));
        if (!cosine)
            return;
        sine = cosine + half;
    }
    int first = task_index * ROWS_PER_TASK;
    for (int row = first; row < first + ROWS_PER_TASK && row < job->n_rows; row++) {
        if (cosine)
            fill_angles(cosine, sine, job->rope, job->first_position + row);
        append_row(job, row, cosine, sine);
    }
}

void cpu_rotate_append(struct device *dev, float *qkv, int n_heads, const struct kv_layer *kv,
                       const struct rope *rope, const struct norm *q_norm,
                       const struct norm *k_norm, const struct step_state *step, int n_rows)
{
    if (cpu_failed(dev) || n_rows <= 0)
        return;
    assert(!rope || !rope->inv_freq || (rope->n_rot % 2 == 0 && rope->n_rot <= kv->head_dim));
    assert(kv->dtype == DTYPE_F32 || kv->dtype == DTYPE_BF16);
    struct append_job job = {
        .dev = dev,
        .qkv = qkv,
        .n_heads = n_heads,
        .n_rows = n_rows,
        .kv = kv,
        .rope = rope,
        .q_norm = q_norm,
        .k_norm = k_norm,
        .first_position = cpu_first_position(step),
        .segment = step->append_tail ? KV_TAIL : KV_CONTEXT,
        .first_row = step->append_tail ? step->n_tail : step->n_context,
    };
    assert(job.first_row + n_rows <= kv->capacity[job.segment]);
    cpu_parallel(dev, (n_rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK, append_task, &job);
}
