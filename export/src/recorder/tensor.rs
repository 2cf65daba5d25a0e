//! The operations.

use std::rc::Rc;

use network::{Axis, Context, SelectiveScan, Tensor, layers::BatchNorm};

use super::{Constant, Dim, Kind, Layout, LinearMap, Recorded, Value, extents};
use crate::onnx::{float, int, ints};

/// From here to the end of an axis.
const END: i64 = i64::MAX;

/// Products of joined channels with fewer outputs than this are sums of products of the parts: the join would cost more.
const FEW_OUTPUTS: usize = 16;

/// Splits a shape into all but the last axis and the last.
#[track_caller]
fn split_dims(dims: &[Dim]) -> (&[Dim], &Dim) {
    let Some((last, rest)) = dims.split_last() else { panic!("a scalar has no last axis") };
    (rest, last)
}

#[track_caller]
fn fixed(dim: &Dim, what: &str) -> usize {
    dim.size().unwrap_or_else(|| panic!("{what} must be known while recording, found {dim:?}"))
}

fn with_last(dims: &[Dim], last: usize) -> Vec<Dim> {
    let mut dims = dims.to_vec();
    if let Some(axis) = dims.last_mut() {
        *axis = Dim::fixed(last);
    }
    dims
}

#[track_caller]
fn axes<const N: usize>(dims: Vec<Dim>) -> [Dim; N] {
    dims.try_into().unwrap_or_else(|dims| panic!("expected {N} axes, found {dims:?}"))
}

impl Recorded {
    /// `x weight^T + bias` of constants: one MatMul and one Add, remembered by its output.
    fn linear_of_constants(&self, x: &Value, weight: Rc<Constant>, bias: Option<Rc<Constant>>) -> Self {
        let recorder = &self.recorder;
        let place = weight.place().to_owned();
        let mut name = self.product_of_constants(x, &weight);
        if let Some(bias) = &bias {
            let bias = recorder.constant_name(bias);
            name = recorder.node(&place, "Add", &[&name, &bias], vec![]);
        }
        let dims = with_last(&x.dims, weight.shape[0]);
        recorder.0.borrow_mut().linears.insert(name.clone(), LinearMap { x: x.clone(), weight, bias });
        recorder.value(Value { name, dims, layout: x.layout })
    }

    /// `x weight^T`, part by part where x is joined and the result is narrow.
    fn product_of_constants(&self, x: &Value, weight: &Constant) -> String {
        let recorder = &self.recorder;
        let product = |x: &Value, weight: &Constant| {
            let transposed = recorder.constant_name(&weight.transpose(&[1, 0]));
            recorder.node(weight.place(), "MatMul", &[&x.name, &transposed], vec![])
        };
        let parts = recorder.0.borrow().joins.get(&x.name).cloned().filter(|_| weight.shape[0] < FEW_OUTPUTS);
        let mut start = 0;
        let products = parts.into_iter().flatten().map(|part| {
            let channels = fixed(split_dims(&part.dims).1, "the channels of a part");
            start += channels;
            product(&part, &weight.columns(start - channels, channels))
        });
        let sum = products.reduce(|sum, product| recorder.node(weight.place(), "Add", &[&sum, &product], vec![]));
        sum.unwrap_or_else(|| product(x, weight))
    }

    /// The linear map whose output this is.
    fn as_linear(&self) -> Option<LinearMap> {
        match &self.kind {
            Kind::Value(value) => self.recorder.0.borrow().linears.get(&value.name).cloned(),
            Kind::Constant(_) => None,
        }
    }

    /// Every element times a number; a linear map's weights take it.
    fn scaled(&self, factor: f64) -> Self {
        match self.as_linear() {
            Some(LinearMap { x, weight, bias }) => {
                let scale = |constant: &Constant| Rc::new(constant.map("scaled", |w| w * factor));
                self.linear_of_constants(&x, scale(&weight), bias.as_deref().map(scale))
            }
            None => self.mul(&self.recorder.constant("", &[], vec![factor as f32])),
        }
    }

    /// A linear map times a constant for each of its outputs (a layer scale): its weights take it, and no pass over the values is needed.
    fn scaled_by_output(&self, factors: &Self) -> Option<Self> {
        let (LinearMap { x, weight, bias }, factors) = (self.as_linear()?, factors.as_constant()?);
        let outputs = weight.shape[0];
        if factors.shape != [outputs] {
            return None;
        }
        let column = Constant { shape: vec![outputs, 1], ..(**factors).clone() };
        let weight = Rc::new(weight.zip(&column, &weight.shape, "scaled", |w, factor| w * factor));
        let bias = bias.map(|bias| Rc::new(bias.zip(factors, &bias.shape, "scaled", |b, factor| b * factor)));
        Some(self.linear_of_constants(&x, weight, bias))
    }

