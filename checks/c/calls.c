/* Random convolutions and gradients by every method, compared with the definition, element by element: the numbers are small
 * integers, so every sum is exact and must be equal.
 *
 *     calls SEED CALLS CALLERS ISA [ONLY]
 *
 * CALLERS threads call at once, each with another number of threads in every call, so that they meet in the pool. Some calls
 * have a poll that stops them. ISA is an instruction set, or "every" for all of this machine, one after another. ONLY is the
 * number of the one call to repeat.
 *
 * It links csrc/ and nothing else, so it runs where Python does not: under an emulator, on another C library, on a machine with
 * the other byte order. */
#include "harness.h"
#include "others.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* A whole Phi of more elements takes too long here. */
enum { MOST_PHI = 1 << 21 };

typedef enum { LOOPS, TILE, WHOLE, IMPLICIT, METHODS } method;

typedef struct {
    im2colx_call call;
    im2colx_order order;
    method method;
    im2colx_product_options product;
    im2colx_implicit_options implicit;
    int is_packed;
    ptrdiff_t number;
} problem;

static atomic_long compared[METHODS], stopped, declined;

static void describe(FILE *to, const void *what)
{
    const problem *p = what;
    static const char *const methods[] = {"loops", "tile", "whole", "implicit"};
    static const char *const ops[] = {"forward", "grad_input", "grad_weight"};
    fprintf(to, "call %td: %s, %s, %s, channels %s, %d threads, bias %d, workspace %zu, orientation %d, packed %d, finite %d, ",
            p->number, ops[p->call.op], methods[p->method], type_name(p->call.type), p->order ? "last" : "first",
            p->call.threads, p->call.bias != NULL, p->product.workspace_bytes, p->implicit.orientation,
            p->is_packed, p->implicit.is_finite);
    print_geometry(to, &p->call.geometry);
}

/* ---- A poll that says stop at the n-th time ---- */

static _Thread_local int asks_left;
static int stop_in_time(void) { return asks_left > 0 && --asks_left == 0; }

/* ---- One call ---- */

static int is_finite_array(const array *a)
{
    ptrdiff_t at[ARRAY_AXES] = {0};
    do if (!(creal(get(a, at)) - creal(get(a, at)) == 0)) return 0;
    while (advance(a->count, ARRAY_AXES, at));
    return 1;
}

/* Chooses a method and its options; returns 0 if it declines. */
static int choose(randoms *r, problem *p, const array *w)
{
    const im2colx_geometry *g = &p->call.geometry;
    wide phi = (wide)g->batch * g->groups * g->channels;
    for (int axis = 0; axis < AXES; axis++) phi *= (wide)g->output[axis] * g->kernel[axis];
    p->product = (im2colx_product_options){matmul_of(p->call.type), p->order, PTRDIFF_MAX, (size_t)boundary(r, 22),
                                           p->method == WHOLE};
    if (one_in(r, 8)) p->product.largest = between(r, 1, 50);
    p->implicit = (im2colx_implicit_options){.order = p->order, .is_finite = one_in(r, 2) && is_finite_array(w)};
    if (p->method == WHOLE) return phi <= MOST_PHI;
    if (p->method != IMPLICIT) return 1;
    const ptrdiff_t orientation = between(r, 0, p->order == IM2COLX_CHANNELS_LAST ? 1 : 2);
    p->implicit.orientation = orientation == 0   ? IM2COLX_EITHER
                              : orientation == 1 ? IM2COLX_FILTERS_IN_LANES
                                                 : IM2COLX_PIXELS_IN_LANES;
    p->is_packed = p->call.op == IM2COLX_FORWARD && one_in(r, 4);
    if (p->is_packed) p->implicit.orientation = IM2COLX_FILTERS_IN_LANES;
    /* As im2colx/_methods.py asks whether it declines. */
    const im2colx_implicit_facts facts = im2colx_implicit_explain(&p->call, &p->implicit);
    if (strcmp(facts.isa, im2colx_isa())) fail("its instruction set is %s", facts.isa);
    return !facts.is_too_many && facts.workspace_bytes <= (size_t)IM2COLX_IMPLICIT_BYTES * (size_t)p->call.threads;
}

