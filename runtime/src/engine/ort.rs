//! Graphs in ONNX Runtime.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use ort::{
    ep::{self, ExecutionProvider as _},
    session::{Session, SessionInputValue, builder::SessionBuilder},
    value::{Outlet, TensorElementType, TensorRef, ValueType},
};
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::{
    Binding, Device, EngineOptions, Port,
    bound::CudaGraph,
    graph::{Graph, SCAN_OPERATOR, Take, View},
    kept::{Kept, Ports},
    slots,
};
use crate::{Error, error::one_line, onnxruntime};

/// A session. Calls are done one after the other: ONNX Runtime itself spreads one call over its threads, and `ort` wants
/// exclusive access for a run.
#[derive(Debug)]
pub(super) struct OrtGraph {
    path: PathBuf,
    runner: Arc<Runner>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    device: Device,
    cuda_graph: bool,
    /// Memory that inputs and outputs are bound to, where they are.
    kept: Option<Mutex<Kept>>,
}

/// A session for one caller at a time; and the one thread that it runs on where it holds CUDA graphs, which the library keeps for each
/// thread.
#[derive(Debug)]
pub(super) struct Runner {
    session: Mutex<Session>,
    thread: Option<ThreadPool>,
}

impl Runner {
    /// What `work` makes of the session.
    pub fn with<R: Send>(&self, work: impl FnOnce(&mut Session) -> R + Send) -> R {
        // A panic of another caller leaves no half-done state in the session.
        let locked = || work(&mut self.session.lock().unwrap_or_else(PoisonError::into_inner));
        match &self.thread {
            Some(thread) => thread.install(locked),
            None => locked(),
        }
    }
}

impl OrtGraph {
    pub fn open(path: &Path, options: &EngineOptions) -> Result<Self, Error> {
        let failed = |reason: String| Error::Run { path: path.to_owned(), reason };
        let mut builder = session_builder(path, options)?;
        if options.custom_op {
            builder = poselift_scan_ort::operator_domain()
                .and_then(|domain| Ok(builder.with_operators(domain)?))
                .map_err(|error| failed(one_line(error.message())))?;
        }
        builder = on_device(builder, options.device, ep::CUDA::default().with_cuda_graph(options.cuda_graph))?;
        let mut commit = || builder.commit_from_file(path);
        let session = if options.custom_op { poselift_scan_ort::commit_with_operators(commit) } else { commit() };
        let session = session.map_err(|error| open_error(path, options, error.message()))?;
        let ports = |outlets: &[Outlet]| outlets.iter().map(port).collect();
        let (inputs, outputs) = (ports(session.inputs()), ports(session.outputs()));
        let thread = match options.cuda_graph {
            false => None,
            true => {
                let pool = ThreadPoolBuilder::new().num_threads(1).thread_name(|_| "cuda graph".to_owned());
                Some(pool.build().map_err(|error| failed(error.to_string()))?)
            }
        };
        Ok(Self {
            path: path.to_owned(),
            runner: Arc::new(Runner { session: Mutex::new(session), thread }),
            inputs,
            outputs,
            device: options.device,
            cuda_graph: options.cuda_graph,
            kept: (options.binding == Binding::On).then(Mutex::default),
        })
    }

    /// The session.
    pub fn runner(&self) -> Arc<Runner> {
        self.runner.clone()
    }

    fn failed(&self, error: &ort::Error) -> Error {
        tracing::debug!("{}", error.message());
        Error::Run { path: self.path.clone(), reason: one_line(error.message()) }
    }

