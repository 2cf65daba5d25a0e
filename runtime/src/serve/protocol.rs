//! The messages of `/v1/stream`, as docs/server.md describes them byte by byte.

use formats::keypoints::{Line, LineEvent, StreamId};
use pose::{JOINTS, Keypoint, Keypoints17, joint_map::Source};
use serde::{Deserialize, Serialize};

use super::slot::{Drops, Ended, Form, Out};
use crate::{StreamPose, StreamSettings};

/// Size of the head of a record from a client.
pub const RECORD_HEAD: usize = 16;
/// Size of a joint in a frame.
pub const JOINT_BYTES: usize = 12;
/// Size of a pose.
pub const POSE_BYTES: usize = 776;

const FRAME: u8 = 1;
const END: u8 = 2;
const POSE: u8 = 0x81;
/// Flag of a frame: nobody is seen, and no joints follow.
const NOBODY: u8 = 1;

/// What a stream is opened with.
#[derive(Clone, Debug)]
pub(super) struct Open {
    /// How poses come back.
    pub form: Form,
    pub settings: StreamSettings,
}

/// The answer to [`Open`].
#[derive(Debug, Serialize)]
pub(super) struct Opened<'a> {
    /// The number that stands for the stream in binary records.
    pub stream: u32,
    pub model: &'a str,
    pub skeleton: Source,
    /// Joints of a frame.
    pub joints: usize,
    /// Frames a second that the model was trained at.
    pub fps: f64,
    /// The longest delay of a stream that comes at that rate.
    pub delay_s: f64,
    pub form: Form,
}

/// What a client's text says.
pub(super) enum Said {
    Open(Option<StreamId>, Result<Box<Open>, String>),
    /// A frame or an end: whose joints it holds is known when its stream is.
    Line(Option<StreamId>, Line),
}

/// Reads a text message.
///
/// # Errors
/// No JSON, or an id that is none.
pub(super) fn read_text(text: &str) -> Result<Said, String> {
    let line = Line::parse(text.as_bytes()).map_err(|error| error.to_string().replacen("the line", "the message", 1))?;
    let id = line.id().map_err(|error| error.to_string())?;
    Ok(match line.field("open") {
        Some(open) => Said::Open(id, read_open(open).map(Box::new)),
        None => Said::Line(id, line),
    })
}

fn read_open(open: &serde_json::Value) -> Result<Open, String> {
    let mut fields = open.as_object().ok_or("expected 'open' to be an object with the stream's settings")?.clone();
    let form = fields.remove("form").map_or(Ok(Form::default()), Form::deserialize);
    let form = form.map_err(|error| format!("the stream's settings: 'form': {error}"))?;
    let settings = StreamSettings::deserialize(serde_json::Value::Object(fields));
    Ok(Open { form, settings: settings.map_err(|error| format!("the stream's settings: {error}"))? })
}

/// One record of a binary message.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Record<'a> {
    Frame {
        stream: u32,
        time_s: f64,
        /// Joints of 12 bytes; `None` = nobody is seen.
        joints: Option<&'a [u8]>,
    },
    End {
        stream: u32,
    },
}

/// Takes the first record off a binary message.
///
/// # Errors
/// One sentence on what is wrong; what follows in the message cannot be told from it and is lost too.
pub(super) fn take_record<'a>(bytes: &mut &'a [u8]) -> Result<Record<'a>, String> {
    let found = bytes.len();
    let Some((head, rest)) = bytes.split_first_chunk::<RECORD_HEAD>() else {
        return Err(format!("expected a record of at least {RECORD_HEAD} bytes, found {found}"));
    };
    // u8 type, u8 flags, u16 joints, u32 stream, f64 time_s
    let &[kind, flags, j0, j1, s0, s1, s2, s3, time_s @ ..] = head;
    let joints = usize::from(u16::from_le_bytes([j0, j1]));
    let stream = u32::from_le_bytes([s0, s1, s2, s3]);
    let time_s = f64::from_le_bytes(time_s);
    match (kind, flags) {
        (END, 0) if joints == 0 => {
            *bytes = rest;
            Ok(Record::End { stream })
        }
        (FRAME, NOBODY) if joints == 0 => {
            *bytes = rest;
            Ok(Record::Frame { stream, time_s, joints: None })
        }
        (FRAME, 0) => {
            let Some((joints, rest)) = rest.split_at_checked(joints * JOINT_BYTES) else {
                return Err(format!(
                    "expected {} bytes for a frame of {joints} joints, found {found}: the record is cut short",
                    RECORD_HEAD + joints * JOINT_BYTES
                ));
            };
            *bytes = rest;
            Ok(Record::Frame { stream, time_s, joints: Some(joints) })
        }
        (FRAME | END, _) => Err(format!("a record of type {kind} with the flags {flags} and {joints} joints is not known")),
        _ => Err(format!("expected a record of type 1 (frame) or 2 (end), found {kind}")),
    }
}

