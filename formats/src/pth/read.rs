//! Reading: zip and legacy files.

use crate::archive::Archive;
use crate::aside::{plain_file_length, read_file};
use crate::error::{Error, Result, refuse};
use crate::pickle::{self, Limits, Storages};
use crate::tensor::DType;
use crate::value::Value;
use std::{
    collections::{HashMap, hash_map::Entry},
    fs::File,
    io::Read,
    ops::Range,
    path::Path,
};

/// A storage may be viewed by several tensors, and be saved compressed by other tools.
const UNPACK_RATIO: u64 = 4;

pub(super) fn read(path: &Path) -> Result<Value> {
    plain_file_length(path)?;
    let mut head = Vec::new();
    File::open(path).and_then(|file| file.take(512).read_to_end(&mut head)).map_err(|source| Error::io("read", path, source))?;
    if head.starts_with(b"PK\x03\x04") {
        return read_zip(path);
    }
    // PROTO 2, LONG1 of 10 bytes: torch's magic number 0x1950a86a20f9469cfc6c
    if head.starts_with(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.") {
        return read_legacy(path);
    }
    Err(Error::content(what_else(&head)))
}

/// Says what a file is that is no checkpoint, from its first bytes.
fn what_else(head: &[u8]) -> String {
    let start = String::from_utf8_lossy(head).trim_start().to_ascii_lowercase();
    // the head may end within a character
    let is_text = match std::str::from_utf8(head) {
        Ok(_) => true,
        Err(error) => error.error_len().is_none() && head.len() == 512,
    } && !head.iter().any(|b| *b < 0x20 && !b.is_ascii_whitespace());
    let what = if head.is_empty() {
        "is empty (0 bytes): copy or download it again"
    } else if start.starts_with("<!doctype") || start.starts_with("<html") {
        "is an HTML page, not a PyTorch checkpoint: the download saved a web page, so fetch the file itself"
    } else if start.starts_with("version https://git-lfs") {
        "is a Git LFS pointer, not the file itself: run `git lfs pull`"
    } else if is_text {
        "is a text file, not a PyTorch checkpoint"
    } else if head.get(8) == Some(&b'{') {
        "looks like a safetensors file, not a PyTorch checkpoint"
    } else if head.starts_with(&[0x80]) {
        "is a bare Python pickle or the beginning of a damaged checkpoint: save with torch.save, or copy it again"
    } else {
        let hex: Vec<_> = head.iter().take(4).map(|b| format!("{b:02x}")).collect();
        return format!("is not a PyTorch checkpoint: it starts with the bytes {}", hex.join(" "));
    };
    what.to_owned()
}

/// The storages of a zip file: members `data/KEY` beside `data.pkl`, read when they are first needed.
struct ZipStorages {
    archive: Archive,
    folder: String,
    cache: HashMap<String, Vec<u8>>,
    big_endian: bool,
}

impl Storages for ZipStorages {
    fn bytes(&mut self, key: &str) -> Result<&[u8]> {
        match self.cache.entry(key.to_owned()) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => Ok(entry.insert(self.archive.read(&format!("{}data/{key}", self.folder))?)),
        }
    }

    fn big_endian(&self) -> bool {
        self.big_endian
    }
}

fn read_zip(path: &Path) -> Result<Value> {
    let mut archive = Archive::open(path, UNPACK_RATIO)?;
    let pickles = archive.names().filter(|name| *name == "data.pkl" || name.ends_with("/data.pkl"));
    let Some(name) = pickles.min_by_key(|name| name.len()).map(str::to_owned) else {
        refuse!("is a zip archive, but no PyTorch checkpoint: it has no member data.pkl");
    };
    let folder = name.strip_suffix("data.pkl").unwrap_or_default().to_owned();
    let has = |archive: &Archive, member: &str| archive.names().any(|name| name.strip_prefix(folder.as_str()) == Some(member));
    if has(&archive, "constants.pkl") {
        refuse!("is a TorchScript archive, not a checkpoint: save `model.state_dict()` with torch.save");
    }
    let big_endian = has(&archive, "byteorder") && archive.read(&format!("{folder}byteorder"))? == b"big";
    let bytes = archive.read(&name)?;
    let limits = Limits::of_file(archive.length);
    let graph = pickle::run(&bytes, limits)?;
    graph.resolve(limits, &mut ZipStorages { archive, folder, cache: HashMap::new(), big_endian })
}

/// The storages of a legacy file: ranges of its bytes.
struct LegacyStorages<'f> {
    file: &'f [u8],
    ranges: HashMap<String, Range<usize>>,
}

impl Storages for LegacyStorages<'_> {
    fn bytes(&mut self, key: &str) -> Result<&[u8]> {
        match self.ranges.get(key).and_then(|range| self.file.get(range.clone())) {
            Some(bytes) => Ok(bytes),
            None => refuse!("the data of storage '{key}' is missing"),
        }
    }
}

/// Pickles of a magic number, a version, the writer's platform, the object and the keys of the storages; then, for each key,
/// the number of elements (8 bytes) and the elements.
fn read_legacy(path: &Path) -> Result<Value> {
    let file = read_file(path)?;
    let limits = Limits::of_file(file.len() as u64);
    let mut at = 0;
    let truncated = |error: Error| Error::content(format!("is truncated or damaged ({error}); copy or download it again"));
    for _ in 0..3 {
        at += pickle::run(&file[at..], limits).map_err(truncated)?.consumed;
    }
    let object = pickle::run(&file[at..], limits).map_err(truncated)?;
    at += object.consumed;
    let keys = pickle::run(&file[at..], limits).map_err(truncated)?;
    at += keys.consumed;
    let Value::List(keys) = keys.resolve(limits, &mut LegacyStorages { file: &[], ranges: HashMap::new() })? else {
        refuse!("is damaged: the list of its storages is missing");
    };

    // an element's size does not stand beside the data: it comes from the type in the object's pickle
    let sizes: HashMap<&str, Option<DType>> = object.storages().map(|storage| (storage.key.as_str(), storage.dtype)).collect();
    let mut ranges = HashMap::new();
    for key in &keys {
        let Some(key) = key.as_str() else { refuse!("is damaged: the key of a storage is no text") };
        let size = match sizes.get(key) {
            Some(Some(dtype)) => dtype.size(),
            _ => refuse!("holds the storage '{key}' of a type that is not read (complex or quantised)"),
        };
        let count = file[at..].first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
        let length = count.and_then(|count| usize::try_from(count).ok()?.checked_mul(size));
        let end = length.and_then(|length| length.checked_add(at + 8)).filter(|end| *end <= file.len());
        let Some(end) = end else {
            refuse!(
                "is truncated: it ends within the data of storage '{key}' (the file has {} bytes); copy or download it again",
                file.len()
            );
        };
        ranges.insert(key.to_owned(), at + 8..end);
        at = end;
    }
    object.resolve(limits, &mut LegacyStorages { file: &file, ranges })
}
