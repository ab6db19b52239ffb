// A component that holds its host to wasi:http 0.2, item by item; docs/conformance.md says what each path is for.
//
// Paths that look at what happens inside a call answer `ok`, or what did not hold, a line each.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent.h"

#define HTTP(name) wasi_http_types_##name

typedef HTTP(own_fields_t) fields_t;
typedef HTTP(own_outgoing_body_t) body_t;
typedef HTTP(own_output_stream_t) stream_t;
typedef HTTP(own_response_outparam_t) out_t;
typedef HTTP(own_incoming_request_t) request_t;

// The words of `error-code`, in its order.
static const char *const CODES[] = {
    "DNS-timeout", "DNS-error", "destination-not-found", "destination-unavailable", "destination-IP-prohibited",
    "destination-IP-unroutable", "connection-refused", "connection-terminated", "connection-timeout",
    "connection-read-timeout", "connection-write-timeout", "connection-limit-reached", "TLS-protocol-error",
    "TLS-certificate-error", "TLS-alert-received", "HTTP-request-denied", "HTTP-request-length-required",
    "HTTP-request-body-size", "HTTP-request-method-invalid", "HTTP-request-URI-invalid", "HTTP-request-URI-too-long",
    "HTTP-request-header-section-size", "HTTP-request-header-size", "HTTP-request-trailer-section-size",
    "HTTP-request-trailer-size", "HTTP-response-incomplete", "HTTP-response-header-section-size",
    "HTTP-response-header-size", "HTTP-response-body-size", "HTTP-response-trailer-section-size",
    "HTTP-response-trailer-size", "HTTP-response-transfer-coding", "HTTP-response-content-coding",
    "HTTP-response-timeout", "HTTP-upgrade-failed", "HTTP-protocol-error", "loop-detected", "configuration-error",
    "internal-error"};

// What is answered in the end.
static char report[16384];

static void say(const char *format, const char *text, size_t length)
{
    size_t at = strlen(report);
    snprintf(report + at, sizeof(report) - at, format, (int)length, text);
}

static void line(const char *text)
{
    say("%.*s\n", text, strlen(text));
}

static void expect(bool holds, const char *what)
{
    if (!holds)
        line(what);
}

static agent_string_t string(const char *text)
{
    return (agent_string_t){.ptr = (uint8_t *)text, .len = strlen(text)};
}

static HTTP(field_value_t) value(const char *text)
{
    return (HTTP(field_value_t)){.ptr = (uint8_t *)text, .len = strlen(text)};
}

static bool is(const uint8_t *bytes, size_t length, const char *text)
{
    return length == strlen(text) && memcmp(bytes, text, length) == 0;
}

// --- fields

static const char *error_word(HTTP(header_error_t) error)
{
    switch (error.tag) {
    case WASI_HTTP_TYPES_HEADER_ERROR_INVALID_SYNTAX:
        return "invalid-syntax";
    case WASI_HTTP_TYPES_HEADER_ERROR_FORBIDDEN:
        return "forbidden";
    default:
        return "immutable";
    }
}

static const char *append(fields_t fields, const char *name, const char *text)
{
    agent_string_t key = string(name);
    HTTP(field_value_t) content = value(text);
    HTTP(header_error_t) error;
    bool done = HTTP(method_fields_append)(HTTP(borrow_fields)(fields), &key, &content, &error);
    return done ? "done" : error_word(error);
}

static const char *set(fields_t fields, const char *name, HTTP(field_value_t) *values, size_t count)
{
    agent_string_t key = string(name);
    HTTP(list_field_value_t) list = {.ptr = values, .len = count};
    HTTP(header_error_t) error;
    bool done = HTTP(method_fields_set)(HTTP(borrow_fields)(fields), &key, &list, &error);
    return done ? "done" : error_word(error);
}

static const char *delete(fields_t fields, const char *name)
{
    agent_string_t key = string(name);
    HTTP(header_error_t) error;
    return HTTP(method_fields_delete)(HTTP(borrow_fields)(fields), &key, &error) ? "done" : error_word(error);
}

static bool has(fields_t fields, const char *name)
{
    agent_string_t key = string(name);
    return HTTP(method_fields_has)(HTTP(borrow_fields)(fields), &key);
}

