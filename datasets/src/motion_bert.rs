//! MotionBERT's preparation of Human3.6M: `h36m_sh_conf_cam_source_final.pkl`.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use formats::{Tensor, Value, pickle};
use pose::camera::{Extrinsics, Intrinsics};
use pose::normalise::ImageTransform;
use pose::{ImageSize, JOINTS, Keypoint, KeypointClip, Pose2, Pose3, world};

use crate::Error;
use crate::camera::View;
use crate::checks::{self, Field};
use crate::clip_options::{ClipOptions, H36M};
use crate::evaluation::{EvaluationClip, EvaluationSet};
use crate::sample::{Sample, SampleSource};
use crate::split::{Clip, split_clips};

/// Frames per second of Human3.6M.
pub const FPS: f64 = 50.0;
/// Focal length of Human3.6M's four cameras, px, to within 0.3 %.
pub const FOCAL_PX: f32 = 1145.0;
/// Pixels farther out than this are no pixels.
const LARGEST_PX: f32 = 1e5;
/// A person smaller than this in the median is not in pixels.
const SMALLEST_PERSON_PX: f32 = 10.0;
/// Heat maps of detectors may peak a little over 1.
const LARGEST_CONFIDENCE: f32 = 2.0;
/// Farthest joint from the camera's axis or the person's root, mm.
const LARGEST_MM: f32 = 1e6;

/// Which half of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// Subjects 1, 5, 6, 7, 8.
    Train,
    /// Subjects 9 and 11.
    Test,
}

impl Half {
    /// Its key in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }
}

/// One video: one subject, one take, one camera.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Video {
    /// Such as `s_09_act_05_subact_02_ca_01`.
    pub name: String,
    /// Such as `Walking`; the training half does not say.
    pub action: Option<String>,
    /// Serial number of the camera.
    pub camera: String,
    /// Size of its pictures.
    pub image: ImageSize,
    /// Its frames in the set.
    pub frames: Range<usize>,
}

impl Video {
    /// The name without the camera: `s_09_act_05_subact_02`.
    pub fn take(&self) -> &str {
        self.name.rsplit_once("_ca_").map_or(self.name.as_str(), |(take, _)| take)
    }

    /// Who is in it: `s_09`.
    pub fn subject(&self) -> &str {
        self.name.split_once("_act_").map_or(self.name.as_str(), |(subject, _)| subject)
    }
}

/// What only the test half knows, for each frame.
#[derive(Clone, Debug, PartialEq)]
pub struct TestTruth {
    /// Millimetres per pixel at the root's true depth: the "oracle" scale of the standard protocol.
    pub factor_mm_per_px: Vec<f64>,
    /// `joint3d_image` times the factor: x, y, z in mm, not root-relative.
    pub joints_mm: Vec<[[f64; 3]; JOINTS]>,
}

/// One half of the file, in memory as f32: 408 bytes a frame, 640 MB for the 1.56 million frames of training.
///
/// The file is mapped, and one field at a time is taken out of it, so that opening needs little more than what stays.
#[derive(Clone, Debug)]
pub struct MotionBert {
    path: PathBuf,
    half: Half,
    /// (N, 17, 2), px.
    joint_2d: Vec<f32>,
    /// (N, 17).
    confidence: Vec<f32>,
    /// (N, 17, 3), px; z relative to the root, or to wherever the file has it.
    joint3d_image: Vec<f32>,
    videos: Vec<Video>,
    truth: Option<TestTruth>,
}

impl MotionBert {
    /// Reads one half of the pickle; numpy 1 and 2, arrays or lists, confidences (N, 17), (N, 17, 1) or absent (then 1).
    ///
    /// # Errors
    /// A file that cannot be read or is no pickle, and, with the name of the field, one with a field missing or of another shape, other
    /// than 17 joints, values that are not finite, pixels that are normalised, metres where mm are expected, a factor that does not fit,
    /// an unknown camera, videos whose frames do not follow each other, or left and right swapped.
    pub fn open(path: &Path, half: Half) -> Result<Self, Error> {
        let bytes = crate::mapped::map(path)?;
        let part = Part { bytes: &bytes, path, half: half.name() };
        let set = Self::read(&part, half)?;
        set.check(&part)?;
        Ok(set)
    }

