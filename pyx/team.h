/* Threads that work on one kernel call together: a pool of plain POSIX threads, and the barrier of those
 * in a call.
 *
 * The workers know nothing of Python, so neither the GIL nor interpreter shutdown concerns them.  The pool
 * belongs to a process id: after a fork the child starts its own.  One call has the pool at a time; a call
 * that finds it taken works alone.
 *
 * Nobody waits for a worker to wake up: the calling thread, number 0, begins with those that are awake, and
 * lets others in at places of its work where that is safe (clstm_waiting, clstm_let_in); what belongs to a
 * call lives until the last of them has left.  A worker comes when nobody else wants its processor.  A
 * barrier spins briefly, then yields.  An account tells whether waiting costs more than the shared work saves
 * (another program has taken the processor since): then the calling thread goes on alone, and the next calls
 * for a while start alone.  None of this changes a bit of any result.
 */
#ifndef CLSTM_TEAM_H
#define CLSTM_TEAM_H

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef void (*clstm_work)(void *job, int thread);

/* Seconds that sharing may lose before it is given up: what it has saved lately, up to MOST.  An idle
 * processor that a host takes away for some milliseconds is no reason, one that another program has is. */
static const double clstm_credit_first = 5e-3;
static const double clstm_credit_most = 20e-3;
/* A wait that is worth a look at the account, and how much it counts for: where another program has half of a
 * core, sharing would look as if it cost nothing. */
static const double clstm_long_wait = 2e-4;
static const double clstm_weight = 1.5;

/* What `size` threads have saved in `elapsed` seconds of which number 0 waited `waited`: alone it would have
 * taken as long as all of them work. */
static inline double clstm_saved(int size, double elapsed, double waited)
{
    return (size - 1) * elapsed - size * waited;
}

/* Whether sharing, which has saved so many seconds in a call, is to be given up after a wait of `last`. */
static inline int clstm_gives_up(double saved, double last, double credit)
{
    return last > clstm_long_wait && credit + saved < 0;
}

#if defined(__unix__) || defined(__APPLE__)
#define CLSTM_THREADS 1

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#if defined(__GLIBC__) && defined(_GNU_SOURCE)
#define CLSTM_ASIDE 1 /* threads can be kept off a processor */
#endif
#if defined(__SSE2__)
#include <immintrin.h>
#define CLSTM_PAUSE() _mm_pause()
#else
#define CLSTM_PAUSE() ((void)0)
#endif

enum {
    CLSTM_MAX_THREADS = 64,
    CLSTM_SPINS = 2000, /* tens of microseconds */
    /* Times that a worker offers its processor to others before it takes part in a call. */
    CLSTM_OFFERS = 16,
    /* Times what was lost is how long the next calls stay alone, up to 4-fold when attempts keep failing. */
    CLSTM_SOLO_FACTOR = 8
};
/* Seconds within which a worker that looks for work must have done so to be waited for, and for which its
 * processor is gone at most if nobody else wants it. */
static const double clstm_moment = 2e-5;
/* Seconds that a worker yields before it sleeps: backward follows forward. */
static const double clstm_linger = 2e-4;

/* For tests: whether a call waits until all of its threads are there. */
static atomic_int clstm_patient;

static inline double clstm_seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline double clstm_now(void)
{
    return clstm_seconds(CLOCK_MONOTONIC);
}

typedef struct {
    atomic_int present;  /* threads that have come, number 0 among them; they are numbered as they come */
    atomic_int size;     /* members that take part: numbers 0 .. size - 1 */
    int next_size;       /* the same after the next barrier; only thread 0 writes it */
    int limit;           /* of members */
    int members;         /* the most that there were */
    atomic_int finished; /* members that have done their work, number 0 apart */
    atomic_int closed;   /* whether those who come now are too late */
    atomic_int arrived;
    atomic_int phase;     /* barriers passed */
    atomic_int cancelled; /* set by thread 0 */
    int stop;    /* `cancelled` at the last barrier: all must leave after the same one, or some would wait */
    int signals; /* whether thread 0 looks for signals: set by clstm_begin */
    double polled;         /* when it last did */
    double unpolled;       /* the work since it last looked at the clock */
    atomic_long pieces;    /* of work that have been taken, see clstm_take */
    atomic_int alone;      /* whether sharing was given up */
    double credit;         /* what the call may lose by sharing */
    double formed;         /* when the team became one */
    double waited;         /* seconds that thread 0 has waited since */
    int counted;           /* whether what the others do is counted: */
    _Atomic double helped; /* seconds of their processors */
} clstm_team;

