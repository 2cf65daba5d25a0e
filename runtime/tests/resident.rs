//! States that stay in the engine's memory: whoever joins, leaves, pauses or goes back, every stream is as it is alone, in every bit.
#![allow(missing_docs)]

mod common;

use std::{path::PathBuf, sync::Arc};

use common::{FLOAT, Graph, INT64, summing};
use pose::ImageSize;
use proptest::prelude::*;
use runtime::{
    Backend, Binding, Device, Engine, EngineOptions, Error, LiftStream, Lifter, StepEngine, StepState, StreamCore, StreamOptions, run_due,
    trial,
};

const IN: usize = 17 * 3;
const LIVE_XS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/live-xs.step.onnx");
const CLIP_XS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/clip-xs.onnx");

fn options(binding: Binding) -> EngineOptions {
    EngineOptions { threads: 1, binding, ..EngineOptions::default() }
}

fn live(binding: Binding) -> StepEngine {
    let engine = StepEngine::open(LIVE_XS, &options(binding)).unwrap();
    assert_eq!(engine.binding(), binding);
    engine
}

fn open(graph: Graph, binding: Binding) -> StepEngine {
    let folder = tempfile::tempdir().unwrap();
    StepEngine::open(graph.write(folder.path(), "step.onnx"), &options(binding)).unwrap()
}

fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    let message = result.unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

/// One frame of a stream, some number in (-0.5, 0.5) for each value.
fn frame(stream: usize, t: usize) -> Vec<f32> {
    (0..IN).map(|i| 0.5 * ((i + 7 * stream + 31 * t) as f32 * 0.7).sin()).collect()
}

/// The next random number below `end`.
fn below(random: &mut u64, end: usize) -> usize {
    *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*random >> 33) as usize % end
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}

/// A stream in the engine that keeps states, and the same in one that does not.
#[derive(Clone, Default)]
struct Twin {
    name: usize,
    frames: usize,
    kept: StepState,
    held: StepState,
}

impl Twin {
    fn agree(&self, kept: &StepEngine, held: &StepEngine) -> Result<(), TestCaseError> {
        let [a, b] = [kept.read_state(&self.kept).unwrap(), held.read_state(&self.held).unwrap()];
        prop_assert_eq!(bits(&a), bits(&b), "stream {} after {} frames", self.name, self.frames);
        Ok(())
    }
}

/// One frame of some streams: of all at once where states are kept, of each alone where they are not.
fn tick(kept: &StepEngine, held: &StepEngine, due: &mut [&mut Twin]) -> Result<(), TestCaseError> {
    let frames: Vec<Vec<f32>> = due.iter().map(|twin| frame(twin.name, twin.frames)).collect();
    let mut states: Vec<&mut StepState> = due.iter_mut().map(|twin| &mut twin.kept).collect();
    let poses = kept.advance(&frames.concat(), &mut states).unwrap();
    for (index, twin) in due.iter_mut().enumerate() {
        let alone = held.advance(&frames[index], &mut [&mut twin.held]).unwrap();
        prop_assert_eq!(bits(&poses[index * IN..][..IN]), bits(&alone), "stream {} at frame {}", twin.name, twin.frames);
        twin.frames += 1;
    }
    Ok(())
}

