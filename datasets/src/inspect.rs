//! What is in a data set: its kind, counts, lengths, ranges, bones, sides; and poses to look at.
//!
//! A set is opened by its own reader, so whatever that refuses (units, sides, joints, damaged files) is said here too. Figures are over
//! a few thousand frames spread over the set; counts and lengths are of all.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use formats::npz;
use pose::joint_map::MPI_INF_3DHP;
use pose::{JOINTS, Keypoint, Keypoints17, Pose3, skeleton};
use serde::Serialize;

use crate::clip_options::ClipOptions;
use crate::motion_bert::Half;
use crate::{ClipFolder, Error, MocapSet, MotionBert, Mpi3dhp, OwnClips, VideoPose3d, checks, motion_files};

/// Frames that are looked at, spread over the set.
const LOOKED_AT: usize = 4096;
/// Clips of a clip folder that are read for it: each is a file.
const CLIPS_LOOKED_AT: usize = 64;
/// File of VideoPose3D's 3D.
const VIDEO_POSE_3D_FILE: &str = "data_3d_h36m.npz";

/// A kind of data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Joint NPZ of motion capture ([`MocapSet`]), or a folder of them.
    MotionCapture,
    /// MotionBERT's pickle of Human3.6M ([`MotionBert`]).
    #[serde(rename = "motionbert")]
    MotionBert,
    /// Clips as the references write them ([`ClipFolder`]).
    ClipFolder,
    /// VideoPose3D's two files ([`VideoPose3d`]).
    #[serde(rename = "videopose3d")]
    VideoPose3d,
    /// MPI-INF-3DHP ([`Mpi3dhp`]).
    #[serde(rename = "mpi-inf-3dhp")]
    Mpi3dhp,
    /// A folder of BVH files, or one.
    Bvh,
    /// A folder of CMU's `.asf` and `.amc` files.
    #[serde(rename = "asf-amc")]
    AsfAmc,
    /// 2D keypoints of one clip ([`formats::keypoints`]).
    Keypoints,
    /// A user's own clips ([`OwnClips`]): 2D and 3D, or several calibrated cameras.
    OwnClips,
}

impl Kind {
    /// Its name, as recipes have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MotionCapture => "motion-capture",
            Self::MotionBert => "motionbert",
            Self::ClipFolder => "clip-folder",
            Self::VideoPose3d => "videopose3d",
            Self::Mpi3dhp => "mpi-inf-3dhp",
            Self::Bvh => "bvh",
            Self::AsfAmc => "asf-amc",
            Self::Keypoints => "keypoints",
            Self::OwnClips => "own-clips",
        }
    }

    /// Recognises a set by its files' names and, for an archive, by the names of its arrays.
    ///
    /// # Errors
    /// Nothing there, or nothing known.
    pub fn of(path: &Path) -> Result<Self, Error> {
        let refuse = |problem: &str| Err(Error::content(path, problem));
        if path.is_dir() {
            let names = file_names(path)?;
            let has = |test: fn(&str) -> bool| names.iter().any(|name| test(name));
            return if has(|name| name.starts_with("mocap_") && name.ends_with(".npz")) {
                Ok(Self::MotionCapture)
            } else if has(|name| name == VIDEO_POSE_3D_FILE) {
                Ok(Self::VideoPose3d)
            } else if has(|name| name.ends_with(".asf")) || has_below(path, "asf") {
                Ok(Self::AsfAmc)
            } else if has(|name| name.ends_with(".bvh")) || has_below(path, "bvh") {
                Ok(Self::Bvh)
            } else if OwnClips::is_at(path) {
                Ok(Self::OwnClips)
            } else if clip_folders(path)?.is_empty() {
                refuse(
                    "holds none of the folders that are known: mocap_*.npz, data_3d_h36m.npz with data_2d_*.npz, clips in train/ or test/, \
                     .bvh files, .asf and .amc files, keypoint files with camera_mm, folders with a calibration; name a set's own file if it lies here under another name",
                )
            } else {
                Ok(Self::ClipFolder)
            };
        }
        if !path.is_file() {
            return refuse("is not there: expected a data set's file or folder");
        }
        if OwnClips::is_at(path) {
            return Ok(Self::OwnClips);
        }
        match path.extension().and_then(|extension| extension.to_str()).unwrap_or_default() {
            "pkl" | "pickle" => Ok(Self::MotionBert),
            "bvh" => Ok(Self::Bvh),
            "asf" | "amc" => Ok(Self::AsfAmc),
            "json" => Ok(Self::Keypoints),
            "npz" => {
                let arrays = npz::names(path)?;
                let has = |name: &str| arrays.iter().any(|array| array == name);
                if has("poses") && has("offsets") {
                    Ok(Self::MotionCapture)
                } else if has("positions_2d") || has("positions_3d") {
                    Ok(Self::VideoPose3d)
                } else if has("data") {
                    Ok(Self::Mpi3dhp)
                } else if has("keypoints") || has("keypoints_px") {
                    Ok(Self::Keypoints)
                } else {
                    let problem = format!("has the arrays {}: none of the known sets", arrays.join(", "));
                    Err(Error::content(path, problem))
                }
            }
            _ => refuse("is of no known kind: expected .npz, .pkl, .json, .bvh, .asf or .amc"),
        }
    }
}

