/* Each kind of linear layer of a decode step alone, over all layers' weights, against the
 * bandwidth of memory. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "tui/cli/bench.h"
#include "tui/cli/bench_calls.h"
#include "tui/cli/bench_stats.h"
#include "tui/cli/bench_timed.h"

enum { N_PARTS = 5 };

static const double TOLERANCE = 1e-3; /* f32 sums in another order */

struct gemv {
    struct bench *bench;
    struct model *model;
    float *x, *y; /* (device) inputs and outputs of the widest layer */
    size_t width;
    int part;
};

/* The layer's linear of that part, its norm, and how it is used. */
struct part {
    const char *name;
    const struct linear *linear;
    const struct norm *norm;
    enum activation activation;
    bool adds;
};

static struct part part_of(const struct model *m, int layer, int part)
{
    const struct model_layer *l = &m->layers[layer];
    const struct part all[N_PARTS] = {
        {"qkv", &l->qkv, &l->attention_norm, ACTIVATION_NONE, false},
        {"attention_out", &l->attention_out, NULL, ACTIVATION_NONE, true},
        {"ffn_up", &l->ffn_up, &l->ffn_norm, m->config.activation, false},
        {"ffn_down", &l->ffn_down, NULL, ACTIVATION_NONE, true},
        {"lm_head", &m->lm_head, &m->final_norm, ACTIVATION_NONE, false},
    };
    return all[part];
}

static void run_part(const struct backend *backend, struct device *dev, const struct part *p,
                     float *y, const float *x)
{
    if (p->adds)
        backend->linear_add(dev, y, x, p->linear, 1);
    else
        backend->norm_linear(dev, y, x, p->norm, p->linear, p->activation, 1);
}

/* The vocabulary's matrix is one for all layers: read once. */
static int n_runs(const struct gemv *g)
{
    return g->part == N_PARTS - 1 ? 1 : g->bench->config.n_layers;
}

static void run_all(void *user)
{
    struct gemv *g = user;
    for (int layer = 0; layer < n_runs(g); layer++) {
        struct part p = part_of(g->model, layer, g->part);
        run_part(g->bench->backend, g->bench->dev, &p, g->y, g->x);
    }
}

/* --- The reference --------------------------------------------------------------------------- */

struct reference {
    const struct backend *backend;
    struct device *dev;
    struct linear linear;
    struct norm norm;
    float *x, *y;
    void *memory[8];
    int n;
};

static void *fetch(struct reference *r, struct bench *b, const void *from, size_t n_bytes)
{
    void *p = from ? r->backend->alloc(r->dev, n_bytes) : NULL;
    if (p) {
        b->backend->download(b->dev, p, from, n_bytes);
        r->memory[r->n++] = p;
    }
    return p;
}

static size_t n_outputs(const struct part *p)
{
    return (size_t)p->linear->n_out / (p->activation == ACTIVATION_SWIGLU ? 2 : 1);
}

/* Difference of layer 0's part from the cpu backend's. */
static bool difference(struct gemv *g, double *out, struct error *err)
{
    struct bench *b = g->bench;
    struct part p = part_of(g->model, 0, g->part);
    struct reference r = {0};
    struct device_options options = {.exact = true};
    char why[256] = "";
    size_t n_in = (size_t)p.linear->n_in, n_out = (size_t)p.linear->n_out, n_y = n_outputs(&p);
    r.dev = backend_open("cpu", &options, &r.backend, why, sizeof why);
    if (!r.dev)
        return fail_code(err, EXIT_CODE_NO_DEVICE, "%s", why);
    float *got = xcalloc(n_y, sizeof *got);
    r.linear = *p.linear;
    r.linear.w = fetch(&r, b, p.linear->w, n_out * n_in * dtype_bytes(p.linear->dtype));
    r.linear.bias = fetch(&r, b, p.linear->bias, n_out * sizeof(float));
    if (p.norm) {
        r.norm = *p.norm;
        r.norm.weight = fetch(&r, b, p.norm->weight, n_in * sizeof(float));
        r.norm.bias = fetch(&r, b, p.norm->bias, n_in * sizeof(float));
    }
    r.x = fetch(&r, b, g->x, n_in * sizeof(float));
    b->backend->fill_random(b->dev, g->y, n_y, DTYPE_F32, 1, 3);
    r.y = fetch(&r, b, g->y, n_y * sizeof(float));
    bool ok = r.linear.w && r.x && r.y;
    if (ok) {
        struct part mine = {p.name, &r.linear, p.norm ? &r.norm : NULL, p.activation, p.adds};
        run_part(b->backend, b->dev, &p, g->y, g->x);
        b->backend->download(b->dev, got, g->y, n_y * sizeof *got);
        run_part(r.backend, r.dev, &mine, r.y, r.x);
        *out = bench_difference(got, r.y, n_y);
        ok = bench_sync(b, err);
    } else {
        fail_code(err, EXIT_CODE_NO_DEVICE, "no host memory to check %s", p.name);
    }
    for (int i = 0; i < r.n; i++)
        r.backend->release(r.dev, r.memory[i]);
    r.backend->close(r.dev);
    free(got);
    return ok;
}

