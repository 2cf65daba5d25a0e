//! Data sets, random cameras and detector noise.
//!
//! Motion capture ([`MocapSet`]) is turned into training samples by a [`ClipSampler`] (another body, frame rate, camera and detector noise
//! for every draw), made ahead of use by a [`Prefetcher`]. Everything drawn follows from a seed and the sample's number alone.
//! [`evaluation`] makes the clips that figures are measured on and measures any predictor on them; [`baselines`] are the predictors that a
//! lifter must beat.
//!
//! The field's own sets: [`MotionBert`] (Human3.6M with a detector's keypoints), [`VideoPose3d`], [`Mpi3dhp`], and [`ClipFolder`], the
//! clips that the reference repositories write; a user's own clips ([`OwnClips`]); motion capture also out of folders of BVH and of CMU's ASF/AMC ([`motion_files`]). Each is checked as it is opened: shapes, joints, units, sides, order of frames; the
//! message names file and field; [`inspect`] says what is in it. [`protocol`] measures predictors on them as the papers do.
//!
//! Units and axes: world space is right-handed, z up, mm; camera space is x right, y down, z away, mm; pixels are of the full image.

pub mod baselines;
pub mod camera;
mod checks;
mod cholesky;
pub mod clip_folder;
mod clip_options;
mod error;
pub mod evaluation;
pub mod inspect;
mod live_evaluation;
mod mapped;
pub mod mocap;
pub mod motion;
pub mod motion_bert;
pub mod motion_files;
pub mod mpi_inf_3dhp;
pub mod noise;
pub mod own_clips;
mod pattern;
mod prefetch;
pub mod protocol;
mod random;
mod sample;
mod sampler;
pub mod split;
pub mod synthetic;
pub mod video_pose_3d;

pub use baselines::{LinearRegression, MeanPose};
pub use camera::{CameraKind, View};
pub use clip_folder::ClipFolder;
pub use clip_options::ClipOptions;
pub use error::Error;
pub use evaluation::{EvaluationClip, EvaluationOptions, EvaluationSet, Figures, Report, Windowing, evaluate};
pub use live_evaluation::{CausalFeeding, SinceStart, errors_since_start, evaluate_causal, evaluate_windows_live};
pub use mocap::{MocapSet, MocapSplits, open_dir};
pub use motion::{Augmentation, Fps};
pub use motion_bert::{MotionBert, MotionBertClips};
pub use mpi_inf_3dhp::{Mpi3dhp, Mpi3dhpClips};
pub use noise::NoiseRecipe;
pub use own_clips::{OwnClip, OwnClips, RecordedOptions, RecordedSampler};
pub use pattern::matches;
pub use prefetch::{PrefetchOptions, Prefetcher};
pub use sample::{Batch, Sample, SampleSource, Truth};
pub use sampler::{ClipSampler, Gaps, SamplerOptions};
pub use video_pose_3d::VideoPose3d;
