//! What fine-tuning adds to training: what stays frozen, at which rate each layer learns, adapters, when to stop, and a watch on what the
//! model could do before.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use anyhow::{Result, anyhow, bail, ensure};
use datasets::{Error as DataError, Sample, SampleSource};
use formats::Value;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use tch::Tensor;

use crate::{
    data::Validation,
    lora::{Lora, LoraConfig, share_trained},
    model::Lifter,
    optimiser::{Group, Optimiser, OptimiserConfig},
    recipe::Recipe,
    weights::Store,
};

/// The section `[finetune]` of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinetuneConfig {
    /// The checkpoint that it started from, as it was named on the command line.
    pub checkpoint: String,
    /// Names of parameters that stay as they are, `*` for any characters: `joints_embed*`, `layers.0.*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub freeze: Vec<String>,
    /// The rate of each layer is so many times that of the layer above it; 1 is the same for all.
    #[serde(default = "same")]
    pub layer_decay: f64,
    /// Adapters of low rank instead of whole weights; everything else is then frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// Whether batch normalisation uses and updates the statistics of the batches; otherwise it keeps those of the checkpoint.
    #[serde(default)]
    pub batch_statistics: bool,
    /// Stops after so many epochs without a new least error on the held-out clips; never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience: Option<u64>,
    /// Share of the samples that are of the base data.
    #[serde(default)]
    pub replay: f64,
    /// How much the error on the base data may rise, mm or "5%": an epoch beyond it is not kept, and the run stops.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_forgetting: Option<Forgetting>,
}

const fn same() -> f64 {
    1.0
}

impl FinetuneConfig {
    /// # Errors
    /// Names the first key that is out of range.
    pub fn validate(&self) -> Result<()> {
        let Self { layer_decay, replay, patience, lora, .. } = self;
        ensure!(
            *layer_decay > 0.0 && *layer_decay <= 1.0,
            "finetune.layer_decay is {layer_decay}: expected above 0 and at most 1, such as 0.8"
        );
        ensure!((0.0..0.95).contains(replay), "finetune.replay is {replay}: expected a share from 0 to below 0.95, such as 0.3");
        ensure!(*patience != Some(0), "finetune.patience is 0: expected at least 1 epoch, or leave it out");
        lora.as_ref().map_or(Ok(()), LoraConfig::validate)
    }
}

/// How much worse a model may become on its base data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Forgetting {
    /// In the unit of the error.
    Absolute(f64),
    /// Of the error before.
    Percent(f64),
}

impl Forgetting {
    /// Whether an error that was `before` is now too large.
    fn is_exceeded(self, before: f64, now: f64) -> bool {
        let limit = match self {
            Self::Absolute(limit) => before + limit,
            Self::Percent(percent) => before * (1.0 + percent / 100.0),
        };
        now.is_nan() || now > limit
    }
}

impl fmt::Display for Forgetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absolute(mm) => write!(f, "{mm}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl FromStr for Forgetting {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (number, of): (&str, fn(f64) -> Self) = match text.trim().strip_suffix('%') {
            Some(percent) => (percent, Self::Percent),
            None => (text.trim().trim_end_matches("mm"), Self::Absolute),
        };
        match number.trim().parse::<f64>() {
            Ok(limit) if limit >= 0.0 && limit.is_finite() => Ok(of(limit)),
            _ => bail!("{text}: expected millimetres such as 3, or percent such as 5%"),
        }
    }
}

impl Serialize for Forgetting {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Forgetting {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let told = match toml::Value::deserialize(deserializer)? {
            toml::Value::String(text) => text,
            other => other.to_string(),
        };
        told.parse().map_err(|e: anyhow::Error| serde::de::Error::custom(format!("max_forgetting = {e}")))
    }
}

/// Whether a name is what a pattern says, in which `*` stands for any characters.
pub fn matches(pattern: &str, name: &str) -> bool {
    datasets::matches(pattern, name)
}

/// How deep a parameter lies, from 0 (embedding) over the layers to `layers + 1` (head).
fn depth(name: &str, layers: usize) -> usize {
    let layer = name.strip_prefix("layers.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    match layer {
        Some(layer) => layer + 1,
        None if name.starts_with("joints_embed") || name.starts_with("pos_embed") => 0,
        None => layers + 1,
    }
}

