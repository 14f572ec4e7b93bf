/* Threads that work on one kernel call together: a pool of plain POSIX threads, and the barrier of those
 * in a call.
 *
 * The workers know nothing of Python, so neither the GIL nor interpreter shutdown concerns them.  The pool
 * belongs to a process id: after a fork the child starts its own.  One call has the pool at a time; a call
 * that finds it taken works alone.  A barrier spins briefly, then yields.  Where waiting costs more than
 * the shared work saves (another program has the core), the calling thread goes on alone, and the next
 * calls for a while start alone.  None of this changes a bit of any result.
 */
#ifndef CLSTM_TEAM_H
#define CLSTM_TEAM_H

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef void (*clstm_work)(void *job, int thread);

#if defined(__unix__) || defined(__APPLE__)

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#if defined(__SSE2__)
#include <immintrin.h>
#define CLSTM_PAUSE() _mm_pause()
#else
#define CLSTM_PAUSE() ((void)0)
#endif

enum {
    CLSTM_MAX_THREADS = 64,
    CLSTM_SPINS = 2000, /* tens of microseconds */
    /* Times the wait of a crowded call is how long the next ones stay alone, up to 8-fold when attempts keep
     * failing: they cost a few per cent at most. */
    CLSTM_SOLO_FACTOR = 16
};
/* Seconds that any barrier may take; where a core is busy a time slice takes more. */
static const double clstm_crowded = 1e-3;
/* Seconds that a worker yields before it sleeps: backward follows forward. */
static const double clstm_linger = 2e-4;

static inline double clstm_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct {
    atomic_int size; /* members that take part */
    int next_size;   /* the same after the next barrier; only the calling thread, number 0, writes it */
    atomic_int arrived;
    atomic_int phase;     /* barriers passed */
    atomic_int cancelled; /* set by thread 0 */
    int stop;    /* `cancelled` at the last barrier: all must leave after the same one, or some would wait */
    double left; /* when thread 0 passed the last barrier */
    int signals; /* whether thread 0 looks for signals: set by clstm_begin */
    double polled;   /* when it last did */
    double unpolled; /* the work since it last looked at the clock */
    double waited;   /* how long thread 0 waited at the barrier that was found crowded */
} clstm_team;

/* Prepare the team of a call that goes through clstm_run or stays on this thread.  `signals`: the thread
 * may take the GIL in the middle of the call, to run signal handlers. */
static void clstm_begin(clstm_team *team, int signals)
{
    memset(team, 0, sizeof(*team));
    team->size = team->next_size = 1;
    team->signals = signals;
    team->polled = clstm_now();
}

/* Wait for all members.  Returns 0 when this thread is to leave: the call is cancelled, or goes on without
 * it. */
static int clstm_barrier(clstm_team *team, int thread)
{
    int size = atomic_load_explicit(&team->size, memory_order_relaxed);
    if (size > 1) {
        int phase = atomic_load_explicit(&team->phase, memory_order_relaxed);
        double arrived = thread ? 0 : clstm_now();
        if (atomic_fetch_add(&team->arrived, 1) + 1 == size) {
            atomic_store_explicit(&team->arrived, 0, memory_order_relaxed);
            atomic_store_explicit(&team->size, team->next_size, memory_order_relaxed);
            team->stop = atomic_load_explicit(&team->cancelled, memory_order_relaxed);
            atomic_store_explicit(&team->phase, phase + 1, memory_order_release);
        } else {
            for (int spins = 0; atomic_load_explicit(&team->phase, memory_order_acquire) == phase; spins++) {
                if (spins < CLSTM_SPINS)
                    CLSTM_PAUSE();
                else
                    sched_yield();
            }
        }
        if (thread == 0) {
            double now = clstm_now(), waited = now - arrived;
            if (waited > clstm_crowded && waited > arrived - team->left) {
                team->next_size = 1;
                team->waited = waited;
            }
            team->left = now;
        }
    }
    size = atomic_load_explicit(&team->size, memory_order_relaxed);
    if (size == 1)
        return thread == 0 && !atomic_load_explicit(&team->cancelled, memory_order_relaxed);
    return thread < size && !team->stop;
}

static struct {
    pthread_mutex_t taken; /* held by the call that has the pool */
    pthread_mutex_t lock;  /* guards what follows */
    pthread_cond_t posted, finished;
    int workers; /* threads that exist, numbered from 1 */
    atomic_int posted_to[CLSTM_MAX_THREADS];
    atomic_int running;
    clstm_work work;
    void *job;
    double solo_until;
    int failures; /* crowded attempts since the last good one */
} clstm_pool = {.taken = PTHREAD_MUTEX_INITIALIZER,
                .lock = PTHREAD_MUTEX_INITIALIZER,
                .posted = PTHREAD_COND_INITIALIZER,
                .finished = PTHREAD_COND_INITIALIZER};

