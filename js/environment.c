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
// frames by then.
#define STACK (200 << 10)
// Bytes that an instance may allocate above the snapshot before cycles are looked for: more than most calls do.
#define GARBAGE (4 << 20)
// Bytes that are there from the start, so that a small call does not grow the memory, which costs two system calls.
#define SPARE (256 << 10)

// Of engine.c.
extern JSValue engine_context;

static JSRuntime *runtime;
static JSContext *context;
// Functions of environment/main.js.
static JSValue begin_function, accept_function, handle_function, problem_function, unhandled_function;

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

// Runs what is queued. False when a job itself cannot be run, which is when memory is out.
static bool run_jobs(void)
{
    JSContext *ctx;
    int ran;
    while ((ran = JS_ExecutePendingJob(runtime, &ctx)) > 0) {}
    if (ran < 0)
        JS_FreeValue(context, JS_GetException(context));
    return ran == 0;
}

static char *normalize(JSContext *ctx, const char *base, const char *name, void *opaque)
{
    if (strncmp(base, "hearth:", 7) != 0) {
        // The one of Node's modules that no bundle can bring: it follows what the engine does.
        if (strcmp(name, "node:async_hooks") == 0)
            return js_strdup(ctx, "hearth:async_hooks.js");
        JS_ThrowTypeError(ctx, "\"%s\" cannot be imported: a function is one module; bundle what it needs into it", name);
        return NULL;
    }
    // "./name.js" of the environment's own modules.
    char whole[64] = "hearth:";
    if (strncmp(name, "./", 2) == 0)
        strlcat(whole, name + 2, sizeof(whole));
    else
        strlcpy(whole, name, sizeof(whole));
    return js_strdup(ctx, whole);
}

static JSModuleDef *load_source(JSContext *ctx, const char *name, void *opaque)
{
    if (strcmp(name, "hearth:host") == 0)
        return host_module(ctx);
    for (size_t i = 0; i < sizeof(SOURCES) / sizeof(*SOURCES); i++) {
        if (strcmp(SOURCES[i].name, name + strlen("hearth:")) == 0) {
            JSValue module = JS_Eval(ctx, SOURCES[i].text, SOURCES[i].length, name, JS_EVAL_TYPE_MODULE | JS_EVAL_FLAG_COMPILE_ONLY);
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

// Run by the build, before there is any host: nothing here may call an import.
__attribute__((export_name("wizer-initialize"))) void snapshot(void)
{
    runtime = JS_NewRuntime();
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
    unhandled_function = JS_GetPropertyStr(context, names, "unhandled");
    JS_FreeValue(context, names);

    JS_RunGC(runtime);
    JSMemoryUsage usage;
    JS_ComputeMemoryUsage(runtime, &usage);
    JS_SetGCThreshold(runtime, (size_t)usage.malloc_size + GARBAGE);
    free(malloc(SPARE));
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

bool exports_hearth_javascript_environment_compile(javascript_string_t *name, javascript_string_t *source,
                                                   javascript_list_u8_t *compiled,
                                                   exports_hearth_javascript_environment_load_error_t *error)
{
    enter();
    // Both end with a zero for the engine.
    char *file = calloc(1, name->len + 1), *text = calloc(1, source->len + 1);
    if (!file || !text)
        abort();
    memcpy(file, name->ptr, name->len);
    memcpy(text, source->ptr, source->len);
    JSValue module = JS_Eval(context, text, source->len, file, JS_EVAL_TYPE_MODULE | JS_EVAL_FLAG_COMPILE_ONLY);
    free(file);
    free(text);
    javascript_string_free(name);
    javascript_string_free(source);
    if (JS_IsException(module))
        return refuse_thrown(EXPORTS_HEARTH_JAVASCRIPT_ENVIRONMENT_LOAD_ERROR_KIND_COMPILE, error);
    // Without the source, which would be half of it: only Function.prototype.toString asks for that.
    size_t length;
    uint8_t *bytes = JS_WriteObject(context, &length, module, JS_WRITE_OBJ_BYTECODE | JS_WRITE_OBJ_STRIP_SOURCE);
    JS_FreeValue(context, module);
    if (!bytes)
        return refuse_thrown(EXPORTS_HEARTH_JAVASCRIPT_ENVIRONMENT_LOAD_ERROR_KIND_COMPILE, error);
    // The engine's memory is not malloc's, which frees what is returned.
    compiled->ptr = malloc(length);
    compiled->len = length;
    if (!compiled->ptr)
        abort();
    memcpy(compiled->ptr, bytes, length);
    js_free(context, bytes);
    return true;
}

bool exports_hearth_javascript_environment_load(javascript_list_u8_t *compiled,
                                                exports_hearth_javascript_environment_load_error_t *error)
{
    enter();
    JSValue module = JS_ReadObject(context, compiled->ptr, compiled->len, JS_READ_OBJ_BYTECODE);
    javascript_list_u8_free(compiled);
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
