//! [`network::Tensor`] by writing down ONNX nodes.
//!
//! Pose sequences, (B, T, J, C) to the layers, lie in the graph as (B, J, T, C): then everything along time (the scan, the
//! temporal graph) and the skeleton's graphs (one product (J, J) (J, T C) a sample) need no transposition, and attention
//! needs the same ones either way. What depends on weights alone is computed while recording.

mod constant;
mod dims;
mod tensor;

use std::{cell::RefCell, collections::HashMap, rc::Rc};

pub use dims::Dim;

use crate::{
    onnx::{
        Builder, Outputs, ints,
        proto::{AttributeProto, ModelProto},
    },
    scan_function::{self, ElementType, ScanForm, TwoForms},
};
use constant::Constant;
use dims::{broadcast, extents, sizes};

/// Where a graph is recorded.
#[derive(Clone, Default)]
pub struct Recorder(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    builder: Builder,
    /// Name of a size to the input and axis that bring it.
    symbols: HashMap<Rc<str>, (String, i64)>,
    /// Values that already exist in the other layout.
    relaid: HashMap<String, String>,
    /// Linear maps by their output: parts and multiples of them are made of parts and multiples of their weights.
    linears: HashMap<String, LinearMap>,
    /// Parts of values that were joined along the last axis, by their names.
    joins: HashMap<String, Vec<Value>>,
}

/// `y = x weight^T + bias` of constants.
#[derive(Clone)]
struct LinearMap {
    x: Value,
    weight: Rc<Constant>, // (out, in)
    bias: Option<Rc<Constant>>,
}

/// How axes 1 and 2 of a value with four axes lie in the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// As the layers see them.
    Plain,
    /// The other way round.
    Swapped,
}

/// A value that exists when the model runs.
#[derive(Clone, Debug)]
struct Value {
    name: String,
    /// As the layers see it.
    dims: Vec<Dim>,
    layout: Layout,
}

impl Value {
    /// As it lies in the graph.
    fn physical_dims(&self) -> Vec<Dim> {
        let mut dims = self.dims.clone();
        if self.layout == Layout::Swapped {
            dims.swap(1, 2);
        }
        dims
    }
}

#[derive(Clone)]
enum Kind {
    Constant(Rc<Constant>),
    Value(Value),
}

/// A value of a recorded graph.
#[derive(Clone)]
pub struct Recorded {
    recorder: Recorder,
    kind: Kind,
}

const SWAP: [i64; 4] = [0, 2, 1, 3];

impl Recorder {
    /// An empty graph.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an input of the graph. Sizes with a name are taken from it when the model runs.
    #[must_use]
    pub fn input(&self, name: &str, dims: &[Dim]) -> Recorded {
        let value = self.plain_input(name, dims).to_value();
        let value = if dims.len() == 4 { self.laid(&value, Layout::Swapped) } else { value };
        self.value(value)
    }

    /// The same where four axes are no pose sequence: it stays as it lies.
    #[must_use]
    pub fn plain_input(&self, name: &str, dims: &[Dim]) -> Recorded {
        let mut state = self.0.borrow_mut();
        state.builder.input(name, &extents(dims));
        for (axis, dim) in dims.iter().enumerate() {
            if let (1, [symbol]) = (dim.factor(), dim.symbols()) {
                state.symbols.entry(Rc::clone(symbol)).or_insert((name.to_owned(), axis as i64));
            }
        }
        drop(state);
        self.value(Value { name: name.to_owned(), dims: dims.to_vec(), layout: Layout::Plain })
    }

    /// A constant, row-major, under the name that it is to have in the file.
    ///
    /// # Panics
    /// When the values do not fill the shape.
    #[must_use]
    #[track_caller]
    pub fn constant(&self, label: &str, shape: &[usize], values: Vec<f32>) -> Recorded {
        self.of_constant(Constant::new(label, shape, values))
    }

