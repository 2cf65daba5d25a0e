//! The selective scan as an operator of ONNX Runtime, in process.
//!
//! [`operator_domain`] goes to `ort`'s `SessionBuilder::with_operators`, and the session is made in [`commit_with_operators`]. Once it is registered, ONNX Runtime takes the
//! kernel for every `SelectiveScan` node, and ignores the function body that a model file may carry for plain runtimes.

mod arguments;
mod cuda;
mod first_alone;
mod kernel;

use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};

use half::f16;
use ort::operator::{KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput, ShapeInferenceContext};
use ort::value::{PrimitiveTensorElementType, Shape, SymbolicDimensions, TensorElementType, ValueType};
use scan::{Element, schema};

use crate::cuda::CudaScan;
use crate::first_alone::FirstAlone;
use crate::kernel::ScanKernel;

/// The domain `poselift.ssm` with `SelectiveScan` for f32 and for f16, each on the CPU and on CUDA.
///
/// A session takes the kernels of the providers that it has. Those for CUDA are compiled when a session first runs one: nothing of CUDA is
/// looked for before. Call `ort::init_from` (or have ONNX Runtime loaded some other way) first.
///
/// # Errors
/// ONNX Runtime refuses the registration.
pub fn operator_domain() -> ort::Result<OperatorDomain> {
    let (of_f32, of_f16) = (|| SelectiveScan::<f32>(PhantomData), || SelectiveScan::<f16>(PhantomData));
    OperatorDomain::new(schema::DOMAIN)?.add(of_f32())?.add(of_f16())?.add(CudaScan::<f32>::new())?.add(CudaScan::<f16>::new())
}

/// The domain with the kernels of CUDA alone, told to ONNX Runtime as the CPU's. With a driver they fail, because tensors are not on the device;
/// tests have a stand-in for one.
///
/// # Errors
/// As [`operator_domain`].
#[doc(hidden)]
pub fn cuda_operators_as_those_of_the_cpu() -> ort::Result<OperatorDomain> {
    OperatorDomain::new(schema::DOMAIN)?.add(CudaScan::<f32>::without_provider())?.add(CudaScan::<f16>::without_provider())
}

/// Whether NVRTC, which compiles the operator's kernels for CUDA, can be loaded; whoever runs on the CPU needs none.
pub fn can_compile_for_cuda() -> bool {
    scan::cuda::is_available()
}

/// Runs `commit`, which makes a session with [`operator_domain`] in it, such that threads may do so at the same time.
///
/// ONNX Runtime 1.31 keeps the versions of all domains in one map of the process and adds a custom domain by "is it there?
/// then add it" without a lock around both: two first sessions at once, and one of them is refused ("the domain is already
/// exist"). So commits stand in line until one has succeeded; later ones find the domain and run side by side.
///
/// # Errors
/// Those of `commit`.
pub fn commit_with_operators<T, E>(commit: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    static FIRST: FirstAlone = FirstAlone::new();
    FIRST.run(commit)
}

/// The operator for one type of u, delta, B, C, z and y.
struct SelectiveScan<T>(PhantomData<T>);

impl<T: Element + PrimitiveTensorElementType + 'static> Operator for SelectiveScan<T> {
    type Kernel<'attr> = ScanKernel<T>;

    fn name(&self) -> &str {
        schema::OP
    }

    fn versions(&self) -> RangeInclusive<u32> {
        // ONNX Runtime reads the end as an i32.
        1..=i32::MAX as u32
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        let (element, f32) = (T::into_tensor_element_type(), TensorElementType::Float32);
        // u, delta, A, B, C, D, z, delta_bias, initial_state
        let types = [element, element, f32, element, element, f32, element, f32, f32];
        types
            .into_iter()
            .enumerate()
            .map(|(i, of)| if i < schema::REQUIRED_INPUTS { OperatorInput::required(of) } else { OperatorInput::optional(of) })
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(T::into_tensor_element_type()), OperatorOutput::optional(TensorElementType::Float32)]
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        // ort panics where ONNX Runtime gives it no type; that must not reach C++.
        catch_unwind(AssertUnwindSafe(|| infer_shape(context))).unwrap_or_else(|_| {
            Err(ort::Error::new("SelectiveScan: the types of its inputs could not be read; check the model with onnx.checker"))
        })
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> ort::Result<ScanKernel<T>> {
        Ok(ScanKernel::new(delta_softplus(context)?))
    }
}

/// The node's attribute.
fn delta_softplus(context: &KernelContext<'_>) -> ort::Result<bool> {
    match context.get::<i64>(schema::DELTA_SOFTPLUS) {
        None | Some(0) => Ok(false),
        Some(1) => Ok(true),
        Some(other) => {
            Err(ort::Error::new(format!("SelectiveScan: the attribute {} must be 0 or 1, but is {other}", schema::DELTA_SOFTPLUS)))
        }
    }
}

/// y is shaped as u (S, L, D); last_state is (S, D, N), as u and A (D, N) say.
fn infer_shape(context: &mut ShapeInferenceContext) -> ort::Result<()> {
    let inputs = context.inputs();
    let (Some(u), Some(a)) = (inputs.first(), inputs.get(2)) else {
        return Ok(());
    };
    let unknown =
        |shape: &Shape, symbols: &SymbolicDimensions| shape.iter().zip(symbols.iter()).any(|(&size, symbol)| size < 0 && symbol.is_empty());
    if [u, a].iter().any(|value| matches!(value, ValueType::Tensor { shape, dimension_symbols, .. } if unknown(shape, dimension_symbols))) {
        return Ok(()); // ONNX Runtime would take a size without a name for the number -1
    }
    context.set_output(0, u)?;
    let (
        ValueType::Tensor { shape: u_shape, dimension_symbols: u_symbols, .. },
        ValueType::Tensor { shape: a_shape, dimension_symbols: a_symbols, .. },
    ) = (u, a)
    else {
        return Ok(());
    };
    if u_shape.len() != 3 || a_shape.len() != 2 || u_symbols.len() != 3 || a_symbols.len() != 2 {
        return Ok(()); // an unknown rank, or a wrong one, which the kernel will name
    }
    let last_state = ValueType::Tensor {
        ty: TensorElementType::Float32,
        shape: Shape::new([u_shape[0], u_shape[2], a_shape[1]]),
        dimension_symbols: SymbolicDimensions::new([u_symbols[0].clone(), u_symbols[2].clone(), a_symbols[1].clone()]),
    };
    // The node may have no second output; there is no way to ask.
    let _ = context.set_output(1, &last_state);
    Ok(())
}
