//! A graph while it grows: fresh names, shared constants, and only what the outputs need in the end.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use super::{
    f32_tensor, i64_tensor, opset,
    proto::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, tensor_proto::DataType},
    value_info,
};

/// Size of one axis of a graph's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Known now.
    Fixed(usize),
    /// Known when the model runs; the same name means the same size.
    Named(String),
    /// Known when the model runs.
    Unknown,
}

/// Names of a node's outputs, in order.
pub type Outputs<const N: usize> = [String; N];

/// Collects nodes and constants; see [`Builder::finish`].
#[derive(Debug, Default)]
pub struct Builder {
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
    /// Content of a constant (hashed) to its places in `constants`.
    constants_by_content: HashMap<u64, Vec<usize>>,
    names: HashSet<String>,
    inputs: Vec<ValueInfoProto>,
    value_infos: Vec<ValueInfoProto>,
}

impl Builder {
    /// Adds an input of the graph, f32.
    pub fn input(&mut self, name: &str, shape: &[Extent]) {
        self.names.insert(name.to_owned());
        self.inputs.push(value_info(name, DataType::Float, Some(shape)));
    }

    /// Adds a node of standard ONNX with one output. `label` is where in the model it stands.
    pub fn node(&mut self, label: &str, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        let [output] = self.node_with(label, op, "", inputs, attributes);
        output
    }

    /// Adds a node of standard ONNX whose output is called `output`.
    pub fn node_named(&mut self, output: &str, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) {
        self.names.insert(output.to_owned());
        self.nodes.push(NodeProto { attribute: attributes, ..super::node(op, inputs, &[output]) });
    }

    /// Adds a node with any number of outputs.
    pub fn node_with<const N: usize>(
        &mut self,
        label: &str,
        op: &str,
        domain: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> Outputs<N> {
        let name = self.fresh(&if label.is_empty() { op.to_owned() } else { format!("{label}/{op}") });
        let outputs: Outputs<N> = std::array::from_fn(|i| if i == 0 { name.clone() } else { self.fresh(&format!("{name}:{i}")) });
        self.nodes.push(NodeProto {
            name: Some(name),
            op_type: Some(op.to_owned()),
            domain: (!domain.is_empty()).then(|| domain.to_owned()),
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: outputs.to_vec(),
            attribute: attributes,
            ..NodeProto::default()
        });
        outputs
    }

    /// A constant of f32 elements. One of equal content is used again.
    pub fn f32s(&mut self, label: &str, shape: &[usize], values: &[f32]) -> String {
        self.constant(label, f32_tensor("", shape, values))
    }

    /// A constant of i64 elements on one axis. One of equal content is used again.
    pub fn i64s(&mut self, values: &[i64]) -> String {
        self.constant("integers", i64_tensor("", values))
    }

    /// States the shape of a value that engines cannot infer themselves.
    pub fn declare(&mut self, name: &str, shape: &[Extent]) {
        self.value_infos.push(value_info(name, DataType::Float, Some(shape)));
    }

    /// Every node so far.
    #[must_use]
    pub fn nodes(&self) -> &[NodeProto] {
        &self.nodes
    }

    /// The model: what `outputs` (name, shape) need, and nothing else. Last outputs of operators of other domains that
    /// nobody uses are left out.
    #[must_use]
    pub fn finish(mut self, graph_name: &str, outputs: &[(String, Vec<Extent>)]) -> ModelProto {
        let mut needed: HashSet<String> = outputs.iter().map(|(name, _)| name.clone()).collect();
        // Nodes are in topological order: walking back meets every user before its maker.
        let mut live = Vec::with_capacity(self.nodes.len());
        for mut node in self.nodes.drain(..).rev() {
            if !node.output.iter().any(|output| needed.contains(output)) {
                continue;
            }
            needed.extend(node.input.iter().filter(|input| !input.is_empty()).cloned());
            // Only our own operator has outputs that may be absent.
            while node.domain.is_some() && node.output.last().is_some_and(|output| !needed.contains(output)) {
                node.output.pop();
            }
            live.push(node);
        }
        live.reverse();
        let used = |name: &Option<String>| name.as_ref().is_some_and(|name| needed.contains(name));
        let graph = GraphProto {
            name: Some(graph_name.to_owned()),
            node: live,
            initializer: self.constants.into_iter().filter(|constant| used(&constant.name)).collect(),
            input: self.inputs,
            output: outputs.iter().map(|(name, shape)| value_info(name, DataType::Float, Some(shape))).collect(),
            value_info: self.value_infos.into_iter().filter(|info| used(&info.name)).collect(),
            ..GraphProto::default()
        };
        ModelProto {
            ir_version: Some(super::IR_VERSION),
            opset_import: vec![opset("", super::OPSET)],
            producer_name: Some("poselift export".to_owned()),
            producer_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            graph: Some(graph),
            ..ModelProto::default()
        }
    }

    fn constant(&mut self, label: &str, mut tensor: TensorProto) -> String {
        let mut hasher = DefaultHasher::new();
        (&tensor.dims, tensor.data_type, &tensor.raw_data).hash(&mut hasher);
        let content = hasher.finish();
        let same = self
            .constants_by_content
            .get(&content)
            .into_iter()
            .flatten()
            .map(|&i| &self.constants[i])
            .find(|known| known.dims == tensor.dims && known.data_type == tensor.data_type && known.raw_data == tensor.raw_data);
        if let Some(name) = same.and_then(|known| known.name.clone()) {
            return name;
        }
        let name = self.fresh(if label.is_empty() { "constant" } else { label });
        tensor.name = Some(name.clone());
        self.constants_by_content.entry(content).or_default().push(self.constants.len());
        self.constants.push(tensor);
        name
    }

    /// `wanted`, or `wanted_2`, `wanted_3`, ... when it is taken.
    fn fresh(&mut self, wanted: &str) -> String {
        let name = std::iter::once(wanted.to_owned())
            .chain((2usize..).map(|n| format!("{wanted}_{n}")))
            .find(|name| !self.names.contains(name))
            .unwrap_or_default(); // the chain has no end
        self.names.insert(name.clone());
        name
    }
}
