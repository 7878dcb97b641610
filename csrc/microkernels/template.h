/* The body of the microkernel for one type and instruction set; included once for each. Takes, and undefines:
 *   NAME     suffix of the functions, as f32_avx512
 *   T        the element type
 *   TYPE     the same, as an im2colx_type
 *   ISA, LEVEL   the instruction set's name and rung on the ladder of cpu.h
 *   BYTES    of a vector
 *   VECTORS  how many the registers hold side by side, beside six rows: 2 or 4
 *   TARGET   attributes of the functions, possibly nothing
 *   TRANSPOSE(from, ld, rows, columns, to, step)  optional: a block of at most a vector squared, turned round
 *   COMPRESS(y, c, keep)  optional: stores the lanes of the vector at c whose bits are set in `keep` side by side at y
 */
#define PASTE2(a, b) a##_##b
#define PASTE(a, b) PASTE2(a, b)
#define VECTOR PASTE(vector, NAME)
#define LOOSE PASTE(loose, NAME)
#define LANES ((int)(BYTES / sizeof(T)))

typedef T VECTOR __attribute__((vector_size(BYTES)));
typedef T LOOSE __attribute__((vector_size(BYTES), aligned(sizeof(T)), may_alias));

/* mr and nv are constants wherever this is inlined, so the accumulators are registers. */
static inline __attribute__((always_inline)) TARGET void PASTE(body, NAME)(const int mr, const int nv, const micro_sum *sum,
                                                                           const void *const *rows, const void *b_,
                                                                           void *const *c, int accumulate)
{
    VECTOR acc[MICRO_ROWS][MICRO_VECTORS];
    UNROLL for (int i = 0; i < mr; i++)
        UNROLL for (int j = 0; j < nv; j++) acc[i][j] = (VECTOR){0};
    for (ptrdiff_t s = 0; s < sum->chunks; s++) {
        const ptrdiff_t length = s + 1 < sum->chunks ? sum->length : sum->last_length;
        const ptrdiff_t *const a_inner = sum->a_inner, *const b_inner = sum->b_inner;
        const T *const b = (const T *)b_ + sum->b_chunk[s];
        const T *a[MICRO_ROWS];
        UNROLL for (int i = 0; i < mr; i++) a[i] = (const T *)rows[i] + sum->a_chunk[s];
        for (ptrdiff_t r = 0; r < length; r++) {
            const T *const at = b + b_inner[r];
            const ptrdiff_t offset = a_inner[r];
            VECTOR right[MICRO_VECTORS];
            UNROLL for (int j = 0; j < nv; j++) right[j] = *(const LOOSE *)(at + j * LANES);
            UNROLL for (int i = 0; i < mr; i++) {
                const VECTOR left = a[i][offset] - (VECTOR){0}; /* a broadcast */
                UNROLL for (int j = 0; j < nv; j++) acc[i][j] += left * right[j];
            }
        }
    }
    if (accumulate) {
        UNROLL for (int i = 0; i < mr; i++)
            UNROLL for (int j = 0; j < nv; j++) acc[i][j] += *(const LOOSE *)((const T *)c[i] + j * LANES);
    }
    UNROLL for (int i = 0; i < mr; i++)
        UNROLL for (int j = 0; j < nv; j++) *(LOOSE *)((T *)c[i] + j * LANES) = acc[i][j];
}

#define KERNEL(MR, NV)                                                                                               \
    static TARGET void PASTE(micro_##MR##x##NV, NAME)(const micro_sum *sum, const void *const *a, const void *b,     \
                                                      void *const *c, int accumulate)                                \
    {                                                                                                                \
        PASTE(body, NAME)(MR, NV, sum, a, b, c, accumulate);                                                         \
    }