/* Prepare the team of a call that goes through clstm_run or stays on this thread.  `signals`: the thread
 * may take the GIL in the middle of the call, to run signal handlers. */
static void clstm_begin(clstm_team *team, int signals)
{
    memset(team, 0, sizeof(*team));
    team->present = team->size = team->next_size = team->limit = team->members = 1;
    team->signals = signals;
    team->polled = clstm_now();
}

/* Whether others wait to be let in. */
static inline int clstm_waiting(clstm_team *team)
{
    int size = atomic_load_explicit(&team->size, memory_order_relaxed);
    return !team->alone && size < team->limit &&
           atomic_load_explicit(&team->present, memory_order_relaxed) > size;
}

/* Let in who is there: called by thread 0 where it works alone and has computed all that its place in the job
 * says; or before a barrier, after which they come, if that is what the place says; or where no barriers are
 * used. */
static void clstm_let_in(clstm_team *team)
{
    int present = atomic_load_explicit(&team->present, memory_order_relaxed);
    if (team->members == 1)
        team->formed = clstm_now();
    team->members = team->next_size = present < team->limit ? present : team->limit;
    if (team->counted || atomic_load_explicit(&team->size, memory_order_relaxed) == 1)
        atomic_store_explicit(&team->size, team->next_size, memory_order_release);
}

/* Wait a little for something that another thread does. */
static inline void clstm_rest(int spins)
{
    if (spins < CLSTM_SPINS)
        CLSTM_PAUSE();
    else
        sched_yield();
}

/* What sharing has saved in this call until now. */
static inline double clstm_gain(const clstm_team *team, int size, double now)
{
    return team->counted ? team->helped - team->waited : clstm_saved(size, now - team->formed, team->waited);
}

/* Book a wait of thread 0 that ended `now`; returns whether sharing is to be given up. */
static int clstm_book(clstm_team *team, int size, double waited, double now)
{
    team->waited += waited > clstm_long_wait && !team->counted ? clstm_weight * waited : waited;
    return clstm_gives_up(clstm_gain(team, size, now), waited, team->credit);
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
            team->stop = atomic_load_explicit(&team->cancelled, memory_order_relaxed);
            atomic_store_explicit(&team->size, team->next_size, memory_order_release);
            atomic_store_explicit(&team->phase, phase + 1, memory_order_release);
        } else {
            for (int spins = 0; atomic_load_explicit(&team->phase, memory_order_acquire) == phase; spins++)
                clstm_rest(spins);
        }
        if (thread == 0 && !team->alone) {
            double now = clstm_now();
            if (clstm_book(team, size, now - arrived, now)) {
                team->next_size = 1;
                team->alone = 1;
            }
        }
    }
    size = atomic_load_explicit(&team->size, memory_order_relaxed);
    if (size == 1)
        return thread == 0 && !atomic_load_explicit(&team->cancelled, memory_order_relaxed);
    return thread < size && !team->stop;
}

/* The number of a piece of work that nobody else has taken: 0, 1, 2, ... */
static inline ptrdiff_t clstm_take(clstm_team *team)
{
    return atomic_fetch_add_explicit(&team->pieces, 1, memory_order_relaxed);
}

/* Begin anew with 0, where nobody takes any. */
static inline void clstm_restart(clstm_team *team)
{
    atomic_store_explicit(&team->pieces, 0, memory_order_relaxed);
}

/* A call that others may still look into when it is over. */
typedef struct {
    atomic_int users;
    clstm_work work;
    clstm_team *team; /* in the job */
    _Alignas(64) char job[];
} clstm_call;

