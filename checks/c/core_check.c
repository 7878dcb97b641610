/* The C core by itself: every operation, method, type and instruction set against plain loops.
 *
 * It links csrc/ and nothing else, so it runs where Python does not: under an emulator, on another C library, on a machine
 * with the other byte order. Most values are small integers, so results must be equal; the memory around a result must
 * stay as it was.
 *
 *     core_check [cases [seed [instruction set]]]
 *
 * Prints a line for each instruction set. At the first difference it says what differs, and exits with 1.
 */
#include "core_check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

long tried;
const char *doing = "nothing yet"; /* for the message */
static unsigned long long state;
static unsigned long long case_seed;

ptrdiff_t any(ptrdiff_t low, ptrdiff_t high)
{
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return low + (ptrdiff_t)((state >> 33) % (unsigned long long)(high - low + 1));
}

void fail(const problem *p, const char *what)
{
    printf("WRONG on %s, seed %llu: %s: %s\n", im2colx_isa(), case_seed, doing, what);
    if (p) {
        const im2colx_geometry *g = &p->g;
        const ptrdiff_t *const axes[] = {g->image, g->kernel, g->output, g->stride, g->dilation, g->pad};
        const char *const names[] = {"image", "kernel", "output", "stride", "dilation", "pad"};
        printf("  type %d, channels %s, N %td, G %td, C/G %td, F/G %td", p->type, p->is_last ? "last" : "first", g->batch,
               g->groups, g->channels, g->filters);
        for (int i = 0; i < 6; i++) printf(", %s %tdx%tdx%td", names[i], axes[i][0], axes[i][1], axes[i][2]);
        printf("\n");
    }
    exit(1);
}

void must(const problem *p, im2colx_status status)
{
    char text[40];
    snprintf(text, sizeof text, "status %d", (int)status);
    if (status != IM2COLX_OK) fail(p, text);
    tried++;
}

/* ---- Numbers of any type, as complex doubles ------------------------------------------------------------------------- */

number load(im2colx_type type, const void *data, ptrdiff_t i)
{
    switch (type) {
    case IM2COLX_F32: return ((const float *)data)[i];
    case IM2COLX_F64: return ((const double *)data)[i];
    case IM2COLX_C64: return ((const float complex *)data)[i];
    case IM2COLX_C128: return ((const double complex *)data)[i];
    case IM2COLX_I32: return ((const int32_t *)data)[i];
    default: return (double)((const int64_t *)data)[i];
    }
}

void store(im2colx_type type, void *data, ptrdiff_t i, number value)
{
    switch (type) {
    case IM2COLX_F32: ((float *)data)[i] = (float)creal(value); break;
    case IM2COLX_F64: ((double *)data)[i] = creal(value); break;
    case IM2COLX_C64: ((float complex *)data)[i] = (float complex)value; break;
    case IM2COLX_C128: ((double complex *)data)[i] = value; break;
    case IM2COLX_I32: ((int32_t *)data)[i] = (int32_t)creal(value); break;
    default: ((int64_t *)data)[i] = (int64_t)creal(value); break;
    }
}

number small(im2colx_type type)
{
    const double re = (double)any(-3, 3);
    return type == IM2COLX_C64 || type == IM2COLX_C128 ? re + I * (double)any(-3, 3) : re;
}

void *room(im2colx_type type, ptrdiff_t count)
{
    void *memory = malloc((size_t)(count + 1) * im2colx_itemsize(type));
    if (!memory) abort();
    return memory;
}

/* ---- Arrays ------------------------------------------------------------------------------------------------------------ */

