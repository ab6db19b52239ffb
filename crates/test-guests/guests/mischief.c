// One component of many behaviours, chosen by the path: what tests need of a guest, good and bad.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent.h"

typedef wasi_http_types_own_output_stream_t stream_t;

// Begins an answer and returns its body's stream.
static stream_t begin(wasi_http_types_own_response_outparam_t out, uint16_t status, wasi_http_types_own_outgoing_body_t *body)
{
    wasi_http_types_own_outgoing_response_t response =
        wasi_http_types_constructor_outgoing_response(wasi_http_types_constructor_fields());
    wasi_http_types_borrow_outgoing_response_t lent = wasi_http_types_borrow_outgoing_response(response);
    wasi_http_types_method_outgoing_response_set_status_code(lent, status);
    wasi_http_types_method_outgoing_response_body(lent, body);
    wasi_http_types_result_own_outgoing_response_error_code_t result = {.is_err = false, .val.ok = response};
    wasi_http_types_static_response_outparam_set(out, &result);
    stream_t stream;
    wasi_http_types_method_outgoing_body_write(wasi_http_types_borrow_outgoing_body(*body), &stream);
    return stream;
}

// Writes in pieces of what one call takes.
static void write_all(stream_t stream, const uint8_t *bytes, size_t length)
{
    while (length > 0) {
        agent_list_u8_t piece = {.ptr = (uint8_t *)bytes, .len = length < 4096 ? length : 4096};
        wasi_io_streams_stream_error_t error;
        if (!wasi_io_streams_method_output_stream_blocking_write_and_flush(wasi_io_streams_borrow_output_stream(stream),
                                                                           &piece, &error))
            return;
        bytes += piece.len;
        length -= piece.len;
    }
}

static void end(stream_t stream, wasi_http_types_own_outgoing_body_t body)
{
    wasi_io_streams_output_stream_drop_own(stream);
    wasi_http_types_error_code_t error;
    wasi_http_types_static_outgoing_body_finish(body, NULL, &error);
}

static void answer(wasi_http_types_own_response_outparam_t out, uint16_t status, const char *text)
{
    wasi_http_types_own_outgoing_body_t body;
    stream_t stream = begin(out, status, &body);
    write_all(stream, (const uint8_t *)text, strlen(text));
    end(stream, body);
}

// Copies an incoming body to `stream`; returns false when it broke.
static bool copy(wasi_http_types_own_incoming_body_t body, stream_t stream)
{
    wasi_http_types_own_input_stream_t input;
    bool whole = true;
    if (wasi_http_types_method_incoming_body_stream(wasi_http_types_borrow_incoming_body(body), &input)) {
        for (;;) {
            agent_list_u8_t bytes;
            wasi_io_streams_stream_error_t error;
            if (!wasi_io_streams_method_input_stream_blocking_read(wasi_io_streams_borrow_input_stream(input), 65536, &bytes,
                                                                   &error)) {
                whole = error.tag == WASI_IO_STREAMS_STREAM_ERROR_CLOSED;
                break;
            }
            write_all(stream, bytes.ptr, bytes.len);
            agent_list_u8_free(&bytes);
        }
        wasi_io_streams_input_stream_drop_own(input);
    }
    wasi_http_types_incoming_body_drop_own(body);
    return whole;
}

static void echo(wasi_http_types_own_incoming_request_t request, wasi_http_types_own_response_outparam_t out)
{
    wasi_http_types_own_incoming_body_t incoming;
    wasi_http_types_method_incoming_request_consume(wasi_http_types_borrow_incoming_request(request), &incoming);
    wasi_http_types_own_outgoing_body_t body;
    stream_t stream = begin(out, 200, &body);
    copy(incoming, stream);
    end(stream, body);
}

