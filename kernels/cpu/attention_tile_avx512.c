/* Attention's tile way in AVX-512, products in f32. */
#include "kernels/cpu/attention.h"

#if defined(__AVX512F__)

#define TILE_FUNCTION attention_tile_avx512
#include "kernels/cpu/attention_tile.h"

#endif
