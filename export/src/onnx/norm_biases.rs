//! Biases after a normalisation, taken into the weights.
//!
//! `z = (x - mean) / deviation` sums to 0 over its C channels, so `z + 1` sums to C whatever x is, and a product with it can carry
//! a constant: `W (scale z + shift) + bias = (W scale + e / C) (z + 1)`, where `e` is what remains of `W shift + bias` after
//! `W scale` has met the ones. Engines then need no pass over the product for the bias, and ONNX Runtime's Gelu runs in place of
//! its BiasGelu, which is half as fast.

use std::collections::{HashMap, HashSet};

use super::{
    DataType, f32_tensor, f32s_of,
    proto::{GraphProto, ModelProto, NodeProto, TensorProto},
};

/// The model with its biases in the weights where that can be.
#[must_use]
pub fn in_weights(mut model: ModelProto) -> ModelProto {
    model.graph.iter_mut().for_each(into_weights);
    model
}

/// Rewrites each LayerNormalization that only products with constant weights read, one of them with a bias at least.
fn into_weights(graph: &mut GraphProto) {
    let rewrites: Vec<Rewrite> = {
        let values = Values::of(graph);
        (0..graph.node.len()).filter_map(|index| values.rewrite(index)).collect()
    };
    if rewrites.is_empty() {
        return;
    }
    let mut gone = HashSet::new();
    for Rewrite { norm, channels, products } in rewrites {
        let ones = format!("ones_{channels}");
        if !graph.initializer.iter().any(|constant| constant.name.as_ref() == Some(&ones)) {
            graph.initializer.push(f32_tensor(&ones, &[channels], &vec![1.0; channels]));
        }
        graph.node[norm].input[1..].fill(ones);
        for Product { node, weight, sum } in products {
            graph.node[node].input[1] = weight.name.clone().unwrap_or_default();
            graph.initializer.push(weight);
            if let Some(sum) = sum {
                graph.node[node].output = graph.node[sum].output.clone();
                gone.insert(sum);
            }
        }
    }
    let mut index = 0..;
    graph.node.retain(|_| index.next().is_none_or(|index| !gone.contains(&index)));
    super::drop_unused_constants(graph);
}

/// A normalisation, as an index of its node, and what becomes of the products that read it.
struct Rewrite {
    norm: usize,
    channels: usize,
    products: Vec<Product>,
}

struct Product {
    node: usize,
    /// With everything in it.
    weight: TensorProto,
    /// The Add that is no longer needed.
    sum: Option<usize>,
}

/// A graph's values by their names.
struct Values<'a> {
    nodes: &'a [NodeProto],
    constants: HashMap<&'a str, &'a TensorProto>,
    /// Nodes that read a value, by their indices, once for each time that they do.
    readers: HashMap<&'a str, Vec<usize>>,
    outputs: HashSet<&'a str>,
}

impl<'a> Values<'a> {
    fn of(graph: &'a GraphProto) -> Self {
        let is_f32 = |constant: &&TensorProto| constant.data_type == Some(DataType::Float as i32);
        let constants =
            graph.initializer.iter().filter(is_f32).filter_map(|constant| Some((constant.name.as_deref()?, constant))).collect();
        let mut readers: HashMap<_, Vec<usize>> = HashMap::new();
        for (index, node) in graph.node.iter().enumerate() {
            for input in &node.input {
                readers.entry(input.as_str()).or_default().push(index);
            }
        }
        let outputs = graph.output.iter().filter_map(|output| output.name.as_deref()).collect();
        Self { nodes: &graph.node, constants, readers, outputs }
    }

    fn rewrite(&self, norm: usize) -> Option<Rewrite> {
        let node = &self.nodes[norm];
        let [_, scale, shift] = &node.input[..] else { return None };
        let (scale, shift) = (self.vector(scale)?, self.vector(shift)?);
        if !is(node, "LayerNormalization") || scale.len() != shift.len() || self.outputs.contains(node.output[0].as_str()) {
            return None;
        }
        let products =
            self.readers.get(node.output[0].as_str())?.iter().map(|&reader| self.product(reader, &node.output[0], &scale, &shift));
        let products = products.collect::<Option<Vec<Product>>>()?;
        products.iter().any(|product| product.sum.is_some()).then_some(Rewrite { norm, channels: scale.len(), products })
    }

    /// The product with everything in its weights, if the node is one of the normalised value `x` with a constant matrix.
    fn product(&self, index: usize, x: &str, scale: &[f32], shift: &[f32]) -> Option<Product> {
        let node = &self.nodes[index];
        let [left, right] = &node.input[..] else { return None };
        let matrix = self.constants.get(right.as_str())?;
        let &[inputs, outputs] = &matrix.dims[..] else { return None };
        if !is(node, "MatMul") || left != x || inputs != scale.len() as i64 {
            return None;
        }
        let outputs = outputs as usize;
        let sum = self.sum_with_bias(&node.output[0], outputs);
        let bias = sum.as_ref().map_or_else(|| vec![0.0; outputs], |(_, bias)| bias.clone());

        let mut weights: Vec<f64> = f32s_of(matrix).into_iter().map(f64::from).collect();
        let mut remainder: Vec<f64> = bias.into_iter().map(f64::from).collect(); // e, for each output
        for (row, (&scale, &shift)) in weights.chunks_exact_mut(outputs).zip(scale.iter().zip(shift)) {
            for (weight, remainder) in row.iter_mut().zip(&mut remainder) {
                let scaled = *weight * f64::from(scale);
                *remainder += *weight * f64::from(shift) - scaled;
                *weight = scaled;
            }
        }
        let channels = inputs as f64;
        for row in weights.chunks_exact_mut(outputs) {
            row.iter_mut().zip(&remainder).for_each(|(weight, remainder)| *weight += remainder / channels);
        }
        let weights: Vec<f32> = weights.into_iter().map(|weight| weight as f32).collect();
        let weight = f32_tensor(&format!("{}/weight", node.output[0]), &[inputs as usize, outputs], &weights);
        Some(Product { node: index, weight, sum: sum.map(|(index, _)| index) })
    }

