/* Inner loops of selections in AVX2. */
#include "kernels/cpu/selection_kernels.h"

#if defined(__AVX2__)

#include "kernels/cpu/selection_loops.h"

const struct selection_kernels selection_kernels_avx2 = {
    rank, highest, weigh, total, add, split, collect, unite, draw,
};

#endif