/* Where a worker may run. */
typedef struct {
    pthread_t handle;
#if defined(CLSTM_ASIDE)
    int moved;
    cpu_set_t allowed; /* to be its set again, where it was moved */
#endif
} clstm_place;

static struct {
    pthread_mutex_t taken; /* held by the call that has the pool */
    pthread_mutex_t lock;  /* guards what follows */
    pthread_cond_t posted;
    int workers; /* threads that exist, numbered from 1 */
    clstm_place places[CLSTM_MAX_THREADS];
    int awake[CLSTM_MAX_THREADS];           /* whether they look for work without being called */
    _Atomic double seen[CLSTM_MAX_THREADS]; /* when they last did */
    atomic_int posted_to[CLSTM_MAX_THREADS];
    clstm_call *call;
    /* Of the call that has the pool. */
    int begun;                 /* whether there was one before */
    double credit;             /* what sharing has saved lately */
    _Atomic double solo_until; /* calls stay alone */
    int failures;              /* times sharing was given up since it last paid */
} clstm_pool = {.taken = PTHREAD_MUTEX_INITIALIZER,
                .lock = PTHREAD_MUTEX_INITIALIZER,
                .posted = PTHREAD_COND_INITIALIZER};

/* Whether a call that begins now stays alone. */
static inline int clstm_solo(void)
{
    return !clstm_patient && clstm_now() < clstm_pool.solo_until;
}

/* A worker that wakes up on the processor of the thread that called it may stay there, and wait, for tens of
 * milliseconds although others are idle.  So those that are not awake are kept off it until they have begun.
 */
typedef struct {
    int known;    /* whether the rest is */
    int there_is; /* another processor */
#if defined(CLSTM_ASIDE)
    cpu_set_t allowed, others;
#endif
} clstm_aside;

#if defined(CLSTM_ASIDE)
/* Find out where the calling thread may run and where it does. */
static void clstm_find_aside(clstm_aside *aside)
{
    aside->known = 1;
    aside->there_is = 0;
    int own = sched_getcpu();
    if (own < 0 || own >= CPU_SETSIZE || sched_getaffinity(0, sizeof(cpu_set_t), &aside->allowed))
        return;
    aside->others = aside->allowed;
    CPU_CLR(own, &aside->others);
    aside->there_is = CPU_COUNT(&aside->others) > 0;
}
#endif

/* Keep a worker off the calling thread's processor; the lock is held. */
static void clstm_set_aside(clstm_aside *aside, int thread)
{
#if defined(CLSTM_ASIDE)
    clstm_place *place = &clstm_pool.places[thread];
    if (!aside->known)
        clstm_find_aside(aside);
    if (aside->there_is && !pthread_setaffinity_np(place->handle, sizeof(cpu_set_t), &aside->others)) {
        place->moved = 1;
        place->allowed = aside->allowed;
    }
#else
    (void)aside, (void)thread;
#endif
}

/* Let a worker, the calling thread, run wherever the thread that called it may; the lock is held. */
static void clstm_put_back(int thread)
{
#if defined(CLSTM_ASIDE)
    clstm_place *place = &clstm_pool.places[thread];
    if (place->moved)
        pthread_setaffinity_np(place->handle, sizeof(cpu_set_t), &place->allowed);
    place->moved = 0;
#else
    (void)thread;
#endif
}

static void clstm_leave(clstm_call *call)
{
    if (atomic_fetch_sub(&call->users, 1) == 1)
        free(call);
}

/* What a worker knows of its processor: one that somebody else wants is taken away when it is offered. */
typedef struct {
    double last; /* when it was last offered */
    int kept;    /* times in a row that it was not taken */
} clstm_watch;

/* Offer the processor to others. */
static void clstm_offer(clstm_watch *watch)
{
    sched_yield();
    double now = clstm_now();
    watch->kept = now - watch->last < clstm_moment ? watch->kept + 1 : 0;
    watch->last = now;
}

