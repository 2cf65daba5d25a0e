//! Zip archives, as `.pth` and `.npz` use them, with bounded memory.

use crate::aside::plain_file_length;
use crate::error::{Error, Result, refuse};
use std::{
    fs::File,
    io::{BufReader, Read, Seek, Write},
    path::Path,
};
use zip::{CompressionMethod, ZipArchive, ZipWriter, result::ZipError, write::SimpleFileOptions};

/// An archive that gives its members only as long as they stay in proportion to the file (a small zip can unpack to terabytes).
pub(crate) struct Archive {
    zip: ZipArchive<BufReader<File>>,
    /// Bytes that may still be unpacked.
    spare_bytes: u64,
    /// Bytes of the file.
    pub length: u64,
}

impl Archive {
    /// `ratio`: how many times its own length the archive may unpack to, beside a quarter GiB.
    pub fn open(path: &Path, ratio: u64) -> Result<Self> {
        let length = plain_file_length(path)?;
        let file = File::open(path).map_err(|source| Error::io("read", path, source))?;
        let zip = ZipArchive::new(BufReader::new(file)).map_err(|error| match error {
            ZipError::Io(source) if source.kind() != std::io::ErrorKind::UnexpectedEof => Error::io("read", path, source),
            _ => Error::content(format!(
                "is truncated or damaged: it starts as a zip archive, but the archive's directory at its end is missing \
                 (the file has {length} bytes); copy or download it again"
            )),
        })?;
        Ok(Self { zip, spare_bytes: length.saturating_mul(ratio).saturating_add(1 << 28), length })
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.zip.file_names()
    }

    /// A member's content, its checksum compared.
    pub fn read(&mut self, name: &str) -> Result<Vec<u8>> {
        let damaged = |error: &dyn std::fmt::Display| {
            Error::content(format!(
                "the member '{name}' cannot be read ({error}): the file is truncated or damaged; copy or download it again"
            ))
        };
        let mut member = self.zip.by_name(name).map_err(|error| match error {
            ZipError::FileNotFound => Error::content(format!("has no member '{name}'")),
            other => damaged(&other),
        })?;
        let size = member.size();
        if size > self.spare_bytes {
            refuse!("the member '{name}' says it unpacks to {size} bytes, out of all proportion to the file: refused");
        }
        // the size is only what the archive says: take memory as the bytes come
        let mut content = Vec::with_capacity(size.min(self.length.max(1 << 20)) as usize);
        (&mut member).take(size.saturating_add(1)).read_to_end(&mut content).map_err(|error| damaged(&error))?;
        if content.len() as u64 != size {
            refuse!("the member '{name}' has {} bytes instead of {size}: the file is damaged; copy or download it again", content.len());
        }
        self.spare_bytes -= size;
        Ok(content)
    }
}

/// Adds an uncompressed member whose data begins at a multiple of 64 bytes, so that it can be mapped.
pub(crate) fn store<W: Write + Seek>(
    zip: &mut ZipWriter<W>,
    name: &str,
    length: usize,
    fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<()> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .with_alignment(64)
        .large_file(length as u64 >= u64::from(u32::MAX)); // zip64 sizes
    zip.start_file(name, options).map_err(write_error)?;
    fill(zip).map_err(|source| write_error(source.into()))
}

/// An error of writing, to be named by [`crate::write_aside`].
pub(crate) fn write_error(error: ZipError) -> Error {
    match error {
        ZipError::Io(source) => Error::io("write", Path::new(""), source),
        other => Error::content(format!("cannot be written as a zip archive: {other}")),
    }
}
