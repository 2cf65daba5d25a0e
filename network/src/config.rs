//! What shapes and runs a lifter, by the keys that the reference's own configuration files use.

use serde::{Deserialize, Serialize};

use crate::skeleton::JOINTS;

/// Activation of the feed-forward blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// Exact (erf) GELU.
    #[default]
    Gelu,
    /// max(x, 0).
    Relu,
}

/// Which mixer stands in the Mamba branch. A state dict does not tell: both have the same weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MambaForm {
    /// The true selective scan.
    #[default]
    Selective,
    /// The original repository's shortcut, for files that were trained with it.
    GlobalMean,
}

impl std::fmt::Display for MambaForm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Selective => "selective",
            Self::GlobalMean => "global-mean",
        })
    }
}

/// The third branch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MambaGcnConfig {
    /// Form of the mixer.
    #[serde(default)]
    pub mamba: MambaForm,
    /// Attention over time inside MambaGCN (the "full" variant).
    #[serde(default)]
    pub use_attention: bool,
    /// States N of the scan.
    #[serde(default = "MambaGcnConfig::d_state")]
    pub d_state: usize,
    /// Kernel of the causal convolution, frames.
    #[serde(default = "MambaGcnConfig::d_conv")]
    pub d_conv: usize,
    /// Dropout inside MambaGCN, in training.
    #[serde(default = "MambaGcnConfig::dropout")]
    pub dropout: f64,
}

impl MambaGcnConfig {
    const fn d_state() -> usize {
        16
    }
    const fn d_conv() -> usize {
        4
    }
    const fn dropout() -> f64 {
        0.1
    }
}

impl Default for MambaGcnConfig {
    fn default() -> Self {
        Self { mamba: MambaForm::Selective, use_attention: false, d_state: 16, d_conv: 4, dropout: 0.1 }
    }
}

/// A lifter of the MotionAGFormer family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LifterConfig {
    /// Layers.
    pub n_layers: usize,
    /// 3 (x, y, confidence) or 2 (x, y).
    pub dim_in: usize,
    /// Channels C.
    pub dim_feat: usize,
    /// Channels before the head.
    pub dim_rep: usize,
    /// 3: x, y, z.
    #[serde(default = "LifterConfig::dim_out")]
    pub dim_out: usize,
    /// Hidden size of the feed-forward blocks over C.
    #[serde(default = "LifterConfig::mlp_ratio")]
    pub mlp_ratio: usize,
    /// Heads of the attention blocks.
    pub num_heads: usize,
    /// Neighbours k of the temporal graph.
    pub neighbour_num: usize,
    /// Frames T of a window: fixed by the batch normalisation of the temporal graph.
    pub n_frames: usize,
    /// Joints J: 17.
    #[serde(default = "LifterConfig::num_joints")]
    pub num_joints: usize,
    /// Activation of the feed-forward blocks.
    #[serde(default)]
    pub act_layer: Activation,
    /// The third branch, absent in the official model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mamba_gcn: Option<MambaGcnConfig>,
}

/// A configuration that no model can have.
#[derive(Debug, thiserror::Error)]
#[error("the configuration has {key} = {found}, expected {expected}")]
pub struct ConfigError {
    /// Which key.
    pub key: &'static str,
    /// Its value.
    pub found: String,
    /// What it may be.
    pub expected: String,
}

/// Whether `low <= value <= high`.
pub(crate) fn within(key: &'static str, value: usize, low: usize, high: usize) -> Result<(), ConfigError> {
    if (low..=high).contains(&value) {
        Ok(())
    } else {
        Err(ConfigError { key, found: value.to_string(), expected: format!("{low} to {high}") })
    }
}

impl LifterConfig {
    const fn dim_out() -> usize {
        3
    }
    const fn mlp_ratio() -> usize {
        4
    }
    const fn num_joints() -> usize {
        JOINTS
    }

