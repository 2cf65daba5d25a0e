//! Losses, gradients and optimiser steps against the references' own.
#![allow(clippy::print_stdout)] // differences, for whoever asks with --nocapture

mod common;

use std::path::Path;

use common::{golden, max_difference, npy, relative_difference};
use formats::StateDict;
use network::{Context, LifterConfig, MambaForm, MambaGcnConfig, layers};
use tch::{Device, Kind, Tensor};
use trainer::{
    loss::{self, LossWeights},
    model::Lifter,
    optimiser::{Optimiser, OptimiserConfig, OptimiserKind},
    recipe::Precision,
    replica::{Objective, Replicas, Shard, Terms},
    tensor::Eager,
    weights,
};

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn losses_and_their_gradients() {
    let expected = json(&golden("losses/expected.json"));
    let official = LossWeights::default();
    type Loss<'a> = Box<dyn Fn(&Tensor, &Tensor) -> Tensor + 'a>;
    let terms: [(&str, &str, Loss<'_>); 4] = [
        ("loss_mpjpe", "grad_loss_mpjpe", Box::new(loss::mpjpe)),
        ("n_mpjpe", "grad_n_mpjpe", Box::new(loss::n_mpjpe)),
        ("loss_velocity", "grad_loss_velocity", Box::new(loss::velocity)),
        ("official_total", "grad_official_total", Box::new(|p, t| official.of(p, t).total)),
    ];
    for case in expected.as_array().unwrap().iter().filter(|case| case.get("T").is_some()) {
        let folder = golden(&format!("losses/T{}", case["T"]));
        let target = npy(&folder.join("target.npy"), Kind::Double);
        for (name, gradient, term) in &terms {
            let predicted = npy(&folder.join("pred.npy"), Kind::Double).set_requires_grad(true);
            let value = term(&predicted, &target);
            let found = value.double_value(&[]);
            let wanted = case[*name].as_f64().unwrap();
            assert!((found - wanted).abs() < 1e-5 * wanted.max(1.0), "T {}: {name} is {found}, expected {wanted}", case["T"]);
            let file = folder.join(format!("{gradient}.npy"));
            if file.exists() {
                value.backward();
                let difference = max_difference(&predicted.grad(), &npy(&file, Kind::Double));
                assert!(difference < 1e-5, "T {}: gradient of {name} differs by {difference:.2e}", case["T"]);
            }
        }
    }
}

#[test]
fn no_error_has_no_gradient_and_no_nan() {
    let target = Tensor::randn([2, 5, 17, 3], (Kind::Float, Device::Cpu));
    let predicted = target.copy().set_requires_grad(true);
    let total = LossWeights::default().of(&predicted, &target).total;
    total.backward();
    assert_eq!(max_difference(&predicted.grad().isnan().to_kind(Kind::Float), &Tensor::zeros_like(&target)), 0.0);

    let folder = golden("losses/zero_error");
    let predicted = npy(&folder.join("pred.npy"), Kind::Float).set_requires_grad(true);
    let value = loss::mpjpe(&predicted, &npy(&folder.join("target.npy"), Kind::Float));
    value.backward();
    assert!((value.double_value(&[]) - 0.003_396_178_054_056_622_6).abs() < 1e-6);
    assert!(max_difference(&predicted.grad(), &npy(&folder.join("grad_loss_mpjpe.npy"), Kind::Float)) < 1e-6);

    // A prediction of zeros has no best scale: the loss is finite and so is its gradient.
    let zeros = Tensor::zeros([1, 3, 17, 3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let target = Tensor::randn([1, 3, 17, 3], (Kind::Float, Device::Cpu));
    let value = LossWeights::default().of(&zeros, &target).total;
    value.backward();
    assert!(value.double_value(&[]).is_finite() && zeros.grad().abs().max().double_value(&[]).is_finite());
}

fn read_state(path: &Path) -> StateDict {
    StateDict::from_checkpoint(&formats::pth::read(path).unwrap()).unwrap()
}

/// One of the reference's runs.
struct Case {
    folder: &'static str,
    config: LifterConfig,
    root_relative: bool,
    loss: LossWeights,
    optimiser: OptimiserConfig,
    lr: f64,
    /// In f32. What multiplies by A^T A, about 1.5e3, is further from f64 than the others.
    tolerance: Tolerance,
}

#[derive(Clone, Copy)]
struct Tolerance {
    /// Largest error of a gradient, relative to the largest of its tensor.
    gradient: f64,
    /// Largest error of a weight after one step.
    weight: f64,
}

impl Tolerance {
    const STRICT: Self = Self { gradient: 5e-6, weight: 2e-6 };
    const GLOBAL_MEAN: Self = Self { gradient: 2e-5, weight: 5e-6 };
}

/// Three steps in f32, and again in f64 to the strict tolerance.
fn three_steps(case: &Case) {
    three_steps_in(case, Kind::Float, case.tolerance);
    three_steps_in(case, Kind::Double, Tolerance::STRICT);
}

/// The losses, the gradients of the first step, the weights after the first and third.
fn three_steps_in(case: &Case, kind: Kind, tolerance: Tolerance) {
    let Case { folder, config, root_relative, loss, optimiser, lr, .. } = case;
    let folder = golden("train").join(folder);
    let meta = json(&folder.join("meta.json"));
    let lifter = Lifter::load(&config.clone().into(), &read_state(&folder.join("init_state_dict.pth")), kind, Device::Cpu).unwrap();
    let mut optimiser = Optimiser::new(&lifter.weights, *optimiser);
    let (input, target) = (npy(&folder.join("input.npy"), kind), npy(&folder.join("target.npy"), kind));
    let target = if *root_relative { &target - target.narrow(2, 0, 1) } else { target };
    for step in 0..3 {
        let predicted = lifter.forward(&input, &Context::TRAINING);
        let losses = loss.of(&predicted, &target);
        let (found, wanted) = (losses.total.double_value(&[]), meta["f64"][step]["total"].as_f64().unwrap());
        assert!((found - wanted).abs() < 1e-5 * wanted.max(1.0), "step {step}: loss {found}, expected {wanted}");
        optimiser.zero_grad();
        losses.total.backward();
        if step == 0 {
            assert!(max_difference(&predicted, &npy(&folder.join("pred_step1_f64.npy"), Kind::Double)) < 2e-5);
            check_gradients(&lifter, &read_state(&folder.join("grad_step1.pth")), &meta, tolerance.gradient);
        }
        optimiser.step(*lr).unwrap();
        for (after, tolerance) in [(1, tolerance.weight), (3, 2.5 * tolerance.weight)] {
            if step + 1 == after {
                check_weights(&lifter, &read_state(&folder.join(format!("state_dict_after_{after}.pth"))), tolerance, after);
            }
        }
    }
}

fn check_gradients(lifter: &Lifter, expected: &StateDict, meta: &serde_json::Value, tolerance: f64) {
    let without: Vec<&str> = meta["no_grad_params"].as_array().unwrap().iter().filter_map(|name| name.as_str()).collect();
    let largest_of_all = expected.iter().flat_map(|(_, t)| t.to_f64()).fold(0.0, |a: f64, b| a.max(b.abs()));
    let mut worst: f64 = 0.0;
    for (name, parameter) in lifter.weights.parameters() {
        let gradient = parameter.grad();
        if without.contains(&name) {
            assert!(!gradient.defined(), "{name} has a gradient");
            continue;
        }
        let wanted = weights::to_torch(expected.get(name).unwrap_or_else(|| panic!("no golden gradient of {name}")), Kind::Double);
        // What is zero but for rounding (a bias before a normalisation) is compared with the scale of everything else.
        let scale = wanted.abs().max().double_value(&[]).max(1e-4 * largest_of_all);
        let relative = max_difference(&gradient, &wanted) / scale;
        worst = worst.max(relative);
        assert!(relative < tolerance, "gradient of {name} differs by {relative:.2e} of its largest");
    }
    println!("gradients: largest relative difference {worst:.2e}");
}

fn check_weights(lifter: &Lifter, expected: &StateDict, tolerance: f64, after: usize) {
    let mut worst: f64 = 0.0;
    for entry in lifter.weights.entries() {
        let Some(wanted) = expected.get(&entry.name) else { continue };
        let wanted = weights::to_torch(wanted, Kind::Double).reshape(entry.tensor.size());
        let difference = max_difference(&entry.tensor, &wanted);
        worst = worst.max(difference);
        assert!(difference < tolerance, "after step {after}, {} differs by {difference:.2e}", entry.name);
    }
    println!("weights after step {after}: largest difference {worst:.2e}");
}

fn small(dim_in: usize, num_heads: usize, neighbour_num: usize, mamba: Option<MambaForm>) -> LifterConfig {
    LifterConfig {
        n_layers: 2,
        dim_in,
        dim_feat: 16,
        dim_rep: 32,
        num_heads,
        neighbour_num,
        mamba_gcn: mamba.map(|mamba| MambaGcnConfig { mamba, dropout: 0.0, ..MambaGcnConfig::default() }),
        ..LifterConfig::xs()
    }
}

#[test]
fn official_adamw() {
    three_steps(&Case {
        folder: "official_adamw",
        config: small(3, 8, 2, None),
        root_relative: true,
        loss: LossWeights::default(),
        optimiser: OptimiserConfig::default(),
        lr: 5e-4,
        tolerance: Tolerance::STRICT,
    });
}

#[test]
fn selective_with_the_official_loss() {
    three_steps(&Case {
        folder: "fixed_adamw_official_loss",
        config: small(2, 4, 4, Some(MambaForm::Selective)),
        root_relative: true,
        loss: LossWeights::default(),
        optimiser: OptimiserConfig::default(),
        lr: 5e-4,
        tolerance: Tolerance::STRICT,
    });
}

#[test]
fn global_mean_with_the_original_recipe() {
    three_steps(&Case {
        folder: "original_legacy_adam",
        config: small(2, 4, 4, Some(MambaForm::GlobalMean)),
        root_relative: false,
        loss: LossWeights { mpjpe: 1.0, n_mpjpe: 0.0, velocity: 0.0 },
        optimiser: OptimiserConfig { kind: OptimiserKind::Adam, weight_decay: 1e-5, ..OptimiserConfig::default() },
        lr: 1e-4,
        tolerance: Tolerance::GLOBAL_MEAN,
    });
}

#[test]
fn the_whole_mamba_mixer_with_gradients() {
    for (folder, channels) in [("block_dmodel5_L243", 5), ("block_dmodel6_L27", 6), ("block_dmodel8_L1", 8)] {
        let folder = golden("scan").join(folder);
        let names = [
            "A_log",
            "D",
            "in_proj.weight",
            "conv1d.weight",
            "conv1d.bias",
            "x_proj.weight",
            "dt_proj.weight",
            "dt_proj.bias",
            "out_proj.weight",
        ];
        let state = StateDict::new(names.map(|name| (name.to_owned(), formats::npy::read(&folder.join(format!("p.{name}.npy"))).unwrap())));
        let states = state.get("A_log").unwrap().shape[1];
        let kernel = state.get("conv1d.weight").unwrap().shape[2];
        for (kind, forward_tolerance, gradient_tolerance) in [(Kind::Float, 1e-5, 1e-4), (Kind::Double, 1e-6, 1e-5)] {
            let (mamba, store) = weights::with_loaded(&state, kind, Device::Cpu, |w| {
                layers::MambaWeights::new(w, channels, states, kernel).map(layers::Mamba)
            })
            .unwrap();
            let x = npy(&folder.join("x.npy"), kind).set_requires_grad(true);
            let y = mamba.forward(&Eager(x.shallow_clone())).0;
            let wanted = npy(&folder.join("y.npy"), Kind::Double);
            assert!(max_difference(&y, &wanted) < forward_tolerance, "{}", folder.display());
            (y * npy(&folder.join("grad_y.npy"), kind)).sum(None::<Kind>).backward();
            let close = |name: &str, found: &Tensor, file: &str| {
                let difference = relative_difference(found, &npy(&folder.join(file), Kind::Double));
                assert!(difference < gradient_tolerance, "{}: {name} differs by {difference:.2e}", folder.display());
            };
            close("dx", &x.grad(), "dx.npy");
            for name in names {
                close(name, &store.get(name).unwrap().grad(), &format!("d.{name}.npy"));
            }
        }
    }
}

#[test]
fn pieces_of_a_sequence_equal_the_whole() {
    let folder = golden("scan/block_dmodel6_L27");
    let names = [
        "A_log",
        "D",
        "in_proj.weight",
        "conv1d.weight",
        "conv1d.bias",
        "x_proj.weight",
        "dt_proj.weight",
        "dt_proj.bias",
        "out_proj.weight",
    ];
    let state = StateDict::new(names.map(|name| (name.to_owned(), formats::npy::read(&folder.join(format!("p.{name}.npy"))).unwrap())));
    let (mamba, _) =
        weights::with_loaded(&state, Kind::Float, Device::Cpu, |w| layers::MambaWeights::new(w, 6, 16, 4).map(layers::Mamba)).unwrap();
    let x = npy(&folder.join("x.npy"), Kind::Float);
    let whole = mamba.forward(&Eager(x.shallow_clone())).0;
    let frames = x.size()[1];
    let mut state = None;
    let mut parts = Vec::new();
    for t in 0..frames {
        let (y, next) = mamba.step(&Eager(x.narrow(1, t, 1)), state.as_ref());
        parts.push(y.0);
        state = Some(next);
    }
    assert!(max_difference(&Tensor::cat(&parts, 1), &whole) < 1e-5);
}

/// Each shard holds the same clips, so that batch normalisation sees the same statistics in every part as in the whole.
#[test]
fn replicas_take_the_gradient_of_the_whole_batch() {
    let config = LifterConfig {
        n_layers: 1,
        dim_feat: 16,
        dim_rep: 16,
        n_frames: 9,
        num_heads: 4,
        neighbour_num: 2,
        mamba_gcn: Some(MambaGcnConfig { mamba: MambaForm::Selective, dropout: 0.0, ..MambaGcnConfig::default() }),
        ..LifterConfig::xs()
    };
    let drawing = weights::Drawing { seed: 1, layer_scale: Some(0.5) };
    let lifter = Lifter::new(&config.clone().into(), drawing, Device::Cpu).unwrap();
    let objective = Objective { loss: LossWeights::default(), precision: Precision::F32, context: Context::TRAINING };
    let options = (Kind::Float, Device::Cpu);
    let (clip, label) = (Tensor::randn([2, 9, 17, 3], options), Tensor::randn([2, 9, 17, 3], options));
    let gradients = |replicas: &Replicas, shards: Vec<Shard>| -> (Terms, Vec<Tensor>) {
        lifter.weights.parameters().for_each(|(_, p)| p.shallow_clone().zero_grad());
        let terms = replicas.backward(&lifter, &objective, shards).unwrap();
        (terms, lifter.weights.parameters().map(|(_, p)| p.grad()).filter(Tensor::defined).map(|g| g.copy()).collect())
    };
    let whole = |x: &Tensor| x.repeat([3, 1, 1, 1]);
    let alone = Replicas::beside(&lifter, 0, objective).unwrap();
    let (expected_terms, expected) = gradients(&alone, vec![Shard { input: whole(&clip), label: whole(&label), share: 1.0 }]);

    let replicas = Replicas::beside(&lifter, 2, objective).unwrap();
    let shards = || -> Vec<Shard> { (0..3).map(|_| Shard { input: clip.copy(), label: label.copy(), share: 1.0 / 3.0 }).collect() };
    for round in 0..2 {
        let (terms, found) = gradients(&replicas, shards());
        assert!(
            terms.iter().zip(expected_terms).all(|(a, b)| (a - b).abs() < 1e-5),
            "round {round}: {terms:?}, expected {expected_terms:?}"
        );
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert!(relative_difference(found, expected) < 1e-4, "round {round}: {}", relative_difference(found, expected));
        }
    }

    // Parts that come one after the other (`train.accumulate`) add up to the same.
    lifter.weights.parameters().for_each(|(_, p)| p.shallow_clone().zero_grad());
    let mut terms = Terms::default();
    for shard in shards() {
        let part = alone.backward(&lifter, &objective, vec![shard]).unwrap();
        terms.iter_mut().zip(part).for_each(|(sum, term)| *sum += term);
    }
    assert!(terms.iter().zip(expected_terms).all(|(a, b)| (a - b).abs() < 1e-5), "{terms:?}, expected {expected_terms:?}");
    let found = lifter.weights.parameters().map(|(_, p)| p.grad()).filter(Tensor::defined);
    for (found, expected) in found.zip(&expected) {
        assert!(relative_difference(&found, expected) < 1e-4, "accumulated: {}", relative_difference(&found, expected));
    }

    // Weights are shared: after a step, all replicas compute with the new ones.
    let before = gradients(&replicas, shards()).0;
    Optimiser::new(&lifter.weights, OptimiserConfig::default()).step(0.01).unwrap();
    let after = gradients(&replicas, shards()).0;
    let alone_after = gradients(&alone, vec![Shard { input: whole(&clip), label: whole(&label), share: 1.0 }]).0;
    assert!((before[0] - after[0]).abs() > 1e-3, "the step changed nothing: {before:?}");
    assert!((after[0] - alone_after[0]).abs() < 1e-5 * after[0], "{after:?}, one replica {alone_after:?}");
}
