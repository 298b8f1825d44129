//! What the containers beside this sidecar are asked in the name of the kubelet.
//!
//! A kubelet asks a container by the address of its pod, where a server that listens on loopback does not hear it, and
//! one whose traffic is captured would be asked in plain HTTP through a door that speaks mTLS. So the kubelet asks the
//! sidecar, at its health door, and the sidecar asks the container: what its file has for that container and kind, and
//! nothing that whoever asks could choose.

mod settings;

pub use settings::{Error, HttpGet, Kind, Name, Probe, Probes, Question, Scheme};
