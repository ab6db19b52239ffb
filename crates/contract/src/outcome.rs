//! The closed lists of words that metrics, headers, events and conditions use.

/// Defines an enum whose variants each have one word on the wire.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vmeta])* $variant,)+ }

        impl $name {
            /// Every variant, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The word used on the wire, in labels and in headers.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// The variant of a word, if there is one.
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// How a call ended. Every ended call has exactly one outcome.
    Outcome {
        /// The guest answered, whatever its status code.
        Answered = "answered",
        /// The guest trapped, or returned no answer at all.
        Trapped = "trapped",
        /// The guest's JavaScript threw an exception that nobody caught.
        Threw = "threw",
        /// The guest reached its memory limit and then ended without an answer.
        OutOfMemory = "out_of_memory",
        /// The deadline passed before the answer was complete.
        DeadlineExceeded = "deadline_exceeded",
        /// The guest took more processor time than its limit.
        CpuExceeded = "cpu_exceeded",
        /// No place was free within the queue's bounds.
        Overloaded = "overloaded",
        /// The request was larger than the function accepts.
        TooLarge = "too_large",
        /// The answer was larger than the function may send.
        ResponseTooLarge = "response_too_large",
        /// No instance could be made for a reason that is not the guest's call: pool memory, start-up failure.
        Unavailable = "unavailable",
        /// The function's JavaScript cannot be loaded: a syntax error, an exception when it is evaluated, or no handler.
        LoadFailed = "load_failed",
        /// The caller went away first.
        ClientGone = "client_gone",
        /// The engine died with the call in it. Counted by the shim.
        EngineLost = "engine_lost",
    }
}

impl Outcome {
    /// HTTP status that a caller gets when the guest itself did not answer. `None` where a caller is not there.
    pub const fn status(self) -> Option<u16> {
        match self {
            Self::Answered | Self::ClientGone => None,
            Self::Trapped
            | Self::Threw
            | Self::OutOfMemory
            | Self::ResponseTooLarge
            | Self::LoadFailed => Some(500),
            Self::TooLarge => Some(413),
            Self::Overloaded | Self::Unavailable | Self::EngineLost => Some(503),
            Self::DeadlineExceeded | Self::CpuExceeded => Some(504),
        }
    }
}

words! {
    /// What it took to hand a call an instance.
    StartKind {
        /// A warm instance was waiting.
        Hit = "hit",
        /// The artifact was there; an instance was made for the call.
        Instantiate = "instantiate",
        /// The call waited for a compilation.
        Compile = "compile",
        /// The call waited for a pull.
        Pull = "pull",
    }
}

words! {
    /// Why a function cannot serve in a pod. The words are condition reasons: a contract with users.
    FailureReason {
        /// The registry has no such image, or refuses to show it.
        ImageNotFound = "ImageNotFound",
        /// The registry or the network did not answer. Tried again.
        PullFailed = "PullFailed",
        /// The image is a Linux container, or holds no or several .wasm files.
        NotABundle = "NotABundle",
        /// A core module that is no command of WASI preview 1.
        CoreModule = "CoreModule",
        /// The bytes are cut short or no WebAssembly.
        InvalidBundle = "InvalidBundle",
        /// The component imports something that Hearth does not offer; the message names it.
        UnknownImport = "UnknownImport",
        /// The component exports nothing that Hearth could call.
        NoEntryPoint = "NoEntryPoint",
        /// Compiling took more time or memory than allowed.
        CompileLimit = "CompileLimit",
        /// The node could not compile, store or map the artifact, or start the engine. Tried again.
        NodeFault = "NodeFault",
        /// The guest's start-up code failed, so no instance can be kept warm. Tried again.
        StartFailed = "StartFailed",
        /// The function's JavaScript cannot be loaded; the message names file, line and column.
        LoadFailed = "LoadFailed",
        /// Engines ended while they were in its code, again and again. Tried again, each time later.
        Quarantined = "Quarantined",
    }
}

impl FailureReason {
    /// Whether the same bundle may succeed later without anybody changing it.
    pub const fn is_retried(self) -> bool {
        matches!(
            self,
            Self::ImageNotFound
                | Self::PullFailed
                | Self::NodeFault
                | Self::StartFailed
                | Self::CompileLimit
                | Self::Quarantined
        )
    }
}

/// Longest sentence about a failure, in bytes. Names and traces in it may be a guest's choice, and it travels in reports,
/// conditions and events.
pub const SENTENCE_BYTES: usize = 2000;

/// A sentence of at most [`SENTENCE_BYTES`]; a longer one is cut and says so.
pub fn brief(mut sentence: String) -> String {
    const CUT: &str = " … (cut)";
    if sentence.len() > SENTENCE_BYTES {
        let end = sentence.floor_char_boundary(SENTENCE_BYTES - CUT.len());
        sentence.truncate(end);
        sentence.push_str(CUT);
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_sentence_is_cut_between_characters() {
        assert_eq!(brief("short".to_owned()), "short");
        let cut = brief("ä".repeat(5000));
        assert!(
            cut.len() <= SENTENCE_BYTES && cut.ends_with("ä … (cut)"),
            "{cut}"
        );
    }

    #[test]
    fn words_lead_back_to_their_variant() {
        for outcome in Outcome::ALL {
            assert_eq!(Outcome::from_word(outcome.as_str()), Some(*outcome));
        }
        for start in StartKind::ALL {
            assert_eq!(StartKind::from_word(start.as_str()), Some(*start));
        }
        for reason in FailureReason::ALL {
            assert_eq!(FailureReason::from_word(reason.as_str()), Some(*reason));
        }
        assert_eq!(Outcome::from_word("fine"), None);
    }
}
