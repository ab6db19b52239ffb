//! What an engine and a compile helper give up for good, before they look at anything that a guest's author chose: system
//! calls that neither needs, and through which a broken sandbox would reach the node. Each is refused with `EPERM`.
//!
//! The rest, users and groups, capabilities, the environment and the network, is taken away before they start: see the
//! shim's `process.rs`. What this leaves is said in docs/security.md.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// Resources of which a process gets nothing, and their names.
const NONE_OF: &[(Resource, &str)] = &[
    // What guests hold in memory belongs on no disk.
    (Resource::Core, "core dumps"),
    // What follows is the node's, and no part of answering calls: memory that is never given back, messages in the kernel,
    // a place before others.
    (Resource::Memlock, "locked memory"),
    (Resource::Msgqueue, "message queues"),
    (Resource::Rtprio, "realtime priority"),
    (Resource::Nice, "priority"),
    // Signals that wait with what they say. Those of faults, which are a guest's traps, do not wait; and all engines without
    // a user of their own count as one.
    (Resource::Sigpending, "pending signals"),
];

/// Calls by the numbers of this machine, with their names.
type Calls = &'static [(&'static str, i64)];

macro_rules! calls {
    ($($number:ident),+ $(,)?) => {
        &[$((stringify!($number), libc::$number)),+]
    };
}

/// Refused whatever their arguments.
const FORBIDDEN: Calls = calls![
    // Other programs.
    SYS_execve,
    SYS_execveat,
    // Other processes: engines of other pods have the same user.
    SYS_kill,
    SYS_tkill,
    SYS_rt_sigqueueinfo,
    SYS_rt_tgsigqueueinfo,
    SYS_pidfd_send_signal,
    SYS_pidfd_getfd,
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_kcmp,
    SYS_migrate_pages,
    SYS_move_pages,
    // Other users and rights.
    SYS_setuid,
    SYS_setgid,
    SYS_setreuid,
    SYS_setregid,
    SYS_setresuid,
    SYS_setresgid,
    SYS_setgroups,
    SYS_setfsuid,
    SYS_setfsgid,
    SYS_capset,
    SYS_personality,
    SYS_add_key,
    SYS_request_key,
    SYS_keyctl,
    // Other views of the machine.
    SYS_unshare,
    SYS_setns,
    SYS_chroot,
    SYS_pivot_root,
    SYS_mount,
    SYS_umount2,
    SYS_move_mount,
    SYS_open_tree,
    SYS_fsopen,
    SYS_fsconfig,
    SYS_fsmount,
    SYS_fspick,
    SYS_mount_setattr,
    SYS_mknodat,
    SYS_name_to_handle_at,
    SYS_open_by_handle_at,
    SYS_fanotify_init,
    SYS_quotactl,
    // The kernel's larger doors.
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_io_uring_setup,
    SYS_io_uring_enter,
    SYS_io_uring_register,
    // The machine itself.
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_kexec_load,
    SYS_kexec_file_load,
    SYS_reboot,
    SYS_swapon,
    SYS_swapoff,
    SYS_acct,
    SYS_syslog,
    SYS_sethostname,
    SYS_setdomainname,
    SYS_settimeofday,
    SYS_clock_settime,
    SYS_clock_adjtime,
    SYS_adjtimex,
    SYS_vhangup,
];

/// The same, of calls that only this architecture has.
#[cfg(target_arch = "x86_64")]
const FORBIDDEN_HERE: Calls = calls![
    SYS_fork,
    SYS_vfork,
    SYS_mknod,
    SYS_iopl,
    SYS_ioperm,
    SYS_modify_ldt,
];
#[cfg(not(target_arch = "x86_64"))]
const FORBIDDEN_HERE: Calls = &[];
#[cfg(target_arch = "x86_64")]
const FORBIDDEN_TO_COMPILE_HERE: Calls = calls![
    SYS_open,
    SYS_creat,
    SYS_mkdir,
    SYS_rmdir,
    SYS_unlink,
    SYS_rename,
    SYS_link,
    SYS_symlink,
    SYS_chmod,
    SYS_chown,
    SYS_accept,
];
#[cfg(not(target_arch = "x86_64"))]
const FORBIDDEN_TO_COMPILE_HERE: Calls = &[];

