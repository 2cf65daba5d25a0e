//! Random scans in f64, and what any implementation makes of them.

use scan::{Dims, Error, Form, InputGrads, Inputs, OutputGrads, ParallelFor, oracle};

/// Which optional parts a scan has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parts {
    pub d: bool,
    pub z: bool,
    pub delta_bias: bool,
    pub initial_state: bool,
    pub delta_softplus: bool,
    /// Whether the last state has a gradient.
    pub grad_last_state: bool,
}

impl Parts {
    pub const ALL: Parts = Parts { d: true, z: true, delta_bias: true, initial_state: true, delta_softplus: true, grad_last_state: true };

    /// The combination with this number, of 64.
    pub fn numbered(number: usize) -> Self {
        let bit = |i: usize| number >> i & 1 == 1;
        Parts { d: bit(0), z: bit(1), delta_bias: bit(2), initial_state: bit(3), delta_softplus: bit(4), grad_last_state: bit(5) }
    }
}

/// A scan with the gradients of its outputs. Element type f64, or f32 after [`Case::narrow`].
#[derive(Clone, Debug)]
pub struct Case<T> {
    pub dims: Dims,
    pub u: Vec<T>,
    pub delta: Vec<T>,
    pub a: Vec<T>,
    pub b: Vec<T>,
    pub c: Vec<T>,
    pub d: Option<Vec<T>>,
    pub z: Option<Vec<T>>,
    pub delta_bias: Option<Vec<T>>,
    pub initial_state: Option<Vec<T>>,
    pub delta_softplus: bool,
    pub grad_y: Vec<T>,
    pub grad_last_state: Option<Vec<T>>,
}

/// What comes out, and all gradients.
#[derive(Clone, Debug, PartialEq)]
pub struct Results<T> {
    pub y: Vec<T>,
    pub last_state: Vec<T>,
    pub u: Vec<T>,
    pub delta: Vec<T>,
    pub a: Vec<T>,
    pub b: Vec<T>,
    pub c: Vec<T>,
    pub d: Option<Vec<T>>,
    pub z: Option<Vec<T>>,
    pub delta_bias: Option<Vec<T>>,
    pub initial_state: Vec<T>,
}

/// A small generator (xorshift64*), so that a seed names a case.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// Uniform in 0..1.
    pub fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in -scale..scale, rounded to f32 so that f64 and f32 compute from the same values.
    pub fn around(&mut self, count: usize, scale: f64) -> Vec<f64> {
        (0..count).map(|_| f64::from(((self.unit() * 2.0 - 1.0) * scale) as f32)).collect()
    }
}

impl Case<f64> {
    pub fn random(dims: Dims, parts: Parts, seed: u64) -> Self {
        let random = &mut Random::new(seed);
        let Dims { sequences: s, frames: l, channels: d, states: n } = dims;
        let delta = if parts.delta_softplus {
            random.around(s * l * d, 3.0)
        } else {
            // log-uniform in 1e-3..1
            (0..s * l * d).map(|_| f64::from(1e-3f64.powf(random.unit()) as f32)).collect()
        };
        Self {
            dims,
            u: random.around(s * l * d, 2.0),
            delta,
            a: random.around(d * n, 1.0).into_iter().map(|a| -f64::from((a.abs() * 4.0 + 0.05) as f32)).collect(),
            b: random.around(s * l * n, 1.0),
            c: random.around(s * l * n, 1.0),
            d: parts.d.then(|| random.around(d, 1.0)),
            z: parts.z.then(|| random.around(s * l * d, 3.0)),
            delta_bias: parts.delta_bias.then(|| random.around(d, if parts.delta_softplus { 1.0 } else { 0.0 })),
            initial_state: parts.initial_state.then(|| random.around(s * d * n, 1.0)),
            delta_softplus: parts.delta_softplus,
            grad_y: random.around(s * l * d, 1.0),
            grad_last_state: parts.grad_last_state.then(|| random.around(s * d * n, 1.0)),
        }
    }

    pub fn narrow(&self) -> Case<f32> {
        let narrow = |values: &Vec<f64>| values.iter().map(|&value| value as f32).collect::<Vec<_>>();
        Case {
            dims: self.dims,
            u: narrow(&self.u),
            delta: narrow(&self.delta),
            a: narrow(&self.a),
            b: narrow(&self.b),
            c: narrow(&self.c),
            d: self.d.as_ref().map(narrow),
            z: self.z.as_ref().map(narrow),
            delta_bias: self.delta_bias.as_ref().map(narrow),
            initial_state: self.initial_state.as_ref().map(narrow),
            delta_softplus: self.delta_softplus,
            grad_y: narrow(&self.grad_y),
            grad_last_state: self.grad_last_state.as_ref().map(narrow),
        }
    }
}

