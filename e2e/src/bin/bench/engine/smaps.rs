//! What the kernel says of a process's memory: proc_pid_smaps(5).

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use hearth_e2e::SETTLE;
use hearth_e2e::wait::{Seen, until};

/// Between two looks at a process's memory.
const LOOK: Duration = Duration::from_millis(1500);

/// Bytes of a process's memory, each page that several share divided among them.
pub(crate) fn proportional(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/smaps_rollup");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    text.lines()
        .find_map(|line| value(line, "Pss"))
        .with_context(|| format!("{path} says no Pss"))
}

/// [`proportional`], once it has settled: an engine gives back what starting and placing touched a second after the last
/// placement.
pub(crate) async fn settled(process: u32) -> Result<u64> {
    until("the engine's memory to settle", SETTLE, || async {
        let before = proportional(process)?;
        tokio::time::sleep(LOOK).await;
        let now = proportional(process)?;
        let is_settled = before.abs_diff(now) * 100 < now;
        Ok(Seen::when(
            is_settled,
            now,
            format!("{before}, then {now} bytes"),
        ))
    })
    .await
}

/// What each of `count` things added to a memory of `before` bytes, in kilobytes (10^3).
pub(crate) fn growth(before: u64, after: u64, count: usize) -> f64 {
    (after as f64 - before as f64) / count as f64 / 1e3
}

/// The read-only mappings of one file in one process, in bytes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mapped {
    /// Pages that this process has touched.
    pub(crate) resident: u64,
    /// Those of them that another process has touched too, and nobody has changed.
    pub(crate) shared_clean: u64,
}

/// What a process has mapped of a file.
pub(crate) fn mapped(process: u32, file: &Path) -> Result<Mapped> {
    let path = format!("/proc/{process}/smaps");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    Ok(mapped_in(&text, &file.to_string_lossy()))
}

fn mapped_in(smaps: &str, file: &str) -> Mapped {
    let mut mapped = Mapped::default();
    let mut is_counted = false;
    for line in smaps.lines() {
        if let Some((permissions, path)) = header(line) {
            // What can be written is the memory of an instance, which begins as a copy of the file.
            is_counted = path == file && !permissions.contains('w');
        } else if is_counted {
            mapped.resident += value(line, "Rss").unwrap_or_default();
            mapped.shared_clean += value(line, "Shared_Clean").unwrap_or_default();
        }
    }
    mapped
}

/// Permissions and path from the first line of a mapping: `from-to permissions offset device inode path`.
fn header(line: &str) -> Option<(&str, &str)> {
    let (range, rest) = line.split_once(' ')?;
    let (from, to) = range.split_once('-')?;
    let is_address = |text: &str| u64::from_str_radix(text, 16).is_ok();
    if !is_address(from) || !is_address(to) {
        return None;
    }
    let mut words = rest.splitn(5, ' ');
    let permissions = words.next()?;
    Some((permissions, words.last()?.trim()))
}

/// The bytes of a line `Name:   12 kB`, when it has that name.
fn value(line: &str, name: &str) -> Option<u64> {
    let rest = line.strip_prefix(name)?.strip_prefix(':')?;
    let kilobytes: u64 = rest.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
7f0000000000-7f0000010000 r--p 00000000 08:01 7                  /var/a b.artifact
Size:                 64 kB
Rss:                  48 kB
Pss:                  24 kB
Pss_Dirty:             0 kB
Shared_Clean:         40 kB
Private_Clean:         8 kB
VmFlags: rd mr mw me
7f0000010000-7f0000020000 r-xp 00010000 08:01 7                  /var/a b.artifact
Rss:                  16 kB
Shared_Clean:         16 kB
7f0000020000-7f0000030000 rw-p 00020000 08:01 7                  /var/a b.artifact
Rss:                   4 kB
Shared_Clean:          4 kB
7f0000030000-7f0000040000 r--p 00000000 08:01 8                  /var/other
Rss:                   4 kB
Shared_Clean:          4 kB
7f0000040000-7f0000050000 r--p 00000000 00:00 0
Rss:                   4 kB
";

    #[test]
    fn only_the_read_only_mappings_of_the_file_count() {
        let expected = Mapped {
            resident: 64 << 10,
            shared_clean: 56 << 10,
        };
        assert_eq!(mapped_in(SMAPS, "/var/a b.artifact"), expected);
        assert_eq!(mapped_in(SMAPS, "/var/a"), Mapped::default());
    }

    #[test]
    fn a_value_has_the_whole_name() {
        assert_eq!(value("Pss:   24 kB", "Pss"), Some(24 << 10));
        assert_eq!(value("Pss_Dirty:   3 kB", "Pss"), None);
        assert_eq!(value("VmFlags: rd mr", "VmFlags"), None);
    }

    #[test]
    fn a_process_has_memory() {
        let own = std::process::id();
        assert!(proportional(own).unwrap() > 100_000);
    }
}
