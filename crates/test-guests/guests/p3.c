// A component of wasi:http 0.3 with a behaviour for each path. An instance answers one call at a time.
//
// A handler of 0.3 returns the head of its answer and goes on; what it writes afterwards moves while the host listens.
// Where this guest waits for the host it blocks, so that it reads from top to bottom.
#include <stdio.h>
#include <string.h>

#include "agent.h"

typedef wasi_http_types_future_result_option_own_trailers_error_code_t trailers_t;
typedef wasi_http_types_future_result_option_own_trailers_error_code_writer_t trailers_writer_t;
typedef wasi_http_types_result_option_own_trailers_error_code_t trailers_result_t;

// The writing ends of an answer's body.
typedef struct {
    wasi_http_types_stream_u8_writer_t contents;
    trailers_writer_t trailers;
} body_t;

// A body that came in.
typedef wasi_http_types_tuple2_stream_u8_future_result_option_own_trailers_error_code_t incoming_t;

// Waits for something to happen to `waitable`; returns what.
static uint32_t next(uint32_t waitable)
{
    agent_waitable_set_t set = agent_waitable_set_new();
    agent_waitable_join(waitable, set);
    agent_event_t event;
    agent_waitable_set_wait(set, &event);
    agent_waitable_join(waitable, 0);
    agent_waitable_set_drop(set);
    return event.code;
}

// Waits until the read or write of `waitable` that returned `status` is done; returns how it ended.
static agent_waitable_status_t done(uint32_t waitable, agent_waitable_status_t status)
{
    return status == AGENT_WAITABLE_STATUS_BLOCKED ? next(waitable) : status;
}

// Waits until the call that returned `status` has its result.
static void returned(agent_subtask_status_t status)
{
    agent_subtask_t subtask = AGENT_SUBTASK_HANDLE(status);
    uint32_t state = AGENT_SUBTASK_STATE(status);
    // One that returned at once is no task any more.
    if (state == AGENT_SUBTASK_RETURNED)
        return;
    while (state != AGENT_SUBTASK_RETURNED)
        state = next(subtask);
    agent_subtask_drop(subtask);
}

// Returns the answer's head to the host. The task goes on.
static void answer(uint16_t status, wasi_http_types_stream_u8_t *contents, trailers_t trailers)
{
    wasi_http_types_own_fields_t headers = wasi_http_types_constructor_fields();
    agent_string_t name = {.ptr = (uint8_t *)"x-guest", .len = 7};
    agent_list_u8_t value = {.ptr = (uint8_t *)"p3", .len = 2};
    wasi_http_types_header_error_t error;
    wasi_http_types_method_fields_append(wasi_http_types_borrow_fields(headers), &name, &value, &error);

    wasi_http_types_tuple2_own_response_future_result_void_error_code_t made;
    wasi_http_types_static_response_new(headers, contents, trailers, &made);
    wasi_http_types_future_result_void_error_code_drop_readable(made.f1);
    wasi_http_types_method_response_set_status_code(wasi_http_types_borrow_response(made.f0), status);
    exports_wasi_http_handler_result_own_response_error_code_t result = {.is_err = false, .val.ok = made.f0};
    exports_wasi_http_handler_handle_return(result);
}

// Answers; the body is still to be written.
static body_t begin(uint16_t status)
{
    body_t body;
    wasi_http_types_stream_u8_t contents = wasi_http_types_stream_u8_new(&body.contents);
    trailers_t trailers = wasi_http_types_future_result_option_own_trailers_error_code_new(&body.trailers);
    answer(status, &contents, trailers);
    return body;
}

// False when nobody reads any more.
static bool write_all(wasi_http_types_stream_u8_writer_t writer, const uint8_t *bytes, size_t length)
{
    while (length > 0) {
        agent_waitable_status_t status = done(writer, wasi_http_types_stream_u8_write(writer, bytes, length));
        bytes += AGENT_WAITABLE_COUNT(status);
        length -= AGENT_WAITABLE_COUNT(status);
        if (AGENT_WAITABLE_STATE(status) == AGENT_WAITABLE_DROPPED)
            return false;
    }
    return true;
}

static void write_trailers(trailers_writer_t writer, const trailers_result_t *result)
{
    done(writer, wasi_http_types_future_result_option_own_trailers_error_code_write(writer, result));
    wasi_http_types_future_result_option_own_trailers_error_code_drop_writable(writer);
}

static void end(body_t body)
{
    wasi_http_types_stream_u8_drop_writable(body.contents);
    trailers_result_t none = {.is_err = false, .val.ok.is_some = false};
    write_trailers(body.trailers, &none);
}

static void text(uint16_t status, const char *text)
{
    body_t body = begin(status);
    write_all(body.contents, (const uint8_t *)text, strlen(text));
    end(body);
}

