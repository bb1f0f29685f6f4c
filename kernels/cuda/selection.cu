/* Memory of a selection, the keeping of its plan, and explicit lists. */
#include "kernels/cuda/select_team.cuh"

#include <stdlib.h>
#include <string.h>

/* n arrays of `stride` numbers of `size` bytes (device); *ok becomes false if there is no room. */
static void *reserve(struct device *dev, size_t n, size_t stride, size_t size, bool *ok)
{
    void *p = *ok ? cuda_alloc(dev, n * stride * size) : NULL;
    *ok = p != NULL;
    return p;
}

static int largest_union(int group)
{
    int n = group < UNION_MAX_HEADS ? group : UNION_MAX_HEADS;
    while (group % n)
        n--;
    return n;
}

struct selection *cuda_selection_open(struct device *dev, int max_rows, int n_heads, int n_kv_heads,
                                      int max_keys)
{
    assert(max_rows > 0 && max_keys > 0 && max_keys <= 1 << KEY_BITS);
    assert(n_kv_heads > 0 && n_heads % n_kv_heads == 0);
    struct selection *sel = (struct selection *)calloc(1, sizeof *sel);
    if (!sel)
        return NULL;
    sel->max_rows = max_rows;
    sel->n_heads = n_heads;
    sel->n_kv_heads = n_kv_heads;
    sel->max_keys = max_keys;
    sel->group = n_heads / n_kv_heads;
    sel->union_heads = largest_union(sel->group);
    sel->n_unions = n_heads / sel->union_heads;
    sel->n_words = ceil_div(ceil_div(max_keys, 32), 32) * 32;
    sel->stride = (size_t)sel->n_words * 32;
    sel->n_select_work = team_work_words(dev->n_sms);
    sel->shared = true;
    size_t n_rows = (size_t)max_rows, n_lists = n_rows * (size_t)n_heads;
    size_t n_unions = n_rows * (size_t)sel->n_unions, n_words = (size_t)sel->n_words;
    sel->late = (struct selection_late *)calloc(1, sizeof *sel->late);
    bool ok = sel->late != NULL;
    sel->taken = (uint32_t *)reserve(dev, n_lists, n_words, sizeof *sel->taken, &ok);
    sel->drawn = (uint32_t *)reserve(dev, n_lists, n_words, sizeof *sel->drawn, &ok);
    sel->prob = (float *)reserve(dev, n_lists, 1, sizeof *sel->prob, &ok);
    sel->key_prob = (float *)reserve(dev, n_lists, sel->stride, sizeof *sel->key_prob, &ok);
    sel->scores = (float *)reserve(dev, n_lists, sel->stride, sizeof *sel->scores, &ok);
    sel->list = (uint32_t *)reserve(dev, n_unions, sel->stride, sizeof *sel->list, &ok);
    sel->list_drawn = (uint8_t *)reserve(dev, n_unions, sel->stride, 1, &ok);
    sel->n_list = (int32_t *)reserve(dev, n_unions, 1, sizeof *sel->n_list, &ok);
    sel->n_selected = (int32_t *)reserve(dev, n_unions, 1, sizeof *sel->n_selected, &ok);
    sel->rescued = (uint32_t *)reserve(dev, n_unions, 1, sizeof *sel->rescued, &ok);
    sel->resolved = (struct row_plan *)reserve(dev, n_rows, 1, sizeof *sel->resolved, &ok);
    sel->select_work =
        (uint32_t *)reserve(dev, sel->n_select_work, 1, sizeof *sel->select_work, &ok);
    if (ok)
        return sel;
    cuda_selection_close(dev, sel);
    return NULL;
}

void cuda_selection_close(struct device *dev, struct selection *sel)
{
    if (!sel)
        return;
    cuda_release(dev, sel->taken);
    cuda_release(dev, sel->drawn);
    cuda_release(dev, sel->prob);
    cuda_release(dev, sel->key_prob);
    cuda_release(dev, sel->scores);
    cuda_release(dev, sel->list);
    cuda_release(dev, sel->list_drawn);
    cuda_release(dev, sel->n_list);
    cuda_release(dev, sel->n_selected);
    cuda_release(dev, sel->rescued);
    cuda_release(dev, sel->resolved);
    cuda_release(dev, sel->select_work);
    free(sel->late);
    free(sel);
}

