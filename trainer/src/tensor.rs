//! The eager tensor: `network::Tensor` on libtorch.

use network::{Axis, Context, SelectiveScan, layers::BatchNorm};
use poselift_scan_torch::ScanTensors;
use tch::{Kind, Tensor};

/// A libtorch tensor that the layers of `network` compute with. Gradients flow as libtorch's autograd has them.
///
/// Sizes below: B batch, T frames, J joints, C channels, h heads; S = B J sequences of L = T frames.
#[derive(Debug)]
pub struct Eager(pub Tensor);

impl Clone for Eager {
    /// Shares the storage and the place in the graph.
    fn clone(&self) -> Self {
        Self(self.0.shallow_clone())
    }
}

impl From<Tensor> for Eager {
    fn from(tensor: Tensor) -> Self {
        Self(tensor)
    }
}

impl Eager {
    /// Sizes of the four axes of a pose sequence.
    #[track_caller]
    fn sizes4(&self) -> [i64; 4] {
        let sizes = self.0.size();
        sizes.as_slice().try_into().unwrap_or_else(|_| panic!("expected four axes (B, T, J, C), found {sizes:?}"))
    }

    /// The last axis's size.
    fn channels(&self) -> i64 {
        self.0.size().last().copied().unwrap_or(1)
    }
}

impl network::Tensor for Eager {
    fn add(&self, other: &Self) -> Self {
        Self(&self.0 + &other.0)
    }

    fn mul(&self, other: &Self) -> Self {
        Self(&self.0 * &other.0)
    }

    fn neg(&self) -> Self {
        Self(self.0.neg())
    }

    fn exp(&self) -> Self {
        Self(self.0.exp())
    }

    fn relu(&self) -> Self {
        Self(self.0.relu())
    }

    fn gelu(&self) -> Self {
        Self(self.0.gelu("none"))
    }

    fn silu(&self) -> Self {
        Self(self.0.silu())
    }

    fn tanh(&self) -> Self {
        Self(self.0.tanh())
    }

    fn softmax_last(&self) -> Self {
        Self(self.0.softmax(-1, None::<Kind>))
    }

    fn layer_norm(&self, weight: &Self, bias: &Self, eps: f64) -> Self {
        Self(self.0.layer_norm([self.channels()], Some(&weight.0), Some(&bias.0), eps, true))
    }

    fn linear(&self, weight: &Self, bias: Option<&Self>) -> Self {
        Self(self.0.linear(&weight.0, bias.map(|b| &b.0)))
    }

    fn matmul(&self, weight: &Self) -> Self {
        Self(self.0.matmul(&weight.0))
    }

    fn split_last<const N: usize>(&self, sizes: [usize; N]) -> [Self; N] {
        let mut start = 0;
        sizes.map(|size| {
            let part = self.0.narrow(-1, start, size as i64);
            start += size as i64;
            Self(part)
        })
    }

    fn concat_last(parts: &[&Self]) -> Self {
        let parts: Vec<&Tensor> = parts.iter().map(|part| &part.0).collect();
        Self(Tensor::cat(&parts, -1))
    }

    fn dropout(&self, probability: f64, context: &Context) -> Self {
        if context.training && probability > 0.0 { Self(self.0.dropout(probability, true)) } else { self.clone() }
    }

    fn attention(q: &Self, k: &Self, v: &Self, heads: usize, axis: Axis, dropout: f64, context: &Context) -> Self {
        let [b, t, j, c] = q.sizes4();
        let (heads, head) = (heads as i64, c / heads as i64);
        let dropout = if context.training { dropout } else { 0.0 };
        let attend = |q: &Tensor, k: &Tensor, v: &Tensor| {
            Tensor::scaled_dot_product_attention(q, k, v, None::<&Tensor>, dropout, false, None, false)
        };
        match axis {
            Axis::Joints => {
                let split = |x: &Self| x.0.reshape([b * t, j, heads, head]).transpose(1, 2); // (B T, h, J, C / h)
                Self(attend(&split(q), &split(k), &split(v)).transpose(1, 2).reshape([b, t, j, c]))
            }
            Axis::Frames => {
                // Joints and heads are independent alike: together they stand where heads do, and nothing is transposed.
                let split = |x: &Self| x.0.reshape([b, t, j * heads, head]).transpose(1, 2); // (B, J h, T, C / h)
                Self(attend(&split(q), &split(k), &split(v)).transpose(1, 2).reshape([b, t, j, c]))
            }
        }
    }

    fn mix_joints(&self, matrix: &Self) -> Self {
        Self(matrix.0.matmul(&self.0)) // (J, J) (B, T, J, C)
    }

