/* What both sides of wasi:http share. */
#include "judge.h"

#define HTTP(name) wasi_http_types_method_##name

/* A call is refused with this error of headers. */
#define REFUSED_BY_TAG(call, expected)                                       \
    do {                                                                     \
        CHECK(!(call));                                                      \
        IS(error.tag, WASI_HTTP_TYPES_HEADER_ERROR_##expected);              \
    } while (0)

typedef wasi_http_types_borrow_fields_t fields;

SHARED wasi_http_types_field_value_t value(const char *text)
{
    return (wasi_http_types_field_value_t){(uint8_t *)text, strlen(text)};
}

/* A field has this value and no other. */
SHARED void field_is(fields all, const char *name, const char *text)
{
    wasi_http_types_list_field_value_t values;

    HTTP(fields_get)(all, as(name), &values);
    IS(values.len, 1);
    SAYS(values.ptr[0], text);
}

/* Sends a body in two parts, and a trailer behind it. */
SHARED void send_body(wasi_http_types_own_outgoing_body_t body, const char *text, const char *trailer)
{
    wasi_http_types_own_fields_t trailers = wasi_http_types_constructor_fields();
    wasi_http_types_own_output_stream_t stream;
    wasi_http_types_header_error_t error;
    wasi_http_types_field_value_t said = value(trailer);
    wasi_http_types_error_code_t failed;

    CHECK(HTTP(outgoing_body_write)(wasi_http_types_borrow_outgoing_body(body), &stream));
    write_to(stream, text);
    write_to(stream, text);
    wasi_io_streams_output_stream_drop_own(stream);
    CHECK(HTTP(fields_append)(wasi_http_types_borrow_fields(trailers), as("x-trailer"), &said, &error));
    CHECK(wasi_http_types_static_outgoing_body_finish(body, &trailers, &failed));
}

/* Takes such a body. */
SHARED void take_body(wasi_http_types_own_incoming_body_t body, const char *text, const char *trailer)
{
    wasi_http_types_result_result_option_own_trailers_error_code_void_t given;
    wasi_http_types_own_input_stream_t stream;
    wasi_http_types_own_future_trailers_t future;

    CHECK(HTTP(incoming_body_stream)(wasi_http_types_borrow_incoming_body(body), &stream));
    /* There is one. */
    wasi_http_types_own_input_stream_t second;

    CHECK(!HTTP(incoming_body_stream)(wasi_http_types_borrow_incoming_body(body), &second));
    CHECK(!strcmp(rest_of(stream), text));
    future = wasi_http_types_static_incoming_body_finish(body);
    wait_for(HTTP(future_trailers_subscribe)(wasi_http_types_borrow_future_trailers(future)));
    CHECK(HTTP(future_trailers_get)(wasi_http_types_borrow_future_trailers(future), &given));
    CHECK(!given.is_err && !given.val.ok.is_err && given.val.ok.val.ok.is_some);
    field_is(wasi_http_types_borrow_fields(given.val.ok.val.ok.val), "x-trailer", trailer);
}
