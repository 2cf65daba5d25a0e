//! What the machine builds: a graph of nodes in one vector. References are indices, so sharing costs nothing, a cycle leaks
//! nothing, and dropping a deep structure needs no stack.

use super::numpy::{Array, ItemType};
use crate::tensor::DType;
use std::{borrow::Cow, rc::Rc};

/// Index of a node in its [`Graph`]; only [`super::machine`] makes them, from nodes that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id(pub(super) u32);

impl Id {
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Debug)]
pub(super) enum Node<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// Little-endian two's complement, more than 8 bytes.
    BigInt(&'a [u8]),
    Float(f64),
    Str(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
    /// A `str` of Python 2: text or bytes.
    ByteString(Cow<'a, [u8]>),
    /// Lists and sets.
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Box<Global<'a>>),
    ItemType(ItemType),
    Array(Box<Array>),
    Storage(Rc<StorageRef>),
    Tensor(Box<View>),
    Object(Box<Object>),
}

/// A class or function by name.
#[derive(Debug)]
pub(super) struct Global<'a> {
    pub module: Cow<'a, str>,
    pub name: Cow<'a, str>,
}

/// The call of something unknown, and what was done to its result.
#[derive(Debug)]
pub(super) struct Object {
    pub class: Id,
    /// Arguments of the call, a tuple.
    pub args: Id,
    /// Argument of `BUILD`.
    pub state: Option<Id>,
    /// Entries of a dict subclass.
    pub entries: Vec<(Id, Id)>,
    /// Items of a list subclass.
    pub items: Vec<Id>,
}

/// Torch's name for a run of elements outside of the pickle.
#[derive(Debug)]
pub(crate) struct StorageRef {
    pub key: String,
    /// `None` for a type that is not read (complex, quantised).
    pub dtype: Option<DType>,
    /// Name of the type in torch, such as `FloatStorage`.
    pub type_name: String,
    /// Elements in the storage.
    pub elements: usize,
    /// Where this view of the storage begins (legacy files), in elements.
    pub offset: usize,
}

/// A strided view of a storage.
#[derive(Debug)]
pub(super) struct View {
    pub storage: Rc<StorageRef>,
    /// The tensor's own type, where the storage is untyped.
    pub dtype: Option<DType>,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// A finished pickle.
#[derive(Debug)]
pub(crate) struct Graph<'a> {
    pub(super) nodes: Vec<Node<'a>>,
    pub(super) root: Id,
    /// Bytes of input that the pickle took.
    pub consumed: usize,
}

impl<'a> Graph<'a> {
    /// The value under a key of the root, if the root is a dictionary.
    pub fn child(&self, key: &str) -> Option<Id> {
        let entries = match &self.nodes[self.root.index()] {
            Node::Dict(entries) => entries,
            Node::Object(object) => &object.entries,
            _ => return None,
        };
        let named = |id: Id| matches!(&self.nodes[id.index()], Node::Str(text) if text == key);
        entries.iter().rev().find(|(name, _)| named(*name)).map(|(_, value)| *value)
    }

    /// All storages that the pickle names.
    pub fn storages(&self) -> impl Iterator<Item = &StorageRef> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Storage(storage) => Some(&**storage),
            _ => None,
        })
    }
}
