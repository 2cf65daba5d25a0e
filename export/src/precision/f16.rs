//! A whole graph in f16.

use std::collections::{HashMap, HashSet};

use half::f16;

use super::Error;
use crate::{
    onnx::{
        DataType, f16_tensor, f32s_of, int, node,
        proto::{ModelProto, NodeProto, TensorProto, type_proto},
    },
    scan_function::{self, ElementType, ScanForm},
};

/// Positions among the scan's inputs that are f32 whatever u is: A, D, delta_bias, initial_state.
const SCAN_F32_INPUTS: [usize; 4] = [2, 5, 7, 8];

/// The model with f16 inside: weights, operators, and u, delta, B, C, z, y of the scan, whose state stays f32 as does its arithmetic.
/// Inputs and outputs of the graph stay f32.
///
/// # Errors
/// [`Error::TooLarge`], [`Error::Scan`].
pub fn to_f16(model: &ModelProto) -> Result<ModelProto, Error> {
    let mut model = model.clone();
    let Some(graph) = &mut model.graph else { return Ok(model) };
    let constants: HashMap<String, TensorProto> = graph
        .initializer
        .iter()
        .filter(|tensor| tensor.data_type == Some(DataType::Float as i32))
        .filter_map(|tensor| Some((tensor.name.clone()?, tensor.clone())))
        .collect();
    let mut narrower = Narrower {
        wide: graph.input.iter().filter_map(|input| input.name.clone()).chain(constants.keys().cloned()).collect(),
        constants,
        made: HashSet::new(),
        nodes: Vec::with_capacity(graph.node.len()),
        new_constants: Vec::new(),
    };
    // An output of the graph is computed under another name and cast.
    let outputs: HashSet<String> = graph.output.iter().filter_map(|output| output.name.clone()).collect();
    let mut casts = Vec::new();
    for mut node in std::mem::take(&mut graph.node) {
        let is_scan = node.op_type.as_deref() == Some(scan::schema::OP);
        for (position, input) in node.input.iter_mut().enumerate().filter(|(_, input)| !input.is_empty()) {
            *input = if is_scan && SCAN_F32_INPUTS.contains(&position) { narrower.in_f32(input) } else { narrower.in_f16(input)? };
        }
        if is_cast_to_f32(&node) {
            node.attribute = vec![int("to", DataType::Float16 as i64)];
        }
        if is_scan {
            narrower.wide.extend(node.output.get(1).cloned());
        }
        for output in &mut node.output {
            if outputs.contains(output) && !narrower.wide.contains(output) {
                let inner = format!("{output}/f16");
                casts.push(cast(&inner, DataType::Float, output));
                if node.name.as_ref() == Some(output) {
                    node.name = Some(inner.clone());
                }
                *output = inner;
            }
        }
        narrower.nodes.push(node);
    }
    let Narrower { nodes, new_constants, wide, .. } = narrower;
    graph.node = nodes;
    graph.node.append(&mut casts);
    graph.initializer.extend(new_constants);
    let used: HashSet<&String> = graph.node.iter().flat_map(|node| &node.input).collect();
    graph.initializer.retain(|tensor| tensor.name.as_ref().is_some_and(|name| used.contains(name)));
    for info in &mut graph.value_info {
        if let (Some(name), Some(type_proto::Value::TensorType(tensor))) = (&info.name, info.r#type.as_mut().and_then(|t| t.value.as_mut()))
            && !wide.contains(name)
        {
            tensor.elem_type = Some(DataType::Float16 as i32);
        }
    }
    if let Some(form) = ScanForm::shared(graph.node.iter().filter(|node| node.op_type.as_deref() == Some(scan::schema::OP)))? {
        model.functions = vec![scan_function::function(form, ElementType::F16)];
    }
    Ok(model)
}

struct Narrower {
    /// Values that are f32; all other floats are f16 by now.
    wide: HashSet<String>,
    constants: HashMap<String, TensorProto>,
    /// What was already made smaller or larger.
    made: HashSet<String>,
    nodes: Vec<NodeProto>,
    new_constants: Vec<TensorProto>,
}

impl Narrower {
    fn in_f16(&mut self, value: &str) -> Result<String, Error> {
        if !self.wide.contains(value) {
            return Ok(value.to_owned());
        }
        let narrow = format!("{value}/f16");
        if self.made.insert(narrow.clone()) {
            match self.constants.get(value) {
                Some(constant) => {
                    let values = f32s_of(constant);
                    if let Some(&value) = values.iter().find(|value| value.is_finite() && value.abs() > f16::MAX.to_f32()) {
                        return Err(Error::TooLarge { name: constant.name.clone().unwrap_or_default(), value });
                    }
                    let shape: Vec<usize> = constant.dims.iter().map(|&size| size as usize).collect();
                    self.new_constants.push(f16_tensor(&narrow, &shape, &values));
                }
                None => self.nodes.push(cast(value, DataType::Float16, &narrow)),
            }
        }
        Ok(narrow)
    }

    fn in_f32(&mut self, value: &str) -> String {
        if self.wide.contains(value) {
            return value.to_owned();
        }
        let wide = format!("{value}/f32");
        if self.made.insert(wide.clone()) {
            self.nodes.push(cast(value, DataType::Float, &wide));
        }
        wide
    }
}

fn cast(from: &str, to: DataType, name: &str) -> NodeProto {
    NodeProto { attribute: vec![int("to", to as i64)], ..node("Cast", &[from], &[name]) }
}

fn is_cast_to_f32(node: &NodeProto) -> bool {
    let to = node.attribute.iter().find(|attribute| attribute.name.as_deref() == Some("to")).and_then(|attribute| attribute.i);
    node.op_type.as_deref() == Some("Cast") && to == Some(DataType::Float as i64)
}
