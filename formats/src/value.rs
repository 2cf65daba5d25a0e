//! A Python object as plain data.

use crate::tensor::Tensor;

/// What a pickle describes, as a tree of plain data. Nothing in it can run.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `None`.
    None,
    /// `True`, `False`, and numpy's scalar of that type.
    Bool(bool),
    /// An integer of Python or numpy; one beyond 64 bits is an `Object` of class `int`.
    Int(i64),
    /// A float of Python or numpy.
    Float(f64),
    /// A string.
    Str(String),
    /// `bytes` or `bytearray`.
    Bytes(Vec<u8>),
    /// A list, a set, a numpy array of strings or of objects (nested lists where it has several axes).
    List(Vec<Value>),
    /// A tuple; also `torch.Size`.
    Tuple(Vec<Value>),
    /// `dict`, `OrderedDict`, `defaultdict`, in order; each key once.
    Dict(Vec<(Value, Value)>),
    /// A torch tensor or a numpy array of numbers.
    Tensor(Tensor),
    /// Anything else, inert. `state` is what the pickle says about it: its dictionary (the entries of a dict subclass
    /// and the attributes, merged: EasyDict, Namespace), else its list, else the arguments of its constructor as a tuple,
    /// else `None` (a class or function that is merely named).
    Object {
        /// Module and name, such as `easydict.EasyDict`.
        class: String,
        /// What the pickle says about it.
        state: Box<Value>,
    },
}

impl Value {
    /// A string.
    pub fn str(text: impl Into<String>) -> Self {
        Self::Str(text.into())
    }

    /// A dictionary with string keys.
    pub fn dict<K: Into<String>>(entries: impl IntoIterator<Item = (K, Value)>) -> Self {
        Self::Dict(entries.into_iter().map(|(k, v)| (Self::Str(k.into()), v)).collect())
    }

    /// The value under a string key, in a dictionary or in an object's dictionary (EasyDict, Namespace).
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries().iter().rev().find(|(k, _)| k.as_str() == Some(key)).map(|(_, v)| v)
    }

    /// The entries of a dictionary or of an object's dictionary, in order; empty for everything else.
    pub fn entries(&self) -> &[(Value, Value)] {
        match self {
            Self::Dict(entries) => entries,
            Self::Object { state, .. } => match state.as_ref() {
                Self::Dict(entries) => entries,
                _ => &[],
            },
            _ => &[],
        }
    }

    /// The items of a list or a tuple; `None` for everything else.
    pub fn items(&self) -> Option<&[Value]> {
        match self {
            Self::List(items) | Self::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// The integer, also out of a tensor of one integer element.
    pub fn as_i64(&self) -> Option<i64> {
        use crate::tensor::Data::{Bool, I8, I16, I32, I64, U8};
        match self {
            Self::Int(i) => Some(*i),
            Self::Tensor(t) if t.len() == 1 && matches!(t.data, I64(_) | I32(_) | I16(_) | I8(_) | U8(_) | Bool(_)) => {
                t.to_i64().first().copied()
            }
            _ => None,
        }
    }

    /// The number, also an integer, also out of a tensor of one element.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Float(f) => Some(*f),
            Self::Int(i) => Some(*i as f64),
            Self::Tensor(t) if t.len() == 1 => t.to_f64().first().copied(),
            _ => None,
        }
    }

    /// The string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(s) => Some(s),
            _ => None,
        }
    }

    /// The boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// The tensor.
    pub fn as_tensor(&self) -> Option<&Tensor> {
        match self {
            Self::Tensor(t) => Some(t),
            _ => None,
        }
    }

    /// What this is, for an error message: "a tensor of shape [2, 3]", "a dictionary", ...
    pub fn describe(&self) -> String {
        match self {
            Self::None => "None".into(),
            Self::Bool(_) => "a boolean".into(),
            Self::Int(_) => "an integer".into(),
            Self::Float(_) => "a number".into(),
            Self::Str(_) => "a string".into(),
            Self::Bytes(_) => "bytes".into(),
            Self::List(items) => format!("a list of {}", items.len()),
            Self::Tuple(items) => format!("a tuple of {}", items.len()),
            Self::Dict(entries) => format!("a dictionary of {}", entries.len()),
            Self::Tensor(t) => format!("a tensor of shape {:?}", t.shape),
            Self::Object { class, .. } => format!("a Python object of class {class}"),
        }
    }
}

macro_rules! from {
    ($($t:ty => $variant:ident),*) => { $(impl From<$t> for Value { fn from(x: $t) -> Self { Self::$variant(x.into()) } })* };
}
from!(bool => Bool, i64 => Int, i32 => Int, u32 => Int, f64 => Float, f32 => Float, String => Str, &str => Str, Tensor => Tensor);