static HTTP(list_field_value_t) get(fields_t fields, const char *name)
{
    agent_string_t key = string(name);
    HTTP(list_field_value_t) list;
    HTTP(method_fields_get)(HTTP(borrow_fields)(fields), &key, &list);
    return list;
}

// The first value of a field, as text that stays; NULL when there is none.
static char *first(fields_t fields, const char *name)
{
    HTTP(list_field_value_t) list = get(fields, name);
    return list.len ? strndup((char *)list.ptr[0].ptr, list.ptr[0].len) : NULL;
}

static void expect_word(const char *word, const char *wanted, const char *what)
{
    if (strcmp(word, wanted) != 0) {
        line(what);
        line(word);
    }
}

static void expect_immutable(fields_t fields, const char *whose)
{
    expect_word(append(fields, "x-new", "1"), "immutable", whose);
    expect_word(set(fields, "x-new", &(HTTP(field_value_t)){0}, 1), "immutable", whose);
    expect_word(delete(fields, "x-new"), "immutable", whose);
    fields_t clone = HTTP(method_fields_clone)(HTTP(borrow_fields)(fields));
    expect_word(append(clone, "x-new", "1"), "done", "a clone of immutable fields can be changed");
    expect(!has(fields, "x-new"), "a clone is apart from what it was made of");
}

static void from_list(const char *name, const char *text, const char *wanted)
{
    HTTP(tuple2_field_name_field_value_t) entry = {.f0 = string(name), .f1 = value(text)};
    HTTP(list_tuple2_field_name_field_value_t) list = {.ptr = &entry, .len = 1};
    fields_t fields;
    HTTP(header_error_t) error;
    bool made = HTTP(static_fields_from_list)(&list, &fields, &error);
    expect_word(made ? "done" : error_word(error), wanted, "from-list");
    if (made)
        expect(has(fields, name), "from-list keeps its entries");
}

static void check_fields(request_t request)
{
    fields_t fields = HTTP(constructor_fields)();
    expect_word(append(fields, "X-Name", "one"), "done", "append");
    expect_word(append(fields, "x-name", "two"), "done", "append to a name");
    HTTP(list_field_value_t) both = get(fields, "X-NAME");
    expect(both.len == 2 && is(both.ptr[0].ptr, both.ptr[0].len, "one") && is(both.ptr[1].ptr, both.ptr[1].len, "two"),
           "get finds both values in their order, whatever the case");
    expect(has(fields, "x-NAME") && !has(fields, "x-other"), "has");
    expect(get(fields, "x-other").len == 0, "get of what is not there");
    expect(get(fields, "no name").len == 0 && !has(fields, "no name"), "get and has of what is no name");

    HTTP(field_value_t) three[] = {value("three"), value("")};
    expect_word(set(fields, "x-name", three, 2), "done", "set");
    both = get(fields, "x-name");
    expect(both.len == 2 && is(both.ptr[0].ptr, both.ptr[0].len, "three") && both.ptr[1].len == 0,
           "set takes the place of what was there; a value may be empty");
    HTTP(list_tuple2_field_name_field_value_t) entries;
    HTTP(method_fields_entries)(HTTP(borrow_fields)(fields), &entries);
    expect(entries.len == 2, "entries has an entry for each value");
    fields_t clone = HTTP(method_fields_clone)(HTTP(borrow_fields)(fields));
    expect_word(set(fields, "x-name", NULL, 0), "done", "set to nothing");
    expect(!has(fields, "x-name") && has(clone, "x-name"), "set to nothing deletes, and not in the clone");
    expect_word(delete(clone, "x-name"), "done", "delete");
    expect(!has(clone, "x-name"), "delete");
    expect_word(delete(clone, "x-name"), "done", "delete what is not there");

    expect_word(append(fields, "no name", "1"), "invalid-syntax", "append to what is no name");
    expect_word(append(fields, "x-lines", "a\r\nb: c"), "invalid-syntax", "append a value of two lines");
    expect_word(append(fields, "content-length", "+5"), "invalid-syntax", "a length that is no number");
    expect_word(append(fields, "content-length", "5"), "done", "a length");
    expect_word(append(fields, "content-length", "5"), "invalid-syntax", "a second length");
    const char *const forbidden[] = {"Host",       "connection", "keep-alive",        "transfer-encoding",
                                     "upgrade",    "proxy-connection", "http2-settings", "proxy-authenticate",
                                     "proxy-authorization"};
    for (size_t at = 0; at < sizeof(forbidden) / sizeof(forbidden[0]); at++) {
        expect_word(append(fields, forbidden[at], "1"), "forbidden", forbidden[at]);
        expect_word(set(fields, forbidden[at], three, 1), "forbidden", forbidden[at]);
        expect_word(delete(fields, forbidden[at]), "forbidden", forbidden[at]);
    }
    from_list("x-a", "1", "done");
    from_list("host", "a", "forbidden");
    from_list("x a", "1", "invalid-syntax");

    fields_t own = HTTP(method_incoming_request_headers)(HTTP(borrow_incoming_request)(request));
    expect_immutable(own, "the headers of an incoming request");
    expect(!has(own, "host") && !has(own, "connection") && !has(own, "upgrade"), "forbidden headers do not come in");
    HTTP(own_outgoing_request_t) outgoing = HTTP(constructor_outgoing_request)(HTTP(constructor_fields)());
    expect_immutable(HTTP(method_outgoing_request_headers)(HTTP(borrow_outgoing_request)(outgoing)),
                     "the headers of an outgoing request");
    HTTP(own_outgoing_response_t) response = HTTP(constructor_outgoing_response)(HTTP(constructor_fields)());
    expect_immutable(HTTP(method_outgoing_response_headers)(HTTP(borrow_outgoing_response)(response)),
                     "the headers of an outgoing response");
}

