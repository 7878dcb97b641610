/* The two walks over a block of Phi, and what is done with a run: see patches.h. */
#include "patches.h"

#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

/* ---- Runs ------------------------------------------------------------------------------------------------------- */

/* Most runs are a few dozen bytes, where a call of memcpy costs more than the copy: sixteen bytes at a time, the last
 * ones overlapping. A memcpy of constant size is one load and one store at any alignment. */
INLINE void copy_packed(char *to, const char *from, size_t bytes, size_t element)
{
    if (bytes > 1024) {
        memcpy(to, from, bytes);
    } else if (bytes >= 16) {
        for (size_t i = 0; i < bytes - 16; i += 16) memcpy(to + i, from + i, 16);
        memcpy(to + bytes - 16, from + bytes - 16, 16);
    } else {
        for (size_t i = 0; i < bytes; i += element) memcpy(to + i, from + i, element);
    }
}

INLINE void copy_strided(char *to, ptrdiff_t to_step, const char *from, ptrdiff_t from_step, ptrdiff_t count, size_t element)
{
    for (; count > 0; count--, from += from_step, to += to_step) memcpy(to, from, element);
}

INLINE void gather_run(char *image, ptrdiff_t image_step, char *tile, ptrdiff_t tile_step, ptrdiff_t count, size_t bytes)
{
    if (!image)
        for (; count > 0; count--, tile += tile_step) memset(tile, 0, bytes);
    else if (tile_step == (ptrdiff_t)bytes && image_step == (ptrdiff_t)bytes)
        copy_packed(tile, image, (size_t)count * bytes, bytes);
    else if (tile_step == (ptrdiff_t)bytes)
        copy_strided(tile, (ptrdiff_t)bytes, image, image_step, count, bytes);
    else
        copy_strided(tile, tile_step, image, image_step, count, bytes);
}

void patch_gather(char *image, ptrdiff_t image_step, char *tile, ptrdiff_t tile_step, ptrdiff_t count, size_t bytes)
{
    gather_run(image, image_step, tile, tile_step, count, bytes);
}

/* An element may be several numbers side by side: a complex one, or all channels of a pixel. */
#define DEFINE_ADD(NAME, T)                                                                                      \
    static void NAME(char *image, ptrdiff_t image_step, char *tile, ptrdiff_t tile_step, ptrdiff_t count, size_t bytes) \
    {                                                                                                            \
        if (!image) return;                                                                                      \
        ptrdiff_t numbers = (ptrdiff_t)(bytes / sizeof(T));                                                      \
        if (image_step == (ptrdiff_t)bytes && tile_step == (ptrdiff_t)bytes) { numbers *= count; count = 1; }    \
        for (; count > 0; count--, image += image_step, tile += tile_step) {                                     \
            T *to = (T *)image;                                                                                  \
            const T *from = (const T *)tile;                                                                     \
            for (ptrdiff_t i = 0; i < numbers; i++) to[i] += from[i];                                            \
        }                                                                                                        \
    }
DEFINE_ADD(add_f32, float)
DEFINE_ADD(add_f64, double)
DEFINE_ADD(add_i32, uint32_t) /* unsigned: the caller bounds the sums, and a wrap must not be undefined */
DEFINE_ADD(add_i64, uint64_t)

patch_run patch_scatter(im2colx_type type)
{
    switch (type) {
    case IM2COLX_F32: case IM2COLX_C64: return add_f32;
    case IM2COLX_F64: case IM2COLX_C128: return add_f64;
    case IM2COLX_I32: return add_i32;
    default: return add_i64;
    }
}

/* ---- Rows: a patch at a time ------------------------------------------------------------------------------------ */

/* The taps of one patch: `pixel` is the image's first element and `bytes` its element; both steps in bytes. */
INLINE void walk_taps(const im2colx_geometry *g, const ptrdiff_t at[IM2COLX_AXES], const ptrdiff_t space[IM2COLX_AXES],
                      range taps, char *pixel, char *tile, ptrdiff_t tile_step, size_t bytes, patch_run run)
{
    const range inside = taps_inside(g, 2, at[2]);
    ptrdiff_t k[IM2COLX_AXES];
    unflatten(taps.begin, g->kernel, k);
    for (ptrdiff_t count = range_size(taps); count > 0; next_row(g->kernel, k)) {
        const ptrdiff_t n = min_size(g->kernel[2] - k[2], count);
        const ptrdiff_t i0 = map_axis(g, 0, at[0], k[0]), i1 = map_axis(g, 1, at[1], k[1]);
        const int is_row = is_inside(g, 0, i0) && is_inside(g, 1, i1);
        const ptrdiff_t begin = is_row ? clamp_size(inside.begin, k[2], k[2] + n) : k[2] + n;
        const ptrdiff_t end = is_row ? clamp_size(inside.end, begin, k[2] + n) : begin;
        if (begin > k[2]) run(NULL, 0, tile, tile_step, begin - k[2], bytes);
        if (end > begin)
            run(pixel + (i0 * space[0] + i1 * space[1] + map_axis(g, 2, at[2], begin) * space[2]),
                end - begin > 1 ? g->dilation[2] * space[2] : 0, tile + (begin - k[2]) * tile_step, tile_step, end - begin, bytes);
        if (k[2] + n > end) run(NULL, 0, tile + (end - k[2]) * tile_step, tile_step, k[2] + n - end, bytes);
        tile += n * tile_step;
        count -= n;
    }
}

