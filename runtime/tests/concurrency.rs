//! Many threads at once: opening the first models of a process, and running one model.

use std::{
    path::Path,
    sync::{Arc, Barrier},
    thread,
};

use runtime::{Backend, Engine, EngineOptions, LiftStream, Lifter, StepEngine, StreamCore, StreamOptions, run_due, trial};

const THREADS: usize = 8;

#[test]
fn threads_open_models_and_share_one() {
    let model = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/clip-xs.onnx"));
    let options = EngineOptions { threads: 1, ..EngineOptions::default() };
    let start = Arc::new(Barrier::new(THREADS));
    let engines: Vec<Engine> = thread::scope(|scope| {
        let open = |_| {
            let (start, options) = (Arc::clone(&start), options.clone());
            scope.spawn(move || {
                start.wait(); // all of them make the process's first session
                Engine::open(model, &options).expect("the shipped model opens")
            })
        };
        let opening: Vec<_> = (0..THREADS).map(open).collect();
        opening.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });

    let input: Vec<f32> = (0..27 * 17 * 3).map(|i| (i as f32 * 0.37).sin()).collect();
    let expected = engines[0].run(&input, [1, 27, 17, 3]).expect("poses");
    thread::scope(|scope| {
        for i in 0..THREADS {
            let (engines, input, expected) = (&engines, &input, &expected);
            scope.spawn(move || {
                for engine in [&engines[0], &engines[i]] {
                    assert_eq!(&engine.run(input, [1, 27, 17, 3]).expect("poses"), expected);
                }
            });
        }
    });
}

const LIVE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/live-xs.step.onnx");

fn lifter(threads: usize, backend: Backend) -> Arc<Lifter> {
    Arc::new(Lifter::open(LIVE, &EngineOptions { threads, backend, ..EngineOptions::default() }).expect("the shipped model opens"))
}

/// Streams are shared out among the lanes in any way, some with more frames waiting than others: each gets its own poses.
#[test]
fn streams_on_many_lanes_are_streams_alone() {
    const STREAMS: usize = 23;
    const FRAMES: usize = 6;
    let options = || StreamOptions::default();
    for backend in [Backend::Ort, Backend::Tract] {
        let (one, several) = (lifter(1, backend), lifter(3, backend));
        let mut cores: Vec<StreamCore> = (0..STREAMS).map(|_| several.stream_core(trial::IMAGE, options()).expect("a stream")).collect();
        let mut together = vec![Vec::new(); STREAMS];
        let mut ran = 0;
        for t in 0..FRAMES {
            for (i, core) in cores.iter_mut().enumerate() {
                for half in 0..1 + i % 2 {
                    let time_s = (2 * t + half) as f64 / 60.0 * (1.0 + (i % 2) as f64);
                    core.push(time_s, Some(&trial::walker(time_s, i as f64))).expect("a good frame");
                }
            }
            // those who have something, and some who have nothing
            let mut due: Vec<&mut StreamCore> = cores.iter_mut().collect();
            ran += run_due(&several, &mut due, &mut |i, answer| together[i].extend(answer.expect("poses")));
        }
        assert_eq!(ran, together.iter().map(Vec::len).sum::<usize>());
        for (i, together) in together.iter().enumerate() {
            let mut stream = LiftStream::new(one.clone(), trial::IMAGE, options()).expect("a stream");
            let mut alone = Vec::new();
            for t in 0..FRAMES * (1 + i % 2) {
                let time_s = match i % 2 {
                    0 => (2 * t) as f64 / 60.0,
                    _ => t as f64 / 30.0,
                };
                alone.extend(stream.push(time_s, Some(&trial::walker(time_s, i as f64))).expect("poses"));
            }
            assert_eq!(alone.len(), together.len());
            for (alone, together) in alone.iter().zip(together) {
                assert_eq!(alone.time_s, together.time_s);
                let apart = (0..17).flat_map(|j| (0..3).map(move |axis| (j, axis)));
                let apart = apart.map(|(j, axis)| (alone.camera_mm[j][axis] - together.camera_mm[j][axis]).abs()).fold(0.0, f32::max);
                assert!(apart < 0.05, "{backend}: stream {i} at {} s is {apart} mm from the same alone", alone.time_s);
            }
        }
    }
}

/// Calls from more threads than there are lanes.
#[test]
fn lanes_are_shared_by_threads() {
    let open = |threads| StepEngine::open(LIVE, &EngineOptions { threads, ..EngineOptions::default() }).expect("the shipped model opens");
    let (one, two) = (open(1), open(2));
    assert_eq!((one.lanes(), two.lanes()), (1, 2));
    let steps = |engine: &StepEngine, who: usize| {
        let mut state = vec![0.0; engine.state_len()];
        let frame = |t: usize| (0..17 * 3).map(|i| ((i + 7 * t + 31 * who) as f32 * 0.37).sin()).collect::<Vec<_>>();
        (0..20).map(|t| engine.step(&frame(t), &mut [&mut state]).expect("poses")).collect::<Vec<_>>()
    };
    let alone: Vec<_> = (0..THREADS).map(|who| steps(&one, who)).collect();
    thread::scope(|scope| {
        for (who, alone) in alone.iter().enumerate() {
            let (two, steps) = (&two, &steps);
            scope.spawn(move || assert_eq!(&steps(two, who), alone, "thread {who}"));
        }
    });
}

/// Another model under the same name is not taken for the one that is open.
#[test]
fn a_replaced_file_is_not_mixed_in() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("live.onnx");
    std::fs::copy(LIVE, &path).expect("a copy");
    let engine = StepEngine::open(&path, &EngineOptions { threads: 4, ..EngineOptions::default() }).expect("it opens");
    let input = vec![0.1; 17 * 3];
    let step = || engine.step(&input, &mut [&mut vec![0.0; engine.state_len()]]).expect("poses");
    let expected = step();
    std::fs::write(&path, b"another file").expect("written");
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| (0..5).for_each(|_| assert_eq!(step(), expected)));
        }
    });
}
