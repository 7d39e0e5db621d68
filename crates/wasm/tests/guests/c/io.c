/* wasi:io: streams of files and of standard input, and waiting for several things.
 *
 *   c-io.wasm DIRECTORY     which is empty; "0123456789" on stdin
 */
#include "judge.h"

#define IN(name) wasi_io_streams_method_input_stream_##name
#define OUT(name) wasi_io_streams_method_output_stream_##name
#define AT(name) wasi_filesystem_types_method_descriptor_##name
#define READ WASI_FILESYSTEM_TYPES_DESCRIPTOR_FLAGS_READ
#define WRITE WASI_FILESYSTEM_TYPES_DESCRIPTOR_FLAGS_WRITE

typedef wasi_io_streams_own_input_stream_t input;
typedef wasi_io_streams_own_output_stream_t output;

static wasi_filesystem_types_borrow_descriptor_t file;

/* An empty file that can be read and written. */
static void make_file(void)
{
    wasi_filesystem_preopens_list_tuple2_own_descriptor_string_t all;
    wasi_filesystem_types_own_descriptor_t made;
    wasi_filesystem_types_error_code_t error;
    const char *directory = argument(1);
    char path[strlen(directory) + sizeof "/file"];

    wasi_filesystem_preopens_get_directories(&all);
    IS(all.len, 1);
    SAYS(all.ptr[0].f1, "/");
    strcpy(path, directory);
    strcat(path, "/file");
    WORKS(AT(open_at)(wasi_filesystem_types_borrow_descriptor(all.ptr[0].f0), 0, as(path + 1),
                      WASI_FILESYSTEM_TYPES_OPEN_FLAGS_CREATE, READ | WRITE, &made, &error));
    file = wasi_filesystem_types_borrow_descriptor(made);
}

static input from(uint64_t offset)
{
    wasi_filesystem_types_error_code_t error;
    input stream;

    WORKS(AT(read_via_stream)(file, offset, &stream, &error));
    return stream;
}

static void file_is(const char *text)
{
    CHECK(!strcmp(rest_of(from(0)), text));
}

static void writing(void)
{
    wasi_filesystem_types_error_code_t error;
    guest_list_u8_t *four = bytes("abcd"), rest;
    uint64_t room, moved;
    input digits = wasi_cli_stdin_get_stdin();
    output own;

    WORKS(AT(write_via_stream)(file, 0, &own, &error));

    wasi_io_streams_borrow_output_stream_t to = wasi_io_streams_borrow_output_stream(own);
    wasi_io_streams_borrow_input_stream_t in = wasi_io_streams_borrow_input_stream(digits);

    wait_for(OUT(subscribe)(to));
    FLOWS(OUT(check_write)(to, &room, &ended));
    CHECK(room >= four->len);
    FLOWS(OUT(write)(to, four, &ended));
    FLOWS(OUT(flush)(to, &ended));
    wait_for(OUT(subscribe)(to));
    FLOWS(OUT(check_write)(to, &room, &ended));
    FLOWS(OUT(blocking_flush)(to, &ended));
    file_is("abcd");
    FLOWS(OUT(blocking_write_and_flush)(to, four, &ended));
    file_is("abcdabcd");

    /* What is there is moved, and what is not, waited for. */
    wait_for(IN(subscribe)(in));
    FLOWS(OUT(check_write)(to, &room, &ended));
    FLOWS(OUT(splice)(to, in, 4, &moved, &ended));
    IS(moved, 4);
    FLOWS(OUT(blocking_flush)(to, &ended));
    FLOWS(OUT(blocking_splice)(to, in, 4, &moved, &ended));
    IS(moved, 4);
    FLOWS(OUT(blocking_flush)(to, &ended));
    file_is("abcdabcd01234567");
    FLOWS(IN(blocking_read)(in, 9, &rest, &ended));
    SAYS(rest, "89");

    FLOWS(OUT(check_write)(to, &room, &ended));
    FLOWS(OUT(write_zeroes)(to, 2, &ended));
    FLOWS(OUT(blocking_flush)(to, &ended));
    FLOWS(OUT(blocking_write_zeroes_and_flush)(to, 1, &ended));
    FLOWS(OUT(blocking_write_and_flush)(to, four, &ended));
    wasi_io_streams_output_stream_drop_own(own);

    char *all = rest_of(from(0));

    CHECK(!memcmp(all, "abcdabcd01234567\0\0\0abcd", 24));
}

