/* The ladder of instruction sets, best last. The level in force is found once, and may be lowered by name. */
#ifndef IM2COLX_CPU_H
#define IM2COLX_CPU_H

/* The name of the level of 16-byte vectors, which every machine has. */
#if defined(__aarch64__)
#define SIMD128_NAME "neon"
#elif defined(__x86_64__)
#define SIMD128_NAME "sse2"
#else
#define SIMD128_NAME "vector128" /* whatever the compiler makes of them */
#endif

enum { LEVEL_SCALAR, LEVEL_SIMD128, LEVEL_AVX2, LEVEL_AVX512, LEVELS };

/* The level in force: what this machine has, or less if im2colx_set_isa asked for less. */
int cpu_level(void);

#endif
