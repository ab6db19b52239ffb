//! Positions in a user's own files, for what the engine says of the module that was made of them.
//!
//! A module may end with its source map, as a comment with a `data:` URL. It is cut off before the code goes to an instance,
//! and read when the first position is looked up: a function that throws nothing pays for the text alone.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::javascript::Module;

/// How a source map begins, at the start of a module's last line.
const MARK: &str = "//# sourceMappingURL=data:application/json";
/// What stands before the map itself, after the type and its parameters.
const ENCODING: &str = ";base64,";

/// The code of a module without the source map that it may end with, and that map in base64.
pub fn apart(text: &str) -> (&str, Option<&str>) {
    let trimmed = text.trim_end();
    let start = trimmed.rfind('\n').map_or(0, |end| end + 1);
    let line = &trimmed[start..];
    let map = (line.strip_prefix(MARK)).and_then(|rest| Some(rest.split_once(ENCODING)?.1));
    match map {
        Some(map) => (&text[..start], Some(map)),
        None => (text, None),
    }
}

/// Where the code of modules comes from.
pub(crate) struct Positions(Vec<Mapped>);

/// A module that has a source map.
struct Mapped {
    /// Its name, as the engine writes it.
    name: String,
    /// The map in base64.
    map: String,
    read: OnceLock<Option<SourceMap>>,
}

impl Positions {
    /// Takes the source maps out of those modules that have one.
    pub(crate) fn of(modules: &mut [Module]) -> Option<Self> {
        let mapped: Vec<_> = modules.iter_mut().filter_map(Mapped::of).collect();
        (!mapped.is_empty()).then_some(Self(mapped))
    }

    /// Bytes of what the maps were read to.
    pub(crate) fn bytes(&self) -> usize {
        let read = self
            .0
            .iter()
            .filter_map(|module| module.read.get()?.as_ref());
        read.map(|map| map.points.len() * size_of::<Point>()).sum()
    }

    /// `text` with each position in one of the modules replaced by the one that it comes from.
    pub(crate) fn translate<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut found: Vec<_> = self.0.iter().flat_map(|module| module.find(text)).collect();
        if found.is_empty() {
            return Cow::Borrowed(text);
        }
        found.sort_by_key(|(place, _)| place.start);
        let mut translated = String::new();
        let mut copied = 0;
        for (place, original) in found {
            // One name can be the end of another.
            if place.start >= copied {
                translated.push_str(&text[copied..place.start]);
                translated.push_str(&original);
                copied = place.end;
            }
        }
        translated.push_str(&text[copied..]);
        Cow::Owned(translated)
    }
}

impl Mapped {
    fn of(module: &mut Module) -> Option<Self> {
        let (code, map) = apart(&module.source);
        let (code, map) = (code.len(), map?.to_owned());
        module.source.truncate(code);
        Some(Self {
            name: module.name.clone(),
            map,
            read: OnceLock::new(),
        })
    }

    /// The module's positions in a text: where they stand, and what they come from.
    fn find(&self, text: &str) -> Vec<(Range<usize>, String)> {
        let Some(map) = text.contains(&self.name).then(|| self.map()).flatten() else {
            return Vec::new();
        };
        let find = |(start, _)| {
            if text[..start].ends_with(is_of_name) {
                return None;
            }
            let end = start + self.name.len();
            let (line, column, length) = line_and_column(&text[end..])?;
            let (source, line, column) = map.original(line, column)?;
            Some((start..end + length, format!("{source}:{line}:{column}")))
        };
        text.match_indices(&self.name).filter_map(find).collect()
    }

    fn map(&self) -> Option<&SourceMap> {
        let read = || SourceMap::read(&STANDARD.decode(self.map.trim_end()).ok()?);
        self.read.get_or_init(read).as_ref()
    }
}

fn is_of_name(character: char) -> bool {
    character.is_alphanumeric() || "_-./\\$".contains(character)
}

