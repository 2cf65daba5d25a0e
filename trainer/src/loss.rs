//! Training losses over predictions and targets (B, T, J, 3).

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// How much each term counts. The defaults are the official recipe.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossWeights {
    /// Mean joint distance.
    pub mpjpe: f64,
    /// Mean joint distance after the best scale of each frame.
    pub n_mpjpe: f64,
    /// Mean difference of the joints' displacement from frame to frame.
    pub velocity: f64,
}

impl Default for LossWeights {
    fn default() -> Self {
        Self { mpjpe: 1.0, n_mpjpe: 0.5, velocity: 20.0 }
    }
}

/// The terms of one batch, before their weights, and their weighted sum. All are scalars.
#[derive(Debug)]
pub struct Losses {
    /// What is differentiated.
    pub total: Tensor,
    /// Mean joint distance.
    pub mpjpe: Tensor,
    /// See [`n_mpjpe`].
    pub n_mpjpe: Tensor,
    /// See [`velocity`].
    pub velocity: Tensor,
}

impl LossWeights {
    /// All terms; those of weight 0 are computed for the log and cost no backward pass.
    pub fn of(&self, predicted: &Tensor, target: &Tensor) -> Losses {
        let (mpjpe, n_mpjpe, velocity) = (mpjpe(predicted, target), n_mpjpe(predicted, target), velocity(predicted, target));
        let mut total = Tensor::zeros([], (predicted.kind(), predicted.device()));
        for (weight, term) in [(self.mpjpe, &mpjpe), (self.n_mpjpe, &n_mpjpe), (self.velocity, &velocity)] {
            if weight != 0.0 {
                total += term * weight;
            }
        }
        Losses { total, mpjpe, n_mpjpe, velocity }
    }
}

impl LossWeights {
    /// The loss of a live lifter: predictions (B, T, J, 3 K), for each of the K look-aheads k the poses of frames max(t - k, 0), against
    /// targets (B, T, J, 3). The total is that of the first look-ahead plus the mean of the others' (each sees more of the future and is
    /// easier, and a model is most often used with the first); the terms are those of the first.
    pub fn of_look_aheads(&self, predicted: &Tensor, target: &Tensor, look_aheads: &[usize]) -> Losses {
        let frames = target.size()[1];
        let delayed = |k: usize| {
            let from: Vec<i64> = (0..frames).map(|t| (t - k as i64).max(0)).collect();
            target.index_select(1, &Tensor::from_slice(&from).to_device(target.device()))
        };
        let at = |index: usize| self.of(&predicted.narrow(-1, 3 * index as i64, 3), &delayed(look_aheads[index]));
        let mut first = at(0);
        let others = (look_aheads.len() - 1) as f64;
        for index in 1..look_aheads.len() {
            first.total += at(index).total / others;
        }
        first
    }
}

/// Length over the last axis. libtorch's gradient of it is 0, not NaN, where the length is 0.
fn length(x: &Tensor) -> Tensor {
    x.linalg_norm(2.0, [-1i64].as_slice(), false, None::<Kind>)
}

/// Mean |p - t|.
pub fn mpjpe(predicted: &Tensor, target: &Tensor) -> Tensor {
    length(&(predicted - target)).mean(None::<Kind>)
}

/// The same after scaling each frame's prediction by `sum(t . p) / sum(p . p)`.
pub fn n_mpjpe(predicted: &Tensor, target: &Tensor) -> Tensor {
    let over_pose = |x: Tensor| x.sum_dim_intlist([-2i64, -1].as_slice(), true, None::<Kind>); // (B, T, 1, 1)
    // A frame of nothing but zeros has no best scale: the clamp leaves it 0.
    let scale = over_pose(target * predicted) / over_pose(predicted.square()).clamp_min(f64::from(f32::MIN_POSITIVE));
    mpjpe(&(predicted * scale), target)
}

/// Mean |(p_{k+1} - p_k) - (t_{k+1} - t_k)|; 0 for a single frame.
pub fn velocity(predicted: &Tensor, target: &Tensor) -> Tensor {
    let frames = predicted.size()[1];
    if frames < 2 {
        return Tensor::zeros([], (predicted.kind(), predicted.device()));
    }
    let step = |x: &Tensor| x.narrow(1, 1, frames - 1) - x.narrow(1, 0, frames - 1);
    length(&(step(predicted) - step(target))).mean(None::<Kind>)
}
