//! Acclaim's skeleton (`.asf`) and motion (`.amc`), as CMU's database has them.

use std::collections::BTreeMap;
use std::path::Path;

use nalgebra::{Rotation3, Vector3};

use super::{Rig, RigFrame, RigMotion, plain_name};
use crate::Error;

/// CMU's frames per second; the files do not say it.
const CMU_FPS: f64 = 120.0;

/// A skeleton; each bone's point is its end.
pub(super) struct Skeleton {
    bones: Vec<Bone>,
    degrees: bool,
}

struct Bone {
    name: String,
    parent: Option<usize>,
    /// From its start to its end in the rest pose.
    offset: Vector3<f64>,
    /// Its own axes in the rest pose.
    axes: Rotation3<f64>,
    /// What the motion's numbers turn, or, for the root, move: t for translation, r for rotation, and the axis.
    dof: Vec<(u8, usize)>,
}

/// Turns about the fixed axes x, then y, then z.
fn fixed_axes([x, y, z]: [f64; 3]) -> Rotation3<f64> {
    Rotation3::from_axis_angle(&Vector3::z_axis(), z)
        * Rotation3::from_axis_angle(&Vector3::y_axis(), y)
        * Rotation3::from_axis_angle(&Vector3::x_axis(), x)
}

/// `rx`, `TZ` and the like.
fn degree_of_freedom(word: &str) -> Option<(u8, usize)> {
    match word.to_ascii_lowercase().as_bytes() {
        [kind @ (b't' | b'r'), axis @ b'x'..=b'z'] => Some((*kind, usize::from(axis - b'x'))),
        _ => None,
    }
}

fn three(path: &Path, words: &[&str], what: &str) -> Result<[f64; 3], Error> {
    let numbers: Vec<f64> = words.iter().take(3).filter_map(|word| word.parse().ok()).filter(|v: &f64| v.is_finite()).collect();
    <[f64; 3]>::try_from(numbers).map_err(|_| Error::content(path, format!("has '{}' as {what}: expected three numbers", words.join(" "))))
}

