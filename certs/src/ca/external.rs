//! An issuer that something else keeps in files, as cert-manager does in a mounted secret: `tls.crt` (the issuing
//! certificate, then those above it), `tls.key`, `ca.crt` (the roots). Or what such files would hold, handed over by
//! whoever follows the secret itself.
//!
//! The files are looked at when the folder changes and every so often besides, since notices can be lost. What is
//! broken is never taken on: the former issuer goes on signing, and the error is shown.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use notify::Watcher as _;
use rcgen::KeyPair;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncReadExt as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use weft_proto::name::{self, SpiffeId, TrustDomain};
use zeroize::Zeroizing;

use super::issuer::{self, CaKey, Issuer, Limits, Standing, Unusable};
use crate::bundle::{self, Bundle, Bundles};
use crate::clock::Clock;
use crate::csr::{self, Request};
use crate::tls::CONTROL_PLANE_PATH;
use crate::verifier::{self, INTERMEDIATES_MAX, Role};
use crate::x509;

/// How often the files are looked at without any notice.
pub const POLL_INTERVAL: Duration = Duration::from_secs(30);
/// Longest accepted file.
pub const FILE_BYTES_MAX: u64 = 256 * 1024;
/// How long to wait after a notice: files that belong together change one after another.
const SETTLE: Duration = Duration::from_millis(200);

/// Why the files are not an issuer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("file {path} cannot be read")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("file {path} is longer than {FILE_BYTES_MAX} bytes")]
    TooLong { path: PathBuf },
    #[error("{file} does not hold well-formed PEM certificates")]
    Certificates { file: &'static str },
    #[error("tls.crt holds {count} certificates; at most {INTERMEDIATES_MAX} are allowed")]
    ChainTooLong { count: usize },
    #[error("tls.key does not hold a private key that can sign")]
    Key,
    #[error("tls.crt and tls.key cannot sign: {0}")]
    Unusable(#[from] Unusable),
    #[error("certificate {index} of tls.crt {source}")]
    Issuer { index: usize, source: x509::Error },
    #[error("the issuer's certificate has expired")]
    Expired { not_after: SystemTime },
    #[error("ca.crt: {0}")]
    Roots(#[from] bundle::Error),
    #[error("tls.crt leads to none of the roots in ca.crt: {0}")]
    Chain(#[source] verifier::Error),
    #[error("no certificate could be signed on trial: {0}")]
    Trial(#[from] issuer::Error),
    #[error("no key could be made for a trial: {0}")]
    TrialKey(#[from] csr::Error),
    #[error("the trust domain cannot have a control plane: {0}")]
    TrustDomain(#[source] name::Error),
}

/// Where the files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub roots: PathBuf,
}

impl Paths {
    /// The names that cert-manager gives them.
    pub fn in_folder(folder: &Path) -> Self {
        let [certificate, key, roots] = ["tls.crt", "tls.key", "ca.crt"].map(|name| folder.join(name));
        Self { certificate, key, roots }
    }

    fn folders(&self) -> BTreeSet<PathBuf> {
        let parent = |path: &PathBuf| path.parent().map(Path::to_owned);
        [&self.certificate, &self.key, &self.roots].into_iter().filter_map(parent).collect()
    }
}

/// What the files hold.
#[derive(Clone, PartialEq, Eq)]
pub struct Files {
    pub certificate: Vec<u8>,
    pub key: Zeroizing<Vec<u8>>,
    pub roots: Vec<u8>,
}

impl Files {
    pub async fn read(paths: &Paths) -> Result<Self, Error> {
        Ok(Self {
            certificate: read(&paths.certificate).await?,
            key: Zeroizing::new(read(&paths.key).await?),
            roots: read(&paths.roots).await?,
        })
    }

    fn digest(&self) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        for file in [&self.certificate, &*self.key, &self.roots] {
            context.update(&(file.len() as u64).to_be_bytes());
            context.update(file);
        }
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.finish().as_ref());
        bytes
    }
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Files")
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let mut file = tokio::fs::File::open(path).await.map_err(io)?.take(FILE_BYTES_MAX + 1);
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).await.map_err(io)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Error::TooLong { path: path.to_owned() });
    }
    Ok(bytes)
}

/// An issuer with the roots to trust, taken from files and tried out.
#[derive(Debug, Clone)]
pub struct Loaded {
    issuer: Arc<Issuer>,
    bundle: Bundle,
    digest: [u8; 32],
}

