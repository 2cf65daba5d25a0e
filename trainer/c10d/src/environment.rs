use std::fmt::Display;
use std::str::FromStr;

use crate::Error;

/// A process's place in a job, as torchrun says it in the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// `RANK`: which of all processes this is; 0 writes.
    pub rank: usize,
    /// `LOCAL_RANK`: which on this machine, and so which GPU; 0 when absent.
    pub local_rank: usize,
    /// `LOCAL_WORLD_SIZE`: how many are on this machine and share its processors; 1 when absent.
    pub local_world_size: usize,
    /// `WORLD_SIZE`: how many there are.
    pub world_size: usize,
    /// `MASTER_ADDR`: where they meet, the machine of rank 0.
    pub master_addr: String,
    /// `MASTER_PORT`.
    pub master_port: u16,
    /// torchrun keeps the meeting place itself (`TORCHELASTIC_USE_AGENT_STORE`); else rank 0 does.
    pub agent_serves: bool,
    /// `TORCHELASTIC_RESTART_COUNT`: which attempt of the job this is.
    pub attempt: u64,
}

impl Environment {
    /// What this process was started with; `None` when neither `RANK` nor `WORLD_SIZE` is set: it is alone.
    ///
    /// # Errors
    /// A variable that is absent beside the others, or out of range.
    pub fn read() -> Result<Option<Self>, Error> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// The same of other variables than the process's.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, Error> {
        if variable("RANK").is_none() && variable("WORLD_SIZE").is_none() {
            return Ok(None);
        }
        let world_size = number(&variable, "WORLD_SIZE", 1, 1 << 20, None)?;
        let rank = number(&variable, "RANK", 0, world_size - 1, None)?;
        let local_world_size = number(&variable, "LOCAL_WORLD_SIZE", 1, world_size, Some(1))?;
        let environment = Self {
            rank,
            local_rank: number(&variable, "LOCAL_RANK", 0, world_size - 1, Some(0))?,
            local_world_size,
            world_size,
            master_addr: variable("MASTER_ADDR").filter(|host| !host.is_empty()).ok_or(Error::Environment {
                name: "MASTER_ADDR",
                expected: "the name or address of rank 0's machine".into(),
                found: "not set".into(),
            })?,
            master_port: number(&variable, "MASTER_PORT", 1, u16::MAX, None)?,
            agent_serves: variable("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value.eq_ignore_ascii_case("true")),
            attempt: number(&variable, "TORCHELASTIC_RESTART_COUNT", 0, u64::MAX, Some(0))?,
        };
        Ok(Some(environment))
    }

    /// Whether this is the one process that writes.
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }
}

fn number<N: FromStr + PartialOrd + Display>(
    variable: impl Fn(&str) -> Option<String>,
    name: &'static str,
    least: N,
    most: N,
    absent: Option<N>,
) -> Result<N, Error> {
    let found = match (variable(name), absent) {
        (None, Some(value)) => return Ok(value),
        (None, None) => "not set".into(),
        (Some(text), _) => match text.trim().parse::<N>() {
            Ok(value) if value >= least && value <= most => return Ok(value),
            _ => text,
        },
    };
    Err(Error::Environment { name, expected: format!("a number from {least} to {most}"), found })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Option<Environment>, Error> {
        Environment::from_variables(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn alone_without_variables() {
        assert_eq!(of(&[("MASTER_ADDR", "a")]).unwrap(), None);
    }

    #[test]
    fn what_torchrun_sets() {
        let found = of(&[
            ("RANK", "3"),
            ("LOCAL_RANK", "1"),
            ("LOCAL_WORLD_SIZE", "2"),
            ("WORLD_SIZE", "4"),
            ("MASTER_ADDR", "node0"),
            ("MASTER_PORT", "29500"),
            ("TORCHELASTIC_USE_AGENT_STORE", "True"),
            ("TORCHELASTIC_RESTART_COUNT", "2"),
        ]);
        let expected = Environment {
            rank: 3,
            local_rank: 1,
            local_world_size: 2,
            world_size: 4,
            master_addr: "node0".into(),
            master_port: 29500,
            agent_serves: true,
            attempt: 2,
        };
        assert_eq!(found.unwrap(), Some(expected));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (variables, expected) in [
            (vec![("RANK", "0")], "WORLD_SIZE is not set"),
            (vec![("RANK", "2"), ("WORLD_SIZE", "2")], "RANK is 2: expected a number from 0 to 1"),
            (vec![("RANK", "x"), ("WORLD_SIZE", "2")], "RANK is x: expected a number from 0 to 1"),
            (vec![("RANK", "0"), ("WORLD_SIZE", "0")], "WORLD_SIZE is 0"),
            (vec![("RANK", "0"), ("WORLD_SIZE", "2")], "MASTER_ADDR is not set"),
            (vec![("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "a"), ("MASTER_PORT", "70000")], "MASTER_PORT is 70000"),
        ] {
            let message = of(&variables).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
