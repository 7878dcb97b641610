/* What this machine can do, asked once. */
#include "im2colx.h"

const char *im2colx_cpu_features(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    const int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
                       && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return avx512 ? "sse2,avx2+fma,avx512" : avx2 ? "sse2,avx2+fma" : "sse2";
#elif defined(__aarch64__)
    return "neon";
#else
    return "";
#endif
}