    /// Runs with memory that the library takes for this call; returns the shapes of the outputs.
    fn run_unbound(&self, session: &mut Session, inputs: &[View<'_>], take: Take<'_>) -> Result<Vec<Vec<usize>>, Error> {
        let failed = |error: ort::Error| self.failed(&error);
        let inputs = inputs.iter().map(tensor).collect::<ort::Result<Vec<_>>>().map_err(failed)?;
        let uncaptured = self.cuda_graph.then(|| CudaGraph::new(CudaGraph::NONE)).transpose().map_err(failed)?;
        let outputs = match &uncaptured {
            None => session.run(inputs.as_slice()),
            Some(none) => session.run_with_options(inputs.as_slice(), &none.options),
        };
        let outputs = outputs.map_err(failed)?;
        let extract = |i: usize| outputs[i].try_extract_tensor::<f32>();
        let extracted = (0..outputs.len()).map(extract).collect::<ort::Result<Vec<_>>>().map_err(failed)?;
        // sizes of a tensor that exists are never negative
        let size = |&n: &i64| usize::try_from(n).unwrap_or(0);
        let shapes: Vec<Vec<usize>> = extracted.iter().map(|(shape, _)| shape.iter().map(size).collect()).collect();
        let views: Vec<View<'_>> = extracted.iter().zip(&shapes).map(|((_, values), shape)| View { shape, values }).collect();
        take(&views)?;
        Ok(shapes)
    }

    /// Runs with memory that is kept; inputs of shapes that come for the first time run unbound, which tells the shapes of the outputs.
    fn run_bound(&self, session: &mut Session, kept: &mut Kept, inputs: &[View<'_>], take: Take<'_>) -> Result<(), Error> {
        let ports = Ports { inputs: &self.inputs, outputs: &self.outputs, device: self.device, cuda_graph: self.cuda_graph };
        if let Some(ran) = kept.run(session, ports, inputs) {
            let (shapes, values) = ran.map_err(|error| self.failed(&error))?;
            let views: Vec<View<'_>> = shapes.iter().zip(values).map(|(shape, values)| View { shape, values }).collect();
            return take(&views);
        }
        let output_shapes = self.run_unbound(session, inputs, take)?;
        let shapes: Vec<&[usize]> = inputs.iter().map(|input| input.shape).collect();
        if let Err(error) = kept.keep(session, ports, &shapes, &output_shapes) {
            // The call itself has its answer.
            tracing::warn!("inputs of shape {shapes:?} run unbound: {}", one_line(error.message()));
        }
        Ok(())
    }
}

impl Graph for OrtGraph {
    fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    fn property(&self, name: &str) -> Result<Option<String>, String> {
        self.runner.with(|session| {
            let properties = session.metadata().map_err(|error| one_line(error.message()))?;
            Ok(properties.custom(name))
        })
    }

    fn prepare(&self, _: &[&[usize]]) -> Result<(), Error> {
        Ok(())
    }

    fn as_ort(&self) -> Option<&OrtGraph> {
        Some(self)
    }

    fn run(&self, inputs: &[View<'_>], take: Take<'_>) -> Result<(), Error> {
        self.runner.with(|session| match &self.kept {
            None => self.run_unbound(session, inputs, take).map(drop),
            Some(kept) => self.run_bound(session, &mut kept.lock().unwrap_or_else(PoisonError::into_inner), inputs, take),
        })
    }
}

/// What every session of ours begins with.
fn session_builder(path: &Path, options: &EngineOptions) -> Result<SessionBuilder, Error> {
    let environment = onnxruntime::environment(options.onnxruntime.as_deref())?;
    Session::builder(&environment)
        .and_then(|builder| Ok(builder.with_intra_threads(options.thread_count())?))
        .map_err(|error| Error::Run { path: path.to_owned(), reason: one_line(error.message()) })
}

/// The two small graphs of [`slots`] around a step graph whose states have so many numbers each, on its device.
pub(super) fn around_a_step(path: &Path, options: &EngineOptions, lens: &[usize]) -> Result<[Session; 2], Error> {
    let failed = |error: ort::Error| Error::Run { path: path.to_owned(), reason: one_line(error.message()) };
    // Around a graph of TensorRT too: these lie in the same GPU's memory.
    let device = options.device.gpu().map_or(Device::Cpu, |index| Device::Cuda { index });
    // Slabs are large and few: taken as they are asked for, not rounded up to powers of two.
    let cuda = || ep::CUDA::default().with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested);
    let builder = || on_device(session_builder(path, options)?, device, cuda());
    Ok([slots::gather(&builder()?, lens).map_err(failed)?, slots::scatter(&builder()?, lens).map_err(failed)?])
}

/// The caller's values as they lie, not a copy.
fn tensor<'a>(input: &View<'a>) -> ort::Result<SessionInputValue<'a>> {
    Ok(TensorRef::from_array_view((input.shape, input.values))?.into())
}

