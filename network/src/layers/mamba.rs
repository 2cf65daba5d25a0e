//! The Mamba mixer: selective (ours, the default) and global-mean (what the original's files were trained with).

use super::Linear;
use crate::{Init, SelectiveScan, Tensor, WeightError, Weights};

/// The weights that both forms share. C channels, inner size E = 2 C, N states, kernel K.
pub struct MambaWeights<T> {
    a_log: T, // (E, N)
    d: T,     // (E)
    in_proj: Linear<T>,
    conv_weight: T, // (E, 1, K)
    conv_bias: T,   // (E)
    x_proj: Linear<T>,
    dt_proj: Linear<T>,
    out_proj: Linear<T>,
    inner: usize,
    states: usize,
}

impl<T> MambaWeights<T> {
    /// Inner size over channels.
    pub const EXPAND: usize = 2;

    /// # Errors
    /// [`WeightError`].
    pub fn new(weights: &Weights<'_, T>, channels: usize, states: usize, kernel: usize) -> Result<Self, WeightError> {
        let inner = Self::EXPAND * channels;
        let conv = weights.at("conv1d");
        Ok(Self {
            a_log: weights.parameter("A_log", &[inner, states], Init::LogArange)?,
            d: weights.parameter("D", &[inner], Init::Constant(1.0))?,
            in_proj: Linear::without_bias(&weights.at("in_proj"), channels, 2 * inner)?,
            conv_weight: conv.parameter("weight", &[inner, 1, kernel], Init::fan_in(kernel))?,
            conv_bias: conv.parameter("bias", &[inner], Init::fan_in(kernel))?,
            x_proj: Linear::without_bias(&weights.at("x_proj"), inner, 2 * states)?,
            // Mamba's initialisation: delta between 1 ms and 100 ms of a unit-time system, so that memories of many
            // lengths exist from the start. The weight is Mamba's dt_rank^-1/2 with full rank.
            dt_proj: Linear::with_init(
                &weights.at("dt_proj"),
                inner,
                inner,
                Init::fan_in(inner),
                Init::InverseSoftplusLogUniform { min: 1e-3, max: 1e-1 },
            )?,
            out_proj: Linear::without_bias(&weights.at("out_proj"), inner, channels)?,
            inner,
            states,
        })
    }
}

impl<T: Tensor> MambaWeights<T> {
    fn a(&self) -> T {
        self.a_log.exp().neg() // (E, N)
    }

    /// x (S, L, C) -> u, z (S, L, E), after the causal convolution and SiLU on u; and the convolution's last state.
    fn project_in(&self, x: &T, conv_state: Option<&T>) -> (T, T, T) {
        let [u, z] = self.in_proj.forward(x).split_last([self.inner; 2]); // (S, L, E) each
        let (u, conv_state) = u.causal_conv(&self.conv_weight, &self.conv_bias, conv_state);
        (u.silu(), z, conv_state)
    }

    /// u (S, L, E) -> B, C (S, L, N).
    fn input_dependent_b_c(&self, u: &T) -> [T; 2] {
        self.x_proj.forward(u).split_last([self.states; 2])
    }
}

/// What a Mamba layer remembers between frames.
#[derive(Clone)]
pub struct MambaState<T> {
    /// Last K - 1 inputs of the convolution, (S, K - 1, E)
    pub conv: T,
    /// (S, E, N)
    pub scan: T,
}

/// The true mixer: `h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t`, `y_t = C_t . h_t + D u_t`, gated by silu(z).
pub struct Mamba<T>(pub MambaWeights<T>);

impl<T: Tensor> Mamba<T> {
    /// x (S, L, C) -> (S, L, C): each sequence on its own, from an empty state.
    #[track_caller]
    pub fn forward(&self, x: &T) -> T {
        self.step(x, None).0
    }

    /// The same from and to a state: a sequence in pieces, down to one frame at a time.
    #[track_caller]
    pub fn step(&self, x: &T, state: Option<&MambaState<T>>) -> (T, MambaState<T>) {
        let weights = &self.0;
        let (u, z, conv) = weights.project_in(x, state.map(|s| &s.conv));
        let [b, c] = weights.input_dependent_b_c(&u);
        let delta = weights.dt_proj.forward(&u); // (S, L, E), before softplus
        let (y, scan) = T::selective_scan(&SelectiveScan {
            u: &u,
            delta: &delta,
            a: &weights.a(),
            b: &b,
            c: &c,
            d: Some(&weights.d),
            z: Some(&z),
            delta_bias: None,
            initial_state: state.map(|s| &s.scan),
            delta_softplus: true,
        });
        (weights.out_proj.forward(&y), MambaState { conv, scan })
    }
}

/// The original's shortcut: no recurrence, `y = ((mean_T(u) A) * B_t * C_t) A^T + D u`; delta is never used.
pub struct GlobalMeanMamba<T>(pub MambaWeights<T>);

impl<T: Tensor> GlobalMeanMamba<T> {
    /// x (S, L, C) -> (S, L, C).
    #[track_caller]
    pub fn forward(&self, x: &T) -> T {
        let weights = &self.0;
        let (u, z, _) = weights.project_in(x, None);
        let [b, c] = weights.input_dependent_b_c(&u);
        let a = weights.a(); // (E, N)
        let state = u.mean_over_sequence().matmul(&a); // (S, 1, N)
        let y = state.mul(&b).mul(&c).linear(&a, None); // (S, L, N) A^T -> (S, L, E)
        let y = y.add(&u.mul(&weights.d)).mul(&z.silu());
        weights.out_proj.forward(&y)
    }
}
