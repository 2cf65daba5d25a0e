//! What someone wears: a histogram of colours of the torso and one of the thighs.

use opencv::core::{Mat, MatTraitConst as _, Vec3b};
use pose::{Keypoint, Keypoints17};

/// Steps from black to white, for pixels without colour.
const GREYS: usize = 5;
/// Parts of the wheel of hues.
const HUES: usize = 12;
/// Dark and light ones of each hue.
const SHADES: usize = 2;
const BINS: usize = GREYS + HUES * SHADES;
/// Points looked at across and along a part of the body.
const ACROSS: usize = 9;
const ALONG: usize = 15;
/// A part is at least this wide, in its lengths: shoulders of someone seen from the side lie over each other.
const MIN_WIDTH: f32 = 0.25;
/// Saturation up to which a colour is grey, and from which it is not.
const COLOURFUL: (f32, f32) = (0.12, 0.4);
/// A joint below this confidence is not looked at.
const CONFIDENT: f32 = 0.5;
/// After this many views new ones weigh as if there had been no more, so that someone's light may change.
const MOST_VIEWS: f32 = 200.0;

/// Colours of torso and thighs over some views.
#[derive(Debug, Clone, Copy, Default)]
pub struct Appearance {
    parts: [Part; 2],
}

#[derive(Debug, Clone, Copy)]
struct Part {
    /// Shares; their sum is 1 after a view.
    histogram: [f32; BINS],
    views: f32,
}

impl Default for Part {
    fn default() -> Self {
        Self { histogram: [0.0; BINS], views: 0.0 }
    }
}

impl Appearance {
    /// One view, from a BGR frame. Parts of the body that are not to be seen are left out.
    pub fn look(frame: &Mat, keypoints: &Keypoints17) -> Self {
        let [hip_r, knee_r, hip_l, knee_l] = [1, 2, 4, 5].map(|joint| keypoints[joint]);
        let [shoulder_l, shoulder_r] = [11, 14].map(|joint| keypoints[joint]);
        let mut appearance = Self::default();
        appearance.parts[0].add_quad(frame, [shoulder_r, shoulder_l, hip_r, hip_l]);
        // Thighs are narrow: each is looked at around its own line.
        appearance.parts[1].add_quad(frame, [hip_r, hip_r, knee_r, knee_r]);
        appearance.parts[1].add_quad(frame, [hip_l, hip_l, knee_l, knee_l]);
        appearance.parts.iter_mut().for_each(Part::finish);
        appearance
    }

    /// Adds another view of the same person, or several.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.parts.iter_mut().zip(&other.parts) {
            let views = mine.views + theirs.views;
            if theirs.views > 0.0 {
                let share = theirs.views / views;
                mine.histogram.iter_mut().zip(theirs.histogram).for_each(|(mine, theirs)| *mine += share * (theirs - *mine));
                mine.views = views.min(MOST_VIEWS);
            }
        }
    }

    /// Views of the part that was seen most.
    pub fn views(&self) -> f32 {
        self.parts[0].views.max(self.parts[1].views)
    }

    /// Bhattacharyya's coefficient, 1 for equal colours, 0 for none in common; the mean of the parts that both know. `None` if
    /// there is none.
    pub fn similarity(&self, other: &Self) -> Option<f32> {
        // The torso is larger and says more.
        const WEIGHTS: [f32; 2] = [0.6, 0.4];
        let (mut sum, mut weight) = (0.0, 0.0);
        for ((a, b), w) in self.parts.iter().zip(&other.parts).zip(WEIGHTS) {
            if a.views > 0.0 && b.views > 0.0 {
                let coefficient: f32 = a.histogram.iter().zip(b.histogram).map(|(a, b)| (a * b).sqrt()).sum();
                sum += w * coefficient;
                weight += w;
            }
        }
        (weight > 0.0).then(|| sum / weight)
    }
}

impl Part {
    /// Colours within a part of the body: its upper right, upper left, lower right and lower left corner.
    fn add_quad(&mut self, frame: &Mat, corners: [Keypoint; 4]) {
        if corners.iter().any(|corner| corner.confidence < CONFIDENT) {
            return;
        }
        let [a, b, c, d] = corners.map(|corner| [corner.x_px, corner.y_px]);
        let middle = |p: [f32; 2], q: [f32; 2]| [(p[0] + q[0]) / 2.0, (p[1] + q[1]) / 2.0];
        let (top, bottom) = (middle(a, b), middle(c, d));
        let down = [bottom[0] - top[0], bottom[1] - top[1]];
        let length = down[0].hypot(down[1]);
        if length < 4.0 {
            return;
        }
        let width = |p: [f32; 2], q: [f32; 2]| (p[0] - q[0]).hypot(p[1] - q[1]).max(MIN_WIDTH * length);
        let (top_width, bottom_width) = (width(a, b), width(c, d));
        let across = [-down[1] / length, down[0] / length];
        for i in 0..ALONG {
            // Neither the neck nor what lies beside the hips.
            let v = 0.1 + 0.8 * (i as f32 + 0.5) / ALONG as f32;
            let half = 0.35 * (top_width + v * (bottom_width - top_width));
            for j in 0..ACROSS {
                let u = half * (2.0 * (j as f32 + 0.5) / ACROSS as f32 - 1.0);
                let (x, y) = (top[0] + v * down[0] + u * across[0], top[1] + v * down[1] + u * across[1]);
                if let Some(bgr) = pixel(frame, x, y) {
                    self.add_colour(bgr);
                    self.views += 1.0;
                }
            }
        }
    }

