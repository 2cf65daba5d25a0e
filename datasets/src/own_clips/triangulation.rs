//! Points in space from several calibrated cameras: linear triangulation (the direct linear transform of Hartley and Zisserman, chapter 12),
//! weighted by confidence, without the views that contradict the others.

use nalgebra::{DMatrix, Vector3, Vector4};

use formats::calibration::CalibratedCamera;

/// What may be triangulated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TriangulationOptions {
    /// Views with a lower confidence are left out.
    pub least_confidence: f32,
    /// A view farther than this from the projected point is taken for wrong, px.
    pub largest_error_px: f64,
}

impl Default for TriangulationOptions {
    fn default() -> Self {
        Self { least_confidence: 0.3, largest_error_px: 15.0 }
    }
}

/// A point that at least two cameras agree on.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// World, mm.
    pub position_mm: [f64; 3],
    /// Mean distance of the views that were used from the projected point, px.
    pub error_px: f64,
    /// Indices of the cameras that were used.
    pub used: Vec<usize>,
    /// Indices of the cameras whose views contradicted them.
    pub rejected: Vec<usize>,
}

/// What one camera sees of a point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sight {
    /// Index of the camera.
    pub camera: usize,
    /// Undistorted pixel.
    pub pixel: [f32; 2],
    /// Above 0.
    pub confidence: f32,
}

/// `camera_from_world` of a camera, its translation in metres, so that all numbers of the system have similar sizes.
struct Projection {
    rows: [Vector4<f64>; 3],
    focal_px: [f64; 2],
    centre_px: [f64; 2],
}

const METRE_MM: f64 = 1000.0;

impl Projection {
    fn of(camera: &CalibratedCamera) -> Self {
        let position_m = Vector3::from(camera.extrinsics.translation_mm).cast::<f64>() / METRE_MM;
        let row = |k: usize| {
            // the camera's axes in the world are the columns of its rotation
            let axis = Vector3::from_fn(|i, _| f64::from(camera.extrinsics.rotation[i][k]));
            Vector4::new(axis.x, axis.y, axis.z, -axis.dot(&position_m))
        };
        let focal_px = camera.intrinsics.focal_px.map(f64::from);
        Self { rows: std::array::from_fn(row), focal_px, centre_px: camera.intrinsics.centre_px.map(f64::from) }
    }

    /// Distance of the projected point from a pixel; infinite where it is not in front of the camera.
    fn error_px(&self, point_m: &Vector3<f64>, pixel: [f32; 2]) -> f64 {
        let p = point_m.push(1.0);
        let depth = self.rows[2].dot(&p);
        if depth <= 1e-6 {
            return f64::INFINITY;
        }
        let off = |c: usize| self.rows[c].dot(&p) / depth * self.focal_px[c] + self.centre_px[c] - f64::from(pixel[c]);
        off(0).hypot(off(1))
    }
}

/// Cameras, ready to triangulate with.
pub struct Triangulator {
    projections: Vec<Projection>,
    options: TriangulationOptions,
}

impl Triangulator {
    /// For some cameras.
    pub fn new(cameras: &[CalibratedCamera], options: TriangulationOptions) -> Self {
        Self { projections: cameras.iter().map(Projection::of).collect(), options }
    }

