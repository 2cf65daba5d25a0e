//! Files that appear whole or not at all.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tempfile::TempDir;

/// The folder that an interruption must remove.
static UNFINISHED: Mutex<Option<PathBuf>> = Mutex::new(None);

/// A hidden folder inside the output folder, where files are made before they are moved to their places. Dropping it
/// removes it with all that is still in it; [`remove_unfinished`] does so from outside.
#[derive(Debug)]
pub struct Unfinished {
    folder: TempDir,
}

impl Unfinished {
    /// Makes the folder, and with it sure that `out` can be written to.
    ///
    /// # Errors
    /// The system's.
    pub fn create(out: &Path) -> io::Result<Self> {
        let mut unfinished = UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::Builder::new().prefix(".demo-").suffix(".partial").tempdir_in(out)?;
        *unfinished = Some(folder.path().to_owned());
        Ok(Self { folder })
    }

    /// Where to make a file before [`Self::finish`] moves it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Moves a finished file into the output folder, over an older one.
    ///
    /// # Errors
    /// The system's.
    pub fn finish(&self, name: &str, out: &Path) -> io::Result<PathBuf> {
        let place = out.join(name);
        std::fs::rename(self.path(name), &place)?;
        Ok(place)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        *UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // `TempDir` removes the folder.
    }
}

/// Removes the files of a run that is being interrupted.
pub fn remove_unfinished() {
    if let Some(folder) = UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // Nothing can be done about a failure, and nobody is left to be told.
        let _ = std::fs::remove_dir_all(folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_appear_whole_or_not_at_all() {
        let out = tempfile::tempdir().expect("a folder");
        let list = || std::fs::read_dir(out.path()).expect("a folder").count();
        let unfinished = Unfinished::create(out.path()).expect("a writable folder");
        std::fs::write(unfinished.path("a.txt"), "whole").expect("a file");
        std::fs::write(unfinished.path("b.txt"), "half").expect("a file");
        let place = unfinished.finish("a.txt", out.path()).expect("a move");
        assert_eq!(std::fs::read_to_string(place).expect("a file"), "whole");
        drop(unfinished);
        assert_eq!(list(), 1);

        let unfinished = Unfinished::create(out.path()).expect("a writable folder");
        std::fs::write(unfinished.path("c.txt"), "half").expect("a file");
        remove_unfinished();
        assert_eq!(list(), 1);
    }
}
