/* The rest of core_check: the patch matrix, the sparse matrix, products of matrices, and passes. */
#include "core_check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- A plain product in BLAS's place ------------------------------------------------------------------------------- */

static void plain_product(im2colx_type type, int ta, int tb, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *a,
                          ptrdiff_t lda, const void *b, ptrdiff_t ldb, int accumulate, void *c, ptrdiff_t ldc)
{
    for (ptrdiff_t i = 0; i < m; i++)
        for (ptrdiff_t j = 0; j < n; j++) {
            number sum = accumulate ? load(type, c, i * ldc + j) : 0;
            for (ptrdiff_t l = 0; l < k; l++) {
                const number left = ta ? conj(load(type, a, l * lda + i)) : load(type, a, i * lda + l);
                sum += left * (tb ? conj(load(type, b, j * ldb + l)) : load(type, b, l * ldb + j));
            }
            store(type, c, i * ldc + j, sum);
        }
}

#define PRODUCT(TYPE)                                                                                                   \
    static void product_##TYPE(int ta, int tb, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *a, ptrdiff_t lda,     \
                               const void *b, ptrdiff_t ldb, int accumulate, void *c, ptrdiff_t ldc)                    \
    {                                                                                                                   \
        plain_product(IM2COLX_##TYPE, ta, tb, m, n, k, a, lda, b, ldb, accumulate, c, ldc);                             \
    }
PRODUCT(F32)
PRODUCT(F64)
PRODUCT(C64)
PRODUCT(C128)

im2colx_matmul matmul_of(im2colx_type type)
{
    static const im2colx_matmul products[] = {[IM2COLX_F32] = product_F32, [IM2COLX_F64] = product_F64,
                                              [IM2COLX_C64] = product_C64, [IM2COLX_C128] = product_C128,
                                              [IM2COLX_I32] = im2colx_matmul_i32, [IM2COLX_I64] = im2colx_matmul_i64,
                                              [IM2COLX_WIDE64] = NULL};
    return products[type];
}

/* ---- Matrices -------------------------------------------------------------------------------------------------------- */

static void *filled(im2colx_type type, const number *values, ptrdiff_t count)
{
    void *memory = room(type, count);
    for (ptrdiff_t i = 0; i < count; i++) store(type, memory, i, values[i]);
    return memory;
}

static void same(const problem *p, im2colx_type type, const void *is, const number *expected, ptrdiff_t count)
{
    char text[120];
    for (ptrdiff_t i = 0; i < count; i++)
        if (load(type, is, i) != expected[i]) {
            snprintf(text, sizeof text, "element %td is %g, but must be %g", i, creal(load(type, is, i)), creal(expected[i]));
            fail(p, text);
        }
    tried++;
}

/* The sparse matrix of the convolution, times an image, is the convolution of the image. Channels first are laid out as
 * `x`, `w` and `y` are; with channels last the rows and columns are only numbered otherwise. */
void check_csr(const problem *p, const number *x, const number *w, const number *y)
{
    const im2colx_geometry *g = &p->g;
    const ptrdiff_t outputs = outputs_of(g), filters = g->filters * g->groups, rows = filters * outputs;
    const ptrdiff_t pixels = g->image[0] * g->image[1] * g->image[2], channels = g->channels * g->groups;
    const ptrdiff_t taps = taps_of(g), columns = g->channels * taps;
    doing = "csr";
    number *matrix = malloc((size_t)(filters * columns) * sizeof *matrix);
    for (ptrdiff_t f = 0; f < filters; f++)
        for (ptrdiff_t c = 0; c < g->channels; c++)
            for (ptrdiff_t t = 0; t < taps; t++)
                matrix[f * columns + (p->is_last ? t * g->channels + c : c * taps + t)] = w[(f * g->channels + c) * taps + t];
    void *weights = filled(p->type, matrix, filters * columns), *data = room(p->type, rows * columns);
    int32_t *indptr = malloc((size_t)(rows + 1) * sizeof *indptr);
    int32_t *indices = malloc((size_t)(rows * columns + 1) * sizeof *indices);
    must(p, im2colx_csr(g, p->is_last ? IM2COLX_CHANNELS_LAST : IM2COLX_CHANNELS_FIRST, 0, im2colx_itemsize(p->type), weights,
                        sizeof *indptr, indptr, indices, data, (int)any(1, 3), NULL));
    for (ptrdiff_t row = 0; row < rows; row++) {
        const ptrdiff_t f = p->is_last ? row % filters : row / outputs, o = p->is_last ? row / filters : row % outputs;
        number sum = 0;
        for (ptrdiff_t i = indptr[row]; i < indptr[row + 1]; i++) {
            const ptrdiff_t at = indices[i];
            if (at < 0 || at >= channels * pixels) fail(p, "a column beyond the image");
            sum += load(p->type, data, i) * x[p->is_last ? at % channels * pixels + at / channels : at];
        }
        if (sum != y[f * outputs + o]) fail(p, "the matrix times the image is not the convolution");
    }
    free(matrix), free(weights), free(data), free(indptr), free(indices);
}

/* Phi by its definition; zero in the padding. One group. */
static void define_patches(const problem *p, const number *x, number *phi)
{
    const im2colx_geometry *g = &p->g;
    const ptrdiff_t taps = taps_of(g), outputs = outputs_of(g), columns = g->channels * taps;
    const ptrdiff_t pixels = g->image[0] * g->image[1] * g->image[2];
    for (ptrdiff_t row = 0; row < g->batch * outputs; row++)
        for (ptrdiff_t q = 0; q < columns; q++) {
            const ptrdiff_t c = p->is_last ? q % g->channels : q / taps, k = p->is_last ? q / g->channels : q % taps;
            const ptrdiff_t n = row / outputs, o = row % outputs;
            const ptrdiff_t at[3] = {o / (g->output[1] * g->output[2]), o / g->output[2] % g->output[1], o % g->output[2]};
            const ptrdiff_t tap[3] = {k / (g->kernel[1] * g->kernel[2]), k / g->kernel[2] % g->kernel[1], k % g->kernel[2]};
            ptrdiff_t pixel = 0;
            for (int axis = 0; axis < 3 && pixel >= 0; axis++) {
                const ptrdiff_t i = at[axis] * g->stride[axis] + tap[axis] * g->dilation[axis] - g->pad[axis];
                pixel = i < 0 || i >= g->image[axis] ? -1 : pixel * g->image[axis] + i;
            }
            phi[row * columns + q] = pixel < 0 ? 0 : x[(n * g->channels + c) * pixels + pixel];
        }
}

static void check_gram(const problem *p, const number *phi, ptrdiff_t rows, ptrdiff_t columns)
{
    void *tile = filled(p->type, phi, rows * columns), *gram = room(p->type, columns * columns);
    number *expected = calloc((size_t)(columns * columns), sizeof *expected);
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t i = 0; i < columns; i++)
            for (ptrdiff_t j = 0; j < columns; j++)
                expected[i * columns + j] += conj(phi[r * columns + i]) * phi[r * columns + j];
    doing = "gram";
    must(p, im2colx_gram_add(matmul_of(p->type), p->type, rows, columns, tile, 0, 0, gram, (int)any(1, 3), NULL));
    must(p, im2colx_gram_finish(p->type, columns, 0, gram, (int)any(1, 3), NULL));
    same(p, p->type, gram, expected, columns * columns);
    free(tile), free(gram), free(expected);
}

