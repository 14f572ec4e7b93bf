/* Products with weights that take fewer bytes than a float: two bfloat16 or four bytes in a word of 32 bits.
 *
 * A matrix (depth, 4H) lies in panels of 16 units with their four gates, whatever the vectors of a build are:
 * words (panels, ceil(depth / 2 or 4), 4, 16).  A word holds consecutive rows of one column, the first in its
 * lowest bits; where rows run out it holds weights of 0.
 *
 * bfloat16 is the upper half of a float.  Sums are those of `tile` in simd.h, the same `madd` in the same
 * order: they have the bits of a product with the same weights as floats.
 *
 * A byte is a weight w of -127 .. 127 as w + 128, and what it is multiplied by an integer of 16 bits: sums of
 * the products are exact in 32 bits, modulo 2^32 on the way, and so the same by whatever instructions.  What
 * they exceed the sums over w by, 128 times the sum of the integers, is one number for each row.
 */
#ifndef CLSTM_NARROW_H
#define CLSTM_NARROW_H

#include <stdint.h>

#ifndef CLSTM_SIMD_H
#error "simd.h comes first"
#endif

enum {
    CLSTM_PANEL_UNITS = 16,
    CLSTM_PANEL_WORDS = 4 * CLSTM_PANEL_UNITS,
    /* Vectors in a row of a panel, and how many of them are of one gate. */
    CLSTM_PANEL_VECTORS = CLSTM_PANEL_WORDS / clstm_LANES_f32,
    CLSTM_GATE_VECTORS = CLSTM_PANEL_UNITS / clstm_LANES_f32,
    CLSTM_MOST_VECTORS = 12, /* of a tile of one row */
    /* Numbers that become integers at once; a row of integers is filled up to a multiple of it. */
    CLSTM_BLOCK = 64,
    /* Rows of a panel that become floats or pairs at once, and rows of sums: they stay in the L1 cache. */
    CLSTM_SPAN = 128,
    CLSTM_ROWS_AT_ONCE = 24
};

/* sums[r, j] = start[r, j] + sum over k of a[r, k] * W[k, j], for the vectors of units first .. last.
 * start and sums are z, in panels of a vector of units with its gates; rows and panels are so much apart. */
typedef struct {
    const uint32_t *words;
    ptrdiff_t depth;
    const float *scale; /* of bytes: what 1 in a sum is worth, in panels as z, contiguous */
    const void *a;      /* floats, or rows of clstm_quantise; a_row bytes apart */
    ptrdiff_t a_row, rows;
    ptrdiff_t row,
        row_stride;        /* with a stride only the tiles that begin at rows row, row + row_stride, ... */
    ptrdiff_t first, last; /* first begins a panel */
    int descending;        /* take the panels from the last to the first */
    const float *start;
    ptrdiff_t start_row, start_panel;
    float *sums;
    ptrdiff_t sums_row, sums_panel;
} clstm_narrow_product;

/* The head of a row of clstm_quantise. */
typedef struct {
    float worth;     /* 1, or NaN if one of the numbers is */
    uint32_t excess; /* 128 times the sum of the integers */
} clstm_narrow_row;

#if CLSTM_VECTOR_BYTES
#define CLSTM_ALIGNED __attribute__((aligned(CLSTM_VECTOR_BYTES)))
typedef uint32_t clstm_words __attribute__((vector_size(CLSTM_VECTOR_BYTES), may_alias));
typedef uint16_t clstm_halves __attribute__((vector_size(CLSTM_VECTOR_BYTES), may_alias));
#else
#define CLSTM_ALIGNED
typedef uint32_t clstm_words;
#endif

CLSTM_INLINE clstm_words clstm_broadcast_word(uint32_t x)
{
#if CLSTM_VECTOR_BYTES
    return x - (clstm_words){0};
#else
    return x;
#endif
}

CLSTM_INLINE clstm_words clstm_broadcast_word_at(const void *from)
{
    uint32_t x;
    memcpy(&x, from, sizeof(x));
    return clstm_broadcast_word(x);
}

CLSTM_INLINE clstm_vec_f32 clstm_bits_to_floats(clstm_words x)
{
    clstm_vec_f32 y;
    memcpy(&y, &x, sizeof(y));
    return y;
}

CLSTM_INLINE clstm_words clstm_bits_of_floats(clstm_vec_f32 x)
{
    clstm_words y;
    memcpy(&y, &x, sizeof(y));
    return y;
}

