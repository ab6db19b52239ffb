#include "press.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

// Bytes of one piece that comes out: what is compressed to little cannot take all memory at once.
#define PIECE 65536

struct pressing {
    z_stream z;
    bool is_inflating, is_gzip, is_all, has_ended;
    // A copy of what was fed last.
    uint8_t *input;
};

static JSClassID class;

static void finalize(JSRuntime *runtime, JSValueConst value)
{
    struct pressing *pressing = JS_GetOpaque(value, class);
    if (!pressing)
        return;
    if (pressing->is_inflating)
        inflateEnd(&pressing->z);
    else
        deflateEnd(&pressing->z);
    free(pressing->input);
    free(pressing);
}

void press_class(JSContext *ctx)
{
    JSRuntime *runtime = JS_GetRuntime(ctx);
    JS_NewClassID(runtime, &class);
    JS_NewClass(runtime, class, &(JSClassDef){.class_name = "Pressing", .finalizer = finalize});
}

JSValue press_new(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    const char *format = JS_ToCString(ctx, argv[0]);
    if (!format)
        return JS_EXCEPTION;
    bool is_gzip = strcmp(format, "gzip") == 0;
    int bits = is_gzip ? MAX_WBITS + 16 : strcmp(format, "deflate-raw") == 0 ? -MAX_WBITS : MAX_WBITS;
    JS_FreeCString(ctx, format);
    struct pressing *pressing = calloc(1, sizeof(*pressing));
    if (!pressing)
        return JS_ThrowOutOfMemory(ctx);
    pressing->is_inflating = JS_ToBool(ctx, argv[1]);
    pressing->is_gzip = is_gzip;
    int result = pressing->is_inflating ? inflateInit2(&pressing->z, bits)
                                        : deflateInit2(&pressing->z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, bits, 8, Z_DEFAULT_STRATEGY);
    JSValue object = result == Z_OK ? JS_NewObjectProtoClass(ctx, JS_NULL, class) : JS_ThrowOutOfMemory(ctx);
    if (JS_IsException(object))
        free(pressing);
    else
        JS_SetOpaque(object, pressing);
    return object;
}

JSValue press_feed(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    struct pressing *pressing = JS_GetOpaque2(ctx, argv[0], class);
    if (!pressing)
        return JS_EXCEPTION;
    free(pressing->input);
    pressing->input = NULL;
    pressing->z.avail_in = 0;
    if (JS_IsNull(argv[1])) {
        pressing->is_all = true;
        return JS_UNDEFINED;
    }
    size_t length;
    uint8_t *bytes = JS_GetUint8Array(ctx, &length, argv[1]);
    if (!bytes)
        return JS_EXCEPTION;
    if (length > 0 && pressing->has_ended && !pressing->is_gzip)
        return JS_ThrowTypeError(ctx, "there is more behind the end of the compressed data");
    pressing->input = malloc(length + 1);
    if (!pressing->input)
        return JS_ThrowOutOfMemory(ctx);
    memcpy(pressing->input, bytes, length);
    pressing->z.next_in = pressing->input;
    pressing->z.avail_in = (uInt)length;
    return JS_UNDEFINED;
}

static void *give_back(JSRuntime *runtime, void *opaque, void *bytes, size_t length)
{
    if (length > 0)
        return realloc(bytes, length);
    free(bytes);
    return NULL;
}

JSValue press_next(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    struct pressing *pressing = JS_GetOpaque2(ctx, argv[0], class);
    if (!pressing)
        return JS_EXCEPTION;
    z_stream *z = &pressing->z;
    // In gzip another member may follow.
    if (pressing->has_ended && pressing->is_inflating && z->avail_in > 0) {
        if (!pressing->is_gzip)
            return JS_ThrowTypeError(ctx, "there is more behind the end of the compressed data");
        inflateReset(z);
        pressing->has_ended = false;
    }
    if (pressing->has_ended)
        return JS_NULL;
    uint8_t *piece = malloc(PIECE);
    if (!piece)
        return JS_ThrowOutOfMemory(ctx);
    z->next_out = piece;
    z->avail_out = PIECE;
    int result = pressing->is_inflating ? inflate(z, Z_NO_FLUSH) : deflate(z, pressing->is_all ? Z_FINISH : Z_NO_FLUSH);
    pressing->has_ended = result == Z_STREAM_END;
    size_t length = PIECE - z->avail_out;
    bool is_wrong = result != Z_OK && result != Z_STREAM_END && result != Z_BUF_ERROR;
    if (length > 0 && !is_wrong) {
        uint8_t *smaller = realloc(piece, length);
        return JS_NewUint8Array(ctx, smaller ? smaller : piece, length, give_back, NULL, false);
    }
    free(piece);
    if (result == Z_MEM_ERROR)
        return JS_ThrowOutOfMemory(ctx);
    if (is_wrong)
        return JS_ThrowTypeError(ctx, "the data is not compressed as it should be%s%s", z->msg ? ": " : "", z->msg ? z->msg : "");
    if (pressing->is_inflating && pressing->is_all && !pressing->has_ended)
        return JS_ThrowTypeError(ctx, "the compressed data ends early");
    return JS_NULL;
}
