/* Counter-based random numbers: the same on every backend, for the same coordinates.
 * Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", Philox4x32-10. */
#ifndef ATTNSCOPE_KERNELS_PHILOX_H
#define ATTNSCOPE_KERNELS_PHILOX_H

#include <stdint.h>

#include "kernels/portable.h"

struct philox {
    uint32_t word[4];
};

PORTABLE struct philox philox_4x32(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3)
{
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    struct philox result = {{c0, c1, c2, c3}};
    return result;
}

/* Uniform in [0, 1) with 24 bits. */
PORTABLE float philox_unit(uint32_t word)
{
    return (float)(word >> 8) * (1.0f / 16777216.0f);
}

/* Uniform in [0, n), n > 0, by multiplication (bias below n / 2^32). */
PORTABLE uint32_t philox_below(uint32_t word, uint32_t n)
{
    return (uint32_t)(((uint64_t)word * n) >> 32);
}

#endif
