/* Notes what a disk has been made to keep: at each successful fsync or fdatasync of a regular file, its length when the
 * sync began. A line "INODE LENGTH" is appended to the file that SYNCED_NOTES names; what is never noted, a power cut may
 * take (power.py). SYNCED_SLOWLY: milliseconds that every sync takes longer, as on a disk that is busy.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int noted(const char *name, int fd)
{
    int (*sync_file)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    const char *notes = getenv("SYNCED_NOTES"), *slowly = getenv("SYNCED_SLOWLY");
    struct stat before;
    int is_file = fstat(fd, &before) == 0 && S_ISREG(before.st_mode);

    if (is_file && slowly != NULL)
        usleep(1000 * (useconds_t)atoi(slowly));
    int failed = sync_file(fd), reason = errno;
    if (failed == 0 && is_file && notes != NULL) {
        char line[64];
        snprintf(line, sizeof line, "%llu %lld\n", (unsigned long long)before.st_ino, (long long)before.st_size);
        int file = open(notes, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        /* In one write, which threads and children of the server do not mix up. Without its note the sync did not happen. */
        if (file < 0 || write(file, line, strlen(line)) != (ssize_t)strlen(line))
            abort();
        close(file);
    }
    errno = reason;
    return failed;
}

int fsync(int fd)
{
    return noted("fsync", fd);
}

int fdatasync(int fd)
{
    return noted("fdatasync", fd);
}
