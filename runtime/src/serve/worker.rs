//! The engine's thread: it alone runs the model, for all streams that are due at once, and for infer requests in between.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use pose::ImageSize;
use tokio::sync::oneshot;

use super::{
    metrics::{Dropped, Metrics},
    model::{Model, ModelCard},
    slot::{Drops, Ending, Slot, Taken, lock},
    ui::Watchers,
};
use crate::{Error, StreamCore, StreamOptions, StreamPose, StreamStats, error::one_line, trial};

/// Opens the model: at the start, and again after it failed.
pub type Opener = Box<dyn Fn() -> Result<Box<dyn Model>, Error> + Send + Sync>;

/// Wait before the first attempt to open a failed engine again; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// An engine that ran for so long after it was opened again has recovered: the pauses start from the first again.
const RECOVERED: Duration = Duration::from_secs(30);
/// A stream at which the engine fails so often in a row, the last times alone, is ended.
const MOST_FAILURES: u32 = 3;
/// Frames of an infer request that run in one go, so that streams wait for no longer than that.
const SLICE_FRAMES: usize = 512;
/// Arrivals that are remembered of a stream, for the latencies.
const MOST_ARRIVALS: usize = 512;
/// A call of the engine that takes longer is a hang.
pub const HANG: Duration = Duration::from_secs(30);

/// What the network's tasks see of the engine's thread.
pub(super) struct Engine {
    mailbox: Mutex<Mailbox>,
    wake: Condvar,
    /// `None` while the engine is broken.
    model: RwLock<Option<Arc<dyn Model>>>,
    /// Those who look on, where there is a page.
    watchers: Option<Watchers>,
    card: ModelCard,
    stopping: AtomicBool,
    /// Milliseconds since `started` at which the call that runs now began, plus one; 0 = none runs.
    busy_since_ms: AtomicU64,
    started: Instant,
    max_jobs: usize,
    pub metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Mailbox {
    opened: Vec<(Arc<Slot>, Box<Seat>)>,
    ready: Vec<u64>,
    jobs: VecDeque<Job>,
    stop: bool,
}

/// Why there is no answer to an infer request.
#[derive(Debug)]
pub(super) enum InferError {
    /// The request is no good.
    Bad(String),
    /// Too many wait.
    Full,
    /// There is no engine now.
    Unavailable,
    /// It failed.
    Failed(String),
}

/// An infer request, run slice by slice.
struct Job {
    input: Vec<f32>,
    shape: [usize; 4],
    output: Vec<f32>,
    answer: oneshot::Sender<Result<Vec<f32>, InferError>>,
}

/// A stream's state, and all that goes with it.
pub(super) struct Seat {
    core: StreamCore,
    image: ImageSize,
    /// Of the states that were lost with a panic.
    past: StreamStats,
    /// What the metrics know of.
    counted: StreamStats,
    /// (Time stamp, arrival) of frames that no pose has been made of yet.
    arrivals: VecDeque<(f64, Instant)>,
    /// The core was told that no more frames come.
    finished: bool,
    /// Calls in a row that failed with this stream in them; it runs alone until one succeeds.
    failures: u32,
}

impl Engine {
    /// Opens the model and sees that it runs.
    ///
    /// # Errors
    /// As `opener`; a model that cannot run.
    pub fn open(opener: &Opener, metrics: Arc<Metrics>, max_jobs: usize, watchers: Option<Watchers>) -> Result<Self, Error> {
        let model: Arc<dyn Model> = Arc::from(opener()?);
        probe(&*model)?;
        metrics.engine_ready.set(1);
        Ok(Self {
            mailbox: Mutex::default(),
            wake: Condvar::new(),
            card: model.card(),
            model: RwLock::new(Some(model)),
            stopping: AtomicBool::new(false),
            busy_since_ms: AtomicU64::new(0),
            started: Instant::now(),
            max_jobs,
            metrics,
            watchers,
        })
    }

    /// Those who look on, where they may.
    pub fn watchers(&self) -> Option<&Watchers> {
        self.watchers.as_ref()
    }

