/* A disk that fails when it is told to. Loaded before libc, this stands in for the calls by which the journal reaches
   the disk; what is wrong at a moment is said by the files in the directory FAULTY_DISK:
   stall          no sync comes back (the first one that waits makes the file `stalled`)
   fail-one-sync  the next sync fails, and the file goes
   no-names       no directory can be synced
   no-runs        no run of the embedded store can be synced
   full           of a write only half fits, and then nothing */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *path_of(const char *fault, char path[4096]) {
    const char *dir = getenv("FAULTY_DISK");
    snprintf(path, 4096, "%s/%s", dir ? dir : "/nonexistent", fault);
    return path;
}

static int is_told(const char *fault) {
    char path[4096];
    return access(path_of(fault, path), F_OK) == 0;
}

int fdatasync(int fd) {
    int (*sync)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    char path[4096];
    while (is_told("stall")) {
        int stalled = open(path_of("stalled", path), O_CREAT | O_WRONLY, 0600);
        if (stalled >= 0) close(stalled);
        usleep(1000);
    }
    if (unlink(path_of("fail-one-sync", path)) == 0) {
        errno = EIO;
        return -1;
    }
    return sync(fd);
}

static int is_directory(int fd) {
    struct stat file;
    return fstat(fd, &file) == 0 && S_ISDIR(file.st_mode);
}

static int is_run(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    return strstr(path, "/embedded/run-") != NULL;
}

int fsync(int fd) {
    int (*sync)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    if ((is_told("no-names") && is_directory(fd)) || (is_told("no-runs") && is_run(fd))) {
        errno = EIO;
        return -1;
    }
    return sync(fd);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    ssize_t (*write_at)(int, const void *, size_t, off64_t) =
        (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    if (!is_told("full")) return write_at(fd, bytes, count, at);
    if (count > 100) return write_at(fd, bytes, count / 2, at);
    errno = ENOSPC;
    return -1;
}
