//! The CUDA kernels on a real device: right (against the f64 oracle), the same at every run, and how fast.
//! `tests/gpu/scan.sh` runs it; it needs an NVIDIA driver and NVRTC, and nothing else.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

#[allow(dead_code, reason = "shared with the tests, which use more of it")]
#[path = "../tests/scan/case.rs"]
mod case;
#[path = "../tests/scan/on_device.rs"]
mod on_device;

use std::process::ExitCode;

use case::{Case, Parts, relative_error};
use on_device::{OnDevice, default_stream, listed, rounded};
use scan::cuda::{Device, ElementType};
use scan::{Dims, Error};

/// The largest error of y and of all gradients, and whether a second run gives the same bits.
fn check(device: &Device, dims: Dims, parts: Parts, of: ElementType, keeps: bool) -> Result<(f64, bool), Error> {
    let case = rounded(dims, parts, of, 11);
    let truth = case.by_oracle(0.0);
    let on_device = OnDevice::new(device, &case.narrow(), of, default_stream(of, dims.states)?, keeps)?;
    let run = || {
        on_device.forward()?;
        on_device.backward()?;
        on_device.results()
    };
    let found = run()?;
    let error = found.iter().zip(listed(&truth)).map(|(found, truth)| relative_error(found, truth)).fold(0.0, f64::max);
    let again = run()?;
    let bits = |results: &[Vec<f32>]| results.iter().flatten().map(|value| value.to_bits()).collect::<Vec<_>>();
    Ok((error, bits(&found) == bits(&again)))
}

/// The shortest of some runs, in seconds.
fn time(device: &Device, work: impl Fn() -> Result<(), Error>) -> Result<f64, Error> {
    work()?;
    (0..20).try_fold(f64::INFINITY, |best, _| Ok(best.min(device.seconds(&work)?)))
}

fn dims(sequences: usize, frames: usize, channels: usize, states: usize) -> Dims {
    Dims { sequences, frames, channels, states }
}

/// Every type and many shapes against the oracle; how many were wrong.
fn checks(device: &Device) -> Result<usize, Error> {
    let mut wrong = 0;
    let only = std::env::args().nth(2);
    for (of, tolerance) in [(ElementType::F32, 1e-4), (ElementType::F16, 1e-3), (ElementType::BF16, 8e-3)] {
        if only.as_ref().is_some_and(|only| !only.eq_ignore_ascii_case(&format!("{of:?}"))) {
            continue;
        }
        for (i, (dims, parts)) in [
            (dims(3, 27, 256, 16), Parts::ALL),
            (dims(2, 243, 33, 16), Parts::ALL),
            (dims(1500, 5, 129, 16), Parts::ALL),
            (dims(2, 40, 5, 1), Parts::numbered(3)),
            (dims(2, 40, 5, 5), Parts::numbered(21)),
            (dims(2, 65, 40, 64), Parts::ALL),
            (dims(1, 30, 9, 128), Parts::ALL),
            (dims(1, 1000, 4, 16), Parts::default()),
            (dims(4, 1, 256, 16), Parts::ALL),
            (dims(4, 0, 8, 16), Parts::ALL),
        ]
        .into_iter()
        .enumerate()
        {
            let (error, same) = check(device, dims, parts, of, i % 2 == 0)?;
            let right = error <= tolerance && same;
            wrong += usize::from(!right);
            println!(
                "{} {of:?} {dims:?}: largest error {error:.1e}, {}",
                if right { "ok  " } else { "FAIL" },
                if same { "same bits again" } else { "OTHER BITS AGAIN" }
            );
        }
    }
    Ok(wrong)
}

/// A case of many sequences, out of copies of a few: values do not change how long a scan takes.
fn many(sequences: usize, frames: usize, parts: Parts) -> Case<f32> {
    let few = if sequences.is_multiple_of(17) { 17 } else { 1 };
    let mut case = Case::random(dims(few, frames, 256, 16), parts, 1).narrow();
    case.dims.sequences = sequences;
    let per_sequence = [&mut case.u, &mut case.delta, &mut case.b, &mut case.c, &mut case.grad_y].into_iter();
    for values in per_sequence.chain(&mut case.z).chain(&mut case.initial_state).chain(&mut case.grad_last_state) {
        *values = values.repeat(sequences / few);
    }
    case
}

