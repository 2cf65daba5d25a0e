use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::Error;

/// Runs independent tasks on the caller's threads: ONNX Runtime's pool, libtorch's, rayon, or none.
pub trait ParallelFor {
    /// Runs `task(i)` once for every `i` in `0..count`, in any order and on any threads, and returns when all are done.
    ///
    /// # Errors
    /// Whatever kept a task from running: the results are then incomplete.
    fn run(&self, count: usize, task: &(dyn Fn(usize) + Sync)) -> Result<(), Error>;
}

/// One after the other on the calling thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Serial;

impl ParallelFor for Serial {
    fn run(&self, count: usize, task: &(dyn Fn(usize) + Sync)) -> Result<(), Error> {
        (0..count).for_each(task);
        Ok(())
    }
}

/// The rayon pool that the call is made in (the global one by default).
#[derive(Clone, Copy, Debug, Default)]
pub struct Rayon;

impl ParallelFor for Rayon {
    fn run(&self, count: usize, task: &(dyn Fn(usize) + Sync)) -> Result<(), Error> {
        use rayon::iter::{IntoParallelIterator, ParallelIterator};
        (0..count).into_par_iter().for_each(task);
        Ok(())
    }
}

/// For pools that another language runs: `run` is given the task in a form that never panics, so that nothing unwinds
/// through foreign frames; a panic becomes an error when `run` is back.
///
/// # Errors
/// What `run` says, or that a task panicked.
pub fn without_panics(task: &(dyn Fn(usize) + Sync), run: impl FnOnce(&(dyn Fn(usize) + Sync)) -> Result<(), Error>) -> Result<(), Error> {
    let panicked = AtomicBool::new(false);
    run(&|index| {
        if catch_unwind(AssertUnwindSafe(|| task(index))).is_err() {
            panicked.store(true, Ordering::Relaxed);
        }
    })?;
    if panicked.into_inner() { Err(Error::Threads("a task panicked".to_owned())) } else { Ok(()) }
}
