/* Attention's row way in AVX-512. */
#include "kernels/cpu/attention.h"

#if defined(__AVX512F__)

#include "kernels/cpu/attention_rows.h"

const struct attention_kernels attention_kernels_avx512 = {scores, keep_bits, soften, accumulate,
                                                           ordered_scores};

#endif