/* `order` names the axes from the innermost: 0 outer, 1 channel, 2 to 4 space. Spread: with gaps, and some axes reversed. */
static array make_array(im2colx_type type, const ptrdiff_t size[5], const int order[5], int is_spread)
{
    array a = {.type = type};
    ptrdiff_t strides[5], step = is_spread ? any(1, 2) : 1, first = any(1, 3); /* no vector is aligned */
    memcpy(a.size, size, sizeof a.size);
    for (int i = 0; i < 5; i++) {
        const int axis = order[i];
        strides[axis] = step;
        if (is_spread && any(0, 3) == 0) {
            first += (size[axis] - 1) * step;
            strides[axis] = -step;
        }
        step = step * size[axis] + (is_spread ? any(0, 2) : 0);
    }
    a.elements = step + 8;
    a.memory = room(type, a.elements);
    a.t = (im2colx_tensor){(char *)a.memory + first * (ptrdiff_t)im2colx_itemsize(type), strides[0], strides[1],
                           {strides[2], strides[3], strides[4]}};
    for (ptrdiff_t i = 0; i < a.elements; i++) store(type, a.memory, i, CANARY);
    return a;
}

array make_image(const problem *p, ptrdiff_t channels, const ptrdiff_t space[3], int is_spread)
{
    static const int first[] = {4, 3, 2, 1, 0}, last[] = {1, 4, 3, 2, 0};
    return make_array(p->type, (ptrdiff_t[]){p->g.batch, channels * p->g.groups, space[0], space[1], space[2]},
                      p->is_last ? last : first, is_spread);
}

array make_weights(const problem *p, int is_spread)
{
    static const int first[] = {4, 3, 2, 1, 0}, last[] = {0, 1, 4, 3, 2};
    const im2colx_geometry *g = &p->g;
    return make_array(p->type, (ptrdiff_t[]){g->filters * g->groups, g->channels, g->kernel[0], g->kernel[1], g->kernel[2]},
                      p->is_last ? last : first, is_spread);
}

ptrdiff_t elements_of(const array *a) { return a->size[0] * a->size[1] * a->size[2] * a->size[3] * a->size[4]; }

/* Where element i lies, counted with the last axis innermost. */
static ptrdiff_t place(const array *a, ptrdiff_t i)
{
    const ptrdiff_t strides[5] = {a->t.outer, a->t.channel, a->t.space[0], a->t.space[1], a->t.space[2]};
    ptrdiff_t at = 0;
    for (int axis = 4; axis >= 0; axis--) {
        at += i % a->size[axis] * strides[axis];
        i /= a->size[axis];
    }
    return at;
}

void fill(array *a, const number *values)
{
    for (ptrdiff_t i = 0; i < elements_of(a); i++) store(a->type, a->t.data, place(a, i), values[i]);
}

/* Every element equals what is expected, and all other memory is as make_array left it. Frees the array. */
void compare(const problem *p, array *a, const number *expected)
{
    char text[160];
    for (ptrdiff_t i = 0; i < elements_of(a); i++) {
        const number is = load(a->type, a->t.data, place(a, i));
        if (is != expected[i]) {
            snprintf(text, sizeof text, "element %td is %g%+gi, but must be %g%+gi", i, creal(is), cimag(is),
                     creal(expected[i]), cimag(expected[i]));
            fail(p, text);
        }
        store(a->type, a->t.data, place(a, i), CANARY);
    }
    for (ptrdiff_t i = 0; i < a->elements; i++)
        if (load(a->type, a->memory, i) != CANARY) fail(p, "memory beside the result was written");
    free(a->memory);
}

/* ---- Problems ---------------------------------------------------------------------------------------------------------- */

enum { MOST_WORK = 60000 }; /* multiply-adds of a case: an emulator does a case in some milliseconds */

