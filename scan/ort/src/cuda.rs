//! The operator on CUDA: addresses of tensors that stay on the device, and a launch on ONNX Runtime's own stream.

use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ort::operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput, ShapeInferenceContext};
use ort::value::{DynTensorValueType, PrimitiveTensorElementType, ValueRef, ValueRefMut};
use scan::cuda::{self, Address, ElementType, InputAddresses, OutputAddresses, Program, Stream};
use scan::{Dims, schema};

use crate::SelectiveScan;
use crate::arguments::Arguments;

/// What ONNX Runtime calls its CUDA provider.
const PROVIDER: &str = "CUDAExecutionProvider";

/// Types that the kernels take.
pub(crate) trait CudaElement: scan::Element + PrimitiveTensorElementType + 'static {
    /// Its name there.
    const TYPE: ElementType;
}

impl CudaElement for f32 {
    const TYPE: ElementType = ElementType::F32;
}

impl CudaElement for half::f16 {
    const TYPE: ElementType = ElementType::F16;
}

/// [`SelectiveScan`] for sessions with the CUDA provider.
pub(crate) struct CudaScan<T> {
    scan: SelectiveScan<T>,
    provider: Option<&'static str>,
}

impl<T> CudaScan<T> {
    pub(crate) fn new() -> Self {
        Self { scan: SelectiveScan(PhantomData), provider: Some(PROVIDER) }
    }

    /// Told to ONNX Runtime as the CPU's: for tests, where the driver is none and the device's memory the host's.
    pub(crate) fn without_provider() -> Self {
        Self { scan: SelectiveScan(PhantomData), provider: None }
    }
}

impl<T: CudaElement> Operator for CudaScan<T> {
    type Kernel<'attr> = CudaKernel<T>;

    fn name(&self) -> &str {
        self.scan.name()
    }

    fn versions(&self) -> std::ops::RangeInclusive<u32> {
        self.scan.versions()
    }

    fn execution_provider_type(&self) -> Option<&str> {
        self.provider
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        self.scan.inputs()
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        self.scan.outputs()
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        self.scan.infer_shape(context)
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> ort::Result<CudaKernel<T>> {
        Ok(CudaKernel { delta_softplus: crate::delta_softplus(context)?, element: PhantomData })
    }
}

/// The kernel of one node; holds nothing that changes.
pub(crate) struct CudaKernel<T> {
    delta_softplus: bool,
    element: PhantomData<fn() -> T>,
}

impl<T: CudaElement> Kernel for CudaKernel<T> {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let delta_softplus = self.delta_softplus;
        catch_unwind(AssertUnwindSafe(|| compute::<T>(context, delta_softplus)))
            .unwrap_or_else(|_| Err(ort::Error::new("SelectiveScan: the kernel panicked; this is a defect of poselift")))
    }
}

fn compute<T: CudaElement>(context: &ComputeContext, delta_softplus: bool) -> ort::Result<()> {
    let failed = |error: scan::Error| ort::Error::new(error.to_string());
    let arguments = Arguments::read(context)?;
    let dims = arguments.dims();
    let Dims { sequences, frames, channels, states } = dims;
    let address = |index: usize| arguments.value(index).map_or(Ok(0), address_of);
    let inputs = InputAddresses {
        u: address(0)?,
        delta: address(1)?,
        a: address(2)?,
        b: address(3)?,
        c: address(4)?,
        d: address(5)?,
        z: address(6)?,
        delta_bias: address(7)?,
        initial_state: address(8)?,
        delta_softplus,
    };
    let shape = |sizes: [usize; 3]| sizes.map(|size| size as i64); // they came from i64
    let y = context.output(0, shape([sequences, frames, channels]))?;
    let last_state = if context.num_outputs()? > 1 { context.output(1, shape([sequences, channels, states]))? } else { None };
    let outputs = OutputAddresses { y: y.map_or(Ok(0), address_to)?, last_state: last_state.map_or(Ok(0), address_to)?, kept: 0 };

    let program = Program::new(T::TYPE, states).map_err(failed)?;
    let stream = context.stream()?.map_or(std::ptr::null_mut(), |stream| stream.as_ptr().cast());
    // SAFETY: the stream lives as long as the session.
    let stream = unsafe { Stream::current(program, stream) }.map_err(failed)?;
    // SAFETY: `Arguments` checked every shape; ONNX Runtime keeps the tensors on this device until the stream's work is done,
    // and gives outputs memory of their own.
    unsafe { cuda::forward(&stream, dims, &inputs, &outputs) }.map_err(failed)
}

fn address_of(value: &ValueRef<'_>) -> ort::Result<Address> {
    Ok(value.view().downcast::<DynTensorValueType>()?.data_ptr() as Address)
}

fn address_to(value: ValueRefMut<'_>) -> ort::Result<Address> {
    Ok(value.downcast::<DynTensorValueType>()?.data_ptr() as Address)
}

/// The names by which ONNX Runtime tells operators apart are those of the schema.
const _: () = assert!(schema::INPUTS.len() == 9, "the list of addresses has one for each input");
