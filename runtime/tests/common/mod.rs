//! Small ONNX models, built where they are used, so that what a lifter must answer can be computed without one.
#![allow(dead_code)] // each test file uses its own part

use std::path::{Path, PathBuf};

use pose::{ImageSize, Keypoint, KeypointClip, Keypoints17, metadata::ModelMetadata, normalise::Normalisation};
use prost::Message as _;

#[allow(missing_docs, clippy::all, rustdoc::all)]
pub mod proto {
    include!("../../../export/src/onnx/proto.rs");
}
use proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto,
    attribute_proto::AttributeType,
    tensor_proto::DataType,
    tensor_shape_proto::{Dimension, dimension},
    type_proto,
};

pub const FLOAT: i32 = DataType::Float as i32;
pub const INT64: i32 = DataType::Int64 as i32;

/// A graph in the making.
#[derive(Clone, Default)]
pub struct Graph {
    graph: GraphProto,
    functions: Vec<FunctionProto>,
    metadata: Vec<StringStringEntryProto>,
}

impl Graph {
    /// An input; a negative dimension is free.
    pub fn input(mut self, name: &str, element: i32, shape: &[i64]) -> Self {
        self.graph.input.push(value_info(name, element, shape));
        self
    }

    pub fn output(mut self, name: &str, element: i32, shape: &[i64]) -> Self {
        self.graph.output.push(value_info(name, element, shape));
        self
    }

    pub fn constant(mut self, name: &str, shape: &[i64], values: &[f32]) -> Self {
        self.graph.initializer.push(TensorProto {
            name: Some(name.into()),
            dims: shape.to_vec(),
            data_type: Some(FLOAT),
            float_data: values.to_vec(),
            ..Default::default()
        });
        self
    }

    pub fn integers(mut self, name: &str, values: &[i64]) -> Self {
        self.graph.initializer.push(TensorProto {
            name: Some(name.into()),
            dims: vec![values.len() as i64],
            data_type: Some(INT64),
            int64_data: values.to_vec(),
            ..Default::default()
        });
        self
    }

    pub fn node(mut self, op: &str, inputs: &[&str], output: &str) -> Self {
        self.graph.node.push(node("", op, inputs, &[output], &[]));
        self
    }

    pub fn node_with(mut self, op: &str, inputs: &[&str], output: &str, attribute: (&str, i64)) -> Self {
        self.graph.node.push(node("", op, inputs, &[output], &[attribute]));
        self
    }

    /// The selective scan, with a body only if there is to be one.
    pub fn scan(mut self, inputs: &[&str], output: &str, body: Option<Vec<NodeProto>>) -> Self {
        self.graph.node.push(node("poselift.ssm", "SelectiveScan", inputs, &[output], &[]));
        if let Some(body) = body {
            self.functions.push(FunctionProto {
                name: Some("SelectiveScan".into()),
                domain: Some("poselift.ssm".into()),
                input: ["u", "delta", "A", "B", "C"].map(String::from).to_vec(),
                output: vec!["y".into()],
                node: body,
                opset_import: vec![opset("", 17)],
                ..Default::default()
            });
        }
        self
    }

    pub fn property(mut self, key: &str, value: &str) -> Self {
        self.metadata.push(StringStringEntryProto { key: Some(key.into()), value: Some(value.into()) });
        self
    }

    pub fn metadata(self, metadata: &ModelMetadata) -> Self {
        let json = serde_json::to_string(metadata).unwrap();
        self.property(ModelMetadata::ONNX_KEY, &json)
    }

    pub fn bytes(mut self) -> Vec<u8> {
        self.graph.name = Some("test".into());
        let model = ModelProto {
            ir_version: Some(8),
            opset_import: vec![opset("", 17), opset("poselift.ssm", 1)],
            graph: Some(self.graph),
            functions: self.functions,
            metadata_props: self.metadata,
            ..Default::default()
        };
        model.encode_to_vec()
    }

    pub fn write(self, folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, self.bytes()).unwrap();
        path
    }
}