#if VECTORS == 4
#define KERNELS(MR) KERNEL(MR, 1) KERNEL(MR, 2) KERNEL(MR, 3) KERNEL(MR, 4)
#define ROW(MR)                                                                                              \
    {PASTE(micro_##MR##x1, NAME), PASTE(micro_##MR##x2, NAME), PASTE(micro_##MR##x3, NAME), PASTE(micro_##MR##x4, NAME)}
#else
#define KERNELS(MR) KERNEL(MR, 1) KERNEL(MR, 2)
#define ROW(MR) {PASTE(micro_##MR##x1, NAME), PASTE(micro_##MR##x2, NAME)}
#endif
KERNELS(1) KERNELS(2) KERNELS(3) KERNELS(4) KERNELS(5) KERNELS(6)

static TARGET void PASTE(copy_even, NAME)(void *to_, const void *from_, ptrdiff_t count)
{
    T *to = to_;
    const T *from = from_;
    for (ptrdiff_t i = 0; i < count; i++) to[i] = from[2 * i];
}

static TARGET double PASTE(burn, NAME)(ptrdiff_t rounds)
{
    VECTOR acc[16], factor = (VECTOR){0} + (T)0.999, term = (VECTOR){0} + (T)0.001;
    __asm__ volatile("" ::: "memory");
    UNROLL16 for (int i = 0; i < 16; i++) acc[i] = (VECTOR){0} + (T)i;
    for (ptrdiff_t round = 0; round < rounds; round++)
        UNROLL16 for (int i = 0; i < 16; i++) acc[i] = acc[i] * factor + term;
    for (int i = 1; i < 16; i++) acc[0] += acc[i];
    return acc[0][0];
}

static TARGET int PASTE(all_finite, NAME)(const void *from_, ptrdiff_t count)
{
    const T *from = from_;
    int is_finite = 1; /* inf - inf and nan - nan are nan; without an early end the loop is one of vectors */
    for (ptrdiff_t i = 0; i < count; i++) is_finite &= from[i] - from[i] == 0;
    return is_finite;
}

static TARGET void PASTE(pack_row, NAME)(const void *from_, ptrdiff_t step, ptrdiff_t count, ptrdiff_t width, void *to_)
{
    T *to = to_;
    const T *from = from_;
    for (ptrdiff_t j = 0; j < count; j++) to[j] = from[j * step];
    for (ptrdiff_t j = count; j < width; j++) to[j] = 0;
}

static TARGET void PASTE(fill, NAME)(void *c_, ptrdiff_t ldc, ptrdiff_t rows, ptrdiff_t columns, const void *value_,
                                     ptrdiff_t row_step, ptrdiff_t lane_step)
{
    T *c = c_;
    const T *value = value_;
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t j = 0; j < columns; j++) c[i * ldc + j] = value[i * row_step + j * lane_step];
}

static TARGET void PASTE(store_kept, NAME)(const void *c_, ptrdiff_t ldc, ptrdiff_t rows, const micro_places *places, void *y_,
                                           ptrdiff_t ldy)
{
    for (int j = 0; j < places->vectors; j++) {
        const T *c = (const T *)c_ + j * LANES;
        T *y = (T *)y_ + places->to[j];
        const unsigned keep = places->keep[j];
        for (ptrdiff_t i = 0; i < rows; i++, c += ldc, y += ldy) {
#ifdef COMPRESS
            COMPRESS(y, c, keep);
#else
            T *to = y;
            for (int lane = 0; lane < LANES; lane++)
                if (keep >> lane & 1) *to++ = c[lane];
#endif
        }
    }
}

/* In blocks of eight lanes: rows of c are then read a cache line at a time, and eight rows of y written side by side. */
static TARGET void PASTE(store, NAME)(const void *c_, ptrdiff_t ldc, ptrdiff_t rows, ptrdiff_t columns, void *y_,
                                      ptrdiff_t row_step, ptrdiff_t lane_step)
{
    const T *c = c_;
    T *y = y_;
    if (lane_step == 1) {
        for (ptrdiff_t i = 0; i < rows; i++) memcpy(y + i * row_step, c + i * ldc, (size_t)columns * sizeof(T));
        return;
    }
    ptrdiff_t j = 0;
#ifdef TRANSPOSE
    if (row_step == 1) {
        for (; j < columns; j += LANES)
            for (ptrdiff_t i = 0; i < rows; i += LANES)
                TRANSPOSE(c + i * ldc + j, ldc, (int)(rows - i < LANES ? rows - i : LANES),
                          (int)(columns - j < LANES ? columns - j : LANES), y + i + j * lane_step, lane_step);
        return;
    }
#endif
    for (; j + 8 <= columns; j += 8)
        for (ptrdiff_t i = 0; i < rows; i++)
            UNROLL for (int lane = 0; lane < 8; lane++)
                y[i * row_step + (j + lane) * lane_step] = c[i * ldc + j + lane];
    for (; j < columns; j++)
        for (ptrdiff_t i = 0; i < rows; i++) y[i * row_step + j * lane_step] = c[i * ldc + j];
}

static const microkernel PASTE(row, NAME) = {
    .isa = ISA, .level = LEVEL, .type = TYPE, .lanes = LANES, .vectors = VECTORS,
    .function = {ROW(1), ROW(2), ROW(3), ROW(4), ROW(5), ROW(6)},
    .copy_even = PASTE(copy_even, NAME), .burn = PASTE(burn, NAME), .all_finite = PASTE(all_finite, NAME),
    .pack_row = PASTE(pack_row, NAME), .fill = PASTE(fill, NAME), .store_kept = PASTE(store_kept, NAME),
    .store = PASTE(store, NAME),
};

#undef COMPRESS
#undef TRANSPOSE
#undef ROW
#undef KERNELS
#undef KERNEL
#undef LANES
#undef LOOSE
#undef VECTOR
#undef PASTE
#undef PASTE2
#undef NAME
#undef T
#undef TYPE
#undef BYTES
#undef TARGET
#undef ISA
#undef LEVEL
#undef VECTORS
