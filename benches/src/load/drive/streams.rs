//! Idle streams: subscriptions that are opened and held, to see what holding them costs in memory.

use anyhow::{Context as _, ensure};
use bytes::Buf as _;

use super::{Args, Caller, Dialer, Outcome, PATIENCE};
use crate::{http1, process};

/// The outcome's `resident` is what the proxy's memory grew by for each stream, and its `peak` the memory with all of
/// them open.
pub(super) async fn run(args: &Args) -> anyhow::Result<Outcome> {
    let dialer = Dialer::new(args)?;
    let before = process::memory(&args.watched())?.resident;
    let mut open = Vec::with_capacity(args.connections);
    for at in 0..args.connections {
        let request = dialer.request(args, at);
        let mut caller = dialer.connect().await?;
        tokio::time::timeout(PATIENCE, listen(&mut caller, &request)).await.context("no stream")??;
        open.push(caller);
    }
    tokio::time::sleep(args.span()).await;
    let after = process::memory(&args.watched())?.resident;
    let each = after.saturating_sub(before) / args.connections.max(1) as u64;
    Ok(Outcome {
        requests: open.len() as u64,
        seconds: args.seconds,
        resident: each,
        peak: after,
        ..Outcome::default()
    })
}

/// Sends a subscription and reads up to its first event.
async fn listen(caller: &mut Caller, request: &[u8]) -> anyhow::Result<()> {
    caller.write(request).await?;
    let head = caller.head(http1::response).await?.context("the connection ended")?;
    ensure!(head.status == 200, "a subscription was answered with status {}", head.status);
    caller.read.advance(head.len);
    while caller.read.is_empty() {
        caller.more().await?;
    }
    // Nothing of the generator's is to grow with what it holds.
    caller.read = bytes::BytesMut::new();
    Ok(())
}
