//! How long a training step takes, part by part.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use datasets::{PrefetchOptions, Prefetcher, SampleSource};
use network::Context;
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::{
    data,
    model::Lifter,
    optimiser::Optimiser,
    recipe::{Precision, Recipe},
    replica::{Objective, Replicas, Shard},
    weights::Drawing,
};

/// What is timed beside the recipe.
#[derive(Clone, Copy, Debug)]
pub struct BenchOptions {
    /// Steps that are not counted: first touch of memory, first choice of kernels.
    pub warm_up: usize,
    /// Steps that are.
    pub steps: usize,
    /// Where to compute.
    pub device: Device,
}

/// Times of one step, or medians of several, ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Parts {
    /// Waiting for the batch, and its way to the device; what worker threads do beside the step does not count.
    pub data: f64,
    /// The model. With replicas all of forward, loss and backward: their parts run at the same time.
    pub forward: f64,
    /// Terms of the loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Gradients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backward: Option<f64>,
    /// Clipping and the step of the weights.
    pub optimiser: f64,
}

/// One timed step.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Step {
    /// Counted from 0, warm-up included.
    pub step: usize,
    /// Whether it does not count.
    pub warm_up: bool,
    /// All of it, ms.
    pub step_ms: f64,
    /// Its parts.
    pub parts_ms: Parts,
    /// Of the batch, before the step.
    pub loss: f64,
}

/// Medians over the counted steps, in the fields of benches/python/train_step.py.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// What computed.
    pub engine: String,
    /// The recipe's name.
    pub model: String,
    /// Trained values.
    pub parameters: u64,
    /// Of a sample.
    pub frames: usize,
    /// Samples of a step.
    pub batch: usize,
    /// Parts of a batch that are computed at the same time.
    pub replicas: usize,
    /// Of libtorch's pool.
    pub threads: usize,
    /// cpu or cuda.
    pub device: String,
    /// Of matrix products.
    pub precision: Precision,
    /// What the batches are.
    pub data: &'static str,
    /// Counted steps.
    pub steps: usize,
    /// Median, ms.
    pub step_ms: f64,
    /// At the median step.
    pub samples_per_s: f64,
    /// Medians of the parts.
    pub parts_ms: Parts,
    /// Largest resident memory of the process so far, MiB; unknown elsewhere than on Linux, and of a GPU.
    pub peak_memory_mib: Option<f64>,
}

/// Where batches come from.
enum Batches {
    /// Normal noise: the time of a step does not depend on the values.
    Noise {
        input: Vec<f32>,
        label: Vec<f32>,
    },
    Read(Prefetcher),
}

/// Times steps of a recipe on its data, or on noise where `data` is none. `each` sees every step as it is done.
///
/// # Errors
/// Data that cannot be opened or is too little, a model that cannot be built, libtorch's refusals.
pub fn run(recipe: &Recipe, data: Option<&Path>, options: BenchOptions, mut each: impl FnMut(&Step) -> Result<()>) -> Result<Summary> {
    let train = &recipe.train;
    let (frames, dim_in, batch) = (recipe.sample_frames(), recipe.model.dim_in(), train.batch_size);
    let total = options.warm_up + options.steps;
    let mut batches = match data {
        Some(folder) => Batches::Read(read(recipe, data::open(recipe, folder)?.source, total)?),
        None => noise(batch * frames * pose::JOINTS, dim_in, train.seed),
    };
    crate::model::check_scan(&recipe.model, options.device)?;
    let lifter = Lifter::new(&recipe.model, Drawing { seed: train.seed, layer_scale: train.layer_scale }, options.device)?;
    let mut optimiser = Optimiser::new(&lifter.weights, train.optimiser);
    let objective = Objective { loss: train.loss, precision: train.precision, context: Context::TRAINING };
    let replicas = Replicas::beside(&lifter, train.replicas - 1, objective)?;
    let clock = Clock(options.device);

    let mut counted = Vec::new();
    for step in 0..total {
        let start = clock.now();
        let (input, label) = batches.next(&lifter, [batch, frames, pose::JOINTS], dim_in)?;
        optimiser.zero_grad();
        let ready = clock.now();
        let mut parts = Parts { data: milliseconds(ready - start), ..Parts::default() };
        let mut loss = 0.0;
        for part in shards_of(&input, &label, train.accumulate) {
            loss += if train.replicas == 1 {
                gradient(&lifter, &objective, &part, clock, &mut parts)?
            } else {
                let before = clock.now();
                let shards = shards_of(&part.input, &part.label, train.replicas);
                let share = part.share;
                let shards = shards.into_iter().map(|shard| Shard { share: shard.share * share, ..shard }).collect();
                let [loss, ..] = replicas.backward(&lifter, &objective, shards)?;
                parts.forward += milliseconds(clock.now() - before);
                loss
            };
        }
        let before = clock.now();
        if let Some(max_norm) = train.clip_norm {
            optimiser.clip_gradients(max_norm);
        }
        optimiser.step(train.learning_rate)?;
        let end = clock.now();
        parts.optimiser = milliseconds(end - before);
        let warm_up = step < options.warm_up;
        let step = Step { step, warm_up, step_ms: milliseconds(end - start), parts_ms: parts, loss };
        each(&step)?;
        if !warm_up {
            counted.push(step);
        }
    }
    let of = |value: fn(&Step) -> f64| median(counted.iter().map(value).collect());
    let step_ms = of(|s| s.step_ms);
    Ok(Summary {
        engine: format!("poselift {}", env!("CARGO_PKG_VERSION")),
        model: recipe.name.clone(),
        parameters: lifter.parameter_count(),
        frames,
        batch,
        replicas: train.replicas,
        threads: tch::get_num_threads() as usize,
        device: if options.device.is_cuda() { "cuda" } else { "cpu" }.into(),
        precision: train.precision,
        data: if data.is_some() { "read" } else { "noise" },
        steps: counted.len(),
        step_ms,
        samples_per_s: 1e3 * batch as f64 / step_ms,
        parts_ms: Parts {
            data: of(|s| s.parts_ms.data),
            forward: of(|s| s.parts_ms.forward),
            loss: (train.replicas == 1).then(|| of(|s| s.parts_ms.loss.unwrap_or_default())),
            backward: (train.replicas == 1).then(|| of(|s| s.parts_ms.backward.unwrap_or_default())),
            optimiser: of(|s| s.parts_ms.optimiser),
        },
        peak_memory_mib: if options.device.is_cuda() { None } else { peak_memory_mib() },
    })
}