/* im2col of some rows, as they are and transposed; its adjoint: <im2col(x), phi> = <x, col2im(phi)> for every element. */
void check_patches(const problem *p, const number *x)
{
    const im2colx_geometry *g = &p->g;
    const im2colx_order order = p->is_last ? IM2COLX_CHANNELS_LAST : IM2COLX_CHANNELS_FIRST;
    const ptrdiff_t rows = g->batch * outputs_of(g), columns = g->channels * taps_of(g);
    number *phi = malloc((size_t)(rows * columns) * sizeof *phi), *turned = malloc((size_t)(rows * columns) * sizeof *turned);
    define_patches(p, x, phi);
    const ptrdiff_t begin = any(0, rows - 1), end = any(begin + 1, rows), count = end - begin;
    for (ptrdiff_t r = 0; r < count; r++)
        for (ptrdiff_t q = 0; q < columns; q++) turned[q * count + r] = phi[(begin + r) * columns + q];
    for (int transposed = 0; transposed < 2; transposed++) {
        array image = make_image(p, g->channels, g->image, (int)any(0, 1));
        void *patches = room(p->type, count * columns);
        fill(&image, x);
        doing = transposed ? "im2col, transposed" : "im2col";
        must(p, im2colx_im2col(g, &image.t, im2colx_itemsize(p->type), order, begin, end, transposed, patches, (int)any(1, 3),
                               NULL));
        same(p, p->type, patches, transposed ? turned : phi + begin * columns, count * columns);
        compare(p, &image, x);
        free(patches);
    }
    if (columns <= 60 && p->type != IM2COLX_WIDE64) check_gram(p, phi, rows, columns);

    /* Each element of x comes back as often as patches hold it. */
    doing = "col2im";
    array image = make_image(p, g->channels, g->image, 0);
    const ptrdiff_t elements = elements_of(&image);
    number *expected = calloc((size_t)elements, sizeof *expected), *ones = malloc((size_t)elements * sizeof *ones);
    number *numbers = malloc((size_t)elements * sizeof *numbers), *where = malloc((size_t)(rows * columns) * sizeof *where);
    for (ptrdiff_t i = 0; i < elements; i++) numbers[i] = (double)(i + 1), ones[i] = 0;
    define_patches(p, numbers, where);
    for (ptrdiff_t i = 0; i < rows * columns; i++)
        if (creal(where[i]) > 0) expected[(ptrdiff_t)creal(where[i]) - 1] += phi[i];
    void *patches = filled(p->type, phi, rows * columns);
    fill(&image, ones);
    must(p, im2colx_col2im(g, &image.t, p->type, order, patches, (int)any(1, 3), NULL));
    compare(p, &image, expected);
    free(patches), free(expected), free(ones), free(numbers), free(where), free(phi), free(turned);
}

