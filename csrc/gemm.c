/* Matrix products by the microkernels, for a matrix that is met by few rows: the weights of a fully connected layer.
 *
 *   y = x w        128 rows of x and 21632 x 784 weights, say: w is read once, packed panel by panel on its way
 *   x' = y' w^T    the rows are those of w, read where they lie; the panels are of y'
 *   w' = x^T y'    the rows are those of w'; with a step w' goes no further than the cache
 *
 * A product is rows times columns: the left operand is broadcast, row by row, and the right one lies in lanes, in panels
 * [q][lanes] of a few vectors. That is b, unless its columns are no neighbours and it costs less to pack a in its place and
 * compute the transpose, b^T a^T. (So a gradient is summed alike whether it is stored or stepped along.)
 *
 * A task has a band of rows, a group of panels and a slice of the sum. It goes through its slice in pieces so short that a
 * piece of a panel stays in the first-level cache while all rows meet it, and adds up in a scratch of its own. A long sum
 * is cut into slices only where there are few rows; their results are then added in their order. Cuts depend on the sizes
 * alone, but for the groups, which change no sum: so bits do not depend on threads.
 */
#include "implicit.h"
#include "passes.h"

#include <stdlib.h>
#include <string.h>
/* Bytes of a piece of a panel: most of a first-level cache. */
enum { PIECE_BYTES = 32 << 10 };
/* A right operand of at most so many bytes is packed once, if there are enough rows to be cut into bands. */
enum { PACK_FIRST_BYTES = 16 << 20 };
/* Rows of a band: whole tiles and whole vectors, as few as repay that a panel comes from the second-level cache; or, where
 * each task packs its panels, as many as fit. On a Zen 5 bands of 48 took 2 % longer, of 24 4 %. */
enum { BAND_ROWS = 96, LONG_BAND = 256 };
/* A sum is cut into slices of at least so many elements, until there are so many tasks. */
enum { SLICE = 1024, SLICED_TASKS = 8 };
/* Bytes of a task's scratch, if one panel does not take more. */
enum { SCRATCH_BYTES = 512 << 10 };

typedef struct {
    const char *data;
    ptrdiff_t outer, inner; /* from row to row, or from column to column; and along the sum */
} operand;

typedef struct {
    const im2colx_gemm_call *call;
    const microkernel *kernel;
    pass_function step; /* or NULL */
    ptrdiff_t size;
    operand left, right;
    ptrdiff_t rows, columns, sum;
    int is_turned;  /* rows of the product are columns of c */
    ptrdiff_t vectors, panels, width; /* of all columns; a panel's rows are `width` */
    ptrdiff_t depth; /* of a piece */
    ptrdiff_t bands, groups, slices;
    int packs_first;
    int in_place;    /* whole panels are read where they lie */
    int is_direct;   /* tiles are written to c, not to a scratch */
    int threads;
    ptrdiff_t packed_bytes, partial_bytes, scratch_bytes, bytes_each; /* the last two of a thread */
    char *packed, *partial, *workers;
    ptrdiff_t along[INNER], in_band[INNER], in_panel[INNER], in_right[INNER]; /* offsets of the elements of a piece */
} product;

static ptrdiff_t lines(ptrdiff_t bytes) { return divide_up(bytes, 64) * 64; }

/* ---- Panels --------------------------------------------------------------------------------------------------------- */

typedef struct {
    ptrdiff_t column, filled; /* its first, and how many there are */
    ptrdiff_t vectors;
} panel;

static panel panel_at(const product *s, ptrdiff_t index)
{
    const ptrdiff_t begin = even_cut(s->vectors, s->panels, index), end = even_cut(s->vectors, s->panels, index + 1);
    const ptrdiff_t column = begin * s->kernel->lanes;
    return (panel){column, min_size(end * s->kernel->lanes, s->columns) - column, end - begin};
}

