// QuickJS-ng as it is, but for its bound on recursion, which it leaves out on WASI (without it a deep recursion is a trap, which
// no program can catch, and no RangeError); for what the build writes into quickjs.c (crates/test-guests/src/environment.rs): the
// asynchronous context of its jobs, references to what is in the snapshot, and smaller arenas; and for a note of memory that
// was refused.
#define _GNU_SOURCE
// What these headers choose for WASI (no threads) is right.
#include "cutils.h"
#include "libregexp.h"
#include "quickjs.h"

#undef __wasi__
#define __STDC_NO_ATOMICS__ 1

// What code runs in: a value of environment/async_hooks.js. A reaction to a promise, and what comes after an `await`, runs in
// the one that it was written in.
JSValue engine_context = JS_UNDEFINED;

// What is in the snapshot is never freed, so that references to it need no count: counting them would write to its pages,
// which an instance shares with all others until then. A count as large as this stands still.
#define FIXED (1 << 29)
#define IS_FIXED(p) (JS_REF_COUNT(p) >= FIXED)
#define COUNT_REFERENCE(p) (IS_FIXED(p) ? FIXED : ++JS_REF_COUNT(p))
#define FORGET_REFERENCE(p) (IS_FIXED(p) ? FIXED : --JS_REF_COUNT(p))

// The engine bounds recursion by C's stack. Frames are on wasmtime's own as well, 512 KB in which no program can look, and
// meeting its end is a trap. So what calls itself takes as many bytes of C's stack as keep that the shorter one.
#define TAKE(bytes)    \
    char taken[bytes]; \
    __asm__ volatile("" : : "r"(taken) : "memory")
// In what checks for the end of the stack.
#define DEEP 400
// In the parser.
#define TAKE_PARSING(state, bytes)              \
    TAKE(bytes);                                \
    if (is_stack_short((state)->ctx->rt, 0)) {  \
        JS_ThrowStackOverflow((state)->ctx);    \
        return -1;                              \
    }

static void engine_title(JSContext *ctx, DynBuf *text, JSValueConst error);
static bool engine_hides(JSContext *ctx, JSAtom file);

#include "quickjs.c"

// Has what is allocated from now on lie together, and not in what arenas of the snapshot have left: each is on other pages.
static void close_arenas(JSRuntime *rt)
{
    for (int i = 0; i < JS_ARENA_BLOCK_SIZE_COUNT; i++) {
        struct list_head *at, *next;
        list_for_each_safe(at, next, &rt->arena_state.arena_list[i]) {
            // Each is alone in its lists: a block that is freed after all harms nothing.
            JSArena *arena = list_entry(at, JSArena, link);
            init_list_head(&arena->link);
            init_list_head(&arena->free_link);
        }
        init_list_head(&rt->arena_state.arena_list[i]);
        init_list_head(&rt->arena_state.free_arena_list[i]);
    }
}

static bool is_fixed;

// Whether frames of a file are left out of stacks: those of the environment, but not while it is made.
static bool engine_hides(JSContext *ctx, JSAtom file)
{
    const char *name = is_fixed && file != JS_ATOM_NULL ? JS_AtomToCString(ctx, file) : NULL;
    bool is_ours = name && strncmp(name, "hearth:", 7) == 0;
    JS_FreeCString(ctx, name);
    return is_ours;
}

// What a getter of the engine's own or a field gives as text, else what stands above it. Getters of users are not called: while
// an error is made, what they read may not be there.
static JSValue text_of(JSContext *ctx, JSValueConst error, JSAtom name)
{
    for (JSObject *at = JS_VALUE_GET_OBJ(error); at; at = at->shape->proto) {
        JSProperty *property;
        JSShapeProperty *kind = find_own_property(&property, at, name);
        if (at->class_id == JS_CLASS_PROXY)
            break;
        if (!kind)
            continue;
        JSValue value;
        switch (kind->flags & JS_PROP_TMASK) {
        case JS_PROP_GETSET:
            if (!property->u.getset.getter || property->u.getset.getter->class_id != JS_CLASS_C_FUNCTION)
                continue;
            value = JS_Call(ctx, JS_MKPTR(JS_TAG_OBJECT, property->u.getset.getter), error, 0, NULL);
            break;
        case JS_PROP_NORMAL:
            value = js_dup(property->u.value);
            break;
        case JS_PROP_AUTOINIT:
            value = JS_GetProperty(ctx, JS_MKPTR(JS_TAG_OBJECT, at), name);
            break;
        default:
            continue;
        }
        if (JS_IsString(value))
            return value;
        // Objects would have to be called for their texts.
        bool is_text = !JS_IsException(value) && !JS_IsUndefined(value) && !JS_IsObject(value) && !JS_IsSymbol(value);
        JSValue text = is_text ? JS_ToString(ctx, value) : JS_UNDEFINED;
        JS_FreeValue(ctx, value);
        return text;
    }
    return JS_UNDEFINED;
}

