/* Convolution as a matrix product with blocks of the patch matrix Phi: "im2col" holds all of it, "indexed" a tile a
 * thread.
 *
 *   forward      Y = Phi W            gather a block of Phi, multiply
 *   grad_input   Phi = Y W^H          multiply into a block of Phi, scatter it to x (col2im)
 *   grad_weight  W = Phi^H Y          gather, multiply and add up
 *
 * By order of the columns, a group g is these row-major matrices (columns = C/G*taps, q = all of them or a part):
 *                     w               y of image n          Phi of image n
 *   CHANNELS_FIRST    (F/G, columns)  (F/G, P)              (columns, P)  transposed, so that pixels are neighbours
 *   CHANNELS_LAST     (columns, F)    (P, F)                (P, columns)
 * With channels last the images of a batch follow one another in y and Phi. For grad_weight, which sums over them, they are
 * one image of N*P patches; forward they are not, or an image's bits would depend on its place in the batch.
 *
 * A block is cut in patches first. Only when `columns` patches of a reasonable number do not fit into the tile is it
 * cut in columns too: into whole channels, then taps (channels last: whole taps, then channels), so that the part of w
 * that it meets is a matrix with the same leading dimension.
 *
 * Threads share out what they can write without touching the same element: blocks of patches (forward), channels of an
 * image (grad_input), parts of w (grad_weight). All cuts depend on the geometry and the workspace alone, never on the number
 * of threads: BLAS sums blocks of other sizes in another order, and bits would depend on it.
 */
#include "patches.h"
#include "threads.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* A tile much larger than the second-level cache, but a small part of the third: BLAS packs the tile once more into
 * blocks of its own, so it is read once, and larger tiles pack w less often. On a Zen 5 (1 MiB and 32 MiB) ResNet layers
 * took 5 to 15 % longer with 384 KiB, and no less with 3 MiB. */
enum { TILE_BYTES = 1024 << 10 };

/* A call is cut for so many threads, however many there are: each of them can have a tile of the workspace. With more cuts
 * BLAS packs the other operand more often: grad_input of one image took 14 % longer with 4 than with 1, 28 % with 8. */
enum { SHARES = 4 };
/* Multiply-adds of a task that is worth cutting off, about 50 microseconds. */
enum { LEAST_PRODUCTS = 1 << 21 };

/* Fewer patches than this make BLAS pack w for too little work; more columns at once gain nothing then. */
enum { FEW_PATCHES = 64 };

ptrdiff_t im2colx_long_product(im2colx_type type)
{
    switch (type) {
    case IM2COLX_F32: return 1 << 28; /* 40 or more a nanosecond */
    case IM2COLX_F64: return 1 << 27;
    case IM2COLX_C64: return 1 << 26;
    case IM2COLX_C128: return 1 << 25;
    default: return 1 << 23;          /* our own products of integers: one or two */
    }
}

/* Elements of one gather or scatter of a task when Phi is held whole. */
enum { GATHER_ELEMENTS = 64 << 10 };

enum { GATHER = 1, MULTIPLY = 2, SCATTER = 4 };

typedef struct {
    const im2colx_call *call;
    const im2colx_product_options *how;
    const im2colx_geometry *g;
    ptrdiff_t size;                  /* bytes of an element */
    ptrdiff_t taps, columns;         /* of one group */
    ptrdiff_t images, patches;       /* `images` times `patches` rows of Phi; images is 1 where they follow one another */
    int is_last;                     /* channels last */
    int is_pointwise;                /* Phi is x itself: a 1x1 kernel that moves over every pixel */
    int is_whole;                    /* Phi is held whole; otherwise in a tile a thread */
    ptrdiff_t patch_step;            /* a block's patches, channels, taps */
    ptrdiff_t channel_step, tap_step;
    ptrdiff_t shares;                /* parts that an image and group is cut into, for the threads */
    ptrdiff_t channel_part;          /* grad_input: channels of a task */
    ptrdiff_t filter_part;           /* grad_weight: filters of a task */
    ptrdiff_t tile_elements;         /* of one thread; 0 if Phi is held whole */
    int threads;
    char *memory;                    /* the tiles, or Phi */
    int does;                        /* what the tasks of this pass do */
} product;

/* ---- Where things lie ------------------------------------------------------------------------------------------- */

static void *weights_at(const product *s, ptrdiff_t g, ptrdiff_t c, ptrdiff_t t, ptrdiff_t f, ptrdiff_t *ld)
{
    const ptrdiff_t filter = g * s->g->filters + f, filters = s->g->groups * s->g->filters;
    *ld = s->is_last ? filters : s->columns;
    return (char *)s->call->w.data
           + (s->is_last ? (t * s->g->channels + c) * filters + filter : filter * s->columns + c * s->taps + t) * s->size;
}

