//! Training over processes: each takes its part of every batch, the gradients of all are summed, and all make the same step.
//!
//! `train.batch_size` is that of all processes together. What is computed is the step of one process on the whole batch, with two
//! differences that data parallelism has everywhere: batch normalisation sees a process's part of the batch (as with `train.replicas` and
//! `train.accumulate`), and dropout draws from each process's own generator. The running statistics of batch normalisation are averaged over
//! the processes at the end of each epoch, before they are used; in between they differ, and a state that is saved within an epoch holds
//! those of rank 0. The moving average of the weights, validation and every file are rank 0's.

use std::{cell::OnceCell, sync::Arc};

use anyhow::{Result, ensure};
use datasets::{Sample, SampleSource};
use poselift_c10d::{Backend, Environment, ProcessGroup, Timeouts};
use tch::{Device, Kind, Tensor};

use crate::weights::Store;

/// Values of a collective: large enough that the way costs more than the start, small enough that several are under way.
const BUCKET_VALUES: usize = 4 << 20;

/// This process among those that train together.
pub struct Distributed {
    group: ProcessGroup,
    /// Where tensors must lie to be sent.
    carrier: Device,
    /// Parameters of each bucket, by their numbers: those that have gradients, the same ones in every step.
    buckets: OnceCell<Vec<Vec<usize>>>,
}

/// How much of a batch a process has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// Samples of the whole batch.
    pub of: usize,
    /// Own samples over those: how much the process's gradient counts.
    pub share: f64,
}

impl Distributed {
    /// Meets the other processes. Gloo carries tensors of the CPU, NCCL those of GPUs where it was built in; else they go by way of the CPU.
    ///
    /// # Errors
    /// Not all came.
    pub fn join(environment: &Environment, device: Device, timeouts: Timeouts) -> Result<Self> {
        let backend = if cfg!(feature = "nccl") && device.is_cuda() { Backend::Nccl } else { Backend::Gloo };
        let carrier = if backend == Backend::Nccl { device } else { Device::Cpu };
        Ok(Self { group: ProcessGroup::join(environment, backend, timeouts)?, carrier, buckets: OnceCell::new() })
    }

    /// Whether this is the process that validates and writes.
    pub fn is_first(&self) -> bool {
        self.group.rank() == 0
    }

    /// Which process this is.
    pub fn rank(&self) -> usize {
        self.group.rank()
    }

    /// How many there are.
    pub fn world_size(&self) -> usize {
        self.group.world_size()
    }

    /// Samples of this process in a full batch.
    ///
    /// # Errors
    /// A batch that cannot be shared out evenly.
    pub fn own_batch(&self, batch: usize) -> Result<usize> {
        let ranks = self.world_size();
        ensure!(
            batch.is_multiple_of(ranks),
            "train.batch_size is {batch}: expected a multiple of the number of processes, {ranks}, which share each batch"
        );
        Ok(batch / ranks)
    }

    /// This process's part of every batch of a source.
    pub fn own_part(&self, whole: Arc<dyn SampleSource>, batch: usize) -> Arc<dyn SampleSource> {
        Arc::new(PartOfBatches { whole, batch, rank: self.rank(), ranks: self.world_size() })
    }

    /// How much of a batch that is: of batch number `index` of an epoch of `samples`.
    pub fn part(&self, samples: usize, batch: usize, index: usize) -> Part {
        let of = batch.min(samples.saturating_sub(index * batch)).max(1);
        let (from, to) = own_bounds(of, self.rank(), self.world_size());
        Part { of, share: (to - from) as f64 / of as f64 }
    }

    /// Ends a job whose processes do not do the same: `what` is said to differ.
    ///
    /// # Errors
    /// It differs, or a process is gone.
    pub fn agree(&self, what: &str, text: &str) -> Result<()> {
        let own = i64::from(crc32c::crc32c(text.as_bytes()));
        let first = Tensor::from_slice(&[own]).to_device(self.carrier);
        self.group.broadcast(std::slice::from_ref(&first), 0, "the comparison of recipes")?;
        ensure!(first.int64_value(&[0]) == own, "rank {} has {what} than rank 0: start all processes with the same command", self.rank());
        Ok(())
    }

    /// Numbers of rank 0, for all.
    ///
    /// # Errors
    /// A process is gone.
    pub fn from_first<const N: usize>(&self, numbers: [f64; N], what: &'static str) -> Result<[f64; N]> {
        let tensor = Tensor::from_slice(&numbers).to_device(self.carrier);
        self.group.broadcast(std::slice::from_ref(&tensor), 0, what)?;
        Ok(array(&tensor))
    }

