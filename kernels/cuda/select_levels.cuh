/* Top-k by scores in few levels, straight from the words that they are made of (selection.cuh).
 * select_levels.cu */
#ifndef ATTNSCOPE_KERNELS_CUDA_SELECT_LEVELS_CUH
#define ATTNSCOPE_KERNELS_CUDA_SELECT_LEVELS_CUH

#include "kernels/cuda/selection.cuh"

/* Whether the masker can be run so: its levels are few and its slices short. */
bool select_levels_takes(const struct device *dev, const struct selection *sel,
                         const struct put_off *what);
/* As top-k by any scores: true if it has made the lists too. */
bool select_levels(struct device *dev, struct selection *sel, const struct put_off *what,
                   bool last);

#endif
