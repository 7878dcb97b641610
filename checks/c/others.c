/* Each function of csrc/im2colx.h that is not a convolution, on random arguments, against its definition: see others.h. */
#include "others.h"

#include "harness.h"
#include "threads.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static atomic_long compared;

typedef struct {
    const char *name;
    ptrdiff_t number;
    im2colx_geometry geometry;
    ptrdiff_t detail[6]; /* what else was drawn */
} other;

static void describe(FILE *to, const void *what)
{
    const other *o = what;
    fprintf(to, "other call %td: %s (%td, %td, %td, %td, %td, %td) ", o->number, o->name,
            o->detail[0], o->detail[1], o->detail[2], o->detail[3], o->detail[4], o->detail[5]);
    print_geometry(to, &o->geometry);
}

static void *need(ptrdiff_t bytes)
{
    void *memory = malloc((size_t)bytes);
    if (!memory && bytes) abort();
    if (bytes) memset(memory, 0xff, (size_t)bytes);
    return memory;
}

/* ---- The patch matrix ------------------------------------------------------------------------------------------------ */

static ptrdiff_t product_of(const ptrdiff_t v[AXES]) { return v[0] * v[1] * v[2]; }

/* Where element (p, q) of Phi lies in x; 0 if in the padding. */
static int find(const im2colx_geometry *g, int is_last, ptrdiff_t p, ptrdiff_t q, ptrdiff_t at[ARRAY_AXES])
{
    const ptrdiff_t taps = product_of(g->kernel), outputs = product_of(g->output);
    ptrdiff_t tap = is_last ? q / g->channels : q % taps, o = p % outputs;
    int inside = 1;
    at[0] = p / outputs;
    at[1] = is_last ? q % g->channels : q / taps;
    for (int axis = AXES - 1; axis >= 0; axis--) {
        const wide i = position(g, axis, o % g->output[axis], tap % g->kernel[axis]);
        inside &= i >= 0 && i < g->image[axis];
        at[2 + axis] = (ptrdiff_t)i;
        tap /= g->kernel[axis];
        o /= g->output[axis];
    }
    return inside;
}

static void patch_matrix(randoms *r, other *o)
{
    static const im2colx_type types[] = {IM2COLX_F32, IM2COLX_F64, IM2COLX_C128, IM2COLX_I32};
    im2colx_geometry *g = &o->geometry;
    g->groups = 1;
    const int is_last = one_in(r, 2), transposed = one_in(r, 2), threads = (int)between(r, 1, 5);
    const ptrdiff_t columns = g->channels * product_of(g->kernel), all = g->batch * product_of(g->output);
    const ptrdiff_t begin = between(r, 0, all - 1), end = between(r, begin + 1, all), rows = end - begin;
    const im2colx_type type = types[between(r, 0, 3)];
    const ptrdiff_t size = (ptrdiff_t)im2colx_itemsize(type);
    memcpy(o->detail, (ptrdiff_t[]){is_last, transposed, begin, end, threads, type}, sizeof o->detail);
    ptrdiff_t count[ARRAY_AXES], at[ARRAY_AXES];
    counts_of(g, 'x', count);
    array x = make_array(r, type, 'x', count, ANY, 1);
    char *phi = need(rows * columns * size);
    if (im2colx_im2col(g, &x.tensor, (size_t)size, (im2colx_order)is_last, begin, end, transposed, phi, threads, NULL))
        fail("a status");
    int wrong = 0;
    for (ptrdiff_t p = begin; p < end && !wrong; p++)
        for (ptrdiff_t q = 0; q < columns && !wrong; q++) {
            const value right = find(g, is_last, p, q, at) ? get(&x, at) : 0;
            wrong = !same(load(type, phi + (transposed ? q * rows + p - begin : (p - begin) * columns + q) * size), right);
            if (wrong) fail("row %td, column %td is wrong", p, q);
        }
    if (!is_intact(&x, 0)) fail("x has changed");
    free(phi);
    free_array(&x);
}

