//! The recipe of a fine-tuning: what the checkpoint says of itself, defaults for little data, and what the user changes.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use network::Checkpoint;
use pose::{metadata::ModelMetadata, normalise::Normalisation};
use toml::{Table, Value, toml};

use crate::{
    data::DataKind,
    recipe::{Recipe, read_table},
};

/// Frames of a training sequence of a live lifter whose file does not say them.
const SEQUENCE_FRAMES: usize = 128;

/// What a fine-tuning is told.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The checkpoint's file.
    pub checkpoint: PathBuf,
    /// The new data.
    pub data: PathBuf,
    /// What it is.
    pub kind: DataKind,
    /// For a checkpoint that does not say it; `frame`, the references', when absent.
    pub normalisation: Option<Normalisation>,
    /// For a checkpoint that does not say it; 50 when absent.
    pub fps: Option<f32>,
    /// A recipe's keys (without `model`) on top of the defaults.
    pub config: Option<PathBuf>,
    /// `key=value` on top of everything.
    pub settings: Vec<String>,
    /// Threads that compute, for the number of replicas.
    pub threads: usize,
}

/// The recipe of a fine-tuning.
///
/// # Errors
/// A recipe file that cannot be read or names another model, keys that are refused, a rate or normalisation that contradicts the checkpoint.
pub fn recipe(checkpoint: &Checkpoint, metadata: Option<&ModelMetadata>, asked: &Asked) -> Result<Recipe> {
    let mut table = defaults(checkpoint, metadata, asked)?;
    let mut folder = PathBuf::new();
    if let Some(path) = &asked.config {
        let told = read_table(path)?;
        ensure!(
            !told.contains_key("model"),
            "{}: it has a section [model], but the model is the checkpoint's: take it out",
            path.display()
        );
        merge(&mut table, told);
        folder = path.parent().map(Path::to_owned).unwrap_or_default();
    }
    Recipe::with_settings(table, &folder, &asked.settings).context("the recipe of the fine-tuning is refused")
}

fn defaults(checkpoint: &Checkpoint, metadata: Option<&ModelMetadata>, asked: &Asked) -> Result<Table> {
    let config = &checkpoint.config;
    let file = asked.checkpoint.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let data = asked.data.canonicalize().unwrap_or_else(|_| asked.data.clone());
    let data = data.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let normalisation = one_of("--normalisation", asked.normalisation, metadata.map(|m| m.normalisation), Normalisation::Frame)?;
    let fps = one_of("--fps", asked.fps, metadata.map(|m| m.fps), 50.0)?;
    let stem = Path::new(&file).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let before = metadata.map_or_else(|| format!("What {file} was trained on"), |m| m.trained_on.trim_end_matches('.').to_owned());
    let licence = metadata.map_or_else(|| format!("that of {file}"), |m| m.licence.clone());
    // The official loss weighs steps from frame to frame by 20; in the units of a person's box, which are larger, 2 is as much.
    let velocity = if normalisation == Normalisation::Frame { 20.0 } else { 2.0 };
    let replicas = if network::parameter_count(config) < 3_000_000 { asked.threads.clamp(1, 2) } else { 1 };

    let mut table = toml! {
        [data]
        noise = true
        validation_share = 0.2
        [train]
        epochs = 15
        batch_size = 16
        learning_rate = 3e-4
        clip_norm = 2.0
        [train.schedule]
        kind = "cosine"
        warm_up_steps = 20
        final_ratio = 0.05
        [train.loss]
        mpjpe = 1.0
        n_mpjpe = 0.5
        [finetune]
        layer_decay = 0.9
        patience = 5
    };
    set(&mut table, "name", format!("{}-{data}", metadata.map_or(stem, |m| m.name.clone())));
    set(&mut table, "trained_on", format!("{before}. Fine-tuned on {data}."));
    set(&mut table, "licence", licence);
    set(&mut table, "model", Value::try_from(config).context("the model's configuration cannot be written as TOML")?);
    let section = |table: &mut Table, name: &str, keys: Vec<(&str, Value)>| {
        if let Some(section) = table.get_mut(name).and_then(Value::as_table_mut) {
            keys.into_iter().for_each(|(key, value)| set(section, key, value));
        }
    };
    let fps_value = |fps: f32| Value::Float(f64::from(fps));
    let mut of_data =
        vec![("kind", Value::try_from(asked.kind)?), ("normalisation", Value::try_from(normalisation)?), ("fps", fps_value(fps))];
    if asked.kind.is_motion() || asked.kind == DataKind::OwnClips {
        let rates = Value::Array(vec![fps_value(0.8 * fps), fps_value(1.2 * fps)]);
        of_data.push(("augmentation", Value::Table(Table::from_iter([("fps".to_owned(), rates)]))));
    }
    if config.live().is_some() {
        let frames = metadata.map(|m| m.frames).filter(|&frames| frames >= 2).unwrap_or(SEQUENCE_FRAMES);
        of_data.push(("sequence_frames", Value::Integer(frames as i64)));
    }
    section(&mut table, "data", of_data);
    section(&mut table, "train", vec![("replicas", Value::Integer(replicas as i64))]);
    if let Some(train) = table.get_mut("train").and_then(Value::as_table_mut) {
        section(train, "loss", vec![("velocity", Value::Float(velocity))]);
    }
    section(&mut table, "finetune", vec![("checkpoint", Value::String(file))]);
    Ok(table)
}

fn set(table: &mut Table, key: &str, value: impl Into<Value>) {
    table.insert(key.to_owned(), value.into());
}

/// What is told, if the checkpoint does not say otherwise.
fn one_of<T: PartialEq + Copy + std::fmt::Display>(option: &str, told: Option<T>, recorded: Option<T>, default: T) -> Result<T> {
    match (told, recorded) {
        (Some(told), Some(recorded)) if told != recorded => {
            bail!("{option} {told}: the checkpoint says that it was trained with {recorded}; leave {option} out")
        }
        (told, recorded) => Ok(told.or(recorded).unwrap_or(default)),
    }
}

/// Puts the keys of one table into another, section by section.
fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_merged() {
        let mut table = toml! {
            name = "a"
            [train]
            epochs = 3
            [train.loss]
            mpjpe = 1.0
        };
        merge(
            &mut table,
            toml! {
                name = "b"
                [train.loss]
                velocity = 2.0
            },
        );
        let expected = toml! {
            name = "b"
            [train]
            epochs = 3
            [train.loss]
            mpjpe = 1.0
            velocity = 2.0
        };
        assert_eq!(table, expected);
    }

    #[test]
    fn a_checkpoint_is_not_contradicted() {
        assert_eq!(one_of("--fps", Some(30.0), Some(30.0), 50.0).unwrap(), 30.0);
        assert_eq!(one_of("--fps", None, None, 50.0).unwrap(), 50.0);
        assert_eq!(one_of("--fps", Some(25.0), None, 50.0).unwrap(), 25.0);
        assert!(one_of("--fps", Some(25.0), Some(30.0), 50.0).unwrap_err().to_string().contains("leave --fps out"));
    }
}