CLSTM_INLINE clstm_vec_f32 clstm_integers_to_floats(clstm_words x)
{
#if CLSTM_VECTOR_BYTES
    return __builtin_convertvector((clstm_bits_f32)x, clstm_vec_f32);
#else
    return (float)(int32_t)x;
#endif
}

/* For threads that count together. */
CLSTM_INLINE void clstm_add_atomically(ptrdiff_t *to, ptrdiff_t n)
{
#if defined(__GNUC__)
    __atomic_fetch_add(to, n, __ATOMIC_RELAXED);
#else
    *to += n;
#endif
}

/* -------------------------------------------------------------------------------- numbers as integers */

/* Bytes of a row of n integers. */
CLSTM_INLINE ptrdiff_t clstm_narrow_row_bytes(ptrdiff_t n)
{
    return (ptrdiff_t)sizeof(clstm_narrow_row) + (n + CLSTM_BLOCK - 1) / CLSTM_BLOCK * CLSTM_BLOCK * 2;
}

/* Turns n numbers into integers: a * factor, held within -levels .. levels, to the nearest, ties to even.
 * Returns how many lie beyond -limit .. limit.  The row has its head and then integers of 16 bits, of each
 * four the second and the third exchanged; or (`split`) all lower bytes and then all upper ones, both
 * signed. */
static ptrdiff_t clstm_quantise(const float *a, ptrdiff_t n, float factor, float levels, float limit,
                                int split, void *row)
{
    const clstm_vec_f32 zero = clstm_broadcast_f32(0.0f);
    /* A float of this size has no room for a fraction: adding it rounds. */
    const clstm_vec_f32 rounder = clstm_broadcast_f32(12582912.0f);
    clstm_narrow_row *head = (clstm_narrow_row *)row;
    int16_t *pairs = (int16_t *)(head + 1);
    int8_t *lower = (int8_t *)(head + 1);
    int8_t *upper = lower + (n + CLSTM_BLOCK - 1) / CLSTM_BLOCK * CLSTM_BLOCK;
    float spoilt[clstm_LANES_f32];
    clstm_vec_f32 nothing = zero;
    uint32_t sum = 0, beyond = 0;
    for (ptrdiff_t k = 0; k < n; k += CLSTM_BLOCK) {
        float block[CLSTM_BLOCK];
        int32_t integers[CLSTM_BLOCK];
        const float *from = a + k;
        if (n - k < CLSTM_BLOCK) {
            memset(block, 0, sizeof(block));
            memcpy(block, from, (n - k) * sizeof(float));
            from = block;
        }
        for (int j = 0; j < CLSTM_BLOCK; j++)
            beyond += fabsf(from[j]) > limit;
        CLSTM_UNROLL_ALL
        for (int j = 0; j < CLSTM_BLOCK; j += clstm_LANES_f32) {
            clstm_vec_f32 x = clstm_load_f32(from + j) * clstm_broadcast_f32(factor);
            clstm_words rounded;
            x = clstm_clamp_f32(x, levels);
            nothing += x * zero; /* but NaN: what is held is not infinite */
            rounded = clstm_bits_of_floats(x + rounder) - clstm_bits_of_floats(rounder);
            memcpy(integers + j, &rounded, sizeof(rounded));
        }
        for (int j = 0; j < CLSTM_BLOCK; j++)
            sum += (uint32_t)integers[j];
        if (split)
            for (int j = 0; j < CLSTM_BLOCK; j++) {
                const int8_t low = (int8_t)integers[j];
                lower[k + j] = low;
                upper[k + j] = (int8_t)((integers[j] - low) >> 8);
            }
        else
            for (int j = 0; j < CLSTM_BLOCK; j += 4) {
                pairs[k + j] = (int16_t)integers[j];
                pairs[k + j + 1] = (int16_t)integers[j + 2];
                pairs[k + j + 2] = (int16_t)integers[j + 1];
                pairs[k + j + 3] = (int16_t)integers[j + 3];
            }
    }
    memcpy(spoilt, &nothing, sizeof(spoilt));
    head->worth = 1.0f;
    for (int j = 0; j < clstm_LANES_f32; j++)
        head->worth += spoilt[j];
    head->excess = 128 * sum;
    return beyond;
}

/* --------------------------------------------------------------------------------- bands of panels, tiles */

