//! Every recorded operation in ONNX Runtime, against a plain reference in f64, on values and constants alike.

mod common;

use common::noise;
use export::{
    recorder::{Dim, Recorded, Recorder},
    session::{Options, Session},
};
use network::{
    Axis, Context, Init, SelectiveScan, Tensor, WeightError, WeightSource, Weights,
    layers::{BatchNorm, Mamba, MambaState, MambaWeights},
};

const EVALUATION: Context = Context::EVALUATION;

/// A row-major array.
#[derive(Clone, Debug, PartialEq)]
struct Array {
    shape: Vec<usize>,
    values: Vec<f64>,
}

impl Array {
    fn noise(seed: u64, shape: &[usize]) -> Self {
        let values = noise(seed, shape.iter().product()).into_iter().map(f64::from).collect();
        Self { shape: shape.to_vec(), values }
    }

    fn from_fn(shape: &[usize], f: impl Fn(&[usize]) -> f64) -> Self {
        let values = (0..shape.iter().product())
            .map(|mut flat: usize| {
                let mut index = vec![0; shape.len()];
                for (place, &size) in index.iter_mut().zip(shape).rev() {
                    *place = flat % size;
                    flat /= size;
                }
                f(&index)
            })
            .collect();
        Self { shape: shape.to_vec(), values }
    }

    fn at(&self, index: &[usize]) -> f64 {
        assert_eq!(index.len(), self.shape.len());
        self.values[index.iter().zip(&self.shape).fold(0, |flat, (&i, &size)| flat * size + i)]
    }

    fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Self { shape: self.shape.clone(), values: self.values.iter().map(|&x| f(x)).collect() }
    }

    fn reshape(&self, shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), values: self.values.clone() }
    }

    fn f32(&self) -> Vec<f32> {
        self.values.iter().map(|&x| x as f32).collect()
    }

    fn last(&self) -> usize {
        *self.shape.last().unwrap()
    }

    /// Element of the row (last axis) that `index` lies in.
    fn in_row(&self, index: &[usize], c: usize) -> f64 {
        let mut index = index.to_vec();
        *index.last_mut().unwrap() = c;
        self.at(&index)
    }

    fn constant(&self, recorder: &Recorder, label: &str) -> Recorded {
        recorder.constant(label, &self.shape, self.f32())
    }
}

/// Records `build` of inputs whose first `free` sizes (B or S, then T or L) are known only at run time, runs it, and
/// compares its outputs.
#[track_caller]
fn check_free(free: usize, inputs: &[&Array], expected: &[Array], build: impl Fn(&Recorder, &[Recorded]) -> Vec<Recorded>) {
    let recorder = Recorder::new();
    let recorded: Vec<Recorded> = inputs
        .iter()
        .enumerate()
        .map(|(i, input)| {
            let dims: Vec<Dim> = input
                .shape
                .iter()
                .enumerate()
                .map(|(axis, &size)| if axis < free { Dim::symbol(&format!("size{i}_{axis}")) } else { size.into() })
                .collect();
            recorder.input(&format!("input{i}"), &dims)
        })
        .collect();
    let outputs = build(&recorder, &recorded);
    let names: Vec<String> = (0..outputs.len()).map(|i| format!("output{i}")).collect();
    let outputs: Vec<(&str, &Recorded)> = names.iter().map(String::as_str).zip(&outputs).collect();
    let model = recorder.finish("test", &outputs).unwrap();
    let values: Vec<Vec<f32>> = inputs.iter().map(|input| input.f32()).collect();
    let fed: Vec<String> = (0..inputs.len()).map(|i| format!("input{i}")).collect();
    let fed: Vec<(&str, &[usize], &[f32])> = inputs
        .iter()
        .zip(&values)
        .zip(&fed)
        .map(|((input, values), name)| (name.as_str(), input.shape.as_slice(), values.as_slice()))
        .collect();
    for custom_op in [true, false] {
        let found = Session::open(&model, Options { custom_op, threads: 1 }).unwrap().run(&fed).unwrap();
        assert_eq!(found.len(), expected.len());
        for ((shape, values), expected) in found.iter().zip(expected) {
            assert_eq!(*shape, expected.shape);
            let scale = expected.values.iter().fold(1.0f64, |m, x| m.max(x.abs()));
            let difference = common::largest_difference(values, &expected.values);
            assert!(difference <= 2e-6 * scale, "{difference:e} of {scale}");
        }
    }
}

