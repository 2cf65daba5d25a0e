//! Graphs in tract: pure Rust, no library to load.
//!
//! tract plans a graph for the shapes that it is to run on, and plans for fixed shapes are the fastest. So a plan is made when
//! shapes come for the first time, and the last few plans are kept.

use std::{
    any::Any,
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tract_linalg::multithread::Executor;
use tract_onnx::{
    pb::{ModelProto, ValueInfoProto, tensor_proto::DataType, tensor_shape_proto::dimension, type_proto},
    prelude::*,
    tract_core::runtime::RunOptions,
};

use super::{
    EngineOptions, Port,
    graph::{Graph, SCAN_OPERATOR, Take, View},
};
use crate::{Error, error::one_line};

/// Plans that are kept; each holds the weights once more, as its kernels want them.
const MOST_PLANS: usize = 12;
/// States of a plan that are kept for the next call: as many calls run side by side without making new ones.
const MOST_IDLE: usize = 8;

#[derive(Debug)]
pub(super) struct TractGraph {
    path: PathBuf,
    model: InferenceModel,
    properties: Vec<(String, String)>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    executor: Executor,
    /// The one that was used last stands at the end.
    plans: Mutex<VecDeque<Arc<Plan>>>,
}

/// The graph made ready for inputs of certain shapes.
#[derive(Debug)]
struct Plan {
    shapes: Vec<Vec<usize>>,
    runnable: Arc<TypedRunnableModel>,
    idle: Mutex<Vec<TypedSimpleState>>,
}

impl TractGraph {
    pub fn open(path: &Path, options: &EngineOptions) -> Result<Self, Error> {
        let not_onnx = |reason: String| Error::NotOnnx { path: path.to_owned(), reason };
        let bytes = std::fs::read(path).map_err(|source| Error::ModelFile { path: path.to_owned(), source })?;
        let mut onnx = tract_onnx::onnx();
        poselift_scan_tract::register(&mut onnx);
        let mut proto = onnx.proto_model_for_read(&mut bytes.as_slice()).map_err(|error| {
            tracing::debug!("{error:#}");
            not_onnx("it is not an ONNX file, or a damaged one (expected a model written by `export onnx`)".into())
        })?;
        drop(bytes);
        // Shapes that the file notes in between may hold names of free sizes, which then contradict a plan's own.
        if let Some(graph) = &mut proto.graph {
            graph.value_info.clear();
        }
        let Some(graph) = &proto.graph else {
            return Err(not_onnx("it is not an ONNX file, or a damaged one (expected a model written by `export onnx`)".into()));
        };
        if !options.custom_op && graph.node.iter().any(|node| node.op_type == SCAN_OPERATOR) {
            return Err(not_onnx(format!(
                "the engine tract knows no functions of a file, so it runs {SCAN_OPERATOR} only as our operator: leave that on, or choose \
                 the engine ort"
            )));
        }
        // Weights may stand among the inputs too, as they had to in old files.
        let is_weight = |port: &&ValueInfoProto| !graph.initializer.iter().any(|weight| weight.name == port.name);
        let inputs: Vec<Port> = graph.input.iter().filter(is_weight).map(port).collect();
        let outputs = graph.output.iter().map(port).collect();
        let properties = proto.metadata_props.iter().map(|entry| (entry.key.clone(), entry.value.clone())).collect();
        // Without a folder, a file cannot send tract to read other files.
        let model = guarded(|| parse(&onnx, &proto)).map_err(not_onnx)?;
        let executor = match options.thread_count() {
            1 => Executor::SingleThread,
            n => guarded(|| Ok(Executor::multithread_with_name(n, "tract"))).map_err(not_onnx)?,
        };
        if model.inputs.len() != inputs.len() {
            return Err(not_onnx(format!("it has {} inputs, but tract finds {}", inputs.len(), model.inputs.len())));
        }
        Ok(Self { path: path.to_owned(), model, properties, inputs, outputs, executor, plans: Mutex::default() })
    }

    /// The plan for these shapes, made if need be. Others wait while one is made.
    fn plan(&self, shapes: &[&[usize]]) -> Result<Arc<Plan>, String> {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = plans.iter().position(|plan| plan.shapes.iter().eq(shapes))
            && let Some(plan) = plans.remove(at)
        {
            plans.push_back(plan.clone());
            return Ok(plan);
        }
        let runnable = guarded(|| {
            let mut model = self.model.clone();
            for (input, shape) in shapes.iter().enumerate() {
                model.set_input_fact(input, f32::fact(*shape).into())?;
            }
            let options = RunOptions { executor: Some(self.executor.clone()), ..Default::default() };
            model.into_optimized()?.into_runnable_with_options(&options)
        })?;
        let plan = Arc::new(Plan { shapes: shapes.iter().map(|shape| shape.to_vec()).collect(), runnable, idle: Mutex::default() });
        if plans.len() >= MOST_PLANS {
            plans.pop_front();
        }
        plans.push_back(plan.clone());
        Ok(plan)
    }
}

impl Graph for TractGraph {
    fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    fn property(&self, name: &str) -> Result<Option<String>, String> {
        Ok(self.properties.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()))
    }

    fn prepare(&self, shapes: &[&[usize]]) -> Result<(), Error> {
        self.plan(shapes).map(drop).map_err(|reason| Error::NotOnnx { path: self.path.clone(), reason })
    }

    /// Powers of two and what lies halfway between, so that few plans serve every number of streams.
    fn padded_batch(&self, batch: usize) -> usize {
        let power = batch.next_power_of_two();
        let halfway = power / 4 * 3;
        if batch <= halfway { halfway } else { power }
    }

    fn run(&self, inputs: &[View<'_>], take: Take<'_>) -> Result<(), Error> {
        let shapes: Vec<&[usize]> = inputs.iter().map(|input| input.shape).collect();
        let failed = |reason| Error::Run { path: self.path.clone(), reason };
        let plan = self.plan(&shapes).map_err(failed)?;
        let idle = plan.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let ran = guarded(|| {
            let mut state = idle.map_or_else(|| plan.runnable.spawn(), Ok)?;
            let tensor = |input: &View<'_>| Ok(Tensor::from_shape(input.shape, input.values)?.into_tvalue());
            let outputs = state.run(inputs.iter().map(tensor).collect::<TractResult<_>>()?)?;
            Ok((state, outputs))
        });
        // A state in which a run failed is not used again.
        let (state, outputs) = ran.map_err(failed)?;
        let mut idle = plan.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MOST_IDLE {
            idle.push(state);
        }
        drop(idle);
        let values = outputs.iter().map(|output| output.try_as_plain_ram()?.as_slice::<f32>()).collect::<TractResult<Vec<_>>>();
        let values = values.map_err(|error| failed(one_line(&format!("{error:#}"))))?;
        let views: Vec<View<'_>> = outputs.iter().zip(values).map(|(output, values)| View { shape: output.shape(), values }).collect();
        take(&views)
    }
}

fn parse(onnx: &tract_onnx::Onnx, proto: &ModelProto) -> TractResult<InferenceModel> {
    let parsed = onnx.parse(proto, None)?;
    match parsed.unresolved_inputs.as_slice() {
        [] => Ok(parsed.model),
        [first, ..] => Err(TractError::msg(format!("nothing in the graph makes the value \"{first}\""))),
    }
}

/// A call of tract whose panics (a damaged file can cause one) are errors too.
fn guarded<T>(call: impl FnOnce() -> TractResult<T>) -> Result<T, String> {
    // What is left of a call that panicked is dropped, nothing of it is used again.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| one_line(&format!("{error:#}"))),
        Err(panic) => Err(format!("tract cannot work with it ({})", one_line(panic_message(&*panic)))),
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no reason given")
}

fn port(info: &ValueInfoProto) -> Port {
    let name = info.name.clone();
    let Some(type_proto::Value::TensorType(tensor)) = info.r#type.as_ref().and_then(|of| of.value.as_ref()) else {
        return Port { name, element: "no tensor".into(), shape: Vec::new() };
    };
    let element = match DataType::try_from(tensor.elem_type) {
        Ok(DataType::Float) => "f32".to_owned(),
        Ok(DataType::Float16) => "f16".to_owned(),
        Ok(DataType::Double) => "f64".to_owned(),
        Ok(DataType::Int64) => "i64".to_owned(),
        Ok(DataType::Int32) => "i32".to_owned(),
        Ok(other) => format!("{other:?}").to_lowercase(),
        Err(_) => format!("type {}", tensor.elem_type),
    };
    let size = |dimension: &tract_onnx::pb::tensor_shape_proto::Dimension| match dimension.value {
        Some(dimension::Value::DimValue(size)) => usize::try_from(size).ok(),
        _ => None,
    };
    let shape = tensor.shape.iter().flat_map(|shape| &shape.dim).map(size).collect();
    Port { name, element, shape }
}
