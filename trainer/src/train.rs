//! The training loop.

use std::{
    fs::OpenOptions,
    io::Write,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use datasets::{Batch, PrefetchOptions, Prefetcher, Report, SampleSource, Windowing};
use formats::StateDict;
use network::Context;
use serde::Serialize;
use tch::Device;

use crate::{
    checkpoint::{self, Place},
    data::{self, DataKind, RunData, Validated, Validation},
    distributed::{Distributed, Part},
    ema::Ema,
    model::{Lifter, check_scan},
    optimiser::Optimiser,
    progress::EpochBar,
    recipe::{RESOLVED_FILE, Recipe},
    replica::{Objective, Replicas, Shard, Terms},
    report,
    tensorboard::EventWriter,
    tuning::{BaseMetrics, Mixed, Tuning},
    weights::Drawing,
};

/// One line for each epoch.
pub const METRICS_FILE: &str = "metrics.jsonl";
/// Points of each curve of training that TensorBoard gets for an epoch.
const POINTS_PER_EPOCH: u64 = 100;
/// Predictions in the report's picture.
const PICTURED: usize = 9;

/// What a run is beside its recipe.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// What the recipe's `data.kind` says: for motion capture the folder with `mocap_train.npz` and `mocap_val.npz`.
    pub data: PathBuf,
    /// Folder for everything that is written.
    pub out: PathBuf,
    /// Go on from `last.pth` where there is one.
    pub resume: bool,
    /// Where to compute.
    pub device: Device,
    /// The whole run, resumes included, ends after so long; a cosine schedule anneals over this time.
    pub max_minutes: Option<f64>,
    /// Stop after so many steps as if interrupted: for tests and profiles.
    pub max_steps: Option<u64>,
    /// Print each epoch's line of [`METRICS_FILE`] on standard output.
    pub json: bool,
    /// Where a fine-tuning starts; a recipe with a section `[finetune]` needs it.
    pub start: Option<Start>,
}

/// Where a fine-tuning starts.
#[derive(Clone, Debug)]
pub struct Start {
    /// The checkpoint's weights.
    pub weights: StateDict,
    /// What it was trained on before, or the like: watched, and replayed where the recipe says so.
    pub base: Option<Base>,
}

/// Data that a fine-tuned model must not forget.
#[derive(Clone, Debug)]
pub struct Base {
    /// As [`RunOptions::data`]; of motion capture also one file, which is then only watched.
    pub data: PathBuf,
    /// What it is.
    pub kind: DataKind,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All epochs, or all time, are used.
    Finished,
    /// Asked to stop; `last.pth` is where to go on.
    Interrupted,
}

/// An epoch's line in [`METRICS_FILE`].
#[derive(Debug, Serialize)]
struct EpochMetrics<'a> {
    epoch: u64,
    step: u64,
    learning_rate: f64,
    loss: f64,
    mpjpe: f64,
    n_mpjpe: f64,
    velocity: f64,
    /// Of motion capture: all cameras, with noise.
    validation: &'a serde_json::Value,
    /// Which of them chooses the checkpoint.
    chosen_by: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    conditions: Option<&'a Report>,
    /// Fine-tuning: the base data.
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<BaseMetrics>,
    best: bool,
    clips_per_s: f64,
    elapsed_s: f64,
}

/// The fixed parts of a run.
pub struct Run<'a> {
    recipe: &'a Recipe,
    options: &'a RunOptions,
    lifter: Lifter,
    objective: Objective,
    replicas: Replicas,
    optimiser: Optimiser,
    ema: Option<Ema>,
    tuning: Option<Tuning>,
    /// The other processes of the job, where there are some.
    processes: Option<Distributed>,
    /// Curves for TensorBoard, of the process that writes.
    events: Option<EventWriter>,
    source: Arc<dyn SampleSource>,
    validation: Validation,
    place: Place,
    /// Time spent before this start, s.
    elapsed_before_s: f64,
    started: Instant,
    saved: Instant,
}

impl<'a> Run<'a> {
    /// Opens data, makes or restores the model, prepares the folder.
    ///
    /// # Errors
    /// One sentence about data, folder, or the state to resume.
    pub fn new(recipe: &'a Recipe, options: &'a RunOptions) -> Result<Self> {
        Self::among(recipe, options, None)
    }

