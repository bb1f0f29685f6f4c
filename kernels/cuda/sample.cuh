/* Drawing a token from logits. */
#ifndef ATTNSCOPE_KERNELS_CUDA_SAMPLE_CUH
#define ATTNSCOPE_KERNELS_CUDA_SAMPLE_CUH

#include "kernels/cuda/cuda.cuh"

size_t sample_bytes(int vocab_size);

/* Replaces the greedy token of *pick by a draw, unless there is none to draw from.
 * space [sample_bytes] (device) is room to work in. */
void cuda_sample(struct device *dev, struct pick *pick, const float *logits, int vocab_size,
                 void *space, const struct sampling *sampling, const struct step_state *step);

#endif