/// Forward, loss and backward of one part of a batch, timed; returns its part of the loss.
fn gradient(lifter: &Lifter, objective: &Objective, shard: &Shard, clock: Clock, parts: &mut Parts) -> Result<f64> {
    let start = clock.now();
    let predicted = objective.forward(lifter, &shard.input)?;
    let forward = clock.now();
    let losses = objective.losses(lifter, &predicted, &shard.label);
    let loss = clock.now();
    let total = losses.total * shard.share;
    total.backward();
    let backward = clock.now();
    parts.forward += milliseconds(forward - start);
    *parts.loss.get_or_insert(0.0) += milliseconds(loss - forward);
    *parts.backward.get_or_insert(0.0) += milliseconds(backward - loss);
    Ok(total.double_value(&[]))
}

/// A batch in parts of nearly the same size.
fn shards_of(input: &Tensor, label: &Tensor, count: usize) -> Vec<Shard> {
    let samples = input.size()[0];
    let bound = |i: usize| i as i64 * samples / count as i64;
    let cut = |from: i64, to: i64| Shard {
        input: input.narrow(0, from, to - from),
        label: label.narrow(0, from, to - from),
        share: (to - from) as f64 / samples as f64,
    };
    (0..count).map(|i| (bound(i), bound(i + 1))).filter(|(from, to)| from < to).map(|(from, to)| cut(from, to)).collect()
}

fn noise(poses: usize, dim_in: usize, seed: u64) -> Batches {
    tch::manual_seed(seed as i64);
    let normal = |count: usize| crate::weights::values(&Tensor::randn([count as i64], (Kind::Float, Device::Cpu)));
    Batches::Noise { input: normal(poses * dim_in), label: normal(poses * 3) }
}

fn read(recipe: &Recipe, source: Arc<dyn SampleSource>, batches: usize) -> Result<Prefetcher> {
    let batch = recipe.train.batch_size;
    let per_epoch = source.len() / batch;
    ensure!(per_epoch > 0, "the data has {} samples, less than one batch of {batch}: use a smaller --batch", source.len());
    let options = PrefetchOptions {
        batch,
        first_epoch: 0,
        skip_batches: 0,
        epochs: batches.div_ceil(per_epoch) as u64,
        workers: recipe.train.workers,
    };
    Ok(Prefetcher::new(source, options)?)
}

impl Batches {
    /// Input (B, T, J, dim_in) and label (B, T, J, 3) on the lifter's device.
    fn next(&mut self, lifter: &Lifter, [b, t, j]: [usize; 3], dim_in: usize) -> Result<(Tensor, Tensor)> {
        match self {
            Self::Noise { input, label } => Ok((lifter.tensor(input, [b, t, j, dim_in]), lifter.tensor(label, [b, t, j, 3]))),
            Self::Read(batches) => loop {
                let batch = batches.next().context("the data has too few batches")??;
                if batch.samples == b {
                    break Ok((lifter.tensor(&batch.input, [b, t, j, dim_in]), lifter.tensor(&batch.label, [b, t, j, 3])));
                } // the smaller last batch of an epoch is no measure
            },
        }
    }
}

/// Time at which the device has done what it was given.
#[derive(Clone, Copy)]
struct Clock(Device);

impl Clock {
    fn now(self) -> Instant {
        if let Device::Cuda(index) = self.0 {
            tch::Cuda::synchronize(index as i64);
        }
        Instant::now()
    }
}

fn milliseconds(time: Duration) -> f64 {
    1e3 * time.as_secs_f64()
}

/// The middle value; the mean of the two in the middle of an even number.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    if n == 0 { f64::NAN } else { (values[(n - 1) / 2] + values[n / 2]) / 2.0 }
}

/// The kernel's own mark of the process's largest resident memory.
fn peak_memory_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(vec![]).is_nan());
    }

    #[test]
    fn parts_of_a_batch_are_all_of_it() {
        let x = Tensor::arange(7, (Kind::Float, Device::Cpu));
        let shards = shards_of(&x, &x, 3);
        let sizes: Vec<i64> = shards.iter().map(|s| s.input.size()[0]).collect();
        assert_eq!(sizes, [2, 2, 3]);
        assert!((shards.iter().map(|s| s.share).sum::<f64>() - 1.0).abs() < 1e-12);
        assert_eq!(shards_of(&x, &x, 9).len(), 7);
    }
}
