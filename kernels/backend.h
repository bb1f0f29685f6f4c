/* What a device can do: one table of operations, the same for every backend.
 *
 * The forward pass and the maskers are written once against this table.  Operations are enqueued:
 * they return void, allocate nothing and never wait.  Everything that changes from step to step
 * (lengths, positions, seeds) is read from a struct step_state in device memory, so that a backend
 * may capture one step and replay it.  A failure inside an operation is latched; the next sync
 * reports it and until then every operation is a no-op.  One thread calls a device at a time.
 *
 * "Device memory" is what alloc gives; on the cpu backend it is host memory.  Pointers marked
 * (device) below point there.  Descriptors (struct linear, struct attention, ...) live on the host
 * and are read before the call returns. */
#ifndef ATTNSCOPE_KERNELS_BACKEND_H
#define ATTNSCOPE_KERNELS_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum dtype { DTYPE_F32, DTYPE_F16, DTYPE_BF16 };

static inline size_t dtype_bytes(enum dtype dtype)
{
    return dtype == DTYPE_F32 ? 4 : 2;
}

struct device; /* opaque: one open device of one backend */

enum device_isa { DEVICE_ISA_AUTO, DEVICE_ISA_REFERENCE, DEVICE_ISA_AVX2, DEVICE_ISA_AVX512 };

struct device_options {
    int n_threads; /* cpu: threads of the pool, 0 for one per available processor */
    /* Products in f32 throughout, as the parity tests want; otherwise prefill may round
     * activations to bf16 where the processor multiplies bf16. */
    bool exact;
    enum device_isa isa; /* cpu: the newest instruction set that may be used */
};

struct device_info {
    char name[128]; /* e.g. "AMD EPYC, 2 threads, AVX-512 BF16" */
    int n_threads;
    uint64_t total_bytes, free_bytes; /* memory of the device now; 0: unknown */
    int max_rows;                     /* rows of one call that suit the device */
    double chunk_flops; /* work of one prefill chunk after which a cancel is still prompt */
};

/* --- Weights ----------------------------------------------------------------------------- */

/* y = x W^T + bias.   w [n_out, n_in] row-major (device);  bias [n_out] f32 (device) or NULL. */
struct linear {
    const void *w;
    enum dtype dtype;
    const float *bias;
    int n_out, n_in;
};

enum norm_kind {
    NORM_RMS,  /* x * rsqrt(mean(x^2) + eps) * weight */
    NORM_LAYER /* (x - mean) * rsqrt(var + eps) * weight + bias */
};

struct norm {
    enum norm_kind kind;
    const float *weight; /* [dim] f32 (device) */
    const float *bias;   /* [dim] f32 (device), NORM_LAYER only; else NULL */
    float eps;
};

enum activation {
    ACTIVATION_NONE,
    ACTIVATION_SWIGLU, /* w holds gate rows then up rows: y [n_out/2] = silu(gate) * up */
    ACTIVATION_GELU_TANH,
    ACTIVATION_GELU_ERF,
    ACTIVATION_RELU
};

/* Rotary embedding in the "rotate half" layout over the first n_rot elements of each head.
 * Source: Su et al. 2021; layout as transformers. */
struct rope {
    const float *inv_freq; /* [n_rot / 2] f32 (device); NULL: no rotation (GPT-2) */
    int n_rot;
};

/* --- A step and the KV cache -------------------------------------------------------------- */

/* (device) What an operation must know of the moment.  Row i of a call has position
 * n_context + n_tail + i and sees the keys up to and including itself. */
struct step_state {
    int32_t n_context;   /* keys in the context segment before this call's rows */
    int32_t n_tail;      /* keys in the tail segment before this call's rows */
    int32_t append_tail; /* this call's rows are appended to: 0 the context, 1 the tail */
    uint32_t step;       /* counts a lane's calls: a coordinate of randomness */
    uint64_t seed;
};

enum kv_segment { KV_CONTEXT, KV_TAIL, KV_SEGMENTS };

/* One layer's keys and values: the shared context, then the lane's own tail.  Key j is row j of
 * the context if j < n_context (+ rows appended there), else row j - n_context of the tail.
 *   k, v [n_kv_heads, capacity, head_dim], dtype F32 or BF16 (device) */
