/* Passes over vectors: what each optimizer makes of a gradient, and the rectifier. One pass reads and writes every element
 * once, whatever it computes on the way: for vectors of millions of numbers the memory sets the time.
 *
 * Products and sums are rounded one by one, never contracted to a fused multiply-add, and division and square root are those
 * of IEEE 754. So the bits are those of the same formulas in NumPy, on every instruction set and for any number of threads.
 */
#include "passes.h"
#include "threads.h"

#include <math.h>
#include <stddef.h>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=off")
#define WIDE ",prefer-vector-width=512"
#define INDEPENDENT _Pragma("GCC ivdep")
#else
#pragma STDC FP_CONTRACT OFF
#define WIDE
#define INDEPENDENT
#endif

/* Elements of a task: 64 KiB to 128 KiB of each vector, so that a step over millions is shared evenly and can be stopped. */
enum { TASK_ELEMENTS = 16 << 10 };

#if defined(__x86_64__)
#include "cpu.h"

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2" WIDE)))
#define AVX2 __attribute__((target("avx2")))

#define NAME f32_avx512
#define T float
#define SQRT sqrtf
#define TARGET AVX512
#include "passes_template.h"

#define NAME f64_avx512
#define T double
#define SQRT sqrt
#define TARGET AVX512
#include "passes_template.h"

#define NAME f32_avx2
#define T float
#define SQRT sqrtf
#define TARGET AVX2
#include "passes_template.h"

#define NAME f64_avx2
#define T double
#define SQRT sqrt
#define TARGET AVX2
#include "passes_template.h"
#endif

#define NAME f32_base
#define T float
#define SQRT sqrtf
#define TARGET
#include "passes_template.h"

#define NAME f64_base
#define T double
#define SQRT sqrt
#define TARGET
#include "passes_template.h"

pass_function find_pass(const im2colx_pass_call *call)
{
    const int is_double = call->type == IM2COLX_F64;
#if defined(__x86_64__)
    if (cpu_level() >= LEVEL_AVX512) return (is_double ? passes_f64_avx512 : passes_f32_avx512)[call->pass];
    if (cpu_level() >= LEVEL_AVX2) return (is_double ? passes_f64_avx2 : passes_f32_avx2)[call->pass];
#endif
    return (is_double ? passes_f64_base : passes_f32_base)[call->pass];
}

typedef struct {
    const im2colx_pass_call *call;
    pass_function function;
    ptrdiff_t size;
} work;

static void pass_task(void *argument, ptrdiff_t task, int worker, im2colx_job *job)
{
    const work *w = argument;
    const ptrdiff_t begin = task * TASK_ELEMENTS, left = w->call->count - begin;
    void *out[IM2COLX_PASS_VECTORS];
    (void)worker, (void)job;
    for (int i = 0; i < IM2COLX_PASS_VECTORS; i++)
        out[i] = w->call->out[i] ? (char *)w->call->out[i] + begin * w->size : NULL;
    w->function(w->call, (const char *)w->call->in + begin * w->size, out, left < TASK_ELEMENTS ? left : TASK_ELEMENTS);
}

im2colx_status im2colx_pass(const im2colx_pass_call *call)
{
    const work w = {call, find_pass(call), (ptrdiff_t)im2colx_itemsize(call->type)};
    return im2colx_run((call->count + TASK_ELEMENTS - 1) / TASK_ELEMENTS, call->threads, pass_task, (void *)&w, call->poll);
}
