//! A pod's files, read and written as root. What stands at a path may be the pod's author's choice, so a path never leads out of its
//! folder, and anything but a regular file is refused without waiting for it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

/// Reads a file in `folder`; links in it are followed as long as they stay inside.
pub(crate) fn read_beneath(folder: &Path, name: &Path, limit: u64) -> io::Result<String> {
    let directory = openat(
        CWD,
        folder,
        OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::PATH,
        Mode::empty(),
    )?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    read(
        openat2(directory, name, flags, Mode::empty(), resolve)?.into(),
        limit,
    )
}

/// Reads a file that is no link.
pub(crate) fn read_no_link(path: &Path, limit: u64) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    read(openat(CWD, path, flags, Mode::empty())?.into(), limit)
}

/// Opens a file that is there and no link, and empties it.
pub(crate) fn open_to_write(path: &Path) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = regular(openat(CWD, path, flags, Mode::empty())?.into())?;
    file.set_len(0)?;
    Ok(file)
}

fn regular(file: File) -> io::Result<File> {
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no regular file",
        )),
    }
}

fn read(file: File, limit: u64) -> io::Result<String> {
    let file = regular(file)?;
    let mut text = String::new();
    file.take(limit).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_stay_in_their_folder_and_only_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        std::fs::create_dir_all(volume.join("..data")).unwrap();
        std::fs::write(volume.join("..data/token"), "ours").unwrap();
        std::fs::write(dir.path().join("secret"), "theirs").unwrap();
        symlink("..data/token", volume.join("token")).unwrap();
        symlink("../secret", volume.join("out")).unwrap();
        symlink("/etc/passwd", volume.join("absolute")).unwrap();
        rustix::fs::mknodat(
            CWD,
            volume.join("fifo"),
            rustix::fs::FileType::Fifo,
            Mode::RUSR,
            0,
        )
        .unwrap();
        let read = |name: &str| read_beneath(&volume, Path::new(name), 100);
        assert_eq!(read("token").unwrap(), "ours");
        for name in [
            "out",
            "../secret",
            "absolute",
            "/etc/passwd",
            "fifo",
            "..data",
        ] {
            assert!(read(name).is_err(), "{name}");
        }
        assert!(read_no_link(&volume.join("token"), 100).is_err());
        assert_eq!(read_no_link(&volume.join("..data/token"), 2).unwrap(), "ou");
    }
}