static problem any_problem(void)
{
    static const im2colx_type types[] = {IM2COLX_F32, IM2COLX_F32, IM2COLX_F32, IM2COLX_F64, IM2COLX_F64, IM2COLX_C64,
                                         IM2COLX_C128, IM2COLX_I32, IM2COLX_I64, IM2COLX_WIDE64};
    for (;;) {
        problem p = {.type = types[any(0, 9)], .is_last = (int)any(0, 1)};
        im2colx_geometry *g = &p.g;
        const int axes = (int)any(1, 3), is_wide = any(0, 2) == 0, is_deep = any(0, 2) == 0, is_plain = any(0, 2) == 0;
        g->batch = any(1, 3);
        g->groups = any(0, 2) ? 1 : any(2, 3);
        g->channels = is_deep ? any(1, 40) : any(1, 4);
        g->filters = any(0, 1) ? any(1, 70) : any(1, 6);
        int is_legal = 1;
        ptrdiff_t work = g->batch * g->groups * g->channels * g->filters;
        for (int axis = 0; axis < IM2COLX_AXES; axis++) {
            const int is_used = axis >= IM2COLX_AXES - axes;
            g->image[axis] = is_used ? any(1, is_wide && axis == 2 ? 70 : 9) : 1;
            g->kernel[axis] = is_used ? any(1, 4) : 1;
            g->stride[axis] = is_used && !is_plain ? any(1, 4) : 1;
            g->dilation[axis] = is_used && !is_plain ? any(1, 3) : 1;
            g->pad[axis] = is_used ? any(0, 3) : 0;
            const ptrdiff_t reach = g->dilation[axis] * (g->kernel[axis] - 1) + 1;
            const ptrdiff_t padded = g->image[axis] + g->pad[axis] + (is_used ? any(0, 3) : 0);
            is_legal &= padded >= reach;
            g->output[axis] = padded >= reach ? (padded - reach) / g->stride[axis] + 1 : 0;
            work *= g->output[axis] * g->kernel[axis];
        }
        if (is_legal && work <= MOST_WORK) return p;
    }
}

/* The definition: every product of an element of x inside the image with a weight, added to what `op` asks for. */
static void define(const problem *p, im2colx_op op, const number *x, const number *w, const number *y, number *result)
{
    const im2colx_geometry *g = &p->g;
    const ptrdiff_t *image = g->image, *kernel = g->kernel, *output = g->output;
    const ptrdiff_t pixels = image[0] * image[1] * image[2], taps = taps_of(g), outputs = outputs_of(g);
    for (ptrdiff_t o = 0; o < outputs; o++)
        for (ptrdiff_t k = 0; k < taps; k++) {
            const ptrdiff_t at[3] = {o / (output[1] * output[2]), o / output[2] % output[1], o % output[2]};
            const ptrdiff_t tap[3] = {k / (kernel[1] * kernel[2]), k / kernel[2] % kernel[1], k % kernel[2]};
            ptrdiff_t pixel = 0;
            for (int axis = 0; axis < 3 && pixel >= 0; axis++) {
                const ptrdiff_t i = at[axis] * g->stride[axis] + tap[axis] * g->dilation[axis] - g->pad[axis];
                pixel = i < 0 || i >= image[axis] ? -1 : pixel * image[axis] + i;
            }
            if (pixel < 0) continue;
            for (ptrdiff_t n = 0; n < g->batch; n++)
                for (ptrdiff_t f = 0; f < g->filters * g->groups; f++)
                    for (ptrdiff_t c = 0; c < g->channels; c++) {
                        const ptrdiff_t channel = f / g->filters * g->channels + c;
                        const ptrdiff_t ix = (n * g->channels * g->groups + channel) * pixels + pixel;
                        const ptrdiff_t iw = (f * g->channels + c) * taps + k;
                        const ptrdiff_t iy = (n * g->filters * g->groups + f) * outputs + o;
                        if (op == IM2COLX_FORWARD) result[iy] += x[ix] * w[iw];
                        else if (op == IM2COLX_GRAD_INPUT) result[ix] += conj(w[iw]) * y[iy];
                        else result[iw] += conj(x[ix]) * y[iy];
                    }
        }
}

/* ---- Methods ----------------------------------------------------------------------------------------------------------- */

