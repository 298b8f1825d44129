//! Many clients that listen for changes at one sidecar, which is a process of its own: what that takes of memory, and how soon
//! all of them hear that something changed.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use weft_control_plane::app as plane;

use crate::catalogue::{PATIENCE, connect, joining, listen, millis, name, offer, page, plane, until_changed};
use crate::table::Table;

/// Servers whose tools are shown: a first page is full.
const SERVERS: usize = 50;
/// How many clients open their streams at once.
const AT_ONCE: usize = 50;

pub(crate) async fn run(streams: usize, table: &mut Table) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let plane = plane(&folder.path().join("plane"), SERVERS).await?;
    let (mut sidecar, address) = start(&plane, folder.path()).await?;
    let pid = sidecar.id().context("the sidecar runs")?;
    let mut client = connect(address).await?;
    let all = async {
        while page(&mut client).await? < 20 * SERVERS {
            tokio::task::yield_now().await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, all).await.context("all tools are shown")??;
    // Each connection that the sidecar may have is for a stream.
    drop(client);
    let before = resident(pid)?;
    let began = Instant::now();
    let mut open = Vec::with_capacity(streams);
    while open.len() < streams {
        let next = (0..AT_ONCE.min(streams - open.len())).map(|_| listen(address));
        open.extend(futures_util::future::try_join_all(next).await?);
    }
    let opened = began.elapsed();
    let after = resident(pid)?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let each = after.saturating_sub(before) as f64 / 1024.0 / streams as f64;
    let figure = format!("{:.0} MiB ({:.0} before; {each:.1} KiB each)", mib(after), mib(before));
    table.row(format!("a sidecar with {streams} streams that listen at `/mcp`: memory"), figure, "≤ 400 MiB");
    table.row("… until all were open", format!("{:.1} s", opened.as_secs_f64()), "");

    let began = Instant::now();
    plane.hub.offered(name(0)?, Some(Arc::new(offer(0, " now")?))).await;
    let mut told = JoinSet::new();
    for mut stream in open {
        told.spawn(async move { until_changed(&mut stream).await.map(|()| stream) });
    }
    // Whoever was told stays, so that none is told sooner for it.
    let mut heard = Vec::with_capacity(streams);
    while let Some(stream) = told.join_next().await {
        heard.push(stream??);
    }
    table.row("… a changed tool: until all were told", millis(began.elapsed()), "");
    drop(heard);
    sidecar.kill().await?;
    plane.stop().await;
    Ok(())
}

/// The sidecar beside this program, and where agents reach it.
async fn start(plane: &plane::Running, folder: &std::path::Path) -> anyhow::Result<(Child, SocketAddr)> {
    let program = std::env::current_exe()?.with_file_name("weft-sidecar");
    ensure!(program.is_file(), "there is no weft-sidecar beside weft-bench");
    let file = folder.join("sidecar.yaml");
    std::fs::write(&file, joining(plane).await?.to_string())?;
    let mut command = Command::new(program);
    command.args(["run", "--access-log", "off", "--config"]).arg(file).kill_on_drop(true);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("it has an output")?).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await??.context("it does not start")?;
    let told: Value = serde_json::from_str(&line)?;
    Ok((child, told["outbound"].as_str().context("it says where it listens")?.parse()?))
}

fn resident(pid: u32) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).context("its memory is told")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}
