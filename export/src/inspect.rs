//! What an ONNX model holds and what it costs.
//!
//! Multiply-accumulates are counted on a run: the model is opened with the shapes of all factors as its outputs, so that no
//! shape has to be guessed. What counts is where the work is: matrix products, convolutions and the selective scan (four for
//! each frame, channel and state: `delta A`, `decay h`, `+ delta u B`, `C h`). Activations, norms and additions do not.

use std::collections::{BTreeMap, HashMap, HashSet};

use pose::metadata::ModelMetadata;
use serde::Serialize;

use crate::{
    onnx::{
        Extent, node,
        proto::{
            AttributeProto, GraphProto, ModelProto, NodeProto, ValueInfoProto, tensor_proto::DataType, tensor_shape_proto::dimension,
            type_proto,
        },
        value_info,
    },
    session::{self, Options, Session},
};

/// What a model says and what is counted in it.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// What a lifter says of itself; `None` in models that are not poselift's.
    pub metadata: Option<ModelMetadata>,
    /// Operator sets: domain (empty: standard ONNX) and version.
    pub opsets: Vec<(String, i64)>,
    /// Operators that the file carries a body for.
    pub functions: Vec<String>,
    /// Inputs that are no constants.
    pub inputs: Vec<Port>,
    /// Outputs.
    pub outputs: Vec<Port>,
    /// Nodes of the main graph by operator, with its domain where it is not standard.
    pub operators: BTreeMap<String, usize>,
    /// Numbers in constants of floating point: the parameters as the file has them, folded and merged constants counted as they lie there.
    pub constants: u64,
    /// Bytes of all constants.
    pub constant_bytes: u64,
}

/// An input or output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Port {
    /// Name.
    pub name: String,
    /// Type of its elements, by ONNX's name.
    pub element: String,
    /// Sizes, names of free sizes, or `?`; `None` where even the number of axes is open.
    pub shape: Option<Vec<String>>,
}

/// Multiply-accumulates of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Macs {
    /// By operator.
    pub by_operator: BTreeMap<String, u64>,
    /// Nodes with graphs of their own (`If`, `Loop`, `Scan`), whose work is not counted.
    pub uncounted: usize,
}

impl Macs {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.by_operator.values().sum()
    }
}

/// Why the work could not be counted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not run.
    #[error(transparent)]
    Run(#[from] session::Error),
    /// Its input is of another kind than this code can make up.
    #[error("input `{name}` is {found}: the work can be counted of models whose inputs are float tensors of known rank")]
    Input {
        /// Which input.
        name: String,
        /// Its type.
        found: String,
    },
}

/// What stands in the file.
#[must_use]
pub fn inspect(model: &ModelProto) -> Inspection {
    let empty = GraphProto::default();
    let graph = model.graph.as_ref().unwrap_or(&empty);
    let constants: HashSet<&str> = graph.initializer.iter().filter_map(|tensor| tensor.name.as_deref()).collect();
    let mut operators = BTreeMap::new();
    for node in &graph.node {
        *operators.entry(operator(node)).or_default() += 1;
    }
    let count = |dims: &[i64]| dims.iter().map(|&n| u64::try_from(n).unwrap_or(0)).product::<u64>();
    let float = |kind: Option<i32>| {
        [DataType::Float, DataType::Float16, DataType::Bfloat16, DataType::Double].iter().any(|t| kind == Some(*t as i32))
    };
    let metadata = model
        .metadata_props
        .iter()
        .find(|property| property.key.as_deref() == Some(ModelMetadata::ONNX_KEY))
        .and_then(|property| serde_json::from_str(property.value.as_deref()?).ok());
    Inspection {
        metadata,
        opsets: model.opset_import.iter().map(|set| (set.domain.clone().unwrap_or_default(), set.version.unwrap_or(0))).collect(),
        functions: model
            .functions
            .iter()
            .map(|f| qualified(f.domain.as_deref().unwrap_or_default(), f.name.as_deref().unwrap_or_default()))
            .collect(),
        inputs: graph.input.iter().filter(|input| !constants.contains(input.name.as_deref().unwrap_or_default())).map(port).collect(),
        outputs: graph.output.iter().map(port).collect(),
        operators,
        constants: graph.initializer.iter().filter(|tensor| float(tensor.data_type)).map(|tensor| count(&tensor.dims)).sum(),
        constant_bytes: graph.initializer.iter().map(|tensor| count(&tensor.dims) * element_bytes(tensor.data_type)).sum(),
    }
}