static im2colx_status run(problem *p)
{
    if (p->method == LOOPS) return im2colx_loops(&p->call);
    if (p->method != IMPLICIT) return im2colx_product(&p->call, &p->product);
    if (!p->is_packed) return im2colx_implicit(&p->call, &p->implicit);
    const size_t bytes = im2colx_packed_bytes(&p->call.geometry, p->call.type);
    void *packed = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!packed) abort();
    im2colx_status status = im2colx_pack(&p->call, p->order, packed);
    p->implicit.packed = packed;
    if (!status) status = im2colx_implicit(&p->call, &p->implicit);
    free(packed);
    return status;
}

static void compare(const problem *p, const array *x, const array *w, const array *y)
{
    const array *target = p->call.op == IM2COLX_FORWARD ? y : p->call.op == IM2COLX_GRAD_INPUT ? x : w;
    value *expected = define(&p->call, x, w, y), *next = expected;
    ptrdiff_t at[ARRAY_AXES] = {0};
    if (target->bytes) do {
        const value found = get(target, at);
        if (!same(found, *next)) {
            fail("[%td, %td, %td, %td, %td] is %g%+gi and should be %g%+gi", at[0], at[1], at[2], at[3], at[4], creal(found),
                 cimag(found), creal(*next), cimag(*next));
            break;
        }
        next++;
    } while (advance(target->count, ARRAY_AXES, at));
    free(expected);
}

/* Which operation writes x, w and y. */
static const im2colx_op writes[] = {IM2COLX_GRAD_INPUT, IM2COLX_GRAD_WEIGHT, IM2COLX_FORWARD};

static void one_call(uint64_t seed, ptrdiff_t number)
{
    randoms random = randoms_of(seed, (uint64_t)number), *r = &random;
    problem p = {.number = number, .method = (method)between(r, 0, METHODS - 1), .order = (im2colx_order)between(r, 0, 1)};
    describe_by(describe, &p);
    const int is_stopped = one_in(r, 50);
    p.call.geometry = one_in(r, 3) ? giant_geometry(r) : small_geometry(r);
    im2colx_geometry *g = &p.call.geometry;
    if (is_stopped) { /* some tens of milliseconds of work */
        *g = (im2colx_geometry){2, 1, 16, 24, {1, 56, 56}, {1, 3, 3}, {1, 56, 56}, {1, 1, 1}, {1, 1, 1}, {0, 1, 1}};
        g->batch = between(r, 2, 8);
    }
    p.call.op = (im2colx_op)between(r, 0, 2);
    p.call.type = (im2colx_type)between(r, 0, p.method == IMPLICIT ? 1 : p.method == LOOPS ? IM2COLX_WIDE64 : IM2COLX_I64);
    p.call.threads = (int)between(r, 1, one_in(r, 10) ? 40 : 5);
    p.call.poll = is_stopped || one_in(r, 2) ? stop_in_time : NULL;
    asks_left = is_stopped ? (int)between(r, 1, 3) : 0;
    const strides_kind packed_axes = p.order == IM2COLX_CHANNELS_LAST ? LAST : FIRST;
    const int is_product = p.method == TILE || p.method == WHOLE;
    ptrdiff_t count[ARRAY_AXES];
    array a[3];
    for (int i = 0; i < 3; i++) {
        const char which = "xwy"[i];
        const int is_target = p.call.op == writes[i];
        const int is_contiguous = is_product && (which != 'x' || is_target);
        counts_of(g, which, count);
        a[i] = make_array(r, p.call.type, which, count, is_contiguous || one_in(r, 2) ? packed_axes : ANY, !is_target);
    }
    p.call.x = a[0].tensor, p.call.w = a[1].tensor, p.call.y = a[2].tensor;
    char *bias = NULL;
    if (p.call.op == IM2COLX_FORWARD && one_in(r, 2)) {
        const ptrdiff_t size = (ptrdiff_t)im2colx_itemsize(p.call.type), filters = g->groups * g->filters;
        if (!(bias = malloc((size_t)(filters * size)))) abort();
        for (ptrdiff_t f = 0; f < filters; f++) store(p.call.type, bias + f * size, (double)between(r, -3, 3));
    }
    p.call.bias = bias;
    if (choose(r, &p, &a[1])) {
        const im2colx_status status = run(&p);
        if (status == IM2COLX_OK) {
            if (!is_stopped) compare(&p, &a[0], &a[1], &a[2]);
            atomic_fetch_add(&compared[p.method], 1);
        } else if (status == IM2COLX_INTERRUPTED && is_stopped) {
            atomic_fetch_add(&stopped, 1);
        } else {
            fail("the status is %d", (int)status);
        }
        for (int i = 0; i < 3; i++)
            if (!is_intact(&a[i], p.call.op == writes[i]))
                fail("what is not an element of the result in %c has changed", "xwy"[i]);
    } else {
        atomic_fetch_add(&declined, 1);
    }
    free(bias);
    for (int i = 0; i < 3; i++) free_array(&a[i]);
    describe_by(NULL, NULL);
}

