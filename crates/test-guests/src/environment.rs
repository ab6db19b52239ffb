//! The JavaScript environment (`js/`): QuickJS-ng, Ada, zlib, BoringSSL and our C compiled with clang, run once up to the point where a
//! user's code comes, and kept as it is then.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail, ensure};
use hearth_components::{PackageId, Resolve, c_bindings};
use wasmtime::{Engine, Instance, Linker, Module, Store, Val};
use wasmtime_wizer::{InstanceState, SnapshotVal, ValType, Wizer};

use crate::build;

/// clang's first arguments. Recursion is bounded by what JavaScript may use of the stack (`environment.c`), which must fit
/// into what is given here.
const CLANG: [&str; 8] = [
    "--target=wasm32-wasi",
    "--sysroot=/usr",
    "-O2",
    "-DNDEBUG",
    "-D_GNU_SOURCE",
    "-mbulk-memory",
    "-msign-ext",
    "-mnontrapping-fptoint",
];
/// What is ours and the engine's.
const C: [&str; 3] = ["-std=gnu23", "-Wall", "-Wno-unused-function"];
/// What [`URLS`] and [`CRYPTO`] are written in. They throw nothing.
const CXX: [&str; 3] = ["-std=c++20", "-fno-exceptions", "-fno-rtti"];
const LINK: [&str; 4] = [
    "-mexec-model=reactor",
    "-Wl,-z,stack-size=262144,--stack-first",
    "-lc++",
    "-lc++abi",
];

/// The world, and the prefix of its generated files.
const WORLD: &str = "javascript";

/// The package of the engine's source, pinned in `js/source/Cargo.lock`, and its files.
const ENGINE: &str = "rquickjs-sys";
const ENGINE_FILES: [&str; 2] = ["libunicode.c", "dtoa.c"];
/// Files of the engine that are changed. `engine.c` includes the first.
const CHANGED_FILES: [(&str, &[Change]); 2] = [
    ("quickjs.c", &ENGINE_CHANGES),
    ("libregexp.c", &REGEXP_CHANGES),
];
/// The package of what parses URLs, pinned there too.
const URLS: &str = "ada-url";
/// The package of what compresses, pinned there too, and its files.
const PRESS: &str = "libz-sys";
const PRESS_FILES: [&str; 8] = [
    "adler32.c",
    "crc32.c",
    "deflate.c",
    "inffast.c",
    "inflate.c",
    "inftrees.c",
    "trees.c",
    "zutil.c",
];

/// The package of what `crypto.subtle` is made of, pinned there too, and the files of its folder `crypto` that are needed. There are
/// no threads, no files and no processor whose instructions are known. Small is
/// without tables that gain little.
const CRYPTO: &str = "boring-sys";
const CRYPTO_ARGUMENTS: [&str; 7] = [
    "-fdata-sections",
    "-DOPENSSL_NO_ASM",
    "-DOPENSSL_NO_FILESYSTEM",
    "-DOPENSSL_NO_POSIX_IO",
    "-DOPENSSL_NO_SOCK",
    "-DOPENSSL_NO_THREADS_CORRUPT_MEMORY_AND_LEAK_SECRETS_IF_THREADED",
    "-DOPENSSL_SMALL",
];
const CRYPTO_FILES: [&str; 32] = [
    "aes/aes.cc",
    "bn/bn_asn1.cc",
    "bn/convert.cc",
    "bytestring/cbb.cc",
    "bytestring/cbs.cc",
    "curve25519/curve25519.cc",
    "ec/ec_asn1.cc",
    "ecdh/ecdh.cc",
    "ecdsa/ecdsa_asn1.cc",
    "engine/engine.cc",
    "err/err.cc",
    "evp/evp.cc",
    "evp/evp_asn1.cc",
    "evp/evp_ctx.cc",
    "evp/p_ec.cc",
    "evp/p_ed25519.cc",
    "evp/p_rsa.cc",
    "evp/p_x25519.cc",
    "evp/pbkdf.cc",
    "ex_data.cc",
    "fipsmodule/bcm.cc",
    "mem.cc",
    "rand/fork_detect.cc",
    "rand/forkunsafe.cc",
    "rand/getentropy.cc",
    "rand/rand.cc",
    "refcount.cc",
    "rsa/rsa_asn1.cc",
    "rsa/rsa_crypt.cc",
    "sha/sha512.cc",
    "stack/stack.cc",
    "thread_none.cc",
];

