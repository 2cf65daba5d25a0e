//! Values at the ends of f32.

use scan::{Dims, Inputs, Serial};

use crate::case::{Case, Parts, forms, relative_error};

const DIMS: Dims = Dims { sequences: 3, frames: 40, channels: 19, states: 16 };

#[test]
fn nan_stays_in_its_own_sequence() {
    let clean = Case::random(DIMS, Parts::ALL, 1).narrow();
    let per_sequence = |rows: usize| DIMS.frames * rows;
    for form in forms() {
        let expected = clean.by_form(form, &Serial);
        for target in 0..5 {
            let mut case = clean.clone();
            // frame 3 of sequence 1
            let (channel, state) = (per_sequence(DIMS.channels) + 3 * DIMS.channels + 2, per_sequence(DIMS.states) + 3 * DIMS.states + 2);
            match target {
                0 => case.u[channel] = f32::NAN,
                1 => case.delta[channel] = f32::NAN,
                2 => case.b[state] = f32::NAN,
                3 => case.c[state] = f32::NAN,
                _ => case.z.as_mut().expect("all parts")[channel] = f32::NAN,
            }
            let found = case.by_form(form, &Serial);
            let row = per_sequence(DIMS.channels);
            assert!(found.y[row + 3 * DIMS.channels + 2].is_nan(), "{form:?} {target}: NaN is not hidden");
            assert!(found.y[row..row + 3 * DIMS.channels].iter().all(|y| y.is_finite()), "{form:?} {target}: the past stays clean");
            for other in [0..row, 2 * row..3 * row] {
                assert_eq!(found.y[other.clone()], expected.y[other.clone()], "{form:?} {target}");
                assert_eq!(found.u[other.clone()], expected.u[other.clone()], "{form:?} {target}");
                assert_eq!(found.delta[other.clone()], expected.delta[other], "{form:?} {target}");
            }
            let row = per_sequence(DIMS.states);
            for other in [0..row, 2 * row..3 * row] {
                assert_eq!(found.b[other.clone()], expected.b[other.clone()], "{form:?} {target}");
                assert_eq!(found.c[other.clone()], expected.c[other], "{form:?} {target}");
            }
        }
    }
}

#[test]
fn a_nan_in_one_channel_leaves_the_others() {
    let clean = Case::random(DIMS, Parts::ALL, 2).narrow();
    for form in forms() {
        let expected = clean.by_form(form, &Serial);
        let mut case = clean.clone();
        case.u[2] = f32::NAN; // frame 0, channel 2
        let found = case.by_form(form, &Serial);
        for (at, (found, expected)) in found.y.iter().zip(&expected.y).enumerate() {
            let poisoned = at / DIMS.channels < DIMS.frames && at % DIMS.channels == 2;
            assert!(if poisoned { found.is_nan() } else { found == expected }, "{form:?} at {at}: {found} against {expected}");
        }
    }
}

#[test]
fn steps_huge_tiny_and_denormal() {
    for delta in [0.0, 1e-45, 1e-40, 1e-38, 1e-20, 1e-6, 20.0, 90.0, 1e3, 1e6] {
        let mut case = Case::random(DIMS, Parts { d: true, z: true, ..Parts::default() }, 3);
        case.delta.fill(f64::from(delta as f32));
        if delta > 100.0 {
            case.u.iter_mut().for_each(|u| *u /= delta); // keeps y itself in range
        }
        let truth = case.by_oracle(0.0);
        for form in forms() {
            let found = case.narrow().by_form(form, &Serial);
            found.assert_near(&truth, 1e-5, 1e-4, &format!("{form:?} delta {delta:e}"));
        }
    }
}

#[test]
fn softplus_over_its_whole_range() {
    // One channel for each value; with A = 0, B = C = u = 1 and one frame, y is softplus(delta).
    let deltas: Vec<f32> = (-1100..=1100).map(|i| i as f32 * 0.1).chain([-1e4, 1e4, 1e30]).collect();
    let dims = Dims { sequences: 1, frames: 1, channels: deltas.len(), states: 1 };
    let ones = vec![1.0f32; deltas.len()];
    let zeros = vec![0.0f32; deltas.len()];
    let inputs = Inputs { u: &ones, delta: &deltas, a: &zeros, b: &[1.0], c: &[1.0], delta_softplus: true, ..Inputs::default() };
    for form in forms() {
        let mut y = vec![f32::NAN; deltas.len()];
        form.forward(dims, &inputs, &mut y, None, &Serial).expect("forward");
        for (&x, &y) in deltas.iter().zip(&y) {
            let x = f64::from(x);
            let truth = if x > 0.0 { x + (-x).exp().ln_1p() } else { x.exp().ln_1p() };
            // Relative all the way down to where f32 ends; 1e-5 because x log2(e) is rounded before the exponential.
            let tolerance = 1e-5 * truth + 2e-38;
            assert!((f64::from(y) - truth).abs() <= tolerance, "{form:?} softplus({x}) = {y:e}, not {truth:e}");
        }
    }
}

#[test]
fn the_exponential_over_its_whole_range() {
    // h_1 = exp(delta A) h_0 with u = 0: one channel for each exponent.
    let exponents: Vec<f32> = (-12000..=880).map(|i| i as f32 * 0.01).collect();
    let dims = Dims { sequences: 1, frames: 1, channels: exponents.len(), states: 1 };
    let (ones, zeros) = (vec![1.0f32; exponents.len()], vec![0.0f32; exponents.len()]);
    let inputs = Inputs { u: &zeros, delta: &ones, a: &exponents, b: &[1.0], c: &[1.0], initial_state: Some(&ones), ..Inputs::default() };
    for form in forms() {
        let mut y = vec![f32::NAN; exponents.len()];
        form.forward(dims, &inputs, &mut y, None, &Serial).expect("forward");
        for (&x, &y) in exponents.iter().zip(&y) {
            let truth = f64::from(x).exp();
            // 2e-7 of the polynomial, and half a unit in the last place of x log2(e)
            let tolerance = truth * (3e-7 + f64::from(x.abs()) * 1.3e-7) + 1.2e-38;
            assert!((f64::from(y) - truth).abs() <= tolerance, "{form:?} exp({x}) = {y:e}, not {truth:e}");
        }
    }
}

#[test]
fn growing_states_overflow_to_infinity() {
    let inputs = Inputs { u: &[1.0], delta: &[100.0], a: &[1.0], b: &[1.0], c: &[1.0], initial_state: Some(&[1.0]), ..Inputs::default() };
    let dims = Dims { sequences: 1, frames: 1, channels: 1, states: 1 };
    for form in forms() {
        let mut y = [0.0f32];
        form.forward(dims, &inputs, &mut y, None, &Serial).expect("forward");
        assert_eq!(y[0], f32::INFINITY, "{form:?}");
    }
}

#[test]
fn a_thousand_tiny_steps_do_not_drift() {
    let dims = Dims { sequences: 1, frames: 1000, channels: 4, states: 16 };
    let mut case = Case::random(dims, Parts { initial_state: true, ..Parts::default() }, 4);
    case.delta.fill(f64::from(1e-7f32));
    let truth = case.by_oracle(0.0);
    for form in forms() {
        let found = case.narrow().by_form(form, &Serial);
        assert!(
            relative_error(&found.last_state, &truth.last_state) < 5e-5,
            "{form:?} {}",
            relative_error(&found.last_state, &truth.last_state)
        );
    }
}