/* A product of dense matrices, stored either way round, or the step that parameters take along it. */
void check_gemm(void)
{
    const im2colx_type type = any(0, 2) ? IM2COLX_F32 : IM2COLX_F64;
    const ptrdiff_t m = any(1, 40), n = any(1, 70), k = any(0, 3) ? any(1, 30) : any(200, 600);
    const int is_step = (int)any(0, 1), a_turned = (int)any(0, 1), b_turned = (int)any(0, 1);
    static char text[120];
    snprintf(text, sizeof text, "gemm %tdx%tdx%td of type %d, a %d, b %d, step %d", m, n, k, type, a_turned, b_turned, is_step);
    doing = text;
    number *a = malloc((size_t)(m * k) * sizeof *a), *b = malloc((size_t)(k * n) * sizeof *b);
    number *c = malloc((size_t)(m * n) * sizeof *c);
    for (ptrdiff_t i = 0; i < m * k; i++) a[i] = small(type);
    for (ptrdiff_t i = 0; i < k * n; i++) b[i] = small(type);
    for (ptrdiff_t i = 0; i < m * n; i++) c[i] = small(type);
    void *left = filled(type, a, m * k), *right = filled(type, b, k * n), *to = filled(type, c, m * n);
    for (ptrdiff_t i = 0; i < m; i++)
        for (ptrdiff_t j = 0; j < n; j++) {
            number sum = 0;
            for (ptrdiff_t l = 0; l < k; l++) sum += a[a_turned ? l * m + i : i * k + l] * b[b_turned ? j * k + l : l * n + j];
            c[i * n + j] = is_step ? c[i * n + j] - 2 * sum : sum;
        }
    const im2colx_pass_call step = {.type = type, .pass = IM2COLX_SGD, .out = {to}, .count = m * n, .rate = 2, .threads = 1};
    const im2colx_gemm_call call = {.type = type, .m = m, .n = n, .k = k, .a = {left, a_turned ? 1 : k, a_turned ? m : 1},
                                    .b = {right, b_turned ? 1 : n, b_turned ? k : 1}, .c = to, .c_row = n,
                                    .step = is_step ? &step : NULL, .threads = (int)any(1, 4)};
    must(NULL, im2colx_gemm(&call));
    same(NULL, type, to, c, m * n);
    free(a), free(b), free(c), free(left), free(right), free(to);
}