// The first line of a stack: what the error is called.
static void engine_title(JSContext *ctx, DynBuf *text, JSValueConst error)
{
    if (!JS_IsObject(error))
        return;
    // There may be no memory for texts.
    JSValue before = JS_GetException(ctx);
    JSValue texts[] = {text_of(ctx, error, JS_ATOM_name), text_of(ctx, error, JS_ATOM_message)};
    const char *name = JS_IsString(texts[0]) ? JS_ToCString(ctx, texts[0]) : NULL;
    const char *message = JS_IsString(texts[1]) ? JS_ToCString(ctx, texts[1]) : NULL;
    const char *first = name ? name : "Error";
    const char *second = message ? message : "";
    if (*first || *second)
        dbuf_printf(text, "%s%s%s\n", first, *first && *second ? ": " : "", second);
    for (int i = 0; i < 2; i++)
        JS_FreeValue(ctx, texts[i]);
    JS_FreeCString(ctx, name);
    JS_FreeCString(ctx, message);
    JS_FreeValue(ctx, JS_GetException(ctx));
    JS_Throw(ctx, before);
}

// Fixes all that is there. Once, when the snapshot is made.
void engine_fix(JSRuntime *rt)
{
    close_arenas(rt);
    is_fixed = true;
    struct list_head *at;
    list_for_each(at, &rt->gc_obj_list) {
        JSGCObjectHeader *object = list_entry(at, JSGCObjectHeader, link);
        // The shape of one object alone may be changed in place.
        if (JS_GC_TYPE(object) != JS_GC_OBJ_TYPE_SHAPE || JS_REF_COUNT(object) > 1)
            JS_REF_COUNT(object) += FIXED;
        if (JS_GC_TYPE(object) != JS_GC_OBJ_TYPE_FUNCTION_BYTECODE)
            continue;
        JSFunctionBytecode *code = (JSFunctionBytecode *)object;
        for (int i = 0; i < code->cpool_count; i++) {
            JSValue constant = code->cpool[i];
            if (JS_VALUE_GET_TAG(constant) == JS_TAG_STRING && !IS_FIXED(JS_VALUE_GET_PTR(constant)))
                JS_REF_COUNT(JS_VALUE_GET_PTR(constant)) += FIXED;
        }
    }
    for (int i = 0; i < rt->atom_size; i++) {
        JSAtomStruct *atom = rt->atom_array[i];
        if (!atom_is_free(atom) && !IS_FIXED(atom))
            JS_REF_COUNT(atom) += FIXED;
    }
}

// Nobody has to look at a promise's rejection, be it rejected already or not.
void engine_handle(JSContext *ctx, JSValueConst promise)
{
    js_promise_set_handled(ctx, promise);
}

// Has cycles looked for when half as much again as there is now was allocated, and not before `least` bytes were.
void engine_allow(JSRuntime *rt, size_t least)
{
    size_t size = rt->malloc_state.malloc_size;
    JS_SetGCThreshold(rt, size + (size / 2 > least ? size / 2 : least));
}

// Memory was refused. An instance to which that happened answers no other call.
bool engine_was_refused;

static void *seen(void *memory)
{
    engine_was_refused |= !memory;
    return memory;
}

static void *seen_calloc(void *opaque, size_t count, size_t size)
{
    return seen(js_def_calloc(opaque, count, size));
}

static void *seen_malloc(void *opaque, size_t size)
{
    return seen(js_def_malloc(opaque, size));
}

static void *seen_realloc(void *opaque, void *memory, size_t size)
{
    return seen(js_def_realloc(opaque, memory, size));
}

JSRuntime *engine_runtime(void)
{
    static const JSMallocFunctions functions = {seen_calloc, seen_malloc, js_def_free, seen_realloc, js__malloc_usable_size};
    return JS_NewRuntime2(&functions, NULL);
}
