//! Progress bars, and how fast each stage is.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Makes the bars of one run.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Off for machine-readable runs; where standard error is no terminal nothing is drawn anyway.
    pub visible: bool,
}

impl Progress {
    /// A bar; without a length it only counts.
    pub fn bar(self, stage: &'static str, length: Option<u64>) -> ProgressBar {
        if !self.visible {
            return ProgressBar::hidden();
        }
        let (bar, template) = match length {
            Some(length) => (ProgressBar::new(length), "{prefix:>7} {bar:30} {pos}/{len} frames, {msg} [{eta}]"),
            None => (ProgressBar::no_length(), "{prefix:>7} {spinner} {pos} frames, {msg}"),
        };
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
        // The templates are constants; the default style would do as well.
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(stage);
        bar
    }
}

/// The time that one stage takes, and the frames that it handles.
#[derive(Debug, Clone, Copy, Default)]
pub struct Meter {
    busy: Duration,
    frames: u64,
}

impl Meter {
    /// Runs a piece of the stage's work.
    pub fn measure<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.busy += start.elapsed();
        result
    }

    /// Counts finished frames.
    pub fn count(&mut self, frames: u64) {
        self.frames += frames;
    }

    /// Frames a second of this stage alone; `None` before its first frame.
    pub fn rate_fps(&self) -> Option<f64> {
        let seconds = self.busy.as_secs_f64();
        (self.frames > 0 && seconds > 0.0).then(|| self.frames as f64 / seconds)
    }

    /// [`Self::rate_fps`] for people.
    pub fn rate_text(&self) -> String {
        self.rate_fps().map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0} fps"))
    }
}
