//! What the converter needs of the TFLite schema (tensorflow/lite/schema/schema.fbs), as plain structs.

use super::flatbuffer::Table;
use super::{Error, sparse};

/// TFLite itself goes to 8 dimensions at most.
const MAX_RANK: usize = 8;
const MAX_OPERANDS: usize = 64;
/// Tensors and operators: a small file must not describe a huge graph by pointing to one place again and again.
const MAX_GRAPH: usize = 1 << 16;

/// The first subgraph of a TFLite file.
pub struct Model<'a> {
    pub tensors: Vec<Tensor<'a>>,
    /// In order of execution.
    pub operators: Vec<Operator<'a>>,
    /// Indices into `tensors`, in range.
    pub inputs: Vec<usize>,
    /// Indices into `tensors`, in range.
    pub outputs: Vec<usize>,
}

/// A value of the graph: an activation, or a constant where `data` is not empty.
pub struct Tensor<'a> {
    pub name: &'a str,
    pub shape: Vec<usize>,
    element_type: u8,
    data: &'a [u8],
    sparsity: Option<Table<'a>>,
}

/// One step of the graph.
pub struct Operator<'a> {
    pub kind: Kind,
    /// Indices into `tensors`, in range; `None` for an optional input that is absent.
    pub inputs: Vec<Option<usize>>,
    /// Indices into `tensors`, in range; at least one.
    pub outputs: Vec<usize>,
    options: Option<Table<'a>>,
}

/// The operators of the schema that are known here, with their codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Add,
    Concatenation,
    Conv2d,
    DepthwiseConv2d,
    DepthToSpace,
    Dequantize,
    Logistic,
    MaxPool2d,
    Reshape,
    ResizeBilinear,
    Pad,
    Densify,
    /// Named only if it is needed: an unknown operator that feeds no kept output does no harm.
    Unknown(i32),
}

impl Kind {
    fn from_code(code: i32) -> Self {
        match code {
            0 => Self::Add,
            2 => Self::Concatenation,
            3 => Self::Conv2d,
            4 => Self::DepthwiseConv2d,
            5 => Self::DepthToSpace,
            6 => Self::Dequantize,
            14 => Self::Logistic,
            17 => Self::MaxPool2d,
            22 => Self::Reshape,
            23 => Self::ResizeBilinear,
            34 => Self::Pad,
            124 => Self::Densify,
            other => Self::Unknown(other),
        }
    }
}

/// A constant of the file, dense, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Constant {
    pub shape: Vec<usize>,
    pub values: Values,
}

/// Half floats become f32 on reading: both are exact.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    Float(Vec<f32>),
    Int(Vec<i64>),
}

impl<'a> Model<'a> {
    pub fn parse(file: &'a [u8]) -> Result<Self, Error> {
        let identifier = file.get(4..8).unwrap_or_default();
        if identifier != b"TFL3" {
            return Err(Error::NotTflite { found: String::from_utf8_lossy(identifier).into_owned() });
        }
        let root = Table::root(file)?;
        let kinds = root.tables(1)?.iter().map(operator_kind).collect::<Result<Vec<_>, _>>()?;
        let buffers = root.tables(4)?;
        let subgraphs = root.tables(2)?;
        let [subgraph] = subgraphs.as_slice() else {
            return Err(Error::Unsupported(format!("{} subgraphs (expected 1)", subgraphs.len())));
        };
        let (tensors, operators) = (subgraph.tables(0)?, subgraph.tables(3)?);
        if tensors.len() > MAX_GRAPH || operators.len() > MAX_GRAPH {
            let (tensors, operators) = (tensors.len(), operators.len());
            return Err(Error::Unsupported(format!("{tensors} tensors and {operators} operators (at most {MAX_GRAPH} of each)")));
        }
        let tensors = tensors.iter().map(|table| parse_tensor(table, &buffers)).collect::<Result<Vec<_>, _>>()?;
        let operators = operators.iter().map(|table| parse_operator(table, &kinds, tensors.len())).collect::<Result<Vec<_>, _>>()?;
        let inputs = indices(subgraph, 1, tensors.len())?;
        let outputs = indices(subgraph, 2, tensors.len())?;
        Ok(Self { tensors, operators, inputs, outputs })
    }
}

/// Codes above 127 did not fit the first field, so newer files hold both and the larger one counts.
fn operator_kind(code: &Table<'_>) -> Result<Kind, Error> {
    let deprecated_builtin_code = i32::from(code.u8(0, 0)? as i8);
    let builtin_code = code.i32(3, 0)?;
    Ok(Kind::from_code(builtin_code.max(deprecated_builtin_code)))
}

