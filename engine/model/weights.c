/* Writing down the plan: see the header. */
#include "engine/model/weights.h"

#include <stdlib.h>

#include "engine/base/memory.h"
#include "engine/model/families/family.h"

struct planner {
    struct weight_plan *plan;
    const struct model *model;
    const char *prefix;
    int layer; /* -1: none */
};

static char *full_name(const struct planner *p, const char *name, const char *kind)
{
    struct buf b = {0};
    buf_append_str(&b, p->prefix);
    if (p->layer >= 0)
        buf_printf(&b, "%s%d.", p->model->config.family->names->layer, p->layer);
    buf_printf(&b, "%s.%s", name, kind);
    return buf_take(&b);
}

static struct weight_slot *add_slot(struct planner *p)
{
    struct weight_plan *plan = p->plan;
    plan->slots = array_grow(plan->slots, &plan->capacity, plan->n + 1, sizeof *plan->slots);
    struct weight_slot *slot = &plan->slots[plan->n++];
    *slot = (struct weight_slot){.dtype = DTYPE_F32};
    return slot;
}

static void add_piece(struct weight_slot *slot, char *name, int n_rows, int n_cols)
{
    slot->pieces[slot->n_pieces++] =
        (struct weight_piece){.name = name, .n_rows = (uint64_t)n_rows, .n_cols = (uint64_t)n_cols};
}

static void plan_norm(struct planner *p, struct norm *norm, enum norm_kind kind, const char *name,
                      int dim)
{
    norm->kind = kind;
    norm->eps = p->model->config.norm_eps;
    struct weight_slot *slot = add_slot(p);
    slot->vector = &norm->weight;
    slot->is_norm_weight = true;
    add_piece(slot, full_name(p, name, "weight"), dim, 0);
    if (kind != NORM_LAYER)
        return;
    slot = add_slot(p);
    slot->vector = &norm->bias;
    add_piece(slot, full_name(p, name, "bias"), dim, 0);
}

/* A matrix made of n_parts named parts of n_rows[part] rows. */
static void plan_linear(struct planner *p, struct linear *linear, const char *const *names,
                        const int *n_rows, int n_parts, int n_in, bool has_bias)
{
    struct weight_slot *slot = add_slot(p);
    slot->linear = linear;
    slot->transposed = p->layer >= 0 && p->model->config.family->transposed;
    linear->n_in = n_in;
    linear->n_out = 0;
    for (int i = 0; i < n_parts; i++) {
        linear->n_out += n_rows[i];
        add_piece(slot, full_name(p, names[i], "weight"), n_rows[i], n_in);
    }
    if (!has_bias)
        return;
    slot = add_slot(p);
    slot->vector = &linear->bias;
    for (int i = 0; i < n_parts; i++)
        add_piece(slot, full_name(p, names[i], "bias"), n_rows[i], 0);
}

static void plan_attention(struct planner *p, struct model_layer *layer)
{
    const struct model_config *c = &p->model->config;
    const struct family_names *names = c->family->names;
    int q_rows = c->n_heads * c->head_dim, kv_rows = c->n_kv_heads * c->head_dim;
    plan_norm(p, &layer->attention_norm, c->norm_kind, names->attention_norm, c->dim);
    if (names->qkv[1])
        plan_linear(p, &layer->qkv, names->qkv, (int[]){q_rows, kv_rows, kv_rows}, 3, c->dim,
                    c->attention_bias);
    else
        plan_linear(p, &layer->qkv, names->qkv, (int[]){q_rows + 2 * kv_rows}, 1, c->dim,
                    c->attention_bias);
    layer->has_qk_norm = c->qk_norm;
    if (c->qk_norm) {
        plan_norm(p, &layer->q_norm, NORM_RMS, names->q_norm, c->head_dim);
        plan_norm(p, &layer->k_norm, NORM_RMS, names->k_norm, c->head_dim);
    }
    plan_linear(p, &layer->attention_out, &names->attention_out, &c->dim, 1, q_rows,
                c->output_bias);
}

