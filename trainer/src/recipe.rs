//! A training recipe: one TOML file that says everything about a run but where its data lies.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use datasets::{Augmentation, CameraKind, Gaps, NoiseRecipe, RecordedOptions, SamplerOptions};
use network::ModelConfig;
use pose::{metadata::ModelMetadata, normalise::Normalisation};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::{data::DataKind, loss::LossWeights, optimiser::OptimiserConfig, schedule::Schedule, tuning::FinetuneConfig};

/// Name that the resolved recipe gets in the run's folder.
pub const RESOLVED_FILE: &str = "recipe.toml";

/// What is trained, on what, how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The model's name, for its metadata.
    pub name: String,
    /// Data that it is trained on, for its metadata, with the acknowledgement that the data wants.
    pub trained_on: String,
    /// Licence of the weights, for their metadata.
    #[serde(default = "licence")]
    pub licence: String,
    /// The architecture.
    pub model: ModelConfig,
    /// What it sees.
    pub data: DataConfig,
    /// How it learns.
    pub train: TrainConfig,
    /// What is special about a run of `trainer finetune`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finetune: Option<FinetuneConfig>,
}

fn licence() -> String {
    "MIT OR Apache-2.0".into()
}

/// What the model sees in training and validation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Which data set `--data` names; keys below that say so are of some kinds alone.
    #[serde(default)]
    pub kind: DataKind,
    /// How pixels become input.
    pub normalisation: Normalisation,
    /// Frames per second that the model is meant for: validation resamples to it, and its metadata say it. It must lie
    /// within `augmentation.fps`, the rates of the training samples.
    pub fps: f32,
    /// Kinds of cameras that look at motion.
    #[serde(default = "all_cameras")]
    pub cameras: Vec<CameraKind>,
    /// Detector noise: the name of a noise recipe beside this file, a table with its keys, or false.
    #[serde(default)]
    pub noise: Noise,
    /// Frames of a training sample for a model of the live family, which takes any number; others say it as `model.n_frames`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence_frames: Option<usize>,
    /// Live family: times in which the detector sees nobody. Its own figures when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gaps: Option<Gaps>,
    /// An epoch has one sample per so many recorded frames; a third of a sample's frames when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stride: Option<usize>,
    /// Clips that a camera has seen: probability that one is mirrored. Motion has `augmentation.mirror`.
    #[serde(default = "half")]
    pub flip: f32,
    /// Clips that a camera has seen: whether the root is taken off the labels. The original MambaGCN did not.
    #[serde(default = "yes")]
    pub root_relative: bool,
    /// Who is held out of the training data to choose the checkpoint on (`s_08` of `motionbert`, `S8` of `mpi-inf-3dhp` and `videopose3d`
    /// when empty); `motion-capture` has a file for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub validation_subjects: Vec<String>,
    /// `clip-folder`, which names no subjects: the last clips, so large a share of all, are held out.
    #[serde(default = "twentieth")]
    pub validation_share: f64,
    /// Trains on everything and chooses the checkpoint on the test set, as the references do: the best figure is then too good, and the
    /// report says so.
    #[serde(default)]
    pub validate_on_test: bool,
    /// How recorded people are varied: of motion alone.
    #[serde(default)]
    pub augmentation: Augmentation,
}

const fn half() -> f32 {
    0.5
}

const fn yes() -> bool {
    true
}

const fn twentieth() -> f64 {
    0.05
}

fn all_cameras() -> Vec<CameraKind> {
    CameraKind::ALL.to_vec()
}

/// Detector noise, or none.
#[derive(Clone, Debug, PartialEq)]
pub enum Noise {
    /// True joints of confidence 1.
    Off,
    /// Joints as a detector finds them.
    On(Box<NoiseRecipe>),
}

impl Default for Noise {
    fn default() -> Self {
        Self::On(Box::default())
    }
}

impl Noise {
    /// The recipe, unless it is off.
    pub fn recipe(&self) -> Option<NoiseRecipe> {
        match self {
            Self::Off => None,
            Self::On(recipe) => Some(recipe.as_ref().clone()),
        }
    }
}

