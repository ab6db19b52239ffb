//! `hearth-engine` with a door in its sandbox, for tests: a guest, or a bundle that is compiled, names something that no
//! guest must be able to do, and the process tries it. It stands for a sandbox, or a compiler, that an attacker has broken.
//!
//! Everything else is the engine's own. No image holds this program.

use std::ffi::CStr;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::process::ExitCode;

use hearth_engine::Backdoor;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a bundle begins with that names an attempt in place of a component.
const BUNDLE: &[u8] = b"backdoor:";

fn main() -> ExitCode {
    hearth_engine::main(Some(Backdoor {
        guest: attempt,
        bundle: |bytes| {
            let name = bytes.strip_prefix(BUNDLE)?;
            Some(attempt(std::str::from_utf8(name).unwrap_or_default()))
        },
    }))
}

/// Tries what `name` says: the name of the error, or `done`. The arguments are such that it would be done elsewhere.
fn attempt(name: &str) -> String {
    let null = 0;
    let path = |path: &'static CStr| path.as_ptr() as i64;
    let number = |number: i32| i64::from(number);
    let stream = number(libc::SOCK_STREAM);
    let tried = match name {
        // The process ends where it stands, as by a bug of ours.
        "crash" => std::process::abort(),
        "root" => return listed("/"),
        "others" => return others(),
        "open" => call(
            libc::SYS_openat,
            [number(libc::AT_FDCWD), path(c"/etc/passwd")],
        ),
        "create" => call(
            libc::SYS_openat,
            [
                number(libc::AT_FDCWD),
                path(c"/made"),
                number(libc::O_CREAT | libc::O_WRONLY),
                0o600,
            ],
        ),
        "open-of-parent" => call(
            libc::SYS_openat,
            [number(libc::AT_FDCWD), path(c"/proc/1/mem")],
        ),
        "execve" => call(libc::SYS_execve, [path(c"/hearth-engine"), null, null]),
        "execveat" => call(
            libc::SYS_execveat,
            [number(libc::AT_FDCWD), path(c"/hearth-engine"), null, null],
        ),
        "fork" => call(libc::SYS_clone, [number(libc::SIGCHLD)]),
        "clone3" => call(libc::SYS_clone3, []),
        "ptrace" => call(libc::SYS_ptrace, [number(0)]),
        "process_vm_readv" => call(libc::SYS_process_vm_readv, [1]),
        "mount" => call(
            libc::SYS_mount,
            [path(c"x"), path(c"/proc"), path(c"tmpfs"), null, null],
        ),
        "umount" => call(libc::SYS_umount2, [path(c"/proc")]),
        "pivot_root" => call(libc::SYS_pivot_root, [path(c"/"), path(c"/proc")]),
        "chroot" => call(libc::SYS_chroot, [path(c"/proc")]),
        "bpf" => call(libc::SYS_bpf, [0]),
        "perf_event_open" => call(libc::SYS_perf_event_open, []),
        "userfaultfd" => call(libc::SYS_userfaultfd, [1]),
        "io_uring_setup" => call(libc::SYS_io_uring_setup, [1]),
        "keyctl" => call(libc::SYS_keyctl, [0, -3]),
        "setuid" => call(libc::SYS_setuid, [0]),
        "setgid" => call(libc::SYS_setgid, [0]),
        "setgroups" => call(libc::SYS_setgroups, []),
        "capset" => call(libc::SYS_capset, []),
        "unshare" => call(libc::SYS_unshare, [number(libc::CLONE_NEWUSER)]),
        "setns" => call(libc::SYS_setns, [0]),
        "kill" => call(libc::SYS_kill, [-1]),
        "tgkill" => call(libc::SYS_tgkill, [2, 2]),
        "pidfd_send_signal" => call(libc::SYS_pidfd_send_signal, [0]),
        "reboot" => call(libc::SYS_reboot, []),
        "init_module" => call(libc::SYS_init_module, []),
        "socket-inet" => call(libc::SYS_socket, [number(libc::AF_INET), stream]),
        "socket-unix" => call(libc::SYS_socket, [number(libc::AF_UNIX), stream]),
        "socket-netlink" => call(
            libc::SYS_socket,
            [number(libc::AF_NETLINK), number(libc::SOCK_RAW)],
        ),
        "socket-packet" => call(
            libc::SYS_socket,
            [number(libc::AF_PACKET), number(libc::SOCK_RAW)],
        ),
        "socket-vsock" => call(libc::SYS_socket, [number(libc::AF_VSOCK), stream]),
        _ => return format!("nobody knows how to try {name:?}"),
    };
    match tried {
        Ok(()) => "done".to_owned(),
        Err(error) => named(&error),
    }
}

/// A system call with these arguments, and zeros for the others.
fn call<const N: usize>(number: i64, arguments: [i64; N]) -> io::Result<()> {
    let at = |at: usize| arguments.get(at).copied().unwrap_or_default();
    // SAFETY: it may do what it likes to this process, which is a test's and holds nothing; pointers among the arguments
    // are to strings that live as long as the program.
    match unsafe { libc::syscall(number, at(0), at(1), at(2), at(3), at(4), 0i64) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn named(error: &io::Error) -> String {
    let name = match error.raw_os_error() {
        Some(libc::EPERM) => "EPERM",
        Some(libc::ENOENT) => "ENOENT",
        Some(libc::EACCES) => "EACCES",
        Some(libc::EROFS) => "EROFS",
        Some(libc::ENOSYS) => "ENOSYS",
        _ => return error.to_string(),
    };
    name.to_owned()
}

/// Names in a folder, in order.
fn listed(folder: &str) -> String {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => return named(&error),
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    let mut names: Vec<_> = names
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.sort();
    names.join(" ")
}

/// Processes that `/proc` shows beside this one.
fn others() -> String {
    let own = fs::read_link("/proc/self").unwrap_or_default();
    let mut others = String::new();
    for name in listed("/proc").split(' ') {
        if name.parse::<u32>().is_ok() && own.as_os_str() != name {
            // Writing to a string does not fail.
            let _ = write!(others, "{name} ");
        }
    }
    others
}