fn parse_tensor<'a>(table: &Table<'a>, buffers: &[Table<'a>]) -> Result<Tensor<'a>, Error> {
    let name = table.string(3)?;
    let dims = table.i32s(0)?;
    if dims.len() > MAX_RANK {
        return Err(Error::Inconsistent(format!("tensor {name:?} has {} dimensions (at most {MAX_RANK})", dims.len())));
    }
    let shape = dims
        .map(|dim| usize::try_from(dim).map_err(|_| Error::Unsupported(format!("tensor {name:?} with a size of {dim}"))))
        .collect::<Result<Vec<_>, _>>()?;
    let buffer = table.u32(2, 0)? as usize;
    let data = match buffers.get(buffer) {
        Some(buffer) => buffer.vector(0, 1)?.unwrap_or_default(),
        None => {
            let count = buffers.len();
            return Err(Error::Inconsistent(format!("tensor {name:?} is in buffer {buffer}, but there are {count}")));
        }
    };
    Ok(Tensor { name, shape, element_type: table.u8(1, 0)?, data, sparsity: table.table(6)? })
}

fn parse_operator<'a>(table: &Table<'a>, kinds: &[Kind], tensor_count: usize) -> Result<Operator<'a>, Error> {
    let opcode_index = table.u32(0, 0)? as usize;
    let Some(&kind) = kinds.get(opcode_index) else {
        let count = kinds.len();
        return Err(Error::Inconsistent(format!("an operator has code {opcode_index}, but there are {count} codes")));
    };
    let inputs = table.i32s(1)?;
    if inputs.len() > MAX_OPERANDS {
        return Err(Error::Inconsistent(format!("an operator has {} inputs (at most {MAX_OPERANDS})", inputs.len())));
    }
    let inputs = inputs
        .map(|index| if index == -1 { Ok(None) } else { tensor_index(index, tensor_count).map(Some) })
        .collect::<Result<Vec<_>, _>>()?;
    let outputs = indices(table, 2, tensor_count)?;
    if outputs.is_empty() {
        return Err(Error::Inconsistent(format!("an operator ({kind:?}) has no output")));
    }
    Ok(Operator { kind, inputs, outputs, options: table.table(4)? })
}

fn indices(table: &Table<'_>, slot: usize, tensor_count: usize) -> Result<Vec<usize>, Error> {
    let values = table.i32s(slot)?;
    if values.len() > MAX_OPERANDS {
        return Err(Error::Inconsistent(format!("a list of {} tensors (at most {MAX_OPERANDS})", values.len())));
    }
    values.map(|index| tensor_index(index, tensor_count)).collect()
}

fn tensor_index(index: i32, tensor_count: usize) -> Result<usize, Error> {
    usize::try_from(index)
        .ok()
        .filter(|&index| index < tensor_count)
        .ok_or_else(|| Error::Inconsistent(format!("tensor {index} is used, but there are {tensor_count}")))
}

impl Tensor<'_> {
    pub fn is_constant(&self) -> bool {
        !self.data.is_empty()
    }

    /// Decodes a constant of at most `max_elements`: half floats widened, sparse weights spread out.
    pub fn constant(&self, max_elements: usize) -> Result<Constant, Error> {
        let elements = element_count(&self.shape)
            .filter(|&count| count <= max_elements)
            .ok_or_else(|| Error::Unsupported(format!("constants beyond 1 GiB ({:?} has shape {:?})", self.name, self.shape)))?;
        let stored = self.stored_values()?;
        let stored_len = match &stored {
            Values::Float(values) => values.len(),
            Values::Int(values) => values.len(),
        };
        let values = match (&self.sparsity, stored) {
            (Some(sparsity), Values::Float(values)) => Values::Float(sparse::densify(*sparsity, &self.shape, elements, &values)?),
            (None, values) if stored_len == elements => values,
            _ => {
                let (name, shape) = (self.name, &self.shape);
                return Err(Error::Inconsistent(format!("constant {name:?} of shape {shape:?} holds {stored_len} values")));
            }
        };
        Ok(Constant { shape: self.shape.clone(), values })
    }

    fn stored_values(&self) -> Result<Values, Error> {
        const FLOAT32: u8 = 0;
        const FLOAT16: u8 = 1;
        const INT32: u8 = 2;
        const INT64: u8 = 4;
        let ragged = || Error::Inconsistent(format!("constant {:?} is {} bytes long", self.name, self.data.len()));
        Ok(match self.element_type {
            FLOAT32 => Values::Float(elements(self.data, f32::from_le_bytes).ok_or_else(ragged)?),
            FLOAT16 => Values::Float(elements(self.data, |bytes| half::f16::from_le_bytes(bytes).to_f32()).ok_or_else(ragged)?),
            INT32 => Values::Int(elements(self.data, |bytes| i64::from(i32::from_le_bytes(bytes))).ok_or_else(ragged)?),
            INT64 => Values::Int(elements(self.data, i64::from_le_bytes).ok_or_else(ragged)?),
            other => {
                return Err(Error::Unsupported(format!(
                    "constant {:?} of element type {other} (only float32, float16, int32 and int64 are)",
                    self.name
                )));
            }
        })
    }
}

