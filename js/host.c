#include "host.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "press.h"
#include "subtle.h"
#include "url.h"

// Bytes of one write to a log, which takes no more at once.
#define LOG_PIECE 4096

// Of engine.c.
extern JSValue engine_context;
extern bool engine_was_refused;
void engine_handle(JSContext *ctx, JSValueConst promise);

// What JavaScript holds of the host, under a number. Each can be waited for.
struct entry {
    enum { INPUT, OUTPUT, CALL, TIMER, WORKER, EXECUTION } kind;
    int id;
    bool has_pollable;
    bool is_waited_for;
    wasi_io_poll_own_pollable_t pollable;
    // Resolves the promise of who waits.
    JSValue resolve;
    union {
        struct {
            wasi_http_types_own_incoming_body_t body;
            wasi_http_types_own_input_stream_t stream;
        } input;
        struct {
            wasi_http_types_own_outgoing_body_t body;
            wasi_http_types_own_output_stream_t stream;
        } output;
        wasi_http_types_own_future_incoming_response_t call;
        hearth_loader_loader_own_worker_t worker;
        hearth_loader_loader_own_execution_t execution;
    };
};

static struct entry *entries;
static size_t entry_count, entry_room;
static int last_id;

// The call that is answered now.
static struct {
    bool is_there, is_done, has_answered;
    exports_wasi_http_incoming_handler_own_incoming_request_t request;
    exports_wasi_http_incoming_handler_own_response_outparam_t answer;
} call;

// Standard output and standard error, once something was written.
static struct {
    bool is_open;
    wasi_io_streams_own_output_stream_t stream;
} logs[2];

static javascript_string_t borrowed(const char *text, size_t length)
{
    return (javascript_string_t){.ptr = (uint8_t *)text, .len = length};
}

void host_log(bool is_error, const char *text, size_t length)
{
    if (!logs[is_error].is_open) {
        logs[is_error].stream = is_error ? wasi_cli_stderr_get_stderr() : wasi_cli_stdout_get_stdout();
        logs[is_error].is_open = true;
    }
    wasi_io_streams_borrow_output_stream_t stream = wasi_io_streams_borrow_output_stream(logs[is_error].stream);
    char piece[LOG_PIECE];
    while (length > 0) {
        size_t part = length < LOG_PIECE ? length : LOG_PIECE - 1;
        memcpy(piece, text, part);
        text += part;
        length -= part;
        if (length == 0 && part < LOG_PIECE)
            piece[part++] = '\n';
        javascript_list_u8_t bytes = {.ptr = (uint8_t *)piece, .len = part};
        wasi_io_streams_stream_error_t error;
        if (!wasi_io_streams_method_output_stream_blocking_write_and_flush(stream, &bytes, &error))
            return;
    }
}

// Entries.

static struct entry *add(JSContext *ctx, int kind)
{
    if (entry_count == entry_room) {
        size_t room = entry_room ? 2 * entry_room : 8;
        struct entry *larger = realloc(entries, room * sizeof(*larger));
        if (!larger) {
            JS_ThrowOutOfMemory(ctx);
            return NULL;
        }
        entries = larger;
        entry_room = room;
    }
    struct entry *entry = &entries[entry_count++];
    *entry = (struct entry){.kind = kind, .id = ++last_id, .resolve = JS_UNDEFINED};
    return entry;
}

static struct entry *find(int id)
{
    for (size_t i = entry_count; i > 0; i--)
        if (entries[i - 1].id == id)
            return &entries[i - 1];
    return NULL;
}

// The entry that a function's first argument names.
static struct entry *entry_of(JSContext *ctx, JSValueConst value, int kind)
{
    int32_t id;
    if (JS_ToInt32(ctx, &id, value) < 0)
        return NULL;
    struct entry *entry = find(id);
    if (!entry || entry->kind != kind) {
        JS_ThrowTypeError(ctx, "the stream or call was ended already");
        return NULL;
    }
    return entry;
}

static void unsubscribe(struct entry *entry)
{
    if (entry->has_pollable)
        wasi_io_poll_pollable_drop_own(entry->pollable);
    entry->has_pollable = false;
}

// Has who waits for an entry go on. It runs no code of the user's: promises do that later.
static void wake(JSContext *ctx, struct entry *entry)
{
    if (!entry->is_waited_for)
        return;
    JSValue resolve = entry->resolve;
    entry->resolve = JS_UNDEFINED;
    entry->is_waited_for = false;
    JS_FreeValue(ctx, JS_Call(ctx, resolve, JS_UNDEFINED, 0, NULL));
    JS_FreeValue(ctx, resolve);
}

// Gives back what an entry holds: children before their parents.
static void release(JSContext *ctx, struct entry *entry)
{
    unsubscribe(entry);
    JS_FreeValue(ctx, entry->resolve);
    switch (entry->kind) {
    case INPUT:
        wasi_io_streams_input_stream_drop_own(entry->input.stream);
        wasi_http_types_incoming_body_drop_own(entry->input.body);
        break;
    case OUTPUT:
        wasi_io_streams_output_stream_drop_own(entry->output.stream);
        wasi_http_types_outgoing_body_drop_own(entry->output.body);
        break;
    case CALL:
        wasi_http_types_future_incoming_response_drop_own(entry->call);
        break;
    case WORKER:
        hearth_loader_loader_worker_drop_own(entry->worker);
        break;
    case EXECUTION:
        hearth_loader_loader_execution_drop_own(entry->execution);
        break;
    case TIMER:
        break;
    }
}

static void take_out(struct entry *entry)
{
    *entry = entries[--entry_count];
}

static void subscribe(struct entry *entry)
{
    if (entry->has_pollable)
        return;
    switch (entry->kind) {
    case INPUT:
        entry->pollable = wasi_io_streams_method_input_stream_subscribe(wasi_io_streams_borrow_input_stream(entry->input.stream));
        break;
    case OUTPUT:
        entry->pollable = wasi_io_streams_method_output_stream_subscribe(wasi_io_streams_borrow_output_stream(entry->output.stream));
        break;
    case CALL:
        entry->pollable = wasi_http_types_method_future_incoming_response_subscribe(wasi_http_types_borrow_future_incoming_response(entry->call));
        break;
    case EXECUTION:
        entry->pollable = hearth_loader_loader_method_execution_subscribe(hearth_loader_loader_borrow_execution(entry->execution));
        break;
    case TIMER:
    case WORKER:
        break;
    }
    entry->has_pollable = true;
}

