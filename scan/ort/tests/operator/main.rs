//! The operator inside ONNX Runtime, through models of one node, against the f64 oracle.

#[allow(dead_code, reason = "shared with scan's own tests, which use more of it")]
#[path = "../../../tests/scan/case.rs"]
mod case;
mod cuda;
mod onnx;
#[allow(dead_code, reason = "shared with scan's own tests, which use more of it")]
#[path = "../../../tests/scan/stand_in.rs"]
mod stand_in;

use std::path::Path;
use std::sync::OnceLock;

use case::{Case, Parts, relative_error};
use half::f16;
use onnx::{Size, Type, Value, model};
use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::operator::OperatorDomain;
use ort::session::{Session, SessionInputValue};
use ort::value::{DynValue, Tensor, ValueType};
use scan::{Dims, schema};

/// The one environment of this process, with the library of `.native`.
fn environment() -> &'static Environment {
    static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.native/onnxruntime/lib"));
        let library = folder
            .read_dir()
            .expect(".native/onnxruntime/lib: run `make` once, which fetches it")
            .map(|entry| entry.expect("an entry").path())
            .find(|path| path.to_string_lossy().contains("libonnxruntime.so"))
            .expect("libonnxruntime.so");
        ort::init_from(library).expect("the library").build().expect("an environment")
    })
}

fn domain() -> OperatorDomain {
    environment();
    poselift_scan_ort::operator_domain().expect("a domain")
}

fn session(bytes: &[u8], threads: usize) -> ort::Result<Session> {
    session_with(bytes, threads, domain())
}

fn session_with(bytes: &[u8], threads: usize, operators: OperatorDomain) -> ort::Result<Session> {
    let mut builder = Session::builder(environment())?
        .with_log_level(LogLevel::Fatal)? // the refusals below are meant to happen
        .with_intra_threads(threads)?
        .with_operators(operators)?;
    poselift_scan_ort::commit_with_operators(|| builder.commit_from_memory(bytes))
}

/// The shape of input `index` as the schema has it.
fn shape(dims: Dims, index: usize) -> Vec<usize> {
    let Dims { sequences: s, frames: l, channels: d, states: n } = dims;
    match schema::INPUTS[index] {
        "u" | "delta" | "z" => vec![s, l, d],
        "B" | "C" => vec![s, l, n],
        "A" => vec![d, n],
        "D" | "delta_bias" => vec![d],
        _ => vec![s, d, n],
    }
}

/// Whether input `index` has the element type of u, rather than f32.
fn follows_u(index: usize) -> bool {
    matches!(schema::INPUTS[index], "u" | "delta" | "B" | "C" | "z")
}

/// The case's inputs in the schema's order.
fn values(case: &Case<f32>) -> [Option<&Vec<f32>>; 9] {
    [
        Some(&case.u),
        Some(&case.delta),
        Some(&case.a),
        Some(&case.b),
        Some(&case.c),
        case.d.as_ref(),
        case.z.as_ref(),
        case.delta_bias.as_ref(),
        case.initial_state.as_ref(),
    ]
}

fn tensor(shape: Vec<usize>, values: &[f32], of: Type) -> DynValue {
    match of {
        Type::F32 => Tensor::from_array((shape, values.to_vec())).expect("a tensor").into_dyn(),
        Type::F16 => {
            Tensor::from_array((shape, values.iter().map(|&value| f16::from_f32(value)).collect::<Vec<_>>())).expect("a tensor").into_dyn()
        }
    }
}

/// A model for the case's combination of inputs; sizes are left open unless `fixed`.
fn model_of(case: &Case<f32>, of: Type, last_state: bool, fixed: bool) -> Vec<u8> {
    let sizes = |index: usize| -> Vec<Size> {
        let names: &[&'static str] = match schema::INPUTS[index] {
            "u" | "delta" | "z" => &["S", "L", "D"],
            "B" | "C" => &["S", "L", "N"],
            "A" => &["D", "N"],
            "D" | "delta_bias" => &["D"],
            _ => &["S", "D", "N"],
        };
        let known = shape(case.dims, index).into_iter().map(Size::Is);
        if fixed { known.collect() } else { names.iter().map(|name| Size::Named(name)).collect() }
    };
    let present = values(case).map(|values| values.is_some());
    let inputs: Vec<Value<'_>> = (0..9)
        .filter(|&index| present[index])
        .map(|index| Value { name: schema::INPUTS[index], of: if follows_u(index) { of } else { Type::F32 }, shape: Some(sizes(index)) })
        .collect();
    let last = present.iter().rposition(|&present| present).unwrap_or(0);
    let wires: Vec<&str> = (0..=last).map(|index| if present[index] { schema::INPUTS[index] } else { "" }).collect();
    let mut outputs = vec![Value { name: "y", of, shape: None }];
    if last_state {
        outputs.push(Value { name: "last_state", of: Type::F32, shape: None });
    }
    model(&inputs, &wires, &outputs, case.delta_softplus.then_some(1))
}

