/* Inner loops of indexes over keys in AVX-512. */
#include "kernels/cpu/index_kernels.h"

#if defined(__AVX512F__)

#include "kernels/cpu/index_loops.h"

const struct index_kernels index_kernels_avx512 = {linear, activate, score_bits};

#endif
