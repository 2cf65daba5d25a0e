//! Biovision Hierarchy.

use std::path::Path;
use std::str::SplitWhitespace;

use nalgebra::{Rotation3, Vector3};

use super::{Rig, RigFrame, RigMotion, plain_name};
use crate::Error;

/// Joints of any rig, fingers included.
const MOST_JOINTS: usize = 1024;

/// What a number of a frame does.
#[derive(Clone, Copy)]
enum Channel {
    Position(usize),
    Rotation(usize),
}

struct Reader<'a> {
    path: &'a Path,
    words: SplitWhitespace<'a>,
}

impl<'a> Reader<'a> {
    fn refuse<T>(&self, problem: impl Into<String>) -> Result<T, Error> {
        Err(Error::content(self.path, problem))
    }

    fn word(&mut self) -> Result<&'a str, Error> {
        self.words.next().map_or_else(|| self.refuse("ends early: expected a whole BVH file"), Ok)
    }

    fn expect(&mut self, expected: &str) -> Result<(), Error> {
        let found = self.word()?;
        if found.eq_ignore_ascii_case(expected) {
            Ok(())
        } else {
            self.refuse(format!("has '{found}' where '{expected}' belongs: expected a BVH file"))
        }
    }

    fn number(&mut self) -> Result<f64, Error> {
        let word = self.word()?;
        match word.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(number),
            _ => self.refuse(format!("has '{word}' where a number belongs")),
        }
    }

    fn count(&mut self, what: &str) -> Result<usize, Error> {
        let word = self.word()?;
        word.parse().or_else(|_| self.refuse(format!("has '{word}' {what}: expected a whole number")))
    }

    fn vector(&mut self) -> Result<Vector3<f64>, Error> {
        Ok(Vector3::new(self.number()?, self.number()?, self.number()?))
    }
}

pub(super) fn parse(path: &Path, text: &str) -> Result<RigMotion, Error> {
    let mut reader = Reader { path, words: text.split_whitespace() };
    reader.expect("HIERARCHY")?;
    let (mut names, mut parents, mut offsets, mut channels) = (Vec::new(), Vec::new(), Vec::new(), Vec::<(usize, Channel)>::new());
    let mut open: Vec<usize> = Vec::new();
    loop {
        let word = reader.word()?;
        match word.to_ascii_uppercase().as_str() {
            "ROOT" | "JOINT" | "END" => {
                let name = reader.word()?;
                let parent = open.last().copied();
                let name = match parent {
                    Some(parent) if word.eq_ignore_ascii_case("END") => format!("{}end", names[parent]),
                    _ => plain_name(name),
                };
                reader.expect("{")?;
                if names.len() == MOST_JOINTS {
                    return reader.refuse(format!("has more than {MOST_JOINTS} joints"));
                }
                names.push(name);
                parents.push(parent);
                offsets.push(Vector3::zeros());
                open.push(names.len() - 1);
            }
            "OFFSET" => match open.last() {
                Some(&joint) => offsets[joint] = reader.vector()?,
                None => return reader.refuse("has an OFFSET outside of any joint"),
            },
            "CHANNELS" => {
                let Some(&joint) = open.last() else { return reader.refuse("has CHANNELS outside of any joint") };
                for _ in 0..reader.count("as the number of CHANNELS")?.min(6) {
                    let word = reader.word()?;
                    let axis = match word.as_bytes().first().map(u8::to_ascii_lowercase) {
                        Some(axis @ b'x'..=b'z') => usize::from(axis - b'x'),
                        _ => return reader.refuse(format!("has a channel '{word}': expected such as Xposition or Zrotation")),
                    };
                    let channel = match word[1..].to_ascii_lowercase().as_str() {
                        "position" => Channel::Position(axis),
                        "rotation" => Channel::Rotation(axis),
                        _ => return reader.refuse(format!("has a channel '{word}': expected such as Xposition or Zrotation")),
                    };
                    channels.push((joint, channel));
                }
            }
            "}" => {
                if open.pop().is_none() {
                    return reader.refuse("has a } too many");
                }
            }
            "MOTION" if open.is_empty() && !names.is_empty() => break,
            _ => return reader.refuse(format!("has '{word}' in its hierarchy: expected a BVH file")),
        }
    }
    reader.expect("Frames:")?;
    let frames = reader.count("as the number of frames")?;
    reader.expect("Frame")?;
    reader.expect("Time:")?;
    let frame_time_s = reader.number()?;
    if !(0.001..=1.0).contains(&frame_time_s) {
        return reader.refuse(format!("has a frame time of {frame_time_s} s: expected 0.001 to 1"));
    }
    // each number takes two bytes or more: what cannot be there is not made room for
    if frames.saturating_mul(channels.len()) > text.len() {
        return reader.refuse(format!("says {frames} frames of {} numbers and is too short for them", channels.len()));
    }

    let mut rest: Vec<Vector3<f64>> = Vec::with_capacity(names.len());
    for (joint, parent) in parents.iter().enumerate() {
        rest.push(parent.map_or(Vector3::zeros(), |parent: usize| rest[parent]) + offsets[joint]);
    }
    let mut read = Vec::with_capacity(frames);
    for _ in 0..frames {
        let (mut local, mut placed) = (offsets.clone(), vec![false; names.len()]);
        let mut turned = vec![Rotation3::identity(); names.len()];
        for &(joint, channel) in &channels {
            let value = reader.number()?;
            match channel {
                Channel::Position(axis) => {
                    // a position takes the place of the offset
                    if !std::mem::replace(&mut placed[joint], true) {
                        local[joint] = Vector3::zeros();
                    }
                    local[joint][axis] = value;
                }
                Channel::Rotation(axis) => {
                    turned[joint] *=
                        Rotation3::from_axis_angle(&[Vector3::x_axis(), Vector3::y_axis(), Vector3::z_axis()][axis], value.to_radians());
                }
            }
        }
        let mut frame = RigFrame { positions: Vec::with_capacity(names.len()), rotations: Vec::with_capacity(names.len()) };
        for (joint, parent) in parents.iter().enumerate() {
            let (place, rotation) = match *parent {
                Some(parent) => (frame.positions[parent] + frame.rotations[parent] * local[joint], frame.rotations[parent] * turned[joint]),
                None => (local[joint], turned[joint]),
            };
            frame.positions.push(place);
            frame.rotations.push(rotation);
        }
        read.push(frame);
    }
    let head_is_top = names.iter().any(|name| name == "nose");
    Ok(RigMotion { rig: Rig { names, parents, rest, head_is_top }, frames: read, fps: 1.0 / frame_time_s })
}
