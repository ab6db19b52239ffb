//! One measured figure, beside a peer measured in the same run, held against its aim.

use serde_json::json;

/// A bound that a figure is held against.
#[derive(Debug, Clone, Copy)]
pub enum Aim {
    /// The value itself is at most this.
    AtMost(f64),
    /// The value is at most this share of the peer's.
    RatioAtMost(f64),
    /// The value is at least this share of the peer's.
    RatioAtLeast(f64),
    /// Reported as it is.
    None,
}

/// One line of a bench.
#[derive(Debug, Clone)]
pub struct Figure {
    /// Name of the bench.
    pub bench: &'static str,
    /// What was measured.
    pub measure: String,
    /// The value, in `unit`.
    pub value: f64,
    /// `ms`, `us`, `MB`, `1/s`.
    pub unit: &'static str,
    /// Who stood beside, and its value in the same unit.
    pub peer: Option<(&'static str, f64)>,
    /// What was promised.
    pub aim: Aim,
}

impl Figure {
    /// Our value as a share of the peer's.
    pub fn ratio(&self) -> Option<f64> {
        self.peer.map(|(_, value)| self.value / value)
    }

    /// Whether the aim holds; `None` where nothing was promised.
    pub fn met(&self) -> Option<bool> {
        match (self.aim, self.ratio()) {
            (Aim::AtMost(bound), _) => Some(self.value <= bound),
            (Aim::RatioAtMost(bound), Some(ratio)) => Some(ratio <= bound),
            (Aim::RatioAtLeast(bound), Some(ratio)) => Some(ratio >= bound),
            (Aim::None, _) | (_, None) => None,
        }
    }

    fn aim_text(&self) -> Option<String> {
        match self.aim {
            Aim::AtMost(bound) => Some(format!("<= {bound} {}", self.unit)),
            Aim::RatioAtMost(bound) => Some(format!("<= {bound}x")),
            Aim::RatioAtLeast(bound) => Some(format!(">= {bound}x")),
            Aim::None => None,
        }
    }

    /// The figure as one JSON object on one line.
    pub fn json(&self) -> String {
        json!({
            "bench": self.bench,
            "measure": self.measure,
            "value": self.value,
            "unit": self.unit,
            "peer": self.peer.map(|(name, _)| name),
            "peer_value": self.peer.map(|(_, value)| value),
            "ratio": self.ratio(),
            "aim": self.aim_text(),
            "met": self.met(),
        })
        .to_string()
    }

    /// The figure as a line for people.
    pub fn text(&self) -> String {
        let mut line = format!(
            "{:<10} {:<44} {:>10.2} {:<4}",
            self.bench, self.measure, self.value, self.unit
        );
        if let (Some((peer, value)), Some(ratio)) = (self.peer, self.ratio()) {
            line += &format!("  {peer} {value:.2} {}  {ratio:.2}x", self.unit);
        }
        if let (Some(aim), Some(met)) = (self.aim_text(), self.met()) {
            line += &format!("  aim {aim}: {}", if met { "met" } else { "MISSED" });
        }
        line
    }
}

/// The `q`-quantile (0..=1) of samples, by the nearest rank.
///
/// # Panics
/// When there is no sample.
pub fn quantile(samples: &[f64], q: f64) -> f64 {
    assert!(!samples.is_empty(), "a quantile needs a sample");
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples() {
        let samples: Vec<f64> = (1..=20).rev().map(f64::from).collect();
        assert_eq!(quantile(&samples, 0.5), 10.0);
        assert_eq!(quantile(&samples, 0.99), 20.0);
        assert_eq!(quantile(&samples, 0.0), 1.0);
    }

    #[test]
    fn an_aim_is_met_or_missed_and_says_so() {
        let figure = |value, aim| Figure {
            bench: "pod",
            measure: "apply to Ready, p50".to_owned(),
            value,
            unit: "ms",
            peer: Some(("runc pod", 100.0)),
            aim,
        };
        assert_eq!(figure(80.0, Aim::RatioAtMost(0.9)).met(), Some(true));
        assert_eq!(figure(95.0, Aim::RatioAtMost(0.9)).met(), Some(false));
        assert_eq!(figure(95.0, Aim::AtMost(95.0)).met(), Some(true));
        assert_eq!(figure(95.0, Aim::None).met(), None);
        assert!(
            figure(95.0, Aim::RatioAtMost(0.9))
                .text()
                .ends_with("aim <= 0.9x: MISSED")
        );
        assert!(
            figure(95.0, Aim::RatioAtMost(0.9))
                .json()
                .contains("\"met\":false")
        );
    }
}
