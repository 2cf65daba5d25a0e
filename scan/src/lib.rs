//! The selective scan, once: a scalar oracle, vector forms for the CPU, and the schema of the operator.
//!
//! `selective_scan(u, delta, A, B, C, D?, z?, delta_bias?, initial_state?) -> (y, last_state)` with
//!
//! ```text
//! delta_t = softplus(delta_t + delta_bias)              (each part where it is asked for)
//! h_t     = exp(delta_t A) h_{t-1} + delta_t u_t B_t    (h_0 = initial_state, or zero)
//! y_t     = (C_t . h_t + D u_t) silu(z_t)               (each part where it is given)
//! ```
//!
//! (Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023, algorithm 2.)
//!
//! | name | shape |
//! |---|---|
//! | u, delta, z, y | (S, L, D) |
//! | A | (D, N) |
//! | B, C | (S, L, N) |
//! | D, delta_bias | (D) |
//! | initial_state, last_state | (S, D, N) |
//!
//! S sequences, L frames, D channels, N states; everything row-major and contiguous.
//!
//! ```
//! use scan::{Dims, Inputs, Serial};
//! let dims = Dims { sequences: 1, frames: 2, channels: 1, states: 1 };
//! let inputs = Inputs { u: &[1.0, 1.0], delta: &[1.0, 1.0], a: &[0.0], b: &[1.0, 1.0], c: &[1.0, 2.0], ..Inputs::default() };
//! let mut y = [0.0f32; 2];
//! scan::forward(dims, &inputs, &mut y, None, &Serial)?;
//! assert_eq!(y, [1.0f32, 4.0]);
//! # Ok::<(), scan::Error>(())
//! ```

mod arguments;
mod backward;
#[cfg(feature = "cuda")]
pub mod cuda;
mod element;
mod error;
mod form;
mod forms;
mod forward;
mod lanes;
pub mod oracle;
mod parallel;
pub mod schema;
mod scratch;
mod shared;

pub use arguments::{Dims, InputGrads, Inputs, OutputGrads};
pub use element::Element;
pub use error::Error;
pub use form::Form;
pub use parallel::{ParallelFor, Rayon, Serial, without_panics};

/// The scan of every sequence, in the fastest form that this CPU has.
///
/// `y` (S, L, D) and, where it is wanted, `last_state` (S, D, N) are overwritten. `threads` shares the work out; the result
/// does not depend on it.
///
/// # Errors
/// A slice whose length does not fit `dims`, or a failure of `threads`.
pub fn forward<T: Element>(
    dims: Dims,
    inputs: &Inputs<'_, T, f32>,
    y: &mut [T],
    last_state: Option<&mut [f32]>,
    threads: &dyn ParallelFor,
) -> Result<(), Error> {
    Form::best().forward(dims, inputs, y, last_state, threads)
}

/// The gradients of every input, given those of the outputs, in the fastest form that this CPU has. Slices of
/// `input_grads` are overwritten; the result does not depend on `threads`.
///
/// # Errors
/// As [`forward`]; also a gradient asked for an input that is absent.
pub fn backward<T: Element>(
    dims: Dims,
    inputs: &Inputs<'_, T, f32>,
    output_grads: &OutputGrads<'_, T, f32>,
    input_grads: &mut InputGrads<'_, T, f32>,
    threads: &dyn ParallelFor,
) -> Result<(), Error> {
    Form::best().backward(dims, inputs, output_grads, input_grads, threads)
}
