//! What OpenPose and AlphaPose write: many people a frame, one of whom becomes the clip.

use super::{Times, clip, describe, parse_json};
use crate::aside::read_file;
use crate::error::{Error, Result, refuse};
use pose::{ImageSize, Keypoint, KeypointClip, joint_map::Source};
use serde_json::Value as Json;
use std::{collections::BTreeMap, path::Path};

/// What a detector's files do not say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DetectorClip {
    /// Frames a second of the video, above 0.
    pub fps: f64,
    /// Size of its pictures.
    pub image: ImageSize,
    /// Whom to take.
    pub person: PersonChoice,
}

/// Whom to take where a frame shows several people. Someone's size is the longer side of the box around the visible keypoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PersonChoice {
    /// The largest of each frame. Right for one person in front of passers-by; two of a size are mixed up.
    Largest,
    /// The largest of the first frame that shows anyone; from then on whoever is nearest to the person of the frame before:
    /// least mean distance of the keypoints that both show. Whoever is there when the person has left is taken for the person.
    #[default]
    Nearest,
}

/// Frames between the first and the last file beyond what the files themselves explain.
const LONGEST_GAP_FRAMES: u64 = 100_000;

type People = Vec<Vec<Keypoint>>;

/// Reads the folder that OpenPose fills with `--write_json`: `NAME_000000000000_keypoints.json`, one file for each frame, model
/// BODY_25 (its default) or HALPE_26 (as Pose2Sim writes such files), coordinates in pixels (`--keypoint_scale 0`, its default).
///
/// The number in a file's name is the frame; the first is at 0 s, and a number that is absent is a frame in which nothing was
/// seen. Confidences above 1, which its heat maps have now and then, become 1.
///
/// # Errors
/// One sentence that names the folder or the file: it cannot be read; no such file; files of two videos; no frame shows a
/// person; another model than these; a value that is no finite number; coordinates that are not pixels.
pub fn read_openpose(folder: &Path, options: &DetectorClip) -> std::result::Result<KeypointClip, Error> {
    let read = || -> Result<_> {
        let mut frames = BTreeMap::new();
        let mut video: Option<String> = None;
        let mut model: Option<Source> = None;
        for entry in std::fs::read_dir(folder).map_err(|source| Error::io("read", folder, source))? {
            let path = entry.map_err(|source| Error::io("read", folder, source))?.path();
            let Some(stem) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix("_keypoints.json")) else {
                continue;
            };
            let Some((name, number)) = frame_number(stem) else {
                refuse!("file '{stem}_keypoints.json' has no frame number: expected NAME_000000000000_keypoints.json");
            };
            if let Some(other) = video.as_deref().filter(|other| *other != name) {
                refuse!("holds the videos '{other}' and '{name}': expected one, give each a folder of its own");
            }
            video = Some(name.to_owned());
            let people = openpose_people(&path, &mut model).map_err(|error| error.in_file(&path))?;
            if frames.insert(number, people).is_some() {
                refuse!("frame {number} of '{name}' is there twice: remove one of the files");
            }
        }
        if frames.is_empty() {
            refuse!("holds no *_keypoints.json: expected the folder that OpenPose was given as --write_json");
        }
        one_person(model.unwrap_or(Source::Body25), frames, options)
    };
    read().map_err(|error| error.in_file(folder))
}

