//! Keypoints as lines of JSON, one frame each: what a live source writes and `runtime lift --stream` reads.

use super::{describe, json_frame, parse_json};
use crate::error::{Error, Result, refuse};
use pose::{Keypoint, Keypoints17, joint_map::Source};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use std::fmt;

/// Longest text that names a stream, in bytes.
pub const LONGEST_STREAM_ID: usize = 128;

/// Which of several streams a line belongs to: a text or a whole number, as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StreamId {
    /// A whole number.
    Number(i64),
    /// A text of at most [`LONGEST_STREAM_ID`] bytes.
    Text(String),
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// What a line says.
#[allow(clippy::large_enum_variant)] // there is one at a time
#[derive(Clone, Debug, PartialEq)]
pub enum LineEvent {
    /// One frame.
    Frame {
        /// Its time in seconds.
        time_s: f64,
        /// The person's joints; `None` where nobody is seen.
        keypoints: Option<Keypoints17>,
    },
    /// The stream ends.
    End,
}

/// Reads one line: the stream that it names, as far as that can be told, and what it says of it.
///
/// ```json
/// {"time_s": 12.345, "keypoints": [[960.5, 210.0, 0.98], null, "... as many as the skeleton has"], "id": "left camera"}
/// {"time_s": 12.378, "keypoints": null, "id": "left camera"}
/// {"end": true, "id": "left camera"}
/// ```
/// * `time_s`: seconds, rising within a stream.
/// * `keypoints`: the joints of one person in the order of `source`, as in a keypoint file (`[x_px, y_px, confidence]`, `[x_px,
///   y_px]` or `null`); `null` for a frame in which nobody is seen.
/// * `id` (optional): a text or a whole number that tells several streams apart.
/// * `end`: `true` for a stream that ends.
///
/// Fields of other names are not looked at.
///
/// # Errors
/// One sentence: no JSON object, a field that is absent or of the wrong type, the wrong number of joints, a number that is not finite.
pub fn parse_line(line: &[u8], source: Source) -> (Option<StreamId>, std::result::Result<LineEvent, Error>) {
    let line = match Line::parse(line) {
        Ok(line) => line,
        Err(error) => return (None, Err(error)),
    };
    match line.id() {
        Ok(id) => (id, line.event(source)),
        Err(error) => (None, Err(error)),
    }
}

/// A line of which it is not known yet whose joints it holds: [`parse_line`] for streams of several skeletons.
#[derive(Clone, Debug)]
pub struct Line {
    json: Json,
}

impl Line {
    /// Reads JSON, and no more.
    ///
    /// # Errors
    /// No JSON.
    pub fn parse(line: &[u8]) -> std::result::Result<Self, Error> {
        let json = parse_json(line).map_err(|error| Error::content(format!("the line {error}")))?;
        Ok(Self { json })
    }

    /// The stream that it names.
    ///
    /// # Errors
    /// Neither a text nor a whole number, or a text that is too long.
    pub fn id(&self) -> std::result::Result<Option<StreamId>, Error> {
        stream_id(&self.json)
    }

    /// A field that [`Self::event`] does not look at.
    pub fn field(&self, name: &str) -> Option<&Json> {
        self.json.get(name)
    }

    /// What it says of the stream.
    ///
    /// # Errors
    /// As [`parse_line`].
    pub fn event(&self, source: Source) -> std::result::Result<LineEvent, Error> {
        event(&self.json, source)
    }
}

fn stream_id(json: &Json) -> Result<Option<StreamId>> {
    match &json["id"] {
        Json::Null => Ok(None),
        Json::String(text) if text.len() <= LONGEST_STREAM_ID => Ok(Some(StreamId::Text(text.clone()))),
        Json::String(text) => refuse!("expected 'id' to have at most {LONGEST_STREAM_ID} bytes, found {}", text.len()),
        other => match other.as_i64() {
            Some(number) => Ok(Some(StreamId::Number(number))),
            None => refuse!("expected 'id' to be a text or a whole number, found {}", describe(other)),
        },
    }
}

fn event(json: &Json, source: Source) -> Result<LineEvent> {
    let Json::Object(fields) = json else { refuse!("expected a JSON object, found {}", describe(json)) };
    match &json["end"] {
        Json::Bool(true) => return Ok(LineEvent::End),
        Json::Bool(false) | Json::Null => {}
        other => refuse!("expected 'end' to be true or false, found {}", describe(other)),
    }
    let Some(time_s) = json["time_s"].as_f64() else {
        refuse!("expected 'time_s' to be the frame's time in seconds, found {}", describe(&json["time_s"]));
    };
    let keypoints = match fields.get("keypoints") {
        None => refuse!("expected 'keypoints' to be a list of {} joints, or null where nobody is seen, found nothing", source.joints()),
        Some(Json::Null) => None,
        Some(joints) => Some(joints_of(joints, source)?),
    };
    Ok(LineEvent::Frame { time_s, keypoints })
}

fn joints_of(json: &Json, source: Source) -> Result<Keypoints17> {
    let joints = json_frame(json, source)?;
    if let Some((joint, Keypoint { x_px, y_px, confidence })) = joints.iter().enumerate().find(|(_, keypoint)| !keypoint.is_valid()) {
        refuse!(
            "joint {joint}: expected finite pixels within ±1000000 and a confidence from 0 to 1, found x {x_px}, y {y_px}, confidence {confidence}; \
             mark a missing joint by null"
        );
    }
    source.to_h36m(&joints).map_err(|error| Error::content(error.to_string()))
}
