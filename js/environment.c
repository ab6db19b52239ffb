// The JavaScript environment as a component: one engine, the globals of environment/*.js, and code that comes at run time.
//
// The repository's build runs `snapshot` once and keeps the memory that it leaves: an instance begins with an engine that is
// made and globals that are evaluated. `compile` makes bytecode of a user's module, once; `load` evaluates that in an
// instance; after that each `handle` is a call of the module's `fetch`.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "host.h"
#include "sources.h"

// Bytes of C's stack that JavaScript may use: below what the linker gives it, and below what wasmtime's own stack holds of
// frames by then. Recursion of some kinds traps from 190 KB on (engine.c).
#define STACK (172 << 10)
// Bytes that an instance may allocate above the snapshot, and then above what its module is, before cycles are looked for: more
// than most calls do.
#define GARBAGE (4 << 20)
// Bytes that are there from the start, so that a small call does not grow the memory, which costs two system calls.
#define SPARE (256 << 10)
// Bytes of the largest hole that the start leaves in the memory.
#define HOLE (64 << 10)

// Of engine.c.
extern JSValue engine_context;
void engine_fix(JSRuntime *runtime);
void engine_allow(JSRuntime *runtime, size_t least);
extern JSRuntime *engine_runtime(void);

static JSRuntime *runtime;
static JSContext *context;
// Functions of environment/main.js.
static JSValue begin_function, accept_function, handle_function, problem_function, uncaught_function, unhandled_function;

// Rejected promises that nobody has handled yet, each with its reason.
static struct rejection {
    JSValue promise, reason;
} *rejections;
static size_t rejection_count, rejection_room;

static void track_rejection(JSContext *ctx, JSValueConst promise, JSValueConst reason, bool is_handled, void *opaque)
{
    if (is_handled) {
        for (size_t i = 0; i < rejection_count; i++) {
            if (JS_IsStrictEqual(ctx, rejections[i].promise, promise)) {
                JS_FreeValue(ctx, rejections[i].promise);
                JS_FreeValue(ctx, rejections[i].reason);
                rejections[i] = rejections[--rejection_count];
                return;
            }
        }
        return;
    }
    if (rejection_count == rejection_room) {
        size_t room = rejection_room ? 2 * rejection_room : 4;
        struct rejection *larger = realloc(rejections, room * sizeof(*larger));
        // Without memory there is nobody to tell.
        if (!larger)
            return;
        rejections = larger;
        rejection_room = room;
    }
    rejections[rejection_count++] = (struct rejection){JS_DupValue(ctx, promise), JS_DupValue(ctx, reason)};
}

// Forgets rejections; where `is_told`, the log has them.
static void flush_rejections(bool is_told)
{
    while (rejection_count > 0) {
        struct rejection rejection = rejections[--rejection_count];
        if (is_told)
            JS_FreeValue(context, JS_Call(context, unhandled_function, JS_UNDEFINED, 1, &rejection.reason));
        JS_FreeValue(context, rejection.promise);
        JS_FreeValue(context, rejection.reason);
    }
}

// Runs what is queued. What a job throws, of queueMicrotask say, is told, and the next one runs. False when memory is out.
static bool run_jobs(void)
{
    JSContext *ctx;
    int ran;
    while ((ran = JS_ExecutePendingJob(runtime, &ctx)) != 0) {
        if (ran > 0)
            continue;
        JSValue thrown = JS_GetException(context);
        JSValue is_told = JS_Call(context, uncaught_function, JS_UNDEFINED, 1, &thrown);
        JS_FreeValue(context, thrown);
        if (JS_IsException(is_told))
            JS_FreeValue(context, JS_GetException(context));
        // No value of its own is to be freed.
        if (!JS_IsBool(is_told) || !JS_VALUE_GET_BOOL(is_told))
            return false;
    }
    return true;
}

// The user's modules while they are compiled, the main one first.
static struct {
    exports_hearth_javascript_environment_list_module_t list;
    // Of each that is compiled by now.
    JSModuleDef **definitions;
} given;