    /// Soft bins: a little more light does not move a colour from one bin into another all at once.
    fn add_colour(&mut self, [blue, green, red]: [f32; 3]) {
        let value = red.max(green).max(blue);
        let spread = value - red.min(green).min(blue);
        let saturation = if value > 0.0 { spread / value } else { 0.0 };
        // Dark pixels have no reliable hue.
        let colour = ((saturation - COLOURFUL.0) / (COLOURFUL.1 - COLOURFUL.0)).clamp(0.0, 1.0) * (value / 40.0).min(1.0);
        let (low, share) = split(value / 255.0 * (GREYS - 1) as f32);
        self.histogram[low] += (1.0 - colour) * (1.0 - share);
        self.histogram[(low + 1).min(GREYS - 1)] += (1.0 - colour) * share;
        if colour <= 0.0 {
            return;
        }
        let sextant = if value == red {
            (green - blue) / spread
        } else if value == green {
            2.0 + (blue - red) / spread
        } else {
            4.0 + (red - green) / spread
        };
        let (hue, hue_share) = split(sextant.rem_euclid(6.0) / 6.0 * HUES as f32);
        let light = ((value - 60.0) / 120.0).clamp(0.0, 1.0);
        for (hue, weight) in [(hue % HUES, 1.0 - hue_share), ((hue + 1) % HUES, hue_share)] {
            self.histogram[GREYS + hue * SHADES] += colour * weight * (1.0 - light);
            self.histogram[GREYS + hue * SHADES + 1] += colour * weight * light;
        }
    }

    /// From counts of one view to shares; too few points are none.
    fn finish(&mut self) {
        let total: f32 = self.histogram.iter().sum();
        if self.views < (ACROSS * ALONG) as f32 / 2.0 || total <= 0.0 {
            *self = Self::default();
            return;
        }
        self.histogram.iter_mut().for_each(|count| *count /= total);
        self.views = 1.0;
    }
}

/// Whole part and rest of a number that is not negative.
fn split(value: f32) -> (usize, f32) {
    (value as usize, value.fract())
}

fn pixel(frame: &Mat, x: f32, y: f32) -> Option<[f32; 3]> {
    let inside = |value: f32, size: i32| (value >= 0.0 && value < size as f32).then_some(value as i32);
    let (column, row) = (inside(x, frame.cols())?, inside(y, frame.rows())?);
    let bgr = frame.at_2d::<Vec3b>(row, column).ok()?;
    Some([f32::from(bgr[0]), f32::from(bgr[1]), f32::from(bgr[2])])
}

#[cfg(test)]
mod tests {
    use super::*;
    use opencv::core::{CV_8UC3, Rect, Scalar};
    use opencv::imgproc;
    use pose::JOINTS;

    /// Someone in a shirt and trousers of these colours (blue, green, red), in a grey picture.
    fn clothed(shirt: [f64; 3], trousers: [f64; 3]) -> (Mat, Keypoints17) {
        let mut frame = Mat::new_rows_cols_with_default(300, 200, CV_8UC3, Scalar::all(128.0)).expect("a picture");
        let mut fill = |rectangle: Rect, [b, g, r]: [f64; 3]| {
            imgproc::rectangle(&mut frame, rectangle, Scalar::new(b, g, r, 0.0), imgproc::FILLED, imgproc::LINE_8, 0).expect("a rectangle");
        };
        fill(Rect::new(70, 50, 60, 100), shirt);
        fill(Rect::new(70, 150, 60, 120), trousers);
        let mut keypoints = [Keypoint::MISSING; JOINTS];
        for (joint, x, y) in [(14, 75.0, 55.0), (11, 125.0, 55.0), (1, 85.0, 150.0), (4, 115.0, 150.0), (2, 85.0, 220.0), (5, 115.0, 220.0)]
        {
            keypoints[joint] = Keypoint::new(x, y, 0.9);
        }
        (frame, keypoints)
    }

    fn look(shirt: [f64; 3], trousers: [f64; 3]) -> Appearance {
        let (frame, keypoints) = clothed(shirt, trousers);
        Appearance::look(&frame, &keypoints)
    }

    #[test]
    fn clothes_tell_people_apart_and_light_does_not() {
        let red = look([30.0, 30.0, 200.0], [40.0, 40.0, 40.0]);
        let similarity = |other: Appearance| red.similarity(&other).expect("both are seen");
        assert!(similarity(red) > 0.999);
        assert!(similarity(look([26.0, 25.0, 172.0], [33.0, 34.0, 33.0])) > 0.9, "the same in less light");
        assert!(similarity(look([200.0, 80.0, 30.0], [40.0, 40.0, 40.0])) < 0.6, "a blue shirt");
        assert!(similarity(look([200.0, 80.0, 30.0], [210.0, 210.0, 210.0])) < 0.2, "blue and white");
    }

    #[test]
    fn what_is_not_seen_says_nothing() {
        let (frame, mut keypoints) = clothed([30.0, 30.0, 200.0], [40.0, 40.0, 40.0]);
        let whole = Appearance::look(&frame, &keypoints);
        keypoints[1].confidence = 0.1;
        keypoints[4].confidence = 0.1;
        let nothing = Appearance::look(&frame, &keypoints);
        assert_eq!(nothing.views(), 0.0);
        assert_eq!(whole.similarity(&nothing), None);
        let (_, mut outside) = clothed([0.0; 3], [0.0; 3]);
        outside.iter_mut().for_each(|keypoint| keypoint.x_px += 1000.0);
        assert_eq!(Appearance::look(&frame, &outside).views(), 0.0);
    }
}
