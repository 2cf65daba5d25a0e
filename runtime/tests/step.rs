//! The step engine: what it opens, what it refuses, what it answers, in both engines.
#![allow(missing_docs)]

mod common;

use common::{FLOAT, Graph, INT64, metadata, rooted, summing};
use pose::normalise::Normalisation;
use runtime::{Backend, EngineOptions, Error, StepEngine};

const BACKENDS: &[Backend] = &[
    Backend::Ort,
    #[cfg(feature = "tract")]
    Backend::Tract,
];
const IN: usize = 17 * 3;

fn open(graph: Graph, backend: Backend) -> Result<StepEngine, Error> {
    let folder = tempfile::tempdir().unwrap();
    let options = EngineOptions { backend, threads: 1, ..EngineOptions::default() };
    StepEngine::open(graph.write(folder.path(), "step.onnx"), &options)
}

/// The error's sentence, which must be one line.
fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    let message = result.unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

/// A stream as `summing` must treat it.
#[derive(Clone)]
struct Oracle {
    sum: [f32; IN],
    fading: f32,
}

impl Oracle {
    fn step(&mut self, frame: &[f32]) -> Vec<f32> {
        self.fading = self.fading * 0.5 + 1.0;
        self.sum.iter_mut().zip(frame).for_each(|(sum, x)| *sum += x);
        self.sum.iter().map(|sum| sum + self.fading).collect()
    }
}

fn frame(stream: usize, t: usize) -> Vec<f32> {
    (0..IN).map(|i| ((i + 7 * stream + 31 * t) as f32 * 0.7).sin()).collect()
}

#[test]
fn every_stream_keeps_its_own_state() {
    for &backend in BACKENDS {
        let engine = open(summing(-1), backend).unwrap();
        assert_eq!((engine.state_len(), engine.channels(), engine.backend()), (4 + IN, 3, backend));
        assert_eq!(engine.inputs().len() + engine.outputs().len(), 6);
        let mut states = vec![vec![0.0; engine.state_len()]; 11];
        let mut oracles = vec![Oracle { sum: [0.0; IN], fading: 0.0 }; 11];
        // Another set of streams at each tick, so the batch changes all the time.
        for t in 0..40 {
            let due: Vec<usize> = (0..11).filter(|stream| (t * 5 + stream * stream) % 4 != 0 || t < 2).collect();
            let input: Vec<f32> = due.iter().flat_map(|&stream| frame(stream, t)).collect();
            let mut of_due: Vec<&mut [f32]> =
                states.iter_mut().enumerate().filter(|(stream, _)| due.contains(stream)).map(|(_, state)| state.as_mut_slice()).collect();
            let poses = engine.step(&input, &mut of_due).unwrap();
            for (pose, &stream) in poses.chunks(IN).zip(&due) {
                let expected = oracles[stream].step(&frame(stream, t));
                assert!(pose.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-4), "{backend}, stream {stream}, frame {t}");
            }
        }
        // In the order of the graph's inputs.
        assert!(states.iter().zip(&oracles).all(|(state, oracle)| (state[0] - oracle.fading).abs() < 1e-5));
    }
}

#[test]
fn a_fixed_batch_takes_fewer_streams_too() {
    for &backend in BACKENDS {
        let engine = open(summing(3), backend).unwrap();
        assert_eq!(engine.max_batch(), 3);
        let mut states = vec![vec![0.0; engine.state_len()]; 4];
        let mut all: Vec<&mut [f32]> = states.iter_mut().map(Vec::as_mut_slice).collect();
        for streams in [1, 2, 3] {
            let input: Vec<f32> = (0..streams).flat_map(|stream| frame(stream, 0)).collect();
            all[..streams].iter_mut().for_each(|state| state.fill(0.0));
            let poses = engine.step(&input, &mut all[..streams]).unwrap();
            for (stream, pose) in poses.chunks(IN).enumerate() {
                assert!(pose.iter().zip(frame(stream, 0)).all(|(a, b)| (a - b - 1.0).abs() < 1e-5), "{backend}");
            }
        }
        let message = refusal(engine.step(&[0.0; 4 * IN], &mut all));
        assert!(message.contains("of 1 to 3 streams, but 4 streams was given"), "{message}");
    }
}

#[test]
fn wrong_inputs_are_refused_and_change_nothing() {
    for &backend in BACKENDS {
        let engine = open(summing(-1), backend).unwrap();
        let mut states = vec![vec![7.0; engine.state_len()]; 2];
        let before = states.clone();
        let [first, second] = &mut states[..] else { unreachable!() };
        let mut both: Vec<&mut [f32]> = vec![first, second];
        assert!(refusal(engine.step(&[], &mut [])).contains("0 streams"));
        assert!(refusal(engine.step(&[0.0; IN], &mut both)).contains("(2, 17, 3) = 102 numbers, but 51 numbers"));
        assert!(refusal(engine.step(&[0.0; 2 * 17 * 2], &mut both)).contains("68 numbers"));
        let mut short = vec![0.0; engine.state_len() - 1];
        assert!(refusal(engine.step(&[0.0; IN], &mut [&mut short])).contains("55 numbers of state for each stream, but 54"));
        let mut input = vec![0.0; 2 * IN];
        input[IN + 4 * 3 + 1] = f32::NAN;
        let message = refusal(engine.step(&input, &mut both));
        assert!(message.contains("NaN at batch item 1, frame 0, joint 4"), "{message}");
        assert_eq!(states, before);
    }
}

