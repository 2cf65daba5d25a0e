//! The result as files for other programs: `.3d.json` and `.3d.npz`.
//!
//! Both hold what [`runtime::LiftedClip`] writes, under the same names, and what only the demo knows. T is the number of
//! lifted frames: those where the person was seen, and those of gaps of at most a second between them.
//!
//! **Axes.** Camera space: x right, y down, z away from the camera. World space: right-handed, z up, floor at z = 0; the
//! camera stands over the origin and looks along +y. Both in millimetres, absolute (not root-relative). Left is the
//! person's left. The 17 joints are Human3.6M's, in the order of `joints`; the root is joint 0.
//!
//! | JSON | NPZ | shape | meaning |
//! |---|---|---|---|
//! | `times_s` | `times_s` | (T) | seconds in the video's own time |
//! | `person` | `person` | () | the person's number, from 1 in the order of first appearance in the clip |
//! | `frame` | `frame` | (T) | index of the frame within the section of the video, from 0 |
//! | `person_found` | `person_found` | (T) | whether the detector saw the person; where not, the pose is interpolated |
//! | `keypoints_px` | `keypoints_px` | (T, 17, 2) | 2D keypoints: x right, y down, pixels of the upright video |
//! | `confidence` | `confidence` | (T, 17) | of the 2D keypoints, 0..1; 0 = not seen |
//! | `pose25` | `pose25` | (T, 17, 3) | the lifter's output: root-relative, in normalised image units, z in the same unit |
//! | `transforms` | `centre_px`, `half_size_px` | (T) | what a normalised unit is: `pixel = root_px + half_size_px * (x, y)` |
//! | `root_px`, `root_depth_mm` | the same | (T, 2), (T) | pixel and depth of the root |
//! | `camera_mm` | `camera_mm` | (T, 17, 3) | camera space, millimetres |
//! | `world_mm` | `world_mm` | (T, 17, 3) | world space, millimetres |
//! | `contact` | `contact` | (T, 2) | whether the right and the left foot stand on the floor |
//! | `world_from_camera` | `world_from_camera` | | `p_world = rotation * p_camera + translation_mm` |
//! | `intrinsics` | `focal_px`, `principal_px` | | the camera, given or assumed |
//! | `image` | `image_size_px` | | width and height of the upright video |
//! | `scale_source`, `height_m`, `bone_lengths_mm` | the same | | what the millimetres rest on |
//! | `fps` | `fps` | () | mean frames a second of the section; null (NaN) for a single frame |
//! | `all_times_s` | `all_times_s` | (frames of the section) | times of all its frames, those without a person too |
//! | `frames_without_person` | the same | | indices of the frames that have no pose |
//! | `model`, `skeleton`, `joints` | the same | | names |
//! | `model_metadata` | `model_metadata` | | what the model's file says of itself (NPZ: JSON as text); null for other people's files |
//! | `detector` | `detector` | | where the keypoints come from |
//! | `format` | | | `poselift-3d-1` |

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use formats::{Data, Tensor, Value};
use pose::metadata::ModelMetadata;
use pose::{JOINTS, Pose3, skeleton};
use runtime::LiftedClip;
use serde::Serialize;

use crate::observe::Observation;

/// All that is written.
#[derive(Debug, Clone, Copy)]
pub struct Results<'a> {
    /// The person's number.
    pub person: u64,
    /// The 2D half.
    pub observation: &'a Observation,
    /// The 3D half, of `observation.clip`.
    pub lifted: &'a LiftedClip,
    /// What the model says of itself.
    pub model_metadata: Option<&'a ModelMetadata>,
    /// Where the keypoints come from, such as `blazepose-heavy`.
    pub detector: &'a str,
}