struct kv_layer {
    void *k[KV_SEGMENTS], *v[KV_SEGMENTS];
    int capacity[KV_SEGMENTS];
    enum dtype dtype;
    int n_kv_heads, head_dim;
};

/* --- Attention ---------------------------------------------------------------------------- */

/* (device) What attention calls count; added to, never reset, by the operations.  Units: a key
 * for one query head and row ("head key"), a K/V row read for one KV head and query row. */
struct attention_counts {
    uint64_t selected;     /* head keys attended to */
    uint64_t visible;      /* head keys that dense attention would attend to */
    uint64_t rows_read;    /* K/V row pairs read by attention (union over a group's heads) */
    uint64_t rows_visible; /* K/V row pairs that dense attention would read */
    uint64_t score_rows;   /* K rows (or half pairs) read for scoring only, in K/V row halves */
    uint64_t rescued;      /* (head, row)s with nothing selected that attended to their own key */
    uint64_t full;         /* calls that a masker declared full: dense */
    uint64_t calls;
};

/* One attention call: the rows of one layer.  out = softmax(scale * q k^T) v over visible keys.
 * Query head h reads KV head h / (n_heads / n_kv_heads).  Row i sees key j if
 * first_key <= j <= position(i), and position(i) - j < window when window > 0.
 *
 * A large call may be run in pieces: a piece holds rows [row_offset, row_offset + n_rows) of a
 * call of n_rows_total rows, all of which are appended already.  So
 *   position(i) = n_context + n_tail + row_offset + i,
 *   Q = n_rows_total, or n_rows when that is 0,
 *   K = n_context + n_tail + Q: the length against which budgets are resolved. */
struct attention {
    float *out;     /* [n_rows, n_heads, head_dim] (device) */
    const float *q; /* [n_rows, n_heads, head_dim], rows q_stride floats apart (device) */
    int q_stride;
    int n_rows, n_heads;
    int n_rows_total, row_offset;    /* 0, 0: the call is whole */
    struct kv_layer kv;              /* this call's rows are already appended */
    const struct step_state *step;   /* (device), as before this call's rows */
    struct attention_counts *counts; /* (device), or NULL */
    const float *sink_logits;        /* [n_heads] (device): an extra logit without value; or NULL */
    float scale;
    int window;    /* sliding window in keys, itself included; 0: none */
    int first_key; /* keys before it are padding and not visible */
    int layer;     /* a coordinate of randomness */
    int max_keys;  /* host's upper bound of K, for grids and workspaces */
};

/* A number of keys: a count, or a fraction of K.  e = trunc(fraction * K) in double, or count. */
struct budget {
    bool is_fraction;
    double value;
};

enum share {
    SHARE_HEAD, /* each query head chooses its own keys */
    SHARE_GROUP /* one choice per KV group, by the sum of its heads' scores */
};

/* (device object) What the maskers chose for the rows of one attention call: a few ranges per
 * row, and per row and query head an ascending list of keys outside the ranges, each with its
 * inclusion probability p; then, per row and KV head, the union of the group's lists, so that a
 * K/V row is read once.  Or `full`: every visible key. */
struct selection;

/* --- Indexes over keys --------------------------------------------------------------------- */

/* What maskers keep of the keys, so that they need not read them all at each step. */
enum key_index_kind {
    INDEX_HASH,     /* bits per key and query head by small networks: HashAttention */
    INDEX_PAGES,    /* bounds of pages of keys: Quest */
    INDEX_CHANNELS, /* a few elements of each key per query head: DoubleSparsity */
    INDEX_CODES,    /* the nearest of a few centroids for each part of a key: PQCache */
    INDEX_BUCKETS,  /* a key's buckets in tables of random planes, scored softly: SOCKET */
    INDEX_TABLES,   /* the same, for keys that share a bucket with the query: MagicPig */
    N_INDEX_KINDS
};

enum { HASH_MAX_LINEARS = 4, HASH_MAX_WIDTH = 512, HASH_MAX_BITS = 256 };
enum hash_activation { HASH_SILU, HASH_RELU, HASH_GELU_ERF, HASH_TANH };
enum hash_side { HASH_QUERY, HASH_KEY, HASH_SIDES };