/// `:12:7` at the start of a text, and how long that is.
fn line_and_column(text: &str) -> Option<(u32, u32, usize)> {
    let number = |text: &str| -> Option<(u32, usize)> {
        let rest = text.strip_prefix(':')?;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        Some((rest[..digits].parse().ok()?, digits + 1))
    };
    let (line, first) = number(text)?;
    let (column, second) = number(&text[first..])?;
    Some((line, column, first + second))
}

/// A source map of version 3, without sections.
struct SourceMap {
    sources: Vec<String>,
    /// In the order of their places in the module.
    points: Vec<Point>,
}

/// A place in the module and where it comes from; lines and columns from zero.
struct Point {
    line: u32,
    column: u32,
    source: u32,
    from_line: u32,
    from_column: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    #[serde(default)]
    source_root: Option<String>,
    sources: Vec<Option<String>>,
    mappings: String,
}

impl SourceMap {
    /// `None` for what is no source map.
    fn read(json: &[u8]) -> Option<Self> {
        let wire: Wire = serde_json::from_slice(json).ok()?;
        let root = wire.source_root.unwrap_or_default();
        let sources = wire.sources.into_iter().map(|source| {
            let source = source.unwrap_or_default();
            match root.is_empty() || root.ends_with('/') {
                true => format!("{root}{source}"),
                false => format!("{root}/{source}"),
            }
        });
        Some(Self {
            sources: sources.collect(),
            points: points(&wire.mappings)?,
        })
    }

    /// Where a line and a column come from, all from one.
    fn original(&self, line: u32, column: u32) -> Option<(&str, u32, u32)> {
        let at = (line.checked_sub(1)?, column.saturating_sub(1));
        let after = (self.points).partition_point(|point| (point.line, point.column) <= at);
        let before = self.points[..after].last();
        // The engine puts some of what happens at a module's top level before its first statement.
        let point = match before.filter(|point| point.line == at.0) {
            Some(point) => point,
            None => self.points.get(after)?,
        };
        let source = self.sources.get(point.source as usize)?;
        Some((source.as_str(), point.from_line + 1, point.from_column + 1))
    }
}

/// The segments of `mappings`: lines between `;`, segments between `,`, each of numbers that count from those before.
fn points(mappings: &str) -> Option<Vec<Point>> {
    let mut points = Vec::new();
    let (mut source, mut from_line, mut from_column) = (0i64, 0i64, 0i64);
    for (line, segments) in mappings.split(';').enumerate() {
        let mut column = 0i64;
        for segment in segments.split(',').filter(|segment| !segment.is_empty()) {
            let mut digits = segment.bytes();
            column += number(&mut digits)?;
            // A segment of one number says that its place comes from nowhere.
            let Some(change) = number(&mut digits) else {
                continue;
            };
            source += change;
            from_line += number(&mut digits)?;
            from_column += number(&mut digits)?;
            points.push(Point {
                line: u32::try_from(line).ok()?,
                column: u32::try_from(column).ok()?,
                source: u32::try_from(source).ok()?,
                from_line: u32::try_from(from_line)
                    .ok()
                    .filter(|line| *line < u32::MAX)?,
                from_column: u32::try_from(from_column)
                    .ok()
                    .filter(|column| *column < u32::MAX)?,
            });
        }
    }
    // They should be; what is not could not be found.
    points.sort_by_key(|point| (point.line, point.column));
    Some(points)
}