/* to[q - begin][lane] = right[q][column + lane], zero beyond the last column. */
static void pack(const product *s, panel p, ptrdiff_t begin, ptrdiff_t end, char *to)
{
    const char *from = s->right.data + (p.column * s->right.outer + begin * s->right.inner) * s->size;
    if (s->right.outer == 1) {
        for (ptrdiff_t q = begin; q < end; q++, from += s->right.inner * s->size, to += s->width * s->size)
            s->kernel->pack_row(from, 1, p.filled, p.vectors * s->kernel->lanes, to);
        return;
    }
    /* Whole vectors are turned round together; the rest by itself, because a vector would reach beyond the operand's end. */
    const ptrdiff_t whole = (end - begin) / s->kernel->lanes * s->kernel->lanes, row = s->width * s->size;
    s->kernel->store(from, s->right.outer, p.filled, whole, to, 1, s->width);
    const ptrdiff_t rest = p.vectors * s->kernel->lanes - p.filled;
    for (ptrdiff_t q = 0; rest && q < whole; q++) memset(to + q * row + p.filled * s->size, 0, (size_t)(rest * s->size));
    for (ptrdiff_t q = whole; q < end - begin; q++)
        s->kernel->pack_row(from + q * s->size, s->right.outer, p.filled, p.vectors * s->kernel->lanes, to + q * row);
}

static char *packed_at(const product *s, ptrdiff_t index, ptrdiff_t q)
{
    return s->packed + (index * s->sum + q) * s->width * s->size;
}

static void pack_task(void *argument, ptrdiff_t task, int worker, im2colx_job *job)
{
    const product *s = argument;
    (void)worker, (void)job;
    pack(s, panel_at(s, task), 0, s->sum, packed_at(s, task, 0));
}

/* ---- Memory ahead --------------------------------------------------------------------------------------------------- */

/* What will be needed soon: runs of bytes, a step apart. */
typedef struct {
    const char *data;
    ptrdiff_t runs, run, step;
} stretch;

/* `count` elements along one axis of an operand and `length` along the other, of which one has neighbours in memory. */
static stretch stretch_of(const product *s, operand o, ptrdiff_t outer, ptrdiff_t count, ptrdiff_t inner, ptrdiff_t length)
{
    const char *data = o.data + (outer * o.outer + inner * o.inner) * s->size;
    if (o.inner == 1) return (stretch){data, count, length * s->size, o.outer * s->size};
    return (stretch){data, length, count * s->size, o.inner * s->size};
}

/* The left operand of the next piece; after the last, of the band that this thread will probably have next. */
static stretch left_ahead(const product *s, ptrdiff_t first, ptrdiff_t rows, ptrdiff_t q, ptrdiff_t q_begin, ptrdiff_t q_end)
{
    if (q == q_end) {
        first += rows * s->threads;
        q = q_begin;
    }
    return stretch_of(s, s->left, first, clamp_size(s->rows - first, 0, rows), q, min_size(s->depth, q_end - q));
}

/* Asks for a part of it, so that all of it has come when it is needed, and nobody waited. Inlined, because gcc drops a call
 * of a function that does nothing else. */
static inline __attribute__((always_inline)) void fetch(const stretch *s, ptrdiff_t part, ptrdiff_t parts)
{
    const ptrdiff_t end = even_cut(s->runs, parts, part + 1);
    for (ptrdiff_t i = even_cut(s->runs, parts, part); i < end; i++)
        for (ptrdiff_t byte = 0; byte < s->run; byte += 64) __builtin_prefetch(s->data + i * s->step + byte, 0, 2);
}

/* ---- A task --------------------------------------------------------------------------------------------------------- */

