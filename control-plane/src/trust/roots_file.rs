//! The roots in a file, for whoever wants to know the control plane before there is a certificate.

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;
use weft_certs::bundle::TrustStore;
use weft_certs::pem;

/// Written beside and renamed, so that whoever reads it finds the old roots or the new ones.
pub(crate) fn write(bundles: &TrustStore, path: &Path) -> std::io::Result<()> {
    let text: String = bundles.load().iter().map(|bundle| pem::encode(bundle.roots())).collect();
    let beside = path.with_extension("pem.new");
    std::fs::write(&beside, text)?;
    std::fs::rename(beside, path)
}

/// Writes them again whenever they are others.
pub(crate) async fn follow(bundles: TrustStore, path: PathBuf, shutdown: CancellationToken) {
    let mut changes = bundles.watch();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
        changes.mark_unchanged();
        let (bundles, to) = (bundles.clone(), path.clone());
        let written = tokio::task::spawn_blocking(move || write(&bundles, &to)).await;
        if !matches!(written, Ok(Ok(()))) {
            tracing::error!(path = %path.display(), "the roots could not be written");
        }
    }
}
