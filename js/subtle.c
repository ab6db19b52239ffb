#include "subtle.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/aead.h>
#include <openssl/aes.h>
#include <openssl/bn.h>
#include <openssl/bytestring.h>
#include <openssl/cipher.h>
#include <openssl/digest.h>
#include <openssl/ec.h>
#include <openssl/ec_key.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hkdf.h>
#include <openssl/hmac.h>
#include <openssl/mem.h>
#include <openssl/nid.h>
#include <openssl/rsa.h>

// Bytes of a coordinate of the largest curve.
#define COORDINATE_MAX 66
#define BLOCK AES_BLOCK_SIZE

struct bytes {
    const uint8_t *at;
    size_t length;
};

// Bytes of an argument, which stay where they are while no JavaScript runs. False when it threw.
static bool bytes_of(JSContext *ctx, JSValueConst value, struct bytes *to)
{
    to->at = JS_GetUint8Array(ctx, &to->length, value);
    if (to->at)
        return true;
    if (JS_HasException(ctx))
        return false;
    // An array of nothing may be nowhere.
    *to = (struct bytes){.at = (const uint8_t *)""};
    return true;
}

// A name of an argument; the empty one when it threw.
struct name {
    char text[24];
};

static struct name name_of(JSContext *ctx, JSValueConst value)
{
    struct name name = {0};
    const char *text = JS_ToCString(ctx, value);
    if (text && strlen(text) < sizeof(name.text))
        strcpy(name.text, text);
    JS_FreeCString(ctx, text);
    return name;
}

static bool is(struct name name, const char *text)
{
    return strcmp(name.text, text) == 0;
}

// What nobody can do. The library's own reasons are forgotten.
static JSValue refused(void)
{
    ERR_clear_error();
    return JS_UNDEFINED;
}

static JSValue copied(JSContext *ctx, const uint8_t *bytes, size_t length)
{
    return JS_NewArrayBufferCopy(ctx, bytes, length);
}

// The ArrayBuffer over the first of some bytes of malloc's.
static JSValue given(JSContext *ctx, uint8_t *bytes, size_t length)
{
    uint8_t *smaller = realloc(bytes, length + 1);
    return JS_NewArrayBuffer(ctx, smaller ? smaller : bytes, length, 0, host_give_back, NULL, false);
}

// What the library seeds its generator with, and mixes into all that it takes of that. In place of wasi-libc's, which imports
// preview 1. Nothing is random before the snapshot is made: there is no host then, and asking it is a trap.
int getentropy(void *buffer, size_t length)
{
    javascript_list_u8_t random;
    wasi_random_random_get_random_bytes(length, &random);
    memcpy(buffer, random.ptr, length);
    javascript_list_u8_free(&random);
    return 0;
}

// Digests and what is made of them.

static const EVP_MD *digest_of(JSContext *ctx, JSValueConst value)
{
    struct name name = name_of(ctx, value);
    return is(name, "SHA-1") ? EVP_sha1() : is(name, "SHA-256") ? EVP_sha256() : is(name, "SHA-384") ? EVP_sha384() : EVP_sha512();
}

JSValue subtle_digest(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    struct bytes bytes;
    if (!bytes_of(ctx, argv[1], &bytes))
        return JS_EXCEPTION;
    uint8_t out[EVP_MAX_MD_SIZE];
    unsigned length;
    if (!EVP_Digest(bytes.at, bytes.length, out, &length, digest_of(ctx, argv[0]), NULL))
        return refused();
    return copied(ctx, out, length);
}

JSValue subtle_hmac(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    struct bytes key, bytes;
    if (!bytes_of(ctx, argv[1], &key) || !bytes_of(ctx, argv[2], &bytes))
        return JS_EXCEPTION;
    uint8_t out[EVP_MAX_MD_SIZE];
    unsigned length;
    if (!HMAC(digest_of(ctx, argv[0]), key.at, key.length, bytes.at, bytes.length, out, &length))
        return refused();
    return copied(ctx, out, length);
}

