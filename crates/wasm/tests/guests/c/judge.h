/* What the guests of this folder share: they call preview 2 as it is and not through libc, and judge.
 *
 * The functions and types come from `bind`. A guest ends with 0 and "well" on stdout if all was as it should be;
 * else with 1, and on stderr the line that was not. What it is given it keeps: it does not run for long.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "guest.h"

#define SHARED __attribute__((unused)) static

#define TEXT_(line) #line
#define TEXT(line) TEXT_(line)
#define HERE __FILE_NAME__ ":" TEXT(__LINE__) ": "

/* Something is so. */
#define CHECK(what)                                                          \
    do {                                                                     \
        if (!(what))                                                         \
            fail(HERE "not " #what);                                         \
    } while (0)

/* A number is this one. */
#define IS(number, expected) is(number, expected, HERE #number, #expected)

/* A call works, or is refused with what it leaves in `error`. */
#define WORKS(call)                                                          \
    do {                                                                     \
        if (!(call))                                                         \
            refused((uint64_t)error, HERE #call);                            \
    } while (0)
#define REFUSED(call, expected)                                              \
    do {                                                                     \
        CHECK(!(call));                                                      \
        IS(error, expected);                                                 \
    } while (0)

/* The same of a stream, whose errors are of another kind. */
#define FLOWS(call)                                                          \
    do {                                                                     \
        wasi_io_streams_stream_error_t ended;                                \
        if (!(call))                                                         \
            fail(HERE "failed: " #call);                                     \
    } while (0)
#define CLOSED(call)                                                         \
    do {                                                                     \
        wasi_io_streams_stream_error_t ended;                                \
        CHECK(!(call));                                                      \
        IS(ended.tag, WASI_IO_STREAMS_STREAM_ERROR_CLOSED);                  \
    } while (0)

SHARED void write_to(wasi_io_streams_own_output_stream_t to, const char *text)
{
    guest_list_u8_t all = {(uint8_t *)text, strlen(text)};
    wasi_io_streams_stream_error_t ended;

    if (!wasi_io_streams_method_output_stream_blocking_write_and_flush(
            wasi_io_streams_borrow_output_stream(to), &all, &ended))
        __builtin_trap();
}

SHARED void say(const char *text)
{
    static wasi_io_streams_own_output_stream_t out;

    if (!out.__handle)
        out = wasi_cli_stdout_get_stdout();
    write_to(out, text);
}

SHARED void complain(const char *text)
{
    static wasi_io_streams_own_output_stream_t err;

    if (!err.__handle)
        err = wasi_cli_stderr_get_stderr();
    write_to(err, text);
}

SHARED _Noreturn void fail(const char *why)
{
    wasi_cli_exit_result_void_void_t failure = {true};

    complain(why);
    complain("\n");
    wasi_cli_exit_exit(&failure);
    __builtin_trap();
}

SHARED void complain_of_number(uint64_t number)
{
    char digits[21], *first = digits + 20;

    *first = 0;
    do
        *--first = '0' + number % 10;
    while (number /= 10);
    complain(first);
}

SHARED void is(uint64_t number, uint64_t expected, const char *what, const char *name)
{
    if (number == expected)
        return;
    complain(what);
    complain(" is ");
    complain_of_number(number);
    complain(", not ");
    complain_of_number(expected);
    complain(", ");
    fail(name);
}

SHARED _Noreturn void refused(uint64_t error, const char *what)
{
    complain("error ");
    complain_of_number(error);
    complain(" of ");
    fail(what);
}

/* Text as the bindings have it; it is read only. */
SHARED guest_string_t *as(const char *text)
{
    guest_string_t *string = malloc(sizeof *string);

    CHECK(string);
    string->ptr = (uint8_t *)text;
    string->len = strlen(text);
    return string;
}

/* The same for bytes. */
SHARED guest_list_u8_t *bytes(const char *text)
{
    return (guest_list_u8_t *)as(text);
}

/* What was given is this text: a string, or a list of bytes. */
#define SAYS(given, text) CHECK((given).len == strlen(text) && !memcmp((given).ptr, text, (given).len))

/* An argument; the first one, 0, is the program's name. */
SHARED const char *argument(size_t number)
{
    guest_list_string_t all;
    char *text;

    wasi_cli_environment_get_arguments(&all);
    CHECK(number < all.len);
    text = malloc(all.ptr[number].len + 1);
    CHECK(text);
    memcpy(text, all.ptr[number].ptr, all.ptr[number].len);
    text[all.ptr[number].len] = 0;
    return text;
}

SHARED void wait_for(wasi_io_poll_own_pollable_t what)
{
    wasi_io_poll_method_pollable_block(wasi_io_poll_borrow_pollable(what));
    wasi_io_poll_pollable_drop_own(what);
}

/* All that is to come from a stream, as text. */
SHARED char *rest_of(wasi_io_streams_own_input_stream_t stream)
{
    wasi_io_streams_stream_error_t ended;
    guest_list_u8_t part;
    size_t length = 0;
    char *text = malloc(1);

    while (wasi_io_streams_method_input_stream_blocking_read(
        wasi_io_streams_borrow_input_stream(stream), 4096, &part, &ended)) {
        text = realloc(text, length + part.len + 1);
        CHECK(text);
        memcpy(text + length, part.ptr, part.len);
        length += part.len;
    }
    IS(ended.tag, WASI_IO_STREAMS_STREAM_ERROR_CLOSED);
    text[length] = 0;
    wasi_io_streams_input_stream_drop_own(stream);
    return text;
}
