//! The whole path: a clip in, files out.

use std::path::{Path, PathBuf};
use std::time::Instant;

use formats::motion::{self, MotionClip};
use pose::KeypointClip;
use pose::world::{Scale, ScaleSource};
use runtime::{Device, EngineOptions, LiftOptions, LiftedClip, Lifter, Together};
use serde::Serialize;

use crate::detect::Choice;
use crate::film;
use crate::film::{Actor, Script};
use crate::observe::{self, Everyone, Person, Section, observe_file, observe_video};
use crate::outputs::Unfinished;
use crate::paths::find_above;
use crate::progress::{Meter, Progress};
use crate::results::Results;
use crate::room::{self, Room};
use crate::video::VideoReader;

/// The model that is used when none is named, below the workspace.
pub const DEFAULT_MODEL: &str = "models/clip-xs.onnx";

/// Where the 2D keypoints come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A video, through a detector.
    Video {
        /// The file.
        path: PathBuf,
        /// Which part of it.
        section: Section,
        /// Which detector.
        detector: Choice,
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

/// Whose pose is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Who {
    /// The most prominent person of the clip: the one who is in sight longest and largest.
    #[default]
    Largest,
    /// The one with this number, from 1 in the order of first appearance.
    Number(u64),
    /// Everyone.
    All,
}

impl std::str::FromStr for Who {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("largest", _) => Ok(Self::Largest),
            ("all", _) => Ok(Self::All),
            (_, Ok(number @ 1..)) => Ok(Self::Number(number)),
            _ => Err("expected largest, all, or a person's number from 1".to_owned()),
        }
    }
}

/// People that can be followed at a time.
pub const MOST_PEOPLE: usize = 32;

/// What to do.
#[derive(Debug, Clone)]
pub struct Request {
    /// Where the keypoints come from.
    pub input: Input,
    /// The lifter; `None` = [`DEFAULT_MODEL`].
    pub model: Option<PathBuf>,
    /// Folder for the results; `None` = that of the input.
    pub out: Option<PathBuf>,
    /// Whose pose is wanted.
    pub who: Who,
    /// How many people are followed at a time, 1 to [`MOST_PEOPLE`].
    pub most_people: usize,
    /// Statures in metres: none is known; one, of everyone; several, in the order of the people's numbers.
    pub heights_m: Vec<f32>,
    /// The camera and the room.
    pub room: Room,
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
    /// The same angles as a picture (SVG)
    AnglesPlot,
    /// Joint positions as Pose2Sim triangulates them, for its next steps
    Pose2sim,
    /// Joint positions as FreeMoCap's mediapipe_body_3d_xyz.npy
    Freemocap,
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
            Self::AnglesPlot => "angles.svg",
            Self::Pose2sim => "pose2sim.trc",
            Self::Freemocap => "mediapipe_body_3d_xyz.npy",
        }
    }

    pub(crate) fn write(self, path: &Path, clip: &MotionClip<'_>) -> Result<(), formats::Error> {
        match self {
            Self::Angles => motion::csv::write_angles(path, clip),
            Self::AnglesPlot => motion::angles_plot::write(path, clip),
            Self::Pose2sim => motion::pose2sim::write_trc(path, clip),
            Self::Freemocap => motion::pose2sim::write_freemocap(path, clip),
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
    /// See [`crate::results`]; of the most prominent one of those who were lifted.
    pub json: PathBuf,
    /// See [`crate::results`]; of the same person.
    pub npz: PathBuf,
    /// Files for other tools, as asked for; everyone's.
    pub motion_files: Vec<PathBuf>,
    /// Name of the model.
    pub model: String,
    /// Where the keypoints come from.
    pub detector: String,
    /// Frames of the section.
    pub frames: usize,
    /// Frames in which the person of `json` was seen.
    pub frames_seen: usize,
    /// Frames in which that person was not seen, but shortly before and after.
    pub frames_bridged: usize,
    /// Frames without a pose of that person.
    pub frames_without_person: usize,
    /// Mean frames a second of the section.
    pub fps: Option<f64>,
    /// What that person's millimetres rest on.
    pub scale_source: ScaleSource,
    /// That person's stature at that scale.
    pub height_m: f32,
    /// Everyone who was seen, in the order of first appearance.
    pub people: Vec<PersonSummary>,
    /// Frames a second of each stage while it was at work.
    pub stage_fps: StageRates,
    /// Time of everything together.
    pub elapsed_s: f64,
}

/// One person of a clip.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PersonSummary {
    /// From 1 in the order of first appearance.
    pub id: u64,
    /// When the person was seen first, in the video's own time.
    pub first_s: f64,
    /// When the person was seen last.
    pub last_s: f64,
    /// Frames in which the person was seen.
    pub frames_seen: usize,
    /// Frames in which the person was not seen, but shortly before and after.
    pub frames_bridged: usize,
    /// Time in sight (seconds) times mean size in it (heights of the picture).
    pub prominence: f64,
    /// Stature; of those who were lifted.
    pub height_m: Option<f32>,
    /// See [`crate::results`]; of those who were lifted.
    pub json: Option<PathBuf>,
    /// See [`crate::results`]; of those who were lifted.
    pub npz: Option<PathBuf>,
}