pub fn node(domain: &str, op: &str, inputs: &[&str], outputs: &[&str], attributes: &[(&str, i64)]) -> NodeProto {
    NodeProto {
        domain: Some(domain.into()),
        op_type: Some(op.into()),
        input: inputs.iter().map(|&name| name.into()).collect(),
        output: outputs.iter().map(|&name| name.into()).collect(),
        attribute: attributes
            .iter()
            .map(|&(name, value)| AttributeProto {
                name: Some(name.into()),
                r#type: Some(AttributeType::Int as i32),
                i: Some(value),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    }
}

fn opset(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) }
}

fn value_info(name: &str, element: i32, shape: &[i64]) -> ValueInfoProto {
    let dimension = |(axis, &size): (usize, &i64)| Dimension {
        value: Some(if size < 0 { dimension::Value::DimParam(format!("n{axis}")) } else { dimension::Value::DimValue(size) }),
        ..Default::default()
    };
    let tensor = type_proto::Tensor {
        elem_type: Some(element),
        shape: Some(TensorShapeProto { dim: shape.iter().enumerate().map(dimension).collect() }),
    };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() }),
        ..Default::default()
    }
}

/// Weights (3, 3) of [`rooted`]: what it makes of (x, y, confidence), row by row. The confidence counts for nothing.
pub const WEIGHTS: [[f32; 3]; 3] = [[1.0, 0.25, 0.5], [0.0, 1.0, -0.75], [0.0, 0.0, 0.0]];

/// y = (x - x of the root) WEIGHTS, frame by frame: 2.5D that moves and grows with the picture, as a lifter's does.
pub fn rooted(batch: i64, frames: i64, channels: i64) -> Graph {
    let weights: Vec<f32> = WEIGHTS[..channels as usize].concat();
    Graph::default()
        .input("keypoints", FLOAT, &[batch, frames, 17, channels])
        .integers("root", &[0])
        .constant("w", &[channels, 3], &weights)
        .node_with("Gather", &["keypoints", "root"], "at_root", ("axis", 2))
        .node("Sub", &["keypoints", "at_root"], "relative")
        .node("MatMul", &["relative", "w"], "poses")
        .output("poses", FLOAT, &[batch, frames, 17, 3])
}

/// y = x weights + bias, frame by frame, without removing the root.
pub fn affine(weights: [[f32; 3]; 3], bias: [f32; 3]) -> Graph {
    Graph::default()
        .input("keypoints", FLOAT, &[-1, -1, 17, 3])
        .constant("w", &[3, 3], weights.as_flattened())
        .constant("b", &[3], &bias)
        .node("MatMul", &["keypoints", "w"], "product")
        .node("Add", &["product", "b"], "poses")
        .output("poses", FLOAT, &[-1, -1, 17, 3])
}

/// As [`rooted`] plus, at joint 5 along z, `added` by frame of the window: a network that answers differently at a
/// window's ends.
pub fn rooted_plus(frames: i64, added: &[f32]) -> Graph {
    let mut bias = vec![0.0; frames as usize * 17 * 3];
    for (t, &value) in added.iter().enumerate() {
        bias[(t * 17 + 5) * 3 + 2] = value;
    }
    let mut graph = rooted(-1, frames, 3).constant("by_frame", &[frames, 17, 3], &bias);
    graph.graph.node.last_mut().unwrap().output = vec!["plain".into()];
    graph.node("Add", &["plain", "by_frame"], "poses")
}

/// (B, T, 17, 3) as three channels of 17 B sequences through the selective scan. The body, if any, is *not* the scan: it
/// returns u unchanged, so that the answer says which of the two ran.
pub fn scanning(with_body: bool) -> Graph {
    let body = vec![node("", "Identity", &["u"], &["y"], &[])];
    Graph::default()
        .input("keypoints", FLOAT, &[1, -1, 17, 3])
        .integers("to_sequences", &[-1, 17, 3])
        .integers("to_poses", &[1, -1, 17, 3])
        .constant("A", &[3, 2], &[-1.0, -2.0, -1.0, -2.0, -1.0, -2.0])
        .constant("fold", &[3, 2], &[1.0, 0.0, 0.0, 1.0, 0.0, 0.0])
        .node("Reshape", &["keypoints", "to_sequences"], "u") // (T, 17, 3): the joints play the part of time
        .node("Abs", &["u"], "delta")
        .node("MatMul", &["u", "fold"], "BC")
        .scan(&["u", "delta", "A", "BC", "BC"], "y", with_body.then_some(body))
        .node("Reshape", &["y", "to_poses"], "poses")
        .output("poses", FLOAT, &[1, -1, 17, 3])
}

