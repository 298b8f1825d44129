//! `weft check --watch`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::fake::{Fake, command, ok};
use crate::args::Command;
use crate::commands::check::watch::run;
use crate::failure::ExitCode;
use crate::terminal::Terminal;

/// A mesh whose one check is found so in one look after the other; after the last of them, Ctrl-C is pressed.
async fn watched(words: &[&str], outcomes: &'static [&'static str]) -> (ExitCode, String) {
    let (pressed, press) = oneshot::channel();
    let (looks, pressed) = (AtomicUsize::new(0), Mutex::new(Some(pressed)));
    let fake = Fake::start(move |asked| match asked.line.starts_with("GET /v1/checks") {
        true => {
            let look = looks.fetch_add(1, Ordering::Relaxed);
            // The look after the last is broken off.
            if look == outcomes.len()
                && let Some(pressed) = pressed.lock().unwrap().take()
            {
                let _ = pressed.send(());
            }
            let outcome = outcomes.get(look).unwrap_or(&"ok");
            let (why, remedy) = if *outcome == "ok" { ("", "") } else { ("it matters", "mend it") };
            ok(json!({ "at": "2026-05-01T10:00:00Z", "ok": *outcome != "failed", "items": [
                { "group": "quota", "name": "leases", "outcome": outcome, "detail": format!("look {look}"),
                  "why": why, "remedy": remedy } ] }))
        }
        false => ok(json!({ "version": env!("CARGO_PKG_VERSION"), "apiVersion": "v1", "trustDomain": "d",
            "storeRevision": 9, "publishedRevision": 7 })),
    })
    .await;
    let words = [&["check", "--watch", "--every", "100ms", "--only", "quota"], words].concat();
    let Command::Check(args) = command(&words) else { panic!("{words:?}") };
    let (terminal, out, _) = Terminal::captured("", false);
    let context = fake.context(terminal);
    let code = run(&args, &context, async { _ = press.await }).await;
    (code.unwrap(), out.text())
}

#[tokio::test]
async fn everything_is_told_once_and_then_what_changed() {
    let (code, text) = watched(&[], &["ok", "ok", "failed", "failed", "ok", "failed"]).await;
    assert_eq!(code, ExitCode::Failed, "as it was found last");
    let (first, changes) = text.rsplit_once("\n\n").unwrap_or_else(|| panic!("{text}"));
    assert!(first.contains("\u{2713} leases: look 0"), "{text}");
    let changes: Vec<_> = changes.lines().map(|line| line.split_once("Z ").map_or(line, |it| it.1)).collect();
    let expected = [
        "quota: \u{2717} leases: look 2",
        "      why: it matters",
        "      do: mend it",
        "quota: \u{2713} leases: look 4",
        "quota: \u{2717} leases: look 5",
        "      why: it matters",
        "      do: mend it",
    ];
    assert_eq!(changes, expected, "{text}");
}

#[tokio::test]
async fn programs_get_a_report_per_line_whenever_something_changed() {
    let (code, text) = watched(&["-o", "json"], &["failed", "failed", "ok"]).await;
    assert_eq!(code, ExitCode::Done);
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let oks: Vec<_> = lines.iter().map(|line| line["ok"].as_bool().unwrap()).collect();
    assert_eq!(oks, [false, true]);
}

#[tokio::test]
async fn who_ends_it_before_the_first_look_was_told_nothing_good() {
    let (terminal, ..) = Terminal::captured("", false);
    let fake = Fake::start(|_| ok(json!({}))).await;
    let Command::Check(args) = command(&["check", "--watch"]) else { panic!("it is") };
    let code = run(&args, &fake.context(terminal), std::future::ready(())).await;
    assert_eq!(code.unwrap(), ExitCode::Failed);
}