fn operator(node: &NodeProto) -> String {
    qualified(node.domain.as_deref().unwrap_or_default(), node.op_type.as_deref().unwrap_or_default())
}

fn qualified(domain: &str, name: &str) -> String {
    if domain.is_empty() || domain == "ai.onnx" { name.to_owned() } else { format!("{domain}.{name}") }
}

fn element_bytes(kind: Option<i32>) -> u64 {
    match kind.and_then(|kind| DataType::try_from(kind).ok()) {
        Some(DataType::Double | DataType::Int64 | DataType::Uint64) => 8,
        Some(DataType::Float16 | DataType::Bfloat16 | DataType::Int16 | DataType::Uint16) => 2,
        Some(DataType::Int8 | DataType::Uint8 | DataType::Bool) => 1,
        _ => 4,
    }
}

fn port(info: &ValueInfoProto) -> Port {
    let name = info.name.clone().unwrap_or_default();
    let Some(type_proto::Value::TensorType(tensor)) = info.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
        return Port { name, element: "no tensor".to_owned(), shape: None };
    };
    let element = tensor.elem_type.and_then(|kind| DataType::try_from(kind).ok()).map_or("undefined", |kind| kind.as_str_name());
    let size = |value: &Option<dimension::Value>| match value {
        Some(dimension::Value::DimValue(size)) => size.to_string(),
        Some(dimension::Value::DimParam(name)) if !name.is_empty() => name.clone(),
        _ => "?".to_owned(),
    };
    let shape = tensor.shape.as_ref().map(|shape| shape.dim.iter().map(|dim| size(&dim.value)).collect());
    Port { name, element: element.to_lowercase(), shape }
}

/// Runs the model once on zeros and counts. Free sizes are 1, but for those in `sizes`; a `?` first axis counts as `batch`.
///
/// # Errors
/// [`Error`]: inputs of another kind, or a model that does not run on such sizes.
pub fn count_macs(model: &ModelProto, sizes: &HashMap<String, usize>) -> Result<Macs, Error> {
    let inspection = inspect(model);
    let mut inputs: Vec<(String, Vec<usize>)> = Vec::new();
    for input in &inspection.inputs {
        let shape = input.shape.as_ref().filter(|_| input.element == "float").ok_or_else(|| Error::Input {
            name: input.name.clone(),
            found: format!(
                "{} of {}",
                input.element,
                input.shape.as_ref().map_or("unknown rank".to_owned(), |s| format!("{} axes", s.len()))
            ),
        })?;
        let size = |text: &String| text.parse().ok().or_else(|| sizes.get(text).copied()).unwrap_or(1);
        inputs.push((input.name.clone(), shape.iter().map(size).collect()));
    }

    let (probe, wanted) = with_shapes_as_outputs(model);
    let mut session = Session::open(&probe, Options { custom_op: true, threads: 0 })?;
    let zeros: Vec<Vec<f32>> = inputs.iter().map(|(_, shape)| vec![0.0; shape.iter().product()]).collect();
    let feed: Vec<(&str, &[usize], &[f32])> =
        inputs.iter().zip(&zeros).map(|((name, shape), values)| (name.as_str(), shape.as_slice(), values.as_slice())).collect();
    let shapes: HashMap<&str, Vec<i64>> = wanted.iter().map(String::as_str).zip(session.run_for_integers(&feed)?).collect();

    let empty = GraphProto::default();
    let graph = model.graph.as_ref().unwrap_or(&empty);
    let constants: HashMap<&str, &[i64]> =
        graph.initializer.iter().filter_map(|tensor| Some((tensor.name.as_deref()?, tensor.dims.as_slice()))).collect();
    let shape_of = |name: Option<&String>| -> &[i64] {
        let name = name.map_or("", String::as_str);
        shapes.get(name).map(Vec::as_slice).or_else(|| constants.get(name).copied()).unwrap_or_default()
    };
    let mut macs = Macs::default();
    for node in &graph.node {
        if node.attribute.iter().any(|attribute| attribute.g.is_some()) {
            macs.uncounted += 1;
        }
        let count = macs_of(node, &shape_of);
        if count > 0 {
            *macs.by_operator.entry(operator(node)).or_default() += count;
        }
    }
    Ok(macs)
}

/// Operators whose work is counted.
const COUNTED: [&str; 4] = ["MatMul", "Gemm", "Conv", scan::schema::OP];

fn product(dims: &[i64]) -> u64 {
    dims.iter().map(|&n| u64::try_from(n).unwrap_or(0)).product()
}

