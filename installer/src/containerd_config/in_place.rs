//! The runtime's table at the end of a main file of version 2, between two comments.
//!
//! Text is added and cut out again, and nothing is printed anew: so the owner's text comes back byte for byte, with line ends
//! and missing last ones.

use std::collections::BTreeMap;
use std::path::Path;

use hearth_api::RUNTIME_CLASS;
use toml_edit::{DocumentMut, Item, Value};

use super::{ConfigError, parse, plugin, runtime_table, runtimes, version};

const BEGIN: &str =
    "# Written by Hearth's installer; a change down to the next such line is overwritten.\n";
const END: &str = "# Down to here written by Hearth's installer.\n";
/// For a file that has none.
const VERSION: &str = "version = 2\n";

/// The owner's text with the runtime's table. `None` is a file that is not there.
pub(super) fn with_table(own: Option<&str>, bin_dir: &Path) -> Result<String, ConfigError> {
    let text = own.unwrap_or_default();
    let document = parse(text)?;
    if let Some(theirs) = runtime(&document) {
        let ours = parse(&runtime_table(2, bin_dir))?;
        return match same(theirs, runtime(&ours)) {
            true => Ok(text.to_owned()),
            false => Err(ConfigError::Owners),
        };
    }
    let mut added = String::new();
    if own.is_some() {
        // Ends a last line that does not end, and sets us apart where it does.
        added.push('\n');
    }
    added.push_str(BEGIN);
    if document.get("version").is_none() {
        added.push_str(VERSION);
    }
    added.push('\n');
    if runtimes(&document, 2).is_none_or(|runtimes| runtimes.is_empty()) {
        added.push_str(&default_runtime());
    }
    added.push_str(&runtime_table(2, bin_dir));
    added.push_str(END);
    let text = format!("{text}{added}");
    match parse(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(ConfigError::Closed(error.to_string())),
    }
}

/// The owner's text. `None` where nothing is left, of a file that was not there before.
pub(super) fn without_table(main: &str) -> Option<String> {
    let Some((before, written, after)) = split(main) else {
        return Some(main.to_owned());
    };
    if before.is_empty() && after.is_empty() {
        return None;
    }
    let before = match before.strip_suffix('\n') {
        Some(own) if after.is_empty() || own.is_empty() || own.ends_with('\n') => own,
        // It ends the owner's last line now, and something follows.
        _ => before,
    };
    let own = format!("{before}{after}");
    match written.contains(VERSION) && version(Some(&own)).is_err() {
        // The owner wrote on in a file that had its version from us.
        true => Some(format!("{VERSION}{own}")),
        false => Some(own),
    }
}

/// What is before our text, our text, and what is after it.
fn split(main: &str) -> Option<(&str, &str, &str)> {
    let begin = main.find(BEGIN)?;
    let end = begin + main[begin..].find(END)? + END.len();
    Some((&main[..begin], &main[begin..end], &main[end..]))
}

/// containerd 1.7 forgets its own runtime where it reads of another, and does not start without.
fn default_runtime() -> String {
    format!(
        "[plugins.'{}'.containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n\n",
        plugin(2)
    )
}

fn runtime(document: &DocumentMut) -> Option<&Item> {
    runtimes(document, 2)?.get(RUNTIME_CLASS)
}

/// Tools that write the file anew drop comments, and with them what says that the table is ours.
fn same(theirs: &Item, ours: Option<&Item>) -> bool {
    ours.is_some_and(|ours| values(theirs) == values(ours))
}

/// A table's texts and lists of texts, whatever their quotes. Others are not ours.
fn values(table: &Item) -> Option<BTreeMap<&str, Vec<&str>>> {
    let entries = table.as_table_like()?.iter();
    entries
        .map(|(key, item)| Some((key, texts(item)?)))
        .collect()
}

