//! A user's own clips: 2D keypoints with 3D joints in one file, or the keypoints of several calibrated cameras, triangulated.
//!
//! A folder holds takes. A **file** (JSON or NPZ) is the take of one camera: a keypoint file ([`formats::keypoints`]: any skeleton of
//! [`pose::joint_map`]) with these fields more:
//!
//! | JSON | NPZ | shape | meaning |
//! |---|---|---|---|
//! | `camera_mm` | the same | (T, 17, 3) | Human3.6M joints in camera space: x right, y down, z away, mm |
//! | or `world_mm` | the same | (T, 17, 3) | in world space, mm, with the next |
//! | `world_from_camera` {`rotation`, `translation_mm`} | `rotation`, `translation_mm` | (3, 3), (3) | `p_world = rotation * p_camera + translation_mm` |
//! | `intrinsics` {`focal_px`, `centre_px`} | `focal_px`, `centre_px` | (2), (2) | the lens |
//! | `subject` | the same | text, optional | who it is |
//!
//! A **folder** is a take of several cameras: a calibration ([`Calibration`]) in it or above it, and for each camera its keypoint file
//! `NAME.json` or `NAME.npz`, or OpenPose's folder `NAME` or `NAME_json`, in it or in its folder `pose`. The joints are triangulated from
//! undistorted keypoints, and these are what the clips then have.

mod sampler;
mod triangulation;

use std::path::{Path, PathBuf};

use formats::keypoints::{DetectorClip, PersonChoice, read_openpose};
use formats::{Tensor, Value, npz};
use pose::camera::{Extrinsics, Intrinsics};
use pose::{JOINTS, Keypoint, KeypointClip, Keypoints17, Pose3};
use serde::Serialize;
use serde_json::Value as Json;

use crate::Error;
use crate::camera::View;
use crate::checks::{self, Field};
use crate::evaluation::{EvaluationClip, EvaluationSet};
use crate::mocap::MocapSet;

pub use formats::calibration::{CalibratedCamera, Calibration};
pub use sampler::{RecordedOptions, RecordedSampler};
pub use triangulation::{Point, Sight, TriangulationOptions, Triangulator};

/// Farthest joint from the origin, mm.
const FARTHEST_MM: f32 = 1e6;
/// Keypoints and projected joints may be so far apart in the median, as a share of the person's size in the picture.
const LARGEST_MISFIT: f32 = 0.2;
/// A joint that no two cameras agree on for longer than this splits the take, s.
const LONGEST_GAP_S: f64 = 0.25;
/// Shorter pieces of a take are left out, frames.
const SHORTEST_PIECE: usize = 10;
/// Cameras of a take may differ by so many frames at the end.
const UNEVEN_FRAMES: usize = 5;
/// Pictures may be so much larger or smaller than those that the camera was calibrated with: codecs cut or pad to whole blocks (1088 px of
/// 1080), which moves no pixel.
const LARGEST_SIZE_DIFFERENCE: f64 = 0.01;
/// Deepest folder below the set's own in which takes are looked for.
const DEEPEST: usize = 3;

/// What one camera saw of (a piece of) a take.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnClip {
    /// The take, such as `dance/solo_1`: what all cameras saw at once belongs together.
    pub take: String,
    /// Who moves; the take's name where nobody says it.
    pub subject: String,
    /// Name of the camera; empty for a file of one.
    pub camera: String,
    /// What a detector saw. Missing keypoints are not filled in.
    pub keypoints: KeypointClip,
    /// The truth.
    pub view: View,
    /// Whether the view's place in the world is known; otherwise the camera is the world's origin.
    pub has_world: bool,
}

/// How well the cameras of a take agree.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Triangulation {
    /// The take.
    pub take: String,
    /// Cameras, in the order of `rejected_percent`.
    pub cameras: Vec<String>,
    /// Frames of the take, and those that are in a clip.
    pub frames: [usize; 2],
    /// Mean distance of the keypoints that were used from the projected joints, px.
    pub reprojection_error_px: f64,
    /// Joints that no two cameras agreed on, %, before gaps were filled.
    pub missing_percent: f64,
    /// Of each camera, the share of its usable keypoints that contradicted the others, %.
    pub rejected_percent: Vec<f64>,
}

/// All takes of a folder, checked.
#[derive(Clone, Debug)]
pub struct OwnClips {
    path: PathBuf,
    clips: Vec<OwnClip>,
    triangulations: Vec<Triangulation>,
    remarks: Vec<String>,
}

