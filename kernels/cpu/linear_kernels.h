/* The inner loops of a linear layer, one set per instruction set, and what they agree on.
 *
 * Few rows (decode, a short question) are bound by memory: weights are used where they lie, with
 * vectors along k, and each is read from memory once.  Many rows (prefill) are bound by
 * arithmetic: the weights of a few outputs are packed so that one vector holds the same k of
 * several outputs, and a tile of sums stays in registers.  Source: Goto and van de Geijn 2008. */
#ifndef ATTNSCOPE_KERNELS_CPU_LINEAR_KERNELS_H
#define ATTNSCOPE_KERNELS_CPU_LINEAR_KERNELS_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/backend.h"

enum { PREPARED_STEP = 32 }; /* prepared rows are zero up to a multiple of it */

/* Few rows: dot products with the weights as they are. */
struct dots_kernel {
    int max_rows;   /* above it, packing is faster */
    size_t x_bytes; /* of an element of a prepared row */
    /* to [n rounded up to PREPARED_STEP] = x [n], then zeros.   to is 64-byte aligned */
    void (*prepare)(void *to, const float *x, int n);
    /* dots [n_rows, n_out], rows dots_stride floats apart: each prepared row, x_stride bytes apart,
     * times each row of w [n_out, n_in]. */
    void (*run)(float *dots, size_t dots_stride, const void *w, enum dtype dtype, int n_out,
                int n_in, const void *x, size_t x_stride, int n_rows);
};

/* Many rows. */
struct gemm_kernel {
    int mr, nr;         /* largest tile: rows of x, outputs */
    int kc;             /* elements of a k block, even */
    size_t a_row_bytes; /* distance between packed rows of x, a constant of run's code */
    size_t b_k_bytes;   /* bytes of one k of a packed panel of nr outputs */

    /* Packs one row of a k block: a [kc] = x [n_k], the rest up to an even k zero. */
    void (*pack_a)(void *a, const float *x, int n_k);
    /* Packs n_out <= nr rows of w, from their first element of the k block, n_in elements apart;
     * absent outputs become zero.   b [n_k rounded up to even, nr] */
    void (*pack_b)(void *b, const void *w, enum dtype dtype, size_t n_in, int n_out, int n_k);
    /* c [n_rows, nr], rows c_stride floats apart, = (or += if add) a [n_rows, n_k] b^T. */
    void (*run)(float *c, size_t c_stride, const void *a, const void *b, int n_rows, int n_k,
                bool add);
};

/* One way of multiplying. */
struct linear_products {
    const struct dots_kernel *dots;
    const struct gemm_kernel *gemm; /* NULL: dots serves any number of rows */
    double (*burst)(void);          /* independent multiply-adds in registers; returns flops */
};

/* What is done with the finished dot products. */
struct linear_finish {
    enum activation activation;
    bool add; /* y += instead of y = */
};

struct linear_kernels {
    struct linear_products f32; /* any dtype of weights */
    /* y [n] = or += activation(dots + bias); for SwiGLU dots are the gates and up the others. */
    void (*finish)(float *y, const float *dots, const float *up, const float *bias,
                   const float *bias_up, int n, const struct linear_finish *how);
    /* For measurements: reads n_bytes (a multiple of 1024) in order; the result is of no use but
     * keeps the reads. */
    float (*read)(const void *p, size_t n_bytes);
};

extern const struct linear_kernels linear_kernels_reference;
#if defined(__x86_64__)
extern const struct linear_kernels linear_kernels_avx2, linear_kernels_avx512;
/* bf16 weights times activations rounded to bf16. */
extern const struct linear_products linear_products_avx512bf16;
#endif

#endif
