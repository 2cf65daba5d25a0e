//! Low-rank adaptation of linear layers (LoRA, Hu et al., 2021): `W = W0 + alpha / rank * B A`, of which A (rank, in) and B (out, rank) are
//! trained.
//!
//! The layers keep computing with W itself: before each step it is set to the sum, and its gradient is passed on to A and B by the chain
//! rule. So the model is merged at any time, what is saved needs no merging, and nothing else has to know of adapters.

use anyhow::{Context as _, Result, ensure};
use formats::{StateDict, Value};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::{
    tuning::matches,
    weights::{Role, Store, to_file_tensor, to_torch},
};

/// Which layers are adapted, and how strongly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank of the change of each weight.
    pub rank: usize,
    /// The change is scaled by `alpha / rank`; the rank itself when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Names of the weights, `*` for any characters; all linear layers within `layers` when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<String>,
}

impl LoraConfig {
    /// # Errors
    /// A rank or an alpha out of range.
    pub fn validate(&self) -> Result<()> {
        ensure!((1..=1024).contains(&self.rank), "finetune.lora.rank is {}: expected 1 to 1024, such as 8", self.rank);
        if let Some(alpha) = self.alpha {
            ensure!(alpha > 0.0 && alpha.is_finite(), "finetune.lora.alpha is {alpha}: expected a number above 0");
        }
        Ok(())
    }

    fn chooses(&self, name: &str) -> bool {
        if self.weights.is_empty() { name.starts_with("layers.") } else { self.weights.iter().any(|pattern| matches(pattern, name)) }
    }
}

/// One adapted weight.
struct Adapted {
    name: String,
    /// The layer's own weight (out, in).
    merged: Tensor,
    /// W0.
    base: Tensor,
    /// (rank, in).
    a: Tensor,
    /// (out, rank).
    b: Tensor,
}

/// The adapters of a model.
pub struct Lora {
    scale: f64,
    adapted: Vec<Adapted>,
}

/// Suffixes of the saved tensors of a weight, PEFT's names and W0.
const A: &str = "lora_A";
const B: &str = "lora_B";
const BASE: &str = "base";

impl Lora {
    /// Adapters of the linear layers of a model: A drawn as PyTorch draws a linear layer's weight, B zero, so that nothing changes at first.
    /// Reseeds libtorch's generator.
    ///
    /// # Errors
    /// No weight is chosen.
    pub fn new(weights: &Store, config: &LoraConfig, seed: u64) -> Result<Self> {
        config.validate()?;
        tch::manual_seed(seed as i64);
        // A_log of a Mamba has two axes too, but is no linear map; it is not called `weight`
        let linear = |(name, tensor): &(&str, &Tensor)| name.ends_with(".weight") && tensor.dim() == 2 && config.chooses(name);
        let adapt = |(name, tensor): (&str, &Tensor)| {
            let (outputs, inputs) = (tensor.size()[0], tensor.size()[1]);
            let options = (Kind::Float, tensor.device());
            let bound = 1.0 / (inputs as f64).sqrt();
            let a = Tensor::empty([config.rank as i64, inputs], options).uniform_(-bound, bound);
            Adapted {
                name: name.to_owned(),
                merged: tensor.shallow_clone(),
                base: tensor.detach().copy(),
                a: a.set_requires_grad(true),
                b: Tensor::zeros([outputs, config.rank as i64], options).set_requires_grad(true),
            }
        };
        let adapted: Vec<Adapted> = weights.parameters().filter(linear).map(adapt).collect();
        ensure!(
            !adapted.is_empty(),
            "finetune.lora.weights {:?} names no linear layer's weight that is not frozen: expected names such as layers.*.mlp.fc1.weight",
            config.weights
        );
        Ok(Self { scale: config.alpha.unwrap_or(config.rank as f64) / config.rank as f64, adapted })
    }

