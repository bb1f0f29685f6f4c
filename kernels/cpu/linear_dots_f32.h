/* How a few rows of x go through w in f32: the walk over tiles that the instruction sets share.
 * Included once by each, after it has defined
 *   TILE_ROWS (3 or 6), TILE_OUTPUTS, X_BYTES, K_CHUNK, prepare, dot_one and dot_tile. */

#define TILE_CASE(N_ROWS)                                                                          \
    case N_ROWS:                                                                                   \
        dot_tile(to, dots_stride, w, dtype, first, (size_t)n_in, n_k, from, x_stride, N_ROWS,      \
                 fetch, fetch_end - fetch, k > 0);                                                 \
        break;

/* Inlined with a constant dtype, so that its choice is outside the loops. */
static inline __attribute__((always_inline)) void run_dots_of(float *dots, size_t dots_stride,
                                                              const void *w, enum dtype dtype,
                                                              int n_out, int n_in, const char *x,
                                                              size_t x_stride, int n_rows)
{
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
#if TILE_ROWS > 3
                    TILE_CASE(4)
                    TILE_CASE(5)
                    TILE_CASE(6)
#endif
                }
            }
    for (int j = n_tiled; j < n_out; j++)
        for (int row = 0; row < n_rows; row++)
            dots[(size_t)row * dots_stride + (size_t)j] =
                dot_one(w, dtype, (size_t)j * (size_t)n_in, n_in,
                        (const float *)(x + (size_t)row * x_stride));
}

static void run_dots(float *dots, size_t dots_stride, const void *w, enum dtype dtype, int n_out,
                     int n_in, const void *x, size_t x_stride, int n_rows)
{
    switch (dtype) {
    case DTYPE_F16:
        run_dots_of(dots, dots_stride, w, DTYPE_F16, n_out, n_in, x, x_stride, n_rows);
        break;
    case DTYPE_BF16:
        run_dots_of(dots, dots_stride, w, DTYPE_BF16, n_out, n_in, x, x_stride, n_rows);
        break;
    case DTYPE_F32:
        run_dots_of(dots, dots_stride, w, DTYPE_F32, n_out, n_in, x, x_stride, n_rows);
        break;
    }
}

static const struct dots_kernel dots_kernel = {
    .max_rows = 64,
    .x_bytes = sizeof(float),
    .prepare = prepare,
    .run = run_dots,
};