/// What stands in a source, how often, and what it becomes.
type Change = (&'static str, usize, &'static str);

/// Changes to the engine's source (`js/engine.c`).
///
/// Each job of the queue belongs to the asynchronous context that it was queued in, and a reaction to the one that it was attached
/// in. The engine's own hooks do not see an `await`.
///
/// References to what is in the snapshot are not counted. Arenas are a fourth as large: an instance writes to one for each size
/// of what it allocates. The last one of a size stays when it is empty.
///
/// The stack of an error begins with its name and message, as in other engines, and has no frames of the environment's own.
///
/// Functions that call themselves take some of C's stack, whose end is known, for the frames on wasmtime's own, whose is not.
const ENGINE_CHANGES: [Change; 35] = [
    (
        "    int argc;\n    JSValue argv[];\n} JSJobEntry;",
        1,
        "    JSValue context;\n    int argc;\n    JSValue argv[];\n} JSJobEntry;",
    ),
    (
        "    e->job_func = job_func;\n    e->argc = argc;\n",
        1,
        "    e->job_func = job_func;\n    e->context = js_dup(engine_context);\n    e->argc = argc;\n",
    ),
    (
        "    res = e->job_func(e->ctx, e->argc, vc(e->argv));\n",
        1,
        "    JSValue context = engine_context;\n    engine_context = e->context;\n    res = e->job_func(e->ctx, e->argc, vc(e->argv));\n    JS_FreeValue(ctx, engine_context);\n    engine_context = context;\n",
    ),
    (
        "    JSValue handler;\n} JSPromiseReactionData;",
        1,
        "    JSValue handler;\n    JSValue context;\n} JSPromiseReactionData;",
    ),
    (
        "        rd->handler = js_dup(handler);\n",
        1,
        "        rd->handler = js_dup(handler);\n        rd->context = js_dup(engine_context);\n",
    ),
    (
        "    JS_FreeValueRT(rt, rd->handler);\n    js_free_rt(rt, rd);\n",
        1,
        "    JS_FreeValueRT(rt, rd->handler);\n    JS_FreeValueRT(rt, rd->context);\n    js_free_rt(rt, rd);\n",
    ),
    (
        "            JS_MarkValue(rt, rd->handler, mark_func);\n",
        1,
        "            JS_MarkValue(rt, rd->handler, mark_func);\n            JS_MarkValue(rt, rd->context, mark_func);\n",
    ),
    (
        "JS_EnqueueJob(ctx, promise_reaction_job, 5, args);\n",
        2,
        "JSValue context = engine_context;\n        engine_context = rd->context;\n        JS_EnqueueJob(ctx, promise_reaction_job, 5, args);\n        engine_context = context;\n",
    ),
    (
        "        void *p = JS_VALUE_GET_PTR(v);\n        JS_REF_COUNT(p)++;\n",
        1,
        "        void *p = JS_VALUE_GET_PTR(v);\n        COUNT_REFERENCE(p);\n",
    ),
    (
        "        if (--JS_REF_COUNT(p) <= 0) {\n            js_free_value_rt(rt, v);\n",
        1,
        "        if (FORGET_REFERENCE(p) <= 0) {\n            js_free_value_rt(rt, v);\n",
    ),
    (
        "    if (--JS_REF_COUNT(str) <= 0)\n",
        1,
        "    if (FORGET_REFERENCE(str) <= 0)\n",
    ),
    (
        "        p = rt->atom_array[v];\n        JS_REF_COUNT(p)++;\n",
        2,
        "        p = rt->atom_array[v];\n        COUNT_REFERENCE(p);\n",
    ),
    (
        "__JS_AtomIsConst(i))\n                JS_REF_COUNT(p)++;\n",
        1,
        "__JS_AtomIsConst(i))\n                COUNT_REFERENCE(p);\n",
    ),
    (
        "__JS_AtomIsConst(i))\n                    JS_REF_COUNT(p)++;\n",
        1,
        "__JS_AtomIsConst(i))\n                    COUNT_REFERENCE(p);\n",
    ),
    (
        "            if (__JS_AtomIsConst(i))\n                JS_REF_COUNT(str)--;\n",
        1,
        "            if (__JS_AtomIsConst(i))\n                FORGET_REFERENCE(str);\n",
    ),
    (
        "        slice->start = start << p->is_wide_char; // chars -> bytes\n        JS_REF_COUNT(p)++;\n",
        1,
        "        slice->start = start << p->is_wide_char; // chars -> bytes\n        COUNT_REFERENCE(p);\n",
    ),
    (
        "    if (--JS_REF_COUNT(p) > 0)\n        return;\n    JS_FreeAtomStruct(rt, p);\n",
        1,
        "    if (FORGET_REFERENCE(p) > 0)\n        return;\n    JS_FreeAtomStruct(rt, p);\n",
    ),
    ("    JS_REF_COUNT(sh)++;\n", 1, "    COUNT_REFERENCE(sh);\n"),
    (
        "    if (unlikely(--JS_REF_COUNT(sh) <= 0)) {\n",
        1,
        "    if (unlikely(FORGET_REFERENCE(sh) <= 0)) {\n",
    ),
    (
        "                JS_REF_COUNT(var_ref)++;\n                break;\n",
        1,
        "                COUNT_REFERENCE(var_ref);\n                break;\n",
    ),
    (
        "        if (--JS_REF_COUNT(var_ref) == 0) {\n",
        1,
        "        if (FORGET_REFERENCE(var_ref) == 0) {\n",
    ),
    (
        "#define JS_ARENA_SIZE              4096\n",
        1,
        "#define JS_ARENA_SIZE              1024\n",
    ),
    (
        "        if (unlikely(ar->n_used_blocks == 0)) {\n",
        1,
        "        struct list_head *all = &rt->arena_state.free_arena_list[block_size_idx];\n        bool is_last = all->next == &ar->free_link && all->prev == &ar->free_link;\n        if (unlikely(ar->n_used_blocks == 0) && !is_last) {\n",
    ),
    (
        "        js_dbuf_init(ctx, &dbuf);\n        if (stack_trace_limit == 0)\n",
        1,
        "        js_dbuf_init(ctx, &dbuf);\n        engine_title(ctx, &dbuf, error_obj);\n        if (stack_trace_limit == 0)\n",
    ),
    (
        "            backtrace_barrier = b->backtrace_barrier;\n        }\n\n        if (has_prepare) {\n",
        1,
        "            backtrace_barrier = b->backtrace_barrier;\n            if (engine_hides(ctx, b->filename))\n                continue;\n        }\n\n        if (has_prepare) {\n",
    ),
    (
        "static inline bool js_check_stack_overflow(JSRuntime *rt, size_t alloca_size)\n{\n",
        1,
        "static inline bool is_stack_short(JSRuntime *rt, size_t alloca_size)\n{\n    return unlikely(js_get_stack_pointer() - alloca_size < rt->stack_limit);\n}\n\nstatic inline __attribute__((always_inline)) bool js_check_stack_overflow(JSRuntime *rt, size_t alloca_size)\n{\n    TAKE(DEEP);\n",
    ),
    (
        "    if (js_check_stack_overflow(rt, alloca_size))\n        return JS_ThrowStackOverflow(caller_ctx);\n",
        1,
        "    if (is_stack_short(rt, alloca_size))\n        return JS_ThrowStackOverflow(caller_ctx);\n",
    ),
    (
        "static JSProxyData *get_proxy_method(",
        1,
        "static inline __attribute__((always_inline)) JSProxyData *get_proxy_method(",
    ),
    (
        "static __exception int js_parse_unary(JSParseState *s, int parse_flags)\n{\n    int op;\n",
        1,
        "static __exception int js_parse_unary(JSParseState *s, int parse_flags)\n{\n    int op;\n    TAKE_PARSING(s, 160);\n",
    ),
    (
        "static __exception int js_parse_assign_expr2(JSParseState *s, int parse_flags)\n{\n",
        1,
        "static __exception int js_parse_assign_expr2(JSParseState *s, int parse_flags)\n{\n    TAKE_PARSING(s, 900);\n",
    ),
    (
        "                                                  int decl_mask)\n{\n",
        1,
        "                                                  int decl_mask)\n{\n    TAKE_PARSING(s, 400);\n",
    ),
    (
        "                                          bool export_flag)\n{\n",
        1,
        "                                          bool export_flag)\n{\n    TAKE_PARSING(s, 100);\n",
    ),
    (
        "    if (js_check_stack_overflow(rt, sizeof(arg_buf[0]) * arg_count))\n",
        1,
        "    TAKE(160);\n    if (is_stack_short(rt, sizeof(arg_buf[0]) * arg_count))\n",
    ),
    (
        "    if (js_check_stack_overflow(ctx->rt, 0))\n        return JS_ThrowStackOverflow(ctx);\n\n    /* the tag",
        1,
        "    TAKE(160);\n    if (is_stack_short(ctx->rt, 0))\n        return JS_ThrowStackOverflow(ctx);\n\n    /* the tag",
    ),
    (
        "            func = p->u.cfunc.c_function;\n            return func.iterator_next(",
        1,
        "            func = p->u.cfunc.c_function;\n            if (js_check_stack_overflow(ctx->rt, 0))\n                return JS_ThrowStackOverflow(ctx);\n            return func.iterator_next(",
    ),
];