/// `None` if the bytes are no whole number of elements.
fn elements<const N: usize, T>(bytes: &[u8], decode: impl Fn([u8; N]) -> T) -> Option<Vec<T>> {
    let (chunks, rest) = bytes.as_chunks::<N>();
    rest.is_empty().then(|| chunks.iter().map(|chunk| decode(*chunk)).collect())
}

/// Product of the sizes; `None` if it overflows.
pub fn element_count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size))
}

/// `Padding` of the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    Same,
    Valid,
}

/// `ActivationFunctionType` of the schema: the three that are known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    None,
    Relu,
    Relu6,
}

/// Convolution or pooling window: (height, width) each.
#[derive(Clone, Copy, Debug)]
pub struct WindowOptions {
    pub padding: Padding,
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    /// Of a pooling; a convolution's kernel is its weights' shape.
    pub filter: [usize; 2],
    pub activation: Activation,
}

impl<'a> Operator<'a> {
    fn options(&self) -> Result<Table<'a>, Error> {
        self.options.ok_or_else(|| Error::Inconsistent(format!("an operator ({:?}) has no options", self.kind)))
    }

    /// Options of `CONV_2D`, `DEPTHWISE_CONV_2D` and `MAX_POOL_2D`. The schema stores widths before heights.
    pub fn window(&self) -> Result<WindowOptions, Error> {
        let table = self.options()?;
        let padding = match table.u8(0, 0)? {
            0 => Padding::Same,
            1 => Padding::Valid,
            other => return Err(Error::Unsupported(format!("padding {other} (only SAME and VALID are)"))),
        };
        let size = |slot, default| {
            let value = table.i32(slot, default)?;
            // Sizes beyond 16 bits are no convolution's; the limit keeps products of them far from overflow.
            u16::try_from(value)
                .ok()
                .filter(|&size| size > 0)
                .map(usize::from)
                .ok_or_else(|| Error::Inconsistent(format!("{:?} has a stride, dilation or filter of {value}", self.kind)))
        };
        let stride = [size(2, 0)?, size(1, 0)?];
        let (activation, dilation, filter) = match self.kind {
            Kind::Conv2d => (3, [size(5, 1)?, size(4, 1)?], [1, 1]),
            Kind::DepthwiseConv2d => (4, [size(6, 1)?, size(5, 1)?], [1, 1]),
            _ => (5, [1, 1], [size(4, 0)?, size(3, 0)?]),
        };
        Ok(WindowOptions { padding, stride, dilation, filter, activation: activation_of(&table, activation)? })
    }

    /// The activation fused into `ADD` (slot 0) or `CONCATENATION` (slot 1); none where there are no options.
    pub fn activation(&self, slot: usize) -> Result<Activation, Error> {
        self.options.map_or(Ok(Activation::None), |table| activation_of(&table, slot))
    }

    pub fn concatenation_axis(&self) -> Result<i32, Error> {
        self.options()?.i32(0, 0)
    }

    pub fn block_size(&self) -> Result<usize, Error> {
        let value = self.options()?.i32(0, 0)?;
        u16::try_from(value)
            .ok()
            .filter(|&size| size > 0)
            .map(usize::from)
            .ok_or_else(|| Error::Inconsistent(format!("DEPTH_TO_SPACE has a block size of {value}")))
    }

    /// `coordinate_transformation_mode` of ONNX for `RESIZE_BILINEAR`.
    pub fn resize_mode(&self) -> Result<&'static str, Error> {
        let table = self.options()?;
        let (align_corners, half_pixel_centers) = (table.bool(2)?, table.bool(3)?);
        Ok(match (align_corners, half_pixel_centers) {
            (true, _) => "align_corners",
            (false, true) => "half_pixel",
            (false, false) => "asymmetric",
        })
    }
}

fn activation_of(table: &Table<'_>, slot: usize) -> Result<Activation, Error> {
    match table.u8(slot, 0)? {
        0 => Ok(Activation::None),
        1 => Ok(Activation::Relu),
        3 => Ok(Activation::Relu6),
        other => Err(Error::Unsupported(format!("fused activation {other} (only none, RELU and RELU6 are)"))),
    }
}