static void *output_at(const product *s, ptrdiff_t n, ptrdiff_t g, ptrdiff_t p, ptrdiff_t f, ptrdiff_t *ld)
{
    const ptrdiff_t filter = g * s->g->filters + f, filters = s->g->groups * s->g->filters;
    *ld = s->is_last ? filters : s->patches;
    return (char *)s->call->y.data
           + (s->is_last ? (n * s->patches + p) * filters + filter : (n * filters + filter) * s->patches + p) * s->size;
}

static im2colx_tensor group_of_x(const product *s, ptrdiff_t g)
{
    im2colx_tensor x = s->call->x;
    x.data = (char *)x.data + g * s->g->channels * x.channel * s->size;
    return x;
}

/* Where the block of image n and group g lies: in x, in Phi, or in the worker's tile. */
static patch_tile tile_of(const product *s, int worker, ptrdiff_t n, ptrdiff_t g, const patch_block *block)
{
    const ptrdiff_t p = block->patches.begin, c = block->channels.begin, t = block->taps.begin;
    patch_tile tile;
    if (s->is_pointwise) {
        const im2colx_tensor x = group_of_x(s, g);
        tile = (patch_tile){x.data, x.space[2], x.channel, 0};
        tile.data = (char *)x.data + (n * x.outer + p * x.space[2] + c * x.channel) * s->size;
    } else if (s->is_whole) {
        const ptrdiff_t slot = (g * s->images + n) * s->columns * s->patches;
        tile = s->is_last ? (patch_tile){NULL, s->columns, 1, s->g->channels}
                          : (patch_tile){NULL, 1, s->taps * s->patches, s->patches};
        tile.data = s->memory + (slot + p * tile.patch + c * tile.channel + t * tile.tap) * s->size;
    } else {
        const ptrdiff_t patches = range_size(block->patches), channels = range_size(block->channels);
        const ptrdiff_t taps = range_size(block->taps);
        tile = s->is_last ? (patch_tile){NULL, channels * taps, 1, channels}
                          : (patch_tile){NULL, 1, taps * patches, patches};
        tile.data = s->memory + worker * s->tile_elements * s->size;
    }
    return tile;
}

/* ---- What is done with a block ---------------------------------------------------------------------------------- */

/* `filters` of the group take part; `accumulate` adds to what is in the result. */
static void multiply(const product *s, ptrdiff_t n, ptrdiff_t g, const patch_block *block, range filters,
                     const patch_tile *tile, int accumulate)
{
    const ptrdiff_t p = range_size(block->patches), f = range_size(filters);
    const ptrdiff_t q = range_size(block->channels) * range_size(block->taps);
    const im2colx_matmul matmul = s->how->matmul;
    ptrdiff_t ldw, ldy;
    void *w = weights_at(s, g, block->channels.begin, block->taps.begin, filters.begin, &ldw);
    void *y = output_at(s, n, g, block->patches.begin, filters.begin, &ldy);
    /* The leading dimension of Phi: a step in q (channels first; the channel's where each has one tap) or in p. */
    const ptrdiff_t ld = s->is_last ? tile->patch : range_size(block->taps) > 1 ? tile->tap : tile->channel;
    void *phi = tile->data;
    switch (s->call->op) {
    case IM2COLX_FORWARD:
        if (s->is_last) matmul(0, 0, p, f, q, phi, ld, w, ldw, accumulate, y, ldy);
        else matmul(0, 0, f, p, q, w, ldw, phi, ld, accumulate, y, ldy);
        break;
    case IM2COLX_GRAD_INPUT:
        if (s->is_last) matmul(0, 1, p, q, f, y, ldy, w, ldw, accumulate, phi, ld);
        else matmul(1, 0, q, p, f, w, ldw, y, ldy, accumulate, phi, ld);
        break;
    case IM2COLX_GRAD_WEIGHT:
        if (s->is_last) matmul(1, 0, q, f, p, phi, ld, y, ldy, accumulate, w, ldw);
        else matmul(0, 1, f, q, p, y, ldy, phi, ld, accumulate, w, ldw);
        break;
    }
}

