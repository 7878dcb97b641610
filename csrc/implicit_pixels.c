/* The implicit method with pixels in lanes. A vector holds neighbouring outputs of a row; with the padded rows of x one after
 * another, a run of outputs goes on from row to row, so that a tap is a constant shift of it. The few outputs that fall between
 * two rows are computed and dropped at the store. */
#include "implicit.h"

/* A run of outputs: `rows` rows of `columns` outputs, `pitch` elements apart in x, and so `length` elements long. */
typedef struct {
    ptrdiff_t rows, columns, pitch, length;
    ptrdiff_t o0, o1;
} output_run;

/* Where the outputs of a tile go that begins `start` elements into the run and uses `used` of them. */
static micro_places places_of(const output_run *run, ptrdiff_t start, ptrdiff_t used, ptrdiff_t y_pitch, int lanes)
{
    micro_places places = {.vectors = (int)divide_up(used, lanes)};
    ptrdiff_t row = start / run->pitch, column = start % run->pitch;
    for (int j = 0; j < places.vectors; j++) {
        places.to[j] = column < run->columns ? row * y_pitch + column : (row + 1) * y_pitch;
        const ptrdiff_t end = min_size(lanes, used - j * lanes);
        for (ptrdiff_t lane = 0; lane < end;) { /* the rest of a row, at once */
            const ptrdiff_t n = min_size(run->pitch - column, end - lane), kept = min_size(n, run->columns - column);
            if (kept > 0) places.keep[j] |= (unsigned)(((1ull << kept) - 1) << lane);
            lane += n;
            column += n;
            if (column == run->pitch) {
                column = 0;
                row++;
            }
        }
    }
    return places;
}

/* Rows of y that do not follow one another, or with strides: row by row. */
static void store_by_rows(const convolution *s, const output_run *run, ptrdiff_t start, ptrdiff_t used, const char *c,
                          ptrdiff_t ldc, ptrdiff_t mr, char *y)
{
    const im2colx_tensor *t = &s->call->y;
    for (ptrdiff_t v = 0; v < used;) {
        const ptrdiff_t row = (start + v) / run->pitch, column = (start + v) % run->pitch;
        const ptrdiff_t n = min_size(used - v, run->pitch - column), kept = min_size(n, run->columns - column);
        if (kept > 0)
            s->kernel->store(c + v * s->size, ldc, mr, kept, y + (row * t->space[1] + column * t->space[2]) * s->size,
                             t->channel, t->space[2]);
        v += n;
    }
}

/* Chunks `begin` to begin + count of the sum. */
static micro_sum part_of_sum(const offset_tables *o, ptrdiff_t begin, ptrdiff_t count)
{
    micro_sum sum = {.chunks = min_size(count, o->chunks - begin), .length = o->length};
    sum.last_length = begin + sum.chunks == o->chunks ? o->last_length : o->length;
    sum.a_chunk = o->w_chunk + begin;
    sum.b_chunk = o->x_chunk + begin;
    sum.a_inner = o->w_inner;
    sum.b_inner = o->x_inner;
    return sum;
}

static void compute_run(const convolution *s, const piece *p, const output_run *run, char *scratch, im2colx_job *job)
{
    const microkernel *kernel = s->kernel;
    const im2colx_tensor *y = &s->call->y;
    const ptrdiff_t size = s->size, lanes = kernel->lanes, at_once = s->piece;
    const ptrdiff_t f_begin = even_cut(s->g->filters, s->filter_parts, p->filter_part);
    const ptrdiff_t f_end = even_cut(s->g->filters, s->filter_parts, p->filter_part + 1);
    const ptrdiff_t blocks = divide_up(f_end - f_begin, MICRO_ROWS);
    const ptrdiff_t vectors = divide_up(run->length, lanes), tiles = divide_up(vectors, kernel->vectors);
    const ptrdiff_t first_tap[IM2COLX_AXES] = {0, 0, 0};
    const char *x = x_at(s, p, (ptrdiff_t[]){run->o0, run->o1, 0}, first_tap);
    const int is_packed_y = y->space[2] == 1 && (run->rows == 1 || y->space[1] == run->columns);
    const int is_dense = is_packed_y && (run->rows == 1 || run->pitch == run->columns);
    for (ptrdiff_t tile = 0; tile < tiles; tile++) {
        const ptrdiff_t nv = even_cut(vectors, tiles, tile + 1) - even_cut(vectors, tiles, tile);
        ptrdiff_t start = even_cut(vectors, tiles, tile) * lanes;
        /* The last tile moves back to end with the run: x or y may end there. */
        if (start + nv * lanes > run->length && run->length >= nv * lanes) start = run->length - nv * lanes;
        const ptrdiff_t used = min_size(nv * lanes, run->length - start);
        const int is_direct = is_dense && used == nv * lanes;
        const ptrdiff_t ldc = is_direct ? y->channel : nv * lanes;
        const micro_places places = places_of(run, start, used, y->space[1], (int)lanes);
        if (im2colx_stopped(job)) return;
        for (ptrdiff_t block = 0; block < blocks; block++) {
            const ptrdiff_t f = f_begin + even_cut(f_end - f_begin, blocks, block);
            const ptrdiff_t mr = f_begin + even_cut(f_end - f_begin, blocks, block + 1) - f;
            const void *a[MICRO_ROWS];
            for (ptrdiff_t i = 0; i < mr; i++)
                a[i] = (const char *)s->call->w.data + (p->g * s->w_group + (f + i) * s->call->w.outer) * size;
            char *to = y_at(s, p, f, run->o0, run->o1), *c = is_direct ? to + start * size : scratch;
            const char *bias = bias_at(s, p, f);
            void *rows[MICRO_ROWS];
            for (ptrdiff_t i = 0; i < mr; i++) rows[i] = c + i * ldc * size;
            if (bias) kernel->fill(c, ldc, mr, nv * lanes, bias, 1, 0);
            for (ptrdiff_t chunk = 0; chunk < s->tables.chunks; chunk += at_once) {
                const micro_sum sum = part_of_sum(&s->tables, chunk, at_once);
                kernel->function[mr - 1][nv - 1](&sum, a, x + start * size, rows, bias || chunk);
            }
            if (is_direct) continue;
            if (is_packed_y) kernel->store_kept(c, ldc, mr, &places, to, y->channel);
            else store_by_rows(s, run, start, used, c, ldc, mr, to);
        }
    }
}

void pixels_task(void *argument, ptrdiff_t task, int worker, im2colx_job *job)
{
    const convolution *s = argument;
    const piece p = take_piece(s, task, worker);
    char *scratch = s->scratches + worker * s->scratch_elements * s->size;
    const ptrdiff_t pitch = s->layout.step[1];
    /* Rows run together if those of x follow one another; the element behind a row is then the next one's, or is dropped. */
    const int is_joined = pitch >= p.count[2];
    output_run run = {.rows = is_joined ? p.count[1] : 1, .columns = p.count[2], .pitch = is_joined ? pitch : p.count[2]};
    run.length = (run.rows - 1) * run.pitch + run.columns;
    if (run.rows == 1) run.pitch = run.columns;
    for (run.o0 = 0; run.o0 < p.count[0]; run.o0++)
        for (run.o1 = 0; run.o1 < p.count[1]; run.o1 += run.rows) compute_run(s, &p, &run, scratch, job);
}
