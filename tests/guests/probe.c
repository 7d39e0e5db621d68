/* The guest of the wasm scenarios: WASI preview 1, one job per run.
 *
 *   probe.wasm args [ARG..]       its arguments, one a line
 *   probe.wasm env                its environment, one variable a line
 *   probe.wasm cwd                its working directory
 *   probe.wasm cat FILE           the file, on stdout
 *   probe.wasm copy               stdin, on stdout
 *   probe.wasm write FILE TEXT    TEXT and a newline, into the file
 *   probe.wasm list DIR           the names in the directory
 *   probe.wasm tty                which of 0, 1 and 2 are terminals, in one line
 *   probe.wasm exit CODE          ends with CODE
 *   probe.wasm trap               says "before the trap" on stderr, then traps
 *   probe.wasm spin               says "spinning", then never ends
 *   probe.wasm idle               says "idle", then waits in poll
 *   probe.wasm grow MIB           touches that much memory, then says "grown"
 *   probe.wasm ask MIB            the same at each line of stdin; says "grown" or why not
 *   probe.wasm look FILE COUNT     opens it so often; each first line or error that it met, once
 *   probe.wasm fill FILE MIB      writes that much into the file, then says "filled"
 *
 * An error ends with 1 and its reason on stderr.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

static int fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    return 1;
}

static int copy(FILE *from, const char *name)
{
    char buffer[4096];
    size_t count;

    while ((count = fread(buffer, 1, sizeof buffer, from)) > 0)
        if (fwrite(buffer, 1, count, stdout) != count)
            return fail("stdout");
    return ferror(from) ? fail(name) : 0;
}

static int cat(const char *path)
{
    FILE *file = fopen(path, "r");

    return file ? copy(file, path) : fail(path);
}

static int write_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");

    if (!file)
        return fail(path);
    if (fprintf(file, "%s\n", text) < 0 || fclose(file) != 0)
        return fail(path);
    return 0;
}

static int list(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *entry;

    if (!dir)
        return fail(path);
    while ((entry = readdir(dir)))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            puts(entry->d_name);
    return 0;
}

static int grow(size_t mib)
{
    char *memory = malloc(mib << 20);

    if (!memory)
        return fail("malloc");
    for (size_t at = 0; at < mib << 20; at += 4096)
        ((volatile char *)memory)[at] = 1;
    puts("grown");
    return 0;
}

static int ask(size_t mib)
{
    char line[8];

    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        char *memory = malloc(mib << 20);

        /* A compiler knows malloc, and that nobody would miss it. */
        if (memory)
            *(volatile char *)memory = 1;
        puts(memory ? "grown" : strerror(errno));
        free(memory);
    }
    return 0;
}

static int look(const char *path, int count)
{
    static char seen[16][64];
    int known = 0;

    while (count-- > 0) {
        char line[64] = "";
        FILE *file = fopen(path, "r");
        int at = 0;

        if (file) {
            if (fgets(line, sizeof line, file))
                line[strcspn(line, "\n")] = 0;
            fclose(file);
        } else {
            strncpy(line, strerror(errno), sizeof line - 1);
        }
        while (at < known && strcmp(seen[at], line) != 0)
            at++;
        if (at == known && known < 16) {
            strcpy(seen[known++], line);
            puts(line);
        }
    }
    return 0;
}

static int fill(const char *path, size_t mib)
{
    static char some[1 << 16];
    FILE *file = fopen(path, "w");

    if (!file)
        return fail(path);
    for (size_t written = 0; written < mib << 20; written += sizeof some)
        if (fwrite(some, 1, sizeof some, file) != sizeof some)
            return fail(path);
    if (fclose(file) != 0)
        return fail(path);
    puts("filled");
    return 0;
}

int main(int argc, char **argv)
{
    const char *job = argc > 1 ? argv[1] : "hello";
    char buffer[1024];

    /* A scenario reads while the guest runs. */
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (strcmp(job, "hello") == 0) {
        puts("hello from wasm");
    } else if (strcmp(job, "args") == 0) {
        for (int i = 0; i < argc; i++)
            puts(argv[i]);
    } else if (strcmp(job, "env") == 0) {
        for (char **variable = environ; *variable; variable++)
            puts(*variable);
    } else if (strcmp(job, "cwd") == 0) {
        if (!getcwd(buffer, sizeof buffer))
            return fail("getcwd");
        puts(buffer);
    } else if (strcmp(job, "cat") == 0 && argc == 3) {
        return cat(argv[2]);
    } else if (strcmp(job, "copy") == 0) {
        return copy(stdin, "stdin");
    } else if (strcmp(job, "write") == 0 && argc == 4) {
        return write_text(argv[2], argv[3]);
    } else if (strcmp(job, "list") == 0 && argc == 3) {
        return list(argv[2]);
    } else if (strcmp(job, "tty") == 0) {
        printf("%d %d %d\n", isatty(0), isatty(1), isatty(2));
    } else if (strcmp(job, "exit") == 0 && argc == 3) {
        /* Not exit(): preview 1 takes all 32 bits, and libc must not cut them. */
        _Exit(atoi(argv[2]));
    } else if (strcmp(job, "trap") == 0) {
        fputs("before the trap\n", stderr);
        __builtin_trap();
    } else if (strcmp(job, "spin") == 0) {
        puts("spinning");
        for (volatile unsigned turn = 0;; turn++)
            ;
    } else if (strcmp(job, "idle") == 0) {
        puts("idle");
        for (;;)
            sleep(3600);
    } else if (strcmp(job, "grow") == 0 && argc == 3) {
        return grow((size_t)atoi(argv[2]));
    } else if (strcmp(job, "ask") == 0 && argc == 3) {
        return ask((size_t)atoi(argv[2]));
    } else if (strcmp(job, "look") == 0 && argc == 4) {
        return look(argv[2], atoi(argv[3]));
    } else if (strcmp(job, "fill") == 0 && argc == 4) {
        return fill(argv[2], (size_t)atoi(argv[3]));
    } else {
        fprintf(stderr, "probe: unknown job %s\n", job);
        return 2;
    }
    return 0;
}
