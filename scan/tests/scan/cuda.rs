//! The CUDA kernels' source on a CPU, thread by thread, against the f64 oracle; see tests/cuda/emulator.cpp. What it proves is the
//! arithmetic, the indices, the barriers and the launches; what it cannot prove is speed.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{CString, c_char, c_int, c_void};
use std::sync::Mutex;

use half::{bf16, f16};
use scan::cuda::{
    self, Address, ElementType, InputAddresses, InputGradAddresses, Kernel, Launcher, MAX_STATES, OutputAddresses, OutputGradAddresses,
    Program,
};
use scan::{Dims, Error};

use crate::case::{Case, Parts, Random, Results, relative_error};
use crate::stand_in;

type Emulate = unsafe extern "C" fn(*const c_char, u32, u32, *const c_void, u64) -> c_int;

/// Emulators that were loaded in this run: a library each.
static EMULATORS: Mutex<Option<HashMap<Program, Emulate>>> = Mutex::new(None);

fn emulator(loaded: &mut HashMap<Program, Emulate>, program: Program) -> Emulate {
    *loaded.entry(program).or_insert_with(|| {
        // SAFETY: just built; its function is declared as `Emulate`, and it is never unloaded.
        unsafe {
            let library = libloading::Library::new(stand_in::emulator(program)).expect("the library that was just built");
            let emulate = *library.get::<Emulate>(b"emulate\0").expect("its function");
            std::mem::forget(library);
            emulate
        }
    })
}

/// Runs kernels on this CPU. Addresses are those of the host.
struct Emulator {
    program: Program,
    multiprocessors: usize,
    seed: Cell<u64>,
    launched: Cell<Vec<Kernel>>,
}

/// So few that the wide form is taken, and so many that the narrow one is.
const WIDE: usize = 0;
const NARROW: usize = 1 << 20;

impl Emulator {
    fn new(element: ElementType, states: usize, multiprocessors: usize, seed: u64) -> Self {
        let program = Program::new(element, states).expect("a program");
        Self { program, multiprocessors, seed: Cell::new(seed), launched: Cell::default() }
    }
}

impl Launcher for Emulator {
    fn program(&self) -> Program {
        self.program
    }

    fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    unsafe fn launch(&self, kernel: Kernel, blocks: u32, threads: u32, argument: *const c_void) -> Result<(), Error> {
        let mut launched = self.launched.take();
        launched.push(kernel);
        self.launched.set(launched);
        self.seed.set(self.seed.get() + 1);
        let name = CString::new(kernel.name()).expect("no zero byte");
        // One at a time: a library has one shared memory.
        let mut built = EMULATORS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let emulate = emulator(built.get_or_insert_default(), self.program);
        // SAFETY: as the caller promises.
        match unsafe { emulate(name.as_ptr(), blocks, threads, argument, self.seed.get()) } {
            0 => Ok(()),
            status => Err(Error::Cuda(format!("{}: the emulator says {status}", kernel.name()))),
        }
    }
}

/// An element type of the kernels.
trait Value: Copy {
    const TYPE: ElementType;
    const NAN: Self;
    fn from_f32(value: f32) -> Self;
    fn to_f32(self) -> f32;
}
macro_rules! value {
    ($type:ty, $element:ident, |$value:ident| $from:expr, $to:expr) => {
        impl Value for $type {
            const TYPE: ElementType = ElementType::$element;
            const NAN: Self = <$type>::NAN;
            fn from_f32($value: f32) -> Self {
                $from
            }
            fn to_f32(self) -> f32 {
                let $value = self;
                $to
            }
        }
    };
}
value!(f32, F32, |value| value, value);
value!(f16, F16, |value| f16::from_f32(value), f16::to_f32(value));
value!(bf16, BF16, |value| bf16::from_f32(value), bf16::to_f32(value));

fn read<T>(values: &[T]) -> Address {
    if values.is_empty() { 0 } else { values.as_ptr() as Address }
}
fn read_optional<T>(values: Option<&Vec<T>>) -> Address {
    values.map_or(0, |values| read(values))
}
fn write<T>(values: &mut [T]) -> Address {
    if values.is_empty() { 0 } else { values.as_mut_ptr() as Address }
}

