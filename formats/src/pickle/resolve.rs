//! From the graph to a tree of values: first weigh what copying shared parts will cost, then build.

use super::{
    Limits, MAX_DEPTH, Storages,
    node::{Graph, Id, Node, Object, StorageRef, View},
    numpy::{self, Array, ArrayData},
};
use crate::error::{Result, refuse};
use crate::strided;
use crate::tensor::{DType, Data, Tensor, element_count};
use crate::value::Value;
use std::collections::HashMap;

/// What a node costs as a tree.
#[derive(Clone, Copy, Default)]
struct Weight {
    values: u64,
    bytes: u64,
    /// Levels of nesting below it, itself included.
    height: usize,
}

#[derive(Clone, Copy)]
enum Progress {
    New,
    /// Being weighed: meeting it again means that it contains itself.
    Open,
    Done(Weight),
}

/// The parts of an object that become its state; see [`Value::Object`].
enum State {
    Dict,
    Args,
    None,
}

fn state_of(object: &Object, args_empty: bool) -> State {
    if object.state.is_some() || !object.entries.is_empty() || !object.items.is_empty() {
        State::Dict
    } else if !args_empty {
        State::Args
    } else {
        State::None
    }
}

impl Graph<'_> {
    /// The tree below the root.
    pub(crate) fn resolve(self, limits: Limits, storages: &mut dyn Storages) -> Result<Value> {
        let root = self.root;
        let mut scale = Scale { nodes: &self.nodes, progress: vec![Progress::New; self.nodes.len()], uses: vec![0; self.nodes.len()] };
        let weight = scale.weigh(root, 1)?;
        let uses = scale.uses;
        if weight.height > 2 * MAX_DEPTH {
            refuse!("the pickle nests deeper than {MAX_DEPTH} levels: refused");
        }
        if weight.values > limits.values || weight.bytes > limits.bytes {
            refuse!(
                "the pickle grows into {} values and {} bytes once its shared parts are copied, far more than its file: refused",
                weight.values,
                weight.bytes
            );
        }
        Builder { nodes: self.nodes, uses, copies: HashMap::new(), storages }.value(root)
    }
}

/// Finds the weight of every node below the root, once each, and how often each is used.
struct Scale<'g, 'a> {
    nodes: &'g [Node<'a>],
    progress: Vec<Progress>,
    uses: Vec<u32>,
}

impl Scale<'_, '_> {
    fn weigh(&mut self, id: Id, depth: usize) -> Result<Weight> {
        self.uses[id.index()] = self.uses[id.index()].saturating_add(1);
        match self.progress[id.index()] {
            Progress::Done(weight) if weight.height + depth <= MAX_DEPTH + 1 => return Ok(weight),
            Progress::Open => refuse!("the pickle describes an object that contains itself: refused"),
            Progress::New if depth <= MAX_DEPTH => {}
            _ => refuse!("the pickle nests deeper than {MAX_DEPTH} levels: refused"),
        }
        self.progress[id.index()] = Progress::Open;
        let nodes = self.nodes;
        let mut weight = Weight { values: 1, ..Weight::default() };
        match &nodes[id.index()] {
            Node::None | Node::Bool(_) | Node::Int(_) | Node::Float(_) => {}
            Node::BigInt(bytes) => weight.bytes = bytes.len() as u64,
            Node::Str(text) => weight.bytes = text.len() as u64,
            Node::Bytes(bytes) | Node::ByteString(bytes) => weight.bytes = bytes.len() as u64,
            Node::Global(global) => weight.bytes = (global.module.len() + global.name.len()) as u64,
            Node::ItemType(_) => weight.bytes = 16,
            Node::List(items) | Node::Tuple(items) => self.add(&mut weight, items, depth)?,
            Node::Dict(entries) => self.add_entries(&mut weight, entries, depth)?,
            Node::Array(array) => {
                let (values, bytes) = array.weight();
                weight.values = values;
                weight.bytes = bytes;
                weight.height = array.shape.len(); // nested lists
                if let ArrayData::Node(data) = array.data
                    && matches!(nodes[data.index()], Node::List(_))
                {
                    self.add(&mut weight, &[data], depth)?;
                    let levels = array.shape.len() as u64;
                    weight.values = weight.values.saturating_mul(levels.max(1));
                    weight.height += array.shape.len();
                }
            }
            Node::Storage(storage) => weight.bytes = (storage.elements as u64).saturating_mul(8),
            Node::Tensor(view) => {
                let count = element_count(&view.shape).map_or(u64::MAX, |n| n as u64);
                let size = view.dtype.or(view.storage.dtype).map_or(1, DType::size);
                weight.bytes = count.saturating_mul(size as u64);
            }
            Node::Object(object) => {
                weight.bytes = match &nodes[object.class.index()] {
                    Node::Global(global) => (global.module.len() + global.name.len()) as u64,
                    _ => 0,
                };
                let args_empty = matches!(&nodes[object.args.index()], Node::Tuple(args) if args.is_empty());
                match state_of(object, args_empty) {
                    State::Dict => {
                        self.add_entries(&mut weight, &object.entries, depth)?;
                        self.add(&mut weight, &object.items, depth)?;
                        if let Some(state) = object.state {
                            self.add(&mut weight, &[state], depth)?;
                        }
                    }
                    State::Args => self.add(&mut weight, &[object.args], depth)?,
                    State::None => {}
                }
                weight.height += 1; // an object and its dictionary are two levels
            }
        }
        weight.height += 1;
        self.progress[id.index()] = Progress::Done(weight);
        Ok(weight)
    }

