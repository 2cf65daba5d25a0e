//! Reads Python pickles, protocols 0 to 5, and runs nothing.
//!
//! A pickle is a program for a small stack machine. Here that machine only ever builds plain data: a class or function that a
//! pickle names stays a name, and calling it (`REDUCE`, `NEWOBJ`, `BUILD`) records the call as an inert [`Value::Object`].
//! A few names are interpreted, by code of this crate: dictionaries and sets of the standard library, `_codecs.encode`,
//! arrays, scalars and dtypes of numpy 1 and 2, and torch's tensors.
//!
//! | numpy | becomes |
//! |---|---|
//! | array of f2, f4, f8, i1, i2, i4, i8, u1, bool | [`Tensor`](crate::Tensor) of the same type, row-major whatever the order in the file |
//! | array of u2, u4, u8 | `Tensor` of the next wider signed type; u8 beyond 2^63 as f64 |
//! | array of strings or objects | the item (0 axes), a list (1 axis), nested lists |
//! | scalar | `Bool`, `Int`, `Float`, `Str`, `Bytes` |
//! | any other type (complex, dates, records) | an `Object` of class `numpy.ndarray` that names the type |
//!
//! Hostile input is bounded: [`MAX_DEPTH`] levels; and, since a pickle can name one object many times while a [`Value`] holds
//! copies, the number of values and of bytes *after* copying is computed, and refused, before anything is copied.

mod construct;
mod machine;
mod node;
pub(crate) mod numpy;
mod resolve;

use crate::error::{Error, Result, refuse};
use crate::value::Value;
pub(crate) use machine::run;

/// Deepest nesting of containers that is read.
pub const MAX_DEPTH: usize = 128;

/// How much a pickle may grow into, from the length of the file it came in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Values in the result, copies counted.
    pub values: u64,
    /// Bytes of strings, bytes and tensors in the result, copies counted.
    pub bytes: u64,
}

impl Limits {
    /// An honest file holds each byte of its data once or, where dictionaries are saved twice and views overlap, a few times.
    pub fn of_file(length: u64) -> Self {
        Self {
            values: length.saturating_mul(4).saturating_add(1 << 16).min(1 << 26),
            bytes: length.saturating_mul(4).saturating_add(1 << 26),
        }
    }
}

/// Where the tensors of a pickle keep their elements.
pub(crate) trait Storages {
    /// The bytes of a storage.
    fn bytes(&mut self, key: &str) -> Result<&[u8]>;
    /// Whether multi-byte elements are big-endian.
    fn big_endian(&self) -> bool {
        false
    }
}

/// A pickle on its own has no storages.
struct NoStorages;
impl Storages for NoStorages {
    fn bytes(&mut self, key: &str) -> Result<&[u8]> {
        refuse!("the pickle refers to the storage '{key}' outside of it: read the whole .pth file instead")
    }
}

/// Reads one pickle; what follows it is ignored.
///
/// # Errors
/// If it ends early, is malformed, nests deeper than [`MAX_DEPTH`], contains itself, or would grow beyond a few times its
/// length.
pub fn read(bytes: &[u8]) -> std::result::Result<Value, Error> {
    let limits = Limits::of_file(bytes.len() as u64);
    run(bytes, limits)?.resolve(limits, &mut NoStorages)
}

/// Reads one value out of the dictionaries of a pickle, named by its keys from the outside in, and none of the others: a large
/// file costs no more memory than the value. Empty `keys` read everything. `None` if there is no such key.
///
/// # Errors
/// As [`read`]; only the value that is asked for is held to the limits of depth and growth.
pub fn read_at(bytes: &[u8], keys: &[&str]) -> std::result::Result<Option<Value>, Error> {
    let limits = Limits::of_file(bytes.len() as u64);
    let mut graph = run(bytes, limits)?;
    for key in keys {
        match graph.child(key) {
            Some(child) => graph.root = child,
            None => return Ok(None),
        }
    }
    graph.resolve(limits, &mut NoStorages).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_is_read_out_of_many() {
        let bytes = b"\x80\x02}(X\x01\x00\x00\x00a}X\x01\x00\x00\x00bK\x05sX\x01\x00\x00\x00cNu."; // {'a': {'b': 5}, 'c': None}
        assert_eq!(read_at(bytes, &["a", "b"]).unwrap(), Some(Value::Int(5)));
        assert_eq!(read_at(bytes, &["c"]).unwrap(), Some(Value::None));
        assert_eq!(read_at(bytes, &[]).unwrap(), Some(read(bytes).unwrap()));
        assert_eq!((read_at(bytes, &["x"]).unwrap(), read_at(bytes, &["a", "b", "x"]).unwrap()), (None, None));
        assert!(read_at(&bytes[..bytes.len() - 1], &["c"]).is_err());
    }
}
