//! The operator's names, for every engine that registers it and every file that uses it.
//!
//! Types: `u`, `delta`, `B`, `C`, `z` and `y` share one element type (f32 or f16); `A`, `D`, `delta_bias` and the
//! states are always f32.

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
