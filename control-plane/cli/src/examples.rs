//! The example resources that `weft up` applies when it is given none: those of `deploy/examples`.

use crate::files::File;

macro_rules! examples {
    ($($name:literal),* $(,)?) => {
        /// Name and text of each file, in order.
        pub(crate) const FILES: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../../deploy/examples/", $name)))),*];
    };
}

examples![
    "01-files-server.yaml",
    "02-access.yaml",
    "03-quotas.yaml",
    "04-tools-and-telemetry.yaml",
    "05-routes-and-virtual-server.yaml",
    "06-gateway-and-trust.yaml",
];

pub(crate) fn files() -> Vec<File> {
    FILES.iter().map(|(name, text)| File { name: format!("examples/{name}"), text: (*text).to_owned() }).collect()
}