    fn add(&mut self, weight: &mut Weight, children: &[Id], depth: usize) -> Result<()> {
        for child in children {
            let child = self.weigh(*child, depth + 1)?;
            weight.values = weight.values.saturating_add(child.values);
            weight.bytes = weight.bytes.saturating_add(child.bytes);
            weight.height = weight.height.max(child.height);
        }
        Ok(())
    }

    fn add_entries(&mut self, weight: &mut Weight, entries: &[(Id, Id)], depth: usize) -> Result<()> {
        for (key, value) in entries {
            self.add(weight, &[*key, *value], depth)?;
        }
        Ok(())
    }
}

/// Builds each node once; one that is used again is kept and copied until its last use.
struct Builder<'a, 's> {
    nodes: Vec<Node<'a>>,
    uses: Vec<u32>,
    copies: HashMap<u32, Value>,
    storages: &'s mut dyn Storages,
}

impl<'a> Builder<'a, '_> {
    fn value(&mut self, id: Id) -> Result<Value> {
        let uses = &mut self.uses[id.index()];
        *uses = uses.saturating_sub(1);
        let last = *uses == 0;
        if last && let Some(value) = self.copies.remove(&id.0) {
            return Ok(value);
        }
        if let Some(value) = self.copies.get(&id.0) {
            return Ok(value.clone());
        }
        let value = self.build(id)?;
        if !last {
            self.copies.insert(id.0, value.clone());
        }
        Ok(value)
    }

    fn values(&mut self, ids: &[Id]) -> Result<Vec<Value>> {
        ids.iter().map(|id| self.value(*id)).collect()
    }

    fn entries(&mut self, ids: &[(Id, Id)]) -> Result<Vec<(Value, Value)>> {
        ids.iter().map(|(key, value)| Ok((self.value(*key)?, self.value(*value)?))).collect()
    }

    fn build(&mut self, id: Id) -> Result<Value> {
        // names and bytes are also read by the nodes that refer to them, so they stay
        match &self.nodes[id.index()] {
            Node::Global(_) => return Ok(Value::Object { class: self.class_name(id), state: Box::new(Value::None) }),
            Node::Bytes(bytes) => return Ok(Value::Bytes(bytes.to_vec())),
            Node::ByteString(bytes) => {
                return Ok(match std::str::from_utf8(bytes) {
                    Ok(text) => Value::str(text),
                    Err(_) => Value::Bytes(bytes.to_vec()),
                });
            }
            _ => {}
        }
        Ok(match std::mem::replace(&mut self.nodes[id.index()], Node::None) {
            Node::None | Node::Global(_) | Node::Bytes(_) | Node::ByteString(_) => Value::None,
            Node::Bool(value) => Value::Bool(value),
            Node::Int(value) => Value::Int(value),
            Node::BigInt(bytes) => Value::Object { class: "int".into(), state: Box::new(Value::Bytes(bytes.to_vec())) },
            Node::Float(value) => Value::Float(value),
            Node::Str(text) => Value::Str(text.into_owned()),
            Node::List(items) => Value::List(self.values(&items)?),
            Node::Tuple(items) => Value::Tuple(self.values(&items)?),
            Node::Dict(entries) => Value::Dict(each_key_once(self.entries(&entries)?)),
            Node::ItemType(item) => Value::Object { class: "numpy.dtype".into(), state: Box::new(Value::Str(item.name())) },
            Node::Array(array) => self.array(*array)?,
            Node::Storage(storage) => self.storage(&storage)?,
            Node::Tensor(view) => self.tensor(&view)?,
            Node::Object(object) => self.object(*object)?,
        })
    }

    fn class_name(&self, class: Id) -> String {
        match &self.nodes[class.index()] {
            Node::Global(global) => format!("{}.{}", global.module, global.name),
            _ => "?".into(),
        }
    }

    fn array(&mut self, array: Array) -> Result<Value> {
        let ArrayData::Node(data) = array.data else { refuse!("the pickle is malformed: a numpy array without data") };
        let value = match &self.nodes[data.index()] {
            Node::Bytes(bytes) | Node::ByteString(bytes) => numpy::from_bytes(array.item, bytes, &array.shape, &array.strides)?,
            _ => match self.value(data)? {
                Value::List(items) => numpy::from_items(items, &array.shape)?,
                _ => refuse!("the pickle is malformed: the data of a numpy array"),
            },
        };
        Ok(if array.scalar { numpy::scalar(value) } else { value })
    }

    fn storage(&mut self, storage: &StorageRef) -> Result<Value> {
        match storage.dtype {
            Some(dtype) => {
                let shape = [storage.elements - storage.offset];
                self.elements(storage, dtype, storage.offset, &shape, &[1])
            }
            None => Ok(unread(storage)),
        }
    }

    fn tensor(&mut self, view: &View) -> Result<Value> {
        match view.dtype.or(view.storage.dtype) {
            Some(dtype) => self.elements(&view.storage, dtype, view.offset, &view.shape, &view.strides),
            None => Ok(unread(&view.storage)),
        }
    }

    fn elements(&mut self, storage: &StorageRef, dtype: DType, offset: usize, shape: &[usize], strides: &[usize]) -> Result<Value> {
        let big_endian = self.storages.big_endian();
        let bytes = if element_count(shape) == Some(0) { &[] } else { self.storages.bytes(&storage.key)? };
        let bytes = strided::gather(bytes, dtype.size(), offset, shape, strides)?;
        Ok(Value::Tensor(Tensor::new(shape, Data::from_bytes(dtype, &bytes, big_endian))?))
    }

    fn object(&mut self, object: Object) -> Result<Value> {
        let args_empty = matches!(&self.nodes[object.args.index()], Node::Tuple(args) if args.is_empty());
        let class = self.class_name(object.class);
        let state = match state_of(&object, args_empty) {
            State::None => Value::None,
            State::Args => self.value(object.args)?,
            State::Dict => {
                let mut entries = self.entries(&object.entries)?;
                let items = self.values(&object.items)?;
                let state = object.state.map(|state| self.value(state)).transpose()?;
                let rest = match state {
                    Some(Value::Dict(attributes)) => {
                        entries.extend(attributes);
                        None
                    }
                    // (dictionary or None, dictionary of slots)
                    Some(Value::Tuple(parts)) if parts.len() == 2 && parts.iter().all(|p| matches!(p, Value::Dict(_) | Value::None)) => {
                        entries.extend(parts.iter().flat_map(|part| part.entries().to_vec()));
                        None
                    }
                    other => other,
                };
                match (entries.is_empty(), items.is_empty(), rest) {
                    (true, false, None) => Value::List(items),
                    (true, true, Some(state)) => state,
                    (_, _, rest) => {
                        // several at once: the dictionary holds the others under names that no attribute has
                        if !items.is_empty() {
                            entries.push((Value::str("<items>"), Value::List(items)));
                        }
                        entries.extend(rest.map(|state| (Value::str("<state>"), state)));
                        Value::Dict(each_key_once(entries))
                    }
                }
            }
        };
        Ok(Value::Object { class, state: Box::new(state) })
    }
}

/// A tensor of a type that is not read.
fn unread(storage: &StorageRef) -> Value {
    Value::Object { class: format!("torch.{}", storage.type_name), state: Box::new(Value::None) }
}

/// As in Python, a key that is set again keeps its place and takes the new value.
fn each_key_once(entries: Vec<(Value, Value)>) -> Vec<(Value, Value)> {
    #[derive(PartialEq, Eq, Hash)]
    enum Key {
        Str(String),
        Int(i64),
    }
    let mut places: HashMap<Key, usize> = HashMap::with_capacity(entries.len());
    let mut result: Vec<(Value, Value)> = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        let hash = match &key {
            Value::Str(text) => Key::Str(text.clone()),
            Value::Int(number) => Key::Int(*number),
            _ => {
                result.push((key, value));
                continue;
            }
        };
        match places.get(&hash) {
            Some(&place) => result[place].1 = value,
            None => {
                places.insert(hash, result.len());
                result.push((key, value));
            }
        }
    }
    result
}
