//! Curves over epochs, and people, as pictures.

use pose::{
    Keypoints17, Pose3,
    skeleton::{BONES, LEFT, RIGHT},
};

use crate::canvas::{Canvas, Colour, LETTER_PX};

const INK: Colour = [40, 44, 52];
const GREY: Colour = [222, 225, 230];
const PAPER: Colour = [255, 255, 255];
/// Blue and orange are told apart by everyone.
const LEFT_SIDE: Colour = [31, 119, 200];
const RIGHT_SIDE: Colour = [235, 120, 30];
const MIDDLE: Colour = [90, 95, 105];
/// Of curves, in order.
const COLOURS: [Colour; 6] = [[31, 119, 200], [235, 120, 30], [44, 150, 70], [160, 80, 180], [200, 40, 60], [120, 90, 60]];

/// One curve: a name and (x, y) points. Points that are no numbers interrupt it.
#[derive(Clone, Debug)]
pub struct Curve {
    /// For the legend.
    pub name: String,
    /// In order of x.
    pub points: Vec<[f64; 2]>,
}

/// Panels below each other, each with its title, axes and curves.
pub fn curves(panels: &[(String, Vec<Curve>)], x_label: &str) -> Canvas {
    const WIDTH: usize = 900;
    const HEIGHT: usize = 300;
    let mut canvas = Canvas::new(WIDTH, HEIGHT * panels.len().max(1), PAPER);
    for (i, (title, curves)) in panels.iter().enumerate() {
        panel(
            &mut canvas,
            [70.0, (i * HEIGHT) as f32 + 34.0, (WIDTH - 20) as f32, ((i + 1) * HEIGHT) as f32 - 34.0],
            title,
            curves,
            x_label,
        );
    }
    canvas
}

/// `frame`: left, top, right, bottom, px.
fn panel(canvas: &mut Canvas, frame: [f32; 4], title: &str, curves: &[Curve], x_label: &str) {
    let [left, top, right, bottom] = frame;
    canvas.text([left as i32, top as i32 - 30], title, INK);
    let finite = || curves.iter().flat_map(|curve| &curve.points).filter(|p| p[0].is_finite() && p[1].is_finite());
    let extent = |c: usize| finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), p| (lo.min(p[c]), hi.max(p[c])));
    let ((x_lo, x_hi), (y_lo, y_hi)) = (extent(0), extent(1));
    if x_lo > x_hi {
        canvas.text([left as i32 + 10, (top + bottom) as i32 / 2], "nothing to draw", MIDDLE);
        return;
    }
    let widened = |lo: f64, hi: f64| if hi > lo { (lo, hi) } else { (lo - 0.5 * lo.abs().max(1e-6), hi + 0.5 * hi.abs().max(1e-6)) };
    let (x_lo, x_hi) = widened(x_lo, x_hi);
    let (y_lo, y_hi) = widened(y_lo, y_hi);
    let to_px = |p: &[f64; 2]| {
        let across = (p[0] - x_lo) / (x_hi - x_lo);
        let up = (p[1] - y_lo) / (y_hi - y_lo);
        [left + across as f32 * (right - left), bottom - up as f32 * (bottom - top)]
    };
    for value in ticks(y_lo, y_hi) {
        let [_, y] = to_px(&[x_lo, value]);
        canvas.line([left, y], [right, y], 1.0, GREY);
        let label = number(value);
        canvas.text([left as i32 - 6 - (label.len() * LETTER_PX.0) as i32, y as i32 - 6], &label, INK);
    }
    for value in ticks(x_lo, x_hi).into_iter().filter(|v| v.fract() == 0.0 || x_hi - x_lo < 3.0) {
        let [x, _] = to_px(&[value, y_lo]);
        canvas.line([x, bottom], [x, bottom + 4.0], 1.0, INK);
        let label = number(value);
        canvas.text([x as i32 - (label.len() * LETTER_PX.0 / 2) as i32, bottom as i32 + 6], &label, INK);
    }
    canvas.text([(right as i32) - (x_label.len() * LETTER_PX.0) as i32, bottom as i32 + 19], x_label, MIDDLE);
    canvas.polyline(&[[left, top], [left, bottom], [right, bottom]], 1.0, INK);
    let mut legend = left as i32;
    for (curve, colour) in curves.iter().zip(COLOURS.iter().cycle()) {
        for run in curve.points.split(|p| !(p[0].is_finite() && p[1].is_finite())) {
            let points: Vec<[f32; 2]> = run.iter().map(to_px).collect();
            canvas.polyline(&points, 2.0, *colour);
            if points.len() < 40 {
                points.iter().for_each(|&point| canvas.disc(point, 2.5, *colour));
            }
        }
        canvas.line([legend as f32, top - 9.0], [legend as f32 + 14.0, top - 9.0], 3.0, *colour);
        canvas.text([legend + 19, top as i32 - 16], &curve.name, INK);
        legend += 34 + (curve.name.len() * LETTER_PX.0) as i32;
    }
}

