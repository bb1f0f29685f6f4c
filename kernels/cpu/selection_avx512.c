/* Inner loops of selections in AVX-512. */
#include "kernels/cpu/selection_kernels.h"

#if defined(__AVX512F__)

#include "kernels/cpu/selection_loops.h"

const struct selection_kernels selection_kernels_avx512 = {
    rank, highest, weigh, total, add, split, collect, unite, draw,
};

#endif