    fn mix_frames_top_k(&self, features: &Self, k: usize) -> Self {
        // (B, J, T, T): rows and columns of A scaled, no diagonal matrix built.
        let propagation = tch::no_grad(|| {
            let nodes = features.0.detach().transpose(1, 2); // (B, J, T, C)
            let similarity = nodes.matmul(&nodes.transpose(2, 3));
            let (largest, _) = similarity.topk(k as i64, -1, true, true);
            let threshold = largest.narrow(-1, k as i64 - 1, 1); // (B, J, T, 1)
            let adjacency = similarity.ge_tensor(&threshold).to_kind(similarity.kind());
            let scale = adjacency.sum_dim_intlist([-1i64].as_slice(), true, None::<Kind>).rsqrt(); // D^-1/2, (B, J, T, 1)
            adjacency * &scale * scale.transpose(2, 3)
        });
        Self(propagation.matmul(&self.0.transpose(1, 2)).transpose(1, 2)) // (B, J, T, C) -> (B, T, J, C)
    }

    fn batch_norm(&self, norm: &BatchNorm<Self>, axis: Axis, context: &Context) -> Self {
        let [b, t, j, c] = self.sizes4();
        let nodes_second = match axis {
            Axis::Joints => self.0.reshape([b * t, j, c]),
            Axis::Frames => self.0.reshape([b, t, j * c]), // statistics over B, J and C either way
        };
        if context.batch_statistics {
            let _ = norm.num_batches_tracked.0.shallow_clone().g_add_scalar_(1);
        }
        let normed = nodes_second.batch_norm(
            Some(&norm.weight.0),
            Some(&norm.bias.0),
            Some(&norm.running_mean.0),
            Some(&norm.running_var.0),
            context.batch_statistics,
            BatchNorm::<Self>::MOMENTUM,
            BatchNorm::<Self>::EPS,
            true,
        );
        Self(normed.reshape([b, t, j, c]))
    }

    fn to_joint_sequences(&self) -> Self {
        let [b, t, j, c] = self.sizes4();
        Self(self.0.transpose(1, 2).reshape([b * j, t, c]))
    }

    fn to_pose_sequences(&self, joints: usize) -> Self {
        Self(self.split_batch_and_joints(joints).0.transpose(1, 2)) // a view: the next operation reads it where it lies
    }

    fn reshape_untransposed(&self) -> Self {
        let [b, t, j, c] = self.sizes4();
        Self(self.0.reshape([b, j, t, c]))
    }

    fn reshape_back_untransposed(&self) -> Self {
        let [b, j, t, c] = self.sizes4();
        Self(self.0.reshape([b, t, j, c]))
    }

    fn merge_batch_and_joints(&self) -> Self {
        let [b, j, t, c] = self.sizes4();
        Self(self.0.reshape([b * j, t, c]))
    }

    fn split_batch_and_joints(&self, joints: usize) -> Self {
        let sizes = self.0.size();
        let (s, t, c) = (sizes[0], sizes[1], sizes[2]);
        Self(self.0.reshape([s / joints as i64, joints as i64, t, c]))
    }

    fn mean_over_sequence(&self) -> Self {
        Self(self.0.mean_dim([1i64].as_slice(), true, None::<Kind>))
    }

    fn mean_over_frames_and_joints(&self) -> Self {
        Self(self.0.mean_dim([1i64, 2].as_slice(), false, None::<Kind>))
    }

    fn expand_sample(&self) -> Self {
        Self(self.0.unsqueeze(-1).unsqueeze(-1))
    }

    fn causal_conv(&self, weight: &Self, bias: &Self, state: Option<&Self>) -> (Self, Self) {
        let (s, l, e) = (self.0.size()[0], self.0.size()[1], self.0.size()[2]);
        let kernel = weight.0.size()[2];
        let padded = match state {
            Some(state) => Tensor::cat(&[&state.0, &self.0], 1),
            None => Tensor::cat(&[&Tensor::zeros([s, kernel - 1, e], (self.0.kind(), self.0.device())), &self.0], 1),
        }; // (S, L + K - 1, E)
        // Channels stay last: one multiply-add per tap is faster than two transposes around a convolution.
        let taps = weight.0.squeeze_dim(1).transpose(0, 1); // (K, E)
        let mut y = bias.0.addcmul(&padded.narrow(1, 0, l), &taps.get(0)); // (S, L, E)
        for tap in 1..kernel {
            y = y.addcmul(&padded.narrow(1, tap, l), &taps.get(tap));
        }
        (Self(y), Self(padded.narrow(1, l, kernel - 1)))
    }

    fn selective_scan(inputs: &SelectiveScan<'_, Self>) -> (Self, Self) {
        let tensors = ScanTensors {
            u: &inputs.u.0,
            delta: &inputs.delta.0,
            a: &inputs.a.0,
            b: &inputs.b.0,
            c: &inputs.c.0,
            d: inputs.d.map(|d| &d.0),
            z: inputs.z.map(|z| &z.0),
            delta_bias: inputs.delta_bias.map(|bias| &bias.0),
            initial_state: inputs.initial_state.map(|state| &state.0),
            delta_softplus: inputs.delta_softplus,
        };
        // Shapes were made by the layer from weights that were checked at load; the device's kernels when it was opened.
        let (y, last_state) = poselift_scan_torch::selective_scan(&tensors).unwrap_or_else(|e| panic!("{e}"));
        (Self(y), Self(last_state))
    }
}