/* A band is some vectors of panels side by side; n counts the vectors of all panels.  Vector n belongs to
 * this panel of z, and to this gate in it. */
CLSTM_INLINE ptrdiff_t clstm_z_panel(ptrdiff_t n)
{
    return n / CLSTM_PANEL_VECTORS * CLSTM_GATE_VECTORS + n % CLSTM_GATE_VECTORS;
}

CLSTM_INLINE ptrdiff_t clstm_z_gate(ptrdiff_t n)
{
    return n % CLSTM_PANEL_VECTORS / CLSTM_GATE_VECTORS;
}

/* The vector of the first gate of a panel of z; those of the others are CLSTM_GATE_VECTORS apart. */
CLSTM_INLINE ptrdiff_t clstm_vector_of(ptrdiff_t panel)
{
    return panel / CLSTM_GATE_VECTORS * CLSTM_PANEL_VECTORS + panel % CLSTM_GATE_VECTORS;
}

CLSTM_INLINE const uint32_t *clstm_band(const clstm_narrow_product *p, ptrdiff_t n, ptrdiff_t words)
{
    return p->words + n / CLSTM_PANEL_VECTORS * words * CLSTM_PANEL_WORDS +
           n % CLSTM_PANEL_VECTORS * clstm_LANES_f32;
}

/* Vector v of a row of a band whose panels are `next` apart. */
CLSTM_INLINE clstm_words clstm_words_at(const uint32_t *band, ptrdiff_t next, int v)
{
    clstm_words x;
    memcpy(&x, band + v / CLSTM_PANEL_VECTORS * next + v % CLSTM_PANEL_VECTORS * clstm_LANES_f32, sizeof(x));
    return x;
}

/* z of a row and a vector; padding of the last panel has no place there. */
CLSTM_INLINE clstm_vec_f32 clstm_start_at(const clstm_narrow_product *p, ptrdiff_t r, ptrdiff_t n)
{
    const ptrdiff_t panel = clstm_z_panel(n);
    return panel < p->last ? *(const clstm_vec_f32 *)(p->start + r * p->start_row + panel * p->start_panel +
                                                      clstm_z_gate(n) * clstm_LANES_f32)
                           : clstm_broadcast_f32(0.0f);
}

CLSTM_INLINE void clstm_put_sum(const clstm_narrow_product *p, ptrdiff_t r, ptrdiff_t n, clstm_vec_f32 sum)
{
    const ptrdiff_t panel = clstm_z_panel(n);
    if (panel < p->last)
        *(clstm_vec_f32 *)(p->sums + r * p->sums_row + panel * p->sums_panel +
                           clstm_z_gate(n) * clstm_LANES_f32) = sum;
}

/* Weights of the even or the odd rows of words. */
CLSTM_INLINE clstm_vec_f32 clstm_bfloat16_of(clstm_words x, int odd)
{
    if (odd)
        return clstm_bits_to_floats(x & clstm_broadcast_word(0xffff0000u));
    return clstm_bits_to_floats(x << 16);
}

/* One row alone. */
CLSTM_INLINE void clstm_tile_bfloat16(const int width, const clstm_narrow_product *p, ptrdiff_t n)
{
    const ptrdiff_t words = (p->depth + 1) / 2, next = words * CLSTM_PANEL_WORDS;
    const uint32_t *band = clstm_band(p, n, words);
    const float *a = (const float *)p->a;
    clstm_vec_f32 sum[CLSTM_MOST_VECTORS];
    CLSTM_UNROLL_ALL
    for (int v = 0; v < width; v++)
        sum[v] = clstm_start_at(p, 0, n + v);
    for (ptrdiff_t k = 0; k + 2 <= p->depth; k += 2, band += CLSTM_PANEL_WORDS) {
        const clstm_vec_f32 even = clstm_broadcast_f32(a[k]), odd = clstm_broadcast_f32(a[k + 1]);
        CLSTM_UNROLL_ALL
        for (int v = 0; v < width; v++) {
            const clstm_words x = clstm_words_at(band, next, v);
            sum[v] = clstm_madd_f32(even, clstm_bfloat16_of(x, 0), sum[v]);
            sum[v] = clstm_madd_f32(odd, clstm_bfloat16_of(x, 1), sum[v]);
        }
    }
    if (p->depth % 2) {
        const clstm_vec_f32 even = clstm_broadcast_f32(a[p->depth - 1]);
        CLSTM_UNROLL_ALL
        for (int v = 0; v < width; v++)
            sum[v] = clstm_madd_f32(even, clstm_bfloat16_of(clstm_words_at(band, next, v), 0), sum[v]);
    }
    CLSTM_UNROLL_ALL
    for (int v = 0; v < width; v++)
        clstm_put_sum(p, 0, n + v, sum[v]);
}

