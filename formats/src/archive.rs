//! Zip archives, as `.pth` and `.npz` use them, with bounded memory.

use crate::aside::plain_file_length;
use crate::error::{Error, Result, refuse};
use std::{
    fs::File,
    io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write},
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

/// A zip archive as it is written.
pub(crate) struct Writer<'o> {
    zip: ZipWriter<Latch<&'o mut BufWriter<File>>>,
}

impl<'o> Writer<'o> {
    pub fn new(out: &'o mut BufWriter<File>) -> Self {
        Self { zip: ZipWriter::new(Latch { inner: out, position: 0, length: 0, failure: None }) }
    }

    /// Adds an uncompressed member whose data begins at a multiple of 64 bytes, so that it can be mapped.
    pub fn store(&mut self, name: &str, length: usize, fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .with_alignment(64)
            .large_file(length as u64 >= u64::from(u32::MAX) - 4096); // zip64 sizes, with room for a header
        self.zip.start_file(name, options).map_err(write_error)?;
        fill(&mut self.zip).map_err(|source| write_error(source.into()))
    }

    /// Writes the directory; only now is it known whether everything before was written.
    pub fn finish(self) -> Result<()> {
        let latch = self.zip.finish().map_err(write_error)?;
        latch.failure.map_or(Ok(()), |source| Err(write_error(source.into())))
    }
}

/// An error of writing, to be named by [`crate::write_aside`].
fn write_error(error: ZipError) -> Error {
    match error {
        ZipError::Io(source) => Error::io("write", Path::new(""), source),
        other => Error::content(format!("cannot be written as a zip archive: {other}")),
    }
}

/// Keeps the first error and then swallows everything. A [`ZipWriter`] that is dropped after an error tries to finish its
/// archive and, failing again, prints to the standard error of whatever program this is.
struct Latch<W> {
    inner: W,
    position: u64,
    /// Bytes written or pretended.
    length: u64,
    failure: Option<std::io::Error>,
}

impl<W> Latch<W> {
    fn keep<T>(&mut self, result: std::io::Result<T>, otherwise: T) -> std::io::Result<T> {
        match result {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                self.failure = Some(error);
                Ok(otherwise)
            }
            ok => ok,
        }
    }
}

impl<W: Write> Write for Latch<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = match self.failure {
            None => {
                let result = self.inner.write(bytes);
                self.keep(result, bytes.len())?
            }
            Some(_) => bytes.len(),
        };
        self.position += written as u64;
        self.length = self.length.max(self.position);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self.failure {
            None => {
                let result = self.inner.flush();
                self.keep(result, ())
            }
            Some(_) => Ok(()),
        }
    }
}

impl<W: Seek> Seek for Latch<W> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let target = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
        };
        let Some(target) = target else { return Err(std::io::ErrorKind::InvalidInput.into()) };
        self.position = match self.failure {
            None if target != self.position => {
                let result = self.inner.seek(SeekFrom::Start(target));
                self.keep(result, target)?
            }
            _ => target,
        };
        Ok(target)
    }
}
