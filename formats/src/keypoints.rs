//! 2D keypoint files: one person over the frames of a clip, as JSON or NPZ. [`read`] tells them apart by their content.
//!
//! # JSON
//! ```json
//! {
//!   "format": "poselift-keypoints/1",
//!   "skeleton": "coco17",
//!   "image": {"width": 1920, "height": 1080},
//!   "fps": 30,
//!   "frames": [
//!     [[960.5, 210.0, 0.98], null, [955.0, 205.5, 0.9], "... as many as the skeleton has"],
//!     null
//!   ]
//! }
//! ```
//! * `skeleton`: `h36m17`, `blazepose33`, `coco17` or another of [`pose::joint_map`]; the joints of each frame stand in its order.
//! * `image`: the size of the picture in pixels.
//! * `fps`: frames a second, the first at 0 s; or `times_s`: one time in seconds for each frame, rising, which then decides.
//! * `frames`: for each frame its joints `[x_px, y_px, confidence]`: x right, y down from the top left corner, confidence from
//!   0 (missing) to 1; `[x_px, y_px]` means confidence 1, `null` a missing joint, and `null` for a frame that no joint was seen.
//!
//! # NPZ
//! | array | shape | meaning |
//! |---|---|---|
//! | `keypoints` | (frames, joints, 3), or 2 for confidence 1 | x_px, y_px, confidence, as above; a missing joint is 0, 0, 0 |
//! | `image_size` | (2) | width and height of the picture in pixels |
//! | `fps` or `times_s` | () or (frames) | as above |
//! | `skeleton` | text, optional | as above; without it 25, 26, 33 and 133 joints say themselves whose they are, and 17 are refused: they may be any of three |
//!
//! Both are mapped to the 17 joints of Human3.6M by [`pose::joint_map`]. [`write_json`] and [`write_npz`] write `h36m17` with
//! `times_s`. What OpenPose and AlphaPose write is read by [`read_openpose`] and [`read_alphapose`]. A live source writes one line of
//! JSON for each frame: [`parse_line`].

mod detectors;
mod line;

pub use detectors::{DetectorClip, PersonChoice, read_alphapose, read_openpose};
pub use line::{LONGEST_STREAM_ID, Line, LineEvent, StreamId, parse_line};

use crate::aside::{read_file, write_aside};
use crate::error::{Error, Result, refuse};
use crate::npz;
use crate::tensor::{Data, Tensor};
use crate::value::Value;
use pose::{ImageSize, Keypoint, KeypointClip, joint_map::Source};
use serde::Serialize;
use serde_json::Value as Json;
use std::{collections::BTreeMap, path::Path};

/// Value of `format` in a JSON file.
pub const FORMAT: &str = "poselift-keypoints/1";

/// Reads a keypoint file of either kind and maps it to the 17 joints.
///
/// # Errors
/// One sentence with the file's name: it cannot be read, is empty, or is neither kind; a field is absent or of the wrong
/// type; no frames; the wrong number of joints, NaN or infinity (with frame and joint); times that do not rise.
pub fn read(path: &Path) -> std::result::Result<KeypointClip, Error> {
    let read = || -> Result<KeypointClip> {
        let bytes = read_file(path)?;
        match bytes.trim_ascii_start() {
            [] => refuse!("is empty: expected 2D keypoints as JSON or NPZ"),
            [b'P', b'K', ..] => {
                drop(bytes);
                from_arrays(npz::read_values(path)?)
            }
            [b'{', ..] => from_json(&parse_json(&bytes)?),
            _ => refuse!("is no keypoint file: expected JSON (it starts with '{{') or NPZ"),
        }
    };
    read().map_err(|error| error.in_file(path))
}

