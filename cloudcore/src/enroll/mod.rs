//! Who may be a node: the CA and the cluster's epoch, join tokens, accepted keys and bans.
//!
//! All of it is Secrets of the release's namespace, labelled `tombolo.dev/kind`; nothing else is
//! kept. What decides is pure (`judge`); what is here carries it out, each step one
//! compare-and-swap, so that replicas may race and a lost reply may be asked for again.
//!
//! ```text
//! request -> banned? -> token good? -> name and key free? -> record the use -> accept the key -> sign
//!
//! renewal -> certificate and key proven? -> not too late? -> banned? -> key still accepted? -> sign
//! ```
//!
//! **Invariant:** nothing is signed before the token's use, with the key's hash, is recorded, and a
//! name has at most one accepted key.

mod authority;
mod bans;
mod ca;
mod epoch;
mod exchange;
mod judge;
mod judge_renewal;
mod known;
mod life;
mod nodes;
mod pace;
mod records;
mod renew;
mod secrets;
mod serving;
mod tokens;

pub use authority::{Authority, AuthorityError, Settings};
pub use bans::BannedKey;
pub use ca::CaError;
pub use epoch::Raised;
pub use judge::Rejected;
pub use life::{NodeLife, UnfitLife};
pub use nodes::EnrolledNode;
pub use records::Damaged;
pub use renew::Renewed;
pub use tokens::{TokenInfo, TokenSpec};