/// The error on the base data after an epoch.
#[derive(Clone, Debug, Serialize)]
pub struct BaseMetrics {
    /// All figures.
    #[serde(flatten)]
    pub figures: Json,
    /// By how much the error that is watched has risen; negative where the model became better.
    pub forgetting: f64,
    /// The same in percent of the error before.
    pub forgetting_percent: f64,
}

/// Everything that is special about a run that fine-tunes.
pub struct Tuning {
    config: FinetuneConfig,
    lora: Option<Lora>,
    /// Measures the error on the base data.
    base: Option<Validation>,
}

/// What the end of an epoch means.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// The epoch may become the best.
    pub may_be_kept: bool,
    /// Why the run ends.
    pub ends: Option<String>,
}

impl Tuning {
    /// Freezes what is to be frozen and makes the adapters.
    ///
    /// # Errors
    /// A pattern that names no parameter, nothing left to be trained.
    pub fn new(config: &FinetuneConfig, lifter: &mut Lifter, base: Option<Validation>, seed: u64) -> Result<Self> {
        for pattern in &config.freeze {
            let frozen = lifter.weights.freeze(|name| matches(pattern, name));
            let known = lifter.weights.entries().iter().any(|entry| matches(pattern, &entry.name)); // by an earlier pattern
            ensure!(
                frozen > 0 || known,
                "finetune.freeze has \"{pattern}\", which names no parameter: expected names such as joints_embed* or layers.0.*"
            );
        }
        let lora = config.lora.as_ref().map(|lora| Lora::new(&lifter.weights, lora, seed)).transpose()?;
        if let Some(lora) = &lora {
            lora.freeze_others(&mut lifter.weights);
        }
        ensure!(lifter.weights.parameters().next().is_some(), "finetune.freeze {:?} leaves nothing to be trained", config.freeze);
        Ok(Self { config: config.clone(), lora, base })
    }

    /// Each trained tensor with the name of the weight that it changes.
    fn trained<'a>(&'a self, weights: &'a Store) -> Vec<(&'a str, &'a Tensor)> {
        match &self.lora {
            Some(lora) => lora.parameters().collect(),
            None => weights.parameters().collect(),
        }
    }

    /// An optimiser whose groups are the depths of the model, the deepest first, each at its own rate.
    pub fn optimiser(&self, lifter: &Lifter, config: OptimiserConfig) -> Optimiser {
        let layers = lifter.weights.entries().iter().map(|e| depth(&e.name, 0)).max().unwrap_or(0);
        let top = layers + 1;
        let mut groups: BTreeMap<usize, Vec<Tensor>> = BTreeMap::new();
        for (name, tensor) in self.trained(&lifter.weights) {
            let from_top = if self.config.layer_decay == 1.0 { 0 } else { top - depth(name, layers).min(top) };
            groups.entry(from_top).or_default().push(tensor.shallow_clone());
        }
        let group = |(from_top, parameters)| Group { rate: self.config.layer_decay.powi(from_top as i32), parameters };
        Optimiser::of_groups(groups.into_iter().map(group).collect(), config)
    }

    /// What is trained, in words.
    pub fn describe(&self, lifter: &Lifter) -> String {
        let trained: Vec<Tensor> = self.trained(&lifter.weights).into_iter().map(|(_, tensor)| tensor.shallow_clone()).collect();
        let (values, all) = share_trained(&lifter.weights, &trained);
        let how = match &self.lora {
            Some(lora) => format!(" in adapters of {} weights", lora.names().count()),
            None => String::new(),
        };
        format!("{values} values are trained{how}, of a model of {all}")
    }

    /// Before the gradients of a step.
    pub fn zero_grad(&mut self) {
        if let Some(lora) = &mut self.lora {
            lora.zero_grad();
        }
    }

    /// After the gradients of a step, before they are used.
    pub fn pass_gradients(&self) {
        if let Some(lora) = &self.lora {
            lora.pass_gradients();
        }
    }

    /// After the optimiser's step.
    pub fn merge(&self) {
        if let Some(lora) = &self.lora {
            lora.merge();
        }
    }

    /// The error on the base data, and its name and figures.
    ///
    /// # Errors
    /// As [`Validation::measure`].
    pub fn measure_base(&self, lifter: &Lifter, recipe: &Recipe) -> Result<Option<(f64, Json)>> {
        let Some(base) = &self.base else { return Ok(None) };
        let validated = base.measure(lifter, recipe)?;
        Ok(Some((validated.error, validated.figures)))
    }

    /// What of the base data is measured.
    pub fn base_description(&self) -> Option<&str> {
        self.base.as_ref().map(|base| base.description.as_str())
    }

    /// Whether an epoch may be kept and the run goes on: `base` is the error on the base data before everything and now, `stale_epochs` how
    /// many epochs in a row, this one included, brought no new best.
    pub fn judge(&self, base: Option<(f64, f64)>, stale_epochs: u64) -> Verdict {
        if let (Some((before, now)), Some(limit)) = (base, self.config.max_forgetting)
            && limit.is_exceeded(before, now)
        {
            let ends = format!(
                "the error on the base data rose from {before:.2} to {now:.2}, more than the allowed {limit}: lower the learning rate, raise --replay or allow more"
            );
            return Verdict { may_be_kept: false, ends: Some(ends) };
        }
        let ends = self.config.patience.filter(|&patience| stale_epochs >= patience);
        Verdict {
            may_be_kept: true,
            ends: ends.map(|epochs| format!("{epochs} epochs in a row brought no lower error on the held-out clips")),
        }
    }

    /// What a resume needs beside the weights.
    pub fn to_value(&self) -> Value {
        Value::dict(self.lora.iter().map(|lora| ("lora", lora.state_dict().to_value())))
    }

    /// Takes over what [`Self::to_value`] made.
    ///
    /// # Errors
    /// Adapters that are missing or of another shape.
    pub fn load(&self, saved: Option<&Value>) -> Result<()> {
        let Some(lora) = &self.lora else { return Ok(()) };
        let saved = saved.and_then(|value| value.get("lora")).ok_or_else(|| anyhow!("the run that is to be resumed has no adapters"))?;
        lora.load(saved)
    }
}

