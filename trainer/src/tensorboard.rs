//! Event files that TensorBoard draws: records of length, masked CRC-32C and a protocol buffer.
//!
//! Formats: `tensorflow/core/lib/io/record_writer.h` (the record), `tensorflow/core/util/event.proto` and
//! `tensorflow/core/framework/summary.proto` (its content), of which only the fields that are written stand here.

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use prost::Message;

/// Folder of a run's event files within the run's folder; one file for each start of the run.
pub const FOLDER: &str = "tensorboard";

/// What readers look for in the first event.
const FILE_VERSION: &str = "brain.Event:2";
/// Events reach the file at least this often, for those who watch.
const FLUSH_EVERY: Duration = Duration::from_secs(10);

/// `tensorflow.Event`.
#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

/// `tensorflow.SessionLog`: with the status START at step s, whatever a former file has from step s on is void.
#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `SessionLog.SessionStatus.START`.
const START: i32 = 1;

/// `tensorflow.Summary`.
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<SummaryValue>,
}

/// `tensorflow.Summary.Value`.
#[derive(Clone, PartialEq, Message)]
struct SummaryValue {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(message, optional, tag = "9")]
    metadata: Option<SummaryMetadata>,
    #[prost(oneof = "Datum", tags = "2, 8")]
    datum: Option<Datum>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Datum {
    #[prost(float, tag = "2")]
    SimpleValue(f32),
    #[prost(message, tag = "8")]
    Tensor(TensorProto),
}

/// `tensorflow.SummaryMetadata`.
#[derive(Clone, PartialEq, Message)]
struct SummaryMetadata {
    #[prost(message, optional, tag = "1")]
    plugin_data: Option<PluginData>,
}

/// `tensorflow.SummaryMetadata.PluginData`.
#[derive(Clone, PartialEq, Message)]
struct PluginData {
    #[prost(string, tag = "1")]
    plugin_name: String,
}

/// `tensorflow.TensorProto`; without a shape it is a scalar.
#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(int32, tag = "1")]
    dtype: i32,
    #[prost(message, optional, tag = "2")]
    tensor_shape: Option<TensorShape>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    string_val: Vec<Vec<u8>>,
}

/// `tensorflow.TensorShapeProto` of a scalar: no dimension.
#[derive(Clone, PartialEq, Message)]
struct TensorShape {}

/// `DataType.DT_STRING`.
const DT_STRING: i32 = 7;

/// A record: length, its masked checksum, content, its masked checksum; little-endian.
fn record(content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u64).to_le_bytes();
    let mut bytes = Vec::with_capacity(content.len() + 16);
    bytes.extend(length);
    bytes.extend(masked_crc32c(&length).to_le_bytes());
    bytes.extend(content);
    bytes.extend(masked_crc32c(content).to_le_bytes());
    bytes
}

/// CRC-32C rotated and offset, so that checksums of data that holds checksums stay good.
fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// An event file that is written.
pub struct EventWriter {
    path: PathBuf,
    file: BufWriter<File>,
    flushed: Instant,
}

impl EventWriter {
    /// Starts a file in [`FOLDER`] of a run's folder. `step` is where the run goes on: what former files have from there on is void.
    ///
    /// # Errors
    /// The folder or the file cannot be made.
    pub fn start(run: &Path, step: u64) -> Result<Self> {
        let folder = run.join(FOLDER);
        fs::create_dir_all(&folder).with_context(|| format!("{}: the folder cannot be made", folder.display()))?;
        // Readers go by "tfevents" and take files in the order of their names: the time comes first.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let path =
            folder.join(format!("events.out.tfevents.{:010}.{:09}.{}.poselift", now.as_secs(), now.subsec_nanos(), std::process::id()));
        let file = File::create(&path).with_context(|| format!("{}: cannot be made", path.display()))?;
        let mut writer = Self { path, file: BufWriter::new(file), flushed: Instant::now() };
        writer.write(0, What::FileVersion(FILE_VERSION.into()))?;
        writer.write(step, What::SessionLog(SessionLog { status: START }))?;
        writer.flush()?;
        Ok(writer)
    }

