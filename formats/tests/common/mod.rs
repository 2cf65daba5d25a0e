//! What the tests share: where files are, and one line that says all about a value, as make_fixtures.py says it from Python.
#![allow(dead_code, clippy::print_stdout)] // each test uses a part; tests print

use formats::{DType, Data, Tensor, Value};
use std::{fmt::Write, path::PathBuf};

pub fn fixtures() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures"))
}

pub fn golden() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden"))
}

/// A folder beside the checkout; `None`, and a line that says so, where it is absent.
pub fn shared(folder: &str) -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared")).join(folder);
    if path.is_dir() {
        return Some(path);
    }
    println!("skipped: ../shared is absent");
    None
}

pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(!0u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 }))
}

pub fn little_endian_bytes(data: &Data) -> Vec<u8> {
    macro_rules! bytes {
        ($v:expr) => {
            $v.iter().flat_map(|x| x.to_le_bytes()).collect()
        };
    }
    match data {
        Data::F64(v) => bytes!(v),
        Data::F32(v) => bytes!(v),
        Data::F16(v) => bytes!(v),
        Data::BF16(v) => bytes!(v),
        Data::I64(v) => bytes!(v),
        Data::I32(v) => bytes!(v),
        Data::I16(v) => bytes!(v),
        Data::I8(v) => bytes!(v),
        Data::U8(v) => v.clone(),
        Data::Bool(v) => v.iter().map(|b| u8::from(*b)).collect(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

fn tensor(tensor: &Tensor) -> String {
    let name = match tensor.dtype() {
        DType::F64 => "f8",
        DType::F32 => "f4",
        DType::F16 => "f2",
        DType::BF16 => "bf2",
        DType::I64 => "i8",
        DType::I32 => "i4",
        DType::I16 => "i2",
        DType::I8 => "i1",
        DType::U8 => "u1",
        DType::Bool => "b1",
    };
    let shape: Vec<_> = tensor.shape.iter().map(usize::to_string).collect();
    let bytes = little_endian_bytes(&tensor.data);
    let body = if bytes.len() <= 64 { hex(&bytes) } else { format!("#{:08x}", crc32(&bytes)) };
    format!("{name}({})[{body}]", shape.join(","))
}

pub fn say(value: &Value) -> String {
    let list = |items: &[Value]| items.iter().map(say).collect::<Vec<_>>().join(",");
    match value {
        Value::None => "None".into(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        Value::Int(i) => i.to_string(),
        Value::Float(f) => format!("f:{:016x}", f.to_bits()),
        Value::Str(text) => format!("s:{text}"),
        Value::Bytes(bytes) => format!("b:{}", hex(bytes)),
        Value::List(items) => format!("[{}]", list(items)),
        Value::Tuple(items) => format!("({})", list(items)),
        Value::Dict(entries) => {
            format!("{{{}}}", entries.iter().map(|(k, v)| format!("{}:{}", say(k), say(v))).collect::<Vec<_>>().join(","))
        }
        Value::Tensor(t) => tensor(t),
        Value::Object { class, state } => format!("<{class} {}>", say(state)),
    }
}

/// Lines of a fixture list, split at tabs.
pub fn table(name: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(fixtures().join(name)).unwrap();
    text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

/// Reads any file of the formats by its extension.
pub fn read_any(path: &std::path::Path) -> Result<Value, formats::Error> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("npy") => formats::npy::read_value(path),
        Some("npz") => Ok(Value::dict(formats::npz::read_values(path)?)),
        Some("pkl") => formats::pickle::read(&std::fs::read(path).unwrap()),
        _ => formats::pth::read(path),
    }
}

pub fn assert_same(name: &str, expected: &str, found: &str) {
    if expected != found {
        let at = expected.bytes().zip(found.bytes()).take_while(|(a, b)| a == b).count().saturating_sub(60);
        let cut = |text: &str| String::from_utf8_lossy(&text.as_bytes()[at.min(text.len())..]).chars().take(200).collect::<String>();
        panic!("{name} differs near character {at}\nexpected ...{}\nfound    ...{}", cut(expected), cut(found));
    }
}
