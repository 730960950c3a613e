/* Preloaded into a process, makes calls on certain files fail as a broken disk does,
   or one that lacks what they ask for.

   FAULT_CALL   which calls: read, write, fsync or flock
   FAULT_NAME   of which files: those whose path holds this
   FAULT_AFTER  how many of these calls succeed; all later ones fail
   FAULT_ERROR  with which number, by default EIO

   A test compiles it: see test_faults.py. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fails(const char *call, int file) {
    static atomic_int n_calls;
    char link[64], path[PATH_MAX];
    if (strcmp(call, getenv("FAULT_CALL")) != 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = '\0';
    if (strstr(path, getenv("FAULT_NAME")) == NULL) return 0;
    if (n_calls++ < atoi(getenv("FAULT_AFTER"))) return 0;
    errno = getenv("FAULT_ERROR") == NULL ? EIO : atoi(getenv("FAULT_ERROR"));
    return 1;
}

/* Defines a function that fails, or goes on to the C library's own of that name. */
#define REPLACE(type, name, call, parameters, ...)                       \
    type name parameters {                                               \
        static type(*plain) parameters;                                  \
        if (plain == NULL) plain = (type(*) parameters) dlsym(RTLD_NEXT, #name); \
        return fails(call, file) ? -1 : plain(__VA_ARGS__);              \
    }

REPLACE(ssize_t, read, "read", (int file, void *to, size_t n), file, to, n)
REPLACE(ssize_t, pread, "read", (int file, void *to, size_t n, off_t at), file, to, n, at)
REPLACE(ssize_t, pread64, "read", (int file, void *to, size_t n, off64_t at), file, to, n, at)
REPLACE(ssize_t, write, "write", (int file, const void *of, size_t n), file, of, n)
REPLACE(ssize_t, pwrite, "write", (int file, const void *of, size_t n, off_t at), file, of, n, at)
REPLACE(ssize_t, pwrite64, "write", (int file, const void *of, size_t n, off64_t at), file, of, n, at)
REPLACE(int, fsync, "fsync", (int file), file)
REPLACE(int, flock, "flock", (int file, int operation), file, operation)