    /// Names of the adapted weights.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.adapted.iter().map(|adapted| adapted.name.as_str())
    }

    /// A and B of each adapted weight, with its name.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.adapted.iter().flat_map(|adapted| [(adapted.name.as_str(), &adapted.a), (adapted.name.as_str(), &adapted.b)])
    }

    /// Forgets the gradients of the adapted weights; those of A and B are the optimiser's.
    pub fn zero_grad(&mut self) {
        self.adapted.iter_mut().for_each(|adapted| adapted.merged.zero_grad());
    }

    /// Passes the gradients of the adapted weights on to A and B.
    pub fn pass_gradients(&self) {
        for adapted in &self.adapted {
            let gradient = adapted.merged.grad();
            if gradient.defined() {
                // the derivative of sum(G * W(A, B)) is the chain rule for G = dL/dW
                (adapted.sum(self.scale) * gradient).sum(Kind::Float).backward();
            }
        }
    }

    /// Puts the sums into the layers' weights.
    pub fn merge(&self) {
        tch::no_grad(|| self.adapted.iter().for_each(|adapted| adapted.merged.shallow_clone().copy_(&adapted.sum(self.scale))));
    }

    /// Adapters and what they were added to, for an exact resume.
    pub fn state_dict(&self) -> StateDict {
        let of = |adapted: &Adapted| {
            [(A, &adapted.a), (B, &adapted.b), (BASE, &adapted.base)]
                .map(|(part, tensor)| (format!("{}.{part}", adapted.name), to_file_tensor(tensor)))
        };
        StateDict::new(self.adapted.iter().flat_map(of))
    }

    /// Takes over what [`Self::state_dict`] made, and merges.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(&self, saved: &Value) -> Result<()> {
        let state = StateDict::from_checkpoint(saved)?;
        for adapted in &self.adapted {
            for (part, into) in [(A, &adapted.a), (B, &adapted.b), (BASE, &adapted.base)] {
                let name = format!("{}.{part}", adapted.name);
                let value = state.get(&name).with_context(|| format!("the run that is to be resumed has no adapter `{name}`"))?;
                let shape: Vec<usize> = into.size().iter().map(|&n| n as usize).collect();
                ensure!(value.shape == shape, "the adapter `{name}` has shape {:?}, expected {shape:?}: another rank", value.shape);
                tch::no_grad(|| into.shallow_clone().copy_(&to_torch(value, Kind::Float)));
            }
        }
        self.merge();
        Ok(())
    }

    /// Makes every parameter but the adapted weights frozen.
    pub fn freeze_others(&self, weights: &mut Store) {
        let adapted: Vec<String> = self.names().map(str::to_owned).collect();
        weights.freeze(|name| !adapted.iter().any(|a| a == name));
    }
}

impl Adapted {
    /// W0 + scale * B A.
    fn sum(&self, scale: f64) -> Tensor {
        &self.base + self.b.matmul(&self.a) * scale
    }
}

