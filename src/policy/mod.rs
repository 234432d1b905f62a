//! The privacy policy: what may be stored, why and for how long, who may see it and who gets it, and
//! what rights a person has.
//!
//! It has two sources. `allowed.toml` is part of the software: `build.rs` refuses a persisted field
//! that it does not allow. The operator's `policy.toml` names the vendor and the recipients, and can
//! only narrow what the software allows.

mod current;
mod file;
pub mod retention;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::domain::{Category, Purpose, Role, Timestamp};

pub use current::CurrentPolicy;

/// The operator's side as `init` writes it.
pub const DEFAULT: &str = include_str!("default.toml");

/// The software's side.
const ALLOWED: &str = include_str!("allowed.toml");

/// The policy that holds: what the software allows, narrowed by the operator.
#[derive(Debug, Clone, Serialize)]
pub struct Policy {
    /// Who is responsible for the data.
    pub controller: Controller,
    /// What is stored. One that is not here is not stored.
    pub categories: Vec<CategoryPolicy>,
    /// What takes two members of staff.
    pub dual_control: DualControl,
    /// What data under restriction may be used for.
    pub restriction: Restriction,
    /// What analytics see.
    pub statistics: Statistics,
    /// Who gets it.
    pub recipients: Vec<Recipient>,
    /// What a person may ask for.
    pub rights: Vec<Right>,
}

/// Who is responsible for the data.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Controller {
    /// The vendor.
    pub name: String,
    /// Where to ask.
    pub contact: String,
    /// Where the vendor, and with it the data, is.
    pub country: String,
    /// Where to complain.
    pub supervisory_authority: String,
}

/// What holds for a kind of data.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CategoryPolicy {
    /// Which.
    pub name: Category,
    /// Whether an operator can do without it.
    #[serde(default, skip_serializing)]
    optional: bool,
    /// What it is.
    pub what: String,
    /// Where it comes from.
    pub source: String,
    /// What it is for.
    pub purpose: String,
    /// What allows it.
    pub legal_basis: String,
    /// For how many days it is kept.
    pub retention_days: u32,
    /// From when on these days count.
    pub retained_from: String,
    /// Which role may see it for which purposes.
    pub seen_by: BTreeMap<Role, Vec<Purpose>>,
}

/// What takes two members of staff.
#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DualControl {
    /// An export.
    pub export: bool,
    /// An erasure.
    pub erasure: bool,
}

impl Default for DualControl {
    fn default() -> Self {
        Self { export: false, erasure: true }
    }
}

/// What data under restriction may be used for.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Restriction {
    /// The purposes it may still be read for.
    pub purposes: Vec<Purpose>,
}

impl Default for Restriction {
    fn default() -> Self {
        Self { purposes: vec![Purpose::AccessRequest] }
    }
}

/// What analytics see.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Statistics {
    /// Counts of fewer persons are not shown.
    pub smallest_group: u32,
}

/// Somebody whom data is shared with.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Recipient {
    /// Who.
    pub name: String,
    /// What for.
    pub purpose: String,
    /// What.
    pub data: Vec<Category>,
    /// Where they are.
    pub country: String,
    /// What protects the data there (GDPR Art. 46).
    pub safeguard: String,
    /// How a person can prevent it.
    pub opt_out: String,
}

/// What a person may ask for.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Right {
    /// Which.
    pub name: String,
    /// How to use it.
    pub how: String,
}

/// Why a text is no policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// Not TOML, or not of the form; says the line.
    #[error("{0}")]
    Form(#[from] toml::de::Error),
    /// More than the software allows, or of no use.
    #[error("line {line}: {rule}")]
    Rule {
        /// Where.
        line: usize,
        /// What is wrong there, and what would be right.
        rule: String,
    },
}