/* Rows `first` on of the product, from column `column` on, are done: they go to c, or c takes its step. */
static void finish(const product *s, const char *from, ptrdiff_t ld, ptrdiff_t first, ptrdiff_t rows, ptrdiff_t column,
                   ptrdiff_t columns)
{
    const im2colx_gemm_call *call = s->call;
    if (!s->step) {
        const ptrdiff_t row_step = s->is_turned ? 1 : call->c_row, column_step = s->is_turned ? call->c_row : 1;
        s->kernel->store(from, ld, rows, columns, (char *)call->c + (first * row_step + column * column_step) * s->size,
                         row_step, column_step);
        return;
    }
    const int is_one_row = ld == columns && columns == call->c_row;
    for (ptrdiff_t i = 0; i < rows; i += is_one_row ? rows : 1) {
        void *out[IM2COLX_PASS_VECTORS];
        for (int k = 0; k < IM2COLX_PASS_VECTORS; k++)
            out[k] = call->step->out[k]
                         ? (char *)call->step->out[k] + ((first + i) * call->c_row + column) * s->size : NULL;
        s->step(call->step, from + i * ld * s->size, out, is_one_row ? rows * columns : columns);
    }
}

static void product_task(void *argument, ptrdiff_t task, int worker, im2colx_job *job)
{
    const product *s = argument;
    const ptrdiff_t size = s->size, group = task % s->groups, band = task / s->groups % s->bands;
    const ptrdiff_t slice = task / s->groups / s->bands;
    const ptrdiff_t first = even_cut(s->rows, s->bands, band), rows = even_cut(s->rows, s->bands, band + 1) - first;
    const ptrdiff_t p_begin = even_cut(s->panels, s->groups, group), p_end = even_cut(s->panels, s->groups, group + 1);
    const ptrdiff_t q_begin = even_cut(s->sum, s->slices, slice), q_end = even_cut(s->sum, s->slices, slice + 1);
    const panel p_first = panel_at(s, p_begin), p_last = panel_at(s, p_end - 1);
    char *scratch = s->workers + worker * s->bytes_each;
    char *left_band = scratch + s->scratch_bytes, *right_panel = left_band + lines(LONG_BAND * s->depth * size);
    ptrdiff_t ld = p_last.column - p_first.column + p_last.vectors * s->kernel->lanes;
    if (s->partial) {
        ld = s->vectors * s->kernel->lanes;
        scratch = s->partial + ((slice * s->rows + first) * ld + p_first.column) * size;
    } else if (s->is_direct) {
        ld = s->call->c_row;
        scratch = (char *)s->call->c + (first * ld + p_first.column) * size;
    }
    const ptrdiff_t pieces = divide_up(q_end - q_begin, s->depth), blocks = divide_up(rows, MICRO_ROWS), zero = 0;
    for (ptrdiff_t piece = 0; piece < pieces; piece++) {
        const ptrdiff_t q = q_begin + even_cut(q_end - q_begin, pieces, piece);
        const ptrdiff_t next = q_begin + even_cut(q_end - q_begin, pieces, piece + 1), count = next - q;
        const char *left = s->left.data + (first * s->left.outer + q * s->left.inner) * size;
        ptrdiff_t row = s->left.outer;
        micro_sum sum = {1, count, count, &zero, &zero, s->along, s->in_panel};
        if (s->left.inner != 1) {
            for (ptrdiff_t i = 0; i < count; i++)
                memcpy(left_band + i * LONG_BAND * size, left + i * s->left.inner * size, (size_t)(rows * size));
            left = left_band;
            row = 1;
            sum.a_inner = s->in_band;
        }
        const stretch next_left = left_ahead(s, first, rows, next, q_begin, q_end);
        for (ptrdiff_t index = p_begin; index < p_end; index++) {
            const panel p = panel_at(s, index);
            if (im2colx_stopped(job)) return;
            const int in_place = s->in_place && p.filled == p.vectors * s->kernel->lanes;
            const char *right = s->packed ? packed_at(s, index, q) : right_panel;
            stretch next_right = {0};
            sum.b_inner = s->in_panel;
            if (in_place) {
                right = s->right.data + (p.column + q * s->right.inner) * size;
                sum.b_inner = s->in_right;
            } else if (!s->packed) {
                pack(s, p, q, next, right_panel);
                const int is_last = index + 1 == p_end;
                const panel n = panel_at(s, is_last ? p_begin : index + 1);
                if (!is_last) next_right = stretch_of(s, s->right, n.column, n.filled, q, count);
                else if (next < q_end) next_right = stretch_of(s, s->right, n.column, n.filled, next, min_size(count, q_end - next));
            }
            char *to = scratch + (p.column - p_first.column) * size;
            for (ptrdiff_t block = 0; block < blocks; block++) {
                const ptrdiff_t i = even_cut(rows, blocks, block), mr = even_cut(rows, blocks, block + 1) - i;
                const void *a[MICRO_ROWS];
                void *c[MICRO_ROWS];
                for (ptrdiff_t r = 0; r < mr; r++) {
                    a[r] = left + (i + r) * row * size;
                    c[r] = to + (i + r) * ld * size;
                }
                fetch(&next_right, block, blocks);
                fetch(&next_left, (index - p_begin) * blocks + block, (p_end - p_begin) * blocks);
                s->kernel->function[mr - 1][p.vectors - 1](&sum, a, right, c, piece > 0);
            }
        }
    }
    for (ptrdiff_t i = 0; i < rows && pieces == 0; i++)
        memset(scratch + i * ld * size, 0, (size_t)((p_last.column + p_last.filled - p_first.column) * size));
    if (!s->partial && !s->is_direct)
        finish(s, scratch, ld, first, rows, p_first.column, p_last.column + p_last.filled - p_first.column);
}

