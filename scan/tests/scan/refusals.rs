//! Wrong input: an error that says what was expected and what was found.

use scan::{Dims, Error, Form, InputGrads, Inputs, OutputGrads, ParallelFor, Serial};

const DIMS: Dims = Dims { sequences: 1, frames: 2, channels: 3, states: 4 };

fn inputs() -> Inputs<'static> {
    Inputs { u: &[0.0; 6], delta: &[0.0; 6], a: &[0.0; 12], b: &[0.0; 8], c: &[0.0; 8], ..Inputs::default() }
}

#[test]
fn every_wrong_length_names_its_input() {
    let wrong: &[f32] = &[0.0; 5];
    let cases: [(&str, Inputs<'_>); 9] = [
        ("u", Inputs { u: wrong, ..inputs() }),
        ("delta", Inputs { delta: wrong, ..inputs() }),
        ("A", Inputs { a: wrong, ..inputs() }),
        ("B", Inputs { b: wrong, ..inputs() }),
        ("C", Inputs { c: wrong, ..inputs() }),
        ("D", Inputs { d: Some(wrong), ..inputs() }),
        ("z", Inputs { z: Some(wrong), ..inputs() }),
        ("delta_bias", Inputs { delta_bias: Some(wrong), ..inputs() }),
        ("initial_state", Inputs { initial_state: Some(wrong), ..inputs() }),
    ];
    for (expected, inputs) in cases {
        let error = scan::forward(DIMS, &inputs, &mut [0.0; 6], None, &Serial).unwrap_err();
        assert!(matches!(error, Error::Length { name, found: 5, .. } if name == expected), "{error}");
    }
    let error = scan::forward(DIMS, &inputs(), &mut [0.0; 7], None, &Serial).unwrap_err();
    assert_eq!(
        error.to_string(),
        "selective scan: y needs 6 values for shape (S=1, L=2, D=3), but has 7; give every input the shape that S, L, D, N imply"
    );
    let error = scan::forward(DIMS, &inputs(), &mut [0.0; 6], Some(&mut [0.0; 3]), &Serial).unwrap_err();
    assert!(matches!(error, Error::Length { name: "last_state", expected: 12, .. }));
}

#[test]
fn sizes_that_overflow_are_refused() {
    let dims = Dims { sequences: usize::MAX / 2, frames: 5, channels: 7, states: 1 };
    let error = scan::forward(dims, &Inputs::default(), &mut [0.0f32; 0], None, &Serial).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
}

#[test]
fn a_gradient_of_what_is_absent_is_refused() {
    let (mut a, mut b, mut c, mut u, mut delta, mut d) = ([0.0; 12], [0.0; 8], [0.0; 8], [0.0; 6], [0.0; 6], [0.0; 3]);
    let mut grads = InputGrads {
        u: &mut u,
        delta: &mut delta,
        a: &mut a,
        b: &mut b,
        c: &mut c,
        d: Some(&mut d),
        z: None,
        delta_bias: None,
        initial_state: None,
    };
    let from = OutputGrads { y: &[0.0; 6], last_state: None };
    let error = scan::backward(DIMS, &inputs(), &from, &mut grads, &Serial).unwrap_err();
    assert_eq!(error, Error::GradientOfAbsent { name: "D" });
}

#[test]
fn failing_threads_are_an_error() {
    struct Broken;
    impl ParallelFor for Broken {
        fn run(&self, _: usize, _: &(dyn Fn(usize) + Sync)) -> Result<(), Error> {
            Err(Error::Threads("the pool is gone".to_owned()))
        }
    }
    let error = scan::forward(DIMS, &inputs(), &mut [0.0; 6], None, &Broken).unwrap_err();
    assert_eq!(error.to_string(), "selective scan: the thread pool failed: the pool is gone");
}

#[test]
fn a_panic_in_a_task_is_an_error() {
    let task = |index: usize| assert_ne!(index, 1, "a defect");
    let result = scan::without_panics(&task, |task| Serial.run(3, task));
    assert_eq!(result, Err(Error::Threads("a task panicked".to_owned())));
    assert_eq!(scan::without_panics(&|_| (), |task| Serial.run(3, task)), Ok(()));
}

#[test]
fn a_form_that_the_cpu_lacks_is_refused() {
    for form in Form::ALL {
        let result = form.forward(DIMS, &inputs(), &mut [0.0; 6], None, &Serial);
        assert_eq!(result.is_ok(), form.is_available());
    }
}

#[test]
fn dims_without_sequences_still_zero_the_sums() {
    let dims = Dims { sequences: 0, ..DIMS };
    let inputs: Inputs<'_> = Inputs { a: &[0.0; 12], d: Some(&[1.0; 3]), ..Inputs::default() };
    let (mut a, mut d) = ([9.0; 12], [9.0; 3]);
    let mut grads = InputGrads {
        u: &mut [],
        delta: &mut [],
        a: &mut a,
        b: &mut [],
        c: &mut [],
        d: Some(&mut d),
        z: None,
        delta_bias: None,
        initial_state: None,
    };
    scan::backward(dims, &inputs, &OutputGrads { y: &[], last_state: None }, &mut grads, &Serial).expect("nothing to do");
    assert_eq!((a, d), ([0.0; 12], [0.0; 3]));
}

#[test]
fn a_number_of_sequences_that_no_slice_bounds_is_not_counted() {
    let huge = usize::MAX;
    for (frames, channels, states) in [(0, 1, 0), (0, 0, 1), (1, 0, 0), (0, 0, 0)] {
        let dims = Dims { sequences: huge, frames, channels, states };
        let inputs = Inputs::default();
        let from = OutputGrads { y: &[], last_state: None };
        for form in Form::ALL.into_iter().filter(|form| form.is_available()) {
            let mut to = InputGrads {
                u: &mut [],
                delta: &mut [],
                a: &mut [],
                b: &mut [],
                c: &mut [],
                d: None,
                z: None,
                delta_bias: None,
                initial_state: None,
            };
            assert_eq!(form.forward(dims, &inputs, &mut [0.0f32; 0], Some(&mut []), &Serial), Ok(()));
            assert_eq!(form.backward(dims, &inputs, &from, &mut to, &Serial), Ok(()));
        }
        assert_eq!(scan::oracle::forward(dims, &inputs, &mut [0.0f32; 0], None), Ok(()));
    }
}
