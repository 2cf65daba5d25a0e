//! Curves and bars as one SVG picture: no font, no script, readable on light and on dark paper.

use std::fmt::Write as _;

/// One curve. Points that are no numbers interrupt it.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// For the legend; curves of one name share an entry.
    pub name: String,
    /// In order of x.
    pub points: Vec<[f64; 2]>,
}

/// What one panel shows.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Curves over x.
    Curves {
        /// Said at the right end of the axis.
        x_label: String,
        /// At most [`MOST_CURVES`] are told apart by colour.
        curves: Vec<Curve>,
    },
    /// A bar from 0 for each name.
    Bars(Vec<(String, f64)>),
}

/// Colours that are told apart.
pub const MOST_CURVES: usize = 4;

/// One panel of a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    /// What is shown, with its unit.
    pub title: String,
    /// The curves or bars.
    pub content: Content,
}

const WIDTH: f64 = 900.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 34.0;
const PANEL_HEIGHT: f64 = 220.0;
const BAR_HEIGHT: f64 = 18.0;
/// Points that a curve is drawn with: more do not show.
const MOST_POINTS: usize = 2000;

/// Colours: blue and orange are told apart by everyone.
const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#1f2328}.title{font-weight:600}.number,.label{font-size:11px;fill:#57606a}\
    .paper{fill:#fff}.grid{stroke:#d8dee4}.axis{stroke:#57606a;fill:none}.zero{stroke:#8c959f}polyline{fill:none;stroke-width:1.6;stroke-linejoin:round}\
    .c0{stroke:#0b6bcb}.c1{stroke:#d9600b}.c2{stroke:#2c8a3d}.c3{stroke:#8a4bb5}.bar{fill:#0b6bcb}\
    @media (prefers-color-scheme:dark){text{fill:#e6edf3}.number,.label{fill:#9da7b1}.paper{fill:#0d1117}.grid{stroke:#262c36}.axis{stroke:#9da7b1}\
    .zero{stroke:#6e7681}.c0{stroke:#58a6ff}.c1{stroke:#ff9e4a}.c2{stroke:#56d364}.c3{stroke:#c297ff}.bar{fill:#58a6ff}}";

/// Panels below each other.
pub fn svg(panels: &[Panel]) -> String {
    let height: f64 = panels.iter().map(panel_height).sum::<f64>().max(1.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n\
         <style>{STYLE}</style>\n<rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\"/>\n"
    );
    let mut top = 0.0;
    for panel in panels {
        text(&mut out, [LEFT, top + 20.0], "title", "start", &panel.title);
        match &panel.content {
            Content::Curves { x_label, curves } => draw_curves(&mut out, top, x_label, curves),
            Content::Bars(bars) => draw_bars(&mut out, top, bars),
        }
        top += panel_height(panel);
    }
    out.push_str("</svg>\n");
    out
}

fn panel_height(panel: &Panel) -> f64 {
    match &panel.content {
        Content::Curves { .. } => PANEL_HEIGHT,
        Content::Bars(bars) => TOP + BOTTOM + BAR_HEIGHT * bars.len() as f64,
    }
}

fn draw_curves(out: &mut String, top: f64, x_label: &str, curves: &[Curve]) {
    let (right, bottom) = (WIDTH - RIGHT, top + PANEL_HEIGHT - BOTTOM);
    let top = top + TOP;
    let finite = || curves.iter().flat_map(|curve| &curve.points).filter(|p| p[0].is_finite() && p[1].is_finite());
    let extent = |c: usize| finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), p| (lo.min(p[c]), hi.max(p[c])));
    let ((x_lo, x_hi), (y_lo, y_hi)) = (extent(0), extent(1));
    if x_lo > x_hi {
        text(out, [LEFT + 10.0, (top + bottom) / 2.0], "label", "start", "nothing to show");
        return;
    }
    let ((x_lo, x_hi), (y_lo, y_hi)) = (widened(x_lo, x_hi), widened(y_lo, y_hi));
    let x = |v: f64| LEFT + (v - x_lo) / (x_hi - x_lo) * (right - LEFT);
    let y = |v: f64| bottom - (v - y_lo) / (y_hi - y_lo) * (bottom - top);
    for value in ticks(y_lo, y_hi, 6.0) {
        let class = if value == 0.0 { "zero" } else { "grid" };
        line(out, class, [LEFT, y(value)], [right, y(value)]);
        text(out, [LEFT - 6.0, y(value) + 4.0], "number", "end", &number(value));
    }
    for value in ticks(x_lo, x_hi, 10.0) {
        line(out, "axis", [x(value), bottom], [x(value), bottom + 4.0]);
        text(out, [x(value), bottom + 16.0], "number", "middle", &number(value));
    }
    text(out, [right, bottom + 30.0], "label", "end", x_label);
    line(out, "axis", [LEFT, bottom], [right, bottom]);
    let mut names: Vec<&str> = Vec::new();
    for curve in curves {
        let colour = names.iter().position(|name| *name == curve.name).unwrap_or_else(|| {
            names.push(&curve.name);
            names.len() - 1
        });
        for run in curve.points.split(|p| !(p[0].is_finite() && p[1].is_finite())).filter(|run| !run.is_empty()) {
            let points: Vec<String> = thinned(run).iter().map(|p| format!("{:.1},{:.1}", x(p[0]), y(p[1]))).collect();
            let _ = writeln!(out, "<polyline class=\"c{}\" points=\"{}\"/>", colour % MOST_CURVES, points.join(" "));
        }
    }
    let mut at = right;
    for (i, name) in names.iter().enumerate().rev() {
        text(out, [at, top - 20.0], "label", "end", name);
        at -= 7.0 * name.chars().count() as f64 + 8.0;
        let _ = writeln!(
            out,
            "<polyline class=\"c{}\" points=\"{:.1},{:.1} {at:.1},{:.1}\"/>",
            i % MOST_CURVES,
            at - 16.0,
            top - 24.0,
            top - 24.0
        );
        at -= 30.0;
    }
}

fn draw_bars(out: &mut String, top: f64, bars: &[(String, f64)]) {
    const NAMES: f64 = 110.0;
    let largest = bars.iter().map(|bar| bar.1).filter(|v| v.is_finite()).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    for (i, (name, value)) in bars.iter().enumerate() {
        let y = top + TOP + BAR_HEIGHT * i as f64;
        text(out, [NAMES - 8.0, y + 11.0], "label", "end", name);
        if value.is_finite() {
            let width = value.max(0.0) / largest * (WIDTH - RIGHT - NAMES - 60.0);
            let _ = writeln!(out, "<rect class=\"bar\" x=\"{NAMES}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{}\"/>", BAR_HEIGHT - 5.0);
            text(out, [NAMES + width + 6.0, y + 11.0], "number", "start", &number((value * 10.0).round() / 10.0));
        }
    }
}

fn text(out: &mut String, [x, y]: [f64; 2], class: &str, anchor: &str, content: &str) {
    let safe = content.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(out, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{safe}</text>");
}

fn line(out: &mut String, class: &str, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2]) {
    let _ = writeln!(out, "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>");
}

/// The lowest and the highest point of each of so many stretches.
fn thinned(run: &[[f64; 2]]) -> Vec<[f64; 2]> {
    if run.len() <= MOST_POINTS {
        return run.to_vec();
    }
    let stretch = run.len().div_ceil(MOST_POINTS / 2);
    let extremes = |part: &[[f64; 2]]| {
        let by_y = |a: &&[f64; 2], b: &&[f64; 2]| a[1].total_cmp(&b[1]);
        let mut both = [part.iter().min_by(by_y), part.iter().max_by(by_y)].map(|p| p.copied().unwrap_or_default());
        both.sort_by(|a, b| a[0].total_cmp(&b[0]));
        both
    };
    run.chunks(stretch).flat_map(extremes).collect()
}

fn widened(lo: f64, hi: f64) -> (f64, f64) {
    if hi > lo { (lo, hi) } else { (lo - 0.5 * lo.abs().max(1e-6), hi + 0.5 * hi.abs().max(1e-6)) }
}

/// Round numbers within the range, about so many.
fn ticks(lo: f64, hi: f64, about: f64) -> Vec<f64> {
    let rough = (hi - lo) / about;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|&step| step >= rough).unwrap_or(10.0 * power);
    let first = (lo / step).ceil();
    (0..40).map(|k| (first + f64::from(k)) * step).take_while(|&value| value <= hi * (1.0 + 1e-12) + 1e-300).collect()
}

/// Four decimals at most, without zeros at the end.
fn number(value: f64) -> String {
    let text = format!("{value:.4}");
    let short = text.trim_end_matches('0').trim_end_matches('.');
    if short == "-0" { "0".to_owned() } else { short.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(name: &str, points: Vec<[f64; 2]>) -> Curve {
        Curve { name: name.to_owned(), points }
    }

    fn panel(content: Content) -> Panel {
        Panel { title: "a < b & c".to_owned(), content }
    }

    #[test]
    fn gaps_interrupt_and_names_are_escaped() {
        let curves = vec![
            curve("left", vec![[0.0, 1.0], [1.0, 2.0], [2.0, f64::NAN], [3.0, 1.0], [4.0, 0.0]]),
            curve("right", vec![[0.0, 0.0], [4.0, 3.0]]),
        ];
        let picture = svg(&[panel(Content::Curves { x_label: "s".into(), curves }), panel(Content::Bars(vec![("Hip".into(), 3.0)]))]);
        // three pieces of curves, two lines of the legend
        assert_eq!(picture.matches("<polyline").count(), 5);
        assert!(picture.contains("a &lt; b &amp; c") && picture.contains(">left<") && picture.contains("prefers-color-scheme:dark"));
        assert!(!picture.contains("NaN") && picture.ends_with("</svg>\n"));
        assert_eq!(picture.matches("class=\"bar\" ").count(), 1);
    }

    #[test]
    fn nothing_constant_and_very_much_are_drawn() {
        for points in [vec![], vec![[1.0, f64::NAN]], vec![[1.0, 5.0]], vec![[0.0, 0.0], [1.0, 0.0]]] {
            let picture = svg(&[panel(Content::Curves { x_label: "s".into(), curves: vec![curve("x", points)] })]);
            assert!(!picture.contains("NaN") && !picture.contains("inf"), "{picture}");
        }
        let much: Vec<[f64; 2]> = (0..100_000).map(|i| [f64::from(i), if i == 54_321 { 9.0 } else { 0.0 }]).collect();
        let picture = svg(&[panel(Content::Curves { x_label: "s".into(), curves: vec![curve("x", much)] })]);
        assert!(picture.len() < 40_000, "{} bytes", picture.len());
        assert!(picture.contains(",40.0"), "the one high point is there");
        assert!(svg(&[]).contains("</svg>"));
    }
}