/// Forward and backward, in buffers full of NaN; the case's values are narrowed to `T`. The forward pass keeps states for the
/// backward pass in every second run.
fn run<T: Value>(case: &Case<f32>, multiprocessors: usize, seed: u64) -> Results<f32> {
    run_with::<T>(case, multiprocessors, seed, seed % 2 == 1)
}

fn run_with<T: Value>(case: &Case<f32>, multiprocessors: usize, seed: u64, keeps: bool) -> Results<f32> {
    let Dims { sequences: s, frames: l, channels, states } = case.dims;
    let emulator = Emulator::new(T::TYPE, states, multiprocessors, seed);
    let narrow = |values: &[f32]| values.iter().map(|&value| T::from_f32(value)).collect::<Vec<T>>();
    let (u, delta, b, c, z) = (narrow(&case.u), narrow(&case.delta), narrow(&case.b), narrow(&case.c), case.z.as_deref().map(narrow));
    let grad_y = narrow(&case.grad_y);
    let inputs = InputAddresses {
        u: read(&u),
        delta: read(&delta),
        a: read(&case.a),
        b: read(&b),
        c: read(&c),
        d: read_optional(case.d.as_ref()),
        z: read_optional(z.as_ref()),
        delta_bias: read_optional(case.delta_bias.as_ref()),
        initial_state: read_optional(case.initial_state.as_ref()),
        delta_softplus: case.delta_softplus,
    };
    let room = |values: usize| vec![T::NAN; values];
    let (mut y, mut grad_u, mut grad_delta, mut grad_z) =
        (room(s * l * channels), room(s * l * channels), room(s * l * channels), room(s * l * channels));
    let (mut grad_b, mut grad_c) = (room(s * l * states), room(s * l * states));
    let nan = |values: usize| vec![f32::NAN; values];
    let (mut last_state, mut initial_state, mut a) = (nan(s * channels * states), nan(s * channels * states), nan(channels * states));
    let (mut d, mut delta_bias) = (nan(channels), nan(channels));
    let mut kept = nan(if keeps { cuda::kept_bytes(case.dims).expect("a size") / 4 } else { 0 });
    let kept = write(&mut kept);
    let mut workspace = nan(cuda::workspace_bytes(case.dims, kept != 0).expect("a size") / 4);
    // SAFETY: every address is of a vector of the right length, which nothing else touches meanwhile.
    unsafe {
        let outputs = OutputAddresses { y: write(&mut y), last_state: write(&mut last_state), kept };
        cuda::forward(&emulator, case.dims, &inputs, &outputs).expect("forward");
        let from = OutputGradAddresses { y: read(&grad_y), last_state: read_optional(case.grad_last_state.as_ref()) };
        let to = InputGradAddresses {
            u: write(&mut grad_u),
            delta: write(&mut grad_delta),
            a: write(&mut a),
            b: write(&mut grad_b),
            c: write(&mut grad_c),
            d: if case.d.is_some() { write(&mut d) } else { 0 },
            z: if case.z.is_some() { write(&mut grad_z) } else { 0 },
            delta_bias: if case.delta_bias.is_some() { write(&mut delta_bias) } else { 0 },
            initial_state: write(&mut initial_state),
        };
        cuda::backward(&emulator, case.dims, &inputs, &from, &to, kept, write(&mut workspace)).expect("backward");
    }
    let (forward, backward) =
        if multiprocessors == WIDE { (Kernel::ForwardWide, Kernel::BackwardWide) } else { (Kernel::ForwardNarrow, Kernel::BackwardNarrow) };
    let launched = emulator.launched.take();
    let expected = if kept != 0 { vec![forward, backward] } else { vec![forward, forward, backward] };
    assert!(s * channels == 0 || launched.starts_with(&expected), "{launched:?}");
    let wide = |values: Vec<T>| values.into_iter().map(Value::to_f32).collect::<Vec<f32>>();
    Results {
        y: wide(y),
        last_state,
        u: wide(grad_u),
        delta: wide(grad_delta),
        a,
        b: wide(grad_b),
        c: wide(grad_c),
        d: case.d.as_ref().map(|_| d),
        z: case.z.as_ref().map(|_| wide(grad_z)),
        delta_bias: case.delta_bias.as_ref().map(|_| delta_bias),
        initial_state,
    }
}

