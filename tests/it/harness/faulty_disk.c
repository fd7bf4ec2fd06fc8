/* A disk that fails when it is told to. Loaded before libc, this stands in for the calls by which the journal reaches
   the disk; what is wrong at a moment is said by the files in the directory FAULTY_DISK:
   stall          no sync comes back (the first one that waits makes the file `stalled`)
   fail-one-sync  the next sync fails, and the file goes
   no-names       no directory can be synced
   no-runs        no run of the embedded store can be synced
   full           of a write only half fits, and then nothing
   no-sync        syncs say that they were done, and do nothing
   Apart from that, FAULTY_DISK_KILL="MOMENT CALL N" kills the process `before` or `after` the Nth of its calls of that
   name, or, of a write, `amid` it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
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

/* Which of the calls that FAULTY_DISK_KILL names this is; 0 if it is none of them. */
static int counted(const char *call) {
    static atomic_int calls;
    char moment[16], named[32];
    int nth;
    const char *kill_at = getenv("FAULTY_DISK_KILL");
    if (!kill_at || sscanf(kill_at, "%15s %31s %d", moment, named, &nth) != 3 || strcmp(named, call)) return 0;
    return atomic_fetch_add(&calls, 1) + 1;
}

static int is_time(const char *at, int call) {
    char moment[16], named[32];
    int nth;
    return call && sscanf(getenv("FAULTY_DISK_KILL"), "%15s %31s %d", moment, named, &nth) == 3 && nth == call &&
           strcmp(moment, at) == 0;
}

static void kill_if(const char *at, int call) {
    if (is_time(at, call)) kill(getpid(), SIGKILL);
}

int fdatasync(int fd) {
    int (*sync)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    int call = counted("fdatasync");
    char path[4096];
    kill_if("before", call);
    if (is_told("no-sync")) return 0;
    while (is_told("stall")) {
        int stalled = open(path_of("stalled", path), O_CREAT | O_WRONLY, 0600);
        if (stalled >= 0) close(stalled);
        usleep(1000);
    }
    if (unlinkat(AT_FDCWD, path_of("fail-one-sync", path), 0) == 0) {
        errno = EIO;
        return -1;
    }
    int result = sync(fd);
    kill_if("after", call);
    return result;
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
    int call = counted("fsync");
    kill_if("before", call);
    if (is_told("no-sync")) return 0;
    if ((is_told("no-names") && is_directory(fd)) || (is_told("no-runs") && is_run(fd))) {
        errno = EIO;
        return -1;
    }
    int result = sync(fd);
    kill_if("after", call);
    return result;
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    ssize_t (*write_at)(int, const void *, size_t, off64_t) =
        (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    int call = counted("pwrite64");
    kill_if("before", call);
    if (is_time("amid", call)) {
        write_at(fd, bytes, count / 2, at);
        kill(getpid(), SIGKILL);
    }
    if (!is_told("full")) {
        ssize_t written = write_at(fd, bytes, count, at);
        kill_if("after", call);
        return written;
    }
    if (count > 100) return write_at(fd, bytes, count / 2, at);
    errno = ENOSPC;
    return -1;
}

int rename(const char *from, const char *to) {
    int (*move)(const char *, const char *) = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
    int call = counted("rename");
    kill_if("before", call);
    int result = move(from, to);
    kill_if("after", call);
    return result;
}

int unlink(const char *path) {
    int (*take)(const char *) = (int (*)(const char *))dlsym(RTLD_NEXT, "unlink");
    int call = counted("unlink");
    kill_if("before", call);
    int result = take(path);
    kill_if("after", call);
    return result;
}

int ftruncate64(int fd, off64_t length) {
    int (*cut)(int, off64_t) = (int (*)(int, off64_t))dlsym(RTLD_NEXT, "ftruncate64");
    int call = counted("ftruncate64");
    kill_if("before", call);
    int result = cut(fd, length);
    kill_if("after", call);
    return result;
}
