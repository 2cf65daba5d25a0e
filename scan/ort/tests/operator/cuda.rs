//! The kernel for CUDA inside ONNX Runtime, without a GPU: ONNX Runtime takes it for one of the CPU's, and the driver is the stand-in of
//! scan/tests/cuda, whose kernels work on the host's memory here. So it is the real context, with its real inputs and outputs, that
//! the kernel reads addresses from. What is missing: memory of a device, a stream, a provider.
#![allow(clippy::print_stdout, reason = "what was skipped")]

use half::f16;
use scan::cuda::{ElementType, is_available};
use scan::{Dims, schema};

use crate::case::{Case, Parts, relative_error};
use crate::onnx::{Type, Value, model};
use crate::stand_in::{child, passes};
use crate::{DIMS, model_of, rounded, run, session_with, shape, tensor, values};

#[test]
fn the_kernel_for_cuda_reads_and_writes_what_it_is_given() {
    if !is_available() {
        println!("skipped: NVRTC is absent (scripts/native.sh nvrtc)");
        return;
    }
    let programs = [(ElementType::F32, 16), (ElementType::F16, 16)];
    let child = |inside: &str| {
        let mut command = child(&format!("cuda::inside::{inside}"), &programs);
        command.env("STAND_IN_HOST", "1").env("POSELIFT_CACHE", env!("CARGO_TARGET_TMPDIR"));
        command
    };
    passes(&mut child("every_combination"));
    passes(&mut child("misfits"));
    passes(child("no_driver").env("STAND_IN_INIT", "100"));
}

/// What runs with the stand-in.
mod inside {
    use ort::session::{Session, SessionInputValue};

    use super::*;

    fn is_started_for_this() -> bool {
        std::env::var_os("STAND_IN_HOST").is_some()
    }

    fn session(bytes: &[u8]) -> Session {
        crate::environment();
        let operators = poselift_scan_ort::cuda_operators_as_those_of_the_cpu().expect("a domain");
        session_with(bytes, 1, operators).expect("a session")
    }

    #[test]
    #[ignore = "started by the test of this file"]
    fn every_combination() {
        if !is_started_for_this() {
            return;
        }
        for number in 0..32 {
            let of = if number % 3 == 0 { Type::F16 } else { Type::F32 };
            let last_state = number % 2 == 0;
            let case = rounded(Case::random(Dims { frames: 5, ..DIMS }, Parts::numbered(number), number as u64), of);
            let truth = case.by_oracle(0.0);
            let case = case.narrow();
            let mut session = session(&model_of(&case, of, last_state, number % 4 < 2));
            // A second run finds everything loaded.
            for _ in 0..2 {
                let (y, last) = run(&mut session, &case, of).expect("a run");
                let tolerance = if let Type::F16 = of { f64::from(f16::EPSILON) } else { 1e-5 };
                assert!(relative_error(&y, &truth.y) < tolerance, "parts {number}: {}", relative_error(&y, &truth.y));
                assert_eq!(last.is_some(), last_state);
                if let Some(last) = last {
                    assert!(relative_error(&last, &truth.last_state) < 1e-5, "parts {number}");
                }
            }
        }
        // Nothing to do, and a step.
        let first = Case::random(DIMS, Parts::ALL, 1).narrow();
        let mut session = session(&model_of(&first, Type::F32, true, false));
        for (sequences, frames) in [(0, 4), (2, 0), (3, 1)] {
            let case = Case::random(Dims { sequences, frames, ..DIMS }, Parts::ALL, 2);
            let (y, last) = run(&mut session, &case.narrow(), Type::F32).expect("a run");
            let truth = case.by_oracle(0.0);
            assert!(relative_error(&y, &truth.y) < 1e-5 && relative_error(&last.expect("last_state"), &truth.last_state) < 1e-5);
        }
    }

    #[test]
    #[ignore = "started by the test of this file"]
    fn misfits() {
        if !is_started_for_this() {
            return;
        }
        let case = Case::random(DIMS, Parts::ALL, 7).narrow();
        let inputs: Vec<Value<'_>> = (0..9).map(|index| Value { name: schema::INPUTS[index], of: Type::F32, shape: None }).collect();
        let mut session = session(&model(&inputs, &schema::INPUTS, &[Value { name: "y", of: Type::F32, shape: None }], Some(1)));
        let mut with = |wrong: usize, bad: &[usize]| {
            let inputs: Vec<(&str, SessionInputValue<'_>)> = values(&case)
                .into_iter()
                .enumerate()
                .map(|(index, values)| {
                    let shape = if index == wrong { bad.to_vec() } else { shape(DIMS, index) };
                    let values = values.expect("all parts").iter().copied().cycle().take(shape.iter().product()).collect::<Vec<_>>();
                    (schema::INPUTS[index], tensor(shape, &values, Type::F32).into())
                })
                .collect();
            session.run(inputs).map(|_| ()).map_err(|error| error.to_string())
        };
        for wrong in 0..9 {
            for bad in [&[7][..], &[2, 5, 7], &[0, 0, 0]] {
                let error = with(wrong, bad).expect_err("a misfit");
                assert!(error.contains("SelectiveScan: ") && error.contains(" must have shape "), "input {wrong} as {bad:?}: {error}");
            }
        }
        assert_eq!(with(9, &[]), Ok(()), "the session is not spoilt");
        // More states than kernels take.
        let many = Case::random(Dims { states: 129, ..DIMS }, Parts::default(), 1).narrow();
        let error = run(&mut self::session(&model_of(&many, Type::F32, false, true)), &many, Type::F32).expect_err("129").to_string();
        assert!(error.contains("the kernels take 1 to 128 states, but A has 129; run this scan on the CPU"), "{error}");
    }

    #[test]
    #[ignore = "started by the test of this file"]
    fn no_driver() {
        if !is_started_for_this() {
            return;
        }
        let case = Case::random(DIMS, Parts::ALL, 7).narrow();
        let mut session = session(&model_of(&case, Type::F32, true, true));
        let error = run(&mut session, &case, Type::F32).expect_err("no device").to_string();
        assert!(error.contains("the driver failed at starting: no CUDA-capable device is detected"), "{error}");
    }
}