    /// The name of a linear map's output before its bias, and the bias: for an operator that adds it itself.
    fn without_bias(&self) -> Option<(String, Rc<Constant>)> {
        let LinearMap { x, weight, bias } = self.as_linear()?;
        let product = self.linear_of_constants(&x, weight, None).to_value();
        Some((product.name, bias?))
    }

    /// A node with weights: its place in the model is theirs.
    #[track_caller]
    fn expect_constant(&self, what: &str) -> &Constant {
        self.as_constant().unwrap_or_else(|| panic!("{what} must be a constant"))
    }

    fn place(&self) -> String {
        self.as_constant().map(|constant| constant.place().to_owned()).unwrap_or_default()
    }

    /// Swapped or plain, as it lies now.
    fn with_name(&self, value: &Value, name: String, dims: Vec<Dim>) -> Self {
        self.recorder.value(Value { name, dims, layout: value.layout })
    }

    fn mean(&self, axes: &[i64], keep: bool, dims: Vec<Dim>) -> Self {
        let attributes = vec![ints("axes", axes), int("keepdims", i64::from(keep))];
        self.recorder.value(self.recorder.plain("", "ReduceMean", &[&self.to_value().name], attributes, dims))
    }

    /// The same memory under another shape; all of `to` as it lies in the graph.
    fn reshaped(&self, value: &Value, to: &[Dim]) -> String {
        self.recorder.reshape(&value.name, &value.physical_dims(), to)
    }

    /// Frames `start..end` of (S, L, C); negative counts from the end.
    fn frames(&self, name: &str, start: i64, end: i64) -> String {
        let [start, end, axis] = [start, end, 1].map(|bound| self.recorder.i64s(&[bound]));
        self.recorder.node("", "Slice", &[name, &start, &end, &axis], vec![])
    }
}

impl Tensor for Recorded {
    #[track_caller]
    fn add(&self, other: &Self) -> Self {
        self.binary("Add", other, |a, b| a + b)
    }

    #[track_caller]
    fn mul(&self, other: &Self) -> Self {
        self.scaled_by_output(other).unwrap_or_else(|| self.binary("Mul", other, |a, b| a * b))
    }

    fn neg(&self) -> Self {
        self.unary("Neg", |x| -x)
    }

    fn exp(&self) -> Self {
        self.unary("Exp", f64::exp)
    }

    fn relu(&self) -> Self {
        self.unary("Relu", |x| x.max(0.0))
    }

    fn gelu(&self) -> Self {
        // The five nodes that ONNX Runtime fuses into one Gelu.
        let value = self.to_value();
        let recorder = &self.recorder;
        let [root_of_two, one, half] = [std::f32::consts::SQRT_2, 1.0, 0.5].map(|number| recorder.scalar(number));
        let scaled = recorder.node("", "Div", &[&value.name, &root_of_two], vec![]);
        let erf = recorder.node("", "Erf", &[&scaled], vec![]);
        let sum = recorder.node("", "Add", &[&erf, &one], vec![]);
        let product = recorder.node("", "Mul", &[&value.name, &sum], vec![]);
        self.like(&value, recorder.node("", "Mul", &[&product, &half], vec![]))
    }

    fn silu(&self) -> Self {
        let value = self.to_value();
        let sigmoid = self.recorder.node("", "Sigmoid", &[&value.name], vec![]);
        self.like(&value, self.recorder.node("", "Mul", &[&value.name, &sigmoid], vec![]))
    }

    fn tanh(&self) -> Self {
        self.unary("Tanh", f64::tanh)
    }

    fn softmax_last(&self) -> Self {
        let value = self.to_value();
        self.like(&value, self.recorder.node("", "Softmax", &[&value.name], vec![int("axis", -1)]))
    }

    #[track_caller]
    fn layer_norm(&self, weight: &Self, bias: &Self, eps: f64) -> Self {
        let value = self.to_value();
        let (scale, shift) = (weight.to_value().name, bias.to_value().name);
        let attributes = vec![int("axis", -1), float("epsilon", eps as f32)];
        let name = self.recorder.node(&weight.place(), "LayerNormalization", &[&value.name, &scale, &shift], attributes);
        self.like(&value, name)
    }