/* ---- Callers ---- */

static uint64_t seed;
static ptrdiff_t calls;
static atomic_ptrdiff_t next_call;

static void *caller(void *unused)
{
    ptrdiff_t number;
    (void)unused;
    while ((number = atomic_fetch_add(&next_call, 1)) < calls) {
        one_call(seed, number);
        if (number % 4 == 0) other_call(seed, number);
    }
    return NULL;
}

/* All calls with one instruction set; 0 if something was not tried. */
static int all_calls(const char *isa, int callers)
{
    ptrdiff_t operations;
    if (!im2colx_set_isa(isa) || strcmp(im2colx_isa(), isa)) fail("%s is refused", isa);
    if (!isfinite(im2colx_burn(IM2COLX_F32, 10, &operations)) || operations < 1) fail("burn does nothing");
    const long others = others_compared();
    next_call = stopped = declined = 0;
    for (int i = 0; i < METHODS; i++) compared[i] = 0;
    is_alone = callers == 1;
    pthread_t *thread = calloc((size_t)callers, sizeof *thread);
    for (int i = 0; i < callers; i++)
        if (pthread_create(&thread[i], NULL, caller, NULL)) abort();
    for (int i = 0; i < callers; i++) pthread_join(thread[i], NULL);
    free(thread);
    const long all = compared[LOOPS] + compared[TILE] + compared[WHOLE] + compared[IMPLICIT];
    printf("%s: %ld compared: %ld loops, %ld tile, %ld whole, %ld implicit; %ld others; %ld stopped; %ld declined\n", isa,
           all, compared[LOOPS], compared[TILE], compared[WHOLE], compared[IMPLICIT],
           others_compared() - others, (long)stopped, (long)declined);
    fflush(stdout);
    return all && others_compared() > others && stopped;
}

int main(int count, char **argument)
{
    if (count < 5) {
        fprintf(stderr, "usage: calls SEED CALLS CALLERS ISA [ONLY]\n");
        return 2;
    }
    seed = strtoull(argument[1], NULL, 10);
    calls = atol(argument[2]);
    const int callers = atoi(argument[3]), is_every = !strcmp(argument[4], "every");
    int levels = 0, is_whole = 1;
    const char *name;
    for (int level = 0; (name = im2colx_isa_name(level)); level++) {
        if (!is_every && strcmp(argument[4], name)) continue;
        levels++;
        if (count > 5) {
            im2colx_set_isa(name);
            one_call(seed, atol(argument[5]));
            other_call(seed, atol(argument[5]));
        } else {
            is_whole &= all_calls(name, callers);
        }
    }
    if (!levels) {
        fprintf(stderr, "this machine has no %s\n", argument[4]);
        return 2;
    }
    if (!is_whole) printf("something was never tried: more calls are needed\n");
    if (failures()) printf("%d failures\n", failures());
    return failures() || !is_whole;
}