static void adjoint(randoms *r, other *o)
{
    static const im2colx_type types[] = {IM2COLX_F32, IM2COLX_C64, IM2COLX_I64};
    im2colx_geometry *g = &o->geometry;
    g->groups = 1;
    const im2colx_type type = types[between(r, 0, 2)];
    const int is_last = one_in(r, 2), threads = (int)between(r, 1, 5);
    const ptrdiff_t columns = g->channels * product_of(g->kernel), rows = g->batch * product_of(g->output);
    const ptrdiff_t size = (ptrdiff_t)im2colx_itemsize(type);
    memcpy(o->detail, (ptrdiff_t[]){is_last, threads, type, 0, 0, 0}, sizeof o->detail);
    ptrdiff_t count[ARRAY_AXES], at[ARRAY_AXES] = {0};
    counts_of(g, 'x', count);
    array x = make_array(r, type, 'x', count, ANY, 0), sum = make_array(r, IM2COLX_C128, 'x', count, FIRST, 0);
    char *phi = need(rows * columns * size);
    if (x.bytes) do {
        put(&x, at, 0);
        put(&sum, at, 0);
    } while (advance(count, ARRAY_AXES, at));
    for (ptrdiff_t p = 0; p < rows; p++)
        for (ptrdiff_t q = 0; q < columns; q++) {
            const value v = (double)between(r, -3, 3);
            store(type, phi + (p * columns + q) * size, v);
            if (find(g, is_last, p, q, at)) put(&sum, at, get(&sum, at) + v);
        }
    if (im2colx_col2im(g, &x.tensor, type, (im2colx_order)is_last, phi, threads, NULL)) fail("a status");
    memset(at, 0, sizeof at);
    if (x.bytes) do {
        if (same(get(&x, at), get(&sum, at))) continue;
        fail("[%td, %td, %td, %td, %td] is wrong", at[0], at[1], at[2], at[3], at[4]);
        break;
    } while (advance(count, ARRAY_AXES, at));
    if (!is_intact(&x, 1)) fail("what is not an element of x has changed");
    free(phi);
    free_array(&x);
    free_array(&sum);
}

static void gram(randoms *r, other *o)
{
    const im2colx_type type = (im2colx_type)between(r, 0, IM2COLX_I64);
    const ptrdiff_t size = (ptrdiff_t)im2colx_itemsize(type);
    const ptrdiff_t rows = between(r, 1, 20), columns = between(r, 1, one_in(r, 3) ? 130 : 40);
    const int transposed = one_in(r, 2), threads = (int)between(r, 1, 5);
    memcpy(o->detail, (ptrdiff_t[]){type, rows, columns, transposed, threads, 0}, sizeof o->detail);
    const ptrdiff_t count[ARRAY_AXES] = {rows, columns, 1, 1, 1};
    array tile = make_array(r, type, 'x', count, FIRST, 1);
    char *flat = need(rows * columns * size), *result = need(columns * columns * size);
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t j = 0; j < columns; j++)
            store(type, flat + (transposed ? j * rows + i : i * columns + j) * size, get(&tile, (ptrdiff_t[]){i, j, 0, 0, 0}));
    for (int turn = 0; turn < 2; turn++) /* the same tile twice */
        if (im2colx_gram_add(matmul_of(type), type, rows, columns, flat, transposed, turn, result, threads, NULL))
            fail("a status");
    if (im2colx_gram_finish(type, columns, transposed, result, threads, NULL)) fail("a status");
    int wrong = 0;
    for (ptrdiff_t i = 0; i < columns && !wrong; i++)
        for (ptrdiff_t j = 0; j < columns && !wrong; j++) {
            value sum = 0;
            for (ptrdiff_t l = 0; l < rows; l++) {
                const ptrdiff_t at_i[ARRAY_AXES] = {l, i}, at_j[ARRAY_AXES] = {l, j};
                const value term = times(type, conj(get(&tile, at_i)), get(&tile, at_j));
                sum += term + term; /* not 2 * term, in which clang multiplies an infinity by 0*i */
            }
            wrong = !same(load(type, result + (i * columns + j) * size), sum);
            if (wrong) fail("(%td, %td) is wrong", i, j);
        }
    free(flat);
    free(result);
    free_array(&tile);
}

/* ---- The sparse matrix ------------------------------------------------------------------------------------------------ */