/* Several rows: a part of a panel of z becomes floats, for the tiles of all rows. */
static void clstm_panel_bfloat16(const clstm_narrow_product *p, ptrdiff_t panel)
{
    enum { V = clstm_LANES_f32 };
    CLSTM_ALIGNED float floats[CLSTM_SPAN * 4 * V];
    const ptrdiff_t words = (p->depth + 1) / 2, tile = clstm_tile_rows(4);
    const uint32_t *band = clstm_band(p, clstm_vector_of(panel), words);
    const float *start = p->start + panel * p->start_panel;
    float *sums = p->sums + panel * p->sums_panel;
    ptrdiff_t start_row = p->start_row;
    for (ptrdiff_t k = 0; k < p->depth; k += CLSTM_SPAN) {
        const ptrdiff_t span = p->depth - k < CLSTM_SPAN ? p->depth - k : CLSTM_SPAN;
        for (ptrdiff_t j = 0; j < span; j += 2, band += CLSTM_PANEL_WORDS)
            CLSTM_UNROLL
        for (int gate = 0; gate < 4; gate++) {
            const clstm_words x = clstm_words_at(band, 0, gate * CLSTM_GATE_VECTORS);
            *(clstm_vec_f32 *)(floats + (4 * j + gate) * V) = clstm_bfloat16_of(x, 0);
            *(clstm_vec_f32 *)(floats + (4 * j + 4 + gate) * V) = clstm_bfloat16_of(x, 1);
        }
        for (ptrdiff_t r = p->row; r < p->rows; r += p->row_stride ? p->row_stride : tile)
            clstm_tile_f32(p->rows - r < tile ? p->rows - r : tile, 4,
                           (const float *)((const char *)p->a + r * p->a_row) + k, p->a_row / 4, 1, floats, 0,
                           span, start + r * start_row, start_row, 0, sums + r * p->sums_row, p->sums_row, 0);
        start = sums;
        start_row = p->sums_row;
    }
}

/* sum + the products of two bytes, in the lower half of each half of a word, and two integers of 16 bits. */
CLSTM_INLINE clstm_words clstm_add_pairs(clstm_words bytes, const void *pair, clstm_words sum)
{
#if CLSTM_VECTOR_BYTES != CLSTM_REGISTER_BYTES
#define CLSTM_NO_PAIRS 1
#elif defined(__AVX512BW__)
    return sum + (clstm_words)_mm512_madd_epi16((__m512i)bytes, (__m512i)clstm_broadcast_word_at(pair));
#elif defined(__AVX2__)
    return sum + (clstm_words)_mm256_madd_epi16((__m256i)bytes, (__m256i)clstm_broadcast_word_at(pair));
#elif defined(__SSE2__)
    return sum + (clstm_words)_mm_madd_epi16((__m128i)bytes, (__m128i)clstm_broadcast_word_at(pair));
#else
#define CLSTM_NO_PAIRS 1
#endif
#if CLSTM_NO_PAIRS
    int16_t two[2];
    memcpy(two, pair, sizeof(two));
    return sum + (bytes & clstm_broadcast_word(0xff)) * clstm_broadcast_word((uint32_t)two[0]) +
           (bytes >> 16) * clstm_broadcast_word((uint32_t)two[1]);
#endif
}

/* The first and third, or the second and fourth bytes of words, each in 16 bits. */
CLSTM_INLINE clstm_words clstm_bytes_of(clstm_words x, int odd)
{
#if CLSTM_VECTOR_BYTES
    if (odd)
        return (clstm_words)((clstm_halves)x >> 8);
#else
    if (odd)
        x >>= 8;
#endif
    return x & clstm_broadcast_word(0x00ff00ffu);
}

