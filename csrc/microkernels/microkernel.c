/* The table of microkernels: a row for each type and instruction set, best first. */
#include "microkernel.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define UNROLL _Pragma("GCC unroll 8")
#define UNROLL16 _Pragma("GCC unroll 16")

#if defined(__x86_64__)
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#define AVX2 __attribute__((target("avx2,fma")))

/* Compressed in a register, then a masked store: the one instruction that does both is slow on Zen. */
#define COMPRESS_F32(y, c, keep)                                                                                    \
    do {                                                                                                            \
        const __m512 kept = _mm512_maskz_compress_ps((__mmask16)(keep), _mm512_loadu_ps(c));                        \
        _mm512_mask_storeu_ps(y, (__mmask16)((1u << __builtin_popcount(keep)) - 1), kept);                          \
    } while (0)
#define COMPRESS_F64(y, c, keep)                                                                                    \
    do {                                                                                                            \
        const __m512d kept = _mm512_maskz_compress_pd((__mmask8)(keep), _mm512_loadu_pd(c));                        \
        _mm512_mask_storeu_pd(y, (__mmask8)((1u << __builtin_popcount(keep)) - 1), kept);                           \
    } while (0)

/* to[j*step + i] = from[i*ld + j] for i < rows, j < columns, both at most a vector, in registers. Nothing else is touched. */
static AVX512 void transpose_f32(const float *from, ptrdiff_t ld, int rows, int columns, float *to, ptrdiff_t step)
{
    __m512 r[16], t[16];
    const __mmask16 read = (__mmask16)((1u << columns) - 1);
    UNROLL16 for (int i = 0; i < 16; i++) r[i] = i < rows ? _mm512_maskz_loadu_ps(read, from + i * ld) : _mm512_setzero_ps();
    UNROLL16 for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    UNROLL16 for (int i = 0; i < 16; i += 4)
        UNROLL16 for (int j = 0; j < 2; j++) {
            const __m512d a = _mm512_castps_pd(t[i + j]), b = _mm512_castps_pd(t[i + j + 2]);
            r[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            r[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    /* r[i + j] holds, in quarter L, column 4L + j of rows i to i + 3. */
    UNROLL16 for (int j = 0; j < 4; j++) {
        t[j] = _mm512_shuffle_f32x4(r[j], r[4 + j], 0x88);
        t[4 + j] = _mm512_shuffle_f32x4(r[j], r[4 + j], 0xdd);
        t[8 + j] = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0x88);
        t[12 + j] = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0xdd);
    }
    UNROLL16 for (int j = 0; j < 4; j++) {
        r[j] = _mm512_shuffle_f32x4(t[j], t[8 + j], 0x88);
        r[8 + j] = _mm512_shuffle_f32x4(t[j], t[8 + j], 0xdd);
        r[4 + j] = _mm512_shuffle_f32x4(t[4 + j], t[12 + j], 0x88);
        r[12 + j] = _mm512_shuffle_f32x4(t[4 + j], t[12 + j], 0xdd);
    }
    const __mmask16 kept = (__mmask16)((1u << rows) - 1);
    UNROLL16 for (int j = 0; j < 16; j++)
        if (j < columns) _mm512_mask_storeu_ps(to + j * step, kept, r[j]);
}

static AVX512 void transpose_f64(const double *from, ptrdiff_t ld, int rows, int columns, double *to, ptrdiff_t step)
{
    __m512d r[8], t[8];
    const __mmask8 read = (__mmask8)((1u << columns) - 1);
    UNROLL for (int i = 0; i < 8; i++) r[i] = i < rows ? _mm512_maskz_loadu_pd(read, from + i * ld) : _mm512_setzero_pd();
    UNROLL for (int i = 0; i < 8; i += 2) {
        t[i] = _mm512_unpacklo_pd(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_pd(r[i], r[i + 1]);
    }
    /* t[i + j] holds, in quarter L, column 2L + j of rows i and i + 1. */
    UNROLL for (int j = 0; j < 2; j++) {
        const __m512d a = _mm512_shuffle_f64x2(t[j], t[2 + j], 0x88), b = _mm512_shuffle_f64x2(t[j], t[2 + j], 0xdd);
        const __m512d c = _mm512_shuffle_f64x2(t[4 + j], t[6 + j], 0x88), d = _mm512_shuffle_f64x2(t[4 + j], t[6 + j], 0xdd);
        r[j] = _mm512_shuffle_f64x2(a, c, 0x88);
        r[4 + j] = _mm512_shuffle_f64x2(a, c, 0xdd);
        r[2 + j] = _mm512_shuffle_f64x2(b, d, 0x88);
        r[6 + j] = _mm512_shuffle_f64x2(b, d, 0xdd);
    }
    const __mmask8 kept = (__mmask8)((1u << rows) - 1);
    UNROLL for (int j = 0; j < 8; j++)
        if (j < columns) _mm512_mask_storeu_pd(to + j * step, kept, r[j]);
}

#define NAME f32_avx512
#define TRANSPOSE transpose_f32
#define COMPRESS COMPRESS_F32
#define ISA "avx512"
#define LEVEL LEVEL_AVX512
#define T float
#define TYPE IM2COLX_F32
#define BYTES 64
#define VECTORS 4
#define TARGET AVX512
#include "template.h"

#define NAME f64_avx512
#define TRANSPOSE transpose_f64
#define COMPRESS COMPRESS_F64
#define ISA "avx512"
#define LEVEL LEVEL_AVX512
#define T double
#define TYPE IM2COLX_F64
#define BYTES 64
#define VECTORS 4
#define TARGET AVX512
#include "template.h"

/* Sixteen registers: six rows of two vectors, two of b and one of a. */
#define NAME f32_avx2
#define ISA "avx2"
#define LEVEL LEVEL_AVX2
#define T float
#define TYPE IM2COLX_F32
#define BYTES 32
#define VECTORS 2
#define TARGET AVX2
#include "template.h"

#define NAME f64_avx2
#define ISA "avx2"
#define LEVEL LEVEL_AVX2
#define T double
#define TYPE IM2COLX_F64
#define BYTES 32
#define VECTORS 2
#define TARGET AVX2
#include "template.h"
#endif

/* NEON has thirty-two registers; SSE2, and who knows what elsewhere, sixteen. */
#if defined(__aarch64__)
#define VECTORS_128 4
#else
#define VECTORS_128 2
#endif

#define NAME f32_simd128
#define ISA SIMD128_NAME
#define LEVEL LEVEL_SIMD128
#define T float
#define TYPE IM2COLX_F32
#define BYTES 16
#define VECTORS VECTORS_128
#define TARGET
#include "template.h"

#define NAME f64_simd128
#define ISA SIMD128_NAME
#define LEVEL LEVEL_SIMD128
#define T double
#define TYPE IM2COLX_F64
#define BYTES 16
#define VECTORS VECTORS_128
#define TARGET
#include "template.h"

/* Vectors of one element: plain C. */
#define NAME f32_scalar
#define ISA "scalar"
#define LEVEL LEVEL_SCALAR
#define T float
#define TYPE IM2COLX_F32
#define BYTES 4
#define VECTORS 2
#define TARGET
#include "template.h"

#define NAME f64_scalar
#define ISA "scalar"
#define LEVEL LEVEL_SCALAR
#define T double
#define TYPE IM2COLX_F64
#define BYTES 8
#define VECTORS 2
#define TARGET
#include "template.h"

static const microkernel *const table[] = {
#if defined(__x86_64__)
    &row_f32_avx512, &row_f64_avx512, &row_f32_avx2, &row_f64_avx2,
#endif
    &row_f32_simd128, &row_f64_simd128, &row_f32_scalar, &row_f64_scalar,
};

const microkernel *find_microkernel(im2colx_type type)
{
    const int level = cpu_level();
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i]->type == type && table[i]->level <= level) return table[i];
    return NULL;
}
