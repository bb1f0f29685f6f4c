/* Attention's tile way with bf16 products: queries and weights are rounded to bf16. */
#include "kernels/cpu/attention.h"

#if defined(__AVX512BF16__)

#define TILE_BF16
#define TILE_FUNCTION attention_tile_avx512bf16
#include "kernels/cpu/attention_tile.h"

#endif
