//! Many threads at once: opening the first models of a process, and running one model.

use std::{
    path::Path,
    sync::{Arc, Barrier},
    thread,
};

use runtime::{Engine, EngineOptions};

const THREADS: usize = 8;

#[test]
fn threads_open_models_and_share_one() {
    let model = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/clip-xs.onnx"));
    let options = EngineOptions { threads: 1, ..EngineOptions::default() };
    let start = Arc::new(Barrier::new(THREADS));
    let engines: Vec<Engine> = thread::scope(|scope| {
        let open = |_| {
            let (start, options) = (Arc::clone(&start), options.clone());
            scope.spawn(move || {
                start.wait(); // all of them make the process's first session
                Engine::open(model, &options).expect("the shipped model opens")
            })
        };
        let opening: Vec<_> = (0..THREADS).map(open).collect();
        opening.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });

    let input: Vec<f32> = (0..27 * 17 * 3).map(|i| (i as f32 * 0.37).sin()).collect();
    let expected = engines[0].run(&input, [1, 27, 17, 3]).expect("poses");
    thread::scope(|scope| {
        for i in 0..THREADS {
            let (engines, input, expected) = (&engines, &input, &expected);
            scope.spawn(move || {
                for engine in [&engines[0], &engines[i]] {
                    assert_eq!(&engine.run(input, [1, 27, 17, 3]).expect("poses"), expected);
                }
            });
        }
    });
}