/* What a worker does of a call: its part, once nobody else wants its processor and it is let in. */
static void clstm_join(clstm_call *call, clstm_watch *watch)
{
    clstm_team *team = call->team;
    for (; watch->kept < CLSTM_OFFERS && !clstm_patient; clstm_offer(watch))
        if (atomic_load(&team->closed))
            return;
    int number = atomic_fetch_add(&team->present, 1);
    for (; number >= atomic_load_explicit(&team->size, memory_order_acquire); clstm_offer(watch))
        /* A member comes even now: the call waits for it. */
        if ((atomic_load(&team->closed) || team->alone) && number >= team->members)
            return;
    if (!team->stop)
        call->work(call->job, number);
    atomic_fetch_add(&team->finished, 1);
    watch->last = clstm_now();
}

static void *clstm_worker(void *number)
{
    const int thread = (int)(ptrdiff_t)number;
    clstm_watch watch = {0, 0};
    pthread_mutex_lock(&clstm_pool.lock);
    for (;;) {
        if (!clstm_pool.posted_to[thread]) {
            do
                pthread_cond_wait(&clstm_pool.posted, &clstm_pool.lock);
            while (!clstm_pool.posted_to[thread]);
            watch.last = clstm_now();
            watch.kept = 0;
        }
        clstm_pool.posted_to[thread] = 0;
        clstm_put_back(thread);
        clstm_call *call = clstm_pool.call;
        atomic_fetch_add(&call->users, 1);
        pthread_mutex_unlock(&clstm_pool.lock);
        clstm_join(call, &watch);
        clstm_leave(call);
        pthread_mutex_lock(&clstm_pool.lock);
        clstm_pool.awake[thread] = 1;
        pthread_mutex_unlock(&clstm_pool.lock);
        for (double until = clstm_now() + clstm_linger;
             !clstm_pool.posted_to[thread] && watch.last < until;) {
            clstm_offer(&watch);
            atomic_store_explicit(&clstm_pool.seen[thread], watch.last, memory_order_relaxed);
        }
        pthread_mutex_lock(&clstm_pool.lock);
        clstm_pool.awake[thread] = 0;
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
    clstm_pool.posted = condition;
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
        clstm_pool.places[clstm_pool.workers].handle = handle;
    }
    return wanted;
}

/* Call the workers to a call; those that are awake are waited for, briefly, and let in. */
static void clstm_post(clstm_call *call, int threads)
{
    clstm_team *team = call->team;
    pthread_mutex_lock(&clstm_pool.lock);
    int expected = 1, awake = 1;
    double now = clstm_now();
    clstm_pool.call = call;
    clstm_aside aside = {.known = 0};
    for (int thread = 1; thread < threads; thread++) {
        double seen = atomic_load_explicit(&clstm_pool.seen[thread], memory_order_relaxed);
        awake += clstm_pool.awake[thread];
        if (clstm_pool.awake[thread] && now - seen < clstm_moment)
            expected++;
        else
            clstm_set_aside(&aside, thread);
        clstm_pool.posted_to[thread] = 1;
    }
    if (awake < threads)
        pthread_cond_broadcast(&clstm_pool.posted);
    pthread_mutex_unlock(&clstm_pool.lock);
    if (clstm_patient)
        expected = threads;
    for (int spins = 0; atomic_load(&team->present) < expected; spins++) {
        if (spins >= CLSTM_SPINS && !clstm_patient)
            break;
        clstm_rest(spins);
    }
    if (clstm_waiting(team))
        clstm_let_in(team);
}

/* End a call for all who are not in it, and wait for those who are. */
static void clstm_close(clstm_call *call, int threads)
{
    clstm_team *team = call->team;
    pthread_mutex_lock(&clstm_pool.lock);
    for (int thread = 1; thread < threads; thread++)
        clstm_pool.posted_to[thread] = 0;
    clstm_pool.call = NULL;
    pthread_mutex_unlock(&clstm_pool.lock);
    atomic_store(&team->closed, 1);
    double since = team->members > 1 ? clstm_now() : 0;
    for (int spins = 0; atomic_load(&team->finished) < team->members - 1; spins++)
        clstm_rest(spins);
    if (team->members > 1)
        team->waited += clstm_now() - since;
}

