//! The CUDA kernels through NVRTC, with no GPU: they compile for every architecture, and keep their states in registers.
#![allow(clippy::print_stdout, reason = "what was skipped, and the figures for whoever asks with --nocapture")]

use std::path::Path;

use scan::cuda::{ElementType, Kernel, Program, compile, compile_cached, is_available};

/// What the compiler says of one kernel.
#[derive(Clone, Copy, Debug)]
struct Usage {
    registers: u32,
    shared_bytes: u32,
    stack_bytes: u32,
    spilled_bytes: u32,
}

/// The number before `words` in a line such as "Used 64 registers, used 1 barriers, 4096 bytes smem".
fn number_before(text: &str, words: &str) -> Option<u32> {
    text[..text.find(words)?].split_whitespace().next_back()?.parse().ok()
}

fn usage(log: &str, kernel: Kernel) -> Usage {
    let start =
        log.find(&format!("Function properties for {}\n", kernel.name())).unwrap_or_else(|| panic!("{} is not in: {log}", kernel.name()));
    let lines: Vec<&str> = log[start..].lines().skip(1).take(2).collect();
    let [spills, registers] = lines[..] else { panic!("{log}") };
    Usage {
        registers: number_before(registers, " registers").expect("registers"),
        shared_bytes: number_before(registers, " bytes smem").unwrap_or(0),
        stack_bytes: number_before(spills, " bytes stack").expect("stack"),
        spilled_bytes: number_before(spills, " bytes spill stores").expect("stores")
            + number_before(spills, " bytes spill loads").expect("loads"),
    }
}

/// Compiled once for a source; later runs read the file, as a program does.
fn check(architecture: u32, element: ElementType, states: usize) {
    let program = Program::new(element, states).expect("a program");
    let compiled = compile_cached(program, architecture, Path::new(env!("CARGO_TARGET_TMPDIR"))).expect("compiled");
    for kernel in Kernel::ALL {
        let usage = usage(&compiled.log, kernel);
        println!("sm_{architecture} {element:?} N={states} {}: {usage:?}", kernel.name());
        assert_eq!(
            (usage.spilled_bytes, usage.stack_bytes),
            (0, 0),
            "sm_{architecture} {element:?} N={states} {}: {usage:?}",
            kernel.name()
        );
        // 128 threads with so many registers: five blocks at least on a multiprocessor's 65536, four of a backward pass and for many states.
        let most = match kernel {
            Kernel::SumFew | Kernel::SumMany => 40,
            Kernel::ForwardWide | Kernel::ForwardNarrow if states <= 16 => 96,
            Kernel::ForwardWide | Kernel::ForwardNarrow => 128,
            Kernel::BackwardWide | Kernel::BackwardNarrow => 128,
        };
        assert!(usage.registers <= most, "{}: {usage:?}", kernel.name());
        assert!(usage.shared_bytes <= 48 << 10, "{}: {usage:?}", kernel.name()); // more would have to be asked for
    }
}

/// Whether there is a compiler; says so where there is none.
fn ready() -> bool {
    let ready = is_available();
    if !ready {
        println!("skipped: NVRTC is absent (scripts/native.sh nvrtc)");
    }
    ready
}

#[test]
fn nothing_spills_on_any_architecture() {
    if ready() {
        for architecture in [75, 80, 90, 100, 120] {
            for element in [ElementType::F32, ElementType::F16, ElementType::BF16] {
                check(architecture, element, 16);
            }
        }
    }
}

#[test]
fn nothing_spills_with_other_numbers_of_states() {
    if ready() {
        for states in [1, 5, 8, 64, 128] {
            check(90, ElementType::F32, states);
        }
    }
}

#[test]
fn an_unknown_architecture_is_refused_in_words() {
    if ready() {
        let program = Program::new(ElementType::F32, 16).expect("a program");
        let error = compile(program, 10).expect_err("sm_10 is long gone").to_string();
        assert!(error.contains("for sm_10") && error.contains("invalid value for --gpu-architecture"), "{error}");
    }
}