static void plan_ffn(struct planner *p, struct model_layer *layer)
{
    const struct model_config *c = &p->model->config;
    const struct family_names *names = c->family->names;
    plan_norm(p, &layer->ffn_norm, c->norm_kind, names->ffn_norm, c->dim);
    plan_linear(p, &layer->ffn_up, names->ffn_up, (int[]){c->ffn_dim, c->ffn_dim},
                names->ffn_up[1] ? 2 : 1, c->dim, c->mlp_bias);
    plan_linear(p, &layer->ffn_down, &names->ffn_down, &c->dim, 1, c->ffn_dim, c->mlp_bias);
}

void weights_plan(struct weight_plan *plan, struct model *m, const char *prefix, bool own_lm_head)
{
    const struct model_config *c = &m->config;
    const struct family_names *names = c->family->names;
    struct planner p = {plan, m, prefix, -1};
    plan_linear(&p, &m->embedding, &names->embedding, &c->vocab_size, 1, c->dim, false);
    if (names->positions)
        plan_linear(&p, &m->positions, &names->positions, &c->max_seq_len, 1, c->dim, false);
    for (p.layer = 0; p.layer < c->n_layers; p.layer++) {
        plan_attention(&p, &m->layers[p.layer]);
        plan_ffn(&p, &m->layers[p.layer]);
    }
    p.layer = -1;
    plan_norm(&p, &m->final_norm, c->norm_kind, names->final_norm, c->dim);
    if (!own_lm_head)
        return;
    p.prefix = "";
    plan_linear(&p, &m->lm_head, &names->lm_head, &c->vocab_size, 1, c->dim, false);
}

static bool has_weight(const struct checkpoint *c, const char *prefix, const char *name)
{
    struct buf full = {0};
    buf_printf(&full, "%s%s.weight", prefix, name);
    bool found = checkpoint_find(c, full.data, NULL);
    buf_free(&full);
    return found;
}

void weights_plan_checkpoint(struct weight_plan *plan, struct model *m, const struct checkpoint *c,
                             struct buf *warnings)
{
    const struct family_names *names = m->config.family->names;
    const char *prefix = names->prefixes[0];
    if (names->prefixes[1] && !has_weight(c, prefix, names->embedding) &&
        has_weight(c, names->prefixes[1], names->embedding))
        prefix = names->prefixes[1];
    bool own_lm_head = !m->config.tie_embeddings && has_weight(c, "", names->lm_head);
    if (!m->config.tie_embeddings && !own_lm_head)
        buf_printf(warnings, "%s.weight is not stored: the embedding is used in its place\n",
                   names->lm_head);
    weights_plan(plan, m, prefix, own_lm_head);
}

void weights_plan_free(struct weight_plan *plan)
{
    for (size_t i = 0; i < plan->n; i++)
        for (int piece = 0; piece < plan->slots[i].n_pieces; piece++)
            free(plan->slots[i].pieces[piece].name);
    free(plan->slots);
    *plan = (struct weight_plan){0};
}

uint64_t weight_slot_elements(const struct weight_slot *slot)
{
    uint64_t n = 0;
    for (int i = 0; i < slot->n_pieces; i++) {
        const struct weight_piece *piece = &slot->pieces[i];
        n += piece->n_rows * (piece->n_cols ? piece->n_cols : 1);
    }
    return n;
}

uint64_t weight_slot_bytes(const struct weight_slot *slot)
{
    return weight_slot_elements(slot) * dtype_bytes(slot->dtype);
}

uint64_t weights_elements(const struct weight_plan *plan)
{
    uint64_t n = 0;
    for (size_t i = 0; i < plan->n; i++)
        n += weight_slot_elements(&plan->slots[i]);
    return n;
}

uint64_t weights_bytes(const struct weight_plan *plan)
{
    uint64_t n = 0;
    for (size_t i = 0; i < plan->n; i++)
        n += weight_slot_bytes(&plan->slots[i]);
    return n;
}
