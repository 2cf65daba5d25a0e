//! What is written is read back, and a failed write leaves the old file.
mod common;

use common::*;
use formats::{Data, StateDict, Tensor, Value, half, npy, npz, pth};
use proptest::{collection::vec, prelude::*};
use std::collections::BTreeMap;

fn any_tensor() -> impl Strategy<Value = Tensor> {
    let shape = vec(0usize..4, 0..4);
    (shape, 0..10, any::<u64>()).prop_map(|(shape, kind, seed)| {
        let count: usize = shape.iter().product();
        let bits = |i: usize| seed.wrapping_add(i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        macro_rules! data {
            ($variant:ident, $element:expr) => {
                Data::$variant((0..count).map(bits).map($element).collect())
            };
        }
        let data = match kind {
            0 => data!(F64, f64::from_bits),
            1 => data!(F32, |b| f32::from_bits(b as u32)),
            2 => data!(F16, |b| half::f16::from_bits(b as u16)),
            3 => data!(BF16, |b| half::bf16::from_bits(b as u16)),
            4 => data!(I64, |b| b as i64),
            5 => data!(I32, |b| b as i32),
            6 => data!(I16, |b| b as i16),
            7 => data!(I8, |b| b as i8),
            8 => data!(U8, |b| b as u8),
            _ => data!(Bool, |b| b & 1 == 1),
        };
        Tensor::new(shape, data).unwrap()
    })
}

/// Everything that can be written to a checkpoint.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::None),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<f64>().prop_map(Value::Float),
        ".*".prop_map(Value::Str),
        vec(any::<u8>(), 0..20).prop_map(Value::Bytes),
        any_tensor().prop_map(Value::Tensor),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::List),
            vec(inner.clone(), 0..6).prop_map(Value::Tuple),
            proptest::collection::btree_map(".*", inner.clone(), 0..6).prop_map(Value::dict),
            proptest::collection::btree_map(any::<i64>(), inner, 0..6)
                .prop_map(|entries| Value::Dict(entries.into_iter().map(|(k, v)| (Value::Int(k), v)).collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn checkpoints_come_back(value in any_value()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pth");
        pth::write(&path, &value).unwrap();
        prop_assert_eq!(say(&pth::read(&path).unwrap()), say(&value));
    }

    #[test]
    fn arrays_come_back(tensor in any_tensor()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        npy::write(&path, &tensor).unwrap();
        let expected = match &tensor.data {
            Data::BF16(_) => Tensor::f32(tensor.shape.clone(), tensor.to_f32()), // numpy has no bf16
            _ => tensor,
        };
        prop_assert_eq!(say(&npy::read(&path).unwrap().into()), say(&expected.into()));
    }

    #[test]
    fn archives_come_back(members in proptest::collection::btree_map("[a-z_0-9]{1,8}", any_tensor(), 0..4)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npz");
        npz::write(&path, &members).unwrap();
        let found = npz::read(&path).unwrap();
        prop_assert_eq!(found.len(), members.len());
        for (name, tensor) in members.into_iter().filter(|(_, t)| !matches!(t.data, Data::BF16(_))) {
            prop_assert_eq!(say(&found[&name].clone().into()), say(&tensor.into()));
        }
    }
}

#[test]
fn numbers_and_texts_in_an_archive() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npz");
    let members = [
        ("fps", Value::Float(29.97)),
        ("frames", Value::Int(3)),
        ("ok", Value::Bool(true)),
        ("skeleton", Value::str("h36m17 ü")),
        ("none", Value::str("")),
    ];
    npz::write_values(&path, &members).unwrap();
    let found = npz::read_values(&path).unwrap();
    let tensor = |data| Value::Tensor(Tensor::new([], data).unwrap());
    let expected = [
        ("fps", tensor(Data::F64(vec![29.97]))),
        ("frames", tensor(Data::I64(vec![3]))),
        ("ok", tensor(Data::Bool(vec![true]))),
        ("skeleton", Value::str("h36m17 ü")),
        ("none", Value::str("")),
    ];
    assert_eq!(found, BTreeMap::from(expected.map(|(name, value)| (name.to_owned(), value))));
    assert!(npz::write_values(&path, &[("x", Value::None)]).unwrap_err().to_string().contains("'x' is None, not a tensor"));
}

/// The same checkpoint, all dtypes and the optimizer's state, through our own reader and writer.
#[test]
fn real_checkpoints_survive_a_round_trip() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy.pth");
    let original = pth::read(&golden().join("tiny/official_with_optimizer/best_epoch.pth.tr")).unwrap();
    pth::write(&path, &original).unwrap();
    assert_eq!(pth::read(&path).unwrap(), original);
    let weights = StateDict::from_checkpoint(&original).unwrap();
    pth::write(&path, &Value::dict([("model", weights.to_value())])).unwrap();
    assert_eq!(StateDict::from_checkpoint(&pth::read(&path).unwrap()).unwrap(), weights);
}

#[test]
fn storages_are_uncompressed_and_aligned() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pth");
    let weights = StateDict::new((0..5).map(|i| (format!("layer.{i}"), Tensor::f32([i, 3], vec![i as f32; i * 3]))));
    pth::write(&path, &weights.to_value()).unwrap();
    let mut zip = zip::ZipArchive::new(std::fs::File::open(&path).unwrap()).unwrap();
    for i in 0..zip.len() {
        let member = zip.by_index(i).unwrap();
        assert_eq!(member.compression(), zip::CompressionMethod::Stored);
        assert_eq!(member.data_start() % 64, 0, "{}", member.name());
    }
}

#[test]
fn an_object_is_not_written_and_the_old_file_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pth");
    pth::write(&path, &Value::Int(1)).unwrap();
    let object = Value::Object { class: "easydict.EasyDict".into(), state: Box::new(Value::None) };
    let message = pth::write(&path, &Value::dict([("config", object)])).unwrap_err().to_string();
    assert!(message.contains("x.pth: cannot be written: the value holds a Python object of class easydict.EasyDict"), "{message}");
    assert_eq!(pth::read(&path).unwrap(), Value::Int(1));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let message = pth::write(std::path::Path::new("/no/such/folder/x.pth"), &Value::None).unwrap_err().to_string();
    assert!(message.starts_with("cannot write /no/such/folder/x.pth: No such file or directory"), "{message}");
    for path in ["/", "/tmp/.", "/dev/null"] {
        let message = npy::write(std::path::Path::new(path), &Tensor::f32([], vec![1.0])).unwrap_err().to_string();
        assert!(message.contains("cannot be written: it is a folder or a device"), "{message}");
    }
}

/// A limit on the size of files stands in for a full disk: this test runs itself again in a shell that sets one.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_old_file() {
    const MARK: &str = "POSELIFT_TEST_FULL_DISK";
    if let Some(path) = std::env::var_os(MARK) {
        let error = pth::write(path.as_ref(), &Tensor::f32([1 << 20], vec![0.0; 1 << 20]).into()).unwrap_err();
        assert!(error.to_string().contains("x.pth: File too large"), "{error}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pth");
    pth::write(&path, &Value::str("old")).unwrap();
    // Its output goes through pipes: the limit would hold for a file that this test's own output is written to, too.
    let child = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" --exact a_full_disk_leaves_the_old_file"])
        .arg(std::env::current_exe().unwrap())
        .env(MARK, &path)
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    assert_eq!(pth::read(&path).unwrap(), Value::str("old"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "the partial file stayed");
}
