/* Attention's tile way in AVX2, products in f32. */
#include "kernels/cpu/attention.h"

#if defined(__AVX2__)

#define TILE_FUNCTION attention_tile_avx2
#include "kernels/cpu/attention_tile.h"

#endif
