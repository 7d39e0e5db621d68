/* Every function of WASI preview 1, by groups, called as it is and not through libc.
 *
 *   calls.wasm GROUP DIR [OTHER]    tries the functions of GROUP in the empty folder DIR
 *
 * It ends with 0 if all was as it should be; else with 1, and the line that was not on stderr. What it can
 * only tell and not judge, such as the environment, is on stdout. OTHER is on another file system.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wasi/api.h>

#define CHECK(what)                                                          \
    do {                                                                     \
        if (!(what)) {                                                       \
            fprintf(stderr, "line %d: not %s\n", __LINE__, #what);           \
            exit(1);                                                         \
        }                                                                    \
    } while (0)

#define IS(call, expected)                                                   \
    do {                                                                     \
        int errno_ = (call);                                                 \
        if (errno_ != (expected)) {                                          \
            fprintf(stderr, "line %d: %s: %d instead of %d (%s)\n",          \
                    __LINE__, #call, errno_, (expected), #expected);         \
            exit(1);                                                         \
        }                                                                    \
    } while (0)

#define WORKS(call) IS(call, 0)

#define READ __WASI_RIGHTS_FD_READ
#define WRITE __WASI_RIGHTS_FD_WRITE
#define FOLLOW __WASI_LOOKUPFLAGS_SYMLINK_FOLLOW

/* The root, and the folder that is ours. */
static __wasi_fd_t root = 3, here;

static __wasi_errno_t open_in(__wasi_fd_t dir, const char *path, int how, int rights, int flags,
                              __wasi_fd_t *fd)
{
    return __wasi_path_open(dir, 0, path, how, rights, 0, flags, fd);
}

static __wasi_fd_t make(const char *name, const char *content)
{
    __wasi_ciovec_t all = {(const uint8_t *)content, strlen(content)};
    __wasi_size_t count;
    __wasi_fd_t fd;

    WORKS(open_in(here, name, __WASI_OFLAGS_CREAT | __WASI_OFLAGS_EXCL, READ | WRITE, 0, &fd));
    WORKS(__wasi_fd_write(fd, &all, 1, &count));
    CHECK(count == strlen(content));
    return fd;
}

/* What can be read at a place, as text. */
static const char *text_at(__wasi_fd_t fd, __wasi_filesize_t offset)
{
    static char text[64];
    __wasi_iovec_t into = {(uint8_t *)text, sizeof text - 1};
    __wasi_size_t count;

    WORKS(__wasi_fd_pread(fd, &into, 1, offset, &count));
    text[count] = 0;
    return text;
}

static void args(void)
{
    __wasi_size_t count, size;

    WORKS(__wasi_args_sizes_get(&count, &size));
    {
        uint8_t *argv[count], buffer[size];

        WORKS(__wasi_args_get(argv, buffer));
        for (__wasi_size_t i = 0; i < count; i++)
            puts((char *)argv[i]);
    }
}

static void environ_(void)
{
    __wasi_size_t count, size;

    WORKS(__wasi_environ_sizes_get(&count, &size));
    if (count > 0) {
        uint8_t *all[count], buffer[size];

        WORKS(__wasi_environ_get(all, buffer));
        for (__wasi_size_t i = 0; i < count; i++)
            puts((char *)all[i]);
    }
}

static void clocks(void)
{
    __wasi_timestamp_t resolution, before, after;

    for (__wasi_clockid_t clock = __WASI_CLOCKID_REALTIME; clock <= __WASI_CLOCKID_MONOTONIC; clock++) {
        WORKS(__wasi_clock_res_get(clock, &resolution));
        CHECK(resolution > 0);
        WORKS(__wasi_clock_time_get(clock, 0, &before));
        WORKS(__wasi_clock_time_get(clock, 0, &after));
        CHECK(after >= before);
    }
    WORKS(__wasi_clock_time_get(__WASI_CLOCKID_REALTIME, 0, &before));
    CHECK(before > 1700000000ull * 1000000000);
}

static void chance(void)
{
    static uint8_t some[100000], more[sizeof some];

    WORKS(__wasi_random_get(some, sizeof some));
    WORKS(__wasi_random_get(more, sizeof more));
    CHECK(memcmp(some, more, sizeof some) != 0);
    WORKS(__wasi_random_get(some, 0));
}

static void process(void)
{
    WORKS(__wasi_sched_yield());
    __wasi_proc_exit(0);
}

