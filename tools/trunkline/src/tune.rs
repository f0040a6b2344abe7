//! What `trunkline tune` tries and how it judges: [`space`] names the candidates, [`rank`] orders what was measured, and says what is
//! within the noise. Both are pure; the command starts the servers and loads them.

pub mod rank;
pub mod space;
