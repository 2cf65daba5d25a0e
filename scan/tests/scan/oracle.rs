//! The oracle's gradients against finite differences, in f64.

use scan::Dims;

use crate::case::{Case, Parts, Results};

/// What the gradients are gradients of: the outputs, weighted with the gradients that come in.
fn loss(case: &Case<f64>) -> f64 {
    let out = case.by_oracle(0.0);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(&out.y, &case.grad_y) + case.grad_last_state.as_ref().map_or(0.0, |grad| dot(&out.last_state, grad))
}

type Field = (&'static str, fn(&mut Case<f64>) -> Option<&mut Vec<f64>>, fn(&Results<f64>) -> Option<&Vec<f64>>);

const FIELDS: [Field; 9] = [
    ("u", |case| Some(&mut case.u), |out| Some(&out.u)),
    ("delta", |case| Some(&mut case.delta), |out| Some(&out.delta)),
    ("A", |case| Some(&mut case.a), |out| Some(&out.a)),
    ("B", |case| Some(&mut case.b), |out| Some(&out.b)),
    ("C", |case| Some(&mut case.c), |out| Some(&out.c)),
    ("D", |case| case.d.as_mut(), |out| out.d.as_ref()),
    ("z", |case| case.z.as_mut(), |out| out.z.as_ref()),
    ("delta_bias", |case| case.delta_bias.as_mut(), |out| out.delta_bias.as_ref()),
    ("initial_state", |case| case.initial_state.as_mut(), |out| Some(&out.initial_state)),
];

#[test]
fn gradients_are_finite_differences() {
    let step = 1e-6;
    for number in [0, 7, 16, 31, 47, 63] {
        let dims = Dims { sequences: 2, frames: 4, channels: 3, states: 2 };
        let case = Case::random(dims, Parts::numbered(number), number as u64);
        let gradients = case.by_oracle(f64::NAN);
        for (name, input, gradient) in FIELDS {
            let Some(count) = input(&mut case.clone()).map(|values| values.len()) else { continue };
            for i in 0..count {
                let moved = |by: f64| {
                    let mut case = case.clone();
                    if let Some(values) = input(&mut case) {
                        values[i] += by;
                    }
                    loss(&case)
                };
                let difference = (moved(step) - moved(-step)) / (2.0 * step);
                let found = gradient(&gradients).expect("present")[i];
                assert!(
                    (difference - found).abs() < 1e-7 * (1.0 + found.abs()),
                    "parts {number}, d{name}[{i}]: {found} against {difference}"
                );
            }
        }
    }
}

#[test]
fn two_frames_by_hand() {
    // h_1 = 2 * 3 * 5 = 30; h_2 = e^(-1/2) 30 + 0.5 * 4 * 7 = 14 + 30 e^(-1/2)
    let dims = Dims { sequences: 1, frames: 2, channels: 1, states: 1 };
    let inputs = scan::Inputs {
        u: &[3.0, 4.0],
        delta: &[2.0, 0.5],
        a: &[-1.0],
        b: &[5.0, 7.0],
        c: &[1.0, 10.0],
        d: Some(&[100.0]),
        ..Default::default()
    };
    let (mut y, mut last) = ([0.0f64; 2], [0.0f64]);
    scan::oracle::forward(dims, &inputs, &mut y, Some(&mut last)).expect("forward");
    let second = 14.0 + 30.0 * (-0.5f64).exp();
    assert_eq!(last, [second]);
    assert_eq!(y, [30.0 + 300.0, 10.0 * second + 400.0]);
}
