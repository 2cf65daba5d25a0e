//! A model file that appears whole or not at all.

use std::{fs, io::Write as _, path::Path};

use prost::Message as _;

use super::proto::ModelProto;

/// A model written beside the place where it is to stand. Dropped without [`Aside::publish`], it leaves nothing.
#[derive(Debug)]
pub struct Aside {
    file: tempfile::NamedTempFile,
    bytes: u64,
}

impl Aside {
    /// Writes `model` into the folder of `destination`, under a temporary name.
    ///
    /// # Errors
    /// A folder that is missing or cannot be written, a full disk.
    pub fn write(model: &ModelProto, destination: &Path) -> std::io::Result<Self> {
        let folder = destination.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new().prefix(".export-").suffix(".onnx").tempfile_in(folder)?;
        let bytes = model.encode_to_vec();
        file.write_all(&bytes)?;
        file.as_file().sync_all()?;
        make_readable(file.as_file())?;
        Ok(Self { file, bytes: bytes.len() as u64 })
    }

    /// Where it lies for now.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Its size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives it its name, in one step.
    ///
    /// # Errors
    /// Whatever stands in the way of a rename, such as a folder of that name.
    pub fn publish(self, destination: &Path) -> std::io::Result<()> {
        self.file.persist(destination).map(drop).map_err(|error| error.error)
    }
}

/// Temporary files are private; a model need not be.
fn make_readable(file: &fs::File) -> std::io::Result<()> {
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    #[cfg(not(unix))]
    let _ = file;
    Ok(())
}
