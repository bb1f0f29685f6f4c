/* The linear layer's inner loops in AVX-512, f32 arithmetic. */
#if defined(__x86_64__)

#include "kernels/cpu/linear_avx512.h"

#include <assert.h>

#include "kernels/cpu/linear_finish.h"
#include "kernels/cpu/linear_kernels.h"

/* --- Few rows ------------------------------------------------------------------------------ */

#define TILE_ROWS 6 /* a macro: the walk asks for it in #if */
enum { TILE_OUTPUTS = 4, X_BYTES = sizeof(float) };

/* Memory is read in order: what lies FETCH_AHEAD bytes further on is asked for now.  Measured on
 * Zen 5, with cold weights in huge pages: 0.94 of the read bandwidth instead of 0.88. */
enum { FETCH_AHEAD = 4096 };

/* Several rows of x go through w in chunks of k, so that the chunks of x stay in the first-level
 * cache. */
enum { K_CHUNK = 2048 };

static inline __attribute__((always_inline)) void fetch_lines(const char *from, const int n)
{
#pragma GCC unroll 8
    for (int i = 0; i < n; i++)
        _mm_prefetch(from + 64 * i, _MM_HINT_T0);
}

static void prepare(void *to, const float *x, int n)
{
    for (int k = 0; k < n; k += 16)
        _mm512_store_ps((float *)to + k, _mm512_maskz_loadu_ps(mask_first(n - k), x + k));
}

