//! Who listens to a live session.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use opencv::core::Mat;

use super::quantiles::Quantiles;
use super::update::LiveUpdate;
use crate::progress::Progress;

/// Somebody who is told of every frame.
pub trait Sink {
    /// An update, with the frame (BGR) that it is about. What is slow here makes the session drop frames.
    ///
    /// # Errors
    /// The listener is gone for good: the session ends.
    fn update(&mut self, update: &LiveUpdate, frame: &Mat) -> io::Result<()>;
}

/// A line of JSON for each update.
pub struct Ndjson<W: Write> {
    out: W,
}

impl<W: Write> Ndjson<W> {
    /// Writes to a file or to a program that reads.
    pub fn new(out: W) -> Self {
        Self { out }
    }
}

impl<W: Write> Sink for Ndjson<W> {
    fn update(&mut self, update: &LiveUpdate, _: &Mat) -> io::Result<()> {
        let mut line = serde_json::to_vec(update)?;
        line.push(b'\n');
        self.out.write_all(&line)?;
        // Who reads along wants it now.
        self.out.flush()
    }
}

/// A line on the terminal that says how it goes; where there is no terminal, a line in the log now and then.
pub struct StatusLine {
    bar: ProgressBar,
    recent: Quantiles,
    last: Instant,
    interval: Duration,
}

/// Between two lines of the log.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Between two changes of the terminal's line.
const TERMINAL_INTERVAL: Duration = Duration::from_millis(200);

impl StatusLine {
    /// `progress` says whether there is to be any.
    pub fn new(progress: Progress) -> Self {
        let bar = progress.bar("live", None);
        let interval = if bar.is_hidden() { LOG_INTERVAL } else { TERMINAL_INTERVAL };
        if let Ok(style) = indicatif::ProgressStyle::with_template("{prefix:>7} {spinner} {msg}") {
            bar.set_style(style);
        }
        Self { bar, recent: Quantiles::default(), last: Instant::now(), interval }
    }
}

impl Sink for StatusLine {
    fn update(&mut self, update: &LiveUpdate, _: &Mat) -> io::Result<()> {
        self.recent.add(update.delay_ms.total);
        if self.last.elapsed() < self.interval {
            return Ok(());
        }
        self.last = Instant::now();
        let [p50, p95] = [0.5, 0.95].map(|share| self.recent.at(share).unwrap_or_default());
        let people = update.people.len();
        let line = format!(
            "{:.0} fps, {} dropped, delay {p50:.0} ms (95 %: {p95:.0} ms), {people} {}, filter {:.0} ms behind",
            update.fps,
            update.dropped,
            if people == 1 { "person" } else { "people" },
            update.lag_ms
        );
        if self.bar.is_hidden() {
            tracing::info!("{line}");
        } else {
            self.bar.tick();
            self.bar.set_message(line);
        }
        // "Of late" is about the last half minute.
        if self.recent.count() > 1000 {
            self.recent.halve();
        }
        Ok(())
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