/* What a call that is over tells about the next ones; `calling`: what it took to call the workers. */
static void clstm_settle(const clstm_team *team, double calling)
{
    double now = clstm_now(), before = clstm_pool.credit;
    double saved = team->members > 1 ? clstm_gain(team, team->members, now) : 0;
    double credit = before + saved - calling;
    if (team->alone || credit < 0) {
        double lost = before - credit > clstm_long_wait ? before - credit : clstm_long_wait;
        clstm_pool.solo_until = now + CLSTM_SOLO_FACTOR * lost * (double)(1 << clstm_pool.failures);
        clstm_pool.failures += clstm_pool.failures < 2;
        clstm_pool.credit = 0;
        return;
    }
    clstm_pool.credit = credit;
    if (credit > clstm_credit_most) {
        clstm_pool.credit = clstm_credit_most;
        clstm_pool.failures = 0;
    }
}

/* Call work(job, thread) in up to `wanted` threads, the caller among them as number 0; returns when all
 * are done.  `team`, which clstm_begin has prepared, lies within the job of `size` bytes.
 *
 * Threads share a copy of the job on the heap: where another thread than the main one ends the interpreter,
 * as a program that embeds Python may, the main one is ended at its next look for signals, and its stack is
 * gone while the others still work. */
static void clstm_run(int wanted, clstm_work work, void *job, size_t size, clstm_team *team)
{
    clstm_call *call = NULL;
    int threads = 1;
    if (wanted > CLSTM_MAX_THREADS)
        wanted = CLSTM_MAX_THREADS;
    if (wanted > 1 && pthread_mutex_trylock(&clstm_pool.taken) == 0) {
        if (!clstm_solo() && !posix_memalign((void **)&call, 64, sizeof(clstm_call) + size))
            threads = clstm_hire(wanted);
        if (threads == 1)
            pthread_mutex_unlock(&clstm_pool.taken);
    }
    if (threads == 1) {
        free(call);
        work(job, 0);
        return;
    }
    if (!clstm_pool.begun) {
        clstm_pool.begun = 1;
        clstm_pool.credit = clstm_credit_first;
    }
    team->limit = threads;
    team->credit = clstm_pool.credit;
    call->users = 1;
    call->work = work;
    memcpy(call->job, job, size);
    call->team = (clstm_team *)(call->job + ((char *)team - (char *)job));
    double calling = clstm_now();
    clstm_post(call, threads);
    calling = clstm_now() - calling;
    work(call->job, 0);
    clstm_close(call, threads);
    clstm_settle(call->team, calling);
    memcpy(job, call->job, size);
    pthread_mutex_unlock(&clstm_pool.taken);
    clstm_leave(call);
}

#else /* no POSIX threads: every call works alone */

static int clstm_patient;

typedef struct {
    int size, cancelled, signals, alone, counted;
    double helped;
    double polled, unpolled;
    ptrdiff_t pieces;
} clstm_team;

static double clstm_now(void)
{
    return 0; /* never time to look for signals */
}

static void clstm_begin(clstm_team *team, int signals)
{
    memset(team, 0, sizeof(*team));
    team->size = 1;
    team->signals = signals;
}

static inline int clstm_waiting(clstm_team *team)
{
    (void)team;
    return 0;
}

static void clstm_let_in(clstm_team *team)
{
    (void)team;
}

static inline void clstm_rest(int spins)
{
    (void)spins;
}

static int clstm_book(clstm_team *team, int size, double waited, double now)
{
    (void)team, (void)size, (void)waited, (void)now;
    return 0;
}

static int clstm_barrier(clstm_team *team, int thread)
{
    (void)thread;
    return !team->cancelled;
}

static inline ptrdiff_t clstm_take(clstm_team *team)
{
    return team->pieces++;
}

static inline void clstm_restart(clstm_team *team)
{
    team->pieces = 0;
}

static inline int clstm_solo(void)
{
    return 1;
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
