//! A moving average of the weights.

use anyhow::{Context as _, Result, ensure};
use formats::StateDict;
use tch::Tensor;

use crate::weights::{Store, to_file_tensor, to_torch};

/// `average = decay * average + (1 - decay) * weights` after each step. Early in a run the decay is smaller, (1 + n) / (10 + n)
/// after n updates, so that the first weights are soon forgotten.
pub struct Ema {
    decay: f64,
    updates: u64,
    average: Vec<Tensor>,
}

/// Name in a state dict of what is no weight.
const UPDATES: &str = "updates";

impl Ema {
    /// Starts from the weights as they are.
    pub fn new(weights: &Store, decay: f64) -> Self {
        Self { decay, updates: 0, average: weights.parameters().map(|(_, tensor)| tensor.detach().copy()).collect() }
    }

    /// The decay.
    pub fn decay(&self) -> f64 {
        self.decay
    }

    /// One step was made.
    pub fn update(&mut self, weights: &Store) {
        let n = self.updates as f64;
        let decay = self.decay.min((1.0 + n) / (10.0 + n));
        self.updates += 1;
        tch::no_grad(|| {
            for (average, (_, weight)) in self.average.iter_mut().zip(weights.parameters()) {
                let _ = average.lerp_(&weight.detach(), 1.0 - decay);
            }
        });
    }

    /// Exchanges average and weights, in place.
    pub fn swap(&mut self, weights: &Store) {
        tch::no_grad(|| {
            for (average, (_, weight)) in self.average.iter_mut().zip(weights.parameters()) {
                let kept = weight.detach().copy();
                weight.shallow_clone().copy_(average);
                average.copy_(&kept);
            }
        });
    }

    /// The average by the weights' names.
    pub fn state_dict(&self, weights: &Store) -> StateDict {
        let named = weights.parameters().zip(&self.average).map(|((name, _), average)| (name.to_owned(), to_file_tensor(average)));
        let updates = (UPDATES.to_owned(), to_file_tensor(&Tensor::from(self.updates as i64)));
        StateDict::new(named.chain([updates]))
    }

    /// Takes over what [`Self::state_dict`] made.
    ///
    /// # Errors
    /// A weight that is missing or of another size.
    pub fn load(&mut self, weights: &Store, state: &StateDict) -> Result<()> {
        for ((name, weight), average) in weights.parameters().zip(&mut self.average) {
            let saved = state.get(name).with_context(|| format!("the saved average has no weight `{name}`"))?;
            ensure!(
                saved.len() == weight.numel(),
                "the saved average of `{name}` has shape {:?}, expected {:?}",
                saved.shape,
                weight.size()
            );
            average.copy_(&to_torch(saved, weight.kind()).reshape(weight.size()));
        }
        self.updates = state.get(UPDATES).and_then(|t| t.to_i64().first().copied()).unwrap_or_default() as u64;
        Ok(())
    }
}
