//! Recorded traces, in the form of Azure's public ones ("AzurePublicDatasetV2": `invocations_per_function_md.anon.d01.csv` and
//! so on): a file for each day, a line for each function, with its names, its trigger, and its calls in each minute of the day.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::traces::{BYTES, DAYS, STARTS, Trace};
use crate::engine::zipf::Random;

/// Minutes of a day.
const MINUTES: usize = 1440;
/// Columns before the minutes: owner, app, function, trigger.
const NAMES: usize = 4;
/// Functions that are played, and calls of all together: more take memory and hours, and say no more.
const FUNCTIONS: usize = 500;
const CALLS: u64 = 50_000_000;

/// What files hold.
#[derive(Debug)]
pub(crate) struct Recorded {
    /// What is played.
    pub(crate) traces: Vec<Trace>,
    /// Functions that are not.
    pub(crate) left_out: usize,
}

/// Reads one file for each day, in order.
///
/// # Errors
/// Names the file and the line that cannot be read.
pub(crate) fn read(files: &[PathBuf]) -> Result<Recorded> {
    ensure!(
        files.len() as u64 == DAYS,
        "a trace has {DAYS} days, each a file, and these are {}: the last day is what policies are compared by, and a forecast needs the others",
        files.len()
    );
    let mut functions = BTreeMap::new();
    for (day, file) in files.iter().enumerate() {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        add_day(&mut functions, day, file, &text)?;
    }
    Ok(sampled(functions))
}

/// Calls in each minute of all days, by the names of a function.
type Minutes = BTreeMap<String, Vec<u32>>;

fn add_day(functions: &mut Minutes, day: usize, file: &Path, text: &str) -> Result<()> {
    let mut lines = text.lines().enumerate();
    let header = lines.next().map_or("", |(_, line)| line);
    ensure!(
        header.split(',').count() == NAMES + MINUTES,
        "{}: the first line has {} columns and not the names of {NAMES} and {MINUTES} minutes",
        file.display(),
        header.split(',').count()
    );
    for (number, line) in lines {
        let place = || format!("{}:{}", file.display(), number + 1);
        let columns: Vec<&str> = line.split(',').collect();
        ensure!(
            columns.len() == NAMES + MINUTES,
            "{}: {} columns and not {}",
            place(),
            columns.len(),
            NAMES + MINUTES
        );
        let (names, minutes) = columns.split_at(NAMES);
        // One that has two triggers has two lines.
        let calls = functions
            .entry(names.join(","))
            .or_insert_with(|| vec![0; MINUTES * DAYS as usize]);
        for (minute, text) in minutes.iter().enumerate() {
            let count: u32 = text
                .trim()
                .parse()
                .with_context(|| format!("{}: {text:?} calls in minute {}", place(), minute + 1))?;
            calls[day * MINUTES + minute] += count;
        }
    }
    Ok(())
}

/// As many functions as can be played, taken evenly over the order of their names, which are digests in Azure's.
fn sampled(functions: Minutes) -> Recorded {
    let all = functions.len();
    let step = all.div_ceil(FUNCTIONS).max(1);
    let (mut traces, mut calls) = (Vec::new(), 0);
    for (index, (_, minutes)) in functions.into_iter().step_by(step).enumerate() {
        let count: u64 = minutes.iter().copied().map(u64::from).sum();
        if calls + count > CALLS {
            continue;
        }
        calls += count;
        traces.push(Trace {
            calls: spread(&mut Random::new(index as u64 + 400), &minutes),
            start: STARTS[index % STARTS.len()],
            bytes: BYTES,
        });
    }
    Recorded {
        left_out: all - traces.len(),
        traces,
    }
}

/// When calls came within each minute is not recorded: anywhere.
fn spread(random: &mut Random, minutes: &[u32]) -> Vec<u64> {
    let minute_ms = Duration::from_secs(60).as_millis() as f64;
    let mut calls = Vec::new();
    for (minute, count) in minutes.iter().enumerate() {
        let from = calls.len();
        calls.extend((0..*count).map(|_| ((minute as f64 + random.unit()) * minute_ms) as u64));
        calls[from..].sort_unstable();
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(lines: &[(&str, &[(usize, u32)])]) -> String {
        let header = |column| match column {
            0..NAMES => "Hash".to_owned(),
            _ => (column - NAMES + 1).to_string(),
        };
        let header: Vec<_> = (0..NAMES + MINUTES).map(header).collect();
        let mut text = header.join(",");
        for (name, calls) in lines {
            let mut minutes = vec![0; MINUTES];
            for (minute, count) in *calls {
                minutes[*minute] = *count;
            }
            let minutes: Vec<_> = minutes.iter().map(u32::to_string).collect();
            text += &format!("\no,a,{name},http,{}", minutes.join(","));
        }
        text
    }

    fn add(days: &[&str]) -> Result<Minutes> {
        let mut functions = Minutes::new();
        for (day, text) in days.iter().enumerate() {
            add_day(&mut functions, day, Path::new("day.csv"), text)?;
        }
        Ok(functions)
    }

    #[test]
    fn calls_come_in_the_minutes_in_which_they_were_counted() {
        let days = [
            file(&[("f", &[(0, 2), (1439, 1)]), ("g", &[(5, 1)])]),
            file(&[("f", &[(10, 3)])]),
        ];
        let recorded = sampled(add(&[&days[0], &days[1]]).unwrap());
        assert_eq!((recorded.traces.len(), recorded.left_out), (2, 0));
        let minutes = |trace: &Trace| -> Vec<u64> {
            assert!(trace.calls.is_sorted());
            trace.calls.iter().map(|at| at / 60_000).collect()
        };
        assert_eq!(minutes(&recorded.traces[0]), [0, 0, 1439, 1450, 1450, 1450]);
        assert_eq!(minutes(&recorded.traces[1]), [5]);
    }

    #[test]
    fn more_functions_than_are_played_are_sampled() {
        let names: Vec<_> = (0..FUNCTIONS * 2 + 1).map(|n| n.to_string()).collect();
        let functions = names.into_iter().map(|name| (name, vec![1])).collect();
        let recorded = sampled(functions);
        assert_eq!(recorded.traces.len() + recorded.left_out, FUNCTIONS * 2 + 1);
        assert!(recorded.traces.len() > FUNCTIONS / 2 && recorded.traces.len() <= FUNCTIONS);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (text, words) in [
            (
                "HashOwner,1,2".to_owned(),
                "day.csv: the first line has 3 columns",
            ),
            (file(&[]) + "\no,a,f,http,1", "day.csv:2: 5 columns"),
            (
                file(&[("f", &[(1, 7)])]).replace(",7,", ",x,"),
                "day.csv:2: \"x\" calls in minute 2",
            ),
        ] {
            let error = format!("{:#}", add(&[&text]).unwrap_err());
            assert!(error.contains(words), "{error}");
        }
        let error = read(&[PathBuf::from("one.csv")]).unwrap_err().to_string();
        assert!(error.contains("3 days"), "{error}");
    }
}
