/* Blocks of memory for workspaces and tapes: aligned for vectors and cache lines, and kept for the next call.
 *
 * Fresh memory from the system costs a page fault every 4 KB, a tenth of a training step and more; so a
 * freed block waits in a small cache, up to CLSTM_KEPT_BYTES in all.  A thread that finds the cache in use
 * goes to malloc.  A debug build fills each block with NaN, so that a read before the write shows, and
 * guards its end.
 */
#ifndef CLSTM_MEMORY_H
#define CLSTM_MEMORY_H

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#if defined(__GNUC__)
#define CLSTM_TRY_LOCK(flag) (!__atomic_test_and_set(flag, __ATOMIC_ACQUIRE))
#define CLSTM_UNLOCK(flag) __atomic_clear(flag, __ATOMIC_RELEASE)
#else
#define CLSTM_TRY_LOCK(flag) 0 /* no cache */
#define CLSTM_UNLOCK(flag) ((void)0)
#endif

enum { CLSTM_KEPT_BLOCKS = 48, CLSTM_KEPT_BYTES = 256 << 20, CLSTM_GUARD = 64 };

/* [ ... header | block of `capacity` bytes, of which `size` are in use | guard ] */
typedef struct {
    void *base; /* what malloc returned */
    size_t capacity, size;
} clstm_block;

static struct {
    char in_use;
    size_t bytes;
    int oldest;
    void *blocks[CLSTM_KEPT_BLOCKS];
    size_t capacities[CLSTM_KEPT_BLOCKS]; /* of these, side by side, for they are all looked at; 0 for none */
} clstm_kept;

static clstm_block *clstm_header(void *block)
{
    return (clstm_block *)((char *)block - 64);
}

/* The kept block that fits best, or NULL. */
static void *clstm_reuse(size_t capacity)
{
    int best = -1;
    void *block = NULL;
    if (!CLSTM_TRY_LOCK(&clstm_kept.in_use))
        return NULL;
    for (int n = 0; n < CLSTM_KEPT_BLOCKS; n++) {
        size_t kept = clstm_kept.capacities[n];
        if (kept >= capacity && kept / 2 <= capacity && (best < 0 || kept < clstm_kept.capacities[best])) {
            best = n;
            if (kept == capacity)
                break;
        }
    }
    if (best >= 0) {
        block = clstm_kept.blocks[best];
        clstm_kept.bytes -= clstm_kept.capacities[best];
        clstm_kept.capacities[best] = 0;
    }
    CLSTM_UNLOCK(&clstm_kept.in_use);
    return block;
}

static void *clstm_alloc(size_t size)
{
    size_t capacity = size ? (size + 63) / 64 * 64 : 64;
    void *block = clstm_reuse(capacity);
    if (!block) {
        void *base = malloc(capacity + 64 + 64 + CLSTM_GUARD);
        if (!base)
            return NULL;
        block = (void *)(((size_t)base + 64 + 63) / 64 * 64);
        clstm_header(block)->base = base;
        clstm_header(block)->capacity = capacity;
    }
    clstm_header(block)->size = size;
#if defined(CLSTM_DEBUG)
    memset(block, 0xff, size);
    memset((char *)block + size, 0xa5, CLSTM_GUARD);
#endif
    return block;
}

/* Returns 0 when (debug build) something was written behind the block. */
static int clstm_free(void *block)
{
    int intact = 1;
    if (!block)
        return 1;
#if defined(CLSTM_DEBUG)
    for (size_t n = 0; n < CLSTM_GUARD; n++)
        intact &= ((unsigned char *)block)[clstm_header(block)->size + n] == 0xa5;
#endif
    if (clstm_header(block)->capacity <= CLSTM_KEPT_BYTES / 2 && CLSTM_TRY_LOCK(&clstm_kept.in_use)) {
        /* Into an empty place; the blocks that came longest ago leave until there is one, and room. */
        size_t capacity = clstm_header(block)->capacity;
        int n = 0;
        while (n < CLSTM_KEPT_BLOCKS && clstm_kept.capacities[n])
            n++;
        while (n == CLSTM_KEPT_BLOCKS || clstm_kept.bytes + capacity > CLSTM_KEPT_BYTES) {
            if (clstm_kept.capacities[clstm_kept.oldest]) {
                clstm_kept.bytes -= clstm_kept.capacities[clstm_kept.oldest];
                clstm_kept.capacities[clstm_kept.oldest] = 0;
                free(clstm_header(clstm_kept.blocks[clstm_kept.oldest])->base);
                n = clstm_kept.oldest;
            }
            clstm_kept.oldest = (clstm_kept.oldest + 1) % CLSTM_KEPT_BLOCKS;
        }
        clstm_kept.blocks[n] = block;
        clstm_kept.capacities[n] = capacity;
        clstm_kept.bytes += capacity;
        CLSTM_UNLOCK(&clstm_kept.in_use);
        return intact;
    }
    free(clstm_header(block)->base);
    return intact;
}

#endif
