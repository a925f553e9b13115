//! Kinds of files that stand where a file of images should be, told by how they begin.

/// How a gzip file begins.
pub(crate) const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The mark at the beginning of some texts.
const UTF8_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];
/// The place of a tar archive's signature, and the signature.
const TAR: (usize, &[u8]) = (257, b"ustar");

/// Signatures, each with what a file that begins with it is, and what to do.
const SIGNATURES: [(&[u8], &str); 15] = [
    (&[0, 0, 8, 1], "labels: give the file of images"),
    (&GZIP, "a file that is packed with gzip more than twice: unpack it"),
    (b"PK\x03\x04", "a zip archive: unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it"),
    (b"Rar!", "a RAR archive: unpack it"),
    (b"\xfd7zXZ\0", "a file that is packed with xz: unpack it"),
    (b"BZh", "a file that is packed with bzip2: unpack it"),
    (b"\x28\xb5\x2f\xfd", "a file that is packed with zstd: unpack it"),
    (b"version https://git-lfs", "a git-lfs pointer: fetch the file with git lfs pull"),
    (b"\x93NUMPY", "a NumPy array: convert it to IDX"),
    (b"\x89HDF", "an HDF5 file: convert it to IDX"),
    (b"MATLAB", "a MATLAB file: convert it to IDX"),
    (b"PAR1", "a Parquet file: convert it to IDX"),
    (b"\x89PNG", "a single picture: give the folder of all pictures"),
    (b"\xff\xd8\xff", "a single picture: give the folder of all pictures"),
];

/// Says what a file holds that begins like this, and what to do.
pub(crate) fn describe(head: &[u8]) -> String {
    if head.is_empty() {
        return "an empty file: download it again".to_owned();
    }
    if let Some((_, what)) = SIGNATURES.iter().find(|(signature, _)| head.starts_with(signature)) {
        return (*what).to_owned();
    }
    if let [0, 0, kind, dimensions, ..] = *head {
        return format!(
            "IDX data of kind {kind:#04x} in {dimensions} dimensions: convert it to unsigned bytes \
             (0x08) in 3 dimensions"
        );
    }
    if head.get(TAR.0..).is_some_and(|rest| rest.starts_with(TAR.1)) {
        return "a tar archive: unpack it".to_owned();
    }
    let begins_with = head.strip_prefix(&UTF8_MARK).unwrap_or(head).trim_ascii_start();
    if begins_with.starts_with(b"<") {
        return "an HTML page: download the file again".to_owned();
    }
    if head.iter().all(|&byte| byte >= b' ' || byte.is_ascii_whitespace()) {
        return "text: download the file again, or convert it to IDX".to_owned();
    }
    let first: String = head.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("something unknown, which begins with 0x{first}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_the_place_of_images_is_named() {
        let mut tar = vec![b'x'; 512];
        tar[TAR.0..][..5].copy_from_slice(TAR.1);
        for (head, expected) in [
            (&b""[..], "an empty file: download it again"),
            (b"\0\0\x08\x01\0\0\0\x05", "labels: give the file of images"),
            (
                b"\0\0\x0c\x02",
                "IDX data of kind 0x0c in 2 dimensions: convert it to unsigned bytes",
            ),
            (b"<!DOCTYPE html>", "an HTML page: download the file again"),
            (b"\xef\xbb\xbf\r\n <html>caf\xe9", "an HTML page: download the file again"),
            (b"version https://git-lfs.github.com/spec/v1\noid", "a git-lfs pointer: fetch"),
            (b"PK\x03\x04\x14", "a zip archive: unpack it"),
            (&tar, "a tar archive: unpack it"),
            (b"label,pixel0\n7,0", "text: download the file again, or convert it to IDX"),
            (b"\x80\x04\x95\x01\x02", "something unknown, which begins with 0x80049501"),
            (b"\0", "something unknown, which begins with 0x00"),
        ] {
            let found = describe(head);
            assert!(found.starts_with(expected), "{expected}: {found}");
        }
    }
}
