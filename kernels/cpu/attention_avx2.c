/* Attention's row way in AVX2. */
#include "kernels/cpu/attention.h"

#if defined(__AVX2__)

#include "kernels/cpu/attention_rows.h"

const struct attention_kernels attention_kernels_avx2 = {scores, keep_bits, soften, accumulate,
                                                         ordered_scores};

#endif
