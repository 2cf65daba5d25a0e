//! Data parallelism within the process: a batch is split over threads, each with its own copy of the layers on the same weights.
//!
//! Layers of a small model are too short to share among threads: two replicas of one thread each make 1.2 to 1.3 times the steps of one
//! replica on two threads. Each replica normalises its batch normalisation by its own shard, as data parallelism does.

use std::{
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use anyhow::{Result, anyhow};
use network::{Context, ModelConfig};
use poselift_scan_torch::autocast_bf16;
use tch::{Device, Kind, Tensor};

use crate::{
    loss::{LossWeights, Losses},
    model::Lifter,
    recipe::Precision,
    weights::Store,
};

/// How a gradient is taken.
#[derive(Clone, Copy, Debug)]
pub struct Objective {
    /// Terms of the loss.
    pub loss: LossWeights,
    /// Precision of matrix products.
    pub precision: Precision,
    /// Whether dropout and the batch's statistics are used.
    pub context: Context,
}

/// A part of a batch.
#[derive(Debug)]
pub struct Shard {
    /// (b, T, J, dim_in).
    pub input: Tensor,
    /// (b, T, J, 3).
    pub label: Tensor,
    /// b / B: how much it counts in the batch.
    pub share: f64,
}

/// Loss terms of a shard times its share: total, MPJPE, N-MPJPE, velocity. Those of a batch's shards add up to the batch's.
pub type Terms = [f64; 4];

impl Objective {
    /// Adds the gradient of a shard's part of the loss to what the lifter's parameters hold. That of a loss that is no number is none either.
    ///
    /// # Errors
    /// libtorch refused the precision.
    pub fn backward(&self, lifter: &Lifter, shard: &Shard) -> Result<Terms> {
        let predicted = self.forward(lifter, &shard.input)?;
        let Losses { total, mpjpe, n_mpjpe, velocity } = self.losses(lifter, &predicted, &shard.label);
        let terms = Tensor::stack(&[&total, &mpjpe, &n_mpjpe, &velocity], 0).detach();
        (total * shard.share).backward();
        // Read last, and at once: a GPU is waited for once, with the whole gradient in its queue.
        let terms = terms.to_device(Device::Cpu).to_kind(Kind::Double);
        Ok(std::array::from_fn(|i| terms.double_value(&[i as i64]) * shard.share))
    }

    /// What the model makes of input (b, T, J, dim_in): (b, T, J, 3) in f32, for each look-ahead of a model that has several.
    ///
    /// # Errors
    /// libtorch refused the precision.
    pub fn forward(&self, lifter: &Lifter, input: &Tensor) -> Result<Tensor> {
        let forward = || lifter.forward(input, &self.context);
        Ok(match self.precision {
            Precision::F32 => forward(),
            Precision::Bf16 => autocast_bf16(lifter.device(), forward)?.to_kind(Kind::Float),
        })
    }

    /// The loss and its terms.
    pub fn losses(&self, lifter: &Lifter, predicted: &Tensor, label: &Tensor) -> Losses {
        match lifter.config.live() {
            None => self.loss.of(predicted, label),
            Some(config) => self.loss.of_look_aheads(predicted, label, &config.look_aheads),
        }
    }
}

/// Terms and gradient of a shard, in the order of [`Store::parameters`]; none where the loss does not depend on the parameter.
type Answer = Result<(Terms, Vec<Option<Tensor>>)>;

struct Worker {
    shards: Sender<Shard>,
    answers: Receiver<Answer>,
}

/// Threads that take gradients beside the training thread.
pub struct Replicas {
    workers: Vec<Worker>,
    /// Threads of libtorch's pool that each of them computes with.
    threads_each: i32,
}

impl Replicas {
    /// `count` replicas beside `lifter` itself, which divide the threads that libtorch has among them.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn beside(lifter: &Lifter, count: usize, objective: Objective) -> Result<Self> {
        let threads_each = (tch::get_num_threads() / (count as i32 + 1)).max(1);
        let start = |index: usize| -> Result<Worker> {
            let (shards, to_do) = channel();
            let (done, answers) = channel();
            let (config, weights, device) = (lifter.config.clone(), lifter.weights.alias(), lifter.device());
            thread::Builder::new().name(format!("replica-{}", index + 1)).spawn(move || {
                tch::set_num_threads(threads_each);
                work(&config, &weights, device, objective, &to_do, &done);
            })?;
            Ok(Worker { shards, answers })
        };
        Ok(Self { workers: (0..count).map(start).collect::<Result<_>>()?, threads_each })
    }

    /// How many threads take gradients, the training thread included.
    pub fn count(&self) -> usize {
        self.workers.len() + 1
    }

    /// The gradient of a batch given as at most [`Self::count`] shards, added to what the lifter's parameters hold.
    ///
    /// # Errors
    /// A replica failed.
    pub fn backward(&self, lifter: &Lifter, objective: &Objective, shards: Vec<Shard>) -> Result<Terms> {
        let ended = || anyhow!("a replica's thread has ended; its message is above");
        let mut shards = shards.into_iter();
        let Some(own) = shards.next() else { return Ok(Terms::default()) };
        let mut busy = Vec::new();
        for (worker, shard) in self.workers.iter().zip(shards) {
            worker.shards.send(shard).map_err(|_| ended())?;
            busy.push(worker);
        }
        let mut sum = self.with_own_threads(|| objective.backward(lifter, &own))?;
        for worker in busy {
            let (terms, gradients) = worker.answers.recv().map_err(|_| ended())??;
            sum.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
            add_gradients(&lifter.weights, gradients);
        }
        Ok(sum)
    }

    /// Runs `f` on this replica's share of the threads; all are there again afterwards.
    fn with_own_threads<R>(&self, f: impl FnOnce() -> R) -> R {
        if self.workers.is_empty() {
            return f();
        }
        let all = tch::get_num_threads();
        tch::set_num_threads(self.threads_each);
        let result = f();
        tch::set_num_threads(all);
        result
    }
}

/// A replica's life: until no more shards can come.
fn work(config: &ModelConfig, weights: &Store, device: Device, objective: Objective, to_do: &Receiver<Shard>, done: &Sender<Answer>) {
    let lifter = Lifter::on(config, weights, device);
    for shard in to_do {
        let answer = match &lifter {
            Ok(lifter) => objective.backward(lifter, &shard).map(|terms| (terms, take_gradients(&lifter.weights))),
            Err(e) => Err(anyhow!("a replica of the model cannot be made: {e}")),
        };
        if done.send(answer).is_err() {
            break;
        }
    }
}

/// Gradients by parameter; the parameters are left without.
fn take_gradients(weights: &Store) -> Vec<Option<Tensor>> {
    let take = |tensor: &Tensor| {
        let gradient = tensor.grad();
        gradient.defined().then(|| {
            let taken = gradient.copy();
            let _ = gradient.shallow_clone().zero_();
            taken
        })
    };
    tch::no_grad(|| weights.parameters().map(|(_, tensor)| take(tensor)).collect())
}

fn add_gradients(weights: &Store, gradients: Vec<Option<Tensor>>) {
    tch::no_grad(|| {
        for ((_, parameter), gradient) in weights.parameters().zip(gradients) {
            let own = parameter.grad();
            if let Some(gradient) = gradient
                && own.defined()
            {
                let _ = own.shallow_clone().g_add_(&gradient);
            }
        }
    });
}
