//! numpy's `.npy`: one array. Numbers of 1 to 8 bytes in either byte order and in C or Fortran order; text; objects, through
//! [`crate::pickle`] (nothing runs). What becomes of each type is the table of [`crate::pickle`].

use crate::aside::{read_file, write_aside};
use crate::error::{Error, Result, refuse};
use crate::pickle::{self, numpy::ItemType};
use crate::strided;
use crate::tensor::{DType, Tensor, element_count};
use crate::value::Value;
use std::{io::Write, path::Path};

const MAGIC: &[u8] = b"\x93NUMPY";

/// Reads an array of numbers, row-major.
///
/// # Errors
/// If the file cannot be read, is no `.npy`, is truncated, or holds text or objects (see [`read_value`]).
pub fn read(path: &Path) -> std::result::Result<Tensor, Error> {
    match read_value(path)? {
        Value::Tensor(tensor) => Ok(tensor),
        other => Err(Error::content(format!("expected an array of numbers, found {}", other.describe())).in_file(path)),
    }
}

/// Reads an array of anything: numbers as a tensor, text and objects as nested lists (or the item itself, for no axes).
///
/// # Errors
/// If the file cannot be read, is no `.npy`, is truncated, or if its objects are refused by [`crate::pickle::read`].
pub fn read_value(path: &Path) -> std::result::Result<Value, Error> {
    from_bytes(&read_file(path)?).map_err(|error| error.in_file(path))
}

/// Writes an array of numbers, little-endian, row-major; bf16, which numpy lacks, as f32. Aside, then renamed.
///
/// # Errors
/// If the file cannot be written, or the tensor's shape does not fit its data.
pub fn write(path: &Path, tensor: &Tensor) -> std::result::Result<(), Error> {
    write_aside(path, |out| to_writer(out, tensor).map_err(|source| Error::io("write", path, source)))
}

/// An array out of the bytes of a `.npy` file.
pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Value> {
    if bytes.is_empty() {
        refuse!("is empty (0 bytes), not an .npy array");
    }
    let Some(rest) = bytes.strip_prefix(MAGIC) else { refuse!("is no .npy array: it does not start with \\x93NUMPY") };
    let (header, data) = match *rest {
        [1, _, a, b, ref rest @ ..] => rest.split_at_checked(u16::from_le_bytes([a, b]).into()),
        [2 | 3, _, a, b, c, d, ref rest @ ..] => rest.split_at_checked(u32::from_le_bytes([a, b, c, d]) as usize),
        [version, ..] if version > 3 => refuse!("is an .npy array of version {version}; versions 1 to 3 are read"),
        _ => None,
    }
    .ok_or_else(|| Error::content("is a truncated .npy array: it ends within its header; copy or write it again"))?;
    let header = std::str::from_utf8(header).ok().and_then(Header::parse).ok_or_else(|| {
        Error::content("is an .npy array with a header that is not understood: expected descr, fortran_order and shape, and no fields")
    })?;
    let Some(item) = ItemType::parse(&header.descr) else { refuse!("is an .npy array of the unknown type '{}'", header.descr) };
    if item.is_object() {
        return pickle::read(data);
    }
    if item.dtype().is_none() && !item.is_text() {
        refuse!("is an .npy array of type '{}', which is not read: convert it to float32", header.descr);
    }
    let expected = element_count(&header.shape).and_then(|n| n.checked_mul(item.size()));
    let Some(data) = expected.and_then(|n| data.get(..n)) else {
        refuse!(
            "is a truncated .npy array: shape {:?} of '{}' does not fit into the {} bytes that follow its header",
            header.shape,
            header.descr,
            data.len()
        );
    };
    if item.size() == 0 && element_count(&header.shape).unwrap_or(usize::MAX) > 1 << 20 {
        refuse!("is an .npy array of more than 2^20 empty strings: refused");
    }
    let strides = if header.fortran_order { strided::column_major(&header.shape) } else { strided::row_major(&header.shape) };
    pickle::numpy::from_bytes(item, data, &header.shape, &strides)
}

