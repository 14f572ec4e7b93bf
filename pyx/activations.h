/* The activations of a cell with options, and the clips: for vectors of float (f32) and double (f64).
 *
 * The formulas are those of ACTIVATIONS in src/clstm/reference.py, and the numbers of the functions follow
 * their order there.  sigmoid and tanh stand in simd.h.  What needs exp or log goes to the C library, lane by
 * lane.  NaN stays NaN.  The second half of this file is its body, included once for each type.
 */
#ifndef CLSTM_ACTIVATIONS_H
#define CLSTM_ACTIVATIONS_H

#ifndef CLSTM_SIMD_H
#error "simd.h comes first"
#endif

enum {
    CLSTM_SIGMOID,
    CLSTM_TANH,
    CLSTM_RELU,
    CLSTM_HARD_SIGMOID,
    CLSTM_SOFTSIGN,
    CLSTM_SOFTPLUS,
    CLSTM_ELU,
    CLSTM_LEAKY_RELU,
    CLSTM_THRESHOLDED_RELU,
    CLSTM_SCALED_TANH,
    CLSTM_AFFINE,
    CLSTM_IDENTITY
};

#undef REAL
#undef TYPE
#define REAL float
#define TYPE(name) clstm_##name##_f32
#define LIBM(name) name##f
#include "activations.h"
#undef REAL
#undef TYPE
#undef LIBM

#define REAL double
#define TYPE(name) clstm_##name##_f64
#define LIBM(name) name
#include "activations.h"

/* ------------------------------------------------------------------------- the body, for one type REAL */
#else

/* a where x > limit, else b; NaN is not above anything. */
CLSTM_INLINE TYPE(vec) TYPE(where_above)(TYPE(vec) x, TYPE(vec) limit, TYPE(vec) a, TYPE(vec) b)
{
#if CLSTM_VECTOR_BYTES
    TYPE(bits) above = x > limit;
    return (TYPE(vec))(((TYPE(bits))a & above) | ((TYPE(bits))b & ~above));
#else
    return x > limit ? a : b;
#endif
}

/* d, but 0 where |x| > limit. */
CLSTM_INLINE TYPE(vec) TYPE(let_through)(TYPE(vec) x, REAL limit, TYPE(vec) d)
{
    TYPE(vec) zero = TYPE(broadcast)((REAL)0);
    return TYPE(where_above)(TYPE(abs)(x), TYPE(broadcast)(limit), zero, d);
}

/* The lanes of x, added in order. */
CLSTM_INLINE REAL TYPE(sum)(TYPE(vec) x)
{
    REAL lanes[TYPE(LANES)], sum = 0;
    memcpy(lanes, &x, sizeof(x));
    for (int lane = 0; lane < TYPE(LANES); lane++)
        sum += lanes[lane];
    return sum;
}

CLSTM_INLINE REAL TYPE(root)(REAL x)
{
    return LIBM(sqrt)(x);
}

static REAL TYPE(softplus)(REAL x)
{
    return (x > 0 ? x : 0) + LIBM(log1p)(LIBM(exp)(-LIBM(fabs)(x)));
}

/* x := function(x) */
static void TYPE(activate)(int function, REAL alpha, REAL beta, TYPE(vec) * x)
{
    TYPE(vec) zero = TYPE(broadcast)((REAL)0), one = TYPE(broadcast)((REAL)1);
    TYPE(vec) a = TYPE(broadcast)(alpha), b = TYPE(broadcast)(beta), line;
    REAL lanes[TYPE(LANES)];
    switch (function) {
    case CLSTM_SIGMOID:
        *x = TYPE(sigmoid)(*x);
        return;
    case CLSTM_TANH:
        *x = TYPE(tanh)(*x);
        return;
    case CLSTM_RELU:
        *x = TYPE(where_above)(zero, *x, zero, *x);
        return;
    case CLSTM_HARD_SIGMOID:
        line = TYPE(madd)(a, *x, b);
        *x = TYPE(where_above)(zero, line, zero, TYPE(where_above)(line, one, one, line));
        return;
    case CLSTM_SOFTSIGN:
        *x = *x / (one + TYPE(abs)(*x));
        return;
    case CLSTM_SOFTPLUS:
    case CLSTM_ELU:
        memcpy(lanes, x, sizeof(*x));
        for (int lane = 0; lane < TYPE(LANES); lane++)
            if (function == CLSTM_SOFTPLUS)
                lanes[lane] = TYPE(softplus)(lanes[lane]);
            else if (!(lanes[lane] > 0))
                lanes[lane] = alpha * LIBM(expm1)(lanes[lane]);
        memcpy(x, lanes, sizeof(*x));
        return;
    case CLSTM_LEAKY_RELU:
        *x = TYPE(where_above)(zero, *x, a * *x, *x);
        return;
    case CLSTM_THRESHOLDED_RELU:
        line = TYPE(where_above)(a, *x, zero, *x - a); /* 0, or NaN */
        *x = TYPE(where_above)(*x, a, *x, line);
        return;
    case CLSTM_SCALED_TANH:
        *x = a * TYPE(tanh)(b * *x);
        return;
    case CLSTM_AFFINE:
        *x = TYPE(madd)(a, *x, b);
        return;
    }
}

/* d := d * function'(x), where y = function(x); 0 * y is 0, or NaN where x is. */
static void TYPE(slope)(int function, REAL alpha, REAL beta, const TYPE(vec) * x, const TYPE(vec) * y,
                        TYPE(vec) * d)
{
    TYPE(vec) zero = TYPE(broadcast)((REAL)0), one = TYPE(broadcast)((REAL)1);
    TYPE(vec) a = TYPE(broadcast)(alpha), b = TYPE(broadcast)(beta), line;
    switch (function) {
    case CLSTM_SIGMOID:
        *d *= *y * (one - *y);
        return;
    case CLSTM_TANH:
        *d *= TYPE(madd)(-*y, *y, one);
        return;
    case CLSTM_RELU:
        *d *= TYPE(where_above)(*x, zero, one, zero * *y);
        return;
    case CLSTM_HARD_SIGMOID:
        line = TYPE(madd)(a, *x, b);
        *d *= TYPE(where_above)(line, zero, TYPE(where_above)(one, line, a, zero * *y), zero * *y);
        return;
    case CLSTM_SOFTSIGN:
        line = one / (one + TYPE(abs)(*x)); /* the square of the rest may overflow */
        *d *= line * line;
        return;
    case CLSTM_SOFTPLUS:
        *d *= TYPE(sigmoid)(*x);
        return;
    case CLSTM_ELU: /* alpha exp(x) = y + alpha */
        *d *= TYPE(where_above)(*x, zero, one, *y + a);
        return;
    case CLSTM_LEAKY_RELU:
        *d *= TYPE(where_above)(*x, zero, one, a);
        return;
    case CLSTM_THRESHOLDED_RELU:
        *d *= TYPE(where_above)(*x, a, one, zero * *y);
        return;
    case CLSTM_SCALED_TANH:
        line = TYPE(tanh)(b * *x);
        *d *= a * b * TYPE(madd)(-line, line, one);
        return;
    case CLSTM_AFFINE:
        *d *= a;
        return;
    }
}

#endif