    pub fn card(&self) -> &ModelCard {
        &self.card
    }

    /// There is a model, it does not hang, and the server does not stop.
    pub fn is_ready(&self) -> bool {
        self.model().is_some() && !self.hangs() && !self.stopping.load(Ordering::Relaxed)
    }

    /// A call of the engine takes longer than [`HANG`].
    pub fn hangs(&self) -> bool {
        let since_ms = self.busy_since_ms.load(Ordering::Relaxed);
        since_ms > 0 && self.started.elapsed() > Duration::from_millis(since_ms - 1) + HANG
    }

    fn model(&self) -> Option<Arc<dyn Model>> {
        self.model.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn set_model(&self, model: Option<Arc<dyn Model>>) {
        self.metrics.engine_ready.set(i64::from(model.is_some()));
        *self.model.write().unwrap_or_else(std::sync::PoisonError::into_inner) = model;
    }

    /// The state of a new stream; `None` while there is no engine.
    ///
    /// # Errors
    /// As [`StreamCore::new`].
    pub fn seat(&self, image: ImageSize, options: StreamOptions) -> Option<Result<Box<Seat>, Error>> {
        let core = self.model()?.stream_core(image, options);
        Some(core.map(|core| {
            Box::new(Seat {
                core,
                image,
                past: StreamStats::default(),
                counted: StreamStats::default(),
                arrivals: VecDeque::new(),
                finished: false,
                failures: 0,
            })
        }))
    }

    /// From now on the stream's frames are run.
    pub fn sit(&self, slot: Arc<Slot>, seat: Box<Seat>) {
        lock(&self.mailbox).opened.push((slot, seat));
        self.metrics.streams.inc();
    }

    /// There is something in the stream's queue.
    pub fn announce(&self, key: u64) {
        lock(&self.mailbox).ready.push(key);
        self.wake.notify_one();
    }

    /// Runs raw windows.
    ///
    /// # Errors
    /// See [`InferError`].
    pub async fn infer(&self, input: Vec<f32>, shape: [usize; 4]) -> Result<Vec<f32>, InferError> {
        if self.model().is_none() || self.stopping.load(Ordering::Relaxed) {
            return Err(InferError::Unavailable);
        }
        let (answer, answered) = oneshot::channel();
        {
            let mut mailbox = lock(&self.mailbox);
            if mailbox.jobs.len() >= self.max_jobs {
                return Err(InferError::Full);
            }
            mailbox.jobs.push_back(Job { input, shape, output: Vec::new(), answer });
        }
        self.wake.notify_one();
        answered.await.unwrap_or(Err(InferError::Unavailable))
    }

    /// No more streams or requests are taken; what is there goes on.
    pub fn refuse_more(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// The thread is to end.
    pub fn stop(&self) {
        self.refuse_more();
        lock(&self.mailbox).stop = true;
        self.wake.notify_one();
    }

    fn busy<T>(&self, work: impl FnOnce() -> T) -> T {
        let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.busy_since_ms.store(now_ms + 1, Ordering::Relaxed);
        let result = work();
        self.busy_since_ms.store(0, Ordering::Relaxed);
        result
    }
}

/// The engine's thread. It ends when [`Engine::stop`] says so.
pub(super) fn work(engine: &Engine, opener: &Opener) {
    let mut worker =
        Worker { engine, opener, seats: HashMap::new(), pending: BTreeSet::new(), jobs: VecDeque::new(), reopen: None, last_reopen: None };
    while worker.receive() {
        worker.round();
    }
    // whoever still waits is answered by the end of the channel
}

struct Worker<'a> {
    engine: &'a Engine,
    opener: &'a Opener,
    seats: HashMap<u64, (Arc<Slot>, Box<Seat>)>,
    /// Streams that may have something to do.
    pending: BTreeSet<u64>,
    jobs: VecDeque<Job>,
    reopen: Option<Reopen>,
    /// When the engine was last opened again, and how long that was waited for.
    last_reopen: Option<(Instant, Duration)>,
}

/// When a broken engine is opened again.
struct Reopen {
    at: Instant,
    wait: Duration,
    /// Attempts that have failed.
    failed: u32,
    reason: String,
}

/// How a run went for one stream.
#[derive(Clone, Copy, Default)]
struct Outcome {
    poses: bool,
    failed: bool,
}

impl Worker<'_> {
    /// Takes what has come, and waits for something if there is nothing to do. False at the end.
    fn receive(&mut self) -> bool {
        let mut mailbox = lock(&self.engine.mailbox);
        loop {
            for (slot, seat) in mailbox.opened.drain(..) {
                self.pending.insert(slot.key);
                self.seats.insert(slot.key, (slot, seat));
            }
            self.pending.extend(mailbox.ready.drain(..));
            self.jobs.append(&mut mailbox.jobs);
            if mailbox.stop {
                return false;
            }
            let wait = self.reopen.as_ref().map(|reopen| reopen.at.saturating_duration_since(Instant::now()));
            if !self.pending.is_empty() || !self.jobs.is_empty() || wait == Some(Duration::ZERO) {
                return true;
            }
            mailbox = match wait {
                None => self.engine.wake.wait(mailbox).unwrap_or_else(std::sync::PoisonError::into_inner),
                Some(wait) => self.engine.wake.wait_timeout(mailbox, wait).unwrap_or_else(std::sync::PoisonError::into_inner).0,
            };
        }
    }

