/* The thread pool.
 *
 * One job runs at a time. The caller publishes it under `lock` as a new generation, works on it too, and waits until
 * the workers it asked for have left it. Tasks are taken from one atomic counter. A waiting thread first spins for
 * some microseconds, so that calls in a row do not pay for a sleep, then sleeps on a condition variable.
 *
 * fork: the child has no workers; it starts with an empty pool. Signals: workers block all of them, so that Ctrl-C
 * reaches the thread that Python expects.
 */
#define _GNU_SOURCE
#include "threads.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

/* How long a thread spins before it sleeps. A wake-up costs 5 to 50 microseconds, more in a virtual machine; calls in a row
 * follow one another within this time, and then need none. */
enum { SPIN_NANOSECONDS = 50000, SPINS_A_LOOK = 16 };

/* The caller asks its poll this often; DESIGN asks for 50 ms, and a task between two looks may take some ms. */
enum { POLL_NANOSECONDS = 15000000 };

/* Linux has a clock that is read in a few nanoseconds, fine enough for POLL_NANOSECONDS: tasks look often. */
#ifdef CLOCK_MONOTONIC_COARSE
#define POLL_CLOCK CLOCK_MONOTONIC_COARSE
#else
#define POLL_CLOCK CLOCK_MONOTONIC
#endif

struct im2colx_job {
    im2colx_work work;
    void *argument;
    ptrdiff_t tasks;
    atomic_ptrdiff_t next;
    atomic_int status; /* an im2colx_status; not OK: stop */
    atomic_uint busy;  /* workers still in this job */
    im2colx_poll poll;
    pthread_t caller;
    struct timespec polled;
};

static struct {
    pthread_mutex_t in_use; /* held by the caller whose job runs */
    pthread_mutex_t lock;   /* guards what follows */
    pthread_cond_t started, finished;
    im2colx_job *job;
    int wanted;             /* workers 1..wanted take part in this generation */
    int size;               /* workers alive */
    atomic_uint generation;
    atomic_uint forks;      /* how many forks lie between the process that loaded us and this one */
} pool = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, PTHREAD_COND_INITIALIZER,
          NULL, 0, 0, 0, 0};

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static long nanoseconds_since(const struct timespec *start)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (now.tv_sec - start->tv_sec) * 1000000000L + (now.tv_nsec - start->tv_nsec);
}

/* Spins until the counter is no longer (is_left) or at last (!is_left) `value`, or the time is up. */
static void spin(const atomic_uint *counter, unsigned value, int is_left)
{
    struct timespec start;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        for (int i = 0; i < SPINS_A_LOOK; i++) {
            if ((atomic_load_explicit(counter, memory_order_acquire) == value) != is_left) return;
            relax();
        }
    } while (nanoseconds_since(&start) < SPIN_NANOSECONDS);
}

static void ask_poll(im2colx_job *job)
{
    struct timespec now;
    /* Once it is decided to stop, the poll may have left an exception behind: no further handler must run over it. */
    if (atomic_load_explicit(&job->status, memory_order_relaxed) != IM2COLX_OK) return;
    clock_gettime(POLL_CLOCK, &now);
    if ((now.tv_sec - job->polled.tv_sec) * 1000000000L + (now.tv_nsec - job->polled.tv_nsec) < POLL_NANOSECONDS)
        return;
    if (job->poll()) im2colx_stop(job, IM2COLX_INTERRUPTED);
    clock_gettime(POLL_CLOCK, &job->polled);
}

int im2colx_stopped(im2colx_job *job)
{
    if (job->poll && pthread_equal(job->caller, pthread_self())) ask_poll(job);
    return atomic_load_explicit(&job->status, memory_order_relaxed) != IM2COLX_OK;
}

void im2colx_stop(im2colx_job *job, im2colx_status why)
{
    int expected = IM2COLX_OK; /* the first reason stays */
    atomic_compare_exchange_strong(&job->status, &expected, (int)why);
}

static void take_tasks(im2colx_job *job, int worker)
{
    ptrdiff_t task;
    while ((task = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed)) < job->tasks) {
        if (im2colx_stopped(job)) return;
        job->work(job->argument, task, worker, job);
    }
}

