//! What every training of a tokenizer has in common: settings, networks and codes with their optimizers and moving averages, checkpoints,
//! the loop over the steps, and what is told and drawn about them.
//!
//! ```text
//! task (data, networks, loss) ─ state (networks, codes, averages) ─ checkpoint
//!            └──────────────────── run (steps, log, resume) ─ report (curves)
//! ```
//! A tokenizer's own part is a [`Task`]; [`run_task`] does the rest. `train_vqgan`, which has an adversary as well, builds on the same [`State`].

mod checkpoint;
mod coder;
mod codes;
mod options;
mod report;
mod run;
mod settings;
mod state;
mod task;

pub use checkpoint::{Checkpoint, Extra, identity, load_module};
pub use coder::{Coder, SharedPool, pool};
pub(crate) use coder::{frozen, optimize};
pub use codes::{Codes, System};
pub use options::{CodeOptions, DataOptions, RunOptions, SettingOptions, kind_of};
pub use report::{counts_svg, curves_svg, enlarged, pictures, read_log, utilization_svg, write_json};
pub(crate) use run::CURE;
pub use run::{Files, Line, Training, run_task, train};
pub use settings::Settings;
pub(crate) use state::MODEL;
pub use state::{Coding, State, TrainBackend, Trained, Updated};
pub use task::{Loss, Pass, Task, TrainedOf};
