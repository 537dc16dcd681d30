/* Preloaded into the command: counts the system calls that change files, and stops or refuses the one of a number.
 *
 * SHIM_AT=N     the call it is about, from 1; without it nothing happens but counting
 * SHIM_DO=kill  the process is killed before that call
 * SHIM_DO=full  that call and every later one that needs room fail: the disk is full
 * SHIM_DO=ro    that call and every later one fail: the file system has become read-only
 * SHIM_LOG=F    how many calls there were is written to F when the process ends
 *
 * What goes to the terminal or a pipe (descriptors up to 2) is neither counted nor refused.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static long count, at;
static int action; /* the first letter of SHIM_DO */

__attribute__((constructor)) static void begin(void) {
    const char *number = getenv("SHIM_AT"), *what = getenv("SHIM_DO");
    at = number ? atol(number) : 0;
    action = what ? what[0] : 0;
}

__attribute__((destructor)) static void end(void) {
    const char *path = getenv("SHIM_LOG");
    if (!path) return;
    int file = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    char text[32];
    int length = snprintf(text, sizeof text, "%ld\n", count);
    if (file >= 0) {
        syscall(SYS_write, file, text, length);
        syscall(SYS_close, file);
    }
}

/* Whether the call is refused. */
static int refused(int needs_room) {
    long now = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    if (!at || now < at) return 0;
    if (action == 'k' && now == at) {
        syscall(SYS_kill, getpid(), SIGKILL);
        for (;;) pause();
    }
    if (action == 'f' && needs_room) return errno = ENOSPC, 1;
    if (action == 'r') return errno = EROFS, 1;
    return 0;
}

#define CALL(...) return syscall(__VA_ARGS__)
#define GUARD(room) if (refused(room)) return -1

ssize_t write(int file, const void *data, size_t size) {
    if (file > 2) GUARD(1);
    CALL(SYS_write, file, data, size);
}
ssize_t writev(int file, const struct iovec *parts, int number) {
    if (file > 2) GUARD(1);
    CALL(SYS_writev, file, parts, number);
}
ssize_t pwrite64(int file, const void *data, size_t size, off64_t offset) {
    GUARD(1);
    CALL(SYS_pwrite64, file, data, size, offset);
}
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags) {
    GUARD(1);
    CALL(SYS_copy_file_range, in, from, out, to, size, flags);
}
ssize_t sendfile64(int out, int in, off64_t *offset, size_t size) {
    if (out > 2) GUARD(1);
    CALL(SYS_sendfile, out, in, offset, size);
}
static int opened(int folder, const char *path, int flags, mode_t mode) {
    if (flags & (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR)) {
        if (strncmp(path, "/dev/", 5) && strncmp(path, "/proc/", 6)) GUARD(flags & O_CREAT);
    }
    CALL(SYS_openat, folder, path, flags, mode);
}
#define MODE(last) va_list rest; va_start(rest, last); mode_t mode = va_arg(rest, mode_t); va_end(rest)
int open64(const char *path, int flags, ...) { MODE(flags); return opened(AT_FDCWD, path, flags, mode); }
int open(const char *path, int flags, ...) { MODE(flags); return opened(AT_FDCWD, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { MODE(flags); return opened(folder, path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { MODE(flags); return opened(folder, path, flags, mode); }
int rename(const char *from, const char *to) { GUARD(0); CALL(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0); }
int unlink(const char *path) { GUARD(0); CALL(SYS_unlinkat, AT_FDCWD, path, 0); }
int unlinkat(int folder, const char *path, int flags) { GUARD(0); CALL(SYS_unlinkat, folder, path, flags); }
int rmdir(const char *path) { GUARD(0); CALL(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR); }
int mkdir(const char *path, mode_t mode) { GUARD(1); CALL(SYS_mkdirat, AT_FDCWD, path, mode); }
int link(const char *from, const char *to) { GUARD(1); CALL(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0); }
int linkat(int a, const char *from, int b, const char *to, int flags) {
    GUARD(1);
    CALL(SYS_linkat, a, from, b, to, flags);
}
int symlink(const char *target, const char *path) { GUARD(1); CALL(SYS_symlinkat, target, AT_FDCWD, path); }
int fsync(int file) { GUARD(0); CALL(SYS_fsync, file); }
int fdatasync(int file) { GUARD(0); CALL(SYS_fdatasync, file); }
int ftruncate64(int file, off64_t size) { GUARD(1); CALL(SYS_ftruncate, file, size); }
int posix_fallocate64(int file, off64_t offset, off64_t size) {
    if (refused(1)) return errno;
    return syscall(SYS_fallocate, file, 0, offset, size) ? errno : 0;
}