/// The same in the parser of regular expressions.
const REGEXP_CHANGES: [Change; 1] = [(
    "    if (lre_check_stack_overflow(s->opaque, 0))\n",
    2,
    "    char taken[800];\n    __asm__ volatile(\"\" : : \"r\"(taken) : \"memory\");\n    if (lre_check_stack_overflow(s->opaque, 0))\n",
)];

/// Where the environment says why its snapshot could not be made.
const PROBLEM: &str = "snapshot_problem";

/// The component: built from source, unless that was done before.
pub(crate) fn component(root: &Path) -> Result<Vec<u8>> {
    let js = root.join("js");
    let mut inputs = vec![
        js.join("source/Cargo.lock"),
        root.join("crates/test-guests/src/environment.rs"),
        root.join("wit/agent.wit"),
        root.join("wit/javascript/environment.wit"),
    ];
    let c = files(&js, "c")?;
    let modules = files(&js.join("environment"), "js")?;
    inputs.extend(files(&root.join("wit/deps"), "wit")?);
    inputs.extend(files(&js, "h")?);
    inputs.extend(c.iter().chain(&modules).cloned());
    build::cached(root, &inputs, |folder| {
        let [engine, urls, press, crypto] = sources(&js, [ENGINE, URLS, PRESS, CRYPTO])?;
        let (engine, urls) = (engine.join("quickjs"), urls.join("deps"));
        let press = press.join("src/zlib");
        let crypto = crypto.join("deps/boringssl");
        let crypto_file = folder.join("crypto.o");
        std::fs::write(&crypto_file, crypto_object(root, &crypto)?)?;
        for (name, changes) in CHANGED_FILES {
            let source = std::fs::read_to_string(engine.join(name))?;
            std::fs::write(folder.join(name), changed(&source, changes)?)?;
        }
        let (resolve, package) = resolved(root)?;
        for (name, bytes) in c_bindings(resolve, package, Some(WORLD))? {
            std::fs::write(folder.join(name), bytes)?;
        }
        std::fs::write(folder.join("sources.h"), embedding(&modules)?)?;
        let urls_object = folder.join("urls.o");
        let mut clang = Command::new("clang++-19");
        clang.args(CLANG).args(CXX).arg("-c");
        clang.arg(urls.join("ada.cpp")).arg("-o").arg(&urls_object);
        build::run(clang)?;
        let module = folder.join("module.wasm");
        let mut clang = Command::new("clang-19");
        // What is not ours is compiled as it is.
        clang.args(CLANG).args(C);
        for include in [folder, &js] {
            clang.arg("-I").arg(include);
        }
        for include in [&engine, &urls, &press, &crypto.join("include")] {
            clang.arg("-isystem").arg(include);
        }
        clang
            .args(&c)
            .args(ENGINE_FILES.map(|name| engine.join(name)))
            .arg(folder.join("libregexp.c"))
            .args(PRESS_FILES.map(|name| press.join(name)))
            .arg(folder.join(format!("{WORLD}.c")))
            .arg(folder.join(format!("{WORLD}_component_type.o")))
            .args([urls_object, crypto_file])
            .args(LINK)
            .arg(format!("-Wl,--export={PROBLEM}"))
            .arg("-o")
            .arg(&module);
        build::run(clang)?;
        hearth_components::component(&snapshot(&std::fs::read(&module)?)?)
    })
}