impl Serialize for Noise {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_bool(false),
            Self::On(recipe) => recipe.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Noise {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        match Value::deserialize(deserializer)? {
            Value::Boolean(false) => Ok(Self::Off),
            Value::Boolean(true) => Ok(Self::default()),
            table @ Value::Table(_) => Ok(Self::On(Box::new(NoiseRecipe::deserialize(table).map_err(D::Error::custom)?))),
            other => Err(D::Error::custom(format!("noise is {other}: expected the name of a noise recipe, a table of its keys, or false"))),
        }
    }
}

/// How the model learns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Passes over the data.
    pub epochs: u64,
    /// Clips of an optimiser step.
    pub batch_size: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// How it changes.
    #[serde(default)]
    pub schedule: Schedule,
    /// Adam or AdamW.
    #[serde(default)]
    pub optimiser: OptimiserConfig,
    /// Terms of the loss.
    #[serde(default)]
    pub loss: LossWeights,
    /// What matrix products of the forward and backward pass are computed in. Weights, sums and the optimiser stay in f32.
    #[serde(default)]
    pub precision: Precision,
    /// Parts that each batch is split into, computed side by side on the threads of `--threads`; batch normalisation then sees a part
    /// at a time. As many as threads is the fastest for a small model on a CPU.
    #[serde(default = "one")]
    pub replicas: usize,
    /// Parts that each batch is computed in, one after the other; their gradients add up before the optimiser's step. Less memory, the
    /// same step, but for batch normalisation, which sees a part at a time.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// Live family: each batch's samples are cut into so many sequences, one of these numbers drawn for each step, so that sequences of
    /// several lengths are learnt. Each divides `data.sequence_frames`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sequence_parts: Vec<usize>,
    /// Gradients are scaled so that their common norm is at most this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// Decay of the moving average of the weights that is validated and saved as the model; none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// First value of every layer scale; the reference's 1e-5 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer_scale: Option<f64>,
    /// Weights, samples and dropout follow from it.
    #[serde(default)]
    pub seed: u64,
    /// Threads that make batches beside the training thread.
    #[serde(default = "one")]
    pub workers: usize,
    /// Whether validation averages with the mirrored prediction.
    #[serde(default)]
    pub validate_with_flip: bool,
    /// `epoch_N.pth` is kept after so many epochs; never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_every_epochs: Option<u64>,
    /// `last.pth` is saved within an epoch when it is so old.
    #[serde(default = "save_every_minutes")]
    pub save_every_minutes: f64,
}

/// Precision of matrix products in training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Single precision.
    #[default]
    F32,
    /// bfloat16 by autocast: faster where the processor multiplies in it (Hopper, AVX-512 BF16, AMX).
    Bf16,
}

const fn one() -> usize {
    1
}

const fn save_every_minutes() -> f64 {
    3.0
}

impl Recipe {
    /// Reads a recipe with `key=value` settings on top (dotted keys: `train.batch_size=16`).
    ///
    /// # Errors
    /// One sentence: the file cannot be read, a key is unknown (with the nearest known one), a value is out of range.
    pub fn read(path: &Path, settings: &[String]) -> Result<Self> {
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        Self::with_settings(read_table(path)?, &folder, settings).with_context(|| format!("{}: the recipe is refused", path.display()))
    }

