//! What a person sees of a run: a log on standard error and in a file, and a bar below it.

use std::{
    fs::{File, OpenOptions},
    io::{IsTerminal, Write},
    path::Path,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter, layer::SubscriberExt, util::SubscriberInitExt};

/// Log file in a run's folder.
pub const LOG_FILE: &str = "training.log";

static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Standard error, with the bar out of the way while a line is written.
#[derive(Clone, Copy)]
struct AroundBars;

impl Write for AroundBars {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        BARS.suspend(|| std::io::stderr().write(buffer))
    }
    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

impl MakeWriter<'_> for AroundBars {
    type Writer = Self;
    fn make_writer(&self) -> Self {
        *self
    }
}

/// Starts the log: on standard error and, for a run, in [`LOG_FILE`] of its folder (appended). `RUST_LOG` filters it.
///
/// # Errors
/// The file cannot be opened.
pub fn start_log(run: Option<&Path>) -> Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let file = run
        .map(|folder| {
            let path = folder.join(LOG_FILE);
            let open = OpenOptions::new().create(true).append(true).open(&path);
            open.with_context(|| format!("{}: the log cannot be opened; is the folder writable?", path.display()))
        })
        .transpose()?;
    let screen = tracing_subscriber::fmt::layer()
        .with_writer(AroundBars)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time();
    let log = file.map(|file: File| tracing_subscriber::fmt::layer().with_writer(Arc::new(file)).with_target(false).with_ansi(false));
    // A second start, as in tests, changes nothing.
    let _ = tracing_subscriber::registry().with(filter).with(screen).with(log).try_init();
    Ok(())
}

/// The log of a process that writes nothing: warnings on standard error.
pub fn start_warnings() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let screen = tracing_subscriber::fmt::layer().with_writer(AroundBars).with_target(false).without_time();
    // A second start, as in tests, changes nothing.
    let _ = tracing_subscriber::registry().with(filter).with(screen).try_init();
}

/// The bar of an epoch. Where standard error is no terminal, a line now and then instead.
pub struct EpochBar {
    bar: ProgressBar,
    last_line: Instant,
    label: String,
}

impl EpochBar {
    const LINE_EVERY: Duration = Duration::from_secs(60);

    /// `steps` in all, `done` of them before (a resume).
    pub fn new(label: String, steps: u64, done: u64) -> Self {
        Self::around(BARS.add(ProgressBar::new(steps).with_position(done)), label)
    }

    /// One that nobody sees.
    pub fn hidden() -> Self {
        Self::around(ProgressBar::hidden(), String::new())
    }

    fn around(bar: ProgressBar, label: String) -> Self {
        if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(label.clone());
        Self { bar, last_line: Instant::now(), label }
    }

    /// One step is done.
    pub fn step(&mut self, loss: f64, clips_per_s: f64, left: Duration) {
        let minutes = left.as_secs_f64() / 60.0;
        self.bar.inc(1);
        self.bar.set_message(format!("loss {loss:.4}  {clips_per_s:.1} clips/s  {minutes:.0} min left"));
        if self.bar.is_hidden() && self.last_line.elapsed() > Self::LINE_EVERY {
            self.last_line = Instant::now();
            let (at, of) = (self.bar.position(), self.bar.length().unwrap_or_default());
            tracing::info!("{}: step {at} of {of}, loss {loss:.4}, {clips_per_s:.1} clips/s, {minutes:.0} min left", self.label);
        }
    }
}

impl Drop for EpochBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        BARS.remove(&self.bar);
    }
}
