/* malloc for checks/guard.py, by LD_PRELOAD: while it is switched on, a block ends (or begins) at a page without access.
 *
 * Guarded are blocks that the C core and NumPy ask for; Python's own need more alignment than lets them end at a page. So the
 * results, copies and workspaces that the library allocates for itself are guarded, too. Blocks lie in one reserved region of
 * addresses; pages that are not in use have no access, so use after free ends the process as well. What is allocated while it
 * is off, or beyond the room for guarded blocks, comes from glibc. New memory is filled with 0xFF, which is nan in every float,
 * so that what a function forgets to write is seen in its result.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t), *__libc_memalign(size_t, size_t);
void __libc_free(void *);

enum { PAGE = 4096, CLASSES = 64, MOST_BLOCKS = 12000 }; /* the kernel grants some 65,000 mappings; a block may take three */
static const size_t REGION = (size_t)32 << 30, LARGEST = (size_t)64 << 20;

/* Of a block's first page: pages with the guard behind them, and the next block that is free. */
typedef struct { uint32_t pages, next; } block;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *region;
static block *blocks;
static size_t used_pages = 1, *sizes;
static uint32_t free_blocks[CLASSES]; /* of 2**class pages */
static int live, is_on, at_begin;
static long guarded;

#define CALLERS 4
static uintptr_t callers[2 * CALLERS];

/* From now on: whether blocks are guarded, and at which end. */
void guard_switch(int on, int begin) { is_on = on, at_begin = begin; }
/* Where the code lies whose blocks are guarded: up to four pairs of addresses, the first and that behind the last. */
void guard_callers(const uintptr_t *pairs, int count) { memcpy(callers, pairs, (size_t)count * 2 * sizeof *pairs); }
long guard_count(void) { return guarded; }

#define CALLER ((uintptr_t)__builtin_return_address(0))

static int is_guarded(const void *p) { return region && (const char *)p >= region && (const char *)p < region + REGION; }

static int reserve(void) {
    static int was_tried;
    if (was_tried++ || sysconf(_SC_PAGESIZE) != PAGE) return 0;
    const size_t pages = REGION / PAGE;
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    blocks = mmap(NULL, pages * sizeof(block), PROT_READ | PROT_WRITE, flags, -1, 0);
    sizes = mmap(NULL, pages * sizeof(size_t), PROT_READ | PROT_WRITE, flags, -1, 0);
    char *at = mmap(NULL, REGION, PROT_NONE, flags, -1, 0);
    if (blocks == MAP_FAILED || sizes == MAP_FAILED || at == MAP_FAILED) return 0;
    region = at;
    return 1;
}

static int is_caller(uintptr_t at) {
    for (int i = 0; i < CALLERS; i++) {
        if (at >= callers[2 * i] && at < callers[2 * i + 1]) return 1;
    }
    return 0;
}

static void *guard(size_t size, size_t alignment, uintptr_t caller) {
    if (!is_on || size > LARGEST || size == 0 || !is_caller(caller)) return NULL;
    int class = 0;
    while (((size_t)PAGE << class) < size + alignment) class++;
    const size_t pages = ((size_t)1 << class) + 1;
    pthread_mutex_lock(&lock);
    uint32_t first = 0;
    if (live < MOST_BLOCKS && (region || reserve())) {
        if ((first = free_blocks[class])) free_blocks[class] = blocks[first].next;
        else if (used_pages + pages < REGION / PAGE) first = (uint32_t)used_pages, used_pages += pages;
    }
    char *begin = region + (size_t)first * PAGE;
    if (first && mprotect(begin, (pages - 1) * PAGE, PROT_READ | PROT_WRITE)) first = 0;
    if (!first) {
        pthread_mutex_unlock(&lock);
        return NULL;
    }
    live++, guarded++;
    blocks[first].pages = (uint32_t)pages;
    sizes[first] = size;
    pthread_mutex_unlock(&lock);
    char *p = begin; /* behind the guard of the block before */
    if (!at_begin) p += (((pages - 1) * PAGE - size) / alignment) * alignment;
    memset(p, 0xFF, size);
    return p;
}

/* The first page of the block that p lies in: pages between have no entry. */
static uint32_t first_page(const void *p) {
    uint32_t page = (uint32_t)(((const char *)p - region) / PAGE);
    while (!blocks[page].pages) page--;
    return page;
}

static void release(void *p) {
    pthread_mutex_lock(&lock);
    const uint32_t first = first_page(p);
    const size_t pages = blocks[first].pages - 1;
    char *begin = region + (size_t)first * PAGE;
    madvise(begin, pages * PAGE, MADV_DONTNEED);
    mprotect(begin, pages * PAGE, PROT_NONE);
    int class = 0;
    while (((size_t)1 << class) < pages) class++;
    blocks[first].next = free_blocks[class], free_blocks[class] = first;
    live--;
    pthread_mutex_unlock(&lock);
}

/* As much of malloc's alignment as lets the last byte lie at the page. */
static size_t alignment_of(size_t size) {
    const size_t lowest = size & -size;
    return lowest && lowest < 16 ? lowest : 16;
}

void *malloc(size_t size) {
    void *p = guard(size, alignment_of(size), CALLER);
    return p ? p : __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) return errno = ENOMEM, NULL;
    void *p = guard(bytes, alignment_of(bytes), CALLER);
    return p ? memset(p, 0, bytes) : __libc_calloc(count, size);
}

void free(void *p) {
    if (is_guarded(p)) release(p);
    else __libc_free(p);
}

void *realloc(void *p, size_t size) {
    if (!is_guarded(p)) return __libc_realloc(p, size);
    void *moved = guard(size, alignment_of(size), CALLER);
    if (!moved) moved = __libc_malloc(size);
    if (!moved) return NULL;
    const size_t before = sizes[first_page(p)];
    memcpy(moved, p, before < size ? before : size);
    release(p);
    return moved;
}

static void *aligned(size_t alignment, size_t size, uintptr_t caller) {
    void *p = alignment <= PAGE ? guard(size, alignment, caller) : NULL;
    return p ? p : __libc_memalign(alignment, size);
}

void *memalign(size_t alignment, size_t size) { return aligned(alignment, size, CALLER); }
void *aligned_alloc(size_t alignment, size_t size) { return aligned(alignment, size, CALLER); }

int posix_memalign(void **p, size_t alignment, size_t size) {
    *p = aligned(alignment, size, CALLER);
    return *p ? 0 : ENOMEM;
}

size_t malloc_usable_size(void *p) {
    static size_t (*of_glibc)(void *);
    if (is_guarded(p)) return sizes[first_page(p)];
    if (!of_glibc) of_glibc = (size_t(*)(void *))(uintptr_t)dlsym(RTLD_NEXT, "malloc_usable_size");
    return of_glibc ? of_glibc(p) : 0;
}
