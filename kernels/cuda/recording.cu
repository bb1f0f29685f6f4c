/* Recording: a CUDA graph of the operations between record_begin and record_end. */
#include "kernels/cuda/cuda.cuh"

#include <stdlib.h>

struct recording {
    cudaGraphExec_t exec;
};

bool cuda_record_begin(struct device *dev)
{
    assert(!dev->recording);
    if (dev->failed ||
        !CUDA_CALL(dev, cudaStreamBeginCapture(dev->stream, cudaStreamCaptureModeThreadLocal)))
        return false;
    dev->recording = true;
    return true;
}

struct recording *cuda_record_end(struct device *dev)
{
    assert(dev->recording);
    cudaGraph_t graph = NULL;
    struct recording *recording = (struct recording *)calloc(1, sizeof *recording);
    dev->recording = false;
    /* A capture is ended even after a failure, or the stream stays unusable. */
    cudaError_t error = cudaStreamEndCapture(dev->stream, &graph);
    cuda_check(dev, cuda_fault_due(dev) ? cudaErrorUnknown : error, "cudaStreamEndCapture");
    if (!recording)
        cuda_fail(dev, "no host memory for a recording");
    if (!dev->failed && CUDA_CALL(dev, cudaGraphInstantiate(&recording->exec, graph, 0)))
        CUDA_CALL(dev, cudaGraphUpload(recording->exec, dev->stream));
    if (graph)
        cudaGraphDestroy(graph);
    if (!dev->failed)
        return recording;
    cuda_recording_close(dev, recording);
    return NULL;
}

void cuda_replay(struct device *dev, struct recording *recording)
{
    assert(!dev->recording);
    if (!dev->failed)
        CUDA_CALL(dev, cudaGraphLaunch(recording->exec, dev->stream));
}

void cuda_recording_close(struct device *dev, struct recording *recording)
{
    (void)dev;
    if (!recording)
        return;
    if (recording->exec && cudaGraphExecDestroy(recording->exec) != cudaSuccess)
        cudaGetLastError();
    free(recording);
}