/// The sum as [`summing`] has it, but what comes out as the next one is reshaped. ONNX Runtime would see the shape when it opens the
/// file, so for it the shape is made of the input; tract must know it.
fn failing(shape: [i64; 4], backend: Backend) -> Graph {
    let graph = Graph::default()
        .input("keypoints", FLOAT, &[-1, 1, 17, 3])
        .input("sum", FLOAT, &[-1, 1, 17, 3])
        .node("Add", &["sum", "keypoints"], "added")
        .node("Neg", &["added"], "poses")
        .output("poses", FLOAT, &[-1, 1, 17, 3])
        .output("next_sum", FLOAT, &[-1, -1, -1, -1]);
    let graph = match backend {
        Backend::Tract => graph.integers("shape", &shape),
        Backend::Ort => graph
            .constant("zero", &[1], &[0.0])
            .constant("sizes", &[4], &shape.map(|size| size as f32))
            .node_with("ReduceSum", &["keypoints"], "total", ("keepdims", 0))
            .node("Mul", &["total", "zero"], "nothing")
            .node("Add", &["nothing", "sizes"], "shape_f32")
            .node_with("Cast", &["shape_f32"], "shape", ("to", i64::from(INT64))),
    };
    graph.node("Reshape", &["added", "shape"], "next_sum")
}

#[test]
fn a_step_that_fails_changes_nothing() {
    for &backend in BACKENDS {
        // For one stream this has the right shape, for two it has another; or it cannot be made at all.
        for (shape, expected) in [([1, -1, 17, 3], "no step graph"), ([1, 1, 17, 3], "failed while running")] {
            let engine = open(failing(shape, backend), backend).unwrap();
            let mut states = vec![vec![2.0; IN]; 2];
            let (first, second) = states.split_at_mut(1);
            engine.step(&frame(0, 0), &mut [&mut first[0]]).unwrap();
            let before = [first[0].clone(), second[0].clone()];
            let message = refusal(engine.step(&[frame(0, 1), frame(1, 0)].concat(), &mut [&mut first[0], &mut second[0]]));
            assert!(message.contains(expected), "{backend}: {message}");
            assert_eq!(states, before);
            // and the engine goes on
            engine.step(&frame(0, 0), &mut [&mut states[1]]).unwrap();
        }
    }
}

#[test]
fn graphs_that_are_no_step_are_refused() {
    let with_state = |state: &[i64], next: &[i64]| {
        Graph::default()
            .input("keypoints", FLOAT, &[-1, 1, 17, 3])
            .input("s", FLOAT, state)
            .node("Neg", &["keypoints"], "poses")
            .node("Neg", &["s"], "next_s")
            .output("poses", FLOAT, &[-1, 1, 17, 3])
            .output("next_s", FLOAT, next)
    };
    let keypoints = |shape: &[i64]| {
        Graph::default()
            .input("keypoints", FLOAT, shape)
            .input("s", FLOAT, &[-1, 4])
            .node("Neg", &["keypoints"], "poses")
            .node("Neg", &["s"], "next_s")
            .output("poses", FLOAT, shape)
            .output("next_s", FLOAT, &[-1, 4])
    };
    let whole_numbers = Graph::default()
        .input("keypoints", FLOAT, &[-1, 1, 17, 3])
        .input("s", INT64, &[-1, 4])
        .node("Neg", &["keypoints"], "poses")
        .node("Neg", &["s"], "next_s")
        .output("poses", FLOAT, &[-1, 1, 17, 3])
        .output("next_s", INT64, &[-1, 4]);
    let one_way = Graph::default()
        .input("keypoints", FLOAT, &[-1, 1, 17, 3])
        .input("s", FLOAT, &[-1, 4])
        .node("Neg", &["keypoints"], "poses")
        .node("Neg", &["s"], "after_s")
        .output("poses", FLOAT, &[-1, 1, 17, 3])
        .output("after_s", FLOAT, &[-1, 4]);
    let made_up = rooted(-1, 1, 3).node("Neg", &["poses"], "next_t").output("next_t", FLOAT, &[-1, 1, 17, 3]);
    for &backend in BACKENDS {
        for (graph, expected) in [
            (rooted(-1, -1, 3), "keypoints f32 (B, 1, 17, 2 or 3)"),
            (rooted(-1, 1, 3), "expected states"),
            (one_way.clone(), "one input of keypoints"),
            (made_up.clone(), "expected states"),
            (keypoints(&[-1, -1, 17, 3]), "keypoints f32 (B, 1, 17, 2 or 3)"),
            (keypoints(&[-1, 1, 16, 3]), "keypoints f32 (B, 1, 17, 2 or 3)"),
            (keypoints(&[2, 1, 17, 3]), "the same B as the keypoints"),
            (with_state(&[-1, -1], &[-1, -1]), "of fixed size"),
            (with_state(&[4], &[4]), "of fixed size"),
            (with_state(&[-1, 0], &[-1, 0]), "of fixed size"),
            (with_state(&[-1, 1 << 40, 1 << 40], &[-1, 1 << 40, 1 << 40]), "at most 268435456 numbers"),
            (whole_numbers.clone(), "states f32"),
        ] {
            let message = refusal(open(graph, backend));
            assert!(message.starts_with("this ONNX file is no step graph") && message.contains(expected), "{backend}: {message}");
        }
    }
}

#[test]
fn metadata_is_read_and_checked() {
    let about = metadata(27, Normalisation::PersonBox, 50.0);
    for &backend in BACKENDS {
        assert_eq!(open(summing(-1).metadata(&about), backend).unwrap().metadata(), Some(&about));
        let wrong = pose::metadata::ModelMetadata { dim_in: 2, ..about.clone() };
        assert!(refusal(open(summing(-1).metadata(&wrong), backend)).contains("it says 2 numbers per joint, but the graph takes 3"));
    }
}
