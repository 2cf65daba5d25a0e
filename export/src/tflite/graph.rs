//! Builds the ONNX graph.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::model::{Activation, Constant, Kind, Model, Operator, Padding, Values, WindowOptions, element_count};
use super::{Error, Output};
use crate::onnx::proto::attribute_proto::AttributeType;
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use crate::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
    type_proto,
};

const IR_VERSION: i64 = 8;
const OPSET: i64 = 17;
/// Elements of all constants together: 1 GiB of f32.
const MAX_CONSTANT_ELEMENTS: usize = 1 << 28;
const NHWC_TO_NCHW: [i64; 4] = [0, 3, 1, 2];
const NCHW_TO_NHWC: [i64; 4] = [0, 2, 3, 1];

pub fn convert(model: &Model<'_>, outputs: &[Output]) -> Result<ModelProto, Error> {
    let outputs = kept_outputs(model, outputs)?;
    let needed = needed_tensors(model, outputs.iter().map(|(tensor, _)| *tensor));
    let mut builder = Builder {
        model,
        nodes: Vec::new(),
        initializers: Vec::new(),
        defined: HashSet::new(),
        constants: HashMap::new(),
        constant_elements: 0,
        nhwc: HashSet::new(),
    };
    let inputs = model.inputs.iter().map(|&tensor| builder.graph_input(tensor)).collect();
    for operator in &model.operators {
        if operator.outputs.iter().any(|output| needed.contains(output)) {
            builder.operator(operator)?;
        }
    }
    let outputs = outputs.iter().map(|(tensor, name)| builder.graph_output(*tensor, name)).collect::<Result<_, _>>()?;
    check_single_assignment(&builder, model)?;
    let graph = GraphProto {
        name: Some("tflite".to_owned()),
        node: builder.nodes,
        initializer: builder.initializers,
        input: inputs,
        output: outputs,
        ..Default::default()
    };
    Ok(ModelProto {
        ir_version: Some(IR_VERSION),
        producer_name: Some("poselift".to_owned()),
        producer_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(OPSET) }],
        graph: Some(graph),
        ..Default::default()
    })
}

/// Every name of the graph is defined once: a file may hold an operator twice, or call its outputs as we call our values.
fn check_single_assignment(builder: &Builder<'_>, model: &Model<'_>) -> Result<(), Error> {
    let inputs = model.inputs.iter().map(|&tensor| model.tensors[tensor].name);
    let initializers = builder.initializers.iter().filter_map(|tensor| tensor.name.as_deref());
    let computed = builder.nodes.iter().flat_map(|node| node.output.iter().map(String::as_str));
    let mut names = HashSet::new();
    match inputs.chain(initializers).chain(computed).find(|&name| !names.insert(name)) {
        Some(name) => Err(Error::Inconsistent(format!("the name {name:?} is defined twice"))),
        None => Ok(()),
    }
}

/// The kept outputs as (tensor, ONNX name).
fn kept_outputs(model: &Model<'_>, asked: &[Output]) -> Result<Vec<(usize, String)>, Error> {
    let kept: Vec<(usize, String)> = if asked.is_empty() {
        model.outputs.iter().map(|&tensor| (tensor, model.tensors[tensor].name.to_owned())).collect()
    } else {
        asked.iter().map(|output| Ok((find_output(model, &output.tflite_name)?, output.onnx_name.clone()))).collect::<Result<_, _>>()?
    };
    let mut names = model.inputs.iter().map(|&tensor| model.tensors[tensor].name).chain(kept.iter().map(|(_, name)| &**name));
    if names.any(str::is_empty) {
        return Err(Error::Inconsistent("an input or output has no name".to_owned()));
    }
    Ok(kept)
}

fn find_output(model: &Model<'_>, name: &str) -> Result<usize, Error> {
    model.outputs.iter().copied().find(|&tensor| model.tensors[tensor].name == name).ok_or_else(|| {
        let names: Vec<&str> = model.outputs.iter().map(|&tensor| model.tensors[tensor].name).collect();
        Error::NoSuchOutput { asked: name.to_owned(), outputs: names.join(", ") }
    })
}

