//! What tensors an architecture has, without making any.

use std::{cell::RefCell, rc::Rc};

use crate::{Init, Lifter, ModelConfig, WeightError, WeightSource, Weights};

/// What a tensor of a state dict is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Parameter,
    Buffer,
    Counter,
}

/// A tensor that the state dict of an architecture holds.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub name: String,
    pub shape: Vec<usize>,
    pub kind: Kind,
}

/// Writes down what is asked for.
#[derive(Default)]
struct Recorder(Vec<Slot>);

impl WeightSource<()> for Recorder {
    fn parameter(&mut self, name: &str, shape: &[usize], _: Init) -> Result<(), WeightError> {
        self.0.push(Slot { name: name.into(), shape: shape.into(), kind: Kind::Parameter });
        Ok(())
    }
    fn buffer(&mut self, name: &str, shape: &[usize], _: &[f32]) -> Result<(), WeightError> {
        self.0.push(Slot { name: name.into(), shape: shape.into(), kind: Kind::Buffer });
        Ok(())
    }
    fn counter(&mut self, name: &str) -> Result<(), WeightError> {
        self.0.push(Slot { name: name.into(), shape: vec![], kind: Kind::Counter });
        Ok(())
    }
    fn constant(&mut self, _: &[usize], _: &[f32]) -> Result<(), WeightError> {
        Ok(())
    }
}

/// The state dict's slots, in the reference's order.
pub(crate) fn slots(config: &ModelConfig) -> Vec<Slot> {
    let recorder = Rc::new(RefCell::new(Recorder::default()));
    let source: Rc<RefCell<dyn WeightSource<()>>> = recorder.clone();
    // A recorder refuses nothing.
    let _ = Lifter::<()>::new(&Weights::new(source), config);
    recorder.take().0
}

/// Trainable numbers of an architecture, those that its graph never uses included (as PyTorch counts them).
#[must_use]
pub fn parameter_count(config: &ModelConfig) -> u64 {
    slots(config).iter().filter(|slot| slot.kind == Kind::Parameter).map(|slot| slot.shape.iter().map(|&n| n as u64).product::<u64>()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LifterConfig, LiveConfig};

    #[test]
    fn published_sizes() {
        assert_eq!(parameter_count(&LifterConfig::mamba_gcn_base().into()), 16_247_251);
        for (config, millions) in
            [(LifterConfig::xs(), 2.2), (LifterConfig::small(), 4.8), (LifterConfig::base(), 11.7), (LifterConfig::large(), 19.0)]
        {
            let found = parameter_count(&config.into()) as f64 / 1e6;
            assert!((found - millions).abs() < 0.05, "{found} M, published {millions} M");
        }
    }

    #[test]
    fn one_mamba_gcn_layer_has_the_published_size() {
        let mut config = LifterConfig::mamba_gcn_base();
        let whole = parameter_count(&config.clone().into());
        config.n_layers -= 1;
        assert_eq!(whole - parameter_count(&config.into()), 1_011_053);
    }

    #[test]
    fn a_look_ahead_costs_a_head() {
        let of = |look_aheads: Vec<usize>| parameter_count(&LiveConfig { look_aheads, ..LiveConfig::xs() }.into());
        assert_eq!(of(vec![0, 4]) - of(vec![0]), 3 * (256 + 1));
    }
}