/* One row of x, one of w: four independent sums. */
static inline __attribute__((always_inline)) float dot_one(const void *w, enum dtype dtype,
                                                           size_t first, int n_in, const float *x)
{
    __m512 sums[4];
    for (int s = 0; s < 4; s++)
        sums[s] = _mm512_setzero_ps();
    int k = 0;
    for (; k + 64 <= n_in; k += 64) {
        const char *at = (const char *)w + (first + (size_t)k) * dtype_bytes(dtype);
        fetch_lines(at + FETCH_AHEAD, (int)dtype_bytes(dtype));
#pragma GCC unroll 4
        for (int s = 0; s < 4; s++)
            sums[s] = _mm512_fmadd_ps(load16(w, dtype, first + (size_t)(k + 16 * s)),
                                      _mm512_load_ps(x + k + 16 * s), sums[s]);
    }
    for (; k < n_in; k += 16)
        sums[0] = _mm512_fmadd_ps(load16_masked(w, dtype, first + (size_t)k, mask_first(n_in - k)),
                                  _mm512_load_ps(x + k), sums[0]);
    return _mm512_reduce_add_ps(
        _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
}

/* Adds one vector of k of TILE_OUTPUTS rows of w times n_rows rows of x; the last may be part. */
static inline __attribute__((always_inline)) void
dot_tile_step(__m512 sums[TILE_ROWS][TILE_OUTPUTS], const void *w, enum dtype dtype, size_t first,
              size_t n_in, const char *x, size_t x_stride, const int n_rows, __mmask16 mask)
{
    __m512 wv[TILE_OUTPUTS];
#pragma GCC unroll 4
    for (int j = 0; j < TILE_OUTPUTS; j++)
        wv[j] = mask == 0xFFFF ? load16(w, dtype, first + (size_t)j * n_in)
                               : load16_masked(w, dtype, first + (size_t)j * n_in, mask);
#pragma GCC unroll 6
    for (int r = 0; r < n_rows; r++) {
        __m512 xv = _mm512_load_ps((const float *)(x + (size_t)r * x_stride));
#pragma GCC unroll 4
        for (int j = 0; j < TILE_OUTPUTS; j++)
            sums[r][j] = _mm512_fmadd_ps(wv[j], xv, sums[r][j]);
    }
}

/* Four rows of w times n_rows <= TILE_ROWS rows of x, over n_k elements; dots are set, or added to.
 * Meanwhile n_fetch of the four rows after these, from fetch_from on, are asked for, one after the
 * other, so that memory is read in order. */
static inline __attribute__((always_inline)) void
dot_tile(float *dots, size_t dots_stride, const void *w, enum dtype dtype, size_t first,
         size_t n_in, int n_k, const char *x, size_t x_stride, const int n_rows, int fetch_from,
         int n_fetch, bool add)
{
    __m512 sums[TILE_ROWS][TILE_OUTPUTS];
#pragma GCC unroll 6
    for (int r = 0; r < n_rows; r++)
#pragma GCC unroll 4
        for (int j = 0; j < TILE_OUTPUTS; j++)
            sums[r][j] = _mm512_setzero_ps();
    int n_steps = n_k / 32, n_parts = n_fetch ? n_fetch : 1, k = 0;
    int n_lines = n_fetch * ((int)dtype_bytes(dtype) / 2); /* for each 32 elements */
    for (int part = 0; part < n_parts; part++) {
        int end = n_steps * (part + 1) / n_parts * 32;
        const char *ahead =
            (const char *)w +
            (first + (size_t)(TILE_OUTPUTS + fetch_from + part) * n_in) * dtype_bytes(dtype);
        for (; k < end; k += 32) {
            for (int line = 0; line < n_lines; line++, ahead += 64)
                _mm_prefetch(ahead, _MM_HINT_T0);
#pragma GCC unroll 2
            for (int i = k; i < k + 32; i += 16)
                dot_tile_step(sums, w, dtype, first + (size_t)i, n_in, x + X_BYTES * (size_t)i,
                              x_stride, n_rows, 0xFFFF);
        }
    }
    for (; k < n_k; k += 16)
        dot_tile_step(sums, w, dtype, first + (size_t)k, n_in, x + X_BYTES * (size_t)k, x_stride,
                      n_rows, mask_first(n_k - k));
#pragma GCC unroll 6
    for (int r = 0; r < n_rows; r++) {
        float *to = dots + (size_t)r * dots_stride;
        __m128 sum = sum4x16(sums[r][0], sums[r][1], sums[r][2], sums[r][3]);
        _mm_storeu_ps(to, add ? _mm_add_ps(sum, _mm_loadu_ps(to)) : sum);
    }
}

#include "kernels/cpu/linear_dots_f32.h"

/* --- Many rows ----------------------------------------------------------------------------- */

/* A tile of 14 x 32 sums in 28 registers; 2 hold weights, 1 a broadcast element of x. */
enum { MR = 14, NR = 32, KC = 256, A_ROW_BYTES = KC * 4 + 64 };

static void pack_a(void *a, const float *x, int n_k)
{
    float *to = a;
    int k = 0;
    for (; k + 16 <= n_k; k += 16)
        _mm512_storeu_ps(to + k, _mm512_loadu_ps(x + k));
    if (k < n_k) {
        __mmask16 mask = mask_first(n_k - k);
        _mm512_storeu_ps(to + k, _mm512_maskz_loadu_ps(mask, x + k));
    }
}

static inline __attribute__((always_inline)) void
pack_b_of(float *b, const void *w, enum dtype dtype, size_t n_in, int n_out, int n_k)
{
    for (int group = 0; group < NR; group += 16) {
        for (int k = 0; k < n_k; k += 16) {
            __mmask16 mask = mask_first(n_k - k);
            __m512 rows[16];
            for (int j = 0; j < 16; j++)
                rows[j] =
                    group + j < n_out
                        ? load16_masked(w, dtype, (size_t)(group + j) * n_in + (size_t)k, mask)
                        : _mm512_setzero_ps();
            transpose_16x16(rows);
            int n = n_k - k < 16 ? n_k - k : 16;
            for (int i = 0; i < n; i++)
                _mm512_store_ps(b + (size_t)(k + i) * NR + group, rows[i]);
        }
    }
}

static void pack_b(void *b, const void *w, enum dtype dtype, size_t n_in, int n_out, int n_k)
{
    switch (dtype) {
    case DTYPE_F16:
        pack_b_of(b, w, DTYPE_F16, n_in, n_out, n_k);
        break;
    case DTYPE_BF16:
        pack_b_of(b, w, DTYPE_BF16, n_in, n_out, n_k);
        break;
    case DTYPE_F32:
        pack_b_of(b, w, DTYPE_F32, n_in, n_out, n_k);
        break;
    }
}

static inline __attribute__((always_inline)) void run_tile(float *c, size_t c_stride, const char *a,
                                                           const float *b, const int n_rows,
                                                           int n_k, bool add)
{
    __m512 sums[MR][2];
#pragma GCC unroll 14
    for (int i = 0; i < n_rows; i++)
        sums[i][0] = sums[i][1] = _mm512_setzero_ps();
    for (int k = 0; k < n_k; k++, a += 4, b += NR) {
        __m512 b0 = _mm512_load_ps(b), b1 = _mm512_load_ps(b + 16);
#pragma GCC unroll 14
        for (int i = 0; i < n_rows; i++) {
            __m512 av = _mm512_set1_ps(*(const float *)(a + i * A_ROW_BYTES));
            sums[i][0] = _mm512_fmadd_ps(av, b0, sums[i][0]);
            sums[i][1] = _mm512_fmadd_ps(av, b1, sums[i][1]);
        }
    }
#pragma GCC unroll 14
    for (int i = 0; i < n_rows; i++) {
        float *row = c + (size_t)i * c_stride;
        if (add) {
            sums[i][0] = _mm512_add_ps(sums[i][0], _mm512_loadu_ps(row));
            sums[i][1] = _mm512_add_ps(sums[i][1], _mm512_loadu_ps(row + 16));
        }
        _mm512_storeu_ps(row, sums[i][0]);
        _mm512_storeu_ps(row + 16, sums[i][1]);
    }
}

#define RUN_CASE(N_ROWS)                                                                           \
    case N_ROWS:                                                                                   \
        run_tile(c, c_stride, a, b, N_ROWS, n_k, add);                                             \
        break;

static void run(float *c, size_t c_stride, const void *a, const void *b, int n_rows, int n_k,
                bool add)
{
    switch (n_rows) {
        RUN_CASE(1)
        RUN_CASE(2)
        RUN_CASE(3)
        RUN_CASE(4)
        RUN_CASE(5)
        RUN_CASE(6)
        RUN_CASE(7)
        RUN_CASE(8)
        RUN_CASE(9)
        RUN_CASE(10)
        RUN_CASE(11)
        RUN_CASE(12)
        RUN_CASE(13)
        RUN_CASE(14)
    default:
        assert(!"a tile has 1 to MR rows");
    }
}

static const struct gemm_kernel gemm = {
    .mr = MR,
    .nr = NR,
    .kc = KC,
    .a_row_bytes = A_ROW_BYTES,
    .b_k_bytes = NR * 4,
    .pack_a = pack_a,
    .pack_b = pack_b,
    .run = run,
};

/* --- Measurements -------------------------------------------------------------------------- */

static float read_all(const void *p, size_t n_bytes)
{
    const char *from = p;
    __m512i sums[8];
    for (int i = 0; i < 8; i++)
        sums[i] = _mm512_setzero_si512();
    for (size_t at = 0; at < n_bytes; at += 512)
        for (size_t i = 0; i < 8; i++)
            sums[i] = _mm512_add_epi32(sums[i], _mm512_loadu_si512(from + at + 64 * i));
    for (int i = 1; i < 8; i++)
        sums[0] = _mm512_add_epi32(sums[0], sums[i]);
    /* Not reduce_add, which adds int: only the wish to read counts, and int may overflow. */
    return (float)_mm512_reduce_or_epi32(sums[0]);
}

static double burst(void)
{
    enum { N_ROUNDS = 1 << 20, N_SUMS = 24 };
    __m512 sums[N_SUMS], factor = _mm512_set1_ps(0.999f), term = _mm512_set1_ps(0.5f);
    for (int i = 0; i < N_SUMS; i++)
        sums[i] = _mm512_set1_ps((float)i);
    for (int round = 0; round < N_ROUNDS; round++) {
#pragma GCC unroll 24
        for (int i = 0; i < N_SUMS; i++)
            sums[i] = _mm512_fmadd_ps(sums[i], factor, term);
    }
    for (int i = 1; i < N_SUMS; i++)
        sums[0] = _mm512_add_ps(sums[0], sums[i]);
    volatile float keep = _mm512_reduce_add_ps(sums[0]);
    (void)keep;
    return 2.0 * 16 * N_ROUNDS * N_SUMS;
}

const struct linear_kernels linear_kernels_avx512 = {
    .f32 = {.dots = &dots_kernel, .gemm = &gemm, .burst = burst},
    .finish = linear_finish,
    .read = read_all,
};

#endif
