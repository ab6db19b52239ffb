//! A container's states and the moves between them. Pure: nothing here acts.

use std::time::SystemTime;

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// 0 to 255; 128 + n when a signal ended it.
    pub code: u8,
    /// When.
    pub at: SystemTime,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The id is taken; the bundle is being resolved and compiled.
    Creating,
    /// Ready to start.
    Created,
    /// Started.
    Running,
    /// Told to end; calls in flight finish.
    Stopping,
    /// Ended.
    Stopped(Exit),
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Creating => f.write_str("being created"),
            Self::Created => f.write_str("created and not started"),
            Self::Running => f.write_str("running"),
            Self::Stopping => f.write_str("stopping"),
            Self::Stopped(exit) => write!(f, "stopped with code {}", exit.code),
        }
    }
}

/// A call that the state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot {call} a container that is {from}")]
pub struct IllegalMove {
    /// The call.
    pub call: &'static str,
    /// The state that it met.
    pub from: State,
}

/// What a signal asks of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Signal 0 and signals that a server ignores by habit.
    Nothing,
    /// Finish what runs, then end.
    Drain,
    /// End now.
    Kill,
}

/// SIGKILL.
pub const KILL: u32 = 9;
/// SIGTERM.
pub const TERM: u32 = 15;

/// Decides what a signal asks. Unknown signals end a process by default, so they drain.
pub fn ask(signal: u32) -> Ask {
    match signal {
        // HUP, USR1, USR2, PIPE, CHLD, CONT, STOP, TSTP, TTIN, TTOU, URG, WINCH.
        0 | 1 | 10 | 12 | 13 | 17..=23 | 28 => Ask::Nothing,
        KILL => Ask::Kill,
        _ => Ask::Drain,
    }
}

/// The exit code of what a signal ended.
pub fn signal_code(signal: u32) -> u8 {
    u8::try_from(128 + signal.min(127)).unwrap_or(u8::MAX)
}

impl State {
    /// The bundle is ready.
    pub fn created(self) -> Result<Self, IllegalMove> {
        match self {
            Self::Creating => Ok(Self::Created),
            from => Err(IllegalMove {
                call: "finish creating",
                from,
            }),
        }
    }

    /// Task start.
    pub fn start(self) -> Result<Self, IllegalMove> {
        match self {
            Self::Created => Ok(Self::Running),
            from => Err(IllegalMove {
                call: "start",
                from,
            }),
        }
    }

    /// A signal that asks for an end.
    pub fn kill(self) -> Result<Self, IllegalMove> {
        match self {
            Self::Created | Self::Running | Self::Stopping => Ok(Self::Stopping),
            from => Err(IllegalMove { call: "kill", from }),
        }
    }

    /// The end. The first exit stays.
    pub fn exited(self, exit: Exit) -> Self {
        match self {
            Self::Stopped(first) => Self::Stopped(first),
            _ => Self::Stopped(exit),
        }
    }

    /// Whether task delete is allowed: only before start and after the end.
    pub fn delete(self) -> Result<Option<Exit>, IllegalMove> {
        match self {
            Self::Created => Ok(None),
            Self::Stopped(exit) => Ok(Some(exit)),
            from => Err(IllegalMove {
                call: "delete",
                from,
            }),
        }
    }

    /// The exit, once there is one.
    pub fn exit(self) -> Option<Exit> {
        match self {
            Self::Stopped(exit) => Some(exit),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    const EXIT: Exit = Exit {
        code: 3,
        at: UNIX_EPOCH,
    };

    #[test]
    fn moves_are_allowed_or_named() {
        use State::{Created, Creating, Running, Stopped, Stopping};
        let stopped = Stopped(EXIT);
        for (from, start, kill, delete) in [
            (Creating, None, None, None),
            (Created, Some(Running), Some(Stopping), Some(None)),
            (Running, None, Some(Stopping), None),
            (Stopping, None, Some(Stopping), None),
            (stopped, None, None, Some(Some(EXIT))),
        ] {
            assert_eq!(from.start().ok(), start, "start {from}");
            assert_eq!(from.kill().ok(), kill, "kill {from}");
            assert_eq!(from.delete().ok(), delete, "delete {from}");
        }
        assert_eq!(
            Running.start().unwrap_err().to_string(),
            "cannot start a container that is running"
        );
    }

    #[test]
    fn the_first_exit_stays() {
        let later = Exit { code: 9, ..EXIT };
        let stopped = State::Running.exited(EXIT).exited(later);
        assert_eq!(stopped.exit(), Some(EXIT));
    }

    #[test]
    fn signals_ask_what_users_expect() {
        for (signal, expected) in [
            (0, Ask::Nothing),
            (1, Ask::Nothing),
            (2, Ask::Drain),
            (3, Ask::Drain),
            (9, Ask::Kill),
            (15, Ask::Drain),
            (28, Ask::Nothing),
            (37, Ask::Drain),
        ] {
            assert_eq!(ask(signal), expected, "signal {signal}");
        }
        assert_eq!(signal_code(KILL), 137);
        assert_eq!(signal_code(TERM), 143);
        assert_eq!(signal_code(u32::MAX), 255);
    }
}
