/* The vector type, tanh and sigmoid, and the register tile, for float (f32) and double (f64).
 *
 * A vector is one register of the instruction set that the file is compiled for, or as many bytes as
 * CLSTM_VECTOR_BYTES says: a wider layout than the processor's can be tested on it.  GCC and Clang give it
 * arithmetic (vector extensions); for another compiler a vector is a single number, and all code that uses
 * it becomes plain loops.  The second half of this file is its body, included once for each type.
 *
 * All sums run over k in order, one `madd` at a time, whatever the shape of the tile: an element's bits do
 * not depend on which rows and columns are computed beside it.  What is fused is written down and never
 * left to the compiler, which would choose differently in one place than in another.
 */
#ifndef CLSTM_SIMD_H
#define CLSTM_SIMD_H

#include <math.h>
#include <stddef.h>
#include <string.h>

#if defined(__GNUC__)
#define CLSTM_INLINE static inline __attribute__((always_inline, unused))
#define CLSTM_UNROLL _Pragma("GCC unroll 8")
#define CLSTM_UNROLL_ALL _Pragma("GCC unroll 16")
#if defined(__AVX512F__)
#define CLSTM_REGISTER_BYTES 64
#elif defined(__AVX__)
#define CLSTM_REGISTER_BYTES 32
#else
#define CLSTM_REGISTER_BYTES 16
#endif
#if !defined(CLSTM_VECTOR_BYTES)
#define CLSTM_VECTOR_BYTES CLSTM_REGISTER_BYTES
#endif
#else
#define CLSTM_INLINE static inline
#define CLSTM_UNROLL
#define CLSTM_UNROLL_ALL
#define CLSTM_REGISTER_BYTES 0
#define CLSTM_VECTOR_BYTES 0 /* no vectors */
#endif

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__) && CLSTM_VECTOR_BYTES == 16
#include <arm_neon.h>
#define CLSTM_NEON 1
#endif

/* Whether `madd` rounds once: where the target has an instruction for it. */
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA) || (defined(__FP_FAST_FMA) && defined(__FP_FAST_FMAF))
#define CLSTM_FUSED 1
#else
#define CLSTM_FUSED 0
#endif

/* Denormal numbers cost a hundred times what others do, and a long backward pass is full of them.  Each
 * thread that computes flushes them to zero from clstm_flush to clstm_restore; results are as if denormals
 * were 0, and the caller's setting, rounding mode and exception flags included, is what it was. */
#if defined(__SSE2__)
typedef unsigned int clstm_fp_state;
CLSTM_INLINE clstm_fp_state clstm_flush(void)
{
    clstm_fp_state before = _mm_getcsr();
    /* all exceptions masked, to nearest, flush results (0x8000), read denormals as zero (0x0040) */
    _mm_setcsr(0x9fc0);
    return before;
}
CLSTM_INLINE void clstm_restore(clstm_fp_state state)
{
    _mm_setcsr(state);
}
#elif defined(__aarch64__) && defined(__GNUC__)
typedef unsigned long long clstm_fp_state;
CLSTM_INLINE clstm_fp_state clstm_flush(void)
{
    clstm_fp_state before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(1ull << 24));
    return before;
}
CLSTM_INLINE void clstm_restore(clstm_fp_state state)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(state));
}
#else
typedef int clstm_fp_state;
CLSTM_INLINE clstm_fp_state clstm_flush(void)
{
    return 0;
}
CLSTM_INLINE void clstm_restore(clstm_fp_state state)
{
    (void)state;
}
#endif

/* Which of the numbers of two vectors, side by side, are those of one half of both in turn; half is 0, or
 * half of the lanes. */
#define CLSTM_IN_TURN_2(half) (half), 2 + (half)
#define CLSTM_IN_TURN_4(half) (half), 4 + (half), 1 + (half), 5 + (half)
#define CLSTM_IN_TURN_8(half) \
    (half), 8 + (half), 1 + (half), 9 + (half), 2 + (half), 10 + (half), 3 + (half), 11 + (half)
#define CLSTM_IN_TURN_16(half) \
    (half), 16 + (half), 1 + (half), 17 + (half), 2 + (half), 18 + (half), 3 + (half), 19 + (half), \
        4 + (half), 20 + (half), 5 + (half), 21 + (half), 6 + (half), 22 + (half), 7 + (half), 23 + (half)
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define CLSTM_SHUFFLES 1
#endif
#endif

