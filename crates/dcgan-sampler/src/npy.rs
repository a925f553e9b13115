//! NumPy's file format, version 1.0: arrays of float32, which Python reads with `numpy.load`.

use std::io::{self, Write};

use dcgan_core::state::values::little_endian;

/// The values are aligned to so many bytes, as the format asks.
const ALIGNMENT: usize = 64;
/// The bytes before the text of the header: the magic string, the version and the text's length.
const PREFIX_BYTES: usize = 10;

/// Writes an array of this shape, whose values come in pieces.
///
/// # Errors
/// If the sink fails.
pub(crate) fn write(
    shape: &[usize],
    pieces: impl Iterator<Item = Vec<f32>>,
    sink: &mut impl Write,
) -> io::Result<()> {
    sink.write_all(&header(shape))?;
    for values in pieces {
        sink.write_all(&little_endian(&values))?;
    }
    Ok(())
}

/// The header of an array of two or more dimensions: a Python literal, padded with spaces.
fn header(shape: &[usize]) -> Vec<u8> {
    let shape = shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    let mut text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}");
    // The text ends with a line end.
    let bytes = (PREFIX_BYTES + text.len() + 1).next_multiple_of(ALIGNMENT);
    text += &" ".repeat(bytes - PREFIX_BYTES - text.len() - 1);
    text.push('\n');
    let length = (text.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\x00", &length[..], text.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_what_numpy_writes() {
        let mut file = Vec::new();
        write(&[2, 1], [vec![1.0], vec![-2.0]].into_iter(), &mut file).unwrap();
        assert_eq!(&file[..10], b"\x93NUMPY\x01\x00\x76\x00");
        let text = std::str::from_utf8(&file[10..128]).unwrap();
        let literal = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1), }";
        assert_eq!(text, format!("{literal:117}\n"));
        assert_eq!(file[128..], [0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]);
        // A header of any length is aligned.
        for shape in [vec![1_000_000; 4], vec![7; 20]] {
            assert!(header(&shape).len().is_multiple_of(ALIGNMENT), "{shape:?}");
        }
    }
}