    /// The point that cameras see, without the views that are farther than the largest error from it: they are taken out one by one, each time
    /// the one without which the others agree best. `None` where no two views agree.
    pub fn point(&self, sights: &[Sight]) -> Option<Point> {
        let usable = |sight: &&Sight| sight.confidence >= self.options.least_confidence && sight.camera < self.projections.len();
        let mut used: Vec<Sight> = sights.iter().filter(usable).copied().collect();
        let mut rejected = Vec::new();
        loop {
            let (point_m, errors_px) = self.solve(&used)?;
            let worst_px = errors_px.iter().copied().fold(0.0, f64::max);
            if worst_px <= self.options.largest_error_px {
                return Some(Point {
                    position_mm: (point_m * METRE_MM).into(),
                    error_px: errors_px.iter().sum::<f64>() / errors_px.len() as f64,
                    used: used.iter().map(|sight| sight.camera).collect(),
                    rejected,
                });
            }
            let without = |left_out: usize| {
                let others: Vec<Sight> = used.iter().enumerate().filter(|(i, _)| *i != left_out).map(|(_, sight)| *sight).collect();
                let (_, errors_px) = self.solve(&others)?;
                Some((left_out, errors_px.into_iter().fold(0.0, f64::max)))
            };
            let (left_out, _) = (0..used.len()).filter_map(without).min_by(|a, b| a.1.total_cmp(&b.1))?;
            rejected.push(used.remove(left_out).camera);
        }
    }