/// Names of a folder's entries, sorted.
fn file_names(dir: &Path) -> Result<Vec<String>, Error> {
    let refuse = |e: std::io::Error| Error::content(dir, format!("the folder cannot be read: {e}"));
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(refuse)? {
        names.push(entry.map_err(refuse)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Whether a folder of the folder has a file of this extension: CMU's subjects each have one.
fn has_below(dir: &Path, extension: &str) -> bool {
    motion_files::files(dir, extension).is_ok_and(|files| !files.is_empty())
}

/// `train` and `test`, or the folder itself where the clips lie in it.
fn clip_folders(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    for folder in [dir.to_owned(), dir.join("train"), dir.join("test")] {
        if folder.is_dir() && file_names(&folder)?.iter().any(|name| name.ends_with(".pkl")) {
            found.push(folder);
        }
    }
    Ok(found)
}

/// One frame of a set, in one form for all: camera axes, x right, y down, z away.
#[derive(Clone, Debug, PartialEq)]
pub struct Specimen {
    /// Sequence and frame.
    pub caption: String,
    /// Joints in 3D where the set has them, Human3.6M's order, in the part's [`Part::unit`]. World poses are seen along their y axis.
    pub pose: Option<Pose3>,
    /// Joints in 2D where the set has them, in the part's [`Part::unit_2d`].
    pub keypoints: Option<Keypoints17>,
}

/// What is in a set.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// What it is.
    pub kind: Kind,
    /// Where it lies.
    pub path: PathBuf,
    /// Halves, files or folders, each on its own.
    pub parts: Vec<Part>,
}

/// One part of a set.
#[derive(Clone, Debug, Serialize)]
pub struct Part {
    /// Such as `train`.
    pub name: String,
    /// Clips, videos or takes.
    pub sequences: usize,
    /// Frames of all of them.
    pub frames: usize,
    /// Frames per second, where the set says so or is known for it.
    pub fps: Option<f64>,
    /// Fewest, median and most frames of a sequence.
    pub length_frames: [usize; 3],
    /// Who moves, where it is known.
    pub subjects: Vec<String>,
    /// Which cameras, where there are any.
    pub cameras: Vec<String>,
    /// Unit and axes of the poses.
    pub unit: &'static str,
    /// Unit of the keypoints.
    pub unit_2d: &'static str,
    /// Frames that the figures below are over.
    pub frames_looked_at: usize,
    /// Least and greatest of each coordinate.
    pub ranges: Vec<Range>,
    /// Bones of the poses.
    pub bodies: Option<Bodies>,
    /// What is odd without being wrong.
    pub remarks: Vec<String>,
    /// The frames.
    #[serde(skip)]
    pub specimens: Vec<Specimen>,
}

/// Extent of one coordinate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Range {
    /// Such as `3D z`.
    pub of: &'static str,
    /// Least.
    pub min: f32,
    /// Greatest.
    pub max: f32,
}

/// Lengths of bones and whether the sides are the right way round.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bodies {
    /// Each of [`skeleton::BONES`], by its outer joint.
    pub bones: Vec<Bone>,
    /// Largest difference of a left bone's median from the right one's, %.
    pub asymmetry_percent: f64,
    /// How well knees, elbows and noses agree with the names left and right: about 0.7 for people, negative when they are swapped.
    pub side_agreement: f64,
}

