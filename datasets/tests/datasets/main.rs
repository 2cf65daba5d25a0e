//! Tests of the crate from outside, in one binary.
#![allow(clippy::print_stdout)] // figures beside the golden ones
#![allow(clippy::excessive_precision)] // values as numpy prints them

mod baselines;
mod clip_folder;
mod evaluation;
mod mocap;
mod motion_bert;
mod mpi_inf_3dhp;
mod noise;
mod own_clips;
mod people;
mod pickles;
mod prefetch;
mod protocol;
mod sampler;
mod video_pose_3d;

use std::path::PathBuf;
use std::sync::Arc;

use datasets::{MocapSet, synthetic};

/// `../shared/NAME` beside the workspace, or `None` with a plain message.
fn shared(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared")).join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: ../shared is absent");
    None
}

/// Twelve walks of 120 frames.
fn walks() -> Arc<MocapSet> {
    Arc::new(synthetic::walks("walks", 12, 120, 1).expect("walkers are people"))
}
