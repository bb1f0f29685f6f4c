/* One attention call on the cpu and the cuda backend, its selections side by side. */
#ifndef ATTNSCOPE_TESTS_SELECTION_PAIR_H
#define ATTNSCOPE_TESTS_SELECTION_PAIR_H

#include "tests/cuda_case.h"

/* One call on both backends. */
struct selection_pair {
    struct attention_case c;
    struct cuda_case cuda;
    struct attention att[N_PAIR];
    struct selection *sel[N_PAIR];
    int32_t *keys[N_PAIR];
    float *prob[N_PAIR];
};

#define BOTH(p, operation, ...)                                                                    \
    for (int side = 0; side < N_PAIR; side++)                                                      \
    pair.backend[side]->operation(pair.dev[side], (p)->sel[side], &(p)->att[side], ##__VA_ARGS__)

/* Queries and keys become integers: -1 .. 1, and -spread .. spread. */
static inline void make_exact(struct attention_case *c, int spread)
{
    struct attention *att = &c->att;
    uint64_t random = 99 + (uint64_t)spread;
    for (int row = 0; row < att->n_rows; row++)
        for (int i = 0; i < att->n_heads * att->kv.head_dim; i++)
            c->q[(size_t)row * (size_t)att->q_stride + (size_t)i] =
                (float)((int)(case_random(&random) % 3) - 1);
    for (int s = 0; s < KV_SEGMENTS; s++) {
        size_t n = (size_t)att->kv.n_kv_heads * (size_t)att->kv.capacity[s];
        for (size_t i = 0; i < n * (size_t)att->kv.head_dim; i++) {
            float x = (float)((int)(case_random(&random) % (2u * (unsigned)spread + 1)) - spread);
            if (att->kv.dtype == DTYPE_BF16)
                ((uint16_t *)c->k[s])[i] = f32_to_bf16(x);
            else
                ((float *)c->k[s])[i] = x;
        }
    }
    att->scale = 0.125f;
}

/* Copies the case as it is now and opens both selections. */
static inline void pair_start(struct selection_pair *p)
{
    cuda_case_open(&p->cuda, &p->c);
    p->att[PAIR_CPU] = p->c.att;
    p->att[PAIR_CUDA] = p->cuda.att;
    for (int i = 0; i < N_PAIR; i++) {
        const struct attention *att = &p->att[i];
        p->sel[i] = pair.backend[i]->selection_open(pair.dev[i], att->n_rows, att->n_heads,
                                                    att->kv.n_kv_heads, att->max_keys);
        assert_non_null(p->sel[i]);
        p->keys[i] = calloc((size_t)att->max_keys, sizeof *p->keys[i]);
        p->prob[i] = calloc((size_t)att->max_keys, sizeof *p->prob[i]);
    }
    BOTH(p, selection_begin);
}

/* spread 0: random values. */
static inline void pair_start_case(struct selection_pair *p, const struct case_shape *shape,
                                   uint64_t seed, int spread)
{
    case_open(&p->c, shape, seed);
    if (spread)
        make_exact(&p->c, spread);
    pair_start(p);
}

static inline void pair_finish(struct selection_pair *p)
{
    pair_sync();
    for (int i = 0; i < N_PAIR; i++) {
        pair.backend[i]->selection_close(pair.dev[i], p->sel[i]);
        free(p->keys[i]);
        free(p->prob[i]);
    }
    cuda_case_close(&p->cuda);
    case_close(&p->c);
}

/* For each of the including file's shapes [N_SHAPES]. */
#define FOR_EACH_SHAPE(p, spread)                                                                  \
    for (int shape = 0, open = 1; shape < N_SHAPES; shape++, open = 1)                             \
        for (pair_start_case(&(p), &shapes[shape], (uint64_t)shape + 1, spread); open;             \
             pair_finish(&(p)), open = 0)

static inline int get(struct selection_pair *p, int side, int row, int head)
{
    return pair.backend[side]->selection_get(pair.dev[side], p->sel[side], row, head, p->keys[side],
                                             p->prob[side]);
}

/* Ends both selections; lists and probabilities must be equal. */
static inline void check_equal(struct selection_pair *p, const char *what)
{
    const struct attention *att = &p->att[PAIR_CPU];
    BOTH(p, selection_end);
    pair_sync();
    for (int row = 0; row < att->n_rows; row++)
        for (int head = 0; head < att->n_heads; head++) {
            int n = get(p, PAIR_CPU, row, head), n_cuda = get(p, PAIR_CUDA, row, head);
            for (int i = 0; i < n && i < n_cuda; i++)
                if (p->keys[0][i] != p->keys[1][i] || p->prob[0][i] != p->prob[1][i])
                    fail_msg("%s: K %d row %d head %d entry %d: cpu key %d p %.9g, cuda key %d p "
                             "%.9g",
                             what, att->max_keys, row, head, i, p->keys[0][i],
                             (double)p->prob[0][i], p->keys[1][i], (double)p->prob[1][i]);
            if (n != n_cuda)
                fail_msg("%s: K %d row %d head %d: %d keys on the cpu, %d on cuda", what,
                         att->max_keys, row, head, n, n_cuda);
        }
}

static inline struct budget count(int n)
{
    return (struct budget){false, n};
}

static inline struct budget fraction(double f)
{
    return (struct budget){true, f};
}

/* Both lists are as long, and keys that only one has score within `most` of the other's worst. */
static inline void check_near(struct selection_pair *p, int row, int head, const double *scores,
                              double most)
{
    int n = get(p, PAIR_CPU, row, head), n_cuda = get(p, PAIR_CUDA, row, head);
    double worst = INFINITY;
    assert_int_equal(n, n_cuda);
    for (int i = 0; i < n; i++)
        worst = fmin(worst, scores[p->keys[PAIR_CPU][i]]);
    for (int i = 0, j = 0; i < n || j < n;) {
        int cpu = i < n ? p->keys[PAIR_CPU][i] : INT32_MAX;
        int cuda = j < n ? p->keys[PAIR_CUDA][j] : INT32_MAX;
        int odd = cpu < cuda ? cpu : cuda;
        i += cpu <= cuda;
        j += cuda <= cpu;
        if (cpu != cuda && !(fabs(scores[odd] - worst) <= most))
            fail_msg("row %d head %d: key %d of score %.7f is on %s only, worst %.7f", row, head,
                     odd, scores[odd], odd == cpu ? "cpu" : "cuda", worst);
    }
}

#endif
