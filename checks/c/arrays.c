/* Arrays of any strides in memory that is exactly as large as they are, and the definition of convolution on them: see
 * harness.h. */
#include "harness.h"

#include <stdlib.h>
#include <string.h>

/* ---- Elements -------------------------------------------------------------------------------------------------------- */

const char *type_name(im2colx_type type)
{
    static const char *const names[] = {"f32", "f64", "c64", "c128", "i32", "i64", "wide64"};
    return names[type];
}

int is_complex(im2colx_type type) { return type == IM2COLX_C64 || type == IM2COLX_C128; }

static int is_float(im2colx_type type) { return type == IM2COLX_F32 || type == IM2COLX_F64; }

value load(im2colx_type type, const void *from)
{
    float f[2];
    double d[2];
    int32_t i;
    int64_t l;
    switch (type) {
    case IM2COLX_F32: memcpy(f, from, 4); return f[0];
    case IM2COLX_F64: memcpy(d, from, 8); return d[0];
    case IM2COLX_C64: memcpy(f, from, 8); return CMPLX(f[0], f[1]);
    case IM2COLX_C128: memcpy(d, from, 16); return CMPLX(d[0], d[1]);
    case IM2COLX_I32: memcpy(&i, from, 4); return i;
    default: memcpy(&l, from, 8); return (double)l;
    }
}

void store(im2colx_type type, void *to, value v)
{
    const float f[2] = {(float)creal(v), (float)cimag(v)};
    const double d[2] = {creal(v), cimag(v)};
    const int32_t i = is_float(type) || is_complex(type) ? 0 : (int32_t)creal(v);
    const int64_t l = i;
    switch (type) {
    case IM2COLX_F32: memcpy(to, f, 4); break;
    case IM2COLX_F64: memcpy(to, d, 8); break;
    case IM2COLX_C64: memcpy(to, f, 8); break;
    case IM2COLX_C128: memcpy(to, d, 16); break;
    case IM2COLX_I32: memcpy(to, &i, 4); break;
    default: memcpy(to, &l, 8);
    }
}

static char *address(const array *a, const ptrdiff_t at[ARRAY_AXES])
{
    ptrdiff_t offset = at[0] * a->tensor.outer + at[1] * a->tensor.channel;
    for (int axis = 0; axis < AXES; axis++) offset += at[2 + axis] * a->tensor.space[axis];
    return (char *)a->tensor.data + offset * (ptrdiff_t)im2colx_itemsize(a->type);
}

value get(const array *a, const ptrdiff_t at[ARRAY_AXES]) { return load(a->type, address(a, at)); }
void put(array *a, const ptrdiff_t at[ARRAY_AXES], value v) { store(a->type, address(a, at), v); }

static int same_number(double a, double b) { return a == b || (a != a && b != b); }
int same(value a, value b) { return same_number(creal(a), creal(b)) && same_number(cimag(a), cimag(b)); }

value times(im2colx_type type, value a, value b)
{
    if (!is_complex(type)) return creal(a) * creal(b);
    return CMPLX(creal(a) * creal(b) - cimag(a) * cimag(b), creal(a) * cimag(b) + cimag(a) * creal(b));
}

/* ---- Arrays ---------------------------------------------------------------------------------------------------------- */

static ptrdiff_t size_of(const ptrdiff_t count[ARRAY_AXES])
{
    ptrdiff_t size = 1;
    for (int axis = 0; axis < ARRAY_AXES; axis++) size *= count[axis];
    return size;
}

/* The axes from the outermost in. */
static void axes_of(randoms *r, char which, strides_kind kind, int order[ARRAY_AXES])
{
    static const int first[] = {0, 1, 2, 3, 4}, image_last[] = {0, 2, 3, 4, 1}, weight_last[] = {2, 3, 4, 1, 0};
    memcpy(order, kind == FIRST ? first : which == 'w' ? weight_last : image_last, sizeof first);
    for (int i = ARRAY_AXES - 1; kind == ANY && i > 0; i--) {
        const ptrdiff_t j = between(r, 0, i);
        const int swapped = order[i];
        order[i] = order[j];
        order[j] = swapped;
    }
}

