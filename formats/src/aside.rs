//! Writing without ever leaving half a file.

use crate::error::{Error, Result};
use std::{
    ffi::OsString,
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

/// Writes a file aside (`NAME.PID-COUNT.partial` in the same folder), syncs it to the disk and renames it into place. Whoever reads
/// `path` sees the old content or the new one; on any error (a full disk, no permission) the old file is untouched and the
/// partial one is removed.
///
/// # Errors
/// What `fill` returns, named after `path` where it knows no file, and every refusal of the operating system.
pub fn write_aside(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> std::result::Result<(), Error>,
) -> std::result::Result<(), Error> {
    // a rename onto /dev/null would replace it
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(Error::content("cannot be written: it is a folder or a device, not a file").in_file(path));
    }
    let partial = partial_path(path)?;
    let done = fill_and_sync(&partial, fill).and_then(|()| Ok(fs::rename(&partial, path)?));
    if done.is_ok() {
        sync_folder(path);
    }
    done.map_err(|failure| {
        // best effort: the first error is the one to report
        let _ = fs::remove_file(&partial);
        match failure {
            Failure::System(source) => Error::io("write", path, source),
            Failure::Content(error) => error.in_file(path),
        }
    })
}

enum Failure {
    System(std::io::Error),
    Content(Error),
}

impl From<std::io::Error> for Failure {
    fn from(source: std::io::Error) -> Self {
        Self::System(source)
    }
}

static COUNT: AtomicUsize = AtomicUsize::new(0);

fn partial_path(path: &Path) -> Result<PathBuf> {
    let Some(name) = path.file_name() else {
        return Err(Error::io("write", path, std::io::Error::new(std::io::ErrorKind::InvalidInput, "this names no file")));
    };
    let mut partial = OsString::from(name);
    // two threads may write the same file: the last rename wins, and neither sees the other's half
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    partial.push(format!(".{}-{number}.partial", std::process::id()));
    Ok(path.with_file_name(partial))
}

fn fill_and_sync(partial: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> std::result::Result<(), Failure> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(partial)?);
    fill(&mut out).map_err(|error| match error {
        Error::Io { cause, .. } => Failure::System(cause),
        other => Failure::Content(other),
    })?;
    out.flush()?;
    out.get_ref().sync_all()?;
    Ok(())
}

/// Makes the rename itself reach the disk, where the file system can do so: the content is safe already.
fn sync_folder(path: &Path) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}

/// The whole content of a plain file.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>> {
    plain_file_length(path)?;
    fs::read(path).map_err(|source| Error::io("read", path, source))
}

/// The length of a file in bytes; folders and devices, which have none, are refused.
pub(crate) fn plain_file_length(path: &Path) -> Result<u64> {
    let metadata = fs::metadata(path).map_err(|source| Error::io("read", path, source))?;
    if !metadata.is_file() {
        return Err(Error::content(format!("is {}, not a file", if metadata.is_dir() { "a folder" } else { "a device" })).in_file(path));
    }
    Ok(metadata.len())
}