/// New samples and, so large a share of all, samples of the base data: others in each epoch.
pub struct Mixed {
    new: Arc<dyn SampleSource>,
    base: Arc<dyn SampleSource>,
    replayed: usize,
}

impl Mixed {
    /// # Errors
    /// Samples of different shapes.
    pub fn new(new: Arc<dyn SampleSource>, base: Arc<dyn SampleSource>, share: f64) -> Result<Self> {
        ensure!(
            (new.frames(), new.dim_in()) == (base.frames(), base.dim_in()),
            "samples of the base data have {} frames of {} channels, the new ones {} of {}",
            base.frames(),
            base.dim_in(),
            new.frames(),
            new.dim_in()
        );
        let replayed = if base.is_empty() { 0 } else { (new.len() as f64 * share / (1.0 - share)).round() as usize };
        Ok(Self { new, base, replayed })
    }
}

impl SampleSource for Mixed {
    fn len(&self) -> usize {
        self.new.len() + self.replayed
    }
    fn frames(&self) -> usize {
        self.new.frames()
    }
    fn dim_in(&self) -> usize {
        self.new.dim_in()
    }
    fn seed(&self) -> u64 {
        self.new.seed()
    }
    fn sample(&self, epoch: u64, index: usize) -> Result<Sample, DataError> {
        let Some(number) = index.checked_sub(self.new.len()) else { return self.new.sample(epoch, index) };
        // consecutive numbers walk through all of the base data, epoch after epoch, by a step that visits each once
        let place = epoch.wrapping_mul(self.replayed as u64).wrapping_add(number as u64);
        let step = coprime_step(self.base.len() as u64);
        self.base.sample(epoch, (u128::from(place) * u128::from(step) % self.base.len() as u128) as usize)
    }
}