static void files(void)
{
    __wasi_fd_t fd = make("file", "0123456789"), other;
    __wasi_filesize_t at;
    __wasi_filestat_t stat;
    __wasi_fdstat_t fdstat;
    __wasi_size_t count;
    char text[8] = "";
    __wasi_iovec_t two[] = {{(uint8_t *)text, 0}, {(uint8_t *)text, 3}};
    __wasi_ciovec_t xy = {(const uint8_t *)"xy", 2};

    WORKS(__wasi_fd_tell(fd, &at));
    CHECK(at == 10);
    WORKS(__wasi_fd_seek(fd, -4, __WASI_WHENCE_CUR, &at));
    CHECK(at == 6);
    WORKS(__wasi_fd_read(fd, two, 2, &count));
    CHECK(count == 3 && strcmp(text, "678") == 0);
    IS(__wasi_fd_seek(fd, -1, __WASI_WHENCE_SET, &at), __WASI_ERRNO_INVAL);
    WORKS(__wasi_fd_seek(fd, 2, __WASI_WHENCE_END, &at));
    WORKS(__wasi_fd_read(fd, two, 2, &count));
    CHECK(at == 12 && count == 0);
    WORKS(__wasi_fd_pwrite(fd, &xy, 1, 4, &count));
    CHECK(strcmp(text_at(fd, 2), "23xy6789") == 0);

    WORKS(__wasi_fd_filestat_get(fd, &stat));
    CHECK(stat.size == 10 && stat.nlink == 1 && stat.filetype == __WASI_FILETYPE_REGULAR_FILE);
    WORKS(__wasi_fd_filestat_set_size(fd, 3));
    WORKS(__wasi_fd_filestat_set_times(fd, 5000000000, 7000000000,
                                       __WASI_FSTFLAGS_ATIM | __WASI_FSTFLAGS_MTIM));
    WORKS(__wasi_fd_filestat_get(fd, &stat));
    CHECK(stat.size == 3 && stat.atim == 5000000000 && stat.mtim == 7000000000);
    IS(__wasi_fd_filestat_set_times(fd, 0, 0, __WASI_FSTFLAGS_ATIM | __WASI_FSTFLAGS_ATIM_NOW),
       __WASI_ERRNO_INVAL);

    WORKS(__wasi_fd_advise(fd, 0, 3, __WASI_ADVICE_SEQUENTIAL));
    IS(__wasi_fd_allocate(fd, 0, 100), __WASI_ERRNO_NOTSUP);
    WORKS(__wasi_fd_datasync(fd));
    WORKS(__wasi_fd_sync(fd));

    WORKS(__wasi_fd_fdstat_get(fd, &fdstat));
    CHECK(fdstat.fs_filetype == __WASI_FILETYPE_REGULAR_FILE && fdstat.fs_flags == 0);
    CHECK((fdstat.fs_rights_base & READ) && (fdstat.fs_rights_base & WRITE));
    WORKS(__wasi_fd_fdstat_set_flags(fd, __WASI_FDFLAGS_APPEND));
    WORKS(__wasi_fd_seek(fd, 0, __WASI_WHENCE_SET, &at));
    WORKS(__wasi_fd_write(fd, &xy, 1, &count));
    CHECK(strcmp(text_at(fd, 0), "012xy") == 0);

    /* One number becomes another, and the one it was is closed. */
    other = make("other", "other");
    WORKS(__wasi_fd_renumber(fd, other));
    IS(__wasi_fd_tell(fd, &at), __WASI_ERRNO_BADF);
    CHECK(strcmp(text_at(other, 0), "012xy") == 0);
    IS(__wasi_fd_renumber(other, 99), __WASI_ERRNO_BADF);
    WORKS(__wasi_fd_close(other));
    IS(__wasi_fd_close(other), __WASI_ERRNO_BADF);
    IS(__wasi_fd_write(99, &xy, 1, &count), __WASI_ERRNO_BADF);
    IS(__wasi_fd_seek(1, 0, __WASI_WHENCE_SET, &at), __WASI_ERRNO_SPIPE);
}

