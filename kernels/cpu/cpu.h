/* The cpu backend from the inside: the device, its threads, and the operations by file.
 *
 * The idea to hold: an operation splits its work into tasks, cpu_parallel runs them over the pool,
 * and the inner loops come in one version per instruction set, chosen once at open.  Everything
 * an operation needs beyond its arguments is a workspace (one per purpose, shared by the tasks) or
 * a scratch (one per thread). */
#ifndef ATTNSCOPE_KERNELS_CPU_CPU_H
#define ATTNSCOPE_KERNELS_CPU_CPU_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/backend.h"

struct cpu_pool;
struct linear_kernels;
struct linear_products;

/* Each level includes the ones before it. */
enum cpu_isa {
    CPU_ISA_REFERENCE,  /* plain C */
    CPU_ISA_AVX2,       /* AVX2, FMA, F16C */
    CPU_ISA_AVX512,     /* AVX-512 F, BW, VL, DQ */
    CPU_ISA_AVX512_BF16 /* and VDPBF16PS */
};

/* Workspaces shared by the tasks of one operation.  An operation may use only its own; the
 * contents do not outlive the operation unless the owner says so. */
enum cpu_workspace {
    CPU_WORKSPACE_LINEAR,    /* normalised, packed activations */
    CPU_WORKSPACE_PICK,      /* candidates of pick, partial sums of kl_divergence */
    CPU_WORKSPACE_ATTENTION, /* attention and probe */
    CPU_WORKSPACE_SELECTION, /* selections */
    CPU_WORKSPACE_INDEX,     /* what score_index makes of queries */
    CPU_WORKSPACES
};

enum { CPU_TIME_SLOTS = 64, CPU_MAX_THREADS = 256, CPU_ALIGN = 64 };

struct cpu_block {
    void *data; /* 64-byte aligned, or NULL */
    size_t n_bytes;
};

struct device {
    struct cpu_pool *pool;
    int n_threads; /* of the pool, the caller's included */
    enum cpu_isa isa;
    bool exact;                          /* products in f32 throughout */
    const struct linear_kernels *linear; /* inner loops for isa */
    /* For several rows and bf16 weights, unless exact; or NULL. */
    const struct linear_products *bf16;
    struct cpu_block workspace[CPU_WORKSPACES];
    struct cpu_block scratch[CPU_MAX_THREADS];
    struct workspace_need need; /* the largest seen by reserve */
    double time_us[CPU_TIME_SLOTS];
    atomic_bool failed; /* latched: operations do nothing until sync has reported it */
    char failure[160];
};

/* Runs task(user, task_index, thread_index) for every task_index in [0, n_tasks), in any order,
 * on up to dev->n_threads threads, of which the caller is thread 0, and returns when all are done.
 * Tasks do not call cpu_parallel.  About 1 us while the pool spins, more when it has gone to sleep:
 * what takes less than that is better done as one task, which runs on the caller at once. */
void cpu_parallel(struct device *dev, int n_tasks,
                  void (*task)(void *user, int task_index, int thread_index), void *user);

/* At least n_bytes for this thread, 64-byte aligned; contents undefined.  It is the same memory at
 * each call of the same thread (a task asks once and carves).  NULL when memory is short: the
 * failure is latched and the task returns. */
void *cpu_scratch(struct device *dev, int thread_index, size_t n_bytes);

/* As cpu_scratch, for one workspace; called outside of tasks. */
void *cpu_workspace(struct device *dev, enum cpu_workspace which, size_t n_bytes);

/* Latches a failure (the first one wins).  Any thread. */
void cpu_fail(struct device *dev, const char *sentence);

/* True if an operation must do nothing. */
static inline bool cpu_failed(struct device *dev)
{
    return atomic_load_explicit(&dev->failed, memory_order_relaxed);
}

/* Position of a call's first row: keys before it, in both segments. */
static inline int cpu_first_position(const struct step_state *step)
{
    return step->n_context + step->n_tail;
}

/* --- device.c: the device itself ---------------------------------------------------------- */

struct device *cpu_device_open(const struct device_options *options, char *why, size_t n_why);
void cpu_device_close(struct device *dev);
void cpu_device_describe(struct device *dev, struct device_info *out);
bool cpu_device_sync(struct device *dev, char *why, size_t n_why);
void cpu_time_mark(struct device *dev, int slot);
double cpu_time_between_us(struct device *dev, int from_slot, int to_slot);

/* --- memory.c ------------------------------------------------------------------------------ */

void *cpu_alloc(struct device *dev, size_t n_bytes);
void cpu_release(struct device *dev, void *p);
void cpu_upload(struct device *dev, void *to, const void *from, size_t n_bytes);
void cpu_download(struct device *dev, void *to, const void *from, size_t n_bytes);
void cpu_copy(struct device *dev, void *to, const void *from, size_t n_bytes);
/* Sizes the workspace of linear; the table's reserve (cpu.c) adds attention's. */
bool cpu_reserve_linear(struct device *dev, const struct workspace_need *need);

/* --- isa.c --------------------------------------------------------------------------------- */