// What `compile` made of them, where there are several: each is read when it is imported, which may be in a call.
static javascript_list_u8_t bytecode;

// What stands before each module in that: the lengths of its name and of its code, which follow.
struct heading {
    uint32_t name, code;
};

static bool is_ours(const char *name)
{
    return strncmp(name, "hearth:", 7) == 0;
}

// The name of the module that `base` imports as `name`: one that begins with a dot is relative to it.
static char *normalize(JSContext *ctx, const char *base, const char *name, void *opaque)
{
    // The one of Node's modules that no bundle can bring: it follows what the engine does.
    if (!is_ours(base) && strcmp(name, "node:async_hooks") == 0)
        return js_strdup(ctx, "hearth:async_hooks.js");
    const char *rest = is_ours(base) ? base + strlen("hearth:") : base;
    size_t length = strlen(base) + strlen(name) + 1;
    char *whole = js_mallocz(ctx, length);
    if (!whole)
        return NULL;
    if (name[0] != '.') {
        strlcpy(whole, name, length);
    } else {
        const char *end = strrchr(rest, '/');
        size_t folder = end ? (size_t)(end + 1 - base) : (size_t)(rest - base);
        memcpy(whole, base, folder);
        for (;;) {
            if (strncmp(name, "./", 2) == 0) {
                name += 2;
            } else if (strncmp(name, "../", 3) == 0) {
                name += 3;
                // The folder above; there is none above the first.
                while (folder > 0 && whole[--folder] && (folder == 0 || whole[folder - 1] != '/')) {}
                whole[folder] = 0;
            } else {
                break;
            }
        }
        strlcpy(whole + folder, name, length - folder);
    }
    if (is_ours(whole) && !is_ours(base)) {
        JS_ThrowTypeError(ctx, "\"%s\" cannot be imported: it is the environment's own", name);
        js_free(ctx, whole);
        return NULL;
    }
    return whole;
}

static JSValue compile_source(JSContext *ctx, const char *text, size_t length, const char *name)
{
    return JS_Eval(ctx, text, length, name, JS_EVAL_TYPE_MODULE | JS_EVAL_FLAG_COMPILE_ONLY);
}

// Compiles one of the user's modules, and what it imports.
static JSModuleDef *compile_given(JSContext *ctx, size_t index)
{
    javascript_string_t *name = &given.list.ptr[index].name, *source = &given.list.ptr[index].source;
    // Both end with a zero for the engine.
    char *file = calloc(1, name->len + 1), *text = calloc(1, source->len + 1);
    if (!file || !text)
        abort();
    memcpy(file, name->ptr, name->len);
    memcpy(text, source->ptr, source->len);
    JSValue module = compile_source(ctx, text, source->len, file);
    free(file);
    free(text);
    if (JS_IsException(module))
        return NULL;
    return given.definitions[index] = JS_VALUE_GET_PTR(module);
}

// Reads a compiled module by its name, or without one the first, and says how much of all it is; undefined where there is none.
static JSValue read_compiled(JSContext *ctx, const char *name, size_t *length)
{
    struct heading heading;
    for (size_t at = 0; at < bytecode.len; at += heading.name + heading.code) {
        memcpy(&heading, bytecode.ptr + at, sizeof(heading));
        at += sizeof(heading);
        const uint8_t *known = bytecode.ptr + at;
        if (name && (strlen(name) != heading.name || memcmp(name, known, heading.name) != 0))
            continue;
        *length = sizeof(heading) + heading.name + heading.code;
        return JS_ReadObject(ctx, known + heading.name, heading.code, JS_READ_OBJ_BYTECODE);
    }
    return JS_UNDEFINED;
}

