//! What lifting a clip gives, and its files.

use std::{io::Write as _, path::Path};

use formats::{Data, Tensor, Value};
use pose::{
    ImageSize, JOINTS, Pose3,
    camera::{Extrinsics, Intrinsics},
    contact::FootContact,
    metadata::ModelMetadata,
    normalise::ImageTransform,
    skeleton,
    world::ScaleSource,
};
use serde::{Deserialize, Serialize};

use crate::Error;

/// A lifted clip of T frames, in both forms: 2.5D, as the model predicts it, and millimetres in camera space.
///
/// Camera space: x right, y down, z away from the camera. Joints in the order of [`pose::skeleton::NAMES`]. Left is the
/// person's left. As JSON ([`Self::write_json`]) it has these fields by these names, after `format`, `skeleton` and `joints`;
/// as NPZ see [`Self::write_npz`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LiftedClip {
    /// Name of the model.
    pub model: String,
    /// Size of the picture.
    pub image: ImageSize,
    /// Time of each frame in seconds: those of the clip that was given.
    pub times_s: Vec<f64>,
    /// Confidence of each 2D keypoint that was given, 0..=1; 0 = it was missing, and its pose is an informed guess.
    pub confidence: Vec<[f32; JOINTS]>,
    /// Root-relative x and y in normalised image units, z in the same unit; the root is 0.
    pub pose25: Vec<Pose3>,
    /// What a normalised unit is in each frame: `pixel = root_px + half_size_px * (x, y)`.
    pub transforms: Vec<ImageTransform>,
    /// Pixel of the root.
    pub root_px: Vec<[f32; 2]>,
    /// Joints in camera space, millimetres, placed in front of the camera (not root-relative).
    pub camera_mm: Vec<Pose3>,
    /// Whether the right and the left foot stand on the floor; empty in files of before this was found.
    #[serde(default)]
    pub contact: Vec<FootContact>,
    /// Depth of the root (z, not distance), millimetres.
    pub root_depth_mm: Vec<f32>,
    /// The camera that was given or assumed.
    pub intrinsics: Intrinsics,
    /// The camera's place in a world whose floor is z = 0 and whose z is up, found from the person.
    pub world_from_camera: Extrinsics,
    /// What the millimetres rest on.
    pub scale_source: ScaleSource,
    /// Stature of the person at that scale, metres.
    pub height_m: f32,
    /// Lengths of the bones over the clip, millimetres, in the order of [`pose::skeleton::BONES`].
    pub bone_lengths_mm: [f32; JOINTS - 1],
}

/// The JSON form: the clip with what a reader needs to understand it.
#[derive(Serialize)]
struct Document<'a> {
    format: &'static str,
    skeleton: &'static str,
    joints: &'static [&'static str],
    #[serde(flatten)]
    clip: &'a LiftedClip,
}

impl LiftedClip {
    /// The `format` of the JSON form.
    pub const JSON_FORMAT: &str = "poselift-3d-1";

    /// Number of frames.
    pub fn len(&self) -> usize {
        self.camera_mm.len()
    }

    /// Whether there is no frame.
    pub fn is_empty(&self) -> bool {
        self.camera_mm.is_empty()
    }

    /// Joints in the world (z up, floor at 0), millimetres.
    pub fn world_mm(&self) -> Vec<Pose3> {
        self.camera_mm.iter().map(|pose| self.world_from_camera.pose_to_world(pose)).collect()
    }

