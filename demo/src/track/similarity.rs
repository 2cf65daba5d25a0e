//! How alike two sights of people are: of their keypoints, and of their limbs' proportions.

use pose::skeleton::flip_index;
use pose::{JOINTS, Keypoints17};

use crate::detect::BoxPx;

/// Spread of each joint as annotated by people, in roots of the person's area: COCO's, with neighbours' for joints it lacks.
const SPREAD: [f32; JOINTS] =
    [0.107, 0.107, 0.087, 0.089, 0.107, 0.087, 0.089, 0.09, 0.079, 0.05, 0.08, 0.079, 0.072, 0.062, 0.079, 0.072, 0.062];
/// Root of a standing person's area, in heights.
const ROOT_OF_AREA: f32 = 0.5;
/// Fewer joints that both have say nothing.
const MIN_JOINTS: usize = 5;
/// A joint below this confidence is not measured with.
const CONFIDENT: f32 = 0.5;

/// Object keypoint similarity (COCO's, 0..1) of two poses of people of this height; the better one of the pose and its
/// exchange of left and right, which detectors confuse. `None` for poses that have too few joints in common.
pub fn oks(a: &Keypoints17, b: &Keypoints17, height_px: f32) -> Option<f32> {
    let scale = ROOT_OF_AREA * height_px.max(1.0);
    let straight = mean_similarity(a, b, scale, |joint| joint)?;
    let flip = flip_index();
    Some(mean_similarity(a, b, scale, |joint| flip[joint]).map_or(straight, |flipped| straight.max(flipped)))
}

fn mean_similarity(a: &Keypoints17, b: &Keypoints17, scale: f32, joint_of_b: impl Fn(usize) -> usize) -> Option<f32> {
    let (mut sum, mut count) = (0.0, 0);
    for j in 0..JOINTS {
        let (a, b) = (a[j], b[joint_of_b(j)]);
        if !a.is_missing() && !b.is_missing() {
            let squared = (a.x_px - b.x_px).powi(2) + (a.y_px - b.y_px).powi(2);
            sum += (-squared / (2.0 * (2.0 * SPREAD[j] * scale).powi(2))).exp();
            count += 1;
        }
    }
    (count >= MIN_JOINTS).then(|| sum / count as f32)
}

/// The middle of a box.
pub fn centre(box_px: &BoxPx) -> [f32; 2] {
    [box_px.left + box_px.width / 2.0, box_px.top + box_px.height / 2.0]
}

/// Intersection over union.
pub fn iou(a: &BoxPx, b: &BoxPx) -> f32 {
    let shared = |start_a: f32, length_a: f32, start_b: f32, length_b: f32| {
        ((start_a + length_a).min(start_b + length_b) - start_a.max(start_b)).max(0.0)
    };
    let intersection = shared(a.left, a.width, b.left, b.width) * shared(a.top, a.height, b.top, b.height);
    let union = a.width * a.height + b.width * b.height - intersection;
    if union > 0.0 { intersection / union } else { 0.0 }
}

/// Mean proportions of somebody's limbs, as seen: each limb's share of them all. One view says little, since limbs are
/// foreshortened; many views together tell a child from an adult.
#[derive(Debug, Clone, Copy, Default)]
pub struct Proportions {
    sums: [f32; LIMBS.len()],
    views: u32,
}

/// Torso, thigh, shin, upper arm, forearm: the joints of the right and of the left one.
const LIMBS: [[(usize, usize); 2]; 5] =
    [[(14, 1), (11, 4)], [(1, 2), (4, 5)], [(2, 3), (5, 6)], [(14, 15), (11, 12)], [(15, 16), (12, 13)]];
/// Fewer views are no evidence.
const MIN_VIEWS: u32 = 15;

