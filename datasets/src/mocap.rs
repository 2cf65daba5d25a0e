//! Motion capture of 17 joints: one NPZ of world-space clips, checked as it is opened.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use formats::{Data, Tensor};
use nalgebra::Vector3;
use pose::{JOINTS, Pose3, skeleton};
use serde::Deserialize;

use crate::Error;

/// Largest coordinate that a motion capture stage can have, mm: a kilometre from the origin is a broken file.
const FARTHEST_MM: f32 = 1e6;
/// Hip to thorax of any person, mm; children included.
const TORSO_MM: Range<f64> = 100.0..1500.0;

/// World-space motion of many clips. Right-handed, z up, floor near z = 0, millimetres, Human3.6M joint order.
#[derive(Clone, Debug)]
pub struct MocapSet {
    path: PathBuf,
    fps: f64,
    poses: Vec<Pose3>,
    clips: Vec<MocapClip>,
}

/// One take of one subject inside a [`MocapSet`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MocapClip {
    /// Name of the take, unique in the data this project ships with, not checked elsewhere.
    pub name: String,
    /// Who moved.
    pub subject: String,
    frames: Range<usize>,
}

impl MocapClip {
    /// Number of frames, at least 2.
    pub fn frames(&self) -> usize {
        self.frames.len()
    }

    /// Whether one of the patterns names the subject or the take; `*` stands for any characters.
    pub fn is_named(&self, patterns: &[String]) -> bool {
        patterns.iter().any(|pattern| crate::matches(pattern, &self.subject) || crate::matches(pattern, &self.name))
    }
}

/// The three files of one folder, split by subject.
#[derive(Clone, Debug)]
pub struct MocapSplits {
    /// `mocap_train.npz`
    pub train: MocapSet,
    /// `mocap_val.npz`: chooses the checkpoint.
    pub val: MocapSet,
    /// `mocap_test.npz`: reported, never chosen on.
    pub test: MocapSet,
}

/// Opens `mocap_train.npz`, `mocap_val.npz` and `mocap_test.npz` of a folder.
///
/// # Errors
/// The first file that is absent or is refused by [`MocapSet::open`].
pub fn open_dir(dir: &Path) -> Result<MocapSplits, Error> {
    let open = |split: &str| MocapSet::open(&dir.join(format!("mocap_{split}.npz")));
    Ok(MocapSplits { train: open("train")?, val: open("val")?, test: open("test")? })
}

/// `meta_json` of the file. Only `fps` is needed; what else is given is checked.
#[derive(Deserialize)]
struct Meta {
    fps: f64,
    unit: Option<String>,
    up: Option<String>,
    joints: Option<Vec<String>>,
    #[serde(default)]
    subjects: Vec<String>,
    #[serde(default)]
    clips: Vec<ClipMeta>,
}

#[derive(Deserialize)]
struct ClipMeta {
    name: Option<String>,
    subject: Option<String>,
}

impl MocapSet {
    /// Reads a joint NPZ:
    ///
    /// | array | type and shape | meaning |
    /// |---|---|---|
    /// | `poses` | int16 (or int32, float32, float64) (N, 17, 3) | world mm, z up, Human3.6M joint order |
    /// | `offsets` | integers (C + 1) | clip i is `poses[offsets[i]..offsets[i + 1]]` |
    /// | `meta_json` | uint8, UTF-8 JSON | `fps`; optionally `unit` "mm", `up` "z", `joints`, `subjects`, `clips` |
    /// | `subject` | integers (C), optional | index into the subjects of `meta_json` |
    ///
    /// # Errors
    /// A file that cannot be read, and one whose arrays have other shapes, other joints, offsets that do not rise, values that are not
    /// finite, another unit (metres and centimetres are recognised), another up axis, or left and right swapped.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let arrays = formats::npz::read(path)?;
        let refuse = |problem: String| Error::content(path, problem);