/// Runs the case; y and, where the model has it, the last state.
fn run(session: &mut Session, case: &Case<f32>, of: Type) -> ort::Result<(Vec<f32>, Option<Vec<f32>>)> {
    let inputs: Vec<(&str, SessionInputValue<'_>)> = values(case)
        .into_iter()
        .enumerate()
        .filter_map(|(index, values)| {
            let of = if follows_u(index) { of } else { Type::F32 };
            values.map(|values| (schema::INPUTS[index], tensor(shape(case.dims, index), values, of).into()))
        })
        .collect();
    let outputs = session.run(inputs)?;
    let y = match of {
        Type::F32 => outputs["y"].try_extract_tensor::<f32>()?.1.to_vec(),
        Type::F16 => outputs["y"].try_extract_tensor::<f16>()?.1.iter().map(|value| value.to_f32()).collect(),
    };
    let last = outputs.get("last_state").map(|value| value.try_extract_tensor::<f32>().map(|(_, values)| values.to_vec())).transpose()?;
    Ok((y, last))
}

const DIMS: Dims = Dims { sequences: 3, frames: 20, channels: 37, states: 16 };

/// The case with values that f16 holds exactly, where that type is asked for.
fn rounded(mut case: Case<f64>, of: Type) -> Case<f64> {
    if let Type::F16 = of {
        for values in [&mut case.u, &mut case.delta, &mut case.b, &mut case.c].into_iter().chain(case.z.as_mut()) {
            values.iter_mut().for_each(|value| *value = f16::from_f64(*value).to_f64());
        }
    }
    case
}

#[test]
fn every_combination_of_inputs_outputs_and_types() {
    for number in 0..32 {
        for of in [Type::F32, Type::F16] {
            for last_state in [false, true] {
                let case = rounded(Case::random(DIMS, Parts::numbered(number), number as u64), of);
                let truth = case.by_oracle(0.0);
                let case = case.narrow();
                let mut session = session(&model_of(&case, of, last_state, number % 2 == 0), 1).expect("a session");
                let (y, last) = run(&mut session, &case, of).expect("a run");
                let tolerance = if let Type::F16 = of { 6e-4 } else { 1e-5 };
                assert!(relative_error(&y, &truth.y) < tolerance, "parts {number}: {}", relative_error(&y, &truth.y));
                assert_eq!(last.is_some(), last_state);
                if let Some(last) = last {
                    assert!(relative_error(&last, &truth.last_state) < 1e-5, "parts {number}");
                }
            }
        }
    }
}

#[test]
fn one_session_takes_any_batch_and_length() {
    let shapes = [(3, 20), (1, 1), (5, 243), (0, 4), (2, 0)];
    let first = Case::random(DIMS, Parts::ALL, 1).narrow();
    let mut session = session(&model_of(&first, Type::F32, true, false), 2).expect("a session");
    for (sequences, frames) in shapes {
        let case = Case::random(Dims { sequences, frames, ..DIMS }, Parts::ALL, 2);
        let (y, last) = run(&mut session, &case.narrow(), Type::F32).expect("a run");
        let truth = case.by_oracle(0.0);
        assert!(relative_error(&y, &truth.y) < 1e-5 && relative_error(&last.expect("last_state"), &truth.last_state) < 1e-5);
    }
}

#[test]
fn step_by_step_is_the_batch() {
    let case = Case::random(DIMS, Parts::ALL, 3).narrow();
    let bytes = model_of(&case, Type::F32, true, false);
    let mut session = session(&bytes, 1).expect("a session");
    let (whole, last) = run(&mut session, &case, Type::F32).expect("a run");
    let Dims { sequences: s, frames: l, channels: d, states: n } = DIMS;
    let mut state = case.initial_state.clone();
    for t in 0..l {
        let frame = |values: &[f32], width: usize| (0..s).flat_map(|i| values[(i * l + t) * width..][..width].to_vec()).collect::<Vec<_>>();
        let step = Case {
            dims: Dims { frames: 1, ..DIMS },
            u: frame(&case.u, d),
            delta: frame(&case.delta, d),
            b: frame(&case.b, n),
            c: frame(&case.c, n),
            z: case.z.as_ref().map(|z| frame(z, d)),
            initial_state: state,
            ..case.clone()
        };
        let (y, next) = run(&mut session, &step, Type::F32).expect("a step");
        assert_eq!(y, frame(&whole, d));
        state = next;
    }
    assert_eq!(state, last);
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let case = Case::random(Dims { sequences: 17, frames: 81, channels: 96, states: 16 }, Parts::ALL, 4).narrow();
    let bytes = model_of(&case, Type::F32, true, false);
    let runs: Vec<_> =
        [1, 2, 4].map(|threads| run(&mut session(&bytes, threads).expect("a session"), &case, Type::F32).expect("a run")).into();
    assert!(runs.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn many_sessions_at_once() {
    let case = Case::random(DIMS, Parts::ALL, 5).narrow();
    let bytes = model_of(&case, Type::F32, true, false);
    let expected = run(&mut session(&bytes, 1).expect("a session"), &case, Type::F32).expect("a run");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut session = session(&bytes, 2).expect("a session");
                for _ in 0..20 {
                    assert_eq!(run(&mut session, &case, Type::F32).expect("a run"), expected);
                }
            });
        }
    });
}

