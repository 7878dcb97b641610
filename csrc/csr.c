/* The matrix of a convolution as compressed sparse rows.
 *
 * Row (f, o) is filter f laid over x where patch o lies: for every column q of Phi whose t(o, q) lies inside x, the entry
 * w[f, q] in column t(o, q) (Eq. 8). Ascending q is ascending t: with channels first both run over (c, i, j), with channels
 * last over (i, j, c). What a row needs of the map is a list of the taps that lie inside and of where they lie; all channels
 * of the group share it.
 */
#include "index_map.h"
#include "threads.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Entries of a task: far below the poll's period, and far above the cost of taking one. */
enum { TASK_ENTRIES = 128 << 10 };

/* Rows that are counted between two looks at the poll: some 10 microseconds. */
enum { ROWS_A_LOOK = 1024 };

typedef struct {
    ptrdiff_t tap, pixel;
} tap_at;

typedef struct {
    const im2colx_geometry *g;
    int is_last, is_circular;
    ptrdiff_t taps, plane, outputs, rows; /* of the kernel, of a channel of x, of a filter, of the matrix */
    ptrdiff_t size;                       /* bytes of a weight */
    ptrdiff_t index_bytes;
    const char *w;
    char *indptr, *indices, *data;
    ptrdiff_t rows_at_once;
    tap_at *inside;                       /* room for all taps, a worker */
} matrix;

static inline ptrdiff_t filters_of(const matrix *m) { return m->g->groups * m->g->filters; }

/* Rows of the matrix run over (f, o), or over (o, f) with channels last. */
static ptrdiff_t output_of(const matrix *m, ptrdiff_t row)
{
    return m->is_last ? row / filters_of(m) : row % m->outputs;
}

static range taps_of_axis(const matrix *m, int axis, ptrdiff_t o)
{
    return m->is_circular ? (range){0, m->g->kernel[axis]} : taps_inside(m->g, axis, o);
}

static ptrdiff_t pixel_of_axis(const matrix *m, int axis, ptrdiff_t o, ptrdiff_t k)
{
    const ptrdiff_t i = map_axis(m->g, axis, o, k), size = m->g->image[axis];
    return m->is_circular ? (i % size + size) % size : i;
}

static ptrdiff_t count_inside(const matrix *m, ptrdiff_t output)
{
    ptrdiff_t at[IM2COLX_AXES], count = 1;
    unflatten(output, m->g->output, at);
    for (int axis = 0; axis < IM2COLX_AXES; axis++) count *= range_size(taps_of_axis(m, axis, at[axis]));
    return count;
}

static ptrdiff_t list_inside(const matrix *m, ptrdiff_t output, tap_at *list)
{
    const im2colx_geometry *g = m->g;
    ptrdiff_t at[IM2COLX_AXES], count = 0;
    range k[IM2COLX_AXES];
    unflatten(output, g->output, at);
    for (int axis = 0; axis < IM2COLX_AXES; axis++) k[axis] = taps_of_axis(m, axis, at[axis]);
    for (ptrdiff_t k0 = k[0].begin; k0 < k[0].end; k0++)
        for (ptrdiff_t k1 = k[1].begin; k1 < k[1].end; k1++) {
            const ptrdiff_t tap = (k0 * g->kernel[1] + k1) * g->kernel[2];
            const ptrdiff_t line = pixel_of_axis(m, 0, at[0], k0) * g->image[1] + pixel_of_axis(m, 1, at[1], k1);
            for (ptrdiff_t k2 = k[2].begin; k2 < k[2].end; k2++)
                list[count++] = (tap_at){tap + k2, line * g->image[2] + pixel_of_axis(m, 2, at[2], k2)};
        }
    return count;
}

/* ---- One row ----------------------------------------------------------------------------------------------------- */

/* Columns of the entries: `count` taps for each channel of a group whose first is `channel`. */
#define DEFINE_INDICES(NAME, T)                                                                              \
    static void NAME(const matrix *m, ptrdiff_t channel, const tap_at *list, ptrdiff_t count, T *restrict to) \
    {                                                                                                        \
        const ptrdiff_t channels = m->g->channels, all = m->g->groups * channels;                            \
        if (m->is_last)                                                                                      \
            for (ptrdiff_t t = 0; t < count; t++, to += channels) {                                          \
                const T first = (T)(list[t].pixel * all + channel);                                          \
                for (ptrdiff_t c = 0; c < channels; c++) to[c] = first + (T)c;                               \
            }                                                                                                \
        else                                                                                                 \
            for (ptrdiff_t c = 0; c < channels; c++, to += count) {                                          \
                const T first = (T)((channel + c) * m->plane);                                               \
                for (ptrdiff_t t = 0; t < count; t++) to[t] = first + (T)list[t].pixel;                      \
            }                                                                                                \
    }
