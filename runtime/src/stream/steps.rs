//! Streams through a live model: one step for each frame.

use std::collections::VecDeque;

use pose::{
    ImageSize,
    causal::{CausalSteps, Step},
    normalise::{self, ImageTransform},
};

use super::{
    core::{Answered, Frame, MAX_WINDOWS_WAITING, StreamModel, StreamOptions, StreamPose, StreamStats, not_asked},
    history::FASTEST_INPUT,
    output::{Output, Said, check_answer},
};
use crate::{
    Error, StepState,
    lifter::{POSE_VALUES, in_pixels},
};

/// Frames of one person after the other, what the model remembers of them, and the steps that wait for the engine.
#[derive(Clone, Debug)]
pub(super) struct Steps {
    channels: usize,
    look_ahead: usize,
    causal: CausalSteps,
    newest_s: f64,
    person: u64,
    /// The person's last step, to be repeated at the end for those who wait for their look-ahead.
    last: Option<Step>,
    due: VecDeque<Due>,
    running: Option<Due>,
    memory: Memory,
    /// Frames that no step has answered yet, oldest first.
    waiting: VecDeque<Frame>,
}

/// A step that the engine is to do.
#[derive(Clone, Copy, Debug)]
struct Due {
    step: Step,
    person: u64,
    /// Time of the newest frame when it was made.
    newest_s: f64,
    /// The person's last frame again, only so that earlier ones get their look-ahead.
    repeated: bool,
}

/// What is known of the person whose steps the engine does.
#[derive(Clone, Debug)]
struct Memory {
    person: Option<u64>,
    /// The layers' states.
    state: StepState,
    /// Steps so far.
    steps: usize,
    /// Those of them, oldest first, whose poses have not come out yet.
    fed: VecDeque<(f64, ImageTransform)>,
    /// The last pose that came out.
    previous: Option<Known>,
}

/// A pose that came out: its time, 2.5D in pixels, its box.
#[derive(Clone, Debug)]
struct Known {
    time_s: f64,
    values_px: Vec<f32>,
    transform: ImageTransform,
}

impl Memory {
    fn new() -> Self {
        Self { person: None, state: StepState::default(), steps: 0, fed: VecDeque::new(), previous: None }
    }

    fn forget(&mut self) {
        self.state.clear();
        self.fed.clear();
        (self.person, self.steps, self.previous) = (None, 0, None);
    }
}

impl Steps {
    pub fn new(model: &StreamModel, look_ahead: usize, image: ImageSize, options: &StreamOptions) -> Result<Self, Error> {
        let refuse = |what: String| Err(Error::Stream(what));
        if let Some(asked) = options.look_ahead.filter(|&asked| asked != look_ahead) {
            return refuse(format!(
                "expected no look-ahead but that of the live model, {look_ahead} frames, found {asked}: leave it out, or export the model with \
                 `export onnx --step --look-ahead {asked}`"
            ));
        }
        if options.hop != 1 {
            return refuse(format!("expected a hop of 1, found {}: a live model runs for every frame", options.hop));
        }
        if options.flip {
            return refuse("expected no averaging with the mirrored picture (flip): a live model goes on from one state".into());
        }
        Ok(Self {
            channels: model.channels,
            look_ahead,
            causal: CausalSteps::new(model.normalisation, image, model.fps),
            newest_s: 0.0,
            person: 0,
            last: None,
            due: VecDeque::new(),
            running: None,
            memory: Memory::new(),
            waiting: VecDeque::new(),
        })
    }

    pub fn look_ahead(&self) -> usize {
        self.look_ahead
    }

    pub fn push(&mut self, frame: Frame, stats: &mut StreamStats) {
        let Self { causal, due, last, .. } = self;
        let (newest_s, person) = (frame.time_s, frame.person);
        let seen = causal.push(frame.time_s, &frame.keypoints, |step| {
            *last = Some(step);
            due.push_back(Due { step, person, newest_s, repeated: false });
        });
        (self.newest_s, self.person) = (newest_s, person);
        match seen {
            Ok(()) => self.waiting.push_back(frame),
            // not reached: the frame has been filled from what was seen
            Err(error) => {
                tracing::warn!("a frame of a stream is dropped: {error}");
                stats.dropped += 1;
            }
        }
        self.keep_bounded(stats);
    }