/// Writes a clip as JSON. Aside, then renamed.
///
/// # Errors
/// If [`KeypointClip::validate`] refuses the clip, or the file cannot be written.
pub fn write_json(path: &Path, clip: &KeypointClip) -> std::result::Result<(), Error> {
    #[derive(Serialize)]
    struct File<'c> {
        format: &'static str,
        skeleton: Source,
        image: Image,
        times_s: &'c [f64],
        frames: Vec<Vec<Option<[f32; 3]>>>,
    }
    #[derive(Serialize)]
    struct Image {
        width: u32,
        height: u32,
    }
    check(clip).map_err(|error| error.in_file(path))?;
    let joint = |k: &Keypoint| (*k != Keypoint::MISSING).then_some([k.x_px, k.y_px, k.confidence]);
    let file = File {
        format: FORMAT,
        skeleton: Source::H36m17,
        image: Image { width: clip.image.width_px, height: clip.image.height_px },
        times_s: &clip.times_s,
        frames: clip.frames.iter().map(|frame| frame.iter().map(joint).collect()).collect(),
    };
    write_aside(path, |out| serde_json::to_writer(out, &file).map_err(|error| Error::io("write", path, error.into())))
}

/// Writes a clip as NPZ. Aside, then renamed.
///
/// # Errors
/// If [`KeypointClip::validate`] refuses the clip, or the file cannot be written.
pub fn write_npz(path: &Path, clip: &KeypointClip) -> std::result::Result<(), Error> {
    let members = || -> Result<_> {
        check(clip)?;
        let values = clip.frames.iter().flatten().flat_map(|k| [k.x_px, k.y_px, k.confidence]).collect();
        let size = Data::I64(vec![clip.image.width_px.into(), clip.image.height_px.into()]);
        Ok([
            ("keypoints", Tensor::new([clip.frames.len(), pose::JOINTS, 3], Data::F32(values))?.into()),
            ("image_size", Tensor::new([2], size)?.into()),
            ("times_s", Tensor::new([clip.times_s.len()], Data::F64(clip.times_s.clone()))?.into()),
            ("skeleton", Source::H36m17.name().into()),
        ])
    };
    npz::write_values(path, &members().map_err(|error| error.in_file(path))?)
}

fn check(clip: &KeypointClip) -> Result<()> {
    clip.validate().map_err(|error| Error::content(error.to_string()))
}

/// The clip of a file, once its fields are plain numbers.
fn clip(source: Source, image: ImageSize, times: Times, frames: &[Vec<Keypoint>]) -> Result<KeypointClip> {
    if frames.is_empty() {
        refuse!("has no frames: expected at least one");
    }
    let times_s = match times {
        Times::Fps(fps) if fps.is_finite() && fps > 0.0 => (0..frames.len()).map(|frame| frame as f64 / fps).collect(),
        Times::Fps(fps) => refuse!("expected 'fps' above 0, found {fps}"),
        Times::Each(times_s) => times_s,
    };
    let mapped = frames.iter().enumerate().map(|(frame, keypoints)| {
        if let Some((joint, k)) = keypoints.iter().enumerate().find(|(_, k)| !k.is_valid()) {
            let Keypoint { x_px, y_px, confidence } = *k;
            refuse!("{}", pose::Error::BadKeypoint { frame, joint, x_px, y_px, confidence });
        }
        source.to_h36m(keypoints).map_err(|error| Error::content(format!("frame {frame}: {error}")))
    });
    let clip = KeypointClip { frames: mapped.collect::<Result<_>>()?, times_s, image };
    check(&clip)?;
    Ok(clip)
}

enum Times {
    Fps(f64),
    /// Seconds, one for each frame.
    Each(Vec<f64>),
}

fn skeleton(name: &str) -> Result<Source> {
    name.parse().map_err(|error: pose::Error| Error::content(error.to_string()))
}

// --- JSON ---

/// Python's `json` writes NaN and Infinity, which are no JSON: they are read as texts, so that the error can say where they stand.
fn parse_json(bytes: &[u8]) -> Result<Json> {
    let error = match serde_json::from_slice(bytes) {
        Ok(json) => return Ok(json),
        Err(error) => error,
    };
    match serde_json::from_slice(&quote_non_finite(bytes)) {
        Ok(json) => Ok(json),
        Err(_) if error.is_eof() => refuse!("is truncated: the JSON ends too early ({error}); copy or write it again"),
        Err(_) => refuse!("is no valid JSON ({error})"),
    }
}

