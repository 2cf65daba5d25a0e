//! PyTorch checkpoints, without PyTorch.
//!
//! Read are the zip files of torch 1.6 and later and the older ones (three small pickles, the object, then the raw storages):
//! nested dictionaries, strided views, bf16 and f16, either byte order. Unknown classes inside (EasyDict, `argparse.Namespace`)
//! stay data, see [`Value::Object`]; nothing runs.
//!
//! Written are zip files that `torch.load(path, weights_only=True)` reads: uncompressed, every storage aligned to 64 bytes.
//! A dictionary of tensors by name becomes an `OrderedDict`, as torch's own state dicts are. Optimizer states keep the layout
//! that `load_state_dict` expects (`{'state': {0: {...}}, 'param_groups': [{..., 'params': [0, ...]}]}`) because integers,
//! floats and integer keys stay what they are.

mod read;
mod write;

use crate::aside::write_aside;
use crate::error::Error;
use crate::value::Value;
use std::path::Path;

/// Reads a checkpoint. Tensors are copied out of their storages, in row-major order.
///
/// # Errors
/// One sentence with the file's name: no such file; empty, truncated or damaged; a text file, an HTML page, a Git LFS pointer,
/// a TorchScript archive, a safetensors file; a tensor outside of its storage; a pickle that [`crate::pickle::read`] refuses.
pub fn read(path: &Path) -> Result<Value, Error> {
    read::read(path).map_err(|error| error.in_file(path))
}

/// Writes a checkpoint aside, then renames it: a full disk leaves the old file as it was.
///
/// # Errors
/// If the value holds an [`Value::Object`], which `weights_only=True` would refuse, or if the file cannot be written.
pub fn write(path: &Path, value: &Value) -> Result<(), Error> {
    write_aside(path, |out| write::write(out, value))
}