/* Sums that a tile keeps in registers: what is left of 32 or 16 beside the weights and the broadcast. */
#if CLSTM_VECTOR_BYTES == 64 || defined(__aarch64__)
#define CLSTM_SUMS 24
#else
#define CLSTM_SUMS 12
#endif
#define CLSTM_TILE_ROWS 6
/* Rows that go together through weights which lie column after column. */
#define CLSTM_COLUMNS_ROWS 4

/* Rows of a tile that is `width` vectors wide. */
CLSTM_INLINE ptrdiff_t clstm_tile_rows(ptrdiff_t width)
{
    ptrdiff_t rows = CLSTM_SUMS / width;
    return rows < CLSTM_TILE_ROWS ? rows : CLSTM_TILE_ROWS;
}

/* tanh(2 y) = 2 w q / (q^2 + w^2) with w / q = tanh(y): rounding errors of w and q cancel where |tanh| is
 * near 1, and one division is enough.  tanh(y) is y P(y^2) / Q(y^2), fitted on [0, LIMIT] (relative error
 * 6e-8 and 2e-16); P and Q share the factor 1.875, which puts Q in the upper half of a binade, where
 * rounding costs least.  Beyond 2 LIMIT the true tanh rounds to 1.  P and Q list the coefficients of y^0,
 * y^2, ... */
/* clang-format off */
#define CLSTM_TANH_F32_LIMIT 4.55f
#define CLSTM_TANH_F32_P(c, h) \
    h(h(h(c(1.875 * 5.62598072358330969e-6), 1.875 * 0.00257872986015006873), 1.875 * 0.126174373950743291), \
      1.875 * 0.999999999936322309)
#define CLSTM_TANH_F32_Q(c, h) \
    h(h(h(c(1.875 * 0.000177636589673917297), 1.875 * 0.0224147300103258078), 1.875 * 0.459507687789724457), \
      1.875)
#define CLSTM_TANH_F64_LIMIT 9.55
#define CLSTM_TANH_F64_P(c, h) \
    h(h(h(h(h(h(h(c(1.875 * 9.25997899671519834e-17), 1.875 * 8.29458704337996082e-13), \
      1.875 * 1.06271571338285921e-9), 1.875 * 4.46393826730796213e-7), 1.875 * 0.0000764650299437847906), \
      1.875 * 0.00551092520905556857), 1.875 * 0.148682598458002924), 1.875)
#define CLSTM_TANH_F64_Q(c, h) \
    h(h(h(h(h(h(h(c(1.875 * 1.26079467932810628e-14), 1.875 * 3.50258020199811943e-11), \
      1.875 * 2.45540967886089104e-8), 1.875 * 6.50168690415215464e-6), 1.875 * 0.000725784472519882458), \
      1.875 * 0.0328495691395009973), 1.875 * 0.482015931791336257), 1.875)
/* clang-format on */

#define REAL float
#define TYPE(name) clstm_##name##_f32
#define TANH(name) CLSTM_TANH_F32_##name
#define BYTES 4
#define INTEGER int
#define ABS_SCALAR fabsf
#define FMA_SCALAR fmaf
#define FMA_NEON(a, b, c) vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b))
#if CLSTM_VECTOR_BYTES != CLSTM_REGISTER_BYTES
/* no instruction for one vector */
#elif defined(__AVX512F__)
#define X86(op) _mm512_##op##_ps
#elif defined(__AVX__)
#define X86(op) _mm256_##op##_ps
#elif defined(__SSE2__)
#define X86(op) _mm_##op##_ps
#endif
#include "simd.h"
#undef REAL
#undef TYPE
#undef TANH
#undef BYTES
#undef INTEGER
#undef ABS_SCALAR
#undef FMA_SCALAR
#undef FMA_NEON
#undef X86

#define REAL double
#define TYPE(name) clstm_##name##_f64
#define TANH(name) CLSTM_TANH_F64_##name
#define BYTES 8
#define INTEGER long long
#define ABS_SCALAR fabs
#define FMA_SCALAR fma
#define FMA_NEON(a, b, c) vfmaq_f64((float64x2_t)(c), (float64x2_t)(a), (float64x2_t)(b))
#if CLSTM_VECTOR_BYTES != CLSTM_REGISTER_BYTES
/* no instruction for one vector */
#elif defined(__AVX512F__)
#define X86(op) _mm512_##op##_pd
#elif defined(__AVX__)
#define X86(op) _mm256_##op##_pd
#elif defined(__SSE2__)
#define X86(op) _mm_##op##_pd
#endif
#include "simd.h"

