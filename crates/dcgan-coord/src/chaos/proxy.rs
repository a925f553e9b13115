//! A TCP proxy in front of a process, whose connections can be cut.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Forwards connections to a server of this machine.
pub(super) struct Proxy {
    /// The address that the proxy listens on.
    pub(super) address: SocketAddr,
    cut: watch::Sender<bool>,
}

impl Proxy {
    /// Starts a proxy on a free port. It runs until the runtime ends.
    ///
    /// # Errors
    /// If no port is free.
    pub(super) fn start(runtime: &Handle, server: SocketAddr) -> io::Result<Self> {
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener.local_addr()?;
        let (cut, is_cut) = watch::channel(false);
        runtime.spawn(accept(listener, server, is_cut));
        Ok(Self { address, cut })
    }

    /// Breaks all connections and refuses new ones if `cut`, or else allows them again.
    pub(super) fn cut(&self, cut: bool) {
        self.cut.send_replace(cut);
    }
}

/// Accepts connections, and forwards each in a task of its own.
async fn accept(listener: TcpListener, server: SocketAddr, is_cut: watch::Receiver<bool>) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        // While the proxy is cut, a new connection is dropped at once.
        if !*is_cut.borrow() {
            tokio::spawn(forward(client, server, is_cut.clone()));
        }
    }
}

/// Forwards one connection until an end closes it or the proxy is cut.
async fn forward(mut client: TcpStream, server: SocketAddr, mut is_cut: watch::Receiver<bool>) {
    let Ok(mut server) = TcpStream::connect(server).await else {
        return;
    };
    // Without this option the proxy would delay small messages; a connection works without it.
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
        _ = is_cut.wait_for(|cut| *cut) => {}
    }
}
