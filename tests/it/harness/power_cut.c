/* Cuts the power of the file system at a path, as soon as a byte comes in: from that moment on nothing written to it
   reaches its disk, not even what its own journal holds back. EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH; XFS
   knows the same call. It says `ready` before it waits and `done` after it cut. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>

int main(int count, char **words) {
    uint32_t without_flushing = 2;
    int fd = count == 2 ? open(words[1], O_RDONLY) : -1;
    puts("ready");
    fflush(stdout);
    if (fd < 0 || getchar() == EOF || ioctl(fd, _IOR('X', 125, uint32_t), &without_flushing) != 0) {
        perror("power_cut");
        return 1;
    }
    puts("done");
    return 0;
}
