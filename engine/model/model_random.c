/* Models of random weights.  One block of random numbers serves for all matrices: its length is a
 * prime, so that its repetitions never fall on the same columns and no two rows are alike. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/model/model.h"
#include "engine/model/model_storage.h"
#include "engine/model/tensor_convert.h"
#include "engine/model/weights.h"

enum { BLOCK_ELEMENTS = 1048573 };

/* Uniform in [-1, 1).  Source: Steele, Lea and Flood 2014 (splitmix64). */
static float next_random(uint64_t *state)
{
    uint64_t x = *state += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    x ^= x >> 31;
    return (float)(int64_t)x * 0x1p-63f;
}

/* block [BLOCK_ELEMENTS] = numbers scaled for rows of n_in, in the slot's dtype. */
static void scale_block(void *block, const float *numbers, enum dtype dtype, int n_in)
{
    float scale = sqrtf(3.0f / (float)n_in); /* a variance of 1 / n_in keeps activations level */
    for (size_t i = 0; i < BLOCK_ELEMENTS; i++) {
        float x = numbers[i] * scale;
        if (dtype == DTYPE_F32)
            ((float *)block)[i] = x;
        else
            ((uint16_t *)block)[i] = dtype == DTYPE_BF16 ? f32_to_bf16(x) : f32_to_f16(x);
    }
}

static void fill_matrix(struct model *m, const struct weight_slot *slot, const void *block,
                        size_t first)
{
    size_t n = (size_t)weight_slot_elements(slot), size = dtype_bytes(slot->dtype);
    for (size_t done = 0; done < n;) {
        size_t n_now = BLOCK_ELEMENTS - first;
        n_now = n - done < n_now ? n - done : n_now;
        m->backend->upload(m->dev, (char *)slot->device + done * size,
                           (const char *)block + first * size, n_now * size);
        done += n_now;
        first = 0;
    }
}

static void fill_ones(struct model *m, const struct weight_slot *slot)
{
    size_t n = (size_t)weight_slot_elements(slot);
    float *ones = xcalloc(n, sizeof *ones);
    for (size_t i = 0; i < n; i++)
        ones[i] = 1;
    m->backend->upload(m->dev, slot->device, ones, n * sizeof *ones);
    free(ones);
}

/* Biases stay zero, as alloc gives them. */
static void fill(struct model *m, const struct weight_plan *plan, uint64_t seed)
{
    float *numbers = xcalloc(BLOCK_ELEMENTS, sizeof *numbers);
    void *block = xcalloc(BLOCK_ELEMENTS, sizeof(float));
    for (size_t i = 0; i < BLOCK_ELEMENTS; i++)
        numbers[i] = next_random(&seed);
    int scaled_for = 0;
    for (size_t i = 0; i < plan->n; i++) {
        const struct weight_slot *slot = &plan->slots[i];
        if (slot->is_norm_weight)
            fill_ones(m, slot);
        if (!slot->linear)
            continue;
        if (slot->linear->n_in != scaled_for)
            scale_block(block, numbers, slot->dtype, slot->linear->n_in);
        scaled_for = slot->linear->n_in;
        fill_matrix(m, slot, block, i * 7919 % BLOCK_ELEMENTS);
    }
    free(block);
    free(numbers);
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
