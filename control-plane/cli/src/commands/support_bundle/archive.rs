//! The file: an archive of all parts, with a manifest in front.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use serde_json::{Value, json};
use tar::{Builder, Header};
use weft_proto::resource::redact::scrub;

use super::parts::Gathered;
use crate::commands::version::CLIENT;
use crate::failure::Failure;

/// The folder in the archive.
const FOLDER: &str = "weft-support";
/// Bytes of all parts; those beyond are left out.
const TOTAL_BYTES_MAX: usize = 32 << 20;

pub(super) fn pack(gathered: &Gathered, now: Timestamp) -> Result<Vec<u8>, Failure> {
    packed(gathered, now).map_err(|error| Failure::failed("the archive could not be made").because(error))
}

fn packed(gathered: &Gathered, now: Timestamp) -> io::Result<Vec<u8>> {
    let mut room = TOTAL_BYTES_MAX;
    let fits = |bytes: usize| {
        let fits = bytes <= room;
        room -= if fits { bytes } else { 0 };
        fits
    };
    let (parts, beyond): (Vec<_>, Vec<_>) = {
        let mut fits = fits;
        gathered.parts.iter().partition(|part| fits(part.text.len()))
    };
    let absent = gathered.absent.iter().map(|(file, why)| json!({ "file": file, "why": scrub(why) }));
    let beyond =
        beyond.iter().map(|part| json!({ "file": part.file, "why": "the archive would be too large" }));
    let files = parts.iter().map(|part| {
        json!({ "file": part.file, "bytes": part.text.len(), "itemsLeftOut": part.left_out,
            "valuesWithheld": part.withheld })
    });
    let manifest = json!({
        "madeBy": format!("weft {CLIENT}"),
        "madeAt": now.to_string(),
        "files": files.collect::<Vec<_>>(),
        "absent": absent.chain(beyond).collect::<Vec<Value>>(),
    });
    let mut archive = Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    add(&mut archive, "manifest.json", &format!("{manifest:#}\n"), now)?;
    for part in parts {
        add(&mut archive, part.file, &part.text, now)?;
    }
    archive.into_inner()?.finish()
}

fn add(archive: &mut Builder<GzEncoder<Vec<u8>>>, file: &str, text: &str, now: Timestamp) -> io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_size(text.len() as u64);
    header.set_mode(0o600);
    header.set_mtime(u64::try_from(now.as_second()).unwrap_or(0));
    archive.append_data(&mut header, format!("{FOLDER}/{file}"), text.as_bytes())
}

/// Writes a file that only its owner may read, and that was not there.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    opened.and_then(|mut file| file.write_all(bytes)).map_err(|error| {
        let failure = Failure::failed(format!("{} cannot be written", path.display())).because(&error);
        match error.kind() {
            io::ErrorKind::AlreadyExists => failure.then("name another file with --output"),
            _ => failure,
        }
    })
}