/// One bone over many frames.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bone {
    /// Its outer joint.
    pub to: &'static str,
    /// Length that 5 %, 50 % and 95 % of the frames do not exceed.
    pub length: [f32; 3],
}

const MM_WORLD: &str = "mm, world";
const MM_CAMERA: &str = "mm, camera";
const PX: &str = "px";
const NORMALISED: &str = "halves of the image's width";

/// Looks at a set of any kind.
///
/// # Errors
/// Nothing there, nothing known, or what the set's reader refuses.
pub fn inspect(path: &Path) -> Result<Summary, Error> {
    let kind = Kind::of(path)?;
    let parts = match kind {
        Kind::MotionCapture => motion_capture(path)?,
        Kind::MotionBert => [Half::Train, Half::Test].into_iter().map(|half| motion_bert(path, half)).collect::<Result<_, _>>()?,
        Kind::ClipFolder => clip_folders(path)?.iter().map(|folder| clip_folder(folder)).collect::<Result<_, _>>()?,
        Kind::VideoPose3d => vec![video_pose_3d(&open_video_pose_3d(path)?)],
        Kind::Mpi3dhp => vec![mpi_inf_3dhp(path)?],
        Kind::Bvh => vec![mocap_part("BVH", &motion_files::open_bvh(path, None)?.set)],
        Kind::AsfAmc => vec![mocap_part("ASF/AMC", &motion_files::open_amc(path, None)?.set)],
        Kind::Keypoints => vec![keypoints(path)?],
        Kind::OwnClips => own_clips(path)?,
    };
    Ok(Summary { kind, path: path.to_owned(), parts })
}

/// Both files of VideoPose3D, of which `path` is one or the folder. Several 2D files: the first by name.
///
/// # Errors
/// One of them is absent, and as [`VideoPose3d::open`].
pub fn open_video_pose_3d(path: &Path) -> Result<VideoPose3d, Error> {
    if !path.exists() {
        return Err(Error::content(path, "is not there: expected VideoPose3D's data_3d_h36m.npz or its folder"));
    }
    let dir = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    let named = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is_2d = |name: &str| name.starts_with("data_2d") && name.ends_with(".npz");
    let (file_3d, file_2d) = if path.is_file() && is_2d(named) {
        (dir.join(VIDEO_POSE_3D_FILE), path.to_owned())
    } else {
        let file_3d = if path.is_file() { path.to_owned() } else { dir.join(VIDEO_POSE_3D_FILE) };
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        let Some(file_2d) = file_names(dir)?.into_iter().find(|name| is_2d(name)) else {
            return Err(Error::content(dir, "holds no data_2d_*.npz: VideoPose3D's 2D and 3D files belong in one folder"));
        };
        (file_3d, dir.join(file_2d))
    };
    VideoPose3d::open(&file_2d, &file_3d)
}

/// World axes, z up, as a camera that looks along y sees them.
fn as_seen(pose: &Pose3) -> Pose3 {
    pose.map(|[x, y, z]| [x, -z, y])
}

/// Every so many frames of all sequences, given by their lengths: (sequence, frame in it).
fn spread(lengths: &[usize], wanted: usize) -> Vec<(usize, usize)> {
    let total: usize = lengths.iter().sum();
    let all = lengths.iter().enumerate().flat_map(|(s, &length)| (0..length).map(move |t| (s, t)));
    all.step_by(total.div_ceil(wanted).max(1)).collect()
}

