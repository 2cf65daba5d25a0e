//! `trainer`: trains and evaluates lifters.

mod cli;

use std::process::ExitCode;

/// oneMKL, which libtorch multiplies matrices with, asks this of itself before it looks at what the processor can do: another maker's
/// processor gets its slower path, AVX-512 or not. The executable's answer comes first, and is by what there is: a training step took a
/// third less time on an AMD EPYC with AVX-512.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[unsafe(no_mangle)]
extern "C" fn mkl_serv_intel_cpu_true() -> std::ffi::c_int {
    std::ffi::c_int::from(std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma"))
}

fn main() -> ExitCode {
    trainer::keep_pages();
    match cli::run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
