/* Opening and closing the device, its clock, its latched failure and its workspaces. */
#include "kernels/cuda/cuda.cuh"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MIN_ARCH = 80, FULL_SMS = 132, PREFILL_ROWS = 2048 };

/* About 0.1 s of prefill on a device of FULL_SMS multiprocessors. */
static const double CHUNK_FLOPS = 4e13;

/* --- Failures -------------------------------------------------------------------------------- */

/* ATTNSCOPE_CUDA_FAULT=N fails the N-th call, N+ that one and all later ones, N! that one for good,
 * as a poisoned context would: how tests reach what only broken hardware does. */
static void read_fault(struct device *dev)
{
    const char *text = getenv("ATTNSCOPE_CUDA_FAULT");
    char *end;
    if (!text)
        return;
    dev->fault_at = strtol(text, &end, 10);
    dev->fault_stays = *end == '+' || *end == '!';
    dev->fault_poisons = *end == '!';
}

bool cuda_fault_due(struct device *dev)
{
    long n = ++dev->n_calls;
    if (!dev->fault_at || n < dev->fault_at || (n > dev->fault_at && !dev->fault_stays))
        return false;
    dev->lost = dev->lost || dev->fault_poisons;
    return true;
}

/* After a poisoning error every call fails alike; the device's own answer tells. */
static bool is_poisoned(void)
{
    cudaGetLastError();
    return cudaDeviceSynchronize() != cudaSuccess && cudaGetLastError() != cudaSuccess;
}

bool cuda_check(struct device *dev, cudaError_t error, const char *call)
{
    if (error == cudaSuccess)
        return true;
    if (dev->failed)
        return false;
    cuda_fail(dev, "%.*s: %s", (int)strcspn(call, "("), call, cudaGetErrorString(error));
    if (!dev->recording && is_poisoned())
        dev->lost = true;
    return false;
}

void cuda_fail(struct device *dev, const char *format, ...)
{
    va_list args;
    if (dev->failed)
        return;
    va_start(args, format);
    vsnprintf(dev->why, sizeof dev->why, format, args);
    va_end(args);
    dev->failed = true;
}

bool cuda_device_lost(struct device *dev)
{
    return dev->lost;
}

/* What an operation left half done must not reach the next: counters start from zero again. */
static void recover(struct device *dev)
{
    cudaGetLastError();
    struct cuda_block *tickets = &dev->workspace[WORKSPACE_TICKETS];
    dev->failed = false;
    if (tickets->data)
        CUDA_CALL(dev, cudaMemsetAsync(tickets->data, 0, tickets->n_bytes, dev->stream));
}

bool cuda_device_sync(struct device *dev, char *why, size_t n_why)
{
    assert(!dev->recording);
    if (!dev->failed)
        CUDA_CALL(dev, cudaStreamSynchronize(dev->stream));
    if (!dev->failed)
        return true;
    if (n_why)
        snprintf(why, n_why, "%s", dev->why);
    if (!dev->lost)
        recover(dev);
    return false;
}

/* --- Opening and closing --------------------------------------------------------------------- */

static bool refuse(char *why, size_t n_why, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(why, n_why, format, args);
    va_end(args);
    return false;
}

