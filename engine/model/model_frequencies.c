/* Rotary frequencies as a model cast to bf16 holds them. */
#include "engine/model/model.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/model/tensor_convert.h"

void model_round_frequencies(struct model *m)
{
    size_t n = (size_t)m->rope.n_rot / 2;
    if (!m->rope.inv_freq || !n)
        return;
    float *inv_freq = xcalloc(n, sizeof *inv_freq);
    m->backend->download(m->dev, inv_freq, m->rope.inv_freq, n * sizeof *inv_freq);
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)f32_to_bf16(inv_freq[i]) << 16;
        memcpy(&inv_freq[i], &bits, sizeof bits);
    }
    m->backend->upload(m->dev, (void *)m->rope.inv_freq, inv_freq, n * sizeof *inv_freq);
    free(inv_freq);
}
