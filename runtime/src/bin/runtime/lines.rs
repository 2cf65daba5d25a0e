//! `runtime lift --stream`: lines of JSON in, lines of JSON out, for as many streams as the lines name. Lines come from standard input
//! or as datagrams; poses may go to avatars too ([`Vmc`]).

use std::{
    collections::HashMap,
    io::{BufRead, ErrorKind, Write},
    net::UdpSocket,
    sync::Arc,
    time::{Duration, Instant},
};

use formats::keypoints::{LineEvent, StreamId, parse_line};
use pose::{ImageSize, joint_map::Source};
use runtime::{LiftStream, Lifter, StreamOptions, StreamPose};
use serde::Serialize;

use crate::vmc::Vmc;

/// Longest line that is read, in bytes: 133 joints with all their digits fit ten times.
const LONGEST_LINE: usize = 1 << 16;
/// A stream that was not heard of for so long makes room for a new one when there are too many.
const IDLE: Duration = Duration::from_secs(10);

/// What the lines are lifted with.
pub struct Settings {
    pub lifter: Arc<Lifter>,
    pub image: ImageSize,
    pub source: Source,
    pub options: StreamOptions,
    /// Streams at a time.
    pub max_streams: usize,
}

/// What has been done, for the log.
#[derive(Debug, Default)]
pub struct Summary {
    pub lines: u64,
    pub poses: u64,
    pub refused: u64,
}

#[derive(Serialize)]
struct PoseLine<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a StreamId>,
    #[serde(flatten)]
    pose: &'a StreamPose,
}

#[derive(Serialize)]
struct ErrorLine<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a StreamId>,
    error: &'a str,
    /// Of the input, from 1.
    line: u64,
}

struct Open {
    stream: LiftStream,
    last_heard: Instant,
}

/// Lifts until the input ends, then what still waits for its look-ahead. What comes out is flushed after every line that comes in.
///
/// # Errors
/// Only those of reading and writing themselves: a line that is no good is answered by one that says so, and the next is read.
pub fn lift(input: impl BufRead, output: impl Write, settings: &Settings, vmc: Option<Vmc>) -> std::io::Result<Summary> {
    let mut session = Session::new(output, settings, vmc);
    let result = session.run(input);
    session.summary(result)
}

/// The same of datagrams, each a line of at most [`LONGEST_LINE`] bytes; without end, save that of who reads the output. What comes faster
/// than it is lifted waits in the system's buffer for the socket, and is lost beyond that.
///
/// # Errors
/// Only those of the socket and of writing.
pub fn lift_datagrams(socket: &UdpSocket, output: impl Write, settings: &Settings, vmc: Option<Vmc>) -> std::io::Result<Summary> {
    let mut session = Session::new(output, settings, vmc);
    let result = session.run_datagrams(socket);
    session.summary(result)
}

struct Session<'a, W> {
    settings: &'a Settings,
    output: W,
    vmc: Option<Vmc>,
    /// Whose poses go to `vmc`, which knows one person: the first who has any, until that stream is closed.
    shown: Option<Option<StreamId>>,
    open: HashMap<Option<StreamId>, Open>,
    summary: Summary,
}

impl<'a, W: Write> Session<'a, W> {
    fn new(output: W, settings: &'a Settings, vmc: Option<Vmc>) -> Self {
        Self { settings, output, vmc, shown: None, open: HashMap::new(), summary: Summary::default() }
    }

    fn summary(self, result: std::io::Result<()>) -> std::io::Result<Summary> {
        match result {
            // a reader that has had enough is no error
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(self.summary),
            result => result.map(|()| self.summary),
        }
    }

