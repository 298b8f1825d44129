//! The sidecar's command.

use std::io::Write;
use std::process::ExitCode;

use weft_sidecar::stdio::launch;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(first) if first == launch::SUBCOMMAND => launch::main(args),
        _ => {
            let _ = writeln!(std::io::stderr(), "usage: weft-sidecar launch …");
            ExitCode::from(2)
        }
    }
}
