/* Inner loops of indexes over keys in AVX2. */
#include "kernels/cpu/index_kernels.h"

#if defined(__AVX2__)

#include "kernels/cpu/index_loops.h"

const struct index_kernels index_kernels_avx2 = {linear,       activate,      score_bits,
                                                 score_labels, score_buckets, count_hits,
                                                 dot,          nearest,       score_codes};

#endif
