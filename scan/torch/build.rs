//! Builds the C++ shim against the libtorch that torch-sys found.
//!
//! A binary that uses this crate needs two things of its own build script, because Cargo passes no linker arguments on:
//! `torch-sys` as a direct dependency, and `cargo:rustc-link-arg=-Wl,-rpath,$DEP_TCH_LIBTORCH_LIB`.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=cpp");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-env-changed=LIBTORCH_INCLUDE");
    let Some(lib) = env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from) else {
        println!("cargo::error=torch-sys named no libtorch folder (DEP_TCH_LIBTORCH_LIB); set LIBTORCH to a libtorch 2.11 install");
        return;
    };
    let root = env::var_os("LIBTORCH_INCLUDE").map(PathBuf::from).or_else(|| lib.parent().map(PathBuf::from)).unwrap_or_default();
    let include = root.join("include");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .pic(true)
        .warnings(false)
        .opt_level(1)
        // at::parallel_for is a header: without OpenMP here it would run everything on one thread.
        .flag("-fopenmp")
        .flag("-isystem")
        .flag(&include)
        .flag("-isystem")
        .flag(include.join("torch/csrc/api/include"))
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .file("cpp/shim.cpp")
        .compile("poselift_torch_shim");
    // torch-sys emits these too; repeated so that they come after our archive.
    println!("cargo:rustc-link-search=native={}", lib.display());
    println!("cargo:rustc-link-lib=dylib=torch_cpu");
    println!("cargo:rustc-link-lib=dylib=c10");
    // libtorch's own OpenMP, so that one pool of threads serves both.
    println!("cargo:rustc-link-lib=dylib=gomp");
    println!("cargo:rustc-link-lib=dylib=dl");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
}
