// What the environment has, checked from inside. The engine's tests run it, and docs/javascript.md holds the table that they
// make of its answer.

function equal(got, wanted) {
  const [a, b] = [JSON.stringify(got), JSON.stringify(wanted)];
  if (a !== b) throw new Error(`${a} is not ${b}`);
}

async function throws(run, name) {
  try {
    await run();
  } catch (error) {
    return equal(error.name, name);
  }
  throw new Error(`no ${name} was thrown`);
}

const hex = (buffer) => Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, "0")).join("");
const bytes = (text) => new TextEncoder().encode(text);

/** Bytes of base64 or base64url, over any number of lines. */
const base64 = (text) => Uint8Array.from(atob(text.replace(/\s/g, "").replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
const ofHex = (text) => Uint8Array.from(text.replace(/\s/g, "").match(/../g) ?? [], (pair) => parseInt(pair, 16));
const { subtle } = crypto;

// Keys and what OpenSSL made with them, of the text "hearth".
const RSA_PRIVATE = base64(`
  MIIEvgIBADANBgkqhkiG9w0BAQEFAASCBKgwggSkAgEAAoIBAQC6Z8qFCUw1k/RuUmh/r/HTFD1CpkJmYn8Scrq3lTpmWzWLC4FHJjhg7iup+K+53BiYku
  00ciBfxT/UrX0vMPyTSSv3L7iF+MyL2rwx/UPWwNu7n9ZxHr/pPg5ZMcI1UYpoOaxL7FhrSyDtbWZdMHRG7NW9p5WB4p+xB7lRs3ystMs9XeqHFl1ytj/8
  xHrpbFpj5r/wd86tJAijfcfZuk7ZBe4gSbOiPzodijRgt9Fy0QeuIbQ2DAf4ukwNGztQMTsDj/s21qVqzv8rzRYNGdrxQj5xrgv7hAgL8ycTRE/EZt0sUV
  i5kTit5PGImJyKwUkPQV6Nehs8RWVHPNQb9uvTAgMBAAECggEAC4Ws5ApOFqW9nzAi23mxtf1zR/Jk+lUuS6Kh3gUwZfFPXvfoFtDK/VrbghcoLZHoR04V
  sX84dxMHPgs3SLp7clM8j3v4qPdXFXIA3gosrlKfgnp/0+A1tqIqWuMTgR44MvcVql/Cm2c6ctKnWC1NkrDDCYUZXbz3aAb1MpKoqzgqhsNCoDt55M1Sy7
  CGF5x/zhwEGuKJXqAgu/1xuEMsTVx+6WzOk0xQUPXSt2sJhVVggqF/3Z0yzzyPiL/m4fk2IK+YSFOawv4QOvkew+wcgb78K08BDvy43IhKIYpILtqNYudE
  IpYCP8+LWPt/yTRxDsUQzXNys2/BUqPeRpoX8QKBgQD0Z9+9yw2EnyYqj2jvrG1pfPxf3y6kfnlzSHPu4amEbbMWt1d4ScydqQLbHLLl7Orf1uDOYKLWsM
  tN6zKvmnb7YSaAJCcnmzc2bIeLk9vA2/FnCqkVcEzsTNZZGajVD7ayp20H7ZIM6lwDdu8D3GMkPu9P8p0lm7NUyrYeJNmMOwKBgQDDP4vdA/F1BmulYgaP
  t23SFoMaLlCK2/oPH5/jmqvVccg9OI6jOvFnOnHBtekufEzLAgkQ3Jxqkhmpz8qdaYJg4Y+GlE3ZyLc9p30KwVrkMAQQ09Q3kj5iommri38vjyrfy3BJ2t
  acUv+5pcyvEhLtECOStiWvvd0nhwEfmK3dSQKBgQCV8mTC/KD+jOXNls66vP8jiRsNdtAW+8FniTwXgzuNlAAcH7/6fMycreSiqajYh9JSInMqKv+82Brj
  Yzllo078S05jr8qV8hSdv1gpuj1IxagFn/S8wnlvQHUBlUyP62Qbl7y88HR6mA570awyojPxOOt6EU94k14i13uEYvdVoQKBgQCQcyUgwNgUwklFs/4yuX
  xwX+NirT09Xn3kTntWQoo6gdGpKXyt2t/ahWy/6bu4fpG556mZZf37AlgmP+shBnxE/NvYr0PhihO3c4CZQm/iPnvjjzSEYJfzFUGkfrH8F6mapMJQga0h
  Pm6fhMCoDXEfHj+TPVsoaAmEQudb3vNSsQKBgBcvf4Aw4gYXA9hwl/Uh3cYPUeJm7JCpQv0MMSB+oJlBTRP5qTPTaKzeOQadfpU3PTHzOyJ5YzYPuovnSP
  DjiRkw8laXSSV0mP+EM35Qucoyrg78aZdKCgIHXWP8rtekwQZn0+OFHHZrBSsHnNTjvrL5w0iXt5kNNlJE96K/lSTs`);
const RSA_PUBLIC = base64(`
  MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAumfKhQlMNZP0blJof6/x0xQ9QqZCZmJ/EnK6t5U6Zls1iwuBRyY4YO4rqfivudwYmJLtNHIgX8
  U/1K19LzD8k0kr9y+4hfjMi9q8Mf1D1sDbu5/WcR6/6T4OWTHCNVGKaDmsS+xYa0sg7W1mXTB0RuzVvaeVgeKfsQe5UbN8rLTLPV3qhxZdcrY//MR66Wxa
  Y+a/8HfOrSQIo33H2bpO2QXuIEmzoj86HYo0YLfRctEHriG0NgwH+LpMDRs7UDE7A4/7Ntalas7/K80WDRna8UI+ca4L+4QIC/MnE0RPxGbdLFFYuZE4re
  TxiJicisFJD0FejXobPEVlRzzUG/br0wIDAQAB`);
const RS256 = base64(`
  sj2MGJ25RH0_IQb8HCCmvo3tkde7rdn6eV-0pmEiGZ6RxDtoEypkjHgm-ZnOt23IG9s466clvkoaEGIAChDZlV0ccnPADN-40-1yw8GV4QH1TMGNnKxY_c
  eIbYIAxgx8fjUYena4TAP_DN0L_pmmT8uBFaF-X2vFhQlFUYI7BOUC-8lhPC_UEcas2pE0TI2z8wbrn5A_8BQ5Qt77IgSjx9s_MDjLIUdloN5gTEMvj7Pb
  MImxXjWK6gttfJumC4gyJhfBFaUQJN8Slrojul8i640ZdSteEYeSHXIbLmYwmNEOH5YQ_L5GG7g43sJce1CARjjKlIVnyQaFDXmoMGtNrw`);
const PS256 = base64(`
  kHdm4v35YxLrQARk2ZrNPKGGAQ44MFzPPyuiI5lZ4CX8NtMHZvW_hifodTFef_ljDz8W2m20ZExpdpptAuVoiXZwiT3PrNaEqIoYn2kjiQDsJULxiGD5fH
  opw5Iu1rbhhsju88RUqp2pB82phTnITReeceIc_5L6Ap7jUVf80-Yry2MDz5iASyjMyVp25iaG84DEbnEGF6NUZOG0voiOIWbjJyhUi0zH8CrSsrjVbbkh
  PDgItSqVfuYYNDB-Ynimtw-caE_jWMQ_P0TlAbN8yat_uYmEwK-LifugtVT6ZIG1zC-QiHmI7b70UkP8HM3nXlebsakfw44pHB4XeeYH2A`);
/** Of the text "secret", with the label "label". */
const OAEP = base64(`
  hIa0r9q7nVaaK1tU9qgcgagnUbBXAh7V_hLEBPcNLBBjtgfZqvD8KC5u6lLWwmQkltbETYpc9-T66tiimOqF7oBqC7vVwEdC7sEGDjXaPbN8xLfXltlwKs
  JFwyeH6x8A-juC99tGyFkBOnLBBpXureYNqzM12Sfxv_5hP4jceqQTgEBnbefGMSy-0paBgu6BAmASC04wC5ckqPL54omGYYX3YBcher-5ssO-qOojEsED
  xPWUVPTpgYuGM5jc9CiDnWLlQWJWyTBvM-wMIFVNLyGW-IUb1E6p5WQC9oJx07CRUyeEh4aBiG3r8KXZhKsXC2jux72DhHdyM2XOCgndRw`);
/** By curve: the digest, a private key, and a signature. */
const CURVES = {
  "P-256": ["SHA-256", base64(`
  MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg5Z6dTpc83mTXXb4XpG0+uDWRfj715bEQYvjzGTj0DLChRANCAASdDB6d27IX2YOW82jM2p
  j06hxkiZd9aGRGPvYzEEHvXTgwxH6WwQQpR7usJAFFUz1FKU8RACqsgPzIiuNmowfW`), base64(`
  DKkrIk8L7YsKN1euSWmSkjug-A42jqZQD5Sna2jbO6f-FFUuRriVKrB5bjWSoznibNn_7WTiwy0lSuClszwNIw`)],
  "P-384": ["SHA-384", base64(`
  MIG2AgEAMBAGByqGSM49AgEGBSuBBAAiBIGeMIGbAgEBBDD2ceqBpXAltuN4S3eJmfONiKJJDkmK32vHoCWWNPQWa1wwUDIiBkP4YxBNLE+CmlGhZANiAA
  TSG/NSBqWsAiai9O1GLMdd/bVZDLyRsLJrJzura+97lUH2y5wS3+wH1chGmryWwKIlPRlWQx+z4j+TTKvEWr7TJlJ5gMxwXq1Q17HZdS9zC6kW1BPXe8qh
  ddBzviUdQk0=`), base64(`
  Rr5bXeRb9jr15uZhvlxJP87FOaTTYDW9WNu8UHBM3DdHafrK3Q5uFZ0hHrpzkT7jJ6anD3JTR83LxNixO8HnJ-yrtR993sZ6YSTM0Pcf3aHzUXsqKnJP2_
  Yj2Igk_Jqi`)],
  "P-521": ["SHA-512", base64(`
  MIHuAgEAMBAGByqGSM49AgEGBSuBBAAjBIHWMIHTAgEBBEIB8gSzznvV35FfbGSfa4fAlLqFu4O0bYWuINc7esk57Im0hrONNdGUvf6VO/0Kn29v3nWZS5
  ivDcfXnefuVXdpaB6hgYkDgYYABABpstJkqQsi6xsZ9kK1WsYsQEqpMvxCigpY5IB8BVNdVDBLhy2DOzkNCm9h5q9yO9ww0ntAZq45Lv1N37dv3/D75QFX
  Q64b9g6csH0lzf+7yO6Qh3H/YY/BXq2Mld3Escm9yYC8LW7g07W79CzxQ8qQGg5r4TakBiiVNsB0kxedk8dTlw==`), base64(`
  Ab_QDgiJWEIboc7ISiTW6MvWrWBuK7r3VBxeXc9p5DFd1P08qlGBXbMXpwoRpnVDDoqYJPTMZQ9HBujMkViQP-8zAIqq43SKoJJNPunogrNSCsSqOSEIjN
  tktinjoZt3QpMJMF_-NQEx-2-ArIKx32juqoLpGA5ibayj7DfmBYV3PWhS`)],
};

/** Where in a stack the frames begin. */
const titleOf = (error) => error.stack.split("\n    at ")[0].trimEnd();

/** What is compressed, and several in one. */
const pressed = (format, data) => new Response(new Response(data).body.pipeThrough(new CompressionStream(format))).bytes();
const together = (...parts) => new Blob(parts).bytes();
const unpressed = (format, data) => new Response(new Response(data).body.pipeThrough(new DecompressionStream(format))).bytes();

async function collected(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

const CHECKS = {
  "AbortController, AbortSignal": {
    async "abort, reason, abort event"() {
      const controller = new AbortController();
      let heard = 0;
      controller.signal.addEventListener("abort", () => heard++);
      controller.abort(new Error("enough"));
      controller.abort();
      equal([controller.signal.aborted, controller.signal.reason.message, heard], [true, "enough", 1]);
      await throws(() => controller.signal.throwIfAborted(), "Error");
    },
    async "AbortSignal.timeout"() {
      const signal = AbortSignal.timeout(1);
      await new Promise((resolve) => signal.addEventListener("abort", resolve));
      equal(signal.reason.name, "TimeoutError");
    },
    async "AbortSignal.any, AbortSignal.abort"() {
      equal(AbortSignal.any([new AbortController().signal, AbortSignal.abort("x")]).reason, "x");
    },
  },
  "atob, btoa": {
    async "both ways, and what is no base64"() {
      equal([btoa("h\xe9arth"), atob("aOlhcnRo")], ["aOlhcnRo", "h\xe9arth"]);
      await throws(() => atob("a"), "InvalidCharacterError");
    },
  },
  "Blob, File": {
    async "parts, slice, text, stream"() {
      const blob = new Blob(["ab", bytes("cd"), new Blob(["ef"])], { type: "text/plain" });
      equal([blob.size, blob.type, await blob.slice(1, 4).text()], [6, "text/plain", "bcd"]);
      equal(await new Response(blob.stream()).text(), "abcdef");
      equal(new File(["x"], "a.txt").name, "a.txt");
    },
  },
  "CompressionStream, DecompressionStream": {
    async "gzip, deflate, deflate-raw"() {
      const text = "again and ".repeat(20_000);
      for (const format of ["gzip", "deflate", "deflate-raw"]) {
        const pressed = await new Response(new Response(text).body.pipeThrough(new CompressionStream(format))).bytes();
        if (!(pressed.length < text.length / 100)) throw new Error(`${format}: ${pressed.length}`);
        const read = (bytes) => new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream(format))).text();
        equal((await read(pressed)) === text, true);
        await throws(() => read(pressed.subarray(0, -9)), "TypeError");
        await throws(() => read(pressed.map((byte) => byte ^ 85)), "TypeError");
      }
      await throws(() => new CompressionStream("br"), "TypeError");
    },
    async "members one behind the other, and nothing else behind them"() {
      const [none, x, full] = [await pressed("gzip", ""), await pressed("gzip", "x"), await pressed("gzip", new Uint8Array(65536 * 2))];
      equal(hex(await unpressed("gzip", await together(none, none, x))), "78");
      equal((await unpressed("gzip", await together(full, x, none, full))).length, 65536 * 4 + 1);
      for (const format of ["gzip", "deflate", "deflate-raw"]) {
        for (const data of ["", "x", new Uint8Array(65536)]) {
          const more = await together(await pressed(format, data), "more");
          await throws(() => unpressed(format, more), "TypeError");
        }
      }
    },
    async "no more is made than is read"() {
      const { readable, writable } = new DecompressionStream("gzip");
      const writer = writable.getWriter();
      let isWritten = false;
      writer.write(await pressed("gzip", new Uint8Array(1_000_000))).then(() => void (isWritten = true));
      const closed = writer.close();
      const reader = readable.getReader();
      let length = (await reader.read()).value.length;
      await new Promise((resolve) => setTimeout(resolve, 5));
      equal(isWritten, false);
      for (let next = await reader.read(); !next.done; next = await reader.read()) length += next.value.length;
      await closed;
      equal([isWritten, length], [true, 1_000_000]);
      // Who gives up is not waited for.
      for (const end of ["abort", "cancel"]) {
        const stream = new DecompressionStream("gzip");
        const [from, to] = [stream.readable.getReader(), stream.writable.getWriter()];
        const written = to.write(await pressed("gzip", new Uint8Array(1_000_000)));
        await from.read();
        await (end === "abort" ? to.abort(new RangeError("enough")) : from.cancel(new RangeError("enough")));
        await throws(() => written, "RangeError");
      }
    },
  },
  console: {
    async "levels, formats, objects"() {
      console.log("%s is %d", "one", 1, { a: [1, { b: new Map([["k", 2]]) }] });
      console.warn(new Error("shown"));
      console.log(new Request("http://a/b"), new Response(null, { headers: { x: "shown" } }), { url: new URL("http://c/") });
      console.log(Object.assign(new RangeError("far"), { code: 7 }), new AggregateError([new Error("inner")], "all"));
      const failing = () => {
        throw new Error("no");
      };
      console.log({ get lazy() { return failing(); } }, new Proxy({}, { ownKeys: failing, getPrototypeOf: failing }));
      console.clear();
      console.dirxml("x");
    },
  },
  crypto: {
    async "getRandomValues, randomUUID"() {
      const [a, b] = [crypto.getRandomValues(new Uint8Array(16)), crypto.getRandomValues(new Uint8Array(16))];
      if (hex(a) === hex(b)) throw new Error("twice the same");
      equal(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(crypto.randomUUID()), true);
      await throws(() => crypto.getRandomValues(new Float32Array(1)), "TypeMismatchError");
    },
    async "subtle.digest: SHA-1, SHA-256, SHA-384, SHA-512"() {
      const digests = { "SHA-1": "a9993e36", "SHA-256": "ba7816bf", "SHA-384": "cb00753f", "SHA-512": "ddaf35a1" };
      for (const [name, start] of Object.entries(digests)) {
        equal(hex(await crypto.subtle.digest(name, bytes("abc"))).slice(0, 8), start);
      }
      await throws(() => crypto.subtle.digest("MD5", bytes("")), "NotSupportedError");
    },
    async "subtle with HMAC"() {
      const algorithm = { name: "HMAC", hash: "SHA-256" };
      const key = await subtle.importKey("raw", bytes("key"), algorithm, true, ["verify", "sign"]);
      equal([key.type, key.extractable, key.algorithm, key.usages], ["secret", true, { name: "HMAC", hash: { name: "SHA-256" }, length: 24 }, ["sign", "verify"]]);
      const signature = await subtle.sign("HMAC", key, bytes("The quick brown fox jumps over the lazy dog"));
      equal(hex(signature), "f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8");
      equal(await subtle.verify("HMAC", key, signature, bytes("another")), false);
      equal((await subtle.exportKey("raw", await subtle.generateKey(algorithm, true, ["sign"]))).byteLength, 64);
      const { k, ...rest } = await subtle.exportKey("jwk", key);
      equal([k, rest.kty, rest.alg, rest.ext, rest.key_ops], ["a2V5", "oct", "HS256", true, ["sign", "verify"]]);
      const again = await subtle.importKey("jwk", { k, ...rest }, algorithm, false, ["verify"]);
      equal(await subtle.verify("HMAC", again, signature, bytes("The quick brown fox jumps over the lazy dog")), true);
      await throws(() => subtle.exportKey("raw", again), "InvalidAccessError");
      await throws(() => subtle.sign("HMAC", again, bytes("x")), "InvalidAccessError");
      await throws(() => subtle.importKey("raw", bytes(""), algorithm, true, ["sign"]), "DataError");
      await throws(() => subtle.importKey("raw", bytes("key"), algorithm, true, ["encrypt"]), "SyntaxError");
      await throws(() => subtle.importKey("raw", bytes("key"), algorithm, true, ["sing"]), "TypeError");
      await throws(() => subtle.importKey("spki", bytes("key"), algorithm, true, ["sign"]), "NotSupportedError");
      await throws(() => subtle.importKey("jwk", { kty: "oct", k: "a2V5", alg: "HS512" }, algorithm, true, ["sign"]), "DataError");
      await throws(() => subtle.generateKey(algorithm, true, []), "SyntaxError");
      await throws(() => subtle.generateKey({ name: "HMAC" }, true, ["sign"]), "TypeError");
      await throws(() => new CryptoKey(), "TypeError");
    },
    async "subtle with RSASSA-PKCS1-v1_5: RS256 from pkcs8, spki and jwk"() {
      const algorithm = { name: "rsassa-pkcs1-v1_5", hash: { name: "sha-256" } };
      const key = await subtle.importKey("pkcs8", RSA_PRIVATE, algorithm, true, ["sign"]);
      const { publicExponent, ...rest } = key.algorithm;
      equal([key.type, rest], ["private", { name: "RSASSA-PKCS1-v1_5", modulusLength: 2048, hash: { name: "SHA-256" } }]);
      equal([publicExponent instanceof Uint8Array, hex(publicExponent)], [true, "010001"]);
      equal(hex(await subtle.sign("RSASSA-PKCS1-v1_5", key, bytes("hearth"))), hex(RS256));
      const known = await subtle.importKey("spki", RSA_PUBLIC, algorithm, true, ["verify"]);
      equal(await subtle.verify("RSASSA-PKCS1-v1_5", known, RS256, bytes("hearth")), true);
      equal(await subtle.verify("RSASSA-PKCS1-v1_5", known, RS256, bytes("hearts")), false);
      equal(await subtle.verify("RSASSA-PKCS1-v1_5", known, RS256.slice(1), bytes("hearth")), false);
      equal([hex(await subtle.exportKey("pkcs8", key)), hex(await subtle.exportKey("spki", known))], [hex(RSA_PRIVATE), hex(RSA_PUBLIC)]);
      const jwk = await subtle.exportKey("jwk", key);
      equal([jwk.kty, jwk.alg, jwk.e, jwk.n.length, jwk.qi.length, jwk.key_ops], ["RSA", "RS256", "AQAB", 342, 171, ["sign"]]);
      const again = await subtle.importKey("jwk", jwk, algorithm, false, ["sign"]);
      equal(hex(await subtle.sign("RSASSA-PKCS1-v1_5", again, bytes("hearth"))), hex(RS256));
      const { kty, n, e } = jwk;
      const shared = await subtle.importKey("jwk", { kty, n, e, use: "sig" }, algorithm, true, ["verify"]);
      equal([shared.type, hex(await subtle.exportKey("spki", shared))], ["public", hex(RSA_PUBLIC)]);
      await throws(() => subtle.sign("RSASSA-PKCS1-v1_5", known, bytes("x")), "InvalidAccessError");
      await throws(() => subtle.sign({ name: "RSA-PSS", saltLength: 8 }, key, bytes("x")), "InvalidAccessError");
      await throws(() => subtle.encrypt("RSASSA-PKCS1-v1_5", key, bytes("x")), "NotSupportedError");
      await throws(() => subtle.exportKey("spki", key), "InvalidAccessError");
      await throws(() => subtle.exportKey("pkcs8", again), "InvalidAccessError");
      await throws(() => subtle.importKey("pkcs8", RSA_PRIVATE, algorithm, true, ["verify"]), "SyntaxError");
      await throws(() => subtle.importKey("pkcs8", RSA_PRIVATE, algorithm, true, []), "SyntaxError");
      await throws(() => subtle.importKey("pkcs8", RSA_PRIVATE.slice(1), algorithm, true, ["sign"]), "DataError");
      await throws(() => subtle.importKey("pkcs8", new Blob([RSA_PRIVATE, "x"]).bytes().then(String), algorithm, true, ["sign"]), "TypeError");
      await throws(() => subtle.importKey("pkcs8", CURVES["P-256"][1], algorithm, true, ["sign"]), "DataError");
      await throws(() => subtle.importKey("raw", RSA_PUBLIC, algorithm, true, ["verify"]), "NotSupportedError");
      await throws(() => subtle.importKey("jwk", { kty, n, e, alg: "PS256" }, algorithm, true, ["verify"]), "DataError");
      await throws(() => subtle.importKey("jwk", { kty, n, e, use: "enc" }, algorithm, true, ["verify"]), "DataError");
      await throws(() => subtle.importKey("jwk", { kty, n, e, key_ops: ["sign"] }, algorithm, true, ["verify"]), "DataError");
      await throws(() => subtle.importKey("jwk", { ...jwk, d: jwk.dp }, algorithm, true, ["sign"]), "DataError");
    },
    async "subtle with ECDSA: ES256, ES384, ES512 from pkcs8, spki, raw and jwk"() {
      for (const [namedCurve, [hash, pkcs8, made]] of Object.entries(CURVES)) {
        const [algorithm, how] = [{ name: "ECDSA", namedCurve }, { name: "ECDSA", hash }];
        const key = await subtle.importKey("pkcs8", pkcs8, algorithm, true, ["sign"]);
        equal([key.type, key.algorithm, hex(await subtle.exportKey("pkcs8", key))], ["private", algorithm, hex(pkcs8)]);
        const { d, key_ops, ...rest } = await subtle.exportKey("jwk", key);
        equal([rest.kty, rest.crv, key_ops], ["EC", namedCurve, ["sign"]]);
        const known = await subtle.importKey("jwk", rest, algorithm, true, ["verify"]);
        equal(await subtle.verify(how, known, made, bytes("hearth")), true);
        for (const format of ["raw", "spki"]) {
          const again = await subtle.importKey(format, await subtle.exportKey(format, known), algorithm, false, ["verify"]);
          const signature = new Uint8Array(await subtle.sign(how, key, bytes("hearth")));
          equal([signature.length, await subtle.verify(how, again, signature, bytes("hearth"))], [made.length, true]);
          equal(await subtle.verify(how, again, signature, bytes("hearts")), false);
          equal(await subtle.verify(how, again, signature.slice(0, -1), bytes("hearth")), false);
        }
        await throws(() => subtle.importKey("jwk", { ...rest, x: rest.y }, algorithm, true, ["verify"]), "DataError");
        await throws(() => subtle.importKey("jwk", { ...rest, d: d.slice(0, -4) }, algorithm, true, ["sign"]), "DataError");
        await throws(() => subtle.importKey("jwk", { ...rest, crv: "P-192" }, algorithm, true, ["verify"]), "DataError");
        await throws(() => subtle.sign("ECDSA", key, bytes("x")), "TypeError");
      }
      await throws(() => subtle.importKey("pkcs8", CURVES["P-256"][1], { name: "ECDSA", namedCurve: "P-384" }, true, ["sign"]), "DataError");
      await throws(() => subtle.importKey("raw", new Uint8Array(65), { name: "ECDSA", namedCurve: "P-256" }, true, ["verify"]), "DataError");
      await throws(() => subtle.generateKey({ name: "ECDSA", namedCurve: "P-192" }, true, ["sign"]), "NotSupportedError");
      const { privateKey, publicKey } = await subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, false, ["sign", "verify"]);
      equal([privateKey.usages, privateKey.extractable, publicKey.usages, publicKey.extractable], [["sign"], false, ["verify"], true]);
      const another = await subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, false, ["sign"]);
      const points = [publicKey, another.publicKey].map((key) => subtle.exportKey("raw", key).then(hex));
      equal([(await points[0]).length, (await points[0]) === (await points[1]), another.publicKey.usages], [130, false, []]);
    },
    async "a JSON Web Token of RFC 7515 is verified"() {
      const [x, y] = ["f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"];
      const key = await subtle.importKey("jwk", { kty: "EC", crv: "P-256", x, y }, { name: "ECDSA", namedCurve: "P-256" }, false, ["verify"]);
      const token = `eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.
        DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q`.replace(/\s/g, "");
      const [head, claims, signature] = token.split(".");
      equal(await subtle.verify({ name: "ECDSA", hash: "SHA-256" }, key, base64(signature), bytes(`${head}.${claims}`)), true);
    },
    async "subtle with AES-GCM"() {
      // Test cases 4 and 5 of McGrew and Viega.
      const secret = ofHex("feffe9928665731c6d6a8f9467308308");
      const [text, more] = [
        ofHex(`d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39`),
        ofHex("feedfacedeadbeeffeedfacedeadbeefabaddad2"),
      ];
      const key = await subtle.importKey("raw", secret, "AES-GCM", true, ["encrypt", "decrypt"]);
      equal(key.algorithm, { name: "AES-GCM", length: 128 });
      const algorithm = { name: "AES-GCM", iv: ofHex("cafebabefacedbaddecaf888"), additionalData: more };
      const sealed = new Uint8Array(await subtle.encrypt(algorithm, key, text));
      equal(hex(sealed), `42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e0915bc94fbc3221a5db94fae95ae7121a47`);
      equal(hex(await subtle.decrypt(algorithm, key, sealed)), hex(text));
      const short = await subtle.encrypt({ ...algorithm, iv: ofHex("cafebabefacedbad") }, key, text);
      equal(hex(short).slice(0, 16) + hex(short).slice(-32), "61353b4c2806934a3612d2e79e3b0785561be14aaca2fccb");
      const tagged = await subtle.encrypt({ ...algorithm, tagLength: 96 }, key, text);
      equal([tagged.byteLength, hex(await subtle.decrypt({ ...algorithm, tagLength: 96 }, key, tagged))], [text.length + 12, hex(text)]);
      sealed[3] ^= 1;
      await throws(() => subtle.decrypt(algorithm, key, sealed), "OperationError");
      await throws(() => subtle.decrypt(algorithm, key, sealed.slice(0, 8)), "OperationError");
      await throws(() => subtle.encrypt({ ...algorithm, tagLength: 100 }, key, text), "OperationError");
      await throws(() => subtle.encrypt({ name: "AES-GCM" }, key, text), "TypeError");
      await throws(() => subtle.encrypt({ name: "AES-CBC", iv: new Uint8Array(16) }, key, text), "InvalidAccessError");
      await throws(() => subtle.importKey("raw", secret.slice(1), "AES-GCM", true, ["encrypt"]), "DataError");
      await throws(() => subtle.generateKey({ name: "AES-GCM", length: 100 }, true, ["encrypt"]), "OperationError");
      await throws(() => subtle.generateKey({ name: "AES-GCM", length: 128 }, true, ["sign"]), "SyntaxError");
      const made = await subtle.generateKey({ name: "AES-GCM", length: 256 }, true, ["decrypt"]);
      await throws(() => subtle.encrypt(algorithm, made, text), "InvalidAccessError");
      const jwk = await subtle.exportKey("jwk", made);
      equal([jwk.kty, jwk.alg, jwk.k.length, jwk.key_ops], ["oct", "A256GCM", 43, ["decrypt"]]);
      equal(hex(await subtle.exportKey("raw", await subtle.importKey("jwk", jwk, "AES-GCM", true, ["decrypt"]))), hex(base64(jwk.k)));
      await throws(() => subtle.importKey("jwk", jwk, "AES-CTR", true, ["decrypt"]), "DataError");
      // Large, of each length of key.
      for (const length of [128, 192, 256]) {
        const long = await subtle.generateKey({ name: "AES-GCM", length }, false, ["encrypt", "decrypt"]);
        const data = new Uint8Array(70_001).map((_, at) => at);
        equal(await subtle.decrypt(algorithm, long, await subtle.encrypt(algorithm, long, data)).then(hex) === hex(data), true);
      }
    },
    async "subtle with AES-CBC, AES-CTR, AES-KW"() {
      // NIST SP 800-38A, F.2 and F.5, and RFC 3394, 4.1.
      const [secret, text] = [ofHex("2b7e151628aed2a6abf7158809cf4f3c"), ofHex("6bc1bee22e409f96e93d7e117393172a")];
      const imported = (name) => subtle.importKey("raw", secret, name, false, ["encrypt", "decrypt"]);
      const [cbc, ctr] = [await imported("AES-CBC"), await imported("AES-CTR")];
      const chained = { name: "AES-CBC", iv: ofHex("000102030405060708090a0b0c0d0e0f") };
      const sealed = await subtle.encrypt(chained, cbc, text);
      equal([hex(sealed).slice(0, 32), sealed.byteLength], ["7649abac8119b246cee98e9b12e9197d", 32]);
      equal(hex(await subtle.decrypt(chained, cbc, sealed)), hex(text));
      await throws(() => subtle.decrypt(chained, cbc, sealed.slice(0, 16)), "OperationError");
      await throws(() => subtle.encrypt({ name: "AES-CBC", iv: new Uint8Array(12) }, cbc, text), "OperationError");
      const counting = { name: "AES-CTR", counter: ofHex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"), length: 64 };
      equal(hex(await subtle.encrypt(counting, ctr, text)), "874d6191b620e3261bef6864990db6ce");
      equal(hex(await subtle.decrypt(counting, ctr, ofHex("874d6191b620e3261bef6864990db6ce"))), hex(text));
      // The counter begins at 0 again where its bits end, and the rest of the block stays.
      const around = await subtle.encrypt({ ...counting, length: 8 }, ctr, new Uint8Array(32));
      const second = await subtle.encrypt({ ...counting, counter: ofHex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfe00") }, ctr, new Uint8Array(16));
      equal(hex(around.slice(16)), hex(second));
      await throws(() => subtle.encrypt({ ...counting, length: 1 }, ctr, new Uint8Array(33)), "OperationError");
      await throws(() => subtle.encrypt({ ...counting, length: 0 }, ctr, text), "OperationError");
      const wrapping = await subtle.importKey("raw", ofHex("000102030405060708090a0b0c0d0e0f"), "AES-KW", false, ["wrapKey", "unwrapKey"]);
      const key = await subtle.importKey("raw", ofHex("00112233445566778899aabbccddeeff"), "AES-GCM", true, ["encrypt"]);
      const wrapped = await subtle.wrapKey("raw", key, wrapping, "AES-KW");
      equal(hex(wrapped), "1fa68b0a8112b447aef34bd8fb5a7b829d3e862371d2cfe5");
      const again = await subtle.unwrapKey("raw", wrapped, wrapping, "AES-KW", "AES-GCM", true, ["encrypt"]);
      equal(hex(await subtle.exportKey("raw", again)), "00112233445566778899aabbccddeeff");
      await throws(() => subtle.unwrapKey("raw", new Uint8Array(24), wrapping, "AES-KW", "AES-GCM", true, ["encrypt"]), "OperationError");
      await throws(() => subtle.wrapKey("raw", cbc, wrapping, "AES-KW"), "InvalidAccessError");
      await throws(() => subtle.encrypt("AES-KW", wrapping, text), "NotSupportedError");
    },
    async "subtle.wrapKey, subtle.unwrapKey of pairs, as jwk and pkcs8"() {
      const wrapping = await subtle.generateKey({ name: "AES-GCM", length: 256 }, false, ["wrapKey", "unwrapKey"]);
      const key = await subtle.importKey("pkcs8", CURVES["P-256"][1], { name: "ECDSA", namedCurve: "P-256" }, true, ["sign"]);
      const how = { name: "AES-GCM", iv: new Uint8Array(12) };
      for (const format of ["jwk", "pkcs8"]) {
        const wrapped = await subtle.wrapKey(format, key, wrapping, how);
        const again = await subtle.unwrapKey(format, wrapped, wrapping, how, key.algorithm, true, ["sign"]);
        equal(hex(await subtle.exportKey("pkcs8", again)), hex(CURVES["P-256"][1]));
        await throws(() => subtle.unwrapKey(format === "jwk" ? "pkcs8" : "jwk", wrapped, wrapping, how, key.algorithm, true, ["sign"]), "DataError");
      }
    },
    async "subtle with HKDF, PBKDF2"() {
      // RFC 5869, A.1; RFC 6070; RFC 7914, 11.
      const source = await subtle.importKey("raw", new Uint8Array(22).fill(0x0b), "HKDF", false, ["deriveBits", "deriveKey"]);
      const [salt, info] = [ofHex("000102030405060708090a0b0c"), ofHex("f0f1f2f3f4f5f6f7f8f9")];
      const how = { name: "HKDF", hash: "SHA-256", salt, info };
      equal(hex(await subtle.deriveBits(how, source, 336)), "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865");
      const password = await subtle.importKey("raw", bytes("password"), "PBKDF2", false, ["deriveBits", "deriveKey"]);
      const slowly = { name: "PBKDF2", hash: "SHA-1", salt: bytes("salt"), iterations: 4096 };
      equal(hex(await subtle.deriveBits(slowly, password, 160)), "4b007901b765489abead49d926f721d065a429c1");
      const other = await subtle.importKey("raw", bytes("passwd"), "PBKDF2", false, ["deriveBits"]);
      const bits = await subtle.deriveBits({ name: "PBKDF2", hash: "SHA-256", salt: bytes("salt"), iterations: 1 }, other, 512);
      equal(hex(bits).slice(0, 32), "55ac046e56e3089fec1691c22544b605");
      const key = await subtle.deriveKey(how, source, { name: "AES-GCM", length: 256 }, true, ["encrypt"]);
      equal(hex(await subtle.exportKey("raw", key)).slice(0, 32), "3cb25f25faacd57a90434f64d0362f2a");
      const hmac = await subtle.deriveKey(slowly, password, { name: "HMAC", hash: "SHA-256" }, true, ["sign"]);
      equal([hmac.algorithm.length, hex(await subtle.exportKey("raw", hmac)).slice(0, 8)], [512, "4b007901"]);
      await throws(() => subtle.deriveBits(how, source, 8 * 255 * 32 + 8), "OperationError");
      await throws(() => subtle.deriveBits(how, source, 12), "OperationError");
      await throws(() => subtle.deriveBits(how, source), "OperationError");
      await throws(() => subtle.deriveBits({ ...slowly, iterations: 0 }, password, 128), "OperationError");
      await throws(() => subtle.deriveBits(how, password, 128), "InvalidAccessError");
      await throws(() => subtle.deriveKey(slowly, other, { name: "AES-GCM", length: 256 }, true, ["encrypt"]), "InvalidAccessError");
      await throws(() => subtle.importKey("raw", bytes("x"), "HKDF", true, ["deriveBits"]), "SyntaxError");
      await throws(() => subtle.exportKey("raw", source), "NotSupportedError");
      await throws(() => subtle.generateKey("HKDF", false, ["deriveBits"]), "NotSupportedError");
    },
    async "subtle with ECDH, X25519"() {
      // RFC 7518, C, and RFC 7748, 6.1.
      const algorithm = { name: "ECDH", namedCurve: "P-256" };
      const alice = {
        kty: "EC",
        crv: "P-256",
        x: "gI0GAILBdu7T53akrFmMyGcsF3n5dO7MmwNBHKW5SV0",
        y: "SLW_xSffzlPWrHEVI30DHM_4egVwt3NQqeUD7nMFpps",
        d: "0_NxaRPUMQoAJt50Gz8YiTr8gRTwyEaCumd-MToTmIo",
      };
      const bob = { kty: "EC", crv: "P-256", x: "weNJy2HscCSM6AEDTDg04biOvhFhyyWvOHQfeF_PxMQ", y: "e8lnCO-AlStT-NJVX-crhB7QRYhiix03illJOVAOyck" };
      const key = await subtle.importKey("jwk", alice, algorithm, false, ["deriveBits", "deriveKey"]);
      const known = await subtle.importKey("jwk", bob, algorithm, false, []);
      const secret = "9e56d91d817135d372834283bf84269cfb316ea3da806a48f6daa7798cfe90c4";
      equal(hex(await subtle.deriveBits({ name: "ECDH", public: known }, key, null)), secret);
      equal(hex(await subtle.deriveBits({ name: "ECDH", public: known }, key, 12)), "9e50");
      const derived = await subtle.deriveKey({ name: "ECDH", public: known }, key, { name: "AES-GCM", length: 128 }, true, ["encrypt"]);
      equal(hex(await subtle.exportKey("raw", derived)), secret.slice(0, 32));
      await throws(() => subtle.deriveBits({ name: "ECDH", public: known }, key, 264), "OperationError");
      await throws(() => subtle.deriveBits({ name: "ECDH", public: key }, key, 256), "InvalidAccessError");
      await throws(() => subtle.deriveBits({ name: "ECDH" }, key, 256), "TypeError");
      await throws(() => subtle.importKey("jwk", bob, algorithm, false, ["deriveBits"]), "SyntaxError");
      for (const namedCurve of ["P-384", "P-521"]) {
        const [one, two] = [0, 1].map(() => subtle.generateKey({ name: "ECDH", namedCurve }, false, ["deriveBits"]));
        const [left, right] = [await one, await two];
        const agreed = await subtle.deriveBits({ name: "ECDH", public: right.publicKey }, left.privateKey, null);
        equal(hex(agreed), hex(await subtle.deriveBits({ name: "ECDH", public: left.publicKey }, right.privateKey, null)));
        await throws(() => subtle.deriveBits({ name: "ECDH", public: right.publicKey }, key, 128), "InvalidAccessError");
      }
      const pkcs8 = ofHex("302e020100300506032b656e042204205dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
      const theirs = ofHex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
      const mine = await subtle.importKey("pkcs8", pkcs8, "X25519", true, ["deriveBits"]);
      const peer = await subtle.importKey("raw", theirs, "X25519", true, []);
      equal(hex(await subtle.deriveBits({ name: "X25519", public: peer }, mine, 256)), "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
      equal(hex(await subtle.exportKey("pkcs8", mine)), hex(pkcs8));
      const { x, d } = await subtle.exportKey("jwk", mine);
      equal([hex(base64(x)), hex(base64(d))], ["de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f", hex(pkcs8).slice(32)]);
      const zero = await subtle.importKey("raw", new Uint8Array(32), "X25519", true, []);
      await throws(() => subtle.deriveBits({ name: "X25519", public: zero }, mine, 256), "OperationError");
      equal((await subtle.generateKey("X25519", false, ["deriveBits"])).publicKey.algorithm, { name: "X25519" });
    },
    async "subtle with Ed25519"() {
      // RFC 8037, A.
      const jwk = { kty: "OKP", crv: "Ed25519", x: "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", d: "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A" };
      const key = await subtle.importKey("jwk", jwk, "Ed25519", true, ["sign"]);
      const text = bytes("eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc");
      const signature = new Uint8Array(await subtle.sign("Ed25519", key, text));
      equal(hex(signature), hex(base64("hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg")));
      const known = await subtle.importKey("raw", base64(jwk.x), { name: "ED25519" }, true, ["verify"]);
      equal([known.algorithm, await subtle.verify("Ed25519", known, signature, text)], [{ name: "Ed25519" }, true]);
      const spki = await subtle.exportKey("spki", known);
      const again = await subtle.importKey("spki", spki, "Ed25519", true, ["verify"]);
      equal([spki.byteLength, hex(await subtle.exportKey("raw", again))], [44, hex(base64(jwk.x))]);
      signature[0] ^= 1;
      equal(await subtle.verify("Ed25519", again, signature, text), false);
      const pkcs8 = await subtle.exportKey("pkcs8", key);
      equal((await subtle.exportKey("jwk", await subtle.importKey("pkcs8", pkcs8, "Ed25519", true, ["sign"]))).d, jwk.d);
      await throws(() => subtle.importKey("jwk", { ...jwk, x: jwk.d }, "Ed25519", true, ["sign"]), "DataError");
      await throws(() => subtle.importKey("spki", spki, "X25519", true, []), "DataError");
      const made = await subtle.generateKey("Ed25519", false, ["sign", "verify"]);
      equal(await subtle.verify("Ed25519", made.publicKey, await subtle.sign("Ed25519", made.privateKey, text), text), true);
    },
    async "subtle with RSA-PSS, RSA-OAEP"() {
      const [pss, hash] = [{ name: "RSA-PSS", saltLength: 32 }, "SHA-256"];
      const key = await subtle.importKey("pkcs8", RSA_PRIVATE, { name: "RSA-PSS", hash }, false, ["sign"]);
      const known = await subtle.importKey("spki", RSA_PUBLIC, { name: "RSA-PSS", hash }, true, ["verify"]);
      equal([await subtle.verify(pss, known, PS256, bytes("hearth")), (await subtle.exportKey("jwk", known)).alg], [true, "PS256"]);
      equal(await subtle.verify({ ...pss, saltLength: 20 }, known, PS256, bytes("hearth")), false);
      for (const saltLength of [0, 32, 64]) {
        const signature = await subtle.sign({ ...pss, saltLength }, key, bytes("hearth"));
        equal(await subtle.verify({ ...pss, saltLength }, known, signature, bytes("hearth")), true);
        equal(await subtle.verify({ ...pss, saltLength }, known, signature, bytes("hearts")), false);
      }
      await throws(() => subtle.sign({ ...pss, saltLength: 300 }, key, bytes("x")), "OperationError");
      await throws(() => subtle.sign("RSA-PSS", key, bytes("x")), "TypeError");
      const oaep = { name: "RSA-OAEP", label: bytes("label") };
      const opening = await subtle.importKey("pkcs8", RSA_PRIVATE, { name: "RSA-OAEP", hash }, true, ["decrypt", "unwrapKey"]);
      const sealing = await subtle.importKey("spki", RSA_PUBLIC, { name: "RSA-OAEP", hash }, true, ["encrypt", "wrapKey"]);
      equal(new TextDecoder().decode(await subtle.decrypt(oaep, opening, OAEP)), "secret");
      await throws(() => subtle.decrypt("RSA-OAEP", opening, OAEP), "OperationError");
      const sealed = await subtle.encrypt("RSA-OAEP", sealing, bytes("more"));
      equal(new TextDecoder().decode(await subtle.decrypt("RSA-OAEP", opening, sealed)), "more");
      await throws(() => subtle.encrypt("RSA-OAEP", sealing, new Uint8Array(191)), "OperationError");
      const content = await subtle.generateKey({ name: "AES-GCM", length: 256 }, true, ["encrypt"]);
      const wrapped = await subtle.wrapKey("raw", content, sealing, "RSA-OAEP");
      const again = await subtle.unwrapKey("raw", wrapped, opening, "RSA-OAEP", "AES-GCM", true, ["encrypt"]);
      equal(hex(await subtle.exportKey("raw", again)), hex(await subtle.exportKey("raw", content)));
    },
    async "subtle.generateKey of RSA"() {
      const algorithm = { name: "RSASSA-PKCS1-v1_5", modulusLength: 2048, publicExponent: Uint8Array.of(1, 0, 1), hash: "SHA-512" };
      const { privateKey, publicKey } = await subtle.generateKey(algorithm, true, ["sign", "verify"]);
      equal([privateKey.algorithm.modulusLength, hex(publicKey.algorithm.publicExponent)], [2048, "010001"]);
      const signature = await subtle.sign(algorithm, privateKey, bytes("hearth"));
      equal([signature.byteLength, await subtle.verify(algorithm, publicKey, signature, bytes("hearth"))], [256, true]);
      const pkcs8 = await subtle.exportKey("pkcs8", privateKey);
      const again = await subtle.importKey("pkcs8", pkcs8, algorithm, false, ["sign"]);
      equal(hex(await subtle.sign(algorithm, again, bytes("hearth"))), hex(signature));
      await throws(() => subtle.generateKey({ ...algorithm, publicExponent: Uint8Array.of(4) }, true, ["sign"]), "OperationError");
      await throws(() => subtle.generateKey({ ...algorithm, publicExponent: 65537 }, true, ["sign"]), "TypeError");
      await throws(() => subtle.generateKey(algorithm, true, ["verify"]), "SyntaxError");
      await throws(() => subtle.generateKey({ name: "RSASSA-PKCS1-v1_5" }, true, ["sign"]), "TypeError");
    },
  },
  "Event, EventTarget, CustomEvent": {
    async "ErrorEvent, MessageEvent, PromiseRejectionEvent"() {
      const error = new RangeError("far");
      const event = new ErrorEvent("error", { message: "m", lineno: 3, error });
      equal([event.type, event.message, event.lineno, event.error === error], ["error", "m", 3, true]);
      equal(new MessageEvent("message", { data: [1] }).data, [1]);
      const promise = Promise.resolve();
      equal(new PromiseRejectionEvent("unhandledrejection", { promise, reason: 4 }).reason, 4);
      await throws(() => new PromiseRejectionEvent("x", {}), "TypeError");
    },
    async "listeners, once, dispatch"() {
      const target = new EventTarget();
      const heard = [];
      target.addEventListener("x", (event) => heard.push(event.detail), { once: true });
      target.dispatchEvent(new CustomEvent("x", { detail: 1 }));
      target.dispatchEvent(new CustomEvent("x", { detail: 2 }));
      equal(heard, [1]);
    },
    async "what is removed while it is dispatched, phases, and again"() {
      const target = new EventTarget();
      const heard = [];
      const second = () => heard.push("second");
      target.addEventListener("x", (event) => {
        heard.push(event.eventPhase, event.composedPath()[0] === target);
        target.removeEventListener("x", second);
        event.stopImmediatePropagation();
      }, { once: true });
      target.addEventListener("x", second);
      target.addEventListener("x", () => heard.push("third"));
      const event = new Event("x");
      target.dispatchEvent(event);
      equal([heard, event.eventPhase, event.composedPath()], [[2, true], 0, []]);
      target.dispatchEvent(event);
      equal(heard, [2, true, "third"]);
    },
  },
  fetch: {
    async "answers, headers, bodies both ways"(base) {
      const answer = await fetch(`${base}/echo`, { method: "POST", body: "ping", headers: { "x-sent": "yes" } });
      equal([answer.status, answer.ok, await answer.text()], [200, true, "ping"]);
    },
    async "lengths are those of bodies, whatever is copied"(base) {
      const sent = async (init) => (await fetch(`${base}/seen`, { method: "POST", ...init })).text();
      const headers = { "content-length": "3" };
      equal(await sent({ headers, body: "longer than that" }), "16 16");
      equal(await sent({ headers, body: ReadableStream.from([bytes("longer"), bytes(" too")]) }), "none 10");
      equal([await sent({}), await sent({ headers })], ["0 0", "0 0"]);
      // What came with a length goes on with it.
      equal(await sent({ body: (await fetch(`${base}/hello`)).body }), "5 5");
    },
    async "gzip and deflate are decoded"(base) {
      const answer = await fetch(`${base}/gzip`, { headers: { "accept-encoding": "br;q=1, gzip, zstd" } });
      equal([answer.headers.get("x-asked").trim(), answer.headers.get("content-encoding")], ["gzip", null]);
      equal(await answer.text(), "squeezed ".repeat(20));
      equal(await new Response((await fetch(`${base}/gzip`)).body).text(), "squeezed ".repeat(20));
      const { body } = await fetch(`${base}/gzip`);
      equal(await (await fetch(`${base}/seen`, { method: "POST", body })).text(), "none 180");
    },
    async "encoded bodies in small pieces, in several, and with more behind them"(base) {
      const read = async (encoding, body) => {
        const answer = await fetch(`${base}/as`, { method: "POST", body, headers: { "x-encoding": encoding } });
        return answer.text();
      };
      const [none, x, deflated, raw] = [await pressed("gzip", ""), await pressed("gzip", "x"), await pressed("deflate", "x"), await pressed("deflate-raw", "x")];
      const slowly = (data) =>
        ReadableStream.from(
          (async function* () {
            for (const byte of data) {
              yield Uint8Array.of(byte);
              await new Promise((resolve) => setTimeout(resolve, 2));
            }
          })(),
        );
      equal([await read("gzip", await together(none, x, none, x)), await read("gzip", slowly(x))], ["xx", "x"]);
      equal([await read("deflate", slowly(deflated)), await read("deflate", slowly(raw))], ["x", "x"]);
      equal([await read("gzip", await together(x, "more")), await read("gzip", await together(x, new Uint8Array(9)))], ["x", "x"]);
      equal([await read("deflate", await together(deflated, "more")), await read("deflate", await together(raw, "more"))], ["x", "x"]);
      equal(await read("gzip", slowly(await together(x, "more"))), "x");
      await throws(() => read("gzip", "more"), "TypeError");
      await throws(async () => read("gzip", await together(x, x.subarray(0, -1))), "TypeError");
    },
    async "answers without a body, and without a fragment"(base) {
      const answer = await fetch(`${base}/304#part`);
      equal([answer.body, new Response(answer.body, answer).status, answer.url], [null, 304, `${base}/304`]);
      equal((await fetch(`${base}/hello`, { method: "HEAD" })).body, null);
    },
    async "a stream as the body"(base) {
      const { readable, writable } = new TransformStream();
      const writer = writable.getWriter();
      writer.write(bytes("one "));
      writer.write(bytes("two")).then(() => writer.close());
      equal(await (await fetch(`${base}/echo`, { method: "POST", body: readable, duplex: "half" })).text(), "one two");
    },
    async "redirections, and manual ones"(base) {
      const followed = await fetch(`${base}/redirect`);
      equal([followed.redirected, new URL(followed.url).pathname, await followed.text()], [true, "/hello", "hello"]);
      equal((await fetch(`${base}/redirect`, { redirect: "manual" })).status, 302);
      await throws(() => fetch(`${base}/redirect`, { redirect: "error" }), "TypeError");
    },
    async "abort by signal"(base) {
      await throws(() => fetch(`${base}/never`, { signal: AbortSignal.timeout(20) }), "TimeoutError");
    },
    async "abort of a body that stalls, and of one that is sent"(base) {
      // The head comes before that, also on a busy machine.
      const stalled = async (read) => read(await fetch(`${base}/stalls`, { signal: AbortSignal.timeout(500) }));
      await throws(() => stalled((answer) => answer.text()), "TimeoutError");
      const reader = (await fetch(`${base}/stalls`, { signal: AbortSignal.timeout(500) })).body.getReader();
      equal((await reader.read()).value.length, 5);
      await throws(() => reader.read(), "TimeoutError");
      let canceled;
      const body = new ReadableStream({ cancel: (reason) => void (canceled = reason.name) });
      await throws(() => fetch(`${base}/seen`, { method: "POST", body, signal: AbortSignal.timeout(20) }), "TimeoutError");
      equal(canceled, "TimeoutError");
    },
    async "abort between an answer and who waits for it"(base) {
      for (let more = 0; more < 6; more++) {
        const controller = new AbortController();
        const one = fetch(`${base}/hello`);
        const other = fetch(`${base}/stalls`, { signal: controller.signal });
        one.then(async () => {
          for (let i = 0; i < more; i++) await null;
          controller.abort();
        });
        // Both answers are there when somebody looks.
        for (const until = Date.now() + 20; Date.now() < until; );
        await throws(async () => (await other).text(), "AbortError");
      }
    },
    async "a body that is not sent is canceled"() {
      const canceled = [];
      const body = () => new ReadableStream({ cancel: (reason) => void canceled.push(reason.name) });
      await throws(() => fetch("http://denied.invalid/", { method: "POST", body: body() }), "TypeError");
      await throws(() => fetch("ftp://denied.invalid/", { method: "POST", body: body() }), "TypeError");
      await throws(() => fetch("http://denied.invalid/", { method: "POST", body: body(), signal: AbortSignal.abort() }), "AbortError");
      equal(canceled, ["TypeError", "TypeError", "AbortError"]);
    },
    async "a body that fails"(base) {
      const fails = new ReadableStream({ pull: () => Promise.reject(new RangeError("torn")) });
      await throws(() => fetch(`${base}/echo`, { method: "POST", body: fails }), "RangeError");
      await throws(() => fetch(`${base}/echo`, { method: "POST", body: ReadableStream.from(["text"]) }), "TypeError");
    },
    async "a host that no rule names is denied"() {
      await throws(() => fetch("http://elsewhere.example/"), "TypeError");
    },
  },
  FormData: {
    async "fields, files, as a body and from one"() {
      const form = new FormData();
      form.append("a", "1");
      form.append("a", "2");
      form.append("file", new Blob(["data"], { type: "text/x" }), "f.txt");
      const read = await new Response(form).formData();
      equal([read.getAll("a"), read.get("file").name, await read.get("file").text()], [["1", "2"], "f.txt", "data"]);
      const encoded = new Response("b=x+y", { headers: { "content-type": "application/x-www-form-urlencoded" } });
      equal((await encoded.formData()).get("b"), "x y");
    },
  },
  Headers: {
    async "names, values, order, set-cookie"() {
      const headers = new Headers({ B: "1", a: " 2 " });
      headers.append("b", "3");
      headers.append("set-cookie", "x");
      headers.append("set-cookie", "y");
      equal([...headers], [["a", "2"], ["b", "1, 3"], ["set-cookie", "x"], ["set-cookie", "y"]]);
      equal(headers.getSetCookie(), ["x", "y"]);
      await throws(() => headers.set("a b", "1"), "TypeError");
      equal([...new Headers([["a", undefined]])], [["a", "undefined"]]);
      await throws(() => new Headers([["a"]]), "TypeError");
    },
  },
  "node:async_hooks": {
    async "AsyncLocalStorage follows await, then, timers and callbacks"() {
      const { AsyncLocalStorage, AsyncResource } = await import("node:async_hooks");
      const storage = new AsyncLocalStorage();
      const other = new AsyncLocalStorage();
      const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
      async function* numbers() {
        yield storage.getStore();
        await pause(1);
        yield storage.getStore();
      }
      const follow = async (milliseconds) => {
        const seen = [storage.getStore()];
        await pause(milliseconds);
        seen.push(storage.getStore());
        await null;
        seen.push(storage.getStore());
        await Promise.resolve().then(() => seen.push(storage.getStore()));
        await { then: (resolve) => resolve(seen.push(storage.getStore())) };
        await new Promise((resolve) => queueMicrotask(() => resolve(seen.push(storage.getStore()))));
        for await (const value of numbers()) seen.push(value);
        try {
          await Promise.reject(new Error("x"));
        } catch {
          seen.push(storage.getStore());
        }
        other.run("inner", () => seen.push(storage.getStore() + other.getStore()));
        return seen.join();
      };
      // Side by side, the first one the slowest.
      const all = await Promise.all([3, 2, 1].map((value) => storage.run(value, follow, value)));
      equal(all, [3, 2, 1].map((value) => `${Array(9).fill(value).join()},${value}inner`));
      equal(storage.getStore(), undefined);
      equal(storage.run(1, () => storage.exit(() => storage.getStore()) ?? "none"), "none");
      const bound = storage.run("then", () => AsyncLocalStorage.bind(() => storage.getStore()));
      const resource = storage.run("made", () => new AsyncResource("x"));
      equal([bound(), resource.runInAsyncScope(() => storage.getStore())], ["then", "made"]);
      await (async () => {
        storage.enterWith("entered");
        await pause(0);
        equal(storage.getStore(), "entered");
      })();
      equal(storage.run("a", () => storage.run("b", () => storage.getStore())), "b");
    },
  },
  "performance": {
    async "marks and measures"() {
      performance.mark("begin", { startTime: 5 });
      const { duration } = performance.measure("all", "begin");
      equal([duration > 0, performance.getEntriesByName("all").length], [true, 1]);
    },
    async "now, timeOrigin"() {
      const before = performance.now();
      await new Promise((resolve) => setTimeout(resolve, 2));
      if (!(performance.now() - before >= 1)) throw new Error("time stands still");
      if (Math.abs(performance.timeOrigin + performance.now() - Date.now()) > 1000) throw new Error("another time");
    },
  },
  queueMicrotask: {
    async "before timers"() {
      const order = [];
      await new Promise((resolve) => {
        setTimeout(() => resolve(order.push("timer")), 0);
        queueMicrotask(() => order.push("task"));
      });
      equal(order, ["task", "timer"]);
    },
    async "what a task throws is told, and the next one runs"() {
      await new Promise((resolve) => {
        queueMicrotask(() => {
          throw new Error("of a task");
        });
        queueMicrotask(resolve);
      });
    },
  },
  "ReadableStream": {
    async "readers, cancel, async iteration, from, tee"() {
      let canceled;
      const source = { pull: (controller) => controller.enqueue(1), cancel: (reason) => void (canceled = reason) };
      const reader = new ReadableStream(source).getReader();
      equal(await reader.read(), { value: 1, done: false });
      await reader.cancel("done");
      equal(canceled, "done");
      const [left, right] = ReadableStream.from([1, 2, 3]).tee();
      equal([await collected(left), await collected(right)], [[1, 2, 3], [1, 2, 3]]);
    },
    async "errors, and locks"() {
      const stream = new ReadableStream({ pull: () => Promise.reject(new RangeError("x")) });
      await throws(() => collected(stream), "RangeError");
      const locked = ReadableStream.from([]);
      locked.getReader();
      await throws(() => locked.getReader(), "TypeError");
      let isMade = false;
      await new Promise((resolve) => {
        const stream = new ReadableStream({ pull: () => resolve(equal([isMade, stream.locked], [true, false])) });
        isMade = true;
      });
      for (const size of [-1, NaN, Infinity]) {
        const start = (controller) => controller.enqueue(1);
        await throws(() => new ReadableStream({ start }, { size: () => size }), "RangeError");
      }
    },
  },
  "Request, Response": {
    async "construction, clone, json, text, arrayBuffer, bytes, blob"() {
      const request = new Request("http://a/b", { method: "post", body: JSON.stringify({ x: 1 }) });
      equal([request.method, (await request.clone().json()).x, await request.text(), request.bodyUsed], ["POST", 1, '{"x":1}', true]);
      await throws(() => request.text(), "TypeError");
      const response = Response.json({ y: 2 }, { status: 201 });
      equal([response.status, response.headers.get("content-type"), await response.text()], [201, "application/json", '{"y":2}']);
      equal((await new Response("abc").arrayBuffer()).byteLength, 3);
      equal((await new Response(new URLSearchParams({ a: "b" })).bytes()).length, 3);
      await throws(() => new Response("x", { status: 204 }), "TypeError");
      equal(Response.redirect("http://a/", 303).headers.get("location"), "http://a/");
      equal([new Request("http://a/", null).method, Response.json(1, null).status, new Blob([], null).size], ["GET", 200, 0]);
      equal([new TransformStream(null).readable.getReader(null) !== null, new File([], "x", null).size], [true, 0]);
    },
  },
  structuredClone: {
    async "objects, cycles, maps, dates, buffers, errors; not functions"() {
      const value = { date: new Date(5), map: new Map([[1, new Set([2])]]), bytes: new Uint8Array([1, 2]), error: new RangeError("x") };
      value.self = value;
      const clone = structuredClone(value);
      equal(clone.self === clone, true);
      equal([clone.date.getTime(), clone.map.get(1).has(2), clone.bytes[1], clone.error.name], [5, true, 2, "RangeError"]);
      await throws(() => structuredClone(() => {}), "DataCloneError");
      const named = structuredClone(JSON.parse('{"__proto__":{"x":1}}'));
      equal([Object.getPrototypeOf(named) === Object.prototype, named.x, Object.keys(named)], [true, undefined, ["__proto__"]]);
      equal([structuredClone(new File(["ab"], "n.txt")).name, structuredClone({ a: 1 }, null).a], ["n.txt", 1]);
      const key = await crypto.subtle.generateKey({ name: "HMAC", hash: "SHA-1" }, true, ["sign"]);
      const held = [new URL("http://a/"), new Request("http://a/"), new Response(), new Headers(), new ReadableStream(), new EventTarget(), key];
      for (const value of [...held, (function* () {})(), [].values(), new WeakMap(), Promise.resolve()]) {
        await throws(() => structuredClone({ value }), "DataCloneError");
      }
    },
  },
  "TextEncoder, TextDecoder": {
    async "UTF-8, also in pieces, replaced or fatal"() {
      equal([...bytes("aß€😀")], [97, 195, 159, 226, 130, 172, 240, 159, 152, 128]);
      const decoder = new TextDecoder();
      equal(decoder.decode(new Uint8Array([0xe2, 0x82]), { stream: true }) + decoder.decode(new Uint8Array([0xac])), "€");
      equal(new TextDecoder().decode(new Uint8Array([0xff, 97])), "\ufffda");
      equal(new TextDecoder().decode(new Uint8Array([0xed, 0xa0, 0x80])), "\ufffd\ufffd\ufffd");
      equal(new TextDecoder().decode(new Uint8Array([97, 0xe2, 0x82, 97, 0xf0, 0x9f, 0x98])), "a\ufffda\ufffd");
      await throws(() => new TextDecoder("utf-8", { fatal: true }).decode(new Uint8Array([0xff])), "TypeError");
      equal(new TextEncoder().encodeInto("a€", new Uint8Array(3)), { read: 1, written: 1 });
    },
    async "TextEncoderStream, TextDecoderStream"() {
      const stream = ReadableStream.from(["a", "€"]).pipeThrough(new TextEncoderStream()).pipeThrough(new TextDecoderStream());
      equal((await collected(stream)).join(""), "a€");
      const halves = ReadableStream.from(["\ud83d", "\ude00", "x\ud83d"]).pipeThrough(new TextEncoderStream());
      equal(await new Response(halves).text(), "😀x\ufffd");
    },
  },
  "setTimeout, setInterval": {
    async "order, arguments, clearing"() {
      const order = [];
      const cleared = setTimeout(() => order.push("never"), 1);
      clearTimeout(cleared);
      await new Promise((resolve) => {
        // Far apart: a busy machine may take its time between the two lines.
        setTimeout((word) => order.push(word), 300, "second");
        setTimeout(() => order.push("first"), 1);
        const interval = setInterval(() => order.push("again") === 4 && (clearInterval(interval), resolve()), 301);
      });
      equal(order, ["first", "second", "again", "again"]);
    },
    async "thousands, each after what the one before queued"() {
      const order = [];
      await new Promise((resolve) => {
        for (let at = 0; at < 3_000; at++) setTimeout(() => order.push(at), (at * 7) % 5);
        setTimeout(resolve, 5);
      });
      equal(order.length, 3_000);
      for (let delay = 0; delay < 5; delay++) {
        const alike = order.filter((at) => (at * 7) % 5 === delay);
        equal(alike, alike.toSorted((left, right) => left - right));
      }
      await new Promise((resolve) => {
        setTimeout(() => queueMicrotask(() => order.push("task")), 1);
        setTimeout(() => resolve(order.push("timer")), 1);
      });
      equal(order.slice(-2), ["task", "timer"]);
    },
  },
  "TransformStream, WritableStream": {
    async "pipeThrough, pipeTo, flush"() {
      const seen = [];
      const double = new TransformStream({
        transform: (chunk, controller) => controller.enqueue(chunk * 2),
        flush: (controller) => controller.enqueue("end"),
      });
      await ReadableStream.from([1, 2]).pipeThrough(double).pipeTo(new WritableStream({ write: (chunk) => void seen.push(chunk) }));
      equal(seen, [2, 4, "end"]);
    },
    async "errors go both ways"() {
      const failing = new TransformStream({ transform: () => { throw new RangeError("x"); } });
      await throws(() => collected(ReadableStream.from([1]).pipeThrough(failing)), "RangeError");
      const sink = new WritableStream({ write: () => Promise.reject(new SyntaxError("x")) });
      await throws(() => ReadableStream.from([1, 2, 3]).pipeTo(sink), "SyntaxError");
    },
    async "abort waits for what is written, and a lock that is released"() {
      const order = [];
      const write = () => new Promise((resolve) => setTimeout(() => resolve(order.push("written")), 5));
      const stream = new WritableStream({ write, abort: (reason) => void order.push(reason) });
      const writer = stream.getWriter();
      const written = writer.write(1);
      const second = writer.write(2).catch((error) => order.push(`not ${error}`));
      const closed = writer.closed.catch((error) => order.push(`closed ${error}`));
      await Promise.resolve();
      await writer.abort("enough");
      await Promise.all([written, second, closed]);
      equal(order.toSorted(), ["closed enough", "enough", "not enough", "written"]);
      equal(order.slice(0, 1), ["written"]);
      const released = new WritableStream().getWriter();
      const { closed: ended } = released;
      released.releaseLock();
      await throws(() => ended, "TypeError");
      await throws(() => released.closed, "TypeError");
    },
    async "back pressure"() {
      const { readable, writable } = new TransformStream();
      const writer = writable.getWriter();
      equal(writer.desiredSize, 1);
      writer.write(1);
      equal(writer.desiredSize, 0);
      equal((await readable.getReader().read()).value, 1);
      await writer.ready;
    },
  },
  "URL, URLSearchParams": {
    async "parts, relative ones, setters"() {
      const url = new URL("../c?x=1#y", "HTTP://user:pw@EXAMPLE.com:80/a/b/");
      equal(url.href, "http://user:pw@example.com/a/c?x=1#y");
      equal([url.origin, url.port, url.pathname, url.search, url.hash], ["http://example.com", "", "/a/c", "?x=1", "#y"]);
      url.searchParams.append("z", "ä b");
      url.port = "8080";
      equal(url.href, "http://user:pw@example.com:8080/a/c?x=1&z=%C3%A4+b#y");
      equal([url.username, url.password, url.host, url.hostname], ["user", "pw", "example.com:8080", "example.com"]);
      [url.password, url.protocol, url.host, url.pathname] = ["", "https", "other.example", "d e"];
      url.hash = url.search = "";
      equal(url.href, "https://user@other.example:8080/d%20e");
      equal([url.searchParams.size, url.password, url.search, url.hash], [0, "", "", ""]);
      url.port = "no";
      url.username = "";
      equal([url.href, url.username, `${url}`], ["https://other.example:8080/d%20e", "", JSON.parse(JSON.stringify(url))]);
    },
    async "schemes without hosts, and origins"() {
      const parts = (text) => {
        const { origin, username, password, host, pathname, search, hash } = new URL(text);
        return [origin, username + password + host, pathname, search, hash];
      };
      equal(parts("mailto:a@b.example?x#"), ["null", "", "a@b.example", "?x", ""]);
      equal(parts("file:///C|/x/../y"), ["null", "", "/C:/y", "", ""]);
      equal(parts("web+x:/.//p?"), ["null", "", "//p", "", ""]);
      equal(parts("blob:https://a.example:444/1"), ["https://a.example:444", "", "https://a.example:444/1", "", ""]);
      equal(parts("ws://u@h:80"), ["ws://h", "uh", "/", "", ""]);
    },
    async "hosts: IPv4, IPv6, international names"() {
      const hostOf = (text) => new URL(text).host;
      equal(["http://0x7f.1/", "http://[::1]:3/", "http://bücher.example/", "http://[2001:db8:0:0:1:0:0:1]/"].map(hostOf), [
        "127.0.0.1",
        "[::1]:3",
        "xn--bcher-kva.example",
        "[2001:db8::1:0:0:1]",
      ]);
      equal(["http://faß.example", "http://日本語。JP/", "http://1.2.3/"].map(hostOf), ["xn--fa-hia.example", "xn--wgv71a119e.jp", "1.2.0.3"]);
      for (const text of ["http://a b/", "http://256.256.256.256/", "http://[1::2::3]/", "http://a%00b/", "//a", "http://"]) {
        await throws(() => new URL(text), "TypeError");
      }
      equal([URL.canParse("x"), new URL("data:text/plain,hi").pathname], [false, "text/plain,hi"]);
    },
    async "search parameters"() {
      const params = new URLSearchParams("?b=2&a=1&b=3");
      params.sort();
      equal([params.toString(), params.getAll("b"), params.size], ["a=1&b=2&b=3", ["2", "3"], 3]);
      params.set("b", "x");
      params.delete("a");
      equal([...params], [["b", "x"]]);
      equal(`${new URLSearchParams({ q: "a", limit: undefined })}`, "q=a&limit=undefined");
      equal([new URLSearchParams("??a=1").get("?a"), `${new URL("http://h/??b=2").searchParams}`], ["1", "%3Fb=2"]);
      const { searchParams } = new URL("http://h/?a=%zz+%E4&=1&b&&c=%F0%9F%94%A5");
      equal([...searchParams.keys()], ["a", "", "b", "c"]);
      equal([...searchParams.values()], ["%zz \ufffd", "1", "", "🔥"]);
      equal([searchParams.has("b", ""), searchParams.has("b", "1"), searchParams.get("d")], [true, false, null]);
      equal(`${new URLSearchParams([["a b", "~*"], ["\ud800", "&="]])}`, "a+b=%7E*&%EF%BF%BD=%26%3D");
    },
  },
  "the language": {
    async "RegExp with named groups, look-behind and Unicode"() {
      equal(/(?<=\$)(?<n>\d+)/u.exec("a $42").groups.n, "42");
    },
    async "BigInt, Proxy, WeakRef, generators, iterator helpers"() {
      const held = {};
      equal([String(2n ** 64n), new Proxy({}, { get: () => 1 }).x, new WeakRef(held).deref() === held], ["18446744073709551616", 1, true]);
      equal([1, 2, 3].values().map((x) => x * 2).toArray(), [2, 4, 6]);
    },
    async "deep recursion is a RangeError"() {
      const deep = (n) => 1 + deep(n + 1);
      await throws(() => deep(0), "RangeError");
      const spread = (n) => Math.max(...[n].map(spread));
      await throws(() => spread(0), "RangeError");
      const replaced = () => "x".replace("x", replaced);
      await throws(replaced, "RangeError");
      const asked = async () => 1 + (await asked());
      await throws(asked, "RangeError");
    },
    async "and so is that of the engine itself"() {
      const nested = (make, times = 20_000) => {
        let value = 1;
        for (let at = 0; at < times; at++) value = make(value);
        return value;
      };
      await throws(() => JSON.parse("[".repeat(100_000)), "RangeError");
      await throws(() => JSON.parse('{"a":'.repeat(100_000)), "RangeError");
      await throws(() => JSON.parse("[".repeat(5_000) + "]".repeat(5_000), (key, value) => value), "RangeError");
      await throws(() => JSON.stringify(nested((a) => [a])), "RangeError");
      await throws(() => JSON.stringify(nested((a) => ({ a }))), "RangeError");
      await throws(() => nested((a) => [a]).flat(Infinity), "RangeError");
      await throws(() => String(nested((a) => [a])), "RangeError");
      await throws(() => structuredClone(nested((a) => [a])), "RangeError");
      await throws(() => nested((a) => new Proxy(Object(a), {})).x, "RangeError");
      await throws(() => "x" in nested((a) => Object.create(new Proxy(Object(a), {}))), "RangeError");
      await throws(() => nested((a) => (typeof a === "function" ? a : () => 1).bind(null), 2_000)(), "RangeError");
      await throws(() => new RegExp("(".repeat(100_000)), "SyntaxError");
      for (const text of ["(", "[", "{", "!", "-", "a?", "a=>", "`${", "new ", "x=", "async()=>{", "if(1)", "function f(){", "class A{[", "...[", "{a:", "let[", "await "]) {
        try {
          (0, eval)(text.repeat(50_000));
        } catch (error) {
          if (error.name !== "RangeError" && error.name !== "SyntaxError") throw error;
        }
      }
      console.log(nested((a) => [a]), nested((cause) => new Error("x", { cause }), 2_000));
    },
    async "the stack of an error begins with what it says"() {
      equal(titleOf(new RangeError("far")), "RangeError: far");
      try {
        null.x;
      } catch (error) {
        equal(titleOf(error), "TypeError: cannot read property 'x' of null");
      }
      await throws(() => new Headers([1]), "TypeError");
      // Getters of users are not called before there is an object.
      let called = 0;
      class Lazy extends Error {
        #text = "late";
        get message() {
          called++;
          return this.#text;
        }
      }
      equal([titleOf(new Lazy()), called, new Lazy().message], ["Error", 0, "late"]);
      equal(titleOf(new (class extends RangeError {})("near")), "RangeError: near");
      const { stack } = await new Response("{bad").json().catch((error) => error);
      if (/hearth:/.test(stack)) throw new Error(stack);
    },
    async "Intl"() {
      if (typeof Intl === "undefined") throw new Error("there is none");
    },
  },
};

// Every name of ECMA-429, the minimum common API of WinterTC, 2025.
const MINIMUM = `AbortController AbortSignal Blob ByteLengthQueuingStrategy CompressionStream CountQueuingStrategy Crypto CryptoKey
  CustomEvent DOMException DecompressionStream ErrorEvent Event EventTarget File FormData Headers MessageChannel MessageEvent
  MessagePort PromiseRejectionEvent ReadableByteStreamController ReadableStream ReadableStreamBYOBReader ReadableStreamBYOBRequest
  ReadableStreamDefaultController ReadableStreamDefaultReader Request Response SubtleCrypto TextDecoder TextDecoderStream
  TextEncoder TextEncoderStream TransformStream TransformStreamDefaultController URL URLPattern URLSearchParams WebAssembly
  WritableStream WritableStreamDefaultController WritableStreamDefaultWriter atob btoa clearInterval clearTimeout console crypto
  fetch globalThis navigator onerror onrejectionhandled onunhandledrejection performance queueMicrotask reportError self
  setInterval setTimeout structuredClone`.split(/\s+/);

/** Which of those are there, and which are not. */
function minimum() {
  const group = "ECMA-429";
  const [there, missing] = [true, false].map((wanted) => MINIMUM.filter((name) => name in globalThis === wanted).join(", "));
  return [
    { group, name: there, problem: null },
    { group, name: missing, problem: "not there" },
  ];
}

export default {
  async fetch(request, env) {
    const results = [];
    for (const [group, checks] of Object.entries(CHECKS)) {
      for (const [name, check] of Object.entries(checks)) {
        try {
          const late = new Promise((_, reject) => setTimeout(() => reject(new Error("it takes too long")), 20_000));
          await Promise.race([check(env.BASE), late]);
          results.push({ group, name, problem: null });
        } catch (error) {
          results.push({ group, name, problem: `${error.name}: ${error.message} ${error.stack}` });
        }
      }
    }
    return Response.json([...results, ...minimum()]);
  },
};
