//! Adam and AdamW over a model's parameters, saved in PyTorch's layout.

use anyhow::{Context as _, Result, bail, ensure};
use formats::Value;
use poselift_scan_torch::{AdamSettings, AdamState, WeightDecay, fused_adam_step};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::weights::{Store, to_file_tensor, to_torch};

/// Which of the two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimiserKind {
    /// Decoupled weight decay (Loshchilov and Hutter, 2019).
    #[default]
    AdamW,
    /// Weight decay added to the gradient.
    Adam,
}

/// Settings of the optimiser. The defaults are the official recipe.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimiserConfig {
    /// AdamW or Adam.
    pub kind: OptimiserKind,
    /// Decay of the first and second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Strength of the weight decay.
    pub weight_decay: f64,
    /// Keep the largest second moment.
    pub amsgrad: bool,
}

impl Default for OptimiserConfig {
    fn default() -> Self {
        Self { kind: OptimiserKind::AdamW, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01, amsgrad: false }
    }
}

/// The optimiser with its state.
pub struct Optimiser {
    config: OptimiserConfig,
    parameters: Vec<Tensor>,
    state: AdamState,
}

impl Optimiser {
    /// A fresh state for every parameter of a model.
    pub fn new(weights: &Store, config: OptimiserConfig) -> Self {
        let parameters: Vec<Tensor> = weights.parameters().map(|(_, tensor)| tensor.shallow_clone()).collect();
        let state = AdamState::new(&parameters, config.amsgrad);
        Self { config, parameters, state }
    }

    /// Forgets all gradients.
    pub fn zero_grad(&mut self) {
        for parameter in &mut self.parameters {
            parameter.zero_grad();
        }
    }

    /// Norm of all gradients together.
    pub fn gradient_norm(&self) -> f64 {
        let norms: Vec<Tensor> = self.parameters.iter().map(Tensor::grad).filter(Tensor::defined).map(|g| g.norm()).collect();
        if norms.is_empty() { 0.0 } else { Tensor::stack(&norms, 0).norm().double_value(&[]) }
    }

    /// Scales all gradients together so that their norm is at most `max_norm`; returns the norm before. Directions stay.
    pub fn clip_gradients(&mut self, max_norm: f64) -> f64 {
        let norm = self.gradient_norm();
        if norm > max_norm {
            for gradient in self.parameters.iter().map(Tensor::grad).filter(Tensor::defined) {
                let _ = tch::no_grad(|| gradient.shallow_clone().g_mul_scalar_(max_norm / norm));
            }
        }
        norm
    }

    /// One step with the gradients that are there. A parameter without a gradient is left alone.
    ///
    /// # Errors
    /// libtorch's, in its words.
    pub fn step(&mut self, lr: f64) -> Result<()> {
        let decay = match self.config.kind {
            OptimiserKind::AdamW => WeightDecay::Decoupled,
            OptimiserKind::Adam => WeightDecay::L2,
        };
        let [beta1, beta2] = self.config.betas;
        let settings = AdamSettings { lr, betas: (beta1, beta2), eps: self.config.eps, weight_decay: self.config.weight_decay, decay };
        fused_adam_step(&self.parameters, &mut self.state, &settings).context("the optimiser's step failed")
    }

    /// `torch.optim.AdamW.state_dict()`: `load_state_dict` of PyTorch takes it.
    pub fn state_dict(&self, lr: f64) -> Value {
        let saved = |tensor: &Tensor| Value::Tensor(to_file_tensor(tensor));
        let stepped = (0..self.parameters.len()).filter(|&i| self.state.step[i].double_value(&[]) > 0.0);
        let state = stepped.map(|i| {
            let mut entry = vec![
                ("step", saved(&self.state.step[i])),
                ("exp_avg", saved(&self.state.exp_avg[i])),
                ("exp_avg_sq", saved(&self.state.exp_avg_sq[i])),
            ];
            if let Some(largest) = &self.state.max_exp_avg_sq {
                entry.push(("max_exp_avg_sq", saved(&largest[i])));
            }
            (Value::Int(i as i64), Value::dict(entry))
        });
        let OptimiserConfig { kind, betas: [beta1, beta2], eps, weight_decay, amsgrad } = self.config;
        let group = Value::dict([
            ("lr", Value::Float(lr)),
            ("betas", Value::Tuple(vec![Value::Float(beta1), Value::Float(beta2)])),
            ("eps", Value::Float(eps)),
            ("weight_decay", Value::Float(weight_decay)),
            ("amsgrad", Value::Bool(amsgrad)),
            ("maximize", Value::Bool(false)),
            ("foreach", Value::None),
            ("capturable", Value::Bool(false)),
            ("differentiable", Value::Bool(false)),
            ("fused", Value::None),
            ("decoupled_weight_decay", Value::Bool(kind == OptimiserKind::AdamW)),
            ("params", Value::List((0..self.parameters.len()).map(|i| Value::Int(i as i64)).collect())),
        ]);
        Value::dict([("state", Value::Dict(state.collect())), ("param_groups", Value::List(vec![group]))])
    }

    /// Takes over what [`Self::state_dict`], or PyTorch's optimiser, saved.
    ///
    /// # Errors
    /// A state of another number of parameters or of other shapes.
    pub fn load_state_dict(&mut self, saved: &Value) -> Result<()> {
        let groups = saved.get("param_groups").and_then(Value::items).context("the checkpoint's optimiser has no `param_groups`")?;
        let count: usize = groups.iter().filter_map(|g| g.get("params").and_then(Value::items).map(<[Value]>::len)).sum();
        ensure!(
            count == self.parameters.len(),
            "the checkpoint's optimiser knows {count} parameters, but the model has {}: it belongs to another architecture",
            self.parameters.len()
        );
        let entries = saved.get("state").context("the checkpoint's optimiser has no `state`")?.entries();
        for (key, entry) in entries {
            let index = key.as_i64().and_then(|i| usize::try_from(i).ok()).filter(|&i| i < count);
            let Some(i) = index else { bail!("the checkpoint's optimiser has a state for parameter {key:?}, expected 0 to {}", count - 1) };
            let take = |name: &str, into: &Tensor| -> Result<()> {
                let value = match entry.get(name) {
                    Some(Value::Tensor(tensor)) => to_torch(tensor, Kind::Float),
                    Some(value) if value.as_f64().is_some() => Tensor::from(value.as_f64().unwrap_or_default()).to_kind(Kind::Float),
                    _ => bail!("the checkpoint's optimiser has no `{name}` for parameter {i}"),
                };
                ensure!(
                    value.numel() == into.numel(),
                    "`{name}` of parameter {i} in the checkpoint's optimiser has shape {:?}, expected {:?}",
                    value.size(),
                    into.size()
                );
                tch::no_grad(|| into.shallow_clone().copy_(&value.reshape(into.size())));
                Ok(())
            };
            take("step", &self.state.step[i])?;
            take("exp_avg", &self.state.exp_avg[i])?;
            take("exp_avg_sq", &self.state.exp_avg_sq[i])?;
            if let Some(largest) = &self.state.max_exp_avg_sq {
                take("max_exp_avg_sq", &largest[i])?;
            }
        }
        Ok(())
    }
}
