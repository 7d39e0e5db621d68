/* Follows nginx's access log and says, whenever it changes, how many answers had which status.
 *
 *     log-shipper /var/log/nginx/access.log
 *     status=200 count=3
 *
 * The log may not be there yet, may be cut to nothing, and may be replaced by a new file: it is
 * looked at five times a second. WASI preview 1 has no notification of changed files.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* A status has three digits. */
static unsigned long counts[1000], printed[1000];

/* The status of one line of the "common" or "combined" format, or -1:
 *     127.0.0.1 - - [21/Nov/2026:07:00:00 +0000] "GET / HTTP/1.1" 200 615 "-" "curl"
 * nginx writes a quotation mark inside of the request as \x22, so the second one ends it. */
static int status_of(const char *line) {
    const char *quote = strchr(line, '"');
    if (quote == NULL || (quote = strchr(quote + 1, '"')) == NULL || quote[1] != ' ')
        return -1;
    int status = 0;
    for (int i = 2; i < 5; i++) {
        if (quote[i] < '0' || quote[i] > '9')
            return -1;
        status = status * 10 + (quote[i] - '0');
    }
    return status;
}

static void print_changes(void) {
    for (int status = 0; status < 1000; status++) {
        if (counts[status] != printed[status]) {
            printf("status=%d count=%lu\n", status, counts[status]);
            printed[status] = counts[status];
        }
    }
    fflush(stdout);
}

/* What has been read of a line that is not whole yet. Longer lines are not looked at. */
static char line[16384];
static size_t length;
static int too_long;

static void take(const char *bytes, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (bytes[i] == '\n') {
            line[length] = '\0';
            int status = too_long ? -1 : status_of(line);
            if (status >= 0)
                counts[status]++;
            length = 0;
            too_long = 0;
        } else if (length + 1 < sizeof line) {
            line[length++] = bytes[i];
        } else {
            too_long = 1;
        }
    }
}

/* Reads what was added to the file; 0 if it ends here. */
static int read_more(int log, off_t *at) {
    static char buffer[65536];
    ssize_t count = pread(log, buffer, sizeof buffer, *at);
    if (count < 0) {
        perror("log-shipper: read");
        return 0;
    }
    take(buffer, (size_t)count);
    *at += count;
    return count > 0;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: log-shipper FILE\n");
        return 2;
    }
    const struct timespec pause = {.tv_nsec = 200 * 1000 * 1000};
    int log = -1, complained = 0;
    ino_t inode = 0;
    off_t at = 0;
    for (;; nanosleep(&pause, NULL)) {
        struct stat found;
        int there = stat(argv[1], &found) == 0;
        if (log >= 0) {
            while (read_more(log, &at)) {
            }
            if (there && found.st_ino == inode) {
                if (found.st_size < at) { /* cut: what is in it now is new */
                    at = 0;
                    length = 0;
                }
            } else { /* moved away: its successor is read from the start */
                close(log);
                log = -1;
            }
        }
        if (log < 0 && there) {
            log = open(argv[1], O_RDONLY);
            if (log < 0 && !complained) {
                fprintf(stderr, "log-shipper: %s: %s\n", argv[1], strerror(errno));
                complained = 1;
            }
            if (log >= 0) {
                inode = found.st_ino;
                at = 0;
                length = 0;
                while (read_more(log, &at)) {
                }
            }
        }
        print_changes();
    }
}
