/* The implicit method with filters in lanes. A vector holds neighbouring filters, from panels of w [q][lanes]; x is only
 * broadcast, so outputs may lie anywhere, none is wasted, and those near the border leave out the taps that fall into the
 * padding. With channels last w is such a panel already; otherwise a plan has packed it, or a piece of it is packed when it is
 * needed. */
#include "implicit.h"

/* The outputs of a class that are computed at once: count of them from `first` on in the lists of a band. */
typedef struct {
    const tap_class *class;
    ptrdiff_t first, count;
} class_part;

/* What the class's first tap of each of the outputs (o0, o1, columns) reads. */
static void list_row(const convolution *s, const piece *p, const tap_class *class, ptrdiff_t o0, ptrdiff_t o1, range columns,
                     const void **x)
{
    const ptrdiff_t count = range_size(columns), first[IM2COLX_AXES] = {o0, o1, columns.begin};
    if (count < 1) return;
    const char *from = class->taps ? x_at(s, p, first, class->first) : p->x; /* without a tap nothing is read */
    const ptrdiff_t step = class->taps && count > 1 ? s->g->stride[2] * s->layout.space[2] * s->size : 0;
    for (ptrdiff_t i = 0; i < count; i++) x[i] = from + i * step;
}

/* Outputs `band` of a task, in row-major order, listed class by class: what the first tap of each reads, and its row of sums. */
static int list_band(const convolution *s, const piece *p, range band, char *sums, ptrdiff_t width, const void **x, void **c,
                     class_part parts[MOST_CLASSES])
{
    const ptrdiff_t size = s->size, columns = p->count[2];
    const ptrdiff_t row_begin = band.begin / columns, row_end = divide_up(band.end, columns);
    ptrdiff_t listed = 0;
    int count = 0;
    for (int i = 0; i < s->class_count; i++) {
        const tap_class *class = s->classes + i;
        range inside[IM2COLX_AXES];
        for (int axis = 0; axis < IM2COLX_AXES; axis++) {
            inside[axis].begin = max_size(class->outputs[axis].begin - p->first[axis], 0);
            inside[axis].end = min_size(class->outputs[axis].end - p->first[axis], p->count[axis]);
        }
        if (inside[2].begin >= inside[2].end) continue;
        const ptrdiff_t first = listed;
        ptrdiff_t o0 = row_begin / p->count[1], o1 = row_begin % p->count[1];
        for (ptrdiff_t row = row_begin; row < row_end; row++) {
            if (o0 >= inside[0].begin && o0 < inside[0].end && o1 >= inside[1].begin && o1 < inside[1].end) {
                const ptrdiff_t begin = max_size(row * columns + inside[2].begin, band.begin);
                const ptrdiff_t end = min_size(row * columns + inside[2].end, band.end);
                list_row(s, p, class, o0, o1, (range){begin - row * columns, end - row * columns}, x + listed);
                for (ptrdiff_t pixel = begin; pixel < end; pixel++, listed++)
                    c[listed] = sums + (pixel - band.begin) * width * size;
            }
            if (++o1 == p->count[1]) {
                o1 = 0;
                o0++;
            }
        }
        if (listed > first) parts[count++] = (class_part){class, first, listed - first};
    }
    return count;
}

/* Moves the sums of a band, a panel wide, to y. */
static void store_band(const convolution *s, const piece *p, range band, const char *sums, ptrdiff_t width, ptrdiff_t f,
                       ptrdiff_t filled)
{
    const im2colx_tensor *y = &s->call->y;
    const ptrdiff_t size = s->size, pixels = range_size(band);
    /* Rows of y that follow one another are one long row. */
    const int is_one_row = y->space[2] == 1 && p->count[0] == 1 && (p->count[1] == 1 || y->space[1] == p->count[2]);
    ptrdiff_t at[IM2COLX_AXES], n;
    unflatten(band.begin, p->count, at);
    for (ptrdiff_t i = 0; i < pixels; i += n, next_row(p->count, at)) {
        n = is_one_row ? pixels : min_size(pixels - i, p->count[2] - at[2]);
        s->kernel->store(sums + i * width * size, width, n, filled, y_at(s, p, f, at[0], at[1]) + at[2] * y->space[2] * size,
                         y->space[2], y->channel);
    }
}

