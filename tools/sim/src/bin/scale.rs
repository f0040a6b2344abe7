//! Writes `tools/sim/SCALE.md` to standard output: see `trunkline_sim::scale`.
#![forbid(unsafe_code)]

fn main() {
    print!("{}", trunkline_sim::scale::page());
}