/// Header and data.
pub(crate) fn to_writer(out: &mut dyn Write, tensor: &Tensor) -> std::io::Result<()> {
    if element_count(&tensor.shape) != Some(tensor.len()) {
        let reason = format!("a tensor of shape {:?} with {} elements", tensor.shape, tensor.len());
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, reason));
    }
    if tensor.dtype() == DType::BF16 {
        return to_writer(out, &Tensor::f32(tensor.shape.clone(), tensor.to_f32()));
    }
    write_header(out, descr(tensor.dtype()), &tensor.shape)?;
    tensor.data.write_le(out)
}

/// An array of no axes that holds a text.
pub(crate) fn text_to_writer(out: &mut dyn Write, text: &str) -> std::io::Result<()> {
    write_header(out, &format!("<U{}", text.chars().count()), &[])?;
    text.chars().try_for_each(|c| out.write_all(&u32::from(c).to_le_bytes()))
}

fn descr(dtype: DType) -> &'static str {
    match dtype {
        DType::F64 => "<f8",
        DType::F32 | DType::BF16 => "<f4",
        DType::F16 => "<f2",
        DType::I64 => "<i8",
        DType::I32 => "<i4",
        DType::I16 => "<i2",
        DType::I8 => "|i1",
        DType::U8 => "|u1",
        DType::Bool => "|b1",
    }
}

/// Version 1.0, padded so that the data begins at a multiple of 64 bytes.
fn write_header(out: &mut dyn Write, descr: &str, shape: &[usize]) -> std::io::Result<()> {
    let axes: String = match shape {
        [one] => format!("{one},"),
        _ => shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", "),
    };
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({axes}), }}");
    let before = MAGIC.len() + 4;
    let padded = (before + header.len() + 1).next_multiple_of(64) - before;
    while header.len() + 1 < padded {
        header.push(' ');
    }
    header.push('\n');
    let length =
        u16::try_from(header.len()).map_err(|_| std::io::Error::new(std::io::ErrorKind::InvalidInput, "a tensor of too many axes"))?;
    out.write_all(MAGIC)?;
    out.write_all(&[1, 0])?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(header.as_bytes())
}

/// The header, a Python dictionary such as `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`.
struct Header {
    descr: String,
    fortran_order: bool,
    shape: Vec<usize>,
}

impl Header {
    fn parse(text: &str) -> Option<Self> {
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        let mut rest = text.trim_start().strip_prefix('{')?;
        loop {
            rest = rest.trim_start_matches([',', ' ', '\t', '\n']);
            if rest.starts_with('}') {
                break;
            }
            let (key, after) = quoted(rest)?;
            rest = after.trim_start().strip_prefix(':')?.trim_start();
            match key {
                "descr" => {
                    let (value, after) = quoted(rest)?; // a list here would be a type with fields
                    descr = Some(value.to_owned());
                    rest = after;
                }
                "fortran_order" => {
                    fortran_order = Some(rest.starts_with("True"));
                    rest = rest.strip_prefix("True").or_else(|| rest.strip_prefix("False"))?;
                }
                "shape" => {
                    let (axes, after) = rest.strip_prefix('(')?.split_once(')')?;
                    let axes = axes.split(',').map(|axis| axis.trim().trim_end_matches('L')).filter(|axis| !axis.is_empty());
                    shape = Some(axes.map(|axis| axis.parse().ok()).collect::<Option<Vec<usize>>>()?);
                    rest = after;
                }
                _ => return None,
            }
        }
        let shape = shape.filter(|axes| axes.len() <= 64)?;
        Some(Self { descr: descr?, fortran_order: fortran_order?, shape })
    }
}

/// A quoted text at the start, and what follows it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| *c == '\'' || *c == '"')?;
    text[1..].split_once(quote)
}