/// Refused to the compile helper beside: what it reads and writes is open when it starts.
const FORBIDDEN_TO_COMPILE: Calls = calls![
    SYS_openat,
    SYS_openat2,
    SYS_mkdirat,
    SYS_unlinkat,
    SYS_renameat2,
    SYS_linkat,
    SYS_symlinkat,
    SYS_fchmodat,
    SYS_fchownat,
    SYS_bind,
    SYS_listen,
    SYS_connect,
    SYS_accept4,
];

/// What a process is for, and so what it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Runs instances: sockets of IPv4 and IPv6, and files by name for volumes and what the kernel says of the process.
    Run,
    /// Compiles: no sockets, and no files by name.
    Compile,
}

/// Locks this thread down, and every thread that it starts. Before there are others.
pub(crate) fn engage(role: Role) -> Result<()> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    for (resource, name) in NONE_OF {
        setrlimit(*resource, none).with_context(|| format!("limit {name} to nothing"))?;
    }
    for filter in [new_style_clone()?, forbidden(role)?] {
        // The last one says more than Ok: no process of ours goes on without.
        seccompiler::apply_filter(&filter).context("refuse system calls (seccomp)")?;
    }
    Ok(())
}

/// `clone3` hides its flags from filters. glibc takes this answer for an old kernel's, and makes threads with `clone`.
fn new_style_clone() -> Result<BpfProgram> {
    compiled(
        BTreeMap::from([(libc::SYS_clone3, Vec::new())]),
        libc::ENOSYS,
    )
}

fn forbidden(role: Role) -> Result<BpfProgram> {
    let (beside, beside_here) = match role {
        Role::Run => (&[][..], &[][..]),
        Role::Compile => (FORBIDDEN_TO_COMPILE, FORBIDDEN_TO_COMPILE_HERE),
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = FORBIDDEN
        .iter()
        .chain(FORBIDDEN_HERE)
        .chain(beside)
        .chain(beside_here)
        .map(|(_, number)| (*number, Vec::new()))
        .collect();
    let threads = SeccompCmpOp::MaskedEq(libc::CLONE_THREAD as u64);
    rules.insert(libc::SYS_clone, vec![rule(&[(0, threads, 0)])?]);
    let own = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, vec![rule(&[(0, SeccompCmpOp::Ne, own)])?]);
    let other_families = match role {
        Role::Compile => Vec::new(),
        Role::Run => {
            let families = [libc::AF_INET, libc::AF_INET6];
            let others = families.map(|family| (0, SeccompCmpOp::Ne, family as u64));
            vec![rule(&others)?]
        }
    };
    rules.insert(libc::SYS_socket, other_families);
    rules.extend(by_other_numbers().map(|number| (number, Vec::new())));
    compiled(rules, libc::EPERM)
}

/// The same calls in x32's numbering, which a kernel may offer to every program of x86-64: it has a bit of its own, and 36
/// calls with other numbers. Engines make none of them.
#[cfg(target_arch = "x86_64")]
fn by_other_numbers() -> impl Iterator<Item = i64> {
    const X32: i64 = 1 << 30;
    let numbers = FORBIDDEN.iter().chain(FORBIDDEN_HERE);
    let partly = [
        libc::SYS_clone,
        libc::SYS_clone3,
        libc::SYS_tgkill,
        libc::SYS_socket,
    ];
    numbers
        .map(|(_, number)| *number)
        .chain(partly)
        .chain(512..=547)
        .map(|number| number | X32)
}
#[cfg(not(target_arch = "x86_64"))]
fn by_other_numbers() -> impl Iterator<Item = i64> {
    std::iter::empty()
}

/// All conditions hold: position of an argument, how it compares, with what.
fn rule(conditions: &[(u8, SeccompCmpOp, u64)]) -> Result<SeccompRule> {
    let conditions: Result<Vec<_>, _> = conditions
        .iter()
        .map(|(at, compares, with)| {
            // The upper half of such an argument is not the kernel's concern.
            let half = SeccompCmpArgLen::Dword;
            SeccompCondition::new(*at, half, compares.clone(), *with)
        })
        .collect();
    Ok(SeccompRule::new(conditions?)?)
}

