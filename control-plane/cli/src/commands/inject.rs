//! `weft inject` and what it shares with `weft uninject`: manifests in, manifests out, and a report beside them.

use std::path::PathBuf;

use clap::Args;
use weft_kubernetes::inject::documents;
use weft_kubernetes::inject::settings::{Image, IpFamily, OnMistake, PullPolicy, Revision, Settings};
use weft_kubernetes::inject::workload::{Fate, Outcome, Task};
use weft_kubernetes::inject::{Skip, Weight};
use weft_proto::name::{HostPort, TrustDomain};

use crate::app::Context;
use crate::failure::{ExitCode, Failure};
use crate::files::{self, File};

const EXAMPLES: &str = "\
Examples:
  weft inject -f deployment.yaml | kubectl apply -f -
  kubectl get deployment files -o yaml | weft inject -f - | kubectl apply -f -
  weft inject -f manifests/ --trust-domain corp.example --image registry.example/weft-sidecar:1.0
  weft inject -f deployment.yaml --settings injector.yaml
                                            with the settings of the control plane's ConfigMap";

/// Where the control plane is, if it was installed as it comes.
const CONTROL_PLANE: &str = "weft-control-plane.weft-system.svc:7500";
const TRUST_DOMAIN: &str = "weft.local";

/// Puts sidecars into the pods of Kubernetes manifests, and prints the manifests
///
/// Pods, Deployments, ReplicaSets, StatefulSets, DaemonSets, Jobs, CronJobs, ReplicationControllers, PodTemplates and
/// lists of them are changed; every other document is printed byte by byte as it was. What became of each is told on
/// stderr. The control plane does the same by itself where a namespace or pod has the label weft.dev/inject: enabled;
/// here that label is not needed, and weft.dev/inject: disabled is honoured. Annotations are the same.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct InjectArgs {
    /// A file, a folder (every *.yaml, *.yml and *.json below it, in order) or - for stdin; repeatable
    #[arg(long = "file", short = 'f', value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// The namespace of objects that name none
    #[arg(long, short, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// A file with the settings of the control plane's injector; flags go before it
    #[arg(long, value_name = "FILE")]
    pub(crate) settings: Option<PathBuf>,
    /// The mesh's trust domain; weft.local if not given
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) trust_domain: Option<TrustDomain>,
    /// Where sidecars find the control plane; weft-control-plane.weft-system.svc:7500 if not given
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) control_plane: Option<HostPort>,
    /// The sidecar's image; weft-sidecar with the version of this program if not given
    #[arg(long, value_name = "IMAGE")]
    pub(crate) image: Option<Image>,
    /// When a node fetches the image: Always, IfNotPresent or Never
    #[arg(long, value_name = "POLICY")]
    pub(crate) image_pull_policy: Option<PullPolicy>,
    /// The revision that is injected for; pods that are labelled with another get no sidecar
    #[arg(long, value_name = "REVISION")]
    pub(crate) revision: Option<Revision>,
    /// The addresses of pods: ipv4, ipv6 or dual; ipv4 if not given
    #[arg(long, value_name = "FAMILY")]
    pub(crate) ip_family: Option<IpFamily>,
    /// For clusters older than Kubernetes 1.29: the sidecar is a plain container, and pods that end by themselves get none
    #[arg(long)]
    pub(crate) no_native: bool,
    /// What to do where an object asks for a sidecar and makes a mistake in it: refuse, which prints nothing at all, or
    /// skip, which prints it without a sidecar; refuse if not given
    #[arg(long, value_name = "WHAT")]
    pub(crate) on_mistake: Option<OnMistake>,
}

pub(crate) fn run(args: &InjectArgs, context: &Context) -> Result<ExitCode, Failure> {
    let settings = settings(args)?;
    let task = Task::Inject { settings: &settings, namespace: args.namespace.as_deref() };
    change(&args.files, task, settings.on_mistake, context)
}