fn motion_capture(path: &Path) -> Result<Vec<Part>, Error> {
    if path.is_file() {
        return Ok(vec![mocap_part(&path.file_name().unwrap_or_default().to_string_lossy(), &MocapSet::open(path)?)]);
    }
    let names = file_names(path)?.into_iter().filter(|name| name.starts_with("mocap_") && name.ends_with(".npz"));
    names.map(|name| Ok(mocap_part(&name, &MocapSet::open(&path.join(&name))?))).collect()
}

fn mocap_part(name: &str, set: &MocapSet) -> Part {
    let lengths: Vec<usize> = set.clips().iter().map(crate::mocap::MocapClip::frames).collect();
    let specimens = spread(&lengths, LOOKED_AT).into_iter().map(|(clip, t)| Specimen {
        caption: format!("{} {t}", set.clips()[clip].name),
        pose: Some(as_seen(&set.poses(clip)[t])),
        keypoints: None,
    });
    let mut part = Part::new(name, &lengths, specimens.collect());
    part.fps = Some(set.fps());
    part.subjects = distinct(set.clips().iter().map(|clip| clip.subject.clone()));
    part.unit = MM_WORLD;
    part
}

fn motion_bert(path: &Path, half: Half) -> Result<Part, Error> {
    let set = MotionBert::open(path, half)?;
    let lengths: Vec<usize> = set.videos().iter().map(|video| video.frames.len()).collect();
    let specimens = spread(&lengths, LOOKED_AT).into_iter().map(|(s, t)| {
        let video = &set.videos()[s];
        let frame = video.frames.start + t;
        let clamped = |k: Keypoint| Keypoint { confidence: k.confidence.clamp(0.0, 1.0), ..k };
        let keypoints = Some(set.keypoints(frame).map(clamped));
        // mm where the test half has them
        let pose = set.truth().map_or_else(|| set.label_px(frame), |truth| truth.joints_mm[frame].map(|p| p.map(|v| v as f32)));
        Specimen { caption: format!("{} {t}", video.name), pose: Some(pose), keypoints }
    });
    let mut part = Part::new(half.name(), &lengths, specimens.collect());
    part.fps = Some(crate::motion_bert::FPS);
    part.subjects = distinct(set.videos().iter().map(|video| video.subject().to_owned()));
    part.cameras = distinct(set.videos().iter().map(|video| video.camera.clone()));
    part.unit = if set.truth().is_some() { "mm (2.5D at the true depth)" } else { "px (2.5D: z too)" };
    part.unit_2d = PX;
    Ok(part)
}

fn clip_folder(folder: &Path) -> Result<Part, Error> {
    let set = ClipFolder::open(folder, ClipOptions { root_relative: false, ..ClipOptions::evaluation() })?;
    let clips = set.files().len();
    let step = clips.div_ceil(CLIPS_LOOKED_AT).max(1);
    let mut specimens = Vec::new();
    for index in (0..clips).step_by(step) {
        let clip = set.clip(index)?;
        let name = set.files()[index].file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let every = (clip.frames * clips.div_ceil(step)).div_ceil(LOOKED_AT).max(1);
        for t in (0..clip.frames).step_by(every) {
            let at = |values: &[f32], j: usize| -> [f32; 3] { std::array::from_fn(|c| values[(t * JOINTS + j) * 3 + c]) };
            let keypoint = |j: usize| {
                let [x, y, confidence] = at(&clip.input, j);
                Keypoint::new(x, y, confidence.clamp(0.0, 1.0))
            };
            specimens.push(Specimen {
                caption: format!("{name} {t}"),
                pose: Some(std::array::from_fn(|j| at(&clip.label, j))),
                keypoints: Some(std::array::from_fn(keypoint)),
            });
        }
    }
    let mut part =
        Part::new(&folder.file_name().unwrap_or_default().to_string_lossy(), &vec![crate::SampleSource::frames(&set); clips], specimens);
    part.unit = NORMALISED;
    part.unit_2d = NORMALISED;
    if step > 1 {
        part.remarks.push(format!("one clip in {step} was read"));
    }
    Ok(part)
}