static JSModuleDef *load_given(JSContext *ctx, const char *name)
{
    for (size_t i = 0; i < given.list.len; i++) {
        javascript_string_t *known = &given.list.ptr[i].name;
        if (known->len == strlen(name) && memcmp(known->ptr, name, known->len) == 0)
            return compile_given(ctx, i);
    }
    size_t length;
    JSValue module = read_compiled(ctx, name, &length);
    if (JS_IsException(module))
        return NULL;
    if (!JS_IsUndefined(module))
        return JS_VALUE_GET_PTR(module);
    if (given.list.len > 1 || bytecode.len > 0)
        JS_ThrowTypeError(ctx, "\"%s\" cannot be imported: it is none of the modules that came", name);
    else
        JS_ThrowTypeError(ctx, "\"%s\" cannot be imported: a function is one module; bundle what it needs into it", name);
    return NULL;
}

static JSModuleDef *load_source(JSContext *ctx, const char *name, void *opaque)
{
    if (!is_ours(name))
        return load_given(ctx, name);
    if (strcmp(name, "hearth:host") == 0)
        return host_module(ctx);
    for (size_t i = 0; i < sizeof(SOURCES) / sizeof(*SOURCES); i++) {
        if (strcmp(SOURCES[i].name, name + strlen("hearth:")) == 0) {
            JSValue module = compile_source(ctx, SOURCES[i].text, SOURCES[i].length, name);
            if (JS_IsException(module))
                return NULL;
            JSModuleDef *definition = JS_VALUE_GET_PTR(module);
            // Loaded modules belong to the context.
            JS_FreeValue(ctx, module);
            return definition;
        }
    }
    JS_ThrowReferenceError(ctx, "there is no module %s", name);
    return NULL;
}

// Why the snapshot could not be made. The build reads it.
char snapshot_problem[1024];

static void require(bool is_so)
{
    if (is_so)
        return;
    JSValue error = JS_GetException(context);
    const char *text = JS_ToCString(context, error);
    JSValue stack = JS_GetPropertyStr(context, error, "stack");
    const char *frames = JS_ToCString(context, stack);
    snprintf(snapshot_problem, sizeof(snapshot_problem), "%s\n%s", text ? text : "?", frames ? frames : "");
    __builtin_trap();
}

// Takes what is free among what is allocated, so that all later allocations are from the end, and lie together. `SPARE` bytes
// are there then.
static void close_holes(void)
{
    char *end = malloc(SPARE);
    for (size_t size = HOLE; size > 0; size -= 8) {
        char *piece = malloc(size);
        while (piece < end)
            piece = malloc(size);
        free(piece);
    }
    free(end);
}

// Run by the build, before there is any host: nothing here may call an import.
__attribute__((export_name("wizer-initialize"))) void snapshot(void)
{
    runtime = engine_runtime();
    context = JS_NewContextRaw(runtime);
    JS_SetMaxStackSize(runtime, STACK);
    JS_AddIntrinsicBaseObjects(context);
    JS_AddIntrinsicDate(context);
    JS_AddIntrinsicEval(context);
    JS_AddIntrinsicRegExp(context);
    JS_AddIntrinsicJSON(context);
    JS_AddIntrinsicProxy(context);
    JS_AddIntrinsicMapSet(context);
    JS_AddIntrinsicTypedArrays(context);
    JS_AddIntrinsicPromise(context);
    JS_AddIntrinsicWeakRef(context);
    JS_AddIntrinsicAToB(context);
    JS_AddIntrinsicDOMException(context);
    JS_SetModuleLoaderFunc(runtime, normalize, load_source, NULL);
    JS_SetHostPromiseRejectionTracker(runtime, track_rejection, NULL);

    JSModuleDef *definition = load_source(context, "hearth:main.js", NULL);
    require(definition);
    JSValue module = JS_DupValue(context, JS_MKPTR(JS_TAG_MODULE, definition));
    require(JS_ResolveModule(context, module) == 0);
    JSValue evaluated = JS_EvalFunction(context, module);
    require(!JS_IsException(evaluated) && run_jobs());
    if (JS_PromiseState(context, evaluated) == JS_PROMISE_REJECTED)
        JS_Throw(context, JS_PromiseResult(context, evaluated));
    require(JS_PromiseState(context, evaluated) == JS_PROMISE_FULFILLED);
    JS_FreeValue(context, evaluated);

    JSValue names = JS_GetModuleNamespace(context, definition);
    begin_function = JS_GetPropertyStr(context, names, "begin");
    accept_function = JS_GetPropertyStr(context, names, "accept");
    handle_function = JS_GetPropertyStr(context, names, "handle");
    problem_function = JS_GetPropertyStr(context, names, "loadProblem");
    uncaught_function = JS_GetPropertyStr(context, names, "uncaught");
    unhandled_function = JS_GetPropertyStr(context, names, "unhandled");
    JS_FreeValue(context, names);

    JS_RunGC(runtime);
    engine_fix(runtime);
    engine_allow(runtime, GARBAGE);
    close_holes();
}

