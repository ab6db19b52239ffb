// SHA-1 and SHA-2 (FIPS 180-4).
#ifndef DIGEST_H
#define DIGEST_H

#include <stddef.h>
#include <stdint.h>

// Bytes of the largest digest.
#define DIGEST_MAX 64

// Writes the digest named `name` ("SHA-1", "SHA-256", "SHA-384", "SHA-512") of `length` bytes to `out`. Returns its length, 0
// for a name that is unknown.
size_t digest(const char *name, const uint8_t *bytes, size_t length, uint8_t out[DIGEST_MAX]);

#endif