fn video_pose_3d(set: &VideoPose3d) -> Part {
    let recordings = set.recordings();
    let lengths: Vec<usize> = recordings.iter().map(|recording| recording.world_mm.len()).collect();
    let specimens = spread(&lengths, LOOKED_AT).into_iter().map(|(s, t)| {
        let recording = &recordings[s];
        let seen = recording.cameras.first().and_then(|track| track.joints_px.get(t));
        Specimen {
            caption: format!("{} {} {t}", recording.subject, recording.action),
            pose: Some(as_seen(&recording.world_mm[t])),
            keypoints: seen.map(|pose| pose.map(|[x, y]| Keypoint::new(x, y, 1.0))),
        }
    });
    let mut part = Part::new("all", &lengths, specimens.collect());
    part.fps = Some(crate::motion_bert::FPS);
    part.subjects = distinct(recordings.iter().map(|recording| recording.subject.clone()));
    part.cameras = distinct(recordings.iter().flat_map(|recording| recording.cameras.iter().map(|track| track.camera.to_owned())));
    part.unit = MM_WORLD;
    part.unit_2d = PX;
    let uneven = recordings.iter().filter(|r| r.cameras.iter().any(|track| track.joints_px.len() != r.world_mm.len())).count();
    if uneven > 0 {
        part.remarks.push(format!("in {uneven} takes a camera has more or fewer frames than the motion: what only one has is left out"));
    }
    part
}

/// The training file or the test file, whichever it is.
fn open_mpi_inf_3dhp(path: &Path) -> Result<(Mpi3dhp, &'static str), Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.contains("test") {
        return Ok((Mpi3dhp::open_test(path)?, "test"));
    }
    Mpi3dhp::open_train(path).map(|set| (set, "train")).or_else(|refused| match Mpi3dhp::open_test(path) {
        Ok(set) => Ok((set, "test")),
        Err(_) => Err(refused),
    })
}

fn mpi_inf_3dhp(path: &Path) -> Result<Part, Error> {
    let (set, half) = open_mpi_inf_3dhp(path)?;
    let sequences = set.sequences();
    let lengths: Vec<usize> = sequences.iter().map(crate::mpi_inf_3dhp::Sequence::frames).collect();
    let specimens = spread(&lengths, LOOKED_AT).into_iter().map(|(s, t)| {
        let (pixels, pose) = (sequences[s].joints_px(t), sequences[s].camera_mm(t));
        Specimen {
            caption: format!("{} {} {t}", sequences[s].name, sequences[s].camera),
            pose: Some(MPI_INF_3DHP.map(|j| pose[j])),
            keypoints: Some(MPI_INF_3DHP.map(|j| Keypoint::new(pixels[j][0], pixels[j][1], 1.0))),
        }
    });
    let mut part = Part::new(half, &lengths, specimens.collect());
    let rates = distinct(sequences.iter().filter_map(|sequence| sequence.fps).map(|fps| fps.to_string()));
    part.fps = if let [_] = rates[..] { sequences[0].fps } else { None };
    part.subjects = distinct(sequences.iter().map(|s| s.name.split(' ').next().unwrap_or_default().to_owned()));
    part.cameras = distinct(sequences.iter().map(|s| s.camera.clone()).filter(|camera| !camera.is_empty()));
    part.unit = MM_CAMERA;
    part.unit_2d = PX;
    if rates.len() > 1 {
        part.remarks.push(format!("sequences of {} frames per second", rates.join(" and ")));
    }
    if half == "test" {
        part.remarks.push(format!("{} frames count as valid", set.valid_frames().len()));
    }
    Ok(part)
}

fn keypoints(path: &Path) -> Result<Part, Error> {
    let clip = formats::keypoints::read(path)?;
    let lengths = [clip.frames.len()];
    let specimens = spread(&lengths, LOOKED_AT).into_iter();
    let specimens = specimens.map(|(_, t)| Specimen { caption: format!("frame {t}"), pose: None, keypoints: Some(clip.frames[t]) });
    let mut part = Part::new(&path.file_name().unwrap_or_default().to_string_lossy(), &lengths, specimens.collect());
    part.fps = clip.fps();
    part.unit_2d = PX;
    part.remarks.push(format!("pictures of {} x {} px", clip.image.width_px, clip.image.height_px));
    let missing = clip.frames.iter().flatten().filter(|k| k.is_missing()).count();
    part.remarks.push(format!("{:.1} % of the joints are missing", 100.0 * missing as f64 / (clip.frames.len() * JOINTS) as f64));
    Ok(part)
}

