/* Sockets of WASI preview 1: the guest finds them open, from descriptor 3 on.
 *
 *   sockets.wasm echo COUNT     says "listening"; echoes COUNT connections, one after the other
 *   sockets.wasm poll COUNT     the same, all at a time, with poll and without blocking
 *   sockets.wasm stdin          says "waiting"; polls standard input and the socket, and says which it was
 *   sockets.wasm errors         accepts one connection and tells of every call that makes no sense
 *   sockets.wasm full           accepts until it cannot, and says why
 *
 * An error ends with 1 and its reason on stderr.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LISTENER = 3, MOST = 32 };

static int fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    return 1;
}

/* Tells whoever waits that a connection is expected from now on. */
static void ready(void)
{
    printf("listening at %s\n", getenv("LISTEN_FDS") ? getenv("LISTEN_FDS") : "nothing");
}

static int echo(int count)
{
    /* As large as the stack. */
    static char buffer[1 << 16];

    ready();
    for (int i = 0; i < count; i++) {
        ssize_t got;
        int connection = accept(LISTENER, NULL, NULL);

        if (connection < 0)
            return fail("accept");
        while ((got = recv(connection, buffer, sizeof buffer, 0)) > 0)
            for (ssize_t sent = 0, now; sent < got; sent += now)
                if ((now = send(connection, buffer + sent, (size_t)(got - sent), 0)) < 0)
                    return fail("send");
        if (got < 0)
            return fail("recv");
        if (shutdown(connection, SHUT_WR) != 0 || close(connection) != 0)
            return fail("close");
    }
    return 0;
}

/* What came of one connection that has something to say: 1 if it is over. */
static int echo_some(int connection)
{
    char buffer[4096];
    ssize_t got = read(connection, buffer, sizeof buffer);

    if (got < 0)
        return errno == EAGAIN ? 0 : -1;
    for (ssize_t sent = 0, now; sent < got; sent += now) {
        now = write(connection, buffer + sent, (size_t)(got - sent));
        if (now < 0 && errno != EAGAIN)
            return -1;
        if (now < 0) {
            struct pollfd room = {.fd = connection, .events = POLLOUT};

            if (poll(&room, 1, -1) != 1)
                return -1;
            now = 0;
        }
    }
    return got == 0;
}

static int poll_all(int count)
{
    struct pollfd fds[MOST] = {{.fd = LISTENER, .events = POLLIN}};
    int open = 1, accepted = 0, over = 0;

    if (fcntl(LISTENER, F_SETFL, O_NONBLOCK) != 0)
        return fail("fcntl");
    if (accept(LISTENER, NULL, NULL) >= 0 || errno != EAGAIN)
        return fail("accept without a client");
    ready();
    while (over < count) {
        if (poll(fds, (nfds_t)open, -1) < 1)
            return fail("poll");
        for (int i = open - 1; i > 0; i--) {
            int ended = fds[i].revents ? echo_some(fds[i].fd) : 0;

            if (ended < 0)
                return fail("echo");
            if (ended) {
                close(fds[i].fd);
                fds[i] = fds[--open];
                over++;
            }
        }
        if (fds[0].revents && open < MOST) {
            int connection = accept4(LISTENER, NULL, NULL, SOCK_NONBLOCK);

            if (connection < 0 && errno != EAGAIN)
                return fail("accept4");
            if (connection >= 0) {
                fds[open++] = (struct pollfd){.fd = connection, .events = POLLIN};
                accepted++;
            }
        }
    }
    printf("%d accepted\n", accepted);
    return 0;
}

static int either(void)
{
    struct pollfd fds[] = {{.fd = 0, .events = POLLIN}, {.fd = LISTENER, .events = POLLIN}};
    char line[64];

    puts("waiting");
    for (;;) {
        if (poll(fds, 2, 60000) < 1)
            return fail("poll");
        if (fds[0].revents) {
            if (!fgets(line, sizeof line, stdin))
                return 0;
            printf("line %s", line);
        }
        if (fds[1].revents) {
            puts("connection");
            close(accept(LISTENER, NULL, NULL));
        }
    }
}

static void tell(const char *what, long result)
{
    printf("%s: %s\n", what, result < 0 ? strerror(errno) : "fine");
}

static int errors(void)
{
    char byte = 'x';
    struct stat stat;
    int connection = accept(LISTENER, NULL, NULL);

    if (connection < 0)
        return fail("accept");
    tell("accept of a connection", accept(connection, NULL, NULL));
    tell("accept of stdin", accept(0, NULL, NULL));
    tell("accept of nothing", accept(99, NULL, NULL));
    tell("recv of a listener", recv(LISTENER, &byte, 1, 0));
    tell("send to a listener", send(LISTENER, &byte, 1, 0));
    tell("shutdown of a listener", shutdown(LISTENER, SHUT_RDWR));
    tell("lseek", (long)lseek(connection, 0, SEEK_SET));
    tell("pread", pread(connection, &byte, 1, 0));
    tell("pwrite", pwrite(connection, &byte, 1, 0));
    tell("ftruncate", ftruncate(connection, 0));
    tell("fsync", fsync(connection));
    tell("openat", openat(connection, "x", O_RDONLY));
    tell("send of stdout", send(1, &byte, 1, 0));
    tell("fstat", fstat(connection, &stat));
    printf("a socket: %d\n", S_ISSOCK(stat.st_mode));
    tell("peek", recv(connection, &byte, 1, MSG_PEEK));
    tell("recv", recv(connection, &byte, 1, 0));
    tell("shutdown", shutdown(connection, SHUT_WR));
    tell("send after it", send(connection, &byte, 1, 0));
    tell("close", close(connection));
    tell("close again", close(connection));
    return 0;
}

static int full(void)
{
    int count = 0;

    puts("listening");
    while (accept(LISTENER, NULL, NULL) >= 0)
        count++;
    printf("%s after %s\n", strerror(errno), count ? "some" : "none");
    return 0;
}

int main(int argc, char **argv)
{
    const char *job = argc > 1 ? argv[1] : "";
    struct stat root;

    setvbuf(stdout, NULL, _IOLBF, 0);
    /* Whoever finds sockets must find files, too. */
    if (stat("/", &root) != 0)
        return fail("/");
    if (strcmp(job, "errors") == 0)
        return errors();
    if (strcmp(job, "stdin") == 0)
        return either();
    if (strcmp(job, "full") == 0)
        return full();
    if (argc == 3 && (strcmp(job, "echo") == 0 || strcmp(job, "poll") == 0))
        return *job == 'e' ? echo(atoi(argv[2])) : poll_all(atoi(argv[2]));
    fprintf(stderr, "sockets: unknown job %s\n", job);
    return 2;
}
