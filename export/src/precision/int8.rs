//! Products with weights in 8 bits.
//!
//! Each `x W` becomes `QuantizeLinear`, `DequantizeLinear`, `MatMul` with a dequantised W: the standard form (QDQ), which says what
//! is rounded and which engines turn into one product of whole numbers. Weights have a scale for each output; what goes into a
//! product has one scale and zero point, from its range over motion that the caller gives.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Error;
use crate::{
    onnx::{
        DataType, Extent, drop_unused_constants, f32_tensor, f32s_of, i8_tensor, int, node,
        proto::{GraphProto, ModelProto, NodeProto, TensorProto},
        u8_tensor, value_info,
    },
    session::{Options, Session},
};

/// Products with fewer inputs or outputs stay f32: there is little to gain, and the first and the last decide the accuracy.
pub(super) const SMALLEST: usize = 32;

/// Largest weight in whole numbers: 7 bits, so that no processor saturates. Those without VNNI add two products of 8 bits in 16.
const LARGEST_WEIGHT: f32 = 63.0;

/// The products of a graph that are made smaller.
#[derive(Clone, Debug)]
pub struct Products {
    /// Indices of their nodes.
    nodes: Vec<usize>,
    /// What goes into them, each once.
    inputs: Vec<String>,
}

impl Products {
    /// Those of a model.
    ///
    /// # Errors
    /// [`Error::NoProducts`].
    pub fn of(model: &ModelProto) -> Result<Self, Error> {
        let graph = graph_of(model);
        let weights: HashSet<&str> =
            graph.initializer.iter().filter(|tensor| is_large_matrix(tensor)).filter_map(|t| t.name.as_deref()).collect();
        let is_product = |node: &NodeProto| is_matmul(node) && node.input.get(1).is_some_and(|weight| weights.contains(weight.as_str()));
        let nodes: Vec<usize> = (0..graph.node.len()).filter(|&i| is_product(&graph.node[i])).collect();
        if nodes.is_empty() {
            return Err(Error::NoProducts);
        }
        let mut known = HashSet::new();
        let inputs = nodes.iter().map(|&i| graph.node[i].input[0].clone()).filter(|input| known.insert(input.clone())).collect();
        Ok(Self { nodes, inputs })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Never: see [`Products::of`].
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}

/// Smallest and largest value seen.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Range {
    low: f32,
    high: f32,
}

/// Watches what goes into the products of a model while it runs.
pub struct Calibration {
    session: Session,
    input: String,
    ranges: BTreeMap<String, Range>,
    names: Vec<String>,
}

impl Calibration {
    /// For a model of windows or sequences.
    ///
    /// # Errors
    /// [`Error::Step`], [`Error::Run`].
    pub fn new(model: &ModelProto, products: &Products, threads: usize) -> Result<Self, Error> {
        let [input] = &graph_of(model).input[..] else { return Err(Error::Step) };
        let input = input.name.clone().unwrap_or_default();
        let session = Session::open(&with_ranges_as_outputs(model, &products.inputs), Options { custom_op: true, threads })?;
        Ok(Self { session, input, ranges: BTreeMap::new(), names: products.inputs.clone() })
    }

    /// Runs the model on an input of this shape.
    ///
    /// # Errors
    /// [`Error::Run`], [`Error::NotFinite`].
    pub fn add(&mut self, shape: &[usize], values: &[f32]) -> Result<(), Error> {
        let outputs = self.session.run(&[(&self.input, shape, values)])?;
        let numbers: Vec<f32> =
            outputs.iter().skip(outputs.len() - 2 * self.names.len()).filter_map(|(_, values)| values.first().copied()).collect();
        for (name, pair) in self.names.iter().zip(numbers.as_chunks::<2>().0) {
            let [low, high] = *pair;
            if !(low.is_finite() && high.is_finite()) {
                return Err(Error::NotFinite { value: name.clone() });
            }
            let range = self.ranges.entry(name.clone()).or_insert(Range { low, high });
            (range.low, range.high) = (range.low.min(low), range.high.max(high));
        }
        Ok(())
    }
}

/// The model with two more outputs for each of `values`: its smallest and its largest element.
fn with_ranges_as_outputs(model: &ModelProto, values: &[String]) -> ModelProto {
    let mut model = model.clone();
    if let Some(graph) = &mut model.graph {
        for value in values {
            for (op, end) in [("ReduceMin", "low"), ("ReduceMax", "high")] {
                let name = format!("{value}/{end}");
                graph.node.push(NodeProto { attribute: vec![int("keepdims", 0)], ..node(op, &[value], &[&name]) });
                graph.output.push(value_info(&name, DataType::Float, Some(&[] as &[Extent])));
            }
        }
    }
    model
}

