/* Makes one call of the C library fail: loaded before it (LD_PRELOAD), switched on by the process itself (ctypes).
 *
 * Calls are counted while a kind is armed, and the n-th fails. Allocations and threads count only if they are made by code in
 * one of the watched ranges of addresses, so that Python and NumPy live on. Files count only from descriptor 3 on.
 * What the watched code holds of the heap is counted too: what does not go back to its old number leaks.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>
#include <unistd.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t), *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

enum kind { NOTHING, MEMORY, THREADS, FILES };
enum { MOST_RANGES = 8, MOST_HELD = 1 << 16, FIRST_FILE = 3 };

static struct { uintptr_t begin, end; } ranges[MOST_RANGES];
static int range_count;
static atomic_int armed;
static atomic_long nth, seen, failed;
static int number = ENOMEM; /* errno of what fails */
static int for_ever;        /* all after the n-th fail too */
static size_t least;        /* smaller allocations do not count */

/* ---- For the process that is tested ------------------------------------------------------------------------------ */

int faults_watch(uintptr_t begin, uintptr_t end)
{
    if (range_count == MOST_RANGES) return 0;
    ranges[range_count].begin = begin;
    ranges[range_count].end = end;
    return ++range_count;
}

void faults_unwatch(void) { range_count = 0; }

void faults_arm(int kind, long n, int error, int from_then_on, size_t least_bytes)
{
    nth = n;
    seen = failed = 0;
    number = error;
    for_ever = from_then_on;
    least = least_bytes;
    armed = kind;
}

void faults_disarm(void) { armed = NOTHING; }
long faults_seen(void) { return seen; }
long faults_failed(void) { return failed; }

static int fails_now(enum kind kind)
{
    if (armed != (int)kind) return 0;
    const long now = ++seen;
    if (now != nth && !(for_ever && now > nth)) return 0;
    failed++;
    errno = number;
    return 1;
}

static int is_watched(const void *caller)
{
    for (int i = 0; i < range_count; i++)
        if ((uintptr_t)caller >= ranges[i].begin && (uintptr_t)caller < ranges[i].end) return 1;
    return 0;
}

/* ---- What the watched code holds --------------------------------------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void *held[MOST_HELD];
static atomic_long held_count;

static size_t slot_of(const void *block)
{
    size_t slot = ((uintptr_t)block >> 4) * 0x9E3779B97F4A7C15u % MOST_HELD;
    while (held[slot] && held[slot] != block) slot = (slot + 1) % MOST_HELD;
    return slot;
}

static void *hold(void *block, const void *caller)
{
    if (block && range_count && is_watched(caller)) {
        pthread_mutex_lock(&lock);
        held[slot_of(block)] = block;
        held_count++;
        pthread_mutex_unlock(&lock);
    }
    return block;
}

static void let_go(void *block)
{
    if (!block || !held_count) return;
    pthread_mutex_lock(&lock);
    size_t slot = slot_of(block);
    if (held[slot]) {
        held[slot] = NULL;
        held_count--;
        for (slot = (slot + 1) % MOST_HELD; held[slot]; slot = (slot + 1) % MOST_HELD) { /* close the gap */
            void *moved = held[slot];
            held[slot] = NULL;
            held[slot_of(moved)] = moved;
        }
    }
    pthread_mutex_unlock(&lock);
}

long faults_held(void) { return held_count; }

/* ---- Memory ------------------------------------------------------------------------------------------------------ */

#define CALLER __builtin_return_address(0)
#define NO_MEMORY(size) (armed == MEMORY && (size) >= least && is_watched(CALLER) && fails_now(MEMORY))

void *malloc(size_t size) { return NO_MEMORY(size) ? NULL : hold(__libc_malloc(size), CALLER); }
void *calloc(size_t count, size_t size) { return NO_MEMORY(count * size) ? NULL : hold(__libc_calloc(count, size), CALLER); }

void *realloc(void *block, size_t size)
{
    if (NO_MEMORY(size)) return NULL;
    let_go(block);
    return hold(__libc_realloc(block, size), CALLER);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return NO_MEMORY(size) ? NULL : hold(__libc_memalign(alignment, size), CALLER);
}

int posix_memalign(void **block, size_t alignment, size_t size)
{
    if (NO_MEMORY(size)) return ENOMEM;
    void *found = hold(__libc_memalign(alignment, size), CALLER);
    if (!found) return ENOMEM;
    *block = found;
    return 0;
}

void free(void *block)
{
    let_go(block);
    __libc_free(block);
}

/* ---- Threads ----------------------------------------------------------------------------------------------------- */

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument)
{
    if (armed == THREADS && is_watched(CALLER) && fails_now(THREADS)) return number;
    return NEXT(pthread_create)(thread, attributes, start, argument);
}

/* ---- Files ------------------------------------------------------------------------------------------------------- */

#define FAILS(is_counted) ((is_counted) && fails_now(FILES))

ssize_t write(int file, const void *data, size_t count) { return FAILS(file >= FIRST_FILE) ? -1 : NEXT(write)(file, data, count); }
ssize_t pwrite64(int file, const void *data, size_t count, off64_t at)
{
    return FAILS(file >= FIRST_FILE) ? -1 : NEXT(pwrite64)(file, data, count, at);
}
ssize_t read(int file, void *data, size_t count) { return FAILS(file >= FIRST_FILE) ? -1 : NEXT(read)(file, data, count); }
int fsync(int file) { return FAILS(file >= FIRST_FILE) ? -1 : NEXT(fsync)(file); }
int ftruncate64(int file, off64_t size) { return FAILS(file >= FIRST_FILE) ? -1 : NEXT(ftruncate64)(file, size); }
int rename(const char *from, const char *to) { return FAILS(1) ? -1 : NEXT(rename)(from, to); }
int link(const char *from, const char *to) { return FAILS(1) ? -1 : NEXT(link)(from, to); }
int linkat(int a, const char *from, int b, const char *to, int flags) { return FAILS(1) ? -1 : NEXT(linkat)(a, from, b, to, flags); }

int open64(const char *name, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    const int mode = va_arg(more, int);
    va_end(more);
    return FAILS(1) ? -1 : NEXT(open64)(name, flags, mode);
}
