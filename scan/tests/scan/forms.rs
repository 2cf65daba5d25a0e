//! Every form against the f64 oracle.

use half::{bf16, f16};
use proptest::prelude::*;
use scan::{Dims, Form, InputGrads, Inputs, OutputGrads, Rayon, Serial};

use crate::case::{Case, Parts, forms, relative_error};

fn dims(sequences: usize, frames: usize, channels: usize, states: usize) -> Dims {
    Dims { sequences, frames, channels, states }
}

fn agrees(dims: Dims, parts: Parts, seed: u64) {
    let case = Case::random(dims, parts, seed);
    let truth = case.by_oracle(f64::NAN);
    for form in forms() {
        let found = case.narrow().by_form(form, &Serial);
        found.assert_near(&truth, 1e-5, 1e-4, &format!("{form:?} {dims:?} {parts:?} seed {seed}"));
    }
}

#[test]
fn every_combination_of_parts() {
    for number in 0..64 {
        agrees(dims(2, 9, 19, 16), Parts::numbered(number), number as u64);
        agrees(dims(1, 5, 3, 5), Parts::numbered(number), number as u64);
    }
}

#[test]
fn shapes_at_the_edges() {
    for sequences in [0, 1, 3] {
        for frames in [0, 1, 2, 31, 32, 33, 65, 243] {
            for channels in [0, 1, 7, 8, 16, 17, 33] {
                for states in [0, 1, 5, 16, 64] {
                    if sequences * frames * channels * states < 80_000 {
                        agrees(dims(sequences, frames, channels, states), Parts::ALL, (frames + channels) as u64);
                    }
                }
            }
        }
    }
}

#[test]
fn long_sequences_take_longer_chunks() {
    agrees(dims(1, 1500, 9, 16), Parts::ALL, 5);
    agrees(dims(1, 1500, 2, 3), Parts::default(), 6);
}

#[test]
fn more_sequences_than_groups() {
    agrees(dims(150, 50, 33, 16), Parts::ALL, 7);
    agrees(dims(400, 1, 33, 16), Parts::ALL, 8);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn random_shapes(
        sequences in 1usize..4, frames in 0usize..70, channels in 1usize..40, states in prop::sample::select(vec![1usize, 5, 16, 64]),
        parts in 0usize..64, seed: u64,
    ) {
        agrees(dims(sequences, frames, channels, states), Parts::numbered(parts), seed);
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let case = Case::random(dims(37, 40, 50, 16), Parts::ALL, 8).narrow();
    for form in forms() {
        let alone = case.by_form(form, &Serial);
        for threads in [1, 2, 3, 7] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            assert_eq!(pool.install(|| case.by_form(form, &Rayon)), alone, "{form:?} on {threads} threads");
        }
    }
}