void cuda_selection_begin(struct device *dev, struct selection *sel, const struct attention *att)
{
    (void)dev;
    assert(att->n_rows <= sel->max_rows && att->n_heads == sel->n_heads);
    assert(att->kv.n_kv_heads == sel->n_kv_heads && att->max_keys <= sel->max_keys);
    sel->att = *att;
    sel->plan.n = 0;
    sel->late->masker = {};
    sel->late->levels.write = NULL;
    sel->late->scope = {};
    sel->n_rows = att->n_rows;
    sel->listed = sel->sampled = sel->mixed = false;
    sel->shared = true;
}

/* --- The plan -------------------------------------------------------------------------------- */

void selection_catch_up(struct device *dev, struct selection *sel)
{
    struct put_off waiting = sel->late->masker;
    sel->late->masker = {};
    if (waiting.run)
        waiting.run(dev, sel, &waiting, false);
}

void selection_write_scores(struct device *dev, struct selection *sel)
{
    struct level_scores levels = sel->late->levels;
    sel->late->levels.write = NULL;
    if (levels.write)
        levels.write(dev, sel, &levels);
}

void selection_plan_part(struct device *dev, struct selection *sel, const struct select_part *part)
{
    if (sel->plan.n == PLAN_MAX_PARTS) {
        cuda_fail(dev, "a stack of more than %d parts", (int)PLAN_MAX_PARTS);
        return;
    }
    sel->plan.part[sel->plan.n++] = *part;
}

void selection_plan(struct device *dev, struct selection *sel, enum select_kind kind,
                    struct budget size)
{
    struct select_part part = {size.value, 0, size.is_fraction, (uint8_t)kind};
    selection_plan_part(dev, sel, &part);
}

void cuda_select_sink(struct device *dev, struct selection *sel, const struct attention *att,
                      struct budget size)
{
    (void)att;
    selection_catch_up(dev, sel);
    selection_plan(dev, sel, SELECT_SINK, size);
}

void cuda_select_local(struct device *dev, struct selection *sel, const struct attention *att,
                       struct budget size)
{
    (void)att;
    selection_catch_up(dev, sel);
    selection_plan(dev, sel, SELECT_LOCAL, size);
}

void cuda_select_if_short(struct device *dev, struct selection *sel, const struct attention *att,
                          struct budget size, int more)
{
    (void)att;
    selection_catch_up(dev, sel);
    struct select_part part = {size.value, more, size.is_fraction, SELECT_IF_SHORT};
    selection_plan_part(dev, sel, &part);
}

/* --- From one list per group to one per head -------------------------------------------------- */

enum { COPY_THREADS = 256 };

struct unshare_job {
    struct attention att;
    struct selection sel;
};

/* Block (words, head, row); a thread copies a word of the group's first head. */
__global__ void __launch_bounds__(COPY_THREADS)
    unshare_kernel(const __grid_constant__ struct unshare_job job)
{
    const struct selection *sel = &job.sel;
    int word = blockIdx.x * COPY_THREADS + threadIdx.x, head = blockIdx.y, row = blockIdx.z;
    int first = head / sel->group * sel->group;
    dependency_wait();
    dependency_release();
    struct call_shape shape = call_shape(&job.att);
    if (head == first || word >= row_words(&shape, row))
        return;
    size_t to =
        ((size_t)row * (size_t)sel->n_heads + (size_t)head) * (size_t)sel->n_words + (size_t)word;
    size_t from = to - (size_t)(head - first) * (size_t)sel->n_words;
    sel->taken[to] = sel->taken[from];
    if (sel->sampled)
        sel->drawn[to] = sel->drawn[from];
}