// --- messages

static bool set_path(HTTP(borrow_outgoing_request_t) request, const char *path)
{
    agent_string_t text = string(path);
    return HTTP(method_outgoing_request_set_path_with_query)(request, &text);
}

static bool set_authority(HTTP(borrow_outgoing_request_t) request, const char *authority)
{
    agent_string_t text = string(authority);
    return HTTP(method_outgoing_request_set_authority)(request, &text);
}

static bool set_method(HTTP(borrow_outgoing_request_t) request, const char *method)
{
    HTTP(method_t) other = {.tag = WASI_HTTP_TYPES_METHOD_OTHER, .val.other = string(method)};
    return HTTP(method_outgoing_request_set_method)(request, &other);
}

static void check_request(void)
{
    HTTP(own_outgoing_request_t) made = HTTP(constructor_outgoing_request)(HTTP(constructor_fields)());
    HTTP(borrow_outgoing_request_t) request = HTTP(borrow_outgoing_request)(made);
    HTTP(method_t) method;
    HTTP(method_outgoing_request_method)(request, &method);
    expect(method.tag == WASI_HTTP_TYPES_METHOD_GET, "a request is GET until it is told");
    agent_string_t text;
    HTTP(scheme_t) scheme;
    expect(!HTTP(method_outgoing_request_path_with_query)(request, &text), "a request has no path until it is told");
    expect(!HTTP(method_outgoing_request_authority)(request, &text), "a request has no authority until it is told");
    expect(!HTTP(method_outgoing_request_scheme)(request, &scheme), "a request has no scheme until it is told");

    expect(set_method(request, "PURGE"), "a method of another name");
    expect(!set_method(request, "two words") && !set_method(request, ""), "what is no method");
    expect(set_path(request, "/a?b=c") && set_path(request, "?b"), "a path");
    expect(!set_path(request, "http://elsewhere/") && !set_path(request, "a") && !set_path(request, "/a b\r\n"),
           "what is no path");
    expect(HTTP(method_outgoing_request_path_with_query)(request, &text) && is(text.ptr, text.len, "?b"),
           "what is refused changes nothing");
    expect(set_authority(request, "[::1]:8080") && set_authority(request, "a.example"), "an authority");
    expect(!set_authority(request, "a b") && !set_authority(request, "a/b"), "what is no authority");
    HTTP(scheme_t) other = {.tag = WASI_HTTP_TYPES_SCHEME_OTHER, .val.other = string("gopher")};
    expect(HTTP(method_outgoing_request_set_scheme)(request, &other), "another scheme");
    other.val.other = string("no scheme");
    expect(!HTTP(method_outgoing_request_set_scheme)(request, &other), "what is no scheme");
    expect(HTTP(method_outgoing_request_set_path_with_query)(request, NULL), "no path");
    expect(!HTTP(method_outgoing_request_path_with_query)(request, &text), "no path");

    body_t body, second;
    stream_t stream, again;
    expect(HTTP(method_outgoing_request_body)(request, &body), "a request's body");
    expect(!HTTP(method_outgoing_request_body)(request, &second), "a request has one body");
    expect(HTTP(method_outgoing_body_write)(HTTP(borrow_outgoing_body)(body), &stream), "a body's stream");
    expect(!HTTP(method_outgoing_body_write)(HTTP(borrow_outgoing_body)(body), &again), "a body has one stream");
}