    /// The same as one of several processes, which all take their part of each batch; rank 0 alone resumes, validates and writes.
    ///
    /// # Errors
    /// As [`Self::new`]; the processes were not started alike, or one is gone.
    pub fn among(recipe: &'a Recipe, options: &'a RunOptions, processes: Option<Distributed>) -> Result<Self> {
        let is_first = processes.as_ref().is_none_or(Distributed::is_first);
        let RunData { mut source, validation } = data::open(recipe, &options.data)?;
        let base = open_base(recipe, options, &mut source)?;
        if let Some(processes) = &processes {
            check_alike(processes, recipe, source.len())?;
        }
        let (lifter, tuning) = make_lifter(recipe, options, base)?;
        if is_first {
            prepare_folder(recipe, options)?;
        }
        let mut optimiser = match &tuning {
            None => Optimiser::new(&lifter.weights, recipe.train.optimiser),
            Some(tuning) => tuning.optimiser(&lifter, recipe.train.optimiser),
        };
        let mut ema = recipe.train.ema.filter(|_| is_first).map(|decay| Ema::new(&lifter.weights, decay));
        let mut place = Place::default();
        let last = options.out.join(checkpoint::LAST);
        if options.resume && is_first && last.exists() {
            let resumed = checkpoint::load_state(&last, recipe, &lifter, &mut optimiser, tuning.as_ref())?;
            place = resumed.place;
            if let Some(ema) = &mut ema {
                match &resumed.ema {
                    Some(state) => ema.load(&lifter.weights, state)?,
                    None => *ema = Ema::new(&lifter.weights, ema.decay()),
                }
            }
            tracing::info!("resumed after step {} (epoch {}, {} steps into the next)", place.step, place.epoch, place.step_in_epoch);
        } else if options.resume && is_first {
            tracing::info!("{}: nothing to resume, a new run starts", last.display());
        }
        if let Some(processes) = &processes {
            start_alike(processes, &lifter, &optimiser, &mut place)?;
        }
        let of_batch = recipe.finetune.as_ref().is_none_or(|finetune| finetune.batch_statistics);
        let context = if of_batch { Context::TRAINING } else { Context::RUNNING_STATISTICS };
        let objective = Objective { loss: recipe.train.loss, precision: recipe.train.precision, context };
        let replicas = Replicas::beside(&lifter, recipe.train.replicas - 1, objective)?;
        let now = Instant::now();
        Ok(Self {
            recipe,
            options,
            lifter,
            objective,
            replicas,
            optimiser,
            ema,
            tuning,
            processes,
            events: None,
            source,
            validation,
            elapsed_before_s: place.elapsed_s,
            place,
            started: now,
            saved: now,
        })
    }

