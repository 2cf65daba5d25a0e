//! Golden files and comparisons that the tests share.
#![allow(dead_code, clippy::print_stdout)]

use std::path::{Path, PathBuf};

use tch::{Kind, Tensor};

/// `tests/golden` of the workspace.
pub fn golden(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden")).join(path)
}

/// A file beside the workspace that may be absent; says so when it is.
pub fn shared(path: &str) -> Option<PathBuf> {
    let found = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared")).join(path);
    if found.exists() {
        return Some(found);
    }
    println!("skipped: ../shared is absent ({path})");
    None
}

/// A `.npy` as a tensor of the given kind.
pub fn npy(path: &Path, kind: Kind) -> Tensor {
    let tensor = formats::npy::read(path).unwrap();
    trainer::weights::to_torch(&tensor, kind)
}

/// Largest |a - b|.
pub fn max_difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[])
}

/// Share of the elements with |a - b| at most `tolerance`.
pub fn fraction_within(a: &Tensor, b: &Tensor, tolerance: f64) -> f64 {
    assert_eq!(a.size(), b.size());
    let near = (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().le(tolerance);
    near.to_kind(Kind::Double).mean(None::<Kind>).double_value(&[])
}

/// Largest |a - b| over the largest |b|.
pub fn relative_difference(a: &Tensor, b: &Tensor) -> f64 {
    max_difference(a, b) / b.abs().max().double_value(&[]).max(1e-30)
}
