//! Runs of a graph whose inputs and outputs are bound to memory that is kept: for whole windows.

use ort::{session::Session, value::TensorRef};

use super::{
    Device, Port,
    bound::{Block, Bound, CudaGraph, Memory},
    graph::View,
};

/// Shapes of inputs for which memory is kept; each is a CUDA graph of its own where those are captured.
const MOST_KEPT: usize = 8;

/// Bindings for the shapes that came last.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// The one that was used last stands at the end.
    runs: Vec<KeptRun>,
    /// CUDA graphs that were numbered so far.
    graphs: i32,
}

/// The graph, bound for inputs of certain shapes.
#[derive(Debug)]
struct KeptRun {
    bound: Bound,
    shapes: Vec<Vec<usize>>,
    output_shapes: Vec<Vec<usize>>,
    /// From which the GPU copies; none on a processor, which reads the caller's own memory.
    inputs: Vec<Block<f32>>,
    outputs: Vec<Block<f32>>,
    captured: Option<Captured>,
}

/// A CUDA graph, and the places on the device that it reads and writes.
#[derive(Debug)]
struct Captured {
    graph: CudaGraph,
    inputs: Vec<Block<f32>>,
    outputs: Vec<Block<f32>>,
}

/// What a graph is bound with.
#[derive(Clone, Copy)]
pub(super) struct Ports<'a> {
    pub inputs: &'a [Port],
    pub outputs: &'a [Port],
    pub device: Device,
    pub cuda_graph: bool,
}

impl Kept {
    /// Runs on inputs of shapes that were bound before; `None` for others, which go the other way and are then bound by
    /// [`keep`](Self::keep).
    pub fn run(
        &mut self,
        session: &mut Session,
        ports: Ports<'_>,
        inputs: &[View<'_>],
    ) -> Option<ort::Result<(&[Vec<usize>], Vec<&[f32]>)>> {
        let at = self.runs.iter().position(|run| run.shapes.iter().map(Vec::as_slice).eq(inputs.iter().map(|input| input.shape)))?;
        let run = self.runs.remove(at);
        self.runs.push(run);
        let run = self.runs.last_mut()?;
        if let Err(error) = run.run(session, ports, inputs) {
            return Some(Err(error));
        }
        Some(Ok((&run.output_shapes, run.outputs.iter().map(Block::numbers).collect())))
    }

    /// Keeps memory for inputs of these shapes, of which such outputs came.
    pub fn keep(&mut self, session: &mut Session, ports: Ports<'_>, shapes: &[&[usize]], output_shapes: &[Vec<usize>]) -> ort::Result<()> {
        if self.runs.len() >= MOST_KEPT {
            let oldest = self.runs.remove(0);
            if let Some(captured) = oldest.captured {
                captured.graph.release(session);
            }
        }
        let block = |memory, shape: &[usize]| Block::new(session, ports.device, memory, shape.iter().product());
        let inputs_in = |memory| shapes.iter().map(|shape| block(memory, shape)).collect::<ort::Result<Vec<_>>>();
        let outputs_in = |memory| output_shapes.iter().map(|shape| block(memory, shape)).collect::<ort::Result<Vec<_>>>();
        let inputs = if ports.device.is_gpu() || ports.cuda_graph { inputs_in(Memory::Host)? } else { Vec::new() };
        let outputs = outputs_in(Memory::Host)?;
        let captured = match ports.cuda_graph {
            false => None,
            true => {
                self.graphs += 1;
                Some(Captured {
                    graph: CudaGraph::new(self.graphs)?,
                    inputs: inputs_in(Memory::Device)?,
                    outputs: outputs_in(Memory::Device)?,
                })
            }
        };
        let mut bound = Bound::new(session)?;
        // SAFETY: the blocks are kept with the binding, and used by nobody while it runs.
        unsafe {
            let written = captured.as_ref().map_or(&outputs, |captured| &captured.outputs);
            for ((port, shape), block) in ports.outputs.iter().zip(output_shapes).zip(written) {
                bound.output(&port.name, &*block.view(0, shape)?)?;
            }
            for ((port, shape), block) in ports.inputs.iter().zip(shapes).zip(captured.iter().flat_map(|captured| &captured.inputs)) {
                bound.input(&port.name, &*block.view(0, shape)?)?;
            }
        }
        let shapes = shapes.iter().map(|shape| shape.to_vec()).collect();
        self.runs.push(KeptRun { bound, shapes, output_shapes: output_shapes.to_vec(), inputs, outputs, captured });
        Ok(())
    }
}

impl KeptRun {
    fn run(&mut self, session: &mut Session, ports: Ports<'_>, inputs: &[View<'_>]) -> ort::Result<()> {
        for (block, input) in self.inputs.iter_mut().zip(inputs) {
            block.numbers_mut().copy_from_slice(input.values);
        }
        let Some(captured) = &mut self.captured else {
            for (index, (port, input)) in ports.inputs.iter().zip(inputs).enumerate() {
                // SAFETY: bound for this run alone; the next one binds its own.
                unsafe {
                    match self.inputs.get(index) {
                        Some(block) => self.bound.input(&port.name, &*block.view(0, input.shape)?)?,
                        None => self.bound.input(&port.name, &*TensorRef::from_array_view((input.shape, input.values))?)?,
                    }
                }
            }
            self.bound.wait_for_inputs()?;
            return self.bound.run(session, None);
        };
        // A graph reads and writes the same places of the device each time: copies go there and back around it.
        self.inputs.iter().zip(&mut captured.inputs).try_for_each(|(block, there)| block.copy_to(there))?;
        self.bound.run(session, Some(&captured.graph))?;
        captured.outputs.iter().zip(&mut self.outputs).try_for_each(|(there, block)| there.copy_to(block))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{engine::slots, onnxruntime};

    /// The road of CUDA graphs, all but the graphs: copies to the places that are bound, and back.
    #[test]
    fn what_is_captured_is_fed_anew_each_time() {
        let environment = onnxruntime::environment(None).expect("the library");
        let mut session = Session::builder(&environment).and_then(|builder| slots::identity(&builder)).expect("a session");
        let port = |name: &str| Port { name: name.to_owned(), element: "f32".to_owned(), shape: vec![None] };
        let (inputs, outputs) = ([port("x")], [port("y")]);
        let ports = Ports { inputs: &inputs, outputs: &outputs, device: Device::Cpu, cuda_graph: true };
        let mut kept = Kept::default();
        assert!(kept.run(&mut session, ports, &[View { shape: &[2], values: &[1.0, 2.0] }]).is_none());
        for len in 1..=MOST_KEPT + 2 {
            kept.keep(&mut session, ports, &[&[len]], &[vec![len]]).expect("kept");
        }
        for round in 0..3 {
            let values: Vec<f32> = (0..5).map(|i| (i + 10 * round) as f32).collect();
            let (shapes, out) = kept.run(&mut session, ports, &[View { shape: &[5], values: &values }]).expect("kept").expect("run");
            assert_eq!((shapes, out), (&[vec![5]][..], vec![values.as_slice()]));
        }
        // The first of them had to go.
        assert!(kept.run(&mut session, ports, &[View { shape: &[2], values: &[1.0, 2.0] }]).is_none());
        assert_eq!(kept.runs.len(), MOST_KEPT);
    }
}
