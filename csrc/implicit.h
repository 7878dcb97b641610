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
typedef struct {
    ptrdiff_t chunks, length;
} sum_cut;
sum_cut cut_sum(const im2colx_geometry *g, int is_last);
/* The chunks of a piece. */
static inline ptrdiff_t piece_chunks(sum_cut cut) { return max_size(1, PIECE_COLUMNS / cut.length); }

/* The tables for a cut; `memory` has room for table_entries. */
static inline ptrdiff_t table_entries(sum_cut cut) { return 2 * (cut.chunks + cut.length); }
offset_tables make_tables(const im2colx_geometry *g, int is_last, sum_cut cut, const slab_layout *x, const im2colx_tensor *w,
                          ptrdiff_t *memory);

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

/* Columns begin to end of a panel: to[q - begin][lane] = w[f + lane][q], zero beyond `filled` filters. */
void pack_panel(const offset_tables *o, const microkernel *kernel, const char *w, ptrdiff_t w_outer, ptrdiff_t filled,
                ptrdiff_t width, ptrdiff_t begin, ptrdiff_t end, char *to);

/* ---- Padding left out ---------------------------------------------------------------------------------------------- */

/* The outputs, cut on each axis where the taps that fall inside the image change: those of a class have the same taps, and
 * the others would be multiplied by zero. */
typedef struct {
    range outputs[IM2COLX_AXES];
    ptrdiff_t taps;              /* of them inside */
    ptrdiff_t first[IM2COLX_AXES]; /* the first of them on each axis */
    const ptrdiff_t *a_inner, *b_inner; /* their offsets in x and in w or its panel, for the channels of a chunk */
} tap_class;

/* Outputs at once with filters in lanes: with a panel of 256 bytes a row, 64 KiB of sums; and where a piece of w is packed for
 * them, more. */
enum { BAND_PIXELS = 256, BAND_PIXELS_PACKING = 896 };

enum { MOST_CLASSES = 64, MOST_CLASS_TAPS = 2048 };

/* Fills in outputs and taps, those with most taps first, and returns how many classes there are; 0 if more than MOST_CLASSES
 * or with more than MOST_CLASS_TAPS taps together. */
int find_classes(const im2colx_geometry *g, tap_class classes[MOST_CLASSES]);

/* The offsets of a class's taps for `channels` channels, channels * taps of them: at `a` in x from the class's first tap, which
 * lies in the image where tap 0 may be far outside; at `b` those of `b_all`, which has all taps. */
void fill_class(const im2colx_geometry *g, ptrdiff_t channels, tap_class *c, const slab_layout *x, const ptrdiff_t *b_all,
                ptrdiff_t *a, ptrdiff_t *b);

/* ---- A convolution and its tasks ------------------------------------------------------------------------------------- */

/* What lies outside the image: explicit zeros, that are multiplied like any number (0 * inf is nan); or nothing. The gradient
 * of y, which takes the place of the image in that with respect to x, goes on with nothing. */
typedef enum { OUTSIDE_IS_ZERO, OUTSIDE_IS_NOTHING } outside_is;

typedef struct {
    const im2colx_call *call;
    const im2colx_geometry *g;
    const microkernel *kernel;
    const char *packed;       /* panels of w, or NULL */
    outside_is outside;
    int is_last;
    int is_filters;           /* filters in lanes */
    int is_slab;              /* x is copied; otherwise read where it lies */
    int is_finite;            /* every weight is: what the padding would add is zero */
    int multiplies_outside;   /* and it is multiplied, as zeros */
    ptrdiff_t skips;          /* if taps in the padding are left out: the channels of a chunk; otherwise zero */
    int packs_first;          /* a small w is packed before the tasks, not by each of them */
    int is_w_panel;           /* w is a panel as it lies: filters are neighbours, and whole vectors */
    ptrdiff_t size;           /* bytes of an element */
    ptrdiff_t w_group;        /* elements of w from group to group */
    slab_layout layout;
    sum_cut cut;
    ptrdiff_t piece;          /* chunks that are summed at once */
    offset_tables tables;
    const ptrdiff_t *b_chunk; /* with filters in lanes: of w or of its panel */
    tap_class *classes;       /* likewise; one with all outputs unless taps are left out */
    int class_count;
    ptrdiff_t class_entries;  /* of their tables */
    double share;             /* of the multiply-adds that is left */
    ptrdiff_t band_pixels;    /* likewise: outputs at once */
    ptrdiff_t slab_bytes;     /* that a thread may have */
    ptrdiff_t band[IM2COLX_AXES]; /* outputs of a task: all of some axes, a part of others */
    ptrdiff_t bands[IM2COLX_AXES];
    ptrdiff_t filter_parts, tasks;
    int threads;
    ptrdiff_t slab_elements, scratch_elements, panel_elements; /* of a thread */
    char *slabs, *scratches, *panels;
} convolution;

/* What a task computes: some outputs of one image, for some filters of one group. */
typedef struct {
    ptrdiff_t n, g, filter_part;
    ptrdiff_t first[IM2COLX_AXES], count[IM2COLX_AXES]; /* outputs */
    const char *x;                                      /* the image's first pixel, or the slab's */
} piece;

/* The task's piece; fills its slab. */
piece take_piece(const convolution *s, ptrdiff_t task, int worker);

/* What tap k of output o from the piece's first reads. In the image it must lie inside; in a slab that is cut, k is 0. */
const char *x_at(const convolution *s, const piece *p, const ptrdiff_t o[IM2COLX_AXES], const ptrdiff_t k[IM2COLX_AXES]);

/* Where filter f of the output at (o0, o1, 0) from the piece's first goes, and its bias. */
char *y_at(const convolution *s, const piece *p, ptrdiff_t f, ptrdiff_t o0, ptrdiff_t o1);
const char *bias_at(const convolution *s, const piece *p, ptrdiff_t f);

/* The two ways to do a task. */
void pixels_task(void *convolution, ptrdiff_t task, int worker, im2colx_job *job);
void filters_task(void *convolution, ptrdiff_t task, int worker, im2colx_job *job);

/* The better way for the call, and doing it. */
convolution choose_convolution(const im2colx_call *call, const im2colx_implicit_options *options, ptrdiff_t w_group,
                               outside_is outside);
im2colx_status convolve(convolution *s);

/* Adds what it would do to what the whole call does. */
void add_facts(const convolution *s, im2colx_implicit_facts *facts);

/* ---- Gradients ------------------------------------------------------------------------------------------------------- */

/* The gradient with respect to x is a convolution for each stride phase of x that a tap reaches; so many at most. */
enum { MOST_PHASES = 64 };

/* With `facts_only`, only what they would do. */
im2colx_status implicit_grad_input(const im2colx_call *call, const im2colx_implicit_options *options,
                                   im2colx_implicit_facts *facts_only);
im2colx_status implicit_grad_weight(const im2colx_call *call, im2colx_order order, im2colx_implicit_facts *facts_only);

/* Whether the weights of a filter are neighbours, channel after channel. */
static inline int is_filter_block(const im2colx_geometry *g, const im2colx_tensor *w)
{
    return w->space[2] == 1 && w->space[1] == g->kernel[2] && w->space[0] == g->kernel[1] * g->kernel[2] && w->channel == taps_of(g);
}

/* Whether some tap of some output falls outside the image. */
int needs_padding(const im2colx_geometry *g);

#endif
