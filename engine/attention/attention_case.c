#include "engine/attention/attention_case.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "engine/attention/attention_input.h"
#include "engine/attention/reference_mask.h"
#include "engine/attention/sparse_attention.h"
#include "engine/base/memory.h"

/* The selected keys of all rows, (b, h, i) outermost first.  Calls give them by (b, i, h), so that
 * they are gathered per row and put in order at the end. */
struct row_list {
    int32_t *keys; /* [n], owned */
    float *prob;   /* [n], owned; NULL when all are 1 */
    int n;
};

struct case_run {
    const struct attention_case_options *options;
    struct attention_input in;
    struct attention_stage stage;
    const struct backend *backend;
    struct device *dev;
    struct selection *sel;
    int max_rows;
    float *out;            /* [B, Q, H, D] */
    struct row_list *rows; /* [B, H, Q] */
    int32_t *keys;         /* [n_keys] of one row and head */
    float *prob;
    bool full;
};

/* --- Gathering ---------------------------------------------------------------------------- */

static struct row_list *row_at(struct case_run *r, int b, int head, int i)
{
    size_t index = ((size_t)b * (size_t)r->in.n_heads + (size_t)head) * (size_t)r->in.n_rows;
    return &r->rows[index + (size_t)i];
}

static void keep_row(struct row_list *row, const int32_t *keys, const float *prob, int n)
{
    bool weighted = false;
    for (int i = 0; i < n; i++)
        weighted |= prob[i] != 1;
    row->n = n;
    row->keys = xcalloc((size_t)n + 1, sizeof *row->keys);
    memcpy(row->keys, keys, (size_t)n * sizeof *keys);
    if (!weighted)
        return;
    row->prob = xcalloc((size_t)n, sizeof *row->prob);
    memcpy(row->prob, prob, (size_t)n * sizeof *prob);
}

/* Reads the selection of a piece's rows; false if it is full. */
static bool gather(struct case_run *r, int b, const struct attention *piece)
{
    for (int i = 0; i < piece->n_rows; i++)
        for (int head = 0; head < r->in.n_heads; head++) {
            int n = r->backend->selection_get(r->dev, r->sel, i, head, r->keys, r->prob);
            if (n < 0)
                return false;
            int row = piece->row_offset + i;
            struct reference_row where = {r->in.n_keys, piece->first_key,
                                          r->in.n_keys - r->in.n_rows + row};
            if (r->options->compat)
                n = reference_mask_extend(r->options->stack, &where, r->keys, r->prob, n);
            keep_row(row_at(r, b, head, row), r->keys, r->prob, n);
        }
    return true;
}

/* Attends again, to the piece's visible keys with the reference's weights. */
static void attend_as_reference(struct case_run *r, int b, const struct attention *piece)
{
    r->backend->selection_begin(r->dev, r->sel, piece);
    for (int i = 0; i < piece->n_rows; i++)
        for (int head = 0; head < r->in.n_heads; head++) {
            const struct row_list *row = row_at(r, b, head, piece->row_offset + i);
            int position = r->in.n_keys - r->in.n_rows + piece->row_offset + i, n = 0;
            for (int j = 0; j < row->n; j++) {
                if (row->keys[j] < piece->first_key || row->keys[j] > position)
                    continue;
                r->keys[n] = row->keys[j];
                r->prob[n++] = reference_mask_prob(row->prob ? row->prob[j] : 1);
            }
            r->backend->selection_put(r->dev, r->sel, i, head, r->keys, r->prob, n);
        }
    r->backend->selection_end(r->dev, r->sel, piece);
    r->backend->attend_selected(r->dev, piece, r->sel);
}

static bool run_entry(struct case_run *r, int b, struct error *err)
{
    struct attention att = attention_stage_call(&r->stage, b);
    for (int row = 0; row < att.n_rows; row += r->max_rows) {
        int left = att.n_rows - row;
        struct attention piece =
            sparse_attention_rows(&att, row, left < r->max_rows ? left : r->max_rows);
        if (!sparse_attention_once(r->options->stack, r->backend, r->dev, r->sel, &piece, err))
            return false;
        if (!gather(r, b, &piece))
            r->full = true;
        else if (r->options->compat)
            attend_as_reference(r, b, &piece);
    }
    size_t n = (size_t)r->in.n_rows * (size_t)r->in.n_heads * (size_t)r->in.head_dim;
    r->backend->download(r->dev, r->out + (size_t)b * n, att.out, n * sizeof(float));
    char why[256];
    if (!r->backend->sync(r->dev, why, sizeof why))
        return fail_code(err, EXIT_CODE_RUNTIME, "%s: %s", r->backend->name, why);
    return true;
}

/* --- Writing ------------------------------------------------------------------------------ */

/* The rows as one CSR matrix. */
struct csr {
    int32_t *ptr;   /* [n_rows + 1] */
    int32_t *col;   /* [nnz] */
    int16_t *col16; /* [nnz], instead of col when n_keys fits */
    float *val;     /* [nnz], NULL when all are 1 */
    size_t n_rows, nnz;
};