// Calls `http://authority/path` and waits for the head of the answer. Returns false with the reason when there is none.
static bool call_out(char *url, wasi_http_types_own_incoming_response_t *response, const char **reason)
{
    wasi_http_types_scheme_t scheme = {.tag = WASI_HTTP_TYPES_SCHEME_HTTP};
    if (strncmp(url, "https://", 8) == 0)
        scheme.tag = WASI_HTTP_TYPES_SCHEME_HTTPS;
    char *authority = strstr(url, "://");
    authority = authority ? authority + 3 : url;
    char *path = strchr(authority, '/');
    agent_string_t authority_string = {.ptr = (uint8_t *)authority, .len = path ? (size_t)(path - authority) : strlen(authority)};
    agent_string_t path_string = {.ptr = (uint8_t *)(path ? path : "/"), .len = path ? strlen(path) : 1};

    wasi_http_types_own_outgoing_request_t request =
        wasi_http_types_constructor_outgoing_request(wasi_http_types_constructor_fields());
    wasi_http_types_borrow_outgoing_request_t lent = wasi_http_types_borrow_outgoing_request(request);
    wasi_http_types_method_outgoing_request_set_scheme(lent, &scheme);
    wasi_http_types_method_outgoing_request_set_authority(lent, &authority_string);
    wasi_http_types_method_outgoing_request_set_path_with_query(lent, &path_string);

    wasi_http_outgoing_handler_own_future_incoming_response_t future;
    wasi_http_outgoing_handler_error_code_t code;
    if (!wasi_http_outgoing_handler_handle(request, NULL, &future, &code)) {
        *reason = code.tag == WASI_HTTP_TYPES_ERROR_CODE_HTTP_REQUEST_DENIED ? "denied\n" : "not sent\n";
        return false;
    }
    wasi_http_types_borrow_future_incoming_response_t waiting = wasi_http_types_borrow_future_incoming_response(future);
    wasi_io_poll_own_pollable_t pollable = wasi_http_types_method_future_incoming_response_subscribe(waiting);
    wasi_io_poll_method_pollable_block(wasi_io_poll_borrow_pollable(pollable));
    wasi_io_poll_pollable_drop_own(pollable);
    wasi_http_types_result_result_own_incoming_response_error_code_void_t got;
    wasi_http_types_method_future_incoming_response_get(waiting, &got);
    wasi_http_types_future_incoming_response_drop_own(future);
    if (got.is_err || got.val.ok.is_err) {
        bool denied = !got.is_err && got.val.ok.val.err.tag == WASI_HTTP_TYPES_ERROR_CODE_HTTP_REQUEST_DENIED;
        *reason = denied ? "denied\n" : "failed\n";
        return false;
    }
    *response = got.val.ok.val.ok;
    return true;
}

// `/fetch?url=http://authority/path`: answers with what came back, or 502 and the reason.
static void fetch(char *url, wasi_http_types_own_response_outparam_t out)
{
    wasi_http_types_own_incoming_response_t response;
    const char *reason;
    if (!call_out(url, &response, &reason)) {
        answer(out, 502, reason);
        return;
    }
    uint16_t status = wasi_http_types_method_incoming_response_status(wasi_http_types_borrow_incoming_response(response));
    wasi_http_types_own_incoming_body_t incoming;
    wasi_http_types_method_incoming_response_consume(wasi_http_types_borrow_incoming_response(response), &incoming);
    wasi_http_types_own_outgoing_body_t body;
    stream_t stream = begin(out, status, &body);
    copy(incoming, stream);
    end(stream, body);
}

// `/fetches?url=http://authority/path`: calls until it may no more, at most a hundred times, and answers how often.
static void fetches(char *url, wasi_http_types_own_response_outparam_t out)
{
    int calls = 0;
    wasi_http_types_own_incoming_response_t response;
    const char *reason;
    while (calls < 100 && call_out(url, &response, &reason)) {
        wasi_http_types_incoming_response_drop_own(response);
        calls++;
    }
    char text[32];
    snprintf(text, sizeof(text), "%d\n", calls);
    answer(out, 200, text);
}