fn agrees(dims: Dims, parts: Parts, seed: u64) {
    let case = Case::random(dims, parts, seed);
    let truth = case.by_oracle(f64::NAN);
    for multiprocessors in [WIDE, NARROW] {
        let found = run::<f32>(&case.narrow(), multiprocessors, seed);
        found.assert_near(&truth, 1e-5, 1e-4, &format!("{dims:?} {parts:?} seed {seed}"));
    }
}

fn dims(sequences: usize, frames: usize, channels: usize, states: usize) -> Dims {
    Dims { sequences, frames, channels, states }
}

#[test]
fn every_combination_of_parts() {
    for number in 0..64 {
        agrees(dims(1, 9, 3, 16), Parts::numbered(number), number as u64);
    }
}

#[test]
fn any_number_of_states() {
    for states in [1, 2, 3, 5, 64, 65, MAX_STATES] {
        agrees(dims(2, 18, 9, states), Parts::ALL, states as u64);
    }
}

#[test]
fn shapes_at_the_edges() {
    // Blocks have 32, 64 or 128 channels, tiles 32 frames, chunks 16, steps 4.
    for (sequences, frames, channels) in [
        (0, 3, 2),
        (3, 0, 2),
        (3, 2, 0),
        (0, 0, 0),
        (1, 1, 1),
        (5, 1, 33),
        (1, 7, 32),
        (1, 8, 129),
        (2, 15, 65),
        (1, 16, 64),
        (1, 17, 63),
        (2, 31, 3),
        (1, 33, 31),
        (1, 243, 5),
        (1, 1000, 2),
    ] {
        agrees(dims(sequences, frames, channels, 16), Parts::ALL, 3);
    }
    agrees(dims(150, 3, 2, 16), Parts::ALL, 4); // more sequences than rows are summed at a time
}

#[test]
fn values_of_half_the_size_have_states_and_sums_in_f32() {
    fn check<T: Value>(tolerance: f64) {
        for (states, multiprocessors) in [(16, WIDE), (16, NARROW), (5, NARROW)] {
            let mut case = Case::random(dims(2, 20, 37, states), Parts::ALL, 9);
            for values in [&mut case.u, &mut case.delta, &mut case.b, &mut case.c, &mut case.grad_y].into_iter().chain(case.z.as_mut()) {
                values.iter_mut().for_each(|value| *value = f64::from(T::from_f32(*value as f32).to_f32()));
            }
            let truth = case.by_oracle(0.0);
            let found = run::<T>(&case.narrow(), multiprocessors, 5);
            for (found, truth) in [
                (&found.last_state, &truth.last_state),
                (&found.a, &truth.a),
                (&found.initial_state, &truth.initial_state),
                (found.d.as_ref().expect("all"), truth.d.as_ref().expect("all")),
                (found.delta_bias.as_ref().expect("all"), truth.delta_bias.as_ref().expect("all")),
            ] {
                assert!(relative_error(found, truth) < 1e-4, "{}", relative_error(found, truth));
            }
            found.assert_near(&truth, tolerance, tolerance, &format!("{:?} N={states}", T::TYPE));
        }
    }
    check::<f16>(6e-4);
    check::<bf16>(5e-3);
}

#[test]
fn the_order_of_threads_changes_no_bit() {
    // Seeds order threads and blocks: a missing barrier would show.
    let case = Case::random(dims(3, 35, 40, 16), Parts::ALL, 6).narrow();
    for multiprocessors in [WIDE, NARROW] {
        let first = run::<f32>(&case, multiprocessors, 1);
        for seed in 2..6 {
            assert_eq!(run::<f32>(&case, multiprocessors, 1000 * seed), first);
        }
    }
}

