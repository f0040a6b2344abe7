//! The few strokes that pictures in SVG are made of.

use std::fmt::Write as _;

/// A straight line.
pub fn line(picture: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64), stroke: &str) {
    let _ = writeln!(
        picture,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{stroke}\"/>"
    );
}

/// A line of text; `what` is markup already ([`escape`]).
pub fn text(picture: &mut String, (x, y): (f64, f64), anchor: &str, what: &str) {
    let _ = writeln!(
        picture,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{what}</text>"
    );
}

/// Text as markup.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The color of the `place`th of several things.
pub fn color(place: usize) -> &'static str {
    COLORS[place % COLORS.len()]
}

/// Told apart also by who sees few colours.
const COLORS: [&str; 6] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_break_the_picture() {
        assert_eq!(escape("a<b&c"), "a&lt;b&amp;c");
    }
}