impl OwnClips {
    /// Whether a folder, or one below it, has a calibration or a keypoint file with 3D joints; whether a file is such a one.
    pub fn is_at(path: &Path) -> bool {
        fn holds(dir: &Path, depth: usize) -> bool {
            let Ok(entries) = sorted_entries(dir) else { return false };
            find_calibration(dir).is_some()
                || entries.iter().any(|entry| has_3d(entry) || depth < DEEPEST && entry.is_dir() && holds(entry, depth + 1))
        }
        if path.is_dir() { holds(path, 0) } else { has_3d(path) }
    }

    /// Opens a folder of takes, or one file.
    ///
    /// # Errors
    /// With the names of file and field: what cannot be read, other shapes or numbers of joints or frames, values that are not finite, other
    /// units than mm, joints behind the camera, left and right swapped, joints that do not lie where the keypoints are, cameras that do not
    /// agree, no take.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_with(path, &TriangulationOptions::default())
    }

    /// The same with other limits of triangulation.
    ///
    /// # Errors
    /// As [`OwnClips::open`].
    pub fn open_with(path: &Path, options: &TriangulationOptions) -> Result<Self, Error> {
        let mut set = Self { path: path.to_owned(), clips: Vec::new(), triangulations: Vec::new(), remarks: Vec::new() };
        if path.is_dir() {
            set.add_folder(path, "", None, options, 0)?;
        } else {
            set.add_file(path, &stem(path))?;
        }
        if set.clips.is_empty() {
            return Err(Error::content(
                path,
                "holds no clip: expected keypoint files (JSON or NPZ) with camera_mm, or folders with a calibration and a keypoint file for each camera",
            ));
        }
        Ok(set)
    }

    fn add_folder(
        &mut self,
        dir: &Path,
        name: &str,
        above: Option<&Calibration>,
        options: &TriangulationOptions,
        depth: usize,
    ) -> Result<(), Error> {
        let own = find_calibration(dir).map(|path| Calibration::open(&path)).transpose()?;
        let calibration = own.as_ref().or(above);
        if let Some(calibration) = calibration {
            let sources = camera_sources(dir, calibration);
            if !sources.is_empty() {
                let take = if name.is_empty() { stem(dir) } else { name.to_owned() };
                return self.add_take(dir, &take, calibration, &sources, options);
            }
        }
        for entry in sorted_entries(dir)? {
            let below = stem(&entry);
            let take = if name.is_empty() { below.clone() } else { format!("{name}/{below}") };
            if entry.is_dir() {
                if depth < DEEPEST && !["calibration", "videos"].contains(&below.as_str()) {
                    self.add_folder(&entry, &take, calibration, options, depth + 1)?;
                }
            } else if is_keypoint_file(&entry) {
                self.add_file(&entry, &take)?;
            }
        }
        Ok(())
    }

    /// A take of one camera.
    fn add_file(&mut self, path: &Path, take: &str) -> Result<(), Error> {
        let keypoints = formats::keypoints::read(path)?;
        let extra = Extra::read(path)?;
        let frames = keypoints.frames.len();
        let field = Field { path, name: extra.name };
        field.same_frames(frames, extra.joints_mm.len())?;
        if let Some((t, j)) = first(&extra.joints_mm, |p| p.iter().any(|v| v.is_nan() || v.abs() > FARTHEST_MM)) {
            let found = extra.joints_mm[t][j];
            return Err(field.refuse(format!("has {found:?} at frame {t}, joint {j}: expected finite millimetres within a kilometre")));
        }
        checks::expect_millimetres(field, &extra.joints_mm)?;
        checks::expect_sides(field, &extra.joints_mm)?;
        let world_from_camera = extra.world_from_camera.as_ref();
        let camera_mm: Vec<Pose3> = match (world_from_camera, extra.is_world) {
            (Some(extrinsics), true) => extra.joints_mm.iter().map(|pose| extrinsics.pose_to_camera(pose)).collect(),
            (None, true) => {
                return Err(field.refuse(
                    "is in the world, but the file has no 'world_from_camera' (NPZ: rotation, translation_mm): add it, or give camera_mm",
                ));
            }
            (_, false) => extra.joints_mm,
        };
        let origin = Extrinsics { rotation: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], translation_mm: [0.0; 3] };
        let extrinsics = extra.world_from_camera.unwrap_or(origin);
        let view = see(camera_mm, &keypoints, extra.intrinsics, extrinsics).map_err(|problem| field.refuse(problem))?;
        fits(&keypoints, &view).map_err(|problem| field.refuse(problem))?;
        let known: (Vec<_>, Vec<_>) = (confident(&keypoints), view.camera_mm.clone());
        checks::expect_same_sides(Field { path, name: "keypoints" }, &known.0, &known.1, extra.name)?;
        self.clips.push(OwnClip {
            take: take.to_owned(),
            subject: extra.subject.unwrap_or_else(|| take.to_owned()),
            camera: String::new(),
            keypoints,
            view,
            has_world: world_from_camera.is_some(),
        });
        Ok(())
    }

    /// A take of several cameras.
    fn add_take(
        &mut self,
        dir: &Path,
        take: &str,
        calibration: &Calibration,
        sources: &[(usize, PathBuf)],
        options: &TriangulationOptions,
    ) -> Result<(), Error> {
        if sources.len() < 2 {
            let named: Vec<&str> = calibration.cameras.iter().map(|camera| camera.name.as_str()).collect();
            return Err(Error::content(
                dir,
                format!(
                    "has keypoints of {} alone: expected at least two of the cameras of {} ({}), NAME.json, NAME.npz or OpenPose's folder NAME_json",
                    calibration.cameras[sources[0].0].name,
                    calibration.path.display(),
                    named.join(", ")
                ),
            ));
        }
        let cameras: Vec<CalibratedCamera> = sources.iter().map(|(index, _)| calibration.cameras[*index].clone()).collect();
        let mut tracks = Vec::with_capacity(sources.len());
        for ((_, path), camera) in sources.iter().zip(&cameras) {
            tracks.push(read_track(path, camera, calibration)?);
        }
        let frames = tracks.iter().map(|track| track.frames.len()).min().unwrap_or(0);
        if let Some(longest) = tracks.iter().position(|track| track.frames.len() > frames + UNEVEN_FRAMES) {
            let shortest = tracks.iter().position(|track| track.frames.len() == frames).unwrap_or(0);
            return Err(Error::content(
                dir,
                format!(
                    "has {} frames of camera '{}' and {frames} of '{}': expected cameras that run together, cut them to the same frames",
                    tracks[longest].frames.len(),
                    cameras[longest].name,
                    cameras[shortest].name
                ),
            ));
        }
        let rates: Vec<f64> = tracks.iter().filter_map(KeypointClip::fps).collect();
        if let Some(other) = rates.iter().find(|rate| (**rate / rates[0] - 1.0).abs() > 0.01) {
            return Err(Error::content(dir, format!("has cameras of {} and {other} frames per second: expected one rate", rates[0])));
        }
        if tracks.iter().any(|track| track.frames.len() != frames) {
            self.remarks.push(format!("{take}: cameras differ by up to {UNEVEN_FRAMES} frames, the longer ones were cut to {frames}"));
        }
        for track in &mut tracks {
            track.frames.truncate(frames);
            track.times_s.truncate(frames);
        }
        let times_s = tracks[0].times_s.clone();
        let (mut world_mm, triangulation) = triangulate(take, &cameras, &tracks, options);
        let field = Field { path: dir, name: "triangulated joints" };
        let pieces = fill_and_split(&mut world_mm, &times_s);
        if pieces.is_empty() {
            return Err(field.refuse(format!(
                "are no clip: in {:.0} % no two cameras agree within {} px; are the cameras synchronous, and is {} theirs?",
                triangulation.missing_percent,
                options.largest_error_px,
                calibration.path.display()
            )));
        }
        let mut kept = 0;
        for piece in pieces {
            let poses: Vec<Pose3> = world_mm[piece.clone()].iter().map(|pose| pose.map(Option::unwrap_or_default)).collect();
            checks::expect_millimetres(field, &poses)?;
            checks::expect_sides(field, &poses)?;
            kept += poses.len();
            for (camera, track) in cameras.iter().zip(&tracks) {
                let camera_mm: Vec<Pose3> = poses.iter().map(|pose| camera.extrinsics.pose_to_camera(pose)).collect();
                let keypoints = KeypointClip {
                    frames: track.frames[piece.clone()].to_vec(),
                    times_s: times_s[piece.clone()].to_vec(),
                    image: track.image,
                };
                if keypoints.frames.iter().flatten().all(Keypoint::is_missing) {
                    continue;
                }
                let view = see(camera_mm, &keypoints, camera.intrinsics, camera.extrinsics)
                    .map_err(|problem| field.refuse(format!("of camera '{}' {problem}", camera.name)))?;
                self.clips.push(OwnClip {
                    take: take.to_owned(),
                    subject: take.to_owned(),
                    camera: camera.name.clone(),
                    keypoints,
                    view,
                    has_world: true,
                });
            }
        }
        self.triangulations.push(Triangulation { frames: [frames, kept], ..triangulation });
        Ok(())
    }

    /// Where it came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The clips, those of a take side by side.
    pub fn clips(&self) -> &[OwnClip] {
        &self.clips
    }

    /// How well the cameras of each take of several agree.
    pub fn triangulations(&self) -> &[Triangulation] {
        &self.triangulations
    }

    /// What is odd without being wrong.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// Each take once, with its frames, in order.
    pub fn takes(&self) -> Vec<(&str, usize)> {
        let mut takes: Vec<(&str, usize)> = Vec::new();
        for clip in &self.clips {
            let frames = clip.keypoints.frames.len();
            match takes.iter_mut().find(|(take, _)| *take == clip.take) {
                Some((_, sum)) => *sum += frames,
                None => takes.push((&clip.take, frames)),
            }
        }
        takes
    }

    /// Some of the takes.
    ///
    /// # Errors
    /// None is chosen.
    pub fn of_takes(&self, chosen: impl Fn(&OwnClip) -> bool) -> Result<Self, Error> {
        let clips: Vec<OwnClip> = self.clips.iter().filter(|clip| chosen(clip)).cloned().collect();
        if clips.is_empty() {
            return Err(Error::content(&self.path, "has none of the takes that are asked for"));
        }
        Ok(Self { clips, ..self.clone() })
    }

    /// The first `1 - share` of the frames of every clip, and the rest: for a set of one take, of which a part is to be held out.
    ///
    /// # Errors
    /// Clips so short that nothing is left of them.
    pub fn split_in_time(&self, share: f64) -> Result<[Self; 2], Error> {
        let part = |second: bool| {
            let cut = |clip: &OwnClip| {
                let frames = clip.keypoints.frames.len();
                let at = ((1.0 - share) * frames as f64).round() as usize;
                clip.piece(if second { at..frames } else { 0..at })
            };
            let clips: Vec<OwnClip> = self.clips.iter().filter_map(cut).collect();
            if clips.is_empty() {
                return Err(Error::content(&self.path, "is too short to hold a part of it out: expected at least 20 frames"));
            }
            Ok(Self { clips, ..self.clone() })
        };
        Ok([part(false)?, part(true)?])
    }

    /// The clips to be measured on, every frame.
    pub fn evaluation_set(&self) -> EvaluationSet {
        let of = |clip: &OwnClip| EvaluationClip {
            name: if clip.camera.is_empty() { clip.take.clone() } else { format!("{} {}", clip.take, clip.camera) },
            subject: clip.subject.clone(),
            camera: None,
            noisy: true,
            keypoints: clip.keypoints.clone(),
            view: clip.view.clone(),
        };
        EvaluationSet { clips: self.clips.iter().map(of).collect() }
    }

    /// The motion in the world, each take once, to be seen by random cameras. `fps` brings all takes to one rate, that of the first when
    /// absent.
    ///
    /// # Errors
    /// A clip whose place in the world is not known; a world whose z is not up.
    pub fn mocap(&self, fps: Option<f64>) -> Result<MocapSet, Error> {
        let unknown = self.clips.iter().find(|clip| !clip.has_world);
        if let Some(clip) = unknown {
            let problem = format!(
                "take '{}' has joints in camera space alone: motion in the world needs world_from_camera or a calibration",
                clip.take
            );
            return Err(Error::content(&self.path, problem));
        }
        let fps = fps.or_else(|| self.clips.iter().find_map(|clip| clip.keypoints.fps())).unwrap_or(50.0);
        let first_camera = |clip: &&OwnClip| self.clips.iter().find(|c| c.take == clip.take).is_some_and(|c| c.camera == clip.camera);
        let mut clips = Vec::new();
        for clip in self.clips.iter().filter(first_camera) {
            let world_mm: Vec<Pose3> = clip.view.camera_mm.iter().map(|pose| clip.view.extrinsics.pose_to_world(pose)).collect();
            let times_s = pose::resample::uniform_times(&clip.keypoints.times_s, fps)?;
            let world_mm = pose::resample::poses(&world_mm, &clip.keypoints.times_s, &times_s)?;
            let pieces =
                clips.iter().filter(|(name, _, _): &&(String, String, Vec<Pose3>)| name.split('@').next() == Some(&clip.take)).count();
            let name = if pieces == 0 { clip.take.clone() } else { format!("{}@{pieces}", clip.take) };
            clips.push((name, clip.subject.clone(), world_mm));
        }
        MocapSet::from_clips(&self.path.to_string_lossy(), fps, clips)
    }
}

