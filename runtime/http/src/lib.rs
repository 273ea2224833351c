//! What the servers of this program have in common: connections that are bounded, patient and ended in
//! good order, and files as answers, whole or in part. What is answered, to whom, and with which
//! errors is theirs.

mod connections;
mod patient;
mod range;

pub use connections::{Connections, ENDING, left, listening, runtime};
pub use range::answer as file_answer;
