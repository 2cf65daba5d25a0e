//! What a node was given: tensors out of ONNX Runtime, with their shapes checked.

use ort::operator::ComputeContext;
use ort::value::{PrimitiveTensorElementType, ValueRef};
use scan::{Dims, Inputs, schema};

/// The inputs of a node, alive for one call; `None` where an optional one is absent.
pub(crate) struct Arguments<'a> {
    values: Vec<Option<ValueRef<'a>>>,
    dims: Dims,
}

impl<'a> Arguments<'a> {
    /// Reads all inputs and checks every shape against u's (S, L, D) and A's (D, N).
    pub(crate) fn read(context: &'a ComputeContext) -> ort::Result<Self> {
        let count = context.num_inputs()?.min(schema::INPUTS.len());
        let values = (0..count).map(|index| context.input(index)).collect::<ort::Result<Vec<_>>>()?;
        let shapes = values.iter().map(|value| value.as_ref().map(shape_of).transpose()).collect::<ort::Result<Vec<_>>>()?;
        let shapes: Vec<Option<&[usize]>> = shapes.iter().map(Option::as_deref).collect();
        let dims = schema::dims(&shapes).map_err(ort::Error::new)?;
        Ok(Self { values, dims })
    }

    pub(crate) fn dims(&self) -> Dims {
        self.dims
    }

    /// The input at that place of the schema, wherever it lies.
    pub(crate) fn value(&self, index: usize) -> Option<&ValueRef<'a>> {
        self.values.get(index).and_then(Option::as_ref)
    }

    /// For the scan, whose element type the operator was chosen by.
    pub(crate) fn inputs<T: PrimitiveTensorElementType>(&self, delta_softplus: bool) -> ort::Result<Inputs<'_, T, f32>> {
        Ok(Inputs {
            u: self.required(0)?,
            delta: self.required(1)?,
            a: self.required(2)?,
            b: self.required(3)?,
            c: self.required(4)?,
            d: self.optional(5)?,
            z: self.optional(6)?,
            delta_bias: self.optional(7)?,
            initial_state: self.optional(8)?,
            delta_softplus,
        })
    }

    fn optional<T: PrimitiveTensorElementType>(&self, index: usize) -> ort::Result<Option<&[T]>> {
        self.values.get(index).and_then(Option::as_ref).map(|value| Ok(value.try_extract_tensor::<T>()?.1)).transpose()
    }

    fn required<T: PrimitiveTensorElementType>(&self, index: usize) -> ort::Result<&[T]> {
        Ok(self.optional(index)?.unwrap_or_default())
    }
}

fn shape_of(value: &ValueRef<'_>) -> ort::Result<Vec<usize>> {
    let size = |&size: &i64| usize::try_from(size).map_err(|_| ort::Error::new(format!("SelectiveScan: a dimension of {size} cannot be")));
    value.shape().iter().map(size).collect()
}
