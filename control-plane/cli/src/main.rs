//! `weft`: the operator's command. It says to the control plane's API what an operator means, and shows the answers.
//!
//! Not here: any logic that the API lacks. Whatever this command can do, a script with an HTTP client can do too.

mod answers;
mod app;
mod args;
mod client;
mod columns;
mod commands;
mod credentials;
mod examples;
mod failure;
mod files;
mod in_cluster;
mod moments;
mod names;
mod output;
mod running;
mod screen;
mod serve;
mod table;
mod terminal;
#[cfg(test)]
mod tests;
mod up;

fn main() -> std::process::ExitCode {
    let mut words = std::env::args_os().skip(1);
    // Two roles in which this program is started by itself, and which have nothing to do with an operator's.
    match words.next().as_deref().and_then(std::ffi::OsStr::to_str) {
        Some("launch") => return weft_sidecar::stdio::launch::main(words),
        Some("example-server") => return example_server(),
        _ => {}
    }
    let command = app::main(std::env::args_os());
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(command).into(),
        Err(_) => std::process::ExitCode::FAILURE,
    }
}

fn example_server() -> std::process::ExitCode {
    // Its pipe ends with the sidecar that started it, which is no failure.
    let _ = up::example_server::serve(std::io::stdin().lock(), std::io::stdout().lock());
    std::process::ExitCode::SUCCESS
}
