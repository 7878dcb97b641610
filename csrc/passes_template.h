/* The passes for one type and instruction set; included once for each. Plain loops, which the compiler turns into vectors.
 * Takes, and undefines:
 *   NAME     suffix of the functions, as f32_avx512
 *   T        the element type
 *   SQRT     the square root of a T
 *   TARGET   attributes of the functions, possibly nothing
 */
#define PASTE2(a, b) a##_##b
#define PASTE(a, b) PASTE2(a, b)
#define PASS(what)                                                                                                 \
    static TARGET void PASTE(what, NAME)(const im2colx_pass_call *call, const void *in_, void *const *out_, ptrdiff_t count)

PASS(sgd)
{
    const T *restrict g = in_;
    T *restrict p = out_[0];
    const T rate = (T)call->rate;
    for (ptrdiff_t i = 0; i < count; i++) p[i] -= g[i] * rate;
}

PASS(momentum)
{
    const T *restrict g = in_;
    T *restrict p = out_[0], *restrict v = out_[1];
    const T rate = (T)call->rate, keep = (T)call->keep[0];
    for (ptrdiff_t i = 0; i < count; i++) {
        v[i] = v[i] * keep - g[i] * rate;
        p[i] += v[i];
    }
}

PASS(adam)
{
    const T *restrict g = in_;
    T *restrict p = out_[0], *restrict m = out_[1], *restrict v = out_[2];
    const T rate = (T)call->rate, eps = (T)call->eps, keep1 = (T)call->keep[0], keep2 = (T)call->keep[1];
    const T take1 = (T)(1 - call->keep[0]), take2 = (T)(1 - call->keep[1]);
    for (ptrdiff_t i = 0; i < count; i++) {
        m[i] = m[i] * keep1 + g[i] * take1;
        v[i] = v[i] * keep2 + g[i] * g[i] * take2;
        p[i] -= m[i] / (SQRT(v[i]) + eps) * rate;
    }
}

PASS(relu)
{
    const T *x = in_; /* may be y */
    T *y = out_[0];
    (void)call;
    INDEPENDENT for (ptrdiff_t i = 0; i < count; i++) y[i] = x[i] <= 0 ? 0 : x[i]; /* nan stays nan */
}

PASS(relu_gradient)
{
    const T *restrict y = in_;
    const T *g = out_[1]; /* may be out */
    T *to = out_[0];
    (void)call;
    INDEPENDENT for (ptrdiff_t i = 0; i < count; i++) to[i] = y[i] > 0 ? g[i] : 0;
}

static const pass_function PASTE(passes, NAME)[IM2COLX_PASSES] = {
    [IM2COLX_SGD] = PASTE(sgd, NAME), [IM2COLX_MOMENTUM] = PASTE(momentum, NAME), [IM2COLX_ADAM] = PASTE(adam, NAME),
    [IM2COLX_RELU] = PASTE(relu, NAME), [IM2COLX_RELU_GRADIENT] = PASTE(relu_gradient, NAME),
};

#undef PASS
#undef PASTE
#undef PASTE2
#undef NAME
#undef T
#undef SQRT
#undef TARGET
