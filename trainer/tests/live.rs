//! The live family, eagerly: a sequence is its frames one by one, and no frame sees what comes after it.

use network::{Context, LiveConfig, LiveLifter, LiveState};
use tch::{Device, Kind, Tensor};
use trainer::{
    tensor::Eager,
    weights::{Drawing, Store, with_new},
};

const FRAMES: i64 = 23;

fn config() -> LiveConfig {
    LiveConfig { n_layers: 3, dim_feat: 16, dim_rep: 24, num_heads: 4, d_state: 8, ..LiveConfig::xs() }
}

/// In f64, so that only a difference of the mathematics is seen; branches wide awake.
fn lifter(config: &LiveConfig) -> (LiveLifter<Eager>, Store) {
    let drawing = Drawing { seed: 5, layer_scale: Some(0.7) };
    with_new(drawing, Kind::Double, Device::Cpu, |w| LiveLifter::new(w, config)).unwrap()
}

fn input(people: i64) -> Tensor {
    tch::manual_seed(11);
    Tensor::randn([people, FRAMES, 17, 3], (Kind::Double, Device::Cpu))
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

fn forward(lifter: &LiveLifter<Eager>, x: &Tensor, state: Option<&LiveState<Eager>>) -> (Tensor, LiveState<Eager>) {
    let (y, state) = lifter.forward(&Eager(x.shallow_clone()), state, &Context::EVALUATION);
    (y.0, state)
}

#[test]
fn pieces_of_any_length_are_the_sequence() {
    let (lifter, _) = lifter(&config());
    let x = input(2);
    let (whole, last) = forward(&lifter, &x, None);
    assert_eq!(whole.size(), [2, FRAMES, 17, 3]);
    for lengths in [vec![1; FRAMES as usize], vec![2, 1, 7, 13], vec![FRAMES - 1, 1]] {
        let (mut start, mut state, mut parts) = (0, None, Vec::new());
        for length in &lengths {
            let (y, after) = forward(&lifter, &x.narrow(1, start, *length), state.as_ref());
            parts.push(y);
            state = Some(after);
            start += length;
        }
        let pieces = Tensor::cat(&parts, 1);
        assert!(difference(&pieces, &whole) < 1e-12, "{lengths:?}: {:.1e}", difference(&pieces, &whole));
        for (a, b) in state.unwrap().0.iter().zip(&last.0) {
            assert!(difference(&a.scan.0, &b.scan.0) < 1e-12 && difference(&a.conv.0, &b.conv.0) < 1e-12);
        }
    }
}

#[test]
fn what_comes_later_changes_nothing_before() {
    let (lifter, _) = lifter(&config());
    let x = input(1);
    let (before, _) = forward(&lifter, &x, None);
    for t in [0, 1, 9, FRAMES - 2] {
        let changed = x.copy();
        let _ = changed.narrow(1, t + 1, FRAMES - t - 1).fill_(3.5);
        let (after, _) = forward(&lifter, &changed, None);
        assert_eq!(difference(&after.narrow(1, 0, t + 1), &before.narrow(1, 0, t + 1)), 0.0, "frame {t} saw the future");
        assert!(difference(&after, &before) > 1e-3, "the change after frame {t} was seen by nobody");
    }
}

#[test]
fn people_of_a_batch_do_not_mix() {
    let (lifter, _) = lifter(&config());
    let x = input(3);
    let (together, _) = forward(&lifter, &x, None);
    for person in 0..3 {
        let (alone, _) = forward(&lifter, &x.narrow(0, person, 1), None);
        assert!(difference(&alone, &together.narrow(0, person, 1)) < 1e-12);
    }
}

#[test]
fn states_have_the_stated_shapes() {
    let config = config();
    let (lifter, _) = lifter(&config);
    let (_, state) = forward(&lifter, &input(2), None);
    let [[k, e], [d, n]] = config.state_shapes().map(|shape| shape.map(|size| size as i64));
    assert_eq!(state.0.len(), config.n_layers);
    for layer in &state.0 {
        assert_eq!((layer.conv.0.size(), layer.scan.0.size()), (vec![2 * 17, k, e], vec![2 * 17, d, n]));
    }
}

#[test]
fn every_weight_learns() {
    let (lifter, weights) = lifter(&config());
    let (y, _) = lifter.forward(&Eager(input(2)), None, &Context::TRAINING);
    y.0.square().mean(None::<Kind>).backward();
    for (name, weight) in weights.parameters() {
        let gradient = weight.grad();
        assert!(gradient.defined() && gradient.abs().max().double_value(&[]) > 0.0, "{name} gets no gradient");
    }
}

#[test]
fn sizes_are_the_stated_ones() {
    for (config, millions) in [(LiveConfig::xs(), 0.224), (LiveConfig::small(), 0.561)] {
        let drawing = Drawing { seed: 0, layer_scale: None };
        let (_, weights) = with_new(drawing, Kind::Float, Device::Cpu, |w| LiveLifter::new(w, &config)).unwrap();
        let found = weights.parameters().map(|(_, w)| w.numel()).sum::<usize>() as f64 / 1e6;
        assert!((found - millions).abs() < 0.01 * millions, "{found} M, stated {millions} M");
    }
}