static void fill(randoms *r, array *a)
{
    ptrdiff_t at[ARRAY_AXES] = {0};
    const double lowest = a->type == IM2COLX_I32 || a->type == IM2COLX_I64 || a->type == IM2COLX_WIDE64 ? -9 : -3;
    do {
        const double real = lowest + (double)between(r, 0, (ptrdiff_t)(-2 * lowest));
        put(a, at, is_complex(a->type) ? CMPLX(real, (double)between(r, -3, 3)) : CMPLX(real, 0));
    } while (advance(a->count, ARRAY_AXES, at));
    if (is_float(a->type) && one_in(r, 12)) { /* one that is not finite */
        for (int axis = 0; axis < ARRAY_AXES; axis++) at[axis] = between(r, 0, a->count[axis] - 1);
        put(a, at, one_in(r, 2) ? __builtin_inf() : __builtin_nan(""));
    }
}

array make_array(randoms *r, im2colx_type type, char which, const ptrdiff_t count[ARRAY_AXES], strides_kind kind, int is_input)
{
    array a = {.type = type};
    const ptrdiff_t size = (ptrdiff_t)im2colx_itemsize(type);
    ptrdiff_t *const strides[] = {&a.tensor.outer, &a.tensor.channel, a.tensor.space, a.tensor.space + 1, a.tensor.space + 2};
    ptrdiff_t step = 1, low = 0, high = 0; /* elements before and behind the first */
    int order[ARRAY_AXES];
    memcpy(a.count, count, sizeof a.count);
    axes_of(r, which, kind, order);
    for (int i = ARRAY_AXES - 1; i >= 0; i--) {
        const ptrdiff_t n = count[order[i]];
        if (kind == ANY && one_in(r, 3)) step += between(r, 1, 3);
        *strides[order[i]] = kind == ANY && is_input && one_in(r, 12) ? 0 : kind == ANY && one_in(r, 4) ? -step : step;
        const ptrdiff_t reach = n > 0 ? (n - 1) * *strides[order[i]] : 0;
        if (reach < 0) low -= reach;
        else high += reach;
        step *= n > 0 ? n : 1;
    }
    /* Some begin with the memory, so that nothing lies before them; others where no vector is aligned. */
    const ptrdiff_t lead = one_in(r, 2) ? 0 : between(r, 1, 15);
    const int is_empty = size_of(count) == 0;
    a.bytes = is_empty ? 0 : (size_t)((lead + low + high + 1) * size);
    a.memory = malloc(a.bytes);
    a.before = malloc(a.bytes);
    if (a.bytes && (!a.memory || !a.before)) abort();
    a.tensor.data = a.memory + (is_empty ? 0 : (lead + low) * size);
    if (a.bytes) memset(a.memory, 0xff, a.bytes);
    if (is_input && !is_empty) fill(r, &a);
    if (a.bytes) memcpy(a.before, a.memory, a.bytes);
    return a;
}

void free_array(array *a)
{
    free(a->memory);
    free(a->before);
    a->memory = a->before = NULL;
}

int is_intact(const array *a, int is_output)
{
    if (is_output && a->bytes) { /* the elements may be what they are */
        array copy = *a;
        ptrdiff_t at[ARRAY_AXES] = {0};
        copy.tensor.data = a->before + ((char *)a->tensor.data - a->memory);
        do memcpy(address(&copy, at), address(a, at), im2colx_itemsize(a->type));
        while (advance(a->count, ARRAY_AXES, at));
    }
    return !a->bytes || !memcmp(a->memory, a->before, a->bytes);
}

/* ---- The definition -------------------------------------------------------------------------------------------------- */

static ptrdiff_t flat(const ptrdiff_t count[ARRAY_AXES], const ptrdiff_t at[ARRAY_AXES])
{
    ptrdiff_t index = 0;
    for (int axis = 0; axis < ARRAY_AXES; axis++) index = index * count[axis] + at[axis];
    return index;
}