/* What a file was opened for is all that it can be used for. */
static void rights(void)
{
    __wasi_fd_t fd = make("file", "text");
    __wasi_fdstat_t fdstat;
    __wasi_size_t count;
    uint8_t byte = 'x';
    __wasi_iovec_t in = {&byte, 1};
    __wasi_ciovec_t out = {&byte, 1};

    WORKS(__wasi_fd_close(fd));
    WORKS(open_in(here, "file", 0, READ, 0, &fd));
    IS(__wasi_fd_write(fd, &out, 1, &count), __WASI_ERRNO_BADF);
    WORKS(__wasi_fd_fdstat_get(fd, &fdstat));
    CHECK(!(fdstat.fs_rights_base & WRITE));
    WORKS(__wasi_fd_close(fd));
    WORKS(open_in(here, "file", 0, WRITE, 0, &fd));
    IS(__wasi_fd_read(fd, &in, 1, &count), __WASI_ERRNO_BADF);
    IS(__wasi_fd_fdstat_set_rights(fd, 0, 0), __WASI_ERRNO_NOTSUP);
    WORKS(__wasi_fd_close(fd));
    IS(open_in(here, "file", __WASI_OFLAGS_DIRECTORY, READ, 0, &fd), __WASI_ERRNO_NOTDIR);
    IS(open_in(here, "file", __WASI_OFLAGS_CREAT | __WASI_OFLAGS_EXCL, READ, 0, &fd), __WASI_ERRNO_EXIST);
    WORKS(open_in(here, "file", __WASI_OFLAGS_TRUNC, WRITE, 0, &fd));
    CHECK(__wasi_fd_close(fd) == 0);
    IS(open_in(here, "missing", 0, READ, 0, &fd), __WASI_ERRNO_NOENT);
    IS(open_in(here, "file/below", 0, READ, 0, &fd), __WASI_ERRNO_NOTDIR);
}

static void paths(void)
{
    __wasi_filestat_t stat;
    __wasi_size_t count;
    uint8_t target[64];
    __wasi_fd_t fd = make("file", "text"), dir;

    WORKS(__wasi_fd_close(fd));
    WORKS(__wasi_path_create_directory(here, "dir"));
    IS(__wasi_path_create_directory(here, "dir"), __WASI_ERRNO_EXIST);
    WORKS(open_in(here, "dir", __WASI_OFLAGS_DIRECTORY, 0, 0, &dir));

    WORKS(__wasi_path_link(here, 0, "file", dir, "link"));
    WORKS(__wasi_path_filestat_get(dir, 0, "link", &stat));
    CHECK(stat.nlink == 2 && stat.size == 4);

    WORKS(__wasi_path_symlink("../file", dir, "symlink"));
    WORKS(__wasi_path_readlink(dir, "symlink", target, sizeof target, &count));
    CHECK(count == 7 && memcmp(target, "../file", 7) == 0);
    WORKS(__wasi_path_filestat_get(dir, 0, "symlink", &stat));
    CHECK(stat.filetype == __WASI_FILETYPE_SYMBOLIC_LINK);
    WORKS(__wasi_path_filestat_get(here, FOLLOW, "dir/symlink", &stat));
    CHECK(stat.filetype == __WASI_FILETYPE_REGULAR_FILE);
    /* From dir, its .. is outside. */
    IS(__wasi_path_filestat_get(dir, FOLLOW, "symlink", &stat), __WASI_ERRNO_PERM);
    IS(__wasi_path_open(here, 0, "dir/symlink", 0, READ, 0, 0, &fd), __WASI_ERRNO_LOOP);

    WORKS(__wasi_path_filestat_set_times(here, 0, "file", 0, 3000000000, __WASI_FSTFLAGS_MTIM));
    WORKS(__wasi_path_filestat_get(here, 0, "file", &stat));
    CHECK(stat.mtim == 3000000000);

    WORKS(__wasi_path_rename(dir, "link", here, "renamed"));
    IS(__wasi_path_rename(dir, "link", here, "renamed"), __WASI_ERRNO_NOENT);
    IS(__wasi_path_remove_directory(here, "dir"), __WASI_ERRNO_NOTEMPTY);
    IS(__wasi_path_unlink_file(here, "dir"), __WASI_ERRNO_ISDIR);
    IS(__wasi_path_remove_directory(here, "file"), __WASI_ERRNO_NOTDIR);
    WORKS(__wasi_path_unlink_file(dir, "symlink"));
    WORKS(__wasi_path_remove_directory(here, "dir"));
    IS(__wasi_path_unlink_file(here, "missing"), __WASI_ERRNO_NOENT);
}

