//! Opening the authority, wherever it is kept: here, in files that something else keeps, or in the hands of a cluster.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use weft_certs::ca::{self, Ca, Kek, Signer};
use weft_proto::name::TrustDomain;
use weft_proto::resource::kinds::Trust as TrustSpec;

use super::{Config, Error, KekSource};
use crate::clock;
use crate::metrics::Metrics;
use crate::store::Store;
use crate::trust::{self, Trust};
use crate::xds::Hub;

/// Opens the authority, wherever it is kept, and what the mesh's trust is.
pub(super) async fn open_trust(
    config: &Config,
    trust_domain: TrustDomain,
    store: &Arc<dyn Store>,
    hub: &Arc<Hub>,
    metrics: &Arc<Metrics>,
) -> Result<(Arc<Trust>, Option<ca::external::Handle>), Error> {
    let shortest = TrustSpec::SVID_LIFETIME_MIN.duration().min(config.identity.lifetime_max);
    let lives = ca::Limits::new(shortest, TrustSpec::SVID_LIFETIME_MAX.duration(), Duration::from_secs(120))
        .map_err(Error::CertificateLimits)?;
    let kept = match (&config.cluster, &config.issuer_dir) {
        (Some(cluster), _) => Kept::Handed(cluster.issuer.clone()),
        (None, Some(folder)) => Kept::Outside(folder),
        (None, None) => Kept::Here(&config.kek),
    };
    let (signer, watching) = open_signer(&config.data_dir, kept, trust_domain.clone(), lives).await?;
    let trust = Trust::open(trust::Deps {
        signer,
        trust_domain,
        dns_names: own_names(&config.hosts),
        store: Arc::clone(store),
        intake: hub.intake(),
        metrics: Arc::clone(metrics),
    });
    Ok((trust.await?, watching))
}

/// Where the issuer is.
enum Kept<'a> {
    Here(&'a KekSource),
    Outside(&'a Path),
    Handed(watch::Receiver<Arc<ca::external::Files>>),
}

async fn open_signer(
    data_dir: &Path,
    kept: Kept<'_>,
    trust_domain: TrustDomain,
    limits: ca::Limits,
) -> Result<(Signer, Option<ca::external::Handle>), Error> {
    let clock = weft_certs::clock::wall();
    let kek = match kept {
        Kept::Here(kek) => kek,
        Kept::Outside(path) => {
            let paths = ca::external::Paths::in_folder(path);
            let started = ca::external::start(paths, trust_domain, limits, clock).await;
            let (external, watching) = started
                .map_err(|source| Error::Issuer { path: path.to_owned(), source: Box::new(source) })?;
            return Ok((Signer::External(external), Some(watching)));
        }
        Kept::Handed(files) => {
            let started = ca::external::follow(files, trust_domain, limits, clock);
            let (external, watching) = started.map_err(|error| Error::ClusterIssuer(Box::new(error)))?;
            return Ok((Signer::External(external), Some(watching)));
        }
    };
    let kek = match kek {
        KekSource::File { path, create: true } => Kek::open_or_create(path),
        KekSource::File { path, create: false } => Kek::from_file(path),
        KekSource::Value(text) => Kek::from_text(text),
    };
    let path = data_dir.join("ca");
    let authority = Ca::open_or_create(&path, kek.map_err(Error::Kek)?, trust_domain, limits, clock::now());
    let authority = authority.map_err(|source| Error::Authority { path, source: Box::new(source) })?;
    Ok((Signer::Own(Arc::new(authority)), None))
}

/// Every name under which somebody on this machine, or one that an operator named, reaches the control plane.
fn own_names(hosts: &[String]) -> Vec<String> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    names.extend(hosts.iter().cloned());
    names.dedup();
    names
}