/* ------------------------------------------------------------------------- the body, for one type REAL */
#else

#if CLSTM_VECTOR_BYTES
typedef REAL TYPE(vec) __attribute__((vector_size(CLSTM_VECTOR_BYTES), may_alias));
typedef INTEGER TYPE(bits) __attribute__((vector_size(CLSTM_VECTOR_BYTES), may_alias));
#else
typedef REAL TYPE(vec);
#endif
enum { TYPE(LANES) = sizeof(TYPE(vec)) / sizeof(REAL) };

/* x - {0} is one broadcast; {0} + x would be an addition, for the sake of -0. */
CLSTM_INLINE TYPE(vec) TYPE(broadcast)(REAL x)
{
#if CLSTM_VECTOR_BYTES
    return x - (TYPE(vec)){0};
#else
    return x;
#endif
}

/* A vector from anywhere; a pointer to TYPE(vec) is an aligned one. */
CLSTM_INLINE TYPE(vec) TYPE(load)(const REAL *from)
{
    TYPE(vec) x;
    memcpy(&x, from, sizeof(x));
    return x;
}

CLSTM_INLINE TYPE(vec) TYPE(abs)(TYPE(vec) x)
{
#if CLSTM_VECTOR_BYTES
    return (TYPE(vec))((TYPE(bits))x & ~(TYPE(bits))(-TYPE(broadcast)((REAL)0)));
#else
    return ABS_SCALAR(x);
#endif
}

/* x held within -limit..limit.  The order of the operands lets NaN through: the instructions return the
 * second one. */
CLSTM_INLINE TYPE(vec) TYPE(clamp)(TYPE(vec) x, REAL limit)
{
    TYPE(vec) high = TYPE(broadcast)(limit), low = TYPE(broadcast)(-limit);
#if defined(X86)
    return (TYPE(vec))X86(max)(low, X86(min)(high, x));
#elif CLSTM_VECTOR_BYTES
    TYPE(bits) above = x > high, below = x < low;
    TYPE(bits) kept = (TYPE(bits))x & ~(above | below);
    return (TYPE(vec))(kept | ((TYPE(bits))high & above) | ((TYPE(bits))low & below));
#else
    return x > high ? high : x < low ? low : x;
#endif
}

/* a * b + c, fused or not as the target is; the second is the same for a single number. */
CLSTM_INLINE TYPE(vec) TYPE(madd)(TYPE(vec) a, TYPE(vec) b, TYPE(vec) c)
{
#if CLSTM_FUSED && defined(X86)
    return (TYPE(vec))X86(fmadd)(a, b, c);
#elif defined(CLSTM_NEON)
    return (TYPE(vec))FMA_NEON(a, b, c);
#elif CLSTM_FUSED && CLSTM_VECTOR_BYTES
    CLSTM_UNROLL
    for (int lane = 0; lane < TYPE(LANES); lane++)
        c[lane] = FMA_SCALAR(a[lane], b[lane], c[lane]);
    return c;
#elif CLSTM_FUSED
    return FMA_SCALAR(a, b, c);
#else
    return a * b + c;
#endif
}

CLSTM_INLINE REAL TYPE(madd_scalar)(REAL a, REAL b, REAL c)
{
#if CLSTM_FUSED
    return FMA_SCALAR(a, b, c);
#else
    return a * b + c;
#endif
}

/* tanh(2 y); the derivation stands above the coefficients. */
CLSTM_INLINE TYPE(vec) TYPE(tanh_twice)(TYPE(vec) y)
{
    y = TYPE(clamp)(y, TANH(LIMIT));
    TYPE(vec) u = y * y;
#define CONSTANT(value) TYPE(broadcast)((REAL)(value))
#define HORNER(inner, value) TYPE(madd)(inner, u, CONSTANT(value))
    TYPE(vec) w = y * TANH(P)(CONSTANT, HORNER);
    TYPE(vec) q = TANH(Q)(CONSTANT, HORNER);
#undef HORNER
#undef CONSTANT
    TYPE(vec) product = (w + w) * q, gap = q - TYPE(abs)(w);
    return product / TYPE(madd)(gap, gap, TYPE(abs)(product)); /* q^2 + w^2 = 2 |w| q + (q - |w|)^2 */
}

CLSTM_INLINE TYPE(vec) TYPE(tanh)(TYPE(vec) x)
{
    return TYPE(tanh_twice)(TYPE(broadcast)((REAL)0.5) * x);
}

