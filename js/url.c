#include "url.h"

#include <stdlib.h>
#include <string.h>

#include "ada_c.h"
#include "host.h"

static JSValue string(JSContext *ctx, ada_string text)
{
    return JS_NewStringLen(ctx, text.data, text.length);
}

// Gives the URL back.
static JSValue described(JSContext *ctx, ada_url url)
{
    const ada_url_components *at = ada_get_components(url);
    ada_string href = ada_get_href(url);
    uint32_t end = (uint32_t)href.length;
    uint32_t hash = at->hash_start == ada_url_omitted ? end : at->hash_start;
    uint32_t search = at->search_start == ada_url_omitted ? hash : at->search_start;
    uint32_t host = at->host_start;
    // What stands before the host belongs to the credentials.
    if (host < at->host_end && href.data[host] == '@')
        host++;
    uint32_t offsets[] = {at->protocol_end, at->username_end, host, at->host_end, at->pathname_start, search, hash};
    JSValue list = JS_NewArray(ctx);
    uint32_t length = 0;
    host_push(ctx, list, &length, string(ctx, href));
    for (size_t i = 0; i < sizeof(offsets) / sizeof(*offsets); i++)
        host_push(ctx, list, &length, JS_NewInt32(ctx, (int32_t)offsets[i]));
    ada_free(url);
    return list;
}

static ada_url parsed(JSContext *ctx, javascript_string_t *text, JSValueConst base)
{
    if (JS_IsUndefined(base))
        return ada_parse((char *)text->ptr, text->len);
    javascript_string_t of_base;
    if (!host_string(ctx, base, &of_base))
        return NULL;
    ada_url url = ada_parse_with_base((char *)text->ptr, text->len, (char *)of_base.ptr, of_base.len);
    javascript_string_free(&of_base);
    return url;
}

JSValue url_parse(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    javascript_string_t text;
    if (!host_string(ctx, argv[0], &text))
        return JS_EXCEPTION;
    ada_url url = parsed(ctx, &text, argv[1]);
    javascript_string_free(&text);
    if (!url)
        return JS_EXCEPTION;
    if (ada_is_valid(url))
        return described(ctx, url);
    ada_free(url);
    return JS_UNDEFINED;
}

static bool change(ada_url url, const char *part, const char *text, size_t length)
{
    static const struct {
        const char *part;
        bool (*set)(ada_url, const char *, size_t);
        // Of those that always can.
        void (*put)(ada_url, const char *, size_t);
    } SETTERS[] = {
        {.part = "protocol", .set = ada_set_protocol}, {.part = "username", .set = ada_set_username},
        {.part = "password", .set = ada_set_password}, {.part = "host", .set = ada_set_host},
        {.part = "hostname", .set = ada_set_hostname}, {.part = "port", .set = ada_set_port},
        {.part = "pathname", .set = ada_set_pathname}, {.part = "search", .put = ada_set_search},
        {.part = "hash", .put = ada_set_hash},
    };
    for (size_t i = 0; i < sizeof(SETTERS) / sizeof(*SETTERS); i++) {
        if (strcmp(SETTERS[i].part, part) != 0)
            continue;
        if (SETTERS[i].set)
            return SETTERS[i].set(url, text, length);
        SETTERS[i].put(url, text, length);
        return true;
    }
    return false;
}

JSValue url_change(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    javascript_string_t href = {0}, value = {0};
    const char *part = JS_ToCString(ctx, argv[1]);
    JSValue result = JS_EXCEPTION;
    if (part && host_string(ctx, argv[0], &href) && host_string(ctx, argv[2], &value)) {
        ada_url url = ada_parse((char *)href.ptr, href.len);
        if (ada_is_valid(url) && change(url, part, (char *)value.ptr, value.len)) {
            result = described(ctx, url);
        } else {
            ada_free(url);
            result = JS_UNDEFINED;
        }
    }
    javascript_string_free(&href);
    javascript_string_free(&value);
    JS_FreeCString(ctx, part);
    return result;
}

JSValue url_parse_form(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    javascript_string_t text;
    if (!host_string(ctx, argv[0], &text))
        return JS_EXCEPTION;
    ada_url_search_params form = ada_parse_search_params((char *)text.ptr, text.len);
    ada_url_search_params_entries_iter entries = ada_search_params_get_entries(form);
    JSValue list = JS_NewArray(ctx);
    uint32_t length = 0;
    while (ada_search_params_entries_iter_has_next(entries)) {
        ada_string_pair pair = ada_search_params_entries_iter_next(entries);
        host_push(ctx, list, &length, string(ctx, pair.key));
        host_push(ctx, list, &length, string(ctx, pair.value));
    }
    ada_free_search_params_entries_iter(entries);
    ada_free_search_params(form);
    javascript_string_free(&text);
    return list;
}

JSValue url_write_form(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    int64_t length;
    if (JS_GetLength(ctx, argv[0], &length) < 0)
        return JS_EXCEPTION;
    ada_url_search_params form = ada_parse_search_params("", 0);
    bool is_well = true;
    for (uint32_t i = 0; is_well && i + 1 < length; i += 2) {
        javascript_string_t pair[2] = {0};
        for (uint32_t j = 0; is_well && j < 2; j++) {
            JSValue value = JS_GetPropertyUint32(ctx, argv[0], i + j);
            is_well = host_string(ctx, value, &pair[j]);
            JS_FreeValue(ctx, value);
        }
        if (is_well)
            ada_search_params_append(form, (char *)pair[0].ptr, pair[0].len, (char *)pair[1].ptr, pair[1].len);
        javascript_string_free(&pair[0]);
        javascript_string_free(&pair[1]);
    }
    JSValue result = JS_EXCEPTION;
    if (is_well) {
        ada_owned_string text = ada_search_params_to_string(form);
        result = JS_NewStringLen(ctx, text.data, text.length);
        ada_free_owned_string(text);
    }
    ada_free_search_params(form);
    return result;
}