    /// Everything that is due, once.
    fn round(&mut self) {
        if self.reopen.as_ref().is_some_and(|reopen| reopen.at <= Instant::now()) {
            self.try_reopen();
        }
        let Some(model) = self.engine.model() else {
            return self.round_without_engine();
        };
        let mut seated = Vec::with_capacity(self.pending.len());
        for key in std::mem::take(&mut self.pending) {
            if let Some((slot, mut seat)) = self.seats.remove(&key) {
                match self.fill(&slot, &mut seat) {
                    Filled::Gone => self.leave(&slot),
                    Filled::Open(more) => seated.push((slot, seat, more)),
                }
            }
        }
        let (together, alone): (Vec<_>, Vec<_>) =
            seated.iter_mut().filter(|(_, seat, _)| seat.core.is_due()).partition(|(_, seat, _)| seat.failures == 0);
        let mut broken = None;
        if !together.is_empty() {
            broken = self.run(&*model, together);
        }
        for seated in alone {
            if broken.is_none() {
                broken = self.run(&*model, vec![seated]);
            }
        }
        for (slot, mut seat, more) in seated {
            count(&slot, &mut seat, &self.engine.metrics);
            if seat.failures >= MOST_FAILURES {
                slot.end(Ending::Engine);
                seat.finished = true;
            }
            let is_due = seat.core.is_due() && seat.failures < MOST_FAILURES;
            if seat.finished && !is_due {
                self.end(&slot, &seat);
                continue;
            }
            if more || is_due {
                self.pending.insert(slot.key);
            }
            self.seats.insert(slot.key, (slot, seat));
        }
        if broken.is_none() {
            broken = self.run_job(&*model);
        }
        drop(model);
        if let Some(reason) = broken {
            self.fail(reason);
        }
    }

    /// Moves frames from the queue into the core, until it is due.
    fn fill(&self, slot: &Slot, seat: &mut Seat) -> Filled {
        let (waiting, ending, dropped) = slot.look();
        if ending == Some(Ending::Vanished) {
            return Filled::Gone;
        }
        slot.outbox.drops(slot.number, Drops { queue: dropped, ..Drops::default() });
        if waiting > 0 {
            self.engine.metrics.queue.observe(waiting as f64);
        }
        while !seat.core.is_due() {
            match slot.take() {
                Taken::Frame(frame) => match seat.core.push(frame.time_s, frame.keypoints.as_ref()) {
                    Ok(()) => {
                        if seat.arrivals.len() == MOST_ARRIVALS {
                            seat.arrivals.pop_front();
                        }
                        seat.arrivals.push_back((frame.time_s, frame.arrived));
                    }
                    Err(error) => slot.outbox.error(slot.number, "frame", Some(frame.message), error.to_string()),
                },
                Taken::End if seat.finished => return Filled::Open(false),
                Taken::End => {
                    seat.core.finish();
                    seat.finished = true;
                }
                Taken::Nothing => return Filled::Open(false),
            }
        }
        Filled::Open(true)
    }

