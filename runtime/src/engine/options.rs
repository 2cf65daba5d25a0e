//! How to open a model: engine, device, threads.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::Error;

/// The library that runs a graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Backend {
    /// ONNX Runtime, a shared library that is loaded at run time: the fastest, on processors and on GPUs.
    #[default]
    Ort,
    /// tract, in pure Rust and part of this program (cargo feature `tract`): needs no library, runs on the processor.
    Tract,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ort => "ort",
            Self::Tract => "tract",
        })
    }
}

impl FromStr for Backend {
    type Err = String;

    /// `ort` or `tract`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "ort" => Ok(Self::Ort),
            "tract" => Ok(Self::Tract),
            _ => Err(format!("expected ort or tract, found \"{text}\"")),
        }
    }
}

/// Where a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// A CUDA GPU; needs the GPU build of ONNX Runtime and the CUDA 13 libraries.
    Cuda {
        /// Which GPU, from 0.
        index: i32,
    },
    /// The same GPU through NVIDIA's TensorRT, which compiles a graph for it first; needs TensorRT's libraries too.
    TensorRt {
        /// Which GPU, from 0.
        index: i32,
    },
    /// The first CUDA GPU if one can be used, else the processor; which of them is said in the log. An open engine has one of the others.
    Auto,
}

impl Device {
    /// Which GPU; `None` for the processor, and for [`Device::Auto`] as long as it is not settled.
    pub fn gpu(self) -> Option<i32> {
        match self {
            Self::Cuda { index } | Self::TensorRt { index } => Some(index),
            Self::Cpu | Self::Auto => None,
        }
    }

    /// Whether tensors lie in a GPU's memory.
    pub(crate) fn is_gpu(self) -> bool {
        self.gpu().is_some()
    }

    /// [`Device::Auto`] as one of the others, by a trial; those as they are. `onnxruntime` as in [`EngineOptions`].
    ///
    /// # Errors
    /// The ONNX Runtime library is missing.
    pub fn settled(self, onnxruntime: Option<&Path>) -> Result<Self, Error> {
        match self {
            Self::Auto => super::ort::automatic_device(onnxruntime),
            other => Ok(other),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda { index } => write!(f, "cuda:{index}"),
            Self::TensorRt { index } => write!(f, "tensorrt:{index}"),
            Self::Auto => f.write_str("auto"),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    /// `cpu`, `cuda` (the first GPU), `cuda:N`, `tensorrt`, `tensorrt:N` or `auto`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, index) = text.split_once(':').map_or((text, None), |(name, index)| (name, Some(index)));
        let index = match index {
            None => 0,
            Some(index) => match index.parse() {
                Ok(number) if number >= 0 && name != "cpu" && name != "auto" => number,
                _ => return Err(format!("expected the number of a GPU after \"cuda:\" or \"tensorrt:\", found \"{text}\"")),
            },
        };
        match name {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda { index }),
            "tensorrt" => Ok(Self::TensorRt { index }),
            "auto" => Ok(Self::Auto),
            _ => Err(format!("expected cpu, cuda, cuda:N, tensorrt, tensorrt:N or auto, found \"{text}\"")),
        }
    }
}

/// Whether a graph's inputs, outputs and the states of streams are bound to memory that the engine keeps on its device (what ONNX Runtime
/// calls I/O binding).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Binding {
    /// On a GPU, where states would else travel to the host and back with every frame. Not on a processor, where nothing travels.
    #[default]
    Auto,
    /// Not: each call brings its tensors.
    Off,
    /// On a processor too, where it gains nothing.
    On,
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Off => "off",
            Self::On => "on",
        })
    }
}

impl FromStr for Binding {
    type Err = String;

    /// `auto`, `on` or `off`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            "on" => Ok(Self::On),
            _ => Err(format!("expected auto, on or off, found \"{text}\"")),
        }
    }
}

/// How to open a model.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// The library that runs it.
    pub backend: Backend,
    /// Where it runs. A device that cannot be used is an error, never a silent fallback.
    pub device: Device,
    /// Threads within one operation, up to 1024; 0 takes as many as this process has processors.
    pub threads: usize,
    /// Whether the selective scan runs as our operator (fast) or as the function of standard ONNX operators that the file
    /// carries (slow: for checking a file, or the operator). tract knows no functions.
    pub custom_op: bool,
    /// Whether tensors are bound to memory that the engine keeps. An open engine has it on or off.
    pub binding: Binding,
    /// Whether a graph's run is captured as a CUDA graph, one for each shape of its inputs, and replayed as one piece of work: saves what
    /// starting its many kernels costs. Needs a CUDA device, [`binding`](Self::binding) and our operator; the first call of each shape
    /// takes several times as long.
    pub cuda_graph: bool,
    /// The ONNX Runtime library; `None` searches as [`init_onnxruntime`](crate::init_onnxruntime) says.
    pub onnxruntime: Option<PathBuf>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            backend: Backend::Ort,
            device: Device::Cpu,
            threads: 0,
            custom_op: true,
            binding: Binding::Auto,
            cuda_graph: false,
            onnxruntime: None,
        }
    }
}

impl EngineOptions {
    /// With a device that is not [`Device::Auto`], a binding that is not [`Binding::Auto`], and nothing that contradicts them.
    pub(super) fn settled(&self) -> Result<Self, Error> {
        let device = match self.backend {
            Backend::Tract if self.device == Device::Auto => Device::Cpu, // it has no other
            _ => self.device.settled(self.onnxruntime.as_deref())?,
        };
        let binding = match self.binding {
            Binding::Auto if device.is_gpu() => Binding::On,
            Binding::Auto => Binding::Off,
            Binding::On if self.backend == Backend::Tract => {
                let reason = "the engine tract keeps its own: leave it out, or choose the engine ort".into();
                return Err(Error::Setting { asked: "binding", reason });
            }
            other => other,
        };
        let settled = Self { device, binding, ..self.clone() };
        if self.cuda_graph { settled.can_capture().map(|()| settled) } else { Ok(settled) }
    }

    /// Whether CUDA graphs can be captured at all; whether of a certain model, only opening it tells.
    fn can_capture(&self) -> Result<(), Error> {
        let reason = if self.backend == Backend::Tract || self.device == Device::Cpu {
            "the model runs on the processor: choose the device cuda".to_owned()
        } else if let Device::TensorRt { .. } = self.device {
            "TensorRT compiles graphs of its own: choose the device cuda, or leave it out".to_owned()
        } else if self.binding != Binding::On {
            "a captured graph reads and writes the same places each time, so tensors must be bound: leave binding on".to_owned()
        } else if !self.custom_op {
            "the scan as a function of standard operators is a loop, which a CUDA graph cannot hold: leave our operator on".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::Setting { asked: "a CUDA graph", reason })
    }

    /// The number of threads to ask for: ONNX Runtime's own default would also pin them to processors.
    pub(super) fn thread_count(&self) -> usize {
        /// More threads than this help nobody, and might not start at all.
        const MAX_THREADS: usize = 1024;
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n.min(MAX_THREADS),
        }
    }
}