JSValue subtle_hkdf(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    struct bytes secret, salt, info;
    uint32_t length;
    if (!bytes_of(ctx, argv[1], &secret) || !bytes_of(ctx, argv[2], &salt) || !bytes_of(ctx, argv[3], &info) ||
        JS_ToUint32(ctx, &length, argv[4]) < 0)
        return JS_EXCEPTION;
    const EVP_MD *md = digest_of(ctx, argv[0]);
    if (length > 255 * EVP_MD_size(md))
        return JS_UNDEFINED;
    uint8_t *out = malloc((size_t)length + 1);
    if (!out)
        return JS_ThrowOutOfMemory(ctx);
    if (HKDF(out, length, md, secret.at, secret.length, salt.at, salt.length, info.at, info.length))
        return given(ctx, out, length);
    free(out);
    return refused();
}

JSValue subtle_pbkdf2(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    struct bytes password, salt;
    uint32_t iterations, length;
    if (!bytes_of(ctx, argv[1], &password) || !bytes_of(ctx, argv[2], &salt) || JS_ToUint32(ctx, &iterations, argv[3]) < 0 ||
        JS_ToUint32(ctx, &length, argv[4]) < 0)
        return JS_EXCEPTION;
    uint8_t *out = malloc((size_t)length + 1);
    if (!out)
        return JS_ThrowOutOfMemory(ctx);
    const EVP_MD *md = digest_of(ctx, argv[0]);
    if (PKCS5_PBKDF2_HMAC((const char *)password.at, password.length, salt.at, salt.length, iterations, md, length, out))
        return given(ctx, out, length);
    free(out);
    return refused();
}

// AES.

static const EVP_AEAD *gcm_of(size_t key_length)
{
    return key_length == 16 ? EVP_aead_aes_128_gcm() : key_length == 24 ? EVP_aead_aes_192_gcm() : EVP_aead_aes_256_gcm();
}

static const EVP_CIPHER *cbc_of(size_t key_length)
{
    return key_length == 16 ? EVP_aes_128_cbc() : key_length == 24 ? EVP_aes_192_cbc() : EVP_aes_256_cbc();
}

static const EVP_CIPHER *ctr_of(size_t key_length)
{
    return key_length == 16 ? EVP_aes_128_ctr() : key_length == 24 ? EVP_aes_192_ctr() : EVP_aes_256_ctr();
}

// What is done with some bytes. `out` has room for two blocks more.
struct work {
    bool is_encrypting;
    struct bytes key, iv, in, additional;
    uint32_t number;
    uint8_t *out;
    size_t length;
};

static bool run(struct work *work, const EVP_CIPHER *cipher, const uint8_t *iv, size_t from, size_t length)
{
    EVP_CIPHER_CTX context;
    EVP_CIPHER_CTX_init(&context);
    int made = 0, rest = 0;
    bool is_done = EVP_CipherInit_ex(&context, cipher, NULL, work->key.at, iv, work->is_encrypting) &&
                   EVP_CipherUpdate(&context, work->out + from, &made, work->in.at + from, (int)length) &&
                   EVP_CipherFinal_ex(&context, work->out + from + made, &rest);
    EVP_CIPHER_CTX_cleanup(&context);
    work->length += made + rest;
    return is_done;
}

static bool cbc(struct work *work)
{
    return run(work, cbc_of(work->key.length), work->iv.at, 0, work->in.length);
}

