//! MPI-INF-3DHP as MotionAGFormer and P-STMO prepare it: `data_train_3dhp.npz`, `data_test_3dhp.npz`.
//!
//! Its 17 joints stand in an order of their own ([`pose::joint_map::MPI_INF_3DHP`]), and the root is joint 14. Inputs and labels keep
//! that order, as the published checkpoints want it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use formats::{Tensor, Value, npz};
use pose::joint_map::MPI_INF_3DHP;
use pose::{ImageSize, JOINTS, Pose2, Pose3};

use crate::Error;
use crate::checks::{self, Field};
use crate::clip_options::{ClipOptions, JointOrder};
use crate::sample::{Sample, SampleSource};

/// The root joint: the pelvis.
pub const ROOT: usize = 14;
/// The joints that PCK and AUC are over: all but pelvis, spine and head.
pub const SCORED_JOINTS: std::ops::Range<usize> = 0..14;

/// Order, root and sides.
pub(crate) const ORDER: JointOrder = JointOrder { root: ROOT, left: [5, 6, 7, 11, 12, 13], right: [2, 3, 4, 8, 9, 10] };

const LARGEST_PX: f32 = 1e5;
const LARGEST_MM: f32 = 1e6;
/// Size of the training pictures and of most test pictures.
const IMAGE: ImageSize = ImageSize { width_px: 2048, height_px: 2048 };
/// Size of the test pictures taken outdoors: TS5 and TS6.
const OUTDOORS: ImageSize = ImageSize { width_px: 1920, height_px: 1080 };

/// What one camera saw of one sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// Such as `S1 Seq1` or `TS3`.
    pub name: String,
    /// Such as `0`; empty in the test set, which has one camera.
    pub camera: String,
    /// Frames per second, where the file says so: 25 or 50 in training.
    pub fps: Option<f64>,
    /// Size of the pictures.
    pub image: ImageSize,
    /// (F, 17, 2), px.
    joints_px: Vec<f32>,
    /// (F, 17, 3), camera space, mm.
    camera_mm: Vec<f32>,
    /// Frames that the test counts; empty in training.
    valid: Vec<bool>,
}

impl Sequence {
    /// F.
    pub fn frames(&self) -> usize {
        self.joints_px.len() / (JOINTS * 2)
    }

    /// Who is in it: `S1` of `S1 Seq1`.
    pub fn subject(&self) -> &str {
        self.name.split(' ').next().unwrap_or_default()
    }

    /// Joints of a frame, px.
    pub fn joints_px(&self, frame: usize) -> Pose2 {
        let values = &self.joints_px[frame * JOINTS * 2..][..JOINTS * 2];
        std::array::from_fn(|j| [values[2 * j], values[2 * j + 1]])
    }

    /// Joints of a frame in camera space, mm, not root-relative.
    pub fn camera_mm(&self, frame: usize) -> Pose3 {
        let values = &self.camera_mm[frame * JOINTS * 3..][..JOINTS * 3];
        std::array::from_fn(|j| [values[3 * j], values[3 * j + 1], values[3 * j + 2]])
    }

    /// Whether the test counts a frame.
    pub fn is_valid(&self, frame: usize) -> bool {
        self.valid.get(frame).copied().unwrap_or(false)
    }

    /// Input of some frames, (T, 17, 3): x / W * 2 - 1, y / W * 2 - H / W, confidence 1.
    pub fn input(&self, frames: impl Iterator<Item = usize>) -> Vec<f32> {
        let (width, height) = (f64::from(self.image.width_px), f64::from(self.image.height_px));
        let joint = |[x_px, y_px]: [f32; 2]| {
            let x = f64::from(x_px) / width * 2.0 - 1.0;
            let y = f64::from(y_px) / width * 2.0 - height / width;
            [x as f32, y as f32, 1.0]
        };
        frames.flat_map(|t| self.joints_px(t).map(joint)).flatten().collect()
    }

    /// Label of some frames, (T, 17, 3): mm / W * 2, relative to joint 14.
    pub fn label(&self, frames: impl Iterator<Item = usize>) -> Vec<f32> {
        let units = 2.0 / f64::from(self.image.width_px);
        let relative = |t: usize| {
            let pose = self.camera_mm(t);
            pose.map(|p| -> [f32; 3] { std::array::from_fn(|c| ((f64::from(p[c]) - f64::from(pose[ROOT][c])) * units) as f32) })
        };
        frames.flat_map(relative).flatten().collect()
    }
}

/// One of the two files, in memory as f32: 340 bytes a frame.
#[derive(Clone, Debug)]
pub struct Mpi3dhp {
    path: PathBuf,
    sequences: Vec<Sequence>,
}

