/* The linear layer with VDPBF16PS: for many rows, pairs of bf16 weights times pairs of activations
 * rounded to bf16, summed in f32.  Few rows are bound by memory and stay in f32. */
#if defined(__x86_64__)

#include "kernels/cpu/linear_avx512.h"

#include <assert.h>

#include "kernels/cpu/linear_kernels.h"

/* --- Few rows ------------------------------------------------------------------------------ */

enum { TILE_ROWS = 6, TILE_OUTPUTS = 4, X_BYTES = sizeof(uint16_t) };

/* Several rows of x go through w in chunks of k, so that the chunks of x stay in the first-level
 * cache. */
enum { K_CHUNK = 2048 };

static void prepare(void *to, const float *x, int n)
{
    for (int k = 0; k < n; k += PREPARED_STEP)
        for (int half = k; half < k + PREPARED_STEP; half += 16) {
            __m512 v = _mm512_maskz_loadu_ps(mask_first(n - half), x + half);
            _mm256_store_si256((void *)((uint16_t *)to + half), (__m256i)_mm512_cvtneps_pbh(v));
        }
}

static inline __m512bh load_pairs(const uint16_t *w, __mmask32 mask)
{
    return (__m512bh)(mask == 0xFFFFFFFFu ? _mm512_loadu_si512(w)
                                          : _mm512_maskz_loadu_epi16(mask, w));
}

/* One row of x, one of w. */
static float dot_one(const uint16_t *w, int n_in, const char *x)
{
    __m512 sum = _mm512_setzero_ps();
    for (int k = 0; k < n_in; k += 32) {
        __mmask32 mask = n_in - k >= 32 ? 0xFFFFFFFFu : (1u << (n_in - k)) - 1;
        __m512bh xv = (__m512bh)_mm512_load_si512(x + 2 * (size_t)k);
        sum = _mm512_dpbf16_ps(sum, load_pairs(w + k, mask), xv);
    }
    return _mm512_reduce_add_ps(sum);
}

/* Adds one vector of k of TILE_OUTPUTS rows of w times n_rows rows of x; the last may be part. */
static inline __attribute__((always_inline)) void
dot_tile_step(__m512 sums[TILE_ROWS][TILE_OUTPUTS], const uint16_t *w, size_t n_in, const char *x,
              size_t x_stride, const int n_rows, __mmask32 mask)
{
    __m512bh wv[TILE_OUTPUTS];
#pragma GCC unroll 4
    for (int j = 0; j < TILE_OUTPUTS; j++)
        wv[j] = load_pairs(w + (size_t)j * n_in, mask);
#pragma GCC unroll 6
    for (int r = 0; r < n_rows; r++) {
        __m512bh xv = (__m512bh)_mm512_load_si512(x + (size_t)r * x_stride);
#pragma GCC unroll 4
        for (int j = 0; j < TILE_OUTPUTS; j++)
            sums[r][j] = _mm512_dpbf16_ps(sums[r][j], wv[j], xv);
    }
}

/* Four rows of w times n_rows <= TILE_ROWS rows of x, over n_k elements; dots are set, or added to.
 * Meanwhile n_fetch of the four rows after these, from fetch_from on, are asked for, one after the
 * other, so that memory is read in order. */
static inline __attribute__((always_inline)) void
dot_tile(float *dots, size_t dots_stride, const uint16_t *w, size_t n_in, int n_k, const char *x,
         size_t x_stride, const int n_rows, int fetch_from, int n_fetch, bool add)
{
    __m512 sums[TILE_ROWS][TILE_OUTPUTS];
#pragma GCC unroll 6
    for (int r = 0; r < n_rows; r++)
#pragma GCC unroll 4
        for (int j = 0; j < TILE_OUTPUTS; j++)
            sums[r][j] = _mm512_setzero_ps();
    int n_steps = n_k / 32, n_parts = n_fetch ? n_fetch : 1, k = 0;
    int n_lines = n_fetch; /* for each 32 elements */
    for (int part = 0; part < n_parts; part++) {
        int end = n_steps * (part + 1) / n_parts * 32;
        const char *ahead = (const char *)(w + (size_t)(TILE_OUTPUTS + fetch_from + part) * n_in);
        for (; k < end; k += 32) {
            for (int line = 0; line < n_lines; line++, ahead += 64)
                _mm_prefetch(ahead, _MM_HINT_T0);
            dot_tile_step(sums, w + k, n_in, x + X_BYTES * (size_t)k, x_stride, n_rows,
                          0xFFFFFFFFu);
        }
    }
    for (; k < n_k; k += 32)
        dot_tile_step(sums, w + k, n_in, x + X_BYTES * (size_t)k, x_stride, n_rows,
                      (1u << (n_k - k)) - 1);
#pragma GCC unroll 6
    for (int r = 0; r < n_rows; r++) {
        float *to = dots + (size_t)r * dots_stride;
        __m128 sum = sum4x16(sums[r][0], sums[r][1], sums[r][2], sums[r][3]);
        _mm_storeu_ps(to, add ? _mm_add_ps(sum, _mm_loadu_ps(to)) : sum);
    }
}

#define TILE_CASE(N_ROWS)                                                                          \
    case N_ROWS:                                                                                   \
        dot_tile(to, dots_stride, w + first, (size_t)n_in, n_k, from, x_stride, N_ROWS, fetch,     \
                 fetch_end - fetch, k > 0);                                                        \
        break;

