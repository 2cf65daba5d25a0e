//! Times every form: `cargo bench -p scan [-- WORD...]`, where words choose forms (naive, portable, AVX2, AVX-512) and
//! numbers how many sequences (17 and 136).
//!
//! Milliseconds, the least of many runs, so that what else the machine does weighs little. L = 243, D = 256, N = 16, f32,
//! with everything that a Mamba layer uses: D, z, delta_bias and softplus. "bare" is the scan alone, as in older tables;
//! "f16" is the bare scan on f16 values. "limit" is what the bare scan's multiplications and fused multiply-adds take alone, at the
//! rate that this processor has at this moment.

#![allow(clippy::print_stdout, reason = "a program that prints a table")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use half::f16;
use scan::{Dims, Form, InputGrads, Inputs, OutputGrads, ParallelFor, Rayon, Serial, oracle};

/// A machine's minute is enough for the whole table.
const BUDGET: Duration = Duration::from_millis(1200);

const FRAMES: usize = 243;
const CHANNELS: usize = 256;
const STATES: usize = 16;

/// Values in 0..1 from a small generator.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 24) as f32
    }

    fn around(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| (self.unit() * 2.0 - 1.0) * scale).collect()
    }
}

struct Data {
    dims: Dims,
    u: Vec<f32>,
    delta: Vec<f32>,
    a: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
    d: Vec<f32>,
    z: Vec<f32>,
    bias: Vec<f32>,
    state: Vec<f32>,
}

impl Data {
    fn new(sequences: usize, frames: usize) -> Self {
        let (channels, states) = (CHANNELS, STATES);
        let random = &mut Random(1);
        let (x, s) = (sequences * frames * channels, sequences * frames * states);
        Self {
            dims: Dims { sequences, frames, channels, states },
            u: random.around(x, 2.0),
            // 0.001..2, as after softplus
            delta: (0..x).map(|_| 0.001 * 2000f32.powf(random.unit())).collect(),
            a: (0..channels * states).map(|i| -((i % states + 1) as f32) * (0.8 + 0.4 * random.unit())).collect(),
            b: random.around(s, 1.0),
            c: random.around(s, 1.0),
            d: random.around(channels, 1.0),
            z: random.around(x, 2.0),
            bias: random.around(channels, 1.0),
            state: random.around(sequences * channels * states, 1.0),
        }
    }

    fn bare(&self) -> Inputs<'_> {
        Inputs { u: &self.u, delta: &self.delta, a: &self.a, b: &self.b, c: &self.c, d: Some(&self.d), ..Inputs::default() }
    }

    fn full(&self) -> Inputs<'_> {
        Inputs { z: Some(&self.z), delta_bias: Some(&self.bias), delta_softplus: true, ..self.bare() }
    }
}

/// The least time of `run`, in milliseconds.
fn least_ms(mut run: impl FnMut()) -> f64 {
    run();
    let start = Instant::now();
    let mut least = f64::INFINITY;
    while start.elapsed() < BUDGET {
        let once = Instant::now();
        run();
        least = least.min(once.elapsed().as_secs_f64() * 1e3);
    }
    least
}

/// `None` stands for the naive oracle.
fn row(form: Option<Form>, sequences: usize, threads: &dyn ParallelFor) -> [f64; 5] {
    let data = Data::new(sequences, FRAMES);
    let mut y = vec![0f32; data.u.len()];
    let mut forward = |inputs: &Inputs<'_>| {
        least_ms(|| {
            match form {
                Some(form) => form.forward(data.dims, inputs, &mut y, None, threads).expect("forward"),
                None => oracle::forward(data.dims, inputs, &mut y, None).expect("forward"),
            }
            black_box(&mut y);
        })
    };
    let (bare, full) = (forward(&data.bare()), forward(&data.full()));

    let grad_y = Random(2).around(data.u.len(), 1.0);
    let like = |values: &Vec<f32>| vec![0f32; values.len()];
    let (mut u, mut delta, mut z) = (like(&data.u), like(&data.delta), like(&data.z));
    let (mut a, mut b, mut c, mut d, mut bias) = (like(&data.a), like(&data.b), like(&data.c), like(&data.d), like(&data.bias));
    let backward = least_ms(|| {
        let from = OutputGrads { y: &grad_y, last_state: None };
        let mut to = InputGrads {
            u: &mut u,
            delta: &mut delta,
            a: &mut a,
            b: &mut b,
            c: &mut c,
            d: Some(&mut d),
            z: Some(&mut z),
            delta_bias: Some(&mut bias),
            initial_state: None,
        };
        match form {
            Some(form) => form.backward(data.dims, &data.full(), &from, &mut to, threads).expect("backward"),
            None => oracle::backward(data.dims, &data.full(), &from, &mut to).expect("backward"),
        }
        black_box(&mut to);
    });

    let one = Data::new(sequences, 1);
    let inputs = Inputs { initial_state: Some(&one.state), ..one.full() };
    let (mut y, mut last) = (like(&one.u), like(&one.state));
    let step = least_ms(|| {
        match form {
            Some(form) => form.forward(one.dims, &inputs, &mut y, Some(&mut last), threads).expect("a step"),
            None => oracle::forward(one.dims, &inputs, &mut y, Some(&mut last)).expect("a step"),
        }
        black_box((&mut y, &mut last));
    });
    let half = form.map_or(f64::NAN, |form| half_ms(form, &data, threads));
    [bare, half, full, backward, step]
}

