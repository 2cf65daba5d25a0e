//! Pinhole cameras.
//!
//! Camera space: x right, y down, z away from the camera. World space: right-handed, z up.

use crate::{Error, ImageSize, Keypoint, KeypointClip, Pose3};
use nalgebra::{Matrix3, Vector3};
use serde::{Deserialize, Serialize};

/// Horizontal field of view that is assumed when none is known.
pub const DEFAULT_HORIZONTAL_FOV_DEG: f32 = 60.0;

/// A pinhole camera without lens distortion.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Intrinsics {
    /// Focal lengths along x and y.
    pub focal_px: [f32; 2],
    /// Principal point.
    pub centre_px: [f32; 2],
}

impl Intrinsics {
    /// Square pixels, principal point in the middle, focal length from the horizontal field of view.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when the angle does not lie between 1 and 179 degrees, [`Error::BadImage`] for an empty image.
    pub fn from_horizontal_fov_deg(image: ImageSize, fov_deg: f32) -> Result<Self, Error> {
        let ImageSize { width_px, height_px } = image;
        if width_px == 0 || height_px == 0 {
            return Err(Error::BadImage { width_px, height_px });
        }
        if !(1.0..=179.0).contains(&fov_deg) {
            return Err(Error::out_of_range("horizontal field of view", "1 to 179 degrees", fov_deg));
        }
        let (width_px, height_px) = (width_px as f32, height_px as f32);
        let focal_px = width_px / 2.0 / (fov_deg.to_radians() / 2.0).tan();
        Ok(Self { focal_px: [focal_px; 2], centre_px: [width_px / 2.0, height_px / 2.0] })
    }

    /// Refuses focal lengths that are not above 0 and numbers that are not finite.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn validate(&self) -> Result<(), Error> {
        let focal_ok = self.focal_px.iter().all(|f| f.is_finite() && *f > 0.0);
        if focal_ok && self.centre_px.iter().all(|c| c.is_finite()) {
            return Ok(());
        }
        let found = format!("focal length {:?}, centre {:?}", self.focal_px, self.centre_px);
        Err(Error::out_of_range("camera intrinsics in pixels", "finite numbers and focal lengths above 0", found))
    }

    /// One focal length for both axes: their mean. It turns the depth of 2.5D into millimetres, see [`crate::world`].
    pub fn mean_focal_px(&self) -> f32 {
        (self.focal_px[0] + self.focal_px[1]) / 2.0
    }

    /// Pixel of a point in camera space; `None` for a point that is not in front of the camera.
    pub fn project(&self, [x, y, z]: [f32; 3]) -> Option<[f32; 2]> {
        (z > 0.0).then(|| [x / z * self.focal_px[0] + self.centre_px[0], y / z * self.focal_px[1] + self.centre_px[1]])
    }

    /// The point in camera space that is seen at a pixel and has this depth (z, not distance). The inverse of [`Self::project`].
    pub fn back_project(&self, pixel: [f32; 2], depth_mm: f32) -> [f32; 3] {
        let [x, y] = self.ray(pixel);
        [x * depth_mm, y * depth_mm, depth_mm]
    }

    /// Direction of a pixel: x and y at depth 1.
    pub fn ray(&self, [x_px, y_px]: [f32; 2]) -> [f32; 2] {
        [(x_px - self.centre_px[0]) / self.focal_px[0], (y_px - self.centre_px[1]) / self.focal_px[1]]
    }
}

/// A camera's lens, as it was calibrated: pinhole and distortion, for pictures of one size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lens {
    /// Size of the pictures that the pixels are of.
    pub image: ImageSize,
    /// The lens without distortion.
    pub intrinsics: Intrinsics,
    /// OpenCV's k1, k2, p1, p2, k3 (Brown and Conrady's model).
    pub distortion: [f64; 5],
}

impl Lens {
    /// Shapes of pictures that differ by less than this share are taken for the same: some programs cut a few rows.
    const SAME_SHAPE: f32 = 0.01;

