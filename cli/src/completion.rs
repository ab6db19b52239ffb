//! `hearth completion SHELL`: what a shell needs to complete this program's words.

use clap::Args;
use clap_complete::Shell;

/// Write what a shell completes with.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  source <(hearth completion bash)
  hearth completion zsh > ~/.zfunc/_hearth
  hearth completion fish > ~/.config/fish/completions/hearth.fish")]
pub(crate) struct Completion {
    /// The shell.
    shell: Shell,
}

impl Completion {
    pub(crate) fn run(self, mut command: clap::Command) {
        clap_complete::generate(self.shell, &mut command, "hearth", &mut std::io::stdout());
    }
}
