// QuickJS-ng as it is, but for three things: its bound on recursion, which it leaves out on WASI (without it a deep recursion is a
// trap, which no program can catch, and no RangeError); the asynchronous context of its jobs, which the build writes into
// quickjs.c (crates/test-guests/src/environment.rs); and that it notes when memory is refused.
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

#include "quickjs.c"

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
