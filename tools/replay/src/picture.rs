//! Pictures of figures over a count: a few panels side by side, a line for each thing that is compared. SVG, written by hand: two axes and a
//! few lines.

use std::fmt::Write as _;

/// One thing, over the counts that it was measured at.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) name: String,
    /// Count, value.
    pub(crate) points: Vec<(usize, f64)>,
}

/// One figure of all things.
pub(crate) struct Panel {
    pub(crate) title: &'static str,
    pub(crate) axis: Axis,
    pub(crate) lines: Vec<Line>,
}

/// How high a value is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Axis {
    /// From zero to this, in steps of a quarter.
    Linear { max: f64 },
    /// From the power of ten below the least value to the one above the highest.
    Logarithmic,
}

/// The panels side by side, all over the same counts at equal distances; what the lines mean is said once.
pub(crate) fn picture(counts: &[usize], panels: &[Panel]) -> String {
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    let width = (WIDTH - MARGIN) / panels.len().max(1) as f64 - GAP;
    for (place, panel) in panels.iter().enumerate() {
        panel.draw(counts, GAP + place as f64 * (width + GAP), width, &mut text);
    }
    let mut x = GAP;
    for (place, line) in panels.first().map_or(&[][..], |panel| &panel.lines).iter().enumerate() {
        stroke(&mut text, (x, KEY), (x + 22.0, KEY), color(place));
        label(&mut text, (x + 27.0, KEY + 4.0), "start", &line.name);
        x += 55.0 + 7.0 * line.name.len() as f64;
    }
    text.push_str("</svg>\n");
    text
}

impl Panel {
    fn draw(&self, counts: &[usize], left: f64, width: f64, text: &mut String) {
        let step = width / (counts.len().max(2) - 1) as f64;
        let values = self
            .lines
            .iter()
            .flat_map(|line| line.points.iter().map(|&(_, value)| value));
        let positive = values.filter(|&value| value > 0.0);
        let (low, high) = positive.fold((f64::MAX, 1.0), |(low, high): (f64, f64), value| {
            (low.min(value), high.max(value))
        });
        let (low, high) = (low.min(high).log10().floor(), high.log10().ceil());
        let share = |value: f64| match self.axis {
            Axis::Linear { max } => value / max,
            Axis::Logarithmic if value <= 0.0 => 0.0,
            Axis::Logarithmic => (value.log10() - low) / (high - low).max(1.0),
        };
        let y = |value: f64| BOTTOM - share(value).clamp(0.0, 1.0) * (BOTTOM - TOP);
        label(text, (left, TOP - 14.0), "start", self.title);
        let ticks: Vec<f64> = match self.axis {
            Axis::Linear { max } => (0..=4).map(|tick| max * f64::from(tick) / 4.0).collect(),
            Axis::Logarithmic => (low as i32..=high as i32).map(|power| 10f64.powi(power)).collect(),
        };
        for value in ticks {
            stroke(text, (left, y(value)), (left + width, y(value)), "#ddd");
            let shown = match self.axis {
                Axis::Linear { max } if max < 10.0 => format!("{value:.2}"),
                Axis::Linear { .. } | Axis::Logarithmic => format!("{value}"),
            };
            label(text, (left - 6.0, y(value) + 4.0), "end", &shown);
        }
        for (place, count) in counts.iter().enumerate() {
            label(
                text,
                (left + step * place as f64, BOTTOM + 16.0),
                "middle",
                &count.to_string(),
            );
        }
        for (color_place, line) in self.lines.iter().enumerate() {
            let mut points = String::new();
            for &(count, value) in &line.points {
                if let Some(place) = counts.iter().position(|&drawn| drawn == count) {
                    let _ = write!(points, "{:.1},{:.1} ", left + step * place as f64, y(value));
                }
            }
            let _ = writeln!(
                text,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>",
                points.trim_end(),
                color(color_place)
            );
        }
    }
}

fn stroke(text: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64), color: &str) {
    let _ = writeln!(
        text,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{color}\" stroke-width=\"2\"/>"
    );
}

fn label(text: &mut String, (x, y): (f64, f64), anchor: &str, what: &str) {
    let _ = writeln!(
        text,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{what}</text>"
    );
}

fn color(place: usize) -> &'static str {
    COLORS[place % COLORS.len()]
}

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 360.0;
/// Left of each panel, for its numbers.
const GAP: f64 = 60.0;
/// Right of the last.
const MARGIN: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 300.0;
/// Where it's said what the lines mean.
const KEY: f64 = 345.0;
/// Told apart also by who sees few colours.
const COLORS: [&str; 8] = [
    "#000000", "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999",
];
