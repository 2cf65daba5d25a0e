//! Data sets, random cameras and detector noise.
//!
//! Motion capture ([`MocapSet`]) is turned into training samples by a [`ClipSampler`] (another body, frame rate, camera and detector noise
//! for every draw), made ahead of use by a [`Prefetcher`]. Everything drawn follows from a seed and the sample's number alone.
//! [`evaluation`] makes the clips that figures are measured on and measures any predictor on them; [`baselines`] are the predictors that a
//! lifter must beat. [`ClipFolder`] reads the reference repositories' clips.
//!
//! Units and axes: world space is right-handed, z up, mm; camera space is x right, y down, z away, mm; pixels are of the full image.

pub mod baselines;
pub mod camera;
mod cholesky;
pub mod clip_folder;
mod error;
pub mod evaluation;
pub mod mocap;
pub mod motion;
pub mod noise;
mod prefetch;
mod random;
mod sample;
mod sampler;
pub mod synthetic;

pub use baselines::{LinearRegression, MeanPose};
pub use camera::{CameraKind, View};
pub use clip_folder::{ClipFolder, ClipFolderOptions};
pub use error::Error;
pub use evaluation::{EvaluationClip, EvaluationOptions, EvaluationSet, Figures, Report, Windowing, evaluate};
pub use mocap::{MocapSet, MocapSplits, open_dir};
pub use motion::{Augmentation, Fps};
pub use noise::NoiseRecipe;
pub use prefetch::{PrefetchOptions, Prefetcher};
pub use sample::{Batch, Sample, SampleSource, Truth};
pub use sampler::{ClipSampler, SamplerOptions};
