/* wasi:http: answers what c-http-client asks. */
#include "http.h"

static void judge_request(wasi_http_types_borrow_incoming_request_t request, const char *path)
{
    wasi_http_types_own_incoming_body_t body, second;
    wasi_http_types_method_t method;
    wasi_http_types_scheme_t scheme;
    guest_string_t given;

    HTTP(incoming_request_method)(request, &method);
    IS(method.tag, WASI_HTTP_TYPES_METHOD_POST);
    CHECK(HTTP(incoming_request_scheme)(request, &scheme));
    IS(scheme.tag, WASI_HTTP_TYPES_SCHEME_HTTP);
    CHECK(HTTP(incoming_request_authority)(request, &given));
    CHECK(given.len > strlen("127.0.0.1:") && !memcmp(given.ptr, "127.0.0.1:", strlen("127.0.0.1:")));
    CHECK(HTTP(incoming_request_path_with_query)(request, &given));
    SAYS(given, path);
    field_is(wasi_http_types_borrow_fields(HTTP(incoming_request_headers)(request)), "x-word", "a word");
    CHECK(HTTP(incoming_request_consume)(request, &body));
    CHECK(!HTTP(incoming_request_consume)(request, &second));
    take_body(body, "all all ", "of the request");
}

static bool is_asked_for(wasi_http_types_borrow_incoming_request_t request, const char *path)
{
    guest_string_t given;

    CHECK(HTTP(incoming_request_path_with_query)(request, &given));
    return given.len == strlen(path) && !memcmp(given.ptr, path, given.len);
}

/* An answer, whose body has this length if that is said. */
static wasi_http_types_own_outgoing_body_t answer(wasi_http_types_own_response_outparam_t to, int status,
                                                  const char *length)
{
    wasi_http_types_own_fields_t headers = wasi_http_types_constructor_fields();
    wasi_http_types_result_own_outgoing_response_error_code_t all = {.is_err = false};
    wasi_http_types_field_value_t word = value("another"), trailer = value("x-trailer"), said = value(length);
    wasi_http_types_borrow_outgoing_response_t response;
    wasi_http_types_own_outgoing_body_t body, second;
    wasi_http_types_header_error_t error;

    CHECK(HTTP(fields_append)(wasi_http_types_borrow_fields(headers), as("x-word"), &word, &error));
    CHECK(HTTP(fields_append)(wasi_http_types_borrow_fields(headers), as("trailer"), &trailer, &error));
    if (*length)
        CHECK(HTTP(fields_append)(wasi_http_types_borrow_fields(headers), as("content-length"), &said, &error));
    all.val.ok = wasi_http_types_constructor_outgoing_response(headers);
    response = wasi_http_types_borrow_outgoing_response(all.val.ok);
    IS(HTTP(outgoing_response_status_code)(response), 200);
    CHECK(!HTTP(outgoing_response_set_status_code)(response, 1000));
    CHECK(HTTP(outgoing_response_set_status_code)(response, status));
    IS(HTTP(outgoing_response_status_code)(response), status);
    headers = HTTP(outgoing_response_headers)(response);
    REFUSED_BY_TAG(HTTP(fields_append)(wasi_http_types_borrow_fields(headers), as("x"), &word, &error), IMMUTABLE);
    wasi_http_types_fields_drop_own(headers);
    CHECK(HTTP(outgoing_response_body)(response, &body));
    CHECK(!HTTP(outgoing_response_body)(response, &second));
    wasi_http_types_static_response_outparam_set(to, &all);
    return body;
}

/* Promises eight bytes and sends five. */
static void break_off(wasi_http_types_borrow_incoming_request_t request, wasi_http_types_own_response_outparam_t to)
{
    wasi_http_types_own_outgoing_body_t body = answer(to, 200, "8");
    wasi_http_types_own_output_stream_t stream;
    wasi_http_types_error_code_t failed;

    CHECK(HTTP(outgoing_body_write)(wasi_http_types_borrow_outgoing_body(body), &stream));
    write_to(stream, "five!");
    wasi_io_streams_output_stream_drop_own(stream);
    /* Its body comes once these have arrived. */
    judge_request(request, "/break?off");
    CHECK(!wasi_http_types_static_outgoing_body_finish(body, NULL, &failed));
    IS(failed.tag, WASI_HTTP_TYPES_ERROR_CODE_HTTP_RESPONSE_BODY_SIZE);
    CHECK(failed.val.http_response_body_size.is_some);
    IS(failed.val.http_response_body_size.val, 5);
}

void exports_wasi_http_incoming_handler_handle(exports_wasi_http_incoming_handler_own_incoming_request_t own,
                                               exports_wasi_http_incoming_handler_own_response_outparam_t to)
{
    wasi_http_types_borrow_incoming_request_t request = wasi_http_types_borrow_incoming_request(own);

    if (is_asked_for(request, "/break?off")) {
        break_off(request, to);
    } else {
        judge_request(request, "/echo?a=b");
        send_body(answer(to, 201, ""), "all ", "of the answer");
    }
}
