/* Preloaded into the server: fsync and fdatasync that are slow or fail. The file $TORTURE_FSYNC holds four numbers of
   64 bits, shared with the harness: what to do (milliseconds to wait, or -1 to fail with EIO; 0: none of both), and what
   was done: calls that waited, nanoseconds from their begin to their end, calls that failed. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { ORDER, SLOWED, NANOSECONDS, FAILED, NUMBERS };
static int64_t *shared;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("TORTURE_FSYNC");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *found = mmap(NULL, NUMBERS * sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (found != MAP_FAILED) shared = found;
}

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static int flush(const char *name, int file) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    int64_t order = shared ? __atomic_load_n(&shared[ORDER], __ATOMIC_SEQ_CST) : 0;
    if (order == 0) return real(file);
    if (order < 0) {
        __atomic_add_fetch(&shared[FAILED], 1, __ATOMIC_SEQ_CST);
        errno = EIO;
        return -1;
    }
    int64_t start = now(), end = start + order * INT64_C(1000000);
    struct timespec until = {end / INT64_C(1000000000), end % INT64_C(1000000000)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR) continue; /* no signal hurries a disk */
    int done = real(file);
    __atomic_add_fetch(&shared[NANOSECONDS], now() - start, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&shared[SLOWED], 1, __ATOMIC_SEQ_CST);
    return done;
}

int fsync(int file) { return flush("fsync", file); }
int fdatasync(int file) { return flush("fdatasync", file); }
