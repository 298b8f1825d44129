//! `weft audit export`: records for programs that keep them elsewhere.

use std::io::Write as _;
use std::net::{TcpStream, ToSocketAddrs as _, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::value::RawValue;
use weft_proto::name::CollectorUrl;
use weft_proto::resource::kinds::OtlpProtocol;

use super::query::{Record, Wanted, place};
use super::{otlp, syslog};
use crate::app::Context;
use crate::failure::{ExitCode, Failure};

const EXAMPLES: &str = "\
Examples:
  weft audit export --since 24h > records.jsonl             a record per line
  weft audit export --to tcp://logs.example:601             RFC 5424 messages, as rsyslog takes them
  weft audit export --to unix:/dev/log --outcome refused
  weft audit export --format syslog --to records.log        the same messages in a file
  weft audit export --format otlp --to http://otel.example:4317 --after 1200
                                                            records of a log over OTLP, from where another export ended";

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
    /// Only records after the one with this place, which is where an earlier export ended
    #[arg(long, value_name = "PLACE")]
    after: Option<u64>,
    /// How they are written; as RFC 5424 messages where they go to a socket, over OTLP where they go to http or https
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// How OTLP is spoken: grpc (port 4317 if none is given) or http (port 4318)
    #[arg(long, value_name = "PROTOCOL", default_value = "grpc")]
    protocol: Protocol,
    /// Where they go: a file, tcp://host:port, udp://host:port, unix:/path, http://host:port or https://host:port; stdout if not given
    #[arg(long, value_name = "WHERE")]
    to: Option<To>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A record in JSON per line
    Jsonl,
    /// RFC 5424
    Syslog,
    /// Records of a log in OTLP
    Otlp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Protocol {
    Grpc,
    Http,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum To {
    File(PathBuf),
    Tcp(String),
    Udp(String),
    Unix(PathBuf),
    Collector(CollectorUrl),
}

impl FromStr for To {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with("http://") || text.starts_with("https://") {
            return CollectorUrl::parse(text).map(Self::Collector).map_err(|error| error.to_string());
        }
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
        (Some(Format::Jsonl | Format::Syslog), Some(To::Collector(_))) => {
            return Err(Failure::usage("a collector takes OTLP only"));
        }
        (_, Some(To::Collector(_))) => Format::Otlp,
        (Some(Format::Otlp), _) => {
            return Err(Failure::usage("OTLP goes to a collector: --to http://host:port"));
        }
        (format, _) => format.unwrap_or(Format::Jsonl),
    };
    let mut found = args.wanted.fetch(&context.client()?, args.limit as usize, context.now()).await?;
    found.reverse();
    if let Some(after) = args.after {
        let is_cut =
            found.len() == args.limit as usize && found.first().and_then(|it| place(it)) > Some(after + 1);
        if is_cut {
            let more = format!("more than {} records come after {after}", args.limit);
            return Err(Failure::usage(more + "; raise --limit, so that none is left out"));
        }
        found.retain(|it| place(it) > Some(after));
    }
    if let Some(To::Collector(endpoint)) = args.to {
        return collected(endpoint, args.protocol, found, context).await;
    }
    let last = found.last().and_then(|it| place(it));
    let records = found.len();
    let texts: Vec<String> = match format {
        Format::Jsonl | Format::Otlp => found.iter().map(|it| it.get().to_owned()).collect(),
        Format::Syslog => {
            let messages = found.iter().map(|it| Record::read(it).map(|record| syslog::message(&record)));
            messages.collect::<Result<_, _>>()?
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
    context.terminal.say(&format!("{records} records were written{}", goes_on(last)));
    Ok(ExitCode::Done)
}

/// Sends records to a collector, and says where another export goes on.
async fn collected(
    endpoint: CollectorUrl,
    protocol: Protocol,
    found: Vec<Box<RawValue>>,
    context: &Context,
) -> Result<ExitCode, Failure> {
    let records: Vec<Record> = found.iter().map(|it| Record::read(it)).collect::<Result<_, _>>()?;
    let protocol = match protocol {
        Protocol::Grpc => OtlpProtocol::Grpc,
        Protocol::Http => OtlpProtocol::Http,
    };
    let otlp::Sent { records, last, error } = otlp::send(endpoint.clone(), protocol, &records).await;
    let told = format!("{records} records were written{}", goes_on(last));
    match error {
        None => context.terminal.say(&told),
        Some(error) => {
            let failure = Failure::failed(format!("records could not be sent to {endpoint}; {told}"));
            return Err(failure.because(error));
        }
    }
    Ok(ExitCode::Done)
}

fn goes_on(last: Option<u64>) -> String {
    last.map_or_else(String::new, |last| format!("; what comes later: --after {last}"))
}

fn lines(texts: &[String]) -> String {
    texts.iter().flat_map(|text| [text.as_str(), "\n"]).collect()
}

fn send(to: &To, texts: &[String]) -> std::io::Result<()> {
    match to {
        To::Collector(_) => Err(std::io::Error::other("a collector is no socket")),
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
