//! One stream of poses for each person, and one world for all of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use pose::camera::{Extrinsics, Intrinsics, Lens};
use pose::filter::OneEuro;
use pose::floor::CameraPlace;
use pose::world::Scale;
use pose::{ImageSize, Keypoint, Keypoints17, Pose3};
use runtime::{Lifter, StreamCore, StreamOptions, StreamPose, run_due};

use super::Error;
use super::ground::Ground;
use super::update::LivePerson;
use crate::track::Tracked;

/// A person who has been gone for so long is forgotten; if they come back, their stream begins anew under the same id.
const FORGET_S: f64 = 10.0;

/// How people are lifted.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Statures in the order of ids; one alone is everybody's.
    pub heights_m: Vec<f32>,
    /// The camera's lens.
    pub lens: Lens,
    /// Where it stands, as far as that is known.
    pub place: CameraPlace,
    /// The smoothing filter.
    pub one_euro: Option<OneEuro>,
    /// Bones keep their length.
    pub constant_bones: bool,
}

impl Options {
    fn of(&self, id: u64) -> StreamOptions {
        let height = match &self.heights_m[..] {
            [everybody] => Some(*everybody),
            heights => usize::try_from(id).ok().and_then(|id| heights.get(id.checked_sub(1)?)).copied(),
        };
        let scale = height.map_or(Scale::DefaultHeight, |height_m| Scale::Height { height_m });
        StreamOptions {
            scale,
            intrinsics: Some(self.lens.intrinsics),
            one_euro: self.one_euro,
            constant_bones: self.constant_bones,
            ..StreamOptions::default()
        }
    }
}

/// Everyone who is or was in sight.
pub struct People {
    lifter: Arc<Lifter>,
    options: Options,
    image: ImageSize,
    streams: BTreeMap<u64, Stream>,
    ground: Ground,
}

struct Stream {
    core: StreamCore,
    track: u64,
    keypoints: Keypoints17,
    last_seen_s: f64,
    last_pose: Option<(f64, Pose3)>,
    /// Mean lag of the filter over the joints at the speed of the last pose.
    lag_s: f64,
}

impl People {
    /// Nobody yet.
    ///
    /// # Errors
    /// Settings that a stream does not take.
    pub fn new(lifter: Arc<Lifter>, image: ImageSize, options: Options) -> Result<Self, Error> {
        // What is wrong with the settings is found before anybody comes.
        for id in 1..=options.heights_m.len().max(1) as u64 {
            lifter.stream_core(image, options.of(id))?;
        }
        let ground = Ground::new(options.place);
        Ok(Self { lifter, options, image, streams: BTreeMap::new(), ground })
    }

    /// Takes the people of a frame; gives the ids of those of whom a pose of this frame will come.
    ///
    /// # Errors
    /// A frame that a stream refuses.
    pub fn push(&mut self, time_s: f64, seen: &[Tracked]) -> Result<Vec<u64>, Error> {
        for tracked in seen {
            let Some(id) = tracked.person else { continue };
            if !self.streams.contains_key(&id) {
                let core = self.lifter.stream_core(self.image, self.options.of(id))?;
                let keypoints = tracked.keypoints;
                self.streams.insert(id, Stream { core, track: tracked.track, keypoints, last_seen_s: time_s, last_pose: None, lag_s: 0.0 });
            }
        }
        let mut awaited = Vec::new();
        for (&id, stream) in &mut self.streams {
            let now = seen.iter().find(|tracked| tracked.person == Some(id));
            if let Some(tracked) = now {
                if tracked.track != stream.track {
                    // Another sight of the same person: nothing is carried over the doubt in between.
                    stream.core.finish();
                    stream.track = tracked.track;
                }
                stream.keypoints = tracked.keypoints.map(bounded);
                stream.last_seen_s = time_s;
            }
            let before = stream.core.stats().frames;
            let straight = stream.keypoints.map(|keypoint| bounded(straightened(keypoint, &self.options.lens)));
            stream.core.push(time_s, now.map(|_| &straight))?;
            if stream.core.stats().frames > before {
                awaited.push(id);
            }
        }
        self.streams.retain(|_, stream| time_s - stream.last_seen_s < FORGET_S);
        Ok(awaited)
    }

