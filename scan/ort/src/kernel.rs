use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ort::operator::{ComputeContext, Kernel};
use ort::value::PrimitiveTensorElementType;
use scan::{Dims, Element, Error, ParallelFor, without_panics};

use crate::arguments::Arguments;

/// The kernel of one node. ONNX Runtime calls it from several threads at once, so it holds nothing that changes.
pub(crate) struct ScanKernel<T> {
    delta_softplus: bool,
    element: PhantomData<fn() -> T>,
}

impl<T> ScanKernel<T> {
    pub(crate) fn new(delta_softplus: bool) -> Self {
        Self { delta_softplus, element: PhantomData }
    }
}

impl<T: Element + PrimitiveTensorElementType> Kernel for ScanKernel<T> {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let delta_softplus = self.delta_softplus;
        catch_unwind(AssertUnwindSafe(|| compute::<T>(context, delta_softplus)))
            .unwrap_or_else(|_| Err(ort::Error::new("SelectiveScan: the kernel panicked; this is a defect of poselift")))
    }
}

fn compute<T: Element + PrimitiveTensorElementType>(context: &ComputeContext, delta_softplus: bool) -> ort::Result<()> {
    let arguments = Arguments::read(context)?;
    let dims = arguments.dims();
    let Dims { sequences, frames, channels, states } = dims;
    let inputs = arguments.inputs::<T>(delta_softplus)?;

    let shape = |sizes: [usize; 3]| sizes.map(|size| size as i64); // they came from i64
    let mut y = context
        .output(0, shape([sequences, frames, channels]))?
        .ok_or_else(|| ort::Error::new("SelectiveScan: the output y is missing"))?;
    let mut last_state = if context.num_outputs()? > 1 { context.output(1, shape([sequences, channels, states]))? } else { None };

    let y = y.try_extract_tensor_mut::<T>()?.1;
    let last_state = match &mut last_state {
        Some(value) => Some(value.try_extract_tensor_mut::<f32>()?.1),
        None => None,
    };
    scan::forward(dims, &inputs, y, last_state, &OrtThreads(context)).map_err(|error| ort::Error::new(error.to_string()))
}

/// The session's own pool of intra-op threads.
struct OrtThreads<'a>(&'a ComputeContext);

impl ParallelFor for OrtThreads<'_> {
    fn run(&self, count: usize, task: &(dyn Fn(usize) + Sync)) -> Result<(), Error> {
        if count <= 1 {
            (0..count).for_each(task);
            return Ok(());
        }
        without_panics(task, |task| self.0.par_for(count, 0, task).map_err(|error| Error::Threads(error.to_string())))
    }
}
