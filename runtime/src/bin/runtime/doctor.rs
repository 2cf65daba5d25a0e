//! `runtime doctor`: what is there, what is missing, and the command that mends it.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Instant,
};

use ort::ep::{CUDA, ExecutionProvider as _, TensorRT};
use pose::JOINTS;
use runtime::{Backend, Device, Engine, EngineOptions};
use serde::Serialize;

/// One thing that was looked for.
#[derive(Serialize)]
struct Finding {
    what: &'static str,
    /// Who needs it: `runtime`, `--engine ort`, `cuda`, `demo` or `trainer`.
    needed_by: &'static str,
    here: bool,
    /// What was found, or why it cannot be used.
    found: String,
    /// A command or a sentence; for what is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

impl Finding {
    fn here(what: &'static str, needed_by: &'static str, found: impl Into<String>) -> Self {
        Self { what, needed_by, here: true, found: found.into(), mend: None }
    }

    fn missing(what: &'static str, needed_by: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { what, needed_by, here: false, found: found.into(), mend: Some(mend.into()) }
    }
}

/// All findings, as text and as JSON, and whether everything is there that the runtime itself needs.
pub struct Diagnosis {
    pub text: String,
    pub json: String,
    pub can_run: bool,
}

/// Looks. `model` is tried; without it the first of the project's own.
pub fn examine(model: Option<&Path>, options: &EngineOptions) -> Diagnosis {
    let root = project_root();
    let mut findings = vec![processor(), memory()];
    let library = onnxruntime(options);
    let library_here = library.here;
    findings.push(library);
    findings.extend(cuda(library_here));
    findings.push(model_runs(model, root.as_deref(), options, library_here));
    if let Some(root) = &root {
        findings.extend(project(root));
    }
    let can_run = findings.iter().all(|finding| finding.here || finding.needed_by != "runtime");
    let json = serde_json::json!({ "can_run": can_run, "findings": findings }).to_string();
    Diagnosis { text: text(&findings, can_run), json, can_run }
}

fn text(findings: &[Finding], can_run: bool) -> String {
    let mut text = String::new();
    for Finding { what, needed_by, here, found, mend } in findings {
        let state = match (here, *needed_by) {
            (true, _) => "here   ",
            (false, "runtime") => "MISSING",
            (false, _) => "absent ",
        };
        let _ = writeln!(text, "{state} {what:<16} {found}");
        if let Some(mend) = mend {
            let _ = writeln!(text, "        {:<16} for {needed_by}: {mend}", "");
        }
    }
    let _ = write!(text, "{}", if can_run { "Models can be run." } else { "Models cannot be run: mend what is MISSING first." });
    text
}

fn processor() -> Finding {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    #[cfg(target_arch = "x86_64")]
    let sets: Vec<&str> = [
        ("AVX2", is_x86_feature_detected!("avx2")),
        ("FMA", is_x86_feature_detected!("fma")),
        ("AVX-512", is_x86_feature_detected!("avx512f")),
    ]
    .into_iter()
    .filter_map(|(name, here)| here.then_some(name))
    .collect();
    #[cfg(not(target_arch = "x86_64"))]
    let sets: Vec<&str> = Vec::new();
    let sets = if sets.is_empty() { "the scan takes its portable form".to_owned() } else { sets.join(", ") };
    Finding::here("processor", "runtime", format!("{}, {threads} threads, {sets}", std::env::consts::ARCH))
}

/// A model and its activations; what the shipped ones take many times over.
const LEAST_MEMORY_MB: u64 = 200;

fn memory() -> Finding {
    let Some(available_mb) = proc_kilobytes("/proc/meminfo", "MemAvailable:").map(|kb| kb / 1024) else {
        return Finding::here("memory", "runtime", "this system does not say how much is free");
    };
    let found = format!("{available_mb} MB free");
    match available_mb >= LEAST_MEMORY_MB {
        true => Finding::here("memory", "runtime", found),
        false => Finding::missing("memory", "runtime", found, format!("end other programs: {LEAST_MEMORY_MB} MB are needed")),
    }
}

/// A number of kB in one of Linux's tables.
pub fn proc_kilobytes(table: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(table).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

fn onnxruntime(options: &EngineOptions) -> Finding {
    let needed_by = if options.backend == Backend::Ort { "runtime" } else { "--engine ort" };
    match runtime::init_onnxruntime(options.onnxruntime.as_deref()) {
        Ok(()) => {
            let path = runtime::loaded_library().unwrap_or_default();
            Finding::here("ONNX Runtime", needed_by, path.display().to_string())
        }
        Err(error) => Finding::missing(
            "ONNX Runtime",
            needed_by,
            error.to_string(),
            "scripts/native.sh onnxruntime (in a clone), or: pip install 'onnxruntime>=1.31' and set ORT_DYLIB_PATH to its libonnxruntime file",
        ),
    }
}

fn cuda(library_here: bool) -> Vec<Finding> {
    let driver = match std::fs::read_to_string("/proc/driver/nvidia/version") {
        Ok(version) => Finding::here("NVIDIA driver", "cuda", version.lines().next().unwrap_or_default().to_owned()),
        Err(_) => {
            Finding::missing("NVIDIA driver", "cuda", "none is loaded", "install the driver of an NVIDIA GPU; --device cpu needs none")
        }
    };
    // a call into the library, which panics where there is none
    let provider = match library_here && CUDA::is_available().unwrap_or(false) {
        true => Finding::here("CUDA provider", "cuda", "this build of ONNX Runtime has it; its CUDA libraries load with the first model"),
        false => Finding::missing(
            "CUDA provider",
            "cuda",
            if library_here { "this build of ONNX Runtime is for the CPU" } else { "no ONNX Runtime" },
            "pip install 'onnxruntime-gpu>=1.31' and set ORT_DYLIB_PATH to its libonnxruntime file",
        ),
    };
    let tensorrt = match library_here && TensorRT::is_available().unwrap_or(false) {
        true => Finding::here(
            "TensorRT provider",
            "tensorrt",
            "this build of ONNX Runtime has it; TensorRT's libraries load with the first model",
        ),
        false => Finding::missing(
            "TensorRT provider",
            "tensorrt",
            if library_here { "this build of ONNX Runtime has none" } else { "no ONNX Runtime" },
            "take onnxruntime-gpu as above, and pip install tensorrt-cu13-libs; --device cuda needs neither",
        ),
    };
    let compiler = match poselift_scan_ort::can_compile_for_cuda() {
        true => Finding::here("NVRTC", "cuda", "compiles the scan for the GPU that is there, once; kept in the cache folder"),
        false => Finding::missing(
            "NVRTC",
            "cuda",
            "none",
            "scripts/native.sh nvrtc (in a clone), or: pip install nvidia-cuda-nvrtc and set POSELIFT_NVRTC to its libnvrtc.so.13",
        ),
    };
    vec![driver, provider, tensorrt, compiler]
}

fn model_runs(model: Option<&Path>, root: Option<&Path>, options: &EngineOptions, library_here: bool) -> Finding {
    const WHAT: &str = "model";
    let Some(path) = model.map(Path::to_owned).or_else(|| shipped_model(root?)) else {
        return Finding::missing(WHAT, "runtime", "none was named, and no models/*.onnx is near", "runtime doctor MODEL.onnx");
    };
    if !library_here && options.backend == Backend::Ort {
        return Finding::missing(WHAT, "runtime", format!("{} could not be tried without ONNX Runtime", path.display()), "mend that first");
    }
    match try_model(&path, options) {
        Ok(found) => Finding::here(WHAT, "runtime", found),
        Err(error) if matches!(options.device, Device::Cpu | Device::Auto) => {
            Finding::missing(WHAT, "runtime", error.to_string(), "export it again: export onnx CHECKPOINT.pth")
        }
        Err(error) => Finding::missing(
            WHAT,
            "runtime",
            error.to_string(),
            "runtime doctor --device cpu says whether the model or the device is at fault",
        ),
    }
}

fn shipped_model(root: &Path) -> Option<PathBuf> {
    let mut models: Vec<PathBuf> = std::fs::read_dir(root.join("models")).ok()?.flatten().map(|entry| entry.path()).collect();
    models.retain(|path| path.extension().is_some_and(|extension| extension == "onnx") && !path.to_string_lossy().ends_with(".step.onnx"));
    models.sort();
    models.into_iter().next()
}

/// Opens the model and runs one window of zeros.
fn try_model(path: &Path, options: &EngineOptions) -> Result<String, runtime::Error> {
    let engine = Engine::open(path, options)?;
    let frames = engine.frames().or(engine.metadata().map(|metadata| metadata.frames)).unwrap_or(1);
    let shape = [engine.batch().unwrap_or(1), frames, JOINTS, engine.channels()];
    let start = Instant::now();
    engine.run(&vec![0.0; shape.iter().product()], shape)?;
    let milliseconds = start.elapsed().as_secs_f64() * 1e3;
    Ok(format!("{} runs on {}: {frames} frames in {milliseconds:.0} ms, the first time", path.display(), engine.device()))
}

/// The clone that this program was built in or is called from.
fn project_root() -> Option<PathBuf> {
    let executable = std::env::current_exe().and_then(|path| path.canonicalize()).unwrap_or_default();
    let working = std::env::current_dir().unwrap_or_default();
    let mut folders = working.ancestors().chain(executable.ancestors().skip(1));
    folders.find(|folder| folder.join("scripts/native.sh").is_file() && folder.join("runtime").is_dir()).map(Path::to_owned)
}

/// What the other programs of the project need, and make fetches.
fn project(root: &Path) -> Vec<Finding> {
    let look = |what, needed_by, file: &Path, mend: &str| match file.exists() {
        true => Finding::here(what, needed_by, file.display().to_string()),
        false => Finding::missing(what, needed_by, format!("no {}", file.display()), mend),
    };
    let native = root.join(".native");
    vec![
        look("2D detector", "demo", &native.join("blazepose/detector.onnx"), "make demo"),
        look("sample clip", "demo", &native.join("clips/demo.mp4"), "scripts/clip.sh"),
        look("OpenCV", "demo", Path::new("/usr/include/opencv4/opencv2/videoio.hpp"), "scripts/opencv.sh"),
        look("libtorch", "trainer", &native.join("libtorch/lib/libtorch_cpu.so"), "scripts/native.sh libtorch"),
    ]
}
