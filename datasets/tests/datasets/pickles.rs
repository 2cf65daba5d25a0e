//! Pickles and object NPZ files as numpy writes them, for sets that no one else has.

use std::io::Write;
use std::path::Path;

/// A Python object.
#[derive(Clone)]
pub enum Py {
    Text(String),
    Int(i32),
    List(Vec<Py>),
    Dict(Vec<(String, Py)>),
    /// A numpy array of float32.
    Array(Vec<usize>, Vec<f32>),
}

impl Py {
    pub fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    pub fn texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        Self::List(texts.into_iter().map(Self::text).collect())
    }

    pub fn dict<const N: usize>(entries: [(&str, Py); N]) -> Self {
        Self::Dict(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    /// The value under keys, to be spoilt.
    pub fn at(&mut self, keys: &[&str]) -> &mut Py {
        keys.iter().fold(self, |value, key| match value {
            Self::Dict(entries) => &mut entries.iter_mut().find(|(name, _)| name == key).unwrap_or_else(|| panic!("no {key}")).1,
            Self::List(items) => &mut items[key.parse::<usize>().unwrap()],
            _ => panic!("nothing below {key}"),
        })
    }

    pub fn remove(&mut self, key: &str) {
        let Self::Dict(entries) = self else { panic!("no dictionary") };
        entries.retain(|(name, _)| name != key);
    }

    pub fn array(&mut self) -> (&mut Vec<usize>, &mut Vec<f32>) {
        let Self::Array(shape, values) = self else { panic!("no array") };
        (shape, values)
    }

    pub fn pickle(&self) -> Vec<u8> {
        let mut out = b"\x80\x04".to_vec();
        self.write(&mut out);
        out.push(b'.');
        out
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Text(text) => {
                out.push(b'X');
                out.extend((text.len() as u32).to_le_bytes());
                out.extend(text.as_bytes());
            }
            Self::Int(value) => {
                out.push(b'J');
                out.extend(value.to_le_bytes());
            }
            Self::List(items) => {
                out.extend(b"](");
                items.iter().for_each(|item| item.write(out));
                out.push(b'e');
            }
            Self::Dict(entries) => {
                out.extend(b"}(");
                for (key, value) in entries {
                    Self::text(key).write(out);
                    value.write(out);
                }
                out.push(b'u');
            }
            Self::Array(shape, values) => {
                out.extend(b"cnumpy.core.numeric\n_frombuffer\n(B");
                out.extend((4 * values.len() as u32).to_le_bytes());
                values.iter().for_each(|v| out.extend(v.to_le_bytes()));
                out.extend(b"cnumpy\ndtype\n(");
                Self::text("f4").write(out);
                out.extend(b"\x89\x88tR("); // dtype('f4', False, True)
                Self::Int(3).write(out);
                Self::text("<").write(out);
                out.extend(b"NNN");
                [-1, -1, 0].into_iter().for_each(|v| Self::Int(v).write(out));
                out.extend(b"tb("); // its state, then the shape
                shape.iter().for_each(|&n| Self::Int(n as i32).write(out));
                out.push(b't');
                Self::text("C").write(out);
                out.extend(b"tR");
            }
        }
    }
}

/// `numpy.savez` of objects: arrays of no axes, each a pickle.
pub fn write_npz(path: &Path, members: &[(&str, &Py)]) {
    let mut zip = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    for (name, value) in members {
        zip.start_file(format!("{name}.npy"), zip::write::SimpleFileOptions::default()).unwrap();
        let header = "{'descr': '|O', 'fortran_order': False, 'shape': (), }";
        zip.write_all(b"\x93NUMPY\x01\x00").unwrap();
        zip.write_all(&(header.len() as u16 + 1).to_le_bytes()).unwrap();
        zip.write_all(header.as_bytes()).unwrap();
        zip.write_all(b"\n").unwrap();
        zip.write_all(&value.pickle()).unwrap();
    }
    zip.finish().unwrap();
}
