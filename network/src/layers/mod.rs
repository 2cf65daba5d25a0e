//! The layers, each with `new` (weights by their state-dict names) and `forward`.

mod attention;
mod basic;
mod gcn;
mod graph;
mod mamba;

pub use attention::{Attention, TemporalAttention};
pub use basic::{BatchNorm, LayerNorm, Linear, Mlp};
pub use gcn::SkeletonGcn;
pub use graph::{FrameGraph, GraphConvolution, JointGraph};
pub use mamba::{GlobalMeanMamba, Mamba, MambaState, MambaWeights};
