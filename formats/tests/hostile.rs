//! Files that mean harm, are damaged, or are something else: one sentence each, no panic, no memory beyond proportion.
mod common;

use common::*;
use formats::{StateDict, Value, npy, npz, pickle, pth};
use proptest::{collection::vec, prelude::*};
use std::{
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};
use zip::write::SimpleFileOptions;

fn refused(bytes: &[u8]) -> String {
    let message = pickle::read(bytes).expect_err("a refusal").to_string();
    assert!(!message.contains('\n') && message.len() < 300, "{message}");
    message
}

#[test]
fn nothing_runs() {
    let value = pickle::read(&std::fs::read(fixtures().join("attack.pkl")).unwrap()).unwrap();
    let attack = value.get("attack").unwrap();
    assert_eq!(say(attack), "<posix.system (s:touch /tmp/poselift-was-attacked)>");
    assert_eq!(value.get("after").unwrap().as_i64(), Some(2));
    assert!(!Path::new("/tmp/poselift-was-attacked").exists());
}

#[test]
fn deep_nesting_is_refused() {
    let lists = [vec![b']'; 1_000_000], vec![b'a'; 999_999], vec![b'.']].concat();
    assert!(refused(&lists).contains("deeper than 128"));
    let tuples = [vec![b')'], vec![0x85; 1_000_000], vec![b'.']].concat();
    assert!(refused(&tuples).contains("deeper than 128"));
    // each list is put into its parent first and filled through the memo afterwards
    let mut late = b"]q\x00".to_vec();
    for level in 1..1000u32 {
        late.extend(b"]r");
        late.extend(level.to_le_bytes());
        late.extend(b"a0j");
        late.extend(level.to_le_bytes());
    }
    late.extend(b"h\x00.");
    assert!(refused(&late).contains("malformed") || refused(&late).contains("deeper"));
    let deep_enough = [vec![b']'; 100], vec![b'a'; 99], vec![b'.']].concat();
    assert!(pickle::read(&deep_enough).is_ok());
}

#[test]
fn a_list_within_itself_is_refused() {
    assert!(refused(b"]q\x00h\x00a.").contains("contains itself"));
    assert!(refused(b"}q\x00K\x01h\x00s.").contains("contains itself"));
    assert!(refused(b"cmodule\nClass\n)Rq\x00h\x00b.").contains("contains itself"));
}

/// "Billion laughs": each list holds the one before ten times.
#[test]
fn sharing_that_grows_exponentially_is_refused() {
    let mut bytes = b"]K\x01aq\x00".to_vec();
    for level in 0..40u8 {
        bytes.push(b'(');
        bytes.extend([b'h', level].repeat(10));
        bytes.extend([b'l', b'q', level + 1]);
    }
    bytes.push(b'.');
    assert!(refused(&bytes).contains("grows into"));
    // a megabyte of text, ten thousand times
    let mut bytes = b"X\x00\x00\x10\x00".to_vec();
    bytes.extend(vec![b'x'; 1 << 20]);
    bytes.extend(b"q\x00(");
    bytes.extend(b"h\x00".repeat(10_000));
    bytes.extend(b"l.");
    assert!(refused(&bytes).contains("grows into"));
    // a class with a name of a megabyte, ten thousand objects of it
    let mut bytes = b"cmodule\n".to_vec();
    bytes.extend(vec![b'x'; 1 << 20]);
    bytes.extend(b"\nq\x00(");
    bytes.extend(b"h\x00)R".repeat(10_000));
    bytes.extend(b"l.");
    assert!(refused(&bytes).contains("grows into"));
    // bytes that are encoded again and again, and dropped
    let mut bytes = b"c_codecs\nencode\nq\x00X\x00\x00\x10\x00".to_vec();
    bytes.extend(vec![b'x'; 1 << 20]);
    bytes.extend(b"q\x01");
    bytes.extend(b"h\x00h\x01\x85R0".repeat(10_000));
    bytes.push(b'.');
    assert!(refused(&bytes).contains("grows beyond"));
    // twice is not too often
    assert_eq!(pickle::read(b"(](K\x01K\x02eq\x00h\x00l.").unwrap(), pickle::read(b"(](K\x01K\x02e](K\x01K\x02el.").unwrap());
}