// The last bits of the first block count; when they are used up they begin at 0 again, and those before them stay. The library
// counts with all bits, so that it is called a second time then.
static bool ctr(struct work *work)
{
    unsigned __int128 counter = 0, one = 1;
    for (int i = 0; i < BLOCK; i++)
        counter = counter << 8 | work->iv.at[i];
    unsigned __int128 mask = work->number == 128 ? ~(unsigned __int128)0 : (one << work->number) - 1;
    unsigned __int128 blocks = (work->in.length + BLOCK - 1) / BLOCK, left = ~counter & mask;
    // A counter must not come twice.
    if (blocks > 0 && blocks - 1 > mask)
        return false;
    size_t first = blocks > 0 && blocks - 1 > left ? (size_t)(left + 1) * BLOCK : work->in.length;
    const EVP_CIPHER *cipher = ctr_of(work->key.length);
    if (!run(work, cipher, work->iv.at, 0, first))
        return false;
    if (first == work->in.length)
        return true;
    uint8_t second[BLOCK];
    counter &= ~mask;
    for (int i = 0; i < BLOCK; i++)
        second[i] = (uint8_t)(counter >> 8 * (BLOCK - 1 - i));
    return run(work, cipher, second, first, work->in.length - first);
}

static bool gcm(struct work *work)
{
    EVP_AEAD_CTX context;
    if (!EVP_AEAD_CTX_init(&context, gcm_of(work->key.length), work->key.at, work->key.length, work->number, NULL))
        return false;
    bool is_done = (work->is_encrypting ? EVP_AEAD_CTX_seal : EVP_AEAD_CTX_open)(
        &context, work->out, &work->length, work->in.length + 2 * BLOCK, work->iv.at, work->iv.length, work->in.at, work->in.length,
        work->additional.at, work->additional.length);
    EVP_AEAD_CTX_cleanup(&context);
    return is_done;
}

static bool wrap(struct work *work)
{
    AES_KEY key;
    unsigned bits = (unsigned)(8 * work->key.length);
    if ((work->is_encrypting ? AES_set_encrypt_key : AES_set_decrypt_key)(work->key.at, bits, &key) != 0)
        return false;
    int made = (work->is_encrypting ? AES_wrap_key : AES_unwrap_key)(&key, NULL, work->out, work->in.at, work->in.length);
    work->length = made > 0 ? (size_t)made : 0;
    return made > 0;
}

JSValue subtle_cipher(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    struct name mode = name_of(ctx, argv[0]);
    struct work work = {.is_encrypting = JS_ToBool(ctx, argv[1])};
    if (!bytes_of(ctx, argv[2], &work.key) || !bytes_of(ctx, argv[3], &work.iv) || !bytes_of(ctx, argv[4], &work.in) ||
        !bytes_of(ctx, argv[5], &work.additional) || JS_ToUint32(ctx, &work.number, argv[6]) < 0)
        return JS_EXCEPTION;
    work.out = malloc(work.in.length + 2 * BLOCK);
    if (!work.out)
        return JS_ThrowOutOfMemory(ctx);
    if ((is(mode, "CBC") ? cbc : is(mode, "CTR") ? ctr : is(mode, "GCM") ? gcm : wrap)(&work))
        return given(ctx, work.out, work.length);
    free(work.out);
    return refused();
}

// Pairs.

static JSClassID class;

static void finalize(JSRuntime *runtime, JSValueConst value)
{
    EVP_PKEY_free(JS_GetOpaque(value, class));
}

void subtle_class(JSContext *ctx)
{
    JSRuntime *runtime = JS_GetRuntime(ctx);
    JS_NewClassID(runtime, &class);
    JS_NewClass(runtime, class, &(JSClassDef){.class_name = "KeyPair", .finalizer = finalize});
}

// The object that holds a pair from now on. NULL is none.
static JSValue held(JSContext *ctx, EVP_PKEY *pair)
{
    if (!pair)
        return refused();
    JSValue object = JS_NewObjectProtoClass(ctx, JS_NULL, class);
    if (JS_IsException(object))
        EVP_PKEY_free(pair);
    else
        JS_SetOpaque(object, pair);
    return object;
}

static EVP_PKEY *pair_of(JSContext *ctx, JSValueConst value)
{
    return JS_GetOpaque2(ctx, value, class);
}

