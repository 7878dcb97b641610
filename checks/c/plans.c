/* Planning, which needs no arrays: legal geometries of any size, with a clock on each question.
 *
 *     plans SEED CALLS MICROSECONDS ISA [ONLY]
 *
 * A question that takes longer than MICROSECONDS of the processor has failed; one that takes fifty times as long is given up.
 * What is asked about memory is compared with a sum in wide numbers where the rule is a simple one. ONLY is the number of the
 * one call to repeat. */
#define _GNU_SOURCE
#include "harness.h"

#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

typedef struct {
    im2colx_call call;
    im2colx_gemm_call gemm;
    im2colx_order order;
    im2colx_product_options product;
    im2colx_implicit_options implicit;
    const char *question;
    ptrdiff_t number;
} plan;

static void describe(FILE *to, const void *what)
{
    const plan *p = what;
    static const char *const ops[] = {"forward", "grad_input", "grad_weight"};
    fprintf(to, "call %td: %s, ", p->number, p->question);
    if (!strcmp(p->question, "gemm workspace")) {
        fprintf(to, "%s, m %td, n %td, k %td, strides of a %td and %td, of b %td and %td, %d threads, step %d",
                type_name(p->gemm.type), p->gemm.m, p->gemm.n, p->gemm.k, p->gemm.a.row, p->gemm.a.column, p->gemm.b.row,
                p->gemm.b.column, p->gemm.threads, p->gemm.step != NULL);
        return;
    }
    fprintf(to, "%s, %s, channels %s, %d threads, workspace %zu, whole %d, orientation %d, packed %d, finite %d, ",
            ops[p->call.op], type_name(p->call.type), p->order ? "last" : "first", p->call.threads, p->product.workspace_bytes,
            p->product.whole, p->implicit.orientation, p->implicit.packed != NULL, p->implicit.is_finite);
    print_geometry(to, &p->call.geometry);
}

/* ---- The clock: of the processor, so that a busy machine fails nothing ---- */

static sigjmp_buf given_up;
static double bar, slowest;

static void give_up(int signal)
{
    (void)signal;
    siglongjmp(given_up, 1);
}

