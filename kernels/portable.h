/* Marks functions of headers that both C and CUDA code include. */
#ifndef ATTNSCOPE_KERNELS_PORTABLE_H
#define ATTNSCOPE_KERNELS_PORTABLE_H

#ifdef __CUDACC__
#define PORTABLE static inline __host__ __device__
#else
#define PORTABLE static inline
#endif

#endif