static void *worker_main(void *number)
{
    const int me = (int)(ptrdiff_t)number;
    unsigned seen = 0; /* workers are born before the generation they are wanted in, and generations start at 1 */
    for (;;) {
        spin(&pool.generation, seen, 1);
        pthread_mutex_lock(&pool.lock);
        while (atomic_load_explicit(&pool.generation, memory_order_relaxed) == seen)
            pthread_cond_wait(&pool.started, &pool.lock);
        seen = atomic_load_explicit(&pool.generation, memory_order_relaxed);
        im2colx_job *job = me <= pool.wanted ? pool.job : NULL;
        pthread_mutex_unlock(&pool.lock);
        if (!job) continue;
        take_tasks(job, me);
        /* After the decrement the caller may return and the job be gone: touch only the pool. */
        if (atomic_fetch_sub_explicit(&job->busy, 1, memory_order_acq_rel) == 1) {
            pthread_mutex_lock(&pool.lock);
            pthread_cond_broadcast(&pool.finished);
            pthread_mutex_unlock(&pool.lock);
        }
    }
    return NULL;
}

static void reset_in_child(void)
{
    pthread_mutex_init(&pool.in_use, NULL);
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.started, NULL);
    pthread_cond_init(&pool.finished, NULL);
    pool.job = NULL;
    pool.wanted = pool.size = 0;
    atomic_store(&pool.generation, 0);
    atomic_fetch_add(&pool.forks, 1);
}

/* When the library is loaded, not when the first worker is hired: a fork that another thread has begun meanwhile would not
 * run a handler that is registered so late (OpenBLAS's own handlers keep that window open for milliseconds). */
__attribute__((constructor)) static void register_fork_handler(void) { pthread_atfork(NULL, NULL, reset_in_child); }

/* Brings the pool to `wanted` workers if it can; called with in_use held. */
static void hire(int wanted)
{
    if (pool.size >= wanted) return;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before); /* inherited by the new threads */
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    while (pool.size < wanted) {
        pthread_t thread;
        if (pthread_create(&thread, &attributes, worker_main, (void *)(ptrdiff_t)(pool.size + 1))) break;
        pool.size++;
    }
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void publish(im2colx_job *job, int helpers)
{
    pthread_mutex_lock(&pool.lock);
    pool.job = job;
    pool.wanted = helpers;
    atomic_fetch_add_explicit(&pool.generation, 1, memory_order_release);
    pthread_cond_broadcast(&pool.started);
    pthread_mutex_unlock(&pool.lock);
}

/* Waits until no worker is in the job, or this process is no longer the one that had `forks` forks behind it. */
static void await_workers(im2colx_job *job, unsigned forks)
{
    spin(&job->busy, 0, 0);
    while (atomic_load_explicit(&job->busy, memory_order_acquire) && atomic_load(&pool.forks) == forks) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += POLL_NANOSECONDS;
        if (until.tv_nsec >= 1000000000L) { until.tv_nsec -= 1000000000L; until.tv_sec++; }
        pthread_mutex_lock(&pool.lock);
        if (atomic_load_explicit(&job->busy, memory_order_acquire))
            pthread_cond_timedwait(&pool.finished, &pool.lock, &until);
        pthread_mutex_unlock(&pool.lock);
        if (job->poll) ask_poll(job);
    }
}

im2colx_status im2colx_run(ptrdiff_t tasks, int threads, im2colx_work work, void *argument, im2colx_poll poll)
{
    im2colx_job job = {.work = work, .argument = argument, .tasks = tasks, .poll = poll, .caller = pthread_self()};
    clock_gettime(POLL_CLOCK, &job.polled);
    int helpers = im2colx_workers(tasks, threads) - 1;
    if (helpers > 0 && pthread_mutex_trylock(&pool.in_use) == 0) {
        const unsigned forks = atomic_load(&pool.forks);
        hire(helpers);
        if (helpers > pool.size) helpers = pool.size;
        atomic_store(&job.busy, (unsigned)helpers);
        if (helpers) publish(&job, helpers);
        take_tasks(&job, 0);
        await_workers(&job, forks);
        /* A poll may run a Python signal handler, and that may fork: the child lost the workers' share. */
        if (atomic_load(&pool.forks) != forks) return IM2COLX_FORKED;
        pthread_mutex_unlock(&pool.in_use);
    } else {
        take_tasks(&job, 0);
    }
    return (im2colx_status)atomic_load(&job.status);
}
