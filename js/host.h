// What the environment's JavaScript sees of the host: the module "hearth:host", over WASI.
#ifndef HOST_H
#define HOST_H

#include <stdbool.h>
#include <stddef.h>

#include "javascript.h"
#include "quickjs.h"

// Makes the module. Once, when the snapshot is made.
JSModuleDef *host_module(JSContext *ctx);

// A call begins: its request and where its answer goes.
void host_begin(exports_wasi_http_incoming_handler_own_incoming_request_t request,
                exports_wasi_http_incoming_handler_own_response_outparam_t answer);

// Whether the module said that the call is over.
bool host_is_done(void);

// Waits until something that JavaScript waits for is ready, and resolves its promise. False when it waits for nothing.
bool host_wait(JSContext *ctx);

// Ends an answer that cannot be completed. Without a head, the host is told why in `text`, unless `is_silent`: then it knows.
void host_fail(bool is_silent, const char *text, size_t length);

// The call is over: gives back what it held.
void host_end(JSContext *ctx);

// A string argument as UTF-8, to be freed with javascript_string_free; what is half a pair of surrogates is U+FFFD. False when it
// threw.
bool host_string(JSContext *ctx, JSValueConst value, javascript_string_t *to);

// For arrays over bytes of malloc's: resizes those, and frees them where the length is 0.
void *host_give_back(JSRuntime *runtime, void *opaque, void *bytes, size_t length);

// Appends to an array that is being made.
void host_push(JSContext *ctx, JSValue list, uint32_t *length, JSValue value);

// Writes lines to standard output or standard error.
void host_log(bool is_error, const char *text, size_t length);

#endif