impl Mpi3dhp {
    /// Reads `data_train_3dhp.npz`: `data` is {"S1 Seq1": [{camera: {`data_2d` [F, 17, 2] px, `data_3d` [F, 17, 3] mm}}, fps]}.
    ///
    /// # Errors
    /// A file that cannot be read or is truncated, and, with the name of the field, other shapes or joint counts, values that are not
    /// finite, metres where millimetres are expected, left and right swapped.
    pub fn open_train(path: &Path) -> Result<Self, Error> {
        let mut sequences = Vec::new();
        for (name, value) in dictionary(path)? {
            let label = format!("data/{name}");
            let field = Field { path, name: &label };
            let (Value::List(parts) | Value::Tuple(parts)) = value else {
                return Err(field.refuse(format!(
                    "is {}: expected a list of the cameras and the frame rate; is this the test file?",
                    value.describe()
                )));
            };
            let mut parts = parts.into_iter();
            let (Some(Value::Dict(cameras)), fps) = (parts.next(), parts.next()) else {
                return Err(field.refuse("does not start with a dictionary of cameras"));
            };
            let fps = fps.as_ref().and_then(Value::as_f64);
            if let Some(fps) = fps.filter(|fps| !(1.0..=1000.0).contains(fps)) {
                return Err(field.refuse(format!("has {fps} frames a second: expected 25 or 50")));
            }
            for (camera, value) in cameras {
                let camera = match camera {
                    Value::Str(camera) => camera,
                    Value::Int(camera) => camera.to_string(),
                    other => return Err(field.refuse(format!("has a camera called {}: expected a text", other.describe()))),
                };
                sequences.push(sequence(path, &format!("{label}/{camera}"), value, name.clone(), camera, fps, IMAGE)?);
            }
        }
        Self::checked(path, sequences)
    }

    /// Reads `data_test_3dhp.npz`: `data` is {"TS1": {`data_2d` [F, 17, 2] px, `data_3d` [F, 17, 3] mm, `valid` (F)}}.
    ///
    /// # Errors
    /// As [`Self::open_train`], and a sequence without `valid`.
    pub fn open_test(path: &Path) -> Result<Self, Error> {
        let mut sequences = Vec::new();
        for (name, value) in dictionary(path)? {
            let label = format!("data/{name}");
            let valid = value.get("valid").cloned();
            let image = if matches!(name.as_str(), "TS5" | "TS6") { OUTDOORS } else { IMAGE };
            let mut sequence = sequence(path, &label, value, name, String::new(), None, image)?;
            let label = format!("{label}/valid");
            let field = Field { path, name: &label };
            let valid = field.tensor(valid)?;
            field.same_frames(sequence.frames(), valid.len())?;
            sequence.valid = valid.to_f32().iter().map(|&v| v != 0.0).collect();
            sequences.push(sequence);
        }
        Self::checked(path, sequences)
    }

