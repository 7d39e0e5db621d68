/* Every function of WASI preview 1, by groups, called as it is and not through libc.
 *
 *   calls.wasm GROUP DIR [MORE]    tries the functions of GROUP in the folder DIR, which is empty if nothing else is said
 *
 * It ends with 0 if all was as it should be; else with 1, and the line that was not on stderr. What it can
 * only tell and not judge, such as the environment, is on stdout. MORE is a folder on another file system, or how a
 * FIFO is used.
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
    WORKS(__wasi_fd_allocate(fd, 0, 100));
    WORKS(__wasi_fd_allocate(fd, 10, 10));
    WORKS(__wasi_fd_filestat_get(fd, &stat));
    CHECK(stat.size == 100 && strcmp(text_at(fd, 0), "012") == 0);
    IS(__wasi_fd_allocate(fd, 0, 0), __WASI_ERRNO_INVAL);
    WORKS(__wasi_fd_filestat_set_size(fd, 3));
    WORKS(__wasi_fd_pread(fd, two, 1, 0, &count));
    CHECK(count == 0);
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
    IS(__wasi_fd_renumber(99, other), __WASI_ERRNO_BADF);
    WORKS(__wasi_fd_renumber(other, other));
    CHECK(strcmp(text_at(other, 0), "012xy") == 0);
    WORKS(__wasi_fd_close(other));
    IS(__wasi_fd_close(other), __WASI_ERRNO_BADF);
    IS(__wasi_fd_write(99, &xy, 1, &count), __WASI_ERRNO_BADF);
    IS(__wasi_fd_seek(1, 0, __WASI_WHENCE_SET, &at), __WASI_ERRNO_SPIPE);

    /* More buffers than the kernel takes at once, all but the last of them empty. */
    {
        static __wasi_ciovec_t many[3000];

        fd = make("many", "");
        many[2999] = xy;
        WORKS(__wasi_fd_write(fd, many, 3000, &count));
        CHECK(count == 2 && strcmp(text_at(fd, 0), "xy") == 0);
        WORKS(__wasi_fd_write(2, many, 2999, &count));
        CHECK(count == 0);
    }
}

/* What must be on the disk before a call is over. */
static void durable(void)
{
    const int all = __WASI_FDFLAGS_DSYNC | __WASI_FDFLAGS_RSYNC | __WASI_FDFLAGS_SYNC;
    __wasi_ciovec_t xy = {(const uint8_t *)"xy", 2};
    __wasi_filestat_t stat;
    __wasi_fdstat_t fdstat;
    __wasi_size_t count;
    __wasi_fd_t fd;

    for (int flags = 0; flags <= all; flags++) {
        if ((flags & all) != flags)
            continue;
        WORKS(open_in(here, "file", __WASI_OFLAGS_CREAT, READ | WRITE, flags | __WASI_FDFLAGS_APPEND, &fd));
        WORKS(__wasi_fd_write(fd, &xy, 1, &count));
        WORKS(__wasi_fd_fdstat_get(fd, &fdstat));
        CHECK(count == 2 && fdstat.fs_flags == (flags | __WASI_FDFLAGS_APPEND));
        /* What it has is kept, what it has not is not given. */
        WORKS(__wasi_fd_fdstat_set_flags(fd, flags));
        IS(__wasi_fd_fdstat_set_flags(fd, all), flags == all ? 0 : __WASI_ERRNO_INVAL);
        WORKS(__wasi_fd_pwrite(fd, &xy, 1, 0, &count));
        WORKS(__wasi_fd_close(fd));
    }
    WORKS(__wasi_path_filestat_get(here, 0, "file", &stat));
    CHECK(stat.size == 16);
    /* The names in a folder, too. */
    WORKS(__wasi_fd_sync(here));
    WORKS(__wasi_fd_datasync(here));
    WORKS(__wasi_fd_sync(root));
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

    /* It was changed now, whenever it was made and written. */
    {
        __wasi_timestamp_t now;
        __wasi_filestat_t open;

        WORKS(__wasi_clock_time_get(__WASI_CLOCKID_REALTIME, 0, &now));
        WORKS(open_in(here, "file", 0, READ, 0, &fd));
        WORKS(__wasi_fd_filestat_get(fd, &open));
        CHECK(stat.ctim / 60000000000 >= now / 60000000000 - 1 && stat.ctim == open.ctim);
        CHECK(stat.ino == open.ino && stat.dev == open.dev && stat.dev != 0);
        WORKS(__wasi_fd_close(fd));
        now = stat.ctim;
        do
            WORKS(__wasi_path_filestat_set_times(here, 0, "file", 0, 3000000000, __WASI_FSTFLAGS_MTIM));
        while (__wasi_path_filestat_get(here, 0, "file", &stat) == 0 && stat.ctim == now);
        CHECK(stat.ctim > now);
    }

    WORKS(__wasi_path_rename(dir, "link", here, "renamed"));
    IS(__wasi_path_rename(dir, "link", here, "renamed"), __WASI_ERRNO_NOENT);
    IS(__wasi_path_remove_directory(here, "dir"), __WASI_ERRNO_NOTEMPTY);
    IS(__wasi_path_unlink_file(here, "dir"), __WASI_ERRNO_ISDIR);
    IS(__wasi_path_remove_directory(here, "file"), __WASI_ERRNO_NOTDIR);
    IS(__wasi_path_remove_directory(here, "file/"), __WASI_ERRNO_NOTDIR);
    WORKS(__wasi_path_create_directory(here, "slash/"));
    WORKS(__wasi_path_remove_directory(here, "slash//"));
    IS(__wasi_path_remove_directory(here, "slash"), __WASI_ERRNO_NOENT);
    IS(__wasi_path_remove_directory(here, ""), __WASI_ERRNO_NOENT);
    WORKS(__wasi_path_unlink_file(dir, "symlink"));
    WORKS(__wasi_path_remove_directory(here, "dir"));
    IS(__wasi_path_unlink_file(here, "missing"), __WASI_ERRNO_NOENT);
}