fn quote_non_finite(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let (mut at, mut in_text) = (0, false);
    while at < bytes.len() {
        let rest = &bytes[at..];
        let token = [&b"NaN"[..], b"-Infinity", b"Infinity"].into_iter().find(|token| !in_text && rest.starts_with(token));
        if let Some(token) = token {
            out.push(b'"');
            out.extend_from_slice(token);
            out.push(b'"');
            at += token.len();
            continue;
        }
        let escaped = in_text && rest[0] == b'\\' && rest.len() > 1;
        in_text ^= rest[0] == b'"';
        let taken = if escaped { 2 } else { 1 };
        out.extend_from_slice(&rest[..taken]);
        at += taken;
    }
    out
}

fn from_json(json: &Json) -> Result<KeypointClip> {
    match &json["format"] {
        Json::String(format) if format == FORMAT => {}
        Json::Null => refuse!("is no keypoint file: expected \"format\": \"{FORMAT}\""),
        other => refuse!("expected \"format\": \"{FORMAT}\", found {}", describe(other)),
    }
    let source = match &json["skeleton"] {
        Json::String(name) => skeleton(name)?,
        other => refuse!("expected 'skeleton' to be h36m17, blazepose33 or coco17, found {}", describe(other)),
    };
    let side = |name: &str| match json["image"][name].as_u64().and_then(|side| u32::try_from(side).ok()) {
        Some(side) if side > 0 => Ok(side),
        _ => Err(Error::content(format!("expected 'image' to have a '{name}' in whole pixels, found {}", describe(&json["image"][name])))),
    };
    let image = ImageSize { width_px: side("width")?, height_px: side("height")? };
    let times = match (&json["times_s"], &json["fps"]) {
        (Json::Array(times), _) => Times::Each(
            times
                .iter()
                .enumerate()
                .map(|(frame, time)| {
                    time.as_f64().ok_or_else(|| {
                        Error::content(format!("expected 'times_s' to hold seconds, found {} at frame {frame}", describe(time)))
                    })
                })
                .collect::<Result<_>>()?,
        ),
        (Json::Null, Json::Number(fps)) => Times::Fps(fps.as_f64().unwrap_or(f64::NAN)),
        (Json::Null, other) => refuse!("expected 'fps' as a number or 'times_s' as a list, found {}", describe(other)),
        (other, _) => refuse!("expected 'times_s' as a list of seconds, found {}", describe(other)),
    };
    let Json::Array(frames) = &json["frames"] else { refuse!("expected 'frames' as a list, found {}", describe(&json["frames"])) };
    let frames = frames.iter().enumerate().map(|(index, frame)| {
        json_frame(frame, source).map_err(|error| match error {
            // "frame 3, joint 5: ...", "frame 3: ..."
            Error::Content(what) if what.starts_with("joint ") => Error::content(format!("frame {index}, {what}")),
            Error::Content(what) => Error::content(format!("frame {index}: {what}")),
            other => other,
        })
    });
    let frames = frames.collect::<Result<Vec<_>>>()?;
    clip(source, image, times, &frames)
}

fn json_frame(json: &Json, source: Source) -> Result<Vec<Keypoint>> {
    match json {
        Json::Null => Ok(vec![Keypoint::MISSING; source.joints()]),
        Json::Array(joints) if joints.len() == source.joints() => joints
            .iter()
            .enumerate()
            .map(|(joint, json)| json_joint(json).map_err(|what| Error::content(format!("joint {joint}: {what}"))))
            .collect(),
        Json::Array(joints) => refuse!("expected {} joints for {source}, found {}", source.joints(), joints.len()),
        other => refuse!("expected a list of {} joints or null, found {}", source.joints(), describe(other)),
    }
}

