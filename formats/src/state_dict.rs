//! The weights of a network by name.

use crate::{
    error::{Error, Result},
    tensor::Tensor,
    value::Value,
};

/// Where checkpoints keep their weights: official files under `model`, the original's under `model_state_dict`, others under `state_dict`.
const KEYS: [&str; 3] = ["model", "model_state_dict", "state_dict"];

/// An ordered map from a parameter's name to its tensor; the names without DataParallel's `module.`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateDict {
    entries: Vec<(String, Tensor)>,
}

impl StateDict {
    /// A state dict of these entries, in this order.
    pub fn new(entries: impl IntoIterator<Item = (String, Tensor)>) -> Self {
        Self { entries: entries.into_iter().collect() }
    }

    /// The weights in a checkpoint: under `model`, `model_state_dict` or `state_dict`, or the checkpoint itself where it is a
    /// dictionary of tensors. A component `module` anywhere in a name (DataParallel) is dropped.
    ///
    /// # Errors
    /// If there is no such dictionary, if it is empty, if one of its values is no tensor, or if two names become the same.
    pub fn from_checkpoint(checkpoint: &Value) -> Result<Self> {
        let (place, weights) = match KEYS.iter().find_map(|key| checkpoint.get(key).map(|v| (*key, v))) {
            Some(found) => found,
            None => ("checkpoint", checkpoint),
        };
        if let Value::Object { class, .. } = weights {
            return Err(Error::content(format!(
                "the {place} is a whole Python object ({class}), not its weights; save `model.state_dict()` in Python and load that file"
            )));
        }
        let entries = weights.entries();
        if entries.is_empty() || (place == "checkpoint" && !entries.iter().all(|(_, v)| matches!(v, Value::Tensor(_)))) {
            let mut found: Vec<_> =
                checkpoint.entries().iter().take(12).filter_map(|(k, _)| k.as_str()).map(|k| format!("'{k}'")).collect();
            if found.is_empty() {
                found.push(checkpoint.describe());
            }
            return Err(Error::content(format!(
                "holds no weights: expected a dictionary of tensors, or one under 'model', 'model_state_dict' or 'state_dict'; found {}",
                found.join(", ")
            )));
        }
        let mut seen = std::collections::HashSet::new();
        let mut result = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let (Some(key), Some(tensor)) = (key.as_str(), value.as_tensor()) else {
                return Err(Error::content(format!("expected a tensor by name in '{place}', found {} under {key:?}", value.describe())));
            };
            let name = key.split('.').filter(|part| *part != "module").collect::<Vec<_>>().join(".");
            if !seen.insert(name.clone()) {
                return Err(Error::content(format!("two weights are called {name} once DataParallel's 'module.' is dropped")));
            }
            result.push((name, tensor.clone()));
        }
        Ok(Self { entries: result })
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.entries.iter().find(|(n, _)| n == name).map(|(_, t)| t)
    }

    /// Names and tensors, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Tensor)> {
        self.entries.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The names, in order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.entries.iter().map(|(name, _)| name.as_str())
    }

    /// Adds a tensor at the end.
    pub fn push(&mut self, name: impl Into<String>, tensor: Tensor) {
        self.entries.push((name.into(), tensor));
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// As a dictionary, to be put under `model` in a checkpoint; [`crate::pth::write`] writes it as an `OrderedDict`.
    pub fn to_value(&self) -> Value {
        Value::dict(self.entries.iter().map(|(name, tensor)| (name.clone(), Value::Tensor(tensor.clone()))))
    }
}