impl OwnClip {
    /// Whether one of the patterns names the take, the subject or the camera; `*` stands for any characters.
    pub fn is_named(&self, patterns: &[String]) -> bool {
        patterns.iter().any(|pattern| [&self.take, &self.subject].iter().any(|name| crate::matches(pattern, name)))
    }

    /// Some of its frames; `None` where they are too few.
    fn piece(&self, frames: std::ops::Range<usize>) -> Option<Self> {
        if frames.len() < SHORTEST_PIECE {
            return None;
        }
        let keypoints = KeypointClip {
            frames: self.keypoints.frames[frames.clone()].to_vec(),
            times_s: self.keypoints.times_s[frames.clone()].to_vec(),
            image: self.keypoints.image,
        };
        let view = View {
            joints_px: self.view.joints_px[frames.clone()].to_vec(),
            camera_mm: self.view.camera_mm[frames].to_vec(),
            ..self.view.clone()
        };
        let seen = keypoints.frames.iter().flatten().any(|k| !k.is_missing());
        seen.then(|| Self { keypoints, view, ..self.clone() })
    }
}

/// The first frame and joint for which something holds.
fn first(poses: &[Pose3], holds: impl Fn(&[f32; 3]) -> bool) -> Option<(usize, usize)> {
    poses.iter().enumerate().find_map(|(t, pose)| pose.iter().position(&holds).map(|j| (t, j)))
}

