//! The one door to the ONNX Runtime library: finds it, loads it, keeps its environment.
//!
//! The library is loaded at run time, so that a program without it still starts and can say what is missing. Nothing in
//! this crate touches `ort` before [`environment`] has succeeded: any other first call would panic when the library is absent.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use ort::{LoadDynamicError, environment::Environment, logging::LogLevel};

use crate::Error;

/// The variable that names the library when the caller does not: a file, or a folder that holds it.
pub const LIBRARY_VARIABLE: &str = "ORT_DYLIB_PATH";

/// Where `make` puts the library, below the workspace.
const NATIVE_FOLDER: &str = ".native/onnxruntime/lib";

/// What the library is called, by system; Linux and macOS may append or insert a version.
#[cfg(target_os = "windows")]
const LIBRARY_NAME: &str = "onnxruntime.dll";
#[cfg(target_os = "macos")]
const LIBRARY_NAME: &str = "libonnxruntime.dylib";
#[cfg(not(any(target_os = "windows", target_os = "macos")))]
const LIBRARY_NAME: &str = "libonnxruntime.so";

/// The library of this process. ONNX Runtime allows one environment per process, and unloading is not possible, so it stays.
struct Loaded {
    path: PathBuf,
    environment: Environment,
}

static LOADED: Mutex<Option<Loaded>> = Mutex::new(None);

/// Loads ONNX Runtime, once per process; later calls return at once.
///
/// Searched, in this order: `path` (a file, or a folder that holds the library); the variable `ORT_DYLIB_PATH`, likewise;
/// the folder of the executable; `.native/onnxruntime/lib` in the folders above the executable, then in the working folder
/// and those above it; the system's loader. What was named explicitly must load: there is no silent second choice.
///
/// # Errors
/// One sentence when the library is missing, is not ONNX Runtime, is too old, or when another one is already loaded.
pub fn init_onnxruntime(path: Option<&Path>) -> Result<(), Error> {
    environment(path).map(drop)
}

/// [`init_onnxruntime`], returning the environment that `ort::session::Session::builder` wants. For whoever runs models
/// other than lifters (a 2D detector) in the same process.
///
/// # Errors
/// As [`init_onnxruntime`].
pub fn environment(path: Option<&Path>) -> Result<Environment, Error> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(loaded) = &*loaded {
        return match path {
            Some(asked) if !same_library(asked, &loaded.path) => {
                Err(Error::LibraryAlreadyLoaded { loaded: loaded.path.clone(), asked: asked.to_owned() })
            }
            _ => Ok(loaded.environment.clone()),
        };
    }
    let path = find_library(path)?;
    let environment = load(&path)?;
    *loaded = Some(Loaded { path, environment: environment.clone() });
    Ok(environment)
}

/// The library file that this process has loaded, if it has.
pub fn loaded_library() -> Option<PathBuf> {
    LOADED.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|loaded| loaded.path.clone())
}

fn load(path: &Path) -> Result<Environment, Error> {
    let builder = ort::init_from(path).map_err(|error| match error {
        // The system's loader was the last resort: then it is missing, rather than broken.
        LoadDynamicError::Dlopen { .. } if path == Path::new(LIBRARY_NAME) => Error::LibraryMissing,
        LoadDynamicError::Dlopen { error, .. } => unusable(path, &error),
        LoadDynamicError::MissingApi { .. } => unusable(path, &"it is another library"),
        LoadDynamicError::BadVersion { version_str, .. } => {
            Error::LibraryTooOld { path: path.to_owned(), found: version_str, needed: format!("1.{}", ort::MINOR_VERSION) }
        }
        other => unusable(path, &other),
    })?;
    let environment =
        builder.with_name("poselift").with_telemetry(false).with_logger(Arc::new(log)).build().map_err(|error| unusable(path, &error))?;
    // The environment starts at the most verbose level, which costs a call for every node of every graph.
    environment.set_log_level(LogLevel::Warning);
    tracing::debug!("loaded ONNX Runtime from {}", path.display());
    Ok(environment)
}

/// ONNX Runtime's log goes to `tracing`. Its errors come back to the caller as errors too, so here they are details.
fn log(level: LogLevel, _category: &str, _id: &str, location: &str, message: &str) {
    match level {
        LogLevel::Fatal => tracing::error!(target: "onnxruntime", "{message} ({location})"),
        LogLevel::Error | LogLevel::Warning => tracing::debug!(target: "onnxruntime", "{message} ({location})"),
        LogLevel::Info | LogLevel::Verbose => tracing::trace!(target: "onnxruntime", "{message} ({location})"),
    }
}