        let poses = poses_from(array(&arrays, "poses", path)?).map_err(refuse)?;
        let offsets = offsets_from(array(&arrays, "offsets", path)?, poses.len()).map_err(refuse)?;
        let meta = meta_from(array(&arrays, "meta_json", path)?).map_err(refuse)?;
        let clips = offsets.len() - 1;
        let subjects = match arrays.get("subject") {
            Some(subject) if subject.shape != [clips] => {
                return Err(refuse(format!(
                    "'subject' has shape {:?}, but 'offsets' describes {clips} clips: give one number per clip",
                    subject.shape
                )));
            }
            Some(subject) => subject.to_i64(),
            None => Vec::new(),
        };
        if !meta.clips.is_empty() && meta.clips.len() != clips {
            return Err(refuse(format!("'meta_json' names {} clips, but 'offsets' describes {clips}: they must agree", meta.clips.len())));
        }
        let clips = offsets.windows(2).enumerate().map(|(i, ends)| {
            let given = meta.clips.get(i);
            let number = subjects.get(i).copied();
            let listed = number.and_then(|n| usize::try_from(n).ok()).and_then(|n| meta.subjects.get(n)).cloned();
            MocapClip {
                name: given.and_then(|c| c.name.clone()).unwrap_or_else(|| format!("clip {i}")),
                subject: given.and_then(|c| c.subject.clone()).or(listed).unwrap_or_else(|| format!("subject {}", number.unwrap_or(0))),
                frames: ends[0]..ends[1],
            }
        });
        Self::checked(path.to_owned(), meta.fps, poses, clips.collect())
    }

    /// A set made in memory from (name, subject, world poses in mm) of each clip, held to the same rules as a file.
    ///
    /// # Errors
    /// As [`MocapSet::open`], for what concerns values.
    pub fn from_clips(name: &str, fps: f64, clips: Vec<(String, String, Vec<Pose3>)>) -> Result<Self, Error> {
        let mut poses = Vec::with_capacity(clips.iter().map(|(_, _, frames)| frames.len()).sum());
        let mut described = Vec::with_capacity(clips.len());
        for (name, subject, frames) in clips {
            described.push(MocapClip { name, subject, frames: poses.len()..poses.len() + frames.len() });
            poses.extend(frames);
        }
        Self::checked(PathBuf::from(name), fps, poses, described)
    }

    fn checked(path: PathBuf, fps: f64, poses: Vec<Pose3>, clips: Vec<MocapClip>) -> Result<Self, Error> {
        if let Some(clip) = clips.iter().find(|clip| clip.frames() < 2) {
            let problem = format!("clip '{}' has {} frame(s): a motion needs at least 2", clip.name, clip.frames());
            return Err(Error::content(&path, problem));
        }
        if !(fps.is_finite() && (1.0..=1000.0).contains(&fps)) {
            return Err(Error::content(&path, format!("fps is {fps}: expected 1 to 1000 frames per second")));
        }
        check_motion(&poses).map_err(|problem| Error::content(&path, problem))?;
        Ok(Self { path, fps, poses, clips })
    }

    /// The clips of some subjects.
    ///
    /// # Errors
    /// Nobody is chosen.
    pub fn of_subjects(&self, chosen: impl Fn(&str) -> bool) -> Result<Self, Error> {
        self.of_clips(|clip| chosen(&clip.subject))
    }

    /// Some of the clips.
    ///
    /// # Errors
    /// None is chosen.
    pub fn of_clips(&self, chosen: impl Fn(&MocapClip) -> bool) -> Result<Self, Error> {
        let clips = self.clips.iter().filter(|clip| chosen(clip));
        let clips = clips.map(|clip| (clip.name.clone(), clip.subject.clone(), self.poses[clip.frames.clone()].to_vec()));
        Self::from_clips(&self.path.to_string_lossy(), self.fps, clips.collect())
    }

    /// Writes the set as a joint NPZ that [`MocapSet::open`] reads; poses are float32, so nothing is rounded.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let mut subjects: Vec<&str> = self.clips.iter().map(|clip| clip.subject.as_str()).collect();
        subjects.sort_unstable();
        subjects.dedup();
        let numbers = self.clips.iter().map(|clip| subjects.binary_search(&clip.subject.as_str()).unwrap_or(0) as i32).collect();
        let offsets: Vec<i64> = std::iter::once(0).chain(self.clips.iter().map(|clip| clip.frames.end as i64)).collect();
        let clips: Vec<_> = self
            .clips
            .iter()
            .map(|clip| serde_json::json!({"name": clip.name, "subject": clip.subject, "frames": clip.frames()}))
            .collect();
        let meta = serde_json::json!({
            "fps": self.fps, "unit": "mm", "up": "z", "joints": skeleton::NAMES, "subjects": subjects, "clips": clips,
        });
        let vector = |data: Data| Tensor { shape: vec![data.len()], data };
        let poses = Tensor::f32([self.poses.len(), JOINTS, 3], pose::values_from_poses(&self.poses));
        let arrays = BTreeMap::from([
            ("poses".to_owned(), poses),
            ("offsets".to_owned(), vector(Data::I64(offsets))),
            ("subject".to_owned(), vector(Data::I32(numbers))),
            ("meta_json".to_owned(), vector(Data::U8(meta.to_string().into_bytes()))),
        ]);
        Ok(formats::npz::write(path, &arrays)?)
    }

    /// The file it came from, or the name it was made under.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Frames per second of every clip.
    pub fn fps(&self) -> f64 {
        self.fps
    }

    /// The clips, in file order; at least one.
    pub fn clips(&self) -> &[MocapClip] {
        &self.clips
    }

    /// World poses of one clip, mm. Panics when `clip` is not below `self.clips().len()`, as indexing does.
    pub fn poses(&self, clip: usize) -> &[Pose3] {
        &self.poses[self.clips[clip].frames.clone()]
    }

    /// Frames of all clips together.
    pub fn frames(&self) -> usize {
        self.poses.len()
    }
}