typedef struct {
    const problem *p;
    im2colx_op op;
    const number *values[3], *expected; /* of x, w, y; the one of the result is not read */
    const number *bias;
} trial;

/* Runs one method on fresh arrays, with `run`, and compares. */
static void attempt(const trial *t, const char *name, int is_spread, int only_x_spread,
                    im2colx_status (*run)(const im2colx_call *call, const void *options), const void *options)
{
    const problem *p = t->p;
    const int result = t->op == IM2COLX_FORWARD ? 2 : t->op == IM2COLX_GRAD_INPUT ? 0 : 1;
    const int others = is_spread && !only_x_spread;
    array arrays[3] = {make_image(p, p->g.channels, p->g.image, is_spread && (result != 0 || others)),
                       make_weights(p, others), make_image(p, p->g.filters, p->g.output, others)};
    for (int i = 0; i < 3; i++)
        if (i != result) fill(&arrays[i], t->values[i]);
    const ptrdiff_t filters = p->g.filters * p->g.groups;
    void *bias = room(p->type, filters);
    for (ptrdiff_t f = 0; f < filters && t->bias; f++) store(p->type, bias, f, t->bias[f]);
    const im2colx_call call = {.geometry = p->g, .type = p->type, .op = t->op, .x = arrays[0].t, .w = arrays[1].t,
                               .y = arrays[2].t, .bias = t->bias ? bias : NULL, .threads = (int)any(1, 4)};
    static const char *const ops[] = {"forward", "grad_input", "grad_weight"};
    static char text[120];
    snprintf(text, sizeof text, "%s of %s, %d threads%s%s", name, ops[t->op], call.threads, is_spread ? ", spread" : "",
             call.bias ? ", bias" : "");
    doing = text;
    must(p, run(&call, options));
    for (int i = 0; i < 3; i++)
        if (i == result) compare(p, &arrays[i], t->expected);
        else compare(p, &arrays[i], t->values[i]); /* an input stays as it was */
    free(bias);
}

static im2colx_status run_loops(const im2colx_call *call, const void *options) { (void)options; return im2colx_loops(call); }
static im2colx_status run_product(const im2colx_call *call, const void *options) { return im2colx_product(call, options); }

static im2colx_status run_implicit(const im2colx_call *call, const void *options_)
{
    im2colx_implicit_options options = *(const im2colx_implicit_options *)options_;
    void *packed = NULL;
    if (options.packed) { /* asked for */
        packed = malloc(im2colx_packed_bytes(&call->geometry, call->type));
        const im2colx_status status = im2colx_pack(call, options.order, packed);
        if (status) return status;
        options.packed = packed;
    }
    const char *isa = im2colx_implicit_explain(call, &options).isa;
    if (strcmp(isa, im2colx_isa())) fail(NULL, isa);
    const im2colx_status status = im2colx_implicit(call, &options);
    free(packed);
    return status;
}

static void try_methods(const trial *t)
{
    const problem *p = t->p;
    const im2colx_order order = p->is_last ? IM2COLX_CHANNELS_LAST : IM2COLX_CHANNELS_FIRST;
    attempt(t, "loops", (int)any(0, 1), 0, run_loops, NULL);
    const im2colx_product_options product = {.matmul = matmul_of(p->type), .order = order, .largest = PTRDIFF_MAX};
    if (p->type != IM2COLX_WIDE64)
        for (int whole = 0; whole < 2; whole++) {
            im2colx_product_options options = product;
            options.whole = whole;
            options.workspace_bytes = (size_t)any(0, 1 << any(4, 16));
            attempt(t, whole ? "im2col" : "indexed", (int)any(0, 1), 1, run_product, &options);
        }
    if (p->type != IM2COLX_F32 && p->type != IM2COLX_F64) return;
    for (int is_finite = 0; is_finite < 2; is_finite++) {
        im2colx_implicit_options options = {.order = order, .is_finite = is_finite};
        attempt(t, "implicit", (int)any(0, 1), 0, run_implicit, &options);
        options.orientation = IM2COLX_FILTERS_IN_LANES;
        attempt(t, "implicit, filters in lanes", (int)any(0, 1), 0, run_implicit, &options);
        if (t->op == IM2COLX_FORWARD) {
            options.packed = t;
            attempt(t, "implicit, packed", (int)any(0, 1), 0, run_implicit, &options);
            options.packed = NULL;
        }
        options.orientation = IM2COLX_PIXELS_IN_LANES;
        if (!p->is_last) attempt(t, "implicit, pixels in lanes", (int)any(0, 1), 0, run_implicit, &options);
    }
}