/* A folder that is read in pieces much smaller than it is. */
static void readdir(void)
{
    enum { COUNT = 300 };
    static char seen[COUNT];
    uint8_t buffer[200];
    __wasi_dircookie_t cookie = 0;
    __wasi_size_t used = sizeof buffer;
    int dots = 0, total = 0;

    for (int i = 0; i < COUNT; i++) {
        char name[32];

        snprintf(name, sizeof name, "entry-%d", i);
        WORKS(__wasi_fd_close(make(name, "")));
    }
    while (used == sizeof buffer) {
        __wasi_size_t at = 0;

        WORKS(__wasi_fd_readdir(here, buffer, sizeof buffer, cookie, &used));
        for (;;) {
            __wasi_dirent_t entry;
            char name[64] = "";

            if (used - at < sizeof entry)
                break;
            memcpy(&entry, buffer + at, sizeof entry);
            if (used - at - sizeof entry < entry.d_namlen)
                break;
            memcpy(name, buffer + at + sizeof entry, entry.d_namlen);
            at += sizeof entry + entry.d_namlen;
            cookie = entry.d_next;
            if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
                CHECK(entry.d_type == __WASI_FILETYPE_DIRECTORY);
                dots++;
            } else {
                int number = atoi(name + strlen("entry-"));

                CHECK(entry.d_type == __WASI_FILETYPE_REGULAR_FILE);
                CHECK(number >= 0 && number < COUNT && !seen[number]);
                seen[number] = 1;
                total++;
            }
        }
    }
    CHECK(dots == 2 && total == COUNT);
    IS(__wasi_fd_readdir(1, buffer, sizeof buffer, 0, &used), __WASI_ERRNO_BADF);
}

static __wasi_subscription_t timer(__wasi_userdata_t userdata, __wasi_clockid_t clock,
                                   __wasi_timestamp_t timeout, int flags)
{
    __wasi_subscription_t it = {.userdata = userdata};

    it.u.tag = __WASI_EVENTTYPE_CLOCK;
    it.u.u.clock.id = clock;
    it.u.u.clock.timeout = timeout;
    it.u.u.clock.flags = flags;
    return it;
}

static __wasi_subscription_t ready(__wasi_userdata_t userdata, __wasi_fd_t fd, __wasi_eventtype_t what)
{
    __wasi_subscription_t it = {.userdata = userdata};

    it.u.tag = what;
    it.u.u.fd_read.file_descriptor = fd;
    return it;
}

static void polls(void)
{
    enum { SECOND = 1000000000 };
    const int absolute = __WASI_SUBCLOCKFLAGS_SUBSCRIPTION_CLOCK_ABSTIME;
    __wasi_timestamp_t before, after;
    __wasi_subscription_t all[4];
    __wasi_event_t events[4];
    __wasi_size_t count;
    __wasi_fd_t fd = make("file", "text");
    __wasi_filesize_t at;

    IS(__wasi_poll_oneoff(all, events, 0, &count), __WASI_ERRNO_INVAL);
    for (__wasi_clockid_t clock = __WASI_CLOCKID_REALTIME; clock <= __WASI_CLOCKID_MONOTONIC; clock++) {
        WORKS(__wasi_clock_time_get(clock, 0, &before));
        all[0] = timer(7, clock, before + SECOND / 50, absolute);
        WORKS(__wasi_poll_oneoff(all, events, 1, &count));
        WORKS(__wasi_clock_time_get(clock, 0, &after));
        CHECK(count == 1 && events[0].userdata == 7 && events[0].type == __WASI_EVENTTYPE_CLOCK);
        CHECK(after >= before + SECOND / 50);
        /* What is over is over. */
        all[0] = timer(8, clock, before, absolute);
        all[1] = timer(9, clock, 3600ull * SECOND, 0);
        WORKS(__wasi_poll_oneoff(all, events, 2, &count));
        CHECK(count == 1 && events[0].userdata == 8);
    }
    WORKS(__wasi_fd_seek(fd, 1, __WASI_WHENCE_SET, &at));
    all[0] = timer(1, __WASI_CLOCKID_MONOTONIC, 3600ull * SECOND, 0);
    all[1] = ready(2, fd, __WASI_EVENTTYPE_FD_READ);
    all[2] = ready(3, fd, __WASI_EVENTTYPE_FD_WRITE);
    all[3] = ready(4, 99, __WASI_EVENTTYPE_FD_READ);
    WORKS(__wasi_poll_oneoff(all, events, 4, &count));
    CHECK(count == 3);
    CHECK(events[0].userdata == 2 && events[0].error == 0 && events[0].fd_readwrite.nbytes == 3);
    CHECK(events[1].userdata == 3 && events[1].error == 0);
    CHECK(events[2].userdata == 4 && events[2].error == __WASI_ERRNO_BADF);
    all[0] = ready(5, 1, __WASI_EVENTTYPE_FD_WRITE);
    WORKS(__wasi_poll_oneoff(all, events, 1, &count));
    CHECK(count == 1 && events[0].userdata == 5 && events[0].error == 0);
}