    /// No more frames come: what waits for look-ahead comes without.
    pub fn finish(&mut self) {
        self.streams.values_mut().for_each(|stream| stream.core.finish());
    }

    /// Runs the lifter on what is due and gives the poses that came of it.
    ///
    /// # Errors
    /// A failure of the engine.
    pub fn run(&mut self) -> Result<Vec<(u64, StreamPose)>, Error> {
        let ids: Vec<u64> = self.streams.keys().copied().collect();
        let (mut poses, mut failure) = (Vec::new(), None);
        let mut cores: Vec<&mut StreamCore> = self.streams.values_mut().map(|stream| &mut stream.core).collect();
        run_due(&self.lifter, &mut cores, &mut |index, answer| match answer {
            Ok(new) => poses.extend(new.into_iter().map(|pose| (ids[index], pose))),
            Err(error) => failure = Some(error),
        });
        if let Some(error) = failure {
            return Err(error.into());
        }
        for (id, pose) in &poses {
            self.notice(*id, pose);
        }
        self.ground.see(&poses);
        Ok(poses)
    }

    /// How fast somebody moves says how far the filter lags.
    fn notice(&mut self, id: u64, pose: &StreamPose) {
        let (Some(stream), one_euro) = (self.streams.get_mut(&id), self.options.one_euro) else { return };
        if let (Some((last_s, last)), Some(one_euro)) = (&stream.last_pose, one_euro) {
            let step_s = pose.time_s - last_s;
            if step_s > 0.0 && !pose.restarted {
                let speed = |(a, b): (&[f32; 3], &[f32; 3])| f64::from((0..3).map(|k| (a[k] - b[k]).powi(2)).sum::<f32>().sqrt()) / step_s;
                let lags = pose.camera_mm.iter().zip(last).map(|pair| one_euro.lag_s(speed(pair)));
                stream.lag_s = lags.sum::<f64>() / pose.camera_mm.len() as f64;
            }
        }
        stream.last_pose = Some((pose.time_s, pose.camera_mm));
    }

    /// The camera, given or assumed, without its distortion.
    pub fn intrinsics(&self) -> Intrinsics {
        self.options.lens.intrinsics
    }

    /// The camera's place as known by now.
    pub fn world_from_camera(&self) -> Extrinsics {
        self.ground.world_from_camera()
    }

    /// What the filter adds now, seconds: the mean over those who were seen at the last moment.
    pub fn lag_s(&self) -> f64 {
        let lags: Vec<f64> = self.streams.values().filter(|stream| stream.last_pose.is_some()).map(|stream| stream.lag_s).collect();
        if lags.is_empty() { 0.0 } else { lags.iter().sum::<f64>() / lags.len() as f64 }
    }

    /// A pose as it is shown, in the world of now.
    pub fn show(&self, id: u64, keypoints: &Keypoints17, pose: &StreamPose) -> LivePerson {
        LivePerson {
            id,
            keypoints_px: keypoints.map(|keypoint| [keypoint.x_px, keypoint.y_px]),
            confidence: pose.confidence,
            world_mm: self.world_from_camera().pose_to_world(&pose.camera_mm),
            held: pose.held,
            height_m: pose.height_m,
            scale_source: pose.scale_source,
        }
    }

    /// The last keypoints of somebody.
    pub fn keypoints(&self, id: u64) -> Keypoints17 {
        self.streams.get(&id).map_or([Keypoint::MISSING; pose::JOINTS], |stream| stream.keypoints)
    }
}

/// As the lens without distortion would show it.
fn straightened(keypoint: Keypoint, lens: &Lens) -> Keypoint {
    let [x_px, y_px] = lens.undistorted([keypoint.x_px, keypoint.y_px]);
    Keypoint { x_px, y_px, ..keypoint }
}

/// Detectors may place hidden joints anywhere; a stream takes what lies within a clip's rules.
fn bounded(keypoint: Keypoint) -> Keypoint {
    let bound = |value: f32| value.clamp(-pose::MAX_COORDINATE_PX, pose::MAX_COORDINATE_PX);
    Keypoint { x_px: bound(keypoint.x_px), y_px: bound(keypoint.y_px), confidence: keypoint.confidence.clamp(0.0, 1.0) }
}