/// With every size fixed, then the first free, then the first two.
#[track_caller]
fn check(inputs: &[&Array], expected: &[Array], build: impl Fn(&Recorder, &[Recorded]) -> Vec<Recorded>) {
    for free in 0..=2 {
        check_free(free, inputs, expected, &build);
    }
}

/// (B, T, J, C) = (2, 5, 17, 8); and with as many frames as joints, where a mistaken layout shows in no shape.
fn sequences(seed: u64) -> [Array; 2] {
    [Array::noise(seed, &[2, 5, 17, 8]), Array::noise(seed, &[2, 17, 17, 8])]
}

#[test]
fn one_value_at_a_time() {
    for x in sequences(1) {
        let x = x.map(|x| 4.0 * x);
        check(&[&x], &[x.map(|x| -x)], |_, i| vec![i[0].neg()]);
        check(&[&x], &[x.map(f64::exp)], |_, i| vec![i[0].exp()]);
        check(&[&x], &[x.map(|x| x.max(0.0))], |_, i| vec![i[0].relu()]);
        check(&[&x], &[x.map(|x| x / (1.0 + (-x).exp()))], |_, i| vec![i[0].silu()]);
        check(&[&x], &[x.map(f64::tanh)], |_, i| vec![i[0].tanh()]);
        check(&[&x], std::slice::from_ref(&x), |_, i| vec![i[0].dropout(0.5, &EVALUATION)]);
    }
}

/// erf by its series, which converges everywhere.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

#[test]
fn gelu_is_exact() {
    let x = Array::noise(2, &[2, 5, 17, 8]).map(|x| 4.0 * x);
    let expected = x.map(|x| x * 0.5 * (1.0 + erf(x / std::f64::consts::SQRT_2)));
    check(&[&x], &[expected], |_, i| vec![i[0].gelu()]);
}

#[test]
fn sums_and_products_broadcast() {
    for x in sequences(3) {
        let other = Array::noise(4, &x.shape);
        let same = Array { values: x.values.iter().zip(&other.values).map(|(a, b)| a + b).collect(), ..x.clone() };
        check_free(0, &[&x, &other], &[same], |_, i| vec![i[0].add(&i[1])]);
        // one number per joint, frame, joint and channel, sample; each as a value and as a constant
        let [_, frames, joints, channels] = x.shape[..] else { unreachable!() };
        for shape in [vec![1], vec![channels], vec![joints, channels], vec![joints, 1], vec![frames, 1, 1], vec![1, joints, channels]] {
            let small = Array::noise(5, &shape);
            let product = Array::from_fn(&x.shape, |i| {
                let tail = &i[4 - shape.len()..];
                let j: Vec<usize> = tail.iter().zip(&shape).map(|(&i, &size)| if size == 1 { 0 } else { i }).collect();
                x.at(i) * small.at(&j)
            });
            check_free(1, &[&x], std::slice::from_ref(&product), |r, i| vec![i[0].mul(&small.constant(r, "small"))]);
            check_free(1, &[&x], &[product], |r, i| vec![small.constant(r, "small").mul(&i[0])]);
        }
        let weights = Array::noise(6, &[2, 1]);
        let weighted = Array::from_fn(&x.shape, |i| x.at(i) * weights.at(&[i[0], 0]));
        let recorder_input = |_: &Recorder, i: &[Recorded]| vec![i[0].mul(&i[1].expand_sample())];
        check_free(0, &[&x, &weights], &[weighted], recorder_input);
        // both layouts in one sum
        let mixed = Array { values: x.values.iter().map(|x| 2.0 * x).collect(), ..x.clone() };
        check(&[&x], &[mixed], |_, i| vec![i[0].reshape_untransposed().reshape_back_untransposed().add(&i[0])]);
    }
}