static const EVP_PKEY_ALG *algorithm_named(struct name kind)
{
    return is(kind, "Ed25519") ? EVP_pkey_ed25519() : EVP_pkey_x25519();
}

static int curve_named(struct name name)
{
    return is(name, "P-256") ? NID_X9_62_prime256v1 : is(name, "P-384") ? NID_secp384r1 : is(name, "P-521") ? NID_secp521r1 : NID_undef;
}

static int curve_of(const EVP_PKEY *pair)
{
    return EC_GROUP_get_curve_name(EC_KEY_get0_group(EVP_PKEY_get0_EC_KEY(pair)));
}

// Bytes of a coordinate, and of a number below the order.
static size_t coordinate_length(const EVP_PKEY *pair)
{
    return (EC_GROUP_get_degree(EC_KEY_get0_group(EVP_PKEY_get0_EC_KEY(pair))) + 7) / 8;
}

static const char *kind_of(const EVP_PKEY *pair)
{
    switch (EVP_PKEY_id(pair)) {
    case EVP_PKEY_RSA:
        return "RSA";
    case EVP_PKEY_ED25519:
        return "Ed25519";
    case EVP_PKEY_X25519:
        return "X25519";
    case EVP_PKEY_EC:
        switch (curve_of(pair)) {
        case NID_X9_62_prime256v1:
            return "P-256";
        case NID_secp384r1:
            return "P-384";
        case NID_secp521r1:
            return "P-521";
        }
    }
    return "another kind";
}

// A pair of what one of the library's own is made of, which it takes. NULL where there is none.
static EVP_PKEY *pair_with(RSA *rsa, EC_KEY *ec)
{
    EVP_PKEY *pair = rsa || ec ? EVP_PKEY_new() : NULL;
    if (pair && (rsa ? EVP_PKEY_assign_RSA(pair, rsa) : EVP_PKEY_assign_EC_KEY(pair, ec)))
        return pair;
    EVP_PKEY_free(pair);
    RSA_free(rsa);
    EC_KEY_free(ec);
    return NULL;
}

static RSA *make_rsa(uint32_t bits, uint32_t exponent)
{
    RSA *rsa = RSA_new();
    BIGNUM *e = BN_new();
    // The library makes some lengths a bit shorter.
    bool is_made = rsa && e && BN_set_word(e, exponent) && RSA_generate_key_ex(rsa, (int)bits, e, NULL) && RSA_bits(rsa) == bits;
    BN_free(e);
    if (is_made)
        return rsa;
    RSA_free(rsa);
    return NULL;
}

static EC_KEY *make_ec(int curve)
{
    EC_KEY *ec = EC_KEY_new_by_curve_name(curve);
    if (ec && EC_KEY_generate_key(ec))
        return ec;
    EC_KEY_free(ec);
    return NULL;
}

JSValue subtle_make_key(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    struct name kind = name_of(ctx, argv[0]);
    uint32_t bits, exponent;
    if (JS_ToUint32(ctx, &bits, argv[1]) < 0 || JS_ToUint32(ctx, &exponent, argv[2]) < 0)
        return JS_EXCEPTION;
    if (is(kind, "RSA"))
        return held(ctx, pair_with(bits <= INT32_MAX ? make_rsa(bits, exponent) : NULL, NULL));
    if (curve_named(kind) != NID_undef)
        return held(ctx, pair_with(NULL, make_ec(curve_named(kind))));
    uint8_t secret[32];
    getentropy(secret, sizeof(secret));
    return held(ctx, EVP_PKEY_from_raw_private_key(algorithm_named(kind), secret, sizeof(secret)));
}