    /// Trains until the recipe, the time or `stop` ends it.
    ///
    /// # Errors
    /// A loss that is no number, a batch that cannot be made, a file that cannot be written.
    pub fn train(&mut self, stop: &AtomicBool) -> Result<Outcome> {
        let train = &self.recipe.train;
        let steps_per_epoch = self.source.len().div_ceil(train.batch_size) as u64;
        let total_steps = steps_per_epoch * train.epochs;
        tracing::info!(
            "{}: {} parameters, {} clips per epoch in {steps_per_epoch} steps, {} epochs{}",
            self.recipe.name,
            self.lifter.parameter_count(),
            self.source.len(),
            train.epochs,
            self.options.max_minutes.map_or(String::new(), |m| format!(", at most {m} minutes"))
        );
        if let Some(processes) = &self.processes {
            tracing::info!("{} processes share each batch of {}", processes.world_size(), train.batch_size);
        }
        if self.is_first() {
            let mut events = EventWriter::start(&self.options.out, self.place.step)?;
            events.text(self.place.step, "recipe", &in_markdown(&self.recipe.to_toml()?))?;
            self.events = Some(events);
        }
        if let Some(tuning) = &self.tuning {
            tracing::info!("{}", tuning.describe(&self.lifter));
        }
        if self.tuning.is_some() && self.place == Place::default() {
            self.measure_before()?;
        }
        // An epoch whose last step was saved but not validated is finished first.
        if self.place.step_in_epoch == steps_per_epoch {
            self.finish_epoch(0.0)?;
        }
        if self.place.epoch >= train.epochs || self.place.ended.is_some() {
            return self.finish();
        }
        let (source, own_batch) = match &self.processes {
            None => (self.source.clone(), train.batch_size),
            Some(processes) => (processes.own_part(self.source.clone(), train.batch_size), processes.own_batch(train.batch_size)?),
        };
        let prefetch = PrefetchOptions {
            batch: own_batch,
            first_epoch: self.place.epoch,
            skip_batches: self.place.step_in_epoch as usize,
            epochs: train.epochs - self.place.epoch,
            workers: train.workers,
        };
        let batches = Prefetcher::new(source, prefetch)?;
        let (mut steps_now, mut clips_in_epoch, mut epoch_started) = (0, 0, Instant::now());
        let mut bar = self.bar(steps_per_epoch);
        let (point_every, mut recent) = (steps_per_epoch.div_ceil(POINTS_PER_EPOCH), Vec::new());
        for batch in batches {
            let batch = batch?;
            clips_in_epoch += self.part(&batch).of;
            let loss = self.step(&batch, total_steps)?;
            steps_now += 1;
            let clips_per_s = clips_in_epoch as f64 / epoch_started.elapsed().as_secs_f64();
            bar.step(loss, clips_per_s, self.time_left(total_steps, steps_now));

            recent.push(loss);
            if self.place.step_in_epoch.is_multiple_of(point_every) || self.place.step_in_epoch == steps_per_epoch {
                self.draw_steps(&std::mem::take(&mut recent), clips_per_s)?;
            }

            let out_of_time = self.progress_in_time().is_some_and(|progress| progress >= 1.0);
            let (asked_to_stop, out_of_time) = self.vote(stop.load(Ordering::Relaxed), out_of_time)?;
            if self.place.step_in_epoch == steps_per_epoch || out_of_time {
                drop(bar);
                self.finish_epoch(clips_per_s)?;
                (clips_in_epoch, epoch_started) = (0, Instant::now());
                bar = self.bar(steps_per_epoch);
            }
            if out_of_time || self.place.ended.is_some() {
                break;
            }
            if asked_to_stop || self.options.max_steps == Some(steps_now) {
                self.save_last()?;
                return Ok(Outcome::Interrupted);
            }
            if self.saved.elapsed().as_secs_f64() > 60.0 * train.save_every_minutes {
                self.save_last()?;
            }
        }
        drop(bar);
        self.finish()
    }

    /// Whether this process validates and writes.
    fn is_first(&self) -> bool {
        self.processes.as_ref().is_none_or(Distributed::is_first)
    }

    /// How much of the whole batch this process has in its own.
    fn part(&self, batch: &Batch) -> Part {
        match &self.processes {
            None => Part { of: batch.samples, share: 1.0 },
            Some(processes) => processes.part(self.source.len(), self.recipe.train.batch_size, self.place.step_in_epoch as usize),
        }
    }

    /// What all processes do next: any of them may be asked to stop, the time is rank 0's.
    fn vote(&self, asked_to_stop: bool, out_of_time: bool) -> Result<(bool, bool)> {
        let Some(processes) = &self.processes else { return Ok((asked_to_stop, out_of_time)) };
        let votes = [asked_to_stop, out_of_time && processes.is_first()].map(|vote| f64::from(u8::from(vote)));
        let [asked_to_stop, out_of_time] = processes.sum(votes, "the vote to stop")?;
        Ok((asked_to_stop > 0.0, out_of_time > 0.0))
    }

    /// Points of the curves of training: the mean of the losses since the last ones.
    fn draw_steps(&mut self, losses: &[f64], clips_per_s: f64) -> Result<()> {
        let Some(events) = &mut self.events else { return Ok(()) };
        let loss = losses.iter().sum::<f64>() / losses.len() as f64;
        let points = [("train/loss", loss), ("train/learning_rate", self.place.learning_rate), ("train/clips_per_s", clips_per_s)];
        events.scalars(self.place.step, points)
    }