#[test]
fn expression_of_constants_is_folded() {
    let recorder = Recorder::new();
    let a = recorder.constant("mamba.A_log", &[2, 2], vec![0.0, 1.0, 2.0, 3.0]).exp().neg();
    let sum = a.add(&recorder.constant("b", &[2], vec![1.0, 10.0])).mul(&recorder.constant("c", &[2, 1], vec![1.0, 2.0]));
    let x = recorder.input("x", &["batch".into(), 2.into()]);
    let model = recorder.finish("test", &[("y", &x.matmul(&sum))]).unwrap();
    let graph = model.graph.as_ref().unwrap();
    assert_eq!(graph.node.iter().filter_map(|node| node.op_type.as_deref()).collect::<Vec<_>>(), ["MatMul", "Identity"]);
    assert_eq!(graph.initializer.len(), 1);
    let y = Session::open(&model, Options { custom_op: false, threads: 1 }).unwrap().run(&[("x", &[1, 2], &[1.0, 1.0])]).unwrap();
    let e = f64::exp;
    let expected = [(1.0 - 1.0) + 2.0 * (1.0 - e(2.0)), (10.0 - e(1.0)) + 2.0 * (10.0 - e(3.0))];
    assert!(common::largest_difference(&y[0].1, &expected) < 1e-5);
}

#[test]
fn equal_constants_are_kept_once_and_unused_nodes_left_out() {
    let recorder = Recorder::new();
    let x = recorder.input("x", &["batch".into(), 3.into()]);
    let (first, second) = (recorder.constant("first", &[3], vec![1.0, 2.0, 3.0]), recorder.constant("second", &[3], vec![1.0, 2.0, 3.0]));
    let _unused = x.mul(&recorder.constant("third", &[3], vec![4.0, 5.0, 6.0])).exp();
    let model = recorder.finish("test", &[("y", &x.add(&first).mul(&second))]).unwrap();
    let graph = model.graph.unwrap();
    assert_eq!(graph.initializer.iter().filter_map(|constant| constant.name.as_deref()).collect::<Vec<_>>(), ["first"]);
    assert_eq!(graph.node.iter().filter_map(|node| node.op_type.as_deref()).collect::<Vec<_>>(), ["Add", "Mul", "Identity"]);
}

fn softmax(x: &Array) -> Array {
    Array::from_fn(&x.shape, |i| x.at(i).exp() / (0..x.last()).map(|c| x.in_row(i, c).exp()).sum::<f64>())
}

#[test]
fn normalisations_over_the_last_axis() {
    for x in sequences(7) {
        check(&[&x], &[softmax(&x)], |_, i| vec![i[0].softmax_last()]);
        let (weight, bias) = (Array::noise(8, &[8]), Array::noise(9, &[8]));
        // Variance near eps, so that a wrong eps shows.
        for (eps, size) in [(1e-5, 4e-3), (1e-5, 1.0), (1e-2, 0.1)] {
            let x = x.map(|x| size * x);
            let expected = Array::from_fn(&x.shape, |i| {
                let mean = (0..8).map(|c| x.in_row(i, c)).sum::<f64>() / 8.0;
                let variance = (0..8).map(|c| (x.in_row(i, c) - mean).powi(2)).sum::<f64>() / 8.0;
                (x.at(i) - mean) / (variance + eps).sqrt() * weight.at(&i[3..]) + bias.at(&i[3..])
            });
            check(&[&x], &[expected], |r, i| vec![i[0].layer_norm(&weight.constant(r, "n.weight"), &bias.constant(r, "n.bias"), eps)]);
        }
    }
}

/// x weight^T + bias
fn linear(x: &Array, weight: &Array, bias: Option<&Array>) -> Array {
    let mut shape = x.shape.clone();
    *shape.last_mut().unwrap() = weight.shape[0];
    Array::from_fn(&shape, |i| {
        let out = *i.last().unwrap();
        (0..weight.shape[1]).map(|c| x.in_row(i, c) * weight.at(&[out, c])).sum::<f64>() + bias.map_or(0.0, |bias| bias.values[out])
    })
}