#[test]
fn steps_in_place_are_the_batch() {
    let dims = dims(3, 12, 21, 16);
    let case = Case::random(dims, Parts::ALL, 10).narrow();
    let whole = run::<f32>(&case, NARROW, 1);
    let emulator = Emulator::new(ElementType::F32, 16, NARROW, 2);
    let mut state = case.initial_state.clone().expect("all parts");
    for t in 0..dims.frames {
        let frame = |values: &[f32], width: usize| -> Vec<f32> {
            (0..dims.sequences).flat_map(|sequence| values[(sequence * dims.frames + t) * width..][..width].to_vec()).collect()
        };
        let (u, delta, b, c) = (frame(&case.u, 21), frame(&case.delta, 21), frame(&case.b, 16), frame(&case.c, 16));
        let z = frame(case.z.as_ref().expect("all parts"), 21);
        let mut y = vec![f32::NAN; 3 * 21];
        let inputs = InputAddresses {
            u: read(&u),
            delta: read(&delta),
            a: read(&case.a),
            b: read(&b),
            c: read(&c),
            d: read_optional(case.d.as_ref()),
            z: read(&z),
            delta_bias: read_optional(case.delta_bias.as_ref()),
            initial_state: write(&mut state),
            delta_softplus: true,
        };
        let outputs = OutputAddresses { y: write(&mut y), last_state: write(&mut state), kept: 0 };
        // SAFETY: every address is of a vector of the right length.
        unsafe { cuda::forward(&emulator, Dims { frames: 1, ..dims }, &inputs, &outputs) }.expect("a step");
        assert_eq!(y, frame(&whole.y, 21), "frame {t}");
    }
    assert_eq!(state, whole.last_state);
}

#[test]
fn states_that_were_kept_are_those_that_are_made_again() {
    for (states, frames) in [(16, 37), (5, 16), (64, 9)] {
        let case = Case::random(dims(2, frames, 70, states), Parts::ALL, 12).narrow();
        for multiprocessors in [WIDE, NARROW] {
            let [kept, again] = [true, false].map(|keeps| run_with::<f32>(&case, multiprocessors, 3, keeps));
            assert_eq!(kept, again, "N = {states}");
        }
    }
}

#[test]
fn tensors_may_start_anywhere() {
    // States are fetched four at a time where they lie so that they can be.
    let case = Case::random(dims(2, 5, 40, 16), Parts::ALL, 13).narrow();
    let shifted = |values: &[f32]| [&[f32::NAN], values].concat();
    let (a, initial_state) = (shifted(&case.a), shifted(case.initial_state.as_ref().expect("all parts")));
    for multiprocessors in [WIDE, NARROW] {
        let expected = run::<f32>(&case, multiprocessors, 1);
        let emulator = Emulator::new(ElementType::F32, 16, multiprocessors, 2);
        let (mut y, mut last_state) = (vec![f32::NAN; case.u.len()], vec![f32::NAN; initial_state.len()]);
        let inputs = InputAddresses {
            u: read(&case.u),
            delta: read(&case.delta),
            a: read(&a[1..]),
            b: read(&case.b),
            c: read(&case.c),
            d: read_optional(case.d.as_ref()),
            z: read_optional(case.z.as_ref()),
            delta_bias: read_optional(case.delta_bias.as_ref()),
            initial_state: read(&initial_state[1..]),
            delta_softplus: true,
        };
        assert!(!inputs.a.is_multiple_of(16) || !inputs.initial_state.is_multiple_of(16));
        let outputs = OutputAddresses { y: write(&mut y), last_state: write(&mut last_state[1..]), kept: 0 };
        // SAFETY: every address is of a vector of the right length.
        unsafe { cuda::forward(&emulator, case.dims, &inputs, &outputs) }.expect("forward");
        assert_eq!((&y[..], &last_state[1..]), (&expected.y[..], &expected.last_state[..]));
        assert!(last_state[0].is_nan(), "nothing before the first value is written");
    }
}