/// One number: digits of base64, the lowest first, five bits in each and a bit that says whether more follow; the lowest bit
/// of all is the sign.
fn number(digits: &mut impl Iterator<Item = u8>) -> Option<i64> {
    let mut value = 0i64;
    for shift in (0..35).step_by(5) {
        let digit = i64::from(match digits.next()? {
            letter @ b'A'..=b'Z' => letter - b'A',
            letter @ b'a'..=b'z' => letter - b'a' + 26,
            digit @ b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        });
        value |= (digit & 31) << shift;
        if digit & 32 == 0 {
            let size = value >> 1;
            return Some(if value & 1 == 1 { -size } else { size });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What esbuild makes of a file whose third line is `throw new Error(...)`, in a bundle of one line.
    const MAP: &str = r#"{"version":3,"sources":["src/agent.ts","node_modules/a/index.js"],"mappings":"AAEA,IACE;ACAF;;AACA"}"#;

    fn positions(map: &str) -> Positions {
        let mut modules = [mapped("agent.js", map)];
        let positions = Positions::of(&mut modules).unwrap();
        assert_eq!(modules[0].source, "code\n");
        positions
    }

    fn mapped(name: &str, map: &str) -> Module {
        let encoded = STANDARD.encode(map);
        Module {
            name: name.to_owned(),
            source: format!("code\n{MARK};charset=utf-8;base64,{encoded}\n"),
        }
    }

    #[test]
    fn each_module_has_its_own_map_and_what_it_says_is_not_looked_up_again() {
        let map =
            |source: &str| format!(r#"{{"version":3,"sources":["{source}"],"mappings":"AAEA"}}"#);
        let plain = Module {
            name: "plain.js".to_owned(),
            source: "code".to_owned(),
        };
        let mut modules = [
            mapped("b.js", &map("a.js")),
            plain.clone(),
            mapped("a.js", &map("c.ts")),
            mapped("of a.js", &map("d.ts")),
        ];
        let positions = Positions::of(&mut modules).unwrap();
        assert_eq!(
            positions.translate("a.js:1:1 plain.js:1:1 b.js:1:1 lib/b.js:1:1 of a.js:1:1"),
            "c.ts:3:1 plain.js:1:1 a.js:3:1 lib/b.js:1:1 d.ts:3:1"
        );
        assert!(Positions::of(&mut [plain]).is_none());
    }

    #[test]
    fn positions_in_a_text_are_those_of_the_sources() {
        let positions = positions(MAP);
        for (text, expected) in [
            ("at f (agent.js:1:1)", "at f (src/agent.ts:3:1)"),
            // Between two points: what the first one begins.
            (
                "agent.js:1:4 and agent.js:1:9",
                "src/agent.ts:3:1 and src/agent.ts:4:3",
            ),
            ("agent.js:2:5", "node_modules/a/index.js:4:1"),
            // Before what is known: the next thing that is.
            ("agent.js:3:1", "node_modules/a/index.js:5:1"),
            // Nothing is known of it, or it is another file.
            ("agent.js:7:1", "agent.js:7:1"),
            (
                "my-agent.js:1:1 agent.js agent.js:1",
                "my-agent.js:1:1 agent.js agent.js:1",
            ),
        ] {
            assert_eq!(positions.translate(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_map_leaves_texts_as_they_are() {
        for map in [
            "",
            "{}",
            r#"{"sources":[],"mappings":"AAAA"}"#,
            r#"{"sources":["a"],"mappings":"!"}"#,
        ] {
            assert_eq!(
                positions(map).translate("agent.js:1:1"),
                "agent.js:1:1",
                "{map}"
            );
        }
        let module = "code\n//# sourceMappingURL=agent.js.map\n";
        assert_eq!(apart(module), (module, None));
        assert_eq!(apart(""), ("", None));
    }

    #[test]
    fn fuzz_source_map() {
        let examples = [
            MAP,
            r#"{"sourceRoot":"x","sources":[null,"b"],"mappings":"A;;AACA,gBAAgB;"}"#,
        ];
        hearth_fuzz::text("fuzz_source_map", &examples, |input| {
            let Some(map) = SourceMap::read(input.as_bytes()) else {
                return;
            };
            for point in &map.points {
                map.original(point.line + 1, point.column + 1);
            }
            map.original(u32::MAX, u32::MAX);
        });
    }
}
