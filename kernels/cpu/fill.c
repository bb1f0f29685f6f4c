/* Random numbers for benchmarks.  Element i is word i % 4 of Philox block i / 4, so that every
 * backend gives the same numbers however it divides the work. */
#include "kernels/cpu/convert.h"
#include "kernels/cpu/cpu.h"
#include "kernels/philox.h"

/* Tells these numbers from the draws of tokens and maskers: "fill". */
#define PHILOX_FILL 0x66696C6Cu

enum { FILL_PER_TASK = 1 << 16 }; /* a multiple of 4 */

struct fill_job {
    void *p;
    size_t n;
    enum dtype dtype;
    float scale;
    uint64_t seed;
};

/* To nearest, ties to even; for finite numbers. */
static uint16_t f32_to_f16(float f)
{
    uint32_t bits = float_bits(f), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7FFFFFFFu;
    if (magnitude >= 0x477FF000u) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7C00u);
    if (magnitude < 0x38800000u) { /* below 2^-14: subnormal, in steps of 2^-24 */
        float steps = float_from_bits(magnitude) * 0x1p24f + 0x1p23f;
        return (uint16_t)(sign | (float_bits(steps) - 0x4B000000u));
    }
    uint32_t rounded = magnitude + 0xFFFu + (magnitude >> 13 & 1);
    return (uint16_t)(sign | ((rounded - 0x38000000u) >> 13));
}

static void store(void *p, enum dtype dtype, size_t i, float x)
{
    if (dtype == DTYPE_F32)
        ((float *)p)[i] = x;
    else
        ((uint16_t *)p)[i] = dtype == DTYPE_BF16 ? f32_to_bf16(x) : f32_to_f16(x);
}

static void fill_task(void *user, int task_index, int thread_index)
{
    (void)thread_index;
    const struct fill_job *job = user;
    size_t begin = (size_t)task_index * FILL_PER_TASK, left = job->n - begin;
    size_t end = begin + (left < FILL_PER_TASK ? left : FILL_PER_TASK);
    for (size_t i = begin; i < end; i += 4) {
        uint64_t block = i / 4;
        struct philox random =
            philox_4x32(job->seed, (uint32_t)block, (uint32_t)(block >> 32), 0, PHILOX_FILL);
        for (size_t j = 0; j < 4 && i + j < end; j++) {
            float x = 2.0f * philox_unit(random.word[j]) - 1.0f;
            store(job->p, job->dtype, i + j, x * job->scale);
        }
    }
}

void cpu_fill_random(struct device *dev, void *p, size_t n, enum dtype dtype, float scale,
                     uint64_t seed)
{
    if (cpu_failed(dev))
        return;
    struct fill_job job = {p, n, dtype, scale, seed};
    cpu_parallel(dev, (int)((n + FILL_PER_TASK - 1) / FILL_PER_TASK), fill_task, &job);
}