#[test]
fn nan_stays_in_its_own_sequence() {
    let dims = dims(3, 12, 35, 16);
    let clean = Case::random(dims, Parts::ALL, 1).narrow();
    let expected = run::<f32>(&clean, NARROW, 1);
    let random = &mut Random::new(7);
    for target in 0..6 {
        let mut case = clean.clone();
        let within = |width: usize, random: &mut Random| (dims.frames + 3) * width + (random.unit() * width as f64) as usize; // frame 3 of sequence 1
        let (channel, state) = (within(dims.channels, random), within(dims.states, random));
        match target {
            0 => case.u[channel] = f32::NAN,
            1 => case.delta[channel] = f32::NAN,
            2 => case.b[state] = f32::NAN,
            3 => case.c[state] = f32::NAN,
            4 => case.grad_y[channel] = f32::NAN,
            _ => case.z.as_mut().expect("all parts")[channel] = f32::NAN,
        }
        let found = run::<f32>(&case, NARROW, 2);
        for (name, found, expected, width) in [
            ("y", &found.y, &expected.y, dims.frames * dims.channels),
            ("du", &found.u, &expected.u, dims.frames * dims.channels),
            ("ddelta", &found.delta, &expected.delta, dims.frames * dims.channels),
            ("dB", &found.b, &expected.b, dims.frames * dims.states),
            ("dC", &found.c, &expected.c, dims.frames * dims.states),
            ("last_state", &found.last_state, &expected.last_state, dims.channels * dims.states),
            ("dinitial_state", &found.initial_state, &expected.initial_state, dims.channels * dims.states),
        ] {
            for other in [0..width, 2 * width..3 * width] {
                assert_eq!(found[other.clone()], expected[other], "{name}, target {target}");
            }
        }
        assert!(target == 4 || found.y[(dims.frames + 3) * dims.channels..].iter().any(|y| y.is_nan()), "NaN is not hidden");
        assert!(found.y[..(dims.frames + 3) * dims.channels].iter().all(|y| y.is_finite()), "the past stays clean");
    }
}

#[test]
fn steps_huge_and_tiny() {
    for delta in [0.0, 1e-45, 1e-40, 1e-20, 1e-6, 20.0, 1e3, 1e6] {
        let mut case = Case::random(dims(2, 10, 33, 16), Parts { d: true, z: true, ..Parts::default() }, 3);
        case.delta.fill(f64::from(delta as f32));
        if delta > 100.0 {
            case.u.iter_mut().for_each(|u| *u /= delta); // keeps y itself in range
        }
        let truth = case.by_oracle(0.0);
        run::<f32>(&case.narrow(), NARROW, 4).assert_near(&truth, 1e-5, 1e-4, &format!("delta {delta:e}"));
    }
}

#[test]
fn what_cannot_run_is_refused_in_words() {
    for states in [0, MAX_STATES + 1, usize::MAX] {
        let error = Program::new(ElementType::F32, states).expect_err("no such program").to_string();
        assert!(error.contains("1 to 128 states"), "{error}");
    }
    let emulator = Emulator::new(ElementType::F32, 16, NARROW, 1);
    let forward = |dims: Dims, inputs: &InputAddresses| {
        // SAFETY: refused before anything is launched.
        unsafe { cuda::forward(&emulator, dims, inputs, &OutputAddresses::default()) }.expect_err("refused").to_string()
    };
    let none = InputAddresses::default();
    assert!(forward(dims(1, 1, 1, 8), &none).contains("compiled for 16 states, but A has 8"));
    assert!(forward(dims(1, 1, 1, 16), &none).contains("u has no address"));
    for huge in [dims(usize::MAX, 2, 2, 16), dims(1, usize::MAX, 1, 16), dims(1, 1, usize::MAX / 8, 16), dims(1 << 40, 1, 1, 16)] {
        assert!(forward(huge, &none).contains("more data than this machine can address"), "{huge:?}");
    }
    let (inputs, grads) = (
        InputAddresses { u: 8, delta: 8, a: 8, b: 8, c: 8, ..none },
        InputGradAddresses { u: 8, delta: 8, a: 8, b: 8, c: 8, d: 8, ..Default::default() },
    );
    // SAFETY: refused before anything is launched.
    let error =
        unsafe { cuda::backward(&emulator, dims(1, 1, 1, 16), &inputs, &OutputGradAddresses { y: 8, last_state: 0 }, &grads, 0, 8) };
    assert_eq!(error, Err(Error::GradientOfAbsent { name: "D" }));
}
