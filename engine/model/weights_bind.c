/* Holding the plan against what a checkpoint stores. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/model/families/family.h"
#include "engine/model/name_list.h"
#include "engine/model/tensor_convert.h"
#include "engine/model/weights.h"

static bool ends_with(const char *name, const char *suffix)
{
    size_t len = strlen(name), n = strlen(suffix);
    return len >= n && strcmp(name + len - n, suffix) == 0;
}

/* --- Quantised weights -------------------------------------------------------------------- */

/* The method that a tensor's name gives away; NULL for an ordinary one.  `.qweight` alone is AWQ,
 * unless `.g_idx` follows somewhere. */
static const char *quantised_method(const char *name)
{
    static const char *const signs[][2] = {
        {".g_idx", "GPTQ"},
        {".qweight", "AWQ"},
        {".weight.absmax", "bitsandbytes"},
        {".weight.quant_map", "bitsandbytes"},
        {".SCB", "bitsandbytes"},
        {".weight_packed", "compressed-tensors"},
        {".weight_scale_inv", "FP8"},
        {".weight_scale", "FP8"},
        {"_blocks", "MXFP4"},
        {".scales", "MLX"},
    };
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++)
        if (ends_with(name, signs[i][0]))
            return signs[i][1];
    return NULL;
}

static bool refuse_quantised(const struct checkpoint *c, const char *folder, struct error *err)
{
    static const char *const strongest_first[] = {
        "GPTQ", "AWQ", "compressed-tensors", "bitsandbytes", "MXFP4", "FP8", "MLX"};
    size_t n_methods = sizeof strongest_first / sizeof *strongest_first, best = n_methods;
    for (size_t i = 0; i < checkpoint_count(c); i++) {
        const char *method = quantised_method(checkpoint_at(c, i)->name);
        for (size_t m = 0; method && m < best; m++)
            if (strcmp(method, strongest_first[m]) == 0)
                best = m;
    }
    if (best == n_methods)
        return true;
    return fail(err,
                "%s: quantised with %s, by the names of its tensors. Supported weights: F32, F16, "
                "BF16. Use the unquantised checkpoint.",
                folder, strongest_first[best]);
}

/* --- Shapes and dtypes -------------------------------------------------------------------- */

static void write_shape(struct buf *out, const uint64_t *shape, int n_dims)
{
    buf_append_char(out, '[');
    for (int i = 0; i < n_dims; i++)
        buf_printf(out, "%s%" PRIu64, i ? ", " : "", shape[i]);
    buf_append_char(out, ']');
}

static void check_piece(const struct weight_slot *slot, const struct weight_piece *piece,
                        struct name_list *wrong)
{
    const struct safetensor *t = piece->tensor;
    if (!t) {
        name_list_add(wrong, "%s (missing)", piece->name);
        return;
    }
    uint64_t want[2] = {piece->n_rows, piece->n_cols};
    if (slot->transposed && piece->n_cols) {
        want[0] = piece->n_cols;
        want[1] = piece->n_rows;
    }
    int n_dims = piece->n_cols ? 2 : 1;
    if (t->n_dims != n_dims || memcmp(t->shape, want, (size_t)n_dims * sizeof *want) != 0) {
        struct buf shapes = {0};
        buf_append_str(&shapes, "expected ");
        write_shape(&shapes, want, n_dims);
        buf_append_str(&shapes, ", found ");
        write_shape(&shapes, t->shape, t->n_dims);
        name_list_add(wrong, "%s (%s)", piece->name, shapes.data);
        buf_free(&shapes);
        return;
    }
    enum dtype dtype;
    if (!tensor_dtype_of(t->dtype, &dtype) && strcmp(t->dtype, "F64") != 0)
        name_list_add(wrong, "%s (expected F32, F16 or BF16, found %s)", piece->name, t->dtype);
}

