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

/// Parameters that share a learning rate.
#[derive(Debug)]
pub struct Group {
    /// Factor on the rate of the step.
    pub rate: f64,
    /// What is stepped.
    pub parameters: Vec<Tensor>,
}

/// The optimiser with its state.
pub struct Optimiser {
    config: OptimiserConfig,
    /// Parameters are numbered through all groups, in order, as PyTorch does it.
    groups: Vec<(Group, AdamState)>,
}

impl Optimiser {
    /// A fresh state for every parameter of a model, all at the rate of the step.
    pub fn new(weights: &Store, config: OptimiserConfig) -> Self {
        let parameters = weights.parameters().map(|(_, tensor)| tensor.shallow_clone()).collect();
        Self::of_groups(vec![Group { rate: 1.0, parameters }], config)
    }

    /// A fresh state for every parameter of some groups.
    pub fn of_groups(groups: Vec<Group>, config: OptimiserConfig) -> Self {
        let with_state = |group: Group| {
            let state = AdamState::new(&group.parameters, config.amsgrad);
            (group, state)
        };
        Self { config, groups: groups.into_iter().map(with_state).collect() }
    }

    fn parameters(&self) -> impl Iterator<Item = &Tensor> {
        self.groups.iter().flat_map(|(group, _)| &group.parameters)
    }

    /// What makes up its state, and what it steps: the same tensors for the same model, in the same order.
    pub fn tensors(&self) -> Vec<Tensor> {
        let of = |(group, state): &(Group, AdamState)| -> Vec<Tensor> {
            let largest = state.max_exp_avg_sq.iter().flatten();
            let all = group.parameters.iter().chain(&state.exp_avg).chain(&state.exp_avg_sq).chain(largest).chain(&state.step);
            all.map(Tensor::shallow_clone).collect()
        };
        self.groups.iter().flat_map(of).collect()
    }

    /// Number of parameters of all groups.
    pub fn len(&self) -> usize {
        self.parameters().count()
    }

    /// Whether there is nothing to step.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets all gradients.
    pub fn zero_grad(&mut self) {
        for parameter in self.groups.iter_mut().flat_map(|(group, _)| &mut group.parameters) {
            parameter.zero_grad();
        }
    }

    /// Norm of all gradients together.
    pub fn gradient_norm(&self) -> f64 {
        let norms: Vec<Tensor> = self.parameters().map(Tensor::grad).filter(Tensor::defined).map(|g| g.norm()).collect();
        if norms.is_empty() { 0.0 } else { Tensor::stack(&norms, 0).norm().double_value(&[]) }
    }

    /// Scales all gradients together so that their norm is at most `max_norm`; returns the norm before. Directions stay.
    pub fn clip_gradients(&mut self, max_norm: f64) -> f64 {
        let norm = self.gradient_norm();
        if norm > max_norm {
            for gradient in self.parameters().map(Tensor::grad).filter(Tensor::defined) {
                let _ = tch::no_grad(|| gradient.shallow_clone().g_mul_scalar_(max_norm / norm));
            }
        }
        norm
    }

    /// One step with the gradients that are there, at `lr` times the rate of each group. A parameter without a gradient is left alone.
    ///
    /// # Errors
    /// libtorch's, in its words.
    pub fn step(&mut self, lr: f64) -> Result<()> {
        let decay = match self.config.kind {
            OptimiserKind::AdamW => WeightDecay::Decoupled,
            OptimiserKind::Adam => WeightDecay::L2,
        };
        let [beta1, beta2] = self.config.betas;
        let OptimiserConfig { eps, weight_decay, .. } = self.config;
        for (group, state) in &mut self.groups {
            let settings = AdamSettings { lr: lr * group.rate, betas: (beta1, beta2), eps, weight_decay, decay };
            fused_adam_step(&group.parameters, state, &settings).context("the optimiser's step failed")?;
        }
        Ok(())
    }