#[test]
fn linear_maps() {
    let (weight, bias) = (Array::noise(10, &[6, 8]), Array::noise(11, &[6]));
    let transposed = Array::from_fn(&[8, 6], |i| weight.at(&[i[1], i[0]]));
    for x in sequences(12) {
        let (plain, biased) = (linear(&x, &weight, None), linear(&x, &weight, Some(&bias)));
        check(&[&x], &[plain.clone(), biased.clone(), plain.clone()], |r, i| {
            let (w, b) = (weight.constant(r, "l.weight"), bias.constant(r, "l.bias"));
            vec![i[0].linear(&w, None), i[0].linear(&w, Some(&b)), i[0].matmul(&transposed.constant(r, "m"))]
        });
        check_free(0, &[&x, &weight, &bias], std::slice::from_ref(&biased), |_, i| vec![i[0].linear(&i[1], Some(&i[2]))]);
        let scale = Array::noise(13, &[6]);
        let scaled = Array::from_fn(&biased.shape, |i| biased.at(i) * scale.at(&i[3..]));
        check(&[&x], &[scaled], |r, i| {
            vec![i[0].linear(&weight.constant(r, "l.weight"), Some(&bias.constant(r, "l.bias"))).mul(&scale.constant(r, "scale"))]
        });
    }
}

#[test]
fn parts_and_joins_of_the_last_axis() {
    let (weight, bias) = (Array::noise(14, &[6, 8]), Array::noise(15, &[6]));
    let part = |x: &Array, start: usize, size: usize| {
        let mut shape = x.shape.clone();
        *shape.last_mut().unwrap() = size;
        Array::from_fn(&shape, |i| x.in_row(i, start + i.last().unwrap()))
    };
    for x in sequences(16) {
        check(&[&x], &[part(&x, 0, 1), part(&x, 1, 5), part(&x, 6, 2)], |_, i| i[0].split_last([1, 5, 2]).to_vec());
        let y = linear(&x, &weight, Some(&bias));
        check(&[&x], &[part(&y, 0, 4), part(&y, 4, 2), y.clone()], |r, i| {
            let y = i[0].linear(&weight.constant(r, "l.weight"), Some(&bias.constant(r, "l.bias")));
            let [a, b] = y.split_last([4, 2]);
            vec![a, b, y]
        });
        check(&[&x], std::slice::from_ref(&x), |_, i| {
            let [a, b] = i[0].split_last([3, 5]);
            vec![Tensor::concat_last(&[&a, &b])]
        });
    }
}

/// Attention over the middle axis of (O, P, C).
fn attention(q: &Array, k: &Array, v: &Array, heads: usize) -> Array {
    let [_, p, c] = q.shape[..] else { unreachable!() };
    let size = c / heads;
    Array::from_fn(&q.shape, |i| {
        let head = i[2] / size;
        let score = |j: usize| {
            (0..size).map(|d| q.at(&[i[0], i[1], head * size + d]) * k.at(&[i[0], j, head * size + d])).sum::<f64>() / (size as f64).sqrt()
        };
        let total: f64 = (0..p).map(|j| score(j).exp()).sum();
        (0..p).map(|j| score(j).exp() * v.at(&[i[0], j, i[2]])).sum::<f64>() / total
    })
}

/// (B, T, J, C) -> (B, J, T, C).
fn swap(x: &Array) -> Array {
    let [b, t, j, c] = x.shape[..] else { unreachable!() };
    Array::from_fn(&[b, j, t, c], |i| x.at(&[i[0], i[2], i[1], i[3]]))
}

#[test]
fn attention_along_both_axes() {
    let [wq, wk, wv] = [17, 18, 19].map(|seed| Array::noise(seed, &[8, 8]));
    for x in sequences(20) {
        let [b, t, j, c] = x.shape[..] else { unreachable!() };
        let parts = [linear(&x, &wq, None), linear(&x, &wk, None), linear(&x, &wv, None)];
        let joints = parts.clone().map(|x| x.reshape(&[b * t, j, c]));
        let along_joints = attention(&joints[0], &joints[1], &joints[2], 2).reshape(&x.shape);
        let frames = parts.clone().map(|x| swap(&x).reshape(&[b * j, t, c]));
        let along_frames = swap(&attention(&frames[0], &frames[1], &frames[2], 4).reshape(&[b, j, t, c]));
        check(&[&x], &[along_joints.clone(), along_frames.clone()], |r, i| {
            let [q, k, v] = [(&wq, "q"), (&wk, "k"), (&wv, "v")].map(|(w, name)| i[0].linear(&w.constant(r, name), None));
            [(2, Axis::Joints), (4, Axis::Frames)]
                .map(|(heads, axis)| Tensor::attention(&q, &k, &v, heads, axis, 0.1, &EVALUATION))
                .to_vec()
        });
        // q, k, v that are no linear maps; and sequences cut without a transposition, where T stands third.
        check_free(0, &[&parts[0], &parts[1], &parts[2]], &[along_joints], |_, i| {
            vec![Tensor::attention(&i[0], &i[1], &i[2], 2, Axis::Joints, 0.0, &EVALUATION)]
        });
        let cut = x.reshape(&[b * j, t, c]);
        let expected = attention(&cut, &cut, &cut, 2).reshape(&x.shape);
        check(&[&x], &[expected], |_, i| {
            let cut = i[0].reshape_untransposed();
            vec![Tensor::attention(&cut, &cut, &cut, 2, Axis::Joints, 0.0, &EVALUATION).reshape_back_untransposed()]
        });
    }
}

