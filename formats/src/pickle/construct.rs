//! What a call in a pickle means: the few names that are interpreted, and an inert object for every other.

use super::{
    machine::Machine,
    node::{Id, Node, Object, View},
    numpy::{Array, ArrayData, ItemType},
};
use crate::error::{Result, refuse};
use crate::strided;
use crate::tensor::DType;
use std::{borrow::Cow, rc::Rc};

/// More axes than numpy (64) or torch allow are refused.
const MAX_AXES: usize = 64;

impl<'a> Machine<'a> {
    /// `class(*args)`, if it is known; else an object that remembers the call.
    pub(super) fn construct(&mut self, class: Id, args: Id) -> Result<Id> {
        let (mut callee, mut arguments) = (class, args);
        // a tensor with attributes is rebuilt through a second call: func(*args) of _rebuild_from_type_v2(func, type, args, state)
        if let (Node::Global(global), Node::Tuple(parts)) = (self.node(class), self.node(args))
            && (&*global.module, &*global.name) == ("torch._tensor", "_rebuild_from_type_v2")
            && let &[inner, _, inner_args, _] = &parts[..]
        {
            (callee, arguments) = (inner, inner_args);
        }
        match self.construct_known(callee, arguments)? {
            Some(id) => Ok(id),
            None => self.new_node(Node::Object(Box::new(Object { class, args, state: None, entries: Vec::new(), items: Vec::new() }))),
        }
    }