    /// Writes the clip as one JSON object, aside and then renamed. Fields are those of [`LiftedClip`], with `format`
    /// (`poselift-3d-1`), `skeleton` (`h36m17`) and `joints` (17 names) before them; poses are lists of 17 `[x, y, z]`.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write_json(&self, path: &Path) -> Result<(), Error> {
        let document = Document { format: Self::JSON_FORMAT, skeleton: ModelMetadata::SKELETON, joints: &skeleton::NAMES, clip: self };
        formats::write_aside(path, |file| {
            let written = serde_json::to_writer(&mut *file, &document).map_err(std::io::Error::from);
            let written = written.and_then(|()| file.write_all(b"\n"));
            written.map_err(|cause| formats::Error::Io { action: "write", path: path.to_owned(), cause })
        })?;
        Ok(())
    }

    /// Reads what [`Self::write_json`] wrote.
    ///
    /// # Errors
    /// [`Error::Clip`] for a file that is absent or something else.
    pub fn read_json(path: &Path) -> Result<Self, Error> {
        let failed = |reason: String| Error::Clip(format!("cannot read the lifted clip {}: {reason}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        serde_json::from_str(&text).map_err(|error| failed(error.to_string()))
    }

    /// Writes the clip as NPZ, aside and then renamed. Arrays, T frames:
    ///
    /// | name | type, shape | meaning |
    /// |---|---|---|
    /// | `times_s` | f64 (T) | seconds |
    /// | `camera_mm` | f32 (T, 17, 3) | camera space, millimetres: x right, y down, z away |
    /// | `world_mm` | f32 (T, 17, 3) | world space, millimetres: z up, floor at 0 |
    /// | `pose25` | f32 (T, 17, 3) | 2.5D, root-relative, normalised image units |
    /// | `centre_px`, `half_size_px` | f32 (T, 2), (T) | the normalisation of each frame |
    /// | `root_px`, `root_depth_mm` | f32 (T, 2), (T) | the root's pixel and depth |
    /// | `confidence` | f32 (T, 17) | of the 2D keypoints |
    /// | `contact` | bool (T, 2) | whether the right and the left foot stand on the floor |
    /// | `image_size_px` | i64 (2) | width, height |
    /// | `focal_px`, `principal_px` | f32 (2), (2) | the camera |
    /// | `world_from_camera` | f32 (3, 4) | rotation and translation (mm): `p_world = R p_camera + t` |
    /// | `height_m`, `bone_lengths_mm` | f32 (), (16) | the person's size |
    /// | `model`, `skeleton`, `scale_source` | text () | as in the JSON form |
    /// | `joints` | text () | the 17 names, separated by spaces |
    ///
    /// # Errors
    /// [`Error::File`], also for a clip whose fields differ in length.
    pub fn write_npz(&self, path: &Path) -> Result<(), Error> {
        formats::npz::write_values(path, &self.arrays()?)?;
        Ok(())
    }

    /// The arrays of [`Self::write_npz`], for callers that add their own.
    ///
    /// # Errors
    /// [`Error::File`] for a clip whose fields differ in length.
    pub fn arrays(&self) -> Result<Vec<(&'static str, Value)>, Error> {
        let frames = self.len();
        let array = |shape: &[usize], data: Data| Tensor::new(shape, data).map(Value::Tensor);
        let f32s = |shape: &[usize], values: Vec<f32>| array(shape, Data::F32(values));
        let poses = |poses: &[Pose3]| f32s(&[frames, JOINTS, 3], pose::values_from_poses(poses));
        let text = |text: &str| Value::Str(text.to_owned());
        let centre_px = self.transforms.iter().flat_map(|transform| transform.centre_px).collect();
        let half_size_px = self.transforms.iter().map(|transform| transform.half_size_px).collect();
        let Extrinsics { rotation, translation_mm } = self.world_from_camera;
        let rows = (0..3).flat_map(|row| rotation[row].into_iter().chain([translation_mm[row]])).collect();
        let size_px = [self.image.width_px, self.image.height_px].map(i64::from);
        Ok(vec![
            ("times_s", array(&[frames], Data::F64(self.times_s.clone()))?),
            ("camera_mm", poses(&self.camera_mm)?),
            ("world_mm", poses(&self.world_mm())?),
            ("pose25", poses(&self.pose25)?),
            ("centre_px", f32s(&[frames, 2], centre_px)?),
            ("half_size_px", f32s(&[frames], half_size_px)?),
            ("root_px", f32s(&[frames, 2], self.root_px.concat())?),
            ("root_depth_mm", f32s(&[frames], self.root_depth_mm.clone())?),
            ("confidence", f32s(&[frames, JOINTS], self.confidence.concat())?),
            ("contact", array(&[self.contact.len(), 2], Data::Bool(self.contact.as_flattened().to_vec()))?),
            ("image_size_px", array(&[2], Data::I64(size_px.to_vec()))?),
            ("focal_px", f32s(&[2], self.intrinsics.focal_px.to_vec())?),
            ("principal_px", f32s(&[2], self.intrinsics.centre_px.to_vec())?),
            ("world_from_camera", f32s(&[3, 4], rows)?),
            ("height_m", f32s(&[], vec![self.height_m])?),
            ("bone_lengths_mm", f32s(&[JOINTS - 1], self.bone_lengths_mm.to_vec())?),
            ("model", text(&self.model)),
            ("skeleton", text(ModelMetadata::SKELETON)),
            ("scale_source", text(self.scale_source.name())),
            ("joints", text(&skeleton::NAMES.join(" "))),
        ])
    }
}
