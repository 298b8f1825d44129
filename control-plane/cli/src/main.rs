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
mod moments;
mod names;
mod output;
mod running;
mod serve;
mod table;
mod terminal;
#[cfg(test)]
mod tests;

#[tokio::main]
async fn main() -> std::process::ExitCode {
    app::main(std::env::args_os()).await.into()
}
