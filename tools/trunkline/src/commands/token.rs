//! `trunkline token`: lets one device in until a date.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use trunkline_client::DeviceId;
use trunkline_wire::auth::DeviceToken;

use crate::clock::unix_seconds;

/// Signs a token that lets one device in.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  trunkline token --device alice --key-file token.key --valid 30d")]
pub struct Args {
    /// The device that the token is for.
    #[arg(long)]
    device: DeviceId,
    /// The key that the connection servers check tokens with (their setting `token_key_file`).
    #[arg(long, env = "TRUNKLINE_TOKEN_KEY_FILE")]
    key_file: PathBuf,
    /// For how long it lets the device in: 90s, 10m, 2h, 7d.
    #[arg(long, default_value = "30d", value_parser = super::duration)]
    valid: Duration,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

/// Signs and prints the token.
///
/// # Errors
/// If the key can't be read.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let key = super::secret("--key-file", &args.key_file)?;
    let expiry = unix_seconds().saturating_add(args.valid.as_secs());
    let token = DeviceToken::sign(&key, args.device.borrow(), expiry);
    if args.json {
        println!(
            "{}",
            json!({ "device": args.device.as_str(), "token": token.to_string(), "expires": expiry })
        );
    } else {
        println!("{token}");
    }
    Ok(())
}