/// A step around a circle of `length` that visits every place, far from the last one each time.
fn coprime_step(length: u64) -> u64 {
    const fn common_divisor(a: u64, b: u64) -> u64 {
        if b == 0 { a } else { common_divisor(b, a % b) }
    }
    let golden = (length as f64 * 0.618_034) as u64;
    (golden.max(1)..).find(|&step| common_divisor(step, length) == 1).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> FinetuneConfig {
        toml::from_str("checkpoint = \"a.pth\"").unwrap()
    }

    #[test]
    fn depths_follow_the_names() {
        for (name, expected) in [
            ("joints_embed.weight", 0),
            ("pos_embed", 0),
            ("layers.0.norm.weight", 1),
            ("layers.11.att_spatial.mlp.fc1.weight", 12),
            ("norm.weight", 13),
            ("rep_logit.fc.bias", 13),
            ("head.weight", 13),
        ] {
            assert_eq!(depth(name, 12), expected, "{name}");
        }
    }

    #[test]
    fn forgetting_is_read_and_compared() {
        let of = |text: &str| text.parse::<Forgetting>();
        assert_eq!(of("3").unwrap(), Forgetting::Absolute(3.0));
        assert_eq!(of("2.5mm").unwrap(), Forgetting::Absolute(2.5));
        assert_eq!(of("5%").unwrap(), Forgetting::Percent(5.0));
        for wrong in ["", "much", "-3", "nan", "%"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
        assert!(!of("3").unwrap().is_exceeded(60.0, 63.0) && of("3").unwrap().is_exceeded(60.0, 63.1));
        assert!(!of("5%").unwrap().is_exceeded(60.0, 63.0) && of("5%").unwrap().is_exceeded(60.0, 63.1));
        assert!(of("5%").unwrap().is_exceeded(60.0, f64::NAN));
        for text in ["max_forgetting = 3", "max_forgetting = \"5%\""] {
            let config: FinetuneConfig = toml::from_str(&format!("checkpoint = \"a\"\n{text}")).unwrap();
            let again: FinetuneConfig = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
            assert!(config.max_forgetting.is_some() && again == config);
        }
        assert!(toml::from_str::<FinetuneConfig>("checkpoint = \"a\"\nmax_forgetting = true").is_err());
    }

    #[test]
    fn a_run_ends_in_time() {
        let of =
            |patience, max_forgetting| Tuning { config: FinetuneConfig { patience, max_forgetting, ..config() }, lora: None, base: None };
        let kept = Verdict { may_be_kept: true, ends: None };
        assert_eq!(of(None, None).judge(Some((60.0, 600.0)), 100), kept);
        assert_eq!(of(Some(3), None).judge(None, 2), kept);
        let late = of(Some(3), None).judge(None, 3);
        assert!(late.may_be_kept && late.ends.unwrap().contains("3 epochs in a row"));
        let limit = Some(Forgetting::Percent(5.0));
        assert_eq!(of(None, limit).judge(Some((60.0, 62.9)), 0), kept);
        let forgot = of(None, limit).judge(Some((60.0, 63.1)), 0);
        assert!(!forgot.may_be_kept && forgot.ends.unwrap().contains("rose from 60.00 to 63.10, more than the allowed 5%"));
    }

    #[test]
    fn wrong_keys_are_named() {
        for (spoil, expected) in [
            (FinetuneConfig { layer_decay: 0.0, ..config() }, "finetune.layer_decay is 0"),
            (FinetuneConfig { layer_decay: 1.5, ..config() }, "finetune.layer_decay is 1.5"),
            (FinetuneConfig { replay: 1.0, ..config() }, "finetune.replay is 1"),
            (FinetuneConfig { patience: Some(0), ..config() }, "finetune.patience is 0"),
            (FinetuneConfig { lora: Some(LoraConfig { rank: 0, alpha: None, weights: vec![] }), ..config() }, "finetune.lora.rank is 0"),
        ] {
            assert!(spoil.validate().unwrap_err().to_string().contains(expected));
        }
        config().validate().unwrap();
    }

    struct Numbers {
        count: usize,
        first: f32,
    }

    impl SampleSource for Numbers {
        fn len(&self) -> usize {
            self.count
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
        fn sample(&self, _epoch: u64, index: usize) -> Result<Sample, DataError> {
            Ok(Sample { input: vec![self.first + index as f32; 51], label: vec![0.0; 51], truth: None })
        }
    }

    #[test]
    fn replay_walks_through_the_base_data() {
        let of = |count, first| Arc::new(Numbers { count, first });
        let mixed = Mixed::new(of(70, 0.0), of(90, 1000.0), 0.3).unwrap();
        assert_eq!(mixed.len(), 100);
        let number = |epoch, index| mixed.sample(epoch, index).unwrap().input[0];
        assert_eq!(number(0, 69), 69.0);
        let seen: std::collections::BTreeSet<u32> =
            (0..3).flat_map(|epoch| (70..100).map(move |i| (epoch, i))).map(|(e, i)| number(e, i) as u32).collect();
        assert_eq!(seen.len(), 90, "three epochs of 30 see each of 90 once");
        assert!(seen.iter().all(|&n| (1000..1090).contains(&n)));
        assert_eq!(Mixed::new(of(70, 0.0), of(90, 0.0), 0.0).unwrap().len(), 70);
    }
}
