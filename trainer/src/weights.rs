//! Weights as libtorch tensors: drawn anew, or those of a checkpoint.

use std::{cell::RefCell, rc::Rc};

use formats::{Data, StateDict};
use network::{Init, WeightError, WeightSource, Weights};
use tch::{Device, Kind, Tensor};

use crate::tensor::Eager;

/// What a tensor of a state dict is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Trained.
    Parameter,
    /// A parameter that is kept as it is in fine-tuning: saved, not trained.
    Frozen,
    /// Saved, not trained.
    Buffer,
    /// Saved 64-bit count.
    Counter,
}

/// One tensor of a model.
#[derive(Debug)]
pub struct Entry {
    /// Path in the state dict.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Shared with the layer that computes with it; written in place only.
    pub tensor: Tensor,
}

/// Every saved tensor of a model, in the order of the reference's state dict.
#[derive(Debug, Default)]
pub struct Store {
    entries: Vec<Entry>,
}

impl Store {
    /// All entries, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Parameters with their names, in the order of an optimiser's state.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.entries.iter().filter(|e| e.role == Role::Parameter).map(|e| (e.name.as_str(), &e.tensor))
    }

    /// Makes the parameters of some names frozen; returns how many. Replicas that are made afterwards know it.
    pub fn freeze(&mut self, chosen: impl Fn(&str) -> bool) -> usize {
        let mut frozen = 0;
        for entry in self.entries.iter_mut().filter(|e| e.role == Role::Parameter) {
            if chosen(&entry.name) {
                entry.role = Role::Frozen;
                let _ = entry.tensor.set_requires_grad(false); // the layer's handle is the same tensor
                frozen += 1;
            }
        }
        frozen
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.entries.iter().find(|e| e.name == name).map(|e| &e.tensor)
    }

    /// Other handles on the same memory, outside of the graph: for another thread.
    pub fn alias(&self) -> Self {
        let entries = self.entries.iter().map(|e| Entry { name: e.name.clone(), role: e.role, tensor: e.tensor.detach() });
        Self { entries: entries.collect() }
    }

    /// A copy of every value, on the CPU: f32, counters i64.
    pub fn state_dict(&self) -> StateDict {
        StateDict::new(self.entries.iter().map(|e| (e.name.clone(), to_file_tensor(&e.tensor))))
    }

    /// Overwrites every value in place.
    ///
    /// # Errors
    /// The first weight that is missing or of another shape; nothing before it is undone.
    pub fn load(&self, state: &StateDict) -> Result<(), WeightError> {
        for entry in &self.entries {
            let shape: Vec<usize> = entry.tensor.size().iter().map(|&n| n as usize).collect();
            let value = find(state, &entry.name, &shape, entry.role)?;
            let value = value.map_or_else(|| Tensor::from(0i64), |value| to_torch(value, entry.tensor.kind()));
            tch::no_grad(|| entry.tensor.shallow_clone().copy_(&value.reshape(entry.tensor.size())));
        }
        Ok(())
    }
}

/// Copies a libtorch tensor into one that can be saved.
pub fn to_file_tensor(tensor: &Tensor) -> formats::Tensor {
    let shape: Vec<usize> = tensor.size().iter().map(|&n| n as usize).collect();
    let flat = tensor.detach().to_device(Device::Cpu).contiguous().reshape([-1]);
    let data = match tensor.kind() {
        Kind::Int64 => Data::I64(values(&flat)),
        Kind::Double => Data::F64(values(&flat)),
        _ => Data::F32(values(&flat.to_kind(Kind::Float))),
    };
    formats::Tensor { shape, data }
}

/// Values of a tensor of type `V` on the CPU, row-major.
pub fn values<V: tch::kind::Element + Default + Clone>(tensor: &Tensor) -> Vec<V> {
    let mut values = vec![V::default(); tensor.numel()];
    tensor.contiguous().copy_data(&mut values, tensor.numel());
    values
}