    /// Points of the curves of epochs, at the step that is reached.
    fn draw_epoch(&mut self, points: impl Iterator<Item = (String, f64)>) -> Result<()> {
        let Some(events) = &mut self.events else { return Ok(()) };
        let points: Vec<(String, f64)> = points.collect();
        events.scalars(self.place.step, points.iter().map(|(tag, value)| (tag.as_str(), *value)))?;
        events.flush()
    }

    fn bar(&self, steps_per_epoch: u64) -> EpochBar {
        if !self.is_first() {
            return EpochBar::hidden();
        }
        EpochBar::new(format!("epoch {}/{}", self.place.epoch + 1, self.recipe.train.epochs), steps_per_epoch, self.place.step_in_epoch)
    }

    /// Seconds since the run began, resumes included.
    fn elapsed_s(&self) -> f64 {
        self.elapsed_before_s + self.started.elapsed().as_secs_f64()
    }

    /// Share of the allowed time that is used, where there is a limit.
    fn progress_in_time(&self) -> Option<f64> {
        self.options.max_minutes.map(|minutes| self.elapsed_s() / (60.0 * minutes))
    }

    /// Estimate from the pace of this start.
    fn time_left(&self, total_steps: u64, steps_now: u64) -> Duration {
        let by_steps = self.started.elapsed().as_secs_f64() / steps_now as f64 * total_steps.saturating_sub(self.place.step) as f64;
        let by_time = self.options.max_minutes.map_or(f64::INFINITY, |minutes| 60.0 * minutes - self.elapsed_s());
        Duration::from_secs_f64(by_steps.min(by_time).max(0.0))
    }