    fn read(part: &Part<'_>, half: Half) -> Result<Self, Error> {
        let videos = part.videos(half)?;
        let n = videos.last().map_or(0, |video| video.frames.end);

        let joint_2d = part.array("joint_2d", n, 2, LARGEST_PX, "pixels")?;
        let confidence = part.confidence(n)?;
        let joint3d_image = part.array("joint3d_image", n, 3, LARGEST_PX, "pixels")?;
        let truth = match half {
            Half::Train => None,
            Half::Test => Some(part.truth(n)?),
        };
        Ok(Self { path: part.path.to_owned(), half, joint_2d, confidence, joint3d_image, videos, truth })
    }

    /// Units and sides, over a few thousand frames.
    fn check(&self, part: &Part<'_>) -> Result<(), Error> {
        let (pixels, image) = (checks::sampled2(&self.joint_2d), checks::sampled3(&self.joint3d_image));
        let [name_2d, name_3d, name_mm, name_factor] =
            ["joint_2d", "joint3d_image", "joints_2.5d_image", "2.5d_factor"].map(|name| part.name(name));
        let field = |name| Field { path: part.path, name };
        let thigh_px = checks::median_thigh(&image);
        if thigh_px * 4.0 < f64::from(SMALLEST_PERSON_PX) {
            return Err(
                field(&name_3d).refuse(format!("has thighs {thigh_px:.4} long in the median: expected pixels, not normalised values"))
            );
        }
        if median_height_px(&pixels) < SMALLEST_PERSON_PX {
            return Err(field(&name_2d).refuse("shows people a few pixels high: expected pixels, not normalised values"));
        }
        checks::expect_sides(field(&name_3d), &image)?;
        checks::expect_same_sides(field(&name_2d), &pixels, &image, &name_3d)?;
        if let Some(truth) = &self.truth {
            let step = truth.joints_mm.len().div_ceil(4096).max(1);
            let joints_mm: Vec<Pose3> = truth.joints_mm.iter().step_by(step).map(|pose| pose.map(|p| p.map(|v| v as f32))).collect();
            checks::expect_millimetres(field(&name_mm), &joints_mm)?;
            let mean_factor = truth.factor_mm_per_px.iter().sum::<f64>() / truth.factor_mm_per_px.len() as f64;
            let ratio = checks::median_thigh(&joints_mm) / (thigh_px * mean_factor);
            if !(0.5..2.0).contains(&ratio) {
                return Err(field(&name_factor).refuse(format!(
                    "is {mean_factor:.4} in the mean, but a thigh is {:.0} mm in '{name_mm}' and {thigh_px:.1} px in '{name_3d}': expected mm per pixel",
                    checks::median_thigh(&joints_mm)
                )));
            }
        }
        Ok(())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which half of it.
    pub fn half(&self) -> Half {
        self.half
    }

    /// N.
    pub fn frames(&self) -> usize {
        self.confidence.len() / JOINTS
    }

    /// The videos, in order; together they are all frames.
    pub fn videos(&self) -> &[Video] {
        &self.videos
    }

    /// What only the test half knows.
    pub fn truth(&self) -> Option<&TestTruth> {
        self.truth.as_ref()
    }

    /// The detector's keypoints of a frame, px.
    pub fn keypoints(&self, frame: usize) -> [Keypoint; JOINTS] {
        std::array::from_fn(|j| {
            let at = frame * JOINTS + j;
            Keypoint::new(self.joint_2d[2 * at], self.joint_2d[2 * at + 1], self.confidence[at])
        })
    }

    /// The label of a frame in pixels: x, y of the true joints, z in the same unit.
    pub fn label_px(&self, frame: usize) -> Pose3 {
        let values = &self.joint3d_image[frame * JOINTS * 3..][..JOINTS * 3];
        std::array::from_fn(|j| [values[3 * j], values[3 * j + 1], values[3 * j + 2]])
    }

    /// Input (T, 17, 3: x, y, confidence) and label (T, 17, 3, not root-relative) of a clip, both normalised by the frame, in the
    /// references' own order of f32 and f64 steps, so that the values are theirs to the last bit.
    pub fn clip(&self, clip: &Clip) -> (Vec<f32>, Vec<f32>) {
        let image = self.videos[clip.video].image;
        let frames = clip.frames.iter();
        let (mut input, mut label) = (Vec::with_capacity(frames.len() * JOINTS * 3), Vec::with_capacity(frames.len() * JOINTS * 3));
        for frame in frames {
            for k in self.keypoints(frame) {
                let [x, y] = normalise([k.x_px, k.y_px], image);
                input.extend([x, y, k.confidence]);
            }
            for [x_px, y_px, z_px] in self.label_px(frame) {
                let [x, y] = normalise([x_px, y_px], image);
                label.extend([x, y, z_px / image.width_px as f32 * 2.0]);
            }
        }
        (input, label)
    }

    /// Clips of `n_frames`, one every `stride` frames: see [`split_clips`].
    ///
    /// # Errors
    /// `n_frames` or `stride` of 0, more frames than any video has.
    pub fn split(&self, n_frames: usize, stride: usize, seed: u64) -> Result<Vec<Clip>, Error> {
        if n_frames == 0 || stride == 0 || n_frames > 1 << 16 {
            return Err(Error::options(format!(
                "clips of {n_frames} frames every {stride}: expected 1 to 65536 frames and a stride of at least 1"
            )));
        }
        let videos: Vec<Range<usize>> = self.videos.iter().map(|video| video.frames.clone()).collect();
        let clips = split_clips(&videos, n_frames, stride, seed);
        if clips.is_empty() {
            return Err(Error::content(
                &self.path,
                format!("has no video in '{}' of at least {n_frames} frames: ask for shorter clips", self.half.name()),
            ));
        }
        Ok(clips)
    }

    /// The plain protocol's clips: every frame of every video, no exclusions, no oracle scale where the figure does not say so. For
    /// [`crate::evaluate`] with the normalisation of the model (`Frame` for the references').
    ///
    /// The camera-space truth follows from label and factor with a focal length of [`FOCAL_PX`] and the optical axis in the middle of
    /// the picture, since the file has no lenses. Conditions are called `h36m_like`, noisy: the keypoints are a detector's.
    ///
    /// # Errors
    /// The training half, which has no millimetres.
    pub fn evaluation_set(&self) -> Result<EvaluationSet, Error> {
        let Some(truth) = &self.truth else {
            return Err(Error::content(&self.path, "'train' has no 2.5d_factor: expected the test half for an evaluation"));
        };
        let clips = self.videos.iter().map(|video| self.evaluation_clip(video, truth)).collect::<Result<_, _>>()?;
        Ok(EvaluationSet { clips })
    }

    fn evaluation_clip(&self, video: &Video, truth: &TestTruth) -> Result<EvaluationClip, Error> {
        let image = video.image;
        let centre_px = [image.width_px as f32 / 2.0, image.height_px as f32 / 2.0];
        let intrinsics = Intrinsics { focal_px: [FOCAL_PX; 2], centre_px };
        let in_pixels = ImageTransform { centre_px: [0.0; 2], half_size_px: 1.0 };
        let camera_mm: Vec<Pose3> = video
            .frames
            .clone()
            .map(|frame| {
                let label = self.label_px(frame);
                let relative = label.map(|p| std::array::from_fn(|c| p[c] - label[pose::ROOT][c]));
                let root_px = [label[pose::ROOT][0], label[pose::ROOT][1]];
                let depth_mm = truth.factor_mm_per_px[frame] as f32 * FOCAL_PX;
                world::back_project_frame(&relative, &in_pixels, root_px, &intrinsics, depth_mm)
            })
            .collect();
        let joints_px: Vec<Pose2> = video.frames.clone().map(|frame| self.label_px(frame).map(|[x, y, _]| [x, y])).collect();
        let clamped = |k: Keypoint| Keypoint { confidence: k.confidence.clamp(0.0, 1.0), ..k };
        let frames = video.frames.clone().map(|frame| self.keypoints(frame).map(clamped)).collect();
        Ok(EvaluationClip {
            name: video.name.clone(),
            subject: video.subject().to_owned(),
            camera: None,
            noisy: true,
            keypoints: KeypointClip::from_fps(frames, FPS, image)?,
            view: View { image, intrinsics, extrinsics: Extrinsics::level(0.0), joints_px, camera_mm },
        })
    }
}

/// x / W * 2 - 1, y / W * 2 - H / W as numpy computes it from f32 pixels: quotient and product in f32, difference in f64.
fn normalise([x_px, y_px]: [f32; 2], image: ImageSize) -> [f32; 2] {
    let width = image.width_px as f32;
    let aspect = f64::from(image.height_px) / f64::from(image.width_px);
    [(f64::from(x_px / width * 2.0) - 1.0) as f32, (f64::from(y_px / width * 2.0) - aspect) as f32]
}

/// Size of the pictures of Human3.6M's four cameras.
pub fn camera_image(serial: &str) -> Option<ImageSize> {
    match serial {
        "54138969" | "60457274" => Some(ImageSize { width_px: 1000, height_px: 1002 }),
        "55011271" | "58860488" => Some(ImageSize { width_px: 1000, height_px: 1000 }),
        _ => None,
    }
}

fn median_height_px(poses: &[Pose2]) -> f32 {
    let height = |pose: &Pose2| {
        let (lo, hi) = pose.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(lo, hi), p| (lo.min(p[1]), hi.max(p[1])));
        hi - lo
    };
    let mut heights: Vec<f32> = poses.iter().map(height).collect();
    if heights.is_empty() {
        return 0.0;
    }
    let middle = heights.len() / 2;
    *heights.select_nth_unstable_by(middle, f32::total_cmp).1
}