fn compiled(rules: BTreeMap<i64, Vec<SeccompRule>>, answer: i32) -> Result<BpfProgram> {
    let arch = std::env::consts::ARCH.try_into()?;
    let answer = SeccompAction::Errno(answer as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, arch)?;
    Ok(filter.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    /// Makes a call with these arguments and zeros, and gives its error, or `None` when it worked.
    fn call(number: i64, arguments: [i64; 2]) -> Option<i32> {
        let [first, second] = arguments;
        // SAFETY: the filter answers before the kernel looks at the arguments; where a test expects a call to work, it is
        // one that takes no pointers.
        let answer = unsafe { libc::syscall(number, first, second, 0i64, 0i64, 0i64, 0i64) };
        match answer {
            -1 => io::Error::last_os_error().raw_os_error(),
            _ => None,
        }
    }

    /// Runs on a thread of its own, locked down: the test's other threads are not.
    fn locked(role: Role, test: impl FnOnce() + Send + 'static) {
        let thread = std::thread::spawn(move || {
            let mut status = std::fs::File::open("/proc/thread-self/status").unwrap();
            engage(role).unwrap();
            let status = io::read_to_string(&mut status).unwrap();
            // Without the filter, calls below would end more than this test.
            assert!(status.contains("Seccomp:\t2"), "{status}");
            test();
        });
        thread.join().unwrap();
    }

    #[test]
    fn each_forbidden_call_is_refused() {
        locked(Role::Run, || {
            for (name, number) in FORBIDDEN.iter().chain(FORBIDDEN_HERE) {
                assert_eq!(call(*number, [0, 0]), Some(libc::EPERM), "{name}");
            }
            for number in by_other_numbers() {
                assert_eq!(call(number, [0, 0]), Some(libc::EPERM), "{number:#x}");
            }
            let fork = i64::from(libc::SIGCHLD);
            assert_eq!(call(libc::SYS_clone, [fork, 0]), Some(libc::EPERM));
            assert_eq!(call(libc::SYS_clone3, [0, 0]), Some(libc::ENOSYS));
            assert_eq!(call(libc::SYS_tgkill, [1, 1]), Some(libc::EPERM));
        });
    }

    #[test]
    fn sockets_are_the_internets_or_none() {
        let stream = i64::from(libc::SOCK_STREAM);
        let made = move |family: i32| call(libc::SYS_socket, [family.into(), stream]);
        locked(Role::Run, move || {
            for family in [libc::AF_INET, libc::AF_INET6] {
                // A machine may lack one.
                assert!(
                    [None, Some(libc::EAFNOSUPPORT)].contains(&made(family)),
                    "{family}"
                );
            }
            for family in [
                libc::AF_UNIX,
                libc::AF_NETLINK,
                libc::AF_PACKET,
                libc::AF_VSOCK,
            ] {
                assert_eq!(made(family), Some(libc::EPERM), "{family}");
            }
        });
        locked(Role::Compile, move || {
            assert_eq!(made(libc::AF_INET), Some(libc::EPERM));
        });
    }

    #[test]
    fn the_compile_helper_opens_nothing() {
        locked(Role::Compile, || {
            let all = FORBIDDEN.iter().chain(FORBIDDEN_HERE);
            let all = all
                .chain(FORBIDDEN_TO_COMPILE)
                .chain(FORBIDDEN_TO_COMPILE_HERE);
            for (name, number) in all {
                assert_eq!(call(*number, [0, 0]), Some(libc::EPERM), "{name}");
            }
        });
    }

    #[test]
    fn nothing_is_had_of_what_calls_do_not_need() {
        locked(Role::Run, || {
            let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
            for name in [
                "core file size",
                "locked memory",
                "msgqueue size",
                "realtime priority",
                "nice priority",
                "pending signals",
            ] {
                let line = limits.lines().find(|line| line.contains(name)).unwrap();
                let numbers = line.split_whitespace().filter(|word| *word == "0");
                assert_eq!(numbers.count(), 2, "{line}");
            }
        });
    }

    #[test]
    fn threads_are_made_and_files_that_are_open_are_used() {
        locked(Role::Compile, || {
            let (reader, mut writer) = io::pipe().unwrap();
            let thread = std::thread::spawn(move || io::read_to_string(reader).unwrap());
            io::Write::write_all(&mut writer, b"still here").unwrap();
            drop(writer);
            assert_eq!(thread.join().unwrap(), "still here");
        });
    }
}
