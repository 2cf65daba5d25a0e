//! What a connection and the engine's thread share: for each stream a queue of frames in, for each connection the poses out.
//!
//! Neither side waits for the other. Every queue has an end; what goes over it drops the oldest, is counted, and is said to the client.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Instant,
};

use formats::keypoints::StreamId;
use pose::Keypoints17;
use serde::Serialize;
use tokio::sync::Notify;

use super::{
    limits::Permit,
    metrics::{Dropped, Metrics},
    ui::About,
};
use crate::{StreamPose, StreamStats};

/// Sentences about one stream that wait to be read; more are counted.
const MOST_ERRORS: usize = 16;
/// Texts of a connection that wait to be read. One answers each message, so that a client that writes and does not read is found out.
const MOST_TEXTS: usize = 1024;

/// A panic while a lock was held leaves nothing half done here: every critical section is a few moves of values.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A frame on its way to the engine.
#[derive(Clone, Debug)]
pub(super) struct QueuedFrame {
    pub time_s: f64,
    pub keypoints: Option<Keypoints17>,
    /// When it was read from the network.
    pub arrived: Instant,
    /// Number of the message that it came in, from 1.
    pub message: u64,
}

/// One stream, as both sides know it.
#[derive(Debug)]
pub(super) struct Slot {
    /// Of all streams of this server; never used twice.
    pub key: u64,
    /// Of the streams of its connection; never used twice in it.
    pub number: u32,
    pub outbox: Arc<Outbox>,
    pub about: About,
    inbox: Mutex<Inbox>,
    capacity: usize,
    /// Everything about it has been sent.
    pub done: AtomicBool,
    permit: Mutex<Option<Permit>>,
}

#[derive(Debug, Default)]
struct Inbox {
    frames: VecDeque<QueuedFrame>,
    ending: Option<Ending>,
    /// The engine's thread knows that there is something.
    announced: bool,
    dropped: u64,
}

/// Why a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ending {
    /// Its client said so.
    Client,
    /// No frame came for too long.
    Idle,
    /// The server stops.
    Stopping,
    /// The engine fails at it, again and again.
    Engine,
    /// Its connection is gone: nobody is told.
    Vanished,
}

/// What the engine's thread finds in a stream's queue.
#[allow(clippy::large_enum_variant)] // there is one at a time
pub(super) enum Taken {
    Frame(QueuedFrame),
    /// There will be no more.
    End,
    Nothing,
}

impl Slot {
    pub fn new(key: u64, number: u32, outbox: Arc<Outbox>, about: About, capacity: usize, permit: Permit) -> Self {
        Self {
            key,
            number,
            outbox,
            about,
            inbox: Mutex::default(),
            capacity,
            done: AtomicBool::new(false),
            permit: Mutex::new(Some(permit)),
        }
    }

    /// Adds a frame, and drops the oldest where there are too many. Returns whether the engine's thread must be told; `None` for a
    /// stream that takes no more.
    pub fn push(&self, frame: QueuedFrame, metrics: &Metrics) -> Option<bool> {
        let mut inbox = lock(&self.inbox);
        if inbox.ending.is_some() {
            return None;
        }
        inbox.frames.push_back(frame);
        if inbox.frames.len() > self.capacity {
            inbox.frames.pop_front();
            inbox.dropped += 1;
            metrics.dropped(Dropped::Queue, 1);
        }
        Some(!std::mem::replace(&mut inbox.announced, true))
    }

    /// Says that no more frames come. Returns whether the engine's thread must be told. The first reason counts, but nothing is done
    /// any more for one that has gone.
    pub fn end(&self, ending: Ending) -> bool {
        let mut inbox = lock(&self.inbox);
        if ending == Ending::Vanished {
            inbox.frames.clear();
            inbox.ending = Some(ending);
        } else {
            inbox.ending.get_or_insert(ending);
        }
        !std::mem::replace(&mut inbox.announced, true)
    }

    /// The next frame; then the end.
    pub fn take(&self) -> Taken {
        let mut inbox = lock(&self.inbox);
        if let Some(frame) = inbox.frames.pop_front() {
            return Taken::Frame(frame);
        }
        match inbox.ending {
            Some(_) => Taken::End,
            None => {
                inbox.announced = false;
                Taken::Nothing
            }
        }
    }

    /// Frames that wait, the end, and frames dropped since the last call.
    pub fn look(&self) -> (usize, Option<Ending>, u64) {
        let mut inbox = lock(&self.inbox);
        (inbox.frames.len(), inbox.ending, std::mem::take(&mut inbox.dropped))
    }