#[test]
fn sizes_that_lie_are_refused() {
    for (bytes, expected) in [
        (&b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff"[..], "ends early"),
        (b"B\xff\xff\xff\xffabc", "ends early"),
        (b"\x8b\xff\xff\xff\x7f", "ends early"),
        (b"", "ends early"),
        (b".", "empty stack"),
        (b"(.", "empty stack"),
        (b"t.", "did not open"),
        (b"h\x05.", "recalls object 5"),
        (b"a.", "empty stack"),
        (b"K\x01K\x02a.", "no list"),
        (b"}(K\x01u.", "without a value"),
        (b"\x80\x09.", "protocol 9"),
        (b"\xff.", "unknown instruction 0xff"),
        (b"\x97.", "out-of-band"),
        (b"K\x01Q.", "outside of it"),
        (b"I99999999999999999999\n.", "64 bits"),
    ] {
        let message = refused(bytes);
        assert!(message.contains(expected), "{bytes:?}: {message}");
    }
}

/// `_reconstruct` and its state, with any shape, dtype and data.
fn numpy_pickle(shape: &str, dtype: &str, data: &str) -> Vec<u8> {
    let array = "cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR";
    format!("{array}(I1\n{shape}cnumpy\ndtype\n(V{dtype}\nI0\nI1\ntR(I3\nV<\nNNNI-1\nI-1\nI0\ntbI00\n{data}tb.").into_bytes()
}

#[test]
fn numpy_arrays_that_lie_are_refused() {
    let no_bytes = "c_codecs\nencode\n(V\nVlatin1\ntR";
    let good = pickle::read(&numpy_pickle("(I2\nt", "f4", "c_codecs\nencode\n(V\0\0\0\0\0\0\0\0\nVlatin1\ntR")).unwrap();
    assert_eq!(good.as_tensor().unwrap().shape, [2]);
    let refused = |shape, dtype, data| refused(&numpy_pickle(shape, dtype, data));
    assert!(refused("(I1000000000000\nt", "f4", no_bytes).contains("grows into"));
    assert!(refused("(I1000000000000\nI1000000000000\nt", "f4", no_bytes).contains("grows into"));
    assert!(refused("(I1000000000000\nt", "U0", no_bytes).contains("grows into"));
    assert!(refused("(I10\nt", "f4", no_bytes).contains("has 0 bytes"));
    assert!(refused("(I-1\nt", "f4", no_bytes).contains("shape of a numpy array"));
    assert!(refused("(I5\nt", "O8", "(NNl").contains("has 2 objects"));
    assert!(refused("(I1\nt", "f4", "N").contains("data of a numpy array"));
    let many_axes = format!("({}t", "I1\n".repeat(65));
    assert!(refused(&many_axes, "f4", no_bytes).contains("shape of a numpy array"));
    // no items, whatever the other axes say
    assert_eq!(pickle::read(&numpy_pickle("(I1000000000000\nI0\nt", "O8", "(l")).unwrap(), Value::List(vec![]));
    assert_eq!(pickle::read(&numpy_pickle("(I0\nI1000000000000\nt", "f4", no_bytes)).unwrap().as_tensor().unwrap().len(), 0);
    // without a state
    assert!(
        pickle::read(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR.")
            .unwrap_err()
            .to_string()
            .contains("without data")
    );
    // a type that is not read stays an object
    assert_eq!(say(&pickle::read(&numpy_pickle("(I1\nt", "c16", no_bytes)).unwrap()), "<numpy.ndarray s:c16>");
}

/// A checkpoint of one tensor `(offset, shape, strides)` over a storage of 4 floats.
fn checkpoint(folder: &Path, tensor: &str, storage: &[u8]) -> PathBuf {
    let pickle = format!("ctorch._utils\n_rebuild_tensor_v2\n((Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI4\ntQ{tensor}I00\nNtR.");
    archive(folder, "x.pth", &[("archive/data.pkl", pickle.as_bytes()), ("archive/data/0", storage)])
}

fn archive(folder: &Path, name: &str, members: &[(&str, &[u8])]) -> PathBuf {
    let path = folder.join(name);
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    for (name, content) in members {
        let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
        zip.start_file(*name, options).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap();
    path
}

#[test]
fn tensors_outside_of_their_storage_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let read = |tensor, storage: &[u8]| pth::read(&checkpoint(folder.path(), tensor, storage)).map_err(|error| error.to_string());
    let good = read("I1\n(I3\nt(I1\nt", &[0; 16]).unwrap();
    assert_eq!(good.as_tensor().unwrap().shape, [3]);
    let outside = [
        "I2\n(I3\nt(I1\nt",
        "I0\n(I5\nt(I1\nt",
        "I0\n(I2\nI2\nt(I4\nI1\nt",
        "I9223372036854775807\n(I1\nt(I1\nt",
        "I0\n(I2\nt(I9223372036854775807\nt",
    ];
    for tensor in outside {
        let message = read(tensor, &[0; 16]).unwrap_err();
        assert!(message.contains("x.pth") && message.contains("outside"), "{message}");
    }
    // the storage is shorter than it says
    assert!(read("I0\n(I4\nt(I1\nt", &[0; 15]).unwrap_err().contains("outside"));
    // one element, a trillion times
    assert!(read("I0\n(I1000000000000\nt(I0\nt", &[0; 16]).unwrap_err().contains("grows into"));
    assert!(read("I0\n(I-1\nt(I0\nt", &[0; 16]).unwrap_err().contains("a tensor needs"));
    assert!(read("I0\n(I1\nt(I1\nI1\nt", &[0; 16]).unwrap_err().contains("strides"));
    // no member
    let path = archive(
        folder.path(),
        "y.pth",
        &[(
            "a/data.pkl",
            b"ctorch._utils\n_rebuild_tensor_v2\n((Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI4\ntQI0\n(I1\nt(I1\ntI00\nNtR.",
        )],
    );
    assert!(pth::read(&path).unwrap_err().to_string().contains("has no member 'a/data/0'"));
}

#[test]
fn an_archive_that_unpacks_to_gigabytes_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let zeros = vec![0; 300 << 20];
    let path = checkpoint(folder.path(), "I0\n(I1\nt(I1\nt", &zeros);
    assert!(std::fs::metadata(&path).unwrap().len() < 1 << 20);
    let message = pth::read(&path).unwrap_err().to_string();
    assert!(message.contains("out of all proportion"), "{message}");
    let path = archive(folder.path(), "x.npz", &[("a.npy", &zeros)]);
    let message = npz::read(&path).unwrap_err().to_string();
    assert!(message.contains("out of all proportion"), "{message}");
}

#[test]
fn what_is_no_checkpoint_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("best.pth");
    let message = |content: &[u8]| {
        std::fs::write(&path, content).unwrap();
        let message = pth::read(&path).unwrap_err().to_string();
        assert!(message.contains("best.pth") && !message.contains('\n'), "{message}");
        message
    };
    assert!(message(b"").contains("is empty"));
    assert!(message("hello, this is no checkpoint, ü\n".as_bytes()).contains("is a text file"));
    assert!(message("ü".repeat(4000).as_bytes()).contains("is a text file"));
    assert!(message(b"\n<!DOCTYPE html><html>404</html>").contains("is an HTML page"));
    assert!(message(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n").contains("git lfs pull"));
    assert!(message(b"\x10\0\0\0\0\0\0\0{\"a\":1}").contains("safetensors"));
    assert!(message(b"\x80\x04N.").contains("bare Python pickle"));
    assert!(message(b"\x89HDF\r\n").contains("starts with the bytes 89 48 44 46"));
    assert!(message(b"PK\x03\x04abc").contains("truncated"));
    let of = |path: &Path| pth::read(path).unwrap_err().to_string();
    assert!(of(&archive(folder.path(), "a.pth", &[("word/document.xml", b"")])).contains("no member data.pkl"));
    assert!(of(&archive(folder.path(), "a.pth", &[("a/data.pkl", b"N."), ("a/constants.pkl", b"")])).contains("TorchScript"));
    assert!(of(folder.path()).contains("is a folder"));
    assert!(of(&folder.path().join("absent.pth")).starts_with("cannot read"));
}

#[test]
fn what_holds_no_weights_is_named() {
    let message = |value: &Value| StateDict::from_checkpoint(value).unwrap_err().to_string();
    assert!(message(&Value::Int(3)).contains("found an integer"));
    assert!(message(&Value::dict([("epoch", Value::Int(3)), ("loss", Value::Int(3))])).contains("found 'epoch', 'loss'"));
    assert!(message(&Value::dict([("model", Value::dict([("a.weight", Value::Int(3))]))])).contains("found an integer under"));
    let object = Value::Object { class: "model.MotionAGFormer".into(), state: Box::new(Value::None) };
    assert!(message(&Value::dict([("model", object)])).contains("whole Python object (model.MotionAGFormer)"));
    let tensor = || Value::Tensor(formats::Tensor::f32([1], vec![0.0]));
    assert!(
        message(&Value::dict([("model", Value::dict([("module.a", tensor()), ("a", tensor())]))])).contains("two weights are called a")
    );
    let nested = Value::dict([("module.encoder.module.a", tensor()), ("b", tensor())]);
    assert_eq!(StateDict::from_checkpoint(&nested).unwrap().names().collect::<Vec<_>>(), ["encoder.a", "b"]);
}

#[test]
fn npy_headers_that_lie_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    let message = |header: &str, data: &[u8]| {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        std::fs::write(&path, bytes).unwrap();
        npy::read_value(&path).unwrap_err().to_string()
    };
    assert!(message("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }", &[0; 8]).contains("truncated"));
    assert!(message("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296, 16), }", &[0; 8]).contains("truncated"));
    assert!(message("{'descr': '<U0', 'fortran_order': False, 'shape': (1000000000000,), }", &[]).contains("2^20 empty strings"));
    assert!(message("{'descr': '<c16', 'fortran_order': False, 'shape': (1,), }", &[0; 16]).contains("type '<c16'"));
    assert!(message("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", &[0; 16]).contains("not understood"));
    assert!(message("{'descr': '<f4', 'shape': (1,), }", &[0; 16]).contains("not understood"));
    assert!(message("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", &[0; 16]).contains("not understood"));
    assert!(message("", &[]).contains("not understood"));
    std::fs::write(&path, "text").unwrap();
    assert!(npy::read(&path).unwrap_err().to_string().contains("no .npy array"));
    std::fs::write(&path, b"").unwrap();
    assert!(npy::read(&path).unwrap_err().to_string().contains("is empty"));
    std::fs::write(&path, b"\x93NUMPY\x07\x00").unwrap();
    assert!(npy::read(&path).unwrap_err().to_string().contains("version 7"));
    assert!(npz::read(&path).unwrap_err().to_string().contains("no .npz archive"));
}

/// A copy of each fixture, to be spoilt in place.
fn copies(folder: &Path) -> impl Iterator<Item = (PathBuf, std::fs::File, Vec<u8>)> {
    let files = std::fs::read_dir(fixtures())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_none_or(|e| e != "txt"));
    files.map(move |path| {
        let copy = folder.join(path.file_name().unwrap());
        std::fs::copy(&path, &copy).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&copy).unwrap();
        (copy, file, std::fs::read(&path).unwrap())
    })
}