bool selection_choose(struct device *dev, struct selection *sel, const struct attention *att,
                      enum share share)
{
    assert(att->n_rows == sel->n_rows);
    bool first = !sel->listed;
    if (sel->shared && share == SHARE_HEAD) {
        struct unshare_job job = {*att, *sel};
        dim3 grid((unsigned)ceil_div(ceil_div(att->max_keys, 32), COPY_THREADS),
                  (unsigned)sel->n_heads, (unsigned)att->n_rows);
        if (!first && sel->group > 1)
            cuda_launch(dev, unshare_kernel, grid, COPY_THREADS, 0, job);
        sel->shared = false;
    }
    sel->listed = true;
    return first;
}

/* --- From one probability per list to one per key ----------------------------------------------
 */

enum { SPREAD_THREADS = 256 };

/* Gives every key of a list its list's probability.  Block (keys, list). */
__global__ void __launch_bounds__(SPREAD_THREADS)
    spread_kernel(float *key_prob, const float *prob, size_t stride)
{
    size_t key = (size_t)blockIdx.x * SPREAD_THREADS + threadIdx.x;
    dependency_wait();
    if (key < stride)
        key_prob[blockIdx.y * stride + key] = prob[blockIdx.y];
}

void selection_mix(struct device *dev, struct selection *sel)
{
    dim3 grid((unsigned)(sel->stride / SPREAD_THREADS), (unsigned)(sel->n_rows * sel->n_heads));
    if (sel->sampled && !sel->mixed)
        cuda_launch(dev, spread_kernel, grid, SPREAD_THREADS, 0, sel->key_prob, sel->prob,
                    sel->stride);
    sel->mixed = true;
}

/* --- Explicit lists: host operations, for tests and forced selections --------------------------
 */

static bool has_weights(const float *prob, int n)
{
    for (int i = 0; prob && i < n; i++)
        if (prob[i] != 1.0f)
            return true;
    return false;
}

/* Makes the bitmaps ready for keys of single heads.  False if it failed. */
static bool prepare_put(struct device *dev, struct selection *sel, bool weighted)
{
    size_t n_bytes = (size_t)sel->n_rows * (size_t)sel->n_heads * (size_t)sel->n_words * 4;
    bool put = false;
    selection_catch_up(dev, sel);
    for (int i = 0; i < sel->plan.n; i++)
        put = put || sel->plan.part[i].kind == SELECT_PUT;
    if (!put)
        selection_plan(dev, sel, SELECT_PUT, {false, 0});
    if (selection_choose(dev, sel, &sel->att, SHARE_HEAD) && !dev->failed)
        CUDA_CALL(dev, cudaMemsetAsync(sel->taken, 0, n_bytes, dev->stream));
    if (!weighted)
        return !dev->failed;
    if (dev->failed)
        return false;
    selection_mix(dev, sel);
    if (!sel->sampled)
        CUDA_CALL(dev, cudaMemsetAsync(sel->drawn, 0, n_bytes, dev->stream));
    sel->sampled = true;
    return !dev->failed;
}

void cuda_selection_put(struct device *dev, struct selection *sel, int row, int head,
                        const int32_t *keys, const float *prob, int n)
{
    assert(row >= 0 && row < sel->n_rows && head >= 0 && head < sel->n_heads);
    assert(n >= 0 && n <= sel->max_keys && !dev->recording);
    size_t n_words = (size_t)sel->n_words, n_bytes = n_words * sizeof(uint32_t);
    size_t list = (size_t)row * (size_t)sel->n_heads + (size_t)head;
    if (!prepare_put(dev, sel, has_weights(prob, n)))
        return;
    uint32_t *taken = (uint32_t *)calloc(2 + sel->stride / n_words, n_bytes);
    if (!taken) {
        cuda_fail(dev, "no host memory for an explicit list");
        return;
    }
    uint32_t *drawn = taken + n_words;
    float *key_prob = (float *)(drawn + n_words);
    cuda_download(dev, taken, sel->taken + list * n_words, n_bytes);
    if (sel->sampled)
        cuda_download(dev, drawn, sel->drawn + list * n_words, n_bytes);
    if (sel->mixed)
        cuda_download(dev, key_prob, sel->key_prob + list * sel->stride, sel->stride * 4);
    for (int i = 0; i < n; i++) {
        if (keys[i] < 0 || keys[i] >= sel->max_keys)
            continue; /* what is there but not visible is masked on the device */
        uint32_t bit = 1u << keys[i] % 32, word = (uint32_t)keys[i] / 32;
        if ((taken[word] | drawn[word]) & bit)
            continue; /* it stays as it is; keys of ranges are masked when bitmaps are read */
        if (!prob || prob[i] == 1.0f) {
            taken[word] |= bit;
        } else {
            drawn[word] |= bit;
            key_prob[keys[i]] = prob[i];
        }
    }
    cuda_upload(dev, sel->taken + list * n_words, taken, n_bytes);
    if (sel->sampled)
        cuda_upload(dev, sel->drawn + list * n_words, drawn, n_bytes);
    if (sel->mixed)
        cuda_upload(dev, sel->key_prob + list * sel->stride, key_prob, sel->stride * 4);
    free(taken);
}

