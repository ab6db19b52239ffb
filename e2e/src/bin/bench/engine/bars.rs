//! Bars as SVG: panels below each other, a bar for each who was measured.

use std::fmt::Write;

const WIDTH: u32 = 720;
const MARGIN: u32 = 16;
/// Where bars begin, right of the names.
const LEFT: u32 = 240;
/// The longest bar; right of it is room for its value.
const LONGEST: f64 = 340.0;
const TITLE: u32 = 36;
const BAR: u32 = 20;
const STEP: u32 = 28;
const OURS: &str = "#d9480f";
const OTHERS: &str = "#868e96";

/// Values of one kind.
#[derive(Debug)]
pub(crate) struct Panel<'a> {
    /// What is measured, and in what unit.
    pub(crate) title: &'a str,
    /// From top to bottom.
    pub(crate) bars: Vec<Bar>,
}

/// One value.
#[derive(Debug)]
pub(crate) struct Bar {
    /// Who. Neither this nor a title holds a character that XML would have escaped.
    pub(crate) name: &'static str,
    /// How much.
    pub(crate) value: f64,
    /// Whether it is Hearth.
    pub(crate) is_ours: bool,
}

/// Draws the panels.
pub(crate) fn svg(panels: &[Panel<'_>]) -> String {
    let bars: usize = panels.iter().map(|panel| panel.bars.len()).sum();
    let height = 2 * MARGIN + panels.len() as u32 * TITLE + bars as u32 * STEP;
    let mut top = MARGIN;
    let drawn: String = panels
        .iter()
        .map(|panel| {
            let drawn = panel.svg(top);
            top += TITLE + panel.bars.len() as u32 * STEP;
            drawn
        })
        .collect();
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"14\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n{drawn}</svg>\n"
    )
}

impl Panel<'_> {
    fn svg(&self, top: u32) -> String {
        let longest = self.bars.iter().map(|bar| bar.value).fold(0.0, f64::max);
        let mut text = format!(
            "<text x=\"{MARGIN}\" y=\"{}\" font-weight=\"bold\">{}</text>\n",
            top + 20,
            self.title
        );
        for (row, bar) in self.bars.iter().enumerate() {
            let y = top + TITLE + row as u32 * STEP;
            let width = LONGEST * bar.value / longest;
            let fill = if bar.is_ours { OURS } else { OTHERS };
            let (name_end, value_start) = (LEFT - 10, f64::from(LEFT) + width + 8.0);
            let (name, value, baseline) = (bar.name, bar.value, y + 15);
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "<text x=\"{name_end}\" y=\"{baseline}\" text-anchor=\"end\">{name}</text>\n\
                 <rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{fill}\"/>\n\
                 <text x=\"{value_start:.1}\" y=\"{baseline}\">{value:.0}</text>\n"
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_values() {
        let bar = |name, value| Bar {
            name,
            value,
            is_ours: name == "a",
        };
        let panels = [
            Panel {
                title: "calls",
                bars: vec![bar("a", 50.0), bar("b", 200.0)],
            },
            Panel {
                title: "time",
                bars: vec![bar("a", 3.0)],
            },
        ];
        let drawn = svg(&panels);
        let bars: Vec<&str> = drawn
            .lines()
            .filter(|line| line.starts_with("<rect x="))
            .collect();
        assert_eq!(bars.len(), 3);
        assert!(bars[0].contains("width=\"85.0\"") && bars[0].contains(OURS));
        assert!(bars[1].contains("width=\"340.0\"") && bars[1].contains(OTHERS));
        assert!(bars[2].contains("width=\"340.0\""));
        // The last bar ends above the lower edge.
        assert!(drawn.contains("viewBox=\"0 0 720 188\""), "{drawn}");
        assert!(bars[2].contains("y=\"144\""), "{}", bars[2]);
    }
}