/// `train` and `val` apart where the folder has them.
fn own_clips(path: &Path) -> Result<Vec<Part>, Error> {
    let halves = ["train", "val"].map(|half| path.join(half));
    if halves[0].is_dir() {
        return halves.iter().filter(|half| half.is_dir()).map(|half| own_clips_part(&OwnClips::open(half)?)).collect();
    }
    Ok(vec![own_clips_part(&OwnClips::open(path)?)?])
}

fn own_clips_part(set: &OwnClips) -> Result<Part, Error> {
    let clips = set.clips();
    let lengths: Vec<usize> = clips.iter().map(|clip| clip.keypoints.frames.len()).collect();
    let specimens = spread(&lengths, LOOKED_AT).into_iter().map(|(s, t)| Specimen {
        caption: format!("{} {} {t}", clips[s].take, clips[s].camera),
        pose: Some(clips[s].view.camera_mm[t]),
        keypoints: Some(clips[s].keypoints.frames[t]),
    });
    let mut part = Part::new(&set.path().file_name().unwrap_or_default().to_string_lossy(), &lengths, specimens.collect());
    let rates: Vec<f64> = clips.iter().filter_map(|clip| clip.keypoints.fps()).collect();
    part.fps = rates.first().copied().filter(|first| rates.iter().all(|rate| (rate / first - 1.0).abs() < 0.01));
    part.subjects = distinct(clips.iter().map(|clip| clip.subject.clone()));
    part.cameras = distinct(clips.iter().map(|clip| clip.camera.clone()).filter(|camera| !camera.is_empty()));
    part.unit = MM_CAMERA;
    part.unit_2d = PX;
    for take in set.triangulations() {
        let rejected: Vec<String> =
            take.cameras.iter().zip(&take.rejected_percent).map(|(camera, percent)| format!("{camera} {percent:.1} %")).collect();
        part.remarks.push(format!(
            "{}: {} of {} frames triangulated, reprojection error {:.1} px, {:.1} % of the joints missing before gaps were filled, rejected as contradicting: {}",
            take.take,
            take.frames[1],
            take.frames[0],
            take.reprojection_error_px,
            take.missing_percent,
            rejected.join(", ")
        ));
    }
    part.remarks.extend(set.remarks().iter().cloned());
    Ok(part)
}

impl Part {
    /// Counts, ranges and bodies; what else is known is filled in by the caller.
    fn new(name: &str, lengths: &[usize], specimens: Vec<Specimen>) -> Self {
        let mut sorted = lengths.to_vec();
        sorted.sort_unstable();
        let at = |share: f64| sorted.get(((sorted.len().max(1) - 1) as f64 * share) as usize).copied().unwrap_or_default();
        let poses: Vec<Pose3> = specimens.iter().filter_map(|specimen| specimen.pose).collect();
        let bodies = (!poses.is_empty()).then(|| Bodies::of(&poses));
        Self {
            name: name.to_owned(),
            sequences: lengths.len(),
            frames: lengths.iter().sum(),
            fps: None,
            length_frames: [at(0.0), at(0.5), at(1.0)],
            subjects: Vec::new(),
            cameras: Vec::new(),
            unit: "",
            unit_2d: "",
            frames_looked_at: specimens.len(),
            ranges: ranges(&specimens),
            remarks: bodies.iter().filter_map(Bodies::remark).collect(),
            bodies,
            specimens,
        }
    }
}