    /// Refuses numbers that are no lens.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::BadImage`].
    pub fn validate(&self) -> Result<(), Error> {
        let ImageSize { width_px, height_px } = self.image;
        if width_px == 0 || height_px == 0 {
            return Err(Error::BadImage { width_px, height_px });
        }
        self.intrinsics.validate()?;
        let larger_px = width_px.max(height_px) as f32;
        if !self.intrinsics.focal_px.iter().all(|f| (0.1 * larger_px..50.0 * larger_px).contains(f)) {
            return Err(Error::out_of_range(
                "focal length",
                "pixels, 0.1 to 50 times the longer side of the picture",
                self.intrinsics.focal_px[0],
            ));
        }
        match self.distortion.iter().all(|k| k.abs() <= 1e3) {
            true => Ok(()),
            false => Err(Error::out_of_range("distortion", "finite numbers k1, k2, p1, p2, k3", format!("{:?}", self.distortion))),
        }
    }

    /// The same lens for pictures of another size and the same shape, such as a smaller copy of the video.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for another shape: then the pictures were cut or turned, and who cut them knows how.
    pub fn scaled_to(&self, image: ImageSize) -> Result<Self, Error> {
        let scale = [image.width_px as f32 / self.image.width_px as f32, image.height_px as f32 / self.image.height_px as f32];
        if (scale[0] / scale[1] - 1.0).abs() > Self::SAME_SHAPE {
            let found = format!(
                "a calibration for {} x {} px and pictures of {} x {} px",
                self.image.width_px, self.image.height_px, image.width_px, image.height_px
            );
            return Err(Error::out_of_range(
                "shape of the picture",
                "that of the camera's calibration (calibrate upright videos upright)",
                found,
            ));
        }
        let scaled = |v: [f32; 2]| [scale[0] * v[0], scale[1] * v[1]];
        let Intrinsics { focal_px, centre_px } = self.intrinsics;
        Ok(Self { image, intrinsics: Intrinsics { focal_px: scaled(focal_px), centre_px: scaled(centre_px) }, distortion: self.distortion })
    }

    /// Pixel that the lens without distortion would show a point at which it shows at `pixel`. OpenCV's `undistortPoints`, by fixed-point
    /// iteration.
    pub fn undistorted(&self, pixel: [f32; 2]) -> [f32; 2] {
        if self.distortion == [0.0; 5] {
            return pixel;
        }
        let seen = self.intrinsics.ray(pixel).map(f64::from);
        let mut ray = seen;
        for _ in 0..20 {
            let bent = self.bent(ray);
            ray = [0, 1].map(|c| ray[c] + seen[c] - bent[c]);
        }
        // far outside the picture the polynomial has no inverse: what came in is better than what would come out
        let back = self.bent(ray);
        let error_px = f64::from(self.intrinsics.mean_focal_px()) * (back[0] - seen[0]).hypot(back[1] - seen[1]);
        if error_px.is_nan() || error_px > 0.5 {
            return pixel;
        }
        let Intrinsics { focal_px, centre_px } = self.intrinsics;
        [0, 1].map(|c| ray[c] as f32 * focal_px[c] + centre_px[c])
    }

    /// Pixel at which the lens shows a point that it would show at `pixel` without distortion.
    pub fn distorted(&self, pixel: [f32; 2]) -> [f32; 2] {
        let bent = self.bent(self.intrinsics.ray(pixel).map(f64::from));
        let Intrinsics { focal_px, centre_px } = self.intrinsics;
        [0, 1].map(|c| bent[c] as f32 * focal_px[c] + centre_px[c])
    }

    /// A clip's keypoints as the lens without distortion would show them; what is missing stays missing.
    pub fn undistorted_clip(&self, clip: &KeypointClip) -> KeypointClip {
        let undistorted = |k: Keypoint| {
            let [x_px, y_px] = self.undistorted([k.x_px, k.y_px]);
            if k.is_missing() { k } else { Keypoint { x_px, y_px, ..k } }
        };
        KeypointClip { frames: clip.frames.iter().map(|frame| frame.map(undistorted)).collect(), ..clip.clone() }
    }