fn unusable(path: &Path, reason: &dyn std::fmt::Display) -> Error {
    Error::LibraryUnusable { path: path.to_owned(), reason: crate::error::one_line(&reason.to_string()) }
}

fn same_library(asked: &Path, loaded: &Path) -> bool {
    let asked = if asked.is_dir() { library_in(asked) } else { Some(asked.to_owned()) };
    match (asked.and_then(|path| path.canonicalize().ok()), loaded.canonicalize().ok()) {
        (Some(asked), Some(loaded)) => asked == loaded,
        _ => false,
    }
}

fn find_library(path: Option<&Path>) -> Result<PathBuf, Error> {
    if let Some(path) = path {
        return named_library(path);
    }
    if let Some(path) = env::var_os(LIBRARY_VARIABLE).filter(|path| !path.is_empty()) {
        return named_library(Path::new(&path));
    }
    let executable = env::current_exe().and_then(|path| path.canonicalize()).unwrap_or_default();
    let working = env::current_dir().unwrap_or_default();
    let beside_executable = executable.parent().map(Path::to_owned);
    let native = executable.ancestors().skip(1).chain(working.ancestors()).map(|folder| folder.join(NATIVE_FOLDER));
    Ok(beside_executable.into_iter().chain(native).find_map(|folder| library_in(&folder)).unwrap_or_else(|| PathBuf::from(LIBRARY_NAME)))
}

/// A library that the user named: the file itself, or the folder it lies in.
fn named_library(path: &Path) -> Result<PathBuf, Error> {
    if path.is_dir() {
        return library_in(path).ok_or_else(|| Error::LibraryNotThere { path: path.to_owned() });
    }
    if !path.is_file() {
        return Err(Error::LibraryNotThere { path: path.to_owned() });
    }
    // `ort` would look for a relative path beside the executable first.
    path.canonicalize().map_err(|_| Error::LibraryNotThere { path: path.to_owned() })
}

/// The library in a folder: the name without a version first, else the highest version.
fn library_in(folder: &Path) -> Option<PathBuf> {
    let mut found: Vec<(Vec<u32>, PathBuf)> = std::fs::read_dir(folder)
        .ok()?
        .flatten()
        .filter_map(|entry| Some((version_of(&entry.file_name())?, entry.path())))
        .filter(|(_, path)| path.is_file())
        .collect();
    found.sort();
    match found.first() {
        Some((version, path)) if version.is_empty() => Some(path.clone()),
        _ => found.pop().map(|(_, path)| path),
    }
}

/// The version in a library's file name (`libonnxruntime.so.1.31.1`, `libonnxruntime.1.31.1.dylib`), empty when it has
/// none; `None` for any other file, such as `libonnxruntime_providers_shared.so`.
fn version_of(name: &OsStr) -> Option<Vec<u32>> {
    let name = name.to_str()?;
    let (stem, extension) = LIBRARY_NAME.rsplit_once('.')?;
    let rest = name.strip_prefix(stem)?;
    let version = match rest.strip_prefix('.')?.strip_prefix(extension) {
        Some(after) => after,                                     // stem.so, stem.so.1.31.1
        None => rest.strip_suffix(extension)?.strip_suffix('.')?, // stem.1.31.1.dylib
    };
    version.split('.').filter(|part| !part.is_empty()).map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_library_by_its_name() {
        let (stem, extension) = LIBRARY_NAME.rsplit_once('.').unwrap();
        assert_eq!(version_of(OsStr::new(LIBRARY_NAME)), Some(vec![]));
        assert_eq!(version_of(OsStr::new(&format!("{LIBRARY_NAME}.1.31.1"))), Some(vec![1, 31, 1]));
        assert_eq!(version_of(OsStr::new(&format!("{stem}.1.31.1.{extension}"))), Some(vec![1, 31, 1]));
        for other in ["libonnxruntime_providers_shared.so", "libonnx.so", "readme.txt", "libonnxruntime.so.old", "libonnxruntime"] {
            assert_eq!(version_of(OsStr::new(other)), None, "{other}");
        }
    }

    #[test]
    fn takes_the_highest_version_unless_there_is_one_without() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(library_in(folder.path()), None);
        for version in ["1.9.0", "1.31.1", "1.4.2"] {
            std::fs::write(folder.path().join(format!("{LIBRARY_NAME}.{version}")), "").unwrap();
        }
        assert_eq!(library_in(folder.path()), Some(folder.path().join(format!("{LIBRARY_NAME}.1.31.1"))));
        std::fs::write(folder.path().join(LIBRARY_NAME), "").unwrap();
        assert_eq!(library_in(folder.path()), Some(folder.path().join(LIBRARY_NAME)));
    }
}