static void run_dots(float *dots, size_t dots_stride, const void *weights, enum dtype dtype,
                     int n_out, int n_in, const void *rows, size_t x_stride, int n_rows)
{
    assert(dtype == DTYPE_BF16);
    (void)dtype;
    const uint16_t *w = weights;
    const char *x = rows;
    int n_tiles = (n_rows + TILE_ROWS - 1) / TILE_ROWS;
    int n_tiled = n_rows > 1 ? n_out / TILE_OUTPUTS * TILE_OUTPUTS : 0;
    for (int k = 0; k < n_in; k += K_CHUNK)
        for (int j = 0; j < n_tiled; j += TILE_OUTPUTS)
            for (int tile = 0; tile < n_tiles; tile++) {
                int n_k = n_in - k < K_CHUNK ? n_in - k : K_CHUNK;
                int row = n_rows * tile / n_tiles, end = n_rows * (tile + 1) / n_tiles;
                int fetch = TILE_OUTPUTS * tile / n_tiles;
                int fetch_end = TILE_OUTPUTS * (tile + 1) / n_tiles;
                size_t first = (size_t)j * (size_t)n_in + (size_t)k;
                const char *from = x + (size_t)row * x_stride + X_BYTES * (size_t)k;
                float *to = dots + (size_t)row * dots_stride + j;
                switch (end - row) {
                    TILE_CASE(1)
                    TILE_CASE(2)
                    TILE_CASE(3)
                    TILE_CASE(4)
                    TILE_CASE(5)
                    TILE_CASE(6)
                }
            }
    for (int j = n_tiled; j < n_out; j++)
        for (int row = 0; row < n_rows; row++)
            dots[(size_t)row * dots_stride + (size_t)j] =
                dot_one(w + (size_t)j * (size_t)n_in, n_in, x + (size_t)row * x_stride);
}

static const struct dots_kernel dots_kernel = {
    .max_rows = 64,
    .x_bytes = sizeof(uint16_t),
    .prepare = prepare,
    .run = run_dots,
};

/* --- Many rows ----------------------------------------------------------------------------- */

/* A tile of 14 x 32 sums.  A "pair" is two neighbouring k in one 32-bit lane. */
enum { MR = 14, NR = 32, KC = 512, A_ROW_BYTES = KC * 2 + 64 };

static void pack_a(void *a, const float *x, int n_k)
{
    uint16_t *to = a;
    for (int k = 0; k < n_k; k += 16) {
        __m512 v = _mm512_maskz_loadu_ps(mask_first(n_k - k), x + k);
        _mm256_storeu_si256((void *)(to + k), (__m256i)_mm512_cvtneps_pbh(v));
    }
}

static void pack_b(void *b, const void *w, enum dtype dtype, size_t n_in, int n_out, int n_k)
{
    assert(dtype == DTYPE_BF16);
    (void)dtype;
    float *to = b;
    int n_pairs = (n_k + 1) / 2;
    for (int group = 0; group < NR; group += 16) {
        for (int pair = 0; pair < n_pairs; pair += 16) {
            int left = n_k - 2 * pair;
            __mmask32 mask = left >= 32 ? 0xFFFFFFFFu : (1u << left) - 1;
            __m512 rows[16];
            for (int j = 0; j < 16; j++) {
                const uint16_t *from = (const uint16_t *)w + (size_t)(group + j) * n_in;
                rows[j] = group + j < n_out
                              ? _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(mask, from + 2 * pair))
                              : _mm512_setzero_ps();
            }
            transpose_16x16(rows);
            int n = n_pairs - pair < 16 ? n_pairs - pair : 16;
            for (int i = 0; i < n; i++)
                _mm512_store_ps(to + (size_t)(pair + i) * NR + group, rows[i]);
        }
    }
}

static inline __attribute__((always_inline)) void run_tile(float *c, size_t c_stride, const char *a,
                                                           const char *b, const int n_rows,
                                                           int n_pairs, bool add)
{
    __m512 sums[MR][2];
#pragma GCC unroll 14
    for (int i = 0; i < n_rows; i++)
        sums[i][0] = sums[i][1] = _mm512_setzero_ps();
    for (int pair = 0; pair < n_pairs; pair++, a += 4, b += NR * 4) {
        __m512bh b0 = (__m512bh)_mm512_load_si512(b), b1 = (__m512bh)_mm512_load_si512(b + 64);
#pragma GCC unroll 14
        for (int i = 0; i < n_rows; i++) {
            __m512bh av = (__m512bh)_mm512_set1_epi32(*(const int *)(a + i * A_ROW_BYTES));
            sums[i][0] = _mm512_dpbf16_ps(sums[i][0], av, b0);
            sums[i][1] = _mm512_dpbf16_ps(sums[i][1], av, b1);
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
        run_tile(c, c_stride, a, b, N_ROWS, (n_k + 1) / 2, add);                                   \
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
    .b_k_bytes = NR * 2,
    .pack_a = pack_a,
    .pack_b = pack_b,
    .run = run,
};

static double burst(void)
{
    enum { N_ROUNDS = 1 << 20, N_SUMS = 24 };
    __m512 sums[N_SUMS];
    __m512bh a = (__m512bh)_mm512_set1_epi32(0x3F803F80), b = (__m512bh)_mm512_set1_epi32(0x3F80);
    for (int i = 0; i < N_SUMS; i++)
        sums[i] = _mm512_set1_ps((float)i);
    for (int round = 0; round < N_ROUNDS; round++) {
#pragma GCC unroll 24
        for (int i = 0; i < N_SUMS; i++)
            sums[i] = _mm512_dpbf16_ps(sums[i], a, b);
    }
    for (int i = 1; i < N_SUMS; i++)
        sums[0] = _mm512_add_ps(sums[0], sums[i]);
    volatile float keep = _mm512_reduce_add_ps(sums[0]);
    (void)keep;
    return 2.0 * 32 * N_ROUNDS * N_SUMS;
}

const struct linear_products linear_products_avx512bf16 = {
    .dots = &dots_kernel,
    .gemm = &gemm,
    .burst = burst,
};

#endif