static void arm(double microseconds)
{
    const long whole = (long)microseconds;
    const struct itimerval timer = {{0, 0}, {whole / 1000000, whole % 1000000}};
    setitimer(ITIMER_VIRTUAL, &timer, NULL);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* Asks, and says how long it took if that is too long; twice, because the first may have met cold memory. */
static int is_answered(plan *p, const char *question, void (*ask)(plan *p))
{
    volatile double least = 1e30;
    p->question = question;
    for (volatile int turn = 0; turn < 2; turn++) {
        if (sigsetjmp(given_up, 1)) {
            fail("given up after %g microseconds", 50 * bar);
            return 0;
        }
        arm(50 * bar);
        const double start = now();
        ask(p);
        const double took = now() - start;
        arm(0);
        if (took < least) least = took;
        if (took <= bar) break;
    }
    if (least > slowest) slowest = least;
    if (least > bar) fail("took %g microseconds", least);
    return 1;
}

/* ---- Questions ---- */

static im2colx_implicit_facts facts;
static size_t bytes;

static void ask_implicit(plan *p) { facts = im2colx_implicit_explain(&p->call, &p->implicit); }
static void ask_product(plan *p) { bytes = im2colx_product_workspace(&p->call, &p->product); }
static void ask_packed(plan *p) { bytes = im2colx_packed_bytes(&p->call.geometry, p->call.type); }
static void ask_gemm(plan *p) { bytes = im2colx_gemm_workspace(&p->gemm); }

/* Strides of contiguous arrays, as im2colx/_core.pyx fills them in for questions. */
static im2colx_tensor contiguous(const ptrdiff_t count[ARRAY_AXES], char which, int is_last)
{
    static const int first[] = {0, 1, 2, 3, 4}, image_last[] = {0, 2, 3, 4, 1}, weight_last[] = {2, 3, 4, 1, 0};
    const int *order = !is_last ? first : which == 'w' ? weight_last : image_last;
    im2colx_tensor t = {.data = NULL};
    ptrdiff_t *const strides[] = {&t.outer, &t.channel, t.space, t.space + 1, t.space + 2}, step = 1;
    for (int i = ARRAY_AXES - 1; i >= 0; i--) {
        *strides[order[i]] = step;
        step *= count[order[i]];
    }
    return t;
}

static wide phi_bytes(const plan *p)
{
    const im2colx_geometry *g = &p->call.geometry;
    wide elements = (wide)g->batch * g->groups * g->channels, most = (wide)1 << 90;
    for (int axis = 0; axis < AXES; axis++) {
        elements *= g->output[axis];
        if (elements > most) return most;
        elements *= g->kernel[axis];
        if (elements > most) return most;
    }
    return elements * (wide)im2colx_itemsize(p->call.type);
}

static void convolution(randoms *r, plan *p)
{
    const im2colx_geometry *g = &p->call.geometry;
    ptrdiff_t count[ARRAY_AXES];
    im2colx_tensor *const tensors[] = {&p->call.x, &p->call.w, &p->call.y};
    for (int i = 0; i < 3; i++) {
        counts_of(g, "xwy"[i], count);
        *tensors[i] = contiguous(count, "xwy"[i], p->order == IM2COLX_CHANNELS_LAST);
    }
    if (p->call.type <= IM2COLX_F64) {
        wide weights = (wide)g->channels * g->groups * g->filters;
        for (int axis = 0; axis < AXES; axis++) weights *= g->kernel[axis];
        if (is_answered(p, "packed bytes", ask_packed)
            && (bytes < (size_t)weights * im2colx_itemsize(p->call.type) || bytes > ((size_t)weights * 64 + 64) * 8))
            fail("%zu bytes", bytes);
        if (is_answered(p, "explain", ask_implicit) && g->batch > 0) {
            /* The gradient with respect to x is a convolution whose outputs are the elements of x. */
            const ptrdiff_t *outputs = p->call.op == IM2COLX_GRAD_INPUT ? g->image : g->output;
            double work = (double)weights * (double)g->batch;
            for (int axis = 0; axis < AXES; axis++) work *= (double)outputs[axis];
            if (!(facts.cycles >= 0) || !(facts.multiply_adds >= 0) || facts.multiply_adds > work * 1.000001
                || facts.tasks < (p->call.op == IM2COLX_GRAD_INPUT ? 0 : 1))
                fail("%g cycles, %g multiply-adds, %td tasks", facts.cycles, facts.multiply_adds, facts.tasks);
        }
    }
    if (g->batch == 0) return; /* im2colx/_plan.py does not ask what a product of nothing takes */
    /* A whole patch matrix is asked for only where its bytes can be counted; a tile, always. */
    p->product = (im2colx_product_options){matmul_of(p->call.type), p->order, one_in(r, 2) ? PTRDIFF_MAX : INT32_MAX,
                                           (size_t)boundary(r, one_in(r, 4) ? 60 : 30), 0};
    if (is_answered(p, "tile workspace", ask_product) && bytes > p->product.workspace_bytes
        && bytes > 16 * (size_t)IM2COLX_MAX_THREADS)
        fail("%zu bytes, more than the workspace", bytes);
    p->product.whole = 1;
    const wide whole = phi_bytes(p);
    if (whole <= BOUND_BYTES && is_answered(p, "whole workspace", ask_product) && bytes != (size_t)whole && bytes != 0)
        fail("%zu bytes and not %zu", bytes, (size_t)whole);
}

static void product(randoms *r, plan *p)
{
    static const im2colx_pass_call step = {.pass = IM2COLX_SGD};
    im2colx_gemm_call *c = &p->gemm;
    const int bits = (int)between(r, 0, 46), more = (int)between(r, 0, 46 - bits);
    c->type = (im2colx_type)between(r, 0, 1);
    c->m = boundary(r, bits);
    c->n = boundary(r, more);
    c->k = boundary(r, 46 - (bits > more ? bits : more));
    c->a = one_in(r, 2) ? (im2colx_matrix){NULL, c->k, 1} : (im2colx_matrix){NULL, 1, c->m};
    c->b = one_in(r, 2) ? (im2colx_matrix){NULL, c->n, 1} : (im2colx_matrix){NULL, 1, c->k};
    c->c_row = c->n;
    c->threads = p->call.threads;
    c->step = one_in(r, 3) ? &step : NULL;
    if (!is_answered(p, "gemm workspace", ask_gemm)) return;
    if (bytes > (size_t)1 << 56) fail("%zu bytes", bytes);
    if (bytes % 64) fail("%zu bytes, not whole lines", bytes);
}

static void one_plan(uint64_t seed, ptrdiff_t number)
{
    randoms random = randoms_of(seed, (uint64_t)number), *r = &random;
    static plan p; /* static, because what a longjmp leaves behind is read */
    memset(&p, 0, sizeof p);
    p.number = number;
    p.question = "";
    describe_by(describe, &p);
    p.order = (im2colx_order)between(r, 0, 1);
    p.call.op = (im2colx_op)between(r, 0, 2);
    p.call.type = (im2colx_type)between(r, 0, one_in(r, 3) ? IM2COLX_I64 : IM2COLX_F64);
    p.call.threads = (int)between(r, 1, one_in(r, 10) ? 100000 : 64);
    p.call.geometry = one_in(r, 3) ? giant_geometry(r) : one_in(r, 8) ? small_geometry(r) : any_geometry(r);
    p.implicit.order = p.order;
    p.implicit.is_finite = one_in(r, 2);
    p.implicit.orientation = (im2colx_orientation)between(r, 0, 2);
    if (p.order == IM2COLX_CHANNELS_LAST) p.implicit.orientation = IM2COLX_EITHER;
    if (p.call.op == IM2COLX_FORWARD && one_in(r, 4)) p.implicit.packed = &p;
    if (one_in(r, 8)) product(r, &p);
    else convolution(r, &p);
    describe_by(NULL, NULL);
}

int main(int count, char **argument)
{
    if (count < 5) {
        fprintf(stderr, "usage: plans SEED CALLS MICROSECONDS ISA [ONLY]\n");
        return 2;
    }
    const uint64_t seed = strtoull(argument[1], NULL, 10);
    const ptrdiff_t calls = atol(argument[2]);
    bar = atof(argument[3]);
    if (!im2colx_set_isa(argument[4])) {
        fprintf(stderr, "this machine has no %s\n", argument[4]);
        return 2;
    }
    signal(SIGVTALRM, give_up);
    if (count > 5) one_plan(seed, atol(argument[5]));
    for (ptrdiff_t number = 0; count == 5 && number < calls; number++) one_plan(seed, number);
    printf("%td planned, the slowest in %.0f microseconds\n", calls, slowest);
    if (failures()) printf("%d failures\n", failures());
    return failures() != 0;
}
