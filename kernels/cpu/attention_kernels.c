/* Which inner loops serve which instruction set. */
#include "kernels/cpu/attention.h"

const struct attention_kernels *attention_kernels(enum cpu_isa isa)
{
#if defined(__x86_64__)
    if (isa >= CPU_ISA_AVX512)
        return &attention_kernels_avx512;
    if (isa >= CPU_ISA_AVX2)
        return &attention_kernels_avx2;
#endif
    (void)isa;
    return &attention_kernels_reference;
}

attention_tile *attention_tile_function(const struct device *dev, enum dtype dtype)
{
#if defined(__x86_64__)
    if (dev->isa >= CPU_ISA_AVX512_BF16 && dtype == DTYPE_BF16 && !dev->exact)
        return attention_tile_avx512bf16;
    if (dev->isa >= CPU_ISA_AVX512)
        return attention_tile_avx512;
    if (dev->isa >= CPU_ISA_AVX2)
        return attention_tile_avx2;
#endif
    (void)dev;
    (void)dtype;
    return NULL;
}

size_t attention_tile_scratch_bytes(int n_queries, int padded_dim)
{
    enum { WIDEST_PANEL = 48, PIECES = 10 };
    size_t width = (size_t)round_up(n_queries, WIDEST_PANEL), dim = (size_t)padded_dim;
    size_t n_floats = width * (2 * dim + 4) + TILE_KEYS * (2 * dim + 2 * WIDEST_PANEL);
    return n_floats * sizeof(float) + PIECES * CPU_ALIGN;
}