JSValue subtle_read_key(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    struct name format = name_of(ctx, argv[0]);
    struct bytes bytes;
    if (!bytes_of(ctx, argv[1], &bytes))
        return JS_EXCEPTION;
    // The library's own list has more, all of which would be in the component.
    const EVP_PKEY_ALG *algorithms[] = {EVP_pkey_rsa(),        EVP_pkey_ec_p256(), EVP_pkey_ec_p384(),
                                        EVP_pkey_ec_p521(), EVP_pkey_ed25519(), EVP_pkey_x25519()};
    size_t count = sizeof(algorithms) / sizeof(*algorithms);
    if (is(format, "spki"))
        return held(ctx, EVP_PKEY_from_subject_public_key_info(bytes.at, bytes.length, algorithms, count));
    return held(ctx, EVP_PKEY_from_private_key_info(bytes.at, bytes.length, algorithms, count));
}

JSValue subtle_write_key(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    struct name format = name_of(ctx, argv[0]);
    EVP_PKEY *pair = pair_of(ctx, argv[1]);
    if (!pair)
        return JS_EXCEPTION;
    CBB out;
    uint8_t *bytes;
    size_t length;
    if (!CBB_init(&out, 256) || !(is(format, "spki") ? EVP_marshal_public_key : EVP_marshal_private_key)(&out, pair) ||
        !CBB_finish(&out, &bytes, &length)) {
        CBB_cleanup(&out);
        return refused();
    }
    JSValue result = copied(ctx, bytes, length);
    OPENSSL_free(bytes);
    return result;
}

// A pair from the members of a JSON Web Key.

#define PARTS_MAX 8

static RSA *rsa_of(const struct bytes *parts, int count)
{
    BIGNUM *numbers[PARTS_MAX] = {0};
    bool is_well = count == 2 || count == PARTS_MAX;
    for (int i = 0; i < count && is_well; i++)
        is_well = (numbers[i] = BN_bin2bn(parts[i].at, parts[i].length, NULL));
    RSA *rsa = NULL;
    if (is_well && count == 2)
        rsa = RSA_new_public_key(numbers[0], numbers[1]);
    else if (is_well)
        rsa = RSA_new_private_key(numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6], numbers[7]);
    for (int i = 0; i < PARTS_MAX; i++)
        BN_clear_free(numbers[i]);
    return rsa;
}

static EC_KEY *ec_of(int curve, const struct bytes *parts, int count)
{
    EC_KEY *ec = EC_KEY_new_by_curve_name(curve);
    if (!ec)
        return NULL;
    bool is_well;
    if (count == 1) {
        is_well = EC_KEY_oct2key(ec, parts[0].at, parts[0].length, NULL);
    } else {
        size_t length = (EC_GROUP_get_degree(EC_KEY_get0_group(ec)) + 7) / 8;
        uint8_t point[1 + 2 * COORDINATE_MAX] = {POINT_CONVERSION_UNCOMPRESSED};
        is_well = parts[0].length == length && parts[1].length == length;
        if (is_well) {
            memcpy(point + 1, parts[0].at, length);
            memcpy(point + 1 + length, parts[1].at, length);
            is_well = EC_KEY_oct2key(ec, point, 1 + 2 * length, NULL);
        }
        if (count == 3)
            is_well = is_well && EC_KEY_oct2priv(ec, parts[2].at, parts[2].length) && EC_KEY_check_key(ec);
    }
    if (is_well)
        return ec;
    EC_KEY_free(ec);
    return NULL;
}

static EVP_PKEY *raw_of(const EVP_PKEY_ALG *algorithm, const struct bytes *parts, int count)
{
    if (count == 1)
        return EVP_PKEY_from_raw_public_key(algorithm, parts[0].at, parts[0].length);
    EVP_PKEY *pair = EVP_PKEY_from_raw_private_key(algorithm, parts[1].at, parts[1].length);
    uint8_t public[32];
    size_t length = sizeof(public);
    if (pair && EVP_PKEY_get_raw_public_key(pair, public, &length) && length == parts[0].length && memcmp(public, parts[0].at, length) == 0)
        return pair;
    EVP_PKEY_free(pair);
    return NULL;
}