    /// Sums of numbers over all.
    ///
    /// # Errors
    /// A process is gone.
    pub fn sum<const N: usize>(&self, numbers: [f64; N], what: &'static str) -> Result<[f64; N]> {
        let tensor = Tensor::from_slice(&numbers).to_device(self.carrier);
        self.group.all_reduce_sum(std::slice::from_ref(&tensor), what)?;
        Ok(array(&tensor))
    }

    /// Overwrites tensors with those of rank 0.
    ///
    /// # Errors
    /// A process is gone.
    pub fn copy_from_first(&self, tensors: &[Tensor], what: &'static str) -> Result<()> {
        tch::no_grad(|| {
            let carried: Vec<Tensor> = tensors.iter().map(|tensor| tensor.detach().to_device(self.carrier).contiguous()).collect();
            self.group.broadcast(&carried, 0, what)?;
            for (tensor, carried) in tensors.iter().zip(&carried) {
                // the same memory where nothing had to be moved
                if tensor.data_ptr() != carried.data_ptr() {
                    tensor.shallow_clone().copy_(carried);
                }
            }
            Ok(())
        })
    }

    /// Sums the gradients of all processes, in place, bucket by bucket.
    ///
    /// # Errors
    /// A process is gone.
    pub fn sum_gradients(&self, weights: &Store) -> Result<()> {
        let gradients: Vec<Tensor> = weights.parameters().map(|(_, parameter)| parameter.grad()).collect();
        let buckets = self.buckets.get_or_init(|| buckets(&gradients));
        tch::no_grad(|| {
            let flat = |bucket: &Vec<usize>| {
                let parts: Vec<Tensor> = bucket.iter().map(|&i| gradients[i].reshape([-1])).collect();
                Tensor::cat(&parts, 0).to_device(self.carrier)
            };
            let flat: Vec<Tensor> = buckets.iter().map(flat).collect();
            self.group.all_reduce_sum(&flat, "the sum of the gradients")?;
            for (bucket, flat) in buckets.iter().zip(&flat) {
                let mut start = 0;
                for &i in bucket {
                    let gradient = &gradients[i];
                    let values = gradient.numel() as i64;
                    gradient.shallow_clone().copy_(&flat.narrow(0, start, values).view_as(gradient));
                    start += values;
                }
            }
            Ok(())
        })
    }

    /// Replaces the running statistics of batch normalisation by their mean over the processes.
    ///
    /// # Errors
    /// A process is gone.
    pub fn average_buffers(&self, weights: &Store) -> Result<()> {
        let is_running = |name: &str| name.ends_with("running_mean") || name.ends_with("running_var"); // other buffers never change
        let buffers: Vec<&Tensor> = weights.entries().iter().filter(|entry| is_running(&entry.name)).map(|entry| &entry.tensor).collect();
        if buffers.is_empty() {
            return Ok(());
        }
        tch::no_grad(|| {
            let parts: Vec<Tensor> = buffers.iter().map(|buffer| buffer.reshape([-1])).collect();
            let flat = Tensor::cat(&parts, 0).to_device(self.carrier);
            self.group.all_reduce_sum(std::slice::from_ref(&flat), "the mean of the running statistics")?;
            let mean = flat / self.world_size() as f64;
            let mut start = 0;
            for buffer in buffers {
                let values = buffer.numel() as i64;
                buffer.shallow_clone().copy_(&mean.narrow(0, start, values).view_as(buffer));
                start += values;
            }
            Ok(())
        })
    }
}

/// Gradients in the order in which they are made, the last layer's first, in buckets of about [`BUCKET_VALUES`].
fn buckets(gradients: &[Tensor]) -> Vec<Vec<usize>> {
    let (mut buckets, mut values) = (vec![Vec::new()], 0);
    for i in (0..gradients.len()).rev().filter(|&i| gradients[i].defined()) {
        if values > 0 && values + gradients[i].numel() > BUCKET_VALUES {
            buckets.push(Vec::new());
            values = 0;
        }
        values += gradients[i].numel();
        if let Some(last) = buckets.last_mut() {
            last.push(i);
        }
    }
    buckets.retain(|bucket| !bucket.is_empty());
    buckets
}

fn array<const N: usize>(tensor: &Tensor) -> [f64; N] {
    let tensor = tensor.to_device(Device::Cpu).to_kind(Kind::Double);
    std::array::from_fn(|i| tensor.double_value(&[i as i64]))
}