/* The newest level that this processor has, capped; VDPBF16PS only without a cap. */
enum cpu_isa cpu_isa_detect(enum device_isa cap);
const char *cpu_isa_name(enum cpu_isa isa);
/* The processor's name, e.g. "AMD EPYC". */
void cpu_processor_name(char *out, size_t n_out);

/* --- measure.c ----------------------------------------------------------------------------- */

double cpu_measure_read_bandwidth(struct device *dev);
/* Bytes/s of one pass over a buffer, in whole MiB. */
double cpu_read_pass(struct device *dev, const void *buffer, size_t n_bytes);
double cpu_measure_peak_flops(struct device *dev);

/* --- embed.c, linear.c, rope.c, pick.c, advance.c, fill.c ----------------------------------- */

void cpu_embed(struct device *dev, float *x, const struct linear *table,
               const struct linear *positions, const int32_t *tokens, const struct step_state *step,
               int n_rows);
void cpu_norm_linear(struct device *dev, float *y, const float *x, const struct norm *norm,
                     const struct linear *w, enum activation activation, int n_rows);
void cpu_linear_add(struct device *dev, float *x, const float *y, const struct linear *w,
                    int n_rows);
void cpu_rotate_append(struct device *dev, float *qkv, int n_heads, const struct kv_layer *kv,
                       const struct rope *rope, const struct norm *q_norm,
                       const struct norm *k_norm, const struct step_state *step, int n_rows);
void cpu_pick(struct device *dev, struct pick *out, const float *logits, int vocab_size,
              const struct sampling *sampling, const struct step_state *step);
void cpu_advance(struct device *dev, struct step_state *step, struct step_state *before,
                 int32_t *token, const struct pick *chosen, struct pick *log, int n_log);
void cpu_kl_divergence(struct device *dev, float *out, const float *p, const float *q,
                       int vocab_size);
void cpu_fill_random(struct device *dev, void *p, size_t n, enum dtype dtype, float scale,
                     uint64_t seed);

/* --- attention_*.c, selection*.c, select_*.c, probe.c -------------------------------------- */

/* Sizes CPU_WORKSPACE_ATTENTION and CPU_WORKSPACE_SELECTION; false: out of memory.  Workspaces
 * obtained through cpu_workspace and cpu_scratch are freed by close; release frees the rest. */
bool cpu_reserve_attention(struct device *dev, const struct workspace_need *need);
void cpu_release_attention(struct device *dev);

void cpu_attend_dense(struct device *dev, const struct attention *att);
struct selection *cpu_selection_open(struct device *dev, int max_rows, int n_heads, int n_kv_heads,
                                     int max_keys);
void cpu_selection_close(struct device *dev, struct selection *sel);
void cpu_selection_begin(struct device *dev, struct selection *sel, const struct attention *att);
void cpu_selection_end(struct device *dev, struct selection *sel, const struct attention *att);
void cpu_select_sink(struct device *dev, struct selection *sel, const struct attention *att,
                     struct budget size);
void cpu_select_local(struct device *dev, struct selection *sel, const struct attention *att,
                      struct budget size);
void cpu_score_exact(struct device *dev, struct selection *sel, const struct attention *att);
void cpu_select_top_k(struct device *dev, struct selection *sel, const struct attention *att,
                      struct budget size, enum share share);
void cpu_select_top_p(struct device *dev, struct selection *sel, const struct attention *att,
                      double top_p, bool of_total, struct budget most, float logit_scale,
                      enum share share);
void cpu_select_random(struct device *dev, struct selection *sel, const struct attention *att,
                       double rate, int slot, enum share share);
void cpu_select_pages(struct device *dev, struct selection *sel, const struct attention *att,
                      struct budget size, int page_size, double top_p, enum share share);
void cpu_select_matches(struct device *dev, struct selection *sel, const struct key_index *index,
                        const struct attention *att);
void cpu_select_if_short(struct device *dev, struct selection *sel, const struct attention *att,
                         struct budget size, int more);
void cpu_select_again(struct device *dev, struct selection *sel, const struct attention *att,
                      const struct selection *from);
void cpu_select_adaptive(struct device *dev, struct selection *sel, const struct attention *att,
                         const struct adaptive_sampling *sampling, int slot, enum share share);
void cpu_selection_put(struct device *dev, struct selection *sel, int row, int head,
                       const int32_t *keys, const float *prob, int n);
int cpu_selection_get(struct device *dev, const struct selection *sel, int row, int head,
                      int32_t *keys, float *prob);
void cpu_attend_selected(struct device *dev, const struct attention *att,
                         const struct selection *sel);
void cpu_probe(struct device *dev, const struct attention *att, const struct selection *sel,
               const struct attention_probe *out);

/* --- index*.c -------------------------------------------------------------------------------- */

struct key_index *cpu_index_open(struct device *dev, const struct key_index_config *config,
                                 char *why, size_t n_why);
void cpu_index_close(struct device *dev, struct key_index *index);
uint64_t cpu_index_bytes(struct device *dev, const struct key_index_config *config);
void cpu_index_update(struct device *dev, struct key_index *index, const struct attention *att);
void cpu_score_index(struct device *dev, struct selection *sel, const struct key_index *index,
                     const struct attention *att);

#endif