// An instance that was just made, or that had calls before, goes on.
static void enter(void)
{
    clock_is_running = true;
    JS_UpdateStackTop(runtime);
}

// A string that outlives its value, for the host, which frees it.
static void give(JSValue value, javascript_string_t *to)
{
    size_t length;
    const char *text = JS_ToCStringLen(context, &length, value);
    javascript_string_dup_n(to, text ? text : "", text ? length : 0);
    JS_FreeCString(context, text);
    JS_FreeValue(context, value);
}

static uint32_t number(JSValue value)
{
    uint32_t number = 0;
    JS_ToUint32(context, &number, value);
    JS_FreeValue(context, value);
    return number;
}

// Describes what was thrown. Frees it.
static bool refuse(uint8_t kind, JSValue thrown, exports_hearth_javascript_environment_load_error_t *error)
{
    JSValue problem = JS_Call(context, problem_function, JS_UNDEFINED, 1, &thrown);
    JS_FreeValue(context, thrown);
    error->kind = kind;
    give(JS_GetPropertyUint32(context, problem, 0), &error->message);
    give(JS_GetPropertyUint32(context, problem, 1), &error->file);
    error->line = number(JS_GetPropertyUint32(context, problem, 2));
    error->column = number(JS_GetPropertyUint32(context, problem, 3));
    give(JS_GetPropertyUint32(context, problem, 4), &error->stack);
    JS_FreeValue(context, problem);
    return false;
}

static bool refuse_thrown(uint8_t kind, exports_hearth_javascript_environment_load_error_t *error)
{
    return refuse(kind, JS_GetException(context), error);
}

// Appends one module to what `compile` makes.
static bool append_module(size_t index, javascript_list_u8_t *to)
{
    // Without the source, which would be half of it: only Function.prototype.toString asks for that.
    JSValue module = JS_MKPTR(JS_TAG_MODULE, given.definitions[index]);
    size_t length;
    uint8_t *bytes = JS_WriteObject(context, &length, module, JS_WRITE_OBJ_BYTECODE | JS_WRITE_OBJ_STRIP_SOURCE);
    if (!bytes)
        return false;
    javascript_string_t *name = &given.list.ptr[index].name;
    struct heading heading = {.name = (uint32_t)name->len, .code = (uint32_t)length};
    // The engine's memory is not malloc's, which frees what is returned.
    uint8_t *larger = realloc(to->ptr, to->len + sizeof(heading) + name->len + length);
    if (!larger)
        abort();
    to->ptr = larger;
    memcpy(to->ptr + to->len, &heading, sizeof(heading));
    to->len += sizeof(heading);
    memcpy(to->ptr + to->len, name->ptr, name->len);
    to->len += name->len;
    memcpy(to->ptr + to->len, bytes, length);
    to->len += length;
    js_free(context, bytes);
    return true;
}

bool exports_hearth_javascript_environment_compile(exports_hearth_javascript_environment_list_module_t *modules,
                                                   javascript_list_u8_t *compiled,
                                                   exports_hearth_javascript_environment_load_error_t *error)
{
    enter();
    given.list = *modules;
    given.definitions = calloc(modules->len + 1, sizeof(*given.definitions));
    if (!given.definitions)
        abort();
    *compiled = (javascript_list_u8_t){0};
    bool is_well = true;
    // Those too that nobody imports at first: they may be imported when the code runs.
    for (size_t i = 0; is_well && i < modules->len; i++)
        is_well = given.definitions[i] || compile_given(context, i);
    for (size_t i = 0; is_well && i < modules->len; i++)
        is_well = append_module(i, compiled);
    exports_hearth_javascript_environment_list_module_free(modules);
    given.list.len = 0;
    free(given.definitions);
    if (is_well)
        return true;
    free(compiled->ptr);
    return refuse_thrown(EXPORTS_HEARTH_JAVASCRIPT_ENVIRONMENT_LOAD_ERROR_KIND_COMPILE, error);
}

