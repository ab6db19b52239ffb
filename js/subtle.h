// Digests, ciphers, signatures and keys (what crypto.subtle is made of), by BoringSSL, for the module "hearth:host". Digests are
// named as the Web Cryptography API has them ("SHA-256"), bytes are Uint8Arrays. What cannot be done gives undefined; why is not
// told, as that helps who guesses keys.
#ifndef SUBTLE_H
#define SUBTLE_H

#include "host.h"

// Once, before the others.
void subtle_class(JSContext *ctx);

// digest(hash, bytes)
JSValue subtle_digest(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv);
// hmac(hash, key, bytes)
JSValue subtle_hmac(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv);
// hkdf(hash, secret, salt, info, length)
JSValue subtle_hkdf(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv);
// pbkdf2(hash, password, salt, iterations, length)
JSValue subtle_pbkdf2(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv);
// cipher(mode, isEncrypting, key, iv, bytes, additional, number): AES in the mode "CBC", "CTR", "GCM" or "KW". The number is how
// many bits of the block count in CTR, how many bytes the tag has in GCM.
JSValue subtle_cipher(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv);

// A pair is of a kind: "RSA", "P-256", "P-384", "P-521", "Ed25519" or "X25519". It may have its public half alone.
// makeKey(kind, bits, exponent): a new pair; the numbers are RSA's.
JSValue subtle_make_key(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv);
// readKey(format, bytes): the pair that is written as "spki" or "pkcs8".
JSValue subtle_read_key(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv);
// writeKey(format, pair)
JSValue subtle_write_key(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv);
// keyOf(kind, parts): the pair with these members of a JSON Web Key: n, e and d, p, q, dp, dq, qi of RSA; x, y and d of a curve,
// or its point alone; x and d of the others.
JSValue subtle_key_of(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv);
// keyParts(pair, isPrivate): those members.
JSValue subtle_key_parts(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv);
// keyKind(pair): its kind, and RSA's bits and exponent.
JSValue subtle_key_kind(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv);

// sign(algorithm, hash, salt, pair, bytes): "RSASSA-PKCS1-v1_5", "RSA-PSS" with so many bytes of salt, "ECDSA" or "Ed25519", which
// has no hash.
JSValue subtle_sign(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv);
// verify(algorithm, hash, salt, pair, signature, bytes): whether it is one.
JSValue subtle_verify(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv);
// agree(pair, other): the secret that two pairs have.
JSValue subtle_agree(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv);
// oaep(isEncrypting, hash, pair, label, bytes)
JSValue subtle_oaep(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv);

#endif