/* z of a row and a vector from an exact sum. */
CLSTM_INLINE void clstm_put_bytes(const clstm_narrow_product *p, ptrdiff_t r, ptrdiff_t n, clstm_words sum)
{
    const clstm_narrow_row *row = (const clstm_narrow_row *)((const char *)p->a + r * p->a_row);
    const ptrdiff_t panel = clstm_z_panel(n);
    if (panel < p->last)
        clstm_put_sum(
            p, r, n,
            clstm_madd_f32(clstm_load_f32(p->scale + (4 * panel + clstm_z_gate(n)) * clstm_LANES_f32) *
                               clstm_broadcast_f32(row->worth),
                           clstm_integers_to_floats(sum - clstm_broadcast_word(row->excess)),
                           clstm_start_at(p, r, n)));
}

/* One row alone. */
CLSTM_INLINE void clstm_tile_bytes(const int width, const clstm_narrow_product *p, ptrdiff_t n)
{
    const ptrdiff_t words = (p->depth + 3) / 4, next = words * CLSTM_PANEL_WORDS;
    const uint32_t *band = clstm_band(p, n, words);
    const char *a = (const char *)p->a + sizeof(clstm_narrow_row);
    clstm_words sum[CLSTM_MOST_VECTORS];
    CLSTM_UNROLL_ALL
    for (int v = 0; v < width; v++)
        sum[v] = clstm_broadcast_word(0);
    for (ptrdiff_t k = 0; k < words; k++, band += CLSTM_PANEL_WORDS, a += 8) {
        CLSTM_UNROLL_ALL
        for (int v = 0; v < width; v++) {
            const clstm_words x = clstm_words_at(band, next, v);
            sum[v] = clstm_add_pairs(clstm_bytes_of(x, 0), a, sum[v]);
            sum[v] = clstm_add_pairs(clstm_bytes_of(x, 1), a + 4, sum[v]);
        }
    }
    CLSTM_UNROLL_ALL
    for (int v = 0; v < width; v++)
        clstm_put_bytes(p, 0, n + v, sum[v]);
}

/* Several rows of a part of a panel of z, whose bytes have become pairs of 16 bits. */
CLSTM_INLINE void clstm_tile_pairs(const int rows, const char *a, ptrdiff_t a_row, const uint32_t *pairs,
                                   ptrdiff_t count, clstm_words *sums)
{
    clstm_words sum[CLSTM_TILE_ROWS][4];
    CLSTM_UNROLL
    for (int q = 0; q < rows; q++) {
        CLSTM_UNROLL
        for (int v = 0; v < 4; v++)
            sum[q][v] = sums[4 * q + v];
    }
    for (ptrdiff_t k = 0; k < count; k++, a += 4, pairs += 4 * clstm_LANES_f32) {
        CLSTM_UNROLL
        for (int q = 0; q < rows; q++) {
            CLSTM_UNROLL
            for (int v = 0; v < 4; v++)
                sum[q][v] = clstm_add_pairs(*(const clstm_words *)(pairs + v * clstm_LANES_f32),
                                            a + q * a_row, sum[q][v]);
        }
    }
    CLSTM_UNROLL
    for (int q = 0; q < rows; q++) {
        CLSTM_UNROLL
        for (int v = 0; v < 4; v++)
            sums[4 * q + v] = sum[q][v];
    }
}

static void clstm_panel_bytes(const clstm_narrow_product *p, ptrdiff_t panel)
{
    enum { V = clstm_LANES_f32 };
    CLSTM_ALIGNED uint32_t pairs[CLSTM_SPAN / 2 * 4 * V];
    clstm_words sums[CLSTM_ROWS_AT_ONCE * 4];
    const ptrdiff_t words = (p->depth + 3) / 4, span = CLSTM_SPAN / 4;
    const ptrdiff_t tile = clstm_tile_rows(4), step = p->row_stride ? p->row_stride : tile;
    const ptrdiff_t tiles = CLSTM_ROWS_AT_ONCE / tile, n = clstm_vector_of(panel);
    for (ptrdiff_t row = p->row; row < p->rows; row += tiles * step) {
        memset(sums, 0, sizeof(sums));
        for (ptrdiff_t k = 0; k < words; k += span) {
            const ptrdiff_t count = words - k < span ? words - k : span;
            const uint32_t *band = clstm_band(p, n, words) + k * CLSTM_PANEL_WORDS;
            if (row == p->row || words > span)
                for (ptrdiff_t j = 0; j < count; j++, band += CLSTM_PANEL_WORDS) {
                    CLSTM_UNROLL
                    for (int gate = 0; gate < 4; gate++) {
                        const clstm_words x = clstm_words_at(band, 0, gate * CLSTM_GATE_VECTORS);
                        *(clstm_words *)(pairs + (8 * j + gate) * V) = clstm_bytes_of(x, 0);
                        *(clstm_words *)(pairs + (8 * j + 4 + gate) * V) = clstm_bytes_of(x, 1);
                    }
                }
            for (ptrdiff_t t = 0, r = row; t < tiles && r < p->rows; t++, r += step) {
                const char *a = (const char *)p->a + r * p->a_row + sizeof(clstm_narrow_row) + 8 * k;
#define CASE(R) \
    case R: \
        if (4 * R <= CLSTM_SUMS) \
            clstm_tile_pairs(R, a, p->a_row, pairs, 2 * count, sums + 4 * tile * t); \
        break;
                switch (p->rows - r < tile ? p->rows - r : tile) {
                    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
                }
#undef CASE
            }
        }
        for (ptrdiff_t t = 0, r = row; t < tiles && r < p->rows; t++, r += step)
            for (ptrdiff_t q = 0; q < tile && r + q < p->rows; q++)
                for (int gate = 0; gate < 4; gate++)
                    clstm_put_bytes(p, r + q, n + gate * CLSTM_GATE_VECTORS, sums[4 * (tile * t + q) + gate]);
    }
}

