/* Number formats of stored tensors, converted on the host. */
#ifndef ATTNSCOPE_ENGINE_MODEL_TENSOR_CONVERT_H
#define ATTNSCOPE_ENGINE_MODEL_TENSOR_CONVERT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/backend.h"

/* Bits of one element of a safetensors dtype ("BF16" -> 16); 0 if the name is unknown. */
int tensor_dtype_bits(const char *name);
/* The dtype that linears may be stored in; false for any other. */
bool tensor_dtype_of(const char *name, enum dtype *out);

/* to [n] = from [n] of the named dtype, which may be unaligned: F32, F16, BF16 or F64.  False for
 * another dtype. */
bool tensor_to_f32(float *to, const void *from, const char *dtype, size_t n);
/* As above from BOOL and the integers; false for another dtype, or a U64 past INT64_MAX. */
bool tensor_to_i64(int64_t *to, const void *from, const char *dtype, size_t n);

/* How many of n elements are NaN or infinite: F32, F16, BF16 or F64; 0 for another dtype. */
size_t tensor_count_non_finite(const void *from, const char *dtype, size_t n);

uint16_t f32_to_bf16(float x); /* to nearest even; NaN stays NaN */
uint16_t f32_to_f16(float x);  /* to nearest even, subnormals kept; too large becomes infinity */

#endif