/* A list as it lies on the device, on the host. */
struct host_list {
    int n;
    uint32_t *entries;
    uint8_t *drawn;
    float *key_prob, prob;
};

static bool download_list(struct device *dev, const struct selection *sel, int row, int head,
                          struct host_list *out)
{
    size_t list = (size_t)row * (size_t)sel->n_heads + (size_t)head;
    size_t at = (size_t)row * (size_t)sel->n_unions + (size_t)(head / sel->union_heads);
    uint32_t rescued;
    memset(out, 0, sizeof *out);
    cuda_download(dev, &out->n, sel->n_list + at, sizeof out->n);
    cuda_download(dev, &rescued, sel->rescued + at, sizeof rescued);
    if (rescued >> head % sel->union_heads & 1)
        out->n = 0; /* its own key is no choice */
    out->entries = (uint32_t *)calloc(sel->stride, 9);
    if (!out->entries) {
        cuda_fail(dev, "no host memory for a list");
        return false;
    }
    out->key_prob = (float *)(out->entries + sel->stride);
    out->drawn = (uint8_t *)(out->key_prob + sel->stride);
    cuda_download(dev, out->entries, sel->list + at * sel->stride, (size_t)out->n * 4);
    if (!sel->sampled)
        return true;
    cuda_download(dev, out->drawn, sel->list_drawn + at * sel->stride, (size_t)out->n);
    if (sel->mixed)
        cuda_download(dev, out->key_prob, sel->key_prob + list * sel->stride, sel->stride * 4);
    else
        cuda_download(dev, &out->prob, sel->prob + list, sizeof out->prob);
    return true;
}

int cuda_selection_get(struct device *dev, const struct selection *sel, int row, int head,
                       int32_t *keys, float *prob)
{
    assert(row >= 0 && row < sel->n_rows && head >= 0 && head < sel->n_heads);
    struct row_plan plan;
    struct host_list list;
    int bit = head % sel->union_heads, n = 0, i = 0;
    if (!sel->listed)
        selection_unite(dev, sel); /* which selection_end left out */
    cuda_download(dev, &plan, sel->resolved + row, sizeof plan);
    if (plan.full)
        return -1;
    if (!download_list(dev, sel, row, head, &list))
        return 0;
    for (int r = 0; r <= plan.n_ranges; r++) {
        struct key_range range = {INT32_MAX, INT32_MAX};
        if (r < plan.n_ranges)
            range = plan.range[r];
        for (; i < list.n; i++) {
            int key = (int)(list.entries[i] & ((1u << KEY_BITS) - 1));
            if (key >= range.begin)
                break;
            if (!(list.entries[i] >> KEY_BITS >> bit & 1))
                continue;
            keys[n] = key;
            prob[n++] = !(list.drawn[i] >> bit & 1) ? 1.0f
                        : sel->mixed                ? list.key_prob[key]
                                                    : list.prob;
        }
        for (int key = range.begin; r < plan.n_ranges && key < range.end; key++) {
            keys[n] = key;
            prob[n++] = 1.0f;
        }
    }
    free(list.entries);
    return n;
}
