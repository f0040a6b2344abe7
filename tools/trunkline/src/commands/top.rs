//! `trunkline top`: what nodes and their cores do, now.

use std::io::{IsTerminal, Write, stdout};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers, poll, read};
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
};
use crossterm::{cursor, queue, style};
use serde_json::json;

use crate::http;
use crate::top::figures::Node;
use crate::top::sample::Sample;
use crate::top::view::{Shown, lines};

/// Shows what nodes and their cores do: messages a second, processor time, batch sizes, depths of queues, system calls; links, hits, sessions.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  trunkline top
  trunkline top --http 10.0.0.2:7480,10.0.0.3:7480 --interval 2s
  trunkline top --once --json                              for scripts

IN/S counts the messages that came in from devices and from other nodes, OUT/S those written to devices. HITS is the share of the messages
for other nodes' devices that went straight there. FR/RECV and FR/SEND are frames for each receive and send, BATCH completions for each
turn. QUEUED are bytes that wait at connections, MESH bytes that wait for other shards, OPEN confirmed messages without a report. CALL/MSG
are system calls for each message that came in. Keys: q ends it, the arrows scroll.")]
pub struct Args {
    /// The nodes' HTTP ports.
    #[arg(long, value_delimiter = ',', default_value = super::HTTP_ADDRESS)]
    http: Vec<SocketAddr>,
    /// How long each look takes.
    #[arg(long, default_value = "1s", value_parser = super::duration)]
    interval: Duration,
    /// Looks once, prints it and ends.
    #[arg(long)]
    once: bool,
    /// Looks once, and prints one JSON object.
    #[arg(long)]
    json: bool,
}

/// Shows it until a key ends it, or once.
///
/// # Errors
/// No node answers; or there is no terminal to show it on.
pub fn run(args: &Args) -> anyhow::Result<()> {
    if args.http.len() > NODES_MAX {
        bail!("--http: at most {NODES_MAX} nodes");
    }
    if !(INTERVAL_MIN..=INTERVAL_MAX).contains(&args.interval) {
        bail!("--interval: {INTERVAL_MIN:?} to {INTERVAL_MAX:?}");
    }
    let first = look(&args.http);
    if let Some((address, error)) = first
        .iter()
        .find_map(|(address, _, sample)| Some((address, sample.as_ref().err()?)))
        && first.iter().all(|(_, _, sample)| sample.is_err())
    {
        bail!("{address}: {error}");
    }
    if args.once || args.json {
        std::thread::sleep(args.interval);
        let shown = figures(&first, &look(&args.http));
        if args.json {
            println!("{}", as_json(&shown, args.interval));
        } else {
            lines(&shown).iter().for_each(|line| println!("{line}"));
        }
        return Ok(());
    }
    if !stdout().is_terminal() {
        bail!("standard output is no terminal: use --once or --json");
    }
    watch(args, first)
}

/// When a node was asked, and what it said.
type Look = (SocketAddr, Instant, Result<Sample, String>);

/// Asks all nodes at once, so that one that hangs holds up none.
fn look(addresses: &[SocketAddr]) -> Vec<Look> {
    std::thread::scope(|scope| {
        let ask = |&address: &SocketAddr| {
            scope.spawn(move || {
                let said = match http::text(address, "/metrics", &[]) {
                    Ok((200, text)) => Ok(Sample::parse(&text)),
                    Ok((status, _)) => Err(format!("/metrics answers with status {status}")),
                    Err(error) => Err(format!("{error:#}")),
                };
                (address, Instant::now(), said)
            })
        };
        let asked: Vec<_> = addresses.iter().map(ask).collect();
        let answered = asked
            .into_iter()
            .map(|thread| thread.join().expect("asking does not panic"));
        answered.collect()
    })
}

fn figures(before: &[Look], after: &[Look]) -> Vec<Shown> {
    let pairs = before.iter().zip(after);
    let shown = pairs.map(|((address, from, before), (_, to, after))| {
        let node = match (before, after) {
            (Ok(before), Ok(after)) => Ok(Node::between(before, after, (*to - *from).as_secs_f64())),
            (Err(error), Ok(_)) | (_, Err(error)) => Err(error.clone()),
        };
        (*address, node)
    });
    shown.collect()
}

fn as_json(shown: &[Shown], interval: Duration) -> serde_json::Value {
    let nodes = shown.iter().map(|(address, node)| match node {
        Ok(node) => {
            let mut value = json!(node);
            value["http"] = address.to_string().into();
            value
        }
        Err(error) => json!({ "http": address.to_string(), "error": error }),
    });
    json!({ "seconds": interval.as_secs_f64(), "nodes": nodes.collect::<Vec<_>>() })
}

fn watch(args: &Args, mut before: Vec<Look>) -> anyhow::Result<()> {
    let _terminal = Terminal::enter().context("the terminal")?;
    let mut scrolled = 0;
    let mut shown = vec!["looking…".to_owned()];
    loop {
        draw(&shown, &mut scrolled)?;
        let until = Instant::now() + args.interval;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            if !poll(left)? {
                break;
            }
            match read()? {
                Event::Key(key) if ends(key) => return Ok(()),
                Event::Key(key) => match key.code {
                    KeyCode::Up => scrolled = scrolled.saturating_sub(1),
                    KeyCode::Down => scrolled += 1,
                    _ => continue,
                },
                Event::Resize(..) => {}
                _ => continue,
            }
            draw(&shown, &mut scrolled)?;
        }
        let after = look(&args.http);
        shown = lines(&figures(&before, &after));
        before = after;
    }
}

fn ends(key: KeyEvent) -> bool {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) || control && key.code == KeyCode::Char('c')
}

/// Shows the lines that fit, from the one that was scrolled to.
fn draw(shown: &[String], scrolled: &mut usize) -> anyhow::Result<()> {
    let (columns, rows) = size()?;
    *scrolled = (*scrolled).min(shown.len().saturating_sub(rows.into()));
    let mut out = stdout().lock();
    queue!(out, cursor::MoveTo(0, 0))?;
    for (row, line) in (0..rows).zip(shown[*scrolled..].iter()) {
        let fits: String = line.chars().take(columns.into()).collect();
        queue!(
            out,
            cursor::MoveTo(0, row),
            style::Print(fits),
            Clear(ClearType::UntilNewLine)
        )?;
    }
    if shown.len() < rows.into() {
        queue!(
            out,
            cursor::MoveTo(0, shown.len() as u16),
            Clear(ClearType::FromCursorDown)
        )?;
    }
    Ok(out.flush()?)
}

/// The terminal while it is ours; given back as it was, whatever happens.
struct Terminal;

impl Terminal {
    fn enter() -> std::io::Result<Terminal> {
        enable_raw_mode()?;
        let terminal = Terminal;
        let mut out = stdout().lock();
        queue!(out, EnterAlternateScreen, cursor::Hide)?;
        out.flush()?;
        Ok(terminal)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let mut out = stdout().lock();
        let _ = queue!(out, cursor::Show, LeaveAlternateScreen);
        let _ = out.flush();
        let _ = disable_raw_mode();
    }
}

/// A screen doesn't show more, and each has a thread while it's asked.
const NODES_MAX: usize = 64;
/// What shards count is published ten times a second.
const INTERVAL_MIN: Duration = Duration::from_millis(200);
const INTERVAL_MAX: Duration = Duration::from_secs(3600);
