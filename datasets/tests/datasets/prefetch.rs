use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use datasets::{Batch, ClipSampler, Error, PrefetchOptions, Prefetcher, Sample, SampleSource, SamplerOptions};

use crate::walks;

const OPTIONS: PrefetchOptions = PrefetchOptions { batch: 5, first_epoch: 0, skip_batches: 0, epochs: 2, workers: 1 };

fn source() -> Arc<dyn SampleSource> {
    Arc::new(ClipSampler::new(walks(), SamplerOptions { stride: Some(50), ..SamplerOptions::new(9, 1) }).unwrap())
}

fn batches(options: PrefetchOptions) -> Vec<Batch> {
    Prefetcher::new(source(), options).unwrap().map(|batch| batch.unwrap()).collect()
}

#[test]
fn any_number_of_threads_makes_the_same_batches() {
    let one = batches(OPTIONS);
    for workers in [2, 3, 16] {
        assert_eq!(batches(PrefetchOptions { workers, ..OPTIONS }), one);
    }
    let per_epoch = source().len().div_ceil(5);
    assert_eq!(one.len(), 2 * per_epoch);
    for (epoch, batches) in one.chunks(per_epoch).enumerate() {
        let mut seen: Vec<usize> = batches.iter().flat_map(|batch| batch.indices.clone()).collect();
        assert!(batches.iter().all(|batch| batch.epoch == epoch as u64 && batch.input.len() == batch.samples * 9 * 17 * 3));
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..source().len()), "each sample once per epoch, the last batch takes what is left");
    }
}

#[test]
fn a_resumed_stream_goes_on_where_it_stopped() {
    let all = batches(OPTIONS);
    let per_epoch = source().len().div_ceil(5);
    for skip_batches in [1, per_epoch, per_epoch + 2] {
        assert_eq!(batches(PrefetchOptions { skip_batches, workers: 2, ..OPTIONS }), all[skip_batches..]);
    }
    assert_eq!(batches(PrefetchOptions { first_epoch: 1, epochs: 1, ..OPTIONS }), all[per_epoch..]);
    assert!(batches(PrefetchOptions { skip_batches: 10_000, ..OPTIONS }).is_empty());
    assert!(batches(PrefetchOptions { epochs: 0, ..OPTIONS }).is_empty());
}

/// Counts what was asked of it; fails at one index.
struct Counting {
    asked: AtomicUsize,
    fails_at: usize,
}

impl SampleSource for Counting {
    fn len(&self) -> usize {
        1_000_000
    }
    fn frames(&self) -> usize {
        1
    }
    fn dim_in(&self) -> usize {
        3
    }
    fn seed(&self) -> u64 {
        0
    }
    fn order(&self, _epoch: u64) -> Vec<usize> {
        (0..self.len()).collect()
    }
    fn sample(&self, _epoch: u64, index: usize) -> Result<Sample, Error> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if index == self.fails_at {
            return Err(Error::Options("sample 12 is bad".into()));
        }
        Ok(Sample { input: vec![index as f32; 51], label: vec![0.0; 51], truth: None })
    }
}

#[test]
fn it_runs_ahead_by_a_few_batches_and_stops_when_dropped() {
    let source = Arc::new(Counting { asked: AtomicUsize::new(0), fails_at: usize::MAX });
    let mut stream = Prefetcher::new(source.clone(), PrefetchOptions { workers: 3, ..OPTIONS }).unwrap();
    assert_eq!(stream.next().unwrap().unwrap().indices, [0, 1, 2, 3, 4]);
    std::thread::sleep(Duration::from_millis(300));
    let ahead = source.asked.load(Ordering::SeqCst);
    assert!(ahead <= (1 + 3 * 3) * 5, "{ahead} samples made after one batch was taken");
    let start = Instant::now();
    drop(stream);
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(Arc::strong_count(&source), 1, "no thread is left");
}

#[test]
fn an_error_comes_in_its_place_and_ends_the_stream() {
    for workers in [1, 3] {
        let source = Arc::new(Counting { asked: AtomicUsize::new(0), fails_at: 12 });
        let mut stream = Prefetcher::new(source, PrefetchOptions { workers, ..OPTIONS }).unwrap();
        assert!(stream.next().unwrap().is_ok() && stream.next().unwrap().is_ok());
        assert_eq!(stream.next().unwrap().unwrap_err().to_string(), "sample 12 is bad");
        assert!(stream.next().is_none());
    }
}

#[test]
fn nothing_to_draw_is_an_error() {
    assert!(Prefetcher::new(source(), PrefetchOptions { batch: 0, ..OPTIONS }).is_err());
}
