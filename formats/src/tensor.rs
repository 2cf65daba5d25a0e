//! Dense arrays of one element type, in row-major order.

use crate::error::{Error, Result};
use half::{bf16, f16};

/// Element types that a [`Tensor`] can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names say it
pub enum DType {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }
}

/// The elements of a [`Tensor`], row-major.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the names say it
pub enum Data {
    F64(Vec<f64>),
    F32(Vec<f32>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
    I64(Vec<i64>),
    I32(Vec<i32>),
    I16(Vec<i16>),
    I8(Vec<i8>),
    U8(Vec<u8>),
    Bool(Vec<bool>),
}

/// Runs one expression on the vector inside a [`Data`], whatever its element type.
macro_rules! each_dtype {
    ($data:expr, $v:ident => $body:expr) => {
        match $data {
            Data::F64($v) => $body,
            Data::F32($v) => $body,
            Data::F16($v) => $body,
            Data::BF16($v) => $body,
            Data::I64($v) => $body,
            Data::I32($v) => $body,
            Data::I16($v) => $body,
            Data::I8($v) => $body,
            Data::U8($v) => $body,
            Data::Bool($v) => $body,
        }
    };
}

impl Data {
    /// Number of elements.
    pub fn len(&self) -> usize {
        each_dtype!(self, v => v.len())
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        match self {
            Self::F64(_) => DType::F64,
            Self::F32(_) => DType::F32,
            Self::F16(_) => DType::F16,
            Self::BF16(_) => DType::BF16,
            Self::I64(_) => DType::I64,
            Self::I32(_) => DType::I32,
            Self::I16(_) => DType::I16,
            Self::I8(_) => DType::I8,
            Self::U8(_) => DType::U8,
            Self::Bool(_) => DType::Bool,
        }
    }

    /// Elements out of their bytes, little or big endian. Trailing bytes short of a whole element are ignored.
    pub(crate) fn from_bytes(dtype: DType, bytes: &[u8], big_endian: bool) -> Self {
        macro_rules! decode {
            ($t:ty, $variant:ident) => {{
                let chunks = bytes.as_chunks::<{ size_of::<$t>() }>().0.iter();
                Self::$variant(if big_endian {
                    chunks.map(|c| <$t>::from_be_bytes(*c)).collect()
                } else {
                    chunks.map(|c| <$t>::from_le_bytes(*c)).collect()
                })
            }};
        }
        match dtype {
            DType::F64 => decode!(f64, F64),
            DType::F32 => decode!(f32, F32),
            DType::F16 => decode!(f16, F16),
            DType::BF16 => decode!(bf16, BF16),
            DType::I64 => decode!(i64, I64),
            DType::I32 => decode!(i32, I32),
            DType::I16 => decode!(i16, I16),
            DType::I8 => decode!(i8, I8),
            DType::U8 => Self::U8(bytes.to_vec()),
            DType::Bool => Self::Bool(bytes.iter().map(|b| *b != 0).collect()),
        }
    }

    /// Writes the elements as little-endian bytes, a block at a time.
    pub(crate) fn write_le(&self, out: &mut dyn std::io::Write) -> std::io::Result<()> {
        const BLOCK: usize = 1 << 14;
        macro_rules! encode {
            ($v:expr) => {{
                let mut buffer = Vec::with_capacity(BLOCK.min($v.len()) * self.dtype().size());
                for block in $v.chunks(BLOCK) {
                    buffer.clear();
                    block.iter().for_each(|x| buffer.extend_from_slice(&x.to_le_bytes()));
                    out.write_all(&buffer)?;
                }
                Ok(())
            }};
        }
        match self {
            Self::F64(v) => encode!(v),
            Self::F32(v) => encode!(v),
            Self::F16(v) => encode!(v),
            Self::BF16(v) => encode!(v),
            Self::I64(v) => encode!(v),
            Self::I32(v) => encode!(v),
            Self::I16(v) => encode!(v),
            Self::I8(v) => encode!(v),
            Self::U8(v) => out.write_all(v),
            Self::Bool(v) => out.write_all(&v.iter().map(|b| u8::from(*b)).collect::<Vec<_>>()),
        }
    }
}

/// A dense array: `data` holds the product of `shape` elements in row-major order; a scalar has the shape `[]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Length of each axis, outermost first.
    pub shape: Vec<usize>,
    /// The elements, row-major.
    pub data: Data,
}