bool host_wait(JSContext *ctx)
{
    wasi_io_poll_list_borrow_pollable_t list = {.len = 0};
    int *ids = malloc(entry_count * sizeof(*ids));
    list.ptr = malloc(entry_count * sizeof(*list.ptr));
    if (!ids || !list.ptr)
        abort();
    for (size_t i = 0; i < entry_count; i++) {
        if (!entries[i].is_waited_for)
            continue;
        subscribe(&entries[i]);
        ids[list.len] = entries[i].id;
        list.ptr[list.len++] = wasi_io_poll_borrow_pollable(entries[i].pollable);
    }
    bool is_waiting = list.len > 0;
    if (is_waiting) {
        javascript_list_u32_t ready;
        wasi_io_poll_poll(&list, &ready);
        for (size_t i = 0; i < ready.len; i++)
            wake(ctx, find(ids[ready.ptr[i]]));
        javascript_list_u32_free(&ready);
    }
    free(list.ptr);
    free(ids);
    return is_waiting;
}

static JSValue js_wait(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    int32_t id;
    if (JS_ToInt32(ctx, &id, argv[0]) < 0)
        return JS_EXCEPTION;
    struct entry *entry = find(id);
    if (!entry || entry->kind == WORKER)
        return JS_ThrowTypeError(ctx, "the stream or call was ended already");
    if (entry->is_waited_for)
        return JS_ThrowTypeError(ctx, "somebody waits for the stream or call already");
    JSValue ends[2];
    JSValue promise = JS_NewPromiseCapability(ctx, ends);
    if (JS_IsException(promise))
        return promise;
    JS_FreeValue(ctx, ends[1]);
    entry->resolve = ends[0];
    entry->is_waited_for = true;
    return promise;
}

static JSValue js_close(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    int32_t id;
    if (JS_ToInt32(ctx, &id, argv[0]) < 0)
        return JS_EXCEPTION;
    // What ended by itself may be closed again.
    struct entry *entry = find(id);
    if (entry) {
        // Who waits for it finds that it is gone.
        wake(ctx, entry);
        release(ctx, entry);
        take_out(entry);
    }
    return JS_UNDEFINED;
}

// Only while a request is handled.
static bool check_called(JSContext *ctx, const char *what)
{
    if (!call.is_there)
        JS_ThrowTypeError(ctx, "%s only work while a request is handled, not while the module is loaded", what);
    return call.is_there;
}

static JSValue js_timer(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    double milliseconds;
    if (JS_ToFloat64(ctx, &milliseconds, argv[0]) < 0 || !check_called(ctx, "timers"))
        return JS_EXCEPTION;
    struct entry *entry = add(ctx, TIMER);
    if (!entry)
        return JS_EXCEPTION;
    uint64_t nanoseconds = (uint64_t)(milliseconds * 1e6);
    entry->pollable = wasi_clocks_monotonic_clock_subscribe_duration(nanoseconds);
    entry->has_pollable = true;
    return JS_NewInt32(ctx, entry->id);
}

// Text.

// How many bytes at the start of what is no UTF-8 are one U+FFFD: as many as begin a character, else one (Encoding Standard).
static size_t broken(const uint8_t *at, const uint8_t *end)
{
    int more = *at < 0xc2 || *at > 0xf4 ? 0 : *at >= 0xf0 ? 3 : *at >= 0xe0 ? 2 : 1;
    uint8_t low = *at == 0xe0 ? 0xa0 : *at == 0xf0 ? 0x90 : 0x80, high = *at == 0xed ? 0x9f : *at == 0xf4 ? 0x8f : 0xbf;
    size_t length = 1;
    while (length <= (size_t)more && at + length < end && at[length] >= low && at[length] <= high) {
        length++;
        low = 0x80;
        high = 0xbf;
    }
    return length;
}

// The end of what is UTF-8 at the start.
static const uint8_t *valid(const uint8_t *at, const uint8_t *end)
{
    // Most is ASCII.
    for (uint64_t eight; end - at >= 8; at += 8) {
        memcpy(&eight, at, 8);
        if (eight & 0x8080808080808080)
            break;
    }
    while (at < end) {
        if (*at < 0x80) {
            at++;
            continue;
        }
        int more = *at >= 0xf0 ? 3 : *at >= 0xe0 ? 2 : 1;
        if (*at < 0xc2 || *at > 0xf4 || end - at <= more || broken(at, end) != (size_t)more + 1)
            return at;
        at += more + 1;
    }
    return end;
}

// The UTF-8 of a string; what is half a pair of surrogates is U+FFFD. The caller frees it.
static uint8_t *utf8_of(JSContext *ctx, JSValueConst value, size_t *length)
{
    const char *text = JS_ToCStringLen(ctx, length, value);
    if (!text)
        return NULL;
    uint8_t *bytes = malloc(*length + 1);
    if (bytes) {
        memcpy(bytes, text, *length + 1);
        for (size_t i = 0; i + 2 < *length; i++)
            if (bytes[i] == 0xed && bytes[i + 1] >= 0xa0)
                memcpy(bytes + i, "\xef\xbf\xbd", 3);
    } else {
        JS_ThrowOutOfMemory(ctx);
    }
    JS_FreeCString(ctx, text);
    return bytes;
}

void *host_give_back(JSRuntime *runtime, void *opaque, void *bytes, size_t length)
{
    if (length > 0)
        return realloc(bytes, length);
    free(bytes);
    return NULL;
}

// An array over bytes of malloc's, which it frees.
static JSValue array(JSContext *ctx, uint8_t *bytes, size_t length)
{
    return JS_NewUint8Array(ctx, bytes, length, host_give_back, NULL, false);
}

static JSValue js_encode(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    size_t length;
    uint8_t *bytes = utf8_of(ctx, argv[0], &length);
    return bytes ? array(ctx, bytes, length) : JS_EXCEPTION;
}

static JSValue js_decode(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    size_t length;
    const uint8_t *bytes = JS_GetUint8Array(ctx, &length, argv[0]);
    if (!bytes)
        return JS_EXCEPTION;
    const uint8_t *end = bytes + length, *known = valid(bytes, end);
    if (known == end)
        return JS_NewStringLen(ctx, (const char *)bytes, length);
    if (JS_ToBool(ctx, argv[1]))
        return JS_ThrowTypeError(ctx, "the bytes are not valid UTF-8");
    // Three bytes for each that is none.
    char *text = malloc(3 * length), *to = text;
    if (!text)
        return JS_ThrowOutOfMemory(ctx);
    for (const uint8_t *at = bytes; at < end; known = valid(at, end)) {
        memcpy(to, at, (size_t)(known - at));
        to += known - at;
        at = known;
        if (at < end) {
            memcpy(to, "\xef\xbf\xbd", 3);
            to += 3;
            at += broken(at, end);
        }
    }
    JSValue string = JS_NewStringLen(ctx, text, (size_t)(to - text));
    free(text);
    return string;
}

