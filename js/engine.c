// QuickJS-ng as it is, but for two things: its bound on recursion, which it leaves out on WASI (without it a deep recursion is a
// trap, which no program can catch, and no RangeError), and the asynchronous context of its jobs, which the build writes into
// quickjs.c (crates/test-guests/src/environment.rs).
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
