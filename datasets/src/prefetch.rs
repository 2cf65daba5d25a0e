//! Batches made beside the training thread, in the same order however many threads make them.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use crate::Error;
use crate::sample::{Batch, SampleSource};

/// Batches that each worker may have ready; together with the one it is making, this bounds the memory.
const READY_PER_WORKER: usize = 2;

/// An iterator over the batches of some epochs, made ahead of use by worker threads.
///
/// Batch k of the stream is made by worker k modulo the number of workers and taken from it in turn, so the order is that of a single
/// thread. Dropping it stops the workers: each ends with the batch that it is making.
pub struct Prefetcher {
    /// `None` once dropped: a worker whose receiver is gone ends.
    batches: Vec<Receiver<Result<Batch, Error>>>,
    workers: Vec<JoinHandle<()>>,
    taken: usize,
    total: usize,
}

/// What a [`Prefetcher`] makes.
#[derive(Clone, Copy, Debug)]
pub struct PrefetchOptions {
    /// Samples per batch.
    pub batch: usize,
    /// First epoch; each has its own order and draws.
    pub first_epoch: u64,
    /// Batches of the first epoch to leave out: those that were trained on before a resume.
    pub skip_batches: usize,
    /// Number of epochs.
    pub epochs: u64,
    /// Worker threads, at least 1.
    pub workers: usize,
}

impl Prefetcher {
    /// Starts the workers. The last batch of an epoch has the samples that are left.
    ///
    /// # Errors
    /// A batch of no samples, a source of no samples, or threads that the system refuses to start.
    pub fn new(source: Arc<dyn SampleSource>, options: PrefetchOptions) -> Result<Self, Error> {
        if options.batch == 0 || source.is_empty() {
            return Err(Error::options("a batch needs at least one sample, and so does the data set"));
        }
        let per_epoch = source.len().div_ceil(options.batch);
        let total = usize::try_from(options.epochs).unwrap_or(usize::MAX).saturating_mul(per_epoch).saturating_sub(options.skip_batches);
        let count = options.workers.clamp(1, total.max(1));
        let mut batches = Vec::with_capacity(count);
        let mut workers = Vec::with_capacity(count);
        for first in 0..count {
            let (sender, receiver) = sync_channel(READY_PER_WORKER);
            let source = Arc::clone(&source);
            let work = move || {
                let mut order = EpochOrder::default();
                for k in (first..total).step_by(count) {
                    let position = k + options.skip_batches;
                    let epoch = options.first_epoch + (position / per_epoch) as u64;
                    let start = position % per_epoch * options.batch;
                    let indices = order.of(&*source, epoch);
                    let batch = source.batch(epoch, &indices[start..(start + options.batch).min(indices.len())]);
                    let failed = batch.is_err();
                    if sender.send(batch).is_err() || failed {
                        return;
                    }
                }
            };
            let worker = std::thread::Builder::new().name(format!("batches-{first}")).spawn(work);
            workers.push(worker.map_err(|e| Error::options(format!("cannot start a thread that makes batches: {e}")))?);
            batches.push(receiver);
        }
        Ok(Self { batches, workers, taken: 0, total })
    }

    /// Batches that are still to come.
    pub fn remaining(&self) -> usize {
        self.total - self.taken
    }
}

/// The order of the epoch that a worker is in, made once per epoch.
#[derive(Default)]
struct EpochOrder {
    made: Option<(u64, Vec<usize>)>,
}

impl EpochOrder {
    fn of(&mut self, source: &dyn SampleSource, epoch: u64) -> &[usize] {
        if self.made.as_ref().is_none_or(|(made, _)| *made != epoch) {
            self.made = None;
        }
        &self.made.get_or_insert_with(|| (epoch, source.order(epoch))).1
    }
}

impl Iterator for Prefetcher {
    type Item = Result<Batch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.taken == self.total {
            return None;
        }
        let worker = self.taken % self.batches.len();
        self.taken += 1;
        let gone = |_| Err(Error::options("a thread that makes batches has ended unexpectedly: its message is above"));
        let batch = self.batches[worker].recv().unwrap_or_else(gone);
        if batch.is_err() {
            self.taken = self.total; // what the other workers have ready comes after a gap
        }
        Some(batch)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining(), Some(self.remaining()))
    }
}

impl Drop for Prefetcher {
    fn drop(&mut self) {
        self.batches.clear(); // workers that wait to hand over a batch now learn that nobody wants it
        for worker in self.workers.drain(..) {
            // A worker that panicked has said so on standard error; there is nobody left to tell.
            let _ = worker.join();
        }
    }
}
