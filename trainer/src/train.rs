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
use serde::Serialize;
use tch::Device;

use crate::{
    checkpoint::{self, Place},
    data::{self, RunData, Validated, Validation},
    ema::Ema,
    model::Lifter,
    optimiser::Optimiser,
    progress::EpochBar,
    recipe::{RESOLVED_FILE, Recipe},
    replica::{Objective, Replicas, Shard, Terms},
    report,
    weights::Drawing,
};

/// One line for each epoch.
pub const METRICS_FILE: &str = "metrics.jsonl";
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
        let RunData { source, validation } = data::open(recipe, &options.data)?;
        prepare_folder(recipe, options)?;

        let drawing = Drawing { seed: recipe.train.seed, layer_scale: recipe.train.layer_scale };
        let lifter = Lifter::new(&recipe.model, drawing, options.device)?;
        let mut optimiser = Optimiser::new(&lifter.weights, recipe.train.optimiser);
        let mut ema = recipe.train.ema.map(|decay| Ema::new(&lifter.weights, decay));
        let mut place = Place::default();
        let last = options.out.join(checkpoint::LAST);
        if options.resume && last.exists() {
            let resumed = checkpoint::load_state(&last, recipe, &lifter, &mut optimiser)?;
            place = resumed.place;
            if let Some(ema) = &mut ema {
                match &resumed.ema {
                    Some(state) => ema.load(&lifter.weights, state)?,
                    None => *ema = Ema::new(&lifter.weights, ema.decay()),
                }
            }
            tracing::info!("resumed after step {} (epoch {}, {} steps into the next)", place.step, place.epoch, place.step_in_epoch);
        } else if options.resume {
            tracing::info!("{}: nothing to resume, a new run starts", last.display());
        }
        let objective = Objective { loss: recipe.train.loss, precision: recipe.train.precision };
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
        // An epoch whose last step was saved but not validated is finished first.
        if self.place.step_in_epoch == steps_per_epoch {
            self.finish_epoch(0.0)?;
        }
        if self.place.epoch >= train.epochs {
            return self.finish();
        }
        let prefetch = PrefetchOptions {
            batch: train.batch_size,
            first_epoch: self.place.epoch,
            skip_batches: self.place.step_in_epoch as usize,
            epochs: train.epochs - self.place.epoch,
            workers: train.workers,
        };
        let batches = Prefetcher::new(self.source.clone(), prefetch)?;
        let (mut steps_now, mut clips_in_epoch, mut epoch_started) = (0, 0, Instant::now());
        let mut bar = self.bar(steps_per_epoch);
        for batch in batches {
            let batch = batch?;
            clips_in_epoch += batch.samples;
            let loss = self.step(&batch, total_steps)?;
            steps_now += 1;
            let clips_per_s = clips_in_epoch as f64 / epoch_started.elapsed().as_secs_f64();
            bar.step(loss, clips_per_s, self.time_left(total_steps, steps_now));

            let out_of_time = self.progress_in_time().is_some_and(|progress| progress >= 1.0);
            if self.place.step_in_epoch == steps_per_epoch || out_of_time {
                drop(bar);
                self.finish_epoch(clips_per_s)?;
                (clips_in_epoch, epoch_started) = (0, Instant::now());
                bar = self.bar(steps_per_epoch);
            }
            if out_of_time {
                break;
            }
            if stop.load(Ordering::Relaxed) || self.options.max_steps == Some(steps_now) {
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

    fn bar(&self, steps_per_epoch: u64) -> EpochBar {
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
        let progress = self.progress_in_time().unwrap_or(0.0).max(in_steps);
        let lr = train.learning_rate * train.schedule.factor(self.place.step, self.place.epoch, progress);
        // Dropout must draw the same after a resume: its generator follows from the step alone.
        tch::manual_seed((train.seed ^ (self.place.step + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)) as i64);

        self.optimiser.zero_grad();
        let mut terms = Terms::default();
        for part in 0..train.accumulate {
            let bound = |part: usize| part * batch.samples / train.accumulate;
            let part_terms = self.replicas.backward(&self.lifter, &self.objective, self.shards(batch, bound(part)..bound(part + 1)))?;
            terms.iter_mut().zip(part_terms).for_each(|(sum, term)| *sum += term);
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
        if let Some(max_norm) = train.clip_norm
            && !self.optimiser.clip_gradients(max_norm).is_finite()
        {
            return refuse("the gradient");
        }
        self.optimiser.step(lr)?;
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
        let bounds: Vec<usize> = (0..=count).map(|i| samples.start + i * samples.len() / count).collect();
        let cut = |from: usize, to: usize| {
            let part = |all: &[f32], channels: usize| {
                let size = values * channels;
                self.lifter.tensor(&all[from * size..to * size], [(to - from) * parts, frames, pose::JOINTS, channels])
            };
            Shard {
                input: part(&batch.input, batch.dim_in),
                label: part(&batch.label, 3),
                share: (to - from) as f64 / batch.samples as f64,
            }
        };
        bounds.windows(2).filter(|b| b[0] < b[1]).map(|b| cut(b[0], b[1])).collect()
    }

    /// Into how many sequences the samples of this step are cut: it follows from the step alone, so that a resume does the same.
    fn sequence_parts(&self) -> usize {
        let (choices, step) = (&self.recipe.train.sequence_parts, self.place.step);
        choices.get((step.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize % choices.len().max(1)).copied().unwrap_or(1)
    }

    /// Validates, writes the metrics, saves what is due.
    fn finish_epoch(&mut self, clips_per_s: f64) -> Result<()> {
        let steps = self.place.step_in_epoch.max(1) as f64;
        let [loss, mpjpe, n_mpjpe, velocity] = self.place.loss_sums.map(|sum| sum / steps);
        self.place.epoch += 1;
        self.place.step_in_epoch = 0;
        self.place.loss_sums = [0.0; 4];

        if let Some(ema) = &mut self.ema {
            ema.swap(&self.lifter.weights);
        }
        let validated = self.validation.measure(&self.lifter, self.recipe);
        let weights = self.lifter.weights.state_dict();
        if let Some(ema) = &mut self.ema {
            ema.swap(&self.lifter.weights);
        }
        let Validated { error, chosen_by, figures, conditions } = validated?;
        let best = self.place.best_mpjpe_mm.is_none_or(|least| error < least);
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
        let line = serde_json::to_string(&EpochMetrics {
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
            best,
            clips_per_s,
            elapsed_s: place.elapsed_s,
        })?;
        append_line(&self.options.out.join(METRICS_FILE), &line)?;
        if self.options.json {
            print_line(&line)?;
        }
        tracing::info!(
            "epoch {}: loss {loss:.4} (mpjpe {mpjpe:.4}, velocity {velocity:.4}), lr {:.1e}, validation: {}; {clips_per_s:.1} clips/s{}",
            place.epoch,
            place.learning_rate,
            in_words(&figures),
            if best { ", best so far" } else { "" }
        );
        Ok(())
    }

    fn save_last(&mut self) -> Result<()> {
        self.place.elapsed_s = self.elapsed_s();
        let ema = self.ema.as_ref().map(|ema| ema.state_dict(&self.lifter.weights));
        checkpoint::save_state(&self.options.out.join(checkpoint::LAST), self.recipe, &self.lifter, &self.optimiser, ema, &self.place)?;
        self.saved = Instant::now();
        Ok(())
    }

    fn finish(&mut self) -> Result<Outcome> {
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