/* A matrix keeps the dtype that all its pieces are stored in; anything mixed becomes f32. */
static enum dtype common_dtype(const struct weight_slot *slot)
{
    enum dtype dtype;
    const char *first = slot->pieces[0].tensor->dtype;
    if (!slot->linear || !tensor_dtype_of(first, &dtype))
        return DTYPE_F32;
    for (int i = 1; i < slot->n_pieces; i++)
        if (strcmp(slot->pieces[i].tensor->dtype, first) != 0)
            return DTYPE_F32;
    return dtype;
}

/* --- Tensors that nothing asks for -------------------------------------------------------- */

static int compare_pointers(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t) * (void *const *)a, y = (uintptr_t) * (void *const *)b;
    return (x > y) - (x < y);
}

static bool is_ignorable(const struct model_config *config, const char *name)
{
    return ends_with(name, ".rotary_emb.inv_freq") || ends_with(name, ".attn.bias") ||
           ends_with(name, ".attn.masked_bias") ||
           (config->tie_embeddings && strcmp(name, "lm_head.weight") == 0);
}

static void warn_of_unexpected(const struct weight_plan *plan, const struct model_config *config,
                               const struct checkpoint *c, struct buf *warnings)
{
    const struct safetensor **used = xcalloc(plan->n * WEIGHT_MAX_PIECES, sizeof *used);
    size_t n_used = 0;
    for (size_t i = 0; i < plan->n; i++)
        for (int piece = 0; piece < plan->slots[i].n_pieces; piece++)
            used[n_used++] = plan->slots[i].pieces[piece].tensor;
    qsort(used, n_used, sizeof *used, compare_pointers);
    struct name_list names = {0};
    for (size_t i = 0; i < checkpoint_count(c); i++) {
        const struct safetensor *t = checkpoint_at(c, i);
        if (!is_ignorable(config, t->name) &&
            !bsearch(&t, used, n_used, sizeof *used, compare_pointers))
            name_list_add(&names, "%s", t->name);
    }
    if (names.n)
        buf_printf(warnings, "%zu tensors are ignored: %s\n", names.n, name_list_text(&names));
    name_list_free(&names);
    free(used);
}

/* --- Binding ------------------------------------------------------------------------------ */

bool weights_bind(struct weight_plan *plan, const struct model_config *config,
                  const struct checkpoint *c, const char *folder, struct buf *warnings,
                  struct error *err)
{
    if (!refuse_quantised(c, folder, err))
        return false;
    struct name_list wrong = {0};
    for (size_t i = 0; i < plan->n; i++) {
        struct weight_slot *slot = &plan->slots[i];
        for (int n = 0; n < slot->n_pieces; n++) {
            struct weight_piece *piece = &slot->pieces[n];
            piece->tensor = checkpoint_find(c, piece->name, &piece->file);
            check_piece(slot, piece, &wrong);
        }
    }
    bool ok = !wrong.n;
    if (!ok)
        fail(err, "%s: %zu tensors do not fit config.json: %s", folder, wrong.n,
             name_list_text(&wrong));
    name_list_free(&wrong);
    if (!ok)
        return false;
    for (size_t i = 0; i < plan->n; i++) {
        plan->slots[i].dtype = common_dtype(&plan->slots[i]);
        if (plan->slots[i].linear)
            plan->slots[i].linear->dtype = plan->slots[i].dtype;
    }
    warn_of_unexpected(plan, config, c, warnings);
    return true;
}

bool weights_check(const struct model_config *config, const struct checkpoint *c,
                   const char *folder, uint64_t *n_params, struct error *err)
{
    struct model m = {.config = *config};
    m.layers = xcalloc((size_t)config->n_layers, sizeof *m.layers);
    struct weight_plan plan = {0};
    struct buf warnings = {0};
    weights_plan_checkpoint(&plan, &m, c, &warnings);
    bool ok = weights_bind(&plan, config, c, folder, &warnings, err);
    if (n_params)
        *n_params = weights_elements(&plan);
    weights_plan_free(&plan);
    buf_free(&warnings);
    free(m.layers);
    return ok;
}
