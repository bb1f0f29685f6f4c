/* Which instructions this processor has, and what it is called. */
#include <stdio.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

static enum cpu_isa newest(void)
{
#if defined(__x86_64__)
    /* __builtin_cpu_supports also asks the operating system whether it saves the registers. */
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return CPU_ISA_REFERENCE;
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_F16C))
        return CPU_ISA_REFERENCE;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return CPU_ISA_AVX2;
    return __builtin_cpu_supports("avx512bf16") ? CPU_ISA_AVX512_BF16 : CPU_ISA_AVX512;
#else
    return CPU_ISA_REFERENCE;
#endif
}

enum cpu_isa cpu_isa_detect(enum device_isa cap)
{
    enum cpu_isa isa = newest();
    if (cap == DEVICE_ISA_REFERENCE)
        return CPU_ISA_REFERENCE;
    if (cap == DEVICE_ISA_AVX2 && isa > CPU_ISA_AVX2)
        return CPU_ISA_AVX2;
    if (cap == DEVICE_ISA_AVX512 && isa > CPU_ISA_AVX512)
        return CPU_ISA_AVX512;
    return isa;
}

const char *cpu_isa_name(enum cpu_isa isa)
{
    static const char *const names[] = {"plain C", "AVX2", "AVX-512", "AVX-512 BF16"};
    return names[isa];
}

void cpu_processor_name(char *out, size_t n_out)
{
    snprintf(out, n_out, "CPU");
#if defined(__x86_64__)
    unsigned words[12];
    if (!__get_cpuid(0x80000002u, &words[0], &words[1], &words[2], &words[3]) ||
        !__get_cpuid(0x80000003u, &words[4], &words[5], &words[6], &words[7]) ||
        !__get_cpuid(0x80000004u, &words[8], &words[9], &words[10], &words[11]))
        return;
    char name[sizeof words + 1];
    memcpy(name, words, sizeof words);
    name[sizeof words] = '\0';
    const char *start = name + strspn(name, " ");
    size_t length = strlen(start);
    while (length && start[length - 1] == ' ')
        length--;
    if (length)
        snprintf(out, n_out, "%.*s", (int)length, start);
#endif
}