/// What a file says that our exporter wrote.
pub fn metadata(frames: usize, normalisation: Normalisation, fps: f32) -> ModelMetadata {
    ModelMetadata {
        format: ModelMetadata::FORMAT,
        name: "test".into(),
        architecture: "linear".into(),
        config_toml: String::new(),
        skeleton: ModelMetadata::SKELETON.into(),
        frames,
        frames_dynamic: true,
        causal: false,
        look_ahead: 0,
        dim_in: 3,
        normalisation,
        fps,
        output: ModelMetadata::OUTPUT.into(),
        parameters: 9,
        trained_on: "nothing".into(),
        licence: "MIT OR Apache-2.0".into(),
        has_top_k_graph: false,
    }
}

pub const IMAGE: ImageSize = ImageSize { width_px: 1280, height_px: 720 };

/// An upright person, about 400 px tall, at `root` px.
pub fn person(root: [f32; 2], sway: f32) -> Keypoints17 {
    // Human3.6M order: pelvis, right leg, left leg, spine to head, left arm, right arm; the person faces the camera.
    const AT: [[f32; 2]; 17] = [
        [0.0, 0.0],
        [-25.0, 2.0],
        [-28.0, 100.0],
        [-30.0, 195.0],
        [25.0, 2.0],
        [27.0, 101.0],
        [31.0, 196.0],
        [0.0, -55.0],
        [0.0, -110.0],
        [0.0, -135.0],
        [0.0, -165.0],
        [40.0, -105.0],
        [60.0, -50.0],
        [62.0, 5.0],
        [-40.0, -104.0],
        [-61.0, -48.0],
        [-64.0, 6.0],
    ];
    std::array::from_fn(|j| {
        let [x, y] = AT[j];
        Keypoint::new(root[0] + x + sway * (y / 100.0), root[1] + y, 0.9)
    })
}

/// A person who walks through the picture and comes nearer, `length` frames at `fps`.
pub fn walk(length: usize, fps: f64) -> KeypointClip {
    let frames = (0..length)
        .map(|t| {
            let s = (t as f64 / fps) as f32;
            let size = 1.0 + 0.05 * s;
            let at = [300.0 + 40.0 * s, 360.0 + 10.0 * (2.0 * s).sin()];
            person([0.0, 0.0], 10.0 * (5.0 * s).sin()).map(|k| Keypoint::new(at[0] + size * k.x_px, at[1] + size * k.y_px, k.confidence))
        })
        .collect();
    KeypointClip::from_fps(frames, fps, IMAGE).unwrap()
}

/// Two states: the sum of all frames (1, 17, 3), and numbers (4) that halve and grow by one; the poses are the sum plus the first of
/// the other. The state that is first among the inputs comes last among the outputs.
pub fn summing(batch: i64) -> Graph {
    Graph::default()
        .input("fading", FLOAT, &[batch, 4])
        .input("keypoints", FLOAT, &[batch, 1, 17, 3])
        .input("sum", FLOAT, &[batch, 1, 17, 3])
        .constant("half", &[1], &[0.5])
        .constant("one", &[1], &[1.0])
        .integers("first", &[0])
        .integers("to_all", &[-1, 1, 1, 1])
        .node("Add", &["sum", "keypoints"], "next_sum")
        .node("Mul", &["fading", "half"], "faded")
        .node("Add", &["faded", "one"], "next_fading")
        .node_with("Gather", &["next_fading", "first"], "leading", ("axis", 1))
        .node("Reshape", &["leading", "to_all"], "added")
        .node("Add", &["next_sum", "added"], "poses")
        .output("next_sum", FLOAT, &[batch, 1, 17, 3])
        .output("poses", FLOAT, &[batch, 1, 17, 3])
        .output("next_fading", FLOAT, &[batch, 4])
}
