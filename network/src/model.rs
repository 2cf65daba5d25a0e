//! Any lifter: its family's configuration, its layers.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use crate::{ConfigError, Context, LifterConfig, LiveConfig, LiveLifter, MotionAgFormer, Tensor, WeightError, Weights};

/// What shapes a lifter of any family. In files, `family = "live"` names the live one; without that key it is MotionAGFormer's.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelConfig {
    /// Windows, seen in both directions.
    MotionAgFormer(LifterConfig),
    /// Causal.
    Live(LiveConfig),
}

impl ModelConfig {
    /// Whether such a model can be built.
    ///
    /// # Errors
    /// Names the first key that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        match self {
            Self::MotionAgFormer(config) => config.validate(),
            Self::Live(config) => config.validate(),
        }
    }

    /// 3 (x, y, confidence) or 2 (x, y).
    #[must_use]
    pub fn dim_in(&self) -> usize {
        match self {
            Self::MotionAgFormer(config) => config.dim_in,
            Self::Live(config) => config.dim_in,
        }
    }

    /// Frames of a window; `None` for a family that takes any number.
    #[must_use]
    pub fn window(&self) -> Option<usize> {
        match self {
            Self::MotionAgFormer(config) => Some(config.n_frames),
            Self::Live(_) => None,
        }
    }

    /// The configuration, of a model of windows.
    #[must_use]
    pub fn windowed(&self) -> Option<&LifterConfig> {
        match self {
            Self::MotionAgFormer(config) => Some(config),
            Self::Live(_) => None,
        }
    }

    /// The configuration, of the live family.
    #[must_use]
    pub fn live(&self) -> Option<&LiveConfig> {
        match self {
            Self::MotionAgFormer(_) => None,
            Self::Live(config) => Some(config),
        }
    }

    /// Name of the architecture, for people and for a model's metadata.
    #[must_use]
    pub fn architecture(&self) -> &'static str {
        match self {
            Self::MotionAgFormer(config) => config.architecture(),
            Self::Live(_) => "live (attention and graph within the frame, causal Mamba over time)",
        }
    }

    /// Whether a top-k graph makes the model discontinuous in its input.
    #[must_use]
    pub fn has_top_k_graph(&self) -> bool {
        match self {
            Self::MotionAgFormer(config) => config.has_top_k_graph(),
            Self::Live(_) => false,
        }
    }
}

impl From<LifterConfig> for ModelConfig {
    fn from(config: LifterConfig) -> Self {
        Self::MotionAgFormer(config)
    }
}

impl From<LiveConfig> for ModelConfig {
    fn from(config: LiveConfig) -> Self {
        Self::Live(config)
    }
}

impl Serialize for ModelConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::MotionAgFormer(config) => config.serialize(serializer),
            Self::Live(config) => {
                let mut table = toml::Table::try_from(config).map_err(ser::Error::custom)?;
                let (key, family) = LiveConfig::FAMILY;
                table.insert(key.into(), family.into());
                table.serialize(serializer)
            }
        }
    }
}

impl<'de> Deserialize<'de> for ModelConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut table = toml::Table::deserialize(deserializer)?;
        let (key, live) = LiveConfig::FAMILY;
        let told = |error: toml::de::Error| de::Error::custom(error.message());
        match table.remove(key) {
            None => table.try_into().map(Self::MotionAgFormer).map_err(told),
            Some(family) if family.as_str() == Some(live) => table.try_into().map(Self::Live).map_err(told),
            Some(family) => Err(de::Error::custom(format!("family = {family}: expected \"{live}\", or no such key for MotionAGFormer"))),
        }
    }
}

/// A lifter of any family.
pub enum Lifter<T> {
    /// Windows, seen in both directions.
    MotionAgFormer(MotionAgFormer<T>),
    /// Causal.
    Live(LiveLifter<T>),
}

impl<T> Lifter<T> {
    /// Asks `weights` for every tensor of the state dict.
    ///
    /// # Errors
    /// [`WeightError`] for the first one that is missing or of another shape.
    pub fn new(weights: &Weights<'_, T>, config: &ModelConfig) -> Result<Self, WeightError> {
        Ok(match config {
            ModelConfig::MotionAgFormer(config) => Self::MotionAgFormer(MotionAgFormer::new(weights, config)?),
            ModelConfig::Live(config) => Self::Live(LiveLifter::new(weights, config)?),
        })
    }
}

impl<T: Tensor> Lifter<T> {
    /// x (B, T, J, dim_in) in normalised image units -> (B, T, J, 3): 2.5D, see `pose::world`. Of the live family, a whole sequence, and
    /// x, y and z for each of its look-aheads: see [`LiveLifter::forward`].
    #[track_caller]
    pub fn forward(&self, x: &T, context: &Context) -> T {
        match self {
            Self::MotionAgFormer(lifter) => lifter.forward(x, context),
            Self::Live(lifter) => lifter.forward(x, None, context).0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_names_its_family() {
        for config in [ModelConfig::from(LifterConfig::xs()), LiveConfig { look_aheads: vec![0, 2, 4], ..LiveConfig::xs() }.into()] {
            let text = toml::to_string(&config).unwrap();
            assert_eq!(text.contains("family = \"live\""), config.live().is_some());
            assert_eq!(toml::from_str::<ModelConfig>(&text).unwrap(), config);
        }
        let refused = |text: &str| toml::from_str::<ModelConfig>(text).unwrap_err().message().to_owned();
        assert!(refused("family = \"dead\"").contains("expected \"live\""));
        assert!(refused("family = \"live\"\nn_layer = 3").starts_with("unknown field `n_layer`"));
        assert!(refused("n_layer = 3").starts_with("unknown field `n_layer`"));
    }

    #[test]
    fn look_aheads_rise() {
        let of = |look_aheads: &[usize]| LiveConfig { look_aheads: look_aheads.to_vec(), ..LiveConfig::xs() }.validate();
        assert!(of(&[0]).is_ok() && of(&[2, 4]).is_ok());
        assert!(of(&[]).is_err() && of(&[4, 2]).is_err() && of(&[1, 1]).is_err() && of(&[1025]).is_err());
    }
}
