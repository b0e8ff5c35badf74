//! Draws reliability diagrams as SVG: the share of right answers over the probability answered, one panel for
//! each measurement (DeGroot and Fienberg 1983; Niculescu-Mizil and Caruana 2005). Below each is the number
//! of photos.

use std::fmt::Write as _;

use super::calibration::{BINS, Honesty};

/// Side of a panel's square, in pixels, and its place within its panel.
const SIDE: f64 = 300.0;
const LEFT: f64 = 62.0;
const TOP: f64 = 92.0;
/// Height of the bars of numbers, and their distance from the square.
const COUNTS: f64 = 60.0;
const GAP: f64 = 18.0;
const PANEL: f64 = 400.0;
const HEIGHT: f64 = 560.0;

/// The share that is right, as far as the probability says it; and the part by which the probability is above
/// or below the share.
const RIGHT: &str = "#0f766e";
const TOO_SURE: &str = "#dc2626";
const NOT_SURE_ENOUGH: &str = "#f59e0b";

/// The diagram, with a title and one panel for each name and measurement.
#[must_use]
pub fn svg(title: &str, panels: &[(&str, &Honesty)]) -> String {
    let width = PANEL * panels.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {HEIGHT}\" width=\"{width}\" \
         height=\"{HEIGHT}\" font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"#334155\">\n\
         <rect width=\"{width}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
    );
    text(&mut svg, (LEFT, 28.0), "font-size=\"17\" font-weight=\"600\" fill=\"#0f172a\"", title);
    for (index, (name, honesty)) in panels.iter().enumerate() {
        let _ = writeln!(svg, "<g transform=\"translate({} 0)\">", PANEL * index as f64);
        panel(&mut svg, name, honesty);
        svg.push_str("</g>\n");
    }
    legend(&mut svg);
    svg + "</svg>\n"
}

fn panel(svg: &mut String, name: &str, honesty: &Honesty) {
    let Honesty { photos, accuracy, error, brier, bins } = honesty;
    text(svg, (LEFT, 54.0), "font-weight=\"600\" fill=\"#0f172a\"", name);
    let figures = format!(
        "right {:.1} % · calibration error {error:.3} · Brier {brier:.3}",
        accuracy * 100.0
    );
    text(svg, (LEFT, 74.0), "fill=\"#64748b\"", &figures);
    axes(svg);
    let step = SIDE / BINS as f64;
    let most = bins.iter().map(|bin| bin.photos).max().unwrap_or_default().max(1) as f64;
    let floor = TOP + SIDE + GAP + COUNTS;
    for (index, bin) in bins.iter().enumerate().filter(|(_, bin)| bin.photos > 0) {
        let x = LEFT + step * index as f64 + 1.5;
        let (right, expected) = (SIDE * bin.right, SIDE * bin.probability);
        let (low, high) = (right.min(expected), right.max(expected));
        rect(svg, (x, TOP + SIDE - low, step - 3.0, low), RIGHT, "0.85");
        let colour = if expected > right { TOO_SURE } else { NOT_SURE_ENOUGH };
        rect(svg, (x, TOP + SIDE - high, step - 3.0, high - low), colour, "0.45");
        let tall = (COUNTS * bin.photos as f64 / most).max(1.0);
        rect(svg, (x, floor - tall, step - 3.0, tall), "#94a3b8", "1");
        if bin.photos as f64 > most / 8.0 {
            let place = (x + step / 2.0 - 1.5, floor + 14.0);
            text(svg, place, "text-anchor=\"middle\" font-size=\"10\"", &bin.photos.to_string());
        }
    }
    let _ = writeln!(
        svg,
        "<path d=\"M{LEFT} {} L{} {TOP}\" stroke=\"#475569\" stroke-dasharray=\"5 4\"/>",
        TOP + SIDE,
        LEFT + SIDE
    );
    let middle = LEFT + SIDE / 2.0;
    let label = format!("probability of the first class, in % · {photos} photos");
    text(svg, (middle, floor + 36.0), "text-anchor=\"middle\"", &label);
    let turned =
        format!("text-anchor=\"middle\" transform=\"rotate(-90 18 {})\"", TOP + SIDE / 2.0);
    text(svg, (18.0, TOP + SIDE / 2.0), &turned, "right, in %");
}

/// The colours in words, at the bottom.
fn legend(svg: &mut String) {
    let colours = [(TOO_SURE, "too sure"), (NOT_SURE_ENOUGH, "not sure enough")];
    for (index, (colour, words)) in colours.into_iter().enumerate() {
        let x = LEFT + 100.0 * index as f64;
        rect(svg, (x, HEIGHT - 26.0, 12.0, 12.0), colour, "0.45");
        text(svg, (x + 18.0, HEIGHT - 16.0), "", words);
    }
}

/// Lines and numbers at every 20 %.
fn axes(svg: &mut String) {
    for part in 0..=5 {
        let (share, label) = (f64::from(part) / 5.0 * SIDE, (part * 20).to_string());
        let (x, y) = (LEFT + share, TOP + SIDE - share);
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {y} h{SIDE} M{x} {TOP} v{SIDE}\" stroke=\"#e2e8f0\" fill=\"none\"/>"
        );
        text(svg, (LEFT - 8.0, y + 4.0), "text-anchor=\"end\"", &label);
        text(svg, (x, TOP + SIDE + 14.0), "text-anchor=\"middle\" font-size=\"10\"", &label);
    }
}

fn rect(svg: &mut String, (x, y, width, height): (f64, f64, f64, f64), fill: &str, opacity: &str) {
    let _ = writeln!(
        svg,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{fill}\" \
         fill-opacity=\"{opacity}\"/>"
    );
}

/// Text at a place, escaped, with further attributes.
fn text(svg: &mut String, (x, y): (f64, f64), attributes: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{words}</text>");
}

#[cfg(test)]
mod tests {
    use super::super::calibration::measure;
    use super::*;

    /// The bar of a bin is as tall as its share of right answers, and the rest up to its probability is red.
    #[test]
    fn bars_are_as_tall_as_the_share_right() {
        let rows = [(vec![0.8, 0.2], 0), (vec![0.8, 0.2], 1)];
        let drawn = svg("a < b", &[("before", &measure(&rows))]);
        assert!(drawn.contains("a &lt; b") && drawn.contains("2 photos"), "{drawn}");
        let bar = "y=\"242.0\" width=\"27.0\" height=\"150.0\" fill=\"#0f766e\"";
        let missing = "y=\"152.0\" width=\"27.0\" height=\"90.0\" fill=\"#dc2626\"";
        assert!(drawn.contains(bar) && drawn.contains(missing), "{drawn}");
        assert_eq!(drawn.matches("#0f766e").count(), 1, "one bin has photos");
    }
}