static void check_response(void)
{
    HTTP(own_outgoing_response_t) made = HTTP(constructor_outgoing_response)(HTTP(constructor_fields)());
    HTTP(borrow_outgoing_response_t) response = HTTP(borrow_outgoing_response)(made);
    expect(HTTP(method_outgoing_response_status_code)(response) == 200, "a response is 200 until it is told");
    expect(HTTP(method_outgoing_response_set_status_code)(response, 404), "a status");
    expect(!HTTP(method_outgoing_response_set_status_code)(response, 1000) &&
               !HTTP(method_outgoing_response_set_status_code)(response, 99),
           "what is no status");
    expect(HTTP(method_outgoing_response_status_code)(response) == 404, "what is refused changes nothing");
    body_t body, second;
    expect(HTTP(method_outgoing_response_body)(response, &body), "a response's body");
    expect(!HTTP(method_outgoing_response_body)(response, &second), "a response has one body");
}

static void check_options(void)
{
    HTTP(own_request_options_t) made = HTTP(constructor_request_options)();
    HTTP(borrow_request_options_t) options = HTTP(borrow_request_options)(made);
    HTTP(duration_t) set = 5, got = 0;
    expect(!HTTP(method_request_options_connect_timeout)(options, &got) &&
               !HTTP(method_request_options_first_byte_timeout)(options, &got) &&
               !HTTP(method_request_options_between_bytes_timeout)(options, &got),
           "options are unset until they are told");
    expect(HTTP(method_request_options_set_connect_timeout)(options, &set) &&
               HTTP(method_request_options_connect_timeout)(options, &got) && got == 5,
           "connect-timeout");
    expect(HTTP(method_request_options_set_first_byte_timeout)(options, &set) &&
               HTTP(method_request_options_first_byte_timeout)(options, &got) && got == 5,
           "first-byte-timeout");
    expect(HTTP(method_request_options_set_between_bytes_timeout)(options, &set) &&
               HTTP(method_request_options_between_bytes_timeout)(options, &got) && got == 5,
           "between-bytes-timeout");
    expect(HTTP(method_request_options_set_connect_timeout)(options, NULL) &&
               !HTTP(method_request_options_connect_timeout)(options, &got),
           "an option can be unset");
}

// --- answers

// Begins an answer with these headers and returns its body's stream.
static stream_t begin_with(out_t out, uint16_t status, fields_t headers, body_t *body)
{
    HTTP(own_outgoing_response_t) response = HTTP(constructor_outgoing_response)(headers);
    HTTP(borrow_outgoing_response_t) lent = HTTP(borrow_outgoing_response)(response);
    HTTP(method_outgoing_response_set_status_code)(lent, status);
    HTTP(method_outgoing_response_body)(lent, body);
    HTTP(result_own_outgoing_response_error_code_t) result = {.is_err = false, .val.ok = response};
    HTTP(static_response_outparam_set)(out, &result);
    stream_t stream;
    HTTP(method_outgoing_body_write)(HTTP(borrow_outgoing_body)(*body), &stream);
    return stream;
}

// Writes in pieces of what one call takes; false when it broke.
static bool write_all(stream_t stream, const uint8_t *bytes, size_t length)
{
    while (length > 0) {
        agent_list_u8_t piece = {.ptr = (uint8_t *)bytes, .len = length < 4096 ? length : 4096};
        wasi_io_streams_stream_error_t error;
        if (!wasi_io_streams_method_output_stream_blocking_write_and_flush(wasi_io_streams_borrow_output_stream(stream),
                                                                           &piece, &error))
            return false;
        bytes += piece.len;
        length -= piece.len;
    }
    return true;
}

static bool write_text(stream_t stream, const char *text)
{
    return write_all(stream, (const uint8_t *)text, strlen(text));
}

// Ends a body; returns the word of what is wrong with it.
static const char *finish(stream_t stream, body_t body, fields_t *trailers)
{
    wasi_io_streams_output_stream_drop_own(stream);
    HTTP(error_code_t) error;
    return HTTP(static_outgoing_body_finish)(body, trailers, &error) ? "done" : CODES[error.tag];
}

