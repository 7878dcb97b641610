/* Random numbers and geometries, and what is printed when something is wrong: see harness.h. */
#define _POSIX_C_SOURCE 200809L /* flockfile */
#include "harness.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>

/* ---- Random numbers: SplitMix64 ------------------------------------------------------------------------------------- */

uint64_t draw(randoms *r)
{
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

randoms randoms_of(uint64_t seed, uint64_t number)
{
    randoms r = {seed};
    r.state = draw(&r) + number;
    return r;
}

ptrdiff_t between(randoms *r, ptrdiff_t low, ptrdiff_t high)
{
    return low + (ptrdiff_t)(draw(r) % ((uint64_t)high - (uint64_t)low + 1));
}

int one_in(randoms *r, int count) { return between(r, 1, count) == 1; }

ptrdiff_t boundary(randoms *r, int bits)
{
    const int exponent = (int)between(r, 0, bits);
    const ptrdiff_t power = (ptrdiff_t)1 << exponent, most = (ptrdiff_t)1 << bits;
    ptrdiff_t number = between(r, 0, 2 * power - 1);
    if (!one_in(r, 4)) number = power + between(r, -1, 1);
    return number > most ? most : number;
}

/* ---- Geometries ------------------------------------------------------------------------------------------------------ */

static wide elements(const ptrdiff_t count[ARRAY_AXES])
{
    wide product = 1;
    for (int axis = 0; axis < ARRAY_AXES; axis++) {
        product *= count[axis] > 1 ? count[axis] : 1;
        if (product > BOUND_ELEMENTS) return product;
    }
    return product;
}

void counts_of(const im2colx_geometry *g, char which, ptrdiff_t count[ARRAY_AXES])
{
    const ptrdiff_t *space = which == 'x' ? g->image : which == 'w' ? g->kernel : g->output;
    count[0] = which == 'w' ? g->groups * g->filters : g->batch;
    count[1] = which == 'x' ? g->groups * g->channels : which == 'w' ? g->channels : g->groups * g->filters;
    for (int axis = 0; axis < AXES; axis++) count[2 + axis] = space[axis];
}

int complete(im2colx_geometry *g, const ptrdiff_t behind[AXES])
{
    if ((wide)g->groups * g->channels > BOUND_ELEMENTS || (wide)g->groups * g->filters > BOUND_ELEMENTS) return 0;
    for (int axis = 0; axis < AXES; axis++) {
        const wide span = (wide)g->dilation[axis] * (g->kernel[axis] - 1) + 1;
        const wide padded = (wide)g->image[axis] + g->pad[axis] + behind[axis];
        if (g->stride[axis] > BOUND_EXTENT || g->dilation[axis] > BOUND_EXTENT || span > BOUND_EXTENT
            || padded > BOUND_EXTENT || span > padded)
            return 0;
        g->output[axis] = (ptrdiff_t)((padded - span) / g->stride[axis] + 1);
    }
    ptrdiff_t count[ARRAY_AXES];
    for (const char *which = "xwy"; *which; which++) {
        counts_of(g, *which, count);
        if (elements(count) > BOUND_ELEMENTS) return 0;
    }
    return 1;
}

static im2colx_geometry no_space(randoms *r)
{
    im2colx_geometry g = {.batch = between(r, 1, 3), .groups = 1 + one_in(r, 3) * between(r, 0, 2)};
    g.channels = one_in(r, 8) ? between(r, 1, 40) : between(r, 1, 5);
    g.filters = one_in(r, 8) ? between(r, 1, 70) : between(r, 1, 9);
    for (int axis = 0; axis < AXES; axis++)
        g.image[axis] = g.kernel[axis] = g.output[axis] = g.stride[axis] = g.dilation[axis] = 1;
    return g;
}

static double products_of(const im2colx_geometry *g)
{
    double products = (double)(g->batch * g->groups * g->channels * g->filters);
    for (int axis = 0; axis < AXES; axis++) products *= (double)g->output[axis] * (double)g->kernel[axis];
    return products;
}

im2colx_geometry small_geometry(randoms *r)
{
    /* Some have so many products that it is worth leaving out those with the padding (2^20: csrc/implicit.c). */
    const int is_large = one_in(r, 40);
    for (;;) {
        im2colx_geometry g = no_space(r);
        ptrdiff_t behind[AXES] = {0};
        const int is_same = is_large || one_in(r, 3);
        if (is_large) g.channels = between(r, 20, 60), g.filters = between(r, 20, 70);
        for (int axis = AXES - (int)between(r, 1, AXES); axis < AXES; axis++) {
            g.image[axis] = one_in(r, 20) ? 0 : one_in(r, 6) ? between(r, 1, 40) : between(r, 1, 9);
            g.kernel[axis] = between(r, 1, 4);
            g.stride[axis] = one_in(r, 2) ? 1 : between(r, 1, 5);
            g.dilation[axis] = one_in(r, 2) ? 1 : between(r, 1, 4);
            g.pad[axis] = one_in(r, 2) ? 0 : between(r, 0, 5);
            behind[axis] = one_in(r, 2) ? g.pad[axis] : between(r, 0, 5);
            if (is_same && g.image[axis]) { /* an output as large as the image, as most layers have */
                const ptrdiff_t reach = g.dilation[axis] * (g.kernel[axis] - 1);
                g.stride[axis] = 1;
                g.pad[axis] = one_in(r, 4) ? between(r, 0, reach) : reach / 2;
                behind[axis] = reach - g.pad[axis];
            }
        }
        if (complete(&g, behind) && products_of(&g) < (is_large ? 3e6 : 1e5)) return g;
    }
}

/* An axis with at most eight outputs, some of which may meet the image, in a padded size up to the bound. */
static void giant_axis(randoms *r, im2colx_geometry *g, int axis, ptrdiff_t *behind)
{
    const ptrdiff_t taps = between(r, 1, 3), image = between(r, one_in(r, 10) ? 0 : 1, 4);
    const ptrdiff_t dilation = taps == 1 ? boundary(r, 50) : boundary(r, 50) / taps;
    const ptrdiff_t d = dilation > 0 ? dilation : 1, span = d * (taps - 1) + 1;
    ptrdiff_t padded = one_in(r, 2) ? span + between(r, 0, 9) : boundary(r, 50);
    if (padded < span) padded = span;
    if (padded < image) padded = image;
    ptrdiff_t stride = (padded - span) / between(r, 1, 8) + 1;
    if (one_in(r, 2)) stride = boundary(r, 50) > stride ? boundary(r, 50) : stride;
    if (stride <= (padded - span) / 8) stride = (padded - span) / 8 + 1;
    const ptrdiff_t outputs = (padded - span) / stride + 1;
    ptrdiff_t before = between(r, 0, outputs - 1) * stride + between(r, 0, taps - 1) * d - between(r, 0, image);
    if (one_in(r, 8)) before = boundary(r, 50);
    if (before > padded - image) before = padded - image;
    g->image[axis] = image;
    g->kernel[axis] = taps;
    g->dilation[axis] = d;
    g->stride[axis] = stride;
    g->pad[axis] = before > 0 ? before : 0;
    *behind = padded - image - g->pad[axis];
}

im2colx_geometry giant_geometry(randoms *r)
{
    for (;;) {
        im2colx_geometry g = no_space(r);
        ptrdiff_t behind[AXES] = {0};
        for (int axis = AXES - (int)between(r, 1, AXES); axis < AXES; axis++) {
            if (one_in(r, 4)) {
                g.image[axis] = between(r, 1, 6);
                g.kernel[axis] = between(r, 1, g.image[axis]);
            } else {
                giant_axis(r, &g, axis, behind + axis);
            }
        }
        if (complete(&g, behind)) return g;
    }
}

im2colx_geometry any_geometry(randoms *r)
{
    for (;;) {
        im2colx_geometry g = no_space(r);
        ptrdiff_t behind[AXES] = {0};
        int bits = 48; /* still to be given to the sizes of x; those of w and y are refused where they are too large */
        ptrdiff_t *const sizes[] = {&g.batch, &g.groups, &g.channels, &g.filters, g.image + 2, g.image + 1, g.image};
        const int axes = (int)between(r, 1, AXES);
        for (int i = 0; i < 4 + axes; i++) {
            if (one_in(r, 2)) continue;
            *sizes[i] = boundary(r, (int)between(r, 0, bits));
            for (int left = 0; i != 3 && left < 64 && *sizes[i] >> left; left++) bits -= bits > 0;
            if (*sizes[i] == 0 && i > 0 && i < 4) *sizes[i] = 1;
        }
        for (int axis = AXES - axes; axis < AXES; axis++) {
            const int small = one_in(r, 3);
            g.kernel[axis] = one_in(r, 2) ? between(r, 1, 5) : boundary(r, one_in(r, 2) ? 10 : 48);
            g.stride[axis] = one_in(r, 2) ? 1 : boundary(r, small ? 6 : 50);
            g.dilation[axis] = one_in(r, 2) ? 1 : boundary(r, small ? 6 : 50);
            g.pad[axis] = one_in(r, 2) ? 0 : boundary(r, small ? 6 : 50);
            behind[axis] = one_in(r, 2) ? g.pad[axis] : boundary(r, small ? 6 : 50);
            if (g.kernel[axis] < 1) g.kernel[axis] = 1;
            if (g.stride[axis] < 1) g.stride[axis] = 1;
            if (g.dilation[axis] < 1) g.dilation[axis] = 1;
        }
        if (complete(&g, behind)) return g;
    }
}

static void print_axes(FILE *to, const char *name, const ptrdiff_t v[AXES])
{
    fprintf(to, " .%s = {%td, %td, %td},", name, v[0], v[1], v[2]);
}

void print_geometry(FILE *to, const im2colx_geometry *g)
{
    fprintf(to, "{.batch = %td, .groups = %td, .channels = %td, .filters = %td,", g->batch, g->groups, g->channels, g->filters);
    print_axes(to, "image", g->image);
    print_axes(to, "kernel", g->kernel);
    print_axes(to, "output", g->output);
    print_axes(to, "stride", g->stride);
    print_axes(to, "dilation", g->dilation);
    print_axes(to, "pad", g->pad);
    fprintf(to, "}");
}

wide position(const im2colx_geometry *g, int axis, ptrdiff_t o, ptrdiff_t k)
{
    return (wide)o * g->stride[axis] + (wide)k * g->dilation[axis] - g->pad[axis];
}

int advance(const ptrdiff_t count[], int axes, ptrdiff_t at[])
{
    for (int axis = axes - 1; axis >= 0; axis--) {
        if (++at[axis] < count[axis]) return 1;
        at[axis] = 0;
    }
    return 0;
}

/* ---- Failures -------------------------------------------------------------------------------------------------------- */

enum { MOST_SHOWN = 40 };

static atomic_int failed;
int is_alone = 1;
typedef struct {
    void (*describe)(FILE *to, const void *what);
    const void *what;
} description;

static _Thread_local description own;
static description latest; /* of any thread: for a worker of the pool, which has none of its own */

void describe_by(void (*describe)(FILE *to, const void *what), const void *what)
{
    own = (description){describe, what};
    if (is_alone) latest = own;
}

static void describe_now(void)
{
    const description d = own.describe ? own : latest;
    flockfile(stderr);
    if (d.describe) d.describe(stderr, d.what);
    fprintf(stderr, "\n");
    funlockfile(stderr);
    fflush(stderr);
}

void fail(const char *format, ...)
{
    if (atomic_fetch_add(&failed, 1) >= MOST_SHOWN) return;
    va_list list;
    va_start(list, format);
    flockfile(stderr);
    fprintf(stderr, "FAILED: ");
    vfprintf(stderr, format, list);
    fprintf(stderr, "\n    ");
    funlockfile(stderr);
    va_end(list);
    describe_now();
}

int failures(void) { return atomic_load(&failed); }

/* The sanitizers call these when they report; they must be seen from outside, whatever the flags say. */
#define SEEN __attribute__((visibility("default")))
SEEN void __ubsan_on_report(void);
SEEN void __asan_on_error(void);
SEEN void __tsan_on_report(void *report);
void __ubsan_on_report(void)
{
    atomic_fetch_add(&failed, 1);
    describe_now();
}
void __asan_on_error(void) { describe_now(); }
void __tsan_on_report(void *report)
{
    (void)report;
    atomic_fetch_add(&failed, 1);
    describe_now();
}
