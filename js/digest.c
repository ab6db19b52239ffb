#include "digest.h"

#include <string.h>

// Fractional parts of the cube roots of the first 80 primes; the upper halves of the first 64 are those of SHA-256.
static const uint64_t ROUND[80] = {
    0x428a2f98d728ae22, 0x7137449123ef65cd, 0xb5c0fbcfec4d3b2f, 0xe9b5dba58189dbbc, 0x3956c25bf348b538,
    0x59f111f1b605d019, 0x923f82a4af194f9b, 0xab1c5ed5da6d8118, 0xd807aa98a3030242, 0x12835b0145706fbe,
    0x243185be4ee4b28c, 0x550c7dc3d5ffb4e2, 0x72be5d74f27b896f, 0x80deb1fe3b1696b1, 0x9bdc06a725c71235,
    0xc19bf174cf692694, 0xe49b69c19ef14ad2, 0xefbe4786384f25e3, 0x0fc19dc68b8cd5b5, 0x240ca1cc77ac9c65,
    0x2de92c6f592b0275, 0x4a7484aa6ea6e483, 0x5cb0a9dcbd41fbd4, 0x76f988da831153b5, 0x983e5152ee66dfab,
    0xa831c66d2db43210, 0xb00327c898fb213f, 0xbf597fc7beef0ee4, 0xc6e00bf33da88fc2, 0xd5a79147930aa725,
    0x06ca6351e003826f, 0x142929670a0e6e70, 0x27b70a8546d22ffc, 0x2e1b21385c26c926, 0x4d2c6dfc5ac42aed,
    0x53380d139d95b3df, 0x650a73548baf63de, 0x766a0abb3c77b2a8, 0x81c2c92e47edaee6, 0x92722c851482353b,
    0xa2bfe8a14cf10364, 0xa81a664bbc423001, 0xc24b8b70d0f89791, 0xc76c51a30654be30, 0xd192e819d6ef5218,
    0xd69906245565a910, 0xf40e35855771202a, 0x106aa07032bbd1b8, 0x19a4c116b8d2d0c8, 0x1e376c085141ab53,
    0x2748774cdf8eeb99, 0x34b0bcb5e19b48a8, 0x391c0cb3c5c95a63, 0x4ed8aa4ae3418acb, 0x5b9cca4f7763e373,
    0x682e6ff3d6b2b8a3, 0x748f82ee5defb2fc, 0x78a5636f43172f60, 0x84c87814a1f0ab72, 0x8cc702081a6439ec,
    0x90befffa23631e28, 0xa4506cebde82bde9, 0xbef9a3f7b2c67915, 0xc67178f2e372532b, 0xca273eceea26619c,
    0xd186b8c721c0c207, 0xeada7dd6cde0eb1e, 0xf57d4f7fee6ed178, 0x06f067aa72176fba, 0x0a637dc5a2c898a6,
    0x113f9804bef90dae, 0x1b710b35131c471b, 0x28db77f523047d84, 0x32caab7b40c72493, 0x3c9ebe0a15c9bebc,
    0x431d67c49c100d4c, 0x4cc5d4becb3e42b6, 0x597f299cfc657e2a, 0x5fcb6fab3ad6faec, 0x6c44198c4a475817,
};

// Fractional parts of the square roots of the first 8 primes, and of the next 8.
static const uint64_t START_512[8] = {
    0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
};
static const uint64_t START_384[8] = {
    0xcbbb9d5dc1059ed8, 0x629a292a367cd507, 0x9159015a3070dd17, 0x152fecd8f70e5939,
    0x67332667ffc00b31, 0x8eb44a8768581511, 0xdb0c2e0d64f98fa7, 0x47b5481dbefa4fa4,
};

static uint32_t rotl(uint32_t value, int bits) { return value << bits | value >> (32 - bits); }
static uint32_t rotr(uint32_t value, int bits) { return value >> bits | value << (32 - bits); }
static uint64_t rotr64(uint64_t value, int bits) { return value >> bits | value << (64 - bits); }

static uint32_t load32(const uint8_t *at) { return (uint32_t)at[0] << 24 | at[1] << 16 | at[2] << 8 | at[3]; }
static uint64_t load64(const uint8_t *at) { return (uint64_t)load32(at) << 32 | load32(at + 4); }

static void block_1(uint64_t state[8], const uint8_t *bytes)
{
    uint32_t word[80], a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    for (int t = 0; t < 16; t++)
        word[t] = load32(bytes + 4 * t);
    for (int t = 16; t < 80; t++)
        word[t] = rotl(word[t - 3] ^ word[t - 8] ^ word[t - 14] ^ word[t - 16], 1);
    for (int t = 0; t < 80; t++) {
        uint32_t f = t < 20 ? (b & c) | (~b & d) : t < 40 ? b ^ c ^ d : t < 60 ? (b & c) | (b & d) | (c & d) : b ^ c ^ d;
        uint32_t k = t < 20 ? 0x5a827999 : t < 40 ? 0x6ed9eba1 : t < 60 ? 0x8f1bbcdc : 0xca62c1d6;
        uint32_t next = rotl(a, 5) + f + e + k + word[t];
        e = d, d = c, c = rotl(b, 30), b = a, a = next;
    }
    const uint32_t sum[5] = {a, b, c, d, e};
    for (int i = 0; i < 5; i++)
        state[i] = (uint32_t)(state[i] + sum[i]);
}