/// Every fixture, cut at every byte: always an error of one sentence, never a panic.
#[test]
fn every_truncation_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    for (path, file, bytes) in copies(folder.path()) {
        for length in (0..bytes.len()).rev() {
            file.set_len(length as u64).unwrap();
            let message = read_any(&path).err().unwrap_or_else(|| panic!("{path:?} cut at {length} is read")).to_string();
            assert!(message.len() < 500 && !message.contains('\n'), "{path:?} cut at {length}: {message}");
        }
    }
}

/// Every byte of every fixture, damaged in two ways: an error or another value, never a panic.
#[test]
fn no_damaged_byte_panics() {
    let folder = tempfile::tempdir().unwrap();
    for (path, mut file, bytes) in copies(folder.path()) {
        let mut put = |at: usize, byte: u8| {
            file.seek(SeekFrom::Start(at as u64)).unwrap();
            file.write_all(&[byte]).unwrap();
        };
        for (at, byte) in bytes.into_iter().enumerate() {
            for flip in [0x01, 0xff] {
                put(at, byte ^ flip);
                let _ = read_any(&path);
            }
            put(at, byte);
        }
    }
}

#[test]
fn a_damaged_weight_is_found_by_its_checksum() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pth");
    pth::write(&path, &formats::Tensor::f32([100], vec![1.5; 100]).into()).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(4).position(|w| w == 1.5f32.to_le_bytes()).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let message = pth::read(&path).unwrap_err().to_string();
    assert!(message.contains("'archive/data/0'") && message.contains("damaged"), "{message}");
}