    #[track_caller]
    fn linear(&self, weight: &Self, bias: Option<&Self>) -> Self {
        let value = self.to_value();
        let [outputs, inputs] = axes::<2>(weight.dims());
        let (_, last) = split_dims(&value.dims);
        assert!(*last == inputs, "linear map of {inputs:?} channels on {:?}", value.dims);
        let constant_bias = bias.map(Self::as_constant);
        if let (Some(weight), None | Some(Some(_))) = (weight.as_constant(), constant_bias) {
            return self.linear_of_constants(&value, Rc::clone(weight), constant_bias.flatten().cloned());
        }
        let transposed = self.recorder.transpose(&weight.to_value().name, &[1, 0]);
        let mut name = self.recorder.node("", "MatMul", &[&value.name, &transposed], vec![]);
        if let Some(bias) = bias {
            name = self.recorder.node("", "Add", &[&name, &bias.to_value().name], vec![]);
        }
        let dims = with_last(&value.dims, fixed(&outputs, "the outputs of a linear map"));
        self.with_name(&value, name, dims)
    }

    #[track_caller]
    fn matmul(&self, weight: &Self) -> Self {
        let value = self.to_value();
        let [inputs, outputs] = axes::<2>(weight.dims());
        let (_, last) = split_dims(&value.dims);
        assert!(*last == inputs, "product of {:?} with {inputs:?} rows", value.dims);
        let name = self.recorder.node(&weight.place(), "MatMul", &[&value.name, &weight.to_value().name], vec![]);
        let dims = with_last(&value.dims, fixed(&outputs, "the columns of a matrix"));
        self.with_name(&value, name, dims)
    }

    #[track_caller]
    fn split_last<const N: usize>(&self, sizes: [usize; N]) -> [Self; N] {
        let value = self.to_value();
        let (_, last) = split_dims(&value.dims);
        assert_eq!(last.size(), Some(sizes.iter().sum()), "parts {sizes:?} of {:?}", value.dims);
        if let Some(LinearMap { x, weight, bias }) = self.as_linear() {
            // Parts of the weights instead of parts of the product: no copies.
            let mut start = 0;
            return sizes.map(|size| {
                let rows = |constant: &Rc<Constant>| Rc::new(constant.rows(start, size));
                let part = self.linear_of_constants(&x, rows(&weight), bias.as_ref().map(rows));
                start += size;
                part
            });
        }
        let lengths = self.recorder.i64s(&sizes.map(|size| size as i64));
        let names = self.recorder.nodes::<N>("", "Split", "", &[&value.name, &lengths], vec![int("axis", -1)]);
        let mut names = names.into_iter();
        sizes.map(|size| self.with_name(&value, names.next().unwrap_or_default(), with_last(&value.dims, size)))
    }

    #[track_caller]
    fn concat_last(parts: &[&Self]) -> Self {
        let Some(first) = parts.first() else { panic!("nothing to join") };
        let swapped = parts.iter().any(|part| matches!(&part.kind, Kind::Value(value) if value.layout == Layout::Swapped));
        let layout = if swapped { Layout::Swapped } else { Layout::Plain };
        let values: Vec<Value> = parts.iter().map(|part| Value { name: part.operand(layout), dims: part.dims(), layout }).collect();
        let names: Vec<&str> = values.iter().map(|value| value.name.as_str()).collect();
        let length = parts.iter().map(|part| fixed(split_dims(&part.dims()).1, "the channels of a part")).sum();
        let name = first.recorder.node("", "Concat", &names, vec![int("axis", -1)]);
        first.recorder.0.borrow_mut().joins.insert(name.clone(), values);
        first.recorder.value(Value { name, dims: with_last(&first.dims(), length), layout })
    }

    fn dropout(&self, _probability: f64, context: &Context) -> Self {
        assert!(!context.training, "a graph is recorded for evaluation");
        self.clone()
    }

