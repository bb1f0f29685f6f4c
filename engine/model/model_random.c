/* Models of random weights, made on the device. */
#include <math.h>
#include <stdlib.h>

#include "engine/base/memory.h"
#include "engine/model/model.h"
#include "engine/model/model_storage.h"
#include "engine/model/weights.h"

static void fill_ones(struct model *m, const struct weight_slot *slot)
{
    size_t n = (size_t)weight_slot_elements(slot);
    float *ones = xcalloc(n, sizeof *ones);
    for (size_t i = 0; i < n; i++)
        ones[i] = 1;
    m->backend->upload(m->dev, slot->device, ones, n * sizeof *ones);
    free(ones);
}

/* Every matrix from a seed of its own; a variance of 1 / n_in keeps activations level.  Biases stay
 * zero, as alloc gives them. */
static void fill(struct model *m, const struct weight_plan *plan, uint64_t seed)
{
    for (size_t i = 0; i < plan->n; i++) {
        const struct weight_slot *slot = &plan->slots[i];
        if (slot->is_norm_weight)
            fill_ones(m, slot);
        if (slot->linear)
            m->backend->fill_random(m->dev, slot->device, (size_t)weight_slot_elements(slot),
                                    slot->dtype, sqrtf(3.0f / (float)slot->linear->n_in),
                                    seed * 1000003 + i);
    }
}

struct model *model_random(const struct model_config *config, enum dtype dtype, uint64_t seed,
                           const struct backend *backend, struct device *dev, struct error *err)
{
    struct model *m = model_new(config, "random weights", backend, dev);
    struct weight_plan plan = {0};
    weights_plan(&plan, m, "", !config->tie_embeddings);
    for (size_t i = 0; i < plan.n; i++)
        if (plan.slots[i].linear)
            plan.slots[i].dtype = dtype;
    bool ok = model_place(m, &plan, err);
    char why[256];
    if (ok) {
        fill(m, &plan, seed);
        ok = backend->sync(dev, why, sizeof why) ||
             fail_code(err, EXIT_CODE_NO_DEVICE, "random weights: %s", why);
    }
    weights_plan_free(&plan);
    if (ok)
        return m;
    model_close(m);
    return NULL;
}
