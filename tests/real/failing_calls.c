/* Makes the n-th call of a kind on the files under one directory fail, in a program that is started with this preloaded.

   Knows nothing of the program. What is to fail stands in a file that whoever runs the program maps too: so that it can be
   changed, and counted, while the program runs, and counts over all threads and processes of it. A tracer could do the
   same, but counts each thread by itself, and the calls of a store are spread over many. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { WRITE = 1, SYNC = 2, OPEN = 4, NAME = 8, READ = 16 };

/* The same layout in failing.py. */
struct plan {
  _Atomic int armed, kinds, error, ignored;
  _Atomic long at, times, count, failed;
  /* A bad sector: no byte of this inode from here to there can be read. */
  _Atomic long sick, from, to;
};

static struct plan *plan;
static const char *under;

__attribute__((constructor)) static void start(void) {
  const char *file = getenv("FAILING_PLAN");
  under = getenv("FAILING_UNDER");
  int fd = file && under ? (int)open(file, O_RDWR | O_CLOEXEC) : -1;
  if (fd < 0) return;
  void *shared = mmap(NULL, sizeof *plan, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (shared != MAP_FAILED) plan = shared;
  close(fd);
}

static int concerns(const char *path) { return path && strncmp(path, under, strlen(under)) == 0; }

/* Whether this call is to fail; sets errno then. */
static int fails(enum kind kind) {
  if (!(atomic_load(&plan->kinds) & kind)) return 0;
  long number = atomic_fetch_add(&plan->count, 1) + 1, at = atomic_load(&plan->at), times = atomic_load(&plan->times);
  if (number < at || (times && number >= at + times)) return 0;
  atomic_fetch_add(&plan->failed, 1);
  errno = atomic_load(&plan->error);
  return 1;
}

static int armed(void) { return plan && atomic_load(&plan->armed); }

static int path_fails(enum kind kind, int directory, const char *path) {
  if (!armed()) return 0;
  char base[PATH_MAX], link[64];
  if (path && path[0] != '/' && directory != AT_FDCWD) {
    snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    ssize_t length = readlink(link, base, sizeof base - 1);
    base[length < 0 ? 0 : length] = 0;
    path = base;
  }
  return concerns(path) && fails(kind);
}

static int file_fails(enum kind kind, int fd) {
  if (!armed()) return 0;
  char path[PATH_MAX], link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  int before = errno;
  ssize_t length = readlink(link, path, sizeof path - 1);
  errno = before;
  path[length < 0 ? 0 : length] = 0;
  return concerns(path) && fails(kind);
}

/* How many of the bytes from `at` on can be read of a file; -1, with errno, where not even the first can. */
static ssize_t readable(int fd, off64_t at, size_t size) {
  struct stat file;
  int before = errno;
  long sick = plan ? atomic_load(&plan->sick) : 0, from = sick ? atomic_load(&plan->from) : 0;
  if (!sick || fstat(fd, &file) < 0 || (long)file.st_ino != sick || at >= atomic_load(&plan->to) || at + (off64_t)size <= from) {
    errno = before;
    return (ssize_t)size;
  }
  if (at < from) return from - at;
  errno = EIO;
  return -1;
}

/* A sync that is ignored says that it has succeeded: what a disk that lies does. */
static int ignored(void) { return armed() && atomic_load(&plan->ignored); }

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define ON_FILE(kind, result, name, parameters, fd, ...)    \
  result name parameters {                                  \
    if (file_fails(kind, fd)) return -1;                    \
    return NEXT(name)(__VA_ARGS__);                         \
  }
#define SYNCING(name, parameters, fd, ...)                  \
  int name parameters {                                     \
    if (file_fails(SYNC, fd)) return -1;                    \
    return ignored() ? 0 : NEXT(name)(__VA_ARGS__);         \
  }
#define ON_PATH(kind, result, name, parameters, directory, path, ...) \
  result name parameters {                                            \
    if (path_fails(kind, directory, path)) return -1;                 \
    return NEXT(name)(__VA_ARGS__);                                   \
  }

ON_FILE(WRITE, ssize_t, write, (int fd, const void *data, size_t size), fd, fd, data, size)
ON_FILE(WRITE, ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), fd, fd, data, size, at)
ON_FILE(WRITE, ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), fd, fd, data, size, at)
ON_FILE(WRITE, ssize_t, writev, (int fd, const struct iovec *parts, int count), fd, fd, parts, count)
ON_FILE(WRITE, ssize_t, pwritev, (int fd, const struct iovec *parts, int count, off_t at), fd, fd, parts, count, at)
ON_FILE(WRITE, ssize_t, pwritev64, (int fd, const struct iovec *parts, int count, off64_t at), fd, fd, parts, count, at)
ssize_t read(int fd, void *data, size_t size) {
  if (file_fails(READ, fd)) return -1;
  ssize_t some = readable(fd, plan && plan->sick ? lseek64(fd, 0, SEEK_CUR) : 0, size);
  return some < 0 ? -1 : NEXT(read)(fd, data, (size_t)some);
}
/* The n-th of these does not fail: what the engine reads in that way was read from one end to the other a moment before, and
   comes from memory. */