/// The true pixels of camera-space joints.
fn see(camera_mm: Vec<Pose3>, keypoints: &KeypointClip, intrinsics: Intrinsics, extrinsics: Extrinsics) -> Result<View, String> {
    if let Some((t, j)) = first(&camera_mm, |p| p[2] <= 1.0) {
        let depth_mm = camera_mm[t][j][2];
        return Err(format!(
            "has joint {j} of frame {t} at a depth of {depth_mm:.0} mm: expected joints in front of the camera (x right, y down, z away)"
        ));
    }
    let project = |p: [f32; 3]| intrinsics.project(p).unwrap_or_default(); // in front of the camera: there is one
    let joints_px = camera_mm.iter().map(|pose| pose.map(project)).collect();
    Ok(View { image: keypoints.image, intrinsics, extrinsics, joints_px, camera_mm })
}

/// Keypoints' pixels; a missing one is at the truth of none and counts for nothing in comparisons of widths.
fn confident(keypoints: &KeypointClip) -> Vec<pose::Pose2> {
    let pixels = |frame: &Keypoints17| -> pose::Pose2 {
        let seen = |j: usize| !frame[j].is_missing();
        let twin = pose::skeleton::flip_index();
        // across a pair of which one is missing there is no width
        std::array::from_fn(|j| if seen(j) && seen(twin[j]) { [frame[j].x_px, frame[j].y_px] } else { [0.0; 2] })
    };
    keypoints.frames.iter().map(pixels).collect()
}