    /// One optimiser step; returns the loss.
    fn step(&mut self, batch: &Batch, total_steps: u64) -> Result<f64> {
        let train = &self.recipe.train;
        let in_steps = self.place.step as f64 / total_steps as f64;
        let in_time = match (&self.processes, self.progress_in_time()) {
            (Some(processes), Some(own)) => processes.from_first([own], "the look at the clock")?[0],
            (_, own) => own.unwrap_or(0.0),
        };
        let progress = in_time.max(in_steps);
        let lr = train.learning_rate * train.schedule.factor(self.place.step, self.place.epoch, progress);
        // Dropout must draw the same after a resume: its generator follows from the step and the rank alone.
        let rank = self.processes.as_ref().map_or(0, Distributed::rank) as u64;
        let seed = train.seed ^ (self.place.step + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ rank.wrapping_mul(0xD1B5_4A32_D192_ED03);
        tch::manual_seed(seed as i64);

        self.optimiser.zero_grad();
        self.tuning.iter_mut().for_each(Tuning::zero_grad);
        let mut terms = Terms::default();
        for part in 0..train.accumulate {
            let bound = |part: usize| part * batch.samples / train.accumulate;
            let part_terms = self.replicas.backward(&self.lifter, &self.objective, self.shards(batch, bound(part)..bound(part + 1)))?;
            terms.iter_mut().zip(part_terms).for_each(|(sum, term)| *sum += term);
        }
        if let Some(processes) = &self.processes {
            terms = processes.sum(terms, "the sum of the losses")?;
        }
        let refuse = |what: &str| -> Result<f64> {
            bail!(
                "{what} is no finite number at step {} (epoch {}, samples {:?}): lower train.learning_rate or set train.clip_norm; {} in the run's folder is from before",
                self.place.step,
                batch.epoch,
                batch.indices,
                checkpoint::LAST
            )
        };
        if !terms[0].is_finite() {
            return refuse("the loss");
        }
        if let Some(processes) = &self.processes {
            processes.sum_gradients(&self.lifter.weights)?;
        }
        self.tuning.iter().for_each(Tuning::pass_gradients);
        if let Some(max_norm) = train.clip_norm
            && !self.optimiser.clip_gradients(max_norm).is_finite()
        {
            return refuse("the gradient");
        }
        self.optimiser.step(lr)?;
        self.tuning.iter().for_each(Tuning::merge);
        if let Some(ema) = &mut self.ema {
            ema.update(&self.lifter.weights);
        }
        self.place.step += 1;
        self.place.step_in_epoch += 1;
        self.place.learning_rate = lr;
        self.place.loss_sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
        Ok(terms[0])
    }

    /// Some samples of a batch in as many parts as there are replicas, of nearly the same size.
    fn shards(&self, batch: &Batch, samples: Range<usize>) -> Vec<Shard> {
        let count = self.replicas.count();
        let parts = self.sequence_parts();
        let (frames, values) = (batch.frames / parts, batch.frames * pose::JOINTS);
        let own_share = self.part(batch).share;
        let bounds: Vec<usize> = (0..=count).map(|i| samples.start + i * samples.len() / count).collect();
        let cut = |from: usize, to: usize| {
            let part = |all: &[f32], channels: usize| {
                let size = values * channels;
                self.lifter.tensor(&all[from * size..to * size], [(to - from) * parts, frames, pose::JOINTS, channels])
            };
            Shard {
                input: part(&batch.input, batch.dim_in),
                label: part(&batch.label, 3),
                share: own_share * (to - from) as f64 / batch.samples as f64,
            }
        };
        bounds.windows(2).filter(|b| b[0] < b[1]).map(|b| cut(b[0], b[1])).collect()
    }

    /// Into how many sequences the samples of this step are cut: it follows from the step alone, so that a resume does the same.
    fn sequence_parts(&self) -> usize {
        let (choices, step) = (&self.recipe.train.sequence_parts, self.place.step);
        choices.get((step.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize % choices.len().max(1)).copied().unwrap_or(1)
    }

    /// The errors of the checkpoint that a fine-tuning starts from: epoch 0 of its metrics. It is the best until something is better.
    fn measure_before(&mut self) -> Result<()> {
        if !self.is_first() {
            return Ok(());
        }
        let Validated { error, chosen_by, figures, conditions } = self.validation.measure(&self.lifter, self.recipe)?;
        let base = self.tuning.as_ref().map(|tuning| tuning.measure_base(&self.lifter, self.recipe)).transpose()?.flatten();
        self.place.best_mpjpe_mm = Some(error);
        self.place.base_before = base.as_ref().map(|(error, _)| *error);
        self.place.elapsed_s = self.elapsed_s();
        checkpoint::save_model(&self.options.out.join(checkpoint::BEST), self.recipe, &self.lifter.weights.state_dict(), &self.place)?;
        self.save_last()?;
        let of_base = base.iter().flat_map(|(_, figures)| curves("base", figures));
        self.draw_epoch(curves("validation", &figures).into_iter().chain(of_base))?;
        let (loss, mpjpe, n_mpjpe, velocity) = (f64::NAN, f64::NAN, f64::NAN, f64::NAN); // `null`: nothing was trained
        self.write_metrics(&EpochMetrics {
            epoch: 0,
            step: 0,
            learning_rate: 0.0,
            loss,
            mpjpe,
            n_mpjpe,
            velocity,
            validation: &figures,
            chosen_by,
            conditions: conditions.as_ref(),
            base: base.map(|(_, figures)| BaseMetrics { figures, forgetting: 0.0, forgetting_percent: 0.0 }),
            best: true,
            clips_per_s: f64::NAN,
            elapsed_s: self.place.elapsed_s,
        })?;
        tracing::info!("before: {}", in_words(&figures));
        Ok(())
    }

    /// Appends an epoch to the metrics.
    fn write_metrics(&self, metrics: &EpochMetrics<'_>) -> Result<()> {
        let line = serde_json::to_string(metrics)?;
        append_line(&self.options.out.join(METRICS_FILE), &line)?;
        if self.options.json { print_line(&line) } else { Ok(()) }
    }

    /// Rank 0 concludes the epoch while the others wait.
    fn finish_epoch(&mut self, clips_per_s: f64) -> Result<()> {
        if let Some(processes) = &self.processes {
            processes.average_buffers(&self.lifter.weights)?;
        }
        if self.is_first() {
            self.conclude_epoch(clips_per_s)?;
        } else {
            (self.place.epoch, self.place.step_in_epoch, self.place.loss_sums) = (self.place.epoch + 1, 0, [0.0; 4]);
        }
        if let Some(processes) = &self.processes {
            let ended = f64::from(u8::from(self.place.ended.is_some()));
            let [ended] = processes.from_first([ended], "the wait for rank 0's validation")?;
            if ended > 0.0 {
                self.place.ended.get_or_insert_with(|| "rank 0 has ended it".into());
            }
        }
        Ok(())
    }

    /// Validates, writes the metrics, saves what is due.
    fn conclude_epoch(&mut self, clips_per_s: f64) -> Result<()> {
        let steps = self.place.step_in_epoch.max(1) as f64;
        let [loss, mpjpe, n_mpjpe, velocity] = self.place.loss_sums.map(|sum| sum / steps);
        self.place.epoch += 1;
        self.place.step_in_epoch = 0;
        self.place.loss_sums = [0.0; 4];

        if let Some(ema) = &mut self.ema {
            ema.swap(&self.lifter.weights);
        }
        let validated = self.validation.measure(&self.lifter, self.recipe);
        let base = self.tuning.as_ref().map(|tuning| tuning.measure_base(&self.lifter, self.recipe)).transpose();
        let weights = self.lifter.weights.state_dict();
        if let Some(ema) = &mut self.ema {
            ema.swap(&self.lifter.weights);
        }
        let Validated { error, chosen_by, figures, conditions } = validated?;
        let base = base?.flatten();
        let of_epoch = [("loss", loss), ("mpjpe", mpjpe), ("n_mpjpe", n_mpjpe), ("velocity", velocity), ("clips_per_s", clips_per_s)];
        let of_epoch = of_epoch.map(|(name, value)| (format!("epoch/{name}"), value)).into_iter();
        let of_base = base.iter().flat_map(|(_, figures)| curves("base", figures));
        self.draw_epoch(of_epoch.chain(curves("validation", &figures)).chain(of_base))?;
        let mut best = self.place.best_mpjpe_mm.is_none_or(|least| error < least);
        if let Some(tuning) = &self.tuning {
            let stale_epochs = if best { 0 } else { self.place.stale_epochs + 1 };
            let errors = self.place.base_before.zip(base.as_ref().map(|(error, _)| *error));
            let verdict = tuning.judge(errors, stale_epochs);
            best &= verdict.may_be_kept;
            self.place.stale_epochs = stale_epochs;
            self.place.ended = verdict.ends;
        }
        let base = base.map(|(now, figures)| {
            let before = self.place.base_before.unwrap_or(now);
            BaseMetrics { figures, forgetting: now - before, forgetting_percent: 100.0 * (now / before - 1.0) }
        });
        self.place.elapsed_s = self.elapsed_s();
        if best {
            self.place.best_mpjpe_mm = Some(error);
            checkpoint::save_model(&self.options.out.join(checkpoint::BEST), self.recipe, &weights, &self.place)?;
        }
        if self.recipe.train.keep_every_epochs.is_some_and(|every| self.place.epoch.is_multiple_of(every.max(1))) {
            let name = format!("epoch_{}.pth", self.place.epoch);
            checkpoint::save_model(&self.options.out.join(name), self.recipe, &weights, &self.place)?;
        }
        self.save_last()?;

        let place = &self.place;
        let forgotten = base
            .as_ref()
            .map_or(String::new(), |base| format!("; base data: {} ({:+.1} %)", in_words(&base.figures), base.forgetting_percent));
        self.write_metrics(&EpochMetrics {
            epoch: place.epoch,
            step: place.step,
            learning_rate: place.learning_rate,
            loss,
            mpjpe,
            n_mpjpe,
            velocity,
            validation: &figures,
            chosen_by,
            conditions: conditions.as_ref(),
            base,
            best,
            clips_per_s,
            elapsed_s: place.elapsed_s,
        })?;
        tracing::info!(
            "epoch {}: loss {loss:.4} (mpjpe {mpjpe:.4}, velocity {velocity:.4}), lr {:.1e}, validation: {}{forgotten}; {clips_per_s:.1} clips/s{}",
            place.epoch,
            place.learning_rate,
            in_words(&figures),
            if best { ", best so far" } else { "" }
        );
        if let Some(why) = &place.ended {
            tracing::info!("the run ends: {why}");
        }
        Ok(())
    }

    fn save_last(&mut self) -> Result<()> {
        self.saved = Instant::now();
        if !self.is_first() {
            return Ok(());
        }
        self.place.elapsed_s = self.elapsed_s();
        let ema = self.ema.as_ref().map(|ema| ema.state_dict(&self.lifter.weights));
        checkpoint::save_state(
            &self.options.out.join(checkpoint::LAST),
            self.recipe,
            &self.lifter,
            &self.optimiser,
            ema,
            self.tuning.as_ref(),
            &self.place,
        )?;
        Ok(())
    }

    fn finish(&mut self) -> Result<Outcome> {
        if !self.is_first() {
            return Ok(Outcome::Finished);
        }
        self.events.as_mut().map_or(Ok(()), EventWriter::flush)?;
        if let Some(ema) = &mut self.ema {
            ema.swap(&self.lifter.weights);
        }
        let weights = self.lifter.weights.state_dict();
        let predictions = self.validation.look(&self.lifter, PICTURED);
        if let Some(ema) = &mut self.ema {
            ema.swap(&self.lifter.weights);
        }
        checkpoint::save_model(&self.options.out.join(checkpoint::FINAL), self.recipe, &weights, &self.place)?;
        let about = report::About {
            clips_per_epoch: Some(self.source.len()),
            validation: Some(self.validation.description.clone()),
            predictions: predictions?,
            base: self.tuning.as_ref().and_then(Tuning::base_description).map(str::to_owned),
            ended: self.place.ended.clone(),
        };
        report::write(&self.options.out, self.recipe, &about)?;
        let best = self.place.best_mpjpe_mm.unwrap_or(f64::NAN);
        tracing::info!(
            "finished after {} steps in {:.0} min; best validation error {best:.2}{}; see {}",
            self.place.step,
            self.elapsed_s() / 60.0,
            if self.validation.is_test { " (of the test set)" } else { "" },
            self.options.out.join(report::REPORT_FILE).display()
        );
        Ok(Outcome::Finished)
    }
}

/// Whether all processes were started to do the same, and can share out each batch.
fn check_alike(processes: &Distributed, recipe: &Recipe, samples: usize) -> Result<()> {
    let (train, own) = (&recipe.train, processes.own_batch(recipe.train.batch_size)?);
    let parts = train.accumulate * train.replicas;
    ensure!(
        parts <= own,
        "each of {} processes has {own} samples of a batch, but train.accumulate by train.replicas splits them into {parts}: expected at most {own}",
        processes.world_size()
    );
    processes.agree("another recipe", &recipe.to_toml()?)?;
    processes.agree("other data", &samples.to_string())
}

/// Gives all processes the state of rank 0, which may have resumed a run.
fn start_alike(processes: &Distributed, lifter: &Lifter, optimiser: &Optimiser, place: &mut Place) -> Result<()> {
    let weights = lifter.weights.entries().iter().map(|entry| entry.tensor.shallow_clone());
    let tensors: Vec<_> = weights.chain(optimiser.tensors()).collect();
    processes.copy_from_first(&tensors, "the copy of the first weights")?;
    let ended = f64::from(u8::from(place.ended.is_some()));
    let numbers = [place.step as f64, place.epoch as f64, place.step_in_epoch as f64, ended];
    let [step, epoch, step_in_epoch, ended] = processes.from_first(numbers, "the copy of the place to go on from")?;
    if !processes.is_first() {
        (place.step, place.epoch, place.step_in_epoch) = (step as u64, epoch as u64, step_in_epoch as u64);
        place.ended = (ended > 0.0).then(|| "rank 0 has ended it".into());
    }
    Ok(())
}

/// A recipe as a block of code.
fn in_markdown(toml: &str) -> String {
    toml.lines().map(|line| format!("    {line}\n")).collect()
}

/// The numbers of a validation as points of curves.
fn curves(group: &str, figures: &serde_json::Value) -> Vec<(String, f64)> {
    let figures = figures.as_object().into_iter().flatten().filter(|(key, _)| *key != "frames" && *key != "clips");
    figures.filter_map(|(key, value)| value.as_f64().map(|value| (format!("{group}/{key}"), value))).collect()
}

/// The figures of a validation in one line.
fn in_words(figures: &serde_json::Value) -> String {
    let figure = |(key, value): (&String, &serde_json::Value)| value.as_f64().map(|value| format!("{key} {value:.2}"));
    figures
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| *key != "frames" && *key != "clips")
        .filter_map(figure)
        .collect::<Vec<_>>()
        .join(", ")
}

/// How a recipe's model cuts and sees clips.
pub fn windowing(recipe: &Recipe) -> Windowing {
    Windowing {
        dim_in: recipe.model.dim_in(),
        normalisation: recipe.data.normalisation,
        fps: Some(f64::from(recipe.data.fps)),
        ..Windowing::new(recipe.sample_frames())
    }
}

/// The model with new weights, or with those of the checkpoint that a fine-tuning starts from.
fn make_lifter(recipe: &Recipe, options: &RunOptions, base: Option<Validation>) -> Result<(Lifter, Option<Tuning>)> {
    check_scan(&recipe.model, options.device)?;
    match (&recipe.finetune, &options.start) {
        (None, None) => {
            let drawing = Drawing { seed: recipe.train.seed, layer_scale: recipe.train.layer_scale };
            Ok((Lifter::new(&recipe.model, drawing, options.device)?, None))
        }
        (Some(config), Some(start)) => {
            let mut lifter = Lifter::load(&recipe.model, &start.weights, tch::Kind::Float, options.device)?;
            let tuning = Tuning::new(config, &mut lifter, base, recipe.train.seed)?;
            Ok((lifter, Some(tuning)))
        }
        (Some(config), None) => bail!(
            "{}: the recipe has a section [finetune], of {}: use trainer finetune, or take the section out",
            recipe.name,
            config.checkpoint
        ),
        (None, Some(_)) => bail!("{}: a fine-tuning needs a section [finetune] in its recipe", recipe.name),
    }
}

/// Opens the base data of a fine-tuning: what is watched; samples to be replayed are mixed into `source`.
fn open_base(recipe: &Recipe, options: &RunOptions, source: &mut Arc<dyn SampleSource>) -> Result<Option<Validation>> {
    // a recipe and a start that do not go together are refused by `make_lifter`
    let (Some(finetune), Some(start)) = (&recipe.finetune, &options.start) else { return Ok(None) };
    let Some(base) = &start.base else {
        let needs = [(finetune.replay > 0.0, "replay"), (finetune.max_forgetting.is_some(), "max_forgetting")];
        if let Some((_, key)) = needs.iter().find(|(given, _)| *given) {
            bail!("finetune.{key} needs base data: name it with --base-data, or leave {key} out");
        }
        return Ok(None);
    };
    let held_out = crate::recipe::DataConfig { kind: base.kind, validation_subjects: Vec::new(), ..recipe.data.clone() };
    let of_base = Recipe { data: held_out, ..recipe.clone() };
    let (replayed, validation) = data::open_base(&of_base, &base.data)?;
    if finetune.replay > 0.0 {
        let replayed = replayed.with_context(|| {
            format!(
                "{}: one file of motion capture is only watched; finetune.replay needs a folder with mocap_train.npz",
                base.data.display()
            )
        })?;
        *source = Arc::new(Mixed::new(source.clone(), replayed, finetune.replay)?);
    }
    Ok(Some(validation))
}

/// Refuses to overwrite a run, and saves the resolved recipe.
fn prepare_folder(recipe: &Recipe, options: &RunOptions) -> Result<()> {
    let out = &options.out;
    std::fs::create_dir_all(out).with_context(|| format!("{}: the run's folder cannot be made", out.display()))?;
    ensure!(
        options.resume || !out.join(checkpoint::LAST).exists(),
        "{}: there is a run already; go on with it with --resume, or name another --out",
        out.display()
    );
    let path = out.join(RESOLVED_FILE);
    std::fs::write(&path, recipe.to_toml()?).with_context(|| format!("{}: cannot be written", path.display()))
}

fn append_line(path: &Path, line: &str) -> Result<()> {
    let mut file =
        OpenOptions::new().create(true).append(true).open(path).with_context(|| format!("{}: cannot be opened", path.display()))?;
    writeln!(file, "{line}").with_context(|| format!("{}: cannot be written", path.display()))
}

fn print_line(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").context("standard output cannot be written")
}