fn array<'a>(arrays: &'a BTreeMap<String, Tensor>, name: &str, path: &Path) -> Result<&'a Tensor, Error> {
    arrays.get(name).ok_or_else(|| {
        let found: Vec<_> = arrays.keys().map(String::as_str).collect();
        Error::content(
            path,
            format!("array '{name}' is missing (found: {}): a joint NPZ has poses, offsets and meta_json", found.join(", ")),
        )
    })
}

fn poses_from(tensor: &Tensor) -> Result<Vec<Pose3>, String> {
    match tensor.shape[..] {
        [frames, JOINTS, 3] if frames > 0 => {}
        [_, joints, 3] if joints != JOINTS => {
            return Err(format!("'poses' has {joints} joints: expected the {JOINTS} joints of Human3.6M, shape (N, {JOINTS}, 3)"));
        }
        _ => return Err(format!("'poses' has shape {:?}: expected (N, {JOINTS}, 3) with N > 0", tensor.shape)),
    }
    let values = tensor.to_f32();
    let (joints, _) = values.as_chunks::<3>();
    let (poses, _) = joints.as_chunks::<JOINTS>();
    Ok(poses.to_vec())
}

fn offsets_from(tensor: &Tensor, frames: usize) -> Result<Vec<usize>, String> {
    if tensor.shape.len() != 1 || tensor.shape[0] < 2 || !matches!(tensor.data, Data::I64(_) | Data::I32(_) | Data::I16(_)) {
        return Err(format!(
            "'offsets' has shape {:?}: expected at least two integers, the first frame of each clip and the end of the last",
            tensor.shape
        ));
    }
    let offsets = tensor.to_i64();
    if let Some(i) = offsets.windows(2).position(|pair| pair[0] >= pair[1]) {
        return Err(format!(
            "'offsets' does not rise from {} to {} at index {i}: each clip must start after the one before it",
            offsets[i],
            offsets[i + 1]
        ));
    }
    let (first, last) = (offsets[0], offsets[offsets.len() - 1]);
    if first != 0 || usize::try_from(last) != Ok(frames) {
        return Err(format!("'offsets' runs from {first} to {last}: expected 0 to {frames}, the number of poses"));
    }
    Ok(offsets.into_iter().map(|offset| offset as usize).collect()) // rises from 0, so none is negative
}

