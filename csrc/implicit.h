/* What the parts of the implicit method share: see implicit.c. */
#ifndef IM2COLX_IMPLICIT_H
#define IM2COLX_IMPLICIT_H

#include "microkernels/microkernel.h"
#include "slab.h"
#include "threads.h"

/* Entries of the inner tables: together 8 KiB, a corner of the first-level cache. */
enum { INNER = 512 };
/* The two halves of the index map, for x and for w: offset(q) = chunk[s] + inner[r] for q = s*length + r. */
typedef struct {
    ptrdiff_t chunks, length, last_length;
    ptrdiff_t *x_chunk, *w_chunk, *x_inner, *w_inner;
} offset_tables;

/* Sums are cut into pieces of whole chunks of about this many columns, each summed by itself and then added to the
 * result. The cut depends on the geometry alone, so every way to compute an output gives the same bits. */
enum { PIECE_COLUMNS = 1024 };

/* How the sum is cut: `chunks` of `length` columns, the last perhaps shorter. */
void cut_sum(const im2colx_geometry *g, int is_last, ptrdiff_t *chunks, ptrdiff_t *length);
ptrdiff_t table_entries(const im2colx_geometry *g, int is_last);
offset_tables make_tables(const im2colx_geometry *g, int is_last, const slab_layout *x, const im2colx_tensor *w,
                          ptrdiff_t *memory);
/* Chunks of a piece. */
static inline ptrdiff_t piece_chunks(const offset_tables *o) { return max_size(1, PIECE_COLUMNS / o->length); }

/* The begin of part i when `count` is cut evenly into `parts`. */
static inline ptrdiff_t even_cut(ptrdiff_t count, ptrdiff_t parts, ptrdiff_t i)
{
    return count / parts * i + min_size(i, count % parts);
}

/* Panels: the filters of a group cut evenly into as many vectors as the registers hold; rows of a panel are this wide. */
static inline ptrdiff_t panels_of(ptrdiff_t filters, const microkernel *kernel)
{
    return divide_up(divide_up(filters, kernel->lanes), kernel->vectors);
}
static inline ptrdiff_t panel_width(ptrdiff_t filters, const microkernel *kernel)
{
    return divide_up(divide_up(filters, kernel->lanes), panels_of(filters, kernel)) * kernel->lanes;
}

/* Where column r of a chunk lies in a chunk of a panel, and the packing of columns begin to end, whole chunks, of one:
 * to[place of q][lane] = w[f + lane][q], zero beyond `filled` filters. `place` is that of each r, times the width. */
ptrdiff_t place_in_panel(const im2colx_geometry *g, int is_last, ptrdiff_t length, ptrdiff_t r);
void pack_panel(const offset_tables *o, const ptrdiff_t *place, const microkernel *kernel, const char *w, ptrdiff_t w_outer,
                ptrdiff_t filled, ptrdiff_t width, ptrdiff_t begin, ptrdiff_t end, char *to);

/* Whether some tap of some output falls outside the image. */
int needs_padding(const im2colx_geometry *g);

/* The gradient with respect to w; or, if `facts_only` is given, only what it would do. */
im2colx_status implicit_grad_weight(const im2colx_call *call, im2colx_order order, im2colx_implicit_facts *facts_only);

#endif
