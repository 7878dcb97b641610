/* What this machine can do, asked once. */
#include "cpu.h"

#include "im2colx.h"

#include <stdatomic.h>
#include <string.h>

static const char *const names[LEVELS] = {"scalar", SIMD128_NAME, "avx2", "avx512"};

static atomic_int forced = LEVELS - 1;

static int detected(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return LEVEL_SIMD128;
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")
                   && __builtin_cpu_supports("avx512vl")
               ? LEVEL_AVX512 : LEVEL_AVX2;
#else
    return LEVEL_SIMD128;
#endif
}

int cpu_level(void)
{
    static atomic_int found = -1;
    int level = atomic_load_explicit(&found, memory_order_relaxed);
    if (level < 0) atomic_store_explicit(&found, level = detected(), memory_order_relaxed);
    const int most = atomic_load_explicit(&forced, memory_order_relaxed);
    return level < most ? level : most;
}

const char *im2colx_isa_name(int level) { return level >= 0 && level <= detected() ? names[level] : NULL; }

const char *im2colx_isa(void) { return names[cpu_level()]; }

int im2colx_set_isa(const char *name)
{
    for (int level = 0; level <= detected(); level++)
        if (!strcmp(name, names[level])) {
            atomic_store(&forced, level);
            return 1;
        }
    return 0;
}