/// Reads AlphaPose's `alphapose-results.json` in its default format: a list of `{"image_id", "keypoints", "score", ...}`, one for
/// each person in each frame, in any order. COCO's 17 and 133 keypoints and Halpe's 26 and 136 are understood, see
/// [`pose::joint_map`]; the number of keypoints tells which.
///
/// The last number in an `image_id` (`12.jpg`, `video_000012.png`) is the frame; the first is at 0 s, and a number that is absent
/// is a frame in which nobody was seen. Confidences above 1 become 1.
///
/// # Errors
/// One sentence that names the file: it cannot be read, is truncated or in another of AlphaPose's formats, an entry lacks
/// `image_id` or `keypoints`, the number of keypoints is unknown or changes, a value is no finite number, the coordinates are not
/// pixels.
pub fn read_alphapose(path: &Path, options: &DetectorClip) -> std::result::Result<KeypointClip, Error> {
    let read = || -> Result<_> {
        let json = parse_json(&read_file(path)?)?;
        let Json::Array(entries) = &json else {
            refuse!("expected AlphaPose's default format, a list of one entry for each person in each frame, found {}", describe(&json));
        };
        let mut found: Option<(Source, usize)> = None;
        let mut frames = BTreeMap::<u64, People>::new();
        for (index, entry) in entries.iter().enumerate() {
            let id = match &entry["image_id"] {
                Json::String(id) => id.clone(),
                Json::Number(id) => id.to_string(),
                other => refuse!("entry {index}: expected 'image_id' to be the name of a picture, found {}", describe(other)),
            };
            let stem = id.rsplit_once('.').map_or(id.as_str(), |(stem, _)| stem);
            let Some((_, number)) = frame_number(stem) else {
                refuse!("entry {index}: 'image_id' is '{id}': expected a name with the number of the frame");
            };
            let keypoints = triples(&entry["keypoints"]).map_err(|what| Error::content(format!("entry {index}, 'keypoints': {what}")))?;
            let (source, count) = *found.get_or_insert((alphapose_source(keypoints.len())?, keypoints.len()));
            if keypoints.len() != count {
                refuse!("entry {index} has {} keypoints and those before it {count}: expected the same model throughout", keypoints.len());
            }
            frames.entry(number).or_default().push(keypoints.into_iter().take(source.joints()).collect());
        }
        let Some((source, _)) = found else { refuse!("lists nobody: expected at least one person in one frame") };
        one_person(source, frames, options)
    };
    read().map_err(|error| error.in_file(path))
}

fn alphapose_source(keypoints: usize) -> Result<Source> {
    match keypoints {
        17 => Ok(Source::Coco17),
        26 | 136 => Ok(Source::Halpe26), // the body of Halpe's full body comes first
        133 => Ok(Source::CocoWholeBody133),
        _ => refuse!("has {keypoints} keypoints for a person: expected 17 or 133 (COCO) or 26 or 136 (Halpe)"),
    }
}

/// What stands before the last number of a name, and that number.
fn frame_number(stem: &str) -> Option<(&str, u64)> {
    let end = stem.rfind(|c: char| c.is_ascii_digit())? + 1;
    let start = stem[..end].rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + stem[at..].chars().next().map_or(1, char::len_utf8));
    Some((&stem[..start], stem[start..end].parse().ok()?))
}

/// `model` is that of the files before, if any of them showed somebody.
fn openpose_people(path: &Path, model: &mut Option<Source>) -> Result<People> {
    let json = parse_json(&read_file(path)?)?;
    let Json::Array(people) = &json["people"] else { refuse!("expected 'people' as a list, found {}", describe(&json["people"])) };
    let person = |(index, person): (usize, &Json)| {
        let keypoints =
            triples(&person["pose_keypoints_2d"]).map_err(|what| Error::content(format!("person {index}, 'pose_keypoints_2d': {what}")))?;
        let found = [Source::Body25, Source::Halpe26].into_iter().find(|source| source.joints() == keypoints.len());
        match (found, *model) {
            (None, _) => refuse!(
                "person {index} has {} keypoints: expected the 25 of BODY_25, OpenPose's default model, or the 26 of HALPE_26, Pose2Sim's",
                keypoints.len()
            ),
            (Some(found), Some(before)) if found != before => refuse!(
                "person {index} has {} keypoints and those before {}: expected the same model throughout",
                keypoints.len(),
                before.joints()
            ),
            (found, _) => *model = found,
        }
        Ok(keypoints)
    };
    people.iter().enumerate().map(person).collect()
}

