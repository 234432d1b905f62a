//! The policy file: what is stored, why and for how long, who gets it, and what rights a person has.

use serde::{Deserialize, Serialize};

/// The policy that `init` writes.
pub const DEFAULT: &str = include_str!("default.toml");

/// The policy, as exports state it.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Who is responsible for the data.
    pub controller: Controller,
    /// What is stored.
    #[serde(rename = "category")]
    pub categories: Vec<Category>,
    /// Who gets it.
    #[serde(default, rename = "recipient")]
    pub recipients: Vec<Recipient>,
    /// What a person may ask for.
    #[serde(rename = "right")]
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
    /// Where to complain.
    pub complaints: String,
}

/// The kinds of data that may exist at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // their texts are in the policy file
pub enum CategoryName {
    Email,
    License,
    ActivationTime,
    AccessRecord,
}

impl CategoryName {
    const ALL: [Self; 4] = [Self::Email, Self::License, Self::ActivationTime, Self::AccessRecord];
}

/// A kind of data.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Category {
    /// Which.
    pub name: CategoryName,
    /// What it is.
    pub what: String,
    /// What it is for.
    pub purpose: String,
    /// What allows it.
    pub legal_basis: String,
    /// For how long.
    pub retention: String,
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
    pub data: Vec<CategoryName>,
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
    /// What is stored must be stated.
    #[error(
        "[[category]] {0:?} is missing: the server stores such data, so the policy must name it"
    )]
    Missing(CategoryName),
    /// It must be stated once.
    #[error("[[category]] {0:?} is there twice; keep one")]
    Twice(CategoryName),
}

impl Policy {
    /// Reads a policy.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let policy: Self = toml::from_str(text)?;
        for name in CategoryName::ALL {
            match policy.categories.iter().filter(|category| category.name == name).count() {
                0 => return Err(PolicyError::Missing(name)),
                1 => {}
                _ => return Err(PolicyError::Twice(name)),
            }
        }
        Ok(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_a_policy() {
        let policy = Policy::parse(DEFAULT).unwrap();
        let recipients: Vec<_> = policy.recipients.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(recipients, ["FastSpring", "ZenDesk", "MailChimp"]);
    }

    #[test]
    fn a_mistake_is_named_with_its_line() {
        let unknown = Policy::parse(&DEFAULT.replace("opt_out", "optout")).unwrap_err();
        assert!(unknown.to_string().contains("optout"), "{unknown}");
        assert!(unknown.to_string().contains("line "), "{unknown}");
        let payment = DEFAULT.replace("name = \"license\"", "name = \"payment\"");
        assert!(Policy::parse(&payment).unwrap_err().to_string().contains("payment"));
    }

    #[test]
    fn what_is_stored_is_stated_once() {
        let start = DEFAULT.find("[[category]]\nname = \"access_record\"").unwrap();
        let end = DEFAULT.find("# With whom").unwrap();
        let (without, section) =
            ([&DEFAULT[..start], &DEFAULT[end..]].concat(), &DEFAULT[start..end]);
        assert!(matches!(
            Policy::parse(&without),
            Err(PolicyError::Missing(CategoryName::AccessRecord))
        ));
        assert!(matches!(
            Policy::parse(&[DEFAULT, section].concat()),
            Err(PolicyError::Twice(CategoryName::AccessRecord))
        ));
    }
}
