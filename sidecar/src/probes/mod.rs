//! What the containers beside this sidecar are asked in the name of the kubelet.
//!
//! A kubelet asks a container by the address of its pod, where a server that listens on loopback does not hear it, and
//! one whose traffic is captured would be asked in plain HTTP through a door that speaks mTLS. So the kubelet asks the
//! sidecar, at its health door, and the sidecar asks the container: what its file has for that container and kind, and
//! nothing that whoever asks could choose.
//!
//! Each probe is made once at a time, and whoever asks meanwhile is told the same: everyone who reaches the door may ask,
//! and nobody must be able to keep the kubelet from its answer, or a container busy.

mod ask;
mod grpc;
mod http;
mod settings;
mod trusting;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use weft_proto::name::HostPort;

pub use settings::{Error, HttpGet, Kind, Name, Probe, Probes, Question, Scheme};

/// Below which path they are asked for, at the health door.
pub const PATH: &str = "/app-probes/";

/// What a container answered: that it is well, with what there is to say besides; or why not.
pub type Outcome = Result<Option<Arc<str>>, Arc<str>>;

/// Makes the probes of a file.
#[derive(Debug, Default)]
pub struct Prober {
    probes: HashMap<String, Arc<Asked>>,
    longest: Duration,
}

/// One probe, and how it goes.
#[derive(Debug)]
struct Asked {
    name: Name,
    probe: Probe,
    addresses: Arc<[IpAddr]>,
    under_way: Mutex<Option<watch::Receiver<Option<Outcome>>>>,
    last: Mutex<Option<Outcome>>,
}

impl Prober {
    /// `address` is where others reach this sidecar, which is where the kubelet would ask its containers.
    pub fn new(probes: &Probes, address: Option<&HostPort>) -> Self {
        let addresses: Arc<[IpAddr]> = addresses(address).into();
        let asked = |(name, probe): (&Name, &Probe)| {
            let asked = Asked {
                name: name.clone(),
                probe: probe.clone(),
                addresses: Arc::clone(&addresses),
                under_way: Mutex::default(),
                last: Mutex::default(),
            };
            (name.to_string(), Arc::new(asked))
        };
        Self { probes: probes.iter().map(asked).collect(), longest: probes.longest() }
    }

    /// The longest that an answer takes.
    pub const fn longest(&self) -> Duration {
        self.longest
    }

    /// Makes the probe of this name, `<container>/<kind>`. None if the file has no such probe.
    pub async fn ask(&self, name: &str) -> Option<Outcome> {
        let mut told = self.probes.get(name)?.begun();
        let outcome = told.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        Some(outcome.unwrap_or_else(|| Err("the probe broke off".into())))
    }
}

impl Asked {
    /// The one that is under way; begun if there is none.
    fn begun(self: &Arc<Self>) -> watch::Receiver<Option<Outcome>> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(told) = &*under_way
            && told.borrow().is_none()
            && told.has_changed().is_ok()
        {
            return told.clone();
        }
        let (tell, told) = watch::channel(None);
        *under_way = Some(told.clone());
        let asked = Arc::clone(self);
        tokio::spawn(async move {
            let outcome = ask::ask(&asked.probe, &asked.addresses).await;
            asked.note(&outcome);
            tell.send_replace(Some(outcome));
        });
        told
    }

    /// Says what is another than the last time.
    fn note(&self, outcome: &Outcome) {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).replace(outcome.clone());
        if last.as_ref() == Some(outcome) {
            return;
        }
        let probe = &self.name;
        match outcome {
            Err(why) => tracing::warn!(%probe, %why, "a probe fails"),
            Ok(Some(but)) => tracing::info!(%probe, %but, "a probe succeeds"),
            Ok(None) => tracing::info!(%probe, "a probe succeeds"),
        }
    }
}

/// Where containers are asked: first where the kubelet would, which is the pod's own address, so that whoever it would have
/// heard is heard; then on loopback, for those that listen nowhere else.
fn addresses(address: Option<&HostPort>) -> Vec<IpAddr> {
    let own = address.and_then(|address| address.host().trim_matches(['[', ']']).parse::<IpAddr>().ok());
    let own = own.filter(|ip| !ip.is_unspecified() && !ip.is_loopback());
    own.into_iter().chain([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]).collect()
}

#[cfg(test)]
mod tests;
