//! The selective scan as an operator of tract, in pure Rust.
//!
//! [`register`] goes to a parser of ONNX files (`tract_onnx::onnx()`), before a file is read. tract looks operators up by their
//! name alone and does not know the function body that a model file carries for plain runtimes: the kernel of `scan` runs.
//! Threads are those of tract's executor that the model runs on.

use scan::{Dims, Element, Inputs, ParallelFor, schema};
use tract_linalg::multithread::{Executor, current_tract_executor};
use tract_onnx::{
    Onnx,
    model::{ParsingContext, optional_inputs, optional_outputs},
    pb::NodeProto,
    prelude::*,
    tract_hir::internal::*,
};

/// Makes `onnx` read `SelectiveScan` nodes of the domain `poselift.ssm`, of f32 and of f16.
pub fn register(onnx: &mut Onnx) {
    onnx.op_register.insert(schema::OP, parse);
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SelectiveScan {
    /// Where each input of [`schema::INPUTS`] stands among those that are there.
    inputs: [Option<usize>; schema::INPUTS.len()],
    /// Whether `last_state` is asked for.
    last_state: bool,
    delta_softplus: bool,
}

fn parse(_: &ParsingContext<'_>, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    ensure!(
        node.domain == schema::DOMAIN,
        "SelectiveScan is known in the domain {}, but the file has it in \"{}\"",
        schema::DOMAIN,
        node.domain
    );
    ensure!(node.input.len() <= schema::INPUTS.len(), "SelectiveScan takes {} inputs, found {}", schema::INPUTS.len(), node.input.len());
    let mut present = optional_inputs(node);
    let inputs: [Option<usize>; schema::INPUTS.len()] = std::array::from_fn(|_| present.next().flatten());
    for (name, input) in schema::INPUTS.iter().zip(&inputs).take(schema::REQUIRED_INPUTS) {
        ensure!(input.is_some(), "SelectiveScan: the input {name} is missing");
    }
    let outputs: Vec<Option<usize>> = optional_outputs(node).take(schema::OUTPUTS.len()).collect();
    ensure!(
        outputs[0].is_some() && node.output.len() <= schema::OUTPUTS.len(),
        "SelectiveScan has the outputs y and, if wanted, last_state"
    );
    let delta_softplus = match node.get_attr_opt::<i64>(schema::DELTA_SOFTPLUS)? {
        None | Some(0) => false,
        Some(1) => true,
        Some(other) => bail!("SelectiveScan: the attribute {} must be 0 or 1, but is {other}", schema::DELTA_SOFTPLUS),
    };
    Ok((expand(SelectiveScan { inputs, last_state: outputs[1].is_some(), delta_softplus }), vec![]))
}

impl SelectiveScan {
    fn input_count(&self) -> usize {
        self.inputs.iter().flatten().count()
    }

    fn eval_as<T: Element + Datum + Default>(&self, dims: Dims, values: &[TValue]) -> TractResult<TVec<TValue>> {
        let Dims { sequences, frames, channels, states } = dims;
        let inputs = Inputs {
            u: self.required::<T>(0, values)?,
            delta: self.required(1, values)?,
            a: self.required(2, values)?,
            b: self.required(3, values)?,
            c: self.required(4, values)?,
            d: self.optional(5, values)?,
            z: self.optional(6, values)?,
            delta_bias: self.optional(7, values)?,
            initial_state: self.optional(8, values)?,
            delta_softplus: self.delta_softplus,
        };
        let mut y = Tensor::zero_dt(T::datum_type(), &[sequences, frames, channels])?;
        let mut last_state = self.last_state.then(|| Tensor::zero::<f32>(&[sequences, channels, states])).transpose()?;
        let mut y_view = y.try_as_plain_ram_mut()?;
        let mut state_view = last_state.as_mut().map(Tensor::try_as_plain_ram_mut).transpose()?;
        let state_slice = state_view.as_mut().map(|view| view.as_slice_mut::<f32>()).transpose()?;
        scan::forward(dims, &inputs, y_view.as_slice_mut::<T>()?, state_slice, &TractThreads)?;
        Ok(std::iter::once(y).chain(last_state).map(IntoTValue::into_tvalue).collect())
    }