    /// Runs what is due in these streams in one go. Returns why the engine is broken, if it is.
    fn run(&self, model: &dyn Model, mut seated: Vec<&mut (Arc<Slot>, Box<Seat>, bool)>) -> Option<String> {
        let metrics = &self.engine.metrics;
        metrics.batch.observe(seated.len() as f64);
        let mut outcomes = vec![Outcome::default(); seated.len()];
        let mut said = String::new();
        let start = Instant::now();
        let panic = {
            let (mut cores, mut others) = (Vec::with_capacity(seated.len()), Vec::with_capacity(seated.len()));
            for seated in &mut seated {
                let (slot, seat, _) = &mut **seated;
                let Seat { core, arrivals, .. } = &mut **seat;
                cores.push(core);
                others.push((&**slot, arrivals));
            }
            let mut give = |i: usize, answer: Result<Vec<StreamPose>, Error>| {
                let Some((slot, arrivals)) = others.get_mut(i) else { return };
                match answer {
                    Ok(poses) => {
                        outcomes[i].poses = true;
                        let now = Instant::now();
                        for pose in &poses {
                            if let Some(arrived) = arrival_of(arrivals, pose.time_s + pose.delay_s) {
                                metrics.latency.observe(now.saturating_duration_since(arrived).as_secs_f64());
                            }
                        }
                        metrics.poses.inc_by(poses.len() as u64);
                        if !poses.is_empty() {
                            if let Some(watchers) = self.engine.watchers() {
                                watchers.tell(slot.key, &slot.about, &poses);
                            }
                            slot.outbox.poses(slot.number, poses, metrics);
                        }
                    }
                    Err(error) => {
                        outcomes[i].failed = true;
                        said = error.to_string();
                        slot.outbox.error(
                            slot.number,
                            "engine",
                            None,
                            format!("a run of the model failed, and its frames are dropped: {error}"),
                        );
                    }
                }
            };
            // a core that a panic went through is thrown away below; everything else is a queue or a counter
            self.engine.busy(|| catch_unwind(AssertUnwindSafe(|| model.run_due(&mut cores, &mut give))).err())
        };
        metrics.run.observe(start.elapsed().as_secs_f64());
        for (seated, outcome) in seated.iter_mut().zip(&outcomes) {
            let seat = &mut seated.1;
            match outcome {
                Outcome { failed: true, .. } => seat.failures += 1,
                Outcome { poses: true, .. } => seat.failures = 0,
                _ => {}
            }
        }
        if let Some(panic) = panic {
            let reason = format!("the engine panicked: {}", panic_text(&*panic));
            for (slot, seat, _) in seated {
                seat.failures += 1;
                restart(model, slot, seat, &reason);
            }
            return Some(reason);
        }
        // the fault of a stream, or the engine's? one that works lifts a frame of a person who stands
        if outcomes.iter().any(|outcome| outcome.failed) { self.engine.busy(|| probe(model)).err().map(|_| said) } else { None }
    }

