//! Models written by the `flatbuffers` crate, so that the reader is tested against another writer.

use flatbuffers::{FlatBufferBuilder, TableFinishedWIPOffset, UnionWIPOffset, VOffsetT, Vector, WIPOffset};
use prost::Message as _;

use super::*;

/// Position in a vtable of a table's `slot`-th field.
const fn field(slot: VOffsetT) -> VOffsetT {
    4 + 2 * slot
}

type Builder<'b> = FlatBufferBuilder<'b>;
type TableOffset = WIPOffset<TableFinishedWIPOffset>;

fn tables<'b>(
    builder: &mut Builder<'b>,
    tables: &[TableOffset],
) -> WIPOffset<Vector<'b, flatbuffers::ForwardsUOffset<TableFinishedWIPOffset>>> {
    builder.create_vector(tables)
}

fn buffer(builder: &mut Builder<'_>, bytes: &[u8]) -> TableOffset {
    let data = builder.create_vector(bytes);
    let table = builder.start_table();
    builder.push_slot_always(field(0), data);
    builder.end_table(table)
}

struct TensorSpec<'s> {
    name: &'s str,
    shape: &'s [i32],
    element_type: u8,
    buffer: u32,
    sparsity: Option<TableOffset>,
}

fn tensor(builder: &mut Builder<'_>, spec: &TensorSpec<'_>) -> TableOffset {
    let shape = builder.create_vector(spec.shape);
    let name = builder.create_string(spec.name);
    let table = builder.start_table();
    builder.push_slot_always(field(0), shape);
    builder.push_slot(field(1), spec.element_type, 0);
    builder.push_slot(field(2), spec.buffer, 0);
    builder.push_slot_always(field(3), name);
    if let Some(sparsity) = spec.sparsity {
        builder.push_slot_always(field(6), sparsity);
    }
    builder.end_table(table)
}

fn operator(builder: &mut Builder<'_>, code: u32, inputs: &[i32], outputs: &[i32], options: Option<TableOffset>) -> TableOffset {
    let inputs = builder.create_vector(inputs);
    let outputs = builder.create_vector(outputs);
    let table = builder.start_table();
    builder.push_slot(field(0), code, 0);
    builder.push_slot_always(field(1), inputs);
    builder.push_slot_always(field(2), outputs);
    if let Some(options) = options {
        builder.push_slot_always(field(4), WIPOffset::<UnionWIPOffset>::new(options.value()));
    }
    builder.end_table(table)
}

/// Assembles the file. `codes` are builtin operator codes.
fn finish(
    mut builder: Builder<'_>,
    codes: &[i32],
    buffers: &[TableOffset],
    tensors: &[TableOffset],
    operators: &[TableOffset],
    [input, output]: [i32; 2],
) -> Vec<u8> {
    let codes: Vec<TableOffset> = codes
        .iter()
        .map(|&code| {
            let table = builder.start_table();
            builder.push_slot(field(0), code.min(127) as i8, 0);
            builder.push_slot(field(3), code, 0);
            builder.end_table(table)
        })
        .collect();
    let tensors = tables(&mut builder, tensors);
    let operators = tables(&mut builder, operators);
    let inputs = builder.create_vector(&[input]);
    let outputs = builder.create_vector(&[output]);
    let table = builder.start_table();
    builder.push_slot_always(field(0), tensors);
    builder.push_slot_always(field(1), inputs);
    builder.push_slot_always(field(2), outputs);
    builder.push_slot_always(field(3), operators);
    let subgraph = builder.end_table(table);
    let subgraphs = tables(&mut builder, &[subgraph]);
    let codes = tables(&mut builder, &codes);
    let buffers = tables(&mut builder, buffers);
    let table = builder.start_table();
    builder.push_slot(field(0), 3u32, 0);
    builder.push_slot_always(field(1), codes);
    builder.push_slot_always(field(2), subgraphs);
    builder.push_slot_always(field(4), buffers);
    let model = builder.end_table(table);
    builder.finish(model, Some("TFL3"));
    builder.finished_data().to_vec()
}