/* The networks of INDEX_HASH, one per side, layer and query head: x = act(x W + b) for all linears
 * but the last, which has no activation; then bit i is set where x_i > 0.  Bits are packed into
 * words of 32, bit i at 1 << i % 32 of word i / 32.  A key is hashed once for each query head of
 * its KV head.  The score is bits - 2 * Hamming distance.
 * Source: Desai et al. 2024, "HashAttention", arXiv 2412.14468. */
struct hash_networks {
    int n_linears;                   /* 1 .. HASH_MAX_LINEARS */
    int width[HASH_MAX_LINEARS + 1]; /* [0] is head_dim, [n_linears] the number of bits */
    enum hash_activation activation;
    /* Host memory, read by index_open alone, which may keep it narrower where that is exact.
     *   w [n_layers, n_heads, width[i], width[i + 1]]   b [n_layers, n_heads, width[i + 1]] */
    const float *w[HASH_SIDES][HASH_MAX_LINEARS], *b[HASH_SIDES][HASH_MAX_LINEARS];
};

/* The pages of INDEX_PAGES: page p is keys [p page_size, (p + 1) page_size), of which it keeps the
 * smallest and largest value per element, for each KV head.  The score of a page is
 * scale * sum_d max(q_d lo_d, q_d hi_d).  Bounds are over all keys of the page that are there, the
 * call's own rows included, whether a row sees them or not.  Below 16 bits, lo and hi are each
 * rounded to 2^label_bits steps between their smallest and largest element, in f32 and with halves
 * to even: level = (x - least) * (top * (1 / range)), top = 2^label_bits - 1.
 * Source: Tang et al. 2024, "Quest", arXiv 2406.10774. */
struct key_pages {
    int page_size;  /* >= 1 */
    int label_bits; /* 1 .. 16; 16: as they are */
};

/* The labels of INDEX_CHANNELS: of a key, for each query head of its KV head, the n_channels
 * elements that `channels` names; of a query, the same of its own.  Below 16 bits a label is
 * rounded over its own range, as bounds of pages are.  The score is
 * label(q) label(k) / sqrt(n_channels).
 * Source: Yang et al. 2024, "Post-Training Sparse Attention with Double Sparsity",
 * arXiv 2408.07092. */
struct key_channels {
    int n_channels; /* 1 .. head_dim */
    int label_bits; /* 1 .. 16; 16: as they are */
    /* [n_layers, n_heads, n_channels] elements, 0 .. head_dim - 1.  Host memory, read by index_open
     * alone. */
    const int16_t *channels;
};

/* The codes of INDEX_CODES: a key's elements are cut into n_parts runs of head_dim / n_parts, and
 * of each run the number of the nearest of 2^code_bits centroids is kept (ties to the lower
 * number), for each layer and KV head.  Keys before first_key have no code.
 *   Centroids come from k-means (Lloyd, squared Euclidean distance, f32) over the keys that are
 * there at the first update that leaves at least 2^code_bits keys to be coded, and stay as they are
 * while those keys do; they start at distinct keys drawn by (seed, layer, KV head, part), an empty
 * cluster starts again at a drawn key, and each problem ends by itself after max_rounds, or once
 * the square of its centroids' summed shifts is under 1e-4.
 *   CODES_INNER appends sqrt(phi - |x|^2) to each run x, phi the largest |x|^2 of the clustered
 * keys (0 where that is negative), so that the nearest centroid is the one of the largest inner
 * product; scores leave it out.  The score is scale * sum over parts of q_part centroid.
 * Source: Zhang et al. 2024, "PQCache", arXiv 2407.12820. */
enum code_metric { CODES_EUCLIDEAN, CODES_INNER };

struct key_codes {
    int n_parts;   /* divides head_dim */
    int code_bits; /* 1 .. 12 */
    int max_rounds;
    int first_key;
    enum code_metric metric;
    uint64_t seed;
    /* [n_layers, n_kv_heads, n_parts, 2^code_bits, head_dim / n_parts (+ 1: CODES_INNER)], in place
     * of k-means; NULL: none.  phi [n_layers, n_kv_heads, n_parts] then comes along for
     * CODES_INNER.  Host memory, read by index_open alone. */
    const float *centroids, *phi;
};