JSValue subtle_key_of(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    struct name kind = name_of(ctx, argv[0]);
    int64_t count;
    if (JS_GetLength(ctx, argv[1], &count) < 0)
        return JS_EXCEPTION;
    struct bytes parts[PARTS_MAX] = {0};
    if (count > PARTS_MAX)
        count = PARTS_MAX;
    for (int i = 0; i < count; i++) {
        JSValue part = JS_GetPropertyUint32(ctx, argv[1], i);
        bool is_well = bytes_of(ctx, part, &parts[i]);
        // The array keeps it.
        JS_FreeValue(ctx, part);
        if (!is_well)
            return JS_EXCEPTION;
    }
    if (is(kind, "RSA"))
        return held(ctx, pair_with(rsa_of(parts, (int)count), NULL));
    if (curve_named(kind) != NID_undef)
        return held(ctx, pair_with(NULL, ec_of(curve_named(kind), parts, (int)count)));
    return held(ctx, raw_of(algorithm_named(kind), parts, (int)count));
}

static void push_bytes(JSContext *ctx, JSValue list, uint32_t *count, const uint8_t *bytes, size_t length)
{
    host_push(ctx, list, count, JS_NewUint8ArrayCopy(ctx, bytes, length));
}

// Without zeros before it, or where a length is given with as many as that takes.
static void push_number(JSContext *ctx, JSValue list, uint32_t *count, const BIGNUM *number, size_t length)
{
    uint8_t bytes[OPENSSL_RSA_MAX_MODULUS_BITS / 8];
    if (length == 0)
        length = BN_num_bytes(number);
    if (length <= sizeof(bytes) && BN_bn2bin_padded(bytes, length, number))
        push_bytes(ctx, list, count, bytes, length);
}

JSValue subtle_key_parts(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    EVP_PKEY *pair = pair_of(ctx, argv[0]);
    if (!pair)
        return JS_EXCEPTION;
    bool is_private = JS_ToBool(ctx, argv[1]);
    JSValue list = JS_NewArray(ctx);
    uint32_t count = 0;
    if (EVP_PKEY_id(pair) == EVP_PKEY_RSA) {
        const RSA *rsa = EVP_PKEY_get0_RSA(pair);
        const BIGNUM *numbers[] = {RSA_get0_n(rsa), RSA_get0_e(rsa),    RSA_get0_d(rsa),    RSA_get0_p(rsa),
                                   RSA_get0_q(rsa), RSA_get0_dmp1(rsa), RSA_get0_dmq1(rsa), RSA_get0_iqmp(rsa)};
        for (int i = 0; i < (is_private ? PARTS_MAX : 2); i++)
            push_number(ctx, list, &count, numbers[i], 0);
    } else if (EVP_PKEY_id(pair) == EVP_PKEY_EC) {
        const EC_KEY *ec = EVP_PKEY_get0_EC_KEY(pair);
        size_t length = coordinate_length(pair);
        const EC_POINT *public = EC_KEY_get0_public_key(ec);
        uint8_t point[1 + 2 * COORDINATE_MAX];
        if (EC_POINT_point2oct(EC_KEY_get0_group(ec), public, POINT_CONVERSION_UNCOMPRESSED, point, sizeof(point), NULL)) {
            push_bytes(ctx, list, &count, point + 1, length);
            push_bytes(ctx, list, &count, point + 1 + length, length);
        }
        if (is_private)
            push_number(ctx, list, &count, EC_KEY_get0_private_key(ec), length);
    } else {
        uint8_t bytes[32];
        size_t length = sizeof(bytes);
        if (EVP_PKEY_get_raw_public_key(pair, bytes, &length))
            push_bytes(ctx, list, &count, bytes, length);
        if (is_private && EVP_PKEY_get_raw_private_key(pair, bytes, &length))
            push_bytes(ctx, list, &count, bytes, length);
    }
    return list;
}