static void answer(out_t out)
{
    body_t body;
    stream_t stream = begin_with(out, 200, HTTP(constructor_fields)(), &body);
    write_text(stream, report[0] ? report : "ok\n");
    finish(stream, body, NULL);
}

// What came in.
static void seen(request_t request)
{
    static const char *const METHODS[] = {"GET",     "HEAD",    "POST",  "PUT",   "DELETE",
                                          "CONNECT", "OPTIONS", "TRACE", "PATCH"};
    HTTP(borrow_incoming_request_t) lent = HTTP(borrow_incoming_request)(request);
    HTTP(method_t) method;
    HTTP(method_incoming_request_method)(lent, &method);
    if (method.tag == WASI_HTTP_TYPES_METHOD_OTHER)
        say("method other %.*s\n", (char *)method.val.other.ptr, method.val.other.len);
    else
        say("method %.*s\n", METHODS[method.tag], strlen(METHODS[method.tag]));
    HTTP(scheme_t) scheme;
    if (HTTP(method_incoming_request_scheme)(lent, &scheme))
        line(scheme.tag == WASI_HTTP_TYPES_SCHEME_HTTP ? "scheme HTTP" : "scheme another");
    agent_string_t text;
    if (HTTP(method_incoming_request_authority)(lent, &text))
        say("authority %.*s\n", (char *)text.ptr, text.len);
    if (HTTP(method_incoming_request_path_with_query)(lent, &text))
        say("path %.*s\n", (char *)text.ptr, text.len);
    HTTP(list_tuple2_field_name_field_value_t) entries;
    HTTP(method_fields_entries)(HTTP(borrow_fields)(HTTP(method_incoming_request_headers)(lent)), &entries);
    for (size_t at = 0; at < entries.len; at++) {
        say("header %.*s: ", (char *)entries.ptr[at].f0.ptr, entries.ptr[at].f0.len);
        say("%.*s\n", (char *)entries.ptr[at].f1.ptr, entries.ptr[at].f1.len);
    }
    HTTP(own_incoming_body_t) body, second;
    HTTP(own_input_stream_t) stream, again;
    expect(HTTP(method_incoming_request_consume)(lent, &body), "a request's body");
    expect(!HTTP(method_incoming_request_consume)(lent, &second), "a request's body is had once");
    expect(HTTP(method_incoming_body_stream)(HTTP(borrow_incoming_body)(body), &stream), "a body's stream");
    expect(!HTTP(method_incoming_body_stream)(HTTP(borrow_incoming_body)(body), &again), "a body's stream is had once");
}

// Reads a stream to its end and adds it to the report; returns how it ended.
static const char *read_all(HTTP(own_input_stream_t) stream)
{
    for (;;) {
        agent_list_u8_t bytes;
        wasi_io_streams_stream_error_t error;
        if (wasi_io_streams_method_input_stream_blocking_read(wasi_io_streams_borrow_input_stream(stream), 65536, &bytes,
                                                              &error)) {
            say("%.*s", (char *)bytes.ptr, bytes.len);
            agent_list_u8_free(&bytes);
            continue;
        }
        wasi_io_streams_input_stream_drop_own(stream);
        if (error.tag == WASI_IO_STREAMS_STREAM_ERROR_CLOSED)
            return "closed";
        HTTP(error_code_t) code;
        bool known = HTTP(http_error_code)(wasi_io_error_borrow_error(error.val.last_operation_failed), &code);
        return known ? CODES[code.tag] : "an error of no code";
    }
}

// The trailers of a body whose stream was read, or not.
static void trailers(HTTP(own_incoming_body_t) body)
{
    HTTP(own_future_trailers_t) future = HTTP(static_incoming_body_finish)(body);
    HTTP(borrow_future_trailers_t) waiting = HTTP(borrow_future_trailers)(future);
    wasi_io_poll_own_pollable_t pollable = HTTP(method_future_trailers_subscribe)(waiting);
    wasi_io_poll_method_pollable_block(wasi_io_poll_borrow_pollable(pollable));
    HTTP(result_result_option_own_trailers_error_code_void_t) got, again;
    expect(HTTP(method_future_trailers_get)(waiting, &got) && !got.is_err, "trailers come");
    expect(HTTP(method_future_trailers_get)(waiting, &again) && again.is_err, "trailers are had once");
    if (got.val.ok.is_err) {
        line(CODES[got.val.ok.val.err.tag]);
    } else if (!got.val.ok.val.ok.is_some) {
        line("no trailers");
    } else {
        char *sum = first(got.val.ok.val.ok.val, "x-sum");
        say("x-sum %.*s\n", sum ? sum : "none", strlen(sum ? sum : "none"));
        expect(!has(got.val.ok.val.ok.val, "host"), "forbidden trailers do not come in");
    }
}

