/* Makes one call of a process to the disk fail. Loaded with LD_PRELOAD; configured by environment:
 *
 *   FAULT_UNDER   the directory whose files count, with a slash at its end
 *   FAULT_CALL    which call: open, read, write, sync, truncate, rename, unlink or mkdir
 *   FAULT_NUMBER  which one of them, from 1 on, in all threads together; 0: none, they are counted
 *   FAULT_ERROR   EIO, ENOSPC, or SHORT: half of the bytes are read or written; with -STAYS behind it
 *                 all later ones of that kind fail too
 *   FAULT_REPORT  a file that gets a line with the call and the file when it fails, and, where it is
 *                 asked for with number 0, a line for each call
 *
 * The call that fails does nothing: a failed write writes nothing, a failed sync syncs nothing.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long calls;

static void report(const char *call, const char *path) {
    const char *to = getenv("FAULT_REPORT");
    char line[4200];
    int length = snprintf(line, sizeof line, "%s %s\n", call, path);
    int file = syscall(SYS_openat, AT_FDCWD, to, O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (file >= 0) {
        if (syscall(SYS_write, file, line, length) < 0) abort();
        syscall(SYS_close, file);
    }
}

/* Whether this is the call that fails. `errno` is set then. */
static int fails(const char *call, const char *path) {
    const char *under = getenv("FAULT_UNDER"), *wanted = getenv("FAULT_CALL");
    if (!under || !wanted || !path) return 0;
    if (strncmp(path, under, strlen(under)) != 0 || strcmp(call, wanted) != 0) return 0;
    long number = atol(getenv("FAULT_NUMBER")), this = atomic_fetch_add(&calls, 1) + 1;
    int stays = strstr(getenv("FAULT_ERROR"), "-STAYS") != NULL;
    if (number != 0 && (stays ? this < number : this != number)) return 0;
    report(call, path + strlen(under));
    if (number == 0) return 0;
    errno = strncmp(getenv("FAULT_ERROR"), "ENOSPC", 6) == 0 ? ENOSPC : EIO;
    return 1;
}

static int is_short(void) { return strcmp(getenv("FAULT_ERROR"), "SHORT") == 0; }

static int fails_on(const char *call, int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return fails(call, path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* `real` is called with the arguments and `count` bytes. */
#define TRANSFER(call, file, count, real)                            \
    do {                                                             \
        if (fails_on(call, file)) {                                  \
            if (!is_short() || (count) < 2) return is_short() ? (real) : -1; \
            (count) /= 2;                                            \
        }                                                            \
        return (real);                                               \
    } while (0)

ssize_t read(int file, void *to, size_t count) {
    TRANSFER("read", file, count, REAL(read)(file, to, count));
}
ssize_t pread(int file, void *to, size_t count, off_t at) {
    TRANSFER("read", file, count, REAL(pread)(file, to, count, at));
}
ssize_t pread64(int file, void *to, size_t count, off64_t at) {
    TRANSFER("read", file, count, REAL(pread64)(file, to, count, at));
}
ssize_t write(int file, const void *from, size_t count) {
    TRANSFER("write", file, count, REAL(write)(file, from, count));
}
ssize_t pwrite(int file, const void *from, size_t count, off_t at) {
    TRANSFER("write", file, count, REAL(pwrite)(file, from, count, at));
}
ssize_t pwrite64(int file, const void *from, size_t count, off64_t at) {
    TRANSFER("write", file, count, REAL(pwrite64)(file, from, count, at));
}

int fsync(int file) { return fails_on("sync", file) ? -1 : REAL(fsync)(file); }
int fdatasync(int file) { return fails_on("sync", file) ? -1 : REAL(fdatasync)(file); }
int ftruncate(int file, off_t to) {
    return fails_on("truncate", file) ? -1 : REAL(ftruncate)(file, to);
}
int ftruncate64(int file, off64_t to) {
    return fails_on("truncate", file) ? -1 : REAL(ftruncate64)(file, to);
}
int rename(const char *from, const char *to) {
    return fails("rename", to) ? -1 : REAL(rename)(from, to);
}
int unlink(const char *path) { return fails("unlink", path) ? -1 : REAL(unlink)(path); }
int mkdir(const char *path, mode_t mode) {
    return fails("mkdir", path) ? -1 : REAL(mkdir)(path, mode);
}

#define OPEN(name)                                                   \
    int name(const char *path, int flags, ...) {                     \
        va_list rest;                                                \
        va_start(rest, flags);                                       \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                \
        return fails("open", path) ? -1 : REAL(name)(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
