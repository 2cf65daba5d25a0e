//! numpy's `.npz`: named arrays in a zip archive, compressed or not.

use crate::archive::{Archive, Writer};
use crate::aside::{plain_file_length, write_aside};
use crate::error::{Error, Result, refuse};
use crate::npy;
use crate::tensor::{Data, Tensor};
use crate::value::Value;
use std::{collections::BTreeMap, fs::File, io::Read, path::Path};

/// Deflate reaches 1000:1 on constant arrays; more than this much of a file is not such arrays.
const UNPACK_RATIO: u64 = 64;

/// Reads all arrays, by name. Each must hold numbers; see [`read_values`] for archives that also hold text or objects.
///
/// # Errors
/// If the file cannot be read, is no `.npz`, is truncated, unpacks out of proportion, or if a member (named in the error) is
/// no array of numbers.
pub fn read(path: &Path) -> std::result::Result<BTreeMap<String, Tensor>, Error> {
    let members = read_values(path)?;
    let tensors = members.into_iter().map(|(name, value)| match value {
        Value::Tensor(tensor) => Ok((name, tensor)),
        other => Err(Error::content(format!("expected an array of numbers in '{name}', found {}", other.describe())).in_file(path)),
    });
    tensors.collect()
}

/// Reads all arrays, by name: numbers as tensors, text and objects as nested lists (or the item itself, for no axes).
///
/// # Errors
/// As [`read`], but for members that are no numbers.
pub fn read_values(path: &Path) -> std::result::Result<BTreeMap<String, Value>, Error> {
    let read = || -> Result<_> {
        let mut archive = open(path)?;
        let names: Vec<String> = archive.names().map(str::to_owned).collect();
        names.into_iter().map(|member| Ok((array_name(&member).to_owned(), read_member(&mut archive, &member)?))).collect()
    };
    read().map_err(|error| error.in_file(path))
}

/// Reads one array, such as an object array that holds a dictionary, and leaves the others unread.
///
/// # Errors
/// As [`read_values`], and if there is no array of that name.
pub fn get_value(path: &Path, name: &str) -> std::result::Result<Value, Error> {
    let read = || {
        let mut archive = open(path)?;
        let mut names: Vec<String> = archive.names().map(str::to_owned).collect();
        let Some(member) = names.iter().find(|member| array_name(member) == name).cloned() else {
            names.sort();
            let found: Vec<_> = names.iter().map(|member| array_name(member)).collect();
            refuse!("has no array '{name}'; it has {}", found.join(", "));
        };
        read_member(&mut archive, &member)
    };
    read().map_err(|error| error.in_file(path))
}

/// Names of the arrays, which stay unread, in the order of the file.
///
/// # Errors
/// If the file cannot be read or is no `.npz`.
pub fn names(path: &Path) -> std::result::Result<Vec<String>, Error> {
    let archive = open(path).map_err(|error| error.in_file(path))?;
    Ok(archive.names().map(|member| array_name(member).to_owned()).collect())
}

/// Writes tensors, uncompressed, as `numpy.savez` does. Aside, then renamed.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: &Path, members: &BTreeMap<String, Tensor>) -> std::result::Result<(), Error> {
    write_members(path, members.iter().map(|(name, tensor)| (name.as_str(), Member::Tensor(tensor))))
}

/// Writes tensors, numbers, booleans and texts (the latter three as arrays of no axes).
///
/// # Errors
/// If the file cannot be written, or if a value is none of these.
pub fn write_values(path: &Path, members: &[(&str, Value)]) -> std::result::Result<(), Error> {
    let scalar = |data| Ok(Member::Scalar(Tensor::new([], data)?));
    let members: Result<Vec<_>> = members
        .iter()
        .map(|(name, value)| {
            let member = match value {
                Value::Tensor(tensor) => Member::Tensor(tensor),
                Value::Str(text) => Member::Text(text),
                Value::Bool(value) => scalar(Data::Bool(vec![*value]))?,
                Value::Int(value) => scalar(Data::I64(vec![*value]))?,
                Value::Float(value) => scalar(Data::F64(vec![*value]))?,
                other => refuse!("cannot be written: '{name}' is {}, not a tensor, a number or a text", other.describe()),
            };
            Ok((*name, member))
        })
        .collect();
    write_members(path, members.map_err(|error| error.in_file(path))?.into_iter())
}

enum Member<'v> {
    Tensor(&'v Tensor),
    Scalar(Tensor),
    Text(&'v str),
}

fn write_members<'v>(path: &Path, members: impl Iterator<Item = (&'v str, Member<'v>)>) -> Result<()> {
    write_aside(path, |out| {
        let mut zip = Writer::new(out);
        for (name, member) in members {
            let name = format!("{name}.npy");
            match member {
                Member::Tensor(tensor) => zip.store(&name, tensor.len() * tensor.dtype().size(), |out| npy::to_writer(out, tensor))?,
                Member::Scalar(tensor) => zip.store(&name, 8, |out| npy::to_writer(out, &tensor))?,
                Member::Text(text) => zip.store(&name, text.len() * 4, |out| npy::text_to_writer(out, text))?,
            }
        }
        zip.finish()
    })
}

/// Opens an archive whose first bytes say that it is one; an empty archive is a zip too.
fn open(path: &Path) -> Result<Archive> {
    if plain_file_length(path)? == 0 {
        refuse!("is empty (0 bytes), not an .npz archive");
    }
    let mut head = [0; 4];
    let is_zip =
        File::open(path).and_then(|mut file| file.read_exact(&mut head)).is_ok() && (&head == b"PK\x03\x04" || &head == b"PK\x05\x06");
    if !is_zip {
        refuse!("is no .npz archive: it does not start as a zip file");
    }
    Archive::open(path, UNPACK_RATIO)
}

fn array_name(member: &str) -> &str {
    member.strip_suffix(".npy").unwrap_or(member)
}

fn read_member(archive: &mut Archive, member: &str) -> Result<Value> {
    let bytes = archive.read(member)?;
    npy::from_bytes(&bytes).map_err(|error| Error::content(format!("array '{}': {error}", array_name(member))))
}
