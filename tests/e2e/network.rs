//! A network between processes, whose connections can be broken, and can change a bit of what passes.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

/// Relays of a test's processes.
#[derive(Clone, Default)]
pub(crate) struct Network(Arc<Shared>);

#[derive(Default)]
struct Shared {
    connections: Mutex<Vec<TcpStream>>,
    /// How often every connection was to change a bit, in either direction.
    flips: AtomicUsize,
}

/// A way to a server that may not listen yet.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    server: Arc<OnceLock<SocketAddr>>,
}

impl Relay {
    /// Says where the server is. Who has connected waits for it.
    pub(crate) fn leads_to(&self, server: &str) {
        self.server.set(server.parse().unwrap()).unwrap();
    }
}

impl Network {
    pub(crate) fn relay(&self) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Relay { address: listener.local_addr().unwrap(), server: Arc::default() };
        let (server, shared) = (Arc::clone(&relay.server), Arc::clone(&self.0));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (server, shared) = (Arc::clone(&server), Arc::clone(&shared));
                thread::spawn(move || {
                    if let Ok(server) = TcpStream::connect(server.wait()) {
                        connect(&shared, client, server);
                    }
                });
            }
        });
        relay
    }

    /// Breaks every connection. New ones can be made.
    pub(crate) fn break_connections(&self) {
        for connection in self.0.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Changes a bit of what passes next on every connection, in both directions.
    pub(crate) fn flip_bits(&self) {
        self.0.flips.fetch_add(1, Ordering::Relaxed);
    }
}

fn connect(shared: &Arc<Shared>, client: TcpStream, server: TcpStream) {
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
        shared.connections.lock().unwrap().push(stream.try_clone().unwrap());
    }
    let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
    for (from, to) in [(client, server), back] {
        let shared = Arc::clone(shared);
        thread::spawn(move || pass(&shared, from, to));
    }
}

/// Passes on what comes until either side ends; then both hear it.
fn pass(shared: &Shared, mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    let mut flips = shared.flips.load(Ordering::Relaxed);
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        let due = shared.flips.load(Ordering::Relaxed);
        if std::mem::replace(&mut flips, due) != due {
            buffer[len / 2] ^= 1 << (len % 8);
        }
        if to.write_all(&buffer[..len]).is_err() {
            break;
        }
    }
    let (_, _) = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