#[derive(Clone, Debug)]
enum Event {
    Join,
    Leave(usize),
    /// Frames of those whose bit is set.
    Tick(u64),
    /// A snapshot of one becomes another stream.
    Clone(usize),
    /// Out of the engine, as numbers, and in again.
    Save(usize),
    Clear(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        2 => Just(Event::Join),
        1 => (0usize..64).prop_map(Event::Leave),
        4 => any::<u64>().prop_map(Event::Tick),
        1 => (0usize..64).prop_map(Event::Clone),
        1 => (0usize..64).prop_map(Event::Save),
        1 => (0usize..64).prop_map(Event::Clear),
    ];
    prop::collection::vec(event, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Against each stream alone, with a graph whose every row is computed alone, so that every bit must agree.
    #[test]
    fn whoever_comes_and_goes_every_stream_is_as_it_is_alone(events in events(), fixed in prop::option::of(3i64..9)) {
        let batch = fixed.unwrap_or(-1);
        let [kept, held] = [Binding::On, Binding::Off].map(|binding| open(summing(batch), binding));
        let most = fixed.map_or(64, |batch| batch as usize);
        let (mut twins, mut names): (Vec<Twin>, usize) = (Vec::new(), 0);
        for event in events {
            let some = |index: usize| if twins.is_empty() { None } else { Some(index % twins.len()) };
            match event {
                Event::Join => {
                    twins.push(Twin { name: names, ..Twin::default() });
                    names += 1;
                }
                Event::Leave(index) => if let Some(index) = some(index) { twins.swap_remove(index); },
                Event::Tick(mask) => {
                    let mut due: Vec<&mut Twin> =
                        twins.iter_mut().enumerate().filter(|(index, _)| mask >> (index % 64) & 1 == 1).map(|(_, twin)| twin).take(most).collect();
                    if !due.is_empty() {
                        tick(&kept, &held, &mut due)?;
                    }
                }
                Event::Clone(index) => if let Some(index) = some(index) {
                    let mut twin = twins[index].clone();
                    (twin.name, names) = (names, names + 1);
                    twins.push(twin);
                },
                Event::Save(index) => if let Some(index) = some(index) {
                    twins[index].agree(&kept, &held)?;
                    let numbers = kept.read_state(&twins[index].kept).unwrap();
                    twins[index].kept = numbers.into();
                },
                Event::Clear(index) => if let Some(index) = some(index) {
                    twins[index].kept.clear();
                    twins[index].held.clear();
                },
            }
        }
        twins.iter().try_for_each(|twin| twin.agree(&kept, &held))?;
    }
}

/// The shipped model over hundreds of frames: batches of the sizes that the engine runs, so that the engine's products have the same
/// shapes, and then every bit agrees; and any sizes, against streams alone, to rounding.
#[test]
fn the_shipped_model_remembers_the_same() {
    let [kept, held] = [Binding::On, Binding::Off].map(live);
    let mut random = 7;
    let mut twins: Vec<Twin> = (0..12).map(|name| Twin { name, ..Twin::default() }).collect();
    for t in 0..300 {
        let sizes = [1, 2, 3, 4, 6, 8, 12];
        let size = sizes[below(&mut random, sizes.len())];
        let first = below(&mut random, twins.len());
        twins.rotate_left(first);
        if t % 40 == 39 {
            twins[0] = Twin { name: 100 + t, ..Twin::default() }; // one leaves, another joins
        }
        let due = &mut twins[..size];
        let frames: Vec<f32> = due.iter().flat_map(|twin| frame(twin.name, twin.frames)).collect();
        let poses = kept.advance(&frames, &mut due.iter_mut().map(|twin| &mut twin.kept).collect::<Vec<_>>()).unwrap();
        let expected = held.advance(&frames, &mut due.iter_mut().map(|twin| &mut twin.held).collect::<Vec<_>>()).unwrap();
        assert_eq!(bits(&poses), bits(&expected), "frame {t}");
        due.iter_mut().for_each(|twin| twin.frames += 1);
    }
    twins.iter().for_each(|twin| twin.agree(&kept, &held).unwrap());
}

#[test]
fn the_slab_grows_and_streams_go_on() {
    let [kept, held] = [Binding::On, Binding::Off].map(live);
    let mut twins: Vec<Twin> = Vec::new();
    for t in 0..12 {
        twins.extend((0..7 + t).map(|i| Twin { name: 1000 * t + i, ..Twin::default() }));
        let frames: Vec<f32> = twins.iter().flat_map(|twin| frame(twin.name, twin.frames)).collect();
        let poses = kept.advance(&frames, &mut twins.iter_mut().map(|twin| &mut twin.kept).collect::<Vec<_>>()).unwrap();
        for (pose, twin) in poses.chunks(IN).zip(&mut twins) {
            let alone = held.advance(&frame(twin.name, twin.frames), &mut [&mut twin.held]).unwrap();
            assert!(pose.iter().zip(&alone).all(|(a, b)| (a - b).abs() < 1e-5), "stream {} at frame {}", twin.name, twin.frames);
            twin.frames += 1;
        }
    }
    assert_eq!(twins.len(), 150);
}

#[test]
fn a_snapshot_stays_as_it_is_and_goes_on_elsewhere() {
    let [kept, another, held] = [Binding::On, Binding::On, Binding::Off].map(live);
    let mut state = StepState::default();
    assert!(kept.read_state(&state).unwrap().iter().all(|&x| x == 0.0));
    (0..5).for_each(|t| drop(kept.advance(&frame(0, t), &mut [&mut state]).unwrap()));
    let snapshot = state.clone();
    let before = kept.read_state(&snapshot).unwrap();
    let poses: Vec<Vec<f32>> = (5..9).map(|t| kept.advance(&frame(0, t), &mut [&mut state]).unwrap()).collect();
    assert_eq!(kept.read_state(&snapshot).unwrap(), before);
    assert_ne!(kept.read_state(&state).unwrap(), before);
    // In the same engine, in another one, in one that keeps none; and out of numbers.
    for (engine, from) in
        [(&kept, snapshot.clone()), (&another, snapshot.clone()), (&held, snapshot.clone()), (&another, before.clone().into())]
    {
        let mut again = from;
        for (t, pose) in (5..9).zip(&poses) {
            assert_eq!(&engine.advance(&frame(0, t), &mut [&mut again]).unwrap(), pose, "frame {t}");
        }
    }
    // The engine may go first.
    drop(kept);
    assert_eq!(held.read_state(&snapshot).unwrap(), before);
}

#[test]
fn wrong_inputs_and_failures_change_nothing() {
    let engine = open(summing(-1), Binding::On);
    let mut states: Vec<StepState> = vec![StepState::default(); 2];
    let step = |input: &[f32], states: &mut [StepState]| engine.advance(input, &mut states.iter_mut().collect::<Vec<_>>());
    step(&[frame(0, 0), frame(1, 0)].concat(), &mut states).unwrap();
    let read = |states: &[StepState]| -> Vec<Vec<f32>> { states.iter().map(|state| engine.read_state(state).unwrap()).collect() };
    let before = read(&states);
    assert!(refusal(step(&[], &mut [])).contains("0 streams"));
    assert!(refusal(step(&frame(0, 1), &mut states)).contains("(2, 17, 3) = 102 numbers, but 51 numbers"));
    let mut not_finite = [frame(0, 1), frame(1, 1)].concat();
    not_finite[IN + 4 * 3 + 1] = f32::INFINITY;
    assert!(refusal(step(&not_finite, &mut states)).contains("inf at batch item 1, frame 0, joint 4"));
    let mut with_short = vec![states[0].clone(), StepState::from(vec![0.0; 3])];
    let message = refusal(step(&[frame(0, 1), frame(1, 1)].concat(), &mut with_short));
    assert!(message.contains("55 numbers of state for each stream, but 3 numbers"), "{message}");
    assert_eq!(read(&states), before);

    // The model fails for two streams, and not for one: what comes out is reshaped to the rows of one.
    let failing = Graph::default()
        .input("keypoints", FLOAT, &[-1, 1, 17, 3])
        .input("sum", FLOAT, &[-1, 1, 17, 3])
        .node("Add", &["sum", "keypoints"], "added")
        .node("Neg", &["added"], "poses")
        .constant("zero", &[1], &[0.0])
        .constant("sizes", &[4], &[1.0, 1.0, 17.0, 3.0])
        .node_with("ReduceSum", &["keypoints"], "total", ("keepdims", 0))
        .node("Mul", &["total", "zero"], "nothing")
        .node("Add", &["nothing", "sizes"], "shape_f32")
        .node_with("Cast", &["shape_f32"], "shape", ("to", i64::from(INT64)))
        .node("Reshape", &["added", "shape"], "next_sum")
        .output("poses", FLOAT, &[-1, 1, 17, 3])
        .output("next_sum", FLOAT, &[-1, -1, -1, -1]);
    let engine = open(failing, Binding::On);
    let mut states: Vec<StepState> = vec![StepState::default(); 2];
    engine.advance(&frame(0, 0), &mut [&mut states[0]]).unwrap();
    let both = |states: &mut [StepState]| engine.advance(&[frame(0, 1), frame(1, 0)].concat(), &mut states.iter_mut().collect::<Vec<_>>());
    assert!(refusal(both(&mut states)).contains("failed while running"));
    assert_eq!(engine.read_state(&states[0]).unwrap(), frame(0, 0));
    assert!(engine.read_state(&states[1]).unwrap().iter().all(|&x| x == 0.0));
    engine.advance(&frame(1, 0), &mut [&mut states[1]]).unwrap();
    assert_eq!(engine.read_state(&states[1]).unwrap(), frame(1, 0));
}

/// Streams of many threads at once in one engine, some of which leave while others run.
#[test]
fn threads_share_an_engine() {
    const FRAMES: usize = 40;
    let engine = Arc::new(live(Binding::On));
    let run = |engine: &StepEngine, name: usize, frames: usize| -> Vec<f32> {
        let mut state = StepState::default();
        (0..frames).flat_map(|t| engine.advance(&frame(name, t), &mut [&mut state]).unwrap()).collect()
    };
    let alone: Vec<Vec<f32>> = (0..8).map(|name| run(&live(Binding::Off), name, FRAMES)).collect();
    std::thread::scope(|scope| {
        for name in 0..8 {
            let (engine, alone) = (engine.clone(), &alone);
            scope.spawn(move || {
                for frames in [3, FRAMES, 1] {
                    assert_eq!(bits(&run(&engine, name, frames)), bits(&alone[name][..frames * IN]), "stream {name}");
                }
            });
        }
    });
}

/// States that pass to and fro between two engines which run all the while.
#[test]
fn engines_exchange_states() {
    const FRAMES: usize = 60;
    let engines = [Binding::On, Binding::On].map(live);
    let run = |name: usize, first: usize| -> Vec<f32> {
        let mut state = StepState::default();
        (0..FRAMES).flat_map(|t| engines[(first + t) % 2].advance(&frame(name, t), &mut [&mut state]).unwrap()).collect()
    };
    let expected: Vec<Vec<f32>> = (0..4).map(|name| run(name, 0)).collect();
    std::thread::scope(|scope| {
        for (name, expected) in expected.iter().enumerate() {
            scope.spawn(move || assert_eq!(&run(name, name), expected, "stream {name}"));
        }
    });
}

/// What a user sees: streams, with people who go and others who come.
#[test]
fn live_streams_say_the_same() {
    const IMAGE: ImageSize = trial::IMAGE;
    let [kept, held] = [Binding::On, Binding::Off].map(|binding| Arc::new(Lifter::open(LIVE_XS, &options(binding)).unwrap()));
    let mut cores: Vec<StreamCore> = (0..5).map(|_| kept.stream_core(IMAGE, StreamOptions::default()).unwrap()).collect();
    let mut alone: Vec<LiftStream> = (0..5).map(|_| LiftStream::new(held.clone(), IMAGE, StreamOptions::default()).unwrap()).collect();
    let mut poses = 0;
    for t in 0..90 {
        let time_s = t as f64 / 30.0;
        if t == 45 {
            cores[4] = cores[3].clone(); // goes on as another stream did
        }
        let source = |index: usize| if index == 4 && t >= 45 { 3 } else { index };
        let frame_of = |index: usize| {
            // Of one nobody is seen for a second, longer than is held.
            (index != 2 || !(30..60).contains(&t)).then(|| trial::walker(time_s, index as f64))
        };
        let is_lost = |index: usize| (t + index) % 7 == 3;
        for (index, core) in cores.iter_mut().enumerate().filter(|(index, _)| !is_lost(source(*index))) {
            core.push(time_s, frame_of(source(index)).as_ref()).unwrap();
        }
        let expected = alone.iter_mut().enumerate().map(|(index, stream)| match is_lost(index) {
            true => Vec::new(),
            false => stream.push(time_s, frame_of(index).as_ref()).unwrap(),
        });
        let expected: Vec<Vec<_>> = expected.collect();
        let mut answers = vec![Vec::new(); cores.len()];
        run_due(&kept, &mut cores.iter_mut().collect::<Vec<_>>(), &mut |index, answer| answers[index].extend(answer.unwrap()));
        for (index, answer) in answers.iter().enumerate() {
            let expected = &expected[source(index)];
            assert_eq!(answer.len(), expected.len(), "stream {index} at {time_s} s");
            for (a, b) in answer.iter().zip(expected) {
                let near = a.pose25.iter().flatten().zip(b.pose25.iter().flatten()).all(|(a, b)| (a - b).abs() < 1e-4);
                assert!(near && a.restarted == b.restarted, "stream {index} at {time_s} s");
                poses += 1;
            }
        }
    }
    assert!(poses > 300, "{poses}");
}

#[test]
fn windows_run_bound_as_they_run_unbound() {
    let [bound, unbound] = [Binding::On, Binding::Off].map(|binding| Engine::open(CLIP_XS, &options(binding)).unwrap());
    let frames = bound.metadata().unwrap().frames;
    let mut poses = Vec::new();
    // More shapes than memory is kept for, each of them again and again, with other inputs.
    for round in 0..3 {
        for batch in (1..=10).chain([1, 1, 2, 10, 9]) {
            let shape = [batch, frames, 17, 3];
            let input: Vec<f32> = (0..batch).flat_map(|b| (0..frames).flat_map(move |t| frame(b + 100 * round, t))).collect();
            bound.run_into(&input, shape, &mut poses).unwrap();
            assert_eq!(bits(&poses), bits(&unbound.run(&input, shape).unwrap()), "batch {batch}");
        }
    }
    let before = poses.clone();
    let message = refusal(bound.run_into(&[0.0; 3], [1, frames, 17, 3], &mut poses));
    assert!(message.contains("3 numbers"), "{message}");
    assert_eq!(poses, before);
}

#[test]
fn what_does_not_go_together_is_refused() {
    let clip = PathBuf::from(CLIP_XS);
    let base = EngineOptions { threads: 1, cuda_graph: true, ..EngineOptions::default() };
    for path in [clip, PathBuf::from(LIVE_XS)] {
        let open = |options: &EngineOptions| refusal(runtime::AnyEngine::open(&path, options));
        let message = open(&base);
        assert_eq!(message, "a CUDA graph was asked for, but the model runs on the processor: choose the device cuda");
        let cuda = EngineOptions { device: Device::Cuda { index: 0 }, ..base.clone() };
        let message = open(&EngineOptions { binding: Binding::Off, ..cuda.clone() });
        assert!(message.contains("tensors must be bound"), "{message}");
        let message = open(&EngineOptions { custom_op: false, ..cuda });
        assert!(message.contains("a loop, which a CUDA graph cannot hold"), "{message}");
        let message = open(&EngineOptions { device: Device::TensorRt { index: 0 }, ..base.clone() });
        assert!(message.contains("TensorRT compiles graphs of its own"), "{message}");
        let tract = EngineOptions { backend: Backend::Tract, binding: Binding::On, ..EngineOptions::default() };
        assert!(open(&tract).contains("the engine tract keeps its own"));
    }
}