/// One half of a mapped pickle, and the fields in it.
struct Part<'a> {
    bytes: &'a [u8],
    path: &'a Path,
    half: &'static str,
}

impl Part<'_> {
    fn name(&self, field: &str) -> String {
        format!("{}/{field}", self.half)
    }

    /// One field, and nothing else of the file.
    fn value(&self, field: &str) -> Result<Option<Value>, Error> {
        pickle::read_at(self.bytes, &[self.half, field]).map_err(|e| Error::content(self.path, e.to_string()))
    }

    fn tensor(&self, field: &str) -> Result<Tensor, Error> {
        Field { path: self.path, name: &self.name(field) }.tensor(self.value(field)?)
    }

    /// (n, 17, channels) as f32.
    fn array(&self, field: &str, n: usize, channels: usize, largest: f32, unit: &str) -> Result<Vec<f32>, Error> {
        let tensor = self.tensor(field)?;
        let name = self.name(field);
        let field = Field { path: self.path, name: &name };
        field.same_frames(n, field.frames(&tensor, channels)?)?;
        let values = checks::into_f32(tensor);
        field.finite(&values, JOINTS * channels, largest, unit)?;
        Ok(values)
    }

    /// (n, 17); 1 where the file has none.
    fn confidence(&self, n: usize) -> Result<Vec<f32>, Error> {
        let Some(value) = self.value("confidence")? else { return Ok(vec![1.0; n * JOINTS]) };
        let name = self.name("confidence");
        let field = Field { path: self.path, name: &name };
        let tensor = field.tensor(Some(value))?;
        match tensor.shape[..] {
            [frames, JOINTS] | [frames, JOINTS, 1] => field.same_frames(n, frames)?,
            _ => return Err(field.refuse(format!("has shape {:?}: expected (frames, {JOINTS}) or (frames, {JOINTS}, 1)", tensor.shape))),
        }
        let values = checks::into_f32(tensor);
        field.finite(&values, JOINTS, LARGEST_CONFIDENCE, "confidences")?;
        Ok(values)
    }

    fn truth(&self, n: usize) -> Result<TestTruth, Error> {
        let factor = self.tensor("2.5d_factor")?;
        let name = self.name("2.5d_factor");
        let field = Field { path: self.path, name: &name };
        field.same_frames(n, factor.len())?;
        let factor_mm_per_px = factor.to_f64();
        if let Some(frame) = factor_mm_per_px.iter().position(|f| !(f.is_finite() && *f > 0.0)) {
            return Err(field.refuse(format!("is {} at frame {frame}: expected mm per pixel above 0", factor_mm_per_px[frame])));
        }
        let joints = self.tensor("joints_2.5d_image")?;
        let name = self.name("joints_2.5d_image");
        let field = Field { path: self.path, name: &name };
        field.same_frames(n, field.frames(&joints, 3)?)?;
        let values = joints.to_f64();
        let (poses, _) = values.as_chunks::<{ JOINTS * 3 }>();
        for (frame, pose) in poses.iter().enumerate() {
            if let Some(at) = pose.iter().position(|v| v.is_nan() || v.abs() > f64::from(LARGEST_MM)) {
                return Err(field.refuse(format!("is {} at frame {frame}, joint {}: expected finite millimetres", pose[at], at / 3)));
            }
        }
        let joints_mm = poses.iter().map(|v| std::array::from_fn(|j| [v[3 * j], v[3 * j + 1], v[3 * j + 2]])).collect();
        Ok(TestTruth { factor_mm_per_px, joints_mm })
    }

    /// The texts of a field, one for each frame: a list or an array of strings.
    fn texts(&self, field: &str) -> Result<Vec<Value>, Error> {
        let name = self.name(field);
        match self.value(field)? {
            Some(Value::List(items) | Value::Tuple(items)) => Ok(items),
            Some(other) => {
                Err(Field { path: self.path, name: &name }.refuse(format!("is {}: expected one text for each frame", other.describe())))
            }
            None => Err(Field { path: self.path, name: &name }
                .refuse("is missing: expected MotionBERT's Human3.6M pickle, one text for each frame")),
        }
    }

    /// Runs of one source, each with one camera and one action.
    fn videos(&self, half: Half) -> Result<Vec<Video>, Error> {
        let mut videos: Vec<Video> = Vec::new();
        let name = self.name("source");
        let field = Field { path: self.path, name: &name };
        let mut names = std::collections::HashSet::new();
        for (frame, source) in self.texts("source")?.iter().enumerate() {
            let source = text(source).ok_or_else(|| field.refuse(format!("is {} at frame {frame}: expected a text", source.describe())))?;
            match videos.last_mut() {
                Some(video) if video.name == source => video.frames.end = frame + 1,
                _ => {
                    if !names.insert(source.to_string()) {
                        return Err(field.refuse(format!(
                            "comes back to '{source}' at frame {frame}: expected the frames of each video to follow each other"
                        )));
                    }
                    let image = ImageSize { width_px: 0, height_px: 0 }; // until its camera is known
                    videos.push(Video { name: source.into_owned(), action: None, camera: String::new(), image, frames: frame..frame + 1 });
                }
            }
        }
        let Some(n) = videos.last().map(|video| video.frames.end) else {
            return Err(field.refuse("is empty: expected one text for each frame"));
        };

        let name = self.name("camera_name");
        let field = Field { path: self.path, name: &name };
        let spans: Vec<Range<usize>> = videos.iter().map(|video| video.frames.clone()).collect();
        for (video, camera) in videos.iter_mut().zip(self.one_per_video("camera_name", n, &name, &spans)?) {
            video.image = camera_image(&camera).ok_or_else(|| {
                field.refuse(format!("is '{camera}' in video '{}': expected one of 54138969, 55011271, 58860488, 60457274", video.name))
            })?;
            video.camera = camera;
        }
        if half == Half::Test {
            let name = self.name("action");
            for (video, action) in videos.iter_mut().zip(self.one_per_video("action", n, &name, &spans)?) {
                video.action = Some(action);
            }
        }
        Ok(videos)
    }

    /// The text of each video, which must be the same in all of its frames.
    fn one_per_video(&self, key: &str, n: usize, name: &str, videos: &[Range<usize>]) -> Result<Vec<String>, Error> {
        let field = Field { path: self.path, name };
        let texts = self.texts(key)?;
        field.same_frames(n, texts.len())?;
        let mut found = Vec::with_capacity(videos.len());
        for frames in videos {
            let first = &texts[frames.start];
            if let Some(other) = frames.clone().find(|&t| texts[t] != *first) {
                return Err(field.refuse(format!("changes at frame {other}, within a video: the frames are out of order")));
            }
            let first =
                text(first).ok_or_else(|| field.refuse(format!("is {} at frame {}: expected a text", first.describe(), frames.start)))?;
            found.push(first.into_owned());
        }
        Ok(found)
    }
}