    /// The recipe that a table describes, with settings on top; noise recipes are looked for in `folder`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn with_settings(mut table: Table, folder: &Path, settings: &[String]) -> Result<Self> {
        inline_noise(&mut table, folder)?; // so that settings can reach its keys
        for setting in settings {
            set(&mut table, setting)?;
        }
        inline_noise(&mut table, folder)?; // a setting may name another one
        Self::from_table(table)
    }

    /// The recipe that a table describes, checked.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn from_table(table: Table) -> Result<Self> {
        let recipe: Self = Value::Table(table).try_into().map_err(|e: toml::de::Error| anyhow!("{}", with_suggestion(e.message())))?;
        recipe.validate()?;
        Ok(recipe)
    }

    fn validate(&self) -> Result<()> {
        self.model.validate()?;
        let train = &self.train;
        let positive = |key: &str, value: f64| {
            if value > 0.0 && value.is_finite() { Ok(()) } else { Err(anyhow!("train.{key} is {value}: expected a number above 0")) }
        };
        positive("batch_size", train.batch_size as f64)?;
        positive("epochs", train.epochs as f64)?;
        positive("learning_rate", train.learning_rate)?;
        positive("workers", train.workers as f64)?;
        positive("replicas", train.replicas as f64)?;
        positive("accumulate", train.accumulate as f64)?;
        if train.replicas > train.batch_size {
            bail!("train.replicas is {}: expected at most train.batch_size, {}", train.replicas, train.batch_size);
        }
        if train.accumulate.saturating_mul(train.replicas) > train.batch_size {
            bail!(
                "train.accumulate is {}: expected at most train.batch_size by train.replicas, {} by {}",
                train.accumulate,
                train.batch_size,
                train.replicas
            );
        }
        positive("save_every_minutes", train.save_every_minutes)?;
        if let Some(norm) = train.clip_norm {
            positive("clip_norm", norm)?;
        }
        if let Some(decay) = train.ema
            && !(0.0..1.0).contains(&decay)
        {
            bail!("train.ema is {decay}: expected a decay from 0 to below 1, such as 0.999");
        }
        self.finetune.as_ref().map_or(Ok(()), FinetuneConfig::validate)?;
        self.validate_sequences()?;
        let data = &self.data;
        if !(0.0..=1.0).contains(&data.flip) {
            bail!("data.flip is {}: expected a probability from 0 to 1", data.flip);
        }
        if !(0.0..1.0).contains(&data.validation_share) || data.validation_share == 0.0 {
            bail!("data.validation_share is {}: expected a share above 0 and below 1, such as 0.05", data.validation_share);
        }
        if data.kind == DataKind::OwnClips {
            return Ok(()); // their 3D says all
        }
        if !data.kind.is_motion() {
            if data.normalisation != Normalisation::Frame {
                bail!(
                    "data.normalisation is {}: clips of this data.kind are normalised by the frame, expected \"frame\"",
                    data.normalisation
                );
            }
            // what changes nothing is told
            let of_motion = [
                (data.cameras != all_cameras(), "cameras"),
                (data.noise != Noise::default(), "noise"),
                (data.augmentation != Augmentation::default(), "augmentation"),
            ];
            for (_, key) in of_motion.iter().filter(|(given, _)| *given) {
                tracing::warn!(
                    "data.{key} changes nothing: it is for motion that random cameras look at, and clips of this data.kind were seen by a camera"
                );
            }
            return Ok(());
        }
        if !data.root_relative {
            bail!("data.root_relative is false: labels of motion are always root-relative, leave it out");
        }
        let [low, high] = match self.data.augmentation.fps {
            datasets::Fps::Fixed(fps) => [fps, fps],
            datasets::Fps::Range(range) => range,
        };
        if !(low..=high).contains(&self.data.fps) {
            bail!(
                "data.fps is {}, but data.augmentation.fps trains on {low} to {high}: a model must be used at a rate that it was trained at",
                self.data.fps
            );
        }
        Ok(())
    }

    /// What only the live family knows.
    fn validate_sequences(&self) -> Result<()> {
        let (data, parts) = (&self.data, &self.train.sequence_parts);
        if self.model.live().is_none() {
            let given = [
                (data.sequence_frames.is_some(), "data.sequence_frames"),
                (data.gaps.is_some(), "data.gaps"),
                (!parts.is_empty(), "train.sequence_parts"),
            ];
            return match given.iter().find(|(given, _)| *given) {
                Some((_, key)) => Err(anyhow!("{key} is for models of the live family (model.family = \"live\"): leave it out")),
                None => Ok(()),
            };
        }
        if !data.kind.is_motion() && data.kind != DataKind::OwnClips {
            bail!(
                "data.kind is {:?}: models of the live family train on motion, \"motion-capture\" or \"videopose3d\", or on \"own-clips\"",
                data.kind
            );
        }
        let Some(frames) = data.sequence_frames.filter(|frames| (2..=1 << 14).contains(frames)) else {
            bail!("data.sequence_frames is missing or out of range: a model of the live family needs it, 2 to 16384, such as 128");
        };
        if let Some(part) = parts.iter().find(|&&part| part == 0 || !frames.is_multiple_of(part)) {
            bail!("train.sequence_parts has {part}: expected divisors of data.sequence_frames, {frames}");
        }
        Ok(())
    }

    /// Frames of a training sample.
    pub fn sample_frames(&self) -> usize {
        self.model.window().or(self.data.sequence_frames).unwrap_or(1) // validated: one of them is there
    }

    /// As TOML, defaults and settings included.
    ///
    /// # Errors
    /// A value that TOML cannot hold.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).context("the recipe cannot be written as TOML")
    }

    /// How samples are drawn.
    pub fn sampler_options(&self) -> SamplerOptions {
        SamplerOptions {
            n_frames: self.sample_frames(),
            dim_in: self.model.dim_in(),
            normalisation: self.data.normalisation,
            cameras: self.data.cameras.clone(),
            noise: self.data.noise.recipe(),
            augmentation: self.data.augmentation.clone(),
            stride: self.data.stride,
            causal: self.model.live().map(|_| self.data.gaps.unwrap_or_default()),
            seed: self.train.seed,
        }
    }

    /// How samples of a user's own clips are made.
    pub fn recorded_options(&self) -> RecordedOptions {
        RecordedOptions {
            n_frames: self.sample_frames(),
            dim_in: self.model.dim_in(),
            normalisation: self.data.normalisation,
            fps: f64::from(self.data.fps),
            stride: self.data.stride,
            flip: self.data.flip,
            causal: self.model.live().map(|_| self.data.gaps.unwrap_or_default()),
            seed: self.train.seed,
        }
    }

    /// What the trained model says about itself.
    ///
    /// # Errors
    /// A configuration that cannot be written.
    pub fn metadata(&self) -> Result<ModelMetadata> {
        let metadata = ModelMetadata {
            format: ModelMetadata::FORMAT,
            name: self.name.clone(),
            architecture: self.model.architecture().into(),
            config_toml: toml::to_string(&self.model).context("the model's configuration cannot be written as TOML")?,
            skeleton: ModelMetadata::SKELETON.into(),
            frames: self.sample_frames(),
            frames_dynamic: self.model.window().is_none(), // a temporal graph's batch normalisation has one feature per frame
            causal: self.model.live().is_some(),
            look_ahead: self.model.live().map_or(0, |live| live.look_aheads[0]),
            dim_in: self.model.dim_in(),
            normalisation: self.data.normalisation,
            fps: self.data.fps,
            output: ModelMetadata::OUTPUT.into(),
            parameters: network::parameter_count(&self.model),
            trained_on: self.trained_on.clone(),
            licence: self.licence.clone(),
            has_top_k_graph: self.model.has_top_k_graph(),
        };
        metadata.validate()?;
        Ok(metadata)
    }
}