fn f16_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes()).collect()
}

/// image (1, 4, 5, 2) -> CONV_2D 3x3, stride 2, SAME, RELU6, three channels: half-float weights behind a DEQUANTIZE.
fn convolution_model(weights: &[f32]) -> Vec<u8> {
    let mut b = Builder::new();
    let bias: Vec<u8> = [0.5f32, -1.0, 2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    let buffers = [buffer(&mut b, &[]), buffer(&mut b, &f16_bytes(weights)), buffer(&mut b, &bias)];
    let spec = |name, shape, element_type, buffer| TensorSpec { name, shape, element_type, buffer, sparsity: None };
    let tensors = [
        tensor(&mut b, &spec("image", &[1, 4, 5, 2], 0, 0)),
        tensor(&mut b, &spec("weights_f16", &[3, 3, 3, 2], 1, 1)),
        tensor(&mut b, &spec("weights", &[3, 3, 3, 2], 0, 0)),
        tensor(&mut b, &spec("bias", &[3], 0, 2)),
        tensor(&mut b, &spec("result", &[1, 2, 3, 3], 0, 0)),
    ];
    let options = {
        let table = b.start_table();
        b.push_slot(field(1), 2i32, 0);
        b.push_slot(field(2), 2i32, 0);
        b.push_slot(field(3), 3u8, 0);
        b.end_table(table)
    };
    let operators = [operator(&mut b, 0, &[1], &[2], None), operator(&mut b, 1, &[0, 2, 3], &[4], Some(options))];
    finish(b, &[6, 3], &buffers, &tensors, &operators, [0, 4])
}

/// x (1, 3) -> ADD of a (2, 3) constant stored in compressed rows.
fn sparse_model() -> Vec<u8> {
    let mut b = Builder::new();
    // [[0, 5, 0], [7, 0, 9]]
    let buffers = [buffer(&mut b, &[]), buffer(&mut b, &f16_bytes(&[5.0, 7.0, 9.0]))];
    let segments = {
        let values = b.create_vector(&[0u8, 1, 3]);
        let table = b.start_table();
        b.push_slot_always(field(0), values);
        b.end_table(table)
    };
    let indices = {
        let values = b.create_vector(&[1u16, 0, 2]);
        let table = b.start_table();
        b.push_slot_always(field(0), values);
        b.end_table(table)
    };
    let rows = {
        let table = b.start_table();
        b.push_slot(field(1), 2i32, 0);
        b.end_table(table)
    };
    let columns = {
        let table = b.start_table();
        b.push_slot(field(0), 1u8, 0);
        b.push_slot(field(2), 3u8, 0);
        b.push_slot_always(field(3), segments);
        b.push_slot(field(4), 2u8, 0);
        b.push_slot_always(field(5), indices);
        b.end_table(table)
    };
    let sparsity = {
        let order = b.create_vector(&[0i32, 1]);
        let levels = tables(&mut b, &[rows, columns]);
        let table = b.start_table();
        b.push_slot_always(field(0), order);
        b.push_slot_always(field(2), levels);
        b.end_table(table)
    };
    let spec = |name, shape, element_type, buffer, sparsity| TensorSpec { name, shape, element_type, buffer, sparsity };
    let tensors = [
        tensor(&mut b, &spec("x", &[2, 3], 0, 0, None)),
        tensor(&mut b, &spec("sparse", &[2, 3], 1, 1, Some(sparsity))),
        tensor(&mut b, &spec("dense", &[2, 3], 1, 0, None)),
        tensor(&mut b, &spec("sum", &[2, 3], 0, 0, None)),
    ];
    let operators = [operator(&mut b, 0, &[1], &[2], None), operator(&mut b, 1, &[0, 2], &[3], None)];
    finish(b, &[124, 0], &buffers, &tensors, &operators, [0, 3])
}

fn weights() -> Vec<f32> {
    (0..54).map(|i| (i as f32 - 20.0) / 8.0).collect()
}

fn floats(model: &ModelProto, name: &str) -> Vec<f32> {
    let graph = model.graph.as_ref().expect("a graph");
    let tensor = graph.initializer.iter().find(|tensor| tensor.name.as_deref() == Some(name)).expect(name);
    let bytes = tensor.raw_data.as_ref().expect("raw data");
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[test]
fn a_convolution_becomes_nchw_with_tensorflow_padding() {
    let model = convert(&convolution_model(&weights())).expect("a valid model");
    let graph = model.graph.as_ref().expect("a graph");
    let ops: Vec<&str> = graph.node.iter().filter_map(|node| node.op_type.as_deref()).collect();
    assert_eq!(ops, ["Transpose", "Conv", "Clip", "Transpose", "Identity"]);
    let conv = &graph.node[1];
    let attribute =
        |name: &str| conv.attribute.iter().find(|attribute| attribute.name.as_deref() == Some(name)).expect("attribute").ints.clone();
    // Height 4, stride 2, kernel 3: one pixel of padding, behind. Width 5: two pixels, one on each side.
    assert_eq!(attribute("pads"), [0, 1, 1, 1]);
    assert_eq!(attribute("strides"), [2, 2]);
    // (out, kh, kw, in) -> (out, in, kh, kw)
    let found = floats(&model, "w4");
    for (out, input, y, x) in [(0, 0, 0, 0), (1, 1, 2, 0), (2, 0, 1, 2)] {
        let expected = weights()[((out * 3 + y) * 3 + x) * 2 + input];
        assert_eq!(found[((out * 2 + input) * 3 + y) * 3 + x], expected);
    }
    assert_eq!(graph.input[0].name.as_deref(), Some("image"));
    assert_eq!(graph.output[0].name.as_deref(), Some("result"));
}

#[test]
fn sparse_constants_are_spread_out() {
    let model = convert(&sparse_model()).expect("a valid model");
    assert_eq!(floats(&model, "t2"), [0.0, 5.0, 0.0, 7.0, 0.0, 9.0]);
}

#[test]
fn outputs_are_chosen_and_renamed() {
    let output = |from: &str| Output { tflite_name: from.to_owned(), onnx_name: "score".to_owned() };
    let model = convert_outputs(&convolution_model(&weights()), &[output("result")]).expect("a valid model");
    assert_eq!(model.graph.expect("a graph").output[0].name.as_deref(), Some("score"));
    let error = convert_outputs(&convolution_model(&weights()), &[output("nothing")]).expect_err("no such output");
    assert_eq!(error.to_string(), "the TFLite model has no output \"nothing\"; its outputs are result");
}

#[test]
fn what_is_not_a_model_is_named() {
    for file in [&b""[..], b"hello", b"{\"a\": 1, \"b\": 2}"] {
        assert!(matches!(convert(file), Err(Error::NotTflite { .. })));
    }
}

/// Damage of every kind: no panic, no endless loop, no huge allocation; what still converts is still a valid file.
#[test]
fn damaged_files_are_errors_not_panics() {
    for file in [convolution_model(&weights()), sparse_model()] {
        for len in 0..file.len() {
            let _ = convert(&file[..len]);
        }
        for position in 8..file.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff, file[position] ^ 4] {
                let mut damaged = file.clone();
                damaged[position] = value;
                if let Ok(model) = convert(&damaged) {
                    assert!(model.encoded_len() < 1 << 20);
                }
            }
        }
    }
}

/// `fuzz/seeds/tflite` holds these models; `UPDATE_SEEDS=1` writes them.
#[test]
fn the_fuzzer_starts_from_these_models() {
    let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds/tflite"));
    for (name, model) in [("convolution.tflite", convolution_model(&weights())), ("sparse.tflite", sparse_model())] {
        if std::env::var_os("UPDATE_SEEDS").is_some() {
            std::fs::write(folder.join(name), &model).expect("a seed");
        }
        assert!(
            std::fs::read(folder.join(name)).is_ok_and(|seed| seed == model),
            "{name}: UPDATE_SEEDS=1 cargo test -p export --lib tflite"
        );
    }
}
