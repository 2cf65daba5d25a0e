//! The golden vectors: f64 truth from the PyTorch reference.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use scan::{Dims, Serial};

use crate::case::{Case, Results, forms};

fn read(folder: &Path, name: &str) -> Option<(Vec<usize>, Vec<f64>)> {
    let file = File::open(folder.join(name).with_extension("npy")).ok()?;
    let npy = npyz::NpyFile::new(BufReader::new(file)).expect("a npy file");
    let shape = npy.shape().iter().map(|&size| size as usize).collect();
    Some((shape, npy.into_vec::<f64>().expect("f64 values")))
}

#[test]
fn all_scan_vectors() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/scan"));
    let mut cases = 0;
    for entry in root.read_dir().expect("tests/golden/scan") {
        let folder = entry.expect("an entry").path();
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        if !name.starts_with('L') {
            continue; // block_*: the whole mixer, tested where its other layers are
        }
        let values = |name: &str| read(&folder, name).unwrap_or_else(|| panic!("{}/{name}.npy", folder.display())).1;
        let (shape, u) = read(&folder, "u").expect("u");
        let states = read(&folder, "A").expect("A").0[1];
        let dims = Dims { sequences: shape[0], frames: shape[1], channels: shape[2], states };
        let case = Case {
            dims,
            u,
            delta: values("dt"),
            a: values("A"),
            b: values("B"),
            c: values("C"),
            d: Some(values("D")),
            z: None,
            delta_bias: None,
            initial_state: read(&folder, "h0").map(|(_, values)| values),
            delta_softplus: false,
            grad_y: values("grad_y"),
            grad_last_state: read(&folder, "grad_h_last").map(|(_, values)| values),
        };
        let oracle = case.by_oracle(f64::NAN);
        let truth = Results {
            y: values("y"),
            last_state: values("h_last"),
            u: values("du"),
            delta: values("ddt"),
            a: values("dA"),
            b: values("dB"),
            c: values("dC"),
            d: Some(values("dD")),
            z: None,
            delta_bias: None,
            // absent where the case has no initial state: the oracle's, which the other cases vouch for
            initial_state: read(&folder, "dh0").map_or_else(|| oracle.initial_state.clone(), |(_, values)| values),
        };
        let worst = |a: &[f64], b: &[f64]| a.iter().zip(b).fold(0.0, |worst: f64, (a, b)| worst.max((a - b).abs() / (1.0 + b.abs())));
        assert!(
            worst(&oracle.y, &truth.y) < 1e-12 && worst(&oracle.a, &truth.a) < 1e-11 && worst(&oracle.delta, &truth.delta) < 1e-11,
            "{name}: oracle"
        );
        assert!(
            worst(&oracle.b, &truth.b) < 1e-12 && worst(&oracle.c, &truth.c) < 1e-12 && worst(&oracle.u, &truth.u) < 1e-12,
            "{name}: oracle"
        );
        assert!(worst(&oracle.initial_state, &truth.initial_state) < 1e-12, "{name}: oracle");
        case.narrow().by_oracle(f32::NAN).assert_near(&truth, 1e-5, 1e-4, &format!("{name} f32 oracle"));
        for form in forms() {
            case.narrow().by_form(form, &Serial).assert_near(&truth, 1e-5, 1e-4, &format!("{name} {form:?}"));
        }
        cases += 1;
    }
    assert_eq!(cases, 12);
}