static void with_trailers(out_t out)
{
    body_t body;
    stream_t stream = begin_with(out, 200, HTTP(constructor_fields)(), &body);
    write_text(stream, "body");
    fields_t trailers = HTTP(constructor_fields)();
    append(trailers, "x-sum", "abc");
    finish(stream, body, &trailers);
}

// An answer that promises five bytes and has these.
static void promise(out_t out, const char *text)
{
    fields_t headers = HTTP(constructor_fields)();
    append(headers, "content-length", "5");
    body_t body;
    stream_t stream = begin_with(out, 200, headers, &body);
    bool written = write_text(stream, text);
    printf("%zu of 5 bytes: written %s, ended %s\n", strlen(text), written ? "yes" : "no", finish(stream, body, NULL));
    fflush(stdout);
}

// An answer whose body is begun, and left to the caller of this.
static stream_t begun(out_t out, body_t *body)
{
    stream_t stream = begin_with(out, 200, HTTP(constructor_fields)(), body);
    write_text(stream, "begun");
    return stream;
}

static void block(void)
{
    wasi_io_poll_own_pollable_t pollable = wasi_clocks_monotonic_clock_subscribe_duration(3600ull * 1000 * 1000 * 1000);
    wasi_io_poll_method_pollable_block(wasi_io_poll_borrow_pollable(pollable));
}

// One event, and no more for an hour.
static void events(out_t out)
{
    fields_t headers = HTTP(constructor_fields)();
    append(headers, "content-type", "text/event-stream");
    body_t body;
    stream_t stream = begin_with(out, 200, headers, &body);
    write_text(stream, "data: one\n\n");
    block();
}

// Waits for the end of a request's body.
static void wait_for(request_t request)
{
    HTTP(own_incoming_body_t) incoming;
    HTTP(own_input_stream_t) input;
    HTTP(method_incoming_request_consume)(HTTP(borrow_incoming_request)(request), &incoming);
    HTTP(method_incoming_body_stream)(HTTP(borrow_incoming_body)(incoming), &input);
    wasi_io_streams_stream_error_t error;
    agent_list_u8_t bytes;
    while (wasi_io_streams_method_input_stream_blocking_read(wasi_io_streams_borrow_input_stream(input), 65536, &bytes,
                                                             &error))
        agent_list_u8_free(&bytes);
}

// Answers what comes, as it comes.
static void echo(request_t request, out_t out)
{
    HTTP(own_incoming_body_t) incoming;
    HTTP(own_input_stream_t) input;
    HTTP(method_incoming_request_consume)(HTTP(borrow_incoming_request)(request), &incoming);
    HTTP(method_incoming_body_stream)(HTTP(borrow_incoming_body)(incoming), &input);
    body_t body;
    stream_t stream = begin_with(out, 200, HTTP(constructor_fields)(), &body);
    wasi_io_streams_stream_error_t error;
    agent_list_u8_t bytes;
    while (wasi_io_streams_method_input_stream_blocking_read(wasi_io_streams_borrow_input_stream(input), 65536, &bytes,
                                                             &error)) {
        write_all(stream, bytes.ptr, bytes.len);
        agent_list_u8_free(&bytes);
    }
    finish(stream, body, NULL);
}

// --- calls out

// A duration in milliseconds in a header, if it is there.
static bool milliseconds(fields_t headers, const char *name, HTTP(duration_t) *duration)
{
    char *text = first(headers, name);
    if (text)
        *duration = strtoull(text, NULL, 10) * 1000000ull;
    return text != NULL;
}

