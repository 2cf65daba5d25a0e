//! The golden vectors of the whole Mamba mixer: forward, and the gradient of every weight, with bias, softplus, skip and
//! gate inside the scan.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use poselift_scan_torch::{ScanTensors, selective_scan};
use tch::{Kind, Tensor};

fn read(path: &Path, kind: Kind) -> Tensor {
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let npy = npyz::NpyFile::new(BufReader::new(file)).expect("a npy file");
    let shape: Vec<i64> = npy.shape().iter().map(|&size| size as i64).collect();
    Tensor::from_slice(&npy.into_vec::<f64>().expect("f64 values")).reshape(shape).to_kind(kind)
}

const WEIGHTS: [&str; 9] =
    ["in_proj.weight", "conv1d.weight", "conv1d.bias", "x_proj.weight", "dt_proj.weight", "dt_proj.bias", "A_log", "D", "out_proj.weight"];

/// `x`: (S, L, C). Returns the same shape.
fn mixer(x: &Tensor, weights: &[Tensor]) -> Tensor {
    let [in_proj, conv, conv_bias, x_proj, dt_proj, dt_bias, a_log, d, out_proj] = weights else { panic!("nine weights") };
    let none: Option<&Tensor> = None;
    let (inner, states, frames) = (d.size()[0], a_log.size()[1], x.size()[1]);
    let uz = x.linear(in_proj, none).chunk(2, -1); // 2 of (S, L, E)
    let causal = uz[0].transpose(1, 2).f_conv1d(conv, Some(conv_bias), 1, 3, 1, inner).expect("conv"); // (S, E, L + 3)
    let u = causal.narrow(2, 0, frames).silu().transpose(1, 2);
    let bc = u.linear(x_proj, none).split(states, -1);
    let inputs = ScanTensors {
        u: &u,
        delta: &u.linear(dt_proj, none),
        a: &-a_log.exp(),
        b: &bc[0],
        c: &bc[1],
        d: Some(d),
        z: Some(&uz[1]),
        delta_bias: Some(dt_bias),
        initial_state: None,
        delta_softplus: true,
    };
    selective_scan(&inputs).expect("a scan").0.linear(out_proj, none)
}

fn check(folder: &Path, kind: Kind, forward: f64, gradients: f64) {
    let near = |what: &str, found: &Tensor, truth: &Tensor, tolerance: f64| {
        let scale = truth.abs().max().double_value(&[]);
        let error = (found - truth).abs().max().double_value(&[]) / scale.max(1e-30);
        assert!(error <= tolerance, "{}: {what} in {kind:?} is off by {error:.1e}", folder.display());
    };
    let x = read(&folder.join("x.npy"), kind).set_requires_grad(true);
    let weights = WEIGHTS.map(|name| read(&folder.join(format!("p.{name}.npy")), kind).set_requires_grad(true));
    let y = mixer(&x, &weights);
    near("y", &y, &read(&folder.join("y.npy"), kind), forward);
    let loss = (&y * read(&folder.join("grad_y.npy"), kind)).sum(kind);
    let leaves: Vec<&Tensor> = std::iter::once(&x).chain(&weights).collect();
    let found = Tensor::run_backward(&[loss], &leaves, false, false);
    near("dx", &found[0], &read(&folder.join("dx.npy"), kind), gradients);
    for (name, found) in WEIGHTS.into_iter().zip(&found[1..]) {
        near(name, found, &read(&folder.join(format!("d.{name}.npy")), kind), gradients);
    }
}

#[test]
fn golden_mixers() {
    tch::set_num_threads(1); // on a busy machine libtorch's threads wait for each other longer than they work
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/scan"));
    for name in ["block_dmodel5_L243", "block_dmodel6_L27", "block_dmodel8_L1"] {
        check(&root.join(name), Kind::Double, 1e-12, 1e-11);
        check(&root.join(name), Kind::Float, 1e-5, 1e-4);
    }
}