/* --- The whole ------------------------------------------------------------------------------- */

/* Times one part; adds its bytes and microseconds of a whole step to the sums. */
static bool measure_part(struct gemv *g, struct json *result, double *bytes, double *us,
                         struct error *err)
{
    struct bench *b = g->bench;
    struct part p = part_of(g->model, 0, g->part);
    struct bench_timed timed = {0};
    double wrong = 0;
    if (!difference(g, &wrong, err))
        return false;
    if (!(wrong <= TOLERANCE))
        return fail_code(err, EXIT_CODE_RUNTIME,
                         "%s: differs from the reference by %.3g, at most %.3g is allowed", p.name,
                         wrong, TOLERANCE);
    bool ok = bench_timed_open(b, &timed, run_all, g, err);
    if (ok) {
        double all_us = bench_timed_median_us(b, &timed), n = n_runs(g);
        double each =
            (double)p.linear->n_out * p.linear->n_in * (double)dtype_bytes(p.linear->dtype);
        struct json *o = json_new_object();
        json_set_int(o, "n_out", p.linear->n_out);
        json_set_int(o, "n_in", p.linear->n_in);
        json_set_number(o, "us", all_us / n);
        json_set_number(o, "mb", each * 1e-6);
        json_set_number(o, "share_of_bandwidth", each * n / all_us * 1e6 / b->bytes_per_s);
        json_set_number(o, "error", wrong);
        json_set(result, p.name, o);
        *bytes += each * n;
        *us += all_us;
    }
    bench_timed_close(b, &timed);
    return ok && bench_sync(b, err);
}

bool bench_gemv(struct bench *b, struct json *result, struct error *err)
{
    struct gemv g = {.bench = b};
    double bytes = 0, us = 0;
    g.model = model_random(&b->config, DTYPE_BF16, 1, b->backend, b->dev, err);
    if (!g.model)
        return false;
    for (int part = 0; part < N_PARTS; part++) {
        struct part p = part_of(g.model, 0, part);
        size_t widest =
            (size_t)(p.linear->n_in > p.linear->n_out ? p.linear->n_in : p.linear->n_out);
        g.width = widest > g.width ? widest : g.width;
    }
    struct workspace_need need = {.max_rows = 1,
                                  .max_width = (int)g.width,
                                  .n_heads = b->config.n_heads,
                                  .n_kv_heads = b->config.n_kv_heads,
                                  .head_dim = b->config.head_dim,
                                  .max_keys = 1};
    g.x = b->backend->alloc(b->dev, g.width * sizeof(float));
    g.y = b->backend->alloc(b->dev, g.width * sizeof(float));
    bool ok = (g.x && g.y && b->backend->reserve(b->dev, &need)) ||
              fail_code(err, EXIT_CODE_NO_DEVICE, "out of memory for %zu floats", 2 * g.width);
    if (ok)
        b->backend->fill_random(b->dev, g.x, g.width, DTYPE_F32, sqrtf(3.0f), 5);
    for (g.part = 0; ok && g.part < N_PARTS; g.part++)
        ok = measure_part(&g, result, &bytes, &us, err);
    if (ok) {
        json_set_number(result, "all_us", us);
        json_set_number(result, "all_share_of_bandwidth", bytes / us * 1e6 / b->bytes_per_s);
    }
    b->backend->release(b->dev, g.x);
    b->backend->release(b->dev, g.y);
    model_close(g.model);
    return ok;
}
