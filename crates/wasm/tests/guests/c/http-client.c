/* wasi:http: fields, requests, and what comes back of them.
 *
 *   c-http-client.wasm AUTHORITY NOBODY     c-http-server is at AUTHORITY, and at NOBODY nobody
 */
#include "http.h"

static wasi_http_types_header_error_t error;

static void fields_alone(void)
{
    wasi_http_types_tuple2_field_name_field_value_t pairs[] = {
        {*as("one"), value("1")}, {*as("two"), value("2")}, {*as("Two"), value("3")}};
    wasi_http_types_list_tuple2_field_name_field_value_t three = {pairs, 3}, all;
    wasi_http_types_field_value_t other = value("other"), broken = value("a\r\nb: c");
    wasi_http_types_list_field_value_t values, one_other = {&other, 1}, one_broken = {&broken, 1};
    wasi_http_types_own_fields_t own, copy;
    fields these;

    CHECK(wasi_http_types_static_fields_from_list(&three, &own, &error));
    these = wasi_http_types_borrow_fields(own);
    HTTP(fields_entries)(these, &all);
    IS(all.len, 3);
    HTTP(fields_get)(these, as("TWO"), &values);
    IS(values.len, 2);
    SAYS(values.ptr[1], "3");
    CHECK(HTTP(fields_has)(these, as("One")) && !HTTP(fields_has)(these, as("three")));
    CHECK(HTTP(fields_set)(these, as("two"), &one_other, &error));
    field_is(these, "two", "other");
    copy = HTTP(fields_clone)(these);
    CHECK(HTTP(fields_append)(these, as("one"), &other, &error));
    CHECK(HTTP(fields_delete)(these, as("two"), &error));
    CHECK(!HTTP(fields_has)(these, as("two")));
    HTTP(fields_get)(these, as("one"), &values);
    IS(values.len, 2);
    field_is(wasi_http_types_borrow_fields(copy), "one", "1");

    /* What HTTP forbids, and what the host keeps for itself. */
    REFUSED_BY_TAG(HTTP(fields_set)(these, as("a name"), &one_other, &error), INVALID_SYNTAX);
    REFUSED_BY_TAG(HTTP(fields_append)(these, as("one"), &broken, &error), INVALID_SYNTAX);
    REFUSED_BY_TAG(HTTP(fields_set)(these, as("one"), &one_broken, &error), INVALID_SYNTAX);
    REFUSED_BY_TAG(HTTP(fields_append)(these, as("connection"), &other, &error), FORBIDDEN);
    pairs[0].f0 = *as("transfer-encoding");
    REFUSED_BY_TAG(wasi_http_types_static_fields_from_list(&three, &own, &error), FORBIDDEN);
}

static void options_alone(wasi_http_types_borrow_request_options_t options)
{
    static const struct {
        bool (*get)(wasi_http_types_borrow_request_options_t, uint64_t *);
        bool (*set)(wasi_http_types_borrow_request_options_t, uint64_t *);
    } table[] = {
        {HTTP(request_options_connect_timeout), HTTP(request_options_set_connect_timeout)},
        {HTTP(request_options_first_byte_timeout), HTTP(request_options_set_first_byte_timeout)},
        {HTTP(request_options_between_bytes_timeout), HTTP(request_options_set_between_bytes_timeout)},
    };

    for (size_t i = 0; i < 3; i++) {
        uint64_t minute = 60 * 1000 * 1000 * 1000ULL + i, given;

        CHECK(!table[i].get(options, &given));
        CHECK(table[i].set(options, &minute));
        CHECK(table[i].get(options, &given));
        IS(given, minute);
    }
}