// A field's value as JavaScript sees it: a character for each byte.
static JSValue from_latin1(JSContext *ctx, const uint8_t *bytes, size_t length)
{
    size_t high = 0;
    for (size_t i = 0; i < length; i++)
        high += bytes[i] >> 7;
    if (high == 0)
        return JS_NewStringLen(ctx, (const char *)bytes, length);
    uint8_t *text = malloc(length + high), *to = text;
    if (!text)
        return JS_ThrowOutOfMemory(ctx);
    for (size_t i = 0; i < length; i++) {
        if (bytes[i] >= 0x80)
            *to++ = 0xc0 | bytes[i] >> 6;
        *to++ = bytes[i] >= 0x80 ? 0x80 | (bytes[i] & 0x3f) : bytes[i];
    }
    JSValue string = JS_NewStringLen(ctx, (char *)text, length + high);
    free(text);
    return string;
}

// The other way, in place.
static size_t to_latin1(uint8_t *text, size_t length)
{
    size_t to = 0;
    for (size_t i = 0; i < length; i++) {
        uint8_t byte = text[i];
        if (byte >= 0x80)
            byte = (uint8_t)(byte << 6 | (text[++i] & 0x3f));
        text[to++] = byte;
    }
    return to;
}

bool host_string(JSContext *ctx, JSValueConst value, javascript_string_t *to)
{
    to->ptr = utf8_of(ctx, value, &to->len);
    if (!to->ptr)
        return false;
    // The bindings do not free what is empty.
    if (to->len == 0) {
        free(to->ptr);
        to->ptr = NULL;
    }
    return true;
}

void host_push(JSContext *ctx, JSValue list, uint32_t *length, JSValue value)
{
    JS_DefinePropertyValueUint32(ctx, list, (*length)++, value, JS_PROP_C_W_E);
}

// Names and values in turn. Takes the fields.
static JSValue list_of_fields(JSContext *ctx, wasi_http_types_own_fields_t fields)
{
    wasi_http_types_list_tuple2_field_name_field_value_t pairs;
    wasi_http_types_method_fields_entries(wasi_http_types_borrow_fields(fields), &pairs);
    wasi_http_types_fields_drop_own(fields);
    JSValue list = JS_NewArray(ctx);
    uint32_t length = 0;
    for (size_t i = 0; i < pairs.len; i++) {
        host_push(ctx, list, &length, JS_NewStringLen(ctx, (char *)pairs.ptr[i].f0.ptr, pairs.ptr[i].f0.len));
        host_push(ctx, list, &length, from_latin1(ctx, pairs.ptr[i].f1.ptr, pairs.ptr[i].f1.len));
    }
    wasi_http_types_list_tuple2_field_name_field_value_free(&pairs);
    return list;
}

// Fields of names and values in turn, or false with an exception.
static bool fields_of_list(JSContext *ctx, JSValueConst list, wasi_http_types_own_fields_t *fields)
{
    int64_t length;
    if (JS_GetLength(ctx, list, &length) < 0)
        return false;
    wasi_http_types_list_tuple2_field_name_field_value_t pairs = {.len = 0};
    pairs.ptr = malloc((size_t)length / 2 * sizeof(*pairs.ptr));
    if (length > 0 && !pairs.ptr) {
        JS_ThrowOutOfMemory(ctx);
        return false;
    }
    bool is_well = true;
    for (int64_t i = 0; is_well && i + 1 < length; i += 2) {
        JSValue name = JS_GetPropertyInt64(ctx, list, i), value = JS_GetPropertyInt64(ctx, list, i + 1);
        javascript_string_t key, text = {0};
        is_well = host_string(ctx, name, &key);
        if (is_well && !host_string(ctx, value, &text)) {
            javascript_string_free(&key);
            is_well = false;
        }
        JS_FreeValue(ctx, name);
        JS_FreeValue(ctx, value);
        if (is_well) {
            pairs.ptr[pairs.len].f0 = key;
            pairs.ptr[pairs.len].f1.ptr = text.ptr;
            pairs.ptr[pairs.len++].f1.len = to_latin1(text.ptr, text.len);
        }
    }
    wasi_http_types_header_error_t error;
    if (is_well && !wasi_http_types_static_fields_from_list(&pairs, fields, &error)) {
        JS_ThrowTypeError(ctx, "the host refuses one of the headers");
        is_well = false;
    }
    wasi_http_types_list_tuple2_field_name_field_value_free(&pairs);
    return is_well;
}

// fieldName(text): a field's name in small letters; undefined where it is none (RFC 9110, 5.6.2).
static JSValue js_field_name(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    size_t length;
    const char *text = JS_ToCStringLen(ctx, &length, argv[0]);
    if (!text)
        return JS_EXCEPTION;
    bool is_name = length > 0, is_small = true;
    for (size_t i = 0; is_name && i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        is_small &= c < 'A' || c > 'Z';
        is_name = (c < 0x80 && isalnum(c)) || (c != 0 && strchr("!#$%&'*+-.^_`|~", c) != NULL);
    }
    JSValue name = JS_UNDEFINED;
    if (is_name && is_small) {
        name = JS_DupValue(ctx, argv[0]);
    } else if (is_name) {
        char *small = malloc(length);
        if (small) {
            for (size_t i = 0; i < length; i++)
                small[i] = (char)tolower((unsigned char)text[i]);
            name = JS_NewStringLen(ctx, small, length);
            free(small);
        } else {
            name = JS_ThrowOutOfMemory(ctx);
        }
    }
    JS_FreeCString(ctx, text);
    return name;
}

static bool is_field_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

// fieldValue(text): a field's value without the white space around it; undefined where it is none: with a zero or the end of
// a line, or with what is more than a byte.
static JSValue js_field_value(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    size_t length;
    const char *text = JS_ToCStringLen(ctx, &length, argv[0]);
    if (!text)
        return JS_EXCEPTION;
    const char *from = text, *end = text + length;
    while (from < end && is_field_space(*from))
        from++;
    while (from < end && is_field_space(end[-1]))
        end--;
    bool is_value = true;
    for (const char *at = from; is_value && at < end; at++) {
        // In UTF-8 what begins with 0xc4 or more is U+0100 or more.
        is_value = *at != 0 && *at != '\r' && *at != '\n' && (unsigned char)*at < 0xc4;
    }
    JSValue value = JS_UNDEFINED;
    if (is_value && (size_t)(end - from) == length)
        value = JS_DupValue(ctx, argv[0]);
    else if (is_value)
        value = JS_NewStringLen(ctx, from, (size_t)(end - from));
    JS_FreeCString(ctx, text);
    return value;
}

