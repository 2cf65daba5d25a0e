//! `runtime`'s step engine on the live family's graphs: frame by frame is the sequence, in ONNX Runtime and in tract.

mod common;

use std::path::{Path, PathBuf};

use common::{drawn_live_weights, noise};
use export::live::{self, Form};
use network::LiveConfig;
use prost::Message as _;
use runtime::{Backend, Engine, EngineOptions, StepEngine};

const FRAMES: usize = 12;
const IN: usize = 17 * 3;
const OUT: usize = 17 * 3;

fn write(folder: &Path, config: &LiveConfig, form: Form) -> PathBuf {
    let path = folder.join(format!("{form:?}.onnx"));
    std::fs::write(&path, live::record(config, &drawn_live_weights(config), form).unwrap().encode_to_vec()).unwrap();
    path
}

fn options(backend: Backend) -> EngineOptions {
    EngineOptions { backend, threads: 1, ..EngineOptions::default() }
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn steps_are_the_sequence_in_both_engines_at_any_batch() {
    let config = LiveConfig { n_layers: 2, dim_feat: 16, dim_rep: 24, num_heads: 4, d_state: 8, ..LiveConfig::xs() };
    let folder = tempfile::tempdir().unwrap();
    let (sequence_path, step_path) = (write(folder.path(), &config, Form::Sequence), write(folder.path(), &config, Form::Step));
    let mut by_backend = Vec::new();
    for backend in [Backend::Ort, Backend::Tract] {
        let sequence = Engine::open(&sequence_path, &options(backend)).unwrap();
        let step = StepEngine::open(&step_path, &options(backend)).unwrap();
        let [conv, scan] = config.state_shapes().map(|[rows, columns]| rows * columns);
        assert_eq!(step.state_len(), config.n_layers * 17 * (conv + scan));
        assert_eq!((step.channels(), step.metadata()), (3, None));
        let mut all = Vec::new();
        for batch in [1, 2, 3, 5, 8] {
            let x = noise(batch as u64, batch * FRAMES * IN);
            let whole = sequence.run(&x, [batch, FRAMES, 17, 3]).unwrap();
            assert!(whole.iter().all(|v| v.is_finite()) && whole.iter().any(|v| v.abs() > 1e-2));
            let mut states = vec![vec![0.0; step.state_len()]; batch];
            for t in 0..FRAMES {
                let frames: Vec<f32> = (0..batch).flat_map(|b| &x[(b * FRAMES + t) * IN..][..IN]).copied().collect();
                let mut states: Vec<&mut [f32]> = states.iter_mut().map(Vec::as_mut_slice).collect();
                let poses = step.step(&frames, &mut states).unwrap();
                let expected: Vec<f32> = (0..batch).flat_map(|b| &whole[(b * FRAMES + t) * OUT..][..OUT]).copied().collect();
                let apart = difference(&poses, &expected);
                assert!(apart < 1e-5, "{backend}, batch {batch}, frame {t}: step and sequence differ by {apart:.1e}");
            }
            all.extend(whole);
        }
        by_backend.push(all);
    }
    let apart = difference(&by_backend[0], &by_backend[1]);
    eprintln!("ort and tract differ by {apart:.1e}");
    assert!(apart < 1e-4, "ort and tract differ by {apart:.1e}");
}

#[test]
fn streams_join_and_leave_a_batch() {
    let config = LiveConfig { n_layers: 1, dim_feat: 8, dim_rep: 8, num_heads: 2, d_state: 4, ..LiveConfig::xs() };
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), &config, Form::Step);
    for backend in [Backend::Ort, Backend::Tract] {
        let engine = StepEngine::open(&path, &options(backend)).unwrap();
        let x = noise(9, 3 * FRAMES * IN);
        let frame = |person: usize, t: usize| &x[(person * FRAMES + t) * IN..][..IN];
        // Each alone, then together: person p joins at tick 2 p, and person 0 leaves after its sixth frame.
        let alone: Vec<Vec<Vec<f32>>> = (0..3)
            .map(|p| {
                let mut state = vec![0.0; engine.state_len()];
                (0..FRAMES).map(|t| engine.step(frame(p, t), &mut [&mut state]).unwrap()).collect()
            })
            .collect();
        let mut states = vec![vec![0.0; engine.state_len()]; 3];
        for tick in 0..FRAMES + 4 {
            let due: Vec<(usize, usize)> =
                (0..3).filter(|p| tick >= 2 * p && tick - 2 * p < if *p == 0 { 6 } else { FRAMES }).map(|p| (p, tick - 2 * p)).collect();
            if due.is_empty() {
                continue;
            }
            let input: Vec<f32> = due.iter().flat_map(|&(p, t)| frame(p, t)).copied().collect();
            let mut of_due: Vec<&mut [f32]> =
                states.iter_mut().enumerate().filter(|(p, _)| due.iter().any(|(q, _)| p == q)).map(|(_, s)| s.as_mut_slice()).collect();
            let poses = engine.step(&input, &mut of_due).unwrap();
            for (pose, (p, t)) in poses.chunks(OUT).zip(due) {
                assert!(difference(pose, &alone[p][t]) < 1e-5, "{backend}: person {p}, frame {t}");
            }
        }
    }
}

/// The whole of the shipped window model in tract: its top-k graph may break near ties another way, so outputs are counted.
#[test]
fn the_window_model_runs_in_tract() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/clip-xs.onnx");
    let [ort, tract] = [Backend::Ort, Backend::Tract].map(|backend| Engine::open(model, &options(backend)).unwrap());
    let frames = ort.metadata().unwrap().frames;
    let (mut near, mut all) = (0, 0);
    for seed in 0..4 {
        let mut x = noise(seed, frames * IN);
        // A person who moves slowly: noise alone has no near ties, motion has.
        for t in 1..frames {
            for i in 0..IN {
                x[t * IN + i] = 0.9 * x[(t - 1) * IN + i] + 0.1 * x[t * IN + i];
            }
        }
        let shape = [1, frames, 17, 3];
        let (a, b) = (ort.run(&x, shape).unwrap(), tract.run(&x, shape).unwrap());
        assert!(b.iter().all(|value| value.is_finite()));
        near += a.iter().zip(&b).filter(|(a, b)| (*a - *b).abs() < 1e-4).count();
        all += a.len();
    }
    let share = near as f64 / all as f64;
    eprintln!("{:.2} % of outputs within 1e-4", 100.0 * share);
    assert!(share > 0.9, "{share}");
}