/* The buckets of INDEX_BUCKETS: in each of n_tables tables a key's bucket is the n_bits signs of
 * its products with n_bits planes (bit p: w_p k >= 0), for each layer and KV head.  The query's own
 * signs are soft: h_p = tanh(w_p q) / sqrt(head_dim), and bucket b has probability
 * prod_p sigmoid(2 c_p h_p / tau), c_p = +1 where bit p of b is set, else -1.  The score of a key
 * is |v| times the sum over tables of its bucket's probability.
 * Source: "SOCKET", arXiv 2602.06283, in closed form. */
struct key_buckets {
    int n_tables; /* 1 .. 128 */
    int n_bits;   /* 1 .. 32 */
    float tau;
    /* [n_planes, n_tables, n_bits, head_dim], n_planes 1 (all layers alike) or n_layers.  Host
     * memory, read by index_open alone. */
    const float *planes;
    int n_planes;
};

/* The tables of INDEX_TABLES: in each of n_tables tables a key's code is the n_bits signs of its
 * products with n_bits planes (bit p: w_p k' > 0), for each layer and KV head; the query has its
 * own.  k' = [x / N, sqrt(N^2 - |x|^2) / N] and q' = [x / (|x| + 1e-8), 0] are unit vectors, where
 * x is the key or query, less the mean key as `center` says, and N the largest |x| of the keys.
 * Mean and N are those of the keys that are there at the layer's first update, for each KV head,
 * and stay as they are while those keys do; a longer key that comes later counts as one of length
 * N. Source: Chen et al. 2024, "MagicPIG", arXiv 2410.16179; the transform: Neyshabur and Srebro
 * 2015. */
enum key_center { CENTER_NONE, CENTER_KEYS, CENTER_BOTH };

struct key_tables {
    int n_tables; /* 1 .. 512 */
    int n_bits;   /* 1 .. 64 */
    int min_hits; /* 1 or 2: tables in which a key must share the query's code */
    enum key_center center;
    /* [n_layers, head_dim + 1, n_tables * n_bits].  Host memory, read by index_open alone. */
    const float *projections;
    /* [n_layers, n_kv_heads, head_dim] and [n_layers, n_kv_heads], in place of the first keys'; or
     * NULL.  Host memory as well. */
    const float *mean, *norm;
};

struct key_index_config {
    enum key_index_kind kind;
    int n_layers, n_heads, n_kv_heads, head_dim;
    int max_keys;
    enum dtype kv_dtype;          /* of the keys */
    struct hash_networks hash;    /* INDEX_HASH */
    struct key_pages pages;       /* INDEX_PAGES */
    struct key_channels channels; /* INDEX_CHANNELS */
    struct key_codes codes;       /* INDEX_CODES */
    struct key_buckets buckets;   /* INDEX_BUCKETS */
    struct key_tables tables;     /* INDEX_TABLES */
};

/* (device object) An index over the keys of one lane, all layers; see index_update. */
struct key_index;

/* --- Sampling with a guarantee -------------------------------------------------------------- */

/* How the keys beside the base sample are drawn, b of the keys R' that are neither selected nor in
 * it; P is softmax(z / temperature) over R', of a group the mean of its heads'. */
enum draw_mode {
    DRAW_UNIFORM,     /* without replacement, p = b / |R'| */
    DRAW_MULTINOMIAL, /* b times from P, p = 1 - (1 - P)^b */
    DRAW_GUMBEL /* the b largest ln P + Gumbel noise; p = 1 - exp(-exp(ln P - kappa)), kappa the
                   next largest */
};