/// BoringSSL as one object, from the source in `folder`, built unless that was done before: only a new version of the package changes
/// it. Its files are compiled as one, which takes a fraction of the time.
fn crypto_object(root: &Path, folder: &Path) -> Result<Vec<u8>> {
    let inputs = [
        root.join("js/source/Cargo.lock"),
        root.join("crates/test-guests/src/environment.rs"),
    ];
    build::cached(root, &inputs, |work| {
        let source = work.join("crypto.cc");
        let includes = CRYPTO_FILES.map(|name| format!("#include \"crypto/{name}\"\n"));
        std::fs::write(&source, includes.concat())?;
        let object = work.join("crypto.o");
        let mut clang = Command::new("clang++-19");
        clang.args(CLANG).args(CXX).args(CRYPTO_ARGUMENTS).arg("-c");
        for include in [folder, &folder.join("include")] {
            clang.arg("-I").arg(include);
        }
        clang.arg(source).arg("-o").arg(&object);
        build::run(clang)?;
        Ok(std::fs::read(object)?)
    })
}

/// Files of a folder that end with `.extension`, in order.
fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == extension) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The world's packages: those of an agent, and the environment's own.
fn resolved(root: &Path) -> Result<(Resolve, PackageId)> {
    let mut resolve = Resolve::default();
    resolve.push_dir(root.join("wit"))?;
    let package = resolve.push_path(root.join("wit/javascript/environment.wit"))?;
    Ok((resolve, package.0))
}

