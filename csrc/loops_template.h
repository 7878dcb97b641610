/* The three direct loops for one type; included once for each by loops.c. Takes, and undefines:
 *   NAME       suffix of the functions
 *   T, SUM     the type in memory, and the type that sums are kept in
 *   MULTIPLY   the product of two SUMs      CONJUGATE  of a SUM
 *   FITS       whether a SUM can be stored as T; if not, the job stops with IM2COLX_OVERFLOW
 */
#define PASTE2(a, b) a##_##b
#define PASTE(a, b) PASTE2(a, b)
#define FUNCTION(op) PASTE(op, NAME)

static inline void FUNCTION(store)(im2colx_job *job, T *to, SUM sum)
{
    (void)job;
    if (FITS(sum)) *to = (T)sum;
    else im2colx_stop(job, IM2COLX_OVERFLOW);
}

/* A task: a row of the output, of one image and filter. */
static void FUNCTION(forward)(void *argument, ptrdiff_t task, int worker, im2colx_job *job)
{
    const im2colx_call *call = argument;
    const im2colx_geometry *g = &call->geometry;
    const ptrdiff_t filters = g->groups * g->filters;
    const ptrdiff_t o1 = task % g->output[1], o0 = task / g->output[1] % g->output[0];
    const ptrdiff_t f = task / g->output[1] / g->output[0] % filters;
    const ptrdiff_t n = task / g->output[1] / g->output[0] / filters;
    const T *x = (const T *)call->x.data + n * call->x.outer + f / g->filters * g->channels * call->x.channel;
    const T *w = (const T *)call->w.data + f * call->w.outer;
    T *y = (T *)call->y.data + n * call->y.outer + f * call->y.channel;
    ptrdiff_t products = 0; /* since the last look whether to stop */
    (void)worker;
    for (ptrdiff_t o2 = 0; o2 < g->output[2]; o2++) {
        const ptrdiff_t o[IM2COLX_AXES] = {o0, o1, o2};
        SUM sum = 0;
        if (im2colx_stopped(job)) return;
        for (ptrdiff_t c = 0; c < g->channels; c++) {
            for (ptrdiff_t k0 = 0; k0 < g->kernel[0]; k0++)
                for (ptrdiff_t k1 = 0; k1 < g->kernel[1]; k1++) {
                    if ((products += g->kernel[2]) > LONG_SUM) {
                        products = 0;
                        if (im2colx_stopped(job)) return;
                    }
                    const ptrdiff_t i0 = map_axis(g, 0, o0, k0), i1 = map_axis(g, 1, o1, k1);
                    const int is_row = is_inside(g, 0, i0) && is_inside(g, 1, i1);
                    for (ptrdiff_t k2 = 0; k2 < g->kernel[2]; k2++) {
                        const ptrdiff_t k[IM2COLX_AXES] = {k0, k1, k2};
                        const ptrdiff_t i[IM2COLX_AXES] = {i0, i1, map_axis(g, 2, o2, k2)};
                        const SUM pixel = is_row && is_inside(g, 2, i[2])
                                              ? x[c * call->x.channel + at_space(&call->x, i)] : 0;
                        const SUM weight = w[c * call->w.channel + at_space(&call->w, k)];
                        sum += MULTIPLY(weight, pixel);
                    }
                }
        }
        if (call->bias) sum += (SUM)((const T *)call->bias)[f];
        FUNCTION(store)(job, y + at_space(&call->y, o), sum);
    }
}