    fn official(n_layers: usize, dim_feat: usize, n_frames: usize) -> Self {
        Self {
            n_layers,
            dim_in: 3,
            dim_feat,
            dim_rep: 512,
            dim_out: 3,
            mlp_ratio: 4,
            num_heads: 8,
            neighbour_num: 2,
            n_frames,
            num_joints: JOINTS,
            act_layer: Activation::Gelu,
            mamba_gcn: None,
        }
    }

    /// The official MotionAGFormer-XS: 27 frames, 2.2 M parameters.
    #[must_use]
    pub fn xs() -> Self {
        Self::official(12, 64, 27)
    }
    /// The official MotionAGFormer-S: 81 frames, 4.8 M parameters.
    #[must_use]
    pub fn small() -> Self {
        Self::official(26, 64, 81)
    }
    /// The official MotionAGFormer-B: 243 frames, 11.7 M parameters.
    #[must_use]
    pub fn base() -> Self {
        Self::official(16, 128, 243)
    }
    /// The official MotionAGFormer-L: 243 frames, 19.0 M parameters.
    #[must_use]
    pub fn large() -> Self {
        Self::official(26, 128, 243)
    }
    /// The 243-frame MotionAGFormer + MambaGCN of the original report, with the true scan: 16,247,251 parameters.
    #[must_use]
    pub fn mamba_gcn_base() -> Self {
        Self { dim_in: 2, num_heads: 4, neighbour_num: 4, mamba_gcn: Some(MambaGcnConfig::default()), ..Self::base() }
    }

    /// Whether a top-k graph makes the model discontinuous in its input.
    #[must_use]
    pub fn has_top_k_graph(&self) -> bool {
        true
    }

    /// Name of the architecture, for people and for a model's metadata.
    #[must_use]
    pub fn architecture(&self) -> &'static str {
        match &self.mamba_gcn {
            None => "MotionAGFormer",
            Some(MambaGcnConfig { mamba: MambaForm::Selective, .. }) => "MotionAGFormer+MambaGCN (selective scan)",
            Some(MambaGcnConfig { mamba: MambaForm::GlobalMean, .. }) => "MotionAGFormer+MambaGCN (global mean)",
        }
    }

    /// Whether such a model can be built, at sizes that no hostile file can make absurd.
    ///
    /// # Errors
    /// Names the first key that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        within("n_layers", self.n_layers, 1, 256)?;
        within("dim_in", self.dim_in, 2, 3)?;
        within("dim_feat", self.dim_feat, 4, 4096)?;
        within("dim_rep", self.dim_rep, 1, 16384)?;
        within("dim_out", self.dim_out, 3, 3)?;
        within("mlp_ratio", self.mlp_ratio, 1, 16)?;
        within("num_heads", self.num_heads, 1, self.dim_feat)?;
        within("n_frames", self.n_frames, 1, 4096)?;
        within("neighbour_num", self.neighbour_num, 1, self.n_frames)?;
        within("num_joints", self.num_joints, JOINTS, JOINTS)?;
        let divisible = |key, heads: usize| {
            if self.dim_feat.is_multiple_of(heads) {
                Ok(())
            } else {
                Err(ConfigError { key, found: heads.to_string(), expected: format!("a divisor of dim_feat ({})", self.dim_feat) })
            }
        };
        divisible("num_heads", self.num_heads)?;
        if let Some(mamba_gcn) = &self.mamba_gcn {
            within("d_state", mamba_gcn.d_state, 1, 256)?;
            within("d_conv", mamba_gcn.d_conv, 1, 64)?;
            if mamba_gcn.use_attention {
                divisible("heads of MambaGCN's attention", 8)?;
            }
            if !(0.0..1.0).contains(&mamba_gcn.dropout) {
                return Err(ConfigError { key: "dropout", found: mamba_gcn.dropout.to_string(), expected: "0 to below 1".into() });
            }
        }
        Ok(())
    }
}
