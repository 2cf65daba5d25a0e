//! The readers of what clients send, for `fuzz/`: no part of the interface.

use pose::joint_map::Source;

use super::{
    inference,
    protocol::{self, Record, Said},
};

/// A text message of `/v1/stream`, as a stream of these joints reads it. `Ok` where it is understood.
///
/// # Errors
/// What its sender is told.
pub fn text(message: &str, source: Source) -> Result<(), String> {
    match protocol::read_text(message)? {
        Said::Open(_, open) => open.map(drop),
        Said::Line(_, line) => protocol::event(&line, source).map(drop),
    }
}

/// All records of a binary message. `Ok` where all are understood.
///
/// # Errors
/// What its sender is told.
pub fn binary(message: &[u8], source: Source) -> Result<(), String> {
    let mut rest = message;
    while !rest.is_empty() {
        if let Record::Frame { joints: Some(joints), .. } = protocol::take_record(&mut rest)? {
            protocol::joints(joints, source)?;
        }
    }
    Ok(())
}

/// The body of an infer request; its first two bytes stand for the header that says how long the JSON is. `true` where it is understood.
pub fn request(body: &[u8]) -> bool {
    let length = match body {
        [flag, length, ..] if flag % 2 == 1 => Some(usize::from(*length) + 256 * usize::from(flag / 64)),
        _ => None,
    };
    inference::read(body.get(2..).unwrap_or_default(), length).is_ok()
}