#[test]
fn skeleton_graph() {
    let matrix = Array::noise(21, &[17, 17]);
    for x in sequences(22) {
        let expected = Array::from_fn(&x.shape, |i| (0..17).map(|j| matrix.at(&[i[2], j]) * x.at(&[i[0], i[1], j, i[3]])).sum());
        check(&[&x], &[expected], |r, i| vec![i[0].mix_joints(&matrix.constant(r, "adjacency"))]);
    }
}

/// `D^-1/2 A D^-1/2 x` with the k most similar frames and everything as similar as the last of them.
fn top_k(x: &Array, features: &Array, k: usize) -> Array {
    let [b, t, joints, c] = x.shape[..] else { unreachable!() };
    let mut out = Array::from_fn(&x.shape, |_| 0.0);
    for s in 0..b * joints {
        let (sample, joint) = (s / joints, s % joints);
        let row = |i: usize| -> Vec<f64> {
            (0..t).map(|j| (0..c).map(|c| features.at(&[sample, i, joint, c]) * features.at(&[sample, j, joint, c])).sum()).collect()
        };
        let graph: Vec<Vec<f64>> = (0..t)
            .map(|i| {
                let row = row(i);
                let mut sorted = row.clone();
                sorted.sort_by(|a, b| b.total_cmp(a));
                row.iter().map(|&similarity| f64::from(u8::from(similarity >= sorted[k - 1]))).collect()
            })
            .collect();
        let degree: Vec<f64> = graph.iter().map(|row| row.iter().sum()).collect();
        for i in 0..t {
            for channel in 0..c {
                let mixed: f64 = (0..t).map(|j| graph[i][j] / (degree[i] * degree[j]).sqrt() * x.at(&[sample, j, joint, channel])).sum();
                out.values[((sample * t + i) * joints + joint) * c + channel] = mixed;
            }
        }
    }
    out
}

#[test]
fn frame_graph_with_ties() {
    for x in sequences(23) {
        // Features on a coarse grid: many exact ties, and products that f32 holds exactly.
        let features = Array::noise(24, &x.shape).map(|x| (2.0 * x).round());
        for k in [1, 2, 4] {
            check_free(0, &[&x, &features], &[top_k(&x, &features, k)], |_, i| vec![i[0].mix_frames_top_k(&i[1], k)]);
        }
        check(&[&features], &[top_k(&features, &features, 3)], |_, i| vec![i[0].mix_frames_top_k(&i[0], 3)]);
    }
}

#[test]
fn batch_normalisation_per_node() {
    for x in sequences(25) {
        for (axis, along) in [(Axis::Frames, 1), (Axis::Joints, 2)] {
            let nodes = x.shape[along];
            let [weight, bias, mean] = [26, 27, 28].map(|seed| Array::noise(seed, &[nodes]));
            let variance = Array::noise(29, &[nodes]).map(|x| 1e-5 * (1.1 + x)); // near eps
            let expected = Array::from_fn(&x.shape, |i| {
                let node = &[i[along]];
                (x.at(i) - mean.at(node)) / (variance.at(node) + 1e-5).sqrt() * weight.at(node) + bias.at(node)
            });
            check_free(1, &[&x], &[expected], |r, i| {
                let norm = BatchNorm {
                    weight: weight.constant(r, "n.weight"),
                    bias: bias.constant(r, "n.bias"),
                    running_mean: mean.constant(r, "n.running_mean"),
                    running_var: variance.constant(r, "n.running_var"),
                    num_batches_tracked: r.constant("n.num_batches_tracked", &[], vec![0.0]),
                };
                vec![i[0].batch_norm(&norm, axis, &EVALUATION)]
            });
        }
    }
}

