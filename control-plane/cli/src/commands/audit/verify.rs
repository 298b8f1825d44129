//! `weft audit verify`: whether trails are as they were written, by their own chain and seals, and by what was anchored.

use std::path::{Path as FilePath, PathBuf};

use clap::Args;
use rustls_pki_types::CertificateDer;
use serde::Deserialize;
use serde_json::{Value, json};
use weft_certs::audit as seals;
use weft_certs::bundle::{Bundle, Bundles};
use weft_certs::pem;
use weft_proto::audit::{Anchor, Report, Review, Seal, Statement};
use weft_proto::name::TrustDomain;

use crate::app::Context;
use crate::client::{self, Client, Path};
use crate::failure::{ExitCode, Failure};
use crate::output::FormArgs;
use crate::terminal::Tone;

const EXAMPLES: &str = "\
Examples:
  weft audit verify                                   what the control plane holds, of every node
  weft audit verify --node research/files-1           of one node
  weft audit verify --files /var/lib/weft/audit       a sidecar's files, against the control plane's anchors
  weft audit verify --files audit --offline --roots ca.pem
                                                      the files alone: a missing end goes unnoticed

Ends with 0 if everything is as it was written, and with 1 if anything is not.";

/// Largest file of a trail that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Finds records that were removed, altered, reordered or rewritten
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct VerifyArgs {
    /// The folder of a sidecar's trail, instead of what the control plane holds
    #[arg(long, value_name = "FOLDER")]
    files: Option<PathBuf>,
    /// Only this node, as research/files-1
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// Ask no control plane: without its anchors, a missing end and what the node itself rewrote go unnoticed
    #[arg(long, requires = "files", requires = "roots")]
    offline: bool,
    /// The mesh's roots in PEM, instead of those that the control plane is believed by
    #[arg(long, value_name = "FILE")]
    roots: Option<PathBuf>,
    #[command(flatten)]
    form: FormArgs,
}

/// A trail that the control plane knows.
#[derive(Debug, Deserialize)]
struct Known {
    node: String,
    trail: String,
    segments: Vec<Segment>,
    anchors: Vec<Anchor>,
}

#[derive(Debug, Deserialize)]
struct Segment {
    number: u64,
}

/// What was found of one trail.
struct Found {
    report: Report,
    /// Whether there were anchors to hold it against.
    is_anchored: bool,
}

pub(super) async fn run(args: VerifyArgs, context: &Context) -> Result<ExitCode, Failure> {
    let client = if args.offline { None } else { Some(context.client()?) };
    let roots = match (&args.roots, &client) {
        (Some(path), _) => read_roots(path)?,
        (None, Some(client)) => client.trusted().roots().to_vec(),
        (None, None) => Vec::new(),
    };
    let known = match &client {
        Some(client) => {
            let of_node = || Path::v1(&["audit", "trails"]).with("node", args.node.as_ref());
            let (items, _) = client.pages(|next| of_node().with("after", next), usize::MAX).await?;
            let mut known: Vec<Known> = client::read(Value::Array(items))?;
            known.sort_by(|one, other| one.node.cmp(&other.node));
            known
        }
        None => Vec::new(),
    };
    let found = match (&args.files, &client) {
        (Some(folder), _) => vec![of_files(folder, &args, &known, &roots)?],
        (None, Some(client)) => of_control_plane(client, &known, &roots).await?,
        (None, None) => Vec::new(),
    };
    show(&found, &args, context)?;
    let is_whole = found.iter().all(|it| it.report.is_whole());
    Ok(if is_whole { ExitCode::Done } else { ExitCode::Failed })
}

fn read_roots(path: &FilePath) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let name = path.display();
    let wrong = || Failure::usage(format!("{name} holds no roots"));
    let text = std::fs::read_to_string(path).map_err(|error| wrong().because(error))?;
    pem::certificates(&text).map_err(|error| wrong().because(error))
}

/// Believes seals whose signers lead to one of the roots.
struct Believer<'r> {
    roots: &'r [CertificateDer<'static>],
    /// Of the domain that was asked for last.
    bundles: Option<(TrustDomain, Bundles)>,
}

impl Believer<'_> {
    fn check(&mut self, statement: &Statement, seal: &Seal, chain: &[String]) -> Result<(), String> {
        let domain = seals::trust_domain(chain).map_err(|error| error.to_string())?;
        if self.bundles.as_ref().is_none_or(|(of, _)| *of != domain) {
            let bundle = Bundle::new(domain.clone(), self.roots.to_vec(), 1, Default::default());
            let bundles = bundle.and_then(|bundle| Bundles::new([bundle]));
            self.bundles = Some((domain, bundles.map_err(|error| error.to_string())?));
        }
        let Some((_, bundles)) = &self.bundles else { return Err("nobody is believed".to_owned()) };
        seals::check(statement, seal, chain, bundles).map(|_| ()).map_err(|error| error.to_string())
    }
}

