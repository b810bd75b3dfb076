/* Preloaded into the server: fsync and fdatasync that are slow or fail, as the file $TORTURE_FSYNC says now.
   It holds one number: milliseconds to wait, or -1 to fail with EIO; empty or missing: none of both. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static int hurt(void) {
    char text[16] = {0};
    const char *path = getenv("TORTURE_FSYNC");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return 0;
    ssize_t got = read(file, text, sizeof text - 1);
    close(file);
    int wait = got > 0 ? atoi(text) : 0;
    if (wait > 0) usleep((useconds_t)wait * 1000);
    return wait < 0;
}

static int flush(const char *name, int file) {
    if (hurt()) { errno = EIO; return -1; }
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    return real(file);
}

int fsync(int file) { return flush("fsync", file); }
int fdatasync(int file) { return flush("fdatasync", file); }