/* The next entry of a folder that is read in pieces of SIZE; at the end, none. */
struct reading {
    __wasi_fd_t fd;
    __wasi_size_t size;
    __wasi_dircookie_t cookie;
    __wasi_size_t at, used;
    int begun;
    uint8_t buffer[4096];
    __wasi_dirent_t entry;
    char name[256];
};

static int next(struct reading *it)
{
    for (;;) {
        __wasi_size_t left = it->used - it->at;

        if (left >= sizeof it->entry) {
            memcpy(&it->entry, it->buffer + it->at, sizeof it->entry);
            if (left - sizeof it->entry >= it->entry.d_namlen) {
                CHECK(it->entry.d_namlen < sizeof it->name);
                memcpy(it->name, it->buffer + it->at + sizeof it->entry, it->entry.d_namlen);
                it->name[it->entry.d_namlen] = 0;
                it->at += sizeof it->entry + it->entry.d_namlen;
                it->cookie = it->entry.d_next;
                return 1;
            }
        }
        if (it->begun && it->used < it->size)
            return 0;
        CHECK(!it->begun || it->at > 0);
        it->begun = 1;
        it->at = 0;
        WORKS(__wasi_fd_readdir(it->fd, it->buffer, it->size, it->cookie, &it->used));
        CHECK(it->used <= it->size);
    }
}

static int is_dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

enum { COUNT = 3000 };

static void fill(void)
{
    for (int i = 0; i < COUNT; i++) {
        char name[32];

        snprintf(name, sizeof name, "entry-%d", i);
        WORKS(__wasi_fd_close(make(name, "")));
    }
}

/* The number of an entry that fill() has made, once. */
static int number(const struct reading *it, char seen[COUNT])
{
    int number = atoi(it->name + strlen("entry-"));

    CHECK(it->entry.d_type == __WASI_FILETYPE_REGULAR_FILE);
    CHECK(strncmp(it->name, "entry-", strlen("entry-")) == 0 && number >= 0 && number < COUNT);
    CHECK(!seen[number]);
    seen[number] = 1;
    return number;
}