DEFINE_INDICES(indices_4, int32_t)
DEFINE_INDICES(indices_8, int64_t)

static inline __attribute__((always_inline)) void pick_taps(const char *w, const tap_at *list, ptrdiff_t count, char *to, size_t bytes)
{
    for (ptrdiff_t t = 0; t < count; t++) memcpy(to + t * (ptrdiff_t)bytes, w + list[t].tap * (ptrdiff_t)bytes, bytes);
}

/* Values of the entries, from the row of w that belongs to the filter. */
static void values(const matrix *m, const char *w, const tap_at *list, ptrdiff_t count, char *to)
{
    const ptrdiff_t channels = m->g->channels;
    if (count == m->taps) {
        memcpy(to, w, (size_t)(count * channels * m->size));
    } else if (m->is_last) {
        const ptrdiff_t bytes = channels * m->size;
        for (ptrdiff_t t = 0; t < count; t++) memcpy(to + t * bytes, w + list[t].tap * bytes, (size_t)bytes);
    } else {
        for (ptrdiff_t c = 0; c < channels; c++, to += count * m->size, w += m->taps * m->size)
            if (m->size == 4) pick_taps(w, list, count, to, 4);
            else if (m->size == 8) pick_taps(w, list, count, to, 8);
            else pick_taps(w, list, count, to, 16);
    }
}

static ptrdiff_t indptr_at(const matrix *m, ptrdiff_t row)
{
    return m->index_bytes == 4 ? ((int32_t *)m->indptr)[row] : (ptrdiff_t)((int64_t *)m->indptr)[row];
}

static void rows_task(void *argument, ptrdiff_t task, int worker, im2colx_job *job)
{
    const matrix *m = argument;
    const im2colx_geometry *g = m->g;
    const ptrdiff_t begin = task * m->rows_at_once, end = min_size(begin + m->rows_at_once, m->rows);
    tap_at *list = m->inside + worker * m->taps;
    ptrdiff_t listed = -1, count = 0;
    for (ptrdiff_t row = begin; row < end && !im2colx_stopped(job); row++) {
        const ptrdiff_t output = output_of(m, row);
        const ptrdiff_t filter = m->is_last ? row % filters_of(m) : row / m->outputs;
        const ptrdiff_t channel = filter / g->filters * g->channels, at = indptr_at(m, row);
        if (output != listed) count = list_inside(m, listed = output, list);
        if (m->index_bytes == 4) indices_4(m, channel, list, count, (int32_t *)m->indices + at);
        else indices_8(m, channel, list, count, (int64_t *)m->indices + at);
        values(m, m->w + filter * g->channels * m->taps * m->size, list, count, m->data + at * m->size);
    }
}

/* Where each row begins: a sum over the rows before, so by one worker. */
static void indptr_task(void *argument, ptrdiff_t task, int worker, im2colx_job *job)
{
    const matrix *m = argument;
    ptrdiff_t entries = 0, count = 0;
    (void)task, (void)worker;
    for (ptrdiff_t row = 0; row <= m->rows; row++) {
        if (row % ROWS_A_LOOK == 0 && im2colx_stopped(job)) return;
        if (m->index_bytes == 4) ((int32_t *)m->indptr)[row] = (int32_t)entries;
        else ((int64_t *)m->indptr)[row] = entries;
        if (row == m->rows) break;
        if (!m->is_last || row % filters_of(m) == 0) count = count_inside(m, output_of(m, row));
        entries += count * m->g->channels;
    }
}

im2colx_status im2colx_csr(const im2colx_geometry *g, im2colx_order order, int circular, size_t itemsize, const void *w,
                           size_t index_bytes, void *indptr, void *indices, void *data, int threads, im2colx_poll poll)
{
    matrix m = {.g = g, .is_last = order == IM2COLX_CHANNELS_LAST, .is_circular = circular};
    m.taps = taps_of(g);
    m.plane = g->image[0] * g->image[1] * g->image[2];
    m.outputs = outputs_of(g);
    m.rows = filters_of(&m) * m.outputs;
    m.size = (ptrdiff_t)itemsize;
    m.index_bytes = (ptrdiff_t)index_bytes;
    m.w = w, m.indptr = indptr, m.indices = indices, m.data = data;
    m.rows_at_once = max_size(1, TASK_ENTRIES / (g->channels * m.taps));
    const ptrdiff_t tasks = divide_up(m.rows, m.rows_at_once);
    threads = im2colx_workers(tasks, threads);
    if (!(m.inside = malloc((size_t)(threads * m.taps) * sizeof(tap_at)))) return IM2COLX_NO_MEMORY;

    im2colx_status status = im2colx_run(1, 1, indptr_task, &m, poll);
    if (status == IM2COLX_OK) status = im2colx_run(tasks, threads, rows_task, &m, poll);
    free(m.inside);
    return status;
}
