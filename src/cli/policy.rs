//! `policy check|show`: the privacy policy, before it holds and as it holds.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::json;

use super::directory::Directory;
use super::output::print;
use crate::policy::Policy;

/// Look at the privacy policy.
#[derive(Debug, clap::Subcommand)]
pub(super) enum PolicyCommand {
    /// Say whether a file is a policy that this software can keep to
    Check {
        /// The file
        file: PathBuf,
    },
    /// Print the policy that holds: what the software allows, narrowed by policy.toml
    Show,
}

impl PolicyCommand {
    /// Reads the policy, and prints what was asked.
    pub(super) fn run(self, directory: &Directory, as_json: bool) -> anyhow::Result<()> {
        match self {
            Self::Check { file } => {
                let shown = file.display();
                let text =
                    fs::read_to_string(&file).with_context(|| format!("{shown} cannot be read"))?;
                let policy =
                    Policy::parse(&text).with_context(|| format!("{shown} is not valid"))?;
                let hash = BASE64URL.encode(policy.hash()?);
                print(as_json, &json!({ "valid": true, "policy_hash": hash }), || {
                    format!("{shown} is a policy; its hash is {hash}")
                })?;
            }
            Self::Show => {
                let policy = directory.policy()?;
                let text = toml::to_string_pretty(&policy)?;
                print(as_json, &serde_json::to_value(&policy)?, || text)?;
            }
        }
        Ok(())
    }
}