    #[track_caller]
    fn attention(q: &Self, k: &Self, v: &Self, heads: usize, axis: Axis, _dropout: f64, context: &Context) -> Self {
        assert!(!context.training, "a graph is recorded for evaluation");
        let recorder = &q.recorder;
        let channels = fixed(split_dims(&q.dims()).1, "the channels of attention");
        assert!(channels.is_multiple_of(heads), "{channels} channels in {heads} heads");
        let size = channels / heads; // of a head
        let layout = match &q.kind {
            Kind::Value(value) => value.layout,
            Kind::Constant(_) => Layout::Plain,
        };
        let [q, k, v] = [&q.scaled((size as f64).powf(-0.5)), k, v].map(|x| x.laid(layout));
        let [batch, second, third, _] = axes::<4>(q.physical_dims());
        let in_heads = [batch, second, third, Dim::fixed(heads), Dim::fixed(size)];

        // The axis P of attention next to a head's numbers: (B, O, heads, P, size), O the other axis.
        let along_second = (axis == Axis::Frames) == (layout == Layout::Plain);
        let (to_heads, keys_to_heads, from_heads) = if along_second {
            ([0, 2, 3, 1, 4], [0, 2, 3, 4, 1], [0, 3, 1, 2, 4])
        } else {
            ([0, 1, 3, 2, 4], [0, 1, 3, 4, 2], [0, 1, 3, 2, 4])
        };
        let arrange = |x: &Value, order: &[i64]| recorder.transpose(&recorder.reshape(&x.name, &x.physical_dims(), &in_heads), order);
        let (queries, keys, values) = (arrange(&q, &to_heads), arrange(&k, &keys_to_heads), arrange(&v, &to_heads));
        let scores = recorder.node("", "MatMul", &[&queries, &keys], vec![]); // (B, O, heads, P, P)
        let weights = recorder.node("", "Softmax", &[&scores], vec![int("axis", -1)]);
        let mixed = recorder.node("", "MatMul", &[&weights, &values], vec![]); // (B, O, heads, P, size)
        let mixed = recorder.transpose(&mixed, &from_heads); // as `in_heads`
        let name = recorder.reshape(&mixed, &in_heads, &q.physical_dims());
        recorder.value(Value { name, ..q })
    }

    #[track_caller]
    fn mix_joints(&self, matrix: &Self) -> Self {
        let x = self.laid(Layout::Swapped);
        let [batch, joints, frames, channels] = axes::<4>(x.physical_dims());
        let flat = [batch, joints, frames.times(&channels)];
        let columns = self.reshaped(&x, &flat); // (B, J, T C)
        let mixed = self.recorder.node("", "MatMul", &[&matrix.to_value().name, &columns], vec![]);
        let name = self.recorder.reshape(&mixed, &flat, &x.physical_dims());
        self.recorder.value(Value { name, ..x })
    }

    #[track_caller]
    fn mix_frames_top_k(&self, features: &Self, k: usize) -> Self {
        let recorder = &self.recorder;
        let (x, features) = (self.laid(Layout::Swapped), features.laid(Layout::Swapped)); // (B, J, T, C)
        let transposed = recorder.transpose(&features.name, &[0, 1, 3, 2]);
        let similarity = recorder.node("", "MatMul", &[&features.name, &transposed], vec![]); // (B, J, T, T)
        let count = recorder.i64s(&[k as i64]);
        let [largest, _] = recorder.nodes::<2>("", "TopK", "", &[&similarity, &count], vec![int("axis", -1)]); // (B, J, T, k)
        let kth = recorder.node("", "ReduceMin", &[&largest], vec![ints("axes", &[-1]), int("keepdims", 1)]);
        let kept = recorder.node("", "GreaterOrEqual", &[&similarity, &kth], vec![]);
        let graph = recorder.node("", "Cast", &[&kept], vec![int("to", 1)]); // A, ones and zeros
        let last = recorder.i64s(&[-1]);
        let degree = recorder.node("", "ReduceSum", &[&graph, &last], vec![int("keepdims", 1)]); // (B, J, T, 1)
        let root = recorder.node("", "Sqrt", &[&degree], vec![]);
        let scale = recorder.node("", "Reciprocal", &[&root], vec![]); // D^-1/2
        let scaled = recorder.node("", "Mul", &[&x.name, &scale], vec![]);
        let mixed = recorder.node("", "MatMul", &[&graph, &scaled], vec![]);
        let name = recorder.node("", "Mul", &[&mixed, &scale], vec![]);
        recorder.value(Value { name, ..x })
    }