/* A device that can be used, or the reason why there is none. */
static bool find_device(struct device *dev, char *why, size_t n_why)
{
    int n = 0;
    cudaError_t error = cudaGetDeviceCount(&n);
    cudaGetLastError();
    if (error == cudaErrorInsufficientDriver || error == cudaErrorStubLibrary)
        return refuse(why, n_why,
                      "no NVIDIA driver is installed, or it is older than CUDA %d.%d needs",
                      CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    if (error == cudaErrorNoDevice || (error == cudaSuccess && n == 0))
        return refuse(why, n_why, "no NVIDIA GPU is visible (CUDA_VISIBLE_DEVICES may hide it)");
    if (error != cudaSuccess)
        return refuse(why, n_why, "CUDA cannot start: %s", cudaGetErrorString(error));
    error = cudaGetDeviceProperties(&dev->properties, dev->ordinal);
    if (error != cudaSuccess)
        return refuse(why, n_why, "GPU %d cannot be asked: %s", dev->ordinal,
                      cudaGetErrorString(error));
    dev->arch = dev->properties.major * 10 + dev->properties.minor;
    dev->n_sms = dev->properties.multiProcessorCount;
    dev->early = dev->arch >= 90;
    if (dev->arch < MIN_ARCH)
        return refuse(why, n_why,
                      "%s has compute capability %d.%d, at least 8.0 (Ampere) is needed",
                      dev->properties.name, dev->arch / 10, dev->arch % 10);
    return true;
}

static bool start(struct device *dev)
{
    bool ok = CUDA_CALL(dev, cudaSetDevice(dev->ordinal)) &&
              CUDA_CALL(dev, cudaStreamCreateWithFlags(&dev->stream, cudaStreamNonBlocking));
    for (int i = 0; ok && i < TIME_SLOTS; i++)
        ok = CUDA_CALL(dev, cudaEventCreate(&dev->marks[i]));
    if (!ok || !cuda_staging_open(dev))
        return false;
    if (cublasLtCreate(&dev->cublas) == CUBLAS_STATUS_SUCCESS)
        return cuda_workspace(dev, WORKSPACE_TICKETS, N_TICKETS * sizeof(uint32_t)) != NULL;
    cuda_fail(dev, "cuBLASLt cannot start (out of memory, or a damaged installation)");
    return false;
}

struct device *cuda_device_open(const struct device_options *options, char *why, size_t n_why)
{
    struct device *dev = (struct device *)calloc(1, sizeof *dev);
    if (!dev) {
        refuse(why, n_why, "no host memory");
        return NULL;
    }
    dev->options = *options;
    read_fault(dev);
    if (!find_device(dev, why, n_why)) {
        free(dev);
        return NULL;
    }
    if (start(dev))
        return dev;
    refuse(why, n_why, "%s: %s", dev->properties.name, dev->why);
    cuda_device_close(dev);
    return NULL;
}

void cuda_device_close(struct device *dev)
{
    if (!dev)
        return;
    if (dev->stream)
        cudaStreamSynchronize(dev->stream);
    cuda_linear_close(dev);
    for (int i = 0; i < N_WORKSPACES; i++)
        cudaFree(dev->workspace[i].data);
    if (dev->cublas)
        cublasLtDestroy(dev->cublas);
    cuda_staging_close(dev);
    for (int i = 0; i < TIME_SLOTS; i++)
        if (dev->marks[i])
            cudaEventDestroy(dev->marks[i]);
    if (dev->stream)
        cudaStreamDestroy(dev->stream);
    cudaGetLastError();
    free(dev);
}

void cuda_device_describe(struct device *dev, struct device_info *out)
{
    size_t free_bytes = 0, total_bytes = 0;
    if (cudaMemGetInfo(&free_bytes, &total_bytes) != cudaSuccess)
        cudaGetLastError();
    memset(out, 0, sizeof *out);
    snprintf(out->name, sizeof out->name, "%.90s, %d SMs, %.0f GiB", dev->properties.name,
             dev->n_sms, (double)dev->properties.totalGlobalMem / (1 << 30));
    out->n_threads = 1;
    out->total_bytes = total_bytes;
    out->free_bytes = free_bytes;
    out->max_rows = PREFILL_ROWS;
    out->chunk_flops = CHUNK_FLOPS * dev->n_sms / (double)FULL_SMS;
}

/* --- Workspaces ------------------------------------------------------------------------------ */

static bool grow(struct device *dev, struct cuda_block *block, size_t n_bytes)
{
    if (n_bytes <= block->n_bytes)
        return true;
    void *data = cuda_alloc(dev, n_bytes);
    if (!data)
        return false;
    cuda_release(dev, block->data); /* waits for what still uses it */
    block->data = data;
    block->n_bytes = n_bytes;
    return true;
}

void *cuda_workspace(struct device *dev, enum cuda_workspace which, size_t n_bytes)
{
    struct cuda_block *block = &dev->workspace[which];
    if (dev->failed)
        return NULL;
    if (n_bytes > block->n_bytes && dev->recording)
        cuda_fail(dev, "a recorded step needs %zu bytes of workspace, %zu are reserved", n_bytes,
                  block->n_bytes);
    else if (!grow(dev, block, n_bytes ? n_bytes : 1))
        cuda_fail(dev, "out of memory for %.1f MiB of workspace", (double)n_bytes / (1 << 20));
    return dev->failed ? NULL : block->data;
}

static int max_int(int a, int b)
{
    return a > b ? a : b;
}

bool cuda_reserve(struct device *dev, const struct workspace_need *need)
{
    struct workspace_need *most = &dev->need;
    most->max_rows = max_int(most->max_rows, need->max_rows);
    most->max_width = max_int(most->max_width, need->max_width);
    most->n_heads = max_int(most->n_heads, need->n_heads);
    most->n_kv_heads = max_int(most->n_kv_heads, need->n_kv_heads);
    most->head_dim = max_int(most->head_dim, need->head_dim);
    most->max_keys = max_int(most->max_keys, need->max_keys);
    return grow(dev, &dev->workspace[WORKSPACE_LINEAR], cuda_linear_workspace_bytes(dev, most)) &&
           grow(dev, &dev->workspace[WORKSPACE_ATTENTION],
                cuda_attention_workspace_bytes(dev, most)) &&
           grow(dev, &dev->workspace[WORKSPACE_PICK], cuda_pick_workspace_bytes(dev, most)) &&
           grow(dev, &dev->workspace[WORKSPACE_INDEX], cuda_index_workspace_bytes(dev, most));
}

/* --- Clock ----------------------------------------------------------------------------------- */

void cuda_time_mark(struct device *dev, int slot)
{
    assert(slot >= 0 && slot < TIME_SLOTS);
    if (!dev->failed)
        CUDA_CALL(dev, cudaEventRecord(dev->marks[slot], dev->stream));
}

double cuda_time_between_us(struct device *dev, int from_slot, int to_slot)
{
    float ms = 0;
    assert(from_slot >= 0 && from_slot < TIME_SLOTS && to_slot >= 0 && to_slot < TIME_SLOTS);
    if (dev->failed || !CUDA_CALL(dev, cudaEventSynchronize(dev->marks[to_slot])) ||
        !CUDA_CALL(dev, cudaEventElapsedTime(&ms, dev->marks[from_slot], dev->marks[to_slot])))
        return 0;
    return (double)ms * 1e3;
}
