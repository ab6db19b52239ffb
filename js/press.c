#include "press.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

// Bytes of one piece that comes out: what is compressed to little cannot take all memory at once.
#define PIECE 65536

struct pressing {
    z_stream z;
    bool is_inflating, is_gzip, is_all, has_ended;
    // What stands behind the end and is no other member is left unread, as HTTP clients do.
    bool is_lenient, is_over;
    // Of the member that is read, where it is not the first.
    bool is_later;
    gz_header head;
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
    pressing->is_lenient = JS_ToBool(ctx, argv[2]);
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
    if (pressing->is_over)
        return JS_UNDEFINED;
    pressing->input = malloc(length + 1);
    if (!pressing->input)
        return JS_ThrowOutOfMemory(ctx);
    memcpy(pressing->input, bytes, length);
    pressing->z.next_in = pressing->input;
    pressing->z.avail_in = (uInt)length;
    return JS_UNDEFINED;
}

// Whether what is read may be something else than another member.
static bool is_perhaps_none(struct pressing *pressing)
{
    return pressing->is_lenient && pressing->is_later && pressing->head.done != 1;
}

static void end(struct pressing *pressing)
{
    pressing->z.avail_in = 0;
    pressing->has_ended = true;
    pressing->is_over = true;
}

// Goes on behind the end, where in gzip another member may follow.
static bool begin_member(struct pressing *pressing)
{
    if (!pressing->is_gzip) {
        if (pressing->is_lenient)
            end(pressing);
        return false;
    }
    inflateReset(&pressing->z);
    pressing->head = (gz_header){0};
    inflateGetHeader(&pressing->z, &pressing->head);
    pressing->is_later = true;
    pressing->has_ended = false;
    return true;
}

JSValue press_next(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    struct pressing *pressing = JS_GetOpaque2(ctx, argv[0], class);
    if (!pressing)
        return JS_EXCEPTION;
    z_stream *z = &pressing->z;
    uint8_t *piece = malloc(PIECE);
    if (!piece)
        return JS_ThrowOutOfMemory(ctx);
    int result = Z_OK;
    z->avail_out = PIECE;
    // The end of a member may give nothing, and more may be behind it.
    while (z->avail_out == PIECE && (!pressing->has_ended || z->avail_in > 0)) {
        if (pressing->has_ended && !begin_member(pressing)) {
            if (pressing->is_over)
                break;
            free(piece);
            return JS_ThrowTypeError(ctx, "there is more behind the end of the compressed data");
        }
        z->next_out = piece;
        result = pressing->is_inflating ? inflate(z, Z_NO_FLUSH) : deflate(z, pressing->is_all ? Z_FINISH : Z_NO_FLUSH);
        pressing->has_ended = result == Z_STREAM_END;
        if (result == Z_DATA_ERROR && is_perhaps_none(pressing)) {
            end(pressing);
            result = Z_OK;
        }
        if (!pressing->has_ended)
            break;
    }
    bool is_wrong = result != Z_OK && result != Z_STREAM_END && result != Z_BUF_ERROR;
    size_t length = PIECE - z->avail_out;
    if (length > 0 && !is_wrong) {
        uint8_t *smaller = realloc(piece, length);
        return JS_NewUint8Array(ctx, smaller ? smaller : piece, length, host_give_back, NULL, false);
    }
    free(piece);
    if (result == Z_MEM_ERROR)
        return JS_ThrowOutOfMemory(ctx);
    if (is_wrong)
        return JS_ThrowTypeError(ctx, "the data is not compressed as it should be%s%s", z->msg ? ": " : "", z->msg ? z->msg : "");
    if (pressing->is_inflating && pressing->is_all && !pressing->has_ended && !is_perhaps_none(pressing))
        return JS_ThrowTypeError(ctx, "the compressed data ends early");
    return JS_NULL;
}
