//! HAProxy: one thread, a client's certificate required, upstream connections shared and kept, nothing logged.

use std::net::SocketAddr;

use tokio::process::Command;

use super::{Site, System, pinned};

pub(super) fn command(site: &Site, address: SocketAddr) -> anyhow::Result<Command> {
    let path = site.write("haproxy.cfg", &config(site, address))?;
    let mut command = pinned(site.proxy_core, &System::Haproxy.program(site)?);
    command.arg("-db").arg("-f").arg(path);
    Ok(command)
}

fn config(site: &Site, address: SocketAddr) -> String {
    let Site { certs, upstream, .. } = site;
    let (roots, both) = (certs.roots(), certs.path("server", "both"));
    let (roots, both) = (roots.display(), both.display());
    format!(
        "global
  nbthread 1
  maxconn 8192
  ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
  mode http
  option http-keep-alive
  http-reuse always
  timeout connect 10s
  timeout client 3600s
  timeout server 3600s
  timeout http-keep-alive 3600s
frontend door
  bind {address} ssl crt {both} ca-file {roots} verify required alpn http/1.1 backlog 4096
  default_backend behind
backend behind
  server one {upstream} pool-max-conn -1 pool-purge-delay 3600s
"
    )
}