/// The content of a recipe's file.
///
/// # Errors
/// It cannot be read or is no TOML.
pub fn read_table(path: &Path) -> Result<Table> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{}: the recipe cannot be read", path.display()))?;
    text.parse().map_err(|e: toml::de::Error| anyhow!("{}: not TOML: {}", path.display(), e.message()))
}

/// Puts one `a.b.c=value` into a table. What is no TOML value is a string.
fn set(table: &mut Table, setting: &str) -> Result<()> {
    let (key, text) = setting.split_once('=').ok_or_else(|| anyhow!("--set {setting}: expected key=value, such as train.batch_size=16"))?;
    let parsed = format!("value = {text}").parse::<Table>().ok().and_then(|mut t| t.remove("value"));
    let value = parsed.unwrap_or_else(|| Value::String(text.to_owned()));
    let mut parts: Vec<&str> = key.trim().split('.').collect();
    let last = parts.pop().unwrap_or_default();
    let mut place = table;
    for part in parts {
        let next = place.entry(part).or_insert_with(|| Value::Table(Table::new()));
        place = next.as_table_mut().ok_or_else(|| anyhow!("--set {setting}: `{part}` is a value, not a section"))?;
    }
    place.insert(last.to_owned(), value);
    Ok(())
}

/// Replaces the name of a noise recipe by its content.
fn inline_noise(table: &mut Table, folder: &Path) -> Result<()> {
    let Some(data) = table.get_mut("data").and_then(Value::as_table_mut) else { return Ok(()) };
    if let Some(Value::String(name)) = data.get("noise") {
        let path: PathBuf = folder.join(name);
        let recipe = NoiseRecipe::open(&path)?;
        data.insert("noise".into(), Value::try_from(recipe).context("the noise recipe cannot be kept")?);
    }
    Ok(())
}