    /// One point of each curve.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn scalars<'a>(&mut self, step: u64, values: impl IntoIterator<Item = (&'a str, f64)>) -> Result<()> {
        let value =
            |(tag, value): (&str, f64)| SummaryValue { tag: tag.into(), metadata: None, datum: Some(Datum::SimpleValue(value as f32)) };
        let value: Vec<SummaryValue> = values.into_iter().map(value).collect();
        if value.is_empty() { Ok(()) } else { self.write(step, What::Summary(Summary { value })) }
    }

    /// A text, in Markdown.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn text(&mut self, step: u64, tag: &str, text: &str) -> Result<()> {
        let tensor = TensorProto { dtype: DT_STRING, tensor_shape: Some(TensorShape {}), string_val: vec![text.as_bytes().to_vec()] };
        let metadata = SummaryMetadata { plugin_data: Some(PluginData { plugin_name: "text".into() }) };
        let value = SummaryValue { tag: tag.into(), metadata: Some(metadata), datum: Some(Datum::Tensor(tensor)) };
        self.write(step, What::Summary(Summary { value: vec![value] }))
    }

    /// Puts what was written into the file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        self.flushed = Instant::now();
        self.file.flush().with_context(|| format!("{}: cannot be written", self.path.display()))
    }

    fn write(&mut self, step: u64, what: What) -> Result<()> {
        let wall_time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let event = Event { wall_time, step: i64::try_from(step).unwrap_or(i64::MAX), what: Some(what) };
        self.file.write_all(&record(&event.encode_to_vec())).with_context(|| format!("{}: cannot be written", self.path.display()))?;
        if self.flushed.elapsed() > FLUSH_EVERY { self.flush() } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the record that TensorFlow's own tests call "abc"; the checksum of "123456789" is CRC-32C's published check value.
    #[test]
    fn records_have_masked_checksums() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(masked_crc32c(b"123456789"), 0xe306_9283_u32.rotate_right(15).wrapping_add(0xa282_ead8));
        let bytes = record(b"abc");
        assert_eq!((bytes.len(), &bytes[..8], &bytes[12..15]), (19, &[3, 0, 0, 0, 0, 0, 0, 0][..], &b"abc"[..]));
    }

    /// Reads a file back as a reader does: lengths and checksums right, nothing left over.
    fn events(path: &Path) -> Vec<Event> {
        let bytes = fs::read(path).unwrap();
        let (mut rest, mut events) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(u32::from_le_bytes(rest[8..12].try_into().unwrap()), masked_crc32c(&rest[..8]));
            let content = &rest[12..12 + length];
            assert_eq!(u32::from_le_bytes(rest[12 + length..16 + length].try_into().unwrap()), masked_crc32c(content));
            events.push(Event::decode(content).unwrap());
            rest = &rest[16 + length..];
        }
        events
    }

    #[test]
    fn what_is_written_is_read() {
        let run = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::start(run.path(), 40).unwrap();
        writer.text(40, "recipe", "    a = 1").unwrap();
        writer.scalars(41, [("train/loss", 0.5), ("train/learning_rate", 1e-4)]).unwrap();
        writer.scalars(42, []).unwrap();
        writer.flush().unwrap();
        let found = events(&writer.path);
        assert_eq!(found.len(), 4);
        assert_eq!(found[0].what, Some(What::FileVersion("brain.Event:2".into())));
        assert_eq!((found[1].step, &found[1].what), (40, &Some(What::SessionLog(SessionLog { status: START }))));
        let Some(What::Summary(summary)) = &found[3].what else { panic!("{:?}", found[3]) };
        let values: Vec<_> = summary.value.iter().map(|v| (v.tag.as_str(), v.datum.clone())).collect();
        assert_eq!(values, [("train/loss", Some(Datum::SimpleValue(0.5))), ("train/learning_rate", Some(Datum::SimpleValue(1e-4)))]);
        assert!(found.iter().all(|event| event.wall_time > 1.7e9));
    }
}