    fn optional<'a, T: Datum>(&self, index: usize, values: &'a [TValue]) -> TractResult<Option<&'a [T]>> {
        self.inputs[index].map(|at| values[at].try_as_plain_ram()?.as_slice::<T>()).transpose()
    }

    fn required<'a, T: Datum>(&self, index: usize, values: &'a [TValue]) -> TractResult<&'a [T]> {
        Ok(self.optional(index, values)?.unwrap_or_default())
    }
}

impl Op for SelectiveScan {
    fn name(&self) -> StaticName {
        schema::OP.into()
    }

    op_as_typed_op!();
}

impl EvalOp for SelectiveScan {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext<'_>, values: TVec<TValue>) -> TractResult<TVec<TValue>> {
        ensure!(values.len() == self.input_count(), "SelectiveScan: expected {} inputs, found {}", self.input_count(), values.len());
        let shapes = self.inputs.map(|input| input.map(|at| values[at].shape()));
        let dims = schema::dims(&shapes).map_err(TractError::msg)?;
        match values[0].datum_type() {
            DatumType::F32 => self.eval_as::<f32>(dims, &values),
            DatumType::F16 => self.eval_as::<half::f16>(dims, &values),
            other => bail!("SelectiveScan: u must be f32 or f16, but is {other:?}"),
        }
    }
}

impl TypedOp for SelectiveScan {
    as_op!();

    /// y is shaped as u (S, L, D); last_state is (S, D, N), as u and A (D, N) say.
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        ensure!(inputs.len() == self.input_count(), "SelectiveScan: expected {} inputs, found {}", self.input_count(), inputs.len());
        let (Some(u), Some(a)) = (self.inputs[0].map(|at| inputs[at]), self.inputs[2].map(|at| inputs[at])) else {
            bail!("SelectiveScan: u or A is missing");
        };
        ensure!(u.rank() == 3 && a.rank() == 2, "SelectiveScan: u must have shape (S, L, D) and A (D, N)");
        let mut facts = tvec!(u.datum_type.fact(u.shape.iter().cloned()));
        if self.last_state {
            facts.push(f32::fact([u.shape[0].clone(), u.shape[2].clone(), a.shape[1].clone()]));
        }
        Ok(facts)
    }
}

impl Expansion for SelectiveScan {
    fn name(&self) -> StaticName {
        schema::OP.into()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(1 + usize::from(self.last_state))
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, self.input_count())?;
        check_output_arity(outputs, self.nboutputs()?)?;
        let (Some(u), Some(a)) = (self.inputs[0].map(|at| &inputs[at]), self.inputs[2].map(|at| &inputs[at])) else {
            bail!("SelectiveScan: u or A is missing");
        };
        solver.equals(&u.rank, 3)?;
        solver.equals(&a.rank, 2)?;
        solver.equals(&outputs[0].datum_type, &u.datum_type)?;
        solver.equals(&outputs[0].shape, &u.shape)?;
        if self.last_state {
            solver.equals(&outputs[1].datum_type, f32::datum_type())?;
            solver.equals(&outputs[1].rank, 3)?;
            solver.equals(&outputs[1].shape[0], &u.shape[0])?;
            solver.equals(&outputs[1].shape[1], &u.shape[2])?;
            solver.equals(&outputs[1].shape[2], &a.shape[1])?;
        }
        Ok(())
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, self.clone(), inputs)
    }
}

/// The pool of the executor that the model runs on.
struct TractThreads;

impl ParallelFor for TractThreads {
    fn run(&self, count: usize, task: &(dyn Fn(usize) + Sync)) -> Result<(), scan::Error> {
        match current_tract_executor() {
            Executor::SingleThread => scan::Serial.run(count, task),
            Executor::MultiThread(pool) => pool.install(|| scan::Rayon.run(count, task)),
            Executor::RayonGlobal => scan::Rayon.run(count, task),
        }
    }
}