/// A text, also one that was written as a number or as bytes.
fn text(value: &Value) -> Option<std::borrow::Cow<'_, str>> {
    match value {
        Value::Str(text) => Some(text.into()),
        Value::Int(number) => Some(number.to_string().into()),
        Value::Bytes(bytes) => std::str::from_utf8(bytes).ok().map(Into::into),
        _ => None,
    }
}

/// The clips of one half as training samples: what the references write to clip folders, without the folders.
#[derive(Clone, Debug)]
pub struct MotionBertClips {
    set: Arc<MotionBert>,
    clips: Vec<Clip>,
    n_frames: usize,
    options: ClipOptions,
}

impl MotionBertClips {
    /// Clips of `n_frames`, one every `stride` frames; `None` is a third of `n_frames`, as in the references' training.
    ///
    /// # Errors
    /// Options out of range, or no clip at all.
    pub fn new(set: Arc<MotionBert>, n_frames: usize, stride: Option<usize>, options: ClipOptions) -> Result<Self, Error> {
        options.validate()?;
        let clips = set.split(n_frames, stride.unwrap_or((n_frames / 3).max(1)), options.seed)?;
        Ok(Self { set, clips, n_frames, options })
    }

    /// Those of some subjects (`s_08`).
    ///
    /// # Errors
    /// No clip is left.
    pub fn of_subjects(mut self, chosen: impl Fn(&str) -> bool) -> Result<Self, Error> {
        let set = &self.set;
        self.clips.retain(|clip| chosen(set.videos()[clip.video].subject()));
        if self.clips.is_empty() {
            let mut there: Vec<&str> = set.videos().iter().map(Video::subject).collect();
            there.dedup();
            let problem = format!("'{}' has no clip of the subjects asked for; it has {}", set.half().name(), there.join(", "));
            return Err(Error::content(set.path(), problem));
        }
        Ok(self)
    }

    /// The clips, in order.
    pub fn clips(&self) -> &[Clip] {
        &self.clips
    }

    /// The set they are from.
    pub fn set(&self) -> &MotionBert {
        &self.set
    }
}

impl SampleSource for MotionBertClips {
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
        let (input, label) = self.set.clip(&self.clips[index]);
        Ok(self.options.sample(&H36M, input, label, epoch, index))
    }
}