/// Three to nine round numbers within the range.
fn ticks(lo: f64, hi: f64) -> Vec<f64> {
    let rough = (hi - lo) / 8.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|&step| step >= rough).unwrap_or(power);
    let first = (lo / step).ceil() as i64;
    (first..).map(|k| k as f64 * step).take_while(|&value| value <= hi * (1.0 + 1e-12) + 1e-300).take(20).collect()
}

/// Five decimals at most, without zeros at the end.
fn number(value: f64) -> String {
    if value != 0.0 && !(1e-4..1e5).contains(&value.abs()) {
        return format!("{value:.1e}");
    }
    let text = format!("{value:.5}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A person to draw: up to two poses over each other (truth thin, prediction bold) and keypoints.
#[derive(Clone, Debug, Default)]
pub struct Figure {
    /// Below the picture.
    pub caption: String,
    /// 2D joints, left panel.
    pub keypoints: Option<Keypoints17>,
    /// Camera axes (x right, y down, z away), any unit, middle and right panel.
    pub pose: Option<Pose3>,
    /// What is compared with, in the same unit; drawn grey.
    pub truth: Option<Pose3>,
}

/// A sheet of people: for each the keypoints, the pose as the camera sees it, and turned by 70 degrees. Left blue, right orange.
pub fn sheet(title: &str, figures: &[Figure], columns: usize) -> Canvas {
    const VIEW: usize = 130;
    const CAPTION: usize = 18;
    const TITLE: usize = 40;
    let has_2d = figures.iter().any(|figure| figure.keypoints.is_some());
    let has_3d = figures.iter().any(|figure| figure.pose.is_some());
    let views = usize::from(has_2d) + 2 * usize::from(has_3d);
    let columns = columns.clamp(1, figures.len().max(1));
    let (cell_width, cell_height) = (VIEW * views.max(1) + 12, VIEW + CAPTION + 8);
    let rows = figures.len().div_ceil(columns);
    let mut canvas = Canvas::new((columns * cell_width + 12).max(560), TITLE + rows * cell_height + 4, PAPER);
    canvas.text([10, 6], title, INK);
    let mut panels = Vec::new();
    panels.extend(has_2d.then_some("2D"));
    panels.extend(has_3d.then_some("3D from the front, 3D turned by 70 degrees"));
    canvas.text([10, 21], &format!("{}; left blue, right orange", panels.join(", ")), MIDDLE);
    for (i, figure) in figures.iter().enumerate() {
        let (x, y) = ((i % columns * cell_width + 12) as f32, (TITLE + i / columns * cell_height) as f32);
        let mut place = [x, y, VIEW as f32];
        let outline = [x - 4.0, y - 2.0, x + (cell_width - 8) as f32, y + (cell_height - 6) as f32];
        let [l, t, r, b] = outline;
        canvas.polyline(&[[l, t], [r, t], [r, b], [l, b], [l, t]], 1.0, GREY);
        if has_2d {
            if let Some(keypoints) = &figure.keypoints {
                let there: Vec<Option<[f32; 2]>> = keypoints.iter().map(|k| (!k.is_missing()).then_some([k.x_px, k.y_px])).collect();
                let fit = Fit::of(there.iter().flatten().copied(), place);
                person(&mut canvas, &there.iter().map(|p| p.map(|p| fit.place(p))).collect::<Vec<_>>(), None);
            }
            place[0] += VIEW as f32;
        }
        if let Some(pose) = &figure.pose {
            let angles = [0.0f32, 70.0];
            for angle in angles {
                let turned = |pose: &Pose3| turned(pose, angle.to_radians());
                let (shown, truth) = (turned(pose), figure.truth.as_ref().map(turned));
                let fit = Fit::of(shown.iter().chain(truth.iter().flatten()).copied(), place);
                if let Some(truth) = &truth {
                    person(&mut canvas, &truth.map(|p| Some(fit.place(p))), Some([150, 155, 165]));
                }
                person(&mut canvas, &shown.map(|p| Some(fit.place(p))), None);
                place[0] += VIEW as f32;
            }
        }
        let fits = (cell_width - 16) / LETTER_PX.0;
        let caption: String = figure.caption.chars().take(fits).collect();
        canvas.text([x as i32, y as i32 + VIEW as i32 + 2], &caption, INK);
    }
    canvas
}

/// About the vertical axis through the hip; then without depth.
fn turned(pose: &Pose3, angle_rad: f32) -> [[f32; 2]; pose::JOINTS] {
    let (sin, cos) = angle_rad.sin_cos();
    let root = pose[pose::ROOT];
    pose.map(|p| [cos * (p[0] - root[0]) + sin * (p[2] - root[2]), p[1] - root[1]])
}

/// From a person's units to a square of the picture.
struct Fit {
    from: [f32; 2],
    scale: f32,
    to: [f32; 2],
}

impl Fit {
    fn of(points: impl Iterator<Item = [f32; 2]>, [x, y, side]: [f32; 3]) -> Self {
        let start = ([f32::INFINITY; 2], [f32::NEG_INFINITY; 2]);
        let (lo, hi) =
            points.fold(start, |(lo, hi), p| (std::array::from_fn(|c| lo[c].min(p[c])), std::array::from_fn(|c| hi[c].max(p[c]))));
        let extent = (hi[0] - lo[0]).max(hi[1] - lo[1]);
        let scale = if extent > 0.0 && extent.is_finite() { (side - 20.0) / extent } else { 0.0 };
        let middle = std::array::from_fn(|c| if scale > 0.0 { (lo[c] + hi[c]) / 2.0 } else { 0.0 });
        Self { from: middle, scale, to: [x + side / 2.0, y + side / 2.0] }
    }

    fn place(&self, p: [f32; 2]) -> [f32; 2] {
        std::array::from_fn(|c| self.to[c] + self.scale * (p[c] - self.from[c]))
    }
}

/// `plain` is one thin colour instead of the sides' own.
fn person(canvas: &mut Canvas, joints: &[Option<[f32; 2]>], plain: Option<Colour>) {
    for (from, to) in BONES {
        if let (Some(a), Some(b)) = (joints[from], joints[to]) {
            let own = if LEFT.contains(&to) {
                LEFT_SIDE
            } else if RIGHT.contains(&to) {
                RIGHT_SIDE
            } else {
                MIDDLE
            };
            canvas.line(a, b, if plain.is_some() { 1.2 } else { 2.4 }, plain.unwrap_or(own));
        }
    }
    if plain.is_none() {
        joints.iter().flatten().for_each(|&joint| canvas.disc(joint, 1.8, INK));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        for (lo, hi) in [(0.0, 1.0), (3.0, 97.0), (1e-6, 5e-4), (-2.0, 2.0), (87.1, 87.9)] {
            let found = ticks(lo, hi);
            assert!((3..=10).contains(&found.len()) && found.iter().all(|v| (lo - 1e-9..=hi + 1e-9).contains(v)), "{lo} {hi}: {found:?}");
        }
        assert_eq!([number(0.5), number(20.0), number(2e-4), number(1e-5)], ["0.5", "20", "0.0002", "1.0e-5"]);
    }

    #[test]
    fn odd_curves_and_people_draw() {
        let panels = [
            ("empty".to_owned(), vec![]),
            ("one".to_owned(), vec![Curve { name: "point".into(), points: vec![[1.0, 2.0]] }]),
            ("gap".to_owned(), vec![Curve { name: "gap".into(), points: vec![[1.0, 2.0], [2.0, f64::NAN], [3.0, 0.0]] }]),
        ];
        let canvas = curves(&panels, "epoch");
        assert_eq!((canvas.width(), canvas.height()), (900, 900));
        let same_place = Figure { pose: Some([[1.0; 3]; 17]), ..Figure::default() };
        let sheet = sheet("sheet", &[same_place, Figure::default()], 4);
        assert!(sheet.width() > 500);
    }
}
