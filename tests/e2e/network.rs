//! A network between processes: relays whose connections a test can break, and that can flip a bit
//! of what passes.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

/// The relays of a test.
#[derive(Clone, Default)]
pub(crate) struct Network(Arc<Shared>);

#[derive(Default)]
struct Shared {
    connections: Mutex<Vec<TcpStream>>,
    /// How many times every connection was to flip a bit in each direction.
    flips: AtomicUsize,
    /// A change that waits for the bytes that it is for.
    change: Mutex<Option<Change>>,
}

/// Changes bytes that pass. Returns whether they were those that it is for.
type Change = Box<dyn Fn(&mut [u8]) -> bool + Send>;

/// An address that passes everything on to a server. The server may start later than the relay.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    server: Arc<OnceLock<SocketAddr>>,
}

impl Relay {
    /// Sets the server's address. Clients that have connected already wait for it.
    pub(crate) fn leads_to(&self, server: &str) {
        self.server.set(server.parse().unwrap()).unwrap();
    }
}

impl Network {
    /// Opens a relay.
    pub(crate) fn relay(&self) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Relay { address: listener.local_addr().unwrap(), server: Arc::default() };
        let (server, shared) = (Arc::clone(&relay.server), Arc::clone(&self.0));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (server, shared) = (Arc::clone(&server), Arc::clone(&shared));
                // A thread of its own, because the server's address may be missing for a while.
                thread::spawn(move || {
                    if let Ok(server) = TcpStream::connect(server.wait()) {
                        join(&shared, client, server);
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

    /// Flips a bit in what passes next on every connection, in both directions.
    pub(crate) fn flip_bits(&self) {
        self.0.flips.fetch_add(1, Ordering::Relaxed);
    }

    /// Changes, once, the first bytes for which the change returns true.
    pub(crate) fn change_once(&self, change: impl Fn(&mut [u8]) -> bool + Send + 'static) {
        *self.0.change.lock().unwrap() = Some(Box::new(change));
    }
}

/// Joins a client and a server by two threads, one for each direction.
fn join(shared: &Arc<Shared>, client: TcpStream, server: TcpStream) {
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
        shared.connections.lock().unwrap().push(stream.try_clone().unwrap());
    }
    let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
    for (from, to) in [(client, server), back] {
        let shared = Arc::clone(shared);
        thread::spawn(move || pass_on(&shared, from, to));
    }
}

/// Passes bytes on in one direction until either side ends. Then it closes both.
fn pass_on(shared: &Shared, mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    let mut flips_done = shared.flips.load(Ordering::Relaxed);
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        let flips_due = shared.flips.load(Ordering::Relaxed);
        if flips_done != flips_due {
            flips_done = flips_due;
            buffer[len / 2] ^= 1 << (len % 8);
        }
        shared.change.lock().unwrap().take_if(|change| change(&mut buffer[..len]));
        if to.write_all(&buffer[..len]).is_err() {
            break;
        }
    }
    // The other side may be gone already.
    let (_, _) = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