fn settings(args: &InjectArgs) -> Result<Settings, Failure> {
    let mut settings = match &args.settings {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| {
                Failure::usage(format!("the settings {} cannot be read", path.display())).because(error)
            })?;
            Settings::parse(&text).map_err(|error| {
                Failure::failed(format!("the settings {} have a mistake", path.display())).because(error)
            })?
        }
        None => Settings::new(
            TrustDomain::parse(TRUST_DOMAIN).expect("the name is good"),
            HostPort::parse(CONTROL_PLANE).expect("the address is good"),
            Image::parse(concat!("weft-sidecar:", env!("CARGO_PKG_VERSION"))).expect("the image is good"),
        ),
    };
    let args = args.clone();
    if let Some(domain) = args.trust_domain {
        settings.trust_domain = domain;
    }
    if let Some(address) = args.control_plane {
        settings.control_plane = address;
    }
    if let Some(image) = args.image {
        settings.image = image;
    }
    settings.image_pull_policy = args.image_pull_policy.or(settings.image_pull_policy);
    if let Some(revision) = args.revision {
        settings.revision = revision;
    }
    settings.ip_family = args.ip_family.unwrap_or(settings.ip_family);
    settings.native &= !args.no_native;
    settings.on_mistake = args.on_mistake.unwrap_or(settings.on_mistake);
    Ok(settings)
}

/// Does a task with files, prints them, and tells what became of them.
pub(super) fn change(
    paths: &[PathBuf],
    task: Task<'_>,
    on_mistake: OnMistake,
    context: &Context,
) -> Result<ExitCode, Failure> {
    let mut report = Report::default();
    let mut printed = String::new();
    for File { name, text } in files::gather(paths, &context.terminal)? {
        let changed = documents::run(&text, task)
            .map_err(|error| Failure::failed(format!("{name}: {error}")).then("nothing was printed"))?;
        if !printed.is_empty() && !changed.text.starts_with("---") {
            printed.push_str(if printed.ends_with('\n') { "---\n" } else { "\n---\n" });
        }
        printed.push_str(&changed.text);
        for (line, fate) in changed.fates {
            report.add(&format!("{name}:{line}"), &fate, on_mistake);
        }
    }
    if !report.mistakes.is_empty() {
        let what = match report.mistakes.len() {
            1 => "there is a mistake in the manifests".to_owned(),
            count => format!("there are {count} mistakes in the manifests"),
        };
        return Err(Failure::failed(what).at(report.mistakes).then("nothing was printed"));
    }
    report.lines.iter().for_each(|line| context.terminal.say(line));
    report.warnings.iter().for_each(|warning| context.terminal.warn(warning));
    context.terminal.say(&report.summary());
    context.terminal.print(&printed)?;
    Ok(ExitCode::Done)
}

/// What became of objects, for people.
#[derive(Debug, Default)]
struct Report {
    lines: Vec<String>,
    warnings: Vec<String>,
    /// Each with its place.
    mistakes: Vec<String>,
    changed: usize,
    skipped: usize,
    others: usize,
}

impl Report {
    fn add(&mut self, place: &str, fate: &Fate, on_mistake: OnMistake) {
        let of = fate.namespace.as_deref().map(|namespace| format!(" of {namespace}")).unwrap_or_default();
        let object = format!("{} {}{of}", fate.kind, fate.name);
        match &fate.outcome {
            Outcome::Injected { warnings } => {
                self.changed += 1;
                self.lines.push(format!("{object}: has its sidecar"));
                self.warnings.extend(warnings.iter().map(|warning| format!("{object}: {warning}")));
            }
            Outcome::Uninjected => {
                self.changed += 1;
                self.lines.push(format!("{object}: has no sidecar any more"));
            }
            Outcome::Skipped(skip) if is_refused(skip, on_mistake) => {
                self.mistakes.push(format!("{place}: {object}: {skip}"));
            }
            Outcome::NoRecord(why) => {
                let what = "its annotation weft.dev/status is no record of what was put in";
                self.mistakes.push(format!("{place}: {object}: {what}: {why}"));
            }
            Outcome::Skipped(skip) => {
                self.skipped += 1;
                self.lines.push(format!("{object}: gets no sidecar: {skip}"));
            }
            Outcome::WithoutSidecar => {
                self.skipped += 1;
                self.lines.push(format!("{object}: had no sidecar"));
            }
            Outcome::NoWorkload => self.others += 1,
        }
    }

    fn summary(&self) -> String {
        let Self { changed, skipped, others, .. } = self;
        format!("{changed} changed, {skipped} skipped, {others} that make no pods")
    }
}

fn is_refused(skip: &Skip, on_mistake: OnMistake) -> bool {
    skip.weight() == Weight::Mistake && on_mistake == OnMistake::Refuse
}
