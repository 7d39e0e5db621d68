/* wasi:cli: what a command is told of its world, and how it ends.
 *
 *   c-cli.wasm world DIRECTORY  "ä b"  ""   with COLOUR=blue=green, EMPTY= and "typed" on stdin
 *   c-cli.wasm WAY              ends in that way
 */
#include "judge.h"

static void arguments(const char *directory)
{
    const char *expected[] = {"guest", "world", directory, "ä b", ""};
    guest_list_string_t all;

    wasi_cli_environment_get_arguments(&all);
    IS(all.len, sizeof expected / sizeof *expected);
    for (size_t i = 0; i < all.len; i++)
        SAYS(all.ptr[i], expected[i]);
}

static void environment(const char *directory)
{
    static const struct {
        const char *name, *value;
    } expected[] = {{"COLOUR", "blue=green"}, {"EMPTY", ""}};
    guest_list_tuple2_string_string_t all;
    guest_string_t cwd;

    wasi_cli_environment_get_environment(&all);
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        size_t found = 0;

        for (size_t j = 0; j < all.len; j++) {
            guest_string_t name = all.ptr[j].f0, value = all.ptr[j].f1;

            if (name.len != strlen(expected[i].name) || memcmp(name.ptr, expected[i].name, name.len))
                continue;
            SAYS(value, expected[i].value);
            found++;
        }
        IS(found, 1);
    }
    CHECK(wasi_cli_environment_initial_cwd(&cwd));
    SAYS(cwd, directory);
}

static void streams(void)
{
    wasi_cli_terminal_stdin_own_terminal_input_t input;
    wasi_cli_terminal_stdout_own_terminal_output_t output;

    CHECK(!strcmp(rest_of(wasi_cli_stdin_get_stdin()), "typed"));
    complain("on stderr\n");
    CHECK(!wasi_cli_terminal_stdin_get_terminal_stdin(&input));
    CHECK(!wasi_cli_terminal_stdout_get_terminal_stdout(&output));
    CHECK(!wasi_cli_terminal_stderr_get_terminal_stderr(&output));
}

bool exports_wasi_cli_run_run(void)
{
    wasi_cli_exit_result_void_void_t success = {false}, failure = {true};
    const char *way = argument(1);

    if (!strcmp(way, "world")) {
        const char *directory = argument(2);

        arguments(directory);
        environment(directory);
        streams();
        say("well\n");
        return true;
    }
    if (!strcmp(way, "exit"))
        wasi_cli_exit_exit(&success);
    if (!strcmp(way, "exit failing"))
        wasi_cli_exit_exit(&failure);
    if (!strcmp(way, "exit with 42"))
        wasi_cli_exit_exit_with_code(42);
    if (!strcmp(way, "trap"))
        __builtin_trap();
    return !strcmp(way, "return");
}
