//! Streams through a model of windows.

use std::collections::VecDeque;

use pose::{
    ImageSize,
    normalise::{self, BoxFollower, ImageTransform, Normalisation},
};

use super::{
    core::{Answered, DEFAULT_LOOK_AHEAD, Frame, MAX_WINDOWS_WAITING, StreamModel, StreamOptions, StreamPose, StreamStats, not_asked},
    history::{History, Sampled},
    output::{Output, Said, check_answer, stream_error},
};
use crate::{
    Error,
    lifter::{in_pixels, window_transform},
};

/// A window is due this part of the model's interval early: time stamps are never exact.
const HOP_TOLERANCE: f64 = 0.1;
/// A frame that the window's start has left by less than this part of an interval is given the window's first pose.
const WINDOW_TOLERANCE: f64 = 0.5;

/// Frames of one person, and the windows over them that wait for the engine.
#[derive(Clone, Debug)]
pub(super) struct Windows {
    frames: usize,
    channels: usize,
    normalisation: Normalisation,
    fps: f64,
    image: ImageSize,
    look_ahead: usize,
    hop: usize,
    history: History,
    box_follower: BoxFollower,
    last_window_s: Option<f64>,
    last_due_s: Option<f64>,
    /// Frames that no window has answered yet, oldest first.
    waiting: VecDeque<Frame>,
    due: VecDeque<Run>,
    running: Option<Run>,
}

/// A window, and the frames that it answers.
#[derive(Clone, Debug)]
struct Run {
    /// (T, 17, C); empty once the engine has it.
    input: Vec<f32>,
    times_s: Vec<f64>,
    transform: ImageTransform,
    frames: Vec<Frame>,
}

/// Which of the frames that wait a window answers.
#[derive(Clone, Copy)]
enum Until {
    /// Those that have had their look-ahead.
    LookAhead,
    /// All: no more will come that they could look ahead to.
    Newest,
}

impl Windows {
    pub fn new(model: &StreamModel, frames: usize, image: ImageSize, options: &StreamOptions) -> Result<Self, Error> {
        let refuse = |what: String| Err(Error::Stream(what));
        let look_ahead = options.look_ahead.unwrap_or(DEFAULT_LOOK_AHEAD.min(frames.saturating_sub(options.hop)));
        if options.hop == 0 {
            return refuse("expected a hop of at least 1 frame between two runs of the model, found 0".into());
        }
        if look_ahead.saturating_add(options.hop) > frames {
            return refuse(format!(
                "expected look-ahead and hop to be at most the model's window of {frames} frames together, found {look_ahead} and {}",
                options.hop
            ));
        }
        Ok(Self {
            frames,
            channels: model.channels,
            normalisation: model.normalisation,
            fps: model.fps,
            image,
            look_ahead,
            hop: options.hop,
            history: History::new(frames, model.fps),
            box_follower: BoxFollower::default(),
            last_window_s: None,
            last_due_s: None,
            waiting: VecDeque::new(),
            due: VecDeque::new(),
            running: None,
        })
    }

    pub fn look_ahead(&self) -> usize {
        self.look_ahead
    }

    pub fn push(&mut self, frame: Frame, stats: &mut StreamStats) {
        let time_s = frame.time_s;
        // after a pause the next window would no longer reach the frames before it
        let reach = (self.frames - 1) as f64 + WINDOW_TOLERANCE;
        if self.waiting.front().is_some_and(|oldest| (time_s - oldest.time_s) * self.fps > reach) {
            self.schedule(Until::Newest, stats);
        }
        self.history.push(time_s, frame.keypoints);
        self.waiting.push_back(frame);
        let last_due_s = *self.last_due_s.get_or_insert(time_s - 1.0 / self.fps);
        if (time_s - last_due_s) * self.fps >= self.hop as f64 - HOP_TOLERANCE {
            self.last_due_s = Some(time_s);
            self.schedule(Until::LookAhead, stats);
        }
    }

    /// Makes a window that ends at the newest frame, for the frames that wait.
    fn schedule(&mut self, until: Until, stats: &mut StreamStats) {
        let (Some(Sampled { times_s, keypoints }), Some(newest_s)) = (self.history.sample(), self.history.newest_s()) else { return };
        let last_s = match until {
            Until::LookAhead => times_s[times_s.len() - 1 - self.look_ahead],
            Until::Newest => newest_s,
        };
        let answered = self.waiting.partition_point(|frame| frame.time_s <= last_s);
        if answered == 0 {
            return;
        }
        let frames: Vec<Frame> = self.waiting.drain(..answered).collect();
        // a window of keypoints that were all checked has a box and an input; should it not, its frames are dropped and counted
        let prepared = window_transform(self.normalisation, &keypoints, self.image).and_then(|wanted| {
            let elapsed_s = self.last_window_s.map_or(0.0, |last_s| newest_s - last_s);
            let transform = match self.normalisation {
                Normalisation::PersonBox => self.box_follower.push(wanted, elapsed_s),
                Normalisation::Frame => wanted,
            };
            Ok((transform, normalise::network_input(&keypoints, &transform, self.channels).map_err(stream_error)?))
        });
        self.last_window_s = Some(newest_s);
        match prepared {
            Ok((transform, input)) => self.due.push_back(Run { input, times_s, transform, frames }),
            Err(error) => {
                tracing::warn!("{} frames of a stream are dropped: {error}", frames.len());
                stats.dropped += frames.len() as u64;
            }
        }
        if self.due.len() > MAX_WINDOWS_WAITING {
            let dropped = self.due.pop_front().map_or(0, |run| run.frames.len());
            stats.dropped += dropped as u64;
        }
    }

    /// Answers what is left of the person, and forgets them.
    pub fn lose_person(&mut self, stats: &mut StreamStats) {
        self.schedule(Until::Newest, stats);
        self.history.clear();
        self.box_follower.reset();
        (self.last_window_s, self.last_due_s) = (None, None);
    }

    pub fn start_run(&mut self) -> Option<Vec<f32>> {
        if self.running.is_some() {
            return None;
        }
        let mut run = self.due.pop_front()?;
        let input = std::mem::take(&mut run.input);
        self.running = Some(run);
        Some(input)
    }

    pub fn finish_run(&mut self, answer: &[f32], output: &mut Output, poses: &mut Vec<StreamPose>) -> Answered {
        let run = self.running.take().ok_or_else(not_asked)?;
        let outcome = check_answer(run.times_s.len(), answer).and_then(|()| {
            let newest_s = run.times_s[run.times_s.len() - 1];
            let said = Said { values_px: in_pixels(answer, &run.transform), times_s: run.times_s };
            output.lift(&run.frames, &said, |_| run.transform, newest_s, poses)
        });
        Ok((run.frames.len(), outcome))
    }

    /// Returns the number of frames that are dropped.
    pub fn abandon_run(&mut self) -> usize {
        self.running.take().map_or(0, |run| run.frames.len())
    }

    pub fn is_due(&self) -> bool {
        self.running.is_none() && !self.due.is_empty()
    }
}