/// Opcodes in any order, most of them with operands that make sense.
fn program() -> impl Strategy<Value = Vec<u8>> {
    let known = [
        "collections\nOrderedDict",
        "numpy\ndtype",
        "numpy._core.multiarray\n_reconstruct",
        "numpy._core.numeric\n_frombuffer",
        "_codecs\nencode",
        "a\nb",
    ];
    let global = proptest::sample::select(known.map(str::to_owned).to_vec()).prop_map(|name| format!("c{name}\n").into_bytes());
    let plain =
        proptest::sample::select(b"(012Nadelstu)]}bRQo.\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94".to_vec()).prop_map(|op| vec![op]);
    let small = (proptest::sample::select(b"Khq".to_vec()), 0u8..6).prop_map(|(op, operand)| vec![op, operand]);
    let text =
        proptest::sample::select(["f4", "O8", "<", "F", "latin1", "U0", "K"].to_vec()).prop_map(|text| format!("V{text}\n").into_bytes());
    let bytes = vec(any::<u8>(), 0..9).prop_map(|bytes| [vec![b'C', bytes.len() as u8], bytes].concat());
    vec(prop_oneof![4 => plain, 2 => small, 1 => global, 1 => text, 1 => bytes], 0..80)
        .prop_map(|parts| [parts.concat(), vec![b'.']].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn no_program_panics(bytes in program()) {
        let _ = pickle::read(&bytes);
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = pickle::read(&bytes);
    }
}
