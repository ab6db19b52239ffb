// The smallest agent: greets. `$GREETING` (spec.env) replaces "Hello", `?name=` replaces "world".
#include <stdlib.h>
#include <string.h>

#include "agent.h"

static void answer(exports_wasi_http_incoming_handler_own_response_outparam_t out, uint16_t status, const char *text)
{
    wasi_http_types_own_fields_t headers = wasi_http_types_constructor_fields();
    wasi_http_types_own_outgoing_response_t response = wasi_http_types_constructor_outgoing_response(headers);
    wasi_http_types_borrow_outgoing_response_t lent = wasi_http_types_borrow_outgoing_response(response);
    wasi_http_types_method_outgoing_response_set_status_code(lent, status);
    wasi_http_types_own_outgoing_body_t body;
    wasi_http_types_method_outgoing_response_body(lent, &body);

    // The head goes out first; the body follows while we write it.
    wasi_http_types_result_own_outgoing_response_error_code_t result = {.is_err = false, .val.ok = response};
    wasi_http_types_static_response_outparam_set(out, &result);

    wasi_http_types_own_output_stream_t stream;
    wasi_http_types_method_outgoing_body_write(wasi_http_types_borrow_outgoing_body(body), &stream);
    agent_list_u8_t bytes = {.ptr = (uint8_t *)text, .len = strlen(text)};
    wasi_io_streams_stream_error_t stream_error;
    wasi_io_streams_method_output_stream_blocking_write_and_flush(wasi_io_streams_borrow_output_stream(stream), &bytes,
                                                                  &stream_error);
    wasi_io_streams_output_stream_drop_own(stream);
    wasi_http_types_error_code_t error;
    wasi_http_types_static_outgoing_body_finish(body, NULL, &error);
}

void exports_wasi_http_incoming_handler_handle(exports_wasi_http_incoming_handler_own_incoming_request_t request,
                                               exports_wasi_http_incoming_handler_own_response_outparam_t out)
{
    agent_string_t path = {0};
    wasi_http_types_method_incoming_request_path_with_query(wasi_http_types_borrow_incoming_request(request), &path);

    const char *greeting = getenv("GREETING");
    greeting = greeting ? greeting : "Hello";
    char name[64] = "world";
    for (size_t at = 0; at + 6 <= path.len; at++) {
        if (memcmp(path.ptr + at, "?name=", 6) == 0) {
            size_t length = path.len - at - 6;
            length = length < sizeof(name) - 1 ? length : sizeof(name) - 1;
            memcpy(name, path.ptr + at + 6, length);
            name[length] = 0;
        }
    }

    char text[256];
    strlcpy(text, greeting, 128);
    strcat(text, ", ");
    strcat(text, name);
    strcat(text, "!\n");
    answer(out, 200, text);

    agent_string_free(&path);
    wasi_http_types_incoming_request_drop_own(request);
}