#[test]
fn shapes_are_inferred() {
    let case = Case::random(DIMS, Parts::ALL, 6).narrow();
    let inferred = |fixed| -> Vec<(Vec<i64>, Vec<String>)> {
        let session = session(&model_of(&case, Type::F16, true, fixed), 1).expect("a session");
        let read = |output: &ort::value::Outlet| match output.dtype() {
            ValueType::Tensor { shape, dimension_symbols, .. } => (shape.to_vec(), dimension_symbols.to_vec()),
            other => panic!("{other:?}"),
        };
        session.outputs().iter().map(read).collect()
    };
    let names = |names: [&str; 3]| names.map(str::to_owned).to_vec();
    assert_eq!(inferred(true), [(vec![3, 20, 37], names(["", "", ""])), (vec![3, 37, 16], names(["", "", ""]))]);
    assert_eq!(inferred(false), [(vec![-1; 3], names(["S", "L", "D"])), (vec![-1; 3], names(["S", "D", "N"]))]);
}

#[test]
fn a_wrong_shape_is_a_status_with_words() {
    let case = Case::random(DIMS, Parts::ALL, 7).narrow();
    // Sizes have no names in common here, so that ONNX Runtime lets the kernel see the misfit.
    let open = |name: &'static str, rank: usize| vec![Size::Named(name); rank];
    for wrong in 0..9 {
        let inputs: Vec<Value<'_>> = (0..9)
            .map(|index| Value {
                name: schema::INPUTS[index],
                of: Type::F32,
                shape: (index != wrong).then(|| open("", shape(DIMS, index).len())),
            })
            .collect();
        let bytes = model(&inputs, &schema::INPUTS, &[Value { name: "y", of: Type::F32, shape: None }], Some(1));
        let mut session = session(&bytes, 1).expect("a session");
        for bad in [vec![], vec![7], vec![5, 7], vec![2, 5, 7], vec![0, 0, 0], vec![1, 2, 3, 4]] {
            let inputs: Vec<(&str, SessionInputValue<'_>)> = values(&case)
                .into_iter()
                .enumerate()
                .map(|(index, values)| {
                    let shape = if index == wrong { bad.clone() } else { shape(DIMS, index) };
                    let count = shape.iter().product();
                    let values = values.expect("all parts").iter().copied().cycle().take(count).collect::<Vec<_>>();
                    (schema::INPUTS[index], tensor(shape, &values, Type::F32).into())
                })
                .collect();
            let error = session.run(inputs).map(|_| ()).expect_err("a misfit").to_string();
            assert!(error.contains("SelectiveScan: ") && error.contains(" must have shape "), "input {wrong} as {bad:?}: {error}");
        }
        // The session is not spoilt.
        let mut fine = Vec::new();
        for (index, values) in values(&case).into_iter().enumerate() {
            fine.push((schema::INPUTS[index], SessionInputValue::from(tensor(shape(DIMS, index), values.expect("all parts"), Type::F32))));
        }
        assert!(session.run(fine).is_ok());
    }
}

#[test]
fn a_wrong_attribute_is_refused() {
    let case = Case::random(DIMS, Parts::default(), 8).narrow();
    let inputs: Vec<Value<'_>> = (0..5)
        .map(|index| Value {
            name: schema::INPUTS[index],
            of: Type::F32,
            shape: Some(shape(case.dims, index).into_iter().map(Size::Is).collect()),
        })
        .collect();
    let output = || [Value { name: "y", of: Type::F32, shape: None }];
    let error = session(&model(&inputs, &schema::INPUTS[..5], &output(), Some(2)), 1).map(|_| ()).expect_err("2 is no boolean").to_string();
    assert!(error.contains("delta_softplus must be 0 or 1, but is 2"), "{error}");
    let few = session(&model(&inputs[..3], &schema::INPUTS[..3], &output(), None), 1).map(|_| ()).expect_err("B and C are missing");
    assert!(!few.to_string().is_empty());
}
