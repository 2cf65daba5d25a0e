//! From the network's answers to poses in millimetres that go on from each other.

use pose::{
    ImageSize, JOINTS, Keypoint, Pose3,
    camera::Extrinsics,
    filter::{BoneProjection, PoseFilter},
    live::{CausalPlacer, WorldFollower},
    normalise::ImageTransform,
    world,
};

use super::core::{Frame, StreamOptions, StreamPose};
use crate::{Error, lifter::POSE_VALUES};

/// The model's answer (frames, 17, 3) has its size and is no nonsense.
pub(super) fn check_answer(frames: usize, output: &[f32]) -> Result<(), Error> {
    let expected = frames * POSE_VALUES;
    if output.len() != expected {
        return Err(Error::Stream(format!("expected {expected} numbers from the model, found {}", output.len())));
    }
    // as pose::world checks poses: what is no number, or absurd, is not placed anywhere
    match output.iter().position(|value| value.is_nan() || value.abs() > pose::MAX_COORDINATE_PX) {
        None => Ok(()),
        Some(at) => Err(Error::Stream(format!(
            "the model answered {} for frame {} of its window, joint {}: expected finite numbers",
            output[at],
            at / POSE_VALUES,
            at / 3 % JOINTS
        ))),
    }
}

/// From windows to poses that go on from each other.
#[derive(Clone, Debug)]
pub(super) struct Output {
    /// The person of the last pose.
    person: Option<u64>,
    /// Time of the last pose and its 2.5D in pixels, (17, 3).
    last: Option<(f64, [f32; POSE_VALUES])>,
    last_root_px: [f32; 2],
    blend_s: f64,
    placer: CausalPlacer,
    world: WorldFollower,
    world_from_camera: Option<Extrinsics>,
    one_euro: Option<PoseFilter>,
    bones: Option<BoneProjection>,
}

impl Output {
    /// `blended`: whether what one answer says may be at odds with the next.
    pub fn new(image: ImageSize, options: &StreamOptions, blended: bool) -> Result<Self, pose::Error> {
        Ok(Self {
            person: None,
            last: None,
            last_root_px: [image.width_px as f32 / 2.0, image.height_px as f32 / 2.0],
            blend_s: if blended { options.blend_s } else { 0.0 },
            placer: CausalPlacer::new(image, options.intrinsics, options.scale.clone())?,
            world: WorldFollower::default(),
            world_from_camera: options.world_from_camera,
            one_euro: options.one_euro.map(PoseFilter::new).transpose()?,
            bones: if options.constant_bones { Some(BoneProjection::new(&[0.0; JOINTS - 1])?) } else { None },
        })
    }

    /// The poses of `frames`, which `said` covers, in the units of `transform`. Where earlier answers said other things of the same time
    /// and `blend` is asked for, they pass into each other.
    pub fn lift(
        &mut self,
        frames: &[Frame],
        said: &Said,
        transform: impl Fn(f64) -> ImageTransform,
        newest_s: f64,
        poses: &mut Vec<StreamPose>,
    ) -> Result<(), Error> {
        // how far the last pose, which earlier windows made, is from what this one says of the same time
        let mut offset_px: Option<[f32; POSE_VALUES]> = None;
        for frame in frames {
            let restarted = self.person != Some(frame.person);
            if restarted {
                self.start_person(frame.person);
            }
            let mut pose_px = said.at(frame.time_s);
            if let Some((last_s, last_px)) = self.last
                && self.blend_s > 0.0
                && last_s >= said.times_s[0]
            {
                let offset_px = offset_px.get_or_insert_with(|| {
                    let said_px = said.at(last_s);
                    std::array::from_fn(|i| last_px[i] - said_px[i])
                });
                let left = (-(frame.time_s - last_s) / self.blend_s).exp() as f32;
                for (value, offset) in pose_px.iter_mut().zip(offset_px) {
                    *offset *= left;
                    *value += *offset;
                }
            }
            self.last = Some((frame.time_s, pose_px));
            poses.push(self.place(frame, &pose_px, &transform(frame.time_s), newest_s, restarted)?);
        }
        Ok(())
    }

    fn start_person(&mut self, person: u64) {
        self.person = Some(person);
        self.last = None;
        self.placer.reset();
        if let Some(filter) = &mut self.one_euro {
            filter.reset();
        }
    }

    /// From 2.5D in pixels to millimetres.
    fn place(
        &mut self,
        frame: &Frame,
        pose_px: &[f32; POSE_VALUES],
        transform: &ImageTransform,
        newest_s: f64,
        restarted: bool,
    ) -> Result<StreamPose, Error> {
        let half_size_px = transform.half_size_px;
        let pose25: Pose3 = std::array::from_fn(|j| std::array::from_fn(|k| pose_px[3 * j + k] / half_size_px));
        // someone who is not seen is where they were held
        let keypoints = if frame.held { frame.keypoints.map(|k| Keypoint { confidence: 1.0, ..k }) } else { frame.keypoints };
        let root_px = world::root_of_frame_px(&pose25, transform, &keypoints).unwrap_or(self.last_root_px);
        self.last_root_px = root_px;
        let placed = self.placer.push(frame.time_s, &pose25, transform, root_px).map_err(stream_error)?;

        let mut camera_mm = placed.camera_mm;
        if let Some(filter) = &mut self.one_euro {
            camera_mm = filter.push(frame.time_s, &camera_mm);
        }
        if let Some(bones) = &mut self.bones {
            bones.set_lengths(&placed.bone_lengths_mm).map_err(stream_error)?;
            camera_mm = bones.push(&camera_mm);
        }
        let world_from_camera = match self.world_from_camera {
            Some(given) => given,
            None => self.world.push(frame.time_s, &camera_mm, placed.height_m),
        };
        Ok(StreamPose {
            time_s: frame.time_s,
            delay_s: newest_s - frame.time_s,
            held: frame.held,
            restarted,
            confidence: frame.keypoints.map(|keypoint| keypoint.confidence),
            pose25,
            transform: *transform,
            root_px,
            camera_mm,
            root_depth_mm: placed.root_depth_mm,
            world_mm: world_from_camera.pose_to_world(&camera_mm),
            world_from_camera,
            scale_source: self.placer.scale_source(),
            height_m: placed.height_m,
        })
    }
}

/// What the model says of a stretch of time, at any time within it.
pub(super) struct Said {
    /// Rising, at least one.
    pub times_s: Vec<f64>,
    /// For each of them `stride` numbers, the first of them 2.5D in pixels, (17, 3).
    pub values_px: Vec<f32>,
}

impl Said {
    /// 2.5D in pixels: that of the frame, or of its two neighbours, mixed; ends are held.
    fn at(&self, time_s: f64) -> [f32; POSE_VALUES] {
        let stride = self.values_px.len() / self.times_s.len();
        let frame = |i: usize| &self.values_px[i * stride..][..POSE_VALUES];
        let after = self.times_s.partition_point(|&t| t <= time_s);
        let before = after.saturating_sub(1);
        if after == self.times_s.len() || after == 0 || self.times_s[before] == time_s {
            return std::array::from_fn(|k| frame(before)[k]);
        }
        let share = ((time_s - self.times_s[before]) / (self.times_s[after] - self.times_s[before])) as f32;
        std::array::from_fn(|k| frame(before)[k] + share * (frame(after)[k] - frame(before)[k]))
    }
}

pub(super) fn stream_error(error: pose::Error) -> Error {
    Error::Stream(error.to_string())
}