/* A task: a row of the input, of one image and channel. */
static void FUNCTION(grad_input)(void *argument, ptrdiff_t task, int worker, im2colx_job *job)
{
    const im2colx_call *call = argument;
    const im2colx_geometry *g = &call->geometry;
    const ptrdiff_t channels = g->groups * g->channels;
    const ptrdiff_t i1 = task % g->image[1], i0 = task / g->image[1] % g->image[0];
    const ptrdiff_t c = task / g->image[1] / g->image[0] % channels;
    const ptrdiff_t n = task / g->image[1] / g->image[0] / channels;
    const ptrdiff_t first_filter = c / g->channels * g->filters;
    T *x = (T *)call->x.data + n * call->x.outer + c * call->x.channel;
    const T *w = (const T *)call->w.data + first_filter * call->w.outer + c % g->channels * call->w.channel;
    const T *y = (const T *)call->y.data + n * call->y.outer + first_filter * call->y.channel;
    ptrdiff_t products = 0;
    (void)worker;
    for (ptrdiff_t i2 = 0; i2 < g->image[2]; i2++) {
        const ptrdiff_t i[IM2COLX_AXES] = {i0, i1, i2};
        SUM sum = 0;
        if (im2colx_stopped(job)) return;
        for (ptrdiff_t k0 = 0; k0 < g->kernel[0]; k0++)
            for (ptrdiff_t k1 = 0; k1 < g->kernel[1]; k1++) {
                for (ptrdiff_t k2 = 0; k2 < g->kernel[2]; k2++) {
                    const ptrdiff_t k[IM2COLX_AXES] = {k0, k1, k2};
                    ptrdiff_t o[IM2COLX_AXES];
                    int is_hit = 1;
                    for (int axis = 0; axis < IM2COLX_AXES; axis++) {
                        const ptrdiff_t from = i[axis] + g->pad[axis] - k[axis] * g->dilation[axis];
                        o[axis] = from / g->stride[axis];
                        is_hit &= from >= 0 && from % g->stride[axis] == 0 && o[axis] < g->output[axis];
                    }
                    if ((products += is_hit ? g->filters : 1) > LONG_SUM) {
                        products = 0;
                        if (im2colx_stopped(job)) return;
                    }
                    if (!is_hit) continue;
                    for (ptrdiff_t f = 0; f < g->filters; f++) {
                        const SUM weight = w[f * call->w.outer + at_space(&call->w, k)];
                        const SUM grad = y[f * call->y.channel + at_space(&call->y, o)];
                        sum += MULTIPLY(CONJUGATE(weight), grad);
                    }
                }
            }
        FUNCTION(store)(job, x + at_space(&call->x, i), sum);
    }
}

/* A task: one weight. */
static void FUNCTION(grad_weight)(void *argument, ptrdiff_t task, int worker, im2colx_job *job)
{
    const im2colx_call *call = argument;
    const im2colx_geometry *g = &call->geometry;
    ptrdiff_t k[IM2COLX_AXES];
    unflatten(task % taps_of(g), g->kernel, k);
    const ptrdiff_t c = task / taps_of(g) % g->channels, f = task / taps_of(g) / g->channels;
    const T *x = (const T *)call->x.data + (f / g->filters * g->channels + c) * call->x.channel;
    const T *y = (const T *)call->y.data + f * call->y.channel;
    SUM sum = 0;
    (void)worker;
    for (ptrdiff_t n = 0; n < g->batch; n++)
        for (ptrdiff_t o0 = 0; o0 < g->output[0]; o0++)
            for (ptrdiff_t o1 = 0; o1 < g->output[1]; o1++) {
                const ptrdiff_t i0 = map_axis(g, 0, o0, k[0]), i1 = map_axis(g, 1, o1, k[1]);
                const int is_row = is_inside(g, 0, i0) && is_inside(g, 1, i1);
                if (im2colx_stopped(job)) return;
                for (ptrdiff_t o2 = 0; o2 < g->output[2]; o2++) {
                    const ptrdiff_t o[IM2COLX_AXES] = {o0, o1, o2};
                    const ptrdiff_t i[IM2COLX_AXES] = {i0, i1, map_axis(g, 2, o2, k[2])};
                    const SUM pixel = is_row && is_inside(g, 2, i[2])
                                          ? x[n * call->x.outer + at_space(&call->x, i)] : 0;
                    const SUM grad = y[n * call->y.outer + at_space(&call->y, o)];
                    sum += MULTIPLY(grad, CONJUGATE(pixel));
                }
            }
    FUNCTION(store)(job, (T *)call->w.data + f * call->w.outer + c * call->w.channel + at_space(&call->w, k), sum);
}

#undef FUNCTION
#undef PASTE
#undef PASTE2
#undef NAME
#undef T
#undef SUM
#undef MULTIPLY
#undef CONJUGATE
#undef FITS