/// Adds the nearest known key to serde's "unknown field `x`, expected one of `a`, `b`".
fn with_suggestion(message: &str) -> String {
    let message = message.trim();
    let Some(rest) = message.strip_prefix("unknown field ") else { return message.to_owned() };
    let names: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
    let Some((unknown, known)) = names.split_first() else { return message.to_owned() };
    let nearest =
        known.iter().min_by_key(|name| distance(unknown, name)).filter(|name| distance(unknown, name) <= unknown.len().max(3) / 2);
    let hint = nearest.map_or(String::new(), |name| format!(" (did you mean `{name}`?)"));
    format!("unknown key `{unknown}`{hint}; the keys there are {}", known.join(", "))
}

/// Levenshtein's edit distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped() -> PathBuf {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/configs/clip-xs.toml")).to_owned()
    }

    #[test]
    fn the_shipped_recipe_survives_being_resolved() {
        let recipe = Recipe::read(&shipped(), &[]).unwrap();
        let resolved: Table = recipe.to_toml().unwrap().parse().unwrap();
        assert_eq!(Recipe::from_table(resolved).unwrap(), recipe);
        recipe.metadata().unwrap();
    }

    #[test]
    fn settings_reach_every_section() {
        let settings = ["train.batch_size=7", "data.augmentation.tilt=0.25", "model.mamba_gcn.d_state=8", "name=other", "data.noise=false"];
        let recipe = Recipe::read(&shipped(), &settings.map(String::from)).unwrap();
        assert_eq!((recipe.train.batch_size, recipe.data.augmentation.tilt, recipe.name.as_str()), (7, 0.25, "other"));
        assert_eq!(recipe.model.windowed().unwrap().mamba_gcn.as_ref().unwrap().d_state, 8);
        assert_eq!(recipe.data.noise, Noise::Off);
    }

    #[test]
    fn every_recipe_of_the_house_is_read_and_counts_its_parameters() {
        for (name, parameters) in [
            ("motionagformer-xs", 2.2),
            ("motionagformer-s", 4.8),
            ("motionagformer-b", 11.7),
            ("motionagformer-l", 19.0),
            ("mamba-gcn-report", 16.2),
        ] {
            let path = shipped().with_file_name(format!("{name}.toml"));
            let recipe = Recipe::read(&path, &[]).unwrap();
            let found = recipe.metadata().unwrap().parameters;
            assert!((found as f64 / 1e6 - parameters).abs() <= 0.05, "{name}: {found} parameters, the paper has {parameters} M");
            let resolved: Table = recipe.to_toml().unwrap().parse().unwrap();
            assert_eq!(Recipe::from_table(resolved).unwrap(), recipe);
        }
        let report = Recipe::read(&shipped().with_file_name("mamba-gcn-report.toml"), &[]).unwrap();
        assert_eq!(report.metadata().unwrap().parameters, 16_247_251);
        assert_eq!([2, 3, 5].map(|epoch| report.train.schedule.factor(0, epoch, 0.0)), [1.0, 0.9, 0.9], "StepLR(3, 0.9)");
        let loss = report.train.loss;
        assert_eq!((loss.mpjpe, loss.n_mpjpe, loss.velocity, report.data.root_relative, report.data.flip), (1.0, 0.0, 0.0, false, 0.0));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (setting, expected) in [
            ("train.batchsize=7", "did you mean `batch_size`"),
            ("train.loss.velocty=7", "did you mean `velocity`"),
            ("data.noise.jiter_px=7", "did you mean `jitter_px`"),
            ("model.n_layers=0", "n_layers = 0"),
            ("train.epochs=0", "train.epochs is 0"),
            ("train.ema=1.5", "train.ema is 1.5"),
            ("data.fps=200.0", "data.fps is 200"),
            ("train", "expected key=value"),
            ("name.first=1", "not a section"),
            ("train.schedule.kind=slow", "slow"),
        ] {
            let error = Recipe::read(&shipped(), &[setting.into()]).expect_err(setting);
            assert!(format!("{error:#}").contains(expected), "{setting}: {error:#}");
        }
        let absent = Recipe::read(Path::new("/nonexistent/recipe.toml"), &[]).expect_err("no such file");
        assert!(format!("{absent:#}").contains("cannot be read"));
    }
}