    /// The next slice of the oldest infer request. Returns why the engine is broken, if it is.
    fn run_job(&mut self, model: &dyn Model) -> Option<String> {
        let mut job = self.jobs.pop_front()?;
        if job.answer.is_closed() {
            return None;
        }
        let [batch, frames, joints, channels] = job.shape;
        let (per_item, out_per_item) = (frames * joints * channels, frames * joints * 3);
        let done = job.output.len() / out_per_item.max(1);
        let items = model.card().batch.unwrap_or((SLICE_FRAMES / frames.max(1)).max(1)).min(batch - done.min(batch));
        let input = job.input.get(done * per_item..(done + items) * per_item).unwrap_or_default();
        let call = || catch_unwind(AssertUnwindSafe(|| model.infer(input, [items, frames, joints, channels])));
        // nobody is there to hear the answer: no loss
        match self.engine.busy(call) {
            Ok(Ok(output)) => {
                job.output.extend(output);
                if done + items >= batch {
                    let Job { output, answer, .. } = job;
                    answer.send(Ok(output)).ok();
                } else {
                    self.jobs.push_front(job);
                }
                None
            }
            Ok(Err(error @ (Error::Shape { .. } | Error::NotFinite { .. }))) => {
                job.answer.send(Err(InferError::Bad(error.to_string()))).ok();
                None
            }
            Ok(Err(error)) => {
                job.answer.send(Err(InferError::Failed(error.to_string()))).ok();
                self.engine.busy(|| probe(model)).err().map(|error| error.to_string())
            }
            Err(panic) => {
                let reason = format!("the engine panicked: {}", panic_text(&*panic));
                job.answer.send(Err(InferError::Failed(reason.clone()))).ok();
                Some(reason)
            }
        }
    }

    /// The engine is broken: everybody is told, and it is opened again after a while.
    fn fail(&mut self, reason: String) {
        tracing::error!("the engine failed and will be opened again: {reason}");
        self.engine.metrics.engine_failures.inc();
        self.engine.set_model(None);
        for (slot, _) in self.seats.values() {
            let error = format!("the engine failed and will be opened again, frames wait in the queue until then: {reason}");
            slot.outbox.error(slot.number, "engine", None, error);
        }
        self.refuse_jobs();
        let again = self.last_reopen.filter(|(opened, _)| opened.elapsed() < RECOVERED);
        let wait = again.map_or(FIRST_WAIT, |(_, wait)| (wait * 2).min(LONGEST_WAIT));
        self.reopen = Some(Reopen { at: Instant::now() + wait, wait, failed: 0, reason });
    }

    fn try_reopen(&mut self) {
        let Some(reopen) = &mut self.reopen else { return };
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let model: Arc<dyn Model> = Arc::from((self.opener)()?);
            probe(&*model).map(|()| model)
        }));
        let problem = match opened {
            Ok(Ok(model)) if model.card() == self.engine.card => {
                tracing::warn!("the engine runs again");
                self.engine.set_model(Some(model));
                for (slot, _) in self.seats.values() {
                    slot.outbox.error(
                        slot.number,
                        "engine_ready",
                        None,
                        format!("the engine runs again, after it had failed: {}", reopen.reason),
                    );
                }
                self.pending.extend(self.seats.keys());
                self.last_reopen = Some((Instant::now(), reopen.wait));
                self.reopen = None;
                return;
            }
            Ok(Ok(_)) => "the model's file now holds another model".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic_text(&*panic),
        };
        reopen.failed += 1;
        self.pending.extend(self.seats.keys());
        reopen.wait = (reopen.wait * 2).min(LONGEST_WAIT);
        reopen.at = Instant::now() + reopen.wait;
        tracing::error!("the engine cannot be opened, the next attempt is in {:?}: {problem}", reopen.wait);
    }

    /// Frames wait in their queues. Streams that end wait for one attempt to open the engine, and are then told what they do not get.
    fn round_without_engine(&mut self) {
        self.refuse_jobs();
        let is_patient = !self.engine.is_stopping() && self.reopen.as_ref().is_some_and(|reopen| reopen.failed == 0);
        for key in std::mem::take(&mut self.pending) {
            let Some((slot, mut seat)) = self.seats.remove(&key) else { continue };
            match slot.look() {
                (_, Some(Ending::Vanished), _) => self.leave(&slot),
                (_, Some(_), dropped) if !is_patient => {
                    let lost = slot.clear();
                    self.engine.metrics.dropped(Dropped::Engine, lost);
                    slot.outbox.drops(slot.number, Drops { queue: dropped, engine: lost, ..Drops::default() });
                    count(&slot, &mut seat, &self.engine.metrics);
                    self.end(&slot, &seat);
                }
                (_, _, dropped) => {
                    slot.rest();
                    slot.outbox.drops(slot.number, Drops { queue: dropped, ..Drops::default() });
                    self.seats.insert(key, (slot, seat));
                }
            }
        }
    }

    fn refuse_jobs(&mut self) {
        for job in self.jobs.drain(..) {
            job.answer.send(Err(InferError::Unavailable)).ok(); // nobody is there to hear it: no loss
        }
    }

    fn end(&self, slot: &Slot, seat: &Seat) {
        // its place is free before anybody hears of it
        self.leave(slot);
        slot.outbox.ended(slot.number, slot.look().1.unwrap_or(Ending::Client), seat.stats());
    }

    fn leave(&self, slot: &Slot) {
        slot.release();
        self.engine.metrics.streams.dec();
    }
}