/* Puts the bias where the products of the block will be added. */
static void fill_bias(const product *s, ptrdiff_t n, ptrdiff_t g, range patches)
{
    const ptrdiff_t filters = s->g->filters, count = range_size(patches);
    char *bias = (char *)s->call->bias + g * filters * s->size;
    ptrdiff_t ld;
    char *y = output_at(s, n, g, patches.begin, 0, &ld);
    if (s->is_last)
        for (ptrdiff_t p = 0; p < count; p++) patch_gather(bias, s->size, y + p * ld * s->size, s->size, filters, (size_t)s->size);
    else
        for (ptrdiff_t f = 0; f < filters; f++)
            patch_gather(bias + f * s->size, 0, y + f * ld * s->size, s->size, count, (size_t)s->size);
}

static void walk(const product *s, ptrdiff_t n, ptrdiff_t g, patch_block block, const patch_tile *tile, patch_run run)
{
    if (s->is_pointwise) return;
    const im2colx_tensor x = group_of_x(s, g);
    block.patches.begin += n * s->patches;
    block.patches.end += n * s->patches;
    patch_walk(s->g, &x, (size_t)s->size, &block, tile, run);
}

/* ---- Tasks ------------------------------------------------------------------------------------------------------ */

static range part(ptrdiff_t begin, ptrdiff_t step, ptrdiff_t end) { return (range){begin, min_size(begin + step, end)}; }

/* A block of patches of one image and group: forward, and the passes over a whole Phi that touch only its rows. */
static void patches_task(void *argument, ptrdiff_t task, int worker, im2colx_job *job)
{
    const product *s = argument;
    const ptrdiff_t blocks = divide_up(s->patches, s->patch_step);
    const ptrdiff_t n = task / blocks / s->g->groups, g = task / blocks % s->g->groups;
    patch_block block = {.patches = part(task % blocks * s->patch_step, s->patch_step, s->patches)};
    const int is_forward = s->call->op == IM2COLX_FORWARD && s->does & MULTIPLY;
    int accumulate = is_forward && s->call->bias;
    if (accumulate) fill_bias(s, n, g, block.patches);
    for (ptrdiff_t c = 0; c < s->g->channels; c += s->channel_step)
        for (ptrdiff_t t = 0; t < s->taps && !im2colx_stopped(job); t += s->tap_step) {
            block.channels = part(c, s->channel_step, s->g->channels);
            block.taps = part(t, s->tap_step, s->taps);
            const patch_tile tile = tile_of(s, worker, n, g, &block);
            if (s->does & GATHER) walk(s, n, g, block, &tile, patch_gather);
            if (s->does & MULTIPLY) multiply(s, n, g, &block, (range){0, s->g->filters}, &tile, accumulate);
            accumulate = is_forward;
        }
}

/* Channels of one image and group of x, for grad_input. */
static void channels_task(void *argument, ptrdiff_t task, int worker, im2colx_job *job)
{
    const product *s = argument;
    const ptrdiff_t parts = divide_up(s->g->channels, s->channel_part);
    const ptrdiff_t n = task / parts / s->g->groups, g = task / parts % s->g->groups;
    const range channels = part(task % parts * s->channel_part, s->channel_part, s->g->channels);
    patch_block block;
    for (ptrdiff_t p = 0; p < s->patches; p += s->patch_step)
        for (ptrdiff_t c = channels.begin; c < channels.end; c += s->channel_step)
            for (ptrdiff_t t = 0; t < s->taps && !im2colx_stopped(job); t += s->tap_step) {
                block.patches = part(p, s->patch_step, s->patches);
                block.channels = part(c, s->channel_step, channels.end);
                block.taps = part(t, s->tap_step, s->taps);
                const patch_tile tile = tile_of(s, worker, n, g, &block);
                if (s->does & MULTIPLY) multiply(s, n, g, &block, (range){0, s->g->filters}, &tile, 0);
                if (s->does & SCATTER) walk(s, n, g, block, &tile, patch_scatter(s->call->type));
            }
}

/* Some columns and filters of one group of w, for grad_weight. */
static void weights_task(void *argument, ptrdiff_t task, int worker, im2colx_job *job)
{
    const product *s = argument;
    const ptrdiff_t tap_parts = divide_up(s->taps, s->tap_step);
    const ptrdiff_t channel_parts = divide_up(s->g->channels, s->channel_step);
    const ptrdiff_t filter_parts = divide_up(s->g->filters, s->filter_part);
    const range filters = part(task % filter_parts * s->filter_part, s->filter_part, s->g->filters);
    task /= filter_parts;
    patch_block block = {.taps = part(task % tap_parts * s->tap_step, s->tap_step, s->taps)};
    task /= tap_parts;
    block.channels = part(task % channel_parts * s->channel_step, s->channel_step, s->g->channels);
    const ptrdiff_t g = task / channel_parts;
    for (ptrdiff_t n = 0; n < s->images; n++)
        for (ptrdiff_t p = 0; p < s->patches && !im2colx_stopped(job); p += s->patch_step) {
            block.patches = part(p, s->patch_step, s->patches);
            const patch_tile tile = tile_of(s, worker, n, g, &block);
            if (s->does & GATHER) walk(s, n, g, block, &tile, patch_gather);
            multiply(s, n, g, &block, filters, &tile, n > 0 || p > 0);
        }
}

