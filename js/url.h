// URLs and the forms of their queries (URL Standard), by Ada, for the module "hearth:host".
#ifndef URL_H
#define URL_H

#include "quickjs.h"

// parseUrl(text, base): what the URL is when it is serialized, and then the offsets into that of the ends of its scheme (with
// the colon) and its user name, of the start and the end of its host, and of the starts of its path, its query and its fragment.
// What is not there has no characters between its offset and the next one. Undefined for what is no URL.
JSValue url_parse(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv);

// changeUrl(href, part, value): the same of a URL of which a setter of the class URL was given a value. Undefined where it
// changes nothing.
JSValue url_change(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv);

// parseForm(text): names and values in turn. The text may begin with a question mark, which is not part of it.
JSValue url_parse_form(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv);

// writeForm(list): the other way.
JSValue url_write_form(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv);

#endif
