//! VideoPose3D's Human3.6M: `data_2d_*.npz` and `data_3d_h36m.npz`.

use std::path::{Path, PathBuf};

use formats::{Value, npz};
use pose::{ImageSize, JOINTS, Pose2, Pose3, skeleton};

use crate::Error;
use crate::checks::{self, Field};
use crate::mocap::MocapSet;
use crate::motion_bert::{FPS, camera_image};

/// Joints of the files' 3D: all of Human3.6M's markers.
pub const FILE_JOINTS: usize = 32;
/// The 17 of the 32 joints, in the order of [`pose::skeleton`]; the others are duplicates, fingers and toes.
pub const H36M_17_OF_32: [usize; JOINTS] = [0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27];
/// Serial numbers of the cameras in the order of the files' lists.
pub const CAMERAS: [&str; 4] = ["54138969", "55011271", "58860488", "60457274"];

const LARGEST_PX: f32 = 1e5;
/// Farthest joint from the laboratory's origin, m.
const LARGEST_M: f32 = 1000.0;

/// One take of one subject.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    /// Such as `S9`.
    pub subject: String,
    /// Such as `Walking 1`.
    pub action: String,
    /// World space, z up, mm; the 17 joints.
    pub world_mm: Vec<Pose3>,
    /// What each camera's detector saw. May end some frames before or after `world_mm` does.
    pub cameras: Vec<CameraTrack>,
}

/// One camera's keypoints of a [`Recording`].
#[derive(Clone, Debug, PartialEq)]
pub struct CameraTrack {
    /// Serial number.
    pub camera: &'static str,
    /// Size of its pictures.
    pub image: ImageSize,
    /// Joints of each frame, px. The files have no confidences.
    pub joints_px: Vec<Pose2>,
}

impl Recording {
    /// Frames that a camera and the motion both have: what comes after is left out, as VideoPose3D does it.
    pub fn frames(&self, camera: usize) -> usize {
        self.cameras.get(camera).map_or(0, |track| track.joints_px.len().min(self.world_mm.len()))
    }
}

/// Both files. Everything is kept: some 250 MB for the real ones.
#[derive(Clone, Debug)]
pub struct VideoPose3d {
    path: PathBuf,
    recordings: Vec<Recording>,
}

impl VideoPose3d {
    /// Reads both files and puts them together. A take that only one of them has is left out, and counted by nobody: the published
    /// 2D files lack some.
    ///
    /// # Errors
    /// A file that cannot be read or is truncated, and, with the name of the field, another layout than Human3.6M's 17 joints, left and
    /// right exchanged in the metadata or the motion, other shapes, values that are not finite, millimetres where metres are expected,
    /// normalised values where pixels are, no take in common.
    pub fn open(path_2d: &Path, path_3d: &Path) -> Result<Self, Error> {
        check_metadata(&npz::get_value(path_2d, "metadata")?, path_2d)?;
        let positions_2d = npz::get_value(path_2d, "positions_2d")?;
        let positions_3d = npz::get_value(path_3d, "positions_3d")?;
        let mut recordings = Vec::new();
        for (subject, action, positions) in takes(positions_3d, "positions_3d", path_3d)? {
            let name = format!("positions_3d/{subject}/{action}");
            let world_mm = world(Field { path: path_3d, name: &name }, positions)?;
            recordings.push(Recording { subject, action, world_mm, cameras: Vec::new() });
        }
        for (subject, action, positions) in takes(positions_2d, "positions_2d", path_2d)? {
            let name = format!("positions_2d/{subject}/{action}");
            let cameras = tracks(path_2d, &name, positions)?;
            if let Some(recording) = recordings.iter_mut().find(|r| r.subject == subject && r.action == action) {
                recording.cameras = cameras;
            }
        }
        recordings.retain(|recording| !recording.cameras.is_empty());
        if recordings.is_empty() {
            let problem = format!("has no subject and action in common with {}: expected two files of one data set", path_2d.display());
            return Err(Error::content(path_3d, problem));
        }
        let set = Self { path: path_3d.to_owned(), recordings };
        let poses = set.sampled_world();
        checks::expect_sides(Field { path: path_3d, name: "positions_3d" }, &poses)?;
        Ok(set)
    }

    fn sampled_world(&self) -> Vec<Pose3> {
        let frames: usize = self.recordings.iter().map(|r| r.world_mm.len()).sum();
        self.recordings.iter().flat_map(|r| &r.world_mm).step_by(frames.div_ceil(4096).max(1)).copied().collect()
    }

    /// The takes, in the order of the 3D file.
    pub fn recordings(&self) -> &[Recording] {
        &self.recordings
    }

    /// The motion of some subjects as motion capture, to be seen by random cameras: for [`crate::ClipSampler`].
    ///
    /// # Errors
    /// As [`MocapSet::from_clips`]; no take of these subjects.
    pub fn mocap(&self, subjects: &[&str]) -> Result<MocapSet, Error> {
        let chosen = self.recordings.iter().filter(|r| subjects.contains(&r.subject.as_str()) && r.world_mm.len() >= 2);
        let clips: Vec<_> = chosen.map(|r| (format!("{} {}", r.subject, r.action), r.subject.clone(), r.world_mm.clone())).collect();
        if clips.is_empty() {
            return Err(Error::content(&self.path, format!("has no take of {}: expected subjects such as S1", subjects.join(", "))));
        }
        MocapSet::from_clips(&self.path.to_string_lossy(), FPS, clips)
    }
}