static im2colx_status pass(product *s, int does, im2colx_work work)
{
    ptrdiff_t tasks = s->g->groups;
    if (work == patches_task) tasks *= s->images * divide_up(s->patches, s->patch_step);
    else if (work == channels_task) tasks *= s->images * divide_up(s->g->channels, s->channel_part);
    else
        tasks *= divide_up(s->g->channels, s->channel_step) * divide_up(s->taps, s->tap_step)
                 * divide_up(s->g->filters, s->filter_part);
    s->does = does;
    return im2colx_run(tasks, s->threads, work, s, s->call->poll);
}

/* ---- Choice of blocks ------------------------------------------------------------------------------------------- */

static int is_pointwise(const im2colx_call *call, int is_last, ptrdiff_t largest)
{
    const im2colx_geometry *g = &call->geometry;
    const im2colx_tensor *x = &call->x;
    ptrdiff_t step = x->space[2];
    for (int axis = IM2COLX_AXES - 1; axis >= 0; axis--) {
        if (g->kernel[axis] != 1 || g->stride[axis] != 1 || g->pad[axis] || g->output[axis] != g->image[axis]) return 0;
        if (g->image[axis] > 1 && x->space[axis] != step) return 0;
        step *= g->image[axis];
    }
    /* BLAS wants neighbours along a row, and a leading dimension of at least the row. */
    if (x->space[2] > largest || x->channel > largest) return 0;
    if (is_last) return x->channel == 1 && x->space[2] >= g->groups * g->channels && (g->batch == 1 || x->outer == step);
    return x->space[2] == 1 && x->channel >= step;
}

/* Cuts the columns of `channels` channels so that a block has at most `limit` of them. */
static void cut_columns(product *s, ptrdiff_t channels, ptrdiff_t limit)
{
    if (s->is_last) {
        const int is_full = channels == s->g->channels && limit >= channels;
        s->channel_step = is_full ? channels : min_size(channels, max_size(1, limit));
        s->tap_step = is_full ? min_size(s->taps, limit / channels) : 1;
    } else {
        s->channel_step = clamp_size(limit / s->taps, 1, channels);
        s->tap_step = min_size(s->taps, max_size(1, limit));
    }
}

/* Cuts the patches evenly into blocks of at most `limit`, and into at least `blocks` where there are so many. */
static void cut_patches(product *s, ptrdiff_t limit, ptrdiff_t blocks)
{
    blocks = max_size(blocks, divide_up(s->patches, max_size(1, limit)));
    s->patch_step = max_size(1, divide_up(s->patches, blocks));
}

/* Parts of one of `pieces` equal pieces of a call, so that there are enough for the threads: for as many products each. */
static ptrdiff_t cut_for_threads(double products, ptrdiff_t pieces)
{
    const ptrdiff_t most = divide_up(SHARES, pieces);
    return products >= (double)LEAST_PRODUCTS * (double)most ? most : max_size(1, (ptrdiff_t)(products / LEAST_PRODUCTS));
}