    #[track_caller]
    fn batch_norm(&self, norm: &BatchNorm<Self>, axis: Axis, context: &Context) -> Self {
        assert!(!context.training, "a graph is recorded for evaluation");
        let value = self.to_value();
        let along = match axis {
            Axis::Frames => 1,
            Axis::Joints => 2,
        };
        let [mean, variance, weight, bias] =
            [&norm.running_mean, &norm.running_var, &norm.weight, &norm.bias].map(|x| x.expect_constant("a part of batch normalisation"));
        let nodes = weight.values.len();
        assert_eq!(fixed(&value.dims[along], "the axis of batch normalisation"), nodes, "nodes of batch normalisation");
        // y = scale x + shift
        let scale: Vec<f64> =
            (0..nodes).map(|i| f64::from(weight.values[i]) / (f64::from(variance.values[i]) + BatchNorm::<Self>::EPS).sqrt()).collect();
        let shift = (0..nodes).map(|i| (f64::from(bias.values[i]) - f64::from(mean.values[i]) * scale[i]) as f32).collect();
        // Node axis, then ones up to C; `mul` and `add` see to the layout.
        let shape: &[usize] = if axis == Axis::Frames { &[nodes, 1, 1] } else { &[nodes, 1] };
        let place = weight.place();
        let scale = self.recorder.constant(&format!("{place}.scale"), shape, scale.into_iter().map(|x| x as f32).collect());
        let shift = self.recorder.constant(&format!("{place}.shift"), shape, shift);
        self.mul(&scale).add(&shift)
    }

    #[track_caller]
    fn to_joint_sequences(&self) -> Self {
        let x = self.laid(Layout::Swapped); // (B, J, T, C)
        let [batch, joints, frames, channels] = axes::<4>(x.physical_dims());
        let dims = vec![batch.times(&joints), frames, channels];
        let name = self.reshaped(&x, &dims);
        self.recorder.value(Value { name, dims, layout: Layout::Plain })
    }

    #[track_caller]
    fn to_pose_sequences(&self, joints: usize) -> Self {
        let split = self.split_batch_and_joints(joints).to_value(); // (B, J, T, C)
        let mut dims = split.dims;
        dims.swap(1, 2);
        self.recorder.value(Value { name: split.name, dims, layout: Layout::Swapped })
    }

    #[track_caller]
    fn reshape_untransposed(&self) -> Self {
        let x = self.laid(Layout::Plain);
        let [batch, second, third, channels] = axes::<4>(self.dims());
        let dims = vec![batch, third, second, channels];
        let name = self.reshaped(&x, &dims);
        self.recorder.value(Value { name, dims, layout: Layout::Plain })
    }

    #[track_caller]
    fn reshape_back_untransposed(&self) -> Self {
        self.reshape_untransposed()
    }

    #[track_caller]
    fn merge_batch_and_joints(&self) -> Self {
        let x = self.laid(Layout::Plain);
        let [batch, joints, frames, channels] = axes::<4>(self.dims());
        let dims = vec![batch.times(&joints), frames, channels];
        let name = self.reshaped(&x, &dims);
        self.recorder.value(Value { name, dims, layout: Layout::Plain })
    }

    #[track_caller]
    fn split_batch_and_joints(&self, joints: usize) -> Self {
        let x = self.to_value();
        let [sequences, frames, channels] = axes::<3>(self.dims());
        let Some(batch) = sequences.divided_by(joints) else { panic!("{sequences:?} sequences are not those of {joints} joints") };
        let dims = vec![batch, Dim::fixed(joints), frames, channels];
        let name = self.reshaped(&x, &dims);
        self.recorder.value(Value { name, dims, layout: Layout::Plain })
    }

    fn mean_over_sequence(&self) -> Self {
        let [sequences, _, channels] = axes::<3>(self.dims());
        self.mean(&[1], true, vec![sequences, Dim::fixed(1), channels])
    }

    fn mean_over_frames_and_joints(&self) -> Self {
        let [batch, _, _, channels] = axes::<4>(self.dims());
        self.mean(&[1, 2], false, vec![batch, channels])
    }

    fn expand_sample(&self) -> Self {
        let [batch, one] = axes::<2>(self.dims());
        let unit = Dim::fixed(1);
        let new_axes = self.recorder.i64s(&[2, 3]);
        let dims = vec![batch, one, unit.clone(), unit];
        self.recorder.value(self.recorder.plain("", "Unsqueeze", &[&self.to_value().name, &new_axes], vec![], dims))
    }

