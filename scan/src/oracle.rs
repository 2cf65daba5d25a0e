//! The scan written as its formula, one value at a time: slow, obvious, and what every fast form is tested against.

use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

use crate::arguments::{check_backward, check_forward};
use crate::{Dims, Error, InputGrads, Inputs, OutputGrads};

/// f32 or f64: what the oracle computes with.
pub trait Real:
    Copy
    + Default
    + PartialOrd
    + Neg<Output = Self>
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + AddAssign
{
    /// 1
    const ONE: Self;
    /// e to the power of self.
    fn exp(self) -> Self;
    /// ln(1 + self), exact where self is small.
    fn ln_1p(self) -> Self;
}

macro_rules! real {
    ($type:ty) => {
        impl Real for $type {
            const ONE: Self = 1.0;
            fn exp(self) -> Self {
                self.exp()
            }
            fn ln_1p(self) -> Self {
                self.ln_1p()
            }
        }
    };
}
real!(f32);
real!(f64);

/// ln(1 + e^x), without overflow.
fn softplus<T: Real>(x: T) -> T {
    let zero = T::default();
    if x > zero { x + (-x).exp().ln_1p() } else { x.exp().ln_1p() }
}

/// 1 / (1 + e^-x)
fn sigmoid<T: Real>(x: T) -> T {
    T::ONE / (T::ONE + (-x).exp())
}

/// One sequence's view of the inputs: which values belong to frame `t`, channel `d`, state `n`.
#[derive(Clone, Copy)]
struct Sequence<'a, T> {
    dims: Dims,
    inputs: &'a Inputs<'a, T>,
    index: usize,
}

impl<T: Real> Sequence<'_, T> {
    /// Where frame `t`, channel `d` lies in (S, L, D).
    fn channel_at(&self, t: usize, d: usize) -> usize {
        (self.index * self.dims.frames + t) * self.dims.channels + d
    }

    /// Where frame `t`, state `n` lies in (S, L, N).
    fn state_at(&self, t: usize, n: usize) -> usize {
        (self.index * self.dims.frames + t) * self.dims.states + n
    }

    /// delta before and after softplus.
    fn delta(&self, t: usize, d: usize) -> (T, T) {
        let raw = self.inputs.delta[self.channel_at(t, d)] + self.inputs.delta_bias.map_or(T::default(), |bias| bias[d]);
        (raw, if self.inputs.delta_softplus { softplus(raw) } else { raw })
    }

    /// The state of channel `d` after frame 0, 1, ... L, as (L + 1, N); the first row is the initial state.
    fn states(&self, d: usize) -> Vec<T> {
        let Dims { frames, channels, states, .. } = self.dims;
        let mut h = vec![T::default(); (frames + 1) * states];
        if let Some(initial) = self.inputs.initial_state {
            let start = (self.index * channels + d) * states;
            h[..states].copy_from_slice(&initial[start..start + states]);
        }
        for t in 0..frames {
            let (_, delta) = self.delta(t, d);
            let u = self.inputs.u[self.channel_at(t, d)];
            for n in 0..states {
                let decay = (delta * self.inputs.a[d * states + n]).exp();
                h[(t + 1) * states + n] = decay * h[t * states + n] + delta * u * self.inputs.b[self.state_at(t, n)];
            }
        }
        h
    }

    /// y before the gate.
    fn ungated(&self, t: usize, d: usize, h: &[T]) -> T {
        let states = self.dims.states;
        let mut y = T::default();
        for n in 0..states {
            y += self.inputs.c[self.state_at(t, n)] * h[(t + 1) * states + n];
        }
        if let Some(skip) = self.inputs.d {
            y += skip[d] * self.inputs.u[self.channel_at(t, d)];
        }
        y
    }
}

