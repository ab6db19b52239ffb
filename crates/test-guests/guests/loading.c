// Loads JavaScript: what the path says is called as code, and the answer is that code's, or how its call ended.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "loading_agent.h"

static loading_agent_string_t text(const char *words)
{
    return (loading_agent_string_t){.ptr = (uint8_t *)words, .len = strlen(words)};
}

static void answer(wasi_http_types_own_response_outparam_t out, uint16_t status, loading_agent_string_t words)
{
    wasi_http_types_own_outgoing_response_t response =
        wasi_http_types_constructor_outgoing_response(wasi_http_types_constructor_fields());
    wasi_http_types_borrow_outgoing_response_t lent = wasi_http_types_borrow_outgoing_response(response);
    wasi_http_types_own_outgoing_body_t body;
    wasi_http_types_method_outgoing_response_set_status_code(lent, status);
    wasi_http_types_method_outgoing_response_body(lent, &body);
    wasi_http_types_result_own_outgoing_response_error_code_t result = {.is_err = false, .val.ok = response};
    wasi_http_types_static_response_outparam_set(out, &result);
    wasi_http_types_own_output_stream_t stream;
    wasi_http_types_method_outgoing_body_write(wasi_http_types_borrow_outgoing_body(body), &stream);
    loading_agent_list_u8_t bytes = {.ptr = words.ptr, .len = words.len};
    wasi_io_streams_stream_error_t error;
    wasi_io_streams_method_output_stream_blocking_write_and_flush(wasi_io_streams_borrow_output_stream(stream), &bytes, &error);
    wasi_io_streams_output_stream_drop_own(stream);
    wasi_http_types_error_code_t code;
    wasi_http_types_static_outgoing_body_finish(body, NULL, &code);
}

static void wait(wasi_io_poll_own_pollable_t pollable)
{
    wasi_io_poll_method_pollable_block(wasi_io_poll_borrow_pollable(pollable));
    wasi_io_poll_pollable_drop_own(pollable);
}

// Answers the one call back with what it came with. False when the code ended before, with what was wrong with it.
static bool answer_back(hearth_loader_loader_borrow_execution_t execution, loading_agent_string_t *problem)
{
    hearth_loader_loader_event_t event;
    while (!hearth_loader_loader_method_execution_next(execution, &event))
        wait(hearth_loader_loader_method_execution_subscribe(execution));
    if (event.tag == HEARTH_LOADER_LOADER_EVENT_ENDED) {
        *problem = event.val.ended.problem;
        return false;
    }
    hearth_loader_loader_result_string_string_t reply = {.is_err = false, .val.ok = event.val.invoked.arguments};
    hearth_loader_loader_method_execution_reply(execution, event.val.invoked.id, &reply);
    return true;
}

// The head and what came first of the body.
static void hand_on(wasi_http_types_own_future_incoming_response_t future, wasi_http_types_own_response_outparam_t out)
{
    wait(wasi_http_types_method_future_incoming_response_subscribe(wasi_http_types_borrow_future_incoming_response(future)));
    wasi_http_types_result_result_own_incoming_response_error_code_void_t got;
    if (!wasi_http_types_method_future_incoming_response_get(wasi_http_types_borrow_future_incoming_response(future), &got) ||
        got.is_err || got.val.ok.is_err) {
        answer(out, 500, text("no answer"));
        return;
    }
    wasi_http_types_borrow_incoming_response_t response = wasi_http_types_borrow_incoming_response(got.val.ok.val.ok);
    wasi_http_types_own_incoming_body_t body;
    wasi_http_types_own_input_stream_t stream;
    wasi_http_types_method_incoming_response_consume(response, &body);
    wasi_http_types_method_incoming_body_stream(wasi_http_types_borrow_incoming_body(body), &stream);
    loading_agent_list_u8_t bytes = {0};
    wasi_io_streams_stream_error_t error;
    wasi_io_streams_method_input_stream_blocking_read(wasi_io_streams_borrow_input_stream(stream), 4096, &bytes, &error);
    answer(out, wasi_http_types_method_incoming_response_status(response), (loading_agent_string_t){bytes.ptr, bytes.len});
}

void exports_wasi_http_incoming_handler_handle(exports_wasi_http_incoming_handler_own_incoming_request_t incoming,
                                               exports_wasi_http_incoming_handler_own_response_outparam_t out)
{
    loading_agent_string_t path = {0};
    wasi_http_types_method_incoming_request_path_with_query(wasi_http_types_borrow_incoming_request(incoming), &path);
    bool is_bad = path.len == 4 && memcmp(path.ptr, "/bad", 4) == 0;
    hearth_loader_loader_module_t module = {
        .name = text("main.js"),
        .source = text(is_bad ? "export default {" : "export default { async fetch(request, env) {"
                                                     "  return new Response(`${env.WHO}: ${JSON.stringify(await env.echo('a', 1))}`, { status: 202 });"
                                                     "} };"),
    };
    loading_agent_tuple2_string_string_t who = {.f0 = text("WHO"), .f1 = text("\"loaded by C\"")};
    loading_agent_string_t function = text("echo");
    hearth_loader_loader_code_t code = {
        .main_module = text("main.js"),
        .modules = {.ptr = &module, .len = 1},
        .env = {.ptr = &who, .len = 1},
        .functions = {.ptr = &function, .len = 1},
    };
    hearth_loader_loader_own_worker_t worker;
    loading_agent_string_t problem;
    if (!hearth_loader_loader_load(&code, &worker, &problem)) {
        answer(out, 403, problem);
        return;
    }
    wasi_http_types_own_outgoing_request_t request =
        wasi_http_types_constructor_outgoing_request(wasi_http_types_constructor_fields());
    wasi_http_types_borrow_outgoing_request_t lent = wasi_http_types_borrow_outgoing_request(request);
    wasi_http_types_scheme_t scheme = {.tag = WASI_HTTP_TYPES_SCHEME_HTTP};
    loading_agent_string_t authority = text("code.example"), root = text("/");
    wasi_http_types_method_outgoing_request_set_scheme(lent, &scheme);
    wasi_http_types_method_outgoing_request_set_authority(lent, &authority);
    wasi_http_types_method_outgoing_request_set_path_with_query(lent, &root);
    hearth_loader_loader_own_execution_t execution;
    wasi_http_types_error_code_t error;
    if (!hearth_loader_loader_method_worker_call(hearth_loader_loader_borrow_worker(worker), request, &execution, &error)) {
        answer(out, 500, text("not called"));
        return;
    }
    wasi_http_types_own_future_incoming_response_t future;
    hearth_loader_loader_method_execution_response(hearth_loader_loader_borrow_execution(execution), &future);
    if (answer_back(hearth_loader_loader_borrow_execution(execution), &problem))
        hand_on(future, out);
    else
        answer(out, 500, problem);
}