/// Takes the files apart and tries the issuer out: a certificate that it signs must be believed by everyone who trusts
/// the roots. The bundle's sequence is `now` in seconds, because nothing else here survives a restart; a bundle that
/// says the same counts as the same whatever its sequence.
pub fn load(
    files: &Files,
    trust_domain: &TrustDomain,
    limits: Limits,
    now: SystemTime,
) -> Result<Loaded, Error> {
    let chain = certificates(&files.certificate, "tls.crt")?;
    if chain.len() > INTERMEDIATES_MAX {
        return Err(Error::ChainTooLong { count: chain.len() });
    }
    let sequence = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let roots = certificates(&files.roots, "ca.crt")?;
    let bundle = Bundle::new(trust_domain.clone(), roots, sequence, BTreeSet::new())?;
    for (index, certificate) in chain.iter().enumerate() {
        let checked = x509::parse(certificate).and_then(|certificate| {
            x509::check_ca(&certificate).map(|()| x509::time(certificate.validity().not_after))
        });
        let not_after = checked.map_err(|source| Error::Issuer { index, source })?;
        if not_after < now {
            return Err(Error::Expired { not_after });
        }
    }
    let mut refused = Error::Chain(verifier::Error::UnknownRoot);
    for root in bundle.roots() {
        let issuer = issuer(&chain, root, &files.key, trust_domain, limits)?;
        match try_out(&issuer, &bundle, root, now) {
            Ok(()) => return Ok(Loaded { issuer: Arc::new(issuer), bundle, digest: files.digest() }),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

fn certificates(pem: &[u8], file: &'static str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    all.ok().filter(|all| !all.is_empty()).ok_or(Error::Certificates { file })
}

fn issuer(
    chain: &[CertificateDer<'static>],
    root: &CertificateDer<'static>,
    key: &[u8],
    trust_domain: &TrustDomain,
    limits: Limits,
) -> Result<Issuer, Error> {
    let key = PrivateKeyDer::from_pem_slice(key).map(Zeroizing::new).map_err(|_| Error::Key)?;
    let key = CaKey::new(KeyPair::try_from(&*key).map_err(|_| Error::Key)?);
    let certificate = chain.first().ok_or(Error::Certificates { file: "tls.crt" })?.clone();
    let above = chain.iter().filter(|certificate| *certificate != root).cloned().collect();
    let standing = Standing { certificate, above, root: root.clone() };
    Ok(Issuer::new(trust_domain.clone(), standing, key, limits)?)
}

fn try_out(
    issuer: &Issuer,
    bundle: &Bundle,
    root: &CertificateDer<'static>,
    now: SystemTime,
) -> Result<(), Error> {
    let trust_domain = bundle.trust_domain();
    let id = format!("spiffe://{trust_domain}{CONTROL_PLANE_PATH}");
    let id = SpiffeId::parse(&id).map_err(Error::TrustDomain)?;
    let request = Request::generate()?;
    let issued = issuer.issue(request.der(), &id, &[], Duration::ZERO, now)?;
    let alone = Bundle::new(trust_domain.clone(), vec![root.clone()], 0, BTreeSet::new())?;
    let alone = Bundles::new([alone])?;
    let [leaf, above @ ..] = issued.chain.as_slice() else {
        return Err(Error::Certificates { file: "tls.crt" });
    };
    for role in [Role::Server, Role::Client] {
        verifier::verify(leaf, above, &alone, role, now).map_err(Error::Chain)?;
    }
    Ok(())
}

/// The issuer in force, kept up with its files.
pub struct External {
    loaded: ArcSwap<Loaded>,
    state: watch::Sender<State>,
}

/// How keeping up stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// How often other files were taken on.
    pub reloads: u64,
    /// Why the files as they are now were not taken on; `None` while they are in force.
    pub error: Option<String>,
}

impl External {
    pub fn issuer(&self) -> Arc<Issuer> {
        Arc::clone(&self.loaded.load().issuer)
    }

    pub fn bundle(&self) -> Bundle {
        self.loaded.load().bundle.clone()
    }

    pub fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }
}

impl fmt::Debug for External {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("External").field("bundle", &self.bundle()).finish_non_exhaustive()
    }
}

/// Keeps an [`External`] up with its files until it is dropped.
#[derive(Debug)]
pub struct Handle(JoinHandle<()>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Loads the files, which must be good at the start, and keeps up with them.
pub async fn start(
    paths: Paths,
    trust_domain: TrustDomain,
    limits: Limits,
    clock: Clock,
) -> Result<(Arc<External>, Handle), Error> {
    let files = Files::read(&paths).await?;
    let keeper = Keeper::begin(&files, trust_domain, limits, clock)?;
    let external = Arc::clone(&keeper.external);
    Ok((external, Handle(tokio::spawn(keeper.run(paths)))))
}

/// The same for files that are handed over, which must be good at the start.
pub fn follow(
    files: watch::Receiver<Arc<Files>>,
    trust_domain: TrustDomain,
    limits: Limits,
    clock: Clock,
) -> Result<(Arc<External>, Handle), Error> {
    let first = Arc::clone(&files.borrow());
    let keeper = Keeper::begin(&first, trust_domain, limits, clock)?;
    let external = Arc::clone(&keeper.external);
    Ok((external, Handle(tokio::spawn(keeper.follow(files)))))
}

struct Keeper {
    trust_domain: TrustDomain,
    limits: Limits,
    clock: Clock,
    external: Arc<External>,
}

impl Keeper {
    fn begin(files: &Files, trust_domain: TrustDomain, limits: Limits, clock: Clock) -> Result<Self, Error> {
        let loaded = load(files, &trust_domain, limits, clock())?;
        let external = Arc::new(External {
            loaded: ArcSwap::from_pointee(loaded),
            state: watch::Sender::new(State::default()),
        });
        Ok(Self { trust_domain, limits, clock, external })
    }

    async fn follow(self, mut files: watch::Receiver<Arc<Files>>) {
        loop {
            let now = Arc::clone(&files.borrow_and_update());
            self.judge(Ok(&now));
            if files.changed().await.is_err() {
                return;
            }
        }
    }

    async fn run(self, paths: Paths) {
        let (notices, mut noticed) = mpsc::channel(1);
        // Held until the end: dropping it ends the notices.
        let _watcher = watch_folders(&paths, notices);
        let mut poll = tokio::time::interval(POLL_INTERVAL);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = poll.tick() => {}
                Some(()) = noticed.recv() => tokio::time::sleep(SETTLE).await,
            }
            while noticed.try_recv().is_ok() {}
            let files = Files::read(&paths).await;
            self.judge(files.as_ref());
        }
    }

    fn judge(&self, files: Result<&Files, &Error>) {
        let files = match files {
            Ok(files) => files,
            Err(error) => return self.report(error),
        };
        if files.digest() == self.external.loaded.load().digest {
            return self.take_on(None);
        }
        match load(files, &self.trust_domain, self.limits, (self.clock)()) {
            Ok(loaded) => self.take_on(Some(loaded)),
            Err(error) => self.report(&error),
        }
    }

    fn take_on(&self, loaded: Option<Loaded>) {
        let changed = loaded.is_some();
        if let Some(loaded) = loaded {
            tracing::info!(root = %bundle::Fingerprint::of(loaded.issuer.root()), "issuer's files taken on");
            self.external.loaded.store(Arc::new(loaded));
        }
        self.external.state.send_if_modified(|state| {
            state.reloads += u64::from(changed);
            state.error.take().is_some() || changed
        });
    }

    fn report(&self, error: &Error) {
        let text = error.to_string();
        self.external.state.send_if_modified(|state| {
            let news = state.error.as_ref() != Some(&text);
            if news {
                tracing::warn!(error = %error, "issuer's files not taken on; the former issuer stays");
                state.error = Some(text);
            }
            news
        });
    }
}

/// Folders rather than files: Kubernetes exchanges a whole folder behind a symbolic link.
fn watch_folders(paths: &Paths, notices: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
    let on_event = move |event: notify::Result<notify::Event>| {
        // Reading the files is an event too.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            let _ = notices.try_send(());
        }
    };
    let watched = notify::recommended_watcher(on_event).and_then(|mut watcher| {
        for folder in paths.folders() {
            watcher.watch(&folder, notify::RecursiveMode::NonRecursive)?;
        }
        Ok(watcher)
    });
    watched.inspect_err(|error| tracing::warn!(error = %error, "issuer's files are polled only")).ok()
}

#[cfg(test)]
mod tests;