impl Proportions {
    /// Adds one view, if every limb is to be seen on one side at least.
    pub fn add(&mut self, keypoints: &Keypoints17) {
        let length = |(from, to): (usize, usize)| {
            let (a, b) = (keypoints[from], keypoints[to]);
            (a.confidence >= CONFIDENT && b.confidence >= CONFIDENT).then(|| (a.x_px - b.x_px).hypot(a.y_px - b.y_px))
        };
        // The longer one of both sides is less foreshortened.
        let lengths = LIMBS.map(|[right, left]| length(right).into_iter().chain(length(left)).reduce(f32::max));
        let [Some(a), Some(b), Some(c), Some(d), Some(e)] = lengths else { return };
        let lengths = [a, b, c, d, e];
        let total: f32 = lengths.iter().sum();
        if total > 1.0 {
            self.sums.iter_mut().zip(lengths).for_each(|(sum, length)| *sum += length / total);
            self.views += 1;
        }
    }

    /// Adds another one's views of the same person.
    pub fn extend(&mut self, other: &Self) {
        self.sums.iter_mut().zip(other.sums).for_each(|(sum, more)| *sum += more);
        self.views += other.views;
    }

    /// Sum of the differences of the shares, 0 for equal ones; `None` while one of them has too few views.
    pub fn difference(&self, other: &Self) -> Option<f32> {
        if self.views < MIN_VIEWS || other.views < MIN_VIEWS {
            return None;
        }
        let mean = |proportions: &Self, limb: usize| proportions.sums[limb] / proportions.views as f32;
        Some((0..LIMBS.len()).map(|limb| (mean(self, limb) - mean(other, limb)).abs()).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pose::Keypoint;

    fn person(x: f32, legs: f32) -> Keypoints17 {
        let places: [[f32; 2]; JOINTS] = [
            [0., 0.],
            [-10., 0.],
            [-10., 45. * legs],
            [-10., 85. * legs],
            [10., 0.],
            [10., 45. * legs],
            [10., 85. * legs],
            [0., -25.],
            [0., -50.],
            [0., -60.],
            [0., -75.],
            [18., -50.],
            [30., -25.],
            [35., 0.],
            [-18., -50.],
            [-30., -25.],
            [-35., 0.],
        ];
        places.map(|[dx, y]| Keypoint::new(x + dx, y, 0.9))
    }

    #[test]
    fn alike_poses_are_near_one_and_others_near_nothing() {
        let (a, b) = (person(100.0, 1.0), person(103.0, 1.0));
        assert!(oks(&a, &b, 160.0).expect("joints") > 0.9);
        assert!(oks(&a, &person(180.0, 1.0), 160.0).expect("joints") < 0.05);
        let flip = flip_index();
        let flipped: Keypoints17 = std::array::from_fn(|j| a[flip[j]]);
        assert!(oks(&a, &flipped, 160.0).expect("joints") > 0.99);
        assert_eq!(oks(&a, &[Keypoint::MISSING; JOINTS], 160.0), None);
    }

    #[test]
    fn boxes() {
        let a = BoxPx { left: 0.0, top: 0.0, width: 10.0, height: 10.0 };
        assert_eq!(iou(&a, &a), 1.0);
        assert!((iou(&a, &BoxPx { left: 5.0, ..a }) - 1.0 / 3.0).abs() < 1e-6);
        assert_eq!(iou(&a, &BoxPx { left: 20.0, ..a }), 0.0);
        assert_eq!(iou(&BoxPx { width: 0.0, ..a }, &BoxPx { width: 0.0, ..a }), 0.0);
    }

    #[test]
    fn a_child_has_other_proportions_than_an_adult() {
        let views = |legs: f32| {
            let mut proportions = Proportions::default();
            (0..20).for_each(|i| proportions.add(&person(i as f32, legs)));
            proportions
        };
        let (adult, same, child) = (views(1.0), views(1.02), views(0.7));
        assert!(adult.difference(&same).expect("views") < 0.03);
        assert!(adult.difference(&child).expect("views") > 0.1);
        assert_eq!(adult.difference(&Proportions::default()), None);
    }
}
