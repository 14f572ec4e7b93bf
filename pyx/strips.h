/* Strips: sequences of chunks that threads take as they become ready.
 *
 * A chunk is done by one thread, after the one before it in its strip; where strips are chained, each needs
 * the same steps of the strip before, too.  There are no barriers.  Which thread does a chunk, and
 * when, changes nothing in what it computes.
 */
#ifndef CLSTM_STRIPS_H
#define CLSTM_STRIPS_H

#include "team.h"

/* Chunks that a thread may stay ahead of a strip that nobody works on: each change of strips leaves the
 * weights of one behind in the cache. */
enum { CLSTM_AHEAD = 3 };

typedef struct {
    ptrdiff_t steps; /* how many there are */
    ptrdiff_t done;
    ptrdiff_t goal; /* how many will be done after the next chunk */
    int busy;       /* whether a thread is at it */
    double since;   /* what its processor's clock said then, if that is not thread 0 */
} clstm_strip;

typedef struct {
    clstm_team team;
    ptrdiff_t count;
    int chained;
    clstm_strip *strips;
#if defined(CLSTM_THREADS)
    atomic_flag lock; /* guards the strips */
#endif
} clstm_order;

/* Seconds that this thread has had a processor. */
static inline double clstm_processor_seconds(void)
{
#if defined(CLSTM_THREADS)
    return clstm_seconds(CLOCK_THREAD_CPUTIME_ID);
#else
    return 0;
#endif
}

static inline void clstm_lock(clstm_order *order)
{
#if defined(CLSTM_THREADS)
    for (int spins = 0; atomic_flag_test_and_set_explicit(&order->lock, memory_order_acquire); spins++)
        clstm_rest(spins);
#else
    (void)order;
#endif
}

static inline void clstm_unlock(clstm_order *order)
{
#if defined(CLSTM_THREADS)
    atomic_flag_clear_explicit(&order->lock, memory_order_release);
#else
    (void)order;
#endif
}

/* The strip whose next chunk is to be done by a thread that was at strip `last`, or -1 if none is ready;
 * `left` (OUT) tells whether there are chunks that nobody has begun, `busy` (OUT) whether any is being
 * done. */
static ptrdiff_t clstm_choose(const clstm_order *order, ptrdiff_t last, int *left, int *busy)
{
    const clstm_strip *strips = order->strips;
    ptrdiff_t best = -1;
    int stay = 0;
    *left = *busy = 0;
    for (ptrdiff_t k = 0; k < order->count; k++) {
        const clstm_strip *strip = &strips[k];
        *busy |= strip->busy;
        *left |= (strip->busy ? strip->goal : strip->done) < strip->steps;
        if (strip->busy || strip->done == strip->steps ||
            (order->chained && k > 0 && strips[k - 1].done < strip->goal))
            continue;
        stay |= k == last;
        if (best < 0 || strip->done < strips[best].done)
            best = k;
    }
    if (!stay)
        return best;
    ptrdiff_t ahead = strips[last].done - strips[best].done;
    return ahead < CLSTM_AHEAD * (strips[last].goal - strips[last].done) ? last : best;
}

/* The strip whose next chunk the thread is to do, which ends with clstm_finish; -1 when there is nothing left
 * for it.  `last` is the one that it was at, or -1. */
static ptrdiff_t clstm_next(clstm_order *order, int thread, ptrdiff_t last)
{
    clstm_team *team = &order->team;
    double since = 0;
    for (int spins = 0;; spins++) {
        int left, busy, size = team->size;
        if (thread == 0 && clstm_waiting(team))
            clstm_let_in(team);
        clstm_lock(order);
        ptrdiff_t strip = clstm_choose(order, last, &left, &busy);
        if (team->cancelled || (thread > 0 && team->alone))
            strip = -1, left = 0;
        if (strip >= 0)
            order->strips[strip].busy = 1;
        clstm_unlock(order);
        if (strip >= 0 && thread > 0)
            order->strips[strip].since = clstm_processor_seconds();
        if (since > 0 && (strip >= 0 || !(left || busy))) {
            double now = clstm_now();
            if (clstm_book(team, size, now - since, now))
                team->alone = 1;
        }
        if (strip >= 0 || !(left || (busy && thread == 0))) /* number 0 leaves last */
            return strip;
        if (spins == 0 && thread == 0 && size > 1 && !team->alone)
            since = clstm_now();
        clstm_rest(spins);
    }
}

/* What was taken by clstm_next is done; after the chunk that follows it `goal` steps will be. */
static void clstm_finish(clstm_order *order, int thread, ptrdiff_t strip, ptrdiff_t goal)
{
    double spent = thread > 0 ? clstm_processor_seconds() - order->strips[strip].since : 0;
    clstm_lock(order);
    order->team.helped += spent;
    order->strips[strip].busy = 0;
    order->strips[strip].done = order->strips[strip].goal;
    order->strips[strip].goal = goal;
    clstm_unlock(order);
}

#endif