/// The joints of a [`Record::Frame`], in Human3.6M's order.
///
/// # Errors
/// The wrong number of joints, a number that is not finite, a confidence outside 0..=1.
pub(super) fn joints(bytes: &[u8], source: Source) -> Result<Keypoints17, String> {
    let (joints, _) = bytes.as_chunks::<JOINT_BYTES>();
    if joints.len() != source.joints() {
        return Err(format!("expected {} joints of {source}, found {}", source.joints(), joints.len()));
    }
    let keypoints: Vec<Keypoint> = joints
        .iter()
        .map(|joint| {
            let [x_px, y_px, confidence] =
                std::array::from_fn(|k| f32::from_le_bytes([joint[4 * k], joint[4 * k + 1], joint[4 * k + 2], joint[4 * k + 3]]));
            Keypoint::new(x_px, y_px, confidence)
        })
        .collect();
    if let Some((joint, Keypoint { x_px, y_px, confidence })) = keypoints.iter().enumerate().find(|(_, keypoint)| !keypoint.is_valid()) {
        return Err(format!(
            "joint {joint}: expected finite pixels within ±1000000 and a confidence from 0 to 1, found x {x_px}, y {y_px}, confidence {confidence}; \
             mark a missing joint by confidence 0"
        ));
    }
    source.to_h36m(&keypoints).map_err(|error| error.to_string())
}

/// What a line says, for a stream of these joints.
///
/// # Errors
/// As [`Line::event`].
pub(super) fn event(line: &Line, source: Source) -> Result<LineEvent, String> {
    line.event(source).map_err(|error| error.to_string())
}

#[derive(Serialize)]
struct PoseText<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a StreamId>,
    #[serde(flatten)]
    pose: &'a StreamPose,
}

#[derive(Serialize)]
struct ErrorText<'a> {
    error: &'a str,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a StreamId>,
}

/// A message of one field, and the stream it is about.
#[derive(Serialize)]
struct Text<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    opened: Option<&'a Opened<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dropped: Option<Drops>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<Ended>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a StreamId>,
}

fn text(value: &impl Serialize) -> String {
    // only maps with keys that are no texts fail, and there are none
    serde_json::to_string(value).unwrap_or_default()
}

pub(super) fn opened_text(opened: &Opened<'_>, id: Option<&StreamId>) -> String {
    text(&Text { opened: Some(opened), dropped: None, ended: None, stream: None, id })
}

/// `code` says in one word what `error` says in a sentence; `message` is the number of the client's message, from 1.
pub(super) fn error_text(code: &str, error: &str, message: Option<u64>, id: Option<&StreamId>) -> String {
    text(&ErrorText { error, code, message, stream: None, id })
}

/// A message as it goes over the network.
pub(super) enum Written {
    Text(String),
    Binary(Vec<u8>),
}

pub(super) fn write(out: Out) -> Written {
    let about =
        |stream, dropped, ended, id: Option<StreamId>| text(&Text { opened: None, dropped, ended, stream: Some(stream), id: id.as_ref() });
    Written::Text(match out {
        Out::Text(text) => text,
        Out::Pose { form: Form::Binary, stream, pose, .. } => return Written::Binary(pose_bytes(stream, &pose)),
        Out::Pose { form: Form::Json, id, pose, .. } => text(&PoseText { id: id.as_ref(), pose: &pose }),
        Out::Drops { id, stream, drops } => about(stream, Some(drops), None, id),
        Out::Ended { id, stream, ended } => about(stream, None, Some(ended), id),
        Out::Error { id, stream, code, message, error } => {
            text(&ErrorText { error: &error, code, message, stream: Some(stream), id: id.as_ref() })
        }
    })
}

