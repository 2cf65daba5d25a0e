//! A thread that takes frames from a source into a slot of one: who is slow gets the newest frame, and older ones are dropped.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use opencv::core::Mat;

use super::Error;
use super::source::{Capture, Next, Size, Source};

/// Pauses between attempts to connect to a stream again.
const PAUSES_S: [f64; 5] = [1.0, 2.0, 4.0, 8.0, 15.0];

/// A frame with the moment it came.
pub struct Shot {
    /// BGR.
    pub frame: Mat,
    /// When the source gave it.
    pub at: Instant,
}

/// How a source is watched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Watch {
    /// Size to ask a camera for.
    pub size: Option<Size>,
    /// Without a frame for so long, a source is lost.
    pub patience: Duration,
    /// How many times a lost stream is connected to again.
    pub attempts: usize,
}

impl Watch {
    /// Most attempts.
    pub const MOST_ATTEMPTS: usize = PAUSES_S.len();
}

#[derive(Default)]
struct State {
    newest: Option<Shot>,
    /// Pictures to be written over.
    spare: Vec<Mat>,
    dropped: u64,
    ended: Option<Result<(), Error>>,
    /// Somebody is connecting again: the patience is theirs.
    is_connecting: bool,
}

#[derive(Default)]
struct Slot {
    state: Mutex<State>,
    changed: Condvar,
}

impl Slot {
    /// A thread that panicked leaves nothing half done here.
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread, and what it took last.
pub struct Grabber {
    slot: Arc<Slot>,
    stop: Arc<AtomicBool>,
    name: String,
    patience: Duration,
    /// Reading from the network has this patience itself, and is then connected to again: here is only seen what hangs for longer.
    patience_here: Duration,
    /// When something came last, or the source was opened.
    last: Instant,
}

/// What there is.
pub enum Taken {
    /// The newest frame.
    Shot(Shot),
    /// Nothing yet.
    Nothing,
    /// The source is at its end.
    End,
}

impl Grabber {
    /// Opens the source and begins to take frames.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub fn start(source: &Source, watch: Watch) -> Result<Self, Error> {
        let capture = source.open(watch.size, watch.patience)?;
        let patience_here = if source.can_reconnect() { 3 * watch.patience } else { watch.patience };
        let (slot, stop) = (Arc::new(Slot::default()), Arc::new(AtomicBool::new(false)));
        let (for_thread, stop_thread, source_of_thread) = (slot.clone(), stop.clone(), source.clone());
        let spawned = thread::Builder::new().name("camera".to_owned()).spawn(move || {
            let ended = grab(&source_of_thread, capture, watch, &for_thread, &stop_thread);
            for_thread.lock().ended = Some(ended);
            for_thread.changed.notify_all();
        });
        spawned.map_err(Error::Thread)?;
        Ok(Self { slot, stop, name: source.to_string(), patience: watch.patience, patience_here, last: Instant::now() })
    }

    /// The newest frame that was not taken yet; waits for it at most so long.
    ///
    /// # Errors
    /// A source that was lost, or has given nothing for longer than the patience.
    pub fn take(&mut self, wait: Duration) -> Result<Taken, Error> {
        let state = self.slot.lock();
        let waited = self.slot.changed.wait_timeout_while(state, wait, |state| state.newest.is_none() && state.ended.is_none());
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if let Some(shot) = state.newest.take() {
            self.last = Instant::now();
            return Ok(Taken::Shot(shot));
        }
        match state.ended.take() {
            Some(Ok(())) => return Ok(Taken::End),
            Some(Err(error)) => return Err(error),
            None => {}
        }
        if state.is_connecting {
            self.last = Instant::now();
        }
        if self.last.elapsed() > self.patience_here {
            return Err(Error::Silent { what: self.name.clone(), seconds: self.patience.as_secs_f64() });
        }
        Ok(Taken::Nothing)
    }

    /// Gives a picture back, to be written over.
    pub fn recycle(&self, frame: Mat) {
        let mut state = self.slot.lock();
        if state.spare.len() < 4 {
            state.spare.push(frame);
        }
    }

    /// Frames so far that nobody took.
    pub fn dropped(&self) -> u64 {
        self.slot.lock().dropped
    }
}

impl Drop for Grabber {
    /// The thread ends with its next frame. One that hangs in the system is left behind.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Takes frames until the source ends, is lost for good, or nobody wants any more.
fn grab(source: &Source, capture: Capture, watch: Watch, slot: &Slot, stop: &AtomicBool) -> Result<(), Error> {
    // Attempts since the last frame: a stream that opens and gives nothing is not back.
    let (mut capture, mut spare, mut attempts) = (Some(capture), Mat::default(), 0);
    while !stop.load(Ordering::Relaxed) {
        let Some(open) = &mut capture else {
            slot.lock().is_connecting = true;
            capture = Some(reconnect(source, watch, stop, &mut attempts)?);
            slot.lock().is_connecting = false;
            continue;
        };
        let next = open.next(&mut spare, stop)?;
        let at = Instant::now();
        match next {
            Next::Frame => {
                attempts = 0;
                let mut state = slot.lock();
                let empty = state.spare.pop().unwrap_or_default();
                if let Some(old) = state.newest.replace(Shot { frame: std::mem::replace(&mut spare, empty), at }) {
                    state.dropped += 1;
                    state.spare.push(old.frame);
                }
                slot.changed.notify_all();
            }
            Next::End => return Ok(()),
            Next::Lost if source.can_reconnect() && watch.attempts > 0 => capture = None,
            Next::Lost => return Err(Error::Silent { what: source.to_string(), seconds: watch.patience.as_secs_f64() }),
        }
    }
    Ok(())
}

/// Opens a lost stream again, with growing pauses; `attempts` is how many there were.
fn reconnect(source: &Source, watch: Watch, stop: &AtomicBool, attempts: &mut usize) -> Result<Capture, Error> {
    let most = watch.attempts.min(PAUSES_S.len());
    while *attempts < most {
        let pause_s = PAUSES_S[*attempts];
        *attempts += 1;
        tracing::warn!("{source} delivers no more: connecting again in {pause_s} s ({attempts} of {most})");
        let until = Instant::now() + Duration::from_secs_f64(pause_s);
        while Instant::now() < until && !stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(50));
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
        if let Ok(capture) = source.open(watch.size, watch.patience) {
            tracing::info!("{source} is back");
            return Ok(capture);
        }
    }
    Err(Error::Lost { what: source.to_string(), attempts: most })
}