impl Skeleton {
    pub fn parse(path: &Path, text: &str) -> Result<Self, Error> {
        let refuse = |problem: String| Error::content(path, problem);
        let root = Bone { name: "root".into(), parent: None, offset: Vector3::zeros(), axes: Rotation3::identity(), dof: Vec::new() };
        let (mut bones, mut degrees, mut section) = (vec![root], true, String::new());
        let mut parents = BTreeMap::<String, String>::new();
        let (mut direction, mut length) = ([0.0; 3], 0.0);
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let words: Vec<&str> = line.split_whitespace().collect();
            let Some((&first, values)) = words.split_first() else { continue };
            if let Some(name) = first.strip_prefix(':') {
                section = name.to_ascii_lowercase();
                continue;
            }
            let last = bones.len() - 1;
            match (section.as_str(), first.to_ascii_lowercase().as_str()) {
                ("units", "angle") => degrees = values.first().is_none_or(|unit| unit.to_ascii_lowercase().starts_with("deg")),
                ("root", "order") => bones[0].dof = values.iter().filter_map(|word| degree_of_freedom(word)).collect(),
                ("bonedata", "begin") => {
                    if bones.len() > 1024 {
                        return Err(refuse("has more than 1024 bones".into()));
                    }
                    (direction, length) = ([0.0; 3], 0.0);
                    let (offset, axes) = (Vector3::zeros(), Rotation3::identity());
                    bones.push(Bone { name: String::new(), parent: None, offset, axes, dof: Vec::new() });
                }
                ("bonedata", "name") if last > 0 => bones[last].name = plain_name(values.first().unwrap_or(&"")),
                ("bonedata", "direction") => direction = three(path, values, "a direction")?,
                ("bonedata", "length") => {
                    length = values.first().and_then(|v| v.parse().ok()).filter(|v: &f64| v.is_finite()).unwrap_or(f64::NAN);
                    if length.is_nan() {
                        return Err(refuse(format!("has '{}' as a length: expected a number", values.join(" "))));
                    }
                }
                ("bonedata", "axis") if last > 0 => {
                    let axis = three(path, values, "an axis")?;
                    bones[last].axes = fixed_axes(if degrees { axis.map(f64::to_radians) } else { axis });
                }
                ("bonedata", "dof") if last > 0 => bones[last].dof = values.iter().filter_map(|word| degree_of_freedom(word)).collect(),
                ("bonedata", "end") if last > 0 => bones[last].offset = Vector3::from(direction) * length,
                ("hierarchy", "begin" | "end") => {}
                ("hierarchy", parent) => {
                    values.iter().for_each(|child| drop(parents.insert(plain_name(child), plain_name(parent))));
                }
                _ => {}
            }
        }
        if bones.len() < 2 || bones[0].dof.is_empty() {
            return Err(refuse("is no skeleton: expected an .asf file with :root and :bonedata".into()));
        }
        Ok(Self { bones: in_order(bones, &parents).map_err(refuse)?, degrees })
    }

    pub fn motion(&self, path: &Path, text: &str) -> Result<RigMotion, Error> {
        let mut frames = Vec::new();
        let mut values: Vec<Vec<f64>> = vec![Vec::new(); self.bones.len()];
        let mut started = false;
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let Some((&first, numbers)) = words.split_first() else { continue };
            if first.starts_with('#') || first.starts_with(':') {
                continue;
            }
            if numbers.is_empty() && first.bytes().all(|b| b.is_ascii_digit()) {
                if std::mem::replace(&mut started, true) {
                    frames.push(self.frame(&values));
                }
                continue;
            }
            let name = plain_name(first);
            let Some(bone) = self.bones.iter().position(|bone| bone.name == name).filter(|_| started) else {
                return Err(Error::content(
                    path,
                    format!("has a line '{first}' that no bone of its skeleton is called: is it an .amc file?"),
                ));
            };
            let read: Vec<f64> = numbers.iter().filter_map(|word| word.parse().ok()).filter(|v: &f64| v.is_finite()).collect();
            if read.len() != self.bones[bone].dof.len() || read.len() != numbers.len() {
                let problem = format!(
                    "has {} numbers for '{first}' in frame {}: expected {}",
                    numbers.len(),
                    frames.len() + 1,
                    self.bones[bone].dof.len()
                );
                return Err(Error::content(path, problem));
            }
            values[bone] = read;
        }
        if started {
            frames.push(self.frame(&values));
        }
        let names = self.bones.iter().map(|bone| bone.name.clone()).collect();
        let parents = self.bones.iter().map(|bone| bone.parent).collect();
        let mut rest: Vec<Vector3<f64>> = Vec::with_capacity(self.bones.len());
        for bone in &self.bones {
            rest.push(bone.parent.map_or(Vector3::zeros(), |parent: usize| rest[parent]) + bone.offset);
        }
        Ok(RigMotion { rig: Rig { names, parents, rest, head_is_top: true }, frames, fps: CMU_FPS })
    }

    fn frame(&self, values: &[Vec<f64>]) -> RigFrame {
        let mut frame = RigFrame { positions: Vec::with_capacity(self.bones.len()), rotations: Vec::with_capacity(self.bones.len()) };
        for (bone, values) in self.bones.iter().zip(values) {
            let (mut moved, mut angles) = (Vector3::zeros(), [0.0; 3]);
            for (&(kind, axis), &value) in bone.dof.iter().zip(values) {
                match kind {
                    b't' => moved[axis] = value,
                    _ => angles[axis] = if self.degrees { value.to_radians() } else { value },
                }
            }
            let turned = bone.axes * fixed_axes(angles) * bone.axes.inverse();
            let (place, rotation) = match bone.parent {
                None => (moved, turned),
                Some(parent) => {
                    let rotation = frame.rotations[parent] * turned;
                    (frame.positions[parent] + rotation * bone.offset, rotation)
                }
            };
            frame.positions.push(place);
            frame.rotations.push(rotation);
        }
        frame
    }
}

/// Bones with their parents before them.
fn in_order(bones: Vec<Bone>, parents: &BTreeMap<String, String>) -> Result<Vec<Bone>, String> {
    let mut ordered: Vec<Bone> = Vec::with_capacity(bones.len());
    let mut waiting = bones;
    while !waiting.is_empty() {
        let before = waiting.len();
        let mut rest = Vec::new();
        for mut bone in waiting {
            let parent = parents.get(&bone.name);
            let index = parent.and_then(|parent| ordered.iter().position(|known| known.name == *parent));
            if bone.name == "root" || index.is_some() {
                bone.parent = index;
                ordered.push(bone);
            } else {
                rest.push(bone);
            }
        }
        if rest.len() == before {
            return Err(format!("has a bone '{}' that hangs nowhere in :hierarchy", rest[0].name));
        }
        waiting = rest;
    }
    Ok(ordered)
}