static bool csr_build(struct csr *m, const struct case_run *r, struct error *err)
{
    m->n_rows = (size_t)r->in.n_batch * (size_t)r->in.n_heads * (size_t)r->in.n_rows;
    bool weighted = false;
    for (size_t i = 0; i < m->n_rows; i++) {
        m->nnz += (size_t)r->rows[i].n;
        weighted |= r->rows[i].prob != NULL;
    }
    if (m->nnz > INT32_MAX)
        return fail(err, "%s: %zu selected keys are more than the file's format holds",
                    r->options->name, m->nnz);
    bool narrow = r->in.n_keys <= INT16_MAX;
    m->ptr = try_calloc(m->n_rows + 1, sizeof *m->ptr);
    m->col = narrow ? NULL : try_calloc(m->nnz + 1, sizeof *m->col);
    m->col16 = narrow ? try_calloc(m->nnz + 1, sizeof *m->col16) : NULL;
    m->val = weighted ? try_calloc(m->nnz + 1, sizeof *m->val) : NULL;
    if (!m->ptr || (!m->col && !m->col16) || (weighted && !m->val))
        return fail_code(err, EXIT_CODE_NO_DEVICE, "out of memory for %zu selected keys", m->nnz);
    size_t at = 0;
    for (size_t i = 0; i < m->n_rows; i++) {
        const struct row_list *row = &r->rows[i];
        for (int j = 0; j < row->n; j++, at++) {
            if (narrow)
                m->col16[at] = (int16_t)row->keys[j];
            else
                m->col[at] = row->keys[j];
            if (weighted)
                m->val[at] = row->prob ? row->prob[j] : 1;
        }
        m->ptr[i + 1] = (int32_t)at;
    }
    return true;
}

static void csr_free(struct csr *m)
{
    free(m->ptr);
    free(m->col);
    free(m->col16);
    free(m->val);
}

static bool write_result(const struct case_run *r, struct error *err)
{
    const struct attention_input *in = &r->in;
    uint8_t empty = stack_is_dense(r->options->stack), full = r->full && !empty;
    struct csr m = {0};
    bool ok = false;
    struct safetensors_out tensors[6] = {
        {"out",
         "F32",
         4,
         {(uint64_t)in->n_batch, (uint64_t)in->n_rows, (uint64_t)in->n_heads,
          (uint64_t)in->head_dim},
         r->out},
        {"full", "U8", 1, {1}, &full},
        {"empty", "U8", 1, {1}, &empty},
    };
    size_t n = 3;
    if (!full && !empty) {
        if (!csr_build(&m, r, err))
            goto out;
        tensors[n++] = (struct safetensors_out){"ptr", "I32", 1, {m.n_rows + 1}, m.ptr};
        if (m.col16)
            tensors[n++] = (struct safetensors_out){"col", "I16", 1, {m.nnz}, m.col16};
        else
            tensors[n++] = (struct safetensors_out){"col", "I32", 1, {m.nnz}, m.col};
        if (m.val)
            tensors[n++] = (struct safetensors_out){"val", "F32", 1, {m.nnz}, m.val};
    }
    ok = safetensors_write(r->options->out, tensors, n, err);

out:
    csr_free(&m);
    return ok;
}

/* --- The whole ---------------------------------------------------------------------------- */

static bool open_device(struct case_run *r, struct error *err)
{
    char why[512];
    struct device_options device = {.n_threads = r->options->n_threads, .exact = true};
    r->dev = backend_open(r->options->backend, &device, &r->backend, why, sizeof why);
    if (!r->dev)
        return fail_code(err, EXIT_CODE_NO_DEVICE, "%s", why);
    if (!attention_stage_open(&r->stage, &r->in, r->backend, r->dev, r->options->seed, err))
        return false;
    r->max_rows = sparse_attention_max_rows(r->in.n_heads, r->in.n_kv_heads, r->in.n_keys);
    r->sel = r->backend->selection_open(r->dev, r->max_rows, r->in.n_heads, r->in.n_kv_heads,
                                        r->in.n_keys);
    size_t n_rows = (size_t)r->in.n_batch * (size_t)r->in.n_heads * (size_t)r->in.n_rows;
    r->out = try_calloc(n_rows, (size_t)r->in.head_dim * sizeof *r->out);
    r->rows = try_calloc(n_rows, sizeof *r->rows);
    r->keys = xcalloc((size_t)r->in.n_keys, sizeof *r->keys);
    r->prob = xcalloc((size_t)r->in.n_keys, sizeof *r->prob);
    if (r->sel && r->out && r->rows)
        return true;
    return fail_code(err, EXIT_CODE_NO_DEVICE, "%s: no memory for a selection of %d keys",
                     r->options->name, r->in.n_keys);
}

static void close_run(struct case_run *r)
{
    size_t n_rows = (size_t)r->in.n_batch * (size_t)r->in.n_heads * (size_t)r->in.n_rows;
    for (size_t i = 0; r->rows && i < n_rows; i++) {
        free(r->rows[i].keys);
        free(r->rows[i].prob);
    }
    free(r->rows);
    free(r->keys);
    free(r->prob);
    free(r->out);
    if (r->sel)
        r->backend->selection_close(r->dev, r->sel);
    if (r->stage.backend)
        attention_stage_close(&r->stage);
    if (r->dev)
        r->backend->close(r->dev);
    attention_input_free(&r->in);
}

bool attention_case_run(const struct attention_case_options *options, struct error *err)
{
    struct case_run r = {.options = options};
    struct safetensors *file = safetensors_open(options->tensors, err);
    if (!file)
        return false;
    bool ok = attention_input_read(&r.in, file, options->name, err);
    safetensors_close(file);
    ok = ok && open_device(&r, err);
    for (int b = 0; ok && b < r.in.n_batch; b++)
        ok = run_entry(&r, b, err);
    ok = ok && write_result(&r, err);
    close_run(&r);
    return ok;
}