/* 1 / (1 + exp(-x)) = (1 + tanh(x / 2)) / 2 */
CLSTM_INLINE TYPE(vec) TYPE(sigmoid)(TYPE(vec) x)
{
    TYPE(vec) half = TYPE(broadcast)((REAL)0.5);
    return TYPE(madd)(half, TYPE(tanh_twice)(TYPE(broadcast)((REAL)0.25) * x), half);
}

/* z (4, V) IN/OUT: four pieces that lie `pitch` apart, less than a vector, each to the front of a vector of
 * its own.  What is behind them there is of no use. */
CLSTM_INLINE void TYPE(spread)(REAL *z, ptrdiff_t pitch)
{
    for (int g = 3; g > 0; g--)
        *(TYPE(vec) *)(z + g * TYPE(LANES)) = TYPE(load)(z + g * pitch);
}

/* The way back of `spread`. */
CLSTM_INLINE void TYPE(join)(REAL *z, ptrdiff_t pitch)
{
    for (int g = 1; g < 4; g++)
        memcpy(z + g * pitch, z + g * TYPE(LANES), sizeof(TYPE(vec)));
}

/* sums[r, v] = start[r, v] + sum over k of a[r, k] * panel[k, v], for `rows` rows and `width` vectors;
 * both are constants once inlined, so that the sums live in registers.  A width above 4 is two panels side
 * by side, the first of 4.
 *   a      IN   (rows, depth), element (r, k) at a[r * a_row + k * a_step]
 *   panel  IN   (depth, width) vectors, contiguous; a second panel `next` elements further
 *   start  IN   (rows, width) vectors, rows start_row elements apart, a second panel start_next; may be sums
 *   sums   OUT  (rows, width) vectors, rows sums_row elements apart, a second panel sums_next */
CLSTM_INLINE void TYPE(tile_of)(const int rows, const int width, const REAL *a, ptrdiff_t a_row,
                                ptrdiff_t a_step, const REAL *panel, ptrdiff_t next, ptrdiff_t depth,
                                const REAL *start, ptrdiff_t start_row, ptrdiff_t start_next, REAL *sums,
                                ptrdiff_t sums_row, ptrdiff_t sums_next)
{
    enum { V = TYPE(LANES) };
    const int first = width > 4 ? 4 : width, second = width - first;
    const REAL *panel_2 = panel + next;
    TYPE(vec) sum[CLSTM_TILE_ROWS][8];
    CLSTM_UNROLL
    for (int r = 0; r < rows; r++) {
        CLSTM_UNROLL
        for (int v = 0; v < width; v++)
            sum[r][v] = *(const TYPE(vec) *)(start + r * start_row + (v / 4) * start_next + (v % 4) * V);
    }
    for (ptrdiff_t k = 0; k < depth; k++) {
        CLSTM_UNROLL
        for (int r = 0; r < rows; r++) {
            TYPE(vec) x = TYPE(broadcast)(a[r * a_row]);
            CLSTM_UNROLL
            for (int v = 0; v < width; v++)
                sum[r][v] =
                    TYPE(madd)(x, *(const TYPE(vec) *)((v < 4 ? panel : panel_2) + (v % 4) * V), sum[r][v]);
        }
        a += a_step;
        panel += first * V;
        panel_2 += second * V;
    }
    CLSTM_UNROLL
    for (int r = 0; r < rows; r++) {
        CLSTM_UNROLL
        for (int v = 0; v < width; v++)
            *(TYPE(vec) *)(sums + r * sums_row + (v / 4) * sums_next + (v % 4) * V) = sum[r][v];
    }
}

/* As tile_of, for any rows <= clstm_tile_rows(width) and width <= 4, or rows = 1 and width <= 8. */
static void TYPE(tile)(ptrdiff_t rows, ptrdiff_t width, const REAL *a, ptrdiff_t a_row, ptrdiff_t a_step,
                       const REAL *panel, ptrdiff_t next, ptrdiff_t depth, const REAL *start,
                       ptrdiff_t start_row, ptrdiff_t start_next, REAL *sums, ptrdiff_t sums_row,
                       ptrdiff_t sums_next)
{
#define CASE(R, W) \
    case (R) * 16 + (W): \
        if ((R) * (W) <= CLSTM_SUMS) \
            TYPE(tile_of)(R, W, a, a_row, a_step, panel, next, depth, start, start_row, start_next, sums, \
                          sums_row, sums_next); \
        return;
#define ROWS(W) CASE(1, W) CASE(2, W) CASE(3, W) CASE(4, W) CASE(5, W) CASE(6, W)
    switch (rows * 16 + width) {
        ROWS(4) ROWS(3) ROWS(2) ROWS(1) CASE(1, 5) CASE(1, 6) CASE(1, 7) CASE(1, 8)
    }
#undef ROWS
#undef CASE
}