static void sparse(randoms *r, other *o)
{
    im2colx_geometry *g = &o->geometry;
    const int is_last = one_in(r, 2), circular = one_in(r, 3), is_wide = one_in(r, 2), threads = (int)between(r, 1, 5);
    const im2colx_type types[] = {IM2COLX_F32, IM2COLX_F64, IM2COLX_C128}, type = types[between(r, 0, 2)];
    const ptrdiff_t size = (ptrdiff_t)im2colx_itemsize(type), taps = product_of(g->kernel), columns = g->channels * taps;
    const ptrdiff_t outputs = product_of(g->output), filters = g->groups * g->filters, rows = filters * outputs;
    const ptrdiff_t plane = product_of(g->image), channels = g->groups * g->channels, index = is_wide ? 8 : 4;
    memcpy(o->detail, (ptrdiff_t[]){is_last, circular, index, type, threads, 0}, sizeof o->detail);
    g->batch = 1;
    if (circular && !plane) return;
    char *w = need(filters * columns * size);
    for (ptrdiff_t i = 0; i < filters * columns; i++) store(type, w + i * size, (double)(i % 7 - 3));
    /* The entries in their order; counted first, because the matrix is to lie in exactly so much memory. */
    ptrdiff_t entries = 0, at[ARRAY_AXES], *column = NULL, *weight = NULL, *begin = need((rows + 1) * (ptrdiff_t)sizeof *begin);
    for (int turn = 0; turn < 2; turn++) {
        entries = 0;
        for (ptrdiff_t row = 0; row < rows; row++) {
            const ptrdiff_t f = is_last ? row % filters : row / outputs, p = is_last ? row / filters : row % outputs;
            begin[row] = entries;
            for (ptrdiff_t q = 0; q < columns; q++) {
                if (!find(g, is_last, p, q, at) && !circular) continue;
                ptrdiff_t pixel = 0;
                for (int axis = 0; axis < AXES; axis++)
                    pixel = pixel * g->image[axis] + (at[2 + axis] % g->image[axis] + g->image[axis]) % g->image[axis];
                const ptrdiff_t channel = f / g->filters * g->channels + at[1];
                if (turn) column[entries] = is_last ? pixel * channels + channel : channel * plane + pixel;
                if (turn) weight[entries] = f * columns + q;
                entries++;
            }
        }
        begin[rows] = entries;
        if (!turn) column = need(entries * (ptrdiff_t)sizeof *column), weight = need(entries * (ptrdiff_t)sizeof *weight);
    }
    char *indptr = need((rows + 1) * index), *indices = need(entries * index), *data = need(entries * size);
    if (im2colx_csr(g, (im2colx_order)is_last, circular, (size_t)size, w, (size_t)index, indptr, indices, data, threads, NULL))
        fail("a status");
    int wrong = 0;
#define INDEX(from, i) (is_wide ? (ptrdiff_t)((int64_t *)(from))[i] : (ptrdiff_t)((int32_t *)(from))[i])
    for (ptrdiff_t row = 0; row <= rows && !wrong; row++) wrong = INDEX(indptr, row) != begin[row];
    for (ptrdiff_t e = 0; e < entries && !wrong; e++)
        wrong = INDEX(indices, e) != column[e] || memcmp(data + e * size, w + weight[e] * size, (size_t)size);
    if (wrong) fail("the matrix is wrong");
    free(w), free(begin), free(column), free(weight), free(indptr), free(indices), free(data);
}

/* ---- Networks --------------------------------------------------------------------------------------------------------- */

static const double RATE = 0.25, KEEP[] = {0.5, 0.75}, EPS = 1e-3;

/* What a pass makes of an element: `in` is what it reads, `to` what it writes. */
static void step(im2colx_pass_kind kind, double in, double to[IM2COLX_PASS_VECTORS])
{
    switch (kind) {
    case IM2COLX_SGD: to[0] -= RATE * in; break;
    case IM2COLX_MOMENTUM: to[0] += to[1] = KEEP[0] * to[1] - RATE * in; break;
    case IM2COLX_ADAM:
        to[1] = KEEP[0] * to[1] + (1 - KEEP[0]) * in;
        to[2] = KEEP[1] * to[2] + (1 - KEEP[1]) * in * in;
        to[0] -= RATE * to[1] / (sqrt(to[2]) + EPS);
        break;
    case IM2COLX_RELU: to[0] = in > 0 ? in : 0; break;
    default: to[0] = in > 0 ? to[1] : 0;
    }
}

static const int vectors_of[] = {1, 2, 3, 1, 2};

typedef struct {
    char *data[IM2COLX_PASS_VECTORS];
} state;

static state make_state(randoms *r, im2colx_pass_call *pass, ptrdiff_t count)
{
    state s = {{NULL}};
    const ptrdiff_t size = (ptrdiff_t)im2colx_itemsize(pass->type);
    for (int i = 0; i < vectors_of[pass->pass]; i++) {
        pass->out[i] = s.data[i] = need(count * size);
        for (ptrdiff_t j = 0; j < count; j++) store(pass->type, s.data[i] + j * size, (double)between(r, i == 2 ? 0 : -3, 3));
    }
    return s;
}

