//! Everything that is known of one sidecar.

use jiff::Timestamp;

use super::{Standing, expiry, health_tone};
use crate::answers::{Report, Served, Sidecar};
use crate::moments;
use crate::table::{Cell, Table};
use crate::terminal::{Tone, plain};

pub(super) fn render(sidecar: &Sidecar, now: Timestamp, colour: bool) -> String {
    let mut text = facts(sidecar, now).render_bare(colour);
    text.push('\n');
    if let Some(report) = sidecar.report.as_ref().filter(|report| !report.servers.is_empty()) {
        text.push_str(&servers(report).render(colour));
        text.push('\n');
    }
    text.push_str(&types(sidecar).render(colour));
    for (of, nack) in sidecar.nacks() {
        let head = plain(&format!("refused {} at {}:", of.r#type, nack.at)).into_owned();
        let message = plain(&nack.message).replace('\n', "\n  ");
        text.push_str(&format!("\n{}\n  {message}\n", Tone::Bad.paint(&head, colour)));
    }
    text
}

fn facts(sidecar: &Sidecar, now: Timestamp) -> Table {
    let standing = Standing::of(sidecar);
    let certificate = sidecar.certificate.clone().unwrap_or_default();
    let text = |text: &Option<String>| Cell::new(text.as_deref().unwrap_or_default());
    let since = |at: &Option<String>| at.as_deref().map(|at| moments::ago(at, now)).unwrap_or_default();
    let connection = match (sidecar.connected, &sidecar.disconnected_at) {
        (true, _) => format!("since {}", since(&sidecar.connected_at)),
        (false, at) => format!("lost {}", since(at)),
    };
    let mut table = Table::new(vec!["", ""]);
    let mut fact = |name: &str, cell: Cell| table.push(vec![Cell::new(name).toned(Tone::Strong), cell]);
    fact("node", Cell::new(&sidecar.node));
    fact("identity", text(&sidecar.identity));
    fact("sync", Cell::new(standing.word()).toned(standing.tone()));
    fact("version", text(&sidecar.version));
    fact("peer", text(&sidecar.peer));
    fact("connected", Cell::new(connection));
    fact("serves", Cell::new(sidecar.serves.join(", ")));
    fact("revision", Cell::new(sidecar.seen_revision.map(|at| at.to_string()).unwrap_or_default()));
    fact("certificate", text(&certificate.serial));
    fact("expires", expiry(certificate.expires_at.as_deref(), now));
    fact("root", text(&certificate.root));
    if let Some(report) = &sidecar.report {
        let uptime = report.uptime_seconds.map(|secs| moments::length(secs.try_into().unwrap_or(i64::MAX)));
        fact("uptime", Cell::new(uptime.unwrap_or_default()));
        fact("reached at", text(&report.inbound_address));
        fact("reported", Cell::new(since(&report.at)));
    }
    table
}

fn servers(report: &Report) -> Table {
    let mut table = Table::new(vec!["SERVER", "HEALTH", "IN FLIGHT", "DETAIL"]);
    for one in &report.servers {
        table.push(vec![
            Cell::new(&one.server),
            Cell::new(&one.health).toned(health_tone(&one.health)),
            Cell::new(one.in_flight.map(|count| count.to_string()).unwrap_or_default()),
            detail(one),
        ]);
    }
    table
}

/// Why it does not serve, and where it can be called past its sidecar.
fn detail(one: &Served) -> Cell {
    let why = one.detail.clone().filter(|it| !it.is_empty());
    let past = (!one.exposed_at.is_empty())
        .then(|| format!("can be called past the sidecar at {}", one.exposed_at.join(", ")));
    let tone = if past.is_some() { Tone::Bad } else { Tone::Plain };
    Cell::new(why.into_iter().chain(past).collect::<Vec<_>>().join("; ")).toned(tone)
}

fn types(sidecar: &Sidecar) -> Table {
    let mut table = Table::new(vec!["TYPE", "SYNC", "RESOURCES", "SENT", "ACKNOWLEDGED", "LAST ACK"]);
    for one in &sidecar.types {
        let tone = match one.sync.as_str() {
            "synced" => Tone::Good,
            "rejected" => Tone::Bad,
            _ => Tone::Warn,
        };
        let revision = |at: Option<u64>| Cell::new(at.map(|at| at.to_string()).unwrap_or_default());
        let ack = one.last_ack_age_seconds.map(|secs| format!("{} ago", moments::length(secs as i64)));
        table.push(vec![
            Cell::new(&one.r#type),
            Cell::new(&one.sync).toned(tone),
            Cell::new(one.resources.to_string()),
            revision(one.sent_revision),
            revision(one.acknowledged_revision),
            Cell::new(ack.unwrap_or_default()),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_can_be_called_past_its_sidecar_says_where_beside_why_it_does_not_serve() {
        let said = |detail: &str, exposed_at: &[&str]| {
            let exposed_at = exposed_at.iter().map(|it| (*it).to_owned()).collect();
            let served = Served { detail: Some(detail.to_owned()), exposed_at, ..Served::default() };
            let told = servers(&Report { servers: vec![served], ..Report::default() }).render_bare(false);
            // What is not known is a dash.
            told.split_whitespace().filter(|it| *it != "-").collect::<Vec<_>>().join(" ")
        };
        assert_eq!(said("", &[]), "");
        assert_eq!(said("disk full", &[]), "disk full");
        let past = "can be called past the sidecar at 0.0.0.0:1, [::]:1";
        assert_eq!(said("", &["0.0.0.0:1", "[::]:1"]), past);
        assert_eq!(said("disk full", &["0.0.0.0:1", "[::]:1"]), format!("disk full; {past}"));
    }
}
