//! The operator's file, and how it narrows what the software allows.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::{
    CategoryPolicy, Controller, DualControl, Policy, PolicyError, Recipient, Restriction, Right,
    Statistics,
};
use crate::domain::{Category, Counts, Purpose, RecipientName, Role};

/// The fewest people that a count may be about.
const SMALLEST_GROUP: u32 = 5;

/// What data under restriction may be read for at most (GDPR Art. 18(2)): to answer the person, and
/// for legal claims.
const UNDER_RESTRICTION: [Purpose; 2] = [Purpose::AccessRequest, Purpose::FraudPrevention];

/// The software's side.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Allowed {
    category: Vec<CategoryPolicy>,
    right: Vec<Right>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    controller: ControllerSection,
    #[serde(default)]
    category: BTreeMap<Category, Narrowing>,
    #[serde(default)]
    dual_control: DualControl,
    restriction: Option<Spanned<Restriction>>,
    statistics: Option<StatisticsSection>,
    #[serde(default)]
    recipient: Vec<Spanned<Recipient>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ControllerSection {
    name: Spanned<String>,
    contact: Spanned<String>,
    country: Spanned<String>,
    supervisory_authority: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StatisticsSection {
    smallest_group: Spanned<u32>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Narrowing {
    enabled: Option<Spanned<bool>>,
    retention_days: Option<Spanned<u32>>,
    seen_by: BTreeMap<Role, Spanned<Vec<Purpose>>>,
}

pub(super) fn narrow(allowed: Allowed, text: &str) -> Result<Policy, PolicyError> {
    let mut file: File = toml::from_str(text)?;
    let mut categories = Vec::new();
    for mut category in allowed.category {
        let narrowing = file.category.remove(&category.name).unwrap_or_default();
        if narrow_category(&mut category, &narrowing, text)? {
            categories.push(category);
        }
    }
    let is_stored = |name: &Category| categories.iter().any(|category| category.name == *name);
    let mut recipients: Vec<Recipient> = Vec::new();
    for recipient in file.recipient {
        if RecipientName::parse(&recipient.get_ref().name).is_none() {
            let wrong =
                "the name of this recipient must be 1 to 64 bytes without control characters";
            return Err(rule(text, &recipient, wrong));
        }
        if recipients.iter().any(|other| other.name == recipient.get_ref().name) {
            return Err(rule(text, &recipient, "this recipient is there twice; keep one"));
        }
        let mut recipient = recipient.into_inner();
        recipient.data.retain(is_stored);
        recipients.push(recipient);
    }
    let restriction = match file.restriction {
        Some(restriction) => checked_restriction(restriction, text)?,
        None => Restriction::default(),
    };
    let smallest_group = match file.statistics {
        Some(StatisticsSection { smallest_group })
            if *smallest_group.get_ref() < SMALLEST_GROUP =>
        {
            let text_of_rule = format!(
                "smallest_group must be at least {SMALLEST_GROUP}: a count of fewer tells of persons"
            );
            return Err(rule(text, &smallest_group, text_of_rule));
        }
        Some(StatisticsSection { smallest_group })
            if *smallest_group.get_ref() > Counts::PERSONS_APART =>
        {
            let most = Counts::PERSONS_APART;
            let wrong =
                format!("smallest_group must be at most {most}: no more persons are told apart");
            return Err(rule(text, &smallest_group, wrong));
        }
        Some(StatisticsSection { smallest_group }) => smallest_group.into_inner(),
        None => 2 * SMALLEST_GROUP,
    };
    Ok(Policy {
        controller: checked_controller(file.controller, text)?,
        categories,
        dual_control: file.dual_control,
        restriction,
        statistics: Statistics { smallest_group },
        recipients,
        rights: allowed.right,
    })
}

/// Whether the category is stored at all.
fn narrow_category(
    category: &mut CategoryPolicy,
    narrowing: &Narrowing,
    text: &str,
) -> Result<bool, PolicyError> {
    let name = category.name.name();
    if let Some(days) = &narrowing.retention_days {
        if !(1..=category.retention_days).contains(days.get_ref()) {
            let most = category.retention_days;
            let wider = format!("{name} is kept for at least 1 and at most {most} days");
            return Err(rule(text, days, wider));
        }
        category.retention_days = *days.get_ref();
    }
    for (role, purposes) in &narrowing.seen_by {
        let granted = category.seen_by.entry(*role).or_default();
        if let Some(more) = purposes.get_ref().iter().find(|purpose| !granted.contains(purpose)) {
            let (role, more) = (role.name(), more.name());
            let wider = format!("the software does not let {role} see {name} for {more}");
            return Err(rule(text, purposes, wider));
        }
        granted.clone_from(purposes.get_ref());
    }
    match &narrowing.enabled {
        Some(enabled) if !enabled.get_ref() && !category.optional => {
            Err(rule(text, enabled, format!("{name} cannot be turned off: licenses need it")))
        }
        Some(enabled) => Ok(*enabled.get_ref()),
        None => Ok(!category.optional),
    }
}

/// Whoever gets an answer must be able to see whose it is and where to ask.
fn checked_controller(
    controller: ControllerSection,
    text: &str,
) -> Result<Controller, PolicyError> {
    let said = |field: &str, value: Spanned<String>| {
        if value.get_ref().trim().is_empty() {
            Err(rule(text, &value, format!("{field} of the controller must not be empty")))
        } else {
            Ok(value.into_inner())
        }
    };
    Ok(Controller {
        name: said("name", controller.name)?,
        contact: said("contact", controller.contact)?,
        country: said("country", controller.country)?,
        supervisory_authority: said("supervisory_authority", controller.supervisory_authority)?,
    })
}

fn checked_restriction(
    restriction: Spanned<Restriction>,
    text: &str,
) -> Result<Restriction, PolicyError> {
    let purposes = &restriction.get_ref().purposes;
    match purposes.iter().find(|purpose| !UNDER_RESTRICTION.contains(purpose)) {
        Some(purpose) => {
            let wider = format!("data under restriction cannot be read for {}", purpose.name());
            Err(rule(text, &restriction, wider))
        }
        None => Ok(restriction.into_inner()),
    }
}

fn rule<T>(text: &str, at: &Spanned<T>, rule: impl Into<String>) -> PolicyError {
    let before = text.get(..at.span().start).unwrap_or_default();
    PolicyError::Rule { line: before.matches('\n').count() + 1, rule: rule.into() }
}
