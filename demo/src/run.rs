//! The whole path: a clip in, files out.

use std::path::{Path, PathBuf};
use std::time::Instant;

use formats::motion::{self, MotionClip};
use pose::ImageSize;
use pose::camera::Intrinsics;
use pose::world::{Scale, ScaleSource};
use runtime::{Device, EngineOptions, LiftOptions, Lifter};
use serde::Serialize;

use crate::blazepose::{Networks, NetworksOptions, Quality, Tracker};
use crate::observe::{self, Observation, Section, observe_file, observe_video};
use crate::outputs::Unfinished;
use crate::paths::find_above;
use crate::progress::{Meter, Progress};
use crate::results::Results;
use crate::video::VideoReader;
use crate::{blazepose, film};

/// The model that is used when none is named, below the workspace.
pub const DEFAULT_MODEL: &str = "models/clip-xs.onnx";

/// Where the 2D keypoints come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A video, through BlazePose.
    Video {
        /// The file.
        path: PathBuf,
        /// Which part of it.
        section: Section,
        /// Which landmark network.
        quality: Quality,
    },
    /// A keypoint file that [`formats::keypoints`] reads.
    Keypoints(PathBuf),
}

impl Input {
    fn path(&self) -> &Path {
        match self {
            Self::Video { path, .. } | Self::Keypoints(path) => path,
        }
    }
}

/// What to do.
#[derive(Debug, Clone)]
pub struct Request {
    /// Where the keypoints come from.
    pub input: Input,
    /// The lifter; `None` = [`DEFAULT_MODEL`].
    pub model: Option<PathBuf>,
    /// Folder for the results; `None` = that of the input.
    pub out: Option<PathBuf>,
    /// What the person's size is known from.
    pub scale: Scale,
    /// Horizontal field of view of the camera; `None` = the default of [`pose::camera`].
    pub fov_deg: Option<f32>,
    /// Average with the prediction for the mirrored picture.
    pub flip: bool,
    /// Whether to make the film.
    pub film: bool,
    /// What else to write.
    pub motion_files: Vec<MotionFile>,
    /// Where the networks run.
    pub device: Device,
    /// Threads within one operation; 0 takes as many as there are processors.
    pub threads: usize,
    /// Whether to draw progress bars.
    pub progress: Progress,
}

/// Files of the motion in the world for other tools, see [`formats::motion`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum MotionFile {
    /// Joint rotations for Blender, MotionBuilder, Maya
    Bvh,
    /// An animated skeleton for viewers and game engines (binary glTF)
    Glb,
    /// Joint positions for OpenSim
    Trc,
    /// Joint positions for biomechanics
    C3d,
    /// Joint positions as a table
    Csv,
    /// Joint positions, one JSON line for each frame
    Ndjson,
    /// Angles of knees, hips, elbows and shoulders as a table
    Angles,
}

impl MotionFile {
    /// End of the file's name, after that of the clip.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Bvh => "bvh",
            Self::Glb => "glb",
            Self::Trc => "trc",
            Self::C3d => "c3d",
            Self::Csv => "csv",
            Self::Ndjson => "ndjson",
            Self::Angles => "angles.csv",
        }
    }

    pub(crate) fn write(self, path: &Path, clip: &MotionClip<'_>) -> Result<(), formats::Error> {
        match self {
            Self::Angles => motion::csv::write_angles(path, clip),
            _ => motion::write(path, clip),
        }
    }
}

/// What was done, for people and for programs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Video or keypoint file.
    pub input: PathBuf,
    /// The film, if one was asked for.
    pub video: Option<PathBuf>,
    /// See [`crate::results`].
    pub json: PathBuf,
    /// See [`crate::results`].
    pub npz: PathBuf,
    /// Files for other tools, as asked for.
    pub motion_files: Vec<PathBuf>,
    /// Name of the model.
    pub model: String,
    /// Where the keypoints come from.
    pub detector: String,
    /// Frames of the section.
    pub frames: usize,
    /// Frames in which the person was seen.
    pub frames_seen: usize,
    /// Frames in which the person was not seen, but shortly before and after.
    pub frames_bridged: usize,
    /// Frames without a pose.
    pub frames_without_person: usize,
    /// Mean frames a second of the section.
    pub fps: Option<f64>,
    /// What the millimetres rest on.
    pub scale_source: ScaleSource,
    /// The person's stature at that scale.
    pub height_m: f32,
    /// Frames a second of each stage while it was at work.
    pub stage_fps: StageRates,
    /// Time of everything together.
    pub elapsed_s: f64,
}