static void *clstm_worker(void *number)
{
    const int thread = (int)(ptrdiff_t)number;
    pthread_mutex_lock(&clstm_pool.lock);
    for (;;) {
        while (!clstm_pool.posted_to[thread])
            pthread_cond_wait(&clstm_pool.posted, &clstm_pool.lock);
        clstm_pool.posted_to[thread] = 0;
        pthread_mutex_unlock(&clstm_pool.lock);
        clstm_pool.work(clstm_pool.job, thread);
        pthread_mutex_lock(&clstm_pool.lock);
        if (--clstm_pool.running == 0)
            pthread_cond_signal(&clstm_pool.finished);
        pthread_mutex_unlock(&clstm_pool.lock);
        for (double until = clstm_now() + clstm_linger; !clstm_pool.posted_to[thread] && clstm_now() < until;)
            sched_yield();
        pthread_mutex_lock(&clstm_pool.lock);
    }
    return NULL;
}

/* The child of a fork has none of the threads, and locks in whatever state they were. */
static void clstm_forget_pool(void)
{
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
    memset(&clstm_pool, 0, sizeof(clstm_pool));
    clstm_pool.taken = clstm_pool.lock = mutex;
    clstm_pool.posted = clstm_pool.finished = condition;
}

static void clstm_watch_forks(void)
{
    pthread_atfork(NULL, NULL, clstm_forget_pool);
}

/* Start workers until there are `wanted` threads with the caller, who holds the pool; returns how many
 * there are. */
static int clstm_hire(int wanted)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, clstm_watch_forks);
    while (clstm_pool.workers + 1 < wanted) {
        pthread_t handle;
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for Python's own threads */
        int failed = pthread_create(&handle, NULL, clstm_worker, (void *)(ptrdiff_t)(clstm_pool.workers + 1));
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (failed)
            return clstm_pool.workers + 1;
        pthread_detach(handle);
        clstm_pool.workers++;
    }
    return wanted;
}

/* Call work(job, thread) in up to `wanted` threads, the caller among them as number 0; returns when all
 * are done.  `team`, which clstm_begin has prepared, lies within the job of `size` bytes.
 *
 * Threads share a copy of the job on the heap: where another thread than the main one ends the interpreter,
 * as a program that embeds Python may, the main one is ended at its next look for signals, and its stack is
 * gone while the others still work. */
static void clstm_run(int wanted, clstm_work work, void *job, size_t size, clstm_team *team)
{
    char *shared = NULL;
    int threads = 1;
    if (wanted > CLSTM_MAX_THREADS)
        wanted = CLSTM_MAX_THREADS;
    if (wanted > 1 && pthread_mutex_trylock(&clstm_pool.taken) == 0) {
        if (clstm_now() >= clstm_pool.solo_until && (shared = malloc(size)))
            threads = clstm_hire(wanted);
        if (threads == 1)
            pthread_mutex_unlock(&clstm_pool.taken);
    }
    team->size = team->next_size = threads;
    if (threads == 1) {
        free(shared);
        work(job, 0);
        return;
    }
    memcpy(shared, job, size);
    team = (clstm_team *)(shared + ((char *)team - (char *)job));
    pthread_mutex_lock(&clstm_pool.lock);
    clstm_pool.work = work;
    clstm_pool.job = shared;
    clstm_pool.running = threads - 1;
    for (int thread = 1; thread < threads; thread++)
        clstm_pool.posted_to[thread] = 1;
    pthread_cond_broadcast(&clstm_pool.posted);
    pthread_mutex_unlock(&clstm_pool.lock);
    team->left = clstm_now();
    work(shared, 0);
    for (int spins = 0; clstm_pool.running && spins < CLSTM_SPINS; spins++)
        CLSTM_PAUSE();
    pthread_mutex_lock(&clstm_pool.lock);
    while (clstm_pool.running)
        pthread_cond_wait(&clstm_pool.finished, &clstm_pool.lock);
    pthread_mutex_unlock(&clstm_pool.lock);
    if (team->next_size < threads) {
        clstm_pool.solo_until =
            clstm_now() + CLSTM_SOLO_FACTOR * team->waited * (double)(1 << clstm_pool.failures);
        if (clstm_pool.failures < 3)
            clstm_pool.failures++;
    } else {
        clstm_pool.failures = 0;
    }
    pthread_mutex_unlock(&clstm_pool.taken);
    memcpy(job, shared, size);
    free(shared);
}

#else /* no POSIX threads: every call works alone */

typedef struct {
    int size, next_size, cancelled, signals;
    double polled, unpolled;
} clstm_team;

static double clstm_now(void)
{
    return 0; /* never time to look for signals */
}

static void clstm_begin(clstm_team *team, int signals)
{
    memset(team, 0, sizeof(*team));
    team->size = team->next_size = 1;
    team->signals = signals;
}

static int clstm_barrier(clstm_team *team, int thread)
{
    (void)thread;
    return !team->cancelled;
}

static void clstm_run(int wanted, clstm_work work, void *job, size_t size, clstm_team *team)
{
    (void)wanted;
    (void)size;
    (void)team;
    work(job, 0);
}

#endif

/* Whether the call is to end at once, asked where no barrier is near: only a thread that works alone may. */
static inline int clstm_stopped(clstm_team *team)
{
    return team->cancelled && team->size == 1;
}

#endif