/// Which of a batch's samples are a rank's.
fn own_bounds(samples: usize, rank: usize, ranks: usize) -> (usize, usize) {
    (rank * samples / ranks, (rank + 1) * samples / ranks)
}

/// One rank's samples of every batch. A last batch with fewer samples than ranks gives some of them a sample of another, that does not count.
struct PartOfBatches {
    whole: Arc<dyn SampleSource>,
    /// Samples of a whole batch, a multiple of `ranks`.
    batch: usize,
    rank: usize,
    ranks: usize,
}

impl PartOfBatches {
    /// Which of a batch's samples are taken: never none.
    fn taken(&self, samples: usize) -> (usize, usize) {
        match own_bounds(samples, self.rank, self.ranks) {
            (from, to) if from < to => (from, to),
            _ => (0, 1),
        }
    }
}

impl SampleSource for PartOfBatches {
    fn len(&self) -> usize {
        let (full, rest) = (self.whole.len() / self.batch, self.whole.len() % self.batch);
        let of_rest = if rest == 0 { 0 } else { self.taken(rest).1 - self.taken(rest).0 };
        full * (self.batch / self.ranks) + of_rest
    }
    fn frames(&self) -> usize {
        self.whole.frames()
    }
    fn dim_in(&self) -> usize {
        self.whole.dim_in()
    }
    fn seed(&self) -> u64 {
        self.whole.seed()
    }
    fn sample(&self, epoch: u64, index: usize) -> Result<Sample, datasets::Error> {
        self.whole.sample(epoch, index)
    }
    fn order(&self, epoch: u64) -> Vec<usize> {
        let own = |batch: &[usize]| {
            let (from, to) = self.taken(batch.len());
            batch[from..to].to_vec()
        };
        self.whole.order(epoch).chunks(self.batch).flat_map(own).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many numbered samples as it says.
    struct Numbers(usize);

    impl SampleSource for Numbers {
        fn len(&self) -> usize {
            self.0
        }
        fn frames(&self) -> usize {
            1
        }
        fn dim_in(&self) -> usize {
            2
        }
        fn seed(&self) -> u64 {
            3
        }
        fn sample(&self, _: u64, _: usize) -> Result<Sample, datasets::Error> {
            Ok(Sample { input: vec![0.0; 34], label: vec![0.0; 51], truth: None })
        }
    }

    /// Batch by batch, the ranks together take what one process takes, and their shares are 1.
    #[test]
    fn ranks_share_out_every_batch() {
        for (samples, batch, ranks) in [(40, 8, 2), (43, 8, 2), (41, 8, 4), (3, 8, 8), (7, 6, 3), (5, 1, 1), (12, 12, 5 - 1)] {
            let whole = Arc::new(Numbers(samples));
            let order = whole.order(2);
            let parts: Vec<PartOfBatches> = (0..ranks).map(|rank| PartOfBatches { whole: whole.clone(), batch, rank, ranks }).collect();
            let orders: Vec<Vec<usize>> = parts.iter().map(|part| part.order(2)).collect();
            for (part, own) in parts.iter().zip(&orders) {
                assert_eq!(part.len(), own.len());
                assert_eq!(own.len().div_ceil(batch / ranks), samples.div_ceil(batch), "every rank has a part of every batch");
            }
            for (index, expected) in order.chunks(batch).enumerate() {
                let (mut found, mut share) = (Vec::<usize>::new(), 0.0);
                for (rank, own) in orders.iter().enumerate() {
                    let per_batch = batch / ranks;
                    let taken = &own[index * per_batch..((index + 1) * per_batch).min(own.len())];
                    let (from, to) = own_bounds(expected.len(), rank, ranks);
                    assert!(!taken.is_empty());
                    found.extend(&taken[..to - from]);
                    share += (to - from) as f64 / expected.len() as f64;
                }
                assert_eq!(found, expected);
                assert!((share - 1.0).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn buckets_hold_every_gradient_once() {
        let gradient = |values: i64| Tensor::zeros([values], (Kind::Float, Device::Cpu));
        let half = BUCKET_VALUES as i64 / 2;
        let gradients = [gradient(3), gradient(half), Tensor::new(), gradient(half + 1), gradient(2 * half), gradient(5)];
        assert_eq!(buckets(&gradients), vec![vec![5], vec![4], vec![3], vec![1, 0]]);
    }
}