// Streams.

static JSValue stream_error(JSContext *ctx, wasi_io_streams_stream_error_t *error)
{
    if (error->tag == WASI_IO_STREAMS_STREAM_ERROR_CLOSED)
        return JS_ThrowTypeError(ctx, "the other side closed the connection");
    javascript_string_t text;
    wasi_io_error_method_error_to_debug_string(wasi_io_error_borrow_error(error->val.last_operation_failed), &text);
    wasi_io_error_error_drop_own(error->val.last_operation_failed);
    JS_ThrowTypeError(ctx, "the connection broke: %.*s", (int)text.len, (char *)text.ptr);
    javascript_string_free(&text);
    return JS_EXCEPTION;
}

// read(input, max): bytes, undefined where they are still to come, null at the end.
static JSValue js_read(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    struct entry *entry = entry_of(ctx, argv[0], INPUT);
    uint32_t most;
    if (!entry || JS_ToUint32(ctx, &most, argv[1]) < 0)
        return JS_EXCEPTION;
    javascript_list_u8_t bytes;
    wasi_io_streams_stream_error_t error;
    if (!wasi_io_streams_method_input_stream_read(wasi_io_streams_borrow_input_stream(entry->input.stream), most, &bytes, &error))
        return error.tag == WASI_IO_STREAMS_STREAM_ERROR_CLOSED ? JS_NULL : stream_error(ctx, &error);
    if (bytes.len == 0) {
        javascript_list_u8_free(&bytes);
        return JS_UNDEFINED;
    }
    return array(ctx, bytes.ptr, bytes.len);
}

// write(output, bytes, offset): how many bytes were taken.
static JSValue js_write(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    struct entry *entry = entry_of(ctx, argv[0], OUTPUT);
    size_t length;
    uint32_t offset;
    uint8_t *bytes = JS_GetUint8Array(ctx, &length, argv[1]);
    if (!entry || !bytes || JS_ToUint32(ctx, &offset, argv[2]) < 0)
        return JS_EXCEPTION;
    wasi_io_streams_borrow_output_stream_t stream = wasi_io_streams_borrow_output_stream(entry->output.stream);
    wasi_io_streams_stream_error_t error;
    uint64_t room;
    if (!wasi_io_streams_method_output_stream_check_write(stream, &room, &error))
        return stream_error(ctx, &error);
    size_t left = length - (offset < length ? offset : length);
    javascript_list_u8_t piece = {.ptr = bytes + length - left, .len = left < room ? left : (size_t)room};
    if (piece.len > 0 && !wasi_io_streams_method_output_stream_write(stream, &piece, &error))
        return stream_error(ctx, &error);
    return JS_NewUint32(ctx, (uint32_t)piece.len);
}

// finish(output): the body is complete.
static JSValue js_finish(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    struct entry *entry = entry_of(ctx, argv[0], OUTPUT);
    if (!entry)
        return JS_EXCEPTION;
    unsubscribe(entry);
    JS_FreeValue(ctx, entry->resolve);
    wasi_io_streams_output_stream_drop_own(entry->output.stream);
    wasi_http_types_own_outgoing_body_t body = entry->output.body;
    take_out(entry);
    wasi_http_types_error_code_t error;
    if (!wasi_http_types_static_outgoing_body_finish(body, NULL, &error)) {
        wasi_http_types_error_code_free(&error);
        return JS_ThrowTypeError(ctx, "the body is shorter or longer than its content-length says");
    }
    return JS_UNDEFINED;
}

static struct entry *add_output(JSContext *ctx, wasi_http_types_own_outgoing_body_t body)
{
    struct entry *entry = add(ctx, OUTPUT);
    if (!entry)
        abort();
    entry->output.body = body;
    wasi_http_types_method_outgoing_body_write(wasi_http_types_borrow_outgoing_body(body), &entry->output.stream);
    return entry;
}

static struct entry *add_input(JSContext *ctx, wasi_http_types_own_incoming_body_t body)
{
    struct entry *entry = add(ctx, INPUT);
    if (!entry)
        abort();
    entry->input.body = body;
    wasi_http_types_method_incoming_body_stream(wasi_http_types_borrow_incoming_body(body), &entry->input.stream);
    return entry;
}

// Calls.

void host_begin(exports_wasi_http_incoming_handler_own_incoming_request_t request,
                exports_wasi_http_incoming_handler_own_response_outparam_t answer)
{
    call.is_there = true;
    call.is_done = call.has_answered = false;
    call.request = request;
    call.answer = answer;
}

bool host_is_done(void)
{
    return call.is_done;
}

static JSValue js_done(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    call.is_done = true;
    return JS_UNDEFINED;
}

void host_fail(bool is_silent, const char *text, size_t length)
{
    if (call.has_answered)
        return;
    call.has_answered = true;
    if (is_silent) {
        wasi_http_types_response_outparam_drop_own(call.answer);
        return;
    }
    wasi_http_types_result_own_outgoing_response_error_code_t result = {.is_err = true};
    result.val.err.tag = WASI_HTTP_TYPES_ERROR_CODE_INTERNAL_ERROR;
    result.val.err.val.internal_error.is_some = true;
    result.val.err.val.internal_error.val = borrowed(text, length);
    wasi_http_types_static_response_outparam_set(call.answer, &result);
}

static JSValue js_fail(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    size_t length;
    const char *text = JS_ToCStringLen(ctx, &length, argv[1]);
    host_fail(JS_ToBool(ctx, argv[0]) || !text, text, length);
    JS_FreeCString(ctx, text);
    return JS_UNDEFINED;
}

// wasRefused(): whether memory was.
static JSValue js_was_refused(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    return JS_NewBool(ctx, engine_was_refused);
}

void host_end(JSContext *ctx)
{
    host_fail(true, NULL, 0);
    while (entry_count > 0) {
        release(ctx, &entries[entry_count - 1]);
        entry_count--;
    }
    wasi_http_types_incoming_request_drop_own(call.request);
    call.is_there = false;
}

