//! The function body of every form of the scan, in ONNX Runtime alone, against the oracle and against the operator.

mod common;

use common::noise;
use export::{
    onnx::{Builder, Extent, int, opset, proto::ModelProto},
    scan_function::{ElementType, ScanForm, function},
    session::{Options, Session},
};
use scan::{Dims, Inputs, oracle, schema};

const FLOAT: i64 = 1;
const FLOAT16: i64 = 10;

/// One node and its function; u, delta, B, C, z and y pass through f16 where `element` says so.
fn model(form: ScanForm, element: ElementType, dims: Dims) -> ModelProto {
    let mut builder = Builder::default();
    let fixed = |sizes: &[usize]| sizes.iter().map(|&n| Extent::Fixed(n)).collect::<Vec<_>>();
    let mut inputs = Vec::new();
    for (name, used) in form.inputs() {
        if !used {
            inputs.push(String::new());
            continue;
        }
        let mut shape = fixed(&shape_of(name, dims));
        if shape.len() == 3 {
            shape[0] = Extent::Named("sequences".into()); // sequences and frames are free
            if name != "initial_state" {
                shape[1] = Extent::Named("frames".into());
            }
        }
        builder.input(name, &shape);
        let narrow = element == ElementType::F16 && ["u", "delta", "B", "C", "z"].contains(&name);
        inputs.push(if narrow { builder.node("", "Cast", &[name], vec![int("to", FLOAT16)]) } else { name.to_owned() });
    }
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let attributes = vec![int(schema::DELTA_SOFTPLUS, i64::from(form.delta_softplus))];
    let [y, last_state] = builder.node_with("", schema::OP, schema::DOMAIN, &inputs, attributes);
    builder.node_named("y_out", "Cast", &[&y], vec![int("to", FLOAT)]);
    let free = |second| vec![Extent::Named("sequences".into()), second, Extent::Unknown];
    let mut outputs = vec![("y_out".to_owned(), free(Extent::Named("frames".into())))];
    if form.last_state {
        builder.node_named("state_out", "Identity", &[&last_state], vec![]);
        outputs.push(("state_out".to_owned(), free(Extent::Fixed(dims.channels))));
    }
    let mut model = builder.finish("scan", &outputs);
    model.functions.push(function(form, element));
    model.opset_import.push(opset(schema::DOMAIN, schema::VERSION));
    model
}

fn shape_of(name: &str, Dims { sequences: s, frames: l, channels: d, states: n }: Dims) -> Vec<usize> {
    match name {
        "u" | "delta" | "z" => vec![s, l, d],
        "A" => vec![d, n],
        "B" | "C" => vec![s, l, n],
        "D" | "delta_bias" => vec![d],
        _ => vec![s, d, n],
    }
}

fn values_of(name: &str, dims: Dims) -> Vec<f32> {
    let seed = schema::INPUTS.iter().position(|&input| input == name).unwrap() as u64;
    let values = noise(seed, shape_of(name, dims).iter().product());
    let half = |x: f32| half::f16::from_f32(x).to_f32(); // what f16 holds, so that both precisions see the same input
    match name {
        "A" => values.into_iter().map(|x| -2.0 - 1.9 * x).collect(),
        "delta" => values.into_iter().map(|x| half(0.5 + 0.45 * x)).collect(), // positive even without softplus
        _ => values.into_iter().map(half).collect(),
    }
}

fn expected(form: ScanForm, dims: Dims) -> (Vec<f64>, Vec<f64>) {
    let wide = |name: &str| values_of(name, dims).into_iter().map(f64::from).collect::<Vec<f64>>();
    let [u, delta, a, b, c, d, z, delta_bias, initial_state] = schema::INPUTS.map(wide);
    let inputs = Inputs {
        u: &u,
        delta: &delta,
        a: &a,
        b: &b,
        c: &c,
        d: form.d.then_some(&d[..]),
        z: form.z.then_some(&z[..]),
        delta_bias: form.delta_bias.then_some(&delta_bias[..]),
        initial_state: form.initial_state.then_some(&initial_state[..]),
        delta_softplus: form.delta_softplus,
    };
    let (mut y, mut last_state) = (vec![0.0; u.len()], vec![0.0; initial_state.len()]);
    oracle::forward(dims, &inputs, &mut y, Some(&mut last_state)).unwrap();
    (y, last_state)
}

fn check(element: ElementType, tolerance: f64, dims: Dims) {
    for form in ScanForm::all() {
        let model = model(form, element, dims);
        let (y, last_state) = expected(form, dims);
        let fed: Vec<(&str, Vec<usize>, Vec<f32>)> = form
            .inputs()
            .into_iter()
            .filter(|(_, used)| *used)
            .map(|(name, _)| (name, shape_of(name, dims), values_of(name, dims)))
            .collect();
        let fed: Vec<(&str, &[usize], &[f32])> = fed.iter().map(|(name, shape, values)| (*name, &shape[..], &values[..])).collect();
        for custom_op in [false, true] {
            let what = format!("{form}, last state {}, operator {custom_op}", form.last_state);
            let outputs = Session::open(&model, Options { custom_op, threads: 1 })
                .and_then(|mut session| session.run(&fed))
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(outputs[0].0, shape_of("u", dims), "{what}");
            let difference = common::largest_difference(&outputs[0].1, &y);
            assert!(difference <= tolerance, "{what}: y differs by {difference:e}");
            assert_eq!(outputs.len(), if form.last_state { 2 } else { 1 });
            if form.last_state {
                assert_eq!(outputs[1].0, shape_of("initial_state", dims), "{what}");
                let difference = common::largest_difference(&outputs[1].1, &last_state);
                assert!(difference <= tolerance, "{what}: last state differs by {difference:e}");
            }
        }
    }
}

#[test]
fn every_form_in_f32() {
    check(ElementType::F32, 1e-5, Dims { sequences: 3, frames: 7, channels: 5, states: 4 });
}

#[test]
fn every_form_of_one_frame_and_one_state() {
    check(ElementType::F32, 1e-5, Dims { sequences: 1, frames: 1, channels: 2, states: 1 });
}

#[test]
fn every_form_in_f16() {
    check(ElementType::F16, 1e-2, Dims { sequences: 2, frames: 6, channels: 5, states: 3 });
}