fn meta_from(tensor: &Tensor) -> Result<Meta, String> {
    let Data::U8(bytes) = &tensor.data else {
        return Err("'meta_json' is not of type uint8: expected the bytes of a JSON text".into());
    };
    let meta: Meta =
        serde_json::from_slice(bytes).map_err(|e| format!("'meta_json' is not the expected JSON ({e}): it needs at least \"fps\""))?;
    if let Some(unit) = meta.unit.as_deref().filter(|unit| *unit != "mm") {
        return Err(format!("the unit of 'meta_json' is \"{unit}\": expected \"mm\", convert the poses to millimetres"));
    }
    if let Some(up) = meta.up.as_deref().filter(|up| *up != "z") {
        return Err(format!("the up axis of 'meta_json' is \"{up}\": expected \"z\", rotate the poses"));
    }
    if let Some(joints) = &meta.joints {
        if joints.len() != JOINTS {
            return Err(format!("'meta_json' names {} joints: expected the {JOINTS} of Human3.6M", joints.len()));
        }
        if let Some(i) = (0..JOINTS).find(|&i| joints[i] != skeleton::NAMES[i]) {
            return Err(format!("joint {i} of 'meta_json' is '{}': expected '{}', the Human3.6M order", joints[i], skeleton::NAMES[i]));
        }
    }
    Ok(meta)
}

/// Values that are finite and look like people: unit, up axis and sides.
fn check_motion(poses: &[Pose3]) -> Result<(), String> {
    if poses.is_empty() {
        return Err("there are no poses".into());
    }
    for (frame, pose) in poses.iter().enumerate() {
        if let Some(joint) = pose.iter().position(|p| p.iter().any(|v| !v.is_finite() || v.abs() > FARTHEST_MM)) {
            return Err(format!(
                "joint {} of frame {frame} is at {:?}: expected finite millimetres within a kilometre",
                skeleton::NAMES[joint],
                pose[joint]
            ));
        }
    }
    let at = |pose: &Pose3, joint: usize| Vector3::from(pose[joint]).cast::<f64>();
    let torso = |pose: &Pose3| at(pose, 8) - at(pose, 0); // hip to thorax
    let median_mm = median(poses.iter().map(|pose| torso(pose).norm()));
    if !TORSO_MM.contains(&median_mm) {
        return Err(wrong_unit(median_mm));
    }
    let upright = |axis: usize| median(poses.iter().map(|pose| torso(pose)[axis] / torso(pose).norm().max(1.0)));
    for (axis, name) in ["x", "y"].into_iter().enumerate() {
        if upright(axis).abs() > 0.7 && upright(2).abs() < 0.5 {
            return Err(format!("people stand along the {name} axis: expected z up, rotate the poses"));
        }
    }
    if upright(2) < -0.7 {
        return Err("people stand on their heads: expected z to point up, not down".into());
    }
    // The nose is in front of neck and head, the left hip left of the right: forward x left points up the torso in a right-handed world.
    let sides_agree = |pose: &&Pose3| {
        let forward = at(pose, 9) - (at(pose, 8) + at(pose, 10)) / 2.0;
        forward.cross(&(at(pose, 4) - at(pose, 1))).dot(&torso(pose)) >= 0.0
    };
    let agreeing = poses.iter().filter(sides_agree).count() as f64 / poses.len() as f64;
    if agreeing < 0.25 {
        return Err(format!(
            "left and right are swapped, or the axes are left-handed, in {:.0} % of the frames (the nose points backwards): swap the joints or mirror one axis",
            100.0 * (1.0 - agreeing)
        ));
    }
    Ok(())
}

/// What the poses are measured in, when hip to thorax of a person is `torso` long instead of some 500 mm.
fn wrong_unit(torso: f64) -> String {
    let known = [(1000.0, "metres"), (10.0, "centimetres"), (25.4, "inches"), (0.001, "micrometres")];
    let found = format!("hip to thorax measures {torso:.4} in the median");
    match known.into_iter().find(|(factor, _)| (300.0..900.0).contains(&(torso * factor))) {
        Some((factor, unit)) => format!("{found}, so the poses seem to be in {unit}: expected millimetres, multiply by {factor}"),
        None if torso < 2.0 => format!("{found}, as metres rounded to whole numbers would: expected millimetres"),
        None => format!("{found}: expected {} to {} mm", TORSO_MM.start, TORSO_MM.end),
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}