value *define(const im2colx_call *call, const array *x, const array *w, const array *y)
{
    const im2colx_geometry *g = &call->geometry;
    const array *target = call->op == IM2COLX_FORWARD ? y : call->op == IM2COLX_GRAD_INPUT ? x : w;
    value *sums = calloc((size_t)size_of(target->count) + 1, sizeof *sums);
    if (!sums) abort();
    ptrdiff_t at_y[ARRAY_AXES] = {0}, k[1 + AXES];
    const ptrdiff_t taps[1 + AXES] = {g->channels, g->kernel[0], g->kernel[1], g->kernel[2]};
    if (size_of(y->count) == 0) return sums;
    do {
        const ptrdiff_t f = at_y[1], group = f / g->filters;
        value *const sum_y = sums + flat(y->count, at_y);
        const value grad = call->op == IM2COLX_FORWARD ? 0 : get(y, at_y);
        if (call->op == IM2COLX_FORWARD && call->bias)
            *sum_y = load(call->type, (const char *)call->bias + f * (ptrdiff_t)im2colx_itemsize(call->type));
        memset(k, 0, sizeof k);
        do {
            const ptrdiff_t at_w[ARRAY_AXES] = {f, k[0], k[1], k[2], k[3]};
            ptrdiff_t at_x[ARRAY_AXES] = {at_y[0], group * g->channels + k[0]};
            int inside = 1;
            for (int axis = 0; axis < AXES; axis++) {
                const wide i = position(g, axis, at_y[2 + axis], k[1 + axis]);
                inside &= i >= 0 && i < g->image[axis];
                at_x[2 + axis] = (ptrdiff_t)i;
            }
            const value pixel = inside && call->op != IM2COLX_GRAD_INPUT ? get(x, at_x) : 0;
            if (call->op == IM2COLX_FORWARD) *sum_y += times(call->type, get(w, at_w), pixel);
            else if (call->op == IM2COLX_GRAD_WEIGHT) sums[flat(w->count, at_w)] += times(call->type, grad, conj(pixel));
            else if (inside) sums[flat(x->count, at_x)] += times(call->type, conj(get(w, at_w)), grad);
        } while (advance(taps, 1 + AXES, k));
    } while (advance(y->count, ARRAY_AXES, at_y));
    return sums;
}

/* ---- A product in the place of BLAS ---------------------------------------------------------------------------------- */

#define DEFINE_MATMUL(NAME, T, CONJUGATE)                                                                                    \
    static void NAME(int transpose_a, int transpose_b, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *a_, ptrdiff_t lda, \
                     const void *b_, ptrdiff_t ldb, int accumulate, void *c_, ptrdiff_t ldc)                                 \
    {                                                                                                                        \
        const T *a = a_, *b = b_;                                                                                            \
        T *c = c_;                                                                                                           \
        for (ptrdiff_t i = 0; i < m; i++)                                                                                    \
            for (ptrdiff_t j = 0; j < n; j++) {                                                                              \
                T sum = accumulate ? c[i * ldc + j] : 0;                                                                     \
                for (ptrdiff_t l = 0; l < k; l++)                                                                            \
                    sum += (transpose_a ? CONJUGATE(a[l * lda + i]) : a[i * lda + l])                                        \
                           * (transpose_b ? CONJUGATE(b[j * ldb + l]) : b[l * ldb + j]);                                     \
                c[i * ldc + j] = sum;                                                                                        \
            }                                                                                                                \
    }
#define SAME(number) (number)
DEFINE_MATMUL(matmul_f32, float, SAME)
DEFINE_MATMUL(matmul_f64, double, SAME)
DEFINE_MATMUL(matmul_c64, float complex, conjf)
DEFINE_MATMUL(matmul_c128, double complex, conj)

im2colx_matmul matmul_of(im2colx_type type)
{
    static const im2colx_matmul products[] = {matmul_f32, matmul_f64, matmul_c64, matmul_c128,
                                              im2colx_matmul_i32, im2colx_matmul_i64, NULL};
    return products[type];
}