/// Copies a tensor of a file to libtorch, on the CPU.
pub fn to_torch(tensor: &formats::Tensor, kind: Kind) -> Tensor {
    let shape: Vec<i64> = tensor.shape.iter().map(|&n| n as i64).collect();
    let flat = match kind {
        Kind::Int64 => Tensor::from_slice(&tensor.to_i64()),
        Kind::Double => Tensor::from_slice(&tensor.to_f64()),
        _ => Tensor::from_slice(&tensor.to_f32()).to_kind(kind),
    };
    flat.reshape(shape)
}

/// The tensor of a state dict, checked. A counter may be absent, and may have one axis.
fn find<'a>(state: &'a StateDict, name: &str, shape: &[usize], role: Role) -> Result<Option<&'a formats::Tensor>, WeightError> {
    match state.get(name) {
        Some(tensor) if tensor.shape == shape || (role == Role::Counter && tensor.len() == 1) => Ok(Some(tensor)),
        Some(tensor) => Err(WeightError::Shape { name: name.into(), expected: shape.into(), found: tensor.shape.clone() }),
        None if role == Role::Counter => Ok(None),
        None => Err(WeightError::Missing { name: name.into(), expected: shape.into() }),
    }
}

/// How new weights are drawn.
#[derive(Clone, Copy, Debug)]
pub struct Drawing {
    /// Weights follow from it.
    pub seed: u64,
    /// First value of every `layer_scale_*`; the reference's 1e-5 when absent.
    pub layer_scale: Option<f64>,
}

/// Where the values come from.
enum Values<'a> {
    Drawn(Drawing),
    Loaded(&'a StateDict),
    /// Parameters are the store's own; buffers and counters are copies of its.
    Shared(&'a Store),
}

/// Makes tensors and keeps a handle on each.
struct Source<'a> {
    values: Values<'a>,
    kind: Kind,
    device: Device,
    store: Store,
}

impl Source<'_> {
    fn keep(&mut self, name: &str, role: Role, value: Tensor) -> Eager {
        let value = value.to_device(self.device);
        let tensor = if role == Role::Parameter { value.set_requires_grad(true) } else { value };
        let shared = tensor.shallow_clone();
        self.store.entries.push(Entry { name: name.into(), role, tensor });
        Eager(shared)
    }
}

/// An in-place draw by the rules of PyTorch's initialisers.
fn draw(shape: &[i64], init: Init, kind: Kind) -> Tensor {
    let options = (kind, Device::Cpu);
    match init {
        Init::Constant(value) => Tensor::full(shape, value, options),
        Init::Normal { std } => Tensor::empty(shape, options).normal_(0.0, std),
        Init::Uniform { bound } => Tensor::empty(shape, options).uniform_(-bound, bound),
        Init::LogArange => {
            let columns = shape.last().copied().unwrap_or(1);
            Tensor::arange_start(1, columns + 1, options).log().expand(shape, false).contiguous()
        }
        Init::InverseSoftplusLogUniform { min, max } => {
            let delta = Tensor::empty(shape, options).uniform_(min.ln(), max.ln()).exp();
            // softplus^-1(d) = d + ln(1 - e^-d)
            &delta + (-delta.neg().expm1()).log()
        }
    }
}