/* How many keys select_adaptive draws of R, the visible keys of [init_offset, K - local_offset) not
 * yet selected (both resolved against K; where there is none for any row, nothing is done).  A base
 * sample of n0 keys (n0 = base, or trunc(base |R|) of a fraction; at least 2, at most |R|) is drawn
 * uniformly, without replacement, and selected with p = 1.  With u = exp(z - m), m the largest z
 * among the selected and drawn keys, it estimates, in f64:
 *   D = sum over selected keys u / p + |R| / n0 sum over drawn keys u
 *   sigma = the drawn u's sample standard deviation
 *   b = ceil((Phi^-1(1 - delta / 2) sigma (|R| - n0) / (epsilon D))^2), at least n0
 * one_sided: 1 - delta.  b of the |R| - n0 others are drawn as the mode says; all, p = 1, where
 * there are no more.  One weight for both samples would bias the sums, since b depends on what the
 * base sample held; with p = 1 for it they are unbiased whatever b is.
 *   The base sample is the images of 0 .. n0 - 1 under select_random's permutation of R, and
 * DRAW_UNIFORM goes on with the next b.  z is att->scale times a product that is summed in f32 in
 * one order, so that b is the same number on every device: element d of a head goes to partial sum
 * d mod 16, by fused multiply-adds in rising d; then partial sums whose numbers differ in bit 1 are
 * added, then bit 0, bit 2, bit 3.  A key that only some heads of a group have counts 0 among those
 * heads' u.
 * Source: Desai et al. 2025, "vAttention", arXiv 2510.05688, eq. of the denominator's budget;
 * spec: the reference's estimator corrected. */
struct adaptive_sampling {
    struct budget base, init_offset, local_offset;
    double epsilon, delta; /* in (0, 1) */
    bool one_sided;
    enum draw_mode mode;
    double temperature; /* > 0, of the modes that are not uniform */
};

/* (device) What a probe measures for one attention call; see the operation. */
struct attention_probe {
    float *recall; /* [n_rows, n_heads] dense softmax mass on selected keys (device) */
    float *error;  /* [n_rows, n_heads, 2]: |o_sparse - o_dense|^2 and |o_dense|^2 (device) */
};

/* --- Choosing a token --------------------------------------------------------------------- */

struct sampling {
    float temperature; /* <= 0: greedy */
    float top_p;       /* 1: off */
    float min_p;       /* 0: off */
    int top_k;         /* 0: off */
};

enum { PICK_TOP = 8 };

/* (device) The chosen token and the best candidates, by falling logit, then rising id. */
struct pick {
    int32_t token;
    float logit;       /* of token, raw */
    float log_sum_exp; /* over the raw logits: logprob of i = logit[i] - log_sum_exp */
    int32_t n_top;
    int32_t top_ids[PICK_TOP];
    float top_logits[PICK_TOP];
};

/* Operations that were recorded once, to be replayed as one; see record_begin. */
struct recording;

/* Largest sizes that will be asked of the operations, to size workspaces. */
struct workspace_need {
    int max_rows;  /* rows of one call */
    int max_width; /* largest n_in or n_out of a linear other than the vocabulary's */
    int n_heads, n_kv_heads, head_dim;
    int max_keys;
};

/* --- The table ---------------------------------------------------------------------------- */

struct backend {
    const char *name;    /* "cpu", "cuda" */
    bool draws_by_score; /* select_adaptive has modes beside DRAW_UNIFORM */

    /* NULL on failure with the reason, one sentence, in why [n_why]. */
    struct device *(*open)(const struct device_options *options, char *why, size_t n_why);
    void (*close)(struct device *dev);
    void (*describe)(struct device *dev, struct device_info *out);

    /* Memory.  alloc gives zeroed memory aligned to 64 bytes, or NULL.  upload may be enqueued but
     * has read `from` when it returns; download waits until its bytes are there. */
    void *(*alloc)(struct device *dev, size_t n_bytes);
    void (*release)(struct device *dev, void *p);
    void (*upload)(struct device *dev, void *to, const void *from, size_t n_bytes);
    void (*download)(struct device *dev, void *to, const void *from, size_t n_bytes);
    /* From device memory to device memory, enqueued; the two do not overlap. */
    void (*copy)(struct device *dev, void *to, const void *from, size_t n_bytes);
    /* Waits for all that was enqueued.  False if an operation failed, with the reason. */
    bool (*sync)(struct device *dev, char *why, size_t n_why);
    /* True once the device is beyond repair in this process: every later call fails.  NULL: never
     * happens. */
    bool (*lost)(struct device *dev);
    /* Sizes the workspaces; call again when the need grows.  False: out of memory. */
    bool (*reserve)(struct device *dev, const struct workspace_need *need);

