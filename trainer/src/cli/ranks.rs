//! Several processes that train together, as torchrun and the like start them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use poselift_c10d::{Environment, Timeouts};
use tch::Device;
use trainer::distributed::Distributed;

#[derive(clap::Args, Clone, Copy, Debug)]
pub struct RankArgs {
    /// With several processes (torchrun, Slurm): a process that does not answer for so long ends the job. Longer than a validation takes.
    #[arg(long, value_name = "MINUTES", default_value_t = 30.0)]
    rank_timeout: f64,
}

impl RankArgs {
    /// Meets the other processes of the job; none when this one was started alone.
    pub fn join(self, device: Device) -> Result<Option<Distributed>> {
        let minutes = self.rank_timeout;
        ensure!(minutes > 0.0 && minutes <= 1e6, "--rank-timeout {minutes}: expected minutes above 0");
        let Some(environment) = Environment::read()? else { return Ok(None) };
        let collective = Duration::from_secs_f64(60.0 * minutes);
        let timeouts = Timeouts { join: Timeouts::default().join.min(collective), collective };
        let joined = Distributed::join(&environment, device, timeouts);
        joined.map(Some).with_context(|| format!("{} processes cannot train together", environment.world_size))
    }
}

/// Which process of its machine this is, and of how many: 0 of 1 when it is alone, or when the environment is not to be understood (who
/// trains together is told so by [`RankArgs::join`]).
fn local() -> (usize, usize) {
    Environment::read().ok().flatten().map_or((0, 1), |environment| (environment.local_rank, environment.local_world_size))
}

/// The GPU of this process.
pub fn gpu() -> usize {
    local().0
}

/// This process's share of the machine's processors.
pub fn share_of(processors: usize) -> usize {
    (processors / local().1).max(1)
}

/// Whether this is the process that writes.
pub fn writes() -> bool {
    Environment::read().ok().flatten().is_none_or(|environment| environment.is_first())
}