static HTTP(own_request_options_t) options_of(fields_t headers)
{
    HTTP(own_request_options_t) options = HTTP(constructor_request_options)();
    HTTP(borrow_request_options_t) lent = HTTP(borrow_request_options)(options);
    HTTP(duration_t) duration;
    if (milliseconds(headers, "x-connect", &duration))
        HTTP(method_request_options_set_connect_timeout)(lent, &duration);
    if (milliseconds(headers, "x-first-byte", &duration))
        HTTP(method_request_options_set_first_byte_timeout)(lent, &duration);
    if (milliseconds(headers, "x-between-bytes", &duration))
        HTTP(method_request_options_set_between_bytes_timeout)(lent, &duration);
    return options;
}

// What came back, as far as it came.
static void received(HTTP(own_incoming_response_t) response)
{
    HTTP(borrow_incoming_response_t) lent = HTTP(borrow_incoming_response)(response);
    char status[32];
    snprintf(status, sizeof(status), "status %u", HTTP(method_incoming_response_status)(lent));
    line(status);
    fields_t headers = HTTP(method_incoming_response_headers)(lent);
    expect_immutable(headers, "the headers of an incoming response");
    expect(!has(headers, "connection") && !has(headers, "transfer-encoding"), "forbidden headers do not come in");
    HTTP(own_incoming_body_t) body;
    HTTP(own_input_stream_t) stream;
    HTTP(method_incoming_response_consume)(lent, &body);
    HTTP(method_incoming_body_stream)(HTTP(borrow_incoming_body)(body), &stream);
    const char *ended = read_all(stream);
    say("\n%.*s\n", ended, strlen(ended));
    trailers(body);
}

// `/out`: makes the call that the request's headers describe: x-authority, x-scheme, x-path, x-method, x-body, x-length,
// x-connect, x-first-byte, x-between-bytes (all three in milliseconds), x-drop (it is let go while its body is sent).
static void call_out(fields_t headers)
{
    fields_t own = HTTP(constructor_fields)();
    char *length = first(headers, "x-length"), *contents = first(headers, "x-body"), *text;
    if (length)
        append(own, "content-length", length);
    HTTP(own_outgoing_request_t) request = HTTP(constructor_outgoing_request)(own);
    HTTP(borrow_outgoing_request_t) lent = HTTP(borrow_outgoing_request)(request);
    if ((text = first(headers, "x-authority")))
        set_authority(lent, text);
    if ((text = first(headers, "x-path")))
        set_path(lent, text);
    if ((text = first(headers, "x-method")))
        set_method(lent, text);
    HTTP(scheme_t) scheme = {.tag = WASI_HTTP_TYPES_SCHEME_HTTP};
    if ((text = first(headers, "x-scheme"))) {
        scheme.tag = strcmp(text, "https") == 0 ? WASI_HTTP_TYPES_SCHEME_HTTPS : WASI_HTTP_TYPES_SCHEME_OTHER;
        scheme.val.other = string(text);
    }
    HTTP(method_outgoing_request_set_scheme)(lent, &scheme);
    body_t body;
    stream_t stream;
    if (contents) {
        HTTP(method_outgoing_request_body)(lent, &body);
        HTTP(method_outgoing_body_write)(HTTP(borrow_outgoing_body)(body), &stream);
    }

    HTTP(own_request_options_t) options = options_of(headers);
    HTTP(own_future_incoming_response_t) future;
    HTTP(error_code_t) code;
    if (!wasi_http_outgoing_handler_handle(request, &options, &future, &code)) {
        say("refused %.*s\n", CODES[code.tag], strlen(CODES[code.tag]));
        return;
    }
    if (first(headers, "x-drop")) {
        // More than is taken before there is a connection.
        static const uint8_t block[1 << 16];
        expect(write_all(stream, block, sizeof(block)), "the body was not taken");
        HTTP(future_incoming_response_drop_own)(future);
        return;
    }
    if (contents) {
        bool written = write_text(stream, contents);
        const char *ended = finish(stream, body, NULL);
        expect(written, "the body was not taken");
        if (strcmp(ended, "done") != 0)
            say("body %.*s\n", ended, strlen(ended));
    }
    HTTP(borrow_future_incoming_response_t) waiting = HTTP(borrow_future_incoming_response)(future);
    wasi_io_poll_own_pollable_t pollable = HTTP(method_future_incoming_response_subscribe)(waiting);
    wasi_io_poll_method_pollable_block(wasi_io_poll_borrow_pollable(pollable));
    HTTP(result_result_own_incoming_response_error_code_void_t) got, again;
    expect(HTTP(method_future_incoming_response_get)(waiting, &got) && !got.is_err, "an answer comes");
    expect(HTTP(method_future_incoming_response_get)(waiting, &again) && again.is_err, "an answer is had once");
    if (got.val.ok.is_err) {
        const char *word = CODES[got.val.ok.val.err.tag];
        say("failed %.*s\n", word, strlen(word));
    } else {
        received(got.val.ok.val.ok);
    }
}