/* Adds up the slices of a row, in their order: a product with ones. */
static void add_task(void *argument, ptrdiff_t task, int worker, im2colx_job *job)
{
    const product *s = argument;
    const ptrdiff_t ld = s->vectors * s->kernel->lanes, zero = 0;
    const ptrdiff_t first = task * MICRO_ROWS, rows = min_size(MICRO_ROWS, s->rows - first);
    const float one_f32 = 1;
    const double one_f64 = 1;
    const void *const one = s->call->type == IM2COLX_F32 ? (const void *)&one_f32 : (const void *)&one_f64;
    ptrdiff_t zeros[SLICED_TASKS] = {0}, slices[SLICED_TASKS];
    for (ptrdiff_t slice = 0; slice < s->slices; slice++) slices[slice] = slice * s->rows * ld;
    const micro_sum sum = {1, s->slices, s->slices, &zero, &zero, zeros, slices};
    char *scratch = s->workers + worker * s->bytes_each;
    (void)job;
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t index = 0; index < s->panels; index++) {
            const panel p = panel_at(s, index);
            void *const c = scratch + (i * ld + p.column) * s->size;
            s->kernel->function[0][p.vectors - 1](&sum, &one, s->partial + ((first + i) * ld + p.column) * s->size, &c, 0);
        }
    finish(s, scratch, ld, first, rows, 0, s->columns);
}

/* ---- Entry ---------------------------------------------------------------------------------------------------------- */

/* Elements that are moved before the sums can begin; those that are turned round count three times. */
static double packing(operand left, ptrdiff_t rows, operand right, ptrdiff_t columns)
{
    return (double)columns * (right.outer == 1 ? 1 : 3) + (left.inner == 1 ? 0 : (double)rows);
}

