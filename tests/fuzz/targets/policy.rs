//! The operator's policy: whatever is in it, it allows nothing that the software does not.

#![no_main]

use std::sync::LazyLock;

use countersign::domain::{Category, Purpose, Role};
use countersign::policy::{DEFAULT, Policy};
use libfuzzer_sys::fuzz_target;

/// All that the software allows.
static ALLOWED: LazyLock<Policy> = LazyLock::new(|| {
    let all = DEFAULT.replace("enabled = false", "enabled = true");
    let policy = Policy::parse(&all).unwrap();
    assert_eq!(policy.categories.len(), Category::ALL.len());
    policy
});

const PURPOSES: [Purpose; 4] = [
    Purpose::CustomerSupport,
    Purpose::AccessRequest,
    Purpose::LicenseAdministration,
    Purpose::FraudPrevention,
];

fuzz_target!(|data: &[u8]| {
    let Ok(text) = str::from_utf8(data) else { return };
    let policy = match Policy::parse(text) {
        Ok(policy) => policy,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    for category in &policy.categories {
        let allowed = ALLOWED.category(category.name).unwrap();
        assert!((1..=allowed.retention_days).contains(&category.retention_days));
    }
    for name in Category::ALL {
        for role in Role::ALL {
            for purpose in PURPOSES {
                let may = policy.may_see(role, purpose, name);
                assert!(!may || ALLOWED.may_see(role, purpose, name));
            }
        }
    }
    assert!(policy.statistics.smallest_group >= 5);
    let stored = |name: &Category| policy.category(*name).is_some();
    assert!(policy.recipients.iter().all(|recipient| recipient.data.iter().all(stored)));
    for needed in Category::ALL.into_iter().filter(|name| *name != Category::Name) {
        assert!(stored(&needed), "only the name is optional");
    }
    policy.hash().unwrap();
});