    /// The engine's thread looks away without having taken all: it wants to be told of what comes next.
    pub fn rest(&self) {
        lock(&self.inbox).announced = false;
    }

    /// The engine has no state of it any more: another stream may take its place.
    pub fn release(&self) {
        lock(&self.permit).take();
    }

    /// Drops what waits: how many frames.
    pub fn clear(&self) -> u64 {
        let mut inbox = lock(&self.inbox);
        let frames = inbox.frames.len() as u64;
        inbox.frames.clear();
        frames
    }
}

/// How poses are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Form {
    #[default]
    Json,
    Binary,
}

/// Frames that a client gets no pose of, since it was last told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Drops {
    /// They waited for the engine too long.
    #[serde(skip_serializing_if = "is_zero")]
    pub queue: u64,
    /// Their poses waited to be read too long.
    #[serde(skip_serializing_if = "is_zero")]
    pub output: u64,
    /// The engine failed.
    #[serde(skip_serializing_if = "is_zero")]
    pub engine: u64,
}

impl Drops {
    pub fn total(&self) -> u64 {
        self.queue + self.output + self.engine
    }

    fn add(&mut self, other: Drops) {
        self.queue += other.queue;
        self.output += other.output;
        self.engine += other.engine;
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks for this form
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// What became of a stream.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Ended {
    pub reason: Ending,
    #[serde(flatten)]
    pub stats: StreamStats,
    /// Frames and poses that were dropped in all, on either side of the engine.
    pub drops: Drops,
    /// Frames that were no good.
    pub refused: u64,
}

/// Something to send.
pub(super) enum Out {
    /// As it stands.
    Text(String),
    Pose {
        stream: u32,
        id: Option<StreamId>,
        form: Form,
        pose: Box<StreamPose>,
    },
    Drops {
        id: Option<StreamId>,
        stream: u32,
        drops: Drops,
    },
    /// The frame in this message is no good.
    Error {
        id: Option<StreamId>,
        stream: u32,
        code: &'static str,
        message: Option<u64>,
        error: String,
    },
    Ended {
        id: Option<StreamId>,
        stream: u32,
        ended: Ended,
    },
}

/// What waits to be sent over one connection.
#[derive(Debug)]
pub(super) struct Outbox {
    state: Mutex<Waiting>,
    wake: Notify,
    /// Poses of one stream, at most.
    capacity: usize,
    /// Frames that were no good, since the connection's task last asked.
    bad: AtomicU32,
    flooded: AtomicBool,
}

#[derive(Debug, Default)]
struct Waiting {
    texts: VecDeque<String>,
    streams: HashMap<u32, StreamOut>,
    /// Streams with something to say, each once: they take turns.
    turns: VecDeque<u32>,
    /// The connection is closed as soon as all has been said.
    closing: bool,
}

#[derive(Debug)]
struct StreamOut {
    id: Option<StreamId>,
    form: Form,
    slot: Option<Arc<Slot>>,
    poses: VecDeque<Box<StreamPose>>,
    errors: VecDeque<(&'static str, Option<u64>, String)>,
    errors_unsaid: u64,
    drops: Drops,
    all_drops: Drops,
    refused: u64,
    ended: Option<(Ending, StreamStats)>,
    has_turn: bool,
}

impl Outbox {
    pub fn new(capacity: usize) -> Self {
        Self { state: Mutex::default(), wake: Notify::new(), capacity, bad: AtomicU32::new(0), flooded: AtomicBool::new(false) }
    }

    /// From now on the stream may say something.
    pub fn open(&self, slot: &Arc<Slot>, id: Option<StreamId>, form: Form) {
        let out = StreamOut {
            id,
            form,
            slot: Some(slot.clone()),
            poses: VecDeque::new(),
            errors: VecDeque::new(),
            errors_unsaid: 0,
            drops: Drops::default(),
            all_drops: Drops::default(),
            refused: 0,
            ended: None,
            has_turn: false,
        };
        lock(&self.state).streams.insert(slot.number, out);
    }

    /// A text for the connection as a whole.
    pub fn text(&self, text: String) {
        let mut state = lock(&self.state);
        if state.texts.len() < MOST_TEXTS {
            state.texts.push_back(text);
        } else {
            self.flooded.store(true, Ordering::Relaxed);
        }
        drop(state);
        self.wake.notify_one();
    }