    /* Clock: time_mark enqueues a mark; time_between waits for both and gives microseconds. */
    void (*time_mark)(struct device *dev, int slot); /* 0 <= slot < 64 */
    double (*time_between_us)(struct device *dev, int from_slot, int to_slot);

    /* Recording; all NULL where a device gains nothing by it.  Between record_begin and record_end
     * operations are not run but recorded; memory, upload, download, sync, time and reserve may not
     * be called.  replay enqueues them again, with what their device memory holds then.
     * record_end gives NULL on failure (latched). */
    bool (*record_begin)(struct device *dev);
    struct recording *(*record_end)(struct device *dev);
    void (*replay)(struct device *dev, struct recording *recording);
    void (*recording_close)(struct device *dev, struct recording *recording);

    /* x [n_rows, dim] = table[tokens[i]] (+ positions[position(i)] if positions is not NULL).
     * tokens [n_rows] (device). */
    void (*embed)(struct device *dev, float *x, const struct linear *table,
                  const struct linear *positions, const int32_t *tokens,
                  const struct step_state *step, int n_rows);
    /* y [n_rows, n_out or n_out/2] = activation(norm(x) W^T + bias).  norm may be NULL.
     * y and x do not overlap. */
    void (*norm_linear)(struct device *dev, float *y, const float *x, const struct norm *norm,
                        const struct linear *w, enum activation activation, int n_rows);
    /* x [n_rows, n_out] += y [n_rows, n_in] W^T + bias. */
    void (*linear_add)(struct device *dev, float *x, const float *y, const struct linear *w,
                       int n_rows);
    /* qkv [n_rows, (n_heads + 2 n_kv_heads) * head_dim]: normalises each q and k head (q_norm,
     * k_norm [head_dim], NULL: none), rotates q and k in place, and appends k and v to the segment
     * that step->append_tail names. */
    void (*rotate_append)(struct device *dev, float *qkv, int n_heads, const struct kv_layer *kv,
                          const struct rope *rope, const struct norm *q_norm,
                          const struct norm *k_norm, const struct step_state *step, int n_rows);
    /* Chooses a token from logits [vocab_size] (device).  Random numbers depend on (seed, step)
     * alone, so that lanes that share them draw alike. */
    void (*pick)(struct device *dev, struct pick *out, const float *logits, int vocab_size,
                 const struct sampling *sampling, const struct step_state *step);
    /* Goes on to the next token: *before = *step, *token = chosen->token, log[step->step % n_log] =
     * *chosen; then step->n_tail and step->step rise by one.  All (device); log [n_log]. */
    void (*advance)(struct device *dev, struct step_state *step, struct step_state *before,
                    int32_t *token, const struct pick *chosen, struct pick *log, int n_log);
    /* *out = KL(softmax(p) || softmax(q)) in nats; p, q [vocab_size] logits (device), out (device).
     */
    void (*kl_divergence)(struct device *dev, float *out, const float *p, const float *q,
                          int vocab_size);

    void (*attend_dense)(struct device *dev, const struct attention *att);