    /// Frames whose step is left out keep waiting: the next pose that comes out answers them too.
    fn keep_bounded(&mut self, stats: &mut StreamStats) {
        let most = MAX_WINDOWS_WAITING + self.look_ahead;
        while self.due.len() > most {
            self.due.pop_front();
        }
        while self.waiting.len() > (most + 2) * FASTEST_INPUT as usize {
            self.waiting.pop_front();
            stats.dropped += 1;
        }
    }

    /// Gives the last frames their look-ahead, and forgets the person.
    pub fn lose_person(&mut self, stats: &mut StreamStats) {
        let Self { causal, due, last, newest_s, person, .. } = self;
        let (newest_s, person) = (*newest_s, *person);
        causal.finish(|step| {
            *last = Some(step);
            due.push_back(Due { step, person, newest_s, repeated: false });
        });
        if let Some(step) = last.take() {
            due.extend(std::iter::repeat_n(Due { step, person, newest_s, repeated: true }, self.look_ahead));
        }
        self.causal.reset();
        self.keep_bounded(stats);
    }

    pub fn start_run(&mut self) -> Option<Vec<f32>> {
        if self.running.is_some() {
            return None;
        }
        let due = self.due.pop_front()?;
        if self.memory.person != Some(due.person) {
            self.memory.forget();
            self.memory.person = Some(due.person);
        }
        // channels were checked when the stream was made
        let input = normalise::network_input(&[due.step.keypoints], &due.step.transform, self.channels).unwrap_or_default();
        self.running = Some(due);
        Some(input)
    }

    pub fn state_mut(&mut self) -> &mut StepState {
        &mut self.memory.state
    }

    pub fn finish_run(&mut self, answer: &[f32], output: &mut Output, poses: &mut Vec<StreamPose>) -> Answered {
        let due = self.running.take().ok_or_else(not_asked)?;
        if let Err(error) = check_answer(1, answer) {
            self.memory.forget(); // what is no number may have got into the state
            return Ok((self.take_waiting(due.person, due.step.time_s).len(), Err(error)));
        }
        let memory = &mut self.memory;
        if !due.repeated {
            memory.fed.push_back((due.step.time_s, due.step.transform));
        }
        memory.steps += 1;
        if memory.steps <= self.look_ahead {
            return Ok((0, Ok(()))); // the first frame has not had its look-ahead yet
        }
        let Some((time_s, transform)) = memory.fed.pop_front() else { return Ok((0, Ok(()))) };
        let known = Known { time_s, values_px: in_pixels(answer, &transform), transform };
        let before = memory.previous.replace(known.clone()).unwrap_or_else(|| known.clone());
        let frames = self.take_waiting(due.person, time_s);
        let (said, box_at) = between(before, known);
        Ok((frames.len(), output.lift(&frames, &said, box_at, due.newest_s, poses)))
    }

    /// Takes the frames up to `time_s` out of those that wait; of somebody who came before nobody will be answered any more.
    fn take_waiting(&mut self, person: u64, time_s: f64) -> Vec<Frame> {
        let answered = self.waiting.partition_point(|frame| frame.person < person || (frame.person == person && frame.time_s <= time_s));
        self.waiting.drain(..answered).collect()
    }

    /// Returns the number of frames that are dropped.
    pub fn abandon_run(&mut self) -> usize {
        let Some(due) = self.running.take() else { return 0 };
        self.take_waiting(due.person, due.step.time_s).len()
    }

    pub fn is_due(&self) -> bool {
        self.running.is_none() && !self.due.is_empty()
    }
}

/// Poses and boxes from one step to the next: mixed as a clip's are.
fn between(before: Known, after: Known) -> (Said, impl Fn(f64) -> ImageTransform) {
    let (from_s, to_s, from, to) = (before.time_s, after.time_s, before.transform, after.transform);
    let box_at = move |time_s: f64| {
        if time_s >= to_s || from_s >= to_s {
            return to;
        }
        let share = (((time_s - from_s) / (to_s - from_s)) as f32).max(0.0);
        let mix = |a: f32, b: f32| a + share * (b - a);
        ImageTransform {
            centre_px: [mix(from.centre_px[0], to.centre_px[0]), mix(from.centre_px[1], to.centre_px[1])],
            half_size_px: mix(from.half_size_px, to.half_size_px),
        }
    };
    debug_assert!(after.values_px.len() >= POSE_VALUES);
    let said = match from_s < to_s {
        true => Said { times_s: vec![from_s, to_s], values_px: [before.values_px, after.values_px].concat() },
        false => Said { times_s: vec![to_s], values_px: after.values_px },
    };
    (said, box_at)
}