    /// The model that computes `outputs` by these names.
    ///
    /// # Errors
    /// [`TwoForms`] when a file cannot hold the function bodies of all its scans.
    pub fn finish(self, name: &str, outputs: &[(&str, &Recorded)]) -> Result<ModelProto, TwoForms> {
        let outputs: Vec<_> = outputs
            .iter()
            .map(|(name, output)| {
                let value = output.to_value();
                let mut state = self.0.borrow_mut();
                match value.layout {
                    Layout::Plain => state.builder.node_named(name, "Identity", &[&value.name], vec![]),
                    Layout::Swapped => state.builder.node_named(name, "Transpose", &[&value.name], vec![ints("perm", &SWAP)]),
                }
                ((*name).to_owned(), extents(&value.dims))
            })
            .collect();
        let State { builder, .. } = self.0.take();
        let mut model = builder.finish(name, &outputs);
        let nodes = model.graph.iter().flat_map(|graph| &graph.node);
        if let Some(form) = ScanForm::shared(nodes.filter(|node| node.op_type.as_deref() == Some(scan::schema::OP)))? {
            model.functions.push(scan_function::function(form, ElementType::F32));
            model.opset_import.push(crate::onnx::opset(scan::schema::DOMAIN, scan::schema::VERSION));
        }
        Ok(model)
    }

    fn value(&self, value: Value) -> Recorded {
        Recorded { recorder: self.clone(), kind: Kind::Value(value) }
    }

    fn of_constant(&self, constant: Constant) -> Recorded {
        Recorded { recorder: self.clone(), kind: Kind::Constant(Rc::new(constant)) }
    }

    /// A node with one output, as a plain value of this shape.
    fn plain(&self, label: &str, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>, dims: Vec<Dim>) -> Value {
        Value { name: self.node(label, op, inputs, attributes), dims, layout: Layout::Plain }
    }

    fn node(&self, label: &str, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        self.0.borrow_mut().builder.node(label, op, inputs, attributes)
    }

    fn nodes<const N: usize>(&self, label: &str, op: &str, domain: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> Outputs<N> {
        self.0.borrow_mut().builder.node_with(label, op, domain, inputs, attributes)
    }

    fn i64s(&self, values: &[i64]) -> String {
        self.0.borrow_mut().builder.i64s(values)
    }

    fn scalar(&self, value: f32) -> String {
        self.0.borrow_mut().builder.f32s("scalar", &[], &[value])
    }

    fn constant_name(&self, constant: &Constant) -> String {
        self.0.borrow_mut().builder.f32s(&constant.label, &constant.shape, &constant.values)
    }

    /// The value in that layout.
    fn laid(&self, value: &Value, layout: Layout) -> Value {
        if value.layout == layout || value.dims.len() != 4 {
            return value.clone();
        }
        let known = self.0.borrow().relaid.get(&value.name).cloned();
        let name = known.unwrap_or_else(|| {
            let name = self.node("", "Transpose", &[&value.name], vec![ints("perm", &SWAP)]);
            let mut state = self.0.borrow_mut();
            state.relaid.insert(value.name.clone(), name.clone());
            state.relaid.insert(name.clone(), value.name.clone());
            name
        });
        Value { name, dims: value.dims.clone(), layout }
    }

    /// Axes of a value as it lies in the graph, in another order.
    fn transpose(&self, name: &str, order: &[i64]) -> String {
        self.node("", "Transpose", &[name], vec![ints("perm", order)])
    }

    /// The same memory under another shape.
    fn reshape(&self, name: &str, from: &[Dim], to: &[Dim]) -> String {
        let open = |target: &[Option<i64>]| target.iter().filter(|size| size.is_none()).count();
        let mut target: Vec<Option<i64>> = to.iter().map(|dim| dim.size().map(|size| size as i64)).collect();
        if open(&target) > 1 {
            for (axis, size) in target.iter_mut().enumerate() {
                if size.is_none() && from.get(axis) == Some(&to[axis]) {
                    *size = Some(0); // as in the input
                }
            }
        }
        let shape = if open(&target) > 1 {
            let sizes: Vec<String> = to.iter().map(|dim| self.size_at_run_time(dim)).collect();
            let sizes: Vec<&str> = sizes.iter().map(String::as_str).collect();
            self.node("", "Concat", &sizes, vec![crate::onnx::int("axis", 0)])
        } else {
            self.i64s(&target.iter().map(|size| size.unwrap_or(-1)).collect::<Vec<_>>())
        };
        self.node("", "Reshape", &[name, &shape], vec![])
    }

    /// A size as a value of the graph, i64 on one axis.
    fn size_at_run_time(&self, dim: &Dim) -> String {
        let mut size = self.i64s(&[dim.factor() as i64]);
        for symbol in dim.symbols() {
            let (input, axis) =
                self.0.borrow().symbols.get(symbol).cloned().unwrap_or_else(|| panic!("no input brings the size `{symbol}`"));
            let bounds = vec![crate::onnx::int("start", axis), crate::onnx::int("end", axis + 1)];
            let brought = self.node("", "Shape", &[&input], bounds);
            size = self.node("", "Mul", &[&size, &brought], vec![]);
        }
        size
    }
}

impl Recorded {
    /// Shape as the layers see it.
    #[must_use]
    pub fn dims(&self) -> Vec<Dim> {
        match &self.kind {
            Kind::Constant(constant) => constant.shape.iter().copied().map(Dim::fixed).collect(),
            Kind::Value(value) => value.dims.clone(),
        }
    }