/// Half the inputs, in the given type and widened: values and gradients. `$tolerance` is that of one rounding to the type.
macro_rules! narrow_type_agrees {
    ($type:ty, $tolerance:expr) => {
        for (states, parts) in [(16, Parts::ALL), (5, Parts::ALL), (16, Parts::default())] {
            let dims = dims(2, 50, 37, states);
            let case = Case::random(dims, parts, 9).narrow();
            let narrow = |values: &[f32]| values.iter().map(|&value| <$type>::from_f32(value)).collect::<Vec<_>>();
            let wide = |values: &[$type]| values.iter().map(|value| f64::from(value.to_f32())).collect::<Vec<_>>();
            let (u, delta, b, c) = (narrow(&case.u), narrow(&case.delta), narrow(&case.b), narrow(&case.c));
            let (z, grad_y) = (case.z.as_deref().map(narrow), narrow(&case.grad_y));
            let inputs: Inputs<'_, $type, f32> = Inputs {
                u: &u,
                delta: &delta,
                a: &case.a,
                b: &b,
                c: &c,
                d: case.d.as_deref(),
                z: z.as_deref(),
                delta_bias: case.delta_bias.as_deref(),
                initial_state: case.initial_state.as_deref(),
                delta_softplus: case.delta_softplus,
            };
            let mut truth = Case::random(dims, parts, 9);
            (truth.u, truth.delta, truth.b, truth.c, truth.z) = (wide(&u), wide(&delta), wide(&b), wide(&c), z.as_deref().map(wide));
            truth.grad_y = wide(&grad_y);
            let truth = truth.by_oracle(0.0);
            for form in forms() {
                let mut y = vec![<$type>::NAN; u.len()];
                let mut last = vec![f32::NAN; truth.last_state.len()];
                form.forward(dims, &inputs, &mut y, Some(&mut last), &Serial).expect("forward");
                let near = |name: &str, found: &[f32], truth: &[f64], tolerance: f64| {
                    let error = relative_error(found, truth);
                    assert!(error < tolerance, "{form:?} {states} {name}: {error}");
                };
                let as_f32 = |values: &[$type]| values.iter().map(|value| value.to_f32()).collect::<Vec<_>>();
                near("y", &as_f32(&y), &truth.y, $tolerance);
                near("last_state", &last, &truth.last_state, 1e-5);

                let like = |values: &[$type]| vec![<$type>::NAN; values.len()];
                let (mut du, mut ddelta, mut db, mut dc) = (like(&u), like(&delta), like(&b), like(&c));
                let mut dz = z.as_deref().map(like);
                let nans = |values: &[f32]| vec![f32::NAN; values.len()];
                let (mut da, mut dd, mut dbias) = (nans(&case.a), case.d.as_deref().map(nans), case.delta_bias.as_deref().map(nans));
                let mut dinitial = nans(&last);
                let from = OutputGrads { y: &grad_y, last_state: case.grad_last_state.as_deref() };
                let mut to = InputGrads {
                    u: &mut du,
                    delta: &mut ddelta,
                    a: &mut da,
                    b: &mut db,
                    c: &mut dc,
                    d: dd.as_deref_mut(),
                    z: dz.as_deref_mut(),
                    delta_bias: dbias.as_deref_mut(),
                    initial_state: Some(&mut dinitial),
                };
                form.backward(dims, &inputs, &from, &mut to, &Serial).expect("backward");
                for (name, found, truth) in
                    [("du", &du, &truth.u), ("ddelta", &ddelta, &truth.delta), ("dB", &db, &truth.b), ("dC", &dc, &truth.c)]
                {
                    near(name, &as_f32(found), truth, $tolerance);
                }
                near("dA", &da, &truth.a, 1e-4);
                near("dinitial_state", &dinitial, &truth.initial_state, 1e-4);
                if let (Some(dz), Some(dd), Some(dbias)) = (dz, dd, dbias) {
                    near("dz", &as_f32(&dz), truth.z.as_ref().expect("dz"), $tolerance);
                    near("dD", &dd, truth.d.as_ref().expect("dD"), 1e-4);
                    near("ddelta_bias", &dbias, truth.delta_bias.as_ref().expect("ddelta_bias"), 1e-4);
                }
            }
        }
    };
}

#[test]
fn f16_values_with_f32_state() {
    narrow_type_agrees!(f16, 6e-4);
}

#[test]
fn bf16_values_with_f32_state() {
    narrow_type_agrees!(bf16, 5e-3);
}

#[test]
fn step_by_step_is_the_batch() {
    for states in [16, 3] {
        let (s, l, d) = (3, 12, 21);
        let case = Case::random(dims(s, l, d, states), Parts::ALL, 10).narrow();
        for form in forms() {
            let whole = case.by_form(form, &Serial);
            let mut state = case.initial_state.clone().expect("all parts");
            for t in 0..l {
                let frame = |values: &[f32], width: usize| -> Vec<f32> {
                    (0..s).flat_map(|sequence| values[(sequence * l + t) * width..][..width].to_vec()).collect()
                };
                let (u, delta, b, c) = (frame(&case.u, d), frame(&case.delta, d), frame(&case.b, states), frame(&case.c, states));
                let z = frame(case.z.as_ref().expect("all parts"), d);
                let before = state.clone();
                let inputs = Inputs { u: &u, delta: &delta, b: &b, c: &c, z: Some(&z), initial_state: Some(&before), ..case.inputs() };
                let mut y = vec![f32::NAN; s * d];
                form.forward(dims(s, 1, d, states), &inputs, &mut y, Some(&mut state), &Serial).expect("a step");
                assert_eq!(y, frame(&whole.y, d), "{form:?} frame {t}");
            }
            assert_eq!(state, whole.last_state);
        }
    }
}

#[test]
fn the_best_form_is_one_that_runs() {
    assert!(Form::best().is_available());
    assert!(Form::Portable.is_available());
    assert_eq!(Some(Form::best()), forms().last());
}