static void reading(void)
{
    wasi_filesystem_types_error_code_t code;
    wasi_io_streams_stream_error_t ended;
    guest_list_u8_t part;
    guest_string_t words;
    uint64_t skipped;
    input own = from(2);
    wasi_io_streams_borrow_input_stream_t in = wasi_io_streams_borrow_input_stream(own);

    /* The file is abcdabcd01234567, three zeroes, and abcd. */
    FLOWS(IN(blocking_read)(in, 3, &part, &ended));
    SAYS(part, "cda");
    FLOWS(IN(blocking_skip)(in, 4, &skipped, &ended));
    IS(skipped, 4);
    /* What is ready may be read, or skipped, at once. */
    wait_for(IN(subscribe)(in));
    FLOWS(IN(read)(in, 2, &part, &ended));
    CHECK(part.len <= 2 && !memcmp(part.ptr, "12", part.len));
    FLOWS(IN(skip)(in, 1, &skipped, &ended));
    CHECK(skipped <= 1);
    FLOWS(IN(read)(in, 0, &part, &ended));
    IS(part.len, 0);
    FLOWS(IN(blocking_skip)(in, 100, &skipped, &ended));
    CHECK(skipped > 0);
    CLOSED(IN(blocking_read)(in, 1, &part, &ended));
    CLOSED(IN(blocking_skip)(in, 1, &skipped, &ended));
    wasi_io_streams_input_stream_drop_own(own);

    /* No file has such a place: the error has words, and a code. */
    in = wasi_io_streams_borrow_input_stream(from(UINT64_MAX));
    CHECK(!IN(blocking_read)(in, 1, &part, &ended));
    IS(ended.tag, WASI_IO_STREAMS_STREAM_ERROR_LAST_OPERATION_FAILED);

    wasi_io_error_borrow_error_t error = wasi_io_error_borrow_error(ended.val.last_operation_failed);

    wasi_io_error_method_error_to_debug_string(error, &words);
    CHECK(words.len > 0);
    CHECK(wasi_filesystem_types_filesystem_error_code(error, &code));
    IS(code, WASI_FILESYSTEM_TYPES_ERROR_CODE_INVALID);
}

static void waiting(void)
{
    wasi_io_poll_borrow_pollable_t three[] = {
        wasi_io_poll_borrow_pollable(wasi_clocks_monotonic_clock_subscribe_duration(UINT64_MAX)),
        wasi_io_poll_borrow_pollable(wasi_clocks_monotonic_clock_subscribe_duration(1000 * 1000)),
        wasi_io_poll_borrow_pollable(IN(subscribe)(wasi_io_streams_borrow_input_stream(from(0)))),
    };
    wasi_io_poll_list_borrow_pollable_t of = {three, 2};
    guest_list_u32_t ready;

    wasi_io_poll_poll(&of, &ready);
    IS(ready.len, 1);
    IS(ready.ptr[0], 1);
    CHECK(!wasi_io_poll_method_pollable_ready(three[0]));
    CHECK(wasi_io_poll_method_pollable_ready(three[1]));
    wasi_io_poll_method_pollable_block(three[1]);
    wasi_io_poll_method_pollable_block(three[2]);
    of.len = 3;
    wasi_io_poll_poll(&of, &ready);
    IS(ready.len, 2);
    IS(ready.ptr[0], 1);
    IS(ready.ptr[1], 2);
}

bool exports_wasi_cli_run_run(void)
{
    make_file();
    writing();
    reading();
    waiting();
    say("well\n");
    return true;
}
