/* Blocks of the patch matrix: gathered from x (im2col), or added back to it (col2im).
 *
 * A block is a rectangle of Phi: some patches, some channels, some taps. In memory it is a tile with a stride for each.
 * It is walked in one of two ways:
 *   by rows     one patch after another, tap after tap. With channels last all channels of a pixel move at once.
 *   by columns  one channel and tap after another, patch after patch: where patches are neighbours in the tile
 *               (Phi transposed) and pixels are neighbours in x (channels first), this moves long runs.
 */
#ifndef IM2COLX_PATCHES_H
#define IM2COLX_PATCHES_H

#include "index_map.h"

typedef struct {
    range patches;  /* within 0 .. N*P */
    range channels; /* within 0 .. C/G of the group */
    range taps;     /* within 0 .. taps */
} patch_block;

/* Where a block lies: its first element, and strides in elements. */
typedef struct {
    void *data;
    ptrdiff_t patch, channel, tap;
} patch_tile;

/* One run of elements shared by x and the block; strides in bytes. `image` is NULL where the run is padding. */
typedef void (*patch_run)(char *image, ptrdiff_t image_step, char *tile, ptrdiff_t tile_step, ptrdiff_t count,
                          size_t element_bytes);

/* The run that copies image to tile (zeros for padding), whatever the element. */
void patch_gather(char *, ptrdiff_t, char *, ptrdiff_t, ptrdiff_t, size_t);

/* The run that adds tile to image (padding is dropped), by type. */
patch_run patch_scatter(im2colx_type type);

/* Visits every run of the block, by columns if patches are neighbours in the tile and by rows otherwise.
 * `x` points at the first channel of the group. */
void patch_walk(const im2colx_geometry *g, const im2colx_tensor *x, size_t itemsize, const patch_block *block,
                const patch_tile *tile, patch_run run);

#endif
