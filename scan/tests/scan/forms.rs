//! Every form against the f64 oracle.

use half::{bf16, f16};
use proptest::prelude::*;
use scan::{Dims, Form, Inputs, Rayon, Serial};

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

/// Half the inputs, in the given type and widened.
macro_rules! narrow_type_agrees {
    ($type:ty, $tolerance:expr) => {
        for states in [16, 5] {
            let dims = dims(2, 20, 37, states);
            let case = Case::random(dims, Parts::ALL, 9).narrow();
            let narrow = |values: &[f32]| values.iter().map(|&value| <$type>::from_f32(value)).collect::<Vec<_>>();
            let wide = |values: &[$type]| values.iter().map(|value| f64::from(value.to_f32())).collect::<Vec<_>>();
            let (u, delta, b, c) = (narrow(&case.u), narrow(&case.delta), narrow(&case.b), narrow(&case.c));
            let z = narrow(case.z.as_ref().expect("all parts"));
            let inputs: Inputs<'_, $type, f32> = Inputs {
                u: &u,
                delta: &delta,
                a: &case.a,
                b: &b,
                c: &c,
                d: case.d.as_deref(),
                z: Some(&z),
                delta_bias: case.delta_bias.as_deref(),
                initial_state: case.initial_state.as_deref(),
                delta_softplus: true,
            };
            let mut truth = Case::random(dims, Parts::ALL, 9);
            (truth.u, truth.delta, truth.b, truth.c, truth.z) = (wide(&u), wide(&delta), wide(&b), wide(&c), Some(wide(&z)));
            let truth = truth.by_oracle(0.0);
            for form in forms() {
                let mut y = vec![<$type>::NAN; u.len()];
                let mut last = vec![f32::NAN; truth.last_state.len()];
                form.forward(dims, &inputs, &mut y, Some(&mut last), &Serial).expect("forward");
                let y: Vec<f32> = y.iter().map(|value| value.to_f32()).collect();
                assert!(relative_error(&y, &truth.y) < $tolerance, "{form:?} {states}: {}", relative_error(&y, &truth.y));
                assert!(relative_error(&last, &truth.last_state) < 1e-5, "{form:?}");
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
