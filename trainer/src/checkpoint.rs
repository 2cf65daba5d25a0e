//! What a run saves: weights, optimiser and place, in files that `torch.load(weights_only=True)` reads.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use formats::{StateDict, Value};
use network::{Checkpoint, Overrides};
use pose::metadata::ModelMetadata;

use crate::{model::Lifter, optimiser::Optimiser, recipe::Recipe, tuning::Tuning};

/// The state with the lowest validation error.
pub const BEST: &str = "best.pth";
/// The newest state, with everything that a resume needs.
pub const LAST: &str = "last.pth";
/// The state after the last step of a finished run.
pub const FINAL: &str = "final.pth";

/// Where a run stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Place {
    /// Optimiser steps made.
    pub step: u64,
    /// Epochs finished.
    pub epoch: u64,
    /// Steps made in the epoch under way.
    pub step_in_epoch: u64,
    /// Time spent, over all resumes, s.
    pub elapsed_s: f64,
    /// Lowest validation error so far: MPJPE in mm, or for sets of clips that a camera has seen in px (see [`crate::data::Validated`]).
    pub best_mpjpe_mm: Option<f64>,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Sums over the epoch under way: total, mpjpe, n_mpjpe, velocity.
    pub loss_sums: [f64; 4],
    /// Epochs since the best one.
    pub stale_epochs: u64,
    /// Fine-tuning: the error on the base data before everything.
    pub base_before: Option<f64>,
    /// Why the run has ended before its last epoch.
    pub ended: Option<String>,
}

impl Place {
    fn to_value(&self, seed: u64) -> Value {
        Value::dict([
            ("step", Value::Int(self.step as i64)),
            ("epoch", Value::Int(self.epoch as i64)),
            ("step_in_epoch", Value::Int(self.step_in_epoch as i64)),
            ("elapsed_s", Value::Float(self.elapsed_s)),
            ("best_mpjpe_mm", self.best_mpjpe_mm.map_or(Value::None, Value::Float)),
            ("learning_rate", Value::Float(self.learning_rate)),
            ("loss_sums", Value::List(self.loss_sums.iter().map(|&sum| Value::Float(sum)).collect())),
            ("stale_epochs", Value::Int(self.stale_epochs as i64)),
            ("base_before", self.base_before.map_or(Value::None, Value::Float)),
            ("ended", self.ended.as_deref().map_or(Value::None, Value::str)),
            ("seed", Value::Int(seed as i64)),
        ])
    }

    fn from_value(value: &Value) -> Result<Self> {
        let number = |key: &str| {
            value.get(key).and_then(Value::as_f64).with_context(|| format!("the checkpoint's `training` record has no number `{key}`"))
        };
        let sums = value.get("loss_sums").and_then(Value::items).context("the checkpoint's `training` record has no `loss_sums`")?;
        let mut loss_sums = [0.0; 4];
        ensure!(sums.len() == loss_sums.len(), "the checkpoint's `loss_sums` has {} numbers, expected {}", sums.len(), loss_sums.len());
        for (sum, value) in loss_sums.iter_mut().zip(sums) {
            *sum = value.as_f64().context("the checkpoint's `loss_sums` has something that is no number")?;
        }
        Ok(Self {
            step: number("step")? as u64,
            epoch: number("epoch")? as u64,
            step_in_epoch: number("step_in_epoch")? as u64,
            elapsed_s: number("elapsed_s")?,
            best_mpjpe_mm: value.get("best_mpjpe_mm").and_then(Value::as_f64),
            learning_rate: number("learning_rate")?,
            loss_sums,
            // files from before fine-tuning have none of them
            stale_epochs: number("stale_epochs").unwrap_or_default() as u64,
            base_before: value.get("base_before").and_then(Value::as_f64),
            ended: value.get("ended").and_then(Value::as_str).map(str::to_owned),
        })
    }
}

/// A model to be used: weights and what they are.
///
/// # Errors
/// The file cannot be written.
pub fn save_model(path: &Path, recipe: &Recipe, weights: &StateDict, place: &Place) -> Result<()> {
    Ok(formats::pth::write(path, &Value::dict(model_entries(recipe, weights, place)?))?)
}

fn model_entries(recipe: &Recipe, weights: &StateDict, place: &Place) -> Result<Vec<(&'static str, Value)>> {
    let metadata = serde_json::to_string(&recipe.metadata()?).context("the model's metadata cannot be written as JSON")?;
    Ok(vec![
        ("epoch", Value::Int(place.epoch as i64)),
        ("lr", Value::Float(place.learning_rate)),
        ("model", weights.to_value()),
        ("min_mpjpe", place.best_mpjpe_mm.map_or(Value::None, Value::Float)),
        ("poselift", Checkpoint::own_record(&recipe.model, &metadata)?),
    ])
}