fn json_joint(json: &Json) -> std::result::Result<Keypoint, String> {
    let numbers = match json {
        Json::Null => return Ok(Keypoint::MISSING),
        Json::Array(numbers) if matches!(numbers.len(), 2 | 3) => numbers,
        other => return Err(format!("expected [x_px, y_px, confidence] or null, found {}", describe(other))),
    };
    let number = |index: usize, name: &str| match numbers.get(index) {
        None => Ok(1.0), // no confidence given
        Some(Json::Number(number)) => Ok(number.as_f64().unwrap_or(f64::NAN) as f32),
        Some(other) => Err(format!("expected {name} to be a finite number, found {}; mark a missing joint by null", describe(other))),
    };
    Ok(Keypoint::new(number(0, "x_px")?, number(1, "y_px")?, number(2, "the confidence")?))
}

fn describe(json: &Json) -> String {
    match json {
        Json::Null => "nothing".into(),
        Json::Bool(value) => value.to_string(),
        Json::Number(number) => number.to_string(),
        Json::String(text) if matches!(text.as_str(), "NaN" | "Infinity" | "-Infinity") => text.clone(),
        Json::String(text) => format!("the text '{}'", text.chars().take(40).collect::<String>()),
        Json::Array(items) => format!("a list of {}", items.len()),
        Json::Object(_) => "an object".into(),
    }
}

// --- NPZ ---

fn from_arrays(arrays: BTreeMap<String, Value>) -> Result<KeypointClip> {
    let Some(keypoints) = arrays.get("keypoints") else {
        refuse!("has no array 'keypoints' of shape (frames, joints, 3); it has {}", arrays.keys().cloned().collect::<Vec<_>>().join(", "));
    };
    let shape = keypoints.as_tensor().map(|tensor| (tensor, tensor.shape.as_slice()));
    let Some((tensor, &[frame_count, joint_count, width @ (2 | 3)])) = shape else {
        refuse!("expected 'keypoints' of shape (frames, joints, 3), found {}", keypoints.describe());
    };
    let source = match arrays.get("skeleton") {
        Some(Value::Str(name)) => skeleton(name)?,
        Some(other) => refuse!("expected 'skeleton' to be a text, found {}", other.describe()),
        None => match joint_count {
            17 => refuse!("has 17 joints, which may be h36m17 or coco17 (or mpi3dhp17): add the array 'skeleton' with one of these names"),
            _ => match Source::ALL.into_iter().find(|source| source.joints() == joint_count) {
                Some(source) => source,
                None => refuse!("expected 17 joints (h36m17, coco17) or 33 (blazepose33), found {joint_count}"),
            },
        },
    };
    if joint_count != source.joints() {
        refuse!("expected {} joints for {source}, found {joint_count}", source.joints());
    }
    let image = match arrays.get("image_size").and_then(Value::as_tensor).map(Tensor::to_f64).as_deref() {
        Some(&[width, height]) => {
            let side = |pixels: f64| (pixels >= 1.0 && pixels <= f64::from(u32::MAX) && pixels.fract() == 0.0).then_some(pixels as u32);
            match (side(width), side(height)) {
                (Some(width_px), Some(height_px)) => ImageSize { width_px, height_px },
                _ => refuse!("expected 'image_size' to be width and height in whole pixels, found {width} and {height}"),
            }
        }
        _ => refuse!("expected an array 'image_size' of width and height in pixels"),
    };
    let times = match (arrays.get("times_s"), arrays.get("fps")) {
        (Some(Value::Tensor(times)), _) if times.shape.len() == 1 => Times::Each(times.to_f64()),
        (Some(other), _) => refuse!("expected 'times_s' to be one time in seconds for each frame, found {}", other.describe()),
        (None, Some(fps)) => match fps.as_f64() {
            Some(fps) => Times::Fps(fps),
            None => refuse!("expected 'fps' to be one number, found {}", fps.describe()),
        },
        (None, None) => refuse!("expected an array 'fps' or 'times_s'"),
    };
    let values = tensor.to_f32();
    let frames: Vec<Vec<Keypoint>> = (0..frame_count)
        .map(|frame| {
            let joint = |joint: usize| &values[(frame * joint_count + joint) * width..][..width];
            (0..joint_count).map(|j| Keypoint::new(joint(j)[0], joint(j)[1], joint(j).get(2).copied().unwrap_or(1.0))).collect()
        })
        .collect();
    clip(source, image, times, &frames)
}