JSValue subtle_key_kind(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    EVP_PKEY *pair = pair_of(ctx, argv[0]);
    if (!pair)
        return JS_EXCEPTION;
    JSValue list = JS_NewArray(ctx);
    uint32_t count = 0;
    host_push(ctx, list, &count, JS_NewString(ctx, kind_of(pair)));
    if (EVP_PKEY_id(pair) == EVP_PKEY_RSA) {
        host_push(ctx, list, &count, JS_NewInt32(ctx, EVP_PKEY_bits(pair)));
        push_number(ctx, list, &count, RSA_get0_e(EVP_PKEY_get0_RSA(pair)), 0);
    }
    return list;
}

// What pairs do.

// r and s of ECDSA, each as long as the order.
static bool sign_ec(const EC_KEY *ec, const uint8_t *digest, size_t digest_length, size_t length, uint8_t *out)
{
    ECDSA_SIG *made = ECDSA_do_sign(digest, digest_length, ec);
    if (!made)
        return false;
    const BIGNUM *r, *s;
    ECDSA_SIG_get0(made, &r, &s);
    bool is_done = BN_bn2bin_padded(out, length, r) && BN_bn2bin_padded(out + length, length, s);
    ECDSA_SIG_free(made);
    return is_done;
}

static bool verify_ec(const EC_KEY *ec, const uint8_t *digest, size_t digest_length, size_t length, struct bytes signature)
{
    if (signature.length != 2 * length)
        return false;
    ECDSA_SIG *made = ECDSA_SIG_new();
    BIGNUM *r = BN_bin2bn(signature.at, length, NULL), *s = BN_bin2bn(signature.at + length, length, NULL);
    bool is_set = made && r && s && ECDSA_SIG_set0(made, r, s);
    bool is_one = is_set && ECDSA_do_verify(digest, digest_length, made, ec);
    if (!is_set) {
        BN_free(r);
        BN_free(s);
    }
    ECDSA_SIG_free(made);
    return is_one;
}

JSValue subtle_sign(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    struct name algorithm = name_of(ctx, argv[0]);
    uint32_t salt;
    EVP_PKEY *pair = pair_of(ctx, argv[3]);
    struct bytes bytes;
    if (!pair || JS_ToUint32(ctx, &salt, argv[2]) < 0 || !bytes_of(ctx, argv[4], &bytes))
        return JS_EXCEPTION;
    uint8_t out[OPENSSL_RSA_MAX_MODULUS_BITS / 8];
    bool is_done = false;
    size_t length = sizeof(out);
    if (is(algorithm, "Ed25519")) {
        EVP_MD_CTX context;
        EVP_MD_CTX_init(&context);
        is_done = EVP_DigestSignInit(&context, NULL, NULL, NULL, pair) && EVP_DigestSign(&context, out, &length, bytes.at, bytes.length);
        EVP_MD_CTX_cleanup(&context);
        return is_done ? copied(ctx, out, length) : refused();
    }
    const EVP_MD *md = digest_of(ctx, argv[1]);
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned digest_length;
    if (!EVP_Digest(bytes.at, bytes.length, digest, &digest_length, md, NULL))
        return refused();
    if (is(algorithm, "ECDSA")) {
        size_t half = coordinate_length(pair);
        length = 2 * half;
        is_done = sign_ec(EVP_PKEY_get0_EC_KEY(pair), digest, digest_length, half, out);
    } else if (is(algorithm, "RSA-PSS")) {
        RSA *rsa = EVP_PKEY_get0_RSA(pair);
        is_done = salt <= INT32_MAX && RSA_sign_pss_mgf1(rsa, &length, out, sizeof(out), digest, digest_length, md, md, (int)salt);
    } else {
        unsigned made;
        is_done = RSA_sign(EVP_MD_type(md), digest, digest_length, out, &made, EVP_PKEY_get0_RSA(pair));
        length = made;
    }
    return is_done ? copied(ctx, out, length) : refused();
}