    /* Selections.  Order: selection_begin, select_*..., selection_end, then attend_selected and
     * probe.  max_rows is the largest att->n_rows.  NULL: out of memory. */
    struct selection *(*selection_open)(struct device *dev, int max_rows, int n_heads,
                                        int n_kv_heads, int max_keys);
    void (*selection_close)(struct device *dev, struct selection *sel);
    void (*selection_begin)(struct device *dev, struct selection *sel, const struct attention *att);
    void (*selection_end)(struct device *dev, struct selection *sel, const struct attention *att);
    /* Keys [0, e), where visible; full if K <= e.  Source: Xiao et al. 2023 (StreamingLLM). */
    void (*select_sink)(struct device *dev, struct selection *sel, const struct attention *att,
                        struct budget size);
    /* The e keys up to and including the row's own; full if K <= e + Q. */
    void (*select_local)(struct device *dev, struct selection *sel, const struct attention *att,
                         struct budget size);
    /* True scores scale * q k, f32, of all visible keys into the selection's score buffer. */
    void (*score_exact)(struct device *dev, struct selection *sel, const struct attention *att);
    /* From the score buffer: the e best keys not yet selected (fewer if fewer remain), ties to the
     * lower index; full if K <= e. */
    void (*select_top_k)(struct device *dev, struct selection *sel, const struct attention *att,
                         struct budget size, enum share share);
    /* From the score buffer, logit_scale > 0 times which are logits: the fewest best keys not yet
     * selected whose softmax mass exceeds top_p of the mass of the keys not yet selected (of_total:
     * of all visible keys, counting what is already selected); keys that tie with the last are all
     * taken.  But at most e keys of `most`, ties to the lower index; a count of 0: no limit, and
     * then full if top_p >= 1.  SHARE_GROUP ranks by the mean of the heads' masses.  Masses are
     * f32, their sums f64.
     * Source: Lin et al. 2025, "Twilight", arXiv 2502.02770. */
    void (*select_top_p)(struct device *dev, struct selection *sel, const struct attention *att,
                         double top_p, bool of_total, struct budget most, float logit_scale,
                         enum share share);
    /* n = min(|R|, trunc(rate K)) keys of R, the visible keys not yet selected, uniformly without
     * replacement, each with p = n / |R|.  Draws depend on (seed, slot, layer, head, position). */
    void (*select_random)(struct device *dev, struct selection *sel, const struct attention *att,
                          double rate, int slot, enum share share);
    /* Explicit lists, for tests and forced selections, in place of a select_*: for row and head,
     * keys [n] ascending and prob [n] (NULL: all 1), host arrays. */
    void (*selection_put)(struct device *dev, struct selection *sel, int row, int head,
                          const int32_t *keys, const float *prob, int n);
    /* After selection_end: what is selected for row and head, ascending, into host arrays keys and
     * prob [max_keys]; returns the count, or -1 if the call is full. */
    int (*selection_get)(struct device *dev, const struct selection *sel, int row, int head,
                         int32_t *keys, float *prob);

    /* out = sum w exp(z) v / sum w exp(z) over selected keys, w = 1/p.  A (row, head) with nothing
     * selected attends to its own key.  Reads each selected K/V row once per KV head. */
    void (*attend_selected)(struct device *dev, const struct attention *att,
                            const struct selection *sel);
    /* Compares att->out (already computed from sel) with dense attention of the same q, k, v. */
    void (*probe)(struct device *dev, const struct attention *att, const struct selection *sel,
                  const struct attention_probe *out);

    /* For benchmarks: p [n] (device) = uniform numbers in [-scale, scale), the same on every
     * backend for the same seed. */
    void (*fill_random)(struct device *dev, void *p, size_t n, enum dtype dtype, float scale,
                        uint64_t seed);
    /* For benchmarks: bytes/s of a sequential read of a buffer larger than the caches, and
     * flop/s of f32 multiply-adds and of the fastest product prefill may use. */
    double (*measure_read_bandwidth)(struct device *dev);
    /* The same of existing memory p [n_bytes] (device), read once: where memory lies decides how
     * fast it is, so that what reads weights is best held to a plain read of these weights. */
    double (*measure_read_of)(struct device *dev, const void *p, size_t n_bytes);
    double (*measure_peak_flops)(struct device *dev);