/// A state to go on from: the same file with optimiser and place. `model` holds the weights that are trained; `ema`, where
/// the recipe has one, their moving average.
///
/// # Errors
/// The file cannot be written.
pub fn save_state(
    path: &Path,
    recipe: &Recipe,
    lifter: &Lifter,
    optimiser: &Optimiser,
    ema: Option<StateDict>,
    tuning: Option<&Tuning>,
    place: &Place,
) -> Result<()> {
    let mut entries = model_entries(recipe, &lifter.weights.state_dict(), place)?;
    entries.push(("optimizer", optimiser.state_dict(place.learning_rate)));
    entries.push(("training", place.to_value(recipe.train.seed)));
    entries.push(("recipe", Value::str(recipe.to_toml()?)));
    if let Some(ema) = ema {
        entries.push(("ema", ema.to_value()));
    }
    if let Some(tuning) = tuning {
        entries.push(("tuning", tuning.to_value()));
    }
    Ok(formats::pth::write(path, &Value::dict(entries))?)
}

/// What a resume starts from.
pub struct Resumed {
    /// Where the run stood.
    pub place: Place,
    /// Its moving average of the weights.
    pub ema: Option<StateDict>,
}

/// Puts a saved state into a model and its optimiser.
///
/// # Errors
/// A file that cannot be read, that is no state of a run, or that belongs to another model or seed.
pub fn load_state(path: &Path, recipe: &Recipe, lifter: &Lifter, optimiser: &mut Optimiser, tuning: Option<&Tuning>) -> Result<Resumed> {
    let read = Checkpoint::read(path, &Overrides::default())?;
    let in_file = || path.display().to_string();
    let training =
        read.file.get("training").with_context(|| format!("{}: it holds weights but no state of a run to resume", path.display()))?;
    ensure!(
        read.config == recipe.model,
        "{}: the run that is to be resumed has another model than the recipe: use its own {} or another --out",
        path.display(),
        crate::recipe::RESOLVED_FILE
    );
    let seed = training.get("seed").and_then(Value::as_i64).unwrap_or_default() as u64;
    ensure!(
        seed == recipe.train.seed,
        "{}: the run that is to be resumed has seed {seed}, the recipe {}: use --seed {seed}",
        path.display(),
        recipe.train.seed
    );
    lifter.weights.load(&read.state).with_context(in_file)?;
    tuning.map_or(Ok(()), |tuning| tuning.load(read.file.get("tuning"))).with_context(in_file)?;
    let saved = read.file.get("optimizer").with_context(|| format!("{}: it has no `optimizer`", path.display()))?;
    optimiser.load_state_dict(saved).with_context(in_file)?;
    let ema = read.file.get("ema").map(StateDict::from_checkpoint).transpose()?;
    Ok(Resumed { place: Place::from_value(training).with_context(in_file)?, ema })
}

/// A model file with what it says about how it is to be fed.
pub struct Opened {
    /// Ready to predict.
    pub lifter: Lifter,
    /// Our own files have it.
    pub metadata: Option<ModelMetadata>,
    /// The file.
    pub checkpoint: Checkpoint,
}

/// Opens any checkpoint of a lifter.
///
/// # Errors
/// See [`Checkpoint::read`].
pub fn open(path: &Path, overrides: &Overrides, device: tch::Device) -> Result<Opened> {
    let (checkpoint, metadata) = read(path, overrides)?;
    crate::model::check_scan(&checkpoint.config, device)?;
    let lifter = Lifter::load(&checkpoint.config, &checkpoint.state, tch::Kind::Float, device)?;
    Ok(Opened { lifter, metadata, checkpoint })
}

/// Reads any checkpoint of a lifter, and what our own files say of themselves.
///
/// # Errors
/// See [`Checkpoint::read`].
pub fn read(path: &Path, overrides: &Overrides) -> Result<(Checkpoint, Option<ModelMetadata>)> {
    let checkpoint = Checkpoint::read(path, overrides)?;
    let metadata = checkpoint
        .metadata_json
        .as_deref()
        .map(|json| -> Result<ModelMetadata> {
            let metadata: ModelMetadata =
                serde_json::from_str(json).with_context(|| format!("{}: its metadata cannot be read", path.display()))?;
            metadata.validate()?;
            Ok(metadata)
        })
        .transpose()?;
    Ok((checkpoint, metadata))
}