#[derive(Serialize)]
struct Document<'a> {
    format: &'static str,
    skeleton: &'static str,
    joints: &'static [&'static str],
    person: u64,
    detector: &'a str,
    model_metadata: Option<&'a ModelMetadata>,
    fps: Option<f64>,
    all_times_s: &'a [f64],
    frames_without_person: Vec<usize>,
    frame: &'a [usize],
    person_found: &'a [bool],
    keypoints_px: Vec<[[f32; 2]; JOINTS]>,
    world_mm: Vec<Pose3>,
    #[serde(flatten)]
    lifted: &'a LiftedClip,
}

impl Results<'_> {
    /// Indices of the section's frames that have no pose.
    pub fn frames_without_person(&self) -> Vec<usize> {
        let mut lifted = vec![false; self.observation.all_times_s.len()];
        self.observation.frame.iter().for_each(|&frame| lifted[frame] = true);
        (0..lifted.len()).filter(|&frame| !lifted[frame]).collect()
    }

    /// Mean frames a second of the section.
    pub fn fps(&self) -> Option<f64> {
        crate::observe::mean_fps(&self.observation.all_times_s)
    }

    /// Writes the JSON form.
    ///
    /// # Errors
    /// The system's, such as a full disk.
    pub fn write_json(&self, path: &Path) -> std::io::Result<()> {
        let observation = self.observation;
        let document = Document {
            format: LiftedClip::JSON_FORMAT,
            skeleton: ModelMetadata::SKELETON,
            joints: &skeleton::NAMES,
            person: self.person,
            detector: self.detector,
            model_metadata: self.model_metadata,
            fps: self.fps(),
            all_times_s: &observation.all_times_s,
            frames_without_person: self.frames_without_person(),
            frame: &observation.frame,
            person_found: &observation.person_found,
            keypoints_px: self.keypoints_px(),
            world_mm: self.lifted.world_mm(),
            lifted: self.lifted,
        };
        let mut file = BufWriter::new(File::create(path)?);
        serde_json::to_writer(&mut file, &document)?;
        file.write_all(b"\n")?;
        file.into_inner().map_err(|error| error.into_error())?.sync_all()
    }

    /// Writes the NPZ form.
    ///
    /// # Errors
    /// The system's, such as a full disk.
    pub fn write_npz(&self, path: &Path) -> Result<(), runtime::Error> {
        let observation = self.observation;
        let frames = observation.frame.len();
        let tensor = |shape: &[usize], data: Data| Tensor::new(shape, data).map(Value::Tensor);
        let indices = |indices: &[usize]| indices.iter().map(|&i| i as i64).collect::<Vec<i64>>();
        let without = indices(&self.frames_without_person());
        let keypoints_px = self.keypoints_px().as_flattened().as_flattened().to_vec();
        let metadata = self.model_metadata.and_then(|metadata| serde_json::to_string(metadata).ok());
        let mut arrays = self.lifted.arrays()?;
        arrays.extend([
            ("person", tensor(&[], Data::I64(vec![self.person as i64]))?),
            ("frame", tensor(&[frames], Data::I64(indices(&observation.frame)))?),
            ("person_found", tensor(&[frames], Data::Bool(observation.person_found.clone()))?),
            ("keypoints_px", tensor(&[frames, JOINTS, 2], Data::F32(keypoints_px))?),
            ("fps", tensor(&[], Data::F64(vec![self.fps().unwrap_or(f64::NAN)]))?),
            ("all_times_s", tensor(&[observation.all_times_s.len()], Data::F64(observation.all_times_s.clone()))?),
            ("frames_without_person", tensor(&[without.len()], Data::I64(without))?),
            ("detector", Value::Str(self.detector.to_owned())),
            ("model_metadata", Value::Str(metadata.unwrap_or_else(|| "null".to_owned()))),
        ]);
        formats::npz::write_values(path, &arrays)?;
        Ok(())
    }

    fn keypoints_px(&self) -> Vec<[[f32; 2]; JOINTS]> {
        let frames = &self.observation.clip.frames;
        frames.iter().map(|frame| frame.map(|keypoint| [keypoint.x_px, keypoint.y_px])).collect()
    }
}
