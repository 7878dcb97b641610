/* A slab: a padded copy of a few rows of x, for some channels of one image, so that the sum over taps never asks whether
 * it is inside. With a stride the copy is cut into its stride phases, so that outputs that are neighbours read elements
 * that are neighbours. */
#ifndef IM2COLX_SLAB_H
#define IM2COLX_SLAB_H

#include "index_map.h"
#include "microkernels/microkernel.h"

/* Where the padded image lies that the taps read: x itself, or a slab. Strides in elements.
 * Output o (from the first of the slab) and tap k are at  sum over axes of  o*step[axis] + tap_offset(k),  plus
 * c*channel. */
typedef struct {
    int is_cut;                    /* into stride phases */
    ptrdiff_t channel;
    ptrdiff_t space[IM2COLX_AXES]; /* to the next row or element of a phase, in x or the slab */
    ptrdiff_t step[IM2COLX_AXES];  /* to the next output */
    ptrdiff_t phases[IM2COLX_AXES]; /* phases that are kept on an axis; 1 if not cut */
    ptrdiff_t phase[IM2COLX_AXES];  /* from one phase to the next */
    ptrdiff_t size[IM2COLX_AXES];   /* elements of a phase on an axis */
    ptrdiff_t elements;             /* of all of it, with `channels` channels; TOO_LARGE: nothing else here is right */
} slab_layout;

/* The layout of x as it lies, for where nothing is padded: every output and tap falls inside. */
slab_layout layout_of_image(const im2colx_geometry *g, const im2colx_tensor *x);

/* The layout of a slab for `outputs` outputs on each axis. Cut into phases if `is_cut`, channels inside if `is_last`. */
slab_layout layout_of_slab(const im2colx_geometry *g, ptrdiff_t channels, const ptrdiff_t outputs[IM2COLX_AXES], int is_cut,
                           int is_last, ptrdiff_t itemsize);

ptrdiff_t slab_tap(const im2colx_geometry *g, const slab_layout *layout, const ptrdiff_t k[IM2COLX_AXES]);

/* Fills a slab for the outputs that begin at `first`, from channel 0.. of `x` (the group's first channel, one image). */
void fill_slab(const im2colx_geometry *g, const slab_layout *layout, const im2colx_tensor *x, ptrdiff_t channels,
               const ptrdiff_t first[IM2COLX_AXES], const microkernel *kernel, char *slab);

#endif
