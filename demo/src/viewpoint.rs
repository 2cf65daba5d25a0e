//! Where a clip's 3D skeletons are seen from: one steady direction, slightly from above.

use pose::camera::{Extrinsics, Intrinsics};
use pose::{ImageSize, Pose3, ROOT};

/// The view is turned this far to the right of the real camera's, so that depth shows.
const AZIMUTH_DEG: f32 = 32.0;
/// ... and looks down by this much.
const ELEVATION_DEG: f32 = 14.0;
/// A long lens: parallel lines stay nearly parallel.
const FIELD_OF_VIEW_DEG: f32 = 26.0;
/// Share of the panel that stays free at each border.
const MARGIN: f32 = 0.07;
/// Share of the joints that must be in view; the rest may be outliers.
const INSIDE: f32 = 0.995;
/// Someone who walks farther than this is followed (the direction stays); others are seen from one place.
const FOLLOW_BEYOND_MM: f32 = 3500.0;
/// Several people are seen from one place as long as they stay within this.
const FOLLOW_SEVERAL_BEYOND_MM: f32 = 9000.0;
/// The view follows the mean place over this long.
const FOLLOW_WINDOW_S: f64 = 1.5;
const NEAREST_MM: f32 = 1500.0;
const FARTHEST_MM: f32 = 60_000.0;

/// A steady view of a clip.
#[derive(Debug, Clone)]
pub struct Viewpoint {
    /// Lens of the view.
    pub intrinsics: Intrinsics,
    /// Point that is looked at in each frame: one for all frames, or one for each.
    targets_mm: Vec<[f32; 3]>,
    distance_mm: f32,
}

impl Viewpoint {
    /// A view of the given size that shows everyone in a clip (z up). Both slices have one entry for each frame.
    ///
    /// # Errors
    /// [`pose::Error`] for a panel without pixels.
    pub fn fit(world_mm: &[Vec<&Pose3>], times_s: &[f64], panel: ImageSize) -> Result<Self, pose::Error> {
        let intrinsics = Intrinsics::from_horizontal_fov_deg(panel, FIELD_OF_VIEW_DEG)?;
        let mut view = Self { intrinsics, targets_mm: targets(world_mm, times_s), distance_mm: FARTHEST_MM };
        // The smallest distance from which everything is in view, by bisection: farther shows more.
        let (mut near_mm, mut far_mm) = (NEAREST_MM, FARTHEST_MM);
        for _ in 0..24 {
            view.distance_mm = (near_mm + far_mm) / 2.0;
            let bound = if view.shows(world_mm, panel) { &mut far_mm } else { &mut near_mm };
            *bound = view.distance_mm;
        }
        view.distance_mm = far_mm;
        Ok(view)
    }

    /// Where the view's camera stands in a frame.
    pub fn camera(&self, frame: usize) -> Extrinsics {
        let target = self.target_mm(frame);
        let (sin_azimuth, cos_azimuth) = AZIMUTH_DEG.to_radians().sin_cos();
        let (sin_elevation, cos_elevation) = ELEVATION_DEG.to_radians().sin_cos();
        let towards_camera = [sin_azimuth * cos_elevation, -cos_azimuth * cos_elevation, sin_elevation];
        let position: [f32; 3] = std::array::from_fn(|k| target[k] + self.distance_mm * towards_camera[k]);
        // Only a target above or below the camera would fail: the elevation is fixed.
        Extrinsics::look_at(position, target, 0.0).unwrap_or_else(|_| Extrinsics::level(target[2]))
    }

    /// The point in the middle of the panel.
    pub fn target_mm(&self, frame: usize) -> [f32; 3] {
        let last = self.targets_mm.len() - 1; // `targets` gives at least one
        self.targets_mm[frame.min(last)]
    }

    /// Radius around the target that is worth drawing a floor for.
    pub fn floor_radius_mm(&self) -> f32 {
        self.distance_mm * (FIELD_OF_VIEW_DEG / 2.0).to_radians().tan() * 1.5
    }

    fn shows(&self, world_mm: &[Vec<&Pose3>], panel: ImageSize) -> bool {
        let [width, height] = [panel.width_px as f32, panel.height_px as f32];
        let is_inside = |pixel: [f32; 2]| {
            (width * MARGIN..=width * (1.0 - MARGIN)).contains(&pixel[0]) && (height * MARGIN..=height * (1.0 - MARGIN)).contains(&pixel[1])
        };
        let (mut inside, mut all) = (0, 0);
        for (frame, poses) in world_mm.iter().enumerate() {
            let camera = self.camera(frame);
            let pixels = poses.iter().flat_map(|pose| pose.iter()).filter_map(|&joint| self.intrinsics.project(camera.to_camera(joint)));
            inside += pixels.filter(|&pixel| is_inside(pixel)).count();
            all += poses.len() * pose::JOINTS;
        }
        inside as f32 >= INSIDE * all as f32
    }

    /// Whether all frames are seen from one place.
    pub fn is_steady(&self) -> bool {
        self.targets_mm.len() == 1
    }
}