/// The share of the memory's bandwidth that a pass has to reach (issue 4), in per cent.
const FORWARD_GOAL: f64 = 60.0;
const BACKWARD_GOAL: f64 = 50.0;

/// Times of many shapes beside the memory roofline.
fn times(device: &Device) -> Result<(), Error> {
    // What can be reached: a copy reads and writes each byte once.
    let (from, to) = (device.buffer(1 << 30)?, device.buffer(1 << 30)?);
    let bandwidth = 2.0 * f64::from(1 << 30) / time(device, || to.copy_from(&from))?;
    println!("copy: {:.0} GB/s", bandwidth * 1e-9);
    println!(
        "times in ms, of the shortest of 20 runs; %: the time that a copy of the same bytes takes. D = 256, N = 16, z, D, bias, softplus."
    );
    println!("keeping: forward that keeps states for backward; remaking: backward that makes them again. L = 1 has states in and out.");
    println!("element      S   L  forward    %  keeping  backward    %  remaking");
    for of in [ElementType::F32, ElementType::F16, ElementType::BF16] {
        for (sequences, frames) in [(17, 243), (136, 243), (2176, 243), (17408, 27), (17408, 1)] {
            let parts = Parts { d: true, z: true, delta_bias: true, delta_softplus: true, initial_state: frames == 1, ..Parts::default() };
            let case = many(sequences, frames, parts);
            let measure = |keeps: bool| {
                let scan = OnDevice::new(device, &case, of, default_stream(of, 16)?, keeps)?;
                Ok::<_, Error>((time(device, || scan.forward())?, time(device, || scan.backward())?))
            };
            let ((forward, remaking), (keeping, backward)) = (measure(false)?, measure(true)?);
            // Each tensor once: u, delta, z, y and B, C, the last state; on the way back those that come in with their gradients.
            let (channels, states) = (sequences * frames * 256 * of.size(), sequences * frames * 16 * of.size());
            let state = sequences * 256 * 16 * 4 * if frames == 1 { 2 } else { 1 };
            let share = |bytes: usize, seconds: f64| 100.0 * bytes as f64 / bandwidth / seconds;
            let forward_share = share(4 * channels + 2 * states + state, forward);
            let backward_share = share(7 * channels + 4 * states + state, backward);
            println!(
                "{of:?} {sequences:>9} {frames:>3} {:>8.3} {forward_share:>4.0} {:>8.3} {:>9.3} {backward_share:>4.0} {:>9.3}",
                forward * 1e3,
                keeping * 1e3,
                backward * 1e3,
                remaking * 1e3,
            );
            if (sequences, frames) == (2176, 243) {
                let met = |share: f64, goal: f64| if share >= goal { "met" } else { "MISSED" };
                println!(
                    "     goals for {of:?}: forward {FORWARD_GOAL} % {}, backward {BACKWARD_GOAL} % {}",
                    met(forward_share, FORWARD_GOAL),
                    met(backward_share, BACKWARD_GOAL)
                );
            }
        }
    }
    Ok(())
}

/// Whether everything was right. The first argument may be "checks": nothing is timed then; the second the one type to check, as "f32".
fn run() -> Result<bool, Error> {
    let device = Device::open(0)?;
    println!("device: {}, sm_{}", device.name()?, device.architecture()?);
    let wrong = checks(&device)?;
    if std::env::args().nth(1).as_deref() != Some("checks") {
        times(&device)?;
    }
    println!("{}", if wrong == 0 { "PASS: every scan was right".to_owned() } else { format!("FAIL: {wrong} scans were wrong") });
    Ok(wrong == 0)
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("FAIL: {error}");
            ExitCode::FAILURE
        }
    }
}
