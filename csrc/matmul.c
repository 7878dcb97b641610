/* Integer matrix products, where there is no BLAS: rows of b are added to rows of c, so the inner loop is a vector loop.
 * Unsigned inside, because the caller bounds the sums and a wrap must not be undefined. */
#include "im2colx.h"

#include <stdint.h>
#include <string.h>

#define DEFINE_MATMUL(NAME, T)                                                                                       \
    void NAME(int transpose_a, int transpose_b, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *a_, ptrdiff_t lda, \
              const void *b_, ptrdiff_t ldb, int accumulate, void *c_, ptrdiff_t ldc)                                \
    {                                                                                                                \
        const T *a = a_, *b = b_;                                                                                    \
        T *c = c_;                                                                                                   \
        const ptrdiff_t a_row = transpose_a ? 1 : lda, a_column = transpose_a ? lda : 1;                             \
        for (ptrdiff_t i = 0; i < m; i++) {                                                                          \
            T *restrict row = c + i * ldc;                                                                           \
            if (!accumulate) memset(row, 0, (size_t)n * sizeof(T));                                                  \
            if (transpose_b) {                                                                                       \
                for (ptrdiff_t j = 0; j < n; j++) {                                                                  \
                    T sum = 0;                                                                                       \
                    for (ptrdiff_t l = 0; l < k; l++) sum += a[i * a_row + l * a_column] * b[j * ldb + l];           \
                    row[j] += sum;                                                                                   \
                }                                                                                                    \
            } else {                                                                                                 \
                for (ptrdiff_t l = 0; l < k; l++) {                                                                  \
                    const T factor = a[i * a_row + l * a_column];                                                    \
                    for (ptrdiff_t j = 0; j < n; j++) row[j] += factor * b[l * ldb + j];                             \
                }                                                                                                    \
            }                                                                                                        \
        }                                                                                                            \
    }
DEFINE_MATMUL(im2colx_matmul_i32, uint32_t)
DEFINE_MATMUL(im2colx_matmul_i64, uint64_t)
