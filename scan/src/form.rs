use crate::arguments::{check_backward, check_forward};
use crate::element::Element;
use crate::forms::{Kernels, portable::Portable};
#[cfg(target_arch = "x86_64")]
use crate::forms::{avx2::Avx2, avx512::Avx512};
use crate::scratch::{self, Area};
use crate::{Dims, Error, InputGrads, Inputs, OutputGrads, ParallelFor, backward, forward};

/// The instruction set that a scan runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Whatever the compiler's target has; runs everywhere.
    Portable,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, VL, DQ and BW.
    Avx512,
}

/// Evaluates `$body` with `$kernels` bound to the form's proof that this CPU has it.
macro_rules! with_kernels {
    ($form:expr, $kernels:ident => $body:expr) => {{
        let form = $form;
        let unsupported = Error::Unsupported { form: form.name() };
        match form {
            Form::Portable => {
                let $kernels = Portable::new().ok_or(unsupported)?;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            Form::Avx2 => {
                let $kernels = Avx2::new().ok_or(unsupported)?;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            Form::Avx512 => {
                let $kernels = Avx512::new().ok_or(unsupported)?;
                $body
            }
            #[cfg(not(target_arch = "x86_64"))]
            Form::Avx2 | Form::Avx512 => Err(unsupported),
        }
    }};
}

impl Form {
    /// All of them, from the slowest to the fastest.
    pub const ALL: [Form; 3] = [Form::Portable, Form::Avx2, Form::Avx512];

    /// Whether this CPU can run it.
    pub fn is_available(self) -> bool {
        match self {
            Form::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Form::Avx2 => Avx2::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            Form::Avx512 => Avx512::new().is_some(),
            #[cfg(not(target_arch = "x86_64"))]
            Form::Avx2 | Form::Avx512 => false,
        }
    }

    /// The fastest that this CPU can run.
    pub fn best() -> Form {
        Form::ALL.into_iter().rev().find(|form| form.is_available()).unwrap_or(Form::Portable)
    }

    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self {
            Form::Portable => "portable",
            Form::Avx2 => "AVX2",
            Form::Avx512 => "AVX-512",
        }
    }

    /// [`crate::forward`] in this form.
    ///
    /// # Errors
    /// As [`crate::forward`]; also where this CPU cannot run the form.
    pub fn forward<T: Element>(
        self,
        dims: Dims,
        inputs: &Inputs<'_, T, f32>,
        y: &mut [T],
        last_state: Option<&mut [f32]>,
        threads: &dyn ParallelFor,
    ) -> Result<(), Error> {
        check_forward(dims, inputs, y, last_state.as_deref())?;
        if dims.is_empty() {
            return Ok(());
        }
        with_kernels!(self, kernels => {
            let call = forward::Call::new(dims, inputs, y, last_state, kernels.width());
            let scratch = call.scratch(kernels.width());
            threads.run(call.tasks(), &|task| scratch::with(Area::Task, scratch, |memory| kernels.forward(&call, task, memory)))
        })
    }

    /// [`crate::backward`] in this form.
    ///
    /// # Errors
    /// As [`crate::backward`]; also where this CPU cannot run the form.
    pub fn backward<T: Element>(
        self,
        dims: Dims,
        inputs: &Inputs<'_, T, f32>,
        output_grads: &OutputGrads<'_, T, f32>,
        input_grads: &mut InputGrads<'_, T, f32>,
        threads: &dyn ParallelFor,
    ) -> Result<(), Error> {
        check_backward(dims, inputs, output_grads, input_grads)?;
        if dims.is_empty() {
            input_grads.zero_sums();
            return Ok(());
        }
        with_kernels!(self, kernels => {
            backward::with_call(dims, inputs, output_grads, input_grads, kernels.width(), |call, tasks| {
                let scratch = call.scratch();
                threads.run(tasks, &|task| scratch::with(Area::Task, scratch, |memory| kernels.backward(call, task, memory)))
            })
        })
    }
}