/// Refuses joints that do not lie where the keypoints are: another camera, other frames.
fn fits(keypoints: &KeypointClip, view: &View) -> Result<(), String> {
    let mut shares = Vec::new();
    let mut distances_px = Vec::new();
    for (frame, pose) in keypoints.frames.iter().zip(&view.joints_px) {
        let extent = |c: usize| pose.iter().fold((f32::MAX, f32::MIN), |(lo, hi), p| (lo.min(p[c]), hi.max(p[c])));
        let size_px = [extent(0), extent(1)].map(|(lo, hi)| hi - lo).into_iter().fold(1.0, f32::max);
        for (k, p) in frame.iter().zip(pose).filter(|(k, _)| k.confidence > 0.3) {
            let distance_px = (k.x_px - p[0]).hypot(k.y_px - p[1]);
            shares.push(distance_px / size_px);
            distances_px.push(distance_px);
        }
    }
    let (Some(share), Some(distance_px)) = (median(&mut shares), median(&mut distances_px)) else {
        return Err("has no confident keypoint beside it".into());
    };
    if share > LARGEST_MISFIT {
        return Err(format!(
            "lies {distance_px:.0} px from the keypoints in the median, {:.0} % of the person's size: expected the same frames, seen by the camera of 'intrinsics'",
            100.0 * share
        ));
    }
    Ok(())
}

fn median(values: &mut [f32]) -> Option<f32> {
    let middle = values.len() / 2;
    (!values.is_empty()).then(|| *values.select_nth_unstable_by(middle, f32::total_cmp).1)
}

// --- several cameras ---

/// World joints of each frame; `None` where no two cameras agree.
type Triangulated = Vec<[Option<[f32; 3]>; JOINTS]>;