    fn run_datagrams(&mut self, socket: &UdpSocket) -> std::io::Result<()> {
        let mut datagram = vec![0; LONGEST_LINE + 1];
        loop {
            let length = match socket.recv(&mut datagram) {
                Ok(length) => length,
                // what the system says of datagrams that nobody took; none of ours
                Err(error)
                    if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset) =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            };
            self.summary.lines += 1;
            match &datagram[..length] {
                line if line.len() > LONGEST_LINE => self.refuse_too_long()?,
                line if line.trim_ascii().is_empty() => {}
                line => self.take(line)?,
            }
            self.output.flush()?;
        }
    }

    fn refuse_too_long(&mut self) -> std::io::Result<()> {
        self.refuse(None, &format!("expected a line of at most {LONGEST_LINE} bytes, found a longer one"))
    }

    fn run(&mut self, mut input: impl BufRead) -> std::io::Result<()> {
        let mut line = Vec::new();
        loop {
            match read_line(&mut input, &mut line)? {
                Line::End => break,
                Line::Whole => {
                    self.summary.lines += 1;
                    if !line.trim_ascii().is_empty() {
                        self.take(&line)?;
                    }
                }
                Line::TooLong => {
                    self.summary.lines += 1;
                    self.refuse_too_long()?;
                }
            }
            self.output.flush()?;
        }
        let mut ids: Vec<Option<StreamId>> = self.open.keys().cloned().collect();
        ids.sort();
        for id in ids {
            self.close(&id)?;
        }
        self.output.flush()
    }

    /// One line that is not empty.
    fn take(&mut self, line: &[u8]) -> std::io::Result<()> {
        let (id, event) = parse_line(line, self.settings.source);
        let (time_s, keypoints) = match event {
            Err(error) => return self.refuse(id.as_ref(), &error.to_string()),
            Ok(LineEvent::End) if self.open.contains_key(&id) => return self.close(&id),
            Ok(LineEvent::End) => return self.refuse(id.as_ref(), "there is no such stream to end"),
            Ok(LineEvent::Frame { time_s, keypoints }) => (time_s, keypoints),
        };
        if !self.open.contains_key(&id) {
            if let Err(refusal) = self.make_room()? {
                return self.refuse(id.as_ref(), &refusal);
            }
            let Settings { lifter, image, options, .. } = self.settings;
            match LiftStream::new(lifter.clone(), *image, options.clone()) {
                Ok(stream) => drop(self.open.insert(id.clone(), Open { stream, last_heard: Instant::now() })),
                Err(error) => return self.refuse(id.as_ref(), &error.to_string()),
            }
        }
        let Some(open) = self.open.get_mut(&id) else { return Ok(()) };
        open.last_heard = Instant::now();
        match open.stream.push(time_s, keypoints.as_ref()) {
            Ok(poses) => self.give(id.as_ref(), &poses),
            Err(error) => self.refuse(id.as_ref(), &error.to_string()),
        }
    }

    /// Room for one more stream, if need be that of one that is idle.
    fn make_room(&mut self) -> std::io::Result<Result<(), String>> {
        if self.open.len() < self.settings.max_streams {
            return Ok(Ok(()));
        }
        let oldest = self.open.iter().min_by_key(|(_, open)| open.last_heard);
        match oldest.filter(|(_, open)| open.last_heard.elapsed() >= IDLE).map(|(id, _)| id.clone()) {
            Some(idle) => self.close(&idle).map(Ok),
            None => Ok(Err(format!(
                "there are {} streams already: end one with {{\"end\": true, \"id\": ...}}, or allow more (--max-streams)",
                self.open.len()
            ))),
        }
    }

    fn close(&mut self, id: &Option<StreamId>) -> std::io::Result<()> {
        let Some(mut open) = self.open.remove(id) else { return Ok(()) };
        match open.stream.finish() {
            Ok(poses) => self.give(id.as_ref(), &poses)?,
            Err(error) => self.refuse(id.as_ref(), &error.to_string())?,
        }
        self.shown.take_if(|shown| shown == id);
        Ok(())
    }

    fn give(&mut self, id: Option<&StreamId>, poses: &[StreamPose]) -> std::io::Result<()> {
        for pose in poses {
            self.summary.poses += 1;
            write_line(&mut self.output, &PoseLine { id, pose })?;
            if let Some(vmc) = &mut self.vmc
                && self.shown.get_or_insert_with(|| id.cloned()).as_ref() == id
            {
                vmc.send(pose);
            }
        }
        Ok(())
    }

    fn refuse(&mut self, id: Option<&StreamId>, error: &str) -> std::io::Result<()> {
        self.summary.refused += 1;
        write_line(&mut self.output, &ErrorLine { id, error, line: self.summary.lines })
    }
}

fn write_line(output: &mut impl Write, value: &impl Serialize) -> std::io::Result<()> {
    serde_json::to_writer(&mut *output, value).map_err(std::io::Error::from)?;
    output.write_all(b"\n")
}

enum Line {
    Whole,
    /// It was passed over.
    TooLong,
    End,
}

/// The next line into `line`, of which never more than [`LONGEST_LINE`] is kept. A last line needs no line feed.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<Line> {
    line.clear();
    let (mut length, mut ended) = (0usize, false);
    while !ended {
        let bytes = match input.fill_buf() {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if bytes.is_empty() {
            if length == 0 {
                return Ok(Line::End);
            }
            break;
        }
        let end = bytes.iter().position(|&byte| byte == b'\n');
        let taken = end.map_or(bytes.len(), |end| end + 1);
        let room = LONGEST_LINE.saturating_sub(line.len());
        line.extend_from_slice(&bytes[..taken.min(room)]);
        input.consume(taken);
        length = length.saturating_add(taken);
        ended = end.is_some();
    }
    Ok(if length > LONGEST_LINE { Line::TooLong } else { Line::Whole })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    #[test]
    fn lines_are_read_whole_and_never_too_long() {
        let long = vec![b'x'; LONGEST_LINE + 1];
        let text = [b"one\n\n".as_slice(), &long, b"\ntwo\r\nthree"].concat();
        let mut input = BufReader::with_capacity(100, &text[..]);
        let mut line = Vec::new();
        let mut next = || (read_line(&mut input, &mut line).unwrap(), line.trim_ascii().len().min(10), line.capacity());
        assert!(matches!(next(), (Line::Whole, 3, _)));
        assert!(matches!(next(), (Line::Whole, 0, _)));
        assert!(matches!(next(), (Line::TooLong, _, capacity) if capacity <= 2 * LONGEST_LINE));
        assert!(matches!(next(), (Line::Whole, 3, _)));
        assert!(matches!(next(), (Line::Whole, 5, _)));
        assert!(matches!(next(), (Line::End, _, _)));
    }
}
