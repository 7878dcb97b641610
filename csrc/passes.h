/* Passes over vectors, element by element: the steps of the optimizers and the rectifier. */
#ifndef IM2COLX_PASSES_H
#define IM2COLX_PASSES_H

#include "im2colx.h"

/* Does `count` elements of the call's pass; `in` and `out` as in the call, but where these elements begin. */
typedef void (*pass_function)(const im2colx_pass_call *call, const void *in, void *const *out, ptrdiff_t count);

/* The one for the call's pass and type, on the instruction set in force. */
pass_function find_pass(const im2colx_pass_call *call);

#endif