#[test]
fn sequences_of_joints_and_back() {
    for x in sequences(30) {
        let [b, t, j, c] = x.shape[..] else { unreachable!() };
        let sequences = swap(&x).reshape(&[b * j, t, c]);
        check(&[&x], &[sequences.clone(), x.clone()], |_, i| {
            let sequences = i[0].to_joint_sequences();
            vec![sequences.clone(), sequences.to_pose_sequences(17)]
        });
        // The original's way: memory as it is.
        check(&[&x], &[x.reshape(&[b * j, t, c]), x.clone()], |_, i| {
            let merged = i[0].reshape_untransposed().merge_batch_and_joints();
            vec![merged.clone(), merged.split_batch_and_joints(17).reshape_back_untransposed()]
        });
        check(&[&x], &[x.reshape(&[b, j, t, c])], |_, i| vec![i[0].reshape_untransposed()]);
    }
}

#[test]
fn means() {
    for x in sequences(31) {
        let [b, t, j, c] = x.shape[..] else { unreachable!() };
        let over_both = Array::from_fn(&[b, c], |i| (0..t * j).map(|n| x.at(&[i[0], n / j, n % j, i[1]])).sum::<f64>() / (t * j) as f64);
        check(&[&x], &[over_both], |_, i| vec![i[0].mean_over_frames_and_joints()]);
        let sequences = x.reshape(&[b * t, j, c]);
        let over_second = Array::from_fn(&[b * t, 1, c], |i| (0..j).map(|n| sequences.at(&[i[0], n, i[2]])).sum::<f64>() / j as f64);
        check(&[&sequences], &[over_second], |_, i| vec![i[0].mean_over_sequence()]);
    }
}

/// Convolution over frames that sees `before` (K - 1 of them) first; and its last K - 1 inputs.
fn causal_conv(x: &Array, weight: &Array, bias: &Array, before: &Array) -> [Array; 2] {
    let [s, l, e] = x.shape[..] else { unreachable!() };
    let kernel = weight.shape[2];
    let seen =
        Array::from_fn(
            &[s, kernel - 1 + l, e],
            |i| {
                if i[1] < kernel - 1 { before.at(i) } else { x.at(&[i[0], i[1] - (kernel - 1), i[2]]) }
            },
        );
    let y = Array::from_fn(&x.shape, |i| {
        (0..kernel).map(|k| weight.at(&[i[2], 0, k]) * seen.at(&[i[0], i[1] + k, i[2]])).sum::<f64>() + bias.at(&[i[2]])
    });
    [y, Array::from_fn(&[s, kernel - 1, e], |i| seen.at(&[i[0], l + i[1], i[2]]))]
}

#[test]
fn causal_convolution() {
    // Longer and shorter than the kernel, and a kernel of one frame, whose state is empty.
    for (frames, kernel) in [(9, 4), (1, 4), (2, 3), (5, 1)] {
        let x = Array::noise(32, &[3, frames, 6]);
        let (weight, bias) = (Array::noise(33, &[6, 1, kernel]), Array::noise(34, &[6]));
        let nothing = Array::from_fn(&[3, kernel - 1, 6], |_| 0.0);
        let [y, state] = causal_conv(&x, &weight, &bias, &nothing);
        check(&[&x], &[y.clone(), state.clone()], |r, i| {
            let (y, state) = i[0].causal_conv(&weight.constant(r, "c.weight"), &bias.constant(r, "c.bias"), None);
            vec![y, state]
        });
        check_free(0, &[&x, &weight, &bias], &[y], |_, i| vec![i[0].causal_conv(&i[1], &i[2], None).0]);
        if kernel > 1 {
            let before = Array::noise(35, &[3, kernel - 1, 6]);
            check_free(1, &[&x, &before], &causal_conv(&x, &weight, &bias, &before), |r, i| {
                let (y, state) = i[0].causal_conv(&weight.constant(r, "c.weight"), &bias.constant(r, "c.bias"), Some(&i[1]));
                vec![y, state]
            });
        }
    }
}

/// Weights drawn as they are asked for.
struct Drawn(Recorder, u64);

