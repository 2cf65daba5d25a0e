//! Every foreign file: pickle, npy, npz, .pth, keypoint files.
//!
//! Files come from strangers: nothing in them runs, sizes are checked before memory is taken, and what is wrong with one is
//! said in one sentence that names it.

mod error;
mod state_dict;
mod tensor;
mod value;

pub use error::Error;
pub use half;
pub use state_dict::StateDict;
pub use tensor::{DType, Data, Tensor};
pub use value::Value;

/// Interim signatures: replaced within the hour.
pub mod pth {
    use crate::{Error, Value};
    use std::path::Path;
    /// Reads.
    pub fn read(_path: &Path) -> Result<Value, Error> { Err(Error::Content("not written yet".into())) }
    /// Writes.
    pub fn write(_path: &Path, _value: &Value) -> Result<(), Error> { Err(Error::Content("not written yet".into())) }
}
/// Interim signatures.
pub mod pickle {
    use crate::{Error, Value};
    /// Reads.
    pub fn read(_bytes: &[u8]) -> Result<Value, Error> { Err(Error::Content("not written yet".into())) }
}
/// Interim signatures.
pub mod npy {
    use crate::{Error, Tensor, Value};
    use std::path::Path;
    /// Reads.
    pub fn read(_path: &Path) -> Result<Tensor, Error> { Err(Error::Content("not written yet".into())) }
    /// Reads, also strings and objects.
    pub fn read_value(_path: &Path) -> Result<Value, Error> { Err(Error::Content("not written yet".into())) }
    /// Writes.
    pub fn write(_path: &Path, _tensor: &Tensor) -> Result<(), Error> { Err(Error::Content("not written yet".into())) }
}
/// Interim signatures.
pub mod npz {
    use crate::{Error, Tensor, Value};
    use std::{collections::BTreeMap, path::Path};
    /// Reads all members, which must be numbers.
    pub fn read(_path: &Path) -> Result<BTreeMap<String, Tensor>, Error> { Err(Error::Content("not written yet".into())) }
    /// Reads all members, also strings and objects.
    pub fn read_values(_path: &Path) -> Result<BTreeMap<String, Value>, Error> { Err(Error::Content("not written yet".into())) }
    /// Reads one member.
    pub fn get_value(_path: &Path, _name: &str) -> Result<Value, Error> { Err(Error::Content("not written yet".into())) }
    /// Writes tensors.
    pub fn write(_path: &Path, _members: &BTreeMap<String, Tensor>) -> Result<(), Error> { Err(Error::Content("not written yet".into())) }
    /// Writes tensors, numbers and strings.
    pub fn write_values(_path: &Path, _members: &[(&str, Value)]) -> Result<(), Error> { Err(Error::Content("not written yet".into())) }
}