    fn checked(path: &Path, sequences: Vec<Sequence>) -> Result<Self, Error> {
        if sequences.is_empty() {
            return Err(Error::content(path, "'data' is empty: expected at least one sequence"));
        }
        let frames: usize = sequences.iter().map(Sequence::frames).sum();
        let step = frames.div_ceil(4096).max(1);
        let every = || sequences.iter().flat_map(|s| (0..s.frames()).map(move |t| (s, t))).step_by(step);
        let pixels: Vec<Pose2> = every().map(|(s, t)| s.joints_px(t)).map(|pose| MPI_INF_3DHP.map(|j| pose[j])).collect();
        let camera_mm: Vec<Pose3> = every().map(|(s, t)| s.camera_mm(t)).map(|pose| MPI_INF_3DHP.map(|j| pose[j])).collect();
        checks::expect_millimetres(Field { path, name: "data_3d" }, &camera_mm)?;
        checks::expect_sides(Field { path, name: "data_3d" }, &camera_mm)?;
        checks::expect_same_sides(Field { path, name: "data_2d" }, &pixels, &camera_mm, "data_3d")?;
        Ok(Self { path: path.to_owned(), sequences })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Each camera of each sequence, in the order of the file.
    pub fn sequences(&self) -> &[Sequence] {
        &self.sequences
    }

    /// Frames that the test counts: (sequence, frame), in order.
    pub fn valid_frames(&self) -> Vec<(usize, usize)> {
        let of = |(s, sequence): (usize, &Sequence)| {
            (0..sequence.frames()).filter(|&t| sequence.is_valid(t)).map(|t| (s, t)).collect::<Vec<_>>()
        };
        self.sequences.iter().enumerate().flat_map(of).collect()
    }
}

/// The object in the array `data`, by name.
fn dictionary(path: &Path) -> Result<Vec<(String, Value)>, Error> {
    let data = npz::get_value(path, "data")?;
    let field = Field { path, name: "data" };
    let Value::Dict(entries) = data else {
        return Err(field.refuse(format!("is {}: expected a dictionary of sequences", data.describe())));
    };
    let named = |(name, value)| match name {
        Value::Str(name) => Ok((name, value)),
        other => Err(field.refuse(format!("has a sequence called {}: expected a text", other.describe()))),
    };
    entries.into_iter().map(named).collect()
}

fn sequence(
    path: &Path,
    label: &str,
    value: Value,
    name: String,
    camera: String,
    fps: Option<f64>,
    image: ImageSize,
) -> Result<Sequence, Error> {
    let Value::Dict(entries) = value else {
        return Err(Field { path, name: label }.refuse(format!("is {}: expected a dictionary of data_2d and data_3d", value.describe())));
    };
    let (mut data_2d, mut data_3d) = (None, None);
    for (key, value) in entries {
        match key.as_str() {
            Some("data_2d") => data_2d = Some(value),
            Some("data_3d") => data_3d = Some(value),
            _ => {}
        }
    }
    let array = |value: Option<Value>, key: &str, channels: usize, largest: f32, unit: &str| -> Result<(usize, Vec<f32>), Error> {
        let label = format!("{label}/{key}");
        let field = Field { path, name: &label };
        let tensor: Tensor = field.tensor(value)?;
        let frames = field.frames(&tensor, channels)?;
        let values = checks::into_f32(tensor);
        field.finite(&values, JOINTS * channels, largest, unit)?;
        Ok((frames, values))
    };
    let (frames, joints_px) = array(data_2d, "data_2d", 2, LARGEST_PX, "pixels")?;
    let (frames_3d, camera_mm) = array(data_3d, "data_3d", 3, LARGEST_MM, "millimetres")?;
    Field { path, name: &format!("{label}/data_3d") }.same_frames(frames, frames_3d)?;
    if joints_px.iter().all(|v| v.abs() <= 2.0) {
        return Err(
            Field { path, name: &format!("{label}/data_2d") }.refuse("has no coordinate above 2: expected pixels, not normalised values")
        );
    }
    Ok(Sequence { name, camera, fps, image, joints_px, camera_mm, valid: Vec::new() })
}

/// Clips of a training file.
#[derive(Clone, Debug)]
pub struct Mpi3dhpClips {
    set: Arc<Mpi3dhp>,
    /// (sequence, first frame, frames there are)
    clips: Vec<(usize, usize, usize)>,
    n_frames: usize,
    options: ClipOptions,
}

impl Mpi3dhpClips {
    /// Clips of `n_frames` that start every `stride` frames (`None`: a third of `n_frames`), to the end of each sequence: what is
    /// then missing at the end is made up by repeating frames evenly, as the reference has it.
    ///
    /// Labels are relative to joint 14 whatever `options` say of roots.
    ///
    /// # Errors
    /// Options out of range.
    pub fn new(set: Arc<Mpi3dhp>, n_frames: usize, stride: Option<usize>, options: ClipOptions) -> Result<Self, Error> {
        options.validate()?;
        let stride = stride.unwrap_or((n_frames / 3).max(1));
        if !(1..=1 << 16).contains(&n_frames) || stride == 0 {
            return Err(Error::options(format!(
                "clips of {n_frames} frames every {stride}: expected 1 to 65536 frames and a stride of at least 1"
            )));
        }
        let of = |(s, sequence): (usize, &Sequence)| {
            let frames = sequence.frames();
            (0..frames).step_by(stride).map(move |start| (s, start, n_frames.min(frames - start))).collect::<Vec<_>>()
        };
        let clips = set.sequences.iter().enumerate().flat_map(of).collect();
        Ok(Self { set, clips, n_frames, options })
    }

    /// Those of some subjects (`S8`).
    ///
    /// # Errors
    /// No clip is left.
    pub fn of_subjects(mut self, chosen: impl Fn(&str) -> bool) -> Result<Self, Error> {
        let set = &self.set;
        self.clips.retain(|&(sequence, _, _)| chosen(set.sequences[sequence].subject()));
        if self.clips.is_empty() {
            let mut there: Vec<&str> = set.sequences.iter().map(Sequence::subject).collect();
            there.dedup();
            return Err(Error::content(&set.path, format!("has no clip of the subjects asked for; it has {}", there.join(", "))));
        }
        Ok(self)
    }
}

impl SampleSource for Mpi3dhpClips {
    fn len(&self) -> usize {
        self.clips.len()
    }

    fn frames(&self) -> usize {
        self.n_frames
    }

    fn dim_in(&self) -> usize {
        self.options.dim_in
    }

    fn seed(&self) -> u64 {
        self.options.seed
    }

    fn sample(&self, epoch: u64, index: usize) -> Result<Sample, Error> {
        let (sequence, start, length) = self.clips[index];
        let sequence = &self.set.sequences[sequence];
        let n_frames = self.n_frames;
        // k * length / n, in the reference's own arithmetic
        let frames = || (0..n_frames).map(move |k| start + ((k as f64 * (length as f64 / n_frames as f64)) as usize).min(length - 1));
        Ok(self.options.sample(&ORDER, sequence.input(frames()), sequence.label(frames()), epoch, index))
    }
}