    #[track_caller]
    fn causal_conv(&self, weight: &Self, bias: &Self, state: Option<&Self>) -> (Self, Self) {
        let recorder = &self.recorder;
        let x = self.to_value();
        let [sequences, frames, channels] = axes::<3>(self.dims());
        let channels = fixed(&channels, "the channels of a convolution");
        let kernel = fixed(&axes::<3>(weight.dims())[2], "the kernel of a convolution"); // weight (E, 1, K)
        let before = kernel as i64 - 1;
        let place = weight.place();
        let state_dims = vec![sequences, Dim::fixed(kernel - 1), Dim::fixed(channels)];
        let as_state = |name| recorder.value(Value { name, dims: state_dims, layout: Layout::Plain });

        if let (Some(1), Some(state), Some(taps)) = (frames.size(), state, weight.as_constant()) {
            // One frame: a weighted sum over the K frames (S, K, E) as they lie.
            let values = recorder.node(&place, "Concat", &[&state.to_value().name, &x.name], vec![int("axis", 1)]);
            let taps = recorder.constant_name(&taps.transpose(&[1, 2, 0]));
            let weighted = recorder.node(&place, "Mul", &[&values, &taps], vec![]);
            let sum = recorder.node(&place, "ReduceSum", &[&weighted, &recorder.i64s(&[1])], vec![]);
            let y = recorder.node(&place, "Add", &[&sum, &bias.to_value().name], vec![]);
            return (self.like(&x, y), as_state(self.frames(&values, 1, END)));
        }

        // As an image of one row, (S, E, 1, L): engines have their fast depthwise convolution for images, and ONNX Runtime takes in
        // the transpositions around it where they are those between channels last and channels first.
        let (values, padding) = match state {
            Some(state) => (recorder.node(&place, "Concat", &[&state.to_value().name, &x.name], vec![int("axis", 1)]), 0),
            None => (x.name.clone(), before),
        };
        let row = recorder.i64s(&[1]);
        let image = recorder.transpose(&recorder.node(&place, "Unsqueeze", &[&values, &row], vec![]), &[0, 3, 1, 2]);
        let taps = match weight.as_constant() {
            Some(taps) => recorder.constant_name(&Constant { shape: vec![channels, 1, 1, kernel], ..(**taps).clone() }),
            None => recorder.node(&place, "Unsqueeze", &[&weight.to_value().name, &recorder.i64s(&[2])], vec![]),
        };
        let attributes = vec![int("group", channels as i64), ints("kernel_shape", &[1, kernel as i64]), ints("pads", &[0, padding, 0, 0])];
        let filtered = recorder.node(&place, "Conv", &[&image, &taps, &bias.to_value().name], attributes);
        let y = recorder.node(&place, "Squeeze", &[&recorder.transpose(&filtered, &[0, 2, 3, 1]), &row], vec![]);

        // The last K - 1 frames, with the zeros before the first one where there are too few.
        let seen = if padding == 0 {
            values
        } else {
            let pads = recorder.i64s(&[0, padding, 0, 0, 0, 0]);
            recorder.node(&place, "Pad", &[&values, &pads], vec![])
        };
        let last = if kernel == 1 { self.frames(&seen, 0, 0) } else { self.frames(&seen, -before, END) };
        (self.like(&x, y), as_state(last))
    }

    #[track_caller]
    fn selective_scan(inputs: &SelectiveScan<'_, Self>) -> (Self, Self) {
        let recorder = &inputs.u.recorder;
        let (u, a) = (inputs.u.to_value(), inputs.a.to_value());
        let mut names = [inputs.u, inputs.delta, inputs.a, inputs.b, inputs.c].map(|x| x.to_value().name).to_vec();
        for optional in [inputs.d, inputs.z, inputs.delta_bias, inputs.initial_state] {
            names.push(optional.map(|x| x.to_value().name).unwrap_or_default());
        }
        if let (None, Some((delta, bias))) = (inputs.delta_bias, inputs.delta.without_bias()) {
            (names[1], names[7]) = (delta, recorder.constant_name(&bias)); // the places of delta and delta_bias in the schema
        }
        while names.last().is_some_and(String::is_empty) {
            names.pop();
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let attributes = vec![int(scan::schema::DELTA_SOFTPLUS, i64::from(inputs.delta_softplus))];
        let place = inputs.a.place();
        let [y, last_state] = recorder.nodes(&place, scan::schema::OP, scan::schema::DOMAIN, &names, attributes);
        let [sequences, _, channels] = axes::<3>(inputs.u.dims());
        let Some(states) = a.dims.last().cloned() else { panic!("A is a scalar") };
        let state_dims = vec![sequences, channels, states];
        // Engines that know the operator only as a name cannot infer these.
        recorder.0.borrow_mut().builder.declare(&y, &extents(&u.dims));
        recorder.0.borrow_mut().builder.declare(&last_state, &extents(&state_dims));
        let state = Value { name: last_state, dims: state_dims, layout: Layout::Plain };
        (recorder.value(Value { name: y, dims: u.dims, layout: Layout::Plain }), recorder.value(state))
    }
}