fn triangulate(
    take: &str,
    cameras: &[CalibratedCamera],
    tracks: &[KeypointClip],
    options: &TriangulationOptions,
) -> (Triangulated, Triangulation) {
    let triangulator = Triangulator::new(cameras, *options);
    let frames = tracks.first().map_or(0, |track| track.frames.len());
    let (mut errors_px, mut points, mut usable, mut rejected) = (0.0, 0_usize, vec![0_usize; cameras.len()], vec![0_usize; cameras.len()]);
    let world_mm = (0..frames)
        .map(|t| {
            std::array::from_fn(|j| {
                let sight = |(camera, track): (usize, &KeypointClip)| {
                    let k = track.frames[t][j];
                    (k.confidence >= options.least_confidence).then_some(Sight {
                        camera,
                        pixel: [k.x_px, k.y_px],
                        confidence: k.confidence,
                    })
                };
                let sights: Vec<Sight> = tracks.iter().enumerate().filter_map(sight).collect();
                let point = triangulator.point(&sights)?;
                points += 1;
                errors_px += point.error_px;
                sights.iter().for_each(|sight| usable[sight.camera] += 1);
                point.rejected.iter().for_each(|&camera| rejected[camera] += 1);
                Some(point.position_mm.map(|v| v as f32))
            })
        })
        .collect();
    let percent = |part: usize, all: usize| if all == 0 { 0.0 } else { 100.0 * part as f64 / all as f64 };
    let triangulation = Triangulation {
        take: take.to_owned(),
        cameras: cameras.iter().map(|camera| camera.name.clone()).collect(),
        frames: [frames, 0],
        reprojection_error_px: errors_px / points.max(1) as f64,
        missing_percent: percent(frames * JOINTS - points, frames * JOINTS),
        rejected_percent: rejected.into_iter().zip(usable).map(|(part, all)| percent(part, all)).collect(),
    };
    (world_mm, triangulation)
}

/// Fills short gaps of each joint in a straight line; the pieces between longer ones.
fn fill_and_split(world_mm: &mut Triangulated, times_s: &[f64]) -> Vec<std::ops::Range<usize>> {
    for j in 0..JOINTS {
        let mut before: Option<usize> = None;
        for t in 0..world_mm.len() {
            let Some(here) = world_mm[t][j] else { continue };
            if let Some(from) = before.filter(|&from| t > from + 1 && times_s[t] - times_s[from] <= LONGEST_GAP_S)
                && let Some(there) = world_mm[from][j]
            {
                for (k, frame) in world_mm.iter_mut().enumerate().take(t).skip(from + 1) {
                    let share = ((times_s[k] - times_s[from]) / (times_s[t] - times_s[from])) as f32;
                    frame[j] = Some(std::array::from_fn(|c| there[c] + share * (here[c] - there[c])));
                }
            }
            before = Some(t);
        }
    }
    let mut pieces = Vec::new();
    let mut start = 0;
    for t in 0..=world_mm.len() {
        let whole = world_mm.get(t).is_some_and(|frame| frame.iter().all(Option::is_some));
        if !whole {
            if t - start >= SHORTEST_PIECE {
                pieces.push(start..t);
            }
            start = t + 1;
        }
    }
    pieces
}

/// The keypoints of one camera, undistorted.
fn read_track(path: &Path, camera: &CalibratedCamera, calibration: &Calibration) -> Result<KeypointClip, Error> {
    let mut track = if path.is_dir() {
        let Some(fps) = calibration.fps else {
            return Err(Error::content(
                &calibration.path,
                format!("has no 'metadata.fps', which OpenPose's folder {} does not say either: add it", path.display()),
            ));
        };
        read_openpose(path, &DetectorClip { fps, image: camera.image, person: PersonChoice::default() })?
    } else {
        formats::keypoints::read(path)?
    };
    let (found, expected) = (track.image, camera.image);
    let differ = |found: u32, expected: u32| (f64::from(found) / f64::from(expected) - 1.0).abs() > LARGEST_SIZE_DIFFERENCE;
    if differ(found.width_px, expected.width_px) || differ(found.height_px, expected.height_px) {
        return Err(Error::content(
            path,
            format!(
                "is of pictures of {} x {} px, and camera '{}' was calibrated for {} x {}: expected the same",
                found.width_px, found.height_px, camera.name, expected.width_px, expected.height_px
            ),
        ));
    }
    for k in track.frames.iter_mut().flatten().filter(|k| !k.is_missing()) {
        let [x_px, y_px] = camera.undistorted([k.x_px, k.y_px]);
        *k = Keypoint::new(x_px, y_px, k.confidence);
    }
    Ok(track)
}

/// The calibration in a folder, or in its folder `calibration`: `calibration.toml`, or what Pose2Sim calls `Calib*.toml`.
fn find_calibration(dir: &Path) -> Option<PathBuf> {
    let within = |dir: &Path| {
        sorted_entries(dir).ok()?.into_iter().find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
            name.starts_with("calib") && name.ends_with(".toml") && path.is_file()
        })
    };
    within(dir).or_else(|| within(&dir.join("calibration")))
}

/// For each camera that has one, its index and its keypoints: a file or OpenPose's folder.
fn camera_sources(dir: &Path, calibration: &Calibration) -> Vec<(usize, PathBuf)> {
    let of = |name: &str| {
        [dir.to_owned(), dir.join("pose")].iter().find_map(|dir| {
            let file = ["json", "npz"].iter().map(|extension| dir.join(format!("{name}.{extension}"))).find(|path| path.is_file());
            let folder = || [format!("{name}_json"), name.to_owned()].iter().map(|name| dir.join(name)).find(|path| path.is_dir());
            file.or_else(folder)
        })
    };
    calibration.cameras.iter().enumerate().filter_map(|(index, camera)| Some((index, of(&camera.name)?))).collect()
}

