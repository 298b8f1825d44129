//! The source without a control plane: resources and an identity in local files, kept up with while they change.
//!
//! What is wrong at the start is an error, with its place; what turns wrong later is told and changes nothing. Files
//! are looked at when their folders change and every so often besides, since notices can be lost.

mod identity;
mod resources;

use std::collections::BTreeSet;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::Watcher as _;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use weft_certs::bundle::{self, Bundle};
use weft_certs::{csr, pem, tls, verifier};
use weft_proto::compile;
use weft_proto::name::TrustDomain;

use super::{CertificateState, Deps, Handle, Problem, Settings, State};
use crate::bootstrap::Standalone;
use crate::clock;
use crate::state::{Current, Origin};
use identity::Loaded;

/// The trust domain of a sidecar that has neither an identity nor a `Trust` that says one.
pub const TRUST_DOMAIN: &str = "weft.local";
/// How long to wait after a notice: files that belong together change one after another.
const SETTLE: Duration = Duration::from_millis(50);

/// Why files are not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path} cannot be read: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is longer than {max} bytes")]
    TooLong { path: PathBuf, max: u64 },
    #[error("{path} is not text in UTF-8")]
    NotText { path: PathBuf },
    #[error("{0} holds too many files, or folders within folders")]
    TooMany(PathBuf),
    /// Every mistake with its place, a line each.
    #[error("the resources have mistakes:\n  {}", .0.join("\n  "))]
    Mistakes(Vec<String>),
    #[error("the certificates in {path}: {source}")]
    Certificates { path: PathBuf, source: pem::Error },
    #[error("{path}: {source}")]
    Key { path: PathBuf, source: csr::Error },
    #[error("the certificate and its key: {0}")]
    Identity(#[from] tls::Error),
    #[error("the roots: {0}")]
    Roots(#[from] bundle::Error),
    #[error("the certificate does not hold: {0}")]
    Chain(#[from] verifier::Error),
    #[error("a reader of files ended early")]
    Interrupted,
}

/// Reads everything once, and keeps up with it from then on.
pub(super) async fn start(standalone: &Standalone, deps: Deps, settings: Settings) -> Result<Handle, Error> {
    let (states, state) = watch::channel(State::default());
    let mut follower = Follower {
        standalone: standalone.clone(),
        deps,
        settings,
        states,
        seen: Seen::default(),
        reported: None,
    };
    follower.look().await?;
    let task = tokio::spawn(follower.run());
    Ok(Handle { state, rotation: None, tasks: vec![task] })
}

/// What was last taken on, to see whether it has changed.
#[derive(Default)]
struct Seen {
    resources: Option<[u8; 32]>,
    identity: Option<[u8; 32]>,
}

struct Follower {
    standalone: Standalone,
    deps: Deps,
    settings: Settings,
    states: watch::Sender<State>,
    seen: Seen,
    /// What was last told of as wrong.
    reported: Option<String>,
}

impl Follower {
    async fn run(mut self) {
        let (notices, mut noticed) = mpsc::channel(1);
        // Held until the end: dropping it ends the notices.
        let _watcher = self.watch_folders(notices);
        let mut poll = tokio::time::interval(self.settings.poll_every);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.deps.cancel.cancelled() => return,
                _ = poll.tick() => {}
                Some(()) = noticed.recv() => tokio::time::sleep(SETTLE).await,
            }
            while noticed.try_recv().is_ok() {}
            let outcome = self.look().await;
            self.report(outcome.err());
        }
    }

    /// Takes on whatever differs from what is in force. A bad identity does not hold up good resources.
    async fn look(&mut self) -> Result<(), Error> {
        let identity = self.look_at_identity().await;
        self.give_up_expired();
        let resources = self.look_at_resources(identity.as_ref().is_ok_and(|changed| *changed)).await;
        identity.map(|_| ()).and(resources)
    }

    async fn look_at_identity(&mut self) -> Result<bool, Error> {
        let Some(files) = self.standalone.identity.clone() else { return Ok(false) };
        let read = tokio::task::spawn_blocking(move || identity::read(&files));
        let files = read.await.map_err(|_| Error::Interrupted)??;
        let digest = files.digest();
        if self.seen.identity == Some(digest) {
            return Ok(false);
        }
        let Loaded { identity, bundle } = identity::load(&files, &self.deps.trust.load(), clock::now())?;
        self.deps.trust.update(bundle)?;
        let leaf = identity.leaf().clone();
        self.deps.identity.swap(identity);
        self.seen.identity = Some(digest);
        tracing::info!(spiffe_id = %leaf.spiffe_id, serial = %leaf.serial, "identity taken from its files");
        let certificate = CertificateState { expires: Some(leaf.not_after), error: None };
        self.states.send_modify(|state| state.certificate = certificate);
        Ok(true)
    }

    fn give_up_expired(&self) {
        if let Some(leaf) = self.deps.identity.leaf().filter(|leaf| leaf.not_after < clock::now()) {
            tracing::error!(spiffe_id = %leaf.spiffe_id, serial = %leaf.serial, "certificate expired");
            self.deps.identity.clear();
            let error = Some("the certificate has expired".to_owned());
            self.states.send_modify(|state| state.certificate.error = error);
        }
    }

    /// `trust_changed`: the roots are part of what is compiled.
    async fn look_at_resources(&mut self, trust_changed: bool) -> Result<(), Error> {
        let path = self.standalone.resources.clone();
        let read = tokio::task::spawn_blocking(move || resources::read(&path));
        let files = read.await.map_err(|_| Error::Interrupted)??;
        let digest = resources::digest(&files);
        if self.seen.resources == Some(digest) && !trust_changed {
            return Ok(());
        }
        let domain = self.trust_domain();
        let read = resources::parse(&files, &domain, clock::now(), &self.deps.trust.load())?;
        self.trust(read.federated, &domain)?;
        let bundles = self.deps.trust.load();
        let version = resources::version(&read.content, &domain, &bundles);
        let parts: compile::Parts = read.parts.into_iter().chain(resources::trust_parts(&bundles)).collect();
        let parts = Arc::new(parts);
        self.seen.resources = Some(digest);
        let current = self.deps.live.load();
        if current.origin == Origin::File && *current.version == *version {
            return Ok(());
        }
        let snapshot = super::link::compile(&parts).await;
        for warning in &snapshot.warnings {
            tracing::warn!(%warning, "resources");
        }
        tracing::info!(version, servers = snapshot.servers.len(), "resources taken from their files");
        self.deps.live.swap(Current {
            snapshot,
            origin: Origin::File,
            version: version.into(),
            since: clock::now(),
        });
        self.states.send_modify(|state| {
            state.ready = true;
            state.swaps += 1;
            for ty in weft_proto::wire::ResourceType::ALL {
                state.types.entry(ty).or_default().resources = parts.count(ty);
            }
        });
        Ok(())
    }

    /// Believes the federated domains, and no others but the own.
    fn trust(&self, federated: Vec<Bundle>, own: &TrustDomain) -> Result<(), Error> {
        let trust = &self.deps.trust;
        let named: BTreeSet<_> = federated.iter().map(|bundle| bundle.trust_domain().clone()).collect();
        trust.update_newer(federated)?;
        for bundle in
            trust.load().iter().filter(|it| !named.contains(it.trust_domain()) && it.trust_domain() != own)
        {
            trust.remove(bundle.trust_domain());
        }
        Ok(())
    }

    fn trust_domain(&self) -> TrustDomain {
        let built_in = || TrustDomain::parse(TRUST_DOMAIN).expect("the default is a trust domain");
        let leaf = self.deps.identity.leaf();
        leaf.map_or_else(built_in, |leaf| leaf.spiffe_id.trust_domain().clone())
    }

    /// Tells the same trouble once.
    fn report(&mut self, error: Option<Error>) {
        let text = error.map(|error| error.to_string());
        if self.reported == text {
            return;
        }
        match &text {
            Some(error) => tracing::error!(error, "files not taken on; the last good ones stay in force"),
            None => tracing::info!("files are in order again"),
        }
        let problem = text.clone().map(Problem::now);
        self.states.send_modify(|state| state.last_error = problem);
        self.reported = text;
    }

    /// Folders rather than files: editors and Kubernetes put a new file, or a new folder, in the place of the old.
    fn watch_folders(&self, notices: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
        let ours = self.files();
        let on_event = move |event: notify::Result<notify::Event>| {
            if !event.is_ok_and(|event| is_none_of_ours(&event, &ours)) {
                let _ = notices.try_send(());
            }
        };
        let watched = notify::recommended_watcher(on_event).and_then(|mut watcher| {
            for folder in self.folders() {
                watcher.watch(&folder, notify::RecursiveMode::NonRecursive)?;
            }
            Ok(watcher)
        });
        watched.inspect_err(|error| tracing::warn!(error = %error, "files are polled only")).ok()
    }

    fn folders(&self) -> BTreeSet<PathBuf> {
        let parents = self.files().into_iter().filter_map(|path| path.parent().map(here));
        let mut folders: BTreeSet<PathBuf> = parents.collect();
        folders.extend(resources::folders(&self.standalone.resources));
        folders
    }

    /// What was named: the identity's files, and the file or folder of resources.
    fn files(&self) -> Vec<PathBuf> {
        let Standalone { resources, identity } = &self.standalone;
        let of_identity = identity.iter().flat_map(|it| [&it.certificate, &it.key, &it.roots]);
        of_identity.chain([resources]).cloned().collect()
    }
}

/// Whether an event in a folder says nothing about our files: reading them is an event too, and so is every line of a
/// log that stands beside them. Other kinds of events count wherever they are, for a link may have been exchanged.
fn is_none_of_ours(event: &notify::Event, ours: &[PathBuf]) -> bool {
    let is_ours =
        |path: &PathBuf| ours.iter().any(|our| path.starts_with(our) || path.file_name() == our.file_name());
    match event.kind {
        notify::EventKind::Access(_) => true,
        notify::EventKind::Modify(notify::event::ModifyKind::Data(_)) => !event.paths.iter().any(is_ours),
        _ => false,
    }
}

/// The folder of a bare file name is the one we are in.
fn here(folder: &Path) -> PathBuf {
    if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_owned() }
}

/// A whole file of limited length.
fn read_limited(path: &Path, max: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(max + 1).read_to_end(&mut bytes));
    read.map_err(|source| Error::Read { path: path.to_owned(), source })?;
    match bytes.len() as u64 > max {
        true => Err(Error::TooLong { path: path.to_owned(), max }),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests;