/// Frames a second of each stage; `None` for one that did not run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StageRates {
    /// Reading the video.
    pub decode: Option<f64>,
    /// The detector and the tracker.
    pub detect: Option<f64>,
    /// The lifter.
    pub lift: Option<f64>,
    /// Drawing the film.
    pub draw: Option<f64>,
    /// Encoding the film.
    pub encode: Option<f64>,
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
    /// The camera; see [`room::Error`].
    #[error(transparent)]
    Room(#[from] room::Error),
    /// A size that nobody has.
    #[error(transparent)]
    Size(#[from] pose::Error),
    /// The detector cannot be opened.
    #[error("{0}")]
    Detector(anyhow::Error),
    /// See [`observe::Error`].
    #[error(transparent)]
    Observe(#[from] observe::Error),
    /// See [`film::Error`].
    #[error(transparent)]
    Film(#[from] film::Error),
    /// The motion cannot be written for another tool; see [`formats::Error`].
    #[error(transparent)]
    Motion(#[from] formats::Error),
    /// Nobody has the number that was asked for.
    #[error("there is no person {asked} in {path}: {found}")]
    NoSuchPerson {
        /// The number.
        asked: u64,
        /// Where.
        path: String,
        /// Who there is.
        found: String,
    },
    /// A setting outside its range.
    #[error("expected 1 to {MOST_PEOPLE} for the most people, found {0}")]
    MostPeople(usize),
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
    for &height_m in &request.heights_m {
        Scale::Height { height_m }.validate()?;
    }
    if !(1..=MOST_PEOPLE).contains(&request.most_people) {
        return Err(Error::MostPeople(request.most_people));
    }
    request.room.check(input)?;
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

    let (mut decode, mut detect, mut lift) = (Meter::default(), Meter::default(), Meter::default());
    let (everyone, detector) = match (from_file, &request.input) {
        (None, Input::Video { path, section, detector }) => {
            let mut detector = detector.open(request.device, request.threads).map_err(Error::Detector)?;
            let most = request.most_people;
            let everyone = observe_video(path, *section, detector.as_mut(), most, &request.progress, &mut decode, &mut detect)?;
            (everyone, detector.name())
        }
        (Some(everyone), _) => (everyone, "keypoint file".to_owned()),
        (None, Input::Keypoints(path)) => (observe_file(path)?, "keypoint file".to_owned()),
    };
    let chosen = choose(&everyone, request.who, input)?;
    warn_of_unused_heights(&request.heights_m, &everyone);

    let (lens, path) = (request.room.lens(input, everyone.image)?, request.room.path_options());
    let (mut lifted, mut clips) = (Vec::with_capacity(chosen.len()), Vec::with_capacity(chosen.len()));
    for person in &chosen {
        let scale = scale_of(person.id, &request.heights_m);
        let options = LiftOptions { flip: request.flip, scale, intrinsics: Some(lens.intrinsics), path, ..LiftOptions::default() };
        // as a lens without distortion would have shown them
        let clip = lens.undistorted_clip(&person.observation.clip);
        lifted.push(lift.measure(|| lift_with_bar(&lifter, &clip, &options, request.progress))?);
        clips.push(clip);
        lift.count(person.observation.frame.len() as u64);
    }
    let main = most_prominent(&chosen);
    share_world(&chosen, &mut lifted, &clips, request)?;

    let stem = input.file_stem().unwrap_or_default().to_string_lossy();
    let names: Vec<Names> = chosen.iter().map(|person| Names::new(&stem, person.id, request)).collect();
    for ((person, lifted), names) in chosen.iter().zip(&lifted).zip(&names) {
        let model_metadata = lifter.engine().metadata();
        let results = Results { person: person.id, observation: &person.observation, lifted, model_metadata, detector: &detector };
        results.write_json(&unfinished.path(&names.json)).map_err(unwritable)?;
        results.write_npz(&unfinished.path(&names.npz))?;
        let world_mm = lifted.world_mm();
        for (file, name) in request.motion_files.iter().zip(&names.motion) {
            file.write(&unfinished.path(name), &MotionClip::new(&world_mm, &lifted.times_s)?)?;
        }
    }
    let film_name = format!("{stem}.3d.mp4");
    let mut film_meters = film::Meters::default();
    if request.film {
        let source = matches!(request.input, Input::Video { .. }).then_some(input);
        let pairs = chosen.iter().copied().zip(&lifted);
        let actors: Vec<Actor<'_>> =
            pairs.map(|(person, lifted)| Actor { id: person.id, observation: &person.observation, world_mm: lifted.world_mm() }).collect();
        let numbered = request.who == Who::All;
        let script = Script { times_s: &everyone.all_times_s, image: everyone.image, actors: &actors, numbered };
        film_meters = film::write(&unfinished.path(&film_name), source, &script, &request.progress)?;
    }

    let finish = |name: &str| unfinished.finish(name, &out).map_err(unwritable);
    let mut people: Vec<PersonSummary> = everyone.people.iter().map(PersonSummary::new).collect();
    let mut motion_files = Vec::new();
    for ((person, lifted), names) in chosen.iter().zip(&lifted).zip(&names) {
        let Some(summary) = people.iter_mut().find(|summary| summary.id == person.id) else { continue };
        summary.height_m = Some(lifted.height_m);
        summary.json = Some(finish(&names.json)?);
        summary.npz = Some(finish(&names.npz)?);
        for name in &names.motion {
            motion_files.push(finish(name)?);
        }
    }
    let (main_person, main_lifted) = (chosen[main], &lifted[main]);
    let [json, npz] = [&names[main].json, &names[main].npz].map(|name| out.join(name));
    let observation = &main_person.observation;
    let frames_seen = observation.frames_seen();
    Ok(Summary {
        input: input.to_owned(),
        video: request.film.then(|| finish(&film_name)).transpose()?,
        json,
        npz,
        motion_files,
        model: main_lifted.model.clone(),
        frames: everyone.all_times_s.len(),
        frames_seen,
        frames_bridged: observation.frame.len() - frames_seen,
        frames_without_person: everyone.all_times_s.len() - observation.frame.len(),
        fps: everyone.fps(),
        scale_source: main_lifted.scale_source,
        height_m: main_lifted.height_m,
        people,
        stage_fps: StageRates {
            decode: decode.rate_fps(),
            detect: detect.rate_fps(),
            lift: lift.rate_fps(),
            draw: film_meters.draw.rate_fps(),
            encode: film_meters.encode.rate_fps(),
        },
        elapsed_s: start.elapsed().as_secs_f64(),
        detector,
    })
}

/// Who is lifted: at least one person.
fn choose<'e>(everyone: &'e Everyone, who: Who, path: &Path) -> Result<Vec<&'e Person>, Error> {
    let people: Vec<&Person> = everyone.people.iter().collect();
    match who {
        Who::All => Ok(people),
        Who::Largest => Ok(vec![people[most_prominent(&people)]]),
        Who::Number(asked) => match people.iter().find(|person| person.id == asked) {
            Some(person) => Ok(vec![person]),
            None => {
                let found = match people.len() {
                    1 => "only person 1 was seen".to_owned(),
                    many => format!("people 1 to {many} were seen"),
                };
                Err(Error::NoSuchPerson { asked, path: path.display().to_string(), found })
            }
        },
    }
}

/// Index of the one who is in sight longest and largest; 0 of nobody.
fn most_prominent(people: &[&Person]) -> usize {
    let prominences = people.iter().map(|person| person.prominence).enumerate();
    prominences.max_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(index, _)| index)
}

/// One height is everyone's, several are in the order of the people's numbers.
fn scale_of(id: u64, heights_m: &[f32]) -> Scale {
    let height_m = match heights_m {
        [everyones] => Some(*everyones),
        _ => usize::try_from(id - 1).ok().and_then(|index| heights_m.get(index).copied()),
    };
    height_m.map_or(Scale::DefaultHeight, |height_m| Scale::Height { height_m })
}

fn warn_of_unused_heights(heights_m: &[f32], everyone: &Everyone) {
    let (given, people) = (heights_m.len(), everyone.people.len());
    if given > 1 && given > people {
        tracing::warn!("{given} heights were given for {people} people: the last {} are not used", given - people);
    } else if given > 1 && given < people {
        tracing::warn!(
            "{given} heights were given for {people} people: the others are taken to be {:.2} m tall",
            pose::world::DEFAULT_HEIGHT_M
        );
    }
}

/// One camera saw everyone: they stand in one world, on the floor that the feet of all of them say.
fn share_world(chosen: &[&Person], lifted: &mut [LiftedClip], clips: &[KeypointClip], request: &Request) -> Result<(), runtime::Error> {
    if lifted.len() < 2 {
        return Ok(());
    }
    let together = |((person, lifted), keypoints)| {
        let person: &&Person = person;
        Together { lifted, keypoints, scale: scale_of(person.id, &request.heights_m) }
    };
    let mut people: Vec<Together<'_>> = chosen.iter().zip(lifted).zip(clips).map(together).collect();
    runtime::place_together(&mut people, &request.room.path_options())
}

/// Names of one person's files.
struct Names {
    json: String,
    npz: String,
    motion: Vec<String>,
}

impl Names {
    fn new(stem: &str, id: u64, request: &Request) -> Self {
        let stem = if request.who == Who::All { format!("{stem}.person{id}") } else { stem.to_owned() };
        let name = |extension: &str| format!("{stem}.3d.{extension}");
        Self { json: name("json"), npz: name("npz"), motion: request.motion_files.iter().map(|file| name(file.suffix())).collect() }
    }
}

impl PersonSummary {
    fn new(person: &Person) -> Self {
        let observation = &person.observation;
        let times_s = &observation.clip.times_s;
        let frames_seen = observation.frames_seen();
        Self {
            id: person.id,
            first_s: times_s.first().copied().unwrap_or_default(),
            last_s: times_s.last().copied().unwrap_or_default(),
            frames_seen,
            frames_bridged: observation.frame.len() - frames_seen,
            prominence: person.prominence,
            height_m: None,
            json: None,
            npz: None,
        }
    }
}

fn lift_with_bar(lifter: &Lifter, clip: &KeypointClip, options: &LiftOptions, progress: Progress) -> Result<LiftedClip, runtime::Error> {
    let frames = clip.frames.len() as u64;
    let bar = progress.bar("lift", Some(frames));
    let lifted = lifter.lift_with_progress(clip, options, &mut |done, windows| {
        bar.set_position(frames * done as u64 / windows.max(1) as u64);
    });
    bar.finish_and_clear();
    lifted
}

fn folder_of(path: &Path) -> PathBuf {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}
