/* What is not a convolution: the patch matrix, its adjoint and its Gram matrix, the sparse matrix of a convolution, products
 * and passes of networks, and the pool by itself. */
#ifndef OTHERS_H
#define OTHERS_H

#include <stddef.h>
#include <stdint.h>

/* One of them, drawn by the seed and the number, compared with its definition. */
void other_call(uint64_t seed, ptrdiff_t number);
long others_compared(void);

#endif
