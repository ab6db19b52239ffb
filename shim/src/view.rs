//! What a process of the engine's binary sees of the machine: its program, `/proc` of itself, random numbers, and nothing else.
//!
//! Namespaces and a root directory belong to a thread, and what that thread starts has them too. So this is done on the
//! thread that starts the process and ends then.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
    mount_change, mount_remount, move_mount, open_tree, unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};

/// Where the program is then.
pub(crate) const PROGRAM: &str = "/hearth-engine";
/// The same below a root that is not in its place yet.
const PROGRAM_BELOW: &str = "hearth-engine";

/// Where random numbers come from in a static program, which cannot ask the C library whether it has a call for them.
const RANDOM: [&str; 2] = ["/dev/random", "/dev/urandom"];

/// A folder of every machine. What is mounted on it, until it becomes the root, nobody else sees.
const ANY_FOLDER: &str = "/proc";

/// Of its own process, and of none that it could not trace: engines let nobody trace them. Needs Linux 5.8.
const PROC_OPTIONS: &CStr = c"subset=pid,hidepid=ptraceable";
/// Folders and files to mount on, and no more.
const ROOT_OPTIONS: &CStr = c"size=4k,nr_inodes=8,mode=555";

/// Takes the machine away from this thread: what it starts is in namespaces of its own for mounts, System V's IPC and the
/// host's name, and finds `program` as [`PROGRAM`]. One that is `first` is the first process of a process namespace. Signals
/// that it does not handle do nothing to it then, those of its resource limits among them.
pub(crate) fn leave_machine(program: &Path, first: bool) -> io::Result<()> {
    let mut own = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    own.set(CloneFlags::CLONE_NEWPID, first);
    unshare(own).map_err(|error| io::Error::from_raw_os_error(error as i32))?;
    // Nothing of what follows reaches the node.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(because("keep mounts apart"))?;
    let program = taken(program).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("starting {}: {error}", program.display()),
        )
    })?;
    let random = RANDOM.map(|device| taken(Path::new(device)).map(|taken| (device, taken)));

    let careful = MountFlags::NOSUID | MountFlags::NODEV;
    mount("hearth", ANY_FOLDER, "tmpfs", careful, ROOT_OPTIONS).map_err(because("mount it"))?;
    let folder = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH;
    let root = openat(CWD, ANY_FOLDER, folder, Mode::empty()).map_err(because("open it"))?;
    fchdir(&root).map_err(because("enter it"))?;
    for folder in ["proc", "dev"] {
        mkdirat(&root, folder, Mode::from_raw_mode(0o555)).map_err(because("make a folder"))?;
    }
    give(&root, PROGRAM_BELOW, &program, careful)?;
    let lifeless = MountFlags::NOSUID | MountFlags::NOEXEC;
    for device in random {
        let (path, device) = device?;
        give(&root, path.trim_start_matches('/'), &device, lifeless)?;
    }
    mount("proc", "proc", "proc", careful | lifeless, PROC_OPTIONS)
        .map_err(because("mount /proc, which takes Linux 5.8"))?;
    let read_only = MountFlags::BIND | MountFlags::RDONLY;
    mount_remount(".", careful | lifeless | read_only, "").map_err(because("close it"))?;

    // The new root on top of the old one, and then without it: pivot_root(2).
    pivot_root(".", ".").map_err(because("put it in its place"))?;
    unmount(".", UnmountFlags::DETACH).map_err(because("let the node's go"))?;
    Ok(chdir("/")?)
}

/// A mount of a file that is in sight.
fn taken(file: &Path) -> io::Result<OwnedFd> {
    let tree = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(CWD, file, tree)?)
}

/// Mounts a file, read-only, below a root that is the working directory.
fn give(root: &OwnedFd, name: &str, file: &OwnedFd, flags: MountFlags) -> io::Result<()> {
    let made = OFlags::CREATE | OFlags::CLOEXEC | OFlags::WRONLY;
    openat(root, name, made, Mode::empty()).map_err(because("make a file"))?;
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(file, "", root, name, empty).map_err(because("mount a file"))?;
    let read_only = MountFlags::BIND | MountFlags::RDONLY;
    mount_remount(name, flags | read_only, "").map_err(because("close a file"))
}

fn because(step: &'static str) -> impl Fn(rustix::io::Errno) -> io::Error {
    move |error| {
        let error = io::Error::from(error);
        let problem = format!("a root directory for the engine: {step}: {error}");
        io::Error::new(error.kind(), problem)
    }
}