impl<T: Copy + Default> Case<T> {
    pub fn inputs(&self) -> Inputs<'_, T> {
        Inputs {
            u: &self.u,
            delta: &self.delta,
            a: &self.a,
            b: &self.b,
            c: &self.c,
            d: self.d.as_deref(),
            z: self.z.as_deref(),
            delta_bias: self.delta_bias.as_deref(),
            initial_state: self.initial_state.as_deref(),
            delta_softplus: self.delta_softplus,
        }
    }

    /// Runs a forward and a backward pass on buffers full of `rubbish`.
    fn run(
        &self,
        rubbish: T,
        forward: impl FnOnce(&Inputs<'_, T>, &mut [T], &mut [T]) -> Result<(), Error>,
        backward: impl FnOnce(&Inputs<'_, T>, &OutputGrads<'_, T>, &mut InputGrads<'_, T>) -> Result<(), Error>,
    ) -> Results<T> {
        let Dims { sequences: s, channels, states, .. } = self.dims;
        let like = |values: &Vec<T>| vec![rubbish; values.len()];
        let mut out = Results {
            y: like(&self.u),
            last_state: vec![rubbish; s * channels * states],
            u: like(&self.u),
            delta: like(&self.delta),
            a: like(&self.a),
            b: like(&self.b),
            c: like(&self.c),
            d: self.d.as_ref().map(like),
            z: self.z.as_ref().map(like),
            delta_bias: self.delta_bias.as_ref().map(like),
            initial_state: vec![rubbish; s * channels * states],
        };
        forward(&self.inputs(), &mut out.y, &mut out.last_state).expect("forward");
        let from = OutputGrads { y: &self.grad_y, last_state: self.grad_last_state.as_deref() };
        let mut to = InputGrads {
            u: &mut out.u,
            delta: &mut out.delta,
            a: &mut out.a,
            b: &mut out.b,
            c: &mut out.c,
            d: out.d.as_deref_mut(),
            z: out.z.as_deref_mut(),
            delta_bias: out.delta_bias.as_deref_mut(),
            initial_state: Some(&mut out.initial_state),
        };
        backward(&self.inputs(), &from, &mut to).expect("backward");
        out
    }
}

impl<T: oracle::Real> Case<T> {
    pub fn by_oracle(&self, rubbish: T) -> Results<T> {
        self.run(
            rubbish,
            |inputs, y, last| oracle::forward(self.dims, inputs, y, Some(last)),
            |inputs, from, to| oracle::backward(self.dims, inputs, from, to),
        )
    }
}

impl Case<f32> {
    pub fn by_form(&self, form: Form, threads: &dyn ParallelFor) -> Results<f32> {
        self.run(
            f32::NAN,
            |inputs, y, last| form.forward(self.dims, inputs, y, Some(last), threads),
            |inputs, from, to| form.backward(self.dims, inputs, from, to, threads),
        )
    }
}

/// Forms that this CPU can run.
pub fn forms() -> impl Iterator<Item = Form> {
    Form::ALL.into_iter().filter(|form| form.is_available())
}

/// The largest difference, relative to the largest value of the truth (or to 1, where all are small).
pub fn relative_error(found: &[f32], truth: &[f64]) -> f64 {
    assert_eq!(found.len(), truth.len());
    let scale = truth.iter().fold(1.0, |scale: f64, value| scale.max(value.abs()));
    found.iter().zip(truth).fold(0.0, |worst: f64, (&found, &truth)| {
        let difference = (f64::from(found) - truth).abs();
        if difference.is_nan() { f64::INFINITY } else { worst.max(difference / scale) }
    })
}

impl Results<f32> {
    /// Compares everything; `what` names the case in a failure.
    pub fn assert_near(&self, truth: &Results<f64>, forward: f64, gradients: f64, what: &str) {
        let check = |name: &str, found: &[f32], truth: &[f64], tolerance: f64| {
            let error = relative_error(found, truth);
            assert!(error <= tolerance, "{what}: {name} is off by {error:.2e}, more than {tolerance:.0e}");
        };
        check("y", &self.y, &truth.y, forward);
        check("last_state", &self.last_state, &truth.last_state, forward);
        check("du", &self.u, &truth.u, gradients);
        check("ddelta", &self.delta, &truth.delta, gradients);
        check("dA", &self.a, &truth.a, gradients);
        check("dB", &self.b, &truth.b, gradients);
        check("dC", &self.c, &truth.c, gradients);
        check("dinitial_state", &self.initial_state, &truth.initial_state, gradients);
        for (name, found, truth) in
            [("dD", &self.d, &truth.d), ("dz", &self.z, &truth.z), ("ddelta_bias", &self.delta_bias, &truth.delta_bias)]
        {
            assert_eq!(found.is_some(), truth.is_some());
            if let (Some(found), Some(truth)) = (found, truth) {
                check(name, found, truth, gradients);
            }
        }
    }
}