    /// The Add of a constant for each output that is all that reads the product, and that constant.
    fn sum_with_bias(&self, product: &str, outputs: usize) -> Option<(usize, Vec<f32>)> {
        let [reader] = self.readers.get(product)?[..] else { return None };
        let node = &self.nodes[reader];
        if !is(node, "Add") || self.outputs.contains(product) {
            return None;
        }
        let bias = node.input.iter().find(|input| *input != product)?;
        self.vector(bias).filter(|bias| bias.len() == outputs).map(|bias| (reader, bias))
    }

    /// A constant of one axis.
    fn vector(&self, name: &str) -> Option<Vec<f32>> {
        self.constants.get(name).filter(|constant| constant.dims.len() == 1).map(|constant| f32s_of(constant))
    }
}

fn is(node: &NodeProto, op: &str) -> bool {
    node.op_type.as_deref() == Some(op) && node.domain.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        onnx::{Extent, int, node, opset, value_info},
        session::{Options, Session},
    };

    /// Normalises (3, 4), then a product with a bias and one without; `more` nodes and outputs.
    fn model(more: &[NodeProto], outputs: &[&str]) -> ModelProto {
        let numbers = |n: usize, seed: f32| (0..n).map(|i| (seed * (i as f32 + 1.0)).sin()).collect::<Vec<_>>();
        let attribute = vec![int("axis", -1)];
        let mut nodes = vec![
            NodeProto { attribute, ..node("LayerNormalization", &["x", "scale", "shift"], &["y"]) },
            node("MatMul", &["y", "a"], &["ya"]),
            node("Add", &["bias", "ya"], &["with_bias"]),
            node("MatMul", &["y", "b"], &["without"]),
        ];
        nodes.extend_from_slice(more);
        let graph = GraphProto {
            name: Some("g".into()),
            node: nodes,
            input: vec![value_info("x", DataType::Float, Some(&[Extent::Fixed(3), Extent::Fixed(4)]))],
            output: outputs.iter().map(|name| value_info(name, DataType::Float, None)).collect(),
            initializer: vec![
                f32_tensor("scale", &[4], &numbers(4, 0.7)),
                f32_tensor("shift", &[4], &numbers(4, 1.3)),
                f32_tensor("a", &[4, 5], &numbers(20, 2.1)),
                f32_tensor("b", &[4, 2], &numbers(8, 3.7)),
                f32_tensor("bias", &[5], &numbers(5, 0.9)),
            ],
            ..GraphProto::default()
        };
        ModelProto { ir_version: Some(9), opset_import: vec![opset("", 17)], graph: Some(graph), ..ModelProto::default() }
    }

    fn run(model: &ModelProto) -> Vec<f32> {
        let x = [0.5, -1.0, 2.0, 0.25, 100.0, 101.0, 99.0, 102.0, 3.0, 3.0, 3.0, 3.0]; // an offset, and all alike
        let mut session = Session::open(model, Options { custom_op: false, threads: 1 }).unwrap();
        session.run(&[("x", &[3, 4], &x)]).unwrap().into_iter().flat_map(|(_, values)| values).collect()
    }

    fn rewritten(model: &ModelProto) -> ModelProto {
        in_weights(model.clone())
    }

    #[test]
    fn the_sum_goes_and_the_values_stay() {
        let model = model(&[], &["with_bias", "without"]);
        let rewritten = rewritten(&model);
        let graph = rewritten.graph.as_ref().unwrap();
        let ops: Vec<&str> = graph.node.iter().filter_map(|node| node.op_type.as_deref()).collect();
        assert_eq!(ops, ["LayerNormalization", "MatMul", "MatMul"]);
        assert_eq!(graph.initializer.len(), 3, "the ones and two matrices");
        let (expected, found) = (run(&model), run(&rewritten));
        assert_eq!(expected.len(), 3 * 5 + 3 * 2);
        assert!(expected.iter().zip(&found).all(|(a, b)| (a - b).abs() < 1e-5), "{expected:?}\n{found:?}");
    }

    #[test]
    fn a_norm_that_others_read_stays() {
        let read = model(&[node("Relu", &["y"], &["more"])], &["with_bias", "without", "more"]);
        assert_eq!(rewritten(&read), read);
        let given = model(&[], &["with_bias", "without", "y"]);
        assert_eq!(rewritten(&given), given);
        // The product itself is wanted, so its bias has to stay a sum of its own: then there is nothing to gain.
        let product = model(&[node("Relu", &["ya"], &["more"])], &["with_bias", "without", "more"]);
        assert_eq!(rewritten(&product), product);
        assert_eq!(run(&product).len(), 3 * 5 + 3 * 2 + 3 * 5);
    }
}
