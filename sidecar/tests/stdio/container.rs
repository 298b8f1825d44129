//! The sidecar in the place of a container's own command: as the first process, with the command below it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio as Stream};

use super::*;

const FILE: &str = "
node: { id: t/first, servers: [t/files], commands: { t/files: { command: python3, args: [SCRIPT, modern], env: { TOLD: by-file } } } }
source: { file: { resources: FOLDER } }
listen: { inbound: '127.0.0.1:0', outbound: null, health: null, admin: null }
";
const SERVER: &str = "
apiVersion: weft.dev/v1alpha1
kind: McpServer
metadata: { namespace: t, name: files }
spec: { serviceAccount: files, workload: { labels: { app: files } } }
";

/// A sidecar in a namespace of processes, where it is the first.
struct Container {
    /// The program that made the namespace, and ends as the first process in it does.
    outside: Child,
    first: u32,
    inbound: String,
}

impl Container {
    fn start(folder: &Path) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stdio/server.py");
        let mesh = folder.join("mesh");
        std::fs::create_dir(&mesh).unwrap();
        std::fs::write(mesh.join("server.yaml"), SERVER).unwrap();
        let file = FILE.replace("SCRIPT", script.to_str().unwrap());
        let mut outside = Command::new("unshare")
            .args(["--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args([env!("CARGO_BIN_EXE_weft-sidecar"), "run", "--access-log", "off"])
            .env("WEFT_SIDECAR_YAML", file.replace("FOLDER", mesh.to_str().unwrap()))
            .env("MEANT_FOR_THE_COMMAND", "yes")
            .current_dir(folder)
            .stdout(Stream::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(outside.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told: Value = serde_json::from_str(&line).unwrap();
        let first = children(outside.id())[0];
        Self { outside, first, inbound: told["inbound"].as_str().unwrap().to_owned() }
    }

    fn call(&self, tool: &str) -> Value {
        let mut body = enveloped(calling(1, tool, json!({})));
        body["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
        let body = body.to_string();
        let head = format!(
            "POST /mcp HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
             accept: application/json, text/event-stream\r\nmcp-protocol-version: 2026-07-28\r\n\
             mcp-method: tools/call\r\nmcp-name: {tool}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let mut stream = TcpStream::connect(&self.inbound).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all((head + &body).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let begin = answer.find("{\"jsonrpc\"").unwrap_or_else(|| panic!("{answer}"));
        let message = serde_json::Deserializer::from_str(&answer[begin..]).into_iter::<Value>().next();
        let message = message.unwrap().unwrap();
        let text = message["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{message}"));
        serde_json::from_str(text).unwrap()
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let first = rustix::process::Pid::from_raw(self.first.try_into().unwrap()).unwrap();
        rustix::process::kill_process(first, signal).unwrap();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.outside.kill();
        let _ = self.outside.wait();
    }
}

fn children(pid: u32) -> Vec<u32> {
    let told = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    told.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

#[tokio::test]
async fn a_command_of_the_file_is_a_server_and_finds_what_its_container_would_have_given_it() {
    let folder = tempfile::tempdir().unwrap();
    let container = Container::start(folder.path());
    let env = container.call("env");
    assert_eq!((&env["MEANT_FOR_THE_COMMAND"], &env["TOLD"]), (&json!("yes"), &json!("by-file")));
    assert!(env.get("WEFT_SIDECAR_YAML").is_none(), "{env}");
    let here = folder.path().canonicalize().unwrap();
    assert_eq!(container.call("bounds")[2], here.to_str().unwrap());
}

#[tokio::test]
async fn the_first_process_takes_over_from_orphans_and_ends_as_the_sidecar_does() {
    let folder = tempfile::tempdir().unwrap();
    let mut container = Container::start(folder.path());
    let command = pids(&container.call("pid"));
    assert_ne!(command, [1]);
    // What is run in a container from outside leaves its orphans to the first process.
    let namespaces = ["--user", "--pid", "--mount", "--preserve-credentials"];
    let orphan = Command::new("nsenter")
        .arg(format!("--target={}", container.first))
        .args(namespaces)
        .args(["sh", "-c", "sleep 0.05 & echo left"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(orphan.stdout).unwrap(), "left\n");
    until("the sidecar is the only child", || children(container.first).len() == 1).await;
    container.signal(rustix::process::Signal::TERM);
    until("the container has ended", || container.outside.try_wait().unwrap().is_some()).await;
    assert_eq!(container.outside.wait().unwrap().code(), Some(0));
}