INLINE void walk_rows(const im2colx_geometry *g, const im2colx_tensor *x, size_t itemsize, const patch_block *block,
                      const patch_tile *tile, patch_run run)
{
    const ptrdiff_t size = (ptrdiff_t)itemsize, outputs = outputs_of(g);
    const ptrdiff_t space[IM2COLX_AXES] = {x->space[0] * size, x->space[1] * size, x->space[2] * size};
    /* Channels that are neighbours in x and in the tile move as one wide element. */
    const ptrdiff_t width = x->channel == 1 && tile->channel == 1 ? range_size(block->channels) : 1;
    const ptrdiff_t moves = range_size(block->channels) / width;
    const char *const group = (const char *)x->data + block->channels.begin * x->channel * size;
    char *to = tile->data;
    ptrdiff_t at[IM2COLX_AXES], image = block->patches.begin / outputs;
    unflatten(block->patches.begin % outputs, g->output, at);
    for (ptrdiff_t p = block->patches.begin; p < block->patches.end; p++, to += tile->patch * size) {
        char *pixel = (char *)group + image * x->outer * size;
        for (ptrdiff_t c = 0; c < moves; c++)
            walk_taps(g, at, space, block->taps, pixel + c * x->channel * size, to + c * tile->channel * size,
                      tile->tap * size, itemsize * (size_t)width, run);
        if (++at[2] == g->output[2]) image += next_row(g->output, at);
    }
}

/* ---- Columns: a tap at a time, over rows of the output ---------------------------------------------------------- */

/* With stride 1 and an output as wide as the image, a column of Phi is the plane of x moved by a constant offset: one long
 * copy, and zeros where the window leaves the image, at the ends of the rows. */
static int is_shifted_plane(const im2colx_geometry *g, const im2colx_tensor *x)
{
    return g->stride[2] == 1 && g->output[2] == g->image[2] && (g->output[1] == 1 || g->stride[1] == 1) && g->output[0] == 1
           && g->image[0] == 1 && x->space[2] == 1 && (g->image[1] <= 1 || x->space[1] == g->image[2]);
}

INLINE void gather_shifted(const im2colx_geometry *g, ptrdiff_t size, const ptrdiff_t k[IM2COLX_AXES], range patches,
                           const char *plane, char *tile)
{
    const ptrdiff_t width = g->image[2], down = map_axis(g, 1, 0, k[1]), right = map_axis(g, 2, 0, k[2]);
    const range rows = is_inside(g, 0, map_axis(g, 0, 0, k[0])) ? outputs_inside(g, 1, k[1]) : (range){0, 0};
    const range columns = outputs_inside(g, 2, k[2]);
    /* Patches whose row is inside, and of them those whose element is somewhere in the plane, if in another row. */
    const ptrdiff_t begin = clamp_size(rows.begin * width, patches.begin, patches.end);
    const ptrdiff_t end = clamp_size(rows.end * width, begin, patches.end);
    if (begin == end) { /* and shift may point anywhere */
        memset(tile, 0, (size_t)(range_size(patches) * size));
        return;
    }
    const ptrdiff_t shift = down * width + right;
    const ptrdiff_t first = clamp_size(-shift, begin, end), last = clamp_size(g->image[1] * width - shift, first, end);
    memset(tile, 0, (size_t)((begin - patches.begin) * size));
    memset(tile + (end - patches.begin) * size, 0, (size_t)((patches.end - end) * size));
    if (last > first) /* otherwise first + shift may point anywhere */
        memcpy(tile + (first - patches.begin) * size, plane + (first + shift) * size, (size_t)((last - first) * size));
    if (range_size(columns) == width) return;
    for (ptrdiff_t row = begin - begin % width; row < end; row += width) {
        for (ptrdiff_t p = max_size(row, begin); p < min_size(row + columns.begin, end); p++)
            memset(tile + (p - patches.begin) * size, 0, (size_t)size);
        for (ptrdiff_t p = max_size(row + columns.end, begin); p < min_size(row + width, end); p++)
            memset(tile + (p - patches.begin) * size, 0, (size_t)size);
    }
}

