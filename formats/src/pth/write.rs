//! Writing: a pickle of protocol 2 from the opcodes that `weights_only=True` knows, and one member for each tensor.

use crate::archive::Writer;
use crate::error::{Error, Result, refuse};
use crate::strided::row_major;
use crate::tensor::{DType, Tensor};
use crate::value::Value;
use std::{fs::File, io::BufWriter};

/// The folder inside the archive; torch accepts any one name.
const FOLDER: &str = "archive";

pub(super) fn write(out: &mut BufWriter<File>, value: &Value) -> Result<()> {
    let mut pickle = Pickle { bytes: vec![0x80, 2], tensors: Vec::new() };
    pickle.value(value)?;
    pickle.bytes.push(b'.');

    let mut zip = Writer::new(out);
    zip.store(&format!("{FOLDER}/data.pkl"), pickle.bytes.len(), |out| out.write_all(&pickle.bytes))?;
    zip.store(&format!("{FOLDER}/byteorder"), 6, |out| out.write_all(b"little"))?;
    for (key, tensor) in pickle.tensors.iter().enumerate() {
        let bytes = tensor.len() * tensor.dtype().size();
        zip.store(&format!("{FOLDER}/data/{key}"), bytes, |out| tensor.data.write_le(out))?;
    }
    zip.store(&format!("{FOLDER}/version"), 2, |out| out.write_all(b"3\n"))?;
    zip.finish()
}

/// The pickle as it grows, and the tensors in the order of their storage keys.
struct Pickle<'v> {
    bytes: Vec<u8>,
    tensors: Vec<&'v Tensor>,
}

impl<'v> Pickle<'v> {
    fn value(&mut self, value: &'v Value) -> Result<()> {
        match value {
            Value::None => self.bytes.push(b'N'),
            Value::Bool(value) => self.bytes.push(if *value { 0x88 } else { 0x89 }),
            Value::Int(value) => self.int(*value),
            Value::Float(value) => {
                self.bytes.push(b'G');
                self.bytes.extend(value.to_be_bytes());
            }
            Value::Str(text) => self.text(text)?,
            Value::Bytes(bytes) => {
                // as Python does it: bytes have no opcode in protocol 2
                self.global("_codecs", "encode");
                self.bytes.push(b'(');
                self.text(&bytes.iter().map(|b| char::from(*b)).collect::<String>())?;
                self.text("latin1")?;
                self.bytes.extend(b"tR");
            }
            Value::List(items) => {
                self.bytes.extend(b"](");
                items.iter().try_for_each(|item| self.value(item))?;
                self.bytes.push(b'e');
            }
            Value::Tuple(items) => {
                self.bytes.push(b'(');
                items.iter().try_for_each(|item| self.value(item))?;
                self.bytes.push(b't');
            }
            Value::Dict(entries) => {
                let is_state_dict = !entries.is_empty() && entries.iter().all(|entry| matches!(entry, (Value::Str(_), Value::Tensor(_))));
                if is_state_dict {
                    self.ordered_dict();
                } else {
                    self.bytes.push(b'}');
                }
                self.bytes.push(b'(');
                for (key, value) in entries {
                    self.value(key)?;
                    self.value(value)?;
                }
                self.bytes.push(b'u');
            }
            Value::Tensor(tensor) => self.tensor(tensor)?,
            Value::Object { class, .. } => {
                refuse!(
                    "cannot be written: the value holds a Python object of class {class}, which torch.load(weights_only=True) refuses; store plain dictionaries instead"
                )
            }
        }
        Ok(())
    }

    fn int(&mut self, value: i64) {
        match i32::try_from(value) {
            Ok(value) => {
                self.bytes.push(b'J');
                self.bytes.extend(value.to_le_bytes());
            }
            Err(_) => {
                self.bytes.extend([0x8a, 8]);
                self.bytes.extend(value.to_le_bytes());
            }
        }
    }

    fn text(&mut self, text: &str) -> Result<()> {
        let Ok(length) = u32::try_from(text.len()) else { refuse!("cannot be written: a text of {} bytes", text.len()) };
        self.bytes.push(b'X');
        self.bytes.extend(length.to_le_bytes());
        self.bytes.extend(text.as_bytes());
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) {
        self.bytes.extend(format!("c{module}\n{name}\n").bytes());
    }

    fn ordered_dict(&mut self) {
        self.global("collections", "OrderedDict");
        self.bytes.extend(b")R");
    }

    fn sizes(&mut self, sizes: &[usize]) -> Result<()> {
        self.bytes.push(b'(');
        for size in sizes {
            let Ok(size) = i64::try_from(*size) else { refuse!("cannot be written: a tensor axis of {size}") };
            self.int(size);
        }
        self.bytes.push(b't');
        Ok(())
    }

    /// `_rebuild_tensor_v2(persistent_load(('storage', type, key, 'cpu', elements)), 0, shape, strides, False, OrderedDict())`
    fn tensor(&mut self, tensor: &'v Tensor) -> Result<()> {
        if crate::tensor::element_count(&tensor.shape) != Some(tensor.len()) {
            return Err(Error::content(format!("cannot be written: a tensor of shape {:?} with {} elements", tensor.shape, tensor.len())));
        }
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.bytes.extend(b"((");
        self.text("storage")?;
        self.global("torch", storage_name(tensor.dtype()));
        self.text(&self.tensors.len().to_string())?;
        self.text("cpu")?;
        self.int(tensor.len() as i64);
        self.bytes.extend(b"tQ");
        self.int(0);
        self.sizes(&tensor.shape)?;
        self.sizes(&row_major(&tensor.shape))?;
        self.bytes.push(0x89); // requires_grad
        self.ordered_dict(); // backward hooks
        self.bytes.extend(b"tR");
        self.tensors.push(tensor);
        Ok(())
    }
}

fn storage_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F64 => "DoubleStorage",
        DType::F32 => "FloatStorage",
        DType::F16 => "HalfStorage",
        DType::BF16 => "BFloat16Storage",
        DType::I64 => "LongStorage",
        DType::I32 => "IntStorage",
        DType::I16 => "ShortStorage",
        DType::I8 => "CharStorage",
        DType::U8 => "ByteStorage",
        DType::Bool => "BoolStorage",
    }
}
