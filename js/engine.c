// QuickJS-ng as it is, but for one thing: its bound on recursion, which it leaves out on WASI. Without it a deep recursion is a
// trap, which no program can catch, and no RangeError.
#define _GNU_SOURCE
// What these headers choose for WASI (no threads) is right.
#include "cutils.h"
#include "libregexp.h"
#include "quickjs.h"

#undef __wasi__
#define __STDC_NO_ATOMICS__ 1
#include "quickjs.c"