// An answer without contents.
static void empty(void)
{
    trailers_writer_t writer;
    answer(201, NULL, wasi_http_types_future_result_option_own_trailers_error_code_new(&writer));
    trailers_result_t none = {.is_err = false, .val.ok.is_some = false};
    write_trailers(writer, &none);
}

// A mebibyte, in pieces that the caller's reading paces.
static void big(void)
{
    static const uint8_t block[4096] = {[0 ... 4095] = 'x'};
    body_t body = begin(200);
    for (int at = 0; at < 256; at++)
        write_all(body.contents, block, sizeof(block));
    end(body);
}

// Says of a body that nothing was wrong with it.
static void approve(wasi_http_types_future_result_void_error_code_writer_t verdict)
{
    wasi_http_types_result_void_error_code_t good = {.is_err = false};
    done(verdict, wasi_http_types_future_result_void_error_code_write(verdict, &good));
    wasi_http_types_future_result_void_error_code_drop_writable(verdict);
}

static incoming_t body_of(wasi_http_types_own_request_t request)
{
    wasi_http_types_future_result_void_error_code_writer_t verdict;
    incoming_t incoming;
    wasi_http_types_static_request_consume_body(request, wasi_http_types_future_result_void_error_code_new(&verdict),
                                                &incoming);
    approve(verdict);
    return incoming;
}

// Writes a body to the answer's as it comes, trailers too.
static void copy(incoming_t from, body_t to)
{
    static uint8_t bytes[4096];
    agent_waitable_status_t status;
    do {
        status = done(from.f0, wasi_http_types_stream_u8_read(from.f0, bytes, sizeof(bytes)));
        write_all(to.contents, bytes, AGENT_WAITABLE_COUNT(status));
    } while (AGENT_WAITABLE_STATE(status) == AGENT_WAITABLE_COMPLETED);
    wasi_http_types_stream_u8_drop_readable(from.f0);
    wasi_http_types_stream_u8_drop_writable(to.contents);
    trailers_result_t result;
    done(from.f1, wasi_http_types_future_result_option_own_trailers_error_code_read(from.f1, &result));
    wasi_http_types_future_result_option_own_trailers_error_code_drop_readable(from.f1);
    write_trailers(to.trailers, &result);
}

static void echo(wasi_http_types_own_request_t request)
{
    incoming_t incoming = body_of(request);
    copy(incoming, begin(200));
}

// Hands the request's body over as the answer's and ends: the bytes never come here.
static void pass(wasi_http_types_own_request_t request)
{
    incoming_t incoming = body_of(request);
    answer(200, &incoming.f0, incoming.f1);
}

// Traps in its answer's body, as soon as the caller sends something.
static void late_trap(wasi_http_types_own_request_t request)
{
    incoming_t incoming = body_of(request);
    write_all(begin(200).contents, (const uint8_t *)"begun", 5);
    uint8_t byte;
    done(incoming.f0, wasi_http_types_stream_u8_read(incoming.f0, &byte, 1));
    __builtin_trap();
}

// `/fetch?url=http://authority/path`: answers with what came back, or 502 and the error.
static void fetch(char *url)
{
    char *authority = strstr(url, "://");
    authority = authority ? authority + 3 : url;
    char *path = strchr(authority, '/');
    agent_string_t authority_string = {.ptr = (uint8_t *)authority,
                                       .len = path ? (size_t)(path - authority) : strlen(authority)};
    agent_string_t path_string = {.ptr = (uint8_t *)(path ? path : "/"), .len = path ? strlen(path) : 1};
    wasi_http_types_scheme_t scheme = {.tag = WASI_HTTP_TYPES_SCHEME_HTTP};

    trailers_writer_t trailers;
    wasi_http_types_tuple2_own_request_future_result_void_error_code_t made;
    wasi_http_types_static_request_new(wasi_http_types_constructor_fields(), NULL,
                                       wasi_http_types_future_result_option_own_trailers_error_code_new(&trailers), NULL,
                                       &made);
    wasi_http_types_future_result_void_error_code_drop_readable(made.f1);
    wasi_http_types_borrow_request_t lent = wasi_http_types_borrow_request(made.f0);
    wasi_http_types_method_request_set_scheme(lent, &scheme);
    wasi_http_types_method_request_set_authority(lent, &authority_string);
    wasi_http_types_method_request_set_path_with_query(lent, &path_string);

    wasi_http_client_result_own_response_error_code_t got;
    agent_subtask_status_t sending = wasi_http_client_send(made.f0, &got);
    trailers_result_t none = {.is_err = false, .val.ok.is_some = false};
    write_trailers(trailers, &none);
    returned(sending);
    if (got.is_err) {
        bool denied = got.val.err.tag == WASI_HTTP_TYPES_ERROR_CODE_HTTP_REQUEST_DENIED;
        text(502, denied ? "denied\n" : "failed\n");
        return;
    }
    wasi_http_types_future_result_void_error_code_writer_t verdict;
    incoming_t incoming;
    wasi_http_types_static_response_consume_body(got.val.ok, wasi_http_types_future_result_void_error_code_new(&verdict),
                                                 &incoming);
    approve(verdict);
    copy(incoming, begin(200));
}