fn review(
    roots: &[CertificateDer<'static>],
    anchors: Vec<Anchor>,
    read: impl FnOnce(&mut Review<'_>) -> Result<(), Failure>,
) -> Result<Report, Failure> {
    let mut believer = Believer { roots, bundles: None };
    let mut check =
        |statement: &Statement, seal: &Seal, chain: &[String]| believer.check(statement, seal, chain);
    let mut review = Review::new(anchors, &mut check);
    read(&mut review)?;
    Ok(review.finish())
}

fn of_files(
    folder: &FilePath,
    args: &VerifyArgs,
    known: &[Known],
    roots: &[CertificateDer<'static>],
) -> Result<Found, Failure> {
    let segments = segments(folder)?;
    let mut first = Vec::new();
    if let Some(path) = segments.first() {
        first = read_file(path)?;
    }
    // The anchors of the trail that the files say they are; of a folder that was emptied, those of the node.
    let named = weft_proto::audit::Trail::of_segment(&first);
    let of_it = known.iter().filter(|it| match &named {
        Some((node, trail)) => it.node == *node && it.trail == trail.as_str(),
        None => args.node.as_ref() == Some(&it.node),
    });
    let anchors: Vec<Anchor> = of_it.flat_map(|it| it.anchors.clone()).collect();
    let is_anchored = !anchors.is_empty();
    let report = review(roots, anchors, |review| {
        for (at, path) in segments.iter().enumerate() {
            review.segment(&read_file(path)?, at + 1 == segments.len());
        }
        Ok(())
    })?;
    Ok(Found { report, is_anchored })
}

fn segments(folder: &FilePath) -> Result<Vec<PathBuf>, Failure> {
    let name = folder.display();
    let wrong = |error| Failure::usage(format!("{name} cannot be read")).because(error);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(wrong)? {
        let path = entry.map_err(wrong)?.path();
        if path.extension().is_some_and(|it| it == "jsonl") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn read_file(path: &FilePath) -> Result<Vec<u8>, Failure> {
    let name = path.display();
    let wrong = |error: std::io::Error| Failure::failed(format!("{name} cannot be read")).because(error);
    match std::fs::metadata(path).map_err(wrong)?.len() {
        ..=FILE_BYTES_MAX => std::fs::read(path).map_err(wrong),
        bytes => Err(Failure::failed(format!("{name} has {bytes} bytes; at most {FILE_BYTES_MAX} are read"))),
    }
}

async fn of_control_plane(
    client: &Client,
    known: &[Known],
    roots: &[CertificateDer<'static>],
) -> Result<Vec<Found>, Failure> {
    let mut found = Vec::new();
    for known in known {
        let mut texts = Vec::new();
        for segment in &known.segments {
            let number = segment.number.to_string();
            let (namespace, name) = known.node.split_once('/').unwrap_or_default();
            let path = Path::v1(&["audit", "trails", namespace, name, &known.trail, &number]);
            texts.push(client.bytes(&path).await?);
        }
        let report = review(roots, known.anchors.clone(), |review| {
            for (at, text) in texts.iter().enumerate() {
                review.segment(text, at + 1 == texts.len());
            }
            Ok(())
        })?;
        let report = Report { node: known.node.clone(), trail: known.trail.parse().ok(), ..report };
        found.push(Found { report, is_anchored: !known.anchors.is_empty() });
    }
    Ok(found)
}

fn show(found: &[Found], args: &VerifyArgs, context: &Context) -> Result<(), Failure> {
    let items: Vec<_> = found
        .iter()
        .map(|it| {
            let texts: Vec<String> = it.report.findings.iter().map(ToString::to_string).collect();
            json!({ "whole": it.report.is_whole(), "anchored": it.is_anchored, "report": it.report, "told": texts })
        })
        .collect();
    if let Some(text) = args.form.form.machine(&json!({ "items": items })) {
        return context.terminal.print(&text?);
    }
    if found.is_empty() {
        context.terminal.say("there is no trail");
        return Ok(());
    }
    let text: String = found.iter().map(|it| told(it, context.terminal.color())).collect();
    context.terminal.print(&text)
}

fn told(found: &Found, colour: bool) -> String {
    let Found { report, is_anchored } = found;
    let (word, tone) = match report.is_whole() {
        true => ("whole", Tone::Good),
        false => ("NOT WHOLE", Tone::Bad),
    };
    let trail = report.trail.as_ref().map(|trail| format!(", trail {trail}")).unwrap_or_default();
    let node = if report.node.is_empty() { "no trail" } else { &report.node };
    let mut text = format!("{node}{trail}: {}\n", tone.paint(word, colour));
    let Report { segments, lines, first, last, seals, .. } = report;
    text.push_str(&format!("  {segments} segments, {lines} lines ({first} to {last}), {seals} seals hold\n"));
    if report.sealed_to < *last {
        text.push_str(&format!("  lines {} to {last} are not sealed yet\n", report.sealed_to + 1));
    }
    match is_anchored {
        true => text.push_str(&format!("  as anchored up to line {}\n", report.anchored_to)),
        false => text.push_str("  nothing is anchored of it: a missing end would go unnoticed\n"),
    }
    if report.torn_bytes > 0 {
        text.push_str(&format!(
            "  {} bytes at the end were not written to their end, as after a kill\n",
            report.torn_bytes
        ));
    }
    if report.dropped > 0 {
        text.push_str(&format!("  {} calls were not recorded, as the node itself says\n", report.dropped));
    }
    for finding in &report.findings {
        text.push_str(&format!("  {} {finding}\n", tone.paint("!", colour)));
    }
    if report.more_findings > 0 {
        text.push_str(&format!("  and {} more\n", report.more_findings));
    }
    text
}