/// `layout_name`, `num_joints` and `keypoints_symmetry` of the 2D file.
fn check_metadata(metadata: &Value, path: &Path) -> Result<(), Error> {
    let refuse = |field: &str, problem: String| Err(Field { path, name: &format!("metadata/{field}") }.refuse(problem));
    if let Some(layout) = metadata.get("layout_name").and_then(Value::as_str)
        && layout != "h36m"
    {
        return refuse("layout_name", format!("is '{layout}': expected 'h36m', keypoints in Human3.6M's 17 joints"));
    }
    if let Some(joints) = metadata.get("num_joints").and_then(Value::as_i64)
        && joints != JOINTS as i64
    {
        return refuse("num_joints", format!("is {joints}: expected {JOINTS}"));
    }
    let Some(symmetry) = metadata.get("keypoints_symmetry") else { return Ok(()) };
    let sides: Vec<Vec<i64>> = symmetry.items().unwrap_or_default().iter().map(numbers).collect();
    let expected = [skeleton::LEFT, skeleton::RIGHT].map(|side| side.map(|j| j as i64).to_vec());
    if sides == expected {
        return Ok(());
    }
    let swapped = sides.len() == 2 && sides[0] == expected[1] && sides[1] == expected[0];
    let what = if swapped { " (left and right are swapped)" } else { "" };
    refuse(
        "keypoints_symmetry",
        format!("is {sides:?}{what}: expected the left joints {:?}, then the right {:?}", expected[0], expected[1]),
    )
}

/// Whole numbers of a list or an array.
fn numbers(value: &Value) -> Vec<i64> {
    match value {
        Value::Tensor(tensor) => tensor.to_i64(),
        other => other.items().unwrap_or_default().iter().filter_map(Value::as_i64).collect(),
    }
}

/// [subject][action] -> value, in the order of the file.
fn takes(positions: Value, name: &str, path: &Path) -> Result<Vec<(String, String, Value)>, Error> {
    let Value::Dict(subjects) = positions else {
        let problem = format!("is {}: expected a dictionary of subjects, each a dictionary of actions", positions.describe());
        return Err(Field { path, name }.refuse(problem));
    };
    let mut takes = Vec::new();
    for (subject, actions) in subjects {
        let name = format!("{name}/{}", subject.as_str().unwrap_or("?"));
        let field = Field { path, name: &name };
        let (Value::Str(subject), Value::Dict(actions)) = (subject, actions) else {
            return Err(field.refuse("is no dictionary of actions: expected arrays by subject and action"));
        };
        for (action, value) in actions {
            let Value::Str(action) = action else {
                return Err(field.refuse(format!("has an action called {}: expected a text", action.describe())));
            };
            takes.push((subject.clone(), action, value));
        }
    }
    if takes.is_empty() {
        return Err(Field { path, name }.refuse("is empty: expected arrays by subject and action"));
    }
    Ok(takes)
}

/// (F, 32, 3) or (F, 17, 3) in metres as 17 joints in mm.
fn world(field: Field<'_>, positions: Value) -> Result<Vec<Pose3>, Error> {
    let tensor = field.tensor(Some(positions))?;
    let joints: &[usize; JOINTS] = match tensor.shape[..] {
        [frames, FILE_JOINTS, 3] if frames > 0 => &H36M_17_OF_32,
        [frames, JOINTS, 3] if frames > 0 => &std::array::from_fn(|j| j),
        _ => return Err(field.refuse(format!("has shape {:?}: expected (frames, {FILE_JOINTS}, 3)", tensor.shape))),
    };
    let count = tensor.shape[1];
    let values = checks::into_f32(tensor);
    let (points, _) = values.as_chunks::<3>();
    let metres: Vec<Pose3> = points.chunks_exact(count).map(|frame| joints.map(|j| frame[j])).collect();
    // millimetres are named before they are found too far away
    checks::expect_metres(field, &metres)?;
    field.finite(metres.as_flattened().as_flattened(), JOINTS * 3, LARGEST_M, "metres")?;
    Ok(metres.into_iter().map(|pose| pose.map(|p| p.map(|v| 1000.0 * v))).collect())
}

/// A list of one (F, 17, 2) for each camera.
fn tracks(path: &Path, name: &str, positions: Value) -> Result<Vec<CameraTrack>, Error> {
    let (Value::List(cameras) | Value::Tuple(cameras)) = positions else {
        let problem = format!("is {}: expected a list of one array for each of the four cameras", positions.describe());
        return Err(Field { path, name }.refuse(problem));
    };
    if cameras.len() != CAMERAS.len() {
        return Err(Field { path, name }.refuse(format!("has {} cameras: expected {}", cameras.len(), CAMERAS.len())));
    }
    let track = |(camera, value): (&'static str, Value)| {
        let name = format!("{name}/{camera}");
        let field = Field { path, name: &name };
        let tensor = field.tensor(Some(value))?;
        field.frames(&tensor, 2)?;
        let values = checks::into_f32(tensor);
        field.finite(&values, JOINTS * 2, LARGEST_PX, "pixels")?;
        if values.iter().all(|v| v.abs() <= 2.0) {
            return Err(field.refuse("has no coordinate above 2: expected pixels, not normalised values"));
        }
        let (frames, _) = values.as_chunks::<{ JOINTS * 2 }>();
        let joints_px = frames.iter().map(|v| std::array::from_fn(|j| [v[2 * j], v[2 * j + 1]])).collect();
        let image = camera_image(camera).unwrap_or(ImageSize { width_px: 1000, height_px: 1000 });
        Ok(CameraTrack { camera, image, joints_px })
    };
    CAMERAS.into_iter().zip(cameras).map(track).collect()
}
