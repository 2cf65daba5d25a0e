//! Files of gigabytes, read where the system keeps them.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use crate::Error;

/// The bytes of a file, paged in as they are read: they count as the system's cache, not as this process's memory.
pub(crate) fn map(path: &Path) -> Result<Mmap, Error> {
    let refuse = |e: std::io::Error| Error::content(path, format!("cannot be read: {e}"));
    let file = File::open(path).map_err(refuse)?;
    if !file.metadata().map_err(refuse)?.is_file() {
        return Err(Error::content(path, "is no file: give the data set's own file, not its folder"));
    }
    // SAFETY: a mapping is only sound while nobody writes to the file or cuts it. Data sets are files that are written once; they are
    // mapped while they are opened, no longer, and every byte is checked as data, none trusted as code or as an offset.
    unsafe { Mmap::map(&file) }.map_err(refuse)
}