/// The point to look at: half the people's height over the middle of their paths, or over their smoothed place.
fn targets(world_mm: &[Vec<&Pose3>], times_s: &[f64]) -> Vec<[f32; 3]> {
    let everyone = || world_mm.iter().flatten();
    let top_mm = quantile(everyone().map(|pose| pose.iter().fold(0.0, |top: f32, joint| top.max(joint[2]))), 0.95);
    let height_mm = top_mm.unwrap_or(1700.0) / 2.0;
    let range = |axis: usize| {
        let of_root = |share| quantile(everyone().map(|pose| pose[ROOT][axis]), share).unwrap_or(0.0);
        (of_root(0.02), of_root(0.98))
    };
    let ((x0, x1), (y0, y1)) = (range(0), range(1));
    let beyond_mm = if world_mm.iter().any(|poses| poses.len() > 1) { FOLLOW_SEVERAL_BEYOND_MM } else { FOLLOW_BEYOND_MM };
    let middle = [(x0 + x1) / 2.0, (y0 + y1) / 2.0, height_mm];
    if (x1 - x0).hypot(y1 - y0) <= beyond_mm {
        return vec![middle];
    }
    let around = |t: usize| {
        let near = |&i: &usize| (times_s[i] - times_s[t]).abs() <= FOLLOW_WINDOW_S;
        let first = (0..=t).rev().take_while(near).last().unwrap_or(t);
        let last = (t..world_mm.len()).take_while(near).last().unwrap_or(t);
        let roots: Vec<[f32; 3]> = world_mm[first..=last].iter().flatten().map(|pose| pose[ROOT]).collect();
        let mean = |axis: usize| roots.iter().map(|root| root[axis]).sum::<f32>() / roots.len() as f32;
        (!roots.is_empty()).then(|| [mean(0), mean(1), height_mm])
    };
    // Where nobody is, the view stays.
    let mut last = (0..world_mm.len()).find_map(around).unwrap_or(middle);
    let follow = |t: usize| {
        last = around(t).unwrap_or(last);
        last
    };
    (0..world_mm.len()).map(follow).collect()
}

fn quantile(values: impl Iterator<Item = f32>, share: f32) -> Option<f32> {
    let mut values: Vec<f32> = values.collect();
    values.sort_by(f32::total_cmp);
    values.get(((values.len().saturating_sub(1)) as f32 * share).round() as usize).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pose::JOINTS;

    const PANEL: ImageSize = ImageSize { width_px: 480, height_px: 480 };

    /// A person as a stick: joints from the floor to 1.7 m, at (x, 4000).
    fn stick(x_mm: f32) -> Pose3 {
        std::array::from_fn(|j| [x_mm, 4000.0, 1700.0 * j as f32 / (JOINTS - 1) as f32])
    }

    fn clip(walk_mm: f32) -> (Vec<Pose3>, Vec<f64>) {
        let poses = (0..100).map(|t| stick(walk_mm * t as f32 / 99.0)).collect();
        (poses, (0..100).map(|t| t as f64 / 30.0).collect())
    }

    fn alone(poses: &[Pose3]) -> Vec<Vec<&Pose3>> {
        poses.iter().map(|pose| vec![pose]).collect()
    }

    #[test]
    fn several_people_who_come_and_go_are_all_in_view() {
        let (walking, times_s) = clip(30_000.0);
        let standing = stick(4000.0);
        let frames: Vec<Vec<&Pose3>> = (0..100)
            .map(|t| match t {
                0..20 => vec![],
                20..60 => vec![&walking[t], &standing],
                60..80 => vec![&walking[t]],
                _ => vec![],
            })
            .collect();
        let view = Viewpoint::fit(&frames, &times_s, PANEL).expect("a panel with pixels");
        for (frame, poses) in frames.iter().enumerate() {
            for joint in poses.iter().flat_map(|pose| pose.iter()) {
                let pixel = view.intrinsics.project(view.camera(frame).to_camera(*joint)).expect("in front");
                assert!(pixel.iter().all(|v| (0.0..480.0).contains(v)), "{frame}: {pixel:?}");
            }
        }
        let nobody = vec![vec![]; 100];
        assert!(Viewpoint::fit(&nobody, &times_s, PANEL).expect("a view of nobody").is_steady());
    }

    #[test]
    fn everyone_is_in_view_and_upright() {
        for walk_mm in [0.0, 2000.0, 20_000.0] {
            let (poses, times_s) = clip(walk_mm);
            let view = Viewpoint::fit(&alone(&poses), &times_s, PANEL).expect("a panel with pixels");
            for (frame, pose) in poses.iter().enumerate() {
                let camera = view.camera(frame);
                let pixel = |joint: usize| view.intrinsics.project(camera.to_camera(pose[joint])).expect("in front");
                let (foot, head) = (pixel(0), pixel(JOINTS - 1));
                assert!(foot[1] > head[1] + 50.0, "the head is up: {foot:?} {head:?}");
                for pixel in [foot, head] {
                    assert!(pixel.iter().all(|v| (0.0..480.0).contains(v)), "{walk_mm}: {pixel:?}");
                }
            }
        }
    }

    #[test]
    fn short_walks_are_seen_from_one_place_and_long_ones_are_followed() {
        let cameras = |walk_mm| {
            let (poses, times_s) = clip(walk_mm);
            let view = Viewpoint::fit(&alone(&poses), &times_s, PANEL).expect("a panel with pixels");
            (view.camera(0), view.camera(99))
        };
        let (first, last) = cameras(2000.0);
        assert_eq!(first, last);
        let (first, last) = cameras(20_000.0);
        assert!(last.translation_mm[0] > first.translation_mm[0] + 10_000.0);
        for (a, b) in first.rotation.iter().flatten().zip(last.rotation.iter().flatten()) {
            assert!((a - b).abs() < 1e-4, "the direction is steady");
        }
    }
}