// `/count`: how many calls this instance has had.
static void count(wasi_http_types_own_response_outparam_t out)
{
    static int calls;
    char text[32];
    snprintf(text, sizeof(text), "%d\n", ++calls);
    answer(out, 200, text);
}

// `/flood`: a megabyte of lines.
static void flood(void)
{
    for (int line = 0; line < 10000; line++)
        printf("%0100d\n", line);
    fflush(stdout);
}

static void hoard(void)
{
    // Each piece is touched; when no more is given, there is nothing left to do.
    for (;;) {
        // Volatile, or the compiler sees that nobody reads it and asks for nothing.
        volatile char *piece = malloc(1 << 20);
        if (!piece)
            abort();
        for (int at = 0; at < 1 << 20; at += 4096)
            piece[at] = 1;
    }
}

// Volatile, or the compiler makes a loop of it.
static volatile int deep = 1;

static int recurse(int depth)
{
    return deep ? recurse(depth + 1) + deep : depth;
}

static void never(void)
{
    // Blocks in the host, not in the guest: an hour.
    wasi_io_poll_own_pollable_t pollable = wasi_clocks_monotonic_clock_subscribe_duration(3600ull * 1000 * 1000 * 1000);
    wasi_io_poll_method_pollable_block(wasi_io_poll_borrow_pollable(pollable));
}

// `$START=spin`: an instance is never made.
__attribute__((constructor)) static void start(void)
{
    const char *start = getenv("START");
    if (start && strcmp(start, "spin") == 0)
        for (volatile unsigned spins = 0;; spins++) {}
}

void exports_wasi_http_incoming_handler_handle(exports_wasi_http_incoming_handler_own_incoming_request_t request,
                                               exports_wasi_http_incoming_handler_own_response_outparam_t out)
{
    agent_string_t raw = {0};
    wasi_http_types_method_incoming_request_path_with_query(wasi_http_types_borrow_incoming_request(request), &raw);
    char path[512] = {0};
    memcpy(path, raw.ptr, raw.len < sizeof(path) - 1 ? raw.len : sizeof(path) - 1);

    if (strcmp(path, "/trap") == 0) {
        __builtin_trap();
    } else if (strcmp(path, "/spin") == 0) {
        for (volatile unsigned spins = 0;; spins++) {}
    } else if (strcmp(path, "/hoard") == 0) {
        hoard();
    } else if (strcmp(path, "/recurse") == 0) {
        answer(out, recurse(0) ? 200 : 500, "recursed\n");
    } else if (strcmp(path, "/never") == 0) {
        never();
    } else if (strcmp(path, "/silent") == 0) {
        return;
    } else if (strcmp(path, "/count") == 0) {
        count(out);
    } else if (strcmp(path, "/flood") == 0) {
        flood();
        answer(out, 200, "flooded\n");
    } else if (strncmp(path, "/fetches?url=", 13) == 0) {
        fetches(path + 13, out);
    } else if (strncmp(path, "/fetch?url=", 11) == 0) {
        fetch(path + 11, out);
    } else if (strcmp(path, "/echo") == 0) {
        echo(request, out);
    } else if (strcmp(path, "/log") == 0) {
        printf("a line on stdout\n");
        fflush(stdout);
        fprintf(stderr, "a line on stderr\n");
        answer(out, 200, "logged\n");
    } else if (strncmp(path, "/env?name=", 10) == 0) {
        const char *value = getenv(path + 10);
        answer(out, value ? 200 : 404, value ? value : "unset");
    } else if (strcmp(path, "/big") == 0) {
        wasi_http_types_own_outgoing_body_t body;
        stream_t stream = begin(out, 200, &body);
        static const uint8_t block[4096] = {[0 ... 4095] = 'x'};
        for (int at = 0; at < 256; at++)
            write_all(stream, block, sizeof(block));
        end(stream, body);
    } else {
        answer(out, 200, "hello from mischief\n");
    }
}
