//! What binding and CUDA graphs do on a device: that every road says the same, and what each takes. For machines that are lent
//! (`tests/gpu/binding.sh`); runs on a processor too, without the graphs.
//!
//! ```sh
//! cargo run --release -p runtime --example gpu_binding -- cuda STEP.onnx WINDOW.onnx [LIBRARY]
//! ```
#![allow(clippy::print_stdout)]

use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context as _, bail};
use runtime::{Binding, Device, Engine, EngineOptions, StepEngine, StepState};

/// Numbers of a frame, x, y and confidence of each joint.
const FRAME: usize = 17 * 3;
/// Most that two roads may be apart: products of other shapes add up in another order.
const TOLERANCE: f32 = 1e-3;
/// Seconds that a measurement takes.
const MEASURED_S: f64 = 2.0;

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [device, step, window, library @ ..] = arguments.as_slice() else {
        bail!("expected a device, a step graph, a model of windows and perhaps the ONNX Runtime library, found {arguments:?}");
    };
    let device: Device = device.parse().map_err(anyhow::Error::msg)?;
    let roads = Roads { device, library: library.first().map(PathBuf::from) };
    let right = [roads.windows(window).context("windows")?, roads.steps(step).context("steps")?];
    Ok(if right.iter().all(|&right| right) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Roads {
    device: Device,
    library: Option<PathBuf>,
}

impl Roads {
    /// Each road with its name, the plain one first.
    fn all(&self) -> Vec<(&'static str, EngineOptions)> {
        let plain = EngineOptions {
            device: self.device,
            threads: if self.device == Device::Cpu { 1 } else { 0 },
            binding: Binding::Off,
            onnxruntime: self.library.clone(),
            ..EngineOptions::default()
        };
        let bound = EngineOptions { binding: Binding::On, ..plain.clone() };
        let captured = EngineOptions { cuda_graph: true, ..bound.clone() };
        let mut all = vec![("unbound", plain), ("bound", bound)];
        if self.device != Device::Cpu {
            all.push(("CUDA graph", captured));
        }
        all
    }

    fn windows(&self, path: &str) -> anyhow::Result<bool> {
        let engines = self.all().into_iter().map(|(name, options)| Ok((name, Engine::open(path, &options)?)));
        let engines: Vec<(&str, Engine)> = engines.collect::<anyhow::Result<_>>()?;
        let frames = engines[0].1.metadata().map_or(27, |metadata| metadata.frames);
        let (mut right, mut poses) = (true, Vec::new());
        for batch in [1, 64] {
            let shape = [batch, frames, 17, 3];
            // Every road sees other inputs in each call, so that one that feeds an old one again is found out.
            let expected: Vec<Vec<f32>> =
                (0..5).map(|call| engines[0].1.run(&noise(batch * frames, call), shape)).collect::<Result<_, _>>()?;
            for (name, engine) in &engines {
                let mut apart = Vec::new();
                for (call, expected) in expected.iter().enumerate() {
                    engine.run_into(&noise(batch * frames, call), shape, &mut poses)?;
                    apart.extend(poses.iter().zip(expected).map(|(a, b)| (a - b).abs()));
                }
                // A top-k graph may break near ties another way.
                let near = apart.iter().filter(|&&apart| apart < TOLERANCE).count() as f64 / apart.len() as f64;
                right &= near > 0.99;
                let input = noise(batch * frames, 0);
                let ms = measured_ms(|| Ok(engine.run_into(&input, shape, &mut poses)?))?;
                println!("windows, batch {batch:4}, {name:10}: {ms:8.3} ms a call; {:.3} % as unbound", 100.0 * near);
            }
        }
        Ok(right)
    }

    fn steps(&self, path: &str) -> anyhow::Result<bool> {
        let engines = self.all().into_iter().map(|(name, options)| Ok((name, StepEngine::open(path, &options)?)));
        let engines: Vec<(&str, StepEngine)> = engines.collect::<anyhow::Result<_>>()?;
        let mut right = true;
        let expected = comings_and_goings(&engines[0].1)?;
        for (name, engine) in &engines {
            let poses = comings_and_goings(engine)?;
            let apart = poses.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            right &= apart < TOLERANCE && poses.len() == expected.len();
            println!("steps, 300 ticks of up to 40 streams, {name:10}: at most {apart:.1e} from unbound");
        }
        for batch in [1, 64, 1000] {
            for (name, engine) in &engines {
                let mut states = vec![StepState::default(); batch];
                let input = noise(batch, 0);
                let ms = measured_ms(|| Ok(engine.advance(&input, &mut states.iter_mut().collect::<Vec<_>>()).map(drop)?))?;
                println!("steps, {batch:4} streams, {name:10}: {ms:8.3} ms a call, {:8.0} poses/s", 1e3 * batch as f64 / ms);
            }
        }
        Ok(right)
    }
}

/// The poses of streams that join, pause, leave and go on from snapshots, all by the same dice.
fn comings_and_goings(engine: &StepEngine) -> anyhow::Result<Vec<f32>> {
    let (mut random, mut states, mut all) = (1u64, vec![StepState::default(); 20], Vec::new());
    let mut below = |end: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % end
    };
    for tick in 0..300 {
        match below(4) {
            0 if states.len() < 40 => states.push(StepState::default()),
            1 if states.len() > 1 => drop(states.swap_remove(below(states.len()))),
            2 if states.len() < 40 => states.push(states[below(states.len())].clone()),
            _ => {}
        }
        let mut due: Vec<&mut StepState> = states.iter_mut().filter(|_| below(3) > 0).collect();
        if !due.is_empty() {
            let input = noise(due.len(), tick);
            all.extend(engine.advance(&input, &mut due)?);
        }
    }
    Ok(all)
}

/// Frames of somebody who is everywhere.
fn noise(frames: usize, seed: usize) -> Vec<f32> {
    (0..frames * FRAME).map(|i| 0.4 * ((i * 37 + seed * 101) as f32 * 0.11).sin()).collect()
}

/// The median time of a call.
fn measured_ms(mut call: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    (0..5).try_for_each(|_| call())?;
    let (start, mut times_ms) = (Instant::now(), Vec::new());
    while start.elapsed().as_secs_f64() < MEASURED_S {
        let one = Instant::now();
        call()?;
        times_ms.push(1e3 * one.elapsed().as_secs_f64());
    }
    times_ms.sort_by(f64::total_cmp);
    Ok(times_ms[times_ms.len() / 2])
}
