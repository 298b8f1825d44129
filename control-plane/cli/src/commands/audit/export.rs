//! `weft audit export`: records for programs that keep them elsewhere.

use std::io::Write as _;
use std::net::{TcpStream, ToSocketAddrs as _, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::query::{Record, Wanted};
use super::syslog;
use crate::app::Context;
use crate::client;
use crate::failure::{ExitCode, Failure};

const EXAMPLES: &str = "\
Examples:
  weft audit export --since 24h > records.jsonl             a record per line
  weft audit export --to tcp://logs.example:601             RFC 5424 messages, as rsyslog takes them
  weft audit export --to unix:/dev/log --outcome refused
  weft audit export --format syslog --to records.log        the same messages in a file";

/// Longest wait for a connection, and for a message to be taken.
const PATIENCE: Duration = Duration::from_secs(10);

/// Writes records of the audit trails, the oldest first, for other programs
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    wanted: Wanted,
    /// Most records to write; the newest, if there are more
    #[arg(long, value_name = "COUNT", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
    /// How they are written; as RFC 5424 messages where they go to a socket
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Where they go: a file, tcp://host:port, udp://host:port or unix:/path; stdout if not given
    #[arg(long, value_name = "WHERE")]
    to: Option<To>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A record in JSON per line
    Jsonl,
    /// RFC 5424
    Syslog,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum To {
    File(PathBuf),
    Tcp(String),
    Udp(String),
    Unix(PathBuf),
}

impl FromStr for To {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let after = |scheme| text.strip_prefix(scheme);
        Ok(match (after("tcp://"), after("udp://"), after("unix:")) {
            (Some(address), ..) => Self::Tcp(address.to_owned()),
            (_, Some(address), _) => Self::Udp(address.to_owned()),
            (.., Some(path)) => Self::Unix(path.into()),
            _ => Self::File(text.into()),
        })
    }
}

pub(super) async fn run(args: ExportArgs, context: &Context) -> Result<ExitCode, Failure> {
    let format = match (args.format, &args.to) {
        (Some(Format::Jsonl), Some(To::Tcp(_) | To::Udp(_) | To::Unix(_))) => {
            return Err(Failure::usage("a socket takes RFC 5424 messages only"));
        }
        (None, Some(To::Tcp(_) | To::Udp(_) | To::Unix(_))) => Format::Syslog,
        (format, _) => format.unwrap_or(Format::Jsonl),
    };
    let mut found = args.wanted.fetch(&context.client()?, args.limit as usize, context.now()).await?;
    found.reverse();
    let records = found.len();
    let texts: Vec<String> = match format {
        Format::Jsonl => found.iter().map(Value::to_string).collect(),
        Format::Syslog => {
            let records: Vec<Record> = client::read(Value::Array(found))?;
            records.iter().map(syslog::message).collect()
        }
    };
    let Some(to) = args.to else {
        context.terminal.print(&lines(&texts))?;
        return Ok(ExitCode::Done);
    };
    let shown = format!("{to:?}");
    let sent = tokio::task::spawn_blocking(move || send(&to, &texts)).await;
    sent.map_err(|error| Failure::failed("the export ended early").because(error))?
        .map_err(|error| Failure::failed(format!("records could not be sent to {shown}")).because(error))?;
    context.terminal.say(&format!("{records} records were written"));
    Ok(ExitCode::Done)
}

fn lines(texts: &[String]) -> String {
    texts.iter().flat_map(|text| [text.as_str(), "\n"]).collect()
}

fn send(to: &To, texts: &[String]) -> std::io::Result<()> {
    match to {
        To::File(path) => std::fs::write(path, lines(texts)),
        To::Tcp(address) => {
            let address = address.to_socket_addrs()?.next();
            let address = address.ok_or_else(|| std::io::Error::other("it has no address"))?;
            let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_write_timeout(Some(PATIENCE))?;
            texts.iter().try_for_each(|text| stream.write_all(syslog::counted(text).as_bytes()))?;
            stream.flush()
        }
        To::Udp(address) => {
            let local = if address.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
            let socket = UdpSocket::bind(local)?;
            socket.connect(address)?;
            texts.iter().try_for_each(|text| socket.send(text.as_bytes()).map(|_| ()))
        }
        To::Unix(path) => {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path)?;
            socket.set_write_timeout(Some(PATIENCE))?;
            texts.iter().try_for_each(|text| socket.send(text.as_bytes()).map(|_| ()))
        }
    }
}
