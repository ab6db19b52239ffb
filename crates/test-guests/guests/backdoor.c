// Hands its path to the host function `attempt`, which no engine but a test's has, and answers with what that says.
#include <stdlib.h>
#include <string.h>

#include "agent.h"

void exports_wasi_http_incoming_handler_handle(wasi_http_types_own_incoming_request_t request,
                                               wasi_http_types_own_response_outparam_t out)
{
    agent_string_t path, said;
    if (!wasi_http_types_method_incoming_request_path_with_query(wasi_http_types_borrow_incoming_request(request), &path) ||
        path.len == 0)
        abort();
    // Without the slash.
    agent_string_t what = {.ptr = path.ptr + 1, .len = path.len - 1};
    // Kubernetes looks at "/" to know whether somebody answers.
    if (what.len == 0)
        agent_string_set(&said, "");
    else
        agent_attempt(&what, &said);

    wasi_http_types_own_outgoing_response_t response =
        wasi_http_types_constructor_outgoing_response(wasi_http_types_constructor_fields());
    wasi_http_types_own_outgoing_body_t body;
    wasi_http_types_method_outgoing_response_body(wasi_http_types_borrow_outgoing_response(response), &body);
    wasi_http_types_result_own_outgoing_response_error_code_t result = {.is_err = false, .val.ok = response};
    wasi_http_types_static_response_outparam_set(out, &result);
    wasi_http_types_own_output_stream_t stream;
    wasi_http_types_method_outgoing_body_write(wasi_http_types_borrow_outgoing_body(body), &stream);
    agent_list_u8_t bytes = {.ptr = said.ptr, .len = said.len};
    wasi_io_streams_stream_error_t broken;
    if (bytes.len > 0)
        wasi_io_streams_method_output_stream_blocking_write_and_flush(wasi_io_streams_borrow_output_stream(stream), &bytes,
                                                                      &broken);
    wasi_io_streams_output_stream_drop_own(stream);
    wasi_http_types_error_code_t error;
    wasi_http_types_static_outgoing_body_finish(body, NULL, &error);
}