/* A request for somebody; what was said of it can be read again. */
static wasi_http_types_own_outgoing_request_t request_for(const char *authority, const char *path)
{
    wasi_http_types_own_fields_t headers = wasi_http_types_constructor_fields();
    wasi_http_types_field_value_t word = value("a word"), trailer = value("x-trailer"), trailers = value("trailers");
    wasi_http_types_own_outgoing_request_t own;
    wasi_http_types_borrow_outgoing_request_t request;
    wasi_http_types_method_t method = {.tag = WASI_HTTP_TYPES_METHOD_POST};
    wasi_http_types_scheme_t scheme = {.tag = WASI_HTTP_TYPES_SCHEME_HTTP};
    wasi_http_types_method_t no_method = {.tag = WASI_HTTP_TYPES_METHOD_OTHER, .val.other = *as("a b")};
    guest_string_t given;

    CHECK(HTTP(fields_append)(wasi_http_types_borrow_fields(headers), as("x-word"), &word, &error));
    /* Without a word of them, HTTP/1.1 carries trailers neither way. */
    CHECK(HTTP(fields_append)(wasi_http_types_borrow_fields(headers), as("trailer"), &trailer, &error));
    CHECK(HTTP(fields_append)(wasi_http_types_borrow_fields(headers), as("te"), &trailers, &error));
    own = wasi_http_types_constructor_outgoing_request(headers);
    request = wasi_http_types_borrow_outgoing_request(own);
    headers = HTTP(outgoing_request_headers)(request);
    field_is(wasi_http_types_borrow_fields(headers), "x-word", "a word");
    REFUSED_BY_TAG(HTTP(fields_append)(wasi_http_types_borrow_fields(headers), as("x"), &word, &error), IMMUTABLE);
    REFUSED_BY_TAG(HTTP(fields_delete)(wasi_http_types_borrow_fields(headers), as("x-word"), &error), IMMUTABLE);
    wasi_http_types_fields_drop_own(headers);

    CHECK(HTTP(outgoing_request_set_method)(request, &method));
    CHECK(!HTTP(outgoing_request_set_method)(request, &no_method));
    HTTP(outgoing_request_method)(request, &method);
    IS(method.tag, WASI_HTTP_TYPES_METHOD_POST);
    CHECK(HTTP(outgoing_request_set_scheme)(request, &scheme));
    CHECK(HTTP(outgoing_request_scheme)(request, &scheme));
    IS(scheme.tag, WASI_HTTP_TYPES_SCHEME_HTTP);
    CHECK(HTTP(outgoing_request_set_path_with_query)(request, as(path)));
    CHECK(!HTTP(outgoing_request_set_path_with_query)(request, as("/a b")));
    CHECK(HTTP(outgoing_request_path_with_query)(request, &given));
    SAYS(given, path);
    CHECK(HTTP(outgoing_request_set_authority)(request, as(authority)));
    CHECK(!HTTP(outgoing_request_set_authority)(request, as("a b")));
    CHECK(HTTP(outgoing_request_authority)(request, &given));
    SAYS(given, authority);
    return own;
}

/* Sends a request, whose body is still to come. */
static wasi_http_types_borrow_future_incoming_response_t sent(wasi_http_types_own_outgoing_request_t own,
                                                              wasi_http_types_own_request_options_t *options,
                                                              wasi_http_types_own_outgoing_body_t *body)
{
    wasi_http_types_borrow_outgoing_request_t request = wasi_http_types_borrow_outgoing_request(own);
    wasi_http_types_own_future_incoming_response_t future;
    wasi_http_types_own_outgoing_body_t second;
    wasi_http_types_error_code_t failed;

    CHECK(HTTP(outgoing_request_body)(request, body));
    CHECK(!HTTP(outgoing_request_body)(request, &second));
    CHECK(wasi_http_outgoing_handler_handle(own, options, &future, &failed));
    return wasi_http_types_borrow_future_incoming_response(future);
}