/* Whether `after` is what the pass makes of `before` and in[j] = from(what, j); Adam's square root is rounded. */
static void check_state(const im2colx_pass_call *pass, char *const before[], char *const after[], const value *in,
                        ptrdiff_t count)
{
    const ptrdiff_t size = (ptrdiff_t)im2colx_itemsize(pass->type);
    const double bar = pass->pass == IM2COLX_ADAM ? (pass->type == IM2COLX_F32 ? 1e-5 : 1e-13) : 0;
    for (ptrdiff_t j = 0; j < count; j++) {
        double to[IM2COLX_PASS_VECTORS] = {0};
        for (int i = 0; i < vectors_of[pass->pass]; i++) to[i] = creal(load(pass->type, before[i] + j * size));
        step(pass->pass, creal(in[j]), to);
        for (int i = 0; i < vectors_of[pass->pass]; i++)
            if (!(fabs(creal(load(pass->type, after[i] + j * size)) - to[i]) <= bar * (1 + fabs(to[i])))) {
                fail("element %td of vector %d is wrong", j, i);
                return;
            }
    }
}

static im2colx_pass_call make_pass(randoms *r, int kinds, im2colx_type type, int threads)
{
    im2colx_pass_call pass = {.type = type, .pass = (im2colx_pass_kind)between(r, 0, kinds - 1), .rate = RATE,
                              .keep = {KEEP[0], KEEP[1]}, .eps = EPS, .threads = threads};
    return pass;
}

static void vectors(randoms *r, other *o)
{
    const ptrdiff_t counts[] = {1, between(r, 1, 70), between(r, 1, 2000), between(r, 16000, 35000)};
    const ptrdiff_t count = counts[between(r, 0, 3)];
    im2colx_pass_call pass = make_pass(r, IM2COLX_PASSES, (im2colx_type)between(r, 0, 1), (int)between(r, 1, 5));
    const ptrdiff_t size = (ptrdiff_t)im2colx_itemsize(pass.type);
    memcpy(o->detail, (ptrdiff_t[]){pass.pass, pass.type, count, pass.threads, 0, 0}, sizeof o->detail);
    char *in = need(count * size), *before[IM2COLX_PASS_VECTORS] = {NULL};
    value *numbers = need(count * (ptrdiff_t)sizeof *numbers);
    for (ptrdiff_t j = 0; j < count; j++) store(pass.type, in + j * size, numbers[j] = (double)between(r, -3, 3));
    state s = make_state(r, &pass, count);
    for (int i = 0; i < vectors_of[pass.pass]; i++) memcpy(before[i] = need(count * size), s.data[i], (size_t)(count * size));
    pass.in = in;
    pass.count = count;
    if (im2colx_pass(&pass)) fail("a status");
    check_state(&pass, before, s.data, numbers, count);
    for (int i = 0; i < IM2COLX_PASS_VECTORS; i++) free(before[i]), free(s.data[i]);
    free(in), free(numbers);
}

static void matrices(randoms *r, other *o)
{
    im2colx_gemm_call call = {.type = (im2colx_type)between(r, 0, 1), .threads = (int)between(r, 1, 5)};
    const int is_long = one_in(r, 10);
    call.m = between(r, 0, one_in(r, 4) ? 300 : 20);
    call.n = between(r, 0, one_in(r, 4) ? 150 : 40);
    call.k = between(r, is_long ? 1024 : 0, is_long ? 4000 : 60);
    if (is_long && call.m > 20) call.m = 20;
    const ptrdiff_t m = call.m, n = call.n, k = call.k, size = (ptrdiff_t)im2colx_itemsize(call.type);
    const int turned_a = one_in(r, 2), turned_b = one_in(r, 2), has_step = one_in(r, 3);
    memcpy(o->detail, (ptrdiff_t[]){call.type, m, n, k, 2 * turned_a + turned_b, has_step}, sizeof o->detail);
    char *a = need(m * k * size), *b = need(k * n * size), *before[IM2COLX_PASS_VECTORS] = {NULL};
    for (ptrdiff_t i = 0; i < m * k; i++) store(call.type, a + i * size, (double)between(r, -3, 3));
    for (ptrdiff_t i = 0; i < k * n; i++) store(call.type, b + i * size, (double)between(r, -3, 3));
    call.a = (im2colx_matrix){a, turned_a ? 1 : k, turned_a ? m : 1};
    call.b = (im2colx_matrix){b, turned_b ? 1 : n, turned_b ? k : 1};
    im2colx_pass_call pass = make_pass(r, 3, call.type, 1);
    state s = make_state(r, &pass, m * n);
    for (int i = 0; i < vectors_of[pass.pass]; i++) memcpy(before[i] = need(m * n * size), s.data[i], (size_t)(m * n * size));
    call.c = s.data[0];
    call.c_row = n;
    call.step = has_step ? &pass : NULL;
    const size_t bytes = im2colx_gemm_workspace(&call);
    void *workspace = one_in(r, 2) && bytes ? aligned_alloc(64, bytes) : NULL;
    call.workspace = workspace;
    if (im2colx_gemm(&call)) fail("a status");
    value *products = need(m * n * (ptrdiff_t)sizeof *products);
    for (ptrdiff_t i = 0; i < m; i++)
        for (ptrdiff_t j = 0; j < n; j++) {
            value sum = 0;
            for (ptrdiff_t l = 0; l < k; l++)
                sum += load(call.type, a + (i * call.a.row + l * call.a.column) * size)
                       * load(call.type, b + (l * call.b.row + j * call.b.column) * size);
            products[i * n + j] = sum;
            if (!has_step && !same(sum, load(call.type, s.data[0] + (i * n + j) * size))) {
                fail("(%td, %td) is wrong", i, j);
                i = m, j = n;
            }
        }
    if (has_step) check_state(&pass, before, s.data, products, m * n);
    for (int i = 0; i < IM2COLX_PASS_VECTORS; i++) free(before[i]), free(s.data[i]);
    free(a), free(b), free(products), free(workspace);
}

