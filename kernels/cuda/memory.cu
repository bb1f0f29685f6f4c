/* Device memory, and the way to it: uploads stream through a ring of pinned pieces, so that the
 * host reads the next piece of a file while the last one travels. */
#include "kernels/cuda/cuda.cuh"

#include <string.h>

enum { ALIGN_BYTES = 256 };

void *cuda_alloc(struct device *dev, size_t n_bytes)
{
    void *p = NULL;
    assert(!dev->recording);
    if (dev->failed)
        return NULL;
    cudaError_t error =
        cuda_fault_due(dev) ? cudaErrorMemoryAllocation : cudaMalloc(&p, n_bytes ? n_bytes : 1);
    if (error == cudaErrorMemoryAllocation) { /* the caller's to tell, not a failed operation */
        cudaGetLastError();
        return NULL;
    }
    if (cuda_check(dev, error, "cudaMalloc") &&
        CUDA_CALL(dev, cudaMemsetAsync(p, 0, n_bytes, dev->stream)))
        return p;
    cudaFree(p);
    return NULL;
}

void cuda_release(struct device *dev, void *p)
{
    (void)dev;
    assert(!dev->recording);
    if (p && cudaFree(p) != cudaSuccess) /* only a poisoned context refuses */
        cudaGetLastError();
}

/* --- Uploads --------------------------------------------------------------------------------- */

bool cuda_staging_open(struct device *dev)
{
    struct staging *s = &dev->staging;
    void *memory = NULL;
    if (!CUDA_CALL(dev, cudaMallocHost(&memory, (size_t)STAGING_PIECES * STAGING_BYTES)))
        return false;
    s->memory = (char *)memory;
    for (int i = 0; i < STAGING_PIECES; i++)
        if (!CUDA_CALL(dev, cudaEventCreateWithFlags(&s->free[i], cudaEventDisableTiming)))
            return false;
    return true;
}

void cuda_staging_close(struct device *dev)
{
    struct staging *s = &dev->staging;
    for (int i = 0; i < STAGING_PIECES; i++)
        if (s->free[i])
            cudaEventDestroy(s->free[i]);
    if (s->memory)
        cudaFreeHost(s->memory);
    memset(s, 0, sizeof *s);
}

/* Room for up to n_bytes in the ring; *got says how much. */
static char *staging_room(struct device *dev, size_t n_bytes, size_t *got)
{
    struct staging *s = &dev->staging;
    if (s->used == STAGING_BYTES) {
        CUDA_CALL(dev, cudaEventRecord(s->free[s->next], dev->stream));
        s->next = (s->next + 1) % STAGING_PIECES;
        s->used = 0;
        CUDA_CALL(dev, cudaEventSynchronize(s->free[s->next]));
    }
    size_t left = STAGING_BYTES - s->used;
    *got = n_bytes < left ? n_bytes : left;
    char *at = s->memory + (size_t)s->next * STAGING_BYTES + s->used;
    size_t taken = (*got + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
    s->used += taken < left ? taken : left;
    return at;
}

void cuda_upload(struct device *dev, void *to, const void *from, size_t n_bytes)
{
    assert(!dev->recording);
    for (size_t done = 0, n; done < n_bytes && !dev->failed; done += n) {
        char *piece = staging_room(dev, n_bytes - done, &n);
        if (dev->failed)
            return;
        memcpy(piece, (const char *)from + done, n);
        CUDA_CALL(
            dev, cudaMemcpyAsync((char *)to + done, piece, n, cudaMemcpyHostToDevice, dev->stream));
    }
}

/* After a failure the bytes are zero, so that nobody works with what was never there. */
void cuda_download(struct device *dev, void *to, const void *from, size_t n_bytes)
{
    assert(!dev->recording);
    if (!n_bytes)
        return;
    if (dev->failed ||
        !CUDA_CALL(dev, cudaMemcpyAsync(to, from, n_bytes, cudaMemcpyDeviceToHost, dev->stream)) ||
        !CUDA_CALL(dev, cudaStreamSynchronize(dev->stream)))
        memset(to, 0, n_bytes);
}

void cuda_copy(struct device *dev, void *to, const void *from, size_t n_bytes)
{
    if (n_bytes && !dev->failed)
        CUDA_CALL(dev, cudaMemcpyAsync(to, from, n_bytes, cudaMemcpyDeviceToDevice, dev->stream));
}
