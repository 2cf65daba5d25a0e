//! Libraries that tests build out of tests/cuda: kernels on a CPU, and a stand-in for NVIDIA's driver that runs them. Tests of other crates use
//! them too. Nothing of this is in a product: a test starts itself again with the stand-in where the loader looks first.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use scan::cuda::{ElementType, Program};

/// Where the libraries are put.
const FOLDER: &str = env!("CARGO_TARGET_TMPDIR");

/// Builds a shared library out of a file of tests/cuda, unless this process has.
fn build(source: &str, definitions: &[String], library: &Path) {
    static BUILT: Mutex<Option<HashSet<PathBuf>>> = Mutex::new(None);
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if !built.get_or_insert_default().insert(library.to_owned()) {
        return;
    }
    let crates = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = [crates.join("tests/cuda"), crates.join("../tests/cuda")].map(|folder| folder.join(source));
    let source = source.iter().find(|path| path.exists()).expect("scan/tests/cuda");
    let status = Command::new(std::env::var_os("CXX").unwrap_or_else(|| "c++".into()))
        .args(["-std=c++17", "-O2", "-U_FORTIFY_SOURCE", "-Wall", "-Wno-unknown-pragmas", "-Werror", "-shared", "-fPIC", "-o"])
        .arg(library)
        .args(definitions)
        .args([source.as_os_str(), "-ldl".as_ref(), "-lpthread".as_ref()])
        .status()
        .expect("a C++ compiler: install g++");
    assert!(status.success(), "{} does not compile with {definitions:?}", source.display());
}

/// The emulator of a program: the function `emulate` of tests/cuda/emulator.cpp.
pub fn emulator(program: Program) -> PathBuf {
    let library = Path::new(FOLDER).join(format!("emulator-{}-{:?}.so", program.states(), program.element()));
    build("emulator.cpp", &program.definitions(), &library);
    library
}

/// A folder with the stand-in as `libcuda.so.1`; an `old` one lacks what CUDA 12 brought.
pub fn folder(old: bool) -> PathBuf {
    let folder = Path::new(FOLDER).join(if old { "driver-old" } else { "driver" });
    fs::create_dir_all(&folder).expect("a folder");
    let definitions = if old { vec!["-DSTAND_IN_OLD".to_owned()] } else { Vec::new() };
    build("driver.cpp", &definitions, &folder.join("libcuda.so.1"));
    folder
}

/// A process that runs one ignored test of this program with the stand-in, which has the emulators of these programs.
pub fn child(test: &str, programs: &[(ElementType, usize)]) -> Command {
    for &(element, states) in programs {
        emulator(Program::new(element, states).expect("a program"));
    }
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command
        .args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"])
        .env("LD_LIBRARY_PATH", folder(false))
        .env("STAND_IN_EMULATORS", FOLDER);
    command
}

/// Runs a [`child`], whose test has to pass.
pub fn passes(command: &mut Command) {
    let output = command.output().expect("this program");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{}\n{text}", output.status);
}