    /// Brown and Conrady's model, at depth 1.
    fn bent(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let [k1, k2, p1, p2, k3] = self.distortion;
        let r2 = x * x + y * y;
        let radial = 1.0 + r2 * (k1 + r2 * (k2 + r2 * k3));
        [x * radial + 2.0 * p1 * x * y + p2 * (r2 + 2.0 * x * x), y * radial + p1 * (r2 + 2.0 * y * y) + 2.0 * p2 * x * y]
    }
}

/// Where a camera stands in the world: `p_world = rotation * p_camera + translation_mm`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Extrinsics {
    /// `world_from_camera`, row-major: its columns are the camera's axes (right, down, away) in the world.
    pub rotation: [[f32; 3]; 3],
    /// The camera's position in the world.
    pub translation_mm: [f32; 3],
}

impl Extrinsics {
    /// A camera that looks horizontally along the world's +y from this height: world x is right, world z is up.
    pub fn level(height_mm: f32) -> Self {
        Self { rotation: [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]], translation_mm: [0.0, 0.0, height_mm] }
    }

    /// A camera at `position_mm` that looks at `target_mm`, upright but for `roll_rad`, its turn about the viewing
    /// direction (clockwise as seen from behind the camera).
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when the two are (nearly) the same point or one above the other.
    pub fn look_at(position_mm: [f32; 3], target_mm: [f32; 3], roll_rad: f32) -> Result<Self, Error> {
        let position = Vector3::from(position_mm).cast::<f64>();
        let away = Vector3::from(target_mm).cast::<f64>() - position;
        let right = away.cross(&Vector3::z());
        let horizontal = right.norm();
        if !(away.norm() > 1e-6 && horizontal > 1e-6 * away.norm()) {
            let found = format!("{position_mm:?} and {target_mm:?}");
            return Err(Error::out_of_range("position and target of a camera", "two points, not one above the other", found));
        }
        let (away, right) = (away.normalize(), right / horizontal);
        let down = away.cross(&right);
        let (sin, cos) = f64::from(roll_rad).sin_cos();
        let columns = [cos * right + sin * down, cos * down - sin * right, away];
        Ok(Self::from_parts(Matrix3::from_columns(&columns), position))
    }

    pub(crate) fn from_parts(rotation: Matrix3<f64>, translation_mm: Vector3<f64>) -> Self {
        let entry = |row: usize, column: usize| rotation[(row, column)] as f32;
        Self {
            rotation: std::array::from_fn(|row| std::array::from_fn(|column| entry(row, column))),
            translation_mm: translation_mm.cast::<f32>().into(),
        }
    }

    /// Camera space to world space.
    pub fn to_world(&self, p_camera_mm: [f32; 3]) -> [f32; 3] {
        std::array::from_fn(|row| {
            let turned: f32 = (0..3).map(|k| self.rotation[row][k] * p_camera_mm[k]).sum();
            turned + self.translation_mm[row]
        })
    }

    /// World space to camera space.
    pub fn to_camera(&self, p_world_mm: [f32; 3]) -> [f32; 3] {
        // the inverse of a rotation is its transpose
        std::array::from_fn(|column| (0..3).map(|k| self.rotation[k][column] * (p_world_mm[k] - self.translation_mm[k])).sum())
    }

    /// [`Self::to_world`] of a whole pose.
    pub fn pose_to_world(&self, camera_mm: &Pose3) -> Pose3 {
        camera_mm.map(|p| self.to_world(p))
    }

    /// [`Self::to_camera`] of a whole pose.
    pub fn pose_to_camera(&self, world_mm: &Pose3) -> Pose3 {
        world_mm.map(|p| self.to_camera(p))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const IMAGE: ImageSize = ImageSize { width_px: 1920, height_px: 1080 };

    #[test]
    fn sixty_degrees_end_at_the_edge_of_the_picture() {
        let k = Intrinsics::from_horizontal_fov_deg(IMAGE, 60.0).unwrap();
        let x = 30f32.to_radians().tan() * 1000.0;
        let [u, v] = k.project([x, 0.0, 1000.0]).unwrap();
        assert!((u - 1920.0).abs() < 1e-2 && (v - 540.0).abs() < 1e-3);
        assert_eq!(k.project([0.0, 0.0, 0.0]), None);
        assert_eq!(k.project([0.0, 0.0, -5.0]), None);
        for bad in [0.0, 180.0, -60.0, f32::NAN, f32::INFINITY] {
            assert!(Intrinsics::from_horizontal_fov_deg(IMAGE, bad).is_err());
        }
        assert!(Intrinsics { focal_px: [0.0, 1.0], centre_px: [0.0; 2] }.validate().is_err());
        assert!(Intrinsics { focal_px: [1.0, 1.0], centre_px: [f32::NAN; 2] }.validate().is_err());
    }

    #[test]
    fn a_camera_looks_where_it_is_told() {
        let camera = Extrinsics::look_at([1000.0, -4000.0, 1500.0], [1000.0, 0.0, 900.0], 0.0).unwrap();
        let target = camera.to_camera([1000.0, 0.0, 900.0]);
        assert!(target[0].abs() < 1e-2 && target[1].abs() < 1e-2 && target[2] > 4000.0, "{target:?}");
        let above = camera.to_camera([1000.0, 0.0, 1800.0]);
        assert!(above[1] < -100.0, "up in the world is -y in the picture: {above:?}");
        let right = camera.to_camera([1500.0, 0.0, 900.0]);
        assert!(right[0] > 499.0, "+x lies to the right of a camera that looks along +y: {right:?}");

        let rolled = Extrinsics::look_at([0.0, -1000.0, 0.0], [0.0, 0.0, 0.0], 0.1).unwrap();
        let up = rolled.to_camera([0.0, 0.0, 100.0]);
        assert!(up[0] < 0.0, "a camera that rolls clockwise sees the world turned anticlockwise: {up:?}");

        assert!(Extrinsics::look_at([0.0; 3], [0.0, 0.0, 5.0], 0.0).is_err());
        assert!(Extrinsics::look_at([0.0; 3], [0.0; 3], 0.0).is_err());
        assert!(Extrinsics::look_at([f32::NAN; 3], [0.0; 3], 0.0).is_err());
        let level = Extrinsics::level(1500.0);
        assert_eq!(level, Extrinsics::look_at([0.0, 0.0, 1500.0], [0.0, 1000.0, 1500.0], 0.0).unwrap());
    }

    proptest! {
        #[test]
        fn back_projection_inverts_projection(
            x in -2000f32..2000.0, y in -2000f32..2000.0, z in 500f32..8000.0, fov in 20f32..120.0
        ) {
            let k = Intrinsics::from_horizontal_fov_deg(IMAGE, fov).unwrap();
            let p = k.back_project(k.project([x, y, z]).unwrap(), z);
            for (found, expected) in p.iter().zip([x, y, z]) {
                prop_assert!((found - expected).abs() < 0.05, "{p:?}");
            }
        }

        #[test]
        fn to_world_inverts_to_camera(
            p in prop::array::uniform3(-3000f32..3000.0), at in prop::array::uniform3(-3000f32..3000.0), roll in -3f32..3.0
        ) {
            let camera = Extrinsics::look_at([5000.0, 1000.0, 2000.0], at, roll).unwrap();
            let back = camera.to_world(camera.to_camera(p));
            for k in 0..3 {
                prop_assert!((back[k] - p[k]).abs() < 0.01, "{back:?} {p:?}");
            }
        }
    }
}
