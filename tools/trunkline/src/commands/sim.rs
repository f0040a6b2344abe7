//! `trunkline sim`: in the making.

/// In the making.
#[derive(clap::Args)]
pub struct Args {}

/// In the making.
///
/// # Errors
/// Always.
pub fn run(_: &Args) -> anyhow::Result<()> {
    anyhow::bail!("in the making")
}