    /* Indexes over keys.  An index belongs to one lane and is
     * empty at first.  index_open copies what it needs of config; NULL on failure with the reason,
     * one sentence, in why [n_why]: out of memory, or a kind that this backend has not. */
    struct key_index *(*index_open)(struct device *dev, const struct key_index_config *config,
                                    char *why, size_t n_why);
    void (*index_close)(struct device *dev, struct key_index *index);
    /* About the bytes of device memory that index_open takes; weights and channels may be
     * NULL here. */
    uint64_t (*index_bytes)(struct device *dev, const struct key_index_config *config);
    /* Brings layer att->layer of the index up to all K keys of the call, for whole calls
     * (row_offset 0).  Of att only kv, step, the row counts, layer and max_keys are read, and
     * n_rows may be 0: keys that are there without a query, as a context that was prefilled.
     *   The call's own rows, keys n_context + n_tail and on, are always indexed; of those before,
     * the ones that the layer has not seen.  What the layer knew of keys from n_context + n_tail on
     * is forgotten: a question that rewinds to the context, or a call that is run once more. */
    void (*index_update)(struct device *dev, struct key_index *index, const struct attention *att);
    /* The index's scores for every row and query head into the selection's score buffer: one per
     * visible key (INDEX_HASH, INDEX_CHANNELS, INDEX_CODES, INDEX_BUCKETS; select_top_k chooses by
     * them), or one per page that has a visible key, page p at entry p (INDEX_PAGES; select_pages).
     * The index is up to date.  The choice that follows is made among visible keys not yet
     * selected; after INDEX_CODES only from its first_key on; after INDEX_BUCKETS among all visible
     * keys, whatever is selected already. */
    void (*score_index)(struct device *dev, struct selection *sel, const struct key_index *index,
                        const struct attention *att);
    /* From page scores: the max(3, e / page_size) best pages that a row sees a key of (fewer if
     * there are fewer), ties to the lower page, and of each the keys that it sees, with p = 1.
     * Pages are chosen whatever is selected already; full if K <= e.
     *   top_p > 0: of these only the fewest best whose softmax mass exceeds top_p of that of all
     * pages that the row sees a key of, at least one, as select_top_p ranks and sums them; not full
     * where K <= e.  A page counts page_size times exp(its score), whether it is short or not, so
     * that page_size itself cancels.  0: off. */
    void (*select_pages)(struct device *dev, struct selection *sel, const struct attention *att,
                         struct budget size, int page_size, double top_p, enum share share);
    /* Selects nothing, but full if K - Q <= e + more: a budget for all keys before the call's
     * own but `more` of them.  A no-op where e = 0. */
    void (*select_if_short)(struct device *dev, struct selection *sel, const struct attention *att,
                            struct budget size, int more);
    /* The visible keys not yet selected that share the query's code in at least min_hits tables of
     * INDEX_TABLES, each with the probability of that, by the angle between q' and k': with
     * t = (1 - angle / pi)^n_bits, p = 1 - (1 - t)^n_tables, less n_tables t (1 - t)^(n_tables - 1)
     * for two hits. */
    void (*select_matches)(struct device *dev, struct selection *sel, const struct key_index *index,
                           const struct attention *att);
    /* A random sample as large as a relative error of at most epsilon in the softmax denominator
     * asks for, with probability 1 - delta.  Draws depend on what select_random's depend on; one
     * choice per `share`: a group's heads draw the same keys, as many as the neediest asks for.
     * Modes that are not uniform read the score buffer, where score_exact left all true scores. */
    void (*select_adaptive)(struct device *dev, struct selection *sel, const struct attention *att,
                            const struct adaptive_sampling *sampling, int slot, enum share share);
    /* What `from`, another selection of the same heads but maybe another max_rows, holds of another
     * call of the same rows and keys, after its selection_end: first what this call's rows see of
     * its ranges is added, as select_sink adds its own, then what they see of its lists, keys not
     * yet selected alone, with their probabilities.  Full if it is full. */
    void (*select_again)(struct device *dev, struct selection *sel, const struct attention *att,
                         const struct selection *from);
};

extern const struct backend backend_cpu;

/* What a module exports as `attnscope_backend`: its table, if it was built for this interface. */
enum { BACKEND_INTERFACE = 6 };
typedef const struct backend *backend_module(int interface);

/* Names of the backends, in order of preference, NULL-terminated. */
extern const char *const backend_names[];
/* The backend's table; NULL with the reason in why [n_why] if this machine cannot load it.  The
 * cuda backend is a module, loaded at the first call and never unloaded: $ATTNSCOPE_CUDA_MODULE, or
 * attnscope-cuda.so beside the program, or in its library folder. */
const struct backend *backend_find(const char *name, char *why, size_t n_why);

/* Opens the named backend, or the first that works for "auto".  On failure returns NULL with the
 * reason of each backend tried.  On success why holds the reasons of those that come before. */
struct device *backend_open(const char *name, const struct device_options *options,
                            const struct backend **backend, char *why, size_t n_why);

#endif