JSValue subtle_verify(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    struct name algorithm = name_of(ctx, argv[0]);
    uint32_t salt;
    EVP_PKEY *pair = pair_of(ctx, argv[3]);
    struct bytes signature, bytes;
    if (!pair || JS_ToUint32(ctx, &salt, argv[2]) < 0 || !bytes_of(ctx, argv[4], &signature) || !bytes_of(ctx, argv[5], &bytes))
        return JS_EXCEPTION;
    bool is_one = false;
    if (is(algorithm, "Ed25519")) {
        EVP_MD_CTX context;
        EVP_MD_CTX_init(&context);
        is_one = EVP_DigestVerifyInit(&context, NULL, NULL, NULL, pair) &&
                 EVP_DigestVerify(&context, signature.at, signature.length, bytes.at, bytes.length);
        EVP_MD_CTX_cleanup(&context);
    } else {
        const EVP_MD *md = digest_of(ctx, argv[1]);
        uint8_t digest[EVP_MAX_MD_SIZE];
        unsigned digest_length;
        if (!EVP_Digest(bytes.at, bytes.length, digest, &digest_length, md, NULL))
            return refused();
        if (is(algorithm, "ECDSA"))
            is_one = verify_ec(EVP_PKEY_get0_EC_KEY(pair), digest, digest_length, coordinate_length(pair), signature);
        else if (is(algorithm, "RSA-PSS"))
            is_one = salt <= INT32_MAX && RSA_verify_pss_mgf1(EVP_PKEY_get0_RSA(pair), digest, digest_length, md, md, (int)salt,
                                                              signature.at, signature.length);
        else
            is_one = RSA_verify(EVP_MD_type(md), digest, digest_length, signature.at, signature.length, EVP_PKEY_get0_RSA(pair));
    }
    ERR_clear_error();
    return JS_NewBool(ctx, is_one);
}

JSValue subtle_agree(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    EVP_PKEY *pair = pair_of(ctx, argv[0]), *other = pair ? pair_of(ctx, argv[1]) : NULL;
    if (!other)
        return JS_EXCEPTION;
    uint8_t out[COORDINATE_MAX];
    size_t length = sizeof(out);
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(pair, NULL);
    bool is_done = context && EVP_PKEY_derive_init(context) && EVP_PKEY_derive_set_peer(context, other) &&
                   EVP_PKEY_derive(context, out, &length);
    EVP_PKEY_CTX_free(context);
    return is_done ? copied(ctx, out, length) : refused();
}

JSValue subtle_oaep(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
{
    bool is_encrypting = JS_ToBool(ctx, argv[0]);
    const EVP_MD *md = digest_of(ctx, argv[1]);
    EVP_PKEY *pair = pair_of(ctx, argv[2]);
    struct bytes label, bytes;
    if (!pair || !bytes_of(ctx, argv[3], &label) || !bytes_of(ctx, argv[4], &bytes))
        return JS_EXCEPTION;
    uint8_t out[OPENSSL_RSA_MAX_MODULUS_BITS / 8];
    size_t length = sizeof(out);
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(pair, NULL);
    bool is_done = context && (is_encrypting ? EVP_PKEY_encrypt_init : EVP_PKEY_decrypt_init)(context) &&
                   EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_OAEP_PADDING) && EVP_PKEY_CTX_set_rsa_oaep_md(context, md) &&
                   EVP_PKEY_CTX_set_rsa_mgf1_md(context, md);
    if (is_done && label.length > 0) {
        // The context takes it.
        uint8_t *own = OPENSSL_memdup(label.at, label.length);
        is_done = own && EVP_PKEY_CTX_set0_rsa_oaep_label(context, own, label.length);
        if (!is_done)
            OPENSSL_free(own);
    }
    is_done = is_done && (is_encrypting ? EVP_PKEY_encrypt : EVP_PKEY_decrypt)(context, out, &length, bytes.at, bytes.length);
    EVP_PKEY_CTX_free(context);
    return is_done ? copied(ctx, out, length) : refused();
}