/* Every pass against its formula; Adam, which takes a root, to some roundings. */
void check_passes(void)
{
    const im2colx_type type = any(0, 1) ? IM2COLX_F32 : IM2COLX_F64;
    const im2colx_pass_kind kind = (im2colx_pass_kind)any(0, IM2COLX_PASSES - 1);
    const ptrdiff_t count = any(0, 9) ? any(1, 100) : any(10000, 40000);
    const double rate = 2, keep[2] = {0.5, 0.25}, eps = type == IM2COLX_F32 ? 6e-8 : 1.2e-16;
    static char text[80];
    snprintf(text, sizeof text, "pass %d of %td of type %d", kind, count, type);
    doing = text;
    void *in = room(type, count), *out[IM2COLX_PASS_VECTORS];
    double *expected = malloc((size_t)count * IM2COLX_PASS_VECTORS * sizeof *expected);
    for (int v = 0; v < IM2COLX_PASS_VECTORS; v++) out[v] = room(type, count);
    for (ptrdiff_t i = 0; i < count; i++) {
        const double g = creal(small(type)), p = creal(small(type)), s = creal(small(type)), t = fabs(creal(small(type)));
        double *to = expected + i * IM2COLX_PASS_VECTORS;
        store(type, in, i, g), store(type, out[0], i, p), store(type, out[1], i, s), store(type, out[2], i, t);
        to[0] = p, to[1] = s, to[2] = t;
        switch (kind) {
        case IM2COLX_SGD: to[0] = p - rate * g; break;
        case IM2COLX_MOMENTUM: to[1] = keep[0] * s - rate * g, to[0] = p + to[1]; break;
        case IM2COLX_ADAM:
            to[1] = keep[0] * s + (1 - keep[0]) * g, to[2] = keep[1] * t + (1 - keep[1]) * g * g;
            to[0] = p - rate * to[1] / (sqrt(to[2]) + 0.5);
            break;
        case IM2COLX_RELU: to[0] = g > 0 ? g : 0; break;
        default: to[0] = g > 0 ? s : 0; break; /* in y; out r, g */
        }
    }
    const im2colx_pass_call call = {.type = type, .pass = kind, .in = in, .out = {out[0], out[1], out[2]}, .count = count,
                                    .rate = rate, .keep = {keep[0], keep[1]}, .eps = 0.5, .threads = (int)any(1, 4)};
    must(NULL, im2colx_pass(&call));
    for (ptrdiff_t i = 0; i < count; i++)
        for (int v = 0; v < IM2COLX_PASS_VECTORS; v++) {
            const double is = creal(load(type, out[v], i)), right = expected[i * IM2COLX_PASS_VECTORS + v];
            const double allowed = kind == IM2COLX_ADAM && v == 0 ? 8 * eps * (3 + fabs(right)) : 0;
            if (!(fabs(is - right) <= allowed)) {
                char wrong[120];
                snprintf(wrong, sizeof wrong, "vector %d, element %td is %g, but must be %g", v, i, is, right);
                fail(NULL, wrong);
            }
        }
    for (int v = 0; v < IM2COLX_PASS_VECTORS; v++) free(out[v]);
    free(in), free(expected);
}