impl WeightSource<Eager> for Source<'_> {
    fn parameter(&mut self, name: &str, shape: &[usize], init: Init) -> Result<Eager, WeightError> {
        let value = match &self.values {
            Values::Drawn(drawing) => {
                let is_layer_scale = name.rsplit('.').next().is_some_and(|last| last.starts_with("layer_scale_"));
                let init = match drawing.layer_scale {
                    Some(value) if is_layer_scale => Init::Constant(value),
                    _ => init,
                };
                let shape: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
                draw(&shape, init, self.kind)
            }
            Values::Loaded(state) => match find(state, name, shape, Role::Parameter)? {
                Some(tensor) => to_torch(tensor, self.kind),
                None => return Err(WeightError::Missing { name: name.into(), expected: shape.into() }),
            },
            Values::Shared(store) => {
                let entry = shared(store, name, shape)?;
                let (role, value) = (entry.role, entry.tensor.detach());
                return Ok(self.keep(name, role, value));
            }
        };
        Ok(self.keep(name, Role::Parameter, value))
    }

    fn buffer(&mut self, name: &str, shape: &[usize], value: &[f32]) -> Result<Eager, WeightError> {
        let value = match &self.values {
            Values::Loaded(state) => match find(state, name, shape, Role::Buffer)? {
                Some(tensor) => to_torch(tensor, self.kind),
                None => return Err(WeightError::Missing { name: name.into(), expected: shape.into() }),
            },
            Values::Shared(store) => shared(store, name, shape)?.tensor.copy(),
            Values::Drawn(_) => constant(shape, value, self.kind),
        };
        Ok(self.keep(name, Role::Buffer, value))
    }

    fn counter(&mut self, name: &str) -> Result<Eager, WeightError> {
        let value = match &self.values {
            Values::Loaded(state) => find(state, name, &[], Role::Counter)?.and_then(|t| t.to_i64().first().copied()).unwrap_or(0),
            Values::Shared(store) => shared(store, name, &[])?.tensor.int64_value(&[]),
            Values::Drawn(_) => 0,
        };
        Ok(self.keep(name, Role::Counter, Tensor::from(value)))
    }

    fn constant(&mut self, shape: &[usize], value: &[f32]) -> Result<Eager, WeightError> {
        Ok(Eager(constant(shape, value, self.kind).to_device(self.device)))
    }
}

fn shared<'a>(store: &'a Store, name: &str, shape: &[usize]) -> Result<&'a Entry, WeightError> {
    store.entries.iter().find(|e| e.name == name).ok_or_else(|| WeightError::Missing { name: name.into(), expected: shape.into() })
}

fn constant(shape: &[usize], value: &[f32], kind: Kind) -> Tensor {
    let shape: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
    Tensor::from_slice(value).to_kind(kind).reshape(shape)
}

/// Runs `make` with a source of new weights (PyTorch's distributions, the same for the same seed) and returns what it
/// made with every tensor that it asked for. Reseeds libtorch's generator.
///
/// # Errors
/// Those of `make`.
pub fn with_new<M>(
    drawing: Drawing,
    kind: Kind,
    device: Device,
    make: impl FnOnce(&Weights<'_, Eager>) -> Result<M, WeightError>,
) -> Result<(M, Store), WeightError> {
    tch::manual_seed(drawing.seed as i64);
    with_source(Source { values: Values::Drawn(drawing), kind, device, store: Store::default() }, make)
}

/// The same with the weights of a file.
///
/// # Errors
/// Those of `make`: a weight is missing or of another shape.
pub fn with_loaded<M>(
    state: &StateDict,
    kind: Kind,
    device: Device,
    make: impl FnOnce(&Weights<'_, Eager>) -> Result<M, WeightError>,
) -> Result<(M, Store), WeightError> {
    with_source(Source { values: Values::Loaded(state), kind, device, store: Store::default() }, make)
}

/// The same on the parameters of another model, which stay shared: a step of one is a step of both. Buffers are copies.
///
/// # Errors
/// Those of `make`: a weight is missing.
pub fn with_shared<M>(
    store: &Store,
    kind: Kind,
    device: Device,
    make: impl FnOnce(&Weights<'_, Eager>) -> Result<M, WeightError>,
) -> Result<(M, Store), WeightError> {
    with_source(Source { values: Values::Shared(store), kind, device, store: Store::default() }, make)
}

fn with_source<M>(source: Source<'_>, make: impl FnOnce(&Weights<'_, Eager>) -> Result<M, WeightError>) -> Result<(M, Store), WeightError> {
    let source = Rc::new(RefCell::new(source));
    let made = make(&Weights::new(source.clone()))?;
    let store = std::mem::take(&mut source.borrow_mut().store);
    Ok((made, store))
}
