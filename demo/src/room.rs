//! The camera and the room in front of it, as far as the user knows them.

use std::path::{Path, PathBuf};

use pose::ImageSize;
use pose::camera::{DEFAULT_HORIZONTAL_FOV_DEG, Intrinsics, Lens};
use pose::floor::CameraPlace;
use pose::trajectory::PathOptions;

/// What is known of the camera and the room; by default nothing.
#[derive(Debug, Clone, Default, PartialEq, clap::Args)]
pub struct Room {
    /// Horizontal field of view of the camera in degrees [default: 60]
    #[arg(long = "fov", value_name = "DEGREES", conflicts_with = "intrinsics")]
    pub fov_deg: Option<f32>,
    /// The camera's calibration: JSON, OpenCV's YAML, Pose2Sim's TOML (docs/world.md)
    #[arg(long, value_name = "FILE")]
    pub intrinsics: Option<PathBuf>,
    /// How far the camera looks down from the horizontal, below 0 up [default: found from the people]
    #[arg(long = "camera-pitch", value_name = "DEGREES", allow_negative_numbers = true)]
    pub camera_pitch_deg: Option<f32>,
    /// Height of the camera over the floor [default: found from the people]
    #[arg(long = "camera-height", value_name = "METRES")]
    pub camera_height_m: Option<f32>,
    /// Bones keep their length from frame to frame
    #[arg(long)]
    pub constant_bones: bool,
    /// Standing feet are not held where they stand
    #[arg(long)]
    pub no_contact: bool,
}

/// Why the camera is none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Angles, heights, a picture of another shape than the calibrated one.
    #[error(transparent)]
    Camera(#[from] pose::Error),
    /// The calibration; see [`formats::lens`].
    #[error(transparent)]
    Lens(#[from] formats::Error),
}

impl Room {
    /// Refuses what can be refused before the first frame is seen.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn check(&self, input: &Path) -> Result<(), Error> {
        self.path_options().camera.validate()?;
        match &self.intrinsics {
            Some(file) => drop(formats::lens::read(file, input)?),
            None => drop(self.lens(input, ImageSize { width_px: 1, height_px: 1 })?),
        }
        Ok(())
    }

    /// The lens for pictures of this size: calibrated, by its field of view, or assumed.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn lens(&self, input: &Path, image: ImageSize) -> Result<Lens, Error> {
        if let Some(file) = &self.intrinsics {
            return Ok(formats::lens::read(file, input)?.scaled_to(image)?);
        }
        let fov_deg = self.fov_deg.unwrap_or(DEFAULT_HORIZONTAL_FOV_DEG);
        Ok(Lens { image, intrinsics: Intrinsics::from_horizontal_fov_deg(image, fov_deg)?, distortion: [0.0; 5] })
    }

    /// How people are placed.
    pub fn path_options(&self) -> PathOptions {
        PathOptions {
            constant_bones: self.constant_bones,
            contact: !self.no_contact,
            camera: CameraPlace { pitch_deg: self.camera_pitch_deg, height_m: self.camera_height_m },
        }
    }
}
