//! Just enough of ONNX's protobuf to write a model of one node.

/// A message, field by field (protobuf.dev/programming-guides/encoding).
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn int(mut self, field: u64, value: i64) -> Self {
        self.varint(field << 3);
        self.varint(value as u64);
        self
    }

    fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    fn message(self, field: u64, value: Message) -> Self {
        self.bytes(field, &value.0)
    }

    fn each<T>(self, items: impl IntoIterator<Item = T>, add: impl FnMut(Self, T) -> Self) -> Self {
        items.into_iter().fold(self, add)
    }
}

/// TensorProto.DataType
#[derive(Clone, Copy)]
pub enum Type {
    F32 = 1,
    F16 = 10,
}

/// A size of a graph input: known, or a name for one that is not.
#[derive(Clone, Copy)]
pub enum Size {
    Is(usize),
    Named(&'static str),
}

/// A graph input or output; outputs may leave the shape to inference.
pub struct Value<'a> {
    pub name: &'a str,
    pub of: Type,
    pub shape: Option<Vec<Size>>,
}

impl Value<'_> {
    fn message(&self) -> Message {
        let tensor = Message::default().int(1, self.of as i64).each(&self.shape, |tensor, shape| {
            let shape = Message::default().each(shape, |message, size| {
                let dimension = match size {
                    Size::Is(size) => Message::default().int(1, *size as i64),
                    Size::Named(name) => Message::default().bytes(2, name.as_bytes()),
                };
                message.message(1, dimension)
            });
            tensor.message(2, shape)
        });
        Message::default().bytes(1, self.name.as_bytes()).message(2, Message::default().message(1, tensor))
    }
}

/// A model of one `SelectiveScan` node. `wires` are the node's inputs in order, "" for absent ones.
pub fn model(inputs: &[Value<'_>], wires: &[&str], outputs: &[Value<'_>], delta_softplus: Option<i64>) -> Vec<u8> {
    let node = Message::default()
        .each(wires, |node, wire| node.bytes(1, wire.as_bytes()))
        .each(outputs, |node, output| node.bytes(2, output.name.as_bytes()))
        .bytes(4, b"SelectiveScan")
        .each(delta_softplus, |node, value| node.message(5, Message::default().bytes(1, b"delta_softplus").int(3, value).int(20, 2)))
        .bytes(7, b"poselift.ssm");
    let graph = Message::default()
        .message(1, node)
        .bytes(2, b"test")
        .each(inputs, |graph, input| graph.message(11, input.message()))
        .each(outputs, |graph, output| graph.message(12, output.message()));
    let opset = |domain: &str, version| Message::default().bytes(1, domain.as_bytes()).int(2, version);
    Message::default().int(1, 8).message(7, graph).message(8, opset("", 17)).message(8, opset("poselift.ssm", 1)).0
}