fn ranges(specimens: &[Specimen]) -> Vec<Range> {
    type Coordinates = Vec<[f32; 3]>;
    let points: Coordinates = specimens.iter().filter_map(|s| s.pose).flatten().collect();
    let keypoints: Coordinates = specimens
        .iter()
        .filter_map(|s| s.keypoints)
        .flatten()
        .filter(|k| !k.is_missing())
        .map(|k| [k.x_px, k.y_px, k.confidence])
        .collect();
    let extent = |of: &'static str, values: &Coordinates, c: usize| {
        let (min, max) = values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(lo, hi), p| (lo.min(p[c]), hi.max(p[c])));
        (!values.is_empty()).then_some(Range { of, min, max })
    };
    let in_3d = ["3D x (right)", "3D y (down)", "3D z (away)"].into_iter().enumerate().map(|(c, of)| extent(of, &points, c));
    let in_2d = ["2D x", "2D y", "confidence"].into_iter().enumerate().map(|(c, of)| extent(of, &keypoints, c));
    in_3d.chain(in_2d).flatten().collect()
}

impl Bodies {
    fn of(poses: &[Pose3]) -> Self {
        let lengths: Vec<[f32; JOINTS - 1]> = poses.iter().map(skeleton::bone_lengths).collect();
        let bone = |b: usize| {
            let mut of_bone: Vec<f32> = lengths.iter().map(|lengths| lengths[b]).collect();
            of_bone.sort_unstable_by(f32::total_cmp);
            let at = |share: f64| of_bone[((of_bone.len() - 1) as f64 * share).round() as usize];
            Bone { to: skeleton::NAMES[skeleton::BONES[b].1], length: [at(0.05), at(0.5), at(0.95)] }
        };
        let bones: Vec<Bone> = (0..JOINTS - 1).map(bone).collect();
        let median =
            |joint: usize| bones.iter().find(|bone| bone.to == skeleton::NAMES[joint]).map_or(0.0, |bone| f64::from(bone.length[1]));
        let pairs = skeleton::LEFT.into_iter().zip(skeleton::RIGHT).map(|(left, right)| (median(left), median(right)));
        let asymmetry = pairs.map(|(left, right)| 200.0 * (left - right).abs() / (left + right).max(f64::MIN_POSITIVE));
        Self { asymmetry_percent: asymmetry.fold(0.0, f64::max), side_agreement: checks::side_score(poses), bones }
    }

    fn remark(&self) -> Option<String> {
        if self.side_agreement < 0.1 {
            return Some(format!("left and right are not plain to see (agreement {:.2}): look at a preview", self.side_agreement));
        }
        (self.asymmetry_percent > 15.0).then(|| format!("a left bone differs from the right one by {:.0} %", self.asymmetry_percent))
    }
}

fn distinct(names: impl Iterator<Item = String>) -> Vec<String> {
    let names: std::collections::BTreeSet<String> = names.collect();
    names.into_iter().collect()
}

/// The motion of a set that has some in world space, to be saved as a joint NPZ or trained on. `fps` is for BVH and ASF/AMC.
///
/// # Errors
/// A set without motion in the world, and what its reader refuses.
pub fn motion_of(path: &Path, fps: Option<f64>) -> Result<Arc<MocapSet>, Error> {
    let kind = Kind::of(path)?;
    if let Some(fps) = fps.filter(|_| !matches!(kind, Kind::Bvh | Kind::AsfAmc | Kind::OwnClips)) {
        return Err(Error::options(format!(
            "{fps} frames per second are asked for, but a set of kind {} stays at its own rate",
            kind.name()
        )));
    }
    let set = match kind {
        Kind::MotionCapture if path.is_file() => MocapSet::open(path)?,
        Kind::VideoPose3d => {
            let set = open_video_pose_3d(path)?;
            let subjects = distinct(set.recordings().iter().map(|recording| recording.subject.clone()));
            set.mocap(&subjects.iter().map(String::as_str).collect::<Vec<_>>())?
        }
        Kind::Bvh => motion_files::open_bvh(path, fps)?.set,
        Kind::AsfAmc => motion_files::open_amc(path, fps)?.set,
        Kind::OwnClips => OwnClips::open(path)?.mocap(fps)?,
        _ => {
            let problem = format!(
                "is of kind {}: expected motion in world space, one of BVH, ASF/AMC, VideoPose3D, own clips or a joint NPZ",
                kind.name()
            );
            return Err(Error::content(path, problem));
        }
    };
    Ok(Arc::new(set))
}
