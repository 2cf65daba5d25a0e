//! Files that belong to the project, wherever the program was started.

use std::env;
use std::path::{Path, PathBuf};

/// `relative` in a folder above the executable, else in the working folder or one above it.
pub fn find_above(relative: &Path) -> Option<PathBuf> {
    let executable = env::current_exe().and_then(|path| path.canonicalize()).ok();
    let working = env::current_dir().ok();
    let starts = [executable.as_deref(), working.as_deref()];
    starts.into_iter().flatten().flat_map(Path::ancestors).map(|folder| folder.join(relative)).find(|path| path.exists())
}
