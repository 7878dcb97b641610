/* The direct loops: the definition of convolution and of its two gradients, written out. The baseline.
 *
 *   forward      y[n, f, o] = bias[f] + sum over c, k of  w[f, c, k] * x[n, c, o*stride + k*dilation - pad]
 *   grad_input   x[n, c, i] = sum over f and the (o, k) with o*stride + k*dilation - pad = i of  conj(w[f, c, k]) * y[n, f, o]
 *   grad_weight  w[f, c, k] = sum over n, o of  y[n, f, o] * conj(x[n, c, o*stride + k*dilation - pad])
 *
 * x outside the image is an explicit zero that is multiplied like any number (0 * inf = NaN), so every method agrees.
 * One body a type: loops_template.h.
 */
#include "index_map.h"
#include "threads.h"

#include <complex.h>
#include <stdint.h>

/* Within a sum, ask after this many products (some microseconds) whether to stop, not only around it. */
enum { LONG_SUM = 4096 };

static inline ptrdiff_t at_space(const im2colx_tensor *t, const ptrdiff_t i[IM2COLX_AXES])
{
    return i[0] * t->space[0] + i[1] * t->space[1] + i[2] * t->space[2];
}

/* C11's macros, which glibc withholds from clang. */
#ifndef CMPLX
#define CMPLX(real, imaginary) __builtin_complex((double)(real), (double)(imaginary))
#define CMPLXF(real, imaginary) __builtin_complex((float)(real), (float)(imaginary))
#endif

/* Complex products by the formula, as NumPy has them: C's operator would call a routine that repairs infinities. */
#define TIMES(a, b) ((a) * (b))
#define CTIMESF(a, b) \
    CMPLXF(crealf(a) * crealf(b) - cimagf(a) * cimagf(b), crealf(a) * cimagf(b) + cimagf(a) * crealf(b))
#define CTIMES(a, b) CMPLX(creal(a) * creal(b) - cimag(a) * cimag(b), creal(a) * cimag(b) + cimag(a) * creal(b))
#define SAME(a) (a)
#define ANY(a) 1
#define FITS_INT64(a) ((a) >= INT64_MIN && (a) <= INT64_MAX)

/* Integers are computed unsigned: the caller bounds the sums, and a wrap must not be undefined. */
#define NAME f32
#define T float
#define SUM float
#define MULTIPLY TIMES
#define CONJUGATE SAME
#define FITS ANY
#include "loops_template.h"

#define NAME f64
#define T double
#define SUM double
#define MULTIPLY TIMES
#define CONJUGATE SAME
#define FITS ANY
#include "loops_template.h"

#define NAME c64
#define T float complex
#define SUM float complex
#define MULTIPLY CTIMESF
#define CONJUGATE conjf
#define FITS ANY
#include "loops_template.h"

#define NAME c128
#define T double complex
#define SUM double complex
#define MULTIPLY CTIMES
#define CONJUGATE conj
#define FITS ANY
#include "loops_template.h"

#define NAME i32
#define T uint32_t
#define SUM uint32_t
#define MULTIPLY TIMES
#define CONJUGATE SAME
#define FITS ANY
#include "loops_template.h"

#define NAME i64
#define T uint64_t
#define SUM uint64_t
#define MULTIPLY TIMES
#define CONJUGATE SAME
#define FITS ANY
#include "loops_template.h"

__extension__ typedef __int128 wide;
#define NAME wide64
#define T int64_t
#define SUM wide
#define MULTIPLY TIMES
#define CONJUGATE SAME
#define FITS FITS_INT64
#include "loops_template.h"

static const struct {
    im2colx_work forward, grad_input, grad_weight;
} loops[IM2COLX_TYPES] = {
#define ROW(TYPE, NAME) [TYPE] = {forward_##NAME, grad_input_##NAME, grad_weight_##NAME}
    ROW(IM2COLX_F32, f32), ROW(IM2COLX_F64, f64), ROW(IM2COLX_C64, c64), ROW(IM2COLX_C128, c128),
    ROW(IM2COLX_I32, i32), ROW(IM2COLX_I64, i64), ROW(IM2COLX_WIDE64, wide64),
#undef ROW
};

im2colx_status im2colx_loops(const im2colx_call *call)
{
    const im2colx_geometry *g = &call->geometry;
    im2colx_work work = loops[call->type].forward;
    ptrdiff_t tasks = g->batch * g->groups * g->filters * g->output[0] * g->output[1];
    if (call->op == IM2COLX_GRAD_INPUT) {
        work = loops[call->type].grad_input;
        tasks = g->batch * g->groups * g->channels * g->image[0] * g->image[1];
    } else if (call->op == IM2COLX_GRAD_WEIGHT) {
        work = loops[call->type].grad_weight;
        tasks = g->groups * g->filters * g->channels * taps_of(g);
    }
    return im2colx_run(tasks, call->threads, work, (void *)call, call->poll);
}
