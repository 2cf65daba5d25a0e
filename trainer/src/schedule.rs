//! Learning rate over a run.

use serde::{Deserialize, Serialize};

/// How the learning rate changes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// Always the same.
    Constant,
    /// Times `factor` after every `epochs` epochs: the official recipe has 0.99 after each. PyTorch's StepLR(3, 0.9) is 0.9 after 3; `step`
    /// is another name for it.
    #[serde(alias = "step")]
    Exponential {
        /// What it is multiplied with.
        factor: f64,
        /// How often, in epochs.
        #[serde(default = "one_epoch")]
        epochs: u64,
    },
    /// Half a cosine from the peak down to `final_ratio` of it at the end of the run, after a linear rise.
    Cosine {
        /// Optimiser steps of the rise.
        #[serde(default)]
        warm_up_steps: u64,
        /// Last learning rate over the peak.
        #[serde(default)]
        final_ratio: f64,
    },
}

const fn one_epoch() -> u64 {
    1
}

impl Default for Schedule {
    fn default() -> Self {
        Self::Exponential { factor: 0.99, epochs: 1 }
    }
}

impl Schedule {
    /// Factor on the peak learning rate for optimiser step `step` (from 0) in `epoch` (from 0), when `progress` (0 to 1)
    /// of the run is done.
    pub fn factor(&self, step: u64, epoch: u64, progress: f64) -> f64 {
        match *self {
            Self::Constant => 1.0,
            Self::Exponential { factor, epochs } => factor.powf((epoch / epochs.max(1)) as f64),
            Self::Cosine { warm_up_steps, final_ratio } => {
                let rise = ((step + 1) as f64 / warm_up_steps.max(1) as f64).min(1.0);
                let fall = 0.5 * (1.0 + (std::f64::consts::PI * progress.clamp(0.0, 1.0)).cos());
                rise * (final_ratio + (1.0 - final_ratio) * fall)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_rises_and_falls() {
        let cosine = Schedule::Cosine { warm_up_steps: 10, final_ratio: 0.01 };
        assert_eq!(cosine.factor(0, 0, 0.0), 0.1);
        assert_eq!(cosine.factor(9, 0, 0.0), 1.0);
        assert!((cosine.factor(60, 3, 0.5) - 0.505).abs() < 1e-12);
        assert!((cosine.factor(110, 5, 1.0) - 0.01).abs() < 1e-12);
        assert!((cosine.factor(200, 9, 2.0) - 0.01).abs() < 1e-12, "a run that goes on stays low");
    }

    #[test]
    fn exponential_is_by_epoch() {
        let official = Schedule::default();
        assert!((official.factor(12345, 2, 0.5) - 0.9801).abs() < 1e-12);
        let step_lr = Schedule::Exponential { factor: 0.9, epochs: 3 };
        assert_eq!(step_lr.factor(0, 2, 0.0), 1.0);
        assert_eq!(step_lr.factor(0, 3, 0.0), 0.9);
    }
}