// --- the paths

// Those that answer in their own way; false for others.
static bool behave(const char *path, request_t request, out_t out)
{
    body_t body;
    stream_t stream;
    if (strcmp(path, "/with-trailers") == 0) {
        with_trailers(out);
    } else if (strcmp(path, "/short") == 0) {
        promise(out, "abc");
    } else if (strcmp(path, "/long") == 0) {
        promise(out, "abcdefgh");
    } else if (strcmp(path, "/exact") == 0) {
        promise(out, "abcde");
    } else if (strcmp(path, "/abandon") == 0 || strcmp(path, "/late-abandon") == 0) {
        stream = begun(out, &body);
        if (strcmp(path, "/late-abandon") == 0)
            wait_for(request);
        wasi_io_streams_output_stream_drop_own(stream);
        HTTP(outgoing_body_drop_own)(body);
    } else if (strcmp(path, "/open") == 0 || strcmp(path, "/late-open") == 0) {
        begun(out, &body);
        if (strcmp(path, "/late-open") == 0)
            wait_for(request);
    } else if (strcmp(path, "/early-trap") == 0) {
        begin_with(out, 200, HTTP(constructor_fields)(), &body);
        __builtin_trap();
    } else if (strcmp(path, "/error") == 0) {
        HTTP(result_own_outgoing_response_error_code_t) result = {
            .is_err = true, .val.err.tag = WASI_HTTP_TYPES_ERROR_CODE_LOOP_DETECTED};
        HTTP(static_response_outparam_set)(out, &result);
    } else if (strcmp(path, "/drop") == 0) {
        HTTP(response_outparam_drop_own)(out);
    } else if (strcmp(path, "/informational") == 0) {
        stream = begin_with(out, 103, HTTP(constructor_fields)(), &body);
        finish(stream, body, NULL);
    } else if (strcmp(path, "/no-content") == 0) {
        stream = begin_with(out, 204, HTTP(constructor_fields)(), &body);
        finish(stream, body, NULL);
    } else if (strcmp(path, "/events") == 0) {
        events(out);
    } else if (strcmp(path, "/block") == 0) {
        block();
    } else if (strcmp(path, "/echo") == 0) {
        echo(request, out);
    } else {
        return false;
    }
    return true;
}

void exports_wasi_http_incoming_handler_handle(exports_wasi_http_incoming_handler_own_incoming_request_t request,
                                               exports_wasi_http_incoming_handler_own_response_outparam_t out)
{
    HTTP(borrow_incoming_request_t) lent = HTTP(borrow_incoming_request)(request);
    agent_string_t raw = {0};
    HTTP(method_incoming_request_path_with_query)(lent, &raw);
    char path[512] = {0};
    memcpy(path, raw.ptr, raw.len < sizeof(path) - 1 ? raw.len : sizeof(path) - 1);

    if (behave(path, request, out))
        return;
    if (strcmp(path, "/fields") == 0) {
        check_fields(request);
    } else if (strcmp(path, "/messages") == 0) {
        check_request();
        check_response();
        check_options();
    } else if (strcmp(path, "/trailers") == 0) {
        HTTP(own_incoming_body_t) body;
        HTTP(own_input_stream_t) stream;
        HTTP(method_incoming_request_consume)(lent, &body);
        HTTP(method_incoming_body_stream)(HTTP(borrow_incoming_body)(body), &stream);
        const char *ended = read_all(stream);
        say("\n%.*s\n", ended, strlen(ended));
        trailers(body);
    } else if (strcmp(path, "/unread-trailers") == 0) {
        HTTP(own_incoming_body_t) body;
        HTTP(method_incoming_request_consume)(lent, &body);
        trailers(body);
    } else if (strcmp(path, "/out") == 0) {
        call_out(HTTP(method_incoming_request_headers)(lent));
    } else if (strncmp(path, "/seen", 5) == 0) {
        seen(request);
    }
    answer(out);
}
