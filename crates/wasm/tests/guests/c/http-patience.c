/* wasi:http: how long a guest waits for the rest of an answer, which is "one" and then, if ever, "two".
 *
 *   c-http-patience.wasm AUTHORITY stalled      waits for the rest, which does not come
 *   c-http-patience.wasm AUTHORITY computes     says "taken" when it has the first part, computes, and takes the rest
 *   c-http-patience.wasm AUTHORITY looks        the same, but looks for the rest before it computes
 *   c-http-patience.wasm AUTHORITY leaves       the same, but waits a moment for the rest before it computes
 *   c-http-patience.wasm AUTHORITY takes        takes the rest at once
 *   c-http-patience.wasm AUTHORITY floods       asks so often that it has no descriptor left, and is told so
 */
#include "http.h"

#define MS (1000 * 1000ULL)

/* Less than a guest computes. */
static uint64_t limit = 300 * MS;
static const uint64_t long_time = 2000 * MS;

/* Less than a kernel waits for an address that does not answer. */
static uint64_t reachable = 20000 * MS;

static void compute(void)
{
    uint64_t began = wasi_clocks_monotonic_clock_now();

    while (wasi_clocks_monotonic_clock_now() - began < long_time)
        ;
}

/* Asks. */
static wasi_http_types_borrow_future_incoming_response_t asked(const char *authority, bool briefly)
{
    wasi_http_types_own_request_options_t options = wasi_http_types_constructor_request_options();
    wasi_http_types_own_outgoing_request_t own =
        wasi_http_types_constructor_outgoing_request(wasi_http_types_constructor_fields());
    wasi_http_types_borrow_outgoing_request_t request = wasi_http_types_borrow_outgoing_request(own);
    wasi_http_types_borrow_request_options_t borrowed = wasi_http_types_borrow_request_options(options);
    wasi_http_types_scheme_t scheme = {.tag = WASI_HTTP_TYPES_SCHEME_HTTP};
    wasi_http_types_own_future_incoming_response_t future;
    wasi_http_types_error_code_t failed;

    CHECK(HTTP(request_options_set_connect_timeout)(borrowed, &reachable));
    if (briefly)
        CHECK(HTTP(request_options_set_between_bytes_timeout)(borrowed, &limit));
    CHECK(HTTP(outgoing_request_set_scheme)(request, &scheme));
    CHECK(HTTP(outgoing_request_set_authority)(request, as(authority)));
    CHECK(HTTP(outgoing_request_set_path_with_query)(request, as("/")));
    CHECK(wasi_http_outgoing_handler_handle(own, &options, &future, &failed));
    return wasi_http_types_borrow_future_incoming_response(future);
}

/* The body of what it is answered. */
static wasi_http_types_own_input_stream_t answered(wasi_http_types_borrow_future_incoming_response_t future)
{
    wasi_http_types_result_result_own_incoming_response_error_code_void_t given;
    wasi_http_types_own_input_stream_t stream;
    wasi_http_types_own_incoming_body_t body;

    wait_for(HTTP(future_incoming_response_subscribe)(future));
    CHECK(HTTP(future_incoming_response_get)(future, &given));
    CHECK(!given.is_err && !given.val.ok.is_err);
    CHECK(HTTP(incoming_response_consume)(
        wasi_http_types_borrow_incoming_response(given.val.ok.val.ok), &body));
    CHECK(HTTP(incoming_body_stream)(wasi_http_types_borrow_incoming_body(body), &stream));
    return stream;
}

/* One of more requests than there are descriptors for has an error; nobody answers the others. */
static void floods(const char *authority)
{
    enum { MANY = 100 };
    wasi_http_types_borrow_future_incoming_response_t futures[MANY];
    wasi_http_types_result_result_own_incoming_response_error_code_void_t given;
    wasi_io_poll_borrow_pollable_t pollables[MANY];
    wasi_io_poll_list_borrow_pollable_t all = {pollables, MANY};
    guest_list_u32_t ready;

    for (size_t i = 0; i < MANY; i++) {
        futures[i] = asked(authority, false);
        pollables[i] = wasi_io_poll_borrow_pollable(HTTP(future_incoming_response_subscribe)(futures[i]));
    }
    wasi_io_poll_poll(&all, &ready);
    CHECK(HTTP(future_incoming_response_get)(futures[ready.ptr[0]], &given));
    CHECK(!given.is_err && given.val.ok.is_err);
    IS(given.val.ok.val.err.tag, WASI_HTTP_TYPES_ERROR_CODE_CONNECTION_LIMIT_REACHED);
}

/* Nothing comes, and the error says so. */
static void stalled(wasi_io_streams_borrow_input_stream_t stream)
{
    wasi_io_streams_stream_error_t ended;
    wasi_http_types_error_code_t code;
    guest_list_u8_t part;

    CHECK(!wasi_io_streams_method_input_stream_blocking_read(stream, 99, &part, &ended));
    IS(ended.tag, WASI_IO_STREAMS_STREAM_ERROR_LAST_OPERATION_FAILED);
    CHECK(wasi_http_types_http_error_code(wasi_io_error_borrow_error(ended.val.last_operation_failed), &code));
    IS(code.tag, WASI_HTTP_TYPES_ERROR_CODE_CONNECTION_READ_TIMEOUT);
}

/* Waits for a stream, but not for long. */
static void wait_briefly(wasi_io_streams_borrow_input_stream_t stream)
{
    wasi_io_poll_own_pollable_t bytes = wasi_io_streams_method_input_stream_subscribe(stream);
    wasi_io_poll_own_pollable_t moment = wasi_clocks_monotonic_clock_subscribe_duration(20 * MS);
    wasi_io_poll_borrow_pollable_t both[] = {
        wasi_io_poll_borrow_pollable(bytes), wasi_io_poll_borrow_pollable(moment)};
    wasi_io_poll_list_borrow_pollable_t all = {both, 2};
    guest_list_u32_t ready;

    wasi_io_poll_poll(&all, &ready);
    wasi_io_poll_pollable_drop_own(bytes);
    wasi_io_poll_pollable_drop_own(moment);
}

/* Lets time pass before it takes the rest, in this way. */
static void dally(const char *way, wasi_io_streams_borrow_input_stream_t stream)
{
    guest_list_u8_t part;

    if (!strcmp(way, "looks")) {
        FLOWS(wasi_io_streams_method_input_stream_read(stream, 99, &part, &ended));
        IS(part.len, 0);
    }
    if (!strcmp(way, "leaves"))
        wait_briefly(stream);
    say("taken\n");
    compute();
}

bool exports_wasi_cli_run_run(void)
{
    const char *authority = argument(1), *way = argument(2);
    wasi_http_types_own_input_stream_t own;
    wasi_io_streams_borrow_input_stream_t stream;
    guest_list_u8_t part;

    if (!strcmp(way, "floods")) {
        floods(authority);
        say("well\n");
        return true;
    }
    own = answered(asked(authority, strcmp(way, "takes")));
    stream = wasi_io_streams_borrow_input_stream(own);
    FLOWS(wasi_io_streams_method_input_stream_blocking_read(stream, 3, &part, &ended));
    SAYS(part, "one");
    if (!strcmp(way, "stalled")) {
        stalled(stream);
    } else {
        if (strcmp(way, "takes"))
            dally(way, stream);
        CHECK(!strcmp(rest_of(own), "two"));
    }
    say("well\n");
    return true;
}
