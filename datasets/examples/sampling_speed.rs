//! Prints how many training clips per second one core makes: `cargo run --release -p datasets --example sampling_speed [MOCAP.npz]`.

#![allow(clippy::print_stdout)] // it is its whole purpose

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use datasets::{ClipSampler, MocapSet, SampleSource, SamplerOptions, synthetic};

fn main() -> Result<(), datasets::Error> {
    let set = match std::env::args().nth(1) {
        Some(path) => MocapSet::open(Path::new(&path))?,
        None => synthetic::walks("walks", 20, 500, 0)?,
    };
    let set = Arc::new(set);
    for n_frames in [27, 81, 243] {
        let sampler = ClipSampler::new(Arc::clone(&set), SamplerOptions::new(n_frames, 0))?;
        let order = sampler.order(0);
        let start = Instant::now();
        let mut made = 0;
        while start.elapsed().as_secs_f64() < 3.0 {
            sampler.sample(0, order[made % order.len()])?;
            made += 1;
        }
        println!("{n_frames:4} frames: {:6.0} clips/s of {} samples an epoch", made as f64 / start.elapsed().as_secs_f64(), order.len());
    }
    Ok(())
}