/* z[j] += sum over k of a[k] * rows[k, j], in order of k, for rows (depth, n) as they lie in memory, `pitch`
 * apart, four at a time. */
static void TYPE(accumulate)(const REAL *restrict a, const REAL *restrict rows, ptrdiff_t pitch,
                             ptrdiff_t depth, ptrdiff_t n, REAL *restrict z)
{
    ptrdiff_t k = 0;
    for (; k + 4 <= depth; k += 4, rows += 4 * pitch) {
        const REAL a0 = a[k], a1 = a[k + 1], a2 = a[k + 2], a3 = a[k + 3];
        for (ptrdiff_t j = 0; j < n; j++) {
            REAL sum = TYPE(madd_scalar)(a0, rows[j], z[j]);
            sum = TYPE(madd_scalar)(a1, rows[pitch + j], sum);
            sum = TYPE(madd_scalar)(a2, rows[2 * pitch + j], sum);
            z[j] = TYPE(madd_scalar)(a3, rows[3 * pitch + j], sum);
        }
    }
    for (; k < depth; k++, rows += pitch)
        for (ptrdiff_t j = 0; j < n; j++)
            z[j] = TYPE(madd_scalar)(a[k], rows[j], z[j]);
}

#if CLSTM_VECTOR_BYTES
/* The lower (0) or the upper (1) half of a and b, one number of each in turn. */
CLSTM_INLINE TYPE(vec) TYPE(in_turn)(TYPE(vec) a, TYPE(vec) b, int half)
{
#if CLSTM_SHUFFLES && CLSTM_VECTOR_BYTES == 2 * BYTES
#define IN_TURN CLSTM_IN_TURN_2
#elif CLSTM_SHUFFLES && CLSTM_VECTOR_BYTES == 4 * BYTES
#define IN_TURN CLSTM_IN_TURN_4
#elif CLSTM_SHUFFLES && CLSTM_VECTOR_BYTES == 8 * BYTES
#define IN_TURN CLSTM_IN_TURN_8
#elif CLSTM_SHUFFLES && CLSTM_VECTOR_BYTES == 16 * BYTES
#define IN_TURN CLSTM_IN_TURN_16
#endif
    enum { V = TYPE(LANES) };
#ifdef IN_TURN
    return half ? __builtin_shufflevector(a, b, IN_TURN(V / 2)) : __builtin_shufflevector(a, b, IN_TURN(0));
#undef IN_TURN
#else
    TYPE(vec) mixed;
    for (int j = 0; j < V / 2; j++) {
        mixed[2 * j] = a[half * V / 2 + j];
        mixed[2 * j + 1] = b[half * V / 2 + j];
    }
    return mixed;
#endif
}
#endif

/* Load a block of n rows of `count` numbers, `pitch` apart, as its columns; at most LANES of each.  Lanes of
 * rows that there are not are 0. */
CLSTM_INLINE void TYPE(load_columns)(const REAL *from, ptrdiff_t pitch, ptrdiff_t n, ptrdiff_t count,
                                     TYPE(vec) * block)
{
    enum { V = TYPE(LANES) };
    CLSTM_UNROLL_ALL
    for (int r = 0; r < V; r++) {
        block[r] = TYPE(broadcast)(0);
        if (r < n)
            memcpy(&block[r], from + r * pitch, count == V ? sizeof(block[r]) : count * sizeof(REAL));
    }
#if CLSTM_VECTOR_BYTES
    /* Each pass interleaves the two halves of the rows; as many as V has bits transpose. */
    for (int width = 1; width < V; width *= 2) {
        TYPE(vec) mixed[V];
        CLSTM_UNROLL_ALL
        for (int r = 0; r < V / 2; r++) {
            mixed[2 * r] = TYPE(in_turn)(block[r], block[r + V / 2], 0);
            mixed[2 * r + 1] = TYPE(in_turn)(block[r], block[r + V / 2], 1);
        }
        memcpy(block, mixed, sizeof(mixed));
    }
#endif
}

/* As load_columns, for the last `some` of `count` numbers of n rows, which begin at `from`; returns which
 * column of the block is the first of them.  Where there is a whole block, it ends with them: parts of
 * vectors are slow to load. */
