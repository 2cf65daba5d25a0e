//! numpy's element types and arrays.

use super::node::Id;
use crate::error::{Result, refuse};
use crate::strided;
use crate::tensor::{DType, Data, Tensor, element_count};
use crate::value::Value;

/// A numpy dtype: kind, size and byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ItemType {
    /// numpy's letter: f, i, u, b, U (text), S (bytes), O (object), others are not read.
    kind: u8,
    /// Bytes of an item.
    size: usize,
    big_endian: bool,
}

impl ItemType {
    /// A type such as `<f4`, `f4`, `|O`, `U12`. `None` if it is not of that form.
    pub fn parse(text: &str) -> Option<Self> {
        let (order, rest) = match text.as_bytes() {
            [b'<' | b'>' | b'|' | b'=', ..] => text.split_at(1),
            _ => ("|", text),
        };
        let (kind, size) = rest.split_at_checked(1)?;
        let kind = match kind.as_bytes() {
            [b'?'] => b'b',
            [letter] if letter.is_ascii_alphabetic() => *letter,
            _ => return None,
        };
        let count: usize = match (size, kind) {
            ("", b'O') => 8,
            ("", b'b') => 1,
            ("", _) => 0,
            _ => size.split('[').next()?.parse().ok()?, // 'M8[ns]'
        };
        let size = if kind == b'U' { count.checked_mul(4)? } else { count };
        Some(Self { kind, size, big_endian: false }.with_byte_order(order))
    }

    /// A type with fields, which is not read.
    pub fn record() -> Self {
        Self { kind: b'V', size: 0, big_endian: false }
    }

    pub fn with_byte_order(self, order: &str) -> Self {
        Self { big_endian: order == ">", ..self }
    }

    pub fn is_object(self) -> bool {
        self.kind == b'O'
    }

    pub fn is_text(self) -> bool {
        matches!(self.kind, b'U' | b'S')
    }

    /// Bytes of an item.
    pub fn size(self) -> usize {
        self.size
    }

    /// The element type that holds its numbers.
    pub fn dtype(self) -> Option<DType> {
        Some(match (self.kind, self.size) {
            (b'f', 8) => DType::F64,
            (b'f', 4) => DType::F32,
            (b'f', 2) => DType::F16,
            (b'i', 8) | (b'u', 4 | 8) => DType::I64,
            (b'i', 4) | (b'u', 2) => DType::I32,
            (b'i', 2) => DType::I16,
            (b'i', 1) => DType::I8,
            (b'u', 1) => DType::U8,
            (b'b', 1) => DType::Bool,
            _ => return None,
        })
    }

    /// numpy's name of the type without its byte order, such as `f4`.
    pub fn name(self) -> String {
        let count = if self.kind == b'U' { self.size / 4 } else { self.size };
        format!("{}{count}", char::from(self.kind))
    }

    /// Numbers out of their bytes.
    fn decode(self, bytes: &[u8]) -> Option<Data> {
        let big = self.big_endian;
        Some(match (self.kind, self.size) {
            (b'u', 2) => Data::I32(words::<2>(bytes, big).map(|w| u16::from_le_bytes(w).into()).collect()),
            (b'u', 4) => Data::I64(words::<4>(bytes, big).map(|w| u32::from_le_bytes(w).into()).collect()),
            (b'u', 8) => {
                let all: Vec<u64> = words::<8>(bytes, big).map(u64::from_le_bytes).collect();
                match all.iter().map(|x| i64::try_from(*x)).collect() {
                    Ok(fitting) => Data::I64(fitting),
                    Err(_) => Data::F64(all.into_iter().map(|x| x as f64).collect()),
                }
            }
            _ => Data::from_bytes(self.dtype()?, bytes, big),
        })
    }

    /// One string or byte string, without the zeros that pad it.
    fn decode_text(self, item: &[u8]) -> Value {
        if self.kind == b'S' {
            let end = item.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
            return Value::Bytes(item[..end].to_vec());
        }
        let text: String = words::<4>(item, self.big_endian)
            .map(|w| char::from_u32(u32::from_le_bytes(w)).unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect();
        Value::Str(text.trim_end_matches('\0').to_owned())
    }
}

/// Words of `N` bytes, turned to little endian.
fn words<const N: usize>(bytes: &[u8], big_endian: bool) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().map(move |word| {
        let mut word = *word;
        if big_endian {
            word.reverse();
        }
        word
    })
}

