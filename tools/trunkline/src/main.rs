//! `trunkline`: the one binary. Every subcommand parses, calls a library, and reports; decisions live below.
#![forbid(unsafe_code)]

mod advice;
mod chaos;
mod clock;
mod cluster;
mod commands;
mod control_http;
mod control_plane;
mod detour;
mod http;
mod output;
mod processes;
mod signals;
mod top;
mod tune;
mod workload;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Routes messages between devices that hold long-lived connections.
#[derive(Parser)]
#[command(name = "trunkline", version, max_term_width = 110, after_help = EXAMPLES)]
struct Cli {
    /// What is logged to standard error: error, warn, info, debug, trace, or a filter such as trunkline_node=debug.
    #[arg(
        long,
        global = true,
        env = "TRUNKLINE_LOG",
        default_value = "warn",
        value_name = "FILTER"
    )]
    log: String,
    /// Logs as one JSON object a line.
    #[arg(long, global = true)]
    log_json: bool,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  trunkline up                                  everything in one process, on this host
  trunkline listen --device bob                 in a second terminal
  trunkline send --from alice --to bob hello    in a third
  trunkline demo                                a cluster of separate processes, with traffic through it";

#[derive(Subcommand)]
enum Command {
    Up(Box<commands::up::Args>),
    Demo(commands::demo::Args),
    Node(Box<commands::node::Args>),
    Control(commands::control::Args),
    Send(commands::send::Args),
    Listen(commands::listen::Args),
    Load(Box<commands::load::Args>),
    Replay(commands::replay::Args),
    Explain(commands::explain::Args),
    Status(commands::status::Args),
    Token(commands::token::Args),
    Top(commands::top::Args),
    Tune(commands::tune::Args),
    Doctor(commands::doctor::Args),
    Sim(commands::sim::Args),
    Chaos(commands::chaos::Args),
}

impl Command {
    /// Whether all that it does is print what it finds: it serves nobody, and starts no other process.
    fn only_prints(&self) -> bool {
        match self {
            Command::Send(_)
            | Command::Listen(_)
            | Command::Load(_)
            | Command::Replay(_)
            | Command::Explain(_)
            | Command::Status(_)
            | Command::Token(_)
            | Command::Doctor(_)
            | Command::Sim(_) => true,
            Command::Control(args) => args.asks(),
            Command::Up(_)
            | Command::Demo(_)
            | Command::Node(_)
            | Command::Top(_)
            | Command::Tune(_)
            | Command::Chaos(_) => false,
        }
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return output::misused(&error.to_string()),
        // Help and version are no errors.
        Err(error) => error.exit(),
    };
    if let Err(error) = output::log_to_stderr(&cli.log, cli.log_json) {
        return output::failed(&error);
    }
    if cli.command.only_prints()
        && let Err(error) = signals::end_with_the_reader()
    {
        return output::failed(&error);
    }
    let result = match cli.command {
        Command::Up(args) => commands::up::run(*args),
        Command::Demo(args) => commands::demo::run(&args),
        Command::Node(args) => commands::node::run(*args),
        Command::Control(args) => commands::control::run(args),
        Command::Send(args) => commands::send::run(&args),
        Command::Listen(args) => commands::listen::run(&args),
        Command::Load(args) => commands::load::run(&args),
        Command::Replay(args) => commands::replay::run(&args),
        Command::Explain(args) => commands::explain::run(&args),
        Command::Status(args) => commands::status::run(&args),
        Command::Token(args) => commands::token::run(&args),
        Command::Top(args) => commands::top::run(&args),
        Command::Tune(args) => commands::tune::run(&args),
        Command::Doctor(args) => commands::doctor::run(&args),
        Command::Sim(args) => commands::sim::run(&args),
        Command::Chaos(args) => commands::chaos::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output::failed(&error),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_subcommand_s_arguments_fit_together() {
        Cli::command().debug_assert();
    }
}