/// [`POSE_BYTES`] bytes, see docs/server.md.
pub(super) fn pose_bytes(stream: u32, pose: &StreamPose) -> Vec<u8> {
    let given_height = pose.scale_source == pose::world::ScaleSource::Height;
    let flags = u8::from(pose.held) | u8::from(pose.restarted) << 1 | u8::from(given_height) << 2;
    let mut bytes = Vec::with_capacity(POSE_BYTES);
    bytes.extend([POSE, flags]);
    bytes.extend((JOINTS as u16).to_le_bytes());
    bytes.extend(stream.to_le_bytes());
    bytes.extend(pose.time_s.to_le_bytes());
    let mut put = |values: &[f32]| bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    put(&[pose.delay_s as f32, pose.root_depth_mm, pose.height_m]);
    put(&pose.root_px);
    put(&pose.transform.centre_px);
    put(&[pose.transform.half_size_px]);
    put(pose.world_from_camera.rotation.as_flattened());
    put(&pose.world_from_camera.translation_mm);
    put(&pose.confidence);
    put(pose.pose25.as_flattened());
    put(pose.camera_mm.as_flattened());
    put(pose.world_mm.as_flattened());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(stream: u32, time_s: f64, joints: &[[f32; 3]]) -> Vec<u8> {
        let mut bytes = vec![FRAME, 0];
        bytes.extend((joints.len() as u16).to_le_bytes());
        bytes.extend(stream.to_le_bytes());
        bytes.extend(time_s.to_le_bytes());
        bytes.extend(joints.as_flattened().iter().flat_map(|value| value.to_le_bytes()));
        bytes
    }

    #[test]
    fn records_follow_each_other() {
        let mut bytes = frame(3, 1.5, &[[1.0, 2.0, 0.5]; 17]);
        bytes.extend([1, 1, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f]); // nobody, stream 4, 1.5 s
        bytes.extend([2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // end, stream 256
        let rest = &mut &bytes[..];
        let Ok(Record::Frame { stream: 3, time_s: 1.5, joints: Some(found) }) = take_record(rest) else { panic!() };
        assert_eq!(joints(found, Source::H36m17).unwrap()[16], Keypoint::new(1.0, 2.0, 0.5));
        assert!(joints(found, Source::Body25).unwrap_err().contains("expected 25 joints of body25, found 17"));
        assert_eq!(take_record(rest), Ok(Record::Frame { stream: 4, time_s: 1.5, joints: None }));
        assert_eq!(take_record(rest), Ok(Record::End { stream: 256 }));
        assert!(rest.is_empty());
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let whole = frame(0, 0.0, &[[1.0, 2.0, 0.5]; 17]);
        for length in 0..whole.len() {
            assert!(take_record(&mut &whole[..length]).is_err());
        }
        for (at, value) in [(0, 0), (0, 3), (0, 0x81), (1, 1), (1, 2), (3, 0xff)] {
            let mut bad = whole.clone();
            bad[at] = value;
            assert!(take_record(&mut &bad[..]).is_err(), "byte {at} = {value}");
        }
        for bad in [[f32::NAN, 0.0, 0.5], [0.0, f32::INFINITY, 0.5], [0.0, 0.0, 1.5], [2e6, 0.0, 0.5]] {
            let bytes = frame(0, 0.0, &[bad; 17]);
            assert!(joints(&bytes[RECORD_HEAD..], Source::H36m17).unwrap_err().contains("joint 0"));
        }
    }

    #[test]
    fn settings_are_told_from_frames() {
        let Ok(Said::Open(Some(StreamId::Number(7)), Ok(open))) =
            read_text(r#"{"id": 7, "open": {"image": {"width": 640, "height": 480}, "form": "binary", "hop": 2}}"#)
        else {
            panic!()
        };
        assert_eq!((open.form, open.settings.hop, open.settings.image.width_px), (Form::Binary, Some(2), 640));
        for bad in [
            r#"{"open": 3}"#,
            r#"{"open": {}}"#,
            r#"{"open": {"image": {"width": 640, "height": 480}, "form": "xml"}}"#,
            r#"{"open": {"image": {"width": 640, "height": 480}, "hopp": 1}}"#,
        ] {
            assert!(matches!(read_text(bad), Ok(Said::Open(None, Err(_)))), "{bad}");
        }
        assert!(matches!(read_text(r#"{"time_s": 0, "keypoints": null}"#), Ok(Said::Line(None, _))));
        assert!(read_text("{").is_err() && read_text(r#"{"id": [1]}"#).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let rest = &mut &bytes[..];
            while let Ok(record) = take_record(rest) {
                if let Record::Frame { joints: Some(found), .. } = record {
                    let _ = joints(found, Source::H36m17);
                }
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
            let _ = read_text(&text);
        }
    }
}
