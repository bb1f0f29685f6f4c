/* Token (and position) embeddings: rows of a table as f32. */
#include <assert.h>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/cpu.h"

enum { ROWS_PER_TASK = 32 };

struct embed_job {
    float *x;
    const struct linear *table, *positions;
    const int32_t *tokens;
    int first_position, n_rows;
};

static void embed_task(void *user, int task_index, int thread_index)
{
    (void)thread_index;
    const struct embed_job *job = user;
    size_t dim = (size_t)job->table->n_in;
    int first = task_index * ROWS_PER_TASK;
    for (int row = first; row < first + ROWS_PER_TASK && row < job->n_rows; row++) {
        float *x = job->x + (size_t)row * dim;
        int token = job->tokens[row], position = job->first_position + row;
        assert(token >= 0 && token < job->table->n_out);
        for (size_t i = 0; i < dim; i++)
            x[i] = load_as_f32(job->table->w, job->table->dtype, (size_t)token * dim + i);
        if (!job->positions)
            continue;
        assert(position < job->positions->n_out && job->positions->n_in == job->table->n_in);
        for (size_t i = 0; i < dim; i++)
            x[i] +=
                load_as_f32(job->positions->w, job->positions->dtype, (size_t)position * dim + i);
    }
}

void cpu_embed(struct device *dev, float *x, const struct linear *table,
               const struct linear *positions, const int32_t *tokens, const struct step_state *step,
               int n_rows)
{
    if (cpu_failed(dev) || n_rows <= 0)
        return;
    struct embed_job job = {
        .x = x,
        .table = table,
        .positions = positions,
        .tokens = tokens,
        .first_position = cpu_first_position(step),
        .n_rows = n_rows,
    };
    cpu_parallel(dev, (n_rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK, embed_task, &job);
}
