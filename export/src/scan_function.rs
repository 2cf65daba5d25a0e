//! The selective scan in standard ONNX: the body that a file carries for engines that do not know the operator.
//!
//! A function of ONNX cannot ask whether an input is there, so its body is written for the one form that a file uses.

use std::fmt;

use scan::schema;

use crate::onnx::{
    self, Extent, OPSET, f32_tensor, graph, i64_tensor, int, ints, node, opset,
    proto::{FunctionProto, GraphProto, NodeProto, tensor_proto::DataType},
    tensor, value_info,
};

/// Which of its optional parts a scan uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ScanForm {
    /// Skip connection D.
    pub d: bool,
    /// Gate z.
    pub z: bool,
    /// Bias of delta.
    pub delta_bias: bool,
    /// A state to start from.
    pub initial_state: bool,
    /// delta passes through softplus.
    pub delta_softplus: bool,
    /// The second output.
    pub last_state: bool,
}

/// Element type of u, delta, B, C, z and y; the rest is f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementType {
    /// f32
    F32,
    /// f16; computed in f32
    F16,
}

/// A model uses the scan in two forms.
#[derive(Debug, thiserror::Error)]
#[error("the model uses the selective scan in two forms ({0} and {1}), but a file can hold the function body of one only")]
pub struct TwoForms(ScanForm, ScanForm);

impl fmt::Display for ScanForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("u, delta, A, B, C")?;
        for (used, name) in [
            (self.d, "D"),
            (self.z, "z"),
            (self.delta_bias, "delta_bias"),
            (self.initial_state, "initial_state"),
            (self.delta_softplus, "softplus"),
        ] {
            if used {
                write!(f, ", {name}")?;
            }
        }
        Ok(())
    }
}

impl ScanForm {
    /// Every form there is.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..64u32).map(|bits| {
            let bit = |i: u32| bits >> i & 1 == 1;
            Self { d: bit(0), z: bit(1), delta_bias: bit(2), initial_state: bit(3), delta_softplus: bit(4), last_state: bit(5) }
        })
    }

    /// The form of one node.
    fn of_node(node: &NodeProto) -> Self {
        let has = |name: &str| {
            let position = schema::INPUTS.iter().position(|&input| input == name);
            position.and_then(|i| node.input.get(i)).is_some_and(|input| !input.is_empty())
        };
        Self {
            d: has("D"),
            z: has("z"),
            delta_bias: has("delta_bias"),
            initial_state: has("initial_state"),
            delta_softplus: node.attribute.iter().any(|a| a.name.as_deref() == Some(schema::DELTA_SOFTPLUS) && a.i == Some(1)),
            last_state: node.output.len() > 1,
        }
    }

    /// The one form that serves all these nodes; none when there are none.
    ///
    /// # Errors
    /// [`TwoForms`]. Only the second output may be there in some and absent in others.
    pub fn shared<'a>(nodes: impl Iterator<Item = &'a NodeProto>) -> Result<Option<Self>, TwoForms> {
        let mut shared: Option<Self> = None;
        for form in nodes.map(Self::of_node) {
            shared = Some(match shared {
                None => form,
                Some(known) if (Self { last_state: form.last_state, ..known }) == form => {
                    Self { last_state: known.last_state || form.last_state, ..form }
                }
                Some(known) => return Err(TwoForms(known, form)),
            });
        }
        Ok(shared)
    }

    /// Inputs in the schema's order, up to the last one that is used; those unused before it keep their place.
    pub fn inputs(&self) -> Vec<(&'static str, bool)> {
        let optional = [self.d, self.z, self.delta_bias, self.initial_state];
        let used = |i: usize| i < schema::REQUIRED_INPUTS || optional[i - schema::REQUIRED_INPUTS];
        let last = (0..schema::INPUTS.len()).rev().find(|&i| used(i)).unwrap_or(0);
        schema::INPUTS[..=last].iter().enumerate().map(|(i, &name)| (name, used(i))).collect()
    }
}

/// The function `SelectiveScan` for one form. Names inside are the schema's.
#[must_use]
pub fn function(form: ScanForm, element: ElementType) -> FunctionProto {
    let mut body = Body { nodes: Vec::new(), element };
    let u = body.widened("u");
    let mut delta = body.widened("delta");
    let (b, c) = (body.widened("B"), body.widened("C"));
    if form.delta_bias {
        delta = body.apply("Add", &[&delta, "delta_bias"], "biased_delta");
    }
    if form.delta_softplus {
        delta = body.apply("Softplus", &[&delta], "positive_delta");
    }
    let delta_u = body.apply("Mul", &[&delta, &u], "delta_u"); // (S, L, D)
    let initial = if form.initial_state { "initial_state".to_owned() } else { body.zero_state(&u) };
    body.nodes.push(NodeProto {
        attribute: vec![graph("body", step()), int("num_scan_inputs", 4), ints("scan_input_axes", &[1; 4]), ints("scan_output_axes", &[1])],
        ..node("Scan", &[&initial, &delta, &delta_u, &b, &c], &["last_state", "states_times_c"])
    });
    let mut y = "states_times_c".to_owned();
    if form.d {
        let skipped = body.apply("Mul", &[&u, "D"], "d_u");
        y = body.apply("Add", &[&y, &skipped], "with_skip");
    }
    if form.z {
        let z = body.widened("z");
        let sigmoid = body.apply("Sigmoid", &[&z], "sigmoid_z");
        let gate = body.apply("Mul", &[&z, &sigmoid], "silu_z");
        y = body.apply("Mul", &[&y, &gate], "gated");
    }
    match element {
        ElementType::F32 => body.apply("Identity", &[&y], "y"),
        ElementType::F16 => body.cast(&y, DataType::Float16, "y"),
    };
    FunctionProto {
        name: Some(schema::OP.to_owned()),
        domain: Some(schema::DOMAIN.to_owned()),
        input: form.inputs().into_iter().map(|(name, _)| name.to_owned()).collect(),
        output: schema::OUTPUTS[..if form.last_state { 2 } else { 1 }].iter().map(|&name| name.to_owned()).collect(),
        attribute: vec![schema::DELTA_SOFTPLUS.to_owned()],
        opset_import: vec![opset("", OPSET)],
        node: body.nodes,
        doc_string: Some(format!(
            "Selective scan (Gu and Dao, Mamba, 2023) of {form}: h_t = exp(delta_t A) h_(t-1) + delta_t u_t B_t, y_t = C_t . h_t + D u_t, y_t *= silu(z_t). \
             Written for this combination of inputs."
        )),
        ..FunctionProto::default()
    }
}