/* ---- The pool --------------------------------------------------------------------------------------------------------- */

typedef struct {
    int threads, stops;                       /* the task that stops, or -1 */
    unsigned char done[1000];                 /* by each task, without a lock: no two may be the same */
    atomic_int is_busy[IM2COLX_MAX_THREADS];  /* what a worker owns */
    atomic_int is_wrong;
} shared;

static void shared_task(void *argument, ptrdiff_t task, int worker, im2colx_job *job)
{
    shared *s = argument;
    if (worker < 0 || worker >= s->threads || atomic_exchange(&s->is_busy[worker], 1)) s->is_wrong = 1;
    s->done[task]++;
    if (task == s->stops) im2colx_stop(job, IM2COLX_OVERFLOW);
    if (task % 100 == 99) { /* a task that itself wants the pool does without */
        shared *inner = calloc(1, sizeof *inner);
        if (!inner) abort();
        inner->threads = 3, inner->stops = -1;
        if (im2colx_run(5, 3, shared_task, inner, NULL) || inner->is_wrong || inner->done[4] != 1) s->is_wrong = 1;
        free(inner);
    }
    atomic_store(&s->is_busy[worker], 0);
}

static void pool(randoms *r, other *o)
{
    shared *s = calloc(1, sizeof *s);
    if (!s) abort();
    const ptrdiff_t tasks = between(r, 0, 1000);
    s->threads = (int)between(r, 1, one_in(r, 10) ? IM2COLX_MAX_THREADS : 6);
    s->stops = one_in(r, 4) && tasks ? (int)between(r, 0, tasks - 1) : -1;
    memcpy(o->detail, (ptrdiff_t[]){tasks, s->threads, s->stops, 0, 0, 0}, sizeof o->detail);
    const im2colx_status status = im2colx_run(tasks, s->threads, shared_task, s, NULL);
    if (status != (s->stops < 0 ? IM2COLX_OK : IM2COLX_OVERFLOW)) fail("the status is %d", (int)status);
    if (s->is_wrong) fail("two tasks at once had the same worker, or a worker has no number below the threads");
    for (ptrdiff_t i = 0; i < tasks; i++)
        if (s->done[i] > 1 || (s->stops < 0 && s->done[i] != 1)) {
            fail("task %td was done %d times", i, s->done[i]);
            break;
        }
    free(s);
}

/* ---- Entry ------------------------------------------------------------------------------------------------------------ */

long others_compared(void) { return compared; }

void other_call(uint64_t seed, ptrdiff_t number)
{
    static const struct {
        const char *name;
        void (*run)(randoms *r, other *o);
    } kinds[] = {{"im2col", patch_matrix}, {"col2im", adjoint}, {"gram", gram}, {"csr", sparse}, {"pass", vectors},
                 {"gemm", matrices}, {"pool", pool}};
    randoms r = randoms_of(seed ^ 0x6f74686572u, (uint64_t)number);
    const ptrdiff_t kind = between(&r, 0, (ptrdiff_t)(sizeof kinds / sizeof *kinds) - 1);
    other o = {.name = kinds[kind].name, .number = number, .geometry = one_in(&r, 4) ? giant_geometry(&r) : small_geometry(&r)};
    describe_by(describe, &o);
    kinds[kind].run(&r, &o);
    describe_by(NULL, NULL);
    atomic_fetch_add(&compared, 1);
}