    fn construct_known(&mut self, class: Id, args: Id) -> Result<Option<Id>> {
        let (Node::Global(global), Node::Tuple(args)) = (self.node(class), self.node(args)) else { return Ok(None) };
        let count = args.len();
        // no known callable takes more; a copy, so that the arena can grow while they are read
        let args: Vec<Id> = args.iter().take(8).copied().collect();
        let module = match &*global.module {
            "numpy.core.multiarray" => "numpy._core.multiarray",
            "numpy.core.numeric" => "numpy._core.numeric",
            "__builtin__" => "builtins",
            "copy_reg" => "copyreg",
            other => other,
        };
        let node = match (module, &*global.name, &args[..]) {
            ("collections", "OrderedDict", []) | ("builtins", "dict", []) | ("collections", "defaultdict", [] | [_]) => {
                Node::Dict(Vec::new())
            }
            ("collections", "OrderedDict", [pairs]) | ("builtins", "dict", [pairs]) | ("collections", "defaultdict", [_, pairs]) => {
                match self.pairs(*pairs)? {
                    Some(entries) => Node::Dict(entries),
                    None => return Ok(None),
                }
            }
            ("builtins", "set" | "frozenset" | "list", []) => Node::List(Vec::new()),
            ("builtins", "tuple", []) => Node::Tuple(Vec::new()),
            ("builtins", "set" | "frozenset" | "list" | "tuple", [items]) => match self.node(*items) {
                Node::List(_) | Node::Tuple(_) => return Ok(Some(*items)),
                _ => return Ok(None),
            },
            ("builtins", "bytes" | "bytearray", []) => Node::Bytes(Cow::Borrowed(&[])),
            ("builtins", "bytes" | "bytearray", [bytes]) => match self.node(*bytes) {
                Node::Bytes(_) => return Ok(Some(*bytes)),
                _ => return Ok(None),
            },
            ("_codecs", "encode", [text]) => self.encode(*text, None)?,
            ("_codecs", "encode", [text, encoding]) | ("builtins", "bytes" | "bytearray", [text, encoding]) => {
                self.encode(*text, Some(*encoding))?
            }
            // protocols 0 and 1: an object of `class`, whose base class' content is `state`
            ("copyreg", "_reconstructor", [class, base, content]) => {
                let base_name = match self.node(*base) {
                    Node::Global(base) => base.name.to_string(),
                    _ => String::new(),
                };
                let args = self.new_node(Node::Tuple(Vec::new()))?;
                let mut object = Object { class: *class, args, state: None, entries: Vec::new(), items: Vec::new() };
                match base_name.as_str() {
                    "dict" => object.entries = self.pairs(*content)?.unwrap_or_default(),
                    "object" => {}
                    _ => object.state = Some(*content),
                }
                Node::Object(Box::new(object))
            }

            ("numpy", "dtype", [name, ..]) => match self.text(*name).and_then(ItemType::parse) {
                Some(item) => Node::ItemType(item),
                None => return Ok(None),
            },
            ("numpy._core.multiarray", "_reconstruct", [_, _, _]) => Node::Array(Box::new(Array::empty())),
            ("numpy._core.multiarray", "scalar", [item, data]) => match (self.node(*item), self.node(*data)) {
                (Node::ItemType(item), _) if item.is_object() => return Ok(Some(*data)),
                (Node::ItemType(item), Node::Bytes(_) | Node::ByteString(_)) => {
                    Node::Array(Box::new(Array { scalar: true, ..Array::new(*item, Vec::new(), Vec::new(), ArrayData::Node(*data)) }))
                }
                _ => return Ok(None),
            },
            // (buffer, dtype, shape, order[, order of axes])
            ("numpy._core.numeric", "_frombuffer", [data, item, shape, order, rest @ ..]) => {
                let (Node::ItemType(item), Some(shape), Node::Bytes(_) | Node::ByteString(_)) =
                    (self.node(*item), self.sizes(*shape), self.node(*data))
                else {
                    return Ok(None);
                };
                let (shape, strides) = match (self.text(*order), rest.first().and_then(|axes| self.sizes(*axes))) {
                    (Some("K"), Some(axes)) => transposed(&shape, &axes)?,
                    (Some("F"), _) => {
                        let strides = strided::column_major(&shape);
                        (shape, strides)
                    }
                    _ => {
                        let strides = strided::row_major(&shape);
                        (shape, strides)
                    }
                };
                Node::Array(Box::new(Array::new(*item, shape, strides, ArrayData::Node(*data))))
            }

            ("torch", "Size", [sizes]) => match self.node(*sizes) {
                Node::Tuple(_) => return Ok(Some(*sizes)),
                _ => return Ok(None),
            },
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2", [storage, offset, shape, strides, ..]) => {
                self.tensor(*storage, *offset, *shape, *strides, None)?
            }
            ("torch._utils", "_rebuild_tensor_v3", [storage, offset, shape, strides, _, _, item, ..]) => {
                let Node::Global(item) = self.node(*item) else { return Ok(None) };
                let Some(item) = torch_dtype(&item.name) else { return Ok(None) };
                self.tensor(*storage, *offset, *shape, *strides, Some(item))?
            }
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state", [tensor, ..]) if count >= 2 => {
                match self.node(*tensor) {
                    Node::Tensor(_) => return Ok(Some(*tensor)),
                    _ => return Ok(None),
                }
            }
            _ => return Ok(None),
        };
        self.new_node(node).map(Some)
    }

    /// The entries of a dictionary, or of a list of pairs.
    fn pairs(&mut self, id: Id) -> Result<Option<Vec<(Id, Id)>>> {
        let entries: Option<Vec<_>> = match self.node(id) {
            Node::Dict(entries) => Some(entries.clone()),
            Node::List(items) | Node::Tuple(items) => items
                .iter()
                .map(|item| match self.node(*item) {
                    Node::List(pair) | Node::Tuple(pair) => <[Id; 2]>::try_from(pair.as_slice()).ok().map(|[key, value]| (key, value)),
                    _ => None,
                })
                .collect(),
            _ => None,
        };
        self.charge(entries.as_ref().map_or(0, Vec::len) * size_of::<(Id, Id)>())?;
        Ok(entries)
    }

    /// `text.encode(encoding)`: how protocols 0 to 2 spell bytes.
    fn encode(&mut self, text: Id, encoding: Option<Id>) -> Result<Node<'a>> {
        let encoding: String = encoding.and_then(|id| self.text(id)).unwrap_or("utf-8").chars().take(16).collect();
        let Some(text) = self.text(text) else { refuse!("the pickle is malformed: it encodes something that is no text") };
        let size = text.len();
        let bytes = match encoding.to_ascii_lowercase().as_str() {
            "latin1" | "latin-1" | "iso-8859-1" => text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect::<Option<Vec<u8>>>(),
            "utf-8" | "utf8" => Some(text.as_bytes().to_vec()),
            "ascii" => text.is_ascii().then(|| text.as_bytes().to_vec()),
            _ => None,
        };
        let Some(bytes) = bytes else { refuse!("the pickle holds bytes in an encoding that does not fit them") };
        self.charge(size)?;
        Ok(Node::Bytes(bytes.into()))
    }

    /// A tuple or list of sizes.
    fn sizes(&self, id: Id) -> Option<Vec<usize>> {
        match self.node(id) {
            Node::Tuple(items) | Node::List(items) if items.len() <= MAX_AXES => items.iter().map(|item| self.size(*item)).collect(),
            _ => None,
        }
    }

    fn tensor(&mut self, storage: Id, offset: Id, shape: Id, strides: Id, dtype: Option<DType>) -> Result<Node<'a>> {
        let (Node::Storage(storage), Some(offset), Some(shape), Some(strides)) =
            (self.node(storage), self.size(offset), self.sizes(shape), self.sizes(strides))
        else {
            refuse!("the pickle is malformed: a tensor needs a storage, an offset, a shape and strides")
        };
        let Some(offset) = offset.checked_add(storage.offset) else { refuse!("a tensor lies outside of storage '{}'", storage.key) };
        Ok(Node::Tensor(Box::new(View { storage: Rc::clone(storage), dtype, offset, shape, strides })))
    }

    /// `object.__setstate__(state)`.
    pub(super) fn build(&mut self, object: Id, state: Id) -> Result<()> {
        match self.node(object) {
            Node::ItemType(item) => {
                // (version, byte order, subarray, names, ...)
                let Node::Tuple(parts) = self.node(state) else { refuse!("the pickle is malformed: the state of a numpy dtype") };
                let order = parts.get(1).and_then(|id| self.text(*id)).unwrap_or("|");
                let plain = parts.iter().skip(2).take(2).all(|id| matches!(self.node(*id), Node::None));
                let item = if plain { item.with_byte_order(order) } else { ItemType::record() };
                *self.node_mut(object) = Node::ItemType(item);
            }
            Node::Array(_) => {
                // ([version, ]shape, dtype, is_fortran, data)
                let Node::Tuple(parts) = self.node(state) else { refuse!("the pickle is malformed: the state of a numpy array") };
                let &[.., shape, item, fortran, data] = &parts[..] else { refuse!("the pickle is malformed: the state of a numpy array") };
                let Some(shape) = self.sizes(shape) else { refuse!("the pickle is malformed: the shape of a numpy array") };
                let item = match self.node(item) {
                    Node::ItemType(item) => *item,
                    _ => ItemType::record(),
                };
                let strides = match self.node(fortran) {
                    Node::Bool(true) | Node::Int(1) => strided::column_major(&shape),
                    _ => strided::row_major(&shape),
                };
                if !matches!(self.node(data), Node::Bytes(_) | Node::ByteString(_) | Node::List(_)) {
                    refuse!("the pickle is malformed: the data of a numpy array");
                }
                *self.node_mut(object) = Node::Array(Box::new(Array::new(item, shape, strides, ArrayData::Node(data))));
            }
            Node::Object(_) => {
                if let Node::Object(object) = self.node_mut(object) {
                    object.state = Some(state);
                }
            }
            // attributes of an OrderedDict (`_metadata` of a state dict), of a tensor, ...: nothing that is kept here
            _ => {}
        }
        Ok(())
    }
}

/// Shape and strides of `buffer.reshape(shape).transpose(axes)`.
fn transposed(shape: &[usize], axes: &[usize]) -> Result<(Vec<usize>, Vec<usize>)> {
    let strides = strided::row_major(shape);
    let mut sorted = axes.to_vec();
    sorted.sort_unstable();
    if !sorted.iter().copied().eq(0..shape.len()) {
        refuse!("the pickle is malformed: the axes {axes:?} of a numpy array of shape {shape:?}");
    }
    Ok((axes.iter().map(|&axis| shape[axis]).collect(), axes.iter().map(|&axis| strides[axis]).collect()))
}

fn torch_dtype(name: &str) -> Option<DType> {
    Some(match name {
        "float64" => DType::F64,
        "float32" => DType::F32,
        "float16" => DType::F16,
        "bfloat16" => DType::BF16,
        "int64" => DType::I64,
        "int32" => DType::I32,
        "int16" => DType::I16,
        "int8" => DType::I8,
        "uint8" => DType::U8,
        "bool" => DType::Bool,
        _ => return None,
    })
}
