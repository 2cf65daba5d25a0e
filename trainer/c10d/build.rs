//! Builds the C++ shim against the libtorch that torch-sys found.
//!
//! PyTorch ships c10d's headers but not those of gloo, which one of them includes: `cpp/stand_in` has the few declarations that it names,
//! and comes last in the search, after real ones. With the feature `nccl` the headers of CUDA and NCCL are looked for in `$CUDA_HOME/include`,
//! in `$NCCL_HOME/include` and in the `nvidia` packages beside a full PyTorch, and libtorch_cuda becomes a library that must be there.

use std::env;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=cpp");
    for name in ["LIBTORCH", "LIBTORCH_INCLUDE", "CUDA_HOME", "NCCL_HOME"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let Some(lib) = env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from) else {
        println!("cargo::error=torch-sys named no libtorch folder (DEP_TCH_LIBTORCH_LIB); set LIBTORCH to a libtorch 2.11 install");
        return;
    };
    let root = env::var_os("LIBTORCH_INCLUDE").map(PathBuf::from).or_else(|| lib.parent().map(PathBuf::from)).unwrap_or_default();
    let include = root.join("include");
    if !include.join("torch/csrc/distributed/c10d/ProcessGroupGloo.hpp").is_file() {
        println!(
            "cargo::error={}: this libtorch has no c10d headers; scripts/native.sh libtorch fetches one that has them",
            include.display()
        );
        return;
    }
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .pic(true)
        .warnings(false)
        .opt_level(1)
        .flag("-isystem")
        .flag(&include)
        .flag("-isystem")
        .flag(include.join("torch/csrc/api/include"))
        .flag("-idirafter")
        .flag("cpp/stand_in")
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .define("USE_C10D_GLOO", None)
        .file("cpp/shim.cpp");
    if env::var_os("CARGO_FEATURE_NCCL").is_some() {
        let Some(folders) = nccl_headers(&lib) else {
            println!(
                "cargo::error=the feature nccl needs the headers of CUDA 13 and NCCL: set CUDA_HOME and NCCL_HOME, or use a PyTorch for CUDA with its nvidia packages"
            );
            return;
        };
        folders.iter().for_each(|folder| {
            build.flag("-isystem").flag(folder);
        });
        build.define("USE_C10D_NCCL", None);
    }
    build.compile("poselift_c10d_shim");
    // torch-sys emits these too; repeated so that they come after our archive.
    println!("cargo:rustc-link-search=native={}", lib.display());
    println!("cargo:rustc-link-lib=dylib=torch_cpu");
    println!("cargo:rustc-link-lib=dylib=c10");
    if env::var_os("CARGO_FEATURE_NCCL").is_some() {
        println!("cargo:rustc-link-lib=dylib=torch_cuda");
        println!("cargo:rustc-link-lib=dylib=c10_cuda");
    }
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
}

/// Folders with the headers that ProcessGroupNCCL.hpp includes, when all are there.
fn nccl_headers(lib: &Path) -> Option<Vec<PathBuf>> {
    let packages = lib.canonicalize().ok()?.parent()?.parent()?.join("nvidia");
    let of = |name: &str| env::var_os(name).map(|root| PathBuf::from(root).join("include"));
    let cuda = [of("CUDA_HOME"), Some(packages.join("cu13/include"))].into_iter().flatten();
    let nccl = [of("NCCL_HOME"), Some(packages.join("nccl/include"))].into_iter().flatten();
    let all = cuda.flat_map(|folder| [folder.join("cccl"), folder]).chain(nccl);
    let folders: Vec<PathBuf> = all.filter(|folder| folder.is_dir()).collect();
    let headers = ["cuda_runtime_api.h", "nv/target", "cublas_v2.h", "cusparse.h", "cusolverDn.h", "nccl.h"];
    headers.iter().all(|header| folders.iter().any(|folder| folder.join(header).is_file())).then_some(folders)
}