/// The bare scan on f16 values.
fn half_ms(form: Form, data: &Data, threads: &dyn ParallelFor) -> f64 {
    let narrow = |values: &[f32]| values.iter().map(|&value| f16::from_f32(value)).collect::<Vec<_>>();
    let (u, delta, b, c) = (narrow(&data.u), narrow(&data.delta), narrow(&data.b), narrow(&data.c));
    let mut y = vec![f16::ZERO; u.len()];
    let inputs: Inputs<'_, f16, f32> = Inputs { u: &u, delta: &delta, a: &data.a, b: &b, c: &c, d: Some(&data.d), ..Inputs::default() };
    least_ms(|| {
        form.forward(data.dims, &inputs, &mut y, None, threads).expect("forward");
        black_box(&mut y);
    })
}

/// Accumulators of [`peak`]: enough to hide how long one takes.
#[cfg(target_arch = "x86_64")]
const ACCUMULATORS: usize = 12;

/// Nanoseconds that a fused multiply-add of a form takes when there is nothing else to do.
#[cfg(target_arch = "x86_64")]
mod peak {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::{ACCUMULATORS, least_ms};

    const ROUNDS: usize = 10_000;

    macro_rules! peak {
        ($name:ident, $features:literal, $splat:ident, $multiply_add:ident) => {
            #[target_feature(enable = $features)]
            fn $name() {
                let (factor, mut sums) = ($splat(black_box(0.5)), [$splat(black_box(1.0)); ACCUMULATORS]);
                for _ in 0..ROUNDS {
                    for sum in &mut sums {
                        *sum = $multiply_add(*sum, factor, factor);
                    }
                }
                black_box(sums);
            }
        };
    }
    peak!(avx512, "avx512f", _mm512_set1_ps, _mm512_fmadd_ps);
    peak!(avx2, "avx2,fma", _mm256_set1_ps, _mm256_fmadd_ps);

    pub fn multiply_add_ns(form: scan::Form) -> Option<f64> {
        let run = match form {
            scan::Form::Avx512 => avx512,
            scan::Form::Avx2 => avx2,
            scan::Form::Portable => return None,
        };
        // SAFETY: the caller asks only for forms that this CPU has.
        Some(least_ms(|| unsafe { run() }) * 1e6 / (ROUNDS * ACCUMULATORS) as f64)
    }
}

/// The bare scan's multiplications alone, in milliseconds on one thread: lanes, and how many of them a value of state takes.
#[cfg(target_arch = "x86_64")]
fn limit_ms(form: Form, sequences: usize) -> Option<f64> {
    let (lanes, each) = match form {
        Form::Avx512 => (16, 8), // delta A, four for exp, delta u B, h, y
        Form::Avx2 => (8, 10),   // the same with six for exp
        Form::Portable => return None,
    };
    let vectors = sequences * FRAMES * CHANNELS * STATES / lanes;
    peak::multiply_add_ns(form).map(|ns| (vectors * each) as f64 * ns * 1e-6)
}

#[cfg(not(target_arch = "x86_64"))]
fn limit_ms(_: Form, _: usize) -> Option<f64> {
    None
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let counts: Vec<usize> = words.iter().filter_map(|word| word.parse().ok()).collect();
    let counts = if counts.is_empty() { vec![17, 136] } else { counts };
    let names: Vec<&String> = words.iter().filter(|word| word.parse::<usize>().is_err()).collect();
    let chosen = |name: &str| names.is_empty() || names.iter().any(|word| name.eq_ignore_ascii_case(word));
    println!("{:<10} {:>4} {:>8} {:>10} {:>10} {:>10} {:>10} {:>10}", "form", "S", "threads", "bare", "f16", "forward", "backward", "step");
    for sequences in counts {
        let print = |name: &str, threads: usize, [bare, half, full, backward, step]: [f64; 5]| {
            println!("{name:<10} {sequences:>4} {threads:>8} {bare:>10.3} {half:>10.3} {full:>10.3} {backward:>10.3} {step:>10.4}");
        };
        if chosen("naive") {
            print("naive", 1, row(None, sequences, &Serial));
        }
        for form in Form::ALL.into_iter().filter(|form| form.is_available() && chosen(form.name())) {
            print(form.name(), 1, row(Some(form), sequences, &Serial));
            if let Some(limit) = limit_ms(form, sequences) {
                println!("{:<10} {sequences:>4} {:>8} {limit:>10.3}", "  limit", 1);
            }
            let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("a pool of two threads");
            print(form.name(), 2, pool.install(|| row(Some(form), sequences, &Rayon)));
        }
    }
}
