//! The stack machine: opcodes in, a graph of nodes out. The opcodes are documented in CPython's `pickletools`.

use super::{
    Limits,
    node::{Global, Graph, Id, Node, StorageRef},
};
use crate::error::{Error, Result, refuse};
use crate::tensor::DType;
use std::{borrow::Cow, collections::HashMap, rc::Rc};

mod op {
    pub const MARK: u8 = b'(';
    pub const STOP: u8 = b'.';
    pub const POP: u8 = b'0';
    pub const POP_MARK: u8 = b'1';
    pub const DUP: u8 = b'2';
    pub const FLOAT: u8 = b'F';
    pub const INT: u8 = b'I';
    pub const BININT: u8 = b'J';
    pub const BININT1: u8 = b'K';
    pub const LONG: u8 = b'L';
    pub const BININT2: u8 = b'M';
    pub const NONE: u8 = b'N';
    pub const PERSID: u8 = b'P';
    pub const BINPERSID: u8 = b'Q';
    pub const REDUCE: u8 = b'R';
    pub const STRING: u8 = b'S';
    pub const BINSTRING: u8 = b'T';
    pub const SHORT_BINSTRING: u8 = b'U';
    pub const UNICODE: u8 = b'V';
    pub const BINUNICODE: u8 = b'X';
    pub const APPEND: u8 = b'a';
    pub const BUILD: u8 = b'b';
    pub const GLOBAL: u8 = b'c';
    pub const DICT: u8 = b'd';
    pub const EMPTY_DICT: u8 = b'}';
    pub const APPENDS: u8 = b'e';
    pub const GET: u8 = b'g';
    pub const BINGET: u8 = b'h';
    pub const INST: u8 = b'i';
    pub const LONG_BINGET: u8 = b'j';
    pub const LIST: u8 = b'l';
    pub const EMPTY_LIST: u8 = b']';
    pub const OBJ: u8 = b'o';
    pub const PUT: u8 = b'p';
    pub const BINPUT: u8 = b'q';
    pub const LONG_BINPUT: u8 = b'r';
    pub const SETITEM: u8 = b's';
    pub const TUPLE: u8 = b't';
    pub const EMPTY_TUPLE: u8 = b')';
    pub const SETITEMS: u8 = b'u';
    pub const BINFLOAT: u8 = b'G';
    // protocol 2
    pub const PROTO: u8 = 0x80;
    pub const NEWOBJ: u8 = 0x81;
    pub const EXT1: u8 = 0x82;
    pub const EXT4: u8 = 0x84;
    pub const TUPLE1: u8 = 0x85;
    pub const TUPLE3: u8 = 0x87;
    pub const NEWTRUE: u8 = 0x88;
    pub const NEWFALSE: u8 = 0x89;
    pub const LONG1: u8 = 0x8a;
    pub const LONG4: u8 = 0x8b;
    // protocol 3
    pub const BINBYTES: u8 = b'B';
    pub const SHORT_BINBYTES: u8 = b'C';
    // protocol 4
    pub const SHORT_BINUNICODE: u8 = 0x8c;
    pub const BINUNICODE8: u8 = 0x8d;
    pub const BINBYTES8: u8 = 0x8e;
    pub const EMPTY_SET: u8 = 0x8f;
    pub const ADDITEMS: u8 = 0x90;
    pub const FROZENSET: u8 = 0x91;
    pub const NEWOBJ_EX: u8 = 0x92;
    pub const STACK_GLOBAL: u8 = 0x93;
    pub const MEMOIZE: u8 = 0x94;
    pub const FRAME: u8 = 0x95;
    // protocol 5
    pub const BYTEARRAY8: u8 = 0x96;
    pub const NEXT_BUFFER: u8 = 0x97;
    pub const READONLY_BUFFER: u8 = 0x98;
}

/// The bytes of a pickle, read from front to back.
struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let Some(taken) = rest.get(..count) else {
            refuse!("the pickle ends early: {count} bytes are expected at byte {}, {} are left", self.at, rest.len());
        };
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| Error::content("the pickle ends early"))
    }

    fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// As many bytes as the next 1, 4 or 8 bytes say.
    fn counted(&mut self, width: usize) -> Result<&'a [u8]> {
        let count = match width {
            1 => u64::from(self.u8()?),
            4 => u64::from(self.u32()?),
            _ => u64::from_le_bytes(self.array()?),
        };
        self.take(usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// The text up to the next line feed, which is taken and dropped.
    fn line(&mut self) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let Some(length) = rest.iter().position(|b| *b == b'\n') else {
            refuse!("the pickle ends early, within the line at byte {}", self.at)
        };
        self.at += length + 1;
        Ok(&rest[..length])
    }

    fn text_line(&mut self) -> Result<&'a str> {
        let at = self.at;
        std::str::from_utf8(self.line()?).map_err(|_| Error::content(format!("the pickle has a line that is no text at byte {at}")))
    }
}