/// See [`crate::forward`].
///
/// # Errors
/// A slice whose length does not fit `dims`.
pub fn forward<T: Real>(dims: Dims, inputs: &Inputs<'_, T>, y: &mut [T], mut last_state: Option<&mut [T]>) -> Result<(), Error> {
    check_forward(dims, inputs, y, last_state.as_deref())?;
    if dims.is_empty() {
        return Ok(());
    }
    let Dims { sequences, frames, channels, states } = dims;
    for s in 0..sequences {
        let sequence = Sequence { dims, inputs, index: s };
        for d in 0..channels {
            let h = sequence.states(d);
            for t in 0..frames {
                let at = sequence.channel_at(t, d);
                let gate = inputs.z.map_or(T::ONE, |z| z[at] * sigmoid(z[at]));
                y[at] = sequence.ungated(t, d, &h) * gate;
            }
            if let Some(last) = last_state.as_deref_mut() {
                let start = (s * channels + d) * states;
                last[start..start + states].copy_from_slice(&h[frames * states..]);
            }
        }
    }
    Ok(())
}

/// See [`crate::backward`].
///
/// # Errors
/// A slice whose length does not fit `dims`, or a gradient asked for an input that is absent.
pub fn backward<T: Real>(
    dims: Dims,
    inputs: &Inputs<'_, T>,
    output_grads: &OutputGrads<'_, T>,
    grads: &mut InputGrads<'_, T>,
) -> Result<(), Error> {
    check_backward(dims, inputs, output_grads, grads)?;
    let Dims { sequences, frames, channels, states } = dims;
    let zero = T::default();
    grads.zero_sums();
    grads.b.fill(zero);
    grads.c.fill(zero);
    if dims.is_empty() {
        return Ok(());
    }
    for s in 0..sequences {
        let sequence = Sequence { dims, inputs, index: s };
        for d in 0..channels {
            let h = sequence.states(d);
            let state = (s * channels + d) * states;
            // gradient of h after frame t
            let mut grad_h = output_grads.last_state.map_or_else(|| vec![zero; states], |last| last[state..state + states].to_vec());
            for t in (0..frames).rev() {
                let at = sequence.channel_at(t, d);
                let u = inputs.u[at];
                let (raw, delta) = sequence.delta(t, d);
                let mut grad_y = output_grads.y[at];
                if let Some(z) = inputs.z {
                    let gate = sigmoid(z[at]);
                    if let Some(grad_z) = grads.z.as_deref_mut() {
                        grad_z[at] = grad_y * sequence.ungated(t, d, &h) * gate * (T::ONE + z[at] * (T::ONE - gate));
                    }
                    grad_y = grad_y * z[at] * gate;
                }
                let mut grad_u = inputs.d.map_or(zero, |skip| grad_y * skip[d]);
                if let Some(grad_skip) = grads.d.as_deref_mut() {
                    grad_skip[d] += grad_y * u;
                }
                let mut grad_delta = zero;
                for n in 0..states {
                    let at_n = sequence.state_at(t, n);
                    let (a, b) = (inputs.a[d * states + n], inputs.b[at_n]);
                    let decay = (delta * a).exp();
                    let carried = decay * h[t * states + n];
                    grad_h[n] += grad_y * inputs.c[at_n];
                    grads.c[at_n] += grad_y * h[(t + 1) * states + n];
                    grads.b[at_n] += grad_h[n] * delta * u;
                    grads.a[d * states + n] += grad_h[n] * delta * carried;
                    grad_delta += grad_h[n] * (a * carried + u * b);
                    grad_u += grad_h[n] * delta * b;
                    grad_h[n] = grad_h[n] * decay;
                }
                if inputs.delta_softplus {
                    grad_delta = grad_delta * sigmoid(raw);
                }
                grads.u[at] = grad_u;
                grads.delta[at] = grad_delta;
                if let Some(grad_bias) = grads.delta_bias.as_deref_mut() {
                    grad_bias[d] += grad_delta;
                }
            }
            if let Some(grad_initial) = grads.initial_state.as_deref_mut() {
                grad_initial[state..state + states].copy_from_slice(&grad_h);
            }
        }
    }
    Ok(())
}