fn macs_of<'s>(node: &NodeProto, shape_of: &impl Fn(Option<&String>) -> &'s [i64]) -> u64 {
    let (first, second, output) = (shape_of(node.input.first()), shape_of(node.input.get(1)), shape_of(node.output.first()));
    match node.op_type.as_deref().unwrap_or_default() {
        "MatMul" => product(output) * first.last().map_or(0, |&k| product(&[k])),
        "Gemm" => {
            let transposed = attribute(node, "transA").and_then(|a| a.i).unwrap_or(0) != 0;
            product(output) * first.get(usize::from(!transposed)).map_or(0, |&k| product(&[k]))
        }
        // The weights of one output value: (out, in / groups, kernel..)
        "Conv" => product(output) * second.get(1..).map_or(0, product),
        // u (S, L, D), A (D, N)
        scan::schema::OP => 4 * product(first) * shape_of(node.input.get(2)).get(1).map_or(0, |&n| product(&[n])),
        _ => 0,
    }
}

fn attribute<'n>(node: &'n NodeProto, name: &str) -> Option<&'n AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name.as_deref() == Some(name))
}

/// The model with the shapes of what is counted in place of its outputs, and what they are the shapes of.
fn with_shapes_as_outputs(model: &ModelProto) -> (ModelProto, Vec<String>) {
    let mut probe = model.clone();
    let graph = probe.graph.get_or_insert_default();
    let constants: HashSet<String> = graph.initializer.iter().filter_map(|tensor| tensor.name.clone()).collect();
    let counted = graph.node.iter().filter(|node| node.op_type.as_deref().is_some_and(|op| COUNTED.contains(&op)));
    let mut wanted: Vec<String> = counted
        .flat_map(|node| node.input.iter().take(3).chain(node.output.first()))
        .filter(|name| !name.is_empty() && !constants.contains(*name))
        .cloned()
        .collect();
    wanted.sort();
    wanted.dedup();
    graph.output.clear();
    for (i, name) in wanted.iter().enumerate() {
        let shape = format!("poselift_shape_{i}");
        graph.node.push(node("Shape", &[name], &[&shape]));
        graph.output.push(value_info(&shape, DataType::Int64, Some(&[Extent::Unknown])));
    }
    (probe, wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::{Builder, float, int, ints};

    /// (B, 4, 6) x (6, 5), a convolution of 3 taps in 2 groups, and a scan.
    fn model() -> ModelProto {
        let mut builder = Builder::default();
        builder.input("x", &[Extent::Named("batch".into()), Extent::Fixed(4), Extent::Fixed(6)]);
        let weight = builder.f32s("weight", &[6, 5], &[0.5; 30]);
        let y = builder.node("", "MatMul", &["x", &weight], vec![]);
        let taps = builder.f32s("taps", &[2, 2, 3], &[0.1; 12]);
        let filtered = builder.node("", "Conv", &["x", &taps], vec![int("group", 2), ints("kernel_shape", &[3])]);
        let scaled = builder.node("", "LeakyRelu", &[&filtered], vec![float("alpha", 0.1)]);
        builder.node_named("y", "Identity", &[&y], vec![]);
        builder.node_named("filtered", "Identity", &[&scaled], vec![]);
        builder.finish("counted", &["y", "filtered"].map(|name| (name.to_owned(), vec![Extent::Unknown; 3])))
    }

    #[test]
    fn work_is_counted_by_hand() {
        let sizes = HashMap::from([("batch".to_owned(), 3)]);
        let macs = count_macs(&model(), &sizes).unwrap();
        // 3 x 4 x 5 values of 6 products; 3 x 2 channels x (6 - 2) places of 2 x 3 taps
        assert_eq!(macs.by_operator, BTreeMap::from([("MatMul".to_owned(), 360), ("Conv".to_owned(), 144)]));
        assert_eq!((macs.total(), macs.uncounted), (504, 0));
        assert_eq!(count_macs(&model(), &HashMap::new()).unwrap().total(), 168, "a free size is 1");
    }

    #[test]
    fn what_stands_in_the_file() {
        let inspection = inspect(&model());
        assert_eq!(inspection.inputs[0].shape.as_deref(), Some(&["batch", "4", "6"].map(String::from)[..]));
        assert_eq!((inspection.constants, inspection.constant_bytes), (42, 168));
        assert_eq!((inspection.operators["MatMul"], inspection.operators["Identity"]), (1, 2));
        assert!(inspection.metadata.is_none());
    }
}