    fn with(&self, stream: u32, change: impl FnOnce(&mut StreamOut)) {
        let mut state = lock(&self.state);
        let Waiting { streams, turns, .. } = &mut *state;
        let Some(out) = streams.get_mut(&stream) else { return };
        change(out);
        if !std::mem::replace(&mut out.has_turn, true) {
            turns.push_back(stream);
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Poses of a stream; where too many wait, the oldest go.
    pub fn poses(&self, stream: u32, poses: Vec<StreamPose>, metrics: &Metrics) {
        self.with(stream, |out| {
            out.poses.extend(poses.into_iter().map(Box::new));
            let over = out.poses.len().saturating_sub(self.capacity);
            out.poses.drain(..over);
            out.count(Drops { output: over as u64, ..Drops::default() });
            metrics.dropped(Dropped::Output, over as u64);
        });
    }

    /// Frames that were dropped before or in the engine; those are in the metrics already.
    pub fn drops(&self, stream: u32, drops: Drops) {
        if drops.total() > 0 {
            self.with(stream, |out| out.count(drops));
        }
    }

    /// Something is wrong with a frame, or with the stream.
    pub fn error(&self, stream: u32, code: &'static str, message: Option<u64>, error: String) {
        if message.is_some() {
            self.bad.fetch_add(1, Ordering::Relaxed);
        }
        self.with(stream, |out| {
            out.refused += u64::from(message.is_some());
            if out.errors.len() < MOST_ERRORS {
                out.errors.push_back((code, message, error));
            } else {
                out.errors_unsaid += 1;
            }
        });
    }

    /// The last word about a stream.
    pub fn ended(&self, stream: u32, ending: Ending, stats: StreamStats) {
        self.with(stream, |out| out.ended = Some((ending, stats)));
    }

    /// Frames that were no good since the last call.
    pub fn take_bad(&self) -> u32 {
        self.bad.swap(0, Ordering::Relaxed)
    }

    /// The client writes and does not read.
    pub fn is_flooded(&self) -> bool {
        self.flooded.load(Ordering::Relaxed)
    }

    /// Nobody is to hear of these streams any more.
    pub fn forget_streams(&self) {
        let mut state = lock(&self.state);
        state.streams.clear();
        state.turns.clear();
    }

    /// When the last word about each stream has been said, [`Self::take`] says that this is all.
    pub fn close(&self) {
        lock(&self.state).closing = true;
        self.wake.notify_one();
    }

    /// Streams whose last word has not been said.
    pub fn open_streams(&self) -> usize {
        lock(&self.state).streams.len()
    }

    /// Up to `most` things to send, streams in turn; waits until there is one. Nothing = this was all.
    pub async fn take(&self, most: usize) -> Vec<Out> {
        loop {
            let out = self.try_take(most);
            if !out.is_empty() || self.is_over() {
                return out;
            }
            self.wake.notified().await;
        }
    }

    fn is_over(&self) -> bool {
        let state = lock(&self.state);
        state.closing && state.streams.is_empty() && state.texts.is_empty()
    }

    pub fn try_take(&self, most: usize) -> Vec<Out> {
        let mut state = lock(&self.state);
        let texts = state.texts.len().min(most);
        let mut out: Vec<Out> = state.texts.drain(..texts).map(Out::Text).collect();
        while out.len() < most {
            let Some(stream) = state.turns.pop_front() else { break };
            let Some(waiting) = state.streams.get_mut(&stream) else { continue };
            waiting.has_turn = false;
            let Some(next) = waiting.next(stream) else { continue };
            let is_last = matches!(next, Out::Ended { .. });
            out.push(next);
            if is_last {
                state.streams.remove(&stream);
            } else {
                waiting.has_turn = true;
                state.turns.push_back(stream);
            }
        }
        out
    }
}

impl StreamOut {
    fn count(&mut self, drops: Drops) {
        self.drops.add(drops);
        self.all_drops.add(drops);
    }

    fn next(&mut self, stream: u32) -> Option<Out> {
        let id = self.id.clone();
        if self.drops.total() > 0 {
            return Some(Out::Drops { id, stream, drops: std::mem::take(&mut self.drops) });
        }
        if let Some((code, message, error)) = self.errors.pop_front() {
            return Some(Out::Error { id, stream, code, message, error });
        }
        if self.errors_unsaid > 0 {
            let error = format!("{} more frames were no good", std::mem::take(&mut self.errors_unsaid));
            return Some(Out::Error { id, stream, code: "frame", message: None, error });
        }
        if let Some(pose) = self.poses.pop_front() {
            return Some(Out::Pose { stream, id, form: self.form, pose });
        }
        let (reason, stats) = self.ended.take()?;
        // the place is free from here on
        if let Some(slot) = self.slot.take() {
            slot.done.store(true, Ordering::Release);
        }
        Some(Out::Ended { id, stream, ended: Ended { reason, stats, drops: self.all_drops, refused: self.refused } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::limits::Gate;

    fn slot(capacity: usize, poses: usize) -> Arc<Slot> {
        let outbox = Arc::new(Outbox::new(poses));
        let about = About { name: None, image: pose::ImageSize { width_px: 640, height_px: 480 } };
        let slot = Arc::new(Slot::new(7, 0, outbox.clone(), about, capacity, Gate::new(1).enter().unwrap()));
        outbox.open(&slot, None, Form::Json);
        slot
    }

    fn frame(time_s: f64) -> QueuedFrame {
        QueuedFrame { time_s, keypoints: None, arrived: Instant::now(), message: 1 }
    }

    fn pose(time_s: f64) -> StreamPose {
        StreamPose {
            time_s,
            delay_s: 0.0,
            held: false,
            restarted: false,
            confidence: [1.0; 17],
            pose25: [[0.0; 3]; 17],
            transform: pose::normalise::ImageTransform { centre_px: [0.0; 2], half_size_px: 1.0 },
            root_px: [0.0; 2],
            camera_mm: [[0.0; 3]; 17],
            root_depth_mm: 1.0,
            world_mm: [[0.0; 3]; 17],
            world_from_camera: pose::camera::Extrinsics { rotation: [[0.0; 3]; 3], translation_mm: [0.0; 3] },
            scale_source: pose::world::ScaleSource::DefaultHeight,
            height_m: 1.7,
        }
    }

    #[test]
    fn the_oldest_frames_go_and_are_counted() {
        let (slot, metrics) = (slot(3, 3), Metrics::new());
        let told: Vec<Option<bool>> = (0..5).map(|t| slot.push(frame(f64::from(t)), &metrics)).collect();
        assert_eq!(told, [Some(true), Some(false), Some(false), Some(false), Some(false)]);
        assert_eq!(slot.look(), (3, None, 2));
        assert_eq!(slot.look(), (3, None, 0));
        assert!(matches!(slot.take(), Taken::Frame(frame) if frame.time_s == 2.0));
        assert!(!slot.end(Ending::Client));
        assert_eq!(slot.push(frame(9.0), &metrics), None);
        assert!(matches!((slot.take(), slot.take()), (Taken::Frame(_), Taken::Frame(frame)) if frame.time_s == 4.0));
        assert!(matches!(slot.take(), Taken::End));
        assert!(metrics.text().contains("poselift_dropped_frames_total{reason=\"Queue\"} 2"), "{}", metrics.text());
    }

    #[test]
    fn the_engine_is_told_once_until_it_has_looked() {
        let (slot, metrics) = (slot(8, 3), Metrics::new());
        assert_eq!(slot.push(frame(0.0), &metrics), Some(true));
        assert!(matches!(slot.take(), Taken::Frame(_)));
        assert_eq!(slot.push(frame(1.0), &metrics), Some(false));
        assert!(matches!(slot.take(), Taken::Frame(_)));
        assert!(matches!(slot.take(), Taken::Nothing));
        assert_eq!(slot.push(frame(2.0), &metrics), Some(true));
    }

    #[test]
    fn what_is_not_read_drops_the_oldest_and_the_end_comes_last() {
        let (slot, metrics) = (slot(8, 2), Metrics::new());
        let outbox = slot.outbox.clone();
        outbox.poses(0, (0..5).map(|t| pose(f64::from(t))).collect(), &metrics);
        outbox.ended(0, Ending::Client, StreamStats::default());
        for i in 0..20 {
            outbox.error(0, "frame", Some(i), "no good".to_owned());
        }
        outbox.text("hello".to_owned());
        let mut said = Vec::new();
        loop {
            let out = outbox.try_take(4);
            if out.is_empty() {
                break;
            }
            said.extend(out);
        }
        assert!(matches!(&said[0], Out::Text(text) if text == "hello"));
        assert!(matches!(&said[1], Out::Drops { drops, .. } if *drops == Drops { output: 3, ..Drops::default() }));
        assert_eq!(said.iter().filter(|out| matches!(out, Out::Error { .. })).count(), MOST_ERRORS + 1);
        let times: Vec<f64> =
            said.iter().filter_map(|out| if let Out::Pose { pose, .. } = out { Some(pose.time_s) } else { None }).collect();
        assert_eq!(times, [3.0, 4.0]);
        assert!(matches!(said.last(), Some(Out::Ended { ended, .. }) if ended.drops.output == 3 && ended.refused == 20));
        assert!(slot.done.load(Ordering::Relaxed) && outbox.open_streams() == 0);
        assert_eq!((outbox.take_bad(), outbox.take_bad()), (20, 0));
        outbox.poses(0, vec![pose(9.0)], &metrics);
        assert!(outbox.try_take(1).is_empty());
    }
}