ssize_t pread(int fd, void *data, size_t size, off_t at) {
  ssize_t some = readable(fd, at, size);
  return some < 0 ? -1 : NEXT(pread)(fd, data, (size_t)some, at);
}
ssize_t pread64(int fd, void *data, size_t size, off64_t at) {
  ssize_t some = readable(fd, at, size);
  return some < 0 ? -1 : NEXT(pread64)(fd, data, (size_t)some, at);
}
/* A copy within the kernel has no offset to look at: it meets the sector. */
ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *there, size_t size, unsigned flags) {
  return readable(from, 0, SSIZE_MAX) < 0 || readable(from, 0, SSIZE_MAX) != SSIZE_MAX
             ? (errno = EIO, -1)
             : NEXT(copy_file_range)(from, at, to, there, size, flags);
}
SYNCING(fsync, (int fd), fd, fd)
SYNCING(fdatasync, (int fd), fd, fd)
SYNCING(syncfs, (int fd), fd, fd)
SYNCING(sync_file_range, (int fd, off64_t at, off64_t size, unsigned flags), fd, fd, at, size, flags)
ON_FILE(NAME, int, ftruncate, (int fd, off_t size), fd, fd, size)
ON_FILE(NAME, int, ftruncate64, (int fd, off64_t size), fd, fd, size)
ON_PATH(NAME, int, rename, (const char *from, const char *to), AT_FDCWD, from, from, to)
ON_PATH(NAME, int, mkdir, (const char *path, mode_t mode), AT_FDCWD, path, path, mode)
ON_PATH(NAME, int, unlink, (const char *path), AT_FDCWD, path, path)
ON_PATH(NAME, int, rmdir, (const char *path), AT_FDCWD, path, path)
ON_PATH(NAME, int, unlinkat, (int directory, const char *path, int flags), directory, path, directory, path, flags)

#define MODE                                        \
  va_list rest;                                     \
  va_start(rest, flags);                            \
  mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
  va_end(rest);

int open(const char *path, int flags, ...) {
  MODE
  return path_fails(OPEN, AT_FDCWD, path) ? -1 : NEXT(open)(path, flags, mode);
}
int open64(const char *path, int flags, ...) {
  MODE
  return path_fails(OPEN, AT_FDCWD, path) ? -1 : NEXT(open64)(path, flags, mode);
}
int openat(int directory, const char *path, int flags, ...) {
  MODE
  return path_fails(OPEN, directory, path) ? -1 : NEXT(openat)(directory, path, flags, mode);
}
int openat64(int directory, const char *path, int flags, ...) {
  MODE
  return path_fails(OPEN, directory, path) ? -1 : NEXT(openat64)(directory, path, flags, mode);
}