/// Runs the pickle at the start of `bytes`.
pub(crate) fn run(bytes: &[u8], limits: Limits) -> Result<Graph<'_>> {
    let mut machine = Machine {
        input: Input { bytes, at: 0 },
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        spare_bytes: limits.bytes,
        limits,
    };
    loop {
        let at = machine.input.at;
        let op = machine.input.u8()?;
        if op == op::STOP {
            let root = machine.pop()?;
            return Ok(Graph { root, consumed: machine.input.at, nodes: machine.nodes });
        }
        machine.step(op, at)?;
    }
}

pub(super) struct Machine<'a> {
    input: Input<'a>,
    nodes: Vec<Node<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack at its open marks.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
    /// Bytes that may still be copied out of existing nodes.
    spare_bytes: u64,
    limits: Limits,
}

impl<'a> Machine<'a> {
    pub(super) fn new_node(&mut self, node: Node<'a>) -> Result<Id> {
        let index = self.nodes.len() as u64;
        // a node takes at least a byte of input, so this bounds memory on 64 bit machines and keeps the index within u32
        if index >= self.limits.values {
            refuse!("the pickle holds more than {} objects", self.limits.values);
        }
        self.nodes.push(node);
        Ok(Id(index as u32))
    }

    pub(super) fn node(&self, id: Id) -> &Node<'a> {
        &self.nodes[id.index()]
    }

    pub(super) fn node_mut(&mut self, id: Id) -> &mut Node<'a> {
        &mut self.nodes[id.index()]
    }

    /// Accounts for a copy of something that another node keeps, so that a small pickle cannot copy one large string for ever.
    pub(super) fn charge(&mut self, bytes: usize) -> Result<()> {
        match self.spare_bytes.checked_sub(bytes as u64) {
            Some(left) => self.spare_bytes = left,
            None => refuse!("the pickle grows beyond {} bytes, far more than its file: refused", self.limits.bytes),
        }
        Ok(())
    }

    fn push(&mut self, node: Node<'a>) -> Result<()> {
        let id = self.new_node(node)?;
        self.stack.push(id);
        Ok(())
    }

    /// Items of the stack above its newest mark.
    fn available(&self) -> usize {
        self.stack.len() - self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Id> {
        match self.stack.pop() {
            Some(id) if self.stack.len() >= self.marks.last().copied().unwrap_or(0) => Ok(id),
            _ => refuse!("the pickle is malformed: it takes from an empty stack before byte {}", self.input.at),
        }
    }

    fn top(&self) -> Result<Id> {
        match self.stack.last() {
            Some(id) if self.available() > 0 => Ok(*id),
            _ => refuse!("the pickle is malformed: it needs an object on an empty stack before byte {}", self.input.at),
        }
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>> {
        match self.marks.pop() {
            Some(height) => Ok(self.stack.split_off(height)),
            None => refuse!("the pickle is malformed: it closes a mark that it did not open before byte {}", self.input.at),
        }
    }

    fn pop_entries(&mut self) -> Result<Vec<(Id, Id)>> {
        let flat = self.pop_mark()?;
        if !flat.len().is_multiple_of(2) {
            refuse!("the pickle is malformed: a key without a value before byte {}", self.input.at);
        }
        Ok(flat.as_chunks::<2>().0.iter().map(|[key, value]| (*key, *value)).collect())
    }

    fn memoize(&mut self, key: u64) -> Result<()> {
        let id = self.top()?;
        self.memo.insert(key, id);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Result<()> {
        let Some(id) = self.memo.get(&key) else { refuse!("the pickle is malformed: it recalls object {key}, which it did not keep") };
        self.stack.push(*id);
        Ok(())
    }

    /// Text of the wrong encoding is kept as far as it can be read: names matter, damaged labels do not.
    fn push_text(&mut self, bytes: &'a [u8]) -> Result<()> {
        self.push(Node::Str(String::from_utf8_lossy(bytes)))
    }

    fn push_global(&mut self, module: Cow<'a, str>, name: Cow<'a, str>) -> Result<()> {
        self.push(Node::Global(Box::new(Global { module, name })))
    }

    fn push_long(&mut self, bytes: &'a [u8]) -> Result<()> {
        if bytes.len() > 8 {
            return self.push(Node::BigInt(bytes));
        }
        let sign = if bytes.last().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
        let mut extended = [sign; 8];
        extended[..bytes.len()].copy_from_slice(bytes);
        self.push(Node::Int(i64::from_le_bytes(extended)))
    }

    fn step(&mut self, op: u8, at: usize) -> Result<()> {
        match op {
            op::PROTO => {
                let version = self.input.u8()?;
                if version > 5 {
                    refuse!("the pickle is of protocol {version}; protocols 0 to 5 are read");
                }
            }
            op::FRAME => {
                self.input.take(8)?; // its length, a hint for buffering
            }
            op::MARK => self.marks.push(self.stack.len()),
            op::POP => {
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            op::POP_MARK => {
                self.pop_mark()?;
            }
            op::DUP => {
                let id = self.top()?;
                self.stack.push(id);
            }

            op::NONE => self.push(Node::None)?,
            op::NEWTRUE => self.push(Node::Bool(true))?,
            op::NEWFALSE => self.push(Node::Bool(false))?,
            op::BININT => {
                let value = i32::from_le_bytes(self.input.array()?);
                self.push(Node::Int(value.into()))?;
            }
            op::BININT1 => {
                let value = self.input.u8()?;
                self.push(Node::Int(value.into()))?;
            }
            op::BININT2 => {
                let value = self.input.u16()?;
                self.push(Node::Int(value.into()))?;
            }
            op::INT | op::LONG => {
                let line = self.input.text_line()?.trim();
                let node = match line {
                    "00" if op == op::INT => Node::Bool(false),
                    "01" if op == op::INT => Node::Bool(true),
                    _ => match line.trim_end_matches('L').parse() {
                        Ok(value) => Node::Int(value),
                        Err(_) => refuse!("the pickle has no integer of 64 bits at byte {at}"),
                    },
                };
                self.push(node)?;
            }
            op::LONG1 => {
                let bytes = self.input.counted(1)?;
                self.push_long(bytes)?;
            }
            op::LONG4 => {
                let bytes = self.input.counted(4)?;
                self.push_long(bytes)?;
            }
            op::BINFLOAT => {
                let value = f64::from_be_bytes(self.input.array()?);
                self.push(Node::Float(value))?;
            }
            op::FLOAT => {
                let Ok(value) = self.input.text_line()?.trim().parse() else { refuse!("the pickle has no number at byte {at}") };
                self.push(Node::Float(value))?;
            }

            op::SHORT_BINUNICODE => {
                let text = self.input.counted(1)?;
                self.push_text(text)?;
            }
            op::BINUNICODE => {
                let text = self.input.counted(4)?;
                self.push_text(text)?;
            }
            op::BINUNICODE8 => {
                let text = self.input.counted(8)?;
                self.push_text(text)?;
            }
            op::UNICODE => {
                let text = unescape_unicode(self.input.line()?);
                self.push(Node::Str(text.into()))?;
            }
            op::STRING => {
                let bytes = unescape_string(self.input.line()?);
                self.push(Node::ByteString(bytes.into()))?;
            }
            op::SHORT_BINSTRING | op::BINSTRING => {
                let bytes = self.input.counted(if op == op::BINSTRING { 4 } else { 1 })?;
                self.push(Node::ByteString(bytes.into()))?;
            }
            op::SHORT_BINBYTES | op::BINBYTES | op::BINBYTES8 | op::BYTEARRAY8 => {
                let width = match op {
                    op::SHORT_BINBYTES => 1,
                    op::BINBYTES => 4,
                    _ => 8,
                };
                let bytes = self.input.counted(width)?;
                self.push(Node::Bytes(bytes.into()))?;
            }
            op::NEXT_BUFFER | op::READONLY_BUFFER => {
                refuse!("the pickle keeps data outside of it (out-of-band buffers): save it with pickle.dump alone")
            }

            op::EMPTY_LIST | op::EMPTY_SET => self.push(Node::List(Vec::new()))?,
            op::EMPTY_TUPLE => self.push(Node::Tuple(Vec::new()))?,
            op::EMPTY_DICT => self.push(Node::Dict(Vec::new()))?,
            op::LIST | op::FROZENSET => {
                let items = self.pop_mark()?;
                self.push(Node::List(items))?;
            }
            op::TUPLE => {
                let items = self.pop_mark()?;
                self.push(Node::Tuple(items))?;
            }
            op::TUPLE1..=op::TUPLE3 => {
                let count = usize::from(op - op::TUPLE1) + 1;
                if self.available() < count {
                    refuse!("the pickle is malformed: a tuple of {count} from {} objects at byte {at}", self.available());
                }
                let items = self.stack.split_off(self.stack.len() - count);
                self.push(Node::Tuple(items))?;
            }
            op::DICT => {
                let entries = self.pop_entries()?;
                self.push(Node::Dict(entries))?;
            }
            op::APPEND => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            op::APPENDS | op::ADDITEMS => {
                let items = self.pop_mark()?;
                self.append(items)?;
            }
            op::SETITEM => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(vec![(key, value)])?;
            }
            op::SETITEMS => {
                let entries = self.pop_entries()?;
                self.set_items(entries)?;
            }

            op::GET => {
                let key = self.memo_key(at)?;
                self.recall(key)?;
            }
            op::BINGET => {
                let key = self.input.u8()?;
                self.recall(key.into())?;
            }
            op::LONG_BINGET => {
                let key = self.input.u32()?;
                self.recall(key.into())?;
            }
            op::PUT => {
                let key = self.memo_key(at)?;
                self.memoize(key)?;
            }
            op::BINPUT => {
                let key = self.input.u8()?;
                self.memoize(key.into())?;
            }
            op::LONG_BINPUT => {
                let key = self.input.u32()?;
                self.memoize(key.into())?;
            }
            op::MEMOIZE => self.memoize(self.memo.len() as u64)?,

            op::GLOBAL => {
                let module = self.input.text_line()?;
                let name = self.input.text_line()?;
                self.push_global(module.into(), name.into())?;
            }
            op::STACK_GLOBAL => {
                let name = self.pop()?;
                let module = self.pop()?;
                let (Node::Str(module), Node::Str(name)) = (self.node(module), self.node(name)) else {
                    refuse!("the pickle is malformed: a class whose name is no text at byte {at}")
                };
                let (module, name) = (module.clone(), name.clone());
                self.charge(module.len() + name.len())?;
                self.push_global(module, name)?;
            }
            op::REDUCE | op::NEWOBJ => {
                let args = self.pop()?;
                let class = self.pop()?;
                let object = self.construct(class, args)?;
                self.stack.push(object);
            }
            op::NEWOBJ_EX => {
                self.pop()?; // keyword arguments
                let args = self.pop()?;
                let class = self.pop()?;
                let object = self.construct(class, args)?;
                self.stack.push(object);
            }
            op::INST => {
                let module = self.input.text_line()?;
                let name = self.input.text_line()?;
                let args = self.pop_mark()?;
                let args = self.new_node(Node::Tuple(args))?;
                let class = self.new_node(Node::Global(Box::new(Global { module: module.into(), name: name.into() })))?;
                let object = self.construct(class, args)?;
                self.stack.push(object);
            }
            op::OBJ => {
                let mut args = self.pop_mark()?;
                if args.is_empty() {
                    refuse!("the pickle is malformed: an object without a class at byte {at}");
                }
                let class = args.remove(0);
                let args = self.new_node(Node::Tuple(args))?;
                let object = self.construct(class, args)?;
                self.stack.push(object);
            }
            op::BUILD => {
                let state = self.pop()?;
                let object = self.top()?;
                self.build(object, state)?;
            }
            op::BINPERSID => {
                let id = self.pop()?;
                let object = self.persistent(id)?;
                self.stack.push(object);
            }
            op::PERSID => refuse!("the pickle refers to something outside of it at byte {at}"),
            op::EXT1..=op::EXT4 => refuse!("the pickle uses the extension registry of the program that wrote it, at byte {at}"),
            _ => refuse!("the pickle has an unknown instruction 0x{op:02x} at byte {at}: this is no pickle, or a damaged one"),
        }
        Ok(())
    }

    fn memo_key(&mut self, at: usize) -> Result<u64> {
        self.input.text_line()?.trim().parse().map_err(|_| Error::content(format!("the pickle is malformed: no number at byte {at}")))
    }

    fn append(&mut self, new: Vec<Id>) -> Result<()> {
        let list = self.top()?;
        match self.node_mut(list) {
            Node::List(items) => items.extend(new),
            Node::Object(object) => object.items.extend(new),
            _ => refuse!("the pickle is malformed: it appends to something that is no list before byte {}", self.input.at),
        }
        Ok(())
    }

    fn set_items(&mut self, new: Vec<(Id, Id)>) -> Result<()> {
        let dict = self.top()?;
        match self.node_mut(dict) {
            Node::Dict(entries) => entries.extend(new),
            Node::Object(object) => object.entries.extend(new),
            _ => refuse!("the pickle is malformed: it sets an entry of something that is no dictionary before byte {}", self.input.at),
        }
        Ok(())
    }

    /// Torch's reference to what lies outside of the pickle: `('storage', type, key, location, elements[, view])`, in legacy
    /// files also `('module', class, file, source)`.
    fn persistent(&mut self, id: Id) -> Result<Id> {
        let Node::Tuple(parts) = self.node(id) else { refuse!("the pickle refers to something unknown outside of it") };
        let kind = parts.first().and_then(|id| self.text(*id));
        match (kind, &parts[..]) {
            (Some("module"), [_, class, ..]) => Ok(*class),
            (Some("storage"), [_, class, key, _, elements, rest @ ..]) => {
                let (Node::Global(class), Some(key), Some(elements)) = (self.node(*class), self.text(*key), self.size(*elements)) else {
                    refuse!("the pickle is malformed: a storage needs a type, a key and a number of elements")
                };
                let mut storage = StorageRef {
                    key: key.to_owned(),
                    dtype: storage_type(&class.name),
                    type_name: class.name.to_string(),
                    elements,
                    offset: 0,
                };
                // legacy: (key of the view, offset, elements) of a part of the storage
                if let Some(Node::Tuple(view)) = rest.first().map(|id| self.node(*id)) {
                    let &[_, offset, elements] = &view[..] else { refuse!("the pickle is malformed: a view of storage '{key}'") };
                    let (Some(offset), Some(elements)) = (self.size(offset), self.size(elements)) else {
                        refuse!("the pickle is malformed: a view of storage '{key}'")
                    };
                    let end = offset.checked_add(elements);
                    if end.is_none_or(|end| end > storage.elements) {
                        refuse!("a view of storage '{key}' lies outside of it");
                    }
                    storage.offset = offset;
                }
                self.charge(storage.key.len() + storage.type_name.len())?;
                self.new_node(Node::Storage(Rc::new(storage)))
            }
            _ => refuse!("the pickle refers to something unknown outside of it"),
        }
    }

    /// The text of a string node; a Python 2 string only if it is short, since it is looked through at each call.
    pub(super) fn text(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Str(text) => Some(text),
            Node::ByteString(bytes) if bytes.len() <= 4096 => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// A number that is a size.
    pub(super) fn size(&self, id: Id) -> Option<usize> {
        match self.node(id) {
            Node::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        }
    }
}

/// Torch's storage classes by name, on whatever device they were.
fn storage_type(name: &str) -> Option<DType> {
    Some(match name {
        "DoubleStorage" => DType::F64,
        "FloatStorage" => DType::F32,
        "HalfStorage" => DType::F16,
        "BFloat16Storage" => DType::BF16,
        "LongStorage" => DType::I64,
        "IntStorage" => DType::I32,
        "ShortStorage" => DType::I16,
        "CharStorage" => DType::I8,
        "ByteStorage" | "UntypedStorage" => DType::U8,
        "BoolStorage" => DType::Bool,
        _ => return None,
    })
}

/// Protocol 0 text: Latin-1 with `\uXXXX` and `\UXXXXXXXX`.
fn unescape_unicode(line: &[u8]) -> String {
    let mut out = String::with_capacity(line.len());
    let mut at = 0;
    while at < line.len() {
        let digits = match line[at..] {
            [b'\\', b'u', ..] => 4,
            [b'\\', b'U', ..] => 8,
            _ => 0,
        };
        let hex = line.get(at + 2..at + 2 + digits).filter(|_| digits > 0).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u32::from_str_radix(hex, 16).ok()) {
            Some(code) => {
                out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                at += 2 + digits;
            }
            None => {
                out.push(char::from(line[at]));
                at += 1;
            }
        }
    }
    out
}

/// Protocol 0 `str` of Python 2: its `repr`, quotes and backslashes included.
fn unescape_string(line: &[u8]) -> Vec<u8> {
    let line = line.trim_ascii();
    let inner = match line {
        [open @ (b'\'' | b'"'), inner @ .., close] if open == close => inner,
        _ => line,
    };
    let mut out = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        match bytes.next() {
            Some(b'n') => out.push(b'\n'),
            Some(b'r') => out.push(b'\r'),
            Some(b't') => out.push(b'\t'),
            Some(b'x') => {
                let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16)).unwrap_or(0) as u8;
                let high = digit(bytes.next());
                out.push(high << 4 | digit(bytes.next()));
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
    out
}