    /// The least-squares point of at least two views, and each view's distance from it, px.
    fn solve(&self, sights: &[Sight]) -> Option<(Vector3<f64>, Vec<f64>)> {
        if sights.len() < 2 {
            return None;
        }
        let mut depths = vec![1.0; sights.len()];
        let mut point_m = None;
        // The plain system weighs a view by the point's depth in it; dividing by the depth found makes its rows errors in pixels.
        for _ in 0..3 {
            let mut system = DMatrix::zeros(2 * sights.len(), 4);
            for (i, (sight, depth)) in sights.iter().zip(&depths).enumerate() {
                let Projection { rows, focal_px, centre_px } = &self.projections[sight.camera];
                for c in 0..2 {
                    let ray = (f64::from(sight.pixel[c]) - centre_px[c]) / focal_px[c];
                    let weight = f64::from(sight.confidence) * focal_px[c] / (1000.0 * depth);
                    system.set_row(2 * i + c, &((rows[2] * ray - rows[c]) * weight).transpose());
                }
            }
            let basis = system.svd(false, true).v_t?;
            let p = basis.row(basis.nrows() - 1);
            if p[3].abs() < 1e-9 * p.norm() {
                return None; // the rays are parallel
            }
            let found = Vector3::new(p[0], p[1], p[2]) / p[3];
            for (depth, sight) in depths.iter_mut().zip(sights) {
                *depth = self.projections[sight.camera].rows[2].dot(&found.push(1.0)).max(0.1);
            }
            point_m = Some(found);
        }
        let point_m = point_m.filter(|p| p.iter().all(|v| v.is_finite()))?;
        let errors_px = sights.iter().map(|sight| self.projections[sight.camera].error_px(&point_m, sight.pixel)).collect();
        Some((point_m, errors_px))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pose::ImageSize;
    use pose::camera::{Extrinsics, Intrinsics};
    use proptest::prelude::*;

    /// `count` cameras on a circle of 4 m around the origin, 1.5 m high.
    fn ring(count: usize) -> Vec<CalibratedCamera> {
        let image = ImageSize { width_px: 1920, height_px: 1080 };
        (0..count)
            .map(|i| {
                let angle = i as f32 / count as f32 * 5.5;
                let position_mm = [4000.0 * angle.cos(), 4000.0 * angle.sin(), 1500.0];
                CalibratedCamera {
                    name: format!("camera {i}"),
                    image,
                    intrinsics: Intrinsics::from_horizontal_fov_deg(image, 60.0 + i as f32).unwrap(),
                    distortion: [0.0; 5],
                    extrinsics: Extrinsics::look_at(position_mm, [0.0, 0.0, 900.0], 0.05 * i as f32).unwrap(),
                }
            })
            .collect()
    }

    fn sights(cameras: &[CalibratedCamera], point_mm: [f32; 3]) -> Vec<Sight> {
        let see = |(camera, c): (usize, &CalibratedCamera)| {
            let pixel = c.intrinsics.project(c.extrinsics.to_camera(point_mm)).unwrap();
            Sight { camera, pixel, confidence: 0.9 }
        };
        cameras.iter().enumerate().map(see).collect()
    }

    fn distance_mm(found: &Point, expected: [f32; 3]) -> f64 {
        (0..3).map(|c| (found.position_mm[c] - f64::from(expected[c])).powi(2)).sum::<f64>().sqrt()
    }

    proptest! {
        #[test]
        fn exact_views_meet_in_the_point(count in 2usize..7, x in -1000f32..1000.0, y in -1000f32..1000.0, z in 0f32..2000.0) {
            let cameras = ring(count);
            let point = Triangulator::new(&cameras, TriangulationOptions::default()).point(&sights(&cameras, [x, y, z])).unwrap();
            prop_assert!(distance_mm(&point, [x, y, z]) < 0.5 && point.error_px < 0.05 && point.rejected.is_empty(), "{point:?}");
        }

        #[test]
        fn a_view_that_contradicts_is_rejected(wrong in 0usize..4, dx in 60f32..400.0, up in any::<bool>(), x in -500f32..500.0, z in 300f32..1700.0) {
            let cameras = ring(4);
            let mut seen = sights(&cameras, [x, 200.0, z]);
            seen[wrong].pixel[usize::from(up)] += dx;
            let point = Triangulator::new(&cameras, TriangulationOptions::default()).point(&seen).unwrap();
            prop_assert_eq!(&point.rejected, &vec![wrong]);
            prop_assert!(distance_mm(&point, [x, 200.0, z]) < 0.5, "{:?}", point);
        }
    }

    #[test]
    fn noise_of_pixels_is_noise_of_millimetres() {
        let cameras = ring(4);
        let triangulator = Triangulator::new(&cameras, TriangulationOptions::default());
        let mut sum_mm = 0.0;
        for i in 0..200 {
            let at = [(i % 7) as f32 * 100.0 - 300.0, (i % 11) as f32 * 80.0 - 400.0, (i % 13) as f32 * 120.0];
            let mut seen = sights(&cameras, at);
            for (k, sight) in seen.iter_mut().enumerate() {
                let phase = (i * 4 + k) as f32;
                sight.pixel = [sight.pixel[0] + 2.0 * (phase * 1.7).sin(), sight.pixel[1] + 2.0 * (phase * 2.9).cos()];
            }
            let point = triangulator.point(&seen).unwrap();
            assert!(point.used.len() == 4 && (0.1..4.0).contains(&point.error_px), "{point:?}");
            sum_mm += distance_mm(&point, at);
        }
        // 2 px at 4 m and a focal length of 1660 px are 4.8 mm along each axis
        assert!((1.0..6.0).contains(&(sum_mm / 200.0)), "{}", sum_mm / 200.0);
    }

    #[test]
    fn confidence_weighs_and_leaves_out() {
        let cameras = ring(3);
        let at = [100.0, -200.0, 1000.0];
        let mut seen = sights(&cameras, at);
        seen[1].pixel[0] += 10.0;
        let triangulator = Triangulator::new(&cameras, TriangulationOptions::default());
        let equal = distance_mm(&triangulator.point(&seen).unwrap(), at);
        seen[1].confidence = 0.35;
        let unequal = distance_mm(&triangulator.point(&seen).unwrap(), at);
        seen[1].confidence = 0.2;
        let without = triangulator.point(&seen).unwrap();
        assert!(unequal < equal && distance_mm(&without, at) < 0.5, "{equal} {unequal}");
        assert_eq!((without.used, without.rejected), (vec![0, 2], vec![]));
    }

    #[test]
    fn no_two_views_no_point() {
        let cameras = ring(3);
        let triangulator = Triangulator::new(&cameras, TriangulationOptions::default());
        let seen = sights(&cameras, [0.0, 0.0, 900.0]);
        assert_eq!(triangulator.point(&[]), None);
        assert_eq!(triangulator.point(&seen[..1]), None);
        let mut apart = seen.clone();
        apart[0].pixel[1] += 300.0;
        assert_eq!(triangulator.point(&apart[..2]), None, "two views that contradict each other");
    }
}