bool exports_hearth_javascript_environment_load(javascript_list_u8_t *compiled,
                                                exports_hearth_javascript_environment_load_error_t *error)
{
    enter();
    bytecode = *compiled;
    // What it imports is read with it.
    size_t length;
    JSValue module = read_compiled(context, NULL, &length);
    if (length == bytecode.len) {
        javascript_list_u8_free(&bytecode);
        bytecode.len = 0;
    }
    if (JS_IsException(module) || JS_ResolveModule(context, module) < 0)
        return refuse_thrown(EXPORTS_HEARTH_JAVASCRIPT_ENVIRONMENT_LOAD_ERROR_KIND_COMPILE, error);

    JS_FreeValue(context, JS_Call(context, begin_function, JS_UNDEFINED, 0, NULL));
    JSModuleDef *definition = JS_VALUE_GET_PTR(module);
    JSValue evaluated = JS_EvalFunction(context, module);
    if (JS_IsException(evaluated) || !run_jobs())
        return refuse_thrown(EXPORTS_HEARTH_JAVASCRIPT_ENVIRONMENT_LOAD_ERROR_KIND_THREW, error);
    JSPromiseStateEnum state = JS_PromiseState(context, evaluated);
    JSValue result = state == JS_PROMISE_PENDING ? JS_UNDEFINED : JS_PromiseResult(context, evaluated);
    JS_FreeValue(context, evaluated);
    if (state == JS_PROMISE_REJECTED) {
        flush_rejections(false);
        return refuse(EXPORTS_HEARTH_JAVASCRIPT_ENVIRONMENT_LOAD_ERROR_KIND_THREW, result, error);
    }
    JS_FreeValue(context, result);
    if (state == JS_PROMISE_PENDING) {
        JS_ThrowTypeError(context, "the module awaits what never comes before a request does");
        return refuse_thrown(EXPORTS_HEARTH_JAVASCRIPT_ENVIRONMENT_LOAD_ERROR_KIND_WAITS, error);
    }
    flush_rejections(true);

    JSValue names = JS_GetModuleNamespace(context, definition);
    JSValue accepted = JS_Call(context, accept_function, JS_UNDEFINED, 1, &names);
    JS_FreeValue(context, names);
    if (JS_IsException(accepted))
        return refuse_thrown(EXPORTS_HEARTH_JAVASCRIPT_ENVIRONMENT_LOAD_ERROR_KIND_NO_HANDLER, error);
    JS_FreeValue(context, accepted);
    engine_allow(runtime, GARBAGE);
    return true;
}

void exports_wasi_http_incoming_handler_handle(exports_wasi_http_incoming_handler_own_incoming_request_t request,
                                               exports_wasi_http_incoming_handler_own_response_outparam_t answer)
{
    static const char STUCK[] = "the answer waits for something that never comes: a promise that nobody resolves";
    enter();
    host_begin(request, answer);
    // What the last call entered and did not leave.
    JS_FreeValue(context, engine_context);
    engine_context = JS_UNDEFINED;
    JSValue called = JS_Call(context, handle_function, JS_UNDEFINED, 0, NULL);
    bool is_well = !JS_IsException(called);
    JS_FreeValue(context, called);
    while (is_well) {
        is_well = run_jobs();
        flush_rejections(is_well);
        if (!is_well || host_is_done())
            break;
        if (!host_wait(context)) {
            host_log(true, STUCK, strlen(STUCK));
            host_fail(false, STUCK, strlen(STUCK));
            break;
        }
    }
    if (!is_well)
        host_fail(true, NULL, 0);
    host_end(context);
}
