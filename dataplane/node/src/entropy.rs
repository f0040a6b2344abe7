//! Where a shard's and an agent's random numbers come from.

use fastrand::Rng;
use trunkline_wire::auth::random_bytes;

/// A source of nonces.
#[derive(Clone, Debug)]
pub enum Entropy {
    /// The operating system.
    System,
    /// A seed: the same run again. For the simulator only; whoever knows the seed knows the nonces.
    Seeded(Rng),
}

impl Entropy {
    /// From a seed.
    pub fn seeded(seed: u64) -> Entropy {
        Entropy::Seeded(Rng::with_seed(seed))
    }

    /// 32 bytes that were never used before.
    pub fn nonce(&mut self) -> [u8; 32] {
        match self {
            Entropy::System => random_bytes(),
            Entropy::Seeded(rng) => {
                let mut bytes = [0; 32];
                rng.fill(&mut bytes);
                bytes
            }
        }
    }
}