/* The same with an instruction that multiplies four unsigned by four signed bytes and adds them up, once for
 * the lower and once for the upper bytes of the integers.  Whether the processor has it is found out when
 * the program runs. */
#if CLSTM_VECTOR_BYTES != CLSTM_REGISTER_BYTES
#define CLSTM_DOT 0
#elif defined(__AVX512BW__) && (defined(__clang__) || __GNUC__ >= 8)
#define CLSTM_DOT 512
#define CLSTM_DOT_TARGET __attribute__((target("avx512vnni")))
#define CLSTM_DOT_ADD(sum, bytes, by) \
    ((clstm_words)_mm512_dpbusd_epi32((__m512i)(sum), (__m512i)(bytes), (__m512i)(by)))
#elif defined(__AVX2__) && !defined(__AVX512F__) && \
    (defined(__clang__) ? __clang_major__ >= 12 : defined(__GNUC__) && __GNUC__ >= 11)
#define CLSTM_DOT 256
#define CLSTM_DOT_TARGET __attribute__((target("avxvnni")))
#define CLSTM_DOT_ADD(sum, bytes, by) \
    ((clstm_words)_mm256_dpbusd_avx_epi32((__m256i)(sum), (__m256i)(bytes), (__m256i)(by)))
#else
#define CLSTM_DOT 0
#endif

#if CLSTM_DOT
/* Some rows of vectors n, n + apart, ... */
CLSTM_INLINE CLSTM_DOT_TARGET void clstm_tile_dot(const int rows, const int width, const int apart,
                                                  const clstm_narrow_product *p, ptrdiff_t r, ptrdiff_t n)
{
    const ptrdiff_t words = (p->depth + 3) / 4, next = words * CLSTM_PANEL_WORDS;
    const ptrdiff_t half = (p->depth + CLSTM_BLOCK - 1) / CLSTM_BLOCK * CLSTM_BLOCK;
    const uint32_t *band = clstm_band(p, n, words);
    const char *a = (const char *)p->a + r * p->a_row + sizeof(clstm_narrow_row);
    clstm_words sum[CLSTM_TILE_ROWS][CLSTM_MOST_VECTORS], upper[CLSTM_TILE_ROWS][CLSTM_MOST_VECTORS];
    CLSTM_UNROLL
    for (int q = 0; q < rows; q++) {
        CLSTM_UNROLL_ALL
        for (int v = 0; v < width; v++)
            sum[q][v] = upper[q][v] = clstm_broadcast_word(0);
    }
    for (ptrdiff_t k = 0; k < words; k++, band += CLSTM_PANEL_WORDS, a += 4) {
        clstm_words W[CLSTM_MOST_VECTORS];
        CLSTM_UNROLL_ALL
        for (int v = 0; v < width; v++)
            W[v] = clstm_words_at(band, next, v * apart);
        CLSTM_UNROLL
        for (int q = 0; q < rows; q++) {
            const clstm_words low = clstm_broadcast_word_at(a + q * p->a_row),
                              high = clstm_broadcast_word_at(a + q * p->a_row + half);
            CLSTM_UNROLL_ALL
            for (int v = 0; v < width; v++) {
                sum[q][v] = CLSTM_DOT_ADD(sum[q][v], W[v], low);
                upper[q][v] = CLSTM_DOT_ADD(upper[q][v], W[v], high);
            }
        }
    }
    CLSTM_UNROLL
    for (int q = 0; q < rows; q++) {
        CLSTM_UNROLL_ALL
        for (int v = 0; v < width; v++)
            clstm_put_bytes(p, r + q, n + v * apart, sum[q][v] + (upper[q][v] << 8));
    }
}