/* Beyond what 32 bits can count. */
static void large(void)
{
    const __wasi_filesize_t far = 5ull << 30;
    __wasi_ciovec_t end = {(const uint8_t *)"end", 3};
    __wasi_filestat_t stat;
    __wasi_filesize_t at;
    __wasi_size_t count;
    __wasi_fd_t fd = make("large", "begin");

    WORKS(__wasi_fd_pwrite(fd, &end, 1, far, &count));
    CHECK(strcmp(text_at(fd, far), "end") == 0 && strcmp(text_at(fd, far - 1), "") == 0);
    WORKS(__wasi_fd_seek(fd, 0, __WASI_WHENCE_END, &at));
    WORKS(__wasi_fd_filestat_get(fd, &stat));
    CHECK(at == far + 3 && stat.size == far + 3);
    WORKS(__wasi_fd_filestat_set_size(fd, 0));
}

/* From one mount to another nothing can be moved or linked; wasmtime has no word for why. */
static void across(const char *other)
{
    __wasi_fd_t there;

    WORKS(__wasi_fd_close(make("file", "text")));
    WORKS(open_in(root, other + 1, __WASI_OFLAGS_DIRECTORY, 0, 0, &there));
    CHECK(__wasi_path_rename(here, "file", there, "file") != 0);
    CHECK(__wasi_path_link(here, 0, "file", there, "file") != 0);
    IS(__wasi_path_unlink_file(there, "file"), __WASI_ERRNO_NOENT);
    WORKS(__wasi_path_rename(here, "file", here, "still-here"));
}

/* Nothing above the folder that a path begins in, whatever the path. */
static void outside(void)
{
    static const char *const paths[] = {
        "..", "../", "dir/../..", "dir/../../file", "./..", "up", "up/file", "deep", "absolute", "/", "/file",
    };
    __wasi_filestat_t stat;
    __wasi_fd_t fd, inner;

    WORKS(__wasi_fd_close(make("file", "secret")));
    WORKS(__wasi_path_create_directory(here, "inner"));
    WORKS(open_in(here, "inner", __WASI_OFLAGS_DIRECTORY, 0, 0, &inner));
    WORKS(__wasi_path_create_directory(inner, "dir"));
    WORKS(__wasi_path_symlink("..", inner, "up"));
    WORKS(__wasi_path_symlink("dir/../../file", inner, "deep"));
    IS(__wasi_path_symlink("/file", inner, "absolute"), __WASI_ERRNO_PERM);
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        __wasi_errno_t errno_ = __wasi_path_open(inner, FOLLOW, paths[i], 0, READ, 0, 0, &fd);

        if (errno_ != __WASI_ERRNO_PERM && !(errno_ == __WASI_ERRNO_NOENT && strcmp(paths[i], "absolute") == 0)) {
            fprintf(stderr, "%s: %d\n", paths[i], errno_);
            exit(1);
        }
    }
    IS(__wasi_path_filestat_get(inner, FOLLOW, "../file", &stat), __WASI_ERRNO_PERM);
    IS(__wasi_path_create_directory(inner, "../made"), __WASI_ERRNO_PERM);
    IS(__wasi_path_rename(inner, "dir", inner, "../moved"), __WASI_ERRNO_PERM);
    IS(__wasi_path_rename(inner, "../file", inner, "taken"), __WASI_ERRNO_PERM);
    IS(__wasi_path_link(inner, 0, "../file", inner, "taken"), __WASI_ERRNO_PERM);
    IS(__wasi_path_unlink_file(inner, "../file"), __WASI_ERRNO_PERM);
    IS(__wasi_path_remove_directory(inner, ".."), __WASI_ERRNO_PERM);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*of)(void);
    } groups[] = {
        {"args", args},     {"environ", environ_}, {"clocks", clocks}, {"random", chance},
        {"process", process}, {"files", files},    {"rights", rights}, {"paths", paths},
        {"readdir", readdir}, {"poll", polls},     {"large", large},   {"outside", outside},
    };

    if (argc < 3)
        return 2;
    WORKS(open_in(root, argv[2] + 1, __WASI_OFLAGS_DIRECTORY, 0, 0, &here));
    if (strcmp(argv[1], "across") == 0 && argc == 4) {
        across(argv[3]);
        return 0;
    }
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++)
        if (strcmp(groups[i].name, argv[1]) == 0) {
            groups[i].of();
            return 0;
        }
    fprintf(stderr, "calls: unknown group %s\n", argv[1]);
    return 2;
}
