//! torch-sys tells downstream binaries no place to find libtorch in: they need it as rpath.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") else {
        println!("cargo:error=torch-sys named no libtorch folder (DEP_TCH_LIBTORCH_LIB); set LIBTORCH to a libtorch 2.11 install");
        return;
    };
    println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo:rustc-link-arg-bins=-Wl,--export-dynamic-symbol=mkl_serv_intel_cpu_true"); // see main.rs
    }
}