/* A folder that is read in pieces much smaller than it is. */
static void readdir(void)
{
    static char seen[COUNT];
    static __wasi_dircookie_t cookies[COUNT];
    static int after[COUNT];
    struct reading all = {.fd = here, .size = 200}, one = {.fd = here, .size = 60};
    __wasi_filestat_t stat;
    __wasi_size_t used;
    int dots = 0, total = 0;

    fill();
    while (next(&all)) {
        if (is_dots(all.name)) {
            CHECK(all.entry.d_type == __WASI_FILETYPE_DIRECTORY);
            WORKS(__wasi_path_filestat_get(root, FOLLOW, ".", &stat));
            dots++;
        } else {
            after[total] = number(&all, seen);
            cookies[total++] = all.entry.d_next;
        }
    }
    CHECK(dots == 2 && total == COUNT);
    WORKS(__wasi_fd_readdir(here, all.buffer, sizeof all.buffer, all.cookie, &used));
    CHECK(used == 0);
    /* Any place is found again, by another descriptor as well. */
    WORKS(open_in(here, ".", __WASI_OFLAGS_DIRECTORY, READ, 0, &one.fd));
    for (int i = COUNT - 2; i >= 0; i -= 97) {
        one.cookie = cookies[i];
        one.begun = one.at = one.used = 0;
        CHECK(next(&one) && atoi(one.name + strlen("entry-")) == after[i + 1]);
        WORKS(__wasi_path_filestat_get(here, 0, one.name, &stat));
        CHECK(stat.ino == one.entry.d_ino);
    }
    /* The folder itself, and what it is in. */
    one = (struct reading){.fd = here, .size = 200};
    CHECK(next(&one) && strcmp(one.name, ".") == 0);
    WORKS(__wasi_fd_filestat_get(here, &stat));
    CHECK(one.entry.d_ino == stat.ino);
    CHECK(next(&one) && strcmp(one.name, "..") == 0 && one.entry.d_ino != stat.ino);
    /* A piece may end within an entry, or before it. */
    for (__wasi_size_t size = 0; size < 60; size++) {
        memset(one.buffer, 0xaa, sizeof one.buffer);
        WORKS(__wasi_fd_readdir(here, one.buffer, size, 0, &used));
        CHECK(used == size && one.buffer[size] == 0xaa);
    }
    IS(__wasi_fd_readdir(here, one.buffer, sizeof one.buffer, -1, &used), __WASI_ERRNO_INVAL);
    IS(__wasi_fd_readdir(1, one.buffer, sizeof one.buffer, 0, &used), __WASI_ERRNO_BADF);
    /* The root, which is open for nothing but finding. */
    one = (struct reading){.fd = root, .size = sizeof one.buffer};
    CHECK(next(&one) && strcmp(one.name, ".") == 0 && next(&one) && next(&one));
}

/* A folder whose entries are removed while it is read: as `rm -r` does it, and as a neighbour may. */
static void emptied(void)
{
    static char seen[COUNT], names[COUNT][32];
    struct reading it = {.fd = here, .size = 512};
    int total = 0;

    fill();
    while (next(&it))
        if (!is_dots(it.name)) {
            number(&it, seen);
            WORKS(__wasi_path_unlink_file(here, it.name));
            total++;
        }
    CHECK(total == COUNT);

    /* What was not told yet when it went is not told; what stays is. */
    fill();
    it = (struct reading){.fd = here, .size = 512};
    total = 0;
    while (next(&it))
        if (!is_dots(it.name))
            strcpy(names[total++], it.name);
    CHECK(total == COUNT);
    it = (struct reading){.fd = here, .size = 512};
    for (int i = 0; i < 10; i++)
        CHECK(next(&it));
    for (int i = 1; i < COUNT; i += 2)
        WORKS(__wasi_path_unlink_file(here, names[i]));
    memset(seen, 0, sizeof seen);
    total = 0;
    while (next(&it)) {
        __wasi_filestat_t stat;
        int buffered = __wasi_path_filestat_get(here, 0, it.name, &stat) != 0;

        number(&it, seen);
        total += !buffered;
    }
    CHECK(total >= COUNT / 2 - 10);
    for (int i = 0; i < COUNT; i += 2)
        WORKS(__wasi_path_unlink_file(here, names[i]));

    /* From the start it is seen as it is now. */
    WORKS(__wasi_fd_close(make("new", "")));
    it = (struct reading){.fd = here, .size = 512};
    CHECK(next(&it) && next(&it) && next(&it) && strcmp(it.name, "new") == 0 && !next(&it));
}