static void compute_band(const convolution *s, const piece *p, range band, char *sums, char *buffer, im2colx_job *job)
{
    const im2colx_geometry *g = s->g;
    const microkernel *kernel = s->kernel;
    const offset_tables *o = &s->tables;
    const ptrdiff_t size = s->size, lanes = kernel->lanes;
    const ptrdiff_t columns = g->channels * taps_of(g), width = panel_width(g->filters, kernel);
    const ptrdiff_t vectors = divide_up(g->filters, lanes), panels = panels_of(g->filters, kernel);
    const void *x[BAND_PIXELS_PACKING];
    void *c[BAND_PIXELS_PACKING];
    class_part parts[MOST_CLASSES];
    const int part_count = list_band(s, p, band, sums, width, x, c, parts);
    const ptrdiff_t last_channels = o->last_length / taps_of(g);
    for (ptrdiff_t panel = even_cut(panels, s->filter_parts, p->filter_part);
         panel < even_cut(panels, s->filter_parts, p->filter_part + 1); panel++) {
        const ptrdiff_t f = even_cut(vectors, panels, panel) * lanes;
        const ptrdiff_t nv = even_cut(vectors, panels, panel + 1) - even_cut(vectors, panels, panel);
        const ptrdiff_t filled = min_size(nv * lanes, g->filters - f);
        const char *w = (const char *)s->call->w.data + (p->g * s->w_group + f * s->call->w.outer) * size;
        const char *bias = bias_at(s, p, f);
        if (bias) kernel->fill(sums, width, range_size(band), filled, bias, 0, 1);
        for (ptrdiff_t chunk = 0; chunk < o->chunks; chunk += s->piece) {
            const char *b = w;
            if (s->packed) {
                b = s->packed + (p->g * panels + panel) * width * columns * size;
            } else if (!s->is_w_panel) {
                const ptrdiff_t begin = chunk * o->length, end = min_size(columns, begin + s->piece * o->length);
                pack_panel(o, kernel, w, s->call->w.outer, filled, width, begin, end, buffer);
                b = buffer - begin * width * size;
            }
            if (im2colx_stopped(job)) return;
            micro_sum sum = {.chunks = min_size(s->piece, o->chunks - chunk)};
            sum.a_chunk = o->x_chunk + chunk;
            sum.b_chunk = s->b_chunk + chunk;
            const int is_last_piece = chunk + sum.chunks == o->chunks;
            /* The class with all taps comes first and brings the panel into the cache in one stream. */
            for (int i = 0; i < part_count; i++) {
                const class_part *part = parts + i;
                sum.a_inner = part->class->a_inner;
                sum.b_inner = part->class->b_inner;
                sum.length = s->skips ? s->skips * part->class->taps : o->length;
                sum.last_length = !is_last_piece ? sum.length : s->skips ? last_channels * part->class->taps : o->last_length;
                const ptrdiff_t blocks = divide_up(part->count, MICRO_ROWS);
                for (ptrdiff_t block = 0; block < blocks; block++) {
                    const ptrdiff_t j = part->first + even_cut(part->count, blocks, block);
                    const ptrdiff_t mr = part->first + even_cut(part->count, blocks, block + 1) - j;
                    kernel->function[mr - 1][nv - 1](&sum, x + j, b, c + j, bias || chunk);
                }
            }
        }
        store_band(s, p, band, sums, width, f, filled);
    }
}

void filters_task(void *argument, ptrdiff_t task, int worker, im2colx_job *job)
{
    const convolution *s = argument;
    const piece p = take_piece(s, task, worker);
    const ptrdiff_t rows = p.count[0] * p.count[1], columns = p.count[2];
    char *sums = s->scratches + worker * s->scratch_elements * s->size;
    char *buffer = s->panels + worker * s->panel_elements * s->size;
    /* Whole rows where some fit, so that few bands have a border at their side. */
    const ptrdiff_t unit = columns <= s->band_pixels ? columns : 1, units = rows * columns / unit;
    const ptrdiff_t bands = divide_up(units, s->band_pixels / unit);
    for (ptrdiff_t i = 0; i < bands && !im2colx_stopped(job); i++)
        compute_band(s, &p, (range){even_cut(units, bands, i) * unit, even_cut(units, bands, i + 1) * unit}, sums, buffer, job);
}