/// Values that are trained, out of all values of the parameters, frozen ones included.
pub fn share_trained(weights: &Store, trained: &[Tensor]) -> (usize, usize) {
    let parameters = weights.entries().iter().filter(|entry| matches!(entry.role, Role::Parameter | Role::Frozen));
    (trained.iter().map(Tensor::numel).sum(), parameters.map(|entry| entry.tensor.numel()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{Drawing, with_new};
    use network::{Init, WeightError};
    use tch::Device;

    /// (32, 24), a linear layer; (24), no linear layer; (24, 4), none either.
    fn store() -> Store {
        let make = |w: &network::Weights<'_, crate::tensor::Eager>| -> Result<(), WeightError> {
            let layer = w.at("layers").at(0);
            layer.at("fc").parameter("weight", &[32, 24], Init::fan_in(24))?;
            layer.at("norm").parameter("weight", &[24], Init::Constant(1.0))?;
            layer.parameter("A_log", &[24, 4], Init::LogArange)?;
            w.at("head").parameter("weight", &[3, 32], Init::fan_in(32))?;
            Ok(())
        };
        with_new(Drawing { seed: 3, layer_scale: None }, Kind::Float, Device::Cpu, make).unwrap().1
    }

    fn config(rank: usize) -> LoraConfig {
        LoraConfig { rank, alpha: Some(16.0), weights: Vec::new() }
    }

    fn difference(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    #[test]
    fn merged_is_applied() {
        let weights = store();
        let lora = Lora::new(&weights, &config(4), 0).unwrap();
        assert_eq!(lora.names().collect::<Vec<_>>(), ["layers.0.fc.weight"]);
        let adapted = &lora.adapted[0];
        let before = adapted.merged.detach().copy();
        lora.merge();
        assert_eq!(difference(&before, &adapted.merged.detach()), 0.0, "B is zero: nothing changes at first");
        let _ = tch::no_grad(|| adapted.b.shallow_clone().normal_(0.0, 0.05));
        lora.merge();
        let x = Tensor::randn([7, 24], (Kind::Float, Device::Cpu));
        let merged = x.matmul(&adapted.merged.detach().transpose(0, 1));
        let applied = x.matmul(&before.transpose(0, 1))
            + x.matmul(&adapted.a.detach().transpose(0, 1)).matmul(&adapted.b.detach().transpose(0, 1)) * 4.0;
        assert!(difference(&merged, &applied) < 1e-5 && difference(&merged, &x.matmul(&before.transpose(0, 1))) > 0.1);
        // relative to the values' size, the tolerance is 1e-6
        assert!(difference(&merged, &applied) < 1e-6 * applied.abs().max().double_value(&[]).max(1.0) * 4.0);
    }

    #[test]
    fn gradients_are_those_of_the_applied_form() {
        let weights = store();
        let mut lora = Lora::new(&weights, &config(4), 0).unwrap();
        let _ = tch::no_grad(|| lora.adapted[0].b.shallow_clone().normal_(0.0, 0.05));
        lora.merge();
        let x = Tensor::randn([7, 24], (Kind::Float, Device::Cpu));
        lora.zero_grad();
        x.matmul(&lora.adapted[0].merged.transpose(0, 1)).tanh().sum(Kind::Float).backward();
        lora.pass_gradients();
        let adapted = &lora.adapted[0];
        let [a, b] = [&adapted.a, &adapted.b].map(|t| t.detach().copy().set_requires_grad(true));
        let y = x.matmul(&adapted.base.transpose(0, 1)) + x.matmul(&a.transpose(0, 1)).matmul(&b.transpose(0, 1)) * 4.0;
        y.tanh().sum(Kind::Float).backward();
        assert!(difference(&adapted.a.grad(), &a.grad()) < 1e-5 && difference(&adapted.b.grad(), &b.grad()) < 1e-5);
    }

    #[test]
    fn the_rest_is_frozen_and_patterns_choose() {
        let mut weights = store();
        let lora = Lora::new(&weights, &config(2), 0).unwrap();
        lora.freeze_others(&mut weights);
        assert_eq!(weights.parameters().map(|(name, _)| name.to_owned()).collect::<Vec<_>>(), ["layers.0.fc.weight"]);
        let trained: Vec<Tensor> = lora.parameters().map(|(_, tensor)| tensor.shallow_clone()).collect();
        assert_eq!(share_trained(&weights, &trained), (2 * (32 + 24), 32 * 24 + 24 + 96 + 96));
        let of = |patterns: &[&str]| LoraConfig { weights: patterns.iter().map(|p| (*p).to_owned()).collect(), ..config(2) };
        let weights = store();
        assert_eq!(Lora::new(&weights, &of(&["head*"]), 0).unwrap().names().collect::<Vec<_>>(), ["head.weight"]);
        for wrong in [of(&["haed*"]), of(&["*A_log"]), config(0), LoraConfig { alpha: Some(-1.0), ..config(2) }] {
            assert!(Lora::new(&weights, &wrong, 0).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn adapters_survive_a_file() {
        let weights = store();
        let lora = Lora::new(&weights, &config(4), 0).unwrap();
        let _ = tch::no_grad(|| lora.adapted[0].b.shallow_clone().normal_(0.0, 0.05));
        lora.merge();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lora.pth");
        formats::pth::write(&path, &lora.state_dict().to_value()).unwrap();
        let saved = formats::pth::read(&path).unwrap();
        let other = store();
        let resumed = Lora::new(&other, &config(4), 99).unwrap();
        resumed.load(&saved).unwrap();
        assert_eq!(difference(&lora.adapted[0].merged.detach(), &resumed.adapted[0].merged.detach()), 0.0);
        let error = Lora::new(&other, &config(2), 0).unwrap().load(&saved).unwrap_err().to_string();
        assert!(error.contains("another rank"), "{error}");
    }
}