/// Where Cargo keeps the sources of packages.
fn sources<const N: usize>(js: &Path, packages: [&str; N]) -> Result<[PathBuf; N]> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--locked", "--format-version=1"])
        .arg("--manifest-path")
        .arg(js.join("source/Cargo.toml"))
        .output()
        .context("start cargo")?;
    if !output.status.success() {
        let problem = String::from_utf8_lossy(&output.stderr);
        bail!("cargo metadata for js/source failed:\n{problem}");
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let known = metadata["packages"].as_array();
    let folder = |package: &str| {
        known
            .into_iter()
            .flatten()
            .find(|known| known["name"] == package)
            .and_then(|known| Path::new(known["manifest_path"].as_str()?).parent())
            .map(Path::to_owned)
            .with_context(|| format!("js/source does not depend on {package}"))
    };
    let folders: Vec<_> = packages.into_iter().map(folder).collect::<Result<_>>()?;
    folders
        .try_into()
        .map_err(|_| anyhow!("each package has a folder"))
}

/// The engine's source with our changes.
fn changed(source: &str, changes: &[Change]) -> Result<String> {
    let mut changed = source.to_owned();
    for &(from, times, to) in changes {
        let found = changed.matches(from).count();
        ensure!(
            found == times,
            "the engine's source has {found} times what stood there {times} times when it was changed last: {from}"
        );
        changed = changed.replace(from, to);
    }
    Ok(changed)
}