    /// As a value of the graph: a constant becomes an initialiser.
    fn to_value(&self) -> Value {
        match &self.kind {
            Kind::Constant(constant) => Value { name: self.recorder.constant_name(constant), dims: self.dims(), layout: Layout::Plain },
            Kind::Value(value) => value.clone(),
        }
    }

    fn laid(&self, layout: Layout) -> Value {
        self.recorder.laid(&self.to_value(), layout)
    }

    fn as_constant(&self) -> Option<&Rc<Constant>> {
        match &self.kind {
            Kind::Constant(constant) => Some(constant),
            Kind::Value(_) => None,
        }
    }

    /// One value made of each value alone; `fold` computes the same of constants.
    fn unary(&self, op: &str, fold: impl Fn(f64) -> f64) -> Self {
        match &self.kind {
            Kind::Constant(constant) => self.recorder.of_constant(constant.map(&op.to_lowercase(), fold)),
            Kind::Value(value) => self.like(value, self.recorder.node("", op, &[&value.name], vec![])),
        }
    }

    fn like(&self, value: &Value, name: String) -> Self {
        self.recorder.value(Value { name, ..value.clone() })
    }

    #[track_caller]
    fn binary(&self, op: &str, other: &Self, fold: impl Fn(f64, f64) -> f64) -> Self {
        let dims = broadcast(&self.dims(), &other.dims());
        if let (Some(a), Some(b), Some(shape)) = (self.as_constant(), other.as_constant(), sizes(&dims)) {
            return self.recorder.of_constant(a.zip(b, &shape, &op.to_lowercase(), fold));
        }
        let swapped = [self, other].iter().any(|operand| matches!(&operand.kind, Kind::Value(value) if value.layout == Layout::Swapped));
        let layout = if swapped { Layout::Swapped } else { Layout::Plain };
        let place = [self, other].iter().find_map(|operand| operand.as_constant().map(|c| c.place().to_owned())).unwrap_or_default();
        let (a, b) = (self.operand(layout), other.operand(layout));
        self.recorder.value(Value { name: self.recorder.node(&place, op, &[&a, &b], vec![]), dims, layout })
    }

    /// Name of a value or constant that broadcasts against values of that layout.
    #[track_caller]
    fn operand(&self, layout: Layout) -> String {
        match &self.kind {
            Kind::Constant(constant) if layout == Layout::Swapped && constant.shape.len() > 1 => {
                let swapped = constant.with_rank(4).transpose(&SWAP.map(|axis| axis as usize));
                self.recorder.constant_name(&Constant { label: constant.label.clone(), ..swapped })
            }
            Kind::Constant(constant) => self.recorder.constant_name(constant),
            Kind::Value(value) => {
                // One number for each sample looks the same in both layouts.
                let same_in_both = value.dims.len() == 4 && value.dims[1..3].iter().all(|dim| dim.size() == Some(1));
                assert!(value.dims.len() == 4 || layout == Layout::Plain, "values with {} and 4 axes do not mix", value.dims.len());
                if same_in_both { value.name.clone() } else { self.recorder.laid(value, layout).name }
            }
        }
    }
}