/* What comes back of it, once it does. */
static wasi_http_types_result_own_incoming_response_error_code_t outcome(
    wasi_http_types_borrow_future_incoming_response_t future)
{
    wasi_http_types_result_result_own_incoming_response_error_code_void_t given, again;

    wait_for(HTTP(future_incoming_response_subscribe)(future));
    CHECK(HTTP(future_incoming_response_get)(future, &given));
    CHECK(!given.is_err);
    CHECK(HTTP(future_incoming_response_get)(future, &again));
    CHECK(again.is_err);
    return given.val.ok;
}

static wasi_http_types_own_incoming_body_t answered(wasi_http_types_own_incoming_response_t own, int status)
{
    wasi_http_types_borrow_incoming_response_t response = wasi_http_types_borrow_incoming_response(own);
    wasi_http_types_own_incoming_body_t body, second;

    IS(HTTP(incoming_response_status)(response), status);
    field_is(wasi_http_types_borrow_fields(HTTP(incoming_response_headers)(response)), "x-word", "another");
    CHECK(HTTP(incoming_response_consume)(response, &body));
    CHECK(!HTTP(incoming_response_consume)(response, &second));
    return body;
}

static void echo(const char *authority, wasi_http_types_own_request_options_t *options)
{
    wasi_http_types_result_own_incoming_response_error_code_t came;
    wasi_http_types_borrow_future_incoming_response_t future;
    wasi_http_types_own_outgoing_body_t body;

    future = sent(request_for(authority, "/echo?a=b"), options, &body);
    send_body(body, "all ", "of the request");
    came = outcome(future);
    CHECK(!came.is_err);
    take_body(answered(came.val.ok, 201), "all all ", "of the answer");
}

/* The server promises more than it sends, and breaks off when it has the request's body. */
static void broken_off(const char *authority)
{
    wasi_http_types_result_own_incoming_response_error_code_t came;
    wasi_http_types_own_outgoing_body_t body;
    wasi_http_types_own_incoming_body_t answer;
    wasi_http_types_own_input_stream_t own;
    wasi_io_streams_borrow_input_stream_t stream;
    wasi_io_streams_stream_error_t ended;
    wasi_http_types_error_code_t code;
    guest_list_u8_t part;

    came = outcome(sent(request_for(authority, "/break?off"), NULL, &body));
    CHECK(!came.is_err);
    answer = answered(came.val.ok, 200);
    CHECK(HTTP(incoming_body_stream)(wasi_http_types_borrow_incoming_body(answer), &own));
    stream = wasi_io_streams_borrow_input_stream(own);
    for (size_t length = 0; length < strlen("five!"); length += part.len)
        FLOWS(wasi_io_streams_method_input_stream_blocking_read(stream, 99, &part, &ended));
    send_body(body, "all ", "of the request");
    CHECK(!wasi_io_streams_method_input_stream_blocking_read(stream, 99, &part, &ended));
    IS(ended.tag, WASI_IO_STREAMS_STREAM_ERROR_LAST_OPERATION_FAILED);
    CHECK(wasi_http_types_http_error_code(wasi_io_error_borrow_error(ended.val.last_operation_failed), &code));
    IS(code.tag, WASI_HTTP_TYPES_ERROR_CODE_CONNECTION_TERMINATED);
}

static void refused_by_nobody(const char *authority)
{
    wasi_http_types_result_own_incoming_response_error_code_t came;
    wasi_http_types_own_outgoing_body_t body;

    came = outcome(sent(request_for(authority, "/"), NULL, &body));
    CHECK(came.is_err);
    IS(came.val.err.tag, WASI_HTTP_TYPES_ERROR_CODE_CONNECTION_REFUSED);
}

bool exports_wasi_cli_run_run(void)
{
    wasi_http_types_own_request_options_t options = wasi_http_types_constructor_request_options();

    fields_alone();
    options_alone(wasi_http_types_borrow_request_options(options));
    echo(argument(1), &options);
    broken_off(argument(1));
    refused_by_nobody(argument(2));
    say("well\n");
    return true;
}
