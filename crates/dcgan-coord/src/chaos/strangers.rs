//! Strangers of a chaos run: workers that nobody reaches, and clients that send nonsense.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Connections that a hostile client holds at a time.
const CONNECTIONS: usize = 200;
/// The most bytes that it sends on one.
const BYTES_MAX: usize = 64 * 1024;
/// The pause before it replaces a connection that the server has closed.
const PAUSE: Duration = Duration::from_millis(50);

/// Attacks a server for a time: connections that ask for nothing, connections that send nonsense,
/// and new ones for those that the server closes.
pub(super) async fn attack(server: SocketAddr, time: Duration) {
    let mut clients = JoinSet::new();
    for number in 0..CONNECTIONS {
        clients.spawn(timeout(time, async move {
            loop {
                let _ = misuse(server, number).await;
                sleep(PAUSE).await;
            }
        }));
    }
    while clients.join_next().await.is_some() {}
}

/// Opens a connection, sends what its number says, and waits until the server closes it.
async fn misuse(server: SocketAddr, number: usize) -> std::io::Result<()> {
    /// The beginning of a connection of HTTP/2.
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    /// A frame of settings without a setting.
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    let nonsense: Vec<u8> = (0..BYTES_MAX).map(|place| (place * place * number) as u8).collect();
    let mut stream = TcpStream::connect(server).await?;
    match number % 4 {
        0 => {}
        1 => stream.write_all(&nonsense).await?,
        2 => stream.write_all(&[PREFACE, &nonsense].concat()).await?,
        _ => stream.write_all(&[PREFACE, &SETTINGS.repeat(BYTES_MAX / 9)].concat()).await?,
    }
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    Ok(())
}
