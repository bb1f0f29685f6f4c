/* bf16 and f16 to f32 and back, one value at a time.  Rounding is to nearest, ties to even; NaN
 * stays NaN and infinity stays infinity. */
#ifndef ATTNSCOPE_KERNELS_CPU_CONVERT_H
#define ATTNSCOPE_KERNELS_CPU_CONVERT_H

#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "kernels/backend.h"

static inline uint32_t float_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static inline float float_from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline float bf16_to_f32(uint16_t h)
{
    return float_from_bits((uint32_t)h << 16);
}

/* Free of branches, so that loops over it are vectorised. */
static inline uint16_t f32_to_bf16(float f)
{
    uint32_t bits = float_bits(f);
    uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1)) >> 16;
    uint32_t quiet_nan = (bits >> 16) | 0x40u;
    return (uint16_t)((bits & 0x7FFFFFFFu) > 0x7F800000u ? quiet_nan : rounded);
}

/* Moves the exponent by a multiplication, which also normalises subnormals; infinity and NaN get
 * the exponent that multiplication cannot give. */
static inline float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, magnitude = h & 0x7FFFu;
    float value = float_from_bits(magnitude << 13) * 0x1p112f;
    uint32_t bits = float_bits(value) | (magnitude >= 0x7C00u ? 0x7F800000u : 0);
    return float_from_bits(sign | bits);
}

/* Element i of an array of the given type. */
static inline float load_as_f32(const void *p, enum dtype dtype, size_t i)
{
    switch (dtype) {
    case DTYPE_F16:
        return f16_to_f32(((const uint16_t *)p)[i]);
    case DTYPE_BF16:
        return bf16_to_f32(((const uint16_t *)p)[i]);
    default:
        return ((const float *)p)[i];
    }
}

/* to [n] = elements from `at` on. */
static inline void load_f32(float *to, const void *from, enum dtype dtype, size_t at, int n)
{
    for (int i = 0; i < n; i++)
        to[i] = load_as_f32(from, dtype, at + (size_t)i);
}

/* Elements at .. at + n - 1 of an array of type F32 or BF16, from f32. */
static inline void store_f32(void *to, enum dtype dtype, size_t at, const float *from, int n)
{
    assert(dtype != DTYPE_F16);
    if (dtype == DTYPE_F32) {
        memcpy((float *)to + at, from, sizeof(float) * (size_t)n);
        return;
    }
    uint16_t *out = (uint16_t *)to + at;
    for (int i = 0; i < n; i++)
        out[i] = f32_to_bf16(from[i]);
}

#endif