/* The patches of one channel and tap, neighbours in the tile; `channel` is the channel's first element in image 0. */
INLINE void walk_outputs(const im2colx_geometry *g, const im2colx_tensor *x, ptrdiff_t size,
                         const ptrdiff_t k[IM2COLX_AXES], range patches, char *channel, char *tile, patch_run run)
{
    const range inside = outputs_inside(g, 2, k[2]);
    const ptrdiff_t outputs = outputs_of(g);
    ptrdiff_t at[IM2COLX_AXES];
    unflatten(patches.begin % outputs, g->output, at);
    channel += patches.begin / outputs * x->outer * size;
    for (ptrdiff_t count = range_size(patches); count > 0;) {
        const ptrdiff_t n = min_size(g->output[2] - at[2], count);
        const ptrdiff_t i0 = map_axis(g, 0, at[0], k[0]), i1 = map_axis(g, 1, at[1], k[1]);
        const int is_row = is_inside(g, 0, i0) && is_inside(g, 1, i1);
        const ptrdiff_t begin = is_row ? clamp_size(inside.begin, at[2], at[2] + n) : at[2] + n;
        const ptrdiff_t end = is_row ? clamp_size(inside.end, begin, at[2] + n) : begin;
        if (begin > at[2]) run(NULL, 0, tile, size, begin - at[2], (size_t)size);
        if (end > begin)
            run(channel + (i0 * x->space[0] + i1 * x->space[1] + map_axis(g, 2, begin, k[2]) * x->space[2]) * size,
                end - begin > 1 ? g->stride[2] * x->space[2] * size : 0, tile + (begin - at[2]) * size, size, end - begin, (size_t)size);
        if (at[2] + n > end) run(NULL, 0, tile + (end - at[2]) * size, size, at[2] + n - end, (size_t)size);
        tile += n * size;
        count -= n;
        if (next_row(g->output, at)) channel += x->outer * size;
    }
}

INLINE void walk_columns(const im2colx_geometry *g, const im2colx_tensor *x, size_t itemsize, const patch_block *block,
                         const patch_tile *tile, patch_run run)
{
    const ptrdiff_t size = (ptrdiff_t)itemsize, outputs = outputs_of(g), image = block->patches.begin / outputs;
    const range in_image = {block->patches.begin - image * outputs, block->patches.end - image * outputs};
    const int is_shifted = run == gather_run && in_image.end <= outputs && is_shifted_plane(g, x);
    for (ptrdiff_t c = 0; c < range_size(block->channels); c++) {
        char *channel = (char *)x->data + (block->channels.begin + c) * x->channel * size;
        for (ptrdiff_t t = 0; t < range_size(block->taps); t++) {
            ptrdiff_t k[IM2COLX_AXES];
            unflatten(block->taps.begin + t, g->kernel, k);
            char *column = (char *)tile->data + (c * tile->channel + t * tile->tap) * size;
            if (is_shifted) gather_shifted(g, size, k, in_image, channel + image * x->outer * size, column);
            else walk_outputs(g, x, size, k, block->patches, channel, column, run);
        }
    }
}

/* One walk for each size of number that is gathered, so that the runs are inlined, and one for all else. */
static void walk_4(const im2colx_geometry *g, const im2colx_tensor *x, const patch_block *block, const patch_tile *tile)
{
    if (tile->patch == 1) walk_columns(g, x, 4, block, tile, gather_run);
    else walk_rows(g, x, 4, block, tile, gather_run);
}
static void walk_8(const im2colx_geometry *g, const im2colx_tensor *x, const patch_block *block, const patch_tile *tile)
{
    if (tile->patch == 1) walk_columns(g, x, 8, block, tile, gather_run);
    else walk_rows(g, x, 8, block, tile, gather_run);
}

void patch_walk(const im2colx_geometry *g, const im2colx_tensor *x, size_t itemsize, const patch_block *block,
                const patch_tile *tile, patch_run run)
{
    if (run == patch_gather && itemsize == 4) walk_4(g, x, block, tile);
    else if (run == patch_gather && itemsize == 8) walk_8(g, x, block, tile);
    else if (tile->patch == 1) walk_columns(g, x, itemsize, block, tile, run);
    else walk_rows(g, x, itemsize, block, tile, run);
}