/* Tells the names in a folder, and what is said of each when it is asked for. */
static void names(void)
{
    struct reading it = {.fd = here, .size = 100};
    __wasi_filestat_t stat;

    while (next(&it))
        if (!is_dots(it.name)) {
            for (const char *c = it.name; *c; c++)
                printf((unsigned char)*c < 0x80 ? "%c" : "\\%x", (unsigned char)*c);
            printf(": %d\n", __wasi_path_filestat_get(here, 0, it.name, &stat));
        }
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

/* More than 128 MiB at once, and more random bytes than anybody needs. */
static void much(void)
{
    enum { MUCH = 130 << 20 };
    uint8_t *place = malloc(MUCH);
    __wasi_iovec_t in = {place, MUCH};
    __wasi_ciovec_t out = {place, MUCH};
    __wasi_fd_t fd = make("much", "begin");
    __wasi_filesize_t at;
    __wasi_size_t count;

    CHECK(place);
    WORKS(__wasi_fd_filestat_set_size(fd, MUCH));
    WORKS(__wasi_fd_seek(fd, 0, __WASI_WHENCE_SET, &at));
    WORKS(__wasi_fd_read(fd, &in, 1, &count));
    CHECK(count == MUCH && memcmp(place, "begin", 5) == 0);
    WORKS(__wasi_fd_pread(fd, &in, 1, 0, &count));
    CHECK(count == MUCH);
    WORKS(__wasi_random_get(place, MUCH));
    CHECK(memcmp(place + MUCH - 16, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 16) != 0);
    memset(place, 0, MUCH);
    WORKS(__wasi_fd_pwrite(fd, &out, 1, 0, &count));
    CHECK(count == MUCH);
    WORKS(__wasi_fd_filestat_set_size(fd, 0));
}

/* From one mount to another nothing can be moved or linked. */
static void across(const char *other)
{
    __wasi_fd_t there;

    WORKS(__wasi_fd_close(make("file", "text")));
    WORKS(open_in(root, other + 1, __WASI_OFLAGS_DIRECTORY, 0, 0, &there));
    IS(__wasi_path_rename(here, "file", there, "file"), __WASI_ERRNO_XDEV);
    IS(__wasi_path_link(here, 0, "file", there, "file"), __WASI_ERRNO_XDEV);
    IS(__wasi_path_unlink_file(there, "file"), __WASI_ERRNO_NOENT);
    WORKS(__wasi_path_rename(here, "file", here, "still-here"));
}

/* OTHER cannot be written to. It has a file of that name. */
static void read_only(const char *other)
{
    __wasi_fd_t there, fd;

    WORKS(open_in(root, other + 1, __WASI_OFLAGS_DIRECTORY, 0, 0, &there));
    WORKS(open_in(there, "file", 0, READ, 0, &fd));
    CHECK(strcmp(text_at(fd, 0), "text") == 0);
    IS(open_in(there, "file", 0, WRITE, 0, &fd), __WASI_ERRNO_ROFS);
    IS(open_in(there, "file", __WASI_OFLAGS_TRUNC, READ, 0, &fd), __WASI_ERRNO_ROFS);
    IS(open_in(there, "new", __WASI_OFLAGS_CREAT, WRITE, 0, &fd), __WASI_ERRNO_ROFS);
    IS(__wasi_path_create_directory(there, "new"), __WASI_ERRNO_ROFS);
    IS(__wasi_path_symlink("file", there, "new"), __WASI_ERRNO_ROFS);
    IS(__wasi_path_link(there, 0, "file", there, "new"), __WASI_ERRNO_ROFS);
    IS(__wasi_path_rename(there, "file", there, "new"), __WASI_ERRNO_ROFS);
    IS(__wasi_path_unlink_file(there, "file"), __WASI_ERRNO_ROFS);
    IS(__wasi_path_filestat_set_times(there, 0, "file", 0, 0, __WASI_FSTFLAGS_MTIM_NOW), __WASI_ERRNO_ROFS);
}

/* DIR has the FIFOs questions and answers: nobody else has them open, or somebody comes, and is heard or polled. */
static void fifo(const char *how)
{
    const int nonblocking = __WASI_FDFLAGS_NONBLOCK;
    static char text[70000];
    __wasi_iovec_t in[] = {{(uint8_t *)text, 0}, {(uint8_t *)text, sizeof text}};
    __wasi_ciovec_t two[] = {{(const uint8_t *)"heard ", 6}, {(const uint8_t *)text, 0}};
    __wasi_subscription_t all[2];
    __wasi_event_t events[2];
    __wasi_fdstat_t fdstat;
    __wasi_filestat_t stat;
    __wasi_filesize_t at;
    __wasi_size_t count;
    __wasi_fd_t questions, answers;

    IS(open_in(here, "questions", __WASI_OFLAGS_DIRECTORY, READ, 0, &questions), __WASI_ERRNO_NOTDIR);
    IS(open_in(here, "questions", __WASI_OFLAGS_CREAT | __WASI_OFLAGS_EXCL, READ, 0, &questions), __WASI_ERRNO_EXIST);
    WORKS(__wasi_path_filestat_get(here, 0, "questions", &stat));
    CHECK(stat.filetype == __WASI_FILETYPE_UNKNOWN && stat.size == 0);
    if (strcmp(how, "alone") == 0) {
        /* Nobody is there, and nobody is waited for. */
        IS(open_in(here, "answers", 0, WRITE, nonblocking, &answers), __WASI_ERRNO_NXIO);
        WORKS(open_in(here, "questions", 0, READ, nonblocking, &questions));
        WORKS(__wasi_fd_fdstat_get(questions, &fdstat));
        CHECK(fdstat.fs_flags == nonblocking && fdstat.fs_filetype == __WASI_FILETYPE_UNKNOWN);
        CHECK((fdstat.fs_rights_base & READ) && !(fdstat.fs_rights_base & WRITE));
        WORKS(__wasi_fd_read(questions, in, 2, &count));
        CHECK(count == 0);
        all[0] = ready(1, questions, __WASI_EVENTTYPE_FD_READ);
        all[1] = timer(2, __WASI_CLOCKID_MONOTONIC, 20000000, 0);
        WORKS(__wasi_poll_oneoff(all, events, 2, &count));
        CHECK(count == 1 && events[0].userdata == 2);
        all[0] = ready(3, questions, __WASI_EVENTTYPE_FD_WRITE);
        WORKS(__wasi_poll_oneoff(all, events, 1, &count));
        CHECK(count == 1 && events[0].error == __WASI_ERRNO_BADF);

        /* Now it has two ends, both of them ours. */
        WORKS(open_in(here, "questions", 0, WRITE, nonblocking, &answers));
        IS(__wasi_fd_read(questions, in, 2, &count), __WASI_ERRNO_AGAIN);
        IS(__wasi_fd_read(answers, in, 2, &count), __WASI_ERRNO_BADF);
        IS(__wasi_fd_write(questions, two, 1, &count), __WASI_ERRNO_BADF);
        WORKS(__wasi_fd_write(answers, two, 2, &count));
        all[0] = ready(4, questions, __WASI_EVENTTYPE_FD_READ);
        all[1] = ready(5, answers, __WASI_EVENTTYPE_FD_WRITE);
        WORKS(__wasi_poll_oneoff(all, events, 2, &count));
        CHECK(count == 2 && events[0].error == 0 && events[0].fd_readwrite.nbytes == 6 && events[1].error == 0);
        WORKS(__wasi_fd_renumber(questions, root));
        questions = root;
        WORKS(__wasi_fd_read(questions, in, 2, &count));
        CHECK(count == 6 && memcmp(text, "heard ", 6) == 0);
        WORKS(__wasi_fd_fdstat_set_flags(answers, 0));
        WORKS(__wasi_fd_fdstat_get(answers, &fdstat));
        CHECK(fdstat.fs_flags == 0);
        /* What a FIFO has not. */
        IS(__wasi_fd_seek(questions, 0, __WASI_WHENCE_CUR, &at), __WASI_ERRNO_SPIPE);
        IS(__wasi_fd_tell(questions, &at), __WASI_ERRNO_SPIPE);
        IS(__wasi_fd_pread(questions, in, 2, 0, &count), __WASI_ERRNO_SPIPE);
        IS(__wasi_fd_pwrite(answers, two, 1, 0, &count), __WASI_ERRNO_SPIPE);
        IS(__wasi_fd_advise(questions, 0, 0, __WASI_ADVICE_NORMAL), __WASI_ERRNO_SPIPE);
        IS(__wasi_fd_allocate(answers, 0, 10), __WASI_ERRNO_SPIPE);
        IS(__wasi_fd_filestat_set_size(answers, 0), __WASI_ERRNO_INVAL);
        IS(__wasi_fd_sync(answers), __WASI_ERRNO_INVAL);
        IS(__wasi_fd_readdir(questions, (uint8_t *)text, sizeof text, 0, &count), __WASI_ERRNO_NOTDIR);
        IS(open_in(questions, "below", 0, READ, 0, &answers), __WASI_ERRNO_NOTDIR);
        IS(__wasi_sock_shutdown(questions, __WASI_SDFLAGS_RD), __WASI_ERRNO_NOTSOCK);
        WORKS(__wasi_fd_close(questions));
        IS(__wasi_fd_write(answers, two, 1, &count), __WASI_ERRNO_PIPE);
        WORKS(__wasi_fd_close(answers));
        return;
    }
    /* Somebody comes, and is waited for; a link leads there as well. */
    WORKS(__wasi_path_symlink("questions", here, "link"));
    IS(open_in(here, "link", 0, READ, 0, &questions), __WASI_ERRNO_LOOP);
    WORKS(__wasi_path_open(here, FOLLOW, "link", 0, READ, 0, 0, &questions));
    if (strcmp(how, "poll") == 0) {
        all[0] = ready(1, questions, __WASI_EVENTTYPE_FD_READ);
        WORKS(__wasi_poll_oneoff(all, events, 1, &count));
        CHECK(count == 1 && events[0].error == 0 && events[0].fd_readwrite.nbytes > 0);
    }
    WORKS(open_in(here, "answers", 0, WRITE, 0, &answers));
    for (;;) {
        WORKS(__wasi_fd_read(questions, in, 2, &count));
        if (count == 0)
            break;
        two[1].buf_len = count;
        WORKS(__wasi_fd_write(answers, two, 2, &count));
        CHECK(count == 6 + two[1].buf_len);
    }
    if (strcmp(how, "poll") == 0) {
        all[0] = ready(1, questions, __WASI_EVENTTYPE_FD_READ);
        WORKS(__wasi_poll_oneoff(all, events, 1, &count));
        CHECK(count == 1 && (events[0].fd_readwrite.flags & __WASI_EVENTRWFLAGS_FD_READWRITE_HANGUP));
    }
}

/* What is not opened, whoever has put it there. */
static void special(void)
{
    static const struct {
        const char *path;
        int errno_;
    } all[] = {
        {"socket", __WASI_ERRNO_NXIO}, {"block", __WASI_ERRNO_ACCES}, {"terminal", __WASI_ERRNO_ACCES},
        {"to-block", __WASI_ERRNO_ACCES}, {"kmsg", __WASI_ERRNO_ACCES}, {"null", 0}, {"zero", 0}, {"random", 0},
    };

    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        for (int writes = 0; writes < 2; writes++) {
            __wasi_fd_t fd;
            int errno_ = __wasi_path_open(here, FOLLOW, all[i].path, 0, writes ? WRITE : READ, 0, 0, &fd);

            if (errno_ != all[i].errno_) {
                fprintf(stderr, "%s: %d\n", all[i].path, errno_);
                exit(1);
            }
            if (errno_ == 0)
                WORKS(__wasi_fd_close(fd));
        }
    }
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
        {"emptied", emptied}, {"durable", durable}, {"much", much},    {"special", special},
        {"names", names},
    };
    static const struct {
        const char *name;
        void (*of)(const char *);
    } with_more[] = {{"across", across}, {"read-only", read_only}, {"fifo", fifo}};

    if (argc < 3)
        return 2;
    WORKS(open_in(root, argv[2] + 1, __WASI_OFLAGS_DIRECTORY, 0, 0, &here));
    for (size_t i = 0; i < sizeof with_more / sizeof *with_more && argc == 4; i++)
        if (strcmp(with_more[i].name, argv[1]) == 0) {
            with_more[i].of(argv[3]);
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