static void choose(product *s)
{
    const im2colx_gemm_call *call = s->call;
    s->kernel = find_microkernel(call->type);
    s->step = call->step ? find_pass(call->step) : NULL;
    s->size = (ptrdiff_t)im2colx_itemsize(call->type);
    s->left = (operand){call->a.data, call->a.row, call->a.column};
    s->right = (operand){call->b.data, call->b.column, call->b.row};
    s->rows = call->m;
    s->columns = call->n;
    s->sum = call->k;
    const operand a = {call->b.data, call->b.column, call->b.row}, b = {call->a.data, call->a.row, call->a.column};
    s->is_turned = s->right.outer != 1 && !call->step && packing(a, call->n, b, call->m) < packing(s->left, call->m, s->right, call->n);
    if (s->is_turned) {
        s->left = a;
        s->right = b;
        s->rows = call->n;
        s->columns = call->m;
    }
    s->vectors = divide_up(s->columns, s->kernel->lanes);
    s->panels = divide_up(s->vectors, s->kernel->vectors);
    s->width = divide_up(s->vectors, s->panels) * s->kernel->lanes;
    s->depth = min_size(INNER, PIECE_BYTES / (s->width * s->size));
    s->packs_first = s->rows > LONG_BAND && s->panels * s->width * s->sum * s->size <= PACK_FIRST_BYTES;
    s->in_place = s->right.outer == 1 && s->rows <= MICRO_ROWS; /* to be met but once: not worth a copy */
    s->bands = divide_up(s->rows, s->packs_first ? BAND_ROWS : LONG_BAND);
    s->slices = clamp_size(s->sum / SLICE, 1, divide_up(SLICED_TASKS, s->bands));
    const ptrdiff_t width = s->vectors * s->kernel->lanes, most_rows = divide_up(s->rows, s->bands);
    const ptrdiff_t tasks = s->bands * s->slices;
    s->groups = min_size(s->panels, max_size(divide_up(4 * call->threads, tasks), divide_up(most_rows * width * s->size, SCRATCH_BYTES)));
    s->scratch_bytes = lines(s->slices > 1 ? MICRO_ROWS * width * s->size
                                           : most_rows * divide_up(s->panels, s->groups) * s->width * s->size);
    s->bytes_each = s->scratch_bytes + lines(LONG_BAND * s->depth * s->size) + lines(s->depth * s->width * s->size);
    s->packed_bytes = s->packs_first ? lines(s->panels * s->width * s->sum * s->size) : 0;
    s->is_direct = s->slices == 1 && !s->is_turned && !call->step && s->columns % s->kernel->lanes == 0;
    s->partial_bytes = s->slices > 1 ? lines(s->slices * s->rows * width * s->size) : 0;
    s->threads = im2colx_workers(IM2COLX_MAX_THREADS, call->threads);
}

static size_t workspace_of(const product *s)
{
    return (size_t)(s->packed_bytes + s->partial_bytes + s->threads * s->bytes_each);
}

size_t im2colx_gemm_workspace(const im2colx_gemm_call *call)
{
    product s = {.call = call};
    if (call->m == 0 || call->n == 0) return 0;
    choose(&s);
    return workspace_of(&s);
}

im2colx_status im2colx_gemm(const im2colx_gemm_call *call)
{
    product s = {.call = call};
    if (call->m == 0 || call->n == 0) return IM2COLX_OK;
    choose(&s);
    char *memory = call->workspace ? call->workspace : aligned_alloc(64, workspace_of(&s));
    if (!memory) return IM2COLX_NO_MEMORY;
    s.packed = s.packed_bytes ? memory : NULL;
    s.partial = s.partial_bytes ? memory + s.packed_bytes : NULL;
    s.workers = memory + s.packed_bytes + s.partial_bytes;
    for (ptrdiff_t i = 0; i < s.depth; i++) {
        s.along[i] = i;
        s.in_band[i] = i * LONG_BAND;
        s.in_panel[i] = i * s.width;
        s.in_right[i] = i * s.right.inner;
    }
    im2colx_status status = IM2COLX_OK;
    if (s.packed) status = im2colx_run(s.panels, s.threads, pack_task, &s, call->poll);
    if (!status) status = im2colx_run(s.bands * s.groups * s.slices, s.threads, product_task, &s, call->poll);
    if (!status && s.partial) status = im2colx_run(divide_up(s.rows, MICRO_ROWS), s.threads, add_task, &s, call->poll);
    if (!call->workspace) free(memory);
    return status;
}
