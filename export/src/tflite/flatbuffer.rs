//! A bounds-checked reader of the FlatBuffers wire format: the part that `.tflite` files use.
//!
//! A table starts with an i32 that, subtracted from the table's position, gives its vtable: u16 size of the vtable, u16
//! size of the table, then one u16 for each field: its offset in the table, or 0 where it has its default. Strings,
//! vectors and tables are reached through a u32 that counts from its own position. All integers are little-endian.
//! Nothing is copied, and no length is believed before it is compared with the file's.

use super::Error;

/// A table of the file. Fields are named by their slot: their place in the schema, from 0.
#[derive(Clone, Copy)]
pub struct Table<'a> {
    file: &'a [u8],
    position: usize,
    /// The vtable without its two sizes: one u16 for each field.
    field_offsets: &'a [u8],
}

impl<'a> Table<'a> {
    /// The root table of `file`.
    pub fn root(file: &'a [u8]) -> Result<Self, Error> {
        Self::at(file, follow(file, 0)?)
    }

    fn at(file: &'a [u8], position: usize) -> Result<Self, Error> {
        let back = i64::from(i32::from_le_bytes(array(file, position, "a table")?));
        let vtable = usize::try_from(position as i64 - back).map_err(|_| out_of_bounds(file, position, "a vtable"))?;
        let vtable_len = usize::from(u16::from_le_bytes(array(file, vtable, "a vtable")?));
        let field_offsets = vtable_len
            .checked_sub(4)
            .and_then(|fields_len| slice(file, vtable + 4, fields_len, "a vtable").ok())
            .ok_or_else(|| out_of_bounds(file, vtable, "a vtable"))?;
        Ok(Self { file, position, field_offsets })
    }

    /// Where a field is stored; `None` when it has its default.
    fn field(&self, slot: usize) -> Option<usize> {
        let bytes = self.field_offsets.get(2 * slot..2 * slot + 2)?;
        let offset = usize::from(u16::from_le_bytes([bytes[0], bytes[1]]));
        (offset != 0).then_some(self.position + offset)
    }

    fn scalar<const N: usize>(&self, slot: usize) -> Result<Option<[u8; N]>, Error> {
        self.field(slot).map(|position| array(self.file, position, "a number")).transpose()
    }

    pub fn u8(&self, slot: usize, default: u8) -> Result<u8, Error> {
        Ok(self.scalar(slot)?.map_or(default, u8::from_le_bytes))
    }

    pub fn bool(&self, slot: usize) -> Result<bool, Error> {
        Ok(self.u8(slot, 0)? != 0)
    }

    pub fn i32(&self, slot: usize, default: i32) -> Result<i32, Error> {
        Ok(self.scalar(slot)?.map_or(default, i32::from_le_bytes))
    }

    pub fn u32(&self, slot: usize, default: u32) -> Result<u32, Error> {
        Ok(self.scalar(slot)?.map_or(default, u32::from_le_bytes))
    }

    pub fn table(&self, slot: usize) -> Result<Option<Table<'a>>, Error> {
        self.field(slot).map(|position| Self::at(self.file, follow(self.file, position)?)).transpose()
    }

    /// The raw little-endian bytes of a vector of elements of `element_len` bytes; `None` when the field is absent.
    pub fn vector(&self, slot: usize, element_len: usize) -> Result<Option<&'a [u8]>, Error> {
        let Some(position) = self.field(slot) else { return Ok(None) };
        self.vector_at(follow(self.file, position)?, element_len).map(Some)
    }

    fn vector_at(&self, position: usize, element_len: usize) -> Result<&'a [u8], Error> {
        let count = u32::from_le_bytes(array(self.file, position, "a vector")?) as usize;
        let len = count.checked_mul(element_len).ok_or_else(|| out_of_bounds(self.file, position, "a vector"))?;
        slice(self.file, position + 4, len, "a vector")
    }

    /// A vector of i32; empty when the field is absent.
    pub fn i32s(&self, slot: usize) -> Result<impl ExactSizeIterator<Item = i32> + use<'a>, Error> {
        let (chunks, _) = self.vector(slot, 4)?.unwrap_or_default().as_chunks::<4>();
        Ok(chunks.iter().map(|bytes| i32::from_le_bytes(*bytes)))
    }

    /// A vector of tables; empty when the field is absent.
    pub fn tables(&self, slot: usize) -> Result<Vec<Table<'a>>, Error> {
        let Some(position) = self.field(slot) else { return Ok(Vec::new()) };
        let vector = follow(self.file, position)?;
        let count = self.vector_at(vector, 4)?.len() / 4;
        (0..count).map(|i| Self::at(self.file, follow(self.file, vector + 4 + 4 * i)?)).collect()
    }

    /// A string; empty when the field is absent or not UTF-8 (names are only labels).
    pub fn string(&self, slot: usize) -> Result<&'a str, Error> {
        Ok(std::str::from_utf8(self.vector(slot, 1)?.unwrap_or_default()).unwrap_or_default())
    }
}

/// Where the u32 offset at `position` points.
fn follow(file: &[u8], position: usize) -> Result<usize, Error> {
    // u32 + usize cannot overflow on the 64-bit targets that ONNX Runtime has.
    Ok(position + u32::from_le_bytes(array(file, position, "an offset")?) as usize)
}

fn slice<'a>(file: &'a [u8], position: usize, len: usize, what: &'static str) -> Result<&'a [u8], Error> {
    position.checked_add(len).and_then(|end| file.get(position..end)).ok_or_else(|| out_of_bounds(file, position, what))
}

fn array<const N: usize>(file: &[u8], position: usize, what: &'static str) -> Result<[u8; N], Error> {
    file.get(position..).and_then(|rest| rest.first_chunk::<N>()).copied().ok_or_else(|| out_of_bounds(file, position, what))
}

fn out_of_bounds(file: &[u8], position: usize, what: &'static str) -> Error {
    Error::OutOfBounds { what, position, file_len: file.len() }
}