fn texts(item: &Item) -> Option<Vec<&str>> {
    match item.as_array() {
        Some(list) => list.iter().map(Value::as_str).collect(),
        None => Some(vec![item.as_str()?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BIN: &str = "/opt/hearth/bin";

    /// What is added is taken out again, byte for byte.
    fn check(own: Option<&str>) -> String {
        let text = with_table(own, Path::new(BIN)).unwrap();
        let document = parse(&text).unwrap();
        assert!(runtime(&document).is_some(), "{text}");
        assert_eq!(version(Some(&text)), Ok(2), "{text}");
        assert_eq!(without_table(&text).as_deref(), own, "{text}");
        text
    }

    fn refused(own: &str) -> ConfigError {
        with_table(Some(own), Path::new(BIN)).unwrap_err()
    }

    #[test]
    fn the_owners_text_comes_back_byte_for_byte() {
        let own = "# ours\nversion = 2 # why\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n  runtime_type = 'x'\n";
        let text = check(Some(own));
        assert_eq!(
            text.strip_prefix(own).unwrap(),
            "\n\
             # Written by Hearth's installer; a change down to the next such line is overwritten.\n\
             \n\
             [plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.hearth]\n\
             runtime_type = \"io.containerd.hearth.v1\"\n\
             runtime_path = \"/opt/hearth/bin/containerd-shim-hearth-v1\"\n\
             pod_annotations = [\"hearth.dev/*\"]\n\
             container_annotations = [\"hearth.dev/*\"]\n\
             # Down to here written by Hearth's installer.\n"
        );
        for own in [
            "version = 2",
            "version = 2\n\n\n",
            "version = 2\r\n[grpc]\r\n  gid = 0\r\n",
            "version = 2\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    [plugins.\"io.containerd.grpc.v1.cri\".containerd]\n",
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\n  runtimes.runc.runtime_type = \"x\"\n",
        ] {
            check(Some(own));
        }
    }

    #[test]
    fn a_file_without_a_version_gets_one_and_loses_it() {
        for own in [
            None,
            Some(""),
            Some("# nothing\n"),
            Some("imports = ['/etc/x.toml']"),
        ] {
            assert!(check(own).contains("\nversion = 2\n"));
        }
    }

    #[test]
    fn a_file_without_runtimes_keeps_the_one_that_containerd_has() {
        let has_runc = |own: &str| {
            let text = check(Some(own));
            text.contains("containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n")
        };
        let cri = "[plugins.'io.containerd.grpc.v1.cri'";
        assert!(has_runc("version = 2\n"));
        assert!(has_runc(&format!(
            "version = 2\n{cri}]\nenable_cdi = true\n"
        )));
        assert!(has_runc(&format!(
            "version = 2\n{cri}.containerd.runtimes]\n"
        )));
        let crun = format!("version = 2\n{cri}.containerd.runtimes.crun]\nruntime_type = 'x'\n");
        assert!(!has_runc(&crun));
    }

    #[test]
    fn what_the_owner_wrote_meanwhile_stays() {
        let check = |own: Option<&str>, more: &str, expected: &str| {
            let text = with_table(own, Path::new(BIN)).unwrap() + more;
            assert_eq!(without_table(&text).as_deref(), Some(expected), "{text}");
        };
        check(Some("version = 2\n"), "[debug]\n", "version = 2\n[debug]\n");
        check(Some("version = 2"), "[debug]\n", "version = 2\n[debug]\n");
        check(None, "[debug]\n", "version = 2\n[debug]\n");
        check(Some(""), "# more\n", "# more\n");
    }

    #[test]
    fn a_runtime_of_the_owners_stays_the_owners() {
        let table = "[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.hearth]\n";
        let error = refused(&format!("version = 2\n{table}runtime_type = 'other'\n"));
        assert_eq!(error, ConfigError::Owners);
        // As a tool writes it that knows no comments.
        let same = format!(
            "version = 2\n{table}  container_annotations = ['hearth.dev/*']\n  pod_annotations = ['hearth.dev/*']\n  runtime_path = '/opt/hearth/bin/containerd-shim-hearth-v1'\n  runtime_type = 'io.containerd.hearth.v1'\n"
        );
        assert_eq!(with_table(Some(&same), Path::new(BIN)).unwrap(), same);
        let more = format!("{same}  snapshotter = 'x'\n");
        assert_eq!(refused(&more), ConfigError::Owners);
        // One of the two lines around ours is gone.
        let text = check(Some("version = 2\n"))
            .replace(END, "")
            .replace("pod_annotations", "other");
        assert_eq!(refused(&text), ConfigError::Owners);
    }

    #[test]
    fn runtimes_in_braces_are_left_alone() {
        let braces = "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.containerd]\nruntimes = {runc = {runtime_type = 'x'}}\n";
        assert!(matches!(refused(braces), ConfigError::Closed(_)));
    }
}
