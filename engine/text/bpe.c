/* Byte-pair encoding of one word: first symbols, then merges from a heap. */
#include "engine/text/bpe.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/memory.h"
#include "engine/base/utf8.h"
#include "engine/text/bpe_parts.h"

/* A linked list through an array, so that a merge is O(1) and positions stay what they were. */
struct bpe_symbol {
    int32_t id; /* -1 once merged into its left neighbour */
    int32_t previous, next;
};

void bpe_scratch_free(struct bpe_scratch *s)
{
    free(s->symbols);
    free(s->heap);
    *s = (struct bpe_scratch){0};
}

static void add_symbol(struct bpe_scratch *s, int32_t id)
{
    s->symbols = array_grow(s->symbols, &s->symbols_capacity, s->n_symbols + 1, sizeof *s->symbols);
    int32_t i = (int32_t)s->n_symbols++;
    s->symbols[i] = (struct bpe_symbol){id, i - 1, i + 1};
}

/* The bytes of text [n] as symbols, if each has a token <0xHH>. */
static bool add_bytes(const struct bpe *bpe, struct bpe_scratch *s, const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (bpe->byte_ids[(unsigned char)text[i]] < 0)
            return false;
    for (size_t i = 0; i < n; i++)
        add_symbol(s, bpe->byte_ids[(unsigned char)text[i]]);
    return true;
}

/* An unknown character is put in only at the next known one or at the end, so that a run can
 * become one; as in the reference, bytes in between do not end the run. */
static void add_unknown(const struct bpe *bpe, struct bpe_scratch *s, bool *pending)
{
    if (bpe->unk_id < 0)
        return;
    if (*pending && !bpe->fuse_unk)
        add_symbol(s, bpe->unk_id);
    *pending = true;
}

/* text [n] is one character with what prefix and suffix add to it. */
static void add_character(const struct bpe *bpe, struct bpe_scratch *s, const char *text, size_t n,
                          int32_t id, bool *pending_unknown)
{
    if (id >= 0) {
        if (*pending_unknown)
            add_symbol(s, bpe->unk_id);
        *pending_unknown = false;
        add_symbol(s, id);
    } else if (!bpe->byte_fallback || !add_bytes(bpe, s, text, n)) {
        add_unknown(bpe, s, pending_unknown);
    }
}

static int32_t character_id(const struct bpe *bpe, const char *text, size_t n, uint32_t c)
{
    return c < BPE_DIRECT_END ? bpe->direct[c] : vocabulary_model_id(bpe->vocab, text, n);
}

static void make_symbols(const struct bpe *bpe, struct bpe_scratch *s, const char *word, size_t n)
{
    bool affixes = *bpe->prefix || *bpe->suffix;
    bool pending_unknown = false;
    struct buf affixed = {0};
    s->n_symbols = 0;
    for (size_t i = 0; i < n;) {
        uint32_t c = 0;
        int n_bad, len = utf8_decode(word + i, n - i, &c, &n_bad);
        assert(len > 0);
        if (affixes) {
            buf_clear(&affixed);
            buf_append_str(&affixed, i == 0 ? "" : bpe->prefix);
            buf_append(&affixed, word + i, (size_t)len);
            buf_append_str(&affixed, i + (size_t)len == n ? bpe->suffix : "");
            int32_t id = vocabulary_model_id(bpe->vocab, affixed.data, affixed.len);
            add_character(bpe, s, affixed.data, affixed.len, id, &pending_unknown);
        } else {
            int32_t id = character_id(bpe, word + i, (size_t)len, c);
            add_character(bpe, s, word + i, (size_t)len, id, &pending_unknown);
        }
        i += (size_t)len;
    }
    if (pending_unknown)
        add_symbol(s, bpe->unk_id);
    buf_free(&affixed);
}

static void sift_down(uint64_t *heap, size_t n, size_t i)
{
    uint64_t moved = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= moved)
            break;
        heap[i] = heap[child];
    }
    heap[i] = moved;
}

static void heap_push(struct bpe_scratch *s, uint64_t key)
{
    s->heap = array_grow(s->heap, &s->heap_capacity, s->n_heap + 1, sizeof *s->heap);
    size_t i = s->n_heap++;
    for (; i > 0 && s->heap[(i - 1) / 2] > key; i = (i - 1) / 2)
        s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = key;
}

static uint64_t heap_pop(struct bpe_scratch *s)
{
    uint64_t top = s->heap[0];
    s->heap[0] = s->heap[--s->n_heap];
    if (s->n_heap)
        sift_down(s->heap, s->n_heap, 0);
    return top;
}

/* The merge of the symbol at position left with the one after it, or NULL. */
static const struct merge *merge_at(const struct bpe *bpe, const struct bpe_scratch *s,
                                    int32_t left)
{
    int32_t right = s->symbols[left].next;
    if (right >= (int32_t)s->n_symbols)
        return NULL;
    return merge_table_find(&bpe->merges, s->symbols[left].id, s->symbols[right].id);
}

static void push_merge_at(const struct bpe *bpe, struct bpe_scratch *s, int32_t left)
{
    const struct merge *merge = merge_at(bpe, s, left);
    if (merge)
        heap_push(s, (uint64_t)merge->rank << 32 | (uint32_t)left);
}

/* Fills the heap with all pairs at once, then orders it: cheaper than pushing one by one. */
static void fill_heap(const struct bpe *bpe, struct bpe_scratch *s)
{
    s->n_heap = 0;
    s->heap = array_grow(s->heap, &s->heap_capacity, s->n_symbols, sizeof *s->heap);
    for (size_t i = 0; i + 1 < s->n_symbols; i++) {
        const struct merge *merge = merge_at(bpe, s, (int32_t)i);
        if (merge)
            s->heap[s->n_heap++] = (uint64_t)merge->rank << 32 | i;
    }
    for (size_t i = s->n_heap / 2; i-- > 0;)
        sift_down(s->heap, s->n_heap, i);
}

static void merge_symbols(const struct bpe *bpe, struct bpe_scratch *s)
{
    fill_heap(bpe, s);
    while (s->n_heap) {
        uint64_t top = heap_pop(s);
        int32_t left = (int32_t)(uint32_t)top;
        if (s->symbols[left].id < 0)
            continue;
        const struct merge *merge = merge_at(bpe, s, left);
        if (!merge || merge->rank != top >> 32)
            continue; /* an older pair stood there */
        int32_t right = s->symbols[left].next, after = s->symbols[right].next;
        s->symbols[left].id = merge->result;
        s->symbols[left].next = after;
        s->symbols[right].id = -1;
        if (after < (int32_t)s->n_symbols)
            s->symbols[after].previous = left;
        if (s->symbols[left].previous >= 0)
            push_merge_at(bpe, s, s->symbols[left].previous);
        push_merge_at(bpe, s, left);
    }
}

void bpe_encode(const struct bpe *bpe, const char *word, size_t n, bool avoid_special,
                struct bpe_scratch *s, struct token_list *out)
{
    assert(n < INT32_MAX);
    if (!n)
        return;
    if (bpe->ignore_merges) {
        const struct token *whole = vocabulary_by_text(bpe->vocab, word, n);
        if (whole && whole->in_model && !(avoid_special && whole->special)) {
            token_list_add(out, whole->id);
            return;
        }
    }
    make_symbols(bpe, s, word, n);
    if (!s->n_symbols)
        return;
    merge_symbols(bpe, s);
    for (int32_t i = 0; i < (int32_t)s->n_symbols; i = s->symbols[i].next)
        token_list_add(out, s->symbols[i].id);
}