struct Body {
    nodes: Vec<NodeProto>,
    element: ElementType,
}

impl Body {
    fn apply(&mut self, op: &str, inputs: &[&str], output: &str) -> String {
        self.nodes.push(node(op, inputs, &[output]));
        output.to_owned()
    }

    fn cast(&mut self, input: &str, to: DataType, output: &str) -> String {
        self.nodes.push(NodeProto { attribute: vec![int("to", to as i64)], ..node("Cast", &[input], &[output]) });
        output.to_owned()
    }

    /// An input in f32.
    fn widened(&mut self, name: &str) -> String {
        match self.element {
            ElementType::F32 => name.to_owned(),
            ElementType::F16 => self.cast(name, DataType::Float, &format!("{name}_f32")),
        }
    }

    /// Zeros (S, D, N).
    fn zero_state(&mut self, u: &str) -> String {
        self.nodes.push(NodeProto { attribute: vec![int("start", 0), int("end", 1)], ..node("Shape", &[u], &["sequences"]) });
        self.nodes.push(node("Shape", &["A"], &["channels_states"]));
        self.nodes
            .push(NodeProto { attribute: vec![int("axis", 0)], ..node("Concat", &["sequences", "channels_states"], &["state_shape"]) });
        let zero = tensor("value", f32_tensor("", &[1], &[0.0]));
        self.nodes.push(NodeProto { attribute: vec![zero], ..node("ConstantOfShape", &["state_shape"], &["zero_state"]) });
        "zero_state".to_owned()
    }
}

/// One frame: state (S, D, N), delta and delta u (S, D), B and C (S, N) -> state, C . state (S, D). A is the outer graph's.
fn step() -> GraphProto {
    let axis =
        |name: &str, axis: i64| NodeProto { attribute: vec![tensor("value", i64_tensor("", &[axis]))], ..node("Constant", &[], &[name]) };
    let value = |name: &str, rank: usize| value_info(name, DataType::Float, Some(&vec![Extent::Unknown; rank]));
    GraphProto {
        name: Some("frame".to_owned()),
        input: [("state_before", 3), ("delta_t", 2), ("delta_u_t", 2), ("b_t", 2), ("c_t", 2)]
            .map(|(name, rank)| value(name, rank))
            .to_vec(),
        output: vec![value("state_after", 3), value("y_t", 2)],
        node: vec![
            axis("last", -1),
            axis("middle", 1),
            onnx::node("Unsqueeze", &["delta_t", "last"], &["delta_column"]), // (S, D, 1)
            onnx::node("Mul", &["delta_column", "A"], &["exponent"]),         // (S, D, N)
            onnx::node("Exp", &["exponent"], &["decay"]),
            onnx::node("Mul", &["decay", "state_before"], &["decayed"]),
            onnx::node("Unsqueeze", &["delta_u_t", "last"], &["delta_u_column"]),
            onnx::node("Unsqueeze", &["b_t", "middle"], &["b_row"]), // (S, 1, N)
            onnx::node("Mul", &["delta_u_column", "b_row"], &["added"]),
            onnx::node("Add", &["decayed", "added"], &["state_after"]),
            onnx::node("Unsqueeze", &["c_t", "last"], &["c_column"]), // (S, N, 1)
            onnx::node("MatMul", &["state_after", "c_column"], &["y_column"]),
            onnx::node("Squeeze", &["y_column", "last"], &["y_t"]),
        ],
        ..GraphProto::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_end_with_the_last_one_used() {
        let names = |form: ScanForm| form.inputs().into_iter().map(|(name, used)| if used { name } else { "" }).collect::<Vec<_>>();
        assert_eq!(names(ScanForm::default()), ["u", "delta", "A", "B", "C"]);
        assert_eq!(
            names(ScanForm { d: true, delta_bias: true, ..ScanForm::default() }),
            ["u", "delta", "A", "B", "C", "D", "", "delta_bias"]
        );
        assert_eq!(names(ScanForm { initial_state: true, ..ScanForm::default() }).len(), schema::INPUTS.len());
    }

    #[test]
    fn two_forms_in_one_file_are_refused() {
        let scan = |inputs: &[&str]| node(schema::OP, inputs, &["y"]);
        let (plain, gated) = (scan(&["u", "delta", "A", "B", "C"]), scan(&["u", "delta", "A", "B", "C", "", "z"]));
        assert_eq!(ScanForm::shared([&plain, &plain].into_iter()).unwrap(), Some(ScanForm::default()));
        let message = ScanForm::shared([&plain, &gated].into_iter()).unwrap_err().to_string();
        assert!(message.contains("two forms"), "{message}");
        assert_eq!(ScanForm::shared([].into_iter()).unwrap(), None);
    }
}
