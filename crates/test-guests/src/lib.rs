//! Good and bad guests. C guests are built from source with clang and wasi-libc; those that no compiler would make are
//! written as text. Everything is built once and kept by the digest of its sources.

mod build;
mod environment;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Every guest. A test runs each of them; see `engine/tests`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Guest {
    /// `examples/hello-c`: greets, and names what `$GREETING` says.
    Hello,
    /// One component with a behaviour for each path: `/trap`, `/spin`, `/hoard`, `/never`, `/fetch?url=`, `/log`, `/echo`,
    /// `/env?name=`, `/big`. With `$START=spin` its start-up code computes without end.
    Mischief,
    /// The same for wasi:http 0.3: `/trap`, `/early-trap`, `/late-trap`, `/informational`, `/spin`, `/hang`, `/late-hang`, `/silent`, `/refuse`, `/empty`,
    /// `/big`, `/fetch?url=`, `/log`, `/count`, `/after`, `/echo`,
    /// `/pass`.
    P3,
    /// Holds its host to wasi:http 0.2, item by item: `docs/conformance.md` lists its paths.
    Conform,
    /// Answers with what the host function `attempt` says of its path; only the engine of `engine/backdoor` has that.
    Backdoor,
    /// Loads JavaScript by `hearth:loader`: `/`, `/bad`.
    Loading,
    /// A command: prints its arguments, then ends with the code in the first, or as that says: `trap`, `hoard`,
    /// `read FILE`, `write FILE TEXT`.
    Command,
    /// The same as a core module of WASI preview 1.
    Preview1,
    /// The least command of preview 1: ends with the code 7.
    Exit,
    /// A command of preview 1 that makes its table larger while it may: it ends with the number of its elements, in
    /// units of 1,024.
    Tables,
    /// A component with one function that takes more processor time and memory to compile than a bundle may have.
    Bomb,
    /// A component that imports `acme:db/store`.
    UnknownImport,
    /// A core module with nothing in it.
    CoreModule,
    /// A core module with an entry that imports `get` of `env`.
    ForeignImport,
    /// The first half of a component.
    Truncated,
    /// A component that exports nothing.
    NoEntry,
}

/// Local variables of [`Guest::Bomb`], and its branches: the product counts.
const BOMB: usize = 4_000;

impl Guest {
    /// Every guest.
    pub const ALL: [Self; 16] = [
        Self::Hello,
        Self::Mischief,
        Self::P3,
        Self::Conform,
        Self::Backdoor,
        Self::Loading,
        Self::Command,
        Self::Preview1,
        Self::Exit,
        Self::Tables,
        Self::Bomb,
        Self::UnknownImport,
        Self::CoreModule,
        Self::ForeignImport,
        Self::Truncated,
        Self::NoEntry,
    ];

    /// Name of its file, without `.wasm`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hello => "hello-c",
            Self::Mischief => "mischief",
            Self::P3 => "p3",
            Self::Conform => "conform",
            Self::Backdoor => "backdoor",
            Self::Loading => "loading",
            Self::Command => "command",
            Self::Preview1 => "preview1",
            Self::Exit => "exit",
            Self::Tables => "tables",
            Self::Bomb => "bomb",
            Self::UnknownImport => "unknown-import",
            Self::CoreModule => "core-module",
            Self::ForeignImport => "foreign-import",
            Self::Truncated => "truncated",
            Self::NoEntry => "no-entry",
        }
    }

    /// The bytes, built when they are not there yet.
    ///
    /// # Errors
    /// When clang or wasi-libc are missing, or a source does not compile.
    pub fn wasm(self) -> Result<Vec<u8>> {
        let root = repository();
        let guests = root.join("crates/test-guests/guests");
        let agent = |path: PathBuf, wit| build::http_component(&root, &path, wit, build::AGENT);
        match self {
            Self::Hello => agent(root.join("examples/hello-c/hello.c"), build::P2),
            Self::Mischief => agent(guests.join("mischief.c"), build::P2),
            Self::P3 => agent(guests.join("p3.c"), build::P3),
            Self::Conform => agent(guests.join("conform.c"), build::P2),
            Self::Loading => {
                let source = guests.join("loading.c");
                build::http_component(&root, &source, build::P2, build::LOADING_AGENT)
            }
            Self::Backdoor => build::backdoor_component(&root, &guests.join("backdoor.c")),
            Self::Command => build::command_component(&guests.join("command.c")),
            Self::Preview1 => build::command_module(&guests.join("command.c")),
            Self::Exit => build::text(
                r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i32))) (memory (export "memory") 1) (func (export "_start") i32.const 7 call 0))"#,
            ),
            Self::Tables => build::text(
                r#"(module
                    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
                    (memory (export "memory") 1)
                    (table $table 0 funcref)
                    (func (export "_start")
                        (loop $more
                            (br_if $more (i32.ne (i32.const -1)
                                (table.grow $table (ref.null func) (i32.const 1024)))))
                        (call $exit (i32.div_u (table.size $table) (i32.const 1024)))))"#,
            ),
            Self::Bomb => build::text(&build::bomb(BOMB)),
            Self::UnknownImport => build::text(
                r#"(component (import "acme:db/store@1.0.0" (instance (export "get" (func (result u32))))))"#,
            ),
            Self::CoreModule => build::text("(module)"),
            Self::ForeignImport => {
                build::text(r#"(module (import "env" "get" (func)) (func (export "_start")))"#)
            }
            Self::Truncated => {
                let mut whole = Self::Hello.wasm()?;
                whole.truncate(whole.len() / 2);
                Ok(whole)
            }
            Self::NoEntry => build::text("(component)"),
        }
        .with_context(|| format!("build the guest {}", self.name()))
    }
}

/// The JavaScript environment (`js/`), built when it is not there yet.
///
/// # Errors
/// When clang or wasi-libc are missing, the engine's source cannot be had, or the environment's own code fails.
pub fn javascript_environment() -> Result<Vec<u8>> {
    environment::component(&repository()).context("build the JavaScript environment")
}

/// `hearth-bundle` (`tools/bundle`), which bundles for `hearth build`, built when it is not there yet.
///
/// # Errors
/// When Go is missing, or its modules cannot be had.
pub fn bundler() -> Result<Vec<u8>> {
    build::go_program(&repository().join("tools/bundle")).context("build hearth-bundle")
}

/// The repository's root: this crate is only used inside it.
fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