static number *random_numbers(im2colx_type type, ptrdiff_t count)
{
    number *values = calloc((size_t)count, sizeof *values);
    for (ptrdiff_t i = 0; i < count; i++) values[i] = small(type);
    return values;
}

static void one_case(void)
{
    const problem p = any_problem();
    const im2colx_geometry *g = &p.g;
    const ptrdiff_t sizes[3] = {g->batch * g->groups * g->channels * g->image[0] * g->image[1] * g->image[2],
                                g->groups * g->filters * g->channels * taps_of(g),
                                g->batch * g->groups * g->filters * outputs_of(g)};
    number *values[3], *bias = random_numbers(p.type, g->filters * g->groups);
    for (int i = 0; i < 3; i++) values[i] = random_numbers(p.type, sizes[i]);
    for (int op = IM2COLX_FORWARD; op <= IM2COLX_GRAD_WEIGHT; op++) {
        const ptrdiff_t count = sizes[op == IM2COLX_FORWARD ? 2 : op == IM2COLX_GRAD_INPUT ? 0 : 1];
        const int has_bias = op == IM2COLX_FORWARD && any(0, 1);
        number *expected = calloc((size_t)count, sizeof *expected);
        for (ptrdiff_t i = 0; i < count && has_bias; i++) expected[i] = bias[i / outputs_of(g) % (g->filters * g->groups)];
        define(&p, (im2colx_op)op, values[0], values[1], values[2], expected);
        const trial t = {&p, (im2colx_op)op, {values[0], values[1], values[2]}, expected, has_bias ? bias : NULL};
        try_methods(&t);
        if (op == IM2COLX_FORWARD && !has_bias) check_csr(&p, values[0], values[1], expected);
        free(expected);
    }
    if (g->groups == 1) check_patches(&p, values[0]);
    for (int i = 0; i < 3; i++) free(values[i]);
    free(bias);
    check_gemm();
    check_passes();
}

int main(int count, char **arguments)
{
    const long cases = count > 1 ? atol(arguments[1]) : 1000;
    const unsigned long long seed = count > 2 ? strtoull(arguments[2], NULL, 10) : 0;
    if (cases < 1) return fprintf(stderr, "usage: %s [cases [seed [instruction set]]]\n", arguments[0]), 2;
    int levels = 0;
    for (int level = 0; im2colx_isa_name(level); level++) {
        const char *name = im2colx_isa_name(level);
        if (count > 3 && strcmp(arguments[3], name)) continue;
        doing = "the instruction set";
        if (!im2colx_set_isa(name) || strcmp(im2colx_isa(), name)) fail(NULL, "an instruction set of this machine was refused");
        ptrdiff_t operations;
        if (!isfinite(im2colx_burn(IM2COLX_F32, 10, &operations)) || operations < 1) fail(NULL, "burn");
        tried = 0;
        for (long i = 0; i < cases; i++) {
            state = case_seed = seed + (unsigned long long)i;
            one_case();
        }
        printf("%s: %ld results are right\n", name, tried);
        fflush(stdout);
        levels++;
    }
    return levels ? 0 : (fprintf(stderr, "no instruction set %s here\n", count > 3 ? arguments[3] : ""), 2);
}