static const char *const METHODS[] = {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"};
#define METHOD_COUNT (sizeof(METHODS) / sizeof(*METHODS))

// request(): method, URL, headers, the stream of the body (0 where there is none), and the authority of the URL.
static JSValue js_request(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    wasi_http_types_borrow_incoming_request_t request = wasi_http_types_borrow_incoming_request(call.request);
    JSValue list = JS_NewArray(ctx);
    uint32_t length = 0;

    wasi_http_types_method_t method;
    wasi_http_types_method_incoming_request_method(request, &method);
    bool is_other = method.tag >= METHOD_COUNT;
    host_push(ctx, list, &length, is_other ? JS_NewStringLen(ctx, (char *)method.val.other.ptr, method.val.other.len) : JS_NewString(ctx, METHODS[method.tag]));
    bool is_bodiless = method.tag == WASI_HTTP_TYPES_METHOD_GET || method.tag == WASI_HTTP_TYPES_METHOD_HEAD;
    wasi_http_types_method_free(&method);

    wasi_http_types_scheme_t scheme;
    bool is_secure = wasi_http_types_method_incoming_request_scheme(request, &scheme) && scheme.tag == WASI_HTTP_TYPES_SCHEME_HTTPS;
    javascript_string_t authority, path;
    if (!wasi_http_types_method_incoming_request_authority(request, &authority))
        javascript_string_dup(&authority, "localhost");
    if (!wasi_http_types_method_incoming_request_path_with_query(request, &path))
        javascript_string_dup(&path, "/");
    size_t room = 8 + authority.len + path.len;
    char *url = malloc(room);
    if (!url)
        abort();
    size_t at = strlcpy(url, is_secure ? "https://" : "http://", room + 1);
    memcpy(url + at, authority.ptr, authority.len);
    memcpy(url + at + authority.len, path.ptr, path.len);
    host_push(ctx, list, &length, JS_NewStringLen(ctx, url, at + authority.len + path.len));
    free(url);
    javascript_string_free(&path);

    host_push(ctx, list, &length, list_of_fields(ctx, wasi_http_types_method_incoming_request_headers(request)));
    wasi_http_types_own_incoming_body_t body;
    int id = 0;
    if (!is_bodiless && wasi_http_types_method_incoming_request_consume(request, &body))
        id = add_input(ctx, body)->id;
    host_push(ctx, list, &length, JS_NewInt32(ctx, id));
    host_push(ctx, list, &length, JS_NewStringLen(ctx, (char *)authority.ptr, authority.len));
    javascript_string_free(&authority);
    return list;
}

// respond(status, headers, hasBody): the stream of the body; 0 where there is none.
static JSValue js_respond(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    int32_t status;
    wasi_http_types_own_fields_t fields;
    if (call.has_answered)
        return JS_ThrowTypeError(ctx, "the call was answered already");
    if (JS_ToInt32(ctx, &status, argv[0]) < 0 || !fields_of_list(ctx, argv[1], &fields))
        return JS_EXCEPTION;
    wasi_http_types_own_outgoing_response_t response = wasi_http_types_constructor_outgoing_response(fields);
    wasi_http_types_borrow_outgoing_response_t lent = wasi_http_types_borrow_outgoing_response(response);
    wasi_http_types_method_outgoing_response_set_status_code(lent, (uint16_t)status);
    int id = 0;
    wasi_http_types_own_outgoing_body_t body;
    if (JS_ToBool(ctx, argv[2]) && wasi_http_types_method_outgoing_response_body(lent, &body))
        id = add_output(ctx, body)->id;
    wasi_http_types_result_own_outgoing_response_error_code_t result = {.is_err = false, .val.ok = response};
    wasi_http_types_static_response_outparam_set(call.answer, &result);
    call.has_answered = true;
    return JS_NewInt32(ctx, id);
}

static const char *const ERRORS[] = {
    "the name was not resolved in time",
    "the name cannot be resolved",
    "the destination was not found",
    "the destination is not available",
    "the destination's address is prohibited",
    "the destination's address cannot be reached",
    "the connection was refused",
    "the connection was ended",
    "no connection was made in time",
    "nothing was read in time",
    "nothing was written in time",
    "there are too many connections",
    "TLS failed",
    "the certificate is not trusted",
    "the other side ended TLS",
    "denied: no rule of spec.egress.allow names the host, or spec.limits.outboundCalls are used up",
    "the request has no length",
    "the request's body is shorter or longer than its content-length says, or broke off",
    "the method is not valid",
    "the URL is not valid",
    "the URL is too long",
    "the request's headers are too large",
    "a header of the request is too large",
    "the request's trailers are too large",
    "a trailer of the request is too large",
    "the answer broke off",
    "the answer's headers are too large",
    "a header of the answer is too large",
    "the answer's body is too large",
    "the answer's trailers are too large",
    "a trailer of the answer is too large",
    "the answer's transfer-encoding is unknown",
    "the answer's content-encoding is unknown",
    "the answer did not come in time",
    "the protocol was not changed",
    "the other side does not speak HTTP as it should",
    "the request leads back to itself",
    "the host's settings are wrong",
    "the host failed",
};

static JSValue call_error(JSContext *ctx, wasi_http_types_error_code_t *error)
{
    if (error->tag == WASI_HTTP_TYPES_ERROR_CODE_INTERNAL_ERROR && error->val.internal_error.is_some) {
        javascript_string_t text = error->val.internal_error.val;
        JS_ThrowTypeError(ctx, "fetch failed: %.*s", (int)text.len, (char *)text.ptr);
    } else if (error->tag < sizeof(ERRORS) / sizeof(*ERRORS)) {
        JS_ThrowTypeError(ctx, "fetch failed: %s", ERRORS[error->tag]);
    } else {
        JS_ThrowTypeError(ctx, "fetch failed: wasi:http error %d", error->tag);
    }
    wasi_http_types_error_code_free(error);
    return JS_EXCEPTION;
}

static void set_method(JSContext *ctx, wasi_http_types_borrow_outgoing_request_t request, javascript_string_t *name)
{
    wasi_http_types_method_t method = {.tag = WASI_HTTP_TYPES_METHOD_OTHER, .val.other = *name};
    for (uint8_t i = 0; i < METHOD_COUNT; i++)
        if (strlen(METHODS[i]) == name->len && memcmp(METHODS[i], name->ptr, name->len) == 0)
            method.tag = i;
    wasi_http_types_method_outgoing_request_set_method(request, &method);
}

// Sends a request over the network, or where `worker` names one, to loaded code.
static bool hand_over(struct entry *worker, wasi_http_types_own_outgoing_request_t request,
                      wasi_http_types_own_future_incoming_response_t *future,
                      hearth_loader_loader_own_execution_t *execution, wasi_http_types_error_code_t *error)
{
    if (!worker)
        return wasi_http_outgoing_handler_handle(request, NULL, future, error);
    if (!hearth_loader_loader_method_worker_call(hearth_loader_loader_borrow_worker(worker->worker), request, execution, error))
        return false;
    // It is there until it is taken.
    return hearth_loader_loader_method_execution_response(hearth_loader_loader_borrow_execution(*execution), future);
}

// fetch(method, scheme, authority, path, headers, hasBody, worker): the call, the stream of the body, 0 where there is none, and
// where `worker` is one, the execution.
static JSValue js_fetch(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    javascript_string_t texts[4] = {0};
    wasi_http_types_own_fields_t fields;
    if (!check_called(ctx, "calls out"))
        return JS_EXCEPTION;
    struct entry *worker = NULL;
    if (!JS_IsUndefined(argv[6]) && !(worker = entry_of(ctx, argv[6], WORKER)))
        return JS_EXCEPTION;
    bool is_well = true;
    for (int i = 0; is_well && i < 4; i++)
        is_well = host_string(ctx, argv[i], &texts[i]);
    JSValue result = JS_EXCEPTION;
    if (is_well && fields_of_list(ctx, argv[4], &fields)) {
        wasi_http_types_own_outgoing_request_t request = wasi_http_types_constructor_outgoing_request(fields);
        wasi_http_types_borrow_outgoing_request_t lent = wasi_http_types_borrow_outgoing_request(request);
        set_method(ctx, lent, &texts[0]);
        wasi_http_types_scheme_t scheme = {.tag = texts[1].len == 5 ? WASI_HTTP_TYPES_SCHEME_HTTPS : WASI_HTTP_TYPES_SCHEME_HTTP};
        wasi_http_types_method_outgoing_request_set_scheme(lent, &scheme);
        is_well = wasi_http_types_method_outgoing_request_set_authority(lent, &texts[2]) &&
                  wasi_http_types_method_outgoing_request_set_path_with_query(lent, &texts[3]);
        wasi_http_types_own_outgoing_body_t body;
        bool has_body = JS_ToBool(ctx, argv[5]) && wasi_http_types_method_outgoing_request_body(lent, &body);
        wasi_http_types_own_future_incoming_response_t future;
        hearth_loader_loader_own_execution_t execution;
        wasi_http_types_error_code_t error;
        if (!is_well) {
            if (has_body)
                wasi_http_types_outgoing_body_drop_own(body);
            wasi_http_types_outgoing_request_drop_own(request);
            JS_ThrowTypeError(ctx, "the host or the path of the URL cannot be sent");
        } else if (hand_over(worker, request, &future, &execution, &error)) {
            bool has_execution = worker != NULL;
            int output = has_body ? add_output(ctx, body)->id : 0;
            struct entry *entry = add(ctx, CALL);
            if (!entry)
                abort();
            entry->call = future;
            result = JS_NewArray(ctx);
            uint32_t length = 0;
            host_push(ctx, result, &length, JS_NewInt32(ctx, entry->id));
            host_push(ctx, result, &length, JS_NewInt32(ctx, output));
            if (has_execution) {
                entry = add(ctx, EXECUTION);
                if (!entry)
                    abort();
                entry->execution = execution;
                host_push(ctx, result, &length, JS_NewInt32(ctx, entry->id));
            }
        } else {
            if (has_body)
                wasi_http_types_outgoing_body_drop_own(body);
            call_error(ctx, &error);
        }
    }
    for (int i = 0; i < 4; i++)
        javascript_string_free(&texts[i]);
    return result;
}

// answer(call): status, headers and the stream of the body; undefined where it is still to come.
static JSValue js_answer(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    struct entry *entry = entry_of(ctx, argv[0], CALL);
    if (!entry)
        return JS_EXCEPTION;
    wasi_http_types_result_result_own_incoming_response_error_code_void_t got;
    if (!wasi_http_types_method_future_incoming_response_get(wasi_http_types_borrow_future_incoming_response(entry->call), &got))
        return JS_UNDEFINED;
    if (got.is_err)
        return JS_ThrowTypeError(ctx, "the answer was taken already");
    if (got.val.ok.is_err)
        return call_error(ctx, &got.val.ok.val.err);
    wasi_http_types_own_incoming_response_t response = got.val.ok.val.ok;
    wasi_http_types_borrow_incoming_response_t lent = wasi_http_types_borrow_incoming_response(response);
    JSValue list = JS_NewArray(ctx);
    uint32_t length = 0;
    host_push(ctx, list, &length, JS_NewInt32(ctx, wasi_http_types_method_incoming_response_status(lent)));
    host_push(ctx, list, &length, list_of_fields(ctx, wasi_http_types_method_incoming_response_headers(lent)));
    wasi_http_types_own_incoming_body_t body;
    bool has_body = wasi_http_types_method_incoming_response_consume(lent, &body);
    host_push(ctx, list, &length, JS_NewInt32(ctx, has_body ? add_input(ctx, body)->id : 0));
    wasi_http_types_incoming_response_drop_own(response);
    return list;
}

// Loaded code.

// The elements of an array of strings, to be freed with the list.
static bool strings_of(JSContext *ctx, JSValueConst array, javascript_list_string_t *list)
{
    int64_t length;
    *list = (javascript_list_string_t){0};
    if (JS_GetLength(ctx, array, &length) < 0)
        return false;
    list->ptr = malloc((size_t)length * sizeof(*list->ptr) + 1);
    if (!list->ptr) {
        JS_ThrowOutOfMemory(ctx);
        return false;
    }
    for (int64_t i = 0; i < length; i++) {
        JSValue value = JS_GetPropertyInt64(ctx, array, i);
        bool is_well = host_string(ctx, value, &list->ptr[list->len]);
        JS_FreeValue(ctx, value);
        if (!is_well)
            return false;
        list->len++;
    }
    return true;
}

static bool number_of(JSContext *ctx, JSValueConst array, uint32_t index, bool *is_some, uint64_t *number)
{
    JSValue value = JS_GetPropertyUint32(ctx, array, index);
    double given = 0;
    *is_some = !JS_IsUndefined(value);
    bool is_well = !*is_some || JS_ToFloat64(ctx, &given, value) == 0;
    JS_FreeValue(ctx, value);
    *number = given > 0 ? (uint64_t)given : 0;
    return is_well;
}

// load(main, modules, env, functions, egress, limits): the worker. Modules and env are names and texts in turn; limits are
// memory in bytes, deadline and processor time in milliseconds, and calls out, each undefined where it is not asked for.
static JSValue js_load(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    // A list of pairs is in memory what a list of names and texts in turn is.
    static_assert(sizeof(hearth_loader_loader_module_t) == 2 * sizeof(javascript_string_t));
    static_assert(sizeof(javascript_tuple2_string_string_t) == 2 * sizeof(javascript_string_t));
    hearth_loader_loader_code_t code = {0};
    javascript_list_string_t modules = {0}, env = {0};
    uint64_t deadline, cpu, calls;
    JSValue result = JS_EXCEPTION;
    if (check_called(ctx, "loading code") && host_string(ctx, argv[0], &code.main_module) && strings_of(ctx, argv[1], &modules) &&
        strings_of(ctx, argv[2], &env) && strings_of(ctx, argv[3], &code.functions) && strings_of(ctx, argv[4], &code.egress) &&
        number_of(ctx, argv[5], 0, &code.limits.memory_bytes.is_some, &code.limits.memory_bytes.val) &&
        number_of(ctx, argv[5], 1, &code.limits.deadline_ms.is_some, &deadline) &&
        number_of(ctx, argv[5], 2, &code.limits.cpu_ms.is_some, &cpu) &&
        number_of(ctx, argv[5], 3, &code.limits.outbound_calls.is_some, &calls)) {
        code.limits.deadline_ms.val = deadline < UINT32_MAX ? (uint32_t)deadline : UINT32_MAX;
        code.limits.cpu_ms.val = cpu < UINT32_MAX ? (uint32_t)cpu : UINT32_MAX;
        code.limits.outbound_calls.val = calls < UINT32_MAX ? (uint32_t)calls : UINT32_MAX;
        code.modules.ptr = (hearth_loader_loader_module_t *)modules.ptr;
        code.modules.len = modules.len / 2;
        code.env.ptr = (javascript_tuple2_string_string_t *)env.ptr;
        code.env.len = env.len / 2;
        hearth_loader_loader_own_worker_t worker;
        javascript_string_t problem;
        if (hearth_loader_loader_load(&code, &worker, &problem)) {
            struct entry *entry = add(ctx, WORKER);
            if (!entry)
                abort();
            entry->worker = worker;
            result = JS_NewInt32(ctx, entry->id);
        } else {
            JS_ThrowTypeError(ctx, "the code is not loaded: %.*s", (int)problem.len, (char *)problem.ptr);
            javascript_string_free(&problem);
        }
    }
    javascript_string_free(&code.main_module);
    javascript_list_string_free(&modules);
    javascript_list_string_free(&env);
    javascript_list_string_free(&code.functions);
    javascript_list_string_free(&code.egress);
    return result;
}

static JSValue text_of(JSContext *ctx, const javascript_string_t *text)
{
    return JS_NewStringLen(ctx, (char *)text->ptr, text->len);
}

// next(execution): undefined where nothing has happened; the number, name and arguments of a call back; or how it ended.
static JSValue js_next(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    struct entry *entry = entry_of(ctx, argv[0], EXECUTION);
    if (!entry)
        return JS_EXCEPTION;
    hearth_loader_loader_event_t event;
    if (!hearth_loader_loader_method_execution_next(hearth_loader_loader_borrow_execution(entry->execution), &event))
        return JS_UNDEFINED;
    JSValue list = JS_NewArray(ctx);
    uint32_t length = 0;
    if (event.tag == HEARTH_LOADER_LOADER_EVENT_INVOKED) {
        host_push(ctx, list, &length, JS_NewUint32(ctx, event.val.invoked.id));
        host_push(ctx, list, &length, text_of(ctx, &event.val.invoked.name));
        host_push(ctx, list, &length, text_of(ctx, &event.val.invoked.arguments));
    } else {
        hearth_loader_loader_report_t *report = &event.val.ended;
        JSValue log = JS_NewArray(ctx);
        uint32_t lines = 0;
        for (size_t i = 0; i < report->log.len; i++) {
            host_push(ctx, log, &lines, JS_NewBool(ctx, report->log.ptr[i].is_error));
            host_push(ctx, log, &lines, text_of(ctx, &report->log.ptr[i].text));
        }
        host_push(ctx, list, &length, text_of(ctx, &report->outcome));
        host_push(ctx, list, &length, text_of(ctx, &report->start));
        host_push(ctx, list, &length, text_of(ctx, &report->problem));
        host_push(ctx, list, &length, JS_NewFloat64(ctx, (double)report->duration_us / 1e3));
        host_push(ctx, list, &length, JS_NewFloat64(ctx, (double)report->cpu_us / 1e3));
        host_push(ctx, list, &length, JS_NewFloat64(ctx, (double)report->memory_bytes));
        host_push(ctx, list, &length, log);
        host_push(ctx, list, &length, JS_NewUint32(ctx, report->dropped_lines));
    }
    hearth_loader_loader_event_free(&event);
    return list;
}

// reply(execution, number, isError, text)
static JSValue js_reply(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    struct entry *entry = entry_of(ctx, argv[0], EXECUTION);
    uint32_t id;
    javascript_string_t text;
    if (!entry || JS_ToUint32(ctx, &id, argv[1]) < 0 || !host_string(ctx, argv[3], &text))
        return JS_EXCEPTION;
    hearth_loader_loader_result_string_string_t answer = {.is_err = JS_ToBool(ctx, argv[2]), .val.ok = text};
    hearth_loader_loader_method_execution_reply(hearth_loader_loader_borrow_execution(entry->execution), id, &answer);
    javascript_string_free(&text);
    return JS_UNDEFINED;
}

// bindings(): whether code may be loaded, names and JSON in turn of the env that loaded code is given, and names of functions.
static JSValue js_bindings(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    hearth_loader_bindings_given_t given;
    hearth_loader_bindings_get(&given);
    JSValue env = JS_NewArray(ctx), functions = JS_NewArray(ctx), list = JS_NewArray(ctx);
    uint32_t length = 0;
    for (size_t i = 0; i < given.env.len; i++) {
        host_push(ctx, env, &length, text_of(ctx, &given.env.ptr[i].f0));
        host_push(ctx, env, &length, text_of(ctx, &given.env.ptr[i].f1));
    }
    length = 0;
    for (size_t i = 0; i < given.functions.len; i++)
        host_push(ctx, functions, &length, text_of(ctx, &given.functions.ptr[i]));
    length = 0;
    host_push(ctx, list, &length, JS_NewBool(ctx, given.may_load));
    host_push(ctx, list, &length, env);
    host_push(ctx, list, &length, functions);
    javascript_list_tuple2_string_string_free(&given.env);
    javascript_list_string_free(&given.functions);
    return list;
}

// The rest.

static JSValue js_log(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    size_t length;
    const char *text = JS_ToCStringLen(ctx, &length, argv[1]);
    if (!text)
        return JS_EXCEPTION;
    host_log(JS_ToBool(ctx, argv[0]), text, length);
    JS_FreeCString(ctx, text);
    return JS_UNDEFINED;
}

static JSValue js_now(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    return JS_NewFloat64(ctx, (double)clock_monotonic() / 1e6);
}

static JSValue js_random(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    uint32_t length;
    if (JS_ToUint32(ctx, &length, argv[0]) < 0)
        return JS_EXCEPTION;
    javascript_list_u8_t bytes;
    wasi_random_random_get_random_bytes(length, &bytes);
    return array(ctx, bytes.ptr, bytes.len);
}

// Math.random: xorshift128+, seeded by the host in each instance.
static JSValue js_random_number(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    static uint64_t state[2];
    while (state[0] == 0 && state[1] == 0) {
        state[0] = wasi_random_random_get_random_u64();
        state[1] = wasi_random_random_get_random_u64();
    }
    uint64_t one = state[0], two = state[1];
    state[0] = two;
    one ^= one << 23;
    state[1] = one ^ two ^ one >> 17 ^ two >> 26;
    return JS_NewFloat64(ctx, (double)((state[1] + two) >> 11) * 0x1p-53);
}

static JSValue js_environment(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    javascript_list_tuple2_string_string_t pairs;
    wasi_cli_environment_get_environment(&pairs);
    JSValue env = JS_NewObject(ctx);
    for (size_t i = 0; i < pairs.len; i++) {
        JSAtom name = JS_NewAtomLen(ctx, (char *)pairs.ptr[i].f0.ptr, pairs.ptr[i].f0.len);
        JSValue value = JS_NewStringLen(ctx, (char *)pairs.ptr[i].f1.ptr, pairs.ptr[i].f1.len);
        JS_DefinePropertyValue(ctx, env, name, value, JS_PROP_C_W_E);
        JS_FreeAtom(ctx, name);
    }
    javascript_list_tuple2_string_string_free(&pairs);
    return env;
}

// context(), setContext(value): what runs now, and what is queued from now on, belongs to it.
static JSValue js_context(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    return JS_DupValue(ctx, engine_context);
}

static JSValue js_set_context(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    JSValue before = engine_context;
    engine_context = JS_DupValue(ctx, argv[0]);
    JS_FreeValue(ctx, before);
    return JS_UNDEFINED;
}

// handled(promise): the same, whose rejection nobody has to look at.
static JSValue js_handled(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    engine_handle(ctx, argv[0]);
    return JS_DupValue(ctx, argv[0]);
}

static const JSCFunctionListEntry FUNCTIONS[] = {
    JS_CFUNC_DEF("agree", 2, subtle_agree),
    JS_CFUNC_DEF("answer", 1, js_answer),
    JS_CFUNC_DEF("bindings", 0, js_bindings),
    JS_CFUNC_DEF("changeUrl", 3, url_change),
    JS_CFUNC_DEF("cipher", 7, subtle_cipher),
    JS_CFUNC_DEF("close", 1, js_close),
    JS_CFUNC_DEF("context", 0, js_context),
    JS_CFUNC_DEF("decode", 2, js_decode),
    JS_CFUNC_DEF("digest", 2, subtle_digest),
    JS_CFUNC_DEF("done", 0, js_done),
    JS_CFUNC_DEF("encode", 1, js_encode),
    JS_CFUNC_DEF("environment", 0, js_environment),
    JS_CFUNC_DEF("fail", 2, js_fail),
    JS_CFUNC_DEF("feed", 2, press_feed),
    JS_CFUNC_DEF("fetch", 7, js_fetch),
    JS_CFUNC_DEF("fieldName", 1, js_field_name),
    JS_CFUNC_DEF("fieldValue", 1, js_field_value),
    JS_CFUNC_DEF("finish", 1, js_finish),
    JS_CFUNC_DEF("handled", 1, js_handled),
    JS_CFUNC_DEF("hkdf", 5, subtle_hkdf),
    JS_CFUNC_DEF("hmac", 3, subtle_hmac),
    JS_CFUNC_DEF("keyKind", 1, subtle_key_kind),
    JS_CFUNC_DEF("keyOf", 2, subtle_key_of),
    JS_CFUNC_DEF("keyParts", 2, subtle_key_parts),
    JS_CFUNC_DEF("load", 6, js_load),
    JS_CFUNC_DEF("log", 2, js_log),
    JS_CFUNC_DEF("makeKey", 3, subtle_make_key),
    JS_CFUNC_DEF("next", 1, js_next),
    JS_CFUNC_DEF("now", 0, js_now),
    JS_CFUNC_DEF("oaep", 5, subtle_oaep),
    JS_CFUNC_DEF("parseForm", 1, url_parse_form),
    JS_CFUNC_DEF("parseUrl", 2, url_parse),
    JS_CFUNC_DEF("pbkdf2", 5, subtle_pbkdf2),
    JS_CFUNC_DEF("press", 1, press_next),
    JS_CFUNC_DEF("pressing", 3, press_new),
    JS_CFUNC_DEF("random", 1, js_random),
    JS_CFUNC_DEF("randomNumber", 0, js_random_number),
    JS_CFUNC_DEF("read", 2, js_read),
    JS_CFUNC_DEF("readKey", 2, subtle_read_key),
    JS_CFUNC_DEF("reply", 4, js_reply),
    JS_CFUNC_DEF("request", 0, js_request),
    JS_CFUNC_DEF("respond", 3, js_respond),
    JS_CFUNC_DEF("setContext", 1, js_set_context),
    JS_CFUNC_DEF("sign", 5, subtle_sign),
    JS_CFUNC_DEF("timer", 1, js_timer),
    JS_CFUNC_DEF("verify", 6, subtle_verify),
    JS_CFUNC_DEF("wait", 1, js_wait),
    JS_CFUNC_DEF("wasRefused", 0, js_was_refused),
    JS_CFUNC_DEF("write", 3, js_write),
    JS_CFUNC_DEF("writeForm", 1, url_write_form),
    JS_CFUNC_DEF("writeKey", 2, subtle_write_key),
};
#define FUNCTION_COUNT ((int)(sizeof(FUNCTIONS) / sizeof(*FUNCTIONS)))

static int fill(JSContext *ctx, JSModuleDef *module)
{
    return JS_SetModuleExportList(ctx, module, FUNCTIONS, FUNCTION_COUNT);
}

JSModuleDef *host_module(JSContext *ctx)
{
    press_class(ctx);
    subtle_class(ctx);
    JSModuleDef *module = JS_NewCModule(ctx, "hearth:host", fill);
    if (module)
        JS_AddModuleExportList(ctx, module, FUNCTIONS, FUNCTION_COUNT);
    return module;
}