static CLSTM_DOT_TARGET void clstm_panel_dot(const clstm_narrow_product *p, ptrdiff_t panel)
{
    enum { ROWS = CLSTM_SUMS / 8 }; /* each with two sums for a vector; they divide a tile */
    const ptrdiff_t tile = clstm_tile_rows(4), step = p->row_stride ? p->row_stride : tile;
    const ptrdiff_t n = clstm_vector_of(panel);
    for (ptrdiff_t row = p->row; row < p->rows; row += step)
        for (ptrdiff_t r = row; r < row + tile && r < p->rows; r += ROWS)
            switch (p->rows - r) {
            case 1:
                clstm_tile_dot(1, 4, CLSTM_GATE_VECTORS, p, r, n);
                break;
            case 2:
                clstm_tile_dot(ROWS < 2 ? ROWS : 2, 4, CLSTM_GATE_VECTORS, p, r, n);
                break;
            default:
                clstm_tile_dot(ROWS, 4, CLSTM_GATE_VECTORS, p, r, n);
            }
}
#endif

/* ----------------------------------------------------------------------------------------- whole products */

/* The vectors of a product, the first and the one after the last. */
CLSTM_INLINE ptrdiff_t clstm_first_vector(const clstm_narrow_product *p)
{
    return p->first / CLSTM_GATE_VECTORS * CLSTM_PANEL_VECTORS;
}

CLSTM_INLINE ptrdiff_t clstm_end_vector(const clstm_narrow_product *p)
{
    return (p->last + CLSTM_GATE_VECTORS - 1) / CLSTM_GATE_VECTORS * CLSTM_PANEL_VECTORS;
}

/* One row alone, in bands of 8 vectors, whose sums hide the latency of an addition; of 12 where panels are
 * odd in number, of 4 where there is but one. */
#define CLSTM_ONE_ROW(BAND) \
    const ptrdiff_t end = clstm_end_vector(p), begin = clstm_first_vector(p), bands = (end - begin) / 8; \
    if (bands == 0) \
        BAND(4, begin); \
    for (ptrdiff_t s = 0; s < bands; s++) { \
        const ptrdiff_t n = begin + 8 * (p->descending ? bands - 1 - s : s); \
        if (n + 12 == end) \
            BAND(12, n); \
        else \
            BAND(8, n); \
    }

/* Several rows, panel after panel of z. */
#define CLSTM_MORE_ROWS(PANEL) \
    for (ptrdiff_t s = p->first; s < p->last; s++) \
        PANEL(p, p->descending ? p->first + p->last - 1 - s : s);

static void clstm_multiply_bfloat16(const clstm_narrow_product *p)
{
#define BAND(width, n) clstm_tile_bfloat16(width, p, n)
    if (p->rows == 1) {
        CLSTM_ONE_ROW(BAND)
    } else {
        CLSTM_MORE_ROWS(clstm_panel_bfloat16)
    }
#undef BAND
}

static void clstm_multiply_bytes(const clstm_narrow_product *p)
{
#define BAND(width, n) clstm_tile_bytes(width, p, n)
    if (p->rows == 1) {
        CLSTM_ONE_ROW(BAND)
    } else {
        CLSTM_MORE_ROWS(clstm_panel_bytes)
    }
#undef BAND
}

#if CLSTM_DOT
static CLSTM_DOT_TARGET void clstm_multiply_dot(const clstm_narrow_product *p)
{
#define BAND(width, n) clstm_tile_dot(1, width, 1, p, 0, n)
    if (p->rows == 1) {
        CLSTM_ONE_ROW(BAND)
    } else {
        CLSTM_MORE_ROWS(clstm_panel_dot)
    }
#undef BAND
}
#else
static void clstm_multiply_dot(const clstm_narrow_product *p)
{
    (void)p;
}
#endif
#undef CLSTM_ONE_ROW
#undef CLSTM_MORE_ROWS

#endif