impl Policy {
    /// Reads an operator's file, and narrows what the software allows by it.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        file::narrow(toml::from_str(ALLOWED)?, text)
    }

    /// What holds for a kind of data; `None` where it is not stored.
    pub fn category(&self, name: Category) -> Option<&CategoryPolicy> {
        self.categories.iter().find(|category| category.name == name)
    }

    /// Whether a role may see such data for this purpose.
    pub fn may_see(&self, role: Role, purpose: Purpose, name: Category) -> bool {
        let seen_by = self.category(name).and_then(|category| category.seen_by.get(&role));
        seen_by.is_some_and(|purposes| purposes.contains(&purpose))
    }

    /// Until when data of this kind is kept, if its time counts from `from` on. What the policy does
    /// not let be stored is not kept any longer.
    pub fn kept_until(&self, name: Category, from: Timestamp) -> Timestamp {
        let days = self.category(name).map_or(0, |category| category.retention_days);
        from.plus(Duration::from_secs(u64::from(days) * 24 * 60 * 60))
    }

    /// Names this policy: SHA-256 of its JSON.
    pub fn hash(&self) -> Result<[u8; 32], serde_json::Error> {
        Ok(Sha256::digest(serde_json::to_vec(self)?).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_stores_all_but_names() {
        let policy = Policy::parse(DEFAULT).unwrap();
        let stored: Vec<_> = policy.categories.iter().map(|category| category.name).collect();
        let all_but_name = Category::ALL.into_iter().filter(|name| *name != Category::Name);
        assert_eq!(stored, all_but_name.collect::<Vec<_>>());
        let recipients: Vec<_> = policy.recipients.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(recipients, ["FastSpring", "ZenDesk", "MailChimp"]);
        assert!(policy.recipients.iter().all(|r| !r.data.contains(&Category::Name)));
        assert!(policy.dual_control.erasure);
    }

    #[test]
    fn the_comments_state_the_defaults() {
        let uncommented = DEFAULT.replace("#= ", "");
        let [stated, default] = [&uncommented, DEFAULT].map(|text| Policy::parse(text).unwrap());
        assert_eq!(stated.hash().unwrap(), default.hash().unwrap());
    }

    #[test]
    fn a_role_sees_what_the_policy_gives_it_for_its_purpose() {
        let policy = Policy::parse(DEFAULT).unwrap();
        let support = Purpose::CustomerSupport;
        assert!(policy.may_see(Role::Support, support, Category::ActivationTime));
        assert!(!policy.may_see(Role::Support, Purpose::AccessRequest, Category::ActivationTime));
        assert!(!policy.may_see(Role::Support, support, Category::AccessRecord));
        assert!(!policy.may_see(Role::Issuer, Purpose::LicenseAdministration, Category::Email));
        for (purpose, name) in [(support, Category::Name), (support, Category::Email)] {
            assert!(!policy.may_see(Role::Analytics, purpose, name));
        }
        assert!(!policy.may_see(Role::Support, support, Category::Name), "it is not stored");
    }

    #[test]
    fn an_operator_can_narrow() {
        let narrow = "[category.activation_time]\nretention_days = 30\n\
                      [category.email.seen_by]\nsupport = []\n";
        let policy = Policy::parse(&[DEFAULT, narrow].concat()).unwrap();
        assert_eq!(policy.category(Category::ActivationTime).unwrap().retention_days, 30);
        assert!(!policy.may_see(Role::Support, Purpose::CustomerSupport, Category::Email));
        assert!(policy.may_see(Role::Privacy, Purpose::AccessRequest, Category::Email));
        let default = Policy::parse(DEFAULT).unwrap();
        assert_ne!(policy.hash().unwrap(), default.hash().unwrap());
    }

    #[test]
    fn what_would_widen_is_refused_with_its_line() {
        for (section, named) in [
            ("[category.activation_time]\nretention_days = 731", "at most 730"),
            ("[category.email.seen_by]\nissuer = [\"customer_support\"]", "issuer"),
            ("[category.license.seen_by]\nsupport = [\"access_request\"]", "access_request"),
            ("[category.license.seen_by]\nanalytics = [\"access_request\"]", "analytics"),
            ("[category.license]\nenabled = false", "cannot be turned off"),
            ("[category.license]\nretention_days = 0", "at least 1"),
        ] {
            let error = Policy::parse(&format!("{DEFAULT}\n{section}\n")).unwrap_err().to_string();
            let line = DEFAULT.lines().count() + 3;
            assert!(error.contains(named) && error.contains(&format!("line {line}")), "{error}");
        }
        let small = DEFAULT.replace("smallest_group = 10", "smallest_group = 4");
        let claims =
            DEFAULT.replace("purposes = [\"access_request\"]", "purposes = [\"customer_support\"]");
        let twice = DEFAULT.replace("name = \"ZenDesk\"", "name = \"FastSpring\"");
        for (text, named) in [(small, "at least 5"), (claims, "customer_support"), (twice, "twice")]
        {
            let error = Policy::parse(&text).unwrap_err().to_string();
            assert!(error.contains(named) && error.contains("line "), "{error}");
        }
    }

    #[test]
    fn what_would_be_of_no_use_is_refused_with_its_line() {
        let line = |part: &str| 1 + DEFAULT.lines().position(|line| line.contains(part)).unwrap();
        let recipient = line("name = \"ZenDesk\"") - 1;
        let long = format!("name = \"{}\"", "z".repeat(65));
        for (right, wrong, at, named) in [
            ("\"Example Software\"", "\"\"", line("Example Software"), "name of the controller"),
            ("\"privacy@example.com\"", "\" \"", line("privacy@"), "contact of the controller"),
            ("name = \"ZenDesk\"", long.as_str(), recipient, "1 to 64 bytes"),
            ("name = \"ZenDesk\"", "name = \"\"", recipient, "1 to 64 bytes"),
            ("smallest_group = 10", "smallest_group = 101", line("smallest_group"), "at most 100"),
        ] {
            let error = Policy::parse(&DEFAULT.replace(right, wrong)).unwrap_err().to_string();
            let place = format!("line {at}: ");
            assert!(error.starts_with(&place) && error.contains(named), "{place} {error}");
        }
    }

    #[test]
    fn a_mistake_of_form_is_named_with_its_line() {
        for (right, wrong) in [
            ("opt_out", "optout"),
            ("country = \"Switzerland\"\n", ""),
            ("[category.name]", "[category.payment]"),
            ("\"license\"]", "\"payment\"]"),
        ] {
            let error = Policy::parse(&DEFAULT.replacen(right, wrong, 1)).unwrap_err().to_string();
            assert!(error.contains("line "), "{error}");
        }
    }
}
