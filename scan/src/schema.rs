//! The operator's names, for every engine that registers it and every file that uses it.
//!
//! Types: `u`, `delta`, `B`, `C`, `z` and `y` share one element type (f32 or f16); `A`, `D`, `delta_bias` and the
//! states are always f32.

use crate::Dims;

/// The operator's name.
pub const OP: &str = "SelectiveScan";
/// The ONNX domain that it lives in.
pub const DOMAIN: &str = "poselift.ssm";
/// The version of the domain.
pub const VERSION: i64 = 1;
/// Inputs in order. The first [`REQUIRED_INPUTS`] must be there, the rest may be absent.
pub const INPUTS: [&str; 9] = ["u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state"];
/// How many of [`INPUTS`] must be there.
pub const REQUIRED_INPUTS: usize = 5;
/// Outputs in order. `last_state` may be absent.
pub const OUTPUTS: [&str; 2] = ["y", "last_state"];
/// Integer attribute, 0 (the default) or 1: `delta` goes through softplus, after `delta_bias` is added.
pub const DELTA_SOFTPLUS: &str = "delta_softplus";

/// The sizes that the shapes of all inputs agree on, or one sentence about the first that does not fit. In the order of
/// [`INPUTS`]; `None` where an optional one is absent.
///
/// # Errors
/// A required input is absent, or a shape is not what those of u and A imply.
pub fn dims(shapes: &[Option<&[usize]>]) -> Result<Dims, String> {
    let input = |index: usize| shapes.get(index).copied().flatten();
    for (index, name) in INPUTS.into_iter().enumerate().take(REQUIRED_INPUTS) {
        if input(index).is_none() {
            return Err(format!("{OP}: the input {name} is missing; only {} on are optional", INPUTS[REQUIRED_INPUTS]));
        }
    }
    let misfit = |index: usize, axes: &str| {
        Err(format!("{OP}: {} must have shape {axes}, but has {:?}", INPUTS[index], input(index).unwrap_or_default()))
    };
    let Some(&[s, l, d]) = input(0) else { return misfit(0, "(S, L, D)") };
    let Some(&[_, n]) = input(2) else { return misfit(2, "(D, N)") };
    let expected: [(&str, &[usize]); INPUTS.len()] = [
        ("(S, L, D)", &[s, l, d]),
        ("(S, L, D)", &[s, l, d]),
        ("(D, N)", &[d, n]),
        ("(S, L, N)", &[s, l, n]),
        ("(S, L, N)", &[s, l, n]),
        ("(D)", &[d]),
        ("(S, L, D)", &[s, l, d]),
        ("(D)", &[d]),
        ("(S, D, N)", &[s, d, n]),
    ];
    for (index, (axes, expected)) in expected.into_iter().enumerate() {
        if input(index).is_some_and(|shape| shape != expected) {
            return misfit(index, &format!("{axes} = {expected:?}, as u and A imply"));
        }
    }
    Ok(Dims { sequences: s, frames: l, channels: d, states: n })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_misfit_is_named() {
        let right: [&[usize]; 9] = [&[2, 5, 3], &[2, 5, 3], &[3, 4], &[2, 5, 4], &[2, 5, 4], &[3], &[2, 5, 3], &[3], &[2, 3, 4]];
        let all: Vec<_> = right.into_iter().map(Some).collect();
        assert_eq!(dims(&all), Ok(Dims { sequences: 2, frames: 5, channels: 3, states: 4 }));
        for (index, name) in INPUTS.into_iter().enumerate() {
            for wrong in [&[][..], &[7], &[7, 7], &[7, 7, 7], &[0, 5, 3]] {
                let mut shapes = all.clone();
                shapes[index] = Some(wrong);
                let message = dims(&shapes).expect_err("a misfit");
                // A wrong u or A may first show in another input, which it disagrees with.
                assert!(message.contains(&format!(" {name} must")) || [0, 2].contains(&index), "{message}");
                assert!(message.starts_with("SelectiveScan: "), "{message}");
            }
        }
        let required: Vec<_> = all.iter().copied().take(5).chain([None; 4]).collect();
        assert!(dims(&required).is_ok());
        assert!(dims(&all[..5]).is_ok());
        assert_eq!(dims(&all[..4]).expect_err("C is missing"), "SelectiveScan: the input C is missing; only D on are optional");
    }
}
