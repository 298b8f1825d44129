//! nginx: one worker, a client's certificate required, upstream connections kept, nothing logged.

use std::net::SocketAddr;

use tokio::process::Command;

use super::{Site, System, pinned};

pub(super) fn command(site: &Site, address: SocketAddr) -> anyhow::Result<Command> {
    let path = site.write("nginx.conf", &config(site, address))?;
    let mut command = pinned(site.proxy_core, &System::Nginx.program(site)?);
    command.arg("-p").arg(&site.folder).arg("-c").arg(path);
    Ok(command)
}

fn config(site: &Site, address: SocketAddr) -> String {
    let Site { folder, certs, upstream, .. } = site;
    let folder = folder.display();
    let (roots, chain, key) = (certs.roots(), certs.path("server", "crt"), certs.path("server", "key"));
    let (roots, chain, key) = (roots.display(), chain.display(), key.display());
    // Without a master, nothing is left over however the run ends. Bodies stay in memory; event streams are passed on at once because the server asks for it.
    format!(
        r#"user root;
worker_processes 1;
master_process off;
daemon off;
pid {folder}/nginx.pid;
error_log stderr warn;
worker_rlimit_nofile 65536;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  client_body_temp_path {folder}/nginx-body;
  proxy_temp_path {folder}/nginx-proxy;
  fastcgi_temp_path {folder}/nginx-fastcgi;
  uwsgi_temp_path {folder}/nginx-uwsgi;
  scgi_temp_path {folder}/nginx-scgi;
  client_max_body_size 8m;
  client_body_buffer_size 512k;
  proxy_buffers 64 8k;
  keepalive_requests 1000000000;
  keepalive_timeout 3600s;
  upstream behind {{
    server {upstream};
    keepalive 512;
    keepalive_requests 1000000000;
    keepalive_timeout 3600s;
  }}
  server {{
    listen {address} ssl backlog=4096;
    ssl_protocols TLSv1.3;
    ssl_certificate {chain};
    ssl_certificate_key {key};
    ssl_client_certificate {roots};
    ssl_verify_client on;
    ssl_verify_depth 3;
    location / {{
      proxy_pass http://behind;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_read_timeout 3600s;
    }}
  }}
}}
"#
    )
}
