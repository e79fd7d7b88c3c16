// Loaded before a program (LD_PRELOAD): writes down its calls on files below a directory, in their order over all threads, and
// lets one of them fail. The Python programs beside it compile and use it.
//
//   CALLS_BELOW    the directory
//   CALLS_LOG      a file to append to, a line for each call:  number call path [path] [bytes in hexadecimal digits]
//   CALLS_AT       the number of the call that fails, from 1 on; number 0 is none
//   CALLS_ERROR    its errno, "short" (a write or read of half the bytes; other calls take place), or "kill" (SIGKILL before it)
//   CALLS_FORGET   a pattern of paths whose fsyncs are passed over, as if the program had none
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static pthread_mutex_t order = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static long counted;

// The path that `name` in `directory` stands for; whether it lies below CALLS_BELOW.
static int resolve(int directory, const char *name, char *path) {
    const char *below = getenv("CALLS_BELOW");
    if (!below)
        return 0;
    path[0] = 0;
    if (!name || name[0] != '/') {
        char link[64];
        snprintf(link, sizeof link, directory == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", directory);
        ssize_t length = readlink(link, path, PATH_MAX - 1);
        path[length < 0 ? 0 : length] = 0;
        if (name && name[0])
            strncat(path, "/", PATH_MAX - strlen(path) - 1);
    }
    if (name)
        strncat(path, name, PATH_MAX - strlen(path) - 1);
    size_t length = strlen(below);
    return !strncmp(path, below, length) && (path[length] == '/' || !path[length]);
}

// Counts a call and writes it down; what it is to fail with: an errno, -1 for "short", 0 for nothing.
static int count(const char *call, const char *path, const char *other, const unsigned char *bytes, size_t size) {
    long number = ++counted;
    const char *at = getenv("CALLS_AT"), *error = getenv("CALLS_ERROR"), *log = getenv("CALLS_LOG");
    int fails = at && atol(at) == number;
    if (fails && !strcmp(error, "kill"))
        kill(getpid(), SIGKILL);
    int is_short = fails && !strcmp(error, "short") && size > 1;
    if (log) {
        FILE *file = fopen(log, "a");
        fprintf(file, "%ld\t%s\t%s\t%s\t", number, fails && !is_short ? "failed" : call, path, other ? other : "");
        for (size_t i = 0; bytes && i < (is_short ? size / 2 : size); i++)
            fprintf(file, "%02x", bytes[i]);
        fputc('\n', file);
        fclose(file);
    }
    return is_short ? -1 : fails ? atoi(error) : 0;
}

// A call without bytes: it fails as told, or takes place, while no other does.
#define CALL(type, failed, name, directory, at, other, real)                                                           \
    do {                                                                                                               \
        char path[PATH_MAX];                                                                                           \
        int saved = errno;                                                                                             \
        if (!resolve(directory, at, path)) {                                                                           \
            errno = saved;                                                                                             \
            return real;                                                                                               \
        }                                                                                                              \
        pthread_mutex_lock(&order);                                                                                    \
        int error = count(name, path, other, 0, 0);                                                                    \
        errno = error > 0 ? error : saved;                                                                             \
        type result = error > 0 ? failed : real;                                                                       \
        pthread_mutex_unlock(&order);                                                                                  \
        return result;                                                                                                 \
    } while (0)

static int is_forgotten(int file) {
    char path[PATH_MAX];
    const char *pattern = getenv("CALLS_FORGET");
    return pattern && resolve(file, 0, path) && !fnmatch(pattern, path, FNM_PATHNAME);
}

int fsync(int file) {
    if (is_forgotten(file))
        return 0;
    CALL(int, -1, "sync", file, 0, 0, REAL(fsync)(file));
}
int fdatasync(int file) {
    if (is_forgotten(file))
        return 0;
    CALL(int, -1, "sync", file, 0, 0, REAL(fdatasync)(file));
}

static const char *opening(int flags) {
    return flags & O_TRUNC ? "truncate" : flags & O_CREAT ? "create" : "open";
}
static int opened(int directory, const char *name, int flags, mode_t mode) {
    CALL(int, -1, opening(flags), directory, name, 0, REAL(openat64)(directory, name, flags, mode));
}
#define MODE                                                                                                           \
    va_list rest;                                                                                                      \
    va_start(rest, flags);                                                                                             \
    mode_t mode = va_arg(rest, mode_t);                                                                                \
    va_end(rest)
int open(const char *name, int flags, ...) {
    MODE;
    return opened(AT_FDCWD, name, flags, mode);
}
int open64(const char *name, int flags, ...) {
    MODE;
    return opened(AT_FDCWD, name, flags, mode);
}
int openat(int directory, const char *name, int flags, ...) {
    MODE;
    return opened(directory, name, flags, mode);
}
int openat64(int directory, const char *name, int flags, ...) {
    MODE;
    return opened(directory, name, flags, mode);
}

int rename(const char *from, const char *to) {
    char other[PATH_MAX];
    resolve(AT_FDCWD, to, other);
    CALL(int, -1, "rename", AT_FDCWD, from, other, REAL(rename)(from, to));
}
int mkdir(const char *name, mode_t mode) {
    CALL(int, -1, "mkdir", AT_FDCWD, name, 0, REAL(mkdir)(name, mode));
}
int rmdir(const char *name) {
    CALL(int, -1, "rmdir", AT_FDCWD, name, 0, REAL(rmdir)(name));
}
int unlink(const char *name) {
    CALL(int, -1, "unlink", AT_FDCWD, name, 0, REAL(unlink)(name));
}
int unlinkat(int directory, const char *name, int flags) {
    CALL(int, -1, flags & AT_REMOVEDIR ? "rmdir" : "unlink", directory, name, 0, REAL(unlinkat)(directory, name, flags));
}
int fchmod(int file, mode_t mode) {
    CALL(int, -1, "chmod", file, 0, 0, REAL(fchmod)(file, mode));
}
int statx(int directory, const char *name, int flags, unsigned mask, struct statx *into) {
    CALL(int, -1, "stat", directory, name, 0, REAL(statx)(directory, name, flags, mask, into));
}
int fstat64(int file, struct stat64 *into) {
    CALL(int, -1, "stat", file, 0, 0, REAL(fstat64)(file, into));
}
DIR *opendir(const char *name) {
    CALL(DIR *, 0, "list", AT_FDCWD, name, 0, REAL(opendir)(name));
}
DIR *fdopendir(int directory) {
    CALL(DIR *, 0, "list", directory, 0, 0, REAL(fdopendir)(directory));
}
struct dirent64 *readdir64(DIR *directory) {
    CALL(struct dirent64 *, 0, "list", dirfd(directory), 0, 0, REAL(readdir64)(directory));
}

// A call that moves bytes: it fails as told, moves half of them, or takes place. What it writes is written down.
#define MOVE(name, written)                                                                                            \
    do {                                                                                                               \
        char path[PATH_MAX];                                                                                           \
        int saved = errno, is_below = resolve(file, 0, path);                                                          \
        errno = saved;                                                                                                 \
        if (!is_below)                                                                                                 \
            return REAL(name)(file, bytes, size);                                                                      \
        pthread_mutex_lock(&order);                                                                                    \
        int error = count(#name, path, 0, written, size);                                                              \
        errno = error > 0 ? error : saved;                                                                             \
        ssize_t result = error > 0 ? -1 : REAL(name)(file, bytes, error ? size / 2 : size);                            \
        pthread_mutex_unlock(&order);                                                                                  \
        return result;                                                                                                 \
    } while (0)

ssize_t write(int file, const void *bytes, size_t size) {
    MOVE(write, bytes);
}
ssize_t read(int file, void *bytes, size_t size) {
    MOVE(read, 0);
}

// Calls that would change a file unseen: the recording would be wrong.
static long unseen(const char *call, int file) {
    char path[PATH_MAX];
    if (!resolve(file, 0, path))
        return 0;
    dprintf(2, "calls.c does not know %s of %s\n", call, path);
    abort();
}
ssize_t writev(int file, const struct iovec *parts, int count) {
    unseen("writev", file);
    return REAL(writev)(file, parts, count);
}
ssize_t pwrite64(int file, const void *bytes, size_t size, off64_t at) {
    unseen("pwrite", file);
    return REAL(pwrite64)(file, bytes, size, at);
}
int ftruncate64(int file, off64_t size) {
    unseen("ftruncate", file);
    return REAL(ftruncate64)(file, size);
}
