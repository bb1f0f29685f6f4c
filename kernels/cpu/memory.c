/* Device memory of the cpu backend, and the blocks that operations work in.
 *
 * Large allocations are mapped, so that they are zero without being touched (a KV cache is used
 * from its start), and ask for huge pages, which weights are read through with fewer misses. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/linear.h"

#define HUGE_PAGE ((size_t)2 << 20)
#define MAP_FROM_BYTES ((size_t)4 << 20)

/* Lies in the CPU_ALIGN bytes before what alloc returns. */
struct header {
    void *base;
    size_t mapped_bytes; /* 0: from the heap */
};

_Static_assert(sizeof(struct header) <= CPU_ALIGN, "the header must fit before the data");

static void *map_zeroed(size_t n_bytes)
{
    size_t mapped_bytes = n_bytes + CPU_ALIGN + HUGE_PAGE;
    char *base =
        mmap(NULL, mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return NULL;
    char *start = (char *)(((uintptr_t)base + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
#ifdef MADV_HUGEPAGE
    madvise(start, n_bytes + CPU_ALIGN, MADV_HUGEPAGE); /* advice: nothing depends on it */
#endif
    *(struct header *)start = (struct header){.base = base, .mapped_bytes = mapped_bytes};
    return start + CPU_ALIGN;
}

void *cpu_alloc(struct device *dev, size_t n_bytes)
{
    (void)dev;
    if (n_bytes > SIZE_MAX / 2)
        return NULL;
    if (n_bytes >= MAP_FROM_BYTES)
        return map_zeroed(n_bytes);
    size_t total = (n_bytes + 2 * CPU_ALIGN - 1) / CPU_ALIGN * CPU_ALIGN;
    char *start = aligned_alloc(CPU_ALIGN, total);
    if (!start)
        return NULL;
    memset(start, 0, total);
    *(struct header *)start = (struct header){.base = start};
    return start + CPU_ALIGN;
}

void cpu_release(struct device *dev, void *p)
{
    (void)dev;
    if (!p)
        return;
    struct header header = *(struct header *)((char *)p - CPU_ALIGN);
    if (header.mapped_bytes)
        munmap(header.base, header.mapped_bytes);
    else
        free(header.base);
}

void cpu_upload(struct device *dev, void *to, const void *from, size_t n_bytes)
{
    (void)dev;
    if (n_bytes)
        memcpy(to, from, n_bytes);
}

void cpu_download(struct device *dev, void *to, const void *from, size_t n_bytes)
{
    (void)dev;
    if (n_bytes)
        memcpy(to, from, n_bytes);
}

void cpu_copy(struct device *dev, void *to, const void *from, size_t n_bytes)
{
    if (n_bytes && !cpu_failed(dev))
        memcpy(to, from, n_bytes);
}

static bool grow(struct cpu_block *block, size_t n_bytes)
{
    if (n_bytes <= block->n_bytes)
        return true;
    if (n_bytes > SIZE_MAX / 2)
        return false;
    size_t total = (n_bytes + CPU_ALIGN - 1) / CPU_ALIGN * CPU_ALIGN;
    void *data = aligned_alloc(CPU_ALIGN, total);
    if (!data)
        return false;
    free(block->data);
    *block = (struct cpu_block){.data = data, .n_bytes = total};
    return true;
}

void *cpu_scratch(struct device *dev, int thread_index, size_t n_bytes)
{
    assert(thread_index >= 0 && thread_index < dev->n_threads);
    struct cpu_block *block = &dev->scratch[thread_index];
    if (grow(block, n_bytes ? n_bytes : 1))
        return block->data;
    cpu_fail(dev, "out of memory for a thread's scratch space");
    return NULL;
}

void *cpu_workspace(struct device *dev, enum cpu_workspace which, size_t n_bytes)
{
    struct cpu_block *block = &dev->workspace[which];
    if (grow(block, n_bytes ? n_bytes : 1))
        return block->data;
    cpu_fail(dev, "out of memory for a workspace");
    return NULL;
}

bool cpu_reserve_linear(struct device *dev, const struct workspace_need *need)
{
    size_t n_bytes = linear_workspace_bytes(dev, need->max_rows, need->max_width);
    return grow(&dev->workspace[CPU_WORKSPACE_LINEAR], n_bytes);
}