static product choose_blocks(const im2colx_call *call, const im2colx_product_options *how)
{
    const im2colx_geometry *g = &call->geometry;
    product s = {.call = call, .how = how, .g = g, .size = (ptrdiff_t)im2colx_itemsize(call->type)};
    s.taps = taps_of(g);
    s.columns = g->channels * s.taps;
    s.is_last = how->order == IM2COLX_CHANNELS_LAST;
    s.is_pointwise = is_pointwise(call, s.is_last, how->largest);
    s.is_whole = how->whole && !s.is_pointwise;
    s.images = g->batch;
    s.patches = outputs_of(g);
    if (s.is_last && call->op == IM2COLX_GRAD_WEIGHT) { s.patches *= s.images; s.images = 1; }
    s.threads = im2colx_workers(IM2COLX_MAX_THREADS, call->threads);
    s.channel_part = g->channels;
    s.filter_part = g->filters;

    /* Elements of a tile: its share of the workspace if that is small, else what the cache holds well. */
    const ptrdiff_t workspace = (ptrdiff_t)(how->workspace_bytes / (size_t)s.size);
    ptrdiff_t tile = min_size(max_size(1, workspace / SHARES), max_size(TILE_BYTES / s.size, 2 * FEW_PATCHES * s.columns));
    if (s.is_whole || s.is_pointwise) tile = PTRDIFF_MAX;

    const double products = (double)s.patches * (double)s.columns * (double)g->filters; /* of an image and group */
    s.shares = cut_for_threads(products, s.images * g->groups);
    ptrdiff_t columns = s.columns;
    if (call->op == IM2COLX_GRAD_INPUT) {
        if (!s.is_whole) s.channel_part = divide_up(g->channels, s.shares);
        columns = s.channel_part * s.taps;
    } else if (call->op == IM2COLX_GRAD_WEIGHT) {
        const ptrdiff_t cuts = cut_for_threads(products * (double)s.images, g->groups);
        /* A part of w that is too narrow slows BLAS: cut the side that is longer. */
        if (g->filters > s.columns) s.filter_part = divide_up(g->filters, cuts);
        else columns = divide_up(s.columns, cuts);
    }
    const ptrdiff_t few = min_size(s.patches, FEW_PATCHES), most = im2colx_long_product(call->type);
    columns = min_size(columns, max_size(1, min_size(tile / few, most / few / g->filters)));
    cut_columns(&s, call->op == IM2COLX_GRAD_INPUT ? s.channel_part : g->channels, columns);
    const ptrdiff_t width = s.channel_step * s.tap_step;
    cut_patches(&s, min_size(tile / width, max_size(few, most / width / g->filters)),
                call->op == IM2COLX_FORWARD || s.is_whole ? s.shares : 1);
    s.tile_elements = s.is_whole || s.is_pointwise ? 0 : s.patch_step * width;
    if (s.tile_elements) s.threads = (int)clamp_size(workspace / s.tile_elements, 1, s.threads);
    return s;
}

static size_t workspace_of(const product *s)
{
    if (s->is_pointwise) return 0;
    const ptrdiff_t elements = s->is_whole ? s->g->groups * s->images * s->columns * s->patches
                                             : s->tile_elements * s->threads;
    return (size_t)(elements * s->size);
}

size_t im2colx_product_workspace(const im2colx_call *call, const im2colx_product_options *options)
{
    const product s = choose_blocks(call, options);
    return workspace_of(&s);
}

/* ---- The three products ----------------------------------------------------------------------------------------- */

/* Rows of a whole Phi, gathered in tasks of their own size. */
static im2colx_status gather_whole(product s)
{
    cut_patches(&s, GATHER_ELEMENTS / s.columns, 1);
    s.channel_step = clamp_size(GATHER_ELEMENTS / s.taps, 1, s.g->channels);
    s.tap_step = min_size(s.taps, GATHER_ELEMENTS);
    return pass(&s, GATHER, patches_task);
}

/* Channels of x, which a whole Phi is added to. */
static im2colx_status scatter_whole(product s)
{
    s.channel_part = divide_up(s.g->channels, s.shares);
    s.channel_step = s.channel_part;
    s.tap_step = s.taps;
    cut_patches(&s, GATHER_ELEMENTS / (s.channel_part * s.taps), 1);
    return pass(&s, SCATTER, channels_task);
}

im2colx_status im2colx_product(const im2colx_call *call, const im2colx_product_options *options)
{
    product s = choose_blocks(call, options);
    const size_t bytes = workspace_of(&s);
    if (bytes && !(s.memory = malloc(bytes))) return IM2COLX_NO_MEMORY;
    im2colx_status status = IM2COLX_OK;
    if (call->op == IM2COLX_GRAD_INPUT) {
        const ptrdiff_t image = s.g->image[0] * s.g->image[1] * s.g->image[2];
        memset(call->x.data, 0, (size_t)(s.g->batch * s.g->groups * s.g->channels * image * s.size));
    }
    switch (call->op) {
    case IM2COLX_FORWARD:
        if (s.is_whole) status = gather_whole(s);
        if (!status) status = pass(&s, s.is_whole ? MULTIPLY : GATHER | MULTIPLY, patches_task);
        break;
    case IM2COLX_GRAD_INPUT:
        if (s.is_whole) {
            status = pass(&s, MULTIPLY, patches_task);
            if (!status) status = scatter_whole(s);
        } else {
            status = pass(&s, MULTIPLY | SCATTER, channels_task);
        }
        break;
    case IM2COLX_GRAD_WEIGHT:
        if (s.is_whole) status = gather_whole(s);
        if (!status) status = pass(&s, s.is_whole ? 0 : GATHER, weights_task);
        break;
    }
    free(s.memory);
    return status;
}