CLSTM_INLINE ptrdiff_t TYPE(load_last_columns)(const REAL *from, ptrdiff_t pitch, ptrdiff_t n,
                                               ptrdiff_t count, ptrdiff_t some, TYPE(vec) * block)
{
    enum { V = TYPE(LANES) };
    if (n == V && count >= V) {
        TYPE(load_columns)(from + count - V, pitch, V, V, block);
        return V - some;
    }
    TYPE(load_columns)(from + count - some, pitch, n, some, block);
    return 0;
}

/* to[k * step + j] = columns[j * pitch + k] for j < n and k < count; lanes n .. LANES become 0 if `whole`,
 * else they are left alone.  n is at most LANES. */
static void TYPE(transpose)(const REAL *columns, ptrdiff_t pitch, ptrdiff_t n, ptrdiff_t count, REAL *to,
                            ptrdiff_t step, int whole)
{
    enum { V = TYPE(LANES) };
    TYPE(vec) block[V];
    for (ptrdiff_t k = 0; k < count; k += V) {
        ptrdiff_t some = count - k < V ? count - k : V, first = 0;
        if (n == V && some == V)
            TYPE(load_columns)(columns + k, pitch, V, V, block);
        else
            first = TYPE(load_last_columns)(columns, pitch, n, k + some, some, block);
        for (ptrdiff_t j = 0; j < some; j++)
            memcpy(to + (k + j) * step, &block[first + j],
                   whole || n == V ? sizeof(block[j]) : n * sizeof(REAL));
    }
}

/* As `accumulate`, for weights that lie column after column, (n, depth), and for some rows of a and z: a
 * block of weights at a time.  `rows` is a constant once inlined. */
CLSTM_INLINE void TYPE(accumulate_columns_of)(const int rows, const REAL *restrict a, ptrdiff_t a_row,
                                              const REAL *restrict columns, ptrdiff_t pitch, ptrdiff_t depth,
                                              ptrdiff_t n, REAL *restrict z, ptrdiff_t z_row)
{
    enum { V = TYPE(LANES) };
    TYPE(vec) block[V], sum[CLSTM_COLUMNS_ROWS];
    for (ptrdiff_t j = 0; j < n; j += V, columns += V * pitch) {
        ptrdiff_t lanes = n - j < V ? n - j : V;
        ptrdiff_t k = 0;
        CLSTM_UNROLL
        for (int r = 0; r < rows; r++) {
            sum[r] = TYPE(broadcast)(0);
            memcpy(&sum[r], z + r * z_row + j, lanes * sizeof(REAL));
        }
        if (lanes == V)
            for (; k + V <= depth; k += V) {
                TYPE(load_columns)(columns + k, pitch, V, V, block);
                CLSTM_UNROLL_ALL
                for (int i = 0; i < V; i++) {
                    CLSTM_UNROLL
                    for (int r = 0; r < rows; r++)
                        sum[r] = TYPE(madd)(TYPE(broadcast)(a[r * a_row + k + i]), block[i], sum[r]);
                }
            }
        for (; k < depth; k += V) {
            ptrdiff_t some = depth - k < V ? depth - k : V;
            ptrdiff_t first = TYPE(load_last_columns)(columns, pitch, lanes, k + some, some, block);
            for (ptrdiff_t i = 0; i < some; i++) {
                CLSTM_UNROLL
                for (int r = 0; r < rows; r++)
                    sum[r] = TYPE(madd)(TYPE(broadcast)(a[r * a_row + k + i]), block[first + i], sum[r]);
            }
        }
        CLSTM_UNROLL
        for (int r = 0; r < rows; r++)
            memcpy(z + r * z_row + j, &sum[r], lanes * sizeof(REAL));
    }
}

/* As accumulate_columns_of, for any rows from 1 to CLSTM_COLUMNS_ROWS. */
static void TYPE(accumulate_columns)(ptrdiff_t rows, const REAL *a, ptrdiff_t a_row, const REAL *columns,
                                     ptrdiff_t pitch, ptrdiff_t depth, ptrdiff_t n, REAL *z, ptrdiff_t z_row)
{
#define CASE(R) \
    case R: \
        TYPE(accumulate_columns_of)(R, a, a_row, columns, pitch, depth, n, z, z_row); \
        return;
    switch (rows) {
        CASE(1) CASE(2) CASE(3) CASE(4)
    }
#undef CASE
}

#endif