    /// `torch.optim.AdamW.state_dict()`: `load_state_dict` of PyTorch takes it.
    pub fn state_dict(&self, lr: f64) -> Value {
        let saved = |tensor: &Tensor| Value::Tensor(to_file_tensor(tensor));
        let OptimiserConfig { kind, betas: [beta1, beta2], eps, weight_decay, amsgrad } = self.config;
        let (mut states, mut groups, mut number) = (Vec::new(), Vec::new(), 0);
        for (group, state) in &self.groups {
            let first = number;
            for i in 0..group.parameters.len() {
                if state.step[i].double_value(&[]) > 0.0 {
                    let mut entry = vec![
                        ("step", saved(&state.step[i])),
                        ("exp_avg", saved(&state.exp_avg[i])),
                        ("exp_avg_sq", saved(&state.exp_avg_sq[i])),
                    ];
                    if let Some(largest) = &state.max_exp_avg_sq {
                        entry.push(("max_exp_avg_sq", saved(&largest[i])));
                    }
                    states.push((Value::Int(number), Value::dict(entry)));
                }
                number += 1;
            }
            groups.push(Value::dict([
                ("lr", Value::Float(lr * group.rate)),
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
                ("params", Value::List((first..number).map(Value::Int).collect())),
            ]));
        }
        Value::dict([("state", Value::Dict(states)), ("param_groups", Value::List(groups))])
    }

    /// Takes over what [`Self::state_dict`], or PyTorch's optimiser, saved.
    ///
    /// # Errors
    /// A state of another number of parameters or of other shapes.
    pub fn load_state_dict(&mut self, saved: &Value) -> Result<()> {
        let groups = saved.get("param_groups").and_then(Value::items).context("the checkpoint's optimiser has no `param_groups`")?;
        let count: usize = groups.iter().filter_map(|g| g.get("params").and_then(Value::items).map(<[Value]>::len)).sum();
        ensure!(
            count == self.len(),
            "the checkpoint's optimiser knows {count} parameters, but {} are trained here: it belongs to another architecture or run",
            self.len()
        );
        let entries = saved.get("state").context("the checkpoint's optimiser has no `state`")?.entries();
        for (key, entry) in entries {
            let index = key.as_i64().and_then(|i| usize::try_from(i).ok()).filter(|&i| i < count);
            let Some(number) = index else {
                bail!("the checkpoint's optimiser has a state for parameter {key:?}, expected 0 to {}", count.saturating_sub(1))
            };
            let (state, i) = self.state_of(number).context("the checkpoint's optimiser has a parameter too many")?;
            let take = |name: &str, into: &Tensor| -> Result<()> {
                let value = match entry.get(name) {
                    Some(Value::Tensor(tensor)) => to_torch(tensor, Kind::Float),
                    Some(value) if value.as_f64().is_some() => Tensor::from(value.as_f64().unwrap_or_default()).to_kind(Kind::Float),
                    _ => bail!("the checkpoint's optimiser has no `{name}` for parameter {number}"),
                };
                ensure!(
                    value.numel() == into.numel(),
                    "`{name}` of parameter {number} in the checkpoint's optimiser has shape {:?}, expected {:?}",
                    value.size(),
                    into.size()
                );
                tch::no_grad(|| into.shallow_clone().copy_(&value.reshape(into.size())));
                Ok(())
            };
            take("step", &state.step[i])?;
            take("exp_avg", &state.exp_avg[i])?;
            take("exp_avg_sq", &state.exp_avg_sq[i])?;
            if let Some(largest) = &state.max_exp_avg_sq {
                take("max_exp_avg_sq", &largest[i])?;
            }
        }
        Ok(())
    }

    /// The state that holds parameter `number`, and its index there.
    fn state_of(&self, mut number: usize) -> Option<(&AdamState, usize)> {
        for (group, state) in &self.groups {
            if number < group.parameters.len() {
                return Some((state, number));
            }
            number -= group.parameters.len();
        }
        None
    }
}