/// Every tensor that the outputs depend on, themselves included.
fn needed_tensors(model: &Model<'_>, outputs: impl Iterator<Item = usize>) -> HashSet<usize> {
    let mut needed: HashSet<usize> = outputs.collect();
    for operator in model.operators.iter().rev() {
        if operator.outputs.iter().any(|output| needed.contains(output)) {
            needed.extend(operator.inputs.iter().flatten());
        }
    }
    needed
}

struct Builder<'m> {
    model: &'m Model<'m>,
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
    /// Tensors that a node computes, or that are constants already written as initialisers.
    defined: HashSet<usize>,
    constants: HashMap<usize, Rc<Constant>>,
    constant_elements: usize,
    /// Tensors that were transposed back to NHWC for someone.
    nhwc: HashSet<usize>,
}

impl Builder<'_> {
    fn shape(&self, tensor: usize) -> &[usize] {
        &self.model.tensors[tensor].shape
    }

    /// (height, width, channels) of an image of batch size 1.
    fn image_shape(&self, tensor: usize) -> Result<[usize; 3], Error> {
        match *self.shape(tensor) {
            // A product that fits also keeps the arithmetic on windows and blocks from overflowing.
            [1, height, width, channels] if element_count(&[height, width, channels]).is_some_and(|n| n > 0) => {
                Ok([height, width, channels])
            }
            ref other => Err(Error::Unsupported(format!("an image operator on shape {other:?} (expected [1, height, width, channels])"))),
        }
    }

    fn operator(&mut self, operator: &Operator<'_>) -> Result<(), Error> {
        match operator.kind {
            Kind::Conv2d | Kind::DepthwiseConv2d => self.convolution(operator)?,
            Kind::Add => self.add(operator)?,
            Kind::Pad => self.pad(operator)?,
            Kind::MaxPool2d => self.max_pool(operator)?,
            Kind::ResizeBilinear => self.resize_bilinear(operator)?,
            Kind::DepthToSpace => self.depth_to_space(operator)?,
            Kind::Reshape => self.reshape(operator)?,
            Kind::Concatenation => self.concatenation(operator)?,
            Kind::Logistic => {
                let x = self.operand(input(operator, 0)?)?;
                self.node("Sigmoid", &[&x], &value_name(operator.outputs[0]), vec![]);
            }
            Kind::Dequantize | Kind::Densify => {
                // Constants are decoded to dense f32 when they are read: nothing is left to do but to pass them on.
                let constant = self.constant(input(operator, 0)?)?;
                if constant.shape != self.shape(operator.outputs[0]) {
                    return Err(Error::Inconsistent(format!("{:?} changes the shape", operator.kind)));
                }
                self.constants.insert(operator.outputs[0], constant);
                return Ok(());
            }
            Kind::Unknown(code) => return Err(Error::Unsupported(format!("operator number {code} of the TFLite schema"))),
        }
        self.defined.insert(operator.outputs[0]);
        Ok(())
    }

    /// `CONV_2D`: weights (out, kh, kw, in / groups). `DEPTHWISE_CONV_2D`: weights (1, kh, kw, out).
    fn convolution(&mut self, operator: &Operator<'_>) -> Result<(), Error> {
        let (x, y) = (input(operator, 0)?, operator.outputs[0]);
        let options = operator.window()?;
        let channels = self.image_shape(x)?[2];
        let weights = self.constant(input(operator, 1)?)?;
        let bias = match operator.inputs.get(2).copied().flatten() {
            Some(bias) => Some(self.constant(bias)?),
            None => None,
        };
        let (&[w0, kernel_h, kernel_w, w3], Values::Float(values)) = (weights.shape.as_slice(), &weights.values) else {
            return Err(Error::Inconsistent(format!("convolution weights of shape {:?}", weights.shape)));
        };
        // ONNX: (out, in / groups, kh, kw)
        let (out_channels, groups, onnx_shape, onnx_values) = if operator.kind == Kind::Conv2d {
            let groups = if w3 > 0 && channels % w3 == 0 { channels / w3 } else { 0 };
            (w0, groups, [w0, w3, kernel_h, kernel_w], transpose(values, [w0, kernel_h, kernel_w, w3], [0, 3, 1, 2]))
        } else {
            (w3, channels, [w3, w0, kernel_h, kernel_w], transpose(values, [w0, kernel_h, kernel_w, w3], [3, 0, 1, 2]))
        };
        let depthwise_multiplier_is_one = operator.kind == Kind::Conv2d || w0 == 1;
        let bias_fits = bias.as_ref().is_none_or(|bias| bias.shape == [out_channels]);
        if groups == 0 || out_channels % groups != 0 || !depthwise_multiplier_is_one || !bias_fits {
            return Err(Error::Inconsistent(format!(
                "{:?} with weights {:?} and bias {:?} on {channels} channels",
                operator.kind,
                weights.shape,
                bias.map(|bias| bias.shape.clone())
            )));
        }
        let pads = self.window_pads(x, y, out_channels, [kernel_h, kernel_w], &options)?;
        let mut inputs = vec![self.operand(x)?, self.float_initializer(&format!("w{y}"), &onnx_shape, &onnx_values)];
        if let Some(bias) = bias {
            let Values::Float(values) = &bias.values else {
                return Err(Error::Inconsistent("a convolution's bias is not of floats".to_owned()));
            };
            inputs.push(self.float_initializer(&format!("b{y}"), &bias.shape, values));
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let attributes = vec![
            ints("kernel_shape", &to_i64(&[kernel_h, kernel_w])),
            ints("strides", &to_i64(&options.stride)),
            ints("dilations", &to_i64(&options.dilation)),
            ints("pads", &pads),
            int("group", groups as i64),
        ];
        self.activated("Conv", &inputs, y, attributes, options.activation);
        Ok(())
    }

    fn max_pool(&mut self, operator: &Operator<'_>) -> Result<(), Error> {
        let (x, y) = (input(operator, 0)?, operator.outputs[0]);
        let options = operator.window()?;
        let channels = self.image_shape(x)?[2];
        let pads = self.window_pads(x, y, channels, options.filter, &options)?;
        let source = self.operand(x)?;
        let attributes =
            vec![ints("kernel_shape", &to_i64(&options.filter)), ints("strides", &to_i64(&options.stride)), ints("pads", &pads)];
        self.activated("MaxPool", &[&source], y, attributes, options.activation);
        Ok(())
    }

    /// ONNX pads (top, left, bottom, right) of a window sliding over `x`; checks that `y` has the size that follows.
    fn window_pads(&self, x: usize, y: usize, out_channels: usize, kernel: [usize; 2], options: &WindowOptions) -> Result<[i64; 4], Error> {
        let in_shape = self.image_shape(x)?;
        let mut expected = [0, 0, out_channels];
        let mut pads = [0; 4];
        for axis in 0..2 {
            let (size, stride) = (in_shape[axis], options.stride[axis]);
            let extent = kernel[axis]
                .checked_sub(1)
                .and_then(|gaps| gaps.checked_mul(options.dilation[axis]))
                .ok_or_else(|| Error::Inconsistent("a convolution with an empty kernel".to_owned()))?
                + 1;
            match options.padding {
                Padding::Same => {
                    expected[axis] = size.div_ceil(stride);
                    let total = ((expected[axis] - 1) * stride + extent).saturating_sub(size);
                    // The odd pixel goes behind, as in TensorFlow.
                    pads[axis] = (total / 2) as i64;
                    pads[axis + 2] = (total - total / 2) as i64;
                }
                Padding::Valid => expected[axis] = (size + stride).saturating_sub(extent) / stride,
            }
        }
        let found = self.image_shape(y)?;
        if found != expected {
            return Err(Error::Inconsistent(format!(
                "a sliding window on (height, width, channels) {in_shape:?} gives {expected:?}, the file says {found:?}"
            )));
        }
        Ok(pads)
    }

    fn add(&mut self, operator: &Operator<'_>) -> Result<(), Error> {
        let y = operator.outputs[0];
        let activation = operator.activation(0)?;
        let terms = [self.broadcast_operand(input(operator, 0)?, y)?, self.broadcast_operand(input(operator, 1)?, y)?];
        self.activated("Add", &[&terms[0], &terms[1]], y, vec![], activation);
        Ok(())
    }

    /// A term of an elementwise sum. Ranks are aligned from the right, which only NHWC order allows: a constant of fewer
    /// than four dimensions beside an image is reshaped and transposed here.
    fn broadcast_operand(&mut self, tensor: usize, result: usize) -> Result<String, Error> {
        let (rank, result_rank) = (self.shape(tensor).len(), self.shape(result).len());
        if rank == result_rank || result_rank != 4 {
            return self.operand(tensor);
        }
        let constant = self.constant(tensor)?;
        let Values::Float(values) = &constant.values else {
            return Err(Error::Unsupported("a sum of integers".to_owned()));
        };
        let mut nhwc = [1; 4];
        let start = 4usize.checked_sub(rank).ok_or_else(|| Error::Inconsistent("a sum of too many axes".to_owned()))?;
        nhwc[start..].copy_from_slice(&constant.shape);
        let [n, h, w, c] = nhwc;
        let values = transpose(values, nhwc, [0, 3, 1, 2]);
        Ok(self.float_initializer(&format!("c{result}_{tensor}"), &[n, c, h, w], &values))
    }

    fn pad(&mut self, operator: &Operator<'_>) -> Result<(), Error> {
        let (x, y) = (input(operator, 0)?, operator.outputs[0]);
        let padding = self.constant(input(operator, 1)?)?;
        let rank = self.shape(x).len();
        let Values::Int(values) = &padding.values else {
            return Err(Error::Inconsistent("PAD amounts are not integers".to_owned()));
        };
        let (before_after, _) = values.as_chunks::<2>();
        // Also keeps the sum below from overflowing.
        let in_range = values.iter().all(|&amount| (0..1 << 24).contains(&amount));
        if before_after.len() != rank || self.shape(y).len() != rank || !in_range {
            return Err(Error::Inconsistent(format!("PAD by {values:?} on shape {:?}", self.shape(x))));
        }
        for axis in 0..rank {
            let [before, after] = before_after[axis];
            if self.shape(y)[axis] as i64 != self.shape(x)[axis] as i64 + before + after {
                return Err(Error::Inconsistent(format!("PAD by {values:?} on shape {:?} cannot give {:?}", self.shape(x), self.shape(y))));
            }
        }
        let order: Vec<usize> = if rank == 4 { vec![0, 3, 1, 2] } else { (0..rank).collect() };
        let before = order.iter().map(|&axis| before_after[axis][0]);
        let after = order.iter().map(|&axis| before_after[axis][1]);
        let pads: Vec<i64> = before.chain(after).collect();
        let source = self.operand(x)?;
        let pads = self.int_initializer(&format!("p{y}"), &pads);
        self.node("Pad", &[&source, &pads], &value_name(y), vec![string("mode", "constant")]);
        Ok(())
    }

    fn resize_bilinear(&mut self, operator: &Operator<'_>) -> Result<(), Error> {
        let (x, y) = (input(operator, 0)?, operator.outputs[0]);
        let ([_, _, channels], [out_height, out_width, out_channels]) = (self.image_shape(x)?, self.image_shape(y)?);
        if channels != out_channels {
            return Err(Error::Inconsistent(format!("a resize turns {channels} channels into {out_channels}")));
        }
        let source = self.operand(x)?;
        let sizes = self.int_initializer(&format!("s{y}"), &to_i64(&[1, channels, out_height, out_width]));
        let attributes = vec![string("mode", "linear"), string("coordinate_transformation_mode", operator.resize_mode()?)];
        self.node("Resize", &[&source, "", "", &sizes], &value_name(y), attributes);
        Ok(())
    }

    fn depth_to_space(&mut self, operator: &Operator<'_>) -> Result<(), Error> {
        let (x, y) = (input(operator, 0)?, operator.outputs[0]);
        let block = operator.block_size()?;
        let ([height, width, channels], found) = (self.image_shape(x)?, self.image_shape(y)?);
        if channels % (block * block) != 0 || found != [height * block, width * block, channels / (block * block)] {
            return Err(Error::Inconsistent(format!("DEPTH_TO_SPACE by {block} turns {:?} into {found:?}", [height, width, channels])));
        }
        let source = self.operand(x)?;
        let attributes = vec![int("blocksize", block as i64), string("mode", "DCR")];
        self.node("DepthToSpace", &[&source], &value_name(y), attributes);
        Ok(())
    }

    /// In TFLite's order of elements, so from NHWC and back.
    fn reshape(&mut self, operator: &Operator<'_>) -> Result<(), Error> {
        let (x, y) = (input(operator, 0)?, operator.outputs[0]);
        let shape = self.shape(y).to_vec();
        if element_count(&shape).is_none() || element_count(&shape) != element_count(self.shape(x)) {
            return Err(Error::Inconsistent(format!("RESHAPE turns {:?} into {shape:?}", self.shape(x))));
        }
        let source = self.nhwc_operand(x)?;
        let target = self.int_initializer(&format!("sh{y}"), &to_i64(&shape));
        if shape.len() == 4 {
            let reshaped = format!("t{y}_nhwc");
            self.node("Reshape", &[&source, &target], &reshaped, vec![]);
            self.node("Transpose", &[&reshaped], &value_name(y), vec![ints("perm", &NHWC_TO_NCHW)]);
            self.nhwc.insert(y);
        } else {
            self.node("Reshape", &[&source, &target], &value_name(y), vec![]);
        }
        Ok(())
    }

    fn concatenation(&mut self, operator: &Operator<'_>) -> Result<(), Error> {
        let y = operator.outputs[0];
        let rank = self.shape(y).len();
        let axis = operator.concatenation_axis()?;
        let axis = usize::try_from(if axis < 0 { i64::from(axis) + rank as i64 } else { i64::from(axis) })
            .ok()
            .filter(|&axis| axis < rank)
            .ok_or_else(|| Error::Inconsistent(format!("CONCATENATION along axis {axis} of {rank}")))?;
        let onnx_axis = if rank == 4 { [0, 2, 3, 1][axis] } else { axis };
        let mut sources = Vec::new();
        for index in 0..operator.inputs.len() {
            let tensor = input(operator, index)?;
            if self.shape(tensor).len() != rank {
                return Err(Error::Inconsistent("CONCATENATION of tensors of different rank".to_owned()));
            }
            sources.push(self.operand(tensor)?);
        }
        let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
        self.activated("Concat", &sources, y, vec![int("axis", onnx_axis as i64)], operator.activation(1)?);
        Ok(())
    }

    /// A node, followed by the activation that TFLite fused into it.
    fn activated(&mut self, op_type: &str, inputs: &[&str], y: usize, attributes: Vec<AttributeProto>, activation: Activation) {
        let output = value_name(y);
        let before = format!("{output}_linear");
        match activation {
            Activation::None => self.node(op_type, inputs, &output, attributes),
            Activation::Relu => {
                self.node(op_type, inputs, &before, attributes);
                self.node("Relu", &[&before], &output, vec![]);
            }
            Activation::Relu6 => {
                self.node(op_type, inputs, &before, attributes);
                let zero = self.shared_scalar("zero", 0.0);
                let six = self.shared_scalar("six", 6.0);
                self.node("Clip", &[&before, &zero, &six], &output, vec![]);
            }
        }
    }

    /// The value of a tensor in the graph's layout (NCHW for four dimensions), written as an initialiser if constant.
    fn operand(&mut self, tensor: usize) -> Result<String, Error> {
        let name = value_name(tensor);
        if self.defined.contains(&tensor) {
            return Ok(name);
        }
        let constant = self.constant(tensor)?;
        let Values::Float(values) = &constant.values else {
            return Err(Error::Unsupported(format!("integers where {:?} is used", self.model.tensors[tensor].name)));
        };
        if let [n, h, w, c] = *constant.shape.as_slice() {
            self.float_initializer(&name, &[n, c, h, w], &transpose(values, [n, h, w, c], [0, 3, 1, 2]));
        } else {
            self.float_initializer(&name, &constant.shape, values);
        }
        self.defined.insert(tensor);
        Ok(name)
    }

    /// The value of a tensor in its TFLite layout.
    fn nhwc_operand(&mut self, tensor: usize) -> Result<String, Error> {
        let name = self.operand(tensor)?;
        if self.shape(tensor).len() != 4 {
            return Ok(name);
        }
        let nhwc = format!("{name}_nhwc");
        if self.nhwc.insert(tensor) {
            self.node("Transpose", &[&name], &nhwc, vec![ints("perm", &NCHW_TO_NHWC)]);
        }
        Ok(nhwc)
    }

    fn constant(&mut self, tensor: usize) -> Result<Rc<Constant>, Error> {
        if let Some(constant) = self.constants.get(&tensor) {
            return Ok(Rc::clone(constant));
        }
        let source = &self.model.tensors[tensor];
        if !source.is_constant() {
            return Err(Error::Unsupported(format!("{:?} to be a constant, or computed before its use", source.name)));
        }
        let constant = Rc::new(source.constant(MAX_CONSTANT_ELEMENTS - self.constant_elements)?);
        self.constant_elements += element_count(&constant.shape).unwrap_or(0);
        self.constants.insert(tensor, Rc::clone(&constant));
        Ok(constant)
    }

    fn graph_input(&mut self, tensor: usize) -> ValueInfoProto {
        let source = &self.model.tensors[tensor];
        if source.shape.len() == 4 {
            self.node("Transpose", &[source.name], &value_name(tensor), vec![ints("perm", &NHWC_TO_NCHW)]);
        } else {
            self.node("Identity", &[source.name], &value_name(tensor), vec![]);
        }
        self.defined.insert(tensor);
        value_info(source.name, &source.shape)
    }

    fn graph_output(&mut self, tensor: usize, name: &str) -> Result<ValueInfoProto, Error> {
        let value = self.nhwc_operand(tensor)?;
        self.node("Identity", &[&value], name, vec![]);
        Ok(value_info(name, self.shape(tensor)))
    }

    fn node(&mut self, op_type: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) {
        self.nodes.push(NodeProto {
            name: Some(format!("{op_type}_{}", self.nodes.len())),
            op_type: Some(op_type.to_owned()),
            input: inputs.iter().map(|&name| name.to_owned()).collect(),
            output: vec![output.to_owned()],
            attribute,
            ..Default::default()
        });
    }

    fn float_initializer(&mut self, name: &str, shape: &[usize], values: &[f32]) -> String {
        self.initializers.push(TensorProto {
            name: Some(name.to_owned()),
            dims: to_i64(shape),
            data_type: Some(DataType::Float as i32),
            raw_data: Some(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
            ..Default::default()
        });
        name.to_owned()
    }

    fn int_initializer(&mut self, name: &str, values: &[i64]) -> String {
        self.initializers.push(TensorProto {
            name: Some(name.to_owned()),
            dims: vec![values.len() as i64],
            data_type: Some(DataType::Int64 as i32),
            raw_data: Some(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
            ..Default::default()
        });
        name.to_owned()
    }

    fn shared_scalar(&mut self, name: &str, value: f32) -> String {
        if self.initializers.iter().any(|tensor| tensor.name.as_deref() == Some(name)) {
            return name.to_owned();
        }
        self.float_initializer(name, &[], &[value])
    }
}

fn input(operator: &Operator<'_>, index: usize) -> Result<usize, Error> {
    operator
        .inputs
        .get(index)
        .copied()
        .flatten()
        .ok_or_else(|| Error::Inconsistent(format!("an operator ({:?}) lacks its input {index}", operator.kind)))
}

fn value_name(tensor: usize) -> String {
    format!("t{tensor}")
}

/// Row-major transposition: axis `i` of the result is axis `perm[i]` of `values`.
fn transpose(values: &[f32], shape: [usize; 4], perm: [usize; 4]) -> Vec<f32> {
    let strides = [shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3], 1];
    let [d0, d1, d2, d3] = perm.map(|axis| shape[axis]);
    let [s0, s1, s2, s3] = perm.map(|axis| strides[axis]);
    let mut out = Vec::with_capacity(values.len());
    for i in 0..d0 {
        for j in 0..d1 {
            for k in 0..d2 {
                out.extend((0..d3).map(|l| values[i * s0 + j * s1 + k * s2 + l * s3]));
            }
        }
    }
    out
}

fn to_i64(sizes: &[usize]) -> Vec<i64> {
    sizes.iter().map(|&size| size as i64).collect()
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), r#type: Some(AttributeType::Int as i32), i: Some(value), ..Default::default() }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), r#type: Some(AttributeType::Ints as i32), ints: values.to_vec(), ..Default::default() }
}

fn string(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::String as i32),
        s: Some(value.as_bytes().to_vec()),
        ..Default::default()
    }
}

fn value_info(name: &str, shape: &[usize]) -> ValueInfoProto {
    let dim = shape.iter().map(|&size| Dimension { value: Some(dimension::Value::DimValue(size as i64)), ..Default::default() }).collect();
    let tensor = type_proto::Tensor { elem_type: Some(DataType::Float as i32), shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() }),
        ..Default::default()
    }
}