/// Product of the axes, or `None` where it overflows.
pub(crate) fn element_count(shape: &[usize]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1usize, |n, &axis| n.checked_mul(axis))
}

impl Tensor {
    /// A tensor whose shape and number of elements are checked against each other.
    ///
    /// # Errors
    /// If `data` does not hold exactly the product of `shape` elements.
    pub fn new(shape: impl Into<Vec<usize>>, data: Data) -> Result<Self> {
        let shape = shape.into();
        if element_count(&shape) != Some(data.len()) {
            return Err(Error::content(format!("a tensor of shape {shape:?} cannot hold {} elements", data.len())));
        }
        Ok(Self { shape, data })
    }

    /// A tensor of f32.
    ///
    /// # Panics
    /// If `data` does not hold exactly the product of `shape` elements; for sizes that come from outside use [`Tensor::new`].
    #[track_caller]
    pub fn f32(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> Self {
        let shape = shape.into();
        assert_eq!(element_count(&shape), Some(data.len()), "elements of a tensor of shape {shape:?}");
        Self { shape, data: Data::F32(data) }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.data.dtype()
    }

    /// All elements as f32, rounded to nearest; booleans are 0 and 1.
    pub fn to_f32(&self) -> Vec<f32> {
        match &self.data {
            Data::F64(v) => v.iter().map(|&x| x as f32).collect(),
            Data::F32(v) => v.clone(),
            Data::F16(v) => v.iter().map(|x| x.to_f32()).collect(),
            Data::BF16(v) => v.iter().map(|x| x.to_f32()).collect(),
            Data::I64(v) => v.iter().map(|&x| x as f32).collect(),
            Data::I32(v) => v.iter().map(|&x| x as f32).collect(),
            Data::I16(v) => v.iter().map(|&x| f32::from(x)).collect(),
            Data::I8(v) => v.iter().map(|&x| f32::from(x)).collect(),
            Data::U8(v) => v.iter().map(|&x| f32::from(x)).collect(),
            Data::Bool(v) => v.iter().map(|&x| f32::from(u8::from(x))).collect(),
        }
    }

    /// All elements as f64; exact, except for i64 beyond 2^53; booleans are 0 and 1.
    pub fn to_f64(&self) -> Vec<f64> {
        match &self.data {
            Data::F64(v) => v.clone(),
            Data::F32(v) => v.iter().map(|&x| f64::from(x)).collect(),
            Data::F16(v) => v.iter().map(|x| x.to_f64()).collect(),
            Data::BF16(v) => v.iter().map(|x| x.to_f64()).collect(),
            Data::I64(v) => v.iter().map(|&x| x as f64).collect(),
            Data::I32(v) => v.iter().map(|&x| f64::from(x)).collect(),
            Data::I16(v) => v.iter().map(|&x| f64::from(x)).collect(),
            Data::I8(v) => v.iter().map(|&x| f64::from(x)).collect(),
            Data::U8(v) => v.iter().map(|&x| f64::from(x)).collect(),
            Data::Bool(v) => v.iter().map(|&x| f64::from(u8::from(x))).collect(),
        }
    }

    /// All elements as i64; fractions are cut off towards zero, values out of range are clamped, NaN becomes 0.
    pub fn to_i64(&self) -> Vec<i64> {
        match &self.data {
            Data::I64(v) => v.clone(),
            Data::I32(v) => v.iter().map(|&x| i64::from(x)).collect(),
            Data::I16(v) => v.iter().map(|&x| i64::from(x)).collect(),
            Data::I8(v) => v.iter().map(|&x| i64::from(x)).collect(),
            Data::U8(v) => v.iter().map(|&x| i64::from(x)).collect(),
            Data::Bool(v) => v.iter().map(|&x| i64::from(x)).collect(),
            Data::F64(_) | Data::F32(_) | Data::F16(_) | Data::BF16(_) => self.to_f64().into_iter().map(|x| x as i64).collect(),
        }
    }
}
