//! A way to the control plane that is cut, slow, or full of nonsense, as a story says.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::interval;

/// How a way treats the connections on it, and what happens to new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Open,
    /// Every connection is cut, new ones at once.
    Cut,
    /// So many bytes each hundredth of a second towards the sidecar.
    Slow(usize),
    /// What comes from the control plane arrives with bytes exchanged.
    Garbage,
    /// Connections are cut after so many bytes towards the sidecar, in the middle of whatever it is.
    Short(usize),
}

/// A way to the control plane that a story makes worse and better.
pub(crate) struct Way {
    pub(crate) address: SocketAddr,
    manner: watch::Sender<Manner>,
}

impl Way {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), target).await
    }

    /// The same, from an address.
    pub(crate) async fn at(address: SocketAddr, target: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (manner, changes) = watch::channel(Manner::Open);
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                tokio::spawn(carry(from, target, changes.clone()));
            }
        });
        Self { address, manner }
    }

    /// Connections that are open are cut with each change, so that each manner is met by whole conversations.
    pub(crate) fn becomes(&self, manner: Manner) {
        self.manner.send_replace(manner);
    }
}

async fn carry(mut from: TcpStream, target: SocketAddr, mut changes: watch::Receiver<Manner>) {
    let manner = *changes.borrow_and_update();
    if manner == Manner::Cut {
        return;
    }
    let Ok(mut to) = TcpStream::connect(target).await else { return };
    let ((mut asking, mut answered), (mut answers, mut asked)) = (from.split(), to.split());
    let there = tokio::io::copy(&mut asking, &mut asked);
    let back = async {
        let mut buffer = [0; 16 << 10];
        let (mut ticks, mut carried) = (interval(Duration::from_millis(10)), 0);
        loop {
            let most = if let Manner::Slow(bytes) = manner { bytes } else { buffer.len() };
            let Ok(read @ 1..) = answers.read(&mut buffer[..most]).await else { return };
            carried += read;
            match manner {
                Manner::Slow(_) => _ = ticks.tick().await,
                // The first bytes are the handshake; without them, nothing behind it would be met.
                Manner::Garbage if carried > 4096 => buffer[read / 2] ^= 0x5a,
                Manner::Short(max) if carried > max => {
                    let _ = answered.write_all(&buffer[..read / 2]).await;
                    return;
                }
                _ => {}
            }
            if answered.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = there => {}
        () = back => {}
        _ = changes.changed() => {}
    }
}
