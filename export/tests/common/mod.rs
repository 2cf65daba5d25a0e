//! What the tests share.
#![allow(dead_code)] // each test file uses its part

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    rc::Rc,
};

use formats::{StateDict, Tensor};
use network::{Checkpoint, Init, LiveConfig, LiveLifter, MambaForm, Overrides, WeightError, WeightSource, Weights};

/// A file or folder of the golden vectors.
pub fn golden(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden")).join(path)
}

/// The full-size references, where they are.
pub fn shared_reference() -> Option<PathBuf> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/reference/full"));
    folder.is_dir().then(|| folder.to_owned())
}

pub fn npy(path: &Path) -> (Vec<usize>, Vec<f64>) {
    let tensor = formats::npy::read(path).unwrap();
    (tensor.shape.clone(), tensor.to_f64())
}

pub fn to_f32(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}

/// The checkpoint in a model folder.
pub fn checkpoint_file(folder: &Path) -> PathBuf {
    let meta: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("meta.json")).unwrap()).unwrap();
    folder.join(meta["checkpoint"].as_str().unwrap())
}

pub fn read_checkpoint(folder: &Path, mamba: Option<MambaForm>) -> Checkpoint {
    Checkpoint::read(&checkpoint_file(folder), &Overrides { mamba, ..Overrides::default() }).unwrap()
}

/// Numbers in -1..1, the same for the same seed.
pub fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1u64 << 24) as f32) * 2.0 - 1.0
        })
        .collect()
}

pub fn largest_difference(a: &[f32], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - b).abs()).fold(0.0, f64::max)
}

/// Draws every weight that it is asked for.
#[derive(Default)]
struct Drawn(Vec<(String, Tensor)>);

impl WeightSource<()> for Drawn {
    fn parameter(&mut self, name: &str, shape: &[usize], init: Init) -> Result<(), WeightError> {
        let count: usize = shape.iter().product();
        let values = match init {
            // Wide enough awake that each branch matters.
            Init::Constant(value) => noise(self.0.len() as u64, count).iter().map(|x| value as f32 + 0.3 * x).collect(),
            Init::Normal { std } => noise(self.0.len() as u64, count).iter().map(|x| x * std as f32).collect(),
            Init::Uniform { bound } => noise(self.0.len() as u64, count).iter().map(|x| x * bound as f32).collect(),
            Init::LogArange => (0..count).map(|i| ((i % shape[1] + 1) as f32).ln()).collect(),
            Init::InverseSoftplusLogUniform { .. } => noise(self.0.len() as u64, count).iter().map(|x| -3.0 + x).collect(),
        };
        self.0.push((name.into(), Tensor::f32(shape.to_vec(), values)));
        Ok(())
    }
    fn buffer(&mut self, name: &str, shape: &[usize], value: &[f32]) -> Result<(), WeightError> {
        self.0.push((name.into(), Tensor::f32(shape.to_vec(), value.to_vec())));
        Ok(())
    }
    fn counter(&mut self, _: &str) -> Result<(), WeightError> {
        Ok(())
    }
    fn constant(&mut self, _: &[usize], _: &[f32]) -> Result<(), WeightError> {
        Ok(())
    }
}

/// A live lifter's weights.
pub fn drawn_live_weights(config: &LiveConfig) -> StateDict {
    let drawn = Rc::new(RefCell::new(Drawn::default()));
    let source: Rc<RefCell<dyn WeightSource<()>>> = drawn.clone();
    LiveLifter::<()>::new(&Weights::new(source), config).unwrap();
    StateDict::new(drawn.take().0)
}
