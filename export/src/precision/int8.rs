//! Products in 8 bits.
//!
//! Each `x W` becomes `QuantizeLinear`, `DequantizeLinear`, `MatMul` with a dequantised W: the standard form (QDQ), which says what
//! is rounded and which engines turn into one product of whole numbers. Where a bias follows, it is `QuantizeLinear`,
//! `MatMulInteger`, `Cast`, `Mul` by the scales and `Add`: ONNX Runtime does these in one pass, bias included. Weights have a scale for each output; what goes into a
//! product has one scale and zero point, from its range over motion that the caller gives. Large products of two values
//! (attention over frames, a frame with those like it) are done likewise; not the one whose largest elements choose the
//! neighbours of the temporal graph, which a rounding would change.

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
    /// Indices of the nodes of those with weights.
    nodes: Vec<usize>,
    /// Indices of the nodes of those of two values. Whether they are large enough shows when the model runs.
    of_values: Vec<usize>,
    /// What goes into all of them, each once.
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
        let constants: HashSet<&str> = graph.initializer.iter().filter_map(|tensor| tensor.name.as_deref()).collect();
        let chosen_from: HashSet<&str> =
            graph.node.iter().filter(|node| node.op_type.as_deref() == Some("TopK")).map(|node| node.input[0].as_str()).collect();
        let products = || (0..graph.node.len()).filter(|&i| is_matmul(&graph.node[i]));
        let has_weights = |&i: &usize| weights.contains(graph.node[i].input[1].as_str());
        let is_of_values = |&i: &usize| {
            let NodeProto { input, output, .. } = &graph.node[i];
            !chosen_from.contains(output[0].as_str()) && input.iter().all(|input| !constants.contains(input.as_str()))
        };
        let nodes: Vec<usize> = products().filter(has_weights).collect();
        if nodes.is_empty() {
            return Err(Error::NoProducts);
        }
        let of_values: Vec<usize> = products().filter(is_of_values).collect();
        let mut known = HashSet::new();
        let left = nodes.iter().map(|&i| &graph.node[i].input[0]);
        let both = of_values.iter().flat_map(|&i| &graph.node[i].input);
        let inputs = left.chain(both).filter(|input| known.insert(*input)).cloned().collect();
        Ok(Self { nodes, of_values, inputs })
    }

    /// How many with weights there are.
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

/// What was seen of a value.
#[derive(Clone, Debug)]
struct Seen {
    range: Range,
    /// Its last two axes are at least [`SMALLEST`] long.
    is_large: bool,
}

/// Watches what goes into the products of a model while it runs.
pub struct Calibration {
    session: Session,
    input: String,
    seen: BTreeMap<String, Seen>,
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
        let session = Session::open(&with_statistics_as_outputs(model, &products.inputs), Options { custom_op: true, threads })?;
        Ok(Self { session, input, seen: BTreeMap::new(), names: products.inputs.clone() })
    }

    /// Runs the model on an input of this shape.
    ///
    /// # Errors
    /// [`Error::Run`], [`Error::NotFinite`].
    pub fn add(&mut self, shape: &[usize], values: &[f32]) -> Result<(), Error> {
        let outputs = self.session.run(&[(&self.input, shape, values)])?;
        let statistics = &outputs[outputs.len() - 3 * self.names.len()..];
        for (name, [low, high, shape]) in self.names.iter().zip(statistics.as_chunks::<3>().0) {
            let (&[low], &[high], [.., rows, columns]) = (&low.1[..], &high.1[..], &shape.1[..]) else { continue };
            if !(low.is_finite() && high.is_finite()) {
                return Err(Error::NotFinite { value: name.clone() });
            }
            let is_large = rows.min(*columns) >= SMALLEST as f32;
            let seen = self.seen.entry(name.clone()).or_insert(Seen { range: Range { low, high }, is_large });
            seen.range = Range { low: seen.range.low.min(low), high: seen.range.high.max(high) };
            seen.is_large &= is_large;
        }
        Ok(())
    }
}

/// The model with three more outputs for each of `values`: its smallest element, its largest, and its shape in f32.
fn with_statistics_as_outputs(model: &ModelProto, values: &[String]) -> ModelProto {
    let mut model = model.clone();
    if let Some(graph) = &mut model.graph {
        let outputs = |value: &str| ["low", "high", "shape", "axes"].map(|end| format!("{value}/{end}"));
        for value in values {
            let [low, high, shape, axes] = outputs(value);
            let reduce = |op, end: &str| NodeProto { attribute: vec![int("keepdims", 0)], ..node(op, &[value], &[end]) };
            let to_f32 = vec![int("to", DataType::Float as i64)];
            graph.node.extend([
                reduce("ReduceMin", &low),
                reduce("ReduceMax", &high),
                node("Shape", &[value], &[&axes]),
                NodeProto { attribute: to_f32, ..node("Cast", &[&axes], &[&shape]) },
            ]);
            graph.output.extend([low, high].map(|name| value_info(&name, DataType::Float, Some(&[] as &[Extent]))));
            graph.output.push(value_info(&shape, DataType::Float, None));
        }
    }
    model
}

