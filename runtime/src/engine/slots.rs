//! Small graphs that move rows of states about in a device's memory: ONNX Runtime runs them, so no kernel of ours is needed.
//!
//! States of all streams lie in one slab for each state, a row for each slot. [`gather`] takes the rows of a call's streams out, side by
//! side, as the model wants them; [`scatter`] puts what comes out of the model back into the slab, in place: its outputs are bound to the
//! memory of its inputs, and ScatterND copies nothing where they are the same.

use ort::{
    editor::{Graph, Model, Node, ONNX_DOMAIN, Opset},
    memory::Allocator,
    session::{Session, builder::SessionBuilder},
    value::{Outlet, Shape, SymbolicDimensions, Tensor, TensorElementType, ValueType},
};

/// ScatterND of the CUDA provider gives each index to one thread, which copies the index's numbers one after the other. So rows are
/// scattered in pieces of so many numbers at most.
const LONGEST_PIECE: usize = 16;

/// Opset of the graphs.
const OPSET: u32 = 17;

/// Numbers of a piece of a row of `len` numbers: they divide it.
pub(super) fn piece(len: usize) -> usize {
    (1..=LONGEST_PIECE.min(len)).rev().find(|&piece| len.is_multiple_of(piece)).unwrap_or(1)
}

/// Names of the ports of both graphs that belong to state `index`: the slab, its rows for a call, the slab as an output.
pub(super) fn names(index: usize) -> [String; 3] {
    [format!("slab_{index}"), format!("rows_{index}"), format!("next_slab_{index}")]
}

/// Inputs: `from` (B), for each state its slab (slots, n), `keypoints` of any shape. Outputs: for each state its rows (B, n), and
/// `keypoints_there`, the same on the device.
pub(super) fn gather(builder: &SessionBuilder, lens: &[usize]) -> ort::Result<Session> {
    let mut graph = Graph::new()?;
    let mut inputs = vec![outlet("from", TensorElementType::Int64, &[None]), f32s("keypoints", &[None; 4])];
    let mut outputs = vec![f32s("keypoints_there", &[None; 4])];
    graph.add_node(node("Identity", &["keypoints"], "keypoints_there")?)?;
    for (index, &len) in lens.iter().enumerate() {
        let [slab, rows, _] = names(index);
        inputs.push(f32s(&slab, &[None, Some(len)]));
        outputs.push(f32s(&rows, &[None, Some(len)]));
        graph.add_node(node("Gather", &[&slab, "from"], &rows)?)?;
    }
    session(graph, inputs, outputs, builder)
}

/// Inputs: `to` (B, 1), for each state its slab (slots * n / p, p) and its rows (B * n / p, p) with p as [`piece`] says, `poses` of any
/// shape. Outputs: for each state its slab with the rows in it, and `poses_there`, which may lie elsewhere.
pub(super) fn scatter(builder: &SessionBuilder, lens: &[usize]) -> ort::Result<Session> {
    let mut graph = Graph::new()?;
    let mut inputs = vec![outlet("to", TensorElementType::Int64, &[None, Some(1)]), f32s("poses", &[None; 4])];
    let mut outputs = vec![f32s("poses_there", &[None; 4])];
    graph.add_node(node("Identity", &["poses"], "poses_there")?)?;
    integers(&mut graph, "as_column", &[2], vec![-1, 1])?;
    for (index, &len) in lens.iter().enumerate() {
        let ([slab, rows, next_slab], piece) = (names(index), piece(len));
        let pieces = (len / piece) as i64; // they fit in memory
        inputs.extend([f32s(&slab, &[None, Some(piece)]), f32s(&rows, &[None, Some(piece)])]);
        outputs.push(f32s(&next_slab, &[None, Some(piece)]));
        let name = |what: &str| format!("{what}_{index}");
        integers(&mut graph, &name("pieces"), &[1, 1], vec![pieces])?;
        integers(&mut graph, &name("piece_of_row"), &[1, pieces as usize], (0..pieces).collect())?;
        // (B, 1) * (1, 1) + (1, n / p) -> (B, n / p) -> (B * n / p, 1)
        graph.add_node(node("Mul", &["to", &name("pieces")], &name("first_piece"))?)?;
        graph.add_node(node("Add", &[&name("first_piece"), &name("piece_of_row")], &name("targets"))?)?;
        graph.add_node(node("Reshape", &[&name("targets"), "as_column"], &name("indices"))?)?;
        graph.add_node(node("ScatterND", &[&slab, &name("indices"), &rows], &next_slab)?)?;
    }
    session(graph, inputs, outputs, builder)
}

/// `y` (n) is `x` (n): for tests.
#[cfg(test)]
pub(super) fn identity(builder: &SessionBuilder) -> ort::Result<Session> {
    let mut graph = Graph::new()?;
    graph.add_node(node("Identity", &["x"], "y")?)?;
    session(graph, vec![f32s("x", &[None])], vec![f32s("y", &[None])], builder)
}

fn session(mut graph: Graph, inputs: Vec<Outlet>, outputs: Vec<Outlet>, builder: &SessionBuilder) -> ort::Result<Session> {
    graph.set_inputs(inputs)?;
    graph.set_outputs(outputs)?;
    let mut model = Model::new([Opset::new(ONNX_DOMAIN, OPSET)?])?;
    model.set_graph(graph)?;
    model.into_session(builder)
}

/// A node without attributes, called by its one output.
fn node(operator: &str, inputs: &[&str], output: &str) -> ort::Result<Node> {
    Node::new(operator, ONNX_DOMAIN, output, inputs, [output], [])
}

fn f32s(name: &str, sizes: &[Option<usize>]) -> Outlet {
    outlet(name, TensorElementType::Float32, sizes)
}

/// A port; a size of `None` is free, and has a name of its own.
fn outlet(name: &str, ty: TensorElementType, sizes: &[Option<usize>]) -> Outlet {
    let shape = Shape::new(sizes.iter().map(|size| size.map_or(-1, |size| size as i64)));
    let symbol = |(axis, size): (usize, &Option<usize>)| if size.is_some() { String::new() } else { format!("{name}_{axis}") };
    let dimension_symbols = SymbolicDimensions::new(sizes.iter().enumerate().map(symbol));
    Outlet::new(name, ValueType::Tensor { ty, shape, dimension_symbols })
}

fn integers(graph: &mut Graph, name: &str, shape: &[usize], values: Vec<i64>) -> ort::Result<()> {
    let mut tensor = Tensor::<i64>::new(&Allocator::default(), shape)?;
    tensor.extract_tensor_mut().1.copy_from_slice(&values);
    graph.add_initializer(name, tensor, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_divide_their_row() {
        for (len, expected) in [(1, 1), (4, 4), (16, 16), (17, 1), (34_816, 16), (51, 3), (13_056, 16), (40, 10)] {
            assert_eq!(piece(len), expected, "{len}");
        }
    }
}
