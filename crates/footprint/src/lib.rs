//! Gives back memory that only a process's start needed.
//!
//! A program of tens of megabytes touches most of its text once, while it starts, and the kernel maps the pages around
//! each touch with it. They stay mapped although nothing runs there again, and every pod pays for them. [`trim`] unmaps
//! what the file can give back; what is needed again comes from the page cache, at a minor fault for 16 pages.

use std::ffi::c_void;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ptr;

use rustix::mm::{Advice, madvise};

/// Unmaps every page of this process that is an unchanged copy of a file's. Returns how many bytes were resident there.
///
/// Costs about a millisecond, and a fault for each run of pages that is needed again: call it when a process has
/// settled, not on the path of a call.
///
/// # Errors
/// When `/proc/self/smaps` cannot be read, or the kernel refuses.
pub fn trim() -> io::Result<usize> {
    let smaps = BufReader::new(File::open("/proc/self/smaps")?);
    let mut resident = 0;
    for region in clean_regions(smaps)? {
        let start = ptr::without_provenance_mut::<c_void>(region.start);
        // SAFETY: the region is a private mapping of a file that cannot be written, and no page of it differs from the
        // file (`clean_regions`), so the kernel reads back the same bytes at the next access. No other thread can
        // have changed it since: changing a page needs write permission, which this process gives no such region.
        unsafe { madvise(start, region.length, Advice::LinuxDontNeed)? };
        resident += region.resident;
    }
    Ok(resident)
}

#[derive(Debug, PartialEq, Eq)]
struct Region {
    start: usize,
    length: usize,
    resident: usize,
}

/// Private, read-only mappings of files without a page of their own. See proc(5).
///
/// Line by line: an engine has thousands of mappings, and a buffer for all their text would stay with the allocator.
fn clean_regions(smaps: impl BufRead) -> io::Result<Vec<Region>> {
    let mut regions = Vec::new();
    let mut current: Option<Region> = None;
    let is_resident = |region: &Region| region.resident > 0;
    for line in smaps.lines() {
        let line = line?;
        if let Some(region) = header(&line) {
            regions.extend(current.take().filter(is_resident));
            current = region;
            continue;
        }
        let Some((name, kilobytes)) = field(&line) else {
            continue;
        };
        match name {
            "Rss" => {
                if let Some(region) = &mut current {
                    region.resident = kilobytes * 1024;
                }
            }
            // Not `Private_Dirty`: that also counts the file's own pages while they wait to be written to the disk, as
            // every page of a program does that was just installed. A page of this process alone is anonymous.
            "Anonymous" | "Swap" | "Locked" if kilobytes > 0 => current = None,
            _ => {}
        }
    }
    regions.extend(current.filter(is_resident));
    Ok(regions)
}

/// `Some` for the first line of a mapping, with the mapping when it is one of a file, private and not writable.
fn header(line: &str) -> Option<Option<Region>> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    let permissions = words.next()?;
    let path = words.nth(3).unwrap_or_default();
    let fits = permissions.starts_with('r')
        && !permissions.contains('w')
        && permissions.ends_with('p')
        && path.starts_with('/');
    Some(fits.then_some(Region {
        start,
        length: end.checked_sub(start)?,
        resident: 0,
    }))
}

/// `Name:   12 kB`.
fn field(line: &str) -> Option<(&str, usize)> {
    let (name, rest) = line.split_once(':')?;
    Some((name, rest.trim().strip_suffix(" kB")?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(header: &str, rss: usize, anonymous: usize) -> String {
        format!(
            "{header}\nSize: 64 kB\nRss: {rss} kB\nPrivate_Dirty: {rss} kB\nAnonymous: {anonymous} kB\nVmFlags: rd ex mr\n"
        )
    }

    #[test]
    fn only_unchanged_copies_of_files_are_given_back() {
        let smaps = [
            mapping(
                "00010000-00020000 r-xp 00000000 08:01 7  /bin/engine",
                48,
                0,
            ),
            mapping("00020000-00030000 r--p 00010000 08:01 7  /bin/engine", 8, 8),
            mapping("00030000-00040000 rw-p 00020000 08:01 7  /bin/engine", 8, 0),
            mapping("00040000-00050000 r--s 00000000 08:01 8  /lib/shared", 8, 0),
            mapping("00050000-00060000 r-xp 00000000 00:00 0 ", 8, 0),
            mapping("00060000-00070000 r-xp 00000000 00:00 0  [vdso]", 4, 0),
            mapping("00070000-00080000 ---p 00000000 08:01 7  /bin/engine", 4, 0),
            mapping(
                "00080000-00090000 r--p 00000000 08:01 9  /var/a (deleted)",
                0,
                0,
            ),
        ]
        .concat();
        let expected = Region {
            start: 0x10000,
            length: 0x10000,
            resident: 48 << 10,
        };
        assert_eq!(clean_regions(smaps.as_bytes()).unwrap(), [expected]);
    }

    /// The file of this test was written moments ago when a build has just ended: its pages may still be dirty.
    #[test]
    fn a_trimmed_process_goes_on() {
        assert!(trim().unwrap() > 0, "this very code is resident");
        // Text, constants and relocated data are all read again.
        assert_eq!(format!("{:?}", Some("text")), "Some(\"text\")");
        trim().unwrap();
    }
}