/// The model with its `products` in 8 bits. A product whose input was not seen in the calibration stays as it is.
#[must_use]
pub fn to_int8(model: &ModelProto, products: &Products, calibration: &Calibration) -> ModelProto {
    let mut model = model.clone();
    let Some(graph) = &mut model.graph else { return model };
    let quantised: HashSet<usize> = products.nodes.iter().copied().collect();
    let weights: HashMap<String, TensorProto> =
        graph.initializer.iter().filter_map(|tensor| Some((tensor.name.clone()?, tensor.clone()))).collect();
    let mut rewriter = Rewriter { nodes: Vec::with_capacity(graph.node.len()), constants: Vec::new(), made: HashSet::new() };
    for (i, mut node) in std::mem::take(&mut graph.node).into_iter().enumerate() {
        if quantised.contains(&i)
            && let (Some(range), Some(weight)) = (calibration.ranges.get(&node.input[0]), weights.get(&node.input[1]))
        {
            node.input = vec![rewriter.rounded(&node.input[0], *range), rewriter.weight(weight)];
        }
        rewriter.nodes.push(node);
    }
    graph.node = rewriter.nodes;
    graph.initializer.append(&mut rewriter.constants);
    drop_unused_constants(graph);
    model
}

struct Rewriter {
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
    made: HashSet<String>,
}

impl Rewriter {
    /// The value through 8 bits without sign and back; 0 stays 0.
    fn rounded(&mut self, value: &str, range: Range) -> String {
        let [scale, zero, whole, back] = ["scale", "zero", "u8", "rounded"].map(|end| format!("{value}/{end}"));
        if self.made.insert(back.clone()) {
            let (low, high) = (range.low.min(0.0), range.high.max(0.0));
            let step = ((high - low) / 255.0).max(f32::MIN_POSITIVE);
            let zero_point = (-low / step).round().clamp(0.0, 255.0) as u8;
            self.constants.extend([f32_tensor(&scale, &[], &[step]), u8_tensor(&zero, &[], &[zero_point])]);
            self.nodes.push(node("QuantizeLinear", &[value, &scale, &zero], &[&whole]));
            self.nodes.push(node("DequantizeLinear", &[&whole, &scale, &zero], &[&back]));
        }
        back
    }

    /// W (inputs, outputs) in whole numbers with a scale for each output.
    fn weight(&mut self, weight: &TensorProto) -> String {
        let name = weight.name.as_deref().unwrap_or_default();
        let [scale, zero, whole, back] = ["scale", "zero", "i8", "rounded"].map(|end| format!("{name}/{end}"));
        if self.made.insert(back.clone()) {
            let values = f32s_of(weight);
            let [inputs, outputs] = [0, 1].map(|axis| weight.dims[axis] as usize);
            let largest = |column: usize| (0..inputs).map(|row| values[row * outputs + column].abs()).fold(0.0, f32::max);
            let scales: Vec<f32> = (0..outputs).map(|column| (largest(column) / LARGEST_WEIGHT).max(f32::MIN_POSITIVE)).collect();
            let whole_numbers: Vec<i8> = values.iter().zip(scales.iter().cycle()).map(|(w, scale)| (w / scale).round() as i8).collect();
            self.constants.extend([
                f32_tensor(&scale, &[outputs], &scales),
                i8_tensor(&zero, &[outputs], &vec![0; outputs]),
                i8_tensor(&whole, &[inputs, outputs], &whole_numbers),
            ]);
            let attribute = vec![int("axis", 1)];
            self.nodes.push(NodeProto { attribute, ..node("DequantizeLinear", &[&whole, &scale, &zero], &[&back]) });
        }
        back
    }
}

fn graph_of(model: &ModelProto) -> &GraphProto {
    static EMPTY: std::sync::OnceLock<GraphProto> = std::sync::OnceLock::new();
    model.graph.as_ref().unwrap_or_else(|| EMPTY.get_or_init(GraphProto::default))
}

fn is_matmul(node: &NodeProto) -> bool {
    node.op_type.as_deref() == Some("MatMul") && node.domain.is_none()
}

fn is_large_matrix(tensor: &TensorProto) -> bool {
    tensor.data_type == Some(DataType::Float as i32) && tensor.dims.len() == 2 && tensor.dims.iter().all(|&size| size >= SMALLEST as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_weight(inputs: usize, outputs: usize) -> ModelProto {
        let weight = f32_tensor("w", &[inputs, outputs], &vec![0.5; inputs * outputs]);
        let graph = GraphProto { node: vec![node("MatMul", &["x", "w"], &["y"])], initializer: vec![weight], ..GraphProto::default() };
        ModelProto { graph: Some(graph), ..ModelProto::default() }
    }

    #[test]
    fn small_products_are_left_alone() {
        assert_eq!(Products::of(&with_weight(SMALLEST, SMALLEST)).unwrap().len(), 1);
        let message = Products::of(&with_weight(SMALLEST, 3)).unwrap_err().to_string();
        assert!(message.contains("no product with weights of at least 32 x 32"), "{message}");
        assert!(Products::of(&ModelProto::default()).is_err());
    }
}