/// A header with the environment's modules, each ended with a zero for the engine.
fn embedding(modules: &[PathBuf]) -> Result<String> {
    let mut text = String::new();
    let mut table = String::new();
    for (index, path) in modules.iter().enumerate() {
        let name = path.file_name().context("a module has a name")?;
        let (name, path) = (name.to_string_lossy(), path.display());
        writeln!(
            text,
            "static const char SOURCE_{index}[] = {{\n#embed \"{path}\"\n, 0}};"
        )?;
        writeln!(
            table,
            "    {{\"{name}\", SOURCE_{index}, sizeof(SOURCE_{index}) - 1}},"
        )?;
    }
    writeln!(
        text,
        "static const struct {{\n    const char *name, *text;\n    size_t length;\n}} SOURCES[] = {{\n{table}}};"
    )?;
    Ok(text)
}

/// Runs a module's initialization, and makes a module that begins where that ended.
fn snapshot(module: &[u8]) -> Result<Vec<u8>> {
    let wizer = Wizer::new();
    let ours = |error: wasmtime::Error| anyhow!("{error:#}");
    let (context, instrumented) = wizer.instrument(module).map_err(ours)?;
    let engine = Engine::default();
    let compiled = Module::new(&engine, instrumented).map_err(ours)?;
    let mut linker = Linker::new(&engine);
    linker
        .define_unknown_imports_as_traps(&compiled)
        .map_err(ours)?;
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &compiled).map_err(ours)?;
    for name in ["_initialize", wizer.get_init_func()] {
        let function = instance
            .get_typed_func::<(), ()>(&mut store, name)
            .map_err(ours)?;
        if let Err(error) = function.call(&mut store, ()) {
            let problem = problem(&mut store, instance).unwrap_or_default();
            bail!("the JavaScript environment cannot be made: {problem}\n{error:#}");
        }
    }
    let mut state = Initialized { store, instance };
    futures::executor::block_on(wizer.snapshot(&context, &mut state)).map_err(ours)
}

/// What the environment said before it trapped.
fn problem(store: &mut Store<()>, instance: Instance) -> Option<String> {
    let address = instance.get_global(&mut *store, PROBLEM)?.get(&mut *store);
    let memory = instance.get_memory(&mut *store, "memory")?;
    let text = memory.data(&*store).get(address.i32()? as usize..)?;
    let length = text.iter().position(|byte| *byte == 0)?;
    Some(String::from_utf8_lossy(&text[..length]).into_owned())
}

/// An instance whose state is read.
struct Initialized {
    store: Store<()>,
    instance: Instance,
}

impl InstanceState for Initialized {
    async fn global_get(&mut self, name: &str, _: ValType) -> SnapshotVal {
        let global = self.instance.get_global(&mut self.store, name);
        match global
            .expect("instrumentation exports it")
            .get(&mut self.store)
        {
            Val::I32(value) => SnapshotVal::I32(value),
            Val::I64(value) => SnapshotVal::I64(value),
            Val::F32(bits) => SnapshotVal::F32(bits),
            Val::F64(bits) => SnapshotVal::F64(bits),
            other => panic!("clang makes no globals like {other:?}"),
        }
    }

    async fn memory_contents(&mut self, name: &str, contents: impl FnOnce(&[u8]) + Send) {
        let memory = self.instance.get_memory(&mut self.store, name);
        contents(
            memory
                .expect("instrumentation exports it")
                .data(&self.store),
        );
    }
}