fn on_device(builder: SessionBuilder, device: Device, cuda: ep::CUDA) -> Result<SessionBuilder, Error> {
    // Without `error_on_failure` a provider that cannot start leaves the model on the CPU, silently.
    let cuda = |index| cuda.with_device_id(index).build().error_on_failure();
    let (providers, mend) = match device {
        Device::Cpu | Device::Auto => return Ok(builder), // `settled` left no other than the CPU
        Device::Cuda { index } => (vec![cuda(index)], "take the library of onnxruntime-gpu, put the CUDA 13 libraries on LD_LIBRARY_PATH"),
        // What TensorRT does not take, our operator among it, runs on CUDA.
        Device::TensorRt { index } => (
            vec![ep::TensorRT::default().with_device_id(index).build().error_on_failure(), cuda(index)],
            "take the library of onnxruntime-gpu, put the libraries of TensorRT 10 and CUDA 13 on LD_LIBRARY_PATH",
        ),
    };
    builder.with_execution_providers(providers).map_err(|error| Error::Device {
        device,
        reason: format!("ONNX Runtime cannot start it ({}): {mend}, or choose the device cpu", one_line(error.message())),
    })
}

/// An ONNX model of one node, y = x, in opset 17.
pub(super) const IDENTITY: &[u8] = b"\x08\t:7\n\x10\n\x01x\x12\x01y\"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x11";

/// The first GPU if a session can be made there, else the CPU; tried once for the process, and told in the log.
pub(super) fn automatic_device(library: Option<&Path>) -> Result<Device, Error> {
    static TRIED: OnceLock<Device> = OnceLock::new();
    let environment = onnxruntime::environment(library)?;
    let gpu = Device::Cuda { index: 0 };
    let start = || -> Result<(), String> {
        // Asked first, for its clear words.
        if !ep::CUDA::is_available().unwrap_or(false) {
            return Err("this build of ONNX Runtime is for the CPU".to_owned());
        }
        if !poselift_scan_ort::can_compile_for_cuda() {
            return Err("NVRTC, which compiles the scan for a GPU, is not there".to_owned());
        }
        let words = |error: &ort::Error| one_line(error.message());
        let builder = Session::builder(&environment).map_err(|error| words(&error))?;
        let mut builder = on_device(builder, gpu, ep::CUDA::default()).map_err(|error| error.to_string())?;
        builder.commit_from_memory(IDENTITY).map(drop).map_err(|error| words(&error))
    };
    Ok(*TRIED.get_or_init(|| match start() {
        Ok(()) => {
            tracing::info!("device auto: {gpu}");
            gpu
        }
        Err(reason) => {
            tracing::info!("device auto: cpu, because CUDA cannot be used ({reason})");
            Device::Cpu
        }
    }))
}

/// Says what is wrong with a file that ONNX Runtime refused.
fn open_error(path: &Path, options: &EngineOptions, message: &str) -> Error {
    tracing::debug!("{message}");
    if message.contains(SCAN_OPERATOR) && !options.custom_op {
        return Error::NotOnnx {
            path: path.to_owned(),
            reason: format!("it carries no function for its operator {SCAN_OPERATOR}, so it runs only with ours"),
        };
    }
    let reason = if message.contains("Protobuf parsing failed") || message.contains("ModelProto does not have a graph") {
        "it is not an ONNX file, or a damaged one (expected a model written by `export onnx`)".to_owned()
    } else {
        one_line(message)
    };
    // As the library says it of control flow, and of nodes that are not on the GPU.
    if options.cuda_graph && ["CUDA Graph", "graph capture", "CudaGraph"].iter().any(|name| message.contains(name)) {
        let reason = format!("ONNX Runtime cannot make one of {} ({reason}): leave it out", path.display());
        return Error::Setting { asked: "a CUDA graph", reason };
    }
    match options.device {
        // The provider's libraries load with the session: a failure may be the device's, and says so.
        device if device.is_gpu() && ["CUDA", "TensorRT", "TRT"].iter().any(|name| message.contains(name)) => {
            Error::Device { device, reason: one_line(message) }
        }
        _ => Error::NotOnnx { path: path.to_owned(), reason },
    }
}

fn port(outlet: &Outlet) -> Port {
    let (element, shape) = match outlet.dtype() {
        ValueType::Tensor { ty, shape, .. } => (
            if *ty == TensorElementType::Float32 { "f32".to_owned() } else { ty.to_string() },
            shape.iter().map(|&n| usize::try_from(n).ok()).collect(),
        ),
        other => (other.to_string(), Vec::new()),
    };
    Port { name: outlet.name().to_owned(), element, shape }
}