/// Frames a second of each stage; `None` for one that did not run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StageRates {
    /// Reading the video.
    pub decode: Option<f64>,
    /// BlazePose and the tracker.
    pub detect: Option<f64>,
    /// The lifter.
    pub lift: Option<f64>,
    /// Drawing and encoding the film.
    pub draw_encode: Option<f64>,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No model was named, and none is where the shipped one should be.
    #[error("the shipped model {DEFAULT_MODEL} was not found above the program or the working folder: name a model with --model")]
    NoModel,
    /// The model, the engine, or the clip for it; see [`runtime::Error`].
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
    /// The camera.
    #[error(transparent)]
    Camera(#[from] pose::Error),
    /// See [`blazepose::Error`].
    #[error(transparent)]
    Detector(#[from] blazepose::Error),
    /// See [`observe::Error`].
    #[error(transparent)]
    Observe(#[from] observe::Error),
    /// See [`film::Error`].
    #[error(transparent)]
    Film(#[from] film::Error),
    /// The motion cannot be written for another tool; see [`formats::Error`].
    #[error(transparent)]
    Motion(#[from] formats::Error),
    /// The output folder cannot be written to.
    #[error("cannot write into the folder {}: {source}", folder.display())]
    Output {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// Does all that `request` asks for. Files appear whole or not at all.
///
/// # Errors
/// See [`Error`]; then no file was changed, or, if moving them failed half-way, each is whole.
pub fn run(request: &Request) -> Result<Summary, Error> {
    let start = Instant::now();
    let input = request.input.path();
    let out = request.out.clone().unwrap_or_else(|| folder_of(input));

    // What can be wrong is found before the slow part.
    request.scale.validate()?;
    let intrinsics = |image| request.fov_deg.map(|fov_deg| Intrinsics::from_horizontal_fov_deg(image, fov_deg)).transpose();
    intrinsics(ImageSize { width_px: 1, height_px: 1 })?; // the field of view alone can be refused
    let from_file = match &request.input {
        Input::Video { path, .. } => {
            VideoReader::open(path).map_err(observe::Error::from)?;
            None
        }
        Input::Keypoints(path) => Some(observe_file(path)?),
    };
    let model = match &request.model {
        Some(model) => model.clone(),
        None => find_above(Path::new(DEFAULT_MODEL)).ok_or(Error::NoModel)?,
    };
    let options = EngineOptions { device: request.device, threads: request.threads, ..EngineOptions::default() };
    let lifter = Lifter::open(&model, &options)?;
    let unwritable = |source| Error::Output { folder: out.clone(), source };
    std::fs::create_dir_all(&out).map_err(unwritable)?;
    let unfinished = Unfinished::create(&out).map_err(unwritable)?;

    let (mut decode, mut detect, mut lift, mut draw) = (Meter::default(), Meter::default(), Meter::default(), Meter::default());
    let (observation, detector) = match (from_file, &request.input) {
        (None, Input::Video { path, section, quality }) => {
            let networks =
                NetworksOptions { quality: *quality, device: request.device, threads: request.threads, ..NetworksOptions::default() };
            let mut tracker = Tracker::new(Networks::open(&networks)?);
            let observation = observe_video(path, *section, &mut tracker, &request.progress, &mut decode, &mut detect)?;
            (observation, format!("blazepose-{}", quality.name()))
        }
        (Some(observation), _) => (observation, "keypoint file".to_owned()),
        (None, Input::Keypoints(path)) => (observe_file(path)?, "keypoint file".to_owned()),
    };

    let intrinsics = intrinsics(observation.clip.image)?;
    let options = LiftOptions { flip: request.flip, scale: request.scale.clone(), intrinsics, ..LiftOptions::default() };
    let lifted = lift.measure(|| lift_with_bar(&lifter, &observation, &options, request.progress))?;
    lift.count(observation.frame.len() as u64);

    let results = Results { observation: &observation, lifted: &lifted, model_metadata: lifter.engine().metadata(), detector: &detector };
    let stem = input.file_stem().unwrap_or_default().to_string_lossy();
    let [video, json, npz] = ["mp4", "json", "npz"].map(|extension| format!("{stem}.3d.{extension}"));
    results.write_json(&unfinished.path(&json)).map_err(unwritable)?;
    results.write_npz(&unfinished.path(&npz))?;
    let world_mm = lifted.world_mm();
    let motion_names: Vec<String> = request.motion_files.iter().map(|file| format!("{stem}.3d.{}", file.suffix())).collect();
    for (file, name) in request.motion_files.iter().zip(&motion_names) {
        file.write(&unfinished.path(name), &MotionClip::new(&world_mm, &lifted.times_s)?)?;
    }
    if request.film {
        let source = matches!(request.input, Input::Video { .. }).then_some(input);
        film::write(&unfinished.path(&video), source, &observation, &lifted, &request.progress, &mut draw)?;
    }
    let finish = |name: &str| unfinished.finish(name, &out).map_err(unwritable);

    let frames_seen = observation.person_found.iter().filter(|&&found| found).count();
    Ok(Summary {
        input: input.to_owned(),
        video: request.film.then(|| finish(&video)).transpose()?,
        json: finish(&json)?,
        npz: finish(&npz)?,
        motion_files: motion_names.iter().map(|name| finish(name)).collect::<Result<_, _>>()?,
        model: lifted.model.clone(),
        frames: observation.all_times_s.len(),
        frames_seen,
        frames_bridged: observation.frame.len() - frames_seen,
        frames_without_person: observation.all_times_s.len() - observation.frame.len(),
        fps: results.fps(),
        scale_source: lifted.scale_source,
        height_m: lifted.height_m,
        stage_fps: StageRates { decode: decode.rate_fps(), detect: detect.rate_fps(), lift: lift.rate_fps(), draw_encode: draw.rate_fps() },
        elapsed_s: start.elapsed().as_secs_f64(),
        detector,
    })
}

fn lift_with_bar(
    lifter: &Lifter,
    observation: &Observation,
    options: &LiftOptions,
    progress: Progress,
) -> Result<runtime::LiftedClip, runtime::Error> {
    let frames = observation.frame.len() as u64;
    let bar = progress.bar("lift", Some(frames));
    let lifted = lifter.lift_with_progress(&observation.clip, options, &mut |done, windows| {
        bar.set_position(frames * done as u64 / windows.max(1) as u64);
    });
    bar.finish_and_clear();
    lifted
}

fn folder_of(path: &Path) -> PathBuf {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}