/// The model with its `products` in 8 bits. A product whose input was not seen in the calibration stays as it is.
#[must_use]
pub fn to_int8(model: &ModelProto, products: &Products, calibration: &Calibration) -> ModelProto {
    let mut model = model.clone();
    let Some(graph) = &mut model.graph else { return model };
    let with_weights: HashSet<usize> = products.nodes.iter().copied().collect();
    let of_values: HashSet<usize> = products.of_values.iter().copied().collect();
    let weights: HashMap<String, TensorProto> =
        graph.initializer.iter().filter_map(|tensor| Some((tensor.name.clone()?, tensor.clone()))).collect();
    let with_bias = products_with_bias(graph);
    let mut rewriter = Rewriter { nodes: Vec::with_capacity(graph.node.len()), constants: Vec::new(), made: HashSet::new() };
    rewriter.one_at_run_time(graph);
    for (i, mut node) in std::mem::take(&mut graph.node).into_iter().enumerate() {
        if with_weights.contains(&i)
            && let (Some(x), Some(weight)) = (calibration.seen.get(&node.input[0]), weights.get(&node.input[1]))
        {
            if with_bias.contains(&node.output[0]) {
                rewriter.product_before_bias(&node, x.range, weight);
                continue;
            }
            node.input = vec![rewriter.rounded(&node.input[0], x.range), rewriter.weight(weight)];
        } else if of_values.contains(&i)
            && let (Some(a), Some(b)) = (calibration.seen.get(&node.input[0]), calibration.seen.get(&node.input[1]))
            && (a.is_large && b.is_large)
        {
            node.input = vec![rewriter.rounded(&node.input[0], a.range), rewriter.rounded(&node.input[1], b.range)];
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
        let Whole { name, scale, zero, .. } = self.whole(value, range);
        let back = format!("{value}/rounded");
        if self.made.insert(back.clone()) {
            self.nodes.push(node("DequantizeLinear", &[&name, &scale, &zero], &[&back]));
        }
        back
    }

    /// The value in 8 bits without sign.
    fn whole(&mut self, value: &str, range: Range) -> Whole {
        let [scale, zero, name] = ["scale", "zero", "u8"].map(|end| format!("{value}/{end}"));
        let (low, high) = (range.low.min(0.0), range.high.max(0.0));
        let step = ((high - low) / 255.0).max(f32::MIN_POSITIVE);
        if self.made.insert(name.clone()) {
            let zero_point = (-low / step).round().clamp(0.0, 255.0) as u8;
            self.constants.extend([f32_tensor(&scale, &[], &[step]), u8_tensor(&zero, &[], &[zero_point])]);
            self.nodes.push(node("QuantizeLinear", &[value, &scale, &zero], &[&name]));
        }
        Whole { name, scale, zero, step }
    }

    /// W (inputs, outputs) rounded to whole numbers with a scale for each output, and back.
    fn weight(&mut self, weight: &TensorProto) -> String {
        let (whole, scales) = self.whole_weight(weight);
        let name = weight.name.as_deref().unwrap_or_default();
        let [scale, zero, back] = ["scale", "zero", "rounded"].map(|end| format!("{name}/{end}"));
        if self.made.insert(back.clone()) {
            let outputs = scales.len();
            self.constants.extend([f32_tensor(&scale, &[outputs], &scales), i8_tensor(&zero, &[outputs], &vec![0; outputs])]);
            let attribute = vec![int("axis", 1)];
            self.nodes.push(NodeProto { attribute, ..node("DequantizeLinear", &[&whole, &scale, &zero], &[&back]) });
        }
        back
    }

    /// W in whole numbers, and the scale of each output.
    fn whole_weight(&mut self, weight: &TensorProto) -> (String, Vec<f32>) {
        let whole = format!("{}/i8", weight.name.as_deref().unwrap_or_default());
        let values = f32s_of(weight);
        let [inputs, outputs] = [0, 1].map(|axis| weight.dims[axis] as usize);
        let largest = |column: usize| (0..inputs).map(|row| values[row * outputs + column].abs()).fold(0.0, f32::max);
        let scales: Vec<f32> = (0..outputs).map(|column| (largest(column) / LARGEST_WEIGHT).max(f32::MIN_POSITIVE)).collect();
        if self.made.insert(whole.clone()) {
            let whole_numbers: Vec<i8> = values.iter().zip(scales.iter().cycle()).map(|(w, scale)| (w / scale).round() as i8).collect();
            self.constants.push(i8_tensor(&whole, &[inputs, outputs], &whole_numbers));
        }
        (whole, scales)
    }

    /// `x W` in whole numbers, then times the scales: what ONNX Runtime joins with the bias that follows.
    fn product_before_bias(&mut self, product: &NodeProto, range: Range, weight: &TensorProto) {
        let x = self.whole(&product.input[0], range);
        let (whole_weight, scales) = self.whole_weight(weight);
        let result = &product.output[0];
        let [sums, as_f32, scale, scale_now] = ["i32", "f32", "scale", "scale_now"].map(|end| format!("{result}/{end}"));
        let scales: Vec<f32> = scales.iter().map(|weight_scale| weight_scale * x.step).collect();
        self.constants.push(f32_tensor(&scale, &[scales.len()], &scales));
        self.nodes.extend([
            node("MatMulInteger", &[&x.name, &whole_weight, &x.zero], &[&sums]),
            NodeProto { attribute: vec![int("to", DataType::Float as i64)], ..node("Cast", &[&sums], &[&as_f32]) },
            node("Mul", &[ONE, &scale], &[&scale_now]),
            node("Mul", &[&as_f32, &scale_now], &[result]),
        ]);
    }

    /// Makes [`ONE`] of the input, whatever is in it. ONNX Runtime recognises a product only by a multiplication of two scales; of two
    /// constants it would make one before it looks.
    fn one_at_run_time(&mut self, graph: &GraphProto) {
        let Some(input) = graph.input.first().and_then(|input| input.name.as_deref()) else { return };
        let [largest, is_nan, is_number, is_either] = ["largest", "is_nan", "is_number", "is_either"].map(|end| format!("{ONE}/{end}"));
        self.nodes.extend([
            NodeProto { attribute: vec![int("keepdims", 0)], ..node("ReduceMax", &[input], &[&largest]) },
            node("IsNaN", &[&largest], &[&is_nan]),
            node("Not", &[&is_nan], &[&is_number]),
            node("Or", &[&is_nan, &is_number], &[&is_either]),
            NodeProto { attribute: vec![int("to", DataType::Float as i64)], ..node("Cast", &[&is_either], &[ONE]) },
        ]);
    }
}

/// A value in 8 bits: its name, those of its scale and its zero point, and the scale.
struct Whole {
    name: String,
    scale: String,
    zero: String,
    step: f32,
}

/// Name of a scalar that is 1.
const ONE: &str = "one_at_run_time";

/// Products that are read by nothing but the sum with a constant for each output, by their names.
fn products_with_bias(graph: &GraphProto) -> HashSet<String> {
    let vectors: HashSet<&str> =
        graph.initializer.iter().filter(|tensor| tensor.dims.len() == 1).filter_map(|t| t.name.as_deref()).collect();
    let mut readers: HashMap<&str, usize> = HashMap::new();
    graph.node.iter().flat_map(|node| &node.input).for_each(|input| *readers.entry(input).or_default() += 1);
    let of_sum = |node: &NodeProto| match &node.input[..] {
        [product, bias] if vectors.contains(bias.as_str()) && readers[product.as_str()] == 1 => Some(product.clone()),
        _ => None,
    };
    graph.node.iter().filter(|node| node.op_type.as_deref() == Some("Add")).filter_map(of_sum).collect()
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

    /// Of the nodes that make these values, those that read values in 8 bits.
    fn in_8_bits<'a>(model: &ModelProto, values: &[&'a str]) -> Vec<&'a str> {
        let nodes = &graph_of(model).node;
        let maker = |value: &str| nodes.iter().find(|node| node.output.iter().any(|output| output == value)).unwrap();
        let reads_rounded = |value: &&&str| maker(value).input.iter().all(|input| input.ends_with("/rounded"));
        values.iter().filter(reads_rounded).copied().collect()
    }

    #[test]
    fn large_products_of_two_values_are_made_smaller_but_for_the_one_that_is_chosen_from() {
        let rows = 40;
        let mut model = with_weight(SMALLEST, SMALLEST);
        model.ir_version = Some(crate::onnx::IR_VERSION);
        model.opset_import = vec![crate::onnx::opset("", crate::onnx::OPSET)];
        let graph = model.graph.as_mut().unwrap();
        graph.name = Some("g".into());
        graph.input = vec![value_info("x", DataType::Float, Some(&[Extent::Fixed(rows), Extent::Fixed(SMALLEST)]))];
        graph.output = ["mixed", "narrow"].map(|name| value_info(name, DataType::Float, None)).to_vec();
        graph.initializer.push(crate::onnx::i64_tensor("three", &[3]));
        graph.node.extend([
            NodeProto { attribute: vec![crate::onnx::ints("perm", &[1, 0])], ..node("Transpose", &["y"], &["y_t"]) },
            node("MatMul", &["y", "y_t"], &["similarity"]), // (40, 40)
            node("TopK", &["similarity", "three"], &["largest", "which"]),
            node("Softmax", &["similarity"], &["attention"]),
            node("MatMul", &["attention", "y"], &["mixed"]),        // (40, 32)
            node("MatMul", &["attention", "largest"], &["narrow"]), // (40, 3)
        ]);

        let products = Products::of(&model).unwrap();
        let mut calibration = Calibration::new(&model, &products, 1).unwrap();
        let x: Vec<f32> = (0..rows * SMALLEST).map(|i| (i as f32 * 0.37).sin() * 0.05).collect();
        calibration.add(&[rows, SMALLEST], &x).unwrap();
        let smaller = to_int8(&model, &products, &calibration);
        assert_eq!(in_8_bits(&smaller, &["y", "similarity", "mixed", "narrow"]), ["y", "mixed"]);

        let run = |model: &ModelProto| {
            let mut session = Session::open(model, Options { custom_op: false, threads: 1 }).unwrap();
            session.run(&[("x", &[rows, SMALLEST], &x)]).unwrap().swap_remove(0).1
        };
        let (expected, found) = (run(&model), run(&smaller));
        let largest = expected.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        let difference = expected.iter().zip(&found).fold(0.0f32, |largest, (a, b)| largest.max((a - b).abs()));
        assert!(difference > 0.0 && difference < 0.03 * largest, "{difference} of {largest}");
    }

    #[test]
    fn a_product_with_a_bias_is_one_of_whole_numbers_and_right_even_where_the_input_is_not_a_number() {
        let mut model = with_weight(SMALLEST, SMALLEST);
        model.ir_version = Some(crate::onnx::IR_VERSION);
        model.opset_import = vec![crate::onnx::opset("", crate::onnx::OPSET)];
        let graph = model.graph.as_mut().unwrap();
        graph.name = Some("g".into());
        graph.input = vec![value_info("x", DataType::Float, Some(&[Extent::Fixed(2), Extent::Fixed(SMALLEST)]))];
        graph.output = vec![value_info("z", DataType::Float, None)];
        graph.initializer.push(f32_tensor("bias", &[SMALLEST], &[7.0; SMALLEST]));
        graph.node.push(node("Add", &["y", "bias"], &["z"]));

        let products = Products::of(&model).unwrap();
        let mut calibration = Calibration::new(&model, &products, 1).unwrap();
        let x: Vec<f32> = (0..2 * SMALLEST).map(|i| (i as f32 * 0.37).sin()).collect();
        calibration.add(&[2, SMALLEST], &x).unwrap();
        let smaller = to_int8(&model, &products, &calibration);
        assert!(graph_of(&smaller).node.iter().any(|node| node.op_type.as_deref() == Some("MatMulInteger")));
        let run = |model: &ModelProto, x: &[f32]| {
            let mut session = Session::open(model, Options { custom_op: false, threads: 1 }).unwrap();
            session.run(&[("x", &[2, SMALLEST], x)]).unwrap().swap_remove(0).1
        };
        let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 0.1); // never where one is no number
        let expected = run(&model, &x);
        assert!(near(&expected, &run(&smaller, &x)), "{expected:?}");
        let mut with_nan = x.clone();
        with_nan[0] = f32::NAN;
        let (expected, found) = (run(&model, &with_nan), run(&smaller, &with_nan));
        assert!(near(&expected[SMALLEST..], &found[SMALLEST..]), "the row without it: {expected:?}\n{found:?}");
    }

    #[test]
    fn small_products_are_left_alone() {
        assert_eq!(Products::of(&with_weight(SMALLEST, SMALLEST)).unwrap().len(), 1);
        let message = Products::of(&with_weight(SMALLEST, 3)).unwrap_err().to_string();
        assert!(message.contains("no product with weights of at least 32 x 32"), "{message}");
        assert!(Products::of(&ModelProto::default()).is_err());
    }
}