/// Where an array's items are.
#[derive(Debug)]
pub(super) enum ArrayData {
    /// Nothing yet: `_reconstruct` without its `BUILD`.
    None,
    /// A node of bytes, or a list of items.
    Node(Id),
}

/// A numpy array or scalar.
#[derive(Debug)]
pub(super) struct Array {
    pub item: ItemType,
    pub shape: Vec<usize>,
    /// In items.
    pub strides: Vec<usize>,
    pub data: ArrayData,
    /// A scalar is a plain number, an array of no axes is a tensor.
    pub scalar: bool,
}

impl Array {
    pub fn new(item: ItemType, shape: Vec<usize>, strides: Vec<usize>, data: ArrayData) -> Self {
        Self { item, shape, strides, data, scalar: false }
    }

    pub fn empty() -> Self {
        Self::new(ItemType::record(), vec![0], vec![1], ArrayData::None)
    }

    /// Values (list levels counted) and bytes that [`from_bytes`] will make.
    pub fn weight(&self) -> (u64, u64) {
        let count = element_count(&self.shape).map_or(u64::MAX, |n| n as u64);
        match self.item.dtype() {
            Some(dtype) => (1, count.saturating_mul(dtype.size() as u64)),
            None if self.item.is_text() => {
                let levels = self.shape.len().max(1) as u64;
                (count.saturating_mul(levels).saturating_add(1), count.saturating_mul(self.item.size() as u64))
            }
            None => (1, 0),
        }
    }
}

/// The array whose items are these bytes, where numbers become a tensor and text nested lists.
pub(crate) fn from_bytes(item: ItemType, bytes: &[u8], shape: &[usize], strides: &[usize]) -> Result<Value> {
    if item.dtype().is_none() && !item.is_text() {
        return Ok(Value::Object { class: "numpy.ndarray".into(), state: Box::new(Value::Str(item.name())) });
    }
    let expected = element_count(shape).and_then(|n| n.checked_mul(item.size()));
    if expected != Some(bytes.len()) {
        refuse!("an array of shape {shape:?} and type {} has {} bytes", item.name(), bytes.len());
    }
    let bytes = strided::gather(bytes, item.size(), 0, shape, strides)?;
    if let Some(data) = item.decode(&bytes) {
        return Ok(Value::Tensor(Tensor::new(shape, data)?));
    }
    let items = match item.size() {
        0 => vec![item.decode_text(&[]); element_count(shape).unwrap_or(0)],
        size => bytes.chunks_exact(size).map(|item_bytes| item.decode_text(item_bytes)).collect(),
    };
    Ok(nest(items, shape))
}

/// The array of these objects. numpy pickles them in row-major order even where the array itself is in Fortran order.
pub(super) fn from_items(items: Vec<Value>, shape: &[usize]) -> Result<Value> {
    if element_count(shape) != Some(items.len()) {
        refuse!("an array of shape {shape:?} has {} objects", items.len());
    }
    Ok(nest(items, shape))
}

/// Lists of lists of `shape`: the item itself for no axes. `items` has as many as the shape says; none makes one empty list.
fn nest(items: Vec<Value>, shape: &[usize]) -> Value {
    let mut level = items;
    if shape.contains(&0) {
        return Value::List(Vec::new());
    }
    for &length in shape.iter().skip(1).rev() {
        let mut rest = level.into_iter();
        let mut lists = Vec::new();
        loop {
            let list: Vec<Value> = rest.by_ref().take(length).collect();
            if list.is_empty() {
                break;
            }
            lists.push(Value::List(list));
        }
        level = lists;
    }
    match shape.len() {
        0 => level.pop().unwrap_or(Value::None),
        _ => Value::List(level),
    }
}

/// A tensor of one element as a plain number.
pub(super) fn scalar(array: Value) -> Value {
    match array {
        Value::Tensor(tensor) => match &tensor.data {
            Data::Bool(v) => v.first().map_or(Value::None, |b| Value::Bool(*b)),
            Data::F64(_) | Data::F32(_) | Data::F16(_) | Data::BF16(_) => tensor.to_f64().first().map_or(Value::None, |x| Value::Float(*x)),
            _ => tensor.to_i64().first().map_or(Value::None, |x| Value::Int(*x)),
        },
        other => other,
    }
}
