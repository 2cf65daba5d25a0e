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
        let count = context.num_inputs()?;
        let mut values = Vec::with_capacity(schema::INPUTS.len());
        for (index, name) in schema::INPUTS.into_iter().enumerate() {
            let value = if index < count { context.input(index)? } else { None };
            if value.is_none() && index < schema::REQUIRED_INPUTS {
                return Err(ort::Error::new(format!(
                    "SelectiveScan: the input {name} is missing; only {} on are optional",
                    schema::INPUTS[schema::REQUIRED_INPUTS]
                )));
            }
            values.push(value);
        }
        let shapes: Vec<Option<&[i64]>> = values.iter().map(|value| value.as_ref().map(|value| &value.shape()[..])).collect();
        let dims = dims_of(&shapes).map_err(ort::Error::new)?;
        Ok(Self { values, dims })
    }

    pub(crate) fn dims(&self) -> Dims {
        self.dims
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
        self.values[index].as_ref().map(|value| Ok(value.try_extract_tensor::<T>()?.1)).transpose()
    }

    fn required<T: PrimitiveTensorElementType>(&self, index: usize) -> ort::Result<&[T]> {
        Ok(self.optional(index)?.unwrap_or_default())
    }
}

/// The sizes that all shapes agree on, or words about the first that does not. In the order of [`schema::INPUTS`].
fn dims_of(shapes: &[Option<&[i64]>]) -> Result<Dims, String> {
    let rank = |index: usize, axes: &str, rank: usize| match shapes[index] {
        Some(shape) if shape.len() == rank && shape.iter().all(|&size| size >= 0) => Ok(shape),
        other => Err(format!("SelectiveScan: {} must have shape {axes}, but has {:?}", schema::INPUTS[index], other.unwrap_or_default())),
    };
    let &[s, l, d] = rank(0, "(S, L, D)", 3)? else { return Err(String::new()) };
    let &[_, n] = rank(2, "(D, N)", 2)? else { return Err(String::new()) };
    let expected: [(&str, &[i64]); 9] = [
        ("(S, L, D)", &[s, l, d]),
        ("(S, L, D)", &[s, l, d]),
        ("(D, N)", &[d, n]),
        ("(S, L, N)", &[s, l, n]),
        ("(S, L, N)", &[s, l, n]),
        ("(D)", &[d]),
        ("(S, L, D)", &[s, l, d]),
        ("(D)", &[d]),
        ("(S, D, N)", &[s, d, n]),
    ];
    for ((name, shape), (axes, expected)) in schema::INPUTS.into_iter().zip(shapes).zip(expected) {
        if let Some(shape) = shape
            && *shape != expected
        {
            return Err(format!("SelectiveScan: {name} must have shape {axes} = {expected:?}, as u and A imply, but has {shape:?}"));
        }
    }
    let size = |size: i64| usize::try_from(size).map_err(|_| format!("SelectiveScan: a dimension of {size} cannot be"));
    Ok(Dims { sequences: size(s)?, frames: size(l)?, channels: size(d)?, states: size(n)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_misfit_is_named() {
        let right: [&[i64]; 9] = [&[2, 5, 3], &[2, 5, 3], &[3, 4], &[2, 5, 4], &[2, 5, 4], &[3], &[2, 5, 3], &[3], &[2, 3, 4]];
        let all: Vec<_> = right.into_iter().map(Some).collect();
        assert_eq!(dims_of(&all), Ok(Dims { sequences: 2, frames: 5, channels: 3, states: 4 }));
        for (index, name) in schema::INPUTS.into_iter().enumerate() {
            for wrong in [&[][..], &[7], &[7, 7], &[7, 7, 7], &[-1, 5, 3]] {
                let mut shapes = all.clone();
                shapes[index] = Some(wrong);
                let message = dims_of(&shapes).expect_err("a misfit");
                // A wrong u or A may first show in another input, which it disagrees with.
                assert!(message.contains(&format!(" {name} must")) || [0, 2].contains(&index), "{message}");
                assert!(message.starts_with("SelectiveScan: "), "{message}");
            }
        }
        let required: Vec<_> = all.iter().copied().take(5).chain([None; 4]).collect();
        assert!(dims_of(&required).is_ok());
    }
}
