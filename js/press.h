// Compressed data: gzip, zlib and raw deflate, both ways, by zlib.
#ifndef PRESS_H
#define PRESS_H

#include "host.h"

// Once, before the others.
void press_class(JSContext *ctx);

// pressing(format, isInflating): what is compressed or decompressed piece by piece.
JSValue press_new(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv);
// feed(pressing, bytes): what comes next; null when all came.
JSValue press_feed(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv);
// press(pressing): some of what comes out; null where more has to be fed, or nothing is left.
JSValue press_next(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv);

#endif