/// x, y, confidence, x, y, ... as keypoints; the detectors write zeros for a missing one.
fn triples(json: &Json) -> std::result::Result<Vec<Keypoint>, String> {
    let Json::Array(numbers) = json else { return Err(format!("expected a list x, y, confidence, ..., found {}", describe(json))) };
    let (triples, rest) = numbers.as_chunks::<3>();
    if !rest.is_empty() || triples.is_empty() {
        return Err(format!("expected three numbers for each keypoint, found {} numbers", numbers.len()));
    }
    let keypoint = |(index, triple): (usize, &[Json; 3])| {
        let mut values = [0.0; 3];
        for (value, json) in values.iter_mut().zip(triple) {
            match json.as_f64() {
                Some(number) if (number as f32).is_finite() => *value = number as f32,
                _ => return Err(format!("keypoint {index}: expected finite numbers, found {}", describe(json))),
            }
        }
        let [x_px, y_px, confidence] = values;
        let seen = Keypoint { x_px, y_px, confidence: confidence.min(1.0) };
        Ok(if confidence > 0.0 { seen } else { Keypoint::MISSING })
    };
    triples.iter().enumerate().map(keypoint).collect()
}

fn one_person(source: Source, frames: BTreeMap<u64, People>, options: &DetectorClip) -> Result<KeypointClip> {
    let (Some((&first, _)), Some((&last, _))) = (frames.first_key_value(), frames.last_key_value()) else {
        refuse!("has no frames: expected at least one");
    };
    let span = last - first;
    if span > LONGEST_GAP_FRAMES + 10 * frames.len() as u64 {
        refuse!("has {} frames numbered from {first} to {last}: expected the frames of one video without such gaps", frames.len());
    }
    let seen = || frames.values().flatten().flatten().filter(|k| !k.is_missing());
    if seen().next().is_none() {
        refuse!("shows nobody in any of its {} frames: is this the right video?", frames.len());
    }
    if seen().all(|k| k.x_px.abs() <= 1.0 && k.y_px.abs() <= 1.0) {
        refuse!("has no coordinate above 1: expected pixels, run the detector without normalised keypoints");
    }
    let mut chosen = vec![vec![Keypoint::MISSING; source.joints()]; span as usize + 1];
    let mut before: Option<Vec<Keypoint>> = None;
    for (number, people) in frames {
        let people = people.into_iter().filter(|person| person.iter().any(|k| !k.is_missing()));
        let person = match (options.person, &before) {
            (PersonChoice::Nearest, Some(before)) => {
                people.min_by(|a, b| distance_px(before, a).total_cmp(&distance_px(before, b)).then(extent_px(b).total_cmp(&extent_px(a))))
            }
            _ => people.max_by(|a, b| extent_px(a).total_cmp(&extent_px(b))),
        };
        if let Some(person) = person {
            chosen[(number - first) as usize].clone_from(&person);
            before = Some(person);
        }
    }
    clip(source, options.image, Times::Fps(options.fps), &chosen)
}

/// Longer side of the box around the visible keypoints.
fn extent_px(person: &[Keypoint]) -> f32 {
    let side = |of: fn(&Keypoint) -> f32| {
        let values = || person.iter().filter(|k| !k.is_missing()).map(of);
        values().fold(f32::NEG_INFINITY, f32::max) - values().fold(f32::INFINITY, f32::min)
    };
    side(|k| k.x_px).max(side(|k| k.y_px))
}

/// Mean distance of the keypoints that both show; infinite where there are none.
fn distance_px(a: &[Keypoint], b: &[Keypoint]) -> f32 {
    let both = a.iter().zip(b).filter(|(a, b)| !a.is_missing() && !b.is_missing());
    let (sum, count) = both.fold((0.0, 0), |(sum, count), (a, b)| (sum + (a.x_px - b.x_px).hypot(a.y_px - b.y_px), count + 1));
    if count == 0 { f32::INFINITY } else { sum / count as f32 }
}