/// What is left to do for a stream after [`Worker::fill`].
enum Filled {
    /// Nobody is there any more.
    Gone,
    /// Whether there may be more in its queue.
    Open(bool),
}

impl Seat {
    fn stats(&self) -> StreamStats {
        sum(self.past, self.core.stats())
    }

    /// Seconds, see [`StreamCore::delay_s`].
    pub fn delay_s(&self) -> f64 {
        self.core.delay_s()
    }
}

fn sum(a: StreamStats, b: StreamStats) -> StreamStats {
    StreamStats {
        frames: a.frames + b.frames,
        poses: a.poses + b.poses,
        empty: a.empty + b.empty,
        too_fast: a.too_fast + b.too_fast,
        dropped: a.dropped + b.dropped,
        restarts: a.restarts + b.restarts,
    }
}

/// A core that a panic went through is not to be trusted: the stream starts anew.
fn restart(model: &dyn Model, slot: &Slot, seat: &mut Seat, reason: &str) {
    let mut past = seat.stats();
    past.dropped = past.frames - past.poses; // those that waited are lost
    past.restarts += 1;
    match model.stream_core(seat.image, seat.core.options().clone()) {
        Ok(core) => (seat.core, seat.past) = (core, past),
        Err(error) => tracing::error!("a stream cannot start anew: {error}"), // it was made with the same settings before
    }
    seat.arrivals.clear();
    slot.outbox.error(slot.number, "engine", None, format!("{reason}: the stream starts anew"));
}

/// Tells the metrics and the client what the core has dropped since the last time.
fn count(slot: &Slot, seat: &mut Seat, metrics: &Metrics) {
    let (now, before) = (seat.stats(), seat.counted);
    seat.counted = now;
    let dropped = now.dropped - before.dropped;
    for (reason, frames) in
        [(Dropped::Engine, dropped), (Dropped::TooFast, now.too_fast - before.too_fast), (Dropped::Empty, now.empty - before.empty)]
    {
        if frames > 0 {
            metrics.dropped(reason, frames);
        }
    }
    slot.outbox.drops(slot.number, Drops { engine: dropped, ..Drops::default() });
}

/// When the newest frame of a pose arrived.
fn arrival_of(arrivals: &mut VecDeque<(f64, Instant)>, newest_s: f64) -> Option<Instant> {
    while arrivals.front().is_some_and(|frame| frame.0 < newest_s - 1e-6) {
        arrivals.pop_front();
    }
    arrivals.front().map(|frame| frame.1)
}

/// One frame of a person who stands, through a stream of its own: what a model that works can lift.
fn probe(model: &dyn Model) -> Result<(), Error> {
    let mut core = model.stream_core(trial::IMAGE, StreamOptions::default())?;
    core.push(0.0, Some(&trial::walker(0.0, 0.0)))?;
    core.finish();
    let mut lifted = Err(Error::Stream("the model gives no pose".to_owned()));
    let run = AssertUnwindSafe(|| {
        model.run_due(&mut [&mut core], &mut |_, answer| match answer {
            Ok(poses) if !poses.is_empty() => lifted = Ok(()),
            Ok(_) => {}
            Err(error) => lifted = Err(error),
        })
    });
    match catch_unwind(run) {
        Ok(_) => lifted,
        Err(panic) => Err(Error::Stream(panic_text(&*panic))),
    }
}

pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    one_line(&text.unwrap_or_else(|| "for an unknown reason".to_owned()))
}
