/* Times attention on the cpu: dense decode, sparse decode and causal prefill.
 *
 *   bench_attention [N_THREADS [auto|avx512|avx2|exact [NAME]]]     NAME: only cases that contain
 * it
 *
 * Decode is the attention of Llama-3.2-1B (32 query heads, 8 KV heads, head_dim 64) with 8192 keys;
 * 16 layers of distinct K and V pass by in each round, more than the caches hold.  Prefill is the
 * embedded model's (6 heads, 2 KV heads, head_dim 64): 12288 rows in chunks of 512.  The best round
 * is reported, because other programs share the machine; with one thread only its own time counts.
 */
#include <time.h>

#include "tests/attention_case.h"

enum { N_KEYS = 8192, N_LAYERS = 16, N_ROUNDS = 15, PREFILL_ROWS = 12288, CHUNK_ROWS = 512 };

static struct device *dev;
static struct attention_case layers[N_LAYERS];
static struct selection *sel;
static double dense_us;
static bool one_thread;
static const char *only = "";

static double now_us(void)
{
    struct timespec t;
    clock_gettime(one_thread ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static void dense(const struct attention *att)
{
    backend_cpu.attend_dense(dev, att);
}

static void finish(const struct attention *att)
{
    backend_cpu.selection_end(dev, sel, att);
    backend_cpu.attend_selected(dev, att, sel);
}

static void sink_local(const struct attention *att)
{
    backend_cpu.selection_begin(dev, sel, att);
    backend_cpu.select_sink(dev, sel, att, (struct budget){false, 4});
    backend_cpu.select_local(dev, sel, att, (struct budget){false, 400});
    finish(att);
}

static void random_heads(const struct attention *att)
{
    backend_cpu.selection_begin(dev, sel, att);
    backend_cpu.select_random(dev, sel, att, 0.05, 0, SHARE_HEAD);
    finish(att);
}

static void random_group(const struct attention *att)
{
    backend_cpu.selection_begin(dev, sel, att);
    backend_cpu.select_random(dev, sel, att, 0.05, 0, SHARE_GROUP);
    finish(att);
}

static void top_k(const struct attention *att, enum share share)
{
    backend_cpu.selection_begin(dev, sel, att);
    backend_cpu.score_exact(dev, sel, att);
    backend_cpu.select_top_k(dev, sel, att, (struct budget){true, 0.1}, share);
    finish(att);
}

static void top_k_heads(const struct attention *att)
{
    top_k(att, SHARE_HEAD);
}

static void top_k_group(const struct attention *att)
{
    top_k(att, SHARE_GROUP);
}

static void top_p_heads(const struct attention *att)
{
    backend_cpu.selection_begin(dev, sel, att);
    backend_cpu.score_exact(dev, sel, att);
    backend_cpu.select_top_p(dev, sel, att, 0.5, false, (struct budget){0}, 1.0f, SHARE_HEAD);
    finish(att);
}

static void score_only(const struct attention *att)
{
    backend_cpu.selection_begin(dev, sel, att);
    backend_cpu.score_exact(dev, sel, att);
}

/* Keys and values in the device's own memory, whose large pages matter to scattered reads. */
static void open_on_device(struct attention_case *c, const struct case_shape *shape, uint64_t seed)
{
    case_open(c, shape, seed);
    struct kv_layer *kv = &c->att.kv;
    for (int s = 0; s < KV_SEGMENTS; s++) {
        size_t n_bytes = (size_t)kv->n_kv_heads * (size_t)kv->capacity[s] * (size_t)kv->head_dim *
                         dtype_bytes(kv->dtype);
        if (!n_bytes)
            continue;
        kv->k[s] = memcpy(backend_cpu.alloc(dev, n_bytes), c->k[s], n_bytes);
        kv->v[s] = memcpy(backend_cpu.alloc(dev, n_bytes), c->v[s], n_bytes);
    }
}

static void close_on_device(struct attention_case *c)
{
    for (int s = 0; s < KV_SEGMENTS; s++) {
        backend_cpu.release(dev, c->att.kv.k[s]);
        backend_cpu.release(dev, c->att.kv.v[s]);
    }
    case_close(c);
}

/* Microseconds per call, best round of all layers. */
static void decode(const char *name, void (*call)(const struct attention *))
{
    double best = INFINITY;
    if (!strstr(name, only))
        return;
    for (int round = 0; round < N_ROUNDS; round++) {
        double start = now_us();
        for (int layer = 0; layer < N_LAYERS; layer++)
            call(&layers[layer].att);
        best = fmin(best, (now_us() - start) / N_LAYERS);
    }
    struct attention_counts *counts = &layers[0].counts;
    memset(counts, 0, sizeof *counts);
    call(&layers[0].att);
    const struct kv_layer *kv = &layers[0].att.kv;
    double row_bytes = (double)kv->head_dim * (double)dtype_bytes(kv->dtype);
    double bytes = ((double)counts->rows_read * 2 + (double)counts->score_rows) * row_bytes;
    if (dense_us == 0.0)
        dense_us = best;
    printf("decode  %-28s %8.1f us  %6.1f GB/s  %5.1fx dense  (%.1f %% of rows read)\n", name, best,
           bytes / best * 1e-3, dense_us / best,
           100.0 * (double)counts->rows_read / fmax(1.0, (double)counts->rows_visible));
}

static void prefill(void)
{
    if (!strstr("prefill", only))
        return;
    struct case_shape shape = {CHUNK_ROWS, PREFILL_ROWS, 6, 2, 64, DTYPE_BF16, .n_tail = 0};
    struct attention_case c;
    open_on_device(&c, &shape, 1);
    double best = INFINITY;
    for (int round = 0; round < 2; round++) {
        double start = now_us();
        for (int row = 0; row < PREFILL_ROWS; row += CHUNK_ROWS) {
            c.step.n_context = row;
            backend_cpu.attend_dense(dev, &c.att);
        }
        best = fmin(best, now_us() - start);
    }
    double flop = 4.0 * 64 * 6 * 0.5 * (double)PREFILL_ROWS * (PREFILL_ROWS + 1);
    printf("prefill %d rows in chunks of %d: %.0f ms per layer, %.0f GFLOP/s of the causal half\n",
           PREFILL_ROWS, CHUNK_ROWS, best * 1e-3, flop / best * 1e-3);
    close_on_device(&c);
}

int main(int argc, char **argv)
{
    struct device_options options = {.n_threads = argc > 1 ? atoi(argv[1]) : 0};
    const char *isa = argc > 2 ? argv[2] : "auto";
    only = argc > 3 ? argv[3] : only;
    options.exact = strcmp(isa, "exact") == 0;
    options.isa = strcmp(isa, "avx2") == 0     ? DEVICE_ISA_AVX2
                  : strcmp(isa, "avx512") == 0 ? DEVICE_ISA_AVX512
                                               : DEVICE_ISA_AUTO;
    one_thread = options.n_threads == 1;
    char why[256];
    dev = backend_cpu.open(&options, why, sizeof why);
    if (!dev) {
        fprintf(stderr, "%s\n", why);
        return 1;
    }
    struct device_info info;
    backend_cpu.describe(dev, &info);
    printf("%s; sequential read %.1f GB/s\n", info.name,
           backend_cpu.measure_read_bandwidth(dev) * 1e-9);
    struct workspace_need need = {CHUNK_ROWS, 64, 32, 8, 64, PREFILL_ROWS};
    backend_cpu.reserve(dev, &need);
    for (int layer = 0; layer < N_LAYERS; layer++) {
        struct case_shape shape = {1, N_KEYS, 32, 8, 64, DTYPE_BF16, .n_tail = 40};
        open_on_device(&layers[layer], &shape, (uint64_t)layer);
    }
    sel = backend_cpu.selection_open(dev, 1, 32, 8, N_KEYS);
    decode("dense", dense);
    decode("sink:4,local:400", sink_local);
    decode("random:5% per group", random_group);
    decode("random:5% per head", random_heads);
    decode("scores only", score_only);
    decode("oracle top-k:10% per group", top_k_group);
    decode("oracle top-k:10% per head", top_k_heads);
    decode("oracle top-p:0.5 per head", top_p_heads);
    decode("dense again", dense);
    prefill();
    backend_cpu.selection_close(dev, sel);
    for (int layer = 0; layer < N_LAYERS; layer++)
        close_on_device(&layers[layer]);
    backend_cpu.close(dev);
    return 0;
}