// Writes a line to the standard output of WASI 0.3.
static void log_line(void)
{
    static const char line[] = "a line on stdout\n";
    wasi_cli_stdout_stream_u8_writer_t writer;
    wasi_cli_stdout_future_result_void_error_code_t written =
        wasi_cli_stdout_write_via_stream(wasi_cli_stdout_stream_u8_new(&writer));
    done(writer, wasi_cli_stdout_stream_u8_write(writer, (const uint8_t *)line, strlen(line)));
    wasi_cli_stdout_stream_u8_drop_writable(writer);
    wasi_cli_stdout_result_void_error_code_t result;
    done(written, wasi_cli_stdout_future_result_void_error_code_read(written, &result));
    wasi_cli_stdout_future_result_void_error_code_drop_readable(written);
}

// Answers with how many calls of `/count` this instance has had.
static void count(void)
{
    static unsigned calls;
    char line[16];
    snprintf(line, sizeof(line), "%u\n", ++calls);
    text(200, line);
}

// Goes on after its answer is complete.
static void after(void)
{
    text(200, "answered\n");
    returned(wasi_clocks_monotonic_clock_wait_for(100ull * 1000 * 1000));
    log_line();
}

static void refuse(void)
{
    exports_wasi_http_handler_result_own_response_error_code_t result = {
        .is_err = true, .val.err.tag = WASI_HTTP_TYPES_ERROR_CODE_LOOP_DETECTED};
    exports_wasi_http_handler_handle_return(result);
}

// Nothing is in the set, so nothing ends the wait.
static agent_callback_code_t hang(void)
{
    return AGENT_CALLBACK_CODE_WAIT(agent_waitable_set_new());
}

// The behaviours that do not look at the request's body.
static agent_callback_code_t behave(char *path)
{
    if (strcmp(path, "/trap") == 0) {
        __builtin_trap();
    } else if (strcmp(path, "/spin") == 0) {
        for (volatile unsigned spins = 0;; spins++) {}
    } else if (strcmp(path, "/hang") == 0) {
        return hang();
    } else if (strcmp(path, "/late-hang") == 0) {
        write_all(begin(200).contents, (const uint8_t *)"begun", 5);
        return hang();
    } else if (strcmp(path, "/early-trap") == 0) {
        begin(200);
        __builtin_trap();
    } else if (strcmp(path, "/informational") == 0) {
        end(begin(103));
    } else if (strcmp(path, "/silent") == 0) {
        return AGENT_CALLBACK_CODE_EXIT;
    } else if (strcmp(path, "/refuse") == 0) {
        refuse();
    } else if (strcmp(path, "/empty") == 0) {
        empty();
    } else if (strcmp(path, "/big") == 0) {
        big();
    } else if (strncmp(path, "/fetch?url=", 11) == 0) {
        fetch(path + 11);
    } else if (strcmp(path, "/log") == 0) {
        log_line();
        text(200, "logged\n");
    } else if (strcmp(path, "/after") == 0) {
        after();
    } else if (strcmp(path, "/count") == 0) {
        count();
    } else {
        text(200, "hello from p3\n");
    }
    return AGENT_CALLBACK_CODE_EXIT;
}

agent_callback_code_t exports_wasi_http_handler_handle(exports_wasi_http_handler_own_request_t request)
{
    agent_string_t raw = {0};
    wasi_http_types_method_request_get_path_with_query(wasi_http_types_borrow_request(request), &raw);
    char path[512] = {0};
    memcpy(path, raw.ptr, raw.len < sizeof(path) - 1 ? raw.len : sizeof(path) - 1);
    agent_string_free(&raw);

    if (strcmp(path, "/echo") == 0) {
        echo(request);
    } else if (strcmp(path, "/pass") == 0) {
        pass(request);
    } else if (strcmp(path, "/late-trap") == 0) {
        late_trap(request);
    } else {
        wasi_http_types_request_drop_own(request);
        return behave(path);
    }
    return AGENT_CALLBACK_CODE_EXIT;
}

// Only an event of the empty set would come here.
agent_callback_code_t exports_wasi_http_handler_handle_callback(agent_event_t *event)
{
    return AGENT_CALLBACK_CODE_EXIT;
}