fn sorted_entries(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let refuse = |e: std::io::Error| Error::content(dir, format!("the folder cannot be read: {e}"));
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(refuse)? {
        entries.push(entry.map_err(refuse)?.path());
    }
    entries.sort();
    Ok(entries)
}

fn stem(path: &Path) -> String {
    let absolute = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    absolute.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn is_keypoint_file(path: &Path) -> bool {
    path.is_file() && path.extension().is_some_and(|extension| extension == "json" || extension == "npz")
}

/// Whether a keypoint file has 3D joints too, by the names of its fields alone.
fn has_3d(path: &Path) -> bool {
    if !is_keypoint_file(path) {
        return false;
    }
    if path.extension().is_some_and(|extension| extension == "npz") {
        return npz::names(path)
            .is_ok_and(|names| names.iter().any(|name| name == "keypoints") && names.iter().any(|name| is_3d_field(name)));
    }
    let Ok(text) = std::fs::read_to_string(path) else { return false };
    text.contains(formats::keypoints::FORMAT) && (text.contains("\"camera_mm\"") || text.contains("\"world_mm\""))
}

fn is_3d_field(name: &str) -> bool {
    name == "camera_mm" || name == "world_mm"
}

// --- the fields beside the keypoints ---

/// What a file of one camera says beside its keypoints.
struct Extra {
    /// `camera_mm` or `world_mm`.
    name: &'static str,
    joints_mm: Vec<Pose3>,
    is_world: bool,
    intrinsics: Intrinsics,
    world_from_camera: Option<Extrinsics>,
    subject: Option<String>,
}

impl Extra {
    fn read(path: &Path) -> Result<Self, Error> {
        let is_npz = path.extension().is_some_and(|extension| extension == "npz");
        if is_npz { Self::from_arrays(path) } else { Self::from_json(path) }
    }

    fn from_arrays(path: &Path) -> Result<Self, Error> {
        let arrays = npz::read_values(path)?;
        let name = Self::which(path, |name| arrays.contains_key(name))?;
        let field = |name: &'static str| Field { path, name };
        let numbers = |name: &'static str, alias: &str, shape: &[usize]| -> Result<Option<Vec<f64>>, Error> {
            match arrays.get(name).or_else(|| arrays.get(alias)) {
                None => Ok(None),
                Some(Value::Tensor(tensor)) if tensor.shape == shape => Ok(Some(tensor.to_f64())),
                Some(other) => Err(field(name).refuse(format!("is {}: expected numbers of shape {shape:?}", other.describe()))),
            }
        };
        let tensor: Tensor = field(name).tensor(arrays.get(name).cloned())?;
        field(name).frames(&tensor, 3)?;
        let joints_mm = pose::poses_from_values(&tensor.to_f32())?;
        let pair = |name: &'static str, alias: &str| -> Result<[f64; 2], Error> {
            match numbers(name, alias, &[2])?.as_deref() {
                Some(&[x, y]) => Ok([x, y]),
                _ => Err(field(name).refuse("is missing: expected the camera's focal_px and centre_px, two numbers each")),
            }
        };
        let intrinsics = lens(pair("focal_px", "focal_px")?, pair("centre_px", "principal_px")?, field("focal_px"))?;
        let world_from_camera = match (numbers("rotation", "", &[3, 3])?, numbers("translation_mm", "", &[3])?) {
            (Some(rotation), Some(translation)) => {
                let rows = std::array::from_fn(|r| std::array::from_fn(|c| rotation[3 * r + c]));
                Some(place(rows, [translation[0], translation[1], translation[2]], field("rotation"))?)
            }
            (None, None) => None,
            (Some(_), None) => return Err(field("translation_mm").refuse("is missing beside 'rotation': expected both or none")),
            (None, Some(_)) => return Err(field("rotation").refuse("is missing beside 'translation_mm': expected both or none")),
        };
        let subject = arrays.get("subject").and_then(Value::as_str).map(str::to_owned);
        Ok(Self { name, joints_mm, is_world: name == "world_mm", intrinsics, world_from_camera, subject })
    }

    fn from_json(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read(path).map_err(|e| Error::content(path, format!("cannot be read: {e}")))?;
        let json: Json = serde_json::from_slice(&text).map_err(|e| Error::content(path, format!("is no valid JSON ({e})")))?;
        drop(text);
        let name = Self::which(path, |name| !json[name].is_null())?;
        let field = |name: &'static str| Field { path, name };
        let joints_mm = json_poses(&json[name]).map_err(|problem| field(name).refuse(problem))?;
        let numbers = |value: &Json, count: usize| -> Option<Vec<f64>> {
            let items: Vec<f64> = value.as_array()?.iter().map(Json::as_f64).collect::<Option<_>>()?;
            (items.len() == count).then_some(items)
        };
        let of_lens = &json["intrinsics"];
        let pair = |name: &str| numbers(&of_lens[name], 2).map(|v| [v[0], v[1]]);
        let (Some(focal_px), Some(centre_px)) = (pair("focal_px"), pair("centre_px").or_else(|| pair("principal_px"))) else {
            return Err(field("intrinsics").refuse("is missing or incomplete: expected {\"focal_px\": [fx, fy], \"centre_px\": [cx, cy]}"));
        };
        let intrinsics = lens(focal_px, centre_px, field("intrinsics"))?;
        let placed = &json["world_from_camera"];
        let world_from_camera = if placed.is_null() {
            None
        } else {
            let rows: Option<Vec<Vec<f64>>> =
                placed["rotation"].as_array().and_then(|rows| rows.iter().map(|row| numbers(row, 3)).collect());
            match (rows.filter(|rows| rows.len() == 3), numbers(&placed["translation_mm"], 3)) {
                (Some(rows), Some(t)) => {
                    let rows = std::array::from_fn(|r| std::array::from_fn(|c| rows[r][c]));
                    Some(place(rows, [t[0], t[1], t[2]], field("world_from_camera"))?)
                }
                _ => {
                    let problem = "is incomplete: expected {\"rotation\": three rows of three, \"translation_mm\": three numbers}";
                    return Err(field("world_from_camera").refuse(problem));
                }
            }
        };
        let subject = json["subject"].as_str().map(str::to_owned);
        Ok(Self { name, joints_mm, is_world: name == "world_mm", intrinsics, world_from_camera, subject })
    }

    fn which(path: &Path, has: impl Fn(&str) -> bool) -> Result<&'static str, Error> {
        // camera space needs nothing else, so it goes first
        ["camera_mm", "world_mm"].into_iter().find(|name| has(name)).ok_or_else(|| {
            Field { path, name: "camera_mm" }
                .refuse("is missing, and so is 'world_mm': expected the 3D joints (frames, 17, 3) in mm beside the keypoints")
        })
    }
}

