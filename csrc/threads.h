/* A small pool of threads that share out numbered tasks; no OpenMP, whose runtime hangs in forked children. */
#ifndef IM2COLX_THREADS_H
#define IM2COLX_THREADS_H

#include "im2colx.h"

typedef struct im2colx_job im2colx_job;

/* Does task number `task`; `worker` counts from 0 (the calling thread) and is below the job's threads. */
typedef void (*im2colx_work)(void *argument, ptrdiff_t task, int worker, im2colx_job *job);

/* Calls work(argument, task, ...) once for each 0 <= task < tasks, from at most `threads` threads (>= 1), and returns
 * when all are done. The order is not fixed, so tasks must not depend on one another. Runs serially when the pool is
 * in use by another caller, and on fewer threads when no more can be created. Returns IM2COLX_OK, or why it stopped. */
im2colx_status im2colx_run(ptrdiff_t tasks, int threads, im2colx_work work, void *argument, im2colx_poll poll);

/* To be asked by a task between steps of some milliseconds: non-zero means return at once. */
int im2colx_stopped(im2colx_job *job);

/* Makes im2colx_stopped true for all tasks, and im2colx_run return `why`. */
void im2colx_stop(im2colx_job *job, im2colx_status why);

/* threads, or fewer where there are not so many tasks. */
static inline int im2colx_workers(ptrdiff_t tasks, int threads)
{
    if (threads > IM2COLX_MAX_THREADS) threads = IM2COLX_MAX_THREADS;
    if (threads > tasks) threads = (int)tasks;
    return threads < 1 ? 1 : threads;
}

#endif
