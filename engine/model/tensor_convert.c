/* Number formats: see the header.  Every element is copied with memcpy, because old files hold
 * unaligned tensors. */
#include "engine/model/tensor_convert.h"

#include <string.h>

static const struct {
    const char *name;
    int bits;
} dtypes[] = {
    {"F32", 32},        {"F16", 16},        {"BF16", 16},   {"F64", 64},    {"BOOL", 8},
    {"U8", 8},          {"I8", 8},          {"I16", 16},    {"U16", 16},    {"I32", 32},
    {"U32", 32},        {"I64", 64},        {"U64", 64},    {"C64", 64},    {"F4", 4},
    {"F6_E2M3", 6},     {"F6_E3M2", 6},     {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"F8_E8M0", 8},
    {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8},
};

int tensor_dtype_bits(const char *name)
{
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(name, dtypes[i].name) == 0)
            return dtypes[i].bits;
    return 0;
}

bool tensor_dtype_of(const char *name, enum dtype *out)
{
    if (strcmp(name, "F32") == 0)
        *out = DTYPE_F32;
    else if (strcmp(name, "F16") == 0)
        *out = DTYPE_F16;
    else if (strcmp(name, "BF16") == 0)
        *out = DTYPE_BF16;
    else
        return false;
    return true;
}

static float f32_of_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t bits_of_f32(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = h & 0x7FFF;
    if (rest >= 0x7C00) /* infinity and NaN */
        return f32_of_bits(sign | 0x7F800000 | (rest & 0x3FF) << 13);
    if (rest >= 0x400)
        return f32_of_bits(sign | ((rest << 13) + 0x38000000));
    float subnormal = (float)rest * 0x1p-24f;
    return sign ? -subnormal : subnormal;
}

uint16_t f32_to_bf16(float x)
{
    uint32_t bits = bits_of_f32(x);
    if ((bits & 0x7FFFFFFF) > 0x7F800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

uint16_t f32_to_f16(float x)
{
    uint32_t bits = bits_of_f32(x), sign = bits >> 16 & 0x8000;
    uint32_t rest = bits & 0x7FFFFFFF;
    if (rest > 0x7F800000)
        return (uint16_t)(sign | 0x7E00);
    if (rest >= 0x477FF000) /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7C00);
    if (rest < 0x38800000) /* below 2^-14: adding 0.5 rounds at the last subnormal bit, 2^-24 */
        return (uint16_t)(sign | (bits_of_f32(f32_of_bits(rest) + 0.5f) - 0x3F000000));
    rest += 0xFFF + (rest >> 13 & 1);
    return (uint16_t)(sign | (rest - 0x38000000) >> 13);
}

bool tensor_to_f32(float *to, const void *from, const char *dtype, size_t n)
{
    const char *at = from;
    if (strcmp(dtype, "F32") == 0) {
        memcpy(to, from, n * sizeof *to);
        return true;
    }
    if (strcmp(dtype, "F64") == 0) {
        for (size_t i = 0; i < n; i++) {
            double x;
            memcpy(&x, at + i * sizeof x, sizeof x);
            to[i] = (float)x;
        }
        return true;
    }
    bool is_bf16 = strcmp(dtype, "BF16") == 0;
    if (!is_bf16 && strcmp(dtype, "F16") != 0)
        return false;
    for (size_t i = 0; i < n; i++) {
        uint16_t bits;
        memcpy(&bits, at + i * sizeof bits, sizeof bits);
        to[i] = is_bf16 ? f32_of_bits((uint32_t)bits << 16) : f16_to_f32(bits);
    }
    return true;
}

/* Little-endian bytes, 1, 2, 4 or 8 of them, with or without a sign. */
static uint64_t load_int(const unsigned char *from, int n_bytes, bool is_signed)
{
    uint64_t value = 0;
    for (int i = n_bytes; i-- > 0;)
        value = value << 8 | from[i];
    if (is_signed && n_bytes < 8 && from[n_bytes - 1] & 0x80)
        value |= ~UINT64_C(0) << n_bytes * 8;
    return value;
}

bool tensor_to_i64(int64_t *to, const void *from, const char *dtype, size_t n)
{
    bool is_signed = dtype[0] == 'I', is_bool = strcmp(dtype, "BOOL") == 0;
    int n_bytes = tensor_dtype_bits(dtype) / 8;
    if (!n_bytes || (!is_signed && !is_bool && dtype[0] != 'U'))
        return false;
    const unsigned char *at = from;
    for (size_t i = 0; i < n; i++) {
        uint64_t value = load_int(at + i * (size_t)n_bytes, n_bytes, is_signed);
        if (!is_signed && value > INT64_MAX)
            return false;
        to[i] = (int64_t)value;
    }
    return true;
}

/* Of each format, the elements whose exponent bits (mask) are all set.  Loading is no faster than
 * this, so that blocks of a fixed length are counted in the element's own width: compilers turn
 * such loops into vectors. */
enum { COUNT_BLOCK = 2048 };

static size_t count_16(const char *at, uint16_t mask, size_t n)
{
    size_t n_bad = 0, i = 0;
    for (; i + COUNT_BLOCK <= n; i += COUNT_BLOCK) {
        uint16_t n_block = 0;
        for (size_t j = 0; j < COUNT_BLOCK; j++) {
            uint16_t bits;
            memcpy(&bits, at + (i + j) * sizeof bits, sizeof bits);
            n_block = (uint16_t)(n_block + ((bits & mask) == mask));
        }
        n_bad += n_block;
    }
    for (; i < n; i++) {
        uint16_t bits;
        memcpy(&bits, at + i * sizeof bits, sizeof bits);
        n_bad += (bits & mask) == mask;
    }
    return n_bad;
}

static size_t count_32(const char *at, uint32_t mask, size_t n)
{
    size_t n_bad = 0, i = 0;
    for (; i + COUNT_BLOCK <= n; i += COUNT_BLOCK) {
        uint32_t n_block = 0;
        for (size_t j = 0; j < COUNT_BLOCK; j++) {
            uint32_t bits;
            memcpy(&bits, at + (i + j) * sizeof bits, sizeof bits);
            n_block += (bits & mask) == mask;
        }
        n_bad += n_block;
    }
    for (; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, at + i * sizeof bits, sizeof bits);
        n_bad += (bits & mask) == mask;
    }
    return n_bad;
}

static size_t count_64(const char *at, uint64_t mask, size_t n)
{
    size_t n_bad = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t bits;
        memcpy(&bits, at + i * sizeof bits, sizeof bits);
        n_bad += (bits & mask) == mask;
    }
    return n_bad;
}

size_t tensor_count_non_finite(const void *from, const char *dtype, size_t n)
{
    if (strcmp(dtype, "BF16") == 0)
        return count_16(from, 0x7F80, n);
    if (strcmp(dtype, "F16") == 0)
        return count_16(from, 0x7C00, n);
    if (strcmp(dtype, "F32") == 0)
        return count_32(from, 0x7F800000, n);
    if (strcmp(dtype, "F64") == 0)
        return count_64(from, UINT64_C(0x7FF) << 52, n);
    return 0;
}