fn lens(focal_px: [f64; 2], centre_px: [f64; 2], field: Field<'_>) -> Result<Intrinsics, Error> {
    let intrinsics = Intrinsics { focal_px: focal_px.map(|v| v as f32), centre_px: centre_px.map(|v| v as f32) };
    intrinsics.validate().map_err(|e| field.refuse(format!("cannot be used: {e}")))?;
    Ok(intrinsics)
}

fn place(rows: [[f64; 3]; 3], translation_mm: [f64; 3], field: Field<'_>) -> Result<Extrinsics, Error> {
    let rotation = nalgebra::Matrix3::from_fn(|r, c| rows[r][c]);
    let is_rotation = (rotation * rotation.transpose() - nalgebra::Matrix3::identity()).amax() < 1e-3 && rotation.determinant() > 0.0;
    if !is_rotation || !translation_mm.iter().all(|v| v.abs() <= f64::from(FARTHEST_MM)) {
        return Err(field.refuse(format!("is {rows:?} and {translation_mm:?}: expected a rotation and millimetres")));
    }
    Ok(Extrinsics { rotation: rows.map(|row| row.map(|v| v as f32)), translation_mm: translation_mm.map(|v| v as f32) })
}

fn json_poses(json: &Json) -> Result<Vec<Pose3>, String> {
    let Json::Array(frames) = json else { return Err("is no list: expected one list of 17 joints for each frame".into()) };
    let pose = |(t, frame): (usize, &Json)| -> Result<Pose3, String> {
        let joints = frame.as_array().map(Vec::as_slice).unwrap_or_default();
        if joints.len() != JOINTS {
            return Err(format!("has {} joints in frame {t}: expected the {JOINTS} of Human3.6M", joints.len()));
        }
        let mut pose = [[0.0; 3]; JOINTS];
        for (j, (joint, into)) in joints.iter().zip(&mut pose).enumerate() {
            let values: Option<Vec<f32>> = joint.as_array().and_then(|v| v.iter().map(|v| v.as_f64().map(|v| v as f32)).collect());
            *into = values
                .and_then(|values| <[f32; 3]>::try_from(values).ok())
                .ok_or_else(|| format!("has {joint} at frame {t}, joint {j}: expected three numbers, mm"))?;
        }
        Ok(pose)
    };
    frames.iter().enumerate().map(pose).collect()
}
