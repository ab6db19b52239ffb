//! What was needed at each minute of earlier days, in bounded memory.

/// Minutes of a day.
const MINUTES: usize = 24 * 60;
/// Days that are remembered.
const DAYS: usize = 2;

/// The highest need of each minute of the last two days, 6 KB where there were calls.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    /// By minute of the day, then newest day first. Empty until the first call.
    minutes: Vec<[u16; DAYS]>,
    /// The minute that is being counted, since the epoch, and the highest need in it.
    current: Option<(u64, u32)>,
}

impl History {
    /// Takes up what was needed in a second (since the epoch).
    pub fn observe(&mut self, second: u64, need: u32) {
        let minute = second / 60;
        match &mut self.current {
            Some((current, highest)) if *current == minute => *highest = (*highest).max(need),
            _ => {
                self.close();
                self.current = Some((minute, need));
            }
        }
    }

    /// Ends the minute that is being counted. Minutes in which nobody counted keep what they had.
    fn close(&mut self) {
        let Some((minute, highest)) = self.current.take() else {
            return;
        };
        if self.minutes.is_empty() && highest == 0 {
            return;
        }
        self.minutes.resize(MINUTES, [0; DAYS]);
        let days = &mut self.minutes[(minute % MINUTES as u64) as usize];
        days.rotate_right(1);
        days[0] = u16::try_from(highest).unwrap_or(u16::MAX);
    }

    /// What is expected at a second (since the epoch): what each of the last days needed in that minute. Of something that
    /// happened once, nothing is expected.
    pub fn forecast(&self, second: u64) -> u32 {
        let minute = (second / 60 % MINUTES as u64) as usize;
        let days = self.minutes.get(minute);
        days.map_or(0, |days| days.iter().copied().min().unwrap_or(0).into())
    }

    /// Whether it remembers nothing.
    pub fn is_empty(&self) -> bool {
        self.minutes.is_empty()
    }

    /// Takes up what was remembered of the time before it.
    pub fn follow(&mut self, earlier: Self) {
        if self.minutes.is_empty() {
            self.minutes = earlier.minutes;
            return;
        }
        for (days, earlier) in self.minutes.iter_mut().zip(earlier.minutes) {
            match days.iter().all(|need| *need == 0) {
                true => *days = earlier,
                false => days[1..].copy_from_slice(&earlier[..DAYS - 1]),
            }
        }
    }

    /// What it remembers, in few bytes: for each minute that needed something, how many minutes it is after the last one
    /// and what it needed. The minute that is being counted is left out.
    pub fn encode(&self) -> Vec<u8> {
        let (mut bytes, mut last) = (Vec::new(), 0);
        for (minute, days) in self.minutes.iter().enumerate() {
            if days.iter().any(|need| *need > 0) {
                write(&mut bytes, minute - last);
                for need in days {
                    write(&mut bytes, (*need).into());
                }
                last = minute;
            }
        }
        bytes
    }

    /// What was encoded; `None` for bytes that nothing encodes to.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut history = Self::default();
        let mut minute = 0;
        while !bytes.is_empty() {
            history.minutes.resize(MINUTES, [0; DAYS]);
            minute += read(&mut bytes)?;
            let days = history.minutes.get_mut(minute)?;
            for need in days {
                *need = u16::try_from(read(&mut bytes)?).ok()?;
            }
        }
        Some(history)
    }
}

/// Writes a number, seven bits a byte, the lowest first.
fn write(bytes: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        bytes.push((number % 0x80) as u8 | 0x80);
        number /= 0x80;
    }
    bytes.push(number as u8);
}

/// Reads what [`write`] wrote, three bytes at most: nothing here is larger.
fn read(bytes: &mut &[u8]) -> Option<usize> {
    let mut number = 0;
    for shift in [0, 7, 14] {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= usize::from(first % 0x80) << shift;
        if *first < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: u64 = 86_400;

    #[test]
    fn what_both_days_needed_is_expected() {
        let mut history = History::default();
        for (day, need) in [(0, 7), (1, 5)] {
            assert_eq!(history.forecast(day * DAY + 600), 0);
            history.observe(day * DAY + 610, need);
            history.observe(day * DAY + 620, 1);
            history.observe(day * DAY + 670, 0);
        }
        for second in [600, 659] {
            assert_eq!(history.forecast(2 * DAY + second), 5);
        }
        assert_eq!(history.forecast(2 * DAY + 660), 0);
        // The day before yesterday is forgotten.
        history.observe(2 * DAY + 610, 2);
        history.observe(2 * DAY + 670, 0);
        assert_eq!(history.forecast(3 * DAY + 600), 2);
    }

    #[test]
    fn a_function_that_nobody_calls_takes_no_memory() {
        let mut history = History::default();
        for second in 0..300 {
            history.observe(second, 0);
        }
        assert!(history.is_empty() && history.encode().is_empty());
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(needs in prop::collection::vec((0u64..2 * DAY, 0u32..100_000), 0..50)) {
            let mut history = History::default();
            let mut needs = needs;
            needs.sort_unstable();
            for (second, need) in needs {
                history.observe(second, need);
            }
            let decoded = History::decode(&history.encode()).unwrap();
            for second in (2 * DAY..3 * DAY).step_by(60) {
                prop_assert_eq!(decoded.forecast(second), history.forecast(second));
            }
            prop_assert_eq!(decoded.encode(), history.encode());
        }

        #[test]
        fn other_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = History::decode(&bytes);
        }
    }
}