static void block_256(uint64_t state[8], const uint8_t *bytes)
{
    uint32_t word[64], v[8];
    for (int t = 0; t < 16; t++)
        word[t] = load32(bytes + 4 * t);
    for (int t = 16; t < 64; t++) {
        uint32_t near = word[t - 2], far = word[t - 15];
        word[t] = (rotr(near, 17) ^ rotr(near, 19) ^ near >> 10) + word[t - 7] + (rotr(far, 7) ^ rotr(far, 18) ^ far >> 3) + word[t - 16];
    }
    for (int i = 0; i < 8; i++)
        v[i] = (uint32_t)state[i];
    for (int t = 0; t < 64; t++) {
        uint32_t choice = (v[4] & v[5]) ^ (~v[4] & v[6]), majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
        uint32_t one = v[7] + (rotr(v[4], 6) ^ rotr(v[4], 11) ^ rotr(v[4], 25)) + choice + (uint32_t)(ROUND[t] >> 32) + word[t];
        uint32_t two = (rotr(v[0], 2) ^ rotr(v[0], 13) ^ rotr(v[0], 22)) + majority;
        memmove(v + 1, v, 7 * sizeof(*v));
        v[4] += one, v[0] = one + two;
    }
    for (int i = 0; i < 8; i++)
        state[i] = (uint32_t)(state[i] + v[i]);
}

static void block_512(uint64_t state[8], const uint8_t *bytes)
{
    uint64_t word[80], v[8];
    for (int t = 0; t < 16; t++)
        word[t] = load64(bytes + 8 * t);
    for (int t = 16; t < 80; t++) {
        uint64_t near = word[t - 2], far = word[t - 15];
        word[t] = (rotr64(near, 19) ^ rotr64(near, 61) ^ near >> 6) + word[t - 7] + (rotr64(far, 1) ^ rotr64(far, 8) ^ far >> 7) + word[t - 16];
    }
    memcpy(v, state, sizeof(v));
    for (int t = 0; t < 80; t++) {
        uint64_t choice = (v[4] & v[5]) ^ (~v[4] & v[6]), majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
        uint64_t one = v[7] + (rotr64(v[4], 14) ^ rotr64(v[4], 18) ^ rotr64(v[4], 41)) + choice + ROUND[t] + word[t];
        uint64_t two = (rotr64(v[0], 28) ^ rotr64(v[0], 34) ^ rotr64(v[0], 39)) + majority;
        memmove(v + 1, v, 7 * sizeof(*v));
        v[4] += one, v[0] = one + two;
    }
    for (int i = 0; i < 8; i++)
        state[i] += v[i];
}

// What tells one digest from another. Words of 32 bits are kept in the lower halves of the state.
struct kind {
    const char *name;
    void (*block)(uint64_t state[8], const uint8_t *bytes);
    size_t block_length, word_length, length;
    const uint64_t *start;
    int start_shift;
};

static const uint64_t START_1[8] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};

static const struct kind KINDS[] = {
    {"SHA-1", block_1, 64, 4, 20, START_1, 0},
    {"SHA-256", block_256, 64, 4, 32, START_512, 32},
    {"SHA-384", block_512, 128, 8, 48, START_384, 0},
    {"SHA-512", block_512, 128, 8, 64, START_512, 0},
};

size_t digest(const char *name, const uint8_t *bytes, size_t length, uint8_t out[DIGEST_MAX])
{
    const struct kind *kind = NULL;
    for (size_t i = 0; i < sizeof(KINDS) / sizeof(*KINDS); i++)
        if (strcmp(KINDS[i].name, name) == 0)
            kind = &KINDS[i];
    if (!kind)
        return 0;
    uint64_t state[8];
    for (int i = 0; i < 8; i++)
        state[i] = kind->start[i] >> kind->start_shift;
    size_t at = 0;
    for (; length - at >= kind->block_length; at += kind->block_length)
        kind->block(state, bytes + at);

    // The rest, a bit, zeros, and the length in bits, in one or two blocks.
    uint8_t tail[256] = {0};
    size_t rest = length - at, need = rest + 1 + 2 * kind->word_length;
    size_t tail_length = need <= kind->block_length ? kind->block_length : 2 * kind->block_length;
    memcpy(tail, bytes + at, rest);
    tail[rest] = 0x80;
    uint64_t bits = (uint64_t)length * 8;
    for (int i = 0; i < 8; i++)
        tail[tail_length - 1 - i] = (uint8_t)(bits >> 8 * i);
    for (at = 0; at < tail_length; at += kind->block_length)
        kind->block(state, tail + at);

    for (size_t i = 0; i < kind->length; i++) {
        size_t shift = 8 * (kind->word_length - 1 - i % kind->word_length);
        out[i] = (uint8_t)(state[i / kind->word_length] >> shift);
    }
    return kind->length;
}