impl WeightSource<Recorded> for Drawn {
    fn parameter(&mut self, name: &str, shape: &[usize], _: Init) -> Result<Recorded, WeightError> {
        self.1 += 1;
        Ok(self.0.constant(name, shape, noise(self.1, shape.iter().product())))
    }
    fn buffer(&mut self, name: &str, shape: &[usize], _: &[f32]) -> Result<Recorded, WeightError> {
        self.parameter(name, shape, Init::Constant(0.0))
    }
    fn counter(&mut self, name: &str) -> Result<Recorded, WeightError> {
        self.parameter(name, &[], Init::Constant(0.0))
    }
    fn constant(&mut self, shape: &[usize], value: &[f32]) -> Result<Recorded, WeightError> {
        Ok(self.0.constant("constant", shape, value.to_vec()))
    }
}

#[test]
fn a_sequence_in_pieces_is_the_sequence() {
    let mamba = |recorder: &Recorder| {
        let source = std::rc::Rc::new(std::cell::RefCell::new(Drawn(recorder.clone(), 100)));
        let source: std::rc::Rc<std::cell::RefCell<dyn WeightSource<Recorded>>> = source;
        Mamba(MambaWeights::new(&Weights::new(source), 4, 3, 4).unwrap())
    };
    let x = noise(40, 2 * 7 * 4);
    let options = Options { custom_op: true, threads: 1 };
    let dims = |frames: &str| [Dim::symbol("sequences"), frames.into(), 4.into()];

    let recorder = Recorder::new();
    let y = mamba(&recorder).forward(&recorder.input("x", &dims("frames")));
    let model = recorder.finish("whole", &[("y", &y)]).unwrap();
    let scan = model.graph.iter().flat_map(|graph| &graph.node).find(|node| node.op_type.as_deref() == Some("SelectiveScan")).unwrap();
    assert_eq!(scan.output.len(), 1, "nobody reads the last state");
    let unused = model.graph.iter().flat_map(|graph| &graph.node).any(|node| node.op_type.as_deref() == Some("Pad"));
    assert!(!unused, "nobody reads the convolution's state");
    let whole = Session::open(&model, options).unwrap().run(&[("x", &[2, 7, 4], &x)]).unwrap().remove(0).1;

    let recorder = Recorder::new();
    let state = MambaState {
        conv: recorder.input("conv", &["sequences".into(), 3.into(), 8.into()]),
        scan: recorder.input("scan", &["sequences".into(), 8.into(), 3.into()]),
    };
    let (y, after) = mamba(&recorder).step(&recorder.input("x", &dims("frames")), Some(&state));
    let model = recorder.finish("step", &[("y", &y), ("conv_after", &after.conv), ("scan_after", &after.scan)]).unwrap();
    let mut session = Session::open(&model, options).unwrap();
    let (mut conv, mut scan) = (vec![0.0; 2 * 3 * 8], vec![0.0; 2 * 8 * 3]);
    let mut start = 0;
    for frames in [1, 1, 3, 2] {
        let piece: Vec<f32> = (0..2).flat_map(|s| &x[(s * 7 + start) * 4..][..frames * 4]).copied().collect();
        let mut outputs = session.run(&[("conv", &[2, 3, 8], &conv), ("scan", &[2, 8, 3], &scan), ("x", &[2, frames, 4], &piece)]).unwrap();
        (scan, conv) = (outputs.pop().unwrap().1, outputs.pop().unwrap().1);
        let y = outputs.pop().unwrap().1;
        let expected: Vec<f64> = (0..2).flat_map(|s| &whole[(s * 7 + start) * 4..][..frames * 4]).map(|&x| f64::from(x)).collect();
        assert!(common::largest_difference(&y, &expected) < 1e-5);
        start += frames;
    }
}

#[test]
fn two_forms_of_the_scan_are_refused() {
    let recorder = Recorder::new();
    let x = recorder.input("x", &["sequences".into(), "frames".into(), 4.into()]);
    let a = recorder.constant("A", &[4, 4], vec![-1.0; 16]);
    let scan = |delta_softplus| {
        Recorded::selective_scan(&SelectiveScan {
            u: &x,
            delta: &x,
            a: &a,
            b: &x,
            c: &x,
            d: None,
            z: None,
            delta_bias: None,
            initial_state: None,
            delta_softplus,
        })
        .0
    };
    let message = recorder.clone().finish("test", &[("y", &scan(true).add(&scan(false)))]).unwrap_err().to_string();
    assert!(message.contains("two forms"), "{message}");
}
