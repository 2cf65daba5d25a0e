//! The live family in ONNX Runtime: frame by frame is the sequence, at any batch, with operator and with function body, and
//! streams may join and leave a batch.

mod common;

use std::collections::BTreeMap;

use common::{drawn_live_weights as weights, noise};
use export::{
    lifter::INPUT,
    live::{self, Form, NEXT, state_names},
    session::{Options, Session},
};
use network::LiveConfig;

fn config() -> LiveConfig {
    LiveConfig { n_layers: 2, dim_feat: 16, dim_rep: 24, num_heads: 4, d_state: 8, ..LiveConfig::xs() }
}

/// Values of one frame of a person.
const POSE_IN: usize = 17 * 3;
const FRAMES: usize = 14;

/// The step graph with the states of the streams that it serves.
struct Stepper {
    session: Session,
    config: LiveConfig,
}

/// A stream's states by name.
type States = BTreeMap<String, Vec<f32>>;

impl Stepper {
    fn empty(&self) -> States {
        let sizes = self.config.state_shapes().map(|[rows, columns]| 17 * rows * columns);
        (0..self.config.n_layers).flat_map(|i| state_names(i).into_iter().zip(sizes)).map(|(name, size)| (name, vec![0.0; size])).collect()
    }

    /// One frame of several streams at once; returns their poses.
    fn step(&mut self, frames: &[&[f32]], streams: &mut [&mut States]) -> Vec<Vec<f32>> {
        let batch = frames.len();
        let keypoints = frames.concat();
        let shape = [batch, 1, 17, 3];
        let mut inputs: Vec<(String, Vec<usize>, Vec<f32>)> = vec![(INPUT.to_owned(), shape.to_vec(), keypoints)];
        let mut names = Vec::new();
        for layer in 0..self.config.n_layers {
            for (name, [rows, columns]) in state_names(layer).into_iter().zip(self.config.state_shapes()) {
                let values = streams.iter().flat_map(|stream| stream[&name].clone()).collect();
                inputs.push((name.clone(), vec![batch, 17, rows, columns], values));
                names.push(name);
            }
        }
        let inputs: Vec<(&str, &[usize], &[f32])> = inputs.iter().map(|(n, s, v)| (n.as_str(), s.as_slice(), v.as_slice())).collect();
        let mut outputs = self.session.run(&inputs).unwrap().into_iter();
        let (shape, poses) = outputs.next().unwrap();
        assert_eq!(shape, [batch, 1, 17, 3]);
        for (name, (shape, values)) in names.iter().zip(outputs) {
            assert_eq!(shape[..2], [batch, 17], "{NEXT}{name}");
            let size = values.len() / batch;
            for (stream, values) in streams.iter_mut().zip(values.chunks(size)) {
                stream.insert(name.clone(), values.to_vec());
            }
        }
        poses.chunks(17 * 3).map(<[f32]>::to_vec).collect()
    }
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn frame_by_frame_is_the_sequence_while_streams_join_and_leave() {
    let config = config();
    let weights = weights(&config);
    let mut by_form = Vec::new();
    for custom_op in [true, false] {
        let options = Options { custom_op, threads: 1 };
        let mut sequence = Session::open(&live::record(&config, &weights, Form::Sequence).unwrap(), options).unwrap();
        let step = Session::open(&live::record(&config, &weights, Form::Step).unwrap(), options).unwrap();
        let mut stepper = Stepper { session: step, config: config.clone() };

        // Three people; the whole of each, in one batch.
        let x = noise(3, 3 * FRAMES * POSE_IN);
        let shape = [3, FRAMES, 17, 3];
        let whole = sequence.run(&[(INPUT, &shape, &x)]).unwrap().remove(0).1;
        assert!(whole.iter().all(|v| v.is_finite()) && whole.iter().any(|v| v.abs() > 1e-2));
        let frame = |person: usize, t: usize| &x[(person * FRAMES + t) * POSE_IN..][..POSE_IN];
        let expected = |person: usize, t: usize| &whole[(person * FRAMES + t) * 51..][..51];

        // Person 0 is alone at first, 1 joins at frame 2, 2 at frame 5; 0 leaves after frame 9.
        let starts = [0, 2, 5];
        let mut states: Vec<States> = (0..3).map(|_| stepper.empty()).collect();
        let mut worst = 0f32;
        for tick in 0..FRAMES + 5 {
            let due: Vec<(usize, usize)> = (0..3)
                .filter(|&p| tick >= starts[p] && tick - starts[p] < FRAMES && !(p == 0 && tick > 9))
                .map(|p| (p, tick - starts[p]))
                .collect();
            if due.is_empty() {
                continue;
            }
            let frames: Vec<&[f32]> = due.iter().map(|&(p, t)| frame(p, t)).collect();
            let mut streams: Vec<&mut States> =
                states.iter_mut().enumerate().filter(|(p, _)| due.iter().any(|(q, _)| p == q)).map(|(_, s)| s).collect();
            for (poses, &(p, t)) in stepper.step(&frames, &mut streams).iter().zip(&due) {
                worst = worst.max(difference(poses, expected(p, t)));
            }
        }
        assert!(worst < 1e-5, "operator {custom_op}: step and sequence differ by {worst:.1e}");
        by_form.push(whole);
    }
    let apart = difference(&by_form[0], &by_form[1]);
    assert!(apart < 1e-5, "operator and function body differ by {apart:.1e}");
}

#[test]
fn the_graph_takes_any_length_and_sees_no_future() {
    let config = config();
    let model = live::record(&config, &weights(&config), Form::Sequence).unwrap();
    let mut sequence = Session::open(&model, Options { custom_op: true, threads: 1 }).unwrap();
    let x = noise(8, 40 * POSE_IN);
    let mut run = |frames: usize| sequence.run(&[(INPUT, &[1, frames, 17, 3], &x[..frames * POSE_IN])]).unwrap().remove(0).1;
    let whole = run(40);
    for frames in [1, 3, 17, 39] {
        assert!(difference(&run(frames), &whole[..frames * 51]) < 1e-6, "{frames} frames");
    }
}
